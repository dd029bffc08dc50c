"""Every network of the table: what a new one gets tested for without a word."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fakes import tiled
from superfine.classical.resample import resize
from superfine.engine import open_engine, still
from superfine.errors import TrainingError
from superfine.models import Card, read_model
from superfine.train import export as export_module
from superfine.train.export import export
from superfine.train.nets import NETS
from superfine.train.nets.critics import CRITICS
from superfine.train.nets.fsrcnn import TransposedConv
from superfine.train.nets.layers import BicubicBase, CollapsibleConv, Foldable
from superfine.train.nets.residual import Residual
from superfine.train.nets.residual_unet import ResidualUNet
from test_engine import RUNS, picture

# The largest one narrow: its width changes nothing of what is tested over the table. As published it is tested below.
TESTED = NETS | {
    "residual-unet": replace(NETS["residual-unet"], build=lambda scale: ResidualUNet(scale, width=8)),
}
each_card = pytest.mark.parametrize("card", TESTED.values(), ids=lambda card: card.name)
each_scale = pytest.mark.parametrize("scale", [2, 3, 4])
EACH_NET = [(card, scale) for card in TESTED.values() for scale in card.scales]


def each_of(nets):
    return pytest.mark.parametrize(
        ("card", "scale"), [pytest.param(card, scale, id=f"{card.name}-x{scale}") for card, scale in nets]
    )


each_net = each_of(EACH_NET)
# Those that keep the data have more than a base at their end.
KEEPS_DATA = {card.name for card in TESTED.values() if "arXiv:1806.06137" in card.source}
each_net_with_a_base = each_of(
    [(card, scale) for card, scale in EACH_NET if card.fp32_end and card.name not in KEEPS_DATA]
)


def build(card, scale, seed=0):
    """A network in use, whose residual is of the size that training gives; nothing is at zero."""
    torch.manual_seed(seed)
    net = card.build(scale).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.05)
        for name, value in net.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.05)
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
        for module in net.modules():
            if isinstance(module, torch.nn.PReLU):
                module.weight.uniform_(0, 0.5)
    return net


@cache
def built(name, scale):
    """One for all tests that only look."""
    return build(TESTED[name], scale)


def planes_of(card):
    """A picture of the size grid, large enough that every level of a network has several pixels."""
    side = card.multiple_of
    size = (side * -(-18 // side), side * -(-21 // side))
    return torch.rand(1, 3 * card.frames, *size, generator=torch.Generator().manual_seed(1))


def clip(pixels, card):
    """(1, C, h, w) -> a clip in which nothing moves, (1, C*frames, h, w)."""
    return pixels.repeat(1, card.frames, 1, 1)


@each_net
def test_any_size_on_the_grid(card, scale):
    net = built(card.name, scale)
    assert (net.scale, net.colour, net.frames) == (scale, card.colour, card.frames)
    for size in [(1, 1), (1, 5), (3, 1), (5, 7)]:
        rows, cols = (side * card.multiple_of for side in size)
        for channels in {"luma": (1, 3), "rgb": (3,)}[card.colour]:
            with torch.no_grad():
                made = net(torch.rand(2, channels * card.frames, rows, cols))
                assert made.shape == (2, channels, rows * scale, cols * scale)


@each_card
def test_a_gradient_in_every_weight(card):
    net, pixels = built(card.name, card.scales[0]), planes_of(card)
    target = functional.interpolate(torch.rand_like(pixels[:, :3]), scale_factor=card.scales[0])
    loss = functional.l1_loss(net(pixels), target)
    names, weights = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    assert [
        name for name, gradient in zip(names, gradients, strict=True) if gradient is None or not gradient.any()
    ] == []


@each_card
def test_save_and_load(card, tmp_path):
    scale = card.scales[len(card.scales) // 2]
    net, other, pixels = built(card.name, scale), build(card, scale, seed=1), planes_of(card)
    assert not torch.equal(net(pixels), other(pixels))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(net(pixels), other(pixels))


@each_net
def test_folded_is_the_same_function(card, scale):
    net, pixels = built(card.name, scale), planes_of(card)
    before = torch.get_rng_state()
    folded = net.folded()
    torch.testing.assert_close(folded(pixels), net(pixels), atol=1e-5, rtol=0)
    assert not any(isinstance(module, Foldable) for module in folded.modules())
    assert torch.equal(torch.get_rng_state(), before), "folding while training would change what comes after"


@each_card
def test_the_halo_is_the_reach(card):
    """The gradient of one block of the grid tells all that it depends on: nothing outside the halo, and its edge too.

    In strips along both axes; a halo is a multiple of the grid, and at one scale no smaller one would do.
    """
    grid, reaches = card.multiple_of, []
    start = card.halo + grid * -(-4 // grid)
    for scale in card.scales:
        for axis in (2, 3):
            shape = [1, 3 * card.frames, grid, grid]
            shape[axis] = 2 * start + grid
            pixels = torch.rand(shape, requires_grad=True)
            block = built(card.name, scale)(pixels).narrow(axis, start * scale, grid * scale)
            (gradient,) = torch.autograd.grad(block.square().sum(), pixels)
            seen = gradient.abs().amax(tuple({0, 1, 2, 3} - {axis})).nonzero()
            reaches += [start - seen.min().item(), seen.max().item() - (start + grid - 1)]
    assert max(reaches) <= card.halo < max(reaches) + grid
    assert card.halo % grid == 0


@each_scale
def test_the_base_is_bicubic(scale):
    pixels = np.random.default_rng(scale).random((14, 19, 3))
    made = pixels_of(BicubicBase(scale).enlarge(planes(pixels)))
    np.testing.assert_allclose(made, resize(pixels, (14 * scale, 19 * scale)), atol=1e-6)


def planes(pixels):
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]


def pixels_of(tensor):
    return tensor[0].detach().numpy().transpose(1, 2, 0)


@each_net_with_a_base
def test_without_a_residual_it_is_bicubic(card, scale):
    net, rows = build(card, scale), card.multiple_of
    with torch.no_grad():
        for weight in net.tail.parameters():
            weight.zero_()
    pixels = np.random.default_rng(scale).random((rows, 9 * rows, 3))
    for run in (net, net.folded()):
        np.testing.assert_allclose(
            pixels_of(run(clip(planes(pixels), card))), resize(pixels, (rows * scale, 9 * rows * scale)), atol=1e-6
        )


@each_of([(card, scale) for card, scale in EACH_NET if card.colour == "luma"])
def test_luma_alone_is_the_luma_of_colour(card, scale):
    """One channel in gives what the luma of the enlarged colours is, since all of it is linear but the residual."""
    net, pixels = built(card.name, scale), planes_of(card)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    lumas = [(frame * weights).sum(1, keepdim=True) for frame in pixels.split(3, 1)]
    alone = net(torch.cat(lumas, 1))
    torch.testing.assert_close(alone, (net(pixels) * weights).sum(1, keepdim=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "scale", "weights"),
    [
        ("edsr", 2, 1_369_859),
        ("edsr", 3, 1_554_499),
        ("edsr", 4, 1_517_571),
        ("vdsr", 2, 664_704),
        ("fsrcnn", 3, 12_464),
    ],
)
def test_as_many_weights_as_published(name, scale, weights):
    """EDSR-baseline's are counted with biases, the others' without them and without PReLU."""
    counted = [value for value in built(name, scale).parameters() if name == "edsr" or value.ndim == 4]
    assert sum(value.numel() for value in counted) == weights


def test_the_residual_unet_is_as_large_as_published():
    """torchvision's ResNet-34 has 21,797,672 weights, 513,000 of them its classifier's.

    fastai counts 41,221,668 for its U-Net of ResNet-34 with seven maps as a result, each of 100 weights; three here.
    """
    net = NETS["residual-unet"].build(4)
    assert sum(value.numel() for value in net.encoder.parameters()) == 21_797_672 - 513_000
    assert sum(value.numel() for value in net.parameters()) == 41_221_668 - 4 * 100


def test_the_residual_unet_begins_to_enlarge_by_the_nearest():
    """ICNR: the four pixels that a shuffle makes of one are the same at first."""
    torch.manual_seed(0)
    net = ResidualUNet(4, width=8)
    shuffles = [*(join.enlarge for join in net.rise), net.enlarge]
    assert len(shuffles) == 5
    for shuffle in shuffles:
        with torch.no_grad():
            made = shuffle(torch.randn(1, shuffle.conv.in_channels, 3, 5))
        assert made.std() > 0.1
        assert torch.equal(made, made[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_enhance_is_neural_enhances_chain(scale):
    """Layer by layer from its weights, in double: 7x7, halvings, 8 blocks, doublings, 7x7, around half grey."""
    net = build(NETS["enhance-repair" if scale == 1 else "enhance"], scale).double()
    weights = iter(net.state_dict().values())
    halvings, doublings = {1: (2, 2), 2: (0, 1), 4: (0, 2)}[scale]
    pixels = torch.rand(1, 3, 20, 16).double()
    y = pixels - 0.5
    for kind in ["head", *["halve"] * halvings, *["block"] * 8, *["double"] * doublings]:
        side, stride = {"head": (7, 1), "halve": (4, 2)}.get(kind, (3, 1))
        kernel, bias, slopes = next(weights), next(weights), next(weights)
        assert kernel.shape == (512 if kind == "double" else 128, 3 if kind == "head" else 128, side, side)
        y = functional.conv2d(y, kernel, bias, stride, (side - 1) // 2)
        y = torch.where(y < 0, y * slopes[:, None, None], y)
        if kind == "double":
            blocks = y.unflatten(1, (-1, 2, 2))  # 4c + 2y + x
            y = blocks.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    wanted = functional.conv2d(y, next(weights), next(weights), padding=3) + 0.5
    assert next(weights, None) is None
    torch.testing.assert_close(net(pixels), wanted)


# ---- blocks that fold


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
    wide = functional.conv2d(pixels, block.expand, padding=1)
    wanted = torch.einsum("oe,nehw->nohw", block.project, wide) + block.bias[:, None, None]
    wanted = wanted + pixels if inputs == outputs else wanted
    torch.testing.assert_close(block(pixels), wanted)
    torch.testing.assert_close(block.fold()(pixels), wanted)


@pytest.mark.parametrize("identity", [True, False])
def test_a_block_becomes_a_given_convolution(identity):
    torch.manual_seed(0)
    block, plain, pixels = (
        CollapsibleConv(16, 16, expansion=64, identity=identity),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.rand(1, 16, 9, 9),
    )
    random = block.expand.clone()
    block.unfold(plain.weight, plain.bias)
    torch.testing.assert_close(block(pixels), plain(pixels), atol=1e-6, rtol=0)
    assert torch.equal(block.expand[16:], random[16:])
    assert not block.project[:, 16:].any()


@pytest.mark.parametrize("identity", [True, False])
def test_a_block_takes_a_narrower_convolution(identity):
    torch.manual_seed(0)
    block, plain, pixels = (
        CollapsibleConv(16, 16, expansion=64, identity=identity),
        torch.nn.Conv2d(6, 8, 3, padding=1),
        torch.rand(1, 16, 9, 9),
    )
    before = block(pixels)
    block.unfold(plain.weight, plain.bias)
    after = block(pixels)
    torch.testing.assert_close(after[:, :8], plain(pixels[:, :6]), atol=1e-6, rtol=0)
    torch.testing.assert_close(after[:, 8:], before[:, 8:], atol=1e-6, rtol=0)


@each_scale
def test_a_transposed_convolution_before_the_shuffle(scale):
    """Against torch's; padded so that nine columns lie around the middle of each small pixel."""
    torch.manual_seed(scale)
    block, pixels, odd = TransposedConv(4, scale), torch.rand(1, 4, 7, 9), (9 - scale) % 2
    with torch.no_grad():
        block.bias.normal_()
    padding = {2: 4, 3: 3, 4: 3}[scale]
    wanted = functional.conv_transpose2d(pixels, block.weight, block.bias, scale, padding, output_padding=odd)
    torch.testing.assert_close(functional.pixel_shuffle(block(pixels), scale), wanted)


