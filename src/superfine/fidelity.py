"""Consistency: an enlargement that, made small again, is the picture that it was made from.

`consistent_bands` projects. Three stages hand rows to each other, each at fixed rows, so that the result doesn't depend
on how its bands are cut; memory is bounded by some strips:

1. `_exact`, for resizers: x + A+ (y - A x), the nearest consistent picture, in null-space form. `_solved` does it for
   blur kernels, by conjugate gradients.
2. `_in_range`: where values outside of black and white had to be cut off, the neighbourhood makes up for it, as far as
   an in-range picture can: accelerated projected gradients, tile by tile (Beck and Teboulle 2009,
   doi:10.1137/080716542).
3. `_rounded`: whole levels; where the errors of rounding add up to more than half a level, few pixels go to the next.

`measured_bands` is the last stage of all, and the only one for pictures that weren't projected: it reduces what is
written and counts.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.reduction import Line, Patch, Reduction, across, resampling_line
from superfine.color import KINDS
from superfine.errors import ShapeError

__all__ = ["HALF_LEVEL", "Tally", "consistent_bands", "measured_bands"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Shape = tuple[int, int, int]
Span = tuple[int, int]

#: A sample is missed when it's off by more than this many levels; the rest is for the last bits of sums.
HALF_LEVEL: Final = 0.5 + 1e-3

# What a sample may be off by before rounding, in levels: first so much that rounding seldom goes over half a level, and
# where no in-range picture has that, nearly all of it.
_INSIDE: Final = (0.2, 0.45)
# Whole levels are mended from here on.
_MENDED_FROM: Final = 0.499
# Samples that are off by more than this weren't within reach of real values either; steps of one level won't do.
_MENDED_TO: Final = 1.5
# Small rows and columns of a tile that is brought into range in one go, and how far around it pixels may change too.
_TILE: Final = 32
_MARGIN: Final = 4
_TURNS: Final = 200
_LOOK_EVERY: Final = 5
# Where so many turns don't take away this share of what is over, that's all there is to be had.
_WORTH: Final = 0.03
# Not so where all samples are within so many levels, since there may be a picture then that meets them all.
_OUT_OF_REACH: Final = 2.0
_WORTH_NEAR: Final = 0.003
# Pixels of a sample that are looked at when it's mended, the heaviest ones, and steps of one level that it may take.
_CANDIDATES: Final = 32
_STEPS: Final = 12
# Conjugate gradients: turns, and what a sample may be off by at the end, in units of white and in levels.
_CG_TURNS: Final = 400
_CG_UNIT: Final = 2e-7
_CG_LEVELS: Final = 0.05
_CG_MARGIN: Final = 12


@dataclass
class Tally:
    """How well a picture's reduction agrees with its source; filled while its bands pass, whole after the last one."""

    psnr: float | None = None
    """Between input and reduced output over all colour channels, in dB, white is the peak; infinite where equal."""
    drift: tuple[float, ...] = ()
    """Each channel's mean of reduced output minus input, in 8-bit levels."""
    worst: float = 0.0
    """The largest difference of a sample, in levels of the output (of white for float32)."""
    misses: int = 0
    """Samples that are off by more than half a level of the output; means nothing for float32."""
    samples: int = 0
    _squares: float = field(default=0.0, repr=False)
    _sums: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def add(self, difference: Floats, white: float) -> None:
        """Count samples (c, rows, cols) of reduced output minus input, in levels of which `white` are white."""
        if not len(self._sums):
            self._sums = np.zeros(len(difference))
        colours = difference[: _colours(len(difference))]
        self._squares += float(np.square(colours, dtype=np.float64).sum()) / white**2
        self._sums = self._sums + difference.sum(axis=(1, 2), dtype=np.float64) / white
        size = np.abs(difference)
        self.worst = max(self.worst, float(size.max()))
        self.misses += int((size > HALF_LEVEL).sum())
        self.samples += difference.size
        each = self.samples // len(difference)
        mean = self._squares / (each * len(colours))
        self.psnr = math.inf if mean == 0 else -10 * math.log10(mean)
        self.drift = tuple(float(255 * total / each) for total in self._sums)


