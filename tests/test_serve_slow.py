"""`superfine serve` as a process of its own, spoken with through a Unix socket: hostile files, restarts, load."""

import io
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx2
import numpy as np
import pytest
from PIL import Image
from skimage import data

import superfine
from clips import hashes, make_clip
from hostile.makers import STRANGERS, encoded, grey_tiff, png_bomb, png_lying, png_text_bomb, tiff_bomb, with_garbage
from ports import held_port

pytestmark = pytest.mark.slow

API = "/api/v1"
TOKEN = "a-token-that-nobody-guesses"  # noqa: S105
LONGEST_SECONDS = 300
COMMAND = "import typer; from superfine.cli_serve import serve; typer.run(serve)"


class Process:
    """A server of its own."""

    def __init__(self, state: Path, *options: str) -> None:
        self.socket = state.with_name(f"{state.name}.sock")
        self.command = [sys.executable, "-c", COMMAND, "--state", str(state), "--socket", str(self.socket), *options]

    def __enter__(self) -> Self:
        told = {**os.environ, "SUPERFINE_TOKEN": TOKEN}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=told)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(b"superfine listens on ")
        self.client = self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.stop()
        else:
            self.process.communicate()

    def connect(self) -> httpx2.Client:
        return httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(self.socket)),
            base_url=f"http://localhost{API}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=LONGEST_SECONDS,
        )

    def stop(self) -> str:
        """End it as a system does, and give what it said meanwhile."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=LONGEST_SECONDS)
        assert self.process.returncode == 0
        return said.decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def upload(self, content: Any, name: str = "photo.png") -> Any:
        return self.client.post("/uploads", content=content, headers={"X-File-Name": name})

    def submit(self, key: str, **options: Any) -> Any:
        return self.client.post("/jobs", json={"upload": key, "options": {"model": "nearest", **options}})

    def until(self, job: str, reached: Callable[[Any], bool]) -> Any:
        """The first event of a job that is as wanted, or its last."""
        return heard_until(self.client, job, reached)

    def finished(self, job: str) -> Any:
        return self.until(job, lambda state: False)

    def children(self) -> list[int]:
        """Its workers."""
        own = self.process.pid
        return [int(process) for process in Path(f"/proc/{own}/task/{own}/children").read_text("ascii").split()]

    def peak_megabytes(self, process: int | None = None) -> float:
        """The most memory that the server itself, without its workers, or one of them, ever had."""
        lines = Path(f"/proc/{process or self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


def heard_until(client: httpx2.Client, job: str, reached: Callable[[Any], bool] = lambda state: False) -> Any:
    """The first event of a job that is as wanted, or its last."""
    state: Any = None
    with client.stream("GET", f"/jobs/{job}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                state = json.loads(line.removeprefix("data: "))
                if reached(state):
                    return state
    return state


def png_of(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def pixels_of(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def strangers(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files that lie, stop short, or mean harm, with names that do."""
    clip = make_clip(folder / "clip.mp4", 40).read_bytes()
    names = ("photo.png", "../../../etc/cron.d/evil", "clip.mp4", "%00", "a" * 250 + ".jpg", "x.svg", "CON", "-rf")
    for number, content in enumerate(STRANGERS.values()):
        yield names[number % len(names)], content
    yield "list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "list.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    yield "page.png", b"<html><script>alert(1)</script></html>"
    yield "entity.svg", b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
    yield "nothing.png", b"\0"
    yield "bomb.png", png_bomb(40_000)
    yield "bomb.tif", tiff_bomb(40_000)
    yield "text.png", png_text_bomb(500)
    yield "wide.png", png_lying(2**31 - 1, 1)
    yield "high.png", png_lying(20, 5_000_000)
    yield "circle.tif", grey_tiff(20, 20, following=8)
    yield "far.tif", grey_tiff(20, 20, offset=2**31)
    for kind in ("png", "jpeg", "webp", "tiff", "gif"):
        sound = encoded(kind)
        for share in (0.02, 0.3, 0.7):
            yield f"cut.{kind}", sound[: max(1, int(len(sound) * share))]
            yield f"garbage.{kind}", with_garbage(sound, share)
    for share in (0.02, 0.3, 0.7, 0.97):
        yield "cut.mp4", clip[: int(len(clip) * share)]
        yield "garbage.mp4", with_garbage(clip, share, count=200)
    yield "polyglot.png", encoded("png") + b"PK\x03\x04" + STRANGERS["pdf"]


