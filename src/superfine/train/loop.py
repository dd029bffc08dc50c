"""The training loop, from top to bottom."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from superfine.color import full_luma, limited_luma
from superfine.errors import TrainingError
from superfine.evaluate.metrics import crop_border, psnr
from superfine.train.config import TrainConfig
from superfine.train.data import Pair, batch_at, load_pairs
from superfine.train.losses import LOSSES
from superfine.train.nets.layers import Net
from superfine.train.state import State, begin, resume, save

__all__ = ["rate_at", "train", "validate"]


def train(config: TrainConfig, root: Path, run: Path, *, say: Callable[[str], None] = lambda line: None) -> State:
    """Train to the end, going on from `run/last.pt` where it is there.

    root: the folder that holds `config.folders`. Writes `last.pt` and a line
    of JSON for each validation to `log.jsonl`. Raises TrainingError at a loss
    that is not finite.
    """
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    run.mkdir(parents=True, exist_ok=True)
    pairs = load_pairs(root, config)
    held_out = load_pairs(root, config, held_out=True) if config.hold_out else []
    say(f"{len(pairs)} pictures, {sum(pair.hr.size for pair in pairs) / 3e6:.0f} Mpx; {len(held_out)} held out")
    state = resume(run / "last.pt", config) or begin(config)
    started, first = time.monotonic(), state.step
    total, seen = 0.0, 0
    for step in range(state.step + 1, config.steps + 1):
        loss = train_step(state, pairs, config, step)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step}; lower learning_rate, or look at the pictures of that step"
            )
        total, seen = total + loss, seen + 1
        if step % config.validate_every == 0 or step == config.steps:
            per_step = (time.monotonic() - started) / (step - first)
            row = {"step": step, "loss": total / seen, "rate": rate_at(step, config), "ms": round(per_step * 1e3, 2)}
            if held_out:
                row["psnr"] = validate(state.ema, held_out, config.scale)
            with (run / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            say(f"{json.dumps(row)}  {(config.steps - step) * per_step / 60:.0f} min left")
            total, seen = 0.0, 0
        if step % config.save_every == 0 or step == config.steps:
            save(run / "last.pt", state, config)
    return state


def train_step(state: State, pairs: list[Pair], config: TrainConfig, step: int) -> float:
    """One step: batch, loss, gradient, Adam, moving average. Returns the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(step, config)
    small, large = batch_at(pairs, config, step)
    name = config.finish_loss if step > config.steps - config.finish_steps else config.loss
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        output = state.net(small)
    loss = LOSSES[name](output.float(), large)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    # The average forgets faster at the start, so that it never drags the random beginning along.
    keep = min(config.ema, step / (step + 10))
    with torch.no_grad():
        for mean, value in zip(state.ema.parameters(), state.net.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)
    state.step = step
    return float(loss.detach())


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step: linear warm-up, then half a cosine down to `last_rate`."""
    if step <= config.warm_up:
        return config.learning_rate * step / config.warm_up
    done = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.last_rate + (config.learning_rate - config.last_rate) * (1 + math.cos(math.pi * min(1.0, done))) / 2


@torch.no_grad()
def validate(net: Net, pairs: list[Pair], scale: int) -> float:
    """Mean PSNR in dB (Y, BT.601 limited, border of `scale` px cropped) in fp32."""
    values = []
    for pair in pairs:
        small = full_luma(pair.lr.astype(np.float32)) / np.float32(255)
        enlarged = net(torch.from_numpy(small)[None, None])[0, 0].numpy()
        # Full-range luma -> limited range: only the slope counts for a difference.
        output = enlarged.astype(np.float64) * 219 / 255 + 16 / 255
        target = limited_luma(pair.hr.astype(np.float64) / 255)
        values.append(psnr(crop_border(output, scale), crop_border(target, scale)))
    return float(np.mean(values))
