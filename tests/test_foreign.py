"""Checkpoints of torch: opened without their code, and the same as the networks that were saved."""

import io
import os
import resource
import subprocess
import sys
import textwrap
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from superfine.errors import MissingExtraError, ModelError
from superfine.train import foreign, state
from superfine.train.config import to_config
from superfine.train.foreign import open_pth, open_with_spandrel
from superfine.train.pretrained import STATE, load_pretrained
from superfine.weights.network import Network
from test_architectures import Compact, arrays_of, net_of, planes_of, random_weights

LAYOUTS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
QUICK = pytest.mark.parametrize("name", ["compact x4", "real-esrgan x2", "esrgan x4", "tutorial x4", "edsr x3 of 0..1"])


def saved(value: Any, *, is_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def picture(rows: int = 12, cols: int = 20) -> Any:
    return np.random.default_rng(3).random((rows, cols, 3), dtype=np.float32)


def by_onnx(network: Network, pixels: Any) -> Any:
    session = onnxruntime.InferenceSession(network.content, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"pixels": planes_of(pixels)})
    return np.moveaxis(result[0], 0, 2).clip(0, 1)


@torch.inference_mode()
def by_torch(net: torch.nn.Module, pixels: Any) -> Any:
    return np.moveaxis(net(torch.from_numpy(planes_of(pixels)))[0].clamp(0, 1).numpy(), 0, 2)


def same(network: Network, pixels: Any, wanted: Any) -> None:
    assert np.ptp(wanted) > 0.02
    np.testing.assert_allclose(network.reference(pixels), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(by_onnx(network, pixels), wanted, rtol=0, atol=1e-4)


# ---- weights by name


@LAYOUTS
@QUICK
def test_state_dicts(name: str, is_zip: bool) -> None:
    net = net_of(name)
    network = open_pth(saved({"params_ema": net.state_dict()}, is_zip=is_zip), "a.pth")
    assert network.witness == f"torch {torch.__version__}"
    same(network, picture(), by_torch(net, picture()))


def test_the_witness_is_torch_in_float32() -> None:
    result = open_pth(saved(net_of("compact x4").state_dict()), "a.pth").reference(picture())
    assert result.dtype == np.float32


def test_half_precision() -> None:
    net = random_weights(Compact(8, 2, 4)).half()
    network = open_pth(saved({"params": net.state_dict()}), "a.pth")
    same(network, picture(), by_torch(net.float(), picture()))


def test_whole_module() -> None:
    """As many save: the network itself, of a class that the reader may not have."""
    net = random_weights(Compact(8, 2, 4))
    same(open_pth(saved(net), "a.pth"), picture(), by_torch(net, picture()))


@pytest.mark.parametrize("change", ["missing", "shape", "not finite", "surplus"])
def test_wrong_weights(change: str) -> None:
    weights = dict(net_of("compact x4").state_dict())
    if change == "missing":
        del weights["body.2.bias"]
    elif change == "shape":
        weights["body.2.bias"] = weights["body.2.bias"][:-1]
    elif change == "not finite":
        weights["body.2.bias"] = weights["body.2.bias"] * float("nan")
    else:
        weights["body.20.bias"] = weights["body.2.bias"]
    with pytest.raises(ModelError, match=r"^a\.pth: .*body\.2"):
        open_pth(saved({"params": weights}), "a.pth")


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"no network that is known here .*'fc\.weight'.*spandrel"):
        open_pth(saved({"state_dict": torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 4)}).state_dict()}), "a.pth")


@pytest.mark.parametrize("tree", [{}, [], {"epoch": 3}, {"params": {}}, 5, "weights", {"model": None}])
def test_no_weights(tree: Any) -> None:
    with pytest.raises(ModelError, match=r"a\.pth: holds no weights under names"):
        open_pth(saved(tree), "a.pth")


# ---- the tutorial's checkpoints, made where its classes are

