"""Consistency: an enlargement that, made small again, is the picture that it was made from.

`consistent_bands` projects. Three stages hand rows to each other, each at fixed rows, so that the result doesn't depend
on how its bands are cut; memory is bounded by some strips:

1. `_exact`, for resizers: x + A+ (y - A x), the nearest consistent picture, in null-space form. `_solved` does it for
   blur kernels, by conjugate gradients.
2. `_in_range`: where values outside of black and white had to be cut off, the neighbourhood makes up for it, as far as
   an in-range picture can, tile by tile; where none can, few samples are missed by much rather than many by little.
   Blocks don't touch each other, so for them `_in_blocks` does this and the next at once, exactly.
3. `_rounded`: whole levels; where the errors of rounding add up to more than half a level, some pixels are rounded the
   other way.

`measured_bands` is the last stage of all, and the only one for pictures that weren't projected: it reduces what is
written and counts.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.reduction import Line, Patch, Reduction, across, nearly_inverse, resampling_line
from superfine.color import KINDS
from superfine.errors import ShapeError

__all__ = ["HALF_LEVEL", "Tally", "consistent_bands", "measured_bands"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Shape = tuple[int, int, int]
Span = tuple[int, int]

#: A sample is missed when it's off by more than this many levels; the rest is for the last bits of sums.
HALF_LEVEL: Final = 0.5 + 1e-3

# What a sample may be off by before rounding, in levels, so that rounding seldom goes over half a level; and what ends
# the search for that.
_INSIDE: Final = 0.25
_NEAR: Final = 0.45
# Whole levels are mended from here on.
_MENDED_FROM: Final = 0.499
# Samples that are off by more than this weren't within reach of real values either; steps of one level won't do.
_MENDED_TO: Final = 1.5
# After so many turns no more than this share of what was over before should be left; else that's all there is.
_LOOK_EVERY: Final = 30
_PROGRESS: Final = 0.9
# Turns of mending.
_MENDS: Final = 16
# So few samples of a tile that are still off are mended one by one, in so many steps.
_FEW: Final = 8
_STEPS: Final = 60
# Multiples of these, modulo one, fill the plane evenly.
_GOLDEN: Final = (0.7548776662, 0.5698402910)
# Halvings of a span of levels, until what is left of it is below a float's last bit.
_HALVINGS: Final = 45
# Conjugate gradients: turns, and what a sample may be off by at the end, in units of white and in levels.
_CG_TURNS: Final = 300
_CG_UNIT: Final = 2e-7
_CG_LEVELS: Final = 0.05
_CG_MARGIN: Final = 12
# 16 bits have levels that are 257 times finer, and take so many times the turns of each effort.
_DEEPER: Final = 8


class _Effort(NamedTuple):
    """How hard a tile is worked on."""

    tile: int
    """Small columns that are looked at together; its rows are a strip's."""
    margin: int
    """Small rows and columns around what is wrong whose pixels may change."""
    inside: float
    """Samples are wrong that are off by more levels than this."""
    share: float
    """Where more of a tile's samples are wrong, it's left alone."""
    turns: int
    worth: float
    """The most that a sample weighs, in steps that a lack of white is answered with."""


# What few turns leave behind gets more of them, where it isn't so much that no picture in range has it.
_EFFORTS: Final = (_Effort(32, 2, _INSIDE, 1.0, 30, 1.5), _Effort(16, 4, 0.5, 0.05, 120, 12.0))


