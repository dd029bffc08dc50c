"""Unknown blur: the tables and the picture of docs/blind.md.

    python benchmarks/blind.py Set5 Set14 --pairs city100 --write docs/blind.md --picture docs/blind.png

Small pictures are made of a folder's large ones as `superfine evaluate --lr RULE` makes them, by every rule of
classical/blurs.py and at x2 and x4, and judged as it judges: PSNR in dB of BT.601 luma of limited range, a border as
wide as the scale left out, means over all small pictures. `adapt-known` is told the true kernel. Zero-shot: a network
of 8 layers and 32 channels that is trained on the small picture and its own bicubic reduction alone (Shocher et al.
2018, arXiv:1712.06087, without its turns of several scales). It and the adaptation by --budget train on each picture
and need torch: on the first kernel of the first folder alone, x2; the published sets' rule, too, is for that folder
alone. --pairs: same-size pairs of cameras. --kernels 1 takes one kernel a picture. Without --write all is printed.
Failures and the picture are of scikit-image's photographs.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superfine.adapt import REFINER, adapt_pixels, find_kernel
from superfine.classical.blurs import BLURS, SIGMAS, Blur, blurred
from superfine.classical.kernels import anisotropic_kernel, kernel_correlation
from superfine.classical.resample import matlab_resize, resize
from superfine.color import full_luma, limited_luma
from superfine.engine import cores, cpu_features
from superfine.evaluate.benchmark import protocol
from superfine.evaluate.methods import Method, made, open_method
from superfine.evaluate.metrics import crop_border, psnr_of, squared_error
from superfine.evaluate.pairs import Pair, open_dataset

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

_SCALES = (2, 4)
_METHODS = ("bicubic", "fast", "balanced", "best", "photo", "adapt", "adapt-known")
_PUBLISHED = "gaussian8-bicubic"
_CAMERAS = ("bicubic", "photo", "adapt")
# Side of the picture that is timed, and the seconds of its adaptation.
_TIMED, _BUDGET = 512, 50.0
_BEGIN, _END = "<!-- figures: begin, made by benchmarks/blind.py -->", "<!-- figures: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="of large pictures, such as Set5 and Set14")
    parser.add_argument("--pairs", type=Path, help="same-size pairs, such as City100")
    parser.add_argument("--kernels", type=int, default=8, help="at most so many of each rule for a picture")
    parser.add_argument("--zero-shot", type=int, default=400, help="steps of its training; 0 leaves training out")
    parser.add_argument("--budget", type=float, default=30, help="seconds of adaptation for a picture beside it")
    parser.add_argument("--write", type=Path, help="the page whose figures are replaced")
    parser.add_argument("--picture", type=Path, help="where to draw kernels and crops")
    given = parser.parse_args()
    began = time.perf_counter()
    parts = [f"{cpu_features()['name']}, {cores()} cores, {datetime.now(UTC):%Y-%m-%d}."]
    if given.folders:
        parts += [*_blurs(given.folders, given.kernels)]
        parts += [*_published(given.folders[0])]
        if given.zero_shot:
            parts += [*_trained(given.folders[0], given.zero_shot, given.budget)]
    if given.pairs:
        parts += [*_cameras(given.pairs)]
    parts += [*_failures(), *_times(training=bool(given.zero_shot))]
    text = "\n".join(parts)
    if given.write is None:
        print(text)
    else:
        page = given.write.read_text(encoding="utf-8")
        before, rest = page.split(_BEGIN)
        given.write.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{rest.split(_END)[1]}", encoding="utf-8")
    if given.picture is not None:
        draw_cases(given.picture)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


# ---- the tables


@dataclass
class Sum:
    """What the pairs of one row gave, by method."""

    decibels: dict[str, list[float]] = field(default_factory=dict)
    correlations: list[float] = field(default_factory=list)

    def judge(self, pair: Pair, methods: Sequence[Method], scale: int) -> None:
        for method in methods:
            output = made(method, pair.small, pair.kernel)
            self.decibels.setdefault(method.name, []).append(decibels(output.pixels, pair.large, scale))
            if output.kernel is not None and pair.kernel is not None:
                self.correlations.append(kernel_correlation(output.kernel, pair.kernel))

    def cells(self) -> str:
        means = " | ".join(f"{np.mean(each):.2f}" for each in self.decibels.values())
        correlation = f" | {np.median(self.correlations):.3f}" if self.correlations else ""
        return f"{means}{correlation} | {len(next(iter(self.decibels.values())))} |"


def decibels(output: Bytes, target: Bytes, border: int) -> float:
    """As `superfine evaluate` gives them, of luma."""
    first, second = (limited_luma(crop_border(pixels, border).astype(np.float32) / 255) for pixels in (output, target))
    return psnr_of(*squared_error(first, second))


def _blurs(folders: Sequence[Path], kernels: int) -> Iterator[str]:
    head = " | ".join(_METHODS)
    yield f"\n| blur | set | {head} | kernel correlation, median | small pictures |"
    yield "|---" * (len(_METHODS) + 4) + "|"
    words = []
    for scale in _SCALES:
        methods = [open_method(name, scale) for name in _METHODS]
        for name, blur in BLURS.items():
            words.append(f"- {protocol('Y601-limited', scale, blur.words(scale))}")
            for folder in folders[:1] if name == _PUBLISHED else folders:
                dataset, row = open_dataset(folder, scale, reduction=name), Sum()
                for place in _chosen(blur, len(dataset.sources), kernels):
                    row.judge(dataset.pair(place), methods, scale)
                line = f"| {name} x{scale} | {dataset.name} | {row.cells()}"
                print(line, flush=True)
                yield line
    yield "\nProtocols:\n"
    yield from words


def _published(folder: Path) -> Iterator[str]:
    """Bicubic on the eight Gaussians in several ways of making and measuring them."""
    ways = ("luma, limited range", "luma, full range", "RGB")
    heads = [f"x{scale}: {way}" for scale in _SCALES for way in ways]
    rows: dict[str, list[float]] = {}
    for scale in _SCALES:
        bicubic = open_method("bicubic", scale)
        for name in ("first", "gaussian8", "gaussian8-bicubic"):
            dataset = open_dataset(folder, scale, reduction="gaussian8" if name == "first" else name)
            found = []
            for place in range(len(dataset.sources)):
                pair = dataset.pair(place)
                small = pair.small if name != "first" else _from_the_first(pair.large, scale, place)
                found.append(_three_ways(bicubic(small), pair.large, scale))
            rows.setdefault(name, []).extend(np.mean(found, axis=0))
    yield f"\nBicubic on {dataset.name}, eight round Gaussians:\n"
    yield f"| blurred, then reduced | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    words = {"first": "every s-th pixel from the first", "gaussian8": "every s-th pixel, centred (`gaussian8`)"}
    for name, values in rows.items():
        cells = " | ".join(f"{value:.2f}" for value in values)
        yield f"| {words.get(name, 'by bicubic with antialiasing (`gaussian8-bicubic`)')} | {cells} |"


def _from_the_first(large: Bytes, scale: int, place: int) -> Bytes:
    """Small pixel r is large pixel s*r of the blurred picture, as its corner is: moved by (s-1)/2 from the centre."""
    least, most = SIGMAS[scale]
    variance = np.linspace(least, most, 8)[place % 8] ** 2
    small = blurred(large, anisotropic_kernel(21, 1, (variance, variance), 0), 1)[::scale, ::scale]
    return np.ascontiguousarray(small)


def _three_ways(output: Bytes, target: Bytes, border: int) -> list[float]:
    first, second = (crop_border(pixels, border).astype(np.float32) / 255 for pixels in (output, target))
    planes = [(limited_luma(first), limited_luma(second)), (full_luma(first), full_luma(second)), (first, second)]
    return [psnr_of(*squared_error(*pair)) for pair in planes]


def _chosen(blur: Blur, count: int, kernels: int) -> list[int]:
    """The places of a data set's pairs, at most so many of each picture, spread over its kernels."""
    numbers = np.unique(np.linspace(0, blur.each - 1, min(kernels, blur.each)).round().astype(int))
    return [first + int(number) for first in range(0, count, blur.each) for number in numbers]


