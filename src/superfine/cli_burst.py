"""The door to bursts: `superfine burst`. Heavy imports wait until it runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.burst import Fused

__all__ = ["burst"]


def burst(
    frames: Annotated[
        list[Path],
        typer.Argument(metavar="FRAMES...", help="Pictures of one scene, of one size.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    scale: Annotated[float, typer.Option("--scale", "-s", help="Times each side, 1 to 4.")] = 2,
    model: Annotated[
        str, typer.Option("--model", "-m", help="What enlarges the reference alone, to begin with; as in upscale.")
    ] = "auto",
    quality: Annotated[
        int | None,
        typer.Option(help="1 to 100 for lossy formats; by default as upscale.", show_default=False),
    ] = None,
    white: Annotated[
        float | None,
        typer.Option(metavar="LEVEL", help="The level of white in float TIFF; 1 by default.", show_default=False),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(help="Refuse frames with more pixels than this many millions.")
    ] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Make one picture of more resolution from several of one scene."""
    from superfine.burst import Shooting, burst_path
    from superfine.progress import JsonLines, Terminal

    shooting = Shooting(scale=scale, model=model, quality=quality, white=white, max_megapixels=max_megapixels)
    told = 0.0

    def heard(share: float) -> None:
        nonlocal told
        if share > told:  # with another reference, frames are aligned again
            bar.advance(share - told)
            told = share

    try:
        with JsonLines() if as_json else Terminal() as bar:
            bar.begin(1, 1)
            fused = burst_path(list(frames), output, shooting=shooting, overwrite=overwrite, done=heard)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(_facts(fused), ensure_ascii=False))
        return
    left = len(frames) - len(fused.used)
    typer.echo(f"{len(fused.used)} of {len(frames)} frames" + (f", {left} left out" if left else ""))
    others = f" and {len(fused.used) - 1} more" if len(fused.used) > 1 else ""
    typer.echo(f"{one_line(str(fused.reference))}{others} -> {one_line(str(fused.output))}")
    typer.echo(f"  {fused.size[1]} x {fused.size[0]}, {fused.seconds:.1f} s")
    for note in fused.notes:
        typer.echo(f"note: {one_line(note)}")


def _facts(fused: "Fused") -> dict[str, object]:
    facts = asdict(fused)
    return facts | {
        "output": str(fused.output),
        "reference": str(fused.reference),
        "used": [str(path) for path in fused.used],
    }
