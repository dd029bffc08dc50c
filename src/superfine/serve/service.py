"""What can be asked of a server, without HTTP's words: sources come, become jobs, and results are had."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from superfine.classical.reduction import REDUCTIONS
from superfine.encoding import CONTAINERS
from superfine.errors import UsageError
from superfine.image import FORMATS
from superfine.models import CLASSICAL, Card, families, family, shipped_cards
from superfine.route import SHARP, Size
from superfine.route import Job as Wishes
from superfine.serve import schema
from superfine.serve.arrival import received
from superfine.serve.crew import Crew, Worker
from superfine.serve.limits import Limits, RefusedError, check_clip, check_disk, check_result, shown_name
from superfine.serve.store import Job, OwnModel, Store, Upload, bytes_in, new_id
from superfine.serve.worker import MEDIA_TYPES

__all__ = ["Service", "Settings"]

_SWEEP_SECONDS: Final = 30.0
_MOST_RECORDS: Final = 10_000
_MODEL_BYTES: Final = 200_000_000
_MODEL_SUFFIXES: Final = (".onnx", ".safetensors")
# What browsers show by themselves, where it isn't too large for them.
_SHOWN: Final = frozenset({".png", ".jpg", ".webp", ".gif", ".avif"})
_PLAYED: Final = frozenset({".mp4", ".webm"})
_SHOWN_MEGAPIXELS: Final = 50.0
# What holds the pixels that a guess map is made of.
_LOSSLESS: Final = frozenset({".png", ".tif"})
# Options that only clips know.
_FOR_CLIPS: Final = {"codec": "auto", "crf": None, "start": None, "end": None}
# Bytes that a result may get for each pixel, and a frame's pixel in a video, twice: in segments and joined.
_PICTURE_BYTES, _FRAME_BYTES = 8.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server was started."""

    state: Path
    """The folder for uploads, results and the list of jobs."""
    root: Path | None = None
    """Files below it may be named instead of uploaded."""
    allow_models: bool = False
    """Networks may be uploaded."""
    limits: Limits = field(default_factory=Limits)


