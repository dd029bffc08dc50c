"""The table of docs/models.md: every network side by side, with nearest and bicubic.

    python benchmarks/networks.py --data FOLDER [FILE.onnx ...]

FOLDER/Set5 and FOLDER/Set14 hold pairs *HR*, *LR* (at any depth, scales told apart by
`_SRF_2_` in their names). PSNR on Y (BT.601 limited, float), border of the scale
cropped. Time: one tile of 384x384, all engines interleaved, median, in the precision
that `upscale` takes here. FILE: more networks, exported from runs. Prints Markdown.

    python benchmarks/networks.py --paired FOLDER --degraded FOLDER

FOLDER of real pairs of the same size (City100): the last six of each camera, LR reduced
by the scale and enlarged again, beside bicubic and LR as it is; FOLDER of clean pictures:
its last twenty by name, degraded by `classical.degrade`'s defaults with a fixed seed.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from superfine.classical.degrade import Degradation, degrade
from superfine.classical.resample import matlab_resize, resize
from superfine.color import limited_luma, to_unit
from superfine.engine import cpu_features, open_engine
from superfine.evaluate.metrics import crop_border, psnr, ssim
from superfine.image import open_picture
from superfine.models import Model, list_models, read_model

SCALES = (2, 3, 4)
SETS = ("Set5", "Set14")
Pixels = np.ndarray
Pair = tuple[str, Pixels, Pixels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--paired", type=Path)
    parser.add_argument("--degraded", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    models = [*list_models(), *(read_model(path) for path in given.files)]
    print(cpu_features()["name"])
    if given.data:
        classics(given.data, models, given.runs)
    for title, make, folder in (("real pairs", paired, given.paired), ("degraded", degraded, given.degraded)):
        for scale in (2, 4) if folder else ():
            against_damage(f"{title} x{scale}", list(make(folder, scale)), models, scale)


def classics(data: Path, models: Iterable[Model], runs: int) -> None:
    """Parameters, time, and PSNR on Set5 and Set14."""
    pairs = {(name, scale): list(pairs_of(data, name, scale)) for name in SETS for scale in SCALES}
    print("| | scale | parameters | ms per Mpx | Set5 | SSIM | Set14 |\n|---|---|---|---|---|---|---|")
    milliseconds = times(models, runs)
    for name in ("nearest", "bicubic"):
        for scale in SCALES:

            def classical(small: Pixels, name: str = name, scale: int = scale) -> Pixels:
                unit = to_unit(small)
                return resize(unit, (unit.shape[0] * scale, unit.shape[1] * scale), name)

            row(name, scale, 0, 0.0, classical, pairs)
    for model in sorted(models, key=lambda model: (model.card.parameters, model.card.scale)):
        card = model.card
        row(card.name, card.scale, card.parameters, milliseconds[card.name], run_of(model), pairs)


def run_of(model: Model) -> Callable[[Pixels], Pixels]:
    """The whole picture through tiles, float in and out."""
    from superfine.tiles import Grid, Window, enlarge

    engine = open_engine(model)
    grid = Grid(engine.scale, engine.halo, engine.multiple_of)

    def run(small: Pixels) -> Pixels:
        unit = to_unit(small)
        bands = enlarge(Window(unit.shape, unit.dtype, [unit]), grid, model.card.tile, lambda tile: engine(tile[None]))
        return np.concatenate(list(bands))

    return run


def row(name, scale, parameters, milliseconds, run, pairs) -> None:  # type: ignore[no-untyped-def]
    cells = []
    for test in SETS:
        values = [judge(run(small), large, scale) for _, small, large in pairs[test, scale]]
        mean = np.mean(values, axis=0)
        cells += [f"{mean[0]:.2f}", f"{mean[1]:.4f}"] if test == "Set5" else [f"{mean[0]:.2f}"]
    print(f"| {name} | {scale} | {parameters:,} | {milliseconds:.0f} | {' | '.join(cells)} |", flush=True)


def judge(output: Pixels, target: Pixels, scale: int) -> tuple[float, float]:
    y, wanted = (
        limited_luma(crop_border(to_unit(pixels), scale).astype(np.float64).clip(0, 1)) for pixels in (output, target)
    )
    return psnr(y, wanted), ssim(y, wanted)


def times(models: Iterable[Model], runs: int) -> dict[str, float]:
    """Name -> ms per Mpx of input, medians of interleaved runs on one tile of 384x384, 8 bits."""
    tile = np.random.default_rng(0).integers(0, 256, (1, 384, 384, 3), dtype=np.uint8)
    engines = {model.card.name: open_engine(model) for model in models}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(runs + 14):  # the engine prepares itself for a shape after a dozen of it
        for name, engine in engines.items():
            started = time.perf_counter()
            engine(tile)
            if turn >= 14:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) * 1e3 / (384 * 384 / 1e6) for name, each in seconds.items()}


def against_damage(title: str, pairs: list[Pair], models: Iterable[Model], scale: int) -> None:
    """`photo`, `balanced` and bicubic on pictures that aren't clean."""
    print(f"\n| {title}, {len(pairs)} pictures | PSNR of Y | SSIM |\n|---|---|---|")
    runs: dict[str, Callable[[Pixels], Pixels]] = {
        "bicubic": lambda small: resize(to_unit(small), (small.shape[0] * scale, small.shape[1] * scale), "bicubic")
    }
    runs |= {model.card.name: run_of(model) for model in models if model.card.scale == scale}
    rows = {name: [judge(run(small), large, scale) for _, small, large in pairs] for name, run in runs.items()}
    same_size = [judge(as_is, large, scale) for as_is, _, large in pairs if isinstance(as_is, np.ndarray)]
    if same_size:
        rows["LR as it is"] = same_size
    for name, values in rows.items():
        mean = np.mean(values, axis=0)
        print(f"| {name} | {mean[0]:.2f} | {mean[1]:.4f} |", flush=True)


def paired(folder: Path, scale: int) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """(LR as it is, LR reduced by `scale`, HR) of the last six of each camera."""
    for camera in sorted({path.parent for path in folder.rglob("*_HR.*")}):
        for path in sorted(camera.glob("*_HR.*"))[-6:]:
            large, as_is = (read(each) for each in (path, path.with_name(path.name.replace("_HR", "_LR"))))
            rows, cols = (side // scale for side in large.shape[:2])
            large, as_is = (pixels[: rows * scale, : cols * scale] for pixels in (large, as_is))
            yield as_is, matlab_resize(np.ascontiguousarray(as_is), (rows, cols)), large


def degraded(folder: Path, scale: int) -> Iterator[Pair]:
    for place, path in enumerate(sorted(entry for entry in folder.iterdir() if entry.is_file())[-20:]):
        large = read(path)
        large = np.ascontiguousarray(large[: large.shape[0] // scale * scale, : large.shape[1] // scale * scale])
        draw = np.random.default_rng((1, place))
        yield path.name, degrade(large, scale, Degradation(clean=0.0), draw).small, large


def pairs_of(data: Path, name: str, scale: int) -> Iterator[Pair]:
    for path in sorted((data / name).rglob(f"*_SRF_{scale}_HR.*")):
        yield path.name, read(path.with_name(path.name.replace("_HR", "_LR"))), read(path)


def read(path: Path) -> Pixels:
    pixels = np.concatenate(list(open_picture(path).bands()))[..., :3]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


if __name__ == "__main__":
    main()
