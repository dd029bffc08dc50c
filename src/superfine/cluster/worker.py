"""What an actor does: one thing at a time, by the same `Run` as on one machine, with networks that stay warm.

A plain class; only `fleet` knows of Ray. Where it is started it only says where it is; its networks are opened in
`prepare`, once it's known which cores are its own.
"""

import faulthandler
import os
import platform
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self

from superfine.atomic import this_process
from superfine.classical.reduction import REDUCTIONS
from superfine.cluster.places import check_output, check_places, do, fingerprint
from superfine.cluster.schedule import Begin, Join, Made, Make, Outcome, Trouble, Whole, Work, failed
from superfine.cluster.stores import is_url
from superfine.cluster.task import PATIENCE_MINUTES, Task
from superfine.cluster.videos import StoreVideos
from superfine.errors import SuperfineError
from superfine.journal import Journal
from superfine.listing import Item
from superfine.models import read_file
from superfine.route import Job, Workshops, half_of_memory
from superfine.upscale import Pace, Progress, Run

__all__ = ["Errand", "Host", "Worker", "passes"]

# Signs of life that come sooner after another aren't heeded.
_SIGN_SECONDS: Final = 1.0
_STDERR: Final = 2

# What the file system says of a file, whoever asks and however often.
_FINAL: Final = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@dataclass(frozen=True)
class Host:
    """Where a worker is."""

    name: str
    boot: str
    """Tells machines of one name apart."""
    process: str
    """As `this_process` calls it."""
    cores: tuple[int, ...]
    """Which it may use."""
    version: str
    """Of superfine."""
    memory: float
    """Bytes, half of what it has."""


@dataclass(frozen=True)
class Errand:
    """What all workers are to do, with what they need for it."""

    job: Job
    resume: bool = True
    overwrite: bool = False
    files: Mapping[str, tuple[str, bytes]] | None = None
    """By the job's field: the name and the content of a network or a kernel, which nodes needn't have."""
    options: str = ""
    """Fingerprint of what decides the content of outputs in object stores."""
    patience_minutes: float = PATIENCE_MINUTES
    """A worker on which nothing moves on for so long ends itself."""

    @classmethod
    def of(cls, job: Job, *, resume: bool, overwrite: bool, patience_minutes: float = PATIENCE_MINUTES) -> "Errand":
        """With the files that the job names."""
        files: dict[str, tuple[str, bytes]] = {}
        if job.model.lower().endswith(".onnx"):
            files["model"] = Path(job.model).name, read_file(Path(job.model))
        if job.consistent is not None and str(job.consistent) not in REDUCTIONS:
            files["consistent"] = Path(job.consistent).name, Path(job.consistent).read_bytes()
        return cls(job, resume, overwrite, files, fingerprint(job), patience_minutes)


