"""What is done, for resume: one line of JSON for each finished picture, beside the pictures.

A picture is noted when its temporary file is whole, before it is renamed: a kill
between the two leaves a note without a file, which counts as not done, and
never a file that nobody claims. A torn last line is passed over.
"""

import json
import os
import threading
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
        self._lock = threading.Lock()
        # By output and its stamp: every version that was ever written here is known as ours.
        self._entries: dict[tuple[str, tuple[int, int]], Entry] = {}
        self._read = 0  # bytes of the journal that are known

    def _refresh(self) -> None:
        """Read what was added since, by this process or another one that works on the same folder."""
        lines = [b""]
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().split(b"\n")
            self._read = file.tell() - len(lines[-1])  # the last may be half written yet
        for line in lines[:-1]:
            with suppress(ValueError, TypeError, KeyError):
                given = json.loads(line)
                for key in ("output_stamp", "source_stamp"):
                    given[key] = tuple(given[key])
                entry = Entry(**given)
                self._entries[entry.output, entry.output_stamp] = entry

    def made(self, output: Path) -> bool:
        """An earlier run wrote `output` as it is now, and nobody changed it since."""
        return self._now(output) is not None

    def done(self, source: Path, output: Path, options: str) -> bool:
        """`output` is what `source` gives with these options, and both are unchanged."""
        entry = self._now(output)
        wanted = (self._origin(source), stamp(source), options)
        return entry is not None and (entry.source, entry.source_stamp, entry.options) == wanted

    def _now(self, output: Path) -> Entry | None:
        with self._lock:
            self._refresh()
        return self._entries.get((self._name(output), stamp(output)))

    def add(self, entry: Entry) -> None:
        """Write down a finished picture. Any thread may call this."""
        with self._lock:
            self._append(entry)

    def entry(
        self, source: Path, source_stamp: tuple[int, int], output: Path, output_stamp: tuple[int, int], options: str
    ) -> Entry:
        """What to `add` for a picture: `source_stamp` from before it was read, `output_stamp` of the finished file."""
        return Entry(self._name(output), output_stamp, self._origin(source), source_stamp, options)

    def _append(self, entry: Entry) -> None:
        try:
            torn = self._path.exists() and not self._ends_with_newline()
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(("\n" if torn else "") + json.dumps(asdict(entry)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path}: the journal can't be written: {error.strerror}") from error

    def _name(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _origin(self, source: Path) -> str:
        # Relative, so that a tree that moves as a whole is still known.
        try:
            return Path(os.path.relpath(os.path.realpath(source), os.path.realpath(self.folder))).as_posix()
        except ValueError:  # another drive
            return Path(os.path.realpath(source)).as_posix()

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
