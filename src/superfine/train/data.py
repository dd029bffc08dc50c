"""Folders of pictures -> batches of patches. LR is made here by MATLAB's bicubic, to the bit.

A batch is a pure function of the seed and the step, so that a resumed run
sees exactly what an unbroken one would have seen.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyvips
import torch

from superfine.classical.resample import matlab_resize
from superfine.color import full_luma
from superfine.errors import TrainingError
from superfine.train.config import TrainConfig

__all__ = ["Pair", "batch_at", "load_pairs", "picture_files"]

Bytes = npt.NDArray[np.uint8]

_SUFFIXES = frozenset({".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


class Pair(NamedTuple):
    """One picture for training: lr (h, w, 3) and hr (scale*h, scale*w, 3), uint8 RGB."""

    name: str
    lr: Bytes
    hr: Bytes


def picture_files(folder: Path) -> list[Path]:
    """The pictures of one folder, by name."""
    if not folder.is_dir():
        raise TrainingError(f"{folder}: there is no such folder of pictures; --data names the folder that holds it")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def load_pairs(root: Path, config: TrainConfig, *, held_out: bool = False) -> list[Pair]:
    """All pairs of a run, in memory; with `held_out` those for validation instead.

    Held-out pictures are used at full size only. Raises TrainingError when
    nothing is left to train on.
    """
    pairs = list(_pairs(root, config, held_out))
    if not pairs:
        raise TrainingError(
            f"no picture of {config.patch * config.scale} px or more in {root}: {', '.join(config.folders)}"
        )
    return pairs


def _pairs(root: Path, config: TrainConfig, held_out: bool) -> Iterator[Pair]:
    smallest = 1 if held_out else config.patch
    for folder in config.folders:
        files = picture_files(root / folder)
        cut = max(0, len(files) - config.hold_out.get(folder, 0))
        for path in files[cut:] if held_out else files[:cut]:
            whole = _decode(path)
            for size in (1.0,) if held_out else config.reduce.get(folder, (1.0,)):
                rows, cols = (int(side * size) // config.scale for side in whole.shape[:2])
                if min(rows, cols) < smallest:
                    continue
                reduced = (
                    whole
                    if size == 1
                    else matlab_resize(whole, (int(whole.shape[0] * size), int(whole.shape[1] * size)))
                )
                hr = np.ascontiguousarray(reduced[: rows * config.scale, : cols * config.scale])
                yield Pair(f"{folder}/{path.name}@{size:g}", matlab_resize(hr, (rows, cols)), hr)


def _decode(path: Path) -> Bytes:
    picture = pyvips.Image.new_from_file(str(path), access="sequential").colourspace("srgb")
    if picture.hasalpha():
        picture = picture.flatten(background=255)
    pixels: Bytes = picture.cast("uchar").numpy()
    return pixels


def batch_at(pairs: list[Pair], config: TrainConfig, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The luma patches of one step: (batch, 1, patch, patch) and its scaled partner, float32 0..1.

    Pictures are drawn by their area; each patch is flipped and turned at random.
    """
    draw = np.random.default_rng((config.seed, step))
    area = np.array([pair.lr.shape[0] * pair.lr.shape[1] for pair in pairs], dtype=np.float64)
    chosen = draw.choice(len(pairs), size=config.batch, p=area / area.sum())
    small = np.empty((config.batch, 1, config.patch, config.patch), np.float32)
    large = np.empty((config.batch, 1, config.patch * config.scale, config.patch * config.scale), np.float32)
    for slot, picture in enumerate(chosen):
        _, lr, hr = pairs[picture]
        top, left = (int(draw.integers(0, side - config.patch + 1)) for side in lr.shape[:2])
        turn, flip = int(draw.integers(0, 4)), bool(draw.integers(0, 2))
        for target, source, scale in ((small, lr, 1), (large, hr, config.scale)):
            crop = source[top * scale : (top + config.patch) * scale, left * scale : (left + config.patch) * scale]
            luma = np.rot90(full_luma(crop.astype(np.float32)) / np.float32(255), turn)
            target[slot, 0] = luma[:, ::-1] if flip else luma
    return torch.from_numpy(small), torch.from_numpy(large)
