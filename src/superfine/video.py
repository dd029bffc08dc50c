"""The whole way of a clip: file -> frames -> windows -> enlarged frames -> pieces -> file.

One thread decodes ahead, this one enlarges, one encodes. What is finished lies in pieces beside the output until all
are there; a run that was killed goes on from the last one. One process begins the pieces, many may make them, each its
own, and one makes the output of them: whoever makes a piece, it is the same.
"""

import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from superfine.clip import Clip, stretch
from superfine.errors import OutputError, SourceError, UsageError
from superfine.fidelity import Tally
from superfine.footage import open_footage, read_footage
from superfine.frames import Damaged, Interlaced
from superfine.image import MAX_MEGAPIXELS
from superfine.interrupt import raise_if_asked
from superfine.outputs import (
    SEGMENT_FRAMES,
    PieceWriter,
    plan_output,
    segments_folder,
    working_alone,
    working_together,
)
from superfine.pieces import (
    Conversion,
    check_begun,
    list_note,
    list_piece,
    listed_notes,
    listed_pieces,
    prepare,
    ready_pieces,
)
from superfine.scenes import margin, windows
from superfine.segments import writing

__all__ = [
    "Converted",
    "Enlarger",
    "Made",
    "Pieces",
    "Stretch",
    "begin_pieces",
    "begun",
    "complete",
    "convert",
    "forget",
    "make_pieces",
]

Array = npt.NDArray[np.generic]
Item = TypeVar("Item")

# Windows that wait for the network, and frames that wait for the encoder.
_AHEAD: Final = 2
# Notes about single frames that are told one by one.
_TOLD: Final = 5


class Enlarger(Protocol):
    """(frames, rows, cols, channels) -> (rows, cols, channels), in kind.

    tally: of a frame that is to be measured; whoever can't measure leaves it as it is.
    """

    def __call__(self, window: Array, tally: Tally | None, /) -> Array: ...


@dataclass(frozen=True)
class Stretch:
    """Pieces that one worker makes in one go."""

    begin: int
    """Number of the first."""
    finish: int
    """Number of the one after the last."""
    frames: int
    """Frames of those that aren't there yet."""


@dataclass(frozen=True)
class Pieces:
    """What there is to make of an output."""

    frames: int
    """Of the whole output."""
    resumed: int
    """Frames that an earlier run had done."""
    stretches: tuple[Stretch, ...]
    """What is missing."""
    notes: tuple[str, ...]
    """What a person should know."""


@dataclass(frozen=True)
class Made:
    """What became of some pieces."""

    resumed: int
    """Frames that were there already."""
    computed: int
    """Frames that were enlarged; the others are duplicates, or were there already."""
    tallies: tuple[Tally, ...]
    """Of the frames that were measured, in the order of time, also of those pieces that were there already."""


@dataclass(frozen=True)
class Converted:
    """What became of a clip."""

    clip: Clip
    output: Path
    frames: int
    computed: int
    """Frames that were enlarged; the others are duplicates, or were done by an earlier run."""
    resumed: int
    """Frames that an earlier run had done."""
    duration: Fraction
    """Seconds."""
    size: tuple[int, int]
    """(rows, cols) of the output's frames."""
    codec: str
    pixel_format: str
    """Of the output, in FFmpeg's names."""
    notes: tuple[str, ...]
    """What a person should know."""


def convert(
    source: Path,
    output: Path,
    enlarge: Callable[[Array], Array],
    size: Callable[[tuple[int, int]], tuple[int, int]],
    *,
    frames: int = 1,
    codec: str = "auto",
    crf: int | None = None,
    damaged: Damaged = "stop",
    interlaced: Interlaced = "deinterlace",
    start: Fraction | None = None,
    end: Fraction | None = None,
    segment_frames: int = SEGMENT_FRAMES,
    fingerprint: str = "",
    progress: Callable[[int, int], None] = lambda done, frames: None,
    rate: Fraction | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    clip: Clip | None = None,
) -> Converted:
    """Enlarge a clip; everything else in the file is kept where the output can hold it.

    source: a video file, a GIF, WebP or PNG animation, a folder of frames or a pattern of their names. output: a video
    file, a .gif or .webp, or a folder (a name without an ending, or a pattern such as out/%06d.png) for PNG frames.

    enlarge: (frames, rows, cols, channels) -> (rows, cols, channels) of `size`, uint8 or uint16 in kind; called in this
    thread, in the order of time, and not for duplicates. size: (rows, cols) of a frame -> those of the output. frames:
    odd length of the window. start, end: seconds; frames from `start` on and before `end`. fingerprint: whatever else
    decides the pixels; pieces of an earlier call with another one are thrown away. progress: hears how many frames
    are done, of how many. rate: frames a second of a folder. clip: the source, where it's open already. One process at
    a time writes an output. Raises UsageError, SourceError, OutputError; what is done stays for the next call.
    """
    clip = open_footage(source, rate=rate, max_megapixels=max_megapixels) if clip is None else clip
    _check_apart(clip, output)
    first, stop = stretch(clip, start, end)
    made = plan_output(clip, output, size(clip.size), first, stop, codec=codec, crf=crf, segment_frames=segment_frames)
    conversion = Conversion(clip, output, made, first, stop, frames, damaged, interlaced, segment_frames, fingerprint)
    return complete(conversion, lambda window, _: enlarge(window), progress=progress)


