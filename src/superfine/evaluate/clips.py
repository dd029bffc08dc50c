"""Clips -> frames to judge by, each with what a method may see of the frames around it; a few are held at a time.

A frame is made small by MATLAB's bicubic, as a picture is, and windows of small frames are those of `scenes`, as
`upscale` makes them. Only the large frames that are judged, or that a judged one is held against, are kept until then.
Small frames may go through a codec, all of the stretch in one go, as clips that are to be enlarged have been.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import tee
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.resample import matlab_resize
from superfine.clip import Clip, shown_time
from superfine.clip import stretch as frames_within
from superfine.encoding import CODECS, plan_encoding
from superfine.errors import SourceError, UsageError
from superfine.evaluate.pairs import as_bytes
from superfine.footage import kind_of, open_footage, read_footage
from superfine.frames import Frame
from superfine.route import MAX_SCALE
from superfine.scenes import margin, windows
from superfine.segments import SegmentWriter

__all__ = ["ClipSet", "Moment", "Stretch", "is_clip", "open_clip_set"]

Bytes = npt.NDArray[np.uint8]

_RULE: Final = "matlab-bicubic"
# Frames that are coded before and after the stretch, whatever windows methods want: so all are judged on the same.
_CODED_AROUND: Final = 32


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Which frames of a clip are judged."""

    start: Fraction | None = None
    """Seconds; frames shown from then on, by default from the first."""
    end: Fraction | None = None
    """Seconds; frames shown before, by default up to the last."""
    every: int = 1
    """Each so many frames one; the one before it is enlarged too, for the flicker between them."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"--every {self.every} is under 1; 1 judges all frames, 10 each tenth")


class Moment(NamedTuple):
    """A frame of a clip that methods enlarge."""

    number: int
    name: str
    """In words, with the time."""
    large: Bytes
    """(scale*h, scale*w, 3): the true frame."""
    windows: Mapping[int, Bytes]
    """Number of frames -> (frames, h, w, 3), in the order of time, this one in the middle."""
    judged: bool
    """Else it is there for the flicker of the next one."""
    repeats: bool
    """The small frame is the one before, to the last bit."""


@dataclass(frozen=True, eq=False)
class ClipSet:
    """A clip to judge by; nothing is decoded until `moments`."""

    name: str
    scale: int
    clip: Clip
    judged: tuple[int, ...]
    """Numbers of frames, rising."""
    rule: str
    """How LR comes about and which frames are judged, in words."""
    notes: tuple[str, ...] = ()
    crf: int | None = None
    """Small frames are coded in H.264 of this constant quality; None: they aren't coded."""
    reduction: str = field(default=_RULE, repr=False)

    def __len__(self) -> int:
        """How many frames each method enlarges."""
        return len(self._needed)

    @property
    def _needed(self) -> frozenset[int]:
        judged = frozenset(self.judged)
        return judged | {number - 1 for number in judged if number > self.judged[0]}

    def moments(self, counts: Sequence[int], *, note: Callable[[str], None] = lambda words: None) -> Iterator[Moment]:
        """The judged frames and those before them, in the order of time.

        counts: the lengths of the windows that methods want, odd. Large frames are cropped at the right and the bottom
        to a multiple of the scale. Frames that can't be decoded are left out; note: hears of them. Holds as many large
        frames as the widest window has neighbours to wait for. Raises SourceError, UsageError.
        """
        if not self.judged:
            return
        wanted = sorted({1, *counts})
        coded = self.crf is not None
        reach = max(*(margin(count) for count in wanted), _CODED_AROUND if coded else 0)
        alone = wanted == [1] and not coded
        first, stop = min(self._needed), self.judged[-1] + 1
        around = (first, stop) if alone else (max(0, first - reach), min(len(self.clip.timeline), stop + reach))
        waiting: dict[int, Bytes] = {}
        feeds = tee(self._small(*around, waiting, note, alone=alone), len(wanted))
        sights = [windows(feed, count, first=first) for feed, count in zip(feeds, wanted, strict=True)]
        for seen in zip(*sights, strict=True):
            frame = seen[0].frame
            if frame.number >= stop:
                return
            large = waiting.pop(frame.number, None)
            if large is None:
                continue
            stacks = {count: np.asarray(window.stack(), np.uint8) for count, window in zip(wanted, seen, strict=True)}
            judged = frame.number in self.judged
            yield Moment(frame.number, self._named(frame.number), large, stacks, judged, seen[0].repeats)

    def only(self, name: str) -> "ClipSet":
        """The same with the frame of that name alone; without any where there is none, or where frames are coded.

        Coded alone it would be another.
        """
        named = tuple(number for number in self.judged if self._named(number) == name and self.crf is None)
        return replace(self, judged=named)

    def _named(self, number: int) -> str:
        return f"frame {number}, {shown_time(self.clip.timeline.at(number))}"

    def _small(
        self, first: int, stop: int, waiting: dict[int, Bytes], note: Callable[[str], None], *, alone: bool
    ) -> Iterator[Frame]:
        """The frames, made small; what is needed of the large ones is left in `waiting`."""
        needed = self._needed
        with tempfile.TemporaryDirectory(prefix="superfine-") as folder:
            coded = None if self.crf is None else self._coded(first, stop, Path(folder) / "small.mkv", self.crf)
            for frame in read_footage(self.clip, first, stop, damaged="repeat", note=note):
                if alone and frame.number not in needed:
                    continue
                large = self._cropped(frame)
                if frame.number in needed and not frame.repeated:
                    waiting[frame.number] = large
                yield replace(frame, pixels=self._reduced(large) if coded is None else next(coded))

    def _cropped(self, frame: Frame) -> Bytes:
        rows, cols = (side // self.scale * self.scale for side in self.clip.size)
        return np.ascontiguousarray(as_bytes(frame.pixels, alpha=self.clip.alpha)[:rows, :cols])

    def _reduced(self, large: Bytes) -> Bytes:
        return matlab_resize(large, (large.shape[0] // self.scale, large.shape[1] // self.scale))

    def _coded(self, first: int, stop: int, path: Path, crf: int) -> Iterator[Bytes]:
        """The small frames, written to a file by x264 and read again."""
        size = (self.clip.size[0] // self.scale, self.clip.size[1] // self.scale)
        plain = replace(self.clip, alpha=False, grey=False, bits=8, pixel_format="yuv420p")
        encoding, _ = plan_encoding(plain, path, size, codec="h264", crf=crf)
        writer = SegmentWriter(path, encoding)
        try:
            for frame in read_footage(self.clip, first, stop, damaged="repeat"):
                writer.add(self._reduced(self._cropped(frame)))
        except BaseException:
            writer.abandon()
            raise
        writer.finish()
        for frame in read_footage(open_footage(path)):
            yield as_bytes(frame.pixels[: size[0], : size[1]], alpha=False)


def is_clip(source: Path) -> bool:
    """Whether a path is a clip by itself: a video, an animation, numbered frames such as `in/%05d.png`; no folder."""
    return not source.is_dir() and kind_of(source) != ""


def open_clip_set(source: Path, scale: int, *, stretch: Stretch | None = None, reduction: str = _RULE) -> ClipSet:
    """A video, an animation or a folder of frames as a clip to judge by, for one scale.

    reduction: `matlab-bicubic`, or `h264-28` and the like, which then codes the small frames by x264 of that CRF.
    Raises SourceError where it can't be read or its frames are smaller than the scale, UsageError for a scale of 1 (LR
    would be HR), another rule, or a stretch without frames.
    """
    stretch = stretch or Stretch()
    crf = _crf_of(reduction, source)
    if not 2 <= scale <= MAX_SCALE:
        why = "at scale 1 LR would be HR itself" if scale == 1 else f"--scale {scale} is outside 2 to {MAX_SCALE}"
        raise UsageError(f"{source}: {why}; judge a clip at --scale 2 or more")
    clip = open_footage(source)
    if min(clip.size) < scale:
        raise SourceError(f"{source}: {clip.size[1]} x {clip.size[0]} leaves nothing at scale {scale}")
    first, stop = frames_within(clip, stretch.start, stretch.end)
    judged = tuple(range(first, stop, stretch.every))
    last = judged[-1]
    rule = _RULE if crf is None else f"{_RULE} + x264 CRF {crf}"
    rule += f", frames {first}-{last}" + (f" by {stretch.every}" if stretch.every > 1 else "")
    notes = [*clip.notes, *([clip.broken] if clip.broken else [])]
    return ClipSet(source.name, scale, clip, judged, rule, tuple(notes), crf, reduction)


def _crf_of(reduction: str, source: Path) -> int | None:
    """The quality that a rule codes small frames in, None where it doesn't."""
    if reduction == _RULE:
        return None
    codec = CODECS["h264"]
    if (found := re.fullmatch(r"h264-(\d+)", reduction)) is None:
        raise UsageError(
            f"{source}: is a clip, whose frames are made small by {_RULE}, or by h264-28 and the like, which codes them"
            f" too; leave --lr {reduction} out, or judge its frames as a folder of pictures"
        )
    if not codec.best_crf <= int(found[1]) <= codec.worst_crf:
        raise UsageError(f"--lr {reduction}: H.264 takes {codec.best_crf} (best) to {codec.worst_crf}, as in h264-28")
    return int(found[1])
