"""The training loop, from top to bottom. Fabric hides devices and processes, not the loop."""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from superfine.errors import TrainingError
from superfine.train.conclude import conclude
from superfine.train.config import OptimizerConfig, TrainConfig
from superfine.train.data import Batch, Batches, open_data, whole_pairs
from superfine.train.listener import Listener, Moment, Score
from superfine.train.log import Log
from superfine.train.losses import adversarial, critic_loss, r1_penalty, weighted
from superfine.train.nets import NETS
from superfine.train.pretrained import STATE, load_pretrained
from superfine.train.score import TorchEngine, score
from superfine.train.state import State, begin, resume, save

__all__ = ["BEST", "rate_at", "train"]

#: The state with the highest validation PSNR, in a run's folder.
BEST = "best.pt"
_LOG_EVERY = 100


def train(
    config: TrainConfig, root: Path, run: Path, *, go_on: bool = False, listener: Listener | None = None
) -> State:
    """Train to the end; with `go_on` from `run/last.pt`, where it is there.

    root: the folder that holds `config.data.folders`. Writes into `run`: `last.pt`
    and `best.pt`, `split.json`, and the log (`log.jsonl`, `loss.png`, `psnr.png`,
    TensorBoard). Under torchrun the processes share each batch. Raises TrainingError
    at a loss that is not finite, naming the step, and where `run` holds a run
    already and `go_on` is not said.
    """
    listener = listener or Listener()
    if (run / STATE).exists() and not go_on:
        raise TrainingError(f"{run} holds a run already; --resume goes on with it, --run names another folder")
    with _torch_set_up(config):
        fabric = _fabric(config)
        lead = fabric.is_global_zero
        state = resume(run / STATE, config) if (run / STATE).exists() else begin(config)
        if lead:
            data = open_data(config, root, run, listener.say)
            if not len(data.validation):
                listener.say("no picture is held out, so nothing is measured: data.validation=0.05 sets some aside")
        fabric.barrier()
        if not lead:  # what the first process decoded is read from its file
            data = open_data(config, root, run, lambda text: None)
        fight = _set_up(fabric, state, config)
        pictures = data.train.to(fabric.device)
        part = slice(fabric.global_rank, None, fabric.world_size)
        log = Log(run, after=state.step) if lead else None
        with Batches(pictures, config, state.step + 1, part=part) as batches:
            tally = _Tally(state.step, config.steps)
            if lead and log is not None and state.step == 0 and data.validation:
                log.write(0, score=_score(state, data.validation, config))
            for step, batch in enumerate(batches, state.step + 1):
                loss = _train_step(fight, state, batch, config, step)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"the loss is {loss} at step {step}; lower optimizer.rate, or look at the pictures of that step"
                    )
                tally.add(loss)
                validates = step % config.validate_every == 0 or step == config.steps
                if lead and log is not None and (validates or step % _LOG_EVERY == 0):
                    scored = _score(state, data.validation, config) if validates and data.validation else None
                    moment = tally.moment(step, rate_at(step, config.steps, config.optimizer), scored)
                    log.write(step, loss=moment.loss, rate=moment.rate, milliseconds=tally.milliseconds, score=scored)
                    listener.step(moment)
                    if scored is not None and scored.psnr > state.best:
                        state.best = scored.psnr
                        save(run / BEST, state, config)
                if lead and (step % config.save_every == 0 or step == config.steps):
                    save(run / STATE, state, config)
                if validates:
                    fabric.barrier()
        if log is not None:
            log.draw()
            sides = {name: list(whole_pairs(side, config)) for name, side in data._asdict().items() if name != "train"}
            conclude(TorchEngine(state.ema, NETS[config.net]), sides, run, listener.say)
    return state


@contextmanager
def _torch_set_up(config: TrainConfig) -> Iterator[None]:
    """Threads and exactness as the run needs them; afterwards as they were."""
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact)


