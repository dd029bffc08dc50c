"""`superfine serve`: the API in process, with workers that are threads instead of processes but for the last tests."""

import asyncio
import errno
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import av
import numpy as np
import pytest
import skimage.io
import tifffile
import typer
from fastapi import Request
from fastapi.testclient import TestClient
from PIL import Image
from skimage import data
from typer.testing import CliRunner
from uvicorn.server import ServerState

from clips import make_clip
from hostile.makers import STRANGERS, encoded, png_bomb
from superfine.cli_serve import serve
from superfine.errors import MissingExtraError, OutputError, UsageError
from superfine.models import CLASSICAL, list_models
from superfine.serve import connections, worker
from superfine.serve.app import API, _EventResponse, _events, _File, _refused, make_app
from superfine.serve.archive import packed
from superfine.serve.arrival import received
from superfine.serve.crew import Worker, came
from superfine.serve.guard import Door, Guard
from superfine.serve.limits import Limits, RefusedError, machine_limits, shown_name, web_words
from superfine.serve.running import Start, door_of, opens_by_itself, run, settings_of, show_page
from superfine.serve.service import Service, Settings
from superfine.serve.store import Job, Store
from superfine.serve.worker import _Listener, answer_to, plain_words

BASE = "http://127.0.0.1:8765"
PAGE = {"Origin": BASE, "Sec-Fetch-Site": "same-origin", "X-Superfine": "1"}
TOKEN = "a-token-that-nobody-guesses"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104

#: What docs/serve.md says there is.
ROUTES = """
GET /health
GET /models
POST /models
DELETE /models/{key}
POST /uploads
GET /uploads
GET /uploads/{key}
GET /uploads/{key}/view
GET /uploads/{key}/file
DELETE /uploads/{key}
POST /jobs
GET /jobs
GET /jobs/{key}
DELETE /jobs/{key}
GET /jobs/{key}/events
GET /jobs/{key}/result
GET /jobs/{key}/view
GET /jobs/{key}/guess-map
GET /jobs/{key}/guess-map.png
POST /jobs/{key}/cancel
GET /results.zip
"""


