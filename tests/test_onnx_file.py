"""Strangers' ONNX files: refused before anything is parsed, or given RGB in 0..1 as their makers give it."""

import time
import tracemalloc
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from superfine.classical.resample import resize
from superfine.engine import open_engine
from superfine.errors import ModelError
from superfine.models import Card, Model, list_models
from superfine.weights import onnx_file
from superfine.weights.onnx_file import Interface, check_onnx, open_onnx

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
PIXELS = np.random.default_rng(0).random((12, 16, 3), dtype=np.float32)


def network(*before, weights=None, kind="float32", shape=(1, 3, "h", "w"), large=(1, 3, "H", "W"), operators=18):
    """Twice as large by nearest neighbour after the nodes `before`, which lead from `x` to `z`."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [*before] or [helper.make_node("Identity", ["x"], ["z"])]
    nodes.append(helper.make_node("Resize", ["z", "roi", "scales"], ["y"], **NEAREST))
    stored = {
        "roi": np.empty(0, np.float32),
        "scales": np.float32([1, 1, 2, 2] if shape[1] in (1, 3) else [1, 2, 2, 1]),
    } | (weights or {})
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, large)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", operators)], ir_version=9)


# ---- refused before anything is parsed


def claiming(*dims, kind=TensorProto.FLOAT, data=b"", name="weights"):
    tensor = TensorProto(name=name, data_type=kind, raw_data=data)
    tensor.dims.extend(dims)
    return tensor


def with_initializer(tensor):
    proto = network()
    proto.graph.initializer.append(tensor)
    return proto


def with_constant(tensor):
    return network(helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Identity", ["x"], ["z"]))


def outside(path):
    tensor = claiming(4)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return tensor


def making(kind, inputs, **weights):
    """A node that makes much out of little."""
    return network(
        helper.make_node(kind, inputs, ["much"]), helper.make_node("Identity", ["x"], ["z"]), weights=weights
    )


def nested(depth):
    graph = helper.make_graph([], "inner", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["condition"], ["made"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "outer", [], [])
    proto = network(weights={"condition": np.array(True)})
    proto.graph.node.insert(0, graph.node[0])
    return proto


def in_a_row(kind, count, *others):
    """So many of one operator, each on the last one's result."""
    wires = ["x", *(f"w{place}" for place in range(1, count)), "z"]
    return network(*[helper.make_node(kind, [wires[place], *others], [wires[place + 1]]) for place in range(count)])


def with_function():
    proto = network()
    proto.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], proto.opset_import)
    )
    return proto


