"""What an evaluation found, on a page: tables, charts, and the pictures that its best network does worst."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.errors import SuperfineError
from superfine.evaluate.charts import gain_chart, pareto_chart
from superfine.evaluate.clips import ClipSet
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.methods import ClassicalMethod, Method, frames_of, made, made_of_windows
from superfine.evaluate.page import TIMES, escape, image, page, save_page
from superfine.evaluate.pairs import Dataset
from superfine.evaluate.record import Measurement, Row
from superfine.evaluate.tables import best_network, grouped, pictures_of, table

__all__ = [
    "Shown",
    "Worst",
    "report_html",
    "save_report",
    "show_worst",
    "worst_pictures",
]

Bytes = npt.NDArray[np.uint8]

_CROP: Final = 128
_SHOWN: Final = 4
_BASE: Final = "bicubic"


class Worst(NamedTuple):
    """A picture that the best-ranked network has least to show on."""

    picture: str
    model: str
    reason: str
    """In words, as it stands beside the picture."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A place of a picture as it should be, and as methods made it."""

    dataset: str
    picture: str
    reason: str
    """Why it is shown, in words."""
    crops: tuple[tuple[str, Bytes], ...] = field(repr=False)
    """(name, (h, w, 3)) of HR and of each method, 128 px a side at most."""


def worst_pictures(evaluation: Evaluation, dataset: str, *, count: int = _SHOWN) -> tuple[Worst, ...]:
    """The pictures of a data set on which its best-ranked network is worst, and those on which it gains least.

    Half of `count` by the lowest PSNR of Y, the others by the least gain over bicubic; none
    twice. The best-ranked network is `tables.best_network`. Empty where no network was judged.
    """
    best = best_network([row for row in evaluation.rows if row.dataset == dataset])
    if best is None:
        return ()
    here = _by_model(evaluation, dataset)
    found = here[best.model]
    base = here.get(_BASE, {})
    gains = {name: each.psnr_y - base[name].psnr_y for name, each in found.items() if name in base}
    gains = {name: gain for name, gain in gains.items() if math.isfinite(gain)}
    low = sorted((name for name in found if math.isfinite(found[name].psnr_y)), key=lambda name: found[name].psnr_y)
    worst = [
        Worst(name, best.model, f"{found[name].psnr_y:.2f} dB, among the lowest") for name in low[: (count + 1) // 2]
    ]
    shown = {each.picture for each in worst}
    least = [name for name in sorted(gains, key=lambda name: gains[name]) if name not in shown]
    worst += [
        Worst(name, best.model, f"{gains[name]:+.2f} dB over bicubic, among the least")
        for name in least[: count - len(worst)]
    ]
    return tuple(worst)


def show_worst(
    evaluation: Evaluation, datasets: Sequence[Dataset | ClipSet], methods: Sequence[Method], *, count: int = _SHOWN
) -> tuple[Shown, ...]:
    """Enlarge the `worst_pictures` of each data set once more, and cut out where the network's error is greatest.

    datasets, methods: those of the evaluation; of clips whose small frames were coded nothing is shown. One picture is
    held at a time. What fails now is left out.
    """
    known: dict[str, Method] = {method.name: method for method in methods}
    shown = []
    for dataset in datasets:
        for worst in worst_pictures(evaluation, dataset.name, count=count):
            if worst.model not in known:
                continue
            base = known.get(_BASE) or ClassicalMethod(_BASE, dataset.scale)
            try:
                again = _again(dataset, worst.picture, known[worst.model])
                crude = None if again is None else base(again.small)
            except (SuperfineError, MemoryError):
                continue
            if again is None or crude is None:
                continue
            part = _worst_part(again.output, again.large, dataset.scale)
            crops = (("HR", again.large), (_BASE, crude), (worst.model, again.output))
            cut = tuple((name, np.ascontiguousarray(pixels[part])) for name, pixels in crops)
            shown.append(Shown(dataset.name, worst.picture, worst.reason, cut))
    return tuple(shown)


class _Again(NamedTuple):
    """A picture or frame that was judged, and what a method makes of it."""

    small: Bytes
    large: Bytes
    output: Bytes


def _again(dataset: Dataset | ClipSet, picture: str, method: Method) -> _Again | None:
    if isinstance(dataset, ClipSet):
        for moment in dataset.only(picture).moments([frames_of(method)]):
            return _Again(moment.windows[1][0], moment.large, made_of_windows(method, moment.windows).pixels)
        return None
    for place, source in enumerate(dataset.sources):
        if source.name == picture:
            pair = dataset.pair(place)
            return _Again(pair.small, pair.large, made(method, pair.small, pair.kernel).pixels)
    return None


def report_html(evaluation: Evaluation, *, shown: Sequence[Shown] = (), command: str = "") -> str:
    """The page: one HTML file without any request. shown: of `show_worst`; command: what made the evaluation."""
    names = list(dict.fromkeys(row.dataset for row in evaluation.rows))
    scales = sorted({row.scale for row in evaluation.rows})
    title = f"{', '.join(names) or 'Nothing'}{''.join(f', {TIMES}{scale}' for scale in scales)}"
    facts = [
        ("Data sets", str(len(names))),
        ("Methods", str(len({row.model for row in evaluation.rows}))),
        (_counted(evaluation.rows), str(len({(each.dataset, each.picture) for each in evaluation.measurements}))),
        ("Failures", str(len(evaluation.failures))),
        ("Date", evaluation.date),
    ]
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts)
    head = f'<p class="eyebrow">superfine evaluate</p><h1>{escape(title)}</h1><dl class="facts">{listed}</dl>'
    body = [f"<header>{head}</header>"]
    body += [
        _section(evaluation, name, rows, [each for each in shown if each.dataset == name])
        for name, rows in grouped(evaluation.rows)
    ]
    body += [_failures(evaluation), _foot(evaluation, command)]
    return page(f"{title}: superfine evaluate", "\n".join(body))