class ThreadWorker(Worker):
    """The same work in a thread of the server's own process; `gate` holds enlarging up until it is opened."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__(frozenset(), 1e9, 1 << 40)
        self.gate = gate
        self.stopping = threading.Event()
        self.busy = asyncio.Lock()

    async def start(self) -> Any:
        return None

    async def ask(self, request: Any, seconds: float, heard: Callable[[Any], None] = lambda facts: None) -> Any:
        loop = asyncio.get_running_loop()

        def work() -> Any:
            if request["task"] == "upscale":
                while not self.gate.wait(0.01):
                    if self.stopping.is_set():
                        return {"stopped": True}
            return answer_to(request, lambda facts: loop.call_soon_threadsafe(heard, facts), self.stopping)

        async with self.busy:
            self.stopping.clear()
            return await asyncio.to_thread(work)

    async def stop(self) -> None:
        self.stopping.set()

    async def end(self) -> None:
        self.stopping.set()


class Server:
    """A running application and how to speak with it."""

    def __init__(self, folder: Path, *, door: Door | None = None, limits: dict[str, Any] | None = None, **given: Any):
        self.gate = threading.Event()
        self.gate.set()
        self.folder = folder
        settings = Settings(state=folder, limits=Limits(**{"workers": 2, **(limits or {})}), **given)
        app = make_app(settings, door, lambda cores: ThreadWorker(self.gate))
        self.app = app
        self.client = TestClient(app, base_url=BASE, follow_redirects=False)

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.client.__exit__()

    def expire(self, *given: Any) -> Any:
        """What the server does by itself every half minute."""
        assert self.client.portal is not None
        return self.client.portal.call(self.app.app.state.service.store.expire, *given)

    def get(self, path: str, **named: Any) -> Any:
        return self.client.get(f"{API}{path}", **named)

    def post(self, path: str, **named: Any) -> Any:
        return self.client.post(f"{API}{path}", **named)

    def upload(self, content: bytes, name: str = "photo.png") -> Any:
        return self.post("/uploads", content=content, headers={"X-File-Name": name})

    def submit(self, key: str, **options: Any) -> Any:
        return self.post("/jobs", json={"upload": key, "options": {"model": "nearest", **options}})

    def finished(self, job: Any) -> Any:
        """The last event of a job."""
        return self.events(job)[-1]

    def events(self, job: Any) -> list[Any]:
        lines = self.get(f"/jobs/{job['id']}/events").text.splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    def made(self, content: bytes, name: str = "photo.png", **options: Any) -> Any:
        sent = self.upload(content, name)
        assert sent.status_code == 201, sent.text
        job = self.submit(sent.json()["id"], **options)
        assert job.status_code == 202, job.text
        return self.finished(job.json())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("root")
    (root / "in").mkdir()
    (root / "in" / "photo.png").write_bytes(encoded("png"))
    (root / "out.png").symlink_to(root.parent / "secret.png")
    (root / "twin.png").symlink_to(root / "in" / "photo.png")
    (root.parent / "secret.png").write_bytes(encoded("png"))
    with Server(tmp_path_factory.mktemp("state"), root=root) as running:
        yield running


def pixels_of(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def png_of(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# ---- a picture's way


def test_a_picture_from_upload_to_result(server: Server) -> None:
    astronaut = data.astronaut()[100:160, 80:160]
    sent = server.upload(png_of(astronaut), "astro naut.png")
    assert sent.status_code == 201
    upload = sent.json()
    assert (upload["name"], upload["kind"], upload["rows"], upload["cols"]) == ("astro naut.png", "picture", 60, 80)
    assert upload["bytes"] == len(png_of(astronaut))
    assert upload["recommended"]["scale"] in (2, 4)
    job = server.submit(upload["id"], scale=3)
    assert job.status_code == 202
    events = server.events(job.json())
    assert {event["id"] for event in events} == {job.json()["id"]}
    assert [event["progress"] for event in events] == sorted(event["progress"] for event in events)
    done = events[-1]
    assert (done["status"], done["progress"], done["seconds_left"], done["message"]) == ("done", 1.0, None, "")
    assert (done["output_rows"], done["output_cols"], done["scale"]) == (180, 240, 3.0)
    assert done["result"]["name"] == done["name"] == "astro naut_x3.png"
    result = server.get(f"/jobs/{done['id']}/result")
    np.testing.assert_array_equal(pixels_of(result.content), astronaut.repeat(3, 0).repeat(3, 1))
    assert result.headers["content-disposition"] == "attachment; filename*=utf-8''astro%20naut_x3.png"
    assert int(result.headers["content-length"]) == done["result"]["bytes"]
    assert server.get(f"/jobs/{done['id']}/view").content == result.content
    assert server.get(f"/uploads/{upload['id']}/view").content == png_of(astronaut)
    assert server.get(f"/jobs/{done['id']}").json() == done
    assert done in server.get("/jobs").json()
    newest = server.get("/uploads").json()[0]
    assert newest["id"] == upload["id"]
    assert newest["expires"] >= done["expires"]  # before and after are looked at together


def test_a_form_brings_the_same_as_a_bare_body(server: Server) -> None:
    content = encoded("jpeg")
    sent = server.post("/uploads", files={"file": ("ä b.jpg", content, "text/html")}, data={"other": "x"})
    assert sent.status_code == 201, sent.text
    assert (sent.json()["name"], sent.json()["bytes"]) == ("ä b.jpg", len(content))
    assert server.get(f"/uploads/{sent.json()['id']}/view").content == content


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"content": b""}, "no-file"),
        ({"data": {"other": "x"}, "files": {"another": ("a.png", b"x")}}, "no-file"),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "no-file"),
        ({"content": b"garbage", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "bad-form"),
        ({"content": b"garbage", "headers": {"content-type": "multipart/form-data"}}, "bad-form"),
        ({"files": [("file", ("a.png", b"x")), ("file", ("b.png", b"x"))]}, "bad-form"),
        ({"files": {"file": ("a.png", b"x")}, "data": {"other": "x" * 100_000}}, "bad-form"),
    ],
)
def test_a_broken_form_is_refused(server: Server, sent: dict[str, Any], code: str) -> None:
    assert error_of(server.post("/uploads", **sent)) == (400, code)
    assert list((server.folder / "coming").iterdir()) == []


def test_parts_of_a_result_can_be_had(server: Server) -> None:
    done = server.made(encoded("png"))
    whole = server.get(f"/jobs/{done['id']}/result").content
    part = server.get(f"/jobs/{done['id']}/result", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])


def test_results_come_as_one_zip(server: Server) -> None:
    jobs = [server.made(encoded("png"), name) for name in ("a.png", "b.png", "a.png")]
    packed = server.get("/results.zip", params={"job": [job["id"] for job in jobs]})
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a_x2.png", "b_x2.png", "a_x2_2.png"]
        assert archive.read("b_x2.png") == server.get(f"/jobs/{jobs[1]['id']}/result").content
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_turned_photo_is_spoken_of_as_it_is_seen(server: Server) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(data.astronaut()[:40, :60]).save(file, "JPEG", exif=exif.tobytes())
    upload = server.upload(file.getvalue(), "turned.jpg").json()
    assert (upload["rows"], upload["cols"]) == (60, 40)
    done = server.finished(server.submit(upload["id"]).json())
    assert (done["output_rows"], done["output_cols"]) == (120, 80)


def test_tiff_is_shown_as_an_upright_png(server: Server) -> None:
    upload = server.upload(encoded("tiff"), "scan.tif").json()
    shown = server.get(f"/uploads/{upload['id']}/view")
    assert shown.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(pixels_of(shown.content), pixels_of(encoded("tiff")))
    done = server.finished(server.submit(upload["id"]).json())
    assert done["result"]["type"] == "image/tiff"
    view = pixels_of(server.get(f"/jobs/{done['id']}/view").content)
    np.testing.assert_array_equal(view, pixels_of(encoded("tiff")).repeat(2, 0).repeat(2, 1))


def test_another_format_and_exact_size(server: Server) -> None:
    done = server.made(encoded("png"), scale=None, size=[90, 160], format="WEBP")
    assert (done["status"], done["name"]) == ("done", "photo_160x90.webp")
    assert pixels_of(server.get(f"/jobs/{done['id']}/result").content).shape[:2] == (90, 160)


def test_a_guess_map_comes_with_a_lossless_result(server: Server) -> None:
    """Whatever the source is; without a network there is none, and that is said at once."""
    made = server.made(encoded("png"), model="balanced", guess_map=True, format=None)
    assert (made["name"], made["guess_map"]) == ("photo_x2.png", True)
    upload = server.upload(encoded("jpeg"), "photo.jpg").json()
    refused = server.submit(upload["id"], guess_map=True)
    assert error_of(refused) == (422, "invalid")
    assert "`guess_map` is calibrated for one network" in refused.json()["error"]["message"]
    assert server.made(encoded("jpeg"), "photo.jpg", format="jpg")["name"] == "photo_x2.jpg"


def test_what_is_said_of_a_guess_map_names_no_file_of_the_server(server: Server) -> None:
    done = server.made(encoded("png"), model="balanced", guess_map=True)
    assert (done["status"], done["guess_map"]) == ("done", True)
    assert not [note for note in done["notes"] if "guess" in note]


def test_a_video(server: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    upload = server.upload(clip.read_bytes(), "holiday.avi").json()
    assert (upload["kind"], upload["frames"]) == ("video", 10)
    first = server.get(f"/uploads/{upload['id']}/view")
    assert first.headers["content-type"] == "image/png"
    assert pixels_of(first.content).shape[:2] == (upload["rows"], upload["cols"])
    done = server.finished(server.submit(upload["id"]).json())
    assert (done["status"], done["name"], done["message"]) == ("done", "holiday_x2.mp4", "")
    assert (done["video"]["frames"], done["video"]["done"]) == (10, 10)
    assert server.get(f"/jobs/{done['id']}/view").headers["content-type"] == "video/mp4"
    other = server.finished(server.submit(upload["id"], format="mkv").json())
    assert error_of(server.get(f"/jobs/{other['id']}/view")) == (415, "not-shown")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"quality": 90}, "crf"),
        ({"guess_map": True}, "guess_map"),
        ({"format": "png"}, "is a video"),
        ({"start": 99.0}, "ends at"),
        ({"start": 0.3, "end": 0.2}, "`start`"),
    ],
)
def test_what_means_nothing_to_a_video_is_refused(
    server: Server, tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    upload = server.upload(make_clip(tmp_path / "clip.mp4").read_bytes(), "clip.mp4").json()
    refused = server.submit(upload["id"], **options)
    assert error_of(refused) == (422, "invalid")
    assert word in refused.json()["error"]["message"]


# ---- names


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\r\nSet-Cookie: b.png", "aSet-Cookie_ b.png"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("\u202egpj.exe", "gpj.exe"),
        ("a\0b.png", "ab.png"),
        ("<img src=x>.png", "_img src=x_.png"),
        ("x" * 300 + ".png", "x" * 116 + ".png"),
        ("\ud800.png", "?.png".replace("?", "_")),
    ],
)
def test_names_are_shown_and_never_followed(given: str, shown: str) -> None:
    assert shown_name(given) == shown


@pytest.mark.parametrize("name", ["..%2f..%2fevil.png", "%00.png", "a%0d%0aX-Evil: 1.png", "%2e%2e", "\"';.png"])
def test_a_hostile_name_reaches_neither_disk_nor_headers(server: Server, name: str) -> None:
    before = {path.name for path in server.folder.parent.iterdir()}
    done = server.made(encoded("png"), name)
    assert done["status"] == "done"
    result = server.get(f"/jobs/{done['id']}/result")
    assert "x-evil" not in result.headers
    assert result.headers["content-disposition"].startswith("attachment; filename")
    assert {path.name for path in server.folder.parent.iterdir()} == before
    found = {path.name for path in server.folder.rglob("*") if path.is_file()}
    assert all("evil" not in file for file in found)


def test_a_failure_names_the_users_file_and_no_path(server: Server) -> None:
    cut = encoded("png")[:-300]
    refused = server.upload(cut, "holiday.png")
    assert refused.status_code in (415, 422)
    message = refused.json()["error"]["message"]
    assert message.startswith("holiday.png: ")
    assert str(server.folder) not in message
    alpha = io.BytesIO()
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(alpha, "PNG")
    failed = server.submit(server.upload(alpha.getvalue(), "logo.png").json()["id"], format="jpg")
    assert error_of(failed) == (422, "invalid")
    assert failed.json()["error"]["message"].startswith("logo.png: has alpha")
    assert str(server.folder) not in failed.text


def test_longer_paths_are_replaced_first() -> None:
    assert plain_words("/a/b/c: no", {"/a/": "", "/a/b/c": "photo.png"}) == "photo.png: no"


# ---- strangers


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("name", ["photo.png", "clip.mp4"])
def test_what_is_no_picture_is_refused_whatever_its_name(server: Server, kind: str, name: str) -> None:
    assert error_of(server.upload(STRANGERS[kind], name)) == (415, "unsupported")


def test_content_counts_and_not_the_name(server: Server) -> None:
    upload = server.upload(encoded("png"), "page.svg").json()
    shown = server.get(f"/uploads/{upload['id']}/view")
    assert shown.headers["content-type"] == "image/png"
    done = server.finished(server.submit(upload["id"]).json())
    assert done["name"] == "page_x2.png"


def test_a_bomb_is_refused_by_its_header(server: Server) -> None:
    refused = server.upload(png_bomb(20_000), "bomb.png")
    assert error_of(refused) == (413, "too-large")
    assert "400 megapixels" in refused.json()["error"]["message"]


@pytest.mark.parametrize("model", ["/etc/passwd", "nothing", "../x.onnx", "/dev/zero.onnx"])
def test_a_model_is_a_name_and_no_path(server: Server, model: str) -> None:
    upload = server.upload(encoded("png")).json()
    assert error_of(server.submit(upload["id"], model=model)) == (422, "no-model")


@pytest.mark.parametrize(
    "options",
    [
        {"consistent": "/etc/passwd"},
        {"consistent": "nothing"},
        {"scale": 0.5},
        {"scale": 17},
        {"scale": "2"},
        {"scale": 2, "size": [100, 100]},
        {"size": [10, 10]},
        {"size": [100]},
        {"sharpness": 2},
        {"quality": 0},
        {"format": "svg"},
        {"format": "mp4"},
        {"codec": "h264"},
        {"crf": 20},
        {"start": 1},
        {"engine": "cuda"},
        {"memory_gb": 1000},
        {"model": None},
        {"ensemble": "yes"},
    ],
)
def test_impossible_options_are_refused_in_words(server: Server, options: dict[str, Any]) -> None:
    upload = server.upload(encoded("png")).json()
    refused = server.submit(upload["id"], **options)
    assert error_of(refused) == (422, "invalid")
    assert len(refused.json()["error"]["message"]) > 10


@pytest.mark.parametrize("path", ["/uploads/x", "/jobs/..%2f..%2fetc", "/jobs/" + "0" * 31, "/jobs/" + "G" * 32])
def test_an_id_is_an_id(server: Server, path: str) -> None:
    assert server.get(path).status_code in (404, 422)


@pytest.mark.parametrize("rest", ["", "/events", "/result", "/view", "/guess-map", "/guess-map.png"])
def test_what_there_is_not(server: Server, rest: str) -> None:
    assert error_of(server.get(f"/jobs/{'0' * 32}{rest}")) == (404, "no-job")
    assert error_of(server.client.get("/nothing")) == (404, "not-found")


# ---- who may ask


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8765", True),
        ("localhost", True),
        ("LOCALHOST.:1", True),
        ("[::1]:8765", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8765", False),
        ("192.168.0.7:8765", False),
        ("", False),
        ("127.0.0.1:8765@evil.example", False),
        ("127.0.0.1, evil.example", False),
    ],
)
def test_a_bent_name_is_refused(server: Server, host: str, allowed: bool) -> None:
    answer = server.get("/health", headers={"Host": host})
    assert answer.status_code == (200 if allowed else 403)
    assert allowed or error_of(answer) == (403, "wrong-host")


def test_an_address_will_do_where_others_are_listened_to() -> None:
    door = Door(host=EVERYWHERE, names=("super.example",), token=TOKEN)
    assert door.open
    assert [door.goes_by(host) for host in ("192.168.0.7:8765", "super.example", "SUPER.example:443")] == [True] * 3
    assert not any(door.goes_by(host) for host in ("evil.example", "xsuper.example", "0x7f.1.evil"))
    assert not Door().open
    assert Door(names=("super.example",)).open


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        (PAGE, 415),
        ({**PAGE, "Origin": "http://evil.example"}, 403),
        ({**PAGE, "Origin": "null"}, 403),
        ({**PAGE, "Origin": "http://127.0.0.1:9999"}, 403),
        ({**PAGE, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**PAGE, "Sec-Fetch-Site": "same-site"}, 403),
        ({**PAGE, "X-Superfine": "0"}, 403),
        ({"Origin": BASE}, 403),
        ({"Cookie": "a=b"}, 403),
    ],
)
def test_only_its_own_page_may_change_something(server: Server, headers: dict[str, str], status: int) -> None:
    assert server.post("/uploads", content=b"no picture", headers=headers).status_code == status


def test_another_page_may_link_here_and_no_more(server: Server) -> None:
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.client.get("/", headers=visit).status_code in (200, 404)
    assert server.get("/health", headers=visit).status_code == 403
    assert (
        server.client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    )


@pytest.mark.parametrize("path", ["/", f"{API}/health", f"{API}/jobs/{'0' * 32}", "/nothing", f"{API}/openapi.json"])
def test_every_answer_is_strict(server: Server, path: str) -> None:
    for headers in ({}, {"Host": "evil.example"}):
        answer = server.client.get(path, headers=headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
    assert server.client.options(path, headers={"Origin": "http://evil.example"}).status_code in (403, 405)


def test_the_token(tmp_path: Path) -> None:
    with Server(tmp_path, door=Door(host=EVERYWHERE, token=TOKEN)) as server:
        assert error_of(server.get("/health")) == (401, "no-token")
        assert server.get("/health").headers["www-authenticate"] == "Bearer"
        assert error_of(server.get("/openapi.json")) == (401, "no-token")
        for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe4"):
            assert server.get("/health", headers={"Authorization": wrong.encode("latin-1")}).status_code == 401
        assert server.get("/health", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
        assert error_of(server.client.get("/?token=wrong")) == (401, "wrong-token")
        entered = server.client.get(f"/?token={TOKEN}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
        assert server.get("/health").status_code == 200  # by the cookie
        assert error_of(server.upload(b"x")) == (403, "no-header")
        assert server.post("/uploads", content=b"x", headers=PAGE).status_code == 415


# ---- bounds


def test_too_many_bytes_are_refused_before_and_while_they_come(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"upload_bytes": 50_000}) as server:
        assert error_of(server.upload(bytes(200_000))) == (413, "too-large")

        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                yield bytes(1000)

        refused = server.post("/uploads", content=pieces())
        assert error_of(refused) == (413, "too-large")
        assert error_of(server.post("/uploads", files={"file": ("a.png", bytes(60_000))})) == (413, "too-large")
        assert list((tmp_path / "coming").iterdir()) == []


def test_too_many_pixels_and_frames_are_refused_before_the_work(tmp_path: Path) -> None:
    limits = {"megapixels": 0.01, "result_megapixels": 0.05, "clip_megapixels": 0.1, "frames": 12}
    clips = [make_clip(tmp_path / f"{count}.mp4", count) for count in (10, 13)]
    with Server(tmp_path / "state", limits=limits) as server:
        assert error_of(server.upload(png_of(np.zeros((120, 120, 3), np.uint8)))) == (
            413,
            "too-large",
        )
        upload = server.upload(encoded("png")).json()
        assert error_of(server.submit(upload["id"], scale=8)) == (413, "result-too-large")
        assert error_of(server.upload(clips[1].read_bytes())) == (413, "too-long")
        clip = server.upload(clips[0].read_bytes()).json()
        assert error_of(server.submit(clip["id"], scale=3)) == (413, "result-too-large")


def test_a_full_disk_is_said_before_anything_comes(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"disk_bytes": 50_000}) as server:
        assert server.upload(encoded("png")).status_code == 201
        refused = server.upload(bytes(50_000))
        assert error_of(refused) == (503, "disk-full")
        assert int(refused.headers["retry-after"]) > 0
        (upload,) = server.app.app.state.service.store.uploads
        assert error_of(server.submit(upload, scale=8)) == (503, "disk-full")


def test_the_queue_is_bounded_and_in_order(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"queued": 2, "workers": 1}) as server:
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        jobs = [server.submit(upload["id"]).json() for _ in range(3)]
        assert [job["status"] for job in jobs] == ["running", "queued", "queued"]
        assert [job["position"] for job in jobs] == [None, 1, 2]
        full = server.submit(upload["id"])
        assert error_of(full) == (429, "queue-full")
        assert int(full.headers["retry-after"]) > 0
        health = server.get("/health").json()
        assert (health["queued"], health["running"]) == (2, 1)
        assert error_of(server.client.delete(f"{API}/uploads/{upload['id']}")) == (409, "in-use")
        server.gate.set()
        assert [server.finished(job)["status"] for job in jobs] == ["done"] * 3
        assert server.client.delete(f"{API}/uploads/{upload['id']}").status_code == 204
        assert error_of(server.get(f"/uploads/{upload['id']}")) == (404, "no-upload")
        assert not (tmp_path / "uploads" / upload["id"]).exists()


def test_a_picture_passes_videos(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with Server(tmp_path / "state", limits={"workers": 2}) as server:
        server.gate.clear()
        video = server.upload(clip.read_bytes()).json()
        picture = server.upload(encoded("png")).json()
        jobs = [server.submit(key["id"]).json() for key in (video, video, picture)]
        states = [server.get(f"/jobs/{job['id']}").json() for job in jobs]
        assert [state["status"] for state in states] == ["running", "queued", "running"]
        server.gate.set()
        assert [server.finished(job)["status"] for job in jobs] == ["done"] * 3


def test_workers_go_by_cores_and_memory() -> None:
    assert machine_limits(2, 16e9) == (2, 2, 4.0)
    assert machine_limits(1, 2e9) == (1, 1, 1.0)
    assert machine_limits(16, 64e9) == (4, 4, 8.0)
    assert machine_limits(64, 8e9) == (2, 32, 2.0)
    assert machine_limits(128, 512e9)[0] == 8


# ---- cancelling, deleting, expiring, restarting


def test_cancelling(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        running, queued = (server.submit(upload["id"]).json() for _ in range(2))
        for job in (queued, running):
            cancelled = server.post(f"/jobs/{job['id']}/cancel").json()
            assert (cancelled["status"], cancelled["message"]) == ("cancelled", "cancelled")
            assert server.post(f"/jobs/{job['id']}/cancel").status_code == 200  # twice is once
            assert error_of(server.get(f"/jobs/{job['id']}/result")) == (409, "not-done")
            assert not (tmp_path / "jobs" / job["id"]).exists()
        server.gate.set()
        done = server.finished(server.submit(upload["id"]).json())
        assert done["status"] == "done"
        assert error_of(server.post(f"/jobs/{done['id']}/cancel")) == (409, "over")


def test_deleting_a_job_stops_it_and_takes_its_files(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        job = server.submit(upload["id"]).json()
        assert server.client.delete(f"{API}/jobs/{job['id']}").status_code == 204
        assert error_of(server.get(f"/jobs/{job['id']}")) == (404, "no-job")
        server.gate.set()
        done = server.finished(server.submit(upload["id"]).json())
        assert server.client.delete(f"{API}/jobs/{done['id']}").status_code == 204
        assert list((tmp_path / "jobs").iterdir()) == []
        assert server.get("/jobs").json() == []


def test_results_expire(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"hours_kept": 1}) as server:
        done = server.made(encoded("png"))
        now = done["expires"]
        assert server.expire(1, 100, now - 60) == []
        assert server.get(f"/jobs/{done['id']}/result").status_code == 200
        (changed,) = server.expire(1, 100, now + 60)
        assert changed.id == done["id"]
        assert server.get(f"/jobs/{done['id']}").json()["status"] == "expired"
        assert error_of(server.get(f"/jobs/{done['id']}/result")) == (410, "expired")
        assert error_of(server.get(f"/uploads/{done['upload']}")) == (404, "no-upload")
        assert [path for path in tmp_path.glob("*/*") if path.is_dir()] == []
        server.expire(1, 100, now + 2 * 3600)
        assert error_of(server.get(f"/jobs/{done['id']}")) == (404, "no-job")


def test_the_oldest_finished_jobs_are_forgotten(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        jobs = [server.made(encoded("png")) for _ in range(3)]
        server.expire(1, 2)
        assert [job["id"] for job in server.get("/jobs").json()] == [jobs[2]["id"], jobs[1]["id"]]


def test_jobs_survive_a_restart(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        done = server.made(encoded("png"), "first.png")
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        under_way = [server.submit(upload["id"], scale=scale).json() for scale in (2, 3)]
    assert not server.app.app.state.service.store.jobs[under_way[0]["id"]].over
    with Server(tmp_path, limits={"workers": 1}) as server:
        assert server.get(f"/jobs/{done['id']}").json() == done
        for job, scale in zip(under_way, (2, 3), strict=True):
            assert server.finished(job)["status"] == "done"
            made = pixels_of(server.get(f"/jobs/{job['id']}/result").content)
            np.testing.assert_array_equal(made, pixels_of(encoded("png")).repeat(scale, 0).repeat(scale, 1))


def test_a_job_that_the_server_dies_of_is_given_up(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        done = server.made(encoded("png"))
    store = Store(tmp_path)
    job = store.jobs[done["id"]]
    job.status, job.attempts = "running", 3
    store.save(job)
    store.close()
    with Server(tmp_path) as server:
        state = server.get(f"/jobs/{done['id']}").json()
    assert (state["status"], state["message"]) == ("failed", "the server died three times while it worked on this")


def test_one_server_at_a_time_holds_a_folder_and_strangers_are_swept(tmp_path: Path) -> None:
    with Server(tmp_path), pytest.raises(Exception, match="another superfine serve works there"):
        Store(tmp_path)
    (tmp_path / "coming" / "half").write_bytes(b"x")
    (tmp_path / "uploads" / ("0" * 32)).mkdir()
    Store(tmp_path).close()
    assert [path for path in tmp_path.glob("*/*") if path.name != "lock"] == []


# ---- paths and models


@pytest.mark.parametrize("path", ["in/photo.png", "./in/../in/photo.png", "twin.png"])
def test_files_below_the_root_can_be_named(server: Server, path: str) -> None:
    job = server.post("/jobs", json={"path": path, "options": {"model": "nearest"}})
    assert job.status_code == 202, job.text
    assert server.finished(job.json())["status"] == "done"
    assert server.client.delete(f"{API}/uploads/{job.json()['upload']}").status_code == 204
    root = server.app.app.state.service.settings.root
    assert (root / "in" / "photo.png").read_bytes() == encoded("png")


@pytest.mark.parametrize(
    "path", ["../secret.png", "out.png", "in", "in/nothing.png", "/etc/passwd", "in/photo.png\0", "~/x", "in/" * 2000]
)
def test_nothing_else_can_be_named(server: Server, path: str) -> None:
    refused = server.post("/jobs", json={"path": path})
    assert refused.status_code in (404, 422)
    assert refused.json()["error"]["code"] in ("no-file", "invalid")


def test_paths_need_a_root(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert error_of(server.post("/jobs", json={"path": "/etc/passwd"})) == (403, "no-paths")
        assert error_of(server.post("/jobs", json={})) == (422, "invalid")
        assert error_of(server.post("/jobs", json={"path": "x", "upload": "0" * 32})) == (422, "invalid")
        assert error_of(server.post("/jobs", content=b"{")) == (422, "invalid")


def test_models_are_those_of_the_package(server: Server) -> None:
    listed = server.get("/models").json()
    assert [entry["name"] for entry in listed] == [*(model.card.name for model in list_models()), *CLASSICAL]
    assert error_of(server.post("/models", content=b"x")) == (403, "no-models")


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl", "evil.pb", "evil", "evil.onnx.pt", "..%2fevil.h5"])
def test_only_networks_of_safe_kinds_are_taken(tmp_path: Path, name: str) -> None:
    with Server(tmp_path, allow_models=True) as server:
        sent = server.post("/models", content=b"\x80\x04.", headers={"X-File-Name": name})
        assert error_of(sent) == (415, "unsupported")
        assert list((tmp_path / "coming").iterdir()) == []


@pytest.mark.slow
def test_a_network_can_be_uploaded_where_that_is_allowed(tmp_path: Path) -> None:
    model = next(model for model in list_models() if model.card.name == "fast-x2")
    with Server(tmp_path, allow_models=True) as server:
        for name in ("evil.onnx", "evil.safetensors"):
            refused = server.post("/models", content=b"\x80\x04\x95garbage", headers={"X-File-Name": name})
            assert error_of(refused) == (422, "invalid")
            assert refused.json()["error"]["message"].startswith(name)
            assert str(tmp_path) not in refused.text
        sent = server.post("/models", content=model.content, headers={"X-File-Name": "mine.onnx"})
        assert sent.status_code == 201, sent.text
        own = sent.json()
        assert (own["family"], own["scale"]) == ("fast-x2", 2)
        done = server.made(encoded("png"), model=own["name"])
        assert (done["status"], done["output_rows"]) == ("done", 120)
        assert done["model"] == "fast-x2"
        assert server.client.delete(f"{API}/models/{own['name']}").status_code == 204
        assert error_of(server.client.delete(f"{API}/models/{own['name']}")) == (404, "no-model")


# ---- what a reading of the server found


class Asked:
    """One request to an ASGI application, whose body comes as `messages` say, and what it answered."""

    def __init__(self, app: Any, *messages: dict[str, Any], path: str = f"{API}/jobs", **given: Any) -> None:
        self.sent: list[Any] = []
        self.coming = iter(messages)
        headers = [(b"host", b"localhost"), *given.pop("headers", [])]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, **given}
        asyncio.run(app(scope, self.receive, self.send))

    async def receive(self) -> Any:
        message = next(self.coming, None)
        if message is None:
            await asyncio.Event().wait()  # nothing more ever comes
        return message

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def answer(self) -> tuple[int, str]:
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["error"]["code"]


def service_of(server: Server) -> Any:
    return server.app.app.state.service


def called(server: Server, work: Callable[..., Any], *given: Any) -> Any:
    """In the server's own loop."""
    assert server.client.portal is not None
    return server.client.portal.call(work, *given)