def _fabric(config: TrainConfig) -> Fabric:
    """One process, or the processes that torchrun started."""
    world, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    for stage in config.stages:
        if stage.batch % world:
            raise TrainingError(f"a batch of {stage.batch} can't be shared by {world} processes; make it a multiple")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of its precision each time
    fabric = Fabric(
        accelerator=config.device,
        devices=here,
        num_nodes=world // here,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


@dataclass
class _Fight:
    """The run's parts as Fabric wraps them, for this device and these processes."""

    fabric: Fabric
    net: Any
    optimizer: Any
    teacher: Any
    critic: Any
    critic_optimizer: Any


def _set_up(fabric: Fabric, state: State, config: TrainConfig) -> _Fight:
    net: Any = torch.compile(state.net) if config.compile else state.net
    wrapped, optimizer = fabric.setup(net, state.optimizer)
    state.ema.to(fabric.device)
    for kept in state.optimizer.state.values():  # a resumed optimiser was read onto the CPU
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and name != "step":
                kept[name] = value.to(fabric.device)
    teacher = None
    if config.teacher is not None:
        lesson = load_pretrained(config.teacher.model).build()
        if lesson.scale != config.scale or NETS[config.net].colour != lesson.colour:
            raise TrainingError(
                f"{config.teacher.model} can't teach {config.net} x{config.scale}: other scale or colour"
            )
        teacher = fabric.setup_module(lesson.requires_grad_(False).eval())
    critic = critic_optimizer = None
    if state.opponent is not None:
        critic, critic_optimizer = fabric.setup(state.opponent.net, state.opponent.optimizer)
    return _Fight(fabric, wrapped, optimizer, teacher, critic, critic_optimizer)


def _train_step(fight: _Fight, state: State, batch: Batch, config: TrainConfig, step: int) -> float:
    """One step: loss, gradient, optimiser, moving average; the critic after it. Returns the loss over all processes."""
    rate = rate_at(step, config.steps, config.optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    weights = dict(config.stage_at(step).loss)
    fooling = weights.pop("adversarial", 0.0)
    output = fight.net(batch.small.contiguous(memory_format=torch.channels_last))
    loss = weighted(weights, output, batch.large)
    if fight.teacher is not None and config.teacher is not None:
        with torch.no_grad():
            lesson = fight.teacher(batch.small)
        loss = loss + config.teacher.weight * weighted({"l1": 1.0}, output, lesson)
    if fooling:
        fight.critic.requires_grad_(False)
        loss = loss + fooling * adversarial(fight.critic(_seen(output)))
        fight.critic.requires_grad_(True)
    fight.optimizer.zero_grad(set_to_none=True)
    fight.fabric.backward(loss)
    if config.optimizer.clip:
        fight.fabric.clip_gradients(
            fight.net, fight.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
        )
    fight.optimizer.step()
    _average(state, config.ema, step)
    if fooling and config.critic is not None:
        _critic_step(fight, _seen(output.detach()), _seen(batch.large), config.critic.penalty)
    state.step = step
    mean: Any = fight.fabric.all_reduce(loss.detach(), reduce_op="mean")
    return float(mean)


def _critic_step(fight: _Fight, output: torch.Tensor, target: torch.Tensor, penalty: float) -> None:
    true = target.clone().requires_grad_(penalty > 0)
    scores = fight.critic(true)
    loss = critic_loss(scores, fight.critic(output))
    if penalty:
        loss = loss + penalty * r1_penalty(scores, true)
    fight.critic_optimizer.zero_grad(set_to_none=True)
    fight.fabric.backward(loss)
    fight.critic_optimizer.step()


def _seen(pictures: torch.Tensor) -> torch.Tensor:
    """What the critic sees: luma as grey RGB."""
    return pictures.expand(-1, 3, -1, -1)


@torch.no_grad()
def _average(state: State, ema: float, step: int) -> None:
    # The average forgets faster at the start, so that it never drags the random beginning along.
    keep = min(ema, step / (step + 10))
    for weight, now in zip(state.ema.parameters(), state.net.parameters(), strict=True):
        weight.lerp_(now, 1 - keep)
    for counted, current in zip(state.ema.buffers(), state.net.buffers(), strict=True):
        counted.copy_(current)


def _score(state: State, pictures: Any, config: TrainConfig) -> Score:
    return score(TorchEngine(state.ema, NETS[config.net]), whole_pairs(pictures, config))


def rate_at(step: int, steps: int, config: OptimizerConfig) -> float:
    """The learning rate of a step, counted from one: linear warm-up, then the schedule. A pure function."""
    if step <= config.warm_up:
        return config.rate * step / config.warm_up
    if config.schedule == "constant":
        return config.rate
    if config.schedule == "step":
        return config.rate * config.drop ** ((step - 1) // config.drop_every)
    done = min(1.0, (step - config.warm_up) / max(1, steps - config.warm_up))
    return config.last_rate + (config.rate - config.last_rate) * (1 + math.cos(math.pi * done)) / 2


class _Tally:
    """Mean loss and pace since the last look."""

    def __init__(self, step: int, steps: int) -> None:
        self._first, self._steps, self._started = step, steps, time.monotonic()
        self._losses: list[float] = []
        self.milliseconds = 0.0

    def add(self, loss: float) -> None:
        self._losses.append(loss)

    def moment(self, step: int, rate: float, scored: Score | None) -> Moment:
        """The state of things; the mean begins anew."""
        pace = (time.monotonic() - self._started) / (step - self._first)
        loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self.milliseconds = pace * 1e3
        return Moment(step, self._steps, loss, rate, (self._steps - step) * pace, scored)
