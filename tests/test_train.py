"""Training: resumed is unbroken, to the bit; nothing is lost, nothing leaks, nothing misspelt passes."""

import json
import math
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from superfine.errors import TrainingError, UsageError
from superfine.train import loop, state
from superfine.train.config import changed, read_recipe, to_config
from superfine.train.listener import Listener
from superfine.train.log import read_log
from superfine.train.loop import BEST, rate_at, train
from superfine.train.nets import NETS
from superfine.train.pretrained import STATE, load_averaged, load_pretrained, read_state

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
TINY = """
net = "plain-16x11"
scale = 2
precision = "fp32"
seed = 7
validate_every = 4
save_every = 5
data = {folders = ["a", "b"], hold_out = {a = 1}}
stages = [{steps = 7, batch = 2, patch = 6, loss = {l1 = 1.0}}, {steps = 3, batch = 2, patch = 8, loss = {mse = 1.0}}]
optimizer = {warm_up = 3}
"""


def tiny(*changes):
    return to_config(changed(tomllib.loads(TINY), changes), "tiny.toml")


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
    return root


def parts(of):
    """All that a state is, as plain values and tensors."""
    opponent = of.opponent and (of.opponent.net.state_dict(), of.opponent.optimizer.state_dict())
    whole = {"net": of.net.state_dict(), "ema": of.ema.state_dict(), "optimizer": of.optimizer.state_dict()}
    return whole | {"opponent": opponent, "step": of.step, "best": of.best}


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def broken_off(config, photos, run, at, monkeypatch):
    """Train, and be killed at the beginning of step `at`."""

    def step_or_die(fight, state, batch, config, step):
        if step == at:
            raise KeyboardInterrupt
        return real(fight, state, batch, config, step)

    real = loop._train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(config, photos, run)


# ---- resume

ADVERSARY = (
    'critic={name="patch", penalty=1.0}',
    "stages.0.loss={l1=1.0, adversarial=0.01}",
    "stages.0.patch=16",
    "stages.1.patch=16",
)
FEATURES = (
    'critic={name="patch", contest="relativistic"}',
    'features={of="critic"}',
    "stages.0.loss={l1=1.0, adversarial=0.01, features=0.1, style=0.1}",
    "stages.0.patch=16",
    "stages.1.patch=16",
)


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (6, ()),
        (8, ()),
        (8, ('precision="bf16"',)),
        pytest.param(8, ADVERSARY, marks=pytest.mark.slow),
        pytest.param(8, FEATURES, marks=pytest.mark.slow),
        (8, ("optimizer={name='adamw', warm_up=3, clip=0.1, factors={head=0.5, tail=0}}",)),
    ],
    ids=[
        "as it was saved",
        "with steps to do again",
        "bf16",
        "with a critic",
        "with features",
        "with factors and clipping",
    ],
)
def test_resumed_equals_unbroken_to_the_bit(photos, tmp_path, at, changes, monkeypatch):
    config = tiny(*changes)
    unbroken = train(config, photos, tmp_path / "unbroken")
    broken_off(config, photos, tmp_path / "resumed", at, monkeypatch)
    assert state.resume(tmp_path / "resumed" / STATE, config).step == 5
    torch.manual_seed(99)  # whatever happened in between
    resumed = train(config, photos, tmp_path / "resumed", go_on=True)
    assert_equal(parts(resumed), parts(unbroken))
    assert not torch.equal(unbroken.net.head.expand, state.begin(config).net.head.expand), "nothing was learned"
    assert not torch.equal(unbroken.net.head.expand, unbroken.ema.head.expand)
    rows = [[{**row, "ms": 0} for row in read_log(tmp_path / run)] for run in ("unbroken", "resumed")]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [0, 4, 8, 10]


def test_a_finished_run_stays_as_it_is(photos, tmp_path):
    done = train(tiny(), photos, tmp_path)
    before = (tmp_path / STATE).stat().st_mtime_ns
    assert_equal(parts(train(tiny(), photos, tmp_path, go_on=True)), parts(done))
    assert (tmp_path / STATE).stat().st_mtime_ns == before


def test_a_run_is_not_overwritten(photos, tmp_path):
    state.save(tmp_path / STATE, state.begin(tiny()), tiny())
    with pytest.raises(TrainingError, match="holds a run already; --resume goes on with it, --run names another"):
        train(tiny(), photos, tmp_path)


