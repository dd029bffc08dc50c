"""The list of a cluster's run: complete, in order, early, and small."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from memory import measured
from superfine.cluster.spool import Spool
from superfine.cluster.task import Ignored, Task
from superfine.errors import UsageError


def _tasks(count: int) -> list[Task]:
    return [Task(f"in/{number}.png", f"out/{number}.png", number + 1, moves=number % 2 == 1) for number in range(count)]


def _all(spool: Spool) -> Iterator[Task]:
    while not spool.over:
        if (task := spool.take()) is not None:
            yield task


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_everything_comes_once_and_in_order(count: int) -> None:
    given = _tasks(count)
    with Spool(iter([Ignored("a.txt"), *given, Ignored("b.txt")])) as spool:
        assert list(_all(spool)) == given
        assert (spool.listed, spool.ignored, spool.finished) == (count, 2, True)
        assert spool.weight == count * (count + 1) // 2
        assert spool.take() is None


def test_other_names_of_files_are_counted_and_the_first_are_kept() -> None:
    given = [Ignored("notes.txt"), *_tasks(2), *(Ignored(f"{name}.png", twin=True) for name in "abcde")]
    with Spool(iter(given)) as spool:
        assert len(list(_all(spool))) == 2
        assert (spool.ignored, spool.twins, spool.twin_count) == (6, ["a.png", "b.png", "c.png"], 5)


def test_names_come_back_as_they_are() -> None:
    names = ["gr\udcfc\n.png", 'a"\\b\x00', "\u5c0f\U0001f600", "s3://a/b c%20?#.png", " "]
    given = [Task(name, name, 1, moves=False, problem=name, journal=name) for name in names]
    with Spool(iter(given)) as spool:
        assert list(_all(spool)) == given


def test_what_is_listed_can_be_taken_while_listing_goes_on() -> None:
    go_on = threading.Event()
    given = _tasks(3)

    def slowly() -> Iterator[Task]:
        yield from given[:2]
        go_on.wait()
        yield given[2]

    with Spool(slowly()) as spool:
        early = []
        while len(early) < 2:
            early += [task for task in [spool.take()] if task is not None]
        assert (spool.take(), spool.over, spool.finished, spool.listed) == (None, False, False, 2)
        go_on.set()
        assert [*early, *_all(spool)] == given


def test_what_stops_the_listing_is_heard_at_its_place() -> None:
    given = _tasks(2)

    def broken() -> Iterator[Task]:
        yield from given
        raise UsageError("no such bucket")

    taken = []
    with Spool(broken()) as spool, pytest.raises(UsageError, match="no such bucket"):
        taken.extend(_all(spool))
    assert taken == given


def test_listing_stops_with_the_run() -> None:
    asked, left = threading.Event(), []

    def endless() -> Iterator[Task]:
        try:
            while True:
                asked.set()
                yield from _tasks(1)
        finally:
            left.append("closed")

    tasks = endless()
    with Spool(tasks) as spool:
        asked.wait()
    assert spool.finished
    known = spool.listed
    tasks.close()
    assert left == ["closed"]
    assert spool.listed == known


LONG = """
import time
from pathlib import Path
from superfine.cluster.spool import Spool
from superfine.cluster.task import Task
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024  # MB

before = peak()
name = "/archive/1987/scans/IMG_%07d.tif"
with Spool(Task(name % number, name % number, 1, moves=False) for number in range(300_000)) as spool:
    while not spool.finished:
        time.sleep(0.01)
    taken = sum(spool.take() is not None for _ in range(300_000))
    assert (taken, spool.over) == (300_000, True)
print(peak() - before)
"""


@pytest.mark.slow
@measured
def test_memory_does_not_grow_with_the_list() -> None:
    told = subprocess.run([sys.executable, "-c", LONG], check=True, capture_output=True, text=True)
    assert float(told.stdout) < 20
