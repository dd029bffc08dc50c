"""Weights of known super-resolvers, as named arrays -> `Network`; torch isn't needed.

An architecture's forward pass is written once, over `Layers`: what computes the layers. `_Onnx` writes them as a
graph, `_Reference` computes them in float64, `_Reach` follows which pixels they see; with torch, `train.foreign`
adds a fourth. Layouts are facts of the published code; none of it is copied.

Sources: Compact (SRVGG) and RRDB as Real-ESRGAN, ESRGAN, BSRGAN publish them (arXiv:2107.10833, arXiv:1809.00219,
arXiv:2103.14006); SRResNet as sgrvinod's PyTorch tutorial has it (arXiv:1609.04802); EDSR (arXiv:1707.02921).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from math import lcm
from typing import Any, Final, NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from superfine.errors import MissingExtraError, ModelError
from superfine.weights import reference
from superfine.weights.network import Floats, Network
from superfine.weights.safetensors import read_safetensors

__all__ = [
    "Architecture",
    "Convolution",
    "Layers",
    "is_known",
    "open_arrays",
    "open_safetensors",
    "read_architecture",
    "to_network",
    "unwrappings",
]

Array = npt.NDArray[np.generic]
Weights = npt.NDArray[np.float32]

_KNOWN: Final = "Compact (SRVGG), RRDB (ESRGAN), the SRResNet of the PyTorch SRGAN tutorial and EDSR"
# What people's checkpoints wrap around the layers, the better choice first.
_WRAPPERS: Final = (
    "params_ema",
    "params-ema",
    "params",
    "model_state_dict",
    "state_dict",
    "generator",
    "netG",
    "net_g",
    "model",
    "net",
    "module",
)
_MOST_WRAPPED: Final = 6
_MOST_CHANNELS: Final = 4096
_LARGEST_SIDE: Final = 31
_LARGEST_SCALE: Final = 16
_MOST_WEIGHTS: Final = 500_000_000  # 2 GB in an ONNX file, which holds no more
_EPSILON: Final = 1e-5  # torch's, of batch norms
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)


# ---- what an architecture is made of


@dataclass(frozen=True, eq=False)
class Convolution:
    """One of stride one with zeros around, so that sizes stay. kernel: (out, in, side, side); bias: (out,)."""

    kernel: Weights
    bias: Weights

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return int(self.kernel.shape[2]) // 2


Planes = TypeVar("Planes")


class Layers(Protocol[Planes]):
    """What computes layers: on arrays, on tensors, on names of a graph's wires, on pixels' reach."""

    def convolve(self, planes: Planes, layer: Convolution) -> Planes: ...

    def convolve_unshuffled(self, planes: Planes, layer: Convolution, block: int) -> Planes:
        """Before the convolution, pixel (y, x) of channel c's blocks becomes channel c*block^2 + y*block + x."""
        ...

    def prelu(self, planes: Planes, slopes: Weights) -> Planes:
        """slopes: (channels,), or (1,) for all."""
        ...

    def leaky_relu(self, planes: Planes, slope: float) -> Planes: ...

    def tanh(self, planes: Planes) -> Planes: ...

    def affine(self, planes: Planes, factors: Sequence[float], shifts: Sequence[float]) -> Planes:
        """Times its factor, plus its shift; one of each for all channels, or for each."""
        ...

    def add(self, planes: Planes, others: Planes) -> Planes: ...

    def join(self, parts: Sequence[Planes]) -> Planes:
        """Channels of one after the other's."""
        ...

    def shuffle(self, planes: Planes, block: int) -> Planes:
        """Channel c*block^2 + y*block + x becomes pixel (y, x) of channel c."""
        ...

    def nearest(self, planes: Planes, factor: int) -> Planes: ...

    def repeat(self, planes: Planes, times: int) -> Planes:
        """Every channel so many times, one after the other."""
        ...


class Architecture(Protocol):
    """A network's weights in their places. `run`: RGB 0..1 -> RGB, not yet clipped."""

    @property
    def scale(self) -> int: ...

    @property
    def multiple_of(self) -> int: ...

    @property
    def description(self) -> str: ...

    def run(self, layers: Layers[Planes], pixels: Planes) -> Planes: ...


# ---- the door


def open_safetensors(content: bytes, source: str) -> Network:
    """The network in a .safetensors file. `source` names the file in errors.

    Raises ModelError where the file isn't sound or `open_arrays` refuses it.
    """
    return open_arrays(read_safetensors(content, source), source)


