"""Runs that learn errors: the loss against its formula, what is learned from, and intervals from held-out pictures."""

import math
import tomllib

import numpy as np
import pytest
from PIL import Image
from skimage import data

torch = pytest.importorskip("torch")

from superfine.classical.resample import matlab_resize, resize  # noqa: E402 - torch is an extra
from superfine.color import full_luma, to_unit  # noqa: E402
from superfine.engine import load_model  # noqa: E402
from superfine.errors import ShapeError, TrainingError  # noqa: E402
from superfine.evaluate.methods import enlarged  # noqa: E402
from superfine.evaluate.pairs import Pair  # noqa: E402
from superfine.guess import GUESS_OCTAVES, LEAST_GUESS, calibrations  # noqa: E402
from superfine.models import find_model, read_model  # noqa: E402
from superfine.train.config import changed, to_config  # noqa: E402
from superfine.train.data import Batch  # noqa: E402
from superfine.train.export import export_run  # noqa: E402
from superfine.train.guesses import absolute_error, error_pairs, open_judged, with_grain  # noqa: E402
from superfine.train.listener import Listener  # noqa: E402
from superfine.train.loop import train  # noqa: E402
from superfine.train.losses import laplace  # noqa: E402


class Heard(Listener):
    def __init__(self):
        self.losses = []

    def step(self, moment):
        self.losses.append(moment.loss)


RECIPE = """
net = "guess-32x3"
scale = 2
precision = "fp32"
validate_every = 3
guess = {errors_of = "fast-x2", networks = ["fast-x2", "balanced-x2"]}
data = {folders = ["."], hold_out = {"." = 3}}
stages = [{steps = 3, batch = 2, patch = 24, loss = {laplace = 1.0}}]
optimizer = {warm_up = 2}
card = {licence = "Apache-2.0"}
"""


def recipe(*changes):
    return to_config(changed(tomllib.loads(RECIPE), changes), "my.toml")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate((data.coffee(), data.chelsea(), data.astronaut(), data.rocket(), data.astronaut())):
        piece = np.ascontiguousarray(pixels[100 + number : 250, 100:290])
        Image.fromarray(piece).save(folder / f"{number}.png")
    return folder


# ---- the loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_laplace_by_its_formula(dtype):
    draw = np.random.default_rng(0)
    codes, errors = draw.random((2, 1, 5, 6)), draw.exponential(0.01, (2, 1, 5, 6))
    coded = torch.tensor(codes, dtype=dtype)
    scale = LEAST_GUESS * 2 ** (GUESS_OCTAVES * coded.double().numpy())
    density = np.exp(-(errors + LEAST_GUESS) / scale) / (2 * scale)
    wanted = -np.log2(density * 2 * LEAST_GUESS).mean()
    assert float(laplace(coded, torch.tensor(errors))) == pytest.approx(wanted, rel=1e-5)


def test_it_is_least_where_the_mean_error_is_expected():
    errors = torch.tensor(np.random.default_rng(0).exponential(0.02, (1, 1, 100, 100)))
    codes = torch.linspace(0.2, 0.9, 1000, dtype=torch.float64)
    losses = [float(laplace(code.expand_as(errors), errors)) for code in codes]
    best = float(codes[int(np.argmin(losses))])
    wanted = math.log2((float(errors.mean()) + LEAST_GUESS) / LEAST_GUESS) / GUESS_OCTAVES
    assert best == pytest.approx(wanted, abs=0.001)


def test_its_gradient():
    codes = torch.rand(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda coded: laplace(coded, torch.full_like(codes, 0.01)), codes)


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"of one shape, got \(1, 1, 2, 2\) and \(1, 3, 2, 2\)"):
        laplace(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))


# ---- what is learned from


