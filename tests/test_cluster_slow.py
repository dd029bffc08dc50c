"""`superfine cluster` on a real Ray cluster of several nodes on this machine; nodes, actors, drivers are killed.

Ray talks over the loopback interface, so it runs in processes of its own: the nodes in one, each driver in another.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from skimage import data

from clips import make_clip
from superfine.journal import JOURNALS_NAME

pytestmark = pytest.mark.slow

# One line on the standard input, one answer: a list of the nodes' raylets.
NODES = """
import json, os, sys
from ray.cluster_utils import Cluster

# A killed node is missed within two seconds; one that is only slow, on a busy machine, isn't taken for dead.
health = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": health})
nodes = []

def answer():
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    head = cluster.head_node.all_processes["gcs_server"][0].process.pid
    print(json.dumps({"address": cluster.address, "raylets": raylets, "head": head}), flush=True)

for line in sys.stdin:
    word, *rest = line.split()
    if word == "add":
        own = dict(pair.split("=", 1) for pair in rest[1:])
        os.environ.update(own)
        nodes.append(cluster.add_node(num_cpus=int(rest[0])))
        for name in own:
            del os.environ[name]
    elif word == "kill":
        cluster.remove_node(nodes.pop(int(rest[0])), allow_graceful=False)
    answer()
cluster.shutdown()
"""
# Ray's workers give way to whatever else runs on the machine, and are killed where its memory is nearly full.
ENVIRONMENT = {
    **os.environ,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}
LONGEST_SECONDS = 240


class Nodes:
    """A cluster whose head does no work."""

    def __init__(self, count: int, **environment: str) -> None:
        self._count = count
        self.environment = ENVIRONMENT | environment

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )
        for _ in range(self._count):
            self.tell("add 1")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=LONGEST_SECONDS)

    def tell(self, words: str) -> None:
        """`add CORES [NAME=VALUE ...]`, its environment, or `kill NUMBER`; waits until it's done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.address, self.raylets, self.head = answer["address"], answer["raylets"], answer["head"]

    def workers(self) -> list[int]:
        """The processes of the actors."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or b"ray::Worker" not in (entry / "cmdline").read_bytes():
                    continue
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent in self.raylets:
                found.append(int(entry.name))
        return found


class Driver:
    """`superfine cluster` as a process of its own."""

    def __init__(self, nodes: Nodes, sources: Path | str, output: Path | str, *options: str) -> None:
        self.environment = nodes.environment
        command = [sys.executable, "-m", "superfine", "cluster", str(sources), "-o", str(output), "--json"]
        self.command = [*command, "--address", nodes.address, "--per-actor-cpus", "1", *options]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )
        self.lines: list[dict[str, Any]] = []
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read(self, count: int) -> None:
        """Until so many more pictures or videos are over."""
        assert self.process.stdout is not None
        for _ in range(count):
            ready, _, _ = select.select([self.process.stdout], [], [], LONGEST_SECONDS)
            assert ready, f"nothing for {LONGEST_SECONDS} s after {self.lines}"
            line = self.process.stdout.readline()
            assert line, f"ended early: {self.process.communicate()[1]}"
            self.lines.append(json.loads(line))

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Exit status, the last line, and what was said on the standard error."""
        said, errors = self.process.communicate(timeout=LONGEST_SECONDS)
        self.lines += [json.loads(line) for line in said.splitlines()]
        last = self.lines[-1]
        assert last["done"] + last["failed"] + last["skipped"] == last["listed"]
        counted = Counter(line["status"] for line in self.lines[:-1])
        assert {name: last[name] for name in ("done", "failed", "skipped")} == {
            name: counted[name] for name in ("done", "failed", "skipped")
        }
        return self.process.returncode, last, errors


