"""What a clip becomes: a video file, a GIF or WebP animation, or a folder of frames.

Each is made in pieces that survive a crash, beside the output: segments of packets, or single frames. What can't be
kept on the way is said.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from superfine.animation import ANIMATIONS, FOREVER, LONGEST_PILE, write_animation
from superfine.clip import Clip, Kind, Timeline, decoded_frames, opened
from superfine.encoding import CODECS, CONTAINERS, Encoding, check_coding, plan_encoding
from superfine.errors import OutputError, ShapeError, UsageError
from superfine.frames import packed_format
from superfine.image import Picture, open_picture, plain_picture, save_picture
from superfine.joining import join, kept_metadata
from superfine.segments import SegmentWriter, writing
from superfine.stills import SRGB, frame_name, has_place, is_pattern

__all__ = [
    "LOCK",
    "PLAN",
    "SEGMENT_FRAMES",
    "Output",
    "PieceWriter",
    "check_pattern",
    "check_wishes",
    "frames_folder",
    "make_folder",
    "output_kind",
    "plan_output",
    "segments_folder",
    "turned",
    "working_alone",
    "working_together",
]

Array = npt.NDArray[np.generic]

#: What the plan of an unfinished output is called, and the file that is held by whoever works on it.
PLAN: Final = "plan.json"
LOCK: Final = "lock"
#: Frames in a segment: what a killed run loses at most.
SEGMENT_FRAMES: Final = 120

# How the names of pieces end, and of nothing else beside them.
_PIECES: Final = (".mkv", ".png")


class PieceWriter(Protocol):
    """Takes the frames of one piece, in order; its file appears with `finish`, or never."""

    def add(self, pixels: Array) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...


class Output(Protocol):
    """How a clip is written."""

    path: Path
    """The file, or the folder."""
    encoding: Encoding
    """Of the pieces."""
    codec: str
    pixel_format: str
    """Of the output, in FFmpeg's names."""
    notes: tuple[str, ...]
    pieces: list[Path]
    """The files that are made one after the other."""
    piece_frames: int
    """How many frames each of them has; the last may have fewer."""

    def writer(self, number: int) -> PieceWriter:
        """Make a piece."""

    def finish(self, whole: Callable[[Path], None]) -> tuple[str, ...]:
        """Make the output of all pieces; returns what couldn't be kept. Raises OutputError, and nothing is replaced.

        whole: hears of a finished file before it gets its name, as `written_whole` says; a folder has none.
        """


def output_kind(output: Path) -> Literal[Kind, ""]:
    """What a name asks for: nothing where superfine writes no clips of that name."""
    if is_pattern(output) or output.is_dir() or not output.suffix:
        return "frames"
    suffix = output.suffix.lower()
    return "video" if suffix in CONTAINERS else "animation" if suffix in ANIMATIONS else ""


def frames_folder(output: Path) -> Path:
    """The folder that an output of frames names, by itself or by a pattern in it."""
    return output.parent if is_pattern(output) else output


def segments_folder(output: Path) -> Path:
    """Where the pieces of an unfinished output lie."""
    place = frames_folder(output) if output_kind(output) == "frames" else output
    return place.with_name(f".{place.name}.segments")


def check_pattern(output: Path) -> None:
    """Raise UsageError where a name with a number's place in it is that of frames which superfine doesn't write."""
    if has_place(output) and output.suffix.lower() != ".png":
        raise UsageError(f"{output}: frames are written as PNG; choose a name such as %06d.png")


def plan_output(
    clip: Clip,
    output: Path,
    size: tuple[int, int],
    first: int,
    stop: int,
    *,
    codec: str,
    crf: int | None,
    segment_frames: int = SEGMENT_FRAMES,
) -> Output:
    """How the clip's frames `first` to before `stop` are written; nothing is made yet. Raises UsageError.

    size: (rows, cols) of the enlarged frames. codec, crf: of a video file.
    """
    check_wishes(output, codec, crf)
    timeline = clip.timeline.part(first, stop)
    kind = output_kind(output)
    if kind == "animation":
        return _AnimationFile(clip, output, size, timeline, segment_frames)
    if kind == "frames":
        return _FramesFolder(clip, output, size, first, stop)
    encoding, said = plan_encoding(clip, output, size, codec=codec, crf=crf)
    return _VideoFile(clip, output, encoding, said, timeline, segment_frames)


