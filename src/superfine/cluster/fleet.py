"""Workers as Ray actors: one for so many cores of each node, on cores of its own, made anew where one dies.

All that knows Ray. Of it only actors, node affinity and the list of nodes are used.
"""

import math
import os
import queue
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final, NoReturn, Self

from superfine.atomic import has_ended
from superfine.cluster.places import remove_left, show
from superfine.cluster.schedule import Event, Finished, Joined, Lost, Trouble, Work
from superfine.cluster.worker import Errand, Host, Worker
from superfine.errors import EngineError, MissingExtraError, SuperfineError, UsageError

__all__ = ["Fleet", "Needs", "connected"]

# Of the others' memory, what is enough for a worker that comes late: of a machine's only half is given out, and so
# never more than three quarters.
_LATE_SHARE: Final = 0.66
# How often it's looked whether nodes have come or gone.
_LOOK_SECONDS: Final = 2.0
# How long the first workers wait for the others, to see whether all are of one kind.
_MUSTER_SECONDS: Final = 60.0
# How long no worker may start before a person hears of it.
_WORTH_SAYING_SECONDS: Final = 30.0
# Before a worker that didn't start is started again, doubled each time up to the longest.
_AGAIN_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 60.0
# Failed starts in a row, of all workers, after which none will ever work.
_MOST_STARTS: Final = 6
# More cores hardly make one picture quicker, and several pictures at once keep them all busy.
_MOST_CORES: Final = 4
# For workers to clean up behind them, and to end once they are killed.
_CLOSE_SECONDS: Final = 5.0
_END_SECONDS: Final = 2.0
_END_PAUSE_SECONDS: Final = 0.02
# For an answer from a cluster's head.
_LISTEN_SECONDS: Final = 10.0
# How often, each a second after the last, a head that isn't there is looked for before the run ends; Ray itself would
# end the process after a minute without a word.
_HEAD_LOOKS: Final = 10
_HEAD_PAUSE_SECONDS: Final = 1.0
# What is said to who has no token.
_UNKNOWN: Final = (
    "the cluster's nodes ask for a token that isn't given here (they do where ~/.ray/auth_token is there, or"
    " RAY_AUTH_MODE=token is set); set RAY_AUTH_MODE=token, and put their token into RAY_AUTH_TOKEN or"
    " ~/.ray/auth_token"
)
# For what `local` keeps of networks that travel.
_LOCAL_STORE_BYTES: Final = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What each worker gets, and may do."""

    cores: int | None = None
    """None: as many as every node has, up to 4."""
    gpus: float = 0.0
    mixed: bool = False
    """Workers may be of several kinds."""
    paths: Sequence[str] = ()
    """What every node must see."""
    places: tuple[Sequence[str], str] | None = None
    """Sources, and the folder that is there or the URL for the output: what every node must reach, and write to."""
    folder: Path | None = None
    """Where every node must see a file that is written here; a folder that is there."""


class connected:  # noqa: N801 - a verb, as `suppress` is
    """Ray, for the time of a run: a cluster that runs already, or one of this machine alone.

    In the main thread SIGTERM raises KeyboardInterrupt within, with its number, so that nothing is left half written.
    address: `auto`, `local` or HOST:PORT. Raises MissingExtraError without Ray, UsageError where there's no cluster.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._set: list[str] = []
        self._handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def __enter__(self) -> ModuleType:
        if self._address == "local":
            # Ray listens on all interfaces: only who knows this may run programs here.
            for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", secrets.token_hex(32))):
                if name not in os.environ:
                    os.environ[name] = value
                    self._set.append(name)
        elif self._address != "auto":
            _check_listening(self._address)
        ray = _ray()
        if self._address != "local":
            _check_answer(ray, self._address)
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if self._address == "local":
            from superfine.engine import cores

            options |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
        try:
            ray.init(address=self._address, **options)
        except UnicodeEncodeError as error:  # Ray shows others the command line
            ray.shutdown()
            raise UsageError(
                "a name in the command isn't UTF-8, and Ray doesn't take such; name the folder around it, or rename it"
            ) from error
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            ray.shutdown()
            words = " ".join(str(error).split())[:300]
            cure = "start one with `ray start --head`, or take --address local"
            if isinstance(error, ray.exceptions.AuthenticationError):
                raise UsageError(f"--address {self._address}: {_UNKNOWN}") from error
            if self._address == "auto" and isinstance(error, ConnectionError):
                raise UsageError(f"--address auto: no Ray cluster runs here; {cure}") from error
            raise UsageError(f"--address {self._address}: no Ray cluster answers there ({words}); {cure}") from error
        _on_terminate(_stop)  # Ray has set a handler of its own
        return ray

    def __exit__(self, *error: object) -> None:
        _ray().shutdown()
        _on_terminate(self._handler)
        for name in self._set:
            os.environ.pop(name, None)


