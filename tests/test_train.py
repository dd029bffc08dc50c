"""Training: resumed is unbroken, to the bit; nothing is lost, nothing leaks, nothing misspelt passes."""

import json
import pickle
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from superfine.classical.resample import matlab_resize
from superfine.color import limited_luma
from superfine.errors import TrainingError
from superfine.evaluate.metrics import crop_border, psnr
from superfine.train import loop, state
from superfine.train.config import TrainConfig, read_recipe
from superfine.train.data import Pair, batch_at, load_pairs
from superfine.train.loop import rate_at, train, validate
from superfine.train.nets import NETS

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
TINY = TrainConfig(
    net="plain-16x11", scale=2, folders=("a", "b"), steps=10, batch=2, patch=8, warm_up=3, finish_steps=3,
    validate_every=4, save_every=5, hold_out={"a": 1}, precision="fp32", seed=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of small pictures: smooth, in colour, one of them grey."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for folder, count in (("a", 4), ("b", 2)):
        (root / folder).mkdir()
        for number in range(count):
            small = Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8))
            picture = small.resize((45 + number, 37), Image.Resampling.BICUBIC)
            (picture.convert("L") if number == 1 else picture).save(root / folder / f"{number}.png")
    (root / "a" / "notes.txt").write_text("not a picture")
    return root


def parts(of):
    """All that a state is, as plain values and tensors."""
    return {
        "net": of.net.state_dict(),
        "ema": of.ema.state_dict(),
        "optimizer": of.optimizer.state_dict(),
        "step": of.step,
    }


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def broken_off(config, photos, run, at, monkeypatch):
    """Train, and be killed at the beginning of step `at`."""

    def step_or_die(state, pairs, config, step):
        if step == at:
            raise KeyboardInterrupt
        return real(state, pairs, config, step)

    real = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(config, photos, run)


# ---- resume


@pytest.mark.parametrize("at", [6, 8], ids=["as it was saved", "with steps to do again"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_equals_unbroken_to_the_bit(photos, tmp_path, precision, at, monkeypatch):
    config = replace(TINY, precision=precision)
    unbroken = train(config, photos, tmp_path / "unbroken")
    broken_off(config, photos, tmp_path / "resumed", at, monkeypatch)
    assert state.resume(tmp_path / "resumed" / "last.pt", config).step == 5
    torch.manual_seed(99)  # whatever happened in between
    resumed = train(config, photos, tmp_path / "resumed")
    assert_equal(parts(resumed), parts(unbroken))
    assert not torch.equal(unbroken.net.head.expand, state.begin(config).net.head.expand), "nothing was learned"
    assert not torch.equal(unbroken.net.head.expand, unbroken.ema.head.expand)


def test_a_finished_run_stays_as_it_is(photos, tmp_path):
    done = train(TINY, photos, tmp_path)
    before = (tmp_path / "last.pt").stat().st_mtime_ns
    assert_equal(parts(train(TINY, photos, tmp_path)), parts(done))
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-4}, {"seed": 8}, {"folders": ("a",)}, {"hold_out": {"a": 2}}, {"scale": 3}], ids=str
)
def test_another_config_does_not_go_on(tmp_path, change):
    path = tmp_path / "last.pt"
    state.save(path, state.begin(TINY), TINY)
    with pytest.raises(TrainingError, match=f"was made with another {next(iter(change))}; choose another run folder"):
        state.resume(path, replace(TINY, **change))


def test_a_run_may_become_longer(tmp_path):
    path = tmp_path / "last.pt"
    state.save(path, state.begin(TINY), TINY)
    assert state.resume(path, replace(TINY, steps=20, threads=2)).step == 0


def test_there_is_nothing_to_resume(tmp_path):
    assert state.resume(tmp_path / "last.pt", TINY) is None


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["kill", "disk full"]
)
def test_saving_that_breaks_off_leaves_the_old_state(tmp_path, monkeypatch, error):
    path, old = tmp_path / "last.pt", state.begin(TINY)
    state.save(path, old, TINY)

    def half(content, file):
        Path(file).write_bytes(b"half")
        raise error

    new = state.begin(replace(TINY, seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(type(error)):
            state.save(path, new, TINY)
    assert_equal(parts(state.resume(path, TINY)), parts(old))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"half a state"),
        lambda path: path.write_bytes(pickle.dumps(Evil())),
        lambda path: torch.save({"config": Evil()}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"config": {}}, path),
        cut,
    ],
    ids=["empty", "text", "evil pickle", "evil in a zip", "a list", "too little", "cut"],
)
def test_a_damaged_or_evil_state_is_refused(tmp_path, write):
    path = tmp_path / "last.pt"
    state.save(path, state.begin(TINY), TINY)
    write(path)
    with pytest.raises(TrainingError, match=r"last\.pt: is not the state of a run, or is cut off; give another"):
        state.resume(path, TINY)


