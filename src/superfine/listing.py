"""Which pictures and videos a run takes, and where each goes: no two share an output, and no source is one."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from superfine.encoding import CONTAINERS, container_of
from superfine.errors import UsageError
from superfine.footage import VIDEO_SUFFIXES, kind_of
from superfine.image import FORMATS, format_of
from superfine.journal import stamp
from superfine.outputs import check_pattern, frames_folder, output_kind
from superfine.route import Job
from superfine.stills import has_place, is_pattern

__all__ = ["Item", "Listing", "list_sources"]


@dataclass(frozen=True)
class Item:
    """One picture or video of a run."""

    source: Path
    output: Path
    journal: Path | None
    """The folder whose journal knows it; None for a lone picture."""
    weight: int
    problem: str = ""
    """Why it can't even be begun."""
    moves: bool = False
    """It's a video, an animation, or the frames of one."""


@dataclass
class Listing:
    """The pictures and videos of a run."""

    items: list[Item]
    ignored: int = 0
    """Files in its folders that are neither."""


_SUFFIXES = {suffix: entry for entry in FORMATS.values() for suffix in entry.suffixes}
# Of videos that lie in a folder; others can be named. TypeScript has taken `.ts`.
_VIDEO_SUFFIXES: Final = VIDEO_SUFFIXES - {".ts"}
# Containers that hold nearly everything: for videos whose own isn't written.
_ANY_VIDEO: Final = ".mkv"


def list_sources(sources: Sequence[Path], output: Path | None, job: Job) -> Listing:
    """All pictures and videos of a run with their outputs, by name; no two share an output."""
    expanded = [found for source in sources for found in _glob(source)]
    if not expanded:
        raise UsageError("no source given")
    if len(expanded) == 1 and output is not None and _names_file(expanded[0], output, job):
        return Listing([_lone(expanded[0], output)])
    lone = len(expanded) == 1 and not os.path.isdir(expanded[0])
    if output is not None:
        _check_folder(output)
        if not lone and output.suffix.lower() in {*_SUFFIXES, *CONTAINERS} and not os.path.isdir(output):
            raise UsageError(f"{output}: is the name of a file, and several sources need a folder; name one with -o")
    listing = Listing([])
    found: dict[Path, tuple[Path, Path, Path | None, str]] = {}
    for source in expanded:
        if job.as_clip and os.path.isdir(source):
            found.setdefault(_real(source), (source, _clip_beside(source, output, job), None, "frames"))
        elif os.path.isdir(source):
            root = _root(source, output, job, several=len(expanded) > 1)
            for path in _walk(source, root, listing):
                shown = kind_of(path)
                name = (root / path.relative_to(source)).with_suffix(_suffix(path, shown, job))
                found.setdefault(_real(path), (path, name, root if output is None else output, shown))
        else:
            shown = kind_of(source)
            inside = output / source.name if output is not None else None
            name = _beside(source, shown, job) if inside is None else inside.with_suffix(_suffix(source, shown, job))
            found.setdefault(_real(source), (source, name, None if lone else output or source.parent, shown))
    if not found and not listing.items:
        known = " ".join((*_SUFFIXES, *CONTAINERS))
        raise UsageError(f"no picture and no video in {', '.join(map(str, expanded))}; superfine reads {known}")
    taken: set[str] = set()
    for source, name, journal, kind in found.values():
        free = _free(name, source, taken)
        own = f"{free}: is a source of this run itself; choose another output with -o"
        problem = own if _real(free) in found else ""
        listing.items.append(Item(source, free, journal, _weight(source), problem, moves=_moves(kind, free)))
    return listing


def _names_file(source: Path, output: Path, job: Job) -> bool:
    """Whether the output is that of the one source itself, and not a folder to put it into."""
    if output_kind(output) == "frames" and has_place(output):
        return True
    if os.path.isdir(source):
        return job.as_clip or output_kind(output) == "video" or output.suffix.lower() == ".gif"
    return bool(output.suffix) and not os.path.isdir(output)


def _lone(source: Path, output: Path) -> Item:
    moves = _moves(kind_of(source), output)
    if not moves and output.suffix.lower() in CONTAINERS and os.path.exists(source):
        raise UsageError(f"{output}: {source} is no video; a picture goes into one of {' '.join(_SUFFIXES)}")
    if not moves:
        format_of(output)
    elif not output_kind(output):
        container_of(output)
    elif output_kind(output) == "frames":
        check_pattern(output)
    _need_folder(frames_folder(output).parent)
    return Item(source, output, None, _weight(source), moves=moves)


def _moves(kind: str, output: Path) -> bool:
    """Whether a source is taken as frames of a clip; an animation may also be wanted as a picture."""
    return kind in ("video", "frames") or (kind == "animation" and output_kind(output) != "")


def _clip_beside(source: Path, output: Path | None, job: Job) -> Path:
    """Where the clip goes whose frames are in the folder `source`."""
    here = source if source.name not in ("", "..") else _real(source)
    root = here.with_name(f"{here.name}_{job.label}") if output is None else output / here.name
    return root if job.file_format is None else root.with_name(f"{root.name}.{job.file_format.lower()}")


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
    """Pictures and videos below `folder`, links followed once, without those in `output` and what begins with a dot."""

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
            if path.suffix.lower() in _SUFFIXES or path.suffix.lower() in _VIDEO_SUFFIXES:
                yield path
            else:
                listing.ignored += 1


def _suffix(source: Path, kind: str, job: Job) -> str:
    """The ending of an output: what was asked for, where the source is of that kind; else its own."""
    asked = "" if job.file_format is None else f".{job.file_format.lower()}"
    match kind:
        case "video":
            own = source.suffix if source.suffix.lower() in CONTAINERS else _ANY_VIDEO
            return asked if asked in CONTAINERS else own
        case "animation":
            return asked or source.suffix
        case _:
            return source.suffix if asked in ("", *CONTAINERS) else asked


def _beside(source: Path, kind: str, job: Job) -> Path:
    if is_pattern(source):
        folder = _real(source.parent)
        root = folder.with_name(f"{folder.name}_{job.label}")
        return root / source.name if job.file_format is None else root.with_suffix(f".{job.file_format.lower()}")
    return source.with_name(f"{source.stem}_{job.label}{_suffix(source, kind, job)}")


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
