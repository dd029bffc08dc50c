"""What survives besides the pixels; Pillow is the witness."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from memory import measured, peak_megabytes
from pictures import Array, chunk, doubled, enlarged, noise, png, png_chunks, ramps, seen, with_bytes
from superfine.errors import MissingExtraError, OutputError, ShapeError, SourceError, TooLargeError, UsageError
from superfine.exif import add_to_tiff, exif_block, pack_exif, tiff_block
from superfine.image import codecs, format_of, open_picture, save_picture

pillow_heif.register_heif_opener()

KINDS = [".jpg", ".png", ".webp", ".tif", ".avif", ".heic"]
SIZE = (24, 40)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
MAKER_NOTE = bytes(range(7, 90))
EXIF, GPS = 0x8769, 0x8825


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x013B], tags[0x0132], tags[0x010F] = orientation, "A. Person", "2020:01:02 03:04:05", "Maker"
    tags.get_ifd(EXIF).update({0xA002: SIZE[1], 0xA003: SIZE[0], 0x927C: MAKER_NOTE, 0x829A: (1, 200)})
    tags.get_ifd(GPS).update({1: "N", 2: (47.0, 22.0, 30.5)})
    return tags


def tagged(path: Path, orientation: int = 1) -> Path:
    """A picture with everything that its format can carry."""
    given: dict[str, Any] = {"exif": exif(orientation), "icc_profile": ICC, "xmp": XMP, "dpi": (300, 300)}
    match path.suffix:
        case ".jpg":
            given |= {"quality": 98, "subsampling": 0}
        case ".webp":
            given |= {"lossless": True}
        case ".avif":
            given |= {"quality": 98}
        case ".heic":  # what the tag of HEIC says is void: the file itself turns its picture
            given |= {"quality": 98, "exif": exif(1)}
        case ".png":
            text = PngImagePlugin.PngInfo()
            text.add_text("Author", "Bj\xf6rk")
            text.add_text("Comment", "long " * 99, zip=True)
            text.add_itxt("Title", "\u5c0f\u3055\u306a\u7d75", lang="ja")
            text.add_itxt("XML:com.adobe.xmp", XMP.decode())
            given |= {"pnginfo": text}
        case ".tif":
            turned = Image.Exif()
            turned[0x0112] = orientation
            given = {"icc_profile": ICC, "dpi": (300, 300), "compression": "tiff_lzw", "exif": turned}
    Image.fromarray(ramps(*SIZE)).save(path, **given)
    if path.suffix == ".tif":  # Pillow writes no directories into TIFF, but reads them
        add_to_tiff(path, exif_block(exif(orientation).tobytes()))
    return path


def facts(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        image.load()
        tags = image.getexif()
        inner = tags.get_ifd(EXIF)
        xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp", b""))
        return {
            "artist": tags.get(0x013B),
            "date": tags.get(0x0132),
            "maker": tags.get(0x010F),
            "exposure": inner.get(0x829A),
            "note": inner.get(0x927C),
            "gps": dict(tags.get_ifd(GPS)),
            "icc": image.info.get("icc_profile"),
            "xmp": xmp.encode() if isinstance(xmp, str) else xmp,
        }


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_metadata_survives(tmp_path: Path, kind: str, to: str) -> None:
    source = tagged(tmp_path / f"a{kind}")
    output = enlarged(source, tmp_path / f"b{to}")
    before, after = facts(source), facts(output)
    assert before["artist"] == "A. Person"
    assert before["note"] == MAKER_NOTE
    if kind == ".tif":
        before["xmp"] = after["xmp"] = b""  # Pillow's TIFF has none here
    assert after == before
    with Image.open(output) as image:
        inner = image.getexif().get_ifd(EXIF)
        assert (inner[0xA002], inner[0xA003]) == (2 * SIZE[1], 2 * SIZE[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "to"),
    [
        *((kind, kind) for kind in KINDS[:4]),
        *((".jpg", to) for to in KINDS[1:]),
        (".png", ".jpg"),
        (".avif", ".avif"),
        (".avif", ".png"),
    ],
)
def test_viewers_see_it_upright(tmp_path: Path, kind: str, to: str, orientation: int) -> None:
    source = tagged(tmp_path / f"a{kind}", orientation)
    before = seen(source)
    assert (before.shape[0] > before.shape[1]) == (orientation > 4)
    output = enlarged(source, tmp_path / f"b{to}")
    after = seen(output)
    assert after.shape == doubled(before).shape
    assert np.abs(after.astype(int) - doubled(before)).mean() < 3
    if kind == to and kind != ".avif":
        with Image.open(source) as first, Image.open(output) as second:
            assert second.getexif().get(0x0112, 1) == first.getexif().get(0x0112, 1)


@pytest.mark.parametrize("to", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_is_as_seen(tmp_path: Path, orientation: int, to: str) -> None:
    source = tagged(tmp_path / "a.jpg", orientation)
    size = (100, 60) if orientation > 4 else (60, 100)
    assert seen(enlarged(source, tmp_path / f"b{to}", model="bicubic", size=size)).shape == (*size, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_turned_pictures_carry_no_thumbnail(tmp_path: Path, orientation: int) -> None:
    """A thumbnail that lies on its side is worse than none."""
    source = tagged(tmp_path / "a.jpg", orientation)
    with Image.open(enlarged(source, tmp_path / "b.png")) as image:
        assert not image.getexif().get_ifd(1)


@pytest.mark.parametrize(
    ("kind", "to"), [(".jpg", ".jpg"), (".png", ".png"), (".tif", ".tif"), (".jpg", ".png"), (".png", ".tif")]
)
@pytest.mark.parametrize("scale", [1.5, 2, 3])
def test_size_in_print_stays(tmp_path: Path, kind: str, to: str, scale: float) -> None:
    output = enlarged(tagged(tmp_path / f"a{kind}"), tmp_path / f"b{to}", scale=scale)
    with Image.open(output) as image:
        assert image.info["dpi"] == pytest.approx((300 * scale, 300 * scale), rel=1e-3)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".tif"])
def test_unsaid_density_counts_as_72(tmp_path: Path, kind: str) -> None:
    Image.fromarray(ramps()).save(tmp_path / f"a{kind}")
    with Image.open(enlarged(tmp_path / f"a{kind}", tmp_path / "b.jpg")) as image:
        assert image.info["dpi"] == pytest.approx((144, 144), abs=0.5)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".avif", ".tif"])
def test_nothing_is_made_up(tmp_path: Path, kind: str) -> None:
    Image.fromarray(ramps()).save(tmp_path / f"a{kind}")
    with Image.open(enlarged(tmp_path / f"a{kind}")) as image:
        assert kind == ".jpg" or "exif" not in image.info
        assert "icc_profile" not in image.info


def test_png_text_is_kept_to_the_byte(tmp_path: Path) -> None:
    source = tagged(tmp_path / "a.png")
    before, after = png_chunks(source.read_bytes()), png_chunks(enlarged(source).read_bytes())
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        assert sorted(after[kind]) == sorted(before[kind])


def test_png_text_after_the_pixels(tmp_path: Path) -> None:
    whole = png(noise(5, 7, 3))
    source = with_bytes(tmp_path / "a.png", whole[:-12] + chunk(b"tEXt", b"Comment\0late") + whole[-12:])
    assert png_chunks(enlarged(source).read_bytes())[b"tEXt"] == [b"Comment\0late"]


@pytest.mark.parametrize("big", [False, True], ids=["classic", "BigTIFF"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_any_tiff(tmp_path: Path, order: Any, big: bool) -> None:
    """Tags that tifffile writes are the tags that Pillow reads from our JPEG."""
    tags = [(315, 2, 0, "A. Person", True), (271, 2, 0, "Maker", True), (33432, 2, 0, "(c) 2020", True)]
    tifffile.imwrite(
        tmp_path / "a.tif", ramps(), photometric="rgb", byteorder=order, bigtiff=big, extratags=tags, metadata=None
    )
    with Image.open(enlarged(tmp_path / "a.tif", tmp_path / "b.jpg")) as image:
        assert {tag: image.getexif()[tag] for tag, *_ in tags} == {tag: text for tag, _, _, text, _ in tags}


@pytest.mark.parametrize("big", [False, True], ids=["classic", "BigTIFF"])
def test_tags_are_added_to_a_tiff(tmp_path: Path, big: bool) -> None:
    pixels = noise(9, 13, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", bigtiff=big)
    add_to_tiff(tmp_path / "a.tif", exif_block(exif(1).tobytes()))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        assert tags["Artist"].value == "A. Person"
        assert tags["ExifTag"].value["PixelXDimension"] == SIZE[1]
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
    assert tiff_block(tmp_path / "a.tif").keys() >= {315, 306, 271, EXIF, GPS}


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_repacked(order: str) -> None:
    tags = exif(6)
    tags.endian = order
    again = Image.Exif()
    again.load(pack_exif(exif_block(tags.tobytes())))
    assert {tag: value for tag, value in again.items() if tag not in (EXIF, GPS)} == dict(tags)
    assert dict(again.get_ifd(EXIF)) == dict(tags.get_ifd(EXIF))
    assert dict(again.get_ifd(GPS)) == dict(tags.get_ifd(GPS))


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_broken_exif_is_read_as_far_as_it_goes(cut: int) -> None:
    whole = exif(1).tobytes()
    pack_exif(exif_block(whole[:cut]))
    rng = np.random.default_rng(cut)
    wrong = bytearray(whole)
    for place in rng.integers(6, len(whole), 8):
        wrong[place] = rng.integers(256)
    pack_exif(exif_block(bytes(wrong)))


# ---- the functions themselves


def save(path: Path, pixels: Array, like: Path, bands: Any = None) -> None:
    rows, cols, channels = pixels.shape
    save_picture(
        path, [pixels] if bands is None else bands, (rows, cols, channels), pixels.dtype, like=open_picture(like)
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return with_bytes(tmp_path / "small.png", png(noise(5, 7, 3)))


@pytest.mark.parametrize("rows", [1, 7, 100, 256, 999])
@pytest.mark.parametrize("strip", [1, 7, 100, 333, None], ids=lambda strip: f"strip {strip}" if strip else "tiles")
def test_rows_of_any_strips(tmp_path: Path, strip: int | None, rows: int) -> None:
    pixels = noise(700, 40, 3)
    layout = {"tile": (48, 48)} if strip is None else {"rowsperstrip": strip}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **layout)
    np.testing.assert_array_equal(np.concatenate(list(open_picture(tmp_path / "a.tif").bands(rows))), pixels)


@pytest.mark.parametrize("heights", [[600], [1] * 600, [7, 0, 593], [256, 256, 88]])
def test_bands_of_any_height(tmp_path: Path, small: Path, heights: list[int]) -> None:
    pixels = noise(600, 5, 3)
    save(tmp_path / "b.png", pixels, small, np.split(pixels, np.cumsum(heights)[:-1]))
    np.testing.assert_array_equal(seen(tmp_path / "b.png"), pixels)
    bands = list(open_picture(tmp_path / "b.png").bands(rows=100))
    assert [len(band) for band in bands] == [100] * 6
    np.testing.assert_array_equal(np.concatenate(bands), pixels)


@pytest.mark.parametrize(
    "bands",
    [[], [noise(4, 5, 3)], [noise(6, 6, 3)], [noise(6, 5, 4)], [noise(6, 5, 3, np.uint16)]],
    ids=["none", "too few", "too wide", "alpha", "too deep"],
)
def test_bands_that_do_not_fit(tmp_path: Path, small: Path, bands: list[Array]) -> None:
    with pytest.raises(ShapeError, match=r"want rows of \(5, 3\) uint8 up to 6, got"):
        save(tmp_path / "b.png", noise(6, 5, 3), small, bands)
    assert not (tmp_path / "b.png").exists()


def test_errors_of_bands_pass_through(tmp_path: Path, small: Path) -> None:
    def bands() -> Any:
        yield noise(3, 5, 3)
        raise SourceError("the source broke off")

    with pytest.raises(SourceError, match="the source broke off"):
        save(tmp_path / "b.tif", noise(6, 5, 3), small, bands())
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.png"]


def test_unknown_ending() -> None:
    with pytest.raises(UsageError, match=r"x\.bmp: superfine doesn't write \.bmp; it writes \.png .* \.heif"):
        format_of(Path("x.bmp"))
    with pytest.raises(UsageError, match="a name without an ending"):
        format_of(Path("x"))


@pytest.mark.parametrize("name", ["x.PNG", "x.JPeG", "x.y.TIF"])
def test_endings_of_any_case(name: str) -> None:
    assert format_of(Path(name)).name in ("png", "jpeg", "tiff")


def test_codecs_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(state.startswith("ready") for state in codecs().values())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert codecs()["heic"] == str(MissingExtraError("HEIC", "heif"))


@pytest.mark.parametrize(
    "name", ["a[1].png", "a b.png", "\u00e4\u5c0f.png", "a\nb.png", "-a.png", "%d.png", "a'\".png"]
)
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    pixels = noise(5, 7, 3)
    source = with_bytes(tmp_path / name, png(pixels))
    for output in (f"out {name}", f"out {name}.tif", f"out {name}.webp"):
        np.testing.assert_array_equal(seen(enlarged(source, tmp_path / output)), doubled(pixels))


def test_names_that_are_no_text(tmp_path: Path, small: Path) -> None:
    """Old disks have names in Latin-1; Python carries their bytes through."""
    path = tmp_path / "gr\udcfc\udcdf.png"
    save(path, noise(5, 7, 3), small)
    np.testing.assert_array_equal(np.concatenate(list(open_picture(path).bands())), noise(5, 7, 3))


# ---- sources that change under the hand


def other(path: Path, how: str) -> None:
    match how:
        case "gone":
            path.unlink()
        case "text":
            path.write_bytes(b"This is not a picture.")
        case "size":
            path.write_bytes(png(noise(6, 7, 3)))
        case "depth":
            path.write_bytes(png(noise(5, 7, 3), bits=16))
        case "cut":
            path.write_bytes(path.read_bytes()[:90])


CHANGES = {
    "gone": "can't be read: No such file or directory",
    "text": "not a picture that superfine reads",
    "size": "isn't the picture that it was a moment ago",
    "depth": "isn't the picture that it was a moment ago",
    "cut": "damaged or cut off: ",
}


@pytest.mark.parametrize("how", CHANGES)
def test_changed_before_its_rows_are_read(small: Path, how: str) -> None:
    picture = open_picture(small)
    other(small, how)
    with pytest.raises(SourceError, match=f"^{re.escape(str(small))}: {CHANGES[how]}[^\n]*$"):
        list(picture.bands())


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_changed_before_the_output_is_whole(tmp_path: Path, kind: str, how: str) -> None:
    """What was read at first is written; only the text of a PNG is fetched last, and then missed in one sentence."""
    source, output = tagged(tmp_path / f"a{kind}"), tmp_path / "b.png"
    picture = open_picture(source)
    other(source, how)
    made = noise(48, 80, 3)
    if (kind, how) == (".png", "gone"):
        with pytest.raises(SourceError, match=r"a\.png: can't be read: No such file or directory$"):
            save_picture(output, [made], made.shape, made.dtype, like=picture)
        assert not output.exists()
    else:
        save_picture(output, [made], made.shape, made.dtype, like=picture)
        assert facts(output)["artist"] == "A. Person"
        assert facts(output)["icc"] == ICC


# ---- what is decoded, and how often


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_opening_decodes_no_pixel(tmp_path: Path, kind: str) -> None:
    """Half of the file is gone: only who reads rows finds out."""
    source = tmp_path / f"a{kind}"
    Image.fromarray(noise(200, 300, 3)).save(source, exif=exif(6))
    os.truncate(source, source.stat().st_size // 2)
    picture = open_picture(source, upright=True)
    assert picture.shape == (300, 200, 3)
    with pytest.raises(SourceError, match="damaged or cut off: "):
        list(picture.bands())


@pytest.mark.parametrize(("to", "count"), [(".png", 1), (".heic", 2)], ids=[".png", ".heic"])
def test_heic_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, count: int) -> None:
    """What is written is held by the same class, and counts too."""
    source, loaded = tagged(tmp_path / "a.heic"), []
    load = pillow_heif.HeifImage.load

    def counted(image: Any) -> None:
        loaded.append(image)
        load(image)

    monkeypatch.setattr(pillow_heif.HeifImage, "load", counted)
    enlarged(source, tmp_path / f"b{to}")
    assert len({id(image) for image in loaded}) == count


def test_size_is_checked_before_heic_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_heif.HeifImage, "load", None)
    with pytest.raises(TooLargeError, match="over the limit of 0"):
        open_picture(tagged(tmp_path / "a.heic"), max_megapixels=0.0001)


@pytest.mark.slow
@measured
def test_turned_pictures_are_held_once(tmp_path: Path) -> None:
    """60 MB of pixels, turned on the way to PNG, take not 90 MB more than the same upright."""
    peaks = []
    for orientation in (1, 6):
        source = tmp_path / f"{orientation}.jpg"
        Image.fromarray(np.tile(ramps(500, 4000), (10, 1, 1))).save(source, exif=exif(orientation))
        peaks.append(peak_megabytes(source, tmp_path / f"{orientation}.png", scale=1))
    assert peaks[1] - peaks[0] < 90, peaks


@pytest.mark.slow
@measured
@pytest.mark.parametrize("kind", [".tif", ".jpg", ".png"])
def test_memory_does_not_grow_with_height(tmp_path: Path, kind: str) -> None:
    """Ten times as high: 108 MB more pixels in, 243 MB more out, and not 40 MB more memory."""
    peaks = []
    for rows in (2000, 20000):
        pixels = np.tile(ramps(500, 2000), (rows // 500, 1, 1))
        options = {"compression": "tiff_lzw"} if kind == ".tif" else {}
        Image.fromarray(pixels).save(tmp_path / f"{rows}{kind}", **options)
        peaks.append(peak_megabytes(tmp_path / f"{rows}{kind}", tmp_path / f"{rows}_out{kind}"))
    assert peaks[1] < peaks[0] + 40, peaks


def test_unwritable_ends_in_words(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"b\.png: can't be written: Permission denied$"):
        save(tmp_path / "b.png", noise(5, 7, 3), small)
