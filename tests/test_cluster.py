"""What goes next to whom, tries, counts: with a crew whose answers are known. Ray itself is in test_cluster_slow."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import ray.exceptions
from PIL import Image

import superfine
from pictures import noise
from superfine.atomic import this_process
from superfine.cluster import ClusterReport, _nearest, upscale_on_cluster
from superfine.cluster.fleet import Fleet, Needs, connected
from superfine.cluster.places import list_tasks
from superfine.cluster.schedule import (
    Begin,
    Event,
    Finished,
    Join,
    Joined,
    Lost,
    Made,
    Make,
    Outcome,
    Trouble,
    Whole,
    Work,
    schedule,
)
from superfine.cluster.task import Task
from superfine.cluster.worker import Errand, Host, Worker
from superfine.engine import cores
from superfine.errors import EngineError, OutputError, SourceError, UsageError
from superfine.listing import Item
from superfine.models import find_model
from superfine.progress import ClusterLines, ClusterTerminal
from superfine.route import Job
from superfine.upscale import Result, Run, upscale_path
from superfine.video import Pieces, Stretch

Answer = Outcome | Lost | None
"""What a worker says of its work; None: nothing yet."""


class Given:
    """A list that is known from the beginning, or comes bit by bit: None where nothing is known yet."""

    def __init__(self, tasks: Iterable[Task | None]) -> None:
        self._tasks = deque(tasks)

    @property
    def over(self) -> bool:
        return not self._tasks

    def take(self) -> Task | None:
        return self._tasks.popleft() if self._tasks else None


class FakeCrew:
    """Workers of which one is asked after the other; time goes on by a second where nothing happens."""

    def __init__(self, answer: Callable[[str, Work], Answer], *workers: str, kinds: dict[str, str] | None = None):
        self.now = 0.0
        self.begun: list[tuple[str, Work]] = []
        self.busy: dict[str, Work] = {}
        self.most_busy = 0
        self._answer = answer
        self._coming: list[Event] = [Joined(worker, (kinds or {}).get(worker, "")) for worker in workers]

    def start(self, worker: str, work: Work) -> None:
        assert worker not in self.busy, "one thing at a time"
        self.begun.append((worker, work))
        self.busy[worker] = work
        self.most_busy = max(self.most_busy, len(self.busy))

    def events(self, seconds: float) -> list[Event]:
        found, self._coming = self._coming, []
        for worker, work in list(self.busy.items()):
            answer = self._answer(worker, work)
            if isinstance(answer, Lost):
                found.append(Lost(worker, answer.words))
                self._coming.append(Joined(f"{worker}'", ""))  # as a fleet does
            elif answer is not None:
                found.append(Finished(worker, answer))
            else:
                continue
            del self.busy[worker]
        if not found:
            self.now += 1
            assert self.now < 1000, f"nothing happens any more, with {self.busy}"
        return found


def task(name: str, *, moves: bool = False, problem: str = "") -> Task:
    return Task(f"/in/{name}", f"/out/{name}", 100, moves, problem, "/out")


def done(work: Work, status: str = "done") -> Result:
    return Result(Path(work.task.source), Path(work.task.output), status)  # type: ignore[arg-type]


def run(tasks: Iterable[Task | None], crew: FakeCrew, tries: int = 3) -> tuple[dict[str, Result], float]:
    """What became of each by its name, each heard once, and the weight that was told."""
    heard: list[tuple[Task, Result]] = []
    weights: list[float] = []
    schedule(
        Given(tasks),
        crew,
        tries=tries,
        settled=lambda task, result: heard.append((task, result)),
        advance=weights.append,
        clock=lambda: crew.now,
    )
    assert not crew.busy
    results = {Path(task.source).name: result for task, result in heard}
    assert len(results) == len(heard), "each is heard of once"
    return results, sum(weights)


def test_each_is_done_once_and_workers_share() -> None:
    crew = FakeCrew(lambda worker, work: done(work), "a", "b", "c")
    results, weight = run([task(f"{number}.png") for number in range(10)], crew)
    assert [results[f"{number}.png"].status for number in range(10)] == ["done"] * 10
    assert weight == 1000
    assert len(crew.begun) == 10
    assert set(Counter(worker for worker, _ in crew.begun)) == {"a", "b", "c"}
    assert crew.most_busy == 3


def test_a_list_may_come_late_and_be_empty() -> None:
    crew = FakeCrew(lambda worker, work: done(work), "a")
    results, _ = run([None, None, task("a.png"), None, task("b.png")], crew)
    assert sorted(results) == ["a.png", "b.png"]
    assert run([], FakeCrew(lambda worker, work: done(work), "a")) == ({}, 0)


def test_a_death_costs_one_try_of_one_item() -> None:
    deaths = {"3.png": 2}

    def answer(worker: str, work: Work) -> Answer:
        name = Path(work.task.source).name
        if deaths.get(name, 0):
            deaths[name] -= 1
            return Lost("", "its worker died")
        return done(work)

    crew = FakeCrew(answer, "a", "b")
    results, weight = run([task(f"{number}.png") for number in range(6)], crew)
    assert {result.status for result in results.values()} == {"done"}
    times = Counter(Path(work.task.source).name for _, work in crew.begun)
    assert times == {"3.png": 3, **{f"{number}.png": 1 for number in (0, 1, 2, 4, 5)}}
    assert weight == 600


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_what_kills_every_worker_is_set_aside_with_its_name(tries: int) -> None:
    crew = FakeCrew(lambda worker, work: Lost("", "its worker died") if "bad" in work.task.source else done(work), "a")
    results, weight = run([task("bad.png"), task("good.png")], crew, tries)
    assert results["good.png"].status == "done"
    assert results["bad.png"].status == "failed"
    assert results["bad.png"].message.startswith("/in/bad.png: its worker died; given up")
    assert (f"after {tries} tries" in results["bad.png"].message) == (tries > 1)
    assert sum("bad" in work.task.source for _, work in crew.begun) == tries
    assert weight == 200


def test_trouble_is_tried_again_after_a_pause_and_refusals_are_not() -> None:
    begun: list[float] = []

    def answer(worker: str, work: Work) -> Answer:
        if "refused" in work.task.source:
            return done(work, "failed")
        begun.append(crew.now)
        return Trouble("/in/busy.png: the disk is away") if len(begun) < 3 else done(work)

    crew = FakeCrew(answer, "a")
    results, _ = run([task("refused.png"), task("busy.png")], crew)
    assert results["busy.png"].status == "done"
    assert results["refused.png"].status == "failed"
    assert sum("refused" in work.task.source for _, work in crew.begun) == 1
    assert begun[1] - begun[0] >= 1
    assert begun[2] - begun[1] >= 2


def test_what_cannot_be_begun_is_failed_without_a_worker() -> None:
    crew = FakeCrew(lambda worker, work: done(work), "a")
    results, weight = run([task("a.png", problem="/in/a.png: is a source itself"), task("b.png")], crew)
    assert results["a.png"].message == "/in/a.png: is a source itself"
    assert [work for _, work in crew.begun] == [Whole(task("b.png"))]
    assert weight == 200


def test_idle_workers_that_die_lose_nothing() -> None:
    crew = FakeCrew(lambda worker, work: done(work), "a", "b")
    crew._coming.append(Lost("b", "its node is gone"))
    results, _ = run([task("a.png"), task("b.png")], crew)
    assert {result.status for result in results.values()} == {"done"}
    assert {worker for worker, _ in crew.begun} == {"a"}


# ---- videos

STRETCHES = tuple(Stretch(number, number + 1, 100) for number in range(2, 6))


def filming(resumed: int = 200, stretches: tuple[Stretch, ...] = STRETCHES) -> Callable[[str, Work], Answer]:
    def answer(worker: str, work: Work) -> Answer:
        match work:
            case Begin():
                return Pieces(600, resumed, stretches, ("12 frames of an earlier run didn't fit",))
            case Make():
                return Made()
            case _:
                return done(work)

    return answer


def test_a_video_is_made_by_all_and_joined_when_all_is_there() -> None:
    crew = FakeCrew(filming(), "a", "b", "c")
    film = task("film.mp4", moves=True)
    results, weight = run([film, task("a.png")], crew)
    works = [work for _, work in crew.begun if work.task == film]
    assert works[0] == Begin(film)
    assert works[-1] == Join(film)
    assert sorted(work.stretch.begin for work in works[1:-1] if isinstance(work, Make)) == [2, 3, 4, 5]
    assert len({worker for worker, work in crew.begun if isinstance(work, Make)}) == 3
    assert results["film.mp4"].notes == ("12 frames of an earlier run didn't fit",)
    assert weight == pytest.approx(200)


@pytest.mark.parametrize("stretches", [(), STRETCHES[:1]])
def test_what_one_worker_can_do_is_not_split(stretches: tuple[Stretch, ...]) -> None:
    crew = FakeCrew(filming(500, stretches), "a", "b")
    film = task("film.mp4", moves=True)
    results, weight = run([film], crew)
    assert [work for _, work in crew.begun] == [Begin(film), Join(film)]
    assert results["film.mp4"].status == "done"
    assert weight == pytest.approx(100)


def test_a_video_that_was_done_before_is_skipped_at_once() -> None:
    crew = FakeCrew(lambda worker, work: done(work, "skipped"), "a")
    film = task("film.mp4", moves=True)
    results, weight = run([film], crew)
    assert results["film.mp4"].status == "skipped"
    assert [work for _, work in crew.begun] == [Begin(film)]
    assert weight == 100


@pytest.mark.parametrize("how", ["dies", "refuses"])
def test_a_stretch_that_cannot_be_made_is_left_to_who_joins(how: str) -> None:
    ordinary = filming()

    def answer(worker: str, work: Work) -> Answer:
        if isinstance(work, Make) and work.stretch.begin == 3:
            return Lost("", "died") if how == "dies" else done(work, "failed")
        if isinstance(work, Join):
            return done(work, "failed")
        return ordinary(worker, work)

    crew = FakeCrew(answer, "a", "b")
    results, weight = run([task("film.mp4", moves=True)], crew)
    assert results["film.mp4"].status == "failed"
    tried = [work for _, work in crew.begun if isinstance(work, Make) and work.stretch.begin == 3]
    assert len(tried) == (3 if how == "dies" else 1)
    assert sum(isinstance(work, Join) for _, work in crew.begun) == 1
    assert weight == pytest.approx(100)


def test_pieces_are_made_by_the_kind_that_began() -> None:
    crew = FakeCrew(filming(), "old", "new", "new too", kinds={"old": "AVX2", "new": "AMX", "new too": "AMX"})
    film = task("film.mp4", moves=True)
    results, _ = run([task("a.png"), film, task("b.png")], crew)
    assert {result.status for result in results.values()} == {"done"}
    makers = {worker for worker, work in crew.begun if work.task == film}
    assert makers == {"new", "new too"}


def test_a_video_whose_kind_is_gone_is_made_anew_by_another() -> None:
    ordinary = filming()

    def answer(worker: str, work: Work) -> Answer:
        if worker == "only" and isinstance(work, Make):
            return Lost("", "its node is gone")
        return ordinary(worker, work)

    # Who comes instead of "only" is of the kind "", as the other one.
    crew = FakeCrew(answer, "only", "b", kinds={"only": "AMX"})
    film = task("film.mp4", moves=True)
    results, weight = run([film, task("a.png"), task("b.png")], crew)
    assert {result.status for result in results.values()} == {"done"}
    assert (crew.begun[-1][1]) == Whole(film)
    assert weight == pytest.approx(300)


# ---- a worker, without Ray


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, one that is none, and a kernel."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(noise(20 + number, 30, 3)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    return tmp_path


def prepared(job: Job, *, resume: bool = True, overwrite: bool = False) -> Worker:
    worker = Worker()
    worker.prepare(Errand.of(job, resume=resume, overwrite=overwrite), (), 2.0)
    return worker


def tasks_of(folder: Path, output: str, job: Job) -> dict[str, Task]:
    listed = list_tasks([str(folder / "in")], str(folder / output), job)
    return {Path(found.source).name: found for found in listed if isinstance(found, Task)}


def test_a_worker_makes_what_upscale_makes_and_knows_it_again(folder: Path) -> None:
    job = Job(model="fast", scale=2)
    upscale_path(folder / "in", folder / "expected", job=job)
    worker, works = prepared(job), tasks_of(folder, "out", job)
    results = {name: worker.do(Whole(work)) for name, work in works.items()}
    assert {name: one.status for name, one in results.items() if isinstance(one, Result)} == {
        "0.png": "done",
        "1.png": "done",
        "2.png": "done",
        "bad.png": "failed",
    }
    for number in range(3):
        made = [(folder / place / f"{number}.png").read_bytes() for place in ("expected", "out")]
        assert made[0] == made[1]
    again = prepared(job).do(Whole(works["1.png"]))
    assert isinstance(again, Result)
    assert again.status == "skipped"
    # One machine takes up what workers have done.
    report = upscale_path(folder / "in", folder / "out", job=job)
    assert (report.count("skipped"), report.count("failed")) == (3, 1)


def test_networks_and_kernels_travel_by_their_content(folder: Path, tmp_path: Path) -> None:
    (shipped,) = find_model("fast-x2")
    own, kernel = tmp_path / "own.onnx", tmp_path / "kernel.npy"
    own.write_bytes(shipped.content)
    np.save(kernel, np.full((3, 3), 1 / 9))
    job = Job(model=str(own), scale=2, consistent=str(kernel))
    upscale_path(folder / "in", folder / "out", job=job)
    errand = pickle.loads(pickle.dumps(Errand.of(job, resume=True, overwrite=False)))  # noqa: S301 - our own
    works = tasks_of(folder, "out", job)
    own.unlink()
    kernel.unlink()
    worker = Worker()
    worker.prepare(errand, (), 2.0)
    found = worker.do(Whole(works["2.png"]))
    assert isinstance(found, Result)
    assert found.status == "skipped", "by their content these are the same options"


def test_a_worker_tells_what_may_pass_from_what_is_final(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(model="nearest", scale=2)
    worker, works = prepared(job), tasks_of(folder, "out", job)

    def raising(error: BaseException, cause: BaseException | None = None) -> Outcome:
        def alone(run: Run, item: Item) -> Result:
            raise error from cause

        with monkeypatch.context() as patch:
            patch.setattr(Run, "alone", alone)
            return worker.do(Whole(works["0.png"]))

    source = works["0.png"].source
    for error in (OSError(5, "Input/output error"), MemoryError(), ConnectionError("reset"), TimeoutError("late")):
        assert isinstance(raising(error), Trouble), error
    wrapped = raising(SourceError(f"{source}: can't be read: Stale file handle"), OSError(116, "Stale file handle"))
    assert wrapped == Trouble(f"{source}: can't be read: Stale file handle")
    for error in (SourceError("broken"), FileNotFoundError(2, "gone"), PermissionError(13, "no")):
        found = raising(error)
        assert isinstance(found, Result), error
        assert found.status == "failed"
        assert found.message.startswith(f"{source}: ")
    bug = raising(ZeroDivisionError("division by zero"))
    assert isinstance(bug, Result)
    assert bug.message == f"{source}: ZeroDivisionError: division by zero; report this"
    assert isinstance(worker.do(Whole(works["1.png"])), Result)


HANGING = """
import re, sys, time
from pathlib import Path
from superfine.cluster.schedule import Whole
from superfine.cluster.task import Task
from superfine.cluster.worker import Errand, Worker
from superfine.route import Job
from superfine.upscale import Result, Run

