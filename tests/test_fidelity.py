"""Consistent enlargements: reduced again by formula and by NumPy's means, and against SciPy's solvers."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.optimize import linprog
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from pictures import bicubic_by_formula
from superfine.classical.kernels import anisotropic_kernel
from superfine.classical.reduction import kernel_reduction, reduction
from superfine.classical.resample import resize
from superfine.color import KINDS
from superfine.errors import ShapeError
from superfine.fidelity import Tally, consistent_bands, measured_bands

FLOAT, BYTE, WORD = np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.uint16)
NAMES = ("bicubic", "box")
each_name = pytest.mark.parametrize("name", NAMES)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def cut(picture, seed, most=50):
    """Bands of random heights."""
    draw, at = np.random.default_rng(seed), 0
    while at < len(picture):
        rows = int(draw.integers(1, most))
        yield picture[at : at + rows]
        at += rows


def consistent(large, small, operator, made, seed=0, most=50):
    tally = Tally()
    bands = consistent_bands(cut(large, seed, most), cut(small, seed + 1, most), small.shape, operator, made, tally)
    return np.concatenate(list(bands)), tally


def reduced(large, scale, name):
    """A second witness in float64."""
    large = large.astype(np.float64)
    rows, cols = large.shape[0] // scale, large.shape[1] // scale
    if name == "box":
        return large.reshape(rows, scale, cols, scale, -1).mean(axis=(1, 3))
    return bicubic_by_formula(large, (rows, cols))


def enlarged(small, scale):
    unit = (small / KINDS[small.dtype]).astype(np.float32)
    return resize(unit, (scale * small.shape[0], scale * small.shape[1]))


def made_small(truth, scale, name):
    white = KINDS[truth.dtype]
    return np.clip(np.rint(reduced(truth, scale, name)), 0, white).astype(truth.dtype)


def dense(operator, size):
    patch = operator.patch(size, (0, size[0]), (0, size[1]))
    rows, cols = (operator.scale * side for side in size)
    return patch.reduce(np.eye(rows * cols).reshape(-1, rows, cols)).reshape(rows * cols, -1).T


def edge():
    picture = np.zeros((50, 60, 1), np.uint8)
    picture[:, 31:] = 255
    return picture


def checkerboard(side):
    return (np.indices((48, 48)) // side).sum(axis=0, dtype=np.uint8)[..., None] % 2 * np.uint8(255)


def screenshot():
    picture = Image.new("L", (150, 52), 0)
    draw = ImageDraw.Draw(picture)
    for line in range(4):
        draw.text((2, 12 * line + 2), f"$ ls -l /usr/{line} #@%&", fill=255, font=ImageFont.load_default_imagefont())
    return np.asarray(picture)[..., None]


HARD = {"edge": edge(), "checkerboard": checkerboard(1), "squares": checkerboard(5), "screenshot": screenshot()}
each_hard = pytest.mark.parametrize("hard", HARD)


# ---- before anything is cut off


@each_name
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 2), (70, 45)], ids=str)
@pytest.mark.parametrize("scale", [1, 2, 3, 5, 16])
def test_float_is_exact(scale, size, name):
    large, small = noise(scale * size[0], scale * size[1], 3), noise(*size, 3, seed=1)
    made, tally = consistent(large, small, reduction(name, scale), FLOAT)
    off = reduced(made, scale, name) - small
    assert np.abs(off).max() < 1e-6
    assert tally.worst < 1e-6
    assert tally.samples == small.size
    assert tally.psnr > 120


@each_name
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_float_is_the_nearest(scale, name):
    size = 9, 11
    operator = reduction(name, scale)
    large, small = noise(scale * size[0], scale * size[1], 1), noise(*size, 1, seed=1)
    made, _ = consistent(large, small, operator, FLOAT)
    matrix = dense(operator, size)
    wanted = large.ravel() + np.linalg.pinv(matrix) @ (small.ravel() - matrix @ large.ravel())
    np.testing.assert_allclose(made.ravel(), wanted, atol=2e-6)


def test_a_consistent_picture_stays():
    large = noise(96, 120, 2)
    made, _ = consistent(large, reduced(large, 2, "bicubic").astype(np.float32), reduction("bicubic", 2), FLOAT)
    np.testing.assert_allclose(made, large, atol=1e-6)


def test_every_channel_for_itself():
    large, small = noise(80, 60, 4), noise(40, 30, 4, seed=1)
    whole, _ = consistent(large, small, reduction("bicubic", 2), BYTE)
    for channel in range(4):
        alone, _ = consistent(large[..., [channel]], small[..., [channel]], reduction("bicubic", 2), BYTE)
        np.testing.assert_array_equal(whole[..., [channel]], alone)


# ---- the way the bands are cut doesn't show


@pytest.mark.parametrize("made", [FLOAT, BYTE, WORD], ids=str)
@pytest.mark.parametrize(
    ("name", "scale"), [("bicubic", 2), ("box", 3), ("bicubic", 5), pytest.param("kernel", 2, marks=pytest.mark.slow)]
)
def test_bands_do_not_show(name, scale, made):
    kernel = anisotropic_kernel(2 * scale, scale, ((0.5 * scale) ** 2, (0.3 * scale) ** 2), 30)
    operator = kernel_reduction(kernel, scale) if name == "kernel" else reduction(name, scale)
    small = noise(75, 37, 2, seed=2)
    small[20:50, 10:30] = noise(30, 20, 2, seed=3) > 0.5
    large = enlarged(small, scale)
    wanted, figures = consistent(large, small, operator, made, most=2)
    for seed, most in ((1, 20), (2, 1000)):
        again, other = consistent(large, small, operator, made, seed, most)
        np.testing.assert_array_equal(again, wanted)
        assert other == figures


# ---- in range and in whole levels


@each_name
@pytest.mark.parametrize(
    "scale", [2, 3, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("picture", ["astronaut", "coffee", "saturated"])
def test_photos_miss_nothing(picture, scale, name):
    truth = {"astronaut": data.astronaut, "coffee": data.coffee, "saturated": data.astronaut}[picture]()
    truth = truth[: 48 * scale, 200 : 200 + 40 * scale][: truth.shape[0] // scale * scale]
    if picture == "saturated":
        truth = np.clip(2 * truth.astype(np.float64) - 100, 0, 255).round().astype(np.uint8)
        # What the reduction itself had to cut off isn't a reduction of anything.
        exact = reduced(truth, scale, name)
        truth = np.clip(truth, 8, 247) if exact.min() < -0.5 or exact.max() > 255.5 else truth
    truth = truth[:, : truth.shape[1] // scale * scale]
    small = made_small(truth, scale, name)
    made, tally = consistent(enlarged(small, scale), small, reduction(name, scale), BYTE)
    off = reduced(made, scale, name) - small
    assert made.dtype == np.uint8
    assert tally.misses == (np.abs(off) > 0.501).sum() == 0
    assert tally.worst == pytest.approx(np.abs(off).max(), abs=1e-3)
    if np.abs(off).max() > 1e-4:
        assert tally.psnr == pytest.approx(peak_signal_noise_ratio(off * 0, off, data_range=255), abs=0.01)
    else:  # blocks come out exactly
        assert tally.psnr > 120
    assert tally.drift == pytest.approx(tuple(off.mean(axis=(0, 1))), abs=1e-3)


@each_name
def test_sixteen_bits(name):
    truth = (noise(150, 120, 3) * 65535).round().astype(np.uint16)
    truth[40:80, 30:70] = 65535
    small = made_small(np.clip(truth, 9000, 56000), 3, name)
    made, tally = consistent(enlarged(small, 3), small, reduction(name, 3), WORD)
    off = np.abs(reduced(made, 3, name) - small)
    assert made.dtype == np.uint16
    assert tally.misses == (off > 0.501).sum() == 0


@each_hard
@pytest.mark.parametrize("scale", [2, 3])
def test_box_always(scale, hard):
    small = HARD[hard]
    made, tally = consistent(enlarged(small, scale), small, reduction("box", scale), BYTE)
    assert np.abs(reduced(made, scale, "box") - small).max() <= 0.5 + 1e-9
    assert tally.misses == 0


@each_hard
def test_hard_pictures_are_as_near_as_can_be(hard):
    """The best real pictures, by the sum of what is over, are the witness; few samples are missed besides theirs."""
    small = HARD[hard][:16, 24:40]
    operator = reduction("bicubic", 2)
    made, tally = consistent(enlarged(small, 2), small, operator, BYTE)
    off = np.abs(reduced(made, 2, "bicubic") - small)
    assert tally.misses == (off > 0.501).sum()
    assert tally.worst == pytest.approx(off.max(), abs=1e-3)
    least = excess(operator, small)
    assert least.sum() > 1  # no in-range picture
    assert np.maximum(off - 0.5, 0).sum() < 1.05 * least.sum() + 0.02 * small.size
    assert tally.misses <= 1.1 * (least > 1e-3).sum() + 0.02 * small.size


@pytest.mark.parametrize("hard", ["edge", "squares", "screenshot"])
@pytest.mark.parametrize("scale", [2, 3])
def test_flat_areas_are_met(scale, hard):
    small = np.pad(HARD[hard], ((15, 15), (15, 15), (0, 0)), mode="edge")
    made, _ = consistent(enlarged(small, scale), small, reduction("bicubic", scale), BYTE)
    off = np.abs(reduced(made, scale, "bicubic") - small)
    flat = maximum_filter(small, (7, 7, 1)) == minimum_filter(small, (7, 7, 1))
    assert flat.sum() > 500
    assert (off[flat] <= 0.501).all()


def excess(operator, small):
    """Levels by which each sample of the best real in-range picture is over half a level: a linear programme."""
    size, wanted = small.shape[:2], small.ravel().astype(np.float64)
    matrix = dense(operator, size)
    rows, cols = matrix.shape
    over = -np.eye(rows)
    limits = np.block([[matrix, over], [-matrix, over]])
    bounds = np.concatenate([wanted + 0.5, 0.5 - wanted])
    found = linprog(np.r_[np.zeros(cols), np.ones(rows)], limits, bounds, bounds=[(0, 255)] * cols + [(0, None)] * rows)
    assert found.success
    return found.x[cols:]


@pytest.mark.parametrize("seed", range(6))
def test_misses_only_where_no_picture_exists(seed):
    """Random pictures with black and white; of feasible ones up to a sample in a hundred may be missed by a bit."""
    draw = np.random.default_rng(seed)
    small = np.clip(draw.normal(128, 60 + 25 * seed, (12, 14, 1)), 0, 255).round().astype(np.uint8)
    operator = reduction("bicubic", 2)
    _, tally = consistent(enlarged(small, 2), small, operator, BYTE)
    if excess(operator, small).sum() < 1e-6:
        assert tally.misses <= small.size / 100
        assert tally.worst < 1
    else:
        assert tally.misses > 0


# ---- blur kernels


@pytest.mark.parametrize("scale", [2, 3])
def test_kernel_is_met(scale):
    kernel = anisotropic_kernel(4 * scale + scale % 2, scale, ((0.6 * scale) ** 2, (0.4 * scale) ** 2), 25)
    operator = kernel_reduction(kernel, scale)
    truth = data.astronaut()[: 50 * scale, 100 : 100 + 20 * scale]
    exact = operator(truth / 255)
    made, tally = consistent(enlarged(exact.astype(np.float32), scale), exact.astype(np.float32), operator, FLOAT)
    assert np.abs(operator(made.astype(np.float64)) - exact).max() < 1e-6
    small = np.rint(255 * exact).astype(np.uint8)
    made, tally = consistent(enlarged(small, scale), small, operator, BYTE)
    off = np.abs(operator(made.astype(np.float64)) - small)
    assert tally.misses == (off > 0.501).sum()
    assert tally.misses <= small.size / 1000


def test_a_kernel_that_takes_frequencies_away_is_counted():
    operator = kernel_reduction(np.full((8, 8), 1 / 64), 2)  # nothing of half the small picture's frequencies is left
    small = checkerboard(2)
    made, tally = consistent(enlarged(small, 2), small, operator, BYTE)
    assert tally.misses == (np.abs(operator(made.astype(np.float64)) - small) > 0.501).sum() > 1000


def test_a_wide_kernel_is_counted():
    operator = kernel_reduction(anisotropic_kernel(20, 2, (2.0, 1.0), 30), 2)
    assert operator.reach > 4
    small = np.clip(2 * data.astronaut()[100:150, 200:245].astype(int) - 100, 0, 255).astype(np.uint8)
    made, tally = consistent(enlarged(small, 2), small, operator, BYTE)
    off = np.abs(operator(made.astype(np.float64)) - small)
    assert tally.misses == (off > 0.501).sum() < small.size
    assert tally.worst == pytest.approx(off.max(), abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 2)], ids=str)
def test_pictures_below_the_kernel(size):
    operator = kernel_reduction(anisotropic_kernel(9, 3, (2.0, 1.0), 0), 3)
    large, small = noise(3 * size[0], 3 * size[1], 3), noise(*size, 3, seed=1)
    made, _ = consistent(large, small, operator, FLOAT)
    assert np.abs(operator(made.astype(np.float64)) - small).max() < 1e-6


# ---- the figure alone


@pytest.mark.parametrize("kind", [FLOAT, BYTE, WORD], ids=str)
def test_measured_bands_pass_unchanged(kind):
    large = (noise(90, 75, 3) * KINDS[kind]).astype(kind)
    small = (noise(30, 25, 3, seed=1) * 255).astype(np.uint8)
    tally = Tally()
    made = list(measured_bands(cut(large, 1), cut(small, 2), small.shape, (90, 75), tally, reduction("bicubic", 3)))
    np.testing.assert_array_equal(np.concatenate(made), large)
    off = bicubic_by_formula(large / KINDS[kind], (30, 25)) - small / 255
    assert tally.psnr == pytest.approx(-10 * np.log10(np.square(off).mean()), abs=1e-4)
    assert tally.worst == pytest.approx(KINDS[kind] * np.abs(off).max(), rel=1e-4)
    assert tally.drift == pytest.approx(tuple(255 * off.mean(axis=(0, 1))), abs=1e-3)
    assert tally.samples == small.size


def test_measured_without_a_reduction_is_antialiased_bicubic():
    small = (noise(30, 25, 3, seed=1) * 255).astype(np.uint8)
    large = noise(47, 38, 3)
    tally = Tally()
    list(measured_bands(cut(large, 1), [small], small.shape, (47, 38), tally))
    off = bicubic_by_formula(large, (30, 25)) - small / 255
    assert tally.psnr == pytest.approx(-10 * np.log10(np.square(off).mean()), abs=1e-4)


def test_alpha_is_no_colour():
    small = noise(8, 9, 4)
    large = enlarged(small, 1)
    large[..., 3] = 0
    tally = Tally()
    list(measured_bands([large], [small], small.shape, (8, 9), tally))
    assert tally.psnr == np.inf
    assert tally.drift[3] == pytest.approx(-255 * small[..., 3].mean(), rel=1e-4)


@pytest.mark.parametrize("channels", [2, 4])
def test_colours_count_as_far_as_they_are_seen(channels):
    small, large = noise(40, 25, channels), noise(80, 50, channels, seed=1)
    small[:, :9, -1] = 0
    tally = Tally()
    list(measured_bands(cut(large, 1), cut(small, 2), small.shape, (80, 50), tally, reduction("bicubic", 2)))
    off = (bicubic_by_formula(large, (40, 25)) - small)[..., :-1]
    seen = np.repeat(small[..., -1:], channels - 1, 2)
    assert tally.psnr == pytest.approx(-10 * np.log10(np.average(np.square(off), weights=seen)), abs=1e-4)
    wanted = 255 * np.average(off, axis=(0, 1), weights=seen)
    assert tally.drift[:-1] == pytest.approx(tuple(wanted), abs=1e-3)


def test_of_what_is_hidden_nothing_counts():
    small = noise(8, 9, 4)
    small[..., 3] = 0
    tally = Tally()
    list(measured_bands([1 - small], [small], small.shape, (8, 9), tally))
    assert tally.psnr == np.inf
    assert tally.drift[:3] == (0, 0, 0)


@pytest.mark.parametrize(
    ("large", "small", "message"),
    [
        (noise(20, 18, 3), noise(10, 8, 3), r"a band of \(20, 18, 3\)"),
        (noise(19, 16, 3), noise(10, 8, 3), "end after 19 of 20 rows"),
        (noise(21, 16, 3), noise(10, 8, 3), r"a band of \(21, 16, 3\)"),
        (noise(20, 16, 3), noise(9, 8, 3), "end after 9 of 10 rows"),
        (noise(20, 16, 3).astype(np.float64), noise(10, 8, 3), "float64"),
    ],
)
@pytest.mark.parametrize("made", [FLOAT, BYTE], ids=str)
def test_wrong_bands(large, small, message, made):
    with pytest.raises(ShapeError, match=message):
        list(consistent_bands([large], [small], (10, 8, 3), reduction("box", 2), made, Tally()))