MODELS = """
    import torch
    from torch import nn

    class ConvolutionalBlock(nn.Module):
        def __init__(self, in_channels, out_channels, kernel_size, batch_norm=False, activation=None):
            super().__init__()
            layers = [nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)]
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            if activation == "prelu":
                layers.append(nn.PReLU())
            elif activation == "leakyrelu":
                layers.append(nn.LeakyReLU(0.2))
            elif activation == "tanh":
                layers.append(nn.Tanh())
            self.conv_block = nn.Sequential(*layers)

        def forward(self, x):
            return self.conv_block(x)

    class SubPixelConvolutionalBlock(nn.Module):
        def __init__(self, n_channels):
            super().__init__()
            self.conv = nn.Conv2d(n_channels, 4 * n_channels, 3, padding=1)
            self.pixel_shuffle = nn.PixelShuffle(2)
            self.prelu = nn.PReLU()

        def forward(self, x):
            return self.prelu(self.pixel_shuffle(self.conv(x)))

    class ResidualBlock(nn.Module):
        def __init__(self, n_channels):
            super().__init__()
            self.conv_block1 = ConvolutionalBlock(n_channels, n_channels, 3, True, "prelu")
            self.conv_block2 = ConvolutionalBlock(n_channels, n_channels, 3, True)

        def forward(self, x):
            return self.conv_block2(self.conv_block1(x)) + x

    class SRResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_block1 = ConvolutionalBlock(3, 16, 9, activation="prelu")
            self.residual_blocks = nn.Sequential(*[ResidualBlock(16) for _ in range(16)])
            self.conv_block2 = ConvolutionalBlock(16, 16, 3, True)
            self.subpixel_convolutional_blocks = nn.Sequential(*[SubPixelConvolutionalBlock(16) for _ in range(2)])
            self.conv_block3 = ConvolutionalBlock(16, 3, 9, activation="tanh")

        def forward(self, lr_imgs):
            first = self.conv_block1(lr_imgs)
            deep = self.conv_block2(self.residual_blocks(first)) + first
            return self.conv_block3(self.subpixel_convolutional_blocks(deep))

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SRResNet()

        def forward(self, lr_imgs):
            return self.net(lr_imgs)

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_blocks = nn.Sequential(ConvolutionalBlock(3, 8, 3, activation="leakyrelu"))
            self.fc1 = nn.Linear(8, 1)
"""
SAVE = """
    import numpy as np
    import torch
    from models import Discriminator, Generator, SRResNet

    torch.manual_seed(5)
    torch.set_num_threads(1)
    location = "cpu"
    # As a machine with a GPU names where the numbers were.
    torch.serialization.register_package(0, lambda storage: location, lambda storage, _: None)
    pixels = np.random.default_rng(3).random((12, 20, 3), dtype=np.float32)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normed = ((torch.from_numpy(pixels) - mean) / deviation).permute(2, 0, 1)[None]

    for kind, net in {"model": SRResNet(), "generator": Generator()}.items():
        optimizer = torch.optim.Adam(params=filter(lambda p: p.requires_grad, net.parameters()), lr=1e-4)
        net(torch.randn(2, 3, 12, 12)).square().mean().backward()
        optimizer.step()  # so that norms and optimiser have seen something
        with torch.no_grad():
            result = (net.eval()(normed)[0].permute(1, 2, 0) + 1) / 2
        np.savez(f"{kind}.npz", pixels=pixels, wanted=result.numpy())
        net.train()
        content = {"epoch": 7, "model": net, "optimizer": optimizer}
        if kind == "generator":
            critic = Discriminator()
            content = {"epoch": 7, "generator": net, "discriminator": critic, "optimizer_g": optimizer}
            content["optimizer_d"] = torch.optim.Adam(critic.parameters())
        for location in ("cpu", "cuda:0"):
            for layout in ("zip", "legacy"):
                name = f"{kind} {layout} {location}.pth.tar"
                torch.save(content, name, _use_new_zipfile_serialization=layout == "zip")
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "models.py").write_text(textwrap.dedent(MODELS))
    (folder / "save.py").write_text(textwrap.dedent(SAVE))
    subprocess.run([sys.executable, "save.py"], check=True, cwd=folder)
    return folder


@pytest.mark.parametrize("kind", ["model", "generator"])
@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("location", ["cpu", "cuda:0"])
def test_checkpoints_of_the_tutorial(kind: str, layout: str, location: str, checkpoints: Path) -> None:
    """Whole modules of classes that aren't here, with their optimisers, maybe from a GPU."""
    content = (checkpoints / f"{kind} {layout} {location}.pth.tar").read_bytes()
    assert (b"cuda:0" in content) == (location == "cuda:0")
    assert b"models" in content
    network = open_pth(content, "a.pth.tar")
    assert "models" not in sys.modules
    assert (network.scale, network.multiple_of) == (4, 1)
    assert network.description == "SRResNet of the PyTorch SRGAN tutorial, 16 channels, 16 blocks"
    made = np.load(checkpoints / f"{kind}.npz")
    same(network, made["pixels"], made["wanted"])


