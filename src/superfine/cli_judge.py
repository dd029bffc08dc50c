"""The doors to judging: `superfine evaluate`, `compare` and `inspect`. Heavy imports wait until a verb runs."""

import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from superfine.cli_convert import ForeignColour, ForeignRange, as_model, speaking_of
from superfine.errors import OutputError, UsageError
from superfine.evaluate.listener import Listener
from superfine.terminal import one_line

if TYPE_CHECKING:
    from superfine.evaluate.evaluation import Evaluation
    from superfine.evaluate.methods import Method
    from superfine.evaluate.record import Row

__all__ = ["Begin", "End", "compare", "evaluate", "inspect", "seconds_of"]

# What a training run calls its states.
_STATES = ("best.pt", "healthy.pt", "last.pt")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")]
EngineName = Annotated[str, typer.Option(help="openvino, or with the extra gpu: onnxruntime, cuda, ...")]
PrecisionName = Annotated[str, typer.Option(help="auto (bf16 where the CPU has it), bf16 or fp32.")]
Scale = Annotated[int, typer.Option(help="Times each side; 1 judges restoring without enlarging.")]
Begin = Annotated[
    str | None,
    typer.Option(
        "--start", metavar="TIME", help="Of a clip, frames from this time on: 12.5 or 1:02.5.", show_default=False
    ),
]
End = Annotated[
    str | None, typer.Option("--end", metavar="TIME", help="Of a clip, frames before this time.", show_default=False)
]


def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATASET",
            help="Folders of HR pictures, of HR and LR, or of same-size pairs; videos, animations, in/%05d.png.",
            show_default=False,
        ),
    ],
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Networks, families, weights as `convert` takes them, classical methods, training runs' folders,"
            " adapt, adapt-known (which is told the kernel); by default every shipped network of the scale. OpenCV runs"
            " .pb files itself where it is installed.",
            show_default=False,
        ),
    ] = None,
    scale: Scale = 2,
    reduction: Annotated[
        str,
        typer.Option(
            "--lr",
            metavar="RULE",
            help="How LR is made: matlab-bicubic or degraded where there is none; by known kernels in any case:"
            " gaussian8, gaussian8-bicubic, anisotropic, motion; of clips h264-CRF, coded too, such as h264-28.",
        ),
    ] = "matlab-bicubic",
    as_clip: Annotated[
        bool, typer.Option("--as-clip", help="The pictures of a folder are the frames of a clip, by their names.")
    ] = False,
    start: Begin = None,
    end: End = None,
    every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of a clip, judge each Nth frame; all by default.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write all figures as lines of JSON, for --baseline and for you.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page: table, plots, worst pictures.", show_default=False)
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="A file that --out wrote: exit 1 where a figure has fallen since.", show_default=False),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="DB", help="With --baseline: how far PSNR may fall.")] = 0.02,
    ssim_tolerance: Annotated[float, typer.Option(help="With --baseline: how far SSIM may fall.")] = 0.0005,
    distances: Annotated[
        str | None,
        typer.Option(
            "--distances",
            metavar="A,B",
            help="lpips, dists: where you have installed them with their weights.",
            show_default=False,
        ),
    ] = None,
    foreign_colour: ForeignColour = None,
    foreign_range: ForeignRange = None,
    engine: EngineName = "openvino",
    precision: PrecisionName = "auto",
    as_json: Json = False,
) -> None:
    """Measure PSNR and SSIM of methods on pictures and clips, of clips flicker too, the protocol beside each figure."""
    from superfine.evaluate.benchmark import benchmark, open_datasets, shipped_models
    from superfine.evaluate.clips import Stretch
    from superfine.evaluate.evaluation import Evaluation
    from superfine.evaluate.record import regressions
    from superfine.evaluate.report import save_report, show_worst

    before = None if baseline is None else Evaluation.load(baseline)  # what is wrong stops before the work
    regressions((), (), decibels=tolerance, ssim=ssim_tolerance)
    for path, endings in ((out, (".jsonl", ".json")), (report, (".html", ".htm"))):
        _writable(path, endings)
    stretch = None
    if (start, end, every) != (None, None, None):
        begin, finish = seconds_of(start, "--start"), seconds_of(end, "--end")
        stretch = Stretch(start=begin, end=finish, every=1 if every is None else every)
    datasets = open_datasets(folders, scale, reduction=reduction, as_clip=as_clip, stretch=stretch)
    names = shipped_models(datasets) if models is None else _words(models, "--models")
    listener = _Bar()
    try:
        with listener:
            methods = _open(names, scale, foreign_colour, foreign_range, engine, precision)
            asked = [_distance(name) for name in _words(distances, "--distances")] if distances else []
            found = benchmark(datasets, methods, distances=asked, listener=listener)
            shown = () if report is None else show_worst(found, datasets, methods)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    if as_json:
        for line in found.lines():
            typer.echo(line)
    else:
        typer.echo(str(found))
    if out is not None:
        found.save(out)
    if report is not None:
        save_report(found, report, shown=shown, command=shlex.join(["superfine", *sys.argv[1:]]))
    fell = before is not None and _fell(found, before, baseline, tolerance, ssim_tolerance)
    raise typer.Exit(1 if fell or found.failures else 0)


