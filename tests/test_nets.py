"""Every network of the table: what a new one gets tested for without a word."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import tiled
from superfine.classical.resample import resize
from superfine.engine import open_engine
from superfine.errors import TrainingError
from superfine.models import Card, read_model
from superfine.train import export as export_module
from superfine.train.export import export
from superfine.train.nets import NETS
from superfine.train.nets.layers import BicubicBase, CollapsibleConv
from test_engine import RUNS, picture

each_card = pytest.mark.parametrize("card", NETS.values(), ids=lambda card: card.name)
each_scale = pytest.mark.parametrize("scale", [2, 3, 4])


def build(card, scale, seed=0):
    """A network whose residual is of the size that training gives; nothing is at zero."""
    torch.manual_seed(seed)
    net = card.build(scale)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim == 1:
                weight.normal_(0, 0.05)
    return net


@each_scale
@each_card
def test_any_size(card, scale):
    net = build(card, scale)
    for size in [(1, 1), (1, 9), (7, 1), (17, 23)]:
        for channels in (1, 3):
            assert net(torch.rand(2, channels, *size)).shape == (2, channels, size[0] * scale, size[1] * scale)


@each_card
def test_a_gradient_in_every_weight(card):
    net = build(card, 2)
    torch.nn.functional.l1_loss(net(torch.rand(2, 1, 24, 24)), torch.rand(2, 1, 48, 48)).backward()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


@each_card
def test_save_and_load(card, tmp_path):
    net, other, pixels = build(card, 3), build(card, 3, seed=1), torch.rand(1, 3, 9, 11)
    assert not torch.equal(net(pixels), other(pixels))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(net(pixels), other(pixels))


@each_scale
@each_card
def test_folded_is_the_same_function(card, scale):
    net, pixels = build(card, scale), torch.rand(2, 3, 21, 18)
    torch.testing.assert_close(net.folded()(pixels), net(pixels), atol=1e-5, rtol=0)
    assert sum(weight.numel() for weight in net.folded().parameters()) < 200_000


@each_card
def test_the_halo_is_the_reach(card):
    """The gradient of one pixel's block tells all that it depends on: nothing outside the halo, and its edge too."""
    net, scale = build(card, 2), 2
    side = 2 * card.halo + 7
    centre = side // 2
    pixels = torch.rand(1, 3, side, side, requires_grad=True)
    net(pixels)[
        ..., centre * scale : (centre + 1) * scale, centre * scale : (centre + 1) * scale
    ].square().sum().backward()
    reach = (pixels.grad[0].abs().sum(0).nonzero() - centre).abs().max().item()
    assert reach == card.halo
    assert card.halo % card.multiple_of == 0


@each_scale
def test_the_base_is_bicubic(scale):
    pixels = np.random.default_rng(scale).random((14, 19, 3))
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
    made = torch.nn.functional.pixel_shuffle(BicubicBase(scale)(planes), scale)[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(made, resize(pixels, (14 * scale, 19 * scale)), atol=1e-6)


@each_scale
@each_card
def test_without_a_residual_it_is_bicubic(card, scale):
    net = build(card, scale)
    with torch.no_grad():
        for weight in net.tail.parameters():
            weight.zero_()
    pixels = np.random.default_rng(scale).random((1, 9, 3))
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
    for run in (net, net.folded()):
        made = run(planes)[0].detach().numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(made, resize(pixels, (scale, 9 * scale)), atol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8)])
def test_a_folded_block_is_its_three_parts(inputs, outputs):
    """Expansion, projection and identity one after another, in double."""
    torch.manual_seed(0)
    block, pixels = (
        CollapsibleConv(inputs, outputs, expansion=32, identity=inputs == outputs).double(),
        torch.rand(1, inputs, 9, 9).double(),
    )
    with torch.no_grad():
        block.bias.normal_()
    wide = torch.nn.functional.conv2d(pixels, block.expand, padding=1)
    wanted = torch.einsum("oe,nehw->nohw", block.project, wide) + block.bias[:, None, None]
    wanted = wanted + pixels if inputs == outputs else wanted
    torch.testing.assert_close(block(pixels), wanted)
    torch.testing.assert_close(block.fold().double()(pixels).float(), wanted.float())


# ---- as a file


def _name(request):
    return f"{request[0].name}-x{request[1]}"


@pytest.fixture(scope="module", params=[(card, scale) for card in NETS.values() for scale in (2, 3)], ids=_name)
def exported(request, tmp_path_factory):
    net_card, scale = request.param
    net = build(net_card, scale)
    path = tmp_path_factory.mktemp("exported") / "new.onnx"
    card = Card(name=f"new-x{scale}", scale=scale, halo=net_card.halo, multiple_of=net_card.multiple_of, fp32_end=True)
    difference = export(net, card, path)
    return net, card, read_model(path), difference


@pytest.mark.slow
def test_the_file_says_what_it_is(exported):
    net, card, model, difference = exported
    assert difference < 5e-4
    assert model.card.parameters == sum(weight.numel() for weight in net.folded().parameters())
    assert (model.card.name, model.card.scale, model.card.halo) == (card.name, card.scale, card.halo)
    assert str(Path.cwd()).encode() not in model.content
    assert b"superfine/train" not in model.content


@pytest.mark.slow
@pytest.mark.parametrize("run", [run for run in RUNS if run[1] == "fp32"], ids="-".join)
def test_onnx_equals_torch(exported, run):
    net, _, model, _ = exported
    engine = open_engine(model, *run)
    for size in [(1, 1), (1, 8), (31, 22)]:
        pixels = np.random.default_rng(0).random((1, *size, 3), dtype=np.float32)
        with torch.no_grad():
            wanted = (
                net(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).clamp(0, 1)[0].numpy().transpose(1, 2, 0)
            )
        np.testing.assert_allclose(engine(pixels), wanted, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_tiled_equals_whole_to_the_bit(exported, run, kind):
    engine = open_engine(exported[2], *run)
    for size, tile in [((1, 1), 16), ((57, 83), 16), ((57, 83), 31)]:
        pixels = picture(size, kind)
        np.testing.assert_array_equal(tiled(pixels, engine, tile), engine(pixels[None]))


@pytest.mark.slow
def test_a_file_that_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    net = build(next(iter(NETS.values())), 2)
    right = export_module._to_onnx
    other = build(next(iter(NETS.values())), 2, seed=5)
    monkeypatch.setattr(export_module, "_to_onnx", lambda folded, card: right(other.folded().eval(), card))
    with pytest.raises(TrainingError, match=r"new\.onnx: ONNX and torch differ by .*; not written"):
        export(net, Card(name="new-x2", scale=2, halo=13, fp32_end=True), tmp_path / "new.onnx")
    assert list(tmp_path.iterdir()) == []
