"""Where an enlargement is a guess: calibrated intervals, pixel by pixel, as a 16-bit map and as heat over the result.

    small picture -> guess network -> codes of expected errors -> a calibrated table -> half-widths of intervals

A guess network sees the small picture alone: an enlarger is a function of it, so where that is off can be told
from it as well. What it says is held against the truth on pictures that no training saw, for each enlarging
network by itself (`evaluate.intervals`), and the table that comes of it stands on the guess network's card.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.color import to_unit
from superfine.engine import LEAST_SIDE, Engine, Precision, open_engine
from superfine.errors import ModelError, OutputError, ShapeError, UsageError
from superfine.heat import heated, legend, legend_rows
from superfine.image import Picture, open_picture, streamed
from superfine.models import Model, list_guesses
from superfine.pngchunks import append_chunks, text_chunk
from superfine.tiles import Grid, Window, enlarge

__all__ = [
    "GUESS_OCTAVES",
    "LEAST_GUESS",
    "MAP_STEPS",
    "Calibration",
    "Guess",
    "calibrations",
    "find_guess",
    "guess_for",
    "half_widths",
    "overlay_path",
    "to_record",
    "write_guess_map",
]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Deep = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.floating]

#: A guess network codes the absolute error b that it expects as log2(b / LEAST_GUESS) / GUESS_OCTAVES, so in 0..1:
#: from a sixteenth of an 8-bit level on. b is of luma, white at 1.
LEAST_GUESS: Final = 1 / 16 / 255
GUESS_OCTAVES: Final = 12
#: A map's value is the half-width times this, in 8-bit levels of luma.
MAP_STEPS: Final = 256
_MOST: Final = 2**16 - 1
_BAND: Final = 256


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a guess network's codes mean for one enlarging network."""

    network: str
    """Its name, as `balanced-x2`."""
    sha256: str
    """Of its file."""
    share: float
    """Of the true values that lie within their intervals: 0.9."""
    degradation: str
    """How the small pictures came about."""
    pictures: str
    """On which it was calibrated."""
    codes: Floats
    """(n,), rising, 0..1."""
    half_widths: Floats
    """(n,), rising, above 0, in 8-bit levels of full-range luma."""
    tested: Mapping[str, float]
    """Figures on pictures that took no part in it."""

    def half_widths_of(self, codes: Floats) -> Floats:
        """Half-widths in 8-bit levels for codes of any shape."""
        return half_widths(codes, self.codes, self.half_widths)


def half_widths(codes: Floats, known: Floats, widths: Floats) -> Floats:
    """Half-widths for codes: between known ones by their logarithms, beyond the last ones as expected errors grow."""
    logarithms = np.log2(widths)
    octaves = np.interp(codes, known, logarithms)
    octaves = octaves + GUESS_OCTAVES * (np.maximum(codes - known[-1], 0) - np.maximum(known[0] - codes, 0))
    return cast(Floats, np.exp2(octaves))


def to_record(calibration: Calibration) -> dict[str, Any]:
    """What stands on the card of one network's calibration: `calibrations` reads it."""
    return {
        "sha256": calibration.sha256,
        "codes": [round(float(code), 5) for code in calibration.codes],
        "half_widths": [float(f"{width:.5g}") for width in calibration.half_widths],
        "tested": {name: round(float(value), 4) for name, value in calibration.tested.items()},
    }


def calibrations(guess: Model) -> tuple[Calibration, ...]:
    """What stands on a guess network's card, for each network that it is calibrated for. Raises ModelError."""
    given = guess.card.calibration
    try:
        found = tuple(_calibration(name, entry, given) for name, entry in given.get("networks", {}).items())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{guess.source}: the calibration on its card can't be read: {error!r}") from error
    return found