def compare(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A picture, a video, or a folder of its frames.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page to write, of a video the video: SRC_x2_compared.html or .mp4 by default.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Two or more, as for `evaluate`; nearest, bicubic, fast, balanced and photo by default, of a video"
            " bicubic, fast, best and video.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[int, typer.Option(help="Times each side.")] = 2,
    reference: Annotated[
        Path | None,
        typer.Option(help="The true large picture, to measure against.", show_default=False),
    ] = None,
    start: Begin = None,
    end: End = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    foreign_colour: ForeignColour = None,
    foreign_range: ForeignRange = None,
    engine: EngineName = "openvino",
    precision: PrecisionName = "auto",
    as_json: Json = False,
) -> None:
    """Enlarge a picture or video by several methods: one page, or one video in which they play side by side."""
    from superfine.evaluate.compare import compare as hold_together

    names = None if models is None else _words(models, "--models")
    if _plays(source, output):
        if reference is not None:
            raise UsageError(f"{reference}: --reference is for pictures; superfine evaluate measures on videos")
        stretch = seconds_of(start, "--start"), seconds_of(end, "--end")
        opened = None if names is None else _open(names, scale, foreign_colour, foreign_range, engine, precision)
        _compare_clip(
            source,
            output,
            opened,
            stretch,
            scale=scale,
            overwrite=overwrite,
            engine=engine,
            precision=precision,
            as_json=as_json,
        )
        return
    if (start, end) != (None, None):
        raise UsageError(f"{source}: is no video, which --start and --end are for; leave them out")
    page = output or source.with_name(f"{source.stem}_x{scale}_compared.html")
    _writable(page, (".html", ".htm"))
    if page.exists() and not overwrite:
        raise OutputError(f"{page}: exists already; replace it with --overwrite or choose another name with -o")
    listener = _Bar()
    try:
        with listener:
            found = hold_together(
                source,
                None if names is None else _open(names, scale, foreign_colour, foreign_range, engine, precision),
                scale=scale,
                reference=reference,
                engine=engine,
                precision=precision,  # type: ignore[arg-type]
                listener=listener,
            )
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    found.save(page)
    if as_json:
        for entry in found.outputs:
            typer.echo(json.dumps(entry.facts(), ensure_ascii=False))
    else:
        typer.echo(one_line(f"{page}: {', '.join(entry.name for entry in found.outputs)}"))
    for note in found.notes:
        typer.echo(f"note: {one_line(note)}", err=as_json)


