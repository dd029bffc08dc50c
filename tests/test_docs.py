"""What the documents say is so, and what the command line can do is said."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from superfine.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TEST_COMMAND = "pip install -c constraints.txt -e '.[dev]' && scripts/check"


def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    yield " ".join(words), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*words, name))


#: `superfine`, `superfine upscale`, `superfine models`, `superfine models show`, ...
COMMANDS: dict[str, Any] = dict(walk(typer.main.get_command(app), ("superfine",)))
VERBS = [name for name in COMMANDS if name != "superfine"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_its_options_have_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    silent = [parameter.name for parameter in command.params if not parameter.help]
    assert not silent, f"{name}: no help for {silent}"


@pytest.mark.parametrize("name", COMMANDS)
def test_long_options_are_whole_words(name: str) -> None:
    options = [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]
    short_only = [option.name for option in options if not any(word.startswith("--") for word in option.opts)]
    assert not short_only, f"{name}: no long form of {short_only}"


@pytest.mark.parametrize("verb", VERBS)
def test_verb_stands_in_the_readme(verb: str) -> None:
    assert verb in read(ROOT / "README.md")


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_printed(verb: str) -> None:
    command = [sys.executable, "-m", *verb.split(), "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    assert "Usage" in done.stdout


def shown_commands(text: str) -> Iterator[list[str]]:
    """The calls of superfine in the code of a document, fenced or indented, as words."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(?:.*&& )?superfine .*", text, re.MULTILINE)
    for line in "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines():
        for call in line.strip().removeprefix("$ ").split("&&"):
            if call.strip().startswith("superfine "):
                yield shlex.split(call, comments=True)


def test_commands_are_found_where_they_stand() -> None:
    """Whatever way a document shows them; else the next test holds nothing."""
    shown = (
        "```\n$ superfine a \\\n  b\n```\n\n    pip install . && superfine c # d\n    x.superfine\n    superfine e\n"
    )
    assert list(shown_commands(shown)) == [["superfine", *words] for words in ("ab", "c", "e")]
    assert len(list(shown_commands(read(ROOT / "README.md")))) >= 4


def test_readme_lists_the_options_of_upscale() -> None:
    (listed,) = re.findall(r"^Options of `upscale`: ([^;]*);", read(ROOT / "README.md"), re.MULTILINE)
    params = [option for option in COMMANDS["superfine upscale"].params if option.param_type_name == "option"]
    words = {word for option in params for word in (*option.opts, *option.secondary_opts) if word.startswith("--")}
    assert sorted(re.findall(r"--[a-z-]+", listed)) == sorted(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_shown_commands_exist(path: Path) -> None:
    for words in shown_commands(read(path)):
        name = max((known for known in COMMANDS if words[: len(known.split())] == known.split()), key=len)
        command, rest = COMMANDS[name], words[len(name.split()) :]
        if hasattr(command, "commands"):
            assert all(word.startswith("-") for word in rest), f"{words}: {name} has no such verb"
        known = {"--help"} | {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= known, f"{words}: {name} has no {used - known}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", read(path), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    missing = [target for target in local if target and not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_extras_exist(path: Path) -> None:
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    named = {
        extra for group in re.findall(r"pip install [^\n`]*\.\[([\w,]+)\]", read(path)) for extra in group.split(",")
    }
    assert named <= set(project["optional-dependencies"])


def test_ci_runs_the_readmes_test_command() -> None:
    assert TEST_COMMAND in read(ROOT / "README.md")
    assert TEST_COMMAND in read(ROOT / ".ci" / "run")
