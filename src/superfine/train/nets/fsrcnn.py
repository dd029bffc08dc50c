"""FSRCNN: features, shrinking, mapping, expanding on the small picture, then one transposed convolution; luma.

Source: Dong et al. 2016, arXiv:1608.00367, with its d = 56, s = 12, m = 4, PReLU and
initial values. Ours gives what to add to the bicubic base, with the same number of
weights, where the paper's gives Y itself. The transposed convolution is computed as
the convolution before a pixel shuffle that it is: engines are slow at the former,
and OpenVINO rounds it by the size of the tile. Licence: Apache-2.0, our own code.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, Foldable, Net, plain_conv

__all__ = ["FSRCNN"]

_WIDE, _NARROW, _MAPPINGS = 56, 12, 4
_SIDE = 9


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
        self.tail = TransposedConv(_WIDE, scale)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base.plus(x, self.tail(self.body(self.head(self.seen(x)))))


class TransposedConv(Foldable):
    """A 9x9 transposed convolution before the pixel shuffle: (N, C, h, w) -> (N, scale*scale, h, w).

    The kernel lies around the middle of each small pixel, as nearly as the scale allows.
    """

    def __init__(self, inputs: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.padding = (_SIDE - scale + 1) // 2
        reach = -(-self.padding // scale)
        before = scale * reach - self.padding
        self.margin = (before, scale * (2 * reach + 1) - before - _SIDE)
        self.weight = nn.Parameter(torch.randn(inputs, 1, _SIDE, _SIDE) * 0.001)
        self.bias = nn.Parameter(torch.zeros(1))

    def kernel(self) -> torch.Tensor:
        """What one small pixel does to the large ones around it, seen from the blocks that these lie in."""
        blocks = functional.pixel_unshuffle(functional.pad(self.weight, 2 * self.margin), self.scale)
        return blocks.transpose(0, 1).flip(2, 3)  # (scale*scale, C, 3 or 5, 3 or 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.kernel(), self.bias.expand(self.scale**2), padding="same")

    def fold(self) -> nn.Conv2d:
        return plain_conv(self.kernel(), self.bias.expand(self.scale**2))

    def fits(self, weight: torch.Tensor) -> bool:
        return weight.shape == self.kernel().shape

    @torch.no_grad()
    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        blocks = functional.pixel_shuffle(weight.flip(2, 3).transpose(0, 1), self.scale)
        start = self.margin[0]
        self.weight.copy_(blocks[..., start : start + _SIDE, start : start + _SIDE])
        self.bias.copy_(bias[:1])


def _active(layer: nn.Conv2d) -> tuple[nn.Conv2d, nn.PReLU]:
    return layer, nn.PReLU(layer.out_channels)
