"""Rows of pixels, made one band after the other -> a picture that libvips can read and encode.

libvips pulls; we push. The bridge is an uncompressed BigTIFF that is never
stored: its header is known before the first pixel, and libtiff asks for the
strips in order, so that a picture larger than memory flows through.
Source: TIFF 6.0; BigTIFF, https://www.awaresystems.be/imaging/tiff/bigtiff.html
"""

import struct
from collections.abc import Iterable, Iterator
from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError

__all__ = ["RowStream"]

Array = npt.NDArray[np.generic]

_STRIP_ROWS: Final = 16
_SHORT, _LONG, _LONG8 = (3, "H"), (4, "I"), (16, "Q")


class RowStream:
    """A readable, seekable TIFF over bands of rows that exist only while they are read.

    shape: (rows, cols, channels), channels 1 or 3, plus one for alpha. bands:
    C-contiguous arrays (any rows, cols, channels) of `dtype` (uint8, uint16 or
    float32) that add up to `shape`; `read` raises ShapeError where they don't.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[np.generic], bands: Iterable[Array]) -> None:
        self._shape, self._dtype = shape, dtype
        self._header = _header(shape, dtype)
        self._size = len(self._header) + shape[0] * shape[1] * shape[2] * dtype.itemsize
        self._bands: Iterator[Array] = iter(bands)
        self._band = memoryview(b"")
        self._band_start = len(self._header)
        self._position = 0

    def read(self, count: int) -> bytes:
        """The next `count` bytes or fewer; nothing at the end."""
        if self._position < len(self._header):
            part = self._header[self._position : self._position + count]
        else:
            part = self._pixels(min(count, self._size - self._position))
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int) -> int:
        """Move; pixels that were read are gone, so only the header can be visited again."""
        origin = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def _pixels(self, count: int) -> bytes:
        while count > 0 and self._position >= self._band_start + len(self._band):
            self._band_start += len(self._band)
            band = next(self._bands, None)
            if band is None or band.shape[1:] != self._shape[1:] or band.dtype != self._dtype:
                got = "nothing" if band is None else f"{band.shape} {band.dtype}"
                raise ShapeError(f"want rows of {self._shape[1:]} {self._dtype} up to {self._shape[0]}, got {got}")
            self._band = np.ascontiguousarray(band).reshape(-1).view(np.uint8).data
        start = self._position - self._band_start
        if start < 0:
            raise OSError("the encoder went back to rows that are gone")
        return bytes(self._band[start : start + count])


def _header(shape: tuple[int, int, int], dtype: np.dtype[np.generic]) -> bytes:
    rows, cols, channels = shape
    colour = 3 if channels >= 3 else 1
    strips = -(-rows // _STRIP_ROWS)
    row_bytes = cols * channels * dtype.itemsize
    sizes = [min(_STRIP_ROWS, rows - strip * _STRIP_ROWS) * row_bytes for strip in range(strips)]
    tags = [
        (256, _LONG, [cols]),
        (257, _LONG, [rows]),
        (258, _SHORT, [dtype.itemsize * 8] * channels),
        (259, _SHORT, [1]),  # no compression
        (262, _SHORT, [2 if colour == 3 else 1]),  # RGB, or grey with black at zero
        (273, _LONG8, [0] * strips),  # where the strips begin: filled in once the header's length is known
        (277, _SHORT, [channels]),
        (278, _LONG, [_STRIP_ROWS]),
        (279, _LONG8, sizes),
        *([(338, _SHORT, [2])] if channels > colour else []),  # straight alpha
        (339, _SHORT, [3 if dtype.kind == "f" else 1] * channels),
    ]
    start = len(_directory(tags))
    tags[5] = (273, _LONG8, [start + strip * _STRIP_ROWS * row_bytes for strip in range(strips)])
    return _directory(tags)


def _directory(tags: list[tuple[int, tuple[int, str], list[int]]]) -> bytes:
    """BigTIFF header, its one directory, and the values that don't fit into an entry."""
    after = 16 + 8 + 20 * len(tags) + 8
    entries, values = b"", b""
    for tag, (kind, code), numbers in tags:
        packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(packed) > 8:
            place = struct.pack("<Q", after + len(values))
            values += packed + bytes(-len(packed) % 8)
        else:
            place = packed.ljust(8, b"\0")
        entries += struct.pack("<HHQ", tag, kind, len(numbers)) + place
    return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags)) + entries + bytes(8) + values
