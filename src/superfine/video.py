"""The whole way of a clip: file -> frames -> windows -> enlarged frames -> segments -> file.

One thread decodes ahead, this one enlarges, one encodes. What is finished lies in segments beside the output until all
are there; a run that was killed goes on from the last one.
"""

import hashlib
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.clip import Clip, stretch
from superfine.errors import SourceError, UsageError
from superfine.footage import open_footage, read_footage
from superfine.frames import Damaged, Interlaced
from superfine.image import MAX_MEGAPIXELS
from superfine.interrupt import raise_if_asked
from superfine.journal import stamp
from superfine.outputs import (
    DONE,
    LOCK,
    PLAN,
    SEGMENT_FRAMES,
    Output,
    PieceWriter,
    plan_output,
    segments_folder,
    working_alone,
)
from superfine.scenes import margin, windows
from superfine.segments import writing

__all__ = ["Converted", "begun", "convert", "forget"]

Array = npt.NDArray[np.generic]
Item = TypeVar("Item")

# Windows that wait for the network, and frames that wait for the encoder.
_AHEAD: Final = 2
# Notes about single frames that are told one by one.
_TOLD: Final = 5


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
    seen: Callable[[Array], None] = lambda pixels: None,
    whole: Callable[[Path], None] = lambda part: None,
) -> Converted:
    """Enlarge a clip; everything else in the file is kept where the output can hold it.

    source: a video file, a GIF, WebP or PNG animation, a folder of frames or a pattern of their names. output: a video
    file, a .gif or .webp, or a folder (a name without an ending, or a pattern such as out/%06d.png) for PNG frames.

    enlarge: (frames, rows, cols, channels) -> (rows, cols, channels) of `size`, uint8 or uint16 in kind; called in this
    thread, in the order of time, and not for duplicates. size: (rows, cols) of a frame -> those of the output. frames:
    odd length of the window. start, end: seconds; frames from `start` on and before `end`. fingerprint: whatever else
    decides the pixels; segments of an earlier call with another one are thrown away. progress: hears how many frames
    are done, of how many. rate: frames a second of a folder. clip: the source, where it's open already. seen: hears
    each frame of the source that this call writes, (rows, cols, channels), in the order of time. whole: hears of the
    finished file before it gets its name, as `written_whole` says; not of folders. One process at a time writes an
    output. Raises UsageError, SourceError, OutputError; what is done stays for the next call.
    """
    clip = open_footage(source, rate=rate, max_megapixels=max_megapixels) if clip is None else clip
    if source.exists() and output.exists() and output.samefile(source):
        raise UsageError(f"{output}: the output is the source itself; choose another name with -o")
    first, stop = stretch(clip, start, end)
    timeline = clip.timeline.part(first, stop)
    made = plan_output(clip, output, size(clip.size), first, stop, codec=codec, crf=crf, segment_frames=segment_frames)
    notes = dict.fromkeys([*clip.notes, *made.notes])
    if clip.broken:
        if damaged == "stop":
            raise SourceError(f"{clip.path}: {clip.broken}; take what is there with --damaged repeat")
        notes[f"{clip.broken}; what is there is taken"] = None
    heard: dict[str, None] = {}
    with working_alone(output) as folder:
        with writing(output):
            lost = _prepare(folder, _plan(clip, made, (first, stop, segment_frames), frames, interlaced, fingerprint))
        if lost:
            notes[
                f"{lost} finished frames of an earlier run don't fit: the source or an option has changed; they are"
                " made anew"
            ] = None
        listed = _listed(folder)
        there = [path.name in listed and listed[path.name][1:] == _facts(path) for path in made.pieces]
        lengths = [min(made.piece_frames, len(timeline) - at) for at in range(0, len(timeline), made.piece_frames)]
        resumed = done = sum(length for length, ready in zip(lengths, there, strict=True) if ready)
        computed = 0
        progress(done, len(timeline))
        for begin, finish in _missing(there):
            low, high = begin * made.piece_frames, min(len(timeline), finish * made.piece_frames)
            # Reading begins where an unbroken run would have looked at a duplicate's first picture.
            before = low - low % segment_frames
            # Neighbours may lie outside of what is written.
            around = max(0, first + before - margin(frames)), min(len(clip.timeline), first + high + margin(frames))
            decoded = read_footage(
                clip, *around, damaged=damaged, interlaced=interlaced, note=lambda words: heard.setdefault(words, None)
            )
            with _ahead(windows(decoded, frames, first=first + before)) as ready, _Encoder(made) as encoder:
                picture, pixels = None, None
                for window in ready:
                    number = window.frame.number - first
                    if number >= high:
                        break
                    if picture is None or not window.repeats or number % segment_frames == 0:
                        picture, pixels = window, None
                    if number < low:
                        continue
                    seen(window.frame.pixels)
                    if pixels is None:
                        pixels = enlarge(picture.stack())
                        computed += 1
                    last = (number + 1) % made.piece_frames == 0 or number + 1 == high
                    encoder.add(number // made.piece_frames, pixels, last=last)
                    done += 1
                    progress(done, len(timeline))
                    raise_if_asked()
        notes.update(_gathered(heard))
        notes.update(dict.fromkeys(made.finish(whole)))
        shutil.rmtree(folder, ignore_errors=True)
    return Converted(
        clip=clip,
        output=made.path,
        frames=len(timeline),
        computed=computed,
        resumed=resumed,
        duration=timeline.duration,
        size=made.encoding.size,
        codec=made.codec,
        pixel_format=made.pixel_format,
        notes=tuple(notes),
    )


def begun(output: Path) -> bool:
    """Whether there are finished pieces of an unfinished output."""
    folder = segments_folder(output)
    return any((folder / name).exists() for name in _listed(folder))


def forget(output: Path) -> None:
    """Throw away what an earlier run left of an unfinished output. Raises OutputError where another writes it now."""
    if segments_folder(output).exists():
        with working_alone(output) as folder:
            shutil.rmtree(folder, ignore_errors=True)


def _gathered(heard: dict[str, None]) -> dict[str, None]:
    """The first few of many like notes, and how many more there are."""
    words = list(heard)
    more = {f"and {len(words) - _TOLD} more frames": None} if len(words) > _TOLD else {}
    return dict.fromkeys(words[:_TOLD]) | more


# ---- what is done


def _plan(
    clip: Clip,
    made: Output,
    stretch: tuple[int, int, int],
    frames: int,
    interlaced: Interlaced,
    fingerprint: str,
) -> str:
    """Everything that decides the pieces, as text."""
    import av

    sources = [[path.name, *stamp(path)] for path in clip.files or (clip.path,)]
    return json.dumps(
        {
            "source": _digest(sources),
            "pieces": _digest([path.name for path in made.pieces]),
            "frames": stretch,
            "window": frames,
            "interlaced": interlaced if clip.interlaced else "",
            "encoding": asdict(made.encoding),
            "fingerprint": fingerprint,
            "libraries": {name: list(version) for name, version in av.library_versions.items()},
        },
        default=str,
        sort_keys=True,
        indent=1,
    )


def _digest(names: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _prepare(folder: Path, plan: str) -> int:
    """Throw away the pieces of another plan; how many frames they were."""
    written = folder / PLAN
    with suppress(OSError, UnicodeDecodeError):
        if written.read_text(encoding="utf-8") == plan:
            return 0
    lost = sum(frames for name, (frames, *_) in _listed(folder).items() if (folder / name).exists())
    for entry in folder.iterdir():
        if entry.name != LOCK:
            entry.unlink()
    with written_whole(written) as part:
        part.write_text(plan, encoding="utf-8")
    return lost


def _list(piece: Path, frames: int) -> None:
    """Note that a piece is finished, and what it is like."""
    with (piece.parent / DONE).open("a", encoding="utf-8") as file:
        # A crash may have broken the line before off.
        file.write(f"\n{json.dumps([piece.name, frames, *_facts(piece)])}\n")


def _listed(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Of each finished piece its frames, bytes, and digest; a line that a crash has spoilt counts for nothing."""
    found: dict[str, tuple[int, int, str]] = {}
    with suppress(OSError):
        for line in (folder / DONE).read_bytes().splitlines():
            with suppress(ValueError, TypeError):
                name, frames, size, digest = json.loads(line)
                found[str(name)] = int(frames), int(size), str(digest)
    return found


def _facts(piece: Path) -> tuple[int, str]:
    """Bytes and digest; of what can't be read, those of nothing."""
    try:
        with piece.open("rb") as file:
            return piece.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return -1, ""


def _missing(there: list[bool]) -> Iterator[tuple[int, int]]:
    """Stretches of segments that aren't there: each its first, and the one after its last."""
    begin: int | None = None
    for number, ready in enumerate([*there, True]):
        if not ready and begin is None:
            begin = number
        elif ready and begin is not None:
            yield begin, number
            begin = None


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
    """Writes segments in a thread of its own; what goes wrong there is raised at the next call."""

    def __init__(self, made: Output) -> None:
        self._made = made
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="superfine-encode")
        self._pending: deque[Future[None]] = deque()
        self._writers: dict[int, PieceWriter] = {}
        self._frames: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._settle(0)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            for writer in self._writers.values():
                writer.abandon()

    def add(self, piece: int, pixels: Array, *, last: bool) -> None:
        """The next frame of a piece, which appears after its last; waits while the encoder has enough to do."""
        self._settle(_AHEAD)
        self._pending.append(self._pool.submit(self._write, piece, pixels, last=last))

    def _settle(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().result()

    def _write(self, piece: int, pixels: Array, *, last: bool) -> None:
        if piece not in self._writers:
            self._writers[piece] = self._made.writer(piece)
        self._writers[piece].add(pixels)
        self._frames[piece] += 1
        if last:
            self._writers.pop(piece).finish()
            path = self._made.pieces[piece]
            with writing(path):
                _list(path, self._frames.pop(piece))
