"""The whole way of a video: file -> frames -> windows -> enlarged frames -> segments -> file.

One thread decodes ahead, this one enlarges, one encodes. What is finished lies in segments beside the output until all
are there; a run that was killed goes on from the last one.
"""

import json
import shutil
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.clip import Clip, Timeline, open_clip, shown_time
from superfine.encoding import Encoding, plan_encoding
from superfine.errors import SourceError, UsageError
from superfine.frames import Damaged, Interlaced, read_frames
from superfine.interrupt import raise_if_asked
from superfine.joining import join
from superfine.journal import stamp
from superfine.scenes import margin, windows
from superfine.segments import SegmentWriter, writing

__all__ = ["SEGMENT_FRAMES", "Converted", "convert", "segments_folder"]

Array = npt.NDArray[np.generic]
Item = TypeVar("Item")

#: Frames in a segment: what a killed run loses at most.
SEGMENT_FRAMES: Final = 120
_PLAN: Final = "plan.json"
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
) -> Converted:
    """Enlarge a video; everything else in the file is kept where the output's container can hold it.

    enlarge: (frames, rows, cols, channels) -> (rows, cols, channels) of `size`, uint8 or uint16 in kind; called in this
    thread, in the order of time, and not for duplicates. size: (rows, cols) of a frame -> those of the output. frames:
    odd length of the window. start, end: seconds; frames from `start` on and before `end`. fingerprint: whatever else
    decides the pixels; segments of an earlier call with another one are thrown away. progress: hears how many frames
    are done, of how many. Raises UsageError, SourceError, OutputError; what is done stays for the next call.
    """
    clip = open_clip(source)
    if source.exists() and output.exists() and output.samefile(source):
        raise UsageError(f"{output}: the output is the source itself; choose another name with -o")
    first, stop = _stretch(clip, start, end)
    timeline = _part(clip.timeline, first, stop)
    target = size(clip.size)
    encoding, said = plan_encoding(clip, output, target, codec=codec, crf=crf)
    notes = dict.fromkeys([*clip.notes, *said])
    if clip.broken:
        if damaged == "stop":
            raise SourceError(f"{clip.path}: {clip.broken}; take what is there with --damaged repeat")
        notes[f"{clip.broken}; what is there is taken"] = None
    folder = segments_folder(output)
    plan = _plan(clip, encoding, first, stop, frames, segment_frames, interlaced, fingerprint)
    with writing(output):
        _prepare(folder, plan)
    paths = [folder / f"{number:06}.mkv" for number in range(-(-len(timeline) // segment_frames))]
    there = [path.exists() for path in paths]
    lengths = [min(segment_frames, len(timeline) - number * segment_frames) for number in range(len(paths))]
    done = sum(length for length, ready in zip(lengths, there, strict=True) if ready)
    progress(done, len(timeline))
    resumed = done
    heard: dict[str, None] = {}
    computed = 0
    for begin, finish in _missing(there):
        low, high = first + begin * segment_frames, min(stop, first + finish * segment_frames)
        # Neighbours may lie outside of what is written.
        around = max(0, low - margin(frames)), min(len(clip.timeline), high + margin(frames))
        decoded = read_frames(
            clip, *around, damaged=damaged, interlaced=interlaced, note=lambda words: heard.setdefault(words, None)
        )
        with _ahead(windows(decoded, frames, first=low)) as ready, _Encoder(encoding) as encoder:
            made: Array | None = None
            for window in ready:
                number = window.frame.number - first
                if number >= high - first:
                    break
                if made is None or not window.repeats or number % segment_frames == 0:
                    made = enlarge(window.stack())
                    computed += 1
                last = (number + 1) % segment_frames == 0 or number + 1 == high - first
                encoder.add(paths[number // segment_frames], made, last=last)
                done += 1
                progress(done, len(timeline))
                raise_if_asked()
    notes.update(_gathered(heard))
    notes.update(dict.fromkeys(join(clip, paths, output, timeline, alpha=clip.alpha)))
    shutil.rmtree(folder, ignore_errors=True)
    return Converted(
        clip=clip,
        output=output,
        frames=len(timeline),
        computed=computed,
        resumed=resumed,
        duration=timeline.duration,
        size=encoding.size,
        codec=encoding.codec.name,
        pixel_format=encoding.pixel_format,
        notes=tuple(notes),
    )


def segments_folder(output: Path) -> Path:
    """Where the segments of an unfinished output lie."""
    return output.with_name(f".{output.name}.segments")


def _stretch(clip: Clip, start: Fraction | None, end: Fraction | None) -> tuple[int, int]:
    """Numbers of the first frame and of the one after the last."""
    seconds = [time * clip.timeline.unit for time in clip.timeline.times]
    first = 0 if start is None else bisect_left(seconds, start)
    stop = len(seconds) if end is None else bisect_left(seconds, end)
    if first >= stop:
        beginning, last = shown_time(seconds[0]), shown_time(seconds[-1])
        raise UsageError(f"{clip.path}: no frames in that stretch; they are shown from {beginning} to {last}")
    return first, stop


def _part(timeline: Timeline, first: int, stop: int) -> Timeline:
    last = timeline.last if stop == len(timeline) else timeline.times[stop] - timeline.times[stop - 1]
    return replace(timeline, times=timeline.times[first:stop], last=last)


def _gathered(heard: dict[str, None]) -> dict[str, None]:
    """The first few of many like notes, and how many more there are."""
    words = list(heard)
    more = {f"and {len(words) - _TOLD} more frames": None} if len(words) > _TOLD else {}
    return dict.fromkeys(words[:_TOLD]) | more


# ---- what is done


def _plan(
    clip: Clip,
    encoding: Encoding,
    first: int,
    stop: int,
    frames: int,
    segment_frames: int,
    interlaced: Interlaced,
    fingerprint: str,
) -> str:
    """Everything that decides the segments, as text."""
    import av

    return json.dumps(
        {
            "source": [clip.path.name, *stamp(clip.path)],
            "frames": [first, stop, segment_frames],
            "window": frames,
            "interlaced": interlaced if clip.interlaced else "",
            "encoding": asdict(encoding),
            "fingerprint": fingerprint,
            "libraries": {name: list(version) for name, version in av.library_versions.items()},
        },
        default=str,
        sort_keys=True,
        indent=1,
    )


def _prepare(folder: Path, plan: str) -> None:
    """The folder of segments; those of another plan are thrown away."""
    written = folder / _PLAN
    with suppress(OSError, UnicodeDecodeError):
        if written.read_text(encoding="utf-8") == plan:
            return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with written_whole(written) as part:
        part.write_text(plan, encoding="utf-8")


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

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="superfine-encode")
        self._pending: deque[Future[None]] = deque()
        self._writers: dict[Path, SegmentWriter] = {}

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

    def add(self, path: Path, pixels: Array, *, last: bool) -> None:
        """The next frame of a segment, which appears after its last; waits while the encoder has enough to do."""
        self._settle(_AHEAD)
        self._pending.append(self._pool.submit(self._write, path, pixels, last=last))

    def _settle(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().result()

    def _write(self, path: Path, pixels: Array, *, last: bool) -> None:
        if path not in self._writers:
            self._writers[path] = SegmentWriter(path, self._encoding)
        self._writers[path].add(pixels)
        if last:
            self._writers.pop(path).finish()