@dataclass
class Tally:
    """How well a picture's reduction agrees with its source; filled while its bands pass, whole after the last one."""

    psnr: float | None = None
    """Between input and reduced output over all colour channels, in dB, white is the peak; infinite where equal.

    With alpha colours count as far as they are seen.
    """
    drift: tuple[float, ...] = ()
    """Each channel's mean of reduced output minus input, in 8-bit levels; of colours as far as they are seen."""
    worst: float = 0.0
    """The largest difference of a sample, in levels of the output (of white for float32)."""
    misses: int = 0
    """Samples that are off by more than half a level of the output; of float32, half a level of 255."""
    samples: int = 0
    _squares: float = field(default=0.0, repr=False)
    _sums: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    _seen: float = field(default=0.0, repr=False)

    def add(self, difference: Floats, white: float, alpha: Floats | None = None) -> None:
        """Count samples (c, rows, cols) of reduced output minus input, in levels of which `white` are white.

        alpha: the input's, (rows, cols) in 0..1, where it is the last channel.
        """
        if not len(self._sums):
            self._sums = np.zeros(len(difference))
        colours = difference if alpha is None else difference[:-1]
        shown = colours if alpha is None else colours * alpha
        self._squares += float(np.vdot(shown, colours)) / white**2
        self._sums[: len(colours)] += shown.sum(axis=(1, 2)).astype(np.float64) / white
        self._seen += colours[0].size if alpha is None else float(alpha.sum(dtype=np.float64))
        worst = max(float(difference.max()), -float(difference.min()))
        self.worst = max(self.worst, worst)
        half = HALF_LEVEL if white > 1 else HALF_LEVEL / 255
        if worst > half:
            self.misses += int(np.count_nonzero(np.abs(difference) > half))
        self.samples += difference.size
        counts = np.full(len(self._sums), max(self._seen, 1e-9))
        if alpha is not None:
            self._sums[-1] += float(difference[-1].sum(dtype=np.float64)) / white
            counts[-1] = self.samples // len(difference)
        mean = self._squares / (counts[0] * len(colours))
        self.psnr = math.inf if mean == 0 else -10 * math.log10(mean)
        self.drift = tuple(float(255 * total / count) for total, count in zip(self._sums, counts, strict=True))


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
    elif reduction.name == "box":
        finished = _in_blocks(exact, source, shape, scale, white)
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
        self.parts: list[npt.NDArray[Any]] = []
        self.start = self.stop = 0

    def append(self, part: npt.NDArray[Any]) -> None:
        self.parts.append(part)
        self.stop += part.shape[1]

    def __call__(self, first: int, last: int) -> npt.NDArray[Any]:
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
            part = band[: strip.shape[1] - filled]
            if band.dtype != np.float32:
                part = np.divide(part, np.float32(KINDS[band.dtype]), dtype=np.float32)
            strip[:, filled : filled + len(part)] = part.transpose(2, 0, 1)
            filled += len(part)
            band = band[len(part) :]
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
        window[:, free] += _least_change(window, source(first, last), reduction, patch, free, tolerance)
        yield window[:, scale * (start - first) : scale * (stop - first)].astype(np.float32)
        state, top = window, first
        large.forget(scale * last)
    for _ in strips:
        pass


def _least_change(
    window: Floats, wanted: Floats, reduction: Reduction, patch: Patch, free: slice, tolerance: float
) -> Floats:
    """The smallest change of the rows `free` that takes whole samples to what is wanted.

    By preconditioned conjugate gradients (Golub and Van Loan, Matrix Computations, 11.5).
    """
    missing = np.where(patch.whole, wanted - patch.reduce(window), 0)
    inverted = nearly_inverse(reduction, (wanted.shape[1], wanted.shape[2]))
    weight = np.zeros_like(missing)
    towards, before = weight, np.ones((len(missing), 1, 1))
    best, found = float(np.abs(missing).max()), weight
    for _ in range(_CG_TURNS):
        if best <= tolerance:
            break
        steered = np.where(patch.whole, inverted(missing), 0)
        power = (missing * steered).sum(axis=(1, 2), keepdims=True)
        towards = steered + np.divide(power, before, out=np.zeros_like(power), where=before > 0) * towards
        before = power
        spread = patch.adjoint(towards)
        masked = np.zeros_like(spread)
        masked[:, free] = spread[:, free]
        seen = np.where(patch.whole, patch.reduce(masked), 0)
        curve = (towards * seen).sum(axis=(1, 2), keepdims=True)
        pace = np.divide(power, curve, out=np.zeros_like(power), where=curve > 0)
        weight = weight + pace * towards
        missing = missing - pace * seen
        if (left := float(np.abs(missing).max())) < best:
            best, found = left, weight
    return patch.adjoint(found)[:, free]


