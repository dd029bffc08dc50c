"""Fidelity: what the tables of docs/fidelity.md say of a folder of pictures.

    python benchmarks/fidelity.py FOLDER [FOLDER ...] [--runs 3]

Of each folder's pictures, made small by MATLAB's bicubic, and for each scale that `balanced` has:

- consistency: PSNR in dB (Y, a border as wide as the scale left out, means) without and with `--consistent bicubic`,
  and how many samples of how many were missed;
- guess map: coverage of the 90 % intervals over all pixels, the least and the most of a single picture, AUSE, and AUSE
  of the best blurred gradient;
- cost: seconds a megapixel of the source for the network alone in each precision that is native here, and for
  consistency on top of it, interleaved, each picture's least of some runs, medians over the pictures; once of the
  small pictures, and once of the folder's own as they are, which are sharper and harder to be consistent with.

Prints Markdown.
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superfine import upscale
from superfine.classical.reduction import reduction
from superfine.color import limited_luma, to_unit
from superfine.engine import Precision, cores, cpu_features, open_engine
from superfine.evaluate.intervals import ause, best_blur, coverage, guessed
from superfine.evaluate.metrics import crop_border, psnr
from superfine.evaluate.pairs import Pair, open_dataset
from superfine.fidelity import Tally, consistent_bands
from superfine.guess import calibrations
from superfine.models import find_model, list_guesses
from superfine.route import Job, Route, Workshops

Array = npt.NDArray[Any]

_MODEL = "balanced"
_SCALES = (2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    print(f"{cpu_features()['name']}, {cores()} cores; `{_MODEL}`, LR by MATLAB's bicubic")
    for folder in given.folders:
        sets = {scale: open_dataset(folder, scale) for scale in _SCALES}
        data = {scale: [found.pair(place) for place in range(len(found))] for scale, found in sets.items()}
        consistency(folder.name, data)
        guess_maps(folder.name, data)
        cost(folder.name, data, given.runs)


def consistency(name: str, data: dict[int, list[Pair]]) -> None:
    """PSNR without and with, and misses."""
    print(f"\n| {name} | without | --consistent bicubic | missed |\n|---|---|---|---|")
    for scale, pairs in data.items():
        plain: list[float] = []
        made: list[float] = []
        missed = samples = 0
        for pair in pairs:
            for figures, operator in ((plain, None), (made, "bicubic")):
                large = upscale(pair.small, scale, model=_MODEL, consistent=operator)
                figures.append(luma_psnr(large, pair.large, scale))
            again = reduction("bicubic", scale)(large.astype(np.float64))
            missed += int(np.count_nonzero(np.abs(again - pair.small) > 0.5 + 1e-3))
            samples += again.size
        print(f"| x{scale} | {np.mean(plain):.3f} | {np.mean(made):.3f} | {missed} of {samples:,} |")


def luma_psnr(made: Array, truth: Array, scale: int) -> float:
    """In dB, as `superfine evaluate` judges."""
    first, second = (crop_border(limited_luma(to_unit(pixels)), scale) for pixels in (made, truth))
    return psnr(first, second)


def guess_maps(name: str, data: dict[int, list[Pair]]) -> None:
    """Whether intervals keep their promise, and how well they find errors."""
    print(f"\n| {name} | covered | single pictures | AUSE | of the best blurred gradient |\n|---|---|---|---|---|")
    guesses = {model.card.scale: model for model in list_guesses()}
    for scale, pairs in data.items():
        (network,) = find_model(f"{_MODEL}-x{scale}")
        (known,) = (each for each in calibrations(guesses[scale]) if each.sha256 == network.sha256)
        found = list(guessed(pairs, open_engine(network), open_engine(guesses[scale], precision="fp32")))
        single = [coverage(each.errors, known.half_widths_of(each.codes)) for each in found]
        share = np.average(single, weights=[each.errors.size for each in found])
        area = np.mean([ause(each.errors, each.codes) for each in found])
        sigma, rival = best_blur(found)
        print(
            f"| x{scale} | {share:.1%} | {min(single):.0%} to {max(single):.0%} | {area:.3f}"
            f" | {rival:.3f} (sigma {sigma:g} px) |"
        )


@dataclass(frozen=True)
class Work:
    """A picture that is enlarged, and what is timed of it."""

    picture: Array
    steps: dict[str, Callable[[], object]]


def cost(name: str, data: dict[int, list[Pair]], runs: int) -> None:
    """Seconds a megapixel of the source."""
    precisions: tuple[Precision, ...] = ("bf16", "fp32") if "BF16" in cpu_features()["native precisions"] else ("fp32",)
    print(f"\n| s per Mpx | {' | '.join(precisions)} | consistency on top |\n|---|{'---|' * (len(precisions) + 1)}")
    for scale in (min(_SCALES), max(_SCALES)):
        small = [pair.small for pair in data[scale]]
        for words, pictures in (("made small", small), ("as they are", [pair.large for pair in data[scale]])):
            figures: dict[str, list[float]] = {}
            for work in works(pictures, scale, precisions):
                for step, seconds in least(work.steps, runs).items():
                    figures.setdefault(step, []).append(seconds / (work.picture[..., 0].size / 1e6))
            columns = " | ".join(f"{statistics.median(seconds):.2f}" for seconds in figures.values())
            print(f"| {name} {words}, x{scale} | {columns} |", flush=True)


def works(pictures: list[Array], scale: int, precisions: tuple[Precision, ...]) -> Iterator[Work]:
    """Each with the network in each precision, and the projection of what it makes."""
    shops = {each: Workshops(Job(model=_MODEL, scale=scale, precision=each)).suited(None)[0] for each in precisions}
    for picture in pictures:
        target = (scale * picture.shape[0], scale * picture.shape[1])
        routes = {
            each: shop.route(picture.shape, picture.dtype, target, np.dtype("f4")) for each, shop in shops.items()
        }
        large = enlarged(routes[precisions[0]], picture)
        steps: dict[str, Callable[[], object]] = {
            each: partial(enlarged, route, picture) for each, route in routes.items()
        }
        yield Work(picture, {**steps, "consistency": partial(projected, large, picture, scale)})


def enlarged(route: Route, picture: Array) -> Array:
    """What the network makes of a whole picture, in float32."""
    return np.concatenate(list(route.bands(picture.shape, [picture])))


def projected(large: Array, picture: Array, scale: int) -> None:
    """All of it, and the figure."""
    operator = reduction("bicubic", scale)
    deque(consistent_bands([large], [picture], picture.shape, operator, picture.dtype, Tally()), maxlen=0)


def least(steps: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The least seconds of each, interleaved; the first turn only warms."""
    seconds: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(runs + 1):
        for step, run in steps.items():
            started = time.perf_counter()
            run()
            seconds[step].append(time.perf_counter() - started)
    return {step: min(taken[1:]) for step, taken in seconds.items()}


if __name__ == "__main__":
    main()
