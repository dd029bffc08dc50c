"""Train a recipe on a Ray cluster, each batch shared by all workers.

    pip install '.[train]' 'ray[train]'
    python ray_train.py recipe.toml --data FOLDER --run FOLDER --workers 4 --cpus 8          # on CPUs
    python ray_train.py recipe.toml --data FOLDER --run FOLDER --workers 4 --gpu             # one GPU a worker

FOLDERs have to be seen by all nodes under the same name. A worker that is lost is replaced, and the run goes on from
its last state; the same command goes on with a run that was broken off. Where there is no cluster, Ray starts one here.
"""

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import Any


def train_part(given: dict[str, Any]) -> None:
    """What each worker does; Ray has told it its place among the others by environment variables."""
    from superfine.train.config import to_config
    from superfine.train.listener import Listener, Moment
    from superfine.train.loop import train

    class Lines(Listener):
        """Ray sends what workers write to whoever started the run; of what they print it would make two."""

        def say(self, text: str) -> None:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

        def step(self, moment: Moment) -> None:
            judged = "" if moment.score is None else f", {moment.score.psnr:.2f} dB"
            self.say(f"{moment.step} of {moment.steps}: loss {moment.loss:.5f}{judged}")

    config = to_config(given["config"], given["recipe"])
    train(config, Path(given["data"]), Path(given["run"]), go_on=True, listener=Lines())


def main() -> None:
    """Read the command, and let Ray do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the recipe's folders")
    parser.add_argument("--run", type=Path, required=True, help="where state and log are kept")
    parser.add_argument("--workers", type=int, required=True, help="processes over all nodes; they divide each batch")
    parser.add_argument("--cpus", type=int, default=1, help="cores that a worker takes")
    parser.add_argument("--gpu", action="store_true", help="give each worker a GPU")
    parser.add_argument("--failures", type=int, default=3, help="how often the workers are started anew")
    parser.add_argument("--address", help="of the cluster; `local` starts one here even where there is one")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    if asked.address == "local":  # else Ray makes a token itself, and leaves it in the home folder
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from superfine.train.config import read_recipe

    run = asked.run.resolve()
    config = read_recipe(asked.recipe, asked.changes)
    given = {
        "config": config.model_dump(mode="json"),
        "recipe": str(asked.recipe),
        "data": str(asked.data.resolve()),
        "run": str(run),
    }
    ray.init(address=asked.address)
    TorchTrainer(
        train_part,
        train_loop_config=given,
        # The others wait while the first worker decodes the pictures, and while it validates.
        torch_config=TorchConfig(backend="nccl" if asked.gpu else "gloo", timeout_s=6 * 3600),
        scaling_config=ScalingConfig(
            num_workers=asked.workers,
            use_gpu=asked.gpu,
            resources_per_worker={"CPU": asked.cpus, "GPU": int(asked.gpu)},
        ),
        run_config=RunConfig(storage_path=str(run / "ray"), failure_config=FailureConfig(max_failures=asked.failures)),
    ).fit()


if __name__ == "__main__":
    main()
