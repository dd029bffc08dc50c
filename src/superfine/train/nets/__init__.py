"""The table of networks: a new net is one file and one line here; its tests come free."""

from collections.abc import Callable
from dataclasses import dataclass

from superfine.train.nets.layers import Net
from superfine.train.nets.plain import Plain

__all__ = ["NETS", "NetCard"]


@dataclass(frozen=True)
class NetCard:
    """A network's name, how to build it for a scale, its facts and its source."""

    name: str
    build: Callable[[int], Net]
    halo: int
    multiple_of: int
    fp32_end: bool
    """Ends with base plus residual added in fp32."""
    bytes_per_pixel: int
    """Working memory for a pixel of the result, measured in fp32 on float pictures."""
    source: str


NETS = {
    card.name: card
    for card in (
        NetCard(
            "plain-16x11",
            lambda scale: Plain(scale, channels=16, depth=11),
            halo=13,
            multiple_of=1,
            fp32_end=True,
            bytes_per_pixel=120,
            source="plain 3x3 chain; blocks folded as in SESR, arXiv:2103.09404",
        ),
    )
}
