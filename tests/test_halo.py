"""How far a network looks: measured where the truth is known."""

import numpy as np
import pytest

from superfine.errors import EngineError
from superfine.halo import Halo, measured_halo


def seeing(distance, share, scale=1, grid=1):
    """Enlarges by repetition; each pixel holds `share` of the one that lies `distance` to its left and above."""

    def enlarge(pixels):
        assert pixels.shape[0] % grid == pixels.shape[1] % grid == 0, "off the grid"
        far = np.zeros_like(pixels)
        far[distance:, distance:] = pixels[:-distance, :-distance]
        mixed = (1 - share) * pixels + np.float32(share) * far
        return mixed.repeat(scale, axis=0).repeat(scale, axis=1)

    return enlarge


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("distance", [33, 47, 90, 120])
def test_what_is_far_and_felt_is_found_to_the_pixel(distance, scale):
    found = measured_halo(seeing(distance, 0.3, scale, 4), exact=400, multiple_of=4, scale=scale)
    assert found == Halo(distance, "practical")


def test_a_quarter_of_a_level_is_the_measure():
    """White in place of black moves a sample by `share` of 255 levels."""
    assert measured_halo(seeing(60, 2 * 0.25 / 255), exact=400) == Halo(60, "practical")
    assert measured_halo(seeing(60, 0.9 * 0.25 / 255), exact=400) == Halo(0, "practical")


def test_a_small_exact_radius_is_kept_unmeasured():
    assert measured_halo(lambda pixels: pytest.fail("it was run"), exact=32) == Halo(32, "exact")


def test_an_exact_radius_that_is_no_larger_is_exact():
    assert measured_halo(seeing(40, 0.3), exact=40) == Halo(40, "exact")
    assert measured_halo(seeing(40, 0.3), exact=41) == Halo(40, "practical")


def test_a_network_that_sees_everything_is_whole():
    assert measured_halo(lambda pixels: pixels - pixels.mean() + 0.5, exact=4096).kind == "whole"
    assert measured_halo(lambda pixels: pixels - pixels.mean() + 0.5, exact=4096, largest=50) == Halo(50, "whole")


def test_what_only_the_border_of_a_tile_does_is_felt():
    """All contents leave the sum of coordinates alone, and a cut doesn't."""

    def enlarge(pixels):
        from_top = np.arange(len(pixels), dtype=np.float32)[:, None, None]
        return 0.5 * pixels + 0.5 * np.exp(-from_top / 8)

    found = measured_halo(enlarge, exact=400)
    # 64 px are cut off: 0.5 * (exp(-d / 8) - exp(-(d + 64) / 8)) falls below a quarter level there.
    assert found == Halo(int(np.ceil(8 * np.log(0.5 * (1 - np.exp(-8)) * 255 / 0.25))), "practical")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(EngineError, match="gave NaN or infinity on a made picture"):
        measured_halo(lambda pixels: pixels * np.float32(value), exact=400)


def test_squares_grow_and_say_so():
    said = []
    measured_halo(seeing(90, 0.3), exact=400, say=said.append)
    assert said == [f"measuring how far it looks, up to {half} px" for half in (64, 128)]