def check_wishes(output: Path, codec: str, crf: int | None) -> None:
    """Raise UsageError where no clip can be written to an output of that name as `codec` and `crf` ask for."""
    if output_kind(output) not in ("animation", "frames"):
        check_coding(output, codec, crf)
    elif codec != "auto" or crf is not None:
        wish = f"--codec {codec}" if codec != "auto" else f"--crf {crf}"
        raise UsageError(f"{output}: {wish} is for video files ({' '.join(CONTAINERS)})")


def make_folder(folder: Path, output: Path) -> None:
    """Make the folder that `output` goes into, and those above it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output}: its folder can't be made: {error.strerror or error}; choose another place with -o"
        ) from error


@contextmanager
def working_alone(output: Path) -> Iterator[Path]:
    """Give the folder of the pieces, which no other process works in meanwhile. Raises OutputError where one does."""
    folder = segments_folder(output)
    above = [place for place in folder.parents if not place.exists()]
    try:
        make_folder(folder.parent, output)
        handle = None
        while handle is None:
            with writing(folder):
                folder.mkdir(exist_ok=True)
            handle = _locked(folder / LOCK, output, "LOCK_EX")
        try:
            yield folder
        except BaseException:
            with suppress(OSError):
                if not any(entry.suffix.lower() in _PIECES for entry in folder.iterdir()):
                    shutil.rmtree(folder)  # there is nothing to go on from
            raise
        finally:
            os.close(handle)
    except BaseException:
        with suppress(OSError):  # one that isn't empty
            for place in above:
                place.rmdir()
        raise


@contextmanager
def working_together(output: Path) -> Iterator[Path]:
    """Give the folder of the pieces, in which others may work as well. Raises OutputError.

    It has to be there; nobody has it alone meanwhile.
    """
    folder = segments_folder(output)
    handle = None
    while handle is None:
        if not folder.is_dir():
            raise OutputError(f"{output}: its pieces aren't begun, or are finished; run the same again")
        handle = _locked(folder / LOCK, output, "LOCK_SH")
    try:
        yield folder
    finally:
        os.close(handle)


def _locked(lock: Path, output: Path, kind: Literal["LOCK_EX", "LOCK_SH"]) -> int | None:
    """Hold the lock alone or with others; None where who had it has just removed it."""
    with writing(lock):
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return None
    try:
        import fcntl

        fcntl.flock(handle, getattr(fcntl, kind) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(
            f"{output}: another process is writing it at this moment; wait for it, or choose another name with -o"
        ) from error
    except (ImportError, OSError):  # Windows has no such locks, and some network disks
        return handle
    with suppress(OSError):
        if os.path.samestat(os.fstat(handle), lock.stat()):
            return handle
    os.close(handle)
    return None


# ---- a video file


class _VideoFile:
    def __init__(
        self,
        clip: Clip,
        output: Path,
        encoding: Encoding,
        said: Sequence[str],
        timeline: Timeline,
        segment_frames: int,
    ) -> None:
        self._clip, self.path, self._timeline = clip, output, timeline
        self.encoding = encoding
        self.codec, self.pixel_format = encoding.codec.name, encoding.pixel_format
        self.notes = (*said, *_unsaid(clip, CONTAINERS[output.suffix.lower()].name))
        self.pieces, self.piece_frames = _segments(output, timeline, segment_frames), segment_frames

    def writer(self, number: int) -> PieceWriter:
        return SegmentWriter(self.pieces[number], self.encoding)

    def finish(self, whole: Callable[[Path], None]) -> tuple[str, ...]:
        return join(self._clip, self.pieces, self.path, self._timeline, whole=whole)


def _segments(output: Path, timeline: Timeline, segment_frames: int) -> list[Path]:
    folder = segments_folder(output)
    return [folder / f"{number:06}.mkv" for number in range(-(-len(timeline) // segment_frames))]


def _unsaid(clip: Clip, name: str) -> Iterator[str]:
    """What a video file doesn't say of an animation or of pictures."""
    if clip.kind == "animation" and clip.loop != 1:
        times = "without end" if clip.loop == FOREVER else f"{clip.loop} times"
        yield f"is shown {times}, which {name} doesn't say; it is shown once"
    if clip.profile:
        yield f"the colour profile isn't kept: {name} holds none; colours are tagged as sRGB"


# ---- an animation