def _colours(channels: int) -> int:
    return channels - 1 if channels in (2, 4) else channels


def consistent_bands(
    large: Iterable[Array],
    small: Iterable[Array],
    shape: Shape,
    reduction: Reduction,
    made: np.dtype[Any],
    tally: Tally,
) -> Iterator[Array]:
    """Change an enlargement as little as makes `reduction` give back the picture that it was made from.

    large: bands of the enlargement, (rows, s*w, c), float32 in 0..1 (unclipped is best) or whole levels; small: those
    of its source, (rows, w, c), in the source's dtype; both from top to bottom, cut anyhow. shape: the source's.
    Gives bands in `made`: float32 unclipped, consistent to 1e-6 of white; whole levels clipped and rounded, consistent
    to half a level wherever an in-range picture can be, else the nearest that was found; `tally` has what is missed.
    All channels are treated alike, alpha too. Raises ShapeError where the bands don't add up to the shapes.
    """
    source = _Source(small, shape)
    scale = reduction.scale
    size = (scale * shape[0], scale * shape[1], shape[2])
    rows = _strip(scale)
    white = KINDS[made]
    planes = _planes(large, size, scale * rows)
    if reduction.kernel is None:
        exact = _exact(planes, source, shape, reduction)
    else:
        exact = _solved(planes, source, shape, reduction, white)
    if made == np.float32:
        finished = exact
    else:
        fitted = _in_range(exact, source, shape, reduction, white)
        finished = _rounded(fitted, source, shape, reduction, white)
    bands = (np.ascontiguousarray(strip.transpose(1, 2, 0)).astype(made) for strip in finished)
    return _measured(bands, source, shape, size[:2], tally, reduction, made)


def measured_bands(
    large: Iterable[Array],
    small: Iterable[Array],
    shape: Shape,
    target: tuple[int, int],
    tally: Tally,
    reduction: Reduction | None = None,
) -> Iterator[Array]:
    """Pass a finished enlargement's bands on unchanged, and fill the tally.

    large: (rows, cols, c) of `target` in whole; small: its source's, of `shape`; uint8, uint16 or float32 in 0..1 each.
    Without a reduction (fractional scales) it's measured by antialiased bicubic. Raises ShapeError where the bands
    don't add up to the shapes.
    """
    return _measured(large, _Source(small, shape), shape, target, tally, reduction, None)


# ---- rows on their way


class _Rows:
    """Planes (c, rows, cols) of which a stretch is at hand, appended below and forgotten above."""

    def __init__(self) -> None:
        self.parts: list[Floats] = []
        self.start = self.stop = 0

    def append(self, part: Floats) -> None:
        self.parts.append(part)
        self.stop += part.shape[1]

    def __call__(self, first: int, last: int) -> Floats:
        """Rows [first, last), one array; for reading."""
        found, top = [], self.start
        for part in self.parts:
            bottom = top + part.shape[1]
            if bottom > first and top < last:
                found.append(part[:, max(first - top, 0) : last - top])
            top = bottom
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def forget(self, before: int) -> None:
        while self.parts and self.start + self.parts[0].shape[1] <= before:
            self.start += self.parts.pop(0).shape[1]


class _Source:
    """The source's rows in 0..1, read as the stages come to want them."""

    def __init__(self, bands: Iterable[Array], shape: Shape) -> None:
        self.strips = _planes(bands, shape, 64)
        self.rows = _Rows()

    def __call__(self, first: int, last: int) -> Floats:
        """Rows [first, last) as (c, rows, cols) in float32."""
        while self.rows.stop < last:
            self.rows.append(next(self.strips))
        return self.rows(first, last)

    def forget(self, before: int) -> None:
        self.rows.forget(before)