# ---- 2: in range


def _in_range(
    strips: Iterator[Floats], source: _Source, shape: Shape, reduction: Reduction, white: float
) -> Iterator[Floats]:
    """Strips in levels from 0 to `white`, not whole ones."""
    scale, reach, step = reduction.scale, reduction.reach, _strip(reduction.scale)
    dtype = np.float32 if white < 256 else np.float64
    levels, beyond = _Rows(), _Rows()
    for start, stop in _spans(shape[0], step):
        last = min(shape[0], stop + _EFFORTS[-1].margin + 2 * reach)
        while levels.stop < scale * last:
            exact: Floats = next(strips).astype(dtype, copy=False)
            np.multiply(exact, white, out=exact)
            beyond.append(np.maximum(exact.max(axis=2) - white, -exact.min(axis=2))[..., None])
            levels.append(np.clip(exact, 0, white, out=exact))
        first = max(0, start - 2 * reach)
        if beyond(scale * first, scale * last).max() * reduction.gain > _INSIDE:
            window = levels(scale * first, scale * last)
            missing = np.multiply(source(first, last), white, dtype=dtype)
            missing -= _window_reduced(window, (first, last), shape, reduction)
            known: dict[tuple[object, ...], Floats] = {}
            for plane, short in zip(window, missing, strict=True):  # each for itself: none depends on another
                _fit(plane, short, first, (start, stop), shape, reduction, white, known)
            _replace(levels, scale * first, window)
        yield levels(scale * start, scale * stop).copy()
        levels.forget(scale * (stop - 2 * reach))
        beyond.forget(scale * (stop - 2 * reach))


class _Tile(NamedTuple):
    """A rectangle of a window: what of it may change, and all that feels it."""

    pixels: tuple[slice, slice]
    """Of the window's rows and columns: those of `samples`."""
    samples: tuple[slice, slice]
    free: tuple[slice, slice]
    """Of `pixels`."""
    patch: Patch
    place: tuple[Span, Span]


def _tiles(
    short: Floats,
    levels: tuple[float, float],
    watched: Span,
    first: int,
    mine: Span,
    below: int,
    step: int,
    margin: int,
    shape: Shape,
    reduction: Reduction,
) -> Iterator[_Tile]:
    """Tiles around samples that are wrong, `step` columns of them at a time, from left to right.

    short: what the samples of a window, whose first row is `first`, lack by now; levels: what is wrong is short of more
    than the first and less than the second of them; watched: the rows whose samples count; pixels from the start of
    the rows `mine` to `below` may change.
    """
    scale, reach = reduction.scale, reduction.reach
    for left, right in _spans(shape[1], step):
        size = np.abs(short[watched[0] - first : watched[1] - first, left:right])
        if size.max() <= levels[0]:
            continue
        places = np.argwhere((size > levels[0]) & (size < levels[1]))
        if not len(places):
            continue
        corner = np.array([watched[0], left])
        least, most = corner + places.min(axis=0), corner + places.max(axis=0) + 1
        free: list[Span] = []
        felt: list[Span] = []
        for begin, end, low, high, side in zip(least, most, (mine[0], 0), (below, shape[1]), shape[:2], strict=True):
            free.append((max(low, int(begin) - margin), min(high, int(end) + margin)))
            felt.append((max(0, free[-1][0] - reach), min(side, free[-1][1] + reach)))
        yield _Tile(
            _slices(felt, (first, 0), scale),
            _slices(felt, (first, 0), 1),
            _slices(free, (felt[0][0], felt[1][0]), scale),
            reduction.patch(shape[:2], felt[0], felt[1]),
            (free[0], free[1]),
        )


def _slices(spans: list[Span], corner: Span, scale: int) -> tuple[slice, slice]:
    rows, cols = (slice(scale * (a - top), scale * (b - top)) for (a, b), top in zip(spans, corner, strict=True))
    return rows, cols


