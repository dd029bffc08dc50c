"""Two charts of an evaluation, drawn as SVG: dB against time, and the gain on each picture."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Final, NamedTuple

from superfine.evaluate.page import escape, number
from superfine.evaluate.record import Measurement, Row
from superfine.evaluate.tables import kind_of

__all__ = ["Box", "gain_chart", "pareto_chart", "pareto_front", "place_labels", "round_step", "shortened"]

_BASE: Final = "bicubic"


class Box(NamedTuple):
    """A rectangle in the units of a chart."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, across) * max(0.0, down)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of it that lies nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def outside(self, other: "Box") -> float:
        """The area that `other` doesn't cover."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(other)


class _Point(NamedTuple):
    """A method in the plot of dB against time."""

    name: str
    x: float
    y: float


class _Look(NamedTuple):
    """How a method's marks look in both charts."""

    shape: str
    """An outline in a square from -1 to 1."""
    classes: str


class _Axis(NamedTuple):
    """Values -> units of the chart."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


#: Marks that differ without colour, in a square from -1 to 1.
_SHAPES: Final = (
    "M0,-1A1,1 0 1,1 0,1A1,1 0 1,1 0,-1Z",
    "M-.9,-.9H.9V.9H-.9Z",
    "M0,-1.2L1.2,0L0,1.2L-1.2,0Z",
    "M0,-1.1L1.1,.9H-1.1Z",
    "M0,1.1L1.1,-.9H-1.1Z",
    "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "M-1.1,0L.9,-1.1V1.1Z",
    "M1.1,0L-.9,-1.1V1.1Z",
    "M-1.1,-.7L-.7,-1.1L0,-.4L.7,-1.1L1.1,-.7L.4,0L1.1,.7L.7,1.1L0,.4L-.7,1.1L-1.1,.7L-.4,0Z",
    "M-1,-1.1H1L.2,0L1,1.1H-1L-.2,0Z",
    "M-.45,-1.2H.45V1.2H-.45Z",
)
#: `.hue-0` and so on in page.css; has no factor in common with the number of shapes, so that all pairs come in turn.
_HUES: Final = 4
_LETTER: Final = 6.7  # mean width of a letter at 12 px
_CAPITAL: Final = 8.4
_LINE: Final = 14.0


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points (cost, worth) that no other beats, in order of cost.

    None is as cheap and worth more, or cheaper and worth as much; of equal points the first.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def _looks(rows: Sequence[Row], first: str) -> dict[str, _Look]:
    """Method -> its look, baselines before networks. first: the method that stands out."""
    looks = {}
    for kind in ("baseline", "network"):
        alike = [row.model for row in rows if kind_of(row.model) == kind and row.model != _BASE]
        for place, model in enumerate(alike):
            hue = "" if kind == "baseline" else " first" if model == first else f" hue-{place % _HUES}"
            looks[model] = _Look(_SHAPES[place % len(_SHAPES)], f"mark {kind}{hue}")
    return looks


def _both_widths(draw: Callable[[float, float, str], str]) -> str:
    """A chart for wide screens and one for narrow ones, so that letters stay letters."""
    return draw(640, 400, "wide") + draw(358, 360, "narrow")


def pareto_chart(rows: Sequence[Row], first: str) -> str:
    """Mean PSNR of Y of the rows of one data set against time, as a figure. first: the method that stands out."""
    points = [
        _Point(row.model, math.log10(row.ms_per_mpx), row.psnr_y)
        for row in rows
        if math.isfinite(row.psnr_y) and math.isfinite(row.ms_per_mpx) and row.ms_per_mpx > 0
    ]
    drawn = {point.name for point in points}
    missing = [f"{row.model} ({number(row.psnr_y, 2)} dB)" for row in rows if row.model not in drawn]
    left_out = f" Not drawn, without a finite time or PSNR: {', '.join(missing)}." if missing else ""
    stands_out = f" In bold {first}: the highest PSNR, or within 0.01 dB of it and the fastest." if first else ""
    caption = (
        f"<figcaption>PSNR of Y against time <br><small>{escape(rows[0].protocol_y)}. The line is the Pareto front:"
        f" hollow marks have something faster and better.{escape(stands_out + left_out)}</small></figcaption>"
    )
    if not points:
        return f"<figure>{caption}</figure>"
    looks = _looks(rows, first) | {_BASE: _Look(_SHAPES[0], "mark baseline")}
    return f"<figure>{caption}{_both_widths(lambda w, h, kind: _pareto_svg(points, looks, first, w, h, kind))}</figure>"


def _pareto_svg(
    points: Sequence[_Point], looks: Mapping[str, _Look], first: str, width: float, height: float, kind: str
) -> str:
    plot = Box(44, 8, width - 8, height - 44)
    x = _axis([point.x for point in points], plot.left, plot.right, 0.08, least=0.3)
    y = _axis([point.y for point in points], plot.bottom, plot.top, 0.08, least=0.5)
    front = pareto_front([(point.x, point.y) for point in points])
    parts = [*_frame(plot, y, "dB"), *_log_ticks(plot, x)]
    middle = (plot.left + plot.right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{height - 4:g}" text-anchor="middle">ms per Mpx of input, log</text>')
    steps = [f"M{x(points[front[0]].x):.1f},{y(points[front[0]].y):.1f}"]
    steps += [f"H{x(points[place].x):.1f}V{y(points[place].y):.1f}" for place in front[1:]]
    parts.append(f'<path class="front" d="{"".join(steps)}H{plot.right:g}"/>')
    centres = [(x(point.x), y(point.y)) for point in points]
    line = [centres[place] for place in front]
    lines = [box for before, after in pairwise([*line, (plot.right, line[-1][1])]) for box in _step(before, after)]
    named = [(point.name, *centre) for point, centre in zip(points, centres, strict=True)]
    labels = place_labels(named, plot, lines)
    for point, centre, box in zip(points, centres, labels, strict=True):
        near = box.nearest(*centre)
        if math.dist(near, centre) > 9:
            parts.append(f'<path class="leader" d="M{centre[0]:.1f},{centre[1]:.1f}L{near[0]:.1f},{near[1]:.1f}"/>')
        style = "leading" if point.name == first else "name" if kind_of(point.name) == "network" else "other"
        parts.append(
            f'<text class="label {style}" x="{(box.left + box.right) / 2:.1f}" y="{box.bottom - 3:.1f}"'
            f' text-anchor="middle">{escape(point.name)}</text>'
        )
    # Over leaders and letters, so that none hides a mark.
    for place, (point, (across, down)) in enumerate(zip(points, centres, strict=True)):
        look = looks[point.name]
        classes = f"{look.classes} {'best' if place in front else 'dominated'}"
        title = f"{point.name}: {point.y:.2f} dB, {10**point.x:,.0f} ms per Mpx"
        parts.append(_mark(look._replace(classes=classes), across, down, title))
    words = f"PSNR of Y against time of {len(points)} methods; the table has the figures"
    return _svg(parts, width, height, kind, words)


def _step(before: tuple[float, float], after: tuple[float, float]) -> tuple[Box, Box]:
    """A step of the front as two thin boxes: across, then up."""
    across = Box(before[0], before[1] - 1, after[0], before[1] + 1)
    return across, Box(after[0] - 1, min(before[1], after[1]), after[0] + 1, max(before[1], after[1]))


def place_labels(points: Sequence[tuple[str, float, float]], bounds: Box, lines: Sequence[Box] = ()) -> list[Box]:
    """Where the labels of points (text, x, y) stand: near them, inside `bounds`, if possible on no other mark or label.

    lines: what they had better not cross either.
    """
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for _, x, y in points]
    placed: list[Box | None] = [None] * len(points)
    # The crowded ones choose first.
    crowd = [sum(math.dist(a[1:], b[1:]) < 60 for b in points) for a in points]
    for place in sorted(range(len(points)), key=lambda place: -crowd[place]):
        text, x, y = points[place]
        wide = _width(text)
        centres = [each[1:] for at, each in enumerate(points) if at != place]
        others = [box for at, box in enumerate(marks) if at != place] + [box for box in placed if box]
        placed[place] = min(
            _candidates(x, y, wide),
            key=lambda box: (
                round(
                    4 * (sum(map(box.overlap, others)) + box.outside(bounds))
                    + sum(map(box.overlap, lines))
                    + 200 * sum(_from_line(centre, (x, y), box.nearest(x, y)) < 7 for centre in centres),
                    3,
                ),
                math.dist((x, y), ((box.left + box.right) / 2, (box.top + box.bottom) / 2))
                - 0.5 * wide * (box.left > x),
            ),
        )
    return [box for box in placed if box]


def _width(text: str) -> float:
    return sum(_CAPITAL if letter.isupper() else _LETTER for letter in text)


def _from_line(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> float:
    """How far a point lies from a straight line between two others."""
    (across, down), length = (end[0] - start[0], end[1] - start[1]), math.dist(start, end)
    along = (point[0] - start[0]) * across + (point[1] - start[1]) * down
    part = min(max(along / length**2, 0), 1) if length else 0
    return math.dist(point, (start[0] + part * across, start[1] + part * down))


def _candidates(x: float, y: float, wide: float) -> Iterator[Box]:
    for far in (0, 10, 20, 32, 46, 62, 80):
        gap, half = 8 + far, _LINE / 2
        for left, top in (
            (x + gap, y - half),
            (x - gap - wide, y - half),
            (x - wide / 2, y - gap - _LINE),
            (x - wide / 2, y + gap),
            (x + gap * 0.7, y - gap * 0.7 - _LINE),
            (x + gap * 0.7, y + gap * 0.7),
            (x - gap * 0.7 - wide, y - gap * 0.7 - _LINE),
            (x - gap * 0.7 - wide, y + gap * 0.7),
        ):
            yield Box(left, top, left + wide, top + _LINE)


def gain_chart(rows: Sequence[Row], measured: Mapping[str, Mapping[str, Measurement]], first: str) -> str:
    """The gain over bicubic on each picture, as a figure with its legend.

    measured: method -> picture -> what was found. first: the method that stands out.
    """
    base = {name: each.psnr_y for name, each in measured.get(_BASE, {}).items() if math.isfinite(each.psnr_y)}
    order = sorted(base, key=lambda name: base[name])
    others = [row.model for row in rows if row.model != _BASE and row.model in measured]
    gains = {
        model: {
            name: each.psnr_y - base[name]
            for name, each in measured[model].items()
            if name in base and math.isfinite(each.psnr_y)
        }
        for model in others
    }
    unit = rows[0].unit if rows else "picture"
    lost = sum(len(measured[model]) - len(gains[model]) for model in others)
    left_out = f" {lost} without finite figures not drawn." if lost else ""
    caption = (
        f"<figcaption>Gain over bicubic, {unit} by {unit}<br><small>dB of PSNR of Y; the {unit}s from where"
        f" bicubic is worst to where it is best.{left_out}</small></figcaption>"
    )
    if not any(gains.values()):
        return f"<figure>{caption}</figure>"
    looks = {model: look for model, look in _looks(rows, first).items() if model in gains}
    legend = "".join(
        f'<li><svg viewBox="-7 -7 14 14" aria-hidden="true">{_mark(look, 0, 0, "")}</svg>{escape(model)}</li>'
        for model, look in looks.items()
    )

    def draw(width: float, height: float, kind: str) -> str:
        return _scatter_svg({model: gains[model] for model in looks}, order, looks, width, height, kind)

    return f'<figure>{caption}{_both_widths(draw)}<ul class="legend">{legend}</ul></figure>'


def _scatter_svg(
    gains: Mapping[str, Mapping[str, float]],
    order: Sequence[str],
    looks: Mapping[str, _Look],
    width: float,
    height: float,
    kind: str,
) -> str:
    named = len(order) <= 16
    short = shortened(order)
    longest = max(map(len, short)) * _LETTER
    plot = Box(44, 8, width - 8, height - (24 + 0.53 * longest if named else 32))
    y = _axis(
        [0.0, *(gain for each in gains.values() for gain in each.values())], plot.bottom, plot.top, 0.05, least=0.5
    )
    room = (plot.right - plot.left) / len(order)
    parts = [*_frame(plot, y, "dB"), f'<path class="zero" d="M{plot.left:g},{y(0):.1f}H{plot.right:g}"/>']
    for place, name in enumerate(order):
        middle = plot.left + (place + 0.5) * room
        if named:
            parts.append(
                f'<text x="{middle + 4:.1f}" y="{plot.bottom + 14:g}" text-anchor="end"'
                f' transform="rotate(-32 {middle + 4:.1f} {plot.bottom + 14:g})">{escape(short[place])}</text>'
            )
        spread = min(room * 0.8, 9 * len(gains))
        for at, (model, each) in enumerate(gains.items()):
            if name in each:
                across = middle + (at / max(len(gains) - 1, 1) - 0.5) * spread
                title = f"{name}, {model}: {each[name]:+.2f} dB over bicubic"
                parts.append(_mark(looks[model], across, y(each[name]), title))
    if not named:
        parts.append(
            f'<text x="{(plot.left + plot.right) / 2:.1f}" y="{height - 8:g}" text-anchor="middle">'
            f"{len(order)} pictures; point at a mark for its name</text>"
        )
    return _svg(parts, width, height, kind, "Gain of each method over bicubic on each picture")


def _svg(parts: Sequence[str], width: float, height: float, kind: str, words: str) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}"'
    return f'<svg class="chart {kind}" {size} role="img" aria-label="{words}">{"".join(parts)}</svg>'


def shortened(names: Sequence[str]) -> list[str]:
    """File names without what they have in common at both ends, 14 letters at most."""
    stems = [name.rpartition(".")[0] or name for name in names]
    if len(stems) > 1:
        before = _alike(stems)
        while before and stems[0][before - 1].isalnum():  # whole words and numbers only
            before -= 1
        stems = [stem[before:] for stem in stems]
        after = _alike([stem[::-1] for stem in stems])
        while after and stems[0][len(stems[0]) - after].isalnum():
            after -= 1
        stems = [stem[: len(stem) - after] for stem in stems]
    return [stem if len(stem) <= 14 else f"…{stem[-13:]}" for stem in stems]


def _alike(texts: Sequence[str]) -> int:
    """How many letters all have in common at the beginning."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False)))