class Service:
    """Uploads, jobs and their files, and the crew that works on them."""

    def __init__(self, settings: Settings, make_worker: Callable[[frozenset[int]], Worker] | None = None) -> None:
        limits = settings.limits
        self.settings = settings
        self.limits = limits
        self.store = Store(settings.state)
        make = make_worker or (lambda cores: Worker(cores, limits.memory_gb * 1e9, limits.disk_bytes))
        self.crew = Crew(self.store, limits, make)
        self._coming = 0
        self._expected = 0
        self._sweeping: asyncio.Task[None] | None = None
        self._cards: list[Card] = []

    async def open(self) -> None:
        """Begin; what an earlier server left unfinished goes on."""
        self._cards = await asyncio.to_thread(shipped_cards)
        self.store.expire(self.limits.hours_kept, self.limits.jobs_kept)
        await self.crew.open()
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop at the next tile or frame."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self.crew.close()
        self.store.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            for job in self.store.expire(self.limits.hours_kept, self.limits.jobs_kept):
                self.crew.wake(job)

    # ---- sources

    async def add_upload(self, body: AsyncIterator[bytes], headers: Any) -> Upload:
        """Take a file, look at it, and keep it. Raises RefusedError."""
        if len(self.store.uploads) >= _MOST_RECORDS:
            raise RefusedError(
                503, "disk-full", "too many files wait here; delete what is no longer needed", retry_after=600
            )
        async with self._arrived(body, headers, self.limits.upload_bytes) as (path, name):
            facts = await self.crew.look({"task": "inspect", "source": str(path), "names": [(str(path), name)]})
            check_clip(facts["rows"], facts["cols"], facts["frames"], self.limits)
            key = new_id()
            folder = self.store.upload_folder(key)
            folder.mkdir(mode=0o700)
            kept = path.rename(folder / f"source{facts['suffix']}")
            return self._keep(key, name, kept, facts, own=True)

    async def add_path(self, given: str) -> Upload:
        """Look at a file below the root. Raises RefusedError."""
        path = self._below_root(given)
        stamp = _stamp(path)
        name = shown_name(path.name)
        for upload in self.store.uploads.values():
            if upload.path == str(path) and tuple(upload.stamp) == stamp:
                upload.expires = self._later()
                self.store.save(upload)
                return upload
        if stamp[0] > self.limits.upload_bytes * 10:
            raise RefusedError(413, "too-large", f"{name} is far over the size that this server takes")
        facts = await self.crew.look({"task": "inspect", "source": str(path), "names": [(str(path), name)]})
        check_clip(facts["rows"], facts["cols"], facts["frames"], self.limits)
        return self._keep(new_id(), name, path, facts, own=False)

    def upload(self, key: str) -> Upload:
        """The upload of this id. Raises RefusedError."""
        upload = self.store.uploads.get(key)
        if upload is None or (not upload.own and not os.path.exists(upload.path)):
            raise RefusedError(404, "no-upload", "there is no such file, or its time was over; send it again")
        return upload

    def uploads(self) -> list[Upload]:
        """All of them, newest first."""
        return sorted(self.store.uploads.values(), key=lambda upload: upload.created, reverse=True)

    def delete_upload(self, key: str) -> None:
        """Throw a source away. Raises RefusedError where a job still needs it."""
        upload = self.upload(key)
        if any(job.upload == key and not job.over for job in self.store.jobs.values()):
            raise RefusedError(409, "in-use", f"{upload.name} is being worked on; cancel its jobs first")
        self.store.forget(upload)

    async def upload_view(self, key: str) -> tuple[Path, str]:
        """A file that a browser can show, and its media type."""
        upload = self.upload(key)
        suffix = Path(upload.path).suffix if upload.own else upload.suffix
        shown = upload.kind != "video" and suffix in _SHOWN and _small(upload.rows, upload.cols)
        if shown and upload.media_type.startswith("image/"):
            return Path(upload.path), upload.media_type
        folder = self.store.upload_folder(upload.id)
        folder.mkdir(exist_ok=True, mode=0o700)
        view = await self._view(Path(upload.path), folder / "view.png", upload.name, self.limits.megapixels)
        upload.taken = bytes_in(folder)
        return view

    async def _view(self, source: Path, view: Path, name: str, megapixels: float) -> tuple[Path, str]:
        if not view.exists():
            names = [(str(source), name), (str(view), "the view")]
            request = {"task": "view", "source": str(source), "output": str(view), "names": names}
            await self.crew.look({**request, "max_megapixels": megapixels})
        return view, "image/png"

    @contextmanager
    def _place(self, coming: int) -> Iterator[None]:
        """Room on the disk and among the uploads that are coming."""
        self.crew.check_closing()
        if self._coming >= self.limits.uploads_at_once:
            raise RefusedError(503, "busy", "many files are coming already; try again in a moment", retry_after=2)
        check_disk(self.store.folder, self.store.taken + self._expected, coming, self.limits)
        self._coming, self._expected = self._coming + 1, self._expected + coming
        try:
            yield
        finally:
            self._coming, self._expected = self._coming - 1, self._expected - coming

    def _arrived(self, body: AsyncIterator[bytes], headers: Any, most: int) -> "_Arrival":
        return _Arrival(self, body, headers, most)

    def _below_root(self, given: str) -> Path:
        """A file below the root, links followed. Raises RefusedError; what lies elsewhere might as well not exist."""
        if self.settings.root is None:
            raise RefusedError(
                403, "no-paths", "this server takes no paths; upload the file, or start it with --root FOLDER"
            )
        missing = RefusedError(404, "no-file", "there is no such file below the server's root")
        if "\0" in given:
            raise missing
        root = self.settings.root.resolve()
        try:
            path = (root / given).resolve(strict=True)
            if not path.is_relative_to(root) or not path.is_file():
                raise missing
            if not os.access(path, os.R_OK):
                raise missing
        except (OSError, RuntimeError, ValueError):
            raise missing from None
        return path

    def _keep(self, key: str, name: str, path: Path, facts: dict[str, Any], *, own: bool) -> Upload:
        stamp = _stamp(path)
        upload = Upload(
            id=key,
            name=name,
            kind=facts["kind"],
            path=str(path),
            own=own,
            stamp=stamp,
            media_type=facts["media_type"],
            suffix=facts["suffix"],
            rows=facts["rows"],
            cols=facts["cols"],
            frames=facts["frames"],
            seconds=facts["seconds"],
            bytes=stamp[0],
            taken=stamp[0] if own else 0,
            recommended=facts["recommended"],
            notes=facts["notes"],
            created=time.time(),
            expires=self._later(),
        )
        self.store.save(upload)
        return upload

    def _later(self) -> float:
        return time.time() + self.limits.hours_kept * 3600

    # ---- jobs

    async def add_job(self, asked: schema.JobRequest) -> Job:
        """Queue a job. Raises RefusedError."""
        if (asked.upload is None) == (asked.path is None):
            raise RefusedError(422, "invalid", "give either the id of an `upload` or a `path`")
        self.crew.check_room()
        upload = await self.add_path(asked.path) if asked.path is not None else self.upload(str(asked.upload))
        job = self._planned(upload, asked.options)
        self.crew.check_room()
        check_disk(self.store.folder, self.store.taken + self._expected, job.taken, self.limits)
        upload.expires = self._later()
        self.store.save(upload)
        self.crew.submit(job)
        return job

    def _planned(self, upload: Upload, options: schema.Options) -> Job:
        """What to make, checked as far as that can be before the work. Raises RefusedError."""
        suffix = _suffix_of(upload, options.format)
        if options.guess_map and options.format is None and upload.kind == "picture" and suffix not in _LOSSLESS:
            suffix = ".png"  # the map is calibrated for what networks make, which a lossy format changes
        moves = upload.kind == "video" or (upload.kind == "animation" and suffix in (*CONTAINERS, ".gif", ".webp"))
        _check_suits(options, moves=moves)
        if options.consistent is not None and options.consistent not in REDUCTIONS:
            raise RefusedError(422, "invalid", f"`consistent` is one of {', '.join(REDUCTIONS)}")
        scales = self._scales(options.model if options.sharpness is None else SHARP)
        scale = options.scale
        if scale is None and options.size is None:
            scale = float(scales[0]) if len(scales) == 1 else 2.0
        wishes = {
            "scale": scale,
            "size": options.size,
            "model": options.model,
            "sharpness": options.sharpness,
            "quality": options.quality,
            "consistent": options.consistent,
            "ensemble": options.ensemble,
            **(
                {"codec": options.codec, "crf": options.crf, "start": options.start, "end": options.end}
                if moves
                else {}
            ),
        }
        rows, cols, label = _target(wishes, (upload.rows, upload.cols))
        frames = _frames_of(upload, options) if moves else 1
        check_result(rows, cols, frames, 8 if options.ensemble else 1, self.limits)
        stem = Path(upload.name).stem or "unnamed"
        now = time.time()
        return Job(
            id=new_id(),
            upload=upload.id,
            name=f"{stem}_{label}{suffix}",
            options={**wishes, "format": options.format, "guess_map": options.guess_map},
            model=self._model_name(options),
            scale=round(max(rows / upload.rows, cols / upload.cols), 4),
            rows=upload.rows,
            cols=upload.cols,
            output_rows=rows,
            output_cols=cols,
            frames=frames,
            moves=moves,
            suffix=suffix,
            created=now,
            expires=now + self.limits.hours_kept * 3600,
            taken=math.ceil(rows * cols * (frames * _FRAME_BYTES if moves else _PICTURE_BYTES)),
        )

    def _scales(self, name: str) -> list[int]:
        """The scales that a model has, none where it takes any. Raises RefusedError where there is no such model."""
        if name in ("auto", *CLASSICAL):
            return []
        if name in self.store.models:
            return [self.store.models[name].scale]
        found = [card.scale for card in self._cards if name in (card.name, family(card))]
        if not found:
            known = ", ".join(("auto", *families(), *CLASSICAL))
            raise RefusedError(
                422, "no-model", f"there is no model of that name; there are {known}, and those of /models"
            )
        return found

    def _model_name(self, options: schema.Options) -> str:
        own = self.store.models.get(options.model)
        return options.model if own is None else own.name

    def job(self, key: str) -> Job:
        """The job of this id. Raises RefusedError."""
        job = self.store.jobs.get(key)
        if job is None:
            raise RefusedError(404, "no-job", "there is no such job, or its time was over")
        return job

    def result(self, key: str) -> tuple[Path, Job]:
        """A finished job's file. Raises RefusedError."""
        job = self.job(key)
        path = self.store.result_file(job)
        if job.status == "expired" or (job.status == "done" and not path.exists()):
            raise RefusedError(410, "expired", f"{job.name} was deleted after its time; make it again")
        if job.status != "done":
            raise RefusedError(409, "not-done", f"{job.name} isn't there: the job is {job.status}")
        return path, job

    async def result_view(self, key: str) -> tuple[Path, str]:
        """A file that a browser can show, and its media type. Raises RefusedError."""
        path, job = self.result(key)
        if job.moves and job.suffix not in (".gif", ".webp"):
            if job.suffix not in _PLAYED:
                raise RefusedError(
                    415, "not-shown", f"browsers don't play {job.suffix[1:]}; download it, or make it again as mp4"
                )
            return path, MEDIA_TYPES[job.suffix]
        if job.suffix in _SHOWN and _small(job.output_rows, job.output_cols):
            return path, MEDIA_TYPES[job.suffix]
        view = await self._view(path, path.with_name("view.png"), job.name, self.limits.result_megapixels * 1.1)
        job.taken = bytes_in(path.parent)
        return view

    def guess_map(self, key: str, *, heat: bool) -> Path:
        """The 16-bit map, or the heat over the result. Raises RefusedError."""
        _, job = self.result(key)
        folder = self.store.job_folder(job.id)
        path = folder / ("heat.png" if heat else "guess.png")
        if heat and not path.exists():  # too narrow for a legend, so nothing was cut off
            path = folder / "guess-overlay.png"
        if not job.guess_map or not path.exists():
            raise RefusedError(404, "no-guess-map", f"{job.name} has no guess map; ask for one with `guess_map`")
        return path

    async def cancel(self, key: str) -> Job:
        """End a job. Raises RefusedError where it has ended already."""
        job = self.job(key)
        if job.over and job.status != "cancelled":
            raise RefusedError(409, "over", f"{job.name} can't be cancelled: the job is {job.status}")
        await self.crew.cancel(job)
        return job

    async def delete_job(self, key: str) -> None:
        """Throw a job and its files away; one that is under way is cancelled first."""
        job = self.job(key)
        await self.crew.cancel(job)
        if self.store.jobs.get(key) is job:
            self.store.forget(job)
        self.crew.wake(job)

    # ---- models

    def models(self) -> list[schema.ModelState]:
        """Networks that are shipped, those that were uploaded, and methods."""
        shipped = [
            schema.ModelState(
                name=card.name,
                family=family(card),
                scale=card.scale,
                summary=card.summary,
                psnr=card.psnr,
                restoring=card.restoring,
                frames=card.frames,
            )
            for card in self._cards
        ]
        own = [
            schema.ModelState(
                name=model.id,
                family=model.name,
                scale=model.scale,
                summary=model.summary or f"{model.name}, uploaded",
                psnr={},
                restoring=model.restoring,
                frames=model.frames,
            )
            for model in self.store.models.values()
        ]
        methods = [
            schema.ModelState(
                name=name, family=name, scale=0, summary="classical interpolation", psnr={}, restoring=False, frames=1
            )
            for name in CLASSICAL
        ]
        return [*shipped, *own, *methods]

    async def add_model(self, body: AsyncIterator[bytes], headers: Any) -> schema.ModelState:
        """Take a network, where that is allowed. Raises RefusedError."""
        if not self.settings.allow_models:
            raise RefusedError(403, "no-models", "this server takes no networks; start it with --allow-models")
        async with self._arrived(body, headers, _MODEL_BYTES) as (path, name):
            suffix = Path(name).suffix.lower()
            if suffix not in _MODEL_SUFFIXES:
                raise RefusedError(
                    415, "unsupported", "a network is an .onnx or a .safetensors file; others can hide programs"
                )
            key = new_id()
            source = path.rename(path.with_name(f"{path.name}{suffix}"))
            try:
                request = {"task": "model", "source": str(source), "output": str(self.store.model_file(key))}
                names = [
                    (str(source), name),
                    (str(self.store.model_file(key)), "the network"),
                    (source.stem, Path(name).stem),
                ]
                facts = await self.crew.read_model({**request, "names": names})
            finally:
                source.unlink(missing_ok=True)
            facts["name"] = shown_name(facts["name"].replace(source.stem, Path(name).stem))
            model = OwnModel(id=key, expires=self._later(), **facts)
            self.store.save(model)
        return next(state for state in self.models() if state.name == key)

    def delete_model(self, key: str) -> None:
        """Throw an uploaded network away. Raises RefusedError."""
        model = self.store.models.get(key)
        if model is None:
            raise RefusedError(404, "no-model", "there is no such network among the uploaded ones")
        if any(job.options.get("model") == key and not job.over for job in self.store.jobs.values()):
            raise RefusedError(409, "in-use", f"{model.name} is being worked with; cancel its jobs first")
        self.store.forget(model)

    # ---- as HTTP says it

    def job_state(self, job: Job) -> schema.JobState:
        """All that is known of a job."""
        result = None
        if job.status == "done" and job.result is not None:
            result = schema.ResultState(name=job.name, bytes=job.result["bytes"], type=MEDIA_TYPES[job.suffix])
        status: Any = job.status
        return schema.JobState(
            id=job.id,
            upload=job.upload,
            name=job.name,
            status=status,
            progress=job.progress,
            seconds_left=job.seconds_left,
            position=self.crew.position(job),
            message=job.message,
            model=job.model,
            scale=job.scale,
            rows=job.rows,
            cols=job.cols,
            output_rows=job.output_rows,
            output_cols=job.output_cols,
            result=result,
            guess_map=job.guess_map,
            consistency=None if job.consistency is None else schema.Consistency(**job.consistency),
            notes=job.notes,
            created=job.created,
            expires=job.expires,
            video=schema.VideoState(frames=job.frames, done=job.frames_done, fps=job.fps) if job.moves else None,
        )

    def jobs(self) -> list[schema.JobState]:
        """All jobs, newest first."""
        newest = sorted(self.store.jobs.values(), key=lambda job: job.created, reverse=True)
        return [self.job_state(job) for job in newest]

    def health(self) -> schema.Health:
        """How much there is to do, and what is taken."""
        limits = self.limits
        return schema.Health(
            status="ok",
            version=version("superfine"),
            queued=self.crew.queued,
            running=self.crew.running,
            limits=schema.LimitsState(
                upload_bytes=limits.upload_bytes,
                megapixels=limits.megapixels,
                result_megapixels=limits.result_megapixels,
                clip_megapixels=limits.clip_megapixels,
                frames=limits.frames,
                queued=limits.queued,
                hours_kept=limits.hours_kept,
                workers=limits.workers,
                paths=self.settings.root is not None,
                models=self.settings.allow_models,
            ),
        )


