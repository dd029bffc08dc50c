"""Files in object stores, by URL: fetched whole, put so that they appear whole or not at all, and listed.

Only this module knows fsspec. What goes wrong is said in words: SourceError or OutputError where it will go wrong
again, ConnectionError where another try may go well. Paths of this machine are places too, for what goes from or to a
store.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from superfine.atomic import has_ended, this_process, written_whole
from superfine.errors import MissingExtraError, OutputError, SourceError, SuperfineError, UsageError
from superfine.journal import stamp
from superfine.outputs import make_folder
from superfine.segments import writing

__all__ = [
    "STORES",
    "check_writable",
    "checked",
    "expanded",
    "fetch",
    "has_magic",
    "in_words",
    "is_folder",
    "is_url",
    "names_below",
    "opened",
    "plain",
    "put",
    "read",
    "real_place",
    "remove_all",
    "scratch",
    "version_of",
    "write",
]

#: Whose files appear whole or not at all; others are mounted, and then they are folders.
STORES: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
# What a store says of a file's content, in the names of the several stores; else when it was written.
_TAGS: Final = ("ETag", "etag", "md5Hash", "content_md5", "generation")
_TIMES: Final = ("LastModified", "last_modified", "updated", "mtime", "created")
# Errors of several packages that mean: nobody has said who asks.
_NAMELESS: Final = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError")


def is_url(name: str) -> bool:
    """Whether a name is that of something in a store."""
    return "://" in name


def plain(name: str) -> str:
    """A folder by its URL is a folder."""
    for scheme in ("file://", "local://"):
        if name.startswith(scheme):
            return name[len(scheme) :]
    return name


def real_place(url: str) -> str:
    """The same for all names of one place, and another for another store's."""
    if not is_url(url):
        return os.path.realpath(url)
    files, path = opened(url)
    return f"{type(files).__name__}:{path.rstrip('/')}"


def is_folder(url: str) -> bool:
    """Whether a URL is a folder's, not a file's. Raises UsageError where there is nothing."""
    files, path = opened(url)
    with checked(url, f"{url}: there is nothing there"):
        return bool(files.info(path)["type"] == "directory")


def has_magic(url: str) -> bool:
    """Whether a URL is a pattern."""
    return any(letter in url for letter in "*?[")


def expanded(url: str) -> list[str]:
    """The URLs that a pattern stands for, or the one that is none. Raises UsageError where nothing matches."""
    if not has_magic(url):
        return [url]
    files, path = opened(url)
    with in_words(url):
        found = sorted(str(name) for name in files.glob(path))
    if not found:
        raise UsageError(f"{url}: nothing matches")
    return [f"{url.partition('://')[0]}://{name.lstrip('/')}" for name in found]


def opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises UsageError, MissingExtraError."""
    scheme = url.partition("://")[0]
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES[:-1])
        raise UsageError(f"{url}: superfine knows folders and the stores {known}; mount others, and name the folder")
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtraError("an object store", "cluster") from error
    try:
        # What a store has is asked anew each time: others write to it too.
        files, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        words = str(error).rstrip(".")
        raise UsageError(f"{url}: {scheme}:// needs a package that isn't there: {words}") from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    return files, str(path)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder of this machine for what comes from a store or goes to one; those of killed processes are removed."""
    _sweep(tempfile.gettempdir())
    return tempfile.TemporaryDirectory(prefix=f"superfine-{this_process()}-")