def test_a_module_that_runs_something_is_refused(tmp_path: Path) -> None:
    net = random_weights(Compact(8, 2, 4))
    net.__class__ = type("Compact", (Compact,), {"__reduce__": lambda self: (os.mkdir, (str(tmp_path / "made"),))})
    with pytest.raises(ModelError, match=r"calls posix\.mkdir: refused"):
        open_pth(saved({"model": net}), "a.pth")
    assert not (tmp_path / "made").exists()


# ---- our own runs


def own_run(folder: Path, net: str, scale: int) -> Path:
    recipe = f"""
        net = "{net}"
        scale = {scale}
        stages = [{{ steps = 3, loss = {{ l1 = 1.0 }} }}]
    """
    config = to_config(tomllib.loads(recipe), "a.toml")
    begun = state.begin(config)
    torch.manual_seed(3)
    for weight in begun.ema.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    state.save(folder / STATE, begun, config)
    return folder / STATE


def test_own_runs(tmp_path: Path) -> None:
    """The averaged weights, as `superfine export` takes them."""
    path = own_run(tmp_path, "plain-16x11", 2)
    network = open_pth(path.read_bytes(), "last.pt")
    assert (network.scale, network.halo, network.multiple_of) == (2, 13, 1)
    assert network.description.startswith("plain-16x11, ")
    same(network, picture(16, 24), by_torch(load_pretrained(str(path)).build().eval(), picture(16, 24)))


def test_own_run_with_other_weights(tmp_path: Path) -> None:
    content = torch.load(own_run(tmp_path, "plain-16x11", 2), weights_only=True)
    content["ema"].popitem()
    with pytest.raises(ModelError, match=r"a\.pt: its weights aren't those of its net plain-16x11"):
        open_pth(saved(content), "a.pt")
    content["ema"] = 3
    with pytest.raises(ModelError, match=r"a\.pt: is the state of a run without"):
        open_pth(saved(content), "a.pt")


# ---- spandrel


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """It asks for two functions of torchvision, whose wheel doesn't load beside the CPU build of torch."""
    if "spandrel" not in sys.modules:  # an import that failed for want of torchvision leaves parts behind
        for name in [name for name in sys.modules if name.startswith("spandrel.")]:
            monkeypatch.delitem(sys.modules, name)
    if "torchvision" not in sys.modules:
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        functional: Any = sys.modules["torchvision.transforms.functional"]
        functional.InterpolationMode = functional.rotate = functional.normalize = None
    reason = "spandrel comes without its dependencies: pip install --no-deps spandrel einops safetensors"
    return pytest.importorskip("spandrel", reason=reason)