def _fit(
    plane: Floats,
    short: Floats,
    first: int,
    mine: Span,
    shape: Shape,
    reduction: Reduction,
    white: float,
    known: dict[tuple[object, ...], Floats],
) -> None:
    """Bring small rows `mine` of a window's plane, whose first one is `first`, nearer to what is wanted.

    short: what its samples lack, kept up to date; known: the changes of tiles that were met before.
    """
    pace = 1 / (1.05 * reduction.largest)
    for effort in _EFFORTS:
        levels = effort.inside, math.inf
        below = min(shape[0], mine[1] + effort.margin)
        for tile in _tiles(short, levels, mine, first, mine, below, effort.tile, effort.margin, shape, reduction):
            part, lack = plane[tile.pixels], short[tile.samples]
            if np.count_nonzero(np.abs(lack) > effort.inside) > effort.share * lack.size:
                continue
            key = effort, *tile.place, part.tobytes(), lack.tobytes()
            if key not in known:
                low, high = np.zeros((2, 1, *part.shape), part.dtype)
                low[0][tile.free] = -part[tile.free]
                high[0][tile.free] = white - part[tile.free]
                known[key] = _nearest(lack[None], tile.patch, low, high, pace, white, effort)
            part += known[key][0]
            np.clip(part, 0, white, out=part)
            lack -= tile.patch.reduce(known[key])[0]


def _nearest(
    lack: Floats, patch: Patch, low: Floats, high: Floats, pace: float, white: float, effort: _Effort
) -> Floats:
    """The least change of pixels, from `low` to `high`, that leaves samples little of what they lack.

    It's the adjoint of a weight for each sample, cut off where there is no more room, and the weights are found by
    FISTA on the dual problem (Beck and Teboulle 2009, doi:10.1137/080716542), begun again where its inertia leads
    astray (O'Donoghue and Candes 2015, doi:10.1007/s10208-013-9150-3). Weights are bounded: what no change can bring
    counts by its size and not by its square, so that few samples miss much, and the others nothing.
    """
    number = lack.dtype.type
    slack, bound, step = number(pace * _INSIDE), number(effort.worth * pace * white), number(pace)
    weight = ahead = np.zeros_like(lack)
    left, inertia, before = lack, 1.0, math.inf
    turns = effort.turns * (1 if white < 256 else _DEEPER)
    for turn in range(1, turns + 1):
        moved = ahead + step * left
        moved -= np.minimum(np.maximum(moved, -slack), slack)
        np.minimum(np.maximum(moved, -bound, out=moved), bound, out=moved)
        way = moved - weight
        if np.vdot(left, way) < 0:
            inertia = 1.0
        following = (1 + math.sqrt(1 + 4 * inertia**2)) / 2
        ahead = moved + number((inertia - 1) / following) * way
        weight, inertia = moved, following
        change = patch.adjoint(ahead)
        np.minimum(np.maximum(change, low, out=change), high, out=change)
        left = lack - patch.reduce(change)
        if max(left.max(), -left.min()) <= _NEAR:
            break
        if turn % _LOOK_EVERY == 0:
            over = float(np.maximum(np.abs(left) - _NEAR, 0).sum())
            if over > _PROGRESS * before:
                break
            before = over
    return change


def _replace(rows: _Rows, first: int, window: Floats) -> None:
    """Write a window's rows back to where they came from."""
    top = rows.start
    for part in rows.parts:
        bottom = top + part.shape[1]
        low, high = max(top, first), min(bottom, first + window.shape[1])
        if low < high:
            part[:, low - top : high - top] = window[:, low - first : high - first]
        top = bottom


# ---- 3: whole levels


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
        short = wanted - _window_reduced(window, (first, last), shape, reduction)
        for planes in zip(window, short, exact, strict=True):
            _mend(*planes, first, (start, stop), shape, reduction, white)
        _replace(levels, scale * first, window)
        yield window[:, mine]
        levels.forget(scale * (stop - 2 * reach))