def _plays(source: Path, output: Path | None) -> bool:
    """Whether a comparison is a video. Of a GIF or WebP animation it is where the output's name says so."""
    from superfine.footage import kind_of
    from superfine.outputs import output_kind

    kind = kind_of(source)
    return kind in ("video", "frames") or (
        kind == "animation" and output is not None and output_kind(output) in ("video", "animation")
    )


def _compare_clip(
    source: Path,
    output: Path | None,
    methods: "list[Method] | None",
    stretch: tuple[Fraction | None, Fraction | None],
    *,
    scale: int,
    overwrite: bool,
    engine: str,
    precision: str,
    as_json: bool,
) -> None:
    from superfine.evaluate.side_by_side import compare_clip
    from superfine.outputs import output_kind

    name = source.parent.name if "%" in source.name else source.stem if source.is_file() else source.name
    beside = source.parent if source.is_file() or source.is_dir() else source.parent.parent
    target = output or beside / f"{name}_x{scale}_compared.mp4"
    if output_kind(target) not in ("video", "animation"):
        raise UsageError(f"{target}: a video is compared in a video; give -o a name that ends in .mp4 or .mkv")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; replace it with --overwrite or choose another name with -o")
    try:
        with _Bar() as listener:
            found = compare_clip(
                source,
                target,
                methods,
                scale=scale,
                start=stretch[0],
                end=stretch[1],
                engine=engine,
                precision=precision,  # type: ignore[arg-type]
                listener=listener,
            )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(found.facts(), ensure_ascii=False))
    else:
        names = ", ".join(method.name for method in found.methods)
        typer.echo(one_line(f"{found.output}: {names}; {found.columns} in a row"))
        typer.echo(f"  {found.size[1]} x {found.size[0]}, {found.frames} frames")
        for method in found.methods:
            if method.seconds == method.seconds:
                typer.echo(one_line(f"  {method.name}: {1e3 * method.seconds:.0f} ms a frame"))
    for note in found.notes:
        typer.echo(f"note: {one_line(note)}", err=as_json)


def inspect(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Pictures and videos.", show_default=False)],
    as_json: Json = False,
    max_megapixels: Annotated[float, typer.Option(help="Refuse pictures of more millions of pixels than this.")] = 1000,
) -> None:
    """Show what a picture is: size, colour, blur, noise, JPEG and earlier enlargement, and what to enlarge it with.

    Of a video or an animation: size, length, frames a second, codec, streams and damage of the file, and what to
    enlarge it with.
    """
    from superfine.clip_inspection import inspect_clip
    from superfine.errors import SuperfineError
    from superfine.footage import kind_of
    from superfine.inspection import inspect as look

    failed = False
    for source in sources:
        try:
            moves = kind_of(source) in ("video", "animation") or (kind_of(source) == "frames" and not source.is_dir())
            found = (inspect_clip if moves else look)(source, max_megapixels=max_megapixels)
        except SuperfineError as error:
            failed = True
            typer.echo(f"failed: {one_line(str(error))}", err=True)
            continue
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False) if as_json else str(found))
    raise typer.Exit(1 if failed else 0)


def seconds_of(text: str | None, option: str) -> Fraction | None:
    """`12.5`, `1:02.5` or `1:00:02.5` -> seconds. Raises UsageError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text.strip())
    if not found:
        raise UsageError(f"{option} {text!r} is no time; write seconds, or minutes and seconds, as 12.5 or 1:02.5")
    hours, minutes, seconds = (Fraction(part or 0) for part in found.groups())
    return (hours * 60 + minutes) * 60 + seconds


def _writable(path: Path | None, endings: Sequence[str]) -> None:
    """Raise UsageError or OutputError now, not after the work, where a file can't be written."""
    if path is None:
        return
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: give it a name that ends in {endings[0]}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{path}: can't be written there; choose another folder")


