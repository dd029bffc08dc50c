"""Fidelity on the whole way: consistent results, the figure in each report, warnings, the record, ensembles."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvips
import skimage.data
from PIL import Image
from typer.testing import CliRunner

import superfine
from fakes import painter
from superfine import Job, UsageError
from superfine.classical.resample import resize
from superfine.cli import app
from superfine.ensemble import Ensemble
from superfine.provenance import find_record
from superfine.route import Workshop

Maker = Callable[..., Path]


@pytest.fixture
def photo(tmp_path: Path) -> Maker:
    """Makes a small file of a photo and returns its path."""

    def make(name: str = "cat.png", size: tuple[int, int] = (60, 72)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = skimage.data.chelsea()[60 : 60 + 2 * size[0] : 2, 100 : 100 + 2 * size[1] : 2]
        Image.fromarray(pixels).save(path)
        return path

    return make


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64)


def blocks(large: np.ndarray, scale: int) -> np.ndarray:
    """Means of blocks, by NumPy alone."""
    rows, cols = large.shape[0] // scale, large.shape[1] // scale
    return large.reshape(rows, scale, cols, scale, -1).mean((1, 3))


def one(report: superfine.Report) -> superfine.Result:
    (result,) = report.results
    assert result.status == "done", result.message
    return result


# ---- consistent


@pytest.mark.parametrize("model", ["fast", "balanced", "bicubic", "nearest", "photo"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_made_small_again_by_blocks_it_is_the_source(photo: Maker, tmp_path: Path, model: str, scale: int) -> None:
    source = photo()
    result = one(
        superfine.upscale_path(source, tmp_path / "large.png", job=Job(scale=scale, model=model, consistent="box"))
    )
    off = np.abs(blocks(levels(tmp_path / "large.png"), scale) - levels(source))
    assert off.max() <= 0.5 + 1e-9
    assert result.consistency is not None
    assert (result.consistency.operator, result.consistency.misses) == ("box", 0)
    assert not any("drift" in note or "no picture" in note for note in result.notes)


@pytest.mark.parametrize("operator", ["bicubic", "matlab-bicubic"])
@pytest.mark.parametrize("scale", [2, 3])
def test_float_arrays_agree_to_a_millionth(operator: str, scale: int) -> None:
    """Second witness: the resampling that enlarges and reduces elsewhere."""
    small = skimage.data.astronaut()[100:148, 200:260].astype(np.float32) / 255
    large = superfine.upscale(small, scale, model="fast", consistent=operator)
    assert np.abs(resize(large, small.shape[:2]) - small).max() < 1e-6
    assert np.abs(large - superfine.upscale(small, scale, model="fast")).max() > 1e-4, "a test that can't fail"


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 2), (20, 30, 4), (1, 1, 3), (1, 40, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_of_every_kind_and_shape(shape: tuple[int, ...], dtype: type) -> None:
    white = np.iinfo(dtype).max
    small = (np.random.default_rng(0).random(shape) * white).astype(dtype)
    large = superfine.upscale(small, 2, model="fast", consistent="box")
    assert (large.dtype, large.shape) == (dtype, (2 * shape[0], 2 * shape[1], *shape[2:]))
    assert np.abs(blocks(large.astype(np.float64), 2).reshape(shape) - small).max() <= 0.5 + 1e-9


def test_a_kernel_of_ones_own(photo: Maker, tmp_path: Path) -> None:
    """A kernel of one tap takes every second pixel: those are the source to the level."""
    np.save(tmp_path / "kernel.npy", np.ones((1, 1)))
    source = photo()
    job = Job(scale=3, model="fast", consistent=tmp_path / "kernel.npy")
    result = one(superfine.upscale_path(source, tmp_path / "large.png", job=job))
    np.testing.assert_array_equal(levels(tmp_path / "large.png")[1::3, 1::3], levels(source))
    assert result.consistency is not None
    assert result.consistency.operator == "kernel"


def test_where_no_picture_can_be_the_source_the_misses_are_counted(tmp_path: Path) -> None:
    edge = np.zeros((24, 32, 3), np.uint8)
    edge[:, 16:] = 255
    Image.fromarray(edge).save(tmp_path / "edge.png")
    job = Job(scale=2, model="fast", consistent="bicubic")
    result = one(superfine.upscale_path(tmp_path / "edge.png", tmp_path / "large.png", job=job))
    off = np.abs(resize(levels(tmp_path / "large.png").astype(np.float32), (24, 32)) - edge)
    missed = int((off > 0.501).sum())
    assert missed > 0, "a test that can't fail"
    assert result.consistency is not None
    assert (result.consistency.misses, result.consistency.samples) == (missed, edge.size)
    assert result.consistency.worst == pytest.approx(off.max(), abs=1e-3)
    assert any(f"{missed} of 2,304 samples" in note for note in result.notes)
    assert off[:, :8].max() < 0.5, "far from the edge nothing is missed"


def test_frames_of_a_clip_too(photo: Maker, tmp_path: Path) -> None:
    for number in range(3):
        photo(f"shots/{number}.png", (20, 24))
    job = Job(scale=2, model="fast", consistent="box", as_clip=True)
    result = one(superfine.upscale_path(tmp_path / "shots", tmp_path / "large", job=job))
    for number in range(3):
        off = blocks(levels(tmp_path / f"large/{number}.png"), 2) - levels(tmp_path / f"shots/{number}.png")
        assert np.abs(off).max() <= 0.5 + 1e-9
    assert result.consistency is not None


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"scale": 1.5}, "--consistent is for whole scales, and 72 x 60 to 108 x 90 is none"),
        ({"size": (120, 145)}, "whole scales"),
        ({"scale": 2, "consistent": "bocks"}, "--consistent bocks: neither one of matlab-bicubic, bicubic, box, nor a"),
    ],
)
def test_what_cannot_be_consistent_is_refused(photo: Maker, tmp_path: Path, wishes: dict, words: str) -> None:  # type: ignore[type-arg]
    source = photo()
    try:
        report = superfine.upscale_path(source, tmp_path / "out.png", job=Job(**{"consistent": "box", **wishes}))
        said = report.results[0].message
    except UsageError as error:
        said = str(error)
    assert words in said
    assert not (tmp_path / "out.png").exists()


def test_a_lossy_output_says_that_it_changes_pixels_again(photo: Maker, tmp_path: Path) -> None:
    job = Job(scale=2, model="fast", consistent="box")
    result = one(superfine.upscale_path(photo(), tmp_path / "large.jpg", job=job))
    assert "JPEG changes pixels, so the result is consistent only until it's encoded" in result.notes
    assert not one(superfine.upscale_path(photo(), tmp_path / "large.png", job=job)).notes


@pytest.mark.parametrize(("name", "said"), [("out.gif", "gif"), ("out.mp4", "h264"), ("out", "")])
def test_so_does_a_clip(photo: Maker, tmp_path: Path, name: str, said: str) -> None:
    photo("shots/0.png", (20, 24))
    job = Job(scale=2, model="fast", consistent="box", as_clip=True)
    notes = one(superfine.upscale_path(tmp_path / "shots", tmp_path / name, job=job)).notes
    told = [note for note in notes if "consistent only until" in note]
    assert told == ([f"{said} changes pixels, so the frames are consistent only until they're encoded"] if said else [])


# ---- the figure, and its warnings


@pytest.mark.parametrize("scale", [2, 1.5])
def test_the_figure_is_in_every_report(photo: Maker, tmp_path: Path, scale: float) -> None:
    source = photo()
    result = one(superfine.upscale_path(source, tmp_path / "large.png", job=Job(scale=scale, model="fast")))
    again = resize(levels(tmp_path / "large.png").astype(np.float32), (60, 72))
    wanted = 10 * np.log10(255**2 / np.square(again - levels(source)).mean())
    assert result.consistency is not None
    assert result.consistency.psnr == pytest.approx(wanted, abs=0.01)


def test_the_command_shows_it(photo: Maker, tmp_path: Path) -> None:
    source = photo()
    shown = CliRunner().invoke(app, ["upscale", str(source), "-o", str(tmp_path / "a.png"), "--model", "fast"])
    assert "made small again by bicubic, it is " in shown.output
    line = ["upscale", str(source), "-o", str(tmp_path / "b.png"), "--model", "fast", "--consistent", "box", "--json"]
    facts = json.loads(CliRunner().invoke(app, line).output)["consistency"]
    assert (facts["operator"], facts["misses"], facts["samples"]) == ("box", 0, 60 * 72 * 3)


@pytest.mark.parametrize(
    ("value", "restoring", "words"),
    [
        (0.9, False, "colour and structure drifted"),
        (0.9, True, "takes noise and traces away"),
        (127 / 255, False, ""),
    ],
)
def test_a_network_that_drifts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, restoring: bool, words: str
) -> None:
    """A network that paints one grey, on a picture of that grey and on a darker one."""
    network = painter("balanced", 2, value)
    network = replace(network, card=replace(network.card, restoring=restoring))
    monkeypatch.setattr("superfine.models.list_models", lambda: (network,))
    Image.fromarray(np.full((20, 24, 3), 127, np.uint8)).save(tmp_path / "grey.png")
    result = one(
        superfine.upscale_path(tmp_path / "grey.png", tmp_path / "out.png", job=Job(scale=2, model="balanced"))
    )
    told = [note for note in result.notes if "made small again" in note]
    assert (words in told[0]) if words else not told


def test_half_a_level_means_something_in_float(tmp_path: Path) -> None:
    pixels = (skimage.data.chelsea()[::5, ::5] / 255).astype(np.float32)
    pyvips.Image.new_from_memory(pixels.tobytes(), pixels.shape[1], pixels.shape[0], 3, "float").copy(
        interpretation="scrgb"
    ).write_to_file(str(tmp_path / "float.tif"))
    for operator, missed in ((None, True), ("bicubic", False)):
        job = Job(scale=2, model="fast", consistent=operator)
        report = superfine.upscale_path(tmp_path / "float.tif", tmp_path / "out.tif", job=job, overwrite=True)
        found = one(report).consistency
        assert found is not None
        assert (found.misses > 0) == missed


# ---- ensembles and records


def test_an_ensemble_by_name_is_the_ensemble(photo: Maker) -> None:
    pixels = np.asarray(Image.open(photo()))
    unit = pixels.astype(np.float32) / np.float32(255)
    wanted = np.rint(Ensemble(superfine.load_model("fast", 2))(unit[None]).astype(np.float64) * 255)
    made = superfine.upscale(pixels, 2, model="fast", ensemble=True)
    assert np.abs(made - wanted).max() <= 1
    assert (made != wanted).mean() < 0.001, "but for what lies between two levels"
    with pytest.raises(UsageError, match="leave --ensemble out"):
        superfine.upscale(pixels, 2, model="bicubic", ensemble=True)


@pytest.mark.parametrize("name", ["large.png", "large.gif"])
def test_without_a_record(photo: Maker, tmp_path: Path, name: str) -> None:
    source = photo()
    one(superfine.upscale_path(source, tmp_path / name, job=Job(scale=2, model="fast", provenance=False)))
    assert find_record(tmp_path / name) is None
    one(superfine.upscale_path(source, tmp_path / name, job=Job(scale=2, model="fast"), overwrite=True, resume=False))
    assert find_record(tmp_path / name) is not None


def test_another_wish_is_another_job(photo: Maker, tmp_path: Path) -> None:
    photo("in/a.png")
    jobs = [
        Job(scale=2, model="fast"),
        Job(scale=2, model="fast", consistent="box"),
        Job(scale=2, model="fast", consistent="bicubic"),
        Job(scale=2, model="fast", ensemble=True),
        Job(scale=2, model="fast", provenance=False),
    ]
    assert len({Workshop(job).fingerprint for job in jobs}) == len(jobs)
    runs = [superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=job) for job in (*jobs, jobs[-1])]
    assert [report.results[0].status for report in runs] == ["done"] * len(jobs) + ["skipped"]


# ---- guess maps


def test_a_guess_map_comes_with_its_heat(photo: Maker, tmp_path: Path) -> None:
    source, chart = photo(), tmp_path / "map.png"
    pixels = np.asarray(Image.open(source)).copy()
    pixels[:, :30] = 120
    Image.fromarray(pixels).save(source)
    job = Job(scale=2, model="balanced")
    result = one(superfine.upscale_path(source, tmp_path / "large.png", job=job, guess_map=chart))
    assert any(str(chart) in note and "map-overlay.png" in note for note in result.notes)
    widths = np.asarray(Image.open(chart)).astype(np.float64) / 256
    assert widths.shape == (120, 144)
    assert np.asarray(Image.open(chart)).dtype == np.uint16
    assert np.asarray(Image.open(chart.with_name("map-overlay.png"))).shape[1] == 144
    # The left of the source is one grey, its right isn't.
    assert widths[8:-8, 64:].mean() > 4 * widths[8:-8, :40].mean()


def test_a_run_that_is_done_still_makes_the_map_that_is_missing(photo: Maker, tmp_path: Path) -> None:
    photo("in/a.png")
    job, chart = Job(scale=2, model="balanced"), tmp_path / "map.png"
    superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=job)
    one(superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=job, guess_map=chart))
    assert chart.exists()


@pytest.mark.parametrize(
    ("name", "wishes", "chart", "words"),
    [
        ("a.jpg", {"model": "balanced"}, "map.png", "calibrated for clean pictures, and the source is JPEG"),
        ("a.gif", {"model": "balanced"}, "map.png", "calibrated for pictures of full colour"),
        ("a.png", {"model": "photo"}, "map.png", "not for photo-x2"),
        ("a.png", {"model": "bicubic"}, "map.png", "x2 by a classical method is something else"),
        ("a.png", {"model": "balanced", "scale": 2.5}, "map.png", "calibrated for one network at its own scale"),
        ("a.png", {"model": "balanced", "scale": None, "size": (120, 100)}, "map.png", "alike in both directions"),
        ("a.png", {"model": "balanced", "ensemble": True}, "map.png", "leave --ensemble out"),
        ("a.png", {"model": "balanced", "consistent": "box"}, "map.png", "take --consistent bicubic"),
        ("a.png", {"model": "balanced", "file_format": "jpg"}, "map.png", ".jpg changes that; write .png or .tif"),
        ("a.png", {"model": "balanced"}, "map.tif", "ends in .png"),
        ("a.png", {"model": "balanced"}, "a.png", "choose another name"),
        ("a.png", {"model": "balanced"}, "there.png", "there.png is there already; take --overwrite"),
        ("a.png", {"model": "balanced"}, "nowhere/map.png", "nowhere: there is no such folder"),
    ],
)
def test_what_no_map_is_calibrated_for_is_refused(
    photo: Maker, tmp_path: Path, name: str, wishes: dict[str, object], chart: str, words: str
) -> None:
    source = photo(name)
    photo("there.png")
    job = Job(**{"scale": 2, **wishes})  # type: ignore[arg-type]
    try:
        output = None if job.file_format else tmp_path / "out.png"
        report = superfine.upscale_path(source, output, job=job, guess_map=tmp_path / chart)
        said = report.results[0].message
    except UsageError as error:
        said = str(error)
    assert words in said
    assert not (tmp_path / "out.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "there.png"})


def test_a_map_is_of_one_picture(photo: Maker, tmp_path: Path) -> None:
    photo("in/a.png")
    photo("in/b.png")
    with pytest.raises(UsageError, match="belongs to one still picture"):
        superfine.upscale_path(tmp_path / "in", tmp_path / "out", guess_map=tmp_path / "map.png")
