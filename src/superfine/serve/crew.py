"""The processes that do the work, and who gets which job when.

A process for each job at a time, kept for the next one: networks stay prepared, a job is cancelled at its next tile or
frame, and where that takes too long, or a decoder hangs or swallows memory, the process is killed and replaced.
"""

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from superfine.serve.limits import Limits, RefusedError
from superfine.serve.store import FINAL, Job, Store, Upload, bytes_in, readable

__all__ = ["Crew", "Worker", "came"]

Facts = dict[str, Any]

_LONGEST_LINE: Final = 1 << 20
_STOP: Final = b'{"stop": true}\n'
#: Seconds that a job which is to stop has, before its process is killed.
GRACE: Final = 10.0
_LOOK_SECONDS: Final = 120.0
_MODEL_SECONDS: Final = 600.0
# Estimates of memory may be off; a process that takes so many times as much is stopped.
_OVER: Final = 2.0
_OVER_BYTES: Final = 1e9
_WATCH_SECONDS: Final = 1.0
# A job that was under way so often when the server died is no more tried.
_MOST_ATTEMPTS: Final = 3
#: Jobs after which a process is replaced, so that what libraries forget to give back doesn't add up.
_MOST_TASKS: Final = 500
#: Why a process was ended, and how that is told to whoever waits for its answer.
_KILLED: Final = {
    "failed": "it made the decoder crash; the file may be damaged",
    "killed": "its process was ended from outside, perhaps for want of memory; try again later",
    "out-of-memory": "it takes more memory than this server gives it; choose a smaller scale",
    "short-of-memory": "the server's memory was running out; try again when it has less to do",
    "stopped": "it was stopped",
    "too-long": "it took longer than this server allows",
}
# How a question that has no answer is refused: not the file's fault where the server had no means.
_STATUS: Final = {"too-large": 413, "unsupported": 415, "killed": 503, "short-of-memory": 503, "stopped": 503}
_RETRY_SECONDS: Final = 10


class Worker:
    """One process of `superfine.serve.worker`; started when first needed."""

    def __init__(self, cores: frozenset[int], memory_bytes: float, file_bytes: int) -> None:
        self._cores = cores
        self._memory = memory_bytes
        self._file_bytes = file_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._tasks = 0
        self._asked = 0
        self._to_stop = False
        self._lock = asyncio.Lock()
        self._killed = ""

    @property
    def pid(self) -> int | None:
        """Of the process that there is."""
        return None if self._process is None else self._process.pid

    async def start(self) -> asyncio.subprocess.Process:
        """The process, made if there is none."""
        if self._process is not None and self._killed:
            await self._process.wait()
        if self._process is None or self._process.returncode is not None:
            self._killed = ""
            # -P: the folder that the server was started in brings no modules.
            command = (sys.executable, "-P", "-m", "superfine.serve.worker", str(self._file_bytes))
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C in the terminal is the server's to handle
                env={key: value for key, value in os.environ.items() if key != "SUPERFINE_TOKEN"},
            )
            self._tasks = 0
            if hasattr(os, "sched_setaffinity"):
                with suppress(OSError):
                    os.sched_setaffinity(self._process.pid, self._cores)
        return self._process

    async def ask(self, request: Facts, seconds: float, heard: Callable[[Facts], None] = lambda facts: None) -> Facts:
        """The answer to a request: `done`, `refused` or `stopped`. seconds: after which the process is killed."""
        async with self._lock:
            self._asked, self._to_stop = self._asked + 1, False
            if self._tasks >= _MOST_TASKS:
                await self.end()
            try:
                answer = await self._ask(request, seconds, heard)
                if answer is None and self._tasks > 1 and not self._killed:
                    # It may have died of what came before, or while it had nothing to do.
                    answer = await self._ask(request, seconds, heard)
            except OSError as error:
                return _refused("killed", f"no process could be started: {error.strerror}; try again later")
            return self._reason() if answer is None else answer

    def _reason(self) -> Facts:
        """Why there is no answer."""
        ended = self._process is not None and self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM)
        why = self._killed or ("killed" if ended else "failed")
        return _refused(why, _KILLED[why])

    async def _ask(self, request: Facts, seconds: float, heard: Callable[[Facts], None]) -> Facts | None:
        """The answer, or None where the process is dead."""
        process = await self.start()
        self._tasks += 1
        watcher = asyncio.create_task(self._watch(process))
        try:
            async with asyncio.timeout(seconds):
                answer = await self._answer(process, request, heard)
        except TimeoutError:
            self.kill("too-long")
            answer = None
        except (BrokenPipeError, ConnectionResetError):
            self.kill("")
            answer = None
        except ValueError:  # no line that it should say
            self.kill("failed")
            answer = None
        except asyncio.CancelledError:
            self.kill("stopped")
            raise
        finally:
            watcher.cancel()
        if answer is None:
            await process.wait()
        return answer

    async def _answer(
        self, process: asyncio.subprocess.Process, request: Facts, heard: Callable[[Facts], None]
    ) -> Facts | None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        process.stdin.write(json.dumps(request).encode() + b"\n" + (_STOP if self._to_stop else b""))
        await process.stdin.drain()
        while line := await process.stdout.readline():
            answer: Facts = json.loads(line)
            if "progress" not in answer:
                return answer
            heard(answer["progress"])
        return None

    async def stop(self) -> None:
        """Ask the task to end at its next tile or frame; kill the process where it doesn't."""
        if not self._lock.locked():
            return
        process, asked = self._process, self._asked
        self._to_stop = True  # where the process is only being started, it hears of both at once
        if process is not None and process.stdin is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(_STOP)
                await process.stdin.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE), self._lock:
                return
        if self._asked == asked:
            self.kill("stopped")

    @property
    def resident_bytes(self) -> int:
        """Memory that the process has in use; 0 where the system doesn't say."""
        return 0 if self.pid is None else _resident_bytes(self.pid)

    def kill(self, why: str) -> None:
        """End the process at once. why: a key of the reasons that are told, or empty where it has ended by itself."""
        self._killed = self._killed or why
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """End the process, which has nothing to do."""
        if self._process is not None and self._process.returncode is None:
            self.kill("stopped")
            await self._process.wait()
        self._process = None

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill the process where it takes far more memory than its job was estimated at."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if _resident_bytes(process.pid) > _OVER * self._memory + _OVER_BYTES:
                self.kill("out-of-memory")
                return


