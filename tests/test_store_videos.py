"""Videos of object stores by pieces of several workers: the file is that of one machine, to the byte."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import superfine
from clips import make_clip
from superfine import Job, OutputError, SourceError
from superfine.cluster.places import NOTES, fingerprint
from superfine.cluster.task import Task
from superfine.cluster.videos import StoreVideos
from superfine.route import Workshops
from superfine.upscale import Progress, Result, Run
from superfine.video import Pieces

JOB = Job(model="nearest", scale=2)
URL = "memory://store-videos"
TASK = Task(f"{URL}/in/sub/a.mp4", f"{URL}/out/sub/a.mp4", 9, moves=True, journal=f"{URL}/out")
PIECES = f"{URL}/out/{NOTES}/sub/a.mp4.segments"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 250, size=(16, 24), options={"g": "50", "bf": "2"})


@pytest.fixture(scope="module")
def alone(source: Path) -> bytes:
    """What one machine makes of it."""
    (result,) = superfine.upscale_path(source, source.parent / "alone.mp4", job=JOB).results
    assert result.status == "done"
    return (source.parent / "alone.mp4").read_bytes()


@pytest.fixture
def store(source: Path) -> Iterator[Any]:
    files = fsspec.filesystem("memory", use_listings_cache=False)
    files.pipe_file(TASK.source, source.read_bytes())
    yield files
    files.rm(URL, recursive=True)


@pytest.fixture
def workers() -> Iterator[list[StoreVideos]]:
    """Three, each with its own folder, as if on three machines."""
    made = [worker() for _ in range(3)]
    yield made
    for one in made:
        one.close()


def worker(*, resume: bool = True) -> StoreVideos:
    run = Run(Workshops(JOB), lambda result: None, Progress(), resume=resume)
    return StoreVideos(run, options=fingerprint(JOB), resume=resume)


def begun(one: StoreVideos, task: Task = TASK) -> Pieces:
    pieces = one.begin(task)
    assert isinstance(pieces, Pieces)
    return pieces


def made_of(result: Result) -> tuple[int, int]:
    """Frames that the last step made, and those that were there."""
    assert result.status == "done", result.message
    assert result.video is not None
    return result.video.computed, result.video.resumed


def under(files: Any, url: str) -> set[str]:
    start = len(files._strip_protocol(url)) + 1
    return {str(name)[start:] for name in files.find(url)} if files.exists(url) else set()


def test_pieces_of_three_make_the_file_of_one(store: Any, workers: list[StoreVideos], alone: bytes) -> None:
    pieces = begun(workers[0])
    assert (pieces.frames, pieces.resumed, len(pieces.stretches)) == (250, 0, 3)
    for one, stretch in zip(workers, reversed(pieces.stretches), strict=True):
        one.pieces(TASK, stretch.begin, stretch.finish)
    assert not store.exists(TASK.output)
    result = workers[1].join(TASK)
    assert made_of(result) == (0, 250)
    assert store.cat_file(TASK.output) == alone
    assert under(store, f"{URL}/out") == {
        "sub/a.mp4",
        "sub/a.mp4.superfine.json",
        f"{NOTES}/sub/a.mp4.json",
    }
    again = workers[2].begin(TASK)
    assert isinstance(again, Result)
    assert again.status == "skipped"


def test_what_a_killed_run_left_is_taken(store: Any, workers: list[StoreVideos], alone: bytes) -> None:
    _, second, _ = begun(workers[0]).stretches
    workers[1].pieces(TASK, second.begin, second.finish)
    pieces = begun(workers[2])
    assert (pieces.resumed, [stretch.frames for stretch in pieces.stretches]) == (120, [120, 10])
    workers[2].pieces(TASK, 0, 1)
    assert made_of(workers[0].join(TASK)) == (10, 240)
    assert store.cat_file(TASK.output) == alone


def test_without_resume_nothing_is_taken(store: Any, workers: list[StoreVideos], alone: bytes) -> None:
    begun(workers[0])
    workers[1].pieces(TASK, 0, 2)
    anew = worker(resume=False)
    with anew:
        assert begun(anew).resumed == 0
        assert under(store, PIECES) == {"plan.json"}
        assert made_of(anew.join(TASK)) == (250, 0)
    assert store.cat_file(TASK.output) == alone


def test_pieces_of_another_source_are_thrown_away(
    store: Any, workers: list[StoreVideos], source: Path, alone: bytes, tmp_path: Path
) -> None:
    other = make_clip(tmp_path / "a.mp4", 250, size=(16, 32))
    store.pipe_file(TASK.source, other.read_bytes())
    begun(workers[0])
    workers[0].pieces(TASK, 0, 2)
    store.pipe_file(TASK.source, source.read_bytes())
    with pytest.raises(OutputError, match="its pieces were begun with another"):
        workers[1].pieces(TASK, 2, 3)
    pieces = begun(workers[2])
    assert pieces.resumed == 0
    assert any("240 finished frames of an earlier run don't fit" in note for note in pieces.notes)
    assert under(store, PIECES) == {"plan.json"}
    workers[1].pieces(TASK, 0, 1)
    assert made_of(workers[0].join(TASK)) == (130, 120)
    assert store.cat_file(TASK.output) == alone


def test_a_piece_that_is_spoilt_is_made_anew(store: Any, workers: list[StoreVideos], alone: bytes) -> None:
    begun(workers[0])
    workers[1].pieces(TASK, 0, 3)
    first = min(under(store, PIECES) - {"plan.json"}, key=lambda name: (name.endswith(".jsonl"), name))
    spoilt = bytearray(store.cat_file(f"{PIECES}/{first}"))
    spoilt[len(spoilt) // 2] ^= 255
    store.pipe_file(f"{PIECES}/{first}", bytes(spoilt))
    result = workers[2].begin(TASK)  # the only one that is missing: there's nothing to share out
    assert isinstance(result, Result)
    assert made_of(result) == (120, 130)
    assert store.cat_file(TASK.output) == alone


def test_pieces_that_are_on_no_list_count_for_nothing(store: Any, workers: list[StoreVideos], alone: bytes) -> None:
    begun(workers[0])
    for number in range(3):
        workers[number].pieces(TASK, number, number + 1)
    lists = {name for name in under(store, PIECES) if name.endswith(".done.jsonl")}
    assert len(lists) == 3
    for name in lists:
        store.rm(f"{PIECES}/{name}")
    with worker() as late:
        assert made_of(late.join(TASK)) == (250, 0)
    assert store.cat_file(TASK.output) == alone


def test_who_is_late_is_told(store: Any, workers: list[StoreVideos]) -> None:
    begun(workers[0])
    workers[1].pieces(TASK, 0, 1)
    workers[0].join(TASK)
    for one in workers:
        with pytest.raises(OutputError, match="aren't begun, or are finished"):
            one.pieces(TASK, 1, 2)
    assert under(store, PIECES) == set()
    assert workers[2].join(TASK).status == "skipped"
    store.rm(TASK.source)
    with pytest.raises(SourceError, match=r"in/sub/a\.mp4: there is no such file"):
        workers[0].pieces(TASK, 1, 2)


def test_short_ones_are_made_at_once(store: Any, workers: list[StoreVideos], tmp_path: Path) -> None:
    short = make_clip(tmp_path / "a.mp4", 9, size=(16, 24))
    store.pipe_file(TASK.source, short.read_bytes())
    result = workers[0].begin(TASK)
    assert isinstance(result, Result)
    assert made_of(result) == (9, 0)
    superfine.upscale_path(short, tmp_path / "alone.mp4", job=JOB)
    assert store.cat_file(TASK.output) == (tmp_path / "alone.mp4").read_bytes()


def test_what_goes_into_a_folder_is_made_whole(
    store: Any, workers: list[StoreVideos], alone: bytes, tmp_path: Path
) -> None:
    task = Task(TASK.source, str(tmp_path / "out" / "a.mp4"), 9, moves=True, journal=str(tmp_path / "out"))
    result = workers[0].begin(task)
    assert isinstance(result, Result)
    assert made_of(result) == (250, 0)
    assert (tmp_path / "out" / "a.mp4").read_bytes() == alone


def test_sources_in_folders_are_not_copied(
    store: Any, workers: list[StoreVideos], source: Path, alone: bytes, tmp_path: Path
) -> None:
    shutil.copy2(source, tmp_path / "a.mp4")
    task = Task(str(tmp_path / "a.mp4"), TASK.output, 9, moves=True, journal=TASK.journal)
    begun(workers[0], task)
    workers[1].pieces(task, 1, 3)
    assert made_of(workers[2].join(task)) == (120, 130)
    assert store.cat_file(TASK.output) == alone
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
