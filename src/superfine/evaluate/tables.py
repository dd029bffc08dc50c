"""The tables of an evaluation, for pages and notebooks and as plain text. Each block of figures has its protocol."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from textwrap import wrap
from typing import Final, NamedTuple

from superfine.evaluate.methods import BASELINES, ORACLES
from superfine.evaluate.page import MISSING, best_of, class_attribute, escape, html_number, is_best, number
from superfine.evaluate.record import AS_IS, Failure, Row
from superfine.models import CLASSICAL
from superfine.terminal import one_line

__all__ = ["best_network", "grouped", "kind_of", "pictures_of", "table", "table_html", "table_text"]


def table_html(rows: Sequence[Row], failures: Sequence[Failure]) -> str:
    """The tables alone, for a notebook: in the notebook's own colours, without script."""
    blocks = [
        f"<h4>{escape(name)}, &times;{part[0].scale}, {pictures_of(part)}</h4>{table(part)}"
        for name, part in grouped(rows)
    ]
    if failures:
        blocks.append(f"<p>{len(failures)} failed; see <code>.failures</code>.</p>")
    return f'<div class="superfine-evaluation"><style>{_NOTEBOOK}</style>{"".join(blocks)}</div>'


_WIDTH: Final = 120


def table_text(rows: Sequence[Row], failures: Sequence[Failure], notes: Sequence[str] = ()) -> str:
    """The tables as plain text of 120 columns or fewer (more with many distances), the protocol above each.

    Below them a line for each note, then the failures.
    """
    blocks = [_text_block(name, part) for name, part in grouped(rows)]
    if notes:
        blocks.append("\n".join(f"note: {one_line(note)}" for note in notes))
    if failures:
        lines = [f"  {one_line(each.name)}: {one_line(each.reason)}" for each in failures]
        blocks.append("\n".join([f"failed: {len(failures)}", *lines]))
    return "\n\n".join(blocks)


# Notebooks bring colours of their own; nothing here may reach beyond the table.
_NOTEBOOK: Final = (
    ".superfine-evaluation{overflow-x:auto}"
    ".superfine-evaluation table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;"
    "background:transparent}"
    ".superfine-evaluation th,.superfine-evaluation td{padding:4px 8px;text-align:right;white-space:nowrap;"
    "font-weight:400;background:transparent;border:0;border-bottom:1px solid rgba(128,128,128,.35)}"
    ".superfine-evaluation th:first-child,.superfine-evaluation .text{text-align:left}"
    '.superfine-evaluation th[scope="colgroup"]{text-align:left;font-weight:600}'
    ".superfine-evaluation .network th{font-weight:600}"
    ".superfine-evaluation .baseline th{font-style:italic}"
    ".superfine-evaluation .best{font-weight:700}"
    '.superfine-evaluation .best::before{content:"\\25B8\\00A0"}'
    ".superfine-evaluation .only-read{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}"
    ".superfine-evaluation .group{border-left:1px solid rgba(128,128,128,.35)}"
)


def grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by data set and scale, in the order in which they were measured."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.scale), []).append(row)
    return [(name, group) for (name, _), group in groups.items()]


def kind_of(model: str) -> str:
    """`baseline` for what needs no network or is an oracle, and so only stands beside; else `network`."""
    beside = model == AS_IS or model in BASELINES or model in CLASSICAL or model in ORACLES
    return "baseline" if beside else "network"


def best_network(rows: Sequence[Row]) -> Row | None:
    """The network with the highest mean PSNR of Y, of those within 0.01 dB of it the fastest; None without any."""
    networks = [row for row in rows if kind_of(row.model) == "network" and not math.isnan(row.psnr_y)]
    highest = max((row.psnr_y for row in networks), default=math.nan)
    alike = [row for row in networks if row.psnr_y >= highest - 0.01 - 1e-9]
    return min(alike, key=lambda row: math.inf if math.isnan(row.ms_per_mpx) else row.ms_per_mpx, default=None)


