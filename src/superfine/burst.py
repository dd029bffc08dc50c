"""A burst of pictures, or a stretch of a clip -> one picture of more resolution: look, align, polish, fuse by tiles.

While they are looked at and polished, one frame is held at a time, in its own depth; they are aligned and searched for
movement as small luma, and read in bands of rows, all side by side, while they are fused. What the reference's file
holds besides its pixels survives as it survives `upscale`.
"""

import hashlib
import math
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from superfine.classical.burst import (
    LEAST_NOISE,
    Fusion,
    Piece,
    Pose,
    Witness,
    bettered,
    fuse,
    missed,
    motion,
    sharpness,
)
from superfine.classical.register import Registration, register
from superfine.classical.resample import resize_bands
from superfine.clip import Clip, shown_time, stretch
from superfine.color import KINDS, full_luma, to_kind, to_unit
from superfine.destination import check_folder, check_free, check_holds, fewer_bits, keeps_turn, made_dtype
from superfine.engine import cores
from superfine.errors import NoMatchError, ShapeError, UsageError
from superfine.footage import open_footage, read_footage
from superfine.image import MAX_MEGAPIXELS, Picture, format_of, open_picture, plain_picture, save_picture
from superfine.interrupt import raise_if_asked
from superfine.outputs import turned
from superfine.route import Job, Workshop, Workshops
from superfine.tiles import Grid, Span, Window, plan

__all__ = ["MOST_FRAMES", "MOST_SCALE", "Burst", "Fused", "Shooting", "burst_clip", "burst_path", "fuse_frames"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Done = Callable[[float], None]

#: The pixel's own blur hides what is finer.
MOST_SCALE: Final = 4.0
#: Of a clip; more take minutes and add little. And bytes that its frames may hold together.
MOST_FRAMES: Final = 60
_MOST_BYTES: Final = 1_000_000_000
# Tiles: their inner side, and what is computed around them and thrown away, in pixels of a frame.
_TILE, _HALO = 128, 12
# Poses are polished in windows of this side, so many a side, in so many rounds; frames are judged after the third. And
# turns in a round.
_WINDOW, _WINDOWS, _ROUNDS, _JUDGED = 96, 3, 5, 2
_POLISHING: Final = 3
# A frame's samples around a region, for the spline of those that a polished pose brings in.
_AROUND: Final = 3
# The first frame is the reference unless it has less than this share of the usual sharpness.
_SHARP: Final = 0.8
_REFERENCES: Final = 3
# Frames are left out of which less than this share agrees, that show less than this share of the fine contrast, or
# of which more than this many times the usual is left unexplained.
_LEAST_USED, _LEAST_DETAIL, _MOST_NOISE = 0.4, 0.75, 3.0
_AFFINE_SIDE: Final = 64
# Frames are aligned, and searched for movement, with so many pixels on the longer side at most; and with so many on the
# shorter one at least, where they have them.
_LONGER, _SHORTER = 640, 64
# Affine poses that are less sure than this, in pixels, are tried against a mere shift.
_SURE: Final = 0.02
# About how long looking takes, per megapixel of a frame; aligning, polishing and searching, per frame; fusing,
# per megapixel of a frame; and all that is beside, per megapixel of the picture: for the share that is done.
_COSTS: Final = (0.03, 1.5, 0.4, 0.4, 0.5, 2.0)
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
    reference: Path | str
    """A file, or a frame of a clip by the clip's name and its time."""
    used: tuple[Path | str, ...]
    size: tuple[int, int]
    """(rows, cols) of the output as stored."""
    seconds: float
    notes: tuple[str, ...]
    given: int
    """Frames that there were."""


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
    study = _study(sources, Shooting(scale=scale, model=model), None, _stages(lambda share: None, sources))
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
    done: Done = lambda share: None,
) -> Fused:
    """Fuse picture files of one scene into one file; what `superfine burst` does.

    done: hears the share of the work that is done, from the first look to the last row. The result has the depth,
    colour profile and metadata of the reference. Raises what `fuse_frames` raises, SourceError and OutputError.
    """
    started = time.perf_counter()
    shooting = shooting or Shooting()
    if "" in (*sources, output):
        raise UsageError("a name is empty; `.` is the present folder")
    paths, target = [Path(source) for source in sources], Path(output)
    pictures = _opened(paths, target, shooting)
    check_folder(target)
    check_free(target, paths, overwrite=overwrite)
    frames = [_Frame(str(picture.path), picture.shape, picture.dtype, picture.bands) for picture in pictures]
    return _fuse_into(target, frames, paths, pictures, shooting, started, done)


