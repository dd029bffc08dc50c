"""Object stores as places of a cluster's run: moto plays S3 over HTTP; fsspec's memory is a store of another make."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import fsspec
import numpy as np
import pytest
import s3fs
from PIL import Image

import superfine
from stores import s3_running, this_machine_only
from superfine import Job
from superfine.atomic import this_process
from superfine.cluster.places import NOTES, check_output, check_places, do, fingerprint, list_tasks, remove_left
from superfine.cluster.task import Ignored, Task
from superfine.errors import MissingExtraError, OutputError, SourceError, UsageError
from superfine.listing import Item, list_sources
from superfine.route import Workshops
from superfine.upscale import Progress, Result, Run

NEAREST = Job(model="nearest", scale=2)


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with this_machine_only(monkeypatch):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_running() as environment:
        yield environment


@pytest.fixture
def endpoint(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Store:
    """One bucket, and a way to it that isn't ours."""

    url: str
    files: Any

    def put(self, name: str, content: bytes) -> None:
        self.files.pipe_file(f"{self.url}/{name}", content)

    def get(self, name: str) -> bytes:
        return bytes(self.files.cat_file(f"{self.url}/{name}"))

    def names(self, folder: str = "") -> set[str]:
        """Of all objects, notes left out."""
        found = self.files.find(f"{self.url}/{folder}" if folder else self.url)
        start = len(self.files._strip_protocol(self.url)) + 1
        return {str(name)[start:] for name in found if f"/{NOTES}/" not in str(name)}


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest, endpoint: None) -> Store:
    return _store(request.param, request.node.name)


@pytest.fixture
def bucket(endpoint: None, request: pytest.FixtureRequest) -> Store:
    return _store("s3", request.node.name)


def _store(scheme: str, test: str) -> Store:
    name = (
        "bucket-" + "".join(letter for letter in test.lower() if letter.isalnum())[:40] + str(abs(hash(test)) % 10**6)
    )
    files = fsspec.filesystem(scheme, use_listings_cache=False)
    files.mkdir(name)
    return Store(f"{scheme}://{name}", files)


