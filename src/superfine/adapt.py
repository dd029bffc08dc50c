"""One picture, unknown blur: find the kernel, start in closed form, let a network finish, put the data back.

The start is the most probable picture under a plain prior (`classical.kernels`), so that the network sees what the
kernel left, whatever the kernel and the factor. In pieces with what lies around them, so that only the small picture
is held whole. What else the file holds survives as it survives `upscale`.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.blind.estimate import TRUSTED, KernelEstimate, estimate_kernel
from superfine.channels import bleed, for_channels
from superfine.classical.kernels import SCALES, KernelReduction, check_kernel, resampler_kernel, rounding_and
from superfine.color import KINDS, full_luma, to_kind, to_unit
from superfine.destination import check_free, check_holds, fewer_bits, made_dtype
from superfine.engine import LEAST_SIDE, NetworkEngine, cores, open_engine
from superfine.errors import ModelError, OutputError, ShapeError, UsageError
from superfine.image import MAX_MEGAPIXELS, Picture, format_of, open_picture, save_picture
from superfine.kernel_file import KernelShape, check_kernel_name, kernel_shape, read_kernel, write_kernel
from superfine.models import Model, find_model, read_model
from superfine.tiles import Grid, Window, enlarge

__all__ = [
    "REFINER",
    "Adapted",
    "Adapting",
    "Consistency",
    "Enlarged",
    "Kernel",
    "Taught",
    "Teacher",
    "adapt_path",
    "adapt_pixels",
    "find_kernel",
    "given_kernel",
    "learning_path",
    "open_refiner",
    "restore",
    "restore_unit",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Origin = Literal["found", "bicubic", "given"]
Done = Callable[[float], None]

#: The shipped network that finishes a picture.
REFINER: Final = "refiner-x1"
# Sides of pieces, in pixels of the large picture, and what lies around them, in those of the small one.
_PIECE: Final = 1024
_AROUND: Final = 24
# The least noise that is believed in where it is estimated, in 8-bit levels, and what the errors of a kernel that was
# found are like, by its family.
_LEAST_NOISE: Final = 0.05
_DOUBTS: Final = {"gaussian": 0.05, "motion": 1.0, "box": 0.5, "bicubic": 0.0}
# Without noise the data say no more than their rounding, half an 8-bit level; what is left covers the seams of pieces.
_TOLERANCE, _INSIDE = 0.4 / 255, 0.3 / 255
# Turns towards that, and those of them that heed what lies within it.
_TURNS, _WHOLE_TURNS = 8, 2
# About how many seconds looking for the kernel takes, and enlarging, for each megapixel of the result.
_LOOKING, _ENLARGING = 1.0, 3.0
# About how many seconds it takes to learn a picture to the last step.
_LEARNING: Final = 60.0
# Samples that lie farther than this outside of 0..1 aren't those of a sound result if more than this share of them do:
# right kernels give none on photographs, text and chessboards, kernels with half as much sigma again a thousandth.
_BEYOND, _MOST_BEYOND = 0.5, 1e-4
# Estimated noise, in 8-bit levels, from which a person should know what it costs.
_MUCH_NOISE: Final = 12.0
# A given kernel that lies farther than this from its point, in large pixels, was perhaps meant to lie on it.
_OFF_CENTRE: Final = 0.25
# A picture is looked at in so many windows of this side, each way.
_LOOKED, _LOOKS = 320, 3


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """How a picture is enlarged."""

    scale: int = 2
    """2, 3 or 4."""
    kernel: str = "auto"
    """`auto`, `bicubic`, or a file as `kernel_file.read_kernel` takes it."""
    noise: float | None = None
    """Standard deviation in 8-bit levels; where none is given it is estimated with the kernel, else none is assumed."""
    kernel_out: Path | None = None
    """Where the kernel is written, as numbers or as a picture."""
    budget_seconds: float | None = None
    """Time for all, of which the network gets what is left to learn the picture; none where not given."""
    save: Path | None = None
    """Where the network is kept that learned the picture."""
    model: Path | None = None
    """The network that finishes the picture, as `save` keeps one; the shipped one where none is given."""
    quality: int | None = None
    """1 to 100, for lossy formats."""
    white: float | None = None
    """The level of white in float TIFF."""
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            more = "; run superfine upscale on the result for more" if self.scale > max(SCALES) else ""
            raise UsageError(f"--scale {self.scale} is none of 2, 3 and 4, the factors that adapt enlarges by{more}")
        if self.kernel == "":
            raise UsageError("--kernel is empty; want auto, bicubic or a file")
        if self.noise is not None and not 0 <= self.noise <= 100:
            raise UsageError(f"--noise {self.noise:g} is outside 0 to 100 levels")
        if self.budget_seconds is not None and not 1 <= self.budget_seconds <= 1e6:
            raise UsageError(f"--budget {self.budget_seconds:g} is outside 1 to 1000000 seconds")
        if self.save is not None and self.budget_seconds is None:
            raise UsageError(
                f"--save {self.save}: nothing is learned without --budget SECONDS, so there is nothing to keep"
            )
        if self.save is not None and self.save.suffix.lower() != ".onnx":
            raise UsageError(f"{self.save}: give it a name that ends in .onnx")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is outside 1 to 100")
        if self.white is not None and not (self.white > 0 and math.isfinite(self.white)):
            raise UsageError(f"--white {self.white:g} is not a level above 0")
        if not self.max_megapixels > 0:
            raise UsageError(f"--max-megapixels {self.max_megapixels:g} is not a number above 0")
        if self.kernel_out is not None:
            check_kernel_name(self.kernel_out)


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel that a picture is undone with, and where it comes from."""

    weights: Floats
    """(n, m), adds up to one, in large pixels."""
    origin: Origin
    """`bicubic` also where none could be found."""
    noise: float
    """What the picture holds besides, as a standard deviation in 8-bit levels."""
    doubt: float = 0.0
    """What the kernel's own errors are like, in the same terms."""
    found: KernelEstimate | None = None
    """What was found, used or not; None where nothing was looked for."""

    @property
    def unexplained(self) -> float:
        """What the kernel doesn't explain of the picture: the larger of noise and doubt."""
        return max(self.noise, self.doubt)

    @property
    def words(self) -> str:
        """A note where the kernel that was found isn't the one that is used."""
        if self.found is None or self.origin == "found":
            return ""
        return (
            f"the kernel can't be told (trust {self.found.trust:.2f}, below {TRUSTED:g}): bicubic is taken for it;"
            " give the right one by --kernel FILE"
        )


