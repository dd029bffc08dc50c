"""The pieces of an unfinished output, in a folder beside it: the plan that decides them, and which are finished.

A finished piece is noted with its digest, so that none is taken that a crash or a disk has spoilt, and with what was
measured of it. Each process that makes pieces notes them in a list of its own; everybody reads all lists.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from superfine.atomic import this_process, written_whole
from superfine.clip import Clip, Timeline
from superfine.errors import OutputError
from superfine.fidelity import Tally
from superfine.frames import Damaged, Interlaced
from superfine.journal import stamp
from superfine.outputs import LOCK, PLAN, SEGMENT_FRAMES, Output

__all__ = [
    "Conversion",
    "Finished",
    "check_begun",
    "list_note",
    "list_piece",
    "listed_notes",
    "listed_pieces",
    "prepare",
    "ready_pieces",
]

# How the lists of finished pieces end.
_LISTS: Final = ".done.jsonl"
# What of a tally is noted.
_FIGURES: Final = ("psnr", "drift", "worst", "misses", "samples")


@dataclass(frozen=True)
class Conversion:
    """What a clip becomes, and on which way."""

    clip: Clip
    output: Path
    made: Output
    """How it is written; of frames `first` to before `stop`."""
    first: int
    stop: int
    frames: int = 1
    """Odd length of the window."""
    damaged: Damaged = "stop"
    interlaced: Interlaced = "deinterlace"
    segment_frames: int = SEGMENT_FRAMES
    """What is made of a clip doesn't depend on where work begins, at multiples of so many frames."""
    fingerprint: str = ""
    """Whatever else decides the pixels."""

    @property
    def timeline(self) -> Timeline:
        """Of the output's frames."""
        return self.clip.timeline.part(self.first, self.stop)

    def frames_of(self, piece: int) -> int:
        """How many frames a piece has."""
        each = self.made.piece_frames
        return min(each, self.stop - self.first - piece * each)

    @cached_property
    def plan(self) -> str:
        """Everything that decides the pieces, as text; the source as it is when this is first asked for."""
        import av

        clip, made = self.clip, self.made
        sources = [[path.name, *stamp(path)] for path in clip.files or (clip.path,)]
        return json.dumps(
            {
                "source": _digest(sources),
                "pieces": _digest([path.name for path in made.pieces]),
                "frames": [self.first, self.stop, self.segment_frames],
                "window": self.frames,
                "interlaced": self.interlaced if clip.interlaced else "",
                "encoding": asdict(made.encoding),
                "fingerprint": self.fingerprint,
                "libraries": {name: list(version) for name, version in av.library_versions.items()},
            },
            default=str,
            sort_keys=True,
            indent=1,
        )


class Finished(NamedTuple):
    """A piece that was finished, as it was then."""

    name: str
    size: int
    """Bytes."""
    digest: str
    frames: int
    tally: Tally | None
    """What was measured of it."""


def _digest(names: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def prepare(folder: Path, conversion: Conversion) -> tuple[str, ...]:
    """Throw away the pieces of another plan, and halves of any; what a person should know of that."""
    written = folder / PLAN
    same = False
    with suppress(OSError, UnicodeDecodeError):
        same = written.read_text(encoding="utf-8") == conversion.plan
    if same:
        for half in folder.glob(".*.part"):
            half.unlink(missing_ok=True)
        return ()
    frames = {piece.name: piece.frames for piece in listed_pieces(folder) if (folder / piece.name).exists()}
    for entry in folder.iterdir():
        if entry.name != LOCK:
            entry.unlink()
    with written_whole(written) as part:
        part.write_text(conversion.plan, encoding="utf-8")
    lost = f"{sum(frames.values())} finished frames of an earlier run don't fit"
    return (f"{lost}: the source or an option has changed; they are made anew",) if frames else ()


def check_begun(folder: Path, conversion: Conversion) -> None:
    """Raise OutputError where the pieces weren't begun by the same plan."""
    output, mine = conversion.output, json.loads(conversion.plan)
    try:
        begun_with = dict(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{output}: its pieces aren't begun, or are finished; run the same again") from error
    if others := sorted(key for key in mine if begun_with.get(key) != mine[key]):
        raise OutputError(
            f"{output}: its pieces were begun with another {' and '.join(others)}; the machines that make them want the"
            " same source, options, versions and kind of processor"
        )


def list_piece(piece: Path, frames: int, tally: Tally | None) -> None:
    """Note that a piece is finished, what it is like, and what was measured of it."""
    figures = None if tally is None else {name: getattr(tally, name) for name in _FIGURES}
    _list(piece.parent, [*_facts(piece), frames, figures])


def list_note(folder: Path, words: str) -> None:
    """Note what a person should know of the pieces."""
    _list(folder, words)


def _list(folder: Path, entry: object) -> None:
    # Each writer has a list of its own: shared folders don't keep lines apart that several hosts append.
    with (folder / f"{this_process()}{_LISTS}").open("a", encoding="utf-8") as file:
        # A crash may have broken the line before off.
        file.write(f"\n{json.dumps(entry)}\n")


def listed_pieces(folder: Path) -> list[Finished]:
    """The pieces that were finished, whatever became of them since."""
    found: list[Finished] = []
    for entry in _listed(folder):
        with suppress(ValueError, TypeError, KeyError):
            name, size, digest, frames, figures = entry
            tally = None if figures is None else Tally(**figures | {"drift": tuple(figures["drift"])})
            found.append(Finished(str(name), int(size), str(digest), int(frames), tally))
    return found


def listed_notes(folder: Path) -> list[str]:
    """What a person should know of the pieces, whoever made them."""
    return list(dict.fromkeys(entry for entry in _listed(folder) if isinstance(entry, str)))


def _listed(folder: Path) -> Iterator[Any]:
    """The entries of all lists; a line that a crash has spoilt counts for nothing."""
    for listed in sorted(folder.glob(f"*{_LISTS}")):
        with suppress(OSError):
            for line in listed.read_bytes().splitlines():
                with suppress(ValueError):
                    yield json.loads(line)


def ready_pieces(folder: Path, conversion: Conversion, numbers: range) -> dict[int, Tally | None]:
    """The numbers of those pieces that are there as they were finished, and what was measured of them."""
    there = [number for number in numbers if conversion.made.pieces[number].exists()]
    listed = listed_pieces(folder) if there else []
    known = {(piece.name, piece.size, piece.digest): piece.tally for piece in listed}
    facts = {number: _facts(conversion.made.pieces[number]) for number in there}
    return {number: known[fact] for number, fact in facts.items() if fact in known}


def _facts(piece: Path) -> tuple[str, int, str]:
    """Name, bytes and digest; of what can't be read, those of nothing."""
    try:
        with piece.open("rb") as file:
            return piece.name, piece.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return piece.name, -1, ""