def burst_clip(
    source: Path | str,
    output: Path | str,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    at: Fraction | None = None,
    shooting: Shooting | None = None,
    overwrite: bool = False,
    done: Done = lambda share: None,
) -> Fused:
    """Fuse a stretch of a video, an animation or numbered frames into one picture, turned as the clip is seen.

    start, end: seconds; frames shown from `start` on and before `end`, 2 to `MOST_FRAMES`, fewer where they are large.
    at: the moment of the reference; else the frame in the middle is it. Frames that can't be decoded are left out.
    `shooting.white` has no meaning here. Raises UsageError for a stretch that is too long or holds nothing, and what
    `burst_path` raises.
    """
    started = time.perf_counter()
    shooting = shooting or Shooting()
    path, target = Path(source), Path(output)
    if shooting.white is not None:
        raise UsageError(f"{path}: --white is for float TIFF, and this is a clip; leave it out")
    format_of(target)  # where it has none, that is said first
    check_folder(target)
    check_free(target, [path], overwrite=overwrite)
    clip = open_footage(path, max_megapixels=shooting.max_megapixels)
    if clip.alpha:
        raise UsageError(f"{path}: has alpha, which the frames of a burst haven't; flatten it first")
    first, stop = _stretch_of_few(clip, start, end)
    middle = _middle(clip, first, stop, at)
    heard: list[str] = []
    held = {
        frame.number: np.ascontiguousarray(turned(frame.pixels, clip.display_matrix))
        for frame in read_footage(clip, first, stop, damaged="repeat", note=heard.append)
        if not frame.repeated
    }
    if not held:
        raise UsageError(f"{path}: none of the frames from {shown_time(clip.timeline.at(first))} on can be decoded")
    order = sorted(held, key=lambda number: (abs(number - middle), number))
    numbers = [order[0], *sorted(order[1:])]  # the first is the reference
    frames, likes, names = [], [], []
    for number in numbers:
        pixels = held[number]
        name = f"{path} at {shown_time(clip.timeline.at(number))}"
        shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
        frames.append(_Frame(name, shape, pixels.dtype, partial(iter, [pixels])))
        likes.append(
            plain_picture(clip.path, shape, clip.dtype, clip.bits)
            if clip.kind != "frames"
            else open_picture(clip.files[number], upright=True)
        )
        names.append(name)
    fused = _fuse_into(target, frames, names, likes, shooting, started, done)
    return replace(fused, notes=(*clip.notes, *heard, *fused.notes), given=stop - first)


