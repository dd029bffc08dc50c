"""Move picture files by a fraction of a pixel: file -> pixels -> `shift_image` or a learned network -> file.

The picture is held whole, since most methods let every sample depend on its whole row
and column. What survives is what survives `upscale`: depth, alpha, ICC, EXIF, orientation.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from superfine.classical.shift import BORDERS, METHODS, Border, Method, extended, shift_image
from superfine.color import KINDS, to_kind, to_unit
from superfine.destination import check_folder, check_free, check_holds, fewer_bits, keeps_turn, made_dtype
from superfine.engine import LEAST_SIDE, NetworkEngine, open_engine
from superfine.errors import ModelError, ShapeError, SourceError, SuperfineError, UsageError
from superfine.footage import kind_of
from superfine.image import MAX_MEGAPIXELS, format_of, open_picture, save_picture
from superfine.models import read_model
from superfine.tiles import Grid, Window, enlarge

__all__ = ["LEARNED", "Moved", "Movement", "as_stored", "shift_learned", "shift_path"]

Array = npt.NDArray[np.generic]

#: The method that a file of weights brings.
LEARNED: Final = "learned"
# Below it alpha says nothing of the colour.
_LEAST_ALPHA: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class Movement:
    """How pictures are moved."""

    shift: tuple[float, float] | None = None
    """(dy, dx) as the picture is seen; None where a learned network brings its own."""
    method: str = "fourier"
    """One of `classical.shift.METHODS`, or `learned`."""
    border: Border = "reflect"
    fill: float = 0.0
    """The level around the picture for `constant`, 0..1."""
    model: Path | None = None
    """The .onnx file of a learned shift."""
    quality: int | None = None
    """1 to 100, for lossy formats."""
    white: float | None = None
    """The level of white in float TIFF."""
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        learned = self.method == LEARNED
        if not learned and self.method not in METHODS:
            raise UsageError(f"--method {self.method!r} is none of {', '.join(METHODS)}, {LEARNED}")
        if self.border not in BORDERS:
            raise UsageError(f"--border {self.border!r} is none of {', '.join(BORDERS)}")
        if learned and self.model is None:
            raise UsageError("--method learned needs --model FILE.onnx, as superfine learn-shift writes it")
        if not learned and self.model is not None:
            raise UsageError(f"--model {self.model} goes with --method learned, not with {self.method}")
        if learned and self.shift is not None:
            raise UsageError(f"{self.model} brings its own shift; leave --dx and --dy out")
        if not learned and self.shift is None:
            raise UsageError("say how far: --dx to the right, --dy down, in pixels")
        if not (math.isfinite(self.fill) and 0 <= self.fill <= 1):
            raise UsageError(f"--fill {self.fill:g} is outside 0 (black) to 1 (white)")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is outside 1 to 100")
        if self.white is not None and not (self.white > 0 and math.isfinite(self.white)):
            raise UsageError(f"--white {self.white:g} is not a level above 0")
        for name, step in zip(("--dy", "--dx"), self.shift or (), strict=False):
            if not math.isfinite(step):
                raise UsageError(f"{name} {step} is not a number of pixels")


@dataclass(frozen=True)
class Moved:
    """What became of one picture."""

    source: Path
    output: Path | None
    status: Literal["done", "failed"]
    message: str = ""
    size: tuple[int, int] | None = None
    """(rows, cols) as stored."""
    method: str = ""
    """The classical method, or the learned network's name."""
    shift: tuple[float, float] | None = None
    """(dy, dx) as seen; None for a learned one."""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    """What a person should know."""


def shift_path(
    sources: Path | str | Sequence[Path | str],
    output: Path | str | None = None,
    *,
    movement: Movement,
    overwrite: bool = False,
    done: Callable[[Moved], None] = lambda moved: None,
) -> list[Moved]:
    """Move picture files; what `superfine shift` does.

    output: a file for one picture, else a folder; beside the sources, as NAME_shifted, by
    default. done: called after each picture. A picture that fails doesn't stop the others:
    it is in the list, with its reason. Raises UsageError or ModelError where nothing can be
    done at all.
    """
    given = [sources] if isinstance(sources, (Path, str)) else list(sources)
    if "" in (*given, output):  # as a path it would be the present folder
        raise UsageError("a name is empty; `.` is the present folder")
    engine = None if movement.model is None else _learned_engine(movement.model)
    moved = []
    for source, path in _outputs([Path(entry) for entry in given], None if output is None else Path(output)):
        try:
            result = _move_file(source, path, movement, engine, overwrite=overwrite)
        except (SuperfineError, MemoryError, OSError) as error:
            words = str(error) or type(error).__name__
            named = str(source) in words or str(path) in words
            result = Moved(source, path, "failed", words if named else f"{source}: {words}")
        moved.append(result)
        done(result)
    return moved


def as_stored(shift: tuple[float, float], orientation: int) -> tuple[float, float]:
    """(dy, dx) as a picture is seen -> as its pixels are stored, by the EXIF orientation 1..8. Source: EXIF 2.32."""
    dy, dx = shift
    return {
        1: (dy, dx), 2: (dy, -dx), 3: (-dy, -dx), 4: (-dy, dx),
        5: (dx, dy), 6: (-dx, dy), 7: (-dx, -dy), 8: (dx, -dy),
    }[orientation]  # fmt: skip


