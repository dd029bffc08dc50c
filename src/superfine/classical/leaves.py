"""A made picture with the edges and sizes of photographs, for tests of networks that nobody has described."""

import numpy as np
import numpy.typing as npt

from superfine.color import to_kind

__all__ = ["dead_leaves"]

Bytes = npt.NDArray[np.uint8]


def dead_leaves(size: tuple[int, int], seed: int = 1) -> Bytes:
    """A picture (h, w, 3) of `size`: overlapping discs, plain or striped, on a smooth ground, in warm colours.

    Edges and sizes are spread as in photographs, and R is above B as it mostly is there, so that a network that
    knows photographs tells its channels apart. Source: Lee, Mumford and Huang 2001, doi:10.1023/A:1011109015675.
    """
    draw = np.random.default_rng(seed)
    row, col = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    waves = [np.sin(row / (31 + 7 * channel) + col / (43 - 6 * channel) + channel) for channel in range(3)]
    unit = 0.45 + 0.3 * np.stack(waves, axis=-1)
    for _ in range(400):
        radius = 2 + 0.3 * min(size) * draw.random() ** 3
        centre, warm, turn = draw.random(2) * size, draw.normal((0.12, 0, -0.12), 0.12), draw.random() * np.pi
        level, period, striped = draw.random(), draw.uniform(4, 12), draw.random() < 0.4
        part = tuple(slice(max(0, int(at - radius - 1)), int(at + radius + 2)) for at in centre)
        down, across = row[part], col[part]
        cover = np.clip(radius - np.hypot(down - centre[0], across - centre[1]) + 0.5, 0, 1)[..., None]
        stripes = 0.12 * striped * np.sin((down * np.sin(turn) + across * np.cos(turn)) * 2 * np.pi / period)
        colour = np.clip(level + warm + stripes[..., None], 0.02, 0.98)
        unit[part] += cover * (colour - unit[part])
    return np.asarray(to_kind(unit.astype(np.float32), np.dtype(np.uint8)), np.uint8)
