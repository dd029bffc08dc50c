"""The training loop, from top to bottom. Fabric hides devices and processes, not the loop."""

import hashlib
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric

from superfine.classical.kernels import KernelReduction
from superfine.errors import TrainingError
from superfine.train.conclude import conclude
from superfine.train.config import REDUCED, OptimizerConfig, TrainConfig
from superfine.train.data import Batch, Batches, Data, Pictures, SmallBatch, open_data, whole_pairs
from superfine.train.guesses import ExpectedError, absolute_error, error_pairs, open_judged, with_grain
from superfine.train.listener import Listener, Moment, Score
from superfine.train.log import Log
from superfine.train.losses import input_means, laplace, reach, reduced, weighted
from superfine.train.nets import NETS
from superfine.train.nodes import (
    StoppedError,
    agree,
    begin_launch,
    end_launch,
    goes_on,
    joined,
    refuse,
    restarted,
    same_folder,
    together,
)
from superfine.train.perception import PERCEIVED, Perception, Watchdog, serving
from superfine.train.pretrained import STATE, load_pretrained
from superfine.train.score import TorchEngine, score
from superfine.train.state import State, begin, resume, save
from superfine.train.trunks import VGGFeatures

__all__ = ["BEST", "HEALTHY", "rate_at", "train"]

#: The state with the highest validation PSNR, in a run's folder.
BEST = "best.pt"
#: The state of the newest validation that the watchdog passed, where a critic fights.
HEALTHY = "healthy.pt"
_LOG_EVERY = 100
_SSIM_WINDOW = 11


def train(
    config: TrainConfig, root: Path, run: Path, *, go_on: bool = False, listener: Listener | None = None
) -> State:
    """Train to the end; with `go_on` from `run/last.pt`, where it is there.

    root: the folder that holds `config.data.folders`. Writes into `run`: `last.pt`
    and `best.pt`, `split.json`, and the log (`log.jsonl`, `loss.png`, `psnr.png`,
    TensorBoard). Raises TrainingError at a loss that is not finite, naming the step, where
    a critic's fight is lost, and where `run` holds a run already and `go_on` is not said;
    StoppedError where the listener stops it, with the state of that step saved.

    Under torchrun or Ray Train the processes share each batch; the first one alone writes into
    `run` and calls the listener, which in the others is asked only whether to stop. All have to see the same
    `root` and `run`, and to have the same config: TrainingError where they don't. What torchrun starts anew
    after a failure goes on without `go_on`.
    """
    listener = listener or Listener()
    with _torch_set_up(config), joined(config) as fabric:
        state = _begin_together(fabric, config, run, go_on=go_on)
        data = _open_in_turn(fabric, config, root, run, listener)
        lead = fabric.is_global_zero
        if lead:
            listener.say(_how_judged(data.validation, config))
            if config.features is not None:
                listener.say(f"features: {state.features}")
            if state.step == 0:
                begin_launch(run)
        parts = _set_up(fabric, state, config)
        pictures = data.train.to(fabric.device)
        part = slice(fabric.global_rank, None, fabric.world_size)
        watchdog = Watchdog(config.critic.largest_fall) if config.critic is not None else None
        record = _Record(run, state, config, data.validation, listener, watchdog) if lead else None
        with Batches(pictures, config, state.step + 1, part=part) as batches:
            if record is not None:
                record.begin()
            for step, batch in enumerate(batches, state.step + 1):
                own, of_critic = _train_step(parts, state, batch, config, step)
                loss, stops = _heard(fabric, own, step, stops=listener.stops())
                if watchdog is not None and of_critic is not None:
                    _heed(fabric, watchdog, step, of_critic)
                note = partial(_note, record, step, loss, of_critic)
                if _validates(step, config):
                    together(fabric, note)
                else:
                    note()
                if stops and step < config.steps:
                    if record is not None:
                        record.keep()
                    raise StoppedError(f"stopped after step {step}, which is saved; --resume goes on from there")
        if record is not None:
            _end(record, data, config, run, listener)
    return state


def _begin_together(fabric: Fabric, config: TrainConfig, run: Path, *, go_on: bool) -> State:
    """The state that all processes begin or go on with."""
    lead, again = fabric.is_global_zero, restarted(fabric)
    known = fabric.broadcast(together(fabric, lambda: lead and goes_on(run, asked=go_on, again=again)))
    same_folder(fabric, run)
    state = together(fabric, lambda: resume(run / STATE, config) if known else begin(config))
    agree(fabric, _facts(config, run / STATE if known else None))
    return state


