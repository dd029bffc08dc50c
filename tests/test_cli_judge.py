"""The doors to judging: what is said, what is written, with which exit status."""

import json
import os
import re
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from superfine.cli import app, main
from superfine.cli_judge import seconds_of
from superfine.errors import OutputError, SourceError, UsageError
from superfine.evaluate.evaluation import Evaluation

run = CliRunner().invoke
PHOTO = np.ascontiguousarray(data.astronaut()[60:130, 180:270])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(PHOTO).save(folder / "a.png")
    return folder


def test_a_table_with_its_protocol(photos):
    done = run(app, ["evaluate", str(photos), "--models", "fast,matlab-bicubic"])
    assert done.exit_code == 0
    assert "Y601-limited, crop 2, matlab-bicubic" in done.stdout
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "matlab-bicubic", "fast-x2"):
        assert f"\n{name} " in done.stdout


def test_blurs_by_known_kernels(photos, tmp_path):
    out = tmp_path / "r.jsonl"
    done = run(app, ["evaluate", str(photos), "--lr", "gaussian8", "--models", "fast", "--out", str(out)])
    assert done.exit_code == 0
    assert "gaussian8: 8 round Gaussians each, sigma 0.8-1.6, 22x22, direct subsampling centred on" in done.stdout
    assert "photos, x2, 8 pictures" in done.stdout
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [np.shape(line["weights"]) for line in lines if line["kind"] == "kernel"] == 8 * [(22, 22)]


def test_every_shipped_network_is_the_default(photos):
    lines = run(app, ["evaluate", str(photos), "--scale", "3", "--json"]).stdout.splitlines()
    rows = [json.loads(line) for line in lines if json.loads(line)["kind"] == "row"]
    assert {"fast-x3", "fast-int8-x3", "balanced-x3", "best-x3"} <= {row["model"] for row in rows}


def test_the_files_that_are_asked_for(photos, tmp_path):
    out, report = tmp_path / "r.jsonl", tmp_path / "r.html"
    done = run(app, ["evaluate", str(photos), "--models", "fast", "--out", str(out), "--report", str(report)])
    assert done.exit_code == 0
    assert {row.model for row in Evaluation.load(out).rows} >= {"fast-x2", "bicubic"}
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_gate_is_an_exit_status(photos, tmp_path):
    out = tmp_path / "r.jsonl"
    arguments = ["evaluate", str(photos), "--models", "bicubic"]
    assert run(app, [*arguments, "--out", str(out)]).exit_code == 0
    same = run(app, [*arguments, "--baseline", str(out)])
    assert same.exit_code == 0
    assert f"rows compared with {out}: 4; figures that fell by more than 0.02 dB or 0.0005 of SSIM: 0" in same.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "row" and line["model"] == "bicubic":
            line["psnr_y"] += 0.05
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fallen = run(app, [*arguments, "--baseline", str(out)])
    assert fallen.exit_code == 1
    assert "fallen: photos x2, bicubic: PSNR of Y fell from" in fallen.stderr
    assert run(app, [*arguments, "--baseline", str(out), "--tolerance", "0.1"]).exit_code == 0
    with pytest.raises(UsageError, match="holds nothing like what was judged now, such as photos x4, nearest"):
        run(app, [*arguments, "--scale", "4", "--baseline", str(out)], catch_exceptions=False)


def test_what_cannot_be_judged_is_named_and_1(photos):
    (photos / "broken.png").write_bytes(b"no picture")
    done = run(app, ["evaluate", str(photos), "--models", "bicubic"])
    assert done.exit_code == 1
    assert f"failed: {photos / 'broken.png'}: " in done.stderr
    assert "1 picture" in done.stdout


def test_a_model_that_nothing_guards_is_named(photos, tmp_path):
    out = tmp_path / "r.jsonl"
    arguments = ["evaluate", str(photos), "--baseline", str(out), "--models"]
    assert run(app, ["evaluate", str(photos), "--models", "matlab-bicubic", "--out", str(out)]).exit_code == 0
    both = run(app, [*arguments, "matlab-bicubic,fast"])
    assert both.exit_code == 0
    assert "judged now, not in the baseline: photos x2, fast-x2 (1 pictures; " in both.stderr
    with pytest.raises(UsageError, match="holds nothing like what was judged now, such as photos x2, fast-x2"):
        run(app, [*arguments, "fast"], catch_exceptions=False)


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(data.astronaut()[60 + number : 108 + number, 180:260]).save(folder / f"{number}.png")
    return folder


