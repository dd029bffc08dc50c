"""A residual chain that sees a window of frames: samples of neighbours in time come in where the middle frame has them.

The chain is that of `Residual`; beside its head, neighbours come in through a convolution of their own, so it starts
as any still network of its width. What comes in is found by block matching in two steps, all of it convolutions,
which a GPU and a CPU's matrix unit are made for. First each place at half the resolution is held against all places
within 4 px of it, and the neighbour is moved by the likeliest; then each of its pixels is held against the middle
frame at all steps of a pixel of the result within 1 px. So content may move by 8 px from frame to frame. Every sample
then counts at the place where it belongs, with how likely that is, as in shift-and-add fusion: what it differs by from
the middle frame's interpolation is what the middle frame didn't know. This has no weights and no state.
Sources: our own; after VESPCN (Caballero et al. 2017, arXiv:1611.05250) for early fusion, non-local fusion (Protter et
al. 2009, doi:10.1109/TIP.2008.2008067) for shifts that are likely instead of known. Licence: Apache-2.0.
"""

from typing import Final

import torch
from torch import nn
from torch.nn import functional

from superfine.train.nets.layers import LUMA, BicubicBase, CollapsibleConv, Net, keys

__all__ = ["Aligned", "Placed"]

_EXPANSION = 256
# How far the first step searches, in pixels of half the resolution, and the side of the windows that both compare.
_REACH: Final = 4
_WINDOW: Final = 5
# A mean difference of this share of white makes a place e times less likely; in the second step for each step of it.
_COARSE: Final = 0.001
_FINE: Final = 0.004
# Each pixel further away costs this difference: where nothing is seen, nothing moves.
_INERTIA: Final = 0.0005


class Aligned(Net):
    """(N, C*frames, h, w) in 0..1, sides even -> (N, C, scale*h, scale*w) of the middle frame; C is 1 or 3."""

    def __init__(self, scale: int, *, channels: int, blocks: int, frames: int) -> None:
        super().__init__()
        self.scale, self.colour, self.frames = scale, "luma", frames
        self.base = BicubicBase(scale)
        self.moved, self.placed = Moved(), Placed(scale)
        self.head = _conv(1, channels)
        self.beside = _conv(self.placed.channels * (frames - 1), channels, gain=0.1)
        self.first = nn.ModuleList(_conv(channels, channels) for _ in range(blocks))
        self.second = nn.ModuleList(_conv(channels, channels, gain=0.3) for _ in range(blocks))
        self.tail = _conv(channels, scale * scale, gain=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = x.shape[1] // self.frames
        middle = self.frames // 2
        now = x[:, planes * middle : planes * (middle + 1)]
        lumas = _lumas(x, self.frames)
        centre = lumas.pop(middle)
        seen = [self.placed(self.moved(luma, centre), centre) for luma in lumas]
        start = y = self.head(self.seen(now)) + self.beside(torch.cat(seen, 1))  # (N, channels, h, w)
        for first, second in zip(self.first, self.second, strict=True):
            y = y + second(functional.relu(first(y)))
        return self.base.plus(now, self.tail(y + start))


class Moved(nn.Module):
    """Two (N, 1, h, w), sides even -> the first with its content where the second has it, but for 1 px."""

    def __init__(self) -> None:
        super().__init__()
        side = 2 * _REACH + 1
        # The kernel at n takes the pixel of the n-th place around.
        self.register_buffer("places", torch.eye(side * side).view(side * side, 1, side, side), persistent=False)
        offset = (torch.arange(side) - _REACH).float()
        away = torch.hypot(offset[:, None], offset[None]).flatten()
        self.register_buffer("cost", (_INERTIA / _COARSE) * away.view(1, -1, 1, 1), persistent=False)
        self.places: torch.Tensor
        self.cost: torch.Tensor

    def forward(self, frame: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
        near = functional.conv2d(_around(functional.avg_pool2d(frame, 2), _REACH), self.places)
        apart = _pooled((near - functional.avg_pool2d(middle, 2)).abs())  # (N, places, h/2, w/2)
        likely = torch.softmax(apart * (-1 / _COARSE) - self.cost, 1)
        parts = [
            (functional.conv2d(_around(phase, _REACH), self.places) * likely).sum(1, keepdim=True)
            for phase in functional.pixel_unshuffle(frame, 2).split(1, 1)
        ]
        return functional.pixel_shuffle(torch.cat(parts, 1), 2)


class Placed(nn.Module):
    """Two (N, 1, h, w) that differ by up to 1 px -> (N, 2*scale*scale, h, w): what the first adds, and how likely.

    A channel for each of a pixel's places, 0 to 1 by 1/scale down and right: the first's samples there minus the
    second's interpolation (Keys' cubic), times how likely they belong there; then those likelihoods.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.channels, self.tolerance = 2 * scale * scale, _FINE / scale
        steps = range(-scale, scale + 1)
        taps = torch.arange(-2, 4)
        kernels, gather = [], torch.zeros(scale * scale, len(steps) ** 2, 3, 3)
        for number, (down, right) in enumerate((down, right) for down in steps for right in steps):
            kernels.append(torch.outer(*(keys(taps - step / scale) for step in (down, right))))
            # A sample that belongs so far on is gathered from so far before.
            gather[down % scale * scale + right % scale, number, 1 - down // scale, 1 - right // scale] = 1
        self.register_buffer("steps", torch.stack(kernels)[:, None], persistent=False)
        self.register_buffer("gather", gather, persistent=False)
        self.steps: torch.Tensor
        self.gather: torch.Tensor

    def forward(self, frame: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(middle, (2, 3, 2, 3), mode="replicate")
        apart = frame - functional.conv2d(padded, self.steps)  # (N, steps, h, w)
        likely = torch.softmax(_pooled(apart.abs()) * (-1 / self.tolerance), 1)
        both = [functional.conv2d(each, self.gather, padding=1) for each in (apart * likely, likely)]
        return torch.cat(both, 1)


def _pooled(apart: torch.Tensor) -> torch.Tensor:
    """Means over windows, of what lies inside of the picture."""
    return functional.avg_pool2d(apart, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)


def _around(plane: torch.Tensor, margin: int) -> torch.Tensor:
    return functional.pad(plane, (margin, margin, margin, margin), mode="replicate")


def _lumas(x: torch.Tensor, frames: int) -> list[torch.Tensor]:
    """The luma of each frame, (N, 1, h, w)."""
    if x.shape[1] == frames:
        return list(x.split(1, 1))
    weights = x.new_tensor(LUMA).view(1, 3, 1, 1)
    return [(frame * weights).sum(1, keepdim=True) for frame in x.split(3, 1)]


def _conv(inputs: int, outputs: int, gain: float = 1.0) -> CollapsibleConv:
    return CollapsibleConv(inputs, outputs, expansion=_EXPANSION, identity=False, gain=gain)
