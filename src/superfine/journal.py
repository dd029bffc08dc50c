"""What is done, for resume: one line of JSON for each finished picture, beside the pictures.

A torn last line, as a killed run leaves it, is passed over. Nothing is ever
taken back: the newest line for an output counts.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from superfine.errors import OutputError

__all__ = ["JOURNAL_NAME", "Entry", "Journal", "stamp"]

JOURNAL_NAME = ".superfine.jsonl"


@dataclass(frozen=True)
class Entry:
    """One finished picture. Stamps are (bytes, nanoseconds of the last change)."""

    output: str
    """Relative to the journal's folder, with forward slashes."""
    output_stamp: tuple[int, int]
    source: str
    source_stamp: tuple[int, int]
    options: str
    """Fingerprint of everything that decides the output's content."""


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change; (-1, -1) where there is no such file."""
    try:
        facts = path.stat()
    except OSError:
        return (-1, -1)
    return (facts.st_size, facts.st_mtime_ns)


class Journal:
    """The journal of one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / JOURNAL_NAME
        self._entries: dict[str, Entry] = {}
        with suppress(FileNotFoundError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, TypeError):
                    given = json.loads(line)
                    for key in ("output_stamp", "source_stamp"):
                        given[key] = tuple(given[key])
                    entry = Entry(**given)
                    self._entries[entry.output] = entry

    def made(self, output: Path) -> bool:
        """This job's earlier run wrote `output`, and nobody changed it since."""
        entry = self._entries.get(self._name(output))
        return entry is not None and entry.output_stamp == stamp(output)

    def done(self, source: Path, output: Path, options: str) -> bool:
        """`output` is what `source` gives with these options, and both are unchanged."""
        entry = self._entries.get(self._name(output))
        return (
            entry is not None
            and self.made(output)
            and (entry.source, entry.source_stamp, entry.options) == (self._origin(source), stamp(source), options)
        )

    def add(self, source: Path, source_stamp: tuple[int, int], output: Path, options: str) -> None:
        """Write down a finished picture. `source_stamp` is from before it was read."""
        entry = Entry(self._name(output), stamp(output), self._origin(source), source_stamp, options)
        try:
            torn = self._path.exists() and not self._ends_with_newline()
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(("\n" if torn else "") + json.dumps(asdict(entry), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path}: the journal can't be written: {error.strerror}") from error
        self._entries[entry.output] = entry

    def _name(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _origin(self, source: Path) -> str:
        # Relative, so that a tree that moves as a whole is still known.
        try:
            return Path(os.path.relpath(source.resolve(), self.folder.resolve())).as_posix()
        except ValueError:  # another drive
            return source.resolve().as_posix()

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
