"""The whole way, for one picture and for many."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image

import superfine
from fakes import painter
from memory import measured
from superfine import Job, ShapeError, UsageError
from superfine.classical.resample import matlab_resize
from superfine.engine import open_engine
from superfine.image import coding_of
from superfine.journal import JOURNAL_NAME
from superfine.models import Model, find_model
from superfine.route import Workshop, choose_model

Maker = Callable[..., Path]
NEAREST = Job(model="nearest", scale=2)


@pytest.fixture
def picture(tmp_path: Path) -> Maker:
    """Makes a small picture file of noise and returns its path."""

    def make(name: str = "a.png", size: tuple[int, int] = (9, 13), seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, lossless=True)
        return path

    return make


def doubled(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(path)).repeat(2, 0).repeat(2, 1)


def statuses(report: superfine.Report) -> list[str]:
    return [result.status for result in report.results]


# ---- arrays


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 1, 3), (1, 40)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_come_back_in_kind(shape: tuple[int, ...], dtype: type) -> None:
    unit = np.random.default_rng(1).random(shape)
    image = (unit if dtype is np.float32 else unit * np.iinfo(dtype).max).astype(dtype)
    for model in ("nearest", "fast"):
        large = superfine.upscale(image, 2, model=model)
        assert large.dtype == dtype
        assert large.shape == (shape[0] * 2, shape[1] * 2, *shape[2:])
    np.testing.assert_array_equal(superfine.upscale(image, 2, model="nearest"), image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("scale", [1.1, 1.3, 2, 2.5, 3, 4, 5.7, 8, 16])
def test_any_scale_gives_the_exact_size(scale: float) -> None:
    large = superfine.upscale(np.full((11, 17, 3), 77, np.uint8), scale)
    assert large.shape[:2] == (round(11 * scale), round(17 * scale))


def test_a_fractional_size_is_the_network_then_one_resampling_in_float() -> None:
    """Second witness: Pillow's antialiased bicubic from the network's own float output."""
    noise = np.random.default_rng(2).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((64, 48)))
    network = superfine.load_model("fast", 2)(smooth[None].astype(np.float32) / np.float32(255))
    planes = [Image.fromarray(network[..., c]).resize((96, 72), Image.Resampling.BICUBIC) for c in range(3)]
    wanted = np.stack([np.asarray(plane) for plane in planes], -1).clip(0, 1) * 255
    inside = np.s_[4:-4, 4:-4]  # at the border Pillow renormalises where we replicate
    assert np.abs(superfine.upscale(smooth, 1.5, model="fast") - wanted)[inside].max() < 0.51


@pytest.mark.parametrize("model", ["bilinear", "bicubic", "lanczos", "fast"])
@pytest.mark.parametrize("scale", [1.5, 2, 4.3])
def test_no_dark_fringe_grows_along_a_transparent_edge(model: str, scale: float) -> None:
    """A white disc, black where it is transparent: over white paper nothing dark may show."""
    rows, cols = np.mgrid[0:64, 0:64] - 31.5
    disc = np.where(np.hypot(rows, cols) < 24, 255, 0)
    large = superfine.upscale(np.repeat(disc[..., None], 4, 2).astype(np.uint8), scale, model=model) / 255
    paper = large[..., :3] * large[..., 3:] + (1 - large[..., 3:])
    assert paper.min() * 255 > 250
    assert (large[..., 3].min(), large[..., 3].max()) == (0, 1)


@pytest.mark.parametrize("size", [(300, 40), (301, 77), (400, 41), (190, 200)])
def test_matlab_bicubic_is_the_same_in_bands_and_refuses_more_than_8_bits(size: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (150, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        superfine.upscale(image, size=size, model="matlab-bicubic"), matlab_resize(image, size)
    )
    with pytest.raises(UsageError, match="defined on 8 bits a sample"):
        superfine.upscale(image.astype(np.uint16), 2, model="matlab-bicubic")


def test_chains_overshoot_least_and_are_shortest() -> None:
    workshop = Workshop(Job(model="fast"))
    chains = {scale: workshop.factors((10, 10), (10 * scale, 10 * scale)) for scale in (2, 3, 4, 5, 6, 8, 9, 12, 16)}
    assert chains == {2: (2,), 3: (3,), 4: (4,), 5: (2, 3), 6: (2, 3), 8: (2, 4), 9: (3, 3), 12: (3, 4), 16: (4, 4)}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"want \(H, W\).*\(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), "empty side"),
        (np.zeros((4,), np.uint8), r"got \(4,\)"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.full((4, 4, 3), 7, np.float32), "white level"),
        (np.full((4, 4, 3), np.nan, np.float32), "nan"),
    ],
)
def test_wrong_arrays_are_refused_with_words(image: npt.NDArray[np.generic], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        superfine.upscale(image)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.5}, "0.5 would make pictures smaller"),
        ({"scale": float("nan")}, "nan"),
        ({"scale": 17}, "over 16"),
        ({"scale": 2, "size": (4, 4)}, "not both"),
        ({"quality": 0}, "outside 1 to 100"),
        ({"memory_gb": 0}, "not above 0"),
        ({"white": float("inf")}, "inf"),
        ({"file_format": "bmp"}, "bmp"),
    ],
)
def test_impossible_jobs_are_refused_with_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Job(**options)  # type: ignore[arg-type]


def test_what_a_network_cannot_do_is_said() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="restores without enlarging"):
        superfine.upscale(image, 1)
    with pytest.raises(UsageError, match="smaller than the picture's 8x8"):
        superfine.upscale(image, size=(9, 7))
    with pytest.raises(UsageError, match="no model 'foo'; there are .*fast"):
        superfine.upscale(image, model="foo")
    with pytest.raises(UsageError, match=r"needs 0\.\d+ GB, over the limit of 0.100; raise it with --memory 0\.\d"):
        superfine.upscale(image, memory_gb=0.1)


# ---- the choice of `auto`

Shelf = Callable[..., list[str]]
EVERY = ("balanced", "best", "fast", "photo")
BALANCED, PHOTO = 64, 191  # what painters make of 0.25 and 0.75


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Puts `fast` and painters of `photo` and `balanced` on the shelf; names those that are opened from then on."""

    def fill(*, photo: bool = True) -> list[str]:
        models = [painter("balanced", scale, 0.25) for scale in (2, 3, 4)]
        models += [painter("photo", scale, 0.75) for scale in (2, 4) if photo]
        every, opened = (*find_model("fast"), *models), []

        def noted(model: Model, *given: str) -> superfine.Engine:
            opened.append(model.card.name)
            return open_engine(model, *given)  # type: ignore[arg-type]

        monkeypatch.setattr("superfine.models.list_models", lambda: every)
        monkeypatch.setattr("superfine.route.open_engine", noted)
        Workshop(Job(model="fast")).close()
        return opened

    return fill


