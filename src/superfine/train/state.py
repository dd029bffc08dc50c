"""Everything a run needs to go on exactly: saved beside, synced, then renamed."""

import copy
import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from superfine.atomic import written_whole
from superfine.errors import TrainingError
from superfine.train.config import TrainConfig
from superfine.train.nets import NETS
from superfine.train.nets.layers import Net

__all__ = ["State", "begin", "load_weights", "resume", "save"]


@dataclass
class State:
    """A run after `step` steps. Batches depend on seed and step alone, so no loader state is kept."""

    net: Net
    ema: Net
    optimizer: torch.optim.Optimizer
    step: int


def begin(config: TrainConfig) -> State:
    """A run at step 0; `config.start_from` lends the weights that fit by name and shape."""
    if config.net not in NETS:
        raise TrainingError(f"no net {config.net!r}; there are {', '.join(NETS)}")
    torch.manual_seed(config.seed)
    net = NETS[config.net].build(config.scale)
    if config.start_from is not None:
        own = net.state_dict()
        lent = load_weights(Path(config.start_from))
        learned = {name: value for name, value in lent.items() if name in own and not name.startswith("base.")}
        net.load_state_dict(own | {name: value for name, value in learned.items() if own[name].shape == value.shape})
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(net, copy.deepcopy(net), torch.optim.Adam(net.parameters(), lr=config.learning_rate), 0)


def save(path: Path, state: State, config: TrainConfig) -> None:
    """Write the state; at any moment `path` holds a whole state, the old one or the new one."""
    content = {
        "config": asdict(config),
        "step": state.step,
        "net": state.net.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    with written_whole(path) as part:
        torch.save(content, part)


def resume(path: Path, config: TrainConfig) -> State | None:
    """The state of an earlier run of the same config, or None where there is none yet."""
    if not path.exists():
        return None
    content = _read(path)
    now = asdict(config)
    # Only the run's length may change between two calls.
    moved = sorted(
        name for name in now if name not in ("steps", "threads", "card") and content["config"].get(name) != now[name]
    )
    if moved:
        raise TrainingError(
            f"{path} was made with another {', '.join(moved)}; choose another run folder or undo the change"
        )
    state = begin(config)
    state.net.load_state_dict(content["net"])
    state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step = content["step"]
    torch.set_rng_state(content["random"])
    return state


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a state file."""
    weights: dict[str, torch.Tensor] = _read(path)["ema"]
    return weights


def _read(path: Path) -> dict[str, Any]:
    """What `save` wrote. A file of another kind is refused before anything in it is unpickled."""
    wrong = TrainingError(f"{path}: is not the state of a run, or is cut off; give another, or remove it to begin anew")
    try:
        if not zipfile.is_zipfile(path):
            raise wrong
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise wrong from error
    if not (isinstance(content, dict) and {"config", "step", "net", "ema", "optimizer", "random"} <= set(content)):
        raise wrong
    return dict(content)
