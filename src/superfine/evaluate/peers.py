"""Strangers' super-resolvers as methods to judge: OpenCV's dnn_superres, and ONNX networks without a card.

A stranger's network is run as its maker runs it, or not at all: what the file doesn't say (the order of its colours,
the range of its values) is given by the caller or found by a test whose figures stand in the notes.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import inf, prod
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from superfine.classical.leaves import dead_leaves
from superfine.classical.resample import matlab_resize, resize
from superfine.color import full_luma, to_kind, to_unit
from superfine.engine import check_arrays, cores, first_line, read_graph, silent_openvino
from superfine.errors import EngineError, MissingExtraError, ModelError, ShapeError, UsageError
from superfine.evaluate.metrics import psnr
from superfine.models import read_file
from superfine.tiles import covered
from superfine.weights.onnx_file import Colour, Interface, check_onnx

__all__ = ["ALGORITHMS", "SPANS", "Colour", "Peer", "ValueRange", "find_interface", "open_foreign_onnx", "open_opencv"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
ValueRange = Literal["0..1", "0..255", "-1..1"]

#: What OpenCV's dnn_superres can run.
ALGORITHMS: Final = ("edsr", "espcn", "fsrcnn", "lapsrn")
#: A range of values -> black and white in it.
SPANS: Final[dict[ValueRange, tuple[float, float]]] = {"0..1": (0, 1), "0..255": (0, 255), "-1..1": (-1, 1)}

# By OpenVINO's names: its own numpy types take bfloat16 for float16.
_INPUTS: Final[dict[str, np.dtype[Any]]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "u8": np.dtype(np.uint8),
}
_MULTIPLES: Final = (1, 2, 4, 8, 16, 32, 64)
_OVERLAP: Final = 16
# dB by which a range has to win, and an order of colours: networks lean to the wrong one by up to 0.6.
_CLEAR: Final = 1.0
_CLEAR_ORDER: Final = 2.0
# dB from which on two outputs are one, a quarter of a level; and below bicubic at which a picture isn't given back.
_ALIKE: Final = 60.0
_LOST: Final = 10.0
_TEST_SIZE: Final = (72, 112)


@dataclass(kw_only=True)
class Peer:
    """A stranger's network as an `evaluate.methods.Method`."""

    name: str
    scale: int
    engine: str
    precision: str
    sha256: str
    parameters: int
    file_bytes: int
    notes: tuple[str, ...]
    enlarge: Callable[[Bytes], Bytes]

    def __call__(self, pixels: Bytes) -> Bytes:
        """(h, w, 3) uint8 RGB -> (scale*h, scale*w, 3) uint8 RGB. Raises EngineError where it fails on the way."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ShapeError(f"want (h, w, 3) uint8, got {pixels.shape} {pixels.dtype}")
        return self.enlarge(pixels)


# ---- OpenCV


def open_opencv(path: Path, scale: int) -> Peer:
    """A frozen TensorFlow graph, run by OpenCV's own dnn_superres: YCrCb, Y by the network, chroma bilinear.

    The algorithm and the scale stand in the file's name, as OpenCV's users have them: FSRCNN_x2.pb,
    ESPCN_x3.pb, FSRCNN-small_x4.pb. Raises MissingExtraError without OpenCV or where it is built without
    dnn_superres, ModelError where the name lacks either, is of another scale, or OpenCV can't run the file.
    """
    named = re.fullmatch(rf"({'|'.join(ALGORITHMS)})(?:-\w+)?_x(\d+)", path.stem, re.IGNORECASE)
    if named is None:
        known = ", ".join(ALGORITHMS)
        raise ModelError(f"{path}: its name doesn't say what it is; rename it, as FSRCNN_x2.pb ({known})")
    if int(named[2]) != scale:
        raise ModelError(f"{path}: enlarges x{int(named[2])} by its name, not x{scale}; give the file for x{scale}")
    content = read_file(path)
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("OpenCV's dnn_superres", "peers") from error
    if not hasattr(cv2, "dnn_superres"):
        # Plain OpenCV lies in the way of the one with the contributed modules.
        raise MissingExtraError("OpenCV is here without its dnn_superres, which", "peers")
    network = cv2.dnn_superres.DnnSuperResImpl.create()

    def upsample(pixels: Bytes) -> Bytes:
        large: Bytes = network.upsample(np.ascontiguousarray(pixels[..., ::-1]))
        return np.ascontiguousarray(large[..., ::-1])

    def enlarge(pixels: Bytes) -> Bytes:
        try:
            return upsample(pixels)
        except cv2.error as error:
            raise EngineError(f"{path}: OpenCV on {pixels.shape[:2]}: {error.err}") from error

    try:
        network.readModel(str(path))
        network.setModel(named[1].lower(), scale)
        made = upsample(np.full((16, 20, 3), 128, np.uint8)).shape
    except cv2.error as error:
        runtime = f"OpenCV {cv2.__version__}"
        raise ModelError(f"{path}: {runtime} can't run it as {named[1].upper()}: {error.err}") from error
    if made != (16 * scale, 20 * scale, 3):
        raise ModelError(f"{path}: makes {made} of (16, 20, 3), which is not the x{scale} of its name")
    return Peer(
        name=path.stem,
        scale=scale,
        engine=f"OpenCV {cv2.__version__} dnn",
        precision="fp32",
        sha256=hashlib.sha256(content).hexdigest(),
        parameters=0,
        file_bytes=len(content),
        notes=(f"Y by the network, chroma bilinear, as dnn_superres does it; {cv2.getNumThreads()} threads",),
        enlarge=enlarge,
    )


# ---- ONNX


class Convention(NamedTuple):
    """How a network wants its pixels, and gives them."""

    colour: Colour
    span: ValueRange

    def __str__(self) -> str:
        return f"{self.colour} {self.span}"


def open_foreign_onnx(path: Path, scale: int, *, colour: Colour | None = None, span: ValueRange | None = None) -> Peer:
    """An ONNX network of an unknown maker, by OpenVINO in fp32.

    Its input is (N, C, h, w) or (N, h, w, C) with 1 or 3 channels, its output `scale` times larger. A network of one
    channel gets Y of BT.601 full range, unrounded, and chroma goes by bicubic. A fixed input is filled by tiles
    that overlap, any other gets the whole picture, padded to the multiple that it needs.

    colour, span: the order of its channels and its range of values, in and out; None finds them by a test: a
    made picture, reduced by MATLAB's bicubic, goes through in every convention. One is found where it comes
    nearest to the large picture and, reduced again, to the small one, by 1 dB in one of them (RGB or BGR: 2 dB),
    ahead of all whose outputs differ. RGB or BGR can seldom be found: most networks treat channels nearly alike.

    Raises UsageError where the test can't tell, or the network has other channels than `colour`; ModelError
    where the file is no ONNX file of one input and one output, keeps weights elsewhere, or is of another scale.
    """
    _check_wishes(colour, span)
    content = read_file(path)
    network = _Network(content, str(path), scale)
    convention, found = _convention(network, colour, span)

    def enlarge(pixels: Bytes) -> Bytes:
        large = _enlarge(network, convention, to_unit(pixels))
        if not np.isfinite(large).all():
            raise EngineError(f"{path}: gave NaN or infinity on a picture of {pixels.shape[:2]}; leave it out")
        return np.asarray(to_kind(large, pixels.dtype), np.uint8)

    return Peer(
        name=path.stem,
        scale=scale,
        engine=f"OpenVINO {silent_openvino().__version__.split('-')[0]}, CPU",
        precision=network.precision,
        sha256=hashlib.sha256(content).hexdigest(),
        parameters=network.parameters,
        file_bytes=len(content),
        notes=(found, *network.notes),
        enlarge=enlarge,
    )


def find_interface(
    content: bytes, source: str, *, colour: Colour | None = None, span: ValueRange | None = None
) -> Interface:
    """How an ONNX network of an unknown maker takes and gives a picture; `source` names it in errors.

    colour, span, and the errors: as in `open_foreign_onnx`; the scale is found.
    """
    _check_wishes(colour, span)
    network = _Network(content, source)
    convention, found = _convention(network, colour, span)
    black, white = SPANS[convention.span]
    return Interface(
        channels=network.channels,
        channels_last=network.channels_last,
        rows=network.sides[0],
        cols=network.sides[1],
        dtype=network.dtype.name,  # type: ignore[arg-type]
        scale=network.scale,
        multiple_of=network.multiple,
        colour=convention.colour,
        black=black,
        white=white,
        parameters=network.parameters,
        how=found,
    )


def _check_wishes(colour: Colour | None, span: ValueRange | None) -> None:
    if colour not in (None, *get_args(Colour)):
        raise UsageError(f"no colour {colour!r}; there are {', '.join(get_args(Colour))}")
    if span not in (None, *SPANS):
        raise UsageError(f"no range {span!r}; there are {', '.join(SPANS)}")


class _Network:
    """A checked network: (h, w, C) -> (scale*h, scale*w, C), float32 in its own order and range, for any h and w."""

    def __init__(self, content: bytes, source: str, scale: int | None = None) -> None:
        check_onnx(content, source)
        self.source = source
        graph = read_graph(content, source)
        check_arrays(graph, source)
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            ports = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
            raise ModelError(f"{source}: has {ports}; networks with one of each can be used")
        self.channels, self.channels_last, self.sides = _layout(graph.inputs[0], source)
        kind = graph.inputs[0].get_element_type().get_type_name()
        if kind not in _INPUTS:
            raise ModelError(f"{source}: takes {kind}; networks on {', '.join(_INPUTS)} can be used")
        self.dtype = _INPUTS[kind]
        self.scale = self._scale_of(graph) if scale is None else scale
        self.multiple = self._fitting(graph)
        constants = [node for node in graph.get_ops() if node.get_type_name() == "Constant"]
        kinds = [node.get_element_type() for node in constants]
        weights = [node for node, kind in zip(constants, kinds, strict=True) if kind.is_real() or kind.bitwidth <= 8]
        self.parameters = sum(prod(node.get_output_shape(0)) for node in weights)
        in_8_bits = any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())
        self.precision = "int8" if in_8_bits else "fp32"
        hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores()}
        try:
            graph.reshape({0: self._shape(*(side or -1 for side in self.sides))})
            self._compiled = silent_openvino().Core().compile_model(graph, "CPU", hints)
        except RuntimeError as error:
            raise ModelError(f"{source}: OpenVINO can't run it: {first_line(error)}") from error

    @property
    def notes(self) -> tuple[str, ...]:
        if any(self.sides):
            sides = " x ".join("any" if side is None else str(side) for side in self.sides)
            return (f"fixed input of {sides}: in tiles that overlap by up to {_OVERLAP} px, their seams not exact",)
        return (f"padded to multiples of {self.multiple} px",) if self.multiple > 1 else ()

    def __call__(self, values: Floats) -> Floats:
        rows, cols = values.shape[:2]
        tall, wide = (
            side or -(-size // self.multiple) * self.multiple
            for side, size in zip(self.sides, (rows, cols), strict=True)
        )
        overlap = min(_OVERLAP, tall // 4, wide // 4)
        return covered(values, (tall, wide), self.scale, overlap, self._infer).astype(np.float32, copy=False)

    def _infer(self, values: npt.NDArray[np.generic]) -> Floats:
        given = np.rint(values) if self.dtype == np.uint8 else values
        planes = (given if self.channels_last else given.transpose(2, 0, 1))[None]
        try:
            request = self._compiled.create_infer_request()
            request.infer({0: np.ascontiguousarray(planes, self.dtype)})
        except RuntimeError as error:
            raise EngineError(f"{self.source}: OpenVINO on {values.shape[:2]}: {first_line(error)}") from error
        made: Floats = request.get_output_tensor(0).data.astype(np.float32)
        self._check_made(values.shape[:2], made.shape)
        part: Floats = made[0]
        return part if self.channels_last else part.transpose(1, 2, 0)

    def _shape(self, rows: int, cols: int) -> list[int]:
        return [1, rows, cols, self.channels] if self.channels_last else [1, self.channels, rows, cols]

    def _check_made(self, size: tuple[int, ...], made: tuple[int, ...]) -> None:
        if list(made) == self._shape(size[0] * self.scale, size[1] * self.scale):
            return
        rows, cols = (made[1], made[2]) if self.channels_last else made[-2:]
        if list(made) == self._shape(rows, cols) and rows % size[0] == 0 and rows * size[1] == cols * size[0]:
            raise ModelError(
                f"{self.source}: enlarges x{rows // size[0]}, not x{self.scale}; give one for x{self.scale}"
            )
        given = tuple(self._shape(size[0], size[1]))
        raise ModelError(
            f"{self.source}: makes {tuple(made)} of {given}; networks that enlarge x{self.scale} are wanted"
        )

    def _fitting(self, graph: Any) -> int:
        """The least multiple whose sizes the network takes and enlarges as it should, by its shapes alone: not run."""
        for multiple in _MULTIPLES:
            rows, cols = (side or free + multiple for side, free in zip(self.sides, (64, 128), strict=True))
            try:
                self._check_size(graph.clone(), rows, cols)
            except ModelError:
                if multiple == _MULTIPLES[-1] or all(self.sides):
                    raise
            else:
                break
        return multiple

    def _scale_of(self, graph: Any) -> int:
        """How much larger its output is, by the shapes of the first size that it enlarges evenly."""
        for multiple in _MULTIPLES:
            rows, cols = (side or free + multiple for side, free in zip(self.sides, (64, 128), strict=True))
            trial = graph.clone()
            with suppress(RuntimeError):  # a multiple that it doesn't take
                trial.reshape({0: self._shape(rows, cols)})
                made = trial.outputs[0].get_partial_shape()
                if not made.is_dynamic and made.rank.get_length() == 4:
                    sides = made.to_shape()[1:3] if self.channels_last else made.to_shape()[2:]
                    scale = sides[0] // rows
                    if scale >= 1 and list(sides) == [rows * scale, cols * scale]:
                        return int(scale)
        raise ModelError(
            f"{self.source}: makes no picture that is a whole number of times as large; export one that does"
        )

    def _check_size(self, graph: Any, rows: int, cols: int) -> None:
        try:
            graph.reshape({0: self._shape(rows, cols)})
        except RuntimeError as error:
            raise ModelError(f"{self.source}: OpenVINO on {(rows, cols)}: {first_line(error)}") from error
        check_arrays(graph, self.source, f" of {(rows, cols)}")
        made = graph.outputs[0].get_partial_shape()
        if made.is_dynamic or made.rank.get_length() != 4:
            raise ModelError(f"{self.source}: its output is {made} for an input of {(rows, cols)}, not a picture")
        self._check_made((rows, cols), tuple(made.to_shape()))


def _layout(port: Any, source: str) -> tuple[int, bool, tuple[int | None, int | None]]:
    """Of an input: its channels, whether they come last, and the sides that are fixed."""
    shape = port.get_partial_shape()
    known = not shape.rank.is_dynamic
    sides: list[Any] = [None if side.is_dynamic else side.get_length() for side in shape] if known else []
    if len(sides) == 4 and sides[0] in (1, None):
        first, last = sides[1] in (1, 3), sides[3] in (1, 3)
        if first != last:
            channels, fixed = (sides[3], (sides[1], sides[2])) if last else (sides[1], (sides[2], sides[3]))
            return channels, last, fixed
    raise ModelError(
        f"{source}: its input is {shape}; (1, C, h, w) or (1, h, w, C) with C = 1 or 3 can be used: export it so"
    )


# ---- colour and range


def _enlarge(network: _Network, convention: Convention, unit: Floats) -> Floats:
    """(h, w, 3) in 0..1 -> (scale*h, scale*w, 3), as the network gives it: neither clipped nor rounded."""
    black, white = SPANS[convention.span]

    def through(values: Floats) -> Floats:
        large: Floats = (network(values * (white - black) + black) - black) / (white - black)
        return large

    if convention.colour == "bgr":
        return through(unit[..., ::-1])[..., ::-1]
    if convention.colour == "rgb":
        return through(unit)
    size = (unit.shape[0] * network.scale, unit.shape[1] * network.scale)
    luma = full_luma(unit)[..., None].astype(np.float32)
    # In RGB, Y by the network and chroma by bicubic is bicubic and one residual for R, G and B.
    both = resize(unit, size) + (through(luma) - resize(luma, size))
    return np.asarray(both, np.float32)


def _convention(network: _Network, colour: Colour | None, span: ValueRange | None) -> tuple[Convention, str]:
    """The convention as given or as found, and the note that says how."""
    colours: tuple[Colour, ...] = ("y",) if network.channels == 1 else ("rgb", "bgr")
    spans: tuple[ValueRange, ...] = ("0..255",) if network.dtype == np.uint8 else tuple(SPANS)
    if colour is not None and colour not in colours:
        takes = f"takes {network.channels} channel(s), so its colour is {' or '.join(colours)}"
        raise UsageError(f"{network.source}: {takes}, not {colour}; change --foreign-colour")
    if span is not None and span not in spans:
        raise UsageError(f"{network.source}: takes uint8, so its range is 0..255, not {span}; change --foreign-range")
    candidates = [Convention(*both) for both in product((colour,) if colour else colours, (span,) if span else spans)]
    if len(candidates) == 1:
        how = "as given or as its input says"
        return candidates[0], f"colour {candidates[0].colour}, range {candidates[0].span}: {how}"
    return _found(network, candidates)


class _Trial(NamedTuple):
    convention: Convention
    large: Floats
    nearness: tuple[float, float]
    """dB against the large picture, and of the result reduced again against the small one."""

    def __str__(self) -> str:
        return f"{self.convention} {self.nearness[0]:.2f} and {self.nearness[1]:.2f}"

    def beats(self, other: "_Trial") -> bool:
        leads = [mine - theirs for mine, theirs in zip(self.nearness, other.nearness, strict=True)]
        clear = _CLEAR_ORDER if self.convention.span == other.convention.span else _CLEAR
        return min(leads) > 0 and max(leads) >= clear


def _found(network: _Network, candidates: list[Convention]) -> tuple[Convention, str]:
    """The convention in which a known large picture comes back best from its reduction.

    Nearness to the bicubic enlargement would be the wrong measure: a network driven out of its range often falls
    back to just that. Raises UsageError where none is ahead.
    """
    target = dead_leaves((_TEST_SIZE[0] * network.scale, _TEST_SIZE[1] * network.scale))
    small = matlab_resize(target, _TEST_SIZE)
    bicubic = psnr(np.clip(resize(to_unit(small), target.shape[:2]), 0, 1), to_unit(target))
    trials = [_try(network, candidate, small, target) for candidate in candidates]
    ranked = sorted(trials, key=lambda trial: -sum(trial.nearness))
    best = ranked[0]
    if best.nearness[0] < bicubic - _LOST:
        raise UsageError(
            f"{network.source}: gives a test picture back in no convention (at best {best} dB, bicubic {bicubic:.2f});"
            " say with --foreign-colour and --foreign-range how its maker runs it"
        )
    same = [trial for trial in trials if psnr(trial.large, best.large) >= _ALIKE]
    rivals = [trial for trial in ranked if psnr(trial.large, best.large) < _ALIKE]
    if close := [trial for trial in rivals if not best.beats(trial)]:
        # In another range the order may seem open only because the range is wrong.
        flags = ["--foreign-colour"] if any(trial.convention.span == best.convention.span for trial in close) else []
        flags += ["--foreign-range"] if any(trial.convention.span != best.convention.span for trial in close) else []
        raise UsageError(
            f"{network.source}: a test can't tell {best} dB from {', '.join(map(str, close))} dB (to a large picture,"
            f" and to the small one when reduced again); say it with {' and '.join(flags)}"
        )
    chosen, others = same[0].convention, [str(trial.convention) for trial in same[1:]]
    how = f"found by test ({best}, next {rivals[0]} dB)" if rivals else "as good as any"
    how += f"; no different as {', '.join(others)}" if others else ""
    return chosen, f"colour {chosen.colour}, range {chosen.span}: {how}"


def _try(network: _Network, convention: Convention, small: Bytes, target: Bytes) -> _Trial:
    with np.errstate(all="ignore"):
        large = np.clip(_enlarge(network, convention, to_unit(small)), 0, 1)
    if not np.isfinite(large).all():
        return _Trial(convention, large, (-inf, -inf))
    again = matlab_resize(np.asarray(to_kind(large, small.dtype), np.uint8), small.shape[:2])
    return _Trial(convention, large, (psnr(large, to_unit(target)), psnr(to_unit(again), to_unit(small))))