def _fell(now: "Evaluation", before: "Evaluation", baseline: Path | None, decibels: float, ssim: float) -> bool:
    """Whether a figure fell by more than the tolerance; says which, and what couldn't be compared."""
    from superfine.evaluate.methods import BASELINES
    from superfine.evaluate.record import regressions

    gate = regressions(now.rows, before.rows, decibels=decibels, ssim=ssim)
    asked = [row for row in now.rows if row.model not in BASELINES]
    unguarded = [row for row in gate.new if row.model not in BASELINES]
    if gate.compared == 0 or (asked and len(unguarded) == len(asked)):
        raise UsageError(
            f"{baseline}: holds nothing like what was judged now, such as {_in_words((unguarded or gate.new)[0])};"
            " judge the same sets and models as it did"
        )
    for row in gate.gone:
        typer.echo(f"in the baseline, not judged now: {_in_words(row)}", err=True)
    for row in gate.new:
        typer.echo(f"judged now, not in the baseline: {_in_words(row)}", err=True)
    for line in gate.fallen:
        typer.echo(f"fallen: {one_line(line)}", err=True)
    typer.echo(
        f"rows compared with {baseline}: {gate.compared}; figures that fell by more than {decibels:g} dB or {ssim:g}"
        f" of SSIM: {len(gate.fallen)}",
        err=True,
    )
    return bool(gate.fallen)


def _in_words(row: "Row") -> str:
    return one_line(f"{row.dataset} x{row.scale}, {row.model} ({row.pictures} pictures; {row.protocol_y})")


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r}: a name is empty; write them as a,b,c")
    return words


def _open(
    names: Sequence[str] | None, scale: int, colour: str | None, span: str | None, engine: str, precision: str
) -> "list[Method]":
    """Methods by their cards or stems; files that share one with another by as much of their paths as it takes."""
    from superfine.evaluate.benchmark import open_methods

    def opened(wanted: Sequence[Any] | None) -> "tuple[Method, ...]":
        return open_methods(
            wanted,
            scale,
            foreign_colour=colour,  # type: ignore[arg-type]
            foreign_range=span,  # type: ignore[arg-type]
            engine=engine,
            precision=precision,  # type: ignore[arg-type]
        )

    if names is None:
        return list(opened(None))
    methods: list[Method] = []
    for name in names:
        wanted = _method(name, scale)
        with speaking_of(name, str(wanted)):
            methods += opened([wanted])
    files = [(Path(name), method) for name, method in zip(names, methods, strict=True) if Path(name).is_file()]
    for longer in (lambda path: path.name, str):
        known = Counter(method.name for method in methods)
        for path, method in files:
            if known[method.name] > 1:
                method.name = longer(path)
    for _, method in files:
        method.name = one_line(method.name)
    return methods


def _method(name: str, scale: int) -> Any:
    """The name itself, weights of another framework converted, or a training run opened, which needs torch."""
    path = Path(name)
    if not (path.is_dir() or path.name in _STATES):
        return name if _is_judged_as_it_is(path) else as_model(name)
    from superfine.cli_train import need

    need("judging a training run")
    from superfine.train.score import open_run

    return open_run(path, scale)


def _is_judged_as_it_is(path: Path) -> bool:
    """OpenCV and OpenVINO run these as their makers do, without a card."""
    return path.suffix.lower() == ".onnx" or (path.suffix.lower() == ".pb" and find_spec("cv2") is not None)


def _distance(name: str) -> Any:
    if name not in (known := ("lpips", "dists")):
        raise UsageError(f"no distance {name!r}; there are {', '.join(known)}")
    from superfine.cli_train import need

    need(f"--distances {name}")
    from superfine.train.distances import open_distance

    return open_distance(name)


class _Bar(Listener):
    """A bar with time left on a terminal; what a person should know everywhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, steps: int) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=steps)
        self._bar.start()

    def step(self, picture: str, model: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{picture} by {model}"[-40:])

    def warn(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"failed: {one_line(text)}", markup=False, highlight=False)
        else:
            print(f"failed: {one_line(text)}", file=sys.stderr)  # noqa: T201
