"""Pages of text and line art, drawn at random: documents, tables, charts, comics, screens, signs.

Photos teach a network little about letters and hard flat edges. All is drawn several times
larger than asked for and averaged down, so that edges are as soft as a good renderer's.
Fonts: DejaVu, STIX and Computer Modern, which come with matplotlib.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_page"]

Colour = tuple[int, int, int]
Point = tuple[float, float]

_FINE: Final = 3
_LEAST_SIDE: Final = 256
_BLACK: Final = (0, 0, 0)
_WHITE: Final = (255, 255, 255)
_SANS: Final = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "cmss10")
_SERIF: Final = (
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol",
    "cmr10",
)  # fmt: skip
_MONO: Final = ("DejaVuSansMono", "DejaVuSansMono-Bold", "cmtt10")
_SYLLABLES: Final = (
    "an", "be", "co", "da", "el", "fi", "gra", "ho", "in", "ju", "ka", "lo", "me", "nu", "or", "pre", "qui", "ri",
    "sta", "the", "ul", "vo", "wi", "xa", "yo", "ze", "ing", "ment", "ble", "tion", "sch", "str", "ck", "ff",
)  # fmt: skip
_MARKS: Final = ".,;:!?()[]{}<>/+-=*%&#@$"


def draw_page(side: int, draw: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A page of (side, side, 3), or the corner of one; the same for the same state of `draw`."""
    page = _Page(max(side, _LEAST_SIDE), draw)
    kinds: tuple[Callable[[_Page], None], ...] = (_document, _table, _chart, _comic, _screen, _code, _sign)
    kinds[int(draw.integers(len(kinds)))](page)
    return np.ascontiguousarray(page.finished()[:side, :side])


