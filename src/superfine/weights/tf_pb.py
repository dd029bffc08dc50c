"""TensorFlow's frozen graphs (.pb) -> ONNX, without TensorFlow: luma networks such as ESPCN, FSRCNN and LapSRN.

The way through: the file's bytes -> `Graph` -> `_Translator`, node by node -> `_Onnx`, with the colours around.
Sources: the documentation of TensorFlow's operators; OpenCV's dnn_superres and color_yuv.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from math import ceil, lcm, prod
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from superfine.errors import MissingExtraError, ModelError, UsageError
from superfine.weights.network import Network
from superfine.weights.tf_graph import Node, printable, read_tf_pb
from superfine.weights.tf_reference import enlarge_as_opencv

__all__ = ["open_tf_pb"]

Array = npt.NDArray[Any]

# TensorFlow lets one value stand for a whole constant: this many in all constants of a file.
_MOST_REPEATED: Final = 2**20
# What is computed while converting: sizes, and one value for each channel.
_MOST_FOLDED: Final = 4096
_LARGEST_SCALE: Final = 16
_LARGEST_STEP: Final = 64
# These ask for an order of axes, and have it by default; the rest takes any.
_ORDERED: Final = ("BiasAdd", "Conv2D", "Conv2DBackpropInput", "DepthToSpace")
# Sides on which computed sizes are checked, where the placeholder doesn't give its own.
_TRIAL: Final = (96, 144)


# ---- ONNX

# First and last pixel along an axis.
_Range: TypeAlias = tuple[int, int]


class _Onnx:
    """An ONNX graph that is being written, from `pixels` to `enlarged`."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        # Of each wire: what it is made of, and which of those pixels a range of its own needs.
        self._links: list[tuple[str, tuple[str, ...], Callable[[_Range], _Range]]] = []

    def add(
        self, op: str, *inputs: str, needs: Callable[[_Range], _Range] = lambda own: own, name: str = "", **facts: Any
    ) -> str:
        """One more node; returns the name of its output."""
        from onnx import helper

        wire = name or f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [wire], **facts))
        self._links.append((wire, inputs, needs))
        return wire

    def constant(self, values: npt.ArrayLike) -> str:
        """Floats become float32."""
        from onnx import numpy_helper

        array = np.array(values, order="C")
        wire = f"constant_{len(self._constants)}"
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array
        self._constants.append(numpy_helper.from_array(stored, wire))
        return wire

    def per_channel(self, *values: float) -> str:
        return self.constant(np.array(values, float).reshape(1, -1, 1, 1))

    def pick(self, wire: str, *channels: int) -> str:
        return self.add("Gather", wire, self.constant(channels), axis=1)

    def shuffle(self, wire: str, block: int, mode: str) -> str:
        """Pixel shuffle, in ONNX's words for what of the channels comes first."""

        def needs(own: _Range) -> _Range:
            return own[0] // block, own[1] // block

        return self.add("DepthToSpace", wire, needs=needs, blocksize=block, mode=mode)

    def rounded(self, wire: str, divisor: int) -> str:
        """Wholes and halves over `divisor`, to the nearest level, halves up; a quarter more guards the division."""
        raised = self.add("Add", wire, self.constant(divisor / 2 + 0.25))
        return self.add("Floor", self.add("Mul", raised, self.constant(1 / divisor)))

    def levels(self, unit: str) -> str:
        """0..1 -> 0..255, rounded."""
        raised = self.add("Add", self.add("Mul", unit, self.constant(255.0)), self.constant(0.5))
        return self.clipped(self.add("Floor", raised))

    def clipped(self, wire: str) -> str:
        return self.add("Clip", wire, self.constant(0.0), self.constant(255.0))

    def halo(self, scale: int, multiple_of: int) -> int:
        """Small pixels around a tile that its part of `enlarged` depends on; tiles lie on the grid."""
        side = 64 * multiple_of
        needed = {"enlarged": (0, scale * side - 1)}
        for wire, inputs, needs in reversed(self._links):
            if wire in needed:
                first, last = needs(needed[wire])
                for name in inputs:
                    low, high = needed.get(name, (first, last))
                    needed[name] = (min(low, first), max(high, last))
        first, last = needed["pixels"]
        return max(0, -first, last - (side - 1))

    def file(self) -> bytes:
        from onnx import TensorProto, helper

        pixels, enlarged = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *sides])
            for name, sides in {"pixels": ("h", "w"), "enlarged": ("rows", "cols")}.items()
        )
        graph = helper.make_graph(self._nodes, "network", [pixels], [enlarged], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        content: bytes = model.SerializeToString()
        return content


# ---- node by node


@dataclass(frozen=True)
class _Planes:
    """What flows through the network: (1, channels, rate*h, rate*w) in ONNX, whatever order TensorFlow has it in."""

    wire: str
    channels: int = 1
    rate: Fraction = Fraction(1)
    axes: str = "NHWC"


@dataclass(frozen=True)
class _Sizes:
    """Whole numbers computed from the picture's size, here from the trial's."""

    values: Array


_Value: TypeAlias = _Planes | _Sizes | Array


class _Translator:
    """Nodes of one file -> ONNX. A method for each operator takes the node and its inputs' values."""

    def __init__(self, source: str, onnx: _Onnx, luma: str) -> None:
        self.source, self.onnx, self.luma = source, onnx, luma
        self.multiple_of = 1
        self.parameters = 0
        self.trial: tuple[int, int] | None = None
        self._repeated = 0
        # Constants that are in the ONNX graph already. The array is kept, and with it its id.
        self._wires: dict[tuple[int, str], tuple[Array, str]] = {}

    def value(self, node: Node, given: list[_Value]) -> _Value:
        """What a node gives."""
        if node.op not in _OPERATORS:
            known = ", ".join(sorted(_OPERATORS))
            self._refuse(node, f"is an operator that isn't known here; there are {known}")
        count, translate = _OPERATORS[node.op]
        if count not in (None, len(given)):
            self._refuse(node, f"has {len(given)} inputs and should have {count}; freeze the graph again")
        try:
            return translate(self, node, *given)
        except (IndexError, ValueError) as error:
            raise ModelError(f"{self.source}: {node} is broken; get the file again") from error

    def _refuse(self, node: Node, why: str) -> NoReturn:
        raise ModelError(f"{self.source}: {node} {why}")

    def placeholder(self, node: Node) -> _Planes:
        """The picture's Y."""
        sides = node.shape("shape")
        if self.trial:
            self._refuse(node, "is a second input; networks with one, Y, can be converted")
        if sides and (len(sides) != 4 or sides[3] not in (-1, 1)):
            self._refuse(node, f"takes {sides[:8]}; networks on Y, (N, h, w, 1), can be converted")
        rows, cols = sides[1:3] or _TRIAL
        self.trial = (rows, cols) if 0 < rows < 2**15 and 0 < cols < 2**15 else _TRIAL
        return _Planes(self.luma)

    def tensor(self, node: Node) -> Array:
        """A constant; its bytes are held against its shape before memory is taken."""
        dtype, sides, values, whole = node.tensor("value")
        if dtype not in (1, 3, 9):
            self._refuse(node, f"is of type {dtype}; float32, int32 and int64 (1, 3, 9) can be converted")
        if len(sides) > 4 or min(sides, default=1) < 0:
            self._refuse(node, f"has the shape {sides[:8]}; freeze the graph again")
        count, repeats = prod(sides), not whole and 0 < len(values) < prod(sides)
        if not np.isfinite(values).all():
            self._refuse(node, "holds NaN or infinity; get the file again")
        if not repeats and len(values) != count:
            self._refuse(node, f"has the shape {sides} and {len(values)} values; get the file again")
        self._repeated += count if repeats else 0
        if self._repeated > _MOST_REPEATED:
            self._refuse(node, f"has the shape {sides} and repeats its {len(values)} values; store them all")
        filled = np.concatenate([values, np.broadcast_to(values[-1], count - len(values))]) if repeats else values
        return filled.astype(np.float32 if dtype == 1 else np.int64).reshape(sides)

    def same(self, node: Node, value: _Value) -> _Value:  # noqa: ARG002 - as every operator's
        return value

    # -- convolutions

    def convolution(self, node: Node, value: _Value, weights: _Value) -> _Planes:
        planes, kernel = self._planes(node, value), self._kernel(node, weights)
        step = self._step(node, planes)
        rows, cols, inputs, outputs = kernel.shape
        dilations = self._pair(node, "dilations", planes)
        if inputs != planes.channels:
            self._refuse(node, f"has a kernel for {inputs} channels on {planes.channels}; freeze the graph again")
        extents = [(side - 1) * apart + 1 for side, apart in zip((rows, cols), dilations, strict=True)]
        before, after = self._borders(node, extents, step)
        reach = max(extent - zeros for extent, zeros in zip(extents, before, strict=True))
        wire = self.onnx.add(
            "Conv",
            planes.wire,
            self._weight(kernel, "kernel", kernel.transpose(3, 2, 0, 1)),
            needs=lambda own: (own[0] * step - max(before), own[1] * step + reach - 1),
            strides=[step, step],
            dilations=dilations,
            pads=[*before, *after],
        )
        rate = planes.rate / step
        self.multiple_of = lcm(self.multiple_of, rate.denominator)
        if self.multiple_of > _LARGEST_STEP:
            self._refuse(node, f"makes the picture x{rate}; down to x1/{_LARGEST_STEP} can be converted")
        return replace(planes, wire=wire, channels=outputs, rate=rate)

    def transposed(self, node: Node, size: _Value, weights: _Value, value: _Value) -> _Planes:
        planes, kernel = self._planes(node, value), self._kernel(node, weights)
        step = self._step(node, planes)
        rows, cols, outputs, inputs = kernel.shape
        if inputs != planes.channels or self._pair(node, "dilations", planes) != [1, 1]:
            self._refuse(node, f"has dilations, or a kernel for {inputs} channels on {planes.channels}")
        rate = planes.rate * step
        asked = size.values if isinstance(size, _Sizes) else size
        made = [ceil(rate * side) for side in self.trial or _TRIAL]
        if not isinstance(asked, np.ndarray) or asked.shape != (4,) or asked.dtype.kind != "i":
            self._refuse(node, "doesn't know its output's size; freeze the graph again")
        if self._rows_cols(asked, planes) != made:
            self._refuse(node, f"doesn't make its input exactly x{step}, which is what can be converted")
        before, after = self._borders(node, [rows, cols], step)
        wire = self.onnx.add(
            "ConvTranspose",
            planes.wire,
            self._weight(kernel, "kernel", kernel.transpose(3, 2, 0, 1)),
            needs=lambda own: (
                min(-((side - 1 - cut - own[0]) // step) for side, cut in zip((rows, cols), before, strict=True)),
                (own[1] + max(before)) // step,
            ),
            strides=[step, step],
            pads=[*before, *after],
            output_padding=[max(step - side, 0) for side in (rows, cols)],
        )
        return replace(planes, wire=wire, channels=outputs, rate=rate)

    @staticmethod
    def _rows_cols(numbers: Array | list[int], planes: _Planes) -> list[int]:
        return [int(numbers[planes.axes.index(axis)]) for axis in "HW"]

    def _planes(self, node: Node, value: _Value) -> _Planes:
        if not isinstance(value, _Planes):
            self._refuse(node, "takes a constant where the picture is wanted; freeze the graph again")
        if (order := node.text("data_format", "NHWC" if node.op in _ORDERED else value.axes)) != value.axes:
            self._refuse(
                node, f"wants {printable(order)} and gets {value.axes}; freeze it for the CPU, NHWC throughout"
            )
        return value

    def _kernel(self, node: Node, value: _Value) -> Array:
        """(rows, columns, two kinds of channels), as TensorFlow keeps it."""
        if not isinstance(value, np.ndarray) or value.ndim != 4 or not value.size or value.dtype != np.float32:
            self._refuse(node, "has no constant float32 kernel of four axes; freeze the graph first")
        return value

    def _step(self, node: Node, planes: _Planes) -> int:
        rows, cols = self._pair(node, "strides", planes)
        if rows != cols:
            self._refuse(node, f"has strides of {rows} and {cols}; equal ones can be converted")
        return rows

    def _pair(self, node: Node, name: str, planes: _Planes) -> list[int]:
        """Rows and columns of an attribute that has a number for each axis."""
        given = node.numbers(name) or [1, 1, 1, 1]
        pair = self._rows_cols(given, planes)
        if len(given) != 4 or prod(given) != prod(pair) or not all(0 < side <= _LARGEST_STEP for side in pair):
            self._refuse(node, f"has {name} of {given[:8]}; 1 to {_LARGEST_STEP} for rows and columns can be converted")
        return pair

    def _borders(self, node: Node, extents: list[int], step: int) -> tuple[list[int], list[int]]:
        """Zeros before and after rows and columns, on sides that are on the grid; TensorFlow has the odd one after."""
        total = [max(extent - step, 0) for extent in extents]
        padding = node.text("padding", "none")
        if padding != "SAME" and not (padding == "VALID" and not any(total)):
            self._refuse(
                node, f"has padding {printable(padding)}; SAME can be converted, VALID only where it changes nothing"
            )
        return [zeros // 2 for zeros in total], [zeros - zeros // 2 for zeros in total]

    def _weight(self, value: Array, way: str, made: Array) -> str:
        """`made` of a constant in some `way` as a wire, once in the file however often it is used."""
        key = (id(value), way)
        if key not in self._wires:
            self._wires[key] = (value, self.onnx.constant(made))
            self.parameters += made.size
        return self._wires[key][1]

    # -- places

    def shuffle(self, node: Node, value: _Value) -> _Planes:
        planes, block = self._planes(node, value), node.number("block_size")
        if not 2 <= block <= _LARGEST_STEP or planes.channels % block**2:
            self._refuse(node, f"has blocks of {block} on {planes.channels} channels; freeze the graph again")
        wire = self.onnx.shuffle(planes.wire, block, "DCR")
        return replace(planes, wire=wire, channels=planes.channels // block**2, rate=planes.rate * block)

    def transpose(self, node: Node, value: _Value, order: _Value) -> _Planes:
        """In ONNX there's nothing to do: the order is one throughout."""
        planes = self._planes(node, value)
        places = order.tolist() if isinstance(order, np.ndarray) and order.shape == (4,) else []
        if not all(isinstance(place, int) for place in places):
            raise ValueError("an order that isn't in whole numbers")
        axes = "".join(planes.axes[place] for place in places)
        if axes not in ("NHWC", "NCHW"):
            self._refuse(node, f"turns {planes.axes} by {places}; NHWC to NCHW and back can be converted")
        return replace(planes, axes=axes)

    # -- values

    def elementwise(self, node: Node, *given: _Value) -> _Value:
        pictures = [self._planes(node, value) for value in given if isinstance(value, _Planes)]
        if not pictures:
            return self.folded(node, *given)
        first = pictures[0]
        if any((other.rate, other.axes) != (first.rate, first.axes) for other in pictures):
            self._refuse(node, "takes pictures of several sizes or orders together; freeze the graph again")
        wires, channels = [], {1}
        for value in given:
            if isinstance(value, _Planes):
                wires.append(value.wire)
                channels.add(value.channels)
            else:
                array = self._by_channel(node, value, first.axes)
                wires.append(self._weight(array, first.axes, array.reshape(1, -1, 1, 1)))
                channels.add(array.size)
        if len(channels - {1}) > 1:
            self._refuse(node, f"takes {sorted(channels - {1})} channels together; freeze the graph again")
        return replace(first, wire=self.onnx.add(_ELEMENTWISE[node.op][0], *wires), channels=max(channels))

    def _by_channel(self, node: Node, value: _Value, axes: str) -> Array:
        """A constant with one value for each channel: aligned with the last axis, in BiasAdd with the channels."""
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or not value.size:
            self._refuse(node, "takes numbers together with the picture that aren't constants of float32")
        if node.op == "BiasAdd":
            shape = tuple(value.size if axis == "C" else 1 for axis in axes)
        else:
            shape = (1,) * (4 - value.ndim) + value.shape
        if any(side != 1 for axis, side in zip(axes, shape, strict=True) if axis != "C"):
            self._refuse(node, f"takes a constant of shape {value.shape}; one value for each channel can be converted")
        return value

    def leaky(self, node: Node, value: _Value) -> _Planes:
        planes, slope = self._planes(node, value), node.real("alpha", 0.2)
        return replace(planes, wire=self.onnx.add("LeakyRelu", planes.wire, alpha=slope))

    # -- sizes, and constants made of constants

    def shape(self, node: Node, value: _Value) -> _Sizes:
        planes = self._planes(node, value)
        rows, cols = (ceil(planes.rate * side) for side in self.trial or _TRIAL)
        sides = {"N": 1, "H": rows, "W": cols, "C": planes.channels}
        return _Sizes(np.array([sides[axis] for axis in planes.axes], np.int64))

    def folded(self, node: Node, *given: _Value) -> _Value:
        """What can be computed now."""
        arrays = [value.values if isinstance(value, _Sizes) else value for value in given]
        numbers = [array for array in arrays if isinstance(array, np.ndarray)]
        if len(numbers) < len(given):
            self._refuse(node, "takes the picture itself; it can be converted where it computes sizes")
        shapes = [array.shape for array in numbers]
        size = prod(np.broadcast_shapes(*shapes)) if node.op in _ELEMENTWISE else sum(map(prod, shapes))
        if size > _MOST_FOLDED:
            self._refuse(node, f"computes {size} values from constants; freeze the graph with constants folded")
        with np.errstate(all="ignore"):
            match node.op:
                case "Pack":
                    result = np.stack(numbers, node.number("axis"))
                case "StridedSlice":
                    result = self._sliced(node, *numbers)
                case _:
                    result = np.asarray(_ELEMENTWISE[node.op][1](*numbers))
        return _Sizes(result) if any(isinstance(value, _Sizes) for value in given) else result

    def _sliced(self, node: Node, values: Array, begin: Array, end: Array, strides: Array) -> Array:
        first, last, drop, *others = (
            node.number(f"{name}_mask") for name in ("begin", "end", "shrink_axis", "ellipsis", "new_axis")
        )
        plain = values.ndim == 1 and begin.shape == end.shape == strides.shape == (1,)
        if any(others) or not plain or any(array.dtype.kind != "i" for array in (begin, end, strides)):
            self._refuse(node, "cuts more than one axis; a part of a list of sizes can be converted")
        if drop & 1:  # bits of axes that aren't there say nothing
            return np.asarray(values[begin.item()])
        return values[None if first & 1 else begin.item() : None if last & 1 else end.item() : strides.item()]


# Element by element: the name in ONNX, and the same in numpy.
_ELEMENTWISE: Final[dict[str, tuple[str, Callable[..., Any]]]] = {
    "Abs": ("Abs", np.abs),
    "Add": ("Add", np.add),
    "AddV2": ("Add", np.add),
    "BiasAdd": ("Add", np.add),
    "Maximum": ("Max", np.maximum),
    "Minimum": ("Min", np.minimum),
    "Mul": ("Mul", np.multiply),
    "Neg": ("Neg", np.negative),
    "RealDiv": ("Div", np.divide),
    "Relu": ("Relu", lambda values: np.maximum(values, 0)),
    "Sub": ("Sub", np.subtract),
    "Tanh": ("Tanh", np.tanh),
}
# The operator -> how many inputs it has (None: any number), and who translates it.
_OPERATORS: Final[dict[str, tuple[int | None, Callable[..., _Value]]]] = {
    **dict.fromkeys(("Abs", "Neg", "Relu", "Tanh"), (1, _Translator.elementwise)),
    **dict.fromkeys(
        ("Add", "AddV2", "BiasAdd", "Maximum", "Minimum", "Mul", "RealDiv", "Sub"), (2, _Translator.elementwise)
    ),
    "Const": (0, _Translator.tensor),
    "Conv2D": (2, _Translator.convolution),
    "Conv2DBackpropInput": (3, _Translator.transposed),
    "DepthToSpace": (1, _Translator.shuffle),
    "Identity": (1, _Translator.same),
    "LeakyRelu": (1, _Translator.leaky),
    "Pack": (None, _Translator.folded),
    "Placeholder": (0, _Translator.placeholder),
    "Shape": (1, _Translator.shape),
    "StridedSlice": (4, _Translator.folded),
    "Transpose": (2, _Translator.transpose),
}


# ---- the whole


def open_tf_pb(content: bytes, source: str, output: str = "") -> Network:
    """A frozen graph on Y (one channel, 0..1) as an ONNX network on RGB, with OpenCV's handling of colours around it.

    OpenCV's dnn_superres works in 8-bit levels of full-range YCrCb (BT.601): Y by the network, Cr and Cb bilinear,
    each rounded before it becomes RGB. So does the ONNX file, for deeper pictures too. It needs fp32: these
    networks have no base to correct, and bf16 moves Y by several levels. The reference computes the graph's nodes
    as TensorFlow defines them, and the colours in whole numbers.

    `source` names the file in errors; `output` the last node, where the graph has several ends, as LapSRN for x4.
    Raises ModelError where the file is broken, or does what isn't known here: then it names the operator and the
    node; MissingExtraError without onnx; UsageError with the ends that there are where `output` is none of its nodes.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError("converting a network", "convert")
    graph = read_tf_pb(content, source)
    if output and output not in graph.nodes:
        ends = ", ".join(f"'{printable(name)}'" for name in graph.ends()[:5]) or "none"
        raise UsageError(f"{source}: has no node '{printable(output)}'; its ends are: {ends}")
    nodes = graph.in_order(output or graph.end())
    onnx = _Onnx()
    luma, chroma = _colours_in(onnx)
    translator = _Translator(source, onnx, luma)
    values: dict[str, _Value] = {}
    for node in nodes:
        values[node.name] = translator.value(node, [values[name] for name in node.inputs])
    last = values[nodes[-1].name]
    if not isinstance(last, _Planes) or last.channels != 1:
        raise ModelError(f"{source}: {nodes[-1]} doesn't give one channel, Y; networks on Y can be converted")
    if last.rate.denominator != 1 or not 2 <= last.rate <= _LARGEST_SCALE:
        raise ModelError(f"{source}: enlarges x{last.rate}; networks for x2 to x{_LARGEST_SCALE} can be converted")
    scale = int(last.rate)
    _colours_out(onnx, scale, last.wire, chroma)
    constants = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return Network(
        content=onnx.file(),
        scale=scale,
        halo=onnx.halo(scale, translator.multiple_of),
        multiple_of=translator.multiple_of,
        parameters=translator.parameters,
        description=_description(nodes, values),
        colour="Y by the network, Cr and Cb bilinear, in 8-bit levels of full-range BT.601, as OpenCV's dnn_superres",
        needs_fp32=True,
        reference=partial(enlarge_as_opencv, nodes, constants, scale),
        witness="NumPy, float64",
    )


def _description(nodes: list[Node], values: Mapping[str, _Value]) -> str:
    kinds = [("Conv2D", "convolution"), ("Conv2DBackpropInput", "transposed convolution"), ("DepthToSpace", "shuffle")]
    counts = {word: sum(node.op == op for node in nodes) for op, word in kinds}
    parts = ", ".join(f"{count} {word}{'s' * (count > 1)}" for word, count in counts.items() if count)
    width = max(value.channels for value in values.values() if isinstance(value, _Planes))
    return f"a frozen TensorFlow graph on Y: {parts}, up to {width} channels"


# ---- colours: OpenCV's whole numbers in 14 bits, each exact in float32


def _colours_in(onnx: _Onnx) -> tuple[str, str]:
    """`pixels` -> Y in 0..1 for the network, and levels of Cr and Cb."""
    levels = onnx.levels("pixels")
    weighted = onnx.add("Mul", levels, onnx.per_channel(4899, 9617, 1868))
    luma = onnx.rounded(onnx.add("ReduceSum", weighted, onnx.constant([1]), keepdims=1), 2**14)
    away = onnx.add("Sub", onnx.pick(levels, 0, 2), luma)  # red and blue, from Y
    shares = onnx.add("Mul", away, onnx.per_channel(11682, 9241))
    chroma = onnx.rounded(onnx.add("Add", shares, onnx.constant(128.0 * 2**14)), 2**14)
    return onnx.add("Mul", luma, onnx.constant(1 / 255)), onnx.clipped(chroma)


def _colours_out(onnx: _Onnx, scale: int, luma: str, chroma: str) -> None:
    """The network's Y in 0..1, and levels of Cr and Cb -> `enlarged`."""
    large = onnx.add("Sub", _bilinear(onnx, scale, chroma), onnx.constant(128.0))
    red = onnx.add("Mul", onnx.pick(large, 0), onnx.per_channel(22987, -11698, 0))
    blue = onnx.add("Mul", onnx.pick(large, 1), onnx.per_channel(0, -5636, 29049))
    away = onnx.rounded(onnx.add("Add", red, blue), 2**14)
    levels = onnx.clipped(onnx.add("Add", onnx.levels(luma), away))
    onnx.add("Mul", levels, onnx.constant(1 / 255), name="enlarged")


def _bilinear(onnx: _Onnx, scale: int, chroma: str) -> str:
    """(1, 2, h, w) levels -> (1, 2, scale*h, scale*w) levels, borders replicated; halves stay halves.

    In whole numbers and as a transposed convolution of stride one, so that every tile gets the same bits, in bf16 too.
    """
    # New pixels lie 1 / (2 * scale) times this away from the old one's centre.
    offset = 2 * np.arange(scale) + 1 - scale
    line = np.stack([np.maximum(offset, 0), 2 * scale - abs(offset), np.maximum(-offset, 0)], -1)  # after .. before
    kernel = np.einsum("pi,qj->pqij", line, line).reshape(1, scale**2, 3, 3)
    padded = onnx.add("Pad", chroma, onnx.constant([0, 0, 1, 1, 0, 0, 1, 1]), mode="edge")
    total = onnx.add(
        "ConvTranspose",
        padded,
        onnx.constant(np.concatenate([kernel, kernel]).astype(float)),
        needs=lambda own: (own[0] - 1, own[1] + 1),
        group=2,
        pads=[2, 2, 2, 2],
    )
    large = onnx.shuffle(total, scale, "CRD")
    # OpenCV adds in float, so that chance rounds its halves, up or down: between the two, RGB is at most one level off.
    up, down = onnx.rounded(large, 4 * scale**2), onnx.rounded(onnx.add("Neg", large), 4 * scale**2)
    return onnx.add("Mul", onnx.add("Sub", up, down), onnx.constant(0.5))
