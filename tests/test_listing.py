"""Which files a run takes and where each goes: all at once and one by one, with links, twins of case, and clashes."""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from memory import measured
from superfine import Job
from superfine.errors import UsageError
from superfine.listing import Item, iterate_sources, list_sources, said_of_twins

X2 = Job(model="nearest", scale=2)
PNG = Job(model="nearest", scale=2, file_format="png")


def _files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))


def _shown(folder: Path, items: Sequence[Item]) -> list[tuple[str, str]]:
    """Sources and outputs below `folder`; an output with a problem is left out."""
    return [
        (item.source.relative_to(folder).as_posix(), "" if item.problem else item.output.relative_to(folder).as_posix())
        for item in items
    ]


def _both(sources: Sequence[Path], output: Path | None, job: Job = X2) -> tuple[list[Item], int]:
    """Pictures and videos, and how many files were ignored; the same all at once and one by one."""
    listing = list_sources(sources, output, job)
    found = list(iterate_sources(sources, output, job))
    assert [entry for entry in found if isinstance(entry, Item)] == listing.items
    assert sum(not isinstance(entry, Item) for entry in found) == listing.ignored
    return listing.items, listing.ignored


def test_a_tree_in_its_order_with_what_is_left_out(tmp_path: Path) -> None:
    names = ("b.png", "a.jpg", "z/y.tif", "z/x/w.webp", "c/d.mp4", "c/e.avi", "notes.txt", "c/README", "noend")
    _files(tmp_path / "in", *names, ".dot.png", ".folder/f.png", "c/.g.png")
    items, ignored = _both([tmp_path / "in"], tmp_path / "out")
    assert _shown(tmp_path, items) == [
        ("in/a.jpg", "out/a.jpg"),
        ("in/b.png", "out/b.png"),
        ("in/c/d.mp4", "out/c/d.mp4"),
        ("in/c/e.avi", "out/c/e.mkv"),
        ("in/z/y.tif", "out/z/y.tif"),
        ("in/z/x/w.webp", "out/z/x/w.webp"),
    ]
    assert ignored == 3
    assert [item.moves for item in items] == [False, False, True, True, False, False]
    assert [item.weight for item in items] == [5, 5, 7, 7, 7, 10]
    assert {item.journal for item in items} == {tmp_path / "out"}


def test_outputs_that_would_be_one_get_names_of_their_own(tmp_path: Path) -> None:
    _files(
        tmp_path / "in",
        "a.jpg",
        "a.jpeg",
        "a.png",
        "A.png",
        "a_png.png",
        "s/a.jpg",
        "S/A.png",
        "S/t/u.png",
        "s/T/U.jpg",
    )
    items, _ = _both([tmp_path / "in"], tmp_path / "out", PNG)
    assert _shown(tmp_path, items) == [
        ("in/A.png", "out/A.png"),
        ("in/a.jpeg", "out/a_jpeg.png"),
        ("in/a.jpg", "out/a_jpg.png"),
        ("in/a.png", "out/a_png.png"),
        ("in/a_png.png", "out/a_png_png.png"),
        ("in/S/A.png", "out/S/A.png"),
        ("in/S/t/u.png", "out/S/t/u.png"),
        ("in/s/a.jpg", "out/s/a_jpg.png"),
        ("in/s/T/U.jpg", "out/s/T/U_jpg.png"),
    ]


def test_two_folders_of_one_name_share_an_output_folder(tmp_path: Path) -> None:
    _files(tmp_path, "one/in/a.png", "two/in/a.png", "two/in/b.png", "c/a.png")
    items, _ = _both([tmp_path / "one" / "in", tmp_path / "two" / "in", tmp_path / "c" / "a.png"], tmp_path / "out")
    assert [output for _, output in _shown(tmp_path, items)] == [
        "out/in/a.png",
        "out/in/a_png.png",
        "out/in/b.png",
        "out/a.png",
    ]


