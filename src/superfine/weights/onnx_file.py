"""Anyone's ONNX network -> one on (1, 3, h, w) RGB in 0..1, with what its maker does around it inside the file.

`check_onnx` comes before any parser: it walks the file's messages and refuses what could read other files, run other
code or take memory that the file doesn't hold. Source: onnx.proto and the documentation of ONNX's operators.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from superfine.classical.resample import KERNELS, resize
from superfine.color import FULL_LUMA, full_luma
from superfine.errors import MissingExtraError, ModelError
from superfine.protobuf import protobuf_spans
from superfine.terminal import one_line
from superfine.weights.network import Floats, Network

__all__ = ["Colour", "Interface", "check_onnx", "open_onnx"]

Colour = Literal["rgb", "bgr", "y"]

# Elements of one array. No honest network here has a tenth of it.
_MOST: Final = 10**9
# And of all arrays that are made out of a few constants.
_MOST_MADE: Final = 2**26
_DEEPEST: Final = 4
_MOST_NODES: Final = 20_000
# OpenVINO's time to prepare them grows with the square of the first and the cube of the second; a network of 200
# residual blocks has some 220 sums in a row.
_MOST_INPUTS: Final = 256
_LONGEST_RUN: Final = 384
# The squares of all nodes' inputs, together.
_MOST_EFFORT: Final = 2**20
# Whole numbers in one array that sizes are computed from.
_MOST_FOLDED: Final = 4096
# Nobody knows by the layers how far it looks: more than is ever measured.
_UNKNOWN_HALO: Final = 4096
# Of TensorProto.DataType.
_FLOAT: Final = 1
# Of them -> from one number below 1 to the next: float16 and bfloat16.
_STEPS: Final = {10: 2.0**-11, 16: 2.0**-8}
# Sides on which is tried whether a second computation runs; some networks want more than the first.
_TRIED: Final = (16, 64)
# Before it, numbers aren't spread over pictures as here.
_OLDEST_OPERATORS: Final = 8


# ---- what is refused before anything is parsed

# TensorProto.data_type -> bits of an element; texts have none.
_BITS: Final = {
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
_WHOLE: Final[dict[int, np.dtype[Any]]] = {6: np.dtype("<i4"), 7: np.dtype("<i8")}
# They run for as long as a number in the file says, hide what they make in a branch, or give another result each time.
_REFUSED: Final = (
    "If", "Loop", "Scan", "SequenceMap", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    "Bernoulli", "Multinomial",
)  # fmt: skip
# What makes much out of little -> the input that says how much.
_MAKERS: Final = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1}

# What works on each element alone.
_ELEMENTWISE: Final = frozenset((
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean",
    "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh",
    "ThresholdedRelu", "Where", "Xor",
))  # fmt: skip

_Values = npt.NDArray[np.int64]


def check_onnx(content: bytes, source: str) -> None:
    """Raise ModelError where a file is no ONNX file or could do harm; `source` names it.

    Refused are weights in other files, wherever these lie; operators and functions that aren't ONNX's own; loops and
    random numbers; arrays that claim 10^9 and more elements, or more or fewer than they hold; arrays of more than
    2^26 elements made by ConstantOfShape, Expand, Tile, OneHot or Range; subgraphs more than four deep; what engines
    take minutes to prepare: more than 20,000 nodes, 256 inputs of one, or 384 operators on single elements in a row;
    cut files. Needs no onnx.
    """
    try:
        _Walk(content, source).model()
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(f"{source}: not an ONNX file, or cut off") from error


@dataclass(frozen=True)
class _Node:
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, "_Attribute"]


@dataclass(frozen=True)
class _Attribute:
    whole: int | None
    tensor: "_Tensor | None"
    wholes: tuple[int, ...]


@dataclass(frozen=True)
class _Tensor:
    name: str
    dims: tuple[int, ...]
    values: _Values | None
    """Where they are few and whole."""


class _Scope:
    """What a graph has by name: None for what depends on the picture or isn't known, else a constant."""

    def __init__(self, outer: "_Scope | None" = None) -> None:
        self.names: set[str] = set() if outer is None else set(outer.names)
        self.values: dict[str, _Values] = {} if outer is None else dict(outer.values)
        self.constant: set[str] = set() if outer is None else set(outer.constant)
        self.dims: dict[str, tuple[int, ...]] = {} if outer is None else dict(outer.dims)
        self.runs: dict[str, int] = {} if outer is None else dict(outer.runs)
        """How many elementwise operators in a row lead to it."""

    def add(self, tensor: _Tensor, name: str) -> None:
        self.names.add(name)
        self.constant.add(name)
        self.dims[name] = tensor.dims
        if tensor.values is not None:
            self.values[name] = tensor.values


