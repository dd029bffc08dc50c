"""Videos by the verb: which network, which file, what survives a stop; PyAV and NumPy are the witnesses."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from typer.testing import CliRunner

import superfine
from clips import (
    add_audio,
    add_video,
    decoded,
    encode,
    hashes,
    make_clip,
    rgb_frame,
    sound,
    stored_planes,
    times_of,
    yuv_frame,
)
from fakes import clip_network, clip_network_truth, painter
from superfine import Job, UsageError
from superfine.cli import app
from superfine.footage import open_footage
from superfine.models import Card, Model, find_model
from superfine.outputs import segments_folder
from superfine.progress import JsonLines, Terminal
from superfine.route import Workshop, choose_video_model
from superfine.upscale import Pace
from superfine.video import begun

Array = npt.NDArray[np.generic]
Shelf = Callable[..., None]
NEAREST = Job(model="nearest", scale=2)
run_cli = CliRunner().invoke


def statuses(report: superfine.Report) -> list[str]:
    return [result.status for result in report.results]


def test_a_video_isnt_done_before_its_record_is_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in/a.mkv", 3)
    place = tmp_path / "out/a.mkv.superfine.json"
    place.mkdir(parents=True)
    for _ in range(2):
        (failed,) = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST).failed
        assert "a.mkv.superfine.json: can't be written" in failed.message
        assert not (tmp_path / "out/a.mkv").exists()
    place.rmdir()
    for status in ("done", "skipped"):
        assert statuses(superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)) == [status]
        assert place.is_file()
    without = replace(NEAREST, provenance=False)
    assert statuses(superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=without)) == ["done"]
    assert not place.exists()


def only(report: superfine.Report) -> superfine.Result:
    (result,) = report.results
    assert result.status != "failed", result.message
    return result


def facts(result: superfine.Result) -> superfine.VideoResult:
    assert result.video is not None
    return result.video


def pictures(count: int, size: tuple[int, int] = (24, 40), seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """RGB frames of one scene that drifts, each another."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size[0] // 4, size[1] // 4 + count, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((small.shape[1] * 4, size[0])))
    return [np.ascontiguousarray(large[:, number : number + size[1]]) for number in range(count)]


def rgb_clip(path: Path, frames: list[npt.NDArray[np.uint8]], rate: int = 25) -> Path:
    """A lossless clip of exactly these frames."""
    with av.open(str(path), "w") as container:
        stream = add_video(container, "ffv1", size=frames[0].shape[:2], pixel_format="bgr0", rate=rate)
        encode(container, stream, [rgb_frame(frame) for frame in frames])
    return path


def rgb_of(path: Path) -> list[npt.NDArray[np.uint8]]:
    return [frame.to_ndarray(format="rgb24") for frame in decoded(path)]


# ---- one video


def test_a_video_goes_beside_its_source_with_all_its_streams(tmp_path: Path) -> None:
    source = tmp_path / "ä 1.mp4"
    with av.open(str(source), "w") as container:
        video, audio = add_video(container), add_audio(container)
        encode(container, video, [yuv_frame(number, "yuv420p") for number in range(25)])
        for packet in sound(audio, 1):
            container.mux(packet)
    result = only(superfine.upscale_path(source, job=NEAREST))
    assert result.output == source.with_name("ä 1_x2.mp4")
    assert (result.status, result.size, result.output_size, result.model) == ("done", (32, 48), (64, 96), "nearest")
    assert times_of(result.output) == times_of(source)
    assert hashes(result.output, "audio") == hashes(source, "audio")
    made = facts(result)
    assert (made.frames, made.computed, made.resumed, made.codec, made.pixel_format) == (25, 25, 0, "h264", "yuv420p")
    assert (made.duration, made.fps) == (1.0, 25.0)
    assert made.speed > 0
    record = f"{result.output.name}.superfine.json"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, result.output.name, record}


def test_every_pixel_of_a_lossless_clip_is_what_it_should_be(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 7, "ffv1", pixel_format="yuv444p")
    job = Job(model="nearest", scale=2, codec="ffv1")
    result = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=job))
    for before, after in zip(decoded(source), decoded(tmp_path / "b.mkv"), strict=True):
        for one, other in zip(stored_planes(before), stored_planes(after), strict=True):
            np.testing.assert_array_equal(one.repeat(2, 0).repeat(2, 1), other)
    assert not any("lossless" in note for note in result.notes)


def test_a_lossless_clip_that_becomes_lossy_is_told_so(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1")
    assert "lossless ffv1 becomes h264" in " ".join(only(superfine.upscale_path(source, job=NEAREST)).notes)


@pytest.mark.parametrize(
    ("name", "codec", "made"),
    [("a.avi", "mpeg4", "a_x2.mkv"), ("a.webm", "libvpx-vp9", "a_x2.webm"), ("a.MP4", "libx264", "a_x2.MP4")],
)
def test_the_output_is_of_the_sources_kind_where_that_is_written(
    tmp_path: Path, name: str, codec: str, made: str
) -> None:
    result = only(superfine.upscale_path(make_clip(tmp_path / name, 3, codec), job=NEAREST))
    assert result.output == tmp_path / made
    assert len(decoded(tmp_path / made)) == 3


@pytest.mark.parametrize(("file_format", "codec"), [("mkv", "h264"), ("webm", "vp9"), ("mov", "h264")])
def test_a_format_may_be_asked_for(tmp_path: Path, file_format: str, codec: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    result = only(superfine.upscale_path(source, job=Job(model="nearest", scale=2, file_format=file_format)))
    assert result.output == tmp_path / f"a_x2.{file_format}"
    assert facts(result).codec == codec


def test_what_exists_is_not_overwritten_and_the_source_never(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    before = source.read_bytes()
    (tmp_path / "b.mp4").write_bytes(b"my own")
    report = superfine.upscale_path(source, tmp_path / "b.mp4", job=NEAREST)
    assert "exists already; replace it with --overwrite" in report.failed[0].message
    report = superfine.upscale_path(source, source, job=NEAREST, overwrite=True)
    assert "the source itself" in report.failed[0].message
    assert (source.read_bytes(), (tmp_path / "b.mp4").read_bytes()) == (before, b"my own")
    only(superfine.upscale_path(source, tmp_path / "b.mp4", job=NEAREST, overwrite=True))
    assert len(decoded(tmp_path / "b.mp4")) == 3


def test_a_stretch_is_what_was_asked_for(tmp_path: Path) -> None:
    frames = pictures(20)
    source = rgb_clip(tmp_path / "a.mkv", frames)
    job = Job(model="nearest", scale=2, codec="ffv1", start=Fraction(1, 5), end=Fraction(2, 5))
    planned = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=job, dry_run=True))
    result = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=job))
    assert facts(planned).frames == facts(result).frames == 5
    assert facts(result).duration == pytest.approx(0.2)
    for frame, made in zip(frames[5:10], rgb_of(tmp_path / "b.mkv"), strict=True):
        np.testing.assert_array_equal(made, frame.repeat(2, 0).repeat(2, 1))


