"""Teaching a shipped network one folder: judged on held-out pictures, and worse is never called better."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from superfine.errors import TrainingError
from superfine.models import read_model
from superfine.train.config import changed, to_config
from superfine.train.finetune import finetune, tuning
from superfine.train.pretrained import load_pretrained
from superfine.train.state import begin, save

QUICK = ("stages.0.steps=60", "stages.0.patch=12", "stages.0.batch=8", "precision=fp32", "optimizer.warm_up=5")


@pytest.fixture(scope="module")
def press(tmp_path_factory):
    """Scans of one press: dots on a grid of three pixels, which no photo network has seen."""
    folder, draw = tmp_path_factory.mktemp("press"), np.random.default_rng(0)
    rows, cols = np.mgrid[:60, :66]
    for number in range(6):
        dark = np.kron(draw.random((12, 11)), np.ones((5, 6)))
        dots = 255 * (1 - dark * ((rows % 3 == 1) & (cols % 3 == 1)))
        Image.fromarray(dots.astype(np.uint8)).convert("RGB").save(folder / f"scan {number}.png")
    return folder


@pytest.mark.slow
def test_one_subject_is_learned_and_written(press, tmp_path):
    tuned = finetune("fast-x2", press, tmp_path / "run", tmp_path / "press-x2.onnx", changes=QUICK)
    assert tuned.after.psnr > tuned.before.psnr + 0.1
    assert (tuned.before.pictures, tuned.path) == (1, tmp_path / "press-x2.onnx")
    card = read_model(tuned.path).card
    assert (card.name, card.net, card.scale) == ("press-x2", "plain-16x11", 2)


def test_worse_is_not_written(press, tmp_path):
    """With a rate that ruins the weights."""
    ruin = (*QUICK, "optimizer.rate=0.3", "stages.0.steps=8", "ema=0.0")
    tuned = finetune("fast-x2", press, tmp_path / "run", tmp_path / "press-x2.onnx", changes=ruin)
    assert tuned.after.psnr < tuned.before.psnr
    assert tuned.path is None
    assert not (tmp_path / "press-x2.onnx").exists()


def test_one_picture_is_too_few(press, tmp_path):
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "0.png").write_bytes((press / "scan 0.png").read_bytes())
    with pytest.raises(TrainingError, match=r"lone"):
        finetune("fast-x2", lone, tmp_path / "run", tmp_path / "out.onnx", changes=QUICK)


def recipe(net, *changes):
    given = {"net": net, "scale": 2, "data": {"motion": {}}, "stages": [{"steps": 1, "loss": {"l1": 1.0}}]}
    return to_config(changed(given, changes), "test")


@pytest.mark.parametrize(
    ("net", "recording", "reducer"),
    [("aligned-32x8", False, "bicubic"), ("aligned-32x8", True, "bicubic"), ("aligned-32x8-box", False, "box")],
    ids=["clean", "restoring", "box"],
)
def test_a_net_that_sees_frames_goes_on_with_frames(tmp_path, net, recording, reducer):
    config = recipe(net, *(["data.recording={}"] if recording else []))
    save(tmp_path / "a.pt", begin(config), config)
    data = tuning(load_pretrained(str(tmp_path / "a.pt"))).data
    assert data.motion is not None
    assert (data.motion.reducer, data.recording is not None, data.degrade) == (reducer, recording, None)


def test_a_net_that_sees_one_picture_goes_on_with_pictures():
    data = tuning(load_pretrained("fast-x2")).data
    assert (data.motion, data.recording, data.degrade) == (None, None, None)


def test_a_video_network_is_judged_by_windows_and_worse_is_not_written(tmp_path):
    folder, draw = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(2):
        rough = Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        rough.resize((120, 120), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    ruin = (*QUICK, "stages.0.steps=4", "stages.0.batch=2", "optimizer.rate=0.3", "ema=0.0")
    tuned = finetune("video-x2", folder, tmp_path / "run", tmp_path / "out.onnx", changes=ruin)
    assert tuned.before.psnr > 30  # the pictures are smooth
    assert tuned.after.psnr < tuned.before.psnr
    assert (tuned.path, (tmp_path / "out.onnx").exists()) == (None, False)


def test_pictures_too_small_to_move_judge_nothing(press, tmp_path):
    """Scans of 60 x 66, of whose small ones 2 x 2 are left."""
    with pytest.raises(TrainingError, match="want two pictures or more"):
        finetune("video-x2", press, tmp_path / "run", tmp_path / "out.onnx", changes=QUICK)


@pytest.mark.slow
def test_by_command(press, tmp_path):
    verb = [
        sys.executable,
        "-m",
        "superfine",
        "train",
        "--from",
        "fast-x2",
        "--data",
        str(press),
        "-o",
        "press-x2.onnx",
    ]
    sets = [word for change in QUICK for word in ("--set", change)]
    done = subprocess.run([*verb, *sets], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "before: " in done.stderr
    assert "better: written to press-x2.onnx" in done.stderr
    ruin = ["--set", "optimizer.rate=0.3", "--set", "ema=0.0", "--run", "other", "-o", "worse.onnx"]
    bad = subprocess.run([*verb, *sets, *ruin], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (bad.returncode, "not better: nothing written" in bad.stderr) == (1, True)
    assert not (tmp_path / "worse.onnx").exists()
