"""A trained network -> the same with its convolutions in 8 bits. Nothing is learned; some pictures show the ranges.

    python -m superfine.train.quantize fast-x2.onnx --data train/cid22 -o fast-int8-x2.onnx --test Set5=test/Set5/x2

Weights are int8 with a scale for each output, what a convolution takes is uint8 with a scale for the tensor, and
sums are exact. The base and all that isn't a convolution stay in float, so 16 bits survive.
Source: Nagel et al. 2021, arXiv:2106.08295, sections 2 and 3 (ranges of least squared error).
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from superfine.atomic import written_whole
from superfine.classical.resample import matlab_resize
from superfine.color import to_unit
from superfine.errors import TrainingError
from superfine.evaluate.pairs import decode, open_dataset
from superfine.layouts import pictures_in
from superfine.models import Model, read_model, with_card
from superfine.train.export import measured

__all__ = ["quantize"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]

# Of a range, from its whole down to where clipping costs far more than finer levels give.
_SHARES: Final = np.linspace(1, 0.3, 36)
# Enough values of one tensor to choose among shares.
_ENOUGH: Final = 200_000
_PICTURES: Final = 32
_SIDE: Final = 64


class _Levels(NamedTuple):
    """Level q means scale * (q - zero): numbers for q = 0..255, arrays for a weight with levels for each output."""

    scale: Floats
    zero: Array


def quantize(content: bytes, calibration: Iterable[Array]) -> bytes:
    """The ONNX file `content` with its convolutions in 8 bits, as QuantizeLinear and DequantizeLinear around them.

    calibration: small pictures (h, w, 3) of the kind that the network will meet,
    uint8, uint16 or float32 in 0..1; a dozen or two of 64 x 64 are enough. The
    card stays as it is. Raises TrainingError where there is no convolution with
    stored weights, or no picture.
    """
    proto = onnx.ModelProto.FromString(content)
    weights = _weights(proto.graph)
    taken = _taken(proto.graph, weights)
    if not taken:
        raise TrainingError("no convolution with stored weights, so nothing to compute in 8 bits; give another network")
    picture = proto.graph.input[0].name
    # The levels of an 8-bit picture are kept as they are.
    levels = {picture: _unsigned(1 / 255, 0)}
    levels |= {
        name: _levels_of(values) for name, values in _seen(proto, sorted(taken - {picture}), calibration).items()
    }
    _rewrite(proto.graph, levels, weights)
    onnx.checker.check_model(proto)
    quantized: bytes = proto.SerializeToString()
    return quantized


def _weights(graph: onnx.GraphProto) -> dict[str, Floats]:
    """What is stored, by name; weights stored as fp16 by the name of their Cast."""
    stored = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    casts = {
        node.output[0]: stored[node.input[0]].astype(np.float32)
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in stored
    }
    return stored | casts


def _quantizable(node: onnx.NodeProto, weights: Mapping[str, Floats]) -> bool:
    return node.op_type == "Conv" and node.input[1] in weights


def _taken(graph: onnx.GraphProto, weights: Mapping[str, Floats]) -> set[str]:
    """The tensors to hold in 8 bits: what convolutions take, and both sides of a sum that one takes.

    With one side of a sum in float, an engine may or may not round it to bf16
    before it adds, by the shape of the tile: the pieces would differ from the whole.
    """
    taken = {node.input[0] for node in graph.node if _quantizable(node, weights)}
    sums = [node for node in graph.node if node.op_type == "Add" and node.output[0] in taken]
    return taken | {name for node in sums for name in node.input if name not in weights}


def _seen(proto: onnx.ModelProto, names: Sequence[str], calibration: Iterable[Array]) -> dict[str, Floats]:
    """The values that the tensors `names` take on the pictures, computed by onnx's own reference, flat."""
    picture = proto.graph.input[0].name
    part = onnx.ModelProto.FromString(proto.SerializeToString())
    nodes = _needed(part.graph.node, names)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(nodes)
    part.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    reference = ReferenceEvaluator(part)
    seen: list[list[Floats]] = []
    for pixels in calibration:
        planes = to_unit(pixels).transpose(2, 0, 1)[None].copy()  # (1, 3, h, w)
        seen.append([np.ravel(values) for values in reference.run(None, {picture: planes})])
    if not seen:
        raise TrainingError("no picture to see ranges on; give some of the kind that the network will meet")
    return {name: np.concatenate(values) for name, values in zip(names, zip(*seen, strict=True), strict=True)}


