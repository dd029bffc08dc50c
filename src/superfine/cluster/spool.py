"""The list of what is to be done, on disk while it is being made: totals are known early, and memory stays small."""

import json
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import astuple
from typing import Final, Self

from superfine.cluster.task import Ignored, Task

__all__ = ["Spool"]

# Tasks that are taken from the disk at a time.
_BLOCK_BYTES: Final = 1 << 16
_MOST_TWINS: Final = 3


class Spool:
    """Lists `tasks` in a thread of its own, as far ahead of the reader as it gets.

    Used as a context manager; at its end listing stops at the next task. What stops the listing is raised to the
    reader, once everything before it was taken.
    """

    def __init__(self, tasks: Iterator[Task | Ignored]) -> None:
        self._tasks = tasks
        self._file = tempfile.TemporaryFile("w+b", prefix="superfine-list-")  # noqa: SIM115 - closed at the end of `with`
        self._lock = threading.Lock()
        self._written = 0
        self._read = 0
        self._moved = False
        self._ready: deque[Task] = deque()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._list, name="superfine-list", daemon=True)
        self.listed = 0
        """Tasks so far."""
        self.weight = 0
        """Of all of them."""
        self.ignored = 0
        """Files so far that are neither pictures nor videos, and other names of files that are listed."""
        self.twins: list[str] = []
        """The first few of these names."""
        self.twin_count = 0
        self.finished = False
        """Nothing will be added."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        # A step may wait for a network disk: it then ends with the process, and writes no more.
        self._thread.join(1)
        with self._lock:
            self._file.close()

    @property
    def over(self) -> bool:
        """Everything was taken, and nothing more will come."""
        with self._lock:
            return self.finished and self._failure is None and not self._ready and self._read == self._written

    def take(self) -> Task | None:
        """The next one; None where it isn't known yet, or there is none. Raises what stopped the listing."""
        if not self._ready:
            self._fill()
        return self._ready.popleft() if self._ready else None

    def _fill(self) -> None:
        with self._lock:
            if self._read < self._written:
                self._file.seek(self._read)
                self._moved = True
                lines = self._file.readlines(_BLOCK_BYTES)
                self._read += sum(map(len, lines))
            elif self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            else:
                return
        self._ready.extend(Task(*json.loads(line)) for line in lines)

    def _list(self) -> None:
        failure: BaseException | None = None
        try:
            for task in self._tasks:
                if self._stopped.is_set():
                    break
                if isinstance(task, Ignored):
                    self.ignored += 1
                    if task.twin:
                        self.twin_count += 1
                        if len(self.twins) < _MOST_TWINS:
                            self.twins.append(task.name)
                    continue
                line = json.dumps(astuple(task)).encode() + b"\n"
                with self._lock:
                    if self._file.closed:
                        break
                    if self._moved:  # each seek is a write to the disk
                        self._file.seek(self._written)
                        self._moved = False
                    self._file.write(line)
                    self._written += len(line)
                    self.listed += 1
                    self.weight += task.weight
        except BaseException as error:  # noqa: BLE001 - it is raised again to the reader
            failure = error
        with self._lock:
            self._failure = failure
            self.finished = True
