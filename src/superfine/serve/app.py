"""The routes: the page, and the API below /api/v1."""

import asyncio
import errno
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from superfine.serve import schema
from superfine.serve.archive import packed
from superfine.serve.crew import Worker, came
from superfine.serve.guard import HEAD_ALONE, STREAMS, Door, Guard, Message, Receive, Send
from superfine.serve.limits import RefusedError
from superfine.serve.service import Service, Settings
from superfine.serve.store import Job
from superfine.serve.worker import MEDIA_TYPES

__all__ = ["API", "make_app"]

API: Final = "/api/v1"
# Without a change for so long, a comment keeps proxies from closing the connection.
_HEARTBEAT_SECONDS: Final = 15.0
# Changes that come faster are told together.
_EVENT_SECONDS: Final = 0.2
_MOST_ZIPPED: Final = 500
_PAGE_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
Key = Annotated[schema.Id, InPath(description="An id of 32 hexadecimal digits.")]
Moment = Annotated[
    float | None, Query(ge=0, le=1e6, allow_inf_nan=False, description="Seconds, of what moves: one frame of it.")
]
_FILE: Final = {"schema": {"type": "string", "format": "binary"}}
_EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"const": "job"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobState"},
        },
    },
}
_UPLOAD_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": _FILE,
        },
    }
}


def make_app(
    settings: Settings, door: Door | None = None, make_worker: Callable[[frozenset[int]], Worker] | None = None
) -> Guard:
    """The whole application, for any ASGI server: routes behind the guard.

    make_worker: from the cores that it may use; a process by default.
    """
    door = door or Door()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service = Service(settings, make_worker)
        app.state.service = service
        await service.open()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="superfine",
        version=_version(),
        summary="Super-resolution that runs unplugged, loses nothing, and says what it did.",
        docs_url=None,  # they would fetch scripts from elsewhere
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
        lifespan=life,
        redirect_slashes=False,
    )
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(sqlite3.OperationalError, _no_room)
    app.add_exception_handler(OSError, _no_room)
    app.add_exception_handler(Exception, _failed)
    app.include_router(_api(door))
    _add_page(app)
    return Guard(app, door)


def _version() -> str:
    from importlib.metadata import version

    return version("superfine")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# ---- routes


def _api(door: Door) -> APIRouter:
    # The guard has looked at the token by then; this only says so in the OpenAPI.
    token = HTTPBearer(auto_error=False, scheme_name="token", description="The one that the server printed.")
    api = APIRouter(
        prefix=API,
        responses=schema.failures(400, 401, 403, 408, 413, 422, 503),
        dependencies=[] if door.token is None else [Depends(token)],
    )
    _add_uploads(api)
    _add_jobs(api)
    _add_results(api)
    _add_models(api)

    @api.get("/health", tags=["server"])
    async def health(request: Request) -> schema.Health:
        """Whether the server works, how much it has to do, and what it takes."""
        return _service(request).health()

    return api


