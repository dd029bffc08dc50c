"""Records: what they hold, where they lie, and that they change nothing else of a file."""

import getpass
import hashlib
import json
import re
import shutil
import socket
import struct
import tracemalloc
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pictures import noise, png, png_chunks, ramps, seen
from recorded import enlarge, record_in_file
from superfine import __version__, list_models
from superfine.errors import OutputError, ShapeError, SourceError, UsageError
from superfine.footage import open_footage
from superfine.image import open_picture, save_picture
from superfine.provenance import (
    ClipOptions,
    Consistency,
    PixelHash,
    find_record,
    keeps_every_bit,
    keeps_pixels,
    read_text,
    sidecar_of,
    text_of,
    write_clip_record,
    write_sidecar,
)
from superfine.route import Job, Workshops
from superfine.upscale import upscale_path
from superfine.xmp import NAMESPACE
from test_xmp import FOREIGN

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
SUFFIXES = ["png", "jpg", "webp", "avif", "tif", "heic"]


def hash_of(pixels, kind="pixels"):
    """The definition, once more."""
    rows, cols, channels = pixels.shape[-3:]
    head = f"superfine {kind} 1: {rows} {cols} {channels} {pixels.dtype.name}\n".encode()
    return hashlib.sha256(head + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()).hexdigest()


