"""Training on small pictures alone: the reduction is the field's, large pictures only judge, resumed is unbroken."""

import tomllib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate

from superfine.classical.kernels import KernelReduction, anisotropic_kernel, resampler_kernel
from superfine.classical.resample import matlab_resize
from superfine.errors import TrainingError, UsageError
from superfine.train import data as data_module
from superfine.train import loop
from superfine.train.config import changed, to_config
from superfine.train.data import batch_at, open_data, whole_pairs
from superfine.train.listener import Listener
from superfine.train.log import read_log
from superfine.train.loop import train
from superfine.train.losses import reach, reduced

TINY = """
net = "plain-16x11"
scale = 2
precision = "fp32"
seed = 7
validate_every = 4
save_every = 5
data = {folders = ["small"], hold_out = {small = 1}}
self_supervision = {kernel = "bicubic"}
stages = [{steps = 8, batch = 2, patch = 20, loss = {reduced_mse = 1.0, reduced_ssim = 0.1, total_variation = 1e-3}}]
optimizer = {name = "adamax", warm_up = 3}
"""
ZERO_SHOT = "stages=[{steps=8, batch=2, patch=10, loss={mse=1.0}}]"


def tiny(*changes):
    return to_config(changed(tomllib.loads(TINY), changes), "tiny.toml")


def pictures(folder, count, size, seed=0):
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    pictures(root / "small", 4, (47, 45))
    return root


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """HR and LR; the large ones are of other pictures, so that whoever learns from them is found out."""
    root = tmp_path_factory.mktemp("pairs")
    pictures(root / "small" / "LR", 4, (47, 45))
    pictures(root / "small" / "HR", 4, (94, 90), seed=1)
    return root


# ---- the reduction


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 10), (11, 11), (24, 23)])
def test_torch_reduces_as_numpy_does(scale, shape):
    draw = np.random.default_rng(scale)
    kernels = draw.random((2, *shape))
    kernels /= kernels.sum((1, 2), keepdims=True)
    large = draw.random((2, 3, 13 * scale, 12 * scale))
    wanted = [KernelReduction(kernel, scale, (13, 12))(planes) for kernel, planes in zip(kernels, large, strict=True)]
    made = reduced(torch.from_numpy(large), torch.from_numpy(kernels), scale)
    np.testing.assert_allclose(made.numpy(), wanted, atol=1e-12)
    one = reduced(torch.from_numpy(large), torch.from_numpy(kernels[:1]), scale)
    np.testing.assert_allclose(one[1].numpy(), KernelReduction(kernels[0], scale, (13, 12))(large[1]), atol=1e-12)


def test_the_reduction_is_a_convolution_by_the_centre_rule():
    """Against scipy: at x3 small pixel r lies over large pixel 3r + 1."""
    draw = np.random.default_rng(0)
    kernel, large = draw.random((5, 5)), draw.random((21, 24))
    wanted = correlate(large, kernel[::-1, ::-1], mode="nearest")[1::3, 1::3]
    made = reduced(torch.from_numpy(large)[None, None], torch.from_numpy(kernel)[None], 3)
    np.testing.assert_allclose(made[0, 0].numpy(), wanted, atol=1e-12)


