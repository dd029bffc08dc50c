"""Known architectures from their weights alone, held against the published networks rebuilt here in torch."""

import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from superfine.engine import NetworkEngine, open_engine
from superfine.errors import MissingExtraError, ModelError
from superfine.models import Card, Model
from superfine.weights import architectures
from superfine.weights.architectures import is_known, open_arrays, open_safetensors
from superfine.weights.network import Network

# ---- the published networks, one module for each layout


class Compact(nn.Module):
    def __init__(self, width: int, count: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1), nn.PReLU(width)]
        for _ in range(count):
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.PReLU(width)]
        self.body = nn.ModuleList([*layers, nn.Conv2d(width, 3 * scale**2, 3, 1, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for layer in self.body:
            y = layer(y)
        return functional.pixel_shuffle(y, self.scale) + functional.interpolate(x, scale_factor=self.scale)


class Dense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, 1, 1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, 1, 1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, 1, 1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, 1, 1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, 1, 1)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.act(self.conv1(x))
        x2 = self.act(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.act(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.act(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        return self.conv5(torch.cat((x, x1, x2, x3, x4), 1)) * 0.2 + x


class Block(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(width, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class RRDB(nn.Module):
    """As Real-ESRGAN has it: two doublings always, less is made of a smaller start."""

    def __init__(self, width: int, growth: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.reduced = 4 // scale
        self.conv_first = nn.Conv2d(3 * self.reduced**2, width, 3, 1, 1)
        self.body = nn.Sequential(*(Block(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_up1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_up2 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_hr = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_first(functional.pixel_unshuffle(x, self.reduced))
        y = y + self.conv_body(self.body(y))
        y = self.lrelu(self.conv_up1(functional.interpolate(y, scale_factor=2, mode="nearest")))
        y = self.lrelu(self.conv_up2(functional.interpolate(y, scale_factor=2, mode="nearest")))
        return self.conv_last(self.lrelu(self.conv_hr(y)))


class OldDense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for k in range(1, 6):
            inner: list[nn.Module] = [nn.Conv2d(width + (k - 1) * growth, width if k == 5 else growth, 3, 1, 1)]
            setattr(self, f"conv{k}", nn.Sequential(*inner, *([] if k == 5 else [nn.LeakyReLU(0.2)])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        for k in range(1, 5):
            seen = torch.cat((seen, getattr(self, f"conv{k}")(seen)), 1)
        return x + 0.2 * self.conv5(seen)  # type: ignore[operator]


class OldBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (OldDense(width, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


class Shortcut(nn.Module):
    def __init__(self, sub: nn.Module) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.sub(x)


class OldRRDB(nn.Module):
    """As ESRGAN was first published: everything in one numbered sequence."""

    def __init__(self, width: int, growth: int, blocks: int, scale: int) -> None:
        super().__init__()
        trunk = [OldBlock(width, growth) for _ in range(blocks)]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1)]
        layers.append(Shortcut(nn.Sequential(*trunk, nn.Conv2d(width, width, 3, 1, 1))))
        for _ in range({1: 0, 2: 1, 4: 2, 8: 3}[scale]):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, 1, 1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(width, width, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 3, 3, 1, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class TrunkRRDB(nn.Module):
    """As BSRGAN and ESRGAN's second version call the layers."""

    def __init__(self, width: int, growth: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.RRDB_trunk = nn.Sequential(*(OldBlock(width, growth) for _ in range(blocks)))
        for block in self.RRDB_trunk:
            for dense in block.children():
                for k in range(1, 5):
                    getattr(dense, f"conv{k}")[0].weight.data *= 1.5
        self.trunk_conv = nn.Conv2d(width, width, 3, 1, 1)
        self.upconv1 = nn.Conv2d(width, width, 3, 1, 1)
        if scale == 4:
            self.upconv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.HRconv = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)

    def state_dict(self, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        """Its dense blocks hold bare convolutions, without the sequence around them."""
        return {
            ".".join(part for place, part in enumerate(name.split(".")) if (place, part) != (4, "0")): value
            for name, value in super().state_dict().items()
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_first(x)
        y = y + self.trunk_conv(self.RRDB_trunk(y))
        y = functional.leaky_relu(self.upconv1(functional.interpolate(y, scale_factor=2)), 0.2)
        if self.scale == 4:
            y = functional.leaky_relu(self.upconv2(functional.interpolate(y, scale_factor=2)), 0.2)
        return self.conv_last(functional.leaky_relu(self.HRconv(y), 0.2))


class TutorialConv(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, side: int, *, norm: bool = False, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, side, padding=side // 2)]
        self.conv_block = nn.Sequential(*layers, *([nn.BatchNorm2d(outputs)] if norm else []), *([act] if act else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_block(x)


class TutorialBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_block1 = TutorialConv(width, width, 3, norm=True, act=nn.PReLU())
        self.conv_block2 = TutorialConv(width, width, 3, norm=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_block2(self.conv_block1(x)) + x


class TutorialShuffle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(self.pixel_shuffle(self.conv(x)))


class Tutorial(nn.Module):
    def __init__(self, width: int, blocks: int, scale: int, side: int = 9) -> None:
        super().__init__()
        self.conv_block1 = TutorialConv(3, width, side, act=nn.PReLU())
        self.residual_blocks = nn.Sequential(*(TutorialBlock(width) for _ in range(blocks)))
        self.conv_block2 = TutorialConv(width, width, 3, norm=True)
        doublings = (TutorialShuffle(width) for _ in range({2: 1, 4: 2, 8: 3}[scale]))
        self.subpixel_convolutional_blocks = nn.Sequential(*doublings)
        self.conv_block3 = TutorialConv(width, 3, side, act=nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = (
            torch.tensor(values, dtype=x.dtype)[:, None, None]
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        y = residual = self.conv_block1((x - mean) / deviation)
        y = self.conv_block2(self.residual_blocks(y)) + residual
        return (self.conv_block3(self.subpixel_convolutional_blocks(y)) + 1) / 2


class MeanShift(nn.Conv2d):
    def __init__(self, span: float, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3)[:, :, None, None]
        self.bias.data = sign * span * torch.tensor((0.4488, 0.4371, 0.4040))  # type: ignore[union-attr]


class EDSRBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + x


class EDSR(nn.Module):
    def __init__(self, scale: int, span: float, width: int = 64, count: int = 16) -> None:
        super().__init__()
        self.span = span
        self.sub_mean, self.add_mean = MeanShift(span, -1), MeanShift(span, 1)
        self.head = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1))
        blocks = [EDSRBlock(width) for _ in range(count)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, 1, 1))
        upsampler: list[nn.Module] = []
        for block in {2: [2], 3: [3], 4: [2, 2]}[scale]:
            upsampler += [nn.Conv2d(width, block**2 * width, 3, 1, 1), nn.PixelShuffle(block)]
        self.tail = nn.Sequential(nn.Sequential(*upsampler), nn.Conv2d(width, 3, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.sub_mean(x * self.span))
        return self.add_mean(self.tail(self.body(y) + y)) / self.span


def random_weights(net: nn.Module) -> nn.Module:
    """So that nothing is trivial, and the result is mostly in 0..1, where clipping doesn't hide it."""
    generator = torch.Generator().manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, MeanShift):
            spread = 0.7 / np.sqrt(np.prod(layer.weight.shape[1:]))
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * spread
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator) * 0.1  # type: ignore[union-attr]
        elif isinstance(layer, nn.PReLU):
            layer.weight.data = torch.rand(layer.weight.shape, generator=generator) - 0.2
        elif isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.running_var):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)  # type: ignore[union-attr]
            for values in (layer.bias.data, layer.running_mean):
                values.copy_(torch.randn(values.shape, generator=generator) * 0.1)  # type: ignore[union-attr]
    last = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and not isinstance(layer, MeanShift)][-1]
    if not isinstance(net, Compact | Tutorial):
        last.bias.data += 0.0 if isinstance(net, EDSR) else 0.5  # type: ignore[union-attr]
        last.weight.data *= 0.1
    return net.eval().requires_grad_(requires_grad=False)


# Name -> the network, its factor, the grid of its sides.
NETS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "compact x4": (lambda: Compact(8, 2, 4), 4, 1),
    "compact x3": (lambda: Compact(6, 1, 3), 3, 1),
    "compact x1": (lambda: Compact(6, 1, 1), 1, 1),
    "real-esrgan x4": (lambda: RRDB(8, 4, 1, 4), 4, 1),
    "real-esrgan x2": (lambda: RRDB(8, 4, 1, 2), 2, 2),
    "real-esrgan x1": (lambda: RRDB(6, 3, 1, 1), 1, 4),
    "esrgan x1": (lambda: OldRRDB(6, 3, 2, 1), 1, 1),
    "esrgan x2": (lambda: OldRRDB(6, 3, 1, 2), 2, 1),
    "esrgan x4": (lambda: OldRRDB(8, 4, 2, 4), 4, 1),
    "esrgan x8": (lambda: OldRRDB(6, 3, 1, 8), 8, 1),
    "bsrgan x4": (lambda: TrunkRRDB(8, 4, 2, 4), 4, 1),
    "bsrgan x2": (lambda: TrunkRRDB(6, 3, 1, 2), 2, 1),
    "tutorial x4": (lambda: Tutorial(8, 2, 4), 4, 1),
    "tutorial x2": (lambda: Tutorial(6, 3, 2, side=5), 2, 1),
    "tutorial x8": (lambda: Tutorial(6, 1, 8), 8, 1),
    "edsr x2": (lambda: EDSR(2, 255.0), 2, 1),
    "edsr x3 of 0..1": (lambda: EDSR(3, 1.0), 3, 1),
    "edsr x4": (lambda: EDSR(4, 255.0), 4, 1),
}
CASES = pytest.mark.parametrize("name", NETS)
QUICK = pytest.mark.parametrize("name", ["compact x4", "real-esrgan x2", "esrgan x4", "bsrgan x4", "tutorial x4"])


@cache
def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return random_weights(NETS[name][0]())


def arrays_of(net: nn.Module) -> dict[str, Any]:
    return {name: value.numpy().copy() for name, value in net.state_dict().items()}


@cache
def opened(name: str) -> tuple[nn.Module, Network]:
    net = net_of(name)
    return net, open_arrays(arrays_of(net), "a.pth")


def planes_of(pixels: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0)[None])


def picture(rows: int, cols: int) -> Any:
    return np.random.default_rng(3).random((rows, cols, 3))


def by_torch(net: nn.Module, pixels: Any) -> Any:
    """In float64, (h, w, 3) -> (scale*h, scale*w, 3), clipped."""
    result = net.double()(torch.from_numpy(planes_of(pixels)))[0].clamp(0, 1)
    net.float()
    return np.moveaxis(result.numpy(), 0, 2)


def by_onnx(network: Network, pixels: Any) -> Any:
    session = onnxruntime.InferenceSession(network.content, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"pixels": planes_of(pixels).astype(np.float32)})
    return np.moveaxis(result[0], 0, 2)


def openvino(name: str, network: Network) -> NetworkEngine:
    card = Card(name=name, scale=network.scale, halo=network.halo, multiple_of=network.multiple_of)
    return open_engine(Model(card, network.content, "a.onnx"), "openvino", "fp32")


def refused(arrays: dict[str, Any], *words: str) -> str:
    with pytest.raises(ModelError) as caught:
        open_arrays(arrays, "a.pth")
    sentence = str(caught.value)
    assert sentence.startswith("a.pth: ")
    assert "\n" not in sentence
    assert len(sentence) < 350
    for word in words:
        assert word in sentence
    return sentence


# ---- right pictures


@CASES
def test_graph_and_reference_equal_torch(name: str) -> None:
    net, network = opened(name)
    _, scale, grid = NETS[name]
    assert (network.scale, network.multiple_of) == (scale, grid)
    assert network.colour == "RGB by the network"
    pixels = picture(12, 20)
    wanted = by_torch(net, pixels)
    assert wanted.shape == (12 * scale, 20 * scale, 3)
    assert np.mean((wanted > 0) & (wanted < 1)) > 0.6
    np.testing.assert_allclose(by_onnx(network, pixels), wanted, rtol=0, atol=1e-4)
    # Weights of batch norms are folded in float32, which is all that differs.
    np.testing.assert_allclose(network.reference(pixels), wanted, rtol=0, atol=1e-5)


@CASES
def test_graph_equals_torch_in_openvino(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rewrites a graph in its own way: for any shape, then for one that keeps coming, and apart for 8 bits."""
    monkeypatch.setattr("superfine.engine._WORTH_A_GRAPH", 2)
    net, network = opened(name)
    engine = openvino(name, network)
    pixels = picture(12, 20)
    wanted = by_torch(net, pixels)
    for _ in range(2):
        np.testing.assert_allclose(engine(pixels[None].astype(np.float32)), wanted, rtol=0, atol=1e-4)
    levels = np.rint(255 * pixels).astype(np.uint8)
    wanted = 255 * by_torch(net, levels / 255)
    for _ in range(2):
        np.testing.assert_allclose(engine(levels[None]), wanted, rtol=0, atol=0.52)


@CASES
def test_halo_is_what_is_seen(name: str) -> None:
    """With no weight below zero and nothing but one bright row, what isn't as dark as the rest has seen it."""
    arrays = arrays_of(net_of(name))
    for key, array in arrays.items():
        arrays[key] = np.zeros_like(array) if key.endswith(("bias", "running_mean")) else np.abs(array)
    network = open_arrays(arrays, "a.pth")
    assert network.halo == opened(name)[1].halo
    scale, grid = network.scale, network.multiple_of
    middle = grid * (network.halo // grid + 3)
    dark = np.full((2 * middle, grid, 3), (0.485, 0.456, 0.406) if "tutorial" in name else 0.0)
    before = network.reference(dark)
    reached = 0
    for place in range(middle, middle + grid):
        bright = dark.copy()
        bright[place] = 1e90  # a convolution passes a third of it on to the next row
        moved = np.flatnonzero((np.abs(network.reference(bright) - before) > 1e-9).any((1, 2))) // scale
        reached = max(reached, int(np.abs(moved - place).max()))
    assert network.halo == reached


def test_halo_of_plain_chains_by_hand() -> None:
    """A pixel for each convolution of 3x3; what comes after an enlargement counts its part of one, rounded up."""
    assert opened("compact x4")[1].halo == 4
    assert opened("edsr x2")[1].halo == 1 + 2 * 16 + 1 + 1 + 1
    assert opened("tutorial x2")[1].halo == 2 + 2 * 3 + 1 + 1 + 1


@QUICK
def test_parameters_are_those_that_are_kept(name: str) -> None:
    """A batch norm becomes part of its convolution; all else is counted as torch counts it."""
    net, network = opened(name)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    kept = sum(weight.numel() for weight in net.parameters()) - sum(2 * layer.num_features for layer in norms)
    assert network.parameters == kept


def test_descriptions() -> None:
    assert opened("compact x4")[1].description == "Compact (SRVGG), 8 channels, 4 convolutions"
    assert opened("esrgan x4")[1].description == "RRDB (ESRGAN), 8 channels, 2 blocks of growth 4"
    tutorial = opened("tutorial x4")[1]
    assert tutorial.description == "SRResNet of the PyTorch SRGAN tutorial, 8 channels, 2 blocks"
    assert tutorial.witness == "NumPy, float64"


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats(kind: Any) -> None:
    """Half the weights' bits are lost in the file, not here."""
    net = random_weights(Compact(8, 2, 4))
    arrays = {name: array.astype(kind) for name, array in arrays_of(net).items()}
    net.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()})
    pixels = picture(9, 7)
    np.testing.assert_allclose(by_onnx(open_arrays(arrays, "a"), pixels), by_torch(net, pixels), rtol=0, atol=1e-4)


def test_a_kernel_for_each_pixel_of_a_block() -> None:
    """A network of one weight that isn't zero says where the channels of an unshuffled picture go."""
    arrays = {name: 0 * array for name, array in arrays_of(net_of("real-esrgan x2")).items()}
    for name in ("conv_last", "conv_hr", "conv_up1", "conv_up2"):
        arrays[f"{name}.weight"][0, 0, 1, 1] = 1
    arrays["conv_first.weight"][0, 4 * 1 + 2 * 0 + 1, 1, 1] = 1  # green, of the first row's second pixel
    pixels = picture(4, 6)
    wanted = pixels[::2, 1::2, 1].repeat(4, 0).repeat(4, 1)
    result = by_onnx(open_arrays(arrays, "a"), pixels)
    np.testing.assert_allclose(result[:, :, 0], wanted, atol=1e-6)
    assert not result[:, :, 1:].any()


# ---- what is around the layers


@QUICK
@pytest.mark.parametrize(
    "wrapper",
    ["params_ema.{}", "params.{}", "state_dict.{}", "model.{}", "generator.net.{}", "state_dict.module.{}", "netG.{}"],
)
def test_wrappers(name: str, wrapper: str) -> None:
    arrays = {wrapper.format(key): value for key, value in arrays_of(net_of(name)).items()}
    assert is_known(arrays)
    assert open_arrays(arrays, "a").content == opened(name)[1].content


def test_averaged_weights_are_preferred() -> None:
    good = arrays_of(net_of("compact x4"))
    both = {f"params.{name}": 2 * array for name, array in good.items()}
    both |= {f"params_ema.{name}": array for name, array in good.items()}
    assert open_arrays(both, "a").content == open_arrays(good, "a").content


def test_critic_and_optimizer_are_left_alone() -> None:
    good = arrays_of(net_of("tutorial x4"))
    whole = {f"discriminator.{name}": array for name, array in arrays_of(net_of("compact x4")).items()}
    whole |= {f"generator.net.{name}": array for name, array in good.items()}
    whole["optimizer_g.state.0.exp_avg"] = np.zeros((3, 3))
    assert open_arrays(whole, "a").content == open_arrays(good, "a").content


def safetensors_of(arrays: dict[str, Any]) -> bytes:
    header, data = {}, io.BytesIO()
    for name, array in arrays.items():
        first = data.tell()
        data.write(array.astype("<f4").tobytes())
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [first, data.tell()]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data.getvalue()


def test_safetensors_without_torch(tmp_path: Path) -> None:
    """What comes out in a process that can't import torch is what comes out here."""
    arrays = arrays_of(net_of("compact x4"))
    (tmp_path / "a.safetensors").write_bytes(safetensors_of(arrays))
    program = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from superfine.weights.architectures import open_safetensors\n"
        "Path(sys.argv[2]).write_bytes(open_safetensors(Path(sys.argv[1]).read_bytes(), 'a').content)\n"
    )
    paths = [str(tmp_path / name) for name in ("a.safetensors", "a.onnx")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True)
    assert (tmp_path / "a.onnx").read_bytes() == open_arrays(arrays, "a").content


def test_broken_safetensors() -> None:
    with pytest.raises(ModelError, match=r"a\.safetensors: not a sound \.safetensors file"):
        open_safetensors(b"12345678{}", "a.safetensors")


def test_needs_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="'convert'"):
        open_arrays(arrays_of(net_of("compact x4")), "a.pth")


# ---- wrong files


@CASES
def test_every_missing_layer_is_missed(name: str) -> None:
    """A name less, whichever, is refused; one in the middle by its own name, unless what's left is no layout."""
    arrays = arrays_of(net_of(name))
    for key in arrays:
        if not key.endswith("num_batches_tracked"):
            refused({other: array for other, array in arrays.items() if other != key})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("compact x4", "body.2.bias"),
        ("real-esrgan x4", "body.0.rdb2.conv3.weight"),
        ("esrgan x4", "model.1.sub.1.RDB3.conv5.0.bias"),
        ("esrgan x4", "model.8.weight"),
        ("bsrgan x4", "HRconv.weight"),
        ("tutorial x4", "residual_blocks.1.conv_block2.conv_block.1.running_var"),
        ("tutorial x4", "subpixel_convolutional_blocks.1.prelu.weight"),
        ("edsr x2", "body.16.weight"),
    ],
)
def test_missing_layer_is_named(name: str, key: str) -> None:
    arrays = arrays_of(net_of(name))
    del arrays[key]
    refused(arrays, "lacks", repr(key), "get a whole file")


@QUICK
def test_surplus_layer_is_named(name: str) -> None:
    arrays = arrays_of(net_of(name))
    refused(arrays | {"attention.qkv.weight": np.zeros((3, 3), np.float32)}, "1 layers more", "'attention.qkv.weight'")


@CASES
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(name: str, value: float) -> None:
    arrays = arrays_of(net_of(name))
    key = [key for key in arrays if key.endswith("weight")][len(arrays) // 4]
    arrays[key].flat[-1] = value
    refused(arrays, repr(key), "NaN or infinity")


def test_too_large_for_float32() -> None:
    arrays = arrays_of(net_of("compact x4"))
    arrays["body.2.weight"] = arrays["body.2.weight"].astype(np.float64) * 1e300
    refused(arrays, "'body.2.weight'", "NaN or infinity")


def test_whole_numbers() -> None:
    arrays = arrays_of(net_of("compact x4"))
    arrays["body.2.weight"] = arrays["body.2.weight"].astype(np.int8)
    refused(arrays, "'body.2.weight'", "int8")


@QUICK
def test_every_wrong_shape_is_refused(name: str) -> None:
    """One row or channel more, or an axis more."""
    arrays = arrays_of(net_of(name))
    for key, array in arrays.items():
        if key.endswith("num_batches_tracked"):
            continue
        for axis in range(array.ndim):
            refused(arrays | {key: np.concatenate([array, array.take([0], axis)], axis)})
        refused(arrays | {key: array[..., None]})
        refused(arrays | {key: array[:0]})


@pytest.mark.parametrize(
    ("name", "key", "shape", "words"),
    [
        ("compact x4", "body.0.weight", (8, 1, 3, 3), "(8, 1, 3, 3) where (8, 3, 3, 3)"),
        ("compact x4", "body.6.weight", (47, 8, 3, 3), "no pixels of an enlarged RGB picture"),
        ("compact x4", "body.0.weight", (5000, 3, 3, 3), "up to 4096"),
        ("real-esrgan x4", "conv_first.weight", (8, 1, 3, 3), "takes 1 channels"),
        ("real-esrgan x4", "conv_first.weight", (8, 27, 3, 3), "takes 27 channels"),
        ("esrgan x2", "model.0.weight", (6, 48, 3, 3), "reduces the picture 4 times"),
        ("tutorial x4", "conv_block1.conv_block.0.weight", (8, 3, 8, 8), "side 8"),
        ("tutorial x4", "conv_block1.conv_block.0.weight", (8, 3, 33, 33), "side 33"),
    ],
)
def test_sizes_that_no_network_has(name: str, key: str, shape: tuple[int, ...], words: str) -> None:
    arrays = arrays_of(net_of(name))
    refused(arrays | {key: np.zeros(shape, np.float32)}, repr(key), words)


def test_enlarging_without_end() -> None:
    arrays = arrays_of(random_weights(Compact(6, 1, 17)))
    refused(arrays, "x17")


def test_more_weights_than_a_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_MOST_WEIGHTS", 1000)
    refused(arrays_of(net_of("compact x4")), "'body.4.weight'", "more than 1,000 weights")


def test_variance_below_zero() -> None:
    arrays = arrays_of(net_of("tutorial x4"))
    arrays["conv_block2.conv_block.1.running_var"][3] = -0.1
    refused(arrays, "'conv_block2.conv_block.1.running_var'", "below zero")


def test_other_activations_of_compact_are_not_guessed() -> None:
    arrays = arrays_of(net_of("compact x4"))
    refused({name: array for name, array in arrays.items() if array.ndim != 1 or "bias" in name}, "leaky ReLU")


def test_residual_scale_of_edsr_is_not_guessed() -> None:
    refused(arrays_of(random_weights(EDSR(2, 255.0, 32, 16))), "residual scale", "32 channels and 16 blocks")


def test_unknown_names() -> None:
    arrays = {f"model.residual_layer.{place}.conv.weight": np.zeros((4, 4, 3, 3)) for place in range(9)}
    sentence = refused(arrays, "'residual_layer.0.conv.weight'", "Compact (SRVGG)", "RRDB (ESRGAN)", "'spandrel'")
    assert sentence.endswith("; export it as .onnx where its code is, by torch.onnx.export, and give that file")
    assert "residual_layer.5" not in sentence
    assert not is_known(arrays)


def test_esrgan_plus_is_another_network() -> None:
    arrays = arrays_of(net_of("esrgan x4"))
    arrays |= {"model.1.sub.0.RDB1.conv1x1.weight": np.zeros((4, 8, 1, 1), np.float32)}
    refused(arrays, "no network that is known here")


def test_names_that_no_one_can_read() -> None:
    sentence = refused({"a\nb\x1b[31m" + "c" * 500: np.zeros(3)}, "'a?b?[31mc")
    assert len(sentence) < 350


def test_nothing() -> None:
    refused({}, "no weights under names")
