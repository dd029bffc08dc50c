"""The whole way: file -> bands of rows -> tiles -> engine -> bands -> file, for one picture or video, or many.

Rows are pulled from the file through every stage, and pushed to the encoder:
a thread that decodes ahead, this one, and one that encodes, at the same time.
Videos go frame by frame the same way, in `upscale_video`.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from superfine.color import KINDS
from superfine.destination import check_folder, check_free, check_holds, fewer_bits, keeps_turn, made_dtype
from superfine.encoding import CONTAINERS
from superfine.engine import Precision
from superfine.errors import ShapeError, SourceError, SuperfineError, UsageError
from superfine.fidelity import Tally
from superfine.footage import kind_of
from superfine.guess import Guess, guess_for, overlay_path, write_guess_map
from superfine.image import Picture, coding_of, format_of, open_picture, save_picture
from superfine.interrupt import raise_if_asked
from superfine.journal import Journal, stamp
from superfine.listing import Item, Listing, list_sources, said_of_twins
from superfine.models import RESTORES, Card, HaloKind
from superfine.outputs import make_folder
from superfine.provenance import (
    Consistency,
    PixelHash,
    Recorder,
    Unrecorded,
    drop_sidecar,
    keeps_pixels,
    recorder_for,
    write_clip_record,
)
from superfine.route import FIXED_BYTES, QUEUED_BANDS, Job, Route, Size, Workshop, Workshops
from superfine.upscale_video import (
    Pace,
    VideoPlan,
    VideoResult,
    begin_video,
    check_coding,
    check_free_video,
    coding_of_video,
    make_video,
    make_video_pieces,
    plan_video,
    seconds_expected,
)
from superfine.video import Pieces, begun, forget

__all__ = [
    "Pace",
    "PicturePlan",
    "Progress",
    "Report",
    "Result",
    "Run",
    "VideoResult",
    "picture_guess",
    "plan_picture",
    "upscale",
    "upscale_path",
]

Array = npt.NDArray[np.generic]

_PENDING_FILES: Final = 2
_POLL_SECONDS: Final = 0.2
# Bytes that a picture is held in before it is worth a word.
_WORTH_SAYING: Final = 500_000_000
# On the cards of networks that round what they take.
_IN_LEVELS: Final = "in 8-bit levels"
# What of a job only videos know.
_FOR_VIDEOS: Final = ("codec", "crf", "start", "end", "damaged", "interlaced", "rate", "as_clip")
# What leaves the source alone is above this, in dB, and its mean colours are nearer than this, in 8-bit levels.
_LEAST_CONSISTENT: Final = 40.0
_MOST_DRIFT: Final = 0.5
# Side of the piece that a dry run measures.
_SAMPLE: Final = 512


@dataclass(frozen=True)
class Result:
    """What became of one picture or video."""

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
    halo_kind: str = ""
    """exact, practical or whole: what tiles promise, of the networks' promises the weakest; empty without networks."""
    seconds: float = 0.0
    memory_gb: float = 0.0
    """Estimated peak."""
    notes: tuple[str, ...] = ()
    """What a person should know; first of all, where `auto` chose, the model and why."""
    consistency: Consistency | None = None
    """How far the result, made small again, is from the source; none before the work."""
    video: VideoResult | None = None
    """Of a video: its frames."""


@dataclass
class Report:
    """What became of a run."""

    results: list[Result] = field(default_factory=list)
    ignored: int = 0
    """Files in folders that are neither pictures nor videos."""

    def count(self, status: str) -> int:
        """How many results have this status."""
        return sum(result.status == status for result in self.results)

    @property
    def failed(self) -> list[Result]:
        """What failed, with its reason in `message`."""
        return [result for result in self.results if result.status == "failed"]


class Progress:
    """Listens to a run; this one says nothing. Weights are bytes of source files."""

    def begin(self, pictures: int, weight: int) -> None:
        """The run is about to begin; where its sources are still being listed, these are those found so far."""

    def expect(self, pictures: int, weight: int) -> None:
        """So many more were found than was known before, of so much weight."""

    def warn(self, message: str) -> None:
        """What a person should know before a picture or a video is begun."""

    def advance(self, weight: float) -> None:
        """So much of it is done."""

    def watch(self, pace: Pace) -> None:
        """A frame of a video is done."""

    def finish(self, result: Result) -> None:
        """A picture or a video is done, skipped, failed or planned."""