def test_each_file_is_taken_once_whatever_leads_to_it(tmp_path: Path) -> None:
    _files(tmp_path, "in/b.png", "in/s/c.png", "far/d.png", "far/e.png", "far/.f.png")
    links = {
        "in/a.png": "b.png",  # before what it points to: the link is taken
        "in/z.png": "b.png",
        "in/s/b.png": "c.png",
        "in/t": "s",
        "in/u": "../far",
        "in/v.png": "../far/d.png",
        "in/s/up": "..",
        "in/w.png": "../far/.f.png",
        "in/x.png": "x.png",
        "in/y.png": "nowhere.png",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    items, ignored = _both([tmp_path / "in"], tmp_path / "out")
    assert [source for source, _ in _shown(tmp_path, items)] == [
        *("in/a.png", "in/v.png", "in/w.png", "in/x.png", "in/y.png", "in/s/b.png", "in/u/e.png")
    ]
    assert ignored == 4  # b, z, s/c and u/d


def test_other_names_of_a_file_are_told(tmp_path: Path) -> None:
    _files(tmp_path, "in/b.png", "in/c.png", "in/notes.txt")
    for name in ("a", "d", "e", "f"):
        (tmp_path / "in" / f"{name}.png").symlink_to("b.png")
    listing = list_sources([tmp_path / "in"], tmp_path / "out", X2)
    assert [item.source.name for item in listing.items] == ["a.png", "c.png"]
    assert ([path.name for path in listing.twins], listing.ignored) == (["b.png", "d.png", "e.png", "f.png"], 5)
    named = [tmp_path / "in" / name for name in ("c.png", "b.png", "d.png", "c.png")]
    listing = list_sources(named, tmp_path / "out", X2)
    assert [item.source.name for item in listing.items] == ["c.png", "b.png"]
    assert [path.name for path in listing.twins] == ["d.png"]
    words = "left alone, since it leads to a file that is made by another name: "
    assert said_of_twins(["a", "b", "c"], 3) == f"{words}a, b, c"
    assert said_of_twins(["a", "b", "c", "d"], 4) == f"{words}a, b, c, …"
    assert said_of_twins(["a", "b", "c"], 9) == f"{words}a, b, c, …"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_sources_that_overlap_give_each_file_once(tmp_path: Path, order: tuple[int, ...]) -> None:
    _files(tmp_path, "in/a.png", "in/s/b.png", "in/s/odd")
    sources = [tmp_path / "in", tmp_path / "in" / "s", tmp_path / "in" / "a.png"]
    items, ignored = _both([sources[place] for place in order], tmp_path / "out")
    assert sorted(source for source, _ in _shown(tmp_path, items)) == ["in/a.png", "in/s/b.png"]
    assert ignored == 1
    items, _ = _both([tmp_path / "in", tmp_path / "in" / "s" / "odd"], tmp_path / "out")
    assert len(items) == 3, "what is named is taken, whatever its name"


def test_an_output_that_is_a_source_is_a_problem(tmp_path: Path) -> None:
    _files(tmp_path, "in/a.png", "in/b.png", "two/b.png", "out/c.png")
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "in" / "a.png")
    items, _ = _both([tmp_path / "in"], tmp_path / "out")
    assert _shown(tmp_path, items) == [("in/a.png", ""), ("in/b.png", "out/b.png")]
    assert items[0].problem == f"{tmp_path}/out/a.png: is a source of this run itself; choose another output with -o"
    items, _ = _both(
        [tmp_path / "two" / "b.png", tmp_path / "in" / "b.png", tmp_path / "in" / "a.png"], tmp_path / "in"
    )
    assert _shown(tmp_path, items) == [("two/b.png", ""), ("in/b.png", "in/b_png.png"), ("in/a.png", "")]
    (tmp_path / "in" / "c.png").symlink_to(tmp_path / "out" / "c.png")
    items, _ = _both([tmp_path / "in"], tmp_path / "out")
    assert _shown(tmp_path, items) == [("in/a.png", ""), ("in/b.png", "out/b.png"), ("in/c.png", "")]


def test_a_source_that_is_met_late_is_guarded_where_all_are_known(tmp_path: Path) -> None:
    """The one thing that is only seen all at once: both links lead out of the folders of the run."""
    _files(tmp_path, "in/a/p.png", "far/p.png", "out/keep.png")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "out" / "a").symlink_to(tmp_path / "far")
    listing = list_sources([tmp_path / "in"], tmp_path / "out", X2)
    assert _shown(tmp_path, listing.items) == [("in/a/p.png", ""), ("in/b/p.png", "out/b/p.png")]


def test_outputs_inside_their_source_are_no_sources(tmp_path: Path) -> None:
    _files(tmp_path, "in/a.png", "in/out/a.png", "in/outer/b.png")
    items, _ = _both([tmp_path / "in"], tmp_path / "in" / "out")
    assert _shown(tmp_path, items) == [("in/a.png", "in/out/a.png"), ("in/outer/b.png", "in/out/outer/b.png")]


