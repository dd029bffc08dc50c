"""A burst of pictures -> one of more resolution: look, align, polish, then fuse tile by tile into a file.

Frames are read one by one while they are looked at and aligned, and in bands of rows,
all side by side, while they are fused: in floats there is never more than some tiles. What the reference's file holds
besides its pixels survives as it survives `upscale`.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from superfine.classical.burst import LEAST_NOISE, Piece, Pose, Witness, bettered, fuse, sharpness
from superfine.classical.register import register
from superfine.classical.resample import resize_bands
from superfine.color import KINDS, to_kind, to_unit
from superfine.engine import cores
from superfine.errors import NoMatchError, OutputError, ShapeError, UsageError
from superfine.image import MAX_MEGAPIXELS, Picture, format_of, open_picture, save_picture
from superfine.route import Job, Workshop, Workshops
from superfine.tiles import Grid, Span, Window, plan

__all__ = ["MOST_SCALE", "Burst", "Fused", "Shooting", "burst_path", "fuse_frames"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

#: The pixel's own blur hides what is finer.
MOST_SCALE: Final = 4.0
# Tiles: their inner side, and what is computed around them and thrown away, in pixels of a frame.
_TILE, _HALO = 128, 12
# Poses are polished in windows of this side, so many a side, in so many rounds; frames are judged after the second.
_WINDOW, _WINDOWS, _ROUNDS, _JUDGED = 96, 3, 4, 1
# A frame's samples around a region, for the spline of those that a polished pose brings in.
_AROUND: Final = 3
# The first frame is the reference unless it has less than this share of the usual sharpness.
_SHARP: Final = 0.8
_REFERENCES: Final = 3
# Frames are left out of which less than this share agrees, that show less than this share of the fine contrast, or
# of which more than this many times the usual is left unexplained.
_LEAST_USED, _LEAST_DETAIL, _MOST_NOISE = 0.4, 0.75, 3.0
_AFFINE_SIDE: Final = 64
# Frames this near to whole pixels of each other bring no resolution.
_NO_FRACTION: Final = 0.08


@dataclass(frozen=True, kw_only=True)
class Shooting:
    """How a burst becomes a picture."""

    scale: float = 2.0
    """Times each side, 1 to 4; at 1 it only loses noise."""
    model: str = "auto"
    """What enlarges the reference alone, as in `upscale`: the start, and what is believed where frames say little."""
    quality: int | None = None
    """1 to 100, for lossy formats."""
    white: float | None = None
    """The level of white in float TIFF."""
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= MOST_SCALE:
            raise UsageError(
                f"--scale {self.scale:g} is outside 1 to {MOST_SCALE:g}; a burst knows nothing finer, so run superfine"
                " upscale on its result for more"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is outside 1 to 100")
        if self.white is not None and not (self.white > 0 and math.isfinite(self.white)):
            raise UsageError(f"--white {self.white:g} is not a level above 0")


@dataclass(frozen=True, eq=False)
class Burst:
    """A burst, fused."""

    pixels: Array
    """Of the dtype and number of axes of the frames."""
    reference: int
    """Which frame the picture is aligned with."""
    used: tuple[int, ...]
    """The frames that it is made of."""
    poses: tuple[Pose, ...]
    """How each of those lies against the reference."""
    notes: tuple[str, ...]
    """What a person should know: frames that were left out, and why."""


@dataclass(frozen=True)
class Fused:
    """What became of a burst of files."""

    output: Path
    reference: Path
    used: tuple[Path, ...]
    size: tuple[int, int]
    """(rows, cols) of the output as stored."""
    seconds: float
    notes: tuple[str, ...]


def fuse_frames(frames: Sequence[npt.ArrayLike], scale: float = 2.0, *, model: str = "auto") -> Burst:
    """Make one picture of several of the same scene, each moved by some fraction of a pixel.

    frames: two or more of one shape, (H, W), (H, W, 1) or (H, W, 3), 16 pixels a side or more; uint8, uint16 or
    float32 in 0..1. The result is aligned with the first, or with the sharpest where the first is blurred, and is
    `round(H * scale)` x `round(W * scale)` in the first's dtype. scale: 1 to 4.
    model: what enlarges the reference alone; see `Shooting`.
    Raises ShapeError for frames that don't fit together, UsageError, NoMatchError where no two show the same.
    """
    arrays = [np.asarray(given) for given in frames]
    if not arrays:
        raise UsageError("no frames given")
    arrays = [given.astype(given.dtype.newbyteorder("="), copy=False) for given in arrays]
    for number, given in enumerate(arrays):
        _check_array(f"frame {number + 1}", given)
    solid = [given[..., None] if given.ndim == 2 else given for given in arrays]
    sources = [
        _Frame(f"frame {number + 1}", (each.shape[0], each.shape[1], each.shape[2]), each.dtype, partial(iter, [each]))
        for number, each in enumerate(solid)
    ]
    study = _study(sources, Shooting(scale=scale, model=model), None)
    made = sources[0].dtype
    pixels = np.concatenate([to_kind(band, made) for band in _bands(study)])
    return Burst(
        pixels[..., 0] if arrays[0].ndim == 2 else pixels,
        study.reference,
        tuple(study.poses),
        tuple(study.poses.values()),
        tuple(study.notes),
    )


def burst_path(
    sources: Sequence[Path | str],
    output: Path | str,
    *,
    shooting: Shooting | None = None,
    overwrite: bool = False,
    done: Callable[[float], None] = lambda share: None,
) -> Fused:
    """Fuse picture files of one scene into one file; what `superfine burst` does.

    done: hears the share of the picture that is computed. The result has the depth, colour profile and metadata of
    the reference. Raises what `fuse_frames` raises, SourceError and OutputError.
    """
    started = time.perf_counter()
    shooting = shooting or Shooting()
    if "" in (*sources, output):
        raise UsageError("a name is empty; `.` is the present folder")
    paths, target = [Path(source) for source in sources], Path(output)
    pictures = _opened(paths, target, shooting)
    _may_write(paths, target, overwrite=overwrite)
    frames = [_Frame(str(picture.path), picture.shape, picture.dtype, picture.bands) for picture in pictures]
    study = _study(frames, shooting, paths)
    like = pictures[study.reference]
    entry = format_of(target)
    made = max(
        (dtype for dtype in entry.dtypes if dtype.itemsize <= like.dtype.itemsize), key=lambda dtype: dtype.itemsize
    )
    size = study.size
    if max(size) > entry.longest:
        raise UsageError(f"{target}: a side is more than {entry.name.upper()}'s {entry.longest} pixels; write PNG")
    notes = [*like.notes, *study.notes]
    if like.bits > (bits := min(entry.bits, 8 * made.itemsize)):
        notes.append(f"{like.bits} bits a sample become {bits} in {entry.name.upper()}")

    def told() -> Iterator[Array]:
        rows = 0
        for band in _bands(study):
            rows += len(band)
            done(rows / size[0])
            yield to_kind(band, made)

    target.parent.mkdir(parents=True, exist_ok=True)
    save_picture(target, told(), (*size, like.shape[2]), made, like=like, quality=shooting.quality)
    used = tuple(paths[place] for place in study.poses)
    return Fused(target, paths[study.reference], used, size, time.perf_counter() - started, tuple(notes))


# ---- what is given


@dataclass(frozen=True, eq=False)
class _Frame:
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    bands: Callable[[], Iterable[Array]]
    """From the top, each time it is called."""

    def whole(self) -> Array:
        return np.concatenate(list(self.bands()))


def _check_array(name: str, given: Array) -> None:
    if given.ndim not in (2, 3) or (given.ndim == 3 and given.shape[2] not in (1, 3)) or 0 in given.shape:
        raise ShapeError(f"{name}: want (H, W), (H, W, 1) or (H, W, 3), got {given.shape}")
    if given.dtype not in KINDS:
        raise ShapeError(f"{name}: want uint8, uint16 or float32, got {given.dtype}")
    if given.dtype == np.float32 and not np.isfinite(given).all():
        raise ShapeError(f"{name}: has NaN or infinity; fill such pixels first")
    if given.dtype == np.float32 and (given.min() < 0 or given.max() > 1):
        raise ShapeError(f"{name}: levels go from {given.min():g} to {given.max():g}; divide by white, so that 0..1")


def _opened(paths: Sequence[Path], output: Path, shooting: Shooting) -> list[Picture]:
    if not paths:
        raise UsageError("no frames given")
    if folders := [path for path in paths if os.path.isdir(path)]:
        raise UsageError(f"{folders[0]}: is a folder; name its pictures, as in {folders[0] / '*.jpg'}")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UsageError(f"{twice}: is given twice; name each frame once")
    entry = format_of(output)
    opened = partial(open_picture, max_megapixels=shooting.max_megapixels, white=shooting.white)
    pictures = [opened(path) for path in paths]
    turns = {picture.orientation for picture in pictures}
    if turns != {1} and not (len(turns) == 1 and entry.turns and {entry.name} == {p.format.name for p in pictures}):
        pictures = [opened(path, upright=True) for path in paths]
    for picture in pictures:
        if picture.alpha:
            raise UsageError(f"{picture.path}: has alpha, which the frames of a burst haven't; flatten it first")
    return pictures


def _may_write(paths: Sequence[Path], output: Path, *, overwrite: bool) -> None:
    if not os.path.exists(output):
        return
    if os.path.isdir(output):
        raise OutputError(f"{output}: is a folder where the output should go; give the name of a file")
    if any(output.samefile(path) for path in paths):
        raise OutputError(f"{output}: the output is one of the frames; choose another name with -o")
    if not overwrite:
        raise OutputError(f"{output}: exists already; replace it with --overwrite or choose another name with -o")


# ---- which frames, and how they lie


@dataclass(eq=False)
class _Study:
    """All that is known before the first tile is fused."""

    frames: Sequence[_Frame]
    workshop: Workshop | None
    """None at scale 1, where the reference is its own start."""
    grid: int
    """The whole scale of the fine grid."""
    size: tuple[int, int]
    """(rows, cols) of the result."""
    reference: int
    poses: dict[int, Pose] = field(default_factory=dict)
    """By the frame's number, the reference's first."""
    notes: list[str] = field(default_factory=list)


def _study(frames: Sequence[_Frame], shooting: Shooting, paths: Sequence[Path] | None) -> _Study:
    first = frames[0]
    for frame in frames[1:]:
        if frame.shape[:2] != first.shape[:2]:
            sizes = [f"{each.shape[1]}x{each.shape[0]}" for each in (first, frame)]
            raise ShapeError(f"{first.name} is {sizes[0]} and {frame.name} is {sizes[1]}; cut them to one size")
        if frame.shape[2] != first.shape[2]:
            grey = first if first.shape[2] == 1 else frame
            raise ShapeError(f"{first.name} and {frame.name}: only {grey.name} is grey; make all grey or all RGB")
    grid = max(1, math.ceil(shooting.scale - 1e-9))
    size = tuple(max(1, round(side * shooting.scale)) for side in first.shape[:2])
    notes: list[str] = []
    different, sharp = _looked_at(frames, notes)
    reference, poses = _aligned(frames, different, sharp, notes)
    workshop = None
    if grid > 1:
        job = Job(scale=float(grid), model=shooting.model)
        workshop, _ = Workshops(job).suited(None if paths is None else paths[reference])
    study = _Study(frames, workshop, grid, (size[0], size[1]), reference, poses, notes)
    if len(poses) > 1:
        _polish(study)
    if len(poses) == 1:
        what = workshop.name if workshop is not None else "a copy"
        notes.append(f"only {frames[reference].name} is left: this is plain upscaling of one picture, by {what}")
    elif grid > 1 and all(_whole(pose, first.shape) for pose in poses.values()):
        notes.append(
            "all frames lie by whole pixels to each other: the burst loses noise but gains no resolution; hold the"
            " camera in the hand"
        )
    return study


def _looked_at(frames: Sequence[_Frame], notes: list[str]) -> tuple[list[int], list[float]]:
    """The frames that are no copies of others, and how sharp each is."""
    found: dict[str, int] = {}
    different, sharp = [], []
    for place, frame in enumerate(frames):
        pixels = frame.whole()
        digest = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
        sharp.append(float(np.mean([sharpness(to_unit(pixels[rows, cols])) for rows, cols in _regions(frame.shape)])))
        if (other := found.setdefault(digest, place)) != place:
            notes.append(f"{frame.name} is the same as {frames[other].name} to the bit, and left out")
        else:
            different.append(place)
    return different, sharp


def _regions(shape: Shape) -> list[tuple[slice, slice]]:
    """Windows spread over a picture."""
    spans = []
    for length in shape[:2]:
        side = min(_WINDOW, length)
        count = max(1, min(_WINDOWS, length // side))
        tops = [round((index + 0.5) * length / count - side / 2) for index in range(count)]
        spans.append([slice(max(0, top), max(0, top) + side) for top in tops])
    return [(rows, cols) for rows in spans[0] for cols in spans[1]]


def _aligned(
    frames: Sequence[_Frame], different: list[int], sharp: list[float], notes: list[str]
) -> tuple[int, dict[int, Pose]]:
    """The reference, and the poses of all frames that show what it shows."""
    if len(different) == 1:
        return different[0], {different[0]: Pose(np.eye(2, 3), noise=LEAST_NOISE)}
    usual = float(np.median([sharp[place] for place in different]))
    order = sorted(different, key=lambda place: -sharp[place])
    if sharp[different[0]] >= _SHARP * usual:
        order = [different[0], *(place for place in order if place != different[0])]
    best: tuple[int, dict[int, Pose], dict[int, str]] | None = None
    for reference in order[:_REFERENCES]:
        poses, refused = _against(frames, reference, different)
        if best is None or len(poses) > len(best[1]):
            best = (reference, poses, refused)
        if 2 * len(poses) > len(different):
            break
    assert best is not None  # noqa: S101 -- there is at least one frame
    reference, poses, refused = best
    if len(poses) == 1:
        raise NoMatchError(f"no two of the {len(different)} frames show the same; {next(iter(refused.values()))}")
    if reference != different[0]:
        why = "is less sharp" if different[0] in poses else "shows something else than the others"
        notes.append(f"{frames[different[0]].name} {why}; {frames[reference].name} is the reference instead")
    notes += [f"{reason}, and left out" for reason in refused.values()]
    return reference, poses


def _against(frames: Sequence[_Frame], reference: int, places: list[int]) -> tuple[dict[int, Pose], dict[int, str]]:
    """Poses of the frames that match the reference, and why the others don't."""
    base = frames[reference].whole()
    poses = {reference: Pose(np.eye(2, 3), noise=LEAST_NOISE)}
    refused = {}
    for place in places:
        if place == reference:
            continue
        try:
            poses[place] = _pose(base, frames[place].whole())
        except NoMatchError as error:
            refused[place] = f"{frames[place].name} doesn't match {frames[reference].name} ({error})"
    noise = float(np.median([pose.noise for pose in list(poses.values())[1:] or [poses[reference]]]))
    poses[reference] = replace(poses[reference], noise=noise)
    return poses, refused