class _AnimationFile:
    def __init__(
        self, clip: Clip, output: Path, size: tuple[int, int], timeline: Timeline, segment_frames: int
    ) -> None:
        self._clip, self.path, self._timeline = clip, output, timeline
        self._kind = ANIMATIONS[output.suffix.lower()]
        self.pieces, self.piece_frames = _segments(output, timeline, segment_frames), segment_frames
        if max(size) > self._kind.longest:
            raise UsageError(
                f"{output}: {size[1]} x {size[0]} is more than {self._kind.name}'s {self._kind.longest} pixels a side"
            )
        most = LONGEST_PILE // max(size)
        if len(timeline) > most:
            raise UsageError(
                f"{output}: {len(timeline):,} frames of {size[1]} x {size[0]} are more than the {most:,} that superfine"
                f" writes into one {self._kind.name}; take a stretch with --start and --end, or write a video"
            )
        self.encoding = Encoding(
            codec=CODECS["ffv1"],
            crf=None,
            shape=(*size, clip.shape[2]),
            bits=clip.bits,
            size=size,
            pixel_format="bgra" if clip.alpha else "gray" if clip.grey else "bgr0",
            colour=replace(SRGB, centred=False),
            pixel_aspect=Fraction(1),
            rate=clip.timeline.rate.limit_denominator(100_000),
        )
        self.codec = self._kind.format
        lossy = "yuva420p" if clip.alpha else "yuv420p"
        self.pixel_format = "pal8" if self.codec == "gif" else "argb" if clip.lossless else lossy
        self.notes = tuple(self._said())

    def _said(self) -> Iterator[str]:
        clip, kind = self._clip, self._kind
        if clip.bits > 8:
            yield f"{clip.bits} bits a sample become 8 in {kind.name}"
        if kind.format == "gif":
            yield "at most 256 colours a frame, as GIF has them"
            if clip.alpha and clip.codec != "gif":
                yield "what is half transparent becomes clear or opaque, as GIF has it"
            if clip.profile:
                yield "the colour profile isn't kept: GIF holds none"
        yield from _left_out(clip, kind.name)

    def writer(self, number: int) -> PieceWriter:
        return SegmentWriter(self.pieces[number], self.encoding)

    def finish(self, whole: Callable[[Path], None]) -> tuple[str, ...]:
        clip = self._clip
        shape = turned(np.broadcast_to(np.uint8(0), self.encoding.shape), clip.display_matrix).shape
        return write_animation(
            self.path,
            (
                turned(pixels, clip.display_matrix)
                for piece in self.pieces
                for pixels in _stored(piece, alpha=clip.alpha)
            ),
            (shape[0], shape[1], 4 if clip.alpha else 3),
            self._timeline,
            loop=clip.loop if clip.kind == "animation" else FOREVER,
            whole=whole,
            lossless=clip.lossless,
            profile=clip.profile,
        )


def _stored(piece: Path, *, alpha: bool) -> Iterator[Array]:
    """The frames of a lossless segment: RGB, or RGBA."""
    with opened(piece) as container:
        for frame, refusal in decoded_frames(container, container.streams.video[0], alpha=False):
            if frame is None:
                raise OutputError(f"{piece}: can't be read again ({refusal}); delete its folder and run the same again")
            pixels: Array = frame.to_ndarray(format="rgba" if alpha else "rgb24")
            yield pixels


# ---- a folder


