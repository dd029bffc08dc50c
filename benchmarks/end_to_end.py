"""The whole job as a process: a 12-Mpx JPEG x2, a 512x512 picture from a cold start, and memory.

    python benchmarks/end_to_end.py [--runs 5]

Makes its pictures from examples/photo.png. Peak memory is the operating system's
own figure for the finished process (ru_maxrss). Close other programs first.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips

import superfine
from superfine.engine import cpu_features
from superfine.tiles import Grid, Window, enlarge

PHOTO = Path(__file__).parents[1] / "examples" / "photo.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(f"{cpu_features()['name']}, medians of {runs} interleaved runs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = pyvips.Image.new_from_file(str(PHOTO))
        large = photo.resize(4000 / photo.width, vscale=3000 / photo.height)
        large.jpegsave(str(folder / "large.jpg"), Q=92)
        photo.resize(512 / photo.width, vscale=512 / photo.height).pngsave(str(folder / "small.png"))
        pixels = pyvips.Image.new_from_file(str(folder / "large.jpg")).numpy()
        engine = superfine.load_model("fast", 2)

        def inference() -> None:
            source = Window(pixels.shape, pixels.dtype, [pixels])
            for _ in enlarge(source, Grid(2, engine.halo, 1), 384, lambda piece: engine(piece[None])):
                pass

        inference()
        alone, inside, whole, memory, cold = [], [], [], [], []
        for _ in range(runs):
            alone.append(seconds(inference))
            inside.append(
                seconds(
                    lambda: superfine.upscale_path(
                        folder / "large.jpg", job=superfine.Job(model="fast"), overwrite=True
                    )
                )
            )
            took, peak = process(folder / "large.jpg")
            whole.append(took)
            memory.append(peak)
            cold.append(process(folder / "small.png")[0])
    print(f"12 Mpx JPEG x2, inference alone          {statistics.median(alone):7.2f} s")
    print(f"  decode, enlarge, encode                {statistics.median(inside):7.2f} s")
    print(f"  ratio, run by run                      {statistics.median(np.divide(inside, alone)):7.2f}")
    print(
        f"  as a process of its own                {statistics.median(whole):7.2f} s,"
        f" peak {statistics.median(memory):.2f} GB"
    )
    print(f"512x512 PNG x2, cold process             {statistics.median(cold):7.2f} s")


def seconds(work) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def process(source: Path) -> tuple[float, float]:
    """(seconds, GB at the peak) of `superfine upscale` as a process."""
    started = time.perf_counter()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "superfine", "upscale", str(source), "--model", "fast", "--overwrite", "--json"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"superfine failed on {source}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
