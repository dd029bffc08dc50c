"""Intervals against distributions that are known, SciPy, and sums by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import isotonic_regression
from skimage import data

from fakes import painter
from superfine.engine import ClassicalEngine, open_engine
from superfine.errors import ShapeError
from superfine.evaluate.intervals import (
    Guessed,
    _isotonic,
    ause,
    best_blur,
    blurred_gradient,
    coverage,
    fitted_table,
    guessed,
    interval_figures,
    sparsification,
)
from superfine.evaluate.pairs import Pair
from superfine.guess import GUESS_OCTAVES, LEAST_GUESS, Calibration

SHARE = 0.9


def coded(expected):
    """Levels of 255 -> codes."""
    return (np.log2(expected / 255 / LEAST_GUESS) / GUESS_OCTAVES).astype(np.float32)


def photo(seed, *, side=200, spread=1.0, off=1.0):
    """Errors by Laplace whose scale a guess network knows, but for the factor `off`."""
    draw = np.random.default_rng(seed)
    scale = np.exp2(draw.normal(1, spread, (side, side)))
    errors = draw.exponential(scale * off)
    return Guessed(coded(scale), errors.astype(np.float32), draw.random((side, side), np.float32))


def calibration(table, **other):
    facts = {"network": "n-x2", "sha256": "0", "share": SHARE, "degradation": "d", "pictures": "p", "tested": {}}
    return Calibration(**facts | other, codes=table.codes, half_widths=table.half_widths)


# ---- coverage, AUSE


def test_coverage_counts_what_lies_within():
    assert coverage(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.5, 1.0, 1.9, 4.0])) == 0.75


def by_hand(errors, doubt, steps):
    """As the definition says, one step after another."""
    order = sorted(range(errors.size), key=lambda place: (-doubt[place], place))
    left = [errors[order[step * errors.size // steps :]].mean() for step in range(steps)]
    return np.array(left) / errors.mean()


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_sparsification_by_hand(steps):
    draw = np.random.default_rng(0)
    errors, doubt = draw.random(337), draw.integers(0, 20, 337).astype(float)
    np.testing.assert_allclose(sparsification(errors, doubt, steps), by_hand(errors, doubt, steps), rtol=1e-12)
    wanted = np.mean(by_hand(errors, doubt, steps) - by_hand(errors, errors, steps))
    assert ause(errors, doubt, steps) == pytest.approx(wanted, rel=1e-9)


def test_ause_of_exponential_errors_with_nothing_known():
    """Without any order the curve is flat at one; the oracle's area is 2 - pi^2/6 for exponential errors."""
    draw = np.random.default_rng(1)
    errors = draw.exponential(size=400_000)
    assert ause(errors, draw.random(errors.size)) == pytest.approx(1 - (2 - np.pi**2 / 6), abs=0.01)


def test_ause_of_the_best_and_the_worst_order():
    errors = np.random.default_rng(2).exponential(size=(50, 60))
    assert ause(errors, errors * 3 + 1) == pytest.approx(0, abs=1e-12)
    orders = [ause(errors, doubt) for doubt in (errors, np.random.default_rng(3).random(errors.shape), -errors)]
    assert orders == sorted(orders)
    assert ause(errors * 17, -errors) == pytest.approx(orders[-1]), "the size of errors doesn't count"


def test_nothing_is_off():
    assert ause(np.zeros(200), np.arange(200.0)) == 0


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((0,), (0,)), ((5,), (5,))])
def test_wrong_shapes(shapes):
    errors, doubt = map(np.zeros, shapes)
    with pytest.raises(ShapeError, match="want errors and doubts of one shape, 100 or more"):
        ause(errors, doubt)
    if errors.size != 5:
        with pytest.raises(ShapeError, match="want errors and half-widths of one shape"):
            coverage(errors, doubt)


# ---- the rival


@pytest.mark.parametrize("sigma", [0, 0.7, 2, 5])
def test_the_blurred_gradient_against_scipy(sigma):
    luma = data.camera()[100:180:2, 200:300:2] / 255
    down, across = np.gradient(luma)
    wanted = np.hypot(down, across)
    if sigma:
        wanted = gaussian_filter(wanted, sigma, mode="nearest", radius=int(np.ceil(4 * sigma)))
    np.testing.assert_allclose(blurred_gradient(luma, sigma), wanted, atol=1e-12)


def test_a_line_has_no_gradient():
    with pytest.raises(ShapeError, match="2 px a side or more"):
        blurred_gradient(np.zeros((1, 9)), 1)


def test_the_rival_may_choose_its_blur():
    """Errors that are the gradient blurred by 3 are found best by sigma 3."""
    luma = data.camera()[:256, :256].astype(np.float32) / 255
    picture = Guessed(luma, blurred_gradient(luma, 3), luma)
    assert best_blur([picture], (0, 1, 3, 8)) == (3, pytest.approx(0, abs=1e-9))


