"""What one run found, in lines of JSON that a later one can be held against; shows itself as text and in notebooks."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from superfine.atomic import written_whole
from superfine.errors import OutputError, SourceError
from superfine.evaluate.record import Failure, Measurement, Row, UsedKernel, plain
from superfine.evaluate.tables import table_html, table_text

__all__ = ["Evaluation"]

_KINDS: Final = {"row": "rows", "failure": "failures", "picture": "measurements", "kernel": "kernels"}
_TYPES: Final[dict[str, Any]] = {"row": Row, "failure": Failure, "picture": Measurement, "kernel": UsedKernel}


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
    kernels: tuple[UsedKernel, ...] = ()
    """Those that small pictures were made by, where that is known."""

    def __str__(self) -> str:
        return table_text(self.rows, self.failures, self.notes)

    def _repr_html_(self) -> str:
        return table_html(self.rows, self.failures)

    def lines(self) -> list[str]:
        """Lines of JSON: the run and how many lines follow, then rows, failures, pictures and kernels."""
        rest = [{"kind": kind, **asdict(entry)} for kind, name in _KINDS.items() for entry in getattr(self, name)]
        head = {"version": self.version, "date": self.date, "machine": dict(self.machine), "notes": list(self.notes)}
        lines = [{"kind": "evaluation", "lines": len(rest), **head}, *rest]
        # In ASCII: file names may hold bytes that no encoding knows.
        return [json.dumps(plain(line), allow_nan=False) for line in lines]

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
        found: dict[str, list[Any]] = {name: [] for name in _KINDS.values()}
        facts: dict[str, Any] = {}
        for number, line in enumerate(lines, 1):
            try:
                given = json.loads(line)
                kind = given.pop("kind")
                if number == 1:
                    facts = {**_known(given, cls, ("version", "date", "machine")), "notes": tuple(given["notes"])}
                    rest = given["lines"]
                else:
                    found[_KINDS[kind]].append(_read(_TYPES[kind], given))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                words = str(error) if type(error) is ValueError else "it says other things"
                raise SourceError(
                    f"{path}: line {number} is none of an evaluation by this version of superfine ({words}); give a"
                    " file that --out wrote, or judge again"
                ) from error
        if not facts or len(lines) - 1 != rest:
            raise SourceError(f"{path}: is empty or cut off; give a file that --out wrote")
        return cls(**facts | {name: tuple(entries) for name, entries in found.items()})


def _known(given: Mapping[str, Any], kind: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """What `kind` has a field for; what a later version adds is left out. Raises ValueError where one is missing."""
    if missing := [name for name in wanted if name not in given]:
        raise ValueError(f"lacks {', '.join(missing)}")
    names = {entry.name for entry in fields(kind)}
    return {name: value for name, value in given.items() if name in names and name != "notes"}


def _read(kind: Any, given: Mapping[str, Any]) -> Any:
    wanted = [entry.name for entry in fields(kind) if entry.default_factory is MISSING and entry.default is MISSING]
    facts = _known(given, kind, wanted)
    for entry in fields(kind):
        if entry.name not in facts:  # an earlier version didn't know of it
            continue
        value = facts[entry.name]
        if entry.type is float:
            facts[entry.name] = _number(entry.name, value)
        elif entry.type in (int, str) and type(value) is not entry.type:
            raise ValueError(f"{entry.name} is {value!r}")
    if facts.get("kernel_correlation") is not None:
        facts["kernel_correlation"] = _number("kernel_correlation", facts["kernel_correlation"])
    if "weights" in facts:
        facts["weights"] = tuple(tuple(_number("weights", weight) for weight in line) for line in facts["weights"])
    if "distances" in facts:
        facts["distances"] = {name: _number(name, value) for name, value in facts["distances"].items()}
    return kind(**facts)


def _number(name: str, value: Any) -> float:
    if not (value is None or value in ("inf", "-inf") or type(value) in (int, float)):
        raise ValueError(f"{name} is {value!r}")
    return math.nan if value is None else float(value)