def test_a_folder_that_cannot_be_read_is_an_item_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(tmp_path, "in/a.png", "in/locked/b.png", "in/open/c.png")
    scan = os.scandir

    def locked(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    items, _ = _both([tmp_path / "in"], tmp_path / "out")
    assert _shown(tmp_path, items) == [
        ("in/a.png", "out/a.png"),
        ("in/locked", ""),
        ("in/open/c.png", "out/open/c.png"),
    ]
    assert items[1].problem == f"{tmp_path}/in/locked: the folder can't be read: Permission denied"


def test_nothing_to_do_is_said_and_so_is_what_cannot_be_before_the_first_step(tmp_path: Path) -> None:
    _files(tmp_path, "in/a.txt")
    found = iterate_sources([tmp_path / "in"], tmp_path / "out", X2)
    assert next(found) == tmp_path / "in" / "a.txt"
    with pytest.raises(UsageError, match="no picture and no video in"):
        next(found)
    for sources, output, words in [
        ([], tmp_path, "no source given"),
        ([tmp_path / "in"], tmp_path / "no" / "out", "there is no such folder for the output"),
        ([tmp_path / "in"], tmp_path / "in", "the output folder is the source folder"),
        ([tmp_path / "*.jpg"], tmp_path / "out", "nothing matches"),
        ([tmp_path / "in", tmp_path], tmp_path / "in" / "a.txt", "is a file, and several pictures need a folder"),
    ]:
        for listed in (list_sources, iterate_sources):
            with pytest.raises(UsageError, match=words):
                listed(sources, output, X2)


def test_one_by_one_begins_before_the_end_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _files(tmp_path, *(f"in/{number}/a.png" for number in range(5)))
    scan, seen = os.scandir, []

    def noted(path: Path) -> object:
        seen.append(Path(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", noted)
    found = iterate_sources([tmp_path / "in"], tmp_path / "out", X2)
    next(found), next(found)
    assert [path.name for path in seen if path.is_relative_to(tmp_path / "in")] == ["in", "0", "1"]


@pytest.mark.parametrize("seed", range(12))
def test_any_tree_is_taken_whole_once_and_without_a_clash(tmp_path: Path, seed: int) -> None:
    """Against what the file system itself says: os.walk, realpath."""
    chance = random.Random(seed)  # noqa: S311
    folders = [tmp_path / "in", tmp_path / "far"]
    for _ in range(8):
        folders.append(chance.choice(folders) / chance.choice(["s", "S", "t", ".h", "u.png"]))
    files = []
    for _ in range(30):
        path = chance.choice(folders) / (
            chance.choice("aAbB") + chance.choice([".jpg", ".png", ".PNG", ".txt", ".mp4"])
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(b"x")
            files.append(path)
    for _ in range(6):
        link = chance.choice(folders) / chance.choice(["l.png", "m", "a.webp"])
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(chance.choice([*files, *(folder for folder in folders if folder.exists())]))
    if not any((tmp_path / "in").rglob("*.*g")):
        _files(tmp_path, "in/a.png")
    expected, entered = set(), set()
    for place, below, names in os.walk(tmp_path / "in", followlinks=True):
        if os.path.realpath(place) in entered:
            below.clear()
            continue
        entered.add(os.path.realpath(place))
        below[:] = [name for name in below if not name.startswith(".")]
        seen = [Path(place, name) for name in names if not name.startswith(".")]
        expected |= {path.resolve() for path in seen if path.suffix.lower() in {".jpg", ".png", ".webp", ".mp4"}}
    items, _ = _both([tmp_path / "in"], tmp_path / "out", PNG)
    assert sorted(item.source.resolve() for item in items) == sorted(expected)
    assert len({str(item.output).casefold() for item in items}) == len(items)
    for item in items:
        assert item.output.parent.relative_to(tmp_path / "out") == item.source.parent.relative_to(tmp_path / "in")


LONG = """
import sys
from pathlib import Path
from superfine import Job
from superfine.listing import iterate_sources
folder = Path(sys.argv[1])
for number in range(40):
    (folder / "in" / str(number)).mkdir(parents=True)
    for picture in range(1000):
        (folder / "in" / str(number) / f"IMG_{picture:06}.jpg").write_bytes(b"\\xff\\xd8\\xff")
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024  # MB

before = peak()
assert sum(1 for item in iterate_sources([folder / "in"], folder / "out", Job(model="nearest", scale=2))) == 40_000
print(peak() - before)
"""


@pytest.mark.slow
@measured
def test_memory_is_that_of_one_folder(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-c", LONG, tmp_path], check=True, capture_output=True, text=True)
    assert float(told.stdout) < 5