class Work:
    """Writes the source's bytes backwards, and remembers what it was given."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def __call__(self, item: Item) -> Result:
        self.items.append(item)
        content = item.source.read_bytes()
        if content == b"bad":
            raise SourceError(f"{item.source}: not a picture, so no {item.output}")
        assert not item.output.exists()
        item.output.write_bytes(content[::-1])
        return Result(item.source, item.output, "done", notes=(f"{item.output} is there",))


def _pictures(folder: Path) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    for name in ("a.png", "a.webp", "sub/b.png", "sub/deep/c.tif", ".hidden/d.png", "notes.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("left alone")
        else:
            Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)).save(path, lossless=True)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _run(tasks: Iterator[Task | Ignored], job: Job, **wishes: bool) -> list[Result]:
    run = Run(Workshops(job), lambda result: None, Progress())
    return [do(task, run.alone, options=fingerprint(job), **wishes) for task in tasks if isinstance(task, Task)]


# ---- the whole way


@pytest.mark.parametrize(
    ("way", "job"),
    [
        ("in the store", NEAREST),
        ("to the store", replace(NEAREST, file_format="png")),
        ("from the store", Job(model="fast")),
    ],
    ids=["in", "to", "from"],
)
def test_results_are_those_of_one_machine_to_the_byte(store: Store, tmp_path: Path, way: str, job: Job) -> None:
    given = _pictures(tmp_path / "in")
    for name, content in given.items():
        store.put(f"in/{name}", content)
    superfine.upscale_path(tmp_path / "in", tmp_path / "alone", job=job)
    alone = {path.relative_to(tmp_path / "alone").as_posix(): path for path in (tmp_path / "alone").rglob("*.*")}
    alone = {name: path for name, path in alone.items() if path.is_file() and not path.name.startswith(".")}
    assert len(alone) == 4
    source = str(tmp_path / "in") if way == "to the store" else f"{store.url}/in"
    output = str(tmp_path / "out") if way == "from the store" else f"{store.url}/out/x2"
    check_places([source], output)
    tasks = list(list_tasks([source], output, job))
    assert sum(isinstance(task, Ignored) for task in tasks) == 1
    assert [result.status for result in _run(iter(tasks), job)] == ["done"] * 4
    for name, path in alone.items():
        made = Path(output, name).read_bytes() if way == "from the store" else store.get(f"out/x2/{name}")
        assert made == path.read_bytes()
    if way != "from the store":
        assert store.names("out") == {f"out/x2/{name}" for name in alone}
    again = _run(list_tasks([source], output, job), job)
    assert [(result.status, result.message) for result in again] == [("skipped", "done before, unchanged")] * 4


# ---- resume


@pytest.fixture
def task(store: Store) -> Task:
    store.put("in/a.png", b"pixels")
    return Task(f"{store.url}/in/a.png", f"{store.url}/out/a.png", 6, moves=False, journal=f"{store.url}/out")


def test_only_what_changed_is_done_again(store: Store, task: Task) -> None:
    work = Work()

    def again(options: str = "x2", *, resume: bool = True) -> str:
        return do(task, work, options=options, resume=resume).status

    assert [again(), again(), again()] == ["done", "skipped", "skipped"]
    assert store.get("out/a.png") == b"slexip"
    assert len(work.items) == 1
    store.put("in/a.png", b"others")
    assert [again(), again()] == ["done", "skipped"]
    assert store.get("out/a.png") == b"srehto"
    assert [again("x3"), again("x3"), again("x2")] == ["done", "skipped", "done"]
    assert again(resume=False) == "done"
    store.files.rm(task.output)
    assert [again(), again()] == ["done", "skipped"]
    assert store.names("out") == {"out/a.png"}


@pytest.mark.parametrize("ours_before", [False, True])
def test_what_nobody_of_us_made_is_not_replaced(store: Store, task: Task, ours_before: bool) -> None:
    work = Work()
    if ours_before:
        do(task, work, options="x2")
    store.put("out/a.png", b"edited by hand")
    with pytest.raises(OutputError, match=r"out/a.png: exists already; replace it with --overwrite"):
        do(task, work, options="x2")
    assert store.get("out/a.png") == b"edited by hand"
    assert do(task, work, options="x2", overwrite=True).status == "done"
    assert store.get("out/a.png") == b"slexip"
    assert do(task, work, options="x2").status == "skipped"


def test_a_note_that_nobody_can_read_is_none(store: Store, task: Task) -> None:
    do(task, Work(), options="x2")
    for note in (b"", b"{", b"[]", b'{"source": 1}', b'{"earlier": [], "more": 1}', b"\xff"):
        store.put(f"out/{NOTES}/a.png.json", note)
        with pytest.raises(OutputError, match="exists already"):
            do(task, Work(), options="x2")


def test_what_goes_wrong_is_said_by_its_name_in_the_store_and_leaves_nothing(store: Store, task: Task) -> None:
    store.put("in/a.png", b"bad")
    with pytest.raises(SourceError) as refused:
        do(task, Work(), options="x2")
    assert str(refused.value) == f"{task.source}: not a picture, so no {task.output}"
    assert store.names() == {"in/a.png"}
    store.files.rm(task.source)
    with pytest.raises(SourceError, match=r"in/a.png: there is no such file"):
        do(task, Work(), options="x2")
    with pytest.raises(SourceError, match="why not"):
        do(replace(task, problem="why not"), Work(), options="x2")


def test_results_and_notes_name_the_store(task: Task) -> None:
    result = do(task, Work(), options="x2")
    assert result.notes == (f"{task.output} is there",)


def test_what_lies_beside_an_output_comes_along_and_first(store: Store, task: Task, monkeypatch: Any) -> None:
    """The record of a video, say; what begins with a dot is the work's own."""

    def work(item: Item) -> Result:
        for name in ("a.png", "a.png.superfine.json", ".a.png.segments"):
            (item.output.parent / name).write_bytes(name.encode())
        return Result(item.source, item.output, "done")

    put, order = store.files.put_file, []

    def noted(local: str, place: str) -> None:
        order.append(place.rpartition("/")[2])
        put(local, place)

    monkeypatch.setattr(store.files, "put_file", noted)
    do(task, work, options="x2")
    assert store.names("out") == {"out/a.png", "out/a.png.superfine.json"}
    assert order == ["a.png.superfine.json", "a.png"]