def _pose(base: Array, pixels: Array) -> Pose:
    """By the affine model where it has enough to go on; `_polish` adds what a shift doesn't tell."""
    white, other = KINDS[base.dtype], KINDS[pixels.dtype]
    found = None
    models: tuple[Literal["affine", "translation"], ...] = ("affine", "translation")
    for model, robust in product(models[min(base.shape[:2]) < _AFFINE_SIDE :], (True, False)):
        try:
            found = register(base, pixels, model=model, robust=robust)
            break
        except NoMatchError as error:
            refusal = error
    if found is None:
        raise refusal
    if found.gain <= 0:
        raise NoMatchError("no reliable match: one is like the other's negative")
    return Pose(found.matrix, found.gain * white / other, found.offset / other, max(found.noise / other, LEAST_NOISE))


def _whole(pose: Pose, shape: Shape) -> bool:
    """The frame lies by whole pixels everywhere."""
    ends = np.array([[row, col, 1] for row in (0, shape[0] - 1) for col in (0, shape[1] - 1)], np.float64)
    moved = ends @ pose.matrix.T
    return bool(np.abs(moved - np.rint(moved)).max() < _NO_FRACTION)


def _polish(study: _Study) -> None:
    """Better the poses against the fused picture itself, in windows, and leave out frames that spoil it."""
    regions = _regions(study.frames[0].shape)
    crops = {place: _crops(study.frames[place].whole(), study.poses[place], regions) for place in study.poses}
    base = study.frames[study.reference].whole()
    starts = [_enlarged(study, base[rows, cols]) for rows, cols in regions]
    made: list[Floats | None] = [None] * len(regions)
    for turn in range(_ROUNDS):
        told: dict[int, list[Witness]] = {place: [] for place in study.poses}
        for number, (rows, cols) in enumerate(regions):
            there = [place for place in study.poses if crops[place][number] is not None]
            pieces = [replace(crop, pose=study.poses[place]) for place in there if (crop := crops[place][number])]
            corner = (rows.start, cols.start)
            fusion = fuse(pieces, starts[number], study.grid, corner, begin=made[number], turns=2, witnesses=True)
            made[number] = fusion.pixels
            for place, witness in zip(there, fusion.witnesses, strict=True):
                told[place].append(witness)
        # The reference is explained best, being the start; by its own residual it would be believed more and more.
        noise = {place: _mean(each, [witness.noise for witness in each]) for place, each in told.items()}
        usual = float(np.median([noise[place] for place in told if place != study.reference]))
        for place, witnesses in told.items():
            pose = study.poses[place]
            if place != study.reference:
                pose = bettered(pose, witnesses)
            level = max(noise[place], usual) if place != study.reference else usual
            study.poses[place] = replace(pose, noise=max(level * abs(pose.gain), LEAST_NOISE))
        if turn == _JUDGED and (spoilt := _judged(study, told)):
            for place, reason in spoilt.items():
                study.notes.append(f"{study.frames[place].name} {reason}, and left out")
                del study.poses[place]
            if len(study.poses) == 1:
                return
            made = [None] * len(regions)


