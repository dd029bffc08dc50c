"""The weights of the kernel estimator, superfine/assets/kernel.npz: pictures made small by known kernels, then a fit.

    python benchmarks/kernel_weights.py --pictures FOLDER FIRST LAST REDUCE ... [--output FILE] [--count N] [--seed 1]

Each `--pictures` takes the pictures [FIRST, LAST) of a folder by name, made REDUCE times as large (1 keeps them). They
should be sharp. The networks are fitted to seven eighths of the pictures; what they make of the last eighth is
what the trust is fitted to, and is printed. The shipped weights: `--pictures cid22 0 189 1 --pictures cid22 0 189 0.75
--pictures gb82 0 21 1 --pictures clic2025 0 22 0.5 --pictures clic2025 0 22 0.75 --count 18000`; about ten minutes on
one core. The same seed and versions give the same weights.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from inspection import read_pictures
from torch import nn

from superfine.blind import estimate
from superfine.blind.estimate import DIRECTIONS, FAMILIES, OWN_LENGTH, OWN_NOISE, OWN_VARIANCE, SIDES
from superfine.classical.degrade import jpeg
from superfine.classical.kernels import (
    anisotropic_kernel,
    kernel_correlation,
    resampler_kernel,
    straight_motion_kernel,
    weighted_at_random,
)
from superfine.color import full_luma

Floats = npt.NDArray[np.floating]
MEMBERS, WIDTH, EPOCHS, BATCH = 4, 48, 32, 128
# Sides of small pictures whose Fourier transform is quick, and what is cut off of each of them.
FAST = (54, 60, 64, 72, 80, 90, 96, 108, 120, 128, 144, 160, 180, 200, 216, 240, 256)
SEAM = 6
# Share of the pictures that are as good as empty, as a clear sky or a picture out of focus is: little trust is learnt.
SMEARED = 0.05
# Share of the pictures that are softened a little, as many are before anybody makes them small; it isn't the kernel's.
SOFT = 0.6
OUTPUT = Path(__file__).parents[1] / "src" / "superfine" / "assets" / "kernel.npz"


@dataclass(frozen=True)
class Truth:
    kernel: Floats
    scale: int
    family: int
    gaussian: tuple[float, float, float] = (0.0, 0.0, 0.0)
    motion: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass
class Examples:
    """What is fitted to: of each example its features (16, F), picture, truth and noise in levels."""

    features: Floats
    pictures: npt.NDArray[np.int64]
    scales: npt.NDArray[np.int64]
    families: npt.NDArray[np.int64]
    values: Floats
    """(count, 7): the parameters in the networks' order, only those of the family, and the logarithm of the noise."""
    kernels: Floats
    """(count, 31, 31), padded."""


# ---- pictures made small by known kernels


def drawn_kernel(scale: int, draw: np.random.Generator) -> Truth:
    side, kind, turn = SIDES[scale], draw.random(), draw.uniform(0, 180)
    way = np.array([np.cos(np.radians(2 * turn)), np.sin(np.radians(2 * turn))])
    if kind < 0.60:
        wide, narrow = np.exp(draw.uniform(np.log(0.28), np.log(1.5), 2))
        narrow = wide if kind < 0.24 else narrow
        made = anisotropic_kernel(side, scale, ((scale * wide) ** 2, (scale * narrow) ** 2), turn)
        logs = 0.5 * np.log(np.array([wide, narrow]) ** 2 + OWN_VARIANCE)
        first, second = way * (logs[0] - logs[1]) / 2
        return Truth(made, scale, 0, gaussian=(logs.mean(), first, second))
    if kind < 0.80:
        length, sigma = draw.uniform(0.5, 6), draw.uniform(0.2, 0.55)
        made = straight_motion_kernel(side, scale, scale * length, turn, scale * sigma)
        first, second = way * np.log1p(length / OWN_LENGTH)
        return Truth(made, scale, 1, motion=(np.log(sigma), first, second))
    family = 2 if kind < 0.92 else 3
    return Truth(resampler_kernel(side, scale, FAMILIES[family]), scale, family)


