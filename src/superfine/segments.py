"""A stretch of frames -> one file of packets, whole or not at all.

A video is encoded in segments of as many frames each, every one by an encoder of its own with the same settings. So a
run that was killed goes on from the last one, and gives the packets of a run that wasn't. Encoders see frame numbers;
`joining` gives each packet the time of its frame.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.clip import Mastering
from superfine.encoding import Encoding, sample_bits
from superfine.errors import OutputError, ShapeError
from superfine.frames import conversion, packed_format, planar_format

__all__ = ["SegmentWriter", "writing"]

Array = npt.NDArray[np.generic]

# With fewer bytes left nothing could be written.
_FULL_DISK: Final = 1 << 20
# Encoders' results depend on how many threads they have, so it isn't left to the machine.
_THREADS: Final = 4
# Frames with more pixels are expensive to look ahead at: 40 of 4K take 1.2 GB.
_LARGE: Final = 4_000_000
_FRUGAL: Final = {
    "libx264": ("rc-lookahead=12",),
    "libx265": ("rc-lookahead=6",),
    "libsvtav1": ("lp=2", "lookahead=8"),
}
# No encoder decodes a frame so many before it is shown.
_REORDERED: Final = 64
# swscale reads whole vectors of packed pixels, past the end of the last row where they don't fill it.
_SLACK: Final = 256
# The frames of a segment are counted in milliseconds there, which Matroska holds exactly.
_COUNTED: Final = Fraction(1, 1000)


class SegmentWriter:
    """Encodes the frames of one segment; the file appears with `finish`, or never."""

    def __init__(self, path: Path, encoding: Encoding) -> None:
        import av

        self._path = path
        self._encoding = encoding
        self._count = self._written = 0
        self._graph: Any = None
        if encoding.shape[2] > 1:
            given = _given_format(encoding)
            self._graph = conversion(encoding.size, given, encoding.pixel_format, encoding.colour, to_rgb=False)
        with ExitStack() as stack:
            stack.enter_context(writing(path))
            part = stack.enter_context(written_whole(path))
            # Else each file would get a name by chance, and whoever makes a segment it is to be the same.
            options = {"fflags": "+bitexact"}
            self._container = stack.enter_context(
                av.open(f"file:{part}", "w", format="matroska", container_options=options)
            )
            self._stream = _video_stream(self._container, encoding)
            self._stack = stack.pop_all()

    def finish(self) -> None:
        """No more frames. Raises OutputError."""
        with self._stack:
            self._mux(self._stream.encode(None))

    def abandon(self) -> None:
        """Give up; the file doesn't appear."""
        with suppress(_AbandonedError, OutputError), self._stack:
            raise _AbandonedError

    def add(self, pixels: Array) -> None:
        """The next frame: (rows, cols, channels), uint8 or uint16. Raises ShapeError, OutputError."""
        encoding = self._encoding
        if pixels.shape != encoding.shape or pixels.dtype != (np.uint8 if encoding.bits <= 8 else np.uint16):
            raise ShapeError(f"want frames of {encoding.shape}, got {pixels.shape} of {pixels.dtype}")
        frame = self._frame(pixels)
        frame.pts, frame.time_base = self._count, 1 / encoding.rate
        self._count += 1
        with writing(self._path):
            self._mux(self._stream.encode(frame))

    def _frame(self, pixels: Array) -> Any:
        import av

        encoding = self._encoding
        whole: Any = _with_slack(pixels, encoding.size)
        if encoding.shape[2] == 1:
            return _grey_frame(whole[..., 0], encoding.pixel_format)
        given = _given_format(encoding)
        if encoding.shape[2] == 3:
            frame = av.VideoFrame.from_numpy_buffer(whole, given)  # `whole` lives until the graph has read it
        else:
            frame = av.VideoFrame(encoding.size[1], encoding.size[0], given)
            target: Any
            for target, channel in zip(frame.planes, (1, 2, 0, 3), strict=True):
                np.frombuffer(target, pixels.dtype).reshape(target.height, -1)[:, : target.width] = whole[..., channel]
        frame.pts, frame.time_base = 0, Fraction(1)
        self._graph.push(frame)
        return self._graph.pull()

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.time_base = _COUNTED
            # x265's own are wild in a segment of one frame; `joining` makes them.
            packet.dts = self._written - _REORDERED
            self._written += 1
            self._container.mux(packet)


def _given_format(encoding: Encoding) -> str:
    """Packed RGB needs no copy; packed alpha would come out up to a level off."""
    name = packed_format if encoding.shape[2] == 3 else planar_format
    return name(encoding.shape[2], encoding.bits)


