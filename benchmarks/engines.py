"""`fast` against its peers, side by side: OpenCV's dnn_superres, and ESPCN's architecture in our own engine.

    python benchmarks/engines.py --peers FOLDER [--picture FILE] [--runs 7]

FOLDER holds FSRCNN_x2.pb and ESPCN_x2.pb as OpenCV's users have them (anywhere
below it). Needs opencv-contrib-python-headless. All see the same 8-bit picture in
memory and give 8-bit RGB; runs are interleaved, the median counts, and so does
the ratio run by run. Close other programs first.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

import superfine
from superfine.engine import cpu_features
from superfine.image import open_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "examples" / "photo.png")
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    rgb = np.ascontiguousarray(np.concatenate(list(open_picture(given.picture).bands()))[..., :3])
    scale = 2
    contenders: dict[str, Callable[[], object]] = {
        "superfine fast": lambda: superfine.upscale(rgb, scale, model="fast"),
    }
    engine = superfine.load_model("fast", scale)
    contenders["  its engine alone, in tiles of 384"] = lambda: in_tiles(engine)
    larger = {name: superfine.load_model(name, scale) for name in ("balanced", "best", "photo")}
    for name, network_engine in larger.items():
        contenders[f"  {name}, its engine alone, in tiles of 384"] = lambda run=network_engine: in_tiles(run)
    espcn = espcn_in_openvino(scale)
    contenders["  ESPCN's layers in the same engine and tiles"] = lambda: in_tiles(espcn)
    for name in ("ESPCN", "FSRCNN"):
        network = cv2.dnn_superres.DnnSuperResImpl.create()
        network.readModel(str(next(given.peers.rglob(f"{name}_x{scale}.pb"))))
        network.setModel(name.lower(), scale)
        contenders[f"OpenCV {name}"] = lambda network=network: network.upsample(rgb)

    tiles = [
        np.ascontiguousarray(rgb[None, r : r + 384, c : c + 384])
        for r in range(0, rgb.shape[0] - 383, 358)
        for c in range(0, rgb.shape[1] - 383, 358)
    ]
    if not tiles:
        sys.exit("the picture is smaller than 384 x 384; give a larger one with --picture")

    def in_tiles(run: Callable[[np.ndarray], object]) -> None:
        for tile in tiles:
            run(tile)

    share = {name: len(tiles) * 384**2 if name.startswith(" ") else rgb.shape[0] * rgb.shape[1] for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(given.runs + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[name].append((time.perf_counter() - started) / share[name] * 1e6)
    print(
        f"{cpu_features()['name']}, {rgb.shape[1]}x{rgb.shape[0]} x{scale},"
        f" OpenVINO {version('openvino')}, OpenCV {cv2.__version__}, {given.runs} interleaved runs"
    )
    for name, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(times, seconds["superfine fast"], strict=True)]
        print(
            f"{name:<46}{statistics.median(times) * 1e3:9.1f} ms/Mpx"
            f"  {statistics.median(ratios):6.2f} x the time of fast"
        )


def espcn_in_openvino(scale: int) -> Callable[[np.ndarray], object]:
    """ESPCN's layers (arXiv:1609.05158: 64 of 5x5, 32 of 3x3, tanh), our end, random weights: for time only."""
    # Here, since superfine imports openvino without its announcement to its maker.
    from openvino import opset13 as op

    from superfine.engine import OpenVINOEngine
    from superfine.models import find_model

    class Espcn(OpenVINOEngine):
        def __init__(self) -> None:
            super().__init__(next(model for model in find_model("fast") if model.card.scale == scale))
            draw = np.random.default_rng(0)
            nodes = self._graph.get_ordered_ops()
            tail = [node for node in nodes if node.get_type_name() == "Convolution"][-1]
            y = self._graph.get_parameters()[0].output(0)
            for inputs, outputs, side, last in ((3, 64, 5, False), (64, 32, 3, False), (32, scale * scale, 3, True)):
                weight = op.constant((draw.standard_normal((outputs, inputs, side, side)) * 0.05).astype(np.float32))
                pad = [side // 2, side // 2]
                y = op.add(
                    op.convolution(y, weight, [1, 1], pad, pad, [1, 1]),
                    op.constant(np.zeros((1, outputs, 1, 1), np.float32)),
                )
                y = y if last else op.tanh(y)
            tail.output(0).replace(y.output(0))
            self._graph.validate_nodes_and_infer_types()

    return Espcn()


if __name__ == "__main__":
    main()
