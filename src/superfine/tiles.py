"""Plan, cut with halo, compute, paste: a picture in pieces equals the picture whole.

Knows no engine: `enlarge` takes any function on pixels. All tiles of one
picture have one shape, so that an engine prepares itself once; they lie on the
engine's grid, and each is cut with the halo that its inner part depends on. A
clip, (frames, h, w, c), is cut alike in all its frames and makes one picture.
A tile that runs out of memory is halved; one that can't be halved fails the
picture. Half-right pixels don't exist.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.errors import EngineError, ShapeError

__all__ = ["Grid", "Span", "Window", "cover", "covered", "enlarge", "plan"]

Array = npt.NDArray[np.generic]


class Grid(NamedTuple):
    """What tiles must respect, in pixels of the small picture.

    scale, halo and multiple_of are the engine's. least: no outer side is
    shorter, except where the whole picture is; then it's the picture's.
    """

    scale: int
    halo: int
    multiple_of: int
    least: int = 1


class Span(NamedTuple):
    """One tile along one axis: computed from [outer_start, outer_stop), kept in [start, stop)."""

    outer_start: int
    outer_stop: int
    start: int
    stop: int


def plan(size: int, tile: int, grid: Grid) -> list[Span]:
    """Cover [0, size) with spans whose inner parts are about `tile` wide, all outer parts equally long.

    The picture is thought of as padded to the size grid, so `outer_stop` may
    pass `size` by less than `multiple_of`. Tiles are made equal rather than
    left with a narrow rest, and wider than `tile` where `least` wants it.
    """
    halo = _up(grid.halo, grid.multiple_of)
    padded = _up(size, grid.multiple_of)
    narrowest = max(1, grid.least - 2 * halo)
    inner = _up(max(tile, narrowest), grid.multiple_of)
    if padded <= inner + 2 * halo:
        return [Span(0, padded, 0, size)]
    count = -(-(padded - 2 * halo) // inner)
    step = _up(max(-(-(padded - 2 * halo) // count), narrowest), grid.multiple_of)
    outer = step + 2 * halo
    starts = range(0, padded - 2 * halo, step)
    spans = []
    for place, nominal in enumerate(starts):
        outer_start = min(nominal, padded - outer)
        last = place == len(starts) - 1
        start = nominal + halo if place else 0
        spans.append(Span(outer_start, outer_start + outer, start, size if last else nominal + step + halo))
    return spans


def cover(size: int, side: int, overlap: int) -> list[Span]:
    """Cover [0, size) with spans that are `side` long, for networks that take no other length.

    They overlap by `overlap` or more, up to half of `side`; the seams lie in the middle of the overlaps. A size below
    `side` is thought of as padded.
    """
    if size <= side:
        return [Span(0, side, 0, size)]
    overlap = min(overlap, side // 2)
    count = -(-(size - overlap) // (side - overlap))
    starts = [place * (size - side) // (count - 1) for place in range(count)]
    seams = [0, *((before + side + after) // 2 for before, after in pairwise(starts)), size]
    return [Span(at, at + side, seams[place], seams[place + 1]) for place, at in enumerate(starts)]


def covered(
    pixels: Array, sides: tuple[int, int], scale: int, overlap: int, compute: Callable[[Array], Array]
) -> Array:
    """(h, w, c) -> (scale*h, scale*w, c) by a `compute` that takes no other size than `sides`, (rows, cols).

    Pieces overlap as `cover` says; a picture that is smaller is padded by its edge. A clip, (frames, h, w, c), comes to
    `compute` in pieces of all its frames.
    """
    rows, cols = pixels.shape[-3:-1]
    down_past, across_past = (max(0, side - size) for side, size in zip(sides, (rows, cols), strict=True))
    pixels = _padded(pixels, down_past, across_past)
    large: Array | None = None
    for down, across in product(cover(rows, sides[0], overlap), cover(cols, sides[1], overlap)):
        piece = pixels[..., down.outer_start : down.outer_stop, across.outer_start : across.outer_stop, :]
        part = compute(np.ascontiguousarray(piece))
        if large is None:
            large = np.empty((rows * scale, cols * scale, part.shape[2]), part.dtype)
        large[_kept(down, scale), _kept(across, scale)] = part[
            _kept(down, scale, down.outer_start), _kept(across, scale, across.outer_start)
        ]
    if large is None:
        raise ShapeError(f"a picture of {rows} x {cols} has no pixels")
    return large


def _kept(span: Span, scale: int, origin: int = 0) -> slice:
    return slice((span.start - origin) * scale, (span.stop - origin) * scale)


def _padded(pixels: Array, below: int, right: int) -> Array:
    """(…, h, w, c) with its last row and column repeated."""
    if not below and not right:
        return pixels
    return np.pad(pixels, (*[(0, 0)] * (pixels.ndim - 3), (0, below), (0, right), (0, 0)), mode="edge")


class Window:
    """Reads any rows, from top to bottom, out of bands that come once; keeps only what may be asked again.

    shape: (h, w, c) of a picture, or (frames, h, w, c) of a clip, whose bands hold some rows of all frames.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic], bands: Iterable[Array]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._bands = iter(bands)
        self._held: list[Array] = []
        self._start = 0  # the first row of _held[0]
        self._stop = 0

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop); `start` never goes back. Rows past the end repeat the last one."""
        if start < self._start:
            raise ShapeError(f"row {start} is gone; a window only moves down, and now begins at {self._start}")
        while self._held and self._start + self._held[0].shape[-3] <= start:
            self._start += self._held.pop(0).shape[-3]
        height = self.shape[-3]
        end = min(stop, height)
        while self._stop < end:
            band = next(self._bands, None)
            if band is None:
                raise ShapeError(f"the bands end at row {self._stop} of {height}")
            self._stop += band.shape[-3]
            if self._stop > start:
                self._held.append(band)
            else:
                self._start = self._stop
        joined = self._held[0] if len(self._held) == 1 else np.concatenate(self._held, axis=-3)
        return _padded(joined[..., start - self._start : end - self._start, :, :], stop - end, 0)


def enlarge(
    source: Window,
    grid: Grid,
    tile: int,
    compute: Callable[[Array], Array],
    *,
    done: Callable[[int], None] = lambda pixels: None,
) -> Iterator[Array]:
    """Bands of the enlarged picture, from top to bottom; dtype as `compute` returns it.

    compute: (h, w, c) -> (scale*h, scale*w, c), or (frames, h, w, c) -> the same where `source` is a clip. done:
    called after each tile with the number of small pixels that it finished.
    """
    height, width = source.shape[-3:-1]
    columns = plan(width, tile, grid)
    for rows in plan(height, tile, grid):
        strip = source.rows(rows.outer_start, rows.outer_stop)
        strip = _padded(strip, 0, max(0, columns[-1].outer_stop - width))
        band: Array | None = None
        for cols in columns:
            kept = _tile(strip, rows, cols, grid, compute)
            if len(columns) == 1:
                band = np.ascontiguousarray(kept)
            else:
                if band is None:
                    shape = ((rows.stop - rows.start) * grid.scale, width * grid.scale, kept.shape[2])
                    band = np.empty(shape, kept.dtype)
                band[:, cols.start * grid.scale : cols.stop * grid.scale] = kept
            done((rows.stop - rows.start) * (cols.stop - cols.start))
        if band is not None:
            yield band


def _tile(strip: Array, rows: Span, cols: Span, grid: Grid, compute: Callable[[Array], Array]) -> Array:
    """The inner part of one tile; `strip` begins at row `rows.outer_start` and column 0."""
    piece = strip[..., cols.outer_start : cols.outer_stop, :]
    large: Array | None = None
    with suppress(MemoryError):
        large = compute(np.ascontiguousarray(piece))
    if large is None:  # here, where the error no longer holds what the failed try had taken
        return _halves(strip, rows, cols, grid, compute)
    s = grid.scale
    height, width = piece.shape[-3:-1]
    if large.shape[:2] != (height * s, width * s):
        raise EngineError(f"the engine made {large.shape[:2]} of {height, width}, which is not x{s}; its card is wrong")
    return large[
        (rows.start - rows.outer_start) * s : (rows.stop - rows.outer_start) * s,
        (cols.start - cols.outer_start) * s : (cols.stop - cols.outer_start) * s,
    ]


def _halves(strip: Array, rows: Span, cols: Span, grid: Grid, compute: Callable[[Array], Array]) -> Array:
    """The tile as two tiles, cut across its longer inner side, or across the other where that saves nothing."""
    tall = rows.stop - rows.start >= cols.stop - cols.start
    for downwards in (tall, not tall):
        if downwards and (halves := _split(rows, grid)):
            places = [slice(half.outer_start - rows.outer_start, half.outer_stop - rows.outer_start) for half in halves]
            parts = zip(places, halves, strict=True)
            return np.concatenate(
                [_tile(strip[..., place, :, :], half, cols, grid, compute) for place, half in parts], axis=0
            )
        if not downwards and (halves := _split(cols, grid)):
            return np.concatenate([_tile(strip, rows, half, grid, compute) for half in halves], axis=1)
    smallest = f"{_length(cols)} x {_length(rows)} px"
    raise MemoryError(f"out of memory at the smallest tile, {smallest}; close other programs or use a smaller model")


def _split(span: Span, grid: Grid) -> tuple[Span, Span] | None:
    """Two spans that together keep what `span` keeps, each computed from less; None where that can't be."""
    halo, least = _up(grid.halo, grid.multiple_of), _up(grid.least, grid.multiple_of)

    def part(start: int, stop: int) -> Span:
        outer_start = max(span.outer_start, min(start - halo, span.outer_stop - least))
        outer_stop = min(span.outer_stop, max(_up(stop, grid.multiple_of) + halo, outer_start + least))
        return Span(outer_start, outer_stop, start, stop)

    need = part(span.start, span.stop)
    middle = _up((need.outer_start + need.outer_stop) // 2, grid.multiple_of)  # so that both parts cost the same
    if not span.start < middle < span.stop:
        return None
    first, second = part(span.start, middle), part(middle, span.stop)
    return (first, second) if max(_length(first), _length(second)) < _length(span) else None


def _length(span: Span) -> int:
    return span.outer_stop - span.outer_start


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