def _cameras(folder: Path) -> Iterator[str]:
    scale = 2
    dataset, row = open_dataset(folder, scale), Sum()
    methods = [open_method(name, scale) for name in _CAMERAS]
    as_is = []
    for place in range(len(dataset.sources)):
        pair = dataset.pair(place)
        row.judge(pair, methods, scale)
        if pair.as_is is not None:
            as_is.append(decibels(pair.as_is, pair.large, scale))
    yield f"\n{protocol('Y601-limited', scale, pair.rule)}; {', '.join(dataset.notes)}:\n"
    yield f"| set | LR as it is | {' | '.join(_CAMERAS)} | pictures |"
    yield "|---" * (len(_CAMERAS) + 3) + "|"
    line = f"| {dataset.name} x{scale} | {np.mean(as_is):.2f} | {row.cells()}"
    print(line, flush=True)
    yield line


def _times(*, training: bool) -> Iterator[str]:
    pixels = _photo("astronaut")[:_TIMED, :_TIMED]
    seconds: dict[str, list[float]] = {"estimate": [], "estimate and network": []}
    for _ in range(4):
        for name, work in (("estimate", find_kernel), ("estimate and network", adapt_pixels)):
            started = time.perf_counter()
            work(pixels, 2)
            seconds[name].append(time.perf_counter() - started)
    if training:
        started = time.perf_counter()
        adapted(pixels, 2, _BUDGET)
        seconds[f"all with an adaptation of {_BUDGET:g} s"] = 2 * [time.perf_counter() - started]
    words = ", ".join(f"{name} {np.median(each[1:]):.1f} s" for name, each in seconds.items())
    yield f"\nA picture of {_TIMED}x{_TIMED} px, x2, from pixels to pixels, once the network is open: {words}."


