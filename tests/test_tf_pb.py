"""TensorFlow's frozen graphs: what the ONNX file computes against TensorFlow's definitions, written out in numpy."""

import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper
from PIL import Image
from scipy.signal import correlate2d
from skimage.data import astronaut

from superfine.engine import open_engine
from superfine.errors import ModelError, UsageError
from superfine.models import Card, Model, card_to_text
from superfine.tiles import Grid, Window, enlarge
from superfine.weights.network import Network
from superfine.weights.tf_graph import read_tf_pb
from superfine.weights.tf_pb import open_tf_pb

Array: TypeAlias = npt.NDArray[Any]

# ---- frozen graphs by hand


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    start = b""
    while number > 0x7F:
        start += bytes([number & 0x7F | 0x80])
        number >>= 7
    return start + bytes([number])


def entry(number: int, value: float | bytes | str) -> bytes:
    """One field of a message."""
    match value:
        case int():
            return varint(number << 3) + varint(value)
        case float():
            return varint(number << 3 | 5) + struct.pack("<f", value)
        case str():
            return entry(number, value.encode())
        case bytes():
            return varint(number << 3 | 2) + varint(len(value)) + value


def sides(*given: int) -> bytes:
    """A TensorShapeProto."""
    return b"".join(entry(2, entry(1, side)) for side in given)


def integers(*given: int) -> bytes:
    """An AttrValue: a list of whole numbers."""
    return entry(1, entry(3, b"".join(map(varint, given))))


def node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    """A NodeDef as a field of a GraphDef; attributes are AttrValues."""
    content = entry(1, name) + entry(2, op) + b"".join(entry(3, each) for each in inputs)
    content += b"".join(entry(5, entry(1, key) + entry(2, value)) for key, value in attributes.items())
    return entry(1, content)


def tensor(dtype: int, shape: tuple[int, ...], *rest: bytes) -> bytes:
    """An AttrValue with a TensorProto."""
    return entry(8, entry(1, dtype) + entry(2, sides(*shape)) + b"".join(rest))


def const(name: str, values: Any) -> bytes:
    array = np.asarray(values)
    array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    dtype = 1 if array.dtype == np.float32 else 3
    return node(name, "Const", value=tensor(dtype, array.shape, entry(4, array.tobytes())))


def placeholder(name: str = "y", *shape: int) -> bytes:
    return node(name, "Placeholder", dtype=entry(6, 1), **({"shape": entry(7, sides(*shape))} if shape else {}))


def conv(name: str, given: str, kernel: str, step: int = 1, padding: str = "SAME", **attributes: bytes) -> bytes:
    facts = {"strides": integers(1, step, step, 1), "padding": entry(2, padding), "data_format": entry(2, "NHWC")}
    return node(name, "Conv2D", given, kernel, **facts, **attributes)


def upconv(name: str, size: str, kernel: str, given: str, step: int, padding: str = "SAME") -> bytes:
    facts = {"strides": integers(1, step, step, 1), "padding": entry(2, padding)}
    return node(name, "Conv2DBackpropInput", size, kernel, given, **facts)


def shuffled(name: str, given: str, block: int) -> bytes:
    return node(name, "DepthToSpace", given, block_size=entry(3, block))


def nearest(block: int, given: str = "y") -> list[bytes]:
    """The end of a graph that repeats pixels."""
    return [const("ones", np.ones((1, 1, 1, block**2))), conv("many", given, "ones"), shuffled("end", "many", block)]


def doubled_sizes(given: str, channels: int, times: int = 2) -> list[bytes]:
    """Shape -> slices -> times two -> Pack, as Keras' Conv2DTranspose writes it down."""
    parts = [node("shape", "Shape", given), const("one", [1]), const("two", [2]), const("three", [3])]
    parts += [const("zero", [0]), const("times", times), const("channels", channels)]
    drop = {"shrink_axis_mask": entry(3, 1)}
    parts += [node("n", "StridedSlice", "shape", "zero", "one", "one", **drop)]
    parts += [node("rows", "StridedSlice", "shape", "one", "two", "one", **drop)]
    parts += [node("cols", "StridedSlice", "shape", "two", "three", "one", **drop)]
    parts += [node("tall", "Mul", "rows", "times"), node("wide", "Mul", "cols", "times")]
    return [*parts, node("size", "Pack", "n", "tall", "wide", "channels", N=entry(3, 4), axis=entry(3, 0))]


def converted(*nodes: bytes, output: str = "") -> Network:
    return open_tf_pb(b"".join(nodes), "net.pb", output)


def model_of(made: Network) -> Model:
    card = Card(name="net", scale=made.scale, halo=made.halo, multiple_of=made.multiple_of)
    proto = onnx.ModelProto.FromString(made.content)
    onnx.checker.check_model(proto, full_check=True)
    helper.set_model_props(proto, {"superfine": card_to_text(card)})
    return Model(card, proto.SerializeToString(), "net.onnx")


def enlarged_luma(made: Network, luma: Array) -> Array:
    """Levels of Y (h, w) through the whole file, as grey: what comes out is Y again."""
    engine = open_engine(model_of(made), "openvino", "fp32")
    grey = engine(np.repeat(luma[None, ..., None], 3, -1))
    assert (grey == grey[..., :1]).all(), "grey became coloured"
    return grey[..., 0]


