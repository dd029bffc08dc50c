"""Frames of a clip, each one, from any place on: decoded, deinterlaced, R'G'B', and what stands in for damaged ones.

Y'CbCr becomes R'G'B' by the matrix and range that the clip is tagged with; transfer and primaries stay as they are.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from superfine.clip import MATRICES, SURE_THREADS, Clip, Colour, decoded_frames, opened, shown_time
from superfine.errors import SourceError, UsageError

__all__ = [
    "DEINTERLACED",
    "Damaged",
    "Frame",
    "Interlaced",
    "checked_stretch",
    "conversion",
    "delivered",
    "packed_format",
    "planar_format",
    "read_frames",
]

Array = npt.NDArray[np.generic]

#: What to do with a frame that can't be decoded: stop, or show the one before it once more.
Damaged = Literal["stop", "repeat"]
#: What to do with frames that are two half pictures of different moments.
Interlaced = Literal["deinterlace", "refuse"]
#: What is said where they are deinterlaced.
DEINTERLACED: Final = "interlaced frames are deinterlaced, each into one"

_NO_PICTURE: Final = "there is no picture"
# Codecs with packets that show nothing, or that are dropped by intent.
_HIDING: Final = frozenset({"mpeg4", "msmpeg4v2", "msmpeg4v3", "vp8", "vp9", "av1"})
# Codecs without fields.
_PROGRESSIVE: Final = frozenset({"vp8", "vp9", "av1", "mjpeg", "apng", "png", "theora", "mpeg1video"})
# How exactly the conversion is done; planar RGB takes a seventh of the time of packed RGB with these.
_EXACT: Final = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a clip."""

    number: int
    time: Fraction
    """When it is shown, in seconds."""
    pixels: Array
    """(rows, cols, channels)."""
    repeated: bool = False
    """It couldn't be decoded; this is the one before it."""


def read_frames(
    clip: Clip,
    first: int = 0,
    stop: int | None = None,
    *,
    damaged: Damaged = "stop",
    interlaced: Interlaced = "deinterlace",
    note: Callable[[str], None] = lambda words: None,
) -> Iterator[Frame]:
    """Frames `first` to before `stop`, each of them, in order; the same pixels wherever reading begins.

    damaged: `stop` raises at a frame that can't be decoded rightly, and where the file breaks off; `repeat` shows the
    frame before it once more, so that sound stays in step. note: hears what was repeated. Raises SourceError.
    """
    stop = checked_stretch(clip, first, stop, damaged)
    if first == stop:
        return
    converter = _Converter(clip, interlaced, note)
    begin = max(0, first - converter.back)
    yield from delivered(clip, _converted(clip, converter, begin), first, stop, damaged=damaged, note=note)


def checked_stretch(clip: Clip, first: int, stop: int | None, damaged: Damaged) -> int:
    """The number after the last frame that is asked for. Raises UsageError; SourceError where the file is broken."""
    stop = len(clip.timeline) if stop is None else stop
    if not 0 <= first <= stop <= len(clip.timeline):
        raise UsageError(f"{clip.path}: frames {first} to {stop} of {len(clip.timeline)}; there are no others")
    if clip.broken and damaged == "stop" and stop == len(clip.timeline):
        raise SourceError(f"{clip.path}: {clip.broken}; take what is there with --damaged repeat")
    return stop


def delivered(
    clip: Clip,
    pictures: Generator[tuple[int, Array | None, str], None, None],
    first: int,
    stop: int,
    *,
    damaged: Damaged,
    note: Callable[[str], None],
) -> Iterator[Frame]:
    """Frames `first` to before `stop` of what a reader gives: each number in order, with pixels or with None and why.

    What comes before `first` only stands in for a lost one. Raises SourceError where `damaged` says so.
    """
    lost: list[tuple[int, str]] = []
    number = -1
    with closing(pictures):
        for number, pixels, reason in _stood_in(pictures):
            if number < first:
                continue
            if reason and damaged == "stop":
                raise SourceError(
                    f"{clip.path}: the frame at {shown_time(clip.timeline.at(number))} can't be decoded ({reason});"
                    " show the one before it instead with --damaged repeat"
                )
            if reason is None:
                _tell(clip, lost, note)
                lost = []
            else:
                lost.append((number, reason))
            yield Frame(number, clip.timeline.at(number), pixels, repeated=reason is not None)
            if number + 1 >= stop:
                break
    _tell(clip, lost, note)
    if number < first:
        raise SourceError(
            f"{clip.path}: none of its frames from {shown_time(clip.timeline.at(first))} on can be decoded"
        )


