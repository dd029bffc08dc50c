"""The training data: LR is MATLAB's to the bit, batches depend on seed and step alone, no picture is on two sides."""

import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from superfine.classical.degrade import Degradation, degrade
from superfine.classical.resample import matlab_resize
from superfine.color import full_luma
from superfine.errors import TrainingError
from superfine.evaluate.pairs import decode
from superfine.train import data
from superfine.train.config import TrainConfig, to_config
from superfine.train.data import Batches, batch_at, open_data, split, whole_pairs
from superfine.train.drawn import draw_page
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


def test_a_folder_can_be_drawn_from_more_often(photos, tmp_path):
    """Three times as often as its pixels alone would have it; the others as often as each other."""
    wanted = config(often={"b": 3}, batch=4000)
    pictures = open_data(wanted, photos, tmp_path).train
    drawn = np.bincount(data._drawn_places(pictures, 7, 1, wanted.stages[0])[0], minlength=len(pictures))
    area = pictures.table[:, 1] * pictures.table[:, 2]
    share = area * np.where([name.startswith("b/") for name in pictures.names], 3, 1)
    expected = 4000 * share / share.sum()
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(expected.max())
    assert drawn[[name.startswith("b/") for name in pictures.names]].sum() > 4000 * 0.6


def test_luma_and_rgb_see_the_same(photos, tmp_path):
    pictures = open_data(config(), photos, tmp_path).train
    colour, luma = (batch_at(pictures, config(net=net), 3) for net in ("in colour", "in luma"))
    for planes, one in zip(colour, luma, strict=True):
        assert (planes.shape[1], one.shape[1]) == (3, 1)
        assert planes.dtype == one.dtype == torch.float32
        assert 0 <= planes.min() < planes.max() <= 1
        expected = full_luma(planes.numpy().transpose(0, 2, 3, 1).astype(np.float64))
        np.testing.assert_allclose(one[:, 0], expected, atol=1e-6)


def test_a_batch_depends_on_seed_and_step_alone(photos, tmp_path):
    pictures = open_data(config(), photos, tmp_path).train
    for worse in (None, Degradation()):
        wanted = config(degrade=worse)
        first = {step: batch_at(pictures, wanted, step) for step in (1, 2, 3)}
        np.random.seed(5)  # noqa: NPY002 - the old global state must not matter
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            for step in (3, 1, 2):
                assert all(map(torch.equal, batch_at(pictures, wanted, step), first[step]))
        assert not torch.equal(first[1].small, first[2].small)
        assert not torch.equal(batch_at(pictures, config(seed=8, degrade=worse), 1).small, first[1].small)


@pytest.mark.parametrize("worse", [None, Degradation()], ids=["clean", "degraded"])
def test_parts_make_up_the_whole(photos, tmp_path, worse):
    wanted = config(degrade=worse, batch=7)
    pictures = open_data(wanted, photos, tmp_path).train
    whole = batch_at(pictures, wanted, 5)
    for rank in range(3):
        part = slice(rank, None, 3)
        for one, other in zip(batch_at(pictures, wanted, 5, part=part), whole, strict=True):
            assert torch.equal(one, other[part])


def test_a_stage_decides_patch_and_batch(photos, tmp_path):
    given = config().model_dump()
    given["stages"] = [
        {"steps": 2, "patch": 8, "batch": 3, "loss": {"l1": 1}},
        {"steps": 2, "patch": 12, "batch": 2, "loss": {"l1": 1}},
    ]
    wanted = to_config(given, "test")
    pictures = open_data(wanted, photos, tmp_path).train
    shapes = [tuple(batch_at(pictures, wanted, step).large.shape) for step in (2, 3)]
    assert shapes == [(3, 3, 16, 16), (2, 3, 24, 24)]


def test_pictures_are_drawn_by_area_and_turned_all_ways(tmp_path):
    """Chi-square on 1600 draws, with a bound that one seed in a million would miss."""
    (tmp_path / "a").mkdir()
    for name, side in (("1", 32), ("2", 64)):  # the second has four times the area, and is bright
        ramp = np.add.outer(np.arange(side), np.arange(side) * 1.5) * (100 / side) / 2.5
        Image.fromarray(np.uint8(ramp + (120 if name == "2" else 0))).save(tmp_path / "a" / f"{name}.png")
    wanted = config(folders=["a"], batch=1600)
    large = batch_at(open_data(wanted, tmp_path, tmp_path / "run").train, wanted, 1).large[:, 0].numpy()
    bright = int((large.mean((1, 2)) > 110 / 255).sum())
    assert abs(bright - 1280) < 5 * np.sqrt(1600 * 0.8 * 0.2)
    row, col = large[:, -1, 0] - large[:, 0, 0], large[:, 0, -1] - large[:, 0, 0]
    way = (row > 0) * 4 + (col > 0) * 2 + (abs(row) > abs(col))
    counts = np.bincount(way, minlength=8)
    assert ((counts - 200) ** 2 / 200).sum() < 45, counts


