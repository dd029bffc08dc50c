"""Several pictures of one scene, each a fraction of a pixel aside, become one on a finer grid.

Each sample of each frame is the mean of the fine picture over the pixel's box, at a place that
registration knows. The fine picture is found that explains all samples best, by
least squares with a prior: what a single picture's enlargement says counts where the samples say little.

    sum over frames and samples  weight * (box mean of x at the place - sample)^2  +  prior * (x - start)^2

In turns: what the fine picture predicts for every sample is computed exactly (a cubic spline on the
box-blurred picture); what is left goes to the nearest place of the fine grid, where the step is found by
conjugate gradients without looking at the samples again. Samples count by their frame's noise, less where they are
outliers, and not at all where something has moved against the reference.
Sources: Elad and Feuer 1997, doi:10.1109/83.650118 (the model); Farsiu et al. 2004, doi:10.1109/TIP.2004.834669
(robust fusion); Wronski et al. 2019, doi:10.1145/3306346.3323024 (masks by the local contrast).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError

__all__ = [
    "LEAST_NOISE",
    "TURNS",
    "Fusion",
    "Piece",
    "Pose",
    "Witness",
    "bettered",
    "box_blurred",
    "fuse",
    "sharpness",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: Turns of prediction and step, and of conjugate gradients within one.
TURNS: Final = 5
_STEPS: Final = 8
# The spline's pole, and how many samples of its prefilter count.
_POLE: Final = 3**0.5 - 2
_PREFILTER: Final = 8
# Residuals beyond so many standard deviations count less (Huber).
_HUBER: Final = 2.5
# Movement: share of the local contrast that may be missed, and squared deviations from which a sample counts less, and
# not at all.
_CONTRAST: Final = 0.15
_MOVED: Final = (3.0, 8.0)
# How wrong the start may be, in levels of 255 and in shares of its local contrast, and how many times the reference's
# noise it has.
_WRONG: Final = 3.0
_WRONG_SHARE: Final = 0.45
_AMPLIFIED: Final = 2.0
#: No frame is believed to have less noise than this, in levels 0..1.
LEAST_NOISE: Final = 0.25 / 255


@dataclass(frozen=True, eq=False)
class Pose:
    """How a frame lies against the reference, and how its levels do."""

    matrix: Doubles
    """(2, 3): content at (r, c) of the reference is at `matrix @ (r, c, 1)` in the frame."""
    gain: float = 1.0
    """The frame is `gain * reference + offset`."""
    offset: float = 0.0
    noise: float = 2 / 255
    """Standard deviation of a sample's noise, in levels 0..1 of the frame."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a frame."""

    pixels: Floats
    """(h, w, C), 0..1."""
    corner: tuple[int, int]
    """(row, col) of its first sample in the frame."""
    pose: Pose


@dataclass(frozen=True, eq=False)
class Witness:
    """What a piece says of its frame."""

    equations: Doubles
    """(8, 9): normal equations, and their right side, of a better matrix, gain and offset."""
    noise: float
    """Standard deviation of what isn't explained, robustly, in levels of the reference."""
    used: float
    """Mean weight of its samples by movement: 1 where all agree with the reference, 0 where none does."""
    detail: float
    """Its fine contrast in shares of what is expected of it: 1 where it is as sharp as the others."""
    samples: int
    """How many lie within the region."""


@dataclass(frozen=True, eq=False)
class Fusion:
    """What `fuse` found."""

    pixels: Floats
    """(S * rows, S * cols, C); not clipped."""
    witnesses: tuple[Witness, ...]
    """One a piece, where they were asked for."""


@dataclass(eq=False)
class _Seen:
    """Samples of one piece that lie within the region."""

    rows: Floats
    cols: Floats
    """Their places on the box-blurred fine picture."""
    bins: npt.NDArray[np.intp]
    values: Floats
    """(samples, C), with the gain and offset taken out."""
    inside: npt.NDArray[np.bool_]
    """(h, w) of the piece."""
    noise: float
    mask: Floats
    """(samples,): 0 where something has moved."""