def _fuse_into(
    target: Path,
    frames: Sequence["_Frame"],
    names: Sequence[Path | str],
    pictures: Sequence[Picture],
    shooting: Shooting,
    started: float,
    done: Done,
) -> Fused:
    """The way that files and frames of clips have in common. pictures: whose metadata the result may keep."""
    stages = _stages(done, frames)
    files = [name for name in names if isinstance(name, Path)]
    study = _study(frames, shooting, files or None, stages)
    like = pictures[study.reference]
    entry = format_of(target)
    check_holds(entry, like, study.size)
    made = made_dtype(entry, like)
    stopped = threading.Event()

    def told() -> Iterator[Array]:
        rows = 0
        for band in _bands(study):
            rows += len(band)
            stages.fuse(rows / study.size[0])
            if stopped.is_set():
                raise KeyboardInterrupt
            yield to_kind(band, made)

    shape = (*study.size, like.shape[2])
    with ThreadPoolExecutor(1) as encoder:  # inside of libvips this thread would be deaf to Ctrl-C
        coming = encoder.submit(save_picture, target, told(), shape, made, like=like, quality=shooting.quality)
        try:
            coming.result()
        except BaseException:
            stopped.set()
            raise
    used = tuple(names[place] for place in study.poses)
    notes = (*like.notes, *study.notes, *fewer_bits(entry, like))
    seconds = time.perf_counter() - started
    return Fused(target, names[study.reference], used, study.size, seconds, notes, len(frames))


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
    if len({picture.orientation for picture in pictures}) > 1 or not all(keeps_turn(entry, each) for each in pictures):
        pictures = [opened(path, upright=True) for path in paths]
    for picture in pictures:
        if picture.alpha:
            raise UsageError(f"{picture.path}: has alpha, which the frames of a burst haven't; flatten it first")
    return pictures


