"""Folders -> pairs of pictures to judge by: small, large, and how the small one came about.

HR alone            LR is made here: by MATLAB's bicubic to the bit, or worse on purpose
HR and LR           as they lie there, in any layout of `layouts`
same-size pairs     LR shows less than HR at the same size: reduced by the scale first
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.degrade import Degradation, degrade
from superfine.classical.resample import matlab_resize
from superfine.color import to_kind, to_unit
from superfine.errors import SourceError, UsageError
from superfine.image import open_picture
from superfine.layouts import Source, pictures_in
from superfine.route import MAX_SCALE

__all__ = ["REDUCTIONS", "Dataset", "Pair", "decode", "open_dataset"]

Bytes = npt.NDArray[np.uint8]


class Pair(NamedTuple):
    """A whole picture: small (h, w, 3) and large (scale*h, scale*w, 3), uint8 RGB."""

    name: str
    small: Bytes
    large: Bytes
    as_is: Bytes | None = None
    """In same-size pairs LR at its own size, that of `large`."""
    rule: str = ""
    """How LR came about: `matlab-bicubic`, `LR as given`, `paired, pre-reduced 2`, ..."""


class Reduction(NamedTuple):
    """A rule that makes LR of HR."""

    name: str
    protocol: str
    """In words, as it stands beside a figure."""
    small: Callable[[Bytes, int, int], Bytes]
    """(HR, scale, place of the picture in its folder) -> LR."""


_SEED: Final = 1


def _matlab(large: Bytes, scale: int, place: int) -> Bytes:  # noqa: ARG001 - the same for every picture
    return matlab_resize(large, (large.shape[0] // scale, large.shape[1] // scale))


def _damaged(large: Bytes, scale: int, place: int) -> Bytes:
    return degrade(large, scale, Degradation(clean=0.0), np.random.default_rng((_SEED, place))).small


#: Rules that make LR where a folder has none.
REDUCTIONS = {
    rule.name: rule
    for rule in (
        Reduction("matlab-bicubic", "matlab-bicubic", _matlab),
        Reduction("degraded", f"degraded (blur, noise, JPEG as classical.degrade, seed {_SEED})", _damaged),
    )
}


@dataclass(frozen=True)
class Dataset:
    """A folder of pictures to judge by; nothing is decoded yet."""

    name: str
    scale: int
    sources: tuple[Source, ...]
    unfit: tuple[tuple[Path, str], ...] = ()
    """Pictures that can't be judged by, each with the reason."""
    notes: tuple[str, ...] = ()
    reduction: str = field(default="matlab-bicubic", repr=False)

    def pair(self, place: int) -> Pair:
        """Decode one of `sources`. HR is cropped at the right and the bottom to a multiple of the scale.

        Raises SourceError where the picture can't be read or is smaller than the scale.
        """
        source, scale = self.sources[place], self.scale
        large = decode(source.large)
        rows, cols = (side // scale for side in large.shape[:2])
        if not (rows and cols):
            raise SourceError(f"{source.large}: {large.shape[1]} x {large.shape[0]} leaves nothing at scale {scale}")
        large = np.ascontiguousarray(large[: rows * scale, : cols * scale])
        if source.small is None:
            rule = REDUCTIONS[self.reduction]
            return Pair(source.name, rule.small(large, scale, place), large, rule=rule.protocol)
        small = decode(source.small)
        if source.same_size:
            as_is = np.ascontiguousarray(small[: rows * scale, : cols * scale])
            reduced = as_is if scale == 1 else matlab_resize(as_is, (rows, cols))
            return Pair(source.name, reduced, large, as_is, f"paired, pre-reduced {scale}" if scale > 1 else "paired")
        known = np.array_equal(small, _matlab(large, scale, place))  # seen, not believed
        return Pair(source.name, small, large, rule="matlab-bicubic" if known else "LR as given")


def open_dataset(folder: Path, scale: int, *, reduction: str = "matlab-bicubic") -> Dataset:
    """The pictures of a folder for one scale, in any layout of `layouts`.

    reduction: the rule of `REDUCTIONS` that makes LR where there is none. Where the data set
    itself says which pictures are its test, only those are taken. Raises SourceError for a folder that
    isn't there or holds no picture, UsageError where it mixes kinds or the rule is unknown.
    """
    if reduction not in REDUCTIONS:
        raise UsageError(f"no rule {reduction!r} that makes LR; there are {', '.join(REDUCTIONS)}")
    if not 1 <= scale <= MAX_SCALE:
        raise UsageError(f"--scale {scale} is outside 1 to {MAX_SCALE}")
    found = pictures_in(folder, scale)
    sources, notes = _test_part(found.sources)
    kinds = {(source.small is not None, source.same_size) for source in sources}
    if len(kinds) > 1:
        alone = next((source for source in sources if source.small is None), sources[0])
        raise UsageError(
            f"{folder}: holds pairs and others, such as {alone.name}; judge folders of one kind, one after another"
        )
    if not kinds:
        reason = f": {found.unfit[0][0].name}: {found.unfit[0][1]}" if found.unfit else ""
        counts = Counter(reason for _, reason in found.ignored)
        others = "".join(f"; {count} files are left out: {reason}" for reason, count in counts.most_common(3))
        raise SourceError(f"{folder}: holds no picture to judge by at scale {scale}{others}{reason}")
    if sources[0].small is not None and reduction != "matlab-bicubic":
        raise UsageError(f"{folder}: has LR of its own, so --lr {reduction} has nothing to make; leave it out")
    if sources[0].small is None and scale == 1 and reduction == "matlab-bicubic":
        raise UsageError(f"{folder}: at scale 1 LR would be HR itself; give --lr degraded, or same-size pairs")
    return Dataset(Path(os.path.abspath(folder)).name, scale, sources, found.unfit, notes, reduction)


def _test_part(sources: Sequence[Source]) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    for part in ("test", "validation"):
        chosen = tuple(source for source in sources if source.part == part)
        if chosen and len(chosen) < len(sources):
            rest = len(sources) - len(chosen)
            return chosen, (f"the data set's own {part} pictures; {rest} others left out",)
    return tuple(sources), ()


def decode(path: Path) -> Bytes:
    """A picture upright, (H, W, 3) uint8: 16 bits rounded to 8, grey spread, alpha on white. Raises SourceError."""
    picture = open_picture(path, upright=True)
    pixels = np.concatenate(list(picture.bands()))
    if picture.alpha:
        colours, alpha = np.split(to_unit(pixels), [-1], axis=2)
        pixels = to_kind(colours * alpha + (1 - alpha), np.dtype(np.uint8))
    elif pixels.dtype != np.uint8:
        pixels = to_kind(to_unit(pixels), np.dtype(np.uint8))
    whole: Bytes = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    return whole