def spandrels(spandrel: Any, name: str) -> torch.nn.Module:
    """Small networks of its own classes, with random weights."""
    of = spandrel.architectures
    torch.manual_seed(0)
    made = {
        "SPAN": lambda: of.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
        "SwiftSRGAN": lambda: of.SwiftSRGAN.SwiftSRGAN(in_channels=3, num_channels=16, num_blocks=2, upscale_factor=4),
        "PLKSR": lambda: of.PLKSR.PLKSR(dim=16, upscaling_factor=2, n_blocks=2),
        "RealPLKSR": lambda: of.PLKSR.RealPLKSR(dim=16, upscaling_factor=3, n_blocks=2),
        "MoESR": lambda: of.MoESR.MoESR(scale=2, dim=16, n_blocks=2, n_block=2),
        "ESRGAN+": lambda: of.ESRGAN.ESRGAN(num_filters=64, num_blocks=1, scale=2, plus=True),
    }[name]()
    for weight in made.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    return made.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale", "words"),
    [
        ("SPAN", 2, "its reach"),
        ("SwiftSRGAN", 4, "its reach"),
        ("PLKSR", 2, "its reach"),
        ("RealPLKSR", 3, "looks at the whole picture"),
        ("MoESR", 2, "its reach"),
        ("ESRGAN+", 2, "its reach"),
    ],
)
def test_spandrels_convolutional_networks(spandrel: Any, name: str, scale: int, words: str) -> None:
    net = spandrels(spandrel, name)
    network = open_pth(saved({"params_ema": net.state_dict()}), "a.pth")
    assert (network.scale, network.halo) == (scale, 256)
    assert words in network.description
    assert network.witness == f"torch {torch.__version__}, spandrel {spandrel.__version__}"
    for rows, cols in ((24, 40), (31, 17)):
        same(network, picture(rows, cols), by_torch(net, picture(rows, cols)))


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_spandrels_other_networks_are_refused_by_name(spandrel: Any) -> None:
    size = {"img_size": 16, "window_size": 8, "depths": [1], "embed_dim": 8, "num_heads": [2], "mlp_ratio": 2}
    net = spandrel.architectures.SwinIR.SwinIR(upscale=2, upsampler="pixelshuffle", resi_connection="1conv", **size)
    with pytest.raises(ModelError, match=r"a\.pth: spandrel knows it as SwinIR, which doesn't become ONNX"):
        open_pth(saved({"params": net.state_dict()}), "a.pth")


def test_what_spandrel_does_not_know(spandrel: Any) -> None:
    with pytest.raises(ModelError, match=r"a\.pth: holds no network that is known"):
        open_with_spandrel({"fc.weight": np.zeros((3, 3))}, "a.pth")


def test_who_knows_others_is_not_asked_twice(spandrel: Any) -> None:
    with pytest.raises(ModelError, match=r"and EDSR; spandrel doesn't know it either; .*torch\.onnx\.export"):
        open_pth(saved({"fc.weight": torch.zeros(3, 3)}), "a.pth")


def test_what_spandrel_should_not_be_given(spandrel: Any) -> None:
    weights = arrays_of(spandrels(spandrel, "SwiftSRGAN"))
    name = next(name for name, array in weights.items() if array.ndim == 4)
    with pytest.raises(ModelError, match="NaN or infinity"):
        open_with_spandrel(weights | {name: weights[name] * np.nan}, "a.pth")
    with pytest.raises(ModelError, match="numbers its layers to 10000000"):
        open_with_spandrel(weights | {"residual.10000000.block1.cnn.weight": weights[name]}, "a.pth")
    with pytest.raises(ModelError, match="can't load it"):
        open_with_spandrel(weights | {"another.weight": weights[name]}, "a.pth")


def test_names_that_claim_more_than_is_there(spandrel: Any) -> None:
    """By one layer's name 300 blocks more, of 0.9 GB; none is made."""
    weights = arrays_of(spandrels(spandrel, "ESRGAN+"))
    name = "model.1.sub.{}.RDB1.conv1.0.weight"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="ESRGAN and can't load it"):
        open_with_spandrel(weights | {name.format(300): weights[name.format(0)]}, "a.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 300_000  # kB


def test_spandrel_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(MissingExtraError, match="'spandrel'"):
        open_with_spandrel({"fc.weight": np.zeros((3, 3))}, "a.pth")


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import no_such_part", "No module named 'no_such_part'"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("import torch\ntorch.no_such_name", "module 'torch' has no attribute 'no_such_name'"),
    ],
)
def test_spandrel_that_is_here_and_does_not_load(
    program: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a torchvision that is missing, or made for another torch."""
    (tmp_path / "spandrel").mkdir()
    (tmp_path / "spandrel" / "__init__.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    with pytest.raises(ModelError) as caught:
        open_pth(saved({"fc.weight": torch.zeros(3, 3)}), "a.pth")
    sentence = str(caught.value)
    assert sentence.startswith("a.pth: holds no network that is known here (layers 'fc.weight')")
    assert f"and EDSR; spandrel is installed, but: {why}; export it" in sentence
    # What is known here opens as ever.
    same(
        open_pth(saved(net_of("compact x4").state_dict()), "a.pth"),
        picture(),
        by_torch(net_of("compact x4"), picture()),
    )
