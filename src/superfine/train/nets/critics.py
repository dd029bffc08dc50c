"""Critics: they judge pictures while an adversarial loss trains, and are never shipped. (N, 3, h, w) -> logits.

`judge` gives the activations of the hidden layers too, which serve as features where no published network is at hand.

Both have spectral norm where their papers have batch norm: its state follows from
the weights alone, not from the batch, so that several processes and resumed runs
stay exact, and true and made pictures don't mix. Licence: Apache-2.0, our own code.
Spectral norm: Miyato et al. 2018, arXiv:1802.05957.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["CRITICS", "Critic", "PatchCritic"]


Judgement = tuple[torch.Tensor, list[torch.Tensor]]


class Critic(nn.Module):
    """SRGAN's: (N, 3, h, w) in 0..1 -> one logit each (N, 1), for any size from 1 x 1.

    Source: Ledig et al. 2017, arXiv:1609.04802. Where it flattens crops of 96 x 96,
    this takes the mean over places.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 64, 3, padding=1), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in [
            (64, 64, 2), (64, 128, 1), (128, 128, 2), (128, 256, 1), (256, 256, 2), (256, 512, 1), (512, 512, 2),
        ]:  # fmt: skip
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 3, stride, padding=1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.score = nn.Sequential(nn.Linear(512, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.judge(x)[0]

    def judge(self, x: torch.Tensor) -> Judgement:
        """The logits, and each hidden layer's activations (N, C, h', w')."""
        activations = _activations(self.body, x * 2 - 1)
        logits: torch.Tensor = self.score(activations[-1].mean((2, 3)))
        return logits, activations


class PatchCritic(nn.Module):
    """PatchGAN: (N, 3, h, w) in 0..1 -> a logit for each patch of 70 x 70 (N, 1, h/8 - 2, w/8 - 2), h and w from 24.

    Source: Isola et al. 2017, arXiv:1611.07004.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 64, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in [(64, 128, 2), (128, 256, 2), (256, 512, 1)]:
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, padding=1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.score = nn.Conv2d(512, 1, 4, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.judge(x)[0]

    def judge(self, x: torch.Tensor) -> Judgement:
        """The logits, and each hidden layer's activations (N, C, h', w')."""
        activations = _activations(self.body, x * 2 - 1)
        logits: torch.Tensor = self.score(activations[-1])
        return logits, activations


def _activations(body: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    activations = []
    for layer in body:
        x = layer(x)
        if isinstance(layer, nn.LeakyReLU):
            activations.append(x)
    return activations


CRITICS: Final[dict[str, Callable[[], nn.Module]]] = {"vgg": Critic, "patch": PatchCritic}