# ---- starting from another net's weights


@each_card
def test_a_lent_net_is_the_same_function(card):
    scale = card.scales[0]
    net, other, pixels = built(card.name, scale), build(card, scale, seed=1), planes_of(card)
    folded = net.folded()
    taken = other.lend(folded.state_dict())
    assert {name.removeprefix("inner.").rpartition(".")[0] for name, _ in folded.named_parameters()} == set(taken)
    torch.testing.assert_close(other(pixels), net(pixels), atol=1e-5, rtol=0)


def test_a_wider_net_starts_as_the_narrower_one():
    narrow, wide, pixels = built("residual-32x8", 2), build(NETS["residual-64x8"], 2), torch.rand(1, 3, 20, 24)
    wide.lend(narrow.folded().state_dict())
    torch.testing.assert_close(wide(pixels), narrow(pixels), atol=1e-4, rtol=0)
    assert wide.first[0].kernel()[32:].any(), "new channels have something to learn from"


@each_scale
def test_a_colour_net_starts_as_the_luma_net(scale):
    torch.manual_seed(0)
    luma, colour = (Residual(scale, channels=16, blocks=2, colour=kind) for kind in ("luma", "rgb"))
    pixels = torch.rand(1, 3, 20, 24)
    colour.lend(luma.folded().state_dict())
    torch.testing.assert_close(colour(pixels), luma(pixels), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "card", [card for card in NETS.values() if {2, 4} <= set(card.scales)], ids=lambda card: card.name
)
def test_another_scale_lends_all_but_the_end(card):
    other = build(card, 4)
    tail = {name: value.clone() for name, value in other.tail.state_dict().items()}
    taken = other.lend(built(card.name, 2).folded().state_dict())
    assert "head" in taken
    if "tail" not in taken:
        assert all(torch.equal(value, tail[name]) for name, value in other.tail.state_dict().items())
    assert ("tail" in taken) == (card.name in {"three-layer", "vdsr", "srresnet", "edsr", "enhance"})