def ended(server: Server, key: str) -> Any:
    """A job once it is over; a server that has lost it must not make the test wait for ever."""
    crew, job = service_of(server).crew, service_of(server).job(key)

    async def over() -> None:
        async with asyncio.timeout(120):
            while not job.over:
                await came(crew.next_change(job), 120)

    called(server, over)
    return server.get(f"/jobs/{key}").json()


@pytest.mark.parametrize("path", ["/jobs", f"/jobs/{'0' * 32}/cancel", "/nothing"])
def test_what_brings_no_file_is_bounded_by_what_comes(server: Server, path: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield bytes(40_000)

    assert error_of(server.post(path, content=bytes(1_000_001))) == (413, "too-large")
    refused = server.post(path, content=pieces())
    assert error_of(refused) == (413, "too-large")
    assert "1 MB" in refused.json()["error"]["message"]
    assert server.post(path, content=bytes(1_000_000)).status_code in (404, 422)


def test_a_length_that_lies_helps_nobody_and_a_body_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())

    more = {"type": "http.request", "body": bytes(600_000), "more_body": True}
    for lie in (b"7", b"-1", b"1e3", b"\xb2"):
        assert Asked(Guard(behind, Door()), more, more, headers=[(b"content-length", lie)]).answer == (413, "too-large")
    assert Asked(Guard(behind, Door()), headers=[(b"content-length", b"9" * 5000)]).answer == (413, "too-large")
    monkeypatch.setattr("superfine.serve.guard._MOST_SECONDS", 0.02)
    assert Asked(Guard(behind, Door()), more).answer == (408, "too-slow")
    assert heard == []
    Asked(Guard(behind, Door()), {"type": "http.request", "body": b"{}"})
    Asked(Guard(behind, Door()), {"type": "http.disconnect"})
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


