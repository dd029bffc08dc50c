"""Records on disk and the regression gate."""

import dataclasses
import json
import math

import pytest

from superfine.errors import SourceError, UsageError
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.record import Failure, Measurement, Row, UsedKernel, regressions

ROW = Row(
    dataset="Set5",
    model="fast-x2",
    scale=2,
    pictures=5,
    protocol_y="Y601-limited, crop 2, matlab-bicubic",
    protocol_rgb="RGB, crop 2, matlab-bicubic",
    psnr_y=37.26,
    ssim_y=0.958,
    psnr_rgb=34.9,
    ssim_rgb=0.94,
    pooled_y=37.1,
    pooled_rgb=34.7,
    distances={"lpips": 0.05},
    ms_per_mpx=120.0,
    memory_mb=53.0,
    engine="OpenVINO",
    precision="bf16",
    sha256="ab" * 32,
    parameters=26500,
)
PICTURE = Measurement(
    dataset="Set5",
    picture='a "b".png',
    model="nearest",
    psnr_y=math.inf,
    ssim_y=1.0,
    psnr_rgb=math.inf,
    ssim_rgb=1.0,
    error_y=0.0,
    error_rgb=0.0,
    samples=100,
    pixels=25,
    seconds=0.1,
)
FOUND = Evaluation(
    version="0.1.0",
    date="2026-11-21",
    machine={"cpu": "any"},
    notes=("one",),
    rows=(ROW,),
    measurements=(PICTURE,),
    failures=(Failure(name="b.png", reason="damaged"),),
)


def changed(**figures):
    return dataclasses.replace(ROW, **figures)


def test_what_is_saved_is_read_again(tmp_path):
    FOUND.save(tmp_path / "r.jsonl")
    assert Evaluation.load(tmp_path / "r.jsonl") == FOUND


def test_lines_are_strict_json_that_anyone_can_read(tmp_path):
    dataclasses.replace(FOUND, rows=(changed(ms_per_mpx=math.nan),)).save(tmp_path / "r.jsonl")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["evaluation", "row", "failure", "picture"]
    assert lines[1]["ms_per_mpx"] is None
    assert lines[3]["psnr_y"] == "inf"
    assert math.isnan(Evaluation.load(tmp_path / "r.jsonl").rows[0].ms_per_mpx)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "line 1 is none of an evaluation"),
        ("nonsense", "line 1 is none of an evaluation"),
        ('{"kind": "row", "psnr_y": "high"}', "line 1 is none of an evaluation"),
        ('{"kind": "evaluation", "date": "today"}', "lacks version, machine"),
        ("[1, 2]", "line 1 is none of an evaluation by this version of superfine"),
        ("", "is empty or cut off; give a file that --out wrote"),
    ],
)
def test_files_that_are_no_evaluation(tmp_path, text, words):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(SourceError, match=words):
        Evaluation.load(tmp_path / "r.jsonl")
    with pytest.raises(SourceError, match="nowhere: can't be read"):
        Evaluation.load(tmp_path / "nowhere")


def stored(tmp_path):
    FOUND.save(tmp_path / "r.jsonl")
    return (tmp_path / "r.jsonl").read_text()


def test_a_figure_of_the_wrong_kind_is_refused(tmp_path):
    (tmp_path / "r.jsonl").write_text(stored(tmp_path).replace('"psnr_y": 37.26', '"psnr_y": "good"'))
    with pytest.raises(SourceError, match="line 2 is none of an evaluation .*psnr_y is 'good'"):
        Evaluation.load(tmp_path / "r.jsonl")


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    lines = stored(tmp_path).splitlines(keepends=True)
    for count in range(1, len(lines)):
        (tmp_path / "r.jsonl").write_text("".join(lines[:count]))
        with pytest.raises(SourceError, match="is empty or cut off"):
            Evaluation.load(tmp_path / "r.jsonl")