def _planes(bands: Iterable[Array], shape: Shape, rows: int) -> Iterator[Floats]:
    """Bands (any rows, cols, c) -> (c, rows, cols), float32 in 0..1, `rows` each but for the last."""
    strip, filled, total = np.empty((shape[2], min(rows, shape[0]), shape[1]), np.float32), 0, 0
    for whole in bands:
        band = whole
        if band.shape[1:] != shape[1:] or band.dtype not in KINDS or total + len(band) > shape[0]:
            raise ShapeError(f"a band of {band.shape} in {band.dtype} doesn't belong to a picture of {shape}")
        total += len(band)
        while len(band):
            part = band[: strip.shape[1] - filled].transpose(2, 0, 1)
            here = strip[:, filled : filled + part.shape[1]]
            if band.dtype == np.float32:
                here[...] = part
            else:
                np.divide(part, np.float32(KINDS[band.dtype]), out=here, dtype=np.float32)
            filled += part.shape[1]
            band = band[part.shape[1] :]
            if filled == strip.shape[1]:
                yield strip
                left = shape[0] - total + len(band)
                strip, filled = np.empty((shape[2], min(rows, left), shape[1]), np.float32), 0
    if total != shape[0]:
        raise ShapeError(f"the bands end after {total} of {shape[0]} rows; give the whole picture")


def _strip(scale: int) -> int:
    """Small rows that are worked on together, and always the same ones."""
    return 32 if scale <= 4 else 16


def _spans(size: int, step: int) -> list[Span]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _reduced(
    rows: _Rows, span: Span, down: Line, blocks: list[tuple[Span, Span, npt.NDArray[np.float32]]], dtype: npt.DTypeLike
) -> Floats:
    """Small rows of a separable operator, over the whole width."""
    matrix, (first, last) = down.reducing(*span)
    return across(matrix.astype(dtype) @ rows(first, last).astype(dtype, copy=False), blocks)


# ---- 1: exact, before anything is cut off


def _exact(strips: Iterator[Floats], source: _Source, shape: Shape, reduction: Reduction) -> Iterator[Floats]:
    """Strips of the nearest consistent picture, in 0..1 but for overshoots."""
    step, scale = _strip(reduction.scale), reduction.scale
    down, right = reduction.line(shape[0]), reduction.line(shape[1])
    large, changes = _Rows(), _Rows()
    for start, stop in _spans(shape[0], step):
        inverse, wanted = down.inverting(start, stop)
        while changes.stop < wanted[1]:
            span = changes.stop, min(changes.stop + step, shape[0])
            until = down.taps.bounds(*span)[1]
            while large.stop < until:
                large.append(next(strips))
            missing = source(*span) - _reduced(large, span, down, right.reducing_blocks, np.float32)
            changes.append(across(missing, right.inverting_blocks))
        strip = large(scale * start, scale * stop).copy()
        strip += inverse.astype(np.float32) @ changes(*wanted)
        yield strip
        changes.forget(wanted[0])
        ahead = min(changes.stop, shape[0] - 1)
        large.forget(min(scale * stop, down.taps.bounds(ahead, ahead + 1)[0]))
    for _ in strips:  # what there is too much of is complained about
        pass


def _solved(
    strips: Iterator[Floats], source: _Source, shape: Shape, reduction: Reduction, white: float
) -> Iterator[Floats]:
    """The same for a blur kernel, strip by strip: rows that were handed on stay, those below change with the next ones.

    A kernel that takes frequencies away makes A A^T nearly singular: what isn't reached after `_CG_TURNS` turns stays.
    """
    scale, reach, step = reduction.scale, reduction.reach, _strip(reduction.scale)
    tolerance = _CG_UNIT if white == 1 else _CG_LEVELS / white
    large = _Rows()
    state: Floats | None = None  # the window's rows in float64, from row `top` on
    top = 0
    for start, stop in _spans(shape[0], step):
        first, last = max(0, start - 2 * reach), min(shape[0], stop + _CG_MARGIN + 2 * reach)
        while large.stop < scale * last:
            large.append(next(strips))
        fresh = scale * top + (0 if state is None else state.shape[1])
        more = large(fresh, scale * last).astype(np.float64) if scale * last > fresh else None
        parts = [part for part in (state, more) if part is not None]
        window = np.concatenate(parts, axis=1)[:, scale * (first - top) :]
        patch = reduction.patch(shape[:2], (first, last), (0, shape[1]))
        # Samples that want rows below the window are left to the next one, so all rows from `start` on may change.
        free = slice(scale * (start - first), scale * (last - first))
        window[:, free] += _least_change(
            patch.reduce(window), source(first, last), patch.whole, patch.reduce, patch.adjoint, free, tolerance
        )
        yield window[:, scale * (start - first) : scale * (stop - first)].astype(np.float32)
        state, top = window, first
        large.forget(scale * last)
    for _ in strips:
        pass


