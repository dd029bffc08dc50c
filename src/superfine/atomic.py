"""Files that are either whole or not there: written beside, synced, renamed."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

__all__ = ["written_whole"]

_STALE_SECONDS = 3600
# Most file systems end at 255 bytes, and the temporary name is longer than the name.
_LONGEST_NAME = 200


@contextmanager
def written_whole(path: Path, whole: Callable[[Path], None] = lambda part: None) -> Iterator[Path]:
    """Give a temporary path in the same folder; at the end it is synced and becomes `path`.

    whole: called with the temporary file when it is finished, before it is
    renamed: what is noted then is true however the process ends.

    Where the block fails the temporary file is removed and `path` stays as it
    was. Left-overs of killed runs are removed on the way. A link is followed:
    what it points to is replaced, the link stays. Raises OSError.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "there is something that is not a file")
    _remove_stale(path)
    part = path.with_name(f"{_prefix(path)}{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch(exist_ok=False)
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        whole(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def _prefix(path: Path) -> str:
    name = os.fsencode(path.name)
    return f".{path.name}." if len(name) <= _LONGEST_NAME else f".{hashlib.sha256(name).hexdigest()[:32]}."


def _remove_stale(path: Path) -> None:
    prefix, suffix = _prefix(path), ".part"
    for name in _left_overs(path.parent):
        if not name.startswith(prefix):
            continue
        owner = name[len(prefix) : -len(suffix)]
        entry = path.with_name(name)
        with suppress(OSError):
            if owner.isdigit() and (time.time() - entry.stat().st_mtime > _STALE_SECONDS or not _runs(int(owner))):
                entry.unlink()


@lru_cache(maxsize=64)
def _left_overs(folder: Path) -> tuple[str, ...]:
    """Temporary files that lay in the folder when this process first wrote there: large folders are read once."""
    with suppress(OSError), os.scandir(folder) as entries:
        return tuple(entry.name for entry in entries if entry.name.startswith(".") and entry.name.endswith(".part"))
    return ()


def _runs(process: int) -> bool:
    if os.name == "nt":  # there os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # A rename is only safe on disk once the folder is; Windows and some network disks have no such call.
    if os.name != "nt":
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
