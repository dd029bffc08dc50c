"""The journal: what counts as done, and what a killed run leaves."""

from pathlib import Path

import pytest

from superfine.journal import JOURNAL_NAME, Journal, stamp


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


@pytest.mark.parametrize("torn", ['{"output": "b.pn', "", "null", "[1, 2]", '{"output": 3}', "\x00\x00\x00"])
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
