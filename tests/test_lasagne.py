"""Networks of neural-enhance: the ONNX file against their layers computed one by one with scipy."""

import bz2
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
import pytest
from onnx import helper
from scipy.signal import convolve2d

from superfine.engine import open_engine
from superfine.errors import MissingExtraError, ModelError
from superfine.models import Card, card_to_text, read_model
from superfine.tiles import Grid, Window, enlarge
from superfine.weights.lasagne import open_lasagne, read_lasagne

Planes = npt.NDArray[np.float64]


def config(upscale: int, downscale: int, filters: list[int], blocks: int = 2) -> dict[str, Any]:
    return {
        "generator_blocks": blocks,
        "generator_residual": 2,
        "generator_filters": filters,
        "generator_upscale": upscale,
        "generator_downscale": downscale,
    }


def layer_shapes(given: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Layer -> (out, in, side), written out from the layout's description."""
    entries = list(given["generator_filters"])
    ups, downs = given["generator_upscale"], given["generator_downscale"]
    entries += [entries[-1]] * (2 + ups + downs)
    shapes = {"iter.0": (entries[0], 3, 7)}
    for i in range(downs):
        shapes[f"downscale{i}"] = (entries[1 + i], entries[i], 4)
    units = entries[1 + downs]
    for k in range(1, given["generator_blocks"] + 1):
        shapes[f"iter.{k}-A"] = (units, entries[downs] if k == 1 else units, 3)
    channels = units if given["generator_blocks"] else entries[downs]
    for i in range(ups):
        shapes[f"upscale{i}.2"] = (4 * entries[2 + downs + i], channels, 3)
        channels = entries[2 + downs + i]
    shapes["out"] = (3, channels, 7)
    return shapes


def params(given: dict[str, Any], seed: int = 0) -> dict[str, list[npt.NDArray[np.float16]]]:
    rng = np.random.default_rng(seed)
    made: dict[str, list[npt.NDArray[np.float16]]] = {}
    for name, (out, channels, side) in layer_shapes(given).items():
        kernel = rng.normal(0, 1.2 / np.sqrt(channels * side * side), (out, channels, side, side))
        bias = rng.normal(0, 0.05, out)
        made[name if name == "out" else f"{name}x"] = [kernel.astype(np.float16), bias.astype(np.float16)]
        if name != "out":
            made[f"{name}>"] = [rng.uniform(-0.3, 1.2, out).astype(np.float16)]
    return made


def file_of(given: Any, arrays: Any, protocol: int = 3) -> bytes:
    return bz2.compress(pickle.dumps((given, arrays), protocol))


def by_scipy(given: dict[str, Any], arrays: dict[str, Any], rgb: Planes) -> Planes:
    """(3, h, w) 0..1 -> (3, zoom*h, zoom*w), in float64, one true convolution at a time."""
    x = np.pad(rgb - 0.5, ((0, 0), (24, 24), (24, 24)), mode="reflect")
    for name in layer_shapes(given):
        kernels, biases = (array.astype(np.float64) for array in arrays[name if name == "out" else f"{name}x"])
        pad = {7: 3, 3: 1, 4: 1}[kernels.shape[-1]]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        x = np.stack(
            [
                sum(convolve2d(plane, kernel, "valid") for plane, kernel in zip(x, bank, strict=True)) + bias
                for bank, bias in zip(kernels, biases, strict=True)
            ]
        )
        if name.startswith("downscale"):
            x = x[:, ::2, ::2]
        if name != "out":
            (alpha,) = (array.astype(np.float64) for array in arrays[f"{name}>"])
            x = np.where(x > 0, x, x * alpha[:, None, None])
        if name.startswith("upscale"):
            large = np.empty((len(x) // 4, 2 * x.shape[1], 2 * x.shape[2]))
            for c in range(len(large)):
                for dy in (0, 1):
                    for dx in (0, 1):
                        large[c, dy::2, dx::2] = x[4 * c + 2 * dy + dx]
            x = large
    edge = 24 << given["generator_upscale"] >> given["generator_downscale"]
    return np.clip(x[:, edge:-edge, edge:-edge] + 0.5, 0, 1)


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def by_onnx(content: bytes, rgb: Planes) -> Planes:
    planes: Planes = session_of(content).run(None, {"input": rgb[None].astype(np.float32)})[0][0].astype(np.float64)
    return planes


KINDS = {
    "zoom 2": config(1, 0, [4, 3, 2]),
    "zoom 4": config(2, 0, [3]),
    "zoom 4, wider and wider": config(2, 0, [1, 2, 3, 4]),
    "repair": config(1, 1, [3, 4]),
    "repair by quarters": config(2, 2, [2, 3, 4, 5, 3, 2], blocks=1),
    "zoom 2 from halves": config(2, 1, [2, 3, 4], blocks=3),
    "no blocks": config(1, 0, [3], blocks=0),
}


@pytest.mark.parametrize("size", [(28, 4), (8, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_equals_the_layers_one_by_one(kind: str, size: tuple[int, int]) -> None:
    given = KINDS[kind]
    arrays = params(given)
    net = open_lasagne(file_of(given, arrays), "a.pkl.bz2")
    rgb = np.random.default_rng(1).random((3, *size))
    expected = by_scipy(given, arrays, rgb)
    assert expected.std() > 0.05
    assert net.scale == 2 ** (given["generator_upscale"] - given["generator_downscale"])
    assert expected.shape == (3, net.scale * size[0], net.scale * size[1])
    onnx.checker.check_model(onnx.load_from_string(net.content), full_check=True)
    np.testing.assert_allclose(by_onnx(net.content, rgb), expected, atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(net.reference(np.moveaxis(rgb, 0, -1)), -1, 0), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (25, 1), (24, 40), (60, 61)])
def test_smallest_pictures_in_both_runtimes(size: tuple[int, int]) -> None:
    """OpenVINO with the sides known beforehand too, where it computes the reflection while it compiles."""
    given = KINDS["zoom 2"]
    arrays = params(given)
    rgb = np.random.default_rng(1).random((3, *size))
    net = open_lasagne(file_of(given, arrays), "a.pkl.bz2")
    content = net.content
    expected = by_scipy(given, arrays, rgb)
    np.testing.assert_allclose(by_onnx(content, rgb), expected, atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(net.reference(np.moveaxis(rgb, 0, -1)), -1, 0), expected, atol=1e-12)
    core = openvino.Core()
    for sides in ([-1, -1], size):
        graph = core.read_model(content, b"")
        graph.reshape([1, 3, *sides])
        compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(compiled([rgb[None].astype(np.float32)])[0][0], expected, atol=1e-5)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol: int) -> None:
    given = KINDS["zoom 2"]
    arrays = params(given)
    net = read_lasagne(file_of(given, arrays, protocol), "a.pkl.bz2")
    np.testing.assert_array_equal(net.layers[0].kernel, arrays["iter.0x"][0])


def test_residual_says_nothing() -> None:
    given = KINDS["zoom 2"]
    contents = [
        open_lasagne(file_of(given | {"generator_residual": residual}, params(given)), "a.pkl.bz2").content
        for residual in (0, 2)
    ]
    assert contents[0] == contents[1]


def test_what_it_says() -> None:
    given = KINDS["zoom 2 from halves"]
    arrays = params(given)
    net = open_lasagne(file_of(given, arrays), "a.pkl.bz2")
    assert (net.scale, net.multiple_of) == (2, 2)
    assert net.parameters == sum(array.size for parts in arrays.values() for array in parts)
    assert net.description == (
        "a network of neural-enhance that enlarges: a plain chain of 8 convolutions with PReLU, up to 4 channels"
    )
    repairs = open_lasagne(file_of(KINDS["repair"], params(KINDS["repair"])), "a.pkl.bz2")
    assert "that repairs" in repairs.description


def test_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match="converting a network needs the extra 'convert'"):
        open_lasagne(file_of(KINDS["zoom 2"], params(KINDS["zoom 2"])), "a.pkl.bz2")


# ---- tiles


def corners(given: dict[str, Any]) -> dict[str, list[npt.NDArray[np.float16]]]:
    """Kernels of corners alone, and linear, so that a pixel's change arrives at its farthest."""
    arrays = params(given)
    for parts in arrays.values():
        if len(parts) == 1:
            parts[0][:] = 1
            continue
        kernel, bias = parts
        kernel[:], bias[:] = 0, 0
        kernel[:, :, 0, 0] = kernel[:, :, -1, -1] = 0.5 / kernel.shape[1]
    return arrays


@pytest.mark.parametrize("kind", KINDS)
def test_halo_is_the_farthest_that_a_pixel_reaches(kind: str) -> None:
    net = open_lasagne(file_of(KINDS[kind], corners(KINDS[kind])), "a.pkl.bz2")
    session = session_of(net.content)
    middle = (net.halo + 12) // 4 * 4
    side = 2 * middle
    black = np.zeros((1, 3, side, side), np.float32) + np.float32(0.5)
    reach = 0
    for phase in range(net.multiple_of):
        lit = black.copy()
        lit[:, :, middle + phase, middle + phase] = 1
        change = session.run(None, {"input": lit})[0] != session.run(None, {"input": black})[0]
        rows = np.flatnonzero(change.any(axis=(0, 1, 3))) // net.scale
        reach = max(reach, middle + phase - rows.min(), rows.max() - middle - phase)
    assert net.halo == reach


@pytest.mark.parametrize("kind", ["zoom 2", "repair", "zoom 2 from halves"])
def test_tiles_equal_the_whole(kind: str, tmp_path: Path) -> None:
    """The reflected border is in the graph; tiles that lie inside don't keep what they reflect."""
    net = open_lasagne(file_of(KINDS[kind], params(KINDS[kind])), "a.pkl.bz2")
    proto = onnx.load_from_string(net.content)
    card = Card(name="a", scale=net.scale, halo=net.halo, multiple_of=net.multiple_of)
    helper.set_model_props(proto, {"superfine": card_to_text(card)})
    path = tmp_path / "a.onnx"
    path.write_bytes(proto.SerializeToString())
    engine = open_engine(read_model(path), precision="fp32")
    pixels = np.random.default_rng(2).random((151, 170, 3)).astype(np.float32)
    grid = Grid(engine.scale, engine.halo, engine.multiple_of, least=64)
    bands = [
        np.concatenate(
            list(enlarge(Window(pixels.shape, pixels.dtype, [pixels]), grid, tile, lambda p: engine(p[None])))
        )
        for tile in (32, 1000)
    ]
    np.testing.assert_array_equal(bands[0], bands[1])


# ---- files that lie


def refused(content: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        read_lasagne(content, "a.pkl.bz2")
    assert str(caught.value).startswith("a.pkl.bz2: ")
    return str(caught.value)


def test_calls_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "canary"),)

    assert "calls posix.mkdir: refused; ask its maker for a .safetensors file" in refused(file_of(Evil(), {}))
    assert "posix.system" in refused(bz2.compress(b"cposix\nsystem\n(S'touch canary'\ntR."))
    assert not (tmp_path / "canary").exists()


def test_objects_are_refused() -> None:
    assert "holds an object of builtins.object" in refused(file_of(object(), {}))


def test_bomb() -> None:
    assert "unpacks to more than" in refused(bz2.compress(bytes(20_000_000)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is cut off"),
        (b"text", "not a .pkl.bz2 file"),
        (file_of(KINDS["zoom 2"], params(KINDS["zoom 2"]))[:-20], "is cut off"),
        (bz2.compress(b"text"), "damaged or cut off"),
        (bz2.compress(pickle.dumps([1, 2])), "want a pickle of (config, params)"),
        (file_of({}, {}), "its config says generator_blocks = NoneType, want a whole number"),
        (file_of(KINDS["zoom 2"], {}), "lacks the arrays of layer 'iter.0x'"),
    ],
)
def test_no_network(content: bytes, words: str) -> None:
    assert words in refused(content)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("generator_blocks", -1, "generator_blocks = -1, want a whole number from 0 to 1000"),
        ("generator_blocks", 10**9, "generator_blocks = 1000000000"),
        ("generator_blocks", True, "generator_blocks = bool"),
        ("generator_blocks", 1, "a layer 'iter.2-A"),
        ("generator_blocks", 3, "lacks the arrays of layer 'iter.3-Ax'"),
        ("generator_upscale", 4, "want a whole number from 0 to 3"),
        ("generator_downscale", 2, "smaller than its input"),
        ("generator_filters", 64, "generator_filters = int, want a list"),
        ("generator_filters", [], "want a list"),
        ("generator_filters", [2**40], "aren't whole numbers from 1"),
        ("generator_filters", [7], "layer 'iter.0x' has arrays of (4, 3, 7, 7), (4,), want (7, 3, 7, 7), (7,)"),
    ],
)
def test_config_that_lies(key: str, value: Any, words: str) -> None:
    given = KINDS["zoom 2"]
    assert words in refused(file_of(given | {key: value}, params(given)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_none(bad: float) -> None:
    arrays = params(KINDS["zoom 2"])
    arrays["out"][0][0, 0, 3, 3] = bad
    assert "layer 'out' holds NaN or infinity" in refused(file_of(KINDS["zoom 2"], arrays))
    arrays["out"] = [array.astype(np.int16) for array in params(KINDS["zoom 2"])["out"]]  # type: ignore[misc]
    assert "layer 'out' has arrays of" in refused(file_of(KINDS["zoom 2"], arrays))