def _calibration(name: str, entry: Mapping[str, Any], given: Mapping[str, Any]) -> Calibration:
    codes, widths = (np.array(entry[key], np.float64) for key in ("codes", "half_widths"))
    share = float(given["share"])
    if codes.ndim != 1 or codes.shape != widths.shape or not codes.size:
        raise ValueError(f"{codes.shape} codes for {widths.shape} half-widths")
    if not (np.isfinite(codes).all() and np.isfinite(widths).all() and (widths > 0).all() and 0 < share < 1):
        raise ValueError("numbers out of range")
    if (np.diff(codes) <= 0).any() or (np.diff(widths) < 0).any():
        raise ValueError("codes or half-widths don't rise")
    tested = {key: float(value) for key, value in entry.get("tested", {}).items()}
    texts = (str(entry["sha256"]), str(given["degradation"]), str(given["pictures"]))
    return Calibration(name, texts[0], share, texts[1], texts[2], codes, widths, tested)


class Guess:
    """Intervals for what one network makes of clean pictures: calibrated codes, in tiles, in bands."""

    def __init__(self, model: Model, calibration: Calibration, engine: Engine) -> None:
        self.model, self.calibration = model, calibration
        self.scale = engine.scale
        self._engine = engine

    def bands(
        self,
        shape: tuple[int, int, int],
        bands: Iterable[Array],
        done: Callable[[float], None] = lambda share: None,
        *,
        tile: int | None = None,
    ) -> Iterator[Deep]:
        """Bands of a map, (rows, scale*w, 1) uint16: half-widths in 1/256 of an 8-bit level of luma, from 1.

        shape: (h, w, c) of the small picture; bands: its rows in any dtype, 1 to 4 channels, alpha left out. done hears
        the share of the work that each tile was. A pixel of the result is as far as that from the truth's luma, or
        nearer, in the calibration's share of all cases; 65535 says 256 levels or more.
        """
        rows, cols, _ = shape
        window = Window((1, rows, cols, 3), np.dtype(np.float32), map(_as_clip, bands))
        grid = Grid(self.scale, self._engine.halo, self._engine.multiple_of, LEAST_SIDE)
        total = rows * cols

        def tell(pixels: int) -> None:
            done(pixels / total)

        for band in enlarge(window, grid, tile or self.model.card.tile, self._engine, done=tell):
            codes = band[..., :1].astype(np.float32)
            widths = self.calibration.half_widths_of(codes) * MAP_STEPS
            yield np.ceil(widths).clip(1, _MOST).astype(np.uint16)

    def __call__(self, pixels: Array) -> Floats:
        """(h, w, 1 to 4) -> half-widths in 8-bit levels, (scale*h, scale*w) float32."""
        if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
            raise ShapeError(f"want (h, w, 1 to 4), got {pixels.shape}; grey is pixels[..., None]")
        found = list(self.bands((pixels.shape[0], pixels.shape[1], pixels.shape[2]), [pixels]))
        return np.concatenate(found)[..., 0].astype(np.float32) / np.float32(MAP_STEPS)


def _as_clip(band: Array) -> Array:
    """Rows of a picture of 1 to 4 channels as (1, rows, cols, 3) float32, without alpha."""
    unit = to_unit(band)
    colours = unit[..., :3] if unit.shape[2] >= 3 else np.repeat(unit[..., :1], 3, axis=2)
    return colours[None]


def guess_for(
    models: Sequence[Model],
    scale: float,
    *,
    kind: str = "",
    lossless: bool | None = True,
    engine: str = "openvino",
    precision: Precision = "auto",
) -> Guess:
    """Intervals for a chain of networks (none for classical methods), as far as one was calibrated for it.

    scale: of the result. kind, lossless: what `image.coding_of` says of the source. Raises UsageError, which names what
    intervals are calibrated for, where the chain isn't one network at its own scale, or not to the byte one that is
    known, or the source is lossy.
    """
    known = _known()
    if not known:
        raise UsageError("--guess-map: this installation brings no guess network; leave it out")
    names = ", ".join(sorted(each.network for _, each in known.values()))
    if len(models) != 1 or models[0].card.scale != scale:
        what = "+".join(model.card.name for model in models) or "a classical method"
        raise UsageError(
            f"--guess-map is calibrated for one network at its own scale, {names}; x{scale:g} by {what} is something"
            " else: change --scale or --model, or leave it out"
        )
    if (found := known.get(models[0].sha256)) is None:
        raise UsageError(f"--guess-map is calibrated for {names}, not for {models[0].card.name}; take one of them")
    if not lossless:
        raise UsageError(
            f"--guess-map is calibrated for clean pictures, and the source is {kind or 'lossy'}, which has traces of"
            " its own; leave it out"
        )
    guess, calibration = found
    return Guess(guess, calibration, open_engine(guess, engine, precision))


