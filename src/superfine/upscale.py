"""The whole way: file -> bands of rows -> tiles -> engine -> bands -> file, for one picture or many.

Everything is pulled from the end: the encoder asks for rows, and with it every
stage before. Decoding, inference and encoding run at the same time.
"""

import hashlib
import json
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from superfine.channels import for_channels
from superfine.classical.resample import resize_bands
from superfine.color import KINDS, to_kind, to_unit
from superfine.engine import Engine, NetworkEngine, Precision, open_engine
from superfine.errors import OutputError, ShapeError, SuperfineError, UsageError
from superfine.image import FORMATS, MAX_MEGAPIXELS, Picture, format_of, open_picture, save_picture
from superfine.journal import Journal, stamp
from superfine.models import CLASSICAL, Model, find_model
from superfine.tiles import Grid, Window, enlarge

__all__ = ["Job", "Progress", "Report", "Result", "upscale", "upscale_path"]

Array = npt.NDArray[np.generic]
Size = tuple[int, int]

MAX_SCALE: Final = 16
_SMALLEST_TILE: Final = 32
_QUEUED_BANDS: Final = 2
_PENDING_FILES: Final = 2
_POLL_SECONDS: Final = 0.2
# Python, libraries and a compiled network, measured at 230 MB.
_FIXED_BYTES: Final = 250_000_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to make, for every picture of a run."""

    scale: float | None = None
    """Times each side, 1 to 16; where neither it nor `size` is given the model's only scale, or 2."""
    size: Size | None = None
    """(rows, cols) of the result as it is seen, instead of `scale`."""
    model: str = "auto"
    """A shipped network or family, an .onnx file with a card, or a classical method."""
    engine: str = "openvino"
    precision: Precision = "auto"
    memory_gb: float | None = None
    """Memory to stay below; half of the machine's where none is given."""
    file_format: str | None = None
    """Ending of outputs whose name isn't given (`png`, `jpg`, …); the source's where none is given."""
    quality: int | None = None
    """1 to 100, for lossy formats."""
    white: float | None = None
    """The level of white in float TIFF."""
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if self.scale is not None and self.size is not None:
            raise UsageError("give --scale or --size, not both")
        if self.scale is not None and not self.scale >= 1:
            raise UsageError(
                f"--scale {self.scale:g} would make pictures smaller; superfine enlarges, from 1 to {MAX_SCALE}"
            )
        if self.scale is not None and self.scale > MAX_SCALE:
            raise UsageError(f"--scale {self.scale:g} is over {MAX_SCALE}; run superfine on its result for more")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is outside 1 to 100")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UsageError(f"--memory {self.memory_gb:g} is not above 0")
        if self.white is not None and not (self.white > 0 and math.isfinite(self.white)):
            raise UsageError(f"--white {self.white:g} is not a level above 0")
        if self.file_format is not None:
            format_of(Path(f"name.{self.file_format}"))

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
class Result:
    """What became of one picture."""

    source: Path
    output: Path | None
    status: Literal["done", "skipped", "failed", "planned"]
    message: str = ""
    size: Size | None = None
    """(rows, cols) of the source as stored, and of the output."""
    output_size: Size | None = None
    model: str = ""
    engine: str = ""
    precision: str = ""
    seconds: float = 0.0
    memory_gb: float = 0.0
    """Estimated peak."""
    notes: tuple[str, ...] = ()


@dataclass
class Report:
    """What became of a run."""

    results: list[Result] = field(default_factory=list)
    ignored: int = 0
    """Files in folders that aren't pictures."""

    def count(self, status: str) -> int:
        """How many results have this status."""
        return sum(result.status == status for result in self.results)

    @property
    def failed(self) -> list[Result]:
        """What failed, with its reason in `message`."""
        return [result for result in self.results if result.status == "failed"]


class Progress:
    """Listens to a run; this one says nothing. Weights are bytes of source files."""

    def begin(self, weight: int) -> None:
        """The run is about to begin."""

    def advance(self, weight: float) -> None:
        """So much of it is done."""

    def finish(self, result: Result) -> None:
        """A picture is done, skipped, failed or planned."""