def _on_terminate(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


def _check_listening(address: str) -> None:
    """Raise UsageError where nobody listens at HOST:PORT; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if "://" in address:
        raise UsageError(
            f"--address {address}: Ray's client can't be used; on one of the nodes, give HOST:PORT or auto"
        )
    if not (colon and host and port.isdigit()):
        raise UsageError(f"--address {address!r} is none of auto, local and HOST:PORT")
    try:
        _reach(address)
    except (OSError, OverflowError) as error:
        raise UsageError(f"--address {address}: nobody listens there ({error}); give what `ray start` says") from error


def _check_answer(ray: ModuleType, address: str) -> None:
    """Raise UsageError where a cluster wants another token than is given here, or doesn't answer.

    `ray.init` would ask for a token for 20 seconds, and for an answer for minutes.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    try:
        from ray._private.services import canonicalize_bootstrap_address

        # Whoever looks for a token in any other mode has it from then on, and wants it from a cluster that has none.
        if mode == "token" and not ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            return  # `ray.init` says it at once
        if address == "auto" and not mode and _has_token():
            return  # `ray.init` takes it
        if (head := canonicalize_bootstrap_address(address)) is not None:
            ray._raylet.GcsClient(address=head)
    except ray.exceptions.AuthenticationError as error:
        raise UsageError(f"--address {address}: {_UNKNOWN}") from error
    except ray.exceptions.RpcError as error:
        raise UsageError(
            f"--address {address}: no Ray cluster answers there ({error}); give what `ray start` says"
        ) from error
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError, ImportError, AttributeError):
        return  # `ray.init` says it; these parts of Ray are its own


def _has_token() -> bool:
    told = not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}.isdisjoint(os.environ)
    return told or Path("~/.ray/auth_token").expanduser().exists()


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTEN_SECONDS).close()


def _ray() -> ModuleType:
    # Nobody is told of the run, and nodes keep the environment that they have.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Of what it says itself nothing is shown: deaths are told in our words.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("the cluster", "cluster") from error
    return ray


@dataclass
class _Slot:
    """A place for a worker: so many cores of a node."""

    node: str
    name: str
    """Of the node, for people."""
    worker: str = ""
    """Who has it now; empty for nobody."""
    failures: int = 0
    """Starts in a row that failed."""
    since: float = 0.0
    """Nobody is started in it before."""


@dataclass
class _Member:
    """A worker, from its birth on."""

    actor: Any
    slot: _Slot
    host: Host | None = None
    cores: tuple[int, ...] = ()
    kind: dict[str, str] = field(default_factory=dict)
    seen: bool = False
    """It sees what it needs."""
    waits: bool = False
    """For memory; people know it."""
    asked: bool = False
    """To open its networks."""
    ready: bool = False
    work: Work | None = None
    """What it has at this moment."""
    since: float = 0.0
    """When it got that."""


