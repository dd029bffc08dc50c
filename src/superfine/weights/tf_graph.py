"""TensorFlow's frozen graphs (.pb) as they stand in the file, without TensorFlow.

Source: tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import unpack
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.errors import ModelError
from superfine.protobuf import protobuf_fields

__all__ = ["Graph", "Node", "StoredTensor", "printable", "read_tf_pb"]

# An honest graph has some hundred nodes, and lists of some numbers.
_MOST_NODES: Final = 4096
_MOST_PARTS: Final = 64
_MOST_NUMBERS: Final = 4096
# DataType of types.proto -> how `tensor_content` stores it, and the field of values that aren't stored there.
_DTYPES: Final = {1: ("<f4", 5), 3: ("<i4", 7), 9: ("<i8", 10)}


class StoredTensor(NamedTuple):
    """A TensorProto. values: one after the other, as many as are in the file, none of a type that isn't known."""

    dtype: int
    sides: list[int]
    values: npt.NDArray[Any]
    whole: bool
    """All values are meant to be there; else the last stands for those that are missing."""


@dataclass(frozen=True)
class Node:
    """One operation. inputs: names of nodes; attributes: name -> AttrValue, still as protobuf.

    What reads an attribute raises ValueError or IndexError where it is none of that kind, or broken.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, bytes] = field(repr=False)

    def __str__(self) -> str:
        return f"node '{printable(self.name)}' ({printable(self.op)})"

    def number(self, name: str) -> int:
        """A whole number or a truth, 0 by default."""
        return _whole(self._attribute(name).get(3))

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers."""
        return _wholes(_bytes(self._attribute(name).get(1)), 3)

    def real(self, name: str, otherwise: float) -> float:
        """A float."""
        value = self.attributes.get(name, b"")  # field 4, 32 bits: 0x25
        return float(unpack("<f", value[1:5])[0]) if value[:1] == b"\x25" else otherwise

    def text(self, name: str, otherwise: str) -> str:
        """A text that isn't empty."""
        return _bytes(self._attribute(name).get(2)).decode() or otherwise

    def shape(self, name: str) -> list[int]:
        """Sides; -1 where one isn't known, no sides where nothing is."""
        return _sides(_bytes(self._attribute(name).get(7)))

    def tensor(self, name: str) -> StoredTensor:
        """An array; memory is taken for what is in the file, not for what its shape says."""
        message = _bytes(self._attribute(name).get(8))
        fields = dict(protobuf_fields(message))
        dtype, sides, stored = _whole(fields.get(1)), _sides(_bytes(fields.get(2))), _bytes(fields.get(4))
        if dtype not in _DTYPES:
            return StoredTensor(dtype, sides, np.array([]), whole=False)
        kind, place = _DTYPES[dtype]
        if stored or dtype == 1:
            values = np.frombuffer(stored or _bytes(fields.get(place)), kind)
        else:
            values = np.array(_wholes(message, place), np.int64)
        return StoredTensor(dtype, sides, values, bool(stored))

    def _attribute(self, name: str) -> dict[int, int | bytes]:
        """Of an AttrValue: list (1), text (2), whole number (3), float (4), truth (5), shape (7), tensor (8)."""
        return dict(protobuf_fields(self.attributes.get(name, b"")))


@dataclass(frozen=True)
class Graph:
    """A frozen graph as it stands in the file; what its operators mean is not looked at."""

    nodes: Mapping[str, Node] = field(repr=False)
    source: str

    def ends(self) -> list[str]:
        """The nodes that nobody takes from."""
        taken = {name for node in self.nodes.values() for name in node.inputs}
        return [name for name, node in self.nodes.items() if name not in taken and node.op not in ("Const", "NoOp")]

    def end(self) -> str:
        """The one node that nobody takes from. Raises ModelError where there are more, or none."""
        ends = self.ends()
        if len(ends) != 1:
            names = ", ".join(f"'{printable(name)}'" for name in ends[:5]) or "all go round in a circle"
            raise ModelError(
                f"{self.source}: has {len(ends)} ends ({names}) where one is wanted; name the output node with --node"
            )
        return ends[0]

    def in_order(self, end: str) -> list[Node]:
        """What `end` needs, each node after its inputs. Raises ModelError where one is missing, or in a circle."""
        order: dict[str, Node] = {}
        begun: set[str] = set()
        waiting = [(end, False)]
        while waiting:
            name, ready = waiting.pop()
            if ready:
                order[name] = self.nodes[name]
            elif name not in order:
                if name not in self.nodes:
                    wanted = f"wants a node '{printable(name)}', which isn't there"
                    raise ModelError(f"{self.source}: {wanted}; freeze it again")
                if name in begun:
                    raise ModelError(f"{self.source}: {self.nodes[name]} goes round in a circle; freeze it again")
                begun.add(name)
                waiting += [(name, True), *((each, False) for each in reversed(self.nodes[name].inputs))]
        return list(order.values())


