"""The network that makes texture up, and what lies between it and the one that doesn't."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

import superfine
from superfine.cli import app
from superfine.errors import UsageError

PICTURES = {"astronaut": data.astronaut, "coffee": data.coffee, "chelsea": data.chelsea}
each_picture = pytest.mark.parametrize("name", PICTURES)
# Places of a 128 px spectrum at 2 and 4 px of period.
LATTICE = [(0, 32), (32, 0), (32, 32), (0, 64), (64, 0), (64, 64), (32, 64), (64, 32)]


@pytest.fixture(scope="module")
def enlarged():
    """Name -> original, its quarter, and the quarter enlarged by both networks."""
    made = {}
    for name, picture in PICTURES.items():
        large = picture()[: 4 * (picture().shape[0] // 4), : 4 * (picture().shape[1] // 4)]
        small = np.asarray(Image.fromarray(large).resize((large.shape[1] // 4, large.shape[0] // 4), Image.BICUBIC))
        made[name] = (large, small, *(superfine.upscale(small, 4, model=model) for model in ("photo", "sharp")))
    return made


def means(pixels, side):
    rows, cols = (length // side * side for length in pixels.shape[:2])
    return pixels[:rows, :cols].astype(float).reshape(rows // side, side, cols // side, side, 3).mean((1, 3))


def spectrum(pixels):
    """Mean power of luma in windows of 128 px."""
    luma = pixels.astype(float) @ (0.299, 0.587, 0.114)
    window = np.outer(np.hanning(128), np.hanning(128))
    rows, cols = (range(0, length - 127, 64) for length in luma.shape)
    parts = [luma[r : r + 128, c : c + 128] for r in rows for c in cols]
    return np.mean([np.abs(np.fft.fft2((part - part.mean()) * window)) ** 2 for part in parts], axis=0)


def above_neighbours(power, row, col):
    """dB by which one place stands out."""
    ring = [(row + r, col + c) for r in range(-5, 6) for c in range(-5, 6) if max(abs(r), abs(c)) >= 3]
    return 10 * np.log10(power[row, col] / np.median([power[r % 128, c % 128] for r, c in ring]))


@each_picture
def test_colours_stay(enlarged, name):
    """The mean of every block of 32 x 32 px of the small picture is within a level, of red, green and blue each."""
    _, small, _, sharp = enlarged[name]
    assert np.abs(means(sharp, 128) - means(small, 32)).max() <= 1


@each_picture
def test_no_checkerboard(enlarged, name):
    """Periods of 2 and 4 px stand out by 3 dB more than without texture at most; a faint board, by far more."""
    large, small, photo, sharp = enlarged[name]
    others = [large, photo, superfine.upscale(small, 4, model="balanced")]
    highest = max(above_neighbours(spectrum(pixels), *place) for pixels in others for place in LATTICE)
    assert max(above_neighbours(spectrum(sharp), *place) for place in LATTICE) < highest + 3
    board = sharp + np.where(np.indices(sharp.shape[:2]).sum(0) % 2, 2.0, -2.0)[..., None]
    assert max(above_neighbours(spectrum(board), *place) for place in LATTICE) > highest + 3


@each_picture
def test_it_is_sharper(enlarged, name):
    """More power above the small picture's finest frequency than without texture, and no more than in truth."""
    high = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128))) > 1 / 8
    original, _, without, with_texture = enlarged[name]
    large, photo, sharp = (spectrum(pixels)[high].sum() for pixels in (original, without, with_texture))
    assert photo < sharp < 1.5 * large


def test_sharpness_goes_from_one_to_the_other(enlarged):
    _, small, photo, sharp = enlarged["coffee"]
    assert np.array_equal(superfine.upscale(small, 4, sharpness=0), photo)
    assert np.array_equal(superfine.upscale(small, 4, sharpness=1), sharp)
    half = superfine.upscale(small, 4, sharpness=0.5).astype(float)
    apart = np.abs(sharp.astype(float) - photo).mean()
    assert 0.2 * apart < np.abs(half - photo).mean() < apart
    assert 0.2 * apart < np.abs(half - sharp).mean() < apart


def test_sharpness_at_another_size(enlarged):
    """There is no network for x2: enlarged by four and reduced."""
    small = enlarged["coffee"][1]
    assert superfine.upscale(small, 2, sharpness=0.5).shape == (small.shape[0] * 2, small.shape[1] * 2, 3)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"sharpness": 1.5}, "--sharpness 1.5 is outside 0 to 1"),
        ({"sharpness": float("nan")}, "--sharpness nan is outside"),
        ({"sharpness": 0.5, "model": "fast"}, "goes from photo to sharp; leave --model fast out"),
    ],
)
def test_a_wrong_wish(wish, words):
    with pytest.raises(UsageError, match=words):
        superfine.Job(**wish)


def test_the_command_says_what_lies_between(enlarged, tmp_path):
    Image.fromarray(enlarged["coffee"][1]).save(tmp_path / "in.png")
    command = [
        "upscale",
        str(tmp_path / "in.png"),
        "-o",
        str(tmp_path / "out.png"),
        "--scale",
        "4",
        "--sharpness",
        "0.25",
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    [result] = [line for line in map(json.loads, done.stdout.splitlines()) if line.get("model")]
    assert result["model"] == "photo-x4+0.25*sharp-x4"
    assert any("--sharpness 0.25 takes photo and sharp" in note for note in result["notes"])
