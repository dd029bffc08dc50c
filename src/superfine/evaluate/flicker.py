"""Flicker: what changes from one frame of a clip to the next beyond what moves.

The frame before is moved by the optical flow to where its content is now, and taken from the frame that is there: the
warped difference. The flow is that of the true clip, one for all methods, so that none is judged by its own mistakes.
What was covered or left the frame isn't compared. Two figures, both root mean squares of luma in grey levels:

flicker    of the output's warped difference; what blurs has less of it than the truth
excess     of the output's warped difference less the true clip's, pixel by pixel: of how its error changes. Nothing for
           the truth itself, whatever moves, flashes or is noisy in it, and however wrong the flow is

Source: the warping error of Lai et al. 2018, arXiv:1808.00449, as a root, in levels, and by the flow of
`classical.flow`; occlusions as in Ruder et al. 2016, arXiv:1604.08610, after Sundaram et al. 2010,
doi:10.1007/978-3-642-15549-1_32.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.flow import flow
from superfine.color import full_luma, to_unit
from superfine.errors import NoMatchError, ShapeError

__all__ = ["Motion", "levels", "motion_between", "root_mean_square", "warped_difference"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Flow there and flow back may miss each other by this share of their squares, and by this many squared pixels.
_SHARE, _SLACK = 0.01, 0.5
# Where less of the frame than this can be compared, it says nothing of the whole.
_LEAST_SEEN: Final = 0.1
_SMALLEST: Final = 16


@dataclass(frozen=True, eq=False)
class Motion:
    """How a frame's content came from the one before."""

    flow: Floats
    """(H, W, 2): (dy, dx) in pixels, so that `now[r, c] = before[r - dy, c - dx]`."""
    seen: npt.NDArray[np.bool_]
    """(H, W): the content is in both frames."""


def levels(pixels: Bytes) -> Floats:
    """(H, W, 3) uint8 -> luma (H, W) in grey levels, 0 to 255: BT.601, full range, not rounded."""
    plane: Floats = full_luma(to_unit(pixels)) * np.float32(255)
    return plane


def motion_between(before: Floats, now: Floats, *, border: int = 0) -> Motion | None:
    """How the content of `before` came to lie in `now`: two (H, W) planes of the true clip, of one shape.

    border: pixels on each side that aren't compared. None where the frames can't tell: smaller than 16 pixels a side,
    of one flat colour, or less than a tenth of them seen in both.
    """
    if min(now.shape) < max(_SMALLEST, 2 * border + 1):
        return None
    try:
        there, back = flow(before, now), flow(now, before)
    except NoMatchError:
        return None
    rows, cols = now.shape
    down, across = np.mgrid[:rows, :cols].astype(np.float32)
    down, across = down - there[..., 0], across - there[..., 1]
    inside = (down >= border) & (down <= rows - 1 - border) & (across >= border) & (across <= cols - 1 - border)
    nearest = np.rint(down.clip(0, rows - 1)).astype(np.intp) * cols + np.rint(across.clip(0, cols - 1)).astype(np.intp)
    returned = back.reshape(-1, 2)[nearest]
    missed = np.square(there + returned).sum(axis=-1)
    seen = inside & (missed <= _SHARE * (np.square(there) + np.square(returned)).sum(axis=-1) + _SLACK)
    if border:
        seen[:border] = seen[-border:] = False
        seen[:, :border] = seen[:, -border:] = False
    return Motion(there, seen) if seen.mean() >= _LEAST_SEEN else None


def warped_difference(before: Floats, now: Floats, motion: Motion) -> Floats:
    """`now` less `before` moved by the flow, at the pixels that are in both frames, in grey levels.

    Both: (H, W), 0 to 255, of the flow's shape. Returns (n,), in the order of rows; 0 where nothing flickers. Between
    pixels `before` is read by Keys' cubic. Raises ShapeError where shapes differ.
    """
    if not before.shape == now.shape == motion.seen.shape:
        raise ShapeError(f"want planes of {motion.seen.shape}, got {before.shape} and {now.shape}")
    apart: Floats = now[motion.seen] - _moved(before, motion)
    return apart


def root_mean_square(values: Floats) -> float:
    """Of all values, summed in float64."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


class _Taps(NamedTuple):
    first: npt.NDArray[np.intp]
    """The sample at or before each place."""
    weights: tuple[Floats, ...]
    """Of the samples at -1, 0, 1, 2 from there."""


def _moved(plane: Floats, motion: Motion) -> Floats:
    """The plane at (r - dy, c - dx) of each seen pixel; beyond the border its nearest pixel."""
    rows, cols = plane.shape
    at = np.nonzero(motion.seen)
    down, across = (_taps(at[axis].astype(np.float32) - motion.flow[..., axis][at]) for axis in (0, 1))
    columns = [np.clip(across.first + step, 0, cols - 1) for step in range(-1, 3)]
    flat = plane.ravel()
    total = np.zeros(len(at[0]), np.float32)
    for step, weight in enumerate(down.weights, -1):
        line = np.clip(down.first + step, 0, rows - 1) * cols
        for column, share in zip(columns, across.weights, strict=True):
            total += weight * share * flat.take(line + column)
    return total


def _taps(place: Floats) -> _Taps:
    """Keys' cubic, a = -0.5. Source: Keys 1981, doi:10.1109/TASSP.1981.1163711."""
    under = np.floor(place)
    t = place - under
    weights = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    return _Taps(under.astype(np.intp), weights)
