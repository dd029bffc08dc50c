"""The loader beside a training step: milliseconds a batch, on one thread, the two timed in turns.

    python benchmarks/loader.py --data FOLDER [--net residual-32x8] [--steps 20]

FOLDER holds pictures. A loader that is slower than the network is a defect. Prints the median wall time of a
batch of 16 patches of 48 x 48, and the least, which says what an idle machine would do.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from superfine.train.config import TrainConfig, to_config
from superfine.train.data import Pictures, batch_at, open_data
from superfine.train.nets import NETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", default="residual-32x8")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for colour in ("luma", "rgb"):
        NETS[colour] = SimpleNamespace(colour=colour)  # only how its batches look
    print("|  | clean, luma | clean, RGB | degraded, luma | degraded, RGB | a step of", given.net, "|")
    print("|---|---|---|---|---|---|")
    for scale in (2, 4):
        with tempfile.TemporaryDirectory() as run:
            pictures = open_data(recipe("luma", scale, worse=False), given.data, Path(run)).train.to(given.device)
            work = {}
            for worse in (False, True):
                for colour in ("luma", "rgb"):
                    work[colour, worse] = loader(pictures, recipe(colour, scale, worse=worse))
            if given.net in NETS:
                work["step"] = training(given.net, pictures, recipe(given.net, scale, worse=False))
            times: dict[object, list[float]] = {key: [] for key in work}
            for step in range(1, given.steps + 4):
                for key, call in work.items():
                    start = time.perf_counter()
                    call(step)
                    if given.device != "cpu":
                        torch.cuda.synchronize()
                    if step > 3:  # the first ones warm up
                        times[key].append((time.perf_counter() - start) * 1e3)
        cells = [f"{statistics.median(row):.1f} ms (least {min(row):.1f})" for row in times.values()]
        print(f"| x{scale} |", " | ".join(cells), "|")


def recipe(net: str, scale: int, *, worse: bool) -> TrainConfig:
    stage = {"steps": 1000, "patch": 48, "batch": 16, "loss": {"l1": 1.0}}
    data = {"degrade": {}} if worse else {}
    return to_config({"net": net, "scale": scale, "stages": [stage], "data": data}, "benchmark")


def loader(pictures: Pictures, config: TrainConfig) -> Callable[[int], object]:
    return lambda step: batch_at(pictures, config, step)


def training(name: str, pictures: Pictures, config: TrainConfig) -> Callable[[int], object]:
    """A step in bf16 on one batch that is there already."""
    batch, device = batch_at(pictures, config, 1), pictures.flat.device
    net = NETS[name].build(config.scale).to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters())

    def step(_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            output = net(batch.small)
        loss = torch.nn.functional.l1_loss(output.float(), batch.large)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
