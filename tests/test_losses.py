"""Losses against NumPy's float64 formulas, scikit-image, and cases worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from superfine.errors import ShapeError, TrainingError
from superfine.evaluate import metrics

torch = pytest.importorskip("torch")

from superfine.train.losses import (  # noqa: E402 - torch is an extra
    LOSSES,
    adversarial,
    charbonnier,
    critic_loss,
    fft,
    gradient_weighted,
    gram,
    input_means,
    lattice,
    r1_penalty,
    relative,
    relativistic,
    relativistic_critic_loss,
    ssim,
    total_variation,
    weighted,
)

each_loss = pytest.mark.parametrize("name", LOSSES)


def pair(size=(2, 3, 34, 37), dtype=torch.float64):
    draw = np.random.default_rng(0)
    target = draw.random(size)
    return tuple(torch.tensor(each, dtype=dtype) for each in (target + 0.1 * draw.standard_normal(size), target))


def squares_and_steps(d, weigh):
    """mean of `weigh` over d, and over its differences along rows and columns, in NumPy."""
    return weigh(d).mean(), weigh(np.diff(d, axis=2)).mean(), weigh(np.diff(d, axis=3)).mean()


WITNESS = {
    "mse": lambda o, t: np.mean((o - t) ** 2),
    "l1": lambda o, t: np.mean(np.abs(o - t)),
    "charbonnier": lambda o, t: np.mean(np.hypot(o - t, 1e-3)),
    "gradient_weighted": lambda o, t: sum(squares_and_steps(o - t, np.square)),
    "ssim": lambda o, t: 1 - np.mean([metrics.ssim(x, y) for x, y in zip(planes(o), planes(t), strict=True)]),
    "lattice": lambda o, t: apart(o - t).mean(),
    "total_variation": lambda o, t: sum(squares_and_steps(o, np.abs)[1:]),
    "fft": lambda o, t: np.mean(
        [np.abs([np.fft.rfft2(d).real, np.fft.rfft2(d).imag]).mean() / math.sqrt(d.size) for d in planes(o) - planes(t)]
    ),
}


def apart(pictures):
    """(2, 3, 34, 37) -> |means of each of 4 x 4 phases less their mean| in blocks of 16 px, (2, 3, 2, 2, 4, 4)."""
    cut = pictures[:, :, :32, :32].reshape(2, 3, 2, 4, 4, 2, 4, 4)  # block, place, phase of rows, then of columns
    means = cut.mean((3, 6)).transpose(0, 1, 2, 4, 3, 5)
    return np.abs(means - means.mean((-2, -1), keepdims=True))


def planes(pictures):
    return pictures.reshape(-1, *pictures.shape[2:])


@each_loss
def test_against_numpy(name):
    output, target = pair()
    made = LOSSES[name](output, target)
    assert made.shape == ()
    assert made.dtype == torch.float64
    # The witness of SSIM is computed in float32.
    wanted = WITNESS[name](output.numpy(), target.numpy())
    assert float(made) == pytest.approx(wanted, rel=1e-6 if name == "ssim" else 1e-9)


@each_loss
def test_gradient_against_finite_differences(name):
    output, target = pair((1, 1, 17, 16) if name == "lattice" else (1, 2, 12, 11))
    assert torch.autograd.gradcheck(lambda pictures: LOSSES[name](pictures, target), output.requires_grad_(True))


@each_loss
def test_float32_also_under_autocast(name):
    """bf16 pictures have the loss of the same values in float64, to float32's exactness."""
    output, target = pair(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        made = LOSSES[name](output, target)
    assert made.dtype == torch.float32
    assert float(made) == pytest.approx(float(LOSSES[name](output.double(), target.double())), rel=2e-5)


@each_loss
def test_equal_pictures(name):
    _, target = pair(dtype=torch.float32)
    flat = torch.full_like(target, 0.3)
    left = {"charbonnier": 1e-3}.get(name, 0.0)
    assert float(LOSSES[name](flat, flat)) == pytest.approx(left, abs=1e-6)
    if name != "total_variation":
        assert float(LOSSES[name](target, target)) == pytest.approx(left, abs=1e-6)


@each_loss
def test_better_pictures_lose_less(name):
    """On the way to a flat target, which is also what total variation wants."""
    noise, _ = pair(dtype=torch.float32)
    flat = torch.full_like(noise, 0.5)
    losses = [float(LOSSES[name](flat + part * (noise - flat), flat)) for part in (1, 0.5, 0.25, 0.1)]
    assert all(worse > better for worse, better in pairwise(losses))


# ---- each by itself


def test_ssim_against_scikit_image():
    output, target = pair((1, 1, 30, 41))
    theirs = structural_similarity(
        *(each[0, 0].numpy() for each in (output, target)),
        data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
    )[1][5:-5, 5:-5].mean()  # fmt: skip
    assert float(ssim(output, target)) == pytest.approx(1 - theirs, rel=1e-6)


def test_charbonnier_is_l1_with_a_round_tip():
    zero = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    assert float(charbonnier(zero + 3e-3, zero)) == pytest.approx(math.sqrt(10) * 1e-3)
    assert float(charbonnier(zero + 0.5, zero)) == pytest.approx(0.5, rel=1e-5)


def test_an_edge_outweighs_a_flat_error():
    """Both have one square of error a pixel; the stripes have steps of 2 besides, along each row."""
    black = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    stripes = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64).expand(1, 1, 4, 6)
    assert float(gradient_weighted(black + 1, black)) == pytest.approx(1)
    assert float(gradient_weighted(stripes, black)) == pytest.approx(1 + 2**2)


