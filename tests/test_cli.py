"""The door: what is said, in which words, with which exit status."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from superfine.cli import app, main
from superfine.errors import UsageError
from superfine.models import CLASSICAL, list_models, with_card
from superfine.progress import Terminal
from superfine.upscale import upscale_path

run = CliRunner().invoke


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(180, dtype=np.uint8).reshape(9, 20)).save(path)
    return path


def test_a_picture_and_then_the_same_again(picture: Path) -> None:
    first = run(app, ["upscale", str(picture), "--model", "bicubic", "--scale", "1.5"])
    assert (first.exit_code, first.stderr) == (0, "")
    assert f"{picture} -> {picture.with_name('a_x1.5.png')}" in first.stdout
    assert "20x9 -> 30x14, bicubic, superfine, fp32" in first.stdout
    second = run(app, ["upscale", str(picture), "--model", "bicubic", "--scale", "1.5"])
    assert second.exit_code == 1
    assert second.stderr.startswith(f"failed: {picture.with_name('a_x1.5.png')}: exists already")


def test_what_an_earlier_run_made_is_said(picture: Path, tmp_path: Path) -> None:
    out = tmp_path.with_name("out")
    command = ["upscale", str(picture.parent), "-o", str(out), "--model", "nearest"]
    assert " -> " in run(app, command).stdout
    again = run(app, command)
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout == f"{out / 'a.png'}: an earlier run made it; --no-resume makes it again\n"


def test_of_what_alpha_hides_exactly_isnt_said(tmp_path: Path) -> None:
    """Hidden colours are projected like all others, and those in the middle can't be met."""
    board = np.zeros((16, 16, 4), np.uint8)
    board[::2, ::2, :3] = 255
    Image.fromarray(board).save(tmp_path / "a.png")
    made = run(
        app, ["upscale", str(tmp_path / "a.png"), "--model", "bicubic", "--scale", "2", "--consistent", "bicubic"]
    )
    assert "it is the source exactly, as far as alpha shows it\n" in made.stdout
    assert "samples are off by more than half a level" in made.stdout


def test_a_dry_run_adds_up(picture: Path, tmp_path: Path) -> None:
    other = picture.with_name("b.png")
    other.write_bytes(picture.read_bytes())
    planned = run(app, ["upscale", str(tmp_path), "--dry-run"])
    assert planned.exit_code == 0
    assert "2 planned in" in planned.stdout
    assert re.search(r"^note: 2 of 2 pictures: auto chose \w+ for lossless PNG", planned.stdout, re.MULTILINE)
    assert "together about 0 s of enlarging, at most about 0.25 GB" in planned.stdout
    assert sorted(tmp_path.iterdir()) == [picture, other]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "0.5"], "--scale 0.5 would make pictures smaller"),
        (["--size", "12by9"], "--size '12by9' is not a size; write it as 1920x1080"),
        (["--size", "0x9"], "is not a size"),
        (["--size", "²x3"], "is not a size"),
        (["--size", "9x" + "9" * 5000], "is not a size"),
        (["--max-megapixels", "nan"], "--max-megapixels nan is not above 0"),
        (["--model", "nope"], "no model 'nope'; there are "),
        (["--engine", "warp"], "--engine 'warp' is none of openvino"),
        (["--precision", "fp8"], "--precision 'fp8' is none of auto, bf16, fp32"),
        (["-o", "a.bmp"], "superfine doesn't write .bmp"),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(
    picture: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["superfine", "upscale", str(picture), *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert words in said
    assert said.startswith("superfine: ")
    assert said.count("\n") == 1


def test_models_lists_what_there_is_and_show_tells_all() -> None:
    listed = run(app, ["models"]).stdout
    assert all(name in listed for name in (*CLASSICAL, *(model.card.name for model in list_models())))
    lines = run(app, ["models", "--json"]).stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == [model.card.name for model in list_models()]
    (card,) = (model.card for model in list_models() if model.card.name == "fast-x2")
    shown = run(app, ["models", "show", "fast-x2"]).stdout
    assert card.licence in shown
    assert card.training_data in shown
    assert f"Set5 {card.psnr['Set5']:.2f} dB" in shown
    for name, words in (("nope", "no model"), ("auto", "is chosen for each picture")):
        with pytest.raises(UsageError, match=words):
            run(app, ["models", "show", name], catch_exceptions=False)


def test_a_strangers_card_is_shown_whatever_it_says(tmp_path: Path) -> None:
    model = next(model for model in list_models() if model.card.name == "fast-x2")
    card = replace(model.card, calibration={"networks": {"any": "text"}})
    (tmp_path / "mine.onnx").write_bytes(with_card(model.content, card))
    shown = run(app, ["models", "show", str(tmp_path / "mine.onnx")], catch_exceptions=False).stdout
    assert 'calibration      {"networks": {"any": "text"}}' in shown


def test_the_choice_and_its_reason_are_said(picture: Path) -> None:
    lossy = picture.with_name("b.jpg")
    Image.open(picture).save(lossy)
    for word in ("--dry-run", "--model=auto"):
        said = run(app, ["upscale", str(lossy), "--overwrite", word])
        assert (said.exit_code, said.stderr) == (0, "")
        assert re.search(r"^note: auto chose \w+ for lossy JPEG", said.stdout, re.MULTILINE)
    lines = run(app, ["upscale", str(lossy), str(picture), "--overwrite", "--dry-run", "--json"]).stdout.splitlines()
    reasons = {Path(result["source"]).name: result["notes"][0] for result in map(json.loads, lines)}
    assert "lossy JPEG" in reasons["b.jpg"]
    assert "lossless PNG" in reasons["a.png"]


def test_doctor_knows_versions_engines_and_codecs() -> None:
    facts = json.loads(run(app, ["doctor", "--json"]).stdout)
    assert facts["engines"]["openvino"] == "ready"
    assert facts["pictures"]["png"].startswith("ready")
    assert facts["packages"]["numpy"] == np.__version__
    assert "native precisions" in run(app, ["doctor"]).stdout


def test_a_terminal_sees_a_bar_and_what_fails_as_it_happens(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Terminal() as terminal:
        report = upscale_path(tmp_path, tmp_path / "out", progress=terminal)
        assert "failed: " in screen.getvalue()
        assert "0 of 2" in screen.getvalue()
    terminal.summary(report)
    assert "1 done, 1 failed in" in capsys.readouterr().out


def test_completion_is_offered() -> None:
    assert "--install-completion" in run(app, ["--help"]).stdout