class _FramesFolder:
    piece_frames = 1

    def __init__(self, clip: Clip, output: Path, size: tuple[int, int], first: int, stop: int) -> None:
        self._clip = clip
        self.path = frames_folder(output)
        self._files = clip.files[first:stop]
        names = _names(self._files, output, stop - first)
        self.pieces = [segments_folder(output) / name for name in names]
        self.encoding = Encoding(
            codec=replace(CODECS["ffv1"], name="png", encoder="png"),
            crf=None,
            shape=(*size, clip.shape[2]),
            bits=clip.bits,
            size=size,
            pixel_format=packed_format(clip.shape[2], clip.bits),
            colour=SRGB,
            pixel_aspect=Fraction(1),
            rate=clip.timeline.rate.limit_denominator(100_000),
        )
        self.codec, self.pixel_format = self.encoding.codec.name, self.encoding.pixel_format
        self._check_free()
        self.notes = tuple(self._said())

    def _check_free(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file, and frames need a folder; choose another name with -o")
        if self._clip.files and self.path.samefile(self._clip.files[0].parent):
            raise UsageError(f"{self.path}: the output is the folder of the source itself; choose another with -o")
        mine = {piece.name for piece in self.pieces}
        names = (entry.name for entry in self.path.iterdir())
        if others := sorted(name for name in names if name not in mine and not name.startswith(".")):
            raise UsageError(
                f"{self.path}: holds something else already ({others[0]}{', …' if len(others) > 1 else ''}); frames"
                " want a folder of their own, so choose another with -o"
            )

    def _said(self) -> Iterator[str]:
        clip = self._clip
        kinds = sorted({path.suffix[1:].upper() for path in self._files if path.suffix.lower() != ".png"})
        if kinds:
            yield f"{', '.join(kinds)} frames become PNG"
        if clip.pixel_aspect != 1:
            ratio = clip.pixel_aspect
            yield f"pixels are {ratio.numerator}:{ratio.denominator} wide, which PNG doesn't say"
        if clip.kind != "frames":
            rate = f"{float(clip.timeline.rate):.6g}"
            steps = [later - time for time, later in pairwise(clip.timeline.times)]
            # Rounded times differ by one.
            average = " on average, at uneven times" if steps and max(steps) - min(steps) > 1 else ""
            yield f"{rate} frames a second{average}; PNG frames don't say when they are shown"
        yield from _left_out(clip, "a folder of frames")

    def writer(self, number: int) -> PieceWriter:
        source = self._files[number] if self._files else None
        return _FrameWriter(self.pieces[number], self.encoding, self._clip, source)

    def finish(self, whole: Callable[[Path], None]) -> tuple[str, ...]:  # noqa: ARG002 - a folder isn't one file
        with writing(self.path):
            with suppress(OSError):
                self.path.rmdir()  # an empty one
            if not self.path.exists():
                working, mine = self.pieces[0].parent, {piece.name for piece in self.pieces}
                for entry in working.iterdir():
                    if entry.name not in mine:
                        entry.unlink()
                working.rename(self.path)
            else:
                for piece in self.pieces:
                    piece.replace(self.path / piece.name)
        return ()


def _names(files: Sequence[Path], output: Path, count: int) -> list[str]:
    """What the frames are called: as in the source, or by the pattern, or by their number, from 1."""
    check_pattern(output)
    if is_pattern(output):
        return [frame_name(output, number) for number in range(1, count + 1)]
    if not files:
        return [f"{number:06}.png" for number in range(1, count + 1)]
    taken: dict[str, Path] = {}
    for path in files:
        name = f"{path.stem}.png"
        if (other := taken.setdefault(name.casefold(), path)) != path:
            raise UsageError(
                f"{path}: it and {other.name} would both become {name}; number the frames anew with -o"
                f" {output / '%06d.png'}"
            )
    return [f"{path.stem}.png" for path in files]


class _FrameWriter:
    """One frame, one file."""

    def __init__(self, path: Path, encoding: Encoding, clip: Clip, source: Path | None) -> None:
        self._path, self._encoding, self._clip, self._source = path, encoding, clip, source
        self._pixels: Array | None = None

    def add(self, pixels: Array) -> None:
        wanted = self._encoding.shape
        if pixels.shape != wanted or pixels.dtype != self._clip.dtype:
            raise ShapeError(f"want frames of {wanted}, got {pixels.shape} of {pixels.dtype}")
        self._pixels = np.ascontiguousarray(turned(pixels, self._clip.display_matrix))

    def finish(self) -> None:
        pixels, self._pixels = self._pixels, None
        if pixels is None:
            raise OutputError(f"{self._path}: got no frame; report this")
        shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
        save_picture(self._path, [pixels], shape, self._clip.dtype, like=self._like())

    def abandon(self) -> None:
        self._pixels = None

    def _like(self) -> Picture:
        """The picture whose metadata the frame keeps; frames of videos have none."""
        if self._source is not None:
            return open_picture(self._source, max_megapixels=np.inf, upright=True)
        return plain_picture(self._path, self._clip.shape, self._clip.dtype, self._clip.bits)


# ---- what frames and animations share


def turned(pixels: Array, display_matrix: Sequence[int]) -> Array:
    """As the picture is to be seen; by the nine numbers of ISO/IEC 14496-12, 8.2.2, or none where it stays.

    Its first four numbers besides the third say where the axes go: x' = a x + c y, y' = b x + d y, to the right and
    down. Other angles than quarters leave the picture as it is.
    """
    if not display_matrix:
        return pixels
    a, b, _, c, d = (int(np.sign(number)) for number in display_matrix[:5])
    if a and d and not (b or c):
        across, down = a, d
    elif b and c and not (a or d):
        pixels = pixels.swapaxes(0, 1)
        across, down = c, b
    else:
        return pixels
    return pixels[::down, ::across]


def _left_out(clip: Clip, name: str) -> Iterator[str]:
    for track in clip.tracks:
        yield f"{track} is left out: {name} can't hold it"
    if clip.chapters:
        yield f"{len(clip.chapters)} chapters are left out: {name} can't hold them"
    if metadata := kept_metadata(clip.metadata):
        yield f"metadata that {name} doesn't hold: {', '.join(metadata)}"
