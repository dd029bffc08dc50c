"""PSNR and SSIM as the field reports them.

The usual protocol: luma of BT.601 limited range in float (`color.limited_luma`), a
border as wide as the scale cropped, the mean over pictures of each picture's value.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError

__all__ = ["crop_border", "psnr", "squared_error", "ssim"]

Floats = npt.NDArray[np.floating]
Pixels = TypeVar("Pixels", bound=npt.NDArray[np.generic])


def crop_border(pixels: Pixels, border: int) -> Pixels:
    """(H, W[, C]) without `border` pixels on each side."""
    if min(pixels.shape[:2]) <= 2 * border:
        raise ShapeError(f"nothing is left of {pixels.shape[:2]} after cropping {border} px on each side")
    return pixels[border : pixels.shape[0] - border, border : pixels.shape[1] - border]  # type: ignore[return-value]


def squared_error(output: Floats, target: Floats) -> tuple[float, int]:
    """Sum of squared differences and number of samples; both arrays of one shape."""
    if output.shape != target.shape:
        raise ShapeError(f"output {output.shape} and target {target.shape} differ in shape")
    return float(np.sum(np.square(output.astype(np.float64) - target.astype(np.float64)))), output.size


def psnr(output: Floats, target: Floats, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB; infinity for equal pictures. Both of one shape, white at `peak`."""
    total, count = squared_error(output, target)
    return float("inf") if total == 0 else float(10 * np.log10(peak**2 * count / total))


def ssim(output: Floats, target: Floats, *, peak: float = 1.0) -> float:
    """Structural similarity of two (H, W) planes: 11x11 Gaussian of sigma 1.5, valid region, mean.

    Both of one shape, 11 px or more a side, white at `peak`.
    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    if output.shape != target.shape or output.ndim != 2 or min(output.shape) < 11:
        raise ShapeError(f"want two equal planes of 11 px or more a side, got {output.shape} and {target.shape}")
    x, y = output.astype(np.float64), target.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    var_x, var_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    cov = _window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(value.mean())


def _window(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    line /= line.sum()
    for axis in (0, 1):
        count = plane.shape[axis] - 10
        parts = (weight * np.take(plane, range(tap, tap + count), axis=axis) for tap, weight in enumerate(line))
        plane = np.sum(list(parts), axis=0)
    return plane
