"""FSRCNN: features, shrinking, mapping, expanding on the small picture, then one transposed convolution; luma.

Source: Dong et al. 2016, arXiv:1608.00367, with its d = 56, s = 12, m = 4, PReLU and
initial values. Ours gives what to add to the bicubic base, with the same number of
parameters, where the paper's gives Y itself. Licence: Apache-2.0, our own code.
"""

import torch
from torch import nn

from superfine.train.nets.layers import BicubicBase, Net

__all__ = ["FSRCNN"]

_WIDE, _NARROW, _MAPPINGS = 56, 12, 4


class FSRCNN(Net):
    """(N, 1 or 3, h, w) in 0..1 -> (N, same, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "luma"
        self.base = BicubicBase(scale)
        self.head = nn.Conv2d(1, _WIDE, 5, padding=2)
        mapping = [layer for _ in range(_MAPPINGS) for layer in _active(nn.Conv2d(_NARROW, _NARROW, 3, padding=1))]
        self.body = nn.Sequential(
            nn.PReLU(_WIDE),
            *_active(nn.Conv2d(_WIDE, _NARROW, 1)),
            *mapping,
            *_active(nn.Conv2d(_NARROW, _WIDE, 1)),
        )
        # 9x9 around the middle of each small pixel, as nearly as the scale allows.
        odd = (9 - scale) % 2
        self.tail = nn.ConvTranspose2d(_WIDE, 1, 9, scale, (9 - scale + odd) // 2, output_padding=odd)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
        nn.init.normal_(self.tail.weight, std=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self.tail(self.body(self.head(self.seen(x))))  # (N, 1, scale*h, scale*w)
        return self.base.enlarge(x) + residual


def _active(layer: nn.Conv2d) -> tuple[nn.Conv2d, nn.PReLU]:
    return layer, nn.PReLU(layer.out_channels)