@pytest.mark.parametrize(
    ("kind", "lossless", "shipped", "name", "reason"),
    [
        ("PNG", True, EVERY, "balanced", "auto chose balanced for lossless PNG"),
        ("JPEG", False, EVERY, "photo", "auto chose photo for lossy JPEG"),
        ("AVIF", None, EVERY, "photo", "auto chose photo for AVIF, taken as lossy since it doesn't say"),
        ("PNG", True, ("fast", "photo"), "fast", "auto chose fast for lossless PNG; balanced is not shipped"),
        ("JPEG", False, ("balanced",), "balanced", "auto chose balanced for lossy JPEG; photo is not shipped"),
        ("WEBP", False, ("fast",), "fast", "auto chose fast for lossy WEBP; photo and balanced are not shipped"),
    ],
)
def test_auto_goes_by_what_the_file_is(
    kind: str, lossless: bool | None, shipped: tuple[str, ...], name: str, reason: str
) -> None:
    choice = choose_model(kind, lossless, shipped)
    assert (choice.name, choice.reason) == (name, reason)


@pytest.mark.parametrize(
    ("saved", "options", "coding"),
    [
        ("PNG", {}, ("PNG", True)),
        ("GIF", {}, ("GIF", True)),
        ("JPEG", {}, ("JPEG", False)),
        ("JPEG", {"mode": "CMYK"}, ("JPEG", False)),
        ("WEBP", {"lossless": True}, ("WEBP", True)),
        ("WEBP", {"lossless": False}, ("WEBP", False)),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}, ("WEBP", True)),
        ("WEBP", {"lossless": False, "mode": "RGBA"}, ("WEBP", False)),
        ("WEBP", {"lossless": True, "save_all": True}, ("WEBP", True)),
        ("WEBP", {"lossless": False, "save_all": True}, ("WEBP", False)),
        ("TIFF", {"compression": "tiff_deflate"}, ("TIFF", True)),
        ("TIFF", {"compression": "jpeg"}, ("TIFF", False)),
        ("AVIF", {}, ("AVIF", None)),
        ("HEIF", {}, ("HEIC", None)),  # Pillow's name for it
    ],
    ids=str,
)
def test_what_a_file_is_is_read_from_it_and_not_from_its_name(
    tmp_path: Path, saved: str, options: dict[str, Any], coding: tuple[str, bool | None]
) -> None:
    rows = np.random.default_rng(4).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    picture = Image.fromarray(rows).convert(options.get("mode", "RGB"))
    given = {name: value for name, value in options.items() if name != "mode"}
    more = [Image.fromarray(rows[::-1]).convert("RGB")] if "save_all" in given else []
    pillow_heif.register_heif_opener()
    picture.save(tmp_path / "a.png", saved, **given, **({"append_images": more} if more else {}))
    assert coding_of(tmp_path / "a.png") == coding


