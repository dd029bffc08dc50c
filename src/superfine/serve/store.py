"""Uploads and jobs that survive a restart: facts in SQLite, files in folders named by random ids.

    STATE/superfine.sqlite      one row for each upload and each job, its facts as JSON
    STATE/uploads/ID/           source.png, and view.png once it was asked for
    STATE/jobs/ID/              result.png, guess.png, view.png

No name of a stranger is ever part of a path. One process at a time holds a state folder.
"""

import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from superfine.errors import OutputError

__all__ = ["FINAL", "Job", "OwnModel", "Store", "Upload", "bytes_in", "new_id", "readable", "stamp_of"]

#: Of the records. What a later one adds has a default, so that those of earlier ones are read; what it takes or
#: changes makes it another.
_VERSION: Final = 1
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS models (id TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
"""
#: A job in one of these is over.
FINAL: Final = ("done", "failed", "cancelled", "expired")

Record = TypeVar("Record")


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


# Records are the same where they are one object; comparing all that is in them would only take longer.
@dataclass(kw_only=True, eq=False)
class Upload:
    """A source; its file lies in the store, or below the server's root."""

    id: str
    name: str
    kind: str
    path: str
    own: bool
    """The file is the store's."""
    stamp: tuple[int, int]
    """Bytes and time of the file when it was looked at."""
    media_type: str
    suffix: str
    """Of results that aren't asked to be of another format."""
    pixel_bytes: int = 8
    """That a decoded pixel has: channels times bytes of a sample."""
    rows: int
    cols: int
    frames: int
    seconds: float
    bytes: int
    taken: int = 0
    """Bytes that its files have here: none where it lies below the root, but for its view."""
    recommended: dict[str, Any]
    notes: list[str]
    created: float
    expires: float
    started: bool = False
    """A job was made of it."""


@dataclass(kw_only=True, eq=False)
class Job:
    """What to make of an upload, and what became of it."""

    id: str
    upload: str
    name: str
    """Of the result."""
    source_name: str = ""
    """As it was sent; the source may be gone before the result is."""
    options: dict[str, Any]
    status: str = "queued"
    message: str = ""
    model: str = ""
    scale: float = 1.0
    rows: int = 0
    cols: int = 0
    output_rows: int = 0
    output_cols: int = 0
    frames: int = 1
    moves: bool = False
    """It is a video or an animation, and so is the result."""
    suffix: str = ""
    """Of the result."""
    result: dict[str, Any] | None = None
    guess_map: bool = False
    consistency: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    created: float = 0.0
    expires: float = 0.0
    attempts: int = 0
    """How often it was begun without an end that is known."""
    taken: int = 0
    """Bytes that its files have or may get."""
    # Of the run that is going on.
    progress: float = 0.0
    seconds_left: float | None = None
    frames_done: int = 0
    fps: float = 0.0

    @property
    def over(self) -> bool:
        """Nothing more will become of it."""
        return self.status in FINAL


@dataclass(kw_only=True, eq=False)
class OwnModel:
    """A network that somebody uploaded."""

    id: str
    name: str
    scale: int
    summary: str
    restoring: bool
    frames: int
    expires: float
    bytes: int


class Store:
    """All uploads and jobs, in memory too: there are at most some thousand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = _held(folder)
        for name in ("uploads", "jobs", "models", "coming"):
            (folder / name).mkdir(exist_ok=True, mode=0o700)
        with ExitStack() as opened:  # nothing stays open where something of it is wrong
            opened.callback(self._lock.close)
            self._database = opened.enter_context(closing(_database(folder)))
            self.uploads = self._read("uploads", Upload)
            self.jobs = self._read("jobs", Job)
            self.models = self._read("models", OwnModel)
            opened.pop_all()
        self._owed: dict[str, Upload | Job | OwnModel] = {}
        self._sweep_strangers()

    def close(self) -> None:
        """Give the folder back."""
        with suppress(sqlite3.Error):
            self.settle()
        self._database.close()
        self._lock.close()

    # ---- files

    def upload_folder(self, upload: str) -> Path:
        """Where an upload's files lie."""
        return self.folder / "uploads" / upload

    def job_folder(self, job: str) -> Path:
        """Where a job's files lie."""
        return self.folder / "jobs" / job

    def coming(self) -> Path:
        """A name for a file that is being uploaded."""
        return self.folder / "coming" / new_id()

    def model_file(self, model: str) -> Path:
        """Where an uploaded network lies."""
        return self.folder / "models" / f"{model}.onnx"

    def result_file(self, job: Job) -> Path:
        """What a job makes."""
        return self.job_folder(job.id) / f"result{job.suffix}"

    @property
    def taken(self) -> int:
        """Bytes that files have, or may get once queued jobs are done."""
        uploads = sum(upload.taken for upload in self.uploads.values())
        return uploads + sum(job.taken for job in self.jobs.values()) + sum(own.bytes for own in self.models.values())

    @property
    def promised(self) -> int:
        """Bytes that jobs may still write: the disk doesn't know of them yet."""
        unfinished = [job for job in self.jobs.values() if not job.over]
        return sum(max(0, job.taken - bytes_in(self.job_folder(job.id))) for job in unfinished)

    # ---- records

    def knows(self, record: Upload | Job | OwnModel) -> bool:
        """Whether a record wasn't thrown away meanwhile."""
        return self._all(record).get(record.id) is record

    def save(self, record: Upload | Job | OwnModel) -> None:
        """Keep a new record, or what has changed of it. Raises sqlite3.OperationalError where the disk is full."""
        self._write(record)
        self._all(record)[record.id] = record

    def update(self, record: Upload | Job | OwnModel) -> None:
        """Keep what has changed of a record that is known; on a full disk that waits for `settle`."""
        try:
            self._write(record)
        except sqlite3.OperationalError:
            self._owed[record.id] = record

    def settle(self) -> None:
        """Write what a full disk didn't take. Raises sqlite3.OperationalError where it still doesn't."""
        for key, record in list(self._owed.items()):
            if self.knows(record):
                self._write(record)
            else:
                self._erase(record)
            self._owed.pop(key, None)

    def _write(self, record: Upload | Job | OwnModel) -> None:
        table = _table(record)
        text = json.dumps(asdict(record))  # in ASCII: paths may hold bytes that are no text
        self._database.execute(
            f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET facts = excluded.facts",  # noqa: S608 - a name of ours
            (record.id, text),
        )
        self._owed.pop(record.id, None)

    def _erase(self, record: Upload | Job | OwnModel) -> None:
        self._database.execute(f"DELETE FROM {_table(record)} WHERE id = ?", (record.id,))  # noqa: S608 - a name of ours

    def forget(self, record: Upload | Job | OwnModel) -> None:
        """Throw a record and its files away; what lies below the server's root stays.

        On a full disk the database can't even forget: the files go first, and make room for that.
        """
        self._all(record).pop(record.id, None)
        match record:
            case Upload():
                shutil.rmtree(self.upload_folder(record.id), ignore_errors=True)
            case Job():
                shutil.rmtree(self.job_folder(record.id), ignore_errors=True)
            case OwnModel():
                with suppress(OSError):
                    self.model_file(record.id).unlink(missing_ok=True)
        self._owed[record.id] = record
        with suppress(sqlite3.OperationalError):
            self.settle()

    def expire(self, hours_kept: float, jobs_kept: int, now: float | None = None) -> list[Job]:
        """Throw away files whose time is over, and the oldest finished jobs; returns the jobs that have changed."""
        now = time.time() if now is None else now
        with suppress(sqlite3.OperationalError):
            self.settle()
        changed = []
        for job in list(self.jobs.values()):
            if not job.over or job.expires > now:
                continue
            if job.status == "expired":
                self.forget(job)
                continue
            shutil.rmtree(self.job_folder(job.id), ignore_errors=True)
            # It stays listed for as long again, so that whoever comes back learns what became of it.
            job.status, job.result, job.guess_map, job.taken = "expired", None, False, 0
            job.message = "its files were deleted after their time; make it again"
            job.expires = now + hours_kept * 3600
            self.update(job)
            changed.append(job)
        needed = {job.upload for job in self.jobs.values() if not job.over}
        for upload in list(self.uploads.values()):
            if upload.expires <= now and upload.id not in needed:
                self.forget(upload)
        used = {job.options.get("model") for job in self.jobs.values() if not job.over}
        for model in list(self.models.values()):
            if model.expires <= now and model.id not in used:
                self.forget(model)
        # Those whose files are gone go first, then those that would be the next to go.
        over = [job for job in self.jobs.values() if job.over]
        over.sort(key=lambda job: (job.status != "expired", job.expires))
        for job in over[: max(0, len(over) - jobs_kept)]:
            self.forget(job)
        return changed

    def _all(self, record: object) -> dict[str, Any]:
        tables: dict[str, dict[str, Any]] = {"uploads": self.uploads, "jobs": self.jobs, "models": self.models}
        return tables[_table(record)]

    def _read(self, table: str, kind: type[Record]) -> dict[str, Record]:
        """Raises OutputError for a record that doesn't fit: forgotten, its files would be swept away."""
        known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
        rows = self._database.execute(f"SELECT id, facts FROM {table} ORDER BY rowid")  # noqa: S608 - a name of ours
        records = {}
        for key, text in rows:
            try:
                facts = {name: value for name, value in json.loads(text).items() if name in known}
                records[str(key)] = kind(**facts)
            except (TypeError, ValueError, AttributeError) as error:
                raise OutputError(
                    f"{self.folder / 'superfine.sqlite'}: what it says of {key} in {table} can't be read;"
                    " give --state FOLDER, or remove that one"
                ) from error
        return records

    def _sweep_strangers(self) -> None:
        """Remove files that no record knows: what was coming when the server was killed."""
        for name, known in (("uploads", self.uploads), ("jobs", self.jobs), ("coming", {}), ("models", self.models)):
            for entry in os.scandir(self.folder / name):
                if entry.name.removesuffix(".onnx") not in known:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        Path(entry.path).unlink(missing_ok=True)


def _held(folder: Path) -> IO[bytes]:
    """A folder's lock, made with it. Raises OutputError where another process has it, or nothing can be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("wb")
    except OSError as error:
        raise OutputError(f"{folder}: nothing can be kept there: {error.strerror}; give --state FOLDER") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise OutputError(f"{folder}: another superfine serve works there; give this one --state FOLDER") from error
    return lock


def _database(folder: Path) -> sqlite3.Connection:
    """Raises OutputError where it is none, or a later version's."""
    path = folder / "superfine.sqlite"
    with ExitStack() as opened:
        try:
            database = opened.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise OutputError(
                    f"{folder}: a later superfine has worked there, with records of version {version} where this one"
                    f" knows {_VERSION}; start that one, or give this one --state FOLDER"
                )
            # In WAL a finished job is one append; it's synced, so that power loss takes none either.
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.executescript(_TABLES)
            database.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.Error as error:
            raise OutputError(f"{path}: can't be used: {error}; give --state FOLDER, or remove that one") from error
        opened.pop_all()
        return database


def bytes_in(folder: Path) -> int:
    """Of the files in a folder and below; none where there is no folder."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was renamed meanwhile
                count += Path(place, name).lstat().st_size
    return count


def stamp_of(path: Path) -> tuple[int, int]:
    """Bytes and time of a file: another stamp, another content. Raises OSError."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def readable(upload: Upload, root: Path | None) -> bool:
    """Whether a source is still the file that was looked at, and may be read: the store's own, or below the root.

    Asked at each use: since it was named, links may have been laid, or the server started with another root.
    """
    path = Path(upload.path)
    try:
        if not upload.own and not (
            root is not None and path.resolve(strict=True) == path and path.is_relative_to(root.resolve())
        ):
            return False
        return stamp_of(path) == tuple(upload.stamp)
    except (OSError, RuntimeError):
        return False


def _table(record: object) -> str:
    return {Upload: "uploads", Job: "jobs", OwnModel: "models"}[type(record)]
