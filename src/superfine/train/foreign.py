"""Checkpoints of torch that others made -> `Network`, held against torch itself.

A file is read by `weights.pickles`, never by torch or spandrel, so that nothing in it is run.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from superfine.errors import MissingExtraError, ModelError
from superfine.train.config import to_config
from superfine.train.export import new_card, to_onnx
from superfine.train.nets import NETS
from superfine.train.pretrained import build
from superfine.weights.architectures import (
    Architecture,
    Convolution,
    is_known,
    read_architecture,
    to_network,
    unwrappings,
)
from superfine.weights.network import Floats, Network, Reference
from superfine.weights.pickles import named_arrays, read_torch

__all__ = ["open_named", "open_pth", "open_with_spandrel"]

Array = npt.NDArray[np.generic]
Weights = npt.NDArray[np.float32]

# What `train.state` writes, and nobody else.
_RUN: Final = {"config", "step", "best", "net", "ema", "optimizer", "random"}


def open_pth(content: bytes, source: str) -> Network:
    """The network in a checkpoint of torch, of either layout: weights by name, a whole module, or a run of our own.

    `source` names the file in errors. Raises ModelError where the file isn't sound, calls
    anything, or holds no network that is known; with spandrel installed its architectures are known too.
    """
    tree = read_torch(content, source)
    if isinstance(tree, dict) and set(tree) >= _RUN:
        return _open_run(tree, source)
    return open_named(named_arrays(tree, source), source)


def open_named(arrays: Mapping[str, Array], source: str) -> Network:
    """The network whose weights these are, by an architecture known here or else, where it is installed, by spandrel.

    Raises ModelError where neither knows it, or a layer is missing, surplus, of another shape or not finite.
    """
    if arrays and not is_known(arrays) and find_spec("spandrel") is not None:
        try:
            _spandrel()
        except MissingExtraError as error:
            why = _first_line(error.__cause__ or error)
            read_architecture(arrays, source, f"spandrel is installed, but: {why}")  # says which are known
            raise
        return open_with_spandrel(arrays, source)
    architecture = read_architecture(arrays, source)
    network = to_network(architecture)
    return replace(network, reference=_by_layers(architecture), witness=_witness())


def _witness() -> str:
    return f"torch {torch.__version__}"


def _by_layers(architecture: Architecture) -> Reference:
    return _reference(lambda planes: architecture.run(_Tensors(), planes))


def _reference(forward: Callable[[torch.Tensor], torch.Tensor]) -> Reference:
    """`forward` of (1, 3, h, w), as a function of (h, w, 3), in fp32 and clipped."""

    @torch.inference_mode()
    def compute(pixels: Floats) -> Floats:
        planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0)[None], np.float32)
        result: Floats = forward(torch.from_numpy(planes))[0].clamp(0, 1).numpy()
        return np.moveaxis(result, 0, 2)

    return compute


class _Tensors:
    """Layers on tensors (1, channels, h, w)."""

    def convolve(self, planes: torch.Tensor, layer: Convolution) -> torch.Tensor:
        kernel, bias = torch.from_numpy(layer.kernel), torch.from_numpy(layer.bias)
        return functional.conv2d(planes, kernel, bias, padding=layer.padding)

    def convolve_unshuffled(self, planes: torch.Tensor, layer: Convolution, block: int) -> torch.Tensor:
        return self.convolve(functional.pixel_unshuffle(planes, block), layer)

    def prelu(self, planes: torch.Tensor, slopes: Weights) -> torch.Tensor:
        return functional.prelu(planes, torch.from_numpy(slopes))

    def leaky_relu(self, planes: torch.Tensor, slope: float) -> torch.Tensor:
        return functional.leaky_relu(planes, slope)

    def tanh(self, planes: torch.Tensor) -> torch.Tensor:
        return torch.tanh(planes)

    def affine(self, planes: torch.Tensor, factors: Sequence[float], shifts: Sequence[float]) -> torch.Tensor:
        times, plus = (torch.tensor(values)[:, None, None] for values in (factors, shifts))
        return planes * times + plus

    def add(self, planes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return planes + others

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(parts), 1)

    def shuffle(self, planes: torch.Tensor, block: int) -> torch.Tensor:
        return functional.pixel_shuffle(planes, block)

    def nearest(self, planes: torch.Tensor, factor: int) -> torch.Tensor:
        return functional.interpolate(planes, scale_factor=factor, mode="nearest")

    def repeat(self, planes: torch.Tensor, times: int) -> torch.Tensor:
        return planes.repeat_interleave(times, 1)


# ---- our own runs


def _open_run(state: dict[Any, Any], source: str) -> Network:
    """The averaged weights of a run's state, folded as `export` folds them."""
    if not isinstance(state["config"], dict) or not isinstance(state["ema"], dict):
        raise ModelError(f"{source}: is the state of a run without its config or weights; give another")
    config = to_config(state["config"], source)
    net = build(config.net, config.scale)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in named_arrays(state["ema"], source).items()}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{source}: its weights aren't those of its net {config.net}; give another state") from error
    folded = net.eval().folded().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    card = new_card(config, "run")
    return Network(
        content=to_onnx(folded, card.multiple_of),
        scale=config.scale,
        halo=card.halo,
        multiple_of=card.multiple_of,
        parameters=sum(weight.numel() for weight in folded.parameters()),
        description=f"{config.net}, {NETS[config.net].source}",
        colour=card.colour or "RGB by the network",
        fp32_end=card.fp32_end,
        reference=_reference(net),
        witness=_witness(),
    )


