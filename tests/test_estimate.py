"""Kernels found in pictures that SciPy made small with known ones, by formulas of the tests' own."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import convolve, rotate
from skimage import data

from superfine.blind.estimate import DIRECTIONS, TRUSTED, KernelEstimate, estimate_kernel, kernel_features
from superfine.classical.kernels import kernel_correlation, middle, resampler_kernel
from superfine.errors import ShapeError, UsageError

LUMA = [0.299, 0.587, 0.114]
SIDES = {2: 22, 3: 31, 4: 30}
NAMES = ("astronaut", "coffee", "chelsea", "camera", "rocket")


def photo(name: str) -> Any:
    """The luma of one of scikit-image's photographs, in 8-bit levels."""
    pixels = getattr(data, name)()
    return pixels @ LUMA if pixels.ndim == 3 else pixels.astype(float)


PHOTOS = {name: photo(name) for name in NAMES}


def places(scale: int) -> tuple[Any, Any]:
    """How far each tap of a kernel lies right of, and above, the centre between the taps that meet there."""
    side = SIDES[scale]
    place = np.arange(side) - (side - 1) / 2  # every side here is as odd or even as its scale
    return np.meshgrid(place, -place)


def gaussian(scale: int, wide: float, narrow: float, angle: float) -> Any:
    right, up = places(scale)
    turn = np.exp(-1j * np.radians(angle))
    turned = (right + 1j * up) * turn
    weight = np.exp(-((turned.real / wide) ** 2 + (turned.imag / narrow) ** 2) / 2)
    return weight / weight.sum()


def motion(scale: int, length: float, angle: float, sigma: float) -> Any:
    """A line of even light, drawn ten times as fine, softened."""
    right, up = places(scale)
    steps = np.linspace(-length / 2, length / 2, 201) * np.exp(1j * np.radians(angle))
    weight = sum(np.exp(-(np.abs(right + 1j * up - step) ** 2) / (2 * sigma**2)) for step in steps)
    return weight / weight.sum()


def made_small(plane: Any, kernel: Any, scale: int, noise: float = 0) -> Any:
    """Convolved by SciPy, then every s-th pixel as the centre rule says, in 8 bits."""
    rows, cols = (side // scale * scale for side in plane.shape)
    # SciPy's output pixel p lies over input p with tap n//2 there; ours wants it (s-1)//2 further.
    blurred = convolve(plane[:rows, :cols], kernel, mode="nearest")
    small = blurred[(scale - 1) // 2 :: scale, (scale - 1) // 2 :: scale]
    noisy = small + noise * np.random.default_rng(3).standard_normal(small.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.float32)


def estimate(name: str, kernel: Any, scale: int, noise: float = 0) -> KernelEstimate:
    return estimate_kernel([made_small(PHOTOS[name], kernel, scale, noise)], scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_tests_own_kernels_keep_the_centre_rule(scale: int) -> None:
    assert middle(SIDES[scale], scale) == (SIDES[scale] - 1) / 2


@pytest.mark.parametrize(("scale", "sigma"), [(2, 1.2), (3, 1.8), (4, 2.4)])
def test_a_round_gaussian_is_found(scale: int, sigma: float) -> None:
    truth = gaussian(scale, sigma, sigma, 0)
    found = [estimate(name, truth, scale) for name in ("astronaut", "coffee")]
    for one in found:
        assert one.kernel.shape == truth.shape
        assert one.kernel.min() >= 0
        assert one.kernel.sum() == pytest.approx(1, abs=1e-12)
        assert kernel_correlation(one.kernel, truth) > 0.95
        assert one.trust > TRUSTED


@pytest.mark.parametrize("angle", [20, 65, 110, 155])
def test_a_long_gaussian_is_found_and_turns_counter_clockwise(angle: float) -> None:
    truth = gaussian(4, 4.4, 2, angle)
    found = estimate("astronaut", truth, 4)
    assert kernel_correlation(found.kernel, truth) > 0.92
    assert kernel_correlation(found.kernel, truth) > kernel_correlation(found.kernel, truth[::-1]) + 0.1


def test_motion_is_found() -> None:
    truth = motion(2, 8, 35, 0.7)
    found = estimate("coffee", truth, 2)
    assert found.family == "motion"
    assert kernel_correlation(found.kernel, truth) > 0.9


@pytest.mark.parametrize(("name", "scale"), [("camera", 3), ("astronaut", 4)])
def test_bicubic_is_recognised_and_given_exactly(name: str, scale: int) -> None:
    truth = resampler_kernel(SIDES[scale], scale, "bicubic")
    found = estimate(name, truth, scale)
    assert found.family == "bicubic"
    assert_array_equal(found.kernel, truth)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "camera"])
def test_a_bicubic_that_is_taken_for_another_is_met_nearly(name: str, scale: int) -> None:
    truth = resampler_kernel(SIDES[scale], scale, "bicubic")
    assert kernel_correlation(estimate(name, truth, scale).kernel, truth) > 0.95


def test_noise_is_told() -> None:
    truth = gaussian(2, 1.2, 1.2, 0)
    clear, noisy = (estimate("astronaut", truth, 2, noise) for noise in (0, 6))
    assert clear.noise < 1.5
    assert noisy.noise == pytest.approx(6, rel=0.3)


def test_parts_of_a_picture_are_taken_together() -> None:
    truth = gaussian(2, 2.2, 1, 45)
    small = made_small(PHOTOS["astronaut"], truth, 2)
    parts = [small[:120, :120], small[:120, 130:250], small[130:250, :120], small[:30, :30]]
    found = estimate_kernel(parts, 2)
    assert kernel_correlation(found.kernel, truth) > 0.9
    assert_array_equal(found.kernel, estimate_kernel(parts[:3], 2).kernel)


def test_the_same_picture_gives_the_same_estimate_and_is_left_alone() -> None:
    small = made_small(PHOTOS["coffee"], gaussian(2, 1, 1, 0), 2)
    before = small.copy()
    one, other = (estimate_kernel([small], 2) for _ in range(2))
    assert_array_equal(one.kernel, other.kernel)
    assert (one.trust, one.noise, one.family) == (other.trust, other.noise, other.family)
    assert_array_equal(small, before)


def test_turning_the_picture_turns_the_features() -> None:
    # A whole number of steps, so that windows fall on windows.
    small = made_small(PHOTOS["coffee"], gaussian(2, 2.2, 1, 30), 2)[:152, :152]
    straight, turned = (kernel_features([plane]) for plane in (small, np.ascontiguousarray(np.rot90(small))))
    spectrum = slice(0, 22)
    assert_allclose(np.roll(turned, -8, axis=0)[:, spectrum], straight[:, spectrum], atol=0.15)
    assert np.abs(turned - straight)[:, spectrum].max() > 0.5  # it is not that all directions are alike
    assert len(DIRECTIONS) == 16


# ---- what can't be told


def is_fallback(found: KernelEstimate, scale: int) -> None:
    assert found.trust == 0
    assert found.family == "bicubic"
    assert_array_equal(found.kernel, resampler_kernel(SIDES[scale], scale, "bicubic"))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (39, 300), (0, 50)])
