"""The end of a run: its figures on pictures it never saw, beside bicubic's, and pictures to look at."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.color import to_kind, to_unit
from superfine.engine import ClassicalEngine, Engine, still
from superfine.errors import EngineError
from superfine.evaluate.methods import enlarged
from superfine.evaluate.pairs import Pair
from superfine.train.distances import Distance, open_distance
from superfine.train.score import score, seen_by

__all__ = ["conclude"]

_SAMPLES, _SIDE, _GAP = 4, 256, 4


def conclude(
    engine: Engine, start: Engine | None, sides: Mapping[str, Sequence[Pair]], run: Path, say: Callable[[str], None]
) -> None:
    """Write `result.json` (PSNR, SSIM of each side of the split) and `samples.png` into `run`, and say the figures.

    start: what the run started from, where the price of a change is to be seen; LPIPS is measured beside where it
    is installed. sides: "validation", "test" -> its pictures; one without pictures is left out. `samples.png` shows
    bicubic, the start, the network and the original of up to four pictures of the last side, 256 px a side.
    """
    engines = {"network": engine} | ({} if start is None else {"start": start})
    engines["bicubic"] = ClassicalEngine("bicubic", engine.scale)
    distance = None if start is None else _lpips()
    result = {}
    for name, pairs in sides.items():
        if not pairs:
            continue
        figures = {who: score(each, pairs)._asdict() for who, each in engines.items()}
        if distance is not None:
            for who, each in engines.items():
                figures[who]["lpips"] = _mean_distance(distance, each, pairs)
        result[name] = figures
        say(f"{name}, {len(pairs)} pictures: " + "; ".join(_sentence(who, known) for who, known in figures.items()))
        with written_whole(run / "samples.png") as part:
            _draw(part, [each for who, each in reversed(engines.items())], pairs[:_SAMPLES])
    with written_whole(run / "result.json") as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")


def _sentence(who: str, known: Mapping[str, float]) -> str:
    text = f"{who} {known['psnr']:.2f} dB, SSIM {known['ssim']:.4f}, RGB {known['psnr_rgb']:.2f} dB"
    return text + (f", LPIPS {known['lpips']:.4f}" if "lpips" in known else "")


def _lpips() -> Distance | None:
    try:
        return open_distance("lpips")
    except EngineError:  # it isn't installed, or its weights aren't here
        return None


def _mean_distance(distance: Distance, engine: Engine, pairs: Sequence[Pair]) -> float:
    made = (enlarged(engine, seen_by(engine, to_unit(pair.small))) for pair in pairs)
    return float(
        np.mean([distance(to_unit(each), to_unit(pair.large)) for each, pair in zip(made, pairs, strict=True)])
    )


def _whole(engine: Engine, window: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    seen = seen_by(engine, window)
    return engine(seen if seen.ndim == 4 else still(seen, engine.frames))


def _draw(path: Path, engines: Sequence[Engine], pairs: Sequence[Pair]) -> None:
    from PIL import Image

    engine = engines[-1]
    canvas = Image.new("RGB", ((len(engines) + 1) * (_SIDE + _GAP), len(pairs) * (_SIDE + _GAP)), "white")
    for row, (_, small, large, *_) in enumerate(pairs):
        side = max(engine.multiple_of, _SIDE // engine.scale // engine.multiple_of * engine.multiple_of)
        top, left = (max(0, (length - side) // 2) for length in small.shape[-3:-1])
        piece = small[..., top : top + side, left : left + side, :]
        rows, cols = (length // engine.multiple_of * engine.multiple_of for length in piece.shape[-3:-1])
        if not (rows and cols):
            continue
        window = to_unit(piece[..., :rows, :cols, :])
        begin, s = (top * engine.scale, left * engine.scale), engine.scale
        truth = large[begin[0] : begin[0] + rows * s, begin[1] : begin[1] + cols * s]
        for column, pixels in enumerate((*(_whole(each, window) for each in engines), truth)):
            shown = Image.fromarray(to_kind(to_unit(pixels), np.dtype(np.uint8)))
            canvas.paste(shown, (column * (_SIDE + _GAP), row * (_SIDE + _GAP)))
    canvas.save(path, format="PNG", optimize=True)