def test_in_folders_the_run_itself_knows_what_is_done(tmp_path: Path) -> None:
    heard: list[Item] = []
    result = Result(tmp_path / "in", tmp_path / "out", "done")
    task = Task(str(tmp_path / "in"), str(tmp_path / "out" / "a"), 7, moves=True, problem="p", journal=str(tmp_path))
    assert do(task, lambda item: heard.append(item) or result, options="x2") is result  # type: ignore[func-returns-value]
    assert heard == [Item(tmp_path / "in", tmp_path / "out" / "a", tmp_path, 7, "p", moves=True)]


# ---- killed


KILLED = """
import os, sys
import s3fs
from superfine.cluster.places import do
from superfine.cluster.task import Task
from superfine.upscale import Result
call, seen = s3fs.S3FileSystem._call_s3, []
async def dying(self, method, *given, **more):
    seen.append(method)
    at, number = sys.argv[2], int(sys.argv[3])
    if method == at and seen.count(at) == number:
        os._exit(9)
    return await call(self, method, *given, **more)
s3fs.S3FileSystem._call_s3 = dying
def work(item):
    with item.output.open("wb") as file:
        file.truncate(int(sys.argv[4]))
    return Result(item.source, item.output, "done")
url = sys.argv[1]
do(Task(url + "/in/a.png", url + "/out/a.png", 6, moves=False, journal=url + "/out"), work, options="x2")
"""


@pytest.mark.parametrize(
    ("call", "number", "size", "there"),
    [
        ("put_object", 1, 10, False),  # the note
        ("put_object", 2, 10, False),  # the output
        ("put_object", 3, 10, True),  # the note again
        pytest.param("upload_part", 2, 110_000_000, False, marks=pytest.mark.slow),
        pytest.param("complete_multipart_upload", 1, 110_000_000, False, marks=pytest.mark.slow),
    ],
)
def test_killed_while_it_delivers(bucket: Store, call: str, number: int, size: int, there: bool) -> None:
    bucket.put("in/a.png", b"pixels")
    command = [sys.executable, "-c", KILLED, bucket.url, call, str(number), str(size)]
    assert subprocess.run(command, check=False).returncode == 9
    assert bucket.names("out") == ({"out/a.png"} if there else set())
    work = Work()
    task = Task(f"{bucket.url}/in/a.png", f"{bucket.url}/out/a.png", 6, moves=False, journal=f"{bucket.url}/out")
    if there:  # it's known by its content
        assert [do(task, work, options="x2").status for _ in range(2)] == ["skipped", "skipped"]
        assert bucket.get("out/a.png") == bytes(size)
    else:
        assert [do(task, work, options="x2").status for _ in range(2)] == ["done", "skipped"]
        assert bucket.get("out/a.png") == b"slexip"


def test_killed_before_an_earlier_output_of_ours_was_replaced(bucket: Store) -> None:
    bucket.put("in/a.png", b"pixels")
    task = Task(f"{bucket.url}/in/a.png", f"{bucket.url}/out/a.png", 6, moves=False, journal=f"{bucket.url}/out")
    do(task, Work(), options="x2")
    bucket.put("in/a.png", b"others")
    command = [sys.executable, "-c", KILLED, bucket.url, "put_object", "2", "10"]
    assert subprocess.run(command, check=False).returncode == 9
    assert bucket.get("out/a.png") == b"slexip"
    assert [do(task, Work(), options="x2").status for _ in range(2)] == ["done", "skipped"]
    assert bucket.get("out/a.png") == b"srehto"


