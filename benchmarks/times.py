"""What the networks cost: the times of docs/models.md, side by side.

    python benchmarks/times.py [FILE.onnx ...]

One tile of 384x384, 8 bits in and out, all engines interleaved, median, in the precision that `upscale` takes here,
each engine warm: after a dozen tiles of one shape it has a graph of its own, as in any larger picture (`evaluate`
times the first few). FILE: more networks, exported from runs. Prints Markdown.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from superfine.engine import cores, cpu_features, open_engine
from superfine.models import list_models, read_model

_SIDE, _WARM = 384, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    models = [*list_models(), *(read_model(path) for path in given.files)]
    tile = np.random.default_rng(0).integers(0, 256, (1, _SIDE, _SIDE, 3), dtype=np.uint8)
    engines = {model.card.name: open_engine(model) for model in models}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(given.runs + _WARM):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine(tile)
            if turn >= _WARM:
                seconds[name].append(time.perf_counter() - started)
    print(f"{cpu_features()['name']}, {cores()} cores\n\n| | scale | parameters | ms per Mpx |\n|---|---|---|---|")
    for model in sorted(models, key=lambda model: (model.card.parameters, model.card.scale)):
        milliseconds = statistics.median(seconds[model.card.name]) * 1e3 / (_SIDE * _SIDE / 1e6)
        print(f"| {model.card.name} | {model.card.scale} | {model.card.parameters:,} | {milliseconds:.0f} |")


if __name__ == "__main__":
    main()