def find_guess(sha256: str) -> Guess | None:
    """Intervals for clean pictures and the network whose file has that hash; None where none were calibrated."""
    if (found := _known().get(sha256)) is None:
        return None
    guess, calibration = found
    return Guess(guess, calibration, open_engine(guess))


@cache
def _known() -> Mapping[str, tuple[Model, Calibration]]:
    """The shipped guess network of each network that one is calibrated for, by the hash of the latter's file."""
    return {each.sha256: (guess, each) for guess in list_guesses() for each in calibrations(guess)}


def overlay_path(path: Path) -> Path:
    """Where the heat over the result goes that belongs to a map: `map.png` -> `map-overlay.png`."""
    return path.with_name(f"{path.stem}-overlay{path.suffix}")


def write_guess_map(
    path: Path,
    source: Picture,
    result: Path,
    guess: Guess,
    *,
    done: Callable[[float], None] = lambda share: None,
) -> None:
    """Write the map `path`, a 16-bit grey PNG, and the heat over `result`, `overlay_path(path)`.

    source: the small picture, opened upright; result: what the network made of it. Each file appears whole or not at
    all. Rows stream through. Raises UsageError where `path` is no .png, ShapeError where the result isn't the scale's
    multiple of the source, OutputError.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a guess map is a 16-bit PNG; give it a name that ends in .png")
    size = source.shape[0] * guess.scale, source.shape[1] * guess.scale
    made = open_picture(result, max_megapixels=math.inf, upright=True, bounded=False)
    if made.size != size:
        raise ShapeError(f"{result}: is {made.size[1]} x {made.size[0]}, not {size[1]} x {size[0]} as its guess map")
    shape = (*size, 1)
    _write_png(path, guess.bands(source.shape, source.bands(), done), shape, np.dtype(np.uint16), _words(guess))
    widths = open_picture(path, max_megapixels=math.inf).bands(_BAND)
    heat = _heat(made.bands(_BAND), widths, size[1], guess.calibration.share)
    high = (size[0] + legend_rows(size[1]), size[1], 3)
    _write_png(overlay_path(path), heat, high, np.dtype(np.uint8), _words(guess))


def _heat(result: Iterable[Array], widths: Iterable[Array], cols: int, share: float) -> Iterator[Bytes]:
    for pixels, map_band in zip(result, widths, strict=True):
        yield heated(pixels, map_band[..., 0].astype(np.float32) / np.float32(MAP_STEPS))
    if legend_rows(cols):
        yield legend(cols, share)


def _words(guess: Guess) -> dict[str, str]:
    """What a map says of itself; ASCII, as PNG's text has it."""
    calibration = guess.calibration
    return {
        "Title": "superfine guess map",
        "Description": (
            f"Half-widths of {calibration.share:.0%} intervals of luma (BT.601, full range): value / {MAP_STEPS} is in"
            f" 8-bit levels. Calibrated for {calibration.network} (sha256 {calibration.sha256}) by"
            f" {guess.model.card.name} (sha256 {guess.model.sha256});"
            f" degradation: {calibration.degradation}; pictures: {calibration.pictures}."
        ),
        "Software": "superfine",
    }


def _write_png(
    path: Path, bands: Iterable[Array], shape: tuple[int, int, int], dtype: np.dtype[Any], words: Mapping[str, str]
) -> None:
    try:
        with written_whole(path) as part:
            with streamed(shape, dtype, bands) as image:
                image.pngsave(str(part), compression=6, keep="none")
            append_chunks(part, (text_chunk(key, text) for key, text in words.items()))
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error