def test_a_full_disk_costs_a_job_and_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        upload = server.upload(encoded("png")).json()
        store = service_of(server).store
        save = store._write
        full = "begun"

        def saved(record: Any) -> None:
            if full == "always" or (full == "begun" and getattr(record, "attempts", 0)):
                raise sqlite3.OperationalError("database or disk is full")
            save(record)

        monkeypatch.setattr(store, "_write", saved)
        # Of a job that is there already only the record has to wait.
        assert ended(server, server.submit(upload["id"]).json()["id"])["status"] == "done"
        full = "always"
        refused = server.submit(upload["id"])
        assert (*error_of(refused), refused.headers["retry-after"]) == (503, "disk-full", "600")
        assert error_of(server.upload(encoded("png"))) == (503, "disk-full")
        assert len(list((tmp_path / "uploads").iterdir())) == 1
        full = ""
        assert ended(server, server.submit(upload["id"]).json()["id"])["status"] == "done"
        assert server.get("/health").json()["running"] == 0


def test_a_result_whose_record_cant_be_kept_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        upload = server.upload(encoded("png")).json()
        store = service_of(server).store
        save = store._write

        def saved(record: Any) -> None:
            if getattr(record, "status", "") == "done":
                raise sqlite3.OperationalError("database or disk is full")
            save(record)

        monkeypatch.setattr(store, "_write", saved)
        done = ended(server, server.submit(upload["id"]).json()["id"])
        assert done["status"] == "done"
        assert server.get(f"/jobs/{done['id']}/result").status_code == 200


def test_expiry_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.serve.service._SWEEP_SECONDS", 0.01)
    swept = threading.Event()
    calls: list[int] = []
    expire = Store.expire

    def failing(store: Store, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # the first is at the start
            raise sqlite3.OperationalError("database or disk is full")
        if len(calls) == 3:
            swept.set()
        return expire(store, *given)

    monkeypatch.setattr(Store, "expire", failing)
    with Server(tmp_path):
        assert swept.wait(120)


def test_what_is_promised_isnt_promised_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        job = server.submit(upload["id"], scale=8).json()
        each = service_of(server).store.jobs[job["id"]].taken
        assert each >= 480 * 640 * 3
        for times, status in ((1.5, 503), (2.5, 202)):
            free = SimpleNamespace(free=1_000_000_000 + times * each)
            monkeypatch.setattr("superfine.serve.limits.shutil.disk_usage", lambda folder, free=free: free)
            assert server.submit(upload["id"], scale=8).status_code == status


def test_a_view_is_made_once_and_counts(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        upload = server.upload(encoded("tiff"), "scan.tif").json()
        done = server.finished(server.submit(upload["id"]).json())
        crew = service_of(server).crew
        look, looks = crew.look, []

        async def counted(request: Any) -> Any:
            looks.append(request["task"])
            return await look(request)

        crew.look = counted
        for path in (f"/uploads/{upload['id']}", f"/jobs/{done['id']}"):
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _, path=path: server.get(f"{path}/view"), range(4)))
            assert [answer.status_code for answer in answers] == [200] * 4
        assert looks == ["view"] * 2
    store = Store(tmp_path)
    (source,), (job,) = store.uploads.values(), store.jobs.values()
    for record, folder in ((source, "uploads"), (job, "jobs")):
        files = list((tmp_path / folder / record.id).iterdir())
        assert len(files) == 2
        assert record.taken == sum(path.stat().st_size for path in files)
    store.close()


def test_a_view_needs_room_and_whom_it_is_of(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"disk_bytes": 30_000}) as server:
        upload = server.upload(encoded("tiff"), "scan.tif").json()
        service = service_of(server)
        key = f"{upload['id']}"
        service.limits = replace(service.limits, disk_bytes=service.store.taken + 100)
        assert error_of(server.get(f"/uploads/{key}/view")) == (503, "disk-full")
        service.limits = replace(service.limits, disk_bytes=1 << 40)
        look = service.crew.look

        async def meanwhile(request: Any) -> Any:
            made = await look(request)
            service.delete_upload(key)
            service.store.upload_folder(key).mkdir()
            return made

        service.crew.look = meanwhile
        assert error_of(server.get(f"/uploads/{key}/view")) == (404, "gone")
        assert not (tmp_path / "uploads" / key).exists()
        assert server.get("/uploads").json() == []


async def trickle() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0)
        yield b"x"


async def silence() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


@pytest.mark.parametrize("body", [trickle, silence])
@pytest.mark.parametrize("kind", ["", "multipart/form-data; boundary=x"])
def test_a_sender_who_holds_a_place_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Callable[[], AsyncIterator[bytes]], kind: str
) -> None:
    monkeypatch.setattr("superfine.serve.arrival._PIECE_SECONDS", 0.05)
    monkeypatch.setattr("superfine.serve.arrival._PIECE_BYTES", 10**9)
    head = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'

    async def coming() -> AsyncIterator[bytes]:
        yield head
        async for piece in body():
            yield piece

    with pytest.raises(RefusedError, match=r"less than 1e\+06 kB came in 0.05 seconds") as refused:
        asyncio.run(received(coming(), {"content-type": kind}, tmp_path / "file", 10**9))
    assert refused.value.status == 408
    assert asyncio.run(_refused(Request({"type": "http"}), refused.value)).headers["connection"] == "close"


class SetClock(asyncio.SelectorEventLoop):
    """A loop whose time passes as the test says."""

    now = 0.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "whole"), [(50.0, True), (70.0, False)])
