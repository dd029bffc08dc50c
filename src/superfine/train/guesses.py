"""Runs that learn how far a network's enlargements are off: what they learn from, and what judges them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from superfine.classical.kernels import resampler_kernel
from superfine.color import full_luma, to_kind, to_unit
from superfine.engine import Engine, open_engine
from superfine.errors import TrainingError
from superfine.evaluate.intervals import fitted_table, guessed, interval_figures
from superfine.evaluate.methods import enlarged
from superfine.evaluate.pairs import Bytes, Pair
from superfine.guess import GUESS_OCTAVES, LEAST_GUESS, Calibration, to_record
from superfine.models import Model, find_model, with_card
from superfine.train.config import TrainConfig
from superfine.train.data import Batch, open_data, whole_pairs
from superfine.train.losses import reduced
from superfine.train.nets import NETS
from superfine.train.nets.layers import Net
from superfine.train.pretrained import load_pretrained
from superfine.train.score import TorchEngine

__all__ = ["ExpectedError", "Judged", "absolute_error", "calibrated", "error_pairs", "open_judged", "with_grain"]

Array = npt.NDArray[np.generic]

_SHARE: Final = 0.9
# What the interpolation of a camera's colours does to noise, about: binomial.
_SOFT: Final = torch.tensor([[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]) / 16
_DEGRADATION: Final = "clean pictures of 8 bits, made small by MATLAB's bicubic"


class Judged(NamedTuple):
    """A net whose errors are learned, and its name in the table of nets."""

    net: Net
    name: str


def open_judged(config: TrainConfig) -> Judged:
    """The net whose errors `config` learns, frozen. Raises TrainingError where it is of another scale or colour."""
    if config.guess is None:
        raise TrainingError("the recipe has no [guess], which says whose errors are learned")
    found = load_pretrained(config.guess.errors_of)
    judged = found.build()
    if judged.scale != config.scale or judged.colour != NETS[config.net].colour or judged.frames != 1:
        raise TrainingError(
            f"guess.errors_of = {config.guess.errors_of}: {config.net} x{config.scale} can't learn its errors, of"
            f" {judged.colour} and x{judged.scale}"
        )
    return Judged(judged.requires_grad_(False).eval(), found.net)


@torch.no_grad()
def absolute_error(judged: Any, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    """|judged(small) - large|, clipped to 0..1 as a file would be: (N, C, s*h, s*w)."""
    made: torch.Tensor = judged(small).float().clamp(0, 1)
    return (made - large).abs()


def with_grain(batch: Batch, config: TrainConfig, step: int, part: slice) -> Batch:
    """`batch` with noise in half of its large patches, as the recipe's `guess.grain` says, and what it is made small.

    White, or blurred a little as cameras do. A pure function of the seed, the step, and which part of the step's batch
    `batch` is.
    """
    if config.guess is None or not config.guess.grain:
        return batch
    draw = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    count = config.stage_at(step).batch
    octaves, white, noisy = torch.rand(3, count, 1, 1, 1, generator=draw)[:, part]
    sigma = config.guess.grain * torch.exp2(-5 * octaves) * (noisy < 0.5) / 255
    noise = torch.randn(count, *batch.large.shape[1:], generator=draw)[part]
    noise = torch.where(white < 0.5, noise, reduced(noise, _SOFT / _SOFT.square().sum().sqrt(), 1))
    noise = (noise * sigma).to(batch.large.device)
    kernel = torch.from_numpy(resampler_kernel(4 * config.scale - config.scale % 2, config.scale, "bicubic"))
    small = batch.small + reduced(noise, kernel.float()[None].to(noise.device), config.scale)
    return Batch(small.clamp(0, 1), (batch.large + noise).clamp(0, 1))


class ExpectedError:
    """A guess network's engine, decoded: (1, h, w, 3) float32 -> the error b that it expects, (s*h, s*w, 3)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.scale, self.halo = engine.scale, engine.halo
        self.multiple_of, self.frames = engine.multiple_of, engine.frames

    def __call__(self, pixels: Array) -> Array:
        coded = to_unit(self._engine(pixels))
        return cast(Array, LEAST_GUESS * np.exp2(coded * np.float32(GUESS_OCTAVES)))


def error_pairs(pairs: Iterable[Pair], config: TrainConfig) -> Iterator[Pair]:
    """The same small pictures, each with the absolute error of luma that the judged net makes, as grey float32.

    What it makes is taken as 8 bits, as a file would hold it.
    """
    judged = open_judged(config)
    engine = TorchEngine(judged.net, NETS[judged.name])
    for pair in pairs:
        made = to_kind(to_unit(enlarged(engine, to_unit(pair.small))), np.dtype(np.uint8))
        error = np.abs(full_luma(to_unit(made)) - full_luma(to_unit(pair.large)))
        yield pair._replace(large=cast(Bytes, np.repeat(error[..., None], 3, axis=2)))


def calibrated(model: Model, config: TrainConfig, root: Path | None, run: Path) -> Model:
    """An exported guess network with intervals on its card, for each network that the recipe names.

    Every second of the run's held-out pictures, from the first by name, calibrates, and the others test. root: the
    folder that holds the recipe's folders. Raises TrainingError where it or the pictures are missing.
    """
    if config.guess is None or root is None:
        raise TrainingError(f"{run}: learned errors, and its intervals are calibrated on pictures; --data names them")
    pairs = list(whole_pairs(open_data(config, root, run).validation, config))
    if len(pairs) < 2:
        raise TrainingError(f"{run}: holds out {len(pairs)} pictures, and calibration wants two or more; data.hold_out")
    folders = sorted({pair.name.split("/")[0] for pair in pairs})
    words = f"{len(pairs[::2])} of {', '.join(folders)} that the guess network didn't see"
    guess, networks = open_engine(model, precision="fp32"), {}
    for name in config.guess.networks:
        (found,) = find_model(name)
        engine = open_engine(found)
        table = fitted_table(list(guessed(pairs[::2], engine, guess)), _SHARE)
        calibration = Calibration(
            found.card.name, found.sha256, _SHARE, _DEGRADATION, words, table.codes, table.half_widths, {}
        )
        figures = interval_figures(list(guessed(pairs[1::2], engine, guess)), calibration)
        networks[found.card.name] = to_record(replace(calibration, tested=figures))
    given = {"share": _SHARE, "degradation": _DEGRADATION, "pictures": words, "networks": networks}
    card = replace(model.card, calibration=given)
    return Model(card, with_card(model.content, card), model.source)
