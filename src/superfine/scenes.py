"""Which neighbours in time a frame may learn from: those of its own scene that aren't the same picture.

A cut is where the pictures before and those after show nothing of the same. So a fade is none, since its neighbours
are alike but for their brightness; a flash is none, since what comes after it is what was before it. What a window
holds depends on the frames around it alone, never on where reading began.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.color import KINDS
from superfine.errors import UsageError
from superfine.frames import Frame

__all__ = ["FLASH", "Window", "is_cut", "likeness", "margin", "thumbnail", "windows"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]

#: Flashes up to this many frames long are no scenes of their own.
FLASH: Final = 3
# How many frames on either side are compared at a cut.
_COMPARED: Final = FLASH + 1
# The larger side of a thumbnail, and how far its content may have moved, in its pixels.
_SIDE: Final = 48
_REACH: Final = 5
# Below this likeness two pictures show nothing of the same: between the 0.3 of unrelated pictures and 0.8 of the same.
_ALIKE: Final = 0.55
# Contrast below this, in shares of white, is noise; flat pictures are alike if they differ by less than the second.
_NOISE: Final = 0.02
_FAINT: Final = 0.1
# How many frames away a neighbour may be, per frame of the window: cartoons show each drawing two or three times.
_STRETCH: Final = 4


@dataclass(frozen=True, eq=False)
class Window:
    """A frame and what its scene shows around it."""

    frame: Frame
    pixels: tuple[Array, ...]
    """An odd number of (rows, cols, channels), the frame itself in the middle."""
    repeats: bool
    """The frame is the same, to the last bit, as the one before it."""

    def stack(self) -> Array:
        """(frames, rows, cols, channels), as engines take it."""
        return np.stack(self.pixels)


@dataclass(eq=False)
class _Entry:
    frame: Frame
    thumbnail: Floats
    repeats: bool
    cut: bool | None = field(default=None)
    """A scene begins here; not judged yet."""


def margin(count: int) -> int:
    """How many frames before a window's own are needed to know all about it."""
    radius = _radius(count)
    return _STRETCH * radius + _COMPARED if radius else 1


def windows(frames: Iterable[Frame], count: int, *, first: int = 0) -> Generator[Window, None, None]:
    """Give each frame from number `first` on with its window of `count` frames, an odd number.

    frames: in order, from `margin(count)` before `first` on, or from the beginning of the clip. Neighbours are the
    nearest different pictures of the same scene; where a scene ends those of the other side stand in, and where it has
    one picture alone, that. Holds at most `2 * margin(count) + 1` frames. Raises UsageError for an even number.
    """
    radius, reach = _radius(count), margin(count)
    held: deque[_Entry] = deque()
    centre = 0  # index in `held` of the frame whose window is next
    for frame in frames:
        held.append(_entry(frame, held[-1] if held else None, compared=radius > 0))
        while len(held) - centre > reach:
            if held[centre].frame.number >= first:
                yield _window(held, centre, radius)
            centre += 1
            while centre > reach:
                held.popleft()
                centre -= 1
    for at in range(centre, len(held)):
        if held[at].frame.number >= first:
            yield _window(held, at, radius)


def _radius(count: int) -> int:
    if count < 1 or count % 2 == 0:
        raise UsageError(f"a window of {count} frames has no middle; take 1, 3, 5, …")
    return count // 2


def _entry(frame: Frame, before: _Entry | None, *, compared: bool) -> _Entry:
    if before is not None and _same(before.frame.pixels, frame.pixels):
        # One array for all of a run: it may be long.
        return _Entry(replace(frame, pixels=before.frame.pixels), before.thumbnail, repeats=True)
    small = thumbnail(frame.pixels) if compared else np.zeros((1, 1), np.float32)
    return _Entry(frame, small, repeats=False)


def _same(one: Array, other: Array) -> bool:
    return one is other or bool(np.array_equal(one, other))


