"""Picture files whose pixels are known, and readers that are not libvips."""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageOps

import superfine

Array = npt.NDArray[Any]

PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def noise(rows: int, cols: int, channels: int, dtype: Any = np.uint8, *, levels: int | None = None) -> Array:
    """Whole levels from 0 to `levels` - 1, or floats in 0..1; always the same."""
    rng = np.random.default_rng(rows * 1000 + cols)
    if np.dtype(dtype).kind == "f":
        return rng.random((rows, cols, channels)).astype(dtype)
    return rng.integers(0, levels or np.iinfo(dtype).max + 1, (rows, cols, channels)).astype(dtype)


def ramps(rows: int = 24, cols: int = 40, channels: int = 3) -> Array:
    """Smooth colours, which lossy formats keep nearly; no two corners are alike."""
    row, col = np.mgrid[0:rows, 0:cols]
    planes = [col * 255 / cols, row * 255 / rows, (row + col) * 128 / (rows + cols), 40 + row * 200 / rows]
    chosen = planes[:channels] if channels != 2 else [planes[0], planes[3]]
    return np.stack(chosen, -1).astype(np.uint8)


def doubled(pixels: Array) -> Array:
    """What `nearest` makes of a picture at x2."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def bicubic_by_formula(large: Array, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(H, W, ...) -> (*size, ...), not larger: Keys' kernel (a = -0.5) stretched by the ratio, borders replicated.

    Source: Keys 1981, doi:10.1109/TASSP.1981.1163711, with MATLAB's centres and antialiasing.
    """
    made = large.astype(np.float64)
    for axis, count in enumerate(size):
        side = made.shape[axis]
        ratio = side / count
        reach = np.arange(-2 * side, 3 * side)
        away = np.abs((reach - ((np.arange(count)[:, None] + 0.5) * ratio - 0.5)) / ratio)
        near = ((1.5 * away - 2.5) * away) * away + 1
        far = ((-0.5 * away + 2.5) * away - 4) * away + 2
        weights = np.where(away <= 1, near, np.where(away < 2, far, 0))
        weights /= weights.sum(axis=1, keepdims=True)
        replicated = np.take(made, np.clip(reach, 0, side - 1), axis)
        made = np.moveaxis(np.tensordot(weights, replicated, (1, axis)), 0, axis)
    return made


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: Array, *, bits: int = 8, colour: int | None = None, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """pixels: (rows, cols, channels) whole levels of `bits`; `extra`: chunks before the pixels."""
    rows, cols, channels = pixels.shape
    colour = PNG_COLOUR[channels] if colour is None else colour
    header = struct.pack(">IIBBBBB", cols, rows, bits, colour, 0, 0, interlaced)
    passes = [pixels[r::dr, c::dc] for r, c, dr, dc in _ADAM7] if interlaced else [pixels]
    lines = b"".join(b"\0" + _packed(line, bits) for part in passes if part.size for line in part)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def _packed(line: Array, bits: int) -> bytes:
    if bits >= 8:
        return line.astype(f">u{bits // 8}").tobytes()
    each = (line.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.astype(np.uint8)).tobytes()


def read_png(path: Path) -> tuple[Array, dict[bytes, list[bytes]]]:
    """Samples (rows, cols, channels) of a PNG of 8 or 16 bits without palette, and its chunks. Source: PNG, 9.2."""
    chunks = png_chunks(path.read_bytes())
    cols, rows, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"][0])
    assert bits >= 8
    assert interlace == 0
    channels = {value: key for key, value in PNG_COLOUR.items()}[colour]
    step = channels * bits // 8
    data = np.frombuffer(zlib.decompress(b"".join(chunks[b"IDAT"])), np.uint8).reshape(rows, 1 + cols * step)
    above = np.zeros(cols * step + step, np.int64)
    out = []
    for kind, *line in data.tolist():
        here = np.zeros_like(above)
        for at, value in enumerate(line):
            a, b, c = int(here[at]), int(above[at + step]), int(above[at])
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            here[at + step] = (value + (0, a, b, (a + b) // 2, paeth)[kind]) & 255
        above = here
        out.append(here[step:].astype(np.uint8))
    return np.stack(out).view(f">u{bits // 8}").astype(f"u{bits // 8}").reshape(rows, cols, channels), chunks


def png_chunks(data: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        found.setdefault(kind, []).append(body)
        at += 12 + length
    return found


def seen(path: Path, mode: str | None = None) -> Array:
    """The picture as a viewer shows it: Pillow's decoders, turned as the orientation tag says."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(upright if mode is None else upright.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def seen_tiff(path: Path) -> Array:
    pixels = np.asarray(tifffile.imread(path))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def enlarged(source: Path, output: Path | None = None, *, model: str = "nearest", **options: Any) -> Path:
    """The output of a run that must be done."""
    result = run(source, output, model=model, **options)
    assert result.status == "done", result.message
    assert result.output is not None
    return result.output


def run(source: Path, output: Path | None = None, *, model: str = "nearest", **options: Any) -> superfine.Result:
    (result,) = superfine.upscale_path(source, output, job=superfine.Job(model=model, **options)).results
    return result


def left_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.rglob("*")}


def with_bytes(path: Path, data: bytes | Iterable[bytes]) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else b"".join(data))
    return path
