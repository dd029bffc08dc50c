"""From a good large picture to a small one as people have them: blur, resampling, noise, JPEG.

The order is light's: lens and hand blur the scene, a resampler makes it small, photons
and electronics add noise, JPEG stores it. At times the picture goes through an
in-between size first and gets its noise there, so that the noise has a grain.
Every kernel is centred: the small picture lies on the large one as MATLAB's would.
All works on the levels as they are stored (sRGB), as picture programs do.
Sources: BSRGAN, arXiv:2103.14006; Real-ESRGAN, arXiv:2107.10833, whose second order is left out.
"""

from dataclasses import dataclass, fields
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyvips
from numpy.lib.stride_tricks import sliding_window_view

from superfine.classical.kernels import anisotropic_kernel, fast_length
from superfine.classical.resample import Taps, matlab_resize, resize, resize_axis
from superfine.color import to_kind, to_unit
from superfine.errors import ShapeError, UsageError

__all__ = [
    "Degradation",
    "Degraded",
    "area_resize",
    "blur",
    "degrade",
    "gaussian_kernel",
    "gaussian_noise",
    "jpeg",
    "motion_kernel",
    "poisson_noise",
]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Range = tuple[float, float]

_RESAMPLERS: Final = ("area", "bilinear", "bicubic", "lanczos", "matlab")
# What each range may hold; the others are shares, in 0..1.
_LIMITS: Final = {
    "blur_sigma": (0.1, 20.0),
    "motion_length": (1.0, 60.0),
    "between_size": (0.25, 4.0),
    "gaussian_sigma": (0.0, 100.0),
    "poisson_photons": (1.0, 1e9),
    "jpeg_quality": (1.0, 100.0),
}


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """How pictures get worse: shares in 0..1, and ranges (least, most) from which a value is drawn.

    The defaults are moderate: phone photos and pictures of the web. A list of two
    becomes a tuple. Raises UsageError for a value out of its limits.
    """

    clean: float = 0.1
    """Share that MATLAB's bicubic alone makes small, to the bit; the other shares are of the rest."""
    blur: float = 0.7
    blur_sigma: Range = (0.4, 1.6)
    """In pixels of the large picture."""
    anisotropic: float = 0.4
    """Share of the blurred that have two sigmas and an angle."""
    motion: float = 0.1
    motion_length: Range = (2.0, 8.0)
    """In pixels of the large picture."""
    between: float = 0.3
    between_size: Range = (0.75, 1.5)
    """Sides of the in-between size, in sides of the small picture."""
    area: float = 0.2
    bilinear: float = 0.2
    bicubic: float = 0.2
    lanczos: float = 0.2
    matlab: float = 0.2
    """How the resamplers, all with antialiasing, share the pictures; they add up to one."""
    poisson: float = 0.3
    poisson_photons: Range = (1e3, 2e4)
    """Photons that a white sample has caught; drawn evenly in its logarithm."""
    gaussian: float = 0.5
    gaussian_sigma: Range = (0.5, 8.0)
    """In 8-bit levels."""
    grey: float = 0.4
    """Share of the Gaussian noise that is the same in R, G and B."""
    jpeg: float = 0.75
    jpeg_quality: Range = (45, 95)
    """Of libjpeg, whole numbers."""
    halved_chroma: float = 0.8
    """Share of the JPEGs that store colour at half the resolution, 4:2:0; the rest is 4:4:4."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            name, value = entry.name, getattr(self, entry.name)
            if name not in _LIMITS:
                if not _within(value, 0, 1):
                    raise UsageError(f"{name} = {value!r}; want a share from 0 to 1")
                continue
            low, high = _LIMITS[name]
            pair = tuple(value) if isinstance(value, list | tuple) else ()
            if len(pair) != 2 or not all(_within(end, low, high) for end in pair) or pair[0] > pair[1]:
                raise UsageError(f"{name} = {value!r}; want [least, most] within {low:g} and {high:g}")
            object.__setattr__(self, name, pair)
        if abs(sum(getattr(self, name) for name in _RESAMPLERS) - 1) > 1e-6:
            raise UsageError(f"the shares of {', '.join(_RESAMPLERS)} have to add up to one; set those that you miss")


class Degraded(NamedTuple):
    """The small picture (H, W, 3), uint8, and what was done to it, in order, with the exact parameters."""

    small: Bytes
    steps: tuple[str, ...]


def degrade(large: Bytes, scale: int, degradation: Degradation, draw: np.random.Generator) -> Degraded:
    """Make a picture `scale` times smaller and worse, as drawn from `degradation`.

    large: (H, W, 3), uint8, sides divisible by `scale`. The small one is aligned
    with it; equal states of `draw` give equal bytes.
    Raises ShapeError for another array.
    """
    if large.ndim != 3 or large.shape[2] != 3 or large.dtype != np.uint8 or 0 in large.shape:
        raise ShapeError(f"want (H, W, 3) in uint8, got {large.shape} in {large.dtype}")
    if scale < 1 or large.shape[0] % scale or large.shape[1] % scale:
        raise ShapeError(f"sides {large.shape[:2]} are no multiples of {scale}; crop the picture to them first")
    rows, cols = large.shape[0] // scale, large.shape[1] // scale
    if draw.random() < degradation.clean:
        return Degraded(matlab_resize(large, (rows, cols)), (f"resize to {rows} x {cols} by matlab",))

    pixels, steps = _blurred(to_unit(large), degradation, draw)
    sizes = [(rows, cols)]
    if draw.random() < degradation.between:
        side = draw.uniform(*degradation.between_size)
        sizes.insert(0, (max(1, round(rows * side)), max(1, round(cols * side))))
    for place, size in enumerate(sizes):
        kind = str(draw.choice(_RESAMPLERS, p=[getattr(degradation, name) for name in _RESAMPLERS]))
        pixels = _resample(pixels, size, kind)
        steps.append(f"resize to {size[0]} x {size[1]} by {kind}")
        if place == 0:
            pixels, noises = _noisy(pixels, degradation, draw)
            steps += noises

    small = to_kind(pixels, np.dtype(np.uint8)).astype(np.uint8, copy=False)
    if draw.random() < degradation.jpeg:
        low, high = degradation.jpeg_quality
        quality = int(draw.integers(round(low), round(high), endpoint=True))
        subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0" if draw.random() < degradation.halved_chroma else "4:4:4"
        small = jpeg(small, quality, subsampling)
        steps.append(f"jpeg quality {quality} {subsampling}")
    return Degraded(small, tuple(steps))


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float) -> Floats:
    """A Gaussian (k, k), k odd, that adds up to one: its axes `sigma_x` and `sigma_y` in pixels.

    angle: degrees by which the x axis is turned, counter-clockwise as seen.
    """
    radius = int(np.ceil(4 * max(sigma_x, sigma_y)))
    return anisotropic_kernel(2 * radius + 1, 1, (sigma_x**2, sigma_y**2), angle).astype(np.float32)


def motion_kernel(length: float, angle: float) -> Floats:
    """An even, straight motion over `length` pixels: (k, k), k odd, that adds up to one.

    angle: degrees from the x axis, counter-clockwise as seen. Each point of the
    path is shared among its four pixels, so that the middle stays where it is.
    """
    radius = int(np.ceil(length / 2))
    points = 16 * radius
    path = length * ((np.arange(points) + 0.5) / points - 0.5)
    pixel = np.arange(-radius, radius + 1)[:, None]
    down, right = (
        np.maximum(0, 1 - np.abs(pixel - path * part))
        for part in (-np.sin(np.radians(angle)), np.cos(np.radians(angle)))
    )
    kernel: Floats = (down @ right.T / points).astype(np.float32)
    return kernel


def blur(pixels: Floats, kernel: Floats) -> Floats:
    """Convolve (H, W, C) with a (k, l) kernel of odd sides; the border is replicated, the shape kept.

    Raises ShapeError for a kernel with an even side, which would move the picture.
    """
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ShapeError(f"want a kernel of odd sides, got {kernel.shape}; an even one moves the picture")
    down, share, across = np.linalg.svd(kernel, full_matrices=False)
    planes, out = np.moveaxis(pixels, 2, 0), np.empty(pixels.shape, np.float32)
    if np.all(share[1:] <= 1e-6 * share[0]):  # of rank one, as a round Gaussian
        np.moveaxis(out, 2, 0)[:] = _convolve_lines(planes, (share[0] * down[:, 0], across[0]))
    else:
        _convolve_planes(planes, kernel, np.moveaxis(out, 2, 0))
    return out


def area_resize(pixels: Floats, size: tuple[int, int]) -> Floats:
    """Each new pixel of (H, W, C) is the mean of the area that it covers; `size` (rows, cols)."""
    for axis in (0, 1):
        edges = np.arange(size[axis] + 1) * (pixels.shape[axis] / size[axis])
        first, last = edges[:-1, None], edges[1:, None]
        index = np.floor(first).astype(np.intp) + np.arange(int(np.ceil(pixels.shape[axis] / size[axis])) + 1)
        covered = np.maximum(0, np.minimum(index + 1, last) - np.maximum(index, first))
        inside = np.minimum(index, pixels.shape[axis] - 1)
        pixels = resize_axis(pixels, Taps(inside, covered / (last - first)), axis)
    return pixels


def gaussian_noise(pixels: Floats, sigma: float, draw: np.random.Generator, *, channels: Literal[1, 3] = 3) -> Floats:
    """Add noise of `sigma` 8-bit levels to (H, W, 3) in 0..1; unclipped. With 1 channel R, G and B get the same."""
    noise = draw.standard_normal((*pixels.shape[:2], channels), np.float32)
    return pixels + np.float32(sigma / 255) * noise


def poisson_noise(pixels: Floats, photons: float, draw: np.random.Generator) -> Floats:
    """Count photons where white (1.0) catches `photons` on average: the variance is mean / photons. Unclipped."""
    counted: Floats = (draw.poisson(np.clip(pixels, 0, 1) * photons) / photons).astype(np.float32)
    return counted


def jpeg(pixels: Bytes, quality: int, subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0") -> Bytes:
    """What a JPEG of (H, W, 3), uint8 RGB, gives back; quality 1..100 of libjpeg."""
    rows, cols = pixels.shape[:2]
    picture = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels), cols, rows, 3, "uchar")
    stored = picture.jpegsave_buffer(Q=quality, subsample_mode="on" if subsampling == "4:2:0" else "off", keep="none")
    # A region is computed here and now; `numpy` would start threads for it.
    decoded = pyvips.Region.new(pyvips.Image.jpegload_buffer(stored, access="sequential")).fetch(0, 0, cols, rows)
    return np.frombuffer(decoded, np.uint8).reshape(pixels.shape)


def _convolve_lines(planes: Floats, lines: tuple[Floats, Floats]) -> Floats:
    """(C, H, W) by a column, then a row: products with a small matrix, each for 16 new lines at once."""
    for line in lines:
        (count, rows, cols), edge = planes.shape, len(line) // 2
        padded = np.pad(planes, ((0, 0), (edge, edge + -rows % 16), (0, 0)), mode="edge")
        windows = sliding_window_view(padded, 16 + 2 * edge, axis=1)[:, ::16]  # (C, blocks, W, 16 + 2 * edge)
        matrix = np.zeros((16, 16 + 2 * edge), np.float32)
        for row in range(16):
            matrix[row, row : row + len(line)] = line[::-1]
        made = (matrix @ windows.swapaxes(2, 3)).reshape(count, -1, cols)[:, :rows]
        planes = made.swapaxes(1, 2)
    return planes


def _convolve_planes(planes: Floats, kernel: Floats, out: Floats) -> None:
    """(C, H, W) by FFT, which wraps round; what it wraps into is cut off."""
    (rows, cols), edge = planes.shape[1:], [side // 2 for side in kernel.shape]
    size = fast_length(rows + 2 * edge[0]), fast_length(cols + 2 * edge[1])
    spectrum = np.fft.rfft2(kernel, size)
    for plane, made in zip(planes, out, strict=True):  # one at a time stays in the cache
        padded = np.pad(plane, [(each, each) for each in edge], mode="edge")
        whole = np.fft.irfft2(np.fft.rfft2(padded, size) * spectrum, size)
        made[:] = whole[2 * edge[0] :, 2 * edge[1] :][:rows, :cols]


# Each value is rounded as it is reported, so that the report is what was done.


def _blurred(pixels: Floats, degradation: Degradation, draw: np.random.Generator) -> tuple[Floats, list[str]]:
    steps = []
    if draw.random() < degradation.blur:
        low, high = degradation.blur_sigma
        wide = tall = round(draw.uniform(low, high), 2)
        angle = 0
        if draw.random() < degradation.anisotropic:
            tall, angle = round(draw.uniform(low, high), 2), int(draw.integers(180))
        pixels = blur(pixels, gaussian_kernel(wide, tall, angle))
        steps.append(f"blur sigma {wide} x {tall} at {angle} deg")
    if draw.random() < degradation.motion:
        length, angle = round(draw.uniform(*degradation.motion_length), 2), int(draw.integers(180))
        pixels = blur(pixels, motion_kernel(length, angle))
        steps.append(f"motion {length} px at {angle} deg")
    return pixels, steps


def _noisy(pixels: Floats, degradation: Degradation, draw: np.random.Generator) -> tuple[Floats, list[str]]:
    steps = []
    if draw.random() < degradation.poisson:
        photons = round(np.exp(draw.uniform(*np.log(degradation.poisson_photons))))
        pixels = poisson_noise(pixels, photons, draw)
        steps.append(f"poisson noise of {photons} photons")
    if draw.random() < degradation.gaussian:
        sigma = round(draw.uniform(*degradation.gaussian_sigma), 2)
        channels: Literal[1, 3] = 1 if draw.random() < degradation.grey else 3
        pixels = gaussian_noise(pixels, sigma, draw, channels=channels)
        steps.append(f"{'grey' if channels == 1 else 'coloured'} noise of sigma {sigma}")
    return pixels, steps


def _resample(pixels: Floats, size: tuple[int, int], kind: str) -> Floats:
    if kind == "area":
        return area_resize(pixels, size)
    if kind == "matlab":
        return to_unit(matlab_resize(to_kind(pixels, np.dtype(np.uint8)).astype(np.uint8, copy=False), size))
    return resize(pixels, size, kind)


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
