"""The kernel that made a picture small, from the small picture alone: a Gaussian, a straight motion, or a resampler.

A kernel multiplies the power spectrum of what is seen, and makes edges fade less when they are blurred again (Zhuo and
Sim 2011, doi:10.1016/j.patcog.2011.03.009); photographs before it are alike enough in both. Both are seen in sixteen
directions. Small networks, whose layers go round the directions as a convolution goes along a line, tell from them
which family the kernel is of, and its parameters, each with an error, in pixels of the small picture, so that one
network serves all scales. `trust` was fitted to how near the kernels of pictures that the networks hadn't seen came to
the truth. The weights come from benchmarks/kernel_weights.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from superfine.blind.kernel import by_direction, gaussian_filter, gradient, strongest_ridges
from superfine.classical.kernels import anisotropic_kernel, resampler_kernel, straight_motion_kernel
from superfine.errors import ShapeError, UsageError

__all__ = [
    "DIRECTIONS",
    "FAMILIES",
    "TRUSTED",
    "KernelEstimate",
    "Parameters",
    "constants",
    "estimate_kernel",
    "kernel_features",
    "member_output",
    "read_network",
]

Floats = npt.NDArray[np.floating]
Family = Literal["gaussian", "motion", "bicubic", "box"]

FAMILIES: Final[tuple[Family, ...]] = ("gaussian", "motion", "bicubic", "box")
#: Directions in degrees from the x axis, counter-clockwise as seen.
DIRECTIONS: Final = tuple(11.25 * step for step in range(16))
#: Sides of the kernels that are given, by scale: even where the scale is, so that the middle is the centre.
SIDES: Final = {2: 22, 3: 31, 4: 30}
#: Below this trust a known prior is the better choice: a kernel that is guessed without a picture has 0.75 to 0.9.
TRUSTED: Final = 0.9

#: Pictures below this many pixels a side, or with a smaller standard deviation in levels, tell nothing.
SMALLEST: Final = 40
_FLATTEST: Final = 0.3
_WINDOW: Final = 32
_MOST_WINDOWS: Final = 400
_RADII: Final = (0.035, 0.07, 0.105, 0.14, 0.18, 0.22, 0.26, 0.3, 0.35, 0.4, 0.45, 0.5)
_CORNER: Final = 0.55
# How narrow a direction is: the power of the cosine.
_NARROW: Final = 24
# Power below that of rounding in three channels tells nothing.
_FLOOR: Final = 0.02
# Edges are seen at these sigmas, and how much they fade from one to the next is a feature.
_BLURS: Final = (0.5, 1.0, 2.0)
_FEWEST_EDGES: Final = 8
#: Added to a Gaussian's variance, in square pixels, and to a motion's length, so that their logarithms have an end.
OWN_VARIANCE: Final = 0.04
OWN_LENGTH: Final = 0.5
#: Added to the noise in levels before its logarithm is taken.
OWN_NOISE: Final = 0.3


@dataclass(frozen=True)
class KernelEstimate:
    """A kernel, and how far to believe in it."""

    kernel: Floats
    """(n, n) float64, adds up to one, in large pixels, centred by the centre rule; negative nowhere but for bicubic."""
    trust: float
    """The normalised correlation with the true kernel that is to be expected, 0 to 1; 0 where nothing could be told.

    Below `TRUSTED` a known prior serves better."""
    family: Family
    """The likeliest."""
    noise: float
    """Standard deviation in levels."""


@dataclass(frozen=True)
class Parameters:
    """What the networks say of a kernel; lengths in pixels of the small picture."""

    shares: Floats
    """(4,) probabilities of the families."""
    gaussian: Floats
    """(3,): half the mean logarithm of both variances with `OWN_VARIANCE`, and half their half difference turned to
    twice the angle of the wider: by its cosine, by its sine."""
    motion: Floats
    """(3,): logarithm of the softening's sigma, and that of the length with `OWN_LENGTH` over it, turned likewise."""

    def kernel(self, scale: int, family: Family) -> Floats:
        """The kernel of one family."""
        side = SIDES[scale]
        if family == "gaussian":
            middle, difference = self.gaussian[0], np.hypot(*self.gaussian[1:])
            wide, narrow = (
                scale**2 * max(float(np.exp(2 * each)) - OWN_VARIANCE, 0.01)
                for each in (middle + difference, middle - difference)
            )
            return anisotropic_kernel(side, scale, (wide, narrow), _half_angle(self.gaussian[1:]))
        if family == "motion":
            length = OWN_LENGTH * float(np.expm1(np.hypot(*self.motion[1:])))
            sigma = scale * float(np.exp(self.motion[0]))
            return straight_motion_kernel(side, scale, scale * length, _half_angle(self.motion[1:]), sigma)
        return resampler_kernel(side, scale, family)

    def mean_kernel(self, scale: int) -> Floats:
        """All families, each by its probability; bicubic alone where it is the likeliest, and left out elsewhere."""
        if self.family == "bicubic":
            return self.kernel(scale, "bicubic")
        made: Floats = np.zeros((SIDES[scale], SIDES[scale]))
        for share, family in zip(self.shares, FAMILIES, strict=True):
            if family != "bicubic" and share > 0.01:
                made = np.add(made, share * self.kernel(scale, family))
        made /= made.sum()
        return made

    @property
    def family(self) -> Family:
        """The likeliest."""
        return FAMILIES[int(np.argmax(self.shares))]


