"""The door to records: `superfine verify`. Heavy imports wait until it runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superfine import cli_convert
from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.verification import Verification

__all__ = ["verify"]

_SHOWN = {True: "holds", False: "DOES NOT HOLD", None: "not checked"}


def verify(
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="What superfine made: a picture, a video, a folder.", show_default=False),
    ],
    source: Annotated[
        Path | None,
        typer.Option("--source", "-s", help="What it was made of: it is made again and compared.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The network's file, where it isn't shipped.", show_default=False),
    ] = None,
    kernel: Annotated[
        Path | None,
        typer.Option(help="The kernel that it was made consistent with, where it was a file.", show_default=False),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GB", help="Memory to stay below; half of the machine's by default.", show_default=False),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(help="Refuse files with more pixels than this many millions.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Check what a file says of how it was made, and make it again from its source."""
    from superfine import verification
    from superfine.progress import Terminal

    used = None if model is None else cli_convert.as_model(model)
    try:
        with cli_convert.speaking_of(model or "", used or ""), Terminal() as bar:
            found = verification.verify(
                output,
                source,
                model=used,
                kernel=kernel,
                memory_gb=memory,
                max_megapixels=max_megapixels,
                progress=bar,
            )
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(_facts(found), ensure_ascii=False))
    else:
        _show(found)
    raise typer.Exit(0 if found.holds else 1)


def _show(found: "Verification") -> None:
    if found.record is not None:
        networks = " then ".join(network.name for network in found.record.networks) or found.record.options.model
        typer.echo(f"superfine {one_line(found.record.version)}, {one_line(networks)}, says the record")
        for earlier in found.record.earlier:
            networks = " then ".join(network.name for network in earlier.networks) or earlier.options.model
            typer.echo(
                f"its source was made by superfine {one_line(earlier.version)}, {one_line(networks)}, says the record"
            )
    for check in found.checks:
        typer.echo(f"{check.name:<12}  {_SHOWN[check.holds]:<13}  {one_line(check.words)}")
    for words in found.conclusion:
        typer.echo(one_line(words))


def _facts(found: "Verification") -> dict[str, Any]:
    return {
        "output": str(found.output),
        "source": None if found.source is None else str(found.source),
        "place": str(found.place),
        "holds": found.holds,
        "proven": found.proven,
        "checks": [asdict(check) for check in found.checks],
        "conclusion": list(found.conclusion),
        "record": None if found.record is None else asdict(found.record),
    }
