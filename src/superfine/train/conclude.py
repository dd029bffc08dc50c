"""The end of a run: its figures on pictures it never saw, beside bicubic's, and pictures to look at."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from superfine.atomic import written_whole
from superfine.color import to_kind, to_unit
from superfine.engine import ClassicalEngine, Engine
from superfine.evaluate.pairs import Pair
from superfine.train.score import score

__all__ = ["conclude"]

_SAMPLES, _SIDE, _GAP = 4, 256, 4


def conclude(engine: Engine, sides: Mapping[str, Sequence[Pair]], run: Path, say: Callable[[str], None]) -> None:
    """Write `result.json` (PSNR, SSIM of each side of the split) and `samples.png` into `run`, and say the figures.

    sides: "validation", "test" -> its pictures; one without pictures is left out.
    `samples.png` shows bicubic, the network and the original of up to four
    pictures of the last side, 256 px a side.
    """
    bicubic = ClassicalEngine("bicubic", engine.scale)
    result = {}
    for name, pairs in sides.items():
        if not pairs:
            continue
        scores = {"network": score(engine, pairs), "bicubic": score(bicubic, pairs)}
        result[name] = {who: reached._asdict() for who, reached in scores.items()}
        ours, theirs = scores.values()
        say(
            f"{name}, {ours.pictures} pictures: {ours.psnr:.2f} dB, SSIM {ours.ssim:.4f}, RGB {ours.psnr_rgb:.2f} dB;"
            f" bicubic {theirs.psnr:.2f} dB, SSIM {theirs.ssim:.4f}, RGB {theirs.psnr_rgb:.2f} dB"
        )
        with written_whole(run / "samples.png") as part:
            _draw(part, engine, bicubic, pairs[:_SAMPLES])
    with written_whole(run / "result.json") as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")


def _draw(path: Path, engine: Engine, bicubic: Engine, pairs: Sequence[Pair]) -> None:
    from PIL import Image

    canvas = Image.new("RGB", (3 * (_SIDE + _GAP), len(pairs) * (_SIDE + _GAP)), "white")
    for row, (_, small, large, *_) in enumerate(pairs):
        side = max(engine.multiple_of, _SIDE // engine.scale // engine.multiple_of * engine.multiple_of)
        top, left = (max(0, (length - side) // 2) for length in small.shape[:2])
        piece = small[top : top + side, left : left + side]
        rows, cols = (length // engine.multiple_of * engine.multiple_of for length in piece.shape[:2])
        if not (rows and cols):
            continue
        seen = to_unit(piece[:rows, :cols])[None]
        begin, s = (top * engine.scale, left * engine.scale), engine.scale
        truth = large[begin[0] : begin[0] + rows * s, begin[1] : begin[1] + cols * s]
        for column, pixels in enumerate((bicubic(seen), engine(seen), truth)):
            shown = Image.fromarray(to_kind(to_unit(pixels), np.dtype(np.uint8)))
            canvas.paste(shown, (column * (_SIDE + _GAP), row * (_SIDE + _GAP)))
    canvas.save(path, format="PNG", optimize=True)