def padded(kernel: Floats) -> Floats:
    made = np.zeros((31, 31))
    top = 15 - kernel.shape[0] // 2
    made[top : top + kernel.shape[0], top : top + kernel.shape[0]] = kernel
    return made


class Large:
    """A part of a picture as one period, which many kernels make small at once: its spectrum is what costs."""

    def __init__(self, luma: Floats, scale: int, draw: np.random.Generator) -> None:
        small = [
            max(fit for fit in FAST if fit <= min(most, have // scale))
            for have, most in zip(luma.shape, np.exp(draw.uniform(np.log(54), np.log(270), 2)), strict=True)
        ]
        sides = [scale * side for side in small]
        top, left = (int(draw.integers(0, have - side + 1)) for side, have in zip(sides, luma.shape, strict=True))
        self.scale, self.small = scale, small
        self.spectrum = np.fft.fft2(luma[top : top + sides[0], left : left + sides[1]])

    def smeared(self, sigma: float) -> None:
        """Softer than it was, by a Gaussian."""
        down, right = (np.fft.fftfreq(side)[:, None] for side in self.spectrum.shape)
        self.spectrum *= np.exp(-2 * (np.pi * sigma) ** 2 * (down**2 + right.T**2)).astype(np.float32)

    def __call__(self, kernel: Floats) -> Floats:
        """y = down_s(x * k), less what the period's seam touches."""
        scale, (rows, cols) = self.scale, self.small
        place = np.arange(len(kernel)) - len(kernel) // 2 - (scale - 1) // 2
        down, right = (
            np.exp(-2j * np.pi / (scale * side) * np.outer(np.arange(scale * side), place)).astype(np.complex64)
            for side in (rows, cols)
        )
        seen = self.spectrum * (down @ kernel.astype(np.complex64) @ right.T)
        small: Floats = np.fft.ifft2(seen.reshape(scale, rows, scale, cols).sum(axis=(0, 2)) / scale**2).real
        return small[SEAM:-SEAM, SEAM:-SEAM]


def worsened(small: Floats, draw: np.random.Generator) -> tuple[Floats, float]:
    """The picture with less contrast, noise, and rounding, and the noise in levels."""
    if (kind := draw.random()) < 0.3:
        contrast = draw.uniform(0, 0.2) ** 2 if kind < 0.03 else draw.uniform(0.4, 1)
        small = small * contrast + draw.uniform(0, (1 - contrast) * 255)
    noise = 0.0
    if (kind := draw.random()) < 0.55:
        noise = draw.uniform(5, 25) if kind < 0.05 else 5 * draw.random() ** 1.5
        small = small + noise * draw.standard_normal(small.shape)
    if (kind := draw.random()) < 0.4:  # three channels are rounded, each on its own
        small = np.clip(small + draw.uniform(-0.33, 0.33, small.shape), 0, 255)
    else:
        small = np.clip(np.rint(small), 0, 255)
    if kind > 0.93:
        grey = np.repeat(np.rint(small).astype(np.uint8)[..., None], 3, axis=2)
        small = jpeg(grey, int(draw.integers(80, 99)), "4:4:4")[..., 0]
    return small.astype(np.float32), noise


def made_examples(lumas: list[Floats], names: list[int], count: int, draw: np.random.Generator) -> Examples:
    rows = []
    while len(rows) < count:
        place, scale = int(draw.integers(len(lumas))), int(draw.choice([2, 2, 3, 4, 4]))
        large = Large(lumas[place], scale, draw)
        if (kind := draw.random()) < SMEARED:
            large.smeared(scale * draw.uniform(2, 12))
        elif kind < SMEARED + SOFT:
            large.smeared(draw.uniform(0, 0.7))
        for _ in range(4):
            truth = drawn_kernel(scale, draw)
            made = weighted_at_random(truth.kernel, 0.25, draw) if draw.random() < 0.4 else truth.kernel
            small, noise = worsened(large(made), draw)
            features = estimate.kernel_features([small])
            if len(features):
                values = np.array([*truth.gaussian, *truth.motion, np.log(noise + OWN_NOISE)], np.float32)
                rows.append((features, names[place], scale, truth.family, values, padded(made).astype(np.float32)))
    return Examples(*(np.array(column) for column in zip(*rows, strict=True)))


def read_lumas(chosen: list[list[str]]) -> tuple[list[Floats], list[int]]:
    """The luma of each picture, and a number for its name."""
    lumas, names, numbers = [], [], {}
    for name, pixels in read_pictures(chosen):
        lumas.append(full_luma(pixels.astype(np.float32)))
        names.append(numbers.setdefault(name, len(numbers)))
    return lumas, names


# ---- the networks


class Net(nn.Module):
    """The networks of superfine.blind.estimate, to be fitted; (N, 16, F) gives (N, 15)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, WIDTH)
        self.second, self.third = (nn.Linear(5 * WIDTH, WIDTH) for _ in range(2))
        self.pooled = nn.Linear(2 * WIDTH, 64)
        self.whole = nn.Linear(64, 11)
        self.turning = nn.Linear(WIDTH, 2, bias=False)
        turned = 2 * torch.deg2rad(torch.tensor(DIRECTIONS))
        self.register_buffer("axes", torch.stack([turned.cos(), turned.sin()], dim=1), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = nn.functional.silu(self.first(features))
        for layer in (self.second, self.third):
            around = torch.cat([values.roll(-step, 1) for step in (-2, -1, 0, 1, 2)], dim=2)
            values = values + nn.functional.silu(layer(around))
        pooled = nn.functional.silu(self.pooled(torch.cat([values.mean(1), values.amax(1)], dim=1)))
        whole = self.whole(pooled)
        vectors = self.turning(values).transpose(1, 2) @ self.axes / 16  # (N, 2, 2)
        parts = [whole[:, :4], whole[:, 4:5], vectors[:, 0], whole[:, 5:6], vectors[:, 1], whole[:, 6:]]
        return torch.cat(parts, dim=1)


def loss_of(made: torch.Tensor, family: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Of the family's logits, of the parameters by the likelihood with their own errors, and of the noise."""
    spread = made[:, 11:].clamp(-4, 1.5)
    apart = made[:, 4:10] - values[:, :6]
    loss = nn.functional.cross_entropy(made[:, :4], family)
    for own, start in enumerate((0, 3)):
        chosen = (family == own).float()
        one = apart[:, start].abs()
        two = apart[:, start + 1 : start + 3].square().sum(1).add(1e-8).sqrt()
        for error, dimensions, logarithm in ((one, 1, spread[:, 2 * own]), (two, 2, spread[:, 2 * own + 1])):
            likely = 0.5 * (error * torch.exp(-logarithm)).square().clamp(max=20) + dimensions * logarithm
            loss = loss + (chosen * (likely + 1.0 * error)).mean()
    return loss + 0.3 * (made[:, 10] - values[:, 6]).abs().mean()


def turned(features: torch.Tensor, values: torch.Tensor, kind: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same pictures mirrored, turned by 90 degrees, or both."""
    values = values.clone()
    if kind & 1:
        features = features[:, [-place % 16 for place in range(16)]]
        values[:, [2, 5]] *= -1
    if kind & 2:
        features = features.roll(8, 1)
        values[:, [1, 2, 4, 5]] *= -1
    return features, values


def fit(inputs: Floats, families: Floats, values: Floats, seed: int) -> Net:
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    net = Net(inputs.shape[-1])
    given, family, wanted = torch.tensor(inputs), torch.tensor(families), torch.tensor(values)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=2e-2)
    batches = len(given) // BATCH
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(given))[: batches * BATCH].split(BATCH):
            shown, aims = turned(given[batch], wanted[batch], int(draw.integers(4)))
            loss = loss_of(net(shown + 0.03 * torch.randn_like(shown)), family[batch], aims)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimiser.step()
            rate.step()
    return net


def fit_trust(errors: Floats, correlations: Floats, seed: int) -> nn.Sequential:
    """What correlation is to be expected where the networks say what they say."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("first", nn.Linear(errors.shape[1], 24))
    net.add_module("between", nn.SiLU())
    net.add_module("second", nn.Linear(24, 1))
    given, wanted = torch.tensor(errors), torch.tensor(correlations)[:, None]
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    for _ in range(60):
        for batch in torch.randperm(len(given)).split(128):
            loss = nn.functional.binary_cross_entropy_with_logits(net(given[batch]), wanted[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net


def weights_of(net: nn.Module, prefix: str) -> dict[str, Floats]:
    return {f"{prefix}.{name}": value.detach().numpy() for name, value in net.named_parameters()}


# ---- all of it


def fitted(examples: Examples, seed: int) -> dict[str, Floats]:
    """All weights; prints what they make of the pictures that no network was fitted to."""
    kept = examples.pictures % 8 == 5
    scales, families, values = examples.scales, examples.families, examples.values
    mean, spread = examples.features.mean(axis=(0, 1)), examples.features.std(axis=(0, 1)) + 1e-2
    scaled = np.clip((examples.features - mean) / spread, -5, 5)
    constants = np.array([estimate.constants(int(scale)) for scale in scales])
    inputs = np.concatenate([scaled, constants], axis=2).astype(np.float32)
    weights = {"mean": mean, "spread": spread, "members": np.array(MEMBERS)}
    for member in range(MEMBERS):
        net = fit(inputs[~kept], families[~kept], values[~kept], seed + member)
        weights |= weights_of(net, str(member))
    weights = {name: value.astype(np.float16).astype(np.float64) for name, value in weights.items()}
    weights |= {"mean": mean.astype(np.float64), "spread": spread.astype(np.float64)}
    found = [
        estimate.read_network(weights, features, int(scale))
        for features, scale in zip(examples.features[kept], scales[kept], strict=True)
    ]
    correlations = np.array(
        [
            np.clip(kernel_correlation(padded(one.mean_kernel(int(scale))), truth), 0, 1)
            for (one, _, _), scale, truth in zip(found, scales[kept], examples.kernels[kept], strict=True)
        ]
    )
    errors = np.array([error for _, error, _ in found])
    weights |= {"trust.mean": errors.mean(axis=0), "trust.spread": errors.std(axis=0) + 1e-2}
    shown = np.clip((errors - weights["trust.mean"]) / weights["trust.spread"], -4, 4)
    trust = fit_trust(shown.astype(np.float32), correlations.astype(np.float32), seed)
    weights |= weights_of(trust, "trust")
    for place, family in enumerate(FAMILIES):
        chosen = families[kept] == place
        right = np.mean([found[at][0].family == family for at in np.flatnonzero(chosen)])
        line = np.percentile(correlations[chosen], [50, 10, 0])
        print(
            f"{family}: {chosen.sum()} kept, family right {right:.2f}, correlation median {line[0]:.4f}, "
            f"tenth {line[1]:.4f}, worst {line[2]:.3f}, mean {correlations[chosen].mean():.4f}"
        )
    return weights


def save(weights: dict[str, Floats], output: Path) -> None:
    """float32 for what features and errors are scaled by, float16 for the rest."""
    exact = ("mean", "spread", "trust.mean", "trust.spread")
    np.savez_compressed(output, **{n: v.astype(np.float32 if n in exact else np.float16) for n, v in weights.items()})
    print(output, output.stat().st_size, "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs=4, action="append", required=True)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lumas, names = read_lumas(given.pictures)
    examples = made_examples(lumas, names, given.count, np.random.default_rng(given.seed))
    save(fitted(examples, given.seed), given.output)


if __name__ == "__main__":
    main()