def _stood_in(pictures: Iterator[tuple[int, Array | None, str]]) -> Iterator[tuple[int, Array, str | None]]:
    """Each number with pixels, and why they aren't its own, or None where they are."""
    last: Array | None = None
    leading: list[tuple[int, str]] = []  # what is before the first picture shows it too
    for number, pixels, reason in pictures:
        if pixels is not None:
            for before, why in leading:
                yield before, pixels, why
            leading, last = [], pixels
            yield number, pixels, None
        elif last is None:
            leading.append((number, reason))
        else:
            yield number, last, reason


def _tell(clip: Clip, lost: Sequence[tuple[int, str]], note: Callable[[str], None]) -> None:
    """Say which frames in a row had no picture of their own."""
    if not lost:
        return
    begin, end = (shown_time(clip.timeline.at(number)) for number, _ in (lost[0], lost[-1]))
    which = f"the frame at {begin}" if len(lost) == 1 else f"the {len(lost)} frames from {begin} to {end}"
    reason = next((reason for _, reason in lost if reason), "")
    note(f"{which} can't be decoded ({reason or _NO_PICTURE}); a neighbour stands in")


def _numbered(clip: Clip, begin: int) -> Iterator[tuple[int, Any, str]]:
    """Each number with its frame, or with None and the decoder's reason, which may be empty.

    From `begin` on, or from a key frame before it.
    """
    numbers = {time: number for number, time in enumerate(clip.timeline.times)}
    for start in dict.fromkeys((begin if clip.timeline.known else 0, 0)):
        with opened(clip.path) as container:
            stream = container.streams[clip.stream]
            waiting = None if start and _sought(container, stream, clip.timeline.times[start]) else 0
            count, reason = 0, ""
            for frame, refusal in decoded_frames(container, stream, alpha=clip.layered):
                reason = refusal or reason
                number = numbers.get(frame.pts, -1) if frame is not None and clip.timeline.known else count
                count += 1
                if frame is None or number < (waiting or 0):
                    continue
                if waiting is None:
                    if number > begin or (frame.is_corrupt and number == begin):
                        break  # the key frame isn't enough: once more, from the beginning of the file
                    if frame.is_corrupt:
                        continue
                    waiting = number
                for missing in range(waiting, number):
                    yield missing, None, reason
                yield number, frame, ""
                waiting, reason = number + 1, ""
            else:
                if waiting is not None:
                    for missing in range(waiting, len(clip.timeline)):
                        yield missing, None, reason
                    return


def _trusted(frames: Iterator[tuple[int, Any, str]], *, silent: bool) -> Iterator[tuple[int, Any, str]]:
    """The same without frames that are damaged, or made of damaged ones, which all are up to the next key frame.

    silent: packets without a picture are usual in the middle; else they are damaged, whatever the decoder said.
    """
    damaged, begun = False, False
    for number, frame, reason in frames:
        begun = begun or frame is not None
        if frame is None:
            why = reason or (_NO_PICTURE if begun and not silent else "")
            damaged = damaged or bool(why)
            yield number, None, why
        elif frame.is_corrupt:
            damaged = True
            yield number, None, "damaged"
        else:
            damaged = damaged and not frame.key_frame
            yield number, None if damaged else frame, "made of a damaged one" if damaged else ""


def _sought(container: Any, stream: Any, time: int) -> bool:
    """Go to the key frame before; not every container can."""
    import av

    try:
        _prepare(container, stream)
        container.seek(time, stream=stream)
    except (OSError, av.FFmpegError):
        container.seek(0)
        return False
    return True


def _prepare(container: Any, stream: Any) -> None:
    """Show the decoder the beginning: x264 says there, and only there, which of its old errors are to be undone."""
    import av

    stream.codec_context.thread_type = SURE_THREADS
    packet = next(container.demux(stream), None)
    if packet is not None and packet.size:
        with suppress(av.FFmpegError):
            stream.codec_context.decode(packet)


def _converted(clip: Clip, converter: "_Converter", begin: int) -> Generator[tuple[int, Array | None, str], None, None]:
    """Each number from `begin` on with pixels instead of a frame; where that one is lost, first one from before it."""
    lost: deque[tuple[int, str]] = deque()
    spare: tuple[int, Any] | None = None
    for number, frame, reason in _trusted(_numbered(clip, begin), silent=clip.codec in _HIDING):
        if number < begin:
            spare = (number, frame) if frame is not None else spare
            continue
        made: list[tuple[int, Array]] = []
        if frame is not None:
            made = list(converter.push(number, frame))
        else:
            made = list(converter.push(*spare)) if spare is not None else []
            lost.append((number, reason))
        spare = None
        for done, pixels in made:
            yield from _taken(lost, done)
            yield done, pixels, ""
        if not converter.pending:  # else what is lost waits for frames before it that are still on their way
            yield from _taken(lost)
    for done, pixels in converter.rest():
        yield from _taken(lost, done)
        yield done, pixels, ""
    yield from _taken(lost)


