"""What an evaluation found: figures with their protocol, in lines of JSON that a later one can be held against."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from superfine.atomic import written_whole
from superfine.errors import SourceError

__all__ = ["AS_IS", "Evaluation", "Failure", "Figures", "Measurement", "Row", "regressions"]

#: The row of same-size pairs that shows LR unchanged.
AS_IS: Final = "LR as it is"
_KINDS: Final = {"row": "rows", "failure": "failures", "picture": "measurements"}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """PSNR in dB, infinite for equal pictures; SSIM up to 1, NaN where a picture is too small for its window."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    """Mean of the three channels'."""
    distances: Mapping[str, float] = field(default_factory=dict)
    """Perceptual distances, by name."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """One picture by one method."""

    dataset: str
    picture: str
    model: str
    error_y: float
    """Sum of squared differences over `samples`, white at 1."""
    error_rgb: float
    """The same over three times as many."""
    samples: int
    """Pixels compared."""
    pixels: int
    """Of the small picture."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Row(Figures):
    """One method on one data set; the figures are means over the pictures."""

    dataset: str
    model: str
    scale: int
    pictures: int
    protocol_y: str
    """Of PSNR and SSIM on luma: `Y601-limited, crop 2, matlab-bicubic`."""
    protocol_rgb: str
    pooled_y: float
    """PSNR of the mean squared error over all samples of all pictures."""
    pooled_rgb: float
    ms_per_mpx: float
    """Milliseconds for a million pixels of input, NaN where nothing was computed."""
    memory_mb: float
    """Peak of what the method held: the network, and what a picture took; NaN where the system doesn't say."""
    engine: str
    precision: str
    sha256: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What couldn't be judged, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that one run measured, and on what."""

    version: str
    date: str
    machine: Mapping[str, str]
    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    failures: tuple[Failure, ...] = ()

    def save(self, path: Path) -> None:
        """Write lines of JSON: the run, then rows, failures and pictures. Raises OutputError."""
        head = {"version": self.version, "date": self.date, "machine": dict(self.machine), "notes": list(self.notes)}
        lines = [{"kind": "evaluation", **head}]
        for kind, name in _KINDS.items():
            lines += [{"kind": kind, **asdict(entry)} for entry in getattr(self, name)]
        with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises SourceError with the line that is wrong."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
        types: dict[str, Any] = {"picture": Measurement, "row": Row, "failure": Failure}
        facts: dict[str, Any] = {}
        found: dict[str, list[Any]] = {name: [] for name in _KINDS.values()}
        for number, line in enumerate(lines, 1):
            try:
                given = json.loads(line)
                kind = given.pop("kind")
                if kind == "evaluation":
                    facts = {**given, "notes": tuple(given["notes"])}
                else:
                    found[_KINDS[kind]].append(_read(types[kind], given))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise SourceError(
                    f"{path}: line {number} is none of an evaluation: {error}; give a file that --out wrote"
                ) from error
        try:
            return cls(**facts | {name: tuple(entries) for name, entries in found.items()})
        except TypeError as error:
            raise SourceError(f"{path}: isn't an evaluation; give a file that --out wrote") from error


def regressions(
    now: Sequence[Row], before: Sequence[Row], *, decibels: float = 0.02, ssim: float = 0.0005
) -> tuple[list[str], list[str]]:
    """Which figures fell by more than the tolerance, and which rows of `before` have no like now; in words.

    Rows are alike in data set, model, scale, pictures and protocol. decibels: the
    tolerance of mean and pooled PSNR; ssim: that of SSIM. A figure that isn't a number any more has fallen.
    """
    present = {_key(row): row for row in now}
    fallen, missing = [], []
    for old in before:
        new = present.get(_key(old))
        where = f"{old.dataset} x{old.scale}, {old.model}"
        if new is None:
            missing.append(f"{where} ({old.pictures} pictures; {old.protocol_y})")
            continue
        for name in ("psnr_y", "psnr_rgb", "pooled_y", "pooled_rgb", "ssim_y", "ssim_rgb"):
            was, is_now = getattr(old, name), getattr(new, name)
            tolerance = ssim if name.startswith("ssim") else decibels
            # Written so that NaN where there was a number counts as fallen, and infinity equals itself.
            if not (math.isnan(was) or is_now >= was - tolerance):
                words = name.replace("_", " of ").replace("psnr", "PSNR").replace("ssim", "SSIM")
                protocol = old.protocol_rgb if name.endswith("rgb") else old.protocol_y
                fallen.append(f"{where}: {words} fell from {was:.4f} to {is_now:.4f} ({protocol})")
    return fallen, missing


def _key(row: Row) -> tuple[object, ...]:
    return row.dataset, row.model, row.scale, row.pictures, row.protocol_y, row.protocol_rgb


def _plain(value: Any) -> Any:
    """JSON has neither infinity nor NaN: the one is written as "inf", the other as null."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _read(kind: Any, given: dict[str, Any]) -> Any:
    numbers = {entry.name for entry in fields(kind) if entry.type is float}
    for name in numbers:
        value = given[name]
        if not (value is None or value in ("inf", "-inf") or type(value) in (int, float)):
            raise ValueError(f"{name} is {value!r}")
        given[name] = math.nan if value is None else float(value)
    if "distances" in given:
        given["distances"] = {key: math.nan if v is None else float(v) for key, v in given["distances"].items()}
    return kind(**given)