def pictures_of(rows: Sequence[Row]) -> str:
    """How many pictures the figures come from, in words."""
    least, most = min(row.pictures for row in rows), max(row.pictures for row in rows)
    words = f"{most} {rows[0].unit}{'' if most == 1 else 's'}"
    return words if least == most else f"{words}, not all by each method"


class _Column(NamedTuple):
    """A column of figures; the best value is the greatest (+1) or the least (-1)."""

    head: str
    value: Callable[[Row], float]
    digits: int
    better: int = 1
    among: str = ""
    """The kind of methods among which the best is marked; empty: all of them, `none`: nowhere."""


def _quality(rows: Sequence[Row]) -> list[tuple[str, list[_Column]]]:
    groups = [
        (
            ", ".join(dict.fromkeys(row.protocol_y for row in rows)),
            [
                _Column("PSNR, dB", lambda row: row.psnr_y, 2),
                _Column("pooled, dB", lambda row: row.pooled_y, 2),
                _Column("SSIM", lambda row: row.ssim_y, 4),
            ],
        ),
        (
            ", ".join(dict.fromkeys(row.protocol_rgb for row in rows)),
            [
                _Column("PSNR, dB", lambda row: row.psnr_rgb, 2),
                _Column("pooled, dB", lambda row: row.pooled_rgb, 2),
                _Column("SSIM", lambda row: row.ssim_rgb, 4),
            ],
        ),
    ]
    if names := list(dict.fromkeys(name for row in rows for name in row.distances)):
        groups.append(("Distances, lower is nearer", [_distance(name) for name in names]))
    if not all(math.isnan(row.flicker) for row in rows):
        true = ", ".join(dict.fromkeys(number(row.true_flicker, 2) for row in rows))
        words = (
            f"Flicker of Y in grey levels, lower is steadier: all of it (the true clip has {true}), and of the error"
        )
        groups.append((words, list(_FLICKER)))
    if any(row.kernel_correlation is not None for row in rows):
        groups.append(("Kernel found, normalised correlation with the true one", [_KERNEL]))
    return groups


def _kernel_correlation(row: Row) -> float:
    return math.nan if row.kernel_correlation is None else row.kernel_correlation


_KERNEL: Final = _Column("median", _kernel_correlation, 3)


# Of all flicker none is marked as the best: what blurs is steadier than the truth.
_FLICKER: Final = (
    _Column("all", lambda row: row.flicker, 2, better=-1, among="none"),
    _Column("error", lambda row: row.excess_flicker, 2, better=-1),
)


def _distance(name: str) -> _Column:
    return _Column(name, lambda row: row.distances.get(name, math.nan), 4, better=-1)


_COSTS: Final = (
    _Column("ms per Mpx", lambda row: row.ms_per_mpx, 0, better=-1, among="network"),
    _Column("MB", lambda row: row.memory_mb, 0, better=-1, among="network"),
)


def _best(column: _Column, rows: Sequence[Row]) -> float:
    """The best value of a column; NaN where there is none to speak of."""
    values = [column.value(row) for row in rows if _is_candidate(column, row)]
    return best_of(values, column.digits, better=column.better)


def _is_best(column: _Column, row: Row, best: float) -> bool:
    return _is_candidate(column, row) and is_best(column.value(row), best, column.digits)


def _is_candidate(column: _Column, row: Row) -> bool:
    return row.model not in ORACLES and column.among in ("", kind_of(row.model))


def table(rows: Sequence[Row]) -> str:
    """The rows of one data set as an HTML table, baselines first."""
    groups = [*_quality(rows), ("Cost", list(_COSTS))]
    heads = "".join(
        f'<th scope="colgroup" colspan="{len(columns)}" class="group">{escape(head)}</th>' for head, columns in groups
    )
    names = "".join(
        f'<th scope="col"{class_attribute("" if place else "group")}>{escape(column.head)}</th>'
        for _, columns in groups
        for place, column in enumerate(columns)
    )
    model = ("parameters", "SHA-256", "precision", "engine")
    names += "".join(
        f'<th scope="col"{class_attribute("text" if place else "group")}>{name}</th>'
        for place, name in enumerate(model)
    )
    best = {id(column): _best(column, rows) for _, columns in groups for column in columns}
    bodies = []
    for kind in ("baseline", "network"):
        lines = "".join(_line(row, kind, groups, best) for row in rows if kind_of(row.model) == kind)
        bodies.append(f"<tbody>{lines}</tbody>" if lines else "")
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table, scrolls sideways"><table><thead>'
        f'<tr><td></td>{heads}<th scope="colgroup" colspan="{len(model)}" class="group">Run</th></tr>'
        f'<tr><th scope="col">Method</th>{names}</tr></thead>{"".join(bodies)}</table></div>'
    )


