"""SRResNet: sixteen residual blocks with batch norm, then pixel shuffles; RGB.

Source: Ledig et al. 2017, arXiv:1609.04802 (SRGAN's generator). Pictures are in 0..1
on both sides; x3 is one shuffle. Batch norm folds into the convolutions. Licence:
Apache-2.0, our own code.
"""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from superfine.train.nets.layers import Foldable, Net

__all__ = ["SRResNet"]

_STAGES = {2: [2], 3: [3], 4: [2, 2]}


class SRResNet(Net):
    """(N, 3, h, w) in 0..1 -> (N, 3, scale*h, scale*w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "rgb"
        self.head = nn.Conv2d(3, 64, 9, padding=4)
        self.start = nn.PReLU()
        self.body = nn.ModuleList(nn.Sequential(_NormedConv(64), nn.PReLU(), _NormedConv(64)) for _ in range(16))
        self.after = _NormedConv(64)
        enlarge: list[nn.Module] = []
        for factor in _STAGES[scale]:
            enlarge += [nn.Conv2d(64, 64 * factor**2, 3, padding=1), nn.PixelShuffle(factor), nn.PReLU()]
        self.enlarge = nn.Sequential(*enlarge)
        self.tail = nn.Conv2d(64, 3, 9, padding=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = y = self.start(self.head(x))  # (N, 64, h, w)
        for block in self.body:
            y = y + block(y)
        tail: torch.Tensor = self.tail(self.enlarge(self.after(y) + start))
        return tail


class _NormedConv(Foldable):
    """A 3x3 convolution and batch norm: (N, C, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.conv(x))
        return normed

    def fold(self) -> nn.Conv2d:
        return fuse_conv_bn_eval(self.conv, self.norm)

    def fits(self, weight: torch.Tensor) -> bool:
        return weight.shape == self.conv.weight.shape

    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Become this convolution in eval mode; in training the norm still looks at the batch."""
        one, none = torch.ones_like(bias), torch.zeros_like(bias)
        self.conv.load_state_dict({"weight": weight})
        still = {"weight": one, "bias": bias, "running_mean": none, "running_var": one - self.norm.eps}
        self.norm.load_state_dict(self.norm.state_dict() | still)