# ---- spandrel's architectures

# By spandrel's ids: tried here, each exported for any size and equal to torch. Transformers don't survive that.
_CONVOLUTIONAL: Final = ("ESRGAN", "MoESR", "PLKSR", "SPAN", "SwiftSRGAN")
# How far they see isn't known from outside; `halo` has to be at least this until it is measured.
_UNMEASURED_HALO: Final = 256
_LOOKS_AT_ALL: Final = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm, nn.InstanceNorm2d)
# What code of others raises on layers that it didn't expect.
_FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def open_with_spandrel(arrays: Mapping[str, Array], source: str) -> Network:
    """The network whose weights these are, built by spandrel, exported by torch; its halo has to be measured.

    Raises MissingExtraError without spandrel, ModelError where it doesn't know the layers, where the
    architecture isn't a convolutional one that becomes ONNX, or a layer is surplus, missing, wrong or not finite.
    """
    spandrel = _spandrel()
    weights, support = _known_to(spandrel, arrays, source)
    architecture = support.architecture
    if architecture.id not in _CONVOLUTIONAL:
        raise ModelError(
            f"{source}: spandrel knows it as {architecture.name}, which doesn't become ONNX for pictures of any size; "
            f"its convolutional architectures {', '.join(_CONVOLUTIONAL)} do"
        )
    try:
        # Where nothing takes memory and copies are no-ops: layers that the file doesn't have are missed here.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
            architecture.load(weights)
        descriptor = architecture.load(weights)
        network = _Settled(descriptor).eval()
    except _FAILURES as error:
        raise ModelError(
            f"{source}: spandrel knows it as {architecture.name} and can't load it: {_first_line(error)}"
        ) from error
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        channels = f"{descriptor.input_channels} channels to {descriptor.output_channels}"
        raise ModelError(f"{source}: is a {architecture.name} from {channels}; networks of RGB can be converted")
    scale, grid = int(descriptor.scale), max(1, int(descriptor.size_requirements.multiple_of))
    try:
        content = to_onnx(network, grid)
    except _FAILURES as error:
        raise ModelError(
            f"{source}: spandrel knows it as {architecture.name}, and torch can't export it: {_first_line(error)}"
        ) from error
    looks = "looks at the whole picture" if network.looks_at_all else "its reach is not known by its layers"
    return Network(
        content=content,
        scale=scale,
        halo=_UNMEASURED_HALO,
        multiple_of=grid,
        parameters=sum(weight.numel() for weight in network.parameters()),
        description=f"{architecture.name} ({', '.join(map(str, descriptor.tags))}) by spandrel; {looks}",
        colour="RGB by the network",
        reference=_reference(network),
        witness=f"{_witness()}, spandrel {spandrel.__version__}",
    )


def _spandrel() -> Any:
    """Raises MissingExtraError where it isn't here, or what it wants itself isn't, or is made for another torch."""
    try:
        return import_module("spandrel")
    except (ImportError, OSError, *_FAILURES) as error:
        raise MissingExtraError("opening networks of spandrel's architectures", "spandrel") from error


class _Settled(nn.Module):
    """What spandrel loaded, for inference alone: (1, 3, h, w) -> (1, 3, scale*h, scale*w), clipped as spandrel does.

    SPAN computes its 3x3 kernels anew whenever it runs, which no exporter can follow; here they stay.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model = descriptor.model.float().eval().requires_grad_(requires_grad=False)
        for module in self.model.modules():
            if hasattr(module, "update_params"):
                module.update_params()
                module.update_params = _nothing
        self.looks_at_all = any(isinstance(module, _LOOKS_AT_ALL) for module in self.model.modules())

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        enlarged: torch.Tensor = self.model(planes).clamp(0, 1)
        return enlarged


def _nothing() -> None:
    pass


def _known_to(spandrel: Any, arrays: Mapping[str, Array], source: str) -> tuple[dict[str, torch.Tensor], Any]:
    """The layers without their wrappers, and spandrel's support for them."""
    supports = spandrel.MAIN_REGISTRY.architectures("detection")
    for inner in unwrappings(arrays):
        support = next((each for each in supports if each.detect(inner)), None)
        if support is None:
            continue
        # Layers are counted by the highest number in their names.
        highest = max((int(part) for name in inner for part in name.split(".") if part.isdecimal()), default=0)
        if highest > 8 * len(inner):
            raise ModelError(f"{source}: numbers its layers to {highest}, and has {len(inner)}; get a sound file")
        for name, array in inner.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelError(f"{source}: its layer {name[:60]!r} holds NaN or infinity; get a sound file")
        kept = {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in inner.items()}
        return {name: torch.from_numpy(np.array(array)) for name, array in kept.items()}, support
    read_architecture(arrays, source, "spandrel doesn't know it either")  # says which are known
    raise ModelError(f"{source}: holds no network that is known to spandrel")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