def _least_change(
    reduced: Floats,
    wanted: Floats,
    whole: npt.NDArray[np.bool_],
    reduce: Callable[[Floats], Floats],
    adjoint: Callable[[Floats], Floats],
    free: slice,
    tolerance: float,
) -> Floats:
    """The smallest change of the rows `free` that takes whole samples to what is wanted, by conjugate gradients."""
    missing = np.where(whole, wanted - reduced, 0)
    weight, towards = np.zeros_like(missing), missing.copy()
    power = np.square(missing).sum(axis=(1, 2), keepdims=True)
    best, found = float(np.abs(missing).max()), weight
    for _ in range(_CG_TURNS):
        if best <= tolerance:
            break
        spread = adjoint(towards)
        masked = np.zeros_like(spread)
        masked[:, free] = spread[:, free]
        seen = np.where(whole, reduce(masked), 0)
        curve = (towards * seen).sum(axis=(1, 2), keepdims=True)
        pace = np.divide(power, curve, out=np.zeros_like(power), where=curve > 0)
        weight = weight + pace * towards
        missing = missing - pace * seen
        if (left := float(np.abs(missing).max())) < best:
            best, found = left, weight
        after = np.square(missing).sum(axis=(1, 2), keepdims=True)
        towards = missing + np.divide(after, power, out=np.zeros_like(power), where=power > 0) * towards
        power = after
    return adjoint(found)[:, free]


# ---- 2: in range


