"""One picture by several methods, on a page that a person can look at: before and after, crops, differences, figures.

picture -> every method, timed -> where they differ most -> one HTML file
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.classical.resample import matlab_resize
from superfine.color import to_kind, to_unit
from superfine.engine import Precision
from superfine.errors import ShapeError, UsageError
from superfine.evaluate.benchmark import judge, open_methods, protocol
from superfine.evaluate.listener import Listener
from superfine.evaluate.methods import Method
from superfine.evaluate.page import (
    MISSING,
    TIMES,
    asset,
    best_of,
    class_attribute,
    data_uri,
    escape,
    html_number,
    image,
    is_best,
    number,
    page,
    save_page,
)
from superfine.evaluate.pairs import decode
from superfine.evaluate.peers import Colour, ValueRange
from superfine.evaluate.record import Figures, plain
from superfine.evaluate.usage import machine
from superfine.guess import find_guess
from superfine.heat import LEGEND_LEVELS, colour_map, heated, warmth
from superfine.image import coding_of, open_picture
from superfine.models import CLASSICAL, family, list_models
from superfine.route import MAX_SCALE

__all__ = [
    "Comparison",
    "Output",
    "Spot",
    "check_scale",
    "compare",
    "default_models",
    "difference",
    "most_different",
    "open_compared",
]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Long side of the largest pictures that lie on the page whole, pixel for pixel.
LONGEST: Final = 2400
_SPOTS: Final = 5
# Pixels around a spot that a reader can move to, where the whole picture isn't on the page.
_PIECE: Final = 512
_MAP_SIDE: Final = 1200
# Results of at most half of this are drawn with each pixel as a square of several.
_SMALL_SIDE: Final = 800
# Runs that are timed after a first one, as long as all take no longer than this together.
_TURNS: Final = 3
_PATIENCE_SECONDS: Final = 10.0
_NETWORKS: Final = ("fast", "balanced", "photo")
# Ends of the difference maps' scale, in levels of 255.
_ENDS: Final = (4, 8, 16, 32, 64, 128, 255)
_REFERENCE: Final = "reference"
_FACTS: Final = ("name", "seconds", "runs", "engine", "precision", "sha256", "parameters", "file_bytes", "notes")


@dataclass(frozen=True, kw_only=True, eq=False)
class Output:
    """What one method made, and what it took."""

    name: str
    pixels: Bytes = field(repr=False)
    """(H, W, 3)."""
    seconds: float
    """For the whole picture, without decoding and encoding: the median of `runs`."""
    runs: int
    """How many were timed after a first one; 0 where that first one took so long that it is the only one."""
    engine: str
    precision: str
    sha256: str
    parameters: int
    """0 where there are none, or nobody knows."""
    file_bytes: int
    """Of the network's file; 0 where there is none."""
    notes: tuple[str, ...] = ()
    figures: Figures | None = None
    """Against the reference, if there is one."""
    half_widths: Floats | None = field(default=None, repr=False)
    """(H, W): of 90 % intervals of luma, in levels of 255, where the network has them for this picture."""

    def facts(self) -> dict[str, object]:
        """Everything but the pixels, for JSON: infinity is "inf", NaN is None."""
        figures = {} if self.figures is None else asdict(self.figures)
        facts = {name: getattr(self, name) for name in _FACTS} | {"size": list(self.pixels.shape[:2]), **figures}
        return {name: plain(value) for name, value in facts.items()}


class Spot(NamedTuple):
    """A square of the large picture, and the mean absolute difference between methods in it, in levels of 255."""

    top: int
    left: int
    side: int
    difference: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One picture by several methods; shows itself in Jupyter."""

    source: str
    """The picture's name."""
    size: tuple[int, int]
    """(rows, cols) of the small picture."""
    scale: int
    outputs: tuple[Output, ...]
    reference: Bytes | None = field(default=None, repr=False)
    reference_name: str = ""
    notes: tuple[str, ...] = ()
    """What a person should know: transparency that was laid on white, default networks that the scale lacks."""
    protocol_y: str = ""
    protocol_rgb: str = ""
    version: str
    date: str
    machine: dict[str, str]

    def html(self) -> str:
        """The page: one HTML file without any request."""
        return page(f"{self.source}: superfine compare", _body(self), script=asset("compare.js"))

    def save(self, path: Path | str) -> None:
        """Write the page, whole or not at all. Raises UsageError for another ending than .html, OutputError."""
        save_page(self.html(), Path(path))

    def _repr_html_(self) -> str:
        # In a frame of its own, so that neither look nor script reaches the notebook.
        return (
            f'<iframe srcdoc="{escape(self.html())}" sandbox="allow-scripts" width="100%" height="960"'
            ' title="superfine compare" style="border:0"></iframe>'
        )


