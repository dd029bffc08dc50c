"""Which pictures and videos a run takes, and where each goes: no two share an output, and no source is one."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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

__all__ = [
    "Item",
    "Listing",
    "free_name",
    "is_known",
    "iterate_sources",
    "list_sources",
    "moves_as",
    "output_suffix",
    "said_of_twins",
]


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
    """Files in its folders that are neither, and `twins`."""
    twins: list[Path] = field(default_factory=list)
    """Other names of files that are among `items`, as links have them."""


_SUFFIXES = {suffix: entry for entry in FORMATS.values() for suffix in entry.suffixes}
# Of videos that lie in a folder; others can be named. TypeScript has taken `.ts`.
_VIDEO_SUFFIXES: Final = VIDEO_SUFFIXES - {".ts"}
# Other names of one file that are said.
_MOST_NAMED: Final = 3
# Containers that hold nearly everything: for videos whose own isn't written.
_ANY_VIDEO: Final = ".mkv"


def list_sources(sources: Sequence[Path], output: Path | None, job: Job) -> Listing:
    """All pictures and videos of a run with their outputs, by name; no two share an output. Raises UsageError."""
    begun, listing = _begin(sources, output, job), Listing([])
    if isinstance(begun, Item):
        return Listing([begun])
    for found in begun.all():
        if isinstance(found, Item):
            listing.items.append(found)
        else:
            listing.ignored += 1
            if is_known(found.name):
                listing.twins.append(found)
    if begun.strayed:  # outputs may be sources that were met later
        listing.items = [item if item.problem else begun.guarded(item) for item in listing.items]
    return listing


def iterate_sources(sources: Sequence[Path], output: Path | None, job: Job) -> Iterator[Item | Path]:
    """The same one by one, and as a path each file that is neither, or another name of one that was met before.

    No more than one folder is held in memory.

    What `list_sources` knows and this doesn't: that an output is a source of the run which is met later, and only
    through a link out of the folders that were named. Raises UsageError at once where nothing can be done at all, and
    at the end where there was nothing to do.
    """
    begun = _begin(sources, output, job)
    return iter([begun]) if isinstance(begun, Item) else begun.all()


def _begin(sources: Sequence[Path], output: Path | None, job: Job) -> "Item | _Walk":
    """What there is to do: one thing with its own output, or whatever will be met on a walk. Raises UsageError."""
    expanded = [found for source in sources for found in _glob(source)]
    if not expanded:
        raise UsageError("no source given")
    if len(expanded) == 1 and output is not None and _names_file(expanded[0], output, job):
        return _lone(expanded[0], output)
    lone = len(expanded) == 1 and not os.path.isdir(expanded[0])
    if output is not None:
        _check_folder(output)
        if not lone and output.suffix.lower() in {*_SUFFIXES, *CONTAINERS} and not os.path.isdir(output):
            raise UsageError(f"{output}: is the name of a file, and several sources need a folder; name one with -o")
    return _Walk(expanded, output, job)


class _Walk:
    """The way through the sources of a run: each file once, however many links lead to it, and in a place of its own.

    What is remembered of files is what's needed for that and can't be many: those named one by one, and the targets
    of links. Of any other the folder says whether it was met.
    """

    def __init__(self, sources: Sequence[Path], output: Path | None, job: Job) -> None:
        self._sources = sources
        self._output = output
        self._job = job
        self._lone = len(sources) == 1 and not os.path.isdir(sources[0])
        # Each folder with what mirrors it; and whatever else is named, by its real path.
        self._roots: dict[Path, Path] = {}
        self._named: dict[str, Path] = {}
        for source in sources:
            if os.path.isdir(source) and not job.as_clip:
                self._roots[source] = _root(source, output, job, several=len(sources) > 1)
            else:
                self._named.setdefault(os.path.realpath(source), source)
        self._tops = {_real(source): _real(root) for source, root in self._roots.items()}
        self._given: set[str] = set()  # of those that are named, what was met
        self._met: set[str] = set()  # folders
        self._linked: set[str] = set()  # files
        self.strayed = False
        """A link was followed, which may lead anywhere."""
        # What is taken is remembered to the end only in folders that get the outputs of more than one source, or of two
        # folders that some file systems take for one.
        self._held: dict[str, set[str]] = {}
        self._shared = _overlapping([_parts(root) for root in self._roots.values()])
        for folder in {_parts(self._place(source).parent) for source in self._named.values() if self._roots}:
            self._shared |= {folder[:count] for count in range(len(folder) + 1)}

    def all(self) -> Iterator[Item | Path]:
        """Everything in the order of the sources, and of names.

        As a path what is neither picture nor video, or another name of what was met before. Raises UsageError at the
        end where there was nothing to do.
        """
        empty = True
        for source in self._sources:
            if source in self._roots:
                for found in self._inside(source, self._roots[source]):
                    empty = empty and not isinstance(found, Item)
                    yield found
            elif not self._was_met(real := os.path.realpath(source)):
                self._given.add(real)
                empty = False
                yield self._alone(source)
            elif real in self._linked or source.is_symlink():
                yield source
        if empty:
            known = " ".join((*_SUFFIXES, *CONTAINERS))
            names = ", ".join(map(str, self._sources))
            raise UsageError(f"no picture and no video in {names}; superfine reads {known}")

    def guarded(self, item: Item) -> Item:
        """With its problem where its output is a source of the run, as far as the walk has come."""
        return replace(item, problem=_own(item.output)) if self._is_source(os.path.realpath(item.output)) else item

    def _alone(self, source: Path) -> Item:
        place = self._place(source)
        free = free_name(place, source, self._held.setdefault(str(place.parent).casefold(), set()))
        if self._job.as_clip and os.path.isdir(source):
            journal, kind = None, "frames"
        else:
            journal, kind = None if self._lone else self._output or source.parent, kind_of(source)
        problem = _own(free) if self._is_source(os.path.realpath(free)) else ""
        return Item(source, free, journal, _weight(source), problem, moves=moves_as(kind, free))

    def _place(self, source: Path) -> Path:
        """Where the output of a source goes that is named by itself, if nothing else goes there."""
        if self._job.as_clip and os.path.isdir(source):
            return _clip_beside(source, self._output, self._job)
        kind = kind_of(source)
        if self._output is None:
            return _beside(source, kind, self._job)
        return (self._output / source.name).with_suffix(output_suffix(source, kind, self._job))

    def _inside(self, folder: Path, root: Path) -> Iterator[Item | Path]:
        """What is below a folder, links followed once, without what is in `root` and what begins with a dot."""
        own = os.path.realpath(root)
        journal = root if self._output is None else self._output
        ahead = [(folder, os.path.realpath(folder), root, _parts(root) in self._shared)]
        while ahead:
            here, real, place, shared = ahead.pop()
            if real == own or real in self._met:
                continue
            try:
                folders, files, links = _scan(here)
            except OSError as error:
                yield Item(here, root, None, 1, f"{here}: the folder can't be read: {error.strerror}")
                continue
            self._met.add(real)
            twins = Counter(name.casefold() for name in folders)
            for name in reversed(folders):
                self.strayed = self.strayed or name in links
                below = os.path.realpath(here / name) if name in links else os.path.join(real, name)  # noqa: PTH118
                ahead.append((here / name, below, place / name, shared or twins[name.casefold()] > 1))
            taken = self._held.setdefault(str(place).casefold(), set()) if shared else set()
            guarded = self._guarded(place)
            for name in files:
                path = here / name
                if not is_known(name):
                    yield path
                elif not self._is_new(path, real, link=name in links):
                    if name in links or str(Path(real, name)) in self._linked:  # else it was named, by this name
                        yield path
                else:
                    kind = kind_of(path)
                    free = free_name((place / name).with_suffix(output_suffix(path, kind, self._job)), path, taken)
                    problem = _own(free) if guarded(free) else ""
                    yield Item(path, free, journal, _weight(path), problem, moves=moves_as(kind, free))

    def _is_new(self, path: Path, folder: str, *, link: bool) -> bool:
        """Whether a file in the real `folder` wasn't met before, by this name or another."""
        if not link:
            real = os.path.join(folder, path.name)  # noqa: PTH118 - many times faster, of millions of names
            return real not in self._linked and real not in self._given
        real = os.path.realpath(path)
        beside, name = os.path.split(real)
        # Of its own folder only what comes before it was met.
        met = self._was_met(real) and (beside != folder or name < path.name)
        if met or real in self._linked or real in self._given:
            return False
        self._linked.add(real)
        self.strayed = True
        return True

    def _was_met(self, real: str) -> bool:
        folder, name = os.path.split(real)
        return (
            real in self._linked
            or real in self._given
            or (folder in self._met and not name.startswith(".") and is_known(name) and os.path.lexists(real))
        )

    def _guarded(self, place: Path) -> Callable[[Path], bool]:
        """What tells of an output in the folder `place` whether it is a source of the run."""
        try:
            with os.scandir(place) as entries:
                links = {entry.name for entry in entries if entry.is_symlink()}
        except OSError:  # usually there's no such folder yet
            return lambda output: False
        real = os.path.realpath(place)
        near = self._takes(real)

        def guarded(output: Path) -> bool:
            if near or output.name in links:
                return self._is_source(os.path.realpath(output))
            there = os.path.join(real, output.name)  # noqa: PTH118
            return there in self._named or there in self._linked

        return guarded

    def _is_source(self, real: str) -> bool:
        folder, name = os.path.split(real)
        if real in self._named or real in self._linked:
            return True
        return self._takes(folder) and not name.startswith(".") and is_known(name) and os.path.lexists(real)

    def _takes(self, real: str) -> bool:
        """Whether the pictures in a real folder are sources: it was met, or will be since it's below one of them."""
        if real in self._met:
            return True
        below = Path(real)
        for top in (below, *below.parents):
            if top in self._tops and not below.is_relative_to(self._tops[top]):
                return not any(part.startswith(".") for part in below.relative_to(top).parts)
        return False


