"""Blur by a kernel, then every s-th pixel: y = down_s(x * k), its adjoint, and the ways back.

`*` is convolution, the border of x is replicated, and the centre rule of the field holds: small
pixel r lies over large pixel s*r + (s-1)/2. Tap i of n takes large pixel s*r + (s-1)//2 + n//2 - i,
so a kernel of n taps, n odd where s is odd and even where s is even, is centred in its middle;
otherwise its middle lies half a large pixel up and left of the centre, and `centred` kernels have
their mass there. Public sets of blurred pictures are made so (KernelGAN, arXiv:1909.06581).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError, UsageError

__all__ = [
    "SCALES",
    "DrawnKernel",
    "KernelReduction",
    "Kernels",
    "anisotropic_kernel",
    "check_kernel",
    "fast_length",
    "kernel_correlation",
    "middle",
    "resampler_kernel",
    "rounding_and",
    "straight_motion_kernel",
    "weighted_at_random",
]

Floats = npt.NDArray[np.floating]

#: The factors that blurred pictures are made small by, judged at and enlarged by.
SCALES: Final = (2, 3, 4)
#: The largest side of a kernel, in large pixels.
LARGEST: Final = 63
# How much a kernel's sum may miss one.
_SUM: Final = 1e-3
# Standard deviation of a photo's gradient in 0..1, and the frequency (cycles per pixel) below which its power is flat.
_GRADIENT: Final = 0.05
_FLAT: Final = 0.002
# Share of the noise that a start is told of.
_TOLD: Final = 0.35
# Standard deviation in 0..1 of a restored picture's errors, alike at all frequencies.
_ERROR: Final = 0.015
# A step aims at this share of the tolerance, and every so many turns it's looked whether that is enough.
_INSIDE: Final = 0.9
_LOOK_EVERY: Final = 4
# So many power iterations give the largest eigenvalue to well within this factor.
_POWER_TURNS: Final = 20
_ABOVE: Final = 1.1
# Small pixels of mirror beyond the border, before a period ends; the outer half fades to the mean.
_MARGIN: Final = 16


def fast_length(length: int) -> int:
    """The next length without a prime factor above five; others can cost an FFT thrice the time."""
    return next(size for size in range(length, 2 * length + 1) if 30 ** size.bit_length() % size == 0)


def check_kernel(kernel: Floats, name: str = "kernel") -> Floats:
    """The kernel (n, m) in float64, found fit for use. Raises UsageError, naming it `name`, for any other."""
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 2 or 0 in kernel.shape:
        raise UsageError(f"{name}: has the shape {kernel.shape}; want rows and columns of weights")
    if max(kernel.shape) > LARGEST:
        raise UsageError(f"{name}: is {kernel.shape[0]} x {kernel.shape[1]}; crop it to at most {LARGEST} a side")
    if not np.isfinite(kernel).all():
        raise UsageError(f"{name}: holds NaN or infinity; give finite weights")
    if abs((total := float(kernel.sum())) - 1) > _SUM:
        raise UsageError(f"{name}: its weights add up to {total:.4g}, not 1; divide them by that")
    return kernel


def middle(side: int, scale: int) -> float:
    """The place of the centre rule's point on a kernel's axis of `side` taps, counted from tap 0."""
    return side // 2 + (scale - 1) // 2 - (scale - 1) / 2


def anisotropic_kernel(side: int, scale: int, variances: tuple[float, float], angle: float) -> Floats:
    """A Gaussian (side, side) around the centre rule's point, that adds up to one.

    variances: along its two axes, in square large pixels; angle: of the first axis, degrees from the x
    axis, counter-clockwise as seen.
    """
    down, right = np.mgrid[:side, :side] - middle(side, scale)
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    along, across = cosine * right - sine * down, sine * right + cosine * down
    weight = np.exp(-0.5 * (along**2 / variances[0] + across**2 / variances[1]))
    kernel: Floats = weight / weight.sum()
    return kernel


def straight_motion_kernel(side: int, scale: int, length: float, angle: float, sigma: float) -> Floats:
    """An even straight motion over `length` large pixels, softened by a Gaussian of `sigma`: (side, side).

    angle: degrees from the x axis, counter-clockwise as seen.
    """
    down, right = np.mgrid[:side, :side] - middle(side, scale)
    path = length * ((np.arange(32) + 0.5) / 32 - 0.5)
    far = (right[..., None] - path * np.cos(np.radians(angle))) ** 2
    far = far + (down[..., None] + path * np.sin(np.radians(angle))) ** 2
    weight = np.exp(-0.5 * far / sigma**2).sum(axis=2)
    kernel: Floats = weight / weight.sum()
    return kernel


def weighted_at_random(kernel: Floats, share: float, draw: np.random.Generator) -> Floats:
    """Each weight times a number drawn from 1 - share to 1 + share, and the sum made one again."""
    uneven = kernel * draw.uniform(1 - share, 1 + share, kernel.shape)
    made: Floats = uneven / uneven.sum()
    return made


def resampler_kernel(side: int, scale: int, name: str) -> Floats:
    """A resampler with antialiasing as a kernel (side, side): `bicubic` (Keys, a = -0.5: MATLAB's) or `box`."""
    from superfine.classical.resample import KERNELS

    place = (np.arange(side) - middle(side, scale)) / scale
    line = np.where(np.abs(place) < 0.5, 1.0, 0.0) if name == "box" else KERNELS[name].weight(place)
    kernel = np.outer(line, line)
    made: Floats = kernel / kernel.sum()
    return made


def kernel_correlation(one: Floats, other: Floats) -> float:
    """Normalised correlation of two kernels, 1 for equal ones; the smaller is padded around its middle."""
    side = max(*one.shape, *other.shape)
    first, second = (_padded(kernel, side) for kernel in (one, other))
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def _padded(kernel: Floats, side: int) -> Floats:
    """Zeros around, so that tap n//2 stays where it is counted from n//2 of the side."""
    rows, cols = kernel.shape
    made = np.zeros((side, side))
    top, left = side // 2 - rows // 2, side // 2 - cols // 2
    made[top : top + rows, left : left + cols] = kernel
    return made


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How pictures get small by unknown kernels: shares in 0..1, and ranges (least, most) from which a value is drawn.

    Lengths are in small pixels, so that one choice serves all factors. What is left of the shares are resamplers.
    """

    factors: tuple[int, ...] = (2, 2, 3, 4)
    """One of these is drawn, each as often as it is named."""
    round: float = 0.3
    """Share of round Gaussians."""
    long: float = 0.4
    """Share of Gaussians with two sigmas and an angle."""
    motion: float = 0.2
    sigma: tuple[float, float] = (0.2, 1.3)
    motion_length: tuple[float, float] = (0.5, 6.0)
    uneven: float = 0.25
    """Half of the kernels get weights that are each wrong by up to this share."""
    misjudged: float = 0.5
    """Share of the kernels that are undone by another one, as an estimate would be."""
    misjudged_by: float = 0.08
    """Standard deviation of the logarithm of an estimate's lengths, and of its angle in radians."""
    doubt: float = 2.0
    """Noise, in 8-bit levels, that a misjudged kernel's errors are taken for."""
    noisy: float = 0.4
    noise_sigma: tuple[float, float] = (0.3, 5.0)
    """In 8-bit levels."""

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) < 1:
            raise UsageError(f"factors = {self.factors!r}; want whole numbers from one")
        for name in ("round", "long", "motion", "uneven", "misjudged", "noisy"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise UsageError(f"{name} = {share!r}; want a share from 0 to 1")
        if self.round + self.long + self.motion > 1 + 1e-9:
            raise UsageError("the shares of round, long and motion add up to more than one")
        for name, low in (("sigma", 0.05), ("motion_length", 0.0), ("noise_sigma", 0.0)):
            least, most = getattr(self, name)
            if not low <= least <= most:
                raise UsageError(f"{name} = [{least:g}, {most:g}]; want [least, most] from {low:g}")

    def draw(self, draw: np.random.Generator) -> "DrawnKernel":
        """A kernel, what is taken for it, and the noise."""
        scale = int(draw.choice(self.factors))
        side = 2 * round(3.5 * self.sigma[1] * scale) + scale % 2
        kind, misjudged = draw.random(), draw.random() < self.misjudged
        lengths, angle = np.exp(draw.normal(0, self.misjudged_by, 2)), np.degrees(draw.normal(0, self.misjudged_by))
        errors = [
            (1.0, 1.0, 0.0),
            (float(lengths[0]), float(lengths[1]), float(angle)) if misjudged else (1.0, 1.0, 0.0),
        ]
        turn = draw.uniform(0, 180)
        if kind < self.round + self.long:
            low, high = np.log(self.sigma)
            wide, narrow = (scale * float(np.exp(draw.uniform(low, high))) for _ in range(2))
            narrow = wide if kind < self.round else narrow
            made, taken = (
                anisotropic_kernel(side, scale, ((wide * one) ** 2, (narrow * other) ** 2), turn + more)
                for one, other, more in errors
            )
        elif kind < self.round + self.long + self.motion:
            length, sigma = scale * draw.uniform(*self.motion_length), scale * draw.uniform(0.2, 0.5)
            made, taken = (
                straight_motion_kernel(side, scale, length * one, turn + more, sigma * other)
                for one, other, more in errors
            )
        else:
            made = taken = resampler_kernel(side, scale, str(draw.choice(["bicubic", "bicubic", "box"])))
        if draw.random() < 0.5:
            made = weighted_at_random(made, self.uneven, draw)
            if not misjudged:
                taken = made
        noise = draw.uniform(*self.noise_sigma) if draw.random() < self.noisy else 0.0
        return DrawnKernel(made, taken, scale, noise, self.doubt if misjudged else 0.0)


@dataclass(frozen=True)
class DrawnKernel:
    """A kernel (n, n), the one that stands for it when it is undone, the factor, and noise in 8-bit levels."""

    made: Floats
    taken: Floats
    scale: int
    noise: float
    doubt: float
    """Noise, in levels, that the errors of `taken` count for."""

    def start(self, large: Floats, draw: np.random.Generator) -> Floats:
        """A plane (H, W) in 0..1, sides multiples of the scale, made small, in 8 bits, and enlarged again, in 0..1."""
        size = (large.shape[0] // self.scale, large.shape[1] // self.scale)
        small = KernelReduction(self.made, self.scale, size)(large)
        if self.noise:
            small = small + draw.normal(0, self.noise / 255, small.shape)
        small = np.round(np.clip(small, 0, 1) * 255) / 255
        return np.clip(KernelReduction(self.taken, self.scale, size).start(small, max(self.noise, self.doubt)), 0, 1)


def rounding_and(noise: float) -> float:
    """Standard deviation in 0..1 of 8-bit samples whose own noise is `noise` levels."""
    return float(np.hypot(noise, 12**-0.5)) / 255


@dataclass(frozen=True)
class KernelReduction:
    """y = down_s(x * k) for pictures of one size: planes (..., s*h, s*w) become (..., h, w).

    Raises ShapeError where the kernel is larger than the large picture.
    """

    kernel: Floats
    scale: int
    size: tuple[int, int]
    """(h, w) of the small picture."""

    def __post_init__(self) -> None:
        rows, cols = (self.scale * side for side in self.size)
        if self.kernel.shape[0] > rows or self.kernel.shape[1] > cols:
            raise ShapeError(
                f"a kernel of {self.kernel.shape[0]} x {self.kernel.shape[1]} is larger than the enlarged picture of"
                f" {rows} x {cols}; crop the kernel"
            )

    def __call__(self, large: Floats) -> Floats:
        """(..., s*h, s*w) -> (..., h, w)."""
        down, across = self._lines
        around = [(0, 0)] * (large.ndim - 2) + [(down.before, down.after), (across.before, across.after)]
        padded = np.pad(large, around, mode="edge")
        shape = padded.shape[-2:]
        product = np.fft.rfft2(padded) * np.fft.rfft2(self.kernel.astype(large.dtype), shape)
        small: Floats = np.fft.irfft2(product, shape)[..., down.taken, across.taken]
        return small

    def adjoint(self, small: Floats) -> Floats:
        """The transpose of the whole operation, border included: (..., h, w) -> (..., s*h, s*w)."""
        down, across = self._lines
        shape = down.length, across.length
        spread = np.zeros((*small.shape[:-2], *shape), small.dtype)
        spread[..., down.taken, across.taken] = small
        product = np.fft.rfft2(spread) * np.fft.rfft2(self.kernel.astype(small.dtype), shape).conj()
        padded = np.fft.irfft2(product, shape)
        for axis, line in ((-2, down), (-1, across)):  # what the border's copies were made of gets all that they got
            turned = np.moveaxis(padded, axis, 0)
            turned[line.before] += turned[: line.before].sum(axis=0)
            turned[line.length - line.after - 1] += turned[line.length - line.after :].sum(axis=0)
            padded = np.moveaxis(turned[line.before : line.length - line.after], 0, axis)
        return padded

    def likeliest(self, small: Floats, noise: float) -> Floats:
        """The most probable large picture if pictures were Gaussian with a power of 1/f^2: (..., s*h, s*w).

        small: (..., h, w) in 0..1; noise: its standard deviation in 0..1, above zero. Closed form in
        Fourier space (Zhao et al. 2016, doi:10.1109/TIP.2016.2567075) on the picture mirrored beyond its border.
        """
        level = small.mean(axis=(-2, -1), keepdims=True)
        spectrum = self._spectrum(small - level) / (self._spread + noise**2)
        made: Floats = self._large(self._back * np.tile(spectrum, (self.scale, self.scale))) + level
        return made.astype(small.dtype, copy=False)

    def start(self, small: Floats, noise: float) -> Floats:
        """What a refining network begins with: `likeliest`, told of a part of the noise (in 8-bit levels) alone.

        The closed form takes noise out by blurring; a network knows better ways.
        """
        return self.likeliest(small, rounding_and(_TOLD * noise))

    def corrected(self, large: Floats, small: Floats, noise: float) -> Floats:
        """`large` brought nearer to what `small` says, as far as its `noise` (0..1, above zero) lets it be believed.

        The most probable picture where the errors of `large` are alike at all frequencies; closed form as
        `likeliest`. Shapes (..., s*h, s*w) and (..., h, w).
        """
        spectrum = self._spectrum(small - self(large)) / (_ERROR**2 * self._power + noise**2)
        change = self._large(_ERROR**2 * self._transfer.conj() * np.tile(spectrum, (self.scale, self.scale)))
        return (large + change).astype(large.dtype, copy=False)

    def consistent(self, large: Floats, small: Floats, tolerance: float, *, turns: int = 400) -> Floats:
        """The picture nearest to `large` that this operation makes `small` of, to `tolerance` in every sample.

        A rounded sample says no more than that, and what the operation doesn't see is left alone. By
        FISTA on the dual (Beck and Teboulle 2009, doi:10.1137/080716542), one weight for each small pixel,
        most of them zero; stops after `turns` where the kernel leaves too little. Soonest from a
        `corrected` picture. Gives float64.
        """
        large = large.astype(np.float64)
        missing = small - self(large)
        weight = ahead = np.zeros_like(missing)
        step, inertia = 1 / self._largest, 1.0
        for turn in range(turns):
            if turn % _LOOK_EVERY == 0 and np.abs(missing - self(self.adjoint(weight))).max() <= tolerance:
                break
            moved = ahead + step * (missing - self(self.adjoint(ahead)))
            moved = np.sign(moved) * np.maximum(np.abs(moved) - step * _INSIDE * tolerance, 0)
            inertia, before = (1 + np.sqrt(1 + 4 * inertia**2)) / 2, inertia
            ahead = moved + (before - 1) / inertia * (moved - weight)
            weight = moved
        made: Floats = large + self.adjoint(weight)
        return made

    def _spectrum(self, small: Floats) -> npt.NDArray[np.complexfloating]:
        """Of (..., h, w), mirrored beyond its border up to where the period ends."""
        around = [(0, 0)] * (small.ndim - 2) + [(_MARGIN, extent - side - _MARGIN) for side, extent in self._extents]
        return np.fft.fft2(np.pad(small, around, mode="symmetric") * self._fading)

    def _large(self, spectrum: npt.NDArray[np.complexfloating]) -> Floats:
        """The large picture in the period of a spectrum."""
        first, (rows, cols) = self.scale * _MARGIN, self.size
        large: Floats = np.fft.ifft2(spectrum).real
        return large[..., first : first + self.scale * rows, first : first + self.scale * cols]

    # ---- what depends on the kernel and the size alone

    @cached_property
    def _lines(self) -> tuple["_Line", "_Line"]:
        rows, cols = (_Line(taps, side, self.scale) for taps, side in zip(self.kernel.shape, self.size, strict=True))
        return rows, cols

    @cached_property
    def _extents(self) -> tuple[tuple[int, int], ...]:
        """Each side of the small picture, and of the period that holds it in Fourier space."""
        return tuple((side, fast_length(side + 2 * _MARGIN)) for side in self.size)

    @cached_property
    def _transfer(self) -> npt.NDArray[np.complexfloating]:
        """What the kernel does to each frequency of the period of the large picture."""
        spread = np.zeros([self.scale * extent for _, extent in self._extents])
        spread[: self.kernel.shape[0], : self.kernel.shape[1]] = self.kernel
        shift = tuple(-(taps // 2 + (self.scale - 1) // 2) for taps in self.kernel.shape)
        return np.fft.fft2(np.roll(spread, shift, (0, 1)))

    @cached_property
    def _natural(self) -> Floats:
        """The power of pictures, on the same frequencies."""
        down, right = (np.fft.fftfreq(self.scale * extent) for _, extent in self._extents)
        squared = down[:, None] ** 2 + right[None] ** 2
        power: Floats = _GRADIENT**2 / ((2 * np.pi) ** 2 * (squared + _FLAT**2))
        return power

    @cached_property
    def _back(self) -> npt.NDArray[np.complexfloating]:
        return self._natural * self._transfer.conj()

    @cached_property
    def _spread(self) -> Floats:
        """The power that pictures have in the small one."""
        return self._folded(self._natural)

    @cached_property
    def _largest(self) -> float:
        """Above the largest eigenvalue of the operation times its adjoint, by power iterations.

        The border's copies can make it several times what the frequencies tell.
        """
        vector: Floats = np.random.default_rng(0).random(self.size)
        for _ in range(_POWER_TURNS):
            vector = self(self.adjoint(vector / np.linalg.norm(vector)))
        return _ABOVE * float(np.linalg.norm(vector))

    @cached_property
    def _power(self) -> Floats:
        return self._folded(np.ones(()))

    def _folded(self, power: Floats) -> Floats:
        """`power` seen through the kernel, all aliases of a small picture's frequency together."""
        seen = power * np.abs(self._transfer) ** 2
        (_, rows), (_, cols) = self._extents
        total: Floats = seen.reshape(self.scale, rows, self.scale, cols).sum(axis=(0, 2)) / self.scale**2
        return total

    @cached_property
    def _fading(self) -> Floats:
        """One on the picture and near it, zero where the period ends."""
        lines = []
        for side, extent in self._extents:
            place = np.arange(extent) - _MARGIN
            beyond = np.maximum(np.maximum(-0.5 - place, place - side + 0.5), 0)
            far = np.where(place < 0, _MARGIN, extent - side - _MARGIN)
            lines.append(0.5 + 0.5 * np.cos(np.pi * np.clip(2 * beyond / far - 1, 0, 1)))
        made: Floats = np.outer(*lines)
        return made


class _Line:
    """One axis of a reduction: what of the border's copies is needed, and which blurred pixels are kept."""

    def __init__(self, taps: int, side: int, scale: int) -> None:
        # Small pixel r takes large pixels scale*r + last - tap.
        last = taps // 2 + (scale - 1) // 2
        self.before = max(0, taps - 1 - last)
        self.after = max(0, last - scale + 1)
        self.length = self.before + scale * side + self.after
        first = self.before + last
        self.taken = slice(first, first + scale * (side - 1) + 1, scale)
