"""How far a picture has moved against another: to the bound that noise sets, with a standard error.

Content moves by +d: `second[r, c] = first[r - dy, c - dx]` gives the shift (dy, dx).

Three steps. The start is the highest correlation over the overlap; in pictures that repeat themselves the others
that come near it are followed too, and the one that leaves the least noise is taken. Then an estimating
equation is solved by Gauss-Newton: the residual of `second` and the shifted `first`, weighted by frequency, is
orthogonal to the gradient of both pictures' mean,

    sum over f of  weight(f) * conj(gradient(f)) * residual(f) = 0,

in which the noise of the one picture never meets itself in the other's place, so that it
doesn't pull. The weights are those of maximum likelihood where the content is unknown
and both pictures are noisy, S / (N (2 S + N)) with the spectra S of what both share and N of
what they don't, both measured from the pictures at hand: frequencies that noise or aliasing has
spoiled count for little, as do pixels near the border where the residual shows that the spline
misses what lies beyond. The standard error is that of the equation's root, which at the best
weights is the Cramer-Rao bound.
Sources: Hannan and Thomson 1973, doi:10.1093/biomet/60.3.469 (the weights); Unser, Aldroubi and
Eden 1993, doi:10.1109/78.193220 (the spline); Robinson and Milanfar 2004,
doi:10.1109/TIP.2004.832923 (bound and bias).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from superfine.color import FULL_LUMA
from superfine.errors import NoMatchError, ShapeError, UsageError

__all__ = ["Registration", "box_mean", "check_pair", "luma", "register", "whole_shift"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complex128]
Pair = tuple[float, float]
Float = TypeVar("Float", np.float32, np.float64)

_UNRELIABLE: Final = "no reliable match: {}"
_SMALLEST: Final = 16
# A shift may be this share of each side.
_REACH: Final = 0.25
# Windows: their largest side, how many a side, and the side of what the search for the start looks at.
_WINDOW, _WINDOWS, _GLANCE = 256, 3, 320
# Peaks that are looked at, how far from each other at least, and at which share of the best one's height another is
# its rival: all rivals are followed, and the one that leaves the least noise is right.
_PEAKS, _APART, _RIVAL = 16, 2, 0.95
# Rivals further than this from each other, in pixels, that leave noise within this factor can't be told apart.
_SAME, _ALIKE = 0.5, 1.03
# The search takes slow shading away by a box of this radius.
_SHADING: Final = 8
_DEGREE: Final = 9
_MARGIN: Final = _DEGREE // 2 + 3
# Pixels at a window's edge where the spline doesn't know what comes after; how far from the edge that may show, and the
# excess of energy there that may be chance.
_EDGE, _FRINGE, _CHANCE = 4, 20, 1.5
# Central differences of eighth order.
_SLOPE: Final = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
# Spectra are smoothed by a window over lags, Gaussian in units of the size over this, cut off at so many of its widths:
# with a wider one the weights would learn the noise.
_SMOOTHING, _LAGS = 48, 5.0
# No frequency is believed beyond this: what is not shared, in shares of what is.
_PRECISION: Final = 1e-8
_PASS: Final = 0.3
_CUTOFFS: Final = (9.0, 0.4, 0.28, 0.2, 0.14, 0.1, 0.07, 0.05)
# What rises over this many times the lowest level of noise counts as a pull the same way everywhere: so many times it
# where frequencies are chosen, which aliasing has to lose, and so much of it in the standard error.
_FLAT, _PULL, _PULL_SEEN = 2.0, 2.0, 0.5
# Steps from one place, the last that may change weights, and places to begin from.
_TURNS, _LAST_WEIGHTS, _STARTS = 14, 6, 5
# A step's greatest length in pixels, and its length when weights stand, when gradients do, and when all is done.
_STRIDE, _NEAR, _STEADY, _CLOSE = 0.7, 0.02, 3e-3, 1e-5
# Weights stand where a step takes this share of the residual; all is done at this share of the standard error.
_LITTLE, _CLOSE_TO_NOISE = 0.03, 0.01
# Which of `_CUTOFFS` the first step takes.
_FIRST_LOW: Final = 4
# Windows are laid upon each other anew where the rest is more than this at the end, or on the way.
_ASIDE, _ASTRAY = 0.6, 1.3
# The radius of "nearby"; the robust option: how many times the usual energy halves a pixel's weight.
_NEARBY, _TOLERANCE = 2, 4.0
# Affine: least sides, windows a side, how many have to fit, rounds, when done (pixels at the border), the error of a
# window that isn't noise, and how far from the identity the linear part may be.
_SMALLEST_AFFINE, _SMALLEST_WINDOW, _AFFINE_WINDOWS, _FEWEST_WINDOWS = 64, 32, 4, 4
_AFFINE_TURNS, _AFFINE_CLOSE, _WINDOW_ERROR, _MOST_AFFINE = 6, 1e-3, 1e-4, 0.2
# After so many samples the spline has forgotten a border.
_SPLINE_FADES: Final = 16
_LEAST_SLOPE: Final = 1e-6
# The least correlation is lower where no other peak reaches this share of the best one's height.
_LEAST_CORRELATION, _LEAST_OF_OUTSTANDING, _FAR_LOWER, _LARGEST_ERROR = 0.45, 0.25, 0.55, 0.2


@dataclass(frozen=True, eq=False)
class Registration:
    """How `second` lies against `first`."""

    shift: Pair
    """(dy, dx) in pixels: content moves down and right by so much from `first` to `second`."""
    error: Pair
    """Standard errors of dy and dx, in pixels, from the noise that the residual shows."""
    matrix: Floats
    """(2, 3): content at (r, c) of `first` is at `matrix @ (r, c, 1)` in `second`; the shift is that of the centre."""
    overlap: float
    """Share of the picture that both show."""
    noise: float
    """Standard deviation of what the pictures don't share, a picture, in their own units."""
    gain: float
    """`second` is about `gain * first + offset`."""
    offset: float
    correlation: float
    """Of both pictures where they overlap, each frequency by its weight: 1 where they are the same."""
    inliers: float
    """Share of the overlap that moves so: 1 unless robust."""