def test_hostile_uploads(tmp_path: Path) -> None:
    state = tmp_path / "state"
    before = {path.name for path in tmp_path.iterdir()} | {"state", "state.sock", "clip.mp4"}
    made = 0
    with Process(state, "--max-megapixels", "50") as server:
        for name, content in strangers(tmp_path):
            answer = server.client.post("/uploads", content=content, headers={"X-File-Name": name.encode("utf-8")})
            assert answer.status_code in (201, 413, 415, 422), (name, answer.text)
            assert str(state) not in answer.text
            if answer.status_code != 201:
                error = answer.json()["error"]
                assert len(error["message"]) > 20, name
                assert "superfine fail" not in error["message"], (name, error)
                continue
            done = server.finished(server.submit(answer.json()["id"]).json()["id"])
            assert done["status"] in ("done", "failed"), (name, done)
            assert str(state) not in json.dumps(done)
            assert "superfine fail" not in done["message"], (name, done)
            made += done["status"] == "done"
        assert server.client.get("/health").json()["running"] == 0
        assert server.peak_megabytes() < 250
        assert (
            server.finished(server.submit(server.upload(encoded("png")).json()["id"]).json()["id"])["status"] == "done"
        )
        assert {path.name for path in tmp_path.iterdir()} == before
        assert all(len(path.name) == 32 for path in state.glob("*/*") if path.is_dir())
        server.stop()
    assert made >= 1  # damage that no decoder can see


def test_a_large_body_is_never_held(tmp_path: Path) -> None:
    def body(megabytes: int) -> Iterator[bytes]:
        for _ in range(megabytes):
            yield bytes(1_000_000)

    with Process(tmp_path / "state", "--max-upload", "500") as server:
        assert server.upload(body(1)).status_code == 415
        before = server.peak_megabytes()
        assert server.upload(body(400)).status_code == 415
        assert server.upload(body(600)).status_code in (413, 400)
        assert (
            server.client.post("/uploads", files={"file": ("a.png", io.BytesIO(bytes(300_000_000)))}).status_code == 415
        )
        assert server.peak_megabytes() - before < 40
        assert [path for path in (tmp_path / "state").glob("*/*") if path.parent.name == "coming"] == []


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[list[str]]]:
    """A clip of five segments, and the packets of what `upscale` makes of it without a break."""
    folder = tmp_path_factory.mktemp("film")
    clip = make_clip(folder / "clip.mp4", 600, size=(120, 160))
    (made,) = superfine.upscale_path(clip, folder / "expected.mp4", job=superfine.Job(model="fast")).results
    assert made.status == "done", made.message
    return clip.read_bytes(), hashes(folder / "expected.mp4", "video")


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_restart_in_the_middle_of_jobs(tmp_path: Path, film: tuple[bytes, list[list[str]]], how: str) -> None:
    """A video goes on from its segments to the same packets; pictures in the queue are made."""
    clip, expected = film
    photo = data.astronaut()[:80, :100]
    options = ("--workers", "1", "--max-frames", "5000")
    with Process(tmp_path / "state", *options) as server:
        video = server.upload(clip, "clip.mp4").json()
        picture = server.upload(png_of(photo)).json()
        job = server.submit(video["id"], model="fast").json()["id"]
        waiting = [server.submit(picture["id"], scale=scale).json()["id"] for scale in (2, 3)]
        reached = server.until(job, lambda state: (state["video"] or {"done": 0})["done"] > 300)
        assert reached["status"] == "running"
        workers = [os.pidfd_open(process) for process in server.children()]
        assert len(workers) == 2
        if how == "killed":
            server.kill()
        else:
            server.stop()
    for worker in workers:  # none of them outlives the server
        assert select.select([worker], [], [], LONGEST_SECONDS)[0], "a worker goes on"
        os.close(worker)
    with Process(tmp_path / "state", *options) as server:
        first = server.until(job, lambda state: (state["video"] or {"done": 0})["done"] > 0)
        assert first["video"]["done"] >= 240  # two segments of 120 frames at least were kept
        done = server.finished(job)
        assert (done["status"], done["video"]["frames"]) == ("done", 600)
        again = tmp_path / "again.mp4"
        again.write_bytes(server.client.get(f"/jobs/{job}/result").content)
        assert hashes(again, "video") == expected
        for key, scale in zip(waiting, (2, 3), strict=True):
            assert server.finished(key)["status"] == "done"
            made = pixels_of(server.client.get(f"/jobs/{key}/result").content)
            np.testing.assert_array_equal(made, photo.repeat(scale, 0).repeat(scale, 1))