def hang(run, item):
    started = time.monotonic()
    if item.source.name == "slow":  # but it moves on
        while time.monotonic() - started < 4:
            run._progress.advance(1)
    if item.source.name == "hangs":
        re.match("(a+)+$", "a" * 99 + "b")  # holds Python's lock until the sun is cold
    return Result(item.source, item.output, "done")

Run.alone = hang
worker = Worker()
worker.prepare(Errand.of(Job(model="nearest"), resume=True, overwrite=False, patience_minutes=2 / 60), (), 2.0)
for name in sys.argv[1:]:
    print(worker.do(Whole(Task(name, "out", 1, False))).status, flush=True)
    if name == "idle":
        time.sleep(3)
"""


@pytest.mark.slow
def test_a_worker_on_which_nothing_moves_on_ends_itself() -> None:
    command = [sys.executable, "-c", HANGING, "slow", "idle", "hangs", "never"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == ["done", "done"]
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in hang" in ended.stderr  # whoever reads its log sees where


@pytest.mark.parametrize("patience", [0, -1, float("nan")])
def test_a_patience_that_is_none_is_refused(patience: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--patience .* is not more than 0 minutes"):
        upscale_on_cluster(str(tmp_path), str(tmp_path), patience_minutes=patience)


def test_a_worker_says_where_and_what_it_is(folder: Path) -> None:
    worker = Worker()
    assert worker.host().process == this_process()
    assert worker.unseen([str(folder), str(folder / "none")]) == [str(folder / "none")]
    kind = worker.prepare(Errand.of(Job(model="nearest"), resume=True, overwrite=False), (), 2.0)
    assert kind["superfine"] == superfine.__version__
    assert kind["NumPy"] == np.__version__
    assert kind["cores"] == str(cores())


# ---- the fleet, with a Ray whose actors are in this process


# As Ray tells of an actor whose code isn't there.
MISSING = """The actor died because of an error raised in its creation task, \x1b[36mray::Worker.__init__()\x1b[39m
  At least one of the input arguments for this task could not be computed:
ModuleNotFoundError: No module named 'superfine'"""


class FakeActor:
    """Calls are answered at once, or where the test says so by an error."""

    def __init__(self, ray: "FakeRay", node: str) -> None:
        self._ray, self.node, self.worker = ray, node, Worker()
        self.number = sum(name == "host" for _, name, _ in ray.calls)

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=partial(self._answer, name))

    def _answer(self, name: str, *given: Any) -> Any:
        answer: Future[Any] = Future()
        self._ray.calls.append((self.node, name, given))
        if self._ray.silent:
            return SimpleNamespace(future=lambda: answer)
        try:
            answer.set_result(self._ray.answer(self, name, given))
        except Exception as error:  # noqa: BLE001 - as Ray hands it on
            answer.set_exception(error)
        return SimpleNamespace(future=lambda: answer)


class FakeRay:
    """As much of Ray as a fleet uses."""

    exceptions = ray.exceptions

    def __init__(self, *nodes: tuple[str, int]) -> None:
        self.members = dict(nodes)
        self.calls: list[tuple[str, str, Any]] = []
        self.kinds: dict[str, dict[str, str]] = {}
        self.unseen: dict[str, list[str]] = {}
        self.unreached: dict[str, str] = {}
        self.gpus = 0.0
        self.silent = False
        self.failing: Callable[[FakeActor, str], None] = lambda actor, name: None

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="10.0.0.1:6379")

    def put(self, value: Any) -> Any:
        return value

    def kill(self, actor: FakeActor) -> None:
        self.calls.append((actor.node, "kill", ()))

    def wait(self, answers: list[Any], num_returns: int, timeout: float) -> None:
        assert num_returns == len(answers)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": name * 56,  # as long as Ray wants them
                "Alive": True,
                "NodeManagerAddress": "10.0.0.1",
                "NodeManagerHostname": name,
                "Resources": {"CPU": float(count), "GPU": self.gpus},
            }
            for name, count in self.members.items()
        ]

    def remote(self, **needs: Any) -> Any:
        made = SimpleNamespace(remote=lambda: None)

        def options(scheduling_strategy: Any) -> Any:
            return SimpleNamespace(remote=lambda: FakeActor(self, scheduling_strategy.node_id[0]))

        made.options = options
        return lambda cls: made

    def answer(self, actor: FakeActor, name: str, given: Any) -> Any:
        self.failing(actor, name)
        match name:
            case "host":
                return Host("one", "boot", f"00000000-{1 + actor.number}", (0, 1, 2, 3), superfine.__version__, 8e9)
            case "unseen":
                return self.unseen.get(actor.node, [])
            case "unreached":
                return self.unreached.get(actor.node, "")
            case "prepare":
                return {"CPU": "Xeon", "cores": "1", **self.kinds.get(actor.node, {})}
            case _:
                return done(given[0])


@pytest.fixture(autouse=True)
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which addresses were looked at; all of them answer."""
    looked: list[str] = []
    monkeypatch.setattr("superfine.cluster.fleet._reach", looked.append)
    monkeypatch.setattr("ray._raylet.GcsClient", lambda *, address: looked.append(address))
    return looked


def fleet(
    fake: FakeRay,
    warned: list[str] | None = None,
    memory_gb: float | None = None,
    **needs: Any,
) -> Fleet:
    errand = Errand(Job(model="nearest", memory_gb=memory_gb))
    return Fleet(fake, errand, Needs(**needs), (warned if warned is not None else []).append)  # type: ignore[arg-type]


def mustered(crew: Fleet) -> list[Event]:
    """What is heard until all have opened their networks."""
    return [*crew.events(0), *crew.events(0)]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("everywhere", "--address 'everywhere' is none of auto, local and HOST:PORT"),
        ("head:", "is none of auto"),
        ("localhost:1:x", "is none of auto"),
        ("ray://head:10001", "--address ray://head:10001: Ray's client can't be used; .*HOST:PORT or auto"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, words: str) -> None:
    with pytest.raises(UsageError, match=words), connected(address):
        pass


def refuse(address: str) -> None:
    raise ConnectionRefusedError(111, f"Connection to {address} refused")


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._reach", refuse)
    with pytest.raises(UsageError, match=r"--address 10.0.0.1:6379: nobody listens there"), connected("10.0.0.1:6379"):
        pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Failed to connect"), r"no Ray cluster answers there \(Failed.*ray start --head"),
        (ray.exceptions.AuthenticationError("no token"), r"6379: .*ask for a token .*RAY_AUTH_MODE=token"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "the command isn't UTF-8.*rename it"),
    ],
)
def test_why_a_cluster_cannot_be_used_is_said(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise error

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UsageError, match=words), connected("10.0.0.1:6379"):
        pass


def test_who_listens_and_never_answers_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(address: str) -> None:
        raise ray.exceptions.RpcError("Timed out while waiting for GCS to become available.", rpc_code=4)

    without_token(monkeypatch)
    monkeypatch.setattr("ray._raylet.GcsClient", client)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray itself was asked"))
    with pytest.raises(UsageError, match=r"--address 10.0.0.1:6379: no Ray cluster answers there \(Timed out"):
        connected("10.0.0.1:6379").__enter__()


def test_sigterm_ends_a_run_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ray.init", lambda **options: signal.signal(signal.SIGTERM, signal.SIG_IGN))  # as Ray does
    with pytest.raises(KeyboardInterrupt) as stop, connected("10.0.0.1:6379"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) is before


def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/none")


@pytest.mark.parametrize("mode", ["", "token"])
def test_ray_itself_says_that_it_has_no_token_or_takes_the_one_that_it_finds(
    mode: str, monkeypatch: pytest.MonkeyPatch, reached: list[str]
) -> None:
    """Ray's client would end the process where it has none, and not take one in another mode than `token`."""
    without_token(monkeypatch)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        loader = SimpleNamespace(has_token=lambda *, ignore_auth_mode: False)
        monkeypatch.setattr("ray._raylet.AuthenticationTokenLoader", SimpleNamespace(instance=lambda: loader))
    else:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda address: "10.0.0.1:6379")
    monkeypatch.setattr("ray.init", lambda **options: None)
    with connected("auto"):
        pass
    assert reached == []