@dataclass(frozen=True, eq=False)
class _Spectra:
    """What the windows share and what they don't, per frequency of `rfft2`: a sample's variance each."""

    common: Floats
    """Smoothed, as is `other`."""
    other: Floats
    shared: Floats
    """As it is, as are `first` and `second`."""
    first: Floats
    second: Floats


@dataclass(frozen=True, eq=False)
class _Fit:
    """A solved estimating equation."""

    covariance: Floats
    noise: float
    gain: float
    offset: float
    correlation: float
    inliers: float
    settled: bool


def register(
    first: Array, second: Array, *, model: Literal["translation", "affine"] = "translation", robust: bool = False
) -> Registration:
    """Measure how content has moved from `first` to `second`.

    Both: (H, W), (H, W, 1), RGB or RGBA (of which luma is taken), of one shape, 16 x 16 pixels or more (affine: 64),
    of any real dtype and range, without NaN; neither is changed. The shift may be up to a quarter of each side.
    model: "translation", or "affine" for hand-held pictures, turned by some degrees at most. robust: leave out what
    moves otherwise than the rest. Large pictures are compared in nine windows, or sixteen for affine.
    Raises UsageError for an unknown model, ShapeError for pictures that can't be compared, NoMatchError where nothing
    reliable is found.
    """
    if model not in ("translation", "affine"):
        raise UsageError(f"no model {model!r}; there are translation and affine")
    check_pair(first, second)
    if model == "affine":
        return _register_affine(first, second, robust=robust)
    peaks = _peaks(first, second)
    rivals, stands_out = [next(peaks)], False
    for peak in peaks:
        if peak.likeness < _RIVAL * rivals[0].likeness:
            stands_out = peak.likeness < _FAR_LOWER * rivals[0].likeness
            break
        rivals.append(peak)
    least = _LEAST_OF_OUTSTANDING if stands_out else _LEAST_CORRELATION
    found, refusals = [], []
    for peak in rivals:
        try:
            found.append(_register_from(peak, first, second, least=least, robust=robust))
        except NoMatchError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    best = min(found, key=lambda one: one.noise)
    for other in found:
        beside = max(abs(other.shift[axis] - best.shift[axis]) for axis in (0, 1))
        if beside > _SAME and other.noise < _ALIKE * best.noise:
            raise NoMatchError(_UNRELIABLE.format(_repeated(best.shift, other.shift)))
    return best


def _repeated(one: Pair, other: Pair) -> str:
    places = " and ".join(f"({down:.1f}, {right:.1f})" for down, right in (one, other))
    return f"the pictures repeat themselves, and shifts by {places} fit alike"


def _register_from(peak: "_Peak", first: Array, second: Array, *, least: float, robust: bool) -> Registration:
    start, ahead = _placed(peak, first, second)
    for _ in range(_STARTS):
        fit, rest = _solve(*_windows(first, second, start), ahead, robust=robust)
        if fit is not None and np.abs(rest).max() < _ASIDE:
            break
        nearest = np.rint(rest).astype(int)
        ahead = rest - nearest
        start = (start[0] + int(nearest[0]), start[1] + int(nearest[1]))
        if any(abs(start[axis]) > _REACH * first.shape[axis] + 1 for axis in (0, 1)):
            raise NoMatchError(_UNRELIABLE.format("what fits best is more than a quarter of the picture away"))
    else:
        raise NoMatchError(_UNRELIABLE.format("no shift fits better than those next to it"))
    if not fit.settled:
        raise NoMatchError(_UNRELIABLE.format("no shift fits better than those next to it"))
    error = np.sqrt(np.diag(fit.covariance))
    _check_reliable(fit, error, least)
    rows, cols = first.shape[:2]
    shift = (start[0] + float(rest[0]), start[1] + float(rest[1]))
    return Registration(
        shift=shift,
        matrix=np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]),
        error=(float(error[0]), float(error[1])),
        overlap=max(0.0, 1 - abs(shift[0]) / rows) * max(0.0, 1 - abs(shift[1]) / cols),
        noise=fit.noise,
        gain=fit.gain,
        offset=fit.offset,
        correlation=fit.correlation,
        inliers=fit.inliers,
    )


def check_pair(first: Array, second: Array) -> None:
    """Raise ShapeError for pictures that can't be compared, NoMatchError for one flat colour."""
    for name, pixels in (("first", first), ("second", second)):
        if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
            raise ShapeError(f"want (H, W) or (H, W, 1|3|4) of the {name} picture, got {pixels.shape}")
        if pixels.dtype.kind not in "uif":
            raise ShapeError(f"want real numbers in the {name} picture, got {pixels.dtype}")
    if first.shape[:2] != second.shape[:2]:
        (rows, cols), (others, other) = first.shape[:2], second.shape[:2]
        raise ShapeError(f"the pictures are {rows} x {cols} and {others} x {other} (rows x cols); cut them to one size")
    if _colours(first) != _colours(second):
        raise ShapeError(
            f"one picture has colours and one is grey ({first.shape} and {second.shape}); make both grey or both RGB"
        )
    if min(first.shape[:2]) < _SMALLEST:
        rows, cols = first.shape[:2]
        raise ShapeError(
            f"the pictures are {rows} x {cols}; to be compared they need {_SMALLEST} pixels a side at least"
        )
    for name, pixels in (("first", first), ("second", second)):
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ShapeError(f"the {name} picture has NaN or infinity; fill such pixels first")
        if pixels.min() == pixels.max():
            raise NoMatchError(
                _UNRELIABLE.format(f"the {name} picture is one flat colour, on which nothing can be seen to move")
            )


def _check_reliable(fit: _Fit, error: Floats, least: float) -> None:
    if fit.correlation < least:
        raise NoMatchError(
            _UNRELIABLE.format(f"where they fit best their correlation is {fit.correlation:.2f}, under {least}")
        )
    if error.max() > _LARGEST_ERROR:
        raise NoMatchError(
            _UNRELIABLE.format(
                f"the standard error would be {error.max():.2g} px, over {_LARGEST_ERROR}; they show too little"
            )
        )


def _colours(pixels: Array) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] >= 3


def luma(pixels: Array) -> Floats:
    """Luma of a part of a picture, (h, w)."""
    if pixels.ndim == 2:
        return pixels.astype(np.float64)
    if not _colours(pixels):
        return pixels[..., 0].astype(np.float64)
    plane: Floats = sum(weight * pixels[..., channel] for channel, weight in enumerate(FULL_LUMA))
    return plane


