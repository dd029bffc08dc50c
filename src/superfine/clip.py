"""A video file's facts, judged from the file and never from its pixels.

FFmpeg's libraries read it, by PyAV; this file decides what is believed. A clip is read through once, undecoded, when
it is opened: then its number of frames, their timestamps and where it breaks off are known before any work begins.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from superfine.errors import SourceError, TooLargeError, UsageError
from superfine.image import MAX_MEGAPIXELS

__all__ = [
    "MATRICES",
    "NO_MASTERING",
    "SURE_THREADS",
    "Chapter",
    "Clip",
    "Colour",
    "Kind",
    "Mastering",
    "Timeline",
    "Track",
    "check_megapixels",
    "decoded_frames",
    "is_still",
    "open_clip",
    "opened",
    "shown_time",
    "stretch",
]

Array = npt.NDArray[np.generic]

# Containers that strangers may send; without playlists, which could name other files or the network.
_CONTAINERS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,mxf,nut,dv,ivf,rm,wtv,"
    "yuv4mpegpipe,h264,hevc,m4v,obu,av1,apng,swf,nsv,gxf,mpegtsraw"
)
_RANGES: Final = {1: "limited", 2: "full"}
_UNSPECIFIED: Final = 2
#: Matrices by their number in ITU-T H.273, as FFmpeg's scaler calls them.
MATRICES: Final = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
_WORDS: Final = {1: "BT.709", 6: "BT.601"}
# Taller than PAL is taken for high definition where the file doesn't say.
_STANDARD_ROWS: Final = 576
# H.273 field orders that are not progressive, as FFmpeg counts them.
_FIELDS: Final = frozenset({2, 3, 4, 5})
# Codecs whose chroma samples lie between the columns.
_CENTRED: Final = frozenset({"mjpeg", "mpeg1video"})
# A file that ends this much before its own header says so is cut off.
_SHORT_SECONDS: Final = 0.5
# What the reader of Matroska says where the file ends in the middle of something.
_ENDED: Final = "File ended prematurely"
#: How decoders share their work: not at all. In threads they are faster, and whether a damaged frame is told as such
#: then depends on which of them comes first.
SURE_THREADS: Final = "NONE"
# Ten fractions and two flags.
_DISPLAY_NUMBERS: Final = 22
# Complaints of a decoder that is being emptied, before it is given up.
_MOST_REFUSED: Final = 64
# Decoders that know alpha, of codecs whose usual decoder doesn't.
_ALPHA_DECODERS: Final = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class Colour:
    """What the numbers of a clip mean, in ITU-T H.273's own numbers; 2 is unspecified."""

    matrix: int
    """1 BT.709, 5 and 6 BT.601, 9 BT.2020, 0 RGB."""
    full: bool
    """0 to 255, else 16 to 235 (240 for colour)."""
    primaries: int
    transfer: int
    centred: bool = False
    """Chroma samples lie between the columns, as in JPEG and MPEG-1; else on the left one, as in later codecs."""


@dataclass(frozen=True)
class Mastering:
    """The display that an HDR clip was made on, and how bright it gets. Source: SMPTE ST 2086, CTA-861.3."""

    primaries: tuple[Fraction, ...] = ()
    """x and y of red, green, blue and white; empty where it isn't said, as below."""
    luminance: tuple[Fraction, ...] = ()
    """Least and most, in candela per square metre."""
    light: tuple[int, ...] = ()
    """The brightest pixel, and the brightest frame's mean, in candela per square metre."""


#: Nothing is said of it.
NO_MASTERING: Final = Mastering()


@dataclass(frozen=True)
class Track:
    """A stream of the file besides its pictures."""

    index: int
    kind: str
    """audio, video, subtitle, data, attachment."""
    codec: str
    metadata: dict[str, str]
    disposition: int

    @property
    def language(self) -> str:
        """ISO 639, or nothing."""
        return self.metadata.get("language", "")

    def __str__(self) -> str:
        words = (self.kind, str(self.index), f"({', '.join(filter(None, (self.codec, self.language)))})")
        return " ".join(words)


