"""Which JPEG a picture is or was: its quality from the file's tables, and from decoded pixels.

What was a JPEG has discrete cosine coefficients that lie at multiples of the
quantisation table's steps, on one of 64 positions of the 8x8 grid. For each
frequency a histogram of coefficients gives the likelihood of each step; the
quality of the Independent JPEG Group is the one whose table is the likeliest.
Sources: ITU-T T.81, K.1; Fan and de Queiroz 2003, doi:10.1109/TIP.2002.807361.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.classical.dct import block_cosines
from superfine.errors import SourceError

__all__ = [
    "JpegTables",
    "JpegTrace",
    "find_jpeg",
    "jpeg_tables",
    "standard_table",
]

Floats = npt.NDArray[np.floating]
Table = npt.NDArray[np.int64]

# ITU-T T.81, table K.1, and the order in which files store it.
_LUMA: Final = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_ZIGZAG: Final = sorted(
    ((row, col) for row in range(8) for col in range(8)),
    key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]),
)
# Markers: those without a body (restart, start and end of image), tables, and where pixels begin.
_BARE: Final = frozenset({0x01, *range(0xD0, 0xDA)})
_QUANTISATION, _SCAN = 0xDB, 0xDA

# Coefficients are counted in bins of 1/16 level, from where steps begin to tell.
_BINS_A_LEVEL: Final = 16
_LEAST, _MOST = 1.0, 128.0
_STEPS: Final = 256
# What rounding to whole levels adds to each coefficient: luma, then R, G and B. And what clipping adds, at times.
_ROUNDING: Final = 0.36
_STRAY: Final = 0.1
# The frequencies that show the grid's position: they are rarely all zero.
_LOW: Final = tuple(8 * row + col for row in range(5) for col in range(5) if 0 < row + col < 5)
_BLOCKS: Final = 2048
# Without a known table the grid's position must fit by this much better than any other.
_ALONE: Final = 2.0


@dataclass(frozen=True)
class JpegTables:
    """The quantisation of luma in a JPEG file."""

    quality: int
    """1..100 as the Independent JPEG Group counts it; where the table is another's, the nearest."""
    standard: bool
    """The table is exactly that of this quality."""
    difference: float
    """Mean difference of the steps from those of this quality, as a share of them."""


@dataclass(frozen=True)
class JpegTrace:
    """What decoded pixels show of an earlier JPEG."""

    quality: int
    phase: tuple[int, int]
    """(rows, cols), 0..7: the first row and column at which a block begins."""
    standard: bool
    """The steps seen are those of the Independent JPEG Group's table."""
    evidence: float
    """How much likelier the trace is than none: the logarithm of the ratio."""
    margin: float
    """How much likelier than a quality that is 6 or more away, the same way."""
    coefficients: int
    """How many coefficients of a level or more all that rests on."""


