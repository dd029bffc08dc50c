"""What the networks share: the base class, convolutions that fold, the bicubic base."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import skip_init

from superfine.errors import TrainingError

__all__ = ["LUMA", "BicubicBase", "CollapsibleConv", "Colour", "Foldable", "Net", "keys", "plain_conv"]

Colour = Literal["luma", "rgb"]

#: BT.601 weights of R, G, B in full-range luma.
LUMA = (0.299, 0.587, 0.114)
# Keys' cubic at the distances a phase needs, a = -0.5: the base is what bicubic would give.
_KEYS_A = -0.5


class Foldable(nn.Module):
    """A block that trains in more parts than it runs in: one convolution, after `fold`."""

    @abstractmethod
    def fold(self) -> nn.Conv2d:
        """The plain convolution that this block is in eval mode."""

    @abstractmethod
    def fits(self, weight: torch.Tensor) -> bool:
        """Whether `unfold` takes a kernel of this shape."""

    @abstractmethod
    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Become the convolution of `weight` (outputs, inputs, rows, columns) and `bias` (outputs)."""


class CollapsibleConv(Foldable):
    """A 3x3 convolution trained as 3x3 expansion, 1x1 projection and, where asked, identity.

    All three are linear, so they are multiplied into one 3x3 kernel at each step:
    training costs what the folded network costs.
    Source: SESR, Bhardwaj et al. 2022, arXiv:2103.09404.
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, identity: bool, gain: float = 1.0) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.identity = inputs, outputs, identity
        self.expand = nn.Parameter(torch.randn(expansion, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5)
        self.project = nn.Parameter(torch.randn(outputs, expansion) * gain * expansion**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def kernel(self) -> torch.Tensor:
        """The folded kernel (outputs, inputs, 3, 3)."""
        with torch.autocast(self.project.device.type, enabled=False):  # bf16 would round a sum of hundreds of terms
            kernel = (self.project @ self.expand.flatten(1)).view(self.out_channels, self.in_channels, 3, 3)
        return kernel + self._eye() if self.identity else kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # One channel passes for any layout, and one layer in NCHW turns all that follow to it: 3x slower in bf16.
        last = torch.channels_last
        kernel = self.kernel().contiguous(memory_format=last)
        return functional.conv2d(x.contiguous(memory_format=last), kernel, self.bias, padding=1)

    def fold(self) -> nn.Conv2d:
        return plain_conv(self.kernel(), self.bias)

    def fits(self, weight: torch.Tensor) -> bool:
        """As wide as this block or narrower."""
        return weight.shape[0] <= self.out_channels and weight.shape[1] <= self.in_channels

    @torch.no_grad()
    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Become `weight` (outputs, inputs, 3, 3) and `bias`; a narrower one fills the leading corner.

        Old outputs then don't see new inputs, and new outputs keep their random
        kernels: where the layers after ignore them, a wider net is the same function.
        """
        outputs, inputs = weight.shape[:2]
        kernel = self.kernel()
        kernel[:outputs] = 0
        kernel[:outputs, :inputs] = weight
        kernel = kernel - self._eye() if self.identity else kernel
        left, sizes, right = torch.linalg.svd(kernel.flatten(1).double(), full_matrices=False)
        # The expansion's rows are as long as random ones; those that aren't needed stay, to be learned from.
        length, rank = 2**0.5, len(sizes)
        self.expand[:rank] = (right * length).view(rank, -1, 3, 3)
        self.project.zero_()
        self.project[:, :rank] = left * sizes / length
        self.bias[:outputs] = bias

    def _eye(self) -> torch.Tensor:
        eye = torch.eye(self.out_channels, device=self.bias.device, dtype=self.bias.dtype)
        return functional.pad(eye[:, :, None, None], (1, 1, 1, 1))


