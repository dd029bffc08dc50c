"""What judges an output besides its pixels: a critic that learns to tell it from true pictures, and features.

Features are the activations of a published network where its weights are on this machine, else the critic's own:
never of random weights under a published name.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from superfine.errors import TrainingError
from superfine.train.config import FeaturesConfig, TrainConfig
from superfine.train.losses import (
    LOSSES,
    adversarial,
    critic_loss,
    gram,
    r1_penalty,
    relative,
    relativistic,
    relativistic_critic_loss,
)
from superfine.train.trunks import TrunkFile, find_trunk

__all__ = ["PERCEIVED", "Perception", "Watchdog", "serving", "serving_name"]

#: The losses of a recipe that need more than output and target.
PERCEIVED: Final = ("adversarial", "features", "style")
# The critic's loss is 2 log 2 = 1.39 while it is undecided; below this it tells every output from every picture.
_WON: Final = 0.02
_WON_STEPS: Final = 1000
_LATTICE: Final = 4


def serving(config: TrainConfig) -> TrunkFile | None:
    """The file of the published network whose features the run compares; None where the critic's own serve, or none.

    Raises TrainingError where the recipe names a published network that isn't here, and no critic stands in.
    """
    wanted = config.features
    if wanted is None or wanted.of == "critic":
        return None
    found = find_trunk(wanted.of, None if wanted.weights is None else Path(wanted.weights))
    if found is None and config.critic is None:
        raise TrainingError(
            f"{wanted.of} isn't in torch hub's cache; name its file as features.weights, or give the recipe a [critic]"
        )
    return found


def serving_name(config: TrainConfig, found: TrunkFile | None) -> str:
    """What served as features, for the state and the card; empty where the recipe compares none."""
    if config.features is None:
        return ""
    if found is None or config.features.of == "critic":
        return "the critic's own"
    return f"{config.features.of}, {found.path.name}, sha256 {found.sha256}"


class Perception:
    """The losses that see more than pixels, and the critic's own step.

    critic, optimizer: as Fabric wraps them; None where nothing fights. trunk: the features of a published network.
    """

    def __init__(self, config: TrainConfig, trunk: Any, critic: Any, optimizer: Any) -> None:
        self._config, self._trunk, self._critic, self._optimizer = config, trunk, critic, optimizer

    def loss(self, weights: Mapping[str, float], output: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of those losses of `PERCEIVED` that `weights` names; (N, 1 or 3, H, W) in 0..1."""
        output, target = _seen(output), _seen(target)
        total = torch.zeros((), device=output.device)
        of_output: Sequence[Tensor] = ()
        of_target: Sequence[Tensor] = ()
        if self._critic is not None:
            self._critic.requires_grad_(False)
            of_critic = _as_the_critic_sees(output, target)
            made, of_output = self._critic.judge(of_critic[0])
            with torch.no_grad():
                true, of_target = self._critic.judge(of_critic[1])
            self._critic.requires_grad_(True)
            if weights.get("adversarial"):
                total = total + weights["adversarial"] * self._fooling(made, true)
        if self._trunk is not None:
            of_output = self._trunk(output)
            with torch.no_grad():
                of_target = self._trunk(target)
        pairs = list(zip(of_output, of_target, strict=True))
        if weights.get("features"):
            total = total + weights["features"] * self._apart(pairs)
        if weights.get("style"):
            grams = [((gram(made) - gram(true)).abs().mean(), weight) for (made, true), weight in self._weighed(pairs)]
            total = total + weights["style"] * sum(distance * weight for distance, weight in grams)
        return total

    def teach(self, output: Tensor, target: Tensor, fabric: Any) -> float:
        """One step of the critic on outputs (detached) and true pictures; returns its loss over all processes."""
        config = self._config.critic
        assert config is not None  # noqa: S101 - only a recipe with a critic comes here
        output, target = _as_the_critic_sees(_seen(output.detach()), _seen(target))
        true = target.clone().requires_grad_(config.penalty > 0)
        real, fake = self._critic(torch.cat([true, output])).chunk(2)
        own = loss = (critic_loss if config.contest == "standard" else relativistic_critic_loss)(real, fake)
        if config.penalty:
            loss = loss + config.penalty * r1_penalty(real, true)
        self._optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        self._optimizer.step()
        return float(fabric.all_reduce(own.detach(), reduce_op="mean"))

    def _fooling(self, made: Tensor, true: Tensor) -> Tensor:
        standard = self._config.critic is None or self._config.critic.contest == "standard"
        return adversarial(made) if standard else relativistic(made, true)

    def _weighed(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[tuple[Tensor, Tensor], float]]:
        """Each layer with its weight."""
        if self._trunk is None:
            return [(pair, 1 / len(pairs)) for pair in pairs]
        return list(zip(pairs, self._features().layers.values(), strict=True))

    def _apart(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        # A critic's gain drifts while it learns, so its layers are compared relative to themselves.
        distance = relative if self._trunk is None else LOSSES[self._features().distance]
        return torch.stack([distance(*pair) * weight for pair, weight in self._weighed(pairs)]).sum()

    def _features(self) -> FeaturesConfig:
        assert self._config.features is not None  # noqa: S101 - checked with the recipe
        return self._config.features


class Watchdog:
    """Stops a run whose fight is lost: by a critic that always wins, or a network that leaves the pictures."""

    def __init__(self, largest_fall: float) -> None:
        self._largest_fall = largest_fall
        self._losses: deque[float] = deque(maxlen=_WON_STEPS)

    def heed_critic(self, step: int, loss: float) -> None:
        """Raises TrainingError where the critic's loss isn't finite, or says that it won all of the last 1000 steps."""
        self._losses.append(loss)
        mean = sum(self._losses) / len(self._losses)
        if not math.isfinite(loss) or (len(self._losses) == _WON_STEPS and mean < _WON):
            raise TrainingError(
                f"collapse at step {step}: the critic's loss is {mean:.3g} (undecided: 1.39), so it teaches nothing"
                " more; lower critic.rate, or give it a penalty"
            )

    def heed_psnr(self, step: int, psnr: float, best: float) -> None:
        """Raises TrainingError where validation has fallen further below its best than the recipe allows. All in dB."""
        if psnr < best - self._largest_fall:
            raise TrainingError(
                f"collapse at step {step}: validation fell to {psnr:.2f} dB, {best - psnr:.2f} below its best; lower"
                " the weight of adversarial, or allow more with critic.largest_fall"
            )


def _seen(pictures: Tensor) -> Tensor:
    """What a critic or a published network sees: luma as grey RGB."""
    return pictures.expand(-1, 3, -1, -1)


def _as_the_critic_sees(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both without their finest frequency, and cut by the same 0 to 3 px at the left and above, by the random state.

    A critic halves, and so favours phases of a lattice of 2, 4, .. px; a network that makes each phase by other
    weights learns checkerboards from that. The shift moves the lattice from step to step, and the binomial filter
    (1, 2, 1)/4 both ways, which is zero at two pixels' period, leaves nothing to gain there. Our own.
    """
    row, col = torch.randint(_LATTICE, (2,)).tolist()
    rows, cols = (side - _LATTICE + 1 for side in output.shape[2:])
    cut = torch.stack([pictures[..., row : row + rows, col : col + cols] for pictures in (output, target)])
    filtered = functional.avg_pool2d(functional.avg_pool2d(cut.flatten(0, 1), 2, 1), 2, 1)
    first, second = filtered.chunk(2)
    return first, second
