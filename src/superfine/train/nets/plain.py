"""A plain chain of 3x3 convolutions on luma, made for measured CPU time.

Out of the head come `channels` maps; `depth` blocks follow, a long skip, and a
tail that gives scale*scale luma residuals, added to the bicubic base of every
colour channel. Blocks train expanded and fold to plain convolutions.
Source: our own, after SESR (arXiv:2103.09404) and ESPCN (arXiv:1609.05158). Licence: Apache-2.0.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, CollapsibleConv, Net

__all__ = ["Plain"]

_EXPANSION = 256


class Plain(Net):
    """(N, 1 or 3, h, w) in 0..1 -> (N, same, scale*h, scale*w); luma in, luma out with one channel."""

    def __init__(self, scale: int, *, channels: int, depth: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "luma"
        self.base = BicubicBase(scale)
        self.head = CollapsibleConv(1, channels, expansion=_EXPANSION, identity=False)
        self.body = nn.ModuleList(
            CollapsibleConv(channels, channels, expansion=_EXPANSION, identity=True, gain=0.3) for _ in range(depth)
        )
        self.tail = CollapsibleConv(channels, scale * scale, expansion=_EXPANSION, identity=False, gain=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = y = functional.relu(self.head(self.seen(x)))  # (N, channels, h, w)
        for block in self.body:
            y = functional.relu(block(y))
        return self.base.plus(x, self.tail(y + first))
