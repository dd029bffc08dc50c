"""Processes that train one run together, on one machine or on many: who they are, and what they must agree on.

What started them (torchrun, Ray Train) tells each its place by RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE,
and where they meet by MASTER_ADDR and MASTER_PORT. The first one alone writes, measures and talks.
"""

import logging
import os
import platform
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed import DistError

from superfine.errors import SuperfineError, TrainingError
from superfine.train.config import TrainConfig
from superfine.train.pretrained import STATE

__all__ = [
    "StoppedError",
    "ToldError",
    "agree",
    "begin_launch",
    "end_launch",
    "goes_on",
    "joined",
    "open_fabric",
    "refuse",
    "restarted",
    "same_folder",
    "together",
]

# The first process decodes all pictures, and validates, while the others wait.
_PATIENCE: Final = timedelta(hours=6)
# Until the first process has started, where the others already have.
_START_SECONDS: Final = 300
_TRY: Final = timedelta(seconds=10)
_STORE: Final = "superfine/store"
# In a run's folder: the torchrun that began it, so that its restarts needn't be allowed to go on.
_LAUNCH: Final = "torchrun.txt"

_Given = TypeVar("_Given")


class StoppedError(TrainingError):
    """The run was asked to stop; its state is saved."""


class ToldError(TrainingError):
    """Another process of the run has failed, and tells why itself."""


class _InputsInFull(MixedPrecision):
    """bf16 inside of networks; what goes in stays fp32, as in use.

    In bf16, levels k/255 would come out brighter by 0.16 levels on average, and networks would learn to darken.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def open_fabric(config: TrainConfig) -> Fabric:
    """One process, or the ones that the environment tells of, connected.

    Raises TrainingError where they can't share a batch, or where they would train side by side unknowingly.
    """
    world, here = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
    unaware = _number("SLURM_STEP_NUM_TASKS") if "WORLD_SIZE" not in os.environ else 1
    if unaware > 1:
        raise TrainingError(
            f"srun started {unaware} processes that don't know of one another; let it start torchrun, one on each node"
        )
    for stage in config.stages:
        if stage.batch % world:
            raise TrainingError(f"a batch of {stage.batch} can't be shared by {world} processes; make it a multiple")
    if world % here:
        raise TrainingError(f"{here} of {world} processes are on {platform.node()}; start equally many on each node")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of its precision each time
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    plugins: list[Any] = [TorchElasticEnvironment() if world > 1 else LightningEnvironment()]
    if config.precision == "bf16":
        plugins.append(_InputsInFull("bf16-mixed", "cuda" if on_gpu else "cpu"))
    if world > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _connect("nccl" if on_gpu else "gloo", world)
    fabric = Fabric(
        accelerator=config.device,
        devices=here,
        num_nodes=world // here,
        strategy=DDPStrategy(timeout=_PATIENCE) if world > 1 else "auto",
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def _number(name: str) -> int:
    """What the environment says, 1 where it says nothing."""
    said = os.environ.get(name, "1")
    if not (said.isascii() and said.isdigit() and int(said) > 0):
        raise TrainingError(f"{name}={said!r} in the environment is no number of processes; unset it, or take torchrun")
    return int(said)


@contextmanager
def joined(config: TrainConfig) -> Iterator[Fabric]:
    """`open_fabric`; within, TrainingError where another process is lost."""
    fabric = open_fabric(config)
    try:
        yield fabric
    except RuntimeError as error:
        if fabric.world_size == 1 or not (isinstance(error, DistError) or "gloo" in str(error)):
            raise
        try:
            refuse(fabric, f"another process of the run is lost ({_first_sentence(error)}); --resume goes on")
        except TrainingError as told:
            raise told from error


def _first_sentence(error: RuntimeError) -> str:
    return str(error).partition("] ")[2].partition(". ")[0] or str(error).partition("\n")[0]


def _connect(backend: str, world: int) -> None:
    """Connect the processes by a store of their own.

    torchrun (seen in torch 2.13) gives processes that it starts anew the store of those that died, where their
    addresses still are: some would call the dead, and wait. So only a new store's address goes there, and is tried.
    """
    host, port, rank = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["RANK"])
    shared = TCPStore(host, port, is_master=False, timeout=_TRY)
    store: Store
    if rank == 0:
        store = own = TCPStore(host, 0, is_master=True, timeout=_PATIENCE, wait_for_workers=False)
        shared.set(_STORE, f"{host} {own.port}")
    else:
        store = _found(shared)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE)


def _found(shared: Store) -> Store:
    """The first process's store, as soon as what `shared` tells of it leads to one that is alive."""
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            host, port = shared.get(_STORE).decode().split()
            socket.create_connection((host, int(port)), _TRY.seconds).close()
            store = TCPStore(host, int(port), is_master=False, timeout=_TRY)
        except (OSError, DistError) as error:
            if time.monotonic() > until:
                raise TrainingError(
                    f"the first process can't be reached at {os.environ['MASTER_ADDR']} ({error}); where a node was"
                    " replaced, begin torchrun anew, with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
                ) from error
            time.sleep(0.1)  # the address of a try before this one
        else:
            store.set_timeout(_PATIENCE)
            return store