def open_arrays(arrays: Mapping[str, Array], source: str) -> Network:
    """The network whose weights these are, known by their names and shapes; wrappers around the names are taken off.

    Its reference is NumPy's, in float64. Raises ModelError where no architecture here has such
    layers, one is missing, surplus, of another shape, too large or not finite, and MissingExtraError without onnx.
    """
    return to_network(read_architecture(arrays, source))


def is_known(arrays: Mapping[str, Array]) -> bool:
    """Whether the names are those of an architecture that `read_architecture` takes."""
    return _recognised(arrays)[0] is not None


def read_architecture(
    arrays: Mapping[str, Array], source: str, others: str = "more with the extra 'spandrel'"
) -> Architecture:
    """The architecture with its weights in place. others: where more are known, for who has one of those.

    Raises ModelError as `open_arrays`.
    """
    read, inner = _recognised(arrays)
    if read is None:
        names = ", ".join(repr(_shown(name)) for name in list(inner)[:2])
        raise ModelError(
            f"{source}: holds no network that is known here (layers {names}); known are {_KNOWN}; "
            f"{others}; export it as .onnx where its code is, by torch.onnx.export, and give that file"
            if names
            else f"{source}: holds no weights under names, so it is no checkpoint of a network; get another file"
        )
    named = _Named(inner, source)
    architecture = read(named)
    named.finish()
    if architecture.scale > _LARGEST_SCALE:
        raise ModelError(f"{source}: enlarges x{architecture.scale}, more than {_LARGEST_SCALE}; get a sound file")
    return architecture


def to_network(architecture: Architecture) -> Network:
    """The ONNX graph of an architecture and the facts of it, with NumPy as its reference.

    Raises MissingExtraError without onnx.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError("converting a network", "convert")
    graph = _Onnx()
    graph.clip(architecture.run(graph, "pixels"))

    def compute(pixels: Floats) -> Floats:
        planes = np.moveaxis(np.asarray(pixels, np.float64), 2, 0)
        return np.moveaxis(np.clip(architecture.run(_Reference(), planes), 0, 1), 0, 2)

    return Network(
        content=graph.file(),
        scale=architecture.scale,
        halo=_halo(architecture),
        multiple_of=architecture.multiple_of,
        parameters=graph.parameters,
        description=architecture.description,
        colour="RGB by the network",
        reference=compute,
        witness="NumPy, float64",
    )


def unwrappings(arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The layers as they are named, then without what checkpoints wrap around their names, one wrapper at a time.

    Of several the better one is gone into: averaged weights before others, a generator before its critic.
    """
    inner = dict(arrays)
    for _ in range(_MOST_WRAPPED):
        yield inner
        found = next((each for each in _WRAPPERS if any(name.startswith(f"{each}.") for name in inner)), None)
        if found is None:
            return
        start = f"{found}."
        inner = {name.removeprefix(start): array for name, array in inner.items() if name.startswith(start)}
    yield inner


def _recognised(arrays: Mapping[str, Array]) -> "tuple[Callable[[_Named], Architecture] | None, dict[str, Array]]":
    """What reads the layers, and these without their wrappers."""
    inner: dict[str, Array] = {}
    for inner in unwrappings(arrays):
        for read, signature in _SIGNATURES:
            if all((inner[name].ndim if name in inner else 0) == axes for name, axes in signature.items()):
                return read, inner
    return None, inner