def test_a_patch_enlarged_by_its_kernel_lies_where_it_was(photos, tmp_path):
    """Kernels of one pixel leave the luma as it is, to the rounding and the closed form's distrust of it."""
    alone = {"factors": [1], "round": 0, "long": 0, "motion": 0, "misjudged": 0, "noisy": 0, "uneven": 0}
    pictures = open_data(config(net="in luma", scale=1, kernels=alone), photos, tmp_path).train
    batch = batch_at(pictures, config(net="in luma", scale=1, kernels=alone, batch=9), 1)
    assert float((batch.small - batch.large).abs().mean()) < 1 / 255


def test_kernels_are_drawn_alike_for_alike_steps(photos, tmp_path):
    wanted = config(net="in luma", scale=1, kernels={}, batch=5)
    pictures = open_data(wanted, photos, tmp_path).train
    first, again, other = (batch_at(pictures, wanted, step) for step in (1, 1, 2))
    assert torch.equal(first.small, again.small)
    assert not torch.equal(first.small, other.small)
    part = batch_at(pictures, wanted, 1, part=slice(1, None, 2))
    assert torch.equal(part.small, first.small[1::2])


def test_a_whole_picture_is_enlarged_by_the_same_kernel_each_time(photos, tmp_path):
    wanted = config(net="in luma", scale=1, kernels={"factors": [2]}, hold_out={"a": 2}, folders=["a"])
    held = open_data(wanted, photos, tmp_path).validation
    once, twice = (list(whole_pairs(held, wanted)) for _ in range(2))
    for one, two in zip(once, twice, strict=True):
        np.testing.assert_array_equal(one.small, two.small)
        assert one.small.shape == one.large.shape


def test_kernels_need_scale_one(photos):
    with pytest.raises(
        TrainingError, match="data.kernels gives pictures that are enlarged already; it needs scale = 1"
    ):
        config(scale=2, kernels={})


def test_a_degraded_patch_is_the_degraded_neighbourhood(photos, tmp_path, monkeypatch):
    """The patch lies in the middle of what is degraded; borders are replicated."""
    seen = []

    def noted(large, scale, degradation, draw):
        seen.append((large, degrade(large, scale, degradation, draw)))
        return seen[-1][1]

    monkeypatch.setattr(data, "degrade", noted)
    wanted = config(degrade={}, batch=12, patch=10, folders=["a"])
    whole = noise(61, 70)
    (tmp_path / "a").mkdir()
    Image.fromarray(whole).save(tmp_path / "a" / "1.png")
    batch = batch_at(open_data(wanted, tmp_path, tmp_path / "run").train, wanted, 1)
    for (large, made), one, other in zip(seen, *batch, strict=True):
        ((top, left, way),) = places(whole, levels(other))
        around = np.pad(whole[:60], ((16, 16), (16, 16), (0, 0)), "edge")[top : top + 52, left : left + 52]
        np.testing.assert_array_equal(large, around)
        np.testing.assert_array_equal(list(ways(levels(one)))[way], made.small[8:18, 8:18])