def _taken(lost: deque[tuple[int, str]], stop: float = np.inf) -> Iterator[tuple[int, None, str]]:
    """What is lost before number `stop`, taken out."""
    while lost and lost[0][0] < stop:
        number, reason = lost.popleft()
        yield number, None, reason


class _Converter:
    """Decoded frames -> pixels, deinterlaced where they need it."""

    def __init__(self, clip: Clip, interlaced: Interlaced, note: Callable[[str], None]) -> None:
        self._clip = clip
        self._interlaced = interlaced
        self._note = note
        # Any frame of such a codec may be interlaced, whatever the first one is; others pass the filter untouched.
        woven = clip.codec not in _PROGRESSIVE and clip.pixel_format.startswith(("yuv4", "yuvj4", "yuva4"))
        self._deinterlaces = interlaced == "deinterlace" and (clip.interlaced or woven)
        self.back = int(self._deinterlaces)
        """How many frames back the deinterlacer looks."""
        self._format = ""
        self._graph: Any = None
        self.pending = 0
        """Frames that went in and didn't come out yet."""

    def push(self, number: int, frame: Any) -> Iterator[tuple[int, Array]]:
        """One frame in, as many out as there are. Raises SourceError where it doesn't fit the ones before."""
        clip = self._clip
        where = f"{clip.path}: from {shown_time(clip.timeline.at(number))} on"
        if (frame.height, frame.width) != clip.size:
            raise SourceError(
                f"{where} frames are {frame.width} x {frame.height} instead of {clip.size[1]} x {clip.size[0]};"
                " cut the file there"
            )
        alpha = any(component.is_alpha for component in frame.format.components)
        if alpha and not clip.alpha and frame.format.name != clip.pixel_format:
            raise SourceError(f"{where} frames have alpha, and before they had none; cut the file there")
        if frame.interlaced_frame and not self._deinterlaces:
            raise SourceError(f"{where} frames are interlaced; have it mended with --interlaced deinterlace")
        if frame.interlaced_frame:
            self._note(DEINTERLACED)
        if frame.format.name != self._format:
            yield from self.rest()
            self._format = frame.format.name
            self._graph = conversion(
                clip.size,
                frame.format.name,
                planar_format(clip.shape[2], clip.bits),
                clip.colour,
                to_rgb=True,
                deinterlace=self._deinterlaces,
            )
        frame.pts, frame.time_base = number, Fraction(1)
        self._graph.push(frame)
        self.pending += 1
        yield from self._pull()

    def rest(self) -> Iterator[tuple[int, Array]]:
        """What is still on its way."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
            self._graph, self._format = None, ""

    def _pull(self) -> Iterator[tuple[int, Array]]:
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return
            self.pending -= 1
            pixels: Array = frame.to_ndarray()
            yield int(frame.pts * frame.time_base), pixels[..., None] if pixels.ndim == 2 else pixels


def planar_format(channels: int, bits: int) -> str:
    """What FFmpeg calls our pixels: grey, RGB or RGBA in planes of 8 or 16 bits."""
    name = {1: "gray", 3: "gbrp", 4: "gbrap"}[channels]
    return name if bits <= 8 else f"{name}16le"


def packed_format(channels: int, bits: int) -> str:
    """The same, pixel after pixel."""
    deep = bits > 8
    return {1: "gray16le" if deep else "gray", 3: "rgb48le" if deep else "rgb24", 4: "rgba64le" if deep else "rgba"}[
        channels
    ]


def conversion(
    size: tuple[int, int], given: str, wanted: str, colour: Colour, *, to_rgb: bool, deinterlace: bool = False
) -> Any:
    """A filter graph of FFmpeg's that converts between Y'CbCr and R'G'B' of one size, as `colour` says.

    8 bits are right to half a level; more bits to 0.4 % of white, in both ways alike, so that nothing is lost on the
    way there and back.
    """
    import av.filter

    rows, cols = size
    level = "pc" if colour.full else "tv"
    options = f"flags={_EXACT}"
    if colour.matrix in MATRICES and "gray" not in (given, wanted) and "gray16le" not in (given, wanted):
        way = ("in", "out") if to_rgb else ("out", "in")
        options += f":{way[0]}_color_matrix={MATRICES[colour.matrix]}:{way[0]}_range={level}:{way[1]}_range=pc"
        chroma = av.VideoFormat(given if to_rgb else wanted, 16, 16)
        if chroma.chroma_width() < 16:
            options += f":{way[0]}_h_chr_pos={128 if colour.centred else 0}"
        if chroma.chroma_height() < 16:
            options += f":{way[0]}_v_chr_pos=128"
    graph = av.filter.Graph()
    nodes = [graph.add("buffer", f"video_size={cols}x{rows}:pix_fmt={given}:time_base=1/1")]
    if deinterlace:
        nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
    nodes += [graph.add("scale", options), graph.add("format", wanted), graph.add("buffersink")]
    graph.link_nodes(*nodes)
    graph.configure()
    return graph
