"""A plain chain of 3x3 convolutions on luma, made for measured CPU time.

Out of the head come `channels` maps; `depth` blocks follow, a long skip, and a
tail that gives scale*scale luma residuals, added to the bicubic base of every
colour channel: in BT.601 that is the same as enlarging Y by the network and
Cb, Cr by bicubic. Blocks train expanded and fold to plain convolutions.
Source: our own, after SESR (arXiv:2103.09404) and ESPCN (arXiv:1609.05158). Licence: Apache-2.0.
"""

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, CollapsibleConv, Net

__all__ = ["Plain"]

# BT.601 weights of R, G, B in full-range luma.
_LUMA = (0.299, 0.587, 0.114)
_EXPANSION = 256


class Plain(Net):
    """(N, 1 or 3, h, w) in 0..1 -> (N, same, scale*h, scale*w); luma in, luma out with one channel."""

    def __init__(self, scale: int, *, channels: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.base = BicubicBase(scale)
        self.head = CollapsibleConv(1, channels, expansion=_EXPANSION, identity=False)
        self.body = nn.ModuleList(
            CollapsibleConv(channels, channels, expansion=_EXPANSION, identity=True, gain=0.3) for _ in range(depth)
        )
        self.tail = CollapsibleConv(channels, scale * scale, expansion=_EXPANSION, identity=False, gain=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        luma = x if x.shape[1] == 1 else (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return _enlarge(x, luma, self)

    def folded(self) -> nn.Module:
        return _Folded(self)


class _Folded(nn.Module):
    """`Plain` after folding, for RGB: luma is part of the first kernel."""

    def __init__(self, net: Plain) -> None:
        super().__init__()
        self.scale = net.scale
        self.base = net.base
        luma = net.head.fold()
        self.head = nn.Conv2d(3, luma.out_channels, 3, padding=1)
        with torch.no_grad():
            self.head.weight.copy_(luma.weight * torch.tensor(_LUMA).view(1, 3, 1, 1))
            self.head.bias.copy_(luma.bias)  # type: ignore[union-attr,arg-type]
        self.body = nn.ModuleList(block.fold() for block in net.body if isinstance(block, CollapsibleConv))
        self.tail = net.tail.fold()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _enlarge(x, x, self)


def _enlarge(x: torch.Tensor, luma: torch.Tensor, net: Plain | _Folded) -> torch.Tensor:
    first = y = functional.relu(net.head(luma))  # (N, channels, h, w)
    for block in net.body:
        y = functional.relu(block(y))
    residual = net.tail(y + first)  # (N, scale*scale, h, w)
    with torch.autocast(x.device.type, enabled=False):
        base = net.base(x.float())  # (N, C*scale*scale, h, w)
        total = base + torch.cat([residual.float()] * x.shape[1], 1)
        return functional.pixel_shuffle(total, net.scale)
