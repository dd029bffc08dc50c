"""Draw shift.png: which way content moves, and what sixteen half pixels leave of it. Needs the extra dev."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from superfine.classical.shift import METHODS, shift_image

HERE = Path(__file__).parent
CELL, ZOOM, SIDE, LINE, GAP = 24, 3, 80, 26, 16
DY, DX = 2, 3
TIMES = 8
TOP, LEFT = 120, 190
FONT = ImageFont.load_default(15)


def squares(pixels: npt.NDArray[np.uint8], size: int) -> Image.Image:
    """Every pixel as a square."""
    return Image.fromarray(pixels.repeat(size, 0).repeat(size, 1)).convert("RGB")


def convention() -> Image.Image:
    """A letter before and after a move by dy 2, dx 3, with the arrows that say so."""
    letter = np.full((9, 12), 235, np.uint8)
    letter[1:6, 2] = letter[1, 2:6] = letter[3, 2:5] = 60
    panel = CELL * 12
    canvas = Image.new("RGB", (2 * panel + 60, CELL * 9 + LINE), "white")
    moved = shift_image(letter, (DY, DX), border="constant", fill=235 / 255)
    for place, (pixels, name) in enumerate([(letter, "in"), (moved, f"out: dx {DX}, dy {DY}")]):
        left = place * (panel + 60)
        canvas.paste(squares(pixels, CELL), (left, 0))
        draw = ImageDraw.Draw(canvas)
        for line in range(1, 12):
            draw.line([(left + line * CELL, 0), (left + line * CELL, 9 * CELL)], "white")
        for line in range(1, 9):
            draw.line([(left, line * CELL), (left + panel, line * CELL)], "white")
        draw.text((left, 9 * CELL + 4), name, "black", font=FONT)
    draw = ImageDraw.Draw(canvas)
    start, corner = (2.5 * CELL, 1.5 * CELL), ((2.5 + DX) * CELL, 1.5 * CELL)
    start, corner, end = ((panel + 60 + x, y) for x, y in (start, corner, (corner[0], corner[1] + DY * CELL)))
    draw.line([start, corner, end], "crimson", width=3)
    (x, y), (u, v) = corner, end
    draw.polygon([(x, y), (x - 8, y - 6), (x - 8, y + 6)], "crimson")
    draw.polygon([(u, v), (u - 6, v - 8), (u + 6, v - 8)], "crimson")
    draw.text((start[0] + CELL, start[1] - 20), "dx", "crimson", font=FONT)
    draw.text((end[0] + 8, end[1] - 1.5 * CELL), "dy", "crimson", font=FONT)
    return canvas


def left_over() -> Image.Image:
    """The same crop after half a pixel right and left again, and so on, by each method."""
    photo = np.asarray(Image.open(HERE.parent / "examples" / "photo.png").convert("L")) / 255.0
    shown = {"original": photo}
    for method in METHODS:
        pixels = photo
        for _ in range(TIMES):
            for step in (0.5, -0.5):
                pixels = shift_image(pixels, (step, step), method=method)
        shown[method] = pixels
    wide = SIDE * ZOOM
    canvas = Image.new("RGB", (3 * (wide + GAP) - GAP, 2 * (wide + LINE)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (name, pixels) in enumerate(shown.items()):
        left, top = place % 3 * (wide + GAP), place // 3 * (wide + LINE)
        part = np.rint(pixels[TOP : TOP + SIDE, LEFT : LEFT + SIDE].clip(0, 1) * 255).astype(np.uint8)
        canvas.paste(squares(part, ZOOM), (left, top))
        draw.text((left, top + wide + 4), name, "black", font=FONT)
    return canvas


first, second = convention(), left_over()
canvas = Image.new("RGB", (max(first.width, second.width), first.height + GAP + second.height), "white")
canvas.paste(first, (0, 0))
canvas.paste(second, (0, first.height + GAP))
canvas.save(HERE / "shift.png", optimize=True)