def upscale(
    image: npt.ArrayLike | Path | str,
    scale: float | None = None,
    *,
    size: Size | None = None,
    model: str = "auto",
    sharpness: float | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
    consistent: str | Path | None = None,
    ensemble: bool = False,
    memory_gb: float | None = None,
) -> Array:
    """Enlarge one picture in memory.

    image: (H, W), (H, W, C) with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
    alpha); uint8, uint16, or float32 in 0..1; or the path of a picture file,
    which is turned upright. scale: times each side, any number from 1 to 16,
    2 by default; or size: (rows, cols) of the result. model: `auto` goes by the file,
    and takes arrays for lossless. sharpness: 0 to 1, from `photo` to `sharp`, instead of a model.
    consistent: the operator by which the result, made small again, is the picture; `matlab-bicubic`,
    `bicubic`, `box` or a kernel's file. ensemble: the mean over flips and rotations, eight times as long.
    Returns an array of the same dtype and number of axes.
    Raises ShapeError, UsageError, ModelError, EngineError; for files SourceError.
    """
    job = Job(
        scale=scale,
        size=size,
        model=model,
        sharpness=sharpness,
        engine=engine,
        precision=precision,
        consistent=consistent,
        ensemble=ensemble,
        memory_gb=memory_gb,
    )
    source = Path(image) if isinstance(image, (Path, str)) else None
    given: Array | None = None
    bands: Iterable[Array]
    if source is not None:
        picture = open_picture(source, upright=True)
        shape, dtype, bands = picture.shape, picture.dtype, picture.bands()
    else:
        given = np.asarray(image)
        given = given.astype(given.dtype.newbyteorder("="), copy=False)
        pixels = given[..., None] if given.ndim == 2 else given
        _check_pixels(pixels)
        shape, dtype, bands = (pixels.shape[0], pixels.shape[1], pixels.shape[2]), pixels.dtype, [pixels]
    workshop, _ = Workshops(job).suited(source)
    route = workshop.route(shape, dtype, workshop.job.target(shape[:2]), dtype)
    result = np.empty((*route.target, shape[2]), dtype)
    top = 0
    for band in route.bands(shape, bands):
        result[top : top + len(band)] = band
        top += len(band)
    return result[..., 0] if given is not None and given.ndim == 2 else result


