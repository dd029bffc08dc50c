"""Optical flow: how far each pixel has moved, by the registration's sub-pixel step in windows around it.

Content moves by +d: `second[r, c] = first[r - dy, c - dx]` with (dy, dx) = flow[r, c]. From coarse to fine,
`first` is moved by the flow so far, and the rest of each window is found by Gauss-Newton on the gradient of both
pictures' mean. Where a window shows nothing, the coarser flow stays.
Sources: Lucas and Kanade 1981; Bouguet 2001 (the pyramid); the step is that of `register`.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.classical.register import box_mean, check_pair, luma, whole_shift

__all__ = ["flow"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]

# The smallest side of the pyramid's top; steps on a level, on one with sides over this, and on the last if it is so.
_TOP: Final = 24
_STEPS: Final = 4
_LARGE, _LARGE_STEPS = 400, 2
# Two running means of this radius make the window.
_RADIUS: Final = 5
# How far a step may go, in pixels of its level.
_STRIDE: Final = 1.0
# A window's energy counts in units of this share of the picture's usual one: below it the coarser flow stays.
_STIFFNESS: Final = 0.01
# And the share of the usual certainty at which a window listens as much to its surroundings as to itself.
_EASE: Final = 0.3
# Central differences of fourth order.
_SLOPE: Final = (2 / 3, -1 / 12)


def flow(first: Array, second: Array) -> Floats:
    """Measure how far the content at each pixel of `second` has come from its place in `first`.

    Both: (H, W), (H, W, 1), RGB or RGBA (of which luma is taken), of one shape, 16 x 16 pixels or more, of any real
    dtype and range, without NaN; neither is changed. Returns (H, W, 2), float32: (dy, dx) in pixels, so that
    `second[r, c] = first[r - dy, c - dx]`. Parts that are seen in one picture alone get the flow of what is near.
    Raises ShapeError for pictures that can't be compared, NoMatchError for one flat colour.
    """
    check_pair(first, second)
    start = whole_shift(first, second)
    one, two = (luma(pixels).astype(np.float32) for pixels in (first, second))
    # One scale for both, so that a change of exposure isn't taken for movement.
    one = (one - one.mean()) * (1 / max(float(one.std()), 1e-12))
    two = (two - two.mean()) * (1 / max(float(two.std()), 1e-12))
    levels = [(one, two)]
    while min(levels[-1][0].shape) >= 2 * _TOP:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    found = np.empty((*levels[-1][0].shape, 2), np.float32)
    found[...] = np.array(start) / 2 ** (len(levels) - 1)
    for depth, (coarse_one, coarse_two) in reversed(list(enumerate(levels))):
        if found.shape[:2] != coarse_two.shape:
            found = _doubled(found, coarse_two.shape)
        large = max(coarse_two.shape) > _LARGE
        for _ in range(1 if large and depth == 0 else _LARGE_STEPS if large else _STEPS):
            found = _bettered(coarse_one, coarse_two, found, spread=not (large and depth == 0))
    return found


def _bettered(one: Floats, two: Floats, found: Floats, *, spread: bool) -> Floats:
    """The flow after one Gauss-Newton step in the window around each pixel."""
    moved = _moved(one, found)
    down, across = _gradients((two + moved) * np.float32(0.5))
    rest = two - moved
    energy = [_windowed(field) for field in (down * down, down * across, across * across, down * rest, across * rest)]
    dd, da, aa, dr, ar = energy
    stiff = np.float32(_STIFFNESS) * (dd.mean() + aa.mean()) + np.float32(1e-12)
    dd, aa = dd + stiff, aa + stiff
    determinant = dd * aa - da * da
    sure = determinant / (dd + aa)
    step = np.stack([(da * ar - aa * dr) / determinant, (da * dr - dd * ar) / determinant], axis=-1)
    np.clip(step, -_STRIDE, _STRIDE, out=step)
    step += found
    if not spread:
        return step
    # What a window can't see it takes from those around it that can.
    weight = _windowed(sure)
    ease = np.float32(_EASE) * sure.mean()
    for axis in (0, 1):
        near = _windowed(sure * step[..., axis]) / weight
        step[..., axis] = (sure * step[..., axis] + ease * near) / (sure + ease)
    return step


def _windowed(field: Floats) -> Floats:
    for _ in range(2):
        for axis in (0, 1):
            field = box_mean(field, axis, before=_RADIUS, after=_RADIUS)
    return field


def _moved(plane: Floats, found: Floats) -> Floats:
    """The plane at (r - dy, c - dx) by Keys' cubic (a = -0.5); beyond the border its nearest pixel."""
    rows, cols = plane.shape
    places = (
        np.arange(rows, dtype=np.float32)[:, None] - found[..., 0],
        np.arange(cols, dtype=np.float32)[None] - found[..., 1],
    )
    taps = []
    for place, count in zip(places, (rows, cols), strict=True):
        under = np.floor(np.clip(place, -2, count + 1))
        taps.append((under.astype(np.intp), _cubic(np.clip(place, -2, count + 1) - under)))
    (top, down), (left, across) = taps
    flat = plane.ravel()
    columns = [np.clip(left + tap, 0, cols - 1) for tap in range(-1, 3)]
    total = np.zeros_like(plane)
    for tap in range(4):
        start = np.clip(top + (tap - 1), 0, rows - 1) * cols
        line = np.zeros_like(plane)
        for column, weight in zip(columns, across, strict=True):
            line += weight * flat.take(start + column)
        total += down[tap] * line
    return total


def _cubic(fraction: Floats) -> list[Floats]:
    """Weights of the samples at -1, 0, 1, 2. Source: Keys 1981, doi:10.1109/TASSP.1981.1163711."""
    t = fraction
    return [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


def _gradients(plane: Floats) -> tuple[Floats, Floats]:
    reach = len(_SLOPE)
    padded = np.pad(plane, reach, mode="reflect")
    rows, cols = plane.shape
    down, across = np.zeros_like(plane), np.zeros_like(plane)
    for step, weight in enumerate(_SLOPE, 1):
        low, high = reach - step, reach + step
        down += np.float32(weight) * (padded[high : high + rows, reach:-reach] - padded[low : low + rows, reach:-reach])
        across += np.float32(weight) * (
            padded[reach:-reach, high : high + cols] - padded[reach:-reach, low : low + cols]
        )
    return down, across


def _halved(plane: Floats) -> Floats:
    """Half the size, rounded down: means over 2 x 2, smoothed before so that little aliases."""
    rows, cols = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    padded: Floats = np.pad(plane[:rows, :cols], 1, mode="edge")
    for _ in range(2):  # 1 3 3 1 along rows, then along columns
        line = padded[:-2:2] + padded[3::2] + np.float32(3) * (padded[1:-1:2] + padded[2::2])
        padded = line.T * np.float32(0.125)
    return np.ascontiguousarray(padded)


def _doubled(found: Floats, shape: tuple[int, ...]) -> Floats:
    """The flow of the level below, linear between the pixels of this one."""
    result: npt.NDArray[Any] = found
    for axis in (0, 1):
        count = result.shape[axis]
        place = np.clip((np.arange(shape[axis]) + 0.5) / 2 - 0.5, 0, count - 1)
        under = np.minimum(place.astype(np.intp), count - 2)
        share = (place - under).astype(np.float32).reshape([-1 if along == axis else 1 for along in range(3)])
        result = (np.float32(1) - share) * result.take(under, axis=axis) + share * result.take(under + 1, axis=axis)
    return np.float32(2) * result