def box_blurred(pixels: Floats, scale: int) -> Floats:
    """(S*h, S*w, C) -> the means over each S x S block of neighbours: (S*(h-1)+1, S*(w-1)+1, C)."""
    if scale == 1:
        return pixels
    out = pixels
    for axis in (0, 1):
        count = out.shape[axis] - scale + 1
        lines = out.swapaxes(0, axis)
        total = lines[:count].copy()
        for step in range(1, scale):
            total += lines[step : step + count]
        out = total.swapaxes(0, axis)
    return out * np.float32(1 / scale**2)


def _box_spread(blurred: Floats, scale: int) -> Floats:
    """The transpose of `box_blurred`."""
    if scale == 1:
        return blurred
    out = blurred
    for axis in (0, 1):
        lines = out.swapaxes(0, axis)
        count = len(lines)
        total = np.zeros((count + scale - 1, *lines.shape[1:]), np.float32)
        for step in range(scale):
            total[step : step + count] += lines
        out = total.swapaxes(0, axis)
    return out * np.float32(1 / scale**2)


def _spline_of(plane: Floats) -> Floats:
    """Coefficients of the cubic B-spline through (h, w, C), three more on each side; mirrored."""
    taps = (6 * _POLE / (_POLE**2 - 1)) * _POLE ** np.abs(np.arange(-_PREFILTER, _PREFILTER + 1.0))
    taps /= taps.sum()
    weights = taps.astype(np.float32)
    reach = _PREFILTER + 3
    out = np.pad(plane, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    for axis in (0, 1):
        lines = out.swapaxes(0, axis)
        count = len(lines) - 2 * _PREFILTER
        total = lines[_PREFILTER : _PREFILTER + count] * weights[_PREFILTER]
        for step in range(1, _PREFILTER + 1):
            total += weights[_PREFILTER + step] * (
                lines[_PREFILTER + step : _PREFILTER + step + count]
                + lines[_PREFILTER - step : _PREFILTER - step + count]
            )
        out = total.swapaxes(0, axis)
    return np.ascontiguousarray(out)


def _at(coefficients: Floats, rows: Floats, cols: Floats) -> Floats:
    """The spline at places of the plane that it was made of: (samples, C)."""
    width, channels = coefficients.shape[1:]
    flat = coefficients.reshape(-1, channels)
    top, left = np.floor(rows), np.floor(cols)
    down, across = _cubic(rows - top), _cubic(cols - left)
    start = (top.astype(np.intp) + 2) * width + left.astype(np.intp) + 2
    total = np.zeros((len(rows), channels), np.float32)
    for row in range(4):
        line = np.zeros_like(total)
        for col in range(4):
            line += across[col][:, None] * flat.take(start + (row * width + col), axis=0)
        total += down[row][:, None] * line
    return total


def _cubic(t: Floats) -> list[Floats]:
    """Weights of the cubic B-spline's coefficients at -1, 0, 1, 2."""
    s = 1 - t
    sixth, two_thirds = np.float32(1 / 6), np.float32(2 / 3)
    return [
        sixth * s * s * s,
        two_thirds - t * t * (1 - np.float32(0.5) * t),
        two_thirds - s * s * (1 - np.float32(0.5) * s),
        sixth * t * t * t,
    ]


def fuse(
    pieces: Sequence[Piece],
    start: Floats,
    scale: int,
    corner: tuple[int, int] = (0, 0),
    *,
    begin: Floats | None = None,
    turns: int = TURNS,
    witnesses: bool = False,
) -> Fusion:
    """Find the fine picture that explains the pieces.

    start: (S*h, S*w, C), 0..1, a single picture's enlargement of the region of the reference whose first pixel is
    `corner`; it is what is believed where the samples say nothing. pieces: the first is the reference's; each covers
    as much of the region as its frame shows. begin: where to begin, if not with `start`. witnesses: say what each
    piece tells of its frame. Raises ShapeError where sizes or channels don't fit.
    """
    if start.ndim != 3 or 0 in start.shape or start.shape[0] % scale or start.shape[1] % scale:
        raise ShapeError(f"want a start of (S*h, S*w, C) with S = {scale}, got {start.shape}")
    if not pieces or any(piece.pixels.ndim != 3 or piece.pixels.shape[2] != start.shape[2] for piece in pieces):
        raise ShapeError(f"want pieces of (h, w, {start.shape[2]}), got {[piece.pixels.shape for piece in pieces]}")
    size = (start.shape[0] - scale + 1, start.shape[1] - scale + 1)
    seen = [_placed(piece, size, scale, corner) for piece in pieces]
    believed, prior = _prior(start, _AMPLIFIED * seen[0].noise)
    _mask_moved(seen, _spline_of(box_blurred(start, scale)))
    fine = (start if begin is None else begin).astype(np.float32, copy=True)
    for _ in range(turns):
        coefficients = _spline_of(box_blurred(fine, scale))
        count, field = np.zeros(size[0] * size[1]), np.zeros((size[0] * size[1], start.shape[2]))
        for some in seen:
            rest = some.values - _at(coefficients, some.rows, some.cols)
            weight = _weight(some, rest)
            count += np.bincount(some.bins, weight, len(count))
            for channel in range(start.shape[2]):
                field[:, channel] += np.bincount(some.bins, weight * rest[:, channel], len(count))
        fine += _step(
            count.astype(np.float32).reshape(*size, 1),
            field.astype(np.float32).reshape(*size, -1),
            fine - believed,
            prior,
            scale,
        )
    if not witnesses:
        return Fusion(fine, ())
    blurred = box_blurred(fine, scale)
    coefficients = _spline_of(blurred)
    return Fusion(fine, tuple(_witness(some, blurred, coefficients, scale, corner) for some in seen))


def bettered(pose: Pose, witnesses: Sequence[Witness], *, levels: bool = True) -> Pose:
    """The pose that one Gauss-Newton step over all regions gives. levels: gain and offset too."""
    equations = sum((witness.equations for witness in witnesses), np.zeros((8, 9)))
    kept = 8 if levels else 6
    damping = 1e-9 * np.diag(np.diag(equations[:kept, :kept])) + 1e-12 * np.eye(kept)
    step = np.zeros(8)
    step[:kept] = np.linalg.solve(equations[:kept, :kept] + damping, equations[:kept, 8])
    # Content seen at p of the reference belongs to p + change @ (p, 1): the frame's matrix is followed backwards.
    back = np.linalg.inv(np.vstack([pose.matrix, [0, 0, 1]]))
    change = np.eye(3)
    change[:2] += step[:6].reshape(2, 3)
    matrix: Doubles = np.linalg.inv(change @ back)[:2].astype(np.float64)
    # values = (sample - offset) / gain, and those of the reference are about (1 + step) * values' + step.
    gain = pose.gain * (1 + step[6])
    return Pose(matrix, float(gain), float(pose.offset + pose.gain * step[7]), pose.noise)


def sharpness(pixels: Floats) -> float:
    """How much contrast (h, w, C) has in a band that noise and slow shading leave free."""
    plane = pixels.mean(axis=2, dtype=np.float32)
    near = _binomial(plane)
    return float(np.sqrt(np.mean((near - _binomial(_binomial(near))) ** 2)))


def _placed(piece: Piece, size: tuple[int, int], scale: int, corner: tuple[int, int]) -> _Seen:
    """Where the piece's samples lie on the box-blurred fine picture, of those that do."""
    height, width = piece.pixels.shape[:2]
    linear = np.linalg.inv(piece.pose.matrix[:, :2])
    origin = linear @ (np.array(piece.corner) - piece.pose.matrix[:, 2]) - np.array(corner)
    down, across = np.arange(height)[:, None], np.arange(width)[None]
    rows, cols = (
        ((origin[axis] + linear[axis, 0] * down + linear[axis, 1] * across) * scale).astype(np.float32)
        for axis in (0, 1)
    )
    inside = (rows >= 0) & (rows <= size[0] - 1) & (cols >= 0) & (cols <= size[1] - 1)
    values = (piece.pixels[inside] - np.float32(piece.pose.offset)) * np.float32(1 / piece.pose.gain)
    rows, cols = rows[inside], cols[inside]
    bins = np.rint(rows).astype(np.intp) * size[1] + np.rint(cols).astype(np.intp)
    noise = max(piece.pose.noise, LEAST_NOISE) / abs(piece.pose.gain)
    return _Seen(rows, cols, bins, values, inside, noise, np.ones(len(rows), np.float32))


def _weight(some: _Seen, rest: Floats) -> Floats:
    """One over the noise's variance, less for movement and, by the worst channel, for outliers (Huber)."""
    size = np.abs(rest).max(axis=1) * np.float32(1 / (some.noise * _HUBER))
    weight: Floats = some.mask / np.maximum(size, 1) * np.float32(1 / some.noise**2)
    return weight


def _witness(some: _Seen, blurred: Floats, coefficients: Floats, scale: int, corner: tuple[int, int]) -> Witness:
    if not some.inside.any():
        return Witness(np.zeros((8, 9)), 0.0, 0.0, 1.0, 0)
    predicted = _at(coefficients, some.rows, some.cols)
    rest = some.values - predicted
    weight = _weight(some, rest)
    flat = blurred.reshape(-1, blurred.shape[2])
    equations = np.zeros((9, 9))
    slopes = [
        np.gradient(blurred, axis=axis).reshape(flat.shape) if blurred.shape[axis] > 1 else 0 * flat for axis in (0, 1)
    ]
    places = (some.rows / scale + corner[0], some.cols / scale + corner[1], np.ones_like(some.rows))
    for channel in range(flat.shape[1]):
        down, across = (slope[:, channel].take(some.bins) * np.float32(scale) for slope in slopes)
        columns = [slope * place for slope in (down, across) for place in places]
        columns += [predicted[:, channel], np.ones_like(some.rows), rest[:, channel]]
        table = np.stack(columns).astype(np.float64)
        equations += (table * weight) @ table.T
    seen = rest[some.mask > 0.5] if (some.mask > 0.5).any() else rest
    # A median of absolute values is 0.6745 standard deviations.
    noise = float(np.median(np.abs(seen))) / 0.6745
    fine, wanted = (_fine_contrast(field, some) for field in (some.values, predicted))
    power = float(np.vdot(wanted, wanted))
    detail = float(np.vdot(wanted, fine)) / power if power > 0 else 1.0
    return Witness(equations[:8], noise, float(some.mask.mean()), detail, len(some.rows))


def _fine_contrast(values: Floats, some: _Seen) -> Floats:
    """What smoothing takes away, where all neighbours are seen: (samples, C)."""
    out = np.zeros_like(values)
    core = (1 - _highest(1 - some.inside.astype(np.float32), 2))[some.inside]
    for channel in range(values.shape[1]):
        field = np.zeros(some.inside.shape, np.float32)
        field[some.inside] = values[:, channel]
        out[:, channel] = (field - _binomial(field))[some.inside] * core
    return out


def _binomial(field: Floats) -> Floats:
    """(h, w) smoothed by 1 4 6 4 1 along both axes."""
    for axis in (0, 1):
        wide = np.pad(field, [(2, 2) if along == axis else (0, 0) for along in (0, 1)], mode="edge").swapaxes(0, axis)
        count = field.shape[axis]
        near = wide[1 : 1 + count] + wide[3 : 3 + count]
        far = wide[:count] + wide[4 : 4 + count]
        field = ((far + 4 * near + 6 * wide[2 : 2 + count]) * np.float32(1 / 16)).swapaxes(0, axis)
    return field


def _highest(field: Floats, reach: int) -> Floats:
    """The maximum over a square of 2 * reach + 1."""
    for axis in (0, 1):
        lines = field.swapaxes(0, axis)
        out = lines.copy()
        for step in range(1, reach + 1):
            np.maximum(out[step:], lines[:-step], out=out[step:])
            np.maximum(out[:-step], lines[step:], out=out[:-step])
        field = out.swapaxes(0, axis)
    return field


def _mask_moved(seen: Sequence[_Seen], coefficients: Floats) -> None:
    """Set the masks of all but the reference: 1 where a piece agrees with it, 0 where something has moved."""
    for some in seen[1:]:
        size = some.inside.shape
        predicted = _at(coefficients, some.rows, some.cols)
        rest = some.values - predicted
        moved = np.zeros(size, np.float32)
        noise = some.noise**2 + seen[0].noise ** 2
        for channel in range(rest.shape[1]):
            gap, level = np.zeros(size, np.float32), np.zeros(size, np.float32)
            gap[some.inside], level[some.inside] = rest[:, channel], predicted[:, channel]
            contrast = np.maximum(_binomial(level * level) - _binomial(level) ** 2, 0)
            # Of white noise the smoothing leaves (70 / 256)^2.
            allowed = np.float32((70 / 256) ** 2 * noise) + np.float32(_CONTRAST**2) * contrast
            moved += _binomial(gap) ** 2 / allowed
        moved = _highest(_binomial(moved * np.float32(1 / rest.shape[1])), 2)
        low, high = _MOVED
        some.mask = np.clip((high - moved[some.inside]) * np.float32(1 / (high - low)), 0, 1)


def _prior(start: Floats, noise: float) -> tuple[Floats, Floats]:
    """What is believed beforehand, (H, W, C), and one over the variance with which it is wrong, (H, W, 1).

    Where the start's contrast is no more than its noise it is smoothed (Lee 1980, doi:10.1109/TPAMI.1980.4766994).
    """
    smooth = np.stack([_binomial(start[..., channel]) for channel in range(start.shape[2])], axis=2)
    contrast = np.zeros(start.shape[:2], np.float32)
    for channel in range(start.shape[2]):
        plane = start[..., channel]
        contrast += np.maximum(_binomial(plane * plane) - smooth[..., channel] ** 2, 0)
    contrast *= np.float32(1 / start.shape[2])
    signal = np.maximum(_binomial(contrast) - np.float32(noise**2), 0)[..., None]
    believed = smooth + signal / (signal + np.float32(noise**2)) * (start - smooth)
    weight: Floats = np.float32(1) / (np.float32((_WRONG / 255) ** 2) + np.float32(_WRONG_SHARE**2) * signal)
    return believed, weight


def _step(weights: Floats, field: Floats, gone: Floats, prior: Floats, scale: int) -> Floats:
    """The step d that minimises sum of weights * (box d)^2 - 2 * field * box d + prior * (gone + d)^2."""

    def applied(step: Floats) -> Floats:
        return _box_spread(weights * box_blurred(step, scale), scale) + prior * step

    rest = _box_spread(field, scale) - prior * gone
    # The diagonal: each of the box's samples counts with 1 / scale^4.
    scaling: Floats = np.float32(1) / (_box_spread(weights, scale) * np.float32(1 / scale**2) + prior)
    step = np.zeros_like(rest)
    ready = scaling * rest
    direction = ready
    power = float(np.vdot(rest, ready))
    for _ in range(_STEPS):
        if power <= 0:
            break
        image = applied(direction)
        length = np.float32(power / float(np.vdot(direction, image)))
        step += length * direction
        rest -= length * image
        ready = scaling * rest
        before, power = power, float(np.vdot(rest, ready))
        direction = ready + np.float32(power / before) * direction
    return step