def test_a_folder_of_frames_as_a_clip(frames, tmp_path):
    out, report = tmp_path / "r.jsonl", tmp_path / "r.html"
    arguments = ["evaluate", str(frames), "--models", "fast", "--out", str(out), "--report", str(report)]
    assert run(app, [*arguments, "--as-clip"]).exit_code == 0
    rows = {row.model: row for row in Evaluation.load(out).rows}
    assert (rows["fast-x2"].unit, rows["fast-x2"].pictures) == ("frame", 6)
    assert 0 < rows["bicubic"].excess_flicker < rows["nearest"].excess_flicker
    text = report.read_text(encoding="utf-8")
    for words in ("Flicker of Y in grey levels", "6 frames", "frame by frame", "<dt>Frames</dt><dd>6</dd>"):
        assert words in text
    done = run(app, arguments)
    assert (done.exit_code, "Flicker" in done.stdout) == (0, False)
    assert {row.unit for row in Evaluation.load(out).rows} == {"picture"}


def test_a_stretch_of_a_clip(frames):
    pattern = str(frames / "%d.png")
    done = run(app, ["evaluate", pattern, "--models", "bicubic", "--start", "0:00.04", "--end", "0.2", "--every", "3"])
    assert done.exit_code == 0
    assert "Y601-limited, crop 2, matlab-bicubic, frames 1-4 by 3" in done.stdout
    assert "lower is steadier: all of it (the true clip has" in done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12),
        ("12.5", Fraction(25, 2)),
        ("1:02.25", Fraction(249, 4)),
        ("1:00:01", 3601),
        ("0:0.04", Fraction(1, 25)),
    ],
)
def test_times_as_people_write_them(text, seconds):
    assert seconds_of(text, "--start") == seconds
    assert seconds_of(None, "--start") is None


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "1:", "abc", "1,5", "inf", "1e3"])
def test_what_is_no_time(text):
    with pytest.raises(
        UsageError, match=re.escape(f"--end {text!r} is no time; write seconds, or minutes and seconds")
    ):
        seconds_of(text, "--end")


def test_names_that_no_encoding_knows(photos, tmp_path):
    (photos / "a.png").rename(os.fsdecode(os.fsencode(photos) + b"/gr\xfc\x1b.png"))
    out, report = tmp_path / "r.jsonl", tmp_path / "r.html"
    done = run(app, ["evaluate", str(photos), "--models", "bicubic", "--out", str(out), "--report", str(report)])
    assert done.exit_code == 0
    assert Evaluation.load(out).measurements[0].picture == "gr\udcfc\x1b.png"
    assert report.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "no/such/r.jsonl"], "there is no folder no/such; make it first"),
        (["--out", "a.png"], "a.png: give it a name that ends in .jsonl"),
        (["--report", "r.jsonl"], "r.jsonl: give it a name that ends in .html"),
        (["--tolerance", "nan"], "--tolerance nan is no tolerance"),
        (["--scale", "0"], "--scale 0 is outside 1 to 16"),
        (["--scale", "-2"], "--scale -2 is outside 1 to 16"),
        (["--scale", "1"], "at scale 1 LR would be HR itself; give --lr degraded, or same-size pairs"),
        (["--precision", "fp8"], "no precision 'fp8'; there are auto, bf16, fp32"),
    ],
)
def test_what_cannot_be_written_or_judged_is_said_first(photos, arguments, words, monkeypatch):
    monkeypatch.setattr("superfine.evaluate.benchmark.benchmark", lambda *given, **named: pytest.fail("it began"))
    with pytest.raises((UsageError, OutputError), match=re.escape(words)):
        run(app, ["evaluate", str(photos), "--models", "fast", *arguments], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--models", "fast,,best"], UsageError, "--models 'fast,,best': a name is empty"),
        (["--models", "nope"], UsageError, "no model 'nope'"),
        (["--lr", "box"], UsageError, "no rule 'box'"),
        (["--lr", "motion", "--scale", "8"], UsageError, "--lr motion is laid down for the scales 2, 3, 4, not 8"),
        (["--baseline", "nowhere.jsonl"], SourceError, "nowhere.jsonl: can't be read"),
        (["--distances", "beauty"], UsageError, "no distance 'beauty'"),
        (["--every", "2"], UsageError, "choose frames of a clip, and there is none"),
        (["--as-clip", "--every", "0"], UsageError, "--every 0 is under 1"),
        (["--as-clip", "--start", "soon"], UsageError, "--start 'soon' is no time"),
        (["--as-clip", "--lr", "degraded"], UsageError, "which codes them too; leave --lr degraded out"),
    ],
)
def test_wrong_wishes_stop_before_the_work(photos, arguments, error, words):
    with pytest.raises(error, match=words):
        run(app, ["evaluate", str(photos), *arguments], catch_exceptions=False)