class BicubicBase(nn.Module):
    """Bicubic enlargement (Keys, a = -0.5, borders replicated) before the pixel shuffle.

    (N, C, h, w) -> (N, C*scale*scale, h, w), channel by channel. Written as a
    transposed convolution of stride one: OpenVINO keeps that in fp32 when the
    convolutions around it run in bf16, so that 16 bits survive.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        taps = torch.arange(-2, 3, dtype=torch.float64)
        phase = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        line = keys(phase[:, None] - taps)  # (scale, 5)
        line = line / line.sum(1, keepdim=True)
        kernel = torch.einsum("pi,qj->pqij", line, line).reshape(1, scale * scale, 5, 5)
        self.register_buffer("kernel", kernel.flip(2, 3).float())
        self.kernel: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
        kernel = self.kernel.repeat(channels, 1, 1, 1)
        return functional.conv_transpose2d(padded, kernel, padding=4, groups=channels)

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        """Bicubic of x, always in fp32: (N, C, h, w) -> (N, C, scale*h, scale*w)."""
        with torch.autocast(x.device.type, enabled=False):
            return functional.pixel_shuffle(self(x.float()), self.scale)

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Bicubic of x plus `residual` (N, C or 1 times scale*scale, h, w), added in fp32 before the pixel shuffle."""
        with torch.autocast(x.device.type, enabled=False):
            base = self(x.float())  # (N, C*scale*scale, h, w)
            total = base + torch.cat([residual.float()] * (base.shape[1] // residual.shape[1]), 1)
            return functional.pixel_shuffle(total, self.scale)


class Net(nn.Module):
    """A network for one scale: (N, C, h, w) in 0..1 -> (N, C, scale*h, scale*w).

    colour: "luma" takes one channel or three, and adds one luma residual over
    the bicubic base to each: in BT.601 the same as enlarging Y by the network and
    Cb, Cr by bicubic. "rgb" takes three.
    """

    scale: int
    colour: Colour
    frames: int = 1
    """Of the window that it sees: (N, C*frames, h, w), in the order of time."""
    head: CollapsibleConv | nn.Conv2d
    """The first layer."""
    tail: nn.Module
    """The last one."""

    def folded(self) -> "Net":
        """The same function for (N, 3, h, w), in eval mode and in plain layers of the same names.

        A luma head takes three channels after it: luma is part of its kernel.
        """
        net = copy.deepcopy(self).eval()
        for name, module in list(net.named_modules()):
            if isinstance(module, Foldable):
                net.set_submodule(name, module.fold())
        if net.colour == "luma":
            weight = net.head.get_parameter("weight")
            net.head = plain_conv(weight * weight.new_tensor(LUMA).view(1, 3, 1, 1), net.head.bias)
        return net

    @torch.no_grad()
    def lend(self, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Start from the weights of a folded net of this kind; returns the names of the layers that took theirs.

        weights: "head.weight" and so on, as in `folded().state_dict()`. Layers
        that don't fit stay as they are: the tail, for one, where the scale is
        another. Collapsible layers take narrower ones, and an rgb net those of a
        luma net, and is the same function then. Raises TrainingError where nothing fits.
        """
        given = dict(weights)
        if self.colour == "luma" and "head.weight" in given:
            given["head.weight"] = given["head.weight"].sum(1, keepdim=True)  # the weights of luma sum to one
        if isinstance(self.tail, CollapsibleConv) and "tail.weight" in given:
            rows = given["tail.weight"].shape[0]
            times = {rows: 1, 3 * rows: 3}.get(self.tail.out_channels, 0)  # 3: luma's residual for each colour
            lent = {name: given.pop(name) for name in ("tail.weight", "tail.bias")}
            given |= {name: torch.cat([value] * times) for name, value in lent.items() if times}
        taken = [name for name, module in self.named_modules() if _take(module, name, given)]
        if not taken:
            had = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(weights.items())[:3])
            kind = f"{type(self).__name__} x{self.scale}"
            raise TrainingError(f"none of the weights lent ({had}, ...) fits {kind}; lend those of a net of its kind")
        return taken

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the head is to see of x: x itself, or its luma (N, 1, h, w) where the head takes one channel."""
        if x.shape[1] == self.head.in_channels:
            return x
        return (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _take(module: nn.Module, name: str, given: Mapping[str, torch.Tensor]) -> bool:
    """Copy what is given for `module`; False where there is nothing or it doesn't fit."""
    own = dict(module.named_parameters(recurse=False))
    lent = {key: given[f"{name}.{key}"] for key in ("weight", "bias") if f"{name}.{key}" in given}
    if isinstance(module, Foldable):
        if fits := len(lent) == 2 and module.fits(lent["weight"]):
            module.unfold(**lent)
        return fits
    if not lent or any(key not in own or own[key].shape != value.shape for key, value in lent.items()):
        return False
    for key, value in lent.items():
        own[key].copy_(value)
    return True


@torch.no_grad()
def plain_conv(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    """A convolution that keeps the size, of `weight` (outputs, inputs, k, k); leaves the random state alone."""
    outputs, inputs, side = weight.shape[:3]
    facts = {"padding": side // 2, "bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
    plain: nn.Conv2d = skip_init(nn.Conv2d, inputs, outputs, side, **facts)
    plain.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return plain


def keys(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic, a = -0.5, of a distance in samples. Source: Keys 1981, doi:10.1109/TASSP.1981.1163711."""
    a, d = _KEYS_A, distance.abs()
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
