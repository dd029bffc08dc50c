"""Figures with their protocol: of one picture or frame, of a data set, and whether they have fallen since."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from superfine.errors import UsageError

__all__ = ["AS_IS", "Failure", "Figures", "Gate", "Measurement", "Row", "UsedKernel", "plain", "regressions"]

#: The row of same-size pairs that shows LR unchanged.
AS_IS: Final = "LR as it is"
_WORDS: Final = {
    "psnr_y": "PSNR of Y",
    "psnr_rgb": "PSNR of RGB",
    "pooled_y": "pooled PSNR of Y",
    "pooled_rgb": "pooled PSNR of RGB",
    "ssim_y": "SSIM of Y",
    "ssim_rgb": "SSIM of RGB",
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """PSNR in dB, infinite for equal pictures; SSIM up to 1, NaN where a picture is too small for its window."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    """Mean of the three channels'."""
    distances: Mapping[str, float] = field(default_factory=dict)
    """Perceptual distances, by name."""
    flicker: float = math.nan
    """Of a clip's frame after the one before it, in grey levels, as in `flicker`; NaN where nothing can be compared."""
    excess_flicker: float = math.nan
    """Of how its error changes, as in `flicker`; 0 for the true clip."""
    true_flicker: float = math.nan
    """Of the true clip: what flickers though nothing was enlarged."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """One picture by one method."""

    dataset: str
    picture: str
    model: str
    error_y: float
    """Sum of squared differences of Y over `samples` pixels, white at 1."""
    error_rgb: float
    """The same of R, G and B together: over three times as many samples."""
    samples: int
    """Pixels compared."""
    pixels: int
    """Of the small picture."""
    seconds: float
    kernel_correlation: float | None = None
    """Of the kernel that the method found with the true one: `kernels.kernel_correlation`; None without either."""


@dataclass(frozen=True, kw_only=True)
class Row(Figures):
    """One method on one data set; the figures are means over the pictures."""

    dataset: str
    model: str
    scale: int
    pictures: int
    protocol_y: str
    """Of PSNR and SSIM on luma: `Y601-limited, crop 2, matlab-bicubic`."""
    protocol_rgb: str
    pooled_y: float
    """PSNR of the mean squared error over all samples of all pictures."""
    pooled_rgb: float
    ms_per_mpx: float
    """Milliseconds for a million pixels of input, NaN where nothing was computed."""
    memory_mb: float
    """Peak of what the method held: the network, and what a picture took; NaN where the system doesn't say."""
    engine: str
    precision: str
    sha256: str
    parameters: int
    kernel_correlation: float | None = None
    """The median over the pictures, None where the method found no kernels."""
    unit: str = "picture"
    """What `pictures` counts: `frame` in a clip."""


@dataclass(frozen=True, kw_only=True)
class UsedKernel:
    """What a small picture was made by, so that anybody makes it again."""

    dataset: str
    picture: str
    scale: int
    weights: tuple[tuple[float, ...], ...]
    """Rows of the kernel as `classical.kernels` takes it."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What couldn't be judged, and why."""

    name: str
    reason: str


class Gate(NamedTuple):
    """What became of a baseline's figures."""

    fallen: list[str]
    """Figures that fell by more than the tolerance, in words."""
    compared: int
    """Rows that have their like."""
    gone: list[Row]
    """Rows of the baseline without their like now."""
    new: list[Row]
    """Rows of now without their like in the baseline: nothing guards them."""


def regressions(now: Sequence[Row], before: Sequence[Row], *, decibels: float = 0.02, ssim: float = 0.0005) -> Gate:
    """Hold rows against a baseline's.

    Rows are alike in data set, model, scale, pictures and protocol. decibels: the
    tolerance of mean and pooled PSNR; ssim: that of SSIM. A figure that isn't a number any more has fallen.
    Raises UsageError for a tolerance below 0 or none.
    """
    for name, tolerance in (("--tolerance", decibels), ("--ssim-tolerance", ssim)):
        if not (tolerance >= 0 and math.isfinite(tolerance)):
            raise UsageError(f"{name} {tolerance:g} is no tolerance; give 0 or more")
    present, old_keys = {_key(row): row for row in now}, {_key(row) for row in before}
    fallen: list[str] = []
    for old in before:
        if (new := present.get(_key(old))) is None:
            continue
        for name in ("psnr_y", "psnr_rgb", "pooled_y", "pooled_rgb", "ssim_y", "ssim_rgb"):
            was, is_now = getattr(old, name), getattr(new, name)
            tolerance = ssim if name.startswith("ssim") else decibels
            # Written so that NaN where there was a number counts as fallen, and infinity equals itself.
            if not (math.isnan(was) or is_now >= was - tolerance):
                protocol = old.protocol_rgb if name.endswith("rgb") else old.protocol_y
                fallen.append(
                    f"{old.dataset} x{old.scale}, {old.model}: {_WORDS[name]} fell from {was:.4f} to {is_now:.4f}"
                    f" ({protocol})"
                )
    gone = [row for row in before if _key(row) not in present]
    return Gate(fallen, len(before) - len(gone), gone, [row for row in now if _key(row) not in old_keys])


def _key(row: Row) -> tuple[object, ...]:
    return row.dataset, row.model, row.scale, row.pictures, row.protocol_y, row.protocol_rgb


def plain(value: Any) -> Any:
    """JSON has neither infinity nor NaN: the one is written as "inf", the other as null."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