@dataclass(frozen=True)
class Consistency:
    """By how much the result, blurred and reduced, misses the picture, before clipping, in 8-bit levels."""

    largest: float
    rms: float
    beyond: float
    """Share of the result's samples that lay more than half the range below black or above white."""


@dataclass(frozen=True, eq=False)
class Enlarged:
    """A picture, enlarged."""

    pixels: Array
    """Of the dtype and channels of what was given."""
    kernel: Kernel
    consistency: Consistency


class Taught(Protocol):
    """What a teacher makes of a network."""

    @property
    def model(self) -> Model:
        """Where it isn't better, the one that was given."""
        ...

    @property
    def kept(self) -> bool:
        """Whether it is better."""
        ...

    @property
    def before(self) -> float:
        """Root mean square of what held-out pixels of the small picture are missed by, in 8-bit levels."""
        ...

    @property
    def after(self) -> float:
        """The same of what was learned, kept or not."""
        ...

    @property
    def steps(self) -> int:
        """How often it learned."""
        ...

    @property
    def finished(self) -> bool:
        """False where the budget ended it early."""
        ...


class Teacher(Protocol):
    """Lets a network learn one picture: `train.adapt`, which only doors may know."""

    def __call__(
        self,
        small: Floats,
        scale: int,
        kernel: Floats,
        noise: float,
        source: str,
        *,
        budget_seconds: float,
        state: Path,
        overwrite: bool,
        done: Done,
    ) -> Taught:
        """small: (h, w, 1 or 3) in 0..1. source: a shipped network's name or an .onnx file. state: to go on from.

        overwrite: a state that another picture or other settings left is begun anew instead of refused.
        """
        ...


