"""The one joint: an engine turns pixels into larger pixels.

    Engine: scale, halo, multiple_of, frames          facts
            engine(pixels) -> pixels                   (frames, h, w, c) -> (scale*h, scale*w, c)

Pixels are float32 in 0..1, or uint8 or uint16, returned in kind. `frames` is
odd: the pictures in order of time, of which the one in the middle is enlarged;
`still` makes a clip of a picture. An engine keeps no state between calls that a
result could depend on. A network's ONNX file takes (1, 3*frames, h, w), red,
green and blue of the first frame first.
"""

import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import product
from math import prod
from queue import SimpleQueue
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from superfine.classical.resample import KERNELS, matlab_resize, resize
from superfine.color import to_kind, to_unit
from superfine.errors import EngineError, MissingExtraError, ModelError, ShapeError, UsageError
from superfine.models import CLASSICAL, MATLAB, Model, find_model, list_models
from superfine.terminal import one_line
from superfine.tiles import covered

__all__ = [
    "ENGINES",
    "LEAST_SIDE",
    "ClassicalEngine",
    "Engine",
    "NetworkEngine",
    "Precision",
    "check_arrays",
    "cores",
    "cpu_features",
    "engine_state",
    "first_line",
    "load_model",
    "open_engine",
    "read_graph",
    "silent_openvino",
    "still",
]

Array = npt.NDArray[np.generic]
Precision = Literal["auto", "bf16", "fp32"]

#: Tiles of a larger picture are no narrower: up to 50 px oneDNN may choose other convolutions on AMX (`relo_whi` for
#: few channels, `exec_base` without zero padding), which add in another order. They depend on the width alone.
LEAST_SIDE: Final = 64
# Kernels that OpenVINO keeps for shapes it has met.
_SHAPES_KEPT: Final = 256
# Tiles of one shape after which a graph of its own pays: a fifth of a second to make, a quarter quicker to run.
_WORTH_A_GRAPH: Final = 12
# Elements of one array: 1 GiB in fp32. No honest network holds a larger one on a small picture.
_LARGEST_ARRAY: Final = 2**28


class Engine(Protocol):
    """What tiling, evaluation and every door build on."""

    scale: int
    halo: int
    multiple_of: int
    frames: int

    def __call__(self, pixels: Array) -> Array:
        """(frames, h, w, c) -> (scale*h, scale*w, c) of the same dtype."""
        ...


class NetworkEngine(Engine, Protocol):
    """An engine that runs a network: it also says what it runs on."""

    model: Model
    name: str
    """The runtime and the device really in use, with the version."""

    def precision_for(self, dtype: np.dtype[Any]) -> Literal["bf16", "fp32", "int8"]:
        """What the network runs in for pixels of this dtype; int8 where its convolutions are in 8 bits."""
        ...

    def __call__(self, pixels: Array) -> Array:
        """(frames, h, w, 3) -> (scale*h, scale*w, 3) of the same dtype."""
        ...


def still(pixels: Array, frames: int) -> Array:
    """A picture as a clip in which nothing moves, for engines of more than one frame: (h, w, c) -> (frames, h, w, c).

    A view: no frame is copied.
    """
    return np.broadcast_to(pixels, (frames, *pixels.shape))


class ClassicalEngine:
    """Interpolation by a method of `models.CLASSICAL`, any number of channels."""

    def __init__(self, method: str, scale: int) -> None:
        self.scale = scale
        self.halo = int(np.ceil(KERNELS["bicubic" if method == MATLAB else method].radius))
        self.multiple_of = 1
        self.frames = 1
        self._method = method

    def __call__(self, pixels: Array) -> Array:
        if pixels.ndim != 4 or len(pixels) != 1:
            raise ShapeError(f"want (1, h, w, c), got {pixels.shape}; interpolation sees one picture alone")
        size = (pixels.shape[1] * self.scale, pixels.shape[2] * self.scale)
        if self._method == MATLAB:
            return matlab_resize(pixels[0], size)
        return to_kind(resize(to_unit(pixels[0]), size, self._method).astype(np.float32), pixels.dtype)


