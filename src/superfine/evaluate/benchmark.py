"""Methods on data sets -> figures. Each picture is decoded once, enlarged by every method, and compared with HR."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
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
from superfine.evaluate.clips import ClipSet, Moment, Stretch, is_clip, open_clip_set
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.flicker import levels, motion_between, root_mean_square, warped_difference
from superfine.evaluate.listener import Listener
from superfine.evaluate.methods import (
    BASELINES,
    ClassicalMethod,
    KernelMethod,
    Made,
    Method,
    frames_of,
    made,
    made_of_windows,
    open_method,
)
from superfine.evaluate.metrics import crop_border, psnr_of, squared_error, ssim
from superfine.evaluate.pairs import Dataset, Pair, open_dataset
from superfine.evaluate.peers import Colour, ValueRange, open_foreign_onnx, open_opencv
from superfine.evaluate.record import AS_IS, Failure, Figures, Measurement, Row, UsedKernel
from superfine.evaluate.usage import machine, peak_memory
from superfine.models import has_card, list_models
from superfine.scenes import is_cut, thumbnail

__all__ = [
    "Distance",
    "benchmark",
    "evaluate_path",
    "judge",
    "open_datasets",
    "open_methods",
    "protocol",
    "shipped_models",
]

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
    datasets: Sequence[Dataset | ClipSet],
    methods: Sequence[Method],
    *,
    distances: Sequence[Distance] = (),
    listener: Listener | None = None,
) -> Evaluation:
    """Judge methods on data sets and clips; nearest, bilinear, bicubic and Lanczos are always among them.

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
    run.listener.begin(sum(map(len, datasets)) * len(everyone))
    with ThreadPoolExecutor(cores()) as run.pool:
        for dataset in datasets:
            if isinstance(dataset, ClipSet):
                run.judge_clip(dataset)
            else:
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


def _without_kernels(datasets: Sequence[Dataset | ClipSet]) -> str:
    """The name of a data set whose LR isn't made by kernels; empty where all are."""
    return next((each.name for each in datasets if each.reduction not in BLURS), "")


def evaluate_path(
    folders: Path | str | Sequence[Path | str],
    models: Sequence[str | Method] | None = None,
    *,
    scale: int = 2,
    reduction: str = "matlab-bicubic",
    as_clip: bool = False,
    stretch: Stretch | None = None,
    distances: Sequence[Distance] = (),
    foreign_colour: Colour | None = None,
    foreign_range: ValueRange | None = None,
    engine: str = "openvino",
    precision: Precision = "auto",
    listener: Listener | None = None,
) -> Evaluation:
    """Judge models on folders of pictures and on clips; what `superfine evaluate` does.

    folders: each of HR pictures, of HR and LR, or of same-size pairs, in any layout of `layouts`; or a video or an
    animation. as_clip, stretch: as in `open_datasets`.
    models: shipped networks or families, .onnx files, OpenCV's .pb files, classical methods, or anything
    that is a `Method`; every shipped network of the scale by default, those for video where there is a clip. reduction:
    the rule of `pairs.REDUCTIONS` that makes LR where there is none. foreign_colour, foreign_range: what .onnx files
    without a card want; found by a test where not given. A picture that can't be judged is in `failures` and stops
    nothing. Raises UsageError, SourceError (a folder), ModelError, EngineError where nothing can be judged at all.
    """
    given = [folders] if isinstance(folders, (Path, str)) else folders
    datasets = open_datasets(given, scale, reduction=reduction, as_clip=as_clip, stretch=stretch)
    methods = open_methods(
        shipped_models(datasets) if models is None else models,
        scale,
        foreign_colour=foreign_colour,
        foreign_range=foreign_range,
        engine=engine,
        precision=precision,
    )
    return benchmark(datasets, methods, distances=distances, listener=listener)