def alone(sources: Path, output: Path, *options: str, **environment: str) -> None:
    """The same on one machine, with as many cores as an actor has."""
    core = min(os.sched_getaffinity(0))
    subprocess.run(
        [sys.executable, "-m", "superfine", "upscale", str(sources), "-o", str(output), *options],
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        env=ENVIRONMENT | environment,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for journals and what killed drivers left of a file."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder): path for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in named.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def halves(output: Path) -> dict[Path, int]:
    """What is half written, with the processes whose that is."""
    return {path: int(path.name.split("-")[-1].partition(".")[0]) for path in output.rglob(".*-*.part")}


def times_made(output: Path) -> Counter[str]:
    """How often each picture was finished, by the journals of all workers."""
    lines = [line for path in (output / JOURNALS_NAME).iterdir() for line in path.read_text().splitlines()]
    return Counter(json.loads(line)["output"] for line in lines)


MODEL = ("--model", "balanced", "--scale", "2")
COUNT = 24


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of pictures of several sizes, of which one is none."""
    folder = tmp_path_factory.mktemp("cluster") / "in"
    (folder / "deep").mkdir(parents=True)
    for number in range(COUNT):
        pixels = np.roll(data.astronaut(), number * 20, 1)[: 200 + number, :400]
        where = folder / "deep" if number % 3 == 0 else folder
        Image.fromarray(pixels).save(where / f"{number:02}.{'jpg' if number % 4 == 0 else 'png'}")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def expected(pictures: Path) -> dict[str, bytes]:
    """What one machine makes of them."""
    output = pictures.with_name("expected")
    alone(pictures, output, *MODEL)
    made = contents(output)
    assert len(made) == COUNT
    return made


@pytest.fixture(scope="module")
def nodes(store: dict[str, str]) -> Iterator[Nodes]:
    with Nodes(2, **store) as nodes:
        yield nodes


def test_results_are_those_of_one_machine_to_the_bit_and_stay(
    nodes: Nodes, pictures: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with Driver(nodes, pictures, output, *MODEL) as driver:
        status, last, errors = driver.end()
    assert (status, errors) == (0, "")
    assert last == {"status": "finished", "listed": COUNT, "done": COUNT, "failed": 0, "skipped": 0, "ignored": 1}
    assert contents(output) == expected
    assert set(times_made(output).values()) == {1}
    assert len(list((output / JOURNALS_NAME).iterdir())) == 2  # both nodes worked
    # One machine goes on with what a cluster has made, and a cluster with what both have.
    (output / "01.png").unlink()
    alone(pictures, output, *MODEL)
    with Driver(nodes, pictures, output, *MODEL) as driver:
        assert driver.end()[1]["skipped"] == COUNT
    assert contents(output) == expected


def test_a_picture_that_is_none_is_named_and_files_in_the_way_stay(nodes: Nodes, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    output.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(data.chelsea()[:60, :80]).save(folder / name)
    (folder / "bad.png").write_bytes(b"no picture")
    (output / "b.png").write_bytes(b"somebody's")
    with Driver(nodes, folder, output, "--model", "fast") as driver:
        status, last, _ = driver.end()
    assert (status, last["done"], last["failed"]) == (1, 1, 2)
    words = {Path(line["source"]).name: line["message"] for line in driver.lines[:-1] if line["status"] == "failed"}
    assert "not a picture that superfine reads" in words["bad.png"]
    assert "exists already" in words["b.png"]
    assert (output / "b.png").read_bytes() == b"somebody's"


def test_a_killed_node_loses_nothing(nodes: Nodes, pictures: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "out"
    nodes.tell("add 1")
    with Driver(nodes, pictures, output, *MODEL) as driver:
        driver.read(4)
        nodes.tell("kill 2")
        status, last, _ = driver.end()
    assert (status, last["done"]) == (0, COUNT)
    assert contents(output) == expected
    made = times_made(output)
    assert len(made) == COUNT
    assert sum(made.values()) <= COUNT + 1


def test_a_killed_actor_loses_nothing_and_is_made_anew(
    nodes: Nodes, pictures: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with Driver(nodes, pictures, output, *MODEL) as driver:
        for _ in range(2):
            driver.read(3)
            os.kill(nodes.workers()[0], signal.SIGKILL)
        status, last, _ = driver.end()
    assert (status, last["done"]) == (0, COUNT)
    assert contents(output) == expected
    assert sum(times_made(output).values()) <= COUNT + 2


def test_a_killed_driver_goes_on_where_it_was(
    nodes: Nodes, pictures: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with Driver(nodes, pictures, output, *MODEL) as driver:
        driver.read(6)
        driver.process.kill()
    with Driver(nodes, pictures, output, *MODEL) as driver:
        status, last, _ = driver.end()
    assert status == 0
    assert last["skipped"] >= 6
    assert last["done"] + last["skipped"] == COUNT
    assert contents(output) == expected
    assert sum(times_made(output).values()) <= COUNT + 2


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_stopped_ends_in_words_and_leaves_nothing_half(
    nodes: Nodes, pictures: Path, expected: dict[str, bytes], tmp_path: Path, how: signal.Signals, status: int
) -> None:
    output = tmp_path / "out"
    with Driver(nodes, pictures, output, *MODEL) as driver:
        driver.read(4)
        driver.process.send_signal(how)
        _, errors = driver.process.communicate(timeout=LONGEST_SECONDS)
        assert driver.process.returncode == status
    assert errors == "superfine: stopped; what is finished stays, and the same command goes on with the rest\n"
    made = contents(output)
    assert 4 <= len(made) < COUNT
    assert made.items() <= expected.items()
    assert halves(output) == {}


def test_a_head_that_dies_ends_the_run_in_words(pictures: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Nodes(1) as nodes, Driver(nodes, pictures, output, *MODEL) as driver:
        driver.read(2)
        os.kill(nodes.head, signal.SIGKILL)
        _, errors = driver.process.communicate(timeout=LONGEST_SECONDS)
        assert driver.process.returncode == 1
    assert "the cluster's head" in errors  # Ray itself would end it after a minute, in other words
    assert "run the same again" in errors
    assert list(tmp_path.glob(".superfine-*")) == []
    made = contents(output)
    assert len(made) >= 2
    assert made.items() <= expected.items()


def test_a_node_that_comes_late_works_too(pictures: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Nodes(1) as nodes, Driver(nodes, pictures, output, *MODEL, "--memory", "1") as driver:
        driver.read(2)
        (first,) = nodes.workers()
        os.kill(first, signal.SIGSTOP)  # with one picture; the others are left to who comes
        nodes.tell("add 1")
        driver.read(COUNT - 4)
        os.kill(first, signal.SIGCONT)
        assert driver.end()[0] == 0
    assert len(list((output / JOURNALS_NAME).iterdir())) == 2
    assert contents(output) == expected


def test_what_takes_its_worker_along_is_set_aside(nodes: Nodes, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(data.chelsea()[: 60 + number, :80]).save(folder / f"{number}.png")
    poison = folder / "poison.png"  # large enough to be caught while it's written
    Image.fromarray(np.tile(data.astronaut(), (6, 6, 1))).save(poison)
    deaths = 0
    with Driver(nodes, folder, output, *MODEL, "--tries", "2") as driver:
        while driver.process.poll() is None and deaths < 2:
            for half, worker in halves(output).items():
                if "poison" in half.name and worker in nodes.workers():
                    os.kill(worker, signal.SIGKILL)
                    deaths += 1
                    while half.exists() and driver.process.poll() is None:
                        select.select([], [], [], 0.01)
            select.select([], [], [], 0.01)
        status, last, _ = driver.end()
    assert (status, last["done"], last["failed"]) == (1, 4, 1)
    (failed,) = (line for line in driver.lines[:-1] if line["status"] == "failed")
    assert failed["message"].startswith(f"{poison}: its worker on node ")
    assert failed["message"].endswith(" died: it was killed, or crashed; given up after 2 tries")
    assert not (output / "poison.png").exists()
    assert halves(output) == {}


HANG = """
import sys
if any("default_worker" in word for word in sys.orig_argv):
    from superfine.upscale import Run
    alone = Run.alone
    def hang(run, item):
        while "hangs" in item.source.name:
            pass
        return alone(run, item)
    Run.alone = hang
"""


def test_a_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "sitecustomize.py").write_text(HANG)
    for name in ("a", "hangs", "z"):
        Image.fromarray(data.chelsea()[:60, :80]).save(tmp_path / "in" / f"{name}.png")
    options = ("--patience", "0.25", "--tries", "2")  # enough for all others, also where others work on this machine
    with (
        Nodes(1, PYTHONPATH=str(tmp_path)) as nodes,
        Driver(nodes, tmp_path / "in", tmp_path / "out", "--model", "nearest", *options) as driver,
    ):
        status, last, _ = driver.end()
    assert (status, last["done"], last["failed"]) == (1, 2, 1)
    (failed,) = (line for line in driver.lines[:-1] if line["status"] == "failed")
    assert failed["message"].startswith(f"{tmp_path / 'in' / 'hangs.png'}: its worker on node ")
    assert "or nothing moved on in it for 0.25 minutes (--patience); given up after 2 tries" in failed["message"]


OLDER = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}


def capabilities(**environment: str) -> str:
    """What this processor computes in, for networks."""
    code = "import openvino; print(openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=ENVIRONMENT | environment
    )
    return told.stdout


def test_nodes_of_two_kinds_are_refused_and_when_mixed_agree_within_one_level(tmp_path: Path) -> None:
    """One of them may not use what came to processors after AVX-512, and computes bf16 without AMX."""
    if capabilities() == capabilities(**OLDER):
        pytest.skip("this processor has nothing that the other node could go without")
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(np.roll(data.astronaut(), number * 20, 1)[: 150 + number, :200]).save(folder / f"{number}.png")
    make_clip(folder / "film.mkv", 300, size=(48, 64))
    made = {}
    for name, environment in {"new": {}, "old": OLDER}.items():
        alone(folder, tmp_path / name, *MODEL, **environment)
        made[name] = contents(tmp_path / name)
    with Nodes(1) as nodes:
        nodes.tell("add 1 ONEDNN_MAX_CPU_ISA=AVX512_CORE")
        with Driver(nodes, folder, tmp_path / "out", *MODEL) as driver:
            _, errors = driver.process.communicate(timeout=LONGEST_SECONDS)
        assert driver.process.returncode == 2, errors
        assert "is of another kind than the nodes before it (native precisions '" in errors
        assert "--mixed" in errors
        assert contents(tmp_path / "out") == {}
        with Driver(nodes, folder, tmp_path / "out", *MODEL, "--mixed") as driver:
            status, last, errors = driver.end()
    assert (status, last["done"]) == (0, 9), errors
    assert "results agree with the others' within one level, not to the bit" in errors
    out = contents(tmp_path / "out")
    assert out["film.mkv"] in (made["new"]["film.mkv"], made["old"]["film.mkv"])
    who = {
        number: [name for name in made if out[f"{number}.png"] == made[name][f"{number}.png"]] for number in range(8)
    }
    assert all(who.values()), "each is what a machine of one of the kinds makes"
    assert {"new", "old"} <= {names[0] for names in who.values() if len(names) == 1}, "both worked, and not alike"
    for number in range(8):
        one, other = (np.asarray(Image.open(tmp_path / name / f"{number}.png")).astype(int) for name in ("new", "old"))
        assert np.abs(one - other).max() == 1


def test_a_video_is_made_in_pieces_and_joined_to_the_same_bits(nodes: Nodes, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make_clip(folder / "film.mkv", 420, size=(120, 160))
    alone(folder, tmp_path / "expected", "--model", "balanced")
    expected = contents(tmp_path / "expected")
    assert sorted(expected) == ["film.mkv", "film.mkv.superfine.json"]
    with Driver(nodes, folder, tmp_path / "out", "--model", "balanced") as driver:
        status, last, _ = driver.end()
    assert (status, last["done"]) == (0, 1)
    assert contents(tmp_path / "out") == expected
    # A worker and then the driver are killed in the middle of it.
    output = tmp_path / "again"
    with Driver(nodes, folder, output, "--model", "balanced") as driver:
        while not any(output.rglob("*.mkv")):
            assert driver.process.poll() is None, driver.process.communicate()
            select.select([], [], [], 0.01)
        os.kill(nodes.workers()[0], signal.SIGKILL)
        select.select([], [], [], 0.5)
        driver.process.kill()
    with Driver(nodes, folder, output, "--model", "balanced") as driver:
        assert driver.end()[0] == 0
    assert contents(output) == expected


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """What programs must know of a store on this machine that speaks S3."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()


def copied(store: dict[str, str], source: Path | str, target: Path | str) -> None:
    """Copy a folder to a store or from it, by s3fs itself in a process that may use the network."""
    code = """
import sys, s3fs
files, (source, target) = s3fs.S3FileSystem(), sys.argv[1:]
if target.startswith("s3://"):
    files.mkdir(target.split("/")[2])
    files.put(source + "/", target + "/", recursive=True)
else:
    files.get(source + "/", target + "/", recursive=True)
"""
    subprocess.run([sys.executable, "-c", code, str(source), str(target)], check=True, env=ENVIRONMENT | store)


def test_from_a_store_into_it_with_a_worker_and_a_driver_killed(
    nodes: Nodes, store: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for number in range(10):
        Image.fromarray(data.chelsea()[: 100 + number, :200]).save(folder / "deep" / f"{number}.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    make_clip(folder / "film.mkv", 420, size=(120, 160))
    subprocess.run(
        [sys.executable, "-m", "superfine", "upscale", str(folder), "-o", str(tmp_path / "expected"), *MODEL],
        capture_output=True,
        check=False,  # one is no picture
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    expected = contents(tmp_path / "expected")
    assert len(expected) == 12  # with the video's record
    copied(store, folder, "s3://archive/in")
    places = ("s3://archive/in", "s3://archive/out")
    with Driver(nodes, *places, *MODEL) as driver:
        driver.read(2)
        os.kill(nodes.workers()[0], signal.SIGKILL)
        driver.read(3)
        driver.process.kill()
    with Driver(nodes, *places, *MODEL) as driver:
        status, last, _ = driver.end()
    assert (status, last["listed"], last["failed"]) == (1, 12, 1)
    assert last["skipped"] >= 4
    copied(store, "s3://archive/out", tmp_path / "made")
    assert contents(tmp_path / "made") == expected