def test_a_job_is_cancelled_at_its_next_frame_or_tile(tmp_path: Path) -> None:
    """And its process goes on, with its network prepared."""
    clip = make_clip(tmp_path / "clip.mp4", 2000, size=(120, 160)).read_bytes()
    photo = png_of(np.zeros((3000, 4000, 3), np.uint8))
    with Process(tmp_path / "state", "--workers", "1") as server:
        sources = [server.upload(clip, "clip.mp4").json(), server.upload(photo).json()]
        workers = []
        for source in sources:
            job = server.submit(source["id"], model="fast").json()["id"]
            server.until(job, lambda state: state["progress"] > 0.01)
            workers.append(server.children())
            cancelled = server.client.post(f"/jobs/{job}/cancel").json()
            assert cancelled["status"] == "cancelled"
            assert 0 < cancelled["progress"] < 0.9
            assert not (tmp_path / "state" / "jobs" / job).exists()
        assert workers[0] == workers[1] == server.children()  # after ten seconds they would have been killed
        small = server.upload(encoded("png")).json()
        assert server.finished(server.submit(small["id"], model="fast").json()["id"])["status"] == "done"


def test_it_is_the_same_work_as_elsewhere(tmp_path: Path) -> None:
    """Result and guess map, to the byte, of a photo that lies on its side."""
    photo = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(data.astronaut()[:120, 100:300]).save(photo, exif=exif.tobytes())
    made, guess_map = tmp_path / "made.png", tmp_path / "map.png"
    (expected,) = superfine.upscale_path(photo, made, job=superfine.Job(model="fast"), guess_map=guess_map).results
    assert expected.status == "done", expected.message
    with Process(tmp_path / "state") as server:
        upload = server.upload(photo.read_bytes(), "photo.png").json()
        done = server.finished(server.submit(upload["id"], model="fast", guess_map=True).json()["id"])
        assert (done["status"], done["guess_map"], done["model"]) == ("done", True, expected.model)
        assert (done["output_rows"], done["output_cols"]) == (400, 240)
        assert server.client.get(f"/jobs/{done['id']}/result").content == made.read_bytes()
        assert server.client.get(f"/jobs/{done['id']}/guess-map.png").content == guess_map.read_bytes()
        heat = pixels_of(server.client.get(f"/jobs/{done['id']}/guess-map").content)
        assert heat.shape == (400, 240, 3)
        np.testing.assert_array_equal(heat, pixels_of((tmp_path / "map-overlay.png").read_bytes())[:400])
        assert expected.consistency is not None
        assert done["consistency"]["psnr"] == expected.consistency.psnr


