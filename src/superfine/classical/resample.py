"""Resampling by a separable kernel: nearest to Lanczos, and MATLAB's `imresize` to the bit.

Pixel centres lie at +0.5: sample `j` of `count` new samples sits at
`(j + 0.5) * size / count - 0.5` in the old ones. Borders are replicated.
Each output sample is a sum over its taps in a fixed order, so that a picture
resampled in pieces equals the picture resampled whole, to the bit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError, UsageError

__all__ = [
    "KERNELS",
    "Kernel",
    "Taps",
    "matlab_bands",
    "matlab_resize",
    "resize",
    "resize_axis",
    "resize_bands",
    "taps",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]

_BLOCK: Final = 1 << 17


@dataclass(frozen=True)
class Kernel:
    """A resampling kernel: `weight` of a distance in samples, zero from `radius` on."""

    name: str
    radius: float
    weight: Callable[[Floats], Floats]
    source: str


@dataclass(frozen=True, eq=False)
class Taps:
    """Which old samples make each new one, and with which weight: both (count, taps)."""

    index: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float64]

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """The old samples [first, last) that new samples [start, stop) need."""
        used = self.index[start:stop]
        return int(used.min()), int(used.max()) + 1


def _box(distance: Floats) -> Floats:
    # Half open, so that a sample midway between two belongs to exactly one of them.
    return ((distance >= -0.5) & (distance < 0.5)).astype(np.float64)


def _triangle(distance: Floats) -> Floats:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _keys(distance: Floats, a: float = -0.5) -> Floats:
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _lanczos3(distance: Floats) -> Floats:
    return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("nearest", 0.5, _box, "box of one sample"),
        Kernel("bilinear", 1, _triangle, "triangle"),
        Kernel("bicubic", 2, _keys, "Keys 1981, a = -0.5, doi:10.1109/TASSP.1981.1163711"),
        Kernel("lanczos", 3, _lanczos3, "Duchon 1979, doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2"),
    )
}


@lru_cache(maxsize=64)
def taps(size: int, count: int, kernel: Kernel) -> Taps:
    """Weights that turn `size` samples into `count`; each row adds up to one.

    The kernel widens by size/count when there are fewer new samples than old
    ones, as MATLAB's imresize does; all but `nearest`.
    """
    shrink = min(count / size, 1.0) if kernel.name != "nearest" else 1.0
    # In whole numbers, so that equal phases get equal weights wherever they lie:
    # (2j + 1) * size - count over 2 * count is the place of new sample j.
    whole, rest = np.divmod((2 * np.arange(count) + 1) * size - count, 2 * count)
    phase = rest / (2 * count)
    reach = int(np.ceil(kernel.radius / shrink))
    offset = np.arange(-reach, reach + 2)
    index = (whole[:, None] + offset).astype(np.intp)
    weight = kernel.weight(shrink * (phase[:, None] - offset)).astype(np.float64)
    weight /= weight.sum(axis=1, keepdims=True)
    used = np.flatnonzero(np.any(np.abs(weight) > 1e-15, axis=0))
    kept = slice(used[0], used[-1] + 1)
    return Taps(np.clip(index[:, kept], 0, size - 1), weight[:, kept])


def resize_axis(pixels: Floats, chosen: Taps, axis: int) -> Floats:
    """Apply `taps` along axis 0 or 1 of a floating (H, W) or (H, W, C); dtype kept."""
    count, each = chosen.index.shape
    shape = (count, *pixels.shape[1:]) if axis == 0 else (len(pixels), count, *pixels.shape[2:])
    line = (each, count, *[1] * (pixels.ndim - 1)) if axis == 0 else (each, count, *[1] * (pixels.ndim - 2))
    weight = chosen.weight.T.astype(pixels.dtype).reshape(line)
    if axis == 1:  # NumPy is slow at spreading one weight over three channels
        weight = np.broadcast_to(weight, (each, *shape[1:])).copy()
    out = np.empty(shape, pixels.dtype)
    block = max(1, _BLOCK // math.prod(shape[1:]))  # rows that stay in the cache from tap to tap
    spare = np.empty((block, *shape[1:]), pixels.dtype)
    for top in range(0, shape[0], block):
        some = slice(top, top + block)
        total = out[some]
        for tap in range(each):
            part = spare[: len(total)] if tap else total
            # Every index is in range; "clip" only keeps NumPy from buffering.
            if axis == 0:
                np.take(pixels, chosen.index[some, tap], axis=0, out=part, mode="clip")
                part *= weight[tap, some]
            else:
                np.take(pixels[some], chosen.index[:, tap], axis=1, out=part, mode="clip")
                part *= weight[tap]
            if tap:
                total += part
    return out


def resize(pixels: Floats, size: tuple[int, int], kernel: str = "bicubic") -> Floats:
    """Resample a picture to `size` (rows, cols).

    pixels: (H, W) or (H, W, C), floating; the dtype, the range and the number of
    channels are kept; bicubic and Lanczos may overshoot the range a little.
    Raises UsageError for an unknown kernel or an empty size, ShapeError for the rest.
    """
    _check(pixels, size)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ShapeError(f"want a floating array, got {pixels.dtype}; divide by its white level first")
    if kernel not in KERNELS:
        raise UsageError(f"no kernel {kernel!r}; there are {', '.join(KERNELS)}")
    for axis in (0, 1):
        if size[axis] != pixels.shape[axis]:
            pixels = resize_axis(pixels, taps(pixels.shape[axis], size[axis], KERNELS[kernel]), axis)
    return pixels


def resize_bands(
    read: Callable[[int, int], Floats],
    shape: tuple[int, int],
    size: tuple[int, int],
    kernel: str = "bicubic",
    *,
    rows: int = 128,
) -> Iterator[Floats]:
    """`resize` in bands of `rows` new rows, from top to bottom, equal to it to the bit.

    read: old rows [start, stop) as (rows, W, C); asked with a start that never
    goes back. shape, size: (rows, cols) before and after.
    """
    down = taps(shape[0], size[0], KERNELS[kernel])
    across = taps(shape[1], size[1], KERNELS[kernel])
    for top in range(0, size[0], rows):
        bottom = min(top + rows, size[0])
        first, last = down.bounds(top, bottom)
        band = read(first, last)
        if size[0] != shape[0]:
            band = resize_axis(band, Taps(down.index[top:bottom] - first, down.weight[top:bottom]), 0)
        yield resize_axis(band, across, 1) if size[1] != shape[1] else band


def matlab_resize(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """MATLAB's `imresize(picture, size, 'bicubic')` on 8 bits, both ways, to the bit.

    pixels: (H, W) or (H, W, C), uint8. Rows first, rounded and clipped to 8 bits
    before the columns; borders replicated: so the LR pictures of Set5 and Set14
    were made (newer MATLAB mirrors the border). The axis that shrinks more goes
    first, as in MATLAB. Source: The MathWorks, imresize.
    """
    _check(pixels, size)
    if pixels.dtype != np.uint8:
        raise ShapeError(f"want uint8, got {pixels.dtype}; MATLAB's rounding is defined on 8 bits here")
    whole = matlab_bands(lambda start, stop: pixels[start:stop], pixels.shape[:2], size, rows=size[0])
    return next(whole)


def matlab_bands(
    read: Callable[[int, int], npt.NDArray[np.uint8]], shape: tuple[int, int], size: tuple[int, int], *, rows: int = 128
) -> Iterator[npt.NDArray[np.uint8]]:
    """`matlab_resize` in bands of `rows` new rows, equal to it to the bit; `read` as in `resize_bands`."""
    down = taps(shape[0], size[0], KERNELS["bicubic"])
    across = taps(shape[1], size[1], KERNELS["bicubic"])
    order = sorted((0, 1), key=lambda axis: size[axis] / shape[axis])
    for top in range(0, size[0], rows):
        bottom = min(top + rows, size[0])
        first, last = down.bounds(top, bottom)
        band = read(first, last)
        here = Taps(down.index[top:bottom] - first, down.weight[top:bottom])
        for axis in order:
            exact = resize_axis(band.astype(np.float32), (here, across)[axis], axis)
            band = np.clip(np.floor(exact + np.float32(0.5)), 0, 255).astype(np.uint8)
        yield band


def _check(pixels: Array, size: tuple[int, int]) -> None:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ShapeError(f"want (H, W) or (H, W, C) without an empty side, got {pixels.shape}")
    if min(size) < 1:
        raise UsageError(f"cannot resample to {size[0]} x {size[1]}; each side needs one pixel at least")