def _with_slack(pixels: Array, size: tuple[int, int]) -> Array:
    """A copy of `size` (rows, cols), edges repeated, with memory behind its end that may be read."""
    rows, cols, channels = pixels.shape
    count = size[0] * size[1] * channels
    memory = np.empty(count + _SLACK, pixels.dtype)
    memory[count:] = 0
    whole = memory[:count].reshape(*size, channels)
    whole[:rows, :cols] = pixels
    whole[:rows, cols:] = pixels[:, -1:]
    whole[rows:] = whole[rows - 1]
    return whole


class _AbandonedError(Exception):
    """A segment was given up."""


def _grey_frame(plane: Array, pixel_format: str) -> Any:
    """Grey levels as they are; a format with chroma gets none of it."""
    import av

    bits = sample_bits(pixel_format)
    if plane.dtype == np.uint16 and bits < 16:
        plane = np.rint(plane.astype(np.float32) * np.float32((2**bits - 1) / 65535)).astype(np.uint16)
        plane = plane.astype(np.uint8) if bits == 8 else plane
    frame = av.VideoFrame(plane.shape[1], plane.shape[0], pixel_format)
    dtype: Any = plane.dtype
    target: Any
    for number, target in enumerate(frame.planes):
        stored = np.frombuffer(target, dtype).reshape(target.height, -1)
        stored[:, : target.width] = plane if number == 0 else 2 ** (bits - 1)
    return frame


def _video_stream(container: Any, encoding: Encoding) -> Any:
    if encoding.codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it talks to stderr by itself; errors only
    stream = container.add_stream(encoding.codec.encoder, rate=encoding.rate, options=_options(encoding))
    context = stream.codec_context
    context.height, context.width = encoding.size
    context.pix_fmt = encoding.pixel_format
    context.time_base = 1 / encoding.rate
    context.sample_aspect_ratio = encoding.pixel_aspect
    context.thread_count = _THREADS
    context.colorspace = encoding.colour.matrix
    context.color_range = 2 if encoding.colour.full else 1
    context.color_primaries = encoding.colour.primaries
    context.color_trc = encoding.colour.transfer
    if encoding.codec.encoder != "ffv1":
        context.gop_size = 250
    return stream


def _options(encoding: Encoding) -> dict[str, str]:
    """The encoder's options, with the ones that depend on the clip."""
    options = dict(encoding.codec.options)
    if encoding.crf is not None:
        options["crf"] = str(encoding.crf)
    encoder = encoding.codec.encoder
    name = f"{encoder.removeprefix('lib')}-params"
    given = [options[name]] if name in options else []
    if encoding.size[0] * encoding.size[1] > _LARGE:
        given += _FRUGAL.get(encoder, ())
    if encoder == "libx264" and _has_avx512():
        given.append("asm=AVX2")
    given += _mastered(encoder, encoding.mastering)
    return options | ({name: ":".join(given)} if given else {})


def _mastered(encoder: str, mastering: Mastering) -> Iterator[str]:
    """What x264, x265 and SVT-AV1 are told of the display and the light."""
    av1 = encoder == "libsvtav1"
    if mastering.primaries and mastering.luminance:
        # AV1's wants numbers, the others multiples of 0.00002, and of 0.0001 for the light.
        steps = (Fraction(1), Fraction(1)) if av1 else (Fraction(1, 50_000), Fraction(1, 10_000))
        red, green, blue, white = (
            ",".join(_number(value / steps[0], whole=not av1) for value in mastering.primaries[at : at + 2])
            for at in (0, 2, 4, 6)
        )
        least, most = (_number(value / steps[1], whole=not av1) for value in mastering.luminance)
        name = "master-display" if encoder == "libx265" else "mastering-display"
        yield f"{name}=G({green})B({blue})R({red})WP({white})L({most},{least})"
    if mastering.light:
        name = {"libx264": "cll", "libx265": "max-cll"}.get(encoder, "content-light")
        yield f"{name}={mastering.light[0]},{mastering.light[1]}"


def _number(value: Fraction, *, whole: bool) -> str:
    return str(round(value)) if whole else f"{float(value):.8g}"


def _has_avx512() -> bool:
    """With AVX-512, x264 (165) reads past its rows and gives other packets each time, seen at 96 and 784 columns."""
    with suppress(ImportError, AttributeError):
        features = import_module("numpy._core._multiarray_umath").__cpu_features__
        return any(there for name, there in features.items() if name.startswith("AVX512"))
    return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, errors of writing become OutputError with the reason."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        full = error.errno == errno.ENOSPC or shutil.disk_usage(path.parent).free < _FULL_DISK
        reason = "the disk is full" if full else error.strerror or error
        raise OutputError(f"{path}: can't be written: {reason}") from error