def test_an_empty_folder_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["superfine", "evaluate", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "holds no picture to judge by at scale 2" in said
    assert said.count("\n") == 1


def test_a_comparison_is_one_page(photos, tmp_path):
    page = tmp_path / "c.html"
    done = run(app, ["compare", str(photos / "a.png"), "--models", "nearest,fast", "-o", str(page)])
    assert (done.exit_code, done.stdout) == (0, f"{page}: nearest, fast-x2\n")
    text = page.read_text(encoding="utf-8")
    assert "nearest" in text
    assert "fast-x2" in text
    beside = run(app, ["compare", str(photos / "a.png"), "--models", "nearest,bilinear", "--json"])
    assert (photos / "a_x2_compared.html").exists()
    assert [json.loads(line)["name"] for line in beside.stdout.splitlines()] == ["nearest", "bilinear"]


def test_a_page_that_is_there_is_kept(photos, tmp_path):
    arguments = ["compare", str(photos / "a.png"), "--models", "nearest,bilinear", "-o", str(tmp_path / "c.html")]
    (tmp_path / "c.html").write_text("mine")
    with pytest.raises(OutputError, match=r"c\.html: exists already; replace it with --overwrite"):
        run(app, arguments, catch_exceptions=False)
    assert run(app, [*arguments, "--overwrite"]).exit_code == 0
    assert (tmp_path / "c.html").read_text(encoding="utf-8") != "mine"


def test_a_comparison_with_the_original(photos, tmp_path):
    Image.fromarray(PHOTO[::2, ::2]).save(tmp_path / "small.png")
    arguments = ["compare", str(tmp_path / "small.png"), "--models", "nearest,bilinear", "--json"]
    lines = run(app, [*arguments, "--reference", str(photos / "a.png")]).stdout.splitlines()
    assert [json.loads(line)["psnr_y"] > 15 for line in lines] == [True, True]
    with pytest.raises(UsageError, match="is 90 x 70, the results are 180 x 140"):
        run(app, ["compare", str(photos / "a.png"), "--reference", str(photos / "a.png")], catch_exceptions=False)


def test_a_comparison_of_a_video_is_a_video(frames, tmp_path):
    output = tmp_path / "both.mp4"
    arguments = ["compare", str(frames / "%d.png"), "--models", "nearest,fast", "-o", str(output), "--end", "0.1"]
    done = run(app, arguments)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"{output}: nearest, fast-x2; 2 in a row"
    assert lines[1].endswith(", 3 frames")
    assert re.fullmatch(r"  nearest: \d+ ms a frame", lines[2])
    with pytest.raises(OutputError, match=r"both\.mp4: exists already; replace it with --overwrite"):
        run(app, arguments, catch_exceptions=False)
    again = run(app, [*arguments, "--overwrite", "--json"])
    facts = json.loads(again.stdout)
    assert (facts["frames"], [method["name"] for method in facts["methods"]]) == (3, ["nearest", "fast-x2"])
    beside = run(app, ["compare", str(frames), "--models", "nearest,bilinear", "--end", "0.05"])
    assert beside.exit_code == 0
    assert (tmp_path / "frames_x2_compared.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "page.html"], "page.html: a video is compared in a video; give -o a name that ends in .mp4 or .mkv"),
        (["--reference", "a.png"], "a.png: --reference is for pictures; superfine evaluate measures on videos"),
        (["--start", "soon"], "--start 'soon' is no time"),
        (["--models", "nearest"], "one method has nothing to stand beside"),
    ],
)
def test_wishes_that_no_video_fulfils(frames, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(words)):
        run(app, ["compare", str(frames), *arguments], catch_exceptions=False)


def test_an_animation_is_a_picture_unless_its_output_plays(frames, tmp_path):
    pictures = [Image.open(path) for path in sorted(frames.iterdir())]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    arguments = ["compare", str(tmp_path / "a.gif"), "--models", "nearest,bilinear"]
    assert run(app, arguments).exit_code == 0
    assert (tmp_path / "a_x2_compared.html").exists()
    done = run(app, [*arguments, "-o", str(tmp_path / "both.mp4")])
    assert (done.exit_code, "6 frames" in done.stdout) == (0, True)
    with pytest.raises(UsageError, match=r"a\.gif: is no video, which --start and --end are for"):
        run(app, [*arguments, "--start", "0.2"], catch_exceptions=False)


def test_inspect_says_what_a_picture_is(photos):
    (photos / "broken.png").write_bytes(b"no picture")
    done = run(app, ["inspect", str(photos / "a.png"), str(photos / "broken.png")])
    assert done.exit_code == 1
    assert "90 x 70" in done.stdout
    assert f"failed: {photos / 'broken.png'}" in done.stderr
    found = json.loads(run(app, ["inspect", str(photos / "a.png"), "--json"]).stdout)
    assert (found["size"], found["model"] in ("balanced", "photo")) == ([70, 90], True)
