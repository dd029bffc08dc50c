"""Numbers as colours: in order, over the picture, with a legend that says what they mean."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from superfine.heat import LEGEND_LEVELS, colour_map, heated, legend, legend_rows, warmth


def lightness(pixels):
    return rgb2lab(pixels)[..., 0]


def test_warmth_is_a_logarithm_between_the_ends():
    levels = np.array([0.0, 7.0, 64.0, 500.0])
    np.testing.assert_allclose(warmth(levels), [0, 3 / np.log2(65), 1, 1])


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_more_doubt_comes_nearer_to_the_colour(grey):
    """Over any picture: the distance to the scale's colour falls as levels rise, and at last little is left."""
    levels = np.linspace(0, 80, 50)[None]
    made = heated(np.full((1, 50, 3), grey, np.uint8), levels)
    assert (made.shape, made.dtype) == ((1, 50, 3), np.uint8)
    scale = colour_map()[np.rint(warmth(levels) * 255).astype(int)]
    share = np.abs(made.astype(int) - grey).sum(-1) / np.maximum(np.abs(scale.astype(int) - grey).sum(-1), 1)
    assert (np.diff(share[0]) > -0.02).all()
    assert share[0, -1] > 0.85
    assert share[0, 0] < 0.3


def test_the_picture_shows_through_where_it_is_sure():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None]
    sure = heated(ramp, np.zeros((1, 256)))
    assert (np.diff(lightness(sure)[0]) >= 0).all()
    assert np.ptp(lightness(sure)) > 60


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_picture(channels, dtype):
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = np.full((2, 3, channels), white, dtype)
    assert np.array_equal(heated(pixels, np.zeros((2, 3))), heated(np.full((2, 3, 3), 255, np.uint8), np.zeros((2, 3))))


@pytest.mark.parametrize("cols", [160, 319, 640, 3000])
def test_the_legend_holds_the_whole_scale_in_order(cols):
    made = legend(cols, 0.9)
    assert made.shape == (legend_rows(cols), cols, 3)
    size = max(1, cols // 200)
    bar = made[6 * size, 40 * size : cols - 12 * size]
    assert np.array_equal(bar[[0, -1]], colour_map()[[0, -1]])
    assert (np.diff(lightness(bar[None])[0]) > -0.5).all()
    assert (made[12 * size :] > 200).any(), "there are numbers"


def test_the_ticks_stand_under_their_colours():
    made = legend(3200, 0.9)
    ticks = np.flatnonzero((made[184] == 255).all(-1))
    left, right = 640, 3008
    places = left + warmth(np.array(LEGEND_LEVELS, float)) * (right - left - 1)
    starts = ticks[np.diff(ticks, prepend=-9) > 1]
    np.testing.assert_allclose(starts[1:] + 8, places[1:], atol=2)
    assert starts[0] == left


def test_a_narrow_picture_has_no_legend():
    assert legend_rows(159) == 0
    assert legend(159, 0.9).shape == (0, 159, 3)
