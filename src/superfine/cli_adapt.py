"""The door to blind enlargement: `superfine adapt`. Heavy imports wait until it runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superfine.cli_train import need
from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.adapt import Adapted, Taught, Teacher

__all__ = ["adapt"]


def adapt(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A picture.", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    scale: Annotated[int, typer.Option("--scale", "-s", help="Times each side: 2, 3 or 4.")] = 2,
    kernel: Annotated[
        str,
        typer.Option(
            metavar="auto|bicubic|FILE",
            help="The blur: auto finds it; bicubic is that of clean reductions; or a file with weights (.npy, .txt,"
            " .csv) or a grey picture of them.",
        ),
    ] = "auto",
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="LEVELS",
            help="Noise in the picture, as a standard deviation of 255 levels; estimated with auto, else 0.",
            show_default=False,
        ),
    ] = None,
    kernel_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the kernel: .png to look at, .npy or .txt.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time for all, most of it for the network to learn this picture; needs the extra train.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --budget: keep the network as an .onnx file.", show_default=False),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The network to finish with, as --save writes it.", show_default=False),
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
        float, typer.Option(help="Refuse a source with more pixels than this many millions.")
    ] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Find the blur of a picture, and enlarge it by what it says."""
    if budget is not None:
        need("learning a picture (--budget)")
    from superfine.adapt import Adapting, adapt_path, learning_path
    from superfine.progress import JsonLines, Terminal

    adapting = Adapting(
        scale=scale,
        kernel=kernel,
        noise=noise,
        kernel_out=kernel_out,
        budget_seconds=budget,
        save=save,
        model=model,
        quality=quality,
        white=white,
        max_megapixels=max_megapixels,
    )
    told = 0.0

    def heard(share: float) -> None:
        nonlocal told
        bar.advance(share - told)
        told = share

    try:
        with JsonLines() if as_json else Terminal() as bar:
            bar.begin(1, 1)
            teacher = None if budget is None else _teacher(bar.warn)
            adapted = adapt_path(source, output, adapting=adapting, teacher=teacher, overwrite=overwrite, done=heard)
    except KeyboardInterrupt:
        begun = budget is not None and learning_path(Path(output)).is_file()
        learned = "; the same command goes on with what was learned" if begun else ""
        typer.echo(f"stopped; no picture was written{learned}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(_facts(adapted, kernel), ensure_ascii=False))
    else:
        _say(adapted, kernel)


def _teacher(say: Callable[[str], None]) -> "Teacher":
    """`train.adapt`, as `adapt_path` asks for it."""
    from superfine.train.adapt import AdaptListener, AdaptMoment, adapt_network

    def teach(
        small: Any,
        scale: int,
        kernel: Any,
        noise: float,
        source: str,
        *,
        budget_seconds: float,
        state: Path,
        overwrite: bool,
        done: Callable[[float], None],
    ) -> "Taught":
        class Relay(AdaptListener):
            def say(self, text: str) -> None:
                say(text)

            def step(self, moment: AdaptMoment) -> None:
                done(min(1.0, max(0.0, 1 - moment.seconds_left / budget_seconds)))

        return adapt_network(
            small,
            scale,
            kernel,
            noise,
            source,
            budget_seconds=budget_seconds,
            state_path=state,
            overwrite=overwrite,
            listener=Relay(),
        )

    return teach


def _facts(adapted: "Adapted", asked: str) -> dict[str, object]:
    kernel, shape = adapted.kernel, adapted.shape
    found, taught = kernel.found, adapted.taught
    return {
        "source": str(adapted.source),
        "output": str(adapted.output),
        "size": adapted.size,
        "scale": adapted.scale,
        "kernel": {
            "origin": kernel.origin,
            "file": asked if kernel.origin == "given" else None,
            "size": kernel.weights.shape,
            "sigma": (shape.wide, shape.narrow),
            "angle": shape.angle,
            "shift": shape.shift,
            "family": None if found is None else found.family,
            "trust": None if found is None else found.trust,
        },
        "noise": kernel.noise,
        "doubt": kernel.doubt,
        "network": adapted.network,
        "consistency": {
            "max": adapted.consistency.largest,
            "rms": adapted.consistency.rms,
            "beyond": adapted.consistency.beyond,
        },
        "learned": taught
        and {"kept": taught.kept, "before": taught.before, "after": taught.after, "steps": taught.steps},
        "estimate_seconds": adapted.estimate_seconds,
        "seconds": adapted.seconds,
        "notes": adapted.notes,
    }


def _say(adapted: "Adapted", asked: str) -> None:
    kernel, shape = adapted.kernel, adapted.shape
    typer.echo(f"{one_line(str(adapted.source))} -> {one_line(str(adapted.output))}")
    rows, cols = kernel.weights.shape
    which = {"found": "found", "bicubic": "bicubic", "given": one_line(asked)}[kernel.origin]
    kind = f", {kernel.found.family}" if kernel.found is not None and kernel.origin == "found" else ""
    trust = f", trust {kernel.found.trust:.2f}" if kernel.found is not None and kernel.origin == "found" else ""
    turned = f" at {shape.angle:.0f} degrees" if shape.wide > 1.05 * shape.narrow else ""
    typer.echo(
        f"  kernel: {which}{kind}, sigma {shape.wide:.2f} x {shape.narrow:.2f}{turned} in {rows} x {cols}{trust}"
        f"; noise {kernel.noise:.1f} of 255"
    )
    if (taught := adapted.taught) is not None:
        better = "kept" if taught.kept else "not kept"
        typer.echo(
            f"  learned in {taught.steps} steps: held-out pixels missed by {taught.before:.3f} before,"
            f" {taught.after:.3f} after; {better}"
        )
    missed = adapted.consistency
    typer.echo(
        f"  {adapted.size[1]} x {adapted.size[0]} by {one_line(adapted.network)}; reduced again it misses SRC by"
        f" {missed.rms:.2f} levels rms, {missed.largest:.2f} at most; {adapted.seconds:.1f} s"
    )
    for note in adapted.notes:
        typer.echo(f"note: {one_line(note)}")
