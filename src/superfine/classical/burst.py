"""Several pictures of one scene, each a fraction of a pixel aside, become one on a finer grid.

Each sample of each frame is the mean of the fine picture over the pixel's box, at a place that
registration knows. The fine picture is found that explains all samples best, by
least squares with a prior: what a single picture's enlargement says counts where the samples say little.

    sum over frames and samples  weight * (box mean of x at the place - sample)^2  +  prior * (x - start)^2

In turns: what the fine picture predicts for every sample is computed exactly (a cubic spline on the
box-blurred picture); what is left goes to the nearest place of the fine grid, together with the moments of the
samples' distances from it. There the change is found by conjugate gradients, and corrected by those moments (Taylor,
second order), without looking at the samples again. Samples count by their frame's noise, less where they are
outliers, and not at all where something has moved against the reference: where optical flow explains the frame better
than standing still (`motion`), and where samples miss the reference by more than noise and local contrast.
Sources: Elad and Feuer 1997, doi:10.1109/83.650118 (the model); Farsiu et al. 2004, doi:10.1109/TIP.2004.834669
(robust fusion); Wronski et al. 2019, doi:10.1145/3306346.3323024 (masks by the local contrast).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.classical.flow import flow
from superfine.errors import NoMatchError, ShapeError

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
    "missed",
    "motion",
    "sharpness",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: Turns of prediction and change; in each so many changes, by so many steps of conjugate gradients.
TURNS: Final = 3
_CHANGES: Final = 2
_STEPS: Final = 6
# The spline's pole, and how many samples of its prefilter count.
_POLE: Final = 3**0.5 - 2
_PREFILTER: Final = 8
# Residuals beyond so many standard deviations count less (Huber).
_HUBER: Final = 2.5
# Movement: share of the local contrast that may be missed, and squared deviations from which a sample counts less, and
# not at all.
_CONTRAST: Final = 0.15
_MOVED: Final = (3.0, 8.0)
# Flow counts as movement from so many pixels, where it leaves less than this share of what standing still leaves, and
# that is more than so many times the usual.
_FAR: Final = 0.35
_EXPLAINED: Final = 0.4
_WORTH: Final = 3.0
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
    still: Floats | None = None
    """(rows, cols) of the region's pixels in the reference: 0 where the frame moves against it, else 1."""


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
    values: Floats
    """(C, samples), with the gain and offset taken out."""
    inside: npt.NDArray[np.bool_]
    """(h, w) of the piece."""
    noise: float
    mask: Floats
    """(samples,): 0 where something has moved."""


def box_blurred(planes: Floats, scale: int) -> Floats:
    """(..., S*h, S*w) -> the means over each S x S block of neighbours: (..., S*(h-1)+1, S*(w-1)+1)."""
    if scale == 1:
        return planes
    rows, cols = (length - scale + 1 for length in planes.shape[-2:])
    down = planes[..., :rows, :] + planes[..., 1 : 1 + rows, :]
    for step in range(2, scale):
        down += planes[..., step : step + rows, :]
    out = down[..., :cols] + down[..., 1 : 1 + cols]
    for step in range(2, scale):
        out += down[..., step : step + cols]
    out *= np.float32(1 / scale**2)
    return out


def _box_spread(blurred: Floats, scale: int) -> Floats:
    """The transpose of `box_blurred`."""
    if scale == 1:
        return blurred
    rows, cols = blurred.shape[-2:]
    down = np.zeros((*blurred.shape[:-2], rows + scale - 1, cols), np.float32)
    for step in range(scale):
        down[..., step : step + rows, :] += blurred
    out = np.zeros((*down.shape[:-1], cols + scale - 1), np.float32)
    for step in range(scale):
        out[..., step : step + cols] += down
    out *= np.float32(1 / scale**2)
    return out


def _spline_of(planes: Floats) -> Floats:
    """Coefficients of the cubic B-spline through (C, h, w), three more on each side; mirrored."""
    taps = (6 * _POLE / (_POLE**2 - 1)) * _POLE ** np.abs(np.arange(-_PREFILTER, _PREFILTER + 1.0))
    taps /= taps.sum()
    weights = taps.astype(np.float32)
    reach = _PREFILTER + 3
    out = np.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    for axis in (1, 2):
        lines = out.swapaxes(1, axis)
        count = lines.shape[1] - 2 * _PREFILTER
        total = lines[:, _PREFILTER : _PREFILTER + count] * weights[_PREFILTER]
        for step in range(1, _PREFILTER + 1):
            near = lines[:, _PREFILTER + step : _PREFILTER + step + count] + lines[:, _PREFILTER - step :][:, :count]
            near *= weights[_PREFILTER + step]
            total += near
        out = total.swapaxes(1, axis)
    return np.ascontiguousarray(out)