class _Page:
    """A sheet with its colours and its dice. All lengths are in pixels of the result."""

    def __init__(self, side: int, draw: np.random.Generator) -> None:
        self.side, self.draw = side, draw
        tint = draw.integers(0, 22, 3) if self.chance(0.5) else np.zeros(3, np.int64)
        light, dark = 255 - tint, draw.integers(0, 70, 3) if self.chance(0.4) else tint
        first, second = (dark, light) if self.chance(0.3) else (light, dark)
        self.paper, self.ink = _colour(first), _colour(second)
        self.accents = [_colour(draw.integers(0, 256, 3)) for _ in range(4)]
        self.image = Image.new("RGB", (side * _FINE, side * _FINE), self.paper)
        self.pen = ImageDraw.Draw(self.image)

    def chance(self, share: float) -> bool:
        return bool(self.draw.random() < share)

    def between(self, low: float, high: float) -> float:
        return float(self.draw.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        return int(self.draw.integers(low, high + 1))

    def accent(self) -> Colour:
        return self.accents[self.count(0, len(self.accents) - 1)]

    def shade(self, share: float) -> Colour:
        """Between paper and ink."""
        return _colour(np.array(self.paper) * (1 - share) + np.array(self.ink) * share)

    def font(self, size: float, faces: tuple[str, ...] = (*_SANS, *_SERIF)) -> ImageFont.FreeTypeFont:
        return _font(faces[self.count(0, len(faces) - 1)], round(size * _FINE))

    def word(self) -> str:
        kind = self.draw.random()
        if kind < 0.12:
            return str(self.count(0, 9999)) if self.chance(0.6) else f"{self.between(0, 100):.2f}"
        word = "".join(_SYLLABLES[self.count(0, len(_SYLLABLES) - 1)] for _ in range(self.count(1, 4)))
        word = word.upper() if kind < 0.18 else word.capitalize() if kind < 0.35 else word
        return word + _MARKS[self.count(0, len(_MARKS) - 1)] if self.chance(0.12) else word

    def words(self, count: int) -> str:
        return " ".join(self.word() for _ in range(count))

    def fitting(self, font: ImageFont.FreeTypeFont, width: float) -> str:
        """As many words as fill `width`, one at least."""
        line = self.word()
        while font.getlength(longer := f"{line} {self.word()}") <= width * _FINE:
            line = longer
        return line

    def text(self, at: Point, words: str, font: ImageFont.FreeTypeFont, colour: Colour, anchor: str = "la") -> None:
        self.pen.text((at[0] * _FINE, at[1] * _FINE), words, colour, font, anchor)

    def paragraph(self, left: float, top: float, width: float, bottom: float, size: float, colour: Colour) -> None:
        """Lines of one font down to `bottom`."""
        font, step = self.font(size), size * self.between(1.15, 1.6)
        while top + size < bottom:
            self.text((left, top), self.fitting(font, width), font, colour)
            top += step
            if self.chance(0.08):
                top += step / 2

    def line(self, points: list[Point], width: float, colour: Colour) -> None:
        fine = [(x * _FINE, y * _FINE) for x, y in points]
        self.pen.line(fine, colour, max(1, round(width * _FINE)), joint="curve")

    def box(
        self,
        at: Point,
        size: Point,
        fill: Colour | None,
        edge: Colour | None = None,
        width: float = 1,
        radius: float = 0,
    ) -> None:
        corners = [at[0] * _FINE, at[1] * _FINE, (at[0] + size[0]) * _FINE, (at[1] + size[1]) * _FINE]
        self.pen.rounded_rectangle(corners, radius * _FINE, fill, edge, max(1, round(width * _FINE)))

    def disc(self, at: Point, radii: Point, fill: Colour | None, edge: Colour | None = None, width: float = 1) -> None:
        (x, y), (a, b) = at, radii
        corners = [(x - a) * _FINE, (y - b) * _FINE, (x + a) * _FINE, (y + b) * _FINE]
        self.pen.ellipse(corners, fill, edge, max(1, round(width * _FINE)))

    def shape(self, points: list[Point], fill: Colour | None, edge: Colour, width: float) -> None:
        if fill is not None:
            self.pen.polygon([(x * _FINE, y * _FINE) for x, y in points], fill)
        self.line([*points, points[0], points[1]], width, edge)

    def arrow(self, start: Point, stop: Point, width: float, colour: Colour) -> None:
        self.line([start, stop], width, colour)
        way = np.arctan2(stop[1] - start[1], stop[0] - start[0])
        back = 4 + 4 * width
        tips = [(stop[0] - back * np.cos(way + turn), stop[1] - back * np.sin(way + turn)) for turn in (-0.4, 0.4)]
        self.pen.polygon([(x * _FINE, y * _FINE) for x, y in (stop, *tips)], colour)

    def finished(self) -> npt.NDArray[np.uint8]:
        if self.chance(0.25):  # as a scanner takes it
            self.image = self.image.rotate(self.between(-4, 4), Image.Resampling.BICUBIC, fillcolor=self.paper)
        return np.asarray(self.image.reduce(_FINE))


def _colour(levels: npt.NDArray[np.generic]) -> Colour:
    red, green, blue = levels.tolist()
    return round(red), round(green), round(blue)


@lru_cache(maxsize=256)
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _wave(page: _Page, left: float, right: float, middle: float, height: float) -> list[Point]:
    """A smooth curve of three random waves."""
    x, angle = np.linspace(left, right, 161), np.linspace(0, 2 * np.pi, 161)
    y = np.full_like(x, middle)
    for waves in (1, 2.3, 5.1):
        y += page.between(-height, height) / waves * np.sin(waves * angle + page.between(0, 6.3))
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _blob(page: _Page, at: Point, radius: float) -> list[Point]:
    """A closed curve around a point."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    reach = np.full_like(angle, radius)
    for waves in (1, 2, 3, 5):
        reach += radius * page.between(-0.25, 0.25) / waves * np.sin(waves * angle + page.between(0, 6.3))
    return list(zip((at[0] + reach * np.cos(angle)).tolist(), (at[1] + reach * np.sin(angle)).tolist(), strict=True))


def _document(page: _Page) -> None:
    side, margin = page.side, page.between(4, 36)
    columns, top = page.count(1, 3), margin
    if page.chance(0.7):
        title = page.between(16, 44)
        page.text((margin, top), page.words(4), page.font(title), page.accent() if page.chance(0.3) else page.ink)
        top += title * 1.4
    if page.chance(0.4):
        page.line([(margin, top), (side - margin, top)], page.between(0.5, 2), page.ink)
        top += 6
    width = (side - 2 * margin) / columns
    size = page.between(7, 18)
    for column in range(columns):
        left, y = margin + column * width, top
        while y < side - margin:
            end = y + page.between(60, 260)
            if page.chance(0.2):
                page.box((left, y), (width - 14, end - y - 8), page.shade(0.12), page.ink, page.between(0.5, 2))
                page.paragraph(left + 6, y + 6, width - 28, end - 12, size, page.ink)
            else:
                page.paragraph(left, y, width - 14, end, size, page.ink if page.chance(0.85) else page.accent())
            y = end + size


def _table(page: _Page) -> None:
    rows, columns = page.count(5, 24), page.count(2, 7)
    high, wide = page.side / rows, page.side / columns
    font, ruled = page.font(min(high * 0.62, page.between(8, 20))), page.between(0.4, 2)
    for row in range(rows):
        if row == 0 or (row % 2 and page.chance(0.5)):
            page.box((0, row * high), (page.side, high), page.accent() if row == 0 else page.shade(0.1))
        for column in range(columns):
            if font.getlength(word := page.word()) < (wide - 8) * _FINE:
                right = row > 0 and word[0].isdecimal()
                at = (column + 1) * wide - 4 if right else column * wide + 4
                page.text((at, (row + 0.5) * high), word, font, page.ink, "rm" if right else "lm")
        page.line([(0, row * high), (page.side, row * high)], ruled, page.shade(0.7))
    for column in range(columns):
        page.line([(column * wide, 0), (column * wide, page.side)], ruled, page.shade(0.7))


def _chart(page: _Page) -> None:
    side, margin = page.side, page.between(28, 60)
    font, low, high = page.font(page.between(8, 16), _SANS), margin, page.side - margin
    steps = page.count(4, 12)
    for step in range(steps + 1):
        at = low + (high - low) * step / steps
        if page.chance(0.9):
            page.line([(low, at), (high, at)], 0.6, page.shade(0.2))
            page.line([(at, low), (at, high)], 0.6, page.shade(0.2))
        page.text((low - 4, at), f"{step * 12.5:g}", font, page.ink, "rm")
        page.text((at, high + 4), f"{step:g}", font, page.ink, "ma")
    if page.chance(0.4):
        wide = (high - low) / steps
        for step in range(steps):
            tall = page.between(10, high - low)
            page.box((low + step * wide + 3, high - tall), (wide - 6, tall), page.accent(), page.ink, 1)
    for _ in range(page.count(1, 5)):
        points, colour = _wave(page, low, high, page.between(low + 60, high - 60), 60), page.accent()
        if page.chance(0.3):
            for x, y in points[::12]:
                page.disc((x, y), (3.5, 3.5), colour)
        width, dash = page.between(0.8, 2.8), 5 if page.chance(0.3) else 9
        for start in range(0, len(points) - 4, 8):
            page.line(points[start : start + dash], width, colour)
    page.arrow((low, high), (low, low - 14), page.between(0.8, 2), page.ink)
    page.arrow((low, high), (high + 14, high), page.between(0.8, 2), page.ink)
    page.text((side / 2, 6), page.words(3), page.font(page.between(12, 22)), page.ink, "ma")
    page.box((high - 110, low + 6), (100, 50), page.paper, page.ink, 0.8)
    for row in range(3):
        page.line([(high - 104, low + 16 + 14 * row), (high - 84, low + 16 + 14 * row)], 2, page.accent())
        page.text((high - 78, low + 16 + 14 * row), page.word(), font, page.ink, "lm")


def _comic(page: _Page) -> None:
    ink = _BLACK if sum(page.paper) > 380 else _WHITE
    rows, columns = page.count(1, 3), page.count(1, 3)
    high, wide = page.side / rows, page.side / columns
    for row in range(rows):
        for column in range(columns):
            x, y = column * wide + 5, row * high + 5
            scene = page.image.crop((0, 0, round((wide - 10) * _FINE), round((high - 10) * _FINE)))
            sheet, page.image = page.image, scene
            sheet_pen, page.pen = page.pen, ImageDraw.Draw(scene)
            _panel(page, wide - 10, high - 10, ink)
            page.image, page.pen = sheet, sheet_pen
            sheet.paste(scene, (round(x * _FINE), round(y * _FINE)))
            page.box((x, y), (wide - 10, high - 10), None, ink, page.between(1.5, 4))


def _panel(page: _Page, wide: float, high: float, ink: Colour) -> None:
    """One picture of a comic: flat shapes with ink around, hatching, a balloon."""
    page.box((0, 0), (wide, high), page.accent() if page.chance(0.5) else page.paper)
    for _ in range(page.count(3, 9)):
        at = page.between(0, wide), page.between(0, high)
        fill = page.accent() if page.chance(0.7) else page.paper
        page.shape(_blob(page, at, page.between(10, wide / 3)), fill, ink, page.between(0.8, 4))
    for _ in range(page.count(2, 7)):
        x, y, reach = page.between(0, wide), page.between(0, high), page.between(20, 90)
        lean, gap = page.between(-1.5, 1.5), page.between(2.5, 8)
        for at in np.arange(0, reach, gap).tolist():
            end = x + at + lean * reach / 2, y + reach * page.between(0.8, 1)
            page.line([(x + at, y), end], page.between(0.5, 1.6), ink)
    for _ in range(page.count(0, 12)):
        left, right = page.between(-40, wide / 2), page.between(wide / 2, wide + 40)
        page.line(_wave(page, left, right, page.between(0, high), 40), page.between(0.6, 3), ink)
    if page.chance(0.8):
        size, lines = page.between(9, 16), page.count(1, 3)
        at = page.between(wide * 0.3, wide * 0.7), page.between(30, max(31, high * 0.4))
        font, said = page.font(size, _SANS), [page.words(2).upper() for _ in range(lines)]
        reach = max(font.getlength(line) for line in said) / _FINE / 2 * 1.3 + 6
        tail = [(at[0] - 5, at[1]), (at[0] + 12, at[1]), (at[0] + 30, at[1] + size * lines + 26)]
        page.shape(tail, _WHITE, ink, 1.5)
        page.disc(at, (reach, size * lines * 0.9 + 6), _WHITE, ink, 1.5)
        for row, line in enumerate(said):
            page.text((at[0], at[1] + (row - (lines - 1) / 2) * size * 1.15), line, font, _BLACK, "mm")


def _screen(page: _Page) -> None:
    side, bar = page.side, page.between(22, 40)
    page.box((0, 0), (side, side), page.shade(0.08))
    for _ in range(page.count(2, 4)):
        left, top = page.between(-60, side / 2), page.between(-30, side / 2)
        wide, high, round_off = page.between(side / 2, side), page.between(side / 2, side), page.count(0, 12)
        page.box((left, top), (wide, high), page.paper, page.shade(0.4), 1, round_off)
        page.box((left, top), (wide, bar), page.accent() if page.chance(0.4) else page.shade(0.15), None, 1, round_off)
        page.text((left + 12, top + bar / 2), page.words(2), page.font(bar * 0.45, _SANS), page.ink, "lm")
        for button in range(3):
            page.disc((left + wide - 14 - 18 * button, top + bar / 2), (5, 5), page.accent(), page.ink, 0.7)
        y, size = top + bar + 10, page.between(10, 16)
        font = page.font(size, _SANS)
        while y < top + high - 30:
            match page.count(0, 4):
                case 0:
                    page.box((left + 12, y), (size * 7, size * 2), page.accent(), page.ink, 0.8, page.count(0, 8))
                    page.text((left + 12 + size * 3.5, y + size), page.word(), font, page.paper, "mm")
                case 1:
                    page.box((left + 12, y + 2), (size, size), page.paper, page.ink, 1, 2)
                    tick = [(left + 14, y + 8), (left + 17, y + size - 1), (left + 12 + size, y + 3)]
                    page.line(tick, 1.6, page.accent())
                    page.text((left + 22 + size, y), page.words(3), font, page.ink)
                case 2:
                    page.line([(left + 12, y + 8), (left + wide - 30, y + 8)], 3, page.shade(0.3))
                    page.line([(left + 12, y + 8), (left + wide / 2, y + 8)], 3, page.accent())
                    page.disc((left + wide / 2, y + 8), (7, 7), page.shade(0.15), page.ink, 0.7)
                case 3:
                    page.box((left + 12, y), (wide - 40, size * 1.9), page.shade(0.06), page.shade(0.5), 1, 4)
                    page.text((left + 20, y + size), page.words(3), font, page.shade(0.6), "lm")
                case _:
                    page.paragraph(left + 12, y, wide - 30, y + size * 4, size, page.ink)
                    y += size * 2.5
            y += size * 2.6


def _code(page: _Page) -> None:
    size = page.between(9, 17)
    font, step, y = page.font(size, _MONO), size * page.between(1.2, 1.5), 3.0
    colours, number, deep = [page.ink, *(_readable(page, accent) for accent in page.accents)], 1, 0
    while y < page.side:
        page.text((4, y), f"{number:3d}", font, page.shade(0.4))
        x = size * 2.6 + deep * size * 2
        for _ in range(page.count(0, 8)):
            word = page.word() + "".join(_MARKS[page.count(0, len(_MARKS) - 1)] for _ in range(page.count(0, 2)))
            page.text((x, y), word, font, colours[page.count(0, len(colours) - 1)])
            x += font.getlength(word + " ") / _FINE
        deep = min(5, max(0, deep + page.count(-1, 1)))
        y, number = y + step, number + 1


def _readable(page: _Page, colour: Colour) -> Colour:
    return _colour((np.array(colour) + np.array(page.ink)) / 2)


def _sign(page: _Page) -> None:
    """Large letters and flat shapes, as on packages, logos and posters."""
    side = page.side
    page.box((0, 0), (side, side), page.accent() if page.chance(0.6) else page.paper)
    for _ in range(page.count(1, 6)):
        at, size, colour = (page.between(0, side), page.between(0, side)), page.between(20, side / 2.5), page.accent()
        match page.count(0, 3):
            case 0:
                page.disc(at, (size, size), colour, page.ink if page.chance(0.5) else None, page.between(1, 8))
            case 1:
                page.box(at, (size, size * page.between(0.3, 1)), colour, None, 1, page.between(0, size / 6))
            case 2:
                turn, tips = page.between(0, 6.3), 2 * page.count(3, 8)
                reach = [size * (1 if tip % 2 else page.between(0.4, 0.6)) for tip in range(tips)]
                angles = [turn + 2 * np.pi * tip / tips for tip in range(tips)]
                star = [(at[0] + r * np.cos(a), at[1] + r * np.sin(a)) for r, a in zip(reach, angles, strict=True)]
                page.shape(star, colour, page.ink, page.between(0.5, 3))
            case _:
                page.arrow(at, (page.between(0, side), page.between(0, side)), page.between(2, 12), colour)
    y = page.between(0, 60)
    while y < side:
        size = page.between(14, 110)
        colour = page.ink if page.chance(0.6) else page.paper
        page.text((page.between(-20, 60), y), page.words(page.count(1, 3)), page.font(size), colour)
        y += size * page.between(1.1, 2.5)