def test_a_folder_of_both_kinds_gets_both_networks_each_opened_once(
    picture: Maker, tmp_path: Path, shelf: Shelf
) -> None:
    for name in ("in/a.png", "in/b.jpg", "in/c.png", "in/d.jpg", "in/e.webp"):
        picture(name)
    (tmp_path / "in" / "d.jpg").rename(tmp_path / "in" / "d.png")
    opened = shelf()
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out")
    assert {result.source.name: (result.model, result.notes[0]) for result in report.results} == {
        "a.png": ("balanced-x2", "auto chose balanced for lossless PNG"),
        "b.jpg": ("photo-x2", "auto chose photo for lossy JPEG"),
        "c.png": ("balanced-x2", "auto chose balanced for lossless PNG"),
        "d.png": ("photo-x2", "auto chose photo for lossy JPEG"),
        "e.webp": ("balanced-x2", "auto chose balanced for lossless WEBP"),
    }
    assert opened == ["balanced-x2", "photo-x2"]
    for name, level in (("a.png", BALANCED), ("b.jpg", PHOTO), ("d.png", PHOTO), ("e.webp", BALANCED)):
        assert np.unique(np.asarray(Image.open(tmp_path / "out" / name))) == [level]


def test_arrays_count_as_lossless_and_files_as_what_they_are(picture: Maker, shelf: Shelf) -> None:
    shelf()
    assert np.unique(superfine.upscale(np.zeros((9, 9, 3), np.uint8))) == [BALANCED]
    assert np.unique(superfine.upscale(picture("a.jpg"))) == [PHOTO]
    assert np.unique(superfine.upscale(str(picture("a.png")), 2)) == [BALANCED]


def test_resume_knows_which_network_made_what(picture: Maker, tmp_path: Path, shelf: Shelf) -> None:
    picture("in/a.png"), picture("in/b.jpg")

    def again(model: str = "auto") -> list[str]:
        return statuses(superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=Job(model=model)))

    shelf(photo=False)
    assert again() == ["done", "done"]
    assert again("balanced") == ["skipped", "skipped"]
    shelf()
    assert again() == ["skipped", "done"]
    assert again() == ["skipped", "skipped"]
    assert sorted(again("photo")) == ["done", "skipped"]


@pytest.mark.parametrize(
    ("job", "models", "size"),
    [
        (Job(), ("balanced-x2", "photo-x2"), (18, 26)),
        (Job(scale=3), ("balanced-x3", "photo-x4"), (27, 39)),
        (Job(scale=1.5), ("balanced-x2", "photo-x2"), (14, 20)),
        (Job(scale=6), ("balanced-x2 then balanced-x3", "photo-x2 then photo-x4"), (54, 78)),
        (Job(size=(30, 50)), ("balanced-x4", "photo-x4"), (30, 50)),
    ],
    ids=lambda value: value.label if isinstance(value, Job) else "",
)
def test_auto_at_any_scale(
    picture: Maker, shelf: Shelf, job: Job, models: tuple[str, str], size: tuple[int, int]
) -> None:
    sources = [picture("a.png"), picture("b.jpg")]
    shelf()
    results = superfine.upscale_path(sources, sources[0].parent / "out", job=job, dry_run=True).results
    assert tuple(result.model for result in results) == models
    assert [result.output_size for result in results] == [size, size]
    assert [result.output and result.output.name for result in results] == ["a.png", "b.jpg"]


