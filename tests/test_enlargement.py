"""Earlier enlargement, against Pillow's and SciPy's resampling."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from superfine.classical.enlargement import find_enlargement

PHOTOS = {name: np.asarray(Image.fromarray(getattr(data, name)()).convert("L")) for name in ("astronaut", "coffee")}


def enlarged(pixels: Any, factor: float, kind: Image.Resampling) -> tuple[Any, float]:
    side = round(512 / np.sqrt(factor))
    part = pixels[-side:, :side]
    rows, cols = (round(each * factor) for each in part.shape)
    made = np.asarray(Image.fromarray(part).resize((cols, rows), kind)).astype(np.float32)
    return made, rows / part.shape[0]


@pytest.mark.parametrize("kind", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("factor", [1.3, 1.7, 1.9, 2, 2.5, 4])
@pytest.mark.parametrize("name", PHOTOS)
def test_factor_within_one_percent(name: str, factor: float, kind: Image.Resampling) -> None:
    plane, real = enlarged(PHOTOS[name], factor, kind)
    found = find_enlargement([plane[5:, 3:]])  # no border tells
    assert found is not None
    assert found.factor == pytest.approx(real, rel=0.01)
    assert found.line > 8


@pytest.mark.parametrize("name", [*PHOTOS, "camera", "gravel"])
def test_pictures_as_they_are_and_blurred_show_none(name: str) -> None:
    plane = (PHOTOS[name] if name in PHOTOS else getattr(data, name)()).astype(np.float32)
    for sigma in (0, 1.0, 2.0):
        soft = np.rint(gaussian_filter(plane, sigma)) if sigma else plane
        found = find_enlargement([soft])
        assert found is not None
        assert found.line < 12 or found.coherence < 0.15


def test_frequencies_of_something_else_are_left_out() -> None:
    plane, _ = enlarged(PHOTOS["astronaut"], 2, Image.Resampling.BICUBIC)
    found = find_enlargement([plane], without=[0.125, 0.25, 0.375, 0.5])
    assert found is not None
    assert abs(found.factor - 2) > 0.02


@pytest.mark.parametrize("size", [(160, 120), (120, 160)])
def test_frequencies_left_out_are_wider_in_small_windows(size: tuple[int, int]) -> None:
    """JPEG's rhythm of 8 pixels is a hundredth of a cycle wide in a window of 100."""
    file = io.BytesIO()
    Image.fromarray(PHOTOS["coffee"]).resize(size, Image.Resampling.BOX).save(file, "JPEG", quality=30)
    plane = np.asarray(Image.open(file)).astype(np.float32)
    loud = find_enlargement([plane])
    quiet = find_enlargement([plane], without=[place / 8 for place in range(1, 5)])
    assert loud is not None
    assert quiet is not None
    assert loud.line > 20
    assert quiet.line < 8


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("factor", [2, 4])
def test_nearest_neighbour_by_whole_numbers(name: str, factor: int) -> None:
    plane, _ = enlarged(PHOTOS[name], factor, Image.Resampling.NEAREST)
    found = find_enlargement([plane])
    assert found is not None
    assert found.factor == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (63, 400), (64, 64), (200, 100)])
def test_little_or_nothing_to_see(shape: tuple[int, int]) -> None:
    assert find_enlargement([np.full(shape, 50, np.float32)]) is None
    assert find_enlargement([]) is None
