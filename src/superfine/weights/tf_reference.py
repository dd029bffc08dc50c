"""A frozen TensorFlow graph computed node by node in NumPy and float64, as TensorFlow and OpenCV define it.

Written apart from the translation to ONNX, which is held against it: arrays keep the order of axes that the graph
gives them, sizes are those of the picture, and colours are whole numbers.
Sources: the documentation of TensorFlow's operators (padding: tf.nn's notes); OpenCV's dnn_superres and color_yuv.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.weights.reference import convolve, convolve_transposed
from superfine.weights.tf_graph import Node

__all__ = ["enlarge_as_opencv", "evaluate_tf"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating]


def enlarge_as_opencv(nodes: Iterable[Node], constants: Mapping[str, Array], scale: int, pixels: Floats) -> Floats:
    """(h, w, 3) RGB in 0..1 -> (scale*h, scale*w, 3) in whole 8-bit levels over 255.

    Y by the network, Cr and Cb bilinear, each in 8-bit levels of full-range BT.601.
    """
    red, green, blue = np.moveaxis(_levels(pixels), -1, 0)
    y = (4899 * red + 9617 * green + 1868 * blue + 2**13) >> 14
    chroma = [
        np.clip((share * (colour - y) + 128 * 2**14 + 2**13) >> 14, 0, 255)
        for share, colour in ((11682, red), (9241, blue))
    ]
    large = np.squeeze(evaluate_tf(nodes, constants, y / 255))
    # Twice the levels, from grey: they may be halves.
    red_away, blue_away = (_bilinear_twice(plane, scale) - 256 for plane in chroma)
    away = [22987 * red_away, -11698 * red_away - 5636 * blue_away, 29049 * blue_away]
    rgb = [_levels(large) + ((each + 2**14) >> 15) for each in away]
    unit: Floats = np.clip(np.stack(rgb, -1), 0, 255) / 255
    return unit


def evaluate_tf(nodes: Iterable[Node], constants: Mapping[str, Array], luma: Floats) -> Floats:
    """What the last of `nodes` gives for the placeholder's Y, (h, w) in 0..1, in the graph's own axes.

    nodes: in order, each after its inputs. constants: what the Const nodes hold, by name, and perhaps more.
    """
    values: dict[str, Array] = {}
    for node in nodes:
        match node.op:
            case "Const":
                stored = constants[node.name]
                made = stored.astype(np.float64) if stored.dtype.kind == "f" else stored
            case "Placeholder":
                made = np.asarray(luma, np.float64)[None, :, :, None]
            case _:
                with np.errstate(all="ignore"):
                    made = np.asarray(_OPERATORS[node.op](node, *(values[name] for name in node.inputs)))
        values[node.name] = made
    return made


def _levels(unit: Floats) -> npt.NDArray[np.int64]:
    """0..1 -> 0..255, to the nearest, halves up."""
    return np.clip(np.floor(np.asarray(unit, np.float64) * 255 + 0.5), 0, 255).astype(np.int64)


def _bilinear_twice(plane: npt.NDArray[np.int64], scale: int) -> npt.NDArray[np.int64]:
    """Twice the levels of (h, w) enlarged to (scale*h, scale*w), borders replicated; halves stay halves."""
    for axis in (0, 1):
        side = plane.shape[axis]
        # In halves of a large pixel: where its centre lies in the small picture, after the centre of pixel 0.
        centre = 2 * np.arange(scale * side) + 1 - scale
        first, share = np.divmod(centre, 2 * scale)
        before, after = (np.take(plane, np.clip(place, 0, side - 1), axis) for place in (first, first + 1))
        share = share if axis else share[:, None]
        plane = before * (2 * scale - share) + after * share
    whole = 4 * scale**2
    up, down = (2 * plane + whole) // (2 * whole), -((whole - 2 * plane) // (2 * whole))
    return up + down


# ---- operators: the node and its inputs' values -> its value


def _planes_first(node: Node, value: Array) -> tuple[Array, Callable[[Array], Array]]:
    """(1, ..) in the node's order of axes -> (channels, h, w), and the way back."""
    if node.text("data_format", "NHWC") == "NHWC":
        return value[0].transpose(2, 0, 1), lambda planes: planes.transpose(1, 2, 0)[None]
    return value[0], lambda planes: planes[None]


def _spatial(node: Node, numbers: Iterable[int]) -> tuple[int, int]:
    """Of four, one for each axis: those for rows and columns."""
    given = list(numbers) or [1, 1, 1, 1]
    place = node.text("data_format", "NHWC").index("H")
    return int(given[place]), int(given[place + 1])


