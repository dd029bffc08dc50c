"""Methods on data sets -> figures. Each picture is decoded once, enlarged by every method, and compared with HR."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from superfine.classical.blurs import BLURS
from superfine.classical.kernels import kernel_correlation
from superfine.color import limited_luma, to_unit
from superfine.engine import Precision, cores
from superfine.errors import ShapeError, SuperfineError, UsageError
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.listener import Listener
from superfine.evaluate.methods import BASELINES, ClassicalMethod, KernelMethod, Made, Method, made, open_method
from superfine.evaluate.metrics import crop_border, psnr_of, squared_error, ssim
from superfine.evaluate.pairs import Dataset, Pair, open_dataset
from superfine.evaluate.peers import Colour, ValueRange, open_foreign_onnx, open_opencv
from superfine.evaluate.record import AS_IS, Failure, Figures, Measurement, Row, UsedKernel
from superfine.evaluate.usage import machine, peak_memory
from superfine.models import has_card, list_models

__all__ = ["Distance", "benchmark", "evaluate_path", "judge", "open_datasets", "open_methods", "protocol"]

Bytes = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.floating]
Floats = npt.NDArray[np.floating]

# Side of the piece that the methods are timed on, and how often.
_TIMED_SIDE: Final = 384
_TURNS: Final = 3
_QUICK_SECONDS: Final = 0.05


class Distance(Protocol):
    """A perceptual distance, such as LPIPS."""

    name: str
    version: str

    def __call__(self, output: npt.NDArray[np.float32], target: npt.NDArray[np.float32]) -> float:
        """Of two (H, W, 3) pictures in 0..1."""
        ...


class Compared(NamedTuple):
    """Figures of one picture, and the sums that pooled ones are made of."""

    figures: Figures
    error_y: float
    error_rgb: float
    samples: int


class _Target:
    """A large picture, prepared for being compared with several outputs."""

    def __init__(self, large: Bytes, border: int) -> None:
        self.border = border
        self.rgb, self.planes = _planes(large, border)

    def compare(self, output: Bytes, distances: Sequence[Distance], pool: Executor) -> Compared:
        rgb, planes = _planes(output, self.border)
        pairs = list(zip(planes, self.planes, strict=True))
        likeness = list(pool.map(_ssim, pairs))
        error_y, samples = squared_error(planes[0], self.planes[0])
        error_rgb = sum(squared_error(*pair)[0] for pair in pairs[1:])
        return Compared(
            Figures(
                psnr_y=psnr_of(error_y, samples),
                ssim_y=likeness[0],
                psnr_rgb=psnr_of(error_rgb, 3 * samples),
                ssim_rgb=statistics.fmean(likeness[1:]),
                distances={distance.name: distance(rgb, self.rgb) for distance in distances},
            ),
            error_y,
            error_rgb,
            samples,
        )


def judge(output: Bytes, target: Bytes, border: int, *, distances: Sequence[Distance] = ()) -> Figures:
    """Compare two (H, W, 3) uint8 pictures, `border` pixels on each side left out.

    Luma is BT.601 limited range in float; SSIM as `metrics.ssim`. Raises ShapeError where they differ in shape.
    """
    if output.shape != target.shape:
        raise ShapeError(f"output {output.shape} and target {target.shape} differ in shape")
    with ThreadPoolExecutor(1) as pool:
        return _Target(target, border).compare(output, distances, pool).figures


def protocol(colour: str, scale: int, rule: str) -> str:
    """What stands beside a figure. colour: `Y601-limited` or `RGB`."""
    return f"{colour}, crop {scale}, {rule}"


def benchmark(
    datasets: Sequence[Dataset],
    methods: Sequence[Method],
    *,
    distances: Sequence[Distance] = (),
    listener: Listener | None = None,
) -> Evaluation:
    """Judge methods on data sets; nearest, bilinear, bicubic and Lanczos are always among them.

    All of one scale. Output is compared as the 8 bits that a file would hold. Time: the median
    of interleaved runs on a piece of the largest picture, after one that prepares the
    engine. A picture that can't be read, or that a method fails on, is in `failures`
    and stops nothing. Raises UsageError where scales differ or nothing is given.
    """
    if not datasets:
        raise UsageError("there is no folder to judge on")
    scale = datasets[0].scale
    scales = {entry.name: entry.scale for entry in datasets} | {method.name: method.scale for method in methods}
    if wrong := [name for name, each in scales.items() if each != scale]:
        raise UsageError(f"{wrong[0]} is for x{scales[wrong[0]]}, not x{scale}; judge one scale at a time")
    for kind, names in (("folders", [entry.name for entry in datasets]), ("models", [each.name for each in methods])):
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"two {kind} are called {twice[0]!r}, and a table can't tell them apart; give one of them")
    for method in methods:
        if isinstance(method, KernelMethod) and method.oracle and (told := _without_kernels(datasets)):
            raise UsageError(
                f"{method.name} has to be told the kernel of each picture, and {told} doesn't say; judge with --lr"
                " gaussian8, anisotropic or motion, or leave it out"
            )
    given = {method.name for method in methods}
    everyone: list[Method] = [ClassicalMethod(name, scale) for name in BASELINES if name not in given]
    everyone += methods
    run = _Run(everyone, distances, listener or Listener())
    run.listener.begin(sum(len(dataset.sources) for dataset in datasets) * len(everyone))
    with ThreadPoolExecutor(cores()) as run.pool:
        for dataset in datasets:
            run.judge_all(dataset)
    times = run.times()
    return Evaluation(
        version=version("superfine"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine(),
        notes=tuple(run.notes),
        rows=tuple(row for dataset in datasets for row in run.rows(dataset, times)),
        measurements=tuple(run.measurements),
        failures=tuple(run.failures),
        kernels=tuple(run.kernels),
    )


def _without_kernels(datasets: Sequence[Dataset]) -> str:
    """The name of a data set whose LR isn't made by kernels; empty where all are."""
    return next((each.name for each in datasets if each.reduction not in BLURS), "")