def test_a_sender_may_take_as_long_as_pieces_come_in_time(tmp_path: Path, seconds: float, whole: bool) -> None:
    """The time is that of the next 600 kB, not of the whole file."""
    with asyncio.Runner(loop_factory=SetClock) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SetClock)

        async def body() -> AsyncIterator[bytes]:
            for _ in range(20 * 6):
                loop.now += seconds / 6
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # timers that are due are heard in the next round
                yield bytes(100_000)

        coming = received(body(), {}, tmp_path / "file", 10**9)
        if whole:
            runner.run(coming)
            assert (tmp_path / "file").stat().st_size == 12_000_000
        else:
            with pytest.raises(RefusedError, match="less than 600 kB came in 60 seconds"):
                runner.run(coming)


def test_room_is_asked_for_before_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "file"
    claims: list[int] = []

    def claim(count: int) -> None:
        assert not path.exists() or path.stat().st_size <= max(claims)
        claims.append(count)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1_000_000)

    asyncio.run(received(body(), {}, path, 30_000_000, claim))
    assert claims == sorted(claims)
    assert claims[0] == 0
    assert 20_000_000 <= claims[-1] <= 30_000_000
    asyncio.run(received(body(), {"content-length": "20000000"}, tmp_path / "other", 30_000_000, claims.append))
    assert claims[-1] == 20_000_000


def test_files_that_come_at_once_share_the_disk(tmp_path: Path) -> None:
    """Also where none of them says how long it is."""

    async def story() -> None:
        service = Service(Settings(state=tmp_path, limits=Limits(disk_bytes=10_000_000)))
        going_on = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield bytes(3_000_000)
            await going_on.wait()

        first = asyncio.create_task(service.add_upload(body(), {}))
        while not list((tmp_path / "coming").iterdir()):
            await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="no room left"):
            await service.add_upload(body(), {})
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert list((tmp_path / "coming").iterdir()) == []
        service.store.close()

    asyncio.run(story())


def test_what_follows_a_form_is_counted(server: Server) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%b\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}

    def pieces() -> Iterator[bytes]:
        yield form % encoded("png")
        for _ in range(100):
            yield bytes(1000)

    assert server.post("/uploads", content=form % encoded("png") + b"epilogue", headers=headers).status_code == 201
    refused = server.post("/uploads", content=pieces(), headers=headers)
    assert error_of(refused) == (400, "bad-form")
    assert "more than a file" in refused.json()["error"]["message"]


@pytest.mark.parametrize("how", ["changed", "link", "folder is a link", "removed", "no root", "another root"])
def test_a_path_is_looked_at_again_when_it_is_used(tmp_path: Path, how: str) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    (root / "in").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    photo = root / "in" / "photo.png"
    for path in (photo, tmp_path / "out" / "photo.png"):
        path.write_bytes(encoded("png"))
        os.utime(path, ns=(10**18, 10**18))
    with Server(state, root=root, limits={"workers": 1}) as server:
        server.gate.clear()
        job = server.post("/jobs", json={"path": "in/photo.png", "options": {"model": "nearest"}}).json()
        assert job["source_name"] == "photo.png"
    if how == "changed":
        photo.write_bytes(encoded("png"))
    elif how == "link":
        photo.unlink()
        photo.symlink_to(tmp_path / "out" / "photo.png")
    elif how == "folder is a link":
        (root / "in").rename(root / "old")
        (root / "in").symlink_to(tmp_path / "out")
    elif how == "removed":
        photo.unlink()
    later = {"no root": None, "another root": tmp_path / "out"}.get(how, root)
    with Server(state, root=later) as server:
        failed = server.finished(job)
        assert failed["status"] == "failed"
        assert failed["message"].startswith("photo.png was changed, moved or removed since it was looked at")
        assert error_of(server.get(f"/uploads/{job['upload']}/view")) == (404, "no-upload")
        assert error_of(server.submit(job["upload"])) == (404, "no-upload")
        assert server.client.delete(f"{API}/uploads/{job['upload']}").status_code == 204


def test_the_queue_knows_jobs_by_themselves() -> None:
    jobs = [Job(id="0" * 32, upload="", name="", options={}) for _ in range(2)]
    assert jobs.index(jobs[1]) == 1


@pytest.mark.parametrize("end", ["cancel", "delete_job"])
def test_the_last_event_is_told_though_it_falls_between_two(tmp_path: Path, end: str) -> None:
    with Server(tmp_path, limits={"workers": 1}) as server:
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        running, waiting = (server.submit(upload["id"]).json() for _ in range(2))
        service = service_of(server)

        async def listened() -> list[str]:
            events = _events(service, service.job(waiting["id"]))
            heard = [await anext(events)]
            await getattr(service, end)(waiting["id"])  # before the listener has asked for more
            async with asyncio.timeout(120):
                return [*heard, *[event async for event in events]]

        heard = called(server, listened)
        assert [json.loads(event.split("data: ")[1])["status"] for event in heard] == ["queued", "cancelled"]
        server.gate.set()
        assert server.finished(running)["status"] == "done"


def test_listeners_give_their_places_back(tmp_path: Path) -> None:
    with Server(tmp_path, limits={"listeners": 1}) as server:
        done = server.made(encoded("png"))
        service = service_of(server)

        async def hangs_up() -> None:
            async def gone() -> Any:
                return {"type": "http.disconnect"}

            async def never(message: Any) -> None:
                await asyncio.Event().wait()

            await _EventResponse(service, service.job(done["id"]))({"type": "http"}, gone, never)

        for _ in range(3):
            called(server, hangs_up)
        with service.crew.listening():
            refused = server.get(f"/jobs/{done['id']}/events")
            assert (*error_of(refused), refused.headers["retry-after"]) == (503, "busy", "5")
        assert server.finished(done) == done


def test_a_zip_says_what_isnt_in_it(server: Server, tmp_path: Path) -> None:
    too_many = server.get("/results.zip", params={"job": ["0" * 32] * 501})
    assert error_of(too_many) == (422, "too-many")
    assert "500 results, and 501" in too_many.json()["error"]["message"]
    done = server.made(encoded("png"))
    (server.folder / "jobs" / done["id"] / "result.png").unlink()
    expired = server.get("/results.zip", params={"job": done["id"]})
    assert error_of(expired) == (410, "expired")
    assert done["name"] in expired.json()["error"]["message"]
    there = tmp_path / "there"
    there.write_bytes(b"pixels")
    content = b"".join(packed([("gone.png", tmp_path / "gone"), ("there.png", there)]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["there.png", "missing.txt"]
        assert b"gone.png" in archive.read("missing.txt")


def test_a_file_that_goes_while_it_is_packed_is_packed_whole(tmp_path: Path) -> None:
    class Vanishing(type(tmp_path)):  # type: ignore[misc]
        def open(self, *given: Any, **named: Any) -> Any:
            file = super().open(*given, **named)
            self.unlink()
            return file

    path = tmp_path / "result.png"
    path.write_bytes(bytes(700_000))
    with zipfile.ZipFile(io.BytesIO(b"".join(packed([("a.png", Vanishing(path))])))) as archive:
        assert archive.read("a.png") == bytes(700_000)


def noise(shape: tuple[int, ...], kind: Any) -> Any:
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32) if kind is np.float32 else rng.integers(0, np.iinfo(kind).max, shape, kind)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("rgba.png", {}),
        ("float.tif", {}),
        ("sixteen.png", {}),
        ("noise.mkv", {"codec": "ffv1", "format": "mkv"}),
        ("noise.mkv", {"crf": 0, "format": "mkv"}),
    ],
)
def test_what_a_job_may_write_is_no_less_than_what_it_writes(
    tmp_path: Path, source: str, options: dict[str, Any]
) -> None:
    path = tmp_path / source
    if source == "rgba.png":
        Image.fromarray(noise((100, 120, 4), np.uint8)).save(path)
    elif source == "float.tif":
        tifffile.imwrite(path, noise((100, 120, 3), np.float32), photometric="rgb")
    elif source == "sixteen.png":
        skimage.io.imsave(path, noise((100, 120), np.uint16), check_contrast=False)
    else:
        save_noise_clip(path)
    with Server(tmp_path / "state") as server:
        server.gate.clear()
        upload = server.upload(path.read_bytes(), source).json()
        asked = server.submit(upload["id"], model="lanczos", scale=2, **options)
        assert asked.status_code == 202, asked.text
        expected = service_of(server).store.jobs[asked.json()["id"]].taken
        server.gate.set()
        done = server.finished(asked.json())
        assert done["status"] == "done", done["message"]
        written = done["result"]["bytes"] * (2 if done["video"] else 1)
        assert expected / 4 < written <= expected


def save_noise_clip(path: Path) -> None:
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        rng = np.random.default_rng(0)
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 96, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("client", "proto", "secure"),
    [
        ("127.0.0.1", "https", True),
        ("::1", "HTTPS", True),
        (None, "https", True),
        ("127.0.0.1", "http", False),
        ("127.0.0.1", "", False),
        ("192.168.0.9", "https", False),
    ],
)
def test_the_cookie_is_for_tls_where_a_proxy_of_this_machine_says_so(
    client: str | None, proto: str, secure: bool
) -> None:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the guard answers this itself")

    asked = Asked(
        Guard(behind, Door(token=TOKEN)),
        path="/",
        method="GET",
        query_string=f"token={TOKEN}".encode(),
        headers=[(b"x-forwarded-proto", proto.encode())] if proto else [],
        client=None if client is None else (client, 5),
        scheme="http",
    )
    cookie = dict(asked.sent[0]["headers"])[b"set-cookie"].decode()
    assert ("; Secure" in cookie) is secure


def test_a_socket_needs_the_token_and_isnt_taken_from_another(tmp_path: Path) -> None:
    path = tmp_path / "http"
    assert len(door_of(Start(socket=path)).token or "") >= 32
    assert door_of(Start(socket=path, token=TOKEN)).token == TOKEN
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(path))
        another.listen()
        with pytest.raises(OutputError, match="http: can't be listened on: Address already in use"):
            run(Start(socket=path, state=tmp_path / "state"), print)
        assert path.is_socket()


