"""The door to strangers' weights: `superfine convert`, and what the other verbs do with such a file."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from superfine.errors import OutputError, SuperfineError, UsageError
from superfine.terminal import one_line

__all__ = ["ForeignColour", "ForeignRange", "as_model", "convert", "speaking_of"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")]
ForeignColour = Annotated[
    str | None,
    typer.Option(help="What an .onnx file without a card wants: rgb, bgr or y; found by a test else."),
]
ForeignRange = Annotated[
    str | None, typer.Option(help="And its range of values: 0..1, 0..255 or -1..1; found by a test else.")
]


def convert(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="A .pth, .pt, .ckpt, .pth.tar, .safetensors, .pb, .pkl.bz2 or .onnx file.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.", show_default=False)],
    licence: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Of the weights, as you know it; stands on the card.", show_default=False),
    ] = "",
    foreign_colour: ForeignColour = None,
    foreign_range: ForeignRange = None,
    node: Annotated[
        str, typer.Option(metavar="NAME", help="The end to take, of a .pb file that has several.", show_default=False)
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Json = False,
) -> None:
    """Make an .onnx file with a card of weights from another framework, and hold it against a second computation."""
    _check_output(weights, output, overwrite=overwrite)
    with _stoppable():
        from superfine.conversion import convert as convert_weights

        made = convert_weights(
            weights,
            name=one_line(output.stem),
            licence=licence,
            colour=foreign_colour,  # type: ignore[arg-type]
            span=foreign_range,  # type: ignore[arg-type]
            output=node,
            say=_say,
        )
    made.save(output, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({**made.facts(), "output": str(output)}, ensure_ascii=False))
        return
    typer.echo(one_line(str(output)))
    for line in str(made).splitlines():
        typer.echo(f"  {one_line(line)}")
    if not licence:
        typer.echo("note: the card says no licence; ask who published the weights, and say it with --licence", err=True)


def as_model(name: str, *, colour: str | None = None, span: str | None = None) -> str:
    """A model's name as the other verbs take it: weights of other frameworks are converted first, into the cache.

    colour, span: what the user says of an .onnx file without a card.
    """
    with _stoppable():
        from superfine.conversion import converted, is_foreign

        if is_foreign(name):
            return str(converted(name, colour=colour, span=span, say=_say))  # type: ignore[arg-type]
    if colour or span:
        raise UsageError(f"{name}: --foreign-colour and --foreign-range are for .onnx files without a card")
    return name


@contextmanager
def speaking_of(given: str, used: str) -> Iterator[None]:
    """Errors name the file that was given, not the one of the cache that is used for it."""
    try:
        yield
    except SuperfineError as error:
        error.args = (str(error).replace(used, given),)
        raise


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None


def _check_output(weights: Path, output: Path, *, overwrite: bool) -> None:
    """Raise now, not after the work, where the file can't be written."""
    if output.suffix.lower() != ".onnx":
        raise UsageError(f"{output}: give it a name that ends in .onnx")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: there is no folder {output.parent}; make it first")
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; give the name of a file")
    if output.exists() and weights.exists() and output.samefile(weights):
        raise OutputError(f"{output}: the output is the source itself; choose another name with -o")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; replace it with --overwrite or choose another name with -o")


def _say(text: str) -> None:
    print(one_line(text), file=sys.stderr)  # noqa: T201 - what is being done, beside what the command gives
