"""How far an enlargement of the small picture may be off, pixel by pixel: the small picture's luma -> one map.

An enlarger is a function of the small picture, so what it made needn't be looked at. The map is coded as
`superfine.guess` says: its logarithm, so that a level of the sky's doubt weighs as much as ten of the grass's.
Source: our own; residual 3x3 blocks, folded as in SESR (arXiv:2103.09404), a pixel shuffle as in ESPCN
(arXiv:1609.05158). What it learns, an error's expected size by its likelihood: Kendall and Gal 2017,
arXiv:1703.04977. Licence: Apache-2.0.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import CollapsibleConv, Net

__all__ = ["Guess"]

_EXPANSION = 256
# Where it begins: about two levels, of the code's twelve octaves.
_USUAL = 0.4


class Guess(Net):
    """(N, 1 or 3, h, w) in 0..1 -> (N, as many alike, scale*h, scale*w): the coded expected error."""

    def __init__(self, scale: int, *, channels: int, blocks: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "luma"
        self.head = _conv(1, channels)
        self.first = nn.ModuleList(_conv(channels, channels) for _ in range(blocks))
        self.second = nn.ModuleList(_conv(channels, channels, gain=0.3) for _ in range(blocks))
        self.tail = _conv(channels, scale * scale, gain=0.1)
        nn.init.constant_(self.tail.bias, _USUAL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.seen(x))  # (N, channels, h, w)
        for first, second in zip(self.first, self.second, strict=True):
            y = y + second(functional.relu(first(y)))
        coded = functional.pixel_shuffle(self.tail(functional.relu(y)), self.scale)  # (N, 1, scale*h, scale*w)
        return torch.cat([coded] * x.shape[1], 1)


def _conv(inputs: int, outputs: int, gain: float = 1.0) -> CollapsibleConv:
    return CollapsibleConv(inputs, outputs, expansion=_EXPANSION, identity=False, gain=gain)
