"""The doors to judging: `superfine evaluate`, `compare` and `inspect`. Heavy imports wait until a verb runs."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from superfine.errors import UsageError
from superfine.evaluate.listener import Listener
from superfine.evaluate.record import Row

__all__ = ["compare", "evaluate", "inspect"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")]
Scale = Annotated[int, typer.Option(help="Times each side; 1 judges restoring without enlarging.")]


def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATASET", help="Folders of HR pictures, of HR and LR, or of same-size pairs.", show_default=False
        ),
    ],
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Networks, families, .onnx or .pb files, classical methods, training runs' folders; by default every"
            " shipped network of the scale.",
            show_default=False,
        ),
    ] = None,
    scale: Scale = 2,
    reduction: Annotated[
        str, typer.Option("--lr", metavar="RULE", help="How LR is made where there is none: matlab-bicubic, degraded.")
    ] = "matlab-bicubic",
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
    foreign_colour: Annotated[
        str | None,
        typer.Option(help="What an .onnx file without a card wants: rgb, bgr or y; found by a test else."),
    ] = None,
    foreign_range: Annotated[
        str | None, typer.Option(help="And its range of values: 0..1, 0..255 or -1..1; found by a test else.")
    ] = None,
    engine: Annotated[str, typer.Option(help="openvino, or with the extra gpu: onnxruntime, cuda, ...")] = "openvino",
    precision: Annotated[str, typer.Option(help="auto (bf16 where the CPU has it), bf16 or fp32.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure PSNR and SSIM of methods on folders of pictures, with the protocol beside every figure."""
    from superfine.evaluate.benchmark import benchmark, open_datasets, open_methods
    from superfine.evaluate.evaluation import Evaluation
    from superfine.evaluate.report import save_report, show_worst

    before = None if baseline is None else Evaluation.load(baseline)  # a wrong file stops before the work
    datasets = open_datasets(folders, scale, reduction=reduction)
    methods = open_methods(
        None if models is None else [_method(name, scale) for name in _words(models, "--models")],
        scale,
        foreign_colour=foreign_colour,  # type: ignore[arg-type]
        foreign_range=foreign_range,  # type: ignore[arg-type]
        engine=engine,
        precision=precision,  # type: ignore[arg-type]
    )
    asked = [_distance(name) for name in _words(distances, "--distances")] if distances else []
    listener = _Bar()
    try:
        with listener:
            found = benchmark(datasets, methods, distances=asked, listener=listener)
            shown = () if report is None else show_worst(found, datasets, methods)
    except KeyboardInterrupt:
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
    fell = before is not None and _fell(found.rows, before.rows, baseline, tolerance, ssim_tolerance)
    raise typer.Exit(1 if fell or found.failures else 0)


def compare(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A picture.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page to write; SRC_compared.html by default.", show_default=False),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Two or more, as for `evaluate`; nearest, bicubic, fast, balanced and photo by default.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[int, typer.Option(help="Times each side.")] = 2,
    reference: Annotated[
        Path | None,
        typer.Option(help="The true large picture, to measure against.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Enlarge a picture by several methods and write one page that holds them against each other."""
    from superfine.evaluate.compare import compare as hold_together
    from superfine.evaluate.compare import default_models

    names = default_models(scale) if models is None else _words(models, "--models")
    page = output or source.with_name(f"{source.stem}_compared.html")
    listener = _Bar()
    try:
        with listener:
            wanted = [_method(name, scale) for name in names]
            found = hold_together(source, wanted, scale=scale, reference=reference, listener=listener)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    found.save(page)
    if as_json:
        for entry in found.outputs:
            typer.echo(json.dumps(entry.facts(), ensure_ascii=False))
    else:
        typer.echo(f"{page}: {', '.join(entry.name for entry in found.outputs)}")


def inspect(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Pictures.", show_default=False)],
    as_json: Json = False,
    max_megapixels: Annotated[float, typer.Option(help="Refuse pictures of more millions of pixels than this.")] = 1000,
) -> None:
    """Show what a picture is: size, colour, blur, noise, JPEG and earlier enlargement, and what to enlarge it with."""
    from superfine.errors import SuperfineError
    from superfine.inspection import inspect as look

    failed = False
    for source in sources:
        try:
            found = look(source, max_megapixels=max_megapixels)
        except SuperfineError as error:
            failed = True
            typer.echo(f"failed: {error}", err=True)
            continue
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False) if as_json else str(found))
    raise typer.Exit(1 if failed else 0)


def _fell(now: Sequence[Row], before: Sequence[Row], baseline: Path | None, decibels: float, ssim: float) -> bool:
    """Whether a figure fell by more than the tolerance; says which."""
    from superfine.evaluate.record import regressions

    fallen, missing = regressions(now, before, decibels=decibels, ssim=ssim)
    if len(missing) == len(before):
        example = f", such as {missing[0]}" if missing else ""
        raise UsageError(f"{baseline}: holds nothing like what was judged now{example}; judge the same again")
    for line in missing:
        typer.echo(f"not compared, since it wasn't judged now: {line}", err=True)
    for line in fallen:
        typer.echo(f"fallen: {line}", err=True)
    typer.echo(
        f"{len(before) - len(missing)} rows compared with {baseline}; {len(fallen)} figures fell by more than"
        f" {decibels:g} dB or {ssim:g} of SSIM",
        err=True,
    )
    return bool(fallen)


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r}: a name is empty; write them as a,b,c")
    return words


def _method(name: str, scale: int) -> Any:
    """The name itself, or a training run opened, which needs torch."""
    path = Path(name)
    if not (path.is_dir() or path.suffix == ".pt"):
        return name
    from superfine.cli_train import need

    need("judging a training run")
    from superfine.train.score import open_run

    return open_run(path, scale)


def _distance(name: str) -> Any:
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
            self._bar.console.print(f"failed: {text}", markup=False, highlight=False)
        else:
            print(f"failed: {text}", file=sys.stderr)  # noqa: T201
