"""VDSR: twenty convolutions on the bicubically enlarged picture, which give what to add to it; luma.

Source: Kim et al. 2016, arXiv:1511.04587. The enlargement is part of the network
here, so that a lone file gives the whole result; one net for each scale, not one for all.
Licence: Apache-2.0, our own code.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, Net

__all__ = ["VDSR"]


class VDSR(Net):
    """(N, 1 or 3, h, w) in 0..1 -> (N, same, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "luma"
        self.base = BicubicBase(scale)
        self.head = nn.Conv2d(1, 64, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(18))
        self.tail = nn.Conv2d(64, 1, 3, padding=1)
        for layer in (self.head, *self.body, self.tail):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = self.base.enlarge(x)
        y = functional.relu(self.head(self.seen(large)))  # (N, 64, scale*h, scale*w)
        for layer in self.body:
            y = functional.relu(layer(y))
        residual: torch.Tensor = self.tail(y)
        return large + residual