def test_a_damaged_clip_fails_by_name_or_repeats(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", 30, "ffv1")
    source = tmp_path / "a.mkv"
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (failed,) = superfine.upscale_path(source, job=NEAREST).failed
    assert "breaks off at" in failed.message
    assert "--damaged repeat" in failed.message
    (failed,) = superfine.upscale_path(source, tmp_path / "out", job=NEAREST).failed
    assert "breaks off at" in failed.message
    assert not (tmp_path / "out").exists()
    result = only(superfine.upscale_path(source, job=Job(model="nearest", scale=2, damaged="repeat")))
    assert 10 < facts(result).frames < 30
    assert any("what is there is taken" in note for note in result.notes)


def test_frames_over_the_limit_are_refused(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    (failed,) = superfine.upscale_path(source, job=Job(model="nearest", scale=2, max_megapixels=0.001)).failed
    assert "over the limit of 0.001; raise it with --max-megapixels" in failed.message


# ---- size


@pytest.mark.parametrize(
    ("job", "size"),
    [
        (Job(model="fast", scale=1.5), (48, 72)),
        (Job(model="fast", scale=6), (192, 288)),
        (Job(model="fast", size=(50, 76)), (50, 76)),
        (Job(model="bicubic", scale=1.25), (40, 60)),
        (Job(model="fast-x3"), (96, 144)),
    ],
    ids=lambda value: value.label if isinstance(value, Job) else "",
)
def test_any_size_is_what_pictures_get(tmp_path: Path, job: Job, size: tuple[int, int]) -> None:
    """Each frame of a lossless clip equals the same frame enlarged as an array."""
    frames = pictures(3, (32, 48))
    source = rgb_clip(tmp_path / "a.mkv", frames)
    lossless = Job(scale=job.scale, size=job.size, model=job.model, codec="ffv1")
    result = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=lossless))
    assert result.output_size == size
    for frame, made in zip(frames, rgb_of(tmp_path / "b.mkv"), strict=True):
        np.testing.assert_array_equal(
            made, superfine.upscale(frame, None if job.size else job.scale or 3, size=job.size, model=job.model)
        )


@pytest.mark.parametrize(("degrees", "stored"), [(90, (100, 64)), (270, (100, 64)), (180, (64, 100)), (0, (64, 100))])
def test_a_size_is_as_it_is_seen(tmp_path: Path, degrees: int, stored: tuple[int, int]) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = add_video(container, size=(64, 64) if degrees % 180 else (32, 48))
        stream.set_display_matrix(turned(degrees))
        encode(container, stream, [yuv_frame(n, "yuv420p", *((64, 64) if degrees % 180 else (32, 48))) for n in (0, 1)])
    job = Job(model="bicubic", size=(64, 100))
    result = only(superfine.upscale_path(source, tmp_path / "b.mp4", job=job))
    assert result.output_size == stored
    assert [frame.rotation % 360 for frame in decoded(tmp_path / "b.mp4")] == [degrees % 360] * 2


def turned(degrees: int) -> tuple[int, ...]:
    """A display matrix as FFmpeg writes it, counter-clockwise."""
    cosine, sine = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    one = 1 << 16
    return (cosine * one, -sine * one, 0, sine * one, cosine * one, 0, 0, 0, 1 << 30)


def test_a_side_that_would_shrink_is_refused(tmp_path: Path) -> None:
    (failed,) = superfine.upscale_path(make_clip(tmp_path / "a.mp4", 2), job=Job(size=(30, 90))).failed
    assert "--size 90x30 is smaller" in failed.message


def test_tiles_equal_the_whole_frame(tmp_path: Path) -> None:
    """The frame as one tile, and in tiles because of a limit on memory, to the bit."""
    frames = pictures(2, (300, 420))
    source = rgb_clip(tmp_path / "a.mkv", frames)
    made: list[Any] = []
    for place, memory in enumerate((None, 0.32)):
        job = Job(model="fast", scale=2, codec="ffv1", memory_gb=memory)
        result = only(superfine.upscale_path(source, tmp_path / f"{place}.mkv", job=job))
        made.append((result.memory_gb, rgb_of(tmp_path / f"{place}.mkv")))
    assert made[1][0] <= 0.32 < made[0][0]
    np.testing.assert_array_equal(made[0][1], made[1][1])
    np.testing.assert_array_equal(made[0][1][0], superfine.upscale(frames[0], 2, model="fast"))


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    job = Job(model="fast", scale=2, memory_gb=0.1)
    (failed,) = superfine.upscale_path(make_clip(tmp_path / "a.mp4", 2), job=job).failed
    assert re.search(r"a\.mp4: .*over the limit of 0.100; raise it with --memory 0\.\d", failed.message)


