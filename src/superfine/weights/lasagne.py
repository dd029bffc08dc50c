"""Networks of neural-enhance (Lasagne, `.pkl.bz2`) -> ONNX.

A file is a bz2-packed pickle of (config, params). The network is a plain chain
of convolutions and PReLUs: 7x7, then halvings (4x4, stride 2), blocks (3x3),
doublings (3x3 to four times the channels, PReLU, pixel shuffle) and 7x7 to RGB.
Its blocks were meant to be residual, but the sum never reached the output, so
`generator_residual` changes nothing. Written from the file format; neither the
program (AGPL) nor its networks (CC BY-NC-SA) are part of this package.

The program reflects 24 px around the picture and cuts them off the result;
both are in the graph. A tile that touches the border sees what the picture
would show there, and one that doesn't keeps only what its halo accounts for.

Source: https://github.com/alexjc/neural-enhance, version 0.3.
"""

import bz2
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain, repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.errors import MissingExtraError, ModelError
from superfine.weights.network import Network
from superfine.weights.pickles import read_array_pickle
from superfine.weights.reference import Planes, convolve_transposed, pixel_shuffle, prelu

__all__ = ["LasagneLayer", "LasagneNet", "open_lasagne", "read_lasagne"]

Weights = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]

_REFLECTED: Final = 24
_MOST_TIMES_UNPACKED: Final = 20
_MOST_STEPS: Final = 3  # 8 = 2^3 divides 24, so that the halvings' grid lies in the picture as it lies in a tile
_MOST_BLOCKS: Final = 1000
_MOST_FILTERS: Final = 4096


@dataclass(frozen=True)
class LasagneLayer:
    """A convolution, a PReLU with it except after the last, and a pixel shuffle in doublings.

    kernel: (out, in, side, side), for a true convolution as in the file; torch
    and ONNX want it turned around. bias, slopes: (out,).
    """

    kernel: Weights
    bias: Weights
    slopes: Weights | None
    stride: int
    doubles: bool

    @property
    def padding(self) -> int:
        """Zeros on each side: the size stays, or is halved exactly."""
        return (self.side - 1) // 2

    @property
    def side(self) -> int:
        """The kernel's."""
        return int(self.kernel.shape[2])


@dataclass(frozen=True)
class LasagneNet:
    """A chain of layers and how often it doubles and halves."""

    layers: tuple[LasagneLayer, ...]
    upscale: int
    downscale: int

    @property
    def scale(self) -> int:
        """Factor of the picture's sides; 1 repairs."""
        return 1 << (self.upscale - self.downscale)

    @property
    def multiple_of(self) -> int:
        """The grid of the halvings, in pixels of the small picture."""
        return 1 << self.downscale

    @property
    def parameters(self) -> int:
        """Weights, biases and slopes."""
        arrays = (array for layer in self.layers for array in (layer.kernel, layer.bias, layer.slopes))
        return sum(array.size for array in arrays if array is not None)

    @property
    def halo(self) -> int:
        """Pixels of the small picture, on each side of one, that its result depends on."""
        reach = 0
        for pixel in range(self.multiple_of):  # where it lies on the grid decides what it sees
            first, last = pixel * self.scale, (pixel + 1) * self.scale - 1
            for layer in reversed(self.layers):
                if layer.doubles:
                    first, last = first // 2, last // 2
                first = first * layer.stride - layer.padding
                last = last * layer.stride - layer.padding + layer.side - 1
            reach = max(reach, pixel - first, last - pixel)
        return reach


def read_lasagne(content: bytes, source: str) -> LasagneNet:
    """The network in a `.pkl.bz2` of neural-enhance.

    Raises ModelError where the file names anything but arrays, unpacks to more
    than 20 times its size, or its layers aren't those that its config says.
    """
    most = _MOST_TIMES_UNPACKED * len(content) + 1_000_000
    packed = bz2.BZ2Decompressor()
    try:
        unpacked = packed.decompress(content, most + 1)
    except (OSError, EOFError, ValueError) as error:
        raise ModelError(f"{source}: not a .pkl.bz2 file, or damaged; fetch it again") from error
    if len(unpacked) > most:
        raise ModelError(f"{source}: unpacks to more than {most:,} bytes, far more than weights do: refused")
    if not packed.eof:
        raise ModelError(f"{source}: is cut off; fetch it again")
    match read_array_pickle(unpacked, source):
        case dict(config), dict(params):
            return _net(config, params, source)
    raise ModelError(f"{source}: want a pickle of (config, params), as neural-enhance writes it")


