"""The command line: a thin door to the same functions that Python has."""

import json
import platform
import sys
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from superfine import (
    cli_adapt,
    cli_burst,
    cli_cluster,
    cli_convert,
    cli_judge,
    cli_register,
    cli_serve,
    cli_shift,
    cli_train,
    cli_verify,
)
from superfine.cli_options import (
    AsClip,
    AtDamage,
    AtInterlaced,
    Begin,
    Codec,
    Consistent,
    Crf,
    End,
    EngineName,
    FileFormat,
    ForeignColour,
    ForeignRange,
    Json,
    MaxMegapixels,
    Memory,
    ModelName,
    Overwrite,
    PrecisionName,
    Quality,
    Rate,
    Resume,
    Scale,
    Sharpness,
    Size,
    White,
    WithEnsemble,
    WithProvenance,
    job_of,
)
from superfine.errors import SuperfineError, UsageError
from superfine.interrupt import heeded
from superfine.terminal import one_line

__all__ = ["app", "main"]

app = typer.Typer(
    name="superfine",
    help="Super-resolution that runs unplugged, loses nothing, and says what it did.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(
    help="Show the networks: their cards and what they reach.",
    epilog="Examples:  superfine models   |   superfine models show fast-x2",
    rich_markup_mode=None,
)
app.add_typer(models_app, name="models")
app.command(
    "train",
    epilog="Examples:  superfine train recipes/espcn-x2.toml --data photos   |"
    "   superfine train recipes/espcn-x2.toml --data photos --resume   |"
    "   superfine train --from balanced-x2 --data scans -o scans-x2.onnx",
)(cli_train.train)
app.command("export", epilog="Examples:  superfine export runs/espcn-x2 -o espcn-x2.onnx --test Set5=test/Set5")(
    cli_train.export
)

app.command(
    "convert",
    epilog="Examples:  superfine convert realesr-animevideov3.pth -o anime-x4.onnx --licence BSD-3-Clause   |"
    "   superfine convert FSRCNN_x2.pb -o fsrcnn-x2.onnx   |"
    "   superfine convert stranger.onnx -o mine.onnx --foreign-colour bgr",
)(cli_convert.convert)

app.command(
    "evaluate",
    epilog="Examples:  superfine evaluate Set5 Set14 --models fast,best --report r.html   |"
    "   superfine evaluate photos --scale 4 --out now.jsonl   |"
    "   superfine evaluate photos --models mine.onnx --baseline before.jsonl",
)(cli_judge.evaluate)
app.command(
    "compare",
    epilog="Examples:  superfine compare photo.jpg   |"
    "   superfine compare face.jpg --models nearest,bilinear,three-layer -o face.html",
)(cli_judge.compare)
app.command(
    "shift",
    epilog="Examples:  superfine shift photo.png --dx 3.5 --dy 3.5   |"
    "   superfine shift scans/*.tif --dx -0.25 --method spline -o moved   |"
    "   superfine shift photo.png --model shift.onnx",
)(cli_shift.shift)
app.command(
    "learn-shift",
    epilog="Examples:  superfine learn-shift before after -o shift.onnx   |"
    "   superfine learn-shift before after --method stn -o stn.onnx --plot errors.png",
)(cli_shift.learn_shift)
app.command(
    "register",
    epilog="Examples:  superfine register a.png b.png   |   superfine register a.png b.png --model affine --json",
)(cli_register.register)
app.command(
    "burst",
    epilog="Examples:  superfine burst shots/*.jpg -o fine.png   |"
    "   superfine burst a.png b.png c.png -o fine.png --scale 3",
)(cli_burst.burst)
app.command(
    "adapt",
    epilog="Examples:  superfine adapt old.png -o large.png   |   superfine adapt scan.tif -o scan-x4.tif --scale 4"
    " --kernel-out blur.png   |   superfine adapt plate.png -o plate-x2.png --kernel psf.npy",
)(cli_adapt.adapt)
app.command(
    "serve",
    epilog="Examples:  superfine serve   |   superfine serve --port 8080 --root photos   |"
    "   superfine serve --host 0.0.0.0 --max-upload 100",
)(cli_serve.serve)
app.command(
    "cluster",
    epilog="Examples:  superfine cluster scans -o large --address auto   |"
    "   superfine cluster s3://archive/scans -o s3://archive/large --address auto --per-actor-cpus 4",
)(cli_cluster.cluster)
app.command(
    "verify",
    epilog="Examples:  superfine verify photo_x2.png   |   superfine verify photo_x2.png --source photo.png",
)(cli_verify.verify)
app.command("inspect", epilog="Examples:  superfine inspect photo.jpg   |   superfine inspect *.png --json")(
    cli_judge.inspect
)


