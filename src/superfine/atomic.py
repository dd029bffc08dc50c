"""Files that are either whole or not there: written beside, synced, renamed."""

import errno
import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

__all__ = ["has_ended", "remove_parts", "this_process", "written_whole"]

_STALE_SECONDS: Final = 3600
# Most file systems end at 255 bytes, and the temporary name is longer than the name.
_LONGEST_NAME: Final = 200
# Whose a temporary file is: a host and a process there. Before clusters it was the process alone.
_OWNER: Final = re.compile(r"(?:([0-9a-f]{8})-)?([0-9]+)")
_SUFFIX: Final = ".part"


def this_process() -> str:
    """A name that no other process on any host that shares a folder with this one has now."""
    return f"{_host()}-{os.getpid()}"


def has_ended(process: str) -> bool:
    """Whether a process that called itself so with `this_process` has ended; of other hosts' nobody knows here."""
    owner = _OWNER.fullmatch(process)
    return owner is not None and owner[1] in (None, _host()) and not _runs(int(owner[2]))


def remove_parts(folder: Path, process: str) -> None:
    """Remove what a process, as `this_process` calls it, left half written in a folder; it must have ended."""
    for name in _parts_in(folder):
        if _owner(name) == process:
            with suppress(OSError):
                (folder / name).unlink()


@contextmanager
def written_whole(path: Path, whole: Callable[[Path], None] = lambda part: None) -> Iterator[Path]:
    """Give a temporary path in the same folder; at the end it is synced and becomes `path`.

    whole: called with the temporary file when it is finished, before it is
    renamed: what is noted then is true however the process ends.

    Where the block fails the temporary file is removed and `path` stays as it
    was. Left-overs of killed runs are removed on the way: those of this host in
    the whole folder, those of other hosts, for the same `path`, when they are an
    hour old. A link is followed: what it points to is replaced, the link stays.
    Raises OSError.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "there is something that is not a file")
    _remove_stale(path)
    part = path.with_name(f"{_prefix(path)}{this_process()}{_SUFFIX}")
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
    prefix = _prefix(path)
    for name in _left_overs(path.parent):
        if not name.startswith(prefix):
            continue
        owner = name[len(prefix) : -len(_SUFFIX)]
        if not _OWNER.fullmatch(owner):
            continue
        entry = path.with_name(name)
        with suppress(OSError):
            if has_ended(owner) or time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                entry.unlink()


@lru_cache(maxsize=64)
def _left_overs(folder: Path) -> tuple[str, ...]:
    """Temporary files that lay in the folder when this process first wrote there: large folders are read once.

    Those of ended processes of this host are removed, whatever they were to become.
    """
    names = _parts_in(folder)
    for name in names:
        owner = _owner(name)
        if owner.startswith(_host()) and has_ended(owner):
            with suppress(OSError):
                (folder / name).unlink()
    return names


def _owner(name: str) -> str:
    """Whose a temporary file of this name is."""
    return name.removesuffix(_SUFFIX).rpartition(".")[2]


def _parts_in(folder: Path) -> tuple[str, ...]:
    with suppress(OSError), os.scandir(folder) as entries:
        return tuple(entry.name for entry in entries if entry.name.startswith(".") and entry.name.endswith(_SUFFIX))
    return ()


@lru_cache(maxsize=1)
def _host() -> str:
    """Eight hexadecimal digits of whoever counts processes: a machine, or a container on one."""
    facts = [platform.node()]
    with suppress(OSError):  # only Linux has them
        facts.append(Path("/etc/machine-id").read_text(encoding="latin-1"))
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - it points to no path
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


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