def test_auto_names_what_it_cannot_read_or_do(picture: Maker, tmp_path: Path) -> None:
    sources = [tmp_path / "none.jpg", tmp_path / "text.jpg", tmp_path / "empty.png", tmp_path / "cut.png"]
    sources[1].write_text("no picture")
    sources[2].touch()
    sources[3].write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ["there is no such file", "not a picture that superfine reads", "the file is empty", "damaged or cut off"]
    for source, reason in zip(sources, words, strict=True):
        (result,) = superfine.upscale_path(source, dry_run=True).results
        assert (result.status, result.message.startswith(f"{source}: {reason}")) == ("failed", True), result.message
    (result,) = superfine.upscale_path(picture(), job=Job(scale=1)).failed
    assert "--scale 1 restores without enlarging" in result.message


@pytest.mark.parametrize(("limit", "times", "extra"), [(0.5, 2, 0), (1.0, 1, 0.15)])
def test_networks_that_do_not_fit_side_by_side_take_turns(
    picture: Maker, tmp_path: Path, shelf: Shelf, limit: float, times: int, extra: float
) -> None:
    """A tile of 384 x 384 at 1000 bytes a pixel is 0.15 GB, on top of 0.25 that everything has."""
    sources = [picture(f"in/{name}", (400, 400)) for name in ("a.png", "b.jpg", "c.png", "d.jpg")]
    opened = shelf()
    results = superfine.upscale_path(sources, tmp_path / "out", job=Job(memory_gb=limit)).results
    assert opened == ["balanced-x2", "photo-x2"] * times
    memory = {result.source.name: result.memory_gb for result in results}
    assert memory["a.png"] == pytest.approx(0.41, abs=0.01)
    for name in ("b.jpg", "c.png", "d.jpg"):
        assert memory[name] == pytest.approx(0.41 + extra, abs=0.01)


# ---- one file


def test_a_lone_picture_goes_beside_its_source(picture: Maker) -> None:
    source = picture("ä ö [1].png")
    report = superfine.upscale_path(source, job=NEAREST)
    assert statuses(report) == ["done"]
    output = source.with_name("ä ö [1]_x2.png")
    np.testing.assert_array_equal(np.asarray(Image.open(output)), doubled(source))
    assert {path.name for path in source.parent.iterdir()} == {source.name, output.name}


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (Job(model="nearest", scale=1.5), "a_x1.5.png"),
        (Job(model="nearest", size=(40, 50)), "a_50x40.png"),
        (Job(model="nearest", scale=3, file_format="webp"), "a_x3.webp"),
        (Job(model="fast-x4"), "a_x4.png"),
    ],
)
def test_names_say_what_was_done(picture: Maker, job: Job, name: str) -> None:
    source = picture()
    report = superfine.upscale_path(source, job=job)
    assert [result.output and result.output.name for result in report.results] == [name]
    assert source.with_name(name).exists()


def test_what_exists_is_not_overwritten(picture: Maker) -> None:
    source = picture()
    output = source.with_name("mine.png")
    output.write_bytes(b"my own")
    report = superfine.upscale_path(source, output, job=NEAREST)
    assert statuses(report) == ["failed"]
    assert "exists already; replace it with --overwrite" in report.failed[0].message
    assert output.read_bytes() == b"my own"
    assert statuses(superfine.upscale_path(source, output, job=NEAREST, overwrite=True)) == ["done"]
    np.testing.assert_array_equal(np.asarray(Image.open(output)), doubled(source))


def test_the_source_is_never_the_output(picture: Maker) -> None:
    source = picture()
    before = source.read_bytes()
    link = source.with_name("link.png")
    link.hardlink_to(source)
    for output in (source, link):
        report = superfine.upscale_path(source, output, job=NEAREST, overwrite=True)
        assert "the source itself" in report.failed[0].message
    assert source.read_bytes() == before


def test_a_dry_run_tells_and_writes_nothing(picture: Maker) -> None:
    source = picture(size=(100, 120))
    (result,) = superfine.upscale_path(source, job=Job(model="fast"), dry_run=True).results
    assert (result.status, result.output_size, result.model) == ("planned", (200, 240), "fast-x2")
    assert result.seconds > 0
    assert 0.2 < result.memory_gb < 1
    superfine.upscale_path([source, source], source.parent / "new", dry_run=True)
    assert list(source.parent.iterdir()) == [source]