def main() -> None:
    """Run the command line; errors become one sentence and exit status 1, wrong usage 2."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that no encoding knows; a name is never a reason to stop.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with heeded():
            app()
    except UsageError as error:
        _stop(str(error), 2)
    except SuperfineError as error:
        _stop(str(error), 1)
    except OSError as error:  # what superfine does with files has errors of its own: this is the output of the command
        _stop(f"what it says can't be written: {error.strerror}", 1)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        from importlib.metadata import version

        typer.echo(f"superfine {version('superfine')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(
    epilog="Examples:  superfine upscale photo.jpg   |   superfine upscale scans -o large --scale 4   |"
    "   superfine upscale logo.png -o logo.webp --size 1920x1080   |"
    "   superfine upscale clip.mp4 --start 1:30 --end 2:00"
)
def upscale(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC", help="Pictures, videos, folders, quoted globs, frames as shots/%05d.png.", show_default=False
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for one source, else a folder; beside the sources by default.",
            show_default=False,
        ),
    ] = None,
    scale: Scale = None,
    size: Size = None,
    model: ModelName = "auto",
    sharpness: Sharpness = None,
    file_format: FileFormat = None,
    quality: Quality = None,
    resume: Resume = True,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say sizes, model and why, memory and time expected; write nothing.")
    ] = False,
    engine: EngineName = "openvino",
    precision: PrecisionName = "auto",
    consistent: Consistent = None,
    guess_map: Annotated[
        Path | None,
        typer.Option(
            metavar="MAP.png",
            help="Write how far each pixel may be off, in 9 of 10 cases, and the same as heat over the result.",
            show_default=False,
        ),
    ] = None,
    ensemble: WithEnsemble = False,
    provenance: WithProvenance = True,
    memory: Memory = None,
    white: White = None,
    max_megapixels: MaxMegapixels = 1000,
    codec: Codec = "auto",
    crf: Crf = None,
    start: Begin = None,
    end: End = None,
    damaged: AtDamage = "stop",
    interlaced: AtInterlaced = "deinterlace",
    as_clip: AsClip = False,
    rate: Rate = None,
    foreign_colour: ForeignColour = None,
    foreign_range: ForeignRange = None,
    as_json: Json = False,
) -> None:
    """Enlarge pictures, videos and folders of them."""
    from superfine.progress import JsonLines, Terminal
    from superfine.upscale import upscale_path

    listener = JsonLines() if as_json else Terminal()
    used = cli_convert.as_model(model, colour=foreign_colour, span=foreign_range)
    try:
        with cli_convert.speaking_of(model, used), listener:
            job = job_of(
                scale=scale,
                size=size,
                model=used,
                sharpness=sharpness,
                file_format=file_format,
                quality=quality,
                engine=engine,
                precision=precision,
                consistent=consistent,
                ensemble=ensemble,
                provenance=provenance,
                memory=memory,
                white=white,
                max_megapixels=max_megapixels,
                codec=codec,
                crf=crf,
                start=start,
                end=end,
                damaged=damaged,
                interlaced=interlaced,
                as_clip=as_clip,
                rate=rate,
            )
            report = upscale_path(
                sources,
                output,
                job=job,
                guess_map=guess_map,
                resume=resume,
                overwrite=overwrite,
                dry_run=dry_run,
                progress=listener,
            )
    except KeyboardInterrupt:
        _stop("stopped; what is finished stays, and the same command goes on with the rest", 130)
    listener.summary(report)
    raise typer.Exit(1 if report.failed else 0)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: Json = False) -> None:
    """Show the networks: their cards and what they reach."""
    if context.invoked_subcommand is not None:
        return
    from superfine.models import CLASSICAL, list_models

    cards = [model.card for model in list_models()]
    if as_json:
        for card in cards:
            typer.echo(json.dumps(asdict(card), ensure_ascii=False))
        return
    typer.echo(f"{'NAME':<16}{'SCALE':<7}{'PARAMETERS':<12}{'SET5':<10}WHAT IT IS")
    for card in cards:
        quality = f"{card.psnr['Set5']:.2f} dB" if "Set5" in card.psnr else ""
        typer.echo(f"{card.name:<16}x{card.scale:<6}{card.parameters:<12,}{quality:<10}{card.summary}")
    for name in CLASSICAL:
        typer.echo(f"{name:<16}{'any':<7}{0:<12}{'':<10}classical interpolation")
    typer.echo("Whole cards: superfine models show NAME")


@models_app.command("show", epilog="Examples:  superfine models show fast   |   superfine models show my.onnx --json")
def show(
    name: Annotated[
        str, typer.Argument(help="A network, a family of them, an .onnx file, or weights as `convert` takes them.")
    ],
    as_json: Json = False,
) -> None:
    """Show the whole card of a network."""
    from superfine.models import RESTORES, find_model

    try:
        used = cli_convert.as_model(name)
    except UsageError as error:
        raise UsageError(f"{error}, to superfine convert; what it makes can be shown") from error
    for model in find_model(used):
        facts = {**asdict(model.card), "sha256": model.sha256, "bytes": len(model.content)}
        if as_json:
            typer.echo(json.dumps(facts, ensure_ascii=False))
            continue
        for key, value in facts.items():
            shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            if key == "psnr":
                shown = ", ".join(f"{test} {dB:.2f} dB" for test, dB in value.items())
            elif key == "restoring":
                shown = f"yes: {RESTORES}, and no warning is given" if value else "no"
            typer.echo(f"{key.replace('_', ' '):<17}{one_line(str(shown))}")
        typer.echo("")


@app.command(epilog="Examples:  superfine doctor   |   superfine doctor --json")
def doctor(as_json: Json = False) -> None:
    """Show versions, CPU features, engines and codecs, and what is missing."""
    facts = _diagnosis()
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    for title, lines in facts.items():
        typer.echo(title)
        for name, value in lines.items():
            typer.echo(f"  {name:<18}{value}")


def _diagnosis() -> dict[str, dict[str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    from superfine.engine import ENGINES, cores, cpu_features, engine_state
    from superfine.image import codecs

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = (
        "superfine",
        "numpy",
        "openvino",
        "pyvips",
        "pyvips-binary",
        "av",
        "onnx",
        "onnxruntime",
        "pillow-heif",
        "torch",
        "lightning-fabric",
        "ray",
    )
    return {
        "system": {"platform": platform.platform(), "python": platform.python_version(), "cores": str(cores())},
        "packages": {name: installed(name) for name in packages},
        "cpu": cpu_features(),
        "engines": {name: engine_state(name) for name in ENGINES},
        "pictures": codecs(),
    }


def _stop(message: str, status: int) -> NoReturn:
    typer.echo(f"superfine: {one_line(message)}", err=True)
    sys.exit(status)
