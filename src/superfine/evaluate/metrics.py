"""PSNR and SSIM as the field reports them.

The usual protocol: luma of BT.601 limited range in float (`color.limited_luma`), a
border as wide as the scale cropped, the mean over pictures of each picture's value.
"""

import math
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError

__all__ = ["crop_border", "psnr", "psnr_of", "squared_error", "ssim"]

Floats = npt.NDArray[np.floating]
Pixels = TypeVar("Pixels", bound=npt.NDArray[np.generic])

_WINDOW: Final = 11
# Rows and columns of a block of SSIM, measured.
_ROWS: Final = 54
_COLS: Final = 32
_HALF: Final = np.float32(0.5)
_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)


def crop_border(pixels: Pixels, border: int) -> Pixels:
    """(H, W[, C]) without `border` pixels on each side."""
    if min(pixels.shape[:2]) <= 2 * border:
        raise ShapeError(f"nothing is left of {pixels.shape[:2]} after cropping {border} px on each side")
    return pixels[border : pixels.shape[0] - border, border : pixels.shape[1] - border]  # type: ignore[return-value]


def squared_error(output: Floats, target: Floats) -> tuple[float, int]:
    """Sum of squared differences and number of samples; both arrays of one shape."""
    if output.shape != target.shape:
        raise ShapeError(f"output {output.shape} and target {target.shape} differ in shape")
    whole = np.issubdtype(output.dtype, np.integer)  # which would wrap around
    difference = np.subtract(output, target, dtype=np.float64 if whole else None)
    return float(np.sum(np.square(difference, out=difference), dtype=np.float64)), output.size


def psnr(output: Floats, target: Floats, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB; infinity for equal pictures. Both of one shape, white at `peak`."""
    return psnr_of(*squared_error(output, target), peak=peak)


def psnr_of(total: float, count: int, *, peak: float = 1.0) -> float:
    """PSNR in dB of a sum of squared differences over `count` samples; infinity where it is 0."""
    return math.inf if total == 0 else 10 * math.log10(peak**2 * count / total)


def ssim(output: Floats, target: Floats, *, peak: float = 1.0) -> float:
    """Structural similarity of two (H, W) planes: 11x11 Gaussian of sigma 1.5, valid region, mean.

    Both of one shape, 11 px or more a side, white at `peak`. Computed in float32
    about mid-grey, summed in float64: within 1e-6 of the same in float64.
    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    if output.shape != target.shape or output.ndim != 2 or min(output.shape) < _WINDOW:
        raise ShapeError(f"want two equal planes of 11 px or more a side, got {output.shape} and {target.shape}")
    rows, cols = (side - _WINDOW + 1 for side in output.shape)
    total = 0.0
    for top in range(0, rows, _ROWS):  # in strips that stay in the cache
        strip = slice(top, min(top + _ROWS, rows) + _WINDOW - 1)
        x, y = (((plane[strip] / peak) - 0.5).astype(np.float32) for plane in (output, target))
        mean_x, mean_y, square_x, square_y, product = _windowed(np.stack([x, y, x * x, y * y, x * y]))
        # A shift changes neither variance nor covariance; about mid-grey fewer digits are lost in them.
        spread = (square_x - mean_x * mean_x) + (square_y - mean_y * mean_y)
        covariance = product - mean_x * mean_y
        mean_x += _HALF
        mean_y += _HALF
        likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
        likeness /= (mean_x * mean_x + mean_y * mean_y + _C1) * (spread + _C2)
        total += float(np.sum(likeness, dtype=np.float64))
    return float(total / (rows * cols))


def _windowed(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Gaussian means over the valid region: (n, H, W) -> (n, H-10, W-10).

    As products with band matrices, which a CPU multiplies faster than it slides eleven taps.
    """
    down = np.matmul(_band(planes.shape[1] - _WINDOW + 1), planes)
    cols = planes.shape[2] - _WINDOW + 1
    out = np.empty((len(planes), down.shape[1], cols), np.float32)
    for left in range(0, cols, _COLS):
        count = min(_COLS, cols - left)
        part = down[:, :, left : left + count + _WINDOW - 1]
        np.matmul(part, _band(count).T, out=out[:, :, left : left + count])
    return out


@lru_cache(maxsize=256)
def _band(count: int) -> npt.NDArray[np.float32]:
    """(count, count + 10): each row the window, one sample further."""
    line = np.exp(-((np.arange(_WINDOW) - 5) ** 2) / (2 * 1.5**2))
    matrix = np.zeros((count, count + _WINDOW - 1), np.float32)
    for row in range(count):
        matrix[row, row : row + _WINDOW] = line / line.sum()
    return matrix
