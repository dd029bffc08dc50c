"""Registration beside other packages': the table of docs/register.md.

    python benchmarks/registration.py [FOLDER] [--pairs 200]

128x128 crops of larger pictures, faded out towards their borders and moved in Fourier space by up to 3 px along each
axis, so that content leaves and enters; white noise in both; "aliased" takes every second sample of a picture twice as
large, "aliased, soft" of one that a Gaussian of 0.6 of its pixels has blurred before, as optics do. FOLDER: pictures
of 320x320 or more (aliased: 384x384), scikit-image's own by default; crops whose bound at sigma 10 is over 0.1 px
(sky, walls) are drawn again. Other packages run where they can be imported (opencv-python, pystackreg).
An answer more than half a pixel off is gross and left out of the RMSE, as are refusals. Times are the
processor's, the median of all pairs. Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superfine.classical.register import register
from superfine.color import FULL_LUMA
from superfine.engine import cores, cpu_features
from superfine.errors import SuperfineError

Floats = npt.NDArray[np.float64]
Answer = tuple[float, float]

_SIDE, _REACH, _FADE, _GROSS = 128, 3.0, 16, 0.5
# Noise, every how-manyth sample is taken, and the blur before, in pixels of the larger picture.
_CASES = {
    "noise 0": (0, 1, 0),
    "sigma 2": (2, 1, 0),
    "sigma 10": (10, 1, 0),
    "aliased, soft": (0, 2, 0.6),
    "aliased": (0, 2, 0),
}


@dataclass
class Tally:
    errors: list[Floats] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    bounds: list[Floats] = field(default_factory=list)
    refused: int = 0
    gross: int = 0
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=200)
    given = parser.parse_args()
    planes = list(_planes(given.folder))
    methods = _methods()
    print(f"{cpu_features()['name']}, {cores()} cores, {datetime.now(UTC):%Y-%m-%d}; {given.pairs} pairs a case\n")
    print("| | case | RMSE px | over the bound | median px | refused | gross | stated error covers | ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case, (sigma, step, blur) in _CASES.items():
        tallies = {name: Tally() for name in methods}
        rng = np.random.default_rng(0)
        for _ in range(given.pairs):
            first, second, shift, bound = _pair(planes, sigma, step, blur, rng)
            for name, method in methods.items():
                _try(tallies[name], method, (first, second), shift, bound)
        for name, tally in tallies.items():
            print(f"| {name} | {case} | {_row(tally, sigma)} |", flush=True)


def _planes(folder: Path | None) -> Iterator[Floats]:
    if folder is None:
        from skimage import data

        pictures: Any = (getattr(data, name)() for name in ("astronaut", "camera", "coffee", "rocket"))
    else:
        from superfine.image import open_picture

        pictures = (np.concatenate(list(open_picture(path).bands())) for path in sorted(folder.iterdir()))
    for pixels in pictures:
        plane = pixels.squeeze().astype(np.float64)
        plane = plane[..., :3] @ FULL_LUMA if plane.ndim == 3 else plane
        if min(plane.shape) >= 2 * _SIDE + 4 * _FADE:
            yield plane


def _pair(
    planes: list[Floats], sigma: float, step: int, blur: float, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    side = step * (_SIDE + 4 * _FADE)
    edge = np.sin(np.pi / 2 * np.clip((np.arange(side) + 0.5) / (step * _FADE), 0, 1)) ** 2
    fade = np.multiply.outer(np.minimum(edge, edge[::-1]), np.minimum(edge, edge[::-1]))
    crop = np.s_[2 * _FADE : 2 * _FADE + _SIDE, 2 * _FADE : 2 * _FADE + _SIDE]
    while True:
        plane = planes[rng.integers(len(planes))]
        if min(plane.shape) < side:
            continue
        top, left = (int(rng.integers(length - side + 1)) for length in plane.shape)
        part = plane[top : top + side, left : left + side]
        content = (part - part.mean()) * fade
        shift = rng.uniform(-_REACH, _REACH, 2)
        turns = [2j * np.pi * np.fft.fftfreq(side)[:, None], 2j * np.pi * np.fft.fftfreq(side)[None]]
        spread = (turns[0] ** 2 + turns[1] ** 2).real
        spectrum = np.fft.fft2(content) * np.exp(0.5 * blur**2 * spread)
        content = np.fft.ifft2(spectrum).real
        moved = np.fft.ifft2(spectrum * np.exp(-step * (turns[0] * shift[0] + turns[1] * shift[1]))).real
        gradient = np.stack([np.fft.ifft2(spectrum * turn).real[::step, ::step][crop] * step for turn in turns])
        first, second = (some[::step, ::step][crop] + 128 for some in (content, moved))
        if _bound(first, gradient, 10, shift).max() < 0.1:
            break
    noise = sigma * rng.standard_normal((2, _SIDE, _SIDE))
    return first + noise[0], second + noise[1], shift, _bound(first, gradient, max(sigma, 1e-3), shift)


def _bound(clean: Floats, gradient: Floats, sigma: float, shift: Floats) -> Floats:
    """Cramer and Rao's for unknown content in both pictures' noise, over the overlap."""
    taper = np.sin(np.pi * (np.arange(_SIDE) + 0.5) / _SIDE)
    window = np.multiply.outer(taper, taper) * 2
    content = np.abs(np.fft.fft2((clean - clean.mean()) * window)) ** 2 / clean.size
    slope = np.fft.fft2(gradient * window)
    weight = content / (2 * content * sigma**2 + sigma**4) / clean.size
    information = np.real(np.einsum("iyx,jyx,yx->ij", slope.conj(), slope, weight))
    seen = np.prod(1 - np.abs(shift) / _SIDE)
    limit: Floats = np.sqrt(np.diag(np.linalg.inv(information * seen)))
    return limit


def _try(
    tally: Tally,
    method: Callable[..., tuple[Answer, Answer | None]],
    pair: tuple[Floats, Floats],
    shift: Floats,
    bound: Floats,
) -> None:
    given = [plane.copy() for plane in pair]  # some write into what they are given
    started = time.process_time()
    try:
        answer, stated = method(*given)
    except Exception:  # noqa: BLE001 -- each package has its own
        tally.refused += 1
        return
    tally.seconds.append(time.process_time() - started)
    error = np.abs(np.subtract(answer, shift))
    if not error.max() <= _GROSS:
        tally.gross += 1
        return
    tally.errors.append(error)
    tally.bounds.append(bound)
    if stated is not None:
        tally.covered += (error < np.array(stated)).tolist()


def _row(tally: Tally, sigma: float) -> str:
    if not tally.errors:
        return f"| | | {tally.refused} | {tally.gross} | |"
    rmse = float(np.sqrt(np.mean(np.square(tally.errors))))
    bound = float(np.sqrt(np.mean(np.square(tally.bounds))))
    ratio = f"{rmse / bound:.2f}" if sigma else ""
    covered = f"{100 * np.mean(tally.covered):.0f} %" if tally.covered else ""
    return (
        f"{rmse:.5f} | {ratio} | {np.median(tally.errors):.5f} | {tally.refused} | {tally.gross} | {covered} |"
        f" {1e3 * np.median(tally.seconds):.1f}"
    )


def _methods() -> dict[str, Callable[..., tuple[Answer, Answer | None]]]:
    methods: dict[str, Callable[..., tuple[Answer, Answer | None]]] = {"superfine": _ours}
    try:
        from skimage.registration import phase_cross_correlation

        methods["scikit-image phase_cross_correlation"] = lambda first, second: (
            tuple(-phase_cross_correlation(first, second, upsample_factor=100)[0]),
            None,
        )
    except ImportError:
        pass
    try:
        import cv2

        hann = cv2.createHanningWindow((_SIDE, _SIDE), cv2.CV_64F)
        methods["cv2.phaseCorrelate, Hann"] = lambda first, second: (
            cv2.phaseCorrelate(first, second, hann)[0][::-1],
            None,
        )

        def correlated(first: Floats, second: Floats) -> tuple[Answer, None]:
            matrix = np.eye(2, 3, dtype=np.float32)
            stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-8)
            pair = first.astype(np.float32), second.astype(np.float32)
            _, matrix = cv2.findTransformECC(*pair, matrix, cv2.MOTION_TRANSLATION, stop, None, 5)
            return (float(matrix[1, 2]), float(matrix[0, 2])), None

        methods["cv2.findTransformECC"] = correlated
    except ImportError:
        pass
    try:
        from pystackreg import StackReg

        def stacked(first: Floats, second: Floats) -> tuple[Answer, None]:
            matrix = StackReg(StackReg.TRANSLATION).register(first, second)
            return (float(matrix[1, 2]), float(matrix[0, 2])), None

        methods["pystackreg"] = stacked
    except ImportError:
        pass
    return methods


def _ours(first: Floats, second: Floats) -> tuple[Answer, Answer]:
    found = register(first, second)
    if not np.isfinite(found.shift).all():
        raise SuperfineError("no answer")
    return found.shift, found.error


if __name__ == "__main__":
    main()
