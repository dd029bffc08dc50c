"""Videos of stores, by pieces that several workers make: each is an object until all are joined.

What one worker has made lies in a folder of its own, as it would beside the output. So here the plan, the pieces and
the lists of them are only carried: from the one who begins to those who make, and from them to the one who joins. A
piece that is on a list is taken by its digest; one that isn't counts for nothing.
"""

import hashlib
import os
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from superfine.cluster.places import NOTES, Delivery, do, due, item_in, skipped
from superfine.cluster.stores import fetch, is_url, names_below, put, read, remove_all, scratch, version_of, write
from superfine.cluster.task import Task
from superfine.errors import SourceError
from superfine.listing import Item
from superfine.outputs import LOCK, PLAN, segments_folder
from superfine.upscale import Result, Run
from superfine.video import Pieces

__all__ = ["StoreVideos"]

# Of the lists of finished pieces.
_LISTS: Final = ".jsonl"


@dataclass
class _AtHand:
    """A video on this machine."""

    task: Task
    version: str
    """Of its source."""
    scratch: tempfile.TemporaryDirectory[str]
    item: Item
    carried: dict[str, int] = field(default_factory=dict)
    """Files with their bytes that are in the store as they are here."""

    @property
    def folder(self) -> Path:
        """Of its pieces."""
        return segments_folder(self.item.output)


class StoreVideos:
    """One worker's videos of stores; the last one stays at hand. Used as a context manager, or closed.

    Its methods are those of `Run`, for tasks, and raise what `Run` and `places.do` raise.
    """

    def __init__(self, run: Run, *, options: str, resume: bool = True, overwrite: bool = False) -> None:
        self._run = run
        self._options = options
        self._resume = resume
        self._overwrite = overwrite
        self._at_hand: _AtHand | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what is at hand."""
        if self._at_hand is not None:
            self._at_hand.scratch.cleanup()
            self._at_hand = None

    def begin(self, task: Task) -> Pieces | Result:
        """Begin a video whose pieces several workers will make; its result where it's over already."""
        if not is_url(task.output):  # pieces travel through the output's store
            return do(task, self._run.alone, options=self._options, resume=self._resume, overwrite=self._overwrite)
        delivery = self._due(task)
        if delivery is None:
            return skipped(task)
        here = self._fetched(task, delivery.source_version)
        if self._resume:
            self._bring(here)
        else:
            remove_all(_place(task))
            here.carried.clear()
        with delivery.renamed(here.item):
            pieces = self._run.begin(here.item)
        if isinstance(pieces, Result) or len(pieces.stretches) <= 1:
            return self.join(task)
        plan = (here.folder / PLAN).read_bytes()
        if read(f"{_place(task)}/{PLAN}") != plan:
            remove_all(_place(task))
            here.carried.clear()
            write(f"{_place(task)}/{PLAN}", plan)
        return pieces

    def pieces(self, task: Task, begin: int, finish: int) -> None:
        """Make the pieces of a begun video from `begin` on and before `finish`."""
        here = self._fetched(task, version_of(task.source))
        here.folder.mkdir(exist_ok=True)
        plan = read(f"{_place(task)}/{PLAN}")
        if plan:
            (here.folder / PLAN).write_bytes(plan)
        else:
            (here.folder / PLAN).unlink(missing_ok=True)  # it was joined, and whoever is late is told
        self._run.pieces(here.item, begin, finish)
        self._send(here)

    def join(self, task: Task) -> Result:
        """Make a begun video's file, and whatever of its pieces is still missing."""
        delivery = self._due(task)
        result = skipped(task)
        if delivery is not None:
            here = self._fetched(task, delivery.source_version)
            self._bring(here)
            result = delivery.made(here.item, self._run.join)
        self.close()
        remove_all(_place(task))
        return result

    def _due(self, task: Task) -> Delivery | None:
        return due(task, options=self._options, resume=self._resume, overwrite=self._overwrite)

    def _fetched(self, task: Task, version: str) -> _AtHand:
        here = self._at_hand
        if here is not None and (here.task, here.version) == (task, version):
            return here
        self.close()
        if not version:
            raise SourceError(f"{task.source}: there is no such file")
        folder = scratch()
        try:
            item = item_in(Path(folder.name), task)
        except BaseException:
            folder.cleanup()
            raise
        if is_url(task.source):
            # The plan of the pieces knows the source by its time: let it be that of the version, on all machines.
            seconds = int.from_bytes(hashlib.sha256(version.encode()).digest()[:3])
            os.utime(item.source, (seconds, seconds))
        self._at_hand = _AtHand(task, version, folder, item)
        return self._at_hand

    def _bring(self, here: _AtHand) -> None:
        """Fetch the plan and the pieces, as far as they aren't here."""
        here.folder.mkdir(exist_ok=True)
        place = _place(here.task)
        with suppress(FileNotFoundError):  # nothing was begun
            for name, size in names_below(place):
                if here.carried.get(name) != size:
                    fetch(f"{place}/{name}", here.folder)
                    here.carried[name] = size

    def _send(self, here: _AtHand) -> None:
        """Put the pieces that were made here into the store, and the lists of them after them."""
        place = _place(here.task)
        made = [path for path in here.folder.iterdir() if path.name not in (PLAN, LOCK) and path.name[0] != "."]
        for path in sorted(made, key=lambda path: path.suffix == _LISTS):
            size = path.stat().st_size
            if here.carried.get(path.name) == size:
                continue
            # A list grows, and other processes may have lists of the same name: each is put as one more.
            name = f"{uuid.uuid4().hex}.{path.name.partition('.')[2]}" if path.suffix == _LISTS else path.name
            put(path, f"{place}/{name}")
            here.carried[path.name] = size


def _place(task: Task) -> str:
    """The folder of a video's pieces in the store."""
    return f"{task.journal}/{NOTES}/{task.output[len(task.journal) + 1 :]}.segments"
