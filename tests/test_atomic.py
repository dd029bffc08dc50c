"""Whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pictures import left_in, noise, png, run, with_bytes
from superfine.atomic import remove_parts, this_process, written_whole

# A process that isn't: pids end well below.
DEAD = 2**31 - 5
HOST = this_process().partition("-")[0]
OTHER_HOST = f"{int(HOST, 16) ^ 1:08x}"


def test_written(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a") as part:
        part.write_bytes(b"new")
        assert not (tmp_path / "a").exists()
        assert part.parent == tmp_path
    assert (tmp_path / "a").read_bytes() == b"new"
    assert left_in(tmp_path) == {"a"}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError, MemoryError])
def test_failure_leaves_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(failure), written_whole(tmp_path / "a") as part:
        part.write_bytes(b"half")
        raise failure
    assert (tmp_path / "a").read_bytes() == b"old"
    assert left_in(tmp_path) == {"a"}


@pytest.mark.parametrize(
    "name", ["a[1].png", "a *?.png", "\u00e4\u5c0f.png", "a\nb.png", "x" * 255, "\u5c0f" * 83 + ".png", "." + "y" * 200]
)
def test_any_name(tmp_path: Path, name: str) -> None:
    """255 bytes are allowed, and the temporary name is longer than the name."""
    for content in (b"one", b"two"):
        with written_whole(tmp_path / name) as part:
            part.write_bytes(content)
        assert (tmp_path / name).read_bytes() == content
    assert left_in(tmp_path) == {name}


def test_left_overs_of_the_dead_go_and_others_stay(tmp_path: Path) -> None:
    theirs = {
        f".b.png.{DEAD}.part",
        f".a.png.{os.getppid()}.part",
        f".a.png.{DEAD}.part.txt",
        ".a.png.x.part",
        "a.png.part",
        f".a.png.{HOST}-{os.getppid()}.part",
        f".a.png.{HOST}-{DEAD}-1.part",
        f".b.png.{OTHER_HOST}-{DEAD}.part",
        f"b.png.{HOST}-{DEAD}.part",
    }
    for name in (f".a.png.{DEAD}.part", f".a.png.{HOST}-{DEAD}.part", f".b.png.b.{HOST}-{DEAD}.part", *theirs):
        (tmp_path / name).touch()
    with written_whole(tmp_path / "a.png") as part:
        part.write_bytes(b"new")
    assert left_in(tmp_path) == {"a.png", *theirs}


def test_what_an_ended_process_left_in_a_folder_goes_and_nothing_else(tmp_path: Path) -> None:
    process = f"{OTHER_HOST}-4711"
    for name in (f".a.png.{process}.part", f".b.tif.json.{process}.part"):
        (tmp_path / name).touch()
    (tmp_path / f".{process}.part").mkdir()  # a folder of somebody's
    theirs = {
        f".a.png.{OTHER_HOST}-47110.part",
        f".a.png.{HOST}-4711.part",
        ".a.png.4711.part",
        f"a.png.{process}.part",
        f".{process}.part",
        f".a.png.{process}.part.png",
    }
    for name in theirs - {f".{process}.part"}:
        (tmp_path / name).touch()
    remove_parts(tmp_path, process)
    assert left_in(tmp_path) == theirs
    remove_parts(tmp_path / "none", process)


def test_old_left_overs_go_even_if_their_number_lives(tmp_path: Path) -> None:
    stale = with_bytes(tmp_path / f".a.png.{os.getppid()}.part", b"half")
    os.utime(stale, (1, 1))
    with written_whole(tmp_path / "a.png") as part:
        part.write_bytes(b"new")
    assert left_in(tmp_path) == {"a.png"}


@pytest.mark.parametrize(("seconds", "stays"), [(0, True), (3000, True), (4000, False)])
def test_another_hosts_number_says_nothing_here(tmp_path: Path, seconds: int, stays: bool) -> None:
    """Its process may live though none of that number does on this host; after an hour nobody writes any more."""
    theirs = with_bytes(tmp_path / f".a.png.{OTHER_HOST}-{DEAD}.part", b"half")
    then = time.time() - seconds
    os.utime(theirs, (then, then))
    with written_whole(tmp_path / "a.png") as part:
        part.write_bytes(b"new")
    assert left_in(tmp_path) == {"a.png", *([theirs.name] if stays else [])}


def test_processes_have_names_of_their_own() -> None:
    code = "from superfine.atomic import this_process; print(this_process())"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    told, _ = process.communicate()
    assert told.strip() == f"{HOST}-{process.pid}"
    assert len(HOST) == 8


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "folder").symlink_to("there")
    (tmp_path / "link").symlink_to(Path("folder") / "real")
    for content in (b"one", b"two"):  # dangling first
        with written_whole(tmp_path / "link") as part:
            part.write_bytes(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "real").read_bytes() == content
    assert left_in(tmp_path) == {"there", "folder", "link", "real"}


def test_a_hard_link_is_cut_and_its_other_name_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    os.link(tmp_path / "a", tmp_path / "b")
    with written_whole(tmp_path / "b") as part:
        part.write_bytes(b"new")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("target", ["/dev/full", "/dev/null", "pipe", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "out").symlink_to(target)
    kind = (tmp_path / "out").stat().st_mode
    with pytest.raises(OSError, match="something that is not a file"), written_whole(tmp_path / "out") as part:
        part.touch()
    assert (tmp_path / "out").stat().st_mode == kind


def test_a_planted_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"theirs")
    (tmp_path / f".a.{this_process()}.part").symlink_to("victim")
    with written_whole(tmp_path / "a") as part:
        assert part.name == f".a.{this_process()}.part"
        part.write_bytes(b"ours")
    assert (tmp_path / "victim").read_bytes() == b"theirs"
    assert (tmp_path / "a").read_bytes() == b"ours"


def test_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with written_whole(tmp_path / "a") as part:
        part.write_bytes(b"new")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


JOB = """
import os, signal, sys
from pathlib import Path
import superfine

class Dying(superfine.Progress):
    def advance(self, weight):
        if any(part.stat().st_size > 100_000 for part in Path(sys.argv[2]).parent.glob(".*.part")):
            os.kill(os.getpid(), signal.SIGKILL)

superfine.upscale_path(sys.argv[1], sys.argv[2], overwrite=True, job=superfine.Job(model="bicubic"), progress=Dying())
"""


@pytest.mark.parametrize("suffix", [".png", pytest.param(".tif", marks=pytest.mark.slow)])
def test_kill_in_the_middle(tmp_path: Path, suffix: str) -> None:
    source = with_bytes(tmp_path / "a.png", png(noise(3000, 1000, 3)))
    output = with_bytes(tmp_path / f"b{suffix}", b"old")
    process = subprocess.Popen([sys.executable, "-c", JOB, str(source), str(output)])
    part = tmp_path / f".{output.name}.{HOST}-{process.pid}.part"
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
    assert output.read_bytes() == b"old"
    assert part.exists()
    with written_whole(output) as again:
        again.write_bytes(b"new")
    assert left_in(tmp_path) == {"a.png", output.name}


def test_folder_of_the_output_is_gone(tmp_path: Path) -> None:
    source = with_bytes(tmp_path / "a.png", png(noise(9, 13, 3)))
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere" / "b.png")
    result = run(source, tmp_path / "b.png")
    assert result.status == "failed"
    assert result.message == f"{tmp_path / 'b.png'}: can't be written: No such file or directory"
