"""Where sources lie and results go: folders that all nodes see, or object stores by URL, `s3://bucket/photos`.

In folders nothing is done here: the run works in them, and their journal knows what is done. What lies in a store is
fetched, worked on in a folder of this machine, and delivered; a store keeps files whole or not at all. Since nothing
can be appended to an object, each output has a note of its own, an object in the hidden folder `NOTES` of the run's
output. It is written twice: before the output appears, with its digest, and after, with the version that the store gave
it. So a kill between the two leaves an output that is known by its content, and never one that nobody claims. (An
object's own metadata would need no second object, but each store has another way to them, and copies often lose them.)
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from superfine.atomic import has_ended, remove_parts, this_process
from superfine.classical.reduction import REDUCTIONS
from superfine.cluster.stores import (
    check_writable,
    checked,
    expanded,
    fetch,
    has_magic,
    in_words,
    is_folder,
    is_url,
    names_below,
    opened,
    plain,
    put,
    read,
    real_place,
    scratch,
    version_of,
    write,
)
from superfine.cluster.task import Ignored, Task
from superfine.encoding import CONTAINERS
from superfine.errors import OutputError, SourceError, SuperfineError, UsageError
from superfine.footage import VIDEO_SUFFIXES, kind_of
from superfine.image import FORMATS
from superfine.listing import Item, free_name, is_known, iterate_sources, moves_as, output_suffix
from superfine.models import list_models
from superfine.outputs import segments_folder
from superfine.route import Job
from superfine.stills import has_place
from superfine.upscale import Result

__all__ = [
    "NOTES",
    "Delivery",
    "check_output",
    "check_places",
    "do",
    "due",
    "fingerprint",
    "item_in",
    "list_tasks",
    "remove_left",
    "show",
    "skipped",
]

#: The hidden folder of an output in which there is a note on each of its files.
NOTES: Final = ".superfine"
# How what shows a folder to others is called, before whose it is; and what is written into a store to see if it can be.
_SEEN: Final = ".superfine-seen-"
_TRIAL: Final = "trial"
# In URLs, of fsspec.
_SPECIAL: Final = ("::", "?versionId=")
# Whose name doesn't say whether they are animations.
_MAYBE_ANIMATED: Final = (".gif", ".png", ".webp")


# ---- which, and where to


def check_places(sources: Sequence[str], output: str) -> None:
    """Raise UsageError or MissingExtraError where a URL leads nowhere, or sources and output can't go together."""
    urls = [name for name in map(plain, sources) if is_url(name)]
    if urls and len(urls) < len(sources):
        raise UsageError("some sources are in folders and others in object stores; run them one after the other")
    if is_url(plain(output)):
        suffix = PurePosixPath(output).suffix.lower()
        if suffix in CONTAINERS or any(suffix in entry.suffixes for entry in FORMATS.values()):
            raise UsageError(f"{output}: is the name of a file, and results go into a folder of a store; name one")
        if not _bucket(output):
            raise UsageError(f"{output}: names no bucket; give one, as in s3://bucket/folder")
        _check_bucket(output, "create it first")
    for url in urls:
        if not has_magic(url):
            files, path = opened(url)
            try:
                with checked(url, f"{url}: there is nothing there"):
                    files.info(path)
            except UsageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    _check_bucket(url, "look for its name")
                raise


def _bucket(url: str) -> str:
    return opened(url)[1].strip("/").partition("/")[0]


def _check_bucket(url: str, cure: str) -> None:
    """Raise UsageError where a URL's bucket isn't there."""
    if not url.startswith("memory:"):
        bucket = _bucket(url)
        with checked(url, f"{url}: there is no bucket {bucket!r}; {cure}"):
            opened(url)[0].info(bucket)


def check_output(place: str) -> None:
    """Raise UsageError or OutputError where nothing can be written to a folder that is there, or one of a store."""
    if not is_url(place):
        show(Path(place)).unlink(missing_ok=True)
        return
    with checked(place, f"{place}: there is nothing there"):
        check_writable(place, f"{NOTES}/{_TRIAL}")


def show(folder: Path) -> Path:
    """Make a hidden file by which others know a folder; those of killed runs are removed. Raises OutputError."""
    for left in folder.glob(f"{_SEEN}*"):
        if has_ended(left.name.removeprefix(_SEEN)):
            with suppress(OSError):
                left.unlink()
    shown = folder / f"{_SEEN}{this_process()}"
    try:
        shown.touch()
    except OSError as error:
        words = f"{folder}: can't be written to: {error.strerror}; choose another place with -o"
        raise OutputError(words) from error
    return shown


