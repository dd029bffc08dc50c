"""Whether a picture was enlarged before, and how many times: the rhythm that resampling leaves.

A resampler smooths each pixel as far as it lies from the old ones, so that the mean size
of differences between neighbours repeats as the old grid does, once in `factor` pixels:
a line in the spectrum of that mean, at the same place along both axes. A line at
frequency f speaks for 1 / f and for 1 / (1 - f) alike; which of the two it is shows the
picture's own spectrum, which is mirrored where the old picture's ended.
Sources: Gallagher 2005, doi:10.1109/CRV.2005.33; Mahdian and Saic 2008, doi:10.1109/TIFS.2008.924603.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["EnlargementTrace", "find_enlargement"]

Floats = npt.NDArray[np.floating]

_SMALLEST: Final = 64
_LENGTH: Final = 4096
# Rhythms below this are the picture's own; it is also the least and the most enlargement that can be seen.
_LEAST: Final = 0.09
_WINDOW: Final = 64
_MOST: Final = 8.0
_HEARD: Final = 10.0
# How near two frequencies may be, in cycles a pixel, and in cycles a window of fewer than 250 pixels.
_APART, _APART_A_WINDOW = 0.006, 1.5
# Smaller differences are rounding's, larger ones would drown the rest.
_FAINT, _LARGE = 0.5, 30.0
# Power below that of rounding tells nothing.
_FLOOR: Final = 0.04


@dataclass(frozen=True)
class EnlargementTrace:
    """The strongest rhythm in a picture."""

    factor: float
    """How many times each side was enlarged, where it was."""
    line: float
    """Power of the rhythm over what is usual around it, the weaker of both axes; chance rarely passes 20."""
    coherence: float
    """How far the content above the end of the old picture's spectrum follows that below it, 0..1."""
    lead: float
    """By how much more coherent it is than for the other factor that has the same rhythm."""


def find_enlargement(planes: Sequence[Floats], *, without: Sequence[float] = ()) -> EnlargementTrace | None:
    """The rhythm of earlier resampling; None where all planes are smaller than 64 x 64 or flat.

    planes: each (H, W), luma in 8-bit levels. Unequal enlargement of the sides isn't seen.
    without: frequencies in cycles a pixel that something else has, as a JPEG's grid has multiples of 1/8.
    """
    planes = [plane for plane in planes if min(plane.shape) >= _SMALLEST]
    if not planes:
        return None
    axes = [_rhythm([plane if axis else plane.T for plane in planes]) for axis in (0, 1)]
    both = np.minimum(*axes)
    frequency = np.arange(len(both)) / _LENGTH
    both[frequency < _LEAST] = 0
    apart = max(_APART, _APART_A_WINDOW / min(min(plane.shape) for plane in planes))
    for other in without:
        both[np.abs(frequency - other) < apart] = 0
    place = int(both.argmax())
    if both[place] <= 0:
        return None
    period = max(2.0, 1 / _between(both, place))
    mirrored = {factor: _coherence(planes, factor) for factor in _candidates(both, period)}
    factor = max(mirrored, key=lambda each: mirrored[each])
    others = [value for each, value in mirrored.items() if abs(each / factor - 1) > 0.05]
    lead = mirrored[factor] - max(others, default=0.0)
    return EnlargementTrace(factor, float(both[place]), mirrored[factor], lead)


def _rhythm(planes: Sequence[Floats]) -> Floats:
    """Power of the rhythm of differences along the rows, over what is usual at nearby frequencies: (frequencies,)."""
    total = np.zeros(_LENGTH // 2 + 1)
    for plane in planes:
        for order in (1, 2):
            size = np.abs(np.diff(plane, order, axis=1))
            mean = np.log(np.minimum(size, _LARGE) + _FAINT).mean(axis=0)
            mean = mean - np.convolve(np.pad(mean, 8, mode="edge"), np.full(17, 1 / 17), "valid")
            mean *= np.hanning(len(mean))
            total += np.abs(np.fft.rfft(mean, _LENGTH)) ** 2
    reach = _LENGTH // 16
    around = np.pad(total, reach, mode="reflect")
    usual = np.median(sliding_window_view(around, 2 * reach + 1)[::16], axis=1)
    usual = np.interp(np.arange(len(total)), np.arange(0, len(total), 16), usual)
    rhythm: Floats = total / np.maximum(usual, 1e-9 * max(total.max(), 1e-30))
    return rhythm


def _candidates(line: Floats, period: float) -> list[float]:
    """The factors that a rhythm may come from: its own, its alias's, and those whose first overtone it is."""
    factors = [factor for factor in (period, period / (period - 1)) if factor <= _MOST]
    for factor in (2 * period, 2 * period / (period - 1)):
        place = round(_LENGTH / factor)
        if factor <= _MOST and line[max(0, place - 4) : place + 5].max() >= _HEARD:
            factors.append(factor)
    return factors


def _between(line: Floats, place: int) -> float:
    """The frequency of a peak, between two samples."""
    if 0 < place < len(line) - 1:
        before, here, after = np.sqrt(line[place - 1 : place + 2])
        bend = before - 2 * here + after
        if bend < 0:
            return (place + 0.5 * float((before - after) / bend)) / _LENGTH
    return place / _LENGTH


def _coherence(planes: Sequence[Floats], factor: float) -> float:
    """How far the content above the old picture's end follows that below it: 0..1, the mean over frequencies.

    Resampling mirrors the old spectrum at 0.5 / factor: what lies at a frequency and at 1 / factor
    less it were one, and keep the same phase to each other along an edge of the picture.
    """
    end = 0.5 / factor
    above = np.linspace(1.06 * end, min(0.47, 1.7 * end), 12)
    below = 2 * end - above
    if above[-1] <= above[0]:
        return 0.0
    place = np.arange(_WINDOW)
    taper = np.hanning(_WINDOW + 2)[1:-1]
    waves = [
        (taper[:, None] * np.exp(-2j * np.pi * place[:, None] * part)).astype(np.complex64) for part in (above, below)
    ]
    together, powers = np.zeros(len(above)), np.zeros((2, len(above)))
    floor = _FLOOR * (taper**2).sum()
    for plane in planes:
        for lines in (plane, plane.T):
            for start in range(0, lines.shape[1] - _WINDOW + 1, _WINDOW // 2):
                part = lines[:, start : start + _WINDOW]
                part = part - part.mean(axis=1, keepdims=True)
                high, low = (part @ wave for wave in waves)
                size = np.sqrt((np.abs(high) ** 2 + floor) * (np.abs(low) ** 2 + floor))
                together += np.abs((high * low / size).mean(axis=0))
                powers += 1
    return float((together / powers[0]).mean())