def test_pairs_bring_their_own_small_pictures(tmp_path):
    """Same-size pairs are reduced by MATLAB's bicubic first; others are taken as they are; singles stand among them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    large, taken = noise(40, 48), noise(40, 48, seed=1)
    Image.fromarray(large).save(tmp_path / "a" / "1_HR.png")
    Image.fromarray(taken).save(tmp_path / "a" / "1_LR.png")
    Image.fromarray(noise(44, 50, seed=2)).save(tmp_path / "b" / "img_SRF_2_HR.png")
    Image.fromarray(noise(22, 25, seed=3)).save(tmp_path / "b" / "img_SRF_2_LR.png")
    Image.fromarray(noise(60, 60, seed=4)).save(tmp_path / "single.png")
    wanted = config(folders=["."], batch=30, degrade={"clean": 1.0})
    pictures = open_data(wanted, tmp_path, tmp_path / "run").train
    pairs = {pair.name: pair for pair in whole_pairs(pictures, wanted)}
    np.testing.assert_array_equal(pairs["a/1_HR.png"].small, matlab_resize(taken, (20, 24)))
    np.testing.assert_array_equal(pairs["b/img_SRF_2_HR.png"].small, noise(22, 25, seed=3))
    np.testing.assert_array_equal(pairs["single.png"].small, matlab_resize(noise(60, 60, seed=4), (30, 30)))
    found = set()
    for one, other in zip(*batch_at(pictures, wanted, 1), strict=True):
        for name, pair in pairs.items():
            for top, left, way in places(pair.large, levels(other)):
                patch = pair.small[top // 2 : top // 2 + 8, left // 2 : left // 2 + 8]
                np.testing.assert_array_equal(list(ways(levels(one)))[way], patch, name)
                found.add(name)
    assert found == set(pairs)


def test_scale_one_takes_a_same_size_pair_as_it_is(tmp_path):
    for name, seed in (("1_HR", 0), ("1_LR", 1)):
        Image.fromarray(noise(40, 41, seed=seed)).save(tmp_path / f"{name}.png")
    wanted = config(1, folders=["."])
    (pair,) = whole_pairs(open_data(wanted, tmp_path, tmp_path / "run").train, wanted)
    np.testing.assert_array_equal(pair.large, noise(40, 41))
    np.testing.assert_array_equal(pair.small, noise(40, 41, seed=1))


# ---- what is read


def test_whole_pairs_are_the_files(photos, tmp_path):
    wanted = config(3, hold_out={"a": 2}, sizes={"a": [1.0, 0.75], "b": [1.0]})
    kept = open_data(wanted, photos, tmp_path)
    assert kept.validation.names == ("a/4.png", "a/5.png")
    assert {name for name in kept.train.names if name.startswith("a/0")} == {"a/0.png", "a/0.png@0.75"}
    for pictures in (kept.train, kept.validation):
        for name, small, large, *_ in whole_pairs(pictures, wanted):
            file, _, size = name.partition("@")
            theirs = np.asarray(Image.open(photos / file).convert("RGB"))
            if size:
                theirs = matlab_resize(theirs, (int(theirs.shape[0] * 0.75), int(theirs.shape[1] * 0.75)))
            rows, cols = theirs.shape[0] // 3, theirs.shape[1] // 3
            np.testing.assert_array_equal(large, theirs[: rows * 3, : cols * 3], name)
            np.testing.assert_array_equal(small, matlab_resize(large, (rows, cols)))


def test_degraded_whole_pictures_are_always_the_same(photos, tmp_path):
    wanted = config(hold_out={"a": 2}, degrade={})
    pictures = open_data(wanted, photos, tmp_path).validation
    first, second = (list(whole_pairs(pictures, wanted)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.small, other.small)
        assert not np.array_equal(one.small, matlab_resize(one.large, one.small.shape[:2]))


def test_alpha_lies_on_white_and_16_bits_become_8(tmp_path):
    rgba = np.dstack([noise(20, 30), noise(20, 30, seed=1)[..., :1]])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    picture = Image.open(tmp_path / "alpha.png")
    white = Image.new("RGBA", picture.size, "white")
    flat = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    assert np.abs(decode(tmp_path / "alpha.png").astype(int) - flat).max() <= 1
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode(tmp_path / "deep.png")[..., 1], np.rint(deep / 257))


def test_what_is_skipped_is_said(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    whole = (root / "a" / "3.png").read_bytes()
    (root / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(noise(15, 80)).save(root / "b" / "flat.png")
    (root / "b" / "link.png").symlink_to(root / "nowhere.png")
    said: list[str] = []
    kept = open_data(config(hold_out={"a": 1}), root, tmp_path / "run", said.append)
    first, line = said
    assert first == "decoding 12 pictures, once"
    assert len(kept.train) == 8
    assert line.startswith("8 pictures, 0 Mpx for training, 1 for validation; ")
    assert "skipped 4: a/notes.txt (not a picture), a/3.png (damaged or cut off" in line
    assert "b/flat.png (smaller than a patch of 16 px)" in line
    assert line.endswith("b/link.png (there is no such file)")
    said.clear()
    open_data(config(hold_out={"a": 1}), root, tmp_path / "run", said.append)
    assert said == [line]


def test_a_folder_that_was_mended_is_read_again(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    whole = {path: path.read_bytes() for path in root.rglob("*.png")}
    for number, path in enumerate(whole):
        path.write_bytes(b"broken" + bytes([number]))
    with pytest.raises(TrainingError, match="not a picture that superfine reads"):
        open_data(config(), root, tmp_path / "run")
    for path, content in whole.items():
        path.write_bytes(content)
    assert len(open_data(config(), root, tmp_path / "run").train) == 10


def test_nothing_to_train_on(photos, tmp_path):
    with pytest.raises(TrainingError, match="no picture of 400 px or more to train on in .*: a, b; skipped a/notes"):
        open_data(config(patch=200), photos, tmp_path)
    assert not (tmp_path / "split.json").exists(), "what is mended must not meet an old split"
    with pytest.raises(TrainingError, match="c: there is no such folder of pictures; --data names"):
        open_data(config(folders=["a", "c"]), photos, tmp_path)


def test_drawn_pages_join_the_training_pictures(photos, tmp_path):
    wanted = config(3, drawn=2, hold_out={"a": 1})
    kept = open_data(wanted, photos, tmp_path)
    assert kept.train.names[-2:] == ("drawn/0", "drawn/1")
    one, other = list(whole_pairs(kept.train, wanted))[-2:]
    assert one.large.shape == (510, 510, 3)
    assert not np.array_equal(one.large, other.large)


# ---- which side


def names(sides):
    return [{source.name for source in side} for side in sides[:3]]


def test_whole_pictures_go_to_one_side(photos):
    wanted = config(hold_out={"b": 1}, validation=0.25, test=0.34)
    train, validation, test = names(split(wanted, photos))
    assert len(train) + len(validation) + len(test) == len(train | validation | test) == 10
    assert "b/3.png" in validation
    assert (len(validation), len(test)) == (1 + 2, 3)  # shares of the nine that are free
    assert names(split(wanted, photos)) == [train, validation, test]
    others = [
        names(split(config(hold_out={"b": 1}, validation=0.25, test=0.34, seed=seed), photos)) for seed in (1, 2, 3)
    ]
    assert any(other != [train, validation, test] for other in others)


def test_the_same_bytes_stay_on_one_side(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(root / "a" / "5.png", root / "b" / "copy.png")
    (root / "b" / "link.png").symlink_to(root / "a" / "5.png")
    train, validation, _ = names(split(config(hold_out={"a": 1}), root))
    assert validation == {"a/5.png", "b/copy.png"}
    assert len(train) == 9
    for seed in range(5):
        sides = names(split(config(seed=seed, validation=0.3, test=0.3), root))
        assert sum({"a/5.png", "b/copy.png"} <= side for side in sides) == 1


def test_folders_within_folders_count_once(photos):
    train, _, _ = names(split(config(folders=[".", "a"]), photos))
    assert len(train) == 10


def test_a_layouts_own_parts_come_first(tmp_path):
    for seed, folder in enumerate(("train2017", "val2017", "test2017")):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.fromarray(noise(20, 20, seed * 3 + number)).save(tmp_path / folder / f"{number}.png")
    train, validation, test = names(split(config(folders=["."], test=0.34), tmp_path))
    assert validation == {f"val2017/{number}.png" for number in range(3)}
    assert test > {f"test2017/{number}.png" for number in range(3)}
    assert len(train) == 2


def test_the_split_is_stored_and_used_again(photos, tmp_path):
    root, run = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "run"
    wanted = config(validation=0.2, test=0.2)
    first = open_data(wanted, root, run)
    stored = json.loads((run / "split.json").read_text())
    assert {row["name"] for row in stored["validation"]} == set(first.validation.names)
    Image.fromarray(noise(60, 60)).save(root / "a" / "new.png")
    moved = root.rename(tmp_path / "moved")
    again = open_data(wanted, moved, run)
    assert [side.names for side in again] == [side.names for side in first]
    with pytest.raises(TrainingError, match=r"split\.json: the run began with another test; undo that"):
        open_data(config(validation=0.2, test=0.3), moved, run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "is gone since the run began; put it back, or begin anew in another run folder"),
        (lambda path: path.write_bytes(b"x"), "has changed since the run began; put it back"),
    ],
    ids=["gone", "changed"],
)
def test_a_changed_folder_is_refused(photos, tmp_path, change, words):
    root = shutil.copytree(photos, tmp_path / "photos")
    open_data(config(), root, tmp_path / "run")
    for name in ("4.png", "2.png"):
        change(root / "a" / name)
    with pytest.raises(TrainingError, match=rf"a/2\.png: {words}"):
        open_data(config(), root, tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"train": [{}]}'])
def test_a_damaged_split_is_refused(photos, tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(TrainingError, match=r"split\.json: can't be read as a split"):
        open_data(config(), photos, tmp_path)


# ---- decoded once


def test_pictures_are_decoded_once(photos, tmp_path, monkeypatch):
    first = open_data(config(), photos, tmp_path)
    monkeypatch.setattr(data, "decode", lambda path: pytest.fail(f"{path} was decoded again"))
    again = open_data(config(), photos, tmp_path)
    assert torch.equal(again.train.flat, first.train.flat)
    assert (tmp_path / "pictures.u8").stat().st_size == again.train.flat.numel()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: (run / "pictures.json").write_text("{"),
        lambda run: (run / "pictures.u8").write_bytes(b"short"),
        lambda run: (run / "pictures.u8").unlink(),
    ],
    ids=["index", "cut off", "gone"],
)
def test_what_is_damaged_is_decoded_again(photos, tmp_path, spoil):
    before = batch_at(open_data(config(), photos, tmp_path).train, config(), 1)
    spoil(tmp_path)
    assert all(map(torch.equal, batch_at(open_data(config(), photos, tmp_path).train, config(), 1), before))


def test_another_recipe_decodes_anew(photos, tmp_path):
    open_data(config(), photos, tmp_path)
    assert "a/0.png@0.9" in open_data(config(sizes={"a": [0.9]}), photos, tmp_path).train.names
    assert "drawn/0" in open_data(config(drawn=1), photos, tmp_path).train.names
    assert open_data(config(patch=32), photos, tmp_path).train.names == ("a/3.png", "a/4.png", "a/5.png", "b/3.png")


def test_a_kill_while_decoding_leaves_no_index(photos, tmp_path, monkeypatch):
    open_data(config(), photos, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(data, "decode", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_data(config(sizes={"a": [0.9]}), photos, tmp_path)
    assert not (tmp_path / "pictures.json").exists(), "it would speak of another file"
    assert "a/0.png@0.9" in open_data(config(sizes={"a": [0.9]}), photos, tmp_path).train.names


def test_a_full_disk_is_one_sentence(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data, "_write_pair", full)
    with pytest.raises(TrainingError, match="can't be written: No space left on device; make room, or"):
        open_data(config(), photos, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == []


# ---- drawn pages


def test_pages_depend_on_the_dice_alone():
    first, again, other = (draw_page(96, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == ((96, 96, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_pages_have_hard_edges_and_come_dark_and_light():
    """As pages do, and photos don't: much of them is one level, and what isn't has steep edges."""
    pages = [draw_page(256, np.random.default_rng(seed)) for seed in range(40)]
    grey = [full_luma(page.astype(np.float64)) for page in pages]
    steepest = [np.abs(np.diff(page, axis=1)).max() for page in grey]
    flat = [np.mean(np.diff(page, axis=1) == 0) for page in grey]
    assert min(steepest) > 60
    assert np.median(flat) > 0.6
    means = np.array([page.mean() for page in grey])
    assert (means < 100).sum() >= 5
    assert (means > 150).sum() >= 5
    assert len({page.tobytes() for page in pages}) == 40


# ---- made ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_made_ahead_are_the_same(photos, tmp_path, threads):
    pictures = open_data(config(), photos, tmp_path).train
    part = slice(1, None, 2)
    with Batches(pictures, config(), 4, part=part, threads=threads) as batches:
        made = list(batches)
    assert len(made) == 17  # steps 4 to 20
    for step, batch in enumerate(made, 4):
        assert all(map(torch.equal, batch, batch_at(pictures, config(), step, part=part)))


def test_an_error_of_a_batch_comes_where_it_is_asked_for(photos, tmp_path, monkeypatch):
    pictures = open_data(config(), photos, tmp_path).train
    real = batch_at

    def fails_at_three(pictures, config, step, *, part):
        if step == 3:
            raise ValueError("step 3")
        return real(pictures, config, step, part=part)

    monkeypatch.setattr(data, "batch_at", fails_at_three)
    with Batches(pictures, config(), 1) as batches:
        next(batches)
        next(batches)
        with pytest.raises(ValueError, match="step 3"):
            next(batches)
        next(batches)  # step 4 is none the worse


def test_closing_ends_the_thread(photos, tmp_path):
    pictures, before = open_data(config(), photos, tmp_path).train, threading.active_count()
    with Batches(pictures, config(), 1, 10_000) as batches:
        next(batches)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
