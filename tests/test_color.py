"""Levels and luma against their standards."""

import numpy as np
import pytest
from skimage.color import rgb2ycbcr

from superfine.color import KINDS, full_luma, limited_luma, to_kind, to_unit
from superfine.errors import ShapeError

RGB = np.random.default_rng(0).random((50, 40, 3))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_level_comes_back(kind):
    levels = np.arange(np.iinfo(kind).max + 1).astype(kind)
    unit = to_unit(levels)
    assert unit.dtype == np.float32
    assert (unit[0], unit[-1]) == (0, 1)
    np.testing.assert_array_equal(to_kind(unit, np.dtype(kind)), levels)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_values_outside_are_clipped(kind):
    made = to_kind(np.array([-0.5, 0, 1, 1.5, np.inf, -np.inf], np.float32), kind)
    assert made.dtype == kind
    np.testing.assert_array_equal(made, np.array([0, 0, 1, 1, 1, 0]) * KINDS[kind])


def test_rounding_goes_to_the_nearest_and_leaves_its_input():
    unit = np.array([0.49, 0.51, 1.49, 253.51], np.float32) / 255
    before = unit.copy()
    np.testing.assert_array_equal(to_kind(unit, np.dtype(np.uint8)), [0, 1, 1, 254])
    np.testing.assert_array_equal(unit, before)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int16, bool])
def test_other_kinds_are_refused(kind):
    with pytest.raises(ShapeError, match="want uint8, uint16 or float32, got"):
        to_unit(np.zeros(3, kind))


def test_limited_luma_is_matlabs():
    np.testing.assert_allclose(limited_luma(RGB) * 255, rgb2ycbcr(RGB)[..., 0], atol=1e-10)
    np.testing.assert_allclose(limited_luma(np.array([[0.0, 0, 0], [1, 1, 1]])) * 255, [16, 235])


def test_full_luma_is_limited_luma_on_another_range():
    np.testing.assert_allclose(full_luma(RGB), (limited_luma(RGB) * 255 - 16) / 219, atol=2e-6)
    assert full_luma(np.ones((1, 3), np.float32)).dtype == np.float32