def test_an_output_that_somebody_put_there_after_a_kill_is_theirs(bucket: Store) -> None:
    bucket.put("in/a.png", b"pixels")
    command = [sys.executable, "-c", KILLED, bucket.url, "put_object", "2", "10"]
    assert subprocess.run(command, check=False).returncode == 9
    bucket.put("out/a.png", b"theirs")
    task = Task(f"{bucket.url}/in/a.png", f"{bucket.url}/out/a.png", 6, moves=False, journal=f"{bucket.url}/out")
    with pytest.raises(OutputError, match="exists already"):
        do(task, Work(), options="x2")


def test_what_killed_processes_left_on_this_machine_is_removed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    host, _, mine = this_process().partition("-")
    dead, others = 2**31 - 5, f"{int(host, 16) ^ 1:08x}"
    stay = {f"superfine-{host}-{mine}-a", f"superfine-{others}-{dead}-b", f"superfine-{host}-{dead}", "superfine-x-1-c"}
    for name in (*stay, f"superfine-{host}-{dead}-d"):
        (tmp_path / name / "in").mkdir(parents=True)
    do(task, Work(), options="x2")
    assert {path.name for path in tmp_path.iterdir()} == stay


# ---- which, and where to


NAMES = (
    *("in/a.jpg", "in/a.png", "in/A.png", "in/a_png.png", "in/b.mp4", "in/c.avi", "in/d.gif", "in/e.webp"),
    *("in/sub/a.jpg", "in/sub/a.JPG", "in/sub/deep/x.png", "in/sub.png", "in/sub-x/y.tif", "in/sub/.dot.png"),
    *("in/.hidden/a.png", "in/notes.txt", "in/sub/README", "in/gr\u00fc\u00df #%20?+.png", "other/z.png"),
)


@pytest.mark.parametrize("file_format", [None, "png", "mp4"])
def test_names_are_those_of_upscale(store: Store, tmp_path: Path, file_format: str | None) -> None:
    (tmp_path / "out").mkdir()
    job = Job(model="nearest", scale=2, file_format=file_format)
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
        store.put(name, b"x" * len(name))
    expected = list_sources([tmp_path / "in"], tmp_path / "out", job)
    wanted = {item.source.relative_to(tmp_path).as_posix(): item for item in expected.items}
    there = [f"{store.url}/in", str(tmp_path / "in")]
    for source, output in [(there[0], f"{store.url}/out"), (there[0], str(tmp_path / "out")), (there[1], store.url)]:
        found = list(list_tasks([source], output, job))
        tasks = [task for task in found if isinstance(task, Task)]
        root = store.url if source == there[0] else str(tmp_path)
        assert {task.source[len(root) + 1 :] for task in tasks} == set(wanted)
        for task in tasks:
            item = wanted[task.source[len(root) + 1 :]]
            assert task.output == f"{output}/{item.output.relative_to(tmp_path / 'out').as_posix()}"
            assert (task.weight, task.moves, task.problem, task.journal) == (item.weight, item.moves, "", output)
        assert sum(isinstance(entry, Ignored) for entry in found) == expected.ignored == 2


def test_folders_are_listed_as_for_upscale(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "in" / "link.png").symlink_to("../other/z.png")
    for source, output in [("in", "out"), ("file://{}/in", "file://{}/out"), ("in/a.png", "b.png"), ("in", "in/out")]:
        given = [place.format(tmp_path) if "{}" in place else str(tmp_path / place) for place in (source, output)]
        plain = [Path(place.removeprefix("file://")) for place in given]
        expected = list_sources([plain[0]], plain[1], NEAREST)
        tasks = [task for task in list_tasks([given[0]], given[1], NEAREST) if isinstance(task, Task)]
        assert [
            Item(Path(t.source), Path(t.output), Path(t.journal) if t.journal else None, t.weight) for t in tasks
        ] == [replace(item, moves=False) for item in expected.items]
        assert [task.moves for task in tasks] == [item.moves for item in expected.items]


def test_a_source_alone_has_a_journal_where_its_output_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    for output, journal in (("out", str(tmp_path / "out")), ("b.png", "")):
        (task,) = list_tasks([str(tmp_path / "a.png")], str(tmp_path / output), NEAREST)
        assert isinstance(task, Task)
        assert task.journal == journal


