"""What libvips doesn't hand on of a PNG: that it is animated; and its text byte for byte, as not all of it is UTF-8.

Source: PNG (Third Edition), 5.3, 11.3.3 and 11.3.6.1; XMP Specification Part 3, 1.1.5.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

__all__ = [
    "XMP_KEYWORD",
    "animation_control",
    "append_chunks",
    "patch_text",
    "text_chunk",
    "text_chunks",
    "xmp_chunk",
    "xmp_in",
]

XMP_KEYWORD: Final = b"XML:com.adobe.xmp"
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_TEXT: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_LARGEST: Final = 16_000_000
_END: Final = 12  # bytes of the closing IEND chunk


def text_chunks(path: Path) -> Iterator[bytes]:
    """Whole text chunks of a PNG, in order; those larger than 16 MB are left out."""
    for head, length, file in _chunks(path):
        if head[4:] in _TEXT and length <= _LARGEST:
            chunk = head + file.read(length + 4)
            if len(chunk) == length + 12:
                yield chunk


def animation_control(path: Path) -> tuple[int, int]:
    """How many pictures an animated PNG has, and how often they are played (0: without end); (0, 0) of all others."""
    for head, _, file in _chunks(path):
        if head[4:] == b"acTL":
            pictures, plays = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
            return pictures, plays
        if head[4:] == b"IDAT":
            break
    return 0, 0


def _chunks(path: Path) -> Iterator[tuple[bytes, int, BinaryIO]]:
    """The first 8 bytes of each chunk of a PNG, the length that they say, and the file, which stands behind them."""
    with path.open("rb") as file:
        if file.read(8) != _SIGNATURE:
            return
        while len(head := file.read(8)) == 8:
            begin, length = file.tell(), int.from_bytes(head[:4])
            yield head, length, file
            file.seek(begin + length + 4)


def xmp_chunk(xmp: bytes) -> bytes:
    """XMP as a PNG carries it: international text, uncompressed."""
    return _chunk(b"iTXt" + XMP_KEYWORD + bytes(5) + xmp)


def text_chunk(keyword: str, text: str) -> bytes:
    """A tEXt chunk of ASCII. Source: PNG (Third Edition), 11.3.3.2."""
    return _chunk(b"tEXt" + keyword.encode("ascii") + b"\0" + text.encode("ascii", "replace"))


def _chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def xmp_in(chunk: bytes) -> bytes | None:
    """The XMP of a whole text chunk; None of others, broken ones and those larger than 16 MB."""
    body = chunk[4:-4]
    start = b"iTXt" + XMP_KEYWORD + b"\0"
    if not body.startswith(start):
        return None
    # Whether it's compressed, and how; then the language and the keyword in it, and the text.
    compressed, parts = body[len(start) : len(start) + 1] == b"\1", body[len(start) + 2 :].split(b"\0", 2)
    if len(parts) < 3:
        return None
    if not compressed:
        return parts[2]
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(parts[2], _LARGEST)
    except zlib.error:
        return None
    return text if reader.eof else None


def patch_text(path: Path, old: bytes, new: bytes) -> bool:
    """Write `new` over `old`, of the same length, which stands in one chunk of international text of a PNG.

    Returns whether it was found there; other files stay as they are.
    """
    with path.open("r+b") as file:
        if file.read(8) != _SIGNATURE:
            return False
        while len(head := file.read(8)) == 8:
            (length,) = struct.unpack(">I", head[:4])
            if head[4:] != b"iTXt" or length > _LARGEST:
                file.seek(length + 4, 1)
                continue
            start = file.tell()
            text = file.read(length)
            if old in text:
                text = text.replace(old, new)
                file.seek(start)
                file.write(text + struct.pack(">I", zlib.crc32(b"iTXt" + text)))
                return True
            file.seek(4, 1)
    return False


def append_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Put chunks before the end of a PNG, where text may stand as well as before the pixels."""
    with path.open("r+b") as file:
        file.seek(-_END, 2)
        end = file.read(_END)
        file.seek(-_END, 2)
        for chunk in chunks:
            file.write(chunk)
        file.write(end)
