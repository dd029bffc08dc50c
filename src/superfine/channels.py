"""Grey and alpha for engines that know RGB: each wraps an engine and is one.

Alpha gets the geometry of the colours, by bicubic. Colours under transparent
pixels are unknown, often black: before the network sees them they are filled
from their visible neighbours, so that no dark fringe grows along an edge.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.classical.resample import resize
from superfine.color import KINDS, to_kind, to_unit
from superfine.engine import Engine

__all__ = ["BLEED", "bleed", "for_channels"]

Array = npt.NDArray[np.generic]

#: How many pixels deep transparent areas get colours from visible neighbours.
BLEED: Final = 8


def for_channels(engine: Engine, channels: int) -> Engine:
    """The engine for pictures of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels."""
    colour: Engine = _Grey(engine) if channels < 3 else engine
    return _Alpha(colour) if channels in (2, 4) else colour


class _Wrapped:
    """An engine's facts, handed on."""

    def __init__(self, engine: Engine, extra_halo: int = 0) -> None:
        self._engine = engine
        self.scale = engine.scale
        self.halo = engine.halo + extra_halo
        self.multiple_of = engine.multiple_of
        self.frames = engine.frames


class _Grey(_Wrapped):
    """(frames, h, w, 1) in, one channel out: run on three equal ones."""

    def __call__(self, pixels: Array) -> Array:
        return self._engine(np.repeat(pixels, 3, axis=-1))[..., 1:2]


class _Alpha(_Wrapped):
    """Colours by the engine, alpha (the last channel of the frame in the middle) by bicubic."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, BLEED)

    def __call__(self, pixels: Array) -> Array:
        large = self._engine(np.stack([bleed(frame[..., :-1], frame[..., -1:]) for frame in pixels]))
        alpha = pixels[len(pixels) // 2, ..., -1:]
        size = (alpha.shape[0] * self.scale, alpha.shape[1] * self.scale)
        if np.all(alpha == KINDS[alpha.dtype]):
            large_alpha: Array = np.full((*size, 1), alpha.flat[0])
        else:
            # In double, so that an even alpha stays even to the last bit of float32.
            large_alpha = to_kind(resize(to_unit(alpha).astype(np.float64), size).astype(np.float32), alpha.dtype)
        return np.concatenate([large, large_alpha], axis=-1)


def bleed(colour: Array, alpha: Array) -> Array:
    """Fill colours where alpha is zero from visible neighbours, up to `BLEED` pixels deep.

    colour: (h, w, c), alpha: (h, w, 1), one dtype. Visible pixels are untouched;
    each step gives the border of the unknown the mean of its known 3x3 neighbours.
    """
    known = alpha != 0
    if known.all() or not known.any():
        return colour
    values = np.where(known, to_unit(colour), np.float32(0))
    weight = known.astype(np.float32)
    for _ in range(BLEED):
        total, count = _sum3(values), _sum3(weight)
        new = (weight == 0) & (count > 0)
        values = np.where(new, total / np.maximum(count, 1), values)
        weight = np.where(new, np.float32(1), weight)
    filled = (weight > 0) & ~known
    return np.where(filled, to_kind(values, colour.dtype), colour)


def _sum3(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    for axis in (0, 1):
        pad = [(1, 1) if place == axis else (0, 0) for place in range(3)]
        wide = np.pad(plane, pad)
        count = plane.shape[axis]
        plane = sum(np.take(wide, range(tap, tap + count), axis=axis) for tap in range(3))  # type: ignore[assignment]
    return plane