def _add_uploads(api: APIRouter) -> None:
    @api.post(
        "/uploads",
        status_code=201,
        tags=["uploads"],
        responses=schema.failures(408, 413, 415, 503),
        openapi_extra=_UPLOAD_BODY,
    )
    async def upload(request: Request, response: Response) -> schema.UploadState:
        """Send a picture or a video: as a form's field `file`, or as the body, with its name in X-File-Name."""
        added = await _service(request).add_upload(request.stream(), request.headers)
        response.headers["Location"] = f"{API}/uploads/{added.id}"
        return schema.UploadState.model_validate(added, from_attributes=True)

    @api.get("/uploads", tags=["uploads"])
    async def uploads(request: Request) -> list[schema.UploadState]:
        """All uploads, newest first."""
        found = _service(request).uploads()
        return [schema.UploadState.model_validate(upload, from_attributes=True) for upload in found]

    @api.get("/uploads/{key}", tags=["uploads"], responses=schema.failures(404))
    async def show_upload(request: Request, key: Key) -> schema.UploadState:
        """What is known of an upload."""
        return schema.UploadState.model_validate(_service(request).upload(key), from_attributes=True)

    @api.get(
        "/uploads/{key}/view",
        tags=["uploads"],
        response_class=FileResponse,
        responses={**schema.failures(404, 410, 413, 415, 416, 503), 200: {"content": {"image/*": _FILE}}},
    )
    async def view_upload(request: Request, key: Key, at: Moment = None) -> FileResponse:
        """The source as browsers can show it; of a video, or where it's given, the frame at a moment."""
        path, kind = await _service(request).upload_view(key, at)
        return _shown(path, kind)

    @api.get(
        "/uploads/{key}/file",
        tags=["uploads"],
        response_class=FileResponse,
        responses={
            **schema.failures(404, 410, 415, 416),
            200: {"content": {"video/*": _FILE}},
            206: {"description": "A range"},
        },
    )
    async def play_upload(request: Request, key: Key) -> FileResponse:
        """A video as it was sent, where browsers play its kind."""
        return _shown(*_service(request).upload_file(key))

    @api.delete("/uploads/{key}", status_code=204, tags=["uploads"], responses=schema.failures(404, 409))
    async def delete_upload(request: Request, key: Key) -> None:
        """Throw a source away."""
        _service(request).delete_upload(key)


def _add_jobs(api: APIRouter) -> None:
    @api.post("/jobs", status_code=202, tags=["jobs"], responses=schema.failures(404, 413, 415, 429, 503))
    async def submit(request: Request, response: Response, asked: schema.JobRequest) -> schema.JobState:
        """Queue a job; what can't be made is refused at once."""
        service = _service(request)
        job = await service.add_job(asked)
        response.headers["Location"] = f"{API}/jobs/{job.id}"
        return service.job_state(job)

    @api.get("/jobs", tags=["jobs"])
    async def jobs(request: Request) -> list[schema.JobState]:
        """All jobs, newest first."""
        return _service(request).jobs()

    @api.get("/jobs/{key}", tags=["jobs"], responses=schema.failures(404))
    async def show_job(request: Request, key: Key) -> schema.JobState:
        """How a job stands."""
        service = _service(request)
        return service.job_state(service.job(key))

    @api.get(
        "/jobs/{key}/events",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses={
            **schema.failures(404, 503),
            200: {"content": {"text/event-stream": {"schema": _EVENT}}},
        },
    )
    async def events(request: Request, key: Key) -> StreamingResponse:
        """Each change of a job as an event `job`, whose data is the whole job; ends when the job has."""
        service = _service(request)
        return _EventResponse(service, service.job(key))

    @api.post("/jobs/{key}/cancel", tags=["jobs"], responses=schema.failures(404, 409))
    async def cancel(request: Request, key: Key) -> schema.JobState:
        """End a job at its next tile or frame."""
        service = _service(request)
        return service.job_state(await service.cancel(key))

    @api.delete("/jobs/{key}", status_code=204, tags=["jobs"], responses=schema.failures(404))
    async def delete_job(request: Request, key: Key) -> None:
        """Throw a job and its files away; one that is under way is cancelled."""
        await _service(request).delete_job(key)