def default_models(scale: int) -> tuple[str, ...]:
    """Nearest, bicubic, and of `fast`, `balanced` and `photo` those that there are for the scale.

    Which aren't is in `Comparison.notes`.
    """
    there = {family(model.card) for model in list_models() if model.card.scale == scale}
    return ("nearest", "bicubic", *(name for name in _NETWORKS if name in there))


def compare(
    source: Path | str | Array,
    models: Sequence[str | Method] | None = None,
    *,
    scale: int = 2,
    reference: Path | str | Array | None = None,
    foreign_colour: Colour | None = None,
    foreign_range: ValueRange | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
    listener: Listener | None = None,
) -> Comparison:
    """Enlarge one picture by several methods, each timed, and hold them against each other and a reference.

    source: a file, or (h, w) or (h, w, 1|3) in uint8, uint16 or float32; compared as 8 bits,
    alpha laid on white. models: two or more names (a classical method, a network, a file), or
    methods that are open; `default_models` unless given. scale: 1 to 16. reference: the true large picture,
    scale times as large. foreign_colour, foreign_range, engine, precision: as in `benchmark.open_methods`.
    All results are held in memory at once. Time: the median of three runs of the whole picture after a first one,
    of fewer where they take longer than ten seconds together. Raises UsageError, ShapeError where the reference has
    another size, SourceError, ModelError, EngineError.
    """
    check_scale(scale)
    small, target = _pixels(source), None if reference is None else _pixels(reference)
    wanted = default_models(scale) if models is None else models
    methods = open_compared(
        wanted, scale, foreign_colour=foreign_colour, foreign_range=foreign_range, engine=engine, precision=precision
    )
    rows, cols = small.shape[:2]
    if target is not None and target.shape[:2] != (rows * scale, cols * scale):
        raise ShapeError(
            f"{_name(reference, 'reference')}: is {target.shape[1]} x {target.shape[0]}, the results are {cols * scale}"
            f" x {rows * scale}; give a reference of that size (cropped before the small picture was made of it),"
            " or another scale"
        )
    clean = not isinstance(source, (Path, str)) or coding_of(Path(source))[1] is True
    listener = listener or Listener()
    listener.begin(len(methods))
    outputs = []
    for method in methods:
        output = _output(method, small, target, clean=clean)
        outputs.append(output)
        listener.step(_name(source, "picture"), method.name)
    rule = "" if target is None else _rule(small, target)
    return Comparison(
        source=_name(source, "picture"),
        size=(rows, cols),
        scale=scale,
        outputs=tuple(outputs),
        reference=target,
        reference_name="" if reference is None else _name(reference, "an array"),
        notes=(
            *_laid_on_white(source, reference),
            *(_left_out(scale) if tuple(wanted) == default_models(scale) else ()),
        ),
        protocol_y=protocol("Y601-limited", scale, rule) if rule else "",
        protocol_rgb=protocol("RGB", scale, rule) if rule else "",
        version=version("superfine"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine(),
    )


def check_scale(scale: int) -> None:
    """Raise UsageError for a scale that nothing enlarges by."""
    if not 1 <= scale <= MAX_SCALE:
        raise UsageError(
            f"--scale {scale} is {'over' if scale > 1 else 'under'} {MAX_SCALE if scale > 1 else 1};"
            f" give one from 1 to {MAX_SCALE}"
        )


def open_compared(
    wanted: Sequence[str | Method],
    scale: int,
    *,
    foreign_colour: Colour | None = None,
    foreign_range: ValueRange | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
) -> tuple[Method, ...]:
    """`benchmark.open_methods` of two or more of one scale, each once. Raises UsageError where they aren't."""
    if len(wanted) < 2:
        raise UsageError("one method has nothing to stand beside; give two or more, such as bicubic and fast")
    methods = open_methods(
        wanted, scale, foreign_colour=foreign_colour, foreign_range=foreign_range, engine=engine, precision=precision
    )
    for place, method in enumerate(methods):
        if method.scale != scale:
            raise UsageError(f"{method.name} enlarges x{method.scale}, not x{scale}; compare one scale at a time")
        if method.name in [other.name for other in methods[:place]] or method.name == _REFERENCE:
            raise UsageError(f"{method.name} is there twice; give each method once")
    return methods


def most_different(outputs: Sequence[Bytes], *, count: int = _SPOTS) -> tuple[Spot, ...]:
    """The squares in which pictures differ most, the greatest first, none over another.

    outputs: two or more (H, W, 3), uint8, of one shape. In each square: the mean absolute
    difference over all pairs of pictures and over R, G and B, in levels of 255. They lie a
    fifth of the diagonal apart, less where the picture doesn't allow it. At least one is given,
    and others only where pictures differ.
    """
    rows, cols = outputs[0].shape[:2]
    side = min(rows, cols, max(32, min(128, min(rows, cols) // 4)))
    blocks = 4 if side >= 4 else 1
    step = side // blocks
    side = step * blocks
    sums = np.array([_disagreement(outputs, top, step) for top in range(0, rows - step + 1, step)])
    inside = np.pad(sums, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    windows = inside[blocks:, blocks:] - inside[:-blocks, blocks:] - inside[blocks:, :-blocks]
    windows = (windows + inside[:-blocks, :-blocks]) / (3 * side * side)
    order = np.argsort(-windows, axis=None, kind="stable")
    tops, lefts = (index * step for index in np.unravel_index(order, windows.shape))
    values = windows.ravel()[order]
    found = [Spot(int(tops[0]), int(lefts[0]), side, float(values[0]))]
    for distance in math.hypot(rows, cols) / 5 * np.array([1, 0.5, 0.25, 0]):
        for top, left, value in zip(tops.tolist(), lefts.tolist(), values.tolist(), strict=True):
            if len(found) == count or value <= 1e-9:
                break
            if all(_apart((top, left), spot, distance) for spot in found):
                found.append(Spot(top, left, side, value))
    return tuple(sorted(found, key=lambda spot: -spot.difference))


def difference(output: Bytes, base: Bytes, factor: int = 1) -> Floats:
    """Absolute difference of two (H, W, 3) pictures, mean of R, G and B and of factor x factor pixels, 0..255.

    Returns (ceil(H / factor), ceil(W / factor)); blocks at the right and the bottom may be smaller.
    """
    rows, cols = output.shape[:2]
    edges = [np.arange(0, end, factor) for end in (rows, cols)]
    counts = [np.diff(edge, append=end) for edge, end in zip(edges, (rows, cols), strict=True)]
    bands = []
    for top in range(0, rows, 256 * factor):
        part = slice(top, min(top + 256 * factor, rows))
        apart = np.abs(output[part].astype(np.int16) - base[part]).sum(axis=2, dtype=np.float32) / 3
        starts = np.arange(0, part.stop - top, factor)
        bands.append(np.add.reduceat(np.add.reduceat(apart, starts, axis=0), edges[1], axis=1))
    whole: Floats = np.divide(np.concatenate(bands), np.outer(*counts), dtype=np.float32)
    return whole


def _pixels(given: Path | str | Array) -> Bytes:
    """Any picture as (H, W, 3) uint8."""
    if isinstance(given, (Path, str)):
        return decode(Path(given))
    grey = given[..., None] if given.ndim == 2 else given
    if grey.ndim != 3 or grey.shape[2] not in (1, 3) or 0 in grey.shape:
        raise ShapeError(
            f"want (H, W) or (H, W, 1|3) without an empty side, got {given.shape}; lay alpha on a ground first"
        )
    whole = grey if grey.dtype == np.uint8 else to_kind(to_unit(grey), np.dtype(np.uint8))
    spread: Bytes = np.ascontiguousarray(np.broadcast_to(whole, (*whole.shape[:2], 3)))
    return spread


def _name(given: Path | str | Array | None, otherwise: str) -> str:
    return Path(given).name if isinstance(given, (Path, str)) else otherwise


def _laid_on_white(*given: Path | str | Array | None) -> Iterator[str]:
    for each in given:
        if isinstance(each, (Path, str)) and open_picture(Path(each)).alpha:
            yield f"{Path(each).name}: its transparency was laid on white"


def _left_out(scale: int) -> Iterator[str]:
    """The default networks that aren't there for a scale, in words."""
    scales = {name: [model.card.scale for model in list_models() if family(model.card) == name] for name in _NETWORKS}
    lacking = {name: each for name, each in scales.items() if scale not in each}
    if lacking:
        named = "; ".join(f"{name} (only x{', x'.join(map(str, sorted(each)))})" for name, each in lacking.items())
        yield f"compared by default, but not there for x{scale}: {named}"


def _rule(small: Bytes, large: Bytes) -> str:
    """How the small picture came about, seen and not believed."""
    return "matlab-bicubic" if np.array_equal(small, matlab_resize(large, small.shape[:2])) else "LR as given"


def _output(method: Method, small: Bytes, target: Bytes | None, *, clean: bool) -> Output:
    def timed() -> tuple[Bytes, float]:
        started = time.perf_counter()
        made = method(small)
        return made, time.perf_counter() - started

    pixels, first = timed()
    turns: list[float] = []
    while len(turns) < _TURNS and first + sum(turns) < _PATIENCE_SECONDS:
        turns.append(timed()[1])
    wanted = (small.shape[0] * method.scale, small.shape[1] * method.scale, 3)
    if pixels.shape != wanted:
        raise ShapeError(f"{method.name} made {pixels.shape} where {wanted} was wanted; leave it out")
    guess = find_guess(method.sha256) if clean else None
    return Output(
        name=method.name,
        pixels=pixels,
        seconds=statistics.median(turns or [first]),
        runs=len(turns),
        engine=method.engine,
        precision=method.precision,
        sha256=method.sha256,
        parameters=method.parameters,
        file_bytes=method.file_bytes,
        notes=method.notes,
        figures=None if target is None else judge(pixels, target, method.scale),
        half_widths=None if guess is None else guess(small),
    )


def _disagreement(outputs: Sequence[Bytes], top: int, step: int) -> npt.NDArray[np.float64]:
    """Sums over step x step blocks of a band: the mean absolute difference over pairs, R, G and B added."""
    count = len(outputs)
    ordered = np.sort(np.stack([output[top : top + step] for output in outputs]), axis=0)
    # In order of size the pairs' differences are a weighted sum: the k-th stands above k others and below the rest.
    weights = (2.0 * np.arange(count) - count + 1) / (count * (count - 1) / 2)
    columns = np.einsum("n,nrcx->c", weights, ordered)
    blocks: npt.NDArray[np.float64] = columns[: len(columns) // step * step].reshape(-1, step).sum(1)
    return blocks


def _apart(place: tuple[int, int], spot: Spot, distance: float) -> bool:
    down, across = abs(place[0] - spot.top), abs(place[1] - spot.left)
    return max(down, across) >= spot.side and math.hypot(down, across) >= distance


# ---- The page


class _Piece(NamedTuple):
    """A part of the large picture that the crops of a spot are drawn from."""

    top: int
    left: int
    rows: int
    cols: int

    def cut(self, pixels: Bytes) -> Bytes:
        return pixels[self.top : self.top + self.rows, self.left : self.left + self.cols]


class _Layout(NamedTuple):
    """What lies where on the page."""

    names: tuple[str, ...]
    pictures: tuple[Bytes, ...]
    """Outputs, and the reference as the last."""
    spots: tuple[Spot, ...]
    pieces: tuple[_Piece, ...]
    whole: bool
    """The pictures lie on the page pixel for pixel."""
    left: int
    right: int
    heats: tuple[Bytes | None, ...]
    """Of each picture, what shows where it is a guess; None where nobody knows."""


def _layout(comparison: Comparison) -> _Layout:
    outputs = comparison.outputs
    names, pictures = tuple(output.name for output in outputs), tuple(output.pixels for output in outputs)
    rows, cols = pictures[0].shape[:2]
    spots = most_different([pixels for name, pixels in zip(names, pictures, strict=True) if name in _contenders(names)])
    whole = max(rows, cols) <= LONGEST
    pieces = [_Piece(0, 0, rows, cols) if whole else _around(spot, rows, cols) for spot in spots]
    left = names.index("bicubic") if "bicubic" in names else 0
    others = [place for place in range(len(names)) if place != left]
    best = {place: figures.psnr_y for place in others if (figures := outputs[place].figures)}
    right = max(best, key=lambda place: best[place]) if best else others[-1]
    heats = tuple(
        None if output.half_widths is None else heated(output.pixels, output.half_widths) for output in outputs
    )
    if comparison.reference is not None:
        names, pictures, heats = (*names, _REFERENCE), (*pictures, comparison.reference), (*heats, None)
    return _Layout(names, pictures, spots, tuple(pieces), whole, left, right, heats)


def _contenders(names: Sequence[str]) -> list[str]:
    """Nearest differs from everything everywhere; where others can be told apart, it says nothing."""
    others = [name for name in names if name != "nearest"]
    return others if len(others) >= 2 else list(names)


def _around(spot: Spot, rows: int, cols: int) -> _Piece:
    sides = min(_PIECE, rows), min(_PIECE, cols)
    top, left = (
        min(max(start + (spot.side - side) // 2, 0), end - side)
        for start, side, end in zip((spot.top, spot.left), sides, (rows, cols), strict=True)
    )
    return _Piece(top, left, *sides)


def _body(comparison: Comparison) -> str:
    layout = _layout(comparison)
    return "\n".join(
        (
            _head(comparison),
            _slider(layout),
            _crops(comparison, layout),
            _maps(comparison, layout),
            _figures(comparison),
            _foot(comparison),
        )
    )


def _head(comparison: Comparison) -> str:
    rows, cols = comparison.size
    scale = comparison.scale
    facts = [
        ("Picture", f"{cols} {TIMES} {rows} px"),
        ("Enlarged", f"{TIMES}{scale}, to {cols * scale} {TIMES} {rows * scale} px"),
        ("Methods", str(len(comparison.outputs))),
        ("Reference", comparison.reference_name or "none given"),
        ("Date", comparison.date),
    ]
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts)
    notes = "".join(f'<p class="soft">{escape(note)}.</p>' for note in comparison.notes)
    return (
        f'<header><p class="eyebrow">superfine compare</p><h1>{escape(comparison.source)}</h1>'
        f'<dl class="facts">{listed}</dl>{notes}</header>'
        '<noscript><p class="soft">The divider and the crops need JavaScript, which is in this file.</p></noscript>'
    )


def _slider(layout: _Layout) -> str:
    rows, cols = layout.pictures[0].shape[:2]
    enlarged = "enlarged" if _shown_width(rows, cols) else ""
    layers = "".join(
        image(_overview(pixels), f"{name}, whole picture", _layer(place, layout, enlarged) + _heat(layout.heats[place]))
        for place, (name, pixels) in enumerate(zip(layout.names, layout.pictures, strict=True))
    )
    note = ""
    if not layout.whole:
        shown = _overview(layout.pictures[0]).shape
        note = (
            f'<p class="soft">Reduced here to {shown[1]} &times; {shown[0]} px, all alike; the crops below are'
            " pixel for pixel.</p>"
        )

    def select(key: str, label: str, chosen: int) -> str:
        options = "".join(
            f"<option{' selected' if place == chosen else ''}>{escape(name)}</option>"
            for place, name in enumerate(layout.names)
        )
        select = f'<select id="{key}" autocomplete="off">{options}</select>'
        return f'<span class="choice"><label for="{key}">{label}</label>{select}</span>'

    return (
        '<section aria-labelledby="slider-title"><h2 id="slider-title">Before and after</h2>'
        f'<div class="tools">{select("left", "Left", layout.left)}{select("right", "Right", layout.right)}'
        f'{_guess_button(layout)}<span class="soft">Drag, or move the divider with the arrow keys. The frame with a'
        " number is the place that the crops below show.</span></div>"
        f'{note}{_guess_note(layout)}<div class="stage">{layers}<div class="frame" aria-hidden="true"></div>'
        '<span class="tag before" aria-hidden="true"></span><span class="tag after" aria-hidden="true"></span>'
        '<div class="divider" role="slider" tabindex="0" aria-label="Divider between left and right picture"'
        ' aria-orientation="horizontal" aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"></div></div></section>'
    )


def _layer(place: int, layout: _Layout, enlarged: str) -> str:
    """How a picture lies in the slider before anybody chooses: half of the left one over the right one."""
    side = "over" if place == layout.left else "under" if place == layout.right else ""
    return f"{class_attribute(enlarged, side)}{'' if side else ' hidden'}".strip()


def _heat(heat: Bytes | None) -> str:
    """A layer's other face, where a button turns it over."""
    return "" if heat is None else f' data-heat="{data_uri(_overview(heat))}"'


def _guess_button(layout: _Layout) -> str:
    if all(heat is None for heat in layout.heats):
        return ""
    return '<button type="button" id="guess" aria-pressed="false">Where it is a guess</button>'


def _guess_note(layout: _Layout) -> str:
    known = [name for name, heat in zip(layout.names, layout.heats, strict=True) if heat is not None]
    if not known:
        return ""
    ticks = [(float(warmth(np.array(float(level)))), f"±{level}") for level in LEGEND_LEVELS]
    ticks[-1] = (ticks[-1][0], f"{ticks[-1][1]}+")
    return (
        f'<div class="guess" hidden><p class="soft">Of {escape(", ".join(known))}: half-widths of intervals that hold'
        " the true luma in 90 % of pixels of clean pictures, in levels of 255; the others have none.</p>"
        f"{_scale(ticks, 'from dark, sure, to pale yellow, 64 levels or more', 'guesses')}</div>"
    )


def _crops(comparison: Comparison, layout: _Layout) -> str:
    contenders = _contenders([output.name for output in comparison.outputs])
    left_out = "" if len(contenders) == len(comparison.outputs) else ", nearest left out"
    side = layout.spots[0].side
    buttons = "".join(
        f'<button type="button" aria-pressed="false" aria-label="Place {place}"'
        f' title="{spot.side} px from column {spot.left}, row {spot.top}: methods differ by'
        f' {spot.difference:.1f} of 255"><span>{place}</span><canvas width="112" height="112"></canvas></button>'
        for place, spot in enumerate(layout.spots, 1)
    )
    figures = [output.figures for output in comparison.outputs]
    captions = [f"{html_number(each.psnr_y, 2)} dB" if each else "" for each in figures]
    captions += [""] * (len(layout.names) - len(captions))
    views = "".join(
        f'<figure><canvas role="img" tabindex="0" aria-label="{escape(name)}, crop; arrow keys move all crops, plus and'
        f' minus zoom them"></canvas><figcaption><span>{escape(name)}</span><small>{caption}</small></figcaption>'
        f"{'' if layout.whole else _piece_images(place, layout)}</figure>"
        for place, (name, caption) in enumerate(zip(layout.names, captions, strict=True))
    )
    rows, cols = layout.pictures[0].shape[:2]
    facts = {
        "rows": rows,
        "cols": cols,
        "side": side,
        "whole": layout.whole,
        "thumb": len(layout.names) - 1 if comparison.reference is not None else layout.right,
        "shown": _shown_width(rows, cols),
        "spots": [[spot.top, spot.left] for spot in layout.spots],
        "pieces": [list(piece) for piece in layout.pieces],
    }
    return (
        '<section aria-labelledby="crops-title"><h2 id="crops-title">Where they differ most</h2>'
        f'<p class="soft">Squares of {side} px with the greatest mean absolute difference over all pairs of methods'
        f" (R, G, B{left_out}), apart from each other.{' In dB: PSNR of Y of the whole picture.' if figures[0] else ''}"
        " Drag to move all crops; pinch, use + and &minus;, or click and turn the wheel to zoom; 0 goes back."
        " Above 100 % every pixel is a square.</p>"
        f'<div class="tools"><div class="buttons spots" role="group" aria-label="Places">{buttons}</div>'
        '<div class="buttons right" role="group" aria-label="Zoom">'
        '<button type="button" id="farther" aria-label="Zoom out">&minus;</button>'
        '<output id="zoom" aria-live="polite"></output>'
        '<button type="button" id="closer" aria-label="Zoom in">+</button>'
        '<button type="button" id="pixels" aria-label="One pixel to one pixel">1:1</button>'
        '<button type="button" id="again">Reset</button></div></div>'
        f'<div class="row views {_across(len(layout.names))}">{views}</div>'
        f'<script type="application/json" id="facts">{json.dumps(facts)}</script></section>'
    )


def _piece_images(method: int, layout: _Layout) -> str:
    return "".join(
        image(piece.cut(layout.pictures[method]), "", f'class="piece" id="crop-{method}-{place}" hidden')
        for place, piece in enumerate(layout.pieces)
    )


def _maps(comparison: Comparison, layout: _Layout) -> str:
    if comparison.reference is not None:
        base, base_pixels = "the reference", comparison.reference
    else:
        base, base_pixels = layout.names[layout.left], layout.pictures[layout.left]
    named = [output for output in comparison.outputs if output.name != base]
    factor = -(-max(base_pixels.shape[:2]) // _MAP_SIDE)
    maps = [difference(output.pixels, base_pixels, factor) for output in named]
    needed = max(float(np.percentile(each, 99)) for each in maps)
    end = next((level for level in _ENDS if level >= needed), _ENDS[-1])
    figures = "".join(
        f"<figure>{image(_squares(_coloured(each, end)), f'Difference between {output.name} and {base}')}<figcaption>"
        f"<span>{escape(output.name)}</span><small>mean {float(each.mean()):.2f}</small></figcaption></figure>"
        for output, each in zip(named, maps, strict=True)
    )
    meaning = f"from dark, no difference, to pale yellow, {end} levels or more"
    dots = f", each dot the mean of {factor} &times; {factor} px" if factor > 1 else ""
    return (
        '<section aria-labelledby="maps-title"><h2 id="maps-title">Difference maps</h2>'
        f'<p class="soft">Absolute difference from {escape(base)}, mean of R, G and B, in levels of 255{dots}.'
        " One scale for all; dark is equal.</p>"
        f'{_scale(_ticks(end), meaning, "levels")}<div class="row maps {_across(len(named))}">{figures}</div></section>'
    )


def _coloured(apart: Floats, end: int) -> Bytes:
    levels = np.rint(np.clip(apart / end, 0, 1) * 255).astype(np.intp)
    colours: Bytes = colour_map()[levels]
    return colours


def _scale(ticks: Sequence[tuple[float, str]], meaning: str, key: str) -> str:
    """A bar with the colours of the maps, and what they mean. ticks: places, 0..1, and words; key: the bar's id."""
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colour_map()[::15].tolist()]
    stops = "".join(
        f'<stop offset="{place / (len(colours) - 1):.4f}" stop-color="{colour}"/>'
        for place, colour in enumerate(colours)
    )
    anchors = ["start", *["middle"] * (len(ticks) - 2), "end"]
    words = "".join(
        f'<text x="{place * 400:g}" y="32" text-anchor="{anchor}">{word}</text>'
        for (place, word), anchor in zip(ticks, anchors, strict=True)
    )
    return (
        f'<div class="scale"><svg viewBox="0 0 400 40" role="img" aria-label="Colours {meaning}">'
        f'<defs><linearGradient id="{key}">{stops}</linearGradient></defs>'
        f'<rect width="400" height="12" fill="url(#{key})"/>{words}</svg></div>'
    )


def _ticks(end: int) -> list[tuple[float, str]]:
    """Of the difference maps: four steps from zero to `end` levels."""
    last = f"{end}" if end == 255 else f"≥ {end}"
    return [(place / 4, last if place == 4 else f"{end * place / 4:g}") for place in range(5)]


class _Column(NamedTuple):
    """A column of the table of figures."""

    head: str
    cell: Callable[[Output], str]
    value: Callable[[Output], float] | None = None
    """The best one has the greatest; None where there is no best."""
    digits: int = 0
    """That are shown, and so decide."""
    style: str = ""
    """Its class."""


def _figures(comparison: Comparison) -> str:
    megapixels = math.prod(comparison.size) / 1e6

    def of(name: str) -> Callable[[Output], float]:
        return lambda output: getattr(output.figures, name, math.nan)

    def figure(head: str, name: str, digits: int) -> _Column:
        return _Column(head, lambda output: html_number(of(name)(output), digits), of(name), digits)

    groups: list[tuple[str, list[_Column]]] = []
    if comparison.reference is not None:
        groups = [
            (comparison.protocol_y, [figure("PSNR, dB", "psnr_y", 2), figure("SSIM", "ssim_y", 4)]),
            (comparison.protocol_rgb, [figure("PSNR, dB", "psnr_rgb", 2), figure("SSIM", "ssim_rgb", 4)]),
        ]
    groups += [
        (
            "Time",
            [
                _Column("ms", lambda output: _milliseconds(output.seconds * 1e3)),
                _Column("ms per Mpx", lambda output: _milliseconds(output.seconds * 1e3 / megapixels)),
                _Column("runs", lambda output: str(output.runs or "first")),
            ],
        ),
        ("Result", [_Column("px", lambda output: f"{output.pixels.shape[1]} &times; {output.pixels.shape[0]}")]),
        (
            "Model",
            [
                _Column("parameters", lambda output: number(output.parameters, 0) if output.parameters else MISSING),
                _Column(
                    "file, kB", lambda output: number(output.file_bytes / 1e3, 0) if output.file_bytes else MISSING
                ),
                _Column("SHA-256", lambda output: f'<span class="mono">{escape(output.sha256[:8] or MISSING)}</span>'),
            ],
        ),
        (
            "Run by",
            [
                _Column("engine", lambda output: escape(output.engine), style="text"),
                _Column("precision", lambda output: escape(output.precision)),
            ],
        ),
    ]
    heads = "".join(
        f'<th scope="colgroup" colspan="{len(columns)}" class="group">{escape(head)}</th>' for head, columns in groups
    )
    names = "".join(
        f'<th scope="col"{class_attribute("group" if first else "", column.style)}>{column.head}</th>'
        for first, column in _flat(groups)
    )
    best = {
        id(column): best_of([column.value(output) for output in comparison.outputs], column.digits)
        for _, columns in groups
        for column in columns
        if column.value
    }
    lines = []
    for output in comparison.outputs:
        kind = class_attribute("baseline" if output.name in CLASSICAL else "")
        cells = [f'<th scope="row">{escape(output.name)}</th>']
        for first, column in _flat(groups):
            marked = column.value and is_best(column.value(output), best[id(column)], column.digits)
            style = class_attribute("group" if first else "", column.style, "best" if marked else "")
            heard = '<span class="only-read"> best</span>' if marked else ""
            cells.append(f"<td{style}>{column.cell(output)}{heard}</td>")
        lines.append(f"<tr{kind}>{''.join(cells)}</tr>")
    legend = "" if all(map(math.isnan, best.values())) else " &#9656; marks the best of a column."
    notes = "".join(
        f'<p class="soft">{escape(output.name)}: {escape(note)}</p>'
        for output in comparison.outputs
        for note in output.notes
    )
    return (
        '<section aria-labelledby="figures-title"><h2 id="figures-title">Figures</h2>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures, scrolls sideways"><table><thead>'
        f'<tr><td></td>{heads}</tr><tr><th scope="col">Method</th>{names}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="soft">Time: the median of three runs of the whole picture after a first one, of fewer where they'
        " take longer than ten seconds together, and that first one where it alone does; decoding and encoding left"
        " out; per million pixels of input."
        f"{legend}</p>{notes}</section>"
    )


def _flat(groups: Sequence[tuple[str, Sequence[_Column]]]) -> Iterator[tuple[bool, _Column]]:
    for _, columns in groups:
        for place, column in enumerate(columns):
            yield place == 0, column


def _milliseconds(value: float) -> str:
    """Three digits: no clock here is truer."""
    return number(value, 1 if value < 100 else 0)


def _foot(comparison: Comparison) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in comparison.machine.items())
    return (
        f"<footer><p>superfine {escape(comparison.version)}, {escape(comparison.date)}.</p>"
        f"<p>Machine: {escape(facts)}.</p>"
        "<p>All that this page shows is in this file; it asks nothing of any network.</p></footer>"
    )


def _across(count: int) -> str:
    """The class of a row of so many pictures on a wide screen."""
    return f"across-{count if count <= 5 else 3 if count in (6, 9) else 4}"


def _shown_width(rows: int, cols: int) -> int:
    """CSS pixels of a small result, each of its pixels a square of several; 0 for all others."""
    factor = _SMALL_SIDE // max(rows, cols)
    return cols * factor if factor > 1 else 0


def _squares(pixels: Bytes) -> Bytes:
    """A small picture with each pixel as a square of several, so that no browser smooths it."""
    factor = max(1, _SMALL_SIDE // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _overview(pixels: Bytes) -> Bytes:
    """The picture as the slider shows it, `LONGEST` at most."""
    if max(pixels.shape[:2]) <= LONGEST:
        return pixels
    import pyvips

    reduced = pyvips.Image.new_from_array(pixels).resize(LONGEST / max(pixels.shape[:2]), kernel="cubic")
    return np.asarray(reduced.numpy(), np.uint8)
