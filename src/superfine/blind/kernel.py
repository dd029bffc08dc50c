"""The blur of a picture, from its pixels alone: a Gaussian with two sigmas and an angle.

A blur of covariance C multiplies the power spectrum at frequency f by
exp(-4 pi^2 f'Cf), and widens an edge whose normal is u to u'Cu; photographs
before blur are alike enough in both that a small network can tell the width.
For each of eight directions it sees the spectrum's slice and how much edges fade when
blurred again (Zhuo and Sim 2011, doi:10.1016/j.patcog.2011.03.009), and gives the
width across with its own uncertainty; the covariance is fitted to the eight.
The network's weights come from benchmarks/blur_weights.py.

This file knows nothing but numpy, and is where estimates of whole kernels belong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

__all__ = [
    "DIRECTIONS",
    "OWN_VARIANCE",
    "Blur",
    "blur_features",
    "by_direction",
    "estimate_blur",
    "fit_covariance",
    "gaussian_filter",
    "gradient",
    "strongest_ridges",
]

Floats = npt.NDArray[np.floating]

#: Directions in which widths are measured, in degrees from the x axis, counter-clockwise as seen.
DIRECTIONS: Final = tuple(22.5 * step for step in range(8))

_WINDOW: Final = 64
_EDGES: Final = (0.025, 0.05, 0.075, 0.1, 0.13, 0.16, 0.2, 0.24, 0.28, 0.33, 0.38, 0.44, 0.5)
# Edges are seen at these sigmas, and how much they fade from one to the next is a feature.
_SCALES: Final = (0.6, 1.2, 2.4)
_SHARES: Final = (25.0, 50.0, 75.0, 90.0, 97.0)
_FEWEST_EDGES: Final = 12
# Power below that of rounding in three channels tells nothing.
_FLOOR: Final = 0.02
# Of several planes those with the steepest gradients show how sharp the picture is; the others may be out of focus.
_SHARPEST: Final = 3
#: Variance added to that of the blur, in square pixels, so that its logarithm has an end; it is about a pixel's own.
OWN_VARIANCE: Final = 0.0625
_NARROWEST: Final = 0.05


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur, in pixels; 0.05 stands for none."""

    wide: float
    """Sigma along the axis that is blurred most."""
    narrow: float
    """Sigma along the other."""
    angle: float
    """Of the wide axis, 0 to 180 degrees from the x axis, counter-clockwise as seen."""
    error: float
    """Expected error of `sigma` in pixels, one standard deviation."""

    @property
    def sigma(self) -> float:
        """Of the round Gaussian that covers as much: the geometric mean of both."""
        return float(np.sqrt(self.wide * self.narrow))

    @property
    def ratio(self) -> float:
        """How much wider than narrow, each with the width of a pixel, so that sharp pictures have 1."""
        own = OWN_VARIANCE
        return float(np.sqrt((self.wide**2 + own) / (self.narrow**2 + own)))


def estimate_blur(planes: Sequence[Floats]) -> Blur | None:
    """The Gaussian blur of a picture beyond the softness of a sharp photograph, or None where all planes are too small.

    planes: each (H, W), luma in 8-bit levels, parts of one picture of about 256 to 640 pixels a side; those below
    64 x 64 are left out. True for 0.3 to 4 px; wider blur is underestimated.
    """
    planes = [plane for plane in planes if min(plane.shape) >= _WINDOW]
    if len(planes) > _SHARPEST:
        planes = sorted(planes, key=_steepness)[-_SHARPEST:]
    features = blur_features(planes)
    if not len(features):
        return None
    widths, errors = _widths(features)
    covariance = fit_covariance(np.exp(2 * widths) - OWN_VARIANCE, 1 / (np.exp(2 * widths) * errors))
    variances, axes = np.linalg.eigh(covariance)
    narrow, wide = np.sqrt(np.maximum(variances, _NARROWEST**2))
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1])) % 180
    sigma = np.sqrt(wide * narrow)
    total = sigma**2 + OWN_VARIANCE
    error = np.sqrt(max(0.0, total * np.exp(2 * errors.mean()) - OWN_VARIANCE)) - sigma
    return Blur(float(wide), float(narrow), float(angle), float(error))


