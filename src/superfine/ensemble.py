"""A network asked eight times: the picture turned and mirrored every way, the answers turned back and averaged.

Source: Timofte, Rothe and Van Gool 2016, "Seven ways to improve example-based single image super resolution",
doi:10.1109/CVPR.2016.206; geometric self-ensemble, as EDSR (Lim et al. 2017, arXiv:1707.02921) calls it.
"""

from functools import reduce
from itertools import product

import numpy as np
import numpy.typing as npt

from superfine.engine import Engine
from superfine.errors import ShapeError

__all__ = ["Ensemble"]

Array = npt.NDArray[np.generic]


class Ensemble:
    """An engine whose result is the mean of another's over the eight flips and rotations; it takes eight times as long.

    In tiles as whole, to the bit, as far as the other is.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.scale, self.halo = engine.scale, engine.halo
        self.multiple_of, self.frames = engine.multiple_of, engine.frames

    def __call__(self, pixels: Array) -> Array:
        """(frames, h, w, c) float32 in 0..1 -> (scale*h, scale*w, c). Raises ShapeError for other dtypes."""
        if pixels.dtype != np.float32:
            raise ShapeError(f"want float32 in 0..1, got {pixels.dtype}: answers are averaged before they are rounded")
        # Mirrored down, mirrored across, then rows and columns exchanged, or not.
        ways = product((1, -1), (1, -1), (False, True))
        total: npt.NDArray[np.float32] = reduce(np.add, (self._answer(pixels, *way) for way in ways))
        return total * np.float32(1 / 8)

    def _answer(self, pixels: Array, down: int, across: int, exchanged: bool) -> npt.NDArray[np.float32]:
        given = pixels[:, ::down, ::across]
        answer = self._engine(np.ascontiguousarray(given.swapaxes(1, 2) if exchanged else given))
        back = (answer.swapaxes(0, 1) if exchanged else answer)[::down, ::across]
        return back.astype(np.float32, copy=False)
