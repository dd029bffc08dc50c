"""How much white noise a picture has: the finest frequencies of its flattest blocks.

Blocks of 8x8 are sorted by what they hold at low frequencies, which picks the flat ones
without looking at the high ones; the variance that these have there is noise.
Source: Colom and Buades 2013, doi:10.5201/ipol.2013.45, after Ponomarenko et al. 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from superfine.classical.dct import block_cosines

__all__ = ["NoiseTrace", "find_noise"]

Floats = npt.NDArray[np.floating]

_SIDE: Final = 8
# Blocks overlap; one in this many each way is looked at, and of all of them this share is flat.
_STEP: Final = 2
_SHARE: Final = 0.01
_FEWEST: Final = 96
_MOST: Final = 60_000
# Blocks whose mean is at least this many sigmas away from black and white have all their noise.
_REACH: Final = 2.5
_ORDER: Final = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).ravel()
_LOW: Final = (_ORDER > 0) & (_ORDER <= _SIDE)
_HIGH: Final = _ORDER > _SIDE


@dataclass(frozen=True)
class NoiseTrace:
    """What the flattest blocks of a picture show."""

    sigma: float
    """Standard deviation of the noise, in the levels of the planes."""
    blocks: int
    """How many flat blocks that rests on; none where sigma couldn't be had, or is too low by clipping."""
    slope: float
    """Deviation at the lower of the high frequencies over that at the highest: 1 where noise is white.

    Texture and noise that was smoothed have more.
    """
    flatness: float
    """Deviation at low frequencies over sigma: about 1 in blocks that hold nothing but noise."""


def find_noise(planes: Sequence[Floats]) -> NoiseTrace:
    """The noise of one channel.

    planes: each (H, W), in 8-bit levels, NaN where the picture is clipped: such blocks are left out,
    since clipping takes noise away.
    """
    planes = [plane for plane in planes if min(plane.shape) >= _SIDE]
    blocks = [_blocks(plane, -(-_MOST // len(planes))) for plane in planes]
    coefficients = np.concatenate(blocks) if blocks else np.zeros((0, _SIDE**2), np.float32)
    if len(coefficients) < _FEWEST:
        return NoiseTrace(0.0, 0, 1.0, 1.0)
    flat = _flattest(coefficients)
    sigma = _sigma(flat)
    # Where noise reaches black or white, the blocks without a clipped pixel are those that happen to have less of it.
    level = coefficients[:, 0] / _SIDE
    inside = coefficients[(level > _REACH * sigma) & (level < 255 - _REACH * sigma)]
    if len(inside) < _FEWEST:
        return NoiseTrace(sigma, 0, 1.0, 1.0)
    if len(inside) < len(coefficients):
        flat = _flattest(inside)
        sigma = _sigma(flat)
    count = len(flat)
    deviation = np.sqrt((flat**2).mean(axis=0))
    if sigma == 0:
        return NoiseTrace(0.0, count, 1.0, 1.0)
    lower, highest = (float(np.median(deviation[chosen])) for chosen in (_HIGH & (_ORDER <= 10), _ORDER >= 12))
    low = float(np.median(deviation[_LOW]))
    return NoiseTrace(sigma, count, lower / max(highest, 1e-6), low / sigma)


def _flattest(coefficients: Floats) -> Floats:
    energy = (coefficients[:, _LOW] ** 2).sum(axis=1)
    count = max(_FEWEST, round(_SHARE * len(coefficients)))
    return coefficients[np.argpartition(energy, count - 1)[:count]]


def _sigma(flat: Floats) -> float:
    """The median over frequencies, so that one that texture fills counts once."""
    return float(np.median(np.sqrt((flat[:, _HIGH] ** 2).mean(axis=0))))


def _blocks(plane: Floats, most: int) -> Floats:
    """Orthonormal cosine transforms of overlapping blocks without NaN: (count, 64)."""
    step = _STEP
    while ((plane.shape[0] - _SIDE) // step + 1) * ((plane.shape[1] - _SIDE) // step + 1) > most:
        step += 1
    blocks = sliding_window_view(plane, (_SIDE, _SIDE))[::step, ::step].reshape(-1, _SIDE**2)
    blocks = blocks[~np.isnan(blocks).any(axis=1)]
    return blocks @ block_cosines()
