"""Whatever shows pictures in time, opened and read alike: video files, GIF and WebP animations, folders of frames."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

from superfine.animation import animation_pictures, open_animation, pages_of
from superfine.clip import Clip, Kind, is_still, open_clip, opened
from superfine.encoding import CONTAINERS
from superfine.errors import SourceError, UsageError
from superfine.frames import Damaged, Frame, Interlaced, checked_stretch, delivered, read_frames
from superfine.image import MAX_MEGAPIXELS
from superfine.pngchunks import animation_control
from superfine.stills import is_pattern, open_stills, still_pictures

__all__ = ["VIDEO_SUFFIXES", "kind_of", "open_footage", "read_footage"]

#: What is said to be a video by its name, so that it is told what is wrong with it.
VIDEO_SUFFIXES: Final = frozenset(
    {
        *(*CONTAINERS, ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".mxf"),
        *(".ogv", ".ts", ".vob", ".wmv", ".y4m"),
    }
)
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_STILL_BRANDS: Final = (b"avif", b"avis", b"mif1", b"heic", b"heix", b"hevc", b"heim", b"heis", b"msf1")
# By so many bytes formats are known.
_MAGIC: Final = 64


def kind_of(source: Path) -> Literal[Kind, ""]:
    """What a source is, judged by the beginning of the file; nothing for single pictures and whatever else there is.

    A folder is `frames`, and so is a name with a number's place in it, `shots/%05d.png`. A file with a video's ending
    is `video` even if it can't be read: opening it says why.
    """
    if source.is_dir() or is_pattern(source):
        return "frames"
    if source.exists() and not source.is_file():
        return ""
    with suppress(OSError, SourceError):
        head = _head(source)
        if _is_animation(source, head):
            return "animation"
        if not _is_picture(head) and _is_video(source):
            return "video"
    return "video" if source.suffix.lower() in VIDEO_SUFFIXES else ""


def open_footage(source: Path, *, rate: Fraction | None = None, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """Read the facts of a video file, an animation, or a folder of frames.

    rate: frames a second of a folder, 25 unless given. Raises UsageError, SourceError, TooLargeError.
    """
    kind = kind_of(source)
    if kind == "frames":
        return open_stills(source, rate=rate, max_megapixels=max_megapixels)
    if rate is not None:
        raise UsageError(f"{source}: says itself when its frames are shown; --rate is for folders of frames")
    head = _head(source)
    if head.startswith((b"GIF8", b"RIFF")) and _is_picture(head):
        return open_animation(source, max_megapixels=max_megapixels)
    clip = open_clip(source, max_megapixels=max_megapixels)
    return replace(clip, kind="animation", loop=animation_control(source)[1]) if clip.codec == "apng" else clip


def read_footage(
    clip: Clip,
    first: int = 0,
    stop: int | None = None,
    *,
    damaged: Damaged = "stop",
    interlaced: Interlaced = "deinterlace",
    note: Callable[[str], None] = lambda words: None,
) -> Iterator[Frame]:
    """Frames `first` to before `stop` of any clip, as `read_frames` gives those of a video file. Raises SourceError."""
    if clip.files or clip.container in ("gif", "webp"):
        stop = checked_stretch(clip, first, stop, damaged)
        pictures = still_pictures if clip.files else animation_pictures
        if first < stop:
            yield from delivered(clip, pictures(clip, first), first, stop, damaged=damaged, note=note)
    else:
        yield from read_frames(clip, first, stop, damaged=damaged, interlaced=interlaced, note=note)


def _head(source: Path) -> bytes:
    with suppress(OSError), source.open("rb") as file:
        return file.read(_MAGIC)
    return b""


def _is_picture(head: bytes) -> bool:
    """Whether a file begins as one of the formats of single pictures, or of GIF, WebP and APNG."""
    if head[4:8] == b"ftyp":
        return head[8:12] in _STILL_BRANDS
    begins = (b"\xff\xd8\xff", _PNG, b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")
    return head.startswith(begins) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_animation(source: Path, head: bytes) -> bool:
    if head.startswith(_PNG):
        return animation_control(source)[0] > 1
    return _is_picture(head) and head.startswith((b"GIF8", b"RIFF")) and pages_of(source) > 1


def _is_video(source: Path) -> bool:
    with opened(source) as container:
        return any(not is_still(int(stream.disposition)) for stream in container.streams.video)
