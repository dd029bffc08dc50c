"""What `verify` finds, what it takes for proven, and whom it doesn't believe."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from clips import make_clip
from pictures import noise, png
from recorded import enlarge, record_in_file
from superfine import __version__, list_models
from superfine.cli import main
from superfine.cli_verify import verify as verb
from superfine.errors import SourceError, TooLargeError, UsageError
from superfine.image import open_picture, save_picture
from superfine.provenance import PixelHash, sidecar_of, text_of, write_sidecar
from superfine.route import Job
from superfine.upscale import upscale_path
from superfine.verification import verify
from superfine.xmp import with_place, without_record

app = typer.Typer()
app.command("verify")(verb)
app.command("other")(lambda: None)
run = CliRunner().invoke


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.png"
    path.write_bytes(png(data.astronaut()[60:92, 200:240]))
    return path


@pytest.fixture
def made(tmp_path, source):
    enlarge(source, tmp_path / "made.png", measured=True, model="fast-x2")
    return tmp_path / "made.png"


def found(verification):
    return {check.name: check.holds for check in verification.checks}


def words(verification):
    return {check.name: check.words for check in verification.checks}


def pixels_of(path):
    return np.concatenate(list(open_picture(path).bands()))


def rewrite(path, record, pixels=None, **named):
    """The same file with another record, as anyone could write it."""
    picture = open_picture(path)
    given = pixels_of(path) if pixels is None else pixels
    text = text_of(record)
    packet, place = with_place(None, len(text))
    filled = packet.replace(place.held, place.filled(text))
    save_picture(path, [given], given.shape, given.dtype, like=picture, xmp=filled, **named)


def forged(path, pixels):
    """Other pixels, and a record with their hash."""
    record = record_in_file(path)
    made = PixelHash.of(pixels.shape, pixels.dtype, [pixels]).hexdigest
    rewrite(path, replace(record, output=replace(record.output, sha256=made)), pixels)


def nudged(path, *, by=1, where=(5, 7, 1)):
    pixels = pixels_of(path).copy()
    pixels[where] = pixels[where] + by if pixels[where] < 200 else pixels[where] - by
    return pixels


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "avif", "heic"])
def test_what_was_made_is_proven_by_making_it_again(tmp_path, source, suffix):
    output = tmp_path / f"made.{suffix}"
    enlarge(source, output, measured=True, model="fast-x2", quality=None if suffix in ("png", "tif", "gif") else 70)
    alone = verify(output)
    assert (alone.holds, alone.proven) == (True, False)
    assert alone.conclusion[0].startswith("Proven: nothing. The record isn't signed")
    assert alone.conclusion[1].startswith("NOTHING WAS PROVEN")
    assert f"superfine verify {output} --source FILE" in alone.conclusion[1]
    lasting = suffix in ("png", "tif")
    both = verify(output, source)
    assert found(both) == {
        "record": True,
        "size": True,
        "pixels": True if lasting else None,
        "software": True,
        "networks": True,
        "source": True,
        "consistency": True if lasting else None,
        "recomputed": True,
    }
    assert both.proven
    assert "equal to the last bit" in words(both)["recomputed"]
    assert both.conclusion[0].startswith(f"Proven: superfine makes this of {source}")
    assert "who made it and when" in both.conclusion[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("channels", "scale"), [(1, 3), (4, 1.5), (3, 2)])
def test_every_depth_channel_and_size(tmp_path, dtype, channels, scale):
    kept = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    pixels = noise(21, 18, channels, dtype).squeeze()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb" if channels > 1 else "minisblack", **kept)
    enlarge(tmp_path / "a.tif", tmp_path / "out.tif", measured=True, scale=scale, model="lanczos")
    both = verify(tmp_path / "out.tif", tmp_path / "a.tif")
    assert both.proven, both.checks
    assert words(both)["networks"].startswith("none")


def test_the_figure_is_a_second_witness(tmp_path, source, made):
    """The consistency is the PSNR by an independent reduction."""
    planes = np.asarray(Image.open(made), np.float32).transpose(2, 0, 1)
    small = [Image.fromarray(plane).resize((40, 32), Image.Resampling.BICUBIC) for plane in planes]
    error = np.mean((np.stack(small, -1).astype(float) - np.asarray(Image.open(source), float)) ** 2)
    assert record_in_file(made).consistency.psnr == pytest.approx(20 * np.log10(255) - 10 * np.log10(error), abs=0.6)


def test_turned_and_resized_pictures(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 24, 3)).save(tmp_path / "a.jpg", exif=exif)
    enlarge(tmp_path / "a.jpg", tmp_path / "out.png", upright=True, measured=False, size=(50, 40))
    assert found(verify(tmp_path / "out.png", tmp_path / "a.jpg"))["recomputed"] is True
    enlarge(tmp_path / "a.jpg", tmp_path / "out.jpg", size=(48, 44))
    assert found(verify(tmp_path / "out.jpg", tmp_path / "a.jpg"))["source"] is True


def test_sharpness_is_asked_for_again(tmp_path, source):
    enlarge(source, tmp_path / "out.png", measured=True, model="auto", sharpness=0.25, scale=4)
    both = verify(tmp_path / "out.png", source)
    assert both.proven, both.checks
    record = record_in_file(tmp_path / "out.png")
    rewrite(tmp_path / "out.png", replace(record, options=replace(record.options, sharpness=0.5)))
    assert found(verify(tmp_path / "out.png", source))["networks"] is False


@pytest.mark.parametrize(
    ("suffix", "asked"),
    [
        ("png", {"consistent": "bicubic"}),
        ("png", {"consistent": "box", "ensemble": True}),
        ("tif", {"consistent": "matlab-bicubic", "model": "bicubic"}),
        ("jpg", {"consistent": "bicubic"}),
        ("png", {"scale": 1.5}),
        ("webp", {"ensemble": True, "quality": 75}),
    ],
)
def test_what_upscale_makes_is_proven(tmp_path, source, suffix, asked):
    output = tmp_path / f"out.{suffix}"
    report = upscale_path(source, output, job=Job(**{"model": "fast", **asked}))
    assert not report.failed, report.failed
    both = verify(output, source)
    assert both.proven, both.checks
    record = record_in_file(output)
    assert record.options.consistent == asked.get("consistent")
    assert record.options.ensemble == asked.get("ensemble", False)
    assert record.consistency.operator == asked.get("consistent", "bicubic")
    if suffix == "png":
        rewrite(output, replace(record, options=replace(record.options, consistent="matlab-bicubic", ensemble=True)))
        assert not verify(output, source).proven


def test_a_kernel_is_asked_for(tmp_path, source):
    kernel = np.outer([1, 2, 3, 2, 1], [1, 3, 5, 3, 1]).astype(float)
    np.save(tmp_path / "psf.npy", kernel / kernel.sum())
    np.save(tmp_path / "other.npy", kernel.T / kernel.sum())
    output = tmp_path / "out.png"
    job = Job(model="fast-x2", consistent=tmp_path / "psf.npy")
    assert not upscale_path(source, output, job=job).failed
    without = verify(output, source)
    assert (without.holds, without.proven) == (True, False)
    assert "give its kernel with --kernel" in words(without)["networks"]
    assert without.conclusion[-1].startswith("NOTHING WAS PROVEN")
    assert "give its kernel with --kernel" in without.conclusion[-1]
    assert verify(output, source, kernel=tmp_path / "psf.npy").proven
    other = verify(output, source, kernel=tmp_path / "other.npy")
    assert found(other)["networks"] is False
    assert "another kernel" in words(other)["networks"]
    with pytest.raises(UsageError, match="no such file"):
        verify(output, source, kernel=tmp_path / "none.npy")


def test_a_lossy_file_s_figure_is_checked_by_making_it_again(tmp_path, source):
    output = tmp_path / "out.jpg"
    assert not upscale_path(source, output, job=Job(model="fast-x2")).failed
    record = record_in_file(output)
    text = text_of(record)
    figure = f'"psnr":{record.consistency.psnr}'
    whole = output.read_bytes()
    assert figure in text
    output.write_bytes(whole.replace(figure.encode(), b'"psnr":' + b"9" * (len(figure) - 7)))
    both = verify(output, source)
    assert found(both)["recomputed"] is True
    assert not both.holds
    assert "Does not hold: consistency" in both.conclusion[0]


def test_without_provenance_nothing_is_left(tmp_path, source, made):
    output = tmp_path / "out.png"
    assert not upscale_path(made, output, job=Job(model="nearest", provenance=False)).failed
    assert b"superfine:record" not in output.read_bytes()
    assert not sidecar_of(output).exists()
    with pytest.raises(UsageError, match="--no-provenance"):
        verify(output, made)


# ---- what doesn't hold


def test_a_changed_pixel_shows_without_the_source(made):
    record = record_in_file(made)
    rewrite(made, record, nudged(made))
    alone = verify(made)
    assert found(alone)["pixels"] is False
    assert words(alone)["pixels"] == "differ from those that the record says"
    assert alone.conclusion == (
        "Does not hold: pixels; the file or its record was changed, or they don't belong together.",
    )


def test_a_forged_record_holds_until_it_is_made_again(source, made):
    forged(made, nudged(made, by=40))
    assert verify(made).holds
    assert not verify(made).proven
    both = verify(made, source)
    assert found(both)["recomputed"] is False
    assert (
        f"1 of 15,360 samples differs, by 40 levels: it isn't what superfine {__version__} makes"
        in (words(both)["recomputed"])
    )
    assert not both.proven


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ("0.0.9", f"the record names 0.0.9 where this is {__version__};"),
        (__version__, f"a build before or after this one that calls itself {__version__} too;"),
    ],
)
def test_another_version_is_thought_of_before_anybody_is_accused(source, made, there, told):
    forged(made, nudged(made, by=40))
    rewrite(made, replace(record_in_file(made), version=there))
    (conclusion,) = verify(made, source).conclusion
    assert conclusion.startswith("Does not hold: ")
    assert "recomputed" in conclusion
    assert "another version of superfine may make other pixels" in conclusion
    assert told in conclusion
    assert "or the file or its record was changed, or they don't belong together" in conclusion
    assert ("verify it with superfine 0.0.9" in conclusion) is (there == "0.0.9")


def test_no_version_explains_pixels_that_dont_fit_their_record(source, made):
    rewrite(made, replace(record_in_file(made), version="0.0.9"), nudged(made, by=40))
    (conclusion,) = verify(made, source).conclusion
    assert "Does not hold: pixels, " in conclusion
    assert "another version" not in conclusion


def test_a_level_is_forgiven_to_another_kind_of_machine_only(source, made):
    forged(made, nudged(made))
    here = verify(made, source)
    assert found(here)["recomputed"] is False
    assert "same kind of machine" in words(here)["recomputed"]
    record = record_in_file(made)
    rewrite(made, replace(record, machine=replace(record.machine, cpu="Another CPU")))
    there = verify(made, source)
    assert found(there)["recomputed"] is True
    assert "1 of 15,360 samples differs, by 1 level: what" in words(there)["recomputed"]
    forged(made, nudged(made, by=2))
    assert found(verify(made, source))["recomputed"] is False


def test_a_level_of_16_bits_is_scaled(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(12, 10, 3, np.uint16), photometric="rgb")
    output = tmp_path / "out.tif"
    enlarge(tmp_path / "a.tif", output, measured=True)
    for by, holds in ((257, True), (258, False)):
        record = enlarge(tmp_path / "a.tif", output, measured=True).record
        rewrite(output, replace(record, machine=replace(record.machine, numpy="1.0")))
        forged(output, nudged(output, by=by))
        assert found(verify(output, tmp_path / "a.tif"))["recomputed"] is holds


@pytest.fixture
def scaled(tmp_path):
    """A float source whose white is 4000, and what was made of it to be consistent with it."""
    source, output = tmp_path / "a.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, data.camera()[200:224, 220:250].astype(np.float32) * np.float32(4000 / 255))
    report = upscale_path(source, output, job=Job(model="fast-x2", white=4000.0, consistent="box"))
    assert not report.failed, report.failed
    return source, output, report.results[0]


def with_samples(path, samples):
    """The same TIFF with other samples, by another program."""
    with tifffile.TiffFile(path) as file:
        packet = bytes(file.pages[0].tags[700].value)
    tifffile.imwrite(path, samples, extratags=[(700, "B", len(packet), packet)])


def test_a_level_of_white_rounds_once_and_changes_no_pixels(scaled):
    source, output, result = scaled
    assert not any("changes pixels" in note for note in result.notes)
    given, made = tifffile.imread(source).astype(float), tifffile.imread(output).astype(float)
    small = made.reshape(24, 2, 30, 2).mean((1, 3))
    assert np.abs(small - given).max() < 1e-6 * 4000
    assert record_in_file(output).output.sha256 is None
    both = verify(output, source)
    assert both.proven, both.checks
    assert found(both)["consistency"] is True
    assert "rounded once in float32, below a millionth of white" in words(both)["pixels"]


def test_of_a_level_of_white_a_millionth_is_forgiven_and_no_more(scaled):
    source, output, _ = scaled
    made = tifffile.imread(output)
    for by, holds in ((0.9e-6, True), (1.1e-6, False)):
        samples = made.copy()
        samples[5, 7] += np.float32(by * 4000)
        assert abs(float(samples[5, 7]) - float(made[5, 7])) == pytest.approx(by * 4000, rel=0.1)
        with_samples(output, samples)
        both = verify(output, source)
        assert both.proven is holds, both.checks
    assert "same kind of machine" in words(both)["recomputed"]
    samples = made.copy()
    samples[5, 7] += np.float32(40)
    with_samples(output, samples)
    both = verify(output, source)
    assert (found(both)["consistency"], found(both)["recomputed"]) == (False, False)


def test_another_source_is_named(tmp_path, made):
    other = tmp_path / "other.png"
    other.write_bytes(png(data.astronaut()[61:93, 200:240]))
    both = verify(made, other)
    assert found(both)["source"] is False
    assert "its pixels differ from those that the record says" in words(both)["source"]
    assert "recomputed" not in found(both)
    assert "Does not hold: source" in both.conclusion[0]


def test_another_figure_is_named(source, made):
    record = record_in_file(made)
    rewrite(made, replace(record, consistency=replace(record.consistency, psnr=80.0)))
    both = verify(made, source)
    assert found(both)["consistency"] is False
    assert "and the record says 80.00 dB" in words(both)["consistency"]
    assert not both.proven
    rewrite(made, replace(record, consistency=replace(record.consistency, operator="magic")))
    assert found(verify(made, source))["consistency"] is False


def test_misses_that_are_kept_quiet_are_named(source, made):
    record = record_in_file(made)
    assert record.consistency.misses > 0
    rewrite(made, replace(record, consistency=replace(record.consistency, misses=0)))
    both = verify(made, source)
    assert "0 of 3,840 samples missed" in next(check.words for check in both.checks if check.holds is False)
    assert "Does not hold: consistency;" in both.conclusion[0]


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("options", {"resampling": "lanczos"}),
        ("options", {"turned": True}),
        ("options", {"engine": "cuda"}),
        ("input", {"bits": 16}),
        ("output", {"sha256": None}),
    ],
)
def test_what_leaves_pixels_as_they_are_is_checked_too(source, made, part, changed):
    record = record_in_file(made)
    rewrite(made, replace(record, **{part: replace(getattr(record, part), **changed)}))
    both = verify(made, source)
    assert found(both)["recomputed"] is True
    assert not both.holds
    assert f"it says otherwise: {part}.{next(iter(changed))}" in words(both)["record"]


def test_another_network_is_named(source, made):
    record = record_in_file(made)
    rewrite(made, replace(record, networks=(replace(record.networks[0], name="../../../../etc/passwd"),)))
    assert words(verify(made))["networks"] == "../../../../etc/passwd: no network of that name is here for fast-x2"
    other = replace(record.networks[0], sha256="0" * 64)
    rewrite(made, replace(record, networks=(other,)))
    both = verify(made, source)
    assert found(both)["networks"] is False
    assert words(both)["networks"] == "fast-x2: the file here has another hash than the record says"
    assert found(both)["recomputed"] is None
    rewrite(made, replace(record, networks=(other,), version="0.0.1"))
    both = verify(made, source)
    assert (found(both)["networks"], found(both)["software"]) == (None, None)
    assert both.conclusion[1].startswith("NOTHING WAS PROVEN")
    assert "give its file with --model" in both.conclusion[1]
    rewrite(made, replace(record, networks=()))
    assert found(verify(made))["networks"] is False


def test_what_was_typed_is_blamed_before_the_file(tmp_path, source, made):
    kernel = tmp_path / "kernel.npy"
    np.save(kernel, np.full((3, 3), 1 / 9))
    with pytest.raises(UsageError, match="made without a kernel of one's own, says its record; leave it out"):
        verify(made, source, kernel=kernel)
    for wrong in ({"memory_gb": 0}, {"max_megapixels": float("nan")}):
        with pytest.raises(UsageError, match="is not above 0"):
            verify(made, source, **wrong)
    both = verify(made, source, model="balanced-x2")
    assert words(both)["networks"] == "fast-x2: isn't the network that was given"
    assert "made with other files than those that are here or were given; or" in both.conclusion[0]


def test_another_method_is_found_out(tmp_path, source):
    enlarge(source, tmp_path / "out.png", measured=True, model="bicubic")
    record = record_in_file(tmp_path / "out.png")
    rewrite(tmp_path / "out.png", replace(record, options=replace(record.options, model="lanczos")))
    assert found(verify(tmp_path / "out.png"))["networks"] is True
    assert found(verify(tmp_path / "out.png", source))["recomputed"] is False


def test_what_a_lossy_file_was_made_with_is_part_of_it(tmp_path, source):
    output = tmp_path / "out.jpg"
    enlarge(source, output, measured=True, quality=80)
    assert verify(output, source).proven
    record = record_in_file(output)
    text = text_of(replace(record, options=replace(record.options, quality=81)))
    whole = output.read_bytes()
    output.write_bytes(whole.replace(text_of(record).encode(), text.encode()))
    both = verify(output, source)
    assert found(both)["recomputed"] is False
    assert "in the worst block of 16 x 16 pixels" in words(both)["recomputed"]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_record_without_a_hash_excuses_nothing(tmp_path, source, suffix):
    """A forger may say that the format keeps no pixels, by record or name, and that the machine was another."""
    output = tmp_path / f"out.{suffix}"
    record = enlarge(source, output, measured=True).record
    painted = pixels_of(output).copy()
    painted[40:44, 50:60] = (200, 60, 60)
    other = replace(record, output=replace(record.output, sha256=None), machine=replace(record.machine, cpu="Other"))
    rewrite(output, replace(other, consistency=None), painted)
    alone, both = verify(output), verify(output, source)
    assert found(alone)["pixels"] is False
    assert "though this format keeps them" in words(alone)["pixels"]
    assert found(both)["recomputed"] is False
    assert not both.proven
    renamed = output.rename(tmp_path / "renamed.jpg")
    assert found(verify(renamed, source)) == found(both)


def test_a_name_proves_nothing_and_hinders_nothing(source, made):
    assert verify(made.rename(made.with_name("renamed")), source).proven


def test_grey_is_proven_in_webp_which_has_none(tmp_path):
    Image.fromarray(noise(20, 24, 1).squeeze()).save(tmp_path / "a.png")
    enlarge(tmp_path / "a.png", tmp_path / "out.webp", measured=True)
    both = verify(tmp_path / "out.webp", tmp_path / "a.png")
    assert both.proven, both.checks
    assert found(both)["pixels"] is None


def test_frames_keep_their_pixels(tmp_path):
    shots, output = clip_of(tmp_path), tmp_path / "large"
    report = upscale_path(shots, output, job=Job(model="bicubic", scale=2, as_clip=True))
    assert not report.failed, report.failed
    record = record_in_file(output)
    write_sidecar(output, replace(record, machine=replace(record.machine, cpu="Other")))
    second = sorted(output.glob("*.png"))[1]
    for by, holds in ((1, True), (2, False)):
        second.write_bytes(png(nudged(second, by=by)))
        assert found(verify(output, shots))["recomputed"] is holds


def encoded(path, record, pixels):
    rewrite(path, replace(record, machine=replace(record.machine, cpu="Other")), pixels, quality=record.options.quality)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif"])
def test_what_is_painted_into_a_lossy_file_shows(tmp_path, suffix):
    """However small it is beside the picture; a level everywhere, as another machine may make it, is forgiven."""
    source, plain, output = (tmp_path / name for name in ("source.png", "plain.png", f"out.{suffix}"))
    source.write_bytes(png(data.astronaut()[:160, :160]))
    enlarge(source, plain, measured=True)
    record = enlarge(source, output, measured=True, quality=85).record
    pixels = pixels_of(plain)
    nudges = np.random.default_rng(0).integers(-1, 2, pixels.shape)
    encoded(output, record, np.clip(pixels + nudges, 0, 255).astype(np.uint8))
    assert verify(output, source).proven
    painted = pixels.copy()
    painted[100:106, 200:212] = 255 - painted[100:106, 200:212]
    encoded(output, record, painted)
    both = verify(output, source)
    assert found(both)["recomputed"] is None
    assert not both.proven
    assert both.conclusion[1].startswith("NOTHING WAS PROVEN, AND THE FILE MAY HAVE BEEN CHANGED: made again, ")
    encoded(output, record, pixels[::-1])
    assert found(verify(output, source))["recomputed"] is False


def test_a_network_of_ones_own_is_asked_for(tmp_path, source):
    model = next(model for model in list_models() if model.card.name == "fast-x2")
    renamed = tmp_path / "mine.onnx"
    renamed.write_bytes(model.content)
    output = tmp_path / "out.png"
    enlarge(source, output, measured=True, model=str(renamed))
    record = record_in_file(output)
    rewrite(output, replace(record, options=replace(record.options, model="mine-x2")))
    both = verify(output, source)
    assert found(both)["networks"] is None
    assert "give its file with --model" in words(both)["networks"]
    assert not both.proven
    assert both.holds
    assert verify(output, source, model=renamed).proven
    with pytest.raises(UsageError, match="no model 'nothing'"):
        verify(output, source, model="nothing")


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/passwd", "file.onnx", "auto", "\u202egnp"])
def test_no_name_of_a_record_is_taken_for_a_path(tmp_path, source, made, name, monkeypatch):
    monkeypatch.setattr("superfine.models.read_model", lambda path: pytest.fail(f"{path} was read"))
    record = record_in_file(made)
    sidecar = replace(record, options=replace(record.options, model=name.replace("\u202e", "")))
    rewrite(made, sidecar)
    assert found(verify(made, source))["networks"] is None


@pytest.mark.parametrize(
    "changed",
    [{"sharpness": 7.0}, {"quality": 0}, {"sharpness": 0.5}],
)
def test_options_that_cant_be_are_named(source, made, changed):
    record = record_in_file(made)
    rewrite(made, replace(record, options=replace(record.options, **changed)))
    assert found(verify(made, source))["networks"] is False


def test_a_file_smaller_than_its_source_isnt_an_enlargement(tmp_path, source, made):
    record = record_in_file(made)
    small = pixels_of(made)[:20, :30]
    output = replace(record.output, rows=20, cols=30, sha256=PixelHash.of(small.shape, small.dtype, [small]).hexdigest)
    rewrite(made, replace(record, output=output), small)
    both = verify(made, source)
    assert (found(both)["size"], found(both)["pixels"]) == (True, True)
    assert found(both)["consistency"] is False
    assert not both.proven


def test_the_whole_chain_is_told(tmp_path, source, made):
    enlarge(made, tmp_path / "again.png", measured=True)
    done = run(app, ["verify", str(tmp_path / "again.png"), "-s", str(made)])
    assert done.exit_code == 0
    assert ", fast-x2, says the record" in done.stdout.splitlines()[1]


# ---- what can't be read


def test_without_a_record_there_is_nothing_to_verify(tmp_path, source):
    with pytest.raises(UsageError, match=r"holds no record .* source\.png\.superfine\.json"):
        verify(source)
    with pytest.raises(UsageError, match=r"nothing\.png: the file to verify isn't there"):
        verify(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(SourceError, match="not a picture"):
        verify(tmp_path / "text.png")


def test_what_isnt_there_is_wrong_usage(tmp_path, source, made, monkeypatch, capsys):
    """Exit status 1 is for what doesn't hold."""
    for asked in (
        [str(tmp_path / "nothing.png")],
        [str(made), "--source", str(tmp_path / "nothing.png")],
        [str(made), "--source", str(source), "--kernel", str(tmp_path / "nothing.npy")],
        [str(source)],
    ):
        monkeypatch.setattr("sys.argv", ["superfine", "verify", *asked])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2, asked
        assert "nothing." in (said := capsys.readouterr().err) or "holds no record" in said
    forged(made, nudged(made, by=9))
    monkeypatch.setattr("sys.argv", ["superfine", "verify", str(made), "--source", str(source)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1


@pytest.mark.parametrize("given", [3, None, b"made.png", np.zeros((4, 4, 3)), ["made.png"]])
def test_what_names_no_file_is_refused(made, given):
    with pytest.raises(UsageError, match=rf"the file to verify .* a str or a Path, not {type(given).__name__}$"):
        verify(given)
    if given is not None:
        for name, what in (("source", "its source"), ("kernel", "the kernel"), ("model", "the model")):
            with pytest.raises(UsageError, match=rf"verify: {what} is given by its name"):
                verify(made, **{name: given})


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_file_that_is_cut_off_isnt_passed(tmp_path, source, suffix, share):
    output = tmp_path / f"out.{suffix}"
    enlarge(source, output)
    whole = output.read_bytes()
    output.write_bytes(whole[: int(len(whole) * share)])
    done = run(app, ["verify", str(output), "--source", str(source)])
    assert done.exit_code != 0
    # Of a TIFF the record may be all that was cut off.
    known = (SourceError, SystemExit, UsageError) if suffix == "tif" else (SourceError, SystemExit)
    assert done.exception is None or isinstance(done.exception, known)


def test_the_sidecar_of_another_file_shows(tmp_path, source):
    enlarge(source, tmp_path / "large.gif", scale=3)
    enlarge(source, tmp_path / "small.gif", scale=2)
    sidecar_of(tmp_path / "large.gif").replace(sidecar_of(tmp_path / "small.gif"))
    both = verify(tmp_path / "small.gif", source)
    assert found(both)["size"] is False
    assert "is 80 x 64, and the record says 120 x 96" in words(both)["size"]
    assert found(both)["recomputed"] is False
    assert "another size" in words(both)["recomputed"]


@pytest.mark.parametrize(
    "text", ["{}", "", "[" * 100_000, "\x00", "{" + '"a":' * 100, '{"record":99}', "null", "9" * 5000]
)
def test_a_sidecar_that_is_none_is_named(tmp_path, source, text):
    enlarge(source, tmp_path / "out.gif")
    sidecar_of(tmp_path / "out.gif").write_text(text)
    alone = verify(tmp_path / "out.gif", source)
    assert found(alone) == {"record": False}
    assert not alone.holds
    assert f"or a version of superfine other than this {__version__} wrote it" in alone.conclusion[0]
    sidecar_of(tmp_path / "out.gif").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="more than ASCII"):
        verify(tmp_path / "out.gif")


def test_a_picture_beyond_the_limit_is_refused(made):
    with pytest.raises(TooLargeError):
        verify(made, max_megapixels=0.001)


# ---- clips


def clip_of(tmp_path, count=3):
    (tmp_path / "shots").mkdir()
    for number in range(count):
        Image.fromarray(noise(16, 20, 3, levels=200 + number)).save(tmp_path / "shots" / f"{number:03d}.png")
    return tmp_path / "shots"


@pytest.mark.parametrize(("name", "made"), [("a.mkv", "b.mp4"), ("a.mkv", "b.mkv"), ("a.mp4", "b.gif")])
def test_videos_are_made_again(tmp_path, name, made):
    source, output = make_clip(tmp_path / name, 5), tmp_path / made
    report = upscale_path(
        source, output, job=Job(model="fast-x2", crf=None if made == "b.gif" else 28, end=Fraction(1, 8))
    )
    assert not report.failed, report.failed
    assert sidecar_of(output).is_file()
    assert verify(output).holds
    both = verify(output, source)
    assert both.proven, both.checks
    record = record_in_file(output)
    assert record.input.frames == record.output.frames == report.results[0].video.frames == 4
    write_sidecar(output, replace(record, options=replace(record.options, model="fast"), networks=()))
    assert not verify(output, source).holds


def test_a_clip_is_made_again_too(tmp_path):
    shots, output = clip_of(tmp_path), tmp_path / "large"
    report = upscale_path(shots, output, job=Job(model="bicubic", scale=2, as_clip=True))
    assert not report.failed, report.failed
    assert verify(output).holds
    both = verify(output, shots)
    assert both.proven, both.checks
    assert words(both)["size"] == "40 x 32, 3 frames"
    second = sorted(output.glob("*.png"))[1]
    second.write_bytes(png(nudged(second, by=30)))
    assert found(verify(output, shots))["recomputed"] is False
    second.unlink()
    assert found(verify(output, shots))["size"] is False
    record = record_in_file(output)
    for told, why in (({"start": "1000"}, "no frames"), ({"rate": "0"}, "rate")):
        bad = replace(record, options=replace(record.options, clip=replace(record.options.clip, **told)))
        write_sidecar(output, bad)
        both = verify(output, shots)
        assert not both.holds
        assert why in "".join(words(both).values())


# ---- the door


def test_the_door_says_it_and_its_status_tells(tmp_path, source, made):
    alone = run(app, ["verify", str(made)])
    assert alone.exit_code == 0, alone.output
    assert "says the record" in alone.stdout
    assert "Proven: nothing." in alone.stdout
    both = run(app, ["verify", str(made), "--source", str(source)])
    assert both.exit_code == 0
    assert "recomputed    holds" in both.stdout
    line = json.loads(run(app, ["verify", str(made), "-s", str(source), "--json"]).stdout)
    assert (line["holds"], line["proven"], line["record"]["software"]) == (True, True, "superfine")
    assert {check["name"] for check in line["checks"]} >= {"record", "recomputed"}
    forged(made, nudged(made, by=9))
    wrong = run(app, ["verify", str(made), "--source", str(source)])
    assert wrong.exit_code == 1
    assert "recomputed    DOES NOT HOLD" in wrong.stdout
    assert "NOTHING WAS PROVEN" in alone.stdout.splitlines()[-1]
    assert "NOTHING WAS PROVEN" not in both.stdout
    nothing = run(app, ["verify", str(source)])
    assert isinstance(nothing.exception, UsageError)
    large = run(app, ["verify", str(made), "--max-megapixels", "0.001"])
    assert "raise it with --max-megapixels" in str(large.exception)


def test_what_a_record_says_cant_command_a_terminal(tmp_path, made):
    record = record_in_file(made)
    rewrite(made, replace(record, version="\u00e9 0.1"))
    assert run(app, ["verify", str(made)]).exit_code == 0
    enlarge(tmp_path / "source.png", tmp_path / "out.gif")
    sidecar_of(tmp_path / "out.gif").write_text('{"\\u001b[31m":1}')
    done = run(app, ["verify", str(tmp_path / "out.gif")])
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout


def test_a_file_without_its_record_is_as_any_other(made):
    picture = open_picture(made)
    save_picture(made, [pixels_of(made)], picture.shape, picture.dtype, like=picture)
    assert without_record(b"") == b""
    with pytest.raises(UsageError, match="another program left it out"):
        verify(made)