def _in_blocks(strips: Iterator[Floats], source: _Source, shape: Shape, scale: int, white: float) -> Iterator[Floats]:
    """Strips of whole levels whose blocks have the source's means, which can always be had.

    The nearest values in range that have a mean are the old ones, moved together and cut off; of their fractions the
    largest become whole.
    """
    for start, stop in _spans(shape[0], _strip(scale)):
        parts = (shape[2], stop - start, scale, shape[1], scale)
        blocks = next(strips).reshape(parts).transpose(0, 1, 3, 2, 4).reshape(-1, scale**2) * white
        means = source(start, stop).astype(np.float64).reshape(-1, 1) * white
        beyond = (blocks.min(axis=1) < 0) | (blocks.max(axis=1) > white)
        blocks[beyond] = _moved_into_range(blocks[beyond], means[beyond], white)
        levels = np.floor(blocks)
        more = np.rint(means * scale**2) - levels.sum(axis=1, keepdims=True)
        rank = np.argsort(np.argsort(levels - blocks, axis=1, kind="stable"), axis=1)
        levels += rank < more
        whole = levels.reshape(shape[2], stop - start, shape[1], scale, scale).transpose(0, 1, 3, 2, 4)
        yield whole.reshape(shape[2], scale * (stop - start), scale * shape[1])


def _moved_into_range(blocks: Floats, means: Floats, white: float) -> Floats:
    """(n, values), each plus one number for all of its block so that the means come out between 0 and `white`."""
    low, high = -blocks.max(axis=1, keepdims=True), white - blocks.min(axis=1, keepdims=True)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = np.clip(blocks + middle, 0, white).mean(axis=1, keepdims=True) > means
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    moved: Floats = np.clip(blocks + high, 0, white)
    return moved


def _window_reduced(window: Floats, rows: Span, shape: Shape, reduction: Reduction) -> Floats:
    """Small rows of a window over the whole width; those that want rows outside of it mean nothing."""
    if reduction.kernel is not None:
        return reduction.patch(shape[:2], rows, (0, shape[1])).reduce(window)
    patch = reduction.patch((shape[0], 1), rows, (0, 1))
    down = patch.down.astype(window.dtype)  # type: ignore[attr-defined]
    return across(down @ window, reduction.line(shape[1]).reducing_blocks)


def _mend(
    plane: Floats,
    short: Floats,
    exact: Floats,
    first: int,
    mine: Span,
    shape: Shape,
    reduction: Reduction,
    white: float,
) -> None:
    """Round pixels of small rows `mine` the other way until samples are within half a level, or nothing helps.

    exact: what the rows were before rounding.
    """
    reach, scale = reduction.reach, reduction.scale
    watched = max(0, mine[0] - reach), min(shape[0], mine[1] + reach)
    levels = _MENDED_FROM, _MENDED_TO
    pace = plane.dtype.type(1 / reduction.largest)

    for tile in _tiles(short, levels, watched, first, mine, mine[1], 32, max(1, reach), shape, reduction):
        lack, whole = short[tile.samples], plane[tile.pixels]
        free = whole[tile.free]
        top = tile.pixels[0].start + tile.free[0].start - scale * (mine[0] - first)
        left = tile.pixels[1].start + tile.free[1].start
        real = exact[top : top + free.shape[0], left : left + free.shape[1]]
        # Pixels give way by different amounts, so that equal ones don't all go to another level at once.
        down, right = np.arange(len(real)) + top + scale * mine[0], np.arange(real.shape[1]) + left
        giving = 2 * ((_GOLDEN[0] * down[:, None] + _GOLDEN[1] * right) % 1).astype(real.dtype)
        weight = np.zeros((1, *lack.shape), lack.dtype)
        change = np.zeros((1, *whole.shape), lack.dtype)
        near = np.abs(lack) < _MENDED_TO
        now, best, most, kept = lack, lack, lack.size + 1, free
        for _ in range(_MENDS):
            over = np.where(near, now - np.clip(now, -_MENDED_FROM, _MENDED_FROM), 0)
            missed = np.count_nonzero(over)
            if missed < most:
                most, best, kept = int(missed), now, change[0][tile.free] + free
            if not missed:
                break
            weight[0] += pace * over
            moved = giving * tile.patch.adjoint(weight)[0][tile.free] + real
            change[0][tile.free] = np.rint(np.clip(moved, 0, white)) - free
            now = lack - tile.patch.reduce(change)[0]
        if 0 < most <= _FEW:
            kept, best = _stepped(tile, whole.shape, best, kept, white)
        short[tile.samples] = best
        free[...] = kept


