"""Nets that move a picture: (N, C, h, w) in 0..1 -> the same size. Beside `NETS`: none of them enlarges.

`whole` pixels (dy, dx) are moved first, by cutting; a net learns the rest. What comes
from outside of the frame is 0. Sources: spatial transformer, Jaderberg et al. 2015,
arXiv:1506.02025; VAE, Kingma and Welling 2013, arXiv:1312.6114; the rest is our own.
Licence: Apache-2.0.
"""

import copy
from collections.abc import Callable
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import Net

__all__ = ["SHIFTERS", "KernelShifter", "ShiftCritic", "Shifter", "SpatialTransformer"]

Whole = tuple[int, int]


class Shifter(Net):
    """Moves by whole pixels, and by what `rest` makes of that."""

    scale = 1
    colour = "rgb"
    radius: int
    """Pixels around one, after the whole move, that its result depends on."""
    multiple_of = 1

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole = whole

    @property
    def halo(self) -> int:
        """Pixels around one that its result depends on."""
        return max(map(abs, self.whole)) + self.radius

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        """What is left to be done after the whole pixels."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(moved(x, self.whole))

    def folded(self) -> "Shifter":
        """The same function in eval mode."""
        return copy.deepcopy(self).eval()


def moved(x: torch.Tensor, whole: Whole) -> torch.Tensor:
    """out[r, c] = in[r - dy, c - dx] in whole pixels; 0 from outside."""
    down, right = whole
    if down:
        x = functional.pad(x, (0, 0, max(down, 0), max(-down, 0)))
        x = x[:, :, :-down] if down > 0 else x[:, :, -down:]
    if right:
        x = functional.pad(x, (max(right, 0), max(-right, 0)))
        x = x[..., :-right] if right > 0 else x[..., -right:]
    return x


class KernelShifter(Shifter):
    """One kernel for each channel alike: out[r, c] = sum of weight[i, j] * in[r - dy + top + i, c - dx + left + j]."""

    def __init__(self, whole: Whole, weight: torch.Tensor, corner: tuple[int, int]) -> None:
        super().__init__(whole)
        self.corner = corner
        self.weight = nn.Parameter(weight.detach().clone().float()[None, None])
        sides = zip(corner, weight.shape, strict=True)
        self.radius = max(max(abs(first), abs(first + side - 1)) for first, side in sides)

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        radius = self.radius
        (top, left), (tall, broad) = self.corner, self.weight.shape[2:]
        # Around its middle, so that one padding on all sides does.
        around = (radius + left, radius + 1 - left - broad, radius + top, radius + 1 - top - tall)
        square = functional.pad(self.weight, around)
        return functional.conv2d(x.flatten(0, 1)[:, None], square, padding=radius).reshape(x.shape)


class SpatialTransformer(Shifter):
    """A small net looks at the picture and says an affine move; its grid reads the picture by bicubic, a = -0.75."""

    radius = 2  # of what it becomes once its move is fixed

    def __init__(self, whole: Whole) -> None:
        super().__init__(whole)
        self.look = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2), nn.LeakyReLU(0.1),
            nn.Conv2d(8, 16, 3, 2, 1), nn.LeakyReLU(0.1),
            nn.Conv2d(16, 16, 3, 2, 1), nn.LeakyReLU(0.1),
        )  # fmt: skip
        self.say = nn.Linear(16, 6)
        nn.init.zeros_(self.say.weight)  # it begins with no move at all
        nn.init.zeros_(self.say.bias)

    def move(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 6): dy, dx in pixels, and what the 2 x 2 matrix (row by row, rows first) has beside the identity."""
        said: torch.Tensor = self.say(self.look(x - 0.5).mean((2, 3)))
        return said * said.new_tensor([1, 1, 0.01, 0.01, 0.01, 0.01])

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        rows, cols = x.shape[2:]
        down, right, a, b, c, d = self.move(x).unbind(1)
        # Of grid_sample's own: x before y, the frame from -1 to 1, and where to read, not where to go.
        across = torch.stack([1 + d, c * rows / cols, -2 * right / cols], 1)
        along = torch.stack([b * cols / rows, 1 + a, -2 * down / rows], 1)
        grid = functional.affine_grid(torch.stack([across, along], 1), list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


class ConvShifter(Shifter):
    """The generator of convgan: the picture plus what a few convolutions add."""

    radius = 6

    def __init__(self, whole: Whole, channels: int = 16) -> None:
        super().__init__(whole)
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 5, padding=2), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 3, 5, padding=2),
        )  # fmt: skip

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.body(x)
        return x + added


class VariationalShifter(Shifter):
    """A fully convolutional VAE: half as many rows and columns of `latent` means, from which the picture is made.

    In training the latent is drawn; afterwards it is its mean. h and w are even.
    """

    radius = 12
    multiple_of = 2

    def __init__(self, whole: Whole, channels: int = 24, latent: int = 12) -> None:
        super().__init__(whole)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 4, 2, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 2 * latent, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, channels, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def drawn(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A result with its latent drawn, and the divergence of the latent from a standard normal, mean over it."""
        mean, spread = self.encoder(moved(x, self.whole)).chunk(2, 1)
        spread = spread.clamp(-12, 6)  # logarithms of variances
        latent = mean + torch.randn_like(mean) * (spread / 2).exp()
        divergence = (mean.square() + spread.exp() - 1 - spread).mean() / 2
        result: torch.Tensor = self.decoder(latent)
        return result, divergence

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.decoder(self.encoder(x).chunk(2, 1)[0])
        return result


class ShiftCritic(nn.Module):
    """Looks at what was given and what was made of it (N, 6, h, w) -> a logit for each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(6, 16, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 4, 2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(torch.cat([given, made], 1))
        return logits


SHIFTERS: Final[dict[str, Callable[[Whole], Shifter]]] = {
    "stn": SpatialTransformer,
    "convgan": ConvShifter,
    "vae": VariationalShifter,
}
