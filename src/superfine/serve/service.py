"""What can be asked of a server, without HTTP's words: sources come, become jobs, and results are had."""

import asyncio
import math
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from superfine.classical.reduction import REDUCTIONS
from superfine.encoding import CONTAINERS
from superfine.errors import UsageError
from superfine.image import FORMATS, codecs
from superfine.models import CLASSICAL, Card, families, family, shipped_cards
from superfine.route import SHARP, Size
from superfine.route import Job as Wishes
from superfine.serve import schema
from superfine.serve.arrival import received
from superfine.serve.crew import Crew, Worker
from superfine.serve.limits import Limits, RefusedError, check_clip, check_disk, check_result, shown_name, web_words
from superfine.serve.store import Job, OwnModel, Store, Upload, bytes_in, new_id, readable, stamp_of
from superfine.serve.worker import MEDIA_TYPES

__all__ = ["Service", "Settings"]

_SWEEP_SECONDS: Final = 30.0
_MOST_RECORDS: Final = 10_000
_MODEL_BYTES: Final = 200_000_000
_MODEL_SUFFIXES: Final = (".onnx", ".safetensors")
# What browsers show by themselves, where it isn't too large for them.
_SHOWN: Final = frozenset({".png", ".jpg", ".webp", ".gif", ".avif"})
_PLAYED: Final = frozenset({".mp4", ".webm"})
_PLAYED_TYPES: Final = frozenset(MEDIA_TYPES[suffix] for suffix in _PLAYED)
_SHOWN_MEGAPIXELS: Final = 50.0
_SHOWN_SIDE: Final = 16_384
_SHOWN_BYTES: Final = 100_000_000
# What holds the pixels that a guess map is made of.
_LOSSLESS: Final = frozenset({".png", ".tif"})
# Options that only clips know.
_FOR_CLIPS: Final = {"codec": "auto", "crf": None, "start": None, "end": None}
# Bytes on the disk for each byte of pixels, where nothing could be packed.
_UNPACKED: Final = 1.1
# For each pixel of a guess map: 16 bits, and the heat over the result.
_MAP_BYTES: Final = 2.0 + 3.0
# For each pixel of a video's frame, where the codec may lose something.
_FRAME_BYTES: Final = 0.5
# With less a codec loses next to nothing, and packs as little.
_FINE_CRF: Final = 10
# A view has no side over 8192 pixels, of four bytes at most.
_VIEW_PIXELS, _VIEW_BYTES = 8192**2, 4.0


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
        self.crew = Crew(self.store, limits, make, settings.root)
        self._coming = 0
        self._claims: dict[Path, int] = {}
        self._viewing = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        self._cards: list[Card] = []
        self._formats: list[str] = []

    async def open(self) -> None:
        """Begin; what an earlier server left unfinished goes on."""
        self._cards = await asyncio.to_thread(shipped_cards)
        self._formats = await asyncio.to_thread(_formats)
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
            try:
                for job in self.store.expire(self.limits.hours_kept, self.limits.jobs_kept):
                    self.crew.wake(job)
            except Exception as error:  # noqa: BLE001 - a full disk must not end what makes room on it
                facts = {"message": "superfine serve: what is over its time couldn't be deleted", "exception": error}
                asyncio.get_running_loop().call_exception_handler(facts)

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
            try:
                kept = path.rename(folder / f"source{facts['suffix']}")
                return self._keep(key, name, kept, facts, stamp_of(kept), own=True)
            except BaseException:  # without a record it would lie there until the next start
                shutil.rmtree(folder, ignore_errors=True)
                raise

    async def add_path(self, given: str) -> Upload:
        """Look at a file below the root. Raises RefusedError."""
        path = self._below_root(given)
        stamp = stamp_of(path)
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
        return self._keep(new_id(), name, path, facts, stamp, own=False)

    def upload(self, key: str) -> Upload:
        """The upload of this id. Raises RefusedError."""
        upload = self.store.uploads.get(key)
        if upload is None:
            raise RefusedError(404, "no-upload", "there is no such file, or its time was over; send it again")
        return upload

    def _source(self, key: str) -> Upload:
        """The same, where its file is still the one that was looked at. Raises RefusedError."""
        upload = self.upload(key)
        if not readable(upload, self.settings.root):
            raise RefusedError(
                404, "no-upload", f"{upload.name} was changed, moved or removed since it was looked at; name it again"
            )
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

    def upload_file(self, key: str) -> tuple[Path, str]:
        """A video's own file, and its media type. Raises RefusedError where browsers play none of its kind."""
        upload = self._source(key)
        if upload.kind != "video" or upload.media_type not in _PLAYED_TYPES:
            raise RefusedError(415, "not-shown", f"browsers don't play {upload.name}; look at its `view`")
        return Path(upload.path), upload.media_type

    async def upload_view(self, key: str, at: float | None = None) -> tuple[Path, str]:
        """A file that a browser can show, and its media type. at: seconds, for one frame of what moves."""
        upload = self._source(key)
        if at is not None and (upload.kind == "animation" or (upload.kind == "video" and at > 0)):
            return await self._still(upload, at)
        suffix = Path(upload.path).suffix if upload.own else upload.suffix
        shown = upload.kind != "video" and suffix in _SHOWN and _small(upload.rows, upload.cols, upload.bytes)
        if shown and upload.media_type.startswith("image/"):
            return Path(upload.path), upload.media_type
        view = self.store.upload_folder(upload.id) / "view.png"
        return await self._view(Path(upload.path), view, upload, upload.rows * upload.cols, self.limits.megapixels)

    async def _still(self, upload: Upload, at: float) -> tuple[Path, str]:
        """What a clip shows at a moment; of each clip one such still is kept, the last that was asked for."""
        if at >= max(upload.seconds, 1e-9):
            raise _too_late(upload, "at")
        folder = self.store.upload_folder(upload.id)
        path = folder / f"still-{round(at * 1000)}.png"
        async with self._viewing:
            if not path.exists():
                for other in folder.glob("still-*.png"):
                    other.unlink(missing_ok=True)
                pixels = upload.rows * upload.cols
                await self._make_view(Path(upload.path), path, upload, pixels, self.limits.megapixels, at)
        return path, "image/png"

    async def _view(
        self, source: Path, view: Path, of: Upload | Job, pixels: int, megapixels: float
    ) -> tuple[Path, str]:
        """A PNG of a source or a result, made where there is none yet. Raises RefusedError."""
        if not view.exists():
            async with self._viewing:  # one process makes them all
                if not view.exists():
                    await self._make_view(source, view, of, pixels, megapixels)
        return view, "image/png"

    async def _make_view(
        self, source: Path, view: Path, of: Upload | Job, pixels: int, megapixels: float, at: float = 0.0
    ) -> None:
        folder = view.parent
        folder.mkdir(exist_ok=True, mode=0o700)
        names = [(str(source), of.name), (str(view), "the view")]
        request = {"task": "view", "source": str(source), "output": str(view), "names": names, "at": at}
        with self._claimed(view) as claim:
            claim(math.ceil(min(pixels, _VIEW_PIXELS) * _VIEW_BYTES * _UNPACKED))
            try:
                await self.crew.look({**request, "max_megapixels": megapixels})
            except RefusedError:
                if self.store.knows(of):
                    raise
        if not self.store.knows(of):
            shutil.rmtree(folder, ignore_errors=True)
            raise RefusedError(404, "gone", f"{of.name} was deleted meanwhile")
        of.taken = bytes_in(folder)
        self.store.save(of)

    @contextmanager
    def _claimed(self, path: Path) -> Iterator[Callable[[int], None]]:
        """Room on the disk for a file to come: call what is given with its bytes, again where there will be more."""

        def claim(count: int) -> None:
            """Raises RefusedError where there is no room."""
            self._claims.pop(path, None)
            self._check_disk(count)
            self._claims[path] = count

        try:
            yield claim
        finally:
            self._claims.pop(path, None)

    def _check_disk(self, coming: int) -> None:
        claimed = sum(self._claims.values())
        written = sum(_size_of(path) for path in self._claims)
        promised = self.store.promised + max(0, claimed - written)
        check_disk(self.store.folder, self.store.taken + claimed, promised, coming, self.limits)

    @asynccontextmanager
    async def _arrived(self, body: AsyncIterator[bytes], headers: Any, most: int) -> AsyncIterator[tuple[Path, str]]:
        """A file that is being sent, and its name; gone at the end unless it was moved away. Raises RefusedError."""
        self.crew.check_closing()
        if self._coming >= self.limits.uploads_at_once:
            raise RefusedError(503, "busy", "many files are coming already; try again in a moment", retry_after=2)
        path = self.store.coming()
        self._coming += 1
        try:
            with self._claimed(path) as claim:
                name = await received(body, headers, path, most, claim)
                yield path, shown_name(name)
        finally:
            self._coming -= 1
            with suppress(OSError):
                path.unlink(missing_ok=True)

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

    def _keep(
        self, key: str, name: str, path: Path, facts: dict[str, Any], stamp: tuple[int, int], *, own: bool
    ) -> Upload:
        upload = Upload(
            id=key,
            name=name,
            kind=facts["kind"],
            path=str(path),
            own=own,
            stamp=stamp,
            media_type=facts["media_type"],
            suffix=facts["suffix"],
            pixel_bytes=facts["pixel_bytes"],
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
        upload = await self.add_path(asked.path) if asked.path is not None else self._source(str(asked.upload))
        job = self._planned(upload, asked.options)
        await self.crew.check(job, upload)
        upload = self._source(upload.id)  # it may be gone meanwhile
        self.crew.check_room()
        self._check_disk(job.taken)
        upload.expires, upload.started = self._later(), True
        self.store.save(upload)
        self.crew.submit(job)
        return job

    def _planned(self, upload: Upload, options: schema.Options) -> Job:
        """What to make, checked as far as that can be before the work. Raises RefusedError."""
        suffix = _suffix_of(upload, options.format)
        if suffix[1:] not in self._formats:
            raise RefusedError(
                422, "invalid", f"this server doesn't write {suffix[1:]}; give `format` as {', '.join(self._formats)}"
            )
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
            source_name=upload.name,
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
            taken=_bytes_expected(upload, options, suffix, rows * cols, frames if moves else 0),
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

    def results(self, keys: list[str]) -> list[tuple[Path, Job]]:
        """Finished jobs' files: of these, or without any of all that are done. Raises RefusedError."""
        if keys:
            return [self.result(key) for key in dict.fromkeys(keys)]
        done = [job for job in self.store.jobs.values() if job.status == "done"]
        if not done:
            raise RefusedError(409, "not-done", "no job is done yet")
        return [(self.store.result_file(job), job) for job in done]

    async def result_view(self, key: str) -> tuple[Path, str]:
        """A file that a browser can show, and its media type. Raises RefusedError."""
        path, job = self.result(key)
        if job.moves and job.suffix not in (".gif", ".webp"):
            if job.suffix not in _PLAYED:
                raise RefusedError(
                    415, "not-shown", f"browsers don't play {job.suffix[1:]}; download it, or make it again as mp4"
                )
            return path, MEDIA_TYPES[job.suffix]
        if job.suffix in _SHOWN and _small(job.output_rows, job.output_cols, _size_of(path)):
            return path, MEDIA_TYPES[job.suffix]
        pixels, most = job.output_rows * job.output_cols, self.limits.result_megapixels * 1.1
        return await self._view(path, path.with_name("view.png"), job, pixels, most)

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
            source_name=job.source_name or job.name,
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
            video=schema.VideoState(
                frames=job.frames, done=job.frames_done, fps=job.fps, start=job.options.get("start") or 0.0
            )
            if job.moves
            else None,
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
            formats=self._formats,
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


def _formats() -> list[str]:
    """The endings, without their dots, of what can be read and written here."""
    ready = [FORMATS[name].suffixes[0] for name, state in codecs().items() if state.startswith("ready")]
    return [suffix[1:] for suffix in (*ready, *CONTAINERS)]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it isn't there yet, or any more
        return 0


def _small(rows: int, cols: int, count: int) -> bool:
    """Whether browsers show a picture of so many bytes as it is."""
    sides = rows * cols <= _SHOWN_MEGAPIXELS * 1e6 and max(rows, cols) <= _SHOWN_SIDE
    return sides and count <= _SHOWN_BYTES


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
        raise RefusedError(422, "invalid", web_words(str(error))) from error
    return rows, cols, job.label


def _bytes_expected(upload: Upload, options: schema.Options, suffix: str, pixels: int, frames: int) -> int:
    """That a job may write. pixels: of the result, or each of its frames; frames: none of a picture.

    Of a clip twice, in segments and joined, and what is copied from the source besides its frames.
    """
    whole = upload.pixel_bytes * _UNPACKED
    if not frames:
        return math.ceil(pixels * (whole + (_MAP_BYTES if options.guess_map else 0.0)))
    has_alpha = upload.pixel_bytes % 4 == 0  # which Matroska keeps by FFV1
    lossless = options.codec == "ffv1" or suffix in (".gif", ".webp") or (suffix == ".mkv" and has_alpha)
    lossless = lossless or (options.crf is not None and options.crf < _FINE_CRF)
    return math.ceil(2 * pixels * frames * (whole if lossless else _FRAME_BYTES)) + upload.bytes


def _frames_of(upload: Upload, options: schema.Options) -> int:
    """How many frames a stretch of a clip has, nearly."""
    begin, end = options.start or 0.0, upload.seconds if options.end is None else min(options.end, upload.seconds)
    if begin >= max(upload.seconds, 1e-9):
        raise _too_late(upload, "start")
    return max(1, math.ceil(upload.frames * (end - begin) / max(upload.seconds, 1e-9)))


def _too_late(upload: Upload, name: str) -> RefusedError:
    return RefusedError(422, "invalid", f"{upload.name} ends at {upload.seconds:.4g} seconds, before `{name}`")
