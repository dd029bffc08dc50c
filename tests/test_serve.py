"""`superfine serve`: the API in process, with workers that are threads instead of processes but for the last tests."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from skimage import data

from clips import make_clip
from hostile.makers import STRANGERS, encoded, png_bomb
from superfine.errors import OutputError, UsageError
from superfine.models import CLASSICAL, list_models
from superfine.serve.app import API, make_app
from superfine.serve.crew import Worker
from superfine.serve.guard import Door
from superfine.serve.limits import Limits, machine_limits, shown_name
from superfine.serve.running import Start, door_of, run, settings_of
from superfine.serve.service import Settings
from superfine.serve.store import Store
from superfine.serve.worker import answer_to, plain_words

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
    """Whatever the source is; without a network there is none, and the job says so."""
    failed = server.made(encoded("jpeg"), "photo.jpg", guess_map=True)
    assert (failed["status"], failed["name"], failed["guess_map"]) == ("failed", "photo_x2.png", False)
    assert "guess" in failed["message"]
    assert server.made(encoded("jpeg"), "photo.jpg", format="jpg")["name"] == "photo_x2.jpg"


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
        ({"start": 0.3, "end": 0.2}, "--start"),
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
    failed = server.made(alpha.getvalue(), "logo.png", format="jpg")
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert failed["message"].startswith("logo.png: has alpha")
    assert str(server.folder) not in json.dumps(failed)
    assert error_of(server.get(f"/jobs/{failed['id']}/result")) == (409, "not-done")


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
        assert error_of(server.client.get("/")) == (401, "no-token")
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