class _Arrival:
    """A file that is being sent: a temporary one, gone at the end unless it was moved away."""

    def __init__(self, service: Service, body: AsyncIterator[bytes], headers: Any, most: int) -> None:
        length = headers.get("content-length", "")
        self._service = service
        self._body = body
        self._headers = headers
        self._most = most
        self._place = service._place(int(length) if length.isdigit() else 1_000_000)
        self._path = service.store.coming()

    async def __aenter__(self) -> tuple[Path, str]:
        store, limits = self._service.store, self._service.limits
        self._place.__enter__()
        try:
            # Without a length the disk is asked while it comes.
            check = lambda count: check_disk(store.folder, store.taken, count, limits)  # noqa: E731
            name = await received(self._body, self._headers, self._path, self._most, check)
        except BaseException:
            await self.__aexit__()
            raise
        return self._path, shown_name(name)

    async def __aexit__(self, *error: object) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._place.__exit__(None, None, None)


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _small(rows: int, cols: int) -> bool:
    return rows * cols <= _SHOWN_MEGAPIXELS * 1e6


def _suffix_of(upload: Upload, asked: str | None) -> str:
    """The ending of the result. Raises RefusedError where the source can't become that."""
    if asked is None:
        return upload.suffix
    suffix = f".{asked.lower()}"
    pictures = [known for entry in FORMATS.values() for known in entry.suffixes]
    if suffix not in (*pictures, *CONTAINERS):
        raise RefusedError(
            422, "invalid", f"superfine doesn't write {suffix[1:]}; it writes {' '.join((*pictures, *CONTAINERS))}"
        )
    suffix = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".heif": ".heic"}.get(suffix, suffix)
    if upload.kind == "picture" and suffix in CONTAINERS:
        raise RefusedError(
            422, "invalid", f"{upload.name} is a picture, and {suffix[1:]} is for videos; leave `format` out"
        )
    if upload.kind == "video" and suffix not in (*CONTAINERS, ".gif", ".webp"):
        raise RefusedError(
            422, "invalid", f"{upload.name} is a video, and {suffix[1:]} is for pictures; leave `format` out"
        )
    return suffix


