"""Folders -> pairs of pictures to judge by: small, large, and how the small one came about.

HR alone            LR is made here: by MATLAB's bicubic to the bit, or worse on purpose, or blurred by known kernels
HR and LR           as they lie there, in any layout of `layouts`
same-size pairs     LR shows less than HR at the same size: reduced by the scale first
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.blurs import BLURS, Blur, blurred
from superfine.classical.degrade import Degradation, degrade
from superfine.classical.kernels import SCALES
from superfine.classical.resample import matlab_resize
from superfine.color import to_kind, to_unit
from superfine.errors import ShapeError, SourceError, UsageError
from superfine.image import open_picture
from superfine.layouts import Source, pictures_in
from superfine.route import MAX_SCALE

__all__ = ["REDUCTIONS", "Dataset", "Pair", "as_bytes", "decode", "open_dataset"]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


class Pair(NamedTuple):
    """A whole picture: small (h, w, 3) and large (scale*h, scale*w, 3), uint8 RGB."""

    name: str
    small: Bytes
    large: Bytes
    as_is: Bytes | None = None
    """In same-size pairs LR at its own size, that of `large`."""
    rule: str = ""
    """How LR came about: `matlab-bicubic`, `LR as given`, `paired, pre-reduced 2`, ..."""
    kernel: Floats | None = None
    """The kernel (n, n) of `classical.kernels` that LR was made by, where one is known."""


class Made(NamedTuple):
    """LR, and the kernel that made it, where it was one."""

    small: Bytes
    kernel: Floats | None = None


class Reduction(NamedTuple):
    """A rule that makes LR of HR."""

    name: str
    protocol: Callable[[int], str]
    """By scale: in words, as it stands beside a figure."""
    make: Callable[[Bytes, int, int], Made]
    """(HR, scale, place of the pair in its data set) -> LR."""
    each: int = 1
    """How many LR are made of one HR, one after another."""
    scales: tuple[int, ...] = tuple(range(1, MAX_SCALE + 1))


_SEED: Final = 1
_DEGRADED: Final = f"degraded (blur, noise, JPEG as classical.degrade, seed {_SEED})"


def _by_matlab(large: Bytes, scale: int) -> Bytes:
    return matlab_resize(large, (large.shape[0] // scale, large.shape[1] // scale))


def _reduced(large: Bytes, scale: int, place: int) -> Made:  # noqa: ARG001 - the same for every picture
    return Made(_by_matlab(large, scale))


def _damaged(large: Bytes, scale: int, place: int) -> Made:
    return Made(degrade(large, scale, Degradation(clean=0.0), np.random.default_rng((_SEED, place))).small)


def _blurring(blur: Blur) -> Reduction:
    """The rule that makes a blur's small pictures."""

    def make(large: Bytes, scale: int, place: int) -> Made:
        kernel = blur.kernel(scale, *divmod(place, blur.each))
        return Made(blurred(large, kernel, scale), kernel)

    return Reduction(blur.name, blur.words, make, blur.each, SCALES)


#: Rules that make LR where a folder has none.
REDUCTIONS = {
    rule.name: rule
    for rule in (
        Reduction("matlab-bicubic", lambda scale: "matlab-bicubic", _reduced),
        Reduction("degraded", lambda scale: _DEGRADED, _damaged),
        *map(_blurring, BLURS.values()),
    )
}


@dataclass(frozen=True)
class Dataset:
    """A folder of pictures to judge by; nothing is decoded yet."""

    name: str
    scale: int
    sources: tuple[Source, ...]
    """Of each pair; a rule that makes several LR of one HR names its source as often, with a number."""
    unfit: tuple[tuple[Path, str], ...] = ()
    """Pictures that can't be judged by, each with the reason."""
    notes: tuple[str, ...] = ()
    reduction: str = field(default="matlab-bicubic", repr=False)

    def __len__(self) -> int:
        """How many pictures each method enlarges."""
        return len(self.sources)

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
            try:
                made = rule.make(large, scale, place)
            except ShapeError as error:
                raise SourceError(f"{source.large}: {error}") from error
            return Pair(source.name, made.small, large, rule=rule.protocol(scale), kernel=made.kernel)
        small = decode(source.small)
        if source.same_size:
            as_is = np.ascontiguousarray(small[: rows * scale, : cols * scale])
            reduced = as_is if scale == 1 else matlab_resize(as_is, (rows, cols))
            return Pair(source.name, reduced, large, as_is, f"paired, pre-reduced {scale}" if scale > 1 else "paired")
        known = np.array_equal(small, _by_matlab(large, scale))  # seen, not believed
        return Pair(source.name, small, large, rule="matlab-bicubic" if known else "LR as given")


def open_dataset(folder: Path, scale: int, *, reduction: str = "matlab-bicubic") -> Dataset:
    """The pictures of a folder for one scale, in any layout of `layouts`.

    reduction: the rule of `REDUCTIONS` that makes LR where there is none; a blur of `classical.blurs` makes it
    also where the folder brings its own, which is left out then. Where the data set itself
    says which pictures are its test, only those are taken. Raises SourceError for a folder that
    isn't there or holds no picture, UsageError where it mixes kinds or the rule is unknown.
    """
    if reduction not in REDUCTIONS:
        raise UsageError(f"no rule {reduction!r} that makes LR; there are {', '.join(REDUCTIONS)}")
    if not 1 <= scale <= MAX_SCALE:
        raise UsageError(f"--scale {scale} is outside 1 to {MAX_SCALE}")
    rule = REDUCTIONS[reduction]
    if scale not in rule.scales:
        raise UsageError(
            f"--lr {reduction} is laid down for the scales {', '.join(map(str, rule.scales))}, not {scale}"
        )
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
    if reduction in BLURS and sources[0].small is not None and not sources[0].same_size:
        sources = tuple(replace(source, small=None) for source in sources)
        notes = (*notes, "the folder's own LR left out")
    if sources[0].small is not None and reduction != "matlab-bicubic":
        raise UsageError(f"{folder}: has LR of its own, so --lr {reduction} has nothing to make; leave it out")
    if sources[0].small is None and scale == 1 and reduction == "matlab-bicubic":
        raise UsageError(f"{folder}: at scale 1 LR would be HR itself; give --lr degraded, or same-size pairs")
    if rule.each > 1:
        sources = tuple(
            replace(source, name=f"{source.name}, kernel {number + 1}")
            for source in sources
            for number in range(rule.each)
        )
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
    return as_bytes(np.concatenate(list(picture.bands())), alpha=picture.alpha)


def as_bytes(pixels: Array, *, alpha: bool) -> Bytes:
    """(H, W, channels), alpha the last where there is one -> (H, W, 3) uint8: as `decode` gives a picture."""
    if alpha:
        colours, opaque = np.split(to_unit(pixels), [-1], axis=2)
        pixels = to_kind(colours * opaque + (1 - opaque), np.dtype(np.uint8))
    elif pixels.dtype != np.uint8:
        pixels = to_kind(to_unit(pixels), np.dtype(np.uint8))
    whole: Bytes = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    return whole
