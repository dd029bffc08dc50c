"""Blur kernels as files: .npy, text with numbers, or a grey picture.

Rows from top to bottom, weights as `classical.kernels` convolves them, in pixels of the enlarged picture. With n
taps on an axis, counted from 0, tap n//2 + (s-1)//2 - (s-1)/2 lies on the small pixel's middle: the middle tap
where n is odd and s is 3, the seam of the two middle taps where n is even and s is 2 or 4, else half a tap before or
behind.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.classical.kernels import LARGEST, check_kernel, middle
from superfine.color import to_unit
from superfine.errors import OutputError, SourceError, SuperfineError, UsageError
from superfine.image import open_picture

__all__ = ["KernelShape", "check_kernel_name", "kernel_shape", "read_kernel", "write_kernel"]

Floats = npt.NDArray[np.floating]

#: Endings of files with numbers, and of the pictures that kernels are read from.
NUMBERS: Final = (".npy", ".txt", ".csv")
PICTURES: Final = (".png", ".tif", ".tiff")
# Ten times what the largest kernel takes as text.
_LARGEST_FILE: Final = 1_000_000
# A picture of a kernel has about so many pixels a side.
_SHOWN: Final = 512


class KernelShape(NamedTuple):
    """What a kernel's positive weights look like, in large pixels."""

    wide: float
    """Standard deviation along the axis on which it is widest."""
    narrow: float
    """Across it."""
    angle: float
    """Of the first axis, 0 to 180 degrees from the x axis, counter-clockwise as seen."""
    shift: tuple[float, float]
    """(dy, dx) of its mean from the point where the centre rule has it."""


def kernel_shape(kernel: Floats, scale: int) -> KernelShape:
    """Moments of (n, m) weights; negative ones, as resamplers have, are left out."""
    weight = np.maximum(kernel, 0)
    weight = weight / weight.sum()
    down, right = np.mgrid[: kernel.shape[0], : kernel.shape[1]].astype(np.float64)
    row, col = float((weight * down).sum()), float((weight * right).sum())
    places = np.stack([(right - col).ravel(), (row - down).ravel()])
    powers, axes = np.linalg.eigh((places * weight.ravel()) @ places.T)
    narrow, wide = np.sqrt(np.maximum(powers, 0))
    angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))) % 180
    return KernelShape(
        float(wide),
        float(narrow),
        angle,
        (row - middle(kernel.shape[0], scale), col - middle(kernel.shape[1], scale)),
    )


def read_kernel(path: Path) -> tuple[Floats, str]:
    """The kernel (n, m) in float64 that a file holds, which adds up to one, and what a person should know of it.

    .npy: weights, (n, m). .txt, .csv: rows as lines or ended by `;`, weights parted by spaces or commas, also in the
    brackets of MATLAB; what follows % or # in a line is a comment. .png, .tif: a grey picture, whose levels are divided
    by their sum; one in which every weight is a square of equal pixels, as `write_kernel` makes it, is reduced to its
    weights. Raises SourceError where the file can't be read, UsageError where it holds no fit kernel.
    """
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return _of_picture(path)
    if suffix == ".mat":
        raise UsageError(f"{path}: MATLAB's own files aren't read; there write it with writematrix(k, 'kernel.txt')")
    if suffix not in NUMBERS:
        known = " ".join((*NUMBERS, *PICTURES))
        raise UsageError(f"{path}: a kernel is read from {known}, or is called `auto` or `bicubic`")
    numbers = _of_npy(path) if suffix == ".npy" else _of_text(path)
    return check_kernel(numbers, str(path)), ""


def check_kernel_name(path: Path) -> None:
    """Raises UsageError where no kernel is written to a file of this name."""
    if path.suffix.lower() not in (".png", *NUMBERS):
        raise UsageError(f"{path}: a kernel is written as .png, .npy, .txt or .csv; give it such a name")