@dataclass(frozen=True, eq=False)
class Adapted:
    """What became of a file."""

    source: Path
    output: Path
    size: tuple[int, int]
    """(rows, cols) of the output as stored."""
    scale: int
    kernel: Kernel
    shape: KernelShape
    network: str
    consistency: Consistency
    taught: Taught | None
    """None where the network learned nothing."""
    estimate_seconds: float
    seconds: float
    """Of all."""
    notes: tuple[str, ...]


# ---- pixels


def adapt_pixels(
    pixels: Array,
    scale: int = 2,
    *,
    kernel: Floats | None = None,
    noise: float | None = None,
    network: NetworkEngine | None = None,
) -> Enlarged:
    """Enlarge a picture by a kernel that is known, or found.

    pixels: (h, w, C), C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha); uint8, uint16 or float32 in 0..1;
    returned in kind, `scale` times as large a side. kernel: (n, m) in large pixels; found where none is given. noise:
    in 8-bit levels; estimated with the kernel, or none. network: None takes the shipped one.
    Raises ShapeError, UsageError.
    """
    _check(pixels, scale)
    known = find_kernel(pixels, scale) if kernel is None else given_kernel(kernel, scale, pixels.shape[:2])
    known = known if noise is None else replace(known, noise=noise)
    meter = _Meter(pixels, scale, known.weights)
    bands = meter.told(_bands(pixels, Restorer(scale, known.weights, known.unexplained, network or open_refiner())))
    made = np.concatenate([to_kind(band, pixels.dtype) for band in bands])
    return Enlarged(made, known, meter.consistency)


def restore(
    pixels: Array, scale: int, kernel: Floats, noise: float = 0.0, *, network: NetworkEngine | None = None
) -> Array:
    """Deblur and enlarge by a known kernel in one step: pixels and result as in `adapt_pixels`.

    noise: what the picture holds besides the blurred one, as a standard deviation in 8-bit levels. At zero the
    result agrees with the picture: blurred and reduced, before it is clipped, to half a level.
    """
    return to_kind(restore_unit(pixels, scale, kernel, noise, network=network), pixels.dtype)


def restore_unit(
    pixels: Array, scale: int, kernel: Floats, noise: float = 0.0, *, network: NetworkEngine | None = None
) -> npt.NDArray[np.float32]:
    """As `restore`, in float32 that is neither clipped nor rounded."""
    _check(pixels, scale)
    known = given_kernel(kernel, scale, pixels.shape[:2])
    return np.concatenate(list(_bands(pixels, Restorer(scale, known.weights, noise, network or open_refiner()))))


def given_kernel(kernel: Floats, scale: int, size: Sequence[int], name: str = "kernel") -> Kernel:
    """A known kernel. Raises UsageError, naming it `name`, where it is none or larger than the enlarged picture.

    size: (h, w) of the small picture.
    """
    weights = check_kernel(kernel, name)
    rows, cols = (side * scale for side in size)
    if weights.shape[0] > rows or weights.shape[1] > cols:
        raise UsageError(
            f"{name}: is {weights.shape[0]} x {weights.shape[1]}, larger than the enlarged picture of {rows} x {cols};"
            " crop the kernel"
        )
    return Kernel(weights, "given", 0.0)


def find_kernel(pixels: Array, scale: int) -> Kernel:
    """The kernel that made a picture small, or bicubic's where that can't be told; pixels as in `adapt_pixels`."""
    found = estimate_kernel(list(_looks(pixels)), scale)
    noise = max(found.noise, _LEAST_NOISE)
    if found.trust < TRUSTED:
        return Kernel(_bicubic(scale), "bicubic", noise, found=found)
    return Kernel(found.kernel, "found", noise, _DOUBTS[found.family], found)


