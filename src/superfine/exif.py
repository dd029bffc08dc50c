"""EXIF and TIFF tags, which are one format: read, repacked, added to a TIFF.

libvips carries EXIF through JPEG, PNG, WebP and AVIF; what it leaves undone is
done here: TIFF, both ways, and HEIC. Foreign numbers are checked before they
are believed; a tag that leads out of the file is left out.
Source: TIFF 6.0; BigTIFF; Exif 2.32 (CIPA DC-008).
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Block", "Tag", "add_to_tiff", "exif_block", "pack_exif", "tiff_block", "with_size"]

_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 34665, 34853, 40965
_POINTERS: Final = frozenset({_EXIF_IFD, _GPS_IFD, _INTEROP_IFD})
_ORIENTATION, _PIXEL_COLS, _PIXEL_ROWS = 274, 0xA002, 0xA003
#: What the main directory says about the picture, and not about how its pixels are stored.
_DESCRIPTIVE: Final = frozenset(
    {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *_POINTERS, *range(40091, 40096)}
)
_MAGIC: Final = b"Exif\0\0"
_LARGEST: Final = 16_000_000
_FARTHEST: Final = 2**62
_MOST_TAGS: Final = 4096
# All reads of one block together, since tags may all lead to the same bytes.
_MOST_BYTES: Final = 64_000_000
# Kind -> bytes of a value, and of the numbers it consists of (rationals are two).
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WORDS: Final = {**_SIZES, 5: 4, 10: 4}
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


class Tag(NamedTuple):
    """A value as it is stored, little-endian."""

    kind: int
    data: bytes

    @property
    def numbers(self) -> tuple[int, ...]:
        """The value, where it is of whole numbers; else nothing."""
        code = _INTEGERS.get(self.kind)
        return struct.unpack(f"<{len(self.data) // _SIZES[self.kind]}{code}", self.data) if code else ()


Block = dict[int, "Tag | Block"]
_Read = Callable[[int, int], bytes]


def tiff_block(path: Path) -> Block:
    """The first directory of a TIFF file, 64 MB of it at most, no tag over 16 MB; empty where there is none."""
    with path.open("rb") as file:

        def read(place: int, count: int) -> bytes:
            if place > _FARTHEST:
                return b""
            file.seek(place)
            return file.read(count)

        return _first(read)


def exif_block(exif: bytes) -> Block:
    """EXIF as files carry it -> its directories; empty where it is broken."""
    data = exif.removeprefix(_MAGIC)
    return _first(lambda place, count: data[place : place + count])


def pack_exif(block: Block) -> bytes:
    """The descriptive part of directories -> EXIF as files carry it; nothing of nothing."""
    kept = {tag: value for tag, value in block.items() if tag in _DESCRIPTIVE or tag == _ORIENTATION}
    return _MAGIC + b"II*\0\x08\0\0\0" + _pack(kept, 8, big=False) if kept else b""


def with_size(block: Block, size: tuple[int, int], orientation: int | None = None) -> Block:
    """The same directories for a picture of `size` (rows, cols); orientation: the new one, where there is one."""
    block = dict(block)
    if orientation is not None and _ORIENTATION in block:
        block[_ORIENTATION] = _short(orientation)
    exif = block.get(_EXIF_IFD)
    if isinstance(exif, dict):
        new = {_PIXEL_COLS: size[1], _PIXEL_ROWS: size[0]}
        block[_EXIF_IFD] = exif | {tag: Tag(4, struct.pack("<I", value)) for tag, value in new.items() if tag in exif}
    return block


def add_to_tiff(path: Path, block: Block) -> None:
    """Add what `block` describes to a TIFF that lacks it: a new first directory, at the end of the file."""
    with path.open("r+b") as file:
        head = file.read(16)
        big = head[:4] == b"II+\0"
        if not big and head[:4] != b"II*\0":
            return
        pointer, code, count_code, entry_size = (8, "<Q", "<Q", 20) if big else (4, "<I", "<H", 12)
        (place,) = struct.unpack_from(code, head, pointer)
        file.seek(place)
        (count,) = struct.unpack(count_code, file.read(struct.calcsize(count_code)))
        raw = file.read(count * entry_size)
        old = {
            int.from_bytes(raw[at : at + 2], "little"): raw[at : at + entry_size]
            for at in range(0, len(raw), entry_size)
        }
        new = {tag: value for tag, value in block.items() if tag in _DESCRIPTIVE and tag not in old}
        if not new:
            return
        end = file.seek(0, 2)
        file.write(bytes(end % 2))
        packed = _pack(new, end + end % 2, big=big, kept=old)
        if not big and end + len(packed) >= 2**32:
            return
        file.write(packed)
        file.seek(pointer)
        file.write(struct.pack(code, end + end % 2))


def _short(value: int) -> Tag:
    return Tag(3, struct.pack("<H", value))


def _first(unbounded: _Read) -> Block:
    left = _MOST_BYTES

    def read(place: int, count: int) -> bytes:
        nonlocal left
        left -= count
        return unbounded(place, count) if left >= 0 else b""

    head = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return {}
    (version,) = struct.unpack_from(order + "H", head, 2)
    if version == 43 and len(head) == 16:
        return _directory(read, order, struct.unpack_from(order + "Q", head, 8)[0], big=True)
    return _directory(read, order, struct.unpack_from(order + "I", head, 4)[0], big=False) if version == 42 else {}


def _directory(read: _Read, order: str, place: int, *, big: bool, depth: int = 0) -> Block:
    count_code, entry_code, room = (order + "Q", order + "HHQ", 8) if big else (order + "H", order + "HHI", 4)
    raw = read(place, struct.calcsize(count_code))
    if len(raw) < struct.calcsize(count_code):
        return {}
    (count,) = struct.unpack(count_code, raw)
    entry_size = struct.calcsize(entry_code) + room
    entries = read(place + len(raw), min(count, _MOST_TAGS) * entry_size)
    block: Block = {}
    seen = set()
    for at in range(0, len(entries) - entry_size + 1, entry_size):
        tag, kind, number = struct.unpack_from(entry_code, entries, at)
        length = number * _SIZES.get(kind, 0)
        if tag in seen or not 0 < length <= _LARGEST:
            continue
        seen.add(tag)
        data = entries[at + entry_size - room : at + entry_size]
        if length > room:
            data = read(int.from_bytes(data, "little" if order == "<" else "big"), length)
        if len(data) < length:
            continue
        value = Tag(kind, _little(data[:length], kind, order))
        if tag in _POINTERS and depth < 2 and value.numbers:
            if inner := _directory(read, order, value.numbers[0], big=big, depth=depth + 1):
                block[tag] = inner
        elif tag not in _POINTERS:
            block[tag] = value
    return block


def _little(data: bytes, kind: int, order: str) -> bytes:
    word = _WORDS[kind]
    if order == "<" or word == 1:
        return data
    return b"".join(data[at : at + word][::-1] for at in range(0, len(data), word))


def _pack(block: Block, place: int, *, big: bool, kept: dict[int, bytes] | None = None) -> bytes:
    """One directory to lie at `place`, what doesn't fit into its entries after it; `kept`: entries as they are."""
    kept = kept or {}
    count_code, entry_code, room = ("<Q", "<HHQ", 8) if big else ("<H", "<HHI", 4)
    tags = sorted({*block, *kept})
    after = place + struct.calcsize(count_code) + len(tags) * (struct.calcsize(entry_code) + room) + room
    entries, values = b"", b""
    for tag in tags:
        value = block.get(tag)
        if value is None:
            entries += kept[tag]
            continue
        start = after + len(values)
        if isinstance(value, dict):
            entries += struct.pack(entry_code, tag, 16 if big else 4, 1) + start.to_bytes(room, "little")
            values += _pack(value, start, big=big)
        else:
            entries += struct.pack(entry_code, tag, value.kind, len(value.data) // _SIZES[value.kind])
            if len(value.data) <= room:
                entries += value.data.ljust(room, b"\0")
            else:
                entries += start.to_bytes(room, "little")
                values += value.data
        values += bytes(len(values) % 2)
    return struct.pack(count_code, len(tags)) + entries + bytes(room) + values
