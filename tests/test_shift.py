"""Moving by fractions of a pixel: against SciPy, OpenCV's stored results, and formulas written out."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from superfine.classical.shift import BORDERS, METHODS, TAPS, extended, shift_image, tap_weights
from superfine.errors import ShapeError, UsageError

SCIPY = {"reflect": "reflect", "wrap": "grid-wrap", "replicate": "nearest", "constant": "grid-constant"}
FRACTIONS = [(3.3, -7.7), (-0.25, 20.5), (0.5, 0.0), (0.0, -1e-9)]


def noise(rows=37, cols=53, channels=None, dtype=np.float64):
    draw = np.random.default_rng(rows)
    shape = (rows, cols) if channels is None else (rows, cols, channels)
    if np.dtype(dtype).kind == "f":
        return draw.random(shape).astype(dtype)
    return draw.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def smooth(rows, cols):
    """Waves of the frame's own period, none near Nyquist, and where they are after a move."""

    def at(dy, dx):
        row, col = np.mgrid[0:rows, 0:cols]
        r, c = 2 * np.pi * (row - dy) / rows, 2 * np.pi * (col - dx) / cols
        return 0.5 + 0.2 * np.sin(3 * r + 0.4) * np.cos(5 * c) + 0.1 * np.cos(7 * r - 2 * c)

    return at


# ---- where content goes