# ---- training on the picture's own reduction


def _trained(folder: Path, steps: int, budget: float) -> Iterator[str]:
    scale, rule = 2, "anisotropic"
    dataset = open_dataset(folder, scale, reduction=rule)
    bicubic, adapt = open_method("bicubic", scale), open_method("adapt", scale)
    rows, kept = [], 0
    for place in _chosen(BLURS[rule], len(dataset.sources), 1):
        pair = dataset.pair(place)
        started = time.perf_counter()
        own = zero_shot(pair.small, scale, steps)
        halfway = time.perf_counter()
        taught, better = adapted(pair.small, scale, budget)
        ended = time.perf_counter()
        outputs = (bicubic(pair.small), own, adapt(pair.small), taught)
        rows.append([*(decibels(each, pair.large, scale) for each in outputs), halfway - started, ended - halfway])
        kept += better
    yield f"\nTrained on the picture, the first kernel of each; zero-shot: {steps} steps; budget {budget:g} s:\n"
    yield "| blur | set | bicubic | zero-shot | adapt | adapt with the budget | s of zero-shot | s of adapt | kept |"
    yield "|---|---|---|---|---|---|---|---|---|"
    means = np.mean(rows, axis=0)
    cells = " | ".join([*(f"{value:.2f}" for value in means[:4]), *(f"{value:.0f}" for value in means[4:])])
    line = f"| {rule} x{scale} | {dataset.name} | {cells} | {kept} of {len(rows)} |"
    print(line, flush=True)
    yield line


def adapted(small: Bytes, scale: int, budget: float) -> tuple[Bytes, bool]:
    """What `superfine adapt --budget` makes of (h, w, 3), and whether its training was kept."""
    from superfine.engine import open_engine
    from superfine.train.adapt import adapt_network

    kernel = find_kernel(small, scale)
    unit = small.astype(np.float32) / 255
    taught = adapt_network(unit, scale, kernel.weights, kernel.noise, REFINER, budget_seconds=budget)
    network = open_engine(taught.model)
    large = adapt_pixels(small, scale, kernel=kernel.weights, noise=kernel.noise, network=network).pixels
    return np.asarray(large, np.uint8), taught.kept