def _zeros(large: int, small: int, taps: int, apart: int, step: int) -> int:
    """What "SAME" adds to `large` pixels in all, so that a convolution makes `small` of them."""
    return max((small - 1) * step + (taps - 1) * apart + 1 - large, 0)


def _conv2d(node: Node, value: Array, kernel: Array) -> Array:
    planes, back = _planes_first(node, value)
    step, apart = _spatial(node, node.numbers("strides"))[0], _spatial(node, node.numbers("dilations"))
    padding = (0, 0, 0, 0)
    if node.text("padding", "") == "SAME":
        sides = zip(planes.shape[1:], kernel.shape[:2], apart, strict=True)
        rows, cols = (_zeros(side, -(-side // step), taps, each, step) for side, taps, each in sides)
        padding = (rows // 2, cols // 2, rows - rows // 2, cols - cols // 2)
    return back(convolve(planes, kernel.transpose(3, 2, 0, 1), stride=step, padding=padding, dilation=apart))


def _conv2d_backprop_input(node: Node, asked: Array, kernel: Array, value: Array) -> Array:
    """The gradient of Conv2D by its input, which has the size that is asked for."""
    planes, back = _planes_first(node, value)
    step, size = _spatial(node, node.numbers("strides"))[0], _spatial(node, asked.tolist())
    small = planes.shape[1:]
    if tuple(-(-side // step) for side in size) != small:  # the graph was frozen for a picture of another size
        size = (small[0] * step, small[1] * step)
    top, left = 0, 0
    if node.text("padding", "") == "SAME":
        top, left = (
            _zeros(side, count, taps, 1, step) // 2
            for side, count, taps in zip(size, small, kernel.shape[:2], strict=True)
        )
    weights = kernel.transpose(3, 2, 0, 1)
    return back(convolve_transposed(planes, weights, stride=step, size=size, start=(top, left)))


def _depth_to_space(node: Node, value: Array) -> Array:
    """Each pixel's channels are a block, row by row, and in each place of it the channels that remain."""
    planes, back = _planes_first(node, value)
    block, (channels, rows, cols) = node.number("block_size"), planes.shape
    blocks = planes.reshape(block, block, channels // block**2, rows, cols)
    return back(blocks.transpose(2, 3, 0, 4, 1).reshape(-1, rows * block, cols * block))


def _bias_add(node: Node, value: Array, bias: Array) -> Array:
    first = node.text("data_format", "NHWC") == "NCHW"
    return value + (bias.reshape(-1, 1, 1) if first else bias)


def _strided_slice(node: Node, value: Array, begin: Array, end: Array, strides: Array) -> Array:
    parts = [
        int(first)
        if node.number("shrink_axis_mask") >> axis & 1
        else slice(
            None if node.number("begin_mask") >> axis & 1 else int(first),
            None if node.number("end_mask") >> axis & 1 else int(last),
            int(step),
        )
        for axis, (first, last, step) in enumerate(zip(begin, end, strides, strict=True))
    ]
    return np.asarray(value[tuple(parts)])


def _leaky_relu(node: Node, value: Array) -> Array:
    return np.where(value > 0, value, node.real("alpha", 0.2) * value)


_OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "Abs": lambda node, value: np.abs(value),
    "Add": lambda node, one, other: one + other,
    "AddV2": lambda node, one, other: one + other,
    "BiasAdd": _bias_add,
    "Conv2D": _conv2d,
    "Conv2DBackpropInput": _conv2d_backprop_input,
    "DepthToSpace": _depth_to_space,
    "Identity": lambda node, value: value,
    "LeakyRelu": _leaky_relu,
    "Maximum": lambda node, one, other: np.maximum(one, other),
    "Minimum": lambda node, one, other: np.minimum(one, other),
    "Mul": lambda node, one, other: one * other,
    "Neg": lambda node, value: -value,
    "Pack": lambda node, *values: np.stack(values, node.number("axis")),
    "RealDiv": lambda node, one, other: one / other,
    "Relu": lambda node, value: np.maximum(value, 0),
    "Shape": lambda node, value: np.array(value.shape),
    "StridedSlice": _strided_slice,
    "Sub": lambda node, one, other: one - other,
    "Tanh": lambda node, value: np.tanh(value),
    "Transpose": lambda node, value, order: value.transpose(order),
}