def test_a_process_that_is_ended_from_outside_isnt_the_files_fault(tmp_path: Path) -> None:
    async def story() -> Any:
        worker = Worker(frozenset({0}), 8e9, 1 << 40)
        await worker.start()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        answer = await worker.ask({"task": "inspect", "source": "/nothing", "max_megapixels": 1}, 60)
        await worker.end()
        return answer

    answer = asyncio.run(story())
    assert answer["refused"]["code"] == "killed"
    with Server(tmp_path) as server:

        async def ask(*given: Any) -> Any:
            return answer

        service_of(server).crew._looker.ask = ask
        refused = server.upload(encoded("png"))
        assert error_of(refused) == (503, "killed")
        assert int(refused.headers["retry-after"]) > 0


def test_a_job_that_was_deleted_doesnt_come_back(tmp_path: Path) -> None:
    """Not even where the server is being stopped, and waits for nobody."""
    with Server(tmp_path, limits={"workers": 1}) as server:
        server.gate.clear()
        upload = server.upload(encoded("png")).json()
        job = server.submit(upload["id"]).json()
        service = service_of(server)

        async def both() -> None:
            service.crew.begin_closing()
            await service.delete_job(job["id"])

        called(server, both)
    with Server(tmp_path) as server:
        assert server.get("/jobs").json() == []
        assert list((tmp_path / "jobs").iterdir()) == []


def changed_facts(folder: Path, work: Callable[[Any], Any], table: str = "jobs") -> None:
    with closing(sqlite3.connect(folder / "superfine.sqlite", isolation_level=None)) as database:
        for key, facts in database.execute(f"SELECT id, facts FROM {table}").fetchall():  # noqa: S608
            database.execute(
                f"UPDATE {table} SET facts = ? WHERE id = ?",  # noqa: S608
                (json.dumps(work(json.loads(facts))), key),
            )


