"""The journal: what counts as done, and what a killed run leaves."""

import subprocess
import sys
from pathlib import Path

import pytest

from memory import measured
from superfine.atomic import this_process
from superfine.errors import OutputError
from superfine.journal import JOURNAL_NAME, JOURNALS_NAME, Journal, stamp


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source, output = tmp_path / "in" / "a.png", tmp_path / "out" / "a.png"
    for path in (source, output):
        path.parent.mkdir()
        path.write_bytes(b"pixels")
    return source, output


def _add(source: Path, output: Path) -> None:
    journal = Journal(output.parent)
    journal.add(journal.entry(source, stamp(source), output, stamp(output), "x2"))


def _written(source: Path, output: Path) -> Journal:
    _add(source, output)
    return Journal(output.parent)


def test_an_unchanged_pair_is_done(pair: tuple[Path, Path]) -> None:
    assert not Journal(pair[1].parent).done(*pair, "x2")
    assert _written(*pair).done(*pair, "x2")


def test_every_change_counts(pair: tuple[Path, Path]) -> None:
    source, output = pair
    journal = _written(source, output)
    assert not journal.done(source, output, "x4")
    assert not journal.done(source.with_name("b.png"), output, "x2")
    source.write_bytes(b"other pixels")
    assert not journal.done(source, output, "x2")
    assert journal.made(output)
    output.write_bytes(b"edited by hand")
    assert not journal.made(output)
    output.unlink()
    assert not journal.made(output)


def test_a_source_that_changed_while_it_was_read_is_not_done(pair: tuple[Path, Path]) -> None:
    source, output = pair
    before = stamp(source)
    source.write_bytes(b"saved again meanwhile")
    journal = Journal(output.parent)
    journal.add(journal.entry(source, before, output, stamp(output), "x2"))
    assert not Journal(output.parent).done(source, output, "x2")


@pytest.mark.parametrize(
    "torn",
    [
        '{"output": "c.png", "output_stamp": [6, 1], "source": "../in/a',
        '{"output": "b.pn',
        "",
        "null",
        "[1, 2]",
        '{"output": 3}',
        "\x00\x00\x00",
    ],
)
def test_a_torn_line_is_passed_over(pair: tuple[Path, Path], torn: str) -> None:
    source, output = pair
    _written(source, output)
    with (output.parent / JOURNAL_NAME).open("a") as file:
        file.write(torn)
    second = output.with_name("c.png")
    second.write_bytes(b"pixels")
    _add(source, second)
    journal = Journal(output.parent)
    assert journal.done(source, output, "x2")
    assert journal.done(source, second, "x2")


def test_a_tree_that_moves_as_a_whole_is_still_known(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _written(*pair)
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    assert Journal(moved / "out").done(moved / "in" / "a.png", moved / "out" / "a.png", "x2")


# A line as written since the first version, with what JSON escapes.
EARLIER = (
    '{"output": "e/\\"x\\", \\"source\\": \\u00e4.png", "output_stamp": [%d, %d], "source": "../in/a.png", '
    '"source_stamp": [%d, %d], "options": "x2"}\n'
)


def test_journals_written_so_far_are_read(pair: tuple[Path, Path]) -> None:
    source, output = pair[0], pair[1].parent / "e" / '"x", "source": \u00e4.png'
    output.parent.mkdir()
    output.write_bytes(b"pixels")
    line = EARLIER % (*stamp(output), *stamp(source))
    (pair[1].parent / JOURNAL_NAME).write_text(line, encoding="ascii")
    assert Journal(pair[1].parent).done(source, output, "x2")
    assert not Journal(pair[1].parent).done(source, output, "x4")
    again = Journal(pair[1].parent)
    again.add(again.entry(source, stamp(source), output, stamp(output), "x2"))
    assert (pair[1].parent / JOURNAL_NAME).read_text(encoding="ascii") == 2 * line


def test_many_write_and_all_read(pair: tuple[Path, Path]) -> None:
    """One process alone before, two that share the folder, one that began to read earlier."""
    source, first = pair
    outputs = [first, *(first.with_name(name) for name in ("b.png", "c.png"))]
    for output in outputs[1:]:
        output.write_bytes(b"pixels")
    reader = Journal(first.parent)
    assert [reader.made(output) for output in outputs] == [False, False, False]
    _add(source, first)
    shared = Journal(first.parent, shared=True)
    shared.add(shared.entry(source, stamp(source), outputs[1], stamp(outputs[1]), "x2"))
    mine = first.parent / JOURNALS_NAME / f"{this_process()}.jsonl"
    assert [path.name for path in mine.parent.iterdir()] == [mine.name]
    assert len((first.parent / JOURNAL_NAME).read_bytes().splitlines()) == 1
    line = mine.read_bytes().replace(b"b.png", b"c.png")
    facts = stamp(outputs[2])
    assert facts[0] == stamp(outputs[1])[0]
    line = line.replace(str(stamp(outputs[1])[1]).encode(), str(facts[1]).encode())
    mine.with_name("ffffffff-1.jsonl").write_bytes(line)
    for journal in (reader, shared, Journal(first.parent)):
        assert [journal.done(source, output, "x2") for output in outputs] == [True, True, True]


def test_a_line_that_is_being_written_is_read_once_it_is_whole(pair: tuple[Path, Path]) -> None:
    source, output = pair
    _add(source, output)
    path = output.parent / JOURNAL_NAME
    line = path.read_bytes()
    path.write_bytes(line[:-1])
    journal = Journal(output.parent)
    assert not journal.made(output)
    path.write_bytes(line)
    assert journal.done(source, output, "x2")


def test_nothing_is_read_for_outputs_that_are_not_there(pair: tuple[Path, Path]) -> None:
    """A new item of a large run costs one look at its output."""
    source, output = pair
    _add(source, output)
    path = output.parent / JOURNAL_NAME
    line = path.read_bytes()
    path.unlink()
    path.mkdir()  # to read this is an error
    journal = Journal(output.parent)
    assert not journal.done(source, output.with_name("not.png"), "x2")
    with pytest.raises(IsADirectoryError):
        journal.done(source, output, "x2")
    path.rmdir()
    path.write_bytes(line)
    assert journal.done(source, output, "x2")
    path.unlink()
    assert journal.done(source, output, "x2")  # known by now


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_that_takes_no_journal(pair: tuple[Path, Path], shared: bool) -> None:
    source, output = pair
    (output.parent / (JOURNALS_NAME if shared else JOURNAL_NAME)).symlink_to("nowhere/else")
    journal = Journal(output.parent, shared=shared)
    with pytest.raises(OutputError, match=r"jsonl: the journal can't be written: (File exists|No such file)"):
        journal.add(journal.entry(source, stamp(source), output, stamp(output), "x2"))


BIG = """
import sys
from pathlib import Path
from superfine.journal import Journal
folder = Path(sys.argv[1])
(folder / "a").write_bytes(b"pixels")
line = '{"output": "%d/IMG_%07d.jpg", "output_stamp": [%d, 1], "source": "../in/%d.jpg", "source_stamp": [1, 1], "options": "x"}'
with (folder / ".superfine.jsonl").open("w") as file:
    for number in range(1_000_000):
        print(line % (number // 1000, number, number, number), file=file)
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024  # MB

before = peak()
assert not Journal(folder).made(folder / "a")
print(peak() - before)
"""  # noqa: E501


@pytest.mark.slow
@measured
def test_memory_of_a_million_entries(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-c", BIG, tmp_path], check=True, capture_output=True, text=True)
    assert 10 < float(told.stdout) < 300