class OpenVINOEngine:
    """A network on the CPU by OpenVINO: bf16 where the CPU has it natively, else fp32.

    streams: how many calls, from as many threads, are computed at once; they share the cores. More calls take turns.
    """

    def __init__(
        self, model: Model, precision: Precision = "auto", threads: int | None = None, streams: int = 1
    ) -> None:
        ov = silent_openvino()
        self.scale, self.halo = model.card.scale, model.card.halo
        self.multiple_of, self.frames = model.card.multiple_of, model.card.frames
        self.model = model
        native = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and model.card.needs_fp32:
            raise EngineError(f"{model.card.name}: bf16 would change its result visibly; use --precision fp32 or auto")
        if precision == "bf16" and not native:
            raise EngineError("this CPU has no native bf16; use --precision fp32 or auto")
        self.name = f"OpenVINO {ov.__version__.split('-')[0]}, CPU"
        self._streams = streams
        self._threads = max(threads or cores(), streams)
        self._graph = _checked_graph(model)
        self._block = _shuffle_block(self._graph)
        # Where convolutions are in 8 bits already, bf16 would only round what is left, and not alike in every tile.
        self._in_8_bits = any(node.get_type_name() == "FakeQuantize" for node in self._graph.get_ops())
        plain = precision == "fp32" or self._in_8_bits or model.card.needs_fp32
        self.precision = "bf16" if native and not plain else "fp32"
        _check_ports(
            model, [_sides(port) for port in self._graph.inputs], [_sides(port) for port in self._graph.outputs]
        )
        # By dtype and precision: the graph for any shape, the one for a shape of its own, and that shape's streak.
        self._any: dict[tuple[Any, str], _Requests | None] = {}
        self._own: dict[tuple[Any, str], tuple[tuple[int, ...], _Requests]] = {}
        self._streaks: dict[tuple[Any, str], tuple[tuple[int, ...], int]] = {}
        self._lock = threading.Lock()

    def precision_for(self, dtype: np.dtype[Any]) -> Literal["bf16", "fp32", "int8"]:
        return "int8" if self._in_8_bits else self._float_for(dtype)

    def _float_for(self, dtype: np.dtype[Any]) -> Literal["bf16", "fp32"]:
        """fp32 for more than 8 bits where the network has no fp32 end: bf16 would lose their lower half."""
        deep = dtype != np.uint8 and not self.model.card.fp32_end
        return "bf16" if self.precision == "bf16" and not deep else "fp32"

    def __call__(self, pixels: Array) -> Array:
        _check_given(pixels, self)
        if pixels.dtype == np.uint8 and self.model.card.fp32_end:
            output, total = self._infer(pixels, self.precision)
            if not np.isfinite(total) and self.precision != "fp32":
                output, total = self._infer(pixels, "fp32")
            if not np.isfinite(total):
                raise EngineError(_NOT_FINITE.format(self.model.card.name))
            return output
        first = self._float_for(pixels.dtype)
        return _in_kind(self.model, lambda unit, precision: self._infer(unit, precision)[0], pixels, first)

    def _infer(self, pixels: Array, precision: str) -> tuple[Array, float]:
        with self._lock:
            requests = self._requests(pixels.dtype, pixels.shape, precision)
        request = requests.get()
        try:
            return self._infer_by(request, pixels)
        finally:
            requests.put(request)

    def _infer_by(self, request: Any, pixels: Array) -> tuple[Array, float]:
        try:
            request.infer({0: np.ascontiguousarray(pixels)}, share_inputs=True)
        except RuntimeError as error:
            raise _memory_or(error, EngineError(f"{self.model.card.name}: OpenVINO: {first_line(error)}")) from error
        # The output's memory is the request's own and is used again: the caller gets a copy.
        made: Array = request.get_output_tensor(0).data
        if pixels.dtype == np.uint8:
            count, channels, *sides = made.shape
            large = (count, *(side * self._block for side in sides), channels // self._block**2)
            _check_made(self.model, pixels.shape, large)
            return _shuffled(made[0], self._block), float(request.get_output_tensor(1).data)
        _check_made(self.model, pixels.shape, made.shape)
        output: Array = made[0].copy()
        return output, 0.0

    def _requests(self, dtype: np.dtype[Any], shape: tuple[int, ...], precision: str) -> "_Requests":
        """One graph takes any shape; a shape that keeps coming gets one of its own, which gives the same bits."""
        kind = (dtype, precision)
        last, streak = self._streaks.get(kind, (shape, 0))
        streak = streak + 1 if shape == last else 1
        self._streaks[kind] = (shape, streak)
        if kind in self._own and self._own[kind][0] == shape:
            return self._own[kind][1]
        if kind not in self._any:
            self._any[kind] = self._compile(dtype, None, precision)
        if streak < _WORTH_A_GRAPH and (bending := self._any[kind]) is not None:
            return bending
        own = self._compile(dtype, shape, precision)
        if own is None:
            raise ModelError(f"{self.model.source}: OpenVINO can't run it on {shape[1]} x {shape[2]}")
        self._own[kind] = (shape, own)
        return own

    def _compile(self, dtype: np.dtype[Any], shape: tuple[int, ...] | None, precision: str) -> "_Requests | None":
        """Requests for one shape, or for any, one for each stream; None where the network doesn't bend to it."""
        hints = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": self._streams,
            "CPU_RUNTIME_CACHE_CAPACITY": _SHAPES_KEPT,
        }
        try:
            graph = _around(self._graph.clone(), dtype, self.frames, shape)
            compiled = _core().compile_model(graph, "CPU", hints)
            requests = _Requests()
            for _ in range(self._streams):
                requests.put(compiled.create_infer_request())
            return requests
        except RuntimeError as error:
            if isinstance(failure := _memory_or(error, error), MemoryError):
                raise failure from error
            return None