def test_several_sources_patterns_and_single_files(store: Store) -> None:
    for name in ("one/a.png", "two/a.png", "two/b.txt", "three/c.png", "three/d.jpg"):
        store.put(name, b"x")

    def outputs(*sources: str) -> list[str]:
        given = [f"{store.url}/{source}" for source in sources]
        check_places(given, f"{store.url}/out")
        tasks = list_tasks(given, f"{store.url}/out/", NEAREST)
        return sorted(task.output[len(store.url) + 1 :] for task in tasks if isinstance(task, Task))

    assert outputs("one", "two/") == ["out/one/a.png", "out/two/a.png"]
    assert outputs("one/a.png") == ["out/a.png"]
    assert outputs("one/a.png", "two/a.png") == ["out/a.png", "out/a_png.png"]
    assert outputs("t*/*.png") == ["out/a.png", "out/c.png"]
    assert len(outputs("")) == 4
    with pytest.raises(UsageError, match="would go into one folder 'One'; run them one by one"):
        store.put("more/One/a.png", b"x")
        outputs("one", "more/One")
    with pytest.raises(UsageError, match="nothing matches"):
        outputs("t*/*.webp")
    store.put("texts/a.txt", b"x")
    with pytest.raises(UsageError, match="no picture and no video in .*texts"):
        outputs("texts")


def test_outputs_below_their_source_are_not_taken(store: Store) -> None:
    for name in ("in/a.png", "in/out/b.png", "in/outer/c.png"):
        store.put(name, b"x")
    tasks = list_tasks([f"{store.url}/in"], f"{store.url}/in/out", NEAREST)
    assert [task.output[len(store.url) :] for task in tasks if isinstance(task, Task)] == [
        "/in/out/a.png",
        "/in/out/outer/c.png",
    ]


def test_no_source_of_a_run_is_replaced_by_it(store: Store) -> None:
    for name in ("in/a.png", "in/in/a.png", "in/in/b.png", "two/a.png"):
        store.put(name, b"x")

    def problems(sources: Sequence[str], output: str) -> dict[str, bool]:
        tasks = list_tasks(
            [f"{store.url}/{source}" for source in sources], f"{store.url}/{output}".rstrip("/"), NEAREST
        )
        found = [task for task in tasks if isinstance(task, Task)]
        words = "is among the sources of this run itself; choose another output with -o"
        assert all(task.problem in ("", f"{task.output}: {words}") for task in found)
        return {task.source[len(store.url) + 1 :]: bool(task.problem) for task in found}

    assert problems(["in/a.png"], "in") == {"in/a.png": True}
    assert problems(["two/a.png", "in/a.png"], "in") == {"two/a.png": True, "in/a.png": False}
    assert problems(["in"], "") == {"in/a.png": False, "in/in/a.png": True, "in/in/b.png": True}
    assert problems(["in"], "out") == {"in/a.png": False, "in/in/a.png": False, "in/in/b.png": False}
    for output in ("in", "in/"):
        with pytest.raises(UsageError, match="the output folder is the source folder; choose another with -o"):
            problems(["in"], output)
    with pytest.raises(UsageError, match="the output folder is the source folder; choose another with -o"):
        problems(["in", "two"], "")


