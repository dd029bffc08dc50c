"""A trained net -> ONNX: folded, with its card inside, and held against torch before it is kept."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from superfine.atomic import written_whole
from superfine.color import limited_luma, to_unit
from superfine.engine import Engine, open_engine
from superfine.errors import TrainingError
from superfine.evaluate.metrics import crop_border, psnr
from superfine.image import open_picture
from superfine.models import Card, Model, card_to_text, read_model
from superfine.train.config import TrainConfig
from superfine.train.nets import NETS
from superfine.train.nets.layers import Net
from superfine.train.state import load_weights

__all__ = ["export", "export_run", "measure"]

# Of one; an eighth of an 8-bit level.
_TOLERANCE = 5e-4


def export(net: Net, card: Card, path: Path) -> float:
    """Write `net` as ONNX with `card` inside; returns the largest difference to torch on noise.

    (N, 3, h, w) -> (N, 3, scale*h, scale*w), any h and w. The number of
    parameters in the card is counted here. Raises TrainingError where the file
    and the net differ by more than 5e-4.
    """
    folded = net.folded().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    card = replace(card, parameters=sum(weight.numel() for weight in folded.parameters()))
    content = _to_onnx(folded, card)
    difference = _difference(net, Model(card, content, str(path)))
    if not difference <= _TOLERANCE:
        raise TrainingError(f"{path}: ONNX and torch differ by {difference:.2g}, more than {_TOLERANCE}; not written")
    with written_whole(path) as part:
        part.write_bytes(content)
    return difference


def export_run(config: TrainConfig, run: Path, path: Path, tests: Mapping[str, Path], recipe: str) -> Card:
    """Export the averaged weights of `run/last.pt` as `path`, with measured dB on its card.

    tests: name -> folder of pairs `*HR*`, `*LR*`. Measured with the engine that
    `upscale` takes here, as the card's protocol says. Returns the card.
    """
    net = NETS[config.net].build(config.scale)
    net.load_state_dict(load_weights(run / "last.pt"))
    facts = NETS[config.net]
    card = Card(
        scale=config.scale,
        halo=facts.halo,
        multiple_of=facts.multiple_of,
        fp32_end=facts.fp32_end,
        bytes_per_pixel=facts.bytes_per_pixel * config.scale**2,
        recipe=recipe,
        **config.card,  # type: ignore[arg-type]
    )
    export(net, card, path)
    engine = open_engine(read_model(path))
    reached = {name: round(measure(engine, folder), 3) for name, folder in tests.items()}
    precision = engine.precision_for(np.dtype(np.float32))
    protocol = f"PSNR on Y601-limited in float, crop {config.scale}, LR by MATLAB's bicubic, {precision}"
    card = replace(card, psnr=reached, protocol=protocol)
    export(net, card, path)
    return read_model(path).card


def measure(engine: Engine, folder: Path) -> float:
    """Mean PSNR in dB over the pairs `*HR*`, `*LR*` of a folder: Y of BT.601 limited range, border of `scale` cropped.

    Grey pictures count as RGB. Raises TrainingError where there is no pair.
    """
    values = []
    for large in sorted(folder.glob("*HR*")):
        small = np.concatenate(list(open_picture(large.with_name(large.name.replace("HR", "LR"))).bands()))
        target = np.concatenate(list(open_picture(large).bands()))
        output = engine(to_unit(np.broadcast_to(small, (*small.shape[:2], 3)))[None])
        planes = (
            limited_luma(to_unit(np.broadcast_to(pixels, (*pixels.shape[:2], 3))).astype(np.float64))
            for pixels in (output, target)
        )
        values.append(psnr(*(crop_border(plane, engine.scale) for plane in planes)))
    if not values:
        raise TrainingError(f"{folder}: no pair of pictures named *HR* and *LR*")
    return float(np.mean(values))


def _to_onnx(folded: torch.nn.Module, card: Card) -> bytes:
    sides = {2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.onnx.export(
        folded,
        (torch.rand(1, 3, 24, 32),),
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
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = "superfine", card_to_text(card)
    # What the exporter notes about source files speaks of this machine, not of the network.
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del proto.graph.metadata_props[:]
    content: bytes = proto.SerializeToString()
    return content


@torch.no_grad()
def _difference(net: Net, model: Model) -> float:
    pixels = np.random.default_rng(0).random((1, 29, 37, 3), dtype=np.float32)
    wanted = net.float()(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).clamp(0, 1)
    given = open_engine(model, "openvino", "fp32")(pixels)
    return float(np.abs(given - wanted[0].numpy().transpose(1, 2, 0)).max())
