"""What one run found, in lines of JSON that a later one can be held against; shows itself as text and in notebooks."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from superfine.atomic import written_whole
from superfine.errors import OutputError, SourceError
from superfine.evaluate.record import Failure, Measurement, Row
from superfine.evaluate.tables import table_html, table_text

__all__ = ["Evaluation"]

_KINDS: Final = {"row": "rows", "failure": "failures", "picture": "measurements"}


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

    def __str__(self) -> str:
        return table_text(self.rows, self.failures)

    def _repr_html_(self) -> str:
        return table_html(self.rows, self.failures)

    def lines(self) -> list[str]:
        """Lines of JSON: the run, then rows, failures and pictures."""
        head = {"version": self.version, "date": self.date, "machine": dict(self.machine), "notes": list(self.notes)}
        lines = [{"kind": "evaluation", **head}]
        for kind, name in _KINDS.items():
            lines += [{"kind": kind, **asdict(entry)} for entry in getattr(self, name)]
        return [json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) for line in lines]

    def save(self, path: Path | str) -> None:
        """Write `lines`, whole or not at all. Raises OutputError."""
        try:
            with written_whole(Path(path)) as part:
                part.write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. Raises SourceError with the line that is wrong."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
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
