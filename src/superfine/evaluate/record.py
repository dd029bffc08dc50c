"""Figures with their protocol: of one picture, of a data set, and whether they have fallen since."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["AS_IS", "Failure", "Figures", "Measurement", "Row", "regressions"]

#: The row of same-size pairs that shows LR unchanged.
AS_IS: Final = "LR as it is"


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


@dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """One picture by one method."""

    dataset: str
    picture: str
    model: str
    error_y: float
    """Sum of squared differences over `samples`, white at 1."""
    error_rgb: float
    """The same over three times as many."""
    samples: int
    """Pixels compared."""
    pixels: int
    """Of the small picture."""
    seconds: float


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


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What couldn't be judged, and why."""

    name: str
    reason: str


def regressions(
    now: Sequence[Row], before: Sequence[Row], *, decibels: float = 0.02, ssim: float = 0.0005
) -> tuple[list[str], list[str]]:
    """Which figures fell by more than the tolerance, and which rows of `before` have no like now; in words.

    Rows are alike in data set, model, scale, pictures and protocol. decibels: the
    tolerance of mean and pooled PSNR; ssim: that of SSIM. A figure that isn't a number any more has fallen.
    """
    present = {_key(row): row for row in now}
    fallen, missing = [], []
    for old in before:
        new = present.get(_key(old))
        where = f"{old.dataset} x{old.scale}, {old.model}"
        if new is None:
            missing.append(f"{where} ({old.pictures} pictures; {old.protocol_y})")
            continue
        for name in ("psnr_y", "psnr_rgb", "pooled_y", "pooled_rgb", "ssim_y", "ssim_rgb"):
            was, is_now = getattr(old, name), getattr(new, name)
            tolerance = ssim if name.startswith("ssim") else decibels
            # Written so that NaN where there was a number counts as fallen, and infinity equals itself.
            if not (math.isnan(was) or is_now >= was - tolerance):
                words = name.replace("_", " of ").replace("psnr", "PSNR").replace("ssim", "SSIM")
                protocol = old.protocol_rgb if name.endswith("rgb") else old.protocol_y
                fallen.append(f"{where}: {words} fell from {was:.4f} to {is_now:.4f} ({protocol})")
    return fallen, missing


def _key(row: Row) -> tuple[object, ...]:
    return row.dataset, row.model, row.scale, row.pictures, row.protocol_y, row.protocol_rgb
