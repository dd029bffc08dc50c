"""Everything a run needs to go on exactly: saved beside, synced, then renamed."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from superfine.atomic import written_whole
from superfine.errors import TrainingError, UsageError
from superfine.train.config import OptimizerConfig, TrainConfig
from superfine.train.nets import NETS
from superfine.train.nets.critics import CRITICS
from superfine.train.nets.layers import Net
from superfine.train.perception import serving, serving_name
from superfine.train.pretrained import build, load_pretrained, read_state
from superfine.train.trunks import TrunkFile, find_trunk, lend_encoder

__all__ = ["Opponent", "State", "begin", "resume", "save"]

# What may change between two calls of one run.
_FREE = {"card", "compile", "device", "save_every", "threads", "validate_every"}


@dataclass
class Opponent:
    """The critic of an adversarial loss and its own optimiser."""

    net: torch.nn.Module
    optimizer: torch.optim.Optimizer


@dataclass
class State:
    """A run after `step` steps. Batches depend on seed and step alone, so no loader state is kept."""

    net: Net
    ema: Net
    optimizer: torch.optim.Optimizer
    opponent: Opponent | None
    step: int
    best: float
    """The highest validation PSNR so far, in dB."""
    features: str
    """What serves as features: a published network's file, or the critic's own."""


def begin(config: TrainConfig) -> State:
    """A run at step 0; `config.start_from` lends the weights that fit.

    Raises TrainingError where the config doesn't fit the net, UsageError where its data are frames and the net sees one
    picture, or the other way round.
    """
    torch.manual_seed(config.seed)
    net = build(config.net, config.scale)
    grid = NETS[config.net].multiple_of
    if wrong := [stage.patch for stage in config.stages if stage.patch % grid]:
        raise TrainingError(f"stages: a patch of {wrong[0]} px is no multiple of {grid}, which {config.net} wants")
    frames = NETS[config.net].frames
    if frames > 1 and config.data.motion is None:
        raise UsageError(
            f"{config.net} sees {frames} frames, and the recipe's pictures stand still; give it [data.motion]"
        )
    if frames == 1 and config.data.motion is not None:
        raise UsageError(
            f"{config.net} sees one picture at a time, and [data.motion] makes frames; leave it out, or choose a net"
            f" that sees several: {', '.join(name for name, card in NETS.items() if card.frames > 1)}"
        )
    if config.start_from is not None:
        load_pretrained(config.start_from).lend_to(net)
    if config.encoder is not None:
        lend_encoder(net, _encoder(config.encoder))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    opponent = None
    if config.critic is not None:
        critic = CRITICS[config.critic.name]()
        opponent = Opponent(critic, torch.optim.Adam(critic.parameters(), lr=config.critic.rate))
    features = serving_name(config, serving(config))
    return State(net, copy.deepcopy(net), _optimizer(net, config.optimizer), opponent, 0, float("-inf"), features)


def _encoder(named: str) -> TrunkFile:
    found = find_trunk("resnet34", None if named == "resnet34" else Path(named))
    if found is None:
        raise TrainingError("encoder: resnet34 isn't in torch hub's cache; name its file, or leave encoder out")
    return found


def _optimizer(net: Net, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Weights in groups of one factor on the rate; those with factor 0 stay as they are."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, weight in net.named_parameters():
        fitting = [prefix for prefix in config.factors if name.startswith(prefix)]
        factor = config.factors[max(fitting, key=len)] if fitting else 1.0
        weight.requires_grad_(factor > 0)
        if factor > 0:
            groups.setdefault(factor, []).append(weight)
    unused = [
        prefix for prefix in config.factors if not any(name.startswith(prefix) for name, _ in net.named_parameters())
    ]
    if unused or not groups:
        raise TrainingError(f"optimizer.factors: no weight begins with {', '.join(unused)}" if unused else "all frozen")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}[config.name]
    optimizer: torch.optim.Optimizer = kind(
        [{"params": weights, "factor": factor} for factor, weights in groups.items()],
        lr=config.rate,
        weight_decay=config.weight_decay,
    )
    return optimizer


def save(path: Path, state: State, config: TrainConfig) -> None:
    """Write the state; at any moment `path` holds a whole state, the old one or the new one."""
    content = {
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "best": state.best,
        "net": state.net.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "critic": state.opponent and state.opponent.net.state_dict(),
        "critic_optimizer": state.opponent and state.opponent.optimizer.state_dict(),
        "features": state.features,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with written_whole(path) as part:
        torch.save(content, part)


def resume(path: Path, config: TrainConfig) -> State:
    """The state of an earlier run of the same config. Raises TrainingError where the config has changed.

    Only what doesn't change the weights may differ, and the last stage may have become longer.
    """
    content = read_state(path)
    then, now = content["config"], config.model_dump(mode="json")
    for stages in (then["stages"], now["stages"]):
        stages[-1] = stages[-1] | {"steps": None}
    moved = sorted(name for name in now if name not in _FREE and then.get(name) != now[name])
    if moved:
        raise TrainingError(
            f"{path} was made with another {', '.join(moved)}; choose another run folder or undo the change"
        )
    state = begin(config.model_copy(update={"start_from": None, "encoder": None}))
    if (served := content.get("features", "")) != state.features:
        raise TrainingError(
            f"{path}: its features came from {served}, which isn't what serves now ({state.features}); have the same"
            " file where it was, or choose another run folder"
        )
    state.net.load_state_dict(content["net"])
    state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    if state.opponent is not None:
        state.opponent.net.load_state_dict(content["critic"])
        state.opponent.optimizer.load_state_dict(content["critic_optimizer"])
    state.step, state.best = content["step"], content["best"]
    torch.set_rng_state(content["random"])
    if torch.cuda.is_available() and content["random_cuda"]:
        torch.cuda.set_rng_state_all(content["random_cuda"])
    return state
