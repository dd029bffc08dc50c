"""Which pictures a run takes, and where each goes: no two share an output, and no source is one."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from superfine.errors import UsageError
from superfine.image import FORMATS, format_of
from superfine.journal import stamp
from superfine.route import Job

__all__ = ["Item", "Listing", "list_pictures"]


@dataclass(frozen=True)
class Item:
    """One picture of a run."""

    source: Path
    output: Path
    journal: Path | None
    """The folder whose journal knows it; None for a lone picture."""
    weight: int
    problem: str = ""
    """Why it can't even be begun."""


@dataclass
class Listing:
    """The pictures of a run."""

    items: list[Item]
    ignored: int = 0
    """Files in its folders that aren't pictures."""


_SUFFIXES = {suffix: entry for entry in FORMATS.values() for suffix in entry.suffixes}


def list_pictures(sources: Sequence[Path], output: Path | None, job: Job) -> Listing:
    """All pictures of a run with their outputs, by name; no two share an output."""
    expanded = [found for source in sources for found in _glob(source)]
    if not expanded:
        raise UsageError("no source given")
    lone = len(expanded) == 1 and not os.path.isdir(expanded[0])
    if lone and output is not None and output.suffix and not os.path.isdir(output):
        format_of(output)
        _need_folder(output.parent)
        return Listing([Item(expanded[0], output, None, _weight(expanded[0]))])
    if output is not None:
        _check_folder(output)
    listing = Listing([])
    found: dict[Path, tuple[Path, Path, Path | None]] = {}
    for source in expanded:
        if os.path.isdir(source):
            root = _root(source, output, job, several=len(expanded) > 1)
            for path in _walk(source, root, listing):
                name = (root / path.relative_to(source)).with_suffix(_suffix(path, job))
                found.setdefault(_real(path), (path, name, root if output is None else output))
        else:
            name = _beside(source, job) if output is None else (output / source.name).with_suffix(_suffix(source, job))
            found.setdefault(_real(source), (source, name, None if lone else output or source.parent))
    if not found and not listing.items:
        raise UsageError(f"no picture in {', '.join(map(str, expanded))}; superfine reads {' '.join(_SUFFIXES)}")
    taken: set[str] = set()
    for source, name, journal in found.values():
        free = _free(name, source, taken)
        own = f"{free}: is a source of this run itself; choose another output with -o"
        problem = own if _real(free) in found else ""
        listing.items.append(Item(source, free, journal, _weight(source), problem))
    return listing


def _root(source: Path, output: Path | None, job: Job, *, several: bool) -> Path:
    """The folder that mirrors the folder `source`."""
    here = source if source.name not in ("", "..") else _real(source)
    if output is None:
        return here.with_name(f"{here.name}_{job.label}")
    if _real(output) == _real(source):
        raise UsageError(f"{output}: the output folder is the source folder; choose another with -o")
    return output / here.name if several else output


def _free(name: Path, source: Path, taken: set[str]) -> Path:
    """`name`, or a like one that no other picture of the run has; folded, since `A.png` may be `a.png`."""
    choice, number = name, 1
    while str(choice).casefold() in taken:
        kind = source.suffix[1:].lower()
        choice = name.with_name(f"{name.stem}_{kind}{'' if number == 1 else f'_{number}'}{name.suffix}")
        number += 1
    taken.add(str(choice).casefold())
    return choice


def _glob(source: Path) -> list[Path]:
    # A shell expands patterns itself; this is for Windows, and for quoted ones.
    if any(letter in str(source) for letter in "*?[") and not os.path.lexists(source):
        found = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not found:
            raise UsageError(f"{source}: nothing matches")
        return found
    return [source]


def _walk(folder: Path, output: Path, listing: Listing) -> Iterator[Path]:
    """Pictures below `folder`, links followed once, without what is in `output` and what begins with a dot."""

    def unread(error: OSError) -> None:
        place = Path(error.filename)
        listing.items.append(Item(place, output, None, 1, f"{place}: the folder can't be read: {error.strerror}"))

    seen = {_real(output)}
    for name, folders, files in os.walk(folder, onerror=unread, followlinks=True):
        here = Path(name)
        if _real(here) in seen:
            folders.clear()
            continue
        seen.add(_real(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in sorted(here / name for name in files if not name.startswith(".")):
            if path.suffix.lower() in _SUFFIXES:
                yield path
            else:
                listing.ignored += 1


def _suffix(source: Path, job: Job) -> str:
    return source.suffix if job.file_format is None else f".{job.file_format.lower()}"


def _beside(source: Path, job: Job) -> Path:
    return source.with_name(f"{source.stem}_{job.label}{_suffix(source, job)}")


def _real(path: Path) -> Path:
    # `Path.resolve` raises where links form a circle; such a source fails later, by its name.
    return Path(os.path.realpath(path))


def _weight(source: Path) -> int:
    return max(1, stamp(source)[0])


def _need_folder(folder: Path) -> None:
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: there is no such folder for the output; create it first")


def _check_folder(folder: Path) -> None:
    """The folder is there, or can be made in one that is; making it is left to the run."""
    _need_folder(Path(os.path.abspath(folder)).parent)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{folder}: is a file, and several pictures need a folder")