def xmp_by_pillow(path):
    """The packet of a file, by a reader that isn't ours."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 1
            return bytes(file.pages[0].tags[700].value)
    if path.suffix == ".heic":
        import pillow_heif

        return pillow_heif.open_heif(path).info["xmp"]
    with Image.open(path) as image:
        image.load()
        found = image.info["xmp"]
    return found if isinstance(found, bytes) else found.encode()


def record_by_pillow(path):
    tree = fromstring(xmp_by_pillow(path).rstrip(b"\0"))  # noqa: S314 - we wrote it
    (found,) = tree.findall(f"{RDF}RDF/{RDF}Description/{{{NAMESPACE}}}record")
    return found.text


@pytest.fixture
def source(tmp_path):
    """A picture with everything: EXIF, a profile, text, and XMP of somebody."""
    path = tmp_path / "source.png"
    exif = Image.Exif()
    exif[0x010F] = "Camera & Sons"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = b"iTXtXML:com.adobe.xmp" + bytes(5) + FOREIGN
    Image.fromarray(ramps(40, 56)).save(path, exif=exif, icc_profile=profile)
    whole = path.read_bytes()
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    return path


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.png"
    path.write_bytes(png(noise(20, 24, 3)))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_reader_finds_it_and_all_that_was_there(tmp_path, source, suffix):
    output, without = tmp_path / f"with.{suffix}", tmp_path / f"without.{suffix}"
    recorder = enlarge(source, output)
    assert recorder.notes == ()
    assert not sidecar_of(output).exists()
    picture = open_picture(source)
    made = [band.copy() for band in open_picture(source).bands()]
    large = np.concatenate(made).repeat(2, 0).repeat(2, 1)
    save_picture(without, [large], large.shape, large.dtype, like=picture)

    text = record_by_pillow(output)
    assert json.loads(text)["networks"] == []
    assert text == text_of(recorder.record)
    assert record_in_file(output) == recorder.record
    # What was there is there, byte for byte, and else nothing but white space.
    packet = xmp_by_pillow(output)
    assert xmp_by_pillow(without).rstrip(b"\0") == FOREIGN
    end = FOREIGN.index(b"</rdf:RDF>")
    assert packet.startswith(FOREIGN[:end])
    assert packet.rstrip(b"\0").endswith(FOREIGN[end:])
    ours = packet[end : len(packet.rstrip(b"\0")) - len(FOREIGN) + end].decode()
    assert re.fullmatch(
        r"<rdf:Description [^>]*>\s*<superfine:record>[^<>]*</superfine:record>\s*", ours.split("</rdf:D")[0]
    )
    with opened(output) as one, opened(without) as other:
        assert one.info["icc_profile"] == other.info["icc_profile"]
        assert one.getexif()[0x010F] == other.getexif()[0x010F] == "Camera & Sons"


def opened(path):
    if path.suffix == ".heic":
        import pillow_heif

        return pillow_heif.open_heif(path).to_pillow()
    return Image.open(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, "gif"])
def test_pixels_are_the_same_with_it_and_without(tmp_path, source, suffix):
    output, without = tmp_path / f"with.{suffix}", tmp_path / f"without.{suffix}"
    recorder = enlarge(source, output)
    picture = open_picture(source)
    workshop, _ = Workshops(Job(model="bicubic")).suited(source)
    route = workshop.route(picture.shape, picture.dtype, (80, 112), picture.dtype)
    save_picture(without, route.bands(picture.shape, picture.bands()), (80, 112, 3), picture.dtype, like=picture)
    decoded = [np.concatenate(list(open_picture(path).bands())) for path in (output, without)]
    np.testing.assert_array_equal(*decoded)
    record = recorder.record
    assert record.input.sha256 == hash_of(np.asarray(Image.open(source)))
    if record.output.sha256 is not None:
        assert suffix in ("png", "tif", "webp")
        assert record.output.sha256 == hash_of(np.asarray(Image.open(output)))


def test_every_checksum_of_a_png_is_right(tmp_path, source):
    enlarge(source, tmp_path / "out.png")
    whole = (tmp_path / "out.png").read_bytes()
    at, kinds = 8, []
    while at < len(whole):
        length = int.from_bytes(whole[at : at + 4])
        body = whole[at + 4 : at + 8 + length]
        assert whole[at + 8 + length : at + 12 + length] == struct.pack(">I", zlib.crc32(body))
        kinds.append(body[:4])
        at += 12 + length
    assert kinds[-1] == b"IEND"
    assert kinds.count(b"iTXt") == 1
    assert b"reserved" not in whole
    assert png_chunks(whole)[b"iTXt"][0].startswith(b"XML:com.adobe.xmp\0\0\0\0\0<?xpacket")


def test_what_it_says(tmp_path, plain):
    output = tmp_path / "out.png"
    enlarge(plain, output, model="fast-x2", quality=None, psnr=41.23456)
    facts = json.loads(record_by_pillow(output))
    assert set(facts) == {
        *("software", "version", "record", "options", "networks", "input", "output", "consistency", "machine"),
        "earlier",
    }
    assert (facts["software"], facts["version"], facts["record"]) == ("superfine", __version__, 1)
    (network,) = facts["networks"]
    assert network["name"] == "fast-x2"
    assert network["sha256"] == next(model.sha256 for model in list_models() if model.card.name == "fast-x2")
    assert network["precision"] in ("bf16", "fp32")
    assert facts["input"] == {
        "rows": 20,
        "cols": 24,
        "channels": 3,
        "dtype": "uint8",
        "bits": 8,
        "frames": None,
        "sha256": hash_of(noise(20, 24, 3)),
    }
    assert facts["output"]["sha256"] == hash_of(np.asarray(Image.open(output)))
    assert facts["consistency"] == {"operator": "bicubic", "psnr": 41.235, "samples": 0, "misses": 0, "worst": 0.0}
    assert facts["options"]["model"] == "fast-x2"
    assert facts["machine"]["runtime"].startswith("OpenVINO ")
    assert facts["machine"]["numpy"] == np.__version__


@pytest.mark.parametrize("psnr", [None, float("inf")])
def test_a_figure_without_end_is_written_as_none(tmp_path, plain, psnr):
    enlarge(plain, tmp_path / "out.png", psnr=psnr)
    assert json.loads(record_by_pillow(tmp_path / "out.png"))["consistency"]["psnr"] is None


def test_it_tells_no_time_place_or_person(tmp_path, plain):
    texts = []
    for name in ("Anna's scans", "elsewhere"):
        (tmp_path / name).mkdir()
        source = tmp_path / name / f"{name}.png"
        source.write_bytes(plain.read_bytes())
        enlarge(source, tmp_path / name / "out.png", model="fast-x2")
        texts.append(record_by_pillow(tmp_path / name / "out.png"))
    assert texts[0] == texts[1]
    words = [str(tmp_path), tmp_path.name, "Anna", "scans", "plain", "out.png", socket.gethostname()]
    words += [getpass.getuser()] if getpass.getuser() != "root" else []
    for word in words:
        assert word not in texts[0]
    assert "/" not in texts[0]
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", texts[0])


def test_a_network_by_its_file_is_named_by_its_card(tmp_path, plain):
    model = next(model for model in list_models() if model.card.name == "fast-x2")
    (tmp_path / "secret name.onnx").write_bytes(model.content)
    recorder = enlarge(plain, tmp_path / "out.png", model=str(tmp_path / "secret name.onnx"))
    assert recorder.record.options.model == "fast-x2"
    assert "secret" not in text_of(recorder.record)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_hash_of_pixels_is_what_it_is_said_to_be(tmp_path, dtype, channels):
    pixels = noise(37, 11, channels, dtype)
    bands = (pixels[:7], pixels[7:8], pixels[8:])
    assert PixelHash.of(pixels.shape, pixels.dtype, bands).hexdigest == hash_of(pixels)
    assert PixelHash.of(pixels.shape, pixels.dtype, [np.asfortranarray(pixels)]).hexdigest == hash_of(pixels)
    path = tmp_path / "a.tif"
    kept = {} if channels in (1, 3) else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, pixels.squeeze(), photometric="rgb" if channels > 2 else "minisblack", **kept)
    picture = open_picture(path)
    if picture.shape == pixels.shape:
        assert PixelHash.of(picture.shape, picture.dtype, picture.bands(5)).hexdigest == hash_of(pixels)


def test_the_hash_sees_pixels_and_nothing_else_of_a_file(tmp_path, source):
    pixels = np.asarray(Image.open(source))
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw")
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(pixels[:, :, ::-1]).save(tmp_path / "b.png")
    Image.fromarray(pixels.reshape(56, 40, 3)).save(tmp_path / "c.png")
    found = {}
    for path in (source, *(tmp_path / name for name in ("a.tif", "a.webp", "b.png", "c.png"))):
        picture = open_picture(path)
        found[path.name] = PixelHash.of(picture.shape, picture.dtype, picture.bands()).hexdigest
    assert found["source.png"] == found["a.tif"] == found["a.webp"] == hash_of(pixels)
    assert len(set(found.values())) == 3
    assert PixelHash.of((2, 2, 1), np.dtype(">u2"), [np.full((2, 2, 1), 258, ">u2")]).hexdigest == hash_of(
        np.full((2, 2, 1), 258, np.uint16)
    )


def test_rows_that_dont_fit_have_no_hash():
    made = PixelHash((4, 5, 3), np.dtype(np.uint8))
    with pytest.raises(ShapeError, match="0 rows"):
        _ = made.hexdigest
    made.add(np.zeros((3, 5, 3), np.uint8))
    with pytest.raises(ShapeError, match="3 rows were heard of 4"):
        _ = made.hexdigest
    for wrong in (np.zeros((1, 4, 3), np.uint8), np.zeros((1, 5, 3), np.uint16)):
        with pytest.raises(ShapeError, match="want rows"):
            made.add(wrong)


def test_a_turned_picture_is_hashed_as_it_is_stored(tmp_path):
    pixels = noise(20, 24, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    record = enlarge(tmp_path / "turned.png", tmp_path / "out.png", upright=True).record
    assert (record.input.rows, record.input.cols, record.input.sha256) == (20, 24, hash_of(pixels))
    assert (record.output.rows, record.output.cols) == (48, 40)
    assert record.options.turned
    assert record.output.sha256 == hash_of(np.asarray(Image.open(tmp_path / "out.png")))


def test_float_pictures_with_their_own_white(tmp_path):
    pixels = noise(9, 8, 3, np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels * np.float32(100), photometric="rgb")
    record = enlarge(tmp_path / "a.tif", tmp_path / "out.tif", white=100.0).record
    assert record.output.sha256 is None  # multiplied by 100, and divided again
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb")
    record = enlarge(tmp_path / "b.tif", tmp_path / "out.tif").record
    assert record.output.sha256 == hash_of(tifffile.imread(tmp_path / "out.tif"))


@pytest.mark.parametrize(
    ("name", "white", "keeps", "bits"),
    [
        ("out.tif", 1.0, True, True),
        ("out.tif", 4000.0, True, False),
        ("out.tif", 1e-3, True, False),
        ("out.tif", 1e-40, False, False),  # a float32 that small has few digits left
        ("out.tif", 1e38, False, False),  # and one beyond the largest has none
        ("out.jpg", 4000.0, False, False),
    ],
)
def test_which_float_files_keep_their_pixels(tmp_path, name, white, keeps, bits):
    pixels = noise(64, 64, 1, np.float32)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", pixels * np.float32(white))
    picture = open_picture(tmp_path / "a.tif", white=white, bounded=False)
    asked = (picture, tmp_path / name, (64, 64, 1), np.dtype(np.float32), None)
    assert (keeps_pixels(*asked), keeps_every_bit(*asked)) == (keeps, bits)
    if keeps:
        save_picture(tmp_path / name, [pixels[..., None]], (64, 64, 1), pixels.dtype, like=picture)
        back = np.concatenate(list(open_picture(tmp_path / name, white=white, bounded=False).bands()))[..., 0]
        apart = np.abs(back.astype(float) - pixels.astype(float))
        assert apart.max() <= (0 if bits else 1e-6)


# ---- where it lies


def test_what_holds_no_xmp_has_it_beside(tmp_path, source):
    output = tmp_path / "out.gif"
    recorder = enlarge(source, output)
    (words,) = recorder.notes
    assert "out.gif.superfine.json" in words
    assert "GIF holds no XMP" in words
    assert (tmp_path / "out.gif.superfine.json").read_text() == text_of(recorder.record) + "\n"
    found = find_record(output)
    assert (found.text, found.place) == (text_of(recorder.record), tmp_path / "out.gif.superfine.json")


@pytest.mark.parametrize(
    ("suffix", "packet"),
    [
        *((suffix, FOREIGN[:-400]) for suffix in ("png", "jpg", "webp", "tif")),
        ("png", FOREIGN.decode().encode("utf-16")),
        ("png", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
    ],
)
def test_a_packet_that_cant_be_added_to_stays_and_it_lies_beside(tmp_path, plain, suffix, packet):
    from superfine.pngchunks import append_chunks, xmp_chunk

    append_chunks(plain, [xmp_chunk(packet)])
    output = tmp_path / f"out.{suffix}"
    recorder = enlarge(plain, output)
    (words,) = recorder.notes
    assert f"out.{suffix}.superfine.json: of the source, its XMP" in words
    assert xmp_by_pillow(output).rstrip(b"\0") == packet.rstrip(b"\0")
    assert record_in_file(output) == recorder.record
    sidecar_of(output).unlink()
    with pytest.raises(UsageError, match=r"holds no record that can be found, since its XMP .* give its record"):
        find_record(output)


def test_more_than_jpeg_holds_goes_beside(tmp_path, plain):
    from superfine.pngchunks import append_chunks, xmp_chunk

    big = FOREIGN.replace(b" " * 200, b" " * 59_000)
    append_chunks(plain, [xmp_chunk(big)])
    recorder = enlarge(plain, tmp_path / "out.jpg")
    assert "over the 60,000 of JPEG" in recorder.notes[0]
    assert xmp_by_pillow(tmp_path / "out.jpg") == big
    assert record_in_file(tmp_path / "out.jpg") == recorder.record
    assert enlarge(plain, tmp_path / "out.webp").notes == ()


def test_what_the_encoder_leaves_out_goes_beside(tmp_path, plain):
    """The packet isn't in the file."""
    picture = open_picture(plain)
    workshop, _ = Workshops(Job(model="nearest")).suited(plain)
    route = workshop.route(picture.shape, picture.dtype, (40, 48), picture.dtype)
    from superfine.provenance import Recorder

    recorder = Recorder(workshop, route, picture, tmp_path / "out.png")
    rows = recorder.made_rows(route.bands(picture.shape, recorder.given_rows(picture.bands())))
    save_picture(tmp_path / "out.png", rows, (40, 48, 3), picture.dtype, like=picture, seal=recorder.seal)
    assert "left the XMP out" in recorder.notes[0]
    assert record_in_file(tmp_path / "out.png") == recorder.record


