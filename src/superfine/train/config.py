"""A training run in one TOML file; a key that is not known stops the run.

net = "residual-32x8"
scale = 2

[data]
folders = ["photos"]
validation = 0.05

[[stages]]
steps = 36000
loss = {l1 = 1.0}
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from superfine.classical.degrade import Degradation
from superfine.classical.kernels import Kernels
from superfine.errors import TrainingError, UsageError
from superfine.train.motion import Motion, Recording

__all__ = [
    "REDUCED",
    "CriticConfig",
    "DataConfig",
    "FeaturesConfig",
    "GuessConfig",
    "OptimizerConfig",
    "SelfSupervisionConfig",
    "Stage",
    "TeacherConfig",
    "TrainConfig",
    "changed",
    "read_recipe",
    "to_config",
]

#: Begins the name of a loss between the output, made small again, and the input.
REDUCED: Final = "reduced_"
# Tables of the data that say how small pictures are made, and check themselves.
_MAKING: Final = ("degrade", "kernels", "motion", "recording")

Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class DataConfig(_Table):
    """Where the pictures come from, and what is made of them. Sizes in pixels."""

    folders: tuple[str, ...] = (".",)
    """Below the data root that the command names. Known layouts are recognised by name."""
    sizes: dict[str, tuple[Annotated[float, Field(gt=0, le=1)], ...]] = {}
    """Folder -> the sizes at which its pictures are used, 1.0 where none is given."""
    often: dict[str, PositiveInt] = {}
    """Folder -> how many times as often its pixels are drawn; all pixels alike where none is given."""
    hold_out: dict[str, PositiveInt] = {}
    """Folder -> how many of its pictures, the last by name, are for validation only."""
    validation: Share = 0.0
    """Share of the pictures that are drawn for validation, whole pictures, by the run's seed."""
    test: Share = 0.0
    """Share of the pictures that are drawn for the test, likewise."""
    drawn: Annotated[int, Field(ge=0)] = 0
    """How many pages of text and line art are rendered, by the run's seed, and join the training pictures."""
    clips: tuple[str, ...] = ()
    """Videos below the data root, whose windows join the training pictures of nets that see a window of frames."""
    clip_every: PositiveInt = 5
    """Of a clip, each so many-th frame is the middle of a window."""
    degrade: Degradation | None = None
    """How the small picture is made; where it is missing, by MATLAB's bicubic alone."""
    kernels: Kernels | None = None
    """At scale 1: the picture made small by a kernel, and enlarged again as far as what is known of it allows."""
    motion: Motion | None = None
    """For nets that see a window of frames: how the picture moves in it."""
    recording: Recording | None = None
    """With motion: what a camera and H.264 do to the small frames."""

    @model_validator(mode="after")
    def _folders_are_named(self) -> "DataConfig":
        for key, table in (("sizes", self.sizes), ("often", self.often), ("hold_out", self.hold_out)):
            if strange := sorted(set(table) - set(self.folders)):
                raise ValueError(f"{key} speaks of {', '.join(strange)}, which is not among the folders")
        if self.kernels is not None and self.degrade is not None:
            raise ValueError("degrade and kernels each make the small picture; keep one")
        if self.recording is not None and self.motion is None:
            raise ValueError("recording is for frames; give [data.motion] too")
        if self.clips and self.motion is None:
            raise ValueError("clips are for nets that see a window; give [data.motion] too, for the pictures")
        if self.motion is not None and (self.degrade is not None or self.kernels is not None):
            raise ValueError("motion makes the small frames; leave degrade and kernels out, and use recording")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


class SelfSupervisionConfig(_Table):
    """Small pictures alone, without large ones: what they were made by is all that is known of those.

    Where the losses are `reduced_...`, what the network makes of a picture, made small again, has to be that picture.
    Elsewhere the picture stands for a large one, and the network learns to make it of itself made small (zero-shot,
    arXiv:1712.06087). Large partners, where there are any, serve to judge by alone.
    """

    kernel: str = "bicubic"
    """What makes a large picture small: MATLAB's bicubic, `auto` for an estimate of each picture's own, or a file of
    weights as `superfine adapt --kernel-out` writes them (.npy, .txt)."""


class Stage(_Table):
    """A part of the run: so many steps on patches of one size with one loss.

    Growing `patch` from stage to stage is progressive resizing.
    """

    steps: PositiveInt
    patch: PositiveInt = 48
    """Side of a patch of the small picture, in pixels."""
    batch: PositiveInt = 16
    """Patches in a step, over all processes together."""
    loss: Annotated[dict[str, Weight], Field(min_length=1)]
    """Loss -> weight; the run minimises the sum. `reduced_` before a name holds the output, made small, against the
    input."""


