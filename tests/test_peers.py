"""Strangers' networks: run as their makers run them, or refused with the flag or the file that is missing."""

import hashlib
import struct
import sys
import types

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image
from scipy.ndimage import correlate
from skimage.data import astronaut

from fakes import onnx_network
from superfine import models
from superfine.errors import EngineError, MissingExtraError, ModelError, ShapeError, UsageError
from superfine.evaluate import peers
from superfine.evaluate.peers import SPANS, open_foreign_onnx, open_opencv

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
TWICE = {"scales": np.float32([1, 1, 2, 2])}
#: R above G above B, as in the test picture: nothing for a network that dislikes cold colours.
WARM = np.sort(np.random.default_rng(0).integers(0, 256, (37, 41, 3), np.uint8), axis=-1)[..., ::-1]


def doubled(pixels):
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def saved(tmp_path, content, name="stranger.onnx"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def resizing(scales=(1, 1, 2, 2), **ports):
    """Nearest neighbour: linear, so that range and order make no difference."""
    return onnx_network([("Resize", ["x", "", "scales"], "y", NEAREST)], {"scales": np.float32(scales)}, **ports)


def picky(colour="rgb", span="0..1", levels=7, *, channels_last=False):
    """Nearest neighbour in `levels` steps, clipped to its range, and darker where what it takes for B is above R."""
    low, high = SPANS[span]
    channels = 1 if colour == "y" else 3
    order = {"rgb": [-1, 0, 1], "bgr": [1, 0, -1], "y": [0]}[colour]
    nodes = [
        ("Transpose", ["x"], "planes", {"perm": [0, 3, 1, 2]}) if channels_last else ("Identity", ["x"], "planes", {}),
        ("Sub", ["planes", "low"], "above", {}),
        ("Div", ["above", "width"], "free", {}),
        ("Clip", ["free", "zero", "one"], "unit", {}),
        ("Conv", ["unit", "order"], "difference", {}),
        ("Relu", ["difference"], "cold", {}),
        ("Sub", ["unit", "cold"], "warm", {}),
        ("Mul", ["warm", "levels"], "many", {}),
        ("Round", ["many"], "whole", {}),
        ("Div", ["whole", "levels"], "stepped", {}),
        ("Resize", ["stepped", "", "scales"], "large", NEAREST),
        ("Mul", ["large", "width"], "wide", {}),
        ("Add", ["wide", "low"], "made", {}),
        ("Transpose", ["made"], "y", {"perm": [0, 2, 3, 1]}) if channels_last else ("Identity", ["made"], "y", {}),
    ]
    weights = TWICE | {
        "low": np.float32(low),
        "width": np.float32(high - low),
        "zero": np.float32(0),
        "one": np.float32(1),
        "order": np.float32(order).reshape(1, channels, 1, 1),
        "levels": np.float32(levels).reshape(-1, 1, 1),
    }
    small, large = (1, channels, "h", "w"), (1, channels, "H", "W")
    if channels_last:
        small, large = (1, "h", "w", channels), (1, "H", "W", channels)
    return onnx_network(nodes, weights, inputs={"x": small}, outputs={"y": large})


def stepped(pixels, levels=7):
    return np.rint(doubled(np.rint(pixels / 255 * levels) / levels) * 255).astype(np.uint8)


# ---- colour and range


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels last"])
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_colour_and_range_are_found(tmp_path, colour, span, channels_last):
    method = open_foreign_onnx(saved(tmp_path, picky(colour, span, channels_last=channels_last)), 2)
    np.testing.assert_array_equal(method(WARM), stepped(WARM))
    assert method.notes[0].startswith(f"colour {colour}, range {span}: found by test ({colour} {span} ")


@pytest.mark.parametrize("span", SPANS)
def test_range_of_luma_is_found(tmp_path, span):
    method = open_foreign_onnx(saved(tmp_path, picky("y", span)), 2)
    grey = WARM[..., :1].repeat(3, axis=-1)
    np.testing.assert_array_equal(method(grey), stepped(grey))
    assert method.notes[0].startswith(f"colour y, range {span}: found by test")


def test_what_is_given_is_not_found(tmp_path):
    path = saved(tmp_path, picky("rgb", "0..255"))
    method = open_foreign_onnx(path, 2, colour="bgr", span="0..1")
    assert method.notes == ("colour bgr, range 0..1: as given or as its input says",)
    assert not method(WARM).any()  # the maker's levels are wider than all that it is given
    assert "range 0..255: found by test" in open_foreign_onnx(path, 2, colour="rgb").notes[0]
    assert "colour rgb, range 0..255: found by test" in open_foreign_onnx(path, 2, span="0..255").notes[0]


def test_where_nothing_makes_a_difference_the_notes_say_so(tmp_path):
    method = open_foreign_onnx(saved(tmp_path, resizing()), 2)
    np.testing.assert_array_equal(method(WARM), doubled(WARM))
    (note,) = method.notes
    assert note.startswith("colour rgb, range 0..1: as good as any; no different as rgb 0..255, rgb -1..1, bgr 0..1")


def test_order_that_hardly_matters_is_asked_for(tmp_path):
    """R in 8 levels, B in 9 or the other way round: another result, and nearly the same figures."""
    nearly = picky(levels=[8, 8, 9])
    network = onnx.load_from_string(nearly)
    for weight in network.graph.initializer:
        if weight.name == "order":
            weight.CopyFrom(numpy_helper.from_array(np.zeros((1, 3, 1, 1), np.float32), "order"))
    path = saved(tmp_path, network.SerializeToString())
    with pytest.raises(UsageError, match=r"stranger\.onnx: a test can't tell .* say it with --foreign-colour$"):
        open_foreign_onnx(path, 2)
    assert "range 0..1: found by test" in open_foreign_onnx(path, 2, colour="rgb").notes[0]


@pytest.mark.parametrize(
    ("gains", "offset", "flags"),
    [([1, 1, 1], 0.004, "--foreign-range"), ([1, 1, 0.98], 0, "--foreign-colour and --foreign-range")],
)
def test_range_that_hardly_matters_is_asked_for(tmp_path, gains, offset, flags):
    """A small offset is half as large a part of -1..1 as of 0..1, and a gain leaves another point where it is."""
    nodes = [
        ("Mul", ["x", "gains"], "p", {}),
        ("Add", ["p", "offset"], "q", {}),
        ("Resize", ["q", "", "scales"], "y", NEAREST),
    ]
    weights = TWICE | {"gains": np.float32(gains).reshape(1, 3, 1, 1), "offset": np.float32([offset])}
    path = saved(tmp_path, onnx_network(nodes, weights))
    with pytest.raises(UsageError, match=f"can't tell .* say it with {flags}$"):
        open_foreign_onnx(path, 2)


def test_an_order_has_to_win_more_clearly_than_a_range():
    def trial(colour, span, *nearness):
        return peers._Trial(peers.Convention(colour, span), np.zeros((1, 1, 3), np.float32), nearness)

    best = trial("rgb", "0..1", 30.0, 41.0)
    assert best.beats(trial("rgb", "-1..1", 29.9, 39.9))
    assert not best.beats(trial("bgr", "0..1", 29.9, 39.9))
    assert best.beats(trial("bgr", "0..1", 29.9, 38.9))
    assert not best.beats(trial("rgb", "-1..1", 30.1, 20.0))  # nearer in one, farther in the other


def test_a_negative_fits_no_convention(tmp_path):
    nodes = [("Sub", ["one", "x"], "z", {}), ("Resize", ["z", "", "scales"], "y", NEAREST)]
    path = saved(tmp_path, onnx_network(nodes, TWICE | {"one": np.ones(1, np.float32)}))
    with pytest.raises(UsageError, match="in no convention .* --foreign-colour and --foreign-range"):
        open_foreign_onnx(path, 2)
    np.testing.assert_array_equal(open_foreign_onnx(path, 2, colour="rgb", span="0..1")(WARM), 255 - doubled(WARM))


@pytest.mark.parametrize(
    ("colour", "given", "message"),
    [
        ("rgb", {"colour": "y"}, "takes 3 channel.* rgb or bgr, not y; change --foreign-colour"),
        ("y", {"colour": "rgb"}, "takes 1 channel.* is y, not rgb; change --foreign-colour"),
        ("y", {"colour": "grey"}, "no colour 'grey'; there are rgb, bgr, y"),
        ("y", {"span": "0..100"}, "no range '0..100'; there are 0..1, 0..255, -1..1"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(tmp_path, colour, given, message):
    with pytest.raises(UsageError, match=message):
        open_foreign_onnx(saved(tmp_path, picky(colour)), 2, **given)


def test_chroma_of_a_luma_network_goes_by_bicubic(tmp_path):
    """Against BT.601 as the standard writes it, and Pillow's bicubic."""
    content = resizing(inputs={"x": (1, 1, "h", "w")}, outputs={"y": (1, 1, "H", "W")})
    small = astronaut()[:60, 100:180]
    red, green, blue = small.astype(np.float64).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue

    def bicubic(plane):
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((160, 120), Image.Resampling.BICUBIC))

    large, cb, cr = doubled(luma), bicubic((blue - luma) / 1.772), bicubic((red - luma) / 1.402)
    planes = [large + 1.402 * cr, large - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587, large + 1.772 * cb]
    wanted = np.clip(np.stack(planes, axis=-1), 0, 255)
    made = open_foreign_onnx(saved(tmp_path, content), 2)(small)
    # Pillow leaves out what lies beyond the border where we repeat it; half a level is rounding.
    np.testing.assert_allclose(made[4:-4, 4:-4], wanted[4:-4, 4:-4], atol=0.51)


# ---- sizes


def crossing(**ports):
    """A cross of eighths, zeros around, then nearest neighbour: whole numbers, so that no order of adding shows."""
    cross = np.float32([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 8
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[range(3), range(3)] = cross
    nodes = [("Conv", ["x", "kernel"], "z", {"pads": [1] * 4}), ("Resize", ["z", "", "scales"], "y", NEAREST)]
    return onnx_network(nodes, TWICE | {"kernel": kernel}, **ports)


@pytest.mark.parametrize("size", [(24, 20), (25, 21), (61, 83), (24, 90), (300, 20)])
def test_a_fixed_input_is_filled_by_tiles_without_a_trace(tmp_path, size):
    content = crossing(inputs={"x": (1, 3, 24, 20)}, outputs={"y": (1, 3, 48, 40)})
    method = open_foreign_onnx(saved(tmp_path, content), 2, colour="rgb", span="0..255")
    assert "fixed input of 24 x 20: in tiles that overlap" in method.notes[1]
    pixels = np.random.default_rng(1).integers(0, 32, (*size, 3), np.uint8) * 8
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]])[..., None]
    wanted = correlate(pixels.astype(np.int64), cross, mode="constant") // 8
    np.testing.assert_array_equal(method(pixels), doubled(wanted))


@pytest.mark.parametrize("size", [(1, 1), (5, 20), (24, 7)])
def test_pictures_smaller_than_a_fixed_input_are_grown(tmp_path, size):
    content = resizing(inputs={"x": (1, 3, 24, 20)}, outputs={"y": (1, 3, 48, 40)})
    pixels = WARM[: size[0], : size[1]]
    np.testing.assert_array_equal(open_foreign_onnx(saved(tmp_path, content), 2)(pixels), doubled(pixels))


def test_one_side_may_be_fixed(tmp_path):
    content = resizing(inputs={"x": (1, 3, "h", 20)}, outputs={"y": (1, 3, "H", 40)})
    method = open_foreign_onnx(saved(tmp_path, content), 2)
    assert "fixed input of any x 20" in method.notes[1]
    np.testing.assert_array_equal(method(WARM), doubled(WARM))


@pytest.mark.parametrize("block", [2, 8])
def test_sizes_are_grown_to_the_multiple_that_a_network_needs(tmp_path, block):
    nodes = [
        ("SpaceToDepth", ["x"], "deep", {"blocksize": block}),
        ("DepthToSpace", ["deep"], "z", {"blocksize": block}),
        ("Resize", ["z", "", "scales"], "y", NEAREST),
    ]
    method = open_foreign_onnx(saved(tmp_path, onnx_network(nodes, TWICE)), 2)
    assert method.notes[1] == f"padded to multiples of {block} px"
    np.testing.assert_array_equal(method(WARM), doubled(WARM))


@pytest.mark.parametrize("batch", ["n", 1])
def test_the_batch_may_be_open(tmp_path, batch):
    content = resizing(inputs={"x": (batch, 3, "h", "w")}, outputs={"y": (batch, 3, "H", "W")})
    np.testing.assert_array_equal(open_foreign_onnx(saved(tmp_path, content), 2)(WARM), doubled(WARM))


def taking(kind):
    """Nearest neighbour on another type of numbers."""
    nodes = [("Cast", ["x"], "z", {"to": TensorProto.FLOAT}), ("Resize", ["z", "", "scales"], "y", NEAREST)]
    network = onnx.load_from_string(onnx_network(nodes, TWICE))
    network.graph.input[0].type.tensor_type.elem_type = kind
    return network.SerializeToString()


def test_bytes_in_are_bytes(tmp_path):
    path = saved(tmp_path, taking(TensorProto.UINT8))
    method = open_foreign_onnx(path, 2, colour="rgb")
    assert method.notes == ("colour rgb, range 0..255: as given or as its input says",)
    np.testing.assert_array_equal(method(WARM), doubled(WARM))
    with pytest.raises(UsageError, match="takes uint8, so its range is 0..255, not 0..1; change --foreign-range"):
        open_foreign_onnx(path, 2, span="0..1")


def test_half_floats_in_are_enough_for_bytes(tmp_path):
    method = open_foreign_onnx(saved(tmp_path, taking(TensorProto.FLOAT16)), 2, colour="rgb", span="0..1")
    np.testing.assert_array_equal(method(WARM), doubled(WARM))


def test_facts_of_the_file(tmp_path):
    content = crossing()
    method = open_foreign_onnx(saved(tmp_path, content), 2, colour="rgb", span="0..255")
    assert (method.name, method.scale, method.precision) == ("stranger", 2, "fp32")
    assert method.engine.startswith("OpenVINO 2")
    assert method.sha256 == hashlib.sha256(content).hexdigest()
    assert method.parameters == 81 + 4  # the kernel, and the four scales


def test_only_pictures_in_bytes_are_taken(tmp_path):
    method = open_foreign_onnx(saved(tmp_path, resizing()), 2)
    for wrong in (WARM[..., :1], WARM / 255, WARM[:0]):
        with pytest.raises(ShapeError, match=r"want \(h, w, 3\) uint8"):
            method(wrong)


# ---- files that don't fit, or mean harm


def adding(nodes, weights):
    """Nearest neighbour and, beside it, something whose sum is added."""
    ends = [("ReduceSum", ["big"], "sum", {"keepdims": 0}), ("Resize", ["x", "", "scales"], "z", NEAREST)]
    return onnx_network([*nodes, *ends, ("Add", ["z", "sum"], "y", {})], TWICE | weights)


def outside(*, said=True, where=True):
    network = onnx.load_from_string(resizing())
    tensor = network.graph.initializer[0]
    tensor.ClearField("raw_data")
    if said:
        tensor.data_location = TensorProto.EXTERNAL
    if where:
        tensor.external_data.add(key="location", value="/etc/hostname")
    return network.SerializeToString()


def outside_in_a_node():
    """The same in a constant inside of a branch."""
    tensor = onnx.load_from_string(outside()).graph.initializer[0]
    constant = onnx.helper.make_node("Constant", [], ["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    branch = onnx.helper.make_graph([constant], "branch", [], [onnx.ValueInfoProto(name="c")])
    network = onnx.load_from_string(resizing())
    network.graph.node.append(onnx.helper.make_node("If", ["k"], ["d"], then_branch=branch, else_branch=branch))
    return network.SerializeToString()


def lying():
    network = onnx.load_from_string(resizing())
    network.graph.initializer[0].dims[0] = 10**12
    return network.SerializeToString()


TWO = {"x": (1, 3, "h", "w"), "k": (1, 3, "h", "w")}
HOSTILE = {
    "empty": (lambda: b"", "not an ONNX file"),
    "text": (lambda: b"hello, I am a network", "not an ONNX file, or cut off"),
    "markup": (lambda: b"<?xml version='1.0'?><net name='x' version='11'></net>", "not an ONNX file, or cut off"),
    "a card alone": (lambda: b"\x08\x09", "not an ONNX file"),
    "cut off": (lambda: resizing()[:-30], "not an ONNX file, or cut off"),
    "unknown operator": (
        lambda: onnx_network([("Guess", ["x"], "y", {})], {}),
        r"doesn't know its operator Guess-\d+ \(.*export it",
    ),
    "two inputs": (lambda: onnx_network([("Add", ["x", "k"], "y", {})], {}, inputs=TWO), "2 inputs and 1 outputs"),
    "two outputs": (
        lambda: onnx_network([("Relu", ["x"], "y", {}), ("Abs", ["x"], "k", {})], {}, outputs=TWO | {"y": TWO["x"]}),
        "outputs; networks with one of each",
    ),
    "two channels": (lambda: resizing(inputs={"x": (1, 2, "h", "w")}), r"\(1, C, h, w\) or \(1, h, w, C\) with C = 1"),
    "any channels": (lambda: resizing(inputs={"x": (1, "c", "h", "w")}), r"its input is \[1,\?,\?,\?\]"),
    "channels on both ends": (lambda: resizing(inputs={"x": (1, 3, "h", 3)}), r"its input is \[1,3,\?,3\]"),
    "several pictures": (lambda: resizing(inputs={"x": (4, 3, "h", "w")}), r"its input is \[4,3,\?,\?\]"),
    "three axes": (
        lambda: onnx_network([("Relu", ["x"], "y", {})], {}, inputs={"x": (3, "h", "w")}, outputs={"y": (3, "h", "w")}),
        r"its input is \[3,\?,\?\]",
    ),
    "weights outside": (outside, "keeps weights in other files"),
    "weights outside, unsaid": (lambda: outside(said=False), "keeps weights in other files"),
    "weights outside, nowhere": (lambda: outside(where=False), "keeps weights in other files"),
    "weights outside, hidden": (outside_in_a_node, "keeps weights in other files"),
    "double": (lambda: taking(TensorProto.DOUBLE), "takes f64; networks on f32, f16, u8 can be used"),
    "bfloat16": (lambda: taking(TensorProto.BFLOAT16), "takes bf16; networks on f32"),
    "lying shape": (lying, "claims 1,000,000,000,000 elements"),
    "huge constant": (
        lambda: adding([("ConstantOfShape", ["sides"], "big", {})], {"sides": np.int64([200_000, 200_000])}),
        "makes an array of 40,000,000,000 elements of nearly nothing",
    ),
    "huge constant, spread": (
        lambda: adding(
            [("Tile", ["one", "times"], "big", {})], {"one": np.ones(1, np.float32), "times": np.int64([10**10])}
        ),
        "makes an array of 10,000,000,000 elements of nearly nothing",
    ),
    "huge by the picture's size": (
        lambda: adding(
            [
                ("Shape", ["x"], "sides", {}),
                ("Mul", ["sides", "times"], "many", {}),
                ("Expand", ["one", "many"], "big", {}),
            ],
            {"one": np.ones(1, np.float32), "times": np.int64([1, 1, 1000, 1000])},
        ),
        r"makes \[1,3,128000,192000\] of \(128, 192\)",
    ),
    "huge enlargement": (lambda: resizing((1, 1, 5000, 5000)), r"of \(128, 192\); such arrays are refused"),
    "another scale": (lambda: resizing((1, 1, 3, 3)), "enlarges x3, not x2; give one for x2"),
    "no enlargement": (lambda: resizing((1, 1, 1, 1)), "enlarges x1, not x2"),
    "scales that differ": (lambda: resizing((1, 1, 2, 3)), r"makes \(1, 3, .*\) of \(1, 3, .*\)"),
    "a broken scale": (lambda: resizing((1, 1, 1.5, 1.5)), "networks that enlarge x2 are wanted"),
    "not a picture": (
        lambda: onnx_network(
            [("GlobalAveragePool", ["x"], "z", {}), ("Flatten", ["z"], "y", {})], {}, outputs={"y": (1, 3)}
        ),
        "not a picture",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_do_not_fit_are_refused(tmp_path, name):
    make, message = HOSTILE[name]
    with pytest.raises(ModelError, match=f"stranger.onnx: .*{message}"):
        open_foreign_onnx(saved(tmp_path, make()), 2)


def test_files_cut_anywhere_are_refused_or_run(tmp_path):
    """A cut at the end of a field leaves a sound message; then OpenVINO misses what is gone."""
    whole = resizing()
    for length in range(0, len(whole), 7):
        with pytest.raises(ModelError, match="stranger.onnx"):
            open_foreign_onnx(saved(tmp_path, whole[:length]), 2)


def test_files_are_measured_before_they_are_read(tmp_path, monkeypatch):
    path = saved(tmp_path, resizing())
    monkeypatch.setattr(models, "_LARGEST_FILE", 100)
    with pytest.raises(ModelError, match=f"has {path.stat().st_size} bytes; a network's file has up to 100"):
        open_foreign_onnx(path, 2)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ModelError, match="nowhere.onnx: there is no such model file"):
        open_foreign_onnx(tmp_path / "nowhere.onnx", 2)
    with pytest.raises(ModelError, match="can't be read"):
        open_foreign_onnx(tmp_path, 2)


def test_nan_is_an_error_and_never_a_picture(tmp_path):
    nodes = [
        ("Sub", ["x", "much"], "below", {}),
        ("Sqrt", ["below"], "z", {}),
        ("Resize", ["z", "", "scales"], "y", NEAREST),
    ]
    path = saved(tmp_path, onnx_network(nodes, TWICE | {"much": np.float32([1000])}))
    with pytest.raises(UsageError, match="in no convention"):
        open_foreign_onnx(path, 2)
    with pytest.raises(EngineError, match=r"stranger.onnx: gave NaN or infinity on a picture of \(37, 41\)"):
        open_foreign_onnx(path, 2, colour="rgb", span="0..1")(WARM)


# ---- OpenCV


class StandIn(types.ModuleType):
    """What the adapter knows of cv2; its network doubles BGR and takes all blue away."""

    __version__ = "5.0.0"

    class error(Exception):  # noqa: N801, N818 - OpenCV's name
        err = "no such graph"

    def __init__(self, times=2):
        super().__init__("cv2")
        self.dnn_superres = types.SimpleNamespace(DnnSuperResImpl=self)
        self.times, self.asked, self.fails_from = times, [], 10**9

    def create(self):
        return self

    def getNumThreads(self):  # noqa: N802 - OpenCV's name
        return 3

    def readModel(self, path):  # noqa: N802
        self.asked.append(path)

    def setModel(self, algorithm, scale):  # noqa: N802
        self.asked.append((algorithm, scale))

    def upsample(self, pixels):
        if len(pixels) >= self.fails_from:
            raise self.error
        assert pixels.flags.c_contiguous
        return pixels.repeat(self.times, axis=0).repeat(self.times, axis=1) * np.uint8([0, 1, 1])


@pytest.fixture
def cv2(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "cv2", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("FSRCNN_x2", "fsrcnn"),
        ("espcn_x2", "espcn"),
        ("FSRCNN-small_x2", "fsrcnn"),
        ("LapSRN_x2", "lapsrn"),
        ("EDSR_x2", "edsr"),
    ],
)
def test_opencv_gets_bgr_and_what_the_name_says(tmp_path, cv2, name, algorithm):
    path = saved(tmp_path, b"a graph", f"{name}.pb")
    method = open_opencv(path, 2)
    np.testing.assert_array_equal(method(WARM), doubled(WARM) * np.uint8([1, 1, 0]))
    assert cv2.asked == [str(path), (algorithm, 2)]
    assert (method.name, method.scale, method.engine, method.precision) == (name, 2, "OpenCV 5.0.0 dnn", "fp32")
    assert method.sha256 == hashlib.sha256(b"a graph").hexdigest()
    assert "3 threads" in method.notes[0]


@pytest.mark.parametrize("name", ["network.pb", "FSRCNN.pb", "x2.pb", "SRGAN_x2.pb", "FSRCNN_x2_x.pb"])
def test_opencv_names_without_algorithm_or_scale_are_refused(tmp_path, cv2, name):
    with pytest.raises(ModelError, match=rf"{name}: its name doesn't say what it is; rename it, as FSRCNN_x2\.pb"):
        open_opencv(saved(tmp_path, b"a graph", name), 2)


def test_opencv_of_another_scale_is_refused(tmp_path, cv2):
    with pytest.raises(ModelError, match="FSRCNN_x3.pb: enlarges x3 by its name, not x2; give the file for x2"):
        open_opencv(saved(tmp_path, b"a graph", "FSRCNN_x3.pb"), 2)


def test_opencv_that_makes_another_size_is_refused(tmp_path, cv2):
    cv2.times = 3
    with pytest.raises(ModelError, match=r"makes \(48, 60, 3\) of \(16, 20, 3\), which is not the x2 of its name"):
        open_opencv(saved(tmp_path, b"a graph", "FSRCNN_x2.pb"), 2)


def test_opencv_that_fails_says_where(tmp_path, cv2):
    path = saved(tmp_path, b"a graph", "FSRCNN_x2.pb")
    cv2.fails_from = 17
    with pytest.raises(EngineError, match=r"FSRCNN_x2.pb: OpenCV on \(37, 41\): no such graph"):
        open_opencv(path, 2)(WARM)
    cv2.fails_from = 0
    with pytest.raises(ModelError, match="OpenCV 5.0.0 can't run it as FSRCNN: no such graph"):
        open_opencv(path, 2)


def test_without_opencv_the_extra_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path, b"a graph", "FSRCNN_x2.pb")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match="OpenCV's dnn_superres needs the extra 'peers'"):
        open_opencv(path, 2)
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    with pytest.raises(MissingExtraError, match="without its dnn_superres, which needs the extra 'peers'"):
        open_opencv(path, 2)


def field(number, value):
    """One field of a protobuf message: bytes, or a whole number below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def frozen_graph(kernel):
    """A TensorFlow graph by hand: 1x1 convolution, then depth to space. Source: tensorflow/core/framework/*.proto."""

    def node(name, kind, inputs=(), **attributes):
        entries = [field(5, field(1, key.encode()) + field(2, value)) for key, value in attributes.items()]
        head = field(1, name) + field(2, kind)
        return field(1, head + b"".join([*(field(3, given) for given in inputs), *entries]))

    sides = b"".join(field(2, field(1, side)) for side in kernel.shape)
    tensor = field(1, 1) + field(2, sides) + field(4, kernel.astype("<f4").tobytes())
    real, strides = field(6, 1), field(1, field(3, struct.pack("4B", 1, 1, 1, 1)))
    return (
        node(b"x", b"Placeholder", dtype=real)
        + node(b"kernel", b"Const", dtype=real, value=field(8, tensor))
        + node(b"z", b"Conv2D", [b"x", b"kernel"], T=real, strides=strides, padding=field(2, b"SAME"))
        + node(b"y", b"DepthToSpace", [b"z"], T=real, block_size=field(3, 2))
    )


def test_opencv_itself_where_it_is_installed(tmp_path):
    """Y as it is, four times: nearest neighbour for greys."""
    real = pytest.importorskip("cv2", reason="needs the extra peers")
    if not hasattr(real, "dnn_superres"):
        pytest.skip("OpenCV is here without its dnn_superres")
    content = frozen_graph(np.ones((1, 1, 1, 4), np.float32))
    method = open_opencv(saved(tmp_path, content, "ESPCN_x2.pb"), 2)
    grey = WARM[..., :1].repeat(3, axis=-1)
    np.testing.assert_array_equal(method(grey), doubled(grey))
    red = np.zeros((5, 7, 3), np.uint8) + np.uint8([200, 30, 30])
    np.testing.assert_allclose(method(red), doubled(red), atol=2)  # through whole levels of YCrCb
    with pytest.raises(ModelError, match="can't run it as FSRCNN"):
        open_opencv(saved(tmp_path, content[:-20], "FSRCNN_x2.pb"), 2)