def list_tasks(sources: Sequence[str], output: str, job: Job) -> Iterator[Task | Ignored]:
    """All pictures and videos of a run, one by one, and what else is in its folders.

    Outputs have the names that `upscale` gives them; of a store no more is held in memory than a page of its list and
    the names in the folders that are open. Raises UsageError at once where nothing can be done at all, and at the end
    where there was nothing to do.
    """
    sources, output = [plain(source) for source in sources], plain(output)
    if any(map(is_url, sources)):
        named = [found for source in sources for found in expanded(source)]
        if job.as_clip or any(has_place(Path(url)) for url in named):
            _refuse_frames(named[0])
        return _StoreWalk(named, output.rstrip("/") if is_url(output) else output, job).all()
    if not is_url(output):
        found = iterate_sources([Path(source) for source in sources], Path(output), job)
        return (_task(entry, Path(output)) for entry in found)
    # Names are made as for a folder that isn't there.
    stand_in = Path(tempfile.gettempdir(), uuid.uuid4().hex)
    if job.as_clip or any(has_place(Path(source)) for source in sources):
        _refuse_frames(output)
    found = iterate_sources([Path(source) for source in sources], stand_in, job)
    return (_moved(entry, stand_in, output.rstrip("/")) for entry in found)


def _task(found: Item | Path, output: Path) -> Task | Ignored:
    if isinstance(found, Path):
        return Ignored(str(found), is_known(found.name))
    # Also of a source that is alone: whoever goes on after a worker's death has to know what it made. A lone output
    # that was named itself has no folder of the run's.
    journal = str(output) if found.output.is_relative_to(output) and found.output != output else ""
    return Task(str(found.source), str(found.output), found.weight, found.moves, found.problem, journal)


def _moved(found: Item | Path, stand_in: Path, output: str) -> Task | Ignored:
    """With its output in a store."""
    task = _task(found, stand_in)
    if not isinstance(found, Item) or isinstance(task, Ignored):
        return task
    name = found.output.relative_to(stand_in).as_posix()
    return replace(task, output=f"{output}/{name}", journal=output, problem=found.problem or _unnamable(name))


