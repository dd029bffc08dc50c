"""GIF and WebP animations: read page by page, and written from frames, by libvips.

Delays are milliseconds. Pages come whole: libvips lays each over the ones before it as the file says.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.clip import Clip, Timeline, check_megapixels, shown_time
from superfine.errors import OutputError, SourceError
from superfine.image import MAX_MEGAPIXELS, coding_of, plain_reason, streamed
from superfine.interrupt import raise_if_asked
from superfine.segments import writing
from superfine.stills import SRGB, fitted

__all__ = [
    "ANIMATIONS",
    "FOREVER",
    "LONGEST_PILE",
    "Animation",
    "animation_pictures",
    "open_animation",
    "pages_of",
    "write_animation",
]

Array = npt.NDArray[np.generic]

#: How often an animation is shown that doesn't end.
FOREVER: Final = 0
#: libvips takes the frames as one picture, each below the one before it; that has so many rows at most.
LONGEST_PILE: Final = 100_000_000
# Players take shorter delays for none, and show a tenth of a second instead.
_SHORTEST: Final = {"gif": 20, "webp": 11}
_INSTEAD: Final = 100
# The bit of a WebP's header that says that there is alpha.
_ALPHA: Final = 0x10
_MILLISECOND: Final = Fraction(1, 1000)


@dataclass(frozen=True)
class Animation:
    """A kind of animation, and what it can hold."""

    name: str
    format: str
    step: int
    """Delays are multiples of so many milliseconds."""
    longest: int
    """The most pixels that a side can have."""
    most: int
    """The longest delay, in milliseconds."""


ANIMATIONS: Final = {
    ".gif": Animation("GIF", "gif", 10, 65_535, 655_350),
    ".webp": Animation("WebP", "webp", 1, 16_383, 16_777_215),
}


def pages_of(path: Path) -> int:
    """How many pictures a GIF or WebP holds. Raises SourceError."""
    coding_of(path)
    with _pages(path) as image:
        return int(image.get("n-pages")) if image.get_typeof("n-pages") else 1


def open_animation(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """Read the facts of a GIF or WebP animation; its alpha is looked at, since all GIFs claim to have it.

    Raises SourceError where it isn't one, TooLargeError where frames have more than `max_megapixels`.
    """
    coding, lossless = coding_of(path)
    if coding not in ("GIF", "WEBP"):
        raise SourceError(f"{path}: is no GIF or WebP but {coding}; it holds no animation")
    with _pages(path) as image:
        rows, cols = _page_rows(image), image.width
        check_megapixels(path, (rows, cols), max_megapixels)
        count = image.height // rows
        stored = image.get("delay") if image.get_typeof("delay") else [_INSTEAD] * count
        loop = int(image.get("loop")) if image.get_typeof("loop") else 1
        profile = bytes(image.get("icc-profile-data")) if image.get_typeof("icc-profile-data") else b""
        claims_alpha = bool(image.hasalpha())
    delays = [delay if delay >= _SHORTEST[coding.lower()] else _INSTEAD for delay in stored]
    short = sum(one != other for one, other in zip(stored, delays, strict=True))
    notes = [f"{short} frames without a delay are shown for a tenth of a second, as players do"] if short else []
    whole = min(count, _whole_images(path)) if coding == "GIF" else count
    if not whole:
        raise SourceError(f"{path}: breaks off before its first frame ends; there is nothing to enlarge")
    starts = list(accumulate(delays, initial=0))[: whole + 1]
    broken = f"breaks off at {shown_time(starts[-1] * _MILLISECOND)}" if coding == "GIF" and not _ends(path) else ""
    alpha = claims_alpha and _shows_through(path, whole)
    return Clip(
        path=path,
        container=coding.lower(),
        stream=0,
        codec=coding.lower(),
        pixel_format="rgba" if alpha else "rgb24",
        size=(rows, cols),
        bits=8,
        alpha=alpha,
        grey=False,
        colour=SRGB,
        timeline=Timeline(tuple(starts[:-1]), delays[whole - 1], _MILLISECOND, known=True),
        broken=broken,
        notes=tuple(notes),
        kind="animation",
        loop=loop,
        lossless=bool(lossless),
        profile=profile,
    )


def animation_pictures(clip: Clip, begin: int) -> Generator[tuple[int, Array | None, str], None, None]:
    """Each number with its pixels, or with None and the reason; some numbers before `begin` come too."""
    following = max(0, begin - 1)
    reason = ""
    try:
        for number, pixels in _pictures(clip.path, following):
            if number == len(clip.timeline):  # the file breaks off in this one
                return
            if pixels.shape[:2] != clip.size:
                raise SourceError(
                    f"{clip.path}: isn't the animation that it was a moment ago; let it settle, then try again"
                )
            yield number, fitted(pixels, clip), ""
            following = number + 1
    except _DamagedError as error:
        reason = str(error)
    for missing in range(following, len(clip.timeline)):
        yield missing, None, reason


def write_animation(
    output: Path,
    pictures: Iterable[Array],
    shape: tuple[int, int, int],
    timeline: Timeline,
    *,
    loop: int,
    lossless: bool,
    profile: bytes = b"",
    whole: Callable[[Path], None] = lambda part: None,
) -> tuple[str, ...]:
    """Write a GIF or WebP, whole or not at all; the encoder takes the frames as they come.

    pictures: uint8 of `shape`, (rows, cols, 3 or 4), one for each time of `timeline`. loop: how often it is shown, 0
    forever. whole: hears of the finished file, as `written_whole` says.
    Returns what couldn't be kept. Raises OutputError; errors of `pictures` pass through.
    """
    kind = ANIMATIONS[output.suffix.lower()]
    delays, notes = _delays(kind, timeline)
    with writing(output), written_whole(output, whole) as part:
        _save(part, kind, pictures, shape, delays, loop=loop, lossless=lossless, profile=profile)
        _check(part, output, kind, delays)
    return tuple(notes)


# ---- reading


class _DamagedError(Exception):
    """A page that can't be decoded."""