def test_the_reduction_has_a_gradient():
    large = torch.rand(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    kernel = torch.rand(1, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda pixels: reduced(pixels, kernel, 2), large)


@pytest.mark.parametrize(("side", "scale"), [(12, 2), (11, 3), (30, 4), (1, 4), (8, 2)])
def test_within_reach_the_border_is_seen(side, scale):
    """With a border of other values, and only there, the small picture differs."""
    kernel = np.full((side, side), side**-2.0)
    large = np.ones((1, 1, 16 * scale, 16 * scale))
    padded = np.pad(large[0, 0], 32 * scale)  # zeros where the border is replicated otherwise
    other = KernelReduction(kernel, scale, (80, 80))(padded)[32:48, 32:48]
    seen = np.abs(other - 1) > 1e-9
    inner = reach(side, scale)
    assert not seen[inner : 16 - inner, inner : 16 - inner].any()
    assert inner == 0 or seen[inner - 1, 8] or seen[16 - inner, 8]


def test_centred_kernels_may_be_flipped():
    """A kernel of odd side at x2, whose middle is no point of symmetry, gets one more row of zeros."""
    draw = np.random.default_rng(0)
    for scale, shape in ((2, (5, 8)), (3, (6, 6)), (4, (7, 3))):
        kernel, large = draw.random(shape), draw.random((12 * scale, 12 * scale))
        centred = data_module._centred(kernel, scale)
        assert len(set(centred.shape)) == 1
        assert len(centred) % 2 == scale % 2
        whole, flipped = KernelReduction(centred, scale, (12, 12)), KernelReduction(centred[::-1], scale, (12, 12))
        np.testing.assert_allclose(whole(large), KernelReduction(kernel, scale, (12, 12))(large), atol=1e-12)
        np.testing.assert_allclose(flipped(large[::-1]), whole(large)[::-1], atol=1e-12)


# ---- batches


def test_patches_are_of_the_small_pictures_and_kernels_turn_with_them(small, tmp_path):
    kernel = anisotropic_kernel(9, 2, (3.0, 0.5), 20)
    np.save(tmp_path / "kernel.npy", kernel)
    config = tiny(f"self_supervision.kernel='{tmp_path / 'kernel.npy'}'", "stages.0.batch=24")
    opened = open_data(config, small, tmp_path / "run")
    assert (opened.train.scale, len(opened.train), len(opened.validation)) == (1, 3, 1)
    batch = batch_at(opened.train, config, 1)
    assert torch.equal(batch.small, batch.large)
    assert batch.small.shape == (24, 1, 20, 20)
    assert batch.kernels.shape == (24, 10, 10)
    centred = data_module._centred(kernel, 2).astype(np.float32)
    ways = [np.rot90(turned, times) for turned in (centred, centred.T) for times in range(4)]
    found = {
        next(way for way, known in enumerate(ways) if np.array_equal(known, each)) for each in batch.kernels.numpy()
    }
    assert len(found) > 4
    draws = data_module._drawn_places(opened.train, config.seed, 1, config.stage_at(1))
    for sample, (place, top, left, transposed, upside, mirrored) in enumerate(draws.T.tolist()):
        begin, rows, cols, _ = opened.train.table[place]
        pixels = opened.train.pixels(begin, rows, cols) @ np.array([0.299, 0.587, 0.114]) / 255
        patch = pixels[top : top + 20, left : left + 20]
        shown = centred
        for plane, name in ((patch, "patch"), (shown, "kernel")):
            turned = plane.T if transposed else plane
            turned = turned[::-1] if upside else turned
            turned = turned[:, ::-1] if mirrored else turned
            made = batch.small[sample, 0] if name == "patch" else batch.kernels[sample]
            np.testing.assert_allclose(made.numpy(), turned, atol=1e-6)


def test_zero_shot_makes_the_picture_smaller_by_its_kernel(small, tmp_path):
    kernel = anisotropic_kernel(10, 2, (3.0, 0.5), 20)
    np.savetxt(tmp_path / "kernel.txt", kernel)
    config = tiny(ZERO_SHOT, f"self_supervision.kernel='{tmp_path / 'kernel.txt'}'", "data.hold_out={small=3}")
    opened = open_data(config, small, tmp_path / "run")
    (judge, *_) = list(whole_pairs(opened.validation, config))
    wanted = np.stack([KernelReduction(kernel, 2, (22, 23))(judge.large[..., c].astype(float)) for c in range(3)], 2)
    assert np.abs(judge.small - wanted).max() <= 0.5 + 1e-9
    batch = batch_at(opened.train, config, 1)
    assert (batch.small.shape, batch.large.shape) == ((2, 1, 10, 10), (2, 1, 20, 20))
    assert isinstance(batch, data_module.Batch)
    turned = [data_module._turned(torch.from_numpy(kernel), way) for way in np.ndindex(2, 2, 2)]
    again = torch.stack([reduced(batch.large.double(), each[None], 2) for each in turned])
    off = (again - batch.small)[..., 3:-3, 3:-3].abs().amax((2, 3, 4))
    assert (off.amin(0) < 1 / 255).all(), "by the kernel, turned as the sample is"


def test_the_bicubic_kernel_is_what_makes_small_pictures():
    large = np.random.default_rng(0).integers(0, 256, (48, 48, 1), dtype=np.uint8)
    for scale in (2, 3, 4):
        kernel = resampler_kernel(4 * scale - scale % 2, scale, "bicubic")
        made = KernelReduction(kernel, scale, (48 // scale, 48 // scale))(large[..., 0].astype(float))
        wanted = matlab_resize(large, (48 // scale, 48 // scale))[..., 0]
        assert np.abs(np.clip(made, 0, 255) - wanted)[3:-3, 3:-3].max() < 1.1, "rounded twice"


# ---- runs


def test_the_result_made_small_comes_nearer_to_the_picture(small, tmp_path):
    heard = Listener()
    heard.said = []
    heard.say = heard.said.append
    config = tiny("stages.0.steps=40", "optimizer.rate=1e-2", "ema=0.5", "stages.0.loss={reduced_mse=1.0}")
    train(config, small, tmp_path, listener=heard)
    psnr = [row["psnr"] for row in read_log(tmp_path)]
    assert psnr[-1] > psnr[0] + 1
    assert any("1 pictures without large ones judge the run" in line for line in heard.said)


@pytest.mark.parametrize("changes", [(), (ZERO_SHOT,)], ids=["by reduction", "zero-shot"])
def test_large_partners_only_judge(small, pairs, tmp_path, changes):
    """The same weights with and without them; with them PSNR is that of the enlargement."""
    alone = train(tiny(*changes), small, tmp_path / "alone")
    beside = train(tiny(*changes), pairs, tmp_path / "beside")
    for one, other in zip(alone.net.parameters(), beside.net.parameters(), strict=True):
        assert torch.equal(one, other)
    config = tiny(*changes)
    (pair,) = whole_pairs(open_data(config, pairs, tmp_path / "beside").validation, config)
    assert pair.large.shape == (90, 94, 3)
    assert pair.small.shape == (45, 47, 3)
    assert read_log(tmp_path / "beside")[-1]["psnr"] < 20, "the large ones are of other pictures"


def test_resumed_equals_unbroken_to_the_bit(small, tmp_path, monkeypatch):
    unbroken = train(tiny(), small, tmp_path / "unbroken")
    real = loop._train_step

    def step_or_die(parts, state, batch, config, step):
        if step == 7:
            raise KeyboardInterrupt
        return real(parts, state, batch, config, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), small, tmp_path / "resumed")
    resumed = train(tiny(), small, tmp_path / "resumed", go_on=True)
    for one, other in zip(unbroken.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["step"] for row in read_log(tmp_path / "resumed")] == [0, 4, 8]


def test_each_picture_has_its_own_estimate(small, tmp_path, monkeypatch):
    def found(planes, scale):
        side = 8 if planes[0][0, 0] > planes[0][-1, -1] else 6
        return type("Estimate", (), {"kernel": np.full((side, side), side**-2.0)})

    monkeypatch.setattr(data_module, "estimate_kernel", found)
    config = tiny("self_supervision.kernel=auto")
    opened = open_data(config, small, tmp_path / "run")
    assert opened.train.kernels.shape == (3, 8, 8)
    for (begin, rows, cols, _), kernel in zip(opened.train.table, opened.train.kernels, strict=True):
        luma = opened.train.pixels(begin, rows, cols) @ np.array([0.299, 0.587, 0.114])
        assert np.count_nonzero(kernel) == (64 if luma[0, 0] > luma[-1, -1] else 36)
    again = open_data(config, small, tmp_path / "run")
    np.testing.assert_array_equal(again.train.kernels, opened.train.kernels)


# ---- wrong recipes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("scale=1",), "self_supervision needs a scale from 2"),
        (("data.degrade={}",), "self_supervision takes pictures as they are; leave degrade, kernels"),
        (("stages.0.loss={reduced_mse=1.0, l1=1.0}",), "l1 would need a large picture, and reduced_... losses have"),
        (("self_supervision.kernle='auto'",), "unknown self_supervision.kernle"),
    ],
)
def test_a_wrong_recipe(changes, words):
    with pytest.raises(TrainingError, match=words):
        tiny(*changes)


def test_reduced_losses_need_the_table():
    given = tomllib.loads(TINY)
    del given["self_supervision"]
    with pytest.raises(TrainingError, match=r"a reduced_... loss needs \[self_supervision\], which names the kernel"):
        to_config(given, "tiny.toml")


def test_an_unknown_reduced_loss(small, tmp_path):
    with pytest.raises(TrainingError, match="no loss 'sharpness'"):
        train(tiny("stages.0.loss={reduced_sharpness=1.0}"), small, tmp_path)


def test_a_patch_smaller_than_the_kernel(small, tmp_path):
    np.save(tmp_path / "kernel.npy", np.full((30, 30), 1 / 900))
    with pytest.raises(TrainingError, match="a patch of 20 px is too small for a kernel of 30 px; want 25"):
        train(tiny(f"self_supervision.kernel='{tmp_path / 'kernel.npy'}'"), small, tmp_path / "run")


def test_a_kernel_that_is_none(small, tmp_path):
    np.save(tmp_path / "kernel.npy", np.ones((4, 4)))
    with pytest.raises(UsageError, match="its weights add up to 16, not 1"):
        train(tiny(f"self_supervision.kernel='{tmp_path / 'kernel.npy'}'"), small, tmp_path / "run")