def complete(
    conversion: Conversion,
    enlarge: Enlarger,
    *,
    progress: Callable[[int, int], None] = lambda done, frames: None,
    seen: Callable[[Array], None] = lambda pixels: None,
    measured: Callable[[Sequence[Tally]], None] = lambda tallies: None,
    whole: Callable[[Path], None] = lambda part: None,
) -> Converted:
    """Make the pieces that aren't there yet, and the output of all of them.

    enlarge: called in this thread, in the order of time, and not for duplicates; the first frame of each
    `segment_frames` is measured. progress: hears how many frames are done, of how many. seen: hears each frame of the
    source that this call writes, (rows, cols, channels), in the order of time. measured: hears the figures of the
    measured frames, in the order of time, when all pieces are there. whole: hears of the finished file before it gets
    its name, as `written_whole` says; not of folders. Raises UsageError, SourceError, OutputError, the last also where
    others work on this output; what is done stays for the next call.
    """
    clip, made, timeline = conversion.clip, conversion.made, conversion.timeline
    _check(conversion)
    notes = dict.fromkeys([*clip.notes, *made.notes])
    if clip.broken:
        notes[f"{clip.broken}; what is there is taken"] = None
    with working_alone(conversion.output) as folder:
        with writing(conversion.output):
            notes |= dict.fromkeys(prepare(folder, conversion))
        found = _make_missing(folder, conversion, range(len(made.pieces)), enlarge, progress, seen)
        measured(found.tallies)
        notes |= dict.fromkeys((*_gathered(listed_notes(folder)), *made.finish(whole)))
        shutil.rmtree(folder, ignore_errors=True)
    return Converted(
        clip=clip,
        output=made.path,
        frames=len(timeline),
        computed=found.computed,
        resumed=found.resumed,
        duration=timeline.duration,
        size=made.encoding.size,
        codec=made.codec,
        pixel_format=made.pixel_format,
        notes=tuple(notes),
    )


def begin_pieces(conversion: Conversion) -> Pieces:
    """Find out what is missing, for many to make with `make_pieces`; `complete` ends it.

    Pieces of an earlier run that don't fit are thrown away; where they fit, others may be making some. Raises as
    `complete`.
    """
    _check(conversion)
    with suppress(OutputError), working_together(conversion.output) as folder:
        check_begun(folder, conversion)
        return _pieces(folder, conversion, ())
    with working_alone(conversion.output) as folder:
        with writing(conversion.output):
            notes = prepare(folder, conversion)
        return _pieces(folder, conversion, notes)


def _pieces(folder: Path, conversion: Conversion, notes: tuple[str, ...]) -> Pieces:
    numbers = range(len(conversion.made.pieces))
    ready = ready_pieces(folder, conversion, numbers)
    stretches = tuple(_stretches(conversion, [number for number in numbers if number not in ready]))
    resumed = sum(map(conversion.frames_of, ready))
    return Pieces(conversion.stop - conversion.first, resumed, stretches, notes)


def make_pieces(
    conversion: Conversion,
    begin: int,
    finish: int,
    enlarge: Enlarger,
    *,
    progress: Callable[[int, int], None] = lambda done, frames: None,
) -> Made:
    """Make those of pieces `begin` to before `finish` that aren't there, as one of many that do.

    They were begun by `begin_pieces`, of the same clip, by the same versions of everything. enlarge, progress: as
    `complete`; progress counts the frames of these pieces. Raises SourceError, and OutputError also where the output
    was begun in another way, or one process alone works on it; what is done stays.
    """
    with working_together(conversion.output) as folder:
        check_begun(folder, conversion)
        return _make_missing(folder, conversion, range(begin, finish), enlarge, progress, lambda pixels: None)


def begun(output: Path) -> bool:
    """Whether there are finished pieces of an unfinished output."""
    folder = segments_folder(output)
    return any((folder / piece.name).exists() for piece in listed_pieces(folder))


def forget(output: Path) -> None:
    """Throw away what an earlier run left of an unfinished output. Raises OutputError where another writes it now."""
    if segments_folder(output).exists():
        with working_alone(output) as folder:
            shutil.rmtree(folder, ignore_errors=True)


def _check(conversion: Conversion) -> None:
    clip = conversion.clip
    _check_apart(clip, conversion.output)
    if clip.broken and conversion.damaged == "stop":
        raise SourceError(f"{clip.path}: {clip.broken}; take what is there with --damaged repeat")


def _check_apart(clip: Clip, output: Path) -> None:
    if clip.path.exists() and output.exists() and output.samefile(clip.path):
        raise UsageError(f"{output}: the output is the source itself; choose another name with -o")


# ---- making pieces


