"""Whether intervals keep what they promise, and how well a map of doubt finds the errors.

    pairs + network + guess network -> errors and codes -> a table from code to half-width -> coverage, AUSE

Errors are absolute differences of full-range luma between what a file would hold and the truth, in 8-bit levels.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.color import full_luma, to_unit
from superfine.engine import Engine
from superfine.errors import ShapeError
from superfine.evaluate.methods import enlarged
from superfine.evaluate.pairs import Pair
from superfine.guess import Calibration, half_widths

__all__ = [
    "SIGMAS",
    "Guessed",
    "Table",
    "ause",
    "best_blur",
    "blurred_gradient",
    "coverage",
    "fitted_table",
    "guessed",
    "interval_figures",
    "sparsification",
]

Floats = npt.NDArray[np.floating]

#: Blurs that the gradient's magnitude may choose from, sigma in pixels of the large picture.
SIGMAS: Final = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
_STEPS: Final = 100
# Where bins end, in shares of all pixels: alike in the middle, finer where errors are large.
_EDGES: Final = (*(place / 24 for place in range(24)), 0.98, 0.99, 0.995, 0.998, 1.0)
# Half-widths are stored in so many parts of a level, so none is smaller.
_LEAST: Final = 1 / 256


class Guessed(NamedTuple):
    """One picture: what a guess network says of it, and how far a network was off. All (H, W) float32."""

    codes: Floats
    """0..1, as `guess.GUESS_OCTAVES` says."""
    errors: Floats
    """In 8-bit levels of luma."""
    luma: Floats
    """Of what the network made, 0..1."""


class Table(NamedTuple):
    """From the code of an expected error to the half-width of an interval, both rising; (n,) each."""

    codes: Floats
    half_widths: Floats
    """In 8-bit levels."""


def coverage(errors: Floats, half_width: Floats) -> float:
    """The share of absolute errors that lie within their half-widths; both of one shape and unit.

    Raises ShapeError where the shapes differ or hold nothing.
    """
    if errors.shape != half_width.shape or not errors.size:
        raise ShapeError(f"want errors and half-widths of one shape, got {errors.shape} and {half_width.shape}")
    return float(np.mean(errors <= half_width))


def sparsification(errors: Floats, doubt: Floats, steps: int = _STEPS) -> Floats:
    """The mean absolute error of what is left without the most doubtful k/steps of all pixels, over the whole's.

    errors, doubt: of one shape; k runs from 0 to steps - 1, so that the first of the (steps,) is one. Of equal doubts
    the first goes first. Zeros where nothing is off. Raises ShapeError where shapes differ, or with fewer pixels.
    Source: Ilg et al. 2018, arXiv:1802.07095, 4.
    """
    if errors.shape != doubt.shape or errors.size < steps:
        raise ShapeError(f"want errors and doubts of one shape, {steps} or more, got {errors.shape} and {doubt.shape}")
    order = np.argsort(-doubt, axis=None, kind="stable")
    gone = np.concatenate([[0.0], np.cumsum(errors.ravel()[order], dtype=np.float64)])
    count = errors.size
    left_out = np.arange(steps) * count // steps
    if gone[-1] == 0:
        return np.zeros(steps)
    curve: Floats = np.maximum(gone[-1] - gone[left_out], 0) / (count - left_out) / (gone[-1] / count)
    return curve


def ause(errors: Floats, doubt: Floats, steps: int = _STEPS) -> float:
    """Area between the sparsification curves of `doubt` and of the errors themselves; 0 is perfect.

    Mean absolute error, over the whole picture's, `steps` steps. Raises ShapeError as `sparsification`.
    Source: Ilg et al. 2018, arXiv:1802.07095, 4.
    """
    return _area_above(sparsification(errors, errors, steps), errors, doubt)


def _area_above(oracle: Floats, errors: Floats, doubt: Floats) -> float:
    """`ause`, where the errors' own curve is known."""
    return float(np.mean(sparsification(errors, doubt, len(oracle)) - oracle))


def blurred_gradient(luma: Floats, sigma: float) -> Floats:
    """What needs no network to doubt: the gradient's magnitude, (H, W) -> (H, W), blurred by a Gaussian.

    Central differences, one-sided at borders; sigma in pixels, 0 blurs nothing; borders replicated, cut at 4 sigma.
    Raises ShapeError below 2 px a side.
    """
    if luma.ndim != 2 or min(luma.shape) < 2:
        raise ShapeError(f"want (H, W) of 2 px a side or more, got {luma.shape}")
    magnitude: Floats = np.hypot(*np.gradient(luma.astype(np.float64)))
    if sigma == 0:
        return magnitude
    radius = math.ceil(4 * sigma)
    weights = np.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    weights /= weights.sum()
    for axis in (0, 1):
        count = magnitude.shape[axis]
        wide = np.pad(magnitude, [(radius, radius) if place == axis else (0, 0) for place in (0, 1)], mode="edge")
        parts = (weight * np.take(wide, range(at, at + count), axis) for at, weight in enumerate(weights.tolist()))
        magnitude = sum(parts, np.zeros_like(magnitude))
    return magnitude


