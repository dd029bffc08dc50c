"""Numbers as colours: a scale that the eye puts in order, laid over a picture, with a legend."""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.color import full_luma, to_unit

__all__ = ["LEGEND_LEVELS", "colour_map", "heated", "legend", "legend_rows", "warmth"]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

#: What the legend names, in 8-bit levels; the last one and more have the last colour.
LEGEND_LEVELS: Final = (0, 1, 2, 4, 8, 16, 32, 64)
# The share of the colour over the picture, where there is no doubt and where it is greatest.
_FAINT, _STRONG = 0.25, 0.9
# Where the bar begins, in columns of 200.
_BAR_LEFT: Final = 40
# Below this many columns a legend would have no room.
_NARROWEST: Final = 160
# 3 x 5 pixels each, a row in three bits.
_GLYPHS: Final = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 7, 1, 7), "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 2, 2, 2), "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7),
    "±": (2, 7, 2, 0, 7), "+": (0, 2, 7, 2, 0), " ": (0, 0, 0, 0, 0), "F": (7, 4, 6, 4, 4), "H": (5, 5, 7, 5, 5),
    "I": (7, 2, 2, 2, 7), "N": (7, 5, 5, 5, 5), "O": (7, 5, 5, 5, 7), "T": (7, 2, 2, 2, 2), "W": (5, 5, 5, 7, 5),
}  # fmt: skip


@cache
def colour_map() -> Bytes:
    """256 colours (256, 3) of evenly growing lightness, from near black through red to pale yellow.

    Source: Ottosson 2020, "A perceptual color space for image processing" (OKLab).
    """
    t = np.linspace(0, 1, 256)
    chroma, hue = 0.155 * np.sin(np.pi * t) ** 0.9, np.radians(295 + 165 * t)
    lab = np.stack([0.16 + 0.81 * t, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    cones = lab @ np.array(
        [[1, 1, 1], [0.3963377774, -0.1055613458, -0.0894841775], [0.2158037573, -0.0638541728, -1.2914855480]]
    )
    linear = cones**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: Bytes = np.rint(encoded * 255).astype(np.uint8)
    return colours


def warmth(levels: Floats) -> Floats:
    """Where on the colour scale a number of levels stands, 0..1: as its logarithm, from 0 to the legend's last."""
    place: Floats = np.log2(1 + levels.clip(0, LEGEND_LEVELS[-1])) / np.log2(1 + LEGEND_LEVELS[-1])
    return place


def heated(pixels: Array, levels: Floats) -> Bytes:
    """A picture in grey, under the colours of `levels`: (rows, cols, 1|2|3|4) and (rows, cols) -> (rows, cols, 3).

    Colours cover the more the hotter they are. Transparent parts are taken as they are stored.
    """
    unit = to_unit(pixels)
    grey = full_luma(unit[..., :3]) if unit.shape[2] >= 3 else unit[..., 0]
    place = warmth(levels)[..., None]
    cover = _FAINT + (_STRONG - _FAINT) * place
    colours = colour_map()[np.rint(place[..., 0] * 255).astype(np.intp)]
    mixed = (1 - cover) * 255 * grey[..., None] + cover * colours
    heat: Bytes = np.rint(mixed.clip(0, 255)).astype(np.uint8)
    return heat


def legend_rows(cols: int) -> int:
    """How high a legend of so many columns is; 0 where it has no room."""
    return 0 if cols < _NARROWEST else 20 * _size(cols)


def legend(cols: int, share: float) -> Bytes:
    """A bar of all colours with numbers of levels under it, (legend_rows(cols), cols, 3).

    share: of pixels that are no further from the truth, in tenths; said on the left.
    """
    size = _size(cols)
    strip = np.full((legend_rows(cols), cols, 3), 24, np.uint8)
    if not len(strip):
        return strip
    left, right = _BAR_LEFT * size, cols - 12 * size
    for line, words in enumerate((f"{round(10 * share)} OF 10", "WITHIN")):
        _write(strip, words, 3 * size, (4 + 8 * line) * size, size)
    place = np.linspace(0, 255, right - left)
    strip[4 * size : 10 * size, left:right] = colour_map()[np.rint(place).astype(np.intp)]
    for level in LEGEND_LEVELS:
        at = left + round(float(warmth(np.array(float(level)))) * (right - left - 1))
        word = f"±{level}" + ("+" if level == LEGEND_LEVELS[-1] else "")
        strip[10 * size : 12 * size, max(at - size // 2, left) : max(at - size // 2, left) + size] = 255
        _write(strip, word, at - 2 * size * len(word) + size, 13 * size, size)
    return strip


def _size(cols: int) -> int:
    return max(1, cols // 200)


def _write(strip: Bytes, word: str, left: int, top: int, size: int) -> None:
    for place, sign in enumerate(word):
        bits = np.array([[row >> 2 & 1, row >> 1 & 1, row & 1] for row in _GLYPHS[sign]], bool)
        large = bits.repeat(size, 0).repeat(size, 1)
        at = left + 4 * size * place
        part = strip[top : top + large.shape[0], at : at + large.shape[1]]
        part[large[:, : part.shape[1]]] = 235