def _stepped(tile: _Tile, size: tuple[int, ...], lack: Floats, kept: Floats, white: float) -> tuple[Floats, Floats]:
    """The few samples that are left, by steps of one pixel each: the pixels that may change, and what is lacking then.

    size: of the tile's pixels, (rows, cols).
    """
    change = np.zeros((1, *size), lack.dtype)
    tried = np.zeros(kept.shape, bool)
    for _ in range(_STEPS):
        over = lack - np.clip(lack, -_MENDED_FROM, _MENDED_FROM)
        over[np.abs(lack) >= _MENDED_TO] = 0
        if not over.any():
            break
        pull = tile.patch.adjoint(over[None])[0][tile.free]
        pull[tried | (np.where(pull > 0, kept >= white, kept <= 0))] = 0
        place = np.unravel_index(np.argmax(np.abs(pull)), pull.shape)
        step = np.sign(pull[place])
        if not step:
            break
        change[0][tile.free][place] = step
        then = lack - tile.patch.reduce(change)[0]
        change[0][tile.free][place] = 0
        worse = np.square(np.maximum(np.abs(then) - _MENDED_FROM, 0)).sum() >= np.square(over).sum()
        tried[place] = worse
        if not worse:
            lack, kept = then, kept.copy()
            kept[place] += step
    return kept, lack


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
    spans = iter(_spans(shape[0], 16))
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
        large.append(band.reshape(1, len(band), -1).copy())  # the taker may change what it was given
        while span is not None:
            first, last = wanted(span)
            if large.stop < last:
                break
            pixels: Floats = large(first, last).reshape(-1, *band.shape[1:]).astype(dtype, copy=False)
            small = reduce(pixels, span)
            given = source(*span)
            alpha = given[-1] if len(given) in (2, 4) else None
            tally.add(small - np.multiply(given, white, dtype=dtype), white, alpha)
            source.forget(span[0] - 2 * (reduction.reach if reduction else 0))
            large.forget(first)
            span = next(spans, None)
    if rows != target[0]:
        raise ShapeError(f"the bands end after {rows} of {target[0]} rows; give the whole picture")


def _reducer(
    shape: Shape, target: tuple[int, int], reduction: Reduction | None
) -> tuple[Callable[[Span], Span], Callable[[Floats, Span], Floats]]:
    """Which large rows small rows want, and how they are made of them: (rows, cols, c) -> (c, rows, cols)."""
    if reduction is not None and reduction.kernel is not None:
        operator = reduction

        def around(span: Span) -> Span:
            return max(0, span[0] - operator.reach), min(shape[0], span[1] + operator.reach)

        def wanted(span: Span) -> Span:
            first, last = around(span)
            return operator.scale * first, operator.scale * last

        def blurred(pixels: Floats, span: Span) -> Floats:
            first, last = around(span)
            patch = operator.patch(shape[:2], (first, last), (0, shape[1]))
            return patch.reduce(pixels.transpose(2, 0, 1))[:, span[0] - first : span[1] - first]

        return wanted, blurred

    down, right = (
        resampling_line(new, old) if reduction is None else reduction.line(old)
        for new, old in zip(target, shape[:2], strict=True)
    )

    def resized(pixels: Floats, span: Span) -> Floats:
        matrix = down.reducing(*span)[0].astype(pixels.dtype)
        low = (matrix @ pixels.reshape(len(pixels), -1)).reshape(len(matrix), *pixels.shape[1:])
        lines = np.ascontiguousarray(low.transpose(2, 0, 1)).reshape(-1, low.shape[1])
        return across(lines, right.reducing_blocks).reshape(pixels.shape[2], len(matrix), -1)

    return lambda span: down.taps.bounds(*span), resized