@pytest.mark.parametrize("name", ["a::b.png", "a?versionId=3.png"])
def test_names_with_a_meaning_in_urls_are_refused(bucket: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    (task,) = list_tasks([str(tmp_path)], f"{bucket.url}/out", NEAREST)
    assert isinstance(task, Task)
    assert "has a meaning of its own in the URL of a store; rename it" in task.problem


def test_names_that_no_encoding_knows_are_refused(bucket: Store, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfc.png")).write_bytes(b"x")
    (task,) = list_tasks([str(tmp_path)], f"{bucket.url}/out", NEAREST)
    assert isinstance(task, Task)
    assert task.problem == "'gr\\udcfc.png': the name isn't UTF-8, as names in stores are; rename it"


def test_more_than_a_page_is_listed_a_page_at_a_time(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(f"in/{number % 3}/{number:02}.png" for number in range(25))
    for name in names:
        bucket.put(name, b"x")
    call, asked = bucket.files.call_s3, []

    def small(method: str, **more: Any) -> Any:
        asked.append(method)
        return call(method, MaxKeys=10, **more)

    monkeypatch.setattr(bucket.files, "call_s3", small)
    tasks = list_tasks([f"{bucket.url}/in"], f"{bucket.url}/out", NEAREST)
    first = next(tasks)
    assert asked == ["list_objects_v2"]
    found = [task.source[len(bucket.url) + 1 :] for task in (first, *tasks) if isinstance(task, Task)]
    assert found == names
    assert asked == ["list_objects_v2"] * 3


# ---- refused, in words


@pytest.mark.parametrize(
    ("sources", "output", "words"),
    [
        (
            ["{}/in"],
            "s3://no-such-bucket/out",
            "s3://no-such-bucket/out: there is no bucket 'no-such-bucket'; create it",
        ),
        (["{}/no"], "{}/out", "/no: there is nothing there"),
        (["s3://no-such-bucket/in"], "{}/out", "s3://no-such-bucket/in: there is no bucket 'no-such-bucket'; look for"),
        (["{}/in"], "s3://", "s3://: names no bucket; give one, as in s3://bucket/folder"),
        (["{}/in"], "{}/out.png", "out.png: is the name of a file, and results go into a folder of a store"),
        (["{}/in", "folder"], "{}/out", "some sources are in folders and others in object stores"),
        (["{}/in"], "ftp://host/out", "ftp://host/out: superfine knows folders and the stores s3://, s3a://, gs://"),
        (["https://host/in"], "{}/out", "https://host/in: superfine knows folders and the stores"),
        (["{}/in"], "gs://bucket/out", "gs://bucket/out: gs:// needs a package that isn't there: .*gcsfs"),
        (["az://bucket/in"], "{}/out", "az:// needs a package that isn't there: .*adlfs"),
    ],
)
def test_places_that_cannot_be_are_refused_at_once(
    bucket: Store, sources: list[str], output: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, package, None)
    bucket.put("in/a.png", b"x")
    check_places([f"{bucket.url}/in", f"{bucket.url}/in/*.png"], f"{bucket.url}/out")
    with pytest.raises(UsageError, match=words):
        check_places([source.format(bucket.url) for source in sources], output.format(bucket.url))


def test_without_credentials(
    bucket: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    request.addfinalizer(s3fs.S3FileSystem.clear_instance_cache)
    words = "there are no credentials for it; set them as its own tools take them, for S3 AWS_ACCESS_KEY_ID"
    with pytest.raises(UsageError, match=words):
        check_places([f"{bucket.url}/in"], f"{bucket.url}/out")
    task = Task(f"{bucket.url}/in/a.png", f"{bucket.url}/out/a.png", 6, moves=False, journal=f"{bucket.url}/out")
    with pytest.raises(SourceError, match=words):
        do(task, Work(), options="x2")


def _asking_who_asks(endpoint: str, free: str) -> str:
    """Have the store look at rights after so many requests; returns after how many it did so far."""
    asked = Request(f"{endpoint}/moto-api/reset-auth", free.encode(), {"Content-Type": "text/plain"}, method="POST")  # noqa: S310 - our own
    with urlopen(asked) as answer:  # noqa: S310
        return str(json.load(answer)["PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"])


def test_who_may_read_and_not_write_is_told_so(
    bucket: Store, server: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    bucket.put("in/a.png", b"x")
    url = server["AWS_ENDPOINT_URL_S3"]
    rights = boto3.client("iam", endpoint_url=url)
    rights.create_user(UserName="reader")
    allowed = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:HeadBucket"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    rights.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=policy)
    key = rights.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    s3fs.S3FileSystem.clear_instance_cache()
    request.addfinalizer(s3fs.S3FileSystem.clear_instance_cache)
    before = _asking_who_asks(url, "0")
    try:
        check_places([f"{bucket.url}/in"], f"{bucket.url}/out")
        with pytest.raises(OutputError, match=f"{bucket.url}/out: access is refused: Access Denied; see that the cred"):
            check_output(f"{bucket.url}/out")
    finally:
        _asking_who_asks(url, before)


def test_who_may_write_leaves_nothing_behind(bucket: Store) -> None:
    check_output(f"{bucket.url}/out")
    assert bucket.files.find(bucket.url) == []


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[cluster\]'"):
        check_places(["s3://bucket/in"], "out")


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (TimeoutError("too slow"), ConnectionError, "out/a.png: the store didn't do it: too slow"),
        (RuntimeError(), ConnectionError, "out/a.png: the store didn't do it: RuntimeError"),
        (PermissionError("Access Denied"), OutputError, "out/a.png: access is refused: Access Denied; see that"),
        (FileNotFoundError("no bucket"), OutputError, "out/a.png: there is no such bucket or folder: no bucket"),
    ],
)
def test_what_a_store_refuses_is_said_and_what_may_pass_can_be_tried_again(
    store: Store, task: Task, error: Exception, raised: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **more: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(store.files, "put_file", refuse)
        with pytest.raises(raised, match=words):
            do(task, Work(), options="x2")
    assert store.names("out") == set()
    assert do(task, Work(), options="x2").status == "done"


@pytest.mark.parametrize("source", ["{}/in", "{}/%06d.png"])
def test_folders_of_frames_are_no_matter_of_stores(bucket: Store, source: str) -> None:
    bucket.put("in/a.png", b"x")
    job = replace(NEAREST, as_clip="%" not in source)
    with pytest.raises(UsageError, match="folders of frames aren't taken from or to a store; copy them into a folder"):
        list_tasks([source.format(bucket.url)], f"{bucket.url}/out", job)


@pytest.mark.parametrize("source", ["/in/film.mkv", "s3://archive/in/film.mkv"])
@pytest.mark.parametrize("moves", [True, False])
def test_what_a_dead_worker_was_writing_is_removed_wherever_it_wrote(tmp_path: Path, source: str, moves: bool) -> None:
    process, other = "00000000-4711", "00000000-4712"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / NOTES).mkdir(parents=True)
    (tmp_path / "out" / ".film.mkv.segments").mkdir()
    (tmp_path / "out" / "film.mkv").symlink_to("../elsewhere/film.mkv")
    names = ("elsewhere/.film.mkv", "out/.film.mkv.segments/.000001.mkv", f"out/{NOTES}/.film.mkv.json")
    for name in names:
        for who in (process, other):
            (tmp_path / f"{name}.{who}.part").touch()
    out = str(tmp_path / "out")
    remove_left(Task(source, f"{out}/film.mkv", 1, moves=moves, journal=out), process)
    left = [name for name in names if (tmp_path / f"{name}.{process}.part").exists()]
    assert left == [name for name, gone in zip(names, (True, moves, "://" in source), strict=True) if not gone]
    assert all((tmp_path / f"{name}.{other}.part").exists() for name in names)


def test_the_fingerprint_is_that_of_contents(tmp_path: Path) -> None:
    network = Path(superfine.__file__).with_name("assets") / "fast-x2.onnx"
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "net.onnx").write_bytes(network.read_bytes())
    job = Job(model=str(tmp_path / "one" / "net.onnx"))
    assert fingerprint(job) == fingerprint(replace(job, model=str(tmp_path / "two" / "net.onnx"), memory_gb=3))

    def changed(**wishes: Any) -> str:
        return fingerprint(replace(job, **wishes))

    others = [changed(scale=2.0), changed(model="fast"), changed(quality=7), changed(precision="fp32"), changed(crf=3)]
    assert len({fingerprint(job), *others}) == 6
    (tmp_path / "two" / "net.onnx").write_bytes(network.read_bytes() + b"\0")
    assert fingerprint(job) != fingerprint(replace(job, model=str(tmp_path / "two" / "net.onnx")))