def _add_results(api: APIRouter) -> None:
    gone = schema.failures(404, 409, 410, 416)

    @api.get(
        "/jobs/{key}/result",
        tags=["results"],
        response_class=FileResponse,
        responses={**gone, 200: {"content": {"image/*": _FILE, "video/*": _FILE}}, 206: {"description": "A range"}},
    )
    async def result(request: Request, key: Key) -> FileResponse:
        """The file, to be saved."""
        path, job = _service(request).result(key)
        return _File(path, media_type=MEDIA_TYPES[job.suffix], filename=job.name)

    @api.get(
        "/jobs/{key}/view",
        tags=["results"],
        response_class=FileResponse,
        responses={
            **gone,
            **schema.failures(413, 415, 503),
            200: {"content": {"image/*": _FILE, "video/*": _FILE}},
            206: {"description": "A range"},
        },
    )
    async def view_result(request: Request, key: Key) -> FileResponse:
        """The result as browsers can show it."""
        path, kind = await _service(request).result_view(key)
        return _shown(path, kind)

    @api.get(
        "/jobs/{key}/guess-map",
        tags=["results"],
        response_class=FileResponse,
        responses={**gone, 200: {"content": {"image/png": _FILE}}},
    )
    async def heat(request: Request, key: Key) -> FileResponse:
        """The result with heat over it: how far each pixel may be off."""
        return _shown(_service(request).guess_map(key, heat=True), "image/png")

    @api.get(
        "/jobs/{key}/guess-map.png",
        tags=["results"],
        response_class=FileResponse,
        responses={**gone, 200: {"content": {"image/png": _FILE}}},
    )
    async def guess_map(request: Request, key: Key) -> FileResponse:
        """The same as numbers: a 16-bit PNG, which says itself what they mean."""
        service = _service(request)
        name = f"{Path(service.job(key).name).stem}_guess.png"
        return _File(service.guess_map(key, heat=False), media_type="image/png", filename=name)

    @api.get(
        "/results.zip",
        tags=["results"],
        response_class=StreamingResponse,
        responses={**gone, 200: {"content": {"application/zip": _FILE}}},
    )
    async def results(
        request: Request,
        job: Annotated[list[schema.Id], Query(default_factory=list, json_schema_extra={"maxItems": _MOST_ZIPPED})],
    ) -> StreamingResponse:
        """Several results as one zip: of the jobs that are named, or of all that are done."""
        if len(job) > _MOST_ZIPPED:
            raise RefusedError(
                422,
                "too-many",
                f"one zip holds {_MOST_ZIPPED} results, and {len(job):,} were asked for; get the rest by another one,"
                " or name none for all that are done",
            )
        files = [(made.name, path) for path, made in _service(request).results(job)]
        headers = {"Content-Disposition": 'attachment; filename="superfine.zip"'}
        return StreamingResponse(packed(files), media_type="application/zip", headers=headers)


def _add_models(api: APIRouter) -> None:
    @api.get("/models", tags=["models"])
    async def models(request: Request) -> list[schema.ModelState]:
        """Networks, then methods."""
        return _service(request).models()

    @api.post(
        "/models",
        status_code=201,
        tags=["models"],
        responses=schema.failures(408, 413, 415, 503),
        openapi_extra=_UPLOAD_BODY,
    )
    async def add_model(request: Request) -> schema.ModelState:
        """Send a network, .onnx or .safetensors, where the server allows it; its `name` is what jobs call it."""
        return await _service(request).add_model(request.stream(), request.headers)

    @api.delete("/models/{key}", status_code=204, tags=["models"], responses=schema.failures(404, 409))
    async def delete_model(request: Request, key: Key) -> None:
        """Throw an uploaded network away."""
        _service(request).delete_model(key)


def _add_page(app: FastAPI) -> None:
    """The files of the page, each by its own name: nothing that is asked for becomes a path."""
    files = {entry.name: entry for entry in (resources.files("superfine.serve") / "page").iterdir() if entry.is_file()}

    def serve(name: str) -> Callable[[], Awaitable[Response]]:
        kind = _PAGE_TYPES[Path(name).suffix]

        async def page() -> Response:
            return Response(files[name].read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})

        return page

    for name in files:
        if Path(name).suffix in _PAGE_TYPES:
            app.add_api_route(f"/{name}", serve(name), include_in_schema=False)
    if "index.html" in files:
        app.add_api_route("/", serve("index.html"), include_in_schema=False)


# ---- answers


def _shown(path: Path, kind: str) -> FileResponse:
    return _File(path, media_type=kind, content_disposition_type="inline")


_RANGE: Final = re.compile(rb"bytes=\s*(?:\d+-\d*|-\d+)(?:\s*,\s*(?:\d+-\d*|-\d+))*\s*", re.IGNORECASE)


