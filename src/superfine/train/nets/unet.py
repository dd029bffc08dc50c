"""U-Net as an autoencoder that enlarges, RGB; plain, and with attention gates.

Sources: U-Net, Ronneberger et al. 2015, arXiv:1505.04597; Attention U-Net, Oktay
et al. 2018, arXiv:1804.03999. Made for classes of pixels, changed for pictures,
as one of the systems did which this project grew from: padded convolutions, so that the
size stays; leaky ReLU; after the last level, transposed convolutions up to the
scale; and what it gives is added to the bicubic base, which learns in hours what
else takes days. It works on the small picture, is narrower (32 to 128 channels)
and has one level less, to train on a CPU. Gates compare the skip with the features
that come up to it, at its own size rather than at half of it; there is no batch
norm, which differs between training and use. Licence: Apache-2.0, our own code.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import BicubicBase, Net

__all__ = ["AttentionUNet", "UNet"]

_WIDTHS = (32, 64, 96, 128)
# Factors of the transposed convolutions that lead to the scale, and the channels after each.
_STAGES = {2: [(2, 32)], 3: [(3, 32)], 4: [(2, 32), (2, 16)]}


class UNet(Net):
    """(N, 3, h, w) in 0..1, h and w multiples of 8 -> (N, 3, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "rgb"
        self.base = BicubicBase(scale)
        pairs = list(pairwise(_WIDTHS))
        self.head = nn.Conv2d(3, _WIDTHS[0], 3, padding=1)
        self.top = _conv(_WIDTHS[0], _WIDTHS[0])
        self.down = nn.ModuleList(nn.Sequential(*_conv(fine, coarse), *_conv(coarse, coarse)) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in reversed(pairs))
        self.join = nn.ModuleList(
            nn.Sequential(*_conv(2 * fine, fine), *_conv(fine, fine)) for fine, _ in reversed(pairs)
        )
        width, enlarge = _WIDTHS[0], []
        for factor, after in _STAGES[scale]:
            enlarge += [nn.ConvTranspose2d(width, after, factor, stride=factor), _leaky(), *_conv(after, after)]
            width = after
        self.enlarge = nn.Sequential(*enlarge)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)  # begin near bicubic

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.top(functional.leaky_relu(self.head(x), 0.2))  # (N, 32, h, w)
        skips = []
        for down in self.down:
            skips.append(y)
            y = down(functional.max_pool2d(y, 2))  # at last (N, 128, h/8, w/8)
        for level, (up, join) in enumerate(zip(self.up, self.join, strict=True)):
            risen = functional.leaky_relu(up(y), 0.2)
            y = join(torch.cat([self.skip(level, skips.pop(), risen), risen], 1))
        residual: torch.Tensor = self.tail(self.enlarge(y))
        return self.base.enlarge(x) + residual

    def skip(self, level: int, skip: torch.Tensor, risen: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - for gates
        """What is let through of a skip; both (N, C, h, w). Level 0 is the coarsest."""
        return skip


class AttentionUNet(UNet):
    """A U-Net with a gate in each skip, that weighs every pixel by what came up from below."""

    def __init__(self, scale: int) -> None:
        super().__init__(scale)
        self.gates = nn.ModuleList(_Gate(width) for width in reversed(_WIDTHS[:-1]))

    def skip(self, level: int, skip: torch.Tensor, risen: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = self.gates[level](skip, risen)
        return gated


class _Gate(nn.Module):
    """Additive attention, pixel by pixel: skip * sigmoid(score(relu(of skip + of risen)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(width, width // 2, 1)
        self.risen = nn.Conv2d(width, width // 2, 1, bias=False)
        self.score = nn.Conv2d(width // 2, 1, 1)

    def forward(self, skip: torch.Tensor, risen: torch.Tensor) -> torch.Tensor:
        return skip * torch.sigmoid(self.score(functional.relu(self.skip(skip) + self.risen(risen))))


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), _leaky())


def _leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2)
