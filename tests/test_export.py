"""A run becomes one file: what stands in it, how large it is, and what is refused."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from superfine.classical.resample import matlab_resize
from superfine.engine import open_engine
from superfine.errors import ModelError, SourceError, TrainingError
from superfine.evaluate.benchmark import benchmark
from superfine.evaluate.pairs import open_dataset
from superfine.models import card_to_text, find_model, read_model
from superfine.train import state
from superfine.train.config import to_config
from superfine.train.export import export, export_run, new_card
from superfine.train.nets import NETS
from superfine.train.pretrained import STATE, build, load_pretrained
from superfine.train.score import TorchEngine, open_run, score

RECIPE = """
net = "residual-32x8"
scale = 2
stages = [{steps = 1, loss = {l1 = 1.0}}]
card = {name = "mine-x2", licence = "CC0-1.0"}
"""


def config(**changes):
    return to_config(tomllib.loads(RECIPE) | changes, "mine.toml")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    state.save(folder / STATE, state.begin(config()), config())
    return folder


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "Set1"
    folder.mkdir()
    large = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(large).save(folder / "a_HR.png")
    Image.fromarray(matlab_resize(large, (20, 24))).save(folder / "a_LR.png")
    return folder


def test_a_run_is_judged_like_any_method(run, pairs):
    method = open_run(run, 2)
    dataset = open_dataset(pairs, 2)
    row = next(row for row in benchmark([dataset], [method]).rows if row.model == "mine")
    net = load_pretrained(str(run)).build()
    in_float = score(TorchEngine(net, NETS["residual-32x8"]), [dataset.pair(0)])
    assert row.psnr_y == pytest.approx(in_float.psnr, abs=0.02)  # 8 bits against none
    assert row.engine.startswith("torch ")
    assert (len(row.sha256), row.parameters) == (64, 150_020)
    with pytest.raises(ModelError, match="mine: enlarges x2, not x3; give it --scale 2"):
        open_run(run, 3)


@pytest.mark.slow
def test_a_run_becomes_a_file(run, pairs, tmp_path):
    card = export_run(run, tmp_path / "mine.onnx", {"Set1": pairs})
    assert (card.name, card.net, card.scale, card.licence) == ("mine-x2", "residual-32x8", 2, "CC0-1.0")
    assert set(card.psnr) == {"Set1"}
    assert "Y601-limited" in card.protocol
    assert card == read_model(tmp_path / "mine.onnx").card
    ours = load_pretrained(str(tmp_path / "mine.onnx")).build().folded().state_dict()
    for name, value in load_pretrained(str(run)).weights.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0)


def test_a_missing_test_set_leaves_no_file(run, tmp_path):
    with pytest.raises(SourceError, match="nowhere: there is no such folder"):
        export_run(run, tmp_path / "mine.onnx", {"Set1": tmp_path / "nowhere"})
    assert not (tmp_path / "mine.onnx").exists()


def test_a_card_names_the_folders_where_the_recipe_names_no_pictures():
    assert new_card(config(data={"folders": ["mine", "yours"]}), "x").training_data == "folders mine, yours"


def test_a_card_names_what_trained_the_network():
    loss = {"l1": 1.0, "features": 0.1, "style": 0.0, "adversarial": 0.03}
    fought = config(
        stages=[{"steps": 1, "loss": {"mse": 1.0}}, {"steps": 1, "loss": loss}],
        critic={"name": "patch", "contest": "relativistic"},
        features={"of": "vgg19", "layers": {"conv5_4": 1.0}},
    )
    said = new_card(fought, "x", "the critic's own").losses
    assert said == "1 l1, 0.1 features (of the critic's own), 0.03 adversarial (patch critic, relativistic)"
    assert new_card(config(), "x").losses.endswith("l1")


@pytest.mark.slow
def test_half_the_size_and_nearly_the_same(tmp_path):
    torch.manual_seed(0)
    net, pixels = build("residual-32x8", 2), np.random.default_rng(0).random((1, 30, 41, 3), dtype=np.float32)
    card, outputs = new_card(config(), "mine"), []
    for half in (False, True):
        export(net, card, tmp_path / f"{half}.onnx", half=half)
        outputs.append(open_engine(read_model(tmp_path / f"{half}.onnx"), "openvino", "fp32")(pixels))
    whole, halved = (Path(tmp_path / f"{half}.onnx").stat().st_size for half in (False, True))
    assert halved < 0.55 * whole
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 5e-4
    assert load_pretrained(str(tmp_path / "True.onnx")).build().scale == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsrcnn", "srresnet"])
def test_training_goes_on_from_a_file_with_its_slopes(name, tmp_path):
    """PReLU's slopes have no names of their own in an exported file."""
    torch.manual_seed(0)
    net, pixels = build(name, 2).eval(), torch.rand(1, 3, 24, 24)
    for module in net.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.uniform_(0, 0.8)
    export(net, new_card(config(net=name), "mine"), tmp_path / "mine.onnx")
    again = load_pretrained(str(tmp_path / "mine.onnx")).build().eval()
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), net(pixels), atol=1e-5, rtol=0)


def test_a_card_with_a_strange_key_is_refused():
    with pytest.raises(TrainingError, match=r"\[card\] of the recipe: .*colr"):
        new_card(config(card={"colr": "RGB"}), "mine")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="there is no such state of a run"):
        export_run(tmp_path, tmp_path / "out.onnx", {})


def test_weights_of_a_card_without_a_net_are_refused(tmp_path):
    from dataclasses import replace

    import onnx

    (model,) = find_model("fast-x2")
    proto = onnx.load_from_string(model.content)
    proto.metadata_props[0].value = card_to_text(replace(model.card, net=""))
    (tmp_path / "old.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(TrainingError, match=r"old\.onnx: its card names no net of the table"):
        load_pretrained(str(tmp_path / "old.onnx"))
