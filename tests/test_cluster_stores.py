"""`superfine cluster` on a real Ray cluster, from an object store to an object store: moto plays S3 over HTTP."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from clips import make_clip
from stores import s3_running, this_machine_only
from superfine.cluster.places import NOTES

pytestmark = pytest.mark.slow

LONGEST_SECONDS = 240


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with this_machine_only(monkeypatch):
        yield


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_running() as environment:
        # Ray gives way to whatever else runs on the machine, and kills what it thinks takes too much of its memory.
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
        for name, value in (environment | quiet).items():
            monkeypatch.setenv(name, value)
        files = fsspec.filesystem("s3", use_listings_cache=False)
        files.mkdir("cluster-stores")
        yield files


def workers_of(driver: int) -> list[int]:
    """The processes of the actors of a cluster that a driver started itself."""
    parents, actors = {}, []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if b"ray::Worker" in (entry / "cmdline").read_bytes():
                    actors.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue

    def above(process: int) -> Iterator[int]:
        while process in parents:
            process = parents[process]
            yield process

    return [actor for actor in actors if driver in above(actor)]


def alone_on_one_core(sources: Path, output: Path) -> None:
    """As many as an actor has: the records say it."""
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "superfine", "upscale", str(sources), "-o", str(output), "--model", "nearest"]
    told = subprocess.run(
        command, check=False, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    assert told.returncode == 1, told.stderr  # one is no picture


def run(*, kill_after: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """What was said of each, and at the end; an actor is killed once so many are over."""
    url = "s3://cluster-stores"
    command = [sys.executable, "-m", "superfine", "cluster", f"{url}/in", "-o", f"{url}/out", "--address", "local"]
    command += ["--per-actor-cpus", "1", "--model", "nearest", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    begun = [process.stdout.readline() for _ in range(kill_after)]
    if kill_after:
        assert all(begun), process.communicate()
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    said, errors = process.communicate(timeout=LONGEST_SECONDS)
    *lines, last = [json.loads(line) for line in [*begun, *said.splitlines()]]
    assert last["done"] + last["failed"] + last["skipped"] == last["listed"]
    return lines, last, errors


def test_a_killed_actor_loses_nothing_in_a_store(store: Any, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        name = f"{'sub/' if number % 2 else ''}{number}.png"
        Image.fromarray(rng.integers(0, 256, (900, 1000, 3), np.uint8)).save(tmp_path / "in" / name)
    make_clip(tmp_path / "in" / "film.mp4", 400, size=(48, 64))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    for path in (tmp_path / "in").rglob("*.*"):
        store.put_file(str(path), f"cluster-stores/in/{path.relative_to(tmp_path / 'in').as_posix()}")
    alone_on_one_core(tmp_path / "in", tmp_path / "alone")
    made = (path for path in (tmp_path / "alone").rglob("*.*") if path.is_file() and not path.name.startswith("."))
    alone = {path.relative_to(tmp_path / "alone").as_posix(): path.read_bytes() for path in made}
    _, last, errors = run(kill_after=2)
    assert (last["listed"], last["done"], last["failed"]) == (10, 9, 1), errors
    names = {name[len("cluster-stores/out/") :] for name in store.find("cluster-stores/out")}
    notes = {name for name in names if name.startswith(f"{NOTES}/")}
    assert names - notes == set(alone)
    assert notes == {f"{NOTES}/{name}.json" for name in alone if not name.endswith(".superfine.json")}
    for name, content in alone.items():
        assert store.cat_file(f"cluster-stores/out/{name}") == content, name
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (9, 10, 3), np.uint8)).save(buffer, "png")
    store.pipe_file("cluster-stores/in/0.png", buffer.getvalue())
    again, last, errors = run()
    assert (last["done"], last["skipped"], last["failed"]) == (1, 8, 1), errors
    (failed,) = [line for line in again if line["status"] == "failed"]
    assert "s3://cluster-stores/in/bad.png: not a picture" in json.dumps(failed)
    with Image.open(io.BytesIO(store.cat_file("cluster-stores/out/0.png"))) as picture:
        assert picture.size == (20, 18)
