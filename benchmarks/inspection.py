"""How far `superfine inspect` can be trusted: pictures made worse by known amounts, and what is estimated of them.

    python benchmarks/inspection.py --pictures FOLDER FIRST LAST REDUCE ... [--seed 1]

Each `--pictures` takes the pictures [FIRST, LAST) of a folder by name, made REDUCE times as large (1 keeps them) and
cut to their middle 512 x 512. None of them should have had a part in the fit of the blur estimator. Every picture is
looked at once as it is, and once for each row of the table with amounts drawn by `--seed`: noise and JPEG and
enlargement by NumPy and Pillow, round blur by SciPy, anisotropic blur by a sampled kernel; all rounded to 8 bits.
Noise is measured on pictures halved before, which have little of their own. Prints the share of pictures of which
the estimate says it is sure, and of those the share within the bound, the median error and the worst.
"""

import argparse
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from superfine.classical.degrade import blur, gaussian_kernel
from superfine.classical.resample import resize
from superfine.image import open_picture
from superfine.inspection import inspect_pixels

Bytes = npt.NDArray[np.uint8]
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs=4, action="append", required=True)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    pictures = [(name, middle(pixels)) for name, pixels in read_pictures(given.pictures)]
    draw = np.random.default_rng(given.seed)
    rows: dict[str, list[tuple[str, bool, float, float]]] = defaultdict(list)
    sure: dict[str, list[bool]] = defaultdict(list)
    alarms: dict[str, list[str]] = defaultdict(list)
    start, looked = time.perf_counter(), 0
    for name, pixels in pictures:
        plain = inspect_pixels(pixels)
        for part in ("noise", "jpeg", "enlargement", "blur"):
            sure[part].append(getattr(plain, part).sure)
        if plain.jpeg.sure and plain.jpeg.quality is not None:
            alarms["jpeg"].append(f"{name} ({plain.jpeg.quality})")
        if plain.enlargement.sure and plain.enlargement.factor != 1:
            alarms["enlargement"].append(f"{name} ({plain.enlargement.factor:.2f})")
        for worse, judges in trials(pixels, draw):
            estimates = inspect_pixels(worse)
            looked += 1
            for row, judge in judges.items():
                rows[row].append((name, *judge(estimates)))
    seconds = (time.perf_counter() - start) / (looked + len(pictures))
    print(f"{len(pictures)} pictures, {looked} trials, {seconds:.2f} s each\n")
    print("| known | bound | sure | within, of sure | median | worst | within, of all |")
    print("|---|---|---|---|---|---|---|")
    for row, results in rows.items():
        report(row, results)
    print("\nas they are, sure of:", ", ".join(f"{part} {np.mean(each):.0%}" for part, each in sure.items()))
    for part in ("jpeg", "enlargement"):
        print(f"sure of {part} on pictures as they are: {len(alarms[part])}", *alarms[part])


def report(row: str, results: Sequence[tuple[str, bool, float, float]]) -> None:
    """One line of the table, and the misses below it."""
    bound, unit = (15.0, " deg") if row.endswith(", angle") else BOUNDS[row.split(maxsplit=1)[0]]
    errors = np.array([error for _, _, error, _ in results])
    certain = np.array([is_sure for _, is_sure, _, _ in results])
    if row.endswith((", phase", ", so called")):
        right = errors == 0
        print(f"| {row} | exact | {certain.mean():.0%} | {right[certain].mean():.1%} | | | {right.mean():.1%} |")
        return
    known = errors[certain]
    shown = [f"{np.median(known):.1f}{unit}", f"{known.max():.1f}{unit}"] if len(known) else ["", ""]
    print(
        f"| {row} | {bound:g}{unit} | {certain.mean():.0%} | {np.mean(known <= bound):.1%} | {shown[0]} | {shown[1]} |"
        f" {np.mean(errors <= bound):.1%} |"
    )
    for name, is_sure, error, amount in results:
        if is_sure and error > bound:
            print(f"    missed: {name}, {amount:.2f}, off by {error:.1f}{unit}")


BOUNDS = {"noise": (15.0, "%"), "JPEG": (5.0, ""), "enlargement": (10.0, "%"), "blur": (20.0, "%")}
Judge = Callable[[Any], tuple[bool, float, float]]


