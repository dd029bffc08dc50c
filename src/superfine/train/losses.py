"""Losses between an output and its target, and those of two nets that fight.

Outputs and targets are (N, C, H, W) of one shape, in 0..1; every loss is a scalar, the
mean over the batch, computed in float32 also under autocast (in float64 where it
comes so), and zero for equal pictures unless said.
"""

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from superfine.errors import ShapeError, TrainingError
from superfine.guess import GUESS_OCTAVES, LEAST_GUESS

__all__ = [
    "LOSSES",
    "Loss",
    "adversarial",
    "charbonnier",
    "critic_loss",
    "fft",
    "gradient_weighted",
    "gram",
    "input_means",
    "l1",
    "laplace",
    "lattice",
    "mse",
    "r1_penalty",
    "reach",
    "reduced",
    "relative",
    "relativistic",
    "relativistic_critic_loss",
    "ssim",
    "total_variation",
    "weighted",
]

Loss = Callable[[Tensor, Tensor], Tensor]

_CHARBONNIER_EPS: Final = 1e-3
_GRADIENT_WEIGHT: Final = 1.0
_BLOCK: Final = 8
_PERIOD: Final = 4
_LATTICE_BLOCK: Final = 16


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _between(loss: Loss) -> Loss:
    """What all losses between two pictures share: equal shapes, and float32 whatever autocast says."""

    @wraps(loss)
    def exact(output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape or output.ndim != 4:
            shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
            raise ShapeError(f"want output and target as (N, C, H, W) of one shape, got {shapes}")
        with torch.autocast(output.device.type, enabled=False):
            return loss(_exact(output), _exact(target))

    return exact


@_between
def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(output, target)


@_between
def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return functional.l1_loss(output, target)


@_between
def charbonnier(output: Tensor, target: Tensor) -> Tensor:
    """mean(sqrt(d^2 + eps^2)), eps = 1e-3: L1 that is smooth at zero, where it is eps.

    Source: Lai et al. 2017 (LapSRN), arXiv:1704.03915.
    """
    return torch.sqrt((output - target).square() + _CHARBONNIER_EPS**2).mean()


@_between
def gradient_weighted(output: Tensor, target: Tensor) -> Tensor:
    """mean(d^2) + w * (mean((d_x d)^2) + mean((d_y d)^2)), w = 1, of the difference d = output - target.

    d_x and d_y are differences of neighbours, so that edges outweigh flat dark areas,
    of which there are many more. Source: the origin ImageShift names the sum and no w.
    """
    difference = output - target
    return difference.square().mean() + _GRADIENT_WEIGHT * sum(step.square().mean() for step in _steps(difference))


@_between
def ssim(output: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM: 11x11 Gaussian of sigma 1.5, valid region, white at 1; each channel by itself.

    Raises ShapeError below 11 px a side.
    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, as `evaluate.metrics.ssim`.
    """
    if min(output.shape[2:]) < 11:
        raise ShapeError(f"SSIM needs 11 px a side, got {tuple(output.shape[2:])}; use larger patches")
    x, y = output, target
    down, across = (_window(side, x) for side in output.shape[2:])
    planes = torch.stack((x, y, x * x, y * y, x * y))  # (5, N, C, H, W)
    mean_x, mean_y, square_x, square_y, product = (down @ planes @ across.T).unbind()
    var_x, var_y, cov = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return 1 - value.mean()


def _window(side: int, like: Tensor) -> Tensor:
    """(side - 10, side): each row an 11 px Gaussian. On a CPU the product is ten times as fast as a convolution."""
    place = torch.arange(side, dtype=like.dtype, device=like.device)
    offset = place - place[: side - 10, None] - 5
    band = torch.exp(-offset.square() / (2 * 1.5**2)) * (offset.abs() <= 5)
    return band / band.sum(dim=1, keepdim=True)


@_between
def fft(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute real and imaginary part of the unitary 2-D real FFT of the difference.

    Unitary: white noise has the same figure in any patch. Papers leave the FFT
    unscaled: their weight on patches of P x P px of the large picture is P times as
    large here, so 0.05 at P = 192 is 9.6. Source: Sun et al. 2022 (ShuffleMixer), arXiv:2205.15175.
    """
    return torch.view_as_real(torch.fft.rfft2(output - target, norm="ortho")).abs().mean()


@_between
def lattice(output: Tensor, target: Tensor) -> Tensor:
    """Checkerboards: mean absolute difference of the 16 phases of a 4 px lattice from their mean, in blocks of 16 px.

    Of the difference output - target: texture that isn't where the target has it costs little, since the samples of
    a phase cancel; a pattern that repeats with the lattice, a quarter or half as fine, costs all of its amplitude.
    x4 and x2 networks make each phase by other weights, and critics that halve see it so. What is left over at the
    right and below counts for nothing. Raises ShapeError below 16 px a side. Our own.
    """
    rows, cols = (side // _LATTICE_BLOCK * _LATTICE_BLOCK for side in output.shape[2:])
    if not (rows and cols):
        least = f"a lattice needs {_LATTICE_BLOCK} px a side"
        raise ShapeError(f"{least}, got {tuple(output.shape[2:])}; use larger patches")
    phases = functional.pixel_unshuffle((output - target)[..., :rows, :cols], _PERIOD)
    means = functional.avg_pool2d(phases, _LATTICE_BLOCK // _PERIOD).unflatten(1, (-1, _PERIOD**2))
    apart: Tensor = means - means.mean(2, keepdim=True)
    return apart.abs().mean()


def input_means(output: Tensor, small: Tensor) -> Tensor:
    """Mean absolute difference of the means of the same blocks in the output and the input: the input's colours stay.

    small: the network's input (N, C, h, w), output: (N, C, s*h, s*w); blocks of 8 x 8 px of the small picture, what
    is left over counts for nothing. Raises ShapeError where the sizes don't fit or not one block does.
    """
    scale = output.shape[-1] // small.shape[-1]
    if output.shape[:2] != small.shape[:2] or output.shape[2:] != tuple(scale * side for side in small.shape[2:]):
        raise ShapeError(f"want output and input of one factor, got {tuple(output.shape)} and {tuple(small.shape)}")
    if min(small.shape[2:]) < _BLOCK:
        raise ShapeError(f"block means need {_BLOCK} px a side, got {tuple(small.shape[2:])}; use larger patches")
    of_output = functional.avg_pool2d(_exact(output), _BLOCK * scale)
    return (of_output - functional.avg_pool2d(_exact(small), _BLOCK)).abs().mean()


def laplace(coded: Tensor, error: Tensor) -> Tensor:
    """How unlikely absolute errors are where a network expects them of size b: mean(log2 b + (|e| + least) / (b ln 2)).

    coded: (N, C, H, W), b as `superfine.guess` codes it; error: |e|, of the same shape, white at 1. In bits, less a
    constant; smallest where b is the mean of |e| + least. For Laplace's density, of which b is the scale.
    Source: Kendall and Gal 2017, arXiv:1703.04977, who take Gauss'.
    """
    if coded.shape != error.shape or coded.ndim != 4:
        shapes = f"{tuple(coded.shape)} and {tuple(error.shape)}"
        raise ShapeError(f"want coded and error as (N, C, H, W) of one shape, got {shapes}")
    octaves = _exact(coded) * GUESS_OCTAVES  # b is least * 2**octaves
    return (octaves + (_exact(error) / LEAST_GUESS + 1) * torch.exp2(-octaves) / math.log(2)).mean()


def reduced(large: Tensor, kernels: Tensor, scale: int) -> Tensor:
    """down_s(large * k), each sample by its own kernel: (N, C, s*h, s*w) -> (N, C, h, w), differentiable.

    kernels: (N, n, m), or (1, n, m) for all. The same as `classical.kernels.KernelReduction`, replicated border
    and centre rule included; in float32 also under autocast.
    """
    samples, _, rows, cols = large.shape
    pads, skips = [], []
    for taps in reversed(kernels.shape[1:]):  # functional.pad counts axes from the last
        last = taps // 2 + (scale - 1) // 2
        pads += [max(0, taps - 1 - last), max(0, last - scale + 1)]
        skips.append(max(0, last - taps + 1))
    with torch.autocast(large.device.type, enabled=False):
        planes = _exact(large).transpose(0, 1)  # (C, N, s*h, s*w): one group of the convolution for each kernel
        padded = functional.pad(planes, pads, mode="replicate")[..., skips[1] :, skips[0] :]
        weights = kernels.to(planes).flip(1, 2).expand(samples, -1, -1)[:, None]
        small = functional.conv2d(padded, weights, stride=scale, groups=samples)
    return small[..., : rows // scale, : cols // scale].transpose(0, 1)


def reach(side: int, scale: int) -> int:
    """How many small pixels along a border a kernel of `side` taps makes with what lies beyond it."""
    last = side // 2 + (scale - 1) // 2
    return math.ceil(max(0, side - 1 - last, last - scale + 1) / scale)


def total_variation(output: Tensor) -> Tensor:
    """Anisotropic total variation of the output itself: mean |d_x| + mean |d_y|; zero for a constant one.

    Source: Rudin, Osher, Fatemi 1992, doi:10.1016/0167-2789(92)90242-F; anisotropic form.
    """
    return torch.stack([step.abs().mean() for step in _steps(_exact(output))]).sum()


def _steps(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours along x and along y. Raises ShapeError where a side has no two pixels."""
    if min(pictures.shape[2:]) < 2:
        raise ShapeError(f"image gradients need 2 px a side, got {tuple(pictures.shape[2:])}; use larger patches")
    return pictures.diff(dim=3), pictures.diff(dim=2)


def adversarial(scores_of_output: Tensor) -> Tensor:
    """What a generator wants: mean(-log sigmoid(score)), so log 2 where the critic is undecided.

    scores_of_output: the critic's logits, of any shape, high for what it takes for real.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, non-saturating.
    """
    return functional.softplus(-_exact(scores_of_output)).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What a critic wants of its logits: mean(-log sigmoid(real)) + mean(-log(1 - sigmoid(fake))); undecided 2 log 2.

    Source: Goodfellow et al. 2014, arXiv:1406.2661.
    """
    return functional.softplus(-_exact(real)).mean() + functional.softplus(_exact(fake)).mean()


def relativistic(of_output: Tensor, of_target: Tensor) -> Tensor:
    """What a generator wants of a critic that compares: output more real than targets are on average, and they less.

    Logits of one shape; log 2 where the critic is undecided.
    Source: Jolicoeur-Martineau 2018, arXiv:1807.00734, averaged, as ESRGAN has it (arXiv:1809.00219); half of the sum.
    """
    fake, real = _exact(of_output), _exact(of_target)
    return (functional.softplus(real.mean() - fake).mean() + functional.softplus(real - fake.mean()).mean()) / 2


def relativistic_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What such a critic wants of its logits: the opposite; undecided 2 log 2. Source: as `relativistic`."""
    real, fake = _exact(real), _exact(fake)
    return functional.softplus(fake.mean() - real).mean() + functional.softplus(fake - real.mean()).mean()


def gram(activations: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C, C): products of channels, mean over places and channels, so of one size for any layer.

    Source: Gatys et al. 2016, doi:10.1109/CVPR.2016.265; Johnson et al. 2016, arXiv:1603.08155, for the mean.
    """
    flat = _exact(activations).flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def relative(of_output: Tensor, of_target: Tensor) -> Tensor:
    """Mean |difference| of activations over the mean |activation| of the target: layers of any gain weigh alike."""
    target = _exact(of_target)
    return (_exact(of_output) - target).abs().mean() / target.abs().mean().clamp_min(1e-6)


def r1_penalty(scores: Tensor, real: Tensor) -> Tensor:
    """Half the squared norm of the gradient of each real picture's mean score, mean over the batch.

    real: (N, C, H, W) that requires a gradient; scores: (N, ...), made from it, each
    picture by itself. Source: Mescheder et al. 2018, arXiv:1801.04406, without gamma.
    """
    each = _exact(scores).reshape(len(scores), -1).mean(dim=1)
    (slope,) = torch.autograd.grad(each.sum(), real, create_graph=True)
    return _exact(slope).square().sum(dim=(1, 2, 3)).mean() / 2


#: The losses that a recipe can weigh.
LOSSES: dict[str, Loss] = {
    "mse": mse,
    "l1": l1,
    "charbonnier": charbonnier,
    "gradient_weighted": gradient_weighted,
    "ssim": ssim,
    "total_variation": lambda output, target: total_variation(output),
    "fft": fft,
    "lattice": lattice,
}


def weighted(weights: Mapping[str, float], output: Tensor, target: Tensor) -> Tensor:
    """The sum of losses as a recipe writes it, {l1 = 1.0, fft = 10.0}; zero without any.

    Raises TrainingError for an unknown loss, and a weight that is negative or not finite.
    """
    total = torch.zeros((), device=output.device)
    for name, weight in weights.items():
        if name not in LOSSES:
            raise TrainingError(f"no loss {name!r}; there are {', '.join(LOSSES)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise TrainingError(f"the loss {name} has the weight {weight}; want a finite number from 0")
        total = total + weight * LOSSES[name](output, target)
    return total