@pytest.mark.parametrize(
    "change",
    ["optimizer.rate=1e-4", "seed=8", 'data.folders=["a"]', "data.hold_out.a=2", "scale=3", "stages.0.steps=8"],
)
def test_another_config_does_not_go_on(tmp_path, change):
    path = tmp_path / STATE
    state.save(path, state.begin(tiny()), tiny())
    what = change.partition("=")[0].partition(".")[0]
    with pytest.raises(TrainingError, match=f"was made with another {what}; choose another run folder"):
        state.resume(path, tiny(change))


def test_a_run_may_become_longer(tmp_path):
    path = tmp_path / STATE
    state.save(path, state.begin(tiny()), tiny())
    assert state.resume(path, tiny("stages.1.steps=20", "threads=2")).step == 0


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["kill", "disk full"]
)
def test_saving_that_breaks_off_leaves_the_old_state(tmp_path, monkeypatch, error):
    path, old = tmp_path / STATE, state.begin(tiny())
    state.save(path, old, tiny())

    def half(content, file):
        Path(file).write_bytes(b"half")
        raise error

    new = state.begin(tiny("seed=1"))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(type(error)):
            state.save(path, new, tiny())
    assert_equal(parts(state.resume(path, tiny())), parts(old))
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE]


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
    path = tmp_path / STATE
    state.save(path, state.begin(tiny()), tiny())
    write(path)
    with pytest.raises(TrainingError, match=r"last\.pt: is not the state of a run, or is cut off; give another"):
        state.resume(path, tiny())


# ---- starts


def test_a_start_from_another_scale_lends_what_fits(tmp_path):
    lent = state.begin(tiny())
    state.save(tmp_path / STATE, lent, tiny())
    own = state.begin(tiny("scale=3", "seed=1", f"start_from='{tmp_path}'"))
    ours, theirs = own.net.folded().state_dict(), lent.ema.folded().state_dict()
    for name in ours:
        if name.endswith(".weight"):
            alike = ours[name].shape == theirs[name].shape and torch.allclose(ours[name], theirs[name], atol=1e-5)
            assert alike == (not name.startswith("tail")), name
    assert_equal(own.net.state_dict(), own.ema.state_dict())


def test_a_start_from_a_shipped_network():
    net = state.begin(tiny("start_from='fast-x2'")).net
    weights = load_pretrained("fast-x2").weights
    torch.testing.assert_close(net.folded().body[3].weight, weights["body.3.weight"], atol=1e-5, rtol=0)
    torch.testing.assert_close(net.folded().head.weight, weights["head.weight"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.pt", "nowhere.pt: there is no such state of a run"),
        ("fast", "fast is a family; name one of fast-x2, fast-x3, fast-x4"),
    ],
)
def test_a_start_from_nothing(source, words):
    with pytest.raises(TrainingError, match=words):
        state.begin(tiny(f"start_from='{source}'"))


def test_frozen_weights_stay(photos, tmp_path):
    config = tiny("optimizer.factors={body=0, 'body.3'=0.5}")
    begun, done = state.begin(config), train(config, photos, tmp_path)
    for name, weight in done.net.state_dict().items():
        frozen = name.startswith("base") or (name.startswith("body") and not name.startswith("body.3"))
        assert torch.equal(weight, begun.net.state_dict()[name]) == frozen, name
    with pytest.raises(TrainingError, match="no weight begins with boddy"):
        state.begin(tiny("optimizer.factors={boddy=0.5}"))


def test_a_teacher_pulls_the_output_to_its_own(photos, tmp_path):
    config = tiny("stages=[{steps=30, batch=2, patch=8, loss={l1=0.0}}]", "teacher={model='fast-x2'}", "ema=0.5")
    pixels, teacher = torch.rand(1, 3, 20, 20), load_pretrained("fast-x2").build()

    def distance(net):
        with torch.no_grad():
            return float((net(pixels) - teacher(pixels)).abs().mean())

    assert distance(train(config, photos, tmp_path / "a").ema) < 0.8 * distance(state.begin(config).net)
    with pytest.raises(TrainingError, match="fast-x3 can't teach plain-16x11 x2"):
        train(tiny("teacher={model='fast-x3'}"), photos, tmp_path / "b")


# ---- the loop