def _at(coefficients: Floats, rows: Floats, cols: Floats) -> Floats:
    """The splines at places of the planes that they were made of: (C, samples)."""
    width = coefficients.shape[2]
    top, left = np.floor(rows), np.floor(cols)
    down, across = _cubic(rows - top), _cubic(cols - left)
    start = (top.astype(np.intp) + 2) * width + left.astype(np.intp) + 2
    out = np.zeros((len(coefficients), len(rows)), np.float32)
    line, taken = np.empty_like(rows), np.empty_like(rows)
    for place, plane in enumerate(coefficients):
        flat = plane.ravel()
        for row in range(4):
            line[...] = 0
            for col in range(4):
                # With "clip" it writes into `taken` itself; no place is outside.
                np.take(flat[row * width + col :], start, out=taken, mode="clip")
                taken *= across[col]
                line += taken
            line *= down[row]
            out[place] += line
    return out


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
    first = _planes(start)
    believed, prior = _prior(first, _AMPLIFIED * seen[0].noise)
    predicted = _predicted(seen, first, scale)
    _mask_moved(seen, predicted)
    fine = first.copy()
    if begin is not None:
        fine = _planes(begin)
        predicted = _predicted(seen, fine, scale)
    for turn in range(turns):
        if turn:
            predicted = _predicted(seen, fine, scale)
        told = _told(seen, predicted, size)
        for place in range(len(fine)):
            fine[place] += _change(told, place, fine[place] - believed[place], prior, scale)
    pixels = np.ascontiguousarray(np.moveaxis(fine, 0, 2))
    if not witnesses:
        return Fusion(pixels, ())
    blurred = box_blurred(fine, scale)
    predicted = _predicted(seen, fine, scale)
    pairs = zip(seen, predicted, strict=True)
    return Fusion(pixels, tuple(_witness(*pair, blurred, scale, corner) for pair in pairs))


def _planes(pixels: Floats) -> Floats:
    """(H, W, C) -> (C, H, W), a copy."""
    return np.array(np.moveaxis(pixels, 2, 0), np.float32, order="C")


def _predicted(seen: Sequence[_Seen], fine: Floats, scale: int) -> list[Floats]:
    """What the fine planes say of each piece's samples: (C, samples)."""
    coefficients = _spline_of(box_blurred(fine, scale))
    return [_at(coefficients, some.rows, some.cols) for some in seen]


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


def missed(piece: Piece, region: Floats, corner: tuple[int, int]) -> tuple[float, int]:
    """What a piece misses the reference by, (h, w, C) from `corner`: the sum of squares, and of how many."""
    some = _placed(piece, (region.shape[0], region.shape[1]), 1, corner)
    rest = some.values - _at(_spline_of(_planes(region)), some.rows, some.cols)
    return float(np.vdot(rest, rest)), rest.size


def motion(base: Floats, plane: Floats, pose: Pose) -> Floats:
    """Where a frame moves against the reference, by optical flow.

    base: the reference, (h, w); plane: the frame, of that size; both 16 pixels a side or more; pose: how it lies.
    Returns (h, w): 1 where there is flow that explains the frame better than standing still does, else 0.
    """
    rows, cols = np.indices(base.shape, np.float32)
    linear, shift = pose.matrix[:, :2].astype(np.float32), pose.matrix[:, 2].astype(np.float32)
    places = [linear[axis, 0] * rows + linear[axis, 1] * cols + shift[axis] for axis in (0, 1)]
    seen = np.ones(base.shape, bool)
    for place, side in zip(places, plane.shape, strict=True):
        seen &= (place >= 0) & (place <= side - 1)
    laid = np.where(seen, (_drawn(plane, *places) - np.float32(pose.offset)) * np.float32(1 / pose.gain), base)
    try:
        found = flow(base, laid)
    except NoMatchError:
        return np.zeros(base.shape, np.float32)
    far = np.hypot(found[..., 0], found[..., 1])
    followed = _drawn(base, rows - found[..., 0], cols - found[..., 1])
    still, moving = (_binomial(_binomial((laid - each) ** 2)) for each in (base, followed))
    worth = still > np.float32(_WORTH) * np.median(still)
    moved = seen & worth & (far > _FAR) & (moving < np.float32(_EXPLAINED) * still)
    grown: Floats = _highest(moved.astype(np.float32), 2)
    return grown