def best_blur(pictures: Sequence[Guessed], sigmas: Sequence[float] = SIGMAS) -> tuple[float, float]:
    """The sigma whose blurred gradient has the least mean AUSE over `pictures`, and that AUSE."""
    areas = []
    for each in pictures:
        oracle = sparsification(each.errors, each.errors)
        areas.append([_area_above(oracle, each.errors, blurred_gradient(each.luma, sigma)) for sigma in sigmas])
    means = np.mean(areas, axis=0)
    best = int(np.argmin(means))
    return sigmas[best], float(means[best])


def guessed(pairs: Iterable[Pair], network: Engine, guess: Engine) -> Iterator[Guessed]:
    """What `network` makes of each small picture, how far it is off, and what `guess` says of it."""
    for pair in pairs:
        made: Any = enlarged(network, pair.small)
        luma, truth = (full_luma(to_unit(pixels)) for pixels in (made, pair.large))
        codes: Any = enlarged(guess, to_unit(pair.small))
        yield Guessed(codes[..., 0], np.abs(luma - truth) * np.float32(255), luma)


def fitted_table(pictures: Sequence[Guessed], share: float) -> Table:
    """Half-widths that hold `share` of the errors of `pictures`, for each code: split conformal prediction.

    In bins of codes the share's quantile of the errors, corrected for finite samples; made to rise with the code; then
    all scaled alike until the share, and a standard error of it over the pictures, is held over all pixels together. At
    least 1/256 of a level. Raises ShapeError without pictures.
    Sources: Vovk et al. 2005, doi:10.1007/b106715; Angelopoulos and Bates 2021, arXiv:2107.07511, 2.
    """
    if not pictures:
        raise ShapeError("no picture to calibrate on; hold some out")
    codes = np.concatenate([each.codes.ravel() for each in pictures])
    errors = np.concatenate([each.errors.ravel() for each in pictures])
    order = np.argsort(codes, kind="stable")
    codes, errors = codes[order], errors[order]
    ends = np.unique(np.rint(np.array(_EDGES) * codes.size).astype(np.int64))
    bins = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    centres = np.array([float(np.median(codes[start:stop])) for start, stop in bins])
    widths = np.array([_quantile(errors[start:stop], share) for start, stop in bins])
    rising = _isotonic(np.log2(np.maximum(widths, _LEAST)), np.diff(ends))
    distinct = np.concatenate([[True], np.diff(centres) > 0])
    table = Table(centres[distinct], np.exp2(rising[distinct]))
    rough = errors / half_widths(codes, table.codes, table.half_widths)
    factor = _quantile(rough, share)
    single = [coverage(each.errors, factor * half_widths(each.codes, *table)) for each in pictures]
    # Pictures are the sample here, and pixels of one aren't independent.
    doubt = float(np.std(single, ddof=1)) / math.sqrt(len(single)) if len(single) > 1 else 0.0
    factor = _quantile(rough, min(share + doubt, 1.0))
    return Table(table.codes, np.maximum(table.half_widths * factor, _LEAST))


def _quantile(values: Floats, share: float) -> float:
    """The ceil((n + 1) * share)-th smallest of n."""
    place = min(math.ceil((values.size + 1) * share), values.size) - 1
    return float(np.partition(values, place)[place])


def _isotonic(values: Floats, weights: npt.NDArray[np.integer]) -> Floats:
    """The rising sequence nearest to `values` in weighted least squares: pool adjacent violators.

    Source: Barlow et al. 1972, Statistical Inference under Order Restrictions.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (mean, mass, count), (left, left_mass, left_count) = blocks.pop(), blocks.pop()
            total = mass + left_mass
            blocks.append(((mean * mass + left * left_mass) / total, total, count + left_count))
    return np.concatenate([np.full(count, mean) for mean, _, count in blocks])


def interval_figures(pictures: Sequence[Guessed], calibration: Calibration) -> dict[str, float]:
    """Figures of a calibration on `pictures` that took no part in it.

    coverage over all their pixels; the least and the most that 95 % of the single pictures have at their own; share of
    pictures within 0.75 to 0.99; mean half-width in levels; AUSE of the guess and of the best blurred gradient, and its
    sigma.
    """
    widths = [calibration.half_widths_of(each.codes) for each in pictures]
    single = np.array([coverage(each.errors, width) for each, width in zip(pictures, widths, strict=True)])
    sizes = np.array([width.size for width in widths], np.float64)
    sigma, rival = best_blur(pictures)
    low, high = np.quantile(single, [0.025, 0.975])
    return {
        "pictures": len(pictures),
        "coverage": float(single @ sizes / sizes.sum()),
        "coverage_from": float(low),
        "coverage_to": float(high),
        "within_75_to_99": float(np.mean((single >= 0.75) & (single <= 0.99))),
        "mean_half_width": float(sum(float(width.sum(dtype=np.float64)) for width in widths) / sizes.sum()),
        "ause": float(np.mean([ause(each.errors, each.codes) for each in pictures])),
        "ause_gradient": rival,
        "gradient_sigma": sigma,
    }
