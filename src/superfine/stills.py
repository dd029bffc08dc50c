"""A folder of frames as a clip: numbered pictures of one size, in natural order."""

import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.clip import Clip, Colour, Timeline
from superfine.errors import SourceError, UsageError
from superfine.frames import packed_format
from superfine.image import FORMATS, MAX_MEGAPIXELS, open_picture

__all__ = [
    "RATE",
    "SRGB",
    "fitted",
    "frame_name",
    "has_place",
    "is_pattern",
    "numbered",
    "open_stills",
    "still_pictures",
]

Array = npt.NDArray[np.generic]

#: Frames a second of a folder, unless it is said.
RATE: Final = Fraction(25)
#: What the levels of a picture mean: R'G'B', BT.709 primaries, sRGB transfer, in ITU-T H.273's numbers.
SRGB: Final = Colour(matrix=0, full=True, primaries=1, transfer=13)
_PATTERN: Final = re.compile(r"%0?(\d?)d")
_DIGITS: Final = re.compile(r"(\d+)")
_SUFFIXES: Final = frozenset(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
# Of many alike, so many are named.
_TOLD: Final = 5


@dataclass(frozen=True)
class _Facts:
    """What of a picture has to fit the others."""

    path: Path
    size: tuple[int, int]
    colour: bool
    alpha: bool
    bits: int
    lossless: bool
    format: str
    profile: bytes
    notes: tuple[str, ...]


def has_place(path: Path) -> bool:
    """Whether a name, of nothing that is there, has a number's place in it."""
    return bool(_PATTERN.search(path.name)) and not path.exists()


def is_pattern(path: Path) -> bool:
    """Whether a name stands for numbered pictures, as `shots/%05d.png` does."""
    return has_place(path) and path.suffix.lower() in _SUFFIXES


def frame_name(pattern: Path, number: int) -> str:
    """The name of the file `number`."""
    return _PATTERN.sub(lambda found: f"{number:0{found[1] or 0}}", pattern.name, count=1)


def numbered(source: Path) -> list[Path]:
    """The frames of a folder, or of a pattern, in natural order: 2 comes before 10. Raises SourceError."""
    folder = source.parent if is_pattern(source) else source
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise SourceError(f"{folder}: the folder can't be read: {error.strerror}") from error
    if is_pattern(source):
        begin, digits, end = _PATTERN.split(source.name, maxsplit=1)
        wanted = re.compile(f"{re.escape(begin)}\\d{{{digits or 1},}}{re.escape(end)}")
        names = [name for name in names if wanted.fullmatch(name)]
    names = [name for name in names if Path(name).suffix.lower() in _SUFFIXES]
    if not names:
        what = "no file has such a name" if is_pattern(source) else "there is no picture in the folder"
        raise SourceError(f"{source}: {what}; superfine reads {' '.join(sorted(_SUFFIXES))}")
    return [folder / name for name in sorted(names, key=_natural)]


def open_stills(source: Path, *, rate: Fraction | None = None, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """Read the facts of a folder of frames, or of a pattern of names; each header is read, no pixel.

    rate: frames a second, 25 unless given. Raises UsageError, SourceError where sizes differ, TooLargeError.
    """
    rate = RATE if rate is None else rate
    if rate <= 0:
        raise UsageError(f"--rate {rate}: frames a second are more than 0")
    files = numbered(source)
    facts = [_facts(path, max_megapixels) for path in files]
    first = facts[0]
    for entry in facts:
        if entry.size != first.size:
            raise SourceError(
                f"{entry.path}: is {entry.size[1]} x {entry.size[0]}, and {first.path.name} is {first.size[1]} x"
                f" {first.size[0]}; the frames of a clip have one size, so sort them into folders"
            )
    alpha = any(entry.alpha for entry in facts)
    grey = not (alpha or any(entry.colour for entry in facts))
    bits = max(entry.bits for entry in facts)
    return Clip(
        path=source,
        container="frames",
        stream=0,
        codec=Counter(entry.format for entry in facts).most_common(1)[0][0],
        pixel_format=packed_format((1 if grey else 3) + alpha, bits),
        size=first.size,
        bits=bits,
        alpha=alpha,
        grey=grey,
        colour=SRGB,
        timeline=Timeline(tuple(range(len(files))), 1, 1 / rate, known=True),
        notes=tuple(dict.fromkeys([*_gaps(files), *_mixed(facts), *_told(facts)])),
        kind="frames",
        files=tuple(files),
        lossless=all(entry.lossless for entry in facts),
        profile=first.profile if all(entry.profile == first.profile for entry in facts) else b"",
    )


def still_pictures(clip: Clip, begin: int) -> Generator[tuple[int, Array | None, str], None, None]:
    """Each number from `begin` on with its pixels, or with None and the reason; before a lost one, one from before."""
    for number in range(begin, len(clip.files)):
        try:
            pixels = _pixels(clip, number)
        except SourceError as error:
            if number == begin:
                yield from _last_before(clip, begin)
            yield number, None, str(error)
        else:
            yield number, pixels, ""


def fitted(pixels: Array, clip: Clip) -> Array:
    """(rows, cols, 1 to 4) as the clip has them: grey becomes RGB, 8 bits become 16, alpha comes in opaque or goes."""
    if pixels.dtype != clip.dtype:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    alpha = pixels.shape[2] in (2, 4)
    colours: Any = pixels[..., : pixels.shape[2] - alpha]
    colours = colours if clip.grey or colours.shape[2] == 3 else np.repeat(colours, 3, axis=2)
    if not clip.alpha:
        return np.ascontiguousarray(colours)
    opaque = np.full((*pixels.shape[:2], 1), np.iinfo(clip.dtype).max, clip.dtype)
    return np.concatenate([colours, pixels[..., -1:] if alpha else opaque], axis=2)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


def _facts(path: Path, max_megapixels: float) -> _Facts:
    picture = open_picture(path, max_megapixels=max_megapixels, upright=True)
    if picture.dtype.kind == "f":
        raise SourceError(f"{path}: its samples are float; a clip holds 8 or 16 bits, so convert the frames first")
    header = picture.header
    return _Facts(
        path=path,
        size=picture.size,
        colour=picture.shape[2] - picture.alpha >= 3,
        alpha=picture.alpha,
        bits=max(8, picture.bits),
        lossless=picture.lossless,
        format=picture.format.name,
        profile=bytes(header.get("icc-profile-data")) if header.get_typeof("icc-profile-data") else b"",
        notes=picture.notes,
    )


def _gaps(files: Sequence[Path]) -> list[str]:
    """Numbers that are missing in the names, by the commonest step between them."""
    parts = [_DIGITS.split(path.stem) for path in files]
    if len(files) < 3 or any(len(part) < 3 for part in parts):
        return []
    if len({(*part[:-2], part[-1], path.suffix) for part, path in zip(parts, files, strict=True)}) > 1:
        return []
    numbers = [int(part[-2]) for part in parts]
    pairs = list(pairwise(numbers))
    step = Counter(later - one for one, later in pairs).most_common(1)[0][0]
    holes = [(one + step, later - step) for one, later in pairs if step > 0 and later - one > step]
    if not holes:
        return []
    named = ", ".join(f"{one}" if one >= last else f"{one} to {last}" for one, last in holes[:_TOLD])
    more = f" and {len(holes) - _TOLD} more gaps" if len(holes) > _TOLD else ""
    return [f"numbers missing among the frames: {named}{more}; what is there is shown without a gap"]


def _mixed(facts: Sequence[_Facts]) -> list[str]:
    notes = []
    if len({entry.bits > 8 for entry in facts}) > 1:
        notes.append("frames of 8 and of 16 bits; all become 16")
    if len({entry.alpha for entry in facts}) > 1:
        notes.append("some of the frames have alpha; the others count as opaque")
    if len({entry.profile for entry in facts}) > 1:
        notes.append("frames with different colour profiles; their levels stay as they are")
    return notes


def _told(facts: Sequence[_Facts]) -> list[str]:
    counted = Counter(words for entry in facts for words in entry.notes)
    return [words if count == len(facts) else f"{words} ({count} frames)" for words, count in counted.items()]


def _last_before(clip: Clip, begin: int) -> Iterator[tuple[int, Array, str]]:
    """The last frame before `begin` that can be read."""
    for number in range(begin - 1, -1, -1):
        with suppress(SourceError):
            yield number, _pixels(clip, number), ""
            return


def _pixels(clip: Clip, number: int) -> Array:
    """(rows, cols, channels) of the clip's own shape and dtype."""
    picture = open_picture(clip.files[number], max_megapixels=np.inf, upright=True)
    if picture.size != clip.size or picture.dtype.itemsize > clip.dtype.itemsize:
        raise SourceError(f"{picture.path}: isn't the picture that it was a moment ago; let it settle, then try again")
    return fitted(np.concatenate(list(picture.bands())), clip)
