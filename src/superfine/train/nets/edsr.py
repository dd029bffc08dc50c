"""EDSR-baseline: sixteen residual blocks of 64 channels without batch norm, then pixel shuffles; RGB.

Source: Lim et al. 2017, arXiv:1707.02921. Pictures are in 0..1 rather than 0..255,
and so is the mean of DIV2K, which is taken away before and given back after.
Licence: Apache-2.0, our own code.
"""

import torch
from torch import nn

from superfine.train.nets.layers import Net

__all__ = ["EDSR"]

_MEAN = (0.4488, 0.4371, 0.4040)
_STAGES = {2: [2], 3: [3], 4: [2, 2]}


class EDSR(Net):
    """(N, 3, h, w) in 0..1 -> (N, 3, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "rgb"
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.mean: torch.Tensor
        self.head = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.ModuleList(nn.Sequential(_conv(), nn.ReLU(), _conv()) for _ in range(16))
        self.after = _conv()
        enlarge: list[nn.Module] = []
        for factor in _STAGES[scale]:
            enlarge += [nn.Conv2d(64, 64 * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.enlarge = nn.Sequential(*enlarge)
        self.tail = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = y = self.head(x - self.mean)  # (N, 64, h, w)
        for block in self.body:
            y = y + block(y)
        tail: torch.Tensor = self.tail(self.enlarge(self.after(y) + start))
        return tail + self.mean


def _conv() -> nn.Conv2d:
    return nn.Conv2d(64, 64, 3, padding=1)