class _Requests(SimpleQueue[Any]):
    """Those of one graph that are free. They own their memory, so one is used by one call at a time."""


class OnnxRuntimeEngine:
    """A network by ONNX Runtime in fp32: GPUs, and CPUs where OpenVINO isn't wanted."""

    def __init__(self, model: Model, provider: str, precision: Precision = "auto", threads: int | None = None) -> None:
        if precision == "bf16":
            raise EngineError("ONNX Runtime runs in fp32 here; use --precision fp32 or auto, or --engine openvino")
        runtime = _onnxruntime(provider)
        self.scale, self.halo = model.card.scale, model.card.halo
        self.multiple_of, self.frames = model.card.multiple_of, model.card.frames
        self.model = model
        if provider not in runtime.get_available_providers():
            have = ", ".join(runtime.get_available_providers())
            raise EngineError(f"ONNX Runtime has no {provider} here, only {have}; use --engine openvino")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3
        _checked_graph(model)
        try:
            self._session = runtime.InferenceSession(model.content, options, providers=[provider])
        except Exception as error:
            raise ModelError(f"{model.source}: ONNX Runtime can't load it: {first_line(error)}") from error
        if self._session.get_providers()[0] != provider:
            raise EngineError(f"ONNX Runtime fell back from {provider} to {self._session.get_providers()[0]}")
        self.name = f"ONNX Runtime {runtime.__version__}, {provider.removesuffix('ExecutionProvider')}"
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        sides = [
            [[side if isinstance(side, int) else None for side in port.shape] for port in ports]
            for ports in (inputs, outputs)
        ]
        _check_ports(model, *sides)
        self._input = inputs[0].name

    def precision_for(self, dtype: np.dtype[Any]) -> Literal["bf16", "fp32", "int8"]:  # noqa: ARG002 - the protocol's
        return "int8" if b"QuantizeLinear" in self.model.content else "fp32"

    def __call__(self, pixels: Array) -> Array:
        _check_given(pixels, self)
        return _in_kind(self.model, lambda unit, precision: self._infer(unit), pixels, "fp32")

    def _infer(self, unit: npt.NDArray[np.float32]) -> Array:
        planes = np.ascontiguousarray(unit.transpose(0, 3, 1, 2))  # (frames, 3, h, w)
        planes = planes.reshape(1, -1, *planes.shape[2:])
        try:
            output: Array = self._session.run(None, {self._input: planes})[0]
        except Exception as error:
            raise _memory_or(
                error, EngineError(f"{self.model.card.name}: ONNX Runtime: {first_line(error)}")
            ) from error
        enlarged = np.ascontiguousarray(output.transpose(0, 2, 3, 1))  # (1, scale*h, scale*w, 3)
        _check_made(self.model, unit.shape, enlarged.shape)
        result: Array = enlarged[0]
        return result


class FixedSizeEngine:
    """A network that takes one size, as an engine for any: overlapping pieces, smaller ones padded by their edge.

    Where the size leaves room for it, pieces overlap by the halo on both sides of their seams.
    """

    def __init__(self, inner: NetworkEngine) -> None:
        card = inner.model.card
        self.scale, self.halo, self.multiple_of, self.frames = card.scale, card.halo, card.multiple_of, card.frames
        self.model, self.name = inner.model, inner.name
        self._inner = inner

    def precision_for(self, dtype: np.dtype[Any]) -> Literal["bf16", "fp32", "int8"]:
        return self._inner.precision_for(dtype)

    def __call__(self, pixels: Array) -> Array:
        _check_given(pixels, self)
        sides = self.model.card.rows, self.model.card.cols
        return covered(pixels, sides, self.scale, 2 * self.halo, self._inner)


