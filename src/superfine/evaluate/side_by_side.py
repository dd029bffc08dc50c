"""A clip by several methods -> one clip in which they play side by side, each under its name.

clip -> every method on each frame and its neighbours -> a sheet of pictures -> `video.convert`, which keeps the timing,
the sound and whatever else is in the file.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.engine import Precision
from superfine.errors import ShapeError, UsageError
from superfine.evaluate.compare import check_scale, open_compared
from superfine.evaluate.listener import Listener
from superfine.evaluate.methods import ORACLES, Method, frames_of, made_of_windows
from superfine.evaluate.pairs import as_bytes
from superfine.evaluate.peers import Colour, ValueRange
from superfine.footage import open_footage
from superfine.models import family, list_models
from superfine.video import convert

__all__ = ["Sheet", "SideBySide", "Timed", "compare_clip", "default_clip_models", "lettering"]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]

_NETWORKS: Final = ("fast", "best", "video")
# What the sheet comes nearest to in its sides, the space between pictures, and that around a name in dots of letters.
_ASPECT: Final = 16 / 9
_GAP: Final = 4
_MARGIN: Final = 2
# Rows of a picture for each pixel of a letter's dots: letters are a 24th of a picture high.
_ROWS_A_DOT: Final = 168
_GROUND, _INK = 16, 235
_TO_16_BITS: Final = 257
# Encoders take no longer sides.
_LONGEST: Final = 16384
# 5 x 7 dots of each letter: its rows from the top, in base 32.
_LETTERS: Final = {
    "A": "EHHVHHH", "B": "UHHUHHU", "C": "EHGGGHE", "D": "UHHHHHU", "E": "VGGUGGV", "F": "VGGUGGG", "G": "EHGNHHF",
    "H": "HHHVHHH", "I": "E44444E", "J": "72222IC", "K": "HIKOKIH", "L": "GGGGGGV", "M": "HRLLHHH", "N": "HHPLJHH",
    "O": "EHHHHHE", "P": "UHHUGGG", "Q": "EHHHLID", "R": "UHHUKIH", "S": "FGGE11U", "T": "V444444", "U": "HHHHHHE",
    "V": "HHHHHA4", "W": "HHHLLLA", "X": "HHA4AHH", "Y": "HHHA444", "Z": "V1248GV", "0": "EHJLPHE", "1": "4C4444E",
    "2": "EH1248V", "3": "V2421HE", "4": "26AIV22", "5": "VGU11HE", "6": "68GUHHE", "7": "V124888", "8": "EHHEHHE",
    "9": "EHHF12C", "-": "000V000", "_": "000000V", ".": "00000CC", "/": "01248G0", "+": "044V440", "(": "2488842",
    ")": "8422248", "=": "00V0V00", "?": "EH12404",
    " ": "0000000",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A method, and what it took."""

    name: str
    seconds: float
    """For a frame, without decoding and encoding: the mean but for the first, which opens the network."""
    engine: str
    precision: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """What became of a comparison."""

    output: Path
    methods: tuple[Timed, ...]
    """From the left to the right, from the top to the bottom."""
    columns: int
    frames: int
    size: tuple[int, int]
    """(rows, cols) of the output's frames."""
    notes: tuple[str, ...]

    def facts(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"output": str(self.output)}


