"""Networks that were trained on ImageNet and published: VGG-16, VGG-19 and ResNet-34, from a file that is here.

Nothing is ever downloaded, and a file counts only by its hash: other weights under a published name would give other
features without a word. Files are read without running anything that is in them.

Sources: VGG, Simonyan and Zisserman 2015, arXiv:1409.1556; ResNet, He et al. 2016, arXiv:1512.03385; the weights are
torchvision's, IMAGENET1K_V1, at https://download.pytorch.org/models.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from superfine.errors import ModelError, ShapeError, TrainingError
from superfine.train.nets.layers import Net
from superfine.train.nets.residual_unet import ResidualUNet
from superfine.weights.pickles import named_arrays, read_torch

__all__ = ["TRUNKS", "TrunkFile", "VGGFeatures", "find_trunk", "lend_encoder"]

#: Trunk -> its published files, the newest first, each with its sha256.
TRUNKS: Final[dict[str, dict[str, str]]] = {
    "vgg16": {"vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"},
    "vgg19": {"vgg19-dcbb9e9d.pth": "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"},
    "resnet34": {
        "resnet34-b627a593.pth": "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
        "resnet34-333f7ec4.pth": "333f7ec4c6338da2cbed37f1fc0445f9624f1355633fa1d7eab79a91084c6cef",
    },
}
_ADDRESS: Final = "https://download.pytorch.org/models"
# The classifiers, which no one here needs.
_HEADS: Final = ("classifier.", "fc.")

# How many convolutions lie before each pooling, and their width.
_WIDTHS: Final = (64, 128, 256, 512, 512)
_CONVOLUTIONS: Final = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
# Of ImageNet's pictures in 0..1, R, G, B.
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrunkFile:
    """A published trunk's file that was found here and has the published hash."""

    name: str
    """One of `TRUNKS`."""
    path: Path
    sha256: str

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights in float32 by torchvision's names, without the classifier.

        Raises TrainingError where the file has changed since it was found, or isn't what its hash says.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise TrainingError(f"{self.path}: has changed while it was read; begin again")
        try:
            arrays = named_arrays(read_torch(content, str(self.path)), str(self.path))
        except ModelError as error:
            raise TrainingError(str(error)) from error
        # Of a storage that the file's reader may share, so copied.
        return {
            name: torch.tensor(array).float() if array.dtype.kind == "f" else torch.tensor(array)
            for name, array in arrays.items()
            if not name.startswith(_HEADS)
        }


def find_trunk(name: str, path: Path | None = None) -> TrunkFile | None:
    """The file of a trunk: `path`, or where none is given the one in torch hub's cache; None where that has none.

    The cache is `$TORCH_HOME/hub/checkpoints`, as torchvision fills it. Raises TrainingError for an unknown trunk,
    a file that isn't there or can't be read, and one whose sha256 is not that of a published file of this trunk.
    """
    if name not in TRUNKS:
        raise TrainingError(f"no trunk {name!r}; there are {', '.join(TRUNKS)}")
    if path is not None:
        return _known(name, path)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    here = [folder / file for file in TRUNKS[name] if os.path.lexists(folder / file)]
    return _known(name, here[0]) if here else None


def _known(name: str, path: Path) -> TrunkFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    if digest not in TRUNKS[name].values():
        raise TrainingError(
            f"{path}: its sha256 begins with {digest[:8]}, so it is not a published file of {name}; "
            f"fetch {_ADDRESS}/{next(iter(TRUNKS[name]))}"
        )
    return TrunkFile(name, path, digest)


def _unreadable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(f"{path}: can't be read: {error.strerror or error}; name the file of a published trunk")


# ---- features


@dataclass(frozen=True)
class _Layer:
    """A convolution of VGG by the papers' name and by torchvision's."""

    name: str
    published: str
    shape: tuple[int, ...] = field(compare=False)
    pooled: bool
    """Whether pooling comes before it."""


def _layers(trunk: str) -> Iterator[_Layer]:
    inputs, place = 3, 0
    for level, (width, count) in enumerate(zip(_WIDTHS, _CONVOLUTIONS[trunk], strict=True), 1):
        for number in range(1, count + 1):
            pooled = level > 1 and number == 1
            yield _Layer(f"conv{level}_{number}", f"features.{place}", (width, inputs, 3, 3), pooled)
            inputs, place = width, place + 2  # a ReLU follows each
        place += 1  # and a pooling the last of a level


