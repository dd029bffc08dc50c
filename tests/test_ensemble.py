"""Eight askings: each way of turning once, and the mean of what comes back."""

import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio

from fakes import tiled
from superfine.classical.resample import matlab_resize
from superfine.engine import LEAST_SIDE, load_model, still
from superfine.ensemble import Ensemble
from superfine.errors import ShapeError

RNG = np.random.default_rng


class Lopsided:
    """Each large pixel is a mean over pixels to the right and below, so every way of turning gives something else."""

    scale, halo, multiple_of, frames = 2, 2, 1, 1

    def __call__(self, pixels):
        around = np.pad(pixels[0], ((0, 2), (0, 2), (0, 0)), mode="edge")
        rows, cols = pixels.shape[1:3]
        mean = (around[:rows, :cols] + 2 * around[1 : rows + 1, :cols] + 5 * around[:rows, 2:]) / 8
        return mean.repeat(2, axis=0).repeat(2, axis=1).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 4), (13, 13)])
def test_the_mean_of_the_eight_symmetries_of_the_square(size):
    """By quarter turns and one mirror, which make the same eight."""
    pixels, engine = RNG(0).random((*size, 3), dtype=np.float32), Lopsided()
    answers = []
    for mirrored in (False, True):
        for quarters in range(4):
            given = np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)
            back = np.rot90(engine(given[None]).astype(np.float64), -quarters)
            answers.append(back[:, ::-1] if mirrored else back)
    np.testing.assert_allclose(Ensemble(engine)(pixels[None]), np.mean(answers, axis=0), atol=1e-6)
    assert max(size) == 1 or np.ptp(answers, axis=0).max() > 0.01, "a test that can't fail"


def test_a_clip_is_turned_as_one():
    class Last(Lopsided):
        frames = 3

        def __call__(self, pixels):
            assert pixels.shape[0] == 3
            return super().__call__(pixels[2:])

    clip = RNG(1).random((3, 6, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(Ensemble(Last())(clip), Ensemble(Lopsided())(clip[2:]))


@pytest.mark.parametrize("name", ["fast", pytest.param("video", marks=pytest.mark.slow)])
def test_in_tiles_as_whole(name):
    engine = Ensemble(load_model(name, 2))
    for size in [(1, 1), (5, 7), (61, 83)]:
        pixels = RNG(2).random((*size, 3), dtype=np.float32)
        clip = still(pixels, engine.frames)
        whole = tiled(clip, engine, max(size), least=LEAST_SIDE)
        np.testing.assert_array_equal(tiled(clip, engine, 16, least=LEAST_SIDE), whole, str(size))


def test_it_is_closer_to_the_truth():
    large = skimage.data.astronaut()[100:356, 100:356]
    small = matlab_resize(large, (128, 128)).astype(np.float32) / 255
    engine, truth = load_model("fast", 2), large.astype(np.float64) / 255
    once, eight = (
        peak_signal_noise_ratio(truth, each(small[None]), data_range=1) for each in (engine, Ensemble(engine))
    )
    assert 0.02 < eight - once < 1


def test_levels_are_refused():
    with pytest.raises(ShapeError, match="float32"):
        Ensemble(Lopsided())(np.zeros((1, 4, 4, 3), np.uint8))
