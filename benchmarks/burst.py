"""Bursts beside the enlargement of one of their frames: the table of docs/burst.md.

    python benchmarks/burst.py [FOLDER] [--pictures 5] [--side 256] [--sigma 2] [--scale 2]

Each burst is made of the middle of a picture: turned by up to half a degree, moved by up to two pixels of the small
frame along each axis (spline of fifth degree), averaged over --scale x --scale (the pixel's box), white noise added,
rounded to 8 bits. FOLDER: pictures of --side, a multiple of --scale, or more, scikit-image's own by default. PSNR in
dB of BT.601 luma against the picture that the bursts are made of, 8 pixels of the border left out. Poses are measured,
not told. Prints Markdown.
"""

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from superfine.burst import fuse_frames
from superfine.color import limited_luma
from superfine.engine import cores, cpu_features
from superfine.upscale import upscale

Bytes = npt.NDArray[np.uint8]
_REACH, _DEGREES, _BORDER = 2.0, 0.5, 8
_COUNTS = (4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pictures", type=int, default=5)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--sigma", type=float, default=2.0)
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), default=2)
    given = parser.parse_args()
    scale: int = given.scale
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    print(f"{cpu_features()['name']}, {cores()} cores, {date}; x{scale}, noise sigma {given.sigma:g} of 255\n")
    print("| picture | bicubic | best | " + " | ".join(f"burst of {count}" for count in _COUNTS) + " | s |")
    print("|---" * (len(_COUNTS) + 4) + "|")
    table = []
    for number, (name, large) in enumerate(_pictures(given.folder, given.pictures, given.side)):
        frames = simulated(large, max(_COUNTS), given.sigma, np.random.default_rng(number), scale)
        row = [_psnr(upscale(frames[0], scale, model=model), large) for model in ("bicubic", "best")]
        for count in _COUNTS:
            started = time.perf_counter()
            row.append(_psnr(fuse_frames(frames[:count], scale, model="best").pixels, large))
        table.append(row)
        print(f"| {name} | {_cells(row)} | {time.perf_counter() - started:.1f} |", flush=True)
    print(f"| mean | {_cells(list(np.mean(table, axis=0)))} | |")


def simulated(large: Bytes, count: int, sigma: float, rng: np.random.Generator, scale: int = 2) -> list[Bytes]:
    """Frames of 1 / scale the size, the first where the picture is."""
    rows, cols = large.shape[0] // scale, large.shape[1] // scale
    middle = (np.array([rows, cols]) - 1) / 2
    frames = []
    for place in range(count):
        turned = large.astype(np.float64)
        if place:
            angle, move = np.radians(rng.uniform(-_DEGREES, _DEGREES)), rng.uniform(-_REACH, _REACH, 2)
            back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            # From a place in the fine frame to the small one, back to the reference, and to the fine one again.
            origin = back @ (np.full(2, 0.5 / scale - 0.5) - middle - move) + middle
            offset = scale * (origin + 0.5) - 0.5
            for channel in range(turned.shape[2]):
                turned[..., channel] = ndimage.affine_transform(
                    turned[..., channel], back, offset, order=5, mode="mirror"
                )
        small = turned.reshape(rows, scale, cols, scale, -1).mean(axis=(1, 3))
        small += sigma * rng.standard_normal(small.shape)
        frames.append(np.clip(np.rint(small), 0, 255).astype(np.uint8))
    return frames


def _pictures(folder: Path | None, count: int, side: int) -> Iterator[tuple[str, Bytes]]:
    if folder is None:
        from skimage import data

        pictures: Any = (
            (name, getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket", "camera")
        )
    else:
        from superfine.image import open_picture

        pictures = ((path.stem, np.concatenate(list(open_picture(path).bands()))) for path in sorted(folder.iterdir()))
    for name, pixels in list(pictures)[:count]:
        solid = pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]
        top, left = ((length - side) // 2 for length in solid.shape[:2])
        yield name, solid[top : top + side, left : left + side]


def _psnr(made: Any, large: Bytes) -> float:
    planes = []
    for pixels in (made, large):
        unit = pixels[_BORDER:-_BORDER, _BORDER:-_BORDER].astype(np.float64) / 255
        planes.append(limited_luma(unit) if unit.shape[2] == 3 else unit[..., 0])
    return float(-10 * np.log10(np.mean((planes[0] - planes[1]) ** 2)))


def _cells(row: list[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in row)


if __name__ == "__main__":
    main()
