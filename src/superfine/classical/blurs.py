"""Blurs to judge by, each with a name: which kernels go with a picture, and in which words they stand beside a figure.

A blurred small picture is y = down_s(x * k) of `classical.kernels`, in float from the large picture's 8 bits to
the small one's: the only rounding. Kernels are drawn from a seed, the place of the picture in its folder and the
number of the kernel, so that anybody makes the same pairs again; those that were used stand in the record besides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from superfine.classical.kernels import (
    KernelReduction,
    anisotropic_kernel,
    resampler_kernel,
    straight_motion_kernel,
    weighted_at_random,
)

__all__ = ["BLURS", "SEED", "SIGMAS", "Blur", "blurred"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

SEED: Final = 1

_CENTRED: Final = "direct subsampling centred on (s-1)/2"

# ---- eight round Gaussians (IKC, arXiv:1904.03377; DAN, arXiv:2010.02631)

#: Least and greatest sigma of the eight Gaussians by scale, in large pixels.
SIGMAS: Final = {2: (0.8, 1.6), 3: (1.35, 2.4), 4: (1.8, 3.2)}
_STEPS: Final = 8


def _sigma(scale: int, number: int) -> float:
    least, most = SIGMAS[scale]
    return least + (most - least) * number / (_STEPS - 1)


def _round(scale: int, number: int, draw: np.random.Generator) -> Floats:  # noqa: ARG001 - drawn by nobody
    return anisotropic_kernel(22 - scale % 2, scale, 2 * (_sigma(scale, number) ** 2,), 0.0)


def _round_words(scale: int) -> str:
    side, (least, most) = 22 - scale % 2, SIGMAS[scale]
    return f"gaussian8: {_STEPS} round Gaussians each, sigma {least:g}-{most:g}, {side}x{side}, {_CENTRED}"


def _round_bicubic(scale: int, number: int, draw: np.random.Generator) -> Floats:  # noqa: ARG001 - drawn by nobody
    """Both steps of the published sets in one kernel: 21 x 21 around its middle tap, then bicubic, antialiased."""
    gaussian = anisotropic_kernel(21, 1, 2 * (_sigma(scale, number) ** 2,), 0.0)
    bicubic = resampler_kernel(4 * scale + scale % 2, scale, "bicubic")
    bicubic = bicubic[1:-1, 1:-1] if scale % 2 else bicubic  # its outermost taps are zero there
    windows = sliding_window_view(np.pad(bicubic, 20), (21, 21))
    both: Floats = np.einsum("rcij,ij->rc", windows, gaussian[::-1, ::-1])
    made: Floats = both / both.sum()
    return made


def _round_bicubic_words(scale: int) -> str:
    least, most = SIGMAS[scale]
    return (
        f"gaussian8-bicubic: {_STEPS} round Gaussians each, sigma {least:g}-{most:g}, 21x21, then bicubic with"
        " antialiasing"
    )


# ---- two variances, an angle and uneven weights (the rule of DIV2KRK: KernelGAN, arXiv:1909.06581)

_UNEVEN_SIDES: Final = {2: 11, 3: 21, 4: 31}
_VARIANCES: Final = (0.6, 5.0)
_UNEVEN: Final = 0.25


def _uneven(scale: int, number: int, draw: np.random.Generator) -> Floats:  # noqa: ARG001 - all in `draw`
    first, second = (draw.uniform(*_VARIANCES) * (scale / 2) ** 2 for _ in range(2))
    smooth = anisotropic_kernel(_UNEVEN_SIDES[scale], scale, (first, second), draw.uniform(0, 180))
    return weighted_at_random(smooth, _UNEVEN, draw)


def _uneven_words(scale: int) -> str:
    least, most = (variance * (scale / 2) ** 2 for variance in _VARIANCES)
    side = _UNEVEN_SIDES[scale]
    return (
        f"anisotropic: {_EACH} kernels each, variances {least:g}-{most:g}, {side}x{side}, weights times"
        f" {1 - _UNEVEN:g}-{1 + _UNEVEN:g}, {_CENTRED}, seed {SEED}"
    )


# ---- straight motion

_MOTION_SIDES: Final = {2: 16, 3: 23, 4: 30}
# In small pixels, so that the scales are alike.
_LENGTHS: Final = (1.5, 5.0)
_SOFTENING: Final = 0.35


def _motion(scale: int, number: int, draw: np.random.Generator) -> Floats:  # noqa: ARG001 - all in `draw`
    length, angle = draw.uniform(*_LENGTHS) * scale, draw.uniform(0, 180)
    return straight_motion_kernel(_MOTION_SIDES[scale], scale, length, angle, _SOFTENING * scale)


def _motion_words(scale: int) -> str:
    least, most = (length * scale for length in _LENGTHS)
    side = _MOTION_SIDES[scale]
    return (
        f"motion: {_EACH} kernels each, straight, length {least:g}-{most:g}, softened by sigma"
        f" {_SOFTENING * scale:g}, {side}x{side}, {_CENTRED}, seed {SEED}"
    )


_EACH: Final = 3


@dataclass(frozen=True)
class Blur:
    """A rule that gives each large picture several kernels; lengths in its words are in large pixels."""

    name: str
    each: int
    """How many small pictures are made of a large one."""
    words: Callable[[int], str]
    """By scale: what stands beside a figure."""
    drawn: Callable[[int, int, np.random.Generator], Floats]
    """(scale, number, generator) -> kernel."""

    def kernel(self, scale: int, place: int, number: int) -> Floats:
        """The kernel (n, n), float64, of one small picture; the same whenever it is asked for.

        scale: of `kernels.SCALES`; place: of the large picture in its folder, from 0; number: 0 to `each` - 1.
        """
        return self.drawn(scale, number, np.random.default_rng((SEED, place, number)))


def blurred(large: Bytes, kernel: Floats, scale: int) -> Bytes:
    """(s*h, s*w, C) uint8 -> (h, w, C) uint8: down_s(x * k) in float64, rounded once.

    Raises ShapeError where the kernel is larger than the picture.
    """
    rows, cols = large.shape[0] // scale, large.shape[1] // scale
    planes = np.moveaxis(large, 2, 0).astype(np.float64)
    small = KernelReduction(kernel, scale, (rows, cols))(planes)
    return np.ascontiguousarray(np.moveaxis(np.rint(np.clip(small, 0, 255)), 0, 2).astype(np.uint8))


#: By name.
BLURS: Final = {
    blur.name: blur
    for blur in (
        Blur("gaussian8", _STEPS, _round_words, _round),
        Blur("gaussian8-bicubic", _STEPS, _round_bicubic_words, _round_bicubic),
        Blur("anisotropic", _EACH, _uneven_words, _uneven),
        Blur("motion", _EACH, _motion_words, _motion),
    )
}
