"""Noise against known noise on pictures that have none of their own."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom
from skimage import data

from superfine.classical.noise import find_noise


def clean() -> dict[str, Any]:
    """Planes without noise: a slope, and photographs enlarged, which leaves nothing at the finest frequencies."""
    down, right = np.mgrid[0:256, 0:300]
    photos = {name: getattr(data, name)()[..., 1].astype(float) for name in ("astronaut", "coffee")}
    return {"slope": 60 + 0.3 * down + 0.2 * right} | {
        name: np.clip(zoom(photo[60:200, 60:220], 3, order=3), 30, 225) for name, photo in photos.items()
    }


CLEAN = clean()


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("sigma", [2, 5, 10, 25, 50])
def test_known_noise_within_five_percent(name: str, sigma: float) -> None:
    plane = CLEAN[name] + sigma * np.random.default_rng(int(sigma)).standard_normal(CLEAN[name].shape)
    found = find_noise([plane.astype(np.float32)])
    assert found.sigma == pytest.approx(sigma, rel=0.05)
    assert 0.85 < found.slope < 1.15


@pytest.mark.parametrize("sigma", [2, 8, 20])
def test_clipped_and_rounded_pictures(sigma: float) -> None:
    """A slope that goes over both ends of the range: what is clipped is NaN."""
    plane = np.linspace(-40, 295, 400)[None] + sigma * np.random.default_rng(1).standard_normal((300, 400))
    plane = np.clip(np.rint(plane), 0, 255)
    plane[(plane == 0) | (plane == 255)] = np.nan
    assert find_noise([plane.astype(np.float32)]).sigma == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize(("brightest", "known"), [(20, False), (140, True)])
def test_noise_that_reaches_black_counts_only_where_it_does_not(brightest: float, known: bool) -> None:
    plane = np.linspace(0, brightest, 400)[None] + 25 * np.random.default_rng(5).standard_normal((400, 400))
    plane = np.clip(np.rint(plane), 0, 255)
    plane[plane == 0] = np.nan
    found = find_noise([plane.astype(np.float32)])
    assert (found.blocks > 0) == known
    if known:
        assert found.sigma == pytest.approx(25, rel=0.05)


def test_windows_are_one_picture() -> None:
    plane = 100 + 7 * np.random.default_rng(2).standard_normal((400, 400)).astype(np.float32)
    assert find_noise([plane[:150], plane[200:]]).sigma == pytest.approx(7, rel=0.05)


def test_smoothed_noise_is_not_white() -> None:
    plane = gaussian_filter(128 + 40 * np.random.default_rng(3).standard_normal((300, 300)), 0.6)
    assert find_noise([plane.astype(np.float32)]).slope > 1.3


def test_texture_everywhere_is_not_flat() -> None:
    plane = np.asarray(data.gravel()).astype(np.float32)
    found = find_noise([plane])
    assert found.flatness > 1.5


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (8, 8)])
def test_too_little_gives_nothing(shape: tuple[int, int]) -> None:
    assert find_noise([np.full(shape, 9, np.float32)]).blocks == 0
    assert find_noise([np.full((100, 100), np.nan, np.float32)]).blocks == 0
    assert find_noise([]).blocks == 0


def test_a_flat_picture_has_none() -> None:
    found = find_noise([np.full((100, 100), 80, np.float32)])
    assert found.sigma == pytest.approx(0, abs=1e-3)
    assert found.blocks > 0