def test_alpha_and_its_geometry_are_kept(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1", pixel_format="yuva444p")
    result = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=Job(model="nearest", scale=2)))
    assert facts(result).codec == "ffv1"
    for before, after in zip(decoded(source), decoded(tmp_path / "b.mkv"), strict=True):
        np.testing.assert_array_equal(
            stored_planes(before)[3].repeat(2, 0).repeat(2, 1),
            stored_planes(after)[3],
        )
    (failed,) = superfine.upscale_path(source, tmp_path / "c.mp4", job=NEAREST).failed
    assert "has alpha, which h264 in MP4 can't hold; write .webm" in failed.message


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3, size=(64, 96), pixel_format="yuv420p10le")
    result = only(superfine.upscale_path(source, job=Job(model="fast", scale=2)))
    assert (facts(result).codec, facts(result).pixel_format) == ("h265", "yuv420p10le")


# ---- the network

SINGLE = [Card(name=f"{name}-x{scale}", scale=scale, halo=0) for name in ("fast", "balanced") for scale in (2, 3, 4)]
VIDEO = [Card(name=f"{name}-x{scale}", scale=scale, halo=0) for name in ("video", "video-real") for scale in (2, 4)]


@pytest.mark.parametrize(
    ("lossless", "need", "cards", "name", "reason"),
    [
        (True, 2, SINGLE + VIDEO, "video", "auto chose video for lossless ffv1 video"),
        (False, 2, SINGLE + VIDEO, "video-real", "auto chose video-real for lossy h264 video"),
        (False, 1.3, SINGLE + VIDEO, "video-real", ""),
        (False, 3, SINGLE + VIDEO, "video-real", ""),
        (False, 8, SINGLE + VIDEO, "video-real", ""),
        (False, 2, SINGLE + VIDEO[3:], "fast", "; video-real is not shipped at this scale"),
        (False, 3, SINGLE + VIDEO[3:], "video-real", ""),
        (False, 8, SINGLE + VIDEO[2:3], "fast", "; video-real is not shipped at this scale"),
        (
            True,
            2,
            SINGLE,
            "balanced",
            "auto chose balanced for lossless ffv1 video; video is not shipped at this scale",
        ),
        (False, 2, SINGLE, "fast", "auto chose fast for lossy h264 video; video-real is not shipped at this scale"),
        (True, 2, SINGLE[:3], "fast", "auto chose fast"),
        (False, 2, SINGLE[3:], "balanced", "auto chose balanced"),
    ],
)
def test_auto_goes_by_the_codec_and_by_what_is_there(
    lossless: bool, need: float, cards: list[Card], name: str, reason: str
) -> None:
    choice = choose_video_model("ffv1" if lossless else "h264", lossless, need, cards)
    assert choice.name == name
    assert reason in choice.reason


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    def fill(*models: Model) -> None:
        every = (*find_model("fast"), *find_model("balanced"), *models)
        monkeypatch.setattr("superfine.models.list_models", lambda: every)
        Workshop(Job(model="fast")).close()

    return fill


def test_lossy_and_lossless_videos_get_their_own_networks_the_day_they_are_there(tmp_path: Path, shelf: Shelf) -> None:
    sources = [make_clip(tmp_path / "a.mp4", 2), make_clip(tmp_path / "b.mkv", 2, "ffv1")]
    shelf()
    before = superfine.upscale_path(sources, tmp_path / "one").results
    assert [result.model for result in before] == ["fast-x2", "balanced-x2"]
    shelf(painter("video", 2, 0.25), painter("video-real", 2, 0.75))
    after = superfine.upscale_path(sources, tmp_path / "two").results
    assert [(result.model, result.notes[0]) for result in after] == [
        ("video-real-x2", "auto chose video-real for lossy h264 video"),
        ("video-x2", "auto chose video for lossless ffv1 video"),
    ]
    for result, level in zip(after, (191, 64), strict=True):
        assert result.output is not None
        assert np.abs(np.array(rgb_of(result.output)).astype(int) - level).max() < 4
    assert statuses(superfine.upscale_path(sources, tmp_path / "one")) == ["done", "done"]
    assert statuses(superfine.upscale_path(sources, tmp_path / "one")) == ["skipped", "skipped"]


@pytest.mark.parametrize("memory", [None, 0.33])
def test_a_network_of_three_frames_gets_each_frame_between_its_neighbours(
    tmp_path: Path, shelf: Shelf, memory: float | None
) -> None:
    """At both ends the neighbour on the other side stands in."""
    shelf(clip_network(3, name="video-x2"))
    frames = pictures(6, (200, 320))
    source = rgb_clip(tmp_path / "a.mkv", frames)
    job = Job(codec="ffv1", memory_gb=memory, precision="fp32")
    result = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=job))
    assert result.model == "video-x2"
    made = rgb_of(tmp_path / "b.mkv")
    around = [frames[1], *frames, frames[-2]]
    for number, picture in enumerate(made):
        wanted = clip_network_truth(np.stack(around[number : number + 3]))
        assert np.abs(picture - wanted).max() < 0.51


def test_a_picture_is_a_clip_in_which_nothing_moves(tmp_path: Path, shelf: Shelf) -> None:
    shelf(clip_network(3, name="video-x2"))
    (frame,) = pictures(1)
    made = superfine.upscale(frame, 2, model="video")
    assert np.abs(made.astype(int) - frame.repeat(2, 0).repeat(2, 1)).max() <= 1


def test_the_second_network_of_a_chain_sees_single_frames_and_that_is_said(tmp_path: Path, shelf: Shelf) -> None:
    shelf(clip_network(3, 2, name="video-x2"), clip_network(3, 4, name="video-x4"))
    frames = pictures(3, (16, 24))
    source = rgb_clip(tmp_path / "a.mkv", frames)
    result = only(superfine.upscale_path(source, tmp_path / "b.mkv", job=Job(scale=8, codec="ffv1")))
    assert result.model == "video-x2 then video-x4"
    assert "the second network sees each frame alone, without its neighbours in time" in result.notes
    wanted = clip_network_truth(np.stack(frames)).repeat(4, 0).repeat(4, 1)
    assert np.abs(rgb_of(tmp_path / "b.mkv")[1] - wanted).max() < 2