def _check_suits(options: schema.Options, *, moves: bool) -> None:
    """Raise RefusedError for options that mean nothing to such a source."""
    if moves and options.quality is not None:
        raise RefusedError(422, "invalid", "`quality` is for pictures; videos take `crf`")
    if moves and options.guess_map:
        raise RefusedError(422, "invalid", "`guess_map` is made of pictures, not of videos; leave it out")
    given = [name for name, default in _FOR_CLIPS.items() if getattr(options, name) != default]
    if given and not moves:
        raise RefusedError(422, "invalid", f"`{given[0]}` is for videos; leave it out")


def _target(wishes: dict[str, Any], size: Size) -> tuple[int, int, str]:
    """(rows, cols) of the result, and what it is called by; the options are checked on the way. Raises RefusedError."""
    from fractions import Fraction

    given = dict(wishes)
    if given["size"] is not None:
        given["size"] = tuple(given["size"])
    for name in ("start", "end"):
        if given.get(name) is not None:
            given[name] = Fraction(given[name]).limit_denominator(1000)
    # Which model it is was looked at before; here a name that is no path will do.
    given["model"] = "auto" if given["sharpness"] is not None else given["model"]
    try:
        job = Wishes(**given)
        rows, cols = job.target(size)
    except UsageError as error:
        raise RefusedError(422, "invalid", str(error)) from error
    return rows, cols, job.label


def _frames_of(upload: Upload, options: schema.Options) -> int:
    """How many frames a stretch of a clip has, nearly."""
    begin, end = options.start or 0.0, upload.seconds if options.end is None else min(options.end, upload.seconds)
    if begin >= max(upload.seconds, 1e-9):
        raise RefusedError(422, "invalid", f"{upload.name} ends at {upload.seconds:.4g} seconds, before `start`")
    return max(1, math.ceil(upload.frames * (end - begin) / max(upload.seconds, 1e-9)))