def test_a_loss_that_is_not_finite_stops_the_run(photos, tmp_path, monkeypatch):
    real = loop.weighted

    def spoilt(weights, output, target):
        spoilt.calls += 1
        return real(weights, output, target) * (float("nan") if spoilt.calls == 7 else 1)

    spoilt.calls = 0
    monkeypatch.setattr(loop, "weighted", spoilt)
    with pytest.raises(TrainingError, match="the loss is nan at step 7; lower optimizer.rate"):
        train(tiny(), photos, tmp_path)
    assert state.resume(tmp_path / STATE, tiny()).step == 5


def test_rates():
    cosine = tiny("optimizer={rate=1e-3, last_rate=1e-5, warm_up=3}").optimizer
    assert rate_at(1, 103, cosine) == pytest.approx(1e-3 / 3)
    assert rate_at(3, 103, cosine) == pytest.approx(1e-3)
    assert rate_at(53, 103, cosine) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate_at(103, 103, cosine) == pytest.approx(1e-5)
    assert rate_at(999, 103, cosine) == pytest.approx(1e-5)
    step = tiny("optimizer={rate=1e-3, schedule='step', drop_every=10, drop=0.5, warm_up=0}").optimizer
    assert [rate_at(at, 100, step) for at in (1, 10, 11, 21)] == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])
    assert rate_at(700, 1000, tiny("optimizer={rate=1e-3, schedule='constant'}").optimizer) == 1e-3


def test_stages_follow_one_another():
    config = tiny()
    assert config.steps == 10
    assert [config.stage_at(step).patch for step in (1, 7, 8, 10, 11)] == [6, 6, 8, 8, 8]


def test_the_run_can_be_looked_at(photos, tmp_path):
    heard = Listener()
    heard.said, heard.moments = [], []
    heard.say, heard.step = heard.said.append, heard.moments.append
    done = train(tiny(), photos, tmp_path, listener=heard)
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [0, 4, 8, 10]
    assert all({"psnr", "ssim", "psnr_rgb"} <= row.keys() for row in rows)
    assert [moment.step for moment in heard.moments] == [4, 8, 10]
    assert heard.moments[-1].seconds_left == 0
    assert done.best == max(row["psnr"] for row in rows), "where it starts counts too"
    assert read_state(tmp_path / BEST)["best"] == done.best
    for name in ("loss", "psnr"):
        with Image.open(tmp_path / f"{name}.png") as plot:
            assert plot.size == (800, 450)
            assert len(plot.convert("RGB").getcolors(1 << 20)) > 10, "an empty plot"
    assert any((tmp_path / "tensorboard").iterdir())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["validation"]["network"]["psnr"] == pytest.approx(rows[-1]["psnr"])
    assert result.keys() == {"validation"}
    assert result["validation"]["bicubic"]["psnr"] > 35, "the pictures are smooth"
    with Image.open(tmp_path / "samples.png") as samples:
        assert samples.size == (780, 260)
    assert any("5 pictures" in line for line in heard.said)


def test_the_price_of_sharpness_is_seen(photos, tmp_path):
    """An adversarial run stands beside what it started from, in figures and pictures."""
    train(tiny(), photos, tmp_path / "first")
    said = Listener()
    said.lines = []
    said.say = said.lines.append
    config = tiny(*FEATURES, f"start_from={tmp_path / 'first'}", "optimizer.rate=0.002")
    train(config, photos, tmp_path / "second", listener=said)
    first, second = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("first", "second"))
    assert "start" not in first["validation"]
    assert second["validation"]["start"]["psnr"] == pytest.approx(first["validation"]["network"]["psnr"], abs=1e-3)
    assert second["validation"]["network"]["psnr"] != second["validation"]["start"]["psnr"]
    with Image.open(tmp_path / "second" / "samples.png") as samples:
        assert samples.size == (1040, 260)
    assert "features: the critic's own" in said.lines
    assert read_state(tmp_path / "second" / STATE)["features"] == "the critic's own"
    assert read_state(tmp_path / "second" / loop.HEALTHY)["step"] == 10