def test_alpha_and_grey_pass_through_a_network_of_three_frames(tmp_path: Path, shelf: Shelf) -> None:
    """Alpha is that of the frame in the middle: it grows with time, and where it's even it stays even."""
    shelf(clip_network(3, name="video-x2"))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = add_video(container, "ffv1", pixel_format="yuva444p")
        frames = [yuv_frame(number, "yuva444p") for number in range(4)]
        for number, frame in enumerate(frames):
            np.frombuffer(frame.planes[3], np.uint8)[:] = 100 + 10 * number
        encode(container, stream, frames)
    result = only(superfine.upscale_path(tmp_path / "a.mkv", tmp_path / "b.mkv", job=Job(codec="ffv1")))
    assert result.model == "video-x2"
    assert [np.unique(stored_planes(frame)[3]) for frame in decoded(tmp_path / "b.mkv")] == [[100], [110], [120], [130]]
    make_clip(tmp_path / "grey.mkv", 3, "ffv1", pixel_format="gray")
    only(superfine.upscale_path(tmp_path / "grey.mkv", tmp_path / "c.mkv", job=Job(codec="ffv1", precision="fp32")))
    small = np.stack([stored_planes(frame)[0] for frame in decoded(tmp_path / "grey.mkv")])
    wanted = clip_network_truth(small[..., None])[..., 0]
    made = decoded(tmp_path / "c.mkv")
    assert made[1].format.name == "gray"
    assert np.abs(stored_planes(made[1])[0] - wanted).max() < 0.51


def test_duplicates_are_not_computed_again(tmp_path: Path) -> None:
    frames = pictures(4)
    source = rgb_clip(tmp_path / "a.mkv", [frame for frame in frames for _ in range(3)])
    result = only(superfine.upscale_path(source, job=NEAREST))
    assert (facts(result).frames, facts(result).computed) == (12, 4)


# ---- many