def fit_covariance(variances: Floats, weights: Floats) -> Floats:
    """The symmetric (2, 2) matrix, x before y (up), whose variances in `DIRECTIONS` are the nearest to those given.

    variances: (8,), in square pixels; weights: (8,), one over the standard deviation of each.
    """
    angle = np.radians(DIRECTIONS)
    terms = np.stack([np.cos(angle) ** 2, np.sin(angle) ** 2, 2 * np.sin(angle) * np.cos(angle)], axis=1)
    (across, up, both), *_ = np.linalg.lstsq(terms * weights[:, None], variances * weights)
    return np.array([[across, both], [both, up]])


def _widths(features: Floats) -> tuple[Floats, Floats]:
    """Half the logarithm of each direction's variance with a pixel's own, and its standard deviation: (8,), (8,)."""
    means, spreads = [], []
    weights = _network()
    scaled = (features - weights["mean"]) / weights["spread"]
    for member in range(int(weights["members"])):
        values = scaled
        for layer in range(3):
            values = values @ weights[f"{member}.{layer}.weight"].T + weights[f"{member}.{layer}.bias"]
            if layer < 2:
                values = values / (1 + np.exp(-np.clip(values, -60, 60)))  # SiLU
        means.append(values[:, 0])
        spreads.append(np.exp(np.clip(values[:, 1], -5, 2)))
    variance = np.mean(np.square(spreads), axis=0) + np.var(means, axis=0)
    return np.mean(means, axis=0), np.sqrt(variance)


@cache
def _network() -> dict[str, Floats]:
    file = files("superfine") / "assets" / "blur.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files}


def _steepness(plane: Floats) -> float:
    return float(np.mean(np.diff(plane, axis=0) ** 2) + np.mean(np.diff(plane, axis=1) ** 2))


def blur_features(planes: Sequence[Floats]) -> Floats:
    """What the network sees: (8, features), a row for each of `DIRECTIONS`; of no rows where all planes are too small.

    planes: each (H, W), luma in 8-bit levels; those below 64 x 64 are left out.
    """
    planes = [plane for plane in planes if min(plane.shape) >= _WINDOW]
    if not planes:
        return np.zeros((0, 0), np.float32)
    windows = np.concatenate([_windows(plane) for plane in planes])
    power = _power(windows)
    energy = power.sum(axis=1)
    strong = power[energy >= np.median(energy)]
    slices = _slices()  # (8 * bins, frequencies)
    mean = np.log(power.mean(axis=0) @ slices.T + _FLOOR).reshape(len(DIRECTIONS), -1)
    typical = np.log(strong @ slices.T + _FLOOR).mean(axis=0).reshape(len(DIRECTIONS), -1)
    fading = _fading(planes)
    level = np.array([row[:, :3].mean() for row in (mean, typical)])
    own = np.concatenate([mean - level[0], typical - level[1], fading], axis=1)
    shared = np.concatenate([own.mean(axis=0), level])
    features: Floats = np.concatenate([own, np.broadcast_to(shared, (len(own), len(shared)))], axis=1)
    return features.astype(np.float32)


def _windows(plane: Floats) -> Floats:
    """Overlapping squares of a plane: (count, 64, 64)."""
    return sliding_window_view(plane, (_WINDOW, _WINDOW))[:: _WINDOW // 2, :: _WINDOW // 2].reshape(
        -1, _WINDOW, _WINDOW
    )


