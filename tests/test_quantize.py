"""Networks in 8 bits: levels where they must be, close to float in two engines, and refused where there is nothing."""

import platform

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.signal import correlate
from skimage import data

import superfine.engine
from fakes import model_of, tiled
from superfine.classical.resample import matlab_resize
from superfine.engine import open_engine
from superfine.errors import TrainingError
from superfine.evaluate.metrics import psnr
from superfine.models import Model, find_model, read_model
from superfine.train.quantize import main, quantize
from test_engine import KINDS, RUNS, picture

each_run = pytest.mark.parametrize("run", RUNS, ids="-".join)
PADS = {"pads": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def photo():
    """An astronaut, reduced by two: (256, 256, 3) uint8."""
    return matlab_resize(data.astronaut(), (256, 256))


@pytest.fixture(scope="module")
def float_model():
    return next(model for model in find_model("fast") if model.card.scale == 2)


@pytest.fixture(scope="module")
def model(float_model, photo):
    """The shipped one as this module makes it, calibrated on two corners of the picture."""
    content = quantize(float_model.content, [photo[:40, :40], photo[100:140, 100:140]])
    return Model(float_model.card, content, "in-8-bits.onnx")


def constants(content):
    graph = onnx.ModelProto.FromString(content).graph
    return {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}


def nodes_of(content):
    return onnx.ModelProto.FromString(content).graph.node


def one_convolution(weight):
    return model_of([("Conv", ["x", "w"], "y", PADS)], {"w": weight}, scale=1, fp32_end=True)


# ---- levels


def test_each_output_of_a_weight_has_its_own_scale():
    weight = np.zeros((3, 3, 3, 3), np.float32)
    weight[0, 0, 0, :2] = [1.27, -0.5]
    weight[1, 2, 1, 1] = -0.0127
    held = constants(quantize(one_convolution(weight).content, [np.zeros((4, 4, 3), np.uint8)]))
    np.testing.assert_allclose(held["w.scale"], [0.01, 0.0001, 1], rtol=1e-6)
    wanted = np.zeros(weight.shape, np.int8)
    wanted[0, 0, 0, :2], wanted[1, 2, 1, 1] = [127, -50], -127
    np.testing.assert_array_equal(held["w.q"], wanted)
    assert held["w.q"].dtype == np.int8
    assert "w" not in held, "the weight in float is gone"


def test_an_8_bit_picture_keeps_its_levels():
    """The picture goes in as it is, so only the rounding of the weights is left: half a step for each of them."""
    weight = np.random.default_rng(0).normal(0, 0.1, (3, 3, 3, 3)).astype(np.float32)
    model = one_convolution(weight)
    content = quantize(model.content, [np.zeros((4, 4, 3), np.uint8)])
    pixels = picture((19, 23), np.uint8).astype(np.float32) / 255
    x = np.pad(pixels.transpose(2, 0, 1).astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    wanted = np.stack([correlate(x, kernel, "valid")[0] for kernel in weight.astype(np.float64)], 2).clip(0, 1)
    steps = np.abs(weight).max((1, 2, 3)) / 127
    box = correlate(x, np.ones((3, 3, 3)), "valid")[0]  # the sum of all that the weights meet
    made = open_engine(Model(model.card, content, "8"), "openvino", "fp32")(pixels[None])
    difference = np.abs(made - wanted)
    assert (difference <= box[..., None] * steps / 2 + 1e-5).all()
    assert difference.max() > 1e-4, "nothing was rounded"


def levels_after(pixels, bias=0.0):
    """Scale and zero of what the second of two convolutions takes: `pixels` plus `bias`."""
    weight = np.eye(3, dtype=np.float32)[:, :, None, None]
    nodes = [("Conv", ["x", "w", "b"], "middle", {}), ("Conv", ["middle", "w"], "y", {})]
    content = model_of(nodes, {"w": weight, "b": np.full(3, bias, np.float32)}, scale=1).content
    held = constants(quantize(content, [pixels]))
    return float(held["middle.scale"]), int(held["middle.zero"])


def test_a_range_is_what_was_seen():
    """Even values leave nothing to clip, negative ones move zero, and what is always zero takes any levels."""
    even = np.linspace(0, 1, 128 * 96 * 3, dtype=np.float32).reshape(128, 96, 3)
    assert levels_after(even) == (pytest.approx(1 / 255, rel=1e-3), 0)
    assert levels_after(even, bias=-0.25) == (pytest.approx(1 / 255, rel=0.03), 64)
    assert levels_after(np.zeros_like(even)) == (1, 0)


def test_a_flash_is_clipped_where_the_squares_are_least():
    """Of n values one is 1, the rest small: (a / 255)^2 / 12 + (1 - a)^2 / n is least where a = k / (1 + k)."""
    pixels = np.random.default_rng(0).uniform(0, 0.1, (300, 220, 3)).astype(np.float32)
    pixels[0, 0, 0] = 1
    k = 12 * 255**2 / pixels.size
    assert levels_after(pixels)[0] * 255 == pytest.approx(k / (1 + k), abs=0.03)


# ---- what the file is


def test_only_convolutions_are_in_8_bits(float_model, model):
    """The base takes the picture as it is; the long skip takes what the second convolution takes."""
    before, after = nodes_of(float_model.content), nodes_of(model.content)
    made_by = {name: node for node in after for name in node.output}
    for node in after:
        if node.op_type == "Conv":
            assert {made_by[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}
        if node.op_type == "Pad":
            assert node.input[0] == "pixels"
        if "add_96" in node.output:
            assert {made_by[name].op_type for name in node.input} == {"DequantizeLinear"}
    others = [node.op_type for node in after if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert others == [node.op_type for node in before]
    assert len(model.content) < len(float_model.content) / 2


def test_weights_stored_as_fp16():
    weight = np.random.default_rng(3).normal(0, 0.1, (3, 3, 3, 3)).astype(np.float16)
    nodes = [("Cast", ["half"], "w", {"to": onnx.TensorProto.FLOAT}), ("Conv", ["x", "w"], "y", PADS)]
    pixels = [np.zeros((4, 4, 3), np.uint8)]
    half = quantize(model_of(nodes, {"half": weight}, scale=1).content, pixels)
    whole = quantize(one_convolution(weight.astype(np.float32)).content, pixels)
    assert "Cast" not in [node.op_type for node in nodes_of(half)]
    assert constants(half).keys() == constants(whole).keys()
    for name, value in constants(whole).items():
        np.testing.assert_array_equal(constants(half)[name], value)


def test_nothing_to_quantise():
    bare = model_of([("Neg", ["x"], "y", {})], {}, scale=1)
    with pytest.raises(TrainingError, match="no convolution with stored weights"):
        quantize(bare.content, [np.zeros((4, 4, 3), np.uint8)])


def test_nothing_to_look_at(float_model):
    with pytest.raises(TrainingError, match="no picture to see ranges on"):
        quantize(float_model.content, [])


# ---- what it does


@each_run
def test_close_to_float(float_model, model, photo, run):
    """Far closer to the network in float than that one is to the truth: 0.05 dB at 37 dB are 56 dB between the two."""
    wanted, made = (open_engine(one, *run)(photo[None]).astype(np.float64) / 255 for one in (float_model, model))
    assert 48 < psnr(made, wanted) < 70


def test_two_engines_agree(model, photo):
    """Both round the same sums; a tie that falls to the other side moves a level or two."""
    levels = [open_engine(model, *run)(photo[None]).astype(int) for run in (RUNS[0], RUNS[-1])]
    assert np.abs(levels[0] - levels[1]).max() <= 2


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="8 bits are native elsewhere in other ways")
@pytest.mark.parametrize("precision", ["bf16", "f32"])
def test_openvino_computes_in_8_bits(model, precision):
    """All but nothing: every convolution says u8 or i8, whatever precision the rest runs in."""
    core = superfine.engine._core()
    compiled = core.compile_model(core.read_model(model.content, b""), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [fact["runtimePrecision"] for fact in facts if fact["layerType"] == "Convolution"]
    assert len(kinds) == 13
    assert set(kinds) <= {"u8", "i8"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("run", [("openvino", "fp32"), ("onnxruntime", "fp32")], ids="-".join)
def test_in_pieces_as_whole(model, run, kind):
    """With fp32 around: bf16 may, by the tile's shape, round a picture in float before its levels are taken."""
    engine = open_engine(model, *run)
    for size in [(1, 1), (5, 17), (90, 83)]:
        pixels = picture(size, kind)
        np.testing.assert_array_equal(tiled(pixels, engine, 16), engine(pixels[None]))


@each_run
def test_16_bits_survive(model, run):
    """The base is not in 8 bits: a slope of 16,384 levels keeps them all."""
    ramp = np.broadcast_to(np.arange(0, 65536, 4, dtype=np.uint16)[None, None, :, None], (1, 3, 16384, 3))
    assert len(np.unique(open_engine(model, *run)(ramp))) >= 16_384


# ---- the door


def test_the_door_writes_a_card(float_model, photo, tmp_path, capsys):
    import pyvips

    (tmp_path / "pairs").mkdir()
    (tmp_path / "learn").mkdir()
    for name, pixels in (
        ("learn/a.png", photo[:80, :80]),
        ("learn/b.png", np.full((40, 40, 3), 255, np.uint8)),
        ("pairs/1_HR.png", photo[:96, :96]),
        ("pairs/1_LR.png", matlab_resize(photo[:96, :96], (48, 48))),
    ):
        pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).write_to_file(tmp_path / name)
    source, made = tmp_path / "fast-x2.onnx", tmp_path / "small-x2.onnx"
    source.write_bytes(float_model.content)
    given = [source, "--data", tmp_path / "learn", "--hold-out", 1, "-o", made, "--test", f"T={tmp_path / 'pairs'}"]
    main([str(word) for word in given])
    card = read_model(made).card
    assert (card.name, card.net, card.scale, card.halo) == ("small-x2", "", 2, float_model.card.halo)
    assert card.protocol.endswith("int8")
    assert f"T {card.psnr['T']:.3f} dB (was " in capsys.readouterr().out
    without_white = quantize(float_model.content, [matlab_resize(photo[:80, :80], (40, 40))])
    for name, value in constants(without_white).items():
        np.testing.assert_array_equal(constants(made.read_bytes())[name], value, "the held out picture was looked at")


@pytest.mark.parametrize("run", [("openvino", "auto"), ("onnxruntime", "auto")], ids="-".join)
def test_an_8_bit_file_says_so(run):
    (model,) = find_model("fast-int8-x2")
    assert open_engine(model, *run).precision_for(np.dtype(np.uint8)) == "int8"
