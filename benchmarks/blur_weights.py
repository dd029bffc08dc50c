"""The weights of the blur estimator, superfine/assets/blur.npz: pictures blurred by known Gaussians, then a fit.

    python benchmarks/blur_weights.py --pictures FOLDER FIRST LAST REDUCE ... [--output FILE] [--count 10000] [--seed 1]

Each `--pictures` takes the pictures [FIRST, LAST) of a folder by name, made REDUCE times as large (1 keeps them). They
should be sharp. The shipped weights: `--pictures cid22 0 150 1 --pictures clic2025 0 6 0.5`, 10,000 pictures, about ten
minutes on one core; the same seed and versions give the same weights. Prints what the network leaves unexplained
on a tenth of the pictures, which it wasn't fitted to.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from inspection import read_pictures

from superfine.blind.kernel import DIRECTIONS, OWN_VARIANCE, blur_features
from superfine.classical.degrade import blur, gaussian_kernel, jpeg
from superfine.classical.resample import resize
from superfine.color import full_luma

Floats = npt.NDArray[np.floating]
MEMBERS, HIDDEN, EPOCHS, BATCH = 3, 32, 60, 64
OUTPUT = Path(__file__).parents[1] / "src" / "superfine" / "assets" / "blur.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs=4, action="append", required=True)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = np.random.default_rng(given.seed)
    lumas = [full_luma(pixels.astype(np.float32)) for _, pixels in read_pictures(given.pictures)]
    lumas = [part for luma in lumas for part in parts(luma)]
    print(len(lumas), "pictures of at most 512 x 512")
    chosen = draw.integers(len(lumas), size=given.count)
    made = [example(lumas[place], draw) for place in chosen]
    features, variances = (np.array(column) for column in zip(*made, strict=True))
    widths = 0.5 * np.log(variances + OWN_VARIANCE)
    kept = chosen % 10 == 7
    mean, spread = features.mean(axis=(0, 1)), features.std(axis=(0, 1)) + 1e-3
    scaled = ((features - mean) / spread).astype(np.float32)
    for name, chosen_ones in (("nine tenths", ~kept), ("all", np.ones_like(kept))):
        nets = [fit(scaled[chosen_ones], widths[chosen_ones], given.seed + member) for member in range(MEMBERS)]
        if name != "all":
            with torch.no_grad():
                guess = np.mean([net(torch.tensor(scaled[kept]))[..., 0].numpy() for net in nets], axis=0)
            print(f"fitted to {name}: median error of a width on the rest {np.median(abs(guess - widths[kept])):.3f}")
    weights = {"mean": mean, "spread": spread, "members": np.array(MEMBERS)}
    for member, net in enumerate(nets):
        for layer in range(3):
            part = net[2 * layer]
            weights[f"{member}.{layer}.weight"] = part.weight.detach().numpy()
            weights[f"{member}.{layer}.bias"] = part.bias.detach().numpy()
    np.savez_compressed(given.output, **{name: value.astype(np.float32) for name, value in weights.items()})
    print(given.output, given.output.stat().st_size, "bytes")


def parts(luma: Floats) -> list[Floats]:
    """Squares of 512, side by side; a smaller picture is one itself."""
    rows, cols = (range(0, max(1, side - 511), 512) for side in luma.shape)
    return [luma[row : row + 512, col : col + 512] for row in rows for col in cols]


def example(luma: Floats, draw: np.random.Generator) -> tuple[Floats, Floats]:
    """Features (8, F) of a part of the picture made worse, and the variance (8,) of its blur in each direction."""
    if draw.random() < 0.5:  # a smaller picture is a sharper one
        factor = draw.uniform(0.5, 0.95)
        rows, cols = (round(side * factor) for side in luma.shape)
        luma = resize(luma, (rows, cols), "bicubic")
    side = int(draw.integers(256, 513))
    top, left = (int(draw.integers(0, max(1, have - side + 1))) for have in luma.shape)
    luma = luma[top : top + side, left : left + side]
    luma = luma[:, ::-1] if draw.random() < 0.5 else luma
    luma = luma.T if draw.random() < 0.5 else luma
    wide = narrow = angle = 0.0
    if (kind := draw.random()) >= 0.1:
        wide = narrow = float(np.exp(draw.uniform(np.log(0.35), np.log(4))))
        if kind < 0.55:
            narrow = float(np.clip(wide * np.exp(draw.uniform(-1.1, 1.1)), 0.35, 4.2))
            angle = draw.uniform(0, 180)
        luma = blur(np.ascontiguousarray(luma)[..., None], gaussian_kernel(wide, narrow, angle))[..., 0]
    if draw.random() < 0.4:
        contrast = draw.uniform(0.5, 1)
        luma = luma * contrast + draw.uniform(0, (1 - contrast) * 255)
    if draw.random() < 0.6:
        sigma = draw.uniform(0, 4 if draw.random() < 0.7 else 10)
        luma = luma + sigma * draw.standard_normal(luma.shape)
    stored = draw.random() < 0.2
    if stored or draw.random() < 0.3:
        luma = np.clip(np.rint(luma), 0, 255)
    else:  # three channels are rounded, each on its own
        luma = np.clip(luma + draw.uniform(-0.33, 0.33, luma.shape), 0, 255)
    if stored:
        grey = np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2)
        luma = jpeg(grey, int(draw.integers(55, 97)), "4:4:4")[..., 0]
    turned = np.radians(np.array(DIRECTIONS) - angle)
    variances = (wide * np.cos(turned)) ** 2 + (narrow * np.sin(turned)) ** 2
    return blur_features([luma.astype(np.float32)]), variances


def fit(features: Floats, widths: Floats, seed: int) -> torch.nn.Sequential:
    """A network that gives each width and the logarithm of its standard deviation."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(features.shape[-1], HIDDEN),
        torch.nn.SiLU(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.SiLU(),
        torch.nn.Linear(HIDDEN, 2),
    )
    given, wanted = torch.tensor(features), torch.tensor(widths, dtype=torch.float32)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-3)
    batches = len(given) // BATCH
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        order = torch.randperm(len(given))
        for batch in order[: batches * BATCH].split(BATCH):
            made = net(given[batch] + 0.03 * torch.randn_like(given[batch]))
            spread = made[..., 1].clamp(-5, 2)
            apart = made[..., 0] - wanted[batch]
            loss = (0.5 * (apart * torch.exp(-spread)) ** 2 + spread + 0.2 * apart.abs()).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    return net


if __name__ == "__main__":
    main()