BILLION = np.array([10**9])
MAKERS = {
    "ConstantOfShape": making("ConstantOfShape", ["n"], n=BILLION),
    "ConstantOfShape of many sides": making("ConstantOfShape", ["n"], n=np.array([1000] * 3)),
    "Expand": making("Expand", ["one", "n"], one=np.float32(1), n=BILLION),
    "Tile": making("Tile", ["some", "n"], some=np.ones(1000, np.float32), n=np.array([10**6])),
    "Range": making("Range", ["zero", "n", "step"], zero=np.array(0), n=np.array(10**9), step=np.array(1)),
    "Range backwards": making("Range", ["n", "zero", "step"], zero=np.array(0), n=np.array(10**9), step=np.array(-1)),
    "OneHot": making("OneHot", ["zero", "n", "values"], zero=np.array([0]), n=BILLION, values=np.float32([0, 1])),
    "computed": network(
        helper.make_node("Mul", ["n", "n"], ["many"]),
        helper.make_node("Concat", ["many", "n"], ["sides"], axis=0),
        helper.make_node("ConstantOfShape", ["sides"], ["much"]),
        helper.make_node("Identity", ["x"], ["z"]),
        weights={"n": np.array([1000])},
    ),
    "many of them": network(
        *[helper.make_node("ConstantOfShape", ["n"], [f"much{place}"]) for place in range(100)],
        helper.make_node("Identity", ["x"], ["z"]),
        weights={"n": np.array([10**6])},
    ),
    "from attributes": network(
        helper.make_node("Constant", [], ["n"], value_ints=[10**5, 10**4]),
        helper.make_node("ConstantOfShape", ["n"], ["much"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ),
}
HOSTILE = {
    "weights elsewhere": (with_initializer(outside("weights.bin")), "keeps weights in other files"),
    "weights in another folder": (with_initializer(outside("../../etc/passwd")), "keeps weights in other files"),
    "weights at a path": (with_constant(outside("/etc/passwd")), "keeps weights in other files"),
    "a custom operator": (
        network(helper.make_node("Steal", ["x"], ["z"], domain="evil")),
        "wants the operator 'Steal' of 'evil', which aren't ONNX's own",
    ),
    "functions": (with_function(), "has functions of its own"),
    "a claim of 10^9 elements": (with_initializer(claiming(10**9)), r"claims 1,000,000,000 elements; .* are refused"),
    "a claim of 10^9 in a node": (with_constant(claiming(1000, 1000, 1000)), "claims 1,000,000,000 elements"),
    "a claim past all numbers": (with_initializer(claiming(2**62, 2**62)), "claims more than 1,000,000,000,000,000"),
    "sides below nothing": (with_initializer(claiming(-1, -(10**9))), r"claims sides of \[-1, -1000000000\]"),
    "more than is there": (
        with_initializer(claiming(1000, data=bytes(40))),
        "claims 1,000 elements and holds 40 bytes",
    ),
    "less than is there": (with_initializer(claiming(2, data=bytes(40))), "claims 2 elements and holds 40 bytes"),
    "a kind that isn't": (with_initializer(claiming(10, kind=99, data=bytes(40))), "claims 10 elements"),
    "graphs in graphs": (nested(6), "has graphs in graphs, more than 4 deep"),
    "a loop": (network(helper.make_node("Loop", ["", ""], ["z"])), "has the operator Loop, which isn't run here"),
    "a choice": (network(helper.make_node("If", ["c"], ["z"])), "has the operator If, which isn't run here"),
    "chance": (network(helper.make_node("RandomNormalLike", ["x"], ["z"])), "has the operator RandomNormalLike"),
    "from nowhere": (network(helper.make_node("Relu", ["nowhere"], ["z"])), "uses 'nowhere' before it is made"),
    "many inputs": (
        network(helper.make_node("Concat", ["x"] * 257, ["z"], axis=1, name="all")),
        r"'all' \(Concat\) has 257 inputs, and more than 256 take engines too long",
    ),
    "many nodes": (in_a_row("Transpose", 20_001), "has more than 20,000 nodes"),
    "many inputs of many nodes": (
        network(*[helper.make_node("Concat", ["x"] * 250, [f"z{place or ''}"], axis=1) for place in range(500)]),
        "has many nodes of many inputs, which take engines too long",
    ),
    "many operators in a row": (in_a_row("Relu", 385), r"'Relu' \(Relu\) is the last of 385 operators"),
    "many sums in a row": (in_a_row("Add", 385, "x"), "is the last of 385 operators on single elements in a row"),
    "a count that can't be read": (
        network(
            helper.make_node("NonZero", ["n"], ["place"]),
            helper.make_node("ConstantOfShape", ["place"], ["much"]),
            helper.make_node("Identity", ["x"], ["z"]),
            weights={"n": np.array([10**9])},
        ),
        "in a way that can't be checked",
    ),
} | {
    name: (proto, "elements of nearly nothing; more than 67,108,864 together are refused")
    for name, proto in MAKERS.items()
}


@pytest.mark.parametrize(("proto", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_at_once(proto, words):
    content = proto.SerializeToString()
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ModelError, match=rf"^a\.onnx: .*{words}"):
            check_onnx(content, "a.onnx")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 2
    assert peak < 5_000_000


def test_a_file_cut_anywhere_is_refused():
    content = network(weights={"more": np.ones(50, np.float32)}).SerializeToString()
    for cut in range(len(content)):
        with pytest.raises(ModelError, match=r"a\.onnx: "):
            check_onnx(content[:cut], "a.onnx")


def test_lengths_beyond_the_file_are_refused():
    content = bytearray(network().SerializeToString())
    for place in range(len(content) - 5):
        # Any five bytes may be a length: what isn't sound is refused, and nothing takes memory.
        damaged = content[:place] + b"\xff\xff\xff\xff\x7f" + content[place + 5 :]
        try:
            check_onnx(bytes(damaged), "a.onnx")
        except ModelError as error:
            assert str(error).startswith("a.onnx: ")  # noqa: PT017 - a text may hold any bytes, so some are sound


@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.card.name)
def test_our_own_networks_pass(model):
    check_onnx(model.content, model.source)


def test_honest_makers_pass():
    few = {"n": np.array([1, 3, 4, 4])}
    check_onnx(making("ConstantOfShape", ["n"], **few).SerializeToString(), "a.onnx")
    by_picture = network(
        helper.make_node("Shape", ["x"], ["sides"]),
        helper.make_node("ConstantOfShape", ["sides"], ["zeros"]),
        helper.make_node("Add", ["x", "zeros"], ["z"]),
    )
    check_onnx(by_picture.SerializeToString(), "a.onnx")
    check_onnx(in_a_row("Relu", 384).SerializeToString(), "a.onnx")
    blocks = [("Conv", ["r{}", "w"], "c{}"), ("Relu", ["c{}"], "a{}"), ("Conv", ["a{}", "w"], "d{}")]
    residual = [
        helper.make_node(kind, [each.format(place) for each in inputs], [output.format(place)])
        for place in range(200)
        for kind, inputs, output in [*blocks, ("Add", ["r{}", "d{}"], f"r{place + 1}")]
    ]
    ends = [helper.make_node("Identity", ["x"], ["r0"]), helper.make_node("Identity", ["r200"], ["z"])]
    deep = network(ends[0], *residual, ends[1], weights={"w": np.zeros((3, 3, 1, 1), np.float32)})
    check_onnx(deep.SerializeToString(), "a.onnx")
    half = with_initializer(TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[3], int32_data=[1, 2, 3]))
    check_onnx(half.SerializeToString(), "a.onnx")


# ---- with what its maker does around it


def interface(**changes):
    known = Interface(
        channels=3, channels_last=False, rows=None, cols=None, dtype="float32", scale=2, multiple_of=1, colour="rgb",
        black=0, white=1, parameters=0, how="given",
    )  # fmt: skip
    return replace(known, **changes)


def enlarged(opened, pixels=PIXELS):
    card = Card(name="a", scale=opened.scale, halo=8, needs_fp32=True)
    onnx.checker.check_model(onnx.load_from_string(opened.content), full_check=True)
    return open_engine(Model(card, opened.content, "a.onnx"), "openvino", "fp32")(pixels[None])


def doubled(pixels):
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


SHIFTED = {"gain": np.float32(0.5), "step": np.float32(0.1)}


def dimmed(shape=(1, 3, "h", "w"), large=(1, 3, "H", "W"), kind="float32", operators=18, offset=(0.1, 0.0, 0.2)):
    """Half as much and an offset for each channel, so that order and range show."""
    channels = [offset] if shape[1] == 3 or shape[-1] == 3 else [offset[:1]]
    turned = np.array(channels, kind).reshape((1, 1, 1, -1) if shape[1] not in (1, 3) else (1, -1, 1, 1))
    nodes = [helper.make_node("Mul", ["x", "gain"], ["m"]), helper.make_node("Add", ["m", "offset"], ["z"])]
    weights = {"gain": np.array(0.5, kind), "offset": turned}
    return network(*nodes, weights=weights, shape=shape, large=large, kind=kind, operators=operators)


def both(opened, wanted, tolerance=2e-6):
    """The file, and what stands beside it as a second computation."""
    np.testing.assert_allclose(enlarged(opened), wanted, atol=tolerance)
    np.testing.assert_allclose(opened.reference(PIXELS), wanted, atol=tolerance)


@pytest.mark.parametrize("operators", [11, 18])
@pytest.mark.parametrize(("black", "white"), [(0, 1), (0, 255), (-1, 1)])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_colour_and_range(colour, black, white, operators):
    width = white - black
    offset = tuple(0.5 * black + width * each for each in (0.1, 0.0, 0.2))
    given = dimmed(operators=operators, offset=offset).SerializeToString()
    opened = open_onnx(given, "a.onnx", interface(colour=colour, black=black, white=white))
    # In its own range: 0.5 * (black + width * u) + 0.5 * black + width * offset = black + width * (u / 2 + offset)
    wanted = doubled(0.5 * PIXELS + np.float32([0.1, 0, 0.2] if colour == "rgb" else [0.2, 0, 0.1]))
    both(opened, wanted, 2e-5)


def test_channels_last():
    given = dimmed((1, "h", "w", 3), (1, "H", "W", 3)).SerializeToString()
    opened = open_onnx(given, "a.onnx", interface(channels_last=True))
    both(opened, doubled(0.5 * PIXELS + np.float32([0.1, 0, 0.2])))


def test_half_floats():
    opened = open_onnx(dimmed(kind="float16").SerializeToString(), "a.onnx", interface(dtype="float16"))
    both(opened, doubled(0.5 * PIXELS + np.float32([0.1, 0, 0.2])), 1e-3)


@pytest.mark.parametrize(
    ("black", "white", "kind", "wanted"),
    [
        (0, 1, "float16", 255 * float(np.finfo(np.float16).epsneg)),
        (0, 255, "float16", float(1 - np.nextafter(np.float16(1), np.float16(0))) * 255),
        (-1, 1, "float16", 255 * float(np.finfo(np.float16).epsneg) / 2),
        (0, 1, "float32", 0),
    ],
)
def test_what_the_output_rounds_to(black, white, kind, wanted):
    content = dimmed(kind=kind).SerializeToString()
    opened = open_onnx(content, "a.onnx", interface(dtype=kind, black=black, white=white))
    assert opened.rounding == pytest.approx(wanted, rel=1e-12)


def grouped():
    """What onnx's evaluator can't run: a transposed convolution in groups. Means of two channels, twice as large."""
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["x", "x"], ["six"], axis=1),
            helper.make_node("ConvTranspose", ["six", "w"], ["y"], strides=[2, 2], group=3),
        ],
        "stranger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, "h", "w"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, "H", "W"))],
        [numpy_helper.from_array(np.full((6, 1, 2, 2), 0.5, np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def test_onnx_runtime_where_the_evaluator_fails():
    runtime = pytest.importorskip("onnxruntime", reason="the second computation")
    opened = open_onnx(grouped(), "a.onnx", interface())
    assert opened.witness == f"ONNX Runtime {runtime.__version__}, CPU"
    both(opened, doubled((PIXELS[..., [0, 2, 1]] + PIXELS[..., [1, 0, 2]]) / 2))


def test_without_a_second_computation_it_says_what_to_install(monkeypatch):
    known = find_spec
    monkeypatch.setattr(onnx_file, "find_spec", lambda package: None if package == "onnxruntime" else known(package))
    with pytest.raises(ModelError, match=r"a\.onnx: no second computation .*; onnx: .*; pip install onnxruntime, or"):
        open_onnx(grouped(), "a.onnx", interface())


def test_the_evaluator_is_the_first_choice():
    opened = open_onnx(network().SerializeToString(), "a.onnx", interface())
    assert opened.witness == f"onnx {onnx.__version__}, its evaluator in NumPy"


def test_bytes():
    opened = open_onnx(network(kind="uint8").SerializeToString(), "a.onnx", interface(dtype="uint8", white=255))
    both(opened, doubled(np.floor(PIXELS * 255 + 0.5) / 255))


@pytest.mark.parametrize("operators", [10, 11, 18])
def test_luma_and_bicubic_chroma(operators):
    proto = dimmed((1, 1, "h", "w"), (1, 1, "H", "W"), operators=max(operators, 11))
    if operators == 10:  # before 11 Resize has two inputs
        proto.opset_import[0].version = 10
        node = proto.graph.node[-1]
        node.CopyFrom(helper.make_node("Resize", ["z", "scales"], ["y"], mode="nearest"))
    opened = open_onnx(proto.SerializeToString(), "a.onnx", interface(channels=1, colour="y"))
    luma = (PIXELS @ np.float32([0.299, 0.587, 0.114]))[..., None]
    wanted = resize(PIXELS - luma, (24, 32)) + doubled(0.5 * luma + 0.1)
    np.testing.assert_allclose(enlarged(opened), np.clip(wanted, 0, 1), atol=2e-6)
    np.testing.assert_allclose(opened.reference(PIXELS), wanted, atol=2e-6)
    # The evaluator lacks the oldest Resize.
    assert opened.witness.startswith("onnx " if operators > 10 else "ONNX Runtime ")


def test_a_fixed_size_stays_fixed():
    given = dimmed((1, 3, 12, 16), (1, 3, 24, 32)).SerializeToString()
    opened = open_onnx(given, "a.onnx", interface(rows=12, cols=16))
    (port,) = onnx.load_from_string(opened.content).graph.input
    assert [side.dim_value for side in port.type.tensor_type.shape.dim] == [1, 3, 12, 16]
    both(opened, doubled(0.5 * PIXELS + np.float32([0.1, 0, 0.2])))


def test_names_that_are_taken():
    proto = network()
    for old, new in (("x", "pixels"), ("y", "enlarged"), ("z", "superfine/Identity_0")):
        for node in proto.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for port in (*proto.graph.input, *proto.graph.output):
            port.name = new if port.name == old else port.name
    both(open_onnx(proto.SerializeToString(), "a.onnx", interface()), doubled(PIXELS))


def test_operators_that_are_too_old():
    proto = network(operators=7)
    with pytest.raises(ModelError, match=r"a\.onnx: its operators are of ONNX's set 7; renew it"):
        open_onnx(proto.SerializeToString(), "a.onnx", interface())


def test_hostile_files_are_refused_here_too():
    with pytest.raises(ModelError, match="keeps weights in other files"):
        open_onnx(with_initializer(outside("weights.bin")).SerializeToString(), "a.onnx", interface())