class Sheet:
    """Where pictures of one size lie in a larger one, and their names above them."""

    def __init__(self, names: Sequence[str], size: tuple[int, int]) -> None:
        rows, cols = size
        dots = max(1, rows // _ROWS_A_DOT)
        head = (7 + 2 * _MARGIN) * dots
        self.columns = _columns(len(names), rows + head, cols)
        down = -(-len(names) // self.columns)
        self._size = size
        step = (rows + head + _GAP, cols + _GAP)
        self.places = tuple(
            (place // self.columns * step[0] + head, place % self.columns * step[1]) for place in range(len(names))
        )
        """(row, col) of each picture's upper left pixel."""
        whole = down * step[0] - _GAP, self.columns * step[1] - _GAP
        self.size = (whole[0] + whole[0] % 2, whole[1] + whole[1] % 2)
        """(rows, cols), even, so that no encoder adds to them."""
        self._ground = np.full((*self.size, 3), _GROUND, np.uint8)
        for name, (top, left) in zip(names, self.places, strict=True):
            written = lettering(name, cols - 2 * _MARGIN * dots, dots)
            begin = top - head + _MARGIN * dots, left + _MARGIN * dots
            part = self._ground[begin[0] : begin[0] + written.shape[0], begin[1] : begin[1] + written.shape[1]]
            part[written] = _INK

    def compose(self, pictures: Sequence[Bytes]) -> Bytes:
        """One (rows, cols, 3) of each name's -> the sheet. Raises ShapeError for another size."""
        whole = self._ground.copy()
        for picture, (top, left) in zip(pictures, self.places, strict=True):
            if picture.shape != (*self._size, 3):
                raise ShapeError(f"want pictures of {(*self._size, 3)}, got {picture.shape}")
            whole[top : top + self._size[0], left : left + self._size[1]] = picture
        return whole


def lettering(text: str, cols: int, dots: int = 1) -> npt.NDArray[np.bool_]:
    """Text in capitals of 5 x 7 dots, (7 * dots, n): True where there is ink, cut to `cols`; `?` for what it lacks."""
    columns = [
        [int(row, 32) >> bit & 1 for row in _LETTERS.get(letter, _LETTERS["?"])]
        for letter in text.upper()
        for bit in (4, 3, 2, 1, 0, 5)
    ]
    drawn = np.array(columns, bool).reshape(-1, 7).T.repeat(dots, axis=0).repeat(dots, axis=1)
    return drawn[:, : max(0, cols)]


def default_clip_models(scale: int) -> tuple[str, ...]:
    """Bicubic, and of `fast`, `best` and `video` those that there are for the scale; nearest where there is none."""
    there = {family(model.card) for model in list_models() if model.card.scale == scale}
    networks = tuple(name for name in _NETWORKS if name in there)
    return ("bicubic", *(networks or ("nearest",)))


def compare_clip(
    source: Path,
    output: Path,
    models: Sequence[str | Method] | None = None,
    *,
    scale: int = 2,
    start: Fraction | None = None,
    end: Fraction | None = None,
    foreign_colour: Colour | None = None,
    foreign_range: ValueRange | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
    listener: Listener | None = None,
) -> SideBySide:
    """Enlarge a clip by several methods and write one clip that shows them side by side; see `video.convert`.

    source: a video, an animation, or a folder of frames. models, scale, foreign_colour, foreign_range, engine,
    precision: as in `compare.compare`; `default_clip_models` unless given. start, end: seconds. Methods see 8 bits,
    with alpha laid on white. Frames have their times and the file its sound, as far as the output can hold it. What a
    killed run has done serves the next. Raises UsageError, ShapeError, SourceError, ModelError, EngineError,
    OutputError.
    """
    check_scale(scale)
    methods = open_compared(
        default_clip_models(scale) if models is None else models,
        scale,
        foreign_colour=foreign_colour,
        foreign_range=foreign_range,
        engine=engine,
        precision=precision,
    )
    if told := [method.name for method in methods if method.name in ORACLES]:
        raise UsageError(f"{told[0]} has to be told the kernel, which nobody knows of a clip; leave it out")
    clip = open_footage(source)
    turns = clip.rotation // 90 % 4  # names are read as the clip is seen
    size = (clip.size[turns % 2] * scale, clip.size[1 - turns % 2] * scale)
    sheet = Sheet([method.name for method in methods], size)
    if max(sheet.size) > _LONGEST:
        raise UsageError(
            f"{output}: {len(methods)} clips of {size[1]} x {size[0]} make {sheet.size[1]} x {sheet.size[0]}, over"
            f" {_LONGEST} a side; give fewer --models or a smaller --scale"
        )
    listener = listener or Listener()
    taken: list[list[float]] = [[] for _ in methods]
    begun = False

    def composed(window: Array) -> Array:
        frames = np.stack([as_bytes(frame, alpha=clip.alpha) for frame in window])
        windows = {count: _middle(frames, count) for count in {1, *map(frames_of, methods)}}
        pictures = []
        for method, times in zip(methods, taken, strict=True):
            before = time.perf_counter()
            pictures.append(np.rot90(made_of_windows(method, windows).pixels, turns))
            times.append(time.perf_counter() - before)
        return _in_kind(np.ascontiguousarray(np.rot90(sheet.compose(pictures), -turns)), window)

    def heard(done: int, frames: int) -> None:
        nonlocal begun
        if not begun:
            listener.begin(frames - done)
            begun = True
        else:
            listener.step(clip.path.name, "all")

    made = convert(
        source,
        output,
        composed,
        lambda size: (sheet.size[turns % 2], sheet.size[1 - turns % 2]),
        frames=max(map(frames_of, methods)),
        start=start,
        end=end,
        fingerprint=_fingerprint(methods, scale),
        progress=heard,
        clip=clip,
    )
    notes = (f"{method.name}: {note}" for method in methods for note in method.notes)
    return SideBySide(
        output=made.output,
        methods=tuple(map(_timed, methods, taken)),
        columns=sheet.columns,
        frames=made.frames,
        size=made.size,
        notes=(*made.notes, *notes),
    )


def _columns(count: int, rows: int, cols: int) -> int:
    """How many pictures stand in a row, so that the sheet is nearest to a screen's shape; of two ways the wider."""

    def far(columns: int) -> float:
        aspect = columns * cols / (-(-count // columns) * rows)
        return abs(math.log(aspect / _ASPECT))

    return min(range(count, 0, -1), key=lambda columns: round(far(columns), 1))


def _middle(frames: Bytes, count: int) -> Bytes:
    spare = (len(frames) - count) // 2
    return frames[spare : spare + count]


def _in_kind(sheet: Bytes, like: Array) -> Array:
    """(rows, cols, 3) uint8 as frames have it: their dtype and channels, opaque."""
    channels = like.shape[-1]
    pixels: Array = sheet[..., :1] if channels < 3 else sheet
    if channels in (2, 4):
        pixels = np.concatenate([pixels, np.full((*sheet.shape[:2], 1), 255, np.uint8)], axis=2)
    return pixels if like.dtype == np.uint8 else np.multiply(pixels, _TO_16_BITS, dtype=np.uint16)


def _fingerprint(methods: Sequence[Method], scale: int) -> str:
    known = [[each.name, each.sha256, each.engine, each.precision] for each in methods]
    return json.dumps({"compare": known, "scale": scale, "letters": _LETTERS})


def _timed(method: Method, seconds: Sequence[float]) -> Timed:
    later = seconds[1:] or seconds
    return Timed(
        name=method.name,
        seconds=sum(later) / len(later) if later else math.nan,
        engine=method.engine,
        precision=method.precision,
        sha256=method.sha256,
        notes=method.notes,
    )
