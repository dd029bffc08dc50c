"""Any network, made to keep the data: only what a reduction loses is learned.

With the reduction A, its pseudo-inverse A+ and the network f, x = A+ y + (I - A+ A) f(y), written as
f + A+ (y - A f): made small again, x is y, whatever f gives. A is separable, so A+ is the product of the two lines'
pseudo-inverses; both are cut to short kernels, which are convolutions of stride one between the small picture and the
large one's unshuffled pixels.
Sources: the formulation of the multi-operator video GAN, López-Tapia et al. 2019, arXiv:1907.01399 (of which the
abstract was read); in these symbols, null-space networks, Schwab et al. 2019, arXiv:1806.06137. Licence: Apache-2.0.
"""

import copy
from collections.abc import Mapping
from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import CollapsibleConv, Net, keys

__all__ = ["NullSpace", "Reducer", "reduced"]

Reducer = Literal["bicubic", "box", "gaussian"]

# Small pixels on either side that A looks at, and that A+ does: what is cut off weighs less than 1e-4.
_NEAR: Final = 2
_FAR: Final = 10
# In small pixels: the 1.6 px of the large picture that "blurred and decimated" benchmarks have at x4.
_SIGMA: Final = 0.4


class NullSpace(Net):
    """As `inner`, but its result, made small by `reducer`, is the (middle) picture that it was given.

    Within 1e-5 of white, 12 px from borders and more; the large picture's borders are replicated.
    bicubic: Keys' kernel, a = -0.5, as wide as antialiasing asks; box: means; gaussian: of 0.4 small pixels.
    """

    def __init__(self, inner: Net, reducer: Reducer) -> None:
        super().__init__()
        self.inner, self.reducer = inner, reducer
        self.scale, self.colour, self.frames = inner.scale, inner.colour, inner.frames
        line = _line(reducer, self.scale)
        self.register_buffer("reduce", _reducing(line), persistent=False)
        self.register_buffer("restore", _plane(_restoring(line))[None].flip(2, 3), persistent=False)
        self.reduce: torch.Tensor
        self.restore: torch.Tensor

    @property
    def head(self) -> CollapsibleConv | nn.Conv2d:  # type: ignore[override]
        return self.inner.head

    @property
    def tail(self) -> nn.Module:  # type: ignore[override]
        return self.inner.tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = x.shape[1] // self.frames
        given = x[:, planes * (self.frames // 2) : planes * (self.frames // 2 + 1)]
        made = self.inner(x)
        with torch.autocast(x.device.type, enabled=False):
            large = functional.pixel_unshuffle(made.float().flatten(0, 1)[:, None], self.scale)  # (N*C, s*s, h, w)
            small = _transposed(large, self.reduce)
            missing = given.float().flatten(0, 1)[:, None] - small
            total = large + _transposed(missing, self.restore)
            return functional.pixel_shuffle(total, self.scale).view_as(made)

    def folded(self) -> Net:
        net = copy.copy(self).eval()
        net._modules = {"inner": self.inner.folded()}
        return net

    @torch.no_grad()
    def lend(self, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """As `inner` does, whose kind of net may have been inside of one of these, or not."""
        return self.inner.lend({name.removeprefix("inner."): value for name, value in weights.items()})


def reduced(planes: torch.Tensor, reducer: Reducer, scale: int) -> torch.Tensor:
    """What `reducer` makes of (N, 1, scale*h, scale*w): (N, 1, h, w). Borders are replicated."""
    kernel = _reducing(_line(reducer, scale)).to(planes)
    return _transposed(functional.pixel_unshuffle(planes, scale), kernel)


def _reducing(line: torch.Tensor) -> torch.Tensor:
    return _plane(line)[:, None].flip(2, 3)


def _transposed(planes: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Convolution with a kernel that is flipped already: so written, OpenVINO keeps it in fp32."""
    radius = kernel.shape[-1] // 2
    padded = functional.pad(planes, (radius, radius, radius, radius), mode="replicate")
    return functional.conv_transpose2d(padded, kernel, padding=2 * radius)


def _line(reducer: Reducer, scale: int) -> torch.Tensor:
    """A along a line: weights of the large pixels, by their small cell and their place in it, (2*near + 1, scale)."""
    cell = torch.arange(-_NEAR, _NEAR + 1, dtype=torch.float64)
    away = cell[:, None] + (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    weights = {
        "bicubic": keys(away),
        "box": (away.abs() < 0.5).double(),
        "gaussian": torch.exp(-0.5 * (away / _SIGMA) ** 2),
    }
    weight = weights[reducer]
    return weight / weight.sum()


def _restoring(line: torch.Tensor) -> torch.Tensor:
    """A+ along a line: the weights of the small pixels for each place in a cell, (2*far + 1, scale)."""
    cells, scale = 8 * _FAR, line.shape[1]
    matrix = torch.zeros(cells, cells, scale, dtype=torch.float64)
    for at in range(cells):  # a ring, so that no border is in it
        for number, weights in enumerate(line):
            matrix[at, (at + number - _NEAR) % cells] += weights
    inverse: torch.Tensor = torch.linalg.pinv(matrix.view(cells, -1)).view(cells, scale, cells)
    middle = cells // 2
    return inverse[middle, :, middle - _FAR : middle + _FAR + 1].T


def _plane(line: torch.Tensor) -> torch.Tensor:
    """(taps, scale) -> (scale*scale, taps, taps)."""
    scale, side = line.shape[1], len(line)
    return torch.einsum("ip,jq->pqij", line, line).reshape(scale * scale, side, side).float()
