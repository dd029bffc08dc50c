"""A trained net -> ONNX: folded, with its card inside, and held against torch before it is kept."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from superfine.atomic import written_whole
from superfine.engine import open_engine
from superfine.errors import TrainingError
from superfine.evaluate.benchmark import judge, protocol
from superfine.evaluate.methods import NetworkMethod
from superfine.evaluate.pairs import Dataset, open_dataset
from superfine.models import Card, Model, read_model, with_card
from superfine.train.config import TrainConfig
from superfine.train.guesses import calibrated
from superfine.train.nets import NETS
from superfine.train.nets.layers import Net
from superfine.train.pretrained import STATE, build, load_averaged

__all__ = ["export", "export_run", "measured", "new_card", "to_onnx"]

# Of one; an eighth of an 8-bit level.
_TOLERANCE = 5e-4


def export(net: Net, card: Card, path: Path, *, half: bool = False) -> float:
    """Write `net` as ONNX with `card` inside; returns the largest difference to torch on noise.

    (N, 3, h, w) -> (N, 3, scale*h, scale*w), any h and w on the net's grid. With `half`
    the weights are rounded to fp16 and stored so, half the size, and computed with as before.
    The number of parameters in the card is counted here. Raises TrainingError
    where the file and the net (with `half` the rounded one) differ by more than 5e-4.
    """
    model, difference = _converted(net, card, str(path), half)
    with written_whole(path) as part:
        part.write_bytes(model.content)
    return difference


def export_run(
    run: Path, path: Path, tests: Mapping[str, Path], *, half: bool = False, root: Path | None = None
) -> Card:
    """Export the averaged weights of a run as `path`, with measured dB on its card, and return the card.

    run: a run's folder (its newest state) or a state file in one. tests: name ->
    folder as `evaluate` takes it. root: of a run that learned errors, the folder that holds the recipe's folders: its
    held-out pictures calibrate the intervals, and test them. Raises TrainingError where that is missing, or `tests`
    are given for such a run.
    """
    config, weights, features = load_averaged(run / STATE if run.is_dir() else run)
    net = build(config.net, config.scale)
    net.load_state_dict(weights)
    if config.guess is not None and tests:
        raise TrainingError(
            f"{run}: learned errors and enlarges nothing, so there are no dB to measure; leave --test out"
        )
    datasets = {name: open_dataset(folder, config.scale) for name, folder in tests.items()}
    model, _ = _converted(net, new_card(config, path.stem, features), str(path), half)
    if config.guess is not None:
        model = calibrated(model, config, root, run if run.is_dir() else run.parent)
    card = measured(model, datasets) if datasets else model.card
    with written_whole(path) as part:
        part.write_bytes(with_card(model.content, card))
    return read_model(path).card


def _converted(net: Net, card: Card, name: str, half: bool) -> tuple[Model, float]:
    """`net` as ONNX, called `name` in errors, and the largest difference to torch on noise."""
    folded = net.folded().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    card = replace(card, parameters=sum(weight.numel() for weight in folded.parameters()))
    model, difference = _same_as(net, folded, card, name, half=False)
    if half:  # what rounding costs is seen on the card, in dB; here the rounded net has to be what the file computes
        for key, weight in folded.named_parameters():
            if key.endswith(".weight"):
                weight.data = weight.data.half().float()
        model, difference = _same_as(folded, folded, card, name, half=True)
    return model, difference


def _same_as(net: Net, folded: Net, card: Card, name: str, *, half: bool) -> tuple[Model, float]:
    """`folded` as ONNX, held against `net`."""
    model = Model(card, with_card(to_onnx(folded, card.multiple_of, card.frames, half=half), card), name)
    difference = _difference(net, model)
    if not difference <= _TOLERANCE:
        raise TrainingError(f"{name}: ONNX and torch differ by {difference:.2g}, more than {_TOLERANCE}; not written")
    return model, difference


def new_card(config: TrainConfig, name: str, features: str = "") -> Card:
    """The card of a network that `config` trains, called `name` where the recipe names none.

    features: what served as features, as the state of the run has it.
    """
    facts = NETS[config.net]
    folders = f"folders {', '.join(config.data.folders)}"
    losses = _losses(config, features)
    written: dict[str, Any] = {"name": name, "training_data": folders, "losses": losses, **config.card}
    try:
        return Card(
            net=config.net,
            scale=config.scale,
            halo=facts.halo,
            multiple_of=facts.multiple_of,
            frames=facts.frames,
            fp32_end=facts.fp32_end,
            bytes_per_pixel=facts.bytes_per_pixel * config.scale**2,
            restoring=config.restores,
            errors_of="" if config.guess is None else config.guess.errors_of,
            **written,
        )
    except TypeError as error:
        raise TrainingError(f"[card] of the recipe: {error}") from error


def _losses(config: TrainConfig, features: str) -> str:
    """The losses of the last stage in words."""
    words = {name: f"{weight:g} {name}" for name, weight in config.stages[-1].loss.items() if weight}
    if config.critic is not None and "adversarial" in words:
        words["adversarial"] += f" ({config.critic.name} critic, {config.critic.contest})"
    for name in ("features", "style"):
        if name in words:
            words[name] += f" (of {features})"
    return ", ".join(words.values())


def measured(model: Model, tests: Mapping[str, Dataset]) -> Card:
    """The card of `model` with its PSNR on `tests`, as `superfine evaluate` measures it here.

    Raises SourceError where a picture can't be read.
    """
    method = NetworkMethod(model)
    reached, rules = {}, set()
    for name, dataset in tests.items():
        pairs = [dataset.pair(place) for place in range(len(dataset.sources))]
        figures = [judge(method(pair.small), pair.large, method.scale) for pair in pairs]
        reached[name] = round(float(np.mean([each.psnr_y for each in figures])), 3)
        rules |= {pair.rule for pair in pairs}
    rule = protocol("Y601-limited", method.scale, " or ".join(sorted(rules)))
    return replace(model.card, psnr=reached, protocol=f"PSNR, {rule}, {method.precision}")


def to_onnx(folded: torch.nn.Module, grid: int, frames: int = 1, *, half: bool = False) -> bytes:
    """An ONNX file without a card: (1, 3*frames, h, w) -> (1, 3, scale*h, scale*w), sides multiples of `grid`.

    With `half` the weights are stored as fp16. Raises TrainingError where torch gives no program.
    """
    sides = {
        axis: grid * torch.export.Dim(name, min=2) if grid > 1 else torch.export.Dim(name, min=2)
        for axis, name in ((2, "h"), (3, "w"))
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that we don't use
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)  # torch trips over itself
        program = torch.onnx.export(
            folded,
            (torch.rand(1, 3 * frames, 3 * grid * (8 // grid or 1), 4 * grid * (8 // grid or 1)),),
            input_names=["pixels"],
            output_names=["enlarged"],
            dynamic_shapes=({0: torch.export.Dim.STATIC, **sides},),
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise TrainingError("torch gave no ONNX program")
    proto = program.model_proto
    proto.doc_string = ""
    # What the exporter notes about source files speaks of this machine, not of the network.
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del proto.graph.metadata_props[:]
    if half:
        _halve(proto.graph)
    content: bytes = proto.SerializeToString()
    return content


def _halve(graph: Any) -> None:
    """Store the weights of convolutions as fp16; a Cast, which engines fold away, makes them fp32 again."""
    stored = {entry.name: entry for entry in graph.initializer if entry.name.endswith(".weight")}
    casts = []
    for name, entry in stored.items():
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float16), name))
        casts.append(helper.make_node("Cast", [name], [f"{name}.fp32"], to=onnx.TensorProto.FLOAT))
    for node in graph.node:
        node.input[:] = [f"{name}.fp32" if name in stored else name for name in node.input]
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@torch.no_grad()
def _difference(net: Net, model: Model) -> float:
    rows, cols = (
        side * model.card.multiple_of for side in (29 // model.card.multiple_of or 1, 37 // model.card.multiple_of or 1)
    )
    pixels = np.random.default_rng(0).random((model.card.frames, rows, cols, 3), dtype=np.float32)
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).reshape(1, -1, rows, cols))
    wanted = net.float().eval()(planes).clamp(0, 1)
    given = open_engine(model, "openvino", "fp32")(pixels)
    return float(np.abs(given - wanted[0].numpy().transpose(1, 2, 0)).max())