def test_what_must_be_held_whole_is_said_before_it_begins(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8000, 8000, 3), np.uint8)).save(tmp_path / "a.png", compress_level=1)

    heard: list[str] = []

    class Listening(superfine.Progress):
        def warn(self, message: str) -> None:
            heard.append(message)

    listening = Listening()
    superfine.upscale_path(tmp_path / "a.png", tmp_path / "a.webp", job=NEAREST, dry_run=True, progress=listening)
    assert len(heard) == 1
    assert heard[0].startswith(f"{tmp_path / 'a.png'}: can't be written in rows as it is, so it is held whole")
    superfine.upscale_path(tmp_path / "a.png", tmp_path / "b.png", job=NEAREST, dry_run=True, progress=listening)
    assert len(heard) == 1


# ---- folders


def test_a_tree_is_mirrored_and_one_bad_file_neither_stops_nor_hides(picture: Maker, tmp_path: Path) -> None:
    good = [picture(f"in/{name}", seed=seed) for seed, name in enumerate(("a.png", "sub/b.png", "sub/deep/c.webp"))]
    (tmp_path / "in" / "sub" / "bad.png").write_bytes(b"not a picture")
    (tmp_path / "in" / "notes.txt").write_text("left alone")
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert (report.count("done"), report.count("failed"), report.ignored) == (3, 1, 1)
    assert "bad.png: not a picture that superfine reads" in report.failed[0].message
    for source in good:
        output = tmp_path / "out" / source.relative_to(tmp_path / "in")
        np.testing.assert_array_equal(np.asarray(Image.open(output)), doubled(source))
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_a_second_run_does_only_what_is_new_or_changed(picture: Maker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for seed in range(4):
        picture(f"in/{seed}.png", seed=seed)

    def again(job: Job = NEAREST, *, resume: bool = True) -> superfine.Report:
        return superfine.upscale_path(tmp_path / "in", out, job=job, resume=resume)

    assert statuses(again()) == ["done"] * 4
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert statuses(again()) == ["skipped"] * 4
    assert {path: path.stat().st_mtime_ns for path in times} == times
    picture("in/1.png", seed=9)
    picture("in/4.png", seed=4)
    (out / "2.png").unlink()
    states = {result.source.stem: result.status for result in again().results}
    assert states == {"0": "skipped", "1": "done", "2": "done", "3": "skipped", "4": "done"}
    np.testing.assert_array_equal(np.asarray(Image.open(out / "1.png")), doubled(tmp_path / "in" / "1.png"))
    assert statuses(again(resume=False)) == ["done"] * 5
    assert statuses(again(Job(model="nearest", scale=3))) == ["done"] * 5
    (out / "0.png").write_bytes(b"edited by hand")
    assert "exists already" in again().failed[0].message


def test_outputs_never_collide(picture: Maker, tmp_path: Path) -> None:
    names = ("in/a.png", "in/a.webp", "in/A.png", "more/a.png")
    sources = [picture(name, seed=seed) for seed, name in enumerate(names)]
    (tmp_path / "out").mkdir()
    job = Job(model="nearest", scale=2, file_format="png")
    report = superfine.upscale_path(sources, tmp_path / "out", job=job)
    assert statuses(report) == ["done"] * 4
    assert len({str(result.output).casefold() for result in report.results}) == 4
    for result in report.results:
        assert result.output is not None
        np.testing.assert_array_equal(np.asarray(Image.open(result.output)), doubled(result.source))


def test_an_output_folder_inside_its_source_is_not_enlarged_again(picture: Maker, tmp_path: Path) -> None:
    picture("in/a.png")
    for wanted in (["done"], ["skipped"]):
        assert statuses(superfine.upscale_path(tmp_path / "in", tmp_path / "in" / "out", job=NEAREST)) == wanted
    with pytest.raises(UsageError, match="output folder is the source folder"):
        superfine.upscale_path(tmp_path / "in", tmp_path / "in", job=NEAREST)


def test_no_source_of_a_run_is_replaced_by_it(picture: Maker, tmp_path: Path) -> None:
    first, second = picture("one/a.png", seed=1), picture("two/a.png", seed=2)
    before = first.read_bytes()
    report = superfine.upscale_path([second, first], tmp_path / "one", job=NEAREST, overwrite=True)
    assert first.read_bytes() == before
    assert "source of this run" in report.failed[0].message


def test_missing_folders_and_empty_ones_are_said(picture: Maker, tmp_path: Path) -> None:
    source = picture("in/a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no such folder"):
        superfine.upscale_path(source, tmp_path / "no" / "a.png", job=NEAREST)
    with pytest.raises(UsageError, match="no picture and no video in"):
        superfine.upscale_path(tmp_path / "empty", job=NEAREST)
    with pytest.raises(UsageError, match="nothing matches"):
        superfine.upscale_path(tmp_path / "*.jpg", job=NEAREST)
    with pytest.raises(UsageError, match="is a file, and several pictures need a folder"):
        superfine.upscale_path([source, picture("in/b.png")], source, job=NEAREST)


def test_a_glob_and_the_present_folder_work(picture: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/a.png", "in/b.png"):
        picture(name)
    monkeypatch.chdir(tmp_path / "in")
    assert statuses(superfine.upscale_path(".", job=NEAREST)) == ["done"] * 2
    assert sorted(path.name for path in (tmp_path / "in_x2").glob("*.png")) == ["a.png", "b.png"]
    assert statuses(superfine.upscale_path("*.png", job=NEAREST)) == ["done"] * 2
    assert {path.name for path in (tmp_path / "in").glob("*.png")} == {"a.png", "a_x2.png", "b.png", "b_x2.png"}


def test_names_that_no_encoding_knows_and_circles_of_links(picture: Maker, tmp_path: Path) -> None:
    picture("in/a.png").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/gr\xfc.png"))
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    for wanted in ("done", "skipped"):
        report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
        assert [report.count(wanted), report.count("failed")] == [1, 1]
    assert "loop.png: can't be read" in report.failed[0].message
    said = run("upscale", tmp_path / "in", "-o", tmp_path / "again", "--model", "nearest", "--json")
    assert "gr\\udcfc.png" in said.stdout


def test_what_a_format_cannot_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 9000), np.uint8)).save(tmp_path / "long.png")
    report = superfine.upscale_path(tmp_path / "long.png", tmp_path / "long.webp", job=NEAREST)
    assert "18000 x 4 is more than WEBP's 16383 pixels a side; write PNG or TIFF" in report.failed[0].message