def evaluate_path(
    folders: Path | str | Sequence[Path | str],
    models: Sequence[str | Method] | None = None,
    *,
    scale: int = 2,
    reduction: str = "matlab-bicubic",
    distances: Sequence[Distance] = (),
    foreign_colour: Colour | None = None,
    foreign_range: ValueRange | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
    listener: Listener | None = None,
) -> Evaluation:
    """Judge models on folders of pictures; what `superfine evaluate` does.

    folders: each of HR pictures, of HR and LR, or of same-size pairs, in any layout of `layouts`.
    models: shipped networks or families, .onnx files, OpenCV's .pb files, classical methods, or anything
    that is a `Method`; every shipped network of the scale by default. reduction: the rule of `pairs.REDUCTIONS` that
    makes LR where there is none. foreign_colour, foreign_range: what .onnx files without a card want; found by a
    test where not given. A picture that can't be judged is in `failures` and stops nothing. Raises UsageError,
    SourceError (a folder), ModelError, EngineError where nothing can be judged at all.
    """
    methods = open_methods(
        models, scale, foreign_colour=foreign_colour, foreign_range=foreign_range, engine=engine, precision=precision
    )
    given = [folders] if isinstance(folders, (Path, str)) else folders
    datasets = open_datasets(given, scale, reduction=reduction)
    return benchmark(datasets, methods, distances=distances, listener=listener)


def open_datasets(
    folders: Sequence[Path | str], scale: int, *, reduction: str = "matlab-bicubic"
) -> tuple[Dataset, ...]:
    """`pairs.open_dataset` of each folder; those of one name are called by their paths."""
    datasets = [open_dataset(Path(folder), scale, reduction=reduction) for folder in folders]
    known = Counter(dataset.name for dataset in datasets)
    return tuple(
        replace(dataset, name=str(folder)) if known[dataset.name] > 1 else dataset
        for dataset, folder in zip(datasets, folders, strict=True)
    )


def open_methods(
    models: Sequence[str | Method] | None,
    scale: int,
    *,
    foreign_colour: Colour | None = None,
    foreign_range: ValueRange | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
) -> tuple[Method, ...]:
    """Methods by their names, as `evaluate_path` takes them; None is every shipped network of the scale."""
    names = _shipped(scale) if models is None else models
    opened: list[Method] = []
    for name in names:
        if not isinstance(name, str):
            opened.append(name)
        elif (path := Path(name)).suffix.lower() == ".pb":
            opened.append(open_opencv(path, scale))
        elif path.suffix.lower() == ".onnx" and not has_card(path):
            opened.append(open_foreign_onnx(path, scale, colour=foreign_colour, span=foreign_range))
        else:
            opened.append(open_method(name, scale, engine=engine, precision=precision))
    known = Counter(method.name for method in opened)
    for name, method in zip(names, opened, strict=True):
        if known[method.name] > 1 and isinstance(name, str) and Path(name).suffix:
            method.name = Path(name).name  # two files may hold networks of one name: an old and a new training
    return tuple(opened)