def estimate_kernel(planes: Sequence[Floats], scale: int) -> KernelEstimate:
    """The kernel k that made a picture small, y = down_s(x * k), where x was a sharp photograph.

    planes: each (H, W), luma in 8-bit levels, parts of one small picture; those below 40 pixels a side are left out,
    and with none left, or only flat ones, the bicubic resampler's kernel is given with trust 0. Gaussians with
    sigmas of 0.28 to 1.5 small pixels and motion of up to 6 are known; what was out of focus before looks like more.
    Raises UsageError for a scale other than 2, 3 and 4 and for NaN, ShapeError for planes that aren't (H, W).
    """
    if scale not in SIDES:
        raise UsageError(f"kernels are estimated for the scales 2, 3 and 4, not {scale}")
    for plane in planes:
        if plane.ndim != 2:
            raise ShapeError(f"want planes (H, W) of luma, got {plane.shape}; for grey (H, W, 1) use pixels[..., 0]")
        if not np.isfinite(plane).all():
            raise UsageError("a plane holds NaN or infinity; an estimate needs finite levels")
    features = kernel_features(planes)
    if not len(features):
        return KernelEstimate(resampler_kernel(SIDES[scale], scale, "bicubic"), 0.0, "bicubic", 0.0)
    found, errors, noise = read_network(_network(), features, scale)
    return KernelEstimate(found.mean_kernel(scale), _trust(_network(), errors), found.family, noise)


# ---- the networks


@cache
def _network() -> dict[str, Floats]:
    file = files("superfine") / "assets" / "kernel.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files}


def read_network(weights: dict[str, Floats], features: Floats, scale: int) -> tuple[Parameters, Floats, float]:
    """Parameters, what says how wrong they may be (count,), and noise in levels, of features (16, F)."""
    outputs = [member_output(weights, member, features, scale) for member in range(int(weights["members"]))]
    shares = np.mean([_softmax(output[:4]) for output in outputs], axis=0)
    mean, spread = np.mean(outputs, axis=0), np.std(outputs, axis=0)
    parameters = Parameters(shares, mean[4:7], mean[7:10])
    noise = max(0.0, float(np.exp(min(mean[10], 5.0))) - OWN_NOISE)
    errors = np.concatenate([np.log(shares + 0.003), mean[4:], np.log(spread[4:10] + 0.003)])
    return parameters, errors, noise


