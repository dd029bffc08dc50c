"""What the judge's two pages have in common: one file without any request, its look, and text that stays text."""

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.errors import OutputError, UsageError

__all__ = [
    "INFINITE",
    "MISSING",
    "TIMES",
    "asset",
    "best_of",
    "class_attribute",
    "data_uri",
    "escape",
    "html_number",
    "image",
    "is_best",
    "number",
    "page",
    "save_page",
]

Bytes = npt.NDArray[np.uint8]

INFINITE = "\N{INFINITY}"
MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def escape(text: object) -> str:
    """Text for HTML, between tags and inside quoted attributes; what a file name has that is no text is spelt out."""
    return html.escape(str(text).encode("utf-8", "backslashreplace").decode("utf-8"), quote=True)


def number(value: float, digits: int) -> str:
    """A figure: `37.25`, `1,234`, `∞`, and a dash for NaN."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return INFINITE if value > 0 else f"-{INFINITE}"
    return f"{value:,.{digits}f}"


def html_number(value: float, digits: int, *, infinite: str = "identical") -> str:
    """`number` for HTML. infinite: what infinity means there, in words."""
    text = number(value, digits)
    return f'<abbr title="{escape(infinite)}">{text}</abbr>' if value == math.inf else text


def best_of(values: Sequence[float], digits: int, *, better: int = 1) -> float:
    """The greatest (better: 1) or least (-1) value; NaN where no two differ in the digits that are shown."""
    known = [value for value in values if not math.isnan(value)]
    if len({number(value, digits) for value in known}) < 2:
        return math.nan
    return max(known, key=lambda value: better * value)


def is_best(value: float, best: float, digits: int) -> bool:
    """As good as the best in the digits that are shown."""
    return not math.isnan(value) and number(value, digits) == number(best, digits)


def data_uri(pixels: Bytes) -> str:
    """(H, W, 3) uint8 -> the same pixels as a PNG inside a URI."""
    import pyvips

    content = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).pngsave_buffer(compression=6, filter="sub")
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def image(pixels: Bytes, alt: str, attributes: str = "") -> str:
    """An `<img>` that carries its pixels; (H, W, 3) uint8. attributes: HTML, already escaped."""
    rows, cols = pixels.shape[:2]
    space = " " if attributes else ""
    return f'<img src="{data_uri(pixels)}" width="{cols}" height="{rows}" alt="{escape(alt)}"{space}{attributes}>'


def class_attribute(*names: str) -> str:
    """The attribute with the names that aren't empty, a space before it; nothing where all are."""
    given = " ".join(name for name in names if name)
    return f' class="{given}"' if given else ""


def asset(name: str) -> str:
    """A text file that lies beside this one."""
    return (resources.files("superfine.evaluate") / name).read_text(encoding="utf-8")


def page(title: str, body: str, *, script: str = "") -> str:
    """A whole HTML file that may load nothing, only show its own pictures and run `script` if given.

    title: plain text; body: HTML. The policy names the hashes of style and script, so
    that nothing else runs, whatever stands in the body. Source: W3C, Content Security Policy Level 3.
    """
    style = asset("page.css")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    if script:
        policy += f"; script-src {_hash(script)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<main class="page">\n{body}\n</main>\n'
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def save_page(content: str, path: Path) -> None:
    """Write a page, whole or not at all. Raises UsageError for another ending than .html, OutputError."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: is to be a page; give it a name that ends in .html")
    try:
        with written_whole(path) as part:
            part.write_bytes(content.encode("utf-8"))
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