def open_datasets(
    folders: Sequence[Path | str],
    scale: int,
    *,
    reduction: str = "matlab-bicubic",
    as_clip: bool = False,
    stretch: Stretch | None = None,
) -> tuple[Dataset | ClipSet, ...]:
    """`pairs.open_dataset` of each folder, `clips.open_clip_set` of each clip; those of one name by their paths.

    as_clip: folders are the frames of a clip each, in the order of their names; else their pictures have nothing to do
    with each other. stretch: of the clips. Raises UsageError where a stretch is asked for and there is no clip.
    """
    paths = [Path(folder) for folder in folders]
    clips = {path for path in paths if is_clip(path) or (as_clip and path.is_dir())}
    if stretch is not None and not clips:
        raise UsageError(
            "--start, --end and --every choose frames of a clip, and there is none; give a video, or --as-clip with a"
            " folder of frames"
        )
    datasets: list[Dataset | ClipSet] = [
        open_clip_set(path, scale, stretch=stretch, reduction=reduction)
        if path in clips
        else open_dataset(path, scale, reduction=reduction)
        for path in paths
    ]
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
    """Methods by their names, as `evaluate_path` takes them; None is every shipped network for pictures."""
    names = _shipped(scale, 1) if models is None else models
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


def shipped_models(datasets: Sequence[Dataset | ClipSet]) -> list[str]:
    """The shipped networks that are judged unless others are named: those for video where there is a clip."""
    most = max((math.inf if isinstance(dataset, ClipSet) else 1 for dataset in datasets), default=1)
    return _shipped(datasets[0].scale, most) if datasets else []


def _shipped(scale: int, frames: float) -> list[str]:
    """The networks that enlarge small pictures, of windows up to `frames`; what ends what `adapt` began is none."""
    from superfine.adapt import REFINER

    cards = [model.card for model in list_models()]
    names = [card.name for card in cards if card.scale == scale and card.frames <= frames]
    return [name for name in names if name != REFINER]


class _Before(NamedTuple):
    """The frame before, as it is and as methods made it: luma in grey levels."""

    number: int
    large: Bytes
    truth: Plane
    outputs: Mapping[str, Plane]


