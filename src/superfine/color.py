"""Colour and levels as the field uses them: 0..1 in float, whole levels in files.

BT.601 luma, limited and full range, is made of floating arrays whose last axis is the
channel, in 0..1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError

__all__ = [
    "FULL_LUMA",
    "KINDS",
    "full_luma",
    "limited_luma",
    "to_kind",
    "to_unit",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]

#: The dtypes that pictures come in, and their white.
KINDS: dict[np.dtype[Any], float] = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}

#: BT.601 luma weights of R, G, B; they add up to one. Source: ITU-R BT.601-7, 2.5.1.
FULL_LUMA = np.array([0.299, 0.587, 0.114])

# MATLAB's rgb2ycbcr, on which every published PSNR rests: weights of R, G, B in 0..1
# for Y in 16..235.
_LIMITED_LUMA = np.array([65.481, 128.553, 24.966])


def to_unit(pixels: Array) -> npt.NDArray[np.float32]:
    """uint8, uint16 or float32 -> float32 in 0..1. Raises ShapeError for another dtype."""
    if pixels.dtype not in KINDS:
        raise ShapeError(f"want uint8, uint16 or float32, got {pixels.dtype}; float pictures are float32 in 0..1")
    if pixels.dtype == np.float32:
        return pixels.astype(np.float32, copy=False)
    unit: npt.NDArray[np.float32] = np.divide(pixels, np.float32(KINDS[pixels.dtype]), dtype=np.float32)
    return unit


def to_kind(unit: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> Array:
    """float32 -> `dtype`: clipped to 0..1, and for whole levels rounded to the nearest (ties to even)."""
    clipped = np.clip(unit, 0, 1)
    if dtype == np.float32:
        return clipped
    clipped *= np.float32(KINDS[dtype])
    return np.rint(clipped, out=clipped).astype(dtype)


def full_luma(rgb: Floats) -> Floats:
    """Full-range luma: (..., 3) in 0..1 -> (...) in 0..1. Source: ITU-R BT.601-7."""
    return rgb @ FULL_LUMA.astype(rgb.dtype)


def limited_luma(rgb: Floats) -> Floats:
    """Luma as papers measure it: (..., 3) in 0..1 -> (...) in 16/255..235/255, unrounded.

    Source: MATLAB rgb2ycbcr (BT.601 limited range); papers crop and compare this.
    """
    return (rgb @ _LIMITED_LUMA.astype(rgb.dtype) + rgb.dtype.type(16)) / rgb.dtype.type(255)
