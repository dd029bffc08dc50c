"""Flow against known flows, and against OpenCV's DIS where it is installed."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import map_coordinates
from skimage import data

from superfine.classical.flow import flow
from superfine.errors import NoMatchError, ShapeError

Floats = npt.NDArray[np.float64]
PHOTO: Floats = data.astronaut()[150:406, 100:380].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
ROWS, COLS = PHOTO.shape
DOWN, RIGHT = np.mgrid[0:ROWS, 0:COLS] - np.array([ROWS / 2, COLS / 2])[:, None, None]
TURN = np.deg2rad(2)
INNER = np.s_[20:-20, 20:-20]


def known() -> dict[str, Floats]:
    return {
        "still": np.zeros((ROWS, COLS, 2)),
        "shift": np.stack([np.full_like(DOWN, 2.3), np.full_like(DOWN, -5.7)], -1),
        "turn": np.stack([TURN * RIGHT, -TURN * DOWN], -1),
        "zoom": np.stack([0.03 * DOWN, 0.03 * RIGHT], -1),
        "wave": np.stack([1.5 * np.sin(RIGHT / 30), 1.5 * np.cos(DOWN / 25)], -1),
    }


def carried(plane: Floats, moved: Floats) -> Floats:
    """second[r, c] = first[r - dy, c - dx], by scipy's spline."""
    rows, cols = np.mgrid[0 : plane.shape[0], 0 : plane.shape[1]]
    result: Floats = map_coordinates(plane, [rows - moved[..., 0], cols - moved[..., 1]], order=5, mode="mirror")
    return result


def endpoint(found: Any, true: Floats) -> Floats:
    error: Floats = np.linalg.norm(found - true, axis=-1)[INNER]
    return error


@pytest.mark.parametrize("name", known())
def test_known_flows(name: str) -> None:
    true = known()[name]
    found = flow(PHOTO, carried(PHOTO, true))
    assert found.shape == (ROWS, COLS, 2)
    assert found.dtype == np.float32
    error = endpoint(found, true)
    assert np.median(error) < 0.1
    assert error.mean() < 0.15


def test_noise_of_three_levels() -> None:
    true = known()["turn"]
    noise = 3 * np.random.default_rng(0).standard_normal((2, ROWS, COLS))
    assert np.median(endpoint(flow(PHOTO + noise[0], carried(PHOTO, true) + noise[1]), true)) < 0.12


def test_two_parts_move_each_their_own_way() -> None:
    true = np.zeros((ROWS, COLS, 2))
    true[80:180, 90:200] = (-2.5, 3.0)
    second = PHOTO.copy()
    second[80:180, 90:200] = carried(PHOTO, np.full((ROWS, COLS, 2), (-2.5, 3.0)))[80:180, 90:200]
    found = flow(PHOTO, second)
    assert np.median(np.linalg.norm(found - true, axis=-1)[100:160, 110:180]) < 0.1
    outside = np.ones((ROWS, COLS), bool)
    outside[60:200, 70:220] = False
    assert np.median(np.linalg.norm(found - true, axis=-1)[outside]) < 0.02


def test_exposure_is_not_movement() -> None:
    true = known()["shift"]
    second = carried(PHOTO, true)
    np.testing.assert_allclose(flow(PHOTO, 0.7 * second + 30), flow(PHOTO, second), atol=2e-3)


def test_the_arrays_stay_as_they_are_whatever_their_dtype() -> None:
    levels = np.clip(np.rint(PHOTO), 0, 255).astype(np.uint8)
    kept = levels.copy()
    levels.flags.writeable = False
    moved = np.roll(levels, (2, 0), (0, 1))
    found = flow(levels, moved)
    assert np.median(np.abs(found[INNER] - (2, 0))) < 0.01
    np.testing.assert_array_equal(levels, kept)
    np.testing.assert_allclose(flow(levels.astype(np.uint16) * 257, moved.astype(np.uint16) * 257), found, atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (16, 270), (47, 49), (97, 64)])
def test_any_size(shape: tuple[int, int]) -> None:
    first = PHOTO[: shape[0], : shape[1]]
    found = flow(first, first)
    assert found.shape == (*shape, 2)
    assert np.abs(found).max() < 1e-3


def test_arrays_that_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match="cut them to one size"):
        flow(PHOTO, PHOTO[:-1])
    with pytest.raises(NoMatchError, match="one flat colour"):
        flow(PHOTO, np.full_like(PHOTO, 3))
    with pytest.raises(ShapeError, match="NaN"):
        flow(PHOTO, np.full_like(PHOTO, np.nan))


@pytest.mark.parametrize("name", ["shift", "turn", "zoom", "wave"])
def test_no_worse_than_opencvs_dis(name: str) -> None:
    cv2 = pytest.importorskip("cv2")
    true = known()[name]
    first, second = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (PHOTO, carried(PHOTO, true)))
    witness = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    theirs = -witness.calc(second, first, None)[..., ::-1]  # from second to first, (x, y)
    ours = flow(first, second)
    assert endpoint(ours, true).mean() < endpoint(theirs, true).mean() + 0.01
    assert np.median(np.linalg.norm(ours - theirs, axis=-1)[INNER]) < 0.2  # two methods, one flow
