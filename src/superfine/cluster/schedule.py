"""Which picture or piece of a video next to which worker; what is tried again, and what is set aside.

Knows nothing of Ray: a `Crew` does the work and says what became of it. A worker has one thing at a time, so that its
death costs no more than that, and what waits costs no memory but its place in the list.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from superfine.cluster.task import Task
from superfine.upscale import Result
from superfine.video import Pieces, Stretch

__all__ = [
    "Begin",
    "Crew",
    "Event",
    "Finished",
    "Join",
    "Joined",
    "Lost",
    "Made",
    "Make",
    "Outcome",
    "Source",
    "Trouble",
    "Whole",
    "Work",
    "failed",
    "schedule",
]

# Before the second try, doubled for each further one: what a network or a store can't do now it may do then.
_PAUSE_SECONDS: Final = 1.0
# How long nothing may happen before the list is looked at again.
_POLL_SECONDS: Final = 0.2
# Things that wait for another try before no new ones are begun: where all fail, nothing else would happen.
_MOST_WAITING: Final = 1000
# Of a video's weight, what isn't joining.
_UNJOINED: Final = 0.99


# ---- what is to be done


@dataclass(frozen=True, slots=True)
class Whole:
    """A picture or a video, from file to file."""

    task: Task


@dataclass(frozen=True, slots=True)
class Begin:
    """A video: which of its pieces are to be made."""

    task: Task


@dataclass(frozen=True, slots=True)
class Make:
    """Some pieces of a video that is begun."""

    task: Task
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class Join:
    """A video that is begun: what is still missing, and the file."""

    task: Task


Work = Whole | Begin | Make | Join


# ---- what becomes of it


@dataclass(frozen=True, slots=True)
class Made:
    """The pieces are there."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What may go well another time; words for a person."""

    words: str


Outcome = Result | Pieces | Made | Trouble
"""A result: the picture or video is over, done or not."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker is ready. kind: workers of one kind give the same bits."""

    worker: str
    kind: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker is done with what it had."""

    worker: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is dead, and with it what it had."""

    worker: str
    words: str


Event = Joined | Finished | Lost


class Crew(Protocol):
    """Who works."""

    def start(self, worker: str, work: Work) -> None:
        """Give a worker that has nothing something to do. Where it's dead, an event says so."""
        ...

    def events(self, seconds: float) -> list[Event]:
        """What has happened since; waits for the first so many seconds. Raises where nobody will ever work again."""
        ...


class Source(Protocol):
    """What is to be done, as far as it is known."""

    @property
    def over(self) -> bool:
        """Everything was taken, and nothing more will come."""
        ...

    def take(self) -> Task | None:
        """The next one; None where it isn't known yet, or there is none."""
        ...


# ---- the order


