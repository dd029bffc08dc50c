"""Building blocks that the networks share."""

from abc import abstractmethod

import torch
from torch import nn
from torch.nn import functional

__all__ = ["BicubicBase", "CollapsibleConv", "Net"]

# Keys' cubic at the distances a phase needs, a = -0.5: the base is what bicubic would give.
_KEYS_A = -0.5


class Net(nn.Module):
    """A network for one scale: (N, 1 or 3, h, w) in 0..1 -> (N, same, scale*h, scale*w)."""

    scale: int

    @abstractmethod
    def folded(self) -> nn.Module:
        """The same function for (N, 3, h, w) in as few plain operations as it can be written in."""


class CollapsibleConv(nn.Module):
    """A 3x3 convolution trained as 3x3 expansion, 1x1 projection and, where asked, identity.

    All three are linear, so they are multiplied into one 3x3 kernel at each step:
    training costs what the folded network costs.
    Source: SESR, Bhardwaj et al. 2022, arXiv:2103.09404.
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, identity: bool, gain: float = 1.0) -> None:
        super().__init__()
        self.identity = identity
        self.expand = nn.Parameter(torch.randn(expansion, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5)
        self.project = nn.Parameter(torch.randn(outputs, expansion) * gain * expansion**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def kernel(self) -> torch.Tensor:
        """The folded kernel (outputs, inputs, 3, 3)."""
        outputs, inputs = self.project.shape[0], self.expand.shape[1]
        kernel = (self.project @ self.expand.flatten(1)).view(outputs, inputs, 3, 3)
        if self.identity:
            kernel = kernel + functional.pad(torch.eye(outputs, device=kernel.device)[:, :, None, None], (1, 1, 1, 1))
        return kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.kernel(), self.bias, padding=1)

    def fold(self) -> nn.Conv2d:
        """The plain convolution that this block is."""
        outputs, inputs = self.project.shape[0], self.expand.shape[1]
        plain = nn.Conv2d(inputs, outputs, 3, padding=1)
        with torch.no_grad():
            plain.weight.copy_(self.kernel())
            plain.bias.copy_(self.bias)  # type: ignore[union-attr]
        return plain


class BicubicBase(nn.Module):
    """Bicubic enlargement (Keys, a = -0.5, borders replicated) before the pixel shuffle.

    (N, C, h, w) -> (N, C*scale*scale, h, w), channel by channel. Written as a
    transposed convolution of stride one: OpenVINO keeps that in fp32 when the
    convolutions around it run in bf16, so that 16 bits survive.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        taps = torch.arange(-2, 3, dtype=torch.float64)
        phase = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        line = _keys(phase[:, None] - taps)  # (scale, 5)
        line = line / line.sum(1, keepdim=True)
        kernel = torch.einsum("pi,qj->pqij", line, line).reshape(1, scale * scale, 5, 5)
        self.register_buffer("kernel", kernel.flip(2, 3).float())
        self.kernel: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
        kernel = self.kernel.repeat(channels, 1, 1, 1)
        return functional.conv_transpose2d(padded, kernel, padding=4, groups=channels)


def _keys(distance: torch.Tensor) -> torch.Tensor:
    a, d = _KEYS_A, distance.abs()
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
