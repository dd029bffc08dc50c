"""The cosine transform of 8x8 blocks, as JPEG has it."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["block_cosines"]


@cache
def block_cosines() -> npt.NDArray[np.floating[Any]]:
    """(64, 64): an 8x8 block as 64 numbers @ this -> its orthonormal discrete cosine transform."""
    place = np.arange(8)
    line = np.cos((2 * place[None] + 1) * place[:, None] * np.pi / 16) / 2
    line[0] /= np.sqrt(2)
    return np.kron(line, line).T.astype(np.float32)
