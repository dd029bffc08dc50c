"""The command line: a thin door to the same functions that Python has."""

import json
import platform
import sys
from dataclasses import asdict
from fractions import Fraction
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from superfine import (
    cli_adapt,
    cli_burst,
    cli_convert,
    cli_judge,
    cli_register,
    cli_serve,
    cli_shift,
    cli_train,
    cli_verify,
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
    "verify",
    epilog="Examples:  superfine verify photo_x2.png   |   superfine verify photo_x2.png --source photo.png",
)(cli_verify.verify)
app.command("inspect", epilog="Examples:  superfine inspect photo.jpg   |   superfine inspect *.png --json")(
    cli_judge.inspect
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")]


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
    scale: Annotated[
        float | None, typer.Option(help="Times each side, 1 to 16, fractions too; 2 by default.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="The exact size of the result instead, as it is seen.", show_default=False),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="auto takes balanced for lossless sources, photo for JPEG and other lossy ones, and for videos what is"
            " made for them, else fast or balanced; or name a network, an .onnx file with a card, weights as `convert`"
            " takes them, or a classical method: `superfine models`."
        ),
    ] = "auto",
    sharpness: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: from photo, which leaves out what isn't known, to sharp, which makes texture up.",
            show_default=False,
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="png, jpg, webp, avif, tif, gif or heic for pictures, mp4, mov, mkv or webm for videos, where -o names"
            " no file; the source's by default.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            help="1 to 100 for lossy pictures; by default JPEG 95, WebP 90 or lossless as the source, AVIF 85.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Skip what an earlier run finished; --no-resume does it again.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that no earlier run made.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say sizes, model and why, memory and time expected; write nothing.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="openvino, or with the extra gpu: onnxruntime, cuda, directml, coreml.")
    ] = "openvino",
    precision: Annotated[str, typer.Option(help="auto (bf16 where the CPU has it), bf16 or fp32.")] = "auto",
    consistent: Annotated[
        str | None,
        typer.Option(
            metavar="OPERATOR",
            help="The result, made small again by matlab-bicubic, bicubic, box or a kernel's file, is the source.",
            show_default=False,
        ),
    ] = None,
    guess_map: Annotated[
        Path | None,
        typer.Option(
            metavar="MAP.png",
            help="Write how far each pixel may be off, in 9 of 10 cases, and the same as heat over the result.",
            show_default=False,
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="The mean over all flips and rotations: a little better, eight times as long."),
    ] = False,
    provenance: Annotated[
        bool,
        typer.Option("--provenance/--no-provenance", help="Leave a record of how it was made, for `superfine verify`."),
    ] = True,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GB", help="Memory to stay below; half of the machine's by default.", show_default=False),
    ] = None,
    white: Annotated[
        float | None,
        typer.Option(metavar="LEVEL", help="The level of white in float TIFF; 1 by default.", show_default=False),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(help="Refuse sources with more pixels than this many millions.")
    ] = 1000,
    codec: Annotated[
        str, typer.Option(help="How videos are encoded: h264, h265, av1, vp9 or ffv1; auto: as the file's kind has it.")
    ] = "auto",
    crf: Annotated[
        int | None,
        typer.Option(
            help="Quality of videos, smaller is better; h264 17, h265 20, av1 24, vp9 20.", show_default=False
        ),
    ] = None,
    start: cli_judge.Begin = None,
    end: cli_judge.End = None,
    damaged: Annotated[
        str, typer.Option(help="At a frame that can't be decoded: stop, or repeat the one before it.")
    ] = "stop",
    interlaced: Annotated[
        str, typer.Option(help="Frames of two half pictures: deinterlace them, or refuse the video.")
    ] = "deinterlace",
    as_clip: Annotated[
        bool, typer.Option("--as-clip", help="A folder's pictures are the frames of one clip, by name.")
    ] = False,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="FPS",
            help="Frames a second of a folder of frames, such as 24 or 24000/1001; 25 by default.",
            show_default=False,
        ),
    ] = None,
    foreign_colour: cli_convert.ForeignColour = None,
    foreign_range: cli_convert.ForeignRange = None,
    as_json: Json = False,
) -> None:
    """Enlarge pictures, videos and folders of them."""
    from superfine.progress import JsonLines, Terminal
    from superfine.route import Job
    from superfine.upscale import upscale_path

    listener = JsonLines() if as_json else Terminal()
    used = cli_convert.as_model(model, colour=foreign_colour, span=foreign_range)
    try:
        with cli_convert.speaking_of(model, used), listener:
            job = Job(
                scale=scale,
                size=None if size is None else _size(size),
                model=used,
                sharpness=sharpness,
                engine=engine,
                precision=precision,  # type: ignore[arg-type]
                consistent=consistent,
                ensemble=ensemble,
                provenance=provenance,
                memory_gb=memory,
                file_format=file_format,
                quality=quality,
                white=white,
                max_megapixels=max_megapixels,
                codec=codec,
                crf=crf,
                start=cli_judge.seconds_of(start, "--start"),
                end=cli_judge.seconds_of(end, "--end"),
                damaged=damaged,  # type: ignore[arg-type]
                interlaced=interlaced,  # type: ignore[arg-type]
                as_clip=as_clip,
                rate=None if rate is None else _rate(rate),
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
    from superfine.models import find_model

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
            shown = ", ".join(f"{test} {dB:.2f} dB" for test, dB in value.items()) if isinstance(value, dict) else value
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
    )
    return {
        "system": {"platform": platform.platform(), "python": platform.python_version(), "cores": str(cores())},
        "packages": {name: installed(name) for name in packages},
        "cpu": cpu_features(),
        "engines": {name: engine_state(name) for name in ENGINES},
        "pictures": codecs(),
    }


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0):
        raise UsageError(f"--size {text!r} is not a size; write it as 1920x1080")
    return int(height), int(width)


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise UsageError(f"--rate {text!r} is not a number of frames a second; write it as 25 or 30000/1001")
    return rate


def _stop(message: str, status: int) -> NoReturn:
    typer.echo(f"superfine: {one_line(message)}", err=True)
    sys.exit(status)
