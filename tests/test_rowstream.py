"""The bridge to libvips, read by others: Pillow, tifffile and libvips itself."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from pictures import Array, noise
from superfine.rowstream import RowStream

DTYPES = [np.uint8, np.uint16, np.float32]


def content(pixels: Array, *, cuts: tuple[int, ...] = (), step: int = -1) -> bytes:
    rows, cols, channels = pixels.shape
    stream = RowStream((rows, cols, channels), pixels.dtype, np.split(pixels, cuts))
    parts = []
    while part := stream.read(10**9 if step < 0 else step):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (16, 5), (17, 5), (100, 3)])
def test_tifffile_reads_it(size: tuple[int, int], channels: int, dtype: Any) -> None:
    pixels = noise(*size, channels, dtype)
    with tifffile.TiffFile(io.BytesIO(content(pixels))) as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray().reshape(pixels.shape), pixels)
        assert page.dtype == dtype
        assert page.extrasamples == ((tifffile.EXTRASAMPLE.UNASSALPHA,) if channels in (2, 4) else ())
        assert page.photometric == (tifffile.PHOTOMETRIC.RGB if channels > 2 else tifffile.PHOTOMETRIC.MINISBLACK)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pillow_reads_it(channels: int) -> None:
    pixels = noise(50, 7, channels)
    with Image.open(io.BytesIO(content(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_libvips_reads_it(channels: int, dtype: Any) -> None:
    pixels = noise(50, 7, channels, dtype)
    image = pyvips.Image.new_from_buffer(content(pixels), "")
    np.testing.assert_array_equal(image.numpy().reshape(pixels.shape), pixels)
    assert image.hasalpha() == (channels in (2, 4))


@pytest.mark.parametrize("step", [1, 7, 4096, 10**9])
@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (16, 16, 32), (49,)])
def test_any_bands_and_any_reads(cuts: tuple[int, ...], step: int) -> None:
    pixels = noise(50, 7, 3, np.uint16)
    assert content(pixels, cuts=cuts, step=step) == content(pixels)


def test_the_header_can_be_read_again_and_the_pixels_not() -> None:
    pixels = noise(50, 7, 3)
    stream = RowStream((50, 7, 3), pixels.dtype, np.split(pixels, 5))
    whole = content(pixels)
    assert stream.seek(0, io.SEEK_END) == len(whole)
    assert stream.seek(0, io.SEEK_SET) == 0
    assert stream.read(100) == whole[:100]
    assert stream.seek(-60, io.SEEK_CUR) == 40
    assert stream.read(60) == whole[40:100]
    start = len(whole) - pixels.size
    stream.seek(start + 700, io.SEEK_SET)
    assert stream.read(30) == whole[start + 700 : start + 730]
    stream.seek(start, io.SEEK_SET)
    with pytest.raises(OSError, match="rows that are gone"):
        stream.read(10)


def test_offsets_beyond_4_gb() -> None:
    """100,000 x 60,000 in 16 bits are 36 GB: the header says so, and no pixel is made."""
    shape = (60_000, 100_000, 3)
    stream = RowStream(shape, np.dtype(np.uint16), iter(()))
    total = stream.seek(0, io.SEEK_END)
    stream.seek(0, io.SEEK_SET)
    size = int(np.prod(shape)) * 2
    header = stream.read(total - size)
    assert len(header) == total - size < 200_000

    class Sparse(io.BytesIO):
        """The header, then nothing for 36 GB."""

        def seek(self, offset: int, whence: int = 0) -> int:
            return super().seek(offset, whence) if whence != io.SEEK_END else super().seek(total)

    with tifffile.TiffFile(Sparse(header)) as file:
        page = file.pages[0]
        assert page.shape == shape
        assert page.dataoffsets[0] == len(header)
        assert page.dataoffsets[-1] + page.databytecounts[-1] == total > 2**35
        assert sum(page.databytecounts) == size
        assert struct.pack("<Q", page.dataoffsets[-1]) in header
