"""Files that are either whole or not there: written beside, synced, renamed."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["written_whole"]

_STALE_SECONDS = 3600


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; at the end it is synced and becomes `path`.

    Where the block fails the temporary file is removed and `path` stays as it
    was. Left-overs of killed runs are removed on the way.
    """
    _remove_stale(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def _remove_stale(path: Path) -> None:
    prefix, suffix = f".{path.name}.", ".part"
    with suppress(OSError):
        for entry in path.parent.glob(f"{_literal(prefix)}*{suffix}"):
            owner = entry.name[len(prefix) : -len(suffix)]
            if owner.isdigit() and (time.time() - entry.stat().st_mtime > _STALE_SECONDS or not _runs(int(owner))):
                entry.unlink()


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _runs(process: int) -> bool:
    if os.name == "nt":  # there os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # A rename is only safe on disk once the folder is; Windows has no such call.
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