def test_new_pixels_lose_the_record_of_the_old_ones(tmp_path, source):
    enlarge(source, tmp_path / "first.png")
    picture = open_picture(tmp_path / "first.png")
    pixels = np.concatenate(list(picture.bands()))[::-1]
    save_picture(tmp_path / "second.png", [pixels], picture.shape, picture.dtype, like=picture)
    assert find_record(tmp_path / "second.png") is None
    assert xmp_by_pillow(tmp_path / "second.png") == FOREIGN


def test_what_made_the_source_is_kept(tmp_path, plain):
    records = []
    path = plain
    for number in range(3):
        output = tmp_path / f"{number}.png"
        records.append(enlarge(path, output, model=("nearest", "bilinear", "bicubic")[number]).record)
        path = output
    found = record_in_file(path)
    assert [one.options.model for one in found.earlier] == ["bilinear", "nearest"]
    assert found.earlier == (replace(records[1], earlier=()), records[0])
    assert found.input.sha256 == found.earlier[0].output.sha256
    assert xmp_by_pillow(path).count(b":record>") == 2


def test_the_figure_that_comes_last_is_in_time(tmp_path, plain):
    """The encoder has all rows before whoever makes them comes to its end: `conclude` is called after that."""
    recorder = enlarge(plain, tmp_path / "out.png", psnr=12.5)
    assert record_in_file(tmp_path / "out.png").consistency == Consistency(operator="bicubic", psnr=12.5)
    assert recorder.record.consistency.psnr == 12.5


