"""A shipped network, an exported file or a run -> the torch net it holds."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from superfine.errors import TrainingError
from superfine.models import find_model
from superfine.train.config import TrainConfig, to_config
from superfine.train.nets import NETS
from superfine.train.nets.layers import Net

__all__ = ["STATE", "Averaged", "Pretrained", "build", "load_averaged", "load_pretrained", "read_state"]

#: The newest state in a run's folder.
STATE = "last.pt"


@dataclass(frozen=True)
class Pretrained:
    """Folded weights by name, and the net of the table that they belong to."""

    source: str
    net: str
    scale: int
    restoring: bool
    weights: Mapping[str, torch.Tensor]

    def build(self) -> Net:
        """The net with these weights."""
        net = build(self.net, self.scale)
        self.lend_to(net)
        return net

    def lend_to(self, net: Net) -> None:
        """Let `net` start from these weights, where they fit."""
        try:
            net.lend(self.weights)
        except TrainingError as error:
            raise TrainingError(f"{self.source}: {error}") from error


def build(name: str, scale: int) -> Net:
    """A fresh net of the table. Raises TrainingError where there is none of that name or scale."""
    if name not in NETS:
        raise TrainingError(f"no net {name!r}; there are {', '.join(NETS)}")
    if scale not in NETS[name].scales:
        raise TrainingError(f"{name} is for scales {', '.join(map(str, NETS[name].scales))}, not {scale}")
    return NETS[name].build(scale)


def load_pretrained(source: str) -> Pretrained:
    """Read `source`: a run's folder, one of its state files, an exported .onnx file, or a shipped network's name.

    Raises TrainingError where it isn't one, ModelError where no network has that name.
    """
    path = Path(source)
    if path.is_dir() or path.suffix == ".pt":
        state = path / STATE if path.is_dir() else path
        config, weights, _ = load_averaged(state)
        net = build(config.net, config.scale)
        net.load_state_dict(weights)
        return Pretrained(
            str(state),
            config.net,
            config.scale,
            config.restores,
            net.folded().state_dict(),
        )
    found = find_model(source)
    if len(found) > 1:
        raise TrainingError(f"{source} is a family; name one of {', '.join(model.card.name for model in found)}")
    (model,) = found
    if not model.card.net:
        raise TrainingError(f"{source}: its card names no net of the table, so training can't start from it")
    net = build(model.card.net, model.card.scale)
    return Pretrained(source, model.card.net, net.scale, model.card.restoring, _weights(model.content, net))


def _weights(content: bytes, net: Net) -> dict[str, torch.Tensor]:
    """The weights in an exported file, by the names that they have in `net`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(content).graph
    values = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()).float() for entry in graph.initializer}
    # Ask the nodes for their biases: the exporter drops zeros, and keeps equal ones under one name.
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1].removesuffix(".fp32") in values:
            weight = node.input[1].removesuffix(".fp32")
            zeros = torch.zeros(values[weight].shape[0])
            bias = values.get(node.input[2], zeros) if len(node.input) > 2 else zeros
            values[f"{weight.removesuffix('.weight')}.bias"] = bias
    # The exporter calls slopes val_1, val_2, .. in the order in which they are used.
    slopes = [values[node.input[1]].flatten() for node in graph.node if node.op_type == "PRelu"]
    named = [f"{name}.weight" for name, module in net.named_modules() if isinstance(module, torch.nn.PReLU)]
    return values | dict(zip(named, slopes, strict=True))


class Averaged(NamedTuple):
    """Of a run's state."""

    config: TrainConfig
    weights: dict[str, torch.Tensor]
    """The averaged ones, not folded."""
    features: str
    """What served as features; empty where nothing did."""


def load_averaged(path: Path) -> Averaged:
    """Read a state file. Raises TrainingError where it is none."""
    content = read_state(path)
    return Averaged(to_config(content["config"], str(path)), content["ema"], content.get("features", ""))


def read_state(path: Path) -> dict[str, Any]:
    """What `state.save` wrote. A file of another kind is refused before anything in it is unpickled."""
    if not path.exists():
        raise TrainingError(f"{path}: there is no such state of a run; `superfine train` makes one")
    wrong = TrainingError(f"{path}: is not the state of a run, or is cut off; give another, or remove it to begin anew")
    try:
        if not zipfile.is_zipfile(path):
            raise wrong
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise wrong from error
    if not (
        isinstance(content, dict) and {"config", "step", "best", "net", "ema", "optimizer", "random"} <= set(content)
    ):
        raise wrong
    return dict(content)