class _File(FileResponse):
    """Whose refusals are JSON, as all others are."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self.stat_result = await asyncio.to_thread(os.stat, self.path)
        except OSError:
            raise RefusedError(410, "expired", "the file was deleted a moment ago; make it again") from None
        self.set_stat_headers(self.stat_result)
        if scope.get(HEAD_ALONE):
            scope = {**scope, "method": "HEAD"}
        # What isn't a range is as if it weren't there. Source: RFC 9110, 14.2.
        kept = [
            (name, value) for name, value in scope["headers"] if name.lower() != b"range" or _RANGE.fullmatch(value)
        ]
        scope = {**scope, "headers": kept}
        refusal: Response | None = None

        async def heeded(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                size = self.stat_result.st_size  # type: ignore[union-attr]
                words = f"Range asks for what isn't there: the file has {size:,} bytes; ask as bytes=FIRST-LAST"
                refusal = _answer(416, "no-such-range", words, {"Content-Range": f"bytes */{size}"})
            elif refusal is None:
                await send(message)

        await super().__call__(scope, receive, heeded)
        if refusal is not None:
            await refusal(scope, receive, send)


class _EventResponse(StreamingResponse):
    """The changes of a job; takes one of the places for listeners, and refuses before it begins where there is none."""

    def __init__(self, service: Service, job: Job) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_events(service, job), media_type="text/event-stream", headers=headers)
        self._crew = service.crew

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        with self._crew.listening():
            await super().__call__(scope, receive, send)


async def _events(service: Service, job: Job) -> AsyncIterator[str]:
    told = ""
    while True:
        change = None if job.over else service.crew.next_change(job)
        state = service.job_state(job).model_dump_json()
        if state != told:
            told = state
            yield f"event: job\ndata: {state}\n\n"
        if change is None or service.crew.closing:
            return
        if not await came(change, _HEARTBEAT_SECONDS):
            yield ": still here\n\n"
        elif not job.over:
            await asyncio.sleep(_EVENT_SECONDS)


def _answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - registered for it
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 408:  # or it would go on sending
        headers["Connection"] = "close"
    return _answer(error.status, error.code, str(error), headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    first = error.errors()[0]
    if first.get("type") == "json_invalid":
        return _answer(422, "invalid", f"the body is no JSON: {first.get('ctx', {}).get('error', 'it breaks off')}")
    if tuple(first.get("loc", ())) == ("body",) and "json" not in request.headers.get("content-type", ""):
        return _answer(
            422, "invalid", "the body is read as JSON where the header Content-Type: application/json says so"
        )
    place = ".".join(str(part) for part in first.get("loc", ())[1:]) or "the request"
    return _answer(422, "invalid", f"{place}: {str(first.get('msg', 'is wrong'))[:300]}")


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 404:
        return _answer(
            404, "not-found", f"there is nothing here; the API begins at {API}, and {API}/openapi.json says what it has"
        )
    if error.status_code == 405:
        allow = {"Allow": ", ".join(_methods(request))}
        return _answer(405, "wrong-method", "this can't be asked by that method", allow)
    return _answer(error.status_code, "bad-request", str(error.detail), dict(error.headers or {}))


def _methods(request: Request) -> list[str]:
    """All by which a path can be asked; Starlette names those of its first route alone."""
    found: set[str] = set()
    for method in ("DELETE", "GET", "POST"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] == Match.FULL for route in request.app.routes):
            found.add(method)
    if "GET" in found and not request.url.path.endswith(STREAMS):
        found.add("HEAD")
    return sorted(found)


async def _gone(_: Request, __: Exception) -> Response:
    return _answer(400, "gone", "the sender hung up")


async def _no_room(_: Request, error: Exception) -> Response:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not (full or isinstance(error, sqlite3.OperationalError)):
        raise error
    words = "the server can't keep anything at the moment, as its disk may be full; try again later"
    return _answer(503, "disk-full", words, {"Retry-After": "600"})


async def _failed(_: Request, __: Exception) -> Response:
    return _answer(500, "failed", "the server failed; its log says how")
