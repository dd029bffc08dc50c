"""The same job on many machines, by Ray: each item goes through the same `Run` as on one, in actors that stay warm.

from superfine.cluster import upscale_on_cluster
upscale_on_cluster(["/data/scans"], "/data/large", address="auto")
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from superfine.cluster.stores import is_url, plain
from superfine.cluster.task import PATIENCE_MINUTES, Task
from superfine.errors import EngineError, OutputError, UsageError
from superfine.listing import said_of_twins
from superfine.route import Job
from superfine.upscale import Progress, Result

__all__ = ["ClusterProgress", "ClusterReport", "Task", "upscale_on_cluster"]

# Failures and notes that are kept for the end; all of them are heard when they happen.
_MOST_KEPT: Final = 100
# Files of a note that are named.
_NAMED: Final = 3


@dataclass
class ClusterReport:
    """What became of a run: done + failed + skipped = listed."""

    listed: int = 0
    """Pictures and videos."""
    done: int = 0
    failed: int = 0
    skipped: int = 0
    """Done by an earlier run, and unchanged."""
    ignored: int = 0
    """Files that are neither pictures nor videos, and other names of those that are listed."""
    failures: list[str] = field(default_factory=list)
    """Of the first hundred that failed, each with its name and why."""
    notes: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    """What a person should know: of how many, and the first of their names; the first hundred such notes."""

    def count(self, task: Task, result: Result) -> None:
        """One more is over."""
        match result.status:
            case "done":
                self.done += 1
            case "skipped":
                self.skipped += 1
            case _:
                self.failed += 1
                if len(self.failures) < _MOST_KEPT:
                    self.failures.append(result.message)
        for note in result.notes:
            if note in self.notes or len(self.notes) < _MOST_KEPT:
                number, names = self.notes.get(note, (0, []))
                shown = [*names, task.source.rpartition("/")[2]] if len(names) < _NAMED else names
                self.notes[note] = number + 1, shown


class ClusterProgress(Progress):
    """Listens to a run on a cluster; this one says nothing. `expect` is called while the list grows."""

    def settled(self, task: Task, result: Result) -> None:
        """A picture or a video is done, skipped or failed; the names of a task may be URLs."""


def upscale_on_cluster(
    sources: str | Sequence[str],
    output: str,
    *,
    address: str = "auto",
    job: Job | None = None,
    cores_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    tries: int = 3,
    patience_minutes: float = PATIENCE_MINUTES,
    mixed: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    progress: ClusterProgress | None = None,
) -> ClusterReport:
    """Enlarge pictures and videos on all nodes of a Ray cluster; what `superfine cluster` does.

    sources: files, folders and globs that all nodes see, or URLs of object stores. output: a folder that all nodes see,
    a file for one source, or the URL of a folder. Outputs, their names and the journal are those of `upscale_path`,
    which goes on with what this began, and the other way round. address: `auto`, `local` or HOST:PORT.
    cores_per_worker: as many as every node has, up to 4, by default. gpus_per_worker: 1 with the engine cuda, else
    none, by default. tries: how often an item is begun that takes its worker along or can't be read just now; then it's
    set aside, as failed. patience_minutes: a worker on which nothing moves on for so long, no tile and no frame, is
    given up, and what it had counts as tried. mixed: workers may be of several kinds, whose results agree within one
    level of 255; else all give the same bits.
    Raises UsageError, ModelError or EngineError where nothing can be done at all, MissingExtraError without Ray.
    """
    from superfine.cluster.fleet import Fleet, Needs, connected
    from superfine.cluster.places import check_places, list_tasks
    from superfine.cluster.schedule import schedule
    from superfine.cluster.spool import Spool
    from superfine.cluster.worker import Errand
    from superfine.route import Workshops

    job, progress = job or Job(), progress or ClusterProgress()
    if tries < 1:
        raise UsageError(f"--tries {tries} is not 1 or more")
    if not patience_minutes > 0:
        raise UsageError(f"--patience {patience_minutes} is not more than 0 minutes")
    given = [sources] if isinstance(sources, str) else list(sources)
    if "" in (*given, output):  # as a path it would be the present folder
        raise UsageError("a name is empty; `.` is the present folder")
    # Workers have another present folder.
    given, output = [_whole(name) for name in given], _whole(output)
    folder = None if is_url(output) else _nearest(output)
    check_places(given, output)
    # Other engines may be there on the nodes alone.
    job = replace(Workshops(replace(job, engine="openvino")).job, engine=job.engine)
    tasks = list_tasks(given, output, job)
    errand = Errand.of(job, resume=resume, overwrite=overwrite, patience_minutes=patience_minutes)
    needs = Needs(
        cores=cores_per_worker,
        gpus=gpus_per_worker if gpus_per_worker is not None else float(job.engine == "cuda"),
        mixed=mixed,
        paths=[name for name in given if os.path.exists(name)],
        places=(given, output if folder is None else str(folder)),
        folder=folder,
    )
    report = ClusterReport()
    with connected(address) as ray, Spool(tasks) as spool, Fleet(ray, errand, needs, progress.warn) as fleet:
        progress.begin(0, 0)
        known = [0, 0]

        def looked() -> None:
            now = [spool.listed, spool.weight]
            if now != known:
                progress.expect(now[0] - known[0], now[1] - known[1])
                known[:] = now

        def settled(task: Task, result: Result) -> None:
            report.count(task, result)
            progress.settled(task, result)

        try:
            schedule(spool, fleet, tries=tries, settled=settled, advance=progress.advance, looked=looked)
        except EngineError as error:
            so_far = f"{report.done:,} done, {report.skipped:,} skipped, {report.failed:,} failed"
            raise EngineError(f"{error} (so far {so_far} of {spool.listed:,} listed)") from error
        report.listed, report.ignored = spool.listed, spool.ignored
        if spool.twins:
            progress.warn(said_of_twins(spool.twins, spool.twin_count))
    if report.done + report.failed + report.skipped != report.listed:
        raise AssertionError(f"{report} doesn't add up; report this")
    return report


def _nearest(output: str) -> Path:
    """The folder of an output that is there. Raises OutputError where nobody may look for it."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            Path(output).stat()
        return next(folder for folder in (Path(output), *Path(output).parents) if folder.is_dir())
    except OSError as error:
        words = f"{output}: can't be reached: {error.strerror}; choose another place with -o"
        raise OutputError(words) from error


def _whole(name: str) -> str:
    name = plain(name)
    return name if is_url(name) else os.path.abspath(name)