def _needed(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of `nodes` that `names` are computed from, in order."""
    wanted, needed = set(names), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            needed.append(node)
    return needed[::-1]


def _levels_of(values: Floats) -> _Levels:
    """The 256 levels, zero among them, that are nearest to `values` in the mean square."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if low == high:
        return _unsigned(1, 0)
    zero = round(-low * 255 / (high - low))
    some = values[:: -(-len(values) // _ENOUGH)]

    def error(scale: float) -> float:
        kept = np.clip(np.rint(some / scale), -zero, 255 - zero) * scale
        return float(np.square(kept - some).mean())

    return _unsigned(min(((high - low) * share / 255 for share in _SHARES), key=error), zero)


def _unsigned(scale: float, zero: int) -> _Levels:
    return _Levels(np.array(scale, np.float32), np.array(zero, np.uint8))


def _weight_levels(weight: Floats) -> _Levels:
    """Levels -127..127 for each output of (outputs, inputs, rows, columns)."""
    largest = np.abs(weight).max((1, 2, 3))
    return _Levels(np.where(largest > 0, largest / 127, 1).astype(np.float32), np.zeros(len(weight), np.int8))


def _rewrite(graph: onnx.GraphProto, levels: Mapping[str, _Levels], weights: Mapping[str, Floats]) -> None:
    """Let convolutions take 8 bits, and drop what nothing uses any more."""
    picture = graph.input[0].name
    nodes: list[onnx.NodeProto] = []
    stored = {entry.name: entry for entry in graph.initializer}
    small: dict[str, str] = {}

    def shrink(name: str, to: _Levels, whole: Array | None = None) -> None:
        """Offer `name` in 8 bits: `whole`, where it is known, else what the network computes."""
        facts = {f"{name}.scale": to.scale, f"{name}.zero": to.zero} | ({} if whole is None else {f"{name}.q": whole})
        stored.update({key: numpy_helper.from_array(value, key) for key, value in facts.items()})
        ends = [f"{name}.scale", f"{name}.zero"]
        if whole is None:
            nodes.append(helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.q"]))
        small[name] = f"{name}.dq"
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [small[name]], axis=0))

    for node in graph.node:
        convolution = _quantizable(node, weights)
        if convolution and picture in node.input and picture not in small:
            shrink(picture, levels[picture])
        if convolution and (kernel := node.input[1]) not in small:
            to = _weight_levels(weights[kernel])
            shrink(kernel, to, np.rint(weights[kernel] / to.scale[:, None, None, None]).astype(np.int8))
        # The base takes the picture itself.
        node.input[:] = [name if name == picture and not convolution else small.get(name, name) for name in node.input]
        nodes.append(node)
        for name in levels.keys() & node.output:
            shrink(name, levels[name])
    nodes = _needed(nodes, [port.name for port in graph.output])  # not the Cast of what was fp16
    wanted = {name for node in nodes for name in node.input}
    constants = [entry for name, entry in stored.items() if name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def _crops(folder: Path, scale: int, hold_out: int) -> Iterator[Array]:
    """The middles of some pictures of `folder`, reduced by `scale`: (64, 64, 3) uint8 at most."""
    sources = pictures_in(folder, scale).sources
    sources = sources[: len(sources) - hold_out]
    for source in sources[:: -(-len(sources) // _PICTURES) or 1]:
        pixels = decode(source.large)
        rows, cols = (min(side // scale, _SIDE) for side in pixels.shape[:2])
        top, left = ((side - kept * scale) // 2 for side, kept in zip(pixels.shape[:2], (rows, cols), strict=True))
        middle = pixels[top : top + rows * scale, left : left + cols * scale]
        yield matlab_resize(np.ascontiguousarray(middle), (rows, cols))


def main(arguments: Sequence[str] | None = None) -> None:
    """The door: a file, pictures for the ranges, pairs to measure on; prints what came of it."""
    parser = argparse.ArgumentParser(prog="python -m superfine.train.quantize", description="A network in 8 bits.")
    parser.add_argument("file", type=Path, help="a network that superfine exported")
    parser.add_argument("--data", type=Path, required=True, help="pictures that show the ranges")
    parser.add_argument("--hold-out", type=int, default=20, help="leave out so many of them, the last by name")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--test", action="append", default=[], metavar="NAME=FOLDER", help="pictures to measure on")
    given = parser.parse_args(arguments)
    model = read_model(given.file)
    card = replace(
        model.card,
        name=given.output.stem,
        net="",
        summary=f"{model.card.name} with its convolutions in 8 bits: quicker, and almost as exact",
    )
    content = quantize(model.content, _crops(given.data, card.scale, given.hold_out))
    was = {}
    named = (test.partition("=") for test in given.test)
    if tests := {name: open_dataset(Path(folder), card.scale) for name, _, folder in named}:
        was, card = measured(model, tests).psnr, measured(Model(card, content, str(given.output)), tests)
    with written_whole(given.output) as part:
        part.write_bytes(with_card(content, card))
    reached = ", ".join(f"{name} {card.psnr[name]:.3f} dB (was {before:.3f})" for name, before in was.items())
    sys.stdout.write(f"{given.output}: {reached or 'not measured'}\n")


if __name__ == "__main__":
    main()