class OptimizerConfig(_Table):
    """How weights move. Rates are per step and pure functions of the step."""

    name: Literal["adam", "adamw", "adamax"] = "adam"
    rate: PositiveFloat = 1e-3
    last_rate: Weight = 1e-6
    """What a cosine ends at."""
    warm_up: Annotated[int, Field(ge=0)] = 500
    """Steps over which the rate rises from zero."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    drop_every: PositiveInt = 10000
    """Steps after which a `step` schedule multiplies the rate by `drop`."""
    drop: Annotated[float, Field(gt=0, lt=1)] = 0.5
    weight_decay: Weight = 0.0
    factors: dict[str, Weight] = {}
    """Beginning of a weight's name -> factor on its rate (discriminative rates); 0 freezes it. The longest fits."""
    clip: Weight = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""


class TeacherConfig(_Table):
    """Distillation: the L1 distance to a teacher's output joins the loss."""

    model: str
    """A shipped network, a file made by `superfine export`, or a run's folder; of the same scale."""
    weight: PositiveFloat = 1.0


class CriticConfig(_Table):
    """The opponent of an adversarial loss."""

    name: Literal["vgg", "patch"] = "vgg"
    rate: PositiveFloat = 1e-4
    penalty: Weight = 0.0
    """Weight of the R1 gradient penalty on true pictures."""
    contest: Literal["standard", "relativistic"] = "standard"
    """Whether it says real or made, as SRGAN's, or which of the two is more real, as ESRGAN's."""
    largest_fall: PositiveFloat = 4.0
    """dB of validation PSNR below the start at which the run stops: the network has left the pictures."""


class FeaturesConfig(_Table):
    """The network whose activations the losses `features` and `style` compare."""

    of: Literal["vgg16", "vgg19", "critic"] = "critic"
    """A published network that is on this machine; where it isn't, the critic serves, and the card says so."""
    layers: dict[str, PositiveFloat] = {}
    """Layer -> weight, as conv5_4 or, after its ReLU, relu5_4; of the critic always every hidden layer alike."""
    weights: str | None = None
    """The published file; torch hub's cache where none is given."""
    distance: Literal["l1", "mse"] = "l1"
    """Of the activations of a published network."""


class GuessConfig(_Table):
    """The network isn't to enlarge, but to tell how far others are off in doing so; its loss is `laplace`."""

    errors_of: str
    """Whose absolute errors of luma it learns: a shipped network, an exported file or a run's folder, of luma."""
    networks: Annotated[tuple[str, ...], Field(min_length=1)]
    """For which its intervals are calibrated, each on pictures that were held out: shipped ones, or exported files."""
    grain: Annotated[float, Field(ge=0, le=64)] = 0.0
    """Half of the patches get noise before they are made small, of a sigma up to this many 8-bit levels: pictures from
    elsewhere have grain that those of the folders may lack, and nobody can tell its finest part."""