def _shipped(scale: int) -> list[str]:
    """The networks that enlarge small pictures; the one that ends what `adapt` began is none by itself."""
    from superfine.adapt import REFINER

    names = [model.card.name for model in list_models() if model.card.scale == scale]
    return [name for name in names if name != REFINER]


class _Run:
    """Goes through pictures and methods and keeps what it finds."""

    pool: Executor

    def __init__(self, methods: Sequence[Method], distances: Sequence[Distance], listener: Listener) -> None:
        self.methods, self.distances, self.listener = methods, distances, listener
        self.measurements: list[Measurement] = []
        self.kernels: list[UsedKernel] = []
        self.failures: list[Failure] = []
        self.notes = [f"{method.name}: {note}" for method in methods for note in method.notes]
        self.notes += [f"{distance.name} is {distance.version}" for distance in distances]
        self._rules: dict[str, set[str]] = {}
        self._held: dict[str, float] = {}  # megabytes that a method's network keeps
        self._most: dict[str, float] = {}  # and takes besides for one picture
        self._largest: Bytes | None = None
        self._its_kernel: Floats | None = None

    def judge_all(self, dataset: Dataset) -> None:
        """All pictures of a data set by all methods."""
        self.notes += [f"{dataset.name}: {note}" for note in dataset.notes]
        for path, reason in dataset.unfit:
            self._fail(str(path), reason)
        for place, source in enumerate(dataset.sources):
            try:
                pair = dataset.pair(place)
                target = _Target(pair.large, dataset.scale)
            except SuperfineError as error:
                self._fail(str(source.large), str(error).removeprefix(f"{source.large}: "))
                continue
            self._rules.setdefault(dataset.name, set()).add(pair.rule)
            self._keep(pair)
            if pair.kernel is not None:
                weights = tuple(tuple(map(float, line)) for line in pair.kernel)
                used = UsedKernel(dataset=dataset.name, picture=pair.name, scale=dataset.scale, weights=weights)
                self.kernels.append(used)
            # All are made before any is compared: comparing keeps threads awake that would slow a network.
            outputs = {method.name: self._enlarge(dataset, pair, method) for method in self.methods}
            for name, (output, seconds) in outputs.items():
                if output is not None:
                    self._compare(dataset, pair, name, target, output, seconds)
            if pair.as_is is not None:
                self._compare(dataset, pair, AS_IS, target, Made(pair.as_is), math.nan)

    def _enlarge(self, dataset: Dataset, pair: Pair, method: Method) -> tuple[Made | None, float]:
        """What a method makes of a picture, and in how many seconds; None where it fails."""
        try:
            with peak_memory() as peak:
                started = time.perf_counter()
                output = made(method, pair.small, pair.kernel)
                seconds = time.perf_counter() - started
        except (SuperfineError, MemoryError) as error:
            self._fail(f"{dataset.name}/{pair.name} by {method.name}", str(error) or "out of memory")
            return None, math.nan
        finally:
            self.listener.step(pair.name, method.name)
        if method.name in self._held:
            self._most[method.name] = max(self._most[method.name], peak.megabytes)
        else:  # the first picture opens what the method keeps
            self._held[method.name], self._most[method.name] = peak.kept, peak.megabytes - peak.kept
        return output, seconds

    def _compare(self, dataset: Dataset, pair: Pair, model: str, target: _Target, output: Made, seconds: float) -> None:
        try:
            compared = target.compare(output.pixels, self.distances, self.pool)
        except SuperfineError as error:
            self._fail(f"{dataset.name}/{pair.name} by {model}", str(error))
        else:
            self._note(dataset, pair, model, compared, seconds, output.kernel)

    def _note(
        self, dataset: Dataset, pair: Pair, model: str, compared: Compared, seconds: float, kernel: Floats | None
    ) -> None:
        figures = compared.figures
        both = None if kernel is None or pair.kernel is None else kernel_correlation(kernel, pair.kernel)
        self.measurements.append(
            Measurement(
                dataset=dataset.name,
                picture=pair.name,
                model=model,
                error_y=compared.error_y,
                error_rgb=compared.error_rgb,
                samples=compared.samples,
                pixels=pair.small.shape[0] * pair.small.shape[1],
                seconds=seconds,
                kernel_correlation=both,
                **vars(figures),
            )
        )

    def _fail(self, name: str, reason: str) -> None:
        self.failures.append(Failure(name=name, reason=reason))
        self.listener.warn(f"{name}: {reason}")

    def _keep(self, pair: Pair) -> None:
        piece = pair.small[:_TIMED_SIDE, :_TIMED_SIDE]
        if self._largest is None or piece.size > self._largest.size:
            self._largest, self._its_kernel = piece, pair.kernel

    def times(self) -> Mapping[str, float]:
        """Method -> ms per Mpx of input on a piece of the largest picture, methods in turn, median."""
        if self._largest is None:
            return {}
        piece = np.ascontiguousarray(self._largest)
        working = {entry.model for entry in self.measurements}
        methods = [method for method in self.methods if method.name in working]
        taken: dict[str, list[float]] = {method.name: [] for method in methods}
        for turn in range(_TURNS):
            first = turn * len(methods) // _TURNS  # so that none always follows the same
            for method in (*methods[first:], *methods[:first]):
                seconds = _seconds(method, piece, self._its_kernel)
                if seconds < _QUICK_SECONDS:  # its first run may only have waited for what the last left in the cache
                    seconds = min(seconds, _seconds(method, piece, self._its_kernel))
                taken[method.name].append(seconds)
        rows, cols = piece.shape[:2]
        self.notes.append(f"times: median of {_TURNS} runs on a piece of {cols} x {rows} px, methods in turn")
        return {name: statistics.median(each) * 1e3 / (rows * cols / 1e6) for name, each in taken.items()}

    def rows(self, dataset: Dataset, times: Mapping[str, float]) -> list[Row]:
        """The means of a data set, baselines first, in the order of the methods."""
        rows = []
        rules = self._rules.get(dataset.name, set())
        rule = next(iter(rules)) if len(rules) == 1 else "LR as given"
        known = {method.name: method for method in self.methods}
        for name in (AS_IS, *known):
            entries = [each for each in self.measurements if (each.dataset, each.model) == (dataset.name, name)]
            if not entries:
                continue
            method = known.get(name)
            samples = sum(entry.samples for entry in entries)
            found = [entry.kernel_correlation for entry in entries if entry.kernel_correlation is not None]
            rows.append(
                Row(
                    dataset=dataset.name,
                    model=name,
                    scale=dataset.scale,
                    pictures=len(entries),
                    protocol_y=protocol("Y601-limited", dataset.scale, rule),
                    protocol_rgb=protocol("RGB", dataset.scale, rule),
                    psnr_y=_mean([entry.psnr_y for entry in entries]),
                    ssim_y=_mean([entry.ssim_y for entry in entries]),
                    psnr_rgb=_mean([entry.psnr_rgb for entry in entries]),
                    ssim_rgb=_mean([entry.ssim_rgb for entry in entries]),
                    distances={
                        distance.name: _mean([entry.distances[distance.name] for entry in entries])
                        for distance in self.distances
                    },
                    pooled_y=psnr_of(sum(entry.error_y for entry in entries), samples),
                    pooled_rgb=psnr_of(sum(entry.error_rgb for entry in entries), 3 * samples),
                    ms_per_mpx=times.get(name, math.nan),
                    memory_mb=self._held.get(name, math.nan) + self._most.get(name, math.nan),
                    engine=method.engine if method else "",
                    precision=method.precision if method else "",
                    sha256=method.sha256 if method else "",
                    parameters=method.parameters if method else 0,
                    kernel_correlation=statistics.median(found) if found else None,
                )
            )
        return rows


def _planes(pixels: Bytes, border: int) -> tuple[npt.NDArray[np.float32], list[Plane]]:
    """The picture without its border in 0..1, (H, W, 3), and its Y, R, G, B."""
    inner = crop_border(pixels, border)
    planes = to_unit(np.ascontiguousarray(np.moveaxis(inner, 2, 0)))
    rgb = np.moveaxis(planes, 0, 2)
    return rgb, [limited_luma(rgb), *planes]


def _ssim(pair: tuple[Plane, Plane]) -> float:
    return ssim(*pair) if min(pair[0].shape) >= 11 else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if all(map(math.isfinite, values)) else sum(values)


def _seconds(method: Method, pixels: Bytes, kernel: Floats | None) -> float:
    started = time.perf_counter()
    made(method, pixels, kernel)
    return time.perf_counter() - started