def _make_missing(
    folder: Path,
    conversion: Conversion,
    numbers: range,
    enlarge: Enlarger,
    progress: Callable[[int, int], None],
    seen: Callable[[Array], None],
) -> Made:
    """Make those of some pieces that aren't there."""
    tallies = ready_pieces(folder, conversion, numbers)
    missing = [number for number in numbers if number not in tallies]
    total = sum(map(conversion.frames_of, numbers))
    resumed = done = total - sum(map(conversion.frames_of, missing))
    computed = 0
    heard: set[str] = set()

    def note(words: str) -> None:
        if words not in heard:
            heard.add(words)
            with writing(folder):
                list_note(folder, words)

    def enlarged(window: Array, tally: Tally | None) -> Array:
        nonlocal computed
        computed += 1
        return enlarge(window, tally)

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)
        raise_if_asked()

    progress(done, total)
    for run in _runs(missing):
        tallies |= _make_run(conversion, run, enlarged, step, seen, note)
    in_order = tuple(tally for _, tally in sorted(tallies.items()) if tally is not None)
    return Made(resumed, computed, in_order)


def _make_run(
    conversion: Conversion,
    run: range,
    enlarge: Enlarger,
    step: Callable[[], None],
    seen: Callable[[Array], None],
    note: Callable[[str], None],
) -> dict[int, Tally]:
    """Make pieces that follow each other; what was measured, by piece."""
    clip, frames, first = conversion.clip, conversion.frames, conversion.first
    each, stride = conversion.made.piece_frames, conversion.segment_frames
    low, high = run.start * each, run[-1] * each + conversion.frames_of(run[-1])
    # Reading begins where an unbroken run would have looked at a duplicate's first picture.
    before = low - low % stride
    # Neighbours may lie outside of what is written.
    around = max(0, first + before - margin(frames)), min(len(clip.timeline), first + high + margin(frames))
    decoded = read_footage(clip, *around, damaged=conversion.damaged, interlaced=conversion.interlaced, note=note)
    tallies: dict[int, Tally] = {}
    with _ahead(windows(decoded, frames, first=first + before)) as ready, _Encoder(conversion) as encoder:
        picture, pixels = None, None
        for window in ready:
            number = window.frame.number - first
            if number >= high:
                break
            begins = number % stride == 0
            if picture is None or not window.repeats or begins:
                picture, pixels = window, None
            if number < low:
                continue
            seen(window.frame.pixels)
            piece = number // each
            if pixels is None:
                tally = Tally() if begins else None
                pixels = enlarge(picture.stack(), tally)
                if tally is not None and tally.samples:
                    tallies[piece] = tally
            last = (number + 1) % each == 0 or number + 1 == high
            encoder.add(piece, pixels, tallies.get(piece), last=last)
            step()
    return tallies


def _gathered(words: list[str]) -> Iterator[str]:
    """The first few of many like notes, and how many more there are."""
    yield from words[:_TOLD]
    if len(words) > _TOLD:
        yield f"and {len(words) - _TOLD} more frames"


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Numbers in order, as ranges without a gap."""
    for _, same in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in same]
        yield range(run[0], run[-1] + 1)


def _stretches(conversion: Conversion, missing: Sequence[int]) -> Iterator[Stretch]:
    """What is missing, in parts of at most `segment_frames` frames, cut at its multiples."""
    each = max(1, conversion.segment_frames // conversion.made.piece_frames)
    for _, near in groupby(missing, lambda number: number // each):
        some = list(near)
        yield Stretch(some[0], some[-1] + 1, sum(map(conversion.frames_of, some)))


# ---- threads


@contextmanager
def _ahead(items: Generator[Item, None, None]) -> Iterator[Iterator[Item]]:
    """The same items, made in a thread of their own, a few before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="superfine-decode") as pool:
        coming: deque[Future[Item | None]] = deque(pool.submit(next, items, None) for _ in range(_AHEAD))

        def ready() -> Iterator[Item]:
            while (item := coming.popleft().result()) is not None:
                coming.append(pool.submit(next, items, None))
                yield item

        try:
            yield ready()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            items.close()


class _Encoder:
    """Writes pieces in a thread of its own; what goes wrong there is raised at the next call."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="superfine-encode")
        self._pending: deque[Future[None]] = deque()
        self._writer: PieceWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._settle(0)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            if self._writer is not None:
                self._writer.abandon()

    def add(self, piece: int, pixels: Array, tally: Tally | None, *, last: bool) -> None:
        """The next frame of a piece, which appears after its last; waits while the encoder has enough to do.

        tally: what was measured of the piece so far.
        """
        self._settle(_AHEAD)
        self._pending.append(self._pool.submit(self._write, piece, pixels, tally, last=last))

    def _settle(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().result()

    def _write(self, piece: int, pixels: Array, tally: Tally | None, *, last: bool) -> None:
        writer = self._writer = self._writer or self._conversion.made.writer(piece)
        writer.add(pixels)
        if last:
            self._writer = None
            writer.finish()
            path = self._conversion.made.pieces[piece]
            with writing(path):
                list_piece(path, self._conversion.frames_of(piece), tally)