@cache
def _sweep(folder: str) -> None:
    for left in Path(folder).glob("superfine-*-*-*"):
        if has_ended("-".join(left.name.split("-")[1:3])):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def checked(url: str, absent: str) -> Iterator[None]:
    """What goes wrong before anything was begun, in words for whoever gave the URL."""
    try:
        with in_words(url):
            yield
    except FileNotFoundError as error:
        raise UsageError(absent) from error
    except (SourceError, OSError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def in_words(place: str, *, puts: bool = False) -> Iterator[None]:
    """Errors of a store in words: what can't go well at another time as SourceError or OutputError.

    FileNotFoundError passes where nothing is written.
    """
    final = OutputError if puts else SourceError
    try:
        yield
    except SuperfineError:
        raise
    except FileNotFoundError as error:
        if not puts:
            raise
        raise final(f"{place}: there is no such bucket or folder: {error}") from error
    except PermissionError as error:
        raise final(f"{place}: access is refused: {error}; see that the credentials may read and write it") from error
    except Exception as error:  # each store has errors of its own
        kinds = [type(error).__name__, type(error.__cause__).__name__, type(error.__context__).__name__]
        if any(kind in _NAMELESS for kind in kinds):
            raise final(
                f"{place}: there are no credentials for it; set them as its own tools take them, for S3"
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
            ) from error
        raise ConnectionError(f"{place}: the store didn't do it: {str(error) or type(error).__name__}") from error


def version_of(place: str) -> str:
    """What changes with the content of a file; empty where there is none."""
    if not is_url(place):
        facts = stamp(Path(place))
        return "" if facts[0] < 0 else f"{facts[0]} {facts[1]}"
    files, path = opened(place)
    try:
        with in_words(place):
            info = files.info(path)
    except FileNotFoundError:
        return ""
    if info["type"] == "directory":
        return ""
    told = [str(info[key]).strip('"') for key in (*_TAGS, *_TIMES) if info.get(key)]
    return f"{info['size']} {told[0]}" if told else str(info["size"])


def fetch(url: str, folder: Path) -> Path:
    """Copy a file into a folder, which is made. Raises SourceError, ConnectionError, FileNotFoundError."""
    local = folder / PurePosixPath(url).name
    folder.mkdir(exist_ok=True)
    files, path = opened(url)
    with in_words(url):
        files.get_file(path, str(local))
    return local


def put(local: Path, place: str) -> None:
    """Copy a file to its place, where it appears whole or not at all. Raises OutputError, ConnectionError."""
    if is_url(place):
        files, path = opened(place)
        with in_words(place, puts=True):
            files.put_file(str(local), path)
        return
    make_folder(Path(place).parent, Path(place))
    with writing(Path(place)), written_whole(Path(place)) as part:
        shutil.copyfile(local, part)


def read(place: str) -> bytes:
    """The content of a small file; nothing where there is none. Raises SourceError, ConnectionError."""
    if not is_url(place):
        with suppress(FileNotFoundError, NotADirectoryError):
            return Path(place).read_bytes()
        return b""
    files, path = opened(place)
    with suppress(FileNotFoundError), in_words(place):
        return bytes(files.cat_file(path))
    return b""


def write(place: str, content: bytes) -> None:
    """Make a small file, or replace it. Raises OutputError, ConnectionError."""
    if is_url(place):
        files, path = opened(place)
        with in_words(place, puts=True):
            files.pipe_file(path, content)
        return
    make_folder(Path(place).parent, Path(place))
    with writing(Path(place)), written_whole(Path(place)) as part:
        part.write_bytes(content)


def check_writable(url: str, name: str) -> None:
    """Make and remove the empty file `name` in a folder. Raises OutputError, ConnectionError."""
    files, path = opened(f"{url.rstrip('/')}/{name}")
    with in_words(url, puts=True):
        files.pipe_file(path, b"")
    with suppress(Exception):  # who may write may not always remove, and then one stays
        files.rm_file(path)


def remove_all(url: str) -> None:
    """Remove a folder of a store, and what is below it, if it's there. Raises OutputError, ConnectionError."""
    files, path = opened(url)
    with suppress(FileNotFoundError), in_words(url, puts=True):
        if files.exists(path):
            files.rm(path, recursive=True)


def names_below(url: str) -> Iterator[tuple[str, int]]:
    """Names of all files below a folder, relative to it, and their bytes; those of one folder in their order."""
    files, path = opened(url)
    if url.startswith(("s3:", "s3a:")):
        bucket, _, prefix = path.strip("/").partition("/")
        yield from _pages(files, url, bucket, f"{prefix}/" if prefix else "")
        return
    ahead = [path.rstrip("/")]
    while ahead:
        with in_words(url):
            entries = sorted(files.ls(ahead.pop(), detail=True), key=lambda entry: str(entry["name"]))
        for entry in entries:
            if entry["type"] != "directory":
                yield str(entry["name"])[len(path.rstrip("/")) + 1 :], int(entry["size"] or 0)
        ahead += [str(entry["name"]).rstrip("/") for entry in reversed(entries) if entry["type"] == "directory"]


def _pages(files: Any, url: str, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """The same of S3, a thousand names at a time; its `ls` would hold all of them."""
    more: dict[str, str] = {}
    while True:
        with in_words(url):
            page = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # what some tools put where a folder is
                yield entry["Key"][len(prefix) :], int(entry["Size"])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}