def test_where_rows_fail_nothing_is_written(tmp_path, plain):
    from superfine.provenance import Recorder

    picture = open_picture(plain)
    workshop, _ = Workshops(Job(model="nearest")).suited(plain)
    route = workshop.route(picture.shape, picture.dtype, (40, 48), picture.dtype)
    recorder = Recorder(workshop, route, picture, tmp_path / "out.gif")

    def rows():
        yield from route.bands(picture.shape, recorder.given_rows(picture.bands()))
        raise OSError(28, "the figure failed")

    with pytest.raises(OutputError, match="the figure failed"):
        save_picture(
            tmp_path / "out.gif",
            recorder.made_rows(rows()),
            (40, 48, 3),
            picture.dtype,
            like=picture,
            seal=recorder.seal,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.png"]


def test_a_sidecar_that_cant_be_written_stops_the_picture(tmp_path, plain):
    (tmp_path / "out.gif.superfine.json").mkdir()
    with pytest.raises(OutputError, match=r"out\.gif\.superfine\.json: can't be written"):
        enlarge(plain, tmp_path / "out.gif")
    assert not (tmp_path / "out.gif").exists()


@pytest.mark.parametrize(("suffix", "wishes"), [("gif", {"provenance": False}), ("png", {})])
def test_the_record_of_what_was_there_before_goes(tmp_path, plain, suffix, wishes):
    """Also where the new one is inside of the file."""
    output = tmp_path / f"out.{suffix}"
    before = enlarge(plain, tmp_path / "before.gif").record
    write_sidecar(output, before)
    report = upscale_path(plain, output, job=Job(model="nearest", **wishes), overwrite=True)
    assert not report.failed, report.failed
    assert not sidecar_of(output).exists()


def test_two_records_in_one_file_are_refused(tmp_path, plain):
    from superfine.pngchunks import append_chunks, text_chunks

    enlarge(plain, tmp_path / "one.png")
    enlarge(plain, tmp_path / "two.png", model="nearest")
    append_chunks(tmp_path / "one.png", list(text_chunks(tmp_path / "two.png")))
    with pytest.raises(SourceError, match="holds 2 records"):
        find_record(tmp_path / "one.png")


def test_many_packets_of_xmp_arent_held_at_once(tmp_path, plain):
    from superfine.pngchunks import append_chunks

    packet = b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' + b" " * 8_000_000 + b"</r:RDF>"
    body = b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    shutil.copy(plain, tmp_path / "many.png")
    append_chunks(tmp_path / "many.png", [chunk] * 40)
    tracemalloc.start()
    with pytest.raises(UsageError, match="more than 16 packets of XMP"):
        find_record(tmp_path / "many.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6, peak


def test_the_record_inside_counts_before_one_beside(tmp_path, plain):
    record = enlarge(plain, tmp_path / "out.png").record
    write_sidecar(tmp_path / "out.png", replace(record, version="0"))
    assert record_in_file(tmp_path / "out.png") == record


def test_the_present_folder_has_one_too(tmp_path, monkeypatch, plain):
    (tmp_path / "frames").mkdir()
    monkeypatch.chdir(tmp_path / "frames")
    assert sidecar_of(Path()) == tmp_path / "frames.superfine.json"
    assert sidecar_of(Path("/")) == Path("/.superfine.json")


def test_without_a_record_there_is_none(tmp_path, source):
    assert find_record(source) is None


# ---- texts


@pytest.fixture
def record(tmp_path, plain):
    return enlarge(plain, tmp_path / "some.png", model="fast-x2").record


def test_text_and_record_are_the_same_thing(record):
    text = text_of(record)
    assert read_text(text) == record
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text
    wild = replace(record, options=replace(record.options, model="<&>\"' é \U0001f319"))
    assert text_of(wild).isascii()
    assert not set("<&>") & set(text_of(wild))
    assert read_text(text_of(wild)) == wild


CLIP = '{{"codec":"h264","crf":null,"damaged":"stop","end":null,"interlaced":"no","rate":null,"start":"{}"}}'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"record":1', '"record":2', "layout is '2', and this version reads 1"),
        ('"software":"superfine"', '"software":7', "software can't be '7'"),
        ('"software":"superfine"', '"software":"' + "x" * 201 + '"', "software can't be"),
        ('"software":"superfine"', '"software":"' + "x" * 70_000 + '"', "70,"),
        ('"software":"superfine"', '"software":"\\u001b[2J"', "software can't be"),
        ('"software":"superfine"', '"software":"superfine","more":1', "laid out as it should be: more"),
        ('"software":"superfine",', "", "laid out as it should be: software"),
        ('"rows":20', '"rows":-1', "rows can't be '-1'"),
        ('"rows":20', '"rows":2e1', "rows can't be"),
        ('"rows":20', '"rows":true', "rows can't be"),
        ('"rows":20', '"rows":99999999999999999999', "rows can't be"),
        ('"dtype":"uint8"', '"dtype":"int64"', "dtype can't be"),
        ('"sha256":"', '"sha256":"G', "sha256 can't be"),
        ('"sha256":"', '"sha256":null,"x":"', "laid out"),
        ('"psnr":40.0', '"psnr":NaN', "NaN is no number"),
        ('"psnr":40.0', '"psnr":1e999', "psnr can't be"),
        ('"psnr":40.0', '"psnr":"40"', "psnr can't be"),
        ('"ensemble":false', '"ensemble":0', "ensemble can't be"),
        ('"white":null', '"white":0', "white can't be '0'"),
        ('"white":null', '"white":5e-324', "white can't be"),
        ('"clip":null', '"clip":' + CLIP.format("1e99999999"), "start can't be '1e99999999'"),
        ('"clip":null', '"clip":' + CLIP.format("1/0"), "start can't be '1/0'"),
        ('"networks":[', '"networks":[' + "1," * 20, "networks is no list of at most 16"),
        ('"networks":[', '"networks":[7,', "networks isn't laid out"),
        ('"earlier":[]', '"earlier":{}', "earlier is no list"),
        ('"earlier":[]', '"earlier":' + "[" * 20_000 + "]" * 20_000, "JSON|earlier"),
        ('"input":{', '"input":[{', "JSON"),
        ('"record":1', '"record": 1', "isn't written as superfine writes it"),
        ('"record":1', '"record":1,"record":1', "isn't written as superfine writes it"),
    ],
)
def test_what_isnt_a_record_is_refused(record, old, new, words):
    text = text_of(record)
    assert old in text
    with pytest.raises(ValueError, match=re.escape(words) if "|" not in words else words):
        read_text(text.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "1", '"x"', "{", "\x00"])