def _mark(look: _Look, x: float, y: float, title: str) -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    # The stroke is scaled as well, so its width is told in the style for a mark of this size.
    return (
        f'<path class="{look.classes}" vector-effect="non-scaling-stroke"'
        f' transform="translate({x:.1f} {y:.1f}) scale(4.4)" d="{look.shape}">{inner}</path>'
    )


def _axis(values: Sequence[float], start: float, end: float, margin: float, *, least: float) -> _Axis:
    low, high = min(values), max(values)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    return _Axis(low - margin * (high - low), high + margin * (high - low), start, end)


def _frame(plot: Box, y: _Axis, unit: str) -> Iterator[str]:
    """Lines across at round values, with their numbers."""
    step = round_step((y.high - y.low) / 6)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    for count in range(math.ceil(y.low / step), math.floor(y.high / step) + 1):
        at = y(count * step)
        yield f'<path class="grid" d="M{plot.left:g},{at:.1f}H{plot.right:g}"/>'
        yield f'<text x="{plot.left - 6:g}" y="{at + 4:.1f}" text-anchor="end">{count * step:.{digits}f}</text>'
    yield f'<text x="{plot.left + 4:g}" y="{plot.top + 10:g}">{unit}</text>'
    yield f'<path class="axis" d="M{plot.left:g},{plot.bottom:g}H{plot.right:g}"/>'


def round_step(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that isn't below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _log_ticks(plot: Box, x: _Axis) -> Iterator[str]:
    """Ticks at 1, 2, 5 times powers of ten; x is in powers of ten."""
    last = -math.inf
    for power in range(math.floor(x.low), math.ceil(x.high) + 1):
        for factor in (1, 2, 5):
            at = math.log10(factor) + power
            if not x.low <= at <= x.high:
                continue
            across, text = x(at), f"{factor * 10.0**power:,.{max(0, -power)}f}"
            yield f'<path class="axis" d="M{across:.1f},{plot.bottom:g}v5"/>'
            if across - last > len(text) * _LETTER + 8:
                last = across
                yield f'<text x="{across:.1f}" y="{plot.bottom + 18:g}" text-anchor="middle">{text}</text>'
