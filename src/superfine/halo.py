"""How far a network really looks: the radius beyond which a change of the picture no longer moves the result."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.leaves import dead_leaves
from superfine.color import to_unit
from superfine.errors import EngineError
from superfine.models import HaloKind

__all__ = ["LEAST_MEASURED", "QUARTER_LEVEL", "Halo", "measured_halo"]

Floats = npt.NDArray[np.float32]

#: Up to this radius by the layers, measuring could save little: the exact one is kept.
LEAST_MEASURED: Final = 32
#: Of one: a quarter of an 8-bit level.
QUARTER_LEVEL: Final = 0.25 / 255
_LARGEST: Final = 128
# Pixels of the small picture on each side of the middle: what is left to look at where the radius is largest.
_BLOCK: Final = 8
# Half the side of the square that stays as it is, and what is around it.
_STAGES: Final = ((64, 64), (_LARGEST, 64))


class Halo(NamedTuple):
    """Pixels of the small picture that a tile needs around it, and what they promise."""

    radius: int
    kind: HaloKind


def measured_halo(
    enlarge: Callable[[Floats], Floats],
    *,
    exact: int,
    multiple_of: int = 1,
    scale: int = 1,
    largest: int = _LARGEST,
    say: Callable[[str], None] = lambda text: None,
) -> Halo:
    """The least radius beyond which nothing moves the result by a quarter of an 8-bit level.

    enlarge: (h, w, 3) float32 in 0..1 -> (scale*h, scale*w, 3), for sides that are multiples of `multiple_of`. exact:
    the radius by the layers. Up to 32 it is kept as it is. Else a picture of dead leaves is
    changed everywhere outside of a square, to other leaves, noise, black, white, and once to nothing at all, as a tile
    is cut; the radius is how deep inside the square any of these is still felt. `practical` is a finding on these
    pictures, up to 128 px away, and no proof.

    Where the largest square, of half side `largest`, is felt through and through, the network is `whole`: it sees the
    whole picture, and `radius` is what was tried. Raises EngineError where the network gives NaN or infinity.
    """
    if exact <= LEAST_MEASURED:
        return Halo(exact, "exact")
    stages = _STAGES if largest >= _LARGEST else ((largest, largest // 2),)
    half = 0
    for most, border in stages:
        half = _up(min(most, exact + _BLOCK), multiple_of)
        say(f"measuring how far it looks, up to {half} px")
        radius = _felt(enlarge, half, _up(border, multiple_of), scale)
        if exact <= radius:
            return Halo(exact, "exact")
        if radius <= half - _BLOCK:
            return Halo(radius, "practical")
    return Halo(half, "whole")


def _felt(enlarge: Callable[[Floats], Floats], half: int, border: int, scale: int) -> int:
    """How deep inside a square of this half side a change around it is felt, in pixels of the small picture."""
    side = 2 * (half + border)
    inner = slice(border, side - border)
    kept = to_unit(dead_leaves((side, side), seed=2))
    square = np.ascontiguousarray(kept[inner, inner])
    large = slice(border * scale, (side - border) * scale)
    wanted = _finite(enlarge(kept))[large, large]
    deepest = _depth(_finite(enlarge(square)) - wanted, scale)
    for around in _others(side):
        if deepest > half - _BLOCK:  # whatever the rest says, a larger square is needed
            break
        around[inner, inner] = square
        deepest = max(deepest, _depth(_finite(enlarge(around))[large, large] - wanted, scale))
    return deepest


def _others(side: int) -> Iterator[Floats]:
    draw = np.random.default_rng(3)
    yield draw.random((side, side, 3), dtype=np.float32)
    yield np.ones((side, side, 3), np.float32)
    yield np.zeros((side, side, 3), np.float32)
    yield to_unit(dead_leaves((side, side), seed=4))


def _depth(difference: Floats, scale: int) -> int:
    """How many rings of small pixels, from outside, up to the innermost that differs."""
    size = len(difference) // scale
    parts = np.abs(difference).reshape(size, scale, size, scale, -1)
    moved = parts.max(axis=(1, 3, 4)) >= QUARTER_LEVEL  # (size, size)
    if not moved.any():
        return 0
    place = np.arange(size)
    from_edge = np.minimum(place, size - 1 - place)
    return int(np.minimum(from_edge[:, None], from_edge)[moved].max()) + 1


def _finite(large: Floats) -> Floats:
    if not np.isfinite(large).all():
        raise EngineError("gave NaN or infinity on a made picture")
    return np.clip(large, 0, 1)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