def read_tf_pb(content: bytes, source: str) -> Graph:
    """The nodes of a frozen graph. `source` names the file in errors.

    Raises ModelError where the file is none or cut off, has more than 4096 nodes or a name twice.
    """
    nodes: dict[str, Node] = {}
    try:
        for value in (value for number, value in protobuf_fields(content) if number == 1):
            if not isinstance(value, bytes):
                raise ModelError(
                    f"{source}: not a frozen TensorFlow graph; freeze a SavedModel, and leave ONNX as it is"
                )
            node = _node(value)
            if node.name in nodes:
                raise ModelError(f"{source}: has two nodes named '{printable(node.name)}'; freeze the graph again")
            nodes[node.name] = node
            if len(nodes) > _MOST_NODES:
                raise ModelError(f"{source}: has more than {_MOST_NODES} nodes, as no network here; freeze it smaller")
    except (IndexError, ValueError) as error:
        raise ModelError(f"{source}: not a TensorFlow graph, or cut off; get the file again") from error
    if not nodes:
        raise ModelError(f"{source}: has no nodes, so it is no TensorFlow graph or an empty one; get the file again")
    return Graph(nodes, source)


def printable(name: str) -> str:
    """A stranger's name for a sentence: its first 60 letters, in one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


def _node(content: bytes) -> Node:
    name = op = ""
    inputs: list[str] = []
    attributes: dict[str, bytes] = {}
    for number, value in protobuf_fields(content):
        if len(inputs) + len(attributes) > _MOST_PARTS:
            raise ValueError("a node of very many parts")
        match number, value:
            case 1, bytes():
                name = value.decode()
            case 2, bytes():
                op = value.decode()
            case 3, bytes() if not value.startswith(b"^"):  # that says only what runs first
                inputs.append(value.decode().removesuffix(":0"))
            case 5, bytes():
                entry = dict(protobuf_fields(value))
                attributes[_bytes(entry.get(1)).decode()] = _bytes(entry.get(2))
    return Node(name, op, tuple(inputs), attributes)


def _bytes(value: int | bytes | None) -> bytes:
    """A field's content; nothing where it isn't there."""
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value or b""


def _whole(value: int | bytes | None) -> int:
    """An int64: two's complement, 0 where it isn't there."""
    if isinstance(value, bytes):
        raise ValueError("a message where a number was expected")
    bits = (value or 0) & (2**64 - 1)
    return bits - 2**64 if bits >= 2**63 else bits


def _wholes(content: bytes, wanted: int) -> list[int]:
    """A repeated field of int64, packed or not."""
    numbers: list[int] = []
    for number, value in protobuf_fields(content):
        if number == wanted:
            numbers += _packed(value) if isinstance(value, bytes) else [_whole(value)]
    return numbers


def _packed(content: bytes) -> list[int]:
    if len(content) > 10 * _MOST_NUMBERS:
        raise ValueError("a long list of numbers")
    numbers, bits, shift = [], 0, 0
    for byte in content:
        bits |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(_whole(bits))
            bits = shift = 0
        elif shift > 63:
            raise ValueError("a number of more than ten bytes")
    return numbers


def _sides(content: bytes) -> list[int]:
    """Of a TensorShapeProto; -1 where one isn't known."""
    return [
        _whole(dict(protobuf_fields(_bytes(value))).get(1)) for number, value in protobuf_fields(content) if number == 2
    ]