class VGGFeatures(nn.Module):
    """Activations of a published VGG: (N, 3, h, w) RGB in 0..1 -> one (N, C, h', w') for each layer, as asked.

    layers: names as in the papers: `conv5_4` is the fourth convolution of the fifth level before its ReLU (ESRGAN,
    arXiv:1809.00219), `relu5_4` after it (SRGAN's VGG54, arXiv:1609.04802). Level k has sides of h / 2**(k - 1).
    Frozen; computes no further than the deepest layer asked for. The picture is normalised with ImageNet's mean and
    deviation first. Raises TrainingError for a layer that the trunk doesn't have, or a trunk that is no VGG; the
    call raises ShapeError for pictures too small for a level.
    """

    def __init__(self, trunk: TrunkFile, layers: Sequence[str]) -> None:
        super().__init__()
        if trunk.name not in _CONVOLUTIONS:
            raise TrainingError(f"{trunk.name} gives no features; there are {', '.join(_CONVOLUTIONS)}")
        chain = list(_layers(trunk.name))
        places = {layer.name: place for place, layer in enumerate(chain)}
        wanted = [(places.get(layer.replace("relu", "conv", 1)), layer.startswith("relu")) for layer in layers]
        unknown = [layer for layer, (place, _) in zip(layers, wanted, strict=True) if place is None]
        if unknown or not layers:
            names = ", ".join(f"{layer.name}, {layer.name.replace('conv', 'relu')}" for layer in chain)
            what = f"has no layer {', '.join(unknown)}" if unknown else "was asked for no layer"
            raise TrainingError(f"{trunk.name} {what}; there are {names}")
        self._wanted = [(place, after) for place, after in wanted if place is not None]
        self._chain = chain[: max(place for place, _ in self._wanted) + 1]
        self.convolutions = nn.ModuleList(_convolution(trunk, self._chain))
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        least = 2 ** sum(layer.pooled for layer in self._chain)
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < least:
            raise ShapeError(
                f"want (N, 3, h, w) of {least} px a side or more, got {tuple(x.shape)}; use larger patches"
            )
        y = (x - self.mean) / self.deviation
        found: dict[tuple[int, bool], torch.Tensor] = {}
        for place, (layer, convolution) in enumerate(zip(self._chain, self.convolutions, strict=True)):
            y = convolution(functional.max_pool2d(y, 2) if layer.pooled else y)
            found[place, False] = y
            y = functional.relu(y)
            found[place, True] = y
        return [found[each] for each in self._wanted]


def _convolution(trunk: TrunkFile, chain: Sequence[_Layer]) -> Iterator[nn.Conv2d]:
    given = trunk.tensors()
    for layer in chain:
        weight = _fitting(trunk, given, f"{layer.published}.weight", layer.shape)
        bias = _fitting(trunk, given, f"{layer.published}.bias", layer.shape[:1])
        outputs, inputs = layer.shape[:2]
        made = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, padding=1)
        made.load_state_dict({"weight": weight, "bias": bias})
        yield made


def _fitting(trunk: TrunkFile, given: Mapping[str, torch.Tensor], name: str, shape: Sequence[int]) -> torch.Tensor:
    if name not in given or tuple(given[name].shape) != tuple(shape):
        found = "nothing" if name not in given else f"shape {tuple(given[name].shape)}"
        raise TrainingError(f"{trunk.path}: has {found} under {name} where {trunk.name} has shape {tuple(shape)}")
    return given[name]


# ---- initialisation


@torch.no_grad()
def lend_encoder(net: Net, trunk: TrunkFile) -> None:
    """Let the encoder of `net` start from a trunk's weights and norms; nothing is changed where they don't fit.

    Raises TrainingError where the net has no encoder of the trunk's shape, and where the file lacks a layer, has one
    of another shape, or one more; it is named.
    """
    if not isinstance(net, ResidualUNet) or net.published != trunk.name:
        kind = f"{type(net).__name__} x{net.scale}"
        raise TrainingError(f"{kind} has no encoder that could start from {trunk.name}; leave out encoder")
    given, own = trunk.tensors(), net.state_dict()
    names = net.published_names()
    lent = {names[name]: _fitting(trunk, given, name, own[names[name]].shape) for name in names}
    if strange := sorted(name for name in set(given) - set(names) if not name.endswith(".num_batches_tracked")):
        raise TrainingError(f"{trunk.path}: has {', '.join(strange[:3])}, which {trunk.name} doesn't have")
    for name, value in lent.items():
        own[name].copy_(value)