def test_total_variation_of_a_slope():
    """It rises by 0.1 a column and falls by 0.02 a row."""
    x, y = torch.arange(7, dtype=torch.float64), torch.arange(5, dtype=torch.float64)
    slope = (0.1 * x - 0.02 * y[:, None]).expand(2, 3, 5, 7)
    assert float(total_variation(slope)) == pytest.approx(0.12)


@pytest.mark.parametrize("side", [16, 64, 256])
def test_fft_of_noise_is_the_same_in_any_patch(side):
    """Unitary: real and imaginary parts of white noise have half its variance, and a mean size of sqrt(2/pi) sigma."""
    noise = torch.tensor(np.random.default_rng(1).standard_normal((2**18 // side**2, 1, side, side)))
    wanted = math.sqrt(2 / math.pi) * math.sqrt(0.5)
    assert float(fft(noise, torch.zeros_like(noise))) == pytest.approx(wanted, rel=0.01)


# ---- two nets that fight


def test_undecided_critic():
    undecided = torch.zeros(2, 1, 4, 4)
    assert float(adversarial(undecided)) == pytest.approx(math.log(2))
    assert float(critic_loss(undecided, undecided)) == pytest.approx(2 * math.log(2))
    assert float(relativistic(undecided, undecided)) == pytest.approx(math.log(2))
    assert float(relativistic_critic_loss(undecided, undecided)) == pytest.approx(2 * math.log(2))


def test_relativistic_against_the_paper():
    """D(x, y) = sigmoid(C(x) - E C(y)): ESRGAN's equations 1 and 2, in NumPy; the generator's halved."""
    real, fake = (np.random.default_rng(seed).normal(0, 3, (5, 7)) for seed in (2, 3))
    of_real, of_fake = (1 / (1 + np.exp(-(one - other.mean()))) for one, other in ((real, fake), (fake, real)))
    critics = -np.log(of_real).mean() - np.log(1 - of_fake).mean()
    generators = -np.log(1 - of_real).mean() - np.log(of_fake).mean()
    real, fake = torch.tensor(real, requires_grad=True), torch.tensor(fake, requires_grad=True)
    assert float(relativistic_critic_loss(real, fake).detach()) == pytest.approx(critics)
    assert float(relativistic(fake, real).detach()) == pytest.approx(generators / 2)
    assert torch.autograd.gradcheck(relativistic, (fake, real))
    assert torch.autograd.gradcheck(relativistic_critic_loss, (real, fake))


def test_gram_against_einsum():
    layer = torch.tensor(np.random.default_rng(5).normal(0, 1, (2, 3, 4, 5)))
    wanted = np.einsum("nchw,ndhw->ncd", layer.numpy(), layer.numpy()) / (3 * 4 * 5)
    np.testing.assert_allclose(gram(layer).numpy(), wanted)


def test_relative_difference_knows_no_gain():
    one, other = (torch.tensor(np.random.default_rng(seed).normal(0, 1, (2, 3, 4, 5))) for seed in (6, 7))
    wanted = np.abs(one.numpy() - other.numpy()).mean() / np.abs(other.numpy()).mean()
    assert float(relative(one, other)) == pytest.approx(wanted)
    assert float(relative(one * 40, other * 40)) == pytest.approx(wanted)
    assert float(relative(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))) == 0


def test_a_lattice_is_seen_and_colour_and_the_targets_own_are_not():
    """One level up and down from pixel to pixel is a lattice of one level; a shift of all samples is none."""
    grey = torch.full((1, 3, 40, 44), 0.5, dtype=torch.float64)
    board = torch.tensor(np.indices((40, 44)).sum(0) % 2 * 2 - 1)
    assert float(lattice(grey + board / 255, grey)) == pytest.approx(1 / 255)
    assert float(lattice(grey + 1 / 255, grey)) == pytest.approx(0, abs=1e-12)
    assert float(lattice(grey + board / 255, grey + board / 255)) == 0
    with pytest.raises(ShapeError, match=r"a lattice needs 16 px a side, got \(15, 40\)"):
        lattice(torch.zeros(1, 1, 15, 40), torch.zeros(1, 1, 15, 40))


def test_input_means_see_colour_and_not_texture():
    small, board = torch.rand(2, 3, 9, 17, dtype=torch.float64), torch.tensor(np.indices((36, 68)).sum(0) % 2 * 2 - 1)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert float(input_means(large + board / 255, small)) == pytest.approx(0, abs=1e-12)
    assert float(input_means(large + 1 / 255, small)) == pytest.approx(1 / 255)
    changed = large.clone()
    changed[:, :, :, 64:] += 1  # beyond the last whole block
    assert float(input_means(changed, small)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ShapeError, match=r"block means need 8 px a side, got \(7, 9\)"):
        input_means(torch.zeros(1, 1, 14, 18), torch.zeros(1, 1, 7, 9))
    with pytest.raises(ShapeError, match="of one factor"):
        input_means(torch.zeros(1, 1, 30, 32), torch.zeros(1, 1, 16, 16))


def test_critic_and_generator_against_cross_entropy():
    real, fake = (torch.tensor(np.random.default_rng(seed).normal(0, 3, (5, 7))) for seed in (2, 3))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    assert float(adversarial(fake)) == pytest.approx(float(entropy(fake, ones)))
    assert float(critic_loss(real, fake)) == pytest.approx(float(entropy(real, ones) + entropy(fake, zeros)))
    assert torch.autograd.gradcheck(adversarial, fake.clone().requires_grad_(True))
    assert torch.autograd.gradcheck(critic_loss, (real.requires_grad_(True), fake.requires_grad_(True)))


def test_sure_scores_stay_finite():
    """Where log(sigmoid) has long underflown: the loss is the score itself."""
    assert float(adversarial(torch.full((3, 1), -1e4))) == pytest.approx(1e4)
    assert float(critic_loss(torch.full((3, 1), -1e4), torch.full((3, 1), 1e4))) == pytest.approx(2e4)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 5, 5)])
