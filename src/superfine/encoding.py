"""Which codec, pixel format and colour an enlarged clip is written in: the ones that lose least."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from superfine.clip import MATRICES, NO_MASTERING, Clip, Colour, Mastering
from superfine.errors import UsageError

__all__ = [
    "CODECS",
    "CONTAINERS",
    "MASTERED",
    "Codec",
    "Container",
    "Encoding",
    "check_coding",
    "container_of",
    "plan_encoding",
    "sample_bits",
]


# What SVT-AV1 takes at most; encoders that hold a quality only ask for form's sake.
_FASTEST: Final = Fraction(240)


@dataclass(frozen=True)
class Codec:
    """A way to encode video, and what it can hold."""

    name: str
    encoder: str
    crf: int | None
    """Constant quality unless another is asked for, smaller is better; None where it's lossless."""
    best_crf: int
    worst_crf: int
    formats: tuple[str, ...]
    """Pixel formats, in FFmpeg's names."""
    any_size: bool
    """Odd sides are possible with halved chroma."""
    options: tuple[tuple[str, str], ...]


CODECS: Final = {
    entry.name: entry
    for entry in (
        Codec(
            "h264",
            "libx264",
            17,
            0,
            51,
            ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
            any_size=False,
            # A quarter of the time of `fast` at 18, and 0.4 dB below it, in files a seventh larger.
            options=(("preset", "veryfast"), ("x264-params", "open-gop=0:subme=1")),
        ),
        Codec(
            "h265",
            "libx265",
            20,
            0,
            51,
            (
                *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
                *("yuv420p12le", "yuv422p12le", "yuv444p12le"),
            ),
            any_size=False,
            options=(("preset", "medium"), ("x265-params", "open-gop=0:frame-threads=1:log-level=error")),
        ),
        Codec("av1", "libsvtav1", 24, 1, 63, ("yuv420p", "yuv420p10le"), any_size=True, options=(("preset", "8"),)),
        Codec(
            "vp9",
            "libvpx-vp9",
            20,
            0,
            63,
            ("yuv420p", "yuv422p", "yuv444p", "yuva420p"),
            any_size=True,
            options=(("b", "0"), ("cpu-used", "4"), ("row-mt", "1"), ("auto-alt-ref", "0")),
        ),
        Codec(
            "ffv1",
            "ffv1",
            None,
            0,
            0,
            (
                *("gray", "gray16le", "yuv420p", "yuv422p", "yuv444p", "yuva420p", "yuva422p", "yuva444p"),
                *("yuv420p10le", "yuv422p10le", "yuv444p10le", "yuva420p10le", "yuva422p10le", "yuva444p10le"),
                *("yuv420p12le", "yuv422p12le", "yuv444p12le", "yuva444p12le"),
                *("yuv420p16le", "yuv422p16le", "yuv444p16le", "yuva420p16le", "yuva422p16le", "yuva444p16le"),
                *("bgr0", "bgra", "gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le", "gbrap16le"),
            ),
            any_size=False,
            options=(("level", "3"), ("g", "1"), ("slices", "4"), ("slicecrc", "1")),
        ),
    )
}


#: Codecs whose packets say on which display a clip was made.
MASTERED: Final = frozenset({"h264", "h265", "av1"})


@dataclass(frozen=True)
class Container:
    """A kind of file, and the codecs that its players expect, the usual one first."""

    name: str
    format: str
    codecs: tuple[str, ...]
    alpha: tuple[str, ...] = ()
    """Codecs whose alpha it holds, the best first."""


CONTAINERS: Final = {
    ".mp4": Container("MP4", "mp4", ("h264", "h265", "av1", "vp9")),
    ".m4v": Container("MP4", "mp4", ("h264", "h265", "av1", "vp9")),
    ".mov": Container("QuickTime", "mov", ("h264", "h265")),
    ".mkv": Container("Matroska", "matroska", ("h264", "h265", "av1", "vp9", "ffv1"), alpha=("ffv1", "vp9")),
    ".webm": Container("WebM", "webm", ("vp9", "av1"), alpha=("vp9",)),
}


@dataclass(frozen=True)
class Encoding:
    """Everything that decides the packets of a segment, but for its pictures."""

    codec: Codec
    crf: int | None
    shape: tuple[int, int, int]
    """(rows, cols, channels) of the pixels that come in."""
    bits: int
    """8, or more where they are uint16."""
    size: tuple[int, int]
    """(rows, cols) as encoded: a side may be one longer than in `shape`."""
    pixel_format: str
    colour: Colour
    pixel_aspect: Fraction
    rate: Fraction
    """Frames a second, on average: encoders ask."""
    mastering: Mastering = NO_MASTERING


def container_of(path: Path) -> Container:
    """The kind of file that a name asks for. Raises UsageError with the known endings."""
    if path.suffix.lower() not in CONTAINERS:
        raise UsageError(
            f"{path}: superfine doesn't write {path.suffix or 'a name without an ending'} as a video; it writes"
            f" {' '.join(CONTAINERS)}, .gif and .webp, and frames into a folder"
        )
    return CONTAINERS[path.suffix.lower()]