class TrainConfig(_Table):
    """One run."""

    net: str
    scale: PositiveInt
    data: DataConfig = DataConfig()
    self_supervision: SelfSupervisionConfig | None = None
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    optimizer: OptimizerConfig = OptimizerConfig()
    teacher: TeacherConfig | None = None
    critic: CriticConfig | None = None
    features: FeaturesConfig | None = None
    guess: GuessConfig | None = None
    start_from: str | None = None
    """Whose weights are the start where they fit: a shipped network, an exported file, or a run's folder."""
    encoder: str | None = None
    """Whose published ImageNet weights the encoder starts from: resnet34, found in torch hub's cache, or its file."""
    ema: Share = 0.999
    """Share of the old in the moving average of the weights, which is what gets validated and exported."""
    precision: Literal["bf16", "fp32"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """Let torch.compile fuse the network: quicker on a GPU after a slow start."""
    threads: PositiveInt = 1
    seed: Annotated[int, Field(ge=0)] = 0
    validate_every: PositiveInt = 2000
    save_every: PositiveInt = 1000
    card: dict[str, str] = {}
    """What the exported file says of itself: name, summary, colour, licence, training_data."""

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that `step`, counted from one, belongs to; the last one goes on for ever."""
        end = 0
        for stage in self.stages:
            end += stage.steps
            if step <= end:
                return stage
        return self.stages[-1]

    @property
    def restores(self) -> bool:
        """Whether small pictures are made worse than reduction makes them."""
        return self.data.degrade is not None or self.data.recording is not None

    @property
    def learns_by_reduction(self) -> bool:
        """Whether the pictures are small ones without a target, and not made smaller still."""
        return any(name.startswith(REDUCED) and weight for stage in self.stages for name, weight in stage.loss.items())

    @model_validator(mode="after")
    def _small_pictures_alone(self) -> "TrainConfig":
        if self.self_supervision is None:
            if self.learns_by_reduction:
                raise ValueError(f"a {REDUCED}... loss needs [self_supervision], which names the kernel")
            return self
        if self.scale == 1:
            raise ValueError("self_supervision needs a scale from 2: nothing is made small at scale 1")
        if self.data.degrade is not None or self.data.kernels is not None or self.data.sizes or self.data.drawn:
            raise ValueError("self_supervision takes pictures as they are; leave degrade, kernels, sizes and drawn out")
        if self.learns_by_reduction:
            names = {name for stage in self.stages for name, weight in stage.loss.items() if weight}
            allowed = {"total_variation", "input_means"}
            if wrong := sorted(name for name in names - allowed if not name.startswith(REDUCED)):
                raise ValueError(f"{', '.join(wrong)} would need a large picture, and {REDUCED}... losses have none")
        return self

    @model_validator(mode="after")
    def _kernels_keep_the_size(self) -> "TrainConfig":
        if self.data.kernels is not None and self.scale != 1:
            raise ValueError("data.kernels gives pictures that are enlarged already; it needs scale = 1")
        return self

    @model_validator(mode="after")
    def _guesses(self) -> "TrainConfig":
        names = {name for stage in self.stages for name, weight in stage.loss.items() if weight}
        if self.guess is None and "laplace" in names:
            raise ValueError("a laplace loss needs [guess], which says whose errors are learned")
        if self.guess is not None:
            if names != {"laplace"}:
                raise ValueError(
                    f"[guess] learns by the loss laplace alone, not by {', '.join(sorted(names)) or 'none'}"
                )
            if self.teacher is not None or self.self_supervision is not None or self.restores:
                raise ValueError(
                    "[guess] takes clean pictures; leave teacher, self_supervision, degrade and recording out"
                )
            if self.data.motion is not None or self.data.kernels is not None or self.scale == 1:
                raise ValueError("[guess] is for networks that enlarge single pictures; leave motion and kernels out")
        return self

    @model_validator(mode="after")
    def _adversary(self) -> "TrainConfig":
        fights = any(stage.loss.get("adversarial") for stage in self.stages)
        if fights != (self.critic is not None):
            raise ValueError("an adversarial loss needs a [critic], and a [critic] an adversarial loss")
        perceives = any(stage.loss.get(name) for stage in self.stages for name in ("features", "style"))
        if perceives != (self.features is not None):
            raise ValueError("a features or style loss needs [features], and [features] such a loss")
        if self.features is not None and self.features.of == "critic":
            if self.critic is None:
                raise ValueError("features.of = critic needs a [critic]")
            if self.features.layers or self.features.weights:
                raise ValueError("features.layers and features.weights are of a published network, not of the critic")
        if self.features is not None and self.features.of != "critic" and not self.features.layers:
            raise ValueError(f"features.layers is empty; name layers of {self.features.of}, as {{conv5_4 = 1.0}}")
        return self


def read_recipe(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe.

    changes: each "key=value", the value as TOML writes it, inner keys with dots
    ("optimizer.rate=1e-3", "stages.0.steps=500"). Raises TrainingError where the file,
    a key or a value is wrong.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: can't be read as a recipe: {error}") from error
    return to_config(changed(given, changes), str(path))


def changed(given: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`given` with `changes` made, in place."""
    for change in changes:
        _set(given, change)
        if change.startswith("data.folders"):  # the card would name pictures that were not there
            given.get("card", {}).pop("training_data", None)
    return given


def to_config(given: dict[str, Any], source: str) -> TrainConfig:
    """A checked config; `source` is named in errors. Raises TrainingError."""
    try:
        return TrainConfig.model_validate(given)
    except ValidationError as error:
        # A wrong stage also counts as one too few: that is said once.
        faults = [fault for fault in error.errors() if fault["type"] != "too_short"] or error.errors()
        raise TrainingError("\n".join(f"{source}: {_sentence(fault)}" for fault in faults)) from error
    except UsageError as error:  # of a table's own check
        tables = [f"data.{name}" for name in _MAKING if name in given["data"]]
        raise TrainingError(f"{source}: {' or '.join(tables)}: {error}") from error


def _sentence(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"unknown {key}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{key} = {fault['input']!r}: {reason}" if key else reason


def _set(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *way, last = key.strip().split(".")
    if not (equals and last):
        raise TrainingError(f"--set {change}: want key=value, as in optimizer.rate=1e-3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    place: Any = table
    try:
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise TrainingError(f"--set {change}: the recipe has no such place") from error
