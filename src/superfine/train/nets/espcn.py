"""ESPCN: three convolutions on the small picture, then the pixel shuffle; luma.

Source: Shi et al. 2016, arXiv:1609.05158: 5x5 to 64, 3x3 to 32, 3x3 to scale*scale,
tanh between. Ours gives what to add to the bicubic base, with the same number of
parameters, where the paper's gives Y itself. Licence: Apache-2.0, our own code.
"""

import torch
from torch import nn

from superfine.train.nets.layers import BicubicBase, Net

__all__ = ["ESPCN"]


class ESPCN(Net):
    """(N, 1 or 3, h, w) in 0..1 -> (N, same, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "luma"
        self.base = BicubicBase(scale)
        self.head = nn.Conv2d(1, 64, 5, padding=2)
        self.body = nn.Conv2d(64, 32, 3, padding=1)
        self.tail = nn.Conv2d(32, scale * scale, 3, padding=1)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)  # begin near bicubic

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.body(torch.tanh(self.head(self.seen(x)))))  # (N, 32, h, w)
        return self.base.plus(x, self.tail(y))