def trials(pixels: Bytes, draw: np.random.Generator) -> Iterator[tuple[Bytes, dict[str, Judge]]]:
    """What a picture is made into, and who judges the estimates: (sure, error in the row's unit, amount)."""
    halved = resized(pixels, 0.5, Image.Resampling.BOX)
    for low, high in ((2, 5), (5, 15), (15, 50)):
        sigma = float(np.exp(draw.uniform(np.log(low), np.log(high))))
        noisy = rounded(halved + sigma * draw.standard_normal(halved.shape))
        yield noisy, {f"noise {low} to {high}": relative("noise", "sigma", sigma)}
    for low, high in ((30, 60), (61, 85), (86, 95), (96, 98)):
        quality, top, left = (int(value) for value in draw.integers([low, 0, 0], [high + 1, 8, 8]))
        stored = jpeg(pixels, quality, subsampling=int(draw.choice([0, 2])))[top:, left:]
        yield (
            stored,
            {
                f"JPEG {low} to {high}": jpeg_quality(quality),
                f"JPEG {low} to {high}, phase": exact("jpeg", "phase", (-top % 8, -left % 8), quality),
            },
        )
    for name, kind in FILTERS.items():
        factor = draw.uniform(1.2, 4)
        side = round(512 / np.sqrt(factor))  # a part of the picture, so that what it becomes isn't huge
        large = resized(pixels[:side, :side], factor, kind)
        real = large.shape[0] / min(side, pixels.shape[0])
        yield large, {f"enlargement {name}": relative("enlargement", "factor", real)}
    for name, sigma_of_noise in (("", 0.0), (", noise 1 to 2", draw.uniform(1, 2))):
        sigma = draw.uniform(0.8, 3)
        soft = np.stack(
            [gaussian_filter(pixels[..., each].astype(np.float64), sigma, mode="nearest") for each in range(3)], axis=2
        )
        noisy = rounded(soft + sigma_of_noise * draw.standard_normal(soft.shape))
        yield (
            noisy,
            {
                f"blur round{name}": relative("blur", "sigma", sigma),
                f"blur round{name}, so called": exact("blur", "anisotropic", False, sigma),
            },
        )
    narrow, wide, angle = draw.uniform(0.8, 1.5), draw.uniform(2, 3), draw.uniform(0, 180)
    long = rounded(255 * blur(pixels.astype(np.float32) / 255, gaussian_kernel(wide, narrow, angle)))
    yield (
        long,
        {
            "blur anisotropic": relative("blur", "sigma", float(np.sqrt(wide * narrow))),
            "blur anisotropic, wide axis": relative("blur", "wide", wide),
            "blur anisotropic, narrow axis": relative("blur", "narrow", narrow),
            "blur anisotropic, so called": exact("blur", "anisotropic", True, wide / narrow),
            "blur anisotropic, angle": blur_angle(angle),
        },
    )


def relative(part: str, value: str, truth: float) -> Judge:
    def judge(estimates: Any) -> tuple[bool, float, float]:
        estimate = getattr(estimates, part)
        found = getattr(estimate, value)
        return estimate.sure, 100.0 if found is None else 100 * abs(found / truth - 1), truth

    return judge


def jpeg_quality(quality: int) -> Judge:
    def judge(estimates: Any) -> tuple[bool, float, float]:
        found = estimates.jpeg.quality
        return estimates.jpeg.sure, 100.0 if found is None else float(abs(found - quality)), quality

    return judge


def exact(part: str, value: str, truth: object, amount: float) -> Judge:
    def judge(estimates: Any) -> tuple[bool, float, float]:
        estimate = getattr(estimates, part)
        return estimate.sure, float(getattr(estimate, value) != truth), amount

    return judge


def blur_angle(angle: float) -> Judge:
    def judge(estimates: Any) -> tuple[bool, float, float]:
        found = estimates.blur.angle
        return estimates.blur.sure, 180.0 if found is None else abs((found - angle + 90) % 180 - 90), angle

    return judge


def read_pictures(chosen: Sequence[Sequence[str]]) -> Iterator[tuple[str, Bytes]]:
    """The pictures [first, last) of each folder by name, made `reduce` times as large: names, and uint8 RGB."""
    for folder, first, last, reduce in chosen:
        for path in sorted(Path(folder).iterdir())[int(first) : int(last)]:
            pixels = np.concatenate(list(open_picture(path).bands()))
            pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
            if float(reduce) != 1:
                rows, cols = (round(side * float(reduce)) for side in pixels.shape[:2])
                pixels = rounded(resize(pixels.astype(np.float32), (rows, cols), "bicubic"))
            yield path.stem, pixels.astype(np.uint8)


def middle(pixels: Bytes, side: int = 512) -> Bytes:
    top, left = (max(0, have - side) // 2 for have in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def rounded(levels: npt.NDArray[np.floating]) -> Bytes:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def resized(pixels: Bytes, factor: float, kind: Image.Resampling) -> Bytes:
    rows, cols = (round(side * factor) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((cols, rows), kind))


def jpeg(pixels: Bytes, quality: int, subsampling: int) -> Bytes:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(stored))


if __name__ == "__main__":
    main()
