"""Many results as one zip, written while it is sent."""

import os
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["packed"]

_PIECE: Final = 1 << 18


class _Tray:
    """Takes what the zip's writer gives until it is fetched."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def packed(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """A zip of (name, file), stored, since pictures are packed already; names that come again get a number.

    A file that is gone by the time that its turn comes is named in `missing.txt`.
    """
    tray, taken, missing = _Tray(), set[str](), list[str]()
    with zipfile.ZipFile(tray, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, path in files:
            try:
                source = path.open("rb")
            except OSError:
                missing.append(name)
                continue
            with source:
                changed = os.fstat(source.fileno()).st_mtime
                with archive.open(_entry(_free(name, taken), changed), "w", force_zip64=True) as member:
                    while piece := source.read(_PIECE):
                        member.write(piece)
                        yield tray.take()
        if missing:
            text = "Deleted before they were packed; make them again:\n" + "".join(f"{name}\n" for name in missing)
            archive.writestr(_entry(_free("missing.txt", taken), time.time()), text)
    yield tray.take()


def _entry(name: str, changed: float) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, time.localtime(changed)[:6])
    entry.external_attr = 0o644 << 16
    return entry


def _free(name: str, taken: set[str]) -> str:
    choice, number = name, 1
    stem, dot, suffix = name.rpartition(".")
    while choice.casefold() in taken:
        number += 1
        choice = f"{stem}_{number}{dot}{suffix}" if dot else f"{name}_{number}"
    taken.add(choice.casefold())
    return choice