def upscale(
    image: npt.ArrayLike | Path | str,
    scale: float | None = None,
    *,
    size: Size | None = None,
    model: str = "auto",
    engine: str = "openvino",
    precision: Precision = "auto",
    memory_gb: float | None = None,
) -> Array:
    """Enlarge one picture in memory.

    image: (H, W), (H, W, C) with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
    alpha); uint8, uint16, or float32 in 0..1; or the path of a picture file,
    which is turned upright. scale: times each side, any number from 1 to 16,
    2 by default; or size: (rows, cols) of the result.
    Returns an array of the same dtype and number of axes.
    Raises ShapeError, UsageError, ModelError, EngineError; for files SourceError.
    """
    job = Job(scale=scale, size=size, model=model, engine=engine, precision=precision, memory_gb=memory_gb)
    if isinstance(image, (Path, str)):
        picture = open_picture(Path(image), upright=True)
        source = Window(picture.shape, picture.dtype, picture.bands())
        axes = 3
    else:
        given = np.asarray(image)
        pixels = given[..., None] if given.ndim == 2 else given
        _check_pixels(pixels)
        source = Window((pixels.shape[0], pixels.shape[1], pixels.shape[2]), pixels.dtype, [pixels])
        axes = given.ndim
    workshop = _Workshop(job)
    target = workshop.job.target((source.shape[0], source.shape[1]))
    route = workshop.route(source.shape, source.dtype, target)
    result = np.concatenate(list(route.bands(source, source.dtype)))
    return result[..., 0] if axes == 2 else result


