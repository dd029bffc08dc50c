"""What every reader of foreign weights gives: an ONNX graph without a card, and what its card has to say."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Network", "Reference"]

Floats = npt.NDArray[np.floating]
Reference = Callable[[Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A foreign network as ONNX, and a second way to compute it.

    content: (1, 3, h, w) -> (1, 3, scale*h, scale*w), float32 RGB in 0..1, for sides that are multiples of
    `multiple_of`; what the original does around its network (normalising, colours, borders, clipping) is in it.
    """

    content: bytes = field(repr=False)
    scale: int
    halo: int
    """Pixels of the small picture around one that its result can depend on, by the layers."""
    multiple_of: int = 1
    parameters: int
    description: str
    """What it is, in a line: family, width, depth."""
    colour: str
    """How colours are handled, for the card."""
    needs_fp32: bool = False
    """bf16 inside would move the result by more than a level."""
    fp32_end: bool = False
    """Ends with base plus residual added in fp32, so 16 bits survive bf16 inside."""
    rounding: float = 0.0
    """What the original's own output type rounds to, in 8-bit levels."""
    reference: Reference = field(repr=False)
    """The same function computed apart from ONNX, for parity: (h, w, 3) in 0..1 -> (scale*h, scale*w, 3)."""
    witness: str
    """What `reference` runs on: "torch 2.13.0", "NumPy, float64"."""