def _remove_half(member: _Member) -> None:
    """What a dead worker was writing."""
    if member.work is not None and member.host is not None:
        remove_left(member.work.task, member.host.process)


def _together(one: _Member, other: _Member) -> bool:
    """Whether two workers are on the same machine."""
    hosts = [member.host and (member.host.name, member.host.boot) for member in (one, other)]
    return hosts[0] is not None and hosts[0] == hosts[1]


class Fleet:
    """The crew of `schedule`, for the time of a run.

    warn: hears what a person should know. Raises UsageError where nodes can't do what is asked for, EngineError where
    no worker starts.
    """

    def __init__(self, ray: ModuleType, errand: Errand, needs: Needs, warn: Callable[[str], None]) -> None:
        self._ray = ray
        self._needs = needs
        self._warn = warn
        self._errand = ray.put(errand)
        # Of each worker. Tiles go by it, and videos' pieces by the tiles, so it is the same for all.
        self._memory_gb = self._memory_given = errand.job.memory_gb
        self._patience = errand.patience_minutes
        self._version = _own_version()
        self._cores = needs.cores or 1
        self._actor: Any = None
        self._slots: dict[str, list[_Slot]] = {}
        self._members: dict[str, _Member] = {}
        self._dead: list[_Member] = []
        """Those that died at work."""
        self._number = 0
        # What calls of actors gave: who, which call, and the answer.
        self._answers: queue.SimpleQueue[tuple[str, str, Future[Any]]] = queue.SimpleQueue()
        self._held: list[Event] = []
        self._looked = 0.0
        self._kind: dict[str, str] = {}
        self._barred: set[str] = set()
        self._reaching: set[str] = set()
        self._starts = 0
        self._mustered = False
        self._told = False
        self._began = time.monotonic()
        self._token: Path | None = None
        self._head = str(ray.get_runtime_context().gcs_address)
        self._headless = False

    def __enter__(self) -> Self:
        self._cores = self._needs.cores or self._usual_cores()
        self._actor = self._ray.remote(num_cpus=self._cores, num_gpus=self._needs.gpus, max_restarts=0)(Worker)
        self._look()
        if not any(self._slots.values()) and self._nodes():
            most = max(node["Resources"].get("CPU", 0) for node in self._nodes())
            gpus = max(node["Resources"].get("GPU", 0) for node in self._nodes())
            if gpus < self._needs.gpus:
                raise UsageError(
                    f"--gpus-per-actor {self._needs.gpus:g}: no node has so many GPUs (--engine cuda wants one for each"
                    f" worker); the most that one has is {gpus:g}"
                )
            raise UsageError(
                f"--per-actor-cpus {self._cores}: no node has so many cores{' and GPUs' if self._needs.gpus else ''};"
                f" the largest has {most:g}"
            )
        if self._needs.folder is not None:
            self._token = show(self._needs.folder)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._token is not None:
            with suppress(OSError):
                self._token.unlink()
        if self._headless:  # who isn't there isn't asked for anything
            return
        idle = [member.actor for member in self._members.values() if member.ready] if error is None else []
        if idle:
            self._ray.wait([actor.close.remote() for actor in idle], num_returns=len(idle), timeout=_CLOSE_SECONDS)
        for member in self._members.values():
            with suppress(Exception):
                self._ray.kill(member.actor)
        self._remove_halves()

    # ---- the crew

    def start(self, worker: str, work: Work) -> None:
        member = self._members[worker]
        member.work, member.since = work, time.monotonic()
        self._call(worker, "do", work)

    def events(self, seconds: float) -> list[Event]:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look()
        found: list[Event] = []
        with suppress(queue.Empty):
            found += self._event(*self._answers.get(timeout=seconds))
            while True:
                found += self._event(*self._answers.get_nowait())
        self._prepare()
        self._tell_of_waiting()
        return self._admitted(found)

    def _tell_of_waiting(self) -> None:
        if self._told or any(member.host is not None for member in self._members.values()):
            return
        if time.monotonic() - self._began > _WORTH_SAYING_SECONDS:
            self._told = True
            self._warn("no worker has started yet; others may have the cluster's cores, as `ray status` shows")

    def _admitted(self, found: list[Event]) -> list[Event]:
        """At first those who join wait until all are there, or have had their time."""
        if self._mustered:
            return found
        self._held += found
        if not self._all(lambda member: member.ready):
            return []
        self._mustered = True
        found, self._held = self._held, []
        return found

    def _event(self, worker: str, call: str, answer: Future[Any]) -> list[Event]:
        member = self._members.get(worker)
        if member is None:
            return []
        error = answer.exception()
        if error is None or not self._is_dead(error):
            member.work = None
        if error is not None and not self._is_dead(error):
            cause = getattr(error, "cause", None)
            if call != "do":
                raise (
                    cause if isinstance(cause, SuperfineError) else EngineError(f"{member.slot.name}: {_words(error)}")
                )
            return [Finished(worker, Trouble(_words(error)))]
        if error is not None:
            return self._lost(worker, member, error)
        value = answer.result()
        match call:
            case "do":
                return [Finished(worker, value)]
            case "host":
                self._settle_in(worker, member, value)
            case "unseen":
                self._check_seen(worker, member, value)
            case "unreached":
                self._check_reached(worker, member, value)
            case "prepare":
                return self._joined(worker, member, value)
        return []

    # ---- a worker's way in

    def _settle_in(self, worker: str, member: _Member, host: Host) -> None:
        """It's there, and says whether it sees what it needs."""
        member.host = host
        if host.version != self._version:
            self._refuse(
                worker,
                f"{member.slot.name} has superfine {host.version}, and here it is {self._version}; install the same on"
                " all nodes",
            )
            return
        wanted = [*self._needs.paths, *([str(self._token)] if self._token is not None else [])]
        self._call(worker, "unseen", wanted)

    def _check_seen(self, worker: str, member: _Member, unseen: list[str]) -> None:
        if unseen:
            which = str(self._needs.folder) if unseen[0] == str(self._token) else unseen[0]
            self._refuse(
                worker,
                f"{which}: {member.slot.name} doesn't see it as this machine does; a cluster needs folders that all its"
                " nodes share at the same place, or an object store, as s3://",
            )
            return
        # A node that has reached its stores isn't left out because one is away for a moment.
        if self._needs.places is not None and member.slot.node not in self._reaching:
            self._call(worker, "unreached", *self._needs.places)
        else:
            member.seen = True

    def _check_reached(self, worker: str, member: _Member, words: str) -> None:
        if words:
            self._refuse(
                worker,
                f"{words} (so says {member.slot.name}; whoever starts Ray there needs the right to write, and for a"
                " store its keys, endpoint and packages)",
            )
            return
        self._reaching.add(member.slot.node)
        member.seen = True

    def _prepare(self) -> None:
        """Have workers open their networks; at first, when it's known what memory all of them can have."""
        if self._memory_gb is None:
            if not self._all(lambda member: member.seen):
                return
            self._memory_gb = min(self._share(member) for member in self._members.values() if member.seen) / 1e9
        for worker, member in self._members.items():
            if member.seen and not member.asked and self._has_room(member):
                member.asked = True
                member.cores = self._free_cores(member)
                self._call(worker, "prepare", self._errand, member.cores, self._memory_gb)

    def _has_room(self, member: _Member) -> bool:
        """Whether a worker that comes late can have about as much memory as the others; else it waits."""
        least = 1e9 * (self._memory_gb or 0)
        if self._memory_given is not None or self._share(member) >= _LATE_SHARE * least:
            return True
        if not member.waits:
            member.waits = True
            self._warn(
                f"{member.slot.name} has less memory for a worker, {self._share(member) / 1e9:.2f} GB beside those that"
                f" its machine has, than the {self._memory_gb:.2f} GB of the others; say --memory GB for all; it waits"
            )
        return False

    def _all(self, reached: Callable[[_Member], bool]) -> bool:
        """Whether all workers have come so far; some are enough once the others have had their time."""
        states = [reached(member) for member in self._members.values()]
        if time.monotonic() - self._began >= _MUSTER_SECONDS:
            return any(states)
        vacant = any(not slot.worker for slots in self._slots.values() for slot in slots)
        return bool(states) and all(states) and not vacant

    def _share(self, member: _Member) -> float:
        """Bytes that a worker may have beside the others on its host."""
        if member.host is None:
            return math.inf
        beside = [other for other in self._members.values() if other is not member and _together(member, other)]
        if self._memory_gb is not None:  # of those who wait one after the other may come in
            beside = [other for other in beside if other.asked]
        return member.host.memory / (1 + len(beside))

    def _joined(self, worker: str, member: _Member, kind: dict[str, str]) -> list[Event]:
        member.kind = kind
        self._kind = self._kind or kind
        differs = [name for name in kind if kind[name] != self._kind.get(name)]
        if differs:
            there = "; ".join(f"{name} {kind[name]!r} and not {self._kind[name]!r}" for name in differs)
            if not self._needs.mixed:
                self._refuse(
                    worker,
                    f"{member.slot.name} is of another kind than the nodes before it ({there}), so its results may"
                    " differ from theirs by one level; take it along with --mixed, or leave it out of the cluster",
                )
                return []
            if not self._known(kind):
                self._warn(
                    f"{member.slot.name} is of another kind ({there}): results agree with the others' within one level,"
                    " not to the bit"
                )
        member.ready = True
        member.slot.failures = 0
        self._starts = 0
        return [Joined(worker, repr(sorted(kind.items())))]

    def _known(self, kind: dict[str, str]) -> bool:
        return any(member.ready and member.kind == kind for member in self._members.values())

    def _refuse(self, worker: str, words: str) -> None:
        """Stop where the run hasn't begun; later the node is left out."""
        if not self._mustered:
            raise UsageError(words)
        self._warn(f"{words}; it is left out")
        member = self._members.pop(worker)
        self._barred.add(member.slot.node)
        self._ray.kill(member.actor)

    def _free_cores(self, member: _Member) -> tuple[int, ...]:
        """Cores of its host that no other worker has, as far as there are any."""
        host = member.host
        if host is None or not host.cores:
            return ()
        taken = [core for other in self._members.values() if _together(member, other) for core in other.cores]
        # Where nodes claim more cores than their host has, those with the fewest workers are shared.
        return tuple(sorted(sorted(host.cores, key=lambda core: (taken.count(core), core))[: self._cores]))

    # ---- life and death

    def _check_head(self) -> None:
        for again in range(_HEAD_LOOKS):
            try:
                _reach(self._head)
            except OSError as error:
                if again == _HEAD_LOOKS - 1:
                    self._headless = True
                    raise EngineError(
                        f"the cluster's head ({self._head}) is gone ({error}); what is finished stays: start the"
                        " cluster anew, and run the same again"
                    ) from error
                time.sleep(_HEAD_PAUSE_SECONDS)
            else:
                return

    def _nodes(self) -> list[dict[str, Any]]:
        self._check_head()
        try:
            return [node for node in self._ray.nodes() if node["Alive"]]
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise EngineError(f"the cluster's head doesn't answer ({_words(error)}); run the same again") from error

    def _usual_cores(self) -> int:
        counts = [int(node["Resources"].get("CPU", 0)) for node in self._nodes()]
        return max(1, min([_MOST_CORES, *(count for count in counts if count)]))

    def _look(self) -> None:
        """Which nodes are there; workers for the places that nobody has."""
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node for node in self._nodes()}
        for gone in self._slots.keys() - alive.keys():
            del self._slots[gone]
        for key, node in alive.items():
            if key not in self._slots:
                self._slots[key] = self._places_of(key, node)
        now = time.monotonic()
        for slot in [slot for slots in self._slots.values() for slot in slots]:
            if not slot.worker and slot.since <= now and slot.node not in self._barred:
                self._hire(slot)

    def _places_of(self, key: str, node: dict[str, Any]) -> list[_Slot]:
        resources = node["Resources"]
        count = int(resources.get("CPU", 0) // self._cores)
        if self._needs.gpus:
            count = min(count, int(resources.get("GPU", 0) // self._needs.gpus))
        name = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
        return [_Slot(key, f"node {name} ({node['NodeManagerAddress']})") for _ in range(count)]

    def _hire(self, slot: _Slot) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._number += 1
        slot.worker = f"{slot.node[:8]}-{self._number}"
        where = NodeAffinitySchedulingStrategy(slot.node, soft=False)
        actor = self._actor.options(scheduling_strategy=where).remote()
        self._members[slot.worker] = _Member(actor, slot)
        self._call(slot.worker, "host")

    def _lost(self, worker: str, member: _Member, error: BaseException) -> list[Event]:
        del self._members[worker]
        with suppress(Exception):
            self._ray.kill(member.actor)
        if member.work is not None:
            _remove_half(member)
            self._dead.append(member)
        slot = member.slot
        slot.worker = ""
        if member.ready:
            why = _words(error)
            if member.work is not None and time.monotonic() - member.since >= 60 * self._patience:
                why = f"{why}, or nothing moved on in it for {self._patience:g} minutes (--patience)"
            self._warn(f"a worker on {slot.name} died: {why}")
            self._look()
            return [Lost(worker, f"its worker on {slot.name} died: {why}")]
        if slot.node in {node["NodeID"] for node in self._nodes()}:
            slot.failures += 1
            self._starts += 1
            slot.since = time.monotonic() + min(_LONGEST_SECONDS, _AGAIN_SECONDS * 2 ** (slot.failures - 1))
            if self._starts >= _MOST_STARTS:
                raise EngineError(f"{slot.name}: its worker doesn't start: {_words(error)}")
        return []

    def _remove_halves(self) -> None:
        """What workers were writing that died or were killed now; whose node is away may have written for a while."""
        ending = [member.host.process for member in self._members.values() if member.work and member.host]
        until = time.monotonic() + _END_SECONDS
        while not all(map(has_ended, ending)) and time.monotonic() < until:
            time.sleep(_END_PAUSE_SECONDS)
        for member in (*self._dead, *self._members.values()):
            _remove_half(member)

    def _call(self, worker: str, call: str, *given: Any) -> None:
        answer = getattr(self._members[worker].actor, call).remote(*given).future()
        answer.add_done_callback(lambda done: self._answers.put((worker, call, done)))

    def _is_dead(self, error: BaseException) -> bool:
        exceptions = self._ray.exceptions
        lost = (exceptions.RayActorError, exceptions.NodeDiedError, exceptions.WorkerCrashedError)
        return isinstance(error, (*lost, exceptions.OutOfMemoryError, exceptions.ActorUnschedulableError))


def _words(error: BaseException) -> str:
    """What Ray's error says that a person can use: the error behind it, or how a process has ended."""
    text = str(error)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    behind = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt): ", line)]
    if behind:
        return behind[-1][:300]
    if "OutOfMemory" in type(error).__name__ or "memory usage threshold" in text:
        return "the node ran out of memory"
    if "NODE_DIED" in text or "NodeDied" in type(error).__name__ or "node has died" in text:
        return "the node is gone"
    if "SYSTEM_ERROR" in text:
        return "it was killed, or crashed"
    return re.sub(r"\x1b\[\d+m", "", lines[0])[:300] if lines else type(error).__name__


def _own_version() -> str:
    from importlib.metadata import version

    return version("superfine")
