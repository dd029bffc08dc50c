"""A shipped network, taught one subject from a folder of pictures; worse is never called better."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from superfine.errors import TrainingError
from superfine.train.config import TrainConfig, changed, to_config
from superfine.train.data import open_data, whole_pairs
from superfine.train.export import export, new_card
from superfine.train.listener import Listener, Score
from superfine.train.loop import train
from superfine.train.nets import NETS
from superfine.train.nets.null_space import NullSpace
from superfine.train.pretrained import Pretrained, load_pretrained
from superfine.train.score import TorchEngine, score

__all__ = ["Tuned", "finetune"]


class Tuned(NamedTuple):
    """Measured on pictures of the folder that were held out of the training."""

    before: Score
    after: Score
    path: Path | None
    """The file written; None where the network didn't become better and nothing was written."""


def finetune(
    source: str,
    folder: Path,
    run: Path,
    path: Path,
    *,
    changes: Sequence[str] = (),
    go_on: bool = False,
    listener: Listener | None = None,
) -> Tuned:
    """Train `source` (as `load_pretrained` takes it) on the pictures of `folder`, and write `path` if it became better.

    A fifth of the pictures, drawn whole, at least one, is held out; PSNR on them
    before and after decides. changes: as for `read_recipe`. Raises TrainingError
    where the folder holds fewer than two pictures that can be used.
    """
    pretrained = load_pretrained(source)
    config = tuning(pretrained, changes)
    listener = listener or Listener()
    facts = NETS[config.net]
    held_out = list(whole_pairs(open_data(config, folder, run, listener.say).test, config))
    if not held_out:
        raise TrainingError(f"{folder}: want two pictures or more, one to learn from and one to judge by")
    before = score(TorchEngine(pretrained.build(), facts), held_out)
    listener.say(f"before: {before.psnr:.2f} dB, SSIM {before.ssim:.4f} on {before.pictures} held-out pictures")
    state = train(config, folder, run, go_on=go_on, listener=listener)
    after = score(TorchEngine(state.ema, facts), held_out)
    if after.psnr <= before.psnr:
        return Tuned(before, after, None)
    export(state.ema, new_card(config, path.stem), path)
    return Tuned(before, after, path)


def tuning(pretrained: Pretrained, changes: Sequence[str] = ()) -> TrainConfig:
    """A short run at a low rate from where `pretrained` is."""
    given = {
        "net": pretrained.net,
        "scale": pretrained.scale,
        "start_from": pretrained.source,
        "data": {"test": 0.2} | _making(pretrained),
        "stages": [{"steps": 2000, "loss": {"l1": 1.0}}],
        "optimizer": {"rate": 2e-4, "warm_up": 100},
        "validate_every": 500,
        "save_every": 500,
        "card": {
            "summary": f"{pretrained.source}, taught one folder of pictures",
            "training_data": "your own pictures",
        },
    }
    return to_config(changed(given, changes), "--set" if changes else pretrained.source)


def _making(pretrained: Pretrained) -> dict[str, dict[str, Any]]:
    """How small pictures are made: as the network has seen them, as far as it is known."""
    if NETS[pretrained.net].frames == 1:
        return {"degrade": {}} if pretrained.restoring else {}
    net = pretrained.build()
    motion = {"reducer": net.reducer} if isinstance(net, NullSpace) else {}
    return {"motion": motion} | ({"recording": {}} if pretrained.restoring else {})
