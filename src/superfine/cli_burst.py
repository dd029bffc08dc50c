"""The door to bursts: `superfine burst`. Heavy imports wait until it runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superfine.cli_judge import Begin, End, seconds_of
from superfine.errors import UsageError
from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.burst import Fused

__all__ = ["burst"]


def burst(
    frames: Annotated[
        list[Path],
        typer.Argument(
            metavar="FRAMES...", help="Pictures of one scene, of one size; or one video.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    scale: Annotated[float, typer.Option("--scale", "-s", help="Times each side, 1 to 4.")] = 2,
    start: Begin = None,
    end: End = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Of a video, the moment that the picture shows; the middle of the stretch by default.",
            show_default=False,
        ),
    ] = None,
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
    """Make one picture of more resolution from several of one scene, or from a stretch of a video."""
    from superfine.burst import Shooting, burst_clip, burst_path
    from superfine.progress import JsonLines, Terminal

    shooting = Shooting(scale=scale, model=model, quality=quality, white=white, max_megapixels=max_megapixels)
    stretch = {"start": seconds_of(start, "--start"), "end": seconds_of(end, "--end"), "at": seconds_of(at, "--at")}
    plays = _plays(frames)
    if not plays and any(time is not None for time in stretch.values()):
        raise UsageError("--start, --end and --at are for a video, and these are pictures; leave them out")
    told = 0.0

    def heard(share: float) -> None:
        nonlocal told
        if share > told:  # with another reference, frames are aligned again
            bar.advance(share - told)
            told = share

    try:
        with JsonLines() if as_json else Terminal() as bar:
            bar.begin(1, 1)
            if plays:
                fused = burst_clip(frames[0], output, **stretch, shooting=shooting, overwrite=overwrite, done=heard)
            else:
                fused = burst_path(list(frames), output, shooting=shooting, overwrite=overwrite, done=heard)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(_facts(fused), ensure_ascii=False))
        return
    left = fused.given - len(fused.used)
    typer.echo(f"{len(fused.used)} of {fused.given} frames" + (f", {left} left out" if left else ""))
    others = f" and {len(fused.used) - 1} more" if len(fused.used) > 1 else ""
    typer.echo(f"{one_line(str(fused.reference))}{others} -> {one_line(str(fused.output))}")
    typer.echo(f"  {fused.size[1]} x {fused.size[0]}, {fused.seconds:.1f} s")
    for note in fused.notes:
        typer.echo(f"note: {one_line(note)}")


def _plays(frames: list[Path]) -> bool:
    """Whether it is one video, animation or row of numbered frames. Raises UsageError for a video among others."""
    from superfine.footage import kind_of

    playing = [path for path in frames if not path.is_dir() and kind_of(path)]
    if playing and len(frames) > 1:
        raise UsageError(f"{playing[0]}: is a video or animation; give it alone, with --start and --end")
    return bool(playing)


def _facts(fused: "Fused") -> dict[str, object]:
    facts = asdict(fused)
    return facts | {
        "output": str(fused.output),
        "reference": str(fused.reference),
        "used": [str(path) for path in fused.used],
    }
