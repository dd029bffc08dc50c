"""Where the picture that a verb makes may go, and what of its source the file there can hold."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from superfine.errors import OutputError, UsageError
from superfine.image import Format, Picture

__all__ = ["check_folder", "check_free", "check_holds", "fewer_bits", "keeps_turn", "made_dtype"]


def check_free(output: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raise OutputError where something is at `output` already that may not be replaced: above all, a source."""
    if not os.path.exists(output):
        return
    if os.path.isdir(output):
        raise OutputError(f"{output}: is a folder where the output should go; give the name of a file")
    if any(os.path.exists(source) and output.samefile(source) for source in sources):
        which = "the source itself" if len(sources) == 1 else "one of the sources"
        raise OutputError(f"{output}: the output is {which}; choose another name with -o")
    if not overwrite:
        raise OutputError(f"{output}: exists already; replace it with --overwrite or choose another name with -o")


def check_folder(output: Path) -> None:
    """Raise now, not after the work, where there is no folder for `output`, or nothing may be written there."""
    if not os.path.isdir(output.parent):
        raise UsageError(f"{output.parent}: there is no such folder for the output; create it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{output}: nothing may be written into {output.parent}; choose another folder with -o")


def check_holds(entry: Format, picture: Picture, size: tuple[int, int]) -> None:
    """Raise UsageError where the format can't hold the picture's alpha, or so many (rows, cols)."""
    if picture.alpha and not entry.alpha:
        raise UsageError(
            f"{picture.path}: has alpha, which {entry.name.upper()} can't hold; write PNG, WebP, AVIF or TIFF"
        )
    if max(size) > entry.longest:
        raise UsageError(
            f"{picture.path}: {size[1]} x {size[0]} is more than {entry.name.upper()}'s {entry.longest} pixels a side;"
            " write PNG or TIFF"
        )


def keeps_turn(entry: Format, picture: Picture) -> bool:
    """Pixels can stay as stored: the picture is upright, or the file says again how it is turned."""
    return picture.orientation == 1 or (entry.turns and entry.name == picture.format.name)


def made_dtype(entry: Format, picture: Picture) -> np.dtype[Any]:
    """The deepest dtype that the format shares with the picture."""
    fitting = [dtype for dtype in entry.dtypes if dtype.itemsize <= picture.dtype.itemsize]
    return max(fitting, key=lambda dtype: dtype.itemsize)


def fewer_bits(entry: Format, picture: Picture) -> tuple[str, ...]:
    """What a person should know where the format takes bits away."""
    bits = min(entry.bits, 8 * made_dtype(entry, picture).itemsize)
    return (f"{picture.bits} bits a sample become {bits} in {entry.name.upper()}",) if picture.bits > bits else ()