def _shown(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


class _Named:
    """Arrays by name; each is taken once, and held against the shape that its place wants."""

    def __init__(self, arrays: Mapping[str, Array], source: str) -> None:
        self.arrays, self.source = arrays, source
        self._taken: set[str] = set()
        self._weights = 0

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def count(self, name: Callable[[int], str]) -> int:
        """How many there are of the names for 0, 1, 2, .. without a gap."""
        number = 0
        while name(number) in self.arrays:
            number += 1
        return number

    def sides(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of an array that has to be there, not yet taken."""
        if name not in self.arrays:
            raise ModelError(f"{self.source}: lacks the layer {_shown(name)!r}; get a whole file")
        shape = self.arrays[name].shape
        if len(shape) != axes or min(shape) < 1:
            self.refuse(name, f"has the shape {shape[:8]} where {axes} axes belong")
        return shape

    def refuse(self, name: str, why: str) -> NoReturn:
        raise ModelError(f"{self.source}: its layer {_shown(name)!r} {why}; get a sound file")

    def take(self, name: str, shape: tuple[int, ...]) -> Weights:
        """Float32, every value finite."""
        if self.sides(name, len(shape)) != shape:
            self.refuse(name, f"has the shape {self.arrays[name].shape} where {shape} belongs")
        given = self.arrays[name]
        if given.dtype.kind != "f":
            self.refuse(name, f"holds {given.dtype} where floats belong")
        self._taken.add(name)
        self._weights += given.size
        if self._weights > _MOST_WEIGHTS:
            self.refuse(name, f"brings it to more than {_MOST_WEIGHTS:,} weights, which no ONNX file holds")
        with np.errstate(over="ignore"):
            values = given.astype(np.float32)
        if not np.isfinite(values).all():
            self.refuse(name, "holds NaN or infinity")
        return values

    def convolution(self, name: str, inputs: int, outputs: int | None = None, side: int | None = 3) -> Convolution:
        """The convolution called `name`, from so many channels to so many; None takes what is there."""
        there, _, rows, _ = self.sides(f"{name}.weight", 4)
        if there > _MOST_CHANNELS or rows > _LARGEST_SIDE or rows % 2 == 0:
            self.refuse(
                f"{name}.weight",
                f"has {there} kernels of side {rows}; up to {_MOST_CHANNELS} of odd sides to {_LARGEST_SIDE} are taken",
            )
        wanted, side = outputs or there, side or rows
        kernel = self.take(f"{name}.weight", (wanted, inputs, side, side))
        return Convolution(kernel, self.take(f"{name}.bias", (wanted,)))

    def normed(self, layer: Convolution, name: str) -> Convolution:
        """The convolution and the batch norm after it in one."""
        channels = len(layer.bias)
        scale, shift, mean, variance = (
            self.take(f"{name}.{part}", (channels,)).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        if variance.min() < 0:
            self.refuse(f"{name}.running_var", "is below zero, which no variance is")
        self._taken.add(f"{name}.num_batches_tracked")
        factor = scale / np.sqrt(variance + _EPSILON)
        kernel = (layer.kernel * factor[:, None, None, None]).astype(np.float32)
        folded = Convolution(kernel, ((layer.bias - mean) * factor + shift).astype(np.float32))
        if not (np.isfinite(folded.kernel).all() and np.isfinite(folded.bias).all()):
            self.refuse(f"{name}.weight", "is too large for its convolution")
        return folded

    def slopes(self, name: str, channels: int) -> Weights:
        """Of a PReLU: one for each channel, or one for all."""
        (there,) = self.sides(f"{name}.weight", 1)
        return self.take(f"{name}.weight", (1,) if there == 1 else (channels,))

    def finish(self) -> None:
        """Refuse what nobody has taken: it would be left out."""
        if surplus := [name for name in self.arrays if name not in self._taken]:
            names = ", ".join(repr(_shown(name)) for name in surplus[:3])
            raise ModelError(
                f"{self.source}: has {len(surplus)} layers more than its architecture, such as {names}; "
                "the extra 'spandrel' opens more architectures"
            )


# ---- Compact


@dataclass(frozen=True, eq=False)
class _Compact:
    """3x3 convolutions with PReLU on the small picture, a pixel shuffle, and the nearest neighbour's pixels added."""

    layers: tuple[tuple[Convolution, Weights], ...] = field(repr=False)
    last: Convolution = field(repr=False)
    scale: int
    multiple_of: int = 1

    @property
    def description(self) -> str:
        return f"Compact (SRVGG), {len(self.last.kernel[0])} channels, {len(self.layers) + 1} convolutions"

    def run(self, layers: Layers[Planes], pixels: Planes) -> Planes:
        planes = pixels
        for convolution, slopes in self.layers:
            planes = layers.prelu(layers.convolve(planes, convolution), slopes)
        residual = layers.convolve(planes, self.last)
        return layers.shuffle(layers.add(residual, layers.repeat(pixels, self.scale**2)), self.scale)


def _compact(named: _Named) -> _Compact:
    count = named.count(lambda place: f"body.{2 * place + 1}.weight")
    if not count:
        raise ModelError(
            f"{named.source}: is a Compact network without PReLU, and whether ReLU or leaky ReLU stands for it "
            "isn't in the file; ask its maker for an .onnx file"
        )
    layers, channels = [], 3
    for place in range(0, 2 * count, 2):
        convolution = named.convolution(f"body.{place}", channels)
        channels = len(convolution.bias)
        layers.append((convolution, named.slopes(f"body.{place + 1}", channels)))
    last = f"body.{2 * count}"
    outputs = named.sides(f"{last}.weight", 4)[0]
    scale = round((outputs / 3) ** 0.5)
    if outputs != 3 * scale**2 or not scale:
        named.refuse(f"{last}.weight", f"has {outputs} kernels, which are no pixels of an enlarged RGB picture")
    return _Compact(tuple(layers), named.convolution(last, channels, outputs), scale)


# ---- RRDB


_Dense = tuple[Convolution, ...]


@dataclass(frozen=True, eq=False)
class _RRDB:
    """Residual blocks of three dense blocks each, then doublings by the nearest neighbour with a convolution."""

    first: Convolution = field(repr=False)
    blocks: tuple[tuple[_Dense, ...], ...] = field(repr=False)
    after: Convolution = field(repr=False)
    doublings: tuple[Convolution, ...] = field(repr=False)
    large: Convolution = field(repr=False)
    last: Convolution = field(repr=False)
    multiple_of: int
    """The block of a pixel unshuffle at the start, as Real-ESRGAN has it for x2 and x1."""

    @property
    def scale(self) -> int:
        return int(2 ** len(self.doublings)) // self.multiple_of

    @property
    def description(self) -> str:
        growth = len(self.blocks[0][0][0].bias)
        return f"RRDB (ESRGAN), {len(self.first.bias)} channels, {len(self.blocks)} blocks of growth {growth}"

    def run(self, layers: Layers[Planes], pixels: Planes) -> Planes:
        planes = start = layers.convolve_unshuffled(pixels, self.first, self.multiple_of)
        for block in self.blocks:
            inner = planes
            for dense in block:
                inner = self._dense(layers, inner, dense)
            planes = self._fifth(layers, inner, planes)
        planes = layers.add(start, layers.convolve(planes, self.after))
        for convolution in (*self.doublings, self.large):
            if convolution is not self.large:
                planes = layers.nearest(planes, 2)
            planes = layers.leaky_relu(layers.convolve(planes, convolution), 0.2)
        return layers.convolve(planes, self.last)

    def _dense(self, layers: Layers[Planes], planes: Planes, convolutions: _Dense) -> Planes:
        """Each convolution sees what all before it made."""
        parts = [planes]
        for convolution in convolutions[:-1]:
            parts.append(layers.leaky_relu(layers.convolve(layers.join(parts), convolution), 0.2))
        return self._fifth(layers, layers.convolve(layers.join(parts), convolutions[-1]), planes)

    @staticmethod
    def _fifth(layers: Layers[Planes], residual: Planes, planes: Planes) -> Planes:
        return layers.add(layers.affine(residual, (0.2,), (0.0,)), planes)


@dataclass(frozen=True)
class _RRDBNames:
    """What a layout calls its layers. dense: of block, dense block and convolution; doubling: of its number from 1."""

    first: str
    dense: Callable[[int, int, int], str]
    after: str
    doubling: Callable[[int], str]
    large: str
    last: str


def _rrdb_names(named: _Named) -> tuple[_RRDBNames, int, int]:
    """A layout's names, how many blocks and how many doublings there are: ESRGAN's, BSRGAN's or Real-ESRGAN's layout.

    In ESRGAN's, an enlargement, its convolution and its activation count as three layers.
    """
    if "model.0.weight" in named:
        blocks = named.count(lambda place: f"model.1.sub.{place}.RDB1.conv1.0.weight")
        doublings = named.count(lambda place: f"model.{3 * place + 3}.weight")
        names = _RRDBNames(
            "model.0",
            lambda block, part, k: f"model.1.sub.{block}.RDB{part}.conv{k}.0",
            f"model.1.sub.{blocks}",
            lambda number: f"model.{3 * number}",
            f"model.{3 * doublings + 2}",
            f"model.{3 * doublings + 4}",
        )
    elif "RRDB_trunk.0.RDB1.conv1.weight" in named:
        blocks = named.count(lambda place: f"RRDB_trunk.{place}.RDB1.conv1.weight")
        doublings = named.count(lambda place: f"upconv{place + 1}.weight")
        names = _RRDBNames(
            "conv_first",
            lambda block, part, k: f"RRDB_trunk.{block}.RDB{part}.conv{k}",
            "trunk_conv",
            lambda number: f"upconv{number}",
            "HRconv",
            "conv_last",
        )
    else:
        blocks = named.count(lambda place: f"body.{place}.rdb1.conv1.weight")
        doublings = named.count(lambda place: f"conv_up{place + 1}.weight")
        names = _RRDBNames(
            "conv_first",
            lambda block, part, k: f"body.{block}.rdb{part}.conv{k}",
            "conv_body",
            lambda number: f"conv_up{number}",
            "conv_hr",
            "conv_last",
        )
    return names, blocks, doublings


def _rrdb(named: _Named) -> _RRDB:
    """A x3 in ESRGAN's layout has the names and shapes of a x2, and is taken for one."""
    names, blocks, doublings = _rrdb_names(named)
    seen = named.sides(f"{names.first}.weight", 4)[1]
    reduced = {3: 1, 12: 2, 48: 4}.get(seen, 0)
    if not reduced:
        named.refuse(f"{names.first}.weight", f"takes {seen} channels; networks of RGB take 3, 12 or 48")
    if 2**doublings < reduced:
        named.refuse(f"{names.first}.weight", f"reduces the picture {reduced} times, more than is enlarged after it")
    first = named.convolution(names.first, seen)
    width = len(first.bias)
    growth = named.sides(f"{names.dense(0, 1, 1)}.weight", 4)[0]

    def dense(block: int, part: int) -> _Dense:
        return tuple(
            named.convolution(names.dense(block, part, k), width + (k - 1) * growth, width if k == 5 else growth)
            for k in range(1, 6)
        )

    return _RRDB(
        first,
        tuple(tuple(dense(block, part) for part in (1, 2, 3)) for block in range(blocks)),
        named.convolution(names.after, width, width),
        tuple(named.convolution(names.doubling(number + 1), width, width) for number in range(doublings)),
        named.convolution(names.large, width, width),
        named.convolution(names.last, width, 3),
        reduced,
    )


# ---- the tutorial's SRResNet


@dataclass(frozen=True, eq=False)
class _Tutorial:
    """SRResNet on colours less ImageNet's mean, over its deviation; tanh gives -1..1. Zeros lie around that."""

    first: tuple[Convolution, Weights] = field(repr=False)
    blocks: tuple[tuple[Convolution, Weights, Convolution], ...] = field(repr=False)
    after: Convolution = field(repr=False)
    doublings: tuple[tuple[Convolution, Weights], ...] = field(repr=False)
    last: Convolution = field(repr=False)
    multiple_of: int = 1

    @property
    def scale(self) -> int:
        return int(2 ** len(self.doublings))

    @property
    def description(self) -> str:
        return f"SRResNet of the PyTorch SRGAN tutorial, {len(self.after.bias)} channels, {len(self.blocks)} blocks"

    def run(self, layers: Layers[Planes], pixels: Planes) -> Planes:
        shifts = [-mean / wide for mean, wide in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)]
        normed = layers.affine(pixels, [1 / wide for wide in _IMAGENET_DEVIATION], shifts)
        planes = start = layers.prelu(layers.convolve(normed, self.first[0]), self.first[1])
        for one, slopes, two in self.blocks:
            inner = layers.prelu(layers.convolve(planes, one), slopes)
            planes = layers.add(layers.convolve(inner, two), planes)
        planes = layers.add(layers.convolve(planes, self.after), start)
        for convolution, slopes in self.doublings:
            planes = layers.prelu(layers.shuffle(layers.convolve(planes, convolution), 2), slopes)
        return layers.affine(layers.tanh(layers.convolve(planes, self.last)), (0.5,), (0.5,))


def _tutorial(named: _Named) -> _Tutorial:
    first = named.convolution("conv_block1.conv_block.0", 3, side=None)
    width = len(first.bias)
    begin = first, named.slopes("conv_block1.conv_block.1", width)

    def normed(name: str) -> Convolution:
        return named.normed(named.convolution(f"{name}.0", width, width, None), f"{name}.1")

    blocks = []
    for place in range(named.count(lambda place: f"residual_blocks.{place}.conv_block1.conv_block.0.weight")):
        one, two = (f"residual_blocks.{place}.conv_block{number}.conv_block" for number in (1, 2))
        blocks.append((normed(one), named.slopes(f"{one}.2", width), normed(two)))
    doublings = []
    for place in range(named.count(lambda place: f"subpixel_convolutional_blocks.{place}.conv.weight")):
        name = f"subpixel_convolutional_blocks.{place}"
        doublings.append(
            (named.convolution(f"{name}.conv", width, 4 * width, None), named.slopes(f"{name}.prelu", width))
        )
    after, last = normed("conv_block2.conv_block"), named.convolution("conv_block3.conv_block.0", width, 3, None)
    return _Tutorial(begin, tuple(blocks), after, tuple(doublings), last)


# ---- EDSR


# Residuals are scaled by a factor that the file doesn't tell: of the two published sizes it is known.
_EDSR_FACTORS: Final = {(64, 16): 1.0, (256, 32): 0.1}


@dataclass(frozen=True, eq=False)
class _EDSR:
    """Residual blocks without norms, then pixel shuffles, on 0..255 (or 0..1) less DIV2K's mean colour."""

    levels: float
    below: Convolution = field(repr=False)
    first: Convolution = field(repr=False)
    blocks: tuple[tuple[Convolution, Convolution], ...] = field(repr=False)
    after: Convolution = field(repr=False)
    enlarging: tuple[tuple[Convolution, int], ...] = field(repr=False)
    last: Convolution = field(repr=False)
    above: Convolution = field(repr=False)
    multiple_of: int = 1

    @property
    def scale(self) -> int:
        return int(np.prod([block for _, block in self.enlarging]))

    @property
    def description(self) -> str:
        return f"EDSR, {len(self.first.bias)} channels, {len(self.blocks)} blocks"

    def run(self, layers: Layers[Planes], pixels: Planes) -> Planes:
        factor = _EDSR_FACTORS[len(self.first.bias), len(self.blocks)]
        shifted = layers.convolve(layers.affine(pixels, (self.levels,), (0.0,)), self.below)
        planes = start = layers.convolve(shifted, self.first)
        for one, two in self.blocks:
            residual = layers.convolve(layers.leaky_relu(layers.convolve(planes, one), 0.0), two)
            planes = layers.add(residual if factor == 1 else layers.affine(residual, (factor,), (0.0,)), planes)
        planes = layers.add(layers.convolve(planes, self.after), start)
        for convolution, block in self.enlarging:
            planes = layers.shuffle(layers.convolve(planes, convolution), block)
        return layers.affine(
            layers.convolve(layers.convolve(planes, self.last), self.above), (1 / self.levels,), (0.0,)
        )


def _edsr(named: _Named) -> _EDSR:
    below, above = (named.convolution(name, 3, 3, 1) for name in ("sub_mean", "add_mean"))
    first = named.convolution("head.0", 3)
    width = len(first.bias)
    count = named.count(lambda place: f"body.{place}.body.0.weight")
    if (width, count) not in _EDSR_FACTORS:
        raise ModelError(
            f"{named.source}: is an EDSR of {width} channels and {count} blocks, whose residual scale "
            "isn't in the file; known are those of 64 and 16, and of 256 and 32; ask its maker for an .onnx file"
        )
    blocks = tuple(
        (
            named.convolution(f"body.{place}.body.0", width, width),
            named.convolution(f"body.{place}.body.2", width, width),
        )
        for place in range(count)
    )
    enlarging = []
    for place in range(named.count(lambda place: f"tail.0.{2 * place}.weight")):
        name = f"tail.0.{2 * place}"
        block = {4 * width: 2, 9 * width: 3}.get(named.sides(f"{name}.weight", 4)[0], 0)
        if not block:
            named.refuse(f"{name}.weight", f"has {named.sides(f'{name}.weight', 4)[0]} kernels, which double nothing")
        enlarging.append((named.convolution(name, width, block**2 * width), block))
    after, last = named.convolution(f"body.{count}", width, width), named.convolution("tail.1", width, 3)
    # The mean colour is below one: its shift tells which range the network works on.
    levels = 255.0 if np.abs(below.bias).max() > 1 else 1.0
    return _EDSR(levels, below, first, blocks, after, tuple(enlarging), last, above)


# ---- which is which

# The axes of some layers; 0 says that there is none of that name. ESRGAN+ has layers of 1x1 in its blocks.
_SIGNATURES: Final[tuple[tuple[Callable[[_Named], Architecture], Mapping[str, int]], ...]] = (
    (_compact, {"body.0.weight": 4, "body.1.weight": 1}),
    (_compact, {"body.0.weight": 4, "body.1.weight": 0, "body.2.weight": 4}),
    (_rrdb, {"conv_first.weight": 4, "body.0.rdb1.conv1.weight": 4, "body.0.rdb1.conv1x1.weight": 0}),
    (_rrdb, {"conv_first.weight": 4, "RRDB_trunk.0.RDB1.conv1.weight": 4, "RRDB_trunk.0.RDB1.conv1x1.weight": 0}),
    (_rrdb, {"model.0.weight": 4, "model.1.sub.0.RDB1.conv1.0.weight": 4, "model.1.sub.0.RDB1.conv1x1.weight": 0}),
    (_tutorial, {"conv_block1.conv_block.0.weight": 4, "residual_blocks.0.conv_block1.conv_block.0.weight": 4}),
    (_edsr, {"head.0.weight": 4, "body.0.body.0.weight": 4, "tail.0.0.weight": 4}),
)


# ---- what computes layers


class _Reference:
    """Planes are (channels, h, w) in float64."""

    def convolve(self, planes: Floats, layer: Convolution) -> Floats:
        return reference.convolve(planes.astype(np.float64), layer.kernel, layer.bias, padding=(layer.padding,) * 4)

    def convolve_unshuffled(self, planes: Floats, layer: Convolution, block: int) -> Floats:
        return self.convolve(reference.pixel_unshuffle(planes.astype(np.float64), block), layer)

    def prelu(self, planes: Floats, slopes: Weights) -> Floats:
        return reference.prelu(planes.astype(np.float64), slopes)

    def leaky_relu(self, planes: Floats, slope: float) -> Floats:
        return reference.leaky_relu(planes.astype(np.float64), slope)

    def tanh(self, planes: Floats) -> Floats:
        curved: Floats = np.tanh(planes)
        return curved

    def affine(self, planes: Floats, factors: Sequence[float], shifts: Sequence[float]) -> Floats:
        times, plus = (np.asarray(values, np.float64)[:, None, None] for values in (factors, shifts))
        moved: Floats = planes * times + plus
        return moved

    def add(self, planes: Floats, others: Floats) -> Floats:
        return planes + others

    def join(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)

    def shuffle(self, planes: Floats, block: int) -> Floats:
        return reference.pixel_shuffle(planes.astype(np.float64), block)

    def nearest(self, planes: Floats, factor: int) -> Floats:
        return reference.nearest(planes.astype(np.float64), factor)

    def repeat(self, planes: Floats, times: int) -> Floats:
        return planes.repeat(times, 0)


class _Onnx:
    """A graph that is being written, from `pixels` to `enlarged`; planes are names of its wires."""

    def __init__(self) -> None:
        self.parameters = 0
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def convolve(self, planes: str, layer: Convolution) -> str:
        weights = self._weights(layer.kernel), self._weights(layer.bias)
        return self._add("Conv", planes, *weights, pads=[layer.padding] * 4)

    def convolve_unshuffled(self, planes: str, layer: Convolution, block: int) -> str:
        """ONNX puts a block's pixels before the channels, so the kernel does too: OpenVINO loses a Gather between."""
        if block == 1:
            return self.convolve(planes, layer)
        outputs, inputs, *sides = layer.kernel.shape
        apart = layer.kernel.reshape(outputs, inputs // block**2, block**2, *sides)
        kernel = apart.swapaxes(1, 2).reshape(layer.kernel.shape)
        return self.convolve(self._add("SpaceToDepth", planes, blocksize=block), replace(layer, kernel=kernel))

    def prelu(self, planes: str, slopes: Weights) -> str:
        return self._add("PRelu", planes, self._weights(slopes[:, None, None]))

    def leaky_relu(self, planes: str, slope: float) -> str:
        return self._add("LeakyRelu", planes, alpha=slope) if slope else self._add("Relu", planes)

    def tanh(self, planes: str) -> str:
        return self._add("Tanh", planes)

    def affine(self, planes: str, factors: Sequence[float], shifts: Sequence[float]) -> str:
        scaled = self._add("Mul", planes, self._column(factors))
        return self._add("Add", scaled, self._column(shifts)) if any(shifts) else scaled

    def add(self, planes: str, others: str) -> str:
        return self._add("Add", planes, others)

    def join(self, parts: Sequence[str]) -> str:
        return self._add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]

    def shuffle(self, planes: str, block: int) -> str:
        return self._add("DepthToSpace", planes, blocksize=block, mode="CRD") if block > 1 else planes

    def nearest(self, planes: str, factor: int) -> str:
        if factor == 1:
            return planes
        scales = self._constant(np.array([1, 1, factor, factor], np.float32))
        facts = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._add("Resize", planes, "", scales, **facts)

    def repeat(self, planes: str, times: int) -> str:
        """As a transposed convolution OpenVINO keeps it in fp32, and what is added to it, where the rest is in bf16."""
        return self._add("ConvTranspose", planes, self._constant(np.ones((3, times, 1, 1), np.float32)), group=3)

    def clip(self, planes: str) -> None:
        """The end: `enlarged`, in 0..1."""
        bounds = (self._constant(np.array(bound, np.float32)) for bound in (0, 1))
        self._add("Clip", planes, *bounds, name="enlarged")

    def file(self) -> bytes:
        from onnx import TensorProto, helper

        pixels, enlarged = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *sides])
            for name, sides in {"pixels": ("h", "w"), "enlarged": ("rows", "cols")}.items()
        )
        graph = helper.make_graph(self._nodes, "network", [pixels], [enlarged], self._constants)
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="superfine", ir_version=8)
        content: bytes = model.SerializeToString()
        return content

    def _add(self, op: str, *inputs: str, name: str = "", **facts: Any) -> str:
        from onnx import helper

        wire = name or f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [wire], **facts))
        return wire

    def _weights(self, values: Weights) -> str:
        self.parameters += values.size
        return self._constant(values)

    def _column(self, values: Sequence[float]) -> str:
        return self._constant(np.array(values, np.float32)[:, None, None])

    def _constant(self, values: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        wire = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), wire))
        return wire