def write_kernel(path: Path, kernel: Floats) -> str:
    """Write (n, m) weights as numbers that `read_kernel` gives back to the bit, or as a picture; says what it wrote.

    The picture is a 16-bit grey PNG: each weight a square of equal pixels, white the largest, black zero and below.
    Raises UsageError for a name with another ending, OutputError where it can't be written.
    """
    check_kernel_name(path)
    rows, cols = kernel.shape
    try:
        with written_whole(path) as part:
            match path.suffix.lower():
                case ".npy":
                    with part.open("wb") as file:
                        np.save(file, kernel.astype(np.float64), allow_pickle=False)
                    return f"{rows} x {cols} weights"
                case ".png":
                    times = max(1, _SHOWN // max(kernel.shape))
                    part.write_bytes(_png(kernel, times))
                    lost = "; weights below zero are black, so .npy or .txt is what --kernel wants" * bool(
                        kernel.min() < 0
                    )
                    return f"{rows} x {cols} weights, each {times} x {times} pixels, white {kernel.max():.4g}{lost}"
                case suffix:
                    between = "," if suffix == ".csv" else " "
                    lines = (between.join(repr(float(weight)) for weight in line) for line in kernel)
                    part.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
                    return f"{rows} x {cols} weights"
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error


# ---- numbers


def _of_npy(path: Path) -> Floats:
    _check_size(path)
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise SourceError(f"{path}: isn't a .npy file; write it with numpy.save")
        # Mapped, a file that promises more than it holds is refused instead of believed.
        given = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"{path}: holds no array of numbers, or is cut off; write it with numpy.save") from error
    if given.dtype.kind not in "fiub":
        raise SourceError(f"{path}: holds no array of real numbers; write one with numpy.save")
    return np.array(given, np.float64)


def _of_text(path: Path) -> Floats:
    _check_size(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: isn't text; want lines of numbers") from error
    plain = re.sub(r"[%#].*", "", text)
    plain = re.sub(r"\.\.\.\s*\n", " ", plain)
    plain = re.sub(r"^\s*\w+\s*=", "", plain).strip().rstrip(";").strip().removeprefix("[").removesuffix("]")
    rows = [re.split(r"\s*,\s*|\s+", line.strip().rstrip(",").strip()) for line in re.split(r"[;\n]", plain)]
    rows = [row for row in rows if row != [""]]
    if not rows:
        raise SourceError(f"{path}: holds no numbers; want lines of weights")
    if len(lengths := {len(row) for row in rows}) > 1:
        raise SourceError(f"{path}: has rows of {min(lengths)} and of {max(lengths)} numbers; make all equally long")
    try:
        return np.array([[_number(word) for word in row] for row in rows])
    except ValueError as error:
        raise SourceError(f"{path}: {error}; want numbers parted by spaces or commas") from error


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word[:40]!r} is no number") from None


def _check_size(path: Path) -> None:
    try:
        if path.is_dir():
            raise SourceError(f"{path}: is a folder where a kernel was expected")
        if path.exists() and not path.is_file():
            raise SourceError(f"{path}: is not a regular file; copy its content into one")
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise SourceError(f"{path}: has {size} bytes, and no kernel up to {LARGEST} x {LARGEST} needs so many")
    except FileNotFoundError as error:
        raise SourceError(f"{path}: there is no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error


# ---- pictures


def _of_picture(path: Path) -> tuple[Floats, str]:
    try:
        picture = open_picture(path, max_megapixels=4, upright=True)
        pixels = to_unit(np.concatenate(list(picture.bands()))).astype(np.float64)
    except SuperfineError as error:
        raise SourceError(f"as a kernel, {error}") from error
    if picture.alpha or (pixels != pixels[..., :1]).any():
        raise UsageError(f"{path}: a kernel's picture is grey without alpha; save it so")
    plane = pixels[..., 0]
    if not plane.sum() > 0:
        raise UsageError(f"{path}: is black everywhere, so it holds no weights")
    times = _times(plane)
    plane = plane[::times, ::times]
    weights = check_kernel(plane / plane.sum(), str(path))
    squares = f", squares of {times} x {times} pixels taken for one weight each" if times > 1 else ""
    return weights, f"{path}: levels divided by their sum are the weights{squares}"


def _times(plane: Floats) -> int:
    """The side of the squares that a picture too large for a kernel is made of, 1 where there are none."""
    if max(plane.shape) <= LARGEST:
        return 1
    for times in range(max(plane.shape) // 2, 1, -1):
        if plane.shape[0] % times or plane.shape[1] % times:
            continue
        if np.array_equal(plane[::times, ::times].repeat(times, axis=0).repeat(times, axis=1), plane):
            return times
    return 1


def _png(kernel: Floats, times: int) -> bytes:
    """A 16-bit grey PNG. Source: PNG (Third Edition), 5 and 11.2.1."""
    levels = np.rint(np.clip(kernel / max(kernel.max(), 1e-30), 0, 1) * 65535).astype(">u2")
    large = levels.repeat(times, axis=0).repeat(times, axis=1)
    lines = b"".join(b"\0" + line.tobytes() for line in large)
    header = struct.pack(">IIBBBBB", large.shape[1], large.shape[0], 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