@pytest.mark.parametrize("token", ["", "another's"])
@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379"])
def test_a_token_that_is_missing_or_wrong_is_said_before_ray_asks_for_long(
    address: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_token(monkeypatch)
    loader = SimpleNamespace(has_token=lambda *, ignore_auth_mode: True)
    if token:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setattr("ray._raylet.AuthenticationTokenLoader", SimpleNamespace(instance=lambda: loader))
    else:  # to ask it would have an effect on all that follows
        monkeypatch.setattr("ray._raylet.AuthenticationTokenLoader", None)
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda address: "10.0.0.1:6379")
    asked: list[str] = []

    def client(address: str) -> None:
        asked.append(address)
        raise ray.exceptions.AuthenticationError("InvalidAuthToken")

    monkeypatch.setattr("ray._raylet.GcsClient", client)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray itself was asked"))
    with pytest.raises(UsageError, match=rf"--address {address}: .*ask for a token .*RAY_AUTH_MODE=token"):
        connected(address).__enter__()
    assert asked == ["10.0.0.1:6379"]


def test_a_cluster_of_this_machine_asks_for_a_token_that_is_in_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    seen: list[dict[str, str]] = []
    monkeypatch.setattr("ray.init", lambda **options: seen.append(dict(os.environ)))
    with connected("local"):
        pass
    assert seen[0]["RAY_AUTH_MODE"] == "token"
    assert len(seen[0]["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_head_that_is_gone_ends_the_run_in_words_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    monkeypatch.setattr("superfine.cluster.fleet._HEAD_PAUSE_SECONDS", 0)
    fake = FakeRay(("a", 1))
    with (
        pytest.raises(EngineError, match=r"the cluster's head \(10.0.0.1:6379\) is gone .*run the same again"),
        fleet(fake, cores=1, folder=tmp_path) as crew,
    ):
        assert len(mustered(crew)) == 1
        calls = len(fake.calls)
        monkeypatch.setattr("superfine.cluster.fleet._reach", refuse)
        crew.events(0)
    assert len(fake.calls) == calls
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    monkeypatch.setattr("superfine.cluster.fleet._HEAD_PAUSE_SECONDS", 0)
    away = [3]

    def reach(address: str) -> None:
        if away[0]:
            away[0] -= 1
            refuse(address)

    monkeypatch.setattr("superfine.cluster.fleet._reach", reach)
    with fleet(FakeRay(("a", 1)), cores=1) as crew:
        assert len(mustered(crew)) == 1
    assert away == [0]


def test_each_node_gets_as_many_workers_as_its_cores_allow_on_cores_of_their_own() -> None:
    fake = FakeRay(("a", 3), ("b", 1), ("c", 0))
    with fleet(fake, cores=1) as crew:
        joined = mustered(crew)
        assert len(joined) == 4
        pinned = [given[1] for _, name, given in fake.calls if name == "prepare"]
        assert sorted(pinned) == [(0,), (1,), (2,), (3,)]
        assert {given[2] for _, name, given in fake.calls if name == "prepare"} == {2.0}  # GB: a quarter for each
        crew.start(joined[0].worker, Whole(task("a.png")))
        assert crew.events(0) == [Finished(joined[0].worker, done(Whole(task("a.png"))))]


def test_by_default_workers_have_what_every_node_has_up_to_four_cores() -> None:
    fake = FakeRay(("a", 16), ("b", 3), ("c", 0))
    with fleet(fake) as crew:
        assert len(mustered(crew)) == 6  # of three cores each
    with fleet(FakeRay(("a", 16), ("b", 8))) as crew:
        assert len(mustered(crew)) == 6  # of four


def test_another_kind_of_node_is_refused_by_name_or_taken_along_with_a_word() -> None:
    fake = FakeRay(("a", 1), ("b", 1))
    fake.kinds["b"] = {"CPU": "Epyc"}
    with (
        pytest.raises(UsageError, match=r"node b .* is of another kind .*CPU 'Epyc' and not 'Xeon'.*--mixed"),
        fleet(fake, cores=1) as crew,
    ):
        mustered(crew)
    warned: list[str] = []
    with fleet(fake, warned, cores=1, mixed=True) as crew:
        joined = mustered(crew)
        assert len({event.kind for event in joined if isinstance(event, Joined)}) == 2
    assert len(warned) == 1
    assert "within one level" in warned[0]


def test_a_late_node_of_another_kind_is_left_out_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    fake, warned = FakeRay(("a", 1)), list[str]()
    fake.kinds["b"] = {"CPU": "Epyc"}
    with fleet(fake, warned, memory_gb=1, cores=1) as crew:
        assert len(mustered(crew)) == 1
        fake.members["b"] = 1
        assert [*mustered(crew), *mustered(crew)] == []
    assert len(warned) == 1
    assert warned[0].endswith("it is left out")


def test_a_late_node_with_much_less_memory_waits_until_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    fake, warned = FakeRay(("a", 1)), list[str]()
    with fleet(fake, warned, cores=1) as crew:
        (first,) = mustered(crew)
        fake.members["b"] = 1  # on the same machine, of which it would take half
        assert [*mustered(crew), *mustered(crew)] == []
        assert len(warned) == 1
        assert re.search(r"node b .* 4.00 GB beside .*than the 8.00 GB of the others; say --memory GB", warned[0])

        def failing(actor: FakeActor, name: str) -> None:
            if name == "do":
                raise ray.exceptions.RayActorError(error_msg="Worker exit type: NODE_DIED")

        fake.failing = failing
        crew.start(first.worker, Whole(task("a.png")))
        del fake.members["a"]
        found = [*mustered(crew), *mustered(crew)]
        assert [type(event) for event in found] == [Lost, Joined]


def test_a_late_node_may_have_a_little_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    fake, warned = FakeRay(("a", 2)), list[str]()
    with fleet(fake, warned, cores=1) as crew:
        assert len(mustered(crew)) == 2
        fake.members |= {"b": 1, "c": 1}  # on the same machine, of which each would take a third, then a quarter
        assert len([*mustered(crew), *mustered(crew)]) == 1
        assert {given[2] for _, name, given in fake.calls if name == "prepare"} == {4.0}
    assert len(warned) == 1


def test_a_worker_that_dies_before_it_has_begun_counts_for_the_memory_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    monkeypatch.setattr("superfine.cluster.fleet._AGAIN_SECONDS", 0)
    fake, warned = FakeRay(("a", 2)), list[str]()
    deaths = [1]

    def failing(actor: FakeActor, name: str) -> None:
        if name == "host" and actor.number == 1 and deaths.pop():
            raise ray.exceptions.RayActorError(error_msg="Worker exit type: SYSTEM_ERROR")

    fake.failing = failing
    with fleet(fake, warned, cores=1) as crew:
        assert len([*mustered(crew), *mustered(crew)]) == 2
    assert {given[2] for _, name, given in fake.calls if name == "prepare"} == {4.0}  # GB: half of what there is
    assert warned == []


def test_nodes_that_do_not_reach_the_stores_are_named() -> None:
    fake = FakeRay(("a", 1), ("b", 1))
    fake.unreached["b"] = "s3://archive/scans: there are no credentials for it"
    with (
        pytest.raises(UsageError, match=r"s3://archive/scans: there are no credentials.*node b .*its keys, endpoint"),
        fleet(fake, cores=1, places=(["s3://archive/scans"], "/out")) as crew,
    ):
        mustered(crew)
    assert ("a", "unreached", (["s3://archive/scans"], "/out")) in fake.calls
    assert ("b", "kill", ()) in fake.calls
    fake.unreached.clear()
    with fleet(fake, cores=1, places=(["s3://archive/scans"], "/out")) as crew:
        assert len(mustered(crew)) == 2


def test_a_node_is_not_left_out_where_its_store_is_away_when_a_worker_is_made_anew() -> None:
    fake = FakeRay(("a", 1))

    def failing(actor: FakeActor, name: str) -> None:
        if name == "do":
            fake.unreached["a"] = "the store didn't do it"
            raise ray.exceptions.RayActorError(error_msg="Worker exit type: SYSTEM_ERROR")

    fake.failing = failing
    with fleet(fake, cores=1, places=(["s3://archive/scans"], "/out")) as crew:
        (joined,) = mustered(crew)
        crew.start(joined.worker, Whole(task("a.png")))
        assert [type(event) for event in (*mustered(crew), *crew.events(0))] == [Lost, Joined]


def test_a_worker_says_why_it_does_not_reach_a_store(tmp_path: Path) -> None:
    worker = Worker()
    assert worker.unreached([str(tmp_path)], "memory://bucket/out") == ""
    assert worker.unreached(["memory://bucket/none"], str(tmp_path)) == "memory://bucket/none: there is nothing there"


def test_a_worker_says_why_it_cannot_write_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, files = Worker(), fsspec.filesystem("memory")
    assert worker.unreached([], str(tmp_path)) == ""
    assert worker.unreached([], "memory://rights/out") == ""
    assert not files.find("rights")
    assert list(tmp_path.iterdir()) == []

    def refuse_to_write(*given: object, **options: object) -> None:
        raise PermissionError(13, "Access Denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(files), "rm_file", refuse_to_write)
        assert worker.unreached([], "memory://rights/out") == ""  # who may not remove may still write
    monkeypatch.setattr(type(files), "pipe_file", refuse_to_write)
    words = worker.unreached([], "memory://rights/out")
    assert re.match(
        "memory://rights/out: access is refused: .*Access Denied; see that the credentials may .*write", words
    )
    monkeypatch.setattr(Path, "touch", refuse_to_write)
    words = worker.unreached([], str(tmp_path))
    assert words == f"{tmp_path}: can't be written to: Access Denied; choose another place with -o"


def test_a_folder_that_a_node_cannot_write_to_ends_the_run(tmp_path: Path) -> None:
    fake = FakeRay(("a", 1), ("b", 1))
    fake.unreached["b"] = f"{tmp_path}: can't be written to: Permission denied; choose another place with -o"
    with (
        pytest.raises(UsageError, match=r"can't be written to: .*so says node b .*the right to write"),
        fleet(fake, cores=1, places=([], str(tmp_path)), folder=tmp_path) as crew,
    ):
        mustered(crew)
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_do_not_see_the_folders_are_named(tmp_path: Path) -> None:
    fake = FakeRay(("a", 1), ("b", 1))
    fake.unseen["b"] = ["/data/scans"]
    with (
        pytest.raises(UsageError, match=r"/data/scans: node b .* doesn't see it as this machine does; .*s3://"),
        fleet(fake, cores=1, paths=["/data/scans"], folder=tmp_path) as crew,
    ):
        crew.events(0)
    assert list(tmp_path.iterdir()) == []  # what was written to be seen is gone


def test_cores_that_no_node_has_are_refused() -> None:
    with (
        pytest.raises(UsageError, match="--per-actor-cpus 8: no node has so many cores; the largest has 4"),
        fleet(FakeRay(("a", 4), ("b", 2)), cores=8),
    ):
        pass


def test_gpus_that_no_node_has_are_refused() -> None:
    with (
        pytest.raises(UsageError, match=r"--gpus-per-actor 1: no node has so many GPUs \(--engine cuda .*one has is 0"),
        fleet(FakeRay(("a", 4)), gpus=1),
    ):
        pass


def test_what_killed_runs_left_to_be_seen_is_removed(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from superfine.atomic import this_process; print(this_process())"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (tmp_path / f".superfine-seen-{ended}").touch()
    (tmp_path / ".superfine-seen-00000000-1").touch()  # another host's
    with fleet(FakeRay(("a", 1)), cores=1, folder=tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {".superfine-seen-00000000-1", f".superfine-seen-{this_process()}"}
    assert [path.name for path in tmp_path.iterdir()] == [".superfine-seen-00000000-1"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"none: can't be written to: No such file"),
        fleet(FakeRay(("a", 1)), cores=1, folder=tmp_path / "none"),
    ):
        pass


def test_an_output_that_nobody_may_look_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path) == f"{tmp_path}/closed/out":  # as for whoever mayn't enter the folder
            raise PermissionError(13, "Permission denied", path)
        return real(path, **options)

    monkeypatch.setattr("os.stat", stat)
    with pytest.raises(OutputError, match=r"/closed/out: can't be reached: Permission denied; choose another place"):
        upscale_on_cluster(str(tmp_path), f"{tmp_path}/closed/out")


def test_where_nodes_look_is_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert _nearest(str(tmp_path)) == tmp_path
    assert _nearest(f"{tmp_path}/a/b/c") == tmp_path
    assert _nearest(f"{tmp_path}/file/x.png") == tmp_path


def test_who_waits_for_cores_that_others_have_hears_of_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._WORTH_SAYING_SECONDS", -1)
    fake, warned = FakeRay(("a", 1)), list[str]()
    fake.silent = True
    with fleet(fake, warned, cores=1) as crew:
        assert [*mustered(crew), *mustered(crew)] == []
    assert len(warned) == 1
    assert "no worker has started yet" in warned[0]


def die_at_work(actor: FakeActor, name: str) -> None:
    if name == "do":
        raise ray.exceptions.RayActorError(error_msg="The actor died\nWorker exit type: SYSTEM_ERROR")


def test_a_dead_worker_is_told_of_and_made_anew() -> None:
    fake = FakeRay(("a", 1))
    fake.failing = die_at_work
    warned: list[str] = []
    with fleet(fake, warned, cores=1) as crew:
        (joined,) = mustered(crew)
        crew.start(joined.worker, Whole(task("a.png")))
        first, second = (*mustered(crew), *crew.events(0))
        assert isinstance(first, Lost)
        assert first.worker == joined.worker
        assert first.words == "its worker on node a (10.0.0.1) died: it was killed, or crashed"
        assert isinstance(second, Joined)
        assert second.worker != joined.worker
    assert warned == ["a worker on node a (10.0.0.1) died: it was killed, or crashed"]


def half_written(folder: Path, process: str) -> Path:
    """What a worker leaves that is killed while it writes."""
    half = folder / f".a.png.{process}.part"
    half.write_bytes(b"half")
    return half


def test_what_a_dead_worker_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    fake, work = FakeRay(("a", 2)), Whole(replace(task("a.png"), output=str(tmp_path / "a.png")))

    def failing(actor: FakeActor, name: str) -> None:
        if name == "do":
            raise ray.exceptions.RayActorError(error_msg="Worker exit type: SYSTEM_ERROR")

    fake.failing = failing
    with fleet(fake, cores=1) as crew:
        first, second = (crew._members[event.worker] for event in mustered(crew) if isinstance(event, Joined))
        assert first.host is not None
        assert second.host is not None
        theirs, other = half_written(tmp_path, first.host.process), half_written(tmp_path, second.host.process)
        crew.start(first.slot.worker, work)
        assert isinstance(crew.events(0)[0], Lost)
        assert (theirs.exists(), other.exists()) == (False, True)
        half_written(tmp_path, first.host.process)  # its node was only out of reach
    assert (theirs.exists(), other.exists()) == (False, True)


def test_what_workers_were_writing_when_the_run_is_stopped_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._END_SECONDS", 0)
    fake, work = FakeRay(("a", 2)), Whole(replace(task("a.png"), output=str(tmp_path / "a.png")))
    with pytest.raises(KeyboardInterrupt), fleet(fake, cores=1) as crew:
        first, second = (crew._members[event.worker] for event in mustered(crew) if isinstance(event, Joined))
        assert first.host is not None
        assert second.host is not None
        theirs, other = half_written(tmp_path, first.host.process), half_written(tmp_path, second.host.process)
        fake.silent = True
        crew.start(first.slot.worker, work)
        raise KeyboardInterrupt
    assert (theirs.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize(("minutes", "told"), [(0.0, True), (60.0, False)])
def test_a_death_after_all_patience_may_have_been_for_that(minutes: float, told: bool) -> None:
    fake = FakeRay(("a", 1))
    fake.failing = die_at_work
    warned: list[str] = []
    errand = Errand(Job(model="nearest"), patience_minutes=minutes)
    with Fleet(fake, errand, Needs(cores=1), warned.append) as crew:  # type: ignore[arg-type]
        (joined,) = mustered(crew)
        crew.start(joined.worker, Whole(task("a.png")))
        (lost,) = crew.events(0)
    assert isinstance(lost, Lost)
    assert lost.words.endswith("or nothing moved on in it for 0 minutes (--patience)") == told
    assert warned == [lost.words.replace("its worker", "a worker")]


def test_workers_that_never_start_end_the_run_with_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._LOOK_SECONDS", -1)
    monkeypatch.setattr("superfine.cluster.fleet._AGAIN_SECONDS", 0)

    def failing(actor: FakeActor, name: str) -> None:
        raise ray.exceptions.RayActorError(error_msg=MISSING)

    fake = FakeRay(("a", 2))
    fake.failing = failing
    with (
        pytest.raises(EngineError, match=r"node a .*: its worker doesn't start: .*No module named 'superfine'"),
        fleet(fake, cores=1) as crew,
    ):
        for _ in range(20):
            crew.events(0)


def test_another_version_on_a_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.cluster.fleet._own_version", lambda: "9.9")
    with (
        pytest.raises(UsageError, match=r"node a .* has superfine \S+, and here it is 9.9; install the same"),
        fleet(FakeRay(("a", 1)), cores=1, mixed=True) as crew,
    ):
        crew.events(0)


# ---- the report, and what is missing


def test_report_counts_and_keeps_only_so_much() -> None:
    report = ClusterReport(listed=352)
    for number in range(350):
        bad = Result(Path("a"), None, "failed", f"{number}.png: broken")
        report.count(task(f"{number}.png"), bad)
    for name in ("a.png", "b.png"):
        report.count(task(name), Result(Path(name), None, "done", notes=("grey",)))
    assert (report.failed, report.done, report.skipped) == (350, 2, 0)
    assert len(report.failures) == 100
    assert report.notes == {"grey": (2, ["a.png", "b.png"])}


def test_a_whole_run_counts_each_file_once_and_names_what_leads_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.png", "c.png"):
        Image.fromarray(noise(8, 9, 3)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    for name in ("a.png", "d.png"):
        (tmp_path / "in" / name).symlink_to("b.png")
    fake = FakeRay(("a", 2))
    monkeypatch.setattr("superfine.cluster.fleet.connected", lambda address: nullcontext(fake))
    report = upscale_on_cluster(
        str(tmp_path / "in"), f"file://{tmp_path}/out", job=Job(model="nearest"), progress=ClusterTerminal()
    )
    assert (report.listed, report.done, report.failed, report.skipped, report.ignored) == (2, 2, 0, 0, 3)
    made = [Path(given[0].task.source).name for _, name, given in fake.calls if name == "do"]
    assert sorted(made) == ["a.png", "c.png"]
    said = capsys.readouterr().err
    assert f"made by another name: {tmp_path}/in/b.png, {tmp_path}/in/d.png\n" in said
    looked = {given[1] for _, name, given in fake.calls if name == "unreached"}
    assert looked == {str(tmp_path)}, "where the folder for results will be made"


def test_totals_grow_on_a_terminal_and_failures_are_named_when_they_happen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    report = ClusterReport(listed=3, ignored=1200)
    with ClusterTerminal() as terminal:
        terminal.begin(0, 0)
        terminal.expect(2, 200)
        terminal.expect(1, 100)
        terminal.advance(100)
        outcomes = {"a.png": "done", "b.png": "skipped", "bad.png": "failed"}
        for name, status in outcomes.items():
            result = Result(Path(name), None, status, f"{name}: broken" if status == "failed" else "", notes=("grey",))  # type: ignore[arg-type]
            report.count(task(name), result)
            terminal.settled(task(name), result)
        assert "failed: bad.png: broken" in screen.getvalue()
    assert "3 of 3" in screen.getvalue()
    terminal.total(report)
    said = capsys.readouterr().out
    assert "note: 3 of 3 files: grey\n" in said
    assert re.search(
        r"^1 done, 1 skipped, 1 failed of 3 listed in \d+\.\d s; 1,200 other files left alone$", said, re.MULTILINE
    )


def test_lines_of_json_keep_urls_and_end_with_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    stored = Task("s3://archive/in/a.png", "s3://archive/out/a.png", 5, moves=False)
    with ClusterLines() as lines:
        lines.begin(0, 0)
        lines.expect(1, 5)
        lines.settled(stored, Result(Path(stored.source), Path(stored.output), "done", size=(4, 6)))
        lines.total(ClusterReport(listed=1, done=1))
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["source"], first["output"], first["size"]) == (stored.source, stored.output, [4, 6])
    assert last == {"status": "finished", "listed": 1, "done": 1, "failed": 0, "skipped": 0, "ignored": 0}


def test_without_the_extra_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    code = "import sys; sys.modules['ray'] = None; from superfine.cli import main; main()"
    command = [sys.executable, "-c", code, "cluster", "in", "-o", "out", "--address", "local", "--model", "bicubic"]
    stopped = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert stopped.returncode == 1
    assert stopped.stderr == "superfine: the cluster needs the extra 'cluster': pip install '.[cluster]'\n"
    assert not (tmp_path / "out").exists()


def test_the_core_imports_no_ray() -> None:
    code = "import sys, superfine.cli, superfine.progress, superfine.cluster; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