def upscale_path(
    sources: Path | str | Sequence[Path | str],
    output: Path | str | None = None,
    *,
    job: Job | None = None,
    guess_map: Path | str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Enlarge pictures and videos, folders of them (their tree is mirrored) and globs; what `superfine upscale` does.

    output: a file for one source, else a folder; beside the sources by default.
    guess_map: of one picture, where to write its guess map, a .png: `guess.write_guess_map`.
    resume: skip what an earlier run of the same job finished, and go on with a
    video that it didn't finish. overwrite: replace files that no earlier run made.
    A source that fails doesn't stop the others: it is in the report, with its
    reason. Raises UsageError or ModelError where nothing can be done at all.
    """
    job, progress = job or Job(), progress or Progress()
    given = [sources] if isinstance(sources, (Path, str)) else list(sources)
    if "" in (*given, output):  # as a path it would be the present folder
        raise UsageError("a name is empty; `.` is the present folder")
    if urls := [entry for entry in (*given, output) if isinstance(entry, str) and "://" in entry]:
        raise UsageError(f"{urls[0]}: is no file or folder; object stores are for `superfine cluster --address local`")
    paths = [Path(entry) for entry in given]
    workshops = Workshops(job)
    listing = list_sources(paths, None if output is None else Path(output), workshops.job)
    _check_wishes(listing, workshops.job)
    chart = None if guess_map is None else _checked_map(Path(guess_map), listing, overwrite=overwrite)
    report = Report(ignored=listing.ignored)
    run = Run(workshops, report.results.append, progress, chart, resume=resume, overwrite=overwrite, dry_run=dry_run)
    progress.begin(len(listing.items), sum(item.weight for item in listing.items))
    if listing.twins:
        progress.warn(said_of_twins([str(path) for path in listing.twins], len(listing.twins)))
    with run:
        for item in listing.items:
            run.do(item)
    return report


def _check_wishes(listing: Listing, job: Job) -> None:
    """Raise UsageError for options that mean nothing to any source of the run."""
    if job.quality is not None and all(item.moves for item in listing.items):
        raise UsageError(f"--quality {job.quality} is for pictures, and there are none; videos take --crf")
    given = [name for name in _FOR_VIDEOS if getattr(job, name) != getattr(Job, name)]
    if given and not any(item.moves for item in listing.items):
        raise UsageError(f"--{given[0].replace('_', '-')} is for videos, and there are none; leave it out")
    _check_format(listing, job)
    clips = [item for item in listing.items if item.moves and not item.problem]
    if job.rate is not None and clips and all(kind_of(item.source) != "frames" for item in clips):
        raise UsageError("--rate is for folders of frames, and there are none; a video says itself when they are shown")
    check_coding([item.output for item in clips], job)


def _checked_map(path: Path, listing: Listing, *, overwrite: bool) -> Path:
    """Where the guess map goes. Raises UsageError where there is more than one picture, or no place for it."""
    if len(listing.items) != 1 or listing.items[0].moves:
        raise UsageError(f"--guess-map {path}: belongs to one still picture; enlarge it alone")
    item = listing.items[0]
    if path.suffix.lower() != ".png":
        raise UsageError(f"--guess-map {path}: a guess map is a 16-bit PNG; give it a name that ends in .png")
    check_folder(path)
    for made in (path, overlay_path(path)):
        if made.resolve() in (item.source.resolve(), item.output.resolve()):
            raise UsageError(f"--guess-map {path}: {made} is the source or the result; choose another name")
        if made.exists() and not overwrite:
            raise UsageError(f"--guess-map {path}: {made} is there already; take --overwrite, or another name")
    return path


@dataclass(frozen=True)
class PicturePlan:
    """How a picture will be made."""

    picture: Picture
    route: Route
    held: int
    """Bytes that reading and writing hold beside the route."""
    notes: tuple[str, ...]
    """What a person should know."""


def plan_picture(source: Path, output: Path, workshop: Workshop) -> PicturePlan:
    """Read a picture's facts and find out how to enlarge it. Raises SourceError, UsageError, OutputError."""
    job = workshop.job
    picture = open_picture(source, max_megapixels=job.max_megapixels, white=job.white)
    entry = format_of(output)
    if not keeps_turn(entry, picture):
        picture = open_picture(source, max_megapixels=job.max_megapixels, white=job.white, upright=True)
    dtype = made_dtype(entry, picture)
    target = job.target(picture.size, sideways=picture.sideways)
    notes = (*picture.notes, *fewer_bits(entry, picture))
    if job.consistent is not None and not keeps_pixels(
        picture, output, (*target, picture.shape[2]), dtype, job.quality
    ):
        notes = (*notes, f"{entry.name.upper()} changes pixels, so the result is consistent only until it's encoded")
    check_holds(entry, picture, target)
    held = 0 if picture.streams else picture.bytes
    held += entry.held * target[0] * target[1] * picture.shape[2] * dtype.itemsize
    return PicturePlan(picture, workshop.route(picture.shape, picture.dtype, target, dtype, held), held, notes)


def picture_guess(picture: Picture, output: Path, workshop: Workshop, route: Route) -> Guess:
    """What knows how far the result may be off. Raises UsageError where nothing does."""
    job = workshop.job
    if job.ensemble:
        raise UsageError("--guess-map is calibrated for networks asked once; leave --ensemble out")
    if job.white is not None:
        raise UsageError("--guess-map is calibrated for pictures whose white is 1 or a whole level; leave --white out")
    # A projection on what the truth belongs to takes nothing further from it; other operators' truth is another.
    if route.reduction is not None and route.reduction.name not in ("bicubic", "matlab-bicubic"):
        raise UsageError("--guess-map is calibrated for bicubic reduction; take --consistent bicubic, or leave it out")
    if not keeps_pixels(picture, output, (*route.target, picture.shape[2]), route.made, job.quality):
        raise UsageError(
            f"--guess-map is calibrated for what networks make, and {output.suffix} changes that; write .png or .tif"
        )
    if picture.palette or picture.bits < 8:
        raise UsageError(
            "--guess-map is calibrated for pictures of full colour, and this one has only a few; leave it out"
        )
    kind, lossless = coding_of(picture.path)
    scale = route.target[0] / picture.size[0]
    if route.target[1] != scale * picture.size[1]:
        raise UsageError("--guess-map is calibrated for whole scales, alike in both directions; change --size")
    return guess_for(
        [workshop.models[engine.scale] for engine in route.engines],
        scale,
        kind=kind,
        lossless=lossless,
        engine=job.engine,
        precision=job.precision,
    )


def _check_format(listing: Listing, job: Job) -> None:
    """Raise UsageError where nothing of the run can become what --format asks for."""
    sound = [item for item in listing.items if not item.problem]
    asked = f".{(job.file_format or '').lower()}"
    if job.file_format is None or not sound or any(item.output.suffix.lower() == asked for item in sound):
        return
    if asked in CONTAINERS and not any(item.moves for item in sound):
        raise UsageError(f"--format {asked[1:]} is for videos, and there are none; leave it out")
    if asked not in CONTAINERS and all(item.moves for item in sound):
        name = f"NAME{asked}" if asked in (".gif", ".webp") else "frames/%06d.png"
        raise UsageError(
            f"--format {asked[1:]} is for pictures, and there are none; what else a video becomes is named, as in"
            f" -o '{name}'"
        )


def _check_pixels(pixels: Array) -> None:
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise ShapeError(f"want (H, W) or (H, W, 1|2|3|4) without an empty side, got {pixels.shape}")
    if pixels.dtype not in KINDS:
        raise ShapeError(f"want uint8, uint16 or float32 in 0..1, got {pixels.dtype}; convert it with .astype")
    if pixels.dtype == np.float32:
        low, high = float(pixels.min()), float(pixels.max())
        if math.isnan(low):
            raise ShapeError("float pixels hold NaN; replace it, as with numpy.nan_to_num")
        if low < 0:
            raise ShapeError(f"float pixels reach down to {low:g}; they must lie in 0..1")
        if high > 1:
            raise ShapeError(f"float pixels reach up to {high:g}; divide by their white level first")


# ---- the run


class Run:
    """Takes pictures and videos one by one, with networks that stay warm.

    With `do` encoding of the last pictures goes on while the next is enlarged; used as a context manager, all of them
    are there at its end. made: hears what became of each, in the order in which they are finished. journals: opens the
    journal of a folder.
    """

    def __init__(
        self,
        workshops: Workshops,
        made: Callable[[Result], None],
        progress: Progress,
        guess_map: Path | None = None,
        *,
        resume: bool = True,
        overwrite: bool = False,
        dry_run: bool = False,
        journals: Callable[[Path], Journal] = Journal,
    ) -> None:
        self._workshops = workshops
        self._progress = progress
        self._made = made
        self._open_journal = journals
        self._guess_map = guess_map
        self._resume = resume
        self._overwrite = overwrite
        self._dry_run = dry_run
        self._journals: dict[Path, Journal] = {}
        self._pending: deque[_Pending] = deque()
        self._plans: dict[Item, _Planned] = {}
        self._told = 0.0  # how much of the present item's weight the progress has heard of
        self._speeds: dict[tuple[object, ...], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # After Ctrl-C too: these pictures have all their rows, and only wait for the encoder.
        while self._pending:
            self._settle()

    def do(self, item: Item) -> None:
        """One picture or video, whatever becomes of it."""
        try:
            result = self._begun(item)
        except (SuperfineError, MemoryError, OSError) as error:
            result = failure(item, error)
        raise_if_asked()
        if result is not None:
            self._finish(result, item.weight - self._told)
        while self._pending and (len(self._pending) > _PENDING_FILES or self._pending[0].encoding.over):
            self._settle()

    def alone(self, item: Item) -> Result:
        """One picture or video, until its file is there; raises what stopped it, and tells nobody of it."""
        result = self._begun(item)
        return self._ended() if result is None else result

    def _begun(self, item: Item) -> Result | None:
        """The result, or None where it will be there once the picture is encoded."""
        self._told = 0.0
        return self._do_video(item) if item.moves and not item.problem else self._do(item)

    def _do(self, item: Item) -> Result | None:
        if item.problem:
            raise SourceError(item.problem)
        workshop, reason = self._workshops.suited(item.source)
        journal = self._journal(item.journal) if item.journal is not None else None
        known = journal if self._resume and self._guess_map is None else None
        if known is not None and known.done(item.source, item.output, workshop.fingerprint):
            return Result(item.source, item.output, "skipped", "done before, unchanged")
        before = stamp(item.source)
        plan = plan_picture(item.source, item.output, workshop)
        picture, route, held = plan.picture, plan.route, plan.held
        ours = journal is not None and journal.made(item.output)
        check_free(item.output, [item.source], overwrite=self._overwrite or ours)
        notes = (*((reason,) if reason else ()), *plan.notes)
        route = replace(route, memory=route.memory + self._workshops.kept_besides(workshop, route.memory))
        result = _described(item, picture.size, picture.bits, workshop, route, notes)
        if held > _WORTH_SAYING:
            which = "read" if not picture.streams else "written"
            self._progress.warn(
                f"{item.source}: can't be {which} in rows as it is, so it is held whole: about {result.memory_gb:g} GB"
            )
        guess = None if self._guess_map is None else picture_guess(picture, item.output, workshop, route)
        if self._dry_run:
            return replace(result, status="planned", seconds=self._guess(workshop.name, route, picture))
        make_folder(item.output.parent, item.output)
        # Pictures that are still encoded take memory too; what each of them has fixed is the same.
        while self._pending and self._taken() + route.memory - FIXED_BYTES > workshop.limit:
            self._settle()
        started = time.perf_counter()
        tally, recorder = Tally(), recorder_for(workshop, route, picture, item.output)
        encoding = self._start(item, picture, workshop, route, before, tally, recorder)
        result = _measured(result, tally, workshop, route)
        self._pending.append(_Pending(item, result, encoding, recorder, guess, started, route.memory))
        return None

    def _do_video(self, item: Item) -> Result:
        planned = self._planned(item)
        if isinstance(planned, Result):
            return planned
        if self._dry_run:
            result = self._describe_video(item, planned.plan, planned.notes)
            return replace(result, status="planned", seconds=seconds_expected(planned.plan))
        while self._pending:  # a video's memory is counted as if there were nothing else
            self._settle()
        if not self._resume:
            forget(item.output)
        return self._video(item, planned)

    def begin(self, item: Item) -> Pieces | Result:
        """Begin a video whose pieces several runs will make; its result where it was done before.

        Raises what stops it, as `pieces` and `join` do, and tells nobody of it.
        """
        self._plans.pop(item, None)
        planned = self._planned(item)
        if isinstance(planned, Result):
            return planned
        if not self._resume:
            forget(item.output)
        return begin_video(planned.plan)

    def pieces(self, item: Item, begin: int, finish: int) -> None:
        """Make the pieces of a begun video from `begin` on and before `finish`."""
        planned = self._planned(item)
        if not isinstance(planned, Result):  # who is slow may find it joined already
            make_video_pieces(planned.plan, begin, finish, self._progress.watch)

    def join(self, item: Item) -> Result:
        """Make a begun video's file, and whatever of its pieces is still missing."""
        self._told = 0.0
        self._plans.pop(item, None)  # planning afresh notices a source that has changed meanwhile
        planned = self._planned(item)
        return planned if isinstance(planned, Result) else self._video(item, planned)

    def _planned(self, item: Item) -> "_Planned | Result":
        """How to make a video; or that it was done before. The last plan is kept: it takes reading the whole file."""
        if item in self._plans:
            return self._plans[item]
        before = stamp(item.source)
        coding = coding_of_video(item.source, self._workshops.job)
        workshop, reason = self._workshops.suited_to_video(coding.codec, coding.size, lossless=coding.lossless)
        journal = self._journal(item.journal) if item.journal is not None else None
        options = workshop.video_fingerprint
        if self._resume and journal is not None and journal.done(item.source, item.output, options):
            return Result(item.source, item.output, "skipped", "done before, unchanged")
        ours = journal is not None and journal.made(item.output)
        check_free_video(item.output, item.source, overwrite=self._overwrite or ours)
        plan = plan_video(item.source, item.output, workshop, coding.clip)
        kept = self._workshops.kept_besides(workshop, plan.route.memory)
        plan = replace(plan, route=replace(plan.route, memory=plan.route.memory + kept))
        self._plans = {item: _Planned(plan, (reason,) if reason else (), before)}
        return self._plans[item]

    def _video(self, item: Item, planned: "_Planned") -> Result:
        self._plans.clear()
        plan, workshop = planned.plan, planned.plan.workshop
        journal = self._journal(item.journal) if item.journal is not None else None
        result = self._describe_video(item, plan, planned.notes)
        started = time.perf_counter()

        tally, given = Tally(), PixelHash(plan.clip.shape, plan.clip.dtype, clip=True)

        def record() -> None:
            if not workshop.job.provenance:
                drop_sidecar(item.output)
                return
            codec, consistency = plan.conversion.made.codec, _consistency(tally, plan.route)
            write_clip_record(workshop, plan.route, plan.clip, item.output, codec, given=given, consistency=consistency)

        def note(part: Path) -> None:
            record()  # first, since what the journal knows isn't made again
            if journal is not None:
                options = workshop.video_fingerprint
                journal.add(journal.entry(item.source, planned.before, item.output, stamp(part), options))

        seen = given.add if workshop.job.provenance else lambda pixels: None
        made = make_video(plan, tally, seen, lambda pace: self._watch(item, pace), note)
        seconds = time.perf_counter() - started
        if made.output.is_dir():
            record()
        return replace(
            _measured(result, tally, workshop, plan.route),
            output_size=made.size,
            seconds=seconds,
            notes=tuple(dict.fromkeys((*result.notes, *made.notes))),
            video=plan.result_of(made, seconds),
        )

    def _watch(self, item: Item, pace: Pace) -> None:
        self._advance(pace.done / pace.frames * item.weight - self._told)
        self._progress.watch(pace)

    def _start(
        self,
        item: Item,
        picture: Picture,
        workshop: Workshop,
        route: Route,
        before: tuple[int, int],
        tally: Tally,
        recorder: Recorder | Unrecorded,
    ) -> "_Encoding":
        """Enlarge; when this returns the encoder has all rows."""
        # Not the route: a file that is still encoded would hold its engines open.
        shape, made = (*route.target, picture.shape[2]), route.made

        def note(part: Path) -> None:
            if item.journal is not None:
                journal = self._journal(item.journal)
                journal.add(journal.entry(item.source, before, item.output, stamp(part), workshop.fingerprint))

        with _Ahead(recorder.given_rows(picture.bands())) as bands:
            encoding = _Encoding(
                lambda rows: save_picture(
                    item.output,
                    recorder.made_rows(rows),
                    shape,
                    made,
                    like=picture,
                    quality=workshop.job.quality,
                    xmp=recorder.xmp,
                    seal=recorder.seal,
                    whole=note,
                )
            )
            try:
                encoding.start()
                for band in route.bands(picture.shape, bands, lambda share: self._advance(share * item.weight), tally):
                    encoding.put(band)
                    raise_if_asked()
                recorder.conclude(_consistency(tally, route))
                encoding.put(None)
            except BaseException:
                encoding.stop()
                raise

        return encoding

    def _taken(self) -> int:
        return sum(pending.memory - FIXED_BYTES for pending in self._pending) + FIXED_BYTES

    def _settle(self) -> None:
        item = self._pending[0].item
        try:
            result = self._ended()
        except (SuperfineError, MemoryError, OSError) as error:
            result = failure(item, error)
        self._finish(result, 0)

    def _ended(self) -> Result:
        """What became of the picture that has waited longest for its encoder; raises what stopped it."""
        pending = self._pending.popleft()
        pending.encoding.wait()
        result = replace(
            pending.result,
            seconds=pending.encoding.ended - pending.started,
            notes=(*pending.result.notes, *pending.recorder.notes),
        )
        if self._guess_map is not None and pending.guess is not None:
            limit = self._workshops.job.max_megapixels
            source = open_picture(pending.item.source, max_megapixels=limit, upright=True)
            write_guess_map(self._guess_map, source, pending.item.output, pending.guess)
            told = f"guess map: {self._guess_map}, and as heat over the result {overlay_path(self._guess_map)}"
            result = replace(result, notes=(*result.notes, told))
        return result

    def _advance(self, weight: float) -> None:
        self._told += weight
        self._progress.advance(weight)

    def _finish(self, result: Result, weight: float) -> None:
        self._made(result)
        self._progress.advance(weight)
        self._progress.finish(result)

    def _journal(self, folder: Path) -> Journal:
        if folder not in self._journals:
            self._journals[folder] = self._open_journal(folder)
        return self._journals[folder]

    def _describe_video(self, item: Item, plan: VideoPlan, notes: tuple[str, ...]) -> Result:
        result = _described(item, plan.clip.size, plan.clip.bits, plan.workshop, plan.route, notes)
        return replace(result, output_size=plan.size, notes=(*result.notes, *plan.notes), video=plan.result)

    def _guess(self, model: str, route: Route, picture: Picture) -> float:
        """Seconds that enlarging will take, from a measured piece."""
        rows, cols = (min(side, _SAMPLE) for side in picture.size)
        scales = tuple(engine.scale for engine in route.engines)
        key = (model, scales, route.tiles, route.worked, picture.shape[2], rows, cols)
        if key not in self._speeds:
            target = (-(-rows * route.target[0] // picture.size[0]), -(-cols * route.target[1] // picture.size[1]))
            sample = replace(route, target=target)
            pixels = np.zeros((rows, cols, picture.shape[2]), picture.dtype)
            for _ in range(2):  # the first prepares the engines
                started = time.perf_counter()
                for _ in sample.bands(pixels.shape, [pixels]):
                    pass
                self._speeds[key] = (time.perf_counter() - started) / (rows * cols)
        return picture.size[0] * picture.size[1] * self._speeds[key]


def _described(item: Item, size: Size, bits: int, workshop: Workshop, route: Route, notes: tuple[str, ...]) -> Result:
    """What will become of a picture or a frame of `size`, as far as it's known before the work."""
    engines = [workshop.engine(engine.scale) for engine in route.engines]
    kind, words = _promise([engine.model.card for engine in engines], route, size)
    notes = (*notes, words) if words else notes
    if bits > 8:
        rough = [engine.model.card.name for engine in engines if _IN_LEVELS in engine.model.card.colour]
        words = f"works in 8-bit levels; what {bits} bits hold between them is lost"
        notes = (*notes, *(f"{name} {words}" for name in rough))
    stretch = (route.target[0] * size[1]) / (route.target[1] * size[0])
    if abs(stretch - 1) > 0.01:
        notes = (*notes, f"the shape changes by {abs(stretch - 1):.0%}")
    return Result(
        item.source,
        item.output,
        "done",
        size=size,
        output_size=route.target,
        model=" then ".join(engine.model.card.name for engine in engines) or workshop.name,
        engine=engines[0].name if engines else "superfine",
        precision=engines[0].precision_for(route.worked) if engines else "fp32",
        halo_kind=kind,
        memory_gb=round(route.memory / 1e9, 2),
        notes=notes,
    )


def _consistency(tally: Tally, route: Route) -> Consistency | None:
    if tally.psnr is None:  # of a video of which no frame was made in this run
        return None
    operator = "bicubic" if route.reduction is None else route.reduction.name
    return Consistency(
        operator=operator,
        psnr=tally.psnr if math.isfinite(tally.psnr) else None,
        samples=tally.samples,
        misses=tally.misses,
        worst=tally.worst,
    )


def _measured(result: Result, tally: Tally, workshop: Workshop, route: Route) -> Result:
    """With how far the result, made small again, is from the source, and what a person should know of that."""
    consistency = _consistency(tally, route)
    if consistency is None:
        return result
    return replace(result, consistency=consistency, notes=(*result.notes, *_drift(consistency, tally, workshop, route)))


def _drift(found: Consistency, tally: Tally, workshop: Workshop, route: Route) -> Iterator[str]:
    """What a person should know of a result that isn't the source once it's made small again."""
    if route.reduction is not None:
        if found.misses:
            yield (
                f"between black and white no picture was found that is the source again by {found.operator}:"
                f" {found.misses:,} of {found.samples:,} samples {'is' if found.misses == 1 else 'are'} off by more"
                f" than half a level, at most {found.worst:.3g} levels of {KINDS[route.made]:,.0f}"
            )
        return
    colour, structure = (
        max(map(abs, tally.drift)) > _MOST_DRIFT,
        found.psnr is not None and found.psnr < _LEAST_CONSISTENT,
    )
    cards = [workshop.models[engine.scale].card for engine in route.engines]
    if not cards or not (colour or structure):
        return
    if restoring := [card.name for card in cards if card.restoring]:
        yield f"{' and '.join(restoring)} {RESTORES}"
        return
    what = " and ".join(["colour"] * colour + ["structure"] * structure)
    yield f"{what} drifted: made small again, the result isn't the source; look at it, or take --consistent bicubic"


@dataclass(frozen=True)
class _Planned:
    """A video that can be begun."""

    plan: VideoPlan
    notes: tuple[str, ...]
    before: tuple[int, int]
    """The source's stamp before anything of it was read."""


@dataclass
class _Pending:
    """A picture whose rows are all made, and that is still being encoded."""

    item: Item
    result: Result
    encoding: "_Encoding"
    recorder: Recorder | Unrecorded
    guess: Guess | None
    started: float
    memory: int


def _promise(cards: Sequence[Card], route: Route, size: Size) -> tuple[str, str]:
    """What the tiles of a picture promise, and what a person should know of that."""
    kind = max((card.halo_kind for card in cards), key=get_args(HaloKind).index, default="")
    for card, tile in zip(cards, route.tiles, strict=True):
        whole = max(size) <= tile + 2 * card.halo and (not card.rows or (size[0] <= card.rows and size[1] <= card.cols))
        if card.halo_kind == "whole" and not whole:
            return kind, f"{card.name} sees the whole picture and got it in tiles: their seams may show"
        if card.halo_kind == "practical" and not whole:
            return kind, f"tiles of {card.name} equal the whole picture but for a quarter of a level (practical halo)"
        size = (size[0] * card.scale, size[1] * card.scale)
    return kind, ""


def failure(item: Item, error: BaseException) -> Result:
    """What a run says of an item that `error` has stopped."""
    words = str(error) or type(error).__name__
    named = str(item.source) in words or str(item.output) in words
    if item.moves and begun(item.output):
        words += "; what is done is kept, and the same command goes on from there"
    return Result(item.source, item.output, "failed", words if named else f"{item.source}: {words}")


class _Encoding:
    """A thread that encodes bands as they come; errors reach whoever puts or waits."""

    def __init__(self, save: Callable[[Iterable[Array]], None]) -> None:
        # None is the end of the picture; giving up is an event, which a full queue can't hold up.
        self._bands: queue.Queue[Array | None] = queue.Queue(QUEUED_BANDS)
        self._failure: BaseException | None = None
        self.ended = 0.0
        self._given_up = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(save,), name="superfine-encode")

    def start(self) -> None:
        """Begin. Ctrl-C may fall into the middle of this, so `stop` is safe at any moment."""
        self._thread.start()

    @property
    def over(self) -> bool:
        """The file is there, or will never be."""
        return self._over.is_set()

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
            self.ended = time.perf_counter()
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
