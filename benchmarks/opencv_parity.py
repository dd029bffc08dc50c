"""OpenCV's own networks, converted, against OpenCV itself: how far Y and RGB lie apart, in 8-bit levels.

    python benchmarks/opencv_parity.py --peers FOLDER ... --pictures FOLDER ...

Each `--peers` holds frozen graphs as OpenCV's users have them (FSRCNN_x2.pb, LapSRN_x2.pb, anywhere below it), each
`--pictures` a data set; its small pictures go through both whole, ours converted by `open_tf_pb` and run in fp32.
Y is seen on the same pictures made grey, whose chroma is nothing. The reference that a conversion is held against
is computed on the upper left 48 x 64 px of each. Exit 1 where Y lies more than 1 level apart, RGB more than 2, or
less than 99 % of the samples within 1. Needs opencv-contrib-python-headless and onnx.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from superfine.color import full_luma, to_kind, to_unit
from superfine.engine import open_engine
from superfine.evaluate.pairs import open_dataset
from superfine.evaluate.peers import open_opencv
from superfine.models import Card, Model, card_to_text
from superfine.weights.network import Network
from superfine.weights.tf_pb import open_tf_pb

Bytes = npt.NDArray[np.uint8]


class Apart(NamedTuple):
    """Of one network: the largest differences, and shares of all samples."""

    pictures: int
    largest_luma: int
    largest: int
    within_one: float
    equal: float
    reference: float

    @property
    def allowed(self) -> bool:
        return self.largest_luma <= 1 and self.largest <= 2 and self.within_one >= 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, nargs="+", required=True)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    paths = sorted(path for folder in given.peers for path in folder.rglob("*.pb"))
    if not paths:
        sys.exit("no .pb below the folders of --peers")
    print(f"{'network':<18}{'pictures':>9}{'Y':>4}{'RGB':>5}{'within 1':>11}{'equal':>10}{'reference':>11}")
    right = []
    for path in paths:
        scale = int(re.fullmatch(r".*_x(\d+)", path.stem)[1])  # type: ignore[index]
        found = apart(path, scale, small_pictures(given.pictures, scale))
        right.append(found.allowed)
        print(
            f"{path.stem:<18}{found.pictures:>9}{found.largest_luma:>4}{found.largest:>5}"
            f"{found.within_one:>11.4%}{found.equal:>10.3%}{found.reference:>11.3f}",
            flush=True,
        )
    print("all within what is allowed" if all(right) else "NOT within what is allowed")
    sys.exit(0 if all(right) else 1)


def apart(path: Path, scale: int, pictures: Iterator[Bytes]) -> Apart:
    network = open_tf_pb(path.read_bytes(), str(path))
    ours, theirs = converted(network), open_opencv(path, scale)
    counts = np.zeros(256, np.int64)
    seen, largest_luma, reference = 0, 0, 0.0
    for rgb in pictures:
        counts += np.bincount(difference(ours(rgb), theirs(rgb)).ravel(), minlength=256)
        grey = np.asarray(to_kind(np.repeat(full_luma(to_unit(rgb))[..., None], 3, -1), np.dtype(np.uint8)), np.uint8)
        largest_luma = max(largest_luma, int(difference(ours(grey), theirs(grey)).max()))
        part = np.ascontiguousarray(rgb[:48, :64])
        reference = max(reference, float(np.abs(network.reference(to_unit(part)) * 255 - ours(part)).max()))
        seen += 1
    share = counts / counts.sum()
    return Apart(seen, largest_luma, int(np.flatnonzero(counts)[-1]), share[:2].sum(), share[0], reference)


def converted(network: Network) -> Callable[[Bytes], Bytes]:
    card = Card(name="converted", scale=network.scale, halo=network.halo, multiple_of=network.multiple_of)
    proto = onnx.load_from_string(network.content)
    onnx.helper.set_model_props(proto, {"superfine": card_to_text(card)})
    engine = open_engine(Model(card, proto.SerializeToString(), "converted.onnx"), precision="fp32")
    return lambda rgb: np.asarray(engine(rgb[None]), np.uint8)


def small_pictures(folders: list[Path], scale: int) -> Iterator[Bytes]:
    for folder in folders:
        dataset = open_dataset(folder, scale)
        for place in range(len(dataset.sources)):
            yield dataset.pair(place).small


def difference(one: Bytes, other: Bytes) -> npt.NDArray[np.int64]:
    return np.abs(one.astype(np.int64) - other)


if __name__ == "__main__":
    main()
