"""JPEG's tables and traces, against Pillow, which writes the files and knows their tables."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from superfine.classical.jpeg import find_jpeg, jpeg_tables, standard_table
from superfine.errors import SourceError

PHOTO = np.asarray(data.astronaut())[:, :400]


def stored(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


def luma(pixels: Any) -> Any:
    """What `find_jpeg` takes: NaN where a channel is clipped."""
    grey = (pixels.astype(np.float32) @ [0.299, 0.587, 0.114]).astype(np.float32)
    grey[((pixels == 0) | (pixels == 255)).any(axis=2)] = np.nan
    return grey


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 51, 75, 92, 100])
def test_tables_are_pillows(tmp_path: Path, quality: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(stored(PHOTO[:16, :16], quality=quality))
    with Image.open(path) as image:
        assert standard_table(quality).ravel().tolist() == list(image.quantization[0])
    found = jpeg_tables(path)
    assert (found.quality, found.standard, found.difference) == (quality, True, 0)


def test_other_tables_get_the_nearest_quality(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    table = standard_table(80).ravel()
    table[5] += 3
    path.write_bytes(stored(PHOTO[:16, :16], qtables=[table.tolist(), table.tolist()]))
    found = jpeg_tables(path)
    assert found.quality == 80
    assert not found.standard
    assert found.difference == pytest.approx(3 / standard_table(80).ravel()[5] / 64)


def test_wide_tables_and_filling_bytes_are_read(tmp_path: Path) -> None:
    content = stored(PHOTO[:16, :16], quality=70)
    at = content.index(b"\xff\xdb")
    length = int.from_bytes(content[at + 2 : at + 4])
    steps = content[at + 5 : at + 69]
    wide = b"\xff\xff\xdb" + (2 + 129).to_bytes(2) + b"\x10" + b"".join(bytes([0, step]) for step in steps)
    path = tmp_path / "a.jpg"
    path.write_bytes(content[:at] + wide + content[at + 2 + length :])
    assert jpeg_tables(path).quality == 70


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xdb\x00\x05\x00\x01\x02", b"\xff\xd8\xff\xdb\0\0" * 9, b"\xff\xd8"]
)
def test_without_a_table_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.jpg: a JPEG without a quantisation table"):
        jpeg_tables(path)


@pytest.mark.parametrize(
    ("quality", "subsampling", "cut"),
    [(30, 2, (0, 0)), (50, 0, (3, 5)), (75, 2, (1, 7)), (85, 0, (7, 2)), (92, 2, (4, 4)), (97, 0, (0, 6))],
)
def test_decoded_pixels_show_quality_and_phase(quality: int, subsampling: int, cut: tuple[int, int]) -> None:
    pixels = decoded(stored(PHOTO, quality=quality, subsampling=subsampling))[cut[0] :, cut[1] :]
    found = find_jpeg([luma(pixels)])
    assert found is not None
    assert abs(found.quality - quality) <= 1
    assert found.phase == (-cut[0] % 8, -cut[1] % 8)
    assert found.standard
    assert found.evidence > 500


def test_windows_of_one_picture_are_one_answer() -> None:
    grey = luma(decoded(stored(PHOTO, quality=60)))
    found = find_jpeg([grey[:128, 64:192], grey[256:384, 200:328]])
    assert found is not None
    assert (found.quality, found.phase) == (60, (0, 0))


def test_a_table_of_its_own_is_said_to_be_none_of_the_standards() -> None:
    table = np.full(64, 12).tolist()
    found = find_jpeg([luma(decoded(stored(PHOTO, qtables=[table, table])))])
    assert found is not None
    assert not found.standard
    assert found.phase == (0, 0)


def test_no_trace_where_there_was_no_jpeg() -> None:
    never = np.asarray(Image.fromarray(PHOTO).resize((300, 380), Image.Resampling.LANCZOS))
    found = find_jpeg([luma(never)])
    assert found is None or found.evidence < 25


@pytest.mark.parametrize("shape", [(1, 1), (15, 400), (16, 16), (64, 64)])
def test_little_or_nothing_to_see(shape: tuple[int, int]) -> None:
    for plane in (np.full(shape, 77, np.float32), np.full(shape, np.nan, np.float32)):
        found = find_jpeg([plane])
        assert found is None or found.evidence < 25
    assert find_jpeg([]) is None
