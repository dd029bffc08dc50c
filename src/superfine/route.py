"""What to make of one picture or frame: which networks, in which order and tiles, within which memory."""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from superfine.blend import blend
from superfine.channels import BLEED, bleed, for_channels
from superfine.classical.reduction import LARGEST_SCALE, REDUCTIONS, Reduction, kernel_reduction
from superfine.classical.reduction import reduction as named_reduction
from superfine.classical.resample import matlab_bands, resize_bands
from superfine.color import to_kind, to_unit
from superfine.encoding import CODECS, CONTAINERS
from superfine.engine import (
    ENGINES,
    LEAST_SIDE,
    Engine,
    NetworkEngine,
    Precision,
    cores,
    cpu_features,
    engine_state,
    open_engine,
    still,
)
from superfine.ensemble import Ensemble
from superfine.errors import EngineError, UsageError
from superfine.fidelity import Tally, consistent_bands, measured_bands
from superfine.frames import Damaged, Interlaced
from superfine.image import FORMATS, MAX_MEGAPIXELS, coding_of
from superfine.kernel_file import read_kernel
from superfine.models import CLASSICAL, MATLAB, Card, Model, families, family, find_model, shipped_cards
from superfine.tiles import Grid, Window, enlarge

__all__ = [
    "FIXED_BYTES",
    "MAX_SCALE",
    "QUEUED_BANDS",
    "SHARP",
    "SOFT",
    "Choice",
    "Job",
    "Route",
    "Size",
    "Workshop",
    "Workshops",
    "choose_model",
    "choose_video_model",
    "half_of_memory",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Size = tuple[int, int]
Shape = tuple[int, int, int]

#: More in one go would be guesswork; a result can be enlarged again.
MAX_SCALE: Final = LARGEST_SCALE
#: The families that `sharpness` goes between.
SOFT: Final = "photo"
SHARP: Final = "sharp"
_SMALLEST_TILE: Final = 32
# Frames that take less than this are enlarged as one tile: one shape all the time, and no overlap computed twice.
_WHOLE_FRAME_BYTES: Final = 500_000_000
_BLED_TILE: Final = 512
#: Bands that wait between two threads.
QUEUED_BANDS: Final = 2
#: Python, libraries and a compiled network, measured at 230 MB.
FIXED_BYTES: Final = 250_000_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to make, for every picture and video of a run."""

    scale: float | None = None
    """Times each side, 1 to 16; where neither it nor `size` is given the model's only scale, or 2."""
    size: Size | None = None
    """(rows, cols) of the result as it is seen, instead of `scale`."""
    model: str = "auto"
    """`auto` (by each source: `choose_model`), a shipped network or family, an .onnx file, or a classical method."""
    sharpness: float | None = None
    """0 to 1, from `photo`, which leaves out what isn't known, to `sharp`, which makes texture up; none: as `model`."""
    engine: str = "openvino"
    precision: Precision = "auto"
    consistent: str | Path | None = None
    """The operator by which the result, made small again, is the source: one of `REDUCTIONS`, or a kernel's file."""
    ensemble: bool = False
    """Ask networks eight times, for all flips and rotations, and average: eight times as long."""
    provenance: bool = True
    """Leave a record of how it was made in the output, or beside it."""
    memory_gb: float | None = None
    """Memory to stay below; half of the machine's where none is given."""
    file_format: str | None = None
    """Ending of outputs whose name isn't given (`png`, `mp4`, …), for sources of its kind; else the source's."""
    quality: int | None = None
    """1 to 100, for lossy formats."""
    white: float | None = None
    """The level of white in float TIFF."""
    max_megapixels: float = MAX_MEGAPIXELS
    codec: str = "auto"
    """How videos are encoded: `h264`, `h265`, `av1`, `vp9` or `ffv1`; `auto` is the container's usual one."""
    crf: int | None = None
    """Constant quality of videos, smaller is better; the codec's own where none is given."""
    start: Fraction | None = None
    """Seconds; frames of videos that are shown from then on."""
    end: Fraction | None = None
    """Seconds; frames of videos that are shown before."""
    damaged: Damaged = "stop"
    """What to do with a frame of a video that can't be decoded."""
    interlaced: Interlaced = "deinterlace"
    """What to do with frames of a video that are two half pictures."""
    rate: Fraction | None = None
    """Frames a second of a folder of frames."""
    as_clip: bool = False
    """Folders are the frames of one clip each, in the order of their names."""

    def __post_init__(self) -> None:
        if self.scale is not None and self.size is not None:
            raise UsageError("give --scale or --size, not both")
        if self.scale is not None and not self.scale >= 1:
            raise UsageError(
                f"--scale {self.scale:g} would make pictures smaller; superfine enlarges, from 1 to {MAX_SCALE}"
            )
        if self.scale is not None and self.scale > MAX_SCALE:
            raise UsageError(f"--scale {self.scale:g} is over {MAX_SCALE}; run superfine on its result for more")
        if self.sharpness is not None and not 0 <= self.sharpness <= 1:
            raise UsageError(f"--sharpness {self.sharpness:g} is outside 0 to 1")
        if self.sharpness is not None and self.model not in ("auto", SOFT, SHARP):
            raise UsageError(f"--sharpness goes from {SOFT} to {SHARP}; leave --model {self.model} out")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine!r} is none of {', '.join(ENGINES)}")
        if self.precision not in get_args(Precision):
            raise UsageError(f"--precision {self.precision!r} is none of {', '.join(get_args(Precision))}")
        if self.file_format is not None and f".{self.file_format.lower()}" not in CONTAINERS:
            known = " ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
            if f".{self.file_format.lower()}" not in known.split():
                raise UsageError(
                    f"--format {self.file_format}: superfine doesn't write that; it writes {known} and, of videos,"
                    f" {' '.join(CONTAINERS)}"
                )
        self._check_levels()
        self._check_video()

    def _check_levels(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is outside 1 to 100")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UsageError(f"--memory {self.memory_gb:g} is not above 0")
        if not self.max_megapixels > 0:
            raise UsageError(f"--max-megapixels {self.max_megapixels:g} is not above 0")
        if self.white is not None and not (self.white > 0 and math.isfinite(self.white)):
            raise UsageError(f"--white {self.white:g} is not a level above 0")

    def _check_video(self) -> None:
        if self.damaged not in get_args(Damaged):
            raise UsageError(f"--damaged {self.damaged!r} is none of {', '.join(get_args(Damaged))}")
        if self.interlaced not in get_args(Interlaced):
            raise UsageError(f"--interlaced {self.interlaced!r} is none of {', '.join(get_args(Interlaced))}")
        if self.codec not in ("auto", *CODECS):
            raise UsageError(f"--codec {self.codec!r} is none of auto, {', '.join(CODECS)}")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise UsageError(f"--start {float(self.start):g} isn't before --end {float(self.end):g} (seconds)")

    def target(self, size: Size, *, sideways: bool = False) -> Size:
        """The size (rows, cols) as stored that a picture of `size` gets; `sideways` where it's seen turned.

        Raises UsageError where a side would shrink.
        """
        if self.size is None:
            scale = 2.0 if self.scale is None else self.scale
            return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        rows, cols = self.size[::-1] if sideways else self.size
        if rows < size[0] or cols < size[1]:
            raise UsageError(
                f"--size {cols}x{rows} is smaller than the picture's {size[1]}x{size[0]};"
                " superfine enlarges, so reduce with an image editor"
            )
        if max(rows / size[0], cols / size[1]) > MAX_SCALE:
            raise UsageError(f"--size {cols}x{rows} is more than {MAX_SCALE} times {size[1]}x{size[0]}")
        return rows, cols

    @property
    def label(self) -> str:
        """How outputs are named: `x2`, `x1.5`, `1920x1080`."""
        return f"{self.size[1]}x{self.size[0]}" if self.size is not None else f"x{self.scale or 2:g}"


@dataclass(frozen=True)
class Choice:
    """The family that `auto` takes for a picture, and why."""

    name: str
    reason: str = ""


def choose_model(kind: str, lossless: bool | None, shipped: Collection[str]) -> Choice:
    """What `auto` means for a picture: `balanced` where it is lossless, else `photo`, as far as they are shipped.

    kind: as people call it, `JPEG`. lossless: None where that isn't known. shipped: the families that there are.
    """
    wanted = ("balanced", "fast") if lossless else ("photo", "balanced", "fast")
    name = next((family for family in wanted if family in shipped), wanted[-1])
    known = {True: f"lossless {kind}", False: f"lossy {kind}", None: f"{kind}, taken as lossy since it doesn't say"}
    reason = f"auto chose {name} for {known[lossless]}"
    if missing := wanted[: wanted.index(name)]:
        reason += f"; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not shipped"
    return Choice(name, reason)


def choose_video_model(kind: str, lossless: bool, need: float, models: Collection[Card]) -> Choice:
    """What `auto` means for a video: `video` where it is lossless, else `video-real`, as far as they are shipped.

    kind: FFmpeg's name of the codec. need: times each side. models: the cards that there are. A family counts as
    shipped where its nearest network isn't more than twice as large as needed. Else it's one that sees single frames:
    `balanced` for lossless sources; `fast` for lossy ones, of which the finest is lost already and whose damage it
    leaves as it is, since `photo` takes three times as long for each of thousands of frames.
    """
    wanted = ("video", "balanced", "fast") if lossless else ("video-real", "fast", "balanced")
    shipped = {family(card) for card in models if need <= card.scale < 2 * need or card.scale == 4 < need}
    name = next((name for name in wanted if name in shipped), wanted[1])
    reason = f"auto chose {name} for {'lossless' if lossless else 'lossy'} {kind} video"
    if name != wanted[0]:
        reason += f"; {wanted[0]} is not shipped at this scale"
    return Choice(name, reason)


@dataclass(frozen=True)
class Route:
    """The stages from one size to another: networks in a chain, then at most one resampling."""

    target: Size
    engines: tuple[Engine, ...]
    tiles: tuple[int, ...]
    method: str
    """The resampling that ends in the exact size."""
    worked: np.dtype[Any]
    """What the stages hand on: float32, or the picture's own levels where one network makes the result."""
    made: np.dtype[Any]
    memory: int
    """Estimated peak in bytes."""
    reduction: Reduction | None = None
    """By which the result, made small again, is the source."""

    @property
    def frames(self) -> int:
        """How many frames of a clip the first network sees at once, an odd number."""
        return self.engines[0].frames if self.engines else 1

    def frame(self, window: Array, tally: Tally | None = None) -> Array:
        """One frame of a clip: (frames, rows, cols, channels) around it -> (rows, cols, channels) of `target`."""
        made = list(self.bands(window.shape[1:], [window], tally=tally))
        return made[0] if len(made) == 1 else np.concatenate(made)

    def bands(
        self,
        shape: Shape,
        bands: Iterable[Array],
        done: Callable[[float], None] = lambda share: None,
        tally: Tally | None = None,
    ) -> Iterator[Array]:
        """Bands of the result from the bands of a picture; `done` hears the share of the work that each tile was.

        shape: (rows, cols, channels). The bands may be of a clip, (frames, rows, cols, channels), which makes one
        picture; for networks of more frames, a picture is a clip in which nothing moves. tally: counts how far the
        result, made small again, is from the picture.
        """
        bands, again = _twice(bands) if self.reduction is not None or tally is not None else (bands, ())
        small, large = map(_middle, again), self._enlarged(shape, bands, done)
        if self.reduction is not None:
            return consistent_bands(large, small, shape, self.reduction, self.made, tally or Tally())
        return large if tally is None else measured_bands(large, small, shape, self.target, tally)

    def _enlarged(self, shape: Shape, bands: Iterable[Array], done: Callable[[float], None]) -> Iterator[Array]:
        """In dtype `made`, but for what is still to be made consistent."""
        work = self._work(shape)

        def tell(pixels: int) -> None:
            done(pixels / work)

        if self.worked == np.float32:
            bands = map(to_unit, bands)
        if not self.engines:
            bands = map(_middle, bands)
        for engine, tile in zip(self.engines, self.tiles, strict=True):
            window = Window((engine.frames, *shape), self.worked, _of_frames(bands, engine.frames))
            grid = Grid(engine.scale, engine.halo, engine.multiple_of, LEAST_SIDE)
            bands = enlarge(window, grid, tile, engine, done=tell)
            shape = (shape[0] * engine.scale, shape[1] * engine.scale, shape[2])
        if not self.engines and shape[2] in (2, 4) and self.method != "nearest":
            bands = enlarge(Window(shape, self.worked, bands), Grid(1, BLEED, 1), _BLED_TILE, _filled)
        if shape[:2] != self.target:
            window = Window(shape, self.worked, bands)
            if self.method == MATLAB:
                bands = matlab_bands(window.rows, shape[:2], self.target)  # type: ignore[arg-type]
            else:
                bands = resize_bands(window.rows, shape[:2], self.target, self.method)  # type: ignore[arg-type]
        for band in bands:
            final = band.dtype == self.made or self.reduction is not None
            yield band if final else to_kind(to_unit(band), self.made)
            if not self.engines:
                done(len(band) / self.target[0])

    def _work(self, shape: Shape) -> float:
        """Small pixels that all networks of the chain will be given."""
        total, pixels = 0, shape[0] * shape[1]
        for engine in self.engines:
            total += pixels
            pixels *= engine.scale**2
        return float(max(total, 1))


def _twice(bands: Iterable[Array]) -> tuple[Iterator[Array], Iterator[Array]]:
    """Each band for two readers; held only until both have it, where `itertools.tee` holds dozens more."""
    source, waiting = iter(bands), (deque[Array](), deque[Array]())

    def read(mine: deque[Array], other: deque[Array]) -> Iterator[Array]:
        while True:
            if mine:
                yield mine.popleft()
                continue
            band = next(source, None)
            if band is None:
                return
            other.append(band)
            yield band

    return read(*waiting), read(*waiting[::-1])


def _filled(pixels: Array) -> Array:
    return np.concatenate([bleed(pixels[..., :-1], pixels[..., -1:]), pixels[..., -1:]], axis=-1)


def _of_frames(bands: Iterable[Array], frames: int) -> Iterator[Array]:
    """Bands of a clip of so many frames as they are; else those of a clip in which nothing moves."""
    for band in bands:
        yield band if band.ndim == 4 and len(band) == frames else still(_middle(band), frames)


def _middle(band: Array) -> Array:
    """Rows of a picture as they are, of a clip those of the frame in its middle."""
    middle: Array = band[len(band) // 2] if band.ndim == 4 else band
    return middle


def _networks(name: str, sharpness: float | None) -> dict[int, Model]:
    """The networks of a name by their scales; with `sharpness` those between `SOFT` and `SHARP`."""
    named = {model.card.scale: model for model in find_model(SHARP if sharpness is not None else name)}
    if sharpness is None:
        return named
    soft = {model.card.scale: model for model in find_model(SOFT)}
    return {scale: blend(soft[scale], sharp, sharpness) for scale, sharp in named.items()}


class Workshop:
    """The networks of one model, not `auto`, and their engines, opened when first needed and then kept warm."""

    def __init__(self, job: Job) -> None:
        self.name = job.model
        self.models: dict[int, Model] = {} if self.name in CLASSICAL else _networks(self.name, job.sharpness)
        if job.scale is None and job.size is None:
            # A network of one scale is asked for by its name; a family, or a method for any scale, doubles.
            job = replace(job, scale=float(next(iter(self.models))) if len(self.models) == 1 else 2.0)
        if self.name in CLASSICAL and (job.engine != "openvino" or job.precision == "bf16"):
            raise UsageError(
                f"{self.name} is computed here in fp32, without an engine; leave --engine and --precision out"
            )
        if self.name in CLASSICAL and job.ensemble:
            raise UsageError(f"{self.name} gives the same for all flips and rotations; leave --ensemble out")
        self.kernel = None if job.consistent is None else _given_kernel(job.consistent)
        """Of the operator by which results are to be consistent, where it's a given one."""
        if ENGINES[job.engine] is not None and (state := engine_state(job.engine)) != "ready":
            raise EngineError(f"--engine {job.engine}: {state}; use --engine openvino")
        self.job = job
        self.limit = job.memory_gb * 1e9 if job.memory_gb is not None else half_of_memory()
        """Bytes to stay below."""
        self.kept = 0
        """Bytes, estimated, that the engines hold on to between two pictures."""
        self._engines: dict[int, NetworkEngine] = {}

    def engine(self, scale: int) -> NetworkEngine:
        """The engine for one of the models."""
        if scale not in self._engines:
            self._engines[scale] = _warm(self.models[scale], self.job.engine, self.job.precision)
        return self._engines[scale]

    def factors(self, size: Size, target: Size) -> tuple[int, ...]:
        """The networks to chain from `size` to at least `target`: least overshoot, fewest, smallest first."""
        if self.name in CLASSICAL:
            return ()
        need = max(target[0] / size[0], target[1] / size[1])
        if target == size and (1 in self.models or self.job.scale == 1):
            if 1 not in self.models:
                name = next(iter(self.models.values())).card.name if len(self.models) == 1 else self.name
                raise UsageError(
                    f"--scale 1 restores without enlarging, and {name!r} has no network for that; give 2 or more"
                )
            return (1,)
        usable = sorted(scale for scale in self.models if scale > 1)
        if not usable:
            raise UsageError(f"{self.name!r} restores without enlarging; give --scale 1")
        chains = (chain for length in range(1, 5) for chain in combinations_with_replacement(usable, length))
        enough = [chain for chain in chains if math.prod(chain) >= need - 1e-9]
        return min(enough, key=lambda chain: (math.prod(chain), len(chain), chain))

    def clip_route(self, shape: Shape, dtype: np.dtype[Any], target: Size, held: int) -> Route:
        """How to make frames of this shape `target` large: as one tile where that isn't too large."""
        cards = [self.models[scale].card for scale in self.factors((shape[0], shape[1]), target)]
        rows, cols = shape[:2]
        whole: list[int] = []
        for card in cards:
            small = rows * cols * card.bytes_per_pixel <= _WHOLE_FRAME_BYTES
            whole.append(max(rows, cols) if small else card.tile)
            rows, cols = rows * card.scale, cols * card.scale
        return self.route(shape, dtype, target, dtype, held, whole)

    def route(
        self,
        shape: Shape,
        dtype: np.dtype[Any],
        target: Size,
        made: np.dtype[Any],
        held: int = 0,
        sides: Sequence[int] | None = None,
    ) -> Route:
        """How to make pictures of this shape `target` large, in dtype `made`; `held` bytes are taken besides.

        sides: of the tiles that each network gets where memory allows it; by default as its card says.
        """
        factors = self.factors((shape[0], shape[1]), target)
        networks: list[Engine] = [self.engine(scale) for scale in factors]
        if self.job.ensemble:
            networks = [Ensemble(network) for network in networks]
        engines = tuple(for_channels(network, shape[2]) for network in networks)
        reduction = self._reduction((shape[0], shape[1]), target)
        direct = len(factors) == 1 and made == dtype and (shape[0] * factors[0], shape[1] * factors[0]) == target
        direct = direct and not self.job.ensemble and reduction is None
        if self.name == MATLAB and not dtype == made == np.uint8:
            raise UsageError(f"{MATLAB} is defined on 8 bits a sample, and this picture has others; use bicubic")
        worked = dtype if direct or self.name == MATLAB else np.dtype(np.float32)
        cards = [self.models[engine.scale].card for engine in engines]
        method = self.name if self.name in CLASSICAL else "bicubic"
        sides = [card.tile for card in cards] if sides is None else sides
        share = 1.0
        while True:
            tiles = tuple(max(_SMALLEST_TILE, int(side * share)) for side in sides)
            per_pixel = [card.bytes_per_pixel for card in cards]
            largest = _largest_tile(shape, engines, tiles, per_pixel)
            needed = held + _memory(shape, worked, target, engines, tiles) + largest
            needed += _fidelity_memory(shape, target, made, projected=reduction is not None)
            if needed <= self.limit:
                self.kept = max(self.kept, largest)
                return Route(target, engines, tiles, method, worked, made, needed, reduction)
            if all(tile == _SMALLEST_TILE for tile in tiles):
                raise UsageError(
                    f"{shape[1]} x {shape[0]} to {target[1]} x {target[0]} needs {needed / 1e9:.3f} GB, over the"
                    f" limit of {self.limit / 1e9:.3f}; raise it with --memory {math.ceil(needed / 1e7) / 100:g}"
                )
            share /= 1.25

    def _reduction(self, size: Size, target: Size) -> Reduction | None:
        if self.job.consistent is None:
            return None
        scale = max(1, target[0] // size[0])
        if target != (size[0] * scale, size[1] * scale):
            raise UsageError(
                f"--consistent is for whole scales, and {size[1]} x {size[0]} to {target[1]} x {target[0]} is none;"
                " give --scale 2, 3, 4, …"
            )
        if self.kernel is not None:
            return kernel_reduction(self.kernel, scale)
        return named_reduction(str(self.job.consistent), scale)

    def close(self) -> None:
        """Give back what the engines hold; they open again when needed."""
        self._engines.clear()
        _warm.cache_clear()
        self.kept = 0

    def pixels_fingerprint(self, route: Route) -> str:
        """Everything that decides the pixels of a route to the last bit, on this machine."""
        engines = [self.engine(engine.scale) for engine in route.engines]
        facts = {
            "job": self.fingerprint,
            "networks": [
                [engine.model.sha256, engine.name, engine.precision_for(route.worked), engine.halo, engine.multiple_of]
                for engine in engines
            ],
            "route": [*route.target, *route.tiles, route.method, str(route.worked), str(route.made)],
            "machine": [cpu_features()["name"], cores()] if engines else [],
            "numpy": np.__version__,
        }
        return _digest(facts)

    @cached_property
    def video_fingerprint(self) -> str:
        """What decides the content of videos, besides their sources."""
        job = self.job
        return _digest(
            [self.fingerprint, job.codec, job.crf, job.start, job.end, job.damaged, job.interlaced, job.rate]
        )

    @cached_property
    def fingerprint(self) -> str:
        """What decides the content of outputs, besides their sources."""
        facts = {
            "version": version("superfine"),
            "models": {scale: model.sha256 for scale, model in sorted(self.models.items())} or self.name,
            "job": [self.job.label, self.job.engine, self.job.precision, self.job.quality, self.job.white],
            "fidelity": [
                str(self.job.consistent) if self.kernel is None else self.kernel.tolist(),
                self.job.ensemble,
                self.job.provenance,
            ],
        }
        return _digest(facts)


def _given_kernel(operator: str | Path) -> Floats | None:
    """What blurs before pixels are left out; None for operators that have a name. Raises UsageError, SourceError."""
    if str(operator) in REDUCTIONS:
        return None
    if not Path(operator).is_file():
        raise UsageError(f"--consistent {operator}: neither one of {', '.join(REDUCTIONS)}, nor a file with a kernel")
    return read_kernel(Path(operator))[0]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Workshops:
    """The workshops of a run, one for each model that its pictures get."""

    def __init__(self, job: Job) -> None:
        if job.model == "auto" and job.scale is None and job.size is None:
            job = replace(job, scale=2.0)
        self.job = job
        self._made: dict[str, Workshop] = {}
        # A wish that can't be met is an error before any picture is begun.
        self.job = replace(self.suited(None)[0].job, model=job.model)

    def suited(self, source: Path | None) -> tuple[Workshop, str]:
        """The workshop for a picture file, or for pixels in memory, and why it's this one where `auto` chose.

        Raises SourceError where `auto` can't read the file.
        """
        if self._chooses:
            return self._of(choose_model(*(("pixels", True) if source is None else coding_of(source)), families()))
        return self._of(self._asked)

    def suited_to_video(self, kind: str, size: Size, *, lossless: bool) -> tuple[Workshop, str]:
        """The workshop for a video whose frames are (rows, cols), and why it's this one where `auto` chose.

        kind: FFmpeg's name of the codec.
        """
        if not self._chooses:
            return self._of(self._asked)
        need = 2.0 if self.job.scale is None else self.job.scale
        if self.job.size is not None:  # the longer side to the longer one: the video may be seen turned
            need = max(wanted / there for wanted, there in zip(sorted(self.job.size), sorted(size), strict=True))
        return self._of(choose_video_model(kind, lossless, need, shipped_cards()))

    @property
    def _chooses(self) -> bool:
        return self.job.model == "auto" and self.job.sharpness is None

    @property
    def _asked(self) -> Choice:
        if self.job.sharpness is not None:
            return Choice(SHARP, f"--sharpness {self.job.sharpness:g} takes {SOFT} and {SHARP}")
        return Choice(self.job.model)

    def _of(self, choice: Choice) -> tuple[Workshop, str]:
        if choice.name not in self._made:
            self._made[choice.name] = Workshop(replace(self.job, model=choice.name))
        return self._made[choice.name], choice.reason

    def kept_besides(self, workshop: Workshop, memory: int) -> int:
        """Bytes that other models hold while one takes `memory`; where that is too much together, they are closed."""
        others = [other for other in self._made.values() if other is not workshop]
        kept = sum(other.kept for other in others)
        if memory + kept <= workshop.limit:
            return kept
        for other in others:
            other.close()
        return 0


@lru_cache(maxsize=4)
def _warm(model: Model, engine: str, precision: Precision) -> NetworkEngine:
    """An engine that stays open between calls, so that only the first picture waits for it."""
    return open_engine(model, engine, precision)


def _memory(shape: Shape, worked: np.dtype[Any], target: Size, engines: Sequence[Engine], tiles: Sequence[int]) -> int:
    """Estimated bytes of what is fixed and of the bands of each stage."""
    rows, cols, channels = shape
    width = channels * worked.itemsize
    total = FIXED_BYTES
    for engine, tile in zip(engines, tiles, strict=True):
        outer = max(tile + 2 * engine.halo, LEAST_SIDE)
        total += 3 * min(outer + 256, rows) * cols * width  # the window, its join and the next band
        rows, cols = rows * engine.scale, cols * engine.scale
        total += min(tile * engine.scale, rows) * cols * width
    return total + (1 + QUEUED_BANDS) * min(512, target[0]) * target[1] * width


def _fidelity_memory(shape: Shape, target: Size, made: np.dtype[Any], *, projected: bool) -> int:
    """Estimated bytes of the rows that are made small again, and made consistent; measured at 1000 columns."""
    rows, cols, channels = shape
    times = (target[0] / rows) * (target[1] / cols)
    each = {1: 120, 2: 165, 4: 70}[made.itemsize] if projected else 35
    return round(each * times * min(rows, 32 if times <= 16 else 16) * cols * channels)


def _largest_tile(shape: Shape, engines: Sequence[Engine], tiles: Sequence[int], per_pixel: Sequence[int]) -> int:
    """Estimated bytes that the largest tile takes while an engine works on it."""
    rows, cols, _ = shape
    largest = 0
    for engine, tile, cost in zip(engines, tiles, per_pixel, strict=True):
        outer = max(tile + 2 * engine.halo, LEAST_SIDE)
        largest = max(largest, min(outer, rows) * min(outer, cols) * cost)
        rows, cols = rows * engine.scale, cols * engine.scale
    return largest


def half_of_memory() -> float:
    """Bytes: half of what this machine has, or of what the container is allowed."""
    total = 8e9
    with suppress(AttributeError, ValueError, OSError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(ValueError, OSError):  # in a container less may be allowed than the machine has; `max` is no number
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total / 2