def _drawn(plane: Floats, rows: Floats, cols: Floats) -> Floats:
    """The spline of (h, w) at (h, w) places; beyond the border its last place."""
    places = [np.clip(place, 0, side - 1).ravel() for place, side in zip((rows, cols), plane.shape, strict=True)]
    drawn: Floats = _at(_spline_of(plane[None]), *places)[0].reshape(rows.shape)
    return drawn


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
    values = _planes(piece.pixels)[:, inside]
    values -= np.float32(piece.pose.offset)
    values *= np.float32(1 / piece.pose.gain)
    noise = max(piece.pose.noise, LEAST_NOISE) / abs(piece.pose.gain)
    rows, cols = rows[inside], cols[inside]
    mask = np.ones(len(rows), np.float32)
    if piece.still is not None:
        near = (np.rint(place / np.float32(scale)).astype(np.intp) for place in (rows, cols))
        mask = piece.still[*(np.clip(place, 0, side - 1) for place, side in zip(near, piece.still.shape, strict=True))]
    return _Seen(rows, cols, values, inside, noise, mask)


def _weight(some: _Seen, rest: Floats) -> Floats:
    """One over the noise's variance, less for movement and, by the worst channel, for outliers (Huber)."""
    size = np.abs(rest).max(axis=0) * np.float32(1 / (some.noise * _HUBER))
    weight: Floats = some.mask / np.maximum(size, 1) * np.float32(1 / some.noise**2)
    return weight


def _witness(some: _Seen, predicted: Floats, blurred: Floats, scale: int, corner: tuple[int, int]) -> Witness:
    if not some.inside.any():
        return Witness(np.zeros((8, 9)), 0.0, 0.0, 1.0, 0)
    rest = some.values - predicted
    weight = _weight(some, rest)
    equations = np.zeros((9, 9))
    places = (some.rows / scale + corner[0], some.cols / scale + corner[1], np.ones_like(some.rows))
    bins = np.rint(some.rows).astype(np.intp) * blurred.shape[2] + np.rint(some.cols).astype(np.intp)
    for channel, plane in enumerate(blurred):
        slopes = [np.gradient(plane, axis=axis) if plane.shape[axis] > 1 else 0 * plane for axis in (0, 1)]
        down, across = (slope.ravel().take(bins) * np.float32(scale) for slope in slopes)
        columns = [slope * place for slope in (down, across) for place in places]
        columns += [predicted[channel], np.ones_like(some.rows), rest[channel]]
        table = np.stack(columns).astype(np.float64)
        equations += (table * weight) @ table.T
    seen = rest[:, some.mask > 0.5] if (some.mask > 0.5).any() else rest
    # A median of absolute values is 0.6745 standard deviations.
    noise = float(np.median(np.abs(seen))) / 0.6745
    fine, wanted = (_fine_contrast(field, some) for field in (some.values, predicted))
    power = float(np.vdot(wanted, wanted))
    detail = float(np.vdot(wanted, fine)) / power if power > 0 else 1.0
    return Witness(equations[:8], noise, float(some.mask.mean()), detail, len(some.rows))


def _fine_contrast(values: Floats, some: _Seen) -> Floats:
    """What smoothing takes away, where all neighbours are seen: (C, samples)."""
    out = np.zeros_like(values)
    core = (1 - _highest(1 - some.inside.astype(np.float32), 2))[some.inside]
    for channel, each in enumerate(values):
        field = np.zeros(some.inside.shape, np.float32)
        field[some.inside] = each
        out[channel] = (field - _binomial(field))[some.inside] * core
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


def _mask_moved(seen: Sequence[_Seen], predicted: Sequence[Floats]) -> None:
    """Set the masks of all but the reference: 1 where a piece agrees with it, 0 where something has moved."""
    for some, wanted in zip(seen[1:], predicted[1:], strict=True):
        size = some.inside.shape
        moved = np.zeros(size, np.float32)
        noise = some.noise**2 + seen[0].noise ** 2
        for values, levels in zip(some.values, wanted, strict=True):
            gap, level = np.zeros(size, np.float32), np.zeros(size, np.float32)
            gap[some.inside], level[some.inside] = values - levels, levels
            contrast = np.maximum(_binomial(level * level) - _binomial(level) ** 2, 0)
            # Of white noise the smoothing leaves (70 / 256)^2.
            allowed = np.float32((70 / 256) ** 2 * noise) + np.float32(_CONTRAST**2) * contrast
            moved += _binomial(gap) ** 2 / allowed
        moved = _highest(_binomial(moved * np.float32(1 / len(wanted))), 2)
        low, high = _MOVED
        some.mask *= np.clip((high - moved[some.inside]) * np.float32(1 / (high - low)), 0, 1)