def _unnamable(name: str) -> str:
    """Why a name can't be that of an object."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"{name!r}: the name isn't UTF-8, as names in stores are; rename it"
    for words in _SPECIAL:
        if words in name:
            return f"{name}: {words!r} in a name has a meaning of its own in the URL of a store; rename it"
    return ""


def _refuse_frames(url: str) -> NoReturn:
    raise UsageError(f"{url}: folders of frames aren't taken from or to a store; copy them into a folder")


class _StoreWalk:
    """The way through the sources of a run that are in stores."""

    def __init__(self, named: Sequence[str], output: str, job: Job) -> None:
        self._named = list(dict.fromkeys(named))
        self._output = output
        self._job = job
        folders = [url for url in self._named if is_folder(url)]
        # Each folder with what mirrors it; and, as real places, the same, and what else is named.
        self._roots = {url: f"{output}/{_last(url)}" if len(self._named) > 1 else output for url in folders}
        self._tops = {f"{real_place(url)}/": f"{real_place(root)}/" for url, root in self._roots.items()}
        self._files = {real_place(url) for url in self._named if url not in self._roots}
        names: dict[str, str] = {}
        for url in folders:
            if (other := names.setdefault(_last(url).casefold(), url)) != url:
                raise UsageError(f"{other} and {url} would go into one folder {_last(url)!r}; run them one by one")
        for top, own in self._tops.items():
            if top == own:
                raise UsageError(f"{output}: the output folder is the source folder; choose another with -o")

    def all(self) -> Iterator[Task | Ignored]:
        """Everything in the order of the sources, and of names. Raises UsageError where there was nothing to do."""
        taken: set[str] = set()
        empty = True
        for url in self._named:
            if url in self._roots:
                for found in self._below(url, self._roots[url]):
                    empty = empty and isinstance(found, Ignored)
                    yield found
            else:
                files, path = opened(url)
                with in_words(url):
                    size = files.info(path)["size"]
                empty = False
                yield self._task(url, _last(url), self._output, real_place(self._output), size, taken)
        if empty:
            raise UsageError(f"no picture and no video in {', '.join(self._named)}")

    def _below(self, url: str, root: str) -> Iterator[Task | Ignored]:
        """What is in a folder and below it, but not what begins with a dot, and not the outputs."""
        top, own = f"{real_place(url)}/", f"{real_place(root)}/"
        mine = own[len(top) :] if own.startswith(top) else None
        # Names come in order: a folder that was left isn't entered again.
        open_folders: list[tuple[str, set[str]]] = []
        for name, size in names_below(url):
            parts = name.split("/")
            full = f"{url.rstrip('/')}/{name}"
            if any(part.startswith(".") or not part for part in parts) or (mine is not None and name.startswith(mine)):
                continue
            if not is_known(parts[-1]):
                yield Ignored(full)
                continue
            folder = "".join(f"{part}/" for part in parts[:-1])
            while open_folders and not folder.startswith(open_folders[-1][0]):
                open_folders.pop()
            if not open_folders or open_folders[-1][0] != folder:
                open_folders.append((folder, set()))
            yield self._task(full, name, root, own.rstrip("/"), size, open_folders[-1][1])

    def _task(self, url: str, name: str, root: str, real_root: str, size: int, taken: set[str]) -> Task:
        """Of a file; name: of its output below `root`, but for its ending."""
        path = Path(name)
        kind = _kind(url, path.suffix.lower(), self._job)
        free = free_name(path.with_suffix(output_suffix(path, kind, self._job)), path, taken)
        output, problem = f"{root}/{free.as_posix()}", _unnamable(url)
        if self._is_source(f"{real_root}/{free.as_posix()}"):
            problem = f"{output}: is among the sources of this run itself; choose another output with -o"
        return Task(url, output, max(1, size), moves_as(kind, free), problem, self._output)

    def _is_source(self, real: str) -> bool:
        """Whether an output is in the place of a source, or where one may be."""
        return real in self._files or any(
            real.startswith(top) and not (own.startswith(top) and real.startswith(own))
            for top, own in self._tops.items()
        )


def _last(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def _kind(url: str, suffix: str, job: Job) -> str:
    """By the name, as far as it decides the output's: to open each of a million objects would take hours."""
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in _MAYBE_ANIMATED and f".{(job.file_format or '').lower()}" in CONTAINERS:
        with scratch() as folder:
            return kind_of(fetch(url, Path(folder)))
    return ""


# ---- one of them


