"""Clips that tests make, by PyAV: small, of known frames, times and streams."""

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

ROWS, COLS = 32, 48


def wave(number: int, shape: tuple[int, int], peak: int, swing: float = 0.2) -> npt.NDArray[np.uint16]:
    """One moving plane of whole levels around the middle of `peak`; with little chroma no colour is out of gamut."""
    down, across = np.mgrid[: shape[0], : shape[1]]
    moving = np.sin((across + 2 * number) / 9) * np.cos((down - number) / 6)
    return np.rint(peak * (0.5 + swing * moving)).astype(np.uint16)


def yuv_frame(number: int, pixel_format: str, rows: int = ROWS, cols: int = COLS) -> Any:
    """A frame with known planes in any planar format."""
    frame = av.VideoFrame(cols, rows, pixel_format)
    for place, plane in enumerate(frame.planes):
        bits = frame.format.components[place].bits
        dtype = np.uint8 if bits == 8 else np.uint16
        stored = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        levels = wave(number + 7 * place, (plane.height, plane.width), 2**bits - 1, 0.08 if place in (1, 2) else 0.2)
        stored[:, : plane.width] = levels.astype(dtype)
    return frame


def stored_planes(frame: Any) -> list[Array]:
    """The planes of a frame as they are."""
    found: list[Array] = []
    for place, plane in enumerate(frame.planes):
        dtype = np.uint8 if frame.format.components[place].bits == 8 else np.uint16
        found.append(np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].copy())
    return found


def rgb_frame(pixels: Array) -> Any:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


def add_video(
    container: Any,
    codec: str = "libx264",
    *,
    size: tuple[int, int] = (ROWS, COLS),
    pixel_format: str = "yuv420p",
    rate: Fraction | int = 25,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    tags: tuple[int, int, int, int] | None = None,
) -> Any:
    """A video stream; tags are (matrix, range, primaries, transfer) in H.273's numbers, range 1 limited, 2 full."""
    given = {"preset": "ultrafast"} if codec in ("libx264", "libx265") else {}
    stream = container.add_stream(codec, rate=rate, options={**given, **(options or {})})
    context = stream.codec_context
    context.height, context.width = size
    context.pix_fmt = pixel_format
    context.time_base = time_base or 1 / Fraction(rate)
    context.thread_count = 1
    if tags is not None:
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
    return stream


def encode(container: Any, stream: Any, frames: Iterable[Any], times: Sequence[int] | None = None) -> None:
    for number, frame in enumerate(frames):
        frame.pts = number if times is None else times[number]
        frame.time_base = stream.codec_context.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def make_clip(path: Path, count: int = 10, codec: str = "libx264", **named: Any) -> Path:
    """`count` moving pictures."""
    times = named.pop("times", None)
    pixel_format = named.get("pixel_format", "yuv420p")
    size = named.get("size", (ROWS, COLS))
    with av.open(str(path), "w") as container:
        stream = add_video(container, codec, **named)
        encode(container, stream, (yuv_frame(number, pixel_format, *size) for number in range(count)), times)
    return path


def add_audio(container: Any, codec: str = "aac", language: str = "eng") -> Any:
    stream = container.add_stream(codec, rate=48000)
    stream.codec_context.layout = "mono"
    stream.metadata["language"] = language
    return stream


def sound(stream: Any, seconds: float, pitch: float = 440) -> Iterable[Any]:
    """Packets of a tone."""
    step = 960
    name = stream.codec_context.format.name
    for begin in range(0, int(48000 * seconds), step):
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(begin, begin + step) / 48000)
        levels = wave.astype(np.float32) if name.startswith("flt") else np.rint(32767 * wave).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(levels[None], format=name, layout="mono")
        frame.sample_rate = 48000
        frame.pts = begin
        yield from stream.encode(frame)
    yield from stream.encode(None)


def times_of(path: Path) -> list[Fraction]:
    """When the frames of a file are shown, in seconds, as packets say it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(
            packet.pts * packet.time_base
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None and not packet.is_discard
        )


def hashes(path: Path, kind: str) -> list[list[str]]:
    """Of each stream of a kind the packets' hashes."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found: dict[int, list[str]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams) if streams else ():
            if packet.size:
                found[packet.stream_index].append(hashlib.sha256(bytes(packet)).hexdigest())
        return list(found.values())


def decoded(path: Path, codec: str | None = None) -> list[Any]:
    """All frames of a file, decoded by PyAV alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = av.CodecContext.create(codec, "r") if codec else stream.codec_context
        return [
            frame for packet in container.demux(stream) for frame in decoder.decode(packet if packet.size else None)
        ]