def _crops(pixels: Array, pose: Pose, regions: Sequence[tuple[slice, slice]]) -> list[Piece | None]:
    crops: list[Piece | None] = []
    for rows, cols in regions:
        down, across = _reach(pose, rows, cols, pixels.shape)
        if down.start >= down.stop or across.start >= across.stop:
            crops.append(None)
        else:
            crops.append(Piece(to_unit(pixels[down, across]), (down.start, across.start), pose))
    return crops


def _reach(pose: Pose, rows: slice, cols: slice, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The part of a frame that shows a part of the reference; empty where none does."""
    ends = np.array([[row, col, 1] for row in (rows.start, rows.stop) for col in (cols.start, cols.stop)], np.float64)
    moved = ends @ pose.matrix.T
    spans = []
    for axis in (0, 1):
        low, high = math.floor(moved[:, axis].min()) - _AROUND, math.ceil(moved[:, axis].max()) + _AROUND
        spans.append(slice(min(max(low, 0), shape[axis]), min(max(high, 0), shape[axis])))
    return spans[0], spans[1]


def _mean(witnesses: Sequence[Witness], values: Sequence[float]) -> float:
    counts = [witness.samples for witness in witnesses]
    return float(np.average(values, weights=counts)) if sum(counts) else 0.0


def _judged(study: _Study, told: dict[int, list[Witness]]) -> dict[int, str]:
    """The frames that should be left out, and why."""
    used = {place: _mean(each, [witness.used for witness in each]) for place, each in told.items()}
    detail = {place: _mean(each, [witness.detail for witness in each]) for place, each in told.items()}
    noise = {place: _mean(each, [witness.noise for witness in each]) for place, each in told.items()}
    usual = {"detail": float(np.median(list(detail.values()))), "noise": float(np.median(list(noise.values())))}
    reasons = {}
    for place in told:
        if place == study.reference:
            continue
        if detail[place] < _LEAST_DETAIL * usual["detail"]:
            share = 100 * max(0.0, detail[place] / usual["detail"])
            reasons[place] = f"is blurred or shows something else: it has {share:.0f} % of the fine contrast expected"
        elif used[place] < _LEAST_USED:
            reasons[place] = f"shows something else: {100 * used[place]:.0f} % of it agrees with the reference"
        elif noise[place] > _MOST_NOISE * max(usual["noise"], LEAST_NOISE):
            reasons[place] = f"doesn't fit: what is unexplained is {noise[place] / usual['noise']:.1f} times the usual"
    return reasons


# ---- fused


def _enlarged(study: _Study, pixels: Array) -> Floats:
    return np.concatenate(
        list(_start(study, (pixels.shape[0], pixels.shape[1], pixels.shape[2]), pixels.dtype, [pixels]))
    )


def _start(study: _Study, shape: Shape, dtype: np.dtype[Any], bands: Iterable[Array]) -> Iterator[Floats]:
    """Bands of the single picture's enlargement, in 0..1."""
    if study.workshop is None:
        return map(to_unit, bands)
    target = (shape[0] * study.grid, shape[1] * study.grid)
    return map(to_unit, study.workshop.route(shape, dtype, target, np.dtype(np.float32)).bands(shape, bands))


def _bands(study: _Study) -> Iterator[Floats]:
    """Bands of the result, in about 0..1."""
    base = study.frames[study.reference]
    fine = (base.shape[0] * study.grid, base.shape[1] * study.grid, base.shape[2])
    start = _start(study, base.shape, base.dtype, base.bands())
    bands = start if len(study.poses) == 1 else _fused(study, Window(fine, np.dtype(np.float32), start))
    if study.size == fine[:2]:
        return bands
    window = Window(fine, np.dtype(np.float32), bands)
    return resize_bands(window.rows, fine[:2], study.size, "bicubic")  # type: ignore[arg-type]


def _fused(study: _Study, start: Window) -> Iterator[Floats]:
    scale = study.grid
    frames = [study.frames[place] for place in study.poses]
    poses = list(study.poses.values())
    windows = [Window(frame.shape, frame.dtype, frame.bands()) for frame in frames]
    shape = frames[0].shape
    grid = Grid(scale, _HALO, 1)
    with ThreadPoolExecutor(cores()) as pool:  # NumPy lets go of the interpreter in its loops
        for rows in plan(shape[0], _TILE, grid):
            outer = slice(rows.outer_start, rows.outer_stop)
            begin = start.rows(outer.start * scale, outer.stop * scale)
            strips: list[tuple[Array, int] | None] = []
            for window, pose in zip(windows, poses, strict=True):
                down, _ = _reach(pose, outer, slice(0, shape[1]), shape)
                strips.append((window.rows(down.start, down.stop), down.start) if down.start < down.stop else None)
            tile = partial(_tile, poses=poses, strips=strips, begin=begin, rows=rows, shape=shape, scale=scale)
            yield np.concatenate(list(pool.map(tile, plan(shape[1], _TILE, grid))), axis=1)


def _tile(
    cols: Span,
    *,
    poses: Sequence[Pose],
    strips: Sequence[tuple[Array, int] | None],
    begin: Array,
    rows: Span,
    shape: Shape,
    scale: int,
) -> Floats:
    """One tile, of strips of the frames and the row each begins with."""
    outer, wide = slice(rows.outer_start, rows.outer_stop), slice(cols.outer_start, cols.outer_stop)
    pieces = []
    for strip, pose in zip(strips, poses, strict=True):
        down, across = _reach(pose, outer, wide, shape)
        if strip is None or down.start >= down.stop or across.start >= across.stop:
            continue
        inner = slice(down.start - strip[1], down.stop - strip[1])
        pieces.append(Piece(to_unit(strip[0][inner, across]), (down.start, across.start), pose))
    part = to_unit(begin[:, wide.start * scale : wide.stop * scale])
    made = fuse(pieces, part, scale, (outer.start, wide.start)).pixels
    return made[_kept(rows.start, rows.stop, outer.start, scale), _kept(cols.start, cols.stop, wide.start, scale)]


def _kept(start: int, stop: int, origin: int, scale: int) -> slice:
    return slice((start - origin) * scale, (stop - origin) * scale)