def test_files_of_other_versions(tmp_path):
    """What a later one adds is left out; what an earlier one lacks is named."""
    text = stored(tmp_path)
    (tmp_path / "r.jsonl").write_text(text.replace('"psnr_y": 37.26', '"beauty": 3, "psnr_y": 37.26'))
    assert Evaluation.load(tmp_path / "r.jsonl") == FOUND
    (tmp_path / "r.jsonl").write_text(text.replace('"pooled_y": 37.1, ', ""))
    with pytest.raises(SourceError, match=r"line 2 .*\(lacks pooled_y\)"):
        Evaluation.load(tmp_path / "r.jsonl")


def test_kernels_and_their_correlation_are_kept(tmp_path):
    kernel = UsedKernel(dataset="Set5", picture="a.png, kernel 1", scale=2, weights=((0.1, 1 / 3), (0.5, 1 / 15)))
    rows = (changed(kernel_correlation=0.97), ROW)
    found = dataclasses.replace(FOUND, rows=rows, kernels=(kernel,))
    found.save(tmp_path / "r.jsonl")
    assert Evaluation.load(tmp_path / "r.jsonl") == found
    text = (tmp_path / "r.jsonl").read_text()
    for right, wrong in (("[[0.1, ", '[["soft", '), ('"kernel_correlation": 0.97', '"kernel_correlation": "high"')):
        assert right in text
        (tmp_path / "r.jsonl").write_text(text.replace(right, wrong))
        with pytest.raises(SourceError, match="is none of an evaluation"):
            Evaluation.load(tmp_path / "r.jsonl")


def test_files_from_before_kernels_are_read(tmp_path):
    text = stored(tmp_path)
    assert text.count(', "kernel_correlation": null') == 2
    (tmp_path / "r.jsonl").write_text(text.replace(', "kernel_correlation": null', ""))
    assert Evaluation.load(tmp_path / "r.jsonl") == FOUND


def test_names_that_no_encoding_knows(tmp_path):
    strange = dataclasses.replace(FOUND, failures=(Failure(name="gr\udcfc\u2028.png", reason="damaged"),))
    strange.save(tmp_path / "r.jsonl")
    assert Evaluation.load(tmp_path / "r.jsonl") == strange


def test_the_gate_lets_pass_what_is_within_the_tolerance():
    for figures in ({"psnr_y": 37.241, "ssim_y": 0.9576}, {"psnr_y": 39.0}):
        assert regressions([changed(**figures)], [ROW]) == ([], 1, [], [])


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"psnr_y": 37.239}, "Set5 x2, fast-x2: PSNR of Y fell from 37.2600 to 37.2390 (Y601-limited"),
        ({"pooled_rgb": 34.0}, "pooled PSNR of RGB fell from 34.7000 to 34.0000 (RGB, crop 2"),
        ({"ssim_y": 0.957}, "SSIM of Y fell from 0.9580 to 0.9570"),
        ({"psnr_rgb": math.nan}, "PSNR of RGB fell from 34.9000 to nan"),
    ],
)
def test_the_gate_names_what_fell(figures, words):
    (fallen,) = regressions([changed(**figures)], [ROW]).fallen
    assert words in fallen


def test_the_gate_and_infinity():
    perfect = changed(psnr_y=math.inf)
    assert regressions([perfect], [perfect]).fallen == []
    assert len(regressions([ROW], [perfect]).fallen) == 1
    assert regressions([perfect], [ROW]).fallen == []


@pytest.mark.parametrize("other", [{"pictures": 4}, {"protocol_y": "Y601-limited, crop 2, LR as given"}, {"scale": 3}])
def test_the_gate_compares_like_with_like_only(other):
    unlike = changed(psnr_y=10, **other)
    assert regressions([unlike], [ROW]) == ([], 0, [ROW], [unlike])


def test_tolerances_can_be_given():
    assert regressions([changed(psnr_y=37.0, ssim_y=0.95)], [ROW], decibels=0.3, ssim=0.01).fallen == []
    for wrong in ({"decibels": math.nan}, {"ssim": -1}):
        with pytest.raises(UsageError, match="is no tolerance; give 0 or more"):
            regressions([ROW], [ROW], **wrong)
