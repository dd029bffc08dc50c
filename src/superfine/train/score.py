"""How good a net is on whole pictures: PSNR and SSIM as the papers report them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from superfine.color import limited_luma, to_unit
from superfine.engine import Engine
from superfine.errors import TrainingError
from superfine.evaluate.methods import enlarged
from superfine.evaluate.metrics import crop_border, psnr, ssim
from superfine.evaluate.pairs import Pair
from superfine.train.listener import Score
from superfine.train.nets import NetCard
from superfine.train.nets.layers import Net

__all__ = ["TorchEngine", "score"]

Array = npt.NDArray[np.generic]


class TorchEngine:
    """A torch net as an engine, in fp32: (1, h, w, 3) float32 in 0..1 -> (scale*h, scale*w, 3)."""

    def __init__(self, net: Net, card: NetCard) -> None:
        self.net = net
        self.scale, self.halo, self.multiple_of, self.frames = net.scale, card.halo, card.multiple_of, 1

    @torch.no_grad()
    def __call__(self, pixels: Array) -> Array:
        device = next(self.net.parameters()).device
        planes = torch.from_numpy(np.moveaxis(to_unit(pixels), 3, 1).copy()).to(device)
        self.net.eval()
        output = self.net(planes)[0].clamp(0, 1).cpu().numpy()
        self.net.train()
        result: Array = np.moveaxis(output, 0, 2)
        return result


def score(engine: Engine, pairs: Iterable[Pair], *, tile: int = 384) -> Score:
    """The mean over `pairs` of what `engine` makes of the small pictures against the large ones."""
    rows = []
    for pair in pairs:
        large = enlarged(engine, to_unit(pair.small), tile)  # in float: a gain below a level counts while training
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