def test_nor_is_what_isnt_even_an_object(text):
    with pytest.raises(ValueError, match="JSON|laid out"):
        read_text(text)


def test_records_within_earlier_ones_are_refused(record):
    inner = replace(record, earlier=(record,))
    assert read_text(text_of(inner)) == inner
    with pytest.raises(ValueError, match="earlier records"):
        read_text(text_of(replace(record, earlier=(inner,))))
    with pytest.raises(ValueError, match="earlier records"):
        read_text(text_of(replace(record, earlier=(record,) * 9)))


# ---- clips


def test_a_clip_has_its_record_beside(tmp_path):
    frames = np.stack([noise(16, 20, 3, levels=200 + number) for number in range(4)])
    for number, frame in enumerate(frames):
        (tmp_path / "shots").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "shots" / f"{number:03d}.png")
    clip = open_footage(tmp_path / "shots")
    workshop, _ = Workshops(Job(model="bicubic", start=Fraction(1, 25), as_clip=True)).suited(
        tmp_path / "shots/000.png"
    )
    route = workshop.clip_route(clip.shape, clip.dtype, (32, 40), 0)
    (tmp_path / "large").mkdir()
    for output in (tmp_path / "large", tmp_path / "large.mp4", tmp_path / "other" / "%03d.png"):
        output.parent.mkdir(exist_ok=True)
        seen = PixelHash(clip.shape, clip.dtype, clip=True)
        if output.name == "large":  # one run saw all, of the others an earlier one did
            for frame in frames[1:]:
                seen.add(frame)
        write_clip_record(workshop, route, clip, output, "png", given=seen, consistency=None)
    assert (tmp_path / "large.superfine.json").is_file()
    assert (tmp_path / "other.superfine.json").is_file()
    record = read_text((tmp_path / "large.mp4.superfine.json").read_text().strip())
    assert record.input.sha256 == hash_of(frames[1:], "frames")
    assert read_text((tmp_path / "large.superfine.json").read_text().strip()).input == record.input
    assert (record.input.frames, record.output.frames) == (3, 3)
    assert (record.output.rows, record.output.cols, record.output.sha256) == (32, 40, None)
    assert record.options.clip == ClipOptions(
        codec="png", crf=None, start="1/25", end=None, rate=None, damaged="stop", interlaced="deinterlace"
    )
    assert record_in_file(tmp_path / "large") == record


def test_a_mean_of_readers(tmp_path, source):
    """Pictures look the same to Pillow as to us, with the record in."""
    enlarge(source, tmp_path / "out.png")
    np.testing.assert_array_equal(
        seen(tmp_path / "out.png"), np.concatenate(list(open_picture(tmp_path / "out.png").bands()))
    )