def _power(windows: Floats) -> Floats:
    """Power spectra: (count, 64 * 33); white noise of variance v has the mean v."""
    taper = np.hanning(_WINDOW + 2)[1:-1].astype(np.float32)
    taper = np.outer(taper, taper)
    taper /= np.sqrt((taper**2).sum())
    spectra = []
    for part in np.array_split(windows, -(-len(windows) // 256)):  # a few at a time keeps memory small
        level = part - part.mean(axis=(1, 2), keepdims=True)
        spectrum = np.fft.rfft2(level * taper).reshape(len(part), -1)
        spectra.append(spectrum.real**2 + spectrum.imag**2)
    return np.concatenate(spectra)


@cache
def _slices() -> Floats:
    """The mean over each bin of radius in each direction, as a matrix: (8 * bins, 64 * 33)."""
    down, right = np.fft.fftfreq(_WINDOW)[:, None], np.fft.rfftfreq(_WINDOW)[None]
    radius = np.hypot(down, right)
    rows = []
    for angle in np.radians(DIRECTIONS):
        with np.errstate(invalid="ignore"):
            turned = np.where(radius > 0, (np.cos(angle) * right - np.sin(angle) * down) / radius, 0)
        for low, high in pairwise(_EDGES):
            weight = turned**8 * ((radius >= low) & (radius < high))
            rows.append((weight / weight.sum()).ravel())
    return np.array(rows, np.float32)


def _fading(planes: Sequence[Floats]) -> Floats:
    """How edges across each direction fade from scale to scale: (8, 2 * shares + 1)."""
    angles, ratios = (np.concatenate(part) for part in zip(*map(_edges, planes), strict=True))
    return by_direction(angles, ratios, DIRECTIONS, _FEWEST_EDGES)


def by_direction(angles: Floats, ratios: Floats, directions: Sequence[float], fewest: int) -> Floats:
    """How edges fade, by direction: percentiles of `ratios` and the count, (directions, ratios * shares + 1).

    angles: (edges,), of normals, in degrees; ratios: (edges, ratios). A direction with fewer than `fewest` edges
    within 15 degrees shows what all show.
    """
    table = np.zeros((len(directions), ratios.shape[1] * len(_SHARES) + 1), np.float32)
    whole = np.percentile(ratios, _SHARES, axis=0).T.ravel() if len(ratios) >= fewest else None
    for row, direction in zip(table, directions, strict=True):
        near = ratios[np.abs((angles - direction + 90) % 180 - 90) <= 15]
        row[-1] = np.log1p(len(near))
        if len(near) >= fewest:
            row[:-1] = np.percentile(near, _SHARES, axis=0).T.ravel()
        elif whole is not None:
            row[:-1] = whole
    return table


def _edges(plane: Floats) -> tuple[Floats, Floats]:
    """The strongest edges of a plane: the angles of their normals (count,), and the logarithms of ratios (count, 2)."""
    gradients = [gradient(gaussian_filter(plane, sigma)) for sigma in _SCALES]
    magnitudes = [np.hypot(down, right)[2:-2, 2:-2] for down, right in gradients]
    down, right = (part[2:-2, 2:-2] for part in gradients[1])
    angles, strong = strongest_ridges(down, right, magnitudes[1], 80)
    fine, middle_, coarse = (magnitude[1:-1, 1:-1][strong] for magnitude in magnitudes)
    ratios = np.stack([np.log((fine + 0.1) / (middle_ + 0.1)), np.log((middle_ + 0.1) / (coarse + 0.1))], axis=1)
    return angles[strong], ratios


def strongest_ridges(
    down: Floats, right: Floats, magnitude: Floats, percentile: float
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Angles of the gradient (down, right), in degrees, and where edges run that are steeper than `percentile` of all.

    Three arrays (H, W) give two of (H - 2, W - 2): the border has no neighbours.
    """
    inner = magnitude[1:-1, 1:-1]
    angles = np.degrees(np.arctan2(-down, right))[1:-1, 1:-1] % 180
    octant = np.round(angles / 45).astype(int) % 4
    # The ridge of an edge: no neighbour across is steeper.
    ridge = np.zeros(inner.shape, bool)
    rows, cols = inner.shape
    for turn, (dr, dc) in enumerate(((0, 1), (-1, 1), (-1, 0), (-1, -1))):
        ahead = magnitude[1 + dr : 1 + dr + rows, 1 + dc : 1 + dc + cols]
        behind = magnitude[1 - dr : 1 - dr + rows, 1 - dc : 1 - dc + cols]
        ridge |= (octant == turn) & (inner >= ahead) & (inner > behind)
    strong = ridge & (inner > 1)
    if strong.any():
        strong &= inner >= np.percentile(inner[strong], percentile)
    return angles, strong


def gradient(plane: Floats) -> tuple[Floats, Floats]:
    """Central differences down and right, of the plane's shape less a border of one."""
    return (plane[2:, 1:-1] - plane[:-2, 1:-1]) / 2, (plane[1:-1, 2:] - plane[1:-1, :-2]) / 2


def gaussian_filter(plane: Floats, sigma: float) -> Floats:
    """A plane (H, W) blurred by a round Gaussian cut off at four sigmas; the border is replicated."""
    radius = int(np.ceil(4 * sigma))
    weight = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(plane.dtype)
    weight /= weight.sum()
    for axis in (0, 1):
        edge = [(radius, radius) if each == axis else (0, 0) for each in (0, 1)]
        padded = np.pad(plane, edge, mode="edge")
        count = plane.shape[axis]
        made = np.zeros_like(plane)
        for place, factor in enumerate(weight):
            made += factor * (padded[place : place + count] if axis == 0 else padded[:, place : place + count])
        plane = made
    return plane