# ---------------------------------------------------------------------------------------------- the start


def whole_shift(first: Array, second: Array) -> tuple[int, int]:
    """The whole-pixel shift at which both look most alike."""
    start, _ = _placed(next(_peaks(first, second)), first, second)
    return start


@dataclass(frozen=True, eq=False)
class _Peak:
    """Where two pictures, or what they are when made smaller by `step`, look alike."""

    place: tuple[int, int]
    ahead: Floats
    """About how much further the peak is, in samples."""
    likeness: float
    step: int


def _peaks(first: Array, second: Array) -> Iterator[_Peak]:
    """The highest first."""
    step = math.ceil(max(first.shape[:2]) / _GLANCE)
    one, two = (_shrunk(pixels, step) for pixels in (first, second))
    reach = (int(one.shape[0] * _REACH), int(one.shape[1] * _REACH))
    likeness = _likeness(one, two, reach)
    left = likeness.copy()
    for _ in range(_PEAKS):
        row, col = _best(left)
        top, start = row + reach[0], col + reach[1]
        yield _Peak((row, col), _vertex(likeness, row, col), float(likeness[top, start]), step)
        left[max(0, top - _APART) : top + _APART + 1, max(0, start - _APART) : start + _APART + 1] = -np.inf


def _placed(peak: _Peak, first: Array, second: Array) -> tuple[tuple[int, int], Floats]:
    """The whole-pixel shift of the pictures themselves, and about how much is left of it."""
    start = (peak.place[0] * peak.step, peak.place[1] * peak.step)
    if peak.step == 1:
        return start, peak.ahead
    pairs = zip(*_windows(first, second, start), strict=True)
    near = np.stack([_likeness(*pair, (2 * peak.step, 2 * peak.step)) for pair in pairs]).sum(axis=0)
    row, col = _best(near)
    return (start[0] + row, start[1] + col), _vertex(near, row, col)