def test_a_folder_of_pictures_and_videos(tmp_path: Path) -> None:
    """What only calls itself a video is named, and the rest goes on; a second run skips what is finished."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    make_clip(tmp_path / "in" / "a.mp4", 4)
    make_clip(tmp_path / "in" / "sub" / "b.webm", 3, "libvpx-vp9")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in" / "sub" / "c.png")
    (tmp_path / "in" / "text.mp4").write_text("no video")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in" / "picture.mov", "PNG")
    (tmp_path / "in" / "notes.txt").write_text("left alone")
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert (report.count("done"), report.count("failed"), report.ignored) == (3, 2, 1)
    assert all(re.search(r"(text\.mp4|picture\.mov): isn't a video", bad.message) for bad in report.failed)
    assert len(decoded(tmp_path / "out" / "a.mp4")) == 4
    assert len(decoded(tmp_path / "out" / "sub" / "b.webm")) == 3
    assert np.asarray(Image.open(tmp_path / "out" / "sub" / "c.png")).shape == (48, 80, 3)
    again = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert (again.count("skipped"), again.count("failed")) == (3, 2)
    make_clip(tmp_path / "in" / "a.mp4", 5)
    changed = {
        r.source.name: r.status for r in superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST).results
    }
    assert changed["a.mp4"] == "done"
    assert changed["b.webm"] == "skipped"
    other = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=Job(model="nearest", scale=2, crf=30))
    assert {r.source.name for r in other.results if r.status == "done"} == {"a.mp4", "b.webm"}


def test_a_video_is_known_by_its_content(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "a.mp4", 3)
    hidden = video.rename(tmp_path / "a.png")
    result = only(superfine.upscale_path(hidden, job=NEAREST))
    assert result.output == tmp_path / "a_x2.mkv"
    assert facts(result).frames == 3


def test_options_that_mean_nothing_to_the_run_are_refused(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "a.mp4", 3)
    picture = tmp_path / "a.png"
    Image.fromarray(pictures(1)[0]).save(picture)
    with pytest.raises(UsageError, match="--quality 80 is for pictures, and there are none; videos take --crf"):
        superfine.upscale_path(video, job=Job(quality=80))
    for options, word in (
        ({"crf": 20}, "--crf"),
        ({"codec": "av1"}, "--codec"),
        ({"as_clip": True}, "--as-clip"),
    ):
        with pytest.raises(UsageError, match=f"{word} is for videos, and there are none"):
            superfine.upscale_path(picture, job=Job(**options))  # type: ignore[arg-type]
    both = superfine.upscale_path([video, picture], tmp_path / "out", job=Job(model="nearest", quality=80, crf=30))
    assert statuses(both) == ["done", "done"]
    with pytest.raises(UsageError, match="--format mp4 is for videos, and there are none"):
        superfine.upscale_path(picture, job=Job(model="nearest", file_format="mp4"))
    for file_format, name in (("png", r"frames/%06d\.png"), ("gif", r"NAME\.gif")):
        with pytest.raises(UsageError, match=f"--format {file_format} is for pictures, .* as in -o '{name}'"):
            superfine.upscale_path(video, job=Job(model="nearest", file_format=file_format))
    for name in ("one.mp4", "one.png"):
        with pytest.raises(UsageError, match=rf"{name}: is the name of a file, and several sources need a folder"):
            superfine.upscale_path([video, picture], tmp_path / "out" / name, job=NEAREST)
    mixed = superfine.upscale_path(
        [video, picture], tmp_path / "webp", job=Job(model="nearest", scale=2, file_format="webp")
    )
    assert [result.output.name for result in mixed.results if result.output] == ["a.mp4", "a.webp"]
    with pytest.raises(UsageError, match=r"a\.png is no video; a picture goes into one of \.png"):
        superfine.upscale_path(picture, tmp_path / "b.mp4", job=NEAREST)
    with pytest.raises(UsageError, match=r"doesn't write \.jpg as a video"):
        superfine.upscale_path(video, tmp_path / "b.jpg", job=NEAREST)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "divx"}, "--codec 'divx' is none of auto, h264"),
        ({"damaged": "skip"}, "--damaged 'skip' is none of stop, repeat"),
        ({"interlaced": "weave"}, "--interlaced 'weave' is none of deinterlace, refuse"),
        ({"start": Fraction(5), "end": Fraction(5)}, "--start 5 isn't before --end 5"),
        ({"file_format": "mpg"}, "--format mpg: superfine doesn't write that; it writes .png"),
        ({"file_format": "gifx"}, ".mp4 .m4v .mov .mkv .webm"),
    ],
)
def test_impossible_jobs_are_refused_with_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        Job(**options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("b.mp4", {"crf": 99}, "--crf 99: h264 takes 0 (best) to 51"),
        ("b.mp4", {"crf": -1}, "--crf -1: h264 takes 0 (best) to 51"),
        ("b.webm", {"codec": "vp9", "crf": 99}, "--crf 99: vp9 takes 0 (best) to 63"),
        ("b.mkv", {"codec": "ffv1", "crf": 3}, "--crf 3: ffv1 is lossless and has none"),
        ("b.mp4", {"codec": "ffv1"}, "MP4 doesn't hold ffv1"),
        ("b.gif", {"crf": 3}, "--crf 3 is for video files"),
        ("b.mp4", {"rate": Fraction(24)}, "--rate is for folders"),
        ("%06d.jpg", {}, "frames are written as PNG; choose a name such as %06d.png"),
    ],
)
def test_wishes_that_a_video_cannot_meet_are_wrong_usage(
    tmp_path: Path, name: str, options: dict[str, Any], words: str
) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    with pytest.raises(UsageError, match=re.escape(words)):
        superfine.upscale_path(source, tmp_path / name, job=Job(model="nearest", scale=2, **options))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_codec_that_suits_one_of_several_containers_fails_by_name(tmp_path: Path) -> None:
    sources = [make_clip(tmp_path / name, 3) for name in ("a.mp4", "b.mkv")]
    job = Job(model="nearest", scale=2, codec="ffv1")
    report = superfine.upscale_path(sources, tmp_path / "out", job=job)
    assert statuses(report) == ["failed", "done"]
    assert "MP4 doesn't hold ffv1" in report.failed[0].message


def test_a_stretch_beyond_the_end_is_named(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    for dry_run in (True, False):
        job = Job(model="nearest", scale=2, start=Fraction(100))
        (failed,) = superfine.upscale_path(source, tmp_path / "b.mp4", job=job, dry_run=dry_run).failed
        assert "no frames in that stretch" in failed.message
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "a.mp4", 3)
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in" / "b.png")
    made = Path.mkdir

    def refused(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "out":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        made(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refused)
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    reason = "its folder can't be made: Read-only file system; choose another place with -o"
    assert [failed.message for failed in report.failed] == [
        f"{tmp_path / 'out' / name}: {reason}" for name in ("a.mp4", "b.png")
    ]


def test_that_a_clip_is_interlaced_is_said_once(tmp_path: Path) -> None:
    source = tmp_path / "a.mpg"
    with av.open(str(source), "w") as container:
        stream = add_video(container, "mpeg2video", size=(64, 64), options={"flags": "+ildct+ilme", "top": "1"})
        stream.codec_context.field_order = 2
        frames = [yuv_frame(number, "yuv420p", 64, 64) for number in range(6)]
        encode(container, stream, frames)
    for dry_run in (True, False):
        result = only(superfine.upscale_path(source, job=NEAREST, dry_run=dry_run))
        assert [note for note in result.notes if "interlaced" in note] == [
            "interlaced frames are deinterlaced, each into one"
        ]


# ---- animations and folders of frames


def test_an_animation_stays_one_and_may_become_a_picture_or_a_video(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame).quantize(16) for frame in pictures(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    result = only(superfine.upscale_path(tmp_path / "a.gif", job=NEAREST))
    assert result.output == tmp_path / "a_x2.gif"
    with Image.open(tmp_path / "a_x2.gif") as made:
        assert (made.n_frames, made.size) == (4, (80, 48))  # type: ignore[attr-defined]
    assert facts(only(superfine.upscale_path(tmp_path / "a.gif", tmp_path / "b.mp4", job=NEAREST))).frames == 4
    assert times_of(tmp_path / "b.mp4") == [Fraction(number, 10) for number in range(4)]
    still = only(superfine.upscale_path(tmp_path / "a.gif", tmp_path / "b.png", job=NEAREST))
    assert "the first of 4 frames" in still.notes
    assert still.video is None


def test_a_folder_of_frames_is_a_clip_where_that_is_asked_for(tmp_path: Path) -> None:
    frames = pictures(5)
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "in" / f"{number:03}.png")
    result = only(
        superfine.upscale_path(
            tmp_path / "in", tmp_path / "b.mkv", job=Job(model="nearest", codec="ffv1", rate=Fraction(10))
        )
    )
    assert times_of(tmp_path / "b.mkv") == [Fraction(number, 10) for number in range(5)]
    assert facts(result).fps == 10
    for frame, made in zip(frames, rgb_of(tmp_path / "b.mkv"), strict=True):
        np.testing.assert_array_equal(made, frame.repeat(2, 0).repeat(2, 1))
    clip = only(superfine.upscale_path(tmp_path / "in", job=Job(model="nearest", scale=2, as_clip=True)))
    assert (clip.output, facts(clip).frames) == (tmp_path / "in_x2", 5)
    assert sorted(path.name for path in (tmp_path / "in_x2").glob("*.png")) == [
        f"{number:03}.png" for number in range(5)
    ]
    independent = superfine.upscale_path(tmp_path / "in", tmp_path / "each", job=NEAREST)
    assert (independent.count("done"), [result.video for result in independent.results]) == (5, [None] * 5)
    pattern = only(superfine.upscale_path(tmp_path / "in" / "%03d.png", tmp_path / "c.mp4", job=NEAREST))
    assert facts(pattern).frames == 5


def test_frames_of_a_video_as_numbered_pictures(tmp_path: Path) -> None:
    frames = pictures(3)
    source = rgb_clip(tmp_path / "a.mkv", frames)
    only(superfine.upscale_path(source, tmp_path / "out" / "%04d.png", job=NEAREST))
    made = sorted((tmp_path / "out").glob("*.png"))
    assert [path.name for path in made] == ["0001.png", "0002.png", "0003.png"]
    for frame, path in zip(frames, made, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), frame.repeat(2, 0).repeat(2, 1))
    (failed,) = superfine.upscale_path(source, tmp_path / "out" / "%04d.png", job=NEAREST).failed
    assert "there are files already" in failed.message


# ---- dry runs and progress


def test_a_dry_run_tells_and_leaves_nothing(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 30)
    result = only(superfine.upscale_path(source, job=Job(model="fast"), dry_run=True))
    assert (result.status, result.output_size, result.model) == ("planned", (64, 96), "fast-x2")
    assert (facts(result).frames, facts(result).duration, facts(result).codec) == (30, 1.2, "h264")
    assert result.seconds > 0
    assert 0.25 <= result.memory_gb < 1
    assert list(tmp_path.iterdir()) == [source]
    said = run_cli(app, ["upscale", str(source), "--dry-run", "--model", "fast"])
    assert said.exit_code == 0
    assert "48x32 -> 96x64, fast-x2" in said.stdout
    assert "30 frames in 0:01.200, 25 a second, h264 yuv420p" in said.stdout
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["b.gif", "b.mkv", "out/%03d.png", "c.webm"])
def test_a_dry_run_tries_any_kind_of_output(tmp_path: Path, name: str) -> None:
    source = rgb_clip(tmp_path / "a.mkv", pictures(6))
    job = Job(model="nearest", scale=2, start=Fraction(1, 25))
    result = only(superfine.upscale_path(source, tmp_path / name, job=job, dry_run=True))
    assert (result.status, facts(result).frames, result.seconds > 0) == ("planned", 5, True)
    assert list(tmp_path.iterdir()) == [source]
    done = only(superfine.upscale_path(source, tmp_path / name, job=job))
    assert (result.output_size, *facts_of_the_file(result)) == (done.output_size, *facts_of_the_file(done))
    assert set(result.notes) <= set(done.notes)


def facts_of_the_file(result: superfine.Result) -> tuple[str, str, int, float]:
    return facts(result).codec, facts(result).pixel_format, facts(result).frames, facts(result).duration


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "words"),
    [
        ("b.gif", "gif", "pal8", "at most 256 colours a frame, as GIF has them"),
        ("b.webp", "webp", "argb", "audio 1 (pcm_s16le, eng) is left out: WebP can't hold it"),
        ("out/%d.png", "png", "rgb24", "25 frames a second; PNG frames don't say when they are shown"),
    ],
)
def test_a_dry_run_says_what_animations_and_folders_do_not_keep(
    tmp_path: Path, name: str, codec: str, pixel_format: str, words: str
) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream, audio = add_video(container, "ffv1", pixel_format="bgr0"), add_audio(container, "pcm_s16le")
        encode(container, stream, [rgb_frame(picture) for picture in pictures(3)])
        container.mux(sound(audio, 0.12))
    planned = only(superfine.upscale_path(tmp_path / "a.mkv", tmp_path / name, job=NEAREST, dry_run=True))
    assert facts_of_the_file(planned)[:2] == (codec, pixel_format)
    assert words in planned.notes


def test_folders_and_animations_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    images = [Image.fromarray(frame) for frame in pictures(3)]
    for number, image in enumerate(images):
        image.save(tmp_path / "in" / f"{number}.png")
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    opened: list[Path] = []

    def counted(source: Path, **options: Any) -> Any:
        opened.append(source)
        return open_footage(source, **options)

    for module in ("upscale_video", "video"):
        monkeypatch.setattr(f"superfine.{module}.open_footage", counted)
    for source in (tmp_path / "in", tmp_path / "a.gif"):
        opened.clear()
        only(superfine.upscale_path(source, tmp_path / f"{source.stem}.mkv", job=NEAREST))
        assert opened == [source]


class Listening(superfine.Progress):
    def __init__(self) -> None:
        self.total, self.told = 0.0, 0.0
        self.paces: list[Pace] = []

    def begin(self, pictures: int, weight: int) -> None:
        self.total = weight

    def advance(self, weight: float) -> None:
        self.told += weight

    def watch(self, pace: Pace) -> None:
        self.paces.append(pace)


def test_progress_adds_up_and_hears_of_each_frame(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "a.mp4", 12)
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.mp4").write_text("no video")
    for heard in (13, 0):
        listening = Listening()
        superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST, progress=listening)
        assert listening.told == pytest.approx(listening.total)
        assert [pace.done for pace in listening.paces] == list(range(heard))
    first = Pace(Path("a"), 10, 100, 0, 0.0)
    assert (first.seconds_left, Pace(Path("a"), 10, 100, 0, 30.0).seconds_left) == (None, 3.0)


def test_machines_hear_lines_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("superfine.progress.time.monotonic", lambda: next(clock))
    source = make_clip(tmp_path / "a.mp4", 5)
    with JsonLines() as lines:
        superfine.upscale_path(source, job=NEAREST, progress=lines)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["status"] for line in told[:-1]} == {"working"}
    assert all(line["frames"] == 5 and line["source"] == str(source) for line in told[:-1])
    assert (told[-1]["status"], told[-1]["video"]["frames"], told[-1]["video"]["codec"]) == ("done", 5, "h264")


def test_a_terminal_sees_frames_and_their_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    source = make_clip(tmp_path / "a.mp4", 40)
    with Terminal() as terminal:
        report = superfine.upscale_path(source, job=NEAREST, progress=terminal)
        terminal.watch(Pace(source, 30, 40, 10, 12.5))
        assert re.search(
            r"a\.mp4: frame 30 of 40, 12\.5 fps", screen.getvalue() + str(terminal._bar.tasks[0].description)
        )
    terminal.summary(report)
    said = capsys.readouterr().out
    assert "40 frames in 0:01.600, 25 a second, h264 yuv420p" in said


# ---- as a command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--start", "1:2:3:4"], "--start '1:2:3:4' is no time; write seconds"),
        (["--end", "soon"], "--end 'soon' is no time"),
        (["--end", "-3"], "--end '-3' is no time"),
        (["--start", "1/2"], "is no time"),
        (["--rate", "0"], "--rate '0' is not a number of frames a second"),
        (["--rate", "1/0"], "is not a number of frames"),
        (["--codec", "divx"], "--codec 'divx' is none of"),
    ],
)
def test_wrong_usage_is_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 2)
    with pytest.raises(UsageError, match=re.escape(words)):
        run_cli(app, ["upscale", str(source), *arguments], catch_exceptions=False)


@pytest.mark.parametrize(("start", "end", "count"), [("0.2", "0:00.4", 5), ("0:0:0.2", "1:00", 15), ("0", "0.04", 1)])
def test_times_are_written_as_people_write_them(tmp_path: Path, start: str, end: str, count: int) -> None:
    source = make_clip(tmp_path / "a.mp4", 20)
    arguments = ["upscale", str(source), "--model", "nearest", "--start", start, "--end", end, "--json"]
    done = run_cli(app, arguments, catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[-1])["video"]["frames"] == count


# ---- inspected


def test_inspect_says_what_a_video_is_and_what_auto_takes(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        video, audio = add_video(container, time_base=Fraction(1, 1000)), add_audio(container, language="deu")
        encode(container, video, [yuv_frame(number, "yuv420p") for number in range(4)], [0, 40, 80, 200])
        for packet in sound(audio, 0.1):
            container.mux(packet)
    found = superfine.inspect_clip(source)
    assert (found.codec, found.size, found.frames, found.bits, found.lossless) == ("h264", (32, 48), 4, 8, False)
    assert (found.steady, found.scale, found.tracks) == (False, 4, ("audio 1 (aac, deu)",))
    (planned,) = superfine.upscale_path(source, job=Job(scale=4), dry_run=True).results
    assert planned.model.startswith(found.model)
    assert found.why in planned.notes[0]
    said = run_cli(app, ["inspect", str(source)])
    assert said.exit_code == 0
    assert f"{source}: h264, 48 x 32, 4 frames in 0:" in said.stdout
    assert "at varying times, 8 bits, BT.601, lossy" in said.stdout
    assert "audio 1 (aac, deu)" in said.stdout
    told = json.loads(run_cli(app, ["inspect", str(source), "--json"]).stdout)
    assert (told["path"], told["size"], told["frames"]) == (str(source), [32, 48], 4)


def test_inspect_names_damage_and_what_is_no_video(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", 30, "ffv1", size=(600, 600))
    assert superfine.inspect_clip(whole).lossless
    assert superfine.inspect_clip(whole).scale == 2
    cut = tmp_path / "a.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (tmp_path / "text.mp4").write_text("no video")
    said = run_cli(app, ["inspect", str(cut), str(tmp_path / "text.mp4")])
    assert said.exit_code == 1
    assert "breaks off at" in said.stdout
    assert "text.mp4: isn't a video" in said.stderr


def test_inspect_takes_an_animation_for_a_clip(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame).quantize(16) for frame in pictures(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    frames[0].save(tmp_path / "still.gif")
    said = run_cli(app, ["inspect", str(tmp_path / "a.gif")])
    assert "a.gif: gif, 40 x 24, 4 frames in 0:00.400, 10 a second, 8 bits" in said.stdout
    assert "alpha" not in said.stdout
    assert "frames" not in run_cli(app, ["inspect", str(tmp_path / "still.gif")]).stdout


# ---- stopped


def long_clip(path: Path) -> Path:
    """300 frames: two whole segments and a half."""
    return make_clip(path, 300, size=(72, 96), options={"preset": "medium", "g": "50", "bf": "2"})


COMMAND = [sys.executable, "-m", "superfine", "upscale"]


def stopped_by(number: int, source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """The command, sent a signal once a segment is finished and the next is on its way."""
    command = [*COMMAND, str(source), "-o", str(output), "--model", "best", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not begun(output):
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    said, words = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, said, words)


@pytest.mark.slow
def test_kill_nine_is_survived_and_the_packets_are_those_of_an_unbroken_run(tmp_path: Path) -> None:
    source = long_clip(tmp_path / "a.mp4")
    killed = stopped_by(signal.SIGKILL, source, tmp_path / "b.mp4")
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "b.mp4").exists()
    job = Job(model="best", scale=2)
    done = only(superfine.upscale_path(source, tmp_path / "b.mp4", job=job))
    assert facts(done).resumed in (120, 240)
    assert facts(done).computed == 300 - facts(done).resumed
    whole = only(superfine.upscale_path(source, tmp_path / "whole.mp4", job=job))
    assert (facts(whole).computed, facts(whole).resumed) == (300, 0)
    assert hashes(tmp_path / "b.mp4", "video") == hashes(tmp_path / "whole.mp4", "video")
    records = {f"{name}.mp4.superfine.json" for name in ("b", "whole")}
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4", "whole.mp4", *records}


def test_a_video_is_noted_as_done_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies just after the output has appeared leaves nothing that nobody knows."""
    (tmp_path / "in").mkdir()
    rgb_clip(tmp_path / "in" / "a.mkv", pictures(3))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("superfine.video.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)
    assert (tmp_path / "out" / "a.mkv").exists()
    assert statuses(superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=NEAREST)) == ["skipped"]