def _prior(start: Floats, noise: float) -> tuple[Floats, Floats]:
    """What is believed beforehand, (C, H, W), and one over the variance with which it is wrong, (H, W).

    Where the start's contrast is no more than its noise it is smoothed (Lee 1980, doi:10.1109/TPAMI.1980.4766994).
    """
    smooth = np.stack([_binomial(plane) for plane in start])
    contrast = np.zeros(start.shape[1:], np.float32)
    for plane, mean in zip(start, smooth, strict=True):
        contrast += np.maximum(_binomial(plane * plane) - mean**2, 0)
    contrast *= np.float32(1 / len(start))
    signal = np.maximum(_binomial(contrast) - np.float32(noise**2), 0)
    believed = smooth + signal / (signal + np.float32(noise**2)) * (start - smooth)
    weight: Floats = np.float32(1) / (np.float32((_WRONG / 255) ** 2) + np.float32(_WRONG_SHARE**2) * signal)
    return believed, weight


@dataclass(frozen=True, eq=False)
class _Told:
    """What the samples say at the nearest places of the box-blurred fine picture, (h, w) each."""

    weight: Floats
    """The samples' weights, added up."""
    distances: tuple[tuple[int, int, Floats], ...]
    """Powers of the samples' distances from the place, down and across, and weight * distances / factorials."""
    rests: Floats
    """(C, h, w): weight * what isn't explained."""


def _told(seen: Sequence[_Seen], predicted: Sequence[Floats], size: tuple[int, int]) -> _Told:
    rests = [some.values - wanted for some, wanted in zip(seen, predicted, strict=True)]
    weight = np.concatenate([_weight(some, rest) for some, rest in zip(seen, rests, strict=True)])
    rest = np.concatenate(rests, axis=1)
    rows, cols = np.concatenate([some.rows for some in seen]), np.concatenate([some.cols for some in seen])
    near = np.rint(rows), np.rint(cols)
    bins = near[0].astype(np.intp) * size[1] + near[1].astype(np.intp)
    down, across = rows - near[0], cols - near[1]

    def added(values: Floats) -> Floats:
        return np.bincount(bins, values, size[0] * size[1]).astype(np.float32).reshape(size)

    tall, wide = weight * down, weight * across
    half = np.float32(0.5)
    distances = (
        (1, 0, tall),
        (0, 1, wide),
        (2, 0, half * tall * down),
        (1, 1, tall * across),
        (0, 2, half * wide * across),
    )
    return _Told(
        added(weight),
        tuple((one, other, added(values)) for one, other, values in distances),
        np.stack([added(weight * each) for each in rest]),
    )


def _change(told: _Told, channel: int, gone: Floats, prior: Floats, scale: int) -> Floats:
    """How a fine plane, (H, W), has to change; gone: how far it has gone from what is believed."""
    # The diagonal: each of the box's samples counts with 1 / scale^4.
    scaling: Floats = np.float32(1) / (_box_spread(told.weight, scale) * np.float32(1 / scale**2) + prior)
    change = np.zeros_like(gone)
    for turn in range(_CHANGES):
        rest = told.rests[channel]
        if turn:
            blurred = box_blurred(change, scale)
            rest = rest - told.weight * blurred
            for down, across, weight in told.distances:
                rest -= weight * _derivative(_derivative(blurred, down, 0), across, 1)
        change += _step(told.weight, rest, gone + change, prior, scaling, scale)
    return change


def _derivative(plane: Floats, order: int, axis: int) -> Floats:
    """By central differences; at the border 0."""
    if order == 0:
        return plane
    out = np.zeros_like(plane)
    lines, made = plane.swapaxes(0, axis), out.swapaxes(0, axis)
    if order == 1:
        made[1:-1] = (lines[2:] - lines[:-2]) * np.float32(0.5)
    else:
        made[1:-1] = lines[2:] + lines[:-2] - 2 * lines[1:-1]
    return out


def _step(weight: Floats, field: Floats, gone: Floats, prior: Floats, scaling: Floats, scale: int) -> Floats:
    """The step d that minimises sum of weight * (box d)^2 - 2 * field * box d + prior * (gone + d)^2.

    By conjugate gradients; scaling: about one over the diagonal.
    """
    rest = _box_spread(field, scale) - prior * gone
    step = np.zeros_like(rest)
    ready = scaling * rest
    direction = ready.copy()
    power = float(np.vdot(rest, ready))
    part = np.empty_like(rest)
    for _ in range(_STEPS):
        if power <= 0:
            break
        blurred = box_blurred(direction, scale)
        image = _box_spread(weight * blurred, scale)
        image += np.multiply(prior, direction, out=part)
        length = np.float32(power / float(np.vdot(direction, image)))
        step += np.multiply(direction, length, out=part)
        image *= length
        rest -= image
        np.multiply(scaling, rest, out=ready)
        before, power = power, float(np.vdot(rest, ready))
        direction *= np.float32(power / before)
        direction += ready
    return step
