"""How good a net is on whole pictures: PSNR and SSIM as the papers report them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from superfine.color import limited_luma, to_kind, to_unit
from superfine.engine import Engine
from superfine.errors import ModelError, TrainingError
from superfine.evaluate.methods import enlarged
from superfine.evaluate.metrics import crop_border, psnr, ssim
from superfine.evaluate.pairs import Pair
from superfine.train.listener import Score
from superfine.train.nets import NETS, NetCard
from superfine.train.nets.layers import Net
from superfine.train.pretrained import load_pretrained

__all__ = ["RunMethod", "TorchEngine", "open_run", "score", "seen_by"]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


class TorchEngine:
    """A torch net as an engine, in fp32: (frames, h, w, 3) float32 in 0..1 -> (scale*h, scale*w, 3)."""

    def __init__(self, net: Net, card: NetCard) -> None:
        self.net = net
        self.scale, self.halo, self.multiple_of, self.frames = net.scale, card.halo, card.multiple_of, net.frames

    @torch.no_grad()
    def __call__(self, pixels: Array) -> Array:
        device = next(self.net.parameters()).device
        frames = np.moveaxis(to_unit(pixels), 3, 1)  # (frames, 3, h, w)
        planes = torch.from_numpy(frames.reshape(1, -1, *frames.shape[2:]).copy()).to(device)
        self.net.eval()
        output = self.net(planes)[0].clamp(0, 1).cpu().numpy()
        self.net.train()
        result: Array = np.moveaxis(output, 0, 2)
        return result


class RunMethod:
    """A training run, judged like any method: its averaged weights in torch, fp32."""

    def __init__(self, path: Path) -> None:
        pretrained = load_pretrained(str(path))
        net = pretrained.build()
        self.name, self.scale = path.name if path.is_dir() else path.parent.name, net.scale
        self.engine, self.precision = f"torch {torch.__version__}, CPU", "fp32"
        content = Path(pretrained.source).read_bytes()
        self.sha256, self.file_bytes = hashlib.sha256(content).hexdigest(), len(content)
        self.parameters = sum(weight.numel() for weight in net.folded().parameters())
        self.notes: tuple[str, ...] = ()
        self.frames = net.frames
        self._engine = TorchEngine(net, NETS[pretrained.net])

    def __call__(self, pixels: Bytes) -> Bytes:
        """(h, w, 3) uint8 -> (scale*h, scale*w, 3) uint8."""
        large: Any = enlarged(self._engine, to_unit(pixels))
        return np.asarray(to_kind(large, np.dtype(np.uint8)), np.uint8)

    def of_window(self, window: Bytes) -> Bytes:
        """(frames, h, w, 3) uint8 -> the middle one, (scale*h, scale*w, 3) uint8."""
        return self(window)


def open_run(path: Path, scale: int) -> RunMethod:
    """The newest state of a run's folder, or a state file, as a method.

    Raises TrainingError where it is none, ModelError where it enlarges by another factor.
    """
    method = RunMethod(path)
    if method.scale != scale:
        raise ModelError(f"{path}: enlarges x{method.scale}, not x{scale}; give it --scale {method.scale}")
    return method


def seen_by(engine: Engine, pixels: Array) -> Array:
    """A picture (h, w, 3), or what of a window (any odd number, h, w, 3) an engine sees: (engine.frames, h, w, 3).

    The middle one alone, (h, w, 3), for an engine of one frame.
    """
    if pixels.ndim == 3:
        return pixels
    middle, radius = len(pixels) // 2, engine.frames // 2
    return pixels[middle - radius : middle + radius + 1] if radius else pixels[middle]


def score(engine: Engine, pairs: Iterable[Pair], *, tile: int = 384) -> Score:
    """The mean over `pairs` of what `engine` makes of the small pictures against the large ones."""
    rows = []
    for pair in pairs:
        # In float: a gain below a level counts while training.
        large = enlarged(engine, seen_by(engine, to_unit(pair.small)), tile)
        output, target = (
            crop_border(to_unit(pixels).astype(np.float64), engine.scale) for pixels in (large, pair.large)
        )
        y, wanted = limited_luma(output), limited_luma(target)
        similarity = ssim(y, wanted) if min(y.shape) >= 11 else float("nan")
        rows.append((psnr(y, wanted), similarity, psnr(output, target)))
    if not rows:
        raise TrainingError("no picture to measure on")
    of_y, similar, of_rgb = np.mean(rows, axis=0)
    return Score(float(of_y), float(similar), float(of_rgb), len(rows))