def test_records_of_other_versions(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        done = server.made(encoded("tiff"), "scan.tif")
    later = {"source_name", "pixel_bytes"}
    for table in ("jobs", "uploads"):
        changed_facts(
            tmp_path, lambda facts: {name: value for name, value in facts.items() if name not in later}, table
        )
    with Server(tmp_path) as server:  # an earlier one's
        state = server.get(f"/jobs/{done['id']}").json()
        assert state == {**done, "source_name": done["name"]}
        assert server.finished(server.submit(done["upload"]).json())["status"] == "done"
    with closing(sqlite3.connect(tmp_path / "superfine.sqlite")) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(OutputError, match="a later superfine has worked there, with records of version 99"):
        Store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "superfine.sqlite")) as database:
        database.execute("PRAGMA user_version=1")
    changed_facts(tmp_path, lambda facts: {"id": facts["id"]})
    with pytest.raises(OutputError, match="what it says of .* in jobs can't be read"):
        Store(tmp_path)
    assert (tmp_path / "jobs" / done["id"] / "result.tif").exists()
    for path in tmp_path.glob("superfine.sqlite*"):
        path.unlink()
    (tmp_path / "superfine.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(OutputError, match="superfine.sqlite: can't be used: file is not a database"):
        Store(tmp_path)


def test_folders_and_names_that_are_no_text(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"r\xe4um")
    root.mkdir()
    (root / "photo.png").write_bytes(encoded("png"))
    (root / "broken.png").write_bytes(encoded("png")[:200])
    with Server(tmp_path / os.fsdecode(b"st\xe4te"), root=root) as server:
        job = server.post("/jobs", json={"path": "photo.png", "options": {"model": "nearest"}})
        assert job.status_code == 202, job.text
        assert server.finished(job.json())["status"] == "done"
        assert server.get(f"/uploads/{job.json()['upload']}/view").status_code == 200
        broken = server.post("/jobs", json={"path": "broken.png"})
        assert broken.status_code in (415, 422)
        assert str(tmp_path) not in broken.text
        assert server.post("/jobs", content=rb'{"path": "\udce4.png"}').status_code in (404, 422)
        done = server.made(encoded("png"), "%e4%ff.png")
        assert (done["status"], done["source_name"]) == ("done", "\ufffd\ufffd.png")


def test_expired_jobs_are_forgotten_before_those_that_have_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key, status, created, expires in (
        ("a", "done", 1.0, 2e11),
        ("b", "expired", 2.0, 4e11),
        ("c", "done", 3.0, 1e11),
        ("d", "queued", 0.0, 1e11),
    ):
        store.save(Job(id=key, upload="", name="", options={}, status=status, created=created, expires=expires))
    for kept, left in ((3, "abcd"), (2, "acd"), (1, "ad"), (0, "d")):
        store.expire(1, kept)
        assert set(store.jobs) == set(left)
    store.close()


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=9-3"])
def test_an_impossible_range_is_refused_as_all_else_is(server: Server, asked: str) -> None:
    done = server.made(encoded("png"))
    refused = server.get(f"/jobs/{done['id']}/result", headers={"Range": asked})
    assert error_of(refused) == (416, "no-such-range")
    assert refused.headers["content-range"] == f"bytes */{done['result']['bytes']}"
    assert f"{done['result']['bytes']:,} bytes" in refused.json()["error"]["message"]


@pytest.mark.parametrize("asked", ["abc", "lines=1-2", "bytes=", "bytes=a-b", "bytes=1-2-3"])
def test_what_is_no_range_is_as_if_it_werent_there(server: Server, asked: str) -> None:
    done = server.made(encoded("png"))
    whole = server.get(f"/jobs/{done['id']}/result", headers={"Range": asked})
    assert (whole.status_code, len(whole.content)) == (200, done["result"]["bytes"])


def test_a_result_that_goes_while_it_is_asked_for(server: Server) -> None:
    done = server.made(encoded("png"))
    path, _ = service_of(server).result(done["id"])
    path.unlink()

    async def sent(message: Any) -> None:
        raise AssertionError("nothing is sent")

    with pytest.raises(RefusedError, match="deleted a moment ago") as refused:
        called(server, _File(path), {"type": "http", "method": "GET", "headers": []}, sent, sent)
    assert refused.value.status == 410


def test_progress_ends_at_one(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.gate.clear()
        job = server.submit(server.upload(encoded("png")).json()["id"]).json()
        service = service_of(server)
        called(server, service.crew._hear, service.job(job["id"]), {"share": 1.25, "seconds_left": 0.0})
        state = server.get(f"/jobs/{job['id']}")
        assert (state.status_code, state.json()["progress"]) == (200, 1.0)


def test_processes_hold_to_the_machines_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each within its own share may still be more than there is: the largest goes, the others stay."""
    monkeypatch.setattr("superfine.serve.crew._WATCH_SECONDS", 0.01)
    ended = threading.Event()
    killed: list[tuple[int, str]] = []

    class Sized(ThreadWorker):
        made = 0

        def __init__(self, gate: threading.Event) -> None:
            super().__init__(gate)
            Sized.made += 1
            self.number, self.size = Sized.made, Sized.made * 10**9

        @property
        def resident_bytes(self) -> int:
            return self.size

        def kill(self, why: str) -> None:
            killed.append((self.number, why))
            self.size = 0
            ended.set()

    gate = threading.Event()
    limits = Limits(workers=2, memory_gb=4, all_memory_gb=6.5)  # and there are 1 + 2 + 3 + 4
    app = make_app(Settings(state=tmp_path, limits=limits), None, lambda cores: Sized(gate))
    with TestClient(app, base_url=BASE):
        assert ended.wait(120)
    assert killed[0] == (4, "short-of-memory")
    assert len([why for _, why in killed if why == "short-of-memory"]) == 1


@pytest.mark.parametrize("workers", [None, 1, 2, 8])
def test_jobs_are_planned_for_less_memory_than_there_is(tmp_path: Path, workers: int | None) -> None:
    limits = settings_of(Start(workers=workers, state=tmp_path)).limits
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert limits.workers * limits.memory_gb <= limits.all_memory_gb < machine / 1e9


def test_a_job_knows_its_sources_name(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        done = server.made(encoded("png"), "my photo.PNG")
        assert (done["name"], done["source_name"]) == ("my photo_x2.png", "my photo.PNG")
        assert server.client.delete(f"{API}/uploads/{done['upload']}").status_code == 204
        assert server.get(f"/jobs/{done['id']}").json()["source_name"] == "my photo.PNG"


# ---- the contract, and real processes


def test_the_openapi_says_what_there_is(server: Server) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    told = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert {f"{method} {path.removeprefix(API)}" for path, method in told} == set(ROUTES.split("\n")) - {""}
    for path, method in told:
        answers = paths[path][method.lower()]["responses"]
        assert {"401", "403"} <= set(answers)
        schema = answers["422"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Failure"}


def test_processes_crash_hang_and_stop_alone(tmp_path: Path) -> None:
    """A process that dies in the middle of a question is replaced for the next one."""

    async def story() -> list[Any]:
        worker = Worker(frozenset({0}), 8e9, 1 << 40)
        path = tmp_path / "photo.png"
        path.write_bytes(encoded("png"))
        request = {"task": "inspect", "source": str(path), "max_megapixels": 100, "names": [[str(path), "mine.png"]]}
        answers = [await worker.ask(request, 60)]
        first = worker.pid
        worker.kill("stopped")
        answers.append(await worker.ask({"task": "inspect", "source": "/nothing", "max_megapixels": 1}, 60))
        assert worker.pid != first
        answers.append(await worker.ask({"task": "no such task"}, 60))
        answers.append(await worker.ask(request, 0.0))
        answers.append(await worker.ask(request, 60))
        await worker.end()
        return answers

    sound, missing, unknown, late, again = asyncio.run(story())
    assert sound["done"]["rows"] == 60
    assert again == sound
    assert "refused" in missing
    assert unknown["refused"]["message"] == "this made superfine fail; the server's log says how"
    assert late["refused"]["message"] == "it took longer than this server allows"


def test_a_process_that_is_only_being_started_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    """As any other; it isn't killed for it."""
    path = tmp_path / "photo.png"
    path.write_bytes(png_of(np.zeros((1500, 1500, 3), np.uint8)))
    options = {"scale": 8.0, "model": "lanczos"}
    request = {"task": "upscale", "source": str(path), "output": str(tmp_path / "large.png"), "options": options}

    async def story() -> Any:
        worker = Worker(frozenset({0}), 8e9, 1 << 40)
        asking = asyncio.create_task(worker.ask({**request, "memory_gb": 4.0, "max_megapixels": 100.0}, 120))
        await asyncio.sleep(0)
        assert worker.pid is None
        await worker.stop()
        process = worker.pid
        answer = await asking
        again = await worker.ask({"task": "inspect", "source": str(path), "max_megapixels": 100}, 60)
        assert worker.pid == process
        await worker.end()
        return answer, again

    answer, again = asyncio.run(story())
    assert answer == {"stopped": True}
    assert again["done"]["rows"] == 1500
    assert not (tmp_path / "large.png").exists()


def test_a_process_that_swallows_memory_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superfine.serve.crew._OVER_BYTES", 0)
    monkeypatch.setattr("superfine.serve.crew._WATCH_SECONDS", 0.01)

    async def story() -> Any:
        worker = Worker(frozenset({0}), 1e6, 1 << 40)
        answer = await worker.ask({"task": "inspect", "source": "/nothing", "max_megapixels": 1}, 60)
        await worker.end()
        return answer

    assert asyncio.run(story())["refused"]["message"].startswith("it takes more memory than this server gives it")


def test_the_door_of_the_command_line(tmp_path: Path) -> None:
    assert door_of(Start()) == Door()
    made = door_of(Start(host=EVERYWHERE))
    assert made.token is not None
    assert len(made.token) >= 32
    assert door_of(Start(host=EVERYWHERE)).token != made.token
    assert door_of(Start(names=("super.example",))).token is not None
    assert door_of(Start(token=TOKEN)).token == TOKEN
    for weak in ("short", "with a space in it, and long"):
        with pytest.raises(UsageError, match="--token: give at least 16 letters"):
            door_of(Start(token=weak))
    limits = settings_of(Start(upload_megabytes=2, disk_gigabytes=3, workers=3, state=tmp_path)).limits
    assert (limits.upload_bytes, limits.disk_bytes, limits.workers) == (2_000_000, 3_000_000_000, 3)
    with pytest.raises(UsageError, match="--root .*nothing: there is no such folder"):
        run(Start(root=tmp_path / "nothing", state=tmp_path), print)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="nothing can be kept there: Not a directory"):
        run(Start(state=tmp_path / "file" / "state"), print)
    with pytest.raises(OutputError, match="file: can't be listened on"):  # and it isn't replaced
        run(Start(socket=tmp_path / "file", state=tmp_path), print)
    with pytest.raises(OutputError, match="can't be listened on"):
        run(Start(socket=tmp_path / "no folder" / "socket", state=tmp_path), print)


def test_without_the_extra_the_cure_is_named() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from superfine.cli_serve import serve; serve()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MissingExtraError: superfine serve needs the extra 'serve': pip install '.[serve]'" in done.stderr


# ---- connections


async def _answering(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _listening(path: Path, most: int) -> asyncio.Server:
    config = connections.Config(_answering, most_connections=most, log_config=None, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    made = asyncio.get_running_loop().create_unix_server(lambda: connections.Connection(config, state, {}), path)
    return await made


_ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("before", [b"", _ASKED])
def test_half_a_head_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: bytes) -> None:
    """Also where a whole request came before it on the same connection."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)

    async def story() -> bytes:
        path = tmp_path / "http"
        async with await _listening(path, 10), asyncio.timeout(120):
            reader, writer = await asyncio.open_unix_connection(path)
            heard = b""
            if before:
                writer.write(before)
                heard = await reader.readuntil(b"ok")
            writer.write(b"GET / HTTP/1.1\r\nHo")
            heard += await reader.read()
            writer.close()
            return heard

    heard = asyncio.run(story())
    assert heard.count(b"200 OK") == (1 if before else 0)


def test_whoever_asks_for_nothing_makes_room(tmp_path: Path) -> None:
    async def story() -> tuple[int, bytes, bytes]:
        path = tmp_path / "http"
        async with await _listening(path, 3), asyncio.timeout(120):
            held = [await asyncio.open_unix_connection(path) for _ in range(3)]
            for _, writer in held:
                writer.write(b"GET / HTTP/1.1\r\nHo")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(_ASKED)
            answer = await reader.readuntil(b"ok")
            first = b"open"
            try:
                first = await held[0][0].read()
            except ConnectionResetError:
                first = b""
            for reader_writer in (*held, (reader, writer)):
                reader_writer[1].close()
            return len(held), first, answer

    _, first, answer = asyncio.run(story())
    assert first == b""  # the longest waiting one was let go
    assert answer.startswith(b"HTTP/1.1 200")


def test_there_are_files_for_all_connections() -> None:
    for files in (1024, 4096, 1 << 20):
        most = connections.most_connections(files)
        assert 100 < most <= 1000
        assert 2 * most + connections.BACKLOG < files
    assert connections.most_connections(64) == 16


# ---- a full disk


def test_what_lies_on_a_full_disk_can_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tmp_path) as server:
        done = server.made(encoded("png"))
        other = server.upload(encoded("png")).json()
        store = service_of(server).store

        def full(record: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(store, "_write", full)
            patched.setattr(store, "_erase", full)
            for path in (f"/jobs/{done['id']}", f"/uploads/{other['id']}"):
                assert server.client.delete(f"{API}{path}").status_code == 204
                assert server.get(path).status_code == 404
        assert not (tmp_path / "jobs" / done["id"]).exists()
        assert not (tmp_path / "uploads" / other["id"]).exists()
        server.expire(24, 100)  # by now there is room, and it's written down
        with closing(sqlite3.connect(tmp_path / "superfine.sqlite")) as database:
            assert database.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
            assert database.execute("SELECT id FROM uploads").fetchall() == [(done["upload"],)]


def test_a_job_fails_in_words_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    with Server(tmp_path, limits={"workers": 1}) as server:
        upload = server.upload(encoded("png")).json()

        def full(job: str) -> Path:
            raise OSError(errno.ENOSPC, "No space left on device")

        async def listened() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, facts: told.append(facts["exception"]))

        called(server, listened)
        server.gate.clear()
        job = server.submit(upload["id"]).json()
        crew = service_of(server).crew
        monkeypatch.setattr(crew, "_settle", lambda job, answer: full(job.id))
        server.gate.set()
        failed = ended(server, job["id"])
    assert failed["message"].startswith("the server's disk is full; delete")
    assert [type(error) for error in told] == [OSError]  # and no task is left with an exception that nobody fetched


# ---- what can't be made is said at once


def picture_of(rows: int, cols: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (cols, rows)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ((20, 20), {"model": "balanced", "sharpness": 0.5}, "leave `model` balanced out"),
        ((20, 20), {"model": "nearest", "guess_map": True}, "`guess_map` is calibrated"),
        ((20, 20), {"model": "balanced", "scale": 2.5, "guess_map": True}, "change `scale` or `model`"),
        ((20, 20), {"model": "bicubic", "ensemble": True}, "leave `ensemble` out"),
        ((20, 20, "RGBA"), {"format": "jpg"}, "has alpha, which JPEG can't hold"),
        ((20, 20, "RGBA"), {"format": "jpg", "model": "balanced", "guess_map": True}, "has alpha"),
        ((20, 20), {"model": "balanced", "scale": 1}, "`scale` 1 restores without enlarging"),
        ((20, 20), {"consistent": "bicubic", "scale": 2.5}, "give a `scale` of 2, 3, 4"),
        ((10, 8000), {"format": "webp", "scale": 4}, "WEBP's 16383 pixels a side"),
        ((20, 20), {"scale": 2, "size": [40, 40]}, "`scale` or `size`"),
        ((20, 20), {"scale": None, "size": [10, 12]}, "`size` [10, 12] is smaller"),
    ],
)
def test_what_cant_be_made_is_refused_at_once(
    server: Server, source: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    upload = server.upload(picture_of(*source)).json()
    before = len(server.get("/jobs").json())
    refused = server.submit(upload["id"], **options)
    assert error_of(refused) == (422, "invalid")
    message = refused.json()["error"]["message"]
    assert words in message
    assert "--" not in message
    assert str(server.folder) not in message
    assert len(server.get("/jobs").json()) == before


def test_a_videos_impossible_wish_is_refused_at_once(server: Server, tmp_path: Path) -> None:
    upload = server.upload(make_clip(tmp_path / "clip.mp4").read_bytes(), "clip.mp4").json()
    refused = server.submit(upload["id"], format="webm", codec="h264")
    assert error_of(refused) == (422, "invalid")
    assert "--" not in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("take --consistent bicubic", "take `consistent` bicubic"),
        ("--guess-map is calibrated; leave --ensemble out", "`guess_map` is calibrated; leave `ensemble` out"),
        ("over 100; raise it with --max-megapixels 3600", "over 100; make it smaller, or use the command line"),
        ("needs 3 GB; raise it with --memory 3.01", "needs 3 GB; choose a smaller scale"),
        (
            "can't be decoded; show the one before it instead with --damaged repeat",
            "can't be decoded; leave it out by `start` and `end`, or use the command line",
        ),
        ("--size 40x30 is smaller", "`size` [30, 40] is smaller"),
        ("a -- b, 3-4", "a -- b, 3-4"),
    ],
)
def test_options_are_named_as_the_api_does(said: str, told: str) -> None:
    assert web_words(said) == told


def test_notes_are_in_words_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LOOKS", {"x": lambda request: {"notes": ["/a/b.png: take --consistent bicubic"]}})
    answer = answer_to({"task": "x", "names": [("/a/b.png", "b")]}, lambda facts: None, threading.Event())
    assert answer == {"done": {"notes": ["b: take `consistent` bicubic"]}}


# ---- formats


def test_the_formats_are_those_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise MissingExtraError("HEIC", "heif")

    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    monkeypatch.setattr("superfine.image._heif", missing)
    with Server(tmp_path) as server:
        formats = server.get("/health").json()["formats"]
        assert {"png", "jpg", "webp", "avif", "tif", "gif", "mp4", "m4v", "webm", "mkv", "mov"} == set(formats)
        upload = server.upload(encoded("png")).json()
        refused = server.submit(upload["id"], format="heic")
        assert error_of(refused) == (422, "invalid")
        assert "doesn't write heic" in refused.json()["error"]["message"]
        refused = server.upload(heic, "photo.heic")
        assert error_of(refused) == (415, "unsupported")
        assert "pip" not in refused.json()["error"]["message"]


def test_what_is_neither_picture_nor_video_is_told_of_both(server: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4").read_bytes()
    for content in (b"some words", b"#EXTM3U\nhttp://a/b", clip[: len(clip) // 2]):
        refused = server.upload(content, "clip.mp4")
        assert error_of(refused) == (415, "unsupported")
        message = refused.json()["error"]["message"]
        assert message.startswith("clip.mp4: ")
        assert "video" in message
        assert "MP4" in message


# ---- HTTP


def test_json_that_isnt_is_told_so(server: Server) -> None:
    plain = server.post("/jobs", content=b'{"upload": "x"}', headers={"Content-Type": "text/plain"})
    assert error_of(plain) == (422, "invalid")
    assert "Content-Type: application/json" in plain.json()["error"]["message"]
    bare = server.client.build_request("POST", f"{API}/jobs", content=b"{}")
    assert "Content-Type: application/json" in server.client.send(bare).json()["error"]["message"]
    broken = server.post("/jobs", content=b'{"upload": ', headers={"Content-Type": "application/json"})
    assert error_of(broken) == (422, "invalid")
    assert broken.json()["error"]["message"].startswith("the body is no JSON: ")


def test_heads_are_told_without_bodies(server: Server) -> None:
    done = server.made(encoded("png"))
    for path in ("/", "/page.css", f"{API}/health", f"{API}/jobs/{done['id']}/result"):
        head, whole = server.client.head(path), server.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    refused = server.client.head(f"{API}/jobs/{done['id']}/events")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert server.client.post("/page.css").headers["allow"] == "GET, HEAD"


def test_new_things_say_where_they_are(server: Server) -> None:
    sent = server.upload(encoded("png"))
    assert server.client.get(sent.headers["location"]).json() == sent.json()
    job = server.submit(sent.json()["id"])
    assert server.client.get(job.headers["location"]).json()["id"] == job.json()["id"]
    server.finished(job.json())


def test_the_openapi_tells_of_token_and_full_disks(server: Server, tmp_path: Path) -> None:
    with Server(tmp_path, door=Door(host=EVERYWHERE, token=TOKEN)) as closed:
        told = closed.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert told["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    operations = [facts for methods in told["paths"].values() for facts in methods.values()]
    assert operations
    assert all(facts["security"] == [{"token": []}] and "503" in facts["responses"] for facts in operations)
    assert "securitySchemes" not in server.get("/openapi.json").json()["components"]  # whoever asks is let in


def test_a_quoted_name(server: Server) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%22a%22 100%25.png"\r\n\r\n'
    sent = server.post(
        "/uploads",
        content=body + encoded("png") + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert sent.json()["name"] == "_a_ 100%25.png"


def test_the_page_can_be_had_without_the_token_and_nothing_else(tmp_path: Path) -> None:
    typed = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}
    with Server(tmp_path, door=Door(host=EVERYWHERE, token=TOKEN)) as server:
        for path in ("/", "/page.css", "/page.js"):
            assert server.client.get(path, headers=typed).status_code == 200
        assert 'id="token-form"' in server.client.get("/", headers=typed).text
        wrong = server.client.get("/?token=wrong", headers=typed)
        assert (wrong.status_code, wrong.headers["location"]) == (303, "/")
        assert "set-cookie" not in wrong.headers
        for path in ("/health", "/uploads", "/jobs", "/openapi.json"):
            assert error_of(server.get(path, headers=typed)) == (401, "no-token")
            assert server.client.head(f"{API}{path}").status_code == 401
        assert server.client.get("//api/v1/jobs", headers=typed).status_code == 404
        assert server.client.get("/%61pi/v1/jobs", headers=typed).status_code == 401
        assert server.client.post("/").status_code == 401


# ---- sources


def test_uploads_say_whether_a_job_was_made_of_them(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        idle = server.upload(encoded("png")).json()
        done = server.made(encoded("png"))
    with Server(tmp_path) as server:
        found = {upload["id"]: upload["started"] for upload in server.get("/uploads").json()}
        assert found == {idle["id"]: False, done["upload"]: True}


def test_a_videos_own_file_and_moments(server: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    upload = server.upload(clip.read_bytes(), "clip.avi").json()
    path = f"/uploads/{upload['id']}"
    own = server.get(f"{path}/file")
    assert (own.headers["content-type"], own.content) == ("video/mp4", clip.read_bytes())
    assert "attachment" not in own.headers.get("content-disposition", "")
    part = server.get(f"{path}/file", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    with av.open(str(clip)) as container:
        frames = list(container.decode(video=0))
    for number in (0, 4, 9):
        at = float(frames[number].time)
        still = pixels_of(server.get(f"{path}/view", params={"at": at}).content)[..., :3]
        differences = [np.abs(frame.to_ndarray(format="rgb24").astype(int) - still).mean() for frame in frames]
        assert int(np.argmin(differences)) == number
    assert len(list((server.folder / "uploads" / upload["id"]).glob("still-*"))) == 1
    late = server.get(f"{path}/view", params={"at": 99})
    assert error_of(late) == (422, "invalid")
    assert "`at`" in late.json()["error"]["message"]
    picture = server.upload(encoded("png")).json()
    assert error_of(server.get(f"/uploads/{picture['id']}/file")) == (415, "not-shown")
    assert server.get(f"/uploads/{picture['id']}/view", params={"at": 1}).status_code == 200


def test_what_a_browser_may_choke_on_is_reduced_for_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip = server.upload(picture_of(1, 100_000), "strip.png").json()
    assert pixels_of(server.get(f"/uploads/{strip['id']}/view").content).shape in ((1, 7692, 3), (1, 7693, 3))
    monkeypatch.setattr("superfine.serve.service._SHOWN_BYTES", 100)
    heavy = server.upload(encoded("png"), "heavy.png").json()
    assert server.get(f"/uploads/{heavy['id']}/view").content != encoded("png")


# ---- the browser


def test_the_page_is_opened_where_somebody_sits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    assert opens_by_itself(Start(), terminal=True)
    assert not opens_by_itself(Start(), terminal=False)
    for start in (Start(host=EVERYWHERE), Start(token=TOKEN), Start(socket=Path("socket"))):
        assert not opens_by_itself(start, terminal=True)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not opens_by_itself(Start(), terminal=True)


def test_the_browser_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, opened = threading.Event(), threading.Event()
    shown: list[str] = []

    def browser(address: str) -> None:
        shown.append(address)
        opened.set()
        let_go.wait(120)

    monkeypatch.setattr("webbrowser.open", browser)
    show_page("http://127.0.0.1:1/")
    assert opened.wait(120)
    let_go.set()
    assert shown == ["http://127.0.0.1:1/"]


@pytest.mark.parametrize(
    ("options", "opens"),
    [([], False), (["--no-open"], False), (["--open"], True), (["--open", "--socket", "x"], False)],
)
def test_the_command_line_says_whether_to_open(
    monkeypatch: pytest.MonkeyPatch, options: list[str], opens: bool
) -> None:
    started: list[Start] = []
    monkeypatch.setattr("superfine.serve.running.run", lambda start, say: started.append(start))
    app = typer.Typer()
    app.command()(serve)
    assert CliRunner().invoke(app, options).exit_code == 0
    assert [start.open_page for start in started] == [opens]


# ---- at a second trial


def gif_of(frames: list[int]) -> bytes:
    """An animation of flat grey frames, a tenth of a second each."""
    pictures = [Image.new("L", (24, 16), level) for level in frames]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=100, loop=0)
    return file.getvalue()


def test_all_results_come_where_none_is_named(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert error_of(server.get("/results.zip")) == (409, "not-done")
        made = [server.made(encoded("png"), f"{letter}.png") for letter in "abc"]
        server.gate.clear()
        server.submit(server.upload(encoded("png"), "late.png").json()["id"])
        server.client.delete(f"{API}/jobs/{made[1]['id']}")
        packed = server.get("/results.zip")
        with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
            assert archive.namelist() == ["a_x2.png", "c_x2.png"]


def test_an_animation_is_had_as_a_still_too(server: Server) -> None:
    upload = server.upload(gif_of([10, 120, 240]), "moves.gif").json()
    assert upload["kind"] == "animation"
    path = f"/uploads/{upload['id']}/view"
    assert server.get(path).content == gif_of([10, 120, 240])
    for at, level in ((0, 10), (0.1, 120), (0.2, 240)):
        still = server.get(path, params={"at": at})
        assert still.headers["content-type"] == "image/png"
        np.testing.assert_allclose(pixels_of(still.content)[..., 0], level, atol=1)
    assert error_of(server.get(path, params={"at": 3})) == (422, "invalid")


def test_an_empty_file_is_called_empty(server: Server) -> None:
    sent = server.post("/uploads", files={"file": ("a.png", b"")})
    assert error_of(sent) == (400, "no-file")
    assert "is empty" in sent.json()["error"]["message"]


def told_of(monkeypatch: pytest.MonkeyPatch, times: list[float], weight: int, tiles: list[float]) -> list[Any]:
    """(share, seconds left) as told after each tile. times: of the beginning and after each of the tiles."""
    clock = iter(times)
    now = [next(clock)]
    monkeypatch.setattr("superfine.serve.worker.time.monotonic", lambda: now[0])
    told: list[Any] = []
    listener = _Listener(lambda facts: told.append((facts["share"], facts["seconds_left"])), threading.Event())
    listener.begin(1, weight)
    for tile in tiles:
        now[0] = next(clock)
        listener.advance(tile)
    return told


def test_a_picture_of_few_tiles_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_of(monkeypatch, [100.0, 101.0, 101.5, 102.0, 102.5], 4, [1.0] * 4)
    assert [left for _, left in told] == pytest.approx([3.0, 1.5, 2 / 3, 0.0])


def test_a_picture_of_many_tiles_waits_until_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first tile took five seconds for the network's sake, and says nothing of the others.
    told = told_of(monkeypatch, [100.0, 105.0, 105.5, 106.5], 100, [1.0, 1.0, 1.0])
    assert [left for _, left in told] == [None, None, pytest.approx(1.5 * 97 / 2)]