def test_a_start_from_another_scale_lends_what_fits(tmp_path):
    path = tmp_path / "x2.pt"
    lent = state.begin(TINY)
    state.save(path, lent, TINY)
    own = state.begin(replace(TINY, scale=3, seed=1, start_from=str(path)))
    for name, value in own.net.state_dict().items():
        fits = name.startswith(("head", "body")) or name == "tail.expand"
        assert torch.equal(value, lent.ema.state_dict()[name]) == fits, name
    assert_equal(own.net.state_dict(), own.ema.state_dict())
    with pytest.raises(TrainingError, match="nowhere.pt: is not the state of a run"):
        state.begin(replace(TINY, start_from=str(tmp_path / "nowhere.pt")))


# ---- the loop


def test_a_loss_that_is_not_finite_stops_the_run(photos, tmp_path, monkeypatch):
    real = loop.batch_at

    def batch(pairs, config, step):
        small, large = real(pairs, config, step)
        return small, large * float("nan") if step == 7 else large

    monkeypatch.setattr(loop, "batch_at", batch)
    with pytest.raises(TrainingError, match="the loss is nan at step 7; lower learning_rate"):
        train(TINY, photos, tmp_path)
    assert state.resume(tmp_path / "last.pt", TINY).step == 5


def test_rates():
    config = replace(TINY, steps=103, learning_rate=1e-3, last_rate=1e-5)
    assert rate_at(1, config) == pytest.approx(1e-3 / 3)
    assert rate_at(3, config) == pytest.approx(1e-3)
    assert rate_at(53, config) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate_at(103, config) == pytest.approx(1e-5)
    rates = [rate_at(step, config) for step in range(3, 104)]
    assert rates == sorted(rates, reverse=True)


def test_the_log_has_a_line_for_each_validation(photos, tmp_path):
    said: list[str] = []
    train(TINY, photos, tmp_path, say=said.append)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [int(re.search(r'"step": (\d+)', line)[1]) for line in lines] == [4, 8, 10]
    assert all('"psnr": ' in line for line in lines)
    assert said[0] == "5 pictures, 0 Mpx; 1 held out"


def test_validation_is_the_papers_number(photos):
    """Against the long way: enlarge RGB, take limited luma, crop, compare."""
    pairs, net = load_pairs(photos, TINY, held_out=True), state.begin(TINY).net
    values = []
    for pair in pairs:
        planes = torch.from_numpy(pair.lr.transpose(2, 0, 1).copy())[None] / 255
        with torch.no_grad():
            large = net(planes)[0].numpy().transpose(1, 2, 0).astype(np.float64)
        values.append(psnr(crop_border(limited_luma(large), 2), crop_border(limited_luma(pair.hr / 255.0), 2)))
    assert validate(net, pairs, 2) == pytest.approx(np.mean(values), abs=1e-4)


# ---- pictures


def test_held_out_pictures_are_never_trained_on(photos):
    taught = {pair.name for pair in load_pairs(photos, TINY)}
    kept = {pair.name for pair in load_pairs(photos, TINY, held_out=True)}
    assert kept == {"a/3.png@1"}
    assert taught == {"a/0.png@1", "a/1.png@1", "a/2.png@1", "b/0.png@1", "b/1.png@1"}


def test_holding_out_more_than_there_are_leaves_none(photos):
    config = replace(TINY, hold_out={"a": 9})
    assert {pair.name[0] for pair in load_pairs(photos, config)} == {"b"}
    assert len(load_pairs(photos, config, held_out=True)) == 4


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_small_pictures_are_matlabs_reduction_of_the_large(photos, scale):
    config = replace(TINY, scale=scale, patch=4, reduce={"b": (1.0, 0.5)})
    pairs = load_pairs(photos, config)
    assert {pair.name for pair in pairs} >= {"b/0.png@1", "b/0.png@0.5"}
    for _, lr, hr in pairs:
        assert hr.shape == (lr.shape[0] * scale, lr.shape[1] * scale, 3)
        np.testing.assert_array_equal(lr, matlab_resize(hr, lr.shape[:2]))


def test_a_picture_is_read_as_pillow_reads_it(photos):
    for name, lr, hr in load_pairs(photos, TINY):
        theirs = np.asarray(Image.open(photos / name.removesuffix("@1")).convert("RGB"))
        np.testing.assert_array_equal(hr, theirs[: lr.shape[0] * 2, : lr.shape[1] * 2])