# ---- what fails in one process fails in all, and is told once


def together(fabric: Fabric, act: Callable[[], _Given]) -> _Given:
    """What `act` gives in this process, once it is done in each.

    Raises the SuperfineError of the first process where it failed, there; in all others ToldError.
    """
    if fabric.world_size == 1:
        return act()
    given, failure = [], ""
    try:
        given.append(act())
    except SuperfineError as error:
        own, failure = error, f"{platform.node()}, process {fabric.global_rank}: {error}"
    heard = _gathered(fabric, failure)
    failed = [rank for rank, words in enumerate(heard) if words]
    if not failed:
        return given[0]
    if failed[0] == fabric.global_rank:
        raise own
    raise ToldError(heard[failed[0]])


def refuse(fabric: Fabric, words: str) -> NoReturn:
    """Raise TrainingError in the first process, ToldError in the others: for what all of them know."""
    raise TrainingError(words) if fabric.is_global_zero else ToldError(words)


def same_folder(fabric: Fabric, run: Path) -> None:
    """Make `run`, and see to it that all processes have the same folder of that name; else TrainingError."""
    if fabric.world_size == 1:
        return
    # A name that nobody has asked for before: network disks remember for a while what wasn't there.
    mark = run / fabric.broadcast(f".{secrets.token_hex(8)}.node")
    together(fabric, lambda: _put(mark) if fabric.is_global_zero else None)
    try:
        blind = [node for node in _gathered(fabric, "" if os.path.exists(mark) else platform.node()) if node]
    finally:
        if fabric.is_global_zero:
            mark.unlink(missing_ok=True)
    if blind:
        refuse(
            fabric,
            f"{run}: {', '.join(sorted(set(blind)))} has another folder there than {platform.node()};"
            " --run wants one that all nodes share",
        )


def _put(mark: Path) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise TrainingError(
            f"{mark.parent}: the run's folder can't be written: {error.strerror}; --run names another"
        ) from error


def agree(fabric: Fabric, facts: Mapping[str, object]) -> None:
    """Raise TrainingError where a process has another value of a fact, by name, than the first one."""
    if fabric.world_size == 1:
        return
    heard = _gathered(fabric, (platform.node(), dict(facts)))
    (_, first), *others = heard
    for rank, (node, its) in enumerate(others, 1):
        if moved := [name for name in first if its.get(name) != first[name]]:
            refuse(
                fabric,
                f"{node}, process {rank}, has another {', '.join(moved)} than the first process; give all nodes"
                " the same recipe, files and versions",
            )


def _gathered(fabric: Fabric, own: _Given) -> list[_Given]:
    """What each process has, in their order."""
    heard = [own] * fabric.world_size
    torch.distributed.all_gather_object(heard, own)
    return heard


# ---- begin, or go on


def restarted(fabric: Fabric) -> bool:
    """Whether torchrun has started any of the processes anew; each node counts its own."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return again if fabric.world_size == 1 else any(_gathered(fabric, again))


def goes_on(run: Path, *, asked: bool, again: bool) -> bool:
    """Whether `run` holds a state to go on from.

    again: this is a restart by torchrun, which goes on with what its own first try began. Raises TrainingError where
    there is a state, and nobody said that it is to be gone on with.
    """
    if not (run / STATE).exists():
        return False
    if asked or (again and _launched_by(run) == _launch()):
        return True
    end_launch(run)  # or this try's own restarts would take the run for theirs
    raise TrainingError(f"{run} holds a run already; --resume goes on with it, --run names another folder")


def begin_launch(run: Path) -> None:
    """Note that this torchrun began the run in `run`; nothing where none did."""
    if _launch():
        (run / _LAUNCH).write_text(_launch(), encoding="utf-8")


def end_launch(run: Path) -> None:
    """Take that note back."""
    (run / _LAUNCH).unlink(missing_ok=True)


def _launch() -> str:
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def _launched_by(run: Path) -> str | None:
    try:
        return (run / _LAUNCH).read_text(encoding="utf-8")
    except OSError:
        return None