def plan_encoding(
    clip: Clip, output: Path, size: tuple[int, int], *, codec: str = "auto", crf: int | None = None
) -> tuple[Encoding, tuple[str, ...]]:
    """How the enlarged clip is encoded, and what a person should know about it.

    size: (rows, cols) of the enlarged frames. codec: `auto` is the container's usual one; VP9 or FFV1 for alpha, H.265
    for more than 8 bits. Raises UsageError where the container or the codec can't hold what the clip has.
    """
    chosen = _codec(clip, output, codec)
    _check_crf(chosen, crf)
    notes: list[str] = []
    pixel_format = _pixel_format(clip, chosen)
    bits = sample_bits(pixel_format)
    if bits < clip.bits:
        notes.append(f"{clip.bits} bits a sample become {bits} in {chosen.name}")
    halved = _subsampling(pixel_format)
    if _subsampling(clip.pixel_format) == (False, False) != halved and not clip.grey:
        notes.append("colour at half the resolution, as the codec has it")
    if chosen.name == "h264" and pixel_format != "yuv420p":
        notes.append(f"written as {pixel_format} to lose nothing, which some players don't show in H.264")
    rows, cols = size
    if not chosen.any_size:
        # Chroma is halved there, and these codecs crop in whole chroma samples.
        rows, cols = rows + (rows % 2 if halved[0] else 0), cols + (cols % 2 if halved[1] else 0)
    if (rows, cols) != size:
        notes.append(
            f"{size[1]} x {size[0]} becomes {cols} x {rows} by repeating its edge: {chosen.name} wants even sides"
        )
    if clip.mastering != NO_MASTERING and chosen.name not in MASTERED:
        notes.append(f"HDR mastering metadata isn't kept, since {chosen.name} has no place for it; the colour tags are")
    colour = replace(clip.colour, centred=False)
    if colour.matrix not in MATRICES and not pixel_format.startswith(("gbr", "bgr", "gray")):
        colour = replace(colour, matrix=1, full=clip.grey and colour.full)
    return (
        Encoding(
            codec=chosen,
            crf=chosen.crf if crf is None else crf,
            shape=(*size, clip.shape[2]),
            bits=clip.bits,
            size=(rows, cols),
            pixel_format=pixel_format,
            colour=colour,
            pixel_aspect=clip.pixel_aspect,
            rate=min(_FASTEST, clip.timeline.rate.limit_denominator(100_000)),
            mastering=clip.mastering if chosen.name in MASTERED else NO_MASTERING,
        ),
        tuple(notes),
    )


def check_coding(output: Path, codec: str, crf: int | None) -> None:
    """Raise UsageError where the container of that name or the codec refuses what is asked for, whatever the clip."""
    container = container_of(output)
    _check_codec(output, container, codec)
    _check_crf(CODECS[container.codecs[0] if codec == "auto" else codec], crf)


def _check_codec(output: Path, container: Container, name: str) -> None:
    if name != "auto" and name not in CODECS:
        raise UsageError(f"--codec {name}: not one of auto, {', '.join(CODECS)}")
    if name != "auto" and name not in container.codecs:
        raise UsageError(f"{output}: {container.name} doesn't hold {name}; it holds {', '.join(container.codecs)}")


def _check_crf(codec: Codec, crf: int | None) -> None:
    if crf is not None and codec.crf is None:
        raise UsageError(f"--crf {crf}: {codec.name} is lossless and has none")
    if crf is not None and not codec.best_crf <= crf <= codec.worst_crf:
        raise UsageError(f"--crf {crf}: {codec.name} takes {codec.best_crf} (best) to {codec.worst_crf}")


def _codec(clip: Clip, output: Path, name: str) -> Codec:
    container = container_of(output)
    _check_codec(output, container, name)
    deep = [entry for entry in container.codecs if entry != "h264" and _depth(CODECS[entry]) > 8]
    usual = (container.alpha if clip.alpha else deep if clip.bits > 8 else ()) or container.codecs
    chosen = CODECS[usual[0] if name == "auto" else name]
    if clip.alpha and chosen.name not in container.alpha:
        raise UsageError(
            f"{clip.path}: has alpha, which {chosen.name} in {container.name} can't hold; write .webm (vp9)"
            " or .mkv (ffv1)"
        )
    return chosen


def _depth(codec: Codec) -> int:
    return max(sample_bits(name) for name in codec.formats)


def _alpha(pixel_format: str) -> bool:
    return pixel_format.startswith(("yuva", "gbrap", "bgra"))


def sample_bits(pixel_format: str) -> int:
    """Bits a sample of one of FFmpeg's pixel formats."""
    import av

    return max(component.bits for component in av.VideoFormat(pixel_format, 16, 16).components)


def _subsampling(pixel_format: str) -> tuple[bool, bool]:
    """Whether chroma has fewer rows, fewer columns."""
    import av

    entry = av.VideoFormat(pixel_format, 16, 16)
    return entry.chroma_height() < 16, entry.chroma_width() < 16


def _pixel_format(clip: Clip, codec: Codec) -> str:
    """The codec's pixel format that loses least; of those the one that says least that isn't there."""
    import av

    source = av.VideoFormat(clip.pixel_format, 16, 16)
    rgb, halved = source.is_rgb or clip.pixel_format == "pal8", _subsampling(clip.pixel_format)

    def cost(name: str) -> tuple[bool, ...]:
        gray, its = name.startswith("gray"), _subsampling(name)
        return (
            _alpha(name) < clip.alpha,
            gray > clip.grey,
            min(sample_bits(name), clip.bits) < min(clip.bits, 10),
            its[0] > halved[0] and not clip.grey,
            its[1] > halved[1] and not clip.grey,
            sample_bits(name) < clip.bits,
            _alpha(name) != clip.alpha,
            gray != clip.grey,
            name.startswith(("gbr", "bgr")) != rgb,
            its != ((True, True) if clip.grey else halved),
            sample_bits(name) != clip.bits,
        )

    return min(codec.formats, key=lambda name: (cost(name), sample_bits(name)))