class _Walk:
    """Through the messages of one file."""

    def __init__(self, content: bytes, source: str) -> None:
        self._content, self._source = content, source
        self._nodes = self._effort = 0
        self._made = 0

    def model(self) -> None:
        seen = set()
        graphs = []
        for number, value in protobuf_spans(self._content, 0, len(self._content)):
            seen.add(number)
            if number == 25:
                self._refuse("has functions of its own; export it without, or unfold them: onnx.inliner")
            if number == 7:
                graphs.append(self._span(value))
            if number == 8:
                domain = b"".join(self._bytes(part) for key, part in self._fields(self._span(value)) if key == 1)
                self._check_domain(domain.decode(), "")
        if not {1, 7, 8} <= seen:  # ir_version, graph and opset_import
            raise ModelError(f"{self._source}: not an ONNX file")
        if len(graphs) != 1:
            self._refuse(f"has {len(graphs)} graphs where one was expected")
        self._graph(graphs[0], _Scope(), 0)

    def _refuse(self, why: str) -> NoReturn:
        raise ModelError(f"{self._source}: {why}")

    # -- messages

    def _fields(self, span: range) -> Iterator[tuple[int, int | range]]:
        return protobuf_spans(self._content, span.start, span.stop)

    def _span(self, value: int | range) -> range:
        if isinstance(value, int):
            raise ValueError("a number where a message was expected")
        return value

    def _bytes(self, value: int | range) -> bytes:
        span = self._span(value)
        return self._content[span.start : span.stop]

    def _text(self, value: int | range) -> str:
        return self._bytes(value).decode()

    def _number(self, value: int | range) -> int:
        if isinstance(value, range):
            raise ValueError("a message where a number was expected")
        return _signed(value)

    def _numbers(self, value: int | range) -> list[int]:
        """One number of a repeated field, or all of them where they are packed."""
        if isinstance(value, int):
            return [_signed(value)]
        if len(value) > 10 * _MOST_FOLDED:
            raise ValueError("a long list of numbers")
        found, bits, shift = [], 0, 0
        for byte in self._content[value.start : value.stop]:
            bits |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                found.append(_signed(bits))
                bits = shift = 0
            elif shift > 63:
                raise ValueError("a number of more than ten bytes")
        if shift:
            raise ValueError("a number that ends too soon")
        return found

    def _check_domain(self, domain: str, kind: str) -> None:
        if domain not in ("", "ai.onnx"):
            of = f" {one_line(kind)[:60]!r}" if kind else "s"
            self._refuse(
                f"wants the operator{of} of {one_line(domain)[:60]!r}, which aren't ONNX's own; export it with ONNX's"
            )

    def _graph(self, span: range, scope: _Scope, depth: int) -> None:
        if depth > _DEEPEST:
            self._refuse(f"has graphs in graphs, more than {_DEEPEST} deep; export it without conditions")
        nodes = []
        for number, value in self._fields(span):
            if number == 5:
                tensor = self._tensor(self._span(value))
                scope.add(tensor, tensor.name)
            elif number == 11:
                scope.names |= {self._text(part) for key, part in self._fields(self._span(value)) if key == 1}
            elif number == 15:
                self._refuse("keeps sparse weights; save it with dense ones")
            elif number == 1:
                nodes.append(self._span(value))
                self._nodes += 1
                if self._nodes > _MOST_NODES:
                    self._refuse(f"has more than {_MOST_NODES:,} nodes, as no network here; simplify it: onnxsim")
        for node in nodes:
            self._node(node, scope, depth)

    def _node(self, span: range, scope: _Scope, depth: int) -> None:
        kind = name = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, _Attribute] = {}
        for number, value in self._fields(span):
            match number:
                case 1:
                    inputs.append(self._text(value))
                case 2:
                    outputs.append(self._text(value))
                case 3:
                    name = self._text(value)
                case 4:
                    kind = self._text(value)
                case 5:
                    key, attribute = self._attribute(self._span(value), scope, depth)
                    attributes[key] = attribute
                case 7:
                    domain = self._text(value)
        self._check_domain(domain, kind)
        if kind in _REFUSED:
            self._refuse(f"has the operator {kind}, which isn't run here; export it without loops, choices and chance")
        if early := [each for each in inputs if each and each not in scope.names]:
            self._refuse(f"uses {one_line(early[0])[:60]!r} before it is made; export it again")
        node = _Node(kind, name, tuple(inputs), tuple(outputs), attributes)
        self._check_effort(node, scope)
        scope.names |= set(outputs)
        if kind == "Constant":
            self._constant(node, scope)
        elif all(each in scope.constant for each in inputs if each):
            # A shape is a constant only where that of its input is; a subgraph may see the picture.
            scope.constant |= set(outputs)
            values = _folded(node, scope)
            if values is not None and len(outputs) == 1 and len(values) <= _MOST_FOLDED:
                scope.values[outputs[0]] = values
        self._check_made(node, scope)

    def _check_effort(self, node: _Node, scope: _Scope) -> None:
        """Of what takes an engine long to prepare: that it stays little."""
        of = f"'{one_line(node.name or node.kind)[:60]}' ({one_line(node.kind)[:60]})"
        if len(node.inputs) > _MOST_INPUTS:
            self._refuse(
                f"{of} has {len(node.inputs):,} inputs, and more than {_MOST_INPUTS} take engines too long; export it"
                " with fewer"
            )
        self._effort += len(node.inputs) ** 2
        if self._effort > _MOST_EFFORT:
            self._refuse("has many nodes of many inputs, which take engines too long; export it with fewer")
        if node.kind not in _ELEMENTWISE:
            return
        run = 1 + max((scope.runs.get(name, 0) for name in node.inputs), default=0)
        if run > _LONGEST_RUN:
            self._refuse(
                f"{of} is the last of {run} operators on single elements in a row, which take engines too long;"
                " simplify it: onnxsim"
            )
        scope.runs |= dict.fromkeys(node.outputs, run)

    def _constant(self, node: _Node, scope: _Scope) -> None:
        given = next(iter(node.attributes.values()), None)
        tensor = None if given is None else given.tensor
        if given is not None and given.wholes:
            tensor = _Tensor("", (len(given.wholes),), np.array(given.wholes, np.int64))
        elif given is not None and given.whole is not None:
            tensor = _Tensor("", (), np.array([given.whole], np.int64))
        for name in node.outputs:
            scope.add(tensor or _Tensor("", (), None), name)

    def _check_made(self, node: _Node, scope: _Scope) -> None:
        """Of what makes much out of little: that it stays little."""
        if node.kind == "Range":
            wanted = node.inputs
        elif node.kind in _MAKERS:
            place = _MAKERS[node.kind]
            wanted = node.inputs[place : place + 1]
        else:
            return
        if not all(name in scope.constant for name in wanted if name):
            return  # by the picture's size: checked where that is known, before anything runs
        of = f"'{one_line(node.name or node.kind)[:60]}' ({node.kind})"
        if not wanted or not all(name in scope.values for name in wanted):
            self._refuse(f"computes how much {of} makes in a way that can't be checked; simplify it: onnxsim")
        given = [[int(each) for each in scope.values[name]] for name in wanted]
        if node.kind == "Range":
            if len(given) != 3 or any(len(each) != 1 for each in given) or given[2] == [0]:
                raise ValueError("a broken range")
            count = (given[1][0] - given[0][0]) // given[2][0]
        else:
            count = prod(max(each, 1) for each in given[0])
            if node.kind != "ConstantOfShape" and node.inputs[0] in scope.constant:
                count *= prod(max(side, 1) for side in scope.dims.get(node.inputs[0], ()))
        self._made += max(count, 0)
        if self._made > _MOST_MADE:
            self._refuse(
                f"{of} makes an array of {_shown(count)} elements of nearly nothing; more than {_MOST_MADE:,} together"
                " are refused"
            )

    def _attribute(self, span: range, scope: _Scope, depth: int) -> tuple[str, _Attribute]:
        name = ""
        whole: int | None = None
        tensor: _Tensor | None = None
        wholes: list[int] = []
        for number, value in self._fields(span):
            match number:
                case 1:
                    name = self._text(value)
                case 3:
                    whole = self._number(value)
                case 5 | 10:
                    tensor = self._tensor(self._span(value))
                case 6 | 11:
                    self._graph(self._span(value), _Scope(scope), depth + 1)
                case 8:
                    wholes += self._numbers(value)
                case 22 | 23:
                    self._refuse("keeps sparse weights; save it with dense ones")
        return name, _Attribute(whole, tensor, tuple(wholes))

    def _tensor(self, span: range) -> _Tensor:
        name, kind, typed = "", 0, 0
        raw: range | None = None
        dims: list[int] = []
        few: list[int] = []
        for number, value in self._fields(span):
            if number == 13 or (number == 14 and value == 1):  # external_data; data_location = EXTERNAL
                self._refuse("keeps weights in other files; save it as one: onnx.save(onnx.load(...), ...)")
            match number:
                case 1:
                    dims += self._numbers(value)
                case 2:
                    kind = self._number(value)
                case 8:
                    name = self._text(value)
                case 9:
                    raw = self._span(value)
                case 4 | 5 | 6 | 7 | 10 | 11:
                    typed += 1 if isinstance(value, int) or number == 6 else len(value)
                    if number in (5, 7) and (isinstance(value, int) or len(value) <= 10 * _MOST_FOLDED):
                        few += self._numbers(value)
        shown = one_line(name)[:60]
        if len(dims) > 64 or any(side < 0 for side in dims):
            self._refuse(f"array {shown!r} claims sides of {dims[:8]}; get the file again")
        count = prod(dims)
        if count >= _MOST:
            self._refuse(f"array {shown!r} claims {_shown(count)} elements; {_MOST:,} and more are refused")
        stored, bits = typed if raw is None else len(raw), _BITS.get(kind, 0)
        # Typed numbers take from four bytes to a quarter of one.
        if (count > 4 * stored) if raw is None else (not bits or stored != -(-count * bits // 8)):
            self._refuse(f"array {shown!r} claims {count:,} elements and holds {stored:,} bytes; get the file again")
        return _Tensor(name, tuple(dims), self._few(kind, count, raw, few))

    def _few(self, kind: int, count: int, raw: range | None, few: list[int]) -> _Values | None:
        if kind not in _WHOLE or count > _MOST_FOLDED:
            return None
        if raw is not None:
            stored = np.frombuffer(self._content[raw.start : raw.stop], _WHOLE[kind])
            return stored.astype(np.int64)
        return np.array(few, np.int64) if len(few) == count else None


def _signed(bits: int) -> int:
    bits &= 2**64 - 1
    return bits - 2**64 if bits >= 2**63 else bits


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"more than {10**15:,}"


def _folded(node: _Node, scope: _Scope) -> _Values | None:
    """What a node gives of few whole constants, as a list; None where that isn't known here."""
    if node.kind == "Shape" and node.inputs[:1] and node.inputs[0] in scope.dims and not node.attributes:
        return np.array(scope.dims[node.inputs[0]], np.int64)
    if not node.inputs or not all(name in scope.values for name in node.inputs if name):
        return None
    given = [scope.values[name] for name in node.inputs if name]
    if sum(map(len, given)) > _MOST_FOLDED:
        return None
    first = given[0]
    match node.kind:
        case "Identity" | "Cast" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten":
            made: _Values | None = first  # its shape plays no part in lists
        case "Concat":
            made = np.concatenate(given)
        case "ReduceProd":
            made = np.array([_whole(prod(map(int, first)))], np.int64)
        case "Gather" if len(given) == 2 and all(-len(first) <= at < len(first) for at in given[1]):
            made = first[given[1]]
        case "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" if len(given) == 2:
            made = _both(node.kind, first, given[1])
        case _:
            made = None
    return made


def _both(kind: str, first: _Values, second: _Values) -> _Values | None:
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        return None
    if kind == "Div" and not second.all():
        return None
    pairs = zip(*(map(int, each) for each in np.broadcast_arrays(first, second)), strict=True)
    compute: dict[str, Callable[[int, int], int]] = {
        "Add": lambda one, other: one + other,
        "Sub": lambda one, other: one - other,
        "Mul": lambda one, other: one * other,
        "Div": lambda one, other: abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1),
        "Max": max,
        "Min": min,
    }
    return np.array([_whole(compute[kind](*pair)) for pair in pairs], np.int64)


def _whole(value: int) -> int:
    """As large as counts can be; what is larger is refused all the same."""
    return max(-(2**62), min(value, 2**62))


# ---- the network with what is around it


@dataclass(frozen=True, kw_only=True)
class Interface:
    """How a stranger's network takes and gives a picture."""

    channels: int
    channels_last: bool
    rows: int | None
    """The only height that it takes; None takes any."""
    cols: int | None
    dtype: Literal["float32", "float16", "uint8"]
    scale: int
    multiple_of: int
    colour: Colour
    black: float
    white: float
    parameters: int
    how: str
    """How its colour and range are known."""


def open_onnx(content: bytes, source: str, interface: Interface) -> Network:
    """A network on RGB in 0..1 from a stranger's.

    Luma networks get Y of BT.601 full range, and chroma goes by bicubic. Where the stranger's input is of a fixed
    size, so is the result's. Its `reference` is onnx's evaluator in NumPy on the bare network, or ONNX Runtime where
    that can't run it, with colours and range around it apart from the graph. Nobody knows its `halo` by the layers: it
    is to be measured.

    Raises ModelError as `check_onnx`, where its operators are older than ONNX's set 8, and where neither computes it.
    """
    check_onnx(content, source)
    if find_spec("onnx") is None:
        raise MissingExtraError(f"{source}: converting ONNX files", "convert")
    from onnx import ModelProto

    try:
        bare = ModelProto.FromString(content)
    except Exception as error:
        raise ModelError(f"{source}: not an ONNX file, or cut off") from error
    operators = max((entry.version for entry in bare.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if operators < _OLDEST_OPERATORS:
        raise ModelError(
            f"{source}: its operators are of ONNX's set {operators}; renew it with onnx.version_converter to"
            f" {_OLDEST_OPERATORS} or later"
        )
    colours = {"rgb": "RGB", "bgr": "BGR inside", "y": "luma; chroma by bicubic"}[interface.colour]
    sides = f", fixed input of {interface.rows} x {interface.cols}" if interface.rows and interface.cols else ""
    reference, witness = _reference(bare, source, interface)
    return Network(
        content=_wrapped(bare, interface, operators),
        scale=interface.scale,
        halo=_UNKNOWN_HALO,
        multiple_of=interface.multiple_of,
        parameters=interface.parameters,
        description=f"ONNX network of another maker{sides}",
        colour=f"{colours} ({interface.how})",
        rounding=_rounding(bare, interface),
        reference=reference,
        witness=witness,
    )


def _rounding(bare: Any, interface: Interface) -> float:
    """What a network's output type rounds to just below white, in 8-bit levels; 0 in fp32, and for whole levels."""
    (end,) = bare.graph.output
    step = _STEPS.get(end.type.tensor_type.elem_type, 0.0)
    largest = max(abs(interface.black), abs(interface.white))
    return 255 * step * largest / (interface.white - interface.black)


def _wrapped(bare: Any, interface: Interface, operators: int) -> bytes:
    """The stranger's graph between what makes its input of RGB, and RGB of its output."""
    from onnx import ModelProto, TensorProto, helper

    model: Any = ModelProto()
    model.CopyFrom(bare)
    graph = model.graph
    stored = {entry.name for entry in graph.initializer}
    (entrance,) = [port for port in graph.input if port.name not in stored]
    (end,) = graph.output
    writer = _Writer(graph, operators)
    rows, cols = interface.rows or "h", interface.cols or "w"
    inside = len(graph.node)
    rgb, luma = writer.name("pixels"), ""
    if interface.colour == "y":
        luma = writer.luma(rgb)
    _give(writer, interface, luma or rgb, entrance)
    before = list(graph.node)[inside:]
    own = list(graph.node)[:inside]

    large = _take(writer, interface, end.name, rgb, luma)
    after = list(graph.node)[inside + len(before) :]

    nodes = [*before, *own, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.input[:]
    del graph.output[:]
    del graph.value_info[:]
    del model.metadata_props[:]
    graph.input.append(helper.make_tensor_value_info(rgb, TensorProto.FLOAT, [1, 3, rows, cols]))
    made = [side * interface.scale if isinstance(side, int) else side.upper() for side in (rows, cols)]
    graph.output.append(helper.make_tensor_value_info(large, TensorProto.FLOAT, [1, 3, *made]))
    content: bytes = model.SerializeToString()
    return content


def _give(writer: "_Writer", interface: Interface, wire: str, entrance: Any) -> None:
    """RGB or luma in 0..1 -> what the network takes."""
    if interface.colour == "bgr":
        wire = writer.swapped(wire)
    wire = writer.add("Mul", wire, writer.constant(float(interface.white - interface.black)))
    wire = writer.add("Add", wire, writer.constant(float(interface.black)))
    if interface.dtype == "uint8":
        wire = writer.add("Floor", writer.add("Add", wire, writer.constant(0.5)))
    if interface.dtype != "float32":
        wire = writer.add("Cast", wire, to=entrance.type.tensor_type.elem_type)
    if interface.channels_last:
        wire = writer.add("Transpose", wire, perm=[0, 2, 3, 1])
    writer.add("Identity", wire, made=entrance.name)


def _take(writer: "_Writer", interface: Interface, wire: str, rgb: str, luma: str) -> str:
    """What the network gives -> RGB in 0..1; of a luma network with the colours of `rgb`, whose luma is `luma`."""
    wire = writer.add("Cast", wire, to=_FLOAT)
    if interface.channels_last:
        wire = writer.add("Transpose", wire, perm=[0, 3, 1, 2])
    wire = writer.add("Sub", wire, writer.constant(float(interface.black)))
    wire = writer.add("Mul", wire, writer.constant(1 / float(interface.white - interface.black)))
    if interface.colour == "bgr":
        wire = writer.swapped(wire)
    if interface.colour == "y":
        wire = writer.add("Add", wire, writer.bicubic(writer.add("Sub", rgb, luma), interface.scale))
    return writer.add("Identity", wire, made=writer.name("enlarged"))


class _Writer:
    """Adds nodes to a graph under names that it doesn't have."""

    def __init__(self, graph: Any, operators: int) -> None:
        self._graph, self._operators = graph, operators
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken |= {entry.name for part in (graph.initializer, graph.input, graph.output) for entry in part}

    def name(self, wish: str) -> str:
        found = wish
        while found in self._taken:
            found += "_"
        self._taken.add(found)
        return found

    def add(self, kind: str, *inputs: str, made: str = "", **attributes: Any) -> str:
        from onnx import helper

        made = made or self.name(f"superfine/{kind}_{len(self._graph.node)}")
        self._graph.node.append(helper.make_node(kind, list(inputs), [made], **attributes))
        return made

    def constant(self, values: npt.ArrayLike) -> str:
        from onnx import numpy_helper

        array = np.asarray(values)
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = self.name(f"superfine/constant_{len(self._graph.initializer)}")
        self._graph.initializer.append(numpy_helper.from_array(stored, name))
        return name

    def swapped(self, wire: str) -> str:
        """RGB from BGR and the other way round."""
        return self.add("Gather", wire, self.constant(np.array([2, 1, 0])), axis=1)

    def luma(self, rgb: str) -> str:
        # Plane by plane, since engines may round what goes through a convolution.
        planes = [
            self.add("Mul", self.add("Gather", rgb, self.constant(np.array([channel])), axis=1), self.constant(weight))
            for channel, weight in enumerate(map(float, FULL_LUMA))
        ]
        return self.add("Add", self.add("Add", planes[0], planes[1]), planes[2])

    def bicubic(self, planes: str, scale: int) -> str:
        """Three planes enlarged by Keys' cubic, borders replicated: what `resample.resize` computes."""
        # Pixel n + d is felt `scale * (2 - d)` places into the kernel by what pixel n becomes.
        place = np.arange(5 * scale)
        offset, phase = 2 - place // scale, place % scale
        weights = KERNELS["bicubic"].weight((phase + 0.5) / scale - 0.5 - offset)
        kernel = np.broadcast_to(np.outer(weights, weights), (3, 1, 5 * scale, 5 * scale))
        margins = [0, 0, 2, 2, 0, 0, 2, 2]
        if self._operators < 11:
            wide = self.add("Pad", planes, mode="edge", pads=margins)
        else:
            wide = self.add("Pad", planes, self.constant(np.array(margins)), mode="edge")
        return self.add(
            "ConvTranspose", wide, self.constant(kernel), strides=[scale] * 2, pads=[4 * scale] * 4, group=3
        )


_Run = Callable[[Floats], Floats]


def _reference(bare: Any, source: str, interface: Interface) -> tuple[Callable[[Floats], Floats], str]:
    """The bare network by a second computation, its convention in NumPy around it; and the name of the computation."""
    run, witness = _second(bare, source, interface)
    width = interface.white - interface.black

    def through(values: Floats) -> Floats:
        levels = values * width + interface.black
        given = np.rint(levels) if interface.dtype == "uint8" else levels
        planes = given if interface.channels_last else given.transpose(2, 0, 1)
        try:
            made = run(np.ascontiguousarray(planes[None], np.dtype(interface.dtype)))
        except Exception as error:
            raise ModelError(
                f"{source}: {witness}, against which it would be held, can't run it on {values.shape[:2]}:"
                f" {one_line(str(error))[:200]}; export it for any size"
            ) from error
        part: Floats = made[0].astype(np.float64)
        large = part if interface.channels_last else part.transpose(1, 2, 0)
        return (large - interface.black) / width

    def enlarge(pixels: Floats) -> Floats:
        small = pixels.astype(np.float64)
        if interface.colour == "rgb":
            return through(small)
        if interface.colour == "bgr":
            return through(small[..., ::-1])[..., ::-1]
        luma = full_luma(small)[..., None]
        size = (small.shape[0] * interface.scale, small.shape[1] * interface.scale)
        chroma: Floats = resize(small - luma, size)
        return through(luma) + chroma

    return enlarge, witness


def _second(bare: Any, source: str, interface: Interface) -> tuple[_Run, str]:
    """The first computation apart from OpenVINO that runs a network, and its name."""
    from importlib.metadata import version

    why = ""
    for opened, package, name in (
        (_by_evaluator, "onnx", "onnx {}, its evaluator in NumPy"),
        (_by_runtime, "onnxruntime", "ONNX Runtime {}, CPU"),
    ):
        if find_spec(package) is None:
            continue
        try:
            run = opened(bare)
            _try(run, interface)
        except Exception as error:  # noqa: BLE001 - whatever it is, this one can't
            why += f"; {package}: {one_line(str(error))[:200]}"
        else:
            return run, name.format(version(package))
    install = "" if find_spec("onnxruntime") else "pip install onnxruntime, or "
    raise ModelError(
        f"{source}: no second computation is at hand to hold it against{why}; {install}export it with another set of"
        " operators"
    )


def _try(run: _Run, interface: Interface) -> None:
    """Raise what a computation raises on a grey picture of every size tried."""
    for side in _TRIED:
        tried = -(-side // interface.multiple_of) * interface.multiple_of
        rows, cols = interface.rows or tried, interface.cols or tried
        sides = (rows, cols, interface.channels) if interface.channels_last else (interface.channels, rows, cols)
        grey = (interface.black + interface.white) / 2
        try:
            run(np.full((1, *sides), grey, np.dtype(interface.dtype)))
        except Exception:
            if side == _TRIED[-1]:
                raise
        else:
            return


def _entrance(bare: Any) -> str:
    stored = {entry.name for entry in bare.graph.initializer}
    (entrance,) = [port.name for port in bare.graph.input if port.name not in stored]
    return str(entrance)


def _by_evaluator(bare: Any) -> _Run:
    from onnx.reference import ReferenceEvaluator

    session, entrance = ReferenceEvaluator(bare), _entrance(bare)

    def run(planes: Floats) -> Floats:
        with np.errstate(all="ignore"):
            made: Any = session.run(None, {entrance: planes})
        first: Floats = made[0]
        return first

    return run


def _by_runtime(bare: Any) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(bare.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entrance = _entrance(bare)

    def run(planes: Floats) -> Floats:
        first: Floats = session.run(None, {entrance: planes})[0]
        return first

    return run