def test_fifty_clients_at_once(tmp_path: Path) -> None:
    """No job is lost, nothing fails but with the stated refusals, and memory stays bounded."""
    rng = np.random.default_rng(0)
    answers: list[int] = []
    lock = threading.Lock()
    options = ("--max-queue", "4", "--workers", "2")

    def heard(answer: Any) -> Any:
        with lock:
            answers.append(answer.status_code)
        return answer

    def patient(ask: Callable[[], Any]) -> Any:
        """As a client should: wait as long as it is told, and try again."""
        for _ in range(500):
            answer = heard(ask())
            if answer.status_code not in (429, 503):
                return answer
            time.sleep(min(2.0, float(answer.headers["retry-after"])) * random.uniform(0.3, 1))  # noqa: S311
        raise AssertionError("refused 500 times")

    def visit(number: int) -> None:
        pixels = pictures[number]
        with server.connect() as client:
            name = {"X-File-Name": f"{number}.png"}
            sent = patient(lambda: client.post("/uploads", content=png_of(pixels), headers=name))
            assert sent.status_code == 201, sent.text
            for scale, model in ((2, "nearest"), (3, "fast" if number % 5 == 0 else "nearest")):
                asked = {"upload": sent.json()["id"], "options": {"model": model, "scale": scale}}
                job = patient(lambda asked=asked: client.post("/jobs", json=asked))  # type: ignore[misc]
                assert job.status_code == 202, job.text
                state = heard_until(client, job.json()["id"])
                assert state["status"] == "done", state
                result = heard(client.get(f"/jobs/{state['id']}/result"))
                made = pixels_of(result.content)
                assert made.shape == (pixels.shape[0] * scale, pixels.shape[1] * scale, 3)
                if model == "nearest":
                    np.testing.assert_array_equal(made, pixels.repeat(scale, 0).repeat(scale, 1))

    pictures = [rng.integers(0, 256, (100 + number, 150, 3), np.uint8) for number in range(50)]
    with Process(tmp_path / "state", *options) as server:
        started = time.monotonic()
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(visit, range(50)))
        wall = time.monotonic() - started
        states = server.client.get("/jobs").json()
        peak = server.peak_megabytes()
        workers = [server.peak_megabytes(process) for process in server.children()]
        said = server.stop()
    assert len(states) == 100
    assert {state["status"] for state in states} == {"done"}
    assert {status for status in answers if status >= 400} <= {429, 503}
    assert peak < 250
    assert sum(workers) < 3000
    assert "Traceback" not in said
    facts = (
        f"{wall:.0f} s, {answers.count(429)} x 429, {answers.count(503)} x 503, server {peak:.0f} MB, workers {workers}"
    )
    print(facts)  # noqa: T201


FUZZING = """
[[operations]]
include-path-regex = "/jobs/\\\\{{key\\\\}}"
include-method = ["GET", "POST"]
parameters = {{ "path.key" = "{job}" }}

[[operations]]
include-path-regex = "/uploads/\\\\{{key\\\\}}"
include-method = ["GET"]
parameters = {{ "path.key" = "{upload}" }}
"""


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Requests made from the OpenAPI, sound and unsound, against a real server; both are processes of their own."""
    with Process(tmp_path / "state") as seeding:
        upload = seeding.upload(encoded("png")).json()["id"]
        job = seeding.submit(upload).json()["id"]
        assert seeding.finished(job)["status"] == "done"
    port = held_port()
    command = [sys.executable, "-c", COMMAND, "--state", str(tmp_path / "state"), "--port", str(port)]
    command += ["--allow-models", "--root", str(tmp_path), "--max-queue", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"superfine is at http://127.0.0.1:{port}/\n"
        base = f"http://127.0.0.1:{port}{API}"
        (tmp_path / "schemathesis.toml").write_text(FUZZING.format(job=job, upload=upload), "utf-8")
        # What a schema can't say is refused: both `upload` and `path`, a file that is no picture. And the job's key,
        # laid down above, is also tried as a new upload's, which then isn't there.
        without = "positive_data_acceptance,ensure_resource_availability"
        options = ["--exclude-checks", without, "--generation-database", "none", "--no-color"]
        options += ["--max-examples", "15", "--seed", "1", "--request-timeout", str(LONGEST_SECONDS)]
        options += ["--suppress-health-check", "too_slow"]  # which is the machine's, where others work on it
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{base}/openapi.json", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=LONGEST_SECONDS)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "Tested: 21" in done.stdout
    assert server.returncode == 0
    assert "Traceback" not in said