def _counted(rows: Sequence[Row]) -> str:
    units = {row.unit for row in rows} or {"picture"}
    return " and ".join(f"{unit}s" for unit in sorted(units, reverse=True)).capitalize()


def save_report(evaluation: Evaluation, path: Path | str, *, shown: Sequence[Shown] = (), command: str = "") -> None:
    """Write `report_html`, whole or not at all. Raises UsageError for another ending than .html, OutputError."""
    save_page(report_html(evaluation, shown=shown, command=command), Path(path))


def _by_model(evaluation: Evaluation, dataset: str) -> dict[str, dict[str, Measurement]]:
    found: dict[str, dict[str, Measurement]] = {}
    for each in evaluation.measurements:
        if each.dataset == dataset:
            found.setdefault(each.model, {})[each.picture] = each
    return found


def _worst_part(made: Bytes, large: Bytes, border: int) -> tuple[slice, slice]:
    """Where squared differences add up to most, in a square of 128 px at most; on a grid of an eighth of it."""
    rows, cols = large.shape[:2]
    side = min(_CROP, rows, cols)
    step = max(1, side // 8)
    apart = np.square(made.astype(np.int32) - large).sum(axis=2, dtype=np.int64)
    if min(rows, cols) > 2 * border:  # what isn't judged isn't shown as the worst either
        apart[:border] = apart[-border:] = 0
        apart[:, :border] = apart[:, -border:] = 0
    sums = np.pad(apart, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    tops, lefts = (np.unique([*range(0, end - side + 1, step), end - side]) for end in (rows, cols))
    inside = sums[np.ix_(tops + side, lefts + side)] - sums[np.ix_(tops, lefts + side)]
    inside = inside - sums[np.ix_(tops + side, lefts)] + sums[np.ix_(tops, lefts)]
    down, across = np.unravel_index(int(inside.argmax()), inside.shape)
    top, left = int(tops[down]), int(lefts[across])
    return slice(top, top + side), slice(left, left + side)


_LEGEND: Final = (
    '<p class="soft">Means over the {unit}s of what each has; pooled: PSNR of the mean squared error of all samples.'
    " Time per million pixels of input.{marked}"
    " Methods in italics are baselines.</p>"
)


def _section(evaluation: Evaluation, name: str, rows: Sequence[Row], shown: Sequence[Shown]) -> str:
    best = best_network(rows)
    first = best.model if best else ""
    figures = table(rows)
    marked = " &#9656; marks the best of a column, of cost among the networks." if '"only-read"' in figures else ""
    parts = [
        f'<section><h2>{escape(name)} <span class="soft">&times;{rows[0].scale}, {pictures_of(rows)}</span></h2>',
        figures,
        _LEGEND.format(marked=marked, unit=rows[0].unit),
        f'<div class="charts">{pareto_chart(rows, first)}{gain_chart(rows, _by_model(evaluation, name), first)}</div>',
    ]
    if shown:
        parts.append(
            f"<h3>Worst {rows[0].unit}s of {escape(first)}</h3>"
            '<p class="soft">Squares of 128 px or less where its error is greatest, enlarged without smoothing. Half by'
            f" the lowest PSNR of Y, half by the least gain over bicubic ({escape(rows[0].protocol_y)}).</p>"
        )
        parts.append(f'<div class="worst">{"".join(map(_shown_html, shown))}</div>')
    return "".join(parts) + "</section>"


def _shown_html(shown: Shown) -> str:
    pictures = "".join(
        f"<figure>{image(pixels, f'{shown.picture}: {name}')}<figcaption>{escape(name)}</figcaption></figure>"
        for name, pixels in shown.crops
    )
    return (
        f'<div class="shown"><p><strong>{escape(shown.picture)}</strong>'
        f' <span class="soft">{escape(shown.reason)}</span></p>'
        f'<div class="row three">{pictures}</div></div>'
    )


def _failures(evaluation: Evaluation) -> str:
    parts = ""
    if evaluation.failures:
        lines = "".join(
            f"<li><strong>{escape(each.name)}</strong>: {escape(each.reason)}</li>" for each in evaluation.failures
        )
        parts += f'<section><h2>Failures</h2><ul class="failures">{lines}</ul></section>'
    if evaluation.notes:
        lines = "".join(f"<li>{escape(note)}</li>" for note in evaluation.notes)
        parts += f'<section><h2>Notes</h2><ul class="failures">{lines}</ul></section>'
    return parts


def _foot(evaluation: Evaluation, command: str) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in evaluation.machine.items())
    made = f"<p>Made by <code>{escape(command)}</code></p>" if command else ""
    return (
        f"<footer>{made}<p>superfine {escape(evaluation.version)}, {escape(evaluation.date)}.</p>"
        f"<p>Machine: {escape(facts)}.</p></footer>"
    )
