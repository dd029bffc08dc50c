"""What is done, for resume: one line of JSON for each finished picture, beside the pictures.

A picture is noted when its temporary file is whole, before it is renamed: a kill
between the two leaves a note without a file, which counts as not done, and
never a file that nobody claims. A torn last line is passed over.

A process that works alone writes `JOURNAL_NAME`. Where several write into one folder, on one machine or on many,
each has a file of its own in `JOURNALS_NAME`, since appending to one file isn't safe on network disks; everybody reads
all of them.
"""

import json
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from superfine.atomic import this_process
from superfine.errors import OutputError

__all__ = ["JOURNALS_NAME", "JOURNAL_NAME", "Entry", "Journal", "stamp"]

JOURNAL_NAME: Final = ".superfine.jsonl"
#: The folder of those who write at the same time.
JOURNALS_NAME: Final = ".superfine.journals"
_GONE: Final = (-1, -1)
# What parts a line: which output, and of what it was made. In a string its quotes would be escaped.
_PARTING: Final = b', "source": '


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
        return _GONE
    return (facts.st_size, facts.st_mtime_ns)


class Journal:
    """The journal of one output folder.

    shared: other processes write to the same folder now, so that this one writes to a file of its own.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder = folder
        self._path = folder / JOURNALS_NAME / f"{this_process()}.jsonl" if shared else folder / JOURNAL_NAME
        self._lock = threading.Lock()
        # Hashes of each line's two parts, of every version that was ever written here: a million lines take 140 MB. One
        # lookup in a million lines meets a stranger's hash once in 10^12 times.
        self._known: dict[int, int] = {}
        self._read: dict[Path, int] = {}  # bytes of each file that are known

    def _refresh(self) -> None:
        """Read what was added since, by this process or another one that works on the same folder."""
        files = [self.folder / JOURNAL_NAME]
        with suppress(FileNotFoundError, NotADirectoryError):
            files += sorted(path for path in (self.folder / JOURNALS_NAME).iterdir() if path.suffix == ".jsonl")
        for path in files:
            # Opened even if it looks unchanged: network disks ask for the true size only then.
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # half written yet
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    which, parting, origin = line[:-1].partition(_PARTING)
                    if parting and origin.endswith(b"}"):
                        self._known[hash(which)] = hash(origin)

    def made(self, output: Path) -> bool:
        """An earlier run wrote `output` as it is now, and nobody changed it since."""
        return self._now(output) is not None

    def done(self, source: Path, output: Path, options: str) -> bool:
        """`output` is what `source` gives with these options, and both are unchanged."""
        noted = self._now(output)
        if noted is None:
            return False
        return noted == hash(_parts(self.entry(source, stamp(source), output, _GONE, options))[1])

    def _now(self, output: Path) -> int | None:
        """The hash of what the journal says of `output` as it is now."""
        now = stamp(output)
        if now == _GONE:
            return None
        which = hash(_parts(Entry(self._name(output), now, "", _GONE, ""))[0])
        with self._lock:
            if which not in self._known:
                self._refresh()
            return self._known.get(which)

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
            if self._path.parent != self.folder:
                self._path.parent.mkdir(exist_ok=True)
            torn = self._path.exists() and not self._ends_with_newline()
            with self._path.open("ab") as file:
                file.write((b"\n" if torn else b"") + _PARTING.join(_parts(entry)) + b"\n")
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


def _parts(entry: Entry) -> tuple[bytes, bytes]:
    """A line's two parts, which output and of what; always the same bytes for the same entry."""
    which, _, origin = json.dumps(asdict(entry)).encode().partition(_PARTING)
    return which, origin
