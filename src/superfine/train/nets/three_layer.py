"""Three 3x3 convolutions on the bicubically enlarged picture, RGB.

Source: SRCNN, Dong et al. 2014, arXiv:1501.00092, in the form that one of the
systems gave it which this project grew from: 3x3 kernels instead of 9, 1 and 5,
128, 64 and 3 channels instead of 64, 32 and 1, colour instead of luma, trained by
Adam. Ours, too: the enlargement is part of the network, so that a lone file gives
the whole result, and borders are replicated, so that no pixel is lost or darkened.
Licence: Apache-2.0, our own code.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, Net

__all__ = ["ThreeLayer"]


class ThreeLayer(Net):
    """(N, 3, h, w) in 0..1 -> (N, 3, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "rgb"
        self.base = BicubicBase(scale)
        self.head = nn.Conv2d(3, 128, 3)
        self.body = nn.Conv2d(128, 64, 3)
        self.tail = nn.Conv2d(64, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = functional.pad(self.base.enlarge(x), (3, 3, 3, 3), mode="replicate")
        y = functional.relu(self.head(wide))  # (N, 128, scale*h + 4, scale*w + 4)
        tail: torch.Tensor = self.tail(functional.relu(self.body(y)))
        return tail