def _line(row: Row, kind: str, groups: Sequence[tuple[str, list[_Column]]], best: Mapping[int, float]) -> str:
    cells = []
    for _, columns in groups:
        for place, column in enumerate(columns):
            value = column.value(row)
            marked = _is_best(column, row, best[id(column)])
            classes = class_attribute("" if place else "group", "best" if marked else "")
            heard = '<span class="only-read"> best</span>' if marked else ""
            cells.append(f"<td{classes}>{html_number(value, column.digits)}{heard}</td>")
    return (
        f'<tr class="{kind}"><th scope="row">{escape(row.model)}</th>{"".join(cells)}'
        f'<td class="group">{number(row.parameters, 0) if row.parameters else MISSING}</td>'
        f'<td class="text"><code>{escape(row.sha256[:8] or MISSING)}</code></td>'
        f'<td class="text">{escape(row.precision or MISSING)}</td>'
        f'<td class="text">{escape(row.engine or MISSING)}</td></tr>'
    )


def _text_block(name: str, rows: Sequence[Row]) -> str:
    groups = [*_quality(rows), ("", list(_COSTS))]
    columns = [(place, column) for place, (_, columns) in enumerate(groups) for column in columns]
    short = {"pooled, dB": "pooled", "PSNR, dB": "PSNR", "ms per Mpx": "ms/Mpx"}
    table = [["", *(short.get(column.head, column.head) for _, column in columns), "params", "SHA-256", "prec."]]
    best = {id(column): _best(column, rows) for _, column in columns}
    ordered = [row for kind in ("baseline", "network") for row in rows if kind_of(row.model) == kind]
    for row in ordered:
        cells = [one_line(row.model)]
        for _, column in columns:
            value = column.value(row)
            marked = _is_best(column, row, best[id(column)])
            cells.append(f"{'*' if marked else ''}{number(value, column.digits)}")
        cells += [
            number(row.parameters, 0) if row.parameters else MISSING,
            row.sha256[:8] or MISSING,
            row.precision or MISSING,
        ]
        table.append(cells)
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    if 0 < (baselines := sum(kind_of(row.model) == "baseline" for row in rows)) < len(rows):
        lines.insert(1 + baselines, "-" * max(map(len, lines)))
    ends, places = _ends(widths), [place for place, _ in columns]
    over = [" " * (widths[0] + 2)]
    for group, (head, _) in enumerate(groups):
        if head:
            first, last = places.index(group) + 1, len(places) - places[::-1].index(group)
            over.append(f"{group + 1}".center(ends[last] - ends[first - 1] - 2, "-") + "  ")
    legend = [
        line
        for place, (head, _) in enumerate(groups, 1)
        for line in wrap(head, _WIDTH, initial_indent=f"  {place}  ", subsequent_indent="     ")
    ]
    engines = ", ".join(dict.fromkeys(row.engine for row in rows if row.engine))
    head = f"{one_line(name)}, x{rows[0].scale}, {pictures_of(rows)}"
    mark = "" if all(map(math.isnan, best.values())) else "; * best (costs: of the networks)"
    notes = [f"  by {one_line(engines) or MISSING}", f"  ms for a million pixels of input{mark}"]
    return "\n".join([head, *legend, *notes, "".join(over).rstrip(), *lines])


def _ends(widths: Sequence[int]) -> list[int]:
    return list(accumulate(width + 2 for width in widths))