def upscale_path(
    sources: Path | str | Sequence[Path | str],
    output: Path | str | None = None,
    *,
    job: Job | None = None,
    resume: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Enlarge picture files, folders (their tree is mirrored) and globs; what `superfine upscale` does.

    output: a file for one picture, else a folder; beside the sources by default.
    resume: skip what an earlier run of the same job finished. overwrite: replace
    files that no earlier run made. A picture that fails doesn't stop the others:
    it is in the report, with its reason. Raises UsageError or ModelError where
    nothing can be done at all.
    """
    job, progress = job or Job(), progress or Progress()
    paths = [Path(entry) for entry in ([sources] if isinstance(sources, (Path, str)) else sources)]
    workshop = _Workshop(job)
    listing = _list(paths, None if output is None else Path(output), workshop.job)
    report = Report(ignored=listing.ignored)
    run = _Run(workshop, progress, report, resume=resume, overwrite=overwrite, dry_run=dry_run)
    progress.begin(sum(item.weight for item in listing.items))
    with run:
        for item in listing.items:
            run.do(item)
    return report


# ---- what to make of one picture


@dataclass(frozen=True)
class _Route:
    """The stages from one size to another: networks in a chain, then at most one resampling."""

    target: Size
    engines: tuple[Engine, ...]
    tiles: tuple[int, ...]
    kernel: str
    memory: int

    def bands(
        self, source: Window, dtype: np.dtype[Any], done: Callable[[float], None] = lambda share: None
    ) -> Iterator[Array]:
        """Bands of the result in `dtype`; `done` hears the share of the work that each tile was."""
        work = self._work(source.shape)
        if len(self.engines) > 1 or not self._direct(source, dtype):
            source = Window(source.shape, np.dtype(np.float32), map(to_unit, _rest(source)))
        for engine, tile in zip(self.engines, self.tiles, strict=True):
            grid = Grid(engine.scale, engine.halo, engine.multiple_of)

            def tell(pixels: int) -> None:
                done(pixels / work)

            bands = enlarge(source, grid, tile, lambda piece, engine=engine: engine(piece[None]), done=tell)  # type: ignore[misc]
            rows, cols, channels = source.shape
            source = Window((rows * engine.scale, cols * engine.scale, channels), source.dtype, bands)
        if source.shape[:2] != self.target:
            read, shape = source.rows, (source.shape[0], source.shape[1])
            bands = resize_bands(read, shape, self.target, self.kernel)  # type: ignore[arg-type]
            source = Window((*self.target, source.shape[2]), source.dtype, bands)
        for band in _rest(source):
            yield band if band.dtype == dtype else to_kind(to_unit(band), dtype)
        if not self.engines:
            done(1.0)

    def _direct(self, source: Window, dtype: np.dtype[Any]) -> bool:
        """One network, no resampling: whole levels in, whole levels out."""
        scale = math.prod(engine.scale for engine in self.engines)
        whole = (source.shape[0] * scale, source.shape[1] * scale) == self.target
        return whole and source.dtype == dtype and bool(self.engines)

    def _work(self, shape: tuple[int, int, int]) -> float:
        """Small pixels that all networks of the chain will be given."""
        total, pixels = 0, shape[0] * shape[1]
        for engine in self.engines:
            total += pixels
            pixels *= engine.scale**2
        return float(max(total, 1))


def _rest(window: Window) -> Iterator[Array]:
    """All rows of a window, in bands of moderate size."""
    step = 256
    for top in range(0, window.shape[0], step):
        yield window.rows(top, min(top + step, window.shape[0]))


class _Workshop:
    """The models of a job and their engines, opened when first needed and then kept warm."""

    def __init__(self, job: Job) -> None:
        self.name = "fast" if job.model == "auto" else job.model
        self.models: dict[int, Model] = {}
        if self.name not in CLASSICAL:
            self.models = {model.card.scale: model for model in find_model(self.name)}
        if job.scale is None and job.size is None:
            # A network of one scale is asked for by its name; a family, or a method for any scale, doubles.
            job = replace(job, scale=float(next(iter(self.models))) if len(self.models) == 1 else 2.0)
        self.job = job
        self._engines: dict[int, NetworkEngine] = {}

    def engine(self, scale: int) -> NetworkEngine:
        """The engine for one of the models."""
        if scale not in self._engines:
            self._engines[scale] = _warm(self.models[scale], self.job.engine, self.job.precision)
        return self._engines[scale]

    def factors(self, size: Size, target: Size) -> tuple[int, ...]:
        """The networks to chain from `size` to at least `target`: least overshoot, fewest, smallest first."""
        need = max(target[0] / size[0], target[1] / size[1])
        if self.name in CLASSICAL:
            return ()
        if need == 1 and 1 not in self.models:
            raise UsageError(
                f"--scale 1 restores without enlarging, and {self.name!r} has no network for that; give 2 or more"
            )
        usable = sorted(scale for scale in self.models if scale > 1 or need == 1)
        if need == 1:
            return (1,)
        chains = [
            chain
            for length in range(1, 5)
            for chain in combinations_with_replacement(usable, length)
            if math.prod(chain) >= need - 1e-9
        ]
        return min(chains, key=lambda chain: (math.prod(chain), len(chain), chain))

    def route(self, shape: tuple[int, int, int], dtype: np.dtype[Any], target: Size, held: int = 0) -> _Route:
        """How to enlarge pictures of this shape to `target`; `held` bytes are taken besides."""
        factors = self.factors((shape[0], shape[1]), target)
        engines = tuple(for_channels(self.engine(scale), shape[2]) for scale in factors)
        cards = [self.models[engine.scale].card for engine in engines]
        kernel = self.name if self.name in CLASSICAL else "bicubic"
        limit = (self.job.memory_gb * 1e9) if self.job.memory_gb is not None else _half_of_memory()
        share = 1.0
        while True:
            tiles = tuple(max(_SMALLEST_TILE, int(card.tile * share)) for card in cards)
            per_pixel = [card.bytes_per_pixel for card in cards]
            needed = held + _memory(shape, dtype, target, engines, tiles, per_pixel)
            if needed <= limit:
                return _Route(target, engines, tiles, kernel, needed)
            if all(tile == _SMALLEST_TILE for tile in tiles):
                raise UsageError(
                    f"{shape[1]} x {shape[0]} to {target[1]} x {target[0]} needs {needed / 1e9:.2f} GB,"
                    f" over the limit of {limit / 1e9:.2f}; raise it with --memory {math.ceil(needed / 1e8) / 10:g}"
                )
            share /= 1.25

    @cached_property
    def fingerprint(self) -> str:
        """What decides the content of outputs, besides their sources."""
        facts = {
            "version": version("superfine"),
            "models": {scale: model.sha256 for scale, model in sorted(self.models.items())} or self.name,
            "job": [self.job.label, self.job.engine, self.job.precision, self.job.quality, self.job.white],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _warm(model: Model, engine: str, precision: Precision) -> NetworkEngine:
    """An engine that stays open between calls, so that only the first picture waits for it."""
    return open_engine(model, engine, precision)


def _memory(
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    target: Size,
    engines: Sequence[Engine],
    tiles: Sequence[int],
    per_pixel: Sequence[int],
) -> int:
    """Estimated peak in bytes: what is fixed, the bands of each stage, and the largest tile."""
    rows, cols, channels = shape
    direct = len(engines) == 1 and (rows * engines[0].scale, cols * engines[0].scale) == target
    width = channels * (dtype.itemsize if direct else 4)
    total, largest = _FIXED_BYTES, 0
    for engine, tile, cost in zip(engines, tiles, per_pixel, strict=True):
        outer = tile + 2 * engine.halo
        total += 3 * min(outer + 256, rows) * cols * width  # the window, its join and the next band
        largest = max(largest, min(outer, rows) * min(outer, cols) * cost)
        rows, cols = rows * engine.scale, cols * engine.scale
        total += min(tile * engine.scale, rows) * cols * width
    total += (1 + _QUEUED_BANDS) * min(512, target[0]) * target[1] * width
    return total + largest


def _half_of_memory() -> float:
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return 4e9


def _check_pixels(pixels: Array) -> None:
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise ShapeError(f"want (H, W) or (H, W, 1|2|3|4) without an empty side, got {pixels.shape}")
    if pixels.dtype not in KINDS:
        raise ShapeError(f"want uint8, uint16 or float32 in 0..1, got {pixels.dtype}")
    if pixels.dtype == np.float32 and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ShapeError(
            f"float pixels reach from {pixels.min():g} to {pixels.max():g}; divide by their white level first"
        )


# ---- which pictures, and where to


@dataclass(frozen=True)
class _Item:
    """One picture of a run."""

    source: Path
    output: Path
    journal: Path | None
    """The folder whose journal knows it; None for a lone picture."""
    weight: int
    problem: str = ""


@dataclass
class _Listing:
    items: list[_Item]
    ignored: int = 0


_SUFFIXES = {suffix: entry for entry in FORMATS.values() for suffix in entry.suffixes}


def _list(sources: Sequence[Path], output: Path | None, job: Job) -> _Listing:
    """All pictures of a run with their outputs, by name; no two share an output."""
    expanded = [found for source in sources for found in _glob(source)]
    if not expanded:
        raise UsageError("no source given")
    lone = len(expanded) == 1 and not expanded[0].is_dir()
    if lone and output is not None and not output.is_dir() and not str(output).endswith(("/", os.sep)):
        format_of(output)
        _need_folder(output.parent)
        return _Listing([_Item(expanded[0], output, None, _weight(expanded[0]))])
    if output is not None:
        _make_folder(output)
    listing = _Listing([])
    found: dict[Path, tuple[Path, Path, Path | None]] = {}
    for source in expanded:
        if source.is_dir():
            root = _root(source, output, job, several=len(expanded) > 1)
            for path in _walk(source, root, listing):
                name = (root / path.relative_to(source)).with_suffix(_suffix(path, job))
                found.setdefault(path.resolve(), (path, name, root if output is None else output))
        else:
            name = _beside(source, job) if output is None else (output / source.name).with_suffix(_suffix(source, job))
            found.setdefault(source.resolve(), (source, name, None if lone else output or source.parent))
    if not found:
        raise UsageError(f"no picture in {', '.join(map(str, expanded))}; superfine reads {' '.join(_SUFFIXES)}")
    taken: set[str] = set()
    for source, name, journal in found.values():
        free = _free(name, source, taken)
        problem = "is a source of this run itself; choose another output with -o" if free.resolve() in found else ""
        listing.items.append(_Item(source, free, journal, _weight(source), problem))
    return listing


def _root(source: Path, output: Path | None, job: Job, *, several: bool) -> Path:
    """The folder that mirrors the folder `source`."""
    here = source if source.name not in ("", "..") else source.resolve()
    if output is None:
        return here.with_name(f"{here.name}_{job.label}")
    if output.resolve() == source.resolve():
        raise UsageError(f"{output}: the output folder is the source folder; choose another with -o")
    return output / here.name if several else output


def _free(name: Path, source: Path, taken: set[str]) -> Path:
    """`name`, or a like one that no other picture of the run has; folded, since `A.png` may be `a.png`."""
    choice, number = name, 1
    while str(choice).casefold() in taken:
        kind = source.suffix[1:].lower()
        choice = name.with_name(f"{name.stem}_{kind}{'' if number == 1 else f'_{number}'}{name.suffix}")
        number += 1
    taken.add(str(choice).casefold())
    return choice


def _glob(source: Path) -> list[Path]:
    # A shell expands patterns itself; this is for Windows, and for quoted ones.
    if any(letter in str(source) for letter in "*?[") and not source.exists():
        import glob

        found = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not found:
            raise UsageError(f"{source}: nothing matches")
        return found
    return [source]


def _walk(folder: Path, output: Path, listing: _Listing) -> Iterator[Path]:
    made = output.resolve()
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if (here / name).resolve() != made and not name.startswith("."))
        if here.resolve() == made:
            continue
        for name in sorted(files):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in _SUFFIXES:
                yield here / name
            else:
                listing.ignored += 1


def _suffix(source: Path, job: Job) -> str:
    return source.suffix if job.file_format is None else f".{job.file_format.lower()}"


def _beside(source: Path, job: Job) -> Path:
    return source.with_name(f"{source.stem}_{job.label}{_suffix(source, job)}")


def _weight(source: Path) -> int:
    return max(1, stamp(source)[0])


def _need_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder for the output; create it first")


def _make_folder(folder: Path) -> None:
    _need_folder(folder.absolute().parent)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, and several pictures need a folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be made: {error.strerror}") from error


# ---- the run


class _Run:
    """Takes pictures one by one; encoding of the last ones goes on while the next is enlarged."""

    def __init__(
        self, workshop: _Workshop, progress: Progress, report: Report, *, resume: bool, overwrite: bool, dry_run: bool
    ) -> None:
        self._workshop = workshop
        self._progress = progress
        self._report = report
        self._resume = resume
        self._overwrite = overwrite
        self._dry_run = dry_run
        self._journals: dict[Path, Journal] = {}
        self._pending: deque[tuple[_Item, Callable[[], Result]]] = deque()
        self._told = 0.0  # how much of the present item's weight the progress has heard of
        self._speeds: dict[tuple[int, ...], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # After Ctrl-C too: these pictures have all their rows, and only wait for the encoder.
        while self._pending:
            self._settle()

    def do(self, item: _Item) -> None:
        """One picture, whatever becomes of it."""
        self._told = 0.0
        try:
            self._do(item)
        except (SuperfineError, MemoryError, OSError) as error:
            self._finish(_failure(item, error), item.weight - self._told)

    def _do(self, item: _Item) -> None:
        job = self._workshop.job
        if item.problem:
            raise OutputError(f"{item.output}: {item.problem}")
        journal = self._journal(item.journal) if item.journal is not None else None
        if self._resume and journal is not None and journal.done(item.source, item.output, self._workshop.fingerprint):
            self._finish(Result(item.source, item.output, "skipped", "done before, unchanged"), item.weight)
            return
        before = stamp(item.source)
        entry = format_of(item.output)
        picture = open_picture(item.source, max_megapixels=job.max_megapixels, white=job.white)
        if picture.orientation != 1 and not (entry.turns and entry.name == picture.format.name):
            picture = open_picture(item.source, max_megapixels=job.max_megapixels, white=job.white, upright=True)
        self._may_write(item, journal)
        dtype, notes = _output_dtype(picture, entry.dtypes, entry.name)
        if picture.alpha and not entry.alpha:
            raise UsageError(
                f"{item.source}: has alpha, which {entry.name.upper()} can't hold; write PNG, WebP, AVIF or TIFF"
            )
        target = job.target(picture.size, sideways=picture.sideways)
        held = 0 if picture.streams else picture.bytes
        held += 0 if entry.streams else target[0] * target[1] * picture.shape[2] * dtype.itemsize
        route = self._workshop.route(picture.shape, picture.dtype, target, held)
        result = self._describe(item, picture, route, (*picture.notes, *notes))
        if self._dry_run:
            self._finish(replace(result, status="planned", seconds=self._guess(route, picture)), item.weight)
            return
        item.output.parent.mkdir(parents=True, exist_ok=True)
        self._start(item, picture, route, dtype, result, before)

    def _start(
        self,
        item: _Item,
        picture: Picture,
        route: _Route,
        dtype: np.dtype[Any],
        result: Result,
        before: tuple[int, int],
    ) -> None:
        started = time.perf_counter()
        shape = (*route.target, picture.shape[2])
        job = self._workshop.job

        def note(part: Path) -> None:
            if item.journal is not None:
                journal = self._journal(item.journal)
                journal.add(journal.entry(item.source, before, item.output, stamp(part), self._workshop.fingerprint))

        with _Ahead(picture.bands()) as bands:
            source = Window(picture.shape, picture.dtype, bands)
            encoding = _Encoding(
                lambda rows: save_picture(
                    item.output, rows, shape, dtype, like=picture, quality=job.quality, whole=note
                )
            )
            try:
                encoding.start()
                for band in route.bands(source, dtype, lambda share: self._advance(share * item.weight)):
                    encoding.put(band)
                encoding.put(None)
            except BaseException:
                encoding.stop()
                raise

        def finished() -> Result:
            encoding.wait()
            return replace(result, seconds=time.perf_counter() - started)

        self._pending.append((item, finished))
        while len(self._pending) > _PENDING_FILES:
            self._settle()

    def _settle(self) -> None:
        item, finished = self._pending.popleft()
        try:
            self._finish(finished(), 0)
        except (SuperfineError, MemoryError, OSError) as error:
            self._finish(_failure(item, error), 0)

    def _advance(self, weight: float) -> None:
        self._told += weight
        self._progress.advance(weight)

    def _finish(self, result: Result, weight: float) -> None:
        self._report.results.append(result)
        self._progress.advance(weight)
        self._progress.finish(result)

    def _journal(self, folder: Path) -> Journal:
        if folder not in self._journals:
            self._journals[folder] = Journal(folder)
        return self._journals[folder]

    def _may_write(self, item: _Item, journal: Journal | None) -> None:
        if not item.output.exists():
            return
        if item.output.is_dir():
            raise OutputError(f"{item.output}: is a folder where the output should go")
        if item.output.samefile(item.source):
            raise OutputError(f"{item.output}: the output is the source itself; choose another name with -o")
        if not self._overwrite and not (journal is not None and journal.made(item.output)):
            raise OutputError(
                f"{item.output}: exists already; replace it with --overwrite or choose another name with -o"
            )

    def _describe(self, item: _Item, picture: Picture, route: _Route, notes: tuple[str, ...]) -> Result:
        engines = [self._workshop.engine(engine.scale) for engine in route.engines]
        stretch = (route.target[0] * picture.size[1]) / (route.target[1] * picture.size[0])
        if abs(stretch - 1) > 0.01:
            notes = (*notes, f"the shape changes by {abs(stretch - 1):.0%}")
        return Result(
            item.source,
            item.output,
            "done",
            size=picture.size,
            output_size=route.target,
            model=" then ".join(engine.model.card.name for engine in engines) or self._workshop.name,
            engine=engines[0].name if engines else "superfine",
            precision=engines[0].precision_for(self._network_dtype(picture, route)) if engines else "fp32",
            memory_gb=round(route.memory / 1e9, 2),
            notes=notes,
        )

    def _guess(self, route: _Route, picture: Picture) -> float:
        """Seconds that the networks will take, from one measured tile of each."""
        seconds, pixels = 0.0, picture.shape[0] * picture.shape[1]
        for engine, tile in zip(route.engines, route.tiles, strict=True):
            key = (engine.scale, tile)
            if key not in self._speeds:
                piece = np.zeros((1, tile, tile, picture.shape[2]), picture.dtype)
                engine(piece)
                started = time.perf_counter()
                engine(piece)
                self._speeds[key] = (time.perf_counter() - started) / tile**2
            seconds += pixels * self._speeds[key]
            pixels *= engine.scale**2
        return seconds


def _failure(item: _Item, error: BaseException) -> Result:
    words = str(error) or type(error).__name__
    named = str(item.source) in words or str(item.output) in words
    return Result(item.source, item.output, "failed", words if named else f"{item.source}: {words}")


def _output_dtype(picture: Picture, held: Sequence[np.dtype[Any]], name: str) -> tuple[np.dtype[Any], tuple[str, ...]]:
    """The deepest dtype that the output format shares with the picture, and what to say where it is less."""
    fitting = [dtype for dtype in held if dtype.itemsize <= picture.dtype.itemsize]
    dtype = picture.dtype if picture.dtype in held else max(fitting, key=lambda kind: kind.itemsize)
    if dtype == picture.dtype:
        return dtype, ()
    return dtype, (f"{picture.bits} bits a sample become {8 * dtype.itemsize} in {name.upper()}",)


class _Encoding:
    """A thread that encodes bands as they come; errors reach whoever puts or waits."""

    def __init__(self, save: Callable[[Iterable[Array]], None]) -> None:
        # None is the end of the picture; giving up is an event, which a full queue can't hold up.
        self._bands: queue.Queue[Array | None] = queue.Queue(_QUEUED_BANDS)
        self._failure: BaseException | None = None
        self._given_up = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(save,), name="superfine-encode")

    def start(self) -> None:
        """Begin. Ctrl-C may fall into the middle of this, so `stop` is safe at any moment."""
        self._thread.start()

    def put(self, band: Array | None) -> None:
        """Hand over a band, or None after the last one; waits while the queue is full.

        Raises what stopped the encoder.
        """
        while True:
            if self._over.is_set():
                self.wait()
            with suppress(queue.Full):
                self._bands.put(band, timeout=_POLL_SECONDS)
                return

    def wait(self) -> None:
        """Until the file is there. Raises what stopped the encoder."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Give up: the file will not appear."""
        self._given_up.set()
        if self._thread.is_alive():
            self._thread.join()

    def _rows(self) -> Iterator[Array]:
        while not self._given_up.is_set():
            with suppress(queue.Empty):
                band = self._bands.get(timeout=_POLL_SECONDS)
                if band is None:
                    return
                yield band
        raise _StoppedError

    def _work(self, save: Callable[[Iterable[Array]], None]) -> None:
        try:
            save(self._rows())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self._failure = error
        finally:
            self._over.set()


class _StoppedError(Exception):
    """The run gave this file up."""


class _Ahead:
    """Reads one item further than it is asked for, in a thread of its own."""

    def __init__(self, items: Iterator[Array]) -> None:
        self._items = items
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="superfine-decode")

    def __enter__(self) -> Iterator[Array]:
        return self._read()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self) -> Iterator[Array]:
        coming: Future[Array | None] = self._pool.submit(next, self._items, None)
        while (item := coming.result()) is not None:
            coming = self._pool.submit(next, self._items, None)
            yield item