def _stretch_of_few(clip: Clip, start: Fraction | None, end: Fraction | None) -> tuple[int, int]:
    """Numbers of the first frame and of the one after the last. Raises UsageError for none, or too many."""
    first, stop = stretch(clip, start, end)
    rows, cols, channels = clip.shape
    most = max(2, min(MOST_FRAMES, _MOST_BYTES // (rows * cols * channels * clip.dtype.itemsize)))
    if stop - first > most:
        last, next_one = (clip.timeline.at(first + most + step) for step in (-1, 0))
        between = (last + next_one) / 2  # rounded, it still parts them
        raise UsageError(
            f"{clip.path}: {stop - first} frames are more than the {most} of this size that a burst takes; give --end"
            f" {shown_time(between)}, or less"
        )
    return first, stop


def _middle(clip: Clip, first: int, stop: int, at: Fraction | None) -> int:
    """The number of the frame that is the reference."""
    if at is None:
        return (first + stop - 1) // 2
    times = [clip.timeline.at(number) for number in range(first, stop)]
    number = first + bisect_right(times, at) - 1
    end = times[-1] + clip.timeline.last * clip.timeline.unit if stop == len(clip.timeline) else clip.timeline.at(stop)
    if number < first or at >= end:
        raise UsageError(
            f"{clip.path}: no frame of the stretch is shown at {shown_time(at)}; it goes from {shown_time(times[0])} to"
            f" {shown_time(times[-1])}"
        )
    return number


@dataclass(frozen=True)
class _Stages:
    """Each hears the share of its own work that is done."""

    look: Done
    align: Done
    polish: Done
    search: Done
    fuse: Done


def _stages(done: Done, frames: Sequence[_Frame]) -> _Stages:
    """What the stages say of themselves -> the share of all work."""
    count, area = len(frames), frames[0].shape[0] * frames[0].shape[1] / 1e6
    look, align, polish, search, fused, alone = _COSTS
    costs = [look * count * area, align * (count - 1), polish * count, search * count, (fused * count + alone) * area]
    spans = np.array([0.0, *np.cumsum(costs)]) / sum(costs)

    def part(number: int) -> Done:
        start, stop = float(spans[number]), float(spans[number + 1])
        return lambda share: done(start + (stop - start) * share)

    return _Stages(*(part(number) for number in range(len(costs))))


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
    moved: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Where frames move against the reference, by optical flow, in blocks of `block` x `block` pixels."""
    block: int = 1


def _study(frames: Sequence[_Frame], shooting: Shooting, paths: Sequence[Path] | None, stages: _Stages) -> _Study:
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
    looks = _looked_at(frames, notes, stages.look)
    reference, poses = _aligned(frames, looks, notes, stages.align)
    workshop = None
    if grid > 1:
        job = Job(scale=float(grid), model=shooting.model)
        workshop, _ = Workshops(job).suited(None if paths is None else paths[reference])
    study = _Study(frames, workshop, grid, (size[0], size[1]), reference, poses, notes)
    if len(poses) > 1:
        _polish(study, stages.polish)
        _search(study, looks, stages.search)
    if len(poses) == 1:
        what = workshop.name if workshop is not None else "a copy"
        notes.append(f"only {frames[reference].name} is left: this is plain upscaling of one picture, by {what}")
    elif grid > 1 and all(_whole(pose, first.shape) for pose in poses.values()):
        notes.append(
            "all frames lie by whole pixels to each other: the burst loses noise but gains no resolution; hold the"
            " camera in the hand"
        )
    return study


@dataclass(frozen=True)
class _Looks:
    """What a first look at the frames tells."""

    different: list[int]
    """Those that are no copies of others."""
    sharp: list[float]
    small: list[Floats]
    """Luma of each in 0..1, means over `block` x `block` pixels."""
    block: int


def _looked_at(frames: Sequence[_Frame], notes: list[str], done: Done) -> _Looks:
    shape = frames[0].shape
    looks = _Looks([], [], [], max(1, min(math.ceil(max(shape[:2]) / _LONGER), min(shape[:2]) // _SHORTER)))
    found: dict[str, int] = {}
    for place, frame in enumerate(frames):
        pixels = np.ascontiguousarray(frame.whole())
        digest = hashlib.sha256(pixels.data).hexdigest()
        looks.sharp.append(float(np.mean([sharpness(to_unit(pixels[where])) for where in _regions(shape)])))
        looks.small.append(_small(pixels, looks.block))
        if (other := found.setdefault(digest, place)) != place:
            notes.append(f"{frame.name} is the same as {frames[other].name} to the bit, and left out")
        else:
            looks.different.append(place)
        done((place + 1) / len(frames))
        raise_if_asked()
    return looks


def _small(pixels: Array, block: int) -> Floats:
    rows, cols = (side // block for side in pixels.shape[:2])
    out = np.empty((rows, cols), np.float32)
    for row in range(rows):
        unit = to_unit(pixels[row * block : (row + 1) * block, : cols * block])
        line = full_luma(unit) if unit.shape[2] == 3 else unit[..., 0]
        out[row] = line.reshape(block, cols, block).mean(axis=(0, 2))
    return out


def _regions(shape: Shape) -> list[tuple[slice, slice]]:
    """Windows spread over a picture."""
    spans = []
    for length in shape[:2]:
        side = min(_WINDOW, length)
        count = max(1, min(_WINDOWS, length // side))
        tops = [round((index + 0.5) * length / count - side / 2) for index in range(count)]
        spans.append([slice(max(0, top), max(0, top) + side) for top in tops])
    return [(rows, cols) for rows in spans[0] for cols in spans[1]]


def _aligned(frames: Sequence[_Frame], looks: _Looks, notes: list[str], done: Done) -> tuple[int, dict[int, Pose]]:
    """The reference, and the poses of all frames that show what it shows."""
    different, sharp = looks.different, looks.sharp
    if len(different) == 1:
        return different[0], {different[0]: Pose(np.eye(2, 3), noise=LEAST_NOISE)}
    usual = float(np.median([sharp[place] for place in different]))
    order = sorted(different, key=lambda place: -sharp[place])
    if sharp[different[0]] >= _SHARP * usual:
        order = [different[0], *(place for place in order if place != different[0])]
    best: tuple[int, dict[int, Pose], dict[int, str]] | None = None
    for reference in order[:_REFERENCES]:
        poses, refused = _against(frames, reference, looks, done)
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


def _against(
    frames: Sequence[_Frame], reference: int, looks: _Looks, done: Done
) -> tuple[dict[int, Pose], dict[int, str]]:
    """Poses of the frames that match the reference, and why the others don't."""
    poses = {reference: Pose(np.eye(2, 3), noise=LEAST_NOISE)}
    refused = {}

    def tried(place: int) -> Pose | NoMatchError:
        try:
            return _pose(looks.small[reference], looks.small[place], looks.block)
        except NoMatchError as error:
            return error

    others = [place for place in looks.different if place != reference]
    with _workers() as pool:
        for number, (place, found) in enumerate(zip(others, pool.map(tried, others), strict=True), 1):
            if isinstance(found, Pose):
                poses[place] = found
            else:
                refused[place] = f"{frames[place].name} doesn't match {frames[reference].name} ({found})"
            done(number / len(others))
            raise_if_asked()
    noise = float(np.median([pose.noise for pose in list(poses.values())[1:] or [poses[reference]]]))
    poses[reference] = replace(poses[reference], noise=noise)
    return poses, refused


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """One a core: NumPy lets go of the interpreter in its loops. After Ctrl-C what hasn't begun is dropped."""
    pool = ThreadPoolExecutor(cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _resized(matrix: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    """The matrix of pictures with `factor` times the pixels a side."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    middle = np.full(2, (factor - 1) / 2)  # of the first pixel, among those that it becomes
    return np.column_stack([linear, factor * shift + middle - linear @ middle])


def _pose(base: Floats, pixels: Floats, block: int) -> Pose:
    """By the affine model where it has enough to go on; `_polish` adds what a shift doesn't tell.

    Of pictures that show little outside of one place an affine pose may be far off elsewhere: then the better of both.
    """
    poses = []
    models: tuple[Literal["affine", "translation"], ...] = ("affine", "translation")
    for model in models[min(base.shape) < _AFFINE_SIDE :]:
        try:
            found = _registered(base, pixels, model)
        except NoMatchError as error:
            refusal = error
            continue
        poses.append(Pose(found.matrix, found.gain, found.offset, max(found.noise, LEAST_NOISE)))
        if max(found.error) <= _SURE:
            break
    if not poses:
        raise refusal
    best = poses[0] if len(poses) == 1 else min(poses, key=lambda pose: _missed(base, pixels, pose))
    if best.gain <= 0:
        raise NoMatchError("no reliable match: one is like the other's negative")
    return replace(best, matrix=_resized(best.matrix, block))


def _registered(base: Floats, pixels: Floats, model: Literal["affine", "translation"]) -> Registration:
    try:
        return register(base, pixels, model=model, robust=True)
    except NoMatchError:
        return register(base, pixels, model=model)


def _missed(base: Floats, pixels: Floats, pose: Pose) -> float:
    """The mean square by which a frame misses the reference."""
    regions = _regions((*base.shape, 1))
    crops = zip(_crops(pixels[..., None], pose, regions), regions, strict=True)
    told = [missed(crop, base[where][..., None], (where[0].start, where[1].start)) for crop, where in crops if crop]
    return sum(total for total, _ in told) / max(1, sum(count for _, count in told))


def _whole(pose: Pose, shape: Shape) -> bool:
    """The frame lies by whole pixels everywhere."""
    ends = np.array([[row, col, 1] for row in (0, shape[0] - 1) for col in (0, shape[1] - 1)], np.float64)
    moved = ends @ pose.matrix.T
    return bool(np.abs(moved - np.rint(moved)).max() < _NO_FRACTION)


def _polish(study: _Study, done: Done) -> None:
    """Better the poses against the fused picture itself, in windows, and leave out frames that spoil it."""
    regions = _regions(study.frames[0].shape)
    crops = {place: _crops(study.frames[place].whole(), study.poses[place], regions) for place in study.poses}
    base = study.frames[study.reference].whole()
    starts = [_enlarged(study, base[rows, cols]) for rows, cols in regions]
    made: list[Floats | None] = [None] * len(regions)
    for turn in range(_ROUNDS):

        def polished(number: int, made: Sequence[Floats | None] = tuple(made)) -> tuple[list[int], Fusion]:
            corner = (regions[number][0].start, regions[number][1].start)
            there = [place for place in study.poses if crops[place][number] is not None]
            pieces = [replace(crop, pose=study.poses[place]) for place in there if (crop := crops[place][number])]
            start, begin = starts[number], made[number]
            return there, fuse(pieces, start, study.grid, corner, begin=begin, turns=_POLISHING, witnesses=True)

        with _workers() as pool:
            fusions = list(pool.map(polished, range(len(regions))))
        done((turn + 1) / _ROUNDS)
        raise_if_asked()
        made = [fusion.pixels for _, fusion in fusions]
        told: dict[int, list[Witness]] = {place: [] for place in study.poses}
        for there, fusion in fusions:
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


def _search(study: _Study, looks: _Looks, done: Done) -> None:
    """Find where frames move against the reference."""
    study.block = looks.block

    def moved(place: int) -> npt.NDArray[np.bool_]:
        pose = study.poses[place]
        pose = replace(pose, matrix=_resized(pose.matrix, 1 / study.block))
        return motion(looks.small[study.reference], looks.small[place], pose) > 0

    others = [place for place in study.poses if place != study.reference]
    with _workers() as pool:
        for number, (place, found) in enumerate(zip(others, pool.map(moved, others), strict=True), 1):
            if found.any():
                study.moved[place] = found
            done(number / len(others))
            raise_if_asked()


def _still(study: _Study, place: int, rows: slice, cols: slice) -> Floats | None:
    """Of a part of the reference, what stands still in a frame; None where all does."""
    moved = study.moved.get(place)
    if moved is None:
        return None
    spans = [
        np.minimum(np.arange(span.start, span.stop) // study.block, side - 1)
        for span, side in zip((rows, cols), moved.shape, strict=True)
    ]
    part = moved[np.ix_(*spans)]
    return (~part).astype(np.float32) if part.any() else None


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
    windows = [Window(frame.shape, frame.dtype, frame.bands()) for frame in frames]
    shape = frames[0].shape
    grid = Grid(scale, _HALO, 1)
    with _workers() as pool:
        for rows in plan(shape[0], _TILE, grid):
            outer = slice(rows.outer_start, rows.outer_stop)
            begin = start.rows(outer.start * scale, outer.stop * scale)
            strips: list[tuple[Array, int] | None] = []
            for window, pose in zip(windows, study.poses.values(), strict=True):
                down, _ = _reach(pose, outer, slice(0, shape[1]), shape)
                strips.append((window.rows(down.start, down.stop), down.start) if down.start < down.stop else None)
            tile = partial(_tile, study=study, strips=strips, begin=begin, rows=rows)
            yield np.concatenate(list(pool.map(tile, plan(shape[1], _TILE, grid))), axis=1)


def _tile(
    cols: Span,
    *,
    study: _Study,
    strips: Sequence[tuple[Array, int] | None],
    begin: Array,
    rows: Span,
) -> Floats:
    """One tile, of strips of the frames and the row each begins with."""
    outer, wide = slice(rows.outer_start, rows.outer_stop), slice(cols.outer_start, cols.outer_stop)
    scale, shape = study.grid, study.frames[0].shape
    pieces = []
    for strip, (place, pose) in zip(strips, study.poses.items(), strict=True):
        down, across = _reach(pose, outer, wide, shape)
        if strip is None or down.start >= down.stop or across.start >= across.stop:
            continue
        inner = slice(down.start - strip[1], down.stop - strip[1])
        pixels = to_unit(strip[0][inner, across])
        pieces.append(Piece(pixels, (down.start, across.start), pose, _still(study, place, outer, wide)))
    part = to_unit(begin[:, wide.start * scale : wide.stop * scale])
    made = fuse(pieces, part, scale, (outer.start, wide.start)).pixels
    return made[_kept(rows.start, rows.stop, outer.start, scale), _kept(cols.start, cols.stop, wide.start, scale)]


def _kept(start: int, stop: int, origin: int, scale: int) -> slice:
    return slice((start - origin) * scale, (stop - origin) * scale)