def test_the_errors_are_those_of_the_shipped_network():
    """In torch, from a luma picture, and by the engine, from the whole picture as a file would hold it."""
    large = np.repeat(data.camera()[100:220, 100:240, None], 3, 2)
    small = matlab_resize(large, (60, 70))
    made = enlarged(load_model("fast-x2", 2, precision="fp32"), small)
    wanted = np.abs(full_luma(to_unit(made)) - full_luma(to_unit(large)))
    planes = [torch.from_numpy(to_unit(pixels[..., 0].copy()))[None, None] for pixels in (small, large)]
    judged = open_judged(recipe())
    assert judged.name == "plain-16x11"
    assert not any(weight.requires_grad for weight in judged.net.parameters())
    np.testing.assert_allclose(absolute_error(judged.net, *planes)[0, 0], wanted, atol=0.51 / 255)
    (pair,) = error_pairs([Pair("a", small, large)], recipe())
    np.testing.assert_allclose(pair.large[..., 1], wanted, atol=1.01 / 255)
    assert np.abs(pair.large[..., 1] - wanted).mean() < 0.02 / 255, "a rounding here and there"
    assert pair.small is small


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_grain_lies_in_both_pictures_alike(scale):
    """What is added to the small patch is what is added to the large one, reduced; half of them stay as they are."""
    config = recipe(
        f"scale={scale}", f"guess.errors_of=fast-x{scale}", "guess.grain=10", "stages.0.batch=400", "stages.0.patch=8"
    )
    grey = Batch(torch.full((400, 1, 8, 8), 0.5), torch.full((400, 1, 8 * scale, 8 * scale), 0.5))
    made = with_grain(grey, config, 7, slice(None))
    small, noise = (np.asarray(part - 0.5, np.float64) for part in made)
    sigma = made.large.std((1, 2, 3)).numpy() * 255
    assert 0.4 < np.mean(sigma == 0) < 0.6
    assert 0.2 < sigma[sigma > 0].min() < 0.6
    assert 7 < sigma.max() < 12
    for place in (int(sigma.argmax()), int(np.median(np.flatnonzero(sigma > 0)))):
        wanted = resize(noise[place, 0][..., None], (8, 8))
        np.testing.assert_allclose(small[place, 0], wanted[..., 0], atol=1e-6)
    again, other = with_grain(grey, config, 7, slice(None)), with_grain(grey, config, 8, slice(None))
    assert torch.equal(again.large, made.large)
    assert not torch.equal(other.large, made.large)
    mine = with_grain(Batch(*(part[1::2] for part in grey)), config, 7, slice(1, None, 2))
    assert torch.equal(mine.large, made.large[1::2]), "processes that share a batch see the noise of one alone"


def test_without_grain_patches_stay():
    batch = Batch(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 8, 8))
    assert with_grain(batch, recipe(), 1, slice(None)) is batch


@pytest.mark.parametrize("named", ["fast-x3", "photo-x2"])
def test_errors_of_another_scale_or_colour(named):
    with pytest.raises(TrainingError, match=f"guess.errors_of = {named}: guess-32x3 x2 can't learn its errors"):
        open_judged(recipe(f"guess.errors_of={named}"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["stages=[{steps=1, loss={l1=1.0}}]"], r"\[guess\] learns by the loss laplace alone, not by l1"),
        (["stages.0.loss={laplace=1.0, l1=0.1}"], r"\[guess\] learns by the loss laplace alone, not by l1, laplace"),
        (["scale=1"], "networks that enlarge single pictures"),
        (["data.degrade={}"], r"\[guess\] takes clean pictures"),
        (['teacher={model="fast-x2"}'], r"\[guess\] takes clean pictures"),
        (["guess.networks=[]"], "guess.networks"),
        (["guess.error_of=fast-x2"], "unknown guess.error_of"),
    ],
)
def test_wrong_recipes(changes, words):
    with pytest.raises(TrainingError, match=words):
        recipe(*changes)


def test_the_loss_alone_is_no_recipe():
    given = tomllib.loads(RECIPE)
    del given["guess"]
    with pytest.raises(TrainingError, match=r"a laplace loss needs \[guess\]"):
        to_config(given, "my.toml")


# ---- from run to card


@pytest.mark.slow
def test_a_run_becomes_a_calibrated_network(photos, tmp_path):
    """Of three held-out pictures the first and third calibrate, and the second tests."""
    train(recipe(), photos, tmp_path / "run")
    with pytest.raises(TrainingError, match="its intervals are calibrated on pictures; --data names them"):
        export_run(tmp_path / "run", tmp_path / "guess-x2.onnx", {})
    with pytest.raises(TrainingError, match="learned errors and enlarges nothing, so there are no dB to measure"):
        export_run(tmp_path / "run", tmp_path / "guess-x2.onnx", {"Set5": photos}, root=photos)
    card = export_run(tmp_path / "run", tmp_path / "guess-x2.onnx", {}, root=photos)
    model = read_model(tmp_path / "guess-x2.onnx")
    assert model.card == card
    assert card.errors_of == "fast-x2"
    found = {each.network: each for each in calibrations(model)}
    assert set(found) == {"fast-x2", "balanced-x2"}
    for name, each in found.items():
        assert each.sha256 == find_model(name)[0].sha256
        assert each.pictures.startswith("2 of ")
        assert each.tested["pictures"] == 1
        assert 0 < each.tested["coverage"] <= 1
        assert 0 < each.tested["ause"] < 1
    with pytest.raises(TrainingError, match="holds out 1 pictures, and calibration wants two or more"):
        train(recipe('data.hold_out={"."=1}'), photos, tmp_path / "other")
        export_run(tmp_path / "other", tmp_path / "b.onnx", {}, root=photos)


@pytest.mark.slow
def test_errors_are_learned(photos, tmp_path):
    """In two hundred steps the errors of patches that are drawn become likelier."""
    listener = Heard()
    changes = ("stages.0.steps=200", "validate_every=200", "optimizer={rate=1e-3, warm_up=20, clip=0.5}")
    train(recipe(*changes), photos, tmp_path / "run", listener=listener)
    assert len(listener.losses) == 2
    assert listener.losses[1] < listener.losses[0] - 0.15
