"""Blur against known Gaussians, put on by SciPy."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter as scipy_gaussian
from scipy.ndimage import rotate
from skimage import data
from skimage.transform import rescale

from superfine.blind.kernel import (
    DIRECTIONS,
    Blur,
    blur_features,
    estimate_blur,
    fit_covariance,
    gaussian_filter,
)

LUMA = [0.299, 0.587, 0.114]


def sharp(name: str) -> Any:
    """A photograph of scikit-image made smaller, so that it's sharp, in 8-bit levels."""
    pixels = getattr(data, name)()
    pixels = pixels @ LUMA if pixels.ndim == 3 else pixels.astype(float)
    return rescale(pixels, 0.7, order=3, anti_aliasing=True, preserve_range=True)


PHOTOS = {name: sharp(name) for name in ("astronaut", "coffee", "camera")}
each_photo = pytest.mark.parametrize("name", PHOTOS)


def estimate(plane: Any, noise: float = 0) -> Blur:
    noisy = plane + noise * np.random.default_rng(1).standard_normal(plane.shape)
    found = estimate_blur([np.clip(np.rint(noisy), 0, 255).astype(np.float32)])
    assert found is not None
    return found


@each_photo
@pytest.mark.parametrize("sigma", [0.8, 1.2, 1.8, 2.4, 3.0])
def test_round_blur_within_twenty_percent(name: str, sigma: float) -> None:
    found = estimate(scipy_gaussian(PHOTOS[name], sigma))
    assert found.sigma == pytest.approx(sigma, rel=0.2)
    assert found.ratio < 1.25


@each_photo
def test_slight_noise_changes_little(name: str) -> None:
    assert estimate(scipy_gaussian(PHOTOS[name], 1.5), noise=1.5).sigma == pytest.approx(1.5, rel=0.2)


@each_photo
@pytest.mark.parametrize(("down", "right", "angle"), [(1.0, 2.2, 0.0), (2.4, 1.2, 90.0)])
def test_two_sigmas_and_their_angle(name: str, down: float, right: float, angle: float) -> None:
    found = estimate(scipy_gaussian(PHOTOS[name], (down, right)))
    assert found.wide == pytest.approx(max(down, right), rel=0.2)
    assert found.narrow == pytest.approx(min(down, right), rel=0.25)
    assert abs((found.angle - angle + 90) % 180 - 90) < 15
    assert found.ratio > 1.4


@each_photo
def test_the_angle_turns_counter_clockwise(name: str) -> None:
    """Turned by 30 degrees as SciPy turns, the x axis going to the y axis, up, in the plane as seen."""
    turned = rotate(PHOTOS[name], -30, order=3, mode="reflect")
    back = rotate(scipy_gaussian(turned, (0.9, 2.5)), 30, order=3, mode="reflect")
    middle = [slice(side // 2 - 110, side // 2 + 110) for side in back.shape]
    found = estimate(back[tuple(middle)])
    assert abs((found.angle - 30 + 90) % 180 - 90) < 15


@each_photo
def test_sharp_pictures_are_sharp(name: str) -> None:
    found = estimate(PHOTOS[name])
    assert found.sigma < 0.65


def test_more_blur_is_a_larger_estimate_with_a_useful_error() -> None:
    found = [estimate(scipy_gaussian(PHOTOS["coffee"], sigma)) for sigma in (0.8, 1.3, 2.0, 3.0)]
    assert [one.sigma for one in found] == sorted(one.sigma for one in found)
    assert all(0 < one.error < 0.3 * one.sigma for one in found)


def test_a_picture_without_edges_is_uncertain() -> None:
    down, right = np.mgrid[0:200, 0:200]
    found = estimate(50 + 0.4 * down + 0.3 * right)
    assert found.error > 0.1 * max(0.8, found.sigma)


def test_the_sharpest_windows_count() -> None:
    """Most of a picture may be out of focus; what is in focus tells the blur of the whole."""
    plane = scipy_gaussian(PHOTOS["astronaut"], 1.0).astype(np.float32)
    parts = [plane[:170, :170], plane[:170, 180:350], plane[180:350, :170]]
    smooth = [scipy_gaussian(part, 5) for part in parts]
    mixed, clear = estimate_blur([*smooth, *parts]), estimate_blur(parts)
    assert mixed is not None
    assert clear is not None
    assert mixed.sigma == pytest.approx(clear.sigma, rel=1e-4)
    assert mixed.sigma == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("shape", [(1, 1), (63, 300)])
def test_too_small_is_none(shape: tuple[int, int]) -> None:
    assert estimate_blur([np.zeros(shape, np.float32)]) is None
    assert estimate_blur([]) is None
    assert blur_features([]).shape == (0, 0)


@pytest.mark.parametrize("shape", [(64, 64), (200, 70)])
def test_flat_pictures_give_finite_features(shape: tuple[int, int]) -> None:
    assert np.isfinite(blur_features([np.full(shape, 200, np.float32)])).all()


def test_transposing_swaps_the_directions() -> None:
    """The features of direction a are those of 90 - a in the transposed picture, seen with rows up."""
    plane = PHOTOS["coffee"][:256, :256].astype(np.float32)
    straight, swapped = blur_features([plane]), blur_features([plane.T[::-1, ::-1].copy()])
    order = [DIRECTIONS.index((90 - angle) % 180) for angle in DIRECTIONS]
    spectrum = slice(0, 24)
    np.testing.assert_allclose(swapped[order][:, spectrum], straight[:, spectrum], atol=0.12)


def test_covariance_is_fitted_exactly_where_it_can_be() -> None:
    wide, narrow, angle = 4.0, 1.0, np.radians(35)
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    truth = axes @ np.diag([wide, narrow]) @ axes.T
    units = np.stack([np.cos(np.radians(DIRECTIONS)), np.sin(np.radians(DIRECTIONS))])
    variances = np.einsum("ik,ij,jk->k", units, truth, units)
    np.testing.assert_allclose(fit_covariance(variances, np.arange(1.0, 9.0)), truth, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.6, 1.3, 3.0])
def test_gaussian_filter_is_scipys(sigma: float) -> None:
    plane = np.random.default_rng(4).random((40, 51))
    truth = scipy_gaussian(plane, sigma, mode="nearest", radius=int(np.ceil(4 * sigma)))
    np.testing.assert_allclose(gaussian_filter(plane, sigma), truth, atol=1e-12)