def zero_shot(small: Bytes, scale: int, steps: int, *, seed: int = 1) -> Bytes:
    """(h, w, 3) -> (s*h, s*w, 3): what a network makes of it that was trained on it and its own reduction."""
    import torch

    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    rows, cols = (side // scale * scale for side in small.shape[:2])
    target = np.ascontiguousarray(small[:rows, :cols])
    smaller = matlab_resize(target, (rows // scale, cols // scale))
    soft = _enlarged(smaller, scale)
    sharp = target.astype(np.float32) / 255
    sides = [3, *7 * [32], 3]
    layers: list[Any] = []
    for before, after in pairwise(sides):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate"), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    torch.nn.init.zeros_(layers[-2].weight)  # it begins as bicubic
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 1e-5)
    size = min(96, rows, cols)
    for _ in range(steps):
        top, left = draw.integers(rows - size + 1), draw.integers(cols - size + 1)
        turns, mirrored = int(draw.integers(4)), bool(draw.integers(2))
        given, wanted = (
            torch.from_numpy(_turned(pixels[top : top + size, left : left + size], turns, mirrored=mirrored))[None]
            for pixels in (soft, sharp)
        )
        loss = (given + network(given) - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    base = torch.from_numpy(_turned(_enlarged(small, scale), 0, mirrored=False))[None]
    with torch.no_grad():
        made_of = (base + network(base))[0].permute(1, 2, 0).numpy()
    large: Bytes = np.rint(made_of.clip(0, 1) * 255).astype(np.uint8)
    return large


def _enlarged(pixels: Bytes, scale: int) -> npt.NDArray[np.float32]:
    rows, cols = (side * scale for side in pixels.shape[:2])
    return resize(pixels.astype(np.float32) / 255, (rows, cols), "bicubic")


def _turned(pixels: Floats, turns: int, *, mirrored: bool) -> npt.NDArray[np.float32]:
    """(h, w, 3) -> (3, h, w), turned by quarters and mirrored."""
    moved = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)
    return np.ascontiguousarray(np.moveaxis(moved, 2, 0), np.float32)


# ---- what it can't do, and the picture


@dataclass(frozen=True, eq=False)
class Case:
    """A picture, what happened to it, and what became of it."""

    name: str
    large: Bytes
    small: Bytes
    kernel: Floats
    scale: int = 2


def cases() -> list[Case]:
    """What works."""
    made_of = []
    for name, rule, number in (("astronaut", "gaussian8", 5), ("chelsea", "anisotropic", 0), ("coffee", "motion", 1)):
        large = _photo(name)
        kernel = BLURS[rule].kernel(2, 0, number)
        made_of.append(Case(f"{name}, {rule}", large, blurred(large, kernel, 2), kernel))
    return made_of


def failures() -> list[Case]:
    """A flat sky, heavy noise, text: what tells nothing, or something else, of the kernel."""
    from PIL import Image, ImageDraw, ImageFont

    draw = np.random.default_rng(1)
    kernel = BLURS["anisotropic"].kernel(2, 0, 0)
    down, right = np.mgrid[:384, :384] / 384
    sky = np.stack([90 + 60 * down + 8 * right, 140 + 50 * down, 215 + 25 * down], axis=-1)
    sky = np.rint(sky + draw.normal(0, 0.5, sky.shape)).clip(0, 255).astype(np.uint8)
    photo = _photo("astronaut")
    noisy = blurred(photo, kernel, 2) + draw.normal(0, 20, (photo.shape[0] // 2, photo.shape[1] // 2, 3))
    page = Image.new("RGB", (384, 384), "white")
    writer = ImageDraw.Draw(page)
    for line in range(20):
        words = "The quick brown fox jumps over the lazy dog 0123456789"[line % 7 :]
        writer.text((8, 8 + 18 * line), words, "black", font=ImageFont.load_default(13))
    text = np.asarray(page)
    return [
        Case("flat sky", sky, blurred(sky, kernel, 2), kernel),
        Case("noise of sigma 20", photo, np.rint(noisy).clip(0, 255).astype(np.uint8), kernel),
        Case("text", text, blurred(text, kernel, 2), kernel),
    ]


def _failures() -> Iterator[str]:
    yield "\n| picture | bicubic | adapt | adapt-known | kernel correlation | trust | kernel taken |"
    yield "|---|---|---|---|---|---|---|"
    for case in (*cases(), *failures()):
        outputs = [
            made(open_method(name, case.scale), case.small, case.kernel).pixels
            for name in ("bicubic", "adapt", "adapt-known")
        ]
        kernel = find_kernel(case.small, case.scale)
        trust = 0.0 if kernel.found is None else kernel.found.trust
        figures = " | ".join(f"{decibels(each, case.large, case.scale):.2f}" for each in outputs)
        correlation = kernel_correlation(_estimate(case), case.kernel)
        yield f"| {case.name} | {figures} | {correlation:.3f} | {trust:.2f} | {kernel.origin} |"


def _estimate(case: Case) -> Floats:
    """The kernel that was found, taken or not."""
    kernel = find_kernel(case.small, case.scale)
    return kernel.weights if kernel.found is None else kernel.found.kernel


def draw_cases(path: Path) -> None:
    """Crops before and after, the true kernel and the one that was found; the failures below."""
    from PIL import Image, ImageDraw, ImageFont

    crop, zoom, gap, line = 96, 2, 8, 22
    wide = crop * zoom
    rows = [*cases(), *failures()]
    canvas = Image.new("RGB", (6 * (wide + gap) - gap, len(rows) * (wide + 2 * line + gap) - gap), "white")
    writer, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for place, case in enumerate(rows):
        top = place * (wide + 2 * line + gap)
        found, estimate = find_kernel(case.small, case.scale), _estimate(case)
        trust = 0.0 if found.found is None else found.found.trust
        down, right = ((side - crop) // 2 for side in case.large.shape[:2])
        shown = [("bicubic", open_method("bicubic", case.scale)(case.small))]
        shown += [("adapt", open_method("adapt", case.scale)(case.small)), ("original", case.large)]
        tiles = [(name, pixels[down : down + crop, right : right + crop]) for name, pixels in shown]
        first = case.small[down // case.scale :, right // case.scale :][: crop // case.scale, : crop // case.scale]
        tiles.insert(0, ("given", first))
        both = [("true kernel", case.kernel), (f"found: {kernel_correlation(estimate, case.kernel):.2f}", estimate)]
        side = max(len(kernel) for _, kernel in both)
        tiles += [(name, _grey(kernel, side)) for name, kernel in both]
        words = f"{case.name}   (trust {trust:.2f}, taken: {found.origin})"
        writer.text((0, top), words, "black", font=font)
        for number, (name, pixels) in enumerate(tiles):
            left = number * (wide + gap)
            picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((wide, wide), Image.Resampling.NEAREST)
            canvas.paste(picture, (left, top + line))
            writer.text((left, top + line + wide + 2), name, "black", font=font)
    canvas.save(path, optimize=True)


def _grey(kernel: Floats, side: int) -> Bytes:
    """A kernel in the middle of a square, its greatest weight white."""
    rows, cols = kernel.shape
    square = np.zeros((side, side))
    top, left = side // 2 - rows // 2, side // 2 - cols // 2
    square[top : top + rows, left : left + cols] = kernel.clip(0) / kernel.max()
    grey = np.rint(255 * square).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _photo(name: str) -> Bytes:
    """One of scikit-image's own, its sides multiples of four."""
    from skimage import data

    pixels: Bytes = getattr(data, name)()
    rows, cols = (side // 4 * 4 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:rows, :cols])


if __name__ == "__main__":
    main()