def test_a_lost_fight_stops_and_keeps_the_last_healthy_state(photos, tmp_path):
    config = tiny(*FEATURES, 'critic={name="patch", largest_fall=0.001}', "optimizer={rate=0.02, warm_up=0}")
    with pytest.raises(TrainingError, match=r"collapse at step \d+: validation fell to .* dB, .* below") as lost:
        train(config, photos, tmp_path)
    before = {"4": 0, "8": 4, "10": 8}[str(lost.value).partition("step ")[2].partition(":")[0]]
    assert read_state(tmp_path / loop.HEALTHY)["step"] == before


def test_features_of_another_source_do_not_go_on(photos, tmp_path, monkeypatch):
    config = tiny(*FEATURES)
    state.save(tmp_path / STATE, state.begin(config), config)
    monkeypatch.setattr(state, "serving_name", lambda config, found: "vgg19, vgg19.pth, sha256 00")
    with pytest.raises(TrainingError, match="its features came from the critic's own, which isn't what serves now"):
        state.resume(tmp_path / STATE, config)


def test_torch_is_left_as_it_was(photos, tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(tiny("threads=3"), photos, tmp_path)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


# ---- many processes


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(photos, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.replace("batch = 2", "batch = 4"))
    verb = ["-m", "superfine", "train", str(tmp_path / "tiny.toml"), "--data", str(photos), "--run"]
    two = ["torchrun", "--nproc-per-node", "2", "--standalone", "--"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *verb, str(tmp_path / "one")], check=True, env=quiet)
    subprocess.run(
        [Path(sys.executable).with_name(two[0]), *two[1:], *verb, str(tmp_path / "two")], check=True, env=quiet
    )
    one, other = (read_state(tmp_path / run / STATE) for run in ("one", "two"))
    assert one["step"] == other["step"] == 10
    begun = state.begin(tiny()).net.state_dict()
    for name, weight in one["net"].items():
        torch.testing.assert_close(other["net"][name], weight, rtol=1e-5, atol=1e-5 * float(weight.abs().max()))
        assert name.startswith("base") or not torch.equal(weight, begun[name])
    losses = [[row["loss"] for row in read_log(tmp_path / run) if "loss" in row] for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_batch_that_can_not_be_shared(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match="a batch of 2 can't be shared by 3 processes; make it a multiple"):
        train(tiny(), photos, tmp_path)


# ---- recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read(path):
    config, text = read_recipe(path), path.read_text()
    assert config.net in NETS
    assert config.scale in NETS[config.net].scales
    assert path.stem.endswith(f"-x{config.scale}") or path.stem == "self-supervised"  # as it is known
    assert text.startswith(f"# superfine train recipes/{path.name} ")
    assert "Nobody has run this recipe" in text or all(word in text for word in ("hours", "Reached"))


def test_every_net_has_a_recipe():
    assert {read_recipe(path).net for path in RECIPES} == set(NETS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TINY + "learnig_rate = 1", "unknown learnig_rate"),
        (TINY.replace("warm_up", "warmup"), "unknown optimizer.warmup"),
        (TINY.replace("scale = 2", ""), "scale is missing"),
        ("scale = ", "can't be read as a recipe"),
        (TINY.replace("fp32", "fp16"), "precision = 'fp16': Input should be 'bf16' or 'fp32'"),
        (TINY.replace("patch = 6", "patch = 0"), "stages.0.patch = 0: Input should be greater than 0"),
        (TINY.replace("batch = 2", "batch = 1.5"), "stages.0.batch = 1.5: Input should be a valid integer"),
        (TINY.replace("hold_out = {a = 1}", "hold_out = {c = 1}"), "data = .*hold_out speaks of c, which is not among"),
        (TINY.replace("l1 = 1.0", "l1 = -1.0"), "stages.0.loss.l1 = -1.0: Input should be greater than or equal to 0"),
        (TINY.replace("hold_out = {a = 1}", "degrade = {jpeg = 7.0}"), "data.degrade: .*jpeg"),
        (
            TINY.replace("hold_out = {a = 1}", "motion = {still = 2}"),
            "data.motion: still = 2.0; want a number from 0 to 1",
        ),
        (TINY.replace("l1 = 1.0", "adversarial = 1.0"), r"an adversarial loss needs a \[critic\]"),
        (TINY.replace("l1 = 1.0", "reduced_mse = 1.0"), r"a reduced_... loss needs \[self_supervision\]"),
        (TINY.replace("l1 = 1.0", "style = 1.0"), r"a features or style loss needs \[features\]"),
        (TINY.replace("l1 = 1.0", "features = 1.0") + "[features]", r"features.of = critic needs a \[critic\]"),
        (TINY.replace("l1 = 1.0", "style = 1.0") + '[features]\nof = "vgg19"', "features.layers is empty; name layers"),
        (
            TINY.replace("l1 = 1.0", "style = 1.0, adversarial = 1.0") + "[critic]\n[features]\nlayers = {a = 1.0}",
            "features.layers and features.weights are of a published network",
        ),
    ],
    ids=range(17),
)
def test_a_wrong_recipe(tmp_path, text, words):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(TrainingError, match=rf"my\.toml: {words}"):
        read_recipe(tmp_path / "my.toml")


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(TrainingError, match=r"my\.toml: can't be read as a recipe"):
        read_recipe(tmp_path / "my.toml")