def test_weights_of_another_kind_are_refused():
    wide = built("residual-64x8", 2).folded().state_dict()
    with pytest.raises(TrainingError, match=r"none of the weights lent .*fits Residual x2; lend those of a net of its"):
        build(NETS["residual-32x8"], 2).lend(wide)


# ---- critics

each_critic = pytest.mark.parametrize("name", CRITICS)


@each_critic
def test_a_critic_judges_any_size_with_every_weight(name):
    torch.manual_seed(0)
    critic = CRITICS[name]()
    for size in [(24, 24), (31, 47)]:
        logits = critic(torch.rand(2, 3, *size))
        assert logits.shape[:2] == (2, 1)
        logits.square().sum().backward()
    assert [name for name, value in critic.named_parameters() if not value.grad.any()] == []


def test_the_patches_are_of_seventy_pixels():
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 160, 160, requires_grad=True)
    logits = CRITICS["patch"]()(pixels)
    assert logits.shape == (1, 1, 18, 18)
    logits[0, 0, 9, 9].backward()
    rows = pixels.grad.abs().amax((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 70


@each_critic
def test_spectral_norm_keeps_convolutions_at_one(name):
    torch.manual_seed(0)
    critic = CRITICS[name]()
    with torch.no_grad():
        for _ in range(5):
            critic(torch.rand(1, 3, 24, 24))
    sizes = [
        np.linalg.norm(layer.weight.detach().flatten(1).numpy(), 2)
        for layer in critic.eval().modules()
        if isinstance(layer, torch.nn.Conv2d) and hasattr(layer, "parametrizations")
    ]
    assert len(sizes) >= 3
    np.testing.assert_allclose(sizes, 1, atol=0.1)


# ---- as a file

# The largest nets at one scale, all three over the table.
SCALES = {
    **dict.fromkeys(sorted(KEEPS_DATA), (2,)),
    "plain-16x11": (2, 3),
    "residual-32x8": (4,),
    "three-layer": (3,),
    "espcn": (3,),
    "unet-attention": (4,),
    "enhance-repair": (1,),
    "residual-unet": (4,),
}
FILES = [
    pytest.param((card, scale), id=f"{card.name}-x{scale}")
    for card in TESTED.values()
    for scale in SCALES.get(card.name, card.scales[:1])
]


@pytest.fixture(scope="module", params=FILES)
def exported(request, tmp_path_factory):
    net_card, scale = request.param
    net = build(net_card, scale)
    path = tmp_path_factory.mktemp("exported") / "new.onnx"
    card = Card(
        name=f"new-x{scale}",
        scale=scale,
        halo=net_card.halo,
        multiple_of=net_card.multiple_of,
        frames=net_card.frames,
        fp32_end=net_card.fp32_end,
    )
    difference = export(net, card, path)
    return net, card, read_model(path), difference


def whole(pixels, engine):
    """All at once: grown to the size grid, computed, cut."""
    rows, cols = pixels.shape[:2]
    past = [(0, -rows % engine.multiple_of), (0, -cols % engine.multiple_of), (0, 0)]
    return engine(still(np.pad(pixels, past, mode="edge"), engine.frames))[: rows * engine.scale, : cols * engine.scale]


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
    net, card, model, _ = exported
    engine = open_engine(model, *run)
    for size in [(1, 1), (1, 8), (31, 22)]:
        rows, cols = (side if card.multiple_of == 1 else card.multiple_of * -(-side // 8) for side in size)
        pixels = np.random.default_rng(0).random((card.frames, rows, cols, 3), dtype=np.float32)
        with torch.no_grad():
            window = torch.cat([planes(frame) for frame in pixels], 1)
            wanted = pixels_of(net(window).clamp(0, 1))
        np.testing.assert_allclose(engine(pixels), wanted, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_tiled_equals_whole_to_the_bit(exported, run):
    """Strips of three tiles, off the size grid; none narrower than 48, where bf16 on AMX adds in another order."""
    engine = open_engine(exported[2], *run)
    tile = max(16, 49 - 2 * engine.halo)
    side = 2 * engine.halo + 3 * tile - 3
    for size, kind in [((1, 1), np.uint8), ((19, side), np.uint8), ((side, 13), np.float32)]:
        pixels = picture(size, kind)
        np.testing.assert_array_equal(tiled(pixels, engine, tile), whole(pixels, engine))


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_the_end_is_in_fp32_where_the_card_says_so(exported, run):
    """With the weights of the tail at zero, what's left is the base, as exact as float is."""
    import onnx

    net, card, model, _ = exported
    if not card.fp32_end or any(entry.startswith("inner.") for entry in dict(net.named_parameters())):
        pytest.skip("no base")
    proto = onnx.load_from_string(model.content)
    for entry in proto.graph.initializer:
        if entry.name.startswith("tail."):
            entry.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(entry), entry.name))
    engine = open_engine(replace(model, content=proto.SerializeToString()), *run)
    pixels = picture((24, 32), np.float32)
    wanted = resize(pixels, (24 * net.scale, 32 * net.scale))
    np.testing.assert_allclose(engine(still(pixels, engine.frames)), wanted.clip(0, 1), atol=1e-6)


@pytest.mark.slow
def test_the_residual_unet_as_wide_as_published(tmp_path):
    card, net = NETS["residual-unet"], build(NETS["residual-unet"], 4)
    pixels = planes_of(card)
    with torch.no_grad():
        wanted = net(pixels)
        torch.testing.assert_close(net.folded()(pixels), wanted, atol=1e-4, rtol=0)
    facts = Card(name="new-x4", scale=4, halo=card.halo, multiple_of=card.multiple_of, fp32_end=card.fp32_end)
    assert export(net, facts, tmp_path / "new.onnx") < 5e-4
    made = open_engine(read_model(tmp_path / "new.onnx"), "openvino", "fp32")(pixels.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(made, pixels_of(wanted.clamp(0, 1)), atol=1e-4)


@pytest.mark.slow
def test_a_file_that_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    net = built("espcn", 2)
    right = export_module.to_onnx
    other = build(NETS["espcn"], 2, seed=5)
    monkeypatch.setattr(
        export_module, "to_onnx", lambda folded, *given, **named: right(other.folded().eval(), *given, **named)
    )
    with pytest.raises(TrainingError, match=r"new\.onnx: ONNX and torch differ by .*; not written"):
        export(net, Card(name="new-x2", scale=2, halo=4, fp32_end=True), tmp_path / "new.onnx")
    assert list(tmp_path.iterdir()) == []
