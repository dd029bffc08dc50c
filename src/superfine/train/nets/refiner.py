"""Residual blocks at half the resolution of a picture that is large already: what it gives is as large as it was.

For pictures that a closed form has enlarged and deblurred as far as their kernel
allows (`classical/kernels.py`): the network removes the ringing and aliasing, and
adds what pictures have where the kernel left nothing. As it sees only that
start, one network serves all kernels and factors.
Source: our own, after plug-and-play restoration (Zhang et al. 2020, arXiv:2008.13751), blocks as in EDSR
(arXiv:1707.02921), folded as in SESR (arXiv:2103.09404). Licence: Apache-2.0.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, CollapsibleConv, Net

__all__ = ["Refiner"]

_EXPANSION = 256


class Refiner(Net):
    """(N, 1 or 3, H, W) in 0..1, sides even -> the same shape; one luma residual on every channel."""

    def __init__(self, *, channels: int, blocks: int) -> None:
        super().__init__()
        self.scale, self.colour = 1, "luma"
        self.base = BicubicBase(1)  # the picture itself, kept in fp32
        self.head = _conv(1, channels // 4)
        self.first = nn.ModuleList(_conv(channels, channels) for _ in range(blocks))
        self.second = nn.ModuleList(_conv(channels, channels, gain=0.3) for _ in range(blocks))
        self.tail = _conv(channels, 4, gain=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = y = functional.pixel_unshuffle(self.head(self.seen(x)), 2)  # (N, channels, H/2, W/2)
        for first, second in zip(self.first, self.second, strict=True):
            y = y + second(functional.relu(first(y)))
        return self.base.plus(x, functional.pixel_shuffle(self.tail(y + start), 2))


def _conv(inputs: int, outputs: int, gain: float = 1.0) -> CollapsibleConv:
    return CollapsibleConv(inputs, outputs, expansion=_EXPANSION, identity=False, gain=gain)