@dataclass(frozen=True)
class _Seen:
    """Which of the picture's pixels planes depend on, along one axis; it repeats.

    Pixel j of the planes, up to their number, sees the picture's from first[j] to last[j]; `step` of the
    picture further on, everything is the same again.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    step: int

    def at(self, place: int) -> tuple[int, int]:
        """First and last pixel that the planes' pixel at `place` sees."""
        turns, inner = divmod(place, len(self.first))
        return self.first[inner] + turns * self.step, self.last[inner] + turns * self.step

    def made_of(self, ranges: Sequence[tuple[int, int]], step: int) -> "_Seen":
        """New planes, whose pixels see these pixels of the planes, first to last."""
        return _Seen(
            tuple(self.at(first)[0] for first, _ in ranges), tuple(self.at(last)[1] for _, last in ranges), step
        )


class _Reach:
    """Planes are what they see."""

    def convolve(self, planes: _Seen, layer: Convolution) -> _Seen:
        places = range(len(planes.first))
        return planes.made_of([(place - layer.padding, place + layer.padding) for place in places], planes.step)

    def convolve_unshuffled(self, planes: _Seen, layer: Convolution, block: int) -> _Seen:
        count = lcm(len(planes.first), block)
        ranges = [(block * place, block * place + block - 1) for place in range(count // block)]
        return self.convolve(planes.made_of(ranges, planes.step * count // len(planes.first)), layer)

    def prelu(self, planes: _Seen, slopes: Weights) -> _Seen:  # noqa: ARG002 - as every layer's
        return planes

    def leaky_relu(self, planes: _Seen, slope: float) -> _Seen:  # noqa: ARG002
        return planes

    def tanh(self, planes: _Seen) -> _Seen:
        return planes

    def affine(self, planes: _Seen, factors: Sequence[float], shifts: Sequence[float]) -> _Seen:  # noqa: ARG002
        return planes

    def add(self, planes: _Seen, others: _Seen) -> _Seen:
        return self.join((planes, others))

    def join(self, parts: Sequence[_Seen]) -> _Seen:
        """Both cover the picture at one rate, so that one's count of pixels decides."""
        longest = max(parts, key=lambda part: part.step)
        step = lcm(*(part.step for part in parts))
        seen = [[part.at(place) for part in parts] for place in range(len(longest.first) * step // longest.step)]
        return _Seen(
            tuple(min(first for first, _ in each) for each in seen),
            tuple(max(last for _, last in each) for each in seen),
            step,
        )

    def shuffle(self, planes: _Seen, block: int) -> _Seen:
        return self.nearest(planes, block)

    def nearest(self, planes: _Seen, factor: int) -> _Seen:
        places = range(factor * len(planes.first))
        return planes.made_of([(place // factor, place // factor) for place in places], planes.step)

    def repeat(self, planes: _Seen, times: int) -> _Seen:  # noqa: ARG002
        return planes


def _halo(architecture: Architecture) -> int:
    """Pixels of the small picture around one that its result depends on, wherever on the grid it lies."""
    seen, scale = architecture.run(_Reach(), _Seen((0,), (0,), 1)), architecture.scale
    return max(
        max(place - seen.at(scale * place)[0], seen.at(scale * place + scale - 1)[1] - place)
        for place in range(seen.step)
    )
