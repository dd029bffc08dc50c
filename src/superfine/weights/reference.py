"""A network's layers in NumPy and float64: what a converted network is held against, apart from ONNX and torch.

Planes are (channels, rows, columns). Nothing here is quick: a second way to compute matters, on small pictures.
Weights of any float type are taken, all sums are float64.
"""

from itertools import product

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError

__all__ = [
    "Planes",
    "batch_normalize",
    "convolve",
    "convolve_transposed",
    "leaky_relu",
    "nearest",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
]

Planes = npt.NDArray[np.float64]
Weights = npt.NDArray[np.floating]


def convolve(
    planes: Planes,
    kernel: Weights,
    bias: Weights | None = None,
    *,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Planes:
    """Correlation, as torch and ONNX call a convolution: the kernel isn't turned around.

    planes: (in, h, w); kernel: (out, in, kh, kw); bias: (out,). padding: zeros at the top, left, bottom and
    right. dilation: rows and columns from one tap to the next. Returns (out, h', w') with
    h' = (top + h + bottom - dilation[0]*(kh - 1) - 1) // stride + 1.
    Raises ShapeError where the kernel is for other channels, or larger than the padded planes.
    """
    top, left, bottom, right = padding
    padded = np.pad(np.asarray(planes, np.float64), ((0, 0), (top, bottom), (left, right)))
    outputs, inputs, *sides = kernel.shape
    rows, cols = (
        (side - apart * (taps - 1) - 1) // stride + 1
        for side, taps, apart in zip(padded.shape[1:], sides, dilation, strict=True)
    )
    if inputs != len(planes) or rows < 1 or cols < 1:
        raise ShapeError(f"a kernel of {kernel.shape} doesn't fit on padded planes of {padded.shape}")
    made = np.zeros((outputs, rows, cols))
    made += _for_each_channel(bias, outputs)
    for y, x in product(*map(range, sides)):
        down, across = y * dilation[0], x * dilation[1]
        seen = padded[:, down : down + rows * stride : stride, across : across + cols * stride : stride]
        made += np.tensordot(kernel[:, :, y, x].astype(np.float64), seen, 1)
    return made


def convolve_transposed(
    planes: Planes,
    kernel: Weights,
    bias: Weights | None = None,
    *,
    stride: int,
    size: tuple[int, int],
    start: tuple[int, int] = (0, 0),
) -> Planes:
    """The transpose of a convolution: every pixel adds its kernel, `stride` apart.

    planes: (in, h, w); kernel: (in, out, kh, kw), as torch and ONNX store it; bias: (out,). The sums lie on a
    plane without end, the first kernel with its corner at (0, 0); what is returned is (out, *size) of it, from
    `start` on. Torch's `padding` p and `output_padding` o are start (p, p), size (h - 1)*stride + kh - 2*p + o.
    Raises ShapeError where the kernel is for other channels.
    """
    inputs, outputs, *sides = kernel.shape
    if inputs != len(planes):
        raise ShapeError(f"a kernel of {kernel.shape} doesn't fit on planes of {planes.shape}")
    rows, cols = planes.shape[1:]
    tall, wide = (
        max((count - 1) * stride + taps, first + asked)
        for count, taps, first, asked in zip((rows, cols), sides, start, size, strict=True)
    )
    made = np.zeros((outputs, tall, wide))
    for y, x in product(*map(range, sides)):
        added = np.tensordot(kernel[:, :, y, x].astype(np.float64).T, np.asarray(planes, np.float64), 1)
        made[:, y : y + rows * stride : stride, x : x + cols * stride : stride][:, :rows, :cols] += added
    made += _for_each_channel(bias, outputs)
    return made[:, start[0] : start[0] + size[0], start[1] : start[1] + size[1]]


def batch_normalize(
    planes: Planes, weight: Weights, bias: Weights, mean: Weights, variance: Weights, epsilon: float = 1e-5
) -> Planes:
    """As a trained network does it, by the mean and variance that it has seen; all (channels,).

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    columns = (np.asarray(values, np.float64)[:, None, None] for values in (weight, bias, mean, variance))
    scale, shift, middle, spread = columns
    return (planes - middle) / np.sqrt(spread + epsilon) * scale + shift


def prelu(planes: Planes, slopes: Weights) -> Planes:
    """Below zero times the channel's slope; slopes: (channels,) or (1,) for all. Source: arXiv:1502.01852."""
    return np.where(planes > 0, planes, planes * _for_each_channel(slopes, len(planes)))


def leaky_relu(planes: Planes, slope: float = 0.0) -> Planes:
    """Below zero times `slope`; zero is the plain ReLU."""
    return np.where(planes > 0, planes, planes * slope)


def pixel_shuffle(planes: Planes, block: int) -> Planes:
    """(c * block^2, h, w) -> (c, block*h, block*w); channel c*block^2 + y*block + x becomes pixel (y, x) of c.

    Source: Shi et al. 2016, arXiv:1609.05158, in torch's order. Raises ShapeError where the channels don't divide.
    """
    count, rows, cols = planes.shape
    if count % block**2:
        raise ShapeError(f"{count} channels can't be shuffled into blocks of {block} x {block}")
    blocks = planes.reshape(count // block**2, block, block, rows, cols)
    return blocks.transpose(0, 3, 1, 4, 2).reshape(-1, rows * block, cols * block)


def pixel_unshuffle(planes: Planes, block: int) -> Planes:
    """The inverse of `pixel_shuffle`. Raises ShapeError where the sides don't divide."""
    count, rows, cols = planes.shape
    if rows % block or cols % block:
        raise ShapeError(f"planes of {rows} x {cols} can't be taken apart by blocks of {block} x {block}")
    blocks = planes.reshape(count, rows // block, block, cols // block, block)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(-1, rows // block, cols // block)


def nearest(planes: Planes, factor: int) -> Planes:
    """Every pixel `factor` times in rows and columns."""
    return planes.repeat(factor, 1).repeat(factor, 2)


def _for_each_channel(values: Weights | None, channels: int) -> Planes:
    """As (channels, 1, 1), or one for all; a missing bias is zero."""
    given = np.zeros(1) if values is None else np.asarray(values, np.float64).reshape(-1)
    if len(given) not in (1, channels):
        raise ShapeError(f"{len(given)} values don't fit on {channels} channels")
    return given[:, None, None]
