"""What judges outputs besides pixels: critics, features, and the watchdog over their fight."""

import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from superfine.errors import TrainingError
from superfine.train import perception
from superfine.train.config import to_config
from superfine.train.nets.critics import CRITICS
from superfine.train.perception import Perception, Watchdog, serving, serving_name

RECIPE = {
    "net": "plain-16x11",
    "scale": 2,
    "precision": "fp32",
    "stages": [{"steps": 5, "loss": {"features": 1.0, "adversarial": 0.1}}],
    "critic": {"name": "patch"},
    "features": {"of": "critic"},
}


def recipe(**changes):
    return to_config(RECIPE | changes, "tiny.toml")


def pictures(seed, size=(2, 3, 40, 44)):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def fighting(config, name="patch", rate=1e-3):
    torch.manual_seed(0)
    critic = CRITICS[name]()
    return critic, Perception(config, None, critic, torch.optim.Adam(critic.parameters(), rate))


@pytest.mark.parametrize("name", CRITICS)
def test_what_a_critic_judges_is_what_it_says(name):
    critic = CRITICS[name]().eval()
    logits, activations = critic.judge(pictures(1))
    assert torch.equal(logits, critic(pictures(1)))
    hidden = [layer for layer in critic.body if isinstance(layer, torch.nn.LeakyReLU)]
    assert len(activations) == len(hidden)
    wanted = torch.nn.functional.leaky_relu(critic.body[0](pictures(1) * 2 - 1), 0.2)
    assert torch.equal(activations[0], wanted)


@pytest.mark.parametrize("contest", ["standard", "relativistic"])
def test_a_critic_learns_to_tell(contest):
    """Grey pictures from noise: its loss falls from undecided, and the generator's rises."""
    config = recipe(critic={"name": "patch", "contest": contest})
    _, judging = fighting(config)
    fabric = Fabric(accelerator="cpu")
    grey, noise = torch.full((2, 3, 40, 44), 0.5), pictures(2)
    losses = [judging.teach(grey, noise, fabric) for _ in range(15)]
    assert losses[0] == pytest.approx(2 * math.log(2), abs=0.2)
    assert losses[-1] < 0.5
    assert float(judging.loss({"adversarial": 1.0}, grey, noise)) > 1


def test_the_generators_loss_leaves_the_critic_alone():
    critic, judging = fighting(recipe())
    output = pictures(1).requires_grad_(True)
    judging.loss({"adversarial": 1.0, "features": 1.0, "style": 1.0}, output, pictures(2)).backward()
    assert all(weight.grad is None for weight in critic.parameters())
    assert all(weight.requires_grad for weight in critic.parameters())
    assert output.grad.abs().sum() > 0


@pytest.fixture
def unshifted(monkeypatch):
    monkeypatch.setattr(perception, "_as_the_critic_sees", lambda output, target: (output, target))


def test_critic_sees_both_in_the_same_place_and_never_in_the_same_for_long():
    """A plane that rises by 44 a row and 1 a column stays as it is under the filter, but for 1 px at each side."""
    torch.manual_seed(0)
    numbered = torch.arange(40 * 44, dtype=torch.float32).view(1, 1, 40, 44)
    seen = [perception._as_the_critic_sees(numbered, -numbered) for _ in range(60)]
    assert all(torch.equal(output, -target) and output.shape == (1, 1, 35, 39) for output, target in seen)
    corners = {float(output[0, 0, 0, 0]) for output, _ in seen}
    assert corners == {44.0 * row + col for row in range(1, 5) for col in range(1, 5)}


def test_critic_sees_no_checkerboard():
    board = torch.tensor(np.indices((24, 24)).sum(0) % 2, dtype=torch.float32).expand(1, 3, 24, 24)
    lines = torch.tensor(np.indices((24, 24))[0] % 2, dtype=torch.float32).expand(1, 3, 24, 24)
    output, target = perception._as_the_critic_sees(board, lines)
    assert torch.equal(output, torch.full_like(output, 0.5))
    assert torch.equal(target, torch.full_like(target, 0.5))


def test_features_of_equal_pictures_are_equal(unshifted):
    critic, judging = fighting(recipe())
    critic.eval()  # spectral norm moves on while it trains
    for name in ("features", "style"):
        assert float(judging.loss({name: 1.0}, pictures(1), pictures(1))) == 0
        near = float(judging.loss({name: 1.0}, pictures(1) + 0.01 * pictures(2), pictures(1)))
        assert 0 < near < float(judging.loss({name: 1.0}, pictures(3), pictures(1)))


def test_features_are_the_mean_over_layers_of_relative_differences(unshifted):
    critic, judging = fighting(recipe())
    critic.eval()
    made, true = (critic.judge(pictures(seed))[1] for seed in (1, 2))
    each = [
        np.abs((a - b).detach().numpy()).mean() / np.abs(b.detach().numpy()).mean()
        for a, b in zip(made, true, strict=True)
    ]
    assert float(judging.loss({"features": 2.0}, pictures(1), pictures(2))) == pytest.approx(
        2 * np.mean(each), rel=1e-5
    )


def test_luma_is_seen_as_grey(unshifted):
    critic, judging = fighting(recipe())
    critic.eval()
    one, other = pictures(1, (2, 1, 40, 44)), pictures(2, (2, 1, 40, 44))
    weights = {"adversarial": 1.0, "features": 1.0}
    grey = judging.loss(weights, one.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1))
    assert float(judging.loss(weights, one, other)) == pytest.approx(float(grey), rel=1e-6)


# ---- what serves as features


def test_without_the_published_file_the_critic_serves_and_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = {"of": "vgg19", "layers": {"conv5_4": 1.0}}
    config = recipe(features=wanted)
    assert serving(config) is None
    assert serving_name(config, None) == "the critic's own"
    alone = recipe(features=wanted, critic=None, stages=[{"steps": 5, "loss": {"features": 1.0}}])
    with pytest.raises(TrainingError, match="vgg19 isn't in torch hub's cache; name its file as features.weights, or"):
        serving(alone)


def test_a_run_without_features_names_none():
    config = recipe(features=None, critic=None, stages=[{"steps": 5, "loss": {"l1": 1.0}}])
    assert serving(config) is None
    assert serving_name(config, None) == ""


# ---- the watchdog


def test_a_critic_that_always_wins_stops_the_run():
    watchdog = Watchdog(4.0)
    for step in range(1, 1000):
        watchdog.heed_critic(step, 0.001)
    with pytest.raises(TrainingError, match=r"collapse at step 1000: the critic's loss is 0.001 .*lower critic.rate"):
        watchdog.heed_critic(1000, 0.001)


def test_a_critic_that_wins_now_and_then_does_not():
    watchdog = Watchdog(4.0)
    for step in range(1, 3000):
        watchdog.heed_critic(step, 0.001 if step % 20 else 1.4)


def test_a_critics_loss_that_is_not_finite_stops_at_once():
    with pytest.raises(TrainingError, match="collapse at step 3: the critic's loss is nan"):
        Watchdog(4.0).heed_critic(3, math.nan)


def test_a_fall_of_psnr_stops_the_run():
    watchdog = Watchdog(2.5)
    watchdog.heed_psnr(10, 27.6, 30.0)
    with pytest.raises(TrainingError, match=r"collapse at step 20: validation fell to 27.40 dB, 2.60 below its best"):
        watchdog.heed_psnr(20, 27.4, 30.0)
