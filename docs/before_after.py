"""Draw before_after.png: the example photo, halved by MATLAB's bicubic, enlarged again. Needs the extra dev."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import superfine
from superfine.classical.resample import matlab_resize

HERE = Path(__file__).parent
TOP, LEFT, SIDE, ZOOM, LINE = 35, 165, 170, 2, 28


def crop(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same part of each, every pixel as a square of `ZOOM`."""
    part = pixels[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    return part.repeat(ZOOM, 0).repeat(ZOOM, 1)


photo = np.asarray(Image.open(HERE.parent / "examples" / "photo.png"))
half = matlab_resize(photo, (photo.shape[0] // 2, photo.shape[1] // 2))
shown = {
    "bicubic x2": superfine.upscale(half, 2, model="bicubic"),
    "superfine balanced x2": superfine.upscale(half, 2, model="balanced"),
    "original": photo,
}
canvas = Image.new("RGB", (SIDE * ZOOM * len(shown), SIDE * ZOOM + LINE), "white")
draw = ImageDraw.Draw(canvas)
for place, (name, pixels) in enumerate(shown.items()):
    canvas.paste(Image.fromarray(crop(pixels)), (place * SIDE * ZOOM, 0))
    draw.text((place * SIDE * ZOOM + 8, SIDE * ZOOM + 4), name, "black", font=ImageFont.load_default(16))
canvas.save(HERE / "before_after.png", optimize=True)
