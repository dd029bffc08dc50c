"""Colour as the field uses it: BT.601 luma, limited and full range; sRGB and linear light.

All functions take and return floating arrays whose last axis is the channel;
RGB and linear light are in 0..1.
"""

import numpy as np
import numpy.typing as npt

__all__ = [
    "FULL_LUMA",
    "from_linear",
    "full_luma",
    "limited_luma",
    "to_linear",
]

Floats = npt.NDArray[np.floating]

#: BT.601 luma weights of R, G, B; they add up to one. Source: ITU-R BT.601-7, 2.5.1.
FULL_LUMA = np.array([0.299, 0.587, 0.114])

# MATLAB's rgb2ycbcr, on which every published PSNR rests: weights of R, G, B in 0..1
# for Y in 16..235.
_LIMITED_LUMA = np.array([65.481, 128.553, 24.966])


def full_luma(rgb: Floats) -> Floats:
    """Full-range luma: (..., 3) in 0..1 -> (...) in 0..1. Source: ITU-R BT.601-7."""
    return rgb @ FULL_LUMA.astype(rgb.dtype)


def limited_luma(rgb: Floats) -> Floats:
    """Luma as papers measure it: (..., 3) in 0..1 -> (...) in 16/255..235/255, unrounded.

    Source: MATLAB rgb2ycbcr (BT.601 limited range); papers crop and compare this.
    """
    return (rgb @ _LIMITED_LUMA.astype(rgb.dtype) + rgb.dtype.type(16)) / rgb.dtype.type(255)


def to_linear(srgb: Floats) -> Floats:
    """sRGB in 0..1 -> linear light in 0..1. Source: IEC 61966-2-1."""
    low = srgb / 12.92
    high = ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4
    return np.where(srgb <= 0.04045, low, high).astype(srgb.dtype)


def from_linear(linear: Floats) -> Floats:
    """Linear light in 0..1 -> sRGB in 0..1. Source: IEC 61966-2-1."""
    low = linear * 12.92
    high = 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high).astype(linear.dtype)
