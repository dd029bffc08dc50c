"""The generator of neural-enhance: a plain chain of convolutions and PReLUs that doubles at its end; RGB.

Sources: https://github.com/alexjc/neural-enhance, whose layers it has, after Johnson et al. 2016, arXiv:1603.08155,
and Shi et al. 2016, arXiv:1609.05158. The original's blocks were meant to be residual, and the published networks run
as a plain chain; so does this. As the published x2 network it has 8 blocks of 128 channels, and as the one that
repairs, at zoom 1, two halvings before them and two doublings after. Ours: one border of zeros at each layer where
the original reflects 24 px around the picture first, and initial values for PReLU (He et al. 2015, arXiv:1502.01852).
Written from the layers' facts: neither the program (AGPL) nor its networks (CC BY-NC-SA) are part of this package.
Licence: Apache-2.0, our own code.
"""

from collections.abc import Iterable

import torch
from torch import nn

from superfine.train.nets.layers import Net

__all__ = ["Enhance"]

# Scale -> halvings and doublings.
_STEPS = {1: (2, 2), 2: (0, 1), 4: (0, 2)}


class Enhance(Net):
    """(N, 3, h, w) in 0..1, at scale 1 with sides that are multiples of 4 -> (N, 3, scale*h, scale*w)."""

    def __init__(self, scale: int, *, channels: int, blocks: int) -> None:
        super().__init__()
        self.scale, self.colour = scale, "rgb"
        halvings, doublings = _STEPS[scale]
        self.head = nn.Conv2d(3, channels, 7, padding=3)
        self.start = nn.PReLU(channels)
        self.halve = _chain(nn.Conv2d(channels, channels, 4, 2, padding=1) for _ in range(halvings))
        self.body = _chain(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.enlarge = nn.Sequential(
            *(
                layer
                for _ in range(doublings)
                for layer in (*_chain([nn.Conv2d(channels, 4 * channels, 3, padding=1)]), nn.PixelShuffle(2))
            )
        )
        self.tail = nn.Conv2d(channels, 3, 7, padding=3)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.get_parameter("bias"))
        with torch.no_grad():
            self.tail.weight.mul_(0.1)  # begin near grey, with contrasts that a picture has

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.halve(self.start(self.head(x - 0.5)))  # (N, channels, h, w), at scale 1 a quarter of the sides
        tail: torch.Tensor = self.tail(self.enlarge(self.body(y)))
        return tail + 0.5


def _chain(convolutions: Iterable[nn.Conv2d]) -> nn.Sequential:
    return nn.Sequential(*(layer for each in convolutions for layer in (each, nn.PReLU(each.out_channels))))
