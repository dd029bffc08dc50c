"""The doors to training: `superfine train` and `superfine export`. Heavy imports wait until a verb runs."""

import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Self

import typer

from superfine.errors import MissingExtraError, UsageError
from superfine.train.listener import Listener, Moment

__all__ = ["export", "need", "train"]

_NEEDED = ("lightning_fabric", "onnx", "onnxscript", "pydantic", "torch")


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe, as in recipes/.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder that holds the recipe's folders of pictures.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Where state and log are kept; runs/NAME by default.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run where it stopped.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe: optimizer.rate=1e-3, stages.0.steps=500, ...",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Teach this network the pictures of --data instead of following a recipe.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With --from: the file to write; RUN/MODEL-tuned.onnx by default.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")] = False,
) -> None:
    """Train a network from a recipe, or teach a shipped one your own pictures."""
    if recipe is None and source is None:
        raise UsageError("give a recipe, or --from MODEL to teach a shipped network")
    if recipe is not None and source is not None:
        raise UsageError(
            f"{recipe} and --from {source}: a recipe names its start itself, by start_from; give one of them"
        )
    if data is None:
        raise UsageError("--data is missing: the folder that holds the pictures")
    if output is not None and source is None:
        raise UsageError("-o goes with --from; a trained run is written by: superfine export RUN -o model.onnx")
    if source is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("--from takes one process; for several give a recipe, whose start_from names the network")
    need("training")
    # Pictures are decoded and degraded beside the network: more threads there would only take its cores.
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    from superfine.train.config import read_recipe
    from superfine.train.loop import train as train_run
    from superfine.train.nodes import StoppedError, ToldError

    # Of several processes the first one talks.
    kind = _Silence if os.environ.get("RANK", "0") != "0" else _Lines if as_json else _Bar
    listener = kind()
    try:
        with listener:
            if source is not None:
                name = f"{Path(source).stem}-tuned"
                place = run or Path("runs") / name
                _tune(source, data, place, output or place / f"{name}.onnx", changes or (), resume, listener)
            elif recipe is not None:
                config = read_recipe(recipe, changes or ())
                place = run or Path("runs") / recipe.stem
                train_run(config, data, place, go_on=resume, listener=listener)
                listener.say(f"done; next: superfine export {place} -o {recipe.stem}.onnx")
    except KeyboardInterrupt:
        listener.say("stopped; --resume goes on from the last state that was saved")
        raise typer.Exit(130) from None
    except StoppedError as error:
        listener.say(str(error))
        raise typer.Exit(128 + signal.SIGTERM) from None
    except ToldError:
        raise typer.Exit(1) from None


def _tune(
    source: str, data: Path, run: Path, path: Path, changes: Sequence[str], resume: bool, listener: Listener
) -> None:
    from superfine.train.finetune import finetune

    tuned = finetune(source, data, run, path, changes=changes, go_on=resume, listener=listener)
    gain = tuned.after.psnr - tuned.before.psnr
    verdict = f"better: written to {path}" if tuned.path else "not better: nothing written"
    listener.say(
        f"after: {tuned.after.psnr:.2f} dB, SSIM {tuned.after.ssim:.4f} ({gain:+.2f} dB) on "
        f"{tuned.after.pictures} held-out pictures; {verdict}"
    )
    if tuned.path is None:
        raise typer.Exit(1)


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or a state file in one.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.", show_default=False)],
    tests: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="NAME=FOLDER",
            help="Pictures to measure on, as `evaluate` takes them; the dB go on the card.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as fp16: half the size.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="For a run that learned errors: the folder that its training named; intervals are calibrated on what"
            " it held out.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")] = False,
) -> None:
    """Write a trained run as one .onnx file, folded, with its card inside."""
    named = [test.partition("=") for test in tests or ()]
    if wrong := [name for name, _, folder in named if not folder]:
        raise UsageError(f"--test {wrong[0]}: want NAME=FOLDER, as in Set5=test/Set5")
    need("export")
    from dataclasses import asdict

    from superfine.train.export import export_run

    card = export_run(run, output, {name: Path(folder) for name, _, folder in named}, half=half, root=data)
    reached = "".join(f", {name} {dB:.2f} dB" for name, dB in card.psnr.items())
    typer.echo(
        json.dumps(asdict(card)) if as_json else f"{output}: {card.name}, {card.parameters:,} parameters{reached}"
    )


def need(purpose: str) -> None:
    """Raise MissingExtraError where the extra `train` isn't installed."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise MissingExtraError(purpose, "train")


class _Silence(Listener):
    """Says nothing. SIGTERM, which clusters send before they take a machine away, stops the run after its next step."""

    def __init__(self) -> None:
        self._steps = self._asked = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        if signal.getsignal(signal.SIGTERM) == self._stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def stops(self) -> bool:
        self._steps = True
        return self._asked

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._asked = True
        if not self._steps:  # nothing is to be saved yet
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class _Lines(_Silence):
    """One line of JSON for each thing, on standard output."""

    def say(self, text: str) -> None:
        print(json.dumps({"say": text}), flush=True)  # noqa: T201

    def step(self, moment: Moment) -> None:
        print(json.dumps(_facts(moment)), flush=True)  # noqa: T201


class _Bar(_Silence):
    """A bar with time left on a terminal; elsewhere a line for each validation."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._task: Any = None
        self._psnr = ""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def step(self, moment: Moment) -> None:
        if moment.score is not None:
            self._psnr = f", {moment.score.psnr:.2f} dB"
        minutes, seconds = divmod(round(moment.seconds_left), 60)
        text = f"loss {moment.loss:.5f}{self._psnr}, {minutes // 60}:{minutes % 60:02}:{seconds:02} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=moment.step, total=moment.steps, description=text)
        elif moment.score is not None or moment.step == moment.steps:
            self.say(f"{moment.step} of {moment.steps}: {text}")


def _facts(moment: Moment) -> dict[str, Any]:
    facts = moment._asdict()
    facts["score"] = moment.score and moment.score._asdict()
    return facts
