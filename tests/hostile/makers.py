"""Files that lie, stop short, or mean harm."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from pictures import chunk, noise, png

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def photo(rows: int = 60, cols: int = 80) -> Image.Image:
    row, col = np.mgrid[0:rows, 0:cols]
    planes = np.stack([col * 255 / cols, row * 255 / rows, (row + col) * 120 / (rows + cols)], -1)
    return Image.fromarray((planes * 0.9 + noise(rows, cols, 3, levels=24)).astype(np.uint8))


def encoded(kind: str, **options: Any) -> bytes:
    """A sound picture of a format, as Pillow makes it."""
    file = io.BytesIO()
    if kind == "tiff" and not options:  # directory first, as tifffile makes it
        tifffile.imwrite(file, np.asarray(photo()), photometric="rgb", compression="zlib", rowsperstrip=8)
    else:
        photo().save(file, kind.upper(), **options)
    return file.getvalue()


def header(cols: int, rows: int, *, bits: int = 8, colour: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", cols, rows, bits, colour, 0, 0, 0))


def png_bomb(side: int) -> bytes:
    """A sound picture of side x side in one bit: one line, deflated over and over."""
    packer = zlib.compressobj(9)
    line = bytes(1 + -(-side // 8))
    data = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    return SIGNATURE + header(side, side, bits=1) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff_bomb(side: int) -> bytes:
    """A sound picture of side x side in one bit: a hundred rows, deflated, are all of its strips."""
    strips, packed = side // 100, zlib.compress(bytes(100 * -(-side // 8)), 9)
    place = 8 + 2 + 10 * 12 + 4
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 1), (259, 3, 1, 8), (262, 3, 1, 1)]
    tags += [(273, 4, strips, place), (277, 3, 1, 1), (278, 4, 1, 100), (279, 4, strips, place + 4 * strips)]
    tags += [(339, 3, 1, 1)]
    start = struct.pack("<I", place + 8 * strips)
    return tiff(tags, start * strips + struct.pack("<I", len(packed)) * strips + packed)


def png_text_bomb(megabytes: int) -> bytes:
    """A tiny picture with text that unpacks to many megabytes, of which one is packed and repeated."""
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    adler = struct.pack(">HH", megabytes * 1_000_000 % 65521, 1)  # that of zeros
    packed = b"\x78\xda" + megabytes * packed + b"\3\0" + adler
    return png(noise(5, 7, 3), extra=chunk(b"zTXt", b"Comment\0\0" + packed))


def png_lying(cols: int, rows: int) -> bytes:
    """A header for another size than the pixels have, which are 20 x 20."""
    lines = b"".join(b"\0" + line.tobytes() for line in noise(20, 20, 1))
    return SIGNATURE + header(cols, rows) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png_with_wrong_byte(*, mend: bool) -> bytes:
    """One byte of a stored pixel differs; `mend`: the checksum of the chunk is right, that of the pixels isn't."""
    lines = b"".join(b"\0" + line.tobytes() for line in noise(20, 20, 1))
    packed = bytearray(zlib.compress(lines, 0))
    sound = chunk(b"IDAT", bytes(packed))
    packed[100] ^= 0xFF
    wrong = chunk(b"IDAT", bytes(packed))
    return SIGNATURE + header(20, 20) + (wrong if mend else wrong[:-4] + sound[-4:]) + chunk(b"IEND", b"")


def tiff(tags: list[tuple[int, int, int, int]], after: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of these (tag, kind, count, value) and nothing else."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + after


def grey_tiff(cols: int, rows: int, *, offset: int = 8, length: int = 64, following: int = 0, bits: int = 8) -> bytes:
    tags = [(256, 4, 1, cols), (257, 4, 1, rows), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, offset), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, 1, length)]
    return tiff(tags, bytes(64), following)


def with_garbage(data: bytes, place: float, *, count: int = 40, seed: int = 0) -> bytes:
    """Random bytes in place of some, at a share of the file."""
    at = int(len(data) * place)
    return data[:at] + np.random.default_rng(seed).bytes(count) + data[at + count :]


STRANGERS = {
    "text": b"This is not a picture.\n" * 40,
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><g/></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 0>>endobj\n%%EOF",
    "ps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "matlab": b"MATLAB 5.0 MAT-file".ljust(124, b" ") + b"\x00\x01IM" + bytes(64),
    "openexr": b"\x76\x2f\x31\x01\x02\0\0\0channels\0chlist\0" + bytes(64),
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "bmp": b"BM"
    + struct.pack("<IHHI", 70, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, 16, 0, 0, 0, 0)
    + bytes(16),
    "vips": b"\xb6\xa6\xf2\x08" + bytes(60),
    "csv": b"1,2,3\n4,5,6\n",
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    "jxl": b"\xff\x0a" + bytes(60),
    "psd": b"8BPS\0\x01" + bytes(60),
    "zip": b"PK\x03\x04" + bytes(60),
    "elf": b"\x7fELF" + bytes(60),
}
