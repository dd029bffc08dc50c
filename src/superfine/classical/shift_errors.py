"""How far a moved picture is from the one that was wanted, judged as a shift is: levels, edges, and flow."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.flow import flow
from superfine.errors import NoMatchError, ShapeError

__all__ = ["ShiftErrors", "flow_between", "mean_errors", "shift_errors"]

Floats = npt.NDArray[np.floating]

# As `train.losses.gradient_weighted` has it.
_GRADIENT_WEIGHT: Final = 1.0


class ShiftErrors(NamedTuple):
    """Errors of one picture in 0..1, or their means."""

    l1: float
    """Mean |difference|."""
    l2: float
    """Root of the mean squared difference."""
    gradient_weighted: float
    """Mean squared difference, and those of the differences of neighbours across and down, added up."""
    flow: tuple[float, float] | None
    """Median (dy, dx) in pixels by which the result still has to move, by optical flow; None where none is seen."""


def shift_errors(result: Floats, target: Floats, border: int = 0) -> ShiftErrors:
    """Errors of a result against its target, without `border` pixels on each side.

    Both (H, W, C) in 0..1, C of 1 or 3. Raises ShapeError where they differ in shape or
    where fewer than 16 pixels a side are left.
    """
    if result.shape != target.shape or result.ndim != 3 or result.shape[2] not in (1, 3):
        raise ShapeError(f"want two pictures (H, W, 1|3) of one shape, got {result.shape} and {target.shape}")
    if min(result.shape[:2]) < 2 * border + 16:
        raise ShapeError(f"too little is left of {result.shape[:2]} without {border} pixels on each side")
    left = flow_between(result, target)
    inner = tuple(slice(border, side - border) for side in result.shape[:2])
    d = (result[inner].astype(np.float64)) - target[inner]
    square = float(np.mean(d**2))
    edges = sum(float(np.mean(np.diff(d, axis=axis) ** 2)) for axis in (0, 1))
    middle = None
    if left is not None:
        down, right = np.median(left[inner].reshape(-1, 2), axis=0)
        middle = float(down), float(right)
    return ShiftErrors(float(np.mean(np.abs(d))), square**0.5, square + _GRADIENT_WEIGHT * edges, middle)


def flow_between(result: Floats, target: Floats) -> npt.NDArray[np.float32] | None:
    """(H, W, 2): by how much (dy, dx) each pixel of `result` has to move; None where nothing is seen to move."""
    try:
        return flow(result, target)
    except NoMatchError:
        return None


def mean_errors(each: Sequence[ShiftErrors]) -> ShiftErrors:
    """The mean over pictures of each error."""
    l1, l2, weighted = (float(np.mean(column)) for column in zip(*(one[:3] for one in each), strict=True))
    flows = [one.flow for one in each if one.flow is not None]
    if not flows:
        return ShiftErrors(l1, l2, weighted, None)
    down, right = np.mean(flows, axis=0)
    return ShiftErrors(l1, l2, weighted, (float(down), float(right)))