def standard_table(quality: int) -> Table:
    """The luma quantisation (8, 8) of a quality 1..100, rows first. Source: libjpeg, jpeg_quality_scaling."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table: Table = np.clip((_LUMA * scale + 50) // 100, 1, 255)
    return table


def jpeg_tables(path: Path) -> JpegTables:
    """Table 0 of a JPEG file, which is luma's by custom, and the quality whose table it is or is nearest to.

    Raises SourceError where the file has none before its pixels begin.
    """
    table = None
    with path.open("rb") as file:
        file.seek(2)
        while table is None and len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != _SCAN:
            if head[1] == 0xFF or head[1] in _BARE:
                file.seek(-3 if head[1] == 0xFF else -2, 1)
                continue
            body = file.read(max(0, int.from_bytes(head[2:]) - 2))
            if head[1] == _QUANTISATION:
                table = _first_table(body)
    if table is None:
        raise SourceError(f"{path}: a JPEG without a quantisation table before its pixels; save it again")
    tables = _tables()
    apart = (np.abs(tables - table) / tables).mean(axis=(1, 2))
    best = int(apart.argmin())
    return JpegTables(best + 1, bool(apart[best] == 0), float(apart[best]))


def find_jpeg(planes: Sequence[Floats]) -> JpegTrace | None:
    """The likeliest JPEG that a picture was before, and how likely: without evidence it was none.

    planes: each (H, W), luma (BT.601, full range) in 8-bit levels, NaN where a channel is clipped, which is on no
    lattice; the first pixels of all lie at multiples of eight in the picture. Pictures below about 64 x 64 show
    nothing, and so do those resampled since, or of a quality near 100. None where all planes are below 16 x 16.
    """
    planes = [plane for plane in planes if min(plane.shape) >= 16]
    if not planes:
        return None
    fit = _fits()
    per_plane = -(-_BLOCKS // len(planes))
    steps_of = _tables().reshape(100, 64)
    low = np.array(_LOW)
    anything = np.zeros((8, 8))
    for row in range(8):
        for col in range(8):
            counts = sum(_histograms(plane[row:, col:], low, per_plane) for plane in planes)
            anything[row, col] = (counts @ fit).max(axis=1).clip(0).sum()  # by any table
    row, col = (int(place) for place in np.unravel_index(anything.argmax(), (8, 8)))
    phase = row, col
    second, best = np.sort(anything, axis=None)[-2:]
    every = np.arange(1, 64)
    counts = sum(_histograms(plane[phase[0] :, phase[1] :], every, 4 * per_plane) for plane in planes)
    likelihood = counts @ fit  # (63, steps)
    scores = likelihood[np.arange(63), steps_of[:, every]].sum(axis=1)
    seen = np.asarray(counts).sum(axis=1)
    quality = int(scores.argmax()) + 1
    far = np.abs(np.arange(1, 101) - quality) >= 6
    free = float(likelihood.max(axis=1).clip(0).sum())
    evidence = float(scores[quality - 1])
    standard = evidence > 0.8 * free
    if not standard:
        if best < _ALONE * second:  # smooth gradients lie on some lattice by chance, on whatever grid
            return JpegTrace(quality, phase, False, 0.0, 0.0, int(seen.sum()))
        steps = likelihood.argmax(axis=1)
        known = (likelihood.max(axis=1) > 10) & (seen > 0)
        if not known.any():
            return JpegTrace(quality, phase, False, 0.0, 0.0, int(seen.sum()))
        apart = np.abs(np.log(steps_of[:, every][:, known] / np.maximum(1, steps[known]))).mean(axis=1)
        quality = int(apart.argmin()) + 1
        evidence = free
    margin = float(scores.max() - scores[far].max())
    return JpegTrace(quality, phase, standard, evidence, margin, int(seen.sum()))


def _first_table(body: bytes) -> Table | None:
    """The table with number 0 in a segment of tables; Pq says whether its steps have one byte or two."""
    at = 0
    while at < len(body):
        wide, number = body[at] >> 4, body[at] & 15
        size = 128 if wide else 64
        steps = np.frombuffer(body[at + 1 : at + 1 + size], ">u2" if wide else np.uint8)
        if len(steps) < 64:
            return None
        if number == 0:
            table = np.zeros((8, 8), np.int64)
            for place, step in zip(_ZIGZAG, steps, strict=True):
                table[place] = step
            return table
        at += 1 + size
    return None


@cache
def _tables() -> Table:
    return np.array([standard_table(quality) for quality in range(1, 101)])


@cache
def _fits() -> Floats:
    """The log-likelihood ratio of each bin of |coefficient| under each step: (bins, steps); step 0 says nothing.

    Against a density without steps: most coefficients lie near a multiple, a few stray.
    """
    middle = _LEAST + (np.arange(round((_MOST - _LEAST) * _BINS_A_LEVEL)) + 0.5) / _BINS_A_LEVEL
    step = np.maximum(1, np.arange(_STEPS))
    rest = middle[:, None] - step * np.round(middle[:, None] / step)
    bell = np.exp(-0.5 * (rest / _ROUNDING) ** 2) / (_ROUNDING * np.sqrt(2 * np.pi))
    # Lattices so fine that bells overlap: all their bells.
    for turn in (-2, -1, 1, 2):
        bell += np.exp(-0.5 * ((rest + turn * step) / _ROUNDING) ** 2) / (_ROUNDING * np.sqrt(2 * np.pi))
    fit: Floats = np.log(_STRAY + (1 - _STRAY) * step * bell).astype(np.float32)
    fit[:, 0] = 0
    return fit


def _histograms(plane: Floats, frequencies: npt.NDArray[np.intp], most: int) -> Floats:
    """How often each |coefficient| occurs at each frequency: (frequencies, bins), of at most `most` blocks."""
    rows, cols = plane.shape[0] // 8, plane.shape[1] // 8
    lines = plane[: 8 * rows, : 8 * cols].reshape(rows, 8, cols, 8)[:: max(1, rows * cols // (2 * most))]
    blocks = lines.swapaxes(1, 2).reshape(-1, 64)
    blocks = blocks[~np.isnan(blocks).any(axis=1)]
    if len(blocks) > most:
        blocks = blocks[:: len(blocks) // most][:most]
    bins = round((_MOST - _LEAST) * _BINS_A_LEVEL)
    values = np.abs(blocks @ block_cosines()[:, frequencies])
    place = ((values - _LEAST) * _BINS_A_LEVEL).astype(np.intp)
    inside = (values >= _LEAST) & (place < bins)
    place += np.arange(len(frequencies)) * bins
    return np.bincount(place[inside], minlength=len(frequencies) * bins).reshape(-1, bins).astype(np.float32)
