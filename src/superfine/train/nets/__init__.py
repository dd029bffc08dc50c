"""The table of networks: a new net is one file and one line here; its tests come free."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from superfine.train.nets.aligned import Aligned
from superfine.train.nets.edsr import EDSR
from superfine.train.nets.enhance import Enhance
from superfine.train.nets.espcn import ESPCN
from superfine.train.nets.fsrcnn import FSRCNN
from superfine.train.nets.guess import Guess
from superfine.train.nets.layers import Colour, Net
from superfine.train.nets.null_space import NullSpace, Reducer
from superfine.train.nets.plain import Plain
from superfine.train.nets.refiner import Refiner
from superfine.train.nets.residual import Residual
from superfine.train.nets.residual_unet import ResidualUNet
from superfine.train.nets.srresnet import SRResNet
from superfine.train.nets.three_layer import ThreeLayer
from superfine.train.nets.unet import AttentionUNet, UNet
from superfine.train.nets.vdsr import VDSR

__all__ = ["NETS", "NetCard"]


@dataclass(frozen=True, kw_only=True)
class NetCard:
    """A network's name, how to build it for a scale, its facts and its source."""

    name: str
    build: Callable[[int], Net]
    colour: Colour
    halo: int
    """Pixels of the small picture around one on the grid that its result depends on, at the scale where most."""
    multiple_of: int = 1
    frames: int = 1
    scales: tuple[int, ...] = (2, 3, 4)
    fp32_end: bool
    """Ends with base plus residual added in fp32."""
    bytes_per_pixel: int
    """Working memory for a pixel of the result, measured at x2 in fp32 on float pictures, and a tenth more."""
    source: str


NETS = {
    card.name: card
    for card in (
        NetCard(
            name="plain-16x11",
            build=lambda scale: Plain(scale, channels=16, depth=11),
            colour="luma",
            halo=13,
            fp32_end=True,
            bytes_per_pixel=120,
            source="plain 3x3 chain; blocks folded as in SESR, arXiv:2103.09404",
        ),
        NetCard(
            name="residual-32x8",
            build=lambda scale: Residual(scale, channels=32, blocks=8, colour="luma"),
            colour="luma",
            halo=18,
            fp32_end=True,
            bytes_per_pixel=180,
            source="residual 3x3 blocks, folded as in SESR, arXiv:2103.09404",
        ),
        NetCard(
            name="residual-64x8",
            build=lambda scale: Residual(scale, channels=64, blocks=8, colour="luma"),
            colour="luma",
            halo=18,
            fp32_end=True,
            bytes_per_pixel=280,
            source="residual 3x3 blocks, folded as in SESR, arXiv:2103.09404",
        ),
        NetCard(
            name="residual-rgb-64x4",
            build=lambda scale: Residual(scale, channels=64, blocks=4, colour="rgb"),
            colour="rgb",
            halo=10,
            fp32_end=True,
            bytes_per_pixel=300,
            source="residual 3x3 blocks, folded as in SESR, arXiv:2103.09404",
        ),
        NetCard(
            name="aligned-32x8",
            build=lambda scale: Aligned(scale, channels=32, blocks=8, frames=3),
            colour="luma",
            halo=34,
            multiple_of=2,
            frames=3,
            fp32_end=True,
            bytes_per_pixel=400,
            source="residual 3x3 blocks on three frames, moved by block matching, after VESPCN, arXiv:1611.05250",
        ),
        *(
            NetCard(
                name=f"aligned-32x8-{reducer}",
                build=lambda scale, reducer=reducer: NullSpace(  # type: ignore[misc]
                    Aligned(scale, channels=32, blocks=8, frames=3), reducer
                ),
                colour="luma",
                halo=34 if reducer == "box" else 46,
                multiple_of=2,
                frames=3,
                fp32_end=True,
                bytes_per_pixel=500,
                source="the same, whose result made small is the input: as arXiv:1907.01399, arXiv:1806.06137",
            )
            for reducer in get_args(Reducer)
        ),
        NetCard(
            name="refiner-64x4",
            build=lambda scale: Refiner(channels=64, blocks=4),
            colour="luma",
            halo=20,
            multiple_of=2,
            scales=(1,),
            fp32_end=True,
            bytes_per_pixel=280,
            source="residual 3x3 blocks at half the resolution, after arXiv:2008.13751",
        ),
        NetCard(
            name="three-layer",
            build=ThreeLayer,
            colour="rgb",
            halo=3,
            fp32_end=False,
            bytes_per_pixel=900,
            source="SRCNN, arXiv:1501.00092, with 3x3 kernels and 128, 64, 3 channels",
        ),
        NetCard(
            name="unet",
            build=UNet,
            colour="rgb",
            halo=48,
            multiple_of=8,
            fp32_end=True,
            bytes_per_pixel=370,
            source="U-Net, arXiv:1505.04597",
        ),
        NetCard(
            name="unet-attention",
            build=AttentionUNet,
            colour="rgb",
            halo=48,
            multiple_of=8,
            fp32_end=True,
            bytes_per_pixel=400,
            source="Attention U-Net, arXiv:1804.03999",
        ),
        NetCard(
            name="espcn",
            build=ESPCN,
            colour="luma",
            halo=4,
            fp32_end=True,
            bytes_per_pixel=165,
            source="ESPCN, arXiv:1609.05158",
        ),
        NetCard(
            name="fsrcnn",
            build=FSRCNN,
            colour="luma",
            halo=8,
            fp32_end=True,
            bytes_per_pixel=180,
            source="FSRCNN, arXiv:1608.00367",
        ),
        NetCard(
            name="vdsr",
            build=VDSR,
            colour="luma",
            halo=12,
            fp32_end=True,
            bytes_per_pixel=620,
            source="VDSR, arXiv:1511.04587",
        ),
        NetCard(
            name="srresnet",
            build=SRResNet,
            colour="rgb",
            halo=40,
            fp32_end=False,
            bytes_per_pixel=600,
            source="SRResNet, arXiv:1609.04802",
        ),
        NetCard(
            name="edsr",
            build=EDSR,
            colour="rgb",
            halo=36,
            fp32_end=False,
            bytes_per_pixel=580,
            source="EDSR-baseline, arXiv:1707.02921",
        ),
        NetCard(
            name="enhance",
            build=lambda scale: Enhance(scale, channels=128, blocks=8),
            colour="rgb",
            halo=14,
            scales=(2, 4),
            fp32_end=False,
            bytes_per_pixel=1150,
            source="neural-enhance's generator, github.com/alexjc/neural-enhance",
        ),
        NetCard(
            name="enhance-repair",
            build=lambda scale: Enhance(scale, channels=128, blocks=8),
            colour="rgb",
            halo=52,
            multiple_of=4,
            scales=(1,),
            fp32_end=False,
            bytes_per_pixel=1170,
            source="neural-enhance's generator for repair, github.com/alexjc/neural-enhance",
        ),
        NetCard(
            name="guess-32x3",
            build=lambda scale: Guess(scale, channels=32, blocks=3),
            colour="luma",
            halo=8,
            fp32_end=False,
            bytes_per_pixel=180,
            source="residual 3x3 blocks that tell how far an enlargement may be off, after arXiv:1703.04977",
        ),
        NetCard(
            name="residual-unet",
            build=ResidualUNet,
            colour="rgb",
            halo=152,
            multiple_of=8,
            scales=(4,),
            fp32_end=True,
            bytes_per_pixel=1250,
            source="ResNet-34 U-Net, arXiv:1512.03385, arXiv:1505.04597, as fastai's DynamicUnet",
        ),
    )
}
