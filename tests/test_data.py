"""The training data: LR is MATLAB's to the bit, batches depend on seed and step alone, no picture is on two sides."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from superfine.classical.resample import matlab_resize
from superfine.train.config import TrainConfig, to_config
from superfine.train.data import batch_at, open_data
from superfine.train.nets import NETS

torch.set_num_threads(1)


def config(scale=2, *, batch=6, patch=8, seed=7, net="in colour", **table) -> TrainConfig:
    stages = [{"steps": 20, "patch": patch, "batch": batch, "loss": {"l1": 1.0}}]
    table.setdefault("folders", ["a", "b"])
    return to_config({"net": net, "scale": scale, "seed": seed, "stages": stages, "data": table}, "test")


@pytest.fixture(autouse=True)
def nets(monkeypatch):
    """One network that works in RGB, so that a batch shows what was read, and one in luma."""
    monkeypatch.setitem(NETS, "in colour", SimpleNamespace(colour="rgb"))
    monkeypatch.setitem(NETS, "in luma", SimpleNamespace(colour="luma"))


def noise(rows, cols, seed=0):
    return np.random.default_rng((seed, rows, cols)).integers(0, 256, (rows, cols, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of small pictures, one of them grey, and a file that is none."""
    root = tmp_path_factory.mktemp("photos")
    for folder, count in (("a", 6), ("b", 4)):
        (root / folder).mkdir()
        for number in range(count):
            picture = Image.fromarray(noise(61 + number, 52 + 3 * count, number))
            (picture.convert("L") if number == 1 else picture).save(root / folder / f"{number}.png")
    (root / "a" / "notes.txt").write_text("not a picture")
    return root


def ways(patch):
    """The eight ways in which a square lies."""
    for turned in (patch, patch.transpose(1, 0, 2)):
        for upright in (turned, turned[::-1]):
            yield from (upright, upright[:, ::-1])


def levels(planes):
    """(C, H, W) in 0..1 -> (H, W, C) uint8."""
    return np.rint(planes.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)


def places(large, patch):
    """Where `patch` lies in `large`, however turned: (top, left, way)."""
    for way, turned in enumerate(ways(patch)):
        side = len(turned)
        windows = np.lib.stride_tricks.sliding_window_view(large[..., 0], (side, side))
        for top, left in np.argwhere(
            (windows[..., 0, 0] == turned[0, 0, 0]) & (windows[..., -1, 1] == turned[-1, 1, 0])
        ):
            if np.array_equal(large[top : top + side, left : left + side], turned):
                yield int(top), int(left), way


# ---- what a batch is


@pytest.mark.parametrize("shape", [(61, 70), (40, 41), (33, 90)], ids=str)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_patches_are_cut_from_matlabs_reduction_of_the_whole(tmp_path, scale, shape):
    """To the bit, inside and at the borders."""
    whole = noise(*shape)
    (tmp_path / "a").mkdir()
    Image.fromarray(whole).save(tmp_path / "a" / "1.png")
    side = min(shape) // scale
    wanted = config(scale, folders=["a"], patch=max(side - 3, side // 2), batch=24)
    pictures = open_data(wanted, tmp_path, tmp_path / "run").train
    rows, cols = shape[0] // scale, shape[1] // scale
    large = whole[: rows * scale, : cols * scale]
    small = matlab_resize(large, (rows, cols))
    batch = batch_at(pictures, wanted, 1)
    for one, other in zip(batch.small, batch.large, strict=True):
        ((top, left, way),) = places(large, levels(other))
        top, left, patch = top // scale, left // scale, wanted.stages[0].patch
        np.testing.assert_array_equal(
            list(ways(levels(one)))[way], small[top : top + patch, left : left + patch], f"at {top}, {left}"
        )
