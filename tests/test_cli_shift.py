"""Files that are moved: what survives, what is said, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image, ImageCms
from typer.testing import CliRunner

from clips import make_clip
from pictures import noise, read_png, seen
from superfine.classical.shift import shift_image
from superfine.cli_shift import learn_shift, shift
from superfine.errors import ModelError, UsageError
from superfine.shift import Movement, as_stored, shift_path

app = typer.Typer()
app.command("shift")(shift)
app.command("learn-shift")(learn_shift)
run = CliRunner().invoke


def moved(source, output, shift=(0.5, 1.5), **options):
    (result,) = shift_path(source, output, movement=Movement(shift=shift, **options))
    assert result.status == "done", result.message
    return result


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("method", ["fourier", "bicubic"])
def test_every_depth_of_png_is_kept(tmp_path, channels, dtype, method):
    pixels = noise(20, 24, channels, dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=[2] * (channels in (2, 4)) or None)
    moved(tmp_path / "a.tif", tmp_path / "b.png", method=method)
    read, _ = read_png(tmp_path / "b.png")
    np.testing.assert_array_equal(read, shift_image(pixels, (0.5, 1.5), method=method))


def test_float_tiff_stays_float_and_in_its_range(tmp_path):
    pixels = noise(20, 24, 3, np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels * 4, photometric="rgb")
    moved(tmp_path / "a.tif", tmp_path / "b.tif", white=4)
    wanted = np.clip(shift_image(pixels, (0.5, 1.5)), 0, 1)
    read = tifffile.imread(tmp_path / "b.tif")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, wanted * 4, atol=1e-5)


def test_profile_exif_and_density_are_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    picture = Image.fromarray(noise(20, 24, 3))
    picture.save(tmp_path / "a.jpg", exif=exif, icc_profile=profile, dpi=(300, 300), quality=95)
    moved(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as made:
        assert made.getexif()[0x010F] == "Maker"
        assert made.info["icc_profile"] == profile
        assert made.info["dpi"] == (300, 300)
        assert made.size == (24, 20)


@pytest.mark.parametrize("ending", ["tif", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_dx_and_dy_are_as_it_is_seen(tmp_path, orientation, ending):
    pixels = noise(9, 14, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    before = seen(tmp_path / "a.png")
    moved(tmp_path / "a.png", tmp_path / f"b.{ending}", (2, -3))
    np.testing.assert_array_equal(seen(tmp_path / f"b.{ending}"), shift_image(before, (2, -3)))
    moved(tmp_path / "a.png", tmp_path / f"c.{ending}", (0.25, -1.5), method="lanczos")
    near = seen(tmp_path / f"c.{ending}").astype(int) - shift_image(before, (0.25, -1.5), method="lanczos")
    assert np.abs(near).max() <= 1


def test_there_and_back_by_orientation():
    for orientation in range(1, 9):
        down, right = as_stored((1.0, 2.0), orientation)
        assert sorted((abs(down), abs(right))) == [1, 2]
    assert as_stored((1, 2), 6) == (-2, 1)


def test_several_go_into_a_folder_and_one_bad_one_stops_nobody(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(9, 14, 3)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = [str(tmp_path / name) for name in ("a.png", "broken.png", "b.png")]
    done = run(app, ["shift", *given, "--dx", "1", "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"failed: {tmp_path / 'broken.png'}: damaged or cut off")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_it_lies_beside_and_is_said(tmp_path):
    Image.fromarray(noise(9, 14, 3)).save(tmp_path / "a.png")
    done = run(app, ["shift", str(tmp_path / "a.png"), "--dx", "3.5", "--dy", "-1"])
    assert done.exit_code == 0
    assert f"{tmp_path / 'a.png'} -> {tmp_path / 'a_shifted.png'}" in done.stdout
    assert "dx 3.5, dy -1, fourier" in done.stdout
    again = run(app, ["shift", str(tmp_path / "a.png"), "--dx", "3.5"])
    assert again.exit_code == 1
    assert "exists already; replace it with --overwrite" in again.stderr
    line = run(app, ["shift", str(tmp_path / "a.png"), "--dx", "3.5", "--overwrite", "--json"])
    facts = json.loads(line.stdout)
    assert (facts["status"], facts["dx"], facts["dy"], facts["method"]) == ("done", 3.5, 0.0, "fourier")
    np.testing.assert_array_equal(seen(tmp_path / "a_shifted.png"), shift_image(noise(9, 14, 3), (0, 3.5)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say how far: --dx to the right, --dy down"),
        (["--dx", "nan"], "--dx nan is not a number of pixels"),
        (["--dy", "inf"], "--dy inf is not a number of pixels"),
        (["--dx", "1", "--method", "cubic"], "--method 'cubic' is none of fourier, spline, lanczos, bicubic, linear"),
        (["--dx", "1", "--border", "mirror"], "--border 'mirror' is none of reflect, replicate, wrap, constant"),
        (["--dx", "1", "--fill", "300"], "--fill 300 is outside 0"),
        (["--dx", "1", "--quality", "0"], "--quality 0 is outside 1 to 100"),
        (["--dx", "1", "--white", "0"], "--white 0 is not a level above 0"),
        (["--dx", "1", "--method", "learned"], "--method learned needs --model FILE.onnx"),
        (["--dx", "1", "--method", "linear", "--model", "a.onnx"], "goes with --method learned, not with linear"),
        (["--dx", "1", "--model", "a.onnx"], "brings its own shift; leave --dx and --dy out"),
        (["--model", "a.pt"], "a.pt: want the .onnx file that superfine learn-shift writes"),
        (["--dx", "1", "-o", "b.bmp"], "superfine doesn't write .bmp"),
        (["--dx", "1", "-o", "nowhere/b.png"], "there is no such folder for the output"),
    ],
)
def test_wrong_usage(tmp_path, arguments, words):
    Image.fromarray(noise(9, 14, 3)).save(tmp_path / "a.png")
    done = run(app, ["shift", str(tmp_path / "a.png"), *arguments])
    assert isinstance(done.exception, UsageError), done.output
    assert words in str(done.exception)


def test_a_video_is_told_that_pictures_are_shifted(tmp_path):
    source = make_clip(tmp_path / "a.mp4", 2)
    (failed,) = shift_path(source, movement=Movement(shift=(0.5, 0)))
    assert failed.message.startswith(f"{source}: is a video, and shift takes pictures")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_is_no_picture_of_one_place_is_refused(tmp_path):
    Image.fromarray(noise(9, 14, 4)).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
    one = Movement(shift=(0, 1))
    with pytest.raises(UsageError, match="is a folder; name its pictures"):
        shift_path(tmp_path, movement=one)
    with pytest.raises(UsageError, match="would both become"):
        shift_path([tmp_path / "a.png", tmp_path / "sub" / "a.png"], tmp_path / "out", movement=one)
    with pytest.raises(UsageError, match="no source given"):
        shift_path([], movement=one)
    with pytest.raises(UsageError, match="a name is empty"):
        shift_path("", movement=one)
    with pytest.raises(UsageError, match="is a file, and several pictures need a folder"):
        shift_path([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "a.png", movement=one)
    with pytest.raises(ModelError, match=r"none\.onnx: there is no such model file"):
        shift_path(tmp_path / "a.png", movement=Movement(method="learned", model=Path("none.onnx")))


@pytest.mark.parametrize(
    ("output", "shift", "words"),
    [
        ("b.jpg", (0, 1.0), "has alpha, which JPEG can't hold; write PNG"),
        ("b.png", (9, 0.0), "dy 9 moves all 9 pixels of that side out of the frame"),
        ("a.png", (0, 1.0), "the output is the source itself"),
    ],
)
def test_a_picture_that_cant_be_moved_so(tmp_path, output, shift, words):
    Image.fromarray(noise(9, 14, 4)).save(tmp_path / "a.png")
    before = sorted(tmp_path.iterdir())
    (result,) = shift_path(tmp_path / "a.png", tmp_path / output, movement=Movement(shift=shift), overwrite=True)
    assert result.status == "failed"
    assert words in result.message
    assert str(tmp_path) in result.message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("a.pt", "give it a name that ends in .onnx"),
        ("nowhere/a.onnx", "there is no folder"),
        ("there.onnx", "there.onnx: exists already"),
        ("state.onnx", "state.pt: exists already"),
    ],
)
def test_where_a_model_cant_be_written_is_said_before_the_work(tmp_path, output, words):
    (tmp_path / "there.onnx").write_bytes(b"x")
    (tmp_path / "state.pt").write_bytes(b"x")
    done = run(app, ["learn-shift", str(tmp_path / "s"), str(tmp_path / "t"), "-o", str(tmp_path / output)])
    assert words in str(done.exception)