def shift_learned(pixels: Array, engine: NetworkEngine, *, border: Border = "reflect", fill: float = 0.0) -> Array:
    """Move a picture as a learned network does; the network sees the border that is asked for, not its own.

    pixels: (H, W, C) with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha); uint8,
    uint16 or float32 in 0..1, returned in kind and clipped to the range. fill: 0..1, for
    `constant`; with alpha that is transparent. Alpha moves as the colours do, which are
    weighed with it. Raises ShapeError, EngineError.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape or pixels.dtype not in KINDS:
        raise ShapeError(
            f"want (H, W, 1|2|3|4) of uint8, uint16 or float32 without an empty side, got {pixels.shape} of"
            f" {pixels.dtype}"
        )
    if pixels.shape[2] in (1, 3):
        level = fill if pixels.dtype == np.float32 else np.rint(fill * KINDS[pixels.dtype])
        return _run(pixels, engine, border, float(level))
    unit = to_unit(pixels)
    alpha = unit[..., -1:]
    if border != "constant" and alpha.min() == alpha.max():
        return np.concatenate([_run(pixels[..., :-1], engine, border, 0.0), pixels[..., -1:]], axis=-1)
    # Halved about grey, so that what overshoots isn't clipped before colours are divided by alpha.
    weighed, alone = (_run(each / 2 + 0.25, engine, border, 0.25) for each in (unit[..., :-1] * alpha, alpha))
    made = np.concatenate([weighed, alone], axis=-1).astype(np.float32) * 2 - np.float32(0.5)
    new_alpha = made[..., -1:]
    seen = new_alpha > _LEAST_ALPHA
    colours = np.where(seen, made[..., :-1] / np.where(seen, new_alpha, 1), 0)
    return to_kind(np.concatenate([colours, new_alpha], axis=-1), pixels.dtype)


# ---- one file


def _move_file(
    source: Path, output: Path, movement: Movement, engine: NetworkEngine | None, *, overwrite: bool
) -> Moved:
    started = time.perf_counter()
    if kind_of(source) == "video":
        raise SourceError(f"{source}: is a video, and shift takes pictures; give it the frames that it should move")
    entry = format_of(output)
    opened = partial(open_picture, source, max_megapixels=movement.max_megapixels, white=movement.white)
    picture = opened()
    # A learned shift is one in the picture as it is seen.
    if picture.orientation != 1 and (engine is not None or not keeps_turn(entry, picture)):
        picture = opened(upright=True)
    check_free(output, [source], overwrite=overwrite)
    check_holds(entry, picture, picture.size)
    made = made_dtype(entry, picture)
    pixels = np.concatenate(list(picture.bands()))
    moved = _moved(pixels if made == pixels.dtype else to_unit(pixels), movement, engine, picture.orientation)
    if moved.dtype != made or made == np.float32:  # which holds no level outside of 0..1
        moved = to_kind(to_unit(moved), made)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_picture(output, [moved], picture.shape, made, like=picture, quality=movement.quality)
    return Moved(
        source,
        output,
        "done",
        size=picture.size,
        method=movement.method if engine is None else engine.model.card.name,
        shift=movement.shift,
        seconds=time.perf_counter() - started,
        notes=(*picture.notes, *fewer_bits(entry, picture)),
    )


def _moved(pixels: Array, movement: Movement, engine: NetworkEngine | None, orientation: int) -> Array:
    if engine is not None:
        return shift_learned(pixels, engine, border=movement.border, fill=movement.fill)
    method: Method = movement.method  # type: ignore[assignment] # checked when it was made
    shift = as_stored(movement.shift or (0.0, 0.0), orientation)
    return shift_image(pixels, shift, method=method, border=movement.border, fill=movement.fill)


# ---- which files


def _outputs(sources: Sequence[Path], output: Path | None) -> list[tuple[Path, Path]]:
    """Each source and where it goes; no two go to one place."""
    if not sources:
        raise UsageError("no source given")
    if folders := [source for source in sources if os.path.isdir(source)]:
        raise UsageError(f"{folders[0]}: is a folder; name its pictures, as in {folders[0] / '*.png'}")
    if output is not None and len(sources) == 1 and output.suffix and not os.path.isdir(output):
        format_of(output)
        check_folder(output)
        return [(sources[0], output)]
    if output is not None and os.path.lexists(output) and not os.path.isdir(output):
        raise UsageError(f"{output}: is a file, and several pictures need a folder")
    found: dict[str, Path] = {}
    pairs = []
    for source in dict.fromkeys(sources):
        path = source.with_stem(f"{source.stem}_shifted") if output is None else output / source.name
        if (other := found.setdefault(str(path).casefold(), source)) != source:  # `A.png` may be `a.png`
            raise UsageError(f"{source} and {other} would both become {path}; move them one by one, or rename one")
        pairs.append((source, path))
    return pairs


# ---- a learned shift


def _learned_engine(path: Path) -> NetworkEngine:
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path}: want the .onnx file that superfine learn-shift writes")
    model = read_model(path)
    if model.card.scale != 1:
        raise ModelError(f"{path}: enlarges x{model.card.scale}; a learned shift keeps the size")
    return open_engine(model, "openvino", "fp32")


def _run(pixels: Array, engine: NetworkEngine, border: Border, level: float) -> Array:
    """(H, W, 1 or 3) -> the same, in tiles, with the border around it."""
    rows, cols = pixels.shape[:2]
    halo = engine.halo
    wide = extended(pixels, -halo, rows + halo, 0, border, level)
    wide = extended(wide, -halo, cols + halo, 1, border, level)
    grey = pixels.shape[2] == 1

    def compute(piece: Array) -> Array:
        made = engine((np.repeat(piece, 3, axis=2) if grey else piece)[None])
        return made[..., :1] if grey else made

    grid = Grid(1, halo, engine.multiple_of, LEAST_SIDE)
    window = Window((wide.shape[0], wide.shape[1], wide.shape[2]), wide.dtype, [wide])
    bands = list(enlarge(window, grid, engine.model.card.tile, compute))
    return np.concatenate(bands)[halo : halo + rows, halo : halo + cols]