class _Flicker(NamedTuple):
    """Of one frame: of the true clip, and of each method all of it and its excess."""

    truth: float = math.nan
    outputs: Mapping[str, tuple[float, float]] = {}

    def beside(self, figures: Figures, model: str) -> Figures:
        """The figures of a method, with these of it."""
        whole, excess = self.outputs.get(model, (math.nan, math.nan))
        return replace(figures, flicker=whole, excess_flicker=excess, true_flicker=self.truth)


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
            self._keep(pair.small, pair.kernel)
            if pair.kernel is not None:
                weights = tuple(tuple(map(float, line)) for line in pair.kernel)
                used = UsedKernel(dataset=dataset.name, picture=pair.name, scale=dataset.scale, weights=weights)
                self.kernels.append(used)
            # All are made before any is compared: comparing keeps threads awake that would slow a network.
            outputs = {}
            for method in self.methods:
                make = partial(made, method, pair.small, pair.kernel)
                outputs[method.name] = self._enlarge(dataset.name, pair.name, method.name, make)
            for name, (output, seconds) in outputs.items():
                if output is not None:
                    self._compare(dataset, pair, name, target, output, seconds)
            if pair.as_is is not None:
                self._compare(dataset, pair, AS_IS, target, Made(pair.as_is), math.nan)

    def judge_clip(self, clip: ClipSet) -> None:
        """The frames of a clip by all methods, each held against the one before it as well."""
        self.notes += [f"{clip.name}: {note}" for note in clip.notes]
        self._rules.setdefault(clip.name, set()).add(clip.rule)
        counts = [frames_of(method) for method in self.methods]
        before: _Before | None = None
        try:
            for moment in clip.moments(counts, note=lambda words: self.notes.append(f"{clip.name}: {words}")):
                before = self._judge_moment(clip, moment, before)
        except SuperfineError as error:
            self._fail(str(clip.clip.path), str(error).removeprefix(f"{clip.clip.path}: "))

    def _judge_moment(self, clip: ClipSet, moment: Moment, before: _Before | None) -> _Before:
        """One frame; returns what the next is held against."""
        small = moment.windows[1][0]
        self._keep(small, None)
        outputs = {}
        for method in self.methods:
            make = partial(made_of_windows, method, moment.windows)
            outputs[method.name] = self._enlarge(clip.name, moment.name, method.name, make)
        done = {name: output for name, (output, _) in outputs.items() if output is not None}
        fits = {name: output for name, output in done.items() if output.pixels.shape == moment.large.shape}
        now = _Before(
            moment.number,
            moment.large,
            levels(moment.large),
            dict(zip(fits, self.pool.map(levels, (output.pixels for output in fits.values())), strict=True)),
        )
        if not moment.judged:
            return now
        flicker = _Flicker() if moment.repeats else self._flicker(before, now, clip.scale)
        pair = Pair(moment.name, small, moment.large)
        target = _Target(moment.large, clip.scale)
        for name, output in done.items():
            self._compare(clip, pair, name, target, output, outputs[name][1], flicker)
        return now

    def _flicker(self, before: _Before | None, now: _Before, border: int) -> _Flicker:
        """Nothing where the frame before is missing or of another scene."""
        if before is None or before.number != now.number - 1:
            return _Flicker()
        if is_cut([thumbnail(before.large)], [thumbnail(now.large)]):
            return _Flicker()
        motion = motion_between(before.truth, now.truth, border=border)
        if motion is None:
            return _Flicker()
        truth = warped_difference(before.truth, now.truth, motion)

        def judged(name: str) -> tuple[float, float]:
            found = warped_difference(before.outputs[name], now.outputs[name], motion)
            return root_mean_square(found), root_mean_square(found - truth)

        both = [name for name in now.outputs if name in before.outputs]
        return _Flicker(root_mean_square(truth), dict(zip(both, self.pool.map(judged, both), strict=True)))

    def _enlarge(self, dataset: str, picture: str, model: str, make: Callable[[], Made]) -> tuple[Made | None, float]:
        """What a method makes of a picture, and in how many seconds; None where it fails."""
        try:
            with peak_memory() as peak:
                started = time.perf_counter()
                output = make()
                seconds = time.perf_counter() - started
        except (SuperfineError, MemoryError) as error:
            self._fail(f"{dataset}/{picture} by {model}", str(error) or "out of memory")
            return None, math.nan
        finally:
            self.listener.step(picture, model)
        if model in self._held:
            self._most[model] = max(self._most[model], peak.megabytes)
        else:  # the first picture opens what the method keeps
            self._held[model], self._most[model] = peak.kept, peak.megabytes - peak.kept
        return output, seconds

    def _compare(
        self,
        dataset: Dataset | ClipSet,
        pair: Pair,
        model: str,
        target: _Target,
        output: Made,
        seconds: float,
        flicker: _Flicker = _Flicker(),  # noqa: B008 - it never changes
    ) -> None:
        try:
            compared = target.compare(output.pixels, self.distances, self.pool)
        except SuperfineError as error:
            self._fail(f"{dataset.name}/{pair.name} by {model}", str(error))
            return
        both = None if output.kernel is None or pair.kernel is None else kernel_correlation(output.kernel, pair.kernel)
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
                **vars(flicker.beside(compared.figures, model)),
            )
        )

    def _fail(self, name: str, reason: str) -> None:
        self.failures.append(Failure(name=name, reason=reason))
        self.listener.warn(f"{name}: {reason}")

    def _keep(self, small: Bytes, kernel: Floats | None) -> None:
        piece = small[:_TIMED_SIDE, :_TIMED_SIDE]
        if self._largest is None or piece.size > self._largest.size:
            self._largest, self._its_kernel = piece, kernel

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

    def rows(self, dataset: Dataset | ClipSet, times: Mapping[str, float]) -> list[Row]:
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
                    flicker=_mean_of_known([entry.flicker for entry in entries]),
                    excess_flicker=_mean_of_known([entry.excess_flicker for entry in entries]),
                    true_flicker=_mean_of_known([entry.true_flicker for entry in entries]),
                    unit="frame" if isinstance(dataset, ClipSet) else "picture",
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


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _seconds(method: Method, pixels: Bytes, kernel: Floats | None) -> float:
    started = time.perf_counter()
    made(method, pixels, kernel)
    return time.perf_counter() - started
