"""The kernel that made one picture of another, by least squares, and the shift that it is."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.register import whole_shift
from superfine.classical.shift import TAPS, Border, Method, extended, tap_weights
from superfine.errors import ShapeError, SourceError

__all__ = ["Fit", "Likeness", "ShiftKernel", "closest_method", "fit_kernel", "usual_shift"]

Plane = npt.NDArray[np.float64]
Pair = tuple[Plane, Plane]

# Sides of the window that is tried, in samples; a wider one where weights still stand at its rim.
_WINDOWS: Final = (10, 18)
# A rim goes where all of it is smaller than this, or than as many standard errors.
_SMALL: Final = 1e-3
_ERRORS: Final = 5.0
# Samples that one block of equations takes.
_BLOCK: Final = 1 << 16
# As many tell which weights there are, and as many what they are.
_TO_LOOK: Final = 200_000
_TO_FIT: Final = 1_500_000
# Numbers in the equations, where there are many weights.
_MOST: Final = 100_000_000


@dataclass(frozen=True, eq=False)
class ShiftKernel:
    """`out[r, c] = sum over i, j of weights[i, j] * in[r + top + i, c + left + j]`."""

    weights: Plane
    top: int
    left: int

    @property
    def shift(self) -> tuple[float, float]:
        """(dy, dx): by how much the kernel moves what is smooth, its centre of mass turned round."""
        total = self.weights.sum()
        rows, cols = np.arange(self.weights.shape[0]) + self.top, np.arange(self.weights.shape[1]) + self.left
        down = -float(self.weights.sum(axis=1) @ rows / total)
        return down, -float(self.weights.sum(axis=0) @ cols / total)

    @property
    def reach(self) -> int:
        """Pixels around one that its result depends on."""
        rows, cols = self.weights.shape
        return max(map(abs, (self.top, self.top + rows - 1, self.left, self.left + cols - 1)), default=0)

    def __call__(self, plane: Plane, border: Border = "reflect", fill: float = 0.0) -> Plane:
        """(H, W) -> (H, W)."""
        rows, cols = plane.shape
        tall, broad = self.weights.shape
        wide = extended(plane, self.top, self.top + rows + tall - 1, 0, border, fill)
        wide = extended(wide, self.left, self.left + cols + broad - 1, 1, border, fill)
        total = np.zeros((rows, cols))
        for (i, j), weight in np.ndenumerate(self.weights):
            total += weight * wide[i : i + rows, j : j + cols]
        return total


@dataclass(frozen=True, eq=False)
class Fit:
    """A kernel by least squares."""

    kernel: ShiftKernel
    errors: Plane
    """The standard error of each weight."""
    residual: float
    """Root of the mean squared residual, of white."""
    samples: int


class Likeness(NamedTuple):
    """A method of a few taps, and the shift by which it comes nearest to a kernel."""

    method: Method
    shift: tuple[float, float]
    """(dy, dx)."""
    difference: float
    """The largest between two weights."""


def closest_method(kernel: ShiftKernel) -> Likeness:
    """Which of the methods of a few taps a kernel is most like, and at which shift.

    The centre of mass of a kernel is its shift for what is smooth; that of bicubic with a = -0.75 isn't
    the shift that it was made for, but for halves of pixels.
    """
    wide = np.pad(kernel.weights, 3)  # what stands beside the kernel is zero, and tells of the shift too
    profiles = [(wide.sum(axis=1), kernel.top - 3), (wide.sum(axis=0), kernel.left - 3)]
    found = []
    for method in TAPS:
        steps = [_nearest(method, profile, first) for profile, first in profiles]
        tall, broad = (
            _line(method, step, len(profile), first) for step, (profile, first) in zip(steps, profiles, strict=True)
        )
        difference = float(np.abs(wide - np.outer(tall, broad)).max())
        found.append(Likeness(method, (steps[0], steps[1]), difference))
    return min(found, key=lambda likeness: likeness.difference)


def _nearest(method: Method, profile: Plane, first: int) -> float:
    """The shift whose weights come nearest to a profile that begins at sample `first`, to 1e-6."""
    centre, width = -float(profile @ (np.arange(len(profile)) + first) / profile.sum()), 0.5
    while width > 1e-6:
        steps = centre + np.linspace(-width, width, 17)
        away = [float(np.square(profile - _line(method, step, len(profile), first)).sum()) for step in steps]
        centre, width = float(steps[int(np.argmin(away))]), width / 6
    return centre


def _line(method: Method, step: float, count: int, first: int) -> Plane:
    """The weights of a shift by `step` of the samples first, first + 1, ..., as far as they lie there."""
    whole = round(step)
    weights = tap_weights(method, step - whole)
    line = np.zeros(count)
    for tap, weight in enumerate(weights, start=-whole - len(weights) // 2 - first):
        if 0 <= tap < count:
            line[tap] = weight
    return line


def usual_shift(pairs: Sequence[Pair]) -> tuple[int, int]:
    """The whole pixels (dy, dx) by which most second pictures are moved against the first; right to a pixel.

    pairs: (H, W) each, both of one size; up to a quarter of a side. Raises SourceError where all are even.
    """
    found = [whole_shift(first, second) for first, second in pairs if np.ptp(first) > 0 and np.ptp(second) > 0]
    if not found:
        raise SourceError("the pictures are even; a shift can't be seen in them, so give others")
    down, right = np.median(np.array(found), axis=0)
    return round(float(down)), round(float(right))


def fit_kernel(pairs: Sequence[Pair], whole: tuple[int, int] | None = None) -> Fit:
    """The kernel that makes the second pictures of the first ones, with the least squared error.

    pairs: planes (H, W) in 0..1, both of one size. whole: where to look, (dy, dx), found by
    correlation where it isn't given. Samples whose window leaves the frame, and those
    at 0 or 1, which may have been clipped, are left out. The window is 10 x 10, or 18 x 18
    where that isn't enough; rims without weight are then left out and the rest is fitted again.
    Raises ShapeError where sizes differ, SourceError where the pictures say too little.
    """
    for first, second in pairs:
        if first.shape != second.shape or first.ndim != 2:
            raise ShapeError(f"want pairs of planes of one size, got {first.shape} and {second.shape}")
    move = usual_shift(pairs) if whole is None else whole
    fit = None
    for side in _WINDOWS:
        start = 1 - side // 2
        # The shift lies within a pixel of `move`: as many samples on its either side.
        frame = (start - move[0], start - move[1], side, side)
        rims = _rims(_solve(pairs, frame, _TO_LOOK))
        fit = _solve(pairs, rims, min(_TO_FIT, _MOST // (rims[2] * rims[3])))
        if max(rims[2:]) <= side - 2:
            break
    if fit is None:
        raise SourceError("no window was tried")
    return fit


_Frame = tuple[int, int, int, int]  # top, left, rows, columns


def _solve(pairs: Sequence[Pair], frame: _Frame, enough: int) -> Fit:
    _, _, rows, cols = frame
    count = rows * cols
    normal, right, square, samples = np.zeros((count, count)), np.zeros(count), 0.0, 0
    every = max(1, math.ceil(sum(first.size for first, _ in pairs) / enough))
    for equations, wanted in _equations(pairs, frame, every):
        normal += equations.T @ equations
        right += equations.T @ wanted
        square += float(wanted @ wanted)
        samples += len(wanted)
    if samples < 4 * count:
        raise SourceError(
            f"only {samples} samples are left for {count} weights, without borders and saturated ones; give larger"
            " pictures, or more"
        )
    values, vectors = np.linalg.eigh(normal)
    if not values[0] > 1e-12 * values[-1]:
        raise SourceError("the pictures are too smooth to tell the weights of a kernel apart; give others")
    inverse = (vectors / values) @ vectors.T
    weights = inverse @ right
    rest = max(square - float(weights @ right), 0.0) / (samples - count)
    errors = np.sqrt(rest * np.diag(inverse))
    kernel = ShiftKernel(weights.reshape(rows, cols), frame[0], frame[1])
    return Fit(kernel, errors.reshape(rows, cols), float(np.sqrt(rest)), samples)


def _equations(pairs: Sequence[Pair], frame: _Frame, every: int) -> Iterator[Pair]:
    """What the window sees (samples, weights) and what was made of it (samples), in blocks of every so many rows."""
    top, left, rows, cols = frame
    for first, second in pairs:
        tall, broad = first.shape
        start_row, stop_row = max(0, -top), min(tall, tall - top - rows + 1)
        start_col, stop_col = max(0, -left), min(broad, broad - left - cols + 1)
        if start_row >= stop_row or start_col >= stop_col:
            continue
        seen = np.lib.stride_tricks.sliding_window_view(first, (rows, cols))
        picked = np.arange(start_row, stop_row, every)
        each = max(1, _BLOCK // (stop_col - start_col))
        for place in range(0, len(picked), each):
            some = picked[place : place + each]
            wanted = second[some, start_col:stop_col]
            inside = (wanted > 0) & (wanted < 1)
            window = seen[some + top, start_col + left : stop_col + left]
            yield window[inside].reshape(-1, rows * cols), wanted[inside]


def _rims(fit: Fit) -> _Frame:
    """The frame without the rows and columns at its rim that have no weight."""
    kernel = fit.kernel
    stands = np.abs(kernel.weights) > np.maximum(_SMALL, _ERRORS * fit.errors)
    if not stands.any():
        raise SourceError("no kernel connects the pictures: are they the same ones, moved?")
    rows, cols = np.flatnonzero(stands.any(axis=1)), np.flatnonzero(stands.any(axis=0))
    top, left = int(rows[0]), int(cols[0])
    return kernel.top + top, kernel.left + left, int(rows[-1]) - top + 1, int(cols[-1]) - left + 1