def said_of_twins(names: Sequence[str], count: int) -> str:
    """What a person should know of so many other names of files that a run takes; names: the first of them."""
    shown = ", ".join([*names[:_MOST_NAMED], *["…"] * (count > min(len(names), _MOST_NAMED))])
    return f"left alone, since it leads to a file that is made by another name: {shown}"


def _own(output: Path) -> str:
    return f"{output}: is a source of this run itself; choose another output with -o"


def _scan(folder: Path) -> tuple[list[str], list[str], set[str]]:
    """Sorted names of the folders and of the files in a folder, and which of both are links. Raises OSError."""
    folders, files, links = [], [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                links.add(entry.name)
            # A link in a circle is a file that can't be read.
            with suppress(OSError):
                if entry.is_dir():
                    folders.append(entry.name)
                    continue
            files.append(entry.name)
    return sorted(folders), sorted(files), links


def is_known(name: str) -> bool:
    """Whether a file of this name is taken where it lies in a folder."""
    suffix = Path(name).suffix.lower()
    return suffix in _SUFFIXES or suffix in _VIDEO_SUFFIXES


def _parts(folder: Path) -> tuple[str, ...]:
    return Path(str(folder).casefold()).parts


def _overlapping(folders: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Those which are equal to another of them, or in it, or around it."""
    found: set[tuple[str, ...]] = set()
    above: tuple[str, ...] | None = None
    for folder in sorted(folders):
        if above is not None and folder[: len(above)] == above:
            found |= {above, folder}
        else:
            above = folder
    return found


def _names_file(source: Path, output: Path, job: Job) -> bool:
    """Whether the output is that of the one source itself, and not a folder to put it into."""
    if output_kind(output) == "frames" and has_place(output):
        return True
    if os.path.isdir(source):
        return job.as_clip or output_kind(output) == "video" or output.suffix.lower() == ".gif"
    return bool(output.suffix) and not os.path.isdir(output)


def _lone(source: Path, output: Path) -> Item:
    moves = moves_as(kind_of(source), output)
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


def moves_as(kind: str, output: Path) -> bool:
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


def free_name(name: Path, source: Path, taken: set[str]) -> Path:
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


def output_suffix(source: Path, kind: str, job: Job) -> str:
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
    return source.with_name(f"{source.stem}_{job.label}{output_suffix(source, kind, job)}")


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
