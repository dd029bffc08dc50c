"""A training run in one TOML file; a key that is not known stops the run."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from superfine.errors import TrainingError

__all__ = ["TrainConfig", "read_recipe"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Sizes in pixels of the small picture, rates per step."""

    net: str
    scale: int
    folders: tuple[str, ...]
    """Folders of pictures, below the data root that the command names."""
    reduce: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Folder -> sizes at which its pictures are used; 1.0 where none is given."""
    hold_out: dict[str, int] = field(default_factory=dict)
    """Folder -> how many of its pictures, the last by name, are for validation only."""
    steps: int
    batch: int = 16
    patch: int = 48
    learning_rate: float = 1e-3
    last_rate: float = 1e-6
    warm_up: int = 500
    loss: Literal["l1", "mse"] = "l1"
    finish_loss: Literal["l1", "mse"] = "mse"
    finish_steps: int = 0
    """The last so many steps use `finish_loss`."""
    ema: float = 0.999
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: int = 1
    seed: int = 0
    validate_every: int = 2000
    save_every: int = 1000
    start_from: str | None = None
    """A state file of another run whose fitting weights are the start (another scale's, say)."""
    card: dict[str, str] = field(default_factory=dict)
    """What the exported file says of itself: name, summary, colour, licence, training_data."""

    def __post_init__(self) -> None:
        choices = {
            name: get_args(hint) for name, hint in get_type_hints(TrainConfig).items() if get_origin(hint) is Literal
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise TrainingError(f"{name} = {getattr(self, name)!r}; want {' or '.join(map(repr, allowed))}")
        for name in ("scale", "steps", "batch", "patch", "threads", "validate_every", "save_every"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise TrainingError(f"{name} = {value!r}; want a whole number from 1")
        for name in ("reduce", "hold_out"):
            if strange := sorted(set(getattr(self, name)) - set(self.folders)):
                raise TrainingError(f"{name} speaks of {', '.join(strange)}, which is not among the folders")


def read_recipe(path: Path, changes: MappingProxyType[str, Any] = MappingProxyType({})) -> TrainConfig:
    """Read a recipe; `changes` replace its values. Raises TrainingError where a key or a value is wrong."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8")) | dict(changes)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: can't be read as a recipe: {error}") from error
    known = {entry.name for entry in fields(TrainConfig)}
    if wrong := sorted(set(given) - known):
        raise TrainingError(f"{path}: unknown {', '.join(wrong)}; known: {', '.join(sorted(known))}")
    if missing := sorted({"net", "scale", "folders", "steps"} - set(given)):
        raise TrainingError(f"{path}: {', '.join(missing)} missing")
    given["folders"] = tuple(given["folders"])
    given["reduce"] = {name: tuple(sizes) for name, sizes in given.get("reduce", {}).items()}
    try:
        return TrainConfig(**given)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error
