"""Bursts of files: what survives, what is said, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image, ImageCms
from scipy import ndimage
from skimage import data
from typer.testing import CliRunner

from pictures import seen
from superfine.burst import Shooting, burst_path
from superfine.cli_burst import burst
from superfine.errors import NoMatchError, OutputError, ShapeError, SourceError, UsageError
from superfine.upscale import upscale

app = typer.Typer()
app.command("burst")(burst)
app.command("other")(lambda: None)
run = CliRunner().invoke

SCENE = data.camera()[100:228, 180:308].astype(np.float64)
PLAIN = Shooting(model="bicubic")


def frame(place, dtype=np.uint8):
    """Small frames of a scene, each moved by SciPy."""
    moves = [(0, 0), (1.0, -0.6), (-0.7, 1.3), (2.1, 0.5)]
    moved = ndimage.shift(SCENE, moves[place], order=5, mode="mirror")
    small = moved.reshape(64, 2, 64, 2).mean(axis=(1, 3)) + np.random.default_rng(place).normal(0, 2, (64, 64))
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}[dtype]
    levels = np.clip(small / 255, 0, 1) * white
    return (levels if dtype == np.float32 else np.rint(levels)).astype(dtype)


def coloured(place):
    return np.stack([frame(place)] * 3, axis=-1)


@pytest.fixture
def taken(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for place, path in enumerate(paths):
        Image.fromarray(frame(place)).save(path)
    return paths


def error(made):
    return np.sqrt(np.mean((made[8:-8, 8:-8].astype(float) - SCENE[8:-8, 8:-8]) ** 2))


def test_it_is_written_and_said(tmp_path, taken):
    given = [str(path) for path in taken]
    done = run(app, ["burst", *given, "-o", str(tmp_path / "out.png"), "--scale", "2", "--model", "bicubic"])
    assert done.exit_code == 0, done.output
    assert "3 of 3 frames" in done.stdout
    assert f"{taken[0]} and 2 more -> {tmp_path / 'out.png'}" in done.stdout
    assert "128 x 128" in done.stdout
    assert error(seen(tmp_path / "out.png").squeeze()) < 0.8 * error(upscale(frame(0), 2, model="bicubic"))
    again = run(app, ["burst", *given, "-o", str(tmp_path / "out.png")])
    assert isinstance(again.exception, OutputError)
    line = run(app, ["burst", *given, "-o", str(tmp_path / "out.png"), "-m", "bicubic", "--overwrite", "--json"])
    facts = json.loads(line.stdout)
    assert (facts["used"], facts["reference"], facts["size"]) == (given, given[0], [128, 128])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_depth_is_kept(tmp_path, dtype):
    paths = [tmp_path / f"{place}.tif" for place in range(2)]
    for place, path in enumerate(paths):
        tifffile.imwrite(path, frame(place, dtype))
    burst_path(paths, tmp_path / "out.tif", shooting=PLAIN)
    made = tifffile.imread(tmp_path / "out.tif")
    assert made.dtype == dtype
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}[dtype]
    assert error(made * (255 / white)) < error(upscale(frame(0), 2, model="bicubic"))


def test_profile_and_exif_are_the_references(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for place, name in enumerate("ab"):
        exif = Image.Exif()
        exif[0x010F] = f"Maker {name}"
        Image.fromarray(coloured(place)).save(
            tmp_path / f"{name}.jpg", exif=exif, icc_profile=profile, dpi=(150, 150), quality=97
        )
    heard = []
    fused = burst_path(
        [tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "out.jpg", shooting=PLAIN, done=heard.append
    )
    assert fused.size == (128, 128)
    assert heard == sorted(heard)
    assert 0 < heard[0] < 0.2
    assert heard[-1] == 1
    with Image.open(tmp_path / "out.jpg") as made:
        assert made.getexif()[0x010F] == "Maker a"
        assert made.info["icc_profile"] == profile
        assert made.info["dpi"] == (300, 300)


@pytest.mark.parametrize("orientations", [(6, 6), (1, 6)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_it_is_seen_as_the_frames_are(tmp_path, orientations, ending):
    for place, orientation in enumerate(orientations):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = coloured(place) if orientation == 1 else np.rot90(coloured(place))
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{place}.png", exif=exif)
        assert np.array_equal(seen(tmp_path / f"{place}.png"), coloured(place))
    burst_path([tmp_path / "0.png", tmp_path / "1.png"], tmp_path / f"out.{ending}", shooting=PLAIN)
    assert error(seen(tmp_path / f"out.{ending}")[..., 0]) < error(upscale(frame(0), 2, model="bicubic"))


def test_a_bad_frame_is_named(tmp_path, taken):
    Image.fromarray(data.camera()[300:364, 20:84]).save(taken[1])
    fused = burst_path(taken, tmp_path / "out.png", shooting=PLAIN)
    assert fused.used == (taken[0], taken[2])
    assert any(note.startswith(f"{taken[1]} ") and note.endswith("left out") for note in fused.notes)


def test_one_frame_is_plain_upscaling(tmp_path, taken):
    done = run(app, ["burst", str(taken[0]), "-o", str(tmp_path / "out.png"), "-m", "bicubic"])
    assert done.exit_code == 0
    assert "this is plain upscaling of one picture, by bicubic" in done.stdout
    assert f"{taken[0]} -> {tmp_path / 'out.png'}" in done.stdout
    plain = upscale(frame(0), 2, model="bicubic")
    assert np.abs(seen(tmp_path / "out.png").squeeze().astype(int) - plain).max() <= 1


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda path: Image.fromarray(frame(1)[:60]).save(path), ShapeError, "is 64x64 and {b} is 64x60; cut them"),
        (lambda path: Image.fromarray(coloured(1)).save(path), ShapeError, "only {a} is grey"),
        (lambda path: Image.new("LA", (64, 64)).save(path), UsageError, "{b}: has alpha"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), SourceError, "{b}"),
        (lambda path: path.unlink(), SourceError, "{b}"),
        (lambda path: Image.fromarray(frame(0) * 0 + 7).save(path), NoMatchError, "flat colour"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(tmp_path, taken, change, kind, words):
    change(taken[1])
    with pytest.raises(kind) as caught:
        burst_path(taken[:2], tmp_path / "out.png", shooting=PLAIN)
    assert words.format(a=taken[0], b=taken[1]) in str(caught.value)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.9}, "--scale 0.9 is outside 1 to 4"),
        ({"scale": 5}, "--scale 5 is outside 1 to 4"),
        ({"quality": 0}, "--quality 0 is outside 1 to 100"),
        ({"white": -1.0}, "--white -1 is not a level above 0"),
    ],
)
def test_wishes_that_cannot_be(options, words):
    with pytest.raises(UsageError) as caught:
        Shooting(**options)
    assert words in str(caught.value)


def test_places_that_cannot_be(tmp_path, taken):
    with pytest.raises(OutputError, match="the output is one of the sources"):
        burst_path(taken, taken[1], overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        (tmp_path / "there.png").mkdir()
        burst_path(taken, tmp_path / "there.png")
    with pytest.raises(UsageError, match="there is no such folder for the output"):
        burst_path(taken, tmp_path / "nowhere" / "out.png")
    with pytest.raises(UsageError, match="doesn't write"):
        burst_path(taken, tmp_path / "out.bmp")
    with pytest.raises(UsageError, match="is a folder; name its pictures"):
        burst_path([tmp_path], tmp_path / "out.png")
    with pytest.raises(UsageError, match="is given twice"):
        burst_path([taken[0], taken[0]], tmp_path / "out.png")
    with pytest.raises(UsageError, match="a name is empty"):
        burst_path([Path("a.png"), ""], tmp_path / "out.png")
    with pytest.raises(UsageError, match="no frames given"):
        burst_path([], tmp_path / "out.png")


def test_a_closed_folder_is_said_before_the_work(tmp_path, taken, monkeypatch):
    monkeypatch.setattr(
        "superfine.destination.os.access", lambda path, mode: path != tmp_path
    )  # root may write anywhere
    monkeypatch.setattr("superfine.burst._study", lambda *given: pytest.fail("it has begun"))
    with pytest.raises(OutputError, match="nothing may be written into"):
        burst_path(taken, tmp_path / "out.png")


def test_stopping_leaves_nothing_behind(tmp_path, taken, monkeypatch):
    there = sorted(tmp_path.iterdir())

    def stopped(share):
        if share == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        burst_path(taken, tmp_path / "out.png", shooting=PLAIN, done=stopped)
    assert sorted(tmp_path.iterdir()) == there
    monkeypatch.setattr("superfine.burst.burst_path", lambda *given, **named: stopped(1))
    done = run(app, ["burst", *map(str, taken), "-o", str(tmp_path / "out.png")])
    assert done.exit_code == 130
    assert "nothing was written" in done.stderr
