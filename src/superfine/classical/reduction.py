"""Linear operators that make pictures a whole number of times smaller, with their adjoints and right inverses.

Each is a matrix A on the levels as they are stored, (s*h, s*w) -> (h, w), the same for all channels, and takes borders
as the resizer that it is called after does. Of a matrix with independent rows, A+ = A^T (A A^T)^-1 is the right
inverse, and x + A+ (y - A x) the picture nearest to x that A makes y of: its null space component stays as it is.
A resizer's A is a Kronecker product of two bands; the inverse of A A^T along one axis falls by a factor of three per
sample, so that A+ is a product of two bands as well, to float32's last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from superfine.classical.kernels import check_kernel, fast_length
from superfine.classical.resample import KERNELS, Taps, resize_axis, taps
from superfine.errors import ShapeError, UsageError

__all__ = [
    "LARGEST_SCALE",
    "REDUCTIONS",
    "Line",
    "Patch",
    "Reduction",
    "across",
    "kernel_reduction",
    "nearly_inverse",
    "reduction",
    "resampling_line",
]

Floats = npt.NDArray[np.floating]
Span = tuple[int, int]
_Clipped = tuple[Floats, npt.NDArray[np.bool_]]

#: The operators that have a name. MATLAB's `imresize` and antialiased bicubic are one linear operator as long as
#: nothing is rounded between the axes and borders are replicated, as public LR pictures were made (newer MATLAB
#: mirrors).
REDUCTIONS: Final = ("matlab-bicubic", "bicubic", "box")
#: Larger scales than these aren't made anywhere.
LARGEST_SCALE: Final = 16
# Samples on each side after which an inverse has fallen below 1e-10 of its middle.
_DECAY: Final = 21
# Of an inverse, what is smaller changes nothing; as a factor it may underflow, and that takes ten times as long.
_TINY: Final = 1e-12
# Samples from a border after which it isn't felt.
_FAR: Final = 4 * _DECAY
# The same of reducing.
_BORDER: Final = 4
# What a kernel lets through of a frequency is taken to be no less than this share of the most.
_FAINTEST: Final = 1e-2
# Columns that are worked on together, and always the same ones.
_BLOCK: Final = 32


@dataclass(frozen=True, eq=False)
class Line:
    """One axis of a separable operator: `large` samples become `small`; all matrices are dense blocks in float64."""

    taps: Taps
    large: int

    @property
    def small(self) -> int:
        """How many samples it makes."""
        return len(self.taps.index)

    def reducing(self, start: int, stop: int) -> tuple[Floats, Span]:
        """Small samples [start, stop) as sums of large ones: the matrix, and the large samples that it wants."""
        first, last = self.taps.bounds(start, stop)
        matrix = np.zeros((stop - start, last - first))
        rows = np.arange(stop - start)
        for tap in range(self.taps.index.shape[1]):  # replicated borders: several taps may be one sample
            np.add.at(matrix, (rows, self.taps.index[start:stop, tap] - first), self.taps.weight[start:stop, tap])
        return matrix, (first, last)

    def inverting(self, start: int, stop: int) -> tuple[Floats, Span]:
        """The right inverse's rows of [start, stop): (s*(stop - start), ...), and the small samples that it wants.

        Only for whole scales.
        """
        # Far from both borders all blocks of one length are alike.
        place = min(start, _FAR), min(self.small - stop, _FAR), stop - start
        span = max(0, start - _DECAY), min(self.small, stop + _DECAY)
        if place not in self._inverses:
            self._inverses[place] = self._inverse(start, stop, span)
        return self._inverses[place], span

    def clipped(self, start: int, stop: int) -> _Clipped:
        """Small samples [start, stop) of the large ones [s*start, s*stop) alone: (n, s*n), and which want no others.

        Only for whole scales.
        """
        scale = self.large // self.small
        matrix, (first, last) = self.reducing(start, stop)
        low, high = scale * start, scale * stop
        made = np.zeros((stop - start, high - low))
        inner = slice(max(first, low) - first, min(last, high) - first)
        made[:, max(first, low) - low : min(last, high) - low] = matrix[:, inner]
        index = self.taps.index[start:stop]
        return made, (index.min(axis=1) >= low) & (index.max(axis=1) < high)

    @cached_property
    def _inverses(self) -> dict[tuple[int, int, int], Floats]:
        return {}

    def _inverse(self, start: int, stop: int, span: Span) -> Floats:
        scale = self.large // self.small
        outer = max(0, start - 2 * _DECAY), min(self.small, stop + 2 * _DECAY)
        matrix, (first, _) = self.reducing(*outer)
        inverse = np.linalg.inv(matrix @ matrix.T)
        made = np.zeros((scale * (stop - start), outer[1] - outer[0]))
        low, high = max(first, scale * start), min(first + matrix.shape[1], scale * stop)
        made[low - scale * start : high - scale * start] = matrix[:, low - first : high - first].T
        whole = made @ inverse
        whole[np.abs(whole) < _TINY] = 0
        return whole[:, span[0] - outer[0] : span[1] - outer[0]]

    @cached_property
    def reducing_blocks(self) -> list[tuple[Span, Span, npt.NDArray[np.float32]]]:
        """`reducing` for the whole axis in blocks of a fixed length: small span, large span, matrix transposed."""
        return [self._block(self.reducing(*span), span) for span in _spans(self.small)]

    @cached_property
    def inverting_blocks(self) -> list[tuple[Span, Span, npt.NDArray[np.float32]]]:
        """`inverting` for the whole axis in blocks of a fixed length: large span, small span, matrix transposed."""
        scale = self.large // self.small
        made = []
        for start, stop in _spans(self.small):
            made.append(self._block(self.inverting(start, stop), (scale * start, scale * stop)))
        return made

    @staticmethod
    def _block(made: tuple[Floats, Span], span: Span) -> tuple[Span, Span, npt.NDArray[np.float32]]:
        return span, made[1], np.ascontiguousarray(made[0].T.astype(np.float32))


def _spans(size: int) -> list[Span]:
    return [(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]


def across(pixels: Floats, blocks: list[tuple[Span, Span, npt.NDArray[np.float32]]]) -> Floats:
    """Apply blocks of a `Line` along the last axis of (..., columns), in the dtype of `pixels`."""
    made = np.empty((*pixels.shape[:-1], blocks[-1][0][1]), pixels.dtype)
    for (start, stop), (first, last), matrix in blocks:
        np.matmul(pixels[..., first:last], matrix.astype(pixels.dtype, copy=False), out=made[..., start:stop])
    return made


class Patch(Protocol):
    """An operator on a rectangle of the picture: planes (c, s*n, s*m) and samples (c, n, m)."""

    whole: npt.NDArray[np.bool_]
    """(n, m): which samples depend on nothing outside of the rectangle; the others mean nothing."""

    def reduce(self, large: Floats) -> Floats:
        """(c, s*n, s*m) -> (c, n, m)."""

    def adjoint(self, small: Floats) -> Floats:
        """(c, n, m), zero where not `whole`, -> (c, s*n, s*m)."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """A linear operator that makes pictures `scale` times smaller; made by `reduction` and `kernel_reduction`."""

    name: str
    scale: int
    kernel: Floats | None = None
    """Of the operator called `kernel`: (kh, kw), as `classical.kernels` convolves it."""

    def __call__(self, large: Floats) -> Floats:
        """Make a whole picture small: (s*h, s*w) or (s*h, s*w, c), floating -> (h, w) or (h, w, c), dtype kept.

        Raises ShapeError for sides that are no multiples of the scale.
        """
        if large.ndim not in (2, 3) or 0 in large.shape or any(side % self.scale for side in large.shape[:2]):
            raise ShapeError(
                f"want (H, W) or (H, W, C) with sides that are multiples of {self.scale}, got {large.shape}"
            )
        if not np.issubdtype(large.dtype, np.floating):
            raise ShapeError(f"want a floating array, got {large.dtype}; divide by its white level first")
        rows, cols = large.shape[0] // self.scale, large.shape[1] // self.scale
        if self.kernel is None:
            for axis, side in ((0, rows), (1, cols)):
                large = resize_axis(large, self.line(side).taps, axis)
            return large
        planes = np.moveaxis(np.atleast_3d(large), 2, 0)
        small = self.patch((rows, cols), (0, rows), (0, cols)).reduce(planes)
        return np.moveaxis(small, 0, 2).reshape((rows, cols, *large.shape[2:])).astype(large.dtype, copy=False)

    @property
    def reach(self) -> int:
        """Small pixels up to which a sample's large pixels lie away from its own."""
        if self.kernel is not None:
            ends = [_kernel_ends(taps, self.scale) for taps in self.kernel.shape]
            return max(max(last // self.scale, -(first // self.scale)) for first, last in ends)
        return 0 if self.name == "box" or self.scale == 1 else 2

    @property
    def gain(self) -> float:
        """The most that a change of all large pixels by one changes a sample."""
        if self.kernel is not None:
            return float(np.abs(self.kernel).sum())
        return float(np.abs(self.line(9).taps.weight).sum(axis=1).max()) ** 2

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of A A^T, of a picture that is neither small nor at the border much (within 5 %)."""
        if self.kernel is None:
            matrix, _ = self.line(24).reducing(0, 24)
            return float(np.linalg.norm(matrix, 2)) ** 4
        side = max(24, 4 * self.reach)
        patch = self.patch((side, side), (0, side), (0, side))
        # Power iterations, begun evenly: blurs let the lowest frequencies through best.
        vector: Floats = np.ones((1, side, side))
        for _ in range(20):
            vector = patch.reduce(patch.adjoint(vector / np.linalg.norm(vector)))
        return float(np.linalg.norm(vector))

    def line(self, small: int) -> Line:
        """One axis with `small` samples, of a separable operator."""
        return _line(self.name, self.scale, small)

    def patch(self, shape: tuple[int, int], rows: Span, cols: Span) -> Patch:
        """The operator on small rows and columns [first, last) of a picture whose small size is `shape`."""
        if self.kernel is None:
            down, right = (_clipped(self.name, self.scale, *axis) for axis in zip(shape, (rows, cols), strict=True))
            return _SeparablePatch(down, right)
        return _KernelPatch(self.kernel, self.scale, shape, rows, cols)


def reduction(name: str, scale: int) -> Reduction:
    """One of `REDUCTIONS` for a whole scale from 1 to 16. Raises UsageError for another name or scale."""
    if name not in REDUCTIONS:
        raise UsageError(f"no reduction {name!r}; there are {', '.join(REDUCTIONS)}, or a file with a kernel")
    return Reduction(name, _checked_scale(scale))


def kernel_reduction(kernel: Floats, scale: int) -> Reduction:
    """Blur by a kernel (kh, kw) that adds up to one, then each s-th pixel; centre and border by `classical.kernels`.

    Raises UsageError for a kernel that isn't fit, or a scale outside 1 to 16.
    """
    return Reduction("kernel", _checked_scale(scale), check_kernel(kernel))


def resampling_line(large: int, small: int) -> Line:
    """One axis of antialiased bicubic from any size to any smaller one."""
    return Line(taps(large, small, KERNELS["bicubic"]), large)


def nearly_inverse(reduction: Reduction, size: tuple[int, int]) -> Callable[[Floats], Floats]:
    """About the inverse of a kernel's A A^T: samples (c, *size) -> samples, exact where a picture has no border.

    Frequencies that the kernel takes away stay small.
    """
    kernel, scale = np.atleast_2d(reduction.kernel), reduction.scale  # type: ignore[arg-type]
    period = [scale * -(-2 * side // scale) for side in kernel.shape]
    alike = np.fft.irfft2(np.abs(np.fft.rfft2(kernel, period)) ** 2, period)[::scale, ::scale]
    rows, cols = (np.arange(side) - side * (np.arange(side) > side // 2) for side in alike.shape)
    sides = fast_length(size[0]), fast_length(size[1])
    spread = np.zeros(sides)
    np.add.at(spread, (rows[:, None] % sides[0], cols % sides[1]), alike)
    power = np.fft.rfft2(spread).real
    gain = 1 / np.maximum(power, _FAINTEST * power.max())

    def inverted(small: Floats) -> Floats:
        made: Floats = np.fft.irfft2(np.fft.rfft2(small, sides) * gain, sides)[:, : size[0], : size[1]]
        return made

    return inverted


def _checked_scale(scale: int) -> int:
    if scale not in range(1, LARGEST_SCALE + 1) or scale is True:
        raise UsageError(f"a scale of {scale!r} has no reduction; want a whole number from 1 to {LARGEST_SCALE}")
    return int(scale)


@lru_cache(maxsize=16)
def _line(name: str, scale: int, small: int) -> Line:
    return _new_line(name, scale, small)


def _new_line(name: str, scale: int, small: int) -> Line:
    if name == "box":
        index = np.arange(scale * small).reshape(small, scale)
        return Line(Taps(index, np.full((small, scale), 1 / scale)), scale * small)
    return resampling_line(scale * small, small)


def _clipped(name: str, scale: int, small: int, span: Span) -> _Clipped:
    """`Line.clipped` of a line with `small` samples."""
    if min(span[0], small - span[1]) >= _BORDER:
        return _inside(name, scale, span[1] - span[0])
    return _line(name, scale, small).clipped(*span)


@lru_cache(maxsize=64)
def _inside(name: str, scale: int, length: int) -> _Clipped:
    """The same of so many samples away from borders, where all are alike."""
    return _new_line(name, scale, length + 2 * _BORDER).clipped(_BORDER, _BORDER + length)


class _SeparablePatch:
    """Two dense matrices."""

    def __init__(self, down: _Clipped, across: _Clipped) -> None:
        self.down, whole_rows = down
        self.across, whole_cols = across
        self.whole = whole_rows[:, None] & whole_cols

    def reduce(self, large: Floats) -> Floats:
        down, right = self._in(large.dtype)
        made: Floats = down @ large @ right.T
        return made

    def adjoint(self, small: Floats) -> Floats:
        down, right = self._in(small.dtype)
        made: Floats = down.T @ small @ right
        return made

    def _in(self, dtype: npt.DTypeLike) -> tuple[Floats, Floats]:
        if self.down.dtype != dtype:
            self.down, self.across = self.down.astype(dtype), self.across.astype(dtype)
        return self.down, self.across


def _kernel_ends(taps: int, scale: int) -> Span:
    """The first and last large sample that small sample 0 takes, both included."""
    last = taps // 2 + (scale - 1) // 2
    return last - taps + 1, last


class _KernelPatch:
    """Convolution in Fourier space on the rectangle with its edges replicated."""

    def __init__(self, kernel: Floats, scale: int, shape: tuple[int, int], rows: Span, cols: Span) -> None:
        self.around, self.taken, self.padded, whole = [], [], [], []
        for count, side, span in zip(kernel.shape, shape, (rows, cols), strict=True):
            first, last = _kernel_ends(count, scale)
            before, after, kept = max(0, -first), max(0, last - scale + 1), span[1] - span[0]
            at = before + last
            self.around.append((before, after))
            self.taken.append(slice(at, at + scale * (kept - 1) + 1, scale))
            self.padded.append(before + scale * kept + after)
            place = scale * np.arange(*span)
            whole.append(
                ((place + first >= scale * span[0]) | (span[0] == 0))
                & ((place + last < scale * span[1]) | (span[1] == side))
            )
        self.whole = whole[0][:, None] & whole[1]
        self.sides = [fast_length(side) for side in self.padded]
        self.transfer = np.fft.rfft2(kernel, self.sides)

    def reduce(self, large: Floats) -> Floats:
        padded = np.pad(large, [(0, 0), *self.around], mode="edge")
        blurred = np.fft.irfft2(np.fft.rfft2(padded, self.sides) * self.transfer, self.sides)
        small: Floats = blurred[:, self.taken[0], self.taken[1]].astype(large.dtype, copy=False)
        return small

    def adjoint(self, small: Floats) -> Floats:
        spread = np.zeros((len(small), *self.sides), small.dtype)
        spread[:, self.taken[0], self.taken[1]] = small
        padded = np.fft.irfft2(np.fft.rfft2(spread) * self.transfer.conj(), self.sides)
        padded = padded[:, : self.padded[0], : self.padded[1]]
        for axis, (before, after) in ((1, self.around[0]), (2, self.around[1])):
            turned = np.moveaxis(padded, axis, 0)  # what the border's copies were made of gets all that they got
            end = len(turned) - after
            turned[before] += turned[:before].sum(axis=0)
            turned[end - 1] += turned[end:].sum(axis=0)
            padded = np.moveaxis(turned[before:end], 0, axis)
        made: Floats = np.ascontiguousarray(padded.astype(small.dtype, copy=False))
        return made