@pytest.mark.slow
def test_a_source_that_is_cut_short_while_it_is_read_fails_and_the_rest_goes_on(picture: Maker, tmp_path: Path) -> None:
    """Seen as a bus error once: a mapped file that shrinks kills the process."""
    rows = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3), dtype=np.uint8)
    Image.fromarray(rows).save(tmp_path / "a.jpg", quality=95)
    last = picture("b.png")

    class Cutting(superfine.Progress):
        def advance(self, weight: float) -> None:
            if weight > 0 and (tmp_path / "a.jpg").stat().st_size > 1000:
                os.truncate(tmp_path / "a.jpg", 1000)

    sources = [tmp_path / "a.jpg", last]
    report = superfine.upscale_path(sources, tmp_path / "out", job=Job(model="fast"), progress=Cutting())
    assert {result.source.name: result.status for result in report.results} == {"a.jpg": "failed", "b.png": "done"}
    assert "a.jpg: damaged or cut off" in report.failed[0].message


@pytest.mark.parametrize(("name", "bits"), [("a.avif", 12), ("a.jpg", 8), ("a.webp", 8)])
def test_bits_that_a_format_cannot_hold_are_said(tmp_path: Path, name: str, bits: int) -> None:
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "deep.png")
    (result,) = superfine.upscale_path(tmp_path / "deep.png", tmp_path / name, job=NEAREST).results
    assert result.notes == (f"16 bits a sample become {bits} in {name[2:].upper().replace('JPG', 'JPEG')}",)


def test_progress_adds_up_whatever_happens(picture: Maker, tmp_path: Path) -> None:
    for seed in range(3):
        picture(f"in/{seed}.png", seed=seed)
    (tmp_path / "in" / "3.png").write_bytes((tmp_path / "in" / "0.png").read_bytes()[:90])

    class Counting(superfine.Progress):
        total, told = 0.0, 0.0

        def begin(self, pictures: int, weight: int) -> None:
            assert pictures == 4
            self.total = weight

        def advance(self, weight: float) -> None:
            self.told += weight

    for _ in range(2):
        counting = Counting()
        superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=Job(model="fast"), progress=counting)
        assert counting.told == pytest.approx(counting.total)