def _bicubic(scale: int) -> Floats:
    return resampler_kernel(4 * scale + scale % 2, scale, "bicubic")


def _looks(pixels: Array) -> Iterator[Floats]:
    """Luma in 8-bit levels of a picture, or of windows spread over a large one."""
    spans = []
    for length in pixels.shape[:2]:
        count = _LOOKS if length > _LOOKED * _LOOKS else 1
        side = _LOOKED if count > 1 else length
        tops = [place * (length - side) // max(1, count - 1) for place in range(count)]
        spans.append([slice(top, top + side) for top in tops])
    for rows in spans[0]:
        for cols in spans[1]:
            colours = _filled(to_unit(pixels[rows, cols]))
            luma = full_luma(colours) if colours.shape[2] == 3 else colours[..., 0]
            yield luma.astype(np.float64) * 255


def _filled(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The colours, where they are transparent those of what is near."""
    return to_unit(bleed(unit[..., :-1], unit[..., -1:])) if unit.shape[2] in (2, 4) else unit


def _check(pixels: Array, scale: int) -> None:
    if scale not in SCALES:
        raise UsageError(f"a scale of {scale} is none of 2, 3 and 4")
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape or pixels.dtype not in KINDS:
        raise ShapeError(
            f"want (H, W, 1|2|3|4) of uint8, uint16 or float32 without an empty side, got {pixels.shape} of"
            f" {pixels.dtype}"
        )
    if pixels.dtype == np.float32 and not (float(np.min(pixels)) >= 0 and float(np.max(pixels)) <= 1):
        raise ShapeError("float pixels hold NaN, or reach out of 0..1; divide them by their white level first")


# ---- the way of one piece


@lru_cache(maxsize=2)
def open_refiner(path: Path | None = None) -> NetworkEngine:
    """The network that finishes a picture: the shipped one, or a file's. Raises ModelError where it enlarges."""
    model = find_model(REFINER)[0] if path is None else read_model(path)
    if model.card.scale != 1:
        raise ModelError(
            f"{path}: enlarges x{model.card.scale}; superfine adapt wants a network that keeps the size, as --save"
            " writes it"
        )
    return open_engine(model)


class Restorer:
    """(1, h, w, 1 or 3) in 0..1 -> (s*h, s*w, the same) float32, not clipped. An `Engine`."""

    def __init__(self, scale: int, kernel: Floats, noise: float, network: NetworkEngine) -> None:
        self.scale, self.multiple_of, self.frames = scale, 1, 1
        self.halo = _AROUND + math.ceil(max(kernel.shape) / scale)
        self.kernel = kernel
        self._noise = noise
        self._network = network
        #: Once set, what is under way ends with KeyboardInterrupt, in whatever thread it is.
        self.stopped = threading.Event()
        self._reduction = _Stoppable(kernel, scale, (LEAST_SIDE, LEAST_SIDE), self.stopped)

    def __call__(self, pixels: Array) -> npt.NDArray[np.float32]:
        rows, cols = pixels.shape[1:3]
        # A picture may be smaller than a kernel that it wasn't given.
        past = [
            (0, max(0, -(-taps // self.scale) - side))
            for taps, side in zip(self.kernel.shape, (rows, cols), strict=True)
        ]
        planes = np.pad(to_unit(pixels[0]), (*past, (0, 0)), mode="edge").transpose(2, 0, 1)
        size = (planes.shape[1], planes.shape[2])
        if self._reduction.size != size:  # pieces are of one size, and what belongs to it is dear to make
            self._reduction = _Stoppable(self.kernel, self.scale, size, self.stopped)
        with ThreadPoolExecutor(min(cores(), len(planes))) as pool:
            try:
                start = np.stack(list(pool.map(self._start, planes)), axis=-1)
                finished = self._finished(start).transpose(2, 0, 1)
                made = np.stack(list(pool.map(self._agreeing, finished, planes)), axis=-1)
            except KeyboardInterrupt:  # else leaving the pool would wait for hundreds of turns
                self.stopped.set()
                raise
        return made[: rows * self.scale, : cols * self.scale].astype(np.float32)

    def _start(self, plane: Floats) -> Floats:
        start = self._reduction.start(plane, self._noise)
        return np.clip(start, 0, 1).astype(np.float32)

    def _finished(self, large: Floats) -> Floats:
        grey = large.shape[2] == 1
        network = self._network

        def compute(piece: Array) -> Array:
            if self.stopped.is_set():
                raise KeyboardInterrupt
            made = network((np.repeat(piece, 3, axis=2) if grey else piece)[None])
            return made[..., :1] if grey else made

        grid = Grid(1, network.halo, network.multiple_of, LEAST_SIDE)
        window = Window((large.shape[0], large.shape[1], large.shape[2]), large.dtype, [large])
        return np.concatenate(list(enlarge(window, grid, network.model.card.tile, compute)))

    def _agreeing(self, large: Floats, small: Floats) -> Floats:
        """With what the data say that the network didn't give: as far as they are free of noise."""
        reduction = self._reduction
        if self._noise:
            return reduction.corrected(large, small, rounding_and(self._noise))
        # The change that the prior finds likely costs less likeness than the least one, and comes sooner to its end.
        missing = small - reduction(large)
        for turn in range(_TURNS):
            said = missing if turn < _WHOLE_TURNS else missing - np.clip(missing, -_INSIDE, _INSIDE)
            nearer = large + reduction.likeliest(said, rounding_and(0) / 2)
            left = small - reduction(nearer)
            if turn >= _WHOLE_TURNS and _largest(left) > _largest(missing) / 2:
                break
            large, missing = nearer, left
            if turn + 1 >= _WHOLE_TURNS and _largest(missing) <= _TOLERANCE:
                return large
        nearest = reduction.consistent(large, small, _TOLERANCE)
        return nearest if _largest(small - reduction(nearest)) < _largest(missing) else large


@dataclass(frozen=True)
class _Stoppable(KernelReduction):
    """A reduction that ends the long ways back, which all go through it, when it is asked to."""

    stopped: threading.Event

    def __call__(self, large: Floats) -> Floats:
        if self.stopped.is_set():
            raise KeyboardInterrupt
        return super().__call__(large)


def _largest(difference: Floats) -> float:
    return float(np.abs(difference).max())


def _bands(pixels: Array, restorer: Restorer, done: Done = lambda share: None) -> Iterator[npt.NDArray[np.float32]]:
    """The picture from top to bottom, float32, alpha too; `done` hears the share of the picture that is there."""
    rows, cols, channels = pixels.shape
    engine = for_channels(restorer, 4) if channels in (2, 4) else restorer
    reached = 0

    def tell(count: int) -> None:
        nonlocal reached
        reached += count
        done(reached / (rows * cols))

    window = Window((rows, cols, channels), np.dtype(np.float32), _units(pixels))
    grid = Grid(restorer.scale, engine.halo, 1, LEAST_SIDE)
    bands = enlarge(window, grid, _PIECE // restorer.scale, lambda piece: engine(piece[None]), done=tell)
    yield from map(to_unit, bands)


def _units(pixels: Array) -> Iterator[Array]:
    return (to_unit(pixels[top : top + 256]) for top in range(0, len(pixels), 256))


class _Meter:
    """Reduces the bands of a result as they go by, and holds that against the picture."""

    def __init__(self, pixels: Array, scale: int, kernel: Floats) -> None:
        self._pixels = pixels
        self._scale = scale
        self._kernel = kernel
        self._around = math.ceil(max(kernel.shape) / scale) + 1
        self._largest = self._total = 0.0
        self._count = self._beyond = self._made = 0

    @property
    def consistency(self) -> Consistency:
        """Of all that was told."""
        rms = math.sqrt(self._total / max(1, self._count))
        return Consistency(255 * self._largest, 255 * rms, self._beyond / max(1, self._made))

    def told(self, bands: Iterator[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
        """The bands again; each line is judged as soon as all that it depends on has gone by."""
        held: npt.NDArray[np.float32] | None = None
        first = judged = passed = 0  # small rows: where `held` begins, how far is judged, how far bands reach
        colours = self._pixels.shape[2] - (self._pixels.shape[2] in (2, 4))
        for band in bands:
            self._beyond += int((np.abs(band[..., :colours] - 0.5) > 0.5 + _BEYOND).sum())
            self._made += band[..., :colours].size
            held = band if held is None else np.concatenate([held, band])
            passed += len(band) // self._scale
            whole = passed == len(self._pixels)
            stop = passed if whole else passed - self._around
            if stop > judged:
                self._judge(held, first, judged, stop)
                judged = stop
                begin = max(first, judged - self._around)
                held, first = held[(begin - first) * self._scale :], begin
            yield band

    def _judge(self, large: Floats, first: int, start: int, stop: int) -> None:
        small = self._pixels[first : first + len(large) // self._scale]
        unit = to_unit(small)
        colours = _filled(unit)
        past = [(0, max(0, taps - side)) for taps, side in zip(self._kernel.shape, large.shape[:2], strict=True)]
        planes = np.pad(large[..., : colours.shape[2]], (*past, (0, 0)), mode="edge").transpose(2, 0, 1)
        size = (-(-planes.shape[1] // self._scale), -(-planes.shape[2] // self._scale))
        planes = np.pad(
            planes,
            ((0, 0), *((0, self._scale * side - have) for side, have in zip(size, planes.shape[1:], strict=True))),
            mode="edge",
        )
        reduced = KernelReduction(self._kernel, self._scale, size)(planes.astype(np.float32))
        missed = reduced[:, : len(small), : small.shape[1]].transpose(1, 2, 0) - colours
        missed = missed[start - first : stop - first]
        if unit.shape[2] in (2, 4):  # under what isn't seen any colour will do
            missed = missed[unit[start - first : stop - first, :, -1] > 0]
        if missed.size:
            self._largest = max(self._largest, float(np.abs(missed).max()))
            self._total += float((missed.astype(np.float64) ** 2).sum())
            self._count += missed.size


# ---- files


def adapt_path(
    source: Path | str,
    output: Path | str,
    *,
    adapting: Adapting | None = None,
    teacher: Teacher | None = None,
    overwrite: bool = False,
    done: Done = lambda share: None,
) -> Adapted:
    """Enlarge a picture file whose blur isn't known; what `superfine adapt` does.

    teacher: what lets the network learn the picture where `adapting` has a budget. done: hears the share of the work
    that is done. Raises SourceError, OutputError, UsageError, ModelError, and what the teacher raises.
    """
    started = time.perf_counter()
    adapting = adapting or Adapting()
    if "" in (source, output):  # as a path it would be the present folder
        raise UsageError("a name is empty; `.` is the present folder")
    origin, target = Path(source), Path(output)
    if adapting.budget_seconds is not None and teacher is None:
        raise UsageError("a budget is given, and no teacher who would use it")
    picture = _opened(origin, target, adapting, overwrite=overwrite)
    entry = format_of(target)
    size = (picture.size[0] * adapting.scale, picture.size[1] * adapting.scale)
    check_holds(entry, picture, size)
    network = open_refiner(adapting.model)
    notes = [*picture.notes, *fewer_bits(entry, picture)]
    pixels = np.concatenate(list(picture.bands()))
    looked, learned, enlarged = _stages(done, size, adapting.budget_seconds)
    before = time.perf_counter()
    kernel = _kernel(pixels, adapting, notes)
    estimate_seconds = time.perf_counter() - before
    if kernel.words:
        notes.append(kernel.words)
    shape = kernel_shape(kernel.weights, adapting.scale)
    notes += _kernel_notes(kernel, shape, adapting)
    if adapting.kernel_out is not None:
        notes.append(f"{adapting.kernel_out}: {write_kernel(adapting.kernel_out, kernel.weights)}")
    looked(1.0)
    taught: Taught | None = None
    state = learning_path(target)
    if adapting.budget_seconds is not None and teacher is not None:
        taught = teacher(
            _filled(to_unit(pixels)),
            adapting.scale,
            kernel.weights,
            kernel.noise,
            REFINER if adapting.model is None else str(adapting.model),
            budget_seconds=max(1.0, started + adapting.budget_seconds - time.perf_counter() - _enlarging(size)),
            state=state,
            overwrite=overwrite,
            done=learned,
        )
        network = open_engine(taught.model)
        notes += _lesson_notes(taught, adapting, size)
    restorer = Restorer(adapting.scale, kernel.weights, kernel.unexplained, network)
    consistency = _write(target, pixels, restorer, picture, adapting.quality, enlarged)
    notes += _result_notes(kernel, consistency)
    if taught is not None:
        if adapting.save is not None:
            _save(adapting.save, taught.model)
        state.unlink(missing_ok=True)  # without a lesson it is another run's
    return Adapted(
        origin,
        target,
        size,
        adapting.scale,
        kernel,
        shape,
        network.model.card.name,
        consistency,
        taught,
        estimate_seconds,
        time.perf_counter() - started,
        tuple(notes),
    )


def _opened(source: Path, output: Path, adapting: Adapting, *, overwrite: bool) -> Picture:
    """The picture, once nothing stands in the way of what is written."""
    if os.path.isdir(source):
        raise UsageError(f"{source}: is a folder; adapt takes one picture, so name it")
    if os.path.isdir(output):
        raise OutputError(f"{output}: is a folder where the output should go; give the name of a file")
    format_of(output)
    kernel = None if adapting.kernel in ("auto", "bicubic") else Path(adapting.kernel)
    given = [path for path in (source, kernel, adapting.model) if path is not None]
    written = [path for path in (output, adapting.kernel_out, adapting.save) if path is not None]
    places = [os.path.realpath(path) for path in written]
    for path, place in zip(written, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{path}: two things would be written there; give them different names")
        if not os.path.isdir(path.parent):
            raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
        check_free(path, given, overwrite=overwrite)
    state = learning_path(output)
    if adapting.budget_seconds is not None and os.path.lexists(state) and not state.is_file():
        raise OutputError(f"{state}: what is learned is kept there, and it is no file; move it away")
    # A kernel is one of the picture as it is seen.
    return open_picture(source, max_megapixels=adapting.max_megapixels, white=adapting.white, upright=True)


def _kernel(pixels: Array, adapting: Adapting, notes: list[str]) -> Kernel:
    if adapting.kernel == "auto":
        kernel = find_kernel(pixels, adapting.scale)
    elif adapting.kernel == "bicubic":
        kernel = Kernel(_bicubic(adapting.scale), "bicubic", 0.0)
    else:
        weights, words = read_kernel(Path(adapting.kernel))
        if words:
            notes.append(words)
        kernel = given_kernel(weights, adapting.scale, pixels.shape[:2], adapting.kernel)
    return kernel if adapting.noise is None else replace(kernel, noise=adapting.noise)


def _write(
    output: Path, pixels: Array, restorer: Restorer, picture: Picture, quality: int | None, done: Done
) -> Consistency:
    made = made_dtype(format_of(output), picture)
    shape = (pixels.shape[0] * restorer.scale, pixels.shape[1] * restorer.scale, pixels.shape[2])
    meter = _Meter(pixels, restorer.scale, restorer.kernel)

    def told() -> Iterator[Array]:
        for band in meter.told(_bands(pixels, restorer, heard)):
            yield to_kind(band, made)

    def heard(share: float) -> None:
        if restorer.stopped.is_set():
            raise KeyboardInterrupt
        done(share)

    with ThreadPoolExecutor(1) as encoder:  # inside of libvips this thread would be deaf to Ctrl-C
        coming = encoder.submit(save_picture, output, told(), shape, made, like=picture, quality=quality)
        try:
            coming.result()
        except BaseException:
            restorer.stopped.set()
            raise
    return meter.consistency


def _lesson_notes(taught: Taught, adapting: Adapting, size: tuple[int, int]) -> Iterator[str]:
    """What a person should know where the network is the one that it was."""
    if taught.kept:
        return
    enough = 10 * math.ceil((_LOOKING + _LEARNING + _enlarging(size)) / 10)
    if not taught.steps:
        yield f"the network learned nothing for lack of time; give --budget {enough} or more"
    elif taught.finished:
        yield "what the network learned explains held-out pixels no better, so it was left as it was"
    else:
        yield (
            f"what the network learned in {taught.steps} steps, before the time was over, explains held-out pixels no"
            f" better, so it was left as it was; all steps take --budget {enough} or more"
        )
    if adapting.save is not None:
        yield f"{adapting.save}: is the network unchanged, since nothing that it learned was kept"


def _kernel_notes(kernel: Kernel, shape: KernelShape, adapting: Adapting) -> Iterator[str]:
    """What a person should know of noise that was estimated, and of a kernel that was given."""
    if adapting.noise is None and kernel.noise > _MUCH_NOISE:
        yield (
            f"noise is estimated at {kernel.noise:.0f} levels of 255, as dithering has it too, and detail goes with it;"
            " --noise LEVELS says otherwise"
        )
    down, right = shape.shift
    if kernel.origin == "given" and math.hypot(down, right) > _OFF_CENTRE:
        yield (
            f"{adapting.kernel}: lies {abs(down):.2f} px {'below' if down > 0 else 'above'} and {abs(right):.2f} px"
            f" {'right' if right > 0 else 'left'} of its point, in pixels of the result, which is moved back by that;"
            " docs/adapt.md says which tap is the point"
        )


def _result_notes(kernel: Kernel, consistency: Consistency) -> Iterator[str]:
    """What a person should know of a result that the kernel doesn't explain."""
    if not kernel.unexplained and consistency.largest > 0.5:
        yield (
            f"reduced again the result misses the source by {consistency.largest:.2f} levels, more than half a level:"
            " the kernel leaves too little to reach it, or isn't the right one"
        )
    if consistency.beyond > _MOST_BEYOND:
        yield (
            f"{consistency.beyond:.2%} of the result lay more than half the range beyond black or white before it was"
            " clipped, so the kernel is too wide for this picture; give --noise 1, or a narrower kernel"
        )


def _enlarging(size: tuple[int, int]) -> float:
    """About how many seconds."""
    return _ENLARGING * size[0] * size[1] / 1e6


def _stages(done: Done, size: tuple[int, int], budget_seconds: float | None) -> tuple[Done, Done, Done]:
    """What looking, learning and enlarging say of themselves -> the share of all work."""
    enlarging = _enlarging(size)
    costs = [_LOOKING, max(0.0, (budget_seconds or 0.0) - _LOOKING - enlarging), enlarging]
    spans = np.array([0.0, *np.cumsum(costs)]) / sum(costs)

    def part(number: int) -> Done:
        start, stop = float(spans[number]), float(spans[number + 1])
        return lambda share: done(start + (stop - start) * share)

    return part(0), part(1), part(2)


def learning_path(output: Path) -> Path:
    """Where what is learned for `output` is kept until the picture is there."""
    return output.with_name(f"{output.name}.adapt.pt")


def _save(path: Path, model: Model) -> None:
    try:
        with written_whole(path) as part:
            part.write_bytes(model.content)
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error
