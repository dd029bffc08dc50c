"""The doors to shifts: `superfine shift` and `superfine learn-shift`. Heavy imports wait until a verb runs."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superfine.cli_train import need
from superfine.errors import OutputError, UsageError
from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.shift import Moved

__all__ = ["learn_shift", "shift"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")]


def shift(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Pictures.", show_default=False)],
    dx: Annotated[float | None, typer.Option(help="Pixels to the right, as it is seen.", show_default=False)] = None,
    dy: Annotated[float | None, typer.Option(help="Pixels down, as it is seen.", show_default=False)] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="fourier (the default), spline, lanczos, bicubic (OpenCV's), linear, or learned, by --model.",
            show_default=False,
        ),
    ] = None,
    border: Annotated[str, typer.Option(help="reflect, replicate, wrap or constant.")] = "reflect",
    fill: Annotated[float, typer.Option(help="With constant: the level around the picture, 0 black to 1 white.")] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for one picture, else a folder; NAME_shifted beside the sources by default.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An .onnx file that learn-shift wrote.", show_default=False),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(help="1 to 100 for lossy formats; by default as upscale.", show_default=False),
    ] = None,
    white: Annotated[
        float | None,
        typer.Option(metavar="LEVEL", help="The level of white in float TIFF; 1 by default.", show_default=False),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(help="Refuse sources with more pixels than this many millions.")
    ] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    as_json: Json = False,
) -> None:
    """Move pictures by a fraction of a pixel."""
    from superfine.shift import Movement, shift_path

    named = None if dx is None and dy is None else (dy or 0.0, dx or 0.0)
    movement = Movement(
        shift=named,
        method=method or ("fourier" if model is None else "learned"),
        border=border,  # type: ignore[arg-type]
        fill=fill,
        model=model,
        quality=quality,
        white=white,
        max_megapixels=max_megapixels,
    )
    try:
        moved = shift_path(
            list(sources), output, movement=movement, overwrite=overwrite, done=_line if as_json else _say
        )
    except KeyboardInterrupt:
        typer.echo("stopped; finished pictures stay", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(1 if any(each.status == "failed" for each in moved) else 0)


def _line(moved: "Moved") -> None:
    facts = asdict(moved)
    step = facts.pop("shift")
    facts |= {"source": str(moved.source), "output": str(moved.output)}
    facts |= {"dx": step and step[1], "dy": step and step[0]}
    typer.echo(json.dumps(facts))


def _say(moved: "Moved") -> None:
    if moved.status == "failed":
        typer.echo(f"failed: {one_line(moved.message)}", err=True)
        return
    step = "" if moved.shift is None else f"dx {moved.shift[1]:g}, dy {moved.shift[0]:g}, "
    typer.echo(f"{one_line(str(moved.source))} -> {one_line(str(moved.output))}")
    typer.echo(f"  {step}{one_line(moved.method)}, {moved.seconds:.2f} s")
    for note in moved.notes:
        typer.echo(f"note: {one_line(note)}")


def learn_shift(
    source: Annotated[Path, typer.Argument(metavar="SRC_DIR", help="A folder of pictures.", show_default=False)],
    target: Annotated[
        Path,
        typer.Argument(metavar="DST_DIR", help="The same pictures, moved; names matched.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The .onnx file to write; its state goes beside it.", show_default=False),
    ],
    method: Annotated[str, typer.Option(help="kernel, stn, convgan or vae.")] = "kernel",
    steps: Annotated[
        int | None, typer.Option(help="Training steps; each method has its own number.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw errors and flow as a PNG.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the held-out split and the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Json = False,
) -> None:
    """Learn an unknown shift from pairs of pictures, and write it as a network for `shift --method learned`."""
    _check_output(output, ".onnx", overwrite=overwrite)
    _check_output(output.with_suffix(".pt"), ".pt", overwrite=overwrite)  # its state
    if plot is not None:
        _check_output(plot, ".png", overwrite=overwrite)
    need("learning a shift")
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    from superfine.train.shifts import learn_path

    def say(text: str) -> None:
        print(one_line(text), file=sys.stderr, flush=True)  # noqa: T201 - what is being done, beside what it gives

    try:
        report = learn_path(source, target, output, method=method, steps=steps, plot=plot, seed=seed, say=say)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    typer.echo(json.dumps(report.facts(), ensure_ascii=False) if as_json else str(report))


def _check_output(output: Path, suffix: str, *, overwrite: bool) -> None:
    """Raise now, not after the work, where the file can't be written."""
    if output.suffix.lower() != suffix:
        raise UsageError(f"{output}: give it a name that ends in {suffix}")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: there is no folder {output.parent}; make it first")
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; give the name of a file")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; replace it with --overwrite or choose another name with -o")