def fingerprint(job: Job) -> str:
    """What decides the content of outputs in stores besides their sources; to be made where the job's files are."""
    facts = {entry.name: getattr(job, entry.name) for entry in fields(job) if entry.name != "memory_gb"}
    facts["version"] = version("superfine")
    facts["networks"] = [model.sha256 for model in list_models()]
    if job.model.lower().endswith(".onnx"):
        facts["model"] = hashlib.sha256(Path(job.model).read_bytes()).hexdigest()
    if job.consistent is not None and str(job.consistent) not in REDUCTIONS:
        facts["consistent"] = hashlib.sha256(Path(job.consistent).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def do(
    task: Task, work: Callable[[Item], Result], *, options: str, resume: bool = True, overwrite: bool = False
) -> Result:
    """One picture or video by `work`, which returns when the file is there; skipped where a store has it already.

    options: the job's `fingerprint`. In folders `work` itself knows what is done. Raises what `work` raises; where a
    store refuses SourceError or OutputError, and ConnectionError where another try may go well.
    """
    if not (is_url(task.source) or is_url(task.output)):
        journal = Path(task.journal) if task.journal else None
        return work(Item(Path(task.source), Path(task.output), journal, task.weight, task.problem, moves=task.moves))
    delivery = due(task, options=options, resume=resume, overwrite=overwrite)
    if delivery is None:
        return skipped(task)
    with scratch() as folder:
        return delivery.made(item_in(Path(folder), task), work)


def due(task: Task, *, options: str, resume: bool, overwrite: bool) -> "Delivery | None":
    """What is to be delivered to a store, or from one; nothing where that was done and is unchanged. Raises as `do`."""
    if task.problem:
        raise SourceError(task.problem)
    before = version_of(task.source)
    if not before:
        raise SourceError(f"{task.source}: there is no such file")
    now = version_of(task.output)
    note = _settled(task, _read_note(task), now) if now else None
    known = () if note is None else tuple(made for made in (note.version, *note.earlier) if made)
    same = (_origin(task), before, options, now)
    if resume and note is not None and (note.source, note.source_version, note.options, note.version) == same:
        return None
    if now and now not in known and not overwrite:
        raise OutputError(f"{task.output}: exists already; replace it with --overwrite or choose another name with -o")
    return Delivery(task, before, options, known)


def skipped(task: Task) -> Result:
    """What is said of a task that is not `due`."""
    return Result(Path(task.source), Path(task.output), "skipped", "done before, unchanged")


def item_in(folder: Path, task: Task) -> Item:
    """A task on this machine: its source fetched where it's in a store, and a place for its output. Raises as `do`."""
    source = fetch(task.source, folder / "in") if is_url(task.source) else Path(task.source)
    output = folder / "out" / PurePosixPath(task.output).name
    output.parent.mkdir()
    return Item(source, output, None, task.weight, moves=task.moves or moves_as(kind_of(source), output))


def remove_left(task: Task, process: str) -> None:
    """Remove what a process, as `this_process` calls it, left half written of a task; it must have ended.

    In stores nothing is half written.
    """
    if not is_url(task.output):
        remove_parts(Path(os.path.realpath(task.output)).parent, process)
        if task.moves:
            remove_parts(segments_folder(Path(task.output)), process)
        if is_url(task.source):
            remove_parts(Path(_note_place(task)).parent, process)


@dataclass(frozen=True)
class Delivery:
    """An output that is due."""

    task: Task
    source_version: str
    options: str
    earlier: tuple[str, ...]
    """Versions of it that earlier runs wrote."""

    def made(self, item: Item, work: Callable[[Item], Result]) -> Result:
        """Have it made on this machine, and deliver it, with whatever lies beside it. Raises as `do`."""
        with self.renamed(item):
            result = work(item)
        if result.status == "done":
            self._deliver(item.output)
        return replace(
            result,
            source=Path(self.task.source),
            output=Path(self.task.output),
            message=self._renamed(result.message, item),
            notes=tuple(self._renamed(note, item) for note in result.notes),
        )

    @contextmanager
    def renamed(self, item: Item) -> Iterator[None]:
        """Errors say the names in the store, not those on this machine."""
        try:
            yield
        except SuperfineError as error:
            words = self._renamed(str(error), item)
            if words == str(error):
                raise
            raise type(error)(words) from error

    def _renamed(self, words: str, item: Item) -> str:
        return words.replace(str(item.source), self.task.source).replace(str(item.output), self.task.output)

    def _deliver(self, output: Path) -> None:
        task = self.task
        note = _Note(_origin(task), self.source_version, self.options, _digest(output), earlier=self.earlier)
        _write_note(task, note)
        # Its record first: where the output is, all of it is.
        for path in sorted(output.parent.iterdir(), key=lambda path: path == output):
            if path.is_file() and not path.name.startswith("."):
                put(path, f"{task.output.rpartition('/')[0]}/{path.name}")
        _write_note(task, replace(note, version=version_of(task.output)))


# ---- notes


@dataclass(frozen=True)
class _Note:
    """What made an output."""

    source: str
    source_version: str
    options: str
    digest: str
    """SHA-256 of the output."""
    version: str = ""
    """Of the output in its store; empty before it's there."""
    earlier: tuple[str, ...] = ()
    """Versions of it that earlier runs wrote."""


def _settled(task: Task, note: _Note | None, now: str) -> _Note | None:
    """The note on an output as it is `now`; where a run was killed before its note was finished, the content says."""
    if note is None or note.version or now in note.earlier:
        return note
    if not is_url(task.output):
        found = _digest(Path(task.output))
    else:
        files, path = opened(task.output)
        with in_words(task.output), files.open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != note.digest:
        return note
    settled = replace(note, version=now)
    _write_note(task, settled)
    return settled


def _note_place(task: Task) -> str:
    return f"{task.journal}/{NOTES}/{task.output[len(task.journal) + 1 :]}.json"


def _read_note(task: Task) -> _Note | None:
    with suppress(ValueError, TypeError, KeyError):
        given = json.loads(read(_note_place(task)))
        return _Note(**{**given, "earlier": tuple(given["earlier"])})
    return None


def _write_note(task: Task, note: _Note) -> None:
    write(_note_place(task), json.dumps(asdict(note)).encode())


def _origin(task: Task) -> str:
    return task.source if is_url(task.source) else os.path.realpath(task.source)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