@contextmanager
def _pages(path: Path, count: int = -1) -> Iterator[Any]:
    """The first pages, or all, below each other, to be read once from top to bottom."""
    import pyvips

    # A source of our own: libvips reads options out of names, and maps files into memory.
    try:
        with path.open("rb") as file:
            source = pyvips.SourceCustom()
            source.on_read(file.read)
            source.on_seek(file.seek)
            yield pyvips.Image.new_from_source(source, "", n=count, access="sequential", fail_on="error")
    except pyvips.Error as error:
        raise SourceError(f"{path}: damaged or cut off: {plain_reason(error)}") from error
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error


def _page_rows(image: Any) -> int:
    return int(image.get("page-height")) if image.get_typeof("page-height") else int(image.height)


def _pictures(path: Path, begin: int) -> Iterator[tuple[int, Array]]:
    """Each page from `begin` on; the ones before it are decoded on the way. Raises _DamagedError."""
    import pyvips

    with _pages(path) as image:
        rows, cols = _page_rows(image), image.width
        region = pyvips.Region.new(image)
        for number in range(image.height // rows):
            try:
                data = region.fetch(0, number * rows, cols, rows)
            except pyvips.Error:
                raise_if_asked()
                data = _page_alone(path, number)  # libvips reads ahead, and one of the next may be the damaged one
            if number >= begin:
                yield number, np.frombuffer(data, np.uint8).reshape(rows, cols, image.bands)


def _page_alone(path: Path, number: int) -> bytes:
    import pyvips

    try:
        with _pages(path, number + 1) as image:
            rows = _page_rows(image)
            data: bytes = pyvips.Region.new(image).fetch(0, number * rows, image.width, rows)
            return data
    except SourceError as error:
        raise _DamagedError(str(error).removeprefix(f"{path}: ")) from error


def _shows_through(path: Path, count: int) -> bool:
    """Whether any of the first pages isn't opaque; what can't be decoded is found when it is read."""
    with suppress(_DamagedError):
        return any(pixels[..., -1].min() < 255 for _, pixels in islice(_pictures(path, 0), count))
    return False


def _blocks(path: Path) -> Iterator[bytes]:
    """The kind of each block of a GIF that is whole, in order: ! extension, comma picture, ; end. Source: GIF89a."""
    with path.open("rb") as file:
        head = file.read(13)
        _skip_table(file, head[10:11])
        while (kind := file.read(1)) in (b"!", b","):
            if kind == b"!":
                file.read(1)
            else:
                _skip_table(file, file.read(9)[8:9])
                file.read(1)
            while length := file.read(1):
                if length == b"\0":
                    yield kind
                    break
                if len(file.read(length[0])) < length[0]:
                    return
            else:
                return
        if kind:
            yield kind


def _skip_table(file: Any, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.read(3 * 2 ** ((flags[0] & 7) + 1))


def _whole_images(path: Path) -> int:
    return sum(kind == b"," for kind in _blocks(path))


def _ends(path: Path) -> bool:
    return any(kind == b";" for kind in _blocks(path))


def _webp_delays(path: Path) -> list[int]:
    """Milliseconds of each frame as the file says them; none for a still. Source: RFC 9649, 2.7.1.1."""
    delays = []
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            begin = file.tell()
            if head[:4] == b"ANMF":
                delays.append(int.from_bytes(file.read(16)[12:15], "little"))
            file.seek(begin + length + length % 2)
    return delays


# ---- writing


def _delays(kind: Animation, timeline: Timeline) -> tuple[list[int], list[str]]:
    """Milliseconds of each frame, a multiple of the step; the times are rounded, so that nothing adds up."""
    unit = timeline.unit * 1000 / kind.step
    ends = [*timeline.times[1:], timeline.times[-1] + timeline.last]
    times = [round((time - timeline.times[0]) * unit) for time in (timeline.times[0], *ends)]
    delays = [max(1, later - time) * kind.step for time, later in pairwise(times)]
    notes = []
    if any(time != (moment - timeline.times[0]) * unit for time, moment in zip(times[1:], ends, strict=True)):
        words = {1: "milliseconds", 10: "hundredths of a second"}[kind.step]
        notes.append(f"times are rounded to {words}, as {kind.name} holds them")
    if short := sum(delay < _SHORTEST[kind.format] for delay in delays):
        notes.append(
            f"{short} frames are shown for less than {_SHORTEST[kind.format]} ms, and most players show those of"
            f" {kind.name} for 100 ms"
        )
    if max(delays) > kind.most:
        delays = [min(delay, kind.most) for delay in delays]
        notes.append(f"frames are shown for {kind.most / 1000:g} s at most, as {kind.name} holds it")
    return delays, notes


def _save(
    part: Path,
    kind: Animation,
    pictures: Iterable[Array],
    shape: tuple[int, int, int],
    delays: Sequence[int],
    *,
    loop: int,
    lossless: bool,
    profile: bytes,
) -> None:
    import pyvips

    with streamed((shape[0] * len(delays), *shape[1:]), np.dtype(np.uint8), _heeding(pictures)) as rows:
        image = rows.copy()
        image.set_type(pyvips.GValue.gint_type, "page-height", shape[0])
        image.set_type(pyvips.GValue.array_int_type, "delay", list(delays))
        image.set_type(pyvips.GValue.gint_type, "loop", loop)
        if profile:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
        target = os.fsencode(part)
        if kind.format == "gif":
            image.gifsave(target, keep_duplicate_frames=True, interpalette_maxerror=0, effort=4)
        else:
            image.webpsave(target, lossless=lossless, exact=lossless, Q=90, keep="icc" if profile else "none")
    raise_if_asked()
    if kind.format == "webp" and shape[2] == 4:
        _say_alpha(part)


def _heeding(pictures: Iterable[Array]) -> Iterator[Array]:
    """The same, until somebody asks to stop."""
    for pixels in pictures:
        raise_if_asked()
        yield pixels


def _say_alpha(path: Path) -> None:
    """Set the flag for alpha, which libwebp leaves out of some lossless animations. Source: RFC 9649, 2.7.1."""
    with path.open("r+b") as file:
        head = file.read(21)
        if head[12:16] == b"VP8X" and not head[20] & _ALPHA:
            file.seek(20)
            file.write(bytes([head[20] | _ALPHA]))


def _check(part: Path, output: Path, kind: Animation, delays: Sequence[int]) -> None:
    """Read the file's facts once more. Raises OutputError where frames are missing or shown at other times."""
    with _pages(part) as image:
        count = image.height // _page_rows(image)
        found = list(image.get("delay")) if image.get_typeof("delay") else list(delays)
    wanted = list(delays)
    if kind.format == "webp":
        # libvips reads other delays than there are, and the encoder makes one of two frames that are alike.
        found, wanted = sorted(set(accumulate(_webp_delays(part) or delays))), list(accumulate(delays))
        wanted = [moment for moment in wanted if moment in found or moment == wanted[-1]]
    if found != wanted or count > len(delays):
        raise OutputError(
            f"{output}: came out with {count} frames of other delays instead of {len(delays)}; report this"
        )
