"""One picture teaches a network: only for the better, within its time, and the same after a stop."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from superfine.classical.kernels import KernelReduction, anisotropic_kernel, resampler_kernel, rounding_and
from superfine.engine import open_engine
from superfine.errors import ShapeError, TrainingError, UsageError
from superfine.models import Card, read_model
from superfine.train import adapt
from superfine.train.adapt import Adaptation, AdaptListener, adapt_network
from superfine.train.export import export
from superfine.train.pretrained import build

KERNEL = anisotropic_kernel(10, 2, (2.0, 1.0), 30)
QUICK = Adaptation(steps=8, patch=24, batch=2)


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    """A refiner whose weights are random but for a small residual: far from what it could be."""
    path = tmp_path_factory.mktemp("refiner") / "refiner.onnx"
    torch.manual_seed(3)
    card = Card(name="refiner", scale=1, halo=20, multiple_of=2, net="refiner-64x4", training_data="nothing")
    export(build("refiner-64x4", 1), card, path)
    return str(path)


def made_small(side=96, kernel=KERNEL):
    """A picture of text, large and small: (2*side, 2*side, 1), (side, side, 1), in 0..1."""
    large = data.page()[: 2 * side, : 2 * side] / 255.0
    small = np.round(KernelReduction(kernel, 2, (side, side))(large) * 255) / 255
    return large[..., None], small[..., None].astype(np.float32)


class Heard(AdaptListener):
    def __init__(self):
        self.said, self.moments = [], []

    def say(self, text):
        self.said.append(text)

    def step(self, moment):
        self.moments.append(moment)


class StopAtFive(AdaptListener):
    def step(self, moment):
        if moment.step == 5:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_the_picture_gets_better_than_by_the_network_as_it_was(refiner):
    large, small = made_small(80)
    how = Adaptation(steps=60, rate=3e-4, patch=40, batch=4)
    adapted = adapt_network(small, 2, KERNEL, 0.0, refiner, budget_seconds=600, adaptation=how)
    assert adapted.kept
    assert adapted.after < adapted.before
    start = np.clip(KernelReduction(KERNEL, 2, (80, 80)).likeliest(small[..., 0].astype(float), rounding_and(0)), 0, 1)
    pixels = np.repeat(start[None, ..., None], 3, 3).astype(np.float32)
    before, after = (
        peak_signal_noise_ratio(large[8:-8, 8:-8, 0], made[8:-8, 8:-8, 0].astype(np.float64), data_range=1)
        for made in (
            open_engine(model, "openvino", "fp32")(pixels) for model in (read_model(Path(refiner)), adapted.model)
        )
    )
    assert after > before + 0.1


def test_what_is_not_better_is_not_kept(refiner):
    """At a rate that ruins the weights."""
    heard = Heard()
    how = Adaptation(steps=3, rate=0.05, patch=24, batch=2)
    adapted = adapt_network(
        made_small(48)[1], 2, KERNEL, 0.0, refiner, budget_seconds=600, listener=heard, adaptation=how
    )
    assert (adapted.kept, adapted.steps, adapted.finished) == (False, 3, True)
    assert adapted.after == adapted.before
    assert adapted.model == read_model(Path(refiner))
    assert [moment.step for moment in heard.moments] == [1, 2, 3]
    assert all(moment.seconds_left >= 0 and moment.steps == 3 for moment in heard.moments)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(refiner, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(adapt, "_LOOK_EVERY", 3)
    small, runs = made_small(48)[1], []
    real = adapt._Run

    def watched(*given):
        runs.append(real(*given))
        return runs[-1]

    monkeypatch.setattr(adapt, "_Run", watched)
    monkeypatch.setattr(adapt, "_exported", lambda run, model, facts: model)

    def run(path, listener=None):
        return adapt_network(
            small, 2, KERNEL, 1.5, refiner, budget_seconds=600, state_path=path, listener=listener, adaptation=QUICK
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", StopAtFive())
    heard = Heard()
    resumed = run(tmp_path / "state", heard)
    assert [moment.step for moment in heard.moments] == [5, 6, 7, 8], "what was saved is not done again"
    assert "goes on from step 4 of 8" in heard.said[0]
    assert (resumed.before, resumed.after) == (whole.before, whole.after)
    for name in ("net", "average", "kept"):
        for one, other in zip(getattr(runs[0], name).parameters(), getattr(runs[2], name).parameters(), strict=True):
            assert torch.equal(one, other), name
    done = run(tmp_path / "state", heard := Heard())
    assert (done.steps, done.after, heard.moments) == (8, whole.after, [])


def test_the_budget_ends_it(refiner, monkeypatch):
    monkeypatch.setattr(adapt, "_EXPORT_SECONDS", 0.0)
    started = time.monotonic()
    how = Adaptation(steps=10**6, patch=24, batch=1)
    adapted = adapt_network(made_small(48)[1], 2, KERNEL, 0.0, refiner, budget_seconds=0.01, adaptation=how)
    assert not adapted.finished
    assert adapted.steps == 0
    assert time.monotonic() - started < 120


def test_the_card_says_where_the_network_comes_from(refiner, monkeypatch):
    how = Adaptation(steps=1, rate=1e-9, patch=24, batch=1)
    monkeypatch.setattr(adapt._Run, "share", property(lambda run: 0.5, lambda run, value: None), raising=False)
    adapted = adapt_network(made_small(48)[1], 2, KERNEL, 0.0, refiner, budget_seconds=600, adaptation=how)
    card = adapted.model.card
    assert adapted.kept
    assert (card.name, card.net, card.scale, card.multiple_of) == ("refiner-adapted", "refiner-64x4", 1, 2)
    assert card.source == f"refiner, sha256 {read_model(Path(refiner)).sha256}"
    assert "1 steps" in card.summary
    assert "one picture, sha256 " in card.training_data


def test_held_out_blocks_teach_nothing(refiner):
    """Whatever stands in them, the step is the same."""
    plane = made_small(48)[1][..., 0].astype(np.float64)

    def stepped(spoil):
        torch.manual_seed(0)
        net = adapt.load_pretrained(refiner).build()
        lesson = adapt._prepare(net, plane, 2, KERNEL, 0.0, 0)
        held = lesson.taught == 0
        assert 0.08 < held.double().mean() < 0.17
        if spoil:
            lesson.target[held] = 0.5
            lesson.small[held] = 0.5
        run = adapt._Run(net, lesson, Adaptation(patch=24, batch=4, structure=0.0))
        loss = run.advance()
        return loss, run.net.head.expand.detach().clone()

    (loss, weights), (spoilt_loss, spoilt_weights) = stepped(False), stepped(True)
    assert loss == spoilt_loss
    assert torch.equal(weights, spoilt_weights)


@pytest.mark.parametrize("kernel", [KERNEL, resampler_kernel(11, 3, "bicubic")], ids=["x2", "x3"])
def test_a_misjudged_kernel_is_a_kernel(kernel):
    scale = 2 + len(kernel) % 2
    made = adapt._misjudged(kernel, scale, np.random.default_rng(0))
    assert made.sum() == pytest.approx(1)
    assert made.shape == kernel.shape
    correlation = (made * kernel).sum() / np.sqrt((made**2).sum() * (kernel**2).sum())
    assert 0.97 < correlation < 0.99999
    places = np.arange(len(kernel)) - adapt.middle(len(kernel), scale)
    assert abs((made.sum(1) * places).sum() - (kernel.sum(1) * places).sum()) < 0.1, "it stays where it was"


# ---- bad input


@pytest.mark.parametrize(
    ("small", "kernel", "seconds", "error", "words"),
    [
        (np.zeros((47, 90, 3)), KERNEL, 60, ShapeError, "a picture of 90 x 47 px is too small to teach; want 48 px"),
        (np.zeros((60, 60)), KERNEL, 60, ShapeError, r"want a picture \(h, w, 1 or 3\), got \(60, 60\)"),
        (np.zeros((60, 60, 4)), KERNEL, 60, ShapeError, "leave alpha out"),
        (np.full((60, 60, 3), np.nan), KERNEL, 60, ShapeError, "the picture holds NaN or infinity"),
        (np.zeros((60, 60, 3)), KERNEL * 2, 60, UsageError, "its weights add up to 2, not 1"),
        (np.zeros((48, 48, 3)), np.full((61, 61), 61.0**-2), 60, UsageError, "a kernel of 61 x 61 is larger than"),
        (np.zeros((60, 60, 3)), KERNEL, 0, UsageError, "a budget of 0 s leaves no time"),
    ],
)
def test_what_can_not_teach(refiner, small, kernel, seconds, error, words):
    with pytest.raises(error, match=words):
        adapt_network(small, 2, kernel, 0.0, refiner, budget_seconds=seconds)


def test_a_network_that_enlarges_is_refused():
    with pytest.raises(UsageError, match="fast-x2: is no network of scale 1"):
        adapt_network(np.zeros((60, 60, 3)), 2, KERNEL, 0.0, "fast-x2", budget_seconds=60)


def test_a_constant_picture_teaches_nothing_and_breaks_nothing(refiner):
    adapted = adapt_network(np.full((48, 48, 1), 0.5), 2, KERNEL, 0.0, refiner, budget_seconds=600, adaptation=QUICK)
    assert np.isfinite(adapted.before)
    assert np.isfinite(adapted.after)


@pytest.mark.parametrize("content", [b"", b"half a state"], ids=["empty", "text"])
def test_a_damaged_state_is_refused(refiner, tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(TrainingError, match="is not the state of an adaptation, or is cut off; remove it"):
        adapt_network(made_small(48)[1], 2, KERNEL, 0.0, refiner, budget_seconds=60, state_path=tmp_path / "state")


def test_the_state_of_another_picture_is_refused(refiner, tmp_path):
    def run(small, noise, **options):
        options |= {"state_path": tmp_path / "state", "adaptation": Adaptation(steps=1, rate=1.0, patch=24, batch=1)}
        return adapt_network(small, 2, KERNEL, noise, refiner, budget_seconds=600, **options)

    run(made_small(48)[1], 0.0)
    with pytest.raises(TrainingError, match="was made with another --noise and another picture; give the same"):
        run(1 - made_small(48)[1], 1.0)
    heard = Heard()
    anew = run(1 - made_small(48)[1], 1.0, overwrite=True, listener=heard)
    assert "begins anew" in heard.said[0]
    assert (anew.steps, len(heard.moments)) == (1, 1)
    run(1 - made_small(48)[1], 1.0, overwrite=True, listener=heard)
    assert "goes on from step 1" in heard.said[1]  # its own isn't thrown away