@pytest.mark.slow
def test_control_c_ends_with_a_word_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source = long_clip(tmp_path / "a.mp4")
    stopped = stopped_by(signal.SIGINT, source, tmp_path / "b.mp4")
    assert stopped.returncode == 130
    assert stopped.stderr == "superfine: stopped; what is finished stays, and the same command goes on with the rest\n"
    assert not list(segments_folder(tmp_path / "b.mp4").glob("*.part"))
    again = subprocess.run(
        [*COMMAND, str(source), "-o", str(tmp_path / "b.mp4"), "--model", "best"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"(120|240) were done before", again.stdout)
    assert len(decoded(tmp_path / "b.mp4")) == 300


class Stopping(superfine.Progress):
    """Stops the run at a frame."""

    def __init__(self, number: int) -> None:
        self._number = number

    def watch(self, pace: Pace) -> None:
        if pace.done == self._number:
            raise KeyboardInterrupt


def test_segments_are_taken_only_where_everything_is_the_same(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 130)

    def stop() -> None:
        with pytest.raises(KeyboardInterrupt):
            superfine.upscale_path(source, tmp_path / "b.mp4", job=NEAREST, progress=Stopping(125))

    def resumed(**options: Any) -> int:
        stop()
        wishes: dict[str, Any] = {"model": "nearest", "scale": 2} | options.pop("job", {})
        result = only(superfine.upscale_path(source, tmp_path / "b.mp4", job=Job(**wishes), **options))
        (tmp_path / "b.mp4").unlink()
        assert not segments_folder(tmp_path / "b.mp4").exists()
        return facts(result).resumed

    assert resumed() == 120
    assert resumed(resume=False) == 0
    assert resumed(job={"model": "bilinear"}) == 0
    assert resumed(job={"crf": 30}) == 0
    assert resumed(job={"scale": 3}) == 0


def test_what_fails_half_way_says_that_it_goes_on(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 130)

    class Full(superfine.Progress):
        def watch(self, pace: Pace) -> None:
            if pace.done == 125:
                raise superfine.OutputError(f"{tmp_path / 'b.mp4'}: can't be written: the disk is full")

    (failed,) = superfine.upscale_path(source, tmp_path / "b.mp4", job=NEAREST, progress=Full()).failed
    wanted = "b.mp4: can't be written: the disk is full; what is done is kept, and the same command goes on from there"
    assert failed.message == f"{tmp_path}/{wanted}"
    assert facts(only(superfine.upscale_path(source, tmp_path / "b.mp4", job=NEAREST))).resumed == 120


def test_frames_in_a_folder_go_on_too(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 20)

    class Full(superfine.Progress):
        def watch(self, pace: Pace) -> None:
            if pace.done == 12:
                raise superfine.OutputError(f"{tmp_path}: can't be written: the disk is full")

    output = tmp_path / "out" / "%d.png"
    (failed,) = superfine.upscale_path(source, output, job=NEAREST, progress=Full()).failed
    assert failed.message.endswith("; what is done is kept, and the same command goes on from there")
    assert 0 < facts(only(superfine.upscale_path(source, output, job=NEAREST))).resumed <= 12


def test_no_resume_leaves_alone_what_another_process_writes(tmp_path: Path) -> None:
    source, output = make_clip(tmp_path / "a.mp4", 130), tmp_path / "b.mp4"
    said: list[str] = []

    class Meanwhile(superfine.Progress):
        def watch(self, pace: Pace) -> None:
            if pace.done == 125:
                there = sorted(segments_folder(output).iterdir())
                (failed,) = superfine.upscale_path(source, output, job=NEAREST, resume=False).failed
                said.append(failed.message)
                assert set(there) <= set(segments_folder(output).iterdir())

    done = only(superfine.upscale_path(source, output, job=NEAREST, progress=Meanwhile()))
    assert ["b.mp4: another process is writing it at this moment" in words for words in said] == [True]
    assert (facts(done).computed, len(decoded(output))) == (130, 130)


def test_the_machine_and_the_tiles_belong_to_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(Job(model="fast", scale=2))

    def route(**options: Any) -> Any:
        return workshop.clip_route(
            (480, 480, 3), np.dtype(options.get("dtype", np.uint8)), (960, 960), options.get("held", 0)
        )

    first = workshop.pixels_fingerprint(route())
    assert workshop.pixels_fingerprint(route()) == first
    monkeypatch.setattr("superfine.route.cores", lambda: 77)
    more_cores = workshop.pixels_fingerprint(route())
    tight = round(workshop.limit) - 300_000_000
    found = {
        first,
        more_cores,
        workshop.pixels_fingerprint(route(held=tight)),
        workshop.pixels_fingerprint(route(dtype=np.uint16)),
    }
    assert len(found) == 4
    others = [
        Workshop(Job(model=model, precision=precision)) for model, precision in (("balanced", "auto"), ("fast", "fp32"))
    ]  # type: ignore[arg-type]
    found |= {
        other.pixels_fingerprint(other.clip_route((480, 480, 3), np.dtype(np.uint8), (960, 960), 0)) for other in others
    }
    assert len(found) == 6


FULL = """
import resource, sys
from pathlib import Path
import superfine
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
job = superfine.Job(model="nearest", scale=2, codec="ffv1")
print([result.message for result in superfine.upscale_path([sys.argv[1], sys.argv[4]], sys.argv[2], job=job).results])
"""


def test_a_full_disk_stops_a_video_cleanly_and_the_run_goes_on(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    assert resource.RLIMIT_FSIZE
    source, small = make_clip(tmp_path / "a.mkv", 130, "ffv1", size=(72, 96)), make_clip(tmp_path / "b.mkv", 2, "ffv1")
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "out"), "200000", str(small)]
    full = subprocess.run(command, check=True, capture_output=True, text=True)
    assert re.search(r"a\.mkv.*: can't be written: File too large\", ''\]", full.stdout), full.stdout + full.stderr
    assert not (tmp_path / "out" / "a.mkv").exists()
    assert len(decoded(tmp_path / "out" / "b.mkv")) == 2
    report = superfine.upscale_path([source, small], tmp_path / "out", job=Job(model="nearest", scale=2, codec="ffv1"))
    assert sorted(statuses(report)) == ["done", "skipped"]
