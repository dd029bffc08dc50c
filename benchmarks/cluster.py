"""What a cluster costs: per item, from one worker to two, and for listing.

    python benchmarks/cluster.py [--pictures 48] [--items 4000] [--paths 100000] [--model balanced]

Needs the extra `cluster`; everything happens on this machine, with a Ray cluster of its own whose workers have one core
each. Prints Markdown. Close other programs first; on two cores Ray's own processes share them with the second worker,
which a real cluster's head node spares it.

- Efficiency: pictures a second of two workers, by twice those of one, once both are warm; beside it the same of two
  plain `upscale` processes, each pinned to a core, which is what the machine can give.
- Per item: pictures that were done before, so a worker only looks them up; wall time times workers, by items. It holds
  Ray's call there and back, scheduling, the journal and the listener.
- Listing: seconds and memory until the last path is known, with a reader that takes each.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyvips
from ray.cluster_utils import Cluster

import superfine
from superfine.cluster import ClusterProgress, upscale_on_cluster
from superfine.cluster.places import list_tasks
from superfine.cluster.spool import Spool
from superfine.cluster.task import Task
from superfine.engine import cores, cpu_features

PHOTO = Path(__file__).parents[1] / "examples" / "photo.png"
# Pictures before the clock starts: networks are opened, and have a graph of their own.
WARM = 8
FOLDERS = 100


class Times(ClusterProgress):
    """When each was over."""

    def __init__(self) -> None:
        self.over: list[float] = []

    def settled(self, task: Task, result: superfine.Result) -> None:  # noqa: ARG002
        self.over.append(time.perf_counter())
        if result.status == "failed":
            sys.exit(result.message)

    def seconds_each(self) -> float:
        return (self.over[-1] - self.over[WARM - 1]) / (len(self.over) - WARM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--paths", type=int, default=100_000)
    parser.add_argument("--model", default="balanced")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    today = datetime.now(tz=UTC).date()
    print(f"{cpu_features()['name']}, {cores()} cores, Ray {version('ray')}, {today}\n\n| | |\n|---|---|")
    with tempfile.TemporaryDirectory(prefix="superfine-benchmark-") as name:
        folder = Path(name)
        efficiency(folder, given.pictures, given.model, given.runs)
        per_item(folder, given.items)
        listing(folder, given.paths)


def version(package: str) -> str:
    from importlib.metadata import version as version_of

    return version_of(package)


@contextmanager
def nodes(workers: int) -> Iterator[str]:
    """The address of a cluster with so many cores on one node, besides a head that does no work."""
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=workers)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def on_cluster(sources: Path, output: Path, model: str, workers: int) -> Times:
    times = Times()
    with nodes(workers) as address:
        upscale_on_cluster(
            str(sources),
            str(output),
            address=address,
            job=superfine.Job(model=model, scale=2),
            cores_per_worker=1,
            progress=times,
        )
    return times


ALONE = """
import sys, time, superfine

class Times(superfine.Progress):
    over = []
    def finish(self, result):
        self.over.append(time.perf_counter())

times = Times()
superfine.upscale_path(sys.argv[1], sys.argv[2], job=superfine.Job(model=sys.argv[3], scale=2), progress=times)
warm = int(sys.argv[4])
print((times.over[-1] - times.over[warm - 1]) / (len(times.over) - warm))
"""


def alone(sources: Path, output: Path, model: str, processes: int) -> float:
    """Seconds for a picture of plain processes, each on a core of its own, at the same time."""
    started = []
    for core in sorted(os.sched_getaffinity(0))[:processes]:
        code = f"import os; os.sched_setaffinity(0, {{{core}}})\n{ALONE}"
        command = [sys.executable, "-c", code, str(sources), f"{output}-{core}", model, str(WARM)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    return statistics.mean(float(process.communicate()[0]) for process in started) / processes


def efficiency(folder: Path, count: int, model: str, runs: int) -> None:
    sources = folder / "pictures"
    sources.mkdir()
    photo = pyvips.Image.new_from_file(str(PHOTO)).resize(2)
    for number in range(count):
        photo.pngsave(str(sources / f"{number:03}.png"))
    plain: dict[int, list[float]] = {1: [], 2: []}
    ours: dict[int, list[float]] = {1: [], 2: []}
    for run in range(runs):
        for workers in (1, 2):
            plain[workers].append(alone(sources, folder / f"alone-{run}-{workers}", model, workers))
            ours[workers].append(on_cluster(sources, folder / f"out-{run}-{workers}", model, workers).seconds_each())
    for name, seconds in (("plain processes", plain), ("cluster", ours)):
        one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
        print(f"| {name}, {photo.width} x {photo.height}, {model} x2, one core | {one * 1e3:.0f} ms a picture |")
        print(f"| {name}, two cores | {two * 1e3:.0f} ms a picture, efficiency {one / (2 * two):.1%} |")
    over = statistics.median(ours[1]) - statistics.median(plain[1])
    print(f"| one worker beside one plain process | {over * 1e3:+.1f} ms a picture |")


def per_item(folder: Path, count: int) -> None:
    sources, output = folder / "tiny", folder / "tiny-out"
    sources.mkdir()
    small = pyvips.Image.black(2, 2, bands=3)
    for number in range(count):
        small.pngsave(str(sources / f"{number:06}.png"))
    superfine.upscale_path(sources, output, job=superfine.Job(model="nearest", scale=2))
    for workers in (1, 2):
        each = on_cluster(sources, output, "nearest", workers).seconds_each() * workers
        print(f"| per item and worker, done before, {workers} of them | {each * 1e3:.2f} ms |")


def listing(folder: Path, count: int) -> None:
    sources = folder / "many"
    picture = pyvips.Image.black(1, 1).pngsave_buffer()
    for number in range(FOLDERS):
        (sources / f"{number:03}").mkdir(parents=True)
    for number in range(count):
        (sources / f"{number % FOLDERS:03}" / f"{number:07}.png").write_bytes(picture)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with Spool(list_tasks([str(sources)], str(folder / "many-out"), superfine.Job(scale=2))) as spool:
        taken = 0
        while not spool.over:
            if spool.take() is None:
                time.sleep(0.01)
            else:
                taken += 1
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(f"| listing {taken:,} paths in {FOLDERS} folders | {seconds:.1f} s, {grown:.0f} MB of memory more |")


if __name__ == "__main__":
    main()