def _in_range(
    strips: Iterator[Floats], source: _Source, shape: Shape, reduction: Reduction, white: float
) -> Iterator[Floats]:
    """Strips in levels from 0 to `white`, not whole ones."""
    scale, reach, step = reduction.scale, reduction.reach, _strip(reduction.scale)
    dtype = np.float32 if white < 256 else np.float64
    levels, beyond = _Rows(), _Rows()
    for start, stop in _spans(shape[0], step):
        last = min(shape[0], stop + _MARGIN + 2 * reach)
        while levels.stop < scale * last:
            exact: Floats = next(strips).astype(dtype, copy=False)
            np.multiply(exact, white, out=exact)
            inside = np.clip(exact, 0, white)
            cut = np.abs(exact - inside).reshape(shape[2], exact.shape[1] // scale, scale, shape[1], scale)
            levels.append(inside)
            beyond.append(cut.max(axis=(2, 4)))
        first = max(0, start - 2 * reach)
        window = levels(scale * first, scale * last)
        windowed = beyond(first, last)
        changed = bool(windowed.max() * reduction.gain > _INSIDE[0])
        if changed:
            wanted = np.multiply(source(first, last), white, dtype=dtype)
            over = np.abs(_window_reduced(window, (first, last), shape, reduction) - wanted) > _INSIDE[0]
            own = over[:, start - first : stop - first]
            for left, right in _spans(shape[1], _TILE):
                for channel in range(shape[2]):  # each for itself, so that none depends on another
                    places = np.argwhere(own[channel, :, left:right])
                    if len(places):
                        corner = np.array([start, left])
                        low, high = places.min(axis=0) + corner, places.max(axis=0) + corner + 1
                        rows = _around((int(low[0]), int(high[0])), (first, last), start, shape[0], reduction)
                        cols = _around((int(low[1]), int(high[1])), (0, shape[1]), 0, shape[1], reduction)
                        _fit(window[channel], wanted[channel], first, rows, cols, shape, reduction, white)
        if changed:
            _replace(levels, scale * first, window)
        yield levels(scale * start, scale * stop).copy()
        levels.forget(scale * (stop - 2 * reach))
        beyond.forget(stop - 2 * reach)


class _Stretch(NamedTuple):
    """Of one axis: small samples [first, last) that are looked at, and [start, stop) whose large ones may change."""

    first: int
    last: int
    start: int
    stop: int


def _around(span: Span, known: Span, fixed: int, size: int, reduction: Reduction) -> _Stretch:
    """The stretch around a span, within what is known; nothing before `fixed` may change.

    All samples that a change is felt by lie in the stretch and want nothing outside of it.
    """
    context = 2 * reduction.reach
    first = max(known[0], span[0] - _MARGIN - context)
    last = min(known[1], span[1] + _MARGIN + context)
    start = first if first == 0 else first + context
    return _Stretch(first, last, max(fixed, start), last if last == size else last - context)


def _fit(
    plane: Floats,
    wanted: Floats,
    top: int,
    rows: _Stretch,
    cols: _Stretch,
    shape: Shape,
    reduction: Reduction,
    white: float,
) -> None:
    """Bring one rectangle of a window's plane, whose first small row is `top`, nearer to what is wanted."""
    scale = reduction.scale
    patch = reduction.patch(shape[:2], rows[:2], cols[:2])
    large = (
        slice(scale * (rows.first - top), scale * (rows.last - top)),
        slice(scale * cols.first, scale * cols.last),
    )
    aim = wanted[rows.first - top : rows.last - top, cols.first : cols.last]
    free = (
        slice(scale * (rows.start - rows.first), scale * (rows.stop - rows.first)),
        slice(scale * (cols.start - cols.first), scale * (cols.stop - cols.first)),
    )
    pace = 1 / (1.05 * reduction.largest)
    best = plane[large][None]
    for inside in _INSIDE:
        best, left = _descended(best, aim[None], patch, free, white, inside, pace)
        if left <= 0.5 - inside:
            break
    plane[large] = best[0]


def _replace(rows: _Rows, first: int, window: Floats) -> None:
    """Write a window's rows back to where they came from."""
    top = rows.start
    for part in rows.parts:
        bottom = top + part.shape[1]
        low, high = max(top, first), min(bottom, first + window.shape[1])
        if low < high:
            part[:, low - top : high - top] = window[:, low - first : high - first]
        top = bottom


def _descended(
    part: Floats, wanted: Floats, patch: Patch, free: tuple[slice, slice], white: float, inside: float, pace: float
) -> tuple[Floats, float]:
    """FISTA on half the squares of what samples are off by over `inside`; and the most that is left of that."""
    rows, cols = free

    def over(picture: Floats) -> Floats:
        off = np.where(patch.whole, wanted - patch.reduce(picture), 0)
        return np.asarray(off - np.clip(off, -inside, inside))

    now, ahead, inertia = part, part.copy(), 1.0
    excess = over(part)
    before = float(np.square(excess).sum())
    if before == 0:
        return part, 0.0
    for turn in range(1, _TURNS + 1):
        moved = part.copy()
        push = patch.adjoint(excess)
        moved[:, rows, cols] = np.clip(ahead[:, rows, cols] + pace * push[:, rows, cols], 0, white)
        following = (1 + math.sqrt(1 + 4 * inertia**2)) / 2
        ahead = moved + (inertia - 1) / following * (moved - now)
        now, inertia = moved, following
        excess = over(ahead)
        if turn % _LOOK_EVERY == 0:
            left = over(now)
            after = float(np.square(left).sum())
            worth = _WORTH if np.abs(left).max() > _OUT_OF_REACH else _WORTH_NEAR
            if after == 0 or after > (1 - worth) * before:
                break
            before = after
    left = over(now)
    return now, float(np.abs(left).max())


# ---- 3: whole levels


class _Moves(NamedTuple):
    """What one level more does, for the heaviest pixels of a sample."""

    rows: npt.NDArray[np.intp]
    """(k,) large rows, counted from the sample's own first one."""
    cols: npt.NDArray[np.intp]
    weight: Floats
    """(k,) on the sample itself."""
    effect: Floats
    """(k, n, m) on the samples around it, which begin `above` rows and `left` columns before it."""
    above: int
    left: int


def _rounded(
    strips: Iterator[Floats], source: _Source, shape: Shape, reduction: Reduction, white: float
) -> Iterator[Floats]:
    """Strips of whole levels."""
    scale, reach, step = reduction.scale, reduction.reach, _strip(reduction.scale)
    levels = _Rows()
    for start, stop in _spans(shape[0], step):
        last = min(shape[0], stop + 2 * reach)
        while levels.stop < scale * last:
            levels.append(next(strips))
        first = max(0, start - 2 * reach)
        window = levels(scale * first, scale * last).copy()
        mine = slice(scale * (start - first), scale * (stop - first))
        exact = window[:, mine].copy()
        window[:, mine] = np.rint(exact)
        wanted = source(first, last).astype(window.dtype) * white
        off = _window_reduced(window, (first, last), shape, reduction) - wanted
        top = max(0, start - reach) - first
        bottom = min(shape[0], stop + reach) - first
        for channel in range(shape[2]):
            _mend(window[channel], off[channel], exact[channel], (first, top, bottom), mine, shape, reduction, white)
        _replace(levels, scale * first, window)
        yield window[:, mine]
        levels.forget(scale * (stop - 2 * reach))


def _window_reduced(window: Floats, rows: Span, shape: Shape, reduction: Reduction) -> Floats:
    """Small rows of a window over the whole width; those that want rows outside of it mean nothing."""
    if reduction.kernel is not None:
        return reduction.patch(shape[:2], rows, (0, shape[1])).reduce(window)
    patch = reduction.patch((shape[0], 1), rows, (0, 1))
    down = patch.down.astype(window.dtype)  # type: ignore[attr-defined]
    return across(down @ window, reduction.line(shape[1]).reducing_blocks)


def _mend(
    plane: Floats,
    off: Floats,
    exact: Floats,
    rows: tuple[int, int, int],
    mine: slice,
    shape: Shape,
    reduction: Reduction,
    white: float,
) -> None:
    """Move pixels of the rows `mine` by one level each until samples are within half a level, or nothing helps.

    rows: the window's first small row in the picture, and the samples [top, bottom) of it that are looked after.
    """
    first, top, bottom = rows
    scale = reduction.scale
    size = np.abs(off[top:bottom])
    places = np.argwhere((size > _MENDED_FROM) & (size < _MENDED_TO))
    for row, col in places + np.array([top, 0]):
        moves = _moves(reduction, *_place(first + row, shape[0], reduction), *_place(col, shape[1], reduction))
        at = scale * row + moves.rows, scale * col + moves.cols
        movable = (at[0] >= mine.start) & (at[0] < mine.stop)
        if not movable.any():
            continue
        above, left = row - moves.above, col - moves.left
        inner = max(0, -above)
        near = off[max(0, above) : above + moves.effect.shape[1], left : left + moves.effect.shape[2]]
        effects = moves.effect[:, inner : inner + near.shape[0]]
        for _ in range(_STEPS):
            if abs(off[row, col]) <= _MENDED_FROM:
                break
            way = -np.sign(off[row, col]) * np.sign(moves.weight)
            value = np.where(movable, plane[np.clip(at[0], 0, len(plane) - 1), at[1]], 0)
            open_ = movable & (value + way >= 0) & (value + way <= white)
            if not open_.any():
                break
            moved = near + way[:, None, None] * effects
            gain = _cost(near) - _cost(moved)
            here = np.where(movable, exact[np.clip(at[0] - mine.start, 0, len(exact) - 1), at[1]], 0)
            farther = np.square(value + way - here) - np.square(value - here)
            score = np.where(open_, gain - 1e-4 * farther, -np.inf)
            chosen = int(np.argmax(score))
            if gain[chosen] <= 1e-6 or not open_[chosen]:
                break
            plane[at[0][chosen], at[1][chosen]] += way[chosen]
            near[...] = moved[chosen]


def _cost(off: Floats) -> Floats:
    """What samples (..., n, m) are off by over the half level that they may be, squared and summed."""
    return np.asarray(np.square(np.maximum(np.abs(off) - _MENDED_FROM, 0)).sum(axis=(-2, -1)))


def _place(index: int, size: int, reduction: Reduction) -> Span:
    """How far a sample lies from both borders, as far as that matters."""
    far = 4 * reduction.reach + 2
    return min(int(index), far), min(size - 1 - int(index), far)


@lru_cache(maxsize=1024)
def _moves(reduction: Reduction, above: int, below: int, left: int, right: int) -> _Moves:
    """The moves for a sample that has so many samples around it."""
    reach, scale = reduction.reach, reduction.scale
    shape = above + 1 + below, left + 1 + right
    rows = max(0, above - 3 * reach), min(shape[0], above + 3 * reach + 1)
    cols = max(0, left - 3 * reach), min(shape[1], left + 3 * reach + 1)
    patch = reduction.patch(shape, rows, cols)
    own = np.zeros((1, rows[1] - rows[0], cols[1] - cols[0]))
    own[0, above - rows[0], left - cols[0]] = 1
    weight = patch.adjoint(own)[0]
    order = np.argsort(-np.abs(weight), axis=None, kind="stable")[:_CANDIDATES]
    order = order[np.abs(weight.ravel()[order]) > 1e-9]
    places = np.unravel_index(order, weight.shape)
    single = np.zeros((len(order), *weight.shape))
    single[np.arange(len(order)), places[0], places[1]] = 1
    effect = patch.reduce(single)
    near = max(0, above - 2 * reach), max(0, left - 2 * reach)
    ends = min(shape[0], above + 2 * reach + 1), min(shape[1], left + 2 * reach + 1)
    return _Moves(
        places[0] + scale * (rows[0] - above),
        places[1] + scale * (cols[0] - left),
        weight.ravel()[order],
        effect[:, near[0] - rows[0] : ends[0] - rows[0], near[1] - cols[0] : ends[1] - cols[0]],
        above - near[0],
        left - near[1],
    )


# ---- the figure


def _measured(
    bands: Iterable[Array],
    source: _Source,
    shape: Shape,
    target: tuple[int, int],
    tally: Tally,
    reduction: Reduction | None,
    made: np.dtype[Any] | None,
) -> Iterator[Array]:
    """Bands as they are; their reduction is compared with the source as soon as it can be."""
    large = _Rows()
    wanted, reduce = _reducer(shape, target, reduction)
    spans = iter(_spans(shape[0], 32))
    span = next(spans, None)
    rows = 0
    for band in bands:
        yield band
        made = made or band.dtype
        white = KINDS[made]
        dtype = np.float64 if white > 256 else np.float32
        rows += len(band)
        if band.shape[1:] != (target[1], shape[2]) or rows > target[0]:
            raise ShapeError(f"a band of {band.shape} doesn't belong to a picture of {(*target, shape[2])}")
        large.append(np.ascontiguousarray(band.transpose(2, 0, 1).astype(dtype)))
        while span is not None:
            first, last = wanted(span)
            if large.stop < last:
                break
            small = reduce(large, span)
            tally.add(small - np.multiply(source(*span), white, dtype=dtype), white)
            source.forget(span[0] - 2 * (reduction.reach if reduction else 0))
            large.forget(first)
            span = next(spans, None)
    if rows != target[0]:
        raise ShapeError(f"the bands end after {rows} of {target[0]} rows; give the whole picture")


def _reducer(
    shape: Shape, target: tuple[int, int], reduction: Reduction | None
) -> tuple[Callable[[Span], Span], Callable[[_Rows, Span], Floats]]:
    """Which large rows small rows want, and how they are made of them."""
    if reduction is not None and reduction.kernel is not None:
        operator = reduction

        def around(span: Span) -> Span:
            return max(0, span[0] - operator.reach), min(shape[0], span[1] + operator.reach)

        def wanted(span: Span) -> Span:
            first, last = around(span)
            return operator.scale * first, operator.scale * last

        def reduce(large: _Rows, span: Span) -> Floats:
            first, last = around(span)
            patch = operator.patch(shape[:2], (first, last), (0, shape[1]))
            return patch.reduce(large(*wanted(span)))[:, span[0] - first : span[1] - first]

        return wanted, reduce

    down, right = (
        resampling_line(new, old) if reduction is None else reduction.line(old)
        for new, old in zip(target, shape[:2], strict=True)
    )
    return lambda span: down.taps.bounds(*span), lambda large, span: _reduced(
        large, span, down, right.reducing_blocks, large.parts[0].dtype
    )