def schedule(
    source: Source,
    crew: Crew,
    *,
    tries: int = 3,
    settled: Callable[[Task, Result], None],
    advance: Callable[[float], None] = lambda weight: None,
    looked: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Have everything of `source` done by `crew`; each task is settled once, done, skipped or failed.

    tries: how often something is begun that takes its worker along or gets into trouble. settled: hears what became of
    each. advance: hears of weights that are done. looked: called at least each fifth of a second.
    """
    order = _Order(source, tries, settled, advance, clock)
    kinds: dict[str, str] = {}
    busy: dict[str, Work] = {}
    while not order.over or busy:
        looked()
        for worker in [worker for worker in kinds if worker not in busy]:
            work = order.next_for(kinds[worker], set(kinds.values()))
            if work is None:
                continue
            busy[worker] = work
            crew.start(worker, work)
        for event in crew.events(_POLL_SECONDS):
            match event:
                case Joined(worker, kind):
                    kinds[worker] = kind
                case Finished(worker, outcome):
                    order.heard(busy.pop(worker), outcome, kinds[worker])
                case Lost(worker, words):
                    kind = kinds.pop(worker, "")
                    if worker in busy:
                        order.heard(busy.pop(worker), Trouble(words), kind)
    looked()


@dataclass
class _Video:
    """A video of which pieces are being made."""

    kind: str
    """Of the worker that began it; others' pieces might differ from its own."""
    frames: int
    left: int
    """Stretches that aren't made yet."""
    notes: tuple[str, ...]
    told: float = 0.0
    """Of its weight, what was said to be done."""


@dataclass(order=True)
class _Waiting:
    since: float
    number: int
    work: Work = field(compare=False)


class _Order:
    def __init__(
        self,
        source: Source,
        tries: int,
        settled: Callable[[Task, Result], None],
        advance: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._most = tries
        self._settled = settled
        self._advance = advance
        self._clock = clock
        self._ready: deque[Work] = deque()
        self._waiting: list[_Waiting] = []
        self._number = 0
        # Only of what went wrong once.
        self._tries: dict[Work, int] = {}
        self._videos: dict[Task, _Video] = {}

    @property
    def over(self) -> bool:
        """Nothing is left to be begun."""
        return not self._ready and not self._waiting and self._source.over

    def next_for(self, kind: str, kinds: set[str]) -> Work | None:
        """What a worker of this kind does next: what waits for another try, then begun videos, then what is new."""
        if self._waiting and self._waiting[0].since <= self._clock():
            self._ready.appendleft(heapq.heappop(self._waiting).work)
        for work in self._ready:
            if self._suits(work, kind):
                self._ready.remove(work)
                return work
        if len(self._waiting) < _MOST_WAITING:
            while (task := self._source.take()) is not None:
                if not task.problem:
                    return Begin(task) if task.moves else Whole(task)
                self._settle(task, failed(task, task.problem))
        return self._orphan(kinds)

    def heard(self, work: Work, outcome: Outcome, kind: str) -> None:
        """What became of it, with a worker of this kind."""
        match outcome:
            case Trouble(words):
                self._again(work, words, kind)
                return
            case Pieces():
                self._begun(work.task, outcome, kind)
            case Made():
                self._made(work)
            case Result():
                # A stretch that can't be made is no end of its video: who joins it makes it, or says why not.
                if isinstance(work, Make):
                    self._made(work)
                else:
                    self._settle(work.task, outcome)
        self._tries.pop(work, None)

    def _begun(self, task: Task, pieces: Pieces, kind: str) -> None:
        stretches = pieces.stretches
        self._videos[task] = _Video(kind, max(1, pieces.frames), len(stretches), pieces.notes)
        self._tell(task, pieces.resumed)
        if len(stretches) > 1:
            self._ready.extend(Make(task, stretch) for stretch in stretches)
        else:
            self._ready.append(Join(task))

    def _made(self, work: Work) -> None:
        video = self._videos.get(work.task)
        if not isinstance(work, Make) or video is None:  # a video that was begun anew meanwhile
            return
        self._tell(work.task, work.stretch.frames)
        video.left -= 1
        if video.left == 0:
            self._ready.append(Join(work.task))

    def _suits(self, work: Work, kind: str) -> bool:
        video = self._videos.get(work.task)
        return video is None or video.kind == kind

    def _orphan(self, kinds: set[str]) -> Work | None:
        """A video of which no worker of its kind is left: it's made anew as a whole, by another one."""
        for work in self._ready:
            video = self._videos.get(work.task)
            if video is None or video.kind in kinds:
                continue
            self._advance(-video.told)
            self._forget(work.task)
            return Whole(work.task)
        return None

    def _again(self, work: Work, words: str, kind: str) -> None:
        tried = self._tries[work] = self._tries.get(work, 0) + 1
        if tried >= self._most:
            often = f"given up after {tried} tries" if tried > 1 else "given up"
            self.heard(work, failed(work.task, f"{words}; {often}"), kind)
            return
        self._number += 1
        since = self._clock() + _PAUSE_SECONDS * 2 ** (tried - 1)
        heapq.heappush(self._waiting, _Waiting(since, self._number, work))

    def _tell(self, task: Task, frames: int) -> None:
        video = self._videos[task]
        weight = _UNJOINED * task.weight * frames / video.frames
        video.told += weight
        self._advance(weight)

    def _settle(self, task: Task, result: Result) -> None:
        video = self._forget(task)
        if video is not None:
            result = replace(result, notes=(*result.notes, *(note for note in video.notes if note not in result.notes)))
        self._advance(task.weight - (0.0 if video is None else video.told))
        self._settled(task, result)

    def _forget(self, task: Task) -> _Video | None:
        """Leave out what is left of a video."""
        video = self._videos.pop(task, None)
        if video is not None:
            self._ready = deque(work for work in self._ready if work.task != task)
            self._waiting = [waiting for waiting in self._waiting if waiting.work.task != task]
            heapq.heapify(self._waiting)
        return video


def failed(task: Task, words: str) -> Result:
    """A task that words say why it isn't done."""
    named = task.source in words or task.output in words
    return Result(Path(task.source), Path(task.output), "failed", words if named else f"{task.source}: {words}")