# ---- as a process


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "superfine", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_it_did_and_exits_as_promised(picture: Maker, tmp_path: Path) -> None:
    source = picture()
    done = run("upscale", source, "--model", "nearest")
    assert (done.returncode, done.stderr) == (0, "")
    assert "13x9 -> 26x18" in done.stdout
    failed = run("upscale", tmp_path / "none.png")
    assert failed.returncode == 1
    assert f"{tmp_path / 'none.png'}: there is no such file" in failed.stderr
    wrong = run("upscale", source, "--scale", "0.3")
    assert wrong.returncode == 2
    assert wrong.stderr == "superfine: --scale 0.3 would make pictures smaller; superfine enlarges, from 1 to 16\n"
    lines = run("upscale", source, tmp_path / "none.png", "--model", "nearest", "--json", "--overwrite")
    assert lines.returncode == 1
    assert sorted(json.loads(line)["status"] for line in lines.stdout.splitlines()) == ["done", "failed"]


def test_the_main_job_needs_no_torch_and_tells_nobody(picture: Maker, tmp_path: Path) -> None:
    """No socket, in no process that it starts either, and nothing left in the home folder."""
    source, heard, home = picture(), tmp_path / "heard", tmp_path / "home"
    home.mkdir()
    code = (
        "import os, sys\n"
        "def audit(event, arguments):\n"
        "    if event.startswith('socket.'):\n"
        f"        file = os.open({str(heard)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "        os.write(file, event.encode())\n"
        "sys.addaudithook(audit)\n"
        "sys.modules['torch'] = None\n"
        "import superfine\n"
        f"assert superfine.upscale_path({str(source)!r}).count('done') == 1\n"
    )
    # Some packages keep quiet where they see a build server: none of that here.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert not heard.exists(), heard.read_text()
    assert list(home.iterdir()) == []