class _Watchdog(Progress):
    """Ends this process where what is at work shows no sign of life for too long; used as a context manager.

    What hangs in a decoder can't be stopped otherwise, and may hold Python's lock, so C's own thread watches. Tiles,
    bands and frames are signs.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sign = -_SIGN_SECONDS
        self._watches = False

    def __enter__(self) -> Self:
        self._watches, self._sign = True, -_SIGN_SECONDS
        self._begin_anew()
        return self

    def __exit__(self, *error: object) -> None:
        self._watches = False
        faulthandler.cancel_dump_traceback_later()

    def advance(self, weight: float) -> None:  # noqa: ARG002 - that it moves on is enough
        self._begin_anew()

    def watch(self, pace: Pace) -> None:  # noqa: ARG002
        self._begin_anew()

    def _begin_anew(self) -> None:
        now = time.monotonic()
        if self._watches and now - self._sign >= _SIGN_SECONDS:
            self._sign = now
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=_STDERR)


class Worker:
    """One actor's body."""

    def __init__(self) -> None:
        self._errand: Errand | None = None
        self._run: Run | None = None
        self._videos: StoreVideos | None = None
        self._watchdog = _Watchdog(60 * PATIENCE_MINUTES)

    def host(self) -> Host:
        """Where it is, before anything is prepared."""
        boot = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
        return Host(socket.gethostname(), boot, this_process(), cores, version("superfine"), half_of_memory())

    def unseen(self, paths: Sequence[str]) -> list[str]:
        """Which of these paths aren't there, for this worker."""
        return [path for path in paths if not os.path.lexists(path)]

    def unreached(self, sources: Sequence[str], output: str) -> str:
        """Why it can't reach these, or can't write to `output`; empty where it can.

        output: a folder that is there, or the URL of one in a store.
        """
        try:
            check_places(sources, output)
            check_output(output)
        except SuperfineError as error:
            return str(error)
        return ""

    def prepare(self, errand: Errand, cores: Sequence[int], memory_gb: float) -> dict[str, str]:
        """Open the networks on these cores alone, to stay below so much memory.

        Returns its kind: workers of one kind give the same bits. Raises as `Workshops`.
        """
        _pin(cores)
        job = replace(errand.job, memory_gb=memory_gb)
        with tempfile.TemporaryDirectory(prefix="superfine-") as folder:
            for field, (name, content) in (errand.files or {}).items():
                path = Path(folder, field, name)
                path.parent.mkdir()
                path.write_bytes(content)
                job = replace(job, **{field: str(path)})  # type: ignore[arg-type]
            workshops = Workshops(job)  # which reads them, once and for all
        self._errand = replace(errand, job=workshops.job)
        self._watchdog = _Watchdog(60 * errand.patience_minutes)
        self._run = Run(
            workshops,
            lambda result: None,
            self._watchdog,
            resume=errand.resume,
            overwrite=errand.overwrite,
            journals=partial(Journal, shared=True),
        )
        self._videos = StoreVideos(self._run, options=errand.options, resume=errand.resume, overwrite=errand.overwrite)
        return kind()

    def close(self) -> None:
        """Remove what it has on its machine's disk."""
        if self._videos is not None:
            self._videos.close()

    def do(self, work: Work) -> Outcome:
        """One thing, whatever becomes of it."""
        try:
            with self._watchdog:
                return self._done(work)
        except (SuperfineError, MemoryError, OSError) as error:
            words = str(error) or type(error).__name__
            return Trouble(failed(work.task, words).message) if passes(error) else failed(work.task, words)
        except Exception as error:  # noqa: BLE001 - the worker goes on with the next one
            traceback.print_exc()
            return failed(work.task, f"{type(error).__name__}: {error}; report this")

    def _done(self, work: Work) -> Outcome:
        if self._run is None or self._videos is None or self._errand is None:
            raise RuntimeError("a worker was not prepared; report this")
        errand = self._errand
        stored = is_url(work.task.source) or is_url(work.task.output)
        match work:
            case Whole(task):
                return do(
                    task, self._run.alone, options=errand.options, resume=errand.resume, overwrite=errand.overwrite
                )
            case Begin(task):
                return self._videos.begin(task) if stored else self._run.begin(_item(task))
            case Make(task, stretch):
                if stored:
                    self._videos.pieces(task, stretch.begin, stretch.finish)
                else:
                    self._run.pieces(_item(task), stretch.begin, stretch.finish)
                return Made()
            case Join(task):
                return self._videos.join(task) if stored else self._run.join(_item(task))


def _item(task: Task) -> Item:
    """A task of folders that all nodes see."""
    journal = Path(task.journal) if task.journal else None
    return Item(Path(task.source), Path(task.output), journal, task.weight, task.problem, moves=task.moves)


def passes(error: BaseException) -> bool:
    """Whether what went wrong may go well another time: memory, a network's file system, a store."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, OSError):
            return not isinstance(cause, _FINAL)
        cause = cause.__cause__
    return False


def kind() -> dict[str, str]:
    """What may decide the last bit, of this process; by what a person calls it."""
    import av

    from superfine.engine import silent_openvino
    from superfine.provenance import machine

    facts = machine()
    return {
        "superfine": version("superfine"),
        "CPU": facts.cpu,
        "native precisions": facts.precisions,
        "cores": str(facts.cores),
        "OpenVINO": silent_openvino().__version__,
        "NumPy": facts.numpy,
        "libvips": facts.libvips,
        "FFmpeg": ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items()),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _pin(cores: Sequence[int]) -> None:
    """Use these cores alone, with the threads that are there and those that will be."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