def test_a_batch_depends_on_seed_and_step_alone(photos):
    pairs = load_pairs(photos, TINY)
    wanted = {step: batch_at(pairs, TINY, step) for step in (1, 2, 3)}
    np.random.seed(5)  # noqa: NPY002 - the old global state must not matter
    torch.manual_seed(5)
    for step in (3, 1, 2):
        for one, other in zip(batch_at(pairs, TINY, step), wanted[step], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(wanted[1][0], wanted[2][0])
    assert not torch.equal(batch_at(pairs, replace(TINY, seed=8), 1)[0], wanted[1][0])


def test_patches_of_a_batch_belong_together():
    """Each large sample carries the level of its small pixel, so turns and flips must agree."""
    lr = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    pairs = [Pair("a", lr, lr.repeat(3, axis=0).repeat(3, axis=1))]
    config = replace(TINY, scale=3, batch=32)
    small, large = batch_at(pairs, config, 1)
    assert (small.shape, large.shape) == ((32, 1, 8, 8), (32, 1, 24, 24))
    assert (small.dtype, large.dtype) == (torch.float32, torch.float32)
    assert torch.equal(small.repeat_interleave(3, 2).repeat_interleave(3, 3), large)
    assert 0 <= small.min() < small.max() <= 1


def test_every_turn_and_flip_comes(photos):
    lr = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
    pairs = [Pair("a", lr, lr.repeat(2, axis=0).repeat(2, axis=1))]
    small, _ = batch_at(pairs, replace(TINY, batch=100), 1)
    assert len({patch.numpy().tobytes() for patch in small}) == 8


def test_nothing_to_train_on(photos):
    with pytest.raises(TrainingError, match="no picture of 200 px or more in .*: a, b"):
        load_pairs(photos, replace(TINY, patch=100))
    with pytest.raises(TrainingError, match="c: there is no such folder of pictures; --data names"):
        load_pairs(photos, replace(TINY, folders=("a", "c")))


# ---- recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read(path):
    config = read_recipe(path)
    assert config.net in NETS
    assert path.stem.endswith(f"-x{config.scale}")
    assert config.hold_out, "its dB would be measured on what it was trained on"
    assert 0 < config.finish_steps < config.steps


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"fast-x2", "fast-x3", "fast-x4"}


GOOD = 'net = "plain-16x11"\nscale = 2\nfolders = ["a"]\nsteps = 10\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "learnig_rate = 1", r"unknown learnig_rate; known: batch, .*learning_rate"),
        (GOOD.replace("steps", "step"), "unknown step;"),
        ("scale = 2", "folders, net, steps missing"),
        ("scale = ", "can't be read as a recipe"),
        (GOOD + 'loss = "l3"', "loss = 'l3'; want 'l1' or 'mse'"),
        (GOOD + 'precision = "fp16"', "precision = 'fp16'; want 'bf16' or 'fp32'"),
        (GOOD + "patch = 0", "patch = 0; want a whole number from 1"),
        (GOOD + "batch = 1.5", "batch = 1.5; want a whole number from 1"),
        (GOOD + "hold_out = {b = 3}", "hold_out speaks of b, which is not among the folders"),
        (GOOD + "reduce = {aa = [0.5]}", "reduce speaks of aa, which is not among the folders"),
    ],
    ids=range(10),
)
def test_a_wrong_recipe(tmp_path, text, words):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(TrainingError, match=rf"my\.toml: {words}"):
        read_recipe(tmp_path / "my.toml")


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(TrainingError, match=r"my\.toml: can't be read as a recipe"):
        read_recipe(tmp_path / "my.toml")


def test_changes_replace_values(tmp_path):
    (tmp_path / "my.toml").write_text(GOOD)
    config = read_recipe(tmp_path / "my.toml", MappingProxyType({"steps": 3}))
    assert asdict(config) == asdict(TrainConfig(net="plain-16x11", scale=2, folders=("a",), steps=3))


def test_an_unknown_net(photos, tmp_path):
    with pytest.raises(TrainingError, match="no net 'edsr'; there are plain-16x11"):
        train(replace(TINY, net="edsr"), photos, tmp_path)


# ---- by command


@pytest.mark.slow
def test_the_command_trains_and_goes_on(photos, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(GOOD.replace("10", "4") + 'batch = 1\npatch = 8\nprecision = "fp32"\n')
    command = [sys.executable, "-m", "superfine.train", str(recipe), "--data", str(photos)]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert '"step": 4' in first.stderr
    recipe.write_text(recipe.read_text().replace("steps = 4", "steps = 6"))
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert '"step": 6' in second.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "runs" / "tiny" / "log.jsonl").read_text().splitlines()]
    assert steps == [4, 6]
    recipe.write_text("sclae = 2")
    third = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert third.returncode == 1
    assert third.stderr.startswith(f"{recipe}: unknown sclae;")