#: --engine -> ONNX Runtime's name of the device; OpenVINO has none.
ENGINES: dict[str, str | None] = {
    "openvino": None,
    "onnxruntime": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


def open_engine(
    model: Model,
    engine: str = "openvino",
    precision: Precision = "auto",
    threads: int | None = None,
    *,
    streams: int = 1,
) -> NetworkEngine:
    """Run a model on an engine of `ENGINES`.

    streams: how many threads will call it at once, as with the frames of a video: that is quicker than all cores on
    one frame, and takes as many times the memory. ONNX Runtime needs no such word.
    Raises EngineError where the wish can't be met (nothing else is taken instead),
    MissingExtraError without ONNX Runtime, ModelError where the file can't be run.
    """
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    if precision not in get_args(Precision):
        raise UsageError(f"no precision {precision!r}; there are {', '.join(get_args(Precision))}")
    provider = ENGINES[engine]
    opened: NetworkEngine
    if provider is None:
        opened = OpenVINOEngine(model, precision, threads, streams)
    else:
        opened = OnnxRuntimeEngine(model, provider, precision, threads)
    return FixedSizeEngine(opened) if model.card.rows else opened


def load_model(name: str, scale: int = 2, *, engine: str = "openvino", precision: Precision = "auto") -> Engine:
    """An engine by the name of its model: a shipped network, an .onnx file with a card, or a classical method.

    The engine takes (frames, h, w, 3) uint8, uint16 or float32 (0..1), and returns
    (scale*h, scale*w, 3) in kind; its `frames` is 1 but for video networks. Raises
    ModelError where there is none for this scale.
    """
    if name in CLASSICAL:
        return ClassicalEngine(name, scale)
    found = {model.card.scale: model for model in find_model(name)}
    if scale not in found:
        raise ModelError(f"{name!r} enlarges x{', x'.join(map(str, sorted(found)))}, not x{scale}")
    return open_engine(found[scale], engine, precision)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_features() -> dict[str, str]:
    """What the CPU is called and what OpenVINO can use of it."""
    core = _core()
    return {
        "name": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
        "native precisions": ", ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
    }


def engine_state(name: str) -> str:
    """Whether an engine of `ENGINES` can be used here, and if not, what to do."""
    provider = ENGINES[name]
    if provider is None:
        return "ready"
    try:
        available = _onnxruntime(provider).get_available_providers()
    except MissingExtraError as error:
        return str(error)
    return "ready" if provider in available else f"not offered by this build of ONNX Runtime ({provider})"


_NOT_FINITE: Final = "{}: gave NaN or infinity, in fp32 too; the picture was not written"


def _in_kind(
    model: Model,
    infer: Callable[[npt.NDArray[np.float32], str], Array],
    pixels: Array,
    first: Literal["bf16", "fp32"],
) -> Array:
    """Run on float32 and come back to the kind of `pixels`; once more in fp32 where the result isn't finite."""
    unit = to_unit(pixels)
    for precision in dict.fromkeys((first, "fp32")):
        output = infer(unit, precision).astype(np.float32, copy=False)
        if np.isfinite(output).all():
            return to_kind(output, pixels.dtype)
    raise EngineError(_NOT_FINITE.format(model.card.name))


def read_graph(content: bytes, source: str) -> Any:
    """OpenVINO's graph of an ONNX file. Raises ModelError where it can't read it, and names operators it lacks."""
    try:
        return _core().read_model(content, b"")
    except RuntimeError as error:
        lacking = re.search(r"No conversion rule found for operations: (.+)", str(error))
        if lacking is None:
            raise ModelError(f"{source}: OpenVINO can't read it: {one_line(first_line(error))}") from error
        raise ModelError(
            f"{source}: OpenVINO doesn't know its operator {one_line(lacking[1].strip())[:200]} (name-set); export it"
            " with another set of operators (opset_version), or without this one"
        ) from error


def check_arrays(graph: Any, source: str, given: str = "") -> None:
    """Raise ModelError where one of OpenVINO's graph makes an array of more than 2^28 elements, by the known shapes.

    given: what it makes it of, for the message.
    """
    for node in graph.get_ops():
        for output in node.outputs():
            shape = output.get_partial_shape()
            if shape.is_static and prod(shape.to_shape()) > _LARGEST_ARRAY:
                name = one_line(node.get_friendly_name())[:60]
                raise ModelError(f"{source}: {name!r} makes {shape}{given}; such arrays are refused")


def _checked_graph(model: Model) -> Any:
    """A model's graph; of a file that isn't ours it is known that it doesn't take memory beyond measure."""
    graph = read_graph(model.content, model.source)
    if any(model is shipped for shipped in list_models()):
        return graph
    check_arrays(graph, model.source)
    if len(graph.inputs) == 1 and not model.card.rows:
        side = -(-LEAST_SIDE // model.card.multiple_of) * model.card.multiple_of
        small = graph.clone()
        with suppress(RuntimeError):  # a size that it doesn't take is found when it gets one
            small.reshape({0: [1, 3 * model.card.frames, side, side]})
            check_arrays(small, model.source, f" of {(side, side)}")
    return graph


def _check_ports(model: Model, inputs: list[list[int | None]], outputs: list[list[int | None]]) -> None:
    """One clip in, (N, 3*frames, h, w), one picture out, (N, 3, h, w); a side that isn't fixed is None."""
    if len(inputs) != 1 or len(outputs) != 1:
        ports = f"{len(inputs)} inputs and {len(outputs)} outputs"
        raise ModelError(f"{model.source}: has {ports}; superfine runs networks with one of each")
    frames = model.card.frames
    for port, sides, channels in (("input", inputs[0], 3 * frames), ("output", outputs[0], 3)):
        if len(sides) != 4 or sides[1] not in (channels, None):
            shape = ", ".join("?" if side is None else str(side) for side in sides)
            wanted = f"(N, {channels}, h, w)" + (f" for the {frames} frames of its card" if channels > 3 else "")
            raise ModelError(f"{model.source}: its {port} is ({shape}); superfine runs networks on {wanted}")


def _check_given(pixels: Array, engine: "NetworkEngine") -> None:
    frames, grid = engine.frames, engine.multiple_of
    if pixels.ndim != 4 or pixels.shape[0] != frames or pixels.shape[3] != 3 or 0 in pixels.shape:
        cure = "`engine.still` makes a clip of a picture, " if frames > 1 else ""
        cure += "`channels.for_channels` takes grey and alpha"
        raise ShapeError(f"want ({frames}, h, w, 3), got {pixels.shape}; {cure}")
    # Off its grid a network may make nothing at all, and OpenVINO crash at the next such call.
    if engine.model.card.rows == 0 and (pixels.shape[1] % grid or pixels.shape[2] % grid):
        raise ShapeError(
            f"{engine.model.card.name}: want sides that are multiples of {grid}, got {pixels.shape[1]} x "
            f"{pixels.shape[2]}; `upscale` takes any, or pad by the edge"
        )


def _check_made(model: Model, given: tuple[int, ...], made: tuple[int, ...]) -> None:
    """given: (frames, h, w, 3), made: (1, rows, cols, channels). Raises ModelError where the card is wrong."""
    scale = model.card.scale
    if made != (1, given[1] * scale, given[2] * scale, 3):
        wrong = f"makes {made[1:]} of {given[1:]}, which is not the x{scale} of its card"
        raise ModelError(f"{model.source}: {wrong}; export it again with the right card")


def _sides(port: Any) -> list[int | None]:
    shape = port.get_partial_shape()
    return [] if shape.rank.is_dynamic else [None if side.is_dynamic else side.get_length() for side in shape]


def _around(graph: Any, dtype: np.dtype[Any], frames: int, shape: tuple[int, ...] | None) -> Any:
    """The network for one shape or any, from (frames, h, w, 3) pixels in kind to (1, S*h, S*w, 3).

    uint8 becomes uint8 levels as they are before the pixel shuffle, (1, 3*block*block, h, w): NumPy shuffles them five
    times as fast. A second output is the sum of all that becomes levels, which is finite only where all of it is.
    """
    ov = silent_openvino()
    from openvino import opset13 as op

    rows, cols = (-1, -1) if shape is None else shape[1:3]
    graph.reshape({0: [1, 3 * frames, rows, cols]})
    _add_once(op, graph)
    old = graph.get_parameters()[0]
    new = op.parameter([frames, rows, cols, 3], ov.Type(dtype))
    unit = new
    if dtype == np.uint8:
        unit = op.multiply(op.convert(new, "f32"), op.constant(np.float32(1 / 255)))
    planes = op.transpose(unit, op.constant(np.array([0, 3, 1, 2])))  # (frames, 3, h, w)
    if frames > 1:
        planes = op.reshape(planes, op.constant(np.array([1, 3 * frames, 0, 0])), True)
    old.output(0).replace(planes.output(0))
    last = graph.get_results()[0].input_value(0)
    if dtype != np.uint8:
        return ov.Model([op.result(op.transpose(last, op.constant(np.array([0, 2, 3, 1]))))], [new])
    unit = last.get_node().input_value(0) if _shuffle_block(graph) > 1 else last
    total = op.reduce_sum(unit, op.constant(np.array([0, 1, 2, 3])), False)
    return ov.Model([op.result(_levels(op, unit)), op.result(total)], [new])


def _add_once(op: Any, graph: Any) -> None:
    """Where some planes are repeated to be added to others, as luma to three channels: add them by broadcasting.

    The same sums without the copies, which OpenVINO makes slowly.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Concat" or node.get_attributes()["axis"] != 1:
            continue
        repeated, times = node.input_value(0), len(node.inputs())
        readers = list(node.output(0).get_target_inputs())
        alike = all(port.get_source_output() == repeated for port in node.inputs())
        if not alike or len(readers) != 1 or readers[0].get_node().get_type_name() != "Add":
            continue
        total = readers[0].get_node()
        other = total.input_value(1 - readers[0].get_index())
        few, many = (list(port.get_partial_shape()) for port in (repeated, other))
        # Else the sum broadcasts by itself, or isn't of planes.
        if len(few) != 4 or few[0] != 1 or few[1].is_dynamic or list(node.get_output_partial_shape(0)) != many:
            continue
        added = op.add(_in_groups(op, other, times), _in_groups(op, repeated, 1))
        total.output(0).replace(_in_groups(op, added, many[1].get_length()).output(0))


def _in_groups(op: Any, planes: Any, groups: int) -> Any:
    """(1, c, h, w) -> (1, groups, c/groups*h, w); with as many groups as there are planes it is the way back."""
    return op.reshape(planes, op.constant(np.array([1, groups, -1, 0])), True)


def _shuffle_block(graph: Any) -> int:
    """The side of the blocks of a pixel shuffle that ends the network; 1 where none does."""
    node = graph.get_results()[0].input_value(0).get_node()
    if node.get_type_name() != "DepthToSpace" or node.get_attributes()["mode"] != "depth_first":
        return 1
    block: int = node.get_attributes()["block_size"]
    return block


def _shuffled(levels: Array, block: int) -> Array:
    """Pixel shuffle and transpose in one pass: (c*block*block, h, w) -> (block*h, block*w, c)."""
    rows, cols = levels.shape[1:]
    parts = levels.reshape(-1, block, block, rows, cols)
    channels = len(parts)
    large = np.empty((rows, block, cols, block, channels), levels.dtype)
    for channel, down, right in product(range(channels), range(block), range(block)):
        large[:, down, :, right, channel] = parts[channel, down, right]
    return large.reshape(rows * block, cols * block, channels)


def _levels(op: Any, unit: Any) -> Any:
    scaled = op.clamp(op.multiply(unit, op.constant(np.float32(255))), 0.0, 255.0)
    return op.convert(op.round(scaled, "half_to_even"), "u8")


@cache
def _core() -> Any:
    return silent_openvino().Core()


@cache
def silent_openvino() -> Any:
    """The module openvino, imported without a word to its maker."""
    # Importing it tells so, over the network, where this package is there; without it, it stays silent.
    kept = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if kept is not None:
            sys.modules["openvino_telemetry"] = kept
    return openvino


def _onnxruntime(provider: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(f"ONNX Runtime ({provider})", "gpu") from error
    return onnxruntime


def _memory_or(error: BaseException, other: Exception) -> BaseException:
    """Whatever a runtime calls it, out of memory is MemoryError, so that the tile is halved."""
    text = str(error).lower()
    short = any(
        word in text for word in ("bad_alloc", "bad alloc", "out of memory", "failed to allocate", "could not allocate")
    )
    return MemoryError(first_line(error)) if short else other


def first_line(error: BaseException) -> str:
    """What a runtime's error says, without its trace of source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