def open_lasagne(content: bytes, source: str) -> Network:
    """The network in a `.pkl.bz2` of neural-enhance, as ONNX and as true convolutions in NumPy.

    Equal to the original on pictures of up to 80 px whose sides are multiples of
    2^max(upscale, downscale), to which it crops; larger ones the original
    computes in tiles of 80 px with 24 px around, and this one whole. Pictures of
    24 px and less are reflected more than once, as numpy.pad does.

    Raises ModelError as `read_lasagne`, MissingExtraError without onnx.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError("converting a network", "convert")
    net = read_lasagne(content, source)
    widest = max(len(layer.kernel) for layer in net.layers if not layer.doubles)
    chain = f"a plain chain of {len(net.layers)} convolutions with PReLU, up to {widest} channels"
    return Network(
        content=_onnx(net),
        scale=net.scale,
        halo=net.halo,
        multiple_of=net.multiple_of,
        parameters=net.parameters,
        description=f"a network of neural-enhance that {'enlarges' if net.scale > 1 else 'repairs'}: {chain}",
        colour=f"RGB by the network, with {_REFLECTED} px of the picture reflected around it",
        reference=partial(_computed, net),
        witness="NumPy, float64",
    )


def _computed(net: LasagneNet, pixels: Floats) -> Floats:
    """(h, w, 3) RGB 0..1 -> (scale*h, scale*w, 3), layer by layer as Lasagne defines them; sides on the grid."""
    around = (_REFLECTED, _REFLECTED)
    planes: Planes = np.pad(
        np.moveaxis(np.asarray(pixels, np.float64), -1, 0) - 0.5, ((0, 0), around, around), "reflect"
    )
    for layer in net.layers:
        planes = _convolved(planes, layer)
        if layer.slopes is not None:
            planes = prelu(planes, layer.slopes)
        if layer.doubles:
            planes = pixel_shuffle(planes, 2)
    edge = _REFLECTED * net.scale
    return np.clip(np.moveaxis(planes[:, edge:-edge, edge:-edge], 0, -1) + 0.5, 0, 1)


def _convolved(planes: Planes, layer: LasagneLayer) -> Planes:
    """A true convolution: every pixel adds its kernel as it stands; then the borders and, with strides, places."""
    rows, cols = (count + 2 * layer.padding - layer.side + 1 for count in planes.shape[1:])
    start = layer.side - 1 - layer.padding
    kernel = layer.kernel.transpose(1, 0, 2, 3)
    full = convolve_transposed(planes, kernel, layer.bias, stride=1, size=(rows, cols), start=(start, start))
    return full[:, :: layer.stride, :: layer.stride]


def _onnx(net: LasagneNet) -> bytes:
    """An ONNX file: (1, 3, h, w) RGB 0..1 -> (1, 3, scale*h, scale*w) 0..1, h and w multiples of `net.multiple_of`."""
    from onnx import TensorProto, helper, numpy_helper

    stored: dict[str, npt.NDArray[Any]] = {
        "half": np.array(0.5, np.float32),
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "inner_start": np.array([_REFLECTED * net.scale] * 2, np.int64),
        "inner_stop": np.array([-_REFLECTED * net.scale] * 2, np.int64),
        "inner_axes": np.array([2, 3], np.int64),
        "before": np.array(-_REFLECTED, np.int64),
        "after": np.array(_REFLECTED, np.int64),
        "int_one": np.array(1, np.int64),
    }
    nodes = [helper.make_node("Sub", ["input", "half"], ["shifted"])]
    last = "shifted"
    for axis, name in ((2, "rows"), (3, "cols")):
        nodes += _reflection(last, axis, name)
        last = f"{name}_reflected"
    for place, layer in enumerate(net.layers):
        name = f"layer{place}"
        # Lasagne convolves: it turns kernels around, and ONNX doesn't.
        stored |= {f"{name}.kernel": layer.kernel[:, :, ::-1, ::-1], f"{name}.bias": layer.bias}
        given = [last, f"{name}.kernel", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", given, [name], strides=[layer.stride] * 2, pads=[layer.padding] * 4))
        last = name
        if layer.slopes is not None:
            stored[f"{name}.slopes"] = layer.slopes[:, None, None]
            nodes.append(helper.make_node("PRelu", [last, f"{name}.slopes"], [f"{name}.prelu"]))
            last = f"{name}.prelu"
        if layer.doubles:  # channel 4c + 2y + x becomes pixel (y, x) of channel c
            nodes.append(helper.make_node("DepthToSpace", [last], [f"{name}.doubled"], blocksize=2, mode="CRD"))
            last = f"{name}.doubled"
    nodes += [
        helper.make_node("Slice", [last, "inner_start", "inner_stop", "inner_axes"], ["inner"]),
        helper.make_node("Add", ["inner", "half"], ["raised"]),
        helper.make_node("Clip", ["raised", "zero", "one"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "neural-enhance",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "large_height", "large_width"])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="superfine", ir_version=8
    )
    content: bytes = model.SerializeToString()
    return content


def _reflection(name: str, axis: int, side: str) -> Iterator[Any]:
    """Gather along one axis by the zigzag 0, 1, .. n-1, n-2, .. 1, 0, 1, ..; ONNX's Pad wants sides above 24.

    Its descent is 2(n-1) less its rise, by Min: OpenVINO 2026.4 drops an Abs that it meets among sizes.
    """
    from onnx import helper

    def node(kind: str, given: list[str], made: str, **attributes: Any) -> Any:
        return helper.make_node(kind, given, [f"{side}_{made}"], **attributes)

    yield node("Shape", [name], "shape", start=axis, end=axis + 1)
    yield node("Squeeze", [f"{side}_shape"], "count")
    yield node("Add", [f"{side}_count", "after"], "stop")
    yield node("Range", ["before", f"{side}_stop", "int_one"], "places")
    yield node("Sub", [f"{side}_count", "int_one"], "last")
    yield node("Add", [f"{side}_last", f"{side}_last"], "twice")
    yield node("Max", [f"{side}_twice", "int_one"], "period")
    yield node("Mod", [f"{side}_places", f"{side}_period"], "rise")
    yield node("Sub", [f"{side}_twice", f"{side}_rise"], "descent")
    yield node("Min", [f"{side}_rise", f"{side}_descent"], "index")
    yield node("Gather", [name, f"{side}_index"], "reflected", axis=axis)


def _net(config: dict[Any, Any], params: dict[Any, Any], source: str) -> LasagneNet:
    blocks = _count(config, "generator_blocks", _MOST_BLOCKS, source)
    upscale = _count(config, "generator_upscale", _MOST_STEPS, source)
    downscale = _count(config, "generator_downscale", _MOST_STEPS, source)
    if downscale > upscale:
        raise ModelError(f"{source}: its result is smaller than its input, which is no enlargement or repair")
    filters = config.get("generator_filters")
    if not isinstance(filters, list | tuple) or not filters or len(filters) > _MOST_BLOCKS:
        raise ModelError(
            f"{source}: its config says generator_filters = {type(filters).__name__}, want a list of counts"
        )
    if any(type(count) is not int or not 1 <= count <= _MOST_FILTERS for count in filters):
        raise ModelError(f"{source}: its generator_filters aren't whole numbers from 1 to {_MOST_FILTERS}")
    counts = chain(filters, repeat(filters[-1]))
    plan = [("iter.0", 7, next(counts))]
    plan += [(f"downscale{place}", 4, next(counts)) for place in range(downscale)]
    plan += [(f"iter.{place + 1}-A", 3, units) for units in [next(counts)] for place in range(blocks)]
    plan += [(f"upscale{place}.2", 3, 4 * next(counts)) for place in range(upscale)]
    layers, channels = [], 3
    for name, side, units in plan:
        kernel, bias = _arrays(params, f"{name}x", [(units, channels, side, side), (units,)], source)
        (slopes,) = _arrays(params, f"{name}>", [(units,)], source)
        doubles = name.startswith("upscale")
        layers.append(LasagneLayer(kernel, bias, slopes, 2 if side == 4 else 1, doubles))
        channels = units // 4 if doubles else units
    kernel, bias = _arrays(params, "out", [(3, channels, 7, 7), (3,)], source)
    layers.append(LasagneLayer(kernel, bias, None, 1, doubles=False))
    wanted = {"out"} | {f"{name}{part}" for name, _, _ in plan for part in "x>"}
    if extra := [key for key in params if key not in wanted]:
        raise ModelError(f"{source}: has a layer {str(extra[0])[:40]!r} that its config doesn't account for")
    return LasagneNet(tuple(layers), upscale, downscale)


def _count(config: dict[Any, Any], key: str, most: int, source: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 <= value <= most:
        shown = value if type(value) is int and value.bit_length() < 64 else type(value).__name__
        raise ModelError(f"{source}: its config says {key} = {shown}, want a whole number from 0 to {most}")
    return value


def _arrays(params: dict[Any, Any], name: str, shapes: list[tuple[int, ...]], source: str) -> list[Weights]:
    given = params.get(name)
    if not isinstance(given, list | tuple) or not all(isinstance(array, np.ndarray) for array in given):
        raise ModelError(
            f"{source}: lacks the arrays of layer {name!r}; it isn't a network of neural-enhance, or damaged"
        )
    if [array.shape for array in given] != shapes or any(array.dtype.kind != "f" for array in given):
        found = ", ".join(str(array.shape) for array in given[:4])
        raise ModelError(f"{source}: layer {name!r} has arrays of {found}, want {', '.join(map(str, shapes))}")
    if not all(np.isfinite(array).all() for array in given):
        raise ModelError(f"{source}: layer {name!r} holds NaN or infinity; fetch it again")
    return [array.astype(np.float32) for array in given]