def test_changes_replace_values(tmp_path):
    (tmp_path / "my.toml").write_text(TINY)
    config = read_recipe(tmp_path / "my.toml", ["optimizer.rate=0.5", "stages.1.steps=30", "net=espcn", "ema = 0.5"])
    assert (config.optimizer.rate, config.steps, config.net, config.ema) == (0.5, 37, "espcn", 0.5)
    for wrong in ("seed", "=3", "stages.7.steps=3", "net.name=3"):
        with pytest.raises(TrainingError, match=f"--set {wrong}: "):
            read_recipe(tmp_path / "my.toml", [wrong])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ("net=aligned-32x8",),
            r"aligned-32x8 sees 3 frames, and the recipe's pictures stand still; give it \[data.motion\]",
        ),
        (
            ("data.motion={}",),
            r"plain-16x11 sees one picture at a time, and \[data.motion\] makes frames; leave it out, or",
        ),
    ],
    ids=["frames without motion", "motion without frames"],
)
def test_frames_and_pictures_are_not_mixed_up(photos, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        train(tiny(*changes), photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_patch_off_the_grid(photos, tmp_path):
    with pytest.raises(TrainingError, match="stages: a patch of 6 px is no multiple of 8, which unet wants"):
        train(tiny("net=unet"), photos, tmp_path)


def test_an_unknown_net_or_scale(photos, tmp_path):
    with pytest.raises(TrainingError, match="no net 'edrs'; there are plain-16x11, "):
        train(tiny("net=edrs"), photos, tmp_path / "a")
    with pytest.raises(TrainingError, match="plain-16x11 is for scales 2, 3, 4, not 7"):
        train(tiny("scale=7"), photos, tmp_path / "b")


def test_a_config_survives_its_state(tmp_path):
    config = tiny(*ADVERSARY, "data.degrade={jpeg=0.5}", "optimizer.factors={head=0.5}")
    state.save(tmp_path / STATE, state.begin(config), config)
    assert load_averaged(tmp_path / STATE).config == config


# ---- by command


@pytest.mark.slow
def test_the_commands_train_export_and_go_on(photos, tmp_path):
    recipe, run = tmp_path / "tiny.toml", tmp_path / "runs" / "tiny"
    recipe.write_text(TINY)

    def superfine(*words):
        command = [sys.executable, "-m", "superfine", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = superfine("train", recipe, "--data", photos, "--set", "stages.1.steps=1")
    assert first.returncode == 0, first.stderr
    assert "8 of 8: loss " in first.stderr
    assert superfine("train", recipe, "--data", photos).returncode == 1
    second = superfine("train", recipe, "--data", photos, "--resume", "--json")
    assert [line["step"] for line in map(json.loads, second.stdout.splitlines()) if "step" in line] == [10]
    assert load_averaged(run / STATE).config.steps == 10
    wrote = superfine("export", run, "-o", "tiny.onnx")
    assert wrote.stdout.startswith("tiny.onnx: tiny, ")
    assert superfine("upscale", photos / "a" / "0.png", "-o", "large.png", "--model", "tiny.onnx").returncode == 0
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (90, 74)
    third = superfine("train", recipe, "--data", photos, "--set", "sclae=2")
    assert (third.returncode, third.stderr) == (1, f"superfine: {recipe}: unknown sclae\n")


def test_nothing_is_left_to_chance_in_the_rate():
    config = tiny().optimizer
    assert all(math.isfinite(rate_at(step, 10, config)) for step in range(1, 20))