def member_output(weights: dict[str, Floats], member: int, features: Floats, scale: int) -> Floats:
    """What one network gives: 4 logits, 3 and 3 parameters, noise, the logarithms of 4 errors."""
    values: Floats = np.clip((features - weights["mean"]) / weights["spread"], -5, 5)
    values = np.concatenate([values, constants(scale)], axis=1)
    values = _silu(_linear(weights, f"{member}.first", values))
    for layer in ("second", "third"):
        around = np.concatenate([np.roll(values, -step, axis=0) for step in (-2, -1, 0, 1, 2)], axis=1)
        values = np.add(values, _silu(_linear(weights, f"{member}.{layer}", around)))
    pooled = np.concatenate([values.mean(axis=0), values.max(axis=0)])
    pooled = _silu(_linear(weights, f"{member}.pooled", pooled))
    whole = _linear(weights, f"{member}.whole", pooled)  # 4 logits, 2 parameters, noise, 4 errors
    turned = 2 * np.radians(DIRECTIONS)
    turning = weights[f"{member}.turning.weight"] @ values.T  # (2, 16)
    vectors = turning @ np.stack([np.cos(turned), np.sin(turned)], axis=1) / len(DIRECTIONS)
    return np.concatenate([whole[:4], whole[4:5], vectors[0], whole[5:6], vectors[1], whole[6:]])


def constants(scale: int) -> Floats:
    """What is known beside the picture: the scale, and how a direction lies to the lattice: (16, 4)."""
    lattice = np.cos(4 * np.radians(DIRECTIONS))
    return np.stack([*(np.full(16, float(scale == each)) for each in SIDES), lattice], axis=1)


def _trust(weights: dict[str, Floats], errors: Floats) -> float:
    values = np.clip((errors - weights["trust.mean"]) / weights["trust.spread"], -4, 4)
    logit = _linear(weights, "trust.second", _silu(_linear(weights, "trust.first", values)))
    return float(1 / (1 + np.exp(-logit[0])))


def _linear(weights: dict[str, Floats], name: str, values: Floats) -> Floats:
    made: Floats = values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return made


def _silu(values: Floats) -> Floats:
    made: Floats = values / (1 + np.exp(-np.clip(values, -60, 60)))
    return made


def _softmax(logits: Floats) -> Floats:
    made: Floats = np.exp(logits - logits.max())
    return made / np.sum(made)


def _half_angle(vector: Floats) -> float:
    return float(np.degrees(np.arctan2(vector[1], vector[0]))) / 2


# ---- what the networks see


