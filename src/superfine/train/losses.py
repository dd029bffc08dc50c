"""Losses between an output and its target, both (N, C, H, W)."""

import torch

__all__ = ["LOSSES"]

LOSSES = {
    "l1": torch.nn.functional.l1_loss,
    "mse": torch.nn.functional.mse_loss,
}