def assert_gives(nodes: list[bytes], truth: Callable[[Array], Array], size: tuple[int, int] = (18, 24)) -> Network:
    """The ONNX file and the reference compute `truth`: Y in 0..1 (h, w) -> (scale*h, scale*w), to the level."""
    made = converted(*nodes)
    luma = noise(*size)
    wanted = np.floor(np.clip(truth(luma / 255), 0, 1) * 255 + 0.5)
    assert wanted.std() > 8, "a weak test"
    assert np.mean((wanted > 0) & (wanted < 255)) > 0.3, "a weak test"
    grey = made.reference(np.repeat(luma[..., None] / 255, 3, -1)) * 255
    np.testing.assert_allclose(grey, np.repeat(wanted[..., None], 3, -1), atol=1e-9)
    given = enlarged_luma(made, luma)
    assert given.shape == wanted.shape
    difference = np.abs(given - wanted)
    assert difference.max() <= 1  # where fp32 and float64 fall on two sides of a half
    assert (difference > 0).mean() < 0.002
    return made


# ---- TensorFlow's definitions


def tf_conv(x: Array, kernel: Array, step: int = 1, dilation: int = 1) -> Array:
    """Conv2D, SAME: (h, w, in) -> (ceil(h/step), ceil(w/step), out). Source: tf.nn.convolution's documentation."""
    spread = np.zeros([(side - 1) * dilation + 1 for side in kernel.shape[:2]] + list(kernel.shape[2:]))
    spread[::dilation, ::dilation] = kernel
    pads = []
    for side, extent in zip(x.shape[:2], spread.shape[:2], strict=True):
        total = max(extent - step if side % step == 0 else extent - side % step, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [*pads, (0, 0)])
    planes = [
        sum(correlate2d(x[..., i], spread[..., i, o], "valid") for i in range(x.shape[2]))
        for o in range(kernel.shape[3])
    ]
    return np.stack(planes, -1)[::step, ::step]


def tf_upconv(x: Array, kernel: Array, step: int) -> Array:
    """Conv2DBackpropInput: the transpose of the linear map that Conv2D with this kernel is, from (step*h, step*w)."""
    rows, cols = x.shape[:2]
    large = np.zeros((rows * step, cols * step, kernel.shape[2]))
    matrix = np.empty((x.size, large.size))
    for place in range(large.size):
        large.flat[place] = 1
        matrix[:, place] = tf_conv(large, kernel, step).ravel()
        large.flat[place] = 0
    return (matrix.T @ x.ravel()).reshape(large.shape)