def _vertex(likeness: Floats, row: int, col: int) -> Floats:
    """How far beside its highest sample a peak is, by a parabola through three along each axis."""
    middle = [count // 2 + place for count, place in zip(likeness.shape, (row, col), strict=True)]
    ahead = np.zeros(2)
    for axis, line in enumerate((likeness[:, middle[1]], likeness[middle[0]])):
        if 0 < middle[axis] < len(line) - 1:
            before, here, after = line[middle[axis] - 1 : middle[axis] + 2]
            bend = before - 2 * here + after
            ahead[axis] = np.clip(0.5 * (before - after) / bend, -0.5, 0.5) if bend < 0 else 0
    return ahead


def _shrunk(pixels: Array, step: int) -> Floats:
    """Means over step x step pixels of luma."""
    if step == 1:
        return luma(pixels)
    rows, cols = pixels.shape[0] // step, pixels.shape[1] // step
    total: npt.NDArray[Any] = pixels[: rows * step : step].astype(np.float64 if pixels.dtype.kind == "f" else np.int64)
    whole: npt.NDArray[Any] = pixels
    for row in range(1, step):
        total += whole[row : rows * step : step]
    edges = np.arange(0, cols * step, step)
    return luma(np.add.reduceat(total[:, : cols * step], edges, axis=1)) / step**2


def _best(likeness: Floats) -> tuple[int, int]:
    row, col = np.unravel_index(int(np.argmax(likeness)), likeness.shape)
    return int(row) - likeness.shape[0] // 2, int(col) - likeness.shape[1] // 2


def _likeness(first: Floats, second: Floats, reach: tuple[int, int]) -> Floats:
    """Correlation of the overlap at each whole-pixel shift from -reach to reach: (2 * reach + 1) a side.

    Of what lies between fine noise and slow shading.
    """
    one, two = _band(first), _band(second)
    rows, cols = one.shape
    size = (_fast(rows + reach[0]), _fast(cols + reach[1]))
    product = np.fft.irfft2(np.conj(np.fft.rfft2(one, size)) * np.fft.rfft2(two, size), size)
    down, across = np.arange(-reach[0], reach[0] + 1), np.arange(-reach[1], reach[1] + 1)
    product = product[down][:, across]
    count = np.outer(rows - np.abs(down), cols - np.abs(across))
    sums = [_overlap_sums(plane, sign * down, sign * across) for plane, sign in ((one, 1), (two, -1))]
    squares = [_overlap_sums(plane**2, sign * down, sign * across) for plane, sign in ((one, 1), (two, -1))]
    spread = [np.maximum(square - total**2 / count, 0) for square, total in zip(squares, sums, strict=True)]
    scale = np.sqrt(spread[0] * spread[1])
    likeness: Floats = (product - sums[0] * sums[1] / count) / np.maximum(scale, 1e-9 * scale.max() + 1e-300)
    return likeness


def _overlap_sums(plane: Floats, down: npt.NDArray[np.intp], across: npt.NDArray[np.intp]) -> Floats:
    """Sums over the part of `plane` that still meets the other picture when it moves by each shift."""
    rows, cols = plane.shape
    table = np.zeros((rows + 1, cols + 1))
    table[1:, 1:] = plane.cumsum(axis=0).cumsum(axis=1)
    top, bottom = np.maximum(0, -down), np.minimum(rows, rows - down)
    left, right = np.maximum(0, -across), np.minimum(cols, cols - across)
    total: Floats = table[bottom][:, right] - table[top][:, right] - table[bottom][:, left] + table[top][:, left]
    return total


def _band(plane: Floats) -> Floats:
    """What lies between fine noise and slow shading."""
    (fine, coarse), (finer, coarser) = (_band_matrices(count) for count in plane.shape[-2:])
    return fine @ plane @ finer.T - coarse @ plane @ coarser.T


@lru_cache(maxsize=16)
def _band_matrices(count: int) -> tuple[Floats, Floats]:
    """(count, count) each: running means over three samples, the middle one twice, and over the box of shading."""
    still = np.eye(count)
    fine = box_mean(box_mean(still, 0, before=1, after=0), 0, before=0, after=1)
    return fine, box_mean(still, 0, before=_SHADING, after=_SHADING)


def box_mean(plane: npt.NDArray[Float], axis: int, *, before: int, after: int) -> npt.NDArray[Float]:
    """Running means along an axis; beyond the border the picture is mirrored. The dtype is kept."""
    count = plane.shape[axis]
    pad = [(0, 0)] * plane.ndim
    pad[axis] = (before + 1, after)
    total = np.cumsum(np.pad(plane, pad, mode="symmetric"), axis=axis, dtype=np.float64)
    head, tail = [slice(None)] * plane.ndim, [slice(None)] * plane.ndim
    head[axis], tail[axis] = slice(before + after + 1, before + after + 1 + count), slice(0, count)
    total = (total[tuple(head)] - total[tuple(tail)]) * (1 / (before + after + 1))
    return total.astype(plane.dtype, copy=False)


def _windows(first: Array, second: Array, shift: tuple[int, int]) -> tuple[Floats, Floats]:
    """The overlap, or windows spread over it, laid upon each other by a whole-pixel shift: (count, h, w) each."""
    spans = [list(_spans(first.shape[axis] - abs(shift[axis]))) for axis in (0, 1)]
    moved = [max(0, shift[axis]) for axis in (0, 1)], [max(0, -shift[axis]) for axis in (0, 1)]
    cut = []
    for pixels, (down, right) in ((first, moved[1]), (second, moved[0])):
        parts = [
            luma(pixels[top + down : bottom + down, left + right : end + right])
            for top, bottom in spans[0]
            for left, end in spans[1]
        ]
        cut.append(np.stack(parts))
    return cut[0], cut[1]


def _spans(length: int) -> Iterator[tuple[int, int]]:
    count = min(_WINDOWS, math.ceil(length / _WINDOW))
    side = min(_WINDOW, length // count)
    for index in range(count):
        start = round((index + 0.5) * length / count - side / 2)
        yield start, start + side


# ------------------------------------------------------------------------------------------------- affine


@dataclass(frozen=True, eq=False)
class _Map:
    """Where content goes: from p to centre + linear (p - centre) + shift."""

    centre: Floats
    linear: Floats
    shift: Floats

    def back(self, places: Floats) -> Floats:
        """(2, ...) in the second picture -> (2, ...) in the first."""
        flat = places.reshape(2, -1) - (self.centre + self.shift)[:, None]
        return (np.linalg.solve(self.linear, flat) + self.centre[:, None]).reshape(places.shape)

    def then(self, change: Floats) -> "_Map":
        """With a further shift by change @ (1, q - centre), change (2, 3)."""
        further = np.eye(2) + change[:, 1:]
        return _Map(self.centre, further @ self.linear, further @ self.shift + change[:, 0])


def _register_affine(first: Array, second: Array, *, robust: bool) -> Registration:
    """Windows are laid upon each other one by one; what they say is joined by least squares, until nothing moves."""
    size = first.shape[:2]
    if min(size) < _SMALLEST_AFFINE:
        raise ShapeError(
            f"the pictures are {size[0]} x {size[1]}; for affine they need {_SMALLEST_AFFINE} pixels a side at least"
        )
    one, two = luma(first), luma(second)
    start = whole_shift(first, second)
    place = _Map((np.array(size) - 1) / 2, np.eye(2), np.array(start, np.float64))
    side = int(np.clip(min(size) // 4, _SMALLEST_WINDOW, _WINDOW // 2))
    change = np.full((2, 3), np.inf)
    for turn in range(_AFFINE_TURNS):
        fits = [
            fit
            for window in _grid(size, side)
            if (fit := _fit_window(one, two, place, window, search=turn == 0, robust=robust)) is not None
        ]
        if len(fits) < _FEWEST_WINDOWS:
            raise NoMatchError(
                _UNRELIABLE.format(
                    f"{len(fits)} of {len(list(_grid(size, side)))} windows fit; affine needs {_FEWEST_WINDOWS}"
                )
            )
        change, covariance, kept = _join(fits, place.centre, robust=robust or turn == 0)
        place = place.then(change)
        if np.abs(change[:, 0]).max() + np.abs(change[:, 1:]).max() * max(size) / 2 < _AFFINE_CLOSE:
            break
    error = np.sqrt(np.diag(covariance)[[0, 3]])
    summary = [fit for _, _, fit in fits]
    joined = _Fit(
        covariance=np.diag(error**2),
        noise=float(np.median([fit.noise for fit in summary])),
        gain=float(np.median([fit.gain for fit in summary])),
        offset=float(np.median([fit.offset for fit in summary])),
        correlation=float(np.median([fit.correlation for fit in summary])),
        inliers=kept * float(np.mean([fit.inliers for fit in summary])),
        settled=True,
    )
    _check_reliable(joined, error, _LEAST_CORRELATION)
    if np.abs(place.linear - np.eye(2)).max() > _MOST_AFFINE or np.any(
        np.abs(place.shift) > np.array(size) * _REACH + 1
    ):
        raise NoMatchError(_UNRELIABLE.format("what fits best is turned, zoomed or moved too far to be believed"))
    constant = place.centre + place.shift - place.linear @ place.centre
    corners = place.back(np.stack(np.meshgrid(*(np.linspace(0, length - 1, 33) for length in size), indexing="ij")))
    inside = [(corners[axis] >= 0) & (corners[axis] <= size[axis] - 1) for axis in (0, 1)]
    return Registration(
        shift=(float(place.shift[0]), float(place.shift[1])),
        error=(float(error[0]), float(error[1])),
        matrix=np.column_stack([place.linear, constant]),
        overlap=float((inside[0] & inside[1]).mean()),
        noise=joined.noise,
        gain=joined.gain,
        offset=joined.offset,
        correlation=joined.correlation,
        inliers=joined.inliers,
    )


def _grid(size: tuple[int, ...], side: int) -> Iterator[tuple[int, int, int]]:
    """(top, left, side) of windows spread over a picture."""
    counts = [min(_AFFINE_WINDOWS, length // side) for length in size[:2]]
    for row in range(counts[0]):
        for col in range(counts[1]):
            top, left = (
                round((index + 0.5) * length / count - side / 2)
                for index, length, count in zip((row, col), size, counts, strict=False)
            )
            yield top, left, side


def _fit_window(
    one: Floats, two: Floats, place: _Map, window: tuple[int, int, int], *, search: bool, robust: bool
) -> tuple[Floats, Floats, _Fit] | None:
    """Centre of the window, the shift that is left there, and the fit; None where it says nothing."""
    top, left, side = window
    grid: Floats = np.mgrid[top : top + side, left : left + side].astype(np.float64)
    middle = grid.mean(axis=(1, 2))
    target = two[top : top + side, left : left + side]
    ahead = np.zeros(2)
    for turn in range(_STARTS):
        source = place.back(grid - ahead[:, None, None])
        if source.min() < 0 or any(source[axis].max() > one.shape[axis] - 1 for axis in (0, 1)):
            return None
        part = _sampled(one, source)
        if search and turn == 0:
            ahead = np.array(_best(_likeness(part, target, (side // 4, side // 4))), np.float64)
            continue
        try:
            fit, rest = _solve(part[None], target[None], np.zeros(2), robust=robust)
        except NoMatchError:
            return None
        if fit is not None and np.abs(rest).max() < _ASIDE:
            usable = fit.settled and fit.correlation > _LEAST_CORRELATION and np.isfinite(fit.covariance).all()
            return (middle, ahead + rest, fit) if usable else None
        ahead = ahead + np.rint(rest)
    return None


def _join(fits: list[tuple[Floats, Floats, _Fit]], centre: Floats, *, robust: bool) -> tuple[Floats, Floats, float]:
    """Least squares over windows -> change (2, 3) as `_Map.then` takes it, its covariance (6, 6), share that agrees."""
    design = np.array([np.kron(np.eye(2), np.concatenate([[1.0], middle - centre])) for middle, _, _ in fits])
    shifts = np.array([shift for _, shift, _ in fits])
    inverse = np.array([np.linalg.inv(fit.covariance + _WINDOW_ERROR**2 * np.eye(2)) for _, _, fit in fits])
    trust = np.ones(len(fits))
    scale = np.array([1.0, *(2 * [1 / max(float(np.abs(centre).max()), 1.0)])])
    scales = np.tile(scale, 2)
    for _ in range(10 if robust else 1):
        normal = np.einsum("n,nki,nkl,nlj->ij", trust, design * scales, inverse, design * scales)
        if np.linalg.cond(normal) > 1e10:
            raise NoMatchError(_UNRELIABLE.format("the windows that fit lie in one line"))
        change = np.linalg.solve(normal, np.einsum("n,nki,nkl,nl->i", trust, design * scales, inverse, shifts))
        rest = shifts - design @ (change * scales)
        distance = np.einsum("nk,nkl,nl->n", rest, inverse, rest)
        usual = max(float(np.median(distance)) / 1.39, 1.0)
        trust = 1 / (1 + distance / (9 * usual)) ** 2 if robust else trust
    excess = max(1.0, float((trust * distance).sum()) / max(2 * float(trust.sum()) - 6, 1.0))
    covariance = np.linalg.inv(normal) * excess * np.outer(scales, scales)
    return (change * scales).reshape(2, 3), covariance, float((trust > 0.25).mean())


def _sampled(plane: Floats, places: Floats) -> Floats:
    """The spline's value at places (2, h, w) that lie within the plane."""
    low = [max(0, math.floor(float(places[axis].min())) - _SPLINE_FADES) for axis in (0, 1)]
    high = [math.ceil(float(places[axis].max())) + 1 + _SPLINE_FADES for axis in (0, 1)]
    coefficients = _coefficients(plane[None, low[0] : high[0], low[1] : high[1]])[0]
    local = [places[axis] - low[axis] + _MARGIN for axis in (0, 1)]
    whole = [np.floor(along).astype(np.intp) for along in local]
    powers = [
        (1 - (along - under))[..., None] ** np.arange(_DEGREE, -1, -1)
        for along, under in zip(local, whole, strict=True)
    ]
    down, across = (power @ _spline_pieces() for power in powers)
    total = np.zeros(places.shape[1:])
    for row in range(_DEGREE + 1):
        line = np.zeros_like(total)
        for col in range(_DEGREE + 1):
            line += across[..., col] * coefficients[whole[0] + (row - _DEGREE // 2), whole[1] + (col - _DEGREE // 2)]
        total += down[..., row] * line
    return total


# ------------------------------------------------------------------------------------------- sub-pixel step


@dataclass(frozen=True, eq=False)
class _Pair:
    """Windows (count, h, w) that lie nearly upon each other, and what is known of them beforehand."""

    coefficients: Floats
    """The spline's, of the first."""
    second: Floats
    slope: Floats
    """The gradients of the second."""
    mask: Floats
    """1 but for the border."""
    size: tuple[int, int]
    """Of the Fourier transforms."""


@dataclass(frozen=True, eq=False)
class _Weighing:
    """How much each pixel and each frequency counts, and what was found out on the way."""

    trust: Floats
    slope: Spectrum
    """The transform of the second's gradients by `trust`."""
    whole: Spectrum
    """The transform of the second, tapered, by `trust`."""
    spectra: _Spectra | None
    weight: Floats
    """By `_both_halves`."""
    pull: Floats
    gain: float
    inliers: float


def _solve(first: Floats, second: Floats, ahead: Floats, *, robust: bool) -> tuple[_Fit | None, Floats]:
    """The sub-pixel shift, about `ahead`, between windows (count, h, w) that lie nearly upon each other.

    Without a fit the shift is where to lay them upon each other next.
    """
    pair, weighing = _begun(first, second)
    shift, before = ahead, math.inf
    probe, stands = None, False
    origin, excess = np.zeros(2), np.zeros((2, 2))
    for turn in range(_TURNS):
        moved = _moved(pair.coefficients, shift)
        weigh = turn > 0 and not stands
        if weigh:
            weighing = _weighed(pair, moved, weighing, robust=robust)
        residual = _residual(pair.second, moved, weighing.gain, weighing.trust)
        if probe is None:
            moving, rest = _transformed(pair, moved, residual, weighing)
            # The gradient of the mean of both, which noise can't pull: (2, count, h, w // 2 + 1).
            mean = 0.5 * (weighing.slope + moving)
            if weigh or turn == 0:
                steepness = _steepness(weighing, moving, mean)
            score = _products(mean, weighing.weight, rest)[:, 0]
        else:
            # This gradient stays where it was, and meets its own noise again a little beside.
            score = (probe * residual).sum(axis=(1, 2, 3)) - excess @ (shift - origin)
        change = -np.linalg.solve(steepness, score)
        change *= min(1.0, _STRIDE / max(float(np.hypot(*change)), 1e-300))
        shift = shift + change
        if np.abs(shift).max() > _ASTRAY:
            return None, shift
        length = float(np.abs(change).max())
        if weigh:
            # Of the residual at which the weights were measured the step takes little away.
            energy = float(_products(rest, weighing.weight, rest)[0, 0])
            stands = (-float(score @ change) < _LITTLE * energy and length < _NEAR) or turn == _LAST_WEIGHTS
        if probe is None and stands and (not weigh or length < _STEADY):
            probe, origin = _probe(pair, weighing, mean), shift - change
            excess = _products(mean, weighing.weight, moving) - steepness
        # Steps shrink by a constant factor, which says how long the next one would be.
        close = max(_CLOSE, _CLOSE_TO_NOISE / math.sqrt(float(np.trace(steepness))))
        if probe is not None and length * min(1.0, length / before) < close:
            break
        before = length
    if probe is None:
        raise NoMatchError(_UNRELIABLE.format("no shift fits better than those next to it"))
    return _fitted(pair, weighing, moved, probe, steepness, settled=length < _NEAR), shift


def _begun(first: Floats, second: Floats) -> tuple[_Pair, _Weighing]:
    """Before anything is known all pixels count alike, and low frequencies alone."""
    _, rows, cols = first.shape
    size = (_fast(rows), _fast(cols))
    inside = np.s_[:, _EDGE : rows - _EDGE, _EDGE : cols - _EDGE]
    mask = np.zeros_like(first)
    mask[inside] = 1
    pair = _Pair(_coefficients(first), second, _gradients(second), mask, size)
    weighing = _Weighing(
        trust=mask,
        slope=np.fft.rfft2(pair.slope * mask, size),
        whole=_tapered(second, mask, size),
        spectra=None,
        weight=_both_halves(size) * _sieve(*size).low[_FIRST_LOW],
        pull=np.zeros(2),
        gain=float(second[inside].std() / max(float(first[inside].std()), 1e-300)),
        inliers=1.0,
    )
    return pair, weighing


def _weighed(pair: _Pair, moved: Floats, last: _Weighing, *, robust: bool) -> _Weighing:
    residual = _residual(pair.second, moved, last.gain, pair.mask)
    trust, inliers = pair.mask * _border_trust(residual), 1.0
    if robust:
        alike = _trust(residual, pair.mask)
        trust, inliers = trust * alike, float((pair.mask * alike > 0.5).sum() / pair.mask.sum())
    slope, whole = last.slope, last.whole
    if not np.array_equal(trust, last.trust):
        slope, whole = np.fft.rfft2(pair.slope * trust, pair.size), _tapered(pair.second, trust, pair.size)
    spectra = _spectra(last.gain * _tapered(moved, trust, pair.size), whole, trust)
    weight, pull = _weights(spectra)
    weight *= _both_halves(pair.size)
    energies = [float((weight * spectrum).sum()) for spectrum in (spectra.first, spectra.second)]
    return _Weighing(
        trust=trust,
        slope=slope,
        whole=whole,
        spectra=spectra,
        weight=weight,
        pull=pull,
        gain=last.gain * math.sqrt(energies[1] / max(energies[0], 1e-300)),
        inliers=inliers,
    )


def _transformed(pair: _Pair, moved: Floats, residual: Floats, weighing: _Weighing) -> tuple[Spectrum, Spectrum]:
    """Transforms of the first's gradients (2, count, h, w // 2 + 1) and of the residual (1, ...), by trust."""
    fields = np.concatenate([_gradients(moved), residual[None]])
    fields *= weighing.trust
    fields[:2] *= weighing.gain
    spectrum = np.fft.rfft2(fields, pair.size)
    return spectrum[:2], spectrum[2:]


def _probe(pair: _Pair, weighing: _Weighing, mean: Spectrum) -> Floats:
    """(2, count, h, w): what the residual is multiplied with, pixel by pixel, once the weights are final."""
    _, rows, cols = pair.second.shape
    fields = np.fft.irfft2(weighing.weight / _both_halves(pair.size) * mean, pair.size)
    probe: Floats = fields[..., :rows, :cols] * weighing.trust
    return probe


def _fitted(
    pair: _Pair, weighing: _Weighing, moved: Floats, probe: Floats, steepness: Floats, *, settled: bool
) -> _Fit:
    spectra, weight, both = weighing.spectra, weighing.weight, _both_halves(pair.size)
    if spectra is None:
        raise NoMatchError(_UNRELIABLE.format("no shift fits better than those next to it"))
    inverse = np.linalg.inv(steepness)
    pattern = np.fft.rfft2(probe, pair.size)
    spread = _products(pattern, both * 2 * spectra.other, pattern)
    energy = math.sqrt(float((weight * spectra.first).sum()) * float((weight * spectra.second).sum()))
    return _Fit(
        covariance=inverse @ spread @ inverse + np.diag((_PULL_SEEN * weighing.pull) ** 2),
        noise=math.sqrt(max(float((both * spectra.other).sum()), 0.0)),
        gain=weighing.gain,
        offset=float((pair.mask * (pair.second - weighing.gain * moved)).sum() / pair.mask.sum()),
        correlation=float((weight * spectra.shared).sum()) / max(energy, 1e-300),
        inliers=weighing.inliers,
        settled=settled,
    )


def _border_trust(residual: Floats) -> Floats:
    """(h, w): 1 inside; less near the border where the residual has more energy than inside."""
    energy = (residual**2).sum(axis=0)
    rows, cols = energy.shape
    fringe = min(_FRINGE, min(rows, cols) // 4)
    inside = np.s_[fringe : rows - fringe, fringe : cols - fringe]
    usual = float(energy[inside].mean())
    trust: Floats = np.minimum(1, (_CHANCE * usual + 1e-300) / (_nearby(energy) + 1e-300))
    trust[inside] = 1
    return trust


def _nearby(energy: Floats) -> Floats:
    """Means over the pixels nearby, along the last two axes."""
    for axis in (-2, -1):
        energy = box_mean(energy, axis, before=_NEARBY, after=_NEARBY)
    return energy


def _residual(second: Floats, moved: Floats, gain: float, trust: Floats) -> Floats:
    residual: Floats = second - gain * moved
    mean: Floats = (trust * residual).sum(axis=(1, 2), keepdims=True) / np.maximum(
        trust.sum(axis=(1, 2), keepdims=True), 1e-9
    )
    return residual - mean


def _trust(residual: Floats, mask: Floats) -> Floats:
    """0..1 a pixel: Geman and McClure's weights of the residual's energy nearby, doi:10.1007/BF02187686."""
    energy = _nearby(residual**2)
    usual = float(np.median(energy[mask > 0]))
    return 1 / (1 + (energy / (_TOLERANCE * usual + 1e-300)) ** 2)


def _steepness(weighing: _Weighing, moving: Spectrum, mean: Spectrum) -> Floats:
    """(2, 2): how the equation grows with the shift, by the energy of what both gradients share.

    Noise is in one of the two only. Where that leaves no slope in some direction, it is the energy of their mean.
    """
    shared = _products(weighing.slope, weighing.weight, moving)
    shared = 0.5 * (shared + shared.T)
    if np.isfinite(shared).all() and _evenness(shared) > _LEAST_SLOPE:
        return shared
    whole = _products(mean, weighing.weight, mean)
    if np.isfinite(whole).all() and _evenness(whole) > 0:
        return whole
    raise NoMatchError(_UNRELIABLE.format("what they share shows no structure in some direction"))


def _evenness(matrix: Floats) -> float:
    """The smaller eigenvalue by the larger, about; negative where one is."""
    trace = float(np.trace(matrix))
    return float(np.linalg.det(matrix)) / trace**2 if trace > 0 else -1.0


def _products(left: Spectrum, weight: Floats, right: Spectrum) -> Floats:
    """(n, count, h, w) and (m, count, h, w) -> (n, m): real parts of the inner products over all frequencies."""
    products: Floats = _parts(left * weight) @ _parts(right).T
    return products


def _parts(fields: Spectrum) -> Floats:
    """Real and imaginary parts in one row each."""
    return np.ascontiguousarray(fields).reshape(len(fields), -1).view(np.float64)


def _tapered(planes: Floats, trust: Floats, size: tuple[int, int]) -> Spectrum:
    """Transforms of windows (count, h, w), without their means, faded out."""
    taper = _taper(*planes.shape[1:]) * trust
    mean = (planes * taper).sum(axis=(1, 2), keepdims=True) / np.maximum(taper.sum(axis=(1, 2), keepdims=True), 1e-9)
    return np.fft.rfft2(taper * (planes - mean), size)


def _spectra(one: Spectrum, two: Spectrum, trust: Floats) -> _Spectra:
    """Smoothed spectra of tapered windows (count, h, w // 2 + 1) that lie upon each other."""
    energy = float(((_taper(*trust.shape[1:]) * trust) ** 2).sum())
    shared, first, last = (
        field.sum(axis=0) / energy for field in (one.real * two.real + one.imag * two.imag, _power(one), _power(two))
    )
    size = (shared.shape[0], 2 * (shared.shape[1] - 1))
    common, other = (np.maximum(_smooth(field, size), 0) for field in (shared, (first + last) / 2 - shared))
    floor = 1e-12 * float((_both_halves(size) * last).sum()) + 1e-300
    return _Spectra(common, np.maximum(other, _PRECISION * common + floor), shared, first, last)


def _smooth(spectrum: Floats, size: tuple[int, int]) -> Floats:
    """Over about `_SMOOTHING` frequencies each way: by way of the few lags of the autocorrelation that count."""
    down, across, taper = _lags(*size)
    correlation = np.real(down @ (spectrum * _both_halves(size)) @ across) * taper
    return np.real(down.conj().T @ correlation @ across.conj().T)


def _power(field: Spectrum) -> Floats:
    return field.real**2 + field.imag**2


def _weights(spectra: _Spectra) -> tuple[Floats, Floats]:
    """Maximum likelihood's weights, low-passed as far as that takes away more bias than it costs precision.

    Near Nyquist the spline is not exact, so that these frequencies are left out. What rises there over the flat
    level of noise is aliasing; it pulls towards whole pixels, at all frequencies alike.
    Returns the weights and by how much it may have pulled each axis, in pixels.
    """
    common, other = spectra.common, spectra.other
    sieve = _sieve(common.shape[0], 2 * (common.shape[1] - 1))
    variance = (2 * common + other) * other
    weight = common / variance * sieve.passed
    aliased = weight * np.maximum(other - _FLAT * other.min(), 0)
    information = weight * common
    variance *= weight**2
    fields = np.stack([count * information for count in sieve.counts] + [turn * aliased for turn in sieve.turns])
    sums = _flat(sieve.low) @ _flat(fields).T
    spread = _flat(sieve.low_squared) @ _flat(np.stack([count * variance for count in sieve.counts])).T
    known = np.maximum(sums[:, :2], 1e-150)
    pulls = sums[:, 2:] / known
    best = int(np.argmin((spread / known**2 + (_PULL * pulls) ** 2).sum(axis=1)))
    return weight * sieve.low[best], pulls[best]


def _flat(fields: Floats) -> Floats:
    return fields.reshape(len(fields), -1)


@dataclass(frozen=True, eq=False)
class _Sieve:
    """Fields over `rfft2`'s frequencies that depend on its size alone."""

    passed: Floats
    """1 up to `_PASS` cycles a pixel along each axis, 0 at Nyquist."""
    low: Floats
    """Gaussian low-passes, the widest first."""
    low_squared: Floats
    turns: tuple[Floats, Floats]
    """Phase a pixel of shift, along rows and columns, times how often the frequency counts."""
    counts: tuple[Floats, Floats]
    """That phase squared, times how often the frequency counts."""


@lru_cache(maxsize=8)
def _sieve(rows: int, cols: int) -> _Sieve:
    down: Floats = np.fft.fftfreq(rows)[:, None].astype(np.float64)
    across: Floats = np.fft.rfftfreq(cols)[None].astype(np.float64)
    both = _both_halves((rows, cols)) * (rows * cols)
    radius = down**2 + across**2
    low = np.stack([np.exp(-radius / cutoff**2) for cutoff in _CUTOFFS])
    turns = [np.broadcast_to(2 * np.pi * np.abs(along), radius.shape) for along in (down, across)]
    return _Sieve(
        passed=_passed(down) * _passed(across),
        low=low,
        low_squared=low**2,
        turns=(turns[0] * both, turns[1] * both),
        counts=(turns[0] ** 2 * both, turns[1] ** 2 * both),
    )


def _passed(frequency: Floats) -> Floats:
    passed: Floats = 0.5 + 0.5 * np.cos(np.pi * np.clip((np.abs(frequency) - _PASS) / (0.5 - _PASS), 0, 1))
    return passed


def _gradients(planes: Floats) -> Floats:
    """(count, h, w) -> (2, count, h, w), along rows and columns.

    An odd filter, so that noise doesn't pull.
    """
    _, rows, cols = planes.shape
    out = np.empty((2, *planes.shape))
    np.matmul(_slope_matrix(rows), planes, out=out[0])
    np.matmul(planes, _slope_matrix(cols).T, out=out[1])
    return out


@lru_cache(maxsize=16)
def _slope_matrix(count: int) -> Floats:
    """(count, count): samples -> central differences, mirrored at the ends."""
    matrix = np.zeros((count, count))
    place = np.arange(count)
    for step, weight in enumerate(_SLOPE, 1):
        np.add.at(matrix, (place, _mirrored(place + step, count)), weight)
        np.add.at(matrix, (place, _mirrored(place - step, count)), -weight)
    return matrix


def _mirrored(place: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    inner = np.abs(place)
    return np.where(inner >= count, 2 * (count - 1) - inner, inner)


def _coefficients(planes: Floats) -> Floats:
    """Spline coefficients of (count, h, w), with `_MARGIN` more on each side, mirrored."""
    return _spline_matrix(planes.shape[1]) @ planes @ _spline_matrix(planes.shape[2]).T


def _moved(coefficients: Floats, shift: Floats) -> Floats:
    """The spline's samples at r - shift, for shifts of less than two pixels: (count, h, w)."""
    down, across = (
        _moving_matrix(length - 2 * _MARGIN, -float(along))
        for length, along in zip(coefficients.shape[1:], shift, strict=True)
    )
    return down @ coefficients @ across.T


def _moving_matrix(count: int, distance: float) -> Floats:
    """(count, count + 2 * margin): spline coefficients -> values at a distance from each sample."""
    whole = math.floor(distance)
    matrix = np.zeros((count, count + 2 * _MARGIN))
    first = _MARGIN + whole - _DEGREE // 2
    for tap, weight in enumerate(_spline_weights(distance - whole), first):
        matrix.ravel()[tap :: count + 2 * _MARGIN + 1][:count] = weight
    return matrix


@lru_cache(maxsize=1)
def _spline_pieces() -> Floats:
    """The B-spline's polynomials, (degree + 1, pieces), highest power first; piece k lies between its k-th knots."""
    pieces = np.zeros((_DEGREE + 1, _DEGREE + 1))
    for piece in range(_DEGREE + 1):
        for knot in range(piece + 1):
            sign = (-1) ** knot * math.comb(_DEGREE + 1, knot)
            for power in range(_DEGREE + 1):
                share = math.comb(_DEGREE, power) * (piece - knot) ** (_DEGREE - power)
                pieces[_DEGREE - power, piece] += sign * share / math.factorial(_DEGREE)
    return pieces


def _spline_weights(fraction: float) -> Floats:
    """Weights of the coefficients from floor(x) - degree // 2 on, for a place x with this fraction."""
    powers = (1 - fraction) ** np.arange(_DEGREE, -1, -1)
    weights: Floats = powers @ _spline_pieces()
    return weights


@lru_cache(maxsize=16)
def _spline_matrix(count: int) -> Floats:
    """(count + 2 * margin, count): samples -> spline coefficients, mirrored at the ends."""
    samples = _spline_weights(0.0)[:-1]  # the last is zero: it lies a whole support away
    basis = np.zeros((count, count))
    place = np.arange(count)
    for offset, weight in enumerate(samples, -(_DEGREE // 2)):
        np.add.at(basis, (place, _mirrored(place + offset, count)), weight)
    inverse: Floats = np.linalg.inv(basis).astype(np.float64)
    return inverse[_mirrored(np.arange(-_MARGIN, count + _MARGIN), count)]


@lru_cache(maxsize=16)
def _taper(rows: int, cols: int) -> Floats:
    down, across = (np.sin(np.pi * (np.arange(count) + 0.5) / count) for count in (rows, cols))
    return np.multiply.outer(down, across).astype(np.float64)


@lru_cache(maxsize=16)
def _lags(rows: int, cols: int) -> tuple[Spectrum, Spectrum, Floats]:
    """Transforms between `rfft2`'s frequencies and short lags, (lags, h) and (w // 2 + 1, lags); a Gaussian over lags.

    Only lags across of 0 and more: those below are their conjugates, and counted with them.
    """
    reaches = [min(math.ceil(_LAGS * count / _SMOOTHING), count // 2 - 1) for count in (rows, cols)]
    lags = [np.arange(-reaches[0], reaches[0] + 1), np.arange(reaches[1] + 1)]
    down = np.exp(2j * np.pi * np.multiply.outer(lags[0], np.arange(rows) / rows))
    across = np.exp(2j * np.pi * np.multiply.outer(np.arange(cols // 2 + 1) / cols, lags[1]))
    shape = [np.exp(-0.5 * (lag * (_SMOOTHING / count)) ** 2) for lag, count in zip(lags, (rows, cols), strict=True)]
    shape[1][1:] *= 2
    return down, across, np.multiply.outer(*shape)


@lru_cache(maxsize=16)
def _both_halves(size: tuple[int, int]) -> Floats:
    """Weights of `rfft2`'s half of the frequencies: their sum is the mean over all."""
    share = np.full(size[1] // 2 + 1, 2.0)
    share[0] = 1
    if size[1] % 2 == 0:
        share[-1] = 1
    return share / (size[0] * size[1])


@lru_cache(maxsize=64)
def _fast(count: int) -> int:
    """The next even length that a Fourier transform likes."""
    length = count + count % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2