def _resident_bytes(process: int) -> int:
    """Memory that a process has in use; 0 where the system doesn't say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _refused(code: str, message: str) -> Facts:
    return {"refused": {"code": code, "message": message}}


class Crew:
    """All workers, and the queue in front of them."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        make_worker: Callable[[frozenset[int]], Worker],
        root: Path | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._root = root
        self._idle = [make_worker(cores) for cores in _shares(limits)]
        self._count = len(self._idle)
        # Two, so that nobody's upload waits for a large view.
        self._looker, self._viewer = (make_worker(frozenset(_usable_cores())) for _ in range(2))
        self._all = (*self._idle, self._looker, self._viewer)
        self._watching: asyncio.Task[None] | None = None
        self._running: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: list[Job] = []
        self._changed: dict[str, asyncio.Event] = {}
        self._cancelled: set[str] = set()
        self._looking = 0
        self._recent = 5.0
        self.closing = False

    # ---- life

    async def open(self) -> None:
        """Queue again what an earlier server left unfinished, and begin."""
        for job in sorted(self._store.jobs.values(), key=lambda job: job.created):
            if job.over:
                continue
            if job.attempts >= _MOST_ATTEMPTS:
                self._finish(job, "failed", "the server died three times while it worked on this")
                continue
            job.status, job.progress, job.seconds_left = "queued", 0.0, None
            self._queue.append(job)
        await self._looker.start()
        self._watching = asyncio.create_task(self._watch())
        self._begin()

    def begin_closing(self) -> None:
        """Take nothing more, and let go of whoever waits for changes."""
        self.closing = True
        self.wake_all()

    async def close(self) -> None:
        """Stop at the next tile or frame; what is unfinished is queued again by the next server."""
        self.begin_closing()
        await asyncio.gather(*(worker.stop() for worker in self._running.values()))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE)
        for worker in self._all:
            await worker.end()
        for task in (*self._tasks, *([self._watching] if self._watching is not None else [])):
            task.cancel()

    async def _watch(self) -> None:
        """Keep the processes together within the machine's memory: each within its own share may still be too much."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            sizes = {worker: worker.resident_bytes for worker in self._all}
            if sum(sizes.values()) > self._limits.all_memory_gb * 1e9:
                max(sizes, key=sizes.__getitem__).kill("short-of-memory")

    # ---- questions that are answered at once

    async def look(self, request: Facts, *, seconds: float = _LOOK_SECONDS) -> Facts:
        """Facts of a file, or a view of it. Raises RefusedError where it isn't sound."""
        worker = self._viewer if request["task"] in ("view", "model") else self._looker
        answer = await worker.ask({"max_megapixels": self._limits.megapixels, **request}, seconds)
        if "done" in answer:
            done: Facts = answer["done"]
            return done
        self.check_closing()
        refused = answer.get("refused") or {"code": "stopped", "message": _KILLED["stopped"]}
        status = _STATUS.get(refused["code"], 422)
        after = _RETRY_SECONDS if status == 503 else None
        raise RefusedError(status, refused["code"], refused["message"], retry_after=after)

    async def read_model(self, request: Facts) -> Facts:
        """Make a stranger's network one of ours. Raises RefusedError."""
        return await self.look(request, seconds=_MODEL_SECONDS)

    # ---- jobs

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs that are being worked on."""
        return len(self._running)

    def retry_after(self) -> int:
        """Seconds until there may be room in the queue."""
        return int(min(600.0, max(1.0, self._recent / self._count)))

    def check_room(self) -> None:
        """Raise RefusedError where the queue is full."""
        self.check_closing()
        if len(self._queue) >= self._limits.queued:
            raise RefusedError(
                429,
                "queue-full",
                f"{len(self._queue)} jobs are waiting already; try again later",
                retry_after=self.retry_after(),
            )

    def check_closing(self) -> None:
        """Raise RefusedError where the server takes nothing more."""
        if self.closing:
            raise RefusedError(503, "stopping", "the server is being stopped; try again in a moment", retry_after=10)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises RefusedError where the queue is full."""
        self.check_room()
        self._store.save(job)
        self._queue.append(job)
        self._begin()

    async def cancel(self, job: Job) -> None:
        """End a job; returns when it has ended."""
        if job.over:
            return
        if job in self._queue:
            self._queue.remove(job)
            self._finish(job, "cancelled", "cancelled")
            self.wake_all()
            return
        self._cancelled.add(job.id)
        worker = self._running.get(job.id)
        if worker is not None:
            await worker.stop()
        while job.status not in FINAL and not self.closing:
            await came(self.next_change(job), GRACE)

    def position(self, job: Job) -> int | None:
        """The place in the queue, from 1; None of a job that doesn't wait."""
        return self._queue.index(job) + 1 if job in self._queue else None

    def next_change(self, job: Job) -> asyncio.Event:
        """Set once something of a job changes; asked for before its state is, no change is missed."""
        return self._changed.setdefault(job.id, asyncio.Event())

    def wake(self, job: Job) -> None:
        """Tell whoever waits that something of a job has changed."""
        event = self._changed.pop(job.id, None)
        if event is not None:
            event.set()

    def wake_all(self) -> None:
        """The same of all jobs."""
        for key in list(self._changed):
            self._changed.pop(key).set()

    def _begin(self) -> None:
        """Give idle workers what is next."""
        while self._idle and not self.closing and (job := self._next()) is not None:
            self._queue.remove(job)
            job.status, job.progress = "running", 0.0
            worker = self._idle.pop()
            self._running[job.id] = worker
            task = asyncio.create_task(self._run(job, worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for job in self._queue:
            self.wake(job)

    def _next(self) -> Job | None:
        """The first in the queue; the last idle worker of several is kept from videos, which may take hours."""
        clips = sum(self._store.jobs[key].moves for key in self._running if key in self._store.jobs)
        kept = self._count > 1 and clips >= self._count - 1
        return next((job for job in self._queue if not (kept and job.moves)), None)

    async def _run(self, job: Job, worker: Worker) -> None:
        started = time.monotonic()
        try:
            job.attempts += 1
            self._keep(job)
            self.wake(job)
            upload = self._store.uploads.get(job.upload)
            if upload is None:
                answer: Facts = {"refused": {"code": "gone", "message": "its source was deleted; upload it again"}}
            elif not readable(upload, self._root):
                answer = {
                    "refused": {
                        "code": "changed",
                        "message": f"{upload.name} was changed, moved or removed since it was looked at; name it again",
                    }
                }
            elif job.id in self._cancelled:
                answer = {"stopped": True}
            else:
                self._store.job_folder(job.id).mkdir(exist_ok=True, mode=0o700)
                answer = await worker.ask(
                    self._request(job, upload), self._limits.seconds, lambda facts: self._hear(job, facts)
                )
            self._settle(job, answer)
        except Exception as error:  # noqa: BLE001 - it costs this job, and no worker
            if not job.over:
                self._finish(job, "failed", _words_of(error))
            facts = {"message": f"superfine serve: job {job.id} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(facts)
        finally:
            self._recent = 0.8 * self._recent + 0.2 * (time.monotonic() - started)
            self._running.pop(job.id, None)
            self._cancelled.discard(job.id)
            self._idle.append(worker)
            self.wake(job)
            self._begin()

    def _settle(self, job: Job, answer: Facts) -> None:
        if job.id in self._cancelled:
            self._finish(job, "cancelled", "cancelled")
        elif self.closing and "done" not in answer:
            # It didn't fail: the next server goes on with it.
            job.status, job.attempts, job.seconds_left = "queued", job.attempts - 1, None
            self._keep(job)
        elif "done" in answer:
            done = answer["done"]
            job.model, job.consistency, job.frames_done = done["model"], done["consistency"], done["frames"]
            job.notes = done["notes"]
            job.guess_map = bool(job.options.get("guess_map"))
            job.result = {"bytes": done["bytes"]}
            job.progress = 1.0
            self._finish(job, "done", "")
        else:
            refused = answer.get("refused") or {"message": "it was stopped"}
            self._finish(job, "failed", refused["message"])

    def _finish(self, job: Job, status: str, message: str) -> None:
        now = time.time()
        job.status, job.message, job.seconds_left, job.fps = status, message, None, 0.0
        job.expires = now + self._limits.hours_kept * 3600
        folder = self._store.job_folder(job.id)
        if status != "done":
            shutil.rmtree(folder, ignore_errors=True)
        job.taken = bytes_in(folder)
        upload = self._store.uploads.get(job.upload)
        if upload is not None:  # before and after are looked at together
            upload.expires = max(upload.expires, job.expires)
            self._store.update(upload)
        self._keep(job)
        self.wake(job)

    def _keep(self, job: Job) -> None:
        """Save what has changed, unless the job was thrown away meanwhile: it mustn't come back."""
        if self._store.knows(job):
            self._store.update(job)
        else:
            shutil.rmtree(self._store.job_folder(job.id), ignore_errors=True)

    async def check(self, job: Job, upload: Upload) -> None:
        """Raise RefusedError where a job can't be done, as it would say itself later."""
        request = {**self._request(job, upload), "task": "check", "moves": job.moves}
        try:
            await self.look(request)
        except RefusedError as error:
            if error.code in ("invalid", "too-large"):
                raise
            self.check_closing()  # else it's for want of means or time, and the job may have them

    def _request(self, job: Job, upload: Upload) -> Facts:
        folder = self._store.job_folder(job.id)
        output = self._store.result_file(job)
        options = {key: value for key, value in job.options.items() if key not in ("guess_map", "format")}
        names = [(upload.path, upload.name), (str(output), f"the result{job.suffix}"), (f"{folder}{os.sep}", "")]
        names.append((f"{self._store.folder}{os.sep}", ""))
        if options["model"] in self._store.models:
            path = str(self._store.model_file(options["model"]))
            names.append((path, self._store.models[options["model"]].name))
            options["model"] = path
        return {
            "task": "upscale",
            "source": upload.path,
            "output": str(output),
            "options": options,
            "guess_map": str(folder / "guess.png") if job.options.get("guess_map") else None,
            "memory_gb": self._limits.memory_gb,
            "max_megapixels": self._limits.megapixels,
            "names": names,
        }

    def _hear(self, job: Job, facts: Facts) -> None:
        job.progress = min(1.0, max(job.progress, float(facts["share"])))
        job.seconds_left = facts["seconds_left"]
        job.frames_done = facts.get("done", job.frames_done)
        job.fps = facts.get("fps", 0.0)
        self.wake(job)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """One more connection that hears events. Raises RefusedError where there are too many."""
        if self._looking >= self._limits.listeners:
            raise RefusedError(503, "busy", "too many pages listen already; try again later", retry_after=5)
        self._looking += 1
        try:
            yield
        finally:
            self._looking -= 1


async def came(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; False where it didn't come in so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _words_of(error: Exception) -> str:
    """What a person should know of a failure that is the server's."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the server's disk is full; delete what is no longer needed, and try again"
    return f"the server failed ({type(error).__name__}), and its log says how; try again"


def _usable_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _shares(limits: Limits) -> list[frozenset[int]]:
    """The cores of each worker: its own where there are enough, else all of them."""
    usable = _usable_cores()
    each = limits.cores_each
    if each * limits.workers > len(usable):
        return [frozenset(usable)] * limits.workers
    return [frozenset(usable[each * number : each * (number + 1)]) for number in range(limits.workers)]
