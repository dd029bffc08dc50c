"""Bursts of files: what survives, what is said, what is refused."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import typer
from PIL import Image, ImageCms
from scipy import ndimage
from skimage import data
from typer.testing import CliRunner

from clips import add_video, encode, rgb_frame
from pictures import seen
from superfine import burst as bursts
from superfine.burst import Shooting, burst_clip, burst_path
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


# ---- a stretch of a video


def moved(number):
    """Frames of the scene, each moved by a known fraction; number 3 lies on it."""
    down, across = 0.37 * (number - 3), -0.61 * (number - 3)
    shifted = ndimage.shift(SCENE, (2 * down, 2 * across), order=5, mode="mirror")
    small = shifted.reshape(64, 2, 64, 2).mean(axis=(1, 3)) + np.random.default_rng(number).normal(0, 2, (64, 64))
    return np.repeat(np.rint(small).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write_video(path, frames, rotation=0, pixel_format="bgr0", codec="ffv1"):
    """Ten frames a second, each level as it is."""
    with av.open(str(path), "w") as container:
        options = {"crf": "0"} if codec != "ffv1" else {}
        stream = add_video(
            container, codec, size=frames[0].shape[:2], pixel_format=pixel_format, rate=10, options=options
        )
        if rotation:
            stream.set_display_rotation(rotation)
        encode(container, stream, (rgb_frame(frame).reformat(format=pixel_format) for frame in frames))
    return path


@pytest.fixture
def video(tmp_path):
    others = [np.full((64, 64, 3), 20 + number, np.uint8) for number in range(3)]
    return write_video(tmp_path / "clip.mkv", [*(moved(number) for number in range(7)), *others])


def test_a_stretch_of_a_video_is_a_burst(video, tmp_path):
    output = tmp_path / "out.png"
    done = run(app, ["burst", str(video), "-o", str(output), "--start", "0", "--end", "0.7", "--model", "bicubic"])
    assert done.exit_code == 0, done.output
    assert "7 of 7 frames" in done.stdout
    assert f"{video} at 0:00.300 and 6 more -> {output}" in done.stdout
    made = seen(output)
    assert made.shape == (128, 128, 3)
    single = upscale(moved(3), 2, model="bicubic")
    assert error(made[..., 1]) < 0.7 * error(single[..., 1])


def test_the_moment_that_is_asked_for(video, tmp_path):
    line = ["burst", str(video), "-o", str(tmp_path / "out.png"), "--end", "0.65", "--at", "0:0.19", "-m", "bicubic"]
    facts = json.loads(run(app, [*line, "--json"]).stdout)
    assert (facts["reference"], facts["given"]) == (f"{video} at 0:00.100", 7)
    assert facts["used"][0] == facts["reference"]
    # It lies on frame 1: moved there from the scene by (-1.48, 2.44) pixels of the large picture.
    wanted = ndimage.shift(SCENE, (-1.48, 2.44), order=5, mode="mirror")
    made = seen(tmp_path / "out.png")[..., 1]
    there = np.sqrt(np.mean((made[8:-8, 8:-8] - wanted[8:-8, 8:-8]) ** 2))
    assert there < 0.5 * error(made)


def test_a_turned_video_is_seen_upright(tmp_path):
    frames = [np.ascontiguousarray(np.rot90(moved(number), -1)) for number in range(5)]
    video = write_video(tmp_path / "clip.mp4", frames, rotation=90, pixel_format="rgb24", codec="libx264rgb")
    burst_clip(video, tmp_path / "out.png", at=Fraction(3, 10), shooting=PLAIN)
    assert error(seen(tmp_path / "out.png")[..., 1]) < error(upscale(moved(3), 2, model="bicubic")[..., 1])


@pytest.mark.parametrize("ending", ["tif", "jpg", "webp", "avif"])
def test_every_format_takes_frames_of_videos(video, tmp_path, ending):
    burst_clip(video, tmp_path / f"out.{ending}", start=Fraction(3, 10), end=Fraction(5, 10), shooting=PLAIN)
    with Image.open(tmp_path / f"out.{ending}") as made:
        assert made.size == (128, 128)
        assert error(np.asarray(made.convert("RGB"))[..., 1]) < 13


def test_depth_of_numbered_frames_is_kept(tmp_path):
    for number in range(4):
        Image.fromarray(moved(number)[..., 1].astype(np.uint16) * 257).save(tmp_path / f"in{number}.png")
    fused = burst_clip(tmp_path / "in%d.png", tmp_path / "out.png", shooting=PLAIN)
    made = seen(tmp_path / "out.png")
    assert made.dtype == np.uint16
    assert (fused.size, fused.given) == ((128, 128), 4)
    assert str(fused.reference).endswith("in%d.png at 0:00.040")


def test_frames_that_show_something_else_are_left_out(tmp_path):
    frames = [moved(0), moved(1), np.repeat(data.camera()[300:364, 20:84, None], 3, axis=2), moved(3), moved(4)]
    video = write_video(tmp_path / "clip.mkv", frames)
    fused = burst_clip(video, tmp_path / "out.png", shooting=PLAIN)
    assert f"{video} at 0:00.200" not in fused.used
    assert len(fused.used) == 4


def test_stretches_that_are_too_long_or_hold_nothing(video, tmp_path, monkeypatch):
    output = tmp_path / "out.png"
    monkeypatch.setattr(bursts, "MOST_FRAMES", 4)
    with pytest.raises(UsageError) as caught:
        burst_clip(video, output, start=Fraction(1, 10))
    assert str(caught.value) == (
        f"{video}: 9 frames are more than the 4 of this size that a burst takes; give --end 0:00.450, or less"
    )
    assert burst_clip(video, output, start=Fraction(1, 10), end=Fraction("0.450"), shooting=PLAIN).given == 4
    output.unlink()
    monkeypatch.setattr(bursts, "MOST_FRAMES", 60)
    monkeypatch.setattr(bursts, "_MOST_BYTES", 3 * 64 * 64 * 3)
    with pytest.raises(UsageError, match="10 frames are more than the 3 of this size"):
        burst_clip(video, output)
    with pytest.raises(UsageError, match=r"no frames in that stretch; they are shown from 0:00\.000 to 0:00\.900"):
        burst_clip(video, output, start=Fraction(5))
    monkeypatch.undo()
    for moment in (Fraction(5, 100), Fraction(9, 10), Fraction(3)):
        with pytest.raises(UsageError, match="no frame of the stretch is shown at"):
            burst_clip(video, output, start=Fraction(1, 10), end=Fraction(7, 10), at=moment)
    assert not output.exists()


def test_what_is_no_burst_of_a_video(video, tmp_path, taken):
    output = str(tmp_path / "out.png")

    def said(*words):
        with pytest.raises((UsageError, SourceError, OutputError)) as caught:
            run(app, ["burst", *map(str, words), "-o", output], catch_exceptions=False)
        return str(caught.value)

    assert said(taken[0], video) == f"{video}: is a video or animation; give it alone, with --start and --end"
    assert "--start, --end and --at are for a video" in said(*taken, "--at", "1")
    assert "--at 'noon' is no time" in said(video, "--at", "noon")
    assert "--white is for float TIFF" in said(video, "--white", "2")
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    assert "broken.mp4: isn't a video" in said(tmp_path / "broken.mp4")
    clear = write_video(tmp_path / "clear.mkv", [moved(0), moved(1)], pixel_format="bgra")
    assert "clear.mkv: has alpha" in said(clear)
    with pytest.raises(OutputError, match="the output is the source itself"):
        burst_clip(write_video(tmp_path / "a.mkv", [moved(0)]).rename(tmp_path / "a.png"), tmp_path / "a.png")