@dataclass(frozen=True)
class Chapter:
    """A named stretch, in seconds."""

    start: Fraction
    end: Fraction
    metadata: dict[str, str]


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown, in units of `unit` seconds."""

    times: tuple[int, ...]
    """Rising, one for each frame."""
    last: int
    """How long the last frame is shown; at least 1."""
    unit: Fraction
    known: bool
    """The file says it for each frame; else they are counted."""

    def __len__(self) -> int:
        return len(self.times)

    def at(self, number: int) -> Fraction:
        """When frame `number` is shown, in seconds."""
        return self.times[number] * self.unit

    def part(self, first: int, stop: int) -> "Timeline":
        """Of frames `first` to before `stop`, at the same times; the last of them is shown until the next one was."""
        last = self.last if stop == len(self) else self.times[stop] - self.times[stop - 1]
        return replace(self, times=self.times[first:stop], last=last)

    @property
    def duration(self) -> Fraction:
        """From the first frame's beginning to the last one's end, in seconds."""
        return (self.times[-1] + self.last - self.times[0]) * self.unit if self.times else Fraction(0)

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        return len(self) / self.duration


#: A video file, a file of pictures with delays, a folder of pictures.
Kind = Literal["video", "animation", "frames"]


@dataclass(frozen=True)
class Clip:
    """Pictures in time, opened: their facts; `read_footage` gives the frames, of a video file `read_frames` too."""

    path: Path
    container: str
    stream: int
    """Which stream holds the pictures."""
    codec: str
    pixel_format: str
    """As FFmpeg names it, such as yuv420p10le."""
    size: tuple[int, int]
    """(rows, cols) as stored."""
    bits: int
    alpha: bool
    grey: bool
    colour: Colour
    timeline: Timeline
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel by its height."""
    rotation: int = 0
    """Degrees counter-clockwise by which the picture is to be turned to be seen."""
    display_matrix: tuple[int, ...] = ()
    """The nine numbers of which `rotation` is read; empty where there are none."""
    interlaced: bool = False
    layered: bool = False
    """Alpha is a second picture in the same packets, which only some decoders see."""
    tracks: tuple[Track, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    stream_metadata: dict[str, str] = field(default_factory=dict)
    disposition: int = 0
    broken: str = ""
    """Where and how the file breaks off; empty when it's whole."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the file is read."""
    kind: Kind = "video"
    files: tuple[Path, ...] = ()
    """Of a folder: its frames, in order."""
    loop: int = 1
    """How often it is shown; 0 without end."""
    lossless: bool = False
    """The file is known to have kept its pixels exactly."""
    profile: bytes = b""
    """ICC profile of pictures."""
    mastering: Mastering = NO_MASTERING

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, cols, channels) of each frame, alpha among the channels."""
        return (*self.size, (1 if self.grey else 3) + self.alpha)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, or uint16 for more than 8 bits: then white is 65535 however many bits the file has."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)


def open_clip(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """Read a clip's facts; the file is read through once, and its first frame decoded.

    Raises SourceError where it isn't a video, TooLargeError where frames have more than `max_megapixels`.
    """
    with opened(path) as container:
        stream = _pictures(path, container)
        packets = _Packets(stream)
        failure = packets.read(container)
        if not packets.main:
            raise SourceError(f"{path}: holds no frames; there is nothing to enlarge")
        timeline = _timeline(path, packets.main, stream)
        first = _first_frame(path, alpha=packets.alpha)
        rows, cols = first.height, first.width
        check_megapixels(path, (rows, cols), max_megapixels)
        colour, taken = _colour(path, first, stream.codec_context)
        interlaced = bool(first.interlaced_frame) or stream.codec_context.field_order in _FIELDS
        matrix = _display_matrix(first)
        tracks = tuple(_track(other) for other in container.streams if other.index != stream.index)
        moving = [track for track in tracks if track.kind == "video" and not is_still(track.disposition)]
        notes = [*taken]
        if not timeline.known:
            notes.append("the file doesn't say when each frame is shown; they are counted")
        if moving:
            notes.append(f"{len(moving) + 1} video streams; the first is enlarged, the others are copied as they are")
        return Clip(
            path=path,
            container=container.format.name,
            stream=stream.index,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            size=(rows, cols),
            bits=max(component.bits for component in first.format.components),
            alpha=any(component.is_alpha for component in first.format.components),
            grey=first.format.name.startswith("gray"),
            colour=colour,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
            rotation=int(first.rotation),
            display_matrix=matrix,
            interlaced=interlaced,
            layered=packets.alpha,
            timeline=timeline,
            tracks=tracks,
            chapters=_chapters(container),
            metadata=dict(container.metadata),
            stream_metadata=dict(stream.metadata),
            disposition=int(stream.disposition),
            broken=_broken(container, stream, packets, timeline, failure),
            notes=tuple(notes),
            mastering=_mastering(first),
            lossless=bool(stream.codec_context.codec.lossless and not stream.codec_context.codec.lossy),
        )


def check_megapixels(path: Path, size: tuple[int, int], most: float) -> None:
    """Raise TooLargeError for frames of more than `most` megapixels; size: (rows, cols)."""
    rows, cols = size
    if rows * cols > most * 1e6:
        raise TooLargeError(
            f"{path}: frames of {cols} x {rows} are {rows * cols / 1e6:,.4g} megapixels, over the limit of"
            f" {most:,.4g}; raise it with --max-megapixels {np.ceil(rows * cols / 1e6):.0f}"
        )


def stretch(clip: Clip, start: Fraction | None, end: Fraction | None) -> tuple[int, int]:
    """Numbers of the first frame that is shown from `start` on, in seconds, and of the one after the last before `end`.

    Raises UsageError where there is none.
    """
    times = [clip.timeline.at(number) for number in range(len(clip.timeline))]
    first = 0 if start is None else bisect_left(times, start)
    stop = len(times) if end is None else bisect_left(times, end)
    if first >= stop:
        beginning, last = shown_time(times[0]), shown_time(times[-1])
        raise UsageError(f"{clip.path}: no frames in that stretch; they are shown from {beginning} to {last}")
    return first, stop


def shown_time(seconds: Fraction) -> str:
    """A moment as people read it: 1:02:03.456."""
    milliseconds = round(seconds * 1000)
    sign, milliseconds = ("-" if milliseconds < 0 else ""), abs(milliseconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{sign}{head}:{rest // 1000:02}.{rest % 1000:03}"


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """PyAV's view of a file. Raises SourceError where it can't be read as a video."""
    import av

    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: is empty; there is nothing to read")
        # `file:` and the lists keep names and playlists from opening anything else.
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        container = av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        words = "isn't a video, or is damaged or cut off" if isinstance(error, av.FFmpegError) else "can't be read"
        raise SourceError(f"{path}: {words}: {reason}") from error
    with container:
        yield container


# ---- facts


class _Packets:
    """What is learnt from all packets of a file without decoding them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.main: list[tuple[int | None, int | None, int]] = []
        """(pts, dts, duration) of each packet that should give a picture."""
        self.alpha = False
        """There are layers of alpha beside the pictures."""
        self.end = Fraction(0)
        """When the last packet of any stream ends, in seconds."""
        self.cut = False
        """A packet is shorter than its header says."""

    def read(self, container: Any) -> str:
        """All of them; returns why the file could not be read to its end, or nothing."""
        import av
        from av import logging

        level, once = logging.get_level(), logging.get_skip_repeated()
        logging.set_level(logging.ERROR)  # what FFmpeg skips it only complains of
        logging.set_skip_repeated(False)
        try:
            with logging.Capture() as complaints:
                self._read(container)
                return _hole(complaints)
        except av.FFmpegError as error:
            return str(error.strerror)
        finally:
            logging.set_level(level)
            logging.set_skip_repeated(once)

    def _read(self, container: Any) -> None:
        layered = any(key.lower() == "alpha_mode" for key in self._stream.metadata)
        hides = self._stream.codec_context.name == "vp8"
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                self.end = max(self.end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index != self._stream.index:
                continue
            self.cut = bool(packet.is_corrupt)
            if packet.is_discard or (hides and not bytes(packet)[0] & 0x10):  # RFC 6386, 9.1: show_frame
                continue
            self.main.append((packet.pts, packet.dts, packet.duration or 0))
            self.alpha = self.alpha or (layered and packet.has_sidedata("matroska_block_additional"))


def _hole(complaints: Sequence[tuple[int, str, str]]) -> str:
    """What the reader of Matroska couldn't make out and skipped, or nothing; other readers complain of trifles."""
    skipped = (words.strip().rstrip(".") for _, reader, words in complaints if reader.startswith("matroska"))
    return next(skipped, "")


def _pictures(path: Path, container: Any) -> Any:
    """The stream to enlarge: the first that isn't a cover."""
    for stream in container.streams.video:
        if not is_still(int(stream.disposition)):
            if stream.codec_context is None:
                raise SourceError(f"{path}: its pictures are coded in a way that PyAV can't decode; convert it first")
            return stream
    raise SourceError(f"{path}: holds no moving pictures; for sound alone there is nothing to enlarge")


def is_still(disposition: int) -> bool:
    """Whether a video stream is a cover or a strip of thumbnails."""
    from av.stream import Disposition

    return bool(disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _timeline(path: Path, packets: Sequence[tuple[int | None, int | None, int]], stream: Any) -> Timeline:
    """Presentation times from the packets; decoding times where those are missing, else counted."""
    unit = Fraction(stream.time_base)
    shown = sorted(pts for pts, _, _ in packets if pts is not None)
    decoded = sorted(dts for _, dts, _ in packets if dts is not None)
    rate = stream.guessed_rate or stream.average_rate
    durations = {pts: duration for pts, _, duration in packets}
    for times, known in ((shown, True), (decoded, False)):
        if len(times) == len(packets) == len(set(times)):
            last = durations.get(times[-1]) or (times[-1] - times[-2] if len(times) > 1 else 0)
            last = last or (round(1 / (rate * unit)) if rate else 0)
            return Timeline(tuple(times), max(1, last), unit, known)
    if not rate:
        raise SourceError(f"{path}: neither says when its frames are shown nor how many there are a second")
    return Timeline(tuple(range(len(packets))), 1, 1 / Fraction(rate), known=False)


def _first_frame(path: Path, *, alpha: bool) -> Any:
    with opened(path) as container:
        for frame, _ in decoded_frames(container, _pictures(path, container), alpha=alpha):
            if frame is not None:
                return frame
    raise SourceError(f"{path}: none of its frames can be decoded")


def _colour(path: Path, frame: Any, context: Any) -> tuple[Colour, list[str]]:
    """What the levels mean, and what had to be taken for granted."""
    notes: list[str] = []
    matrix, level = int(frame.colorspace), int(frame.color_range) or int(context.color_range)
    matrix = int(context.colorspace) if matrix == _UNSPECIFIED else matrix
    grey, rgb = frame.format.name.startswith("gray"), frame.format.is_rgb or frame.format.name == "pal8"
    if rgb:
        matrix, level = 0, 2
    elif not grey:
        if matrix == _UNSPECIFIED:
            matrix = 1 if frame.height > _STANDARD_ROWS else 6
            notes.append(f"no colour matrix in the file; taken for {_WORDS[matrix]} by its height of {frame.height}")
        if frame.format.name.startswith("yuvj"):
            level = 2
        if level not in _RANGES:
            level = 1
            notes.append("no colour range in the file; taken for limited")
        if matrix not in MATRICES:
            raise SourceError(
                f"{path}: its colour matrix is number {matrix} of H.273, which superfine can't convert; convert the"
                " file to BT.709 first"
            )
    centred = context.name in _CENTRED
    return Colour(matrix, level == 2, int(frame.color_primaries), int(frame.color_trc), centred), notes


def _display_matrix(frame: Any) -> tuple[int, ...]:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(int(value) for value in np.frombuffer(data, np.int32))
    return ()


def _mastering(frame: Any) -> Mastering:
    """Of FFmpeg's AVMasteringDisplayMetadata and AVContentLightMetadata."""
    wanted = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    found = {
        data.type.name: np.frombuffer(data, np.int32).tolist() for data in frame.side_data if data.type.name in wanted
    }
    display, light = found.get("MASTERING_DISPLAY_METADATA", []), found.get("CONTENT_LIGHT_LEVEL", [])
    if len(display) < _DISPLAY_NUMBERS:
        return Mastering(light=tuple(light[:2]))
    values = [Fraction(one, other or 1) for one, other in zip(display[:20:2], display[1:20:2], strict=True)]
    return Mastering(
        primaries=tuple(values[:8]) if display[20] else (),
        luminance=tuple(values[8:]) if display[21] else (),
        light=tuple(light[:2]),
    )


def _track(stream: Any) -> Track:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else (getattr(stream, "name", None) or "")
    return Track(stream.index, stream.type, codec, dict(stream.metadata), int(stream.disposition))


def _chapters(container: Any) -> tuple[Chapter, ...]:
    return tuple(
        Chapter(entry["start"] * entry["time_base"], entry["end"] * entry["time_base"], dict(entry["metadata"]))
        for entry in container.chapters()
    )


def _broken(container: Any, stream: Any, packets: _Packets, timeline: Timeline, failure: str) -> str:
    """Where and how a file breaks off, or nothing."""
    end = timeline.at(len(timeline) - 1) + timeline.last * timeline.unit
    where = f"breaks off at {shown_time(end)}"
    if failure and failure != _ENDED and "matroska" in container.format.name and len(timeline) > 1:
        steps = [later - time for time, later in zip(timeline.times, timeline.times[1:], strict=False)]
        widest = max(range(len(steps)), key=steps.__getitem__)
        return f"is damaged, perhaps after {shown_time(timeline.at(widest))}, where frames are missing: {failure}"
    if failure:
        return f"{where}: {failure}"
    if packets.cut:
        return where
    if "mp4" in container.format.name and stream.frames > len(timeline) and _unread(stream) > len(timeline):
        return f"{where}, after {len(timeline)} of {stream.frames} frames"
    promised = Fraction(container.duration, 1_000_000) if container.duration else Fraction(0)
    if "matroska" in container.format.name and promised - packets.end > _SHORT_SECONDS:
        return f"{where}, of {shown_time(promised)}"
    return ""


def _unread(stream: Any) -> int:
    """How many packets the index of the file lists, edits taken into account."""
    return sum(not entry.is_discard for entry in stream.index_entries)


# ---- decoding


def decoded_frames(container: Any, stream: Any, *, alpha: bool) -> Iterator[tuple[Any, str]]:
    """Frames as the decoder gives them, and (None, why) where it refuses a packet."""
    import av

    name = stream.codec_context.name
    decoder: Any = av.CodecContext.create(_ALPHA_DECODERS[name], "r") if alpha else stream.codec_context
    if not decoder.is_open:
        decoder.thread_type = SURE_THREADS
    packets = container.demux(stream)
    refused = 0
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file ends here; `open_clip` has noted it
            packet = None
        try:
            frames = decoder.decode(packet if packet is not None and packet.size else None)
        except EOFError:
            return
        except av.FFmpegError as error:
            if packet is None:
                refused += 1
                if refused > _MOST_REFUSED:
                    return
            yield None, str(error.strerror)
            continue
        for frame in frames:
            yield frame, ""
        if packet is None and not frames:
            return
