"""A trained net -> ONNX: folded, with its card inside, and held against torch before it is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from superfine.atomic import written_whole
from superfine.engine import open_engine
from superfine.errors import TrainingError
from superfine.models import Card, Model, card_to_text
from superfine.train.nets.layers import Net

__all__ = ["export"]

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