def test_an_empty_name_is_not_the_present_folder(picture: Maker) -> None:
    for arguments in (("",), (picture(), "-o", "")):
        refused = run("upscale", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "a name is empty" in refused.stderr


def test_object_stores_are_for_the_cluster(picture: Maker) -> None:
    for arguments in (("s3://bucket/a.png",), (picture(), "-o", "s3://bucket/out")):
        refused = run("upscale", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "s3://bucket" in refused.stderr
        assert "superfine cluster" in refused.stderr


def test_a_wish_that_cannot_be_met_is_an_error_before_anything_is_made(picture: Maker) -> None:
    for options in ({"engine": "warp"}, {"precision": "fp99"}, {"model": "bicubic", "precision": "bf16"}):
        with pytest.raises(UsageError, match=r"warp|fp99|leave --engine and --precision out"):
            superfine.upscale_path(picture(), job=Job(**options))  # type: ignore[arg-type]
    with pytest.raises(superfine.EngineError, match="--engine cuda: .*; use --engine openvino"):
        superfine.upscale_path(picture(), job=Job(engine="cuda"))


def test_two_processes_share_a_folder(picture: Maker, tmp_path: Path) -> None:
    """Both end well, and afterwards everything is known as done."""
    for seed in range(12):
        picture(f"in/{seed:02}.png", size=(120, 125), seed=seed)
    command = [sys.executable, "-m", "superfine", "upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    both = [subprocess.Popen([*command, "--model", "nearest", "--json"], stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.communicate()
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert statuses(report) == ["skipped"] * 12
    for output in (tmp_path / "out").glob("*.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(output)), doubled(tmp_path / "in" / output.name))


def test_killed_between_note_and_rename_an_older_output_is_still_ours(picture: Maker, tmp_path: Path) -> None:
    picture("in/a.png")
    superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=Job(model="bilinear", scale=2))
    code = (
        "import os, pathlib, sys, superfine\n"
        "pathlib.Path.replace = lambda *names: os._exit(9)\n"
        "superfine.upscale_path(sys.argv[1], sys.argv[2], job=superfine.Job(model='nearest', scale=2))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "in", tmp_path / "out"], check=False)
    assert killed.returncode == 9
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert statuses(report) == ["done"]
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    np.testing.assert_array_equal(made, doubled(tmp_path / "in" / "a.png"))


def test_a_folder_that_cannot_be_read_is_named(picture: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png"), picture("in/locked/b.png")
    scan = os.scandir

    def locked(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert report.count("done") == 1
    assert "locked: the folder can't be read: Permission denied" in report.failed[0].message


@pytest.mark.parametrize("name", ["new", "new/"])
def test_a_lone_picture_may_go_into_a_new_folder(picture: Maker, tmp_path: Path, name: str) -> None:
    report = superfine.upscale_path(picture("a.png"), str(tmp_path) + "/" + name, job=NEAREST)
    assert [result.output for result in report.results] == [tmp_path / "new" / "a.png"]


@pytest.mark.slow
@measured
@pytest.mark.parametrize("limit", [0.6, 1.0])
def test_memory_stays_below_what_was_given(tmp_path: Path, limit: float) -> None:
    """WebP holds whole pictures, and three of them may be encoded at once where there is room."""
    smooth = np.asarray(Image.fromarray(np.eye(8, dtype=np.uint8) * 255).resize((2400, 2400)).convert("RGB"))
    for place in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(smooth).save(tmp_path / "in" / f"{place}.webp", quality=80, method=0)
    code = (
        "import sys, superfine\n"
        "from pathlib import Path\n"
        "job = superfine.Job(model='fast', memory_gb=float(sys.argv[3]))\n"
        "report = superfine.upscale_path(sys.argv[1], sys.argv[2], job=job)\n"
        "assert report.count('done') == 3\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out"), str(limit)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert 0.1 < int(done.stdout) * 1024 / 1e9 < limit


@pytest.mark.slow
@measured
def test_memory_of_two_networks_stays_below_what_was_given(tmp_path: Path) -> None:
    """`fast` under both names; each keeps a quarter of a GB between two pictures at x4."""
    smooth = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("RGB")
    (tmp_path / "in").mkdir()
    for name, size in (("a.png", (2400, 2400)), ("b.jpg", (2400, 2400)), ("c.png", (1500, 2000)), ("d.jpg", (9, 9))):
        smooth.resize(size).save(tmp_path / "in" / name)
    code = (
        "import sys, superfine\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from superfine import models\n"
        "(fast,) = models.find_model('fast-x4')\n"
        "cards = [replace(fast.card, name=f'{name}-x4') for name in ('balanced', 'photo')]\n"
        "shelf = tuple(models.Model(card, fast.content, card.name) for card in cards)\n"
        "models.list_models = lambda: shelf\n"
        "job = superfine.Job(scale=4, memory_gb=0.7)\n"
        "report = superfine.upscale_path(sys.argv[1], sys.argv[2], job=job)\n"
        "assert [result.model for result in report.results] == ['balanced-x4', 'photo-x4'] * 2\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert 0.1 < int(done.stdout) * 1024 / 1e9 < 0.7


@pytest.mark.slow
def test_killed_at_any_moment_a_run_loses_nothing(picture: Maker, tmp_path: Path) -> None:
    """Killed again and again, each time with other pictures half written, it gets to the end."""
    for seed in range(6):  # large enough that a kill which comes late meets some of them
        picture(f"in/{seed:02}.png", size=(480, 500), seed=seed)
    command = [sys.executable, "-m", "superfine", "upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    kills = 0
    while True:
        process = subprocess.Popen([*command, "--model", "nearest", "--json"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        while line and json.loads(line)["status"] == "skipped":
            line = process.stdout.readline()
        # One new picture is reported; the next ones are being written.
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for output in (tmp_path / "out").glob("*.png"):
            np.testing.assert_array_equal(np.asarray(Image.open(output)), doubled(tmp_path / "in" / output.name))
        if not line:
            break
        kills += 1
        assert kills <= 6
    assert kills > 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(f"{n:02}.png" for n in range(6)), JOURNAL_NAME}


@pytest.mark.slow
def test_control_c_ends_cleanly_and_the_same_command_goes_on(picture: Maker, tmp_path: Path) -> None:
    for seed in range(30):
        picture(f"in/{seed:02}.png", size=(240, 250), seed=seed)
    command = [
        sys.executable,
        "-m",
        "superfine",
        "upscale",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said == "superfine: stopped; what is finished stays, and the same command goes on with the rest\n"
    assert not list((tmp_path / "out").glob(".*.part"))
    finished = len(list((tmp_path / "out").glob("*.png")))
    again = superfine.upscale_path(tmp_path / "in", tmp_path / "out")
    assert (again.count("skipped"), again.count("done")) == (finished, 30 - finished)