def kernel_features(planes: Sequence[Floats]) -> Floats:
    """What the networks see: (16, F), a row for each of `DIRECTIONS`; of no rows where nothing is to be seen.

    planes: each (H, W), luma in 8-bit levels; those below 40 x 40 or flat are left out.
    """
    planes = [plane.astype(np.float32) for plane in planes if min(plane.shape) >= SMALLEST]
    planes = [plane for plane in planes if plane.std() >= _FLATTEST]
    if not planes:
        return np.zeros((0, 0), np.float32)
    spectra = np.concatenate([_power(_windows(plane, _MOST_WINDOWS // len(planes))) for plane in planes])
    slices, corner = _slices()
    count = len(DIRECTIONS)
    power = (spectra @ slices.T).reshape(len(spectra), count, -1)  # (windows, 16, radii)
    energy = power.mean(axis=(1, 2))
    order = np.argsort(energy)
    strong, weak = order[len(order) // 2 :], order[: max(1, len(order) // 8)]
    mean = np.log(power.mean(axis=0) + _FLOOR)
    logarithm = np.log(power[strong] + _FLOOR)
    typical = logarithm.mean(axis=0)
    sharpest = np.percentile(logarithm - logarithm[..., 1:4].mean(axis=2, keepdims=True), 90, axis=0)
    levels = np.array([row[:, :3].mean() for row in (mean, typical)])
    own = np.concatenate([mean - levels[0], typical - levels[1], sharpest, _fading(planes)], axis=1)
    floor = np.log(power[weak].mean(axis=(0, 1)) + _FLOOR)
    corners = np.log(np.array([(spectra[chosen] @ corner).mean() for chosen in (strong, weak)]) + _FLOOR)
    area = np.log(sum(plane.size for plane in planes))
    shared = np.concatenate([levels, floor, corners, [min(area, 12.5)]])
    features: Floats = np.concatenate([own, np.broadcast_to(shared, (count, len(shared)))], axis=1)
    return features.astype(np.float32)


def _windows(plane: Floats, most: int) -> Floats:
    """Overlapping squares of a plane: (count, 32, 32)."""
    step = _WINDOW // 4
    while ((plane.shape[0] - _WINDOW) // step + 1) * ((plane.shape[1] - _WINDOW) // step + 1) > most:
        step += 1
    padded = np.pad(plane, [(0, max(0, _WINDOW - side)) for side in plane.shape], mode="symmetric")
    return sliding_window_view(padded, (_WINDOW, _WINDOW))[::step, ::step].reshape(-1, _WINDOW, _WINDOW)


def _power(windows: Floats) -> Floats:
    """Power spectra: (count, 32 * 17); white noise of variance v has the mean v."""
    taper = np.hanning(_WINDOW + 2)[1:-1].astype(np.float32)
    taper /= np.sqrt((taper**2).sum())
    across = np.fft.rfft(np.diag(taper), axis=0).T  # (32, 17)
    down = np.fft.fft(np.diag(taper), axis=0)  # (32, 32)
    level = windows - windows.mean(axis=(1, 2), keepdims=True)
    # As products with matrices: for windows this small that is several times as fast as numpy's transform.
    half = level @ np.concatenate([across.real, across.imag], axis=1)  # (count, 32, 34)
    both = np.concatenate([down.real, down.imag]) @ half  # (count, 64, 34)
    bins, lines = across.shape[1], _WINDOW
    real = both[:, :lines, :bins] - both[:, lines:, bins:]
    imaginary = both[:, :lines, bins:] + both[:, lines:, :bins]
    power: Floats = (real**2 + imaginary**2).reshape(len(windows), -1)
    return power


@cache
def _slices() -> tuple[Floats, Floats]:
    """The mean over each bin of radius in each direction, as a matrix: (16 * bins, 32 * 17), and over the corners."""
    down, right = np.fft.fftfreq(_WINDOW)[:, None], np.fft.rfftfreq(_WINDOW)[None]
    radius = np.hypot(down, right)
    rows = []
    for angle in np.radians(DIRECTIONS):
        turned = (np.cos(angle) * right - np.sin(angle) * down) / np.maximum(radius, 1e-9)
        for low, high in pairwise(_RADII):
            weight = turned**_NARROW * ((radius >= low) & (radius < high))
            rows.append((weight / weight.sum()).ravel())
    corner = (radius > _CORNER).astype(np.float32)
    return np.array(rows, np.float32), (corner / corner.sum()).ravel()


def _fading(planes: Sequence[Floats]) -> Floats:
    """How edges across each direction fade from scale to scale: (16, 3 * shares + 1)."""
    angles, ratios = (np.concatenate(part) for part in zip(*map(_edges, planes), strict=True))
    return by_direction(angles, ratios, DIRECTIONS, _FEWEST_EDGES)


def _edges(plane: Floats) -> tuple[Floats, Floats]:
    """The strongest edges of a plane: the angles of their normals (count,), and the logarithms of ratios (count, 3)."""
    blurred = (plane, *(gaussian_filter(plane, sigma) for sigma in _BLURS))
    gradients = [gradient(each) for each in blurred]
    magnitudes = [np.hypot(*each) for each in gradients]
    angles, strong = strongest_ridges(*gradients[2], magnitudes[2], 75)
    seen = [np.log(magnitude[1:-1, 1:-1][strong] + 0.2) for magnitude in magnitudes]
    return angles[strong], np.stack([fine - coarse for fine, coarse in pairwise(seen)], axis=1)