def _end(record: "_Record", data: Data, config: TrainConfig, run: Path, listener: Listener) -> None:
    record.log.draw()
    if config.guess is None:
        sides = {
            name: list(whole_pairs(side, config)) if side.scale == config.scale else []
            for name, side in data._asdict().items()
            if name != "train"
        }
        conclude(record.engine(), _start(config), sides, run, listener.say)
    end_launch(run)


def _facts(config: TrainConfig, gone_on_from: Path | None) -> dict[str, object]:
    """What has to be the same in all processes, by the name that an error gives it."""
    facts: dict[str, object] = dict(config.model_dump(mode="json"))
    facts |= {f"version of {name}": version(name) for name in ("superfine", "torch")}
    if gone_on_from is not None:
        with gone_on_from.open("rb") as file:
            facts[gone_on_from.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


def _open_in_turn(fabric: Fabric, config: TrainConfig, root: Path, run: Path, listener: Listener) -> Data:
    """The pictures; what the first process decodes the others read from its file."""

    def open_first() -> Data | None:
        if not fabric.is_global_zero:
            return None
        data = open_data(config, root, run, listener.say)
        _check_patches(config, data.train)
        return data

    first = together(fabric, open_first)
    return together(fabric, lambda: first or open_data(config, root, run))


def _heard(fabric: Fabric, loss: torch.Tensor, step: int, *, stops: bool) -> tuple[float, bool]:
    """The mean loss over all processes, and whether one of them is to stop: by one exchange.

    Raises TrainingError where that loss is not finite.
    """
    told: Any = fabric.all_reduce(torch.stack((loss, loss.new_tensor(float(stops)))), reduce_op="mean")
    mean, share = told.tolist()
    if not math.isfinite(mean):
        refuse(
            fabric,
            f"the loss is {mean} at step {step}; lower optimizer.rate, or look at the pictures of that step",
        )
    return mean, share > 0


def _heed(fabric: Fabric, watchdog: Watchdog, step: int, of_critic: float) -> None:
    """Each process knows the critic's loss, so that all end where one does."""
    try:
        watchdog.heed_critic(step, of_critic)
    except TrainingError as error:
        refuse(fabric, str(error))


def _note(record: "_Record | None", step: int, loss: float, of_critic: float | None) -> None:
    if record is not None:  # in the first process
        record.step(step, loss, of_critic)


def _how_judged(validation: Pictures, config: TrainConfig) -> str:
    if not len(validation):
        return "no picture is held out, so nothing is measured: data.validation=0.05 sets some aside"
    if validation.scale != config.scale:
        return f"{len(validation)} pictures without large ones judge the run: what is measured is the result made small"
    if config.guess is not None:
        return f"{len(validation)} pictures judge the run: dB say how near expected errors come to true ones"
    return f"{len(validation)} pictures judge the run"


def _check_patches(config: TrainConfig, pictures: Pictures) -> None:
    """Whether something of each patch is left where no kernel looks over its border. Raises TrainingError."""
    if pictures.kernels is None or not config.learns_by_reduction:
        return
    side = pictures.kernels.shape[1]
    least = 2 * reach(side, config.scale) + _SSIM_WINDOW
    if small := [stage.patch for stage in config.stages if stage.patch < least]:
        raise TrainingError(f"stages: a patch of {small[0]} px is too small for a kernel of {side} px; want {least}")


@contextmanager
def _torch_set_up(config: TrainConfig) -> Iterator[None]:
    """Threads, exactness and warnings as the run needs them; afterwards as they were."""
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        with warnings.catch_warnings():
            # Of layouts, where processes share gradients of kernels of one channel: nothing is wrong, or to be done.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact)


@dataclass
class _Parts:
    """The run's parts as Fabric wraps them, for this device and these processes."""

    fabric: Fabric
    net: Any
    optimizer: Any
    teacher: Any
    judged: Any
    perception: Perception


def _set_up(fabric: Fabric, state: State, config: TrainConfig) -> _Parts:
    net: Any = torch.compile(state.net) if config.compile else state.net
    wrapped, optimizer = fabric.setup(net, state.optimizer)
    state.ema.to(fabric.device)
    for kept in state.optimizer.state.values():  # a resumed optimiser was read onto the CPU
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and name != "step":
                kept[name] = value.to(fabric.device)
    teacher = together(fabric, lambda: _teacher(config))
    judged = None if config.guess is None else together(fabric, lambda: open_judged(config).net)
    critic = critic_optimizer = None
    if state.opponent is not None:
        critic, critic_optimizer = fabric.setup(state.opponent.net, state.opponent.optimizer)
        critic.mark_forward_method("judge")
    trunk = None
    if config.features is not None and (found := serving(config)) is not None:
        trunk = _Fixed(VGGFeatures(found, tuple(config.features.layers)), fabric)
    perception = Perception(config, trunk, critic, critic_optimizer)
    lesson, seen = (None if net is None else _Fixed(net, fabric) for net in (teacher, judged))
    return _Parts(fabric, wrapped, optimizer, lesson, seen, perception)


def _teacher(config: TrainConfig) -> torch.nn.Module | None:
    if config.teacher is None:
        return None
    lesson = load_pretrained(config.teacher.model).build()
    if lesson.scale != config.scale or NETS[config.net].colour != lesson.colour:
        raise TrainingError(f"{config.teacher.model} can't teach {config.net} x{config.scale}: other scale or colour")
    return lesson


class _Fixed(torch.nn.Module):
    """A net that doesn't learn, in the run's precision and on its device; each process has it for itself."""

    def __init__(self, net: torch.nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self._net = net.requires_grad_(False).eval().to(fabric.device)
        self._precision = fabric.strategy.precision

    def forward(self, pixels: torch.Tensor) -> Any:
        with self._precision.forward_context():
            return self._precision.convert_output(self._net(pixels))


def _train_step(
    parts: _Parts, state: State, batch: Batch | SmallBatch, config: TrainConfig, step: int
) -> tuple[torch.Tensor, float | None]:
    """One step: loss, gradient, optimiser, moving average; the critic after it.

    Returns this process's loss, and the critic's over all processes where it took a step.
    """
    rate = rate_at(step, config.steps, config.optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    weights = dict(config.stage_at(step).loss)
    again = {name.removeprefix(REDUCED): weights.pop(name) for name in list(weights) if name.startswith(REDUCED)}
    perceived = {name: weights.pop(name) for name in PERCEIVED if weights.get(name)}
    keep, likely = weights.pop("input_means", 0.0), weights.pop("laplace", 0.0)
    if isinstance(batch, Batch):
        part = slice(parts.fabric.global_rank, None, parts.fabric.world_size)
        batch = with_grain(batch, config, step, part)
    output = parts.net(batch.small.contiguous(memory_format=torch.channels_last))
    loss = weighted(weights, output, batch.large)
    if parts.teacher is not None and config.teacher is not None:
        with torch.no_grad():
            lesson = parts.teacher(batch.small)
        loss = loss + config.teacher.weight * weighted({"l1": 1.0}, output, lesson)
    if again:
        loss = loss + weighted(again, *_made_small_again(output, batch, config.scale))
    if keep:
        loss = loss + keep * input_means(output, batch.small)
    if likely:
        loss = loss + likely * laplace(output, absolute_error(parts.judged, batch.small, batch.large))
    if perceived:
        loss = loss + parts.perception.loss(perceived, output, batch.large)
    parts.optimizer.zero_grad(set_to_none=True)
    parts.fabric.backward(loss)
    if config.optimizer.clip:
        parts.fabric.clip_gradients(
            parts.net, parts.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
        )
    parts.optimizer.step()
    _average(state, config.ema, step)
    of_critic = None
    if perceived.get("adversarial"):
        of_critic = parts.perception.teach(output, batch.large, parts.fabric)
    state.step = step
    return loss.detach(), of_critic


def _made_small_again(output: torch.Tensor, batch: Batch | SmallBatch, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, made small by each sample's kernel, and the input, where no kernel looks over the patch's border."""
    if not isinstance(batch, SmallBatch):
        raise TrainingError("no kernel is known of these pictures; give the recipe [self_supervision]")
    margin = reach(batch.kernels.shape[1], scale)
    inner = (..., *2 * (slice(margin, batch.small.shape[-1] - margin),))
    return reduced(output, batch.kernels, scale)[inner], batch.small[inner]


@torch.no_grad()
def _average(state: State, ema: float, step: int) -> None:
    # The average forgets faster at the start, so that it never drags the random beginning along.
    keep = min(ema, step / (step + 10))
    for weight, now in zip(state.ema.parameters(), state.net.parameters(), strict=True):
        weight.lerp_(now, 1 - keep)
    for counted, current in zip(state.ema.buffers(), state.net.buffers(), strict=True):
        counted.copy_(current)


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


def _start(config: TrainConfig) -> TorchEngine | None:
    """What an adversarial run started from, so that the price of sharpness is seen; None for others."""
    if config.critic is None or config.start_from is None:
        return None
    start = load_pretrained(config.start_from)
    return TorchEngine(start.build(), NETS[start.net]) if start.scale == config.scale else None


def _validates(step: int, config: TrainConfig) -> bool:
    return step % config.validate_every == 0 or step == config.steps


class _Record:
    """What the first process leaves of a run: log, states, and what it tells."""

    def __init__(
        self,
        run: Path,
        state: State,
        config: TrainConfig,
        validation: Pictures,
        listener: Listener,
        watchdog: Watchdog | None,
    ) -> None:
        self._run, self._state, self._config, self._validation = run, state, config, validation
        self._listener, self._watchdog = listener, watchdog
        self.log = Log(run, after=state.step)
        self._tally = _Tally(state.step, config.steps)

    def begin(self) -> None:
        """At step 0, note where the run starts."""
        if self._state.step == 0 and self._validation:
            scored = self._score()
            self.log.write(0, score=scored)
            self._judge(0, scored)

    def step(self, step: int, loss: float, of_critic: float | None) -> None:
        """Note a step, and save what is due. Raises TrainingError where the watchdog does."""
        self._tally.add(loss)
        validates = _validates(step, self._config)
        if validates or step % _LOG_EVERY == 0:
            scored = self._score() if validates and self._validation else None
            moment = self._tally.moment(step, rate_at(step, self._config.steps, self._config.optimizer), scored)
            known = {"loss": moment.loss, "rate": moment.rate, "milliseconds": self._tally.milliseconds}
            self.log.write(step, **known, score=scored, critic=of_critic)
            self._listener.step(moment)
            if scored is not None:
                self._judge(step, scored)
        if step % self._config.save_every == 0 or step == self._config.steps:
            self.keep()

    def keep(self) -> None:
        """Save the state as the newest one."""
        save(self._run / STATE, self._state, self._config)

    def engine(self) -> TorchEngine:
        """The averaged net, as it is validated and exported."""
        return TorchEngine(self._state.ema, NETS[self._config.net])

    def _judge(self, step: int, scored: Score) -> None:
        if self._watchdog is not None:
            self._watchdog.heed_psnr(step, scored.psnr, self._state.best)
            save(self._run / HEALTHY, self._state, self._config)
        if scored.psnr > self._state.best:
            self._state.best = scored.psnr
            save(self._run / BEST, self._state, self._config)

    def _score(self) -> Score:
        engine, pairs = self.engine(), whole_pairs(self._validation, self._config)
        if self._config.guess is not None:
            return score(ExpectedError(engine), error_pairs(pairs, self._config))
        if self._validation.scale == self._config.scale or self._validation.kernels is None:
            return score(engine, pairs)
        each = [
            score(_Again(engine, kernel), [pair]) for kernel, pair in zip(self._validation.kernels, pairs, strict=True)
        ]
        of_y, similar, of_rgb = np.mean([one[:3] for one in each], axis=0)
        return Score(float(of_y), float(similar), float(of_rgb), len(each))


class _Again:
    """An engine whose result is made small again by a kernel: what can be judged where there is no large picture."""

    def __init__(self, engine: TorchEngine, kernel: npt.NDArray[np.floating]) -> None:
        self._engine, self._kernel = engine, kernel
        self.scale, self.multiple_of, self.frames = 1, engine.multiple_of, 1
        self.halo = engine.halo + reach(len(kernel), engine.scale)

    def __call__(self, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        large = np.moveaxis(self._engine(pixels), 2, 0).astype(np.float64)
        small = KernelReduction(self._kernel, self._engine.scale, pixels.shape[1:3])(large)
        return np.moveaxis(small, 0, 2).astype(np.float32)


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