def tf_shuffle(x: Array, block: int) -> Array:
    """DepthToSpace, as its documentation says it: each pixel's channels are a block, row by row, channels last."""
    rows, cols, channels = x.shape
    out = np.empty((rows * block, cols * block, channels // block**2))
    for row in range(rows):
        for col in range(cols):
            out[row * block : (row + 1) * block, col * block : (col + 1) * block] = x[row, col].reshape(
                block, block, -1
            )
    return out


def noise(*shape: int) -> Array:
    return np.random.default_rng(shape).integers(0, 256, shape).astype(np.uint8)


def kernel(*shape: int, taps: float = 0) -> Array:
    """Random, such that what comes out of it is about as bright as what goes in, and neither black nor white.

    taps: how many of its numbers make one pixel.
    """
    taps = taps or shape[0] * shape[1] * shape[2]
    values = np.random.default_rng(shape).normal(size=shape) * 0.8 * taps**-0.5
    if taps > 1:
        values -= values.mean()
    return (values + 1 / taps).astype(np.float32)


def upkernel(side: int, step: int, outputs: int, inputs: int) -> Array:
    return kernel(side, side, outputs, inputs, taps=max(1, side**2 * inputs / step**2))


# ---- operators


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_convolution_pads_as_tensorflow(side):
    """Even kernels have the odd zero after the picture."""
    first, last = kernel(side, side, 1, 4), kernel(side, 3, 4, 4)
    nodes = [placeholder(), const("a", first), conv("b", "y", "a"), const("c", last), conv("d", "b", "c")]
    made = assert_gives(
        [*nodes, shuffled("end", "d", 2)], lambda y: tf_shuffle(tf_conv(tf_conv(y[..., None], first), last), 2)[..., 0]
    )
    assert made.halo == max(1, side // 2 + max(side // 2, 1))
    assert (made.scale, made.multiple_of, made.parameters) == (2, 1, first.size + last.size)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_convolution_with_strides(side):
    """Halves the picture, then makes it four times as large: sides have to be even."""
    weights = kernel(side, side, 1, 16)
    nodes = [placeholder(), const("a", weights), conv("b", "y", "a", 2), shuffled("end", "b", 4)]
    made = assert_gives(nodes, lambda y: tf_shuffle(tf_conv(y[..., None], weights, 2), 4)[..., 0])
    assert (made.scale, made.multiple_of) == (2, 2)


def test_convolution_with_dilation():
    weights = kernel(3, 3, 1, 4)
    nodes = [placeholder(), const("a", weights), conv("b", "y", "a", dilations=integers(1, 2, 2, 1))]
    made = assert_gives(
        [*nodes, shuffled("end", "b", 2)], lambda y: tf_shuffle(tf_conv(y[..., None], weights, 1, 2), 2)[..., 0]
    )
    assert made.halo == 2


@pytest.mark.parametrize(("side", "step"), [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (9, 2), (9, 3), (9, 4), (8, 4)])
def test_transposed_convolution_crops_as_tensorflow(side, step):
    """FSRCNN's end: the output's size is computed from the input's."""
    weights = upkernel(side, step, 1, 1)
    nodes = [placeholder("y", -1, -1, -1, 1), *doubled_sizes("y", 1, step), const("w", weights)]
    made = (
        assert_gives(
            [*nodes, upconv("end", "size", "w", "y", step)],
            lambda y: tf_upconv(y[..., None], weights, step)[..., 0],
            (7, 9),
        )
        if side >= step
        else converted(*nodes, upconv("end", "size", "w", "y", step))
    )
    assert made.scale == step
    if side < step:
        luma = noise(5, 6)
        wanted = np.floor(np.clip(tf_upconv(luma[..., None] / 255, weights, step)[..., 0], 0, 1) * 255 + 0.5)
        assert np.abs(enlarged_luma(made, luma) - wanted).max() <= 1


def test_transposed_convolution_of_several_channels():
    first, last = kernel(3, 3, 1, 5), upkernel(4, 2, 1, 5)
    nodes = [placeholder(), const("a", first), conv("b", "y", "a"), *doubled_sizes("b", 1), const("w", last)]
    assert_gives(
        [*nodes, upconv("end", "size", "w", "b", 2)],
        lambda y: tf_upconv(tf_conv(y[..., None], first), last, 2)[..., 0],
        (6, 8),
    )


def test_transposed_convolution_of_a_fixed_size():
    """The file was frozen for 10 x 12 pixels; the network takes any."""
    weights = upkernel(4, 2, 1, 1)
    nodes = [placeholder("y", 1, 10, 12, 1), const("size", [1, 20, 24, 1]), const("w", weights)]
    assert_gives(
        [*nodes, upconv("end", "size", "w", "y", 2)], lambda y: tf_upconv(y[..., None], weights, 2)[..., 0], (7, 9)
    )


@pytest.mark.parametrize("block", [2, 3, 4])
def test_depth_to_space(block):
    """Three channels are left after it: rows, columns and channels each have their place."""
    first, last = kernel(3, 3, 1, 3 * block**2), kernel(1, 1, 3, 1)
    nodes = [placeholder(), const("a", first), conv("b", "y", "a"), shuffled("c", "b", block), const("d", last)]
    made = assert_gives(
        [*nodes, conv("end", "c", "d")],
        lambda y: tf_conv(tf_shuffle(tf_conv(y[..., None], first), block), last)[..., 0],
    )
    assert made.scale == block


ALPHA = np.array([0.1, -0.3, 0.6, 1.5], np.float32)
BIAS = np.array([0.2, -0.1, 0.3, 0.05], np.float32)
CONSTANTS = [
    const("alpha", ALPHA),
    const("bias", BIAS),
    const("half", np.float32(0.5)),
    const("slope", [np.float32(0.2)]),
]
ACTIVATIONS: dict[str, tuple[list[bytes], Callable[[Array], Array]]] = {
    "BiasAdd": ([node("z", "BiasAdd", "x", "bias")], lambda x: x + BIAS),
    "Add": ([node("z", "Add", "bias", "x")], lambda x: x + BIAS),
    "AddV2 of one value": ([node("z", "AddV2", "x", "half")], lambda x: x + 0.5),
    "Sub": ([node("z", "Sub", "bias", "x")], lambda x: BIAS - x),
    "RealDiv": ([node("z", "RealDiv", "x", "alpha")], lambda x: x / ALPHA),
    "Relu": ([node("z", "Relu", "x")], lambda x: np.where(x > 0, x, 0)),
    "Neg": ([node("z", "Neg", "x")], lambda x: -x),
    "Abs": ([node("z", "Abs", "x")], abs),
    "Tanh": ([node("z", "Tanh", "x")], np.tanh),
    "Minimum": ([node("z", "Minimum", "x", "bias")], lambda x: np.where(x < BIAS, x, BIAS)),
    "two of the picture": ([node("z", "Add", "x", "x:0")], lambda x: 2 * x),
    "LeakyRelu": ([node("z", "LeakyRelu", "x", alpha=entry(4, 0.3))], lambda x: np.where(x > 0, x, 0.3 * x)),
    "LeakyRelu by default": ([node("z", "LeakyRelu", "x")], lambda x: np.where(x > 0, x, 0.2 * x)),
    "leaky by Maximum": (
        [node("a", "Mul", "slope", "x"), node("z", "Maximum", "x", "a")],
        lambda x: np.where(x > 0, x, 0.2 * x),
    ),
    "leaky by two Relu, as LapSRN": (
        [
            *(const("less", np.float32(-1)), node("a", "Mul", "less", "x"), node("b", "Relu", "a")),
            *(node("c", "Mul", "slope", "b"), node("d", "Relu", "x"), node("z", "Sub", "d", "c")),
        ],
        lambda x: np.where(x > 0, x, 0.2 * x),
    ),
    "PReLU by Abs, as FSRCNN": (
        [
            *(node("a", "Abs", "x"), node("b", "Sub", "x", "a"), node("c", "Mul", "alpha", "b")),
            *(node("d", "Mul", "c", "half"), node("e", "Relu", "x"), node("z", "Add", "e", "d")),
        ],
        lambda x: np.where(x > 0, x, ALPHA * x),
    ),
    "constants of constants": (
        [node("a", "Neg", "alpha"), node("b", "Mul", "a", "half"), node("z", "Mul", "x", "b")],
        lambda x: x * -ALPHA / 2,
    ),
    "Identity": ([node("a", "Identity", "bias", "^end_of_x"), node("z", "Add", "x", "a")], lambda x: x + BIAS),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_element_by_element(name):
    nodes, truth = ACTIVATIONS[name]
    first, last = kernel(3, 3, 1, 4), kernel(1, 1, 4, 4) * np.float32(0.4)
    start = [placeholder(), const("k", first), conv("x", "y", "k"), *CONSTANTS]
    end = [const("l", last), conv("mixed", "z", "l"), const("up", np.float32(0.3)), node("seen", "Add", "mixed", "up")]
    assert_gives(
        [*start, *nodes, *end, shuffled("end", "seen", 2)],
        lambda y: tf_shuffle(tf_conv(truth(tf_conv(y[..., None], first)), last) + 0.3, 2)[..., 0],
    )


def test_transpose_to_planes():
    """As OpenCV's own files end; a constant after it is by column where it has several values, and refused."""
    turn = [const("order", [0, 3, 1, 2]), node("turned", "Transpose", "end", "order")]
    assert_gives([placeholder(), *nearest(2), *turn], lambda y: y.repeat(2, 0).repeat(2, 1))
    with pytest.raises(ModelError, match=re.escape("takes a constant of shape (4,)")):
        converted(placeholder(), *nearest(2), *turn, const("b", BIAS), node("z", "Add", "turned", "b"))


def test_planes_first_throughout():
    """As graphs frozen on a GPU are: every operator counts axes in the other order."""
    planes = {"data_format": entry(2, "NCHW"), "padding": entry(2, "SAME")}
    first, middle, last = kernel(3, 5, 1, 4), kernel(3, 3, 4, 16), upkernel(4, 2, 1, 4)
    nodes = [placeholder(), const("order", [0, 3, 1, 2]), node("x", "Transpose", "y", "order")]
    nodes += [const("a", first), node("b", "Conv2D", "x", "a", strides=integers(1, 1, 1, 1), **planes)]
    nodes += [const("bias", BIAS), node("c", "BiasAdd", "b", "bias", data_format=planes["data_format"])]
    nodes += [const("d", middle), node("e", "Conv2D", "c", "d", strides=integers(1, 1, 2, 2), **planes)]
    nodes += [node("f", "DepthToSpace", "e", block_size=entry(3, 2), data_format=planes["data_format"])]
    nodes += [node("shape", "Shape", "f"), *(const(f"at{place}", [place]) for place in range(5))]
    for place in (0, 2, 3):
        between = ["shape", f"at{place}", f"at{place + 1}", "at1"]
        nodes += [node(f"side{place}", "StridedSlice", *between, shrink_axis_mask=entry(3, 1))]
    nodes += [const("two", 2), node("tall", "Mul", "side2", "two"), node("wide", "Mul", "two", "side3")]
    nodes += [const("one", 1), node("size", "Pack", "side0", "one", "tall", "wide"), const("g", last)]
    nodes += [node("end", "Conv2DBackpropInput", "size", "g", "f", strides=integers(1, 1, 2, 2), **planes)]

    def truth(y: Array) -> Array:
        x = tf_conv(tf_conv(y[..., None], first) + BIAS, middle, 2)
        return tf_upconv(tf_shuffle(x, 2), last, 2)[..., 0]

    made = assert_gives(nodes, truth, (8, 12))
    assert (made.scale, made.multiple_of) == (2, 2)


def test_one_value_stands_for_all():
    """TensorFlow stores a constant of equal values so."""
    one = tensor(1, (1, 1, 1, 4), entry(5, struct.pack("<f", 0.7311)))
    nodes = [placeholder(), node("k", "Const", value=one), conv("a", "y", "k"), shuffled("end", "a", 2)]
    assert_gives(nodes, lambda y: 0.7311 * y.repeat(2, 0).repeat(2, 1))
    order = tensor(3, (4,), entry(7, varint(0) + varint(3) + varint(1) + varint(2)))
    turn = [node("o", "Const", value=order), node("turned", "Transpose", "end", "o")]
    assert_gives([*nodes, *turn], lambda y: 0.7311 * y.repeat(2, 0).repeat(2, 1))


def test_named_output():
    """Two stages, as LapSRN for x4 has them: each can be had."""
    more = [conv("again", "end", "ones"), shuffled("larger", "again", 2), node("side", "Relu", "end")]
    nodes = [placeholder(), *nearest(2), *more]
    assert converted(*nodes, output="larger").scale == 4
    assert converted(*nodes, output="side").scale == 2
    with pytest.raises(ModelError, match=r"net\.pb: has 2 ends \('larger', 'side'\) where one is wanted; name"):
        converted(*nodes)


def test_what_it_says():
    nodes = [placeholder(), const("a", kernel(5, 5, 1, 4)), conv("b", "y", "a"), node("c", "Tanh", "b")]
    made = converted(*nodes, node("unused", "NoOp"), shuffled("end", "c", 2))
    assert made.description == "a frozen TensorFlow graph on Y: 1 convolution, 1 shuffle, up to 4 channels"
    assert made.needs_fp32
    assert made.witness == "NumPy, float64"
    assert "bilinear" in made.colour
    assert made.parameters == 100
    graph = read_tf_pb(b"".join(nodes), "net.pb")
    assert graph.nodes["b"].inputs == ("y", "a")
    assert graph.nodes["b"].op == "Conv2D"


# ---- the halo, and tiles


def fsrcnn_like(scale: int = 3) -> list[bytes]:
    first, middle, last = kernel(5, 5, 1, 6), kernel(4, 4, 6, 6), upkernel(9, scale, 1, 6)
    nodes = [placeholder(), const("a", first), conv("b", "y", "a"), node("c", "Relu", "b")]
    nodes += [const("d", middle), conv("e", "c", "d"), node("f", "Add", "e", "b")]
    return [*nodes, *doubled_sizes("f", 1, scale), const("g", last), upconv("end", "size", "g", "f", scale)]


NETWORKS = {
    "plain": [placeholder(), const("a", kernel(5, 5, 1, 4)), conv("b", "y", "a"), shuffled("end", "b", 2)],
    "even": [placeholder(), const("a", kernel(4, 4, 1, 4)), conv("b", "y", "a"), shuffled("end", "b", 2)],
    "nearest": [placeholder(), *nearest(3)],
    "transposed": fsrcnn_like(),
    "transposed, further before": [
        *(placeholder(), *doubled_sizes("y", 1), const("w", upkernel(7, 2, 1, 1))),
        upconv("end", "size", "w", "y", 2),
    ],
    "strided": [placeholder(), const("a", kernel(5, 5, 1, 16)), conv("b", "y", "a", 2), shuffled("end", "b", 4)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_halo_is_exact(name):
    """What lies `halo` away from a tile is seen in it, and nothing beyond."""
    made = converted(*NETWORKS[name])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.content, options, providers=["CPUExecutionProvider"])
    side, first, count = 36, 12, 12  # of the picture; the tile's first pixel, and how many
    pixels = noise(1, 3, side, side).astype(np.float32) / 255
    tile = slice(first * made.scale, (first + count) * made.scale)
    whole = session.run(None, {"pixels": pixels})[0][:, :, tile, tile]
    reached = set()
    for place in range(side):
        changed = pixels.copy()
        changed[:, :, place] = 1 - changed[:, :, place].round()
        if (session.run(None, {"pixels": changed})[0][:, :, tile, tile] != whole).any():
            reached.add(place)
    assert max(first - min(reached), max(reached) - (first + count - 1)) == made.halo
    assert made.halo >= 1  # chroma is bilinear


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_equal_the_whole(name):
    engine = open_engine(model_of(converted(*NETWORKS[name])), "openvino", "fp32")
    pixels = noise(150, 166, 3)
    grid = Grid(engine.scale, engine.halo, engine.multiple_of, least=64)
    window = Window(pixels.shape, pixels.dtype, [pixels])
    tiled = np.concatenate(list(enlarge(window, grid, 40, lambda piece: engine(piece[None]))))
    np.testing.assert_array_equal(tiled, engine(pixels[None]))


# ---- colours


def halves_up(values: Array) -> Array:
    return np.floor(values + 0.5)


def halves_down(values: Array) -> Array:
    return np.ceil(values - 0.5)


def bilinear(plane: Array, scale: int) -> Array:
    size = (plane.shape[1] * scale, plane.shape[0] * scale)
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BILINEAR), np.float64)


def opencv_colours(rgb: Array, scale: int, rounded: Callable[[Array], Array]) -> Array:
    """dnn_superres from the formulas of OpenCV's manual (RGB <-> YCrCb), in float64, Y by repetition, chroma by Pillow.

    rounded: what becomes of enlarged chroma.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    y = halves_up(0.299 * red + 0.587 * green + 0.114 * blue)
    cr, cb = halves_up((red - y) * 0.713 + 128), halves_up((blue - y) * 0.564 + 128)
    y = y.repeat(scale, 0).repeat(scale, 1)
    cr, cb = (rounded(bilinear(plane.clip(0, 255), scale)) - 128 for plane in (cr, cb))
    return halves_up(np.stack([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], -1)).clip(0, 255)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kind", ["photo", "noise"])
def test_colours_as_opencv_documents(scale, kind):
    """Chroma's halves may be rounded up or down there: equal where that doesn't matter, and near both where it does."""
    rgb = astronaut()[20:81, 180:263] if kind == "photo" else noise(61, 83, 3)
    engine = open_engine(model_of(converted(placeholder(), *nearest(scale))), "openvino", "fp32")
    given = engine(rgb[None]).astype(int)
    up, down = (opencv_colours(rgb, scale, rounded) for rounded in (halves_up, halves_down))
    # The manual gives three digits of what OpenCV computes with, which matters next to a half.
    assert (given != up)[up == down].mean() < 0.005
    assert (abs(given - up) > 1).mean() < 0.002
    assert (abs(given - down) > 1).mean() < 0.002
    # 8-bit levels, whatever comes in.
    deep = engine(rgb[None].astype(np.float32) / 255)
    np.testing.assert_allclose(deep * 255, given, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["photo", "noise"])
def test_reference_has_the_same_colours(name, kind):
    """In whole numbers there, in float32 here: where Y is the same level, so are R, G and B."""
    made = converted(*NETWORKS[name])
    rgb = astronaut()[20:80, 180:262] if kind == "photo" else noise(60, 82, 3)
    given = open_engine(model_of(made), "openvino", "fp32")(rgb[None])
    difference = np.abs(made.reference(rgb / 255) * 255 - given)
    assert difference.max() <= 1 + 1e-9  # where fp32 and float64 fall on two sides of a half
    assert (difference > 0.5).mean() < 0.002


@pytest.mark.parametrize("name", ["espcn", "fsrcnn"])
def test_equals_opencv(tmp_path, name):
    """OpenCV itself as the witness, where it is there: the extra `peers`."""
    cv2 = pytest.importorskip("cv2")
    first, last = kernel(5, 5, 1, 8), kernel(4, 4, 8, 9)
    nodes = [placeholder(), const("a", first), conv("b", "y", "a"), node("c", "Tanh", "b"), const("d", last)]
    nodes += [conv("e", "c", "d"), shuffled("end", "e", 3)]
    path = tmp_path / "net.pb"
    path.write_bytes(b"".join(nodes))
    theirs = cv2.dnn_superres.DnnSuperResImpl.create()
    theirs.readModel(str(path))
    theirs.setModel(name, 3)
    rgb = astronaut()[20:121, 180:303]
    wanted = theirs.upsample(np.ascontiguousarray(rgb[..., ::-1]))[..., ::-1]
    difference = np.abs(open_engine(model_of(converted(*nodes)), "openvino", "fp32")(rgb[None]).astype(int) - wanted)
    assert difference.max() <= 2
    assert (difference <= 1).mean() > 0.999


# ---- files that can't be converted


def refused(content: bytes, words: str) -> str:
    """One sentence with the file, and nothing large is taken on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=re.escape(words)) as error:
            open_tf_pb(content, "net.pb")
        assert tracemalloc.get_traced_memory()[1] < 20e6 + 4 * len(content)
    finally:
        tracemalloc.stop()
    sentence = str(error.value)
    assert sentence.startswith("net.pb: ")
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


KERNEL = const("k", np.ones((3, 3, 1, 4)))
SOUND = b"".join([placeholder(), KERNEL, conv("a", "y", "k"), shuffled("end", "a", 2)])


def with_nodes(*nodes: bytes) -> bytes:
    return b"".join([placeholder(), KERNEL, *nodes])


def with_constant(value: bytes) -> bytes:
    """A bias that is `value`, an AttrValue."""
    return SOUND + node("b", "Const", value=value) + node("c", "BiasAdd", "end", "b")


UNSUITED = {
    "an unknown operator": (
        with_nodes(
            conv("a", "y", "k"), node("bn", "FusedBatchNormV3", "a", "k", "k", "k", "k"), shuffled("e", "bn", 2)
        ),
        "node 'bn' (FusedBatchNormV3) is an operator that isn't known here; there are Abs, Add,",
    ),
    "two inputs": (
        SOUND + placeholder("z") + node("sum", "Add", "end", "z"),
        "node 'z' (Placeholder) is a second input; networks with one, Y, can be converted",
    ),
    "two ends": (
        SOUND + node("z", "Relu", "a"),
        "has 2 ends ('end', 'z') where one is wanted; name the output node with",
    ),
    "colour": (
        placeholder("y", -1, -1, -1, 3) + nearest(2)[0] + nearest(2)[1] + nearest(2)[2],
        "takes [-1, -1, -1, 3]",
    ),
    "three channels": (
        with_nodes(const("w", np.ones((3, 3, 3, 4))), conv("a", "y", "w")),
        "node 'a' (Conv2D) has a kernel for 3 channels on 1",
    ),
    "ends in four channels": (with_nodes(conv("a", "y", "k")), "node 'a' (Conv2D) doesn't give one channel"),
    "ends in a constant": (KERNEL + node("z", "Neg", "k"), "node 'z' (Neg) doesn't give one channel"),
    "doesn't enlarge": (placeholder() + node("z", "Relu", "y"), "enlarges x1; networks for x2 to x16"),
    "enlarges by 64": (
        with_nodes(const("w", np.ones((1, 1, 1, 4096))), conv("a", "y", "w"), shuffled("e", "a", 64)),
        "enlarges x64; networks for x2 to x16",
    ),
    "one and a half": (
        with_nodes(const("w", np.ones((3, 3, 1, 9))), conv("a", "y", "w", 2), shuffled("e", "a", 3)),
        "enlarges x3/2",
    ),
    "VALID": (
        with_nodes(conv("a", "y", "k", padding="VALID"), shuffled("e", "a", 2)),
        "node 'a' (Conv2D) has padding VALID; SAME can be converted",
    ),
    "a size of its own": (
        placeholder() + const("w", np.ones((3, 3, 1, 1))) + const("s", [1, 50, 60, 1]) + upconv("e", "s", "w", "y", 2),
        "node 'e' (Conv2DBackpropInput) doesn't make its input exactly x2",
    ),
    "another factor": (
        b"".join([placeholder(), *doubled_sizes("y", 1, 3), const("w", np.ones((3, 3, 1, 1)))])
        + upconv("e", "size", "w", "y", 2),
        "node 'e' (Conv2DBackpropInput) doesn't make its input exactly x2",
    ),
    "an order by default": (
        SOUND + const("o", [0, 3, 1, 2]) + node("z", "Transpose", "end", "o") + node("s", "Conv2D", "z", "k"),
        "node 's' (Conv2D) wants NHWC and gets NCHW",
    ),
    "planes first": (
        with_nodes(node("a", "Conv2D", "y", "k", data_format=entry(2, "NCHW"), padding=entry(2, "SAME"))),
        "node 'a' (Conv2D) wants NCHW and gets NHWC",
    ),
    "a mask": (
        SOUND + const("m", np.ones((5, 7, 1))) + node("z", "Mul", "end", "m"),
        "node 'z' (Mul) takes a constant of shape (5, 7, 1); one value for each channel",
    ),
    "sizes as values": (SOUND + node("s", "Shape", "y") + node("z", "Mul", "end", "s"), "node 'z' (Mul) takes numbers"),
    "two sizes": (SOUND + node("z", "Add", "end", "y"), "node 'z' (Add) takes pictures of several sizes"),
    "turned around": (
        SOUND + const("o", [0, 2, 1, 3]) + node("z", "Transpose", "end", "o"),
        "node 'z' (Transpose) turns NHWC by [0, 2, 1, 3]",
    ),
    "half floats": (with_constant(tensor(19, (1,), entry(13, 5))), "node 'b' (Const) is of type 19"),
}


@pytest.mark.parametrize("name", UNSUITED)
def test_unsuited_graphs_are_refused(name):
    refused(*UNSUITED[name])


def test_an_end_that_is_not_there():
    with pytest.raises(UsageError, match=r"two\.pb: has no node 'nope'; its ends are: 'end', 'z'"):
        open_tf_pb(SOUND + node("z", "Relu", "a"), "two.pb", "nope")


def chain(length: int) -> bytes:
    """Nodes in a row."""
    return with_nodes(*(node(f"n{place}", "Relu", f"n{place - 1}" if place else "y") for place in range(length)))


def nested(depth: int) -> bytes:
    """A message in a message in a message."""
    content = b""
    for _ in range(depth):
        content = entry(1, content)
    return content


BILLION = (1000, 1000, 1000)
HOSTILE = {
    "nothing": (b"", "has no nodes"),
    "text": (b"node {\n  name: 'y'\n}\n", "not a TensorFlow graph, or cut off"),
    "another message": (entry(4, entry(1, 21)), "has no nodes"),
    "ONNX or SavedModel": (entry(1, 8) + SOUND, "not a frozen TensorFlow graph; freeze"),
    "a length beyond the file": (SOUND + varint(1 << 3 | 2) + varint(2**62) + b"abc", "not a TensorFlow graph, or cut"),
    "a length beyond its node": (
        SOUND + entry(1, varint(1 << 3 | 2) + varint(1000) + b"z"),
        "not a TensorFlow graph, or cut off",
    ),
    "a length beyond its tensor": (
        with_constant(entry(8, entry(1, 1) + varint(4 << 3 | 2) + varint(2**40) + b"abcd")),
        "node 'b' (Const) is broken",
    ),
    "an endless number": (SOUND + entry(1, b"\xff" * 100), "not a TensorFlow graph, or cut off"),
    "an endless packed number": (
        with_constant(tensor(3, (1,), entry(7, b"\xff" * 10_000))),
        "node 'b' (Const) is broken",
    ),
    "a number where text belongs": (SOUND + node("z", "Relu", "end")[:-3] + varint(99), "not a TensorFlow graph"),
    "an attribute that is a number": (
        SOUND + entry(1, entry(1, "z") + entry(5, entry(1, "T") + entry(2, 7))),
        "not a TensorFlow graph, or cut off",
    ),
    "a name that is no text": (SOUND + node("z", "Relu", "end").replace(b"z", b"\xff"), "not a TensorFlow graph"),
    "a name with line ends, and long": (SOUND + node("z\n" * 5000, "Foo", "end"), "(Foo) is an operator that isn't"),
    "line ends in its words": (
        with_nodes(conv("a", "y", "k", padding="SAME\n" * 500), shuffled("e", "a", 2)),
        "node 'a' (Conv2D) has padding SAME?SAME?",
    ),
    "a size in fractions": (
        placeholder()
        + const("w", np.ones((3, 3, 1, 1)))
        + const("s", [1, 36.5, 60, 1])
        + upconv("e", "s", "w", "y", 2),
        "node 'e' (Conv2DBackpropInput) doesn't know its output's size",
    ),
    "NaN": (SOUND + const("b", [np.nan]) + node("c", "BiasAdd", "end", "b"), "'b' (Const) holds NaN or infinity"),
    "infinity": (SOUND + const("b", [np.inf]) + node("c", "BiasAdd", "end", "b"), "'b' (Const) holds NaN or infinity"),
    "too few bytes": (with_constant(tensor(1, (2,), entry(4, b"abcd"))), "has the shape [2] and 1 values"),
    "half a value": (with_constant(tensor(1, (1,), entry(4, b"abcde"))), "node 'b' (Const) is broken"),
    "too many values": (with_constant(tensor(1, (1,), entry(5, bytes(8)))), "has the shape [1] and 2 values"),
    "no values": (with_constant(tensor(1, (1,))), "has the shape [1] and 0 values"),
    "a billion of one": (
        with_constant(tensor(1, BILLION, entry(5, bytes(4)))),
        "has the shape [1000, 1000, 1000] and repeats its 1 values; store them all",
    ),
    "a billion bytes missing": (with_constant(tensor(1, BILLION, entry(4, bytes(4)))), "and 1 values"),
    "more than all numbers": (with_constant(tensor(1, (2**62, 2**62), entry(5, bytes(4)))), "repeats its 1 values"),
    "a negative side": (with_constant(tensor(1, (-1, 4), entry(4, bytes(16)))), "has the shape [-1, 4]"),
    "negative sides": (with_constant(tensor(1, (-2, -2), entry(4, bytes(16)))), "has the shape [-2, -2]"),
    "a hundred axes": (with_constant(tensor(1, (1,) * 100, entry(4, bytes(4)))), "has the shape [1, 1, 1,"),
    "an empty kernel": (
        with_nodes(node("w", "Const", value=tensor(1, (3, 3, 1, 0))), conv("a", "y", "w")),
        "node 'a' (Conv2D) has no constant float32 kernel",
    ),
    "many large constants of one value": (
        SOUND
        + b"".join(node(f"b{n}", "Const", value=tensor(1, (1, 2**19), entry(5, bytes(4)))) for n in range(40))
        + b"".join(node(f"c{n}", "Add", f"c{n - 1}" if n else "end", f"b{n}") for n in range(40)),
        "has the shape [1, 524288] and repeats its 1 values",
    ),
    "constants that grow by broadcasting": (
        SOUND
        + const("row", np.ones((1, 5000)))
        + const("col", np.ones((5000, 1)))
        + node("m", "Mul", "row", "col")
        + node("z", "Add", "m", "end"),
        "node 'm' (Mul) computes 25000000 values",
    ),
    "a list that doubles": (
        SOUND
        + const("p0", 1)
        + b"".join(node(f"p{n}", "Pack", f"p{n - 1}", f"p{n - 1}") for n in range(1, 40))
        + node("z", "Add", "p39", "end"),
        "computes 8192 values",
    ),
    "a circle": (with_nodes(node("a", "Add", "y", "b"), node("b", "Relu", "a"), node("c", "Relu", "b")), "in a circle"),
    "nothing but a circle": (node("a", "Relu", "b") + node("b", "Relu", "a"), "all go round in a circle"),
    "its own input": (with_nodes(node("a", "Add", "y", "a")), "all go round in a circle"),
    "an input that isn't there": (SOUND + node("z", "Add", "end", "ghost"), "wants a node 'ghost', which isn't there"),
    "a second output of a node": (SOUND + node("z", "Add", "end", "a:1"), "wants a node 'a:1', which isn't there"),
    "a name twice": (SOUND + node("a", "Relu", "end"), "has two nodes named 'a'"),
    "inputs missing": (SOUND + node("z", "Add", "end"), "node 'z' (Add) has 1 inputs and should have 2"),
    "a hundred thousand nodes": (
        entry(1, b"") + b"".join(entry(1, entry(1, str(n))) for n in range(10**5)),
        "has more",
    ),
    "a long chain": (chain(2000), "enlarges x1"),
    "messages within messages": (nested(3000), "not a TensorFlow graph, or cut off"),
    "strides of nothing": (with_nodes(conv("a", "y", "k", 0), shuffled("e", "a", 2)), "has strides of [1, 0, 0, 1]"),
    "strides of many": (with_nodes(conv("a", "y", "k", 2**40), shuffled("e", "a", 2)), "has strides of [1, 10995"),
    "strides that are three": (
        with_nodes(node("a", "Conv2D", "y", "k", strides=integers(1, 1, 1)), shuffled("e", "a", 2)),
        "node 'a' (Conv2D) has strides of [1, 1, 1]",
    ),
    "blocks of nothing": (with_nodes(conv("a", "y", "k"), shuffled("e", "a", 0)), "has blocks of 0 on 4 channels"),
    "blocks of less": (with_nodes(conv("a", "y", "k"), shuffled("e", "a", -2)), "has blocks of -2 on 4 channels"),
    "blocks that don't fit": (with_nodes(conv("a", "y", "k"), shuffled("e", "a", 3)), "has blocks of 3 on 4 channels"),
    "a node with many inputs": (SOUND + node("z", "Pack", *["end"] * 10**5), "not a TensorFlow graph, or cut off"),
    "an order in fractions": (
        SOUND + const("o", [0.0, 3, 1, 2]) + node("z", "Transpose", "end", "o"),
        "node 'z' (Transpose) is broken",
    ),
    "whole numbers that are too large": (
        SOUND + node("o", "Const", value=tensor(3, (1,), entry(7, varint(2**60)))) + node("z", "Transpose", "end", "o"),
        "node 'z' (Transpose) turns NHWC by []",
    ),
    "a part in fractions": (
        SOUND + const("f", [0.5]) + node("s", "StridedSlice", "f", "f", "f", "f") + node("z", "Add", "end", "s"),
        "node 's' (StridedSlice) cuts more than one axis",
    ),
    "a slice from a lone number": (
        SOUND
        + b"".join([node("s", "Shape", "y"), const("n", 1), const("one", [1])])
        + node("cut", "StridedSlice", "s", "n", "one", "one", shrink_axis_mask=entry(3, 1))
        + node("z", "Add", "cut", "end"),
        "node 'cut' (StridedSlice) cuts more than one axis",
    ),
    "a slice that keeps its axis": (  # bit 1 is of a second axis, which isn't there
        b"".join([placeholder(), *doubled_sizes("y", 1)]).replace(
            entry(5, entry(1, "shrink_axis_mask") + entry(2, entry(3, 1))),
            entry(5, entry(1, "shrink_axis_mask") + entry(2, entry(3, 2))),
        )
        + const("w", np.ones((3, 3, 1, 1)))
        + upconv("end", "size", "w", "y", 2),
        "node 'size' (Pack) is broken",
    ),
    "a slice beyond": (
        SOUND
        + b"".join([node("s", "Shape", "y"), const("n", [9]), const("one", [1])])
        + node("cut", "StridedSlice", "s", "n", "n", "one", shrink_axis_mask=entry(3, 1))
        + node("z", "Add", "cut", "end"),
        "node 'cut' (StridedSlice) is broken",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name):
    refused(*HOSTILE[name])


def test_cut_files_are_refused():
    """At every byte."""
    assert converted(SOUND).scale == 2
    for length in range(len(SOUND)):
        with pytest.raises(ModelError, match=r"^net\.pb: "):
            open_tf_pb(SOUND[:length], "net.pb")


@pytest.mark.parametrize("seed", range(4))
def test_wrong_bytes_end_in_a_sentence(seed):
    """Where they don't matter, in a network."""
    changes = np.random.default_rng(seed)
    content = b"".join(fsrcnn_like(2))
    for _ in range(150):
        wrong = bytearray(content)
        for place in changes.integers(0, len(wrong), 3):
            wrong[place] = changes.integers(0, 256)
        with suppress(ModelError):
            assert open_tf_pb(bytes(wrong), "net.pb").scale >= 2


def test_a_constant_used_often_is_stored_once():
    wide = const("w", np.ones((3, 3, 64, 64)))
    nodes = [placeholder(), const("k", np.ones((1, 1, 1, 64))), conv("c0", "y", "k"), wide]
    nodes += [conv(f"c{place}", f"c{place - 1}", "w") for place in range(1, 200)]
    made = converted(*nodes, shuffled("e", "c199", 8))
    assert len(made.content) < 3 * 4 * 9 * 64 * 64
    assert made.halo == -(-199 // 1)


def test_needs_no_tensorflow_and_no_torch(tmp_path):
    """And says what it needs."""
    path = tmp_path / "net.pb"
    path.write_bytes(SOUND)
    code = (
        "import sys; sys.modules.update(tensorflow=None, torch=None)\n"
        "from pathlib import Path\n"
        "from superfine.weights.tf_pb import open_tf_pb\n"
        "assert 'onnx' not in sys.modules\n"
        "content = Path(sys.argv[1]).read_bytes()\n"
        "assert open_tf_pb(content, 'net.pb').scale == 2\n"
        "sys.modules['onnx'] = None\n"
        "from superfine.errors import MissingExtraError\n"
        "try:\n"
        "    open_tf_pb(content, 'net.pb')\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "converting a network needs the extra 'convert': pip install '.[convert]'\n"