def _window(held: Sequence[_Entry], centre: int, radius: int) -> Window:
    entry = held[centre]
    sides = [_neighbours(held, centre, radius, step) for step in (-1, 1)]
    pixels = [entry.frame.pixels]
    for place in range(radius):
        for side, other in ((0, 1), (1, 0)):
            found = sides[side][place : place + 1] or sides[other][place : place + 1] or sides[side][-1:]
            chosen = found[0] if found else (sides[other][-1] if sides[other] else entry.frame.pixels)
            pixels.insert(0, chosen) if side == 0 else pixels.append(chosen)
    return Window(entry.frame, tuple(pixels), entry.repeats)


def _neighbours(held: Sequence[_Entry], centre: int, radius: int, step: int) -> list[Array]:
    """The nearest different pictures on one side, within the scene, at most `radius` of them."""
    found: list[Array] = []
    at = centre
    for _ in range(_STRETCH * radius):
        if len(found) == radius or not 0 <= at + step < len(held):
            break
        at += step
        later = at if step > 0 else at + 1
        if _begins_scene(held, later):
            break
        if not held[later].repeats:
            found.append(held[at].frame.pixels)
    return found


def _begins_scene(held: Sequence[_Entry], at: int) -> bool:
    entry = held[at]
    if entry.cut is None:
        before = [held[near].thumbnail for near in range(max(0, at - _COMPARED), at)]
        after = [held[near].thumbnail for near in range(at, min(len(held), at + _COMPARED))]
        entry.cut = not entry.repeats and is_cut(before, after)
    return entry.cut


# ---- what is a cut


def is_cut(before: Sequence[Floats], after: Sequence[Floats]) -> bool:
    """Whether a scene begins between the thumbnails of the frames before and those after, both in the order of time.

    Pictures further apart than a flash is long say nothing about it, and aren't looked at.
    """
    nearest_first = list(reversed(before))[:_COMPARED]
    pairs = ((one, other) for one in nearest_first for other in after[:_COMPARED])
    return all(likeness(one, other) < _ALIKE for one, other in pairs)


def thumbnail(pixels: Array) -> Floats:
    """(rows, cols, channels) of whole levels -> means of squares in 0..1, the larger side at most 48 long."""
    peak = KINDS[pixels.dtype]
    plane = pixels[..., 1] if pixels.shape[2] >= 3 else pixels[..., 0]
    step = -(-max(plane.shape) // _SIDE)
    rows, cols = (max(1, side // step) for side in plane.shape)
    kept = plane[: rows * step, : cols * step]
    # Rows first: numpy sums along the last axis several times as fast.
    sums = np.add.reduceat(kept.astype(np.float32), np.arange(0, kept.shape[0], step)[:rows], axis=0)
    sums = np.add.reduceat(sums, np.arange(0, kept.shape[1], step)[:cols], axis=1)
    area = min(step, kept.shape[0]) * min(step, kept.shape[1])
    means: Floats = sums * np.float32(1 / (area * peak))
    return means


def likeness(one: Floats, other: Floats) -> float:
    """How much two thumbnails show the same, from -1 to 1, whatever their brightness and contrast.

    The best normalised correlation over shifts of a tenth of the picture. Pictures without content are compared by
    their brightness.
    """
    if one.shape != other.shape:
        return -1.0
    best = _correlation(one, other)
    if best >= _ALIKE:
        return best
    reach = [min(_REACH, side // 4) for side in one.shape]
    for down in range(-reach[0], reach[0] + 1):
        for across in range(-reach[1], reach[1] + 1):
            best = max(best, _correlation(_part(one, down, across), _part(other, -down, -across)))
            if best >= _ALIKE:
                return best
    return best


def _part(plane: Floats, down: int, across: int) -> Floats:
    rows, cols = plane.shape
    return plane[max(0, down) : rows + min(0, down), max(0, across) : cols + min(0, across)]


def _correlation(one: Floats, other: Floats) -> float:
    first, second = one - one.mean(), other - other.mean()
    spread = float(first.std()), float(second.std())
    if min(spread) < _NOISE:  # one of them has no content to compare
        return 1.0 if float(np.abs(one - other).mean()) < _FAINT else -1.0
    return float((first * second).mean()) / (spread[0] * spread[1])