# ---- calibration


def test_the_table_of_exponential_errors():
    """The 90 % quantile of an exponential of mean b is b ln 10, for every b."""
    table = fitted_table([photo(seed) for seed in range(6)], SHARE)
    assert (np.diff(table.codes) > 0).all()
    assert (np.diff(table.half_widths) >= 0).all()
    expected = 255 * LEAST_GUESS * np.exp2(GUESS_OCTAVES * table.codes)
    inner = slice(3, -4)  # where bins are narrow
    np.testing.assert_allclose(table.half_widths[inner] / expected[inner], np.log(10), rtol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("off", [0.3, 1.0, 4.0])
def test_a_wrong_guess_is_put_right(off):
    """However wrong a network's own scale is: the share is held on pictures that calibration didn't see."""
    table = fitted_table([photo(seed, off=off) for seed in range(4)], SHARE)
    figures = interval_figures([photo(seed, off=off) for seed in range(10, 50)], calibration(table))
    assert figures["pictures"] == 40
    assert figures["coverage"] == pytest.approx(SHARE, abs=0.004)
    assert SHARE - 0.02 < figures["coverage_from"] < figures["coverage_to"] < SHARE + 0.02
    assert figures["within_75_to_99"] == 1
    assert figures["ause"] < 0.6 * figures["ause_gradient"], "the gradient of noise knows nothing"


def test_few_and_unlike_pictures_make_intervals_wider():
    """By a standard error of the share, over the pictures: that of many pixels would be nothing."""
    pictures = [photo(seed, off=off) for seed, off in enumerate((0.6, 0.8, 1.0, 1.3, 1.7))]
    known = calibration(fitted_table(pictures, SHARE))
    parts = np.stack([each.errors / known.half_widths_of(each.codes) for each in pictures])
    just = np.quantile(parts, SHARE)
    wanted = np.std([coverage(part, np.full_like(part, just)) for part in parts], ddof=1) / math.sqrt(5)
    assert wanted > 0.02
    assert np.mean(parts <= 1) - SHARE == pytest.approx(wanted, rel=0.02)


def test_pictures_unlike_those_of_the_calibration_are_seen():
    table = fitted_table([photo(0), photo(1)], SHARE)
    figures = interval_figures([photo(2, off=4), photo(3, off=0.01)], calibration(table))
    assert figures["within_75_to_99"] == 0
    assert figures["coverage_from"] < 0.5
    assert figures["coverage_to"] > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_isotonic_against_scipy(seed):
    draw = np.random.default_rng(seed)
    values, weights = draw.normal(size=40) + np.arange(40) / 10, draw.integers(1, 9, 40)
    np.testing.assert_allclose(_isotonic(values, weights), isotonic_regression(values, weights=weights).x, rtol=1e-9)


def test_few_errors_get_wide_intervals():
    """Of four errors no fifth lies within the third in nine of ten cases: the largest is taken, at the least."""
    picture = Guessed(np.full((2, 2), 0.5, np.float32), np.array([[1, 2], [3, 4]], np.float32), np.zeros((2, 2)))
    assert fitted_table([picture], SHARE).half_widths.tolist() == [4.0]


def test_a_picture_without_errors_has_narrow_intervals():
    flat = Guessed(np.zeros((9, 9), np.float32), np.zeros((9, 9), np.float32), np.zeros((9, 9)))
    assert fitted_table([flat], SHARE).half_widths.tolist() == [1 / 256]


def test_nothing_to_calibrate_on():
    with pytest.raises(ShapeError, match="no picture to calibrate on"):
        fitted_table([], SHARE)


# ---- pictures


def test_errors_are_of_luma_in_levels():
    """Nearest of a picture of squares is off by nothing; of one with a red square brighter, by red's share of luma."""
    small = np.random.default_rng(0).integers(0, 200, (70, 80, 3), dtype=np.uint8)
    large = small.repeat(2, 0).repeat(2, 1)
    large[10:20, 30:40, 0] += 10
    pairs = [Pair("a", small, large)]
    (found,) = guessed(pairs, ClassicalEngine("nearest", 2), open_engine(painter("guess", 2, 0.25), precision="fp32"))
    wanted = np.zeros((140, 160))
    wanted[10:20, 30:40] = 10 * 0.299
    np.testing.assert_allclose(found.errors, wanted, atol=1e-4)
    np.testing.assert_allclose(found.codes, 0.25, atol=1e-6)
    assert {each.shape for each in found} == {(140, 160)}


def test_pairs_are_taken_one_by_one():
    taken = itertools.count()

    def pairs():
        for _ in range(3):
            next(taken)
            yield Pair("a", np.zeros((8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.uint8))

    each = guessed(pairs(), ClassicalEngine("nearest", 2), open_engine(painter("guess", 2, 0.5)))
    next(each)
    assert next(taken) == 1
