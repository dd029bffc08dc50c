"""Residual U-Net: ResNet-34 as the encoder, its features joined to a decoder of pixel shuffles, on the large picture.

Source: the method that one of the origins of this project surveyed as the one without a critic: C. Thomas, "Deep
learning based super resolution without using a GAN" (2019), after fastai's DynamicUnet, of which the shape follows:
U-Net, Ronneberger et al. 2015, arXiv:1505.04597; ResNet-34, He et al. 2016, arXiv:1512.03385; joined by
concatenation, as in DenseNet, arXiv:1608.06993, with batch norm on the way, and at last with the picture itself;
pixel shuffles after 1x1 convolutions with ICNR initialisation, Aitken et al. 2017, arXiv:1707.02937. As there, the
small picture is enlarged first, and all is computed at the large size. Ours: the enlargement is part of the network
and bicubic, what the decoder gives is added to it, and the decoder has no weight norm.

The encoder's layers are called as torchvision's, each with its batch norm: weights trained on ImageNet fit, and
rates can be given for `encoder.layer1` and so on. Licence: Apache-2.0, our own code.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval

from superfine.train.nets.layers import BicubicBase, Foldable, Net

__all__ = ["ResidualUNet"]

# Blocks of each stage, and its width in widths of the first.
_STAGES: Final = ((3, 1), (4, 2), (6, 4), (3, 8))
# Of ImageNet's pictures in 0..1, which the encoder may have learned from.
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)


class ResidualUNet(Net):
    """(N, 3, h, w) in 0..1, scale*h and scale*w multiples of 32 -> (N, 3, scale*h, scale*w).

    width: channels of the first stage, a multiple of 4; 64 is ResNet-34's.
    """

    published: Final = "resnet34"
    """The network whose weights the encoder can start from."""

    def __init__(self, scale: int, *, width: int = 64) -> None:
        super().__init__()
        self.scale, self.colour = scale, "rgb"
        self.base = BicubicBase(scale)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.encoder = _Encoder(width)
        deepest = 8 * width
        self.norm = _Norm(deepest)
        self.middle = nn.Sequential(*_conv(deepest, 2 * deepest), *_conv(2 * deepest, deepest))
        self.rise = nn.ModuleList()
        channels = deepest
        for skip in (4 * width, 2 * width, width, width):
            joined = channels // 2 + skip
            after = joined // 2 if len(self.rise) == 3 else joined
            self.rise.append(_Join(channels, skip, after))
            channels = after
        self.enlarge = _Shuffle(channels, channels)
        self.last = nn.Sequential(*_conv(channels + 3, channels + 3), _conv(channels + 3, channels + 3)[0])
        self.tail = nn.Conv2d(channels + 3, 3, 1)
        with torch.no_grad():
            self.tail.weight.mul_(0.01)  # begin near bicubic

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = self.base.enlarge(x)  # (N, 3, H, W)
        seen = (large - self.mean) / self.deviation
        *skips, y = self.encoder(seen)  # at last (N, 8*width, H/32, W/32)
        y = self.middle(functional.relu(self.norm(y)))
        for join, skip in zip(self.rise, reversed(skips), strict=True):
            y = join(y, skip)  # at last (N, 1.5*width, H/2, W/2)
        y = torch.cat([self.enlarge(y), seen.to(y.dtype)], 1)
        residual: torch.Tensor = self.tail(y + self.last(y))
        return large + residual

    def published_names(self) -> dict[str, str]:
        """What torchvision calls each weight and norm of the encoder -> what `state_dict` calls it here."""
        own = [name for name in self.encoder.state_dict() if not name.endswith("num_batches_tracked")]
        return {_published(*name.rsplit(".", 2)): f"encoder.{name}" for name in own}


def _published(layer: str, part: str, value: str) -> str:
    """Theirs of encoder.layer1.0.conv2.norm.bias, for one, is layer1.0.bn2.bias."""
    if layer.endswith("downsample"):
        return f"{layer}.{0 if part == 'conv' else 1}.{value}"
    return f"{layer}.{value}" if part == "conv" else f"{layer[:-5]}bn{layer[-1]}.{value}"


class _Encoder(nn.Module):
    """ResNet-34 without its classifier: (N, 3, H, W) -> features of H/2, H/4, H/8, H/16 and H/32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _NormedConv(3, width, 7, 2)
        inputs, stages = width, []
        for number, (blocks, widths) in enumerate(_STAGES):
            stride = 1 if number == 0 else 2
            first = _Block(inputs, widths * width, stride)
            stages.append(nn.Sequential(first, *(_Block(widths * width, widths * width, 1) for _ in range(blocks - 1))))
            inputs = widths * width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        features = [functional.relu(self.conv1(x))]
        y = functional.max_pool2d(features[0], 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = stage(y)
            features.append(y)
        return features


class _Block(nn.Module):
    """Two 3x3 convolutions and the sum with what came in: (N, C, h, w) -> (N, C', h/stride, w/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _NormedConv(inputs, outputs, 3, stride)
        self.conv2 = _NormedConv(outputs, outputs, 3, 1)
        self.downsample = None if inputs == outputs else _NormedConv(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        return functional.relu(kept + self.conv2(functional.relu(self.conv1(x))))


class _NormedConv(Foldable):
    """A convolution and batch norm: (N, C, h, w) -> (N, C', h/stride, w/stride)."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.conv(x))
        return normed

    def fold(self) -> nn.Conv2d:
        return fuse_conv_bn_eval(self.conv, self.norm)

    def fits(self, weight: torch.Tensor) -> bool:
        return weight.shape == self.conv.weight.shape

    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.conv.load_state_dict({"weight": weight})
        _become(self.norm, torch.ones_like(bias), bias)


class _Norm(Foldable):
    """Batch norm where no convolution comes before it: (N, C, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x)
        return normed

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        norm = self.norm
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        gain = norm.weight / (variance + norm.eps).sqrt()
        folded: nn.Conv2d = skip_init(nn.Conv2d, len(gain), len(gain), 1, groups=len(gain), device=gain.device)
        folded.load_state_dict({"weight": gain.view(-1, 1, 1, 1), "bias": norm.bias - mean * gain})
        return folded

    def fits(self, weight: torch.Tensor) -> bool:
        return weight.shape == (self.norm.num_features, 1, 1, 1)

    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        _become(self.norm, weight.flatten(), bias)


def _become(norm: nn.BatchNorm2d, gain: torch.Tensor, bias: torch.Tensor) -> None:
    """Be gain * x + bias in eval mode; in training the norm still looks at the batch."""
    still = {"running_mean": torch.zeros_like(bias), "running_var": torch.ones_like(bias) - norm.eps}
    norm.load_state_dict(norm.state_dict() | still | {"weight": gain, "bias": bias})


class _Shuffle(nn.Module):
    """1x1 convolution, ReLU and pixel shuffle by two, begun as an enlargement by the nearest: ICNR."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 4 * outputs, 1)
        nn.init.zeros_(self.conv.get_parameter("bias"))
        with torch.no_grad():
            one = nn.init.kaiming_normal_(self.conv.weight[:outputs].clone())
            self.conv.weight.copy_(one.repeat_interleave(4, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pixel_shuffle(functional.relu(self.conv(x)), 2)


class _Join(nn.Module):
    """What comes up from below, twice as large, and the encoder's features of that size: two 3x3 convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.enlarge = _Shuffle(inputs, inputs // 2)
        self.norm = _Norm(skip)
        self.body = nn.Sequential(*_conv(inputs // 2 + skip, outputs), *_conv(outputs, outputs))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = self.body(functional.relu(torch.cat([self.enlarge(x), self.norm(skip)], 1)))
        return joined


def _conv(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.ReLU]:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer, nn.ReLU()