def test_r1_of_a_linear_critic(shape):
    """score = <w, picture>, at every place of the answer: the gradient is w, and the penalty is |w|^2 / 2."""
    weight = torch.tensor(np.random.default_rng(4).standard_normal((3, 6, 5)), requires_grad=True)
    real = torch.rand(4, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    scores = (real * weight).sum(dim=(1, 2, 3)).reshape(4, *[1] * (len(shape) - 1)).expand(shape)
    penalty = r1_penalty(scores, real)
    assert float(penalty.detach()) == pytest.approx(float((weight.detach() ** 2).sum()) / 2)
    penalty.backward()
    np.testing.assert_allclose(weight.grad.numpy(), weight.detach().numpy())


# ---- as a recipe writes them


def test_weighted_sum():
    output, target = pair()
    o, t = output.numpy(), target.numpy()
    made = weighted({"l1": 1.0, "fft": 0.05, "mse": 0.0}, output, target)
    assert float(made) == pytest.approx(WITNESS["l1"](o, t) + 0.05 * WITNESS["fft"](o, t), rel=1e-9)
    assert float(weighted({}, output, target)) == 0


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"l1": 1.0, "l3": 0.5}, "no loss 'l3'; there are mse, l1, charbonnier, gradient_weighted, ssim"),
        ({"mse": -0.1}, "mse has the weight -0.1; want a finite number from 0"),
        ({"fft": float("inf")}, "fft has the weight inf"),
        ({"fft": float("nan")}, "fft has the weight nan"),
    ],
    ids=str,
)
def test_wrong_weights_are_refused(weights, text):
    with pytest.raises(TrainingError, match=text):
        weighted(weights, *pair())


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"total_variation"}))  # which looks at the output alone
def test_unequal_shapes_are_refused(name):
    with pytest.raises(ShapeError, match=r"of one shape, got \(1, 3, 12, 12\) and \(1, 1, 12, 12\)"):
        LOSSES[name](torch.zeros(1, 3, 12, 12), torch.zeros(1, 1, 12, 12))


def test_patches_that_are_too_small_are_refused():
    small = torch.zeros(1, 3, 10, 1)
    with pytest.raises(ShapeError, match=r"SSIM needs 11 px a side, got \(10, 1\); use larger patches"):
        ssim(small, small)
    for loss in (lambda: total_variation(small), lambda: gradient_weighted(small, small)):
        with pytest.raises(ShapeError, match=r"image gradients need 2 px a side, got \(10, 1\)"):
            loss()