def test_too_small_is_the_known_prior(scale: int, shape: tuple[int, int]) -> None:
    is_fallback(estimate_kernel([np.random.default_rng(1).random(shape) * 255], scale), scale)


def test_no_planes_are_the_known_prior() -> None:
    is_fallback(estimate_kernel([], 2), 2)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_is_the_known_prior(level: int) -> None:
    is_fallback(estimate_kernel([np.full((100, 90), level, np.float32)], 4), 4)


def test_small_pictures_are_trusted_less() -> None:
    truth = gaussian(2, 1.3, 1.3, 0)
    small = made_small(PHOTOS["astronaut"], truth, 2)
    trusts = [estimate_kernel([small[90 : 90 + side, 40 : 40 + side]], 2).trust for side in (40, 160)]
    assert 0 < trusts[0] < trusts[1]


@pytest.mark.parametrize("kind", ["ramp", "noise", "black with noise"])
def test_what_shows_no_kernel_is_trusted_little(kind: str) -> None:
    down, right = np.mgrid[:150, :170]
    draw = np.random.default_rng(2).standard_normal(down.shape)
    plane = {"ramp": 60 + 0.5 * down + 0.2 * right, "noise": 128 + 30 * draw, "black with noise": np.abs(draw)}[kind]
    assert estimate_kernel([np.clip(np.rint(plane), 0, 255)], 2).trust < TRUSTED


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_is_refused(wrong: float) -> None:
    plane = PHOTOS["coffee"][:64, :64].copy()
    plane[5, 7] = wrong
    with pytest.raises(UsageError, match="NaN or infinity"):
        estimate_kernel([plane], 2)


@pytest.mark.parametrize("scale", [0, 1, 5, -2])
def test_other_scales_are_refused(scale: int) -> None:
    with pytest.raises(UsageError, match=f"2, 3 and 4, not {scale}"):
        estimate_kernel([PHOTOS["coffee"][:64, :64]], scale)


def test_colour_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(64, 64, 3\)"):
        estimate_kernel([data.astronaut()[:64, :64].astype(float)], 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_any_number_kind_will_do(dtype: Any) -> None:
    small = made_small(PHOTOS["coffee"], gaussian(2, 1, 1, 0), 2)
    assert_array_equal(estimate_kernel([small.astype(dtype)], 2).kernel, estimate_kernel([small], 2).kernel)


# ---- all of it


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("kind", ["round", "long", "motion"])
def test_the_median_correlation(scale: int, kind: str) -> None:
    """On five photographs, each turned by a few degrees so that none of them is a picture of any fit."""
    draw = np.random.default_rng(7)
    found = []
    for name in NAMES:
        plane = rotate(PHOTOS[name], 7, order=3, mode="reflect", reshape=False)
        for _ in range(4):
            wide, narrow = scale * draw.uniform(0.4, 1.1, 2)
            angle = draw.uniform(0, 180)
            truth = {
                "round": lambda: gaussian(scale, wide, wide, 0),  # noqa: B023
                "long": lambda: gaussian(scale, wide, narrow, angle),  # noqa: B023
                "motion": lambda: motion(scale, 5 * wide, angle, 0.35 * scale),  # noqa: B023
            }[kind]()
            small = made_small(plane, truth, scale)
            found.append(kernel_correlation(estimate_kernel([small], scale).kernel, truth))
    assert np.median(found) >= 0.95