def test_content_moves_by_plus_d():
    pixels = np.zeros((7, 9))
    pixels[2, 3] = 1
    moved = shift_image(pixels, (1, 2), border="constant")
    assert np.argwhere(moved).tolist() == [[3, 5]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_whole_pixels_are_copies(method, border, dtype):
    mode = {"reflect": "symmetric", "replicate": "edge", "wrap": "wrap", "constant": "constant"}[border]
    for channels in (None, 1, 2, 3, 4):
        pixels = noise(6, 5, channels, dtype)
        before = pixels.copy()
        for dy, dx in ((2, -3), (-5, 4), (0, 0), (1.0, 0.0)):
            pad = ((8, 8), (8, 8)) + ((0, 0),) * (pixels.ndim - 2)
            wide = np.pad(pixels, pad, mode=mode)
            wanted = wide[8 - int(dy) : 14 - int(dy), 8 - int(dx) : 13 - int(dx)]
            moved = shift_image(pixels, (dy, dx), method=method, border=border)
            np.testing.assert_array_equal(moved, wanted)
            assert moved.dtype == dtype
        np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("border", BORDERS)
def test_one_pixel_moves_within_itself(border):
    pixels = np.full((1, 1), 200, np.uint8)
    for method in METHODS:
        moved = shift_image(pixels, (0.25, -0.5), method=method, border=border, fill=200 / 255)
        np.testing.assert_array_equal(moved, pixels)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_constant_stays_constant(method, border):
    moved = shift_image(np.full((5, 8), 0.3), (2.4, -3.7), method=method, border=border, fill=0.3)
    np.testing.assert_allclose(moved, 0.3, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_axes_and_sides_are_alike(method):
    pixels = noise(9, 12)
    moved = shift_image(pixels, (1.3, -2.2), method=method)
    np.testing.assert_allclose(shift_image(pixels.T, (-2.2, 1.3), method=method), moved.T, atol=1e-13)
    np.testing.assert_allclose(shift_image(pixels[::-1], (-1.3, -2.2), method=method), moved[::-1], atol=1e-13)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_channels_are_moved_alike(method, border):
    pixels = noise(9, 11, 3, np.uint16)
    moved = shift_image(pixels, (0.6, 2.5), method=method, border=border)
    for channel in range(3):
        alone = shift_image(pixels[..., channel], (0.6, 2.5), method=method, border=border)
        np.testing.assert_array_equal(moved[..., channel], alone)


# ---- each method against another witness


@pytest.mark.parametrize("shift", FRACTIONS)
@pytest.mark.parametrize("border", ["reflect", "wrap"])
def test_spline_is_scipys(border, shift):
    pixels = noise()
    wanted = ndimage.shift(pixels, shift, order=5, mode=SCIPY[border])
    np.testing.assert_allclose(shift_image(pixels, shift, method="spline", border=border), wanted, atol=1e-12)


@pytest.mark.parametrize("shift", FRACTIONS)
@pytest.mark.parametrize("border", ["replicate", "constant"])
def test_spline_goes_on_beyond_the_frame(border, shift):
    """SciPy goes on by 12 samples only; here it is given more, by hand."""
    pixels = noise()
    mode = {"replicate": {"mode": "edge"}, "constant": {"mode": "constant", "constant_values": 0.4}}[border]
    wide = np.pad(pixels, 60, **mode)
    wanted = ndimage.shift(wide, shift, order=5, mode="reflect")[60:-60, 60:-60]
    moved = shift_image(pixels, shift, method="spline", border=border, fill=0.4)
    np.testing.assert_allclose(moved, wanted, atol=1e-12)


@pytest.mark.parametrize("shift", FRACTIONS)
@pytest.mark.parametrize("border", BORDERS)
def test_linear_is_scipys(border, shift):
    pixels = noise()
    wanted = ndimage.shift(pixels, shift, order=1, mode=SCIPY[border], cval=0.4)
    moved = shift_image(pixels, shift, method="linear", border=border, fill=0.4)
    np.testing.assert_allclose(moved, wanted, atol=1e-12)


def keys(d, a=-0.75):
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def lanczos(d):
    return float(np.sinc(d) * np.sinc(d / 3)) if abs(d) < 3 else 0.0


@pytest.mark.parametrize(("method", "weight"), [("bicubic", keys), ("lanczos", lanczos)])
def test_taps_are_the_formula(method, weight):
    """Sample by sample, as the definition has it: in[r - dy] is a sum over its neighbours."""
    line, d = noise(1, 40)[0], 3.3
    moved = shift_image(line[None], (0, d), method=method, border="wrap")[0]
    for place in range(40):
        near = [(n, weight(place - d - n)) for n in range(-10, 50)]
        wanted = sum(w * line[n % 40] for n, w in near) / sum(w for _, w in near)
        assert moved[place] == pytest.approx(wanted, abs=1e-13)


def test_half_a_pixel_of_bicubic():
    np.testing.assert_array_equal(tap_weights("bicubic", 0.5)[:4], [-3 / 32, 19 / 32, 19 / 32, -3 / 32])


@pytest.mark.parametrize("method", TAPS)
@pytest.mark.parametrize("rest", [-0.5, -0.2, 0, 1e-20, 0.37, 0.5])
def test_weights_add_up_to_one(method, rest):
    assert tap_weights(method, rest).sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("name", ["3.5,3.5", "-1.25,2.75", "0.3,-0.7"])
@pytest.mark.parametrize("border", ["reflect", "replicate", "wrap", "constant"])
def test_bicubic_is_opencvs_within_a_level(name, border):
    """warpAffine, INTER_CUBIC, OpenCV 5.0.0; stored by tests/data/opencv_shift.py."""
    with np.load(Path(__file__).parent / "data" / "opencv_shift.npz") as stored:
        source, wanted = stored["source"], stored[f"{name}/{border}"]
    dy, dx = map(float, name.split(","))
    moved = shift_image(source, (dy, dx), method="bicubic", border=border, fill=100 / 255)
    away = np.abs(moved.astype(int) - wanted)
    assert away.max() <= 1
    assert np.mean(away == 0) > 0.99
    assert np.mean(np.abs(source.astype(int) - wanted)) > 5  # it has moved


@pytest.mark.parametrize("size", [(31, 45), (32, 48)])
@pytest.mark.parametrize("shift", [(3.5, 3.5), (-0.3, 12.81)])
def test_fourier_moves_waves_to_where_they_are(size, shift):
    at = smooth(*size)
    np.testing.assert_allclose(shift_image(at(0, 0), shift, border="wrap"), at(*shift), atol=1e-13)


@pytest.mark.parametrize("shift", [(3.5, 3.5), (-0.3, 12.81)])
def test_fourier_there_and_back_on_odd_sizes(shift):
    pixels = noise(37, 53)
    there = shift_image(pixels, shift, border="wrap")
    assert np.abs(there - pixels).max() > 0.1
    np.testing.assert_allclose(shift_image(there, (-shift[0], -shift[1]), border="wrap"), pixels, atol=1e-12)


def test_fourier_there_and_back_without_nyquist():
    spectrum = np.fft.fft2(noise(36, 52))
    spectrum[18], spectrum[:, 26] = 0, 0
    pixels = np.fft.ifft2(spectrum).real
    there = shift_image(pixels, (3.5, -2.7), border="wrap")
    np.testing.assert_allclose(shift_image(there, (-3.5, 2.7), border="wrap"), pixels, atol=1e-12)


def test_nyquist_becomes_its_mean_phase():
    pixels = 0.5 + 0.25 * np.cos(np.pi * np.arange(16))[None].repeat(3, 0)
    for d in (0.5, 0.2):
        wanted = 0.5 + (pixels - 0.5) * np.cos(np.pi * d)
        np.testing.assert_allclose(shift_image(pixels, (0, d), border="wrap"), wanted, atol=1e-14)


def test_fourier_mirrors_at_the_edge():
    """The picture and its mirror are one period, however large the picture is."""
    pixels = noise(6, 9)
    doubled = np.pad(pixels, ((0, 6), (0, 9)), mode="symmetric")
    wanted = ndimage.fourier_shift(np.fft.fft2(doubled), (1.4, -2.3))
    moved = shift_image(pixels, (1.4, -2.3))
    np.testing.assert_allclose(moved, np.fft.ifft2(wanted).real[:6, :9], atol=1e-12)


@pytest.mark.parametrize("border", ["replicate", "constant"])
def test_fourier_shows_no_seam(border):
    """The left edge is dark and the right one bright: nothing of one may come out at the other."""
    ramp = np.broadcast_to(np.linspace(0.0, 1, 64), (3, 64))
    inner = ramp if border == "replicate" else np.pad(ramp[:, 8:-8] * 0, ((0, 0), (8, 8)))
    moved = shift_image(inner, (0, 0.5), border=border)
    wanted = shift_image(np.pad(inner, ((0, 0), (500, 500)), mode="edge"), (0, 0.5))[:, 500:-500]
    np.testing.assert_allclose(moved, wanted, atol=2e-3)


@pytest.mark.parametrize("method", ["fourier", "spline", "lanczos", "bicubic"])
def test_a_photograph_is_kept_better_than_by_linear(method):
    pixels = data.camera()[100:228, 60:190] / 255.0

    def loss(name):
        there = shift_image(pixels, (0.5, 0.5), method=name)
        back = shift_image(there, (-0.5, -0.5), method=name)
        return np.mean((back - pixels)[16:-16, 16:-16] ** 2)

    assert loss(method) < loss("linear") / 2


# ---- depth and alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("method", METHODS)
def test_levels_are_rounded_and_clipped(method, dtype):
    pixels = noise(12, 15, None, dtype)
    white = np.iinfo(dtype).max
    exact = shift_image(pixels / white, (0.5, 0.25), method=method) * white
    moved = shift_image(pixels, (0.5, 0.25), method=method)
    assert moved.dtype == dtype
    assert exact.max() > white or method == "linear"
    assert np.abs(moved - np.clip(exact, 0, white)).max() <= 0.5 + 1e-6


def test_float32_is_float64_rounded():
    pixels = noise(12, 15, None, np.float32)
    moved = shift_image(pixels, (0.5, 0.25))
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(moved, shift_image(pixels.astype(np.float64), (0.5, 0.25)).astype(np.float32))


def test_big_endian_comes_back_native():
    pixels = noise(5, 6, None, np.uint16)
    np.testing.assert_array_equal(shift_image(pixels.astype(">u2"), (0.5, 1)), shift_image(pixels, (0.5, 1)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_unseen_colours_dont_leak(method, dtype):
    """One colour where it is seen stays that colour, whatever lies under the transparent pixels."""
    pixels = np.zeros((20, 24, 4), dtype)
    white = 1.0 if dtype == np.float64 else 255
    pixels[..., :3] = np.random.default_rng(0).integers(0, 2, (20, 24, 3)) * white
    pixels[5:15, 6:18] = np.array([0.8, 0.4, 0.2, 1]) * white
    moved = shift_image(pixels, (0.5, 1.25), method=method)
    seen = moved[..., 3] > 0.05 * white
    assert 100 < seen.sum() < 300
    away = np.abs(moved[seen][:, :3] / white - np.array([0.8, 0.4, 0.2]))
    assert away.max() < (0.5 if dtype == np.float64 else 3) / 255


def test_over_a_ground_it_looks_moved():
    """What a viewer sees over a ground is the moved picture of what he saw, as compositing has it."""
    pixels = noise(16, 18, 4)
    moved = shift_image(pixels, (0.5, -1.5), method="linear")
    shown = pixels[..., :3] * pixels[..., 3:] + 0.3 * (1 - pixels[..., 3:])
    wanted = shift_image(shown, (0.5, -1.5), method="linear")
    np.testing.assert_allclose(moved[..., :3] * moved[..., 3:] + 0.3 * (1 - moved[..., 3:]), wanted, atol=1e-12)


@pytest.mark.parametrize("alpha", [0, 77, 255])
def test_even_alpha_changes_nothing(alpha):
    pixels = noise(8, 9, 4, np.uint8)
    pixels[..., 3] = alpha
    moved = shift_image(pixels, (0.5, 0.5))
    np.testing.assert_array_equal(moved[..., 3], alpha)
    np.testing.assert_array_equal(moved[..., :3], shift_image(pixels[..., :3], (0.5, 0.5)))


def test_constant_around_alpha_is_transparent():
    pixels = np.full((6, 6, 2), 255, np.uint8)
    for shift in ((0, 3), (0, 3.5)):
        moved = shift_image(pixels, shift, method="linear", border="constant", fill=1)
        assert moved[0, :3, 1].tolist() == [0, 0, 0]
        assert moved[0, 4:, 1].tolist() == [255, 255]


def test_fill_is_of_white():
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)):
        for shift in (2, 2.5):
            moved = shift_image(np.zeros((1, 6), dtype), (0, shift), method="linear", border="constant", fill=1.0)
            assert moved[0, :2].tolist() == [white, white]


# ---- the border by itself


@pytest.mark.parametrize(("border", "mode"), [("reflect", "symmetric"), ("replicate", "edge"), ("wrap", "wrap")])
def test_borders_are_numpys(border, mode):
    pixels = noise(3, 5)
    for axis, start, stop in itertools.product((0, 1), (-7, 0, 2), (3, 11)):
        pad = [(20, 20) if axis == each else (0, 0) for each in (0, 1)]
        wanted = np.take(np.pad(pixels, pad, mode=mode), range(20 + start, 20 + stop), axis=axis)
        np.testing.assert_array_equal(extended(pixels, start, stop, axis, border), wanted)


# ---- what is refused


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((0, 4)), r"without an empty side, got \(0, 4\)"),
        (np.zeros((4, 4, 0)), "without an empty side"),
        (np.zeros(4), r"got \(4,\)"),
        (np.zeros((4, 4, 5)), r"got \(4, 4, 5\)"),
        (np.zeros((4, 4), np.int64), "got int64; convert it with .astype"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.zeros((4, 4), complex), "got complex128"),
        (np.full((4, 4), np.nan), "holds NaN or infinity"),
        (np.full((4, 4), np.inf, np.float32), "holds NaN or infinity"),
        (np.full((4, 4, 4), 2.0), "with alpha must lie in 0..1, and these go from 2 to 2"),
    ],
)
def test_wrong_pictures_are_refused(pixels, words):
    with pytest.raises(ShapeError, match=words):
        shift_image(pixels, (0.5, 0.5))


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((np.nan, 0), "dy is nan; want a finite number"),
        ((0, np.inf), "dx is inf; want a finite number"),
        ((0, 1e300), "moves all 6 pixels of that side out of the frame"),
        ((4, 0), "dy 4 moves all 4 pixels of that side out of the frame; want less than 4"),
        ((0, -6.0), "dx -6 moves all 6"),
        ((1, 2, 3), r"a shift is two numbers, \(dy, dx\)"),
        (("a", 1), "a shift is two numbers"),
        (3.5, "a shift is two numbers"),
        (None, "a shift is two numbers"),
    ],
)
@pytest.mark.parametrize("border", BORDERS)
def test_wrong_shifts_are_refused(shift, words, border):
    with pytest.raises(UsageError, match=words):
        shift_image(np.zeros((4, 6)), shift, border=border)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "cubic"}, "no method 'cubic'; there are fourier, spline, lanczos, bicubic, linear"),
        ({"border": "mirror"}, "no border 'mirror'; there are reflect, replicate, wrap, constant"),
        ({"fill": np.nan}, "fill nan is not a level"),
        ({"fill": 3}, "fill 3 is not a level"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        shift_image(np.zeros((4, 6), np.uint8), (0.5, 0), **options)
