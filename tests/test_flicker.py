"""The flicker figure on movement and brightness that are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

from superfine.errors import ShapeError
from superfine.evaluate.flicker import Motion, levels, motion_between, root_mean_square, warped_difference

ASTRONAUT = np.ascontiguousarray(data.astronaut()[40:240, 120:360])


LUMA = levels(ASTRONAUT)


def crop(down, across, rows=120, cols=150):
    """The content moves by +d when the crop begins at -d."""
    return LUMA[30 - down : 30 - down + rows, 40 - across : 40 - across + cols].copy()


def left(before, now, motion):
    return root_mean_square(warped_difference(before, now, motion))


def everywhere(shape, shift=(0.0, 0.0), margin=8):
    seen = np.zeros(shape, bool)
    seen[margin:-margin, margin:-margin] = True
    return Motion(np.broadcast_to(np.array(shift, np.float32), (*shape, 2)), seen)


def test_levels_are_bt601_in_grey_levels():
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [7, 7, 7]]], np.uint8)
    wanted = [[76.245, 149.685, 29.07, 255, 7]]
    np.testing.assert_allclose(levels(pixels), wanted, atol=1e-4)


def test_whole_shifts_leave_nothing():
    motion = everywhere((120, 150), (3, -5))
    assert left(crop(0, 0), crop(3, -5), motion) == 0.0
    assert left(crop(0, 0), crop(0, 0), motion) > 5


def test_a_flow_that_varies_on_a_parabola():
    """Keys' cubic reproduces parabolas: read anywhere, nothing is left but rounding."""
    down, across = np.mgrid[:60, :80].astype(np.float64)

    def height(row, col):
        return 100 + 0.3 * row - 0.2 * col + 0.01 * row * row - 0.008 * col * col + 0.004 * row * col

    shift = np.stack([0.8 * np.sin(across / 9), 1.3 * np.cos(down / 7)], axis=-1).astype(np.float32)
    motion = Motion(shift, everywhere((60, 80)).seen)
    now = height(down - shift[..., 0], across - shift[..., 1])
    assert left(height(down, across).astype(np.float32), now.astype(np.float32), motion) < 1e-4


@pytest.mark.parametrize("step", [1, 5, -20])
def test_brightness_counts_as_many_levels(step):
    motion = everywhere((120, 150), (3, -5))
    found = warped_difference(crop(0, 0), crop(3, -5) + np.float32(step), motion)
    np.testing.assert_allclose(found, step, atol=1e-4)
    assert root_mean_square(found) == pytest.approx(abs(step), abs=1e-4)


def test_noise_counts_by_both_frames():
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 4, (2, 120, 150)).astype(np.float32)
    found = left(crop(0, 0) + noise[0], crop(0, 0) + noise[1], everywhere((120, 150)))
    assert found == pytest.approx(4 * np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (2, -3)])
def test_the_flow_that_is_measured(shift):
    before, now = crop(0, 0), crop(*shift)
    motion = motion_between(before, now, border=4)
    inner = motion.flow[20:-20, 20:-20]
    assert np.abs(inner - np.array(shift)).max() < 0.5
    assert motion.seen[20:-20, 20:-20].mean() > 0.95
    assert not motion.seen[:4].any()
    assert not motion.seen[:, -4:].any()
    own = warped_difference(before, now, motion)
    assert root_mean_square(own) < 1.5  # a tenth of a pixel, on a picture of much contrast
    # Of the excess, the flow's own mistakes are no part.
    np.testing.assert_allclose(warped_difference(before, now + 6, motion) - own, 6, atol=1e-4)


def test_what_is_covered_or_comes_into_sight_is_not_compared():
    """A thing of 50 x 50 goes over a background by 16 pixels."""
    rough = gaussian_filter(np.random.default_rng(0).normal(0, 1, (140, 200)), 1.5)
    background = (128 + 40 * rough / rough.std()).clip(0, 255).astype(np.float32)
    thing = crop(0, 0, 50, 50)
    frames = []
    for begin in (60, 76):
        frame = background.copy()
        frame[40:90, begin : begin + 50] = thing
        frames.append(frame)
    motion = motion_between(*frames)
    uncovered = motion.seen[45:85, 62:74]
    assert uncovered.mean() < 0.4
    assert motion.seen[55:75, 90:110].mean() > 0.75
    assert motion.seen[:, 150:].mean() > 0.9
    assert left(*frames, motion) < 0.8 * left(*frames, Motion(motion.flow, np.ones_like(motion.seen)))


def test_frames_that_cannot_tell():
    flat = np.full((64, 64), 90, np.float32)
    assert motion_between(flat, flat) is None
    assert motion_between(crop(0, 0, 12, 60), crop(0, 1, 12, 60)) is None
    assert motion_between(crop(0, 0, 30, 60), crop(0, 1, 30, 60), border=15) is None


def test_planes_of_other_shapes():
    with pytest.raises(ShapeError, match=r"want planes of \(120, 150\), got \(60, 150\) and \(120, 150\)"):
        warped_difference(crop(0, 0, 60), crop(0, 0), everywhere((120, 150)))
