"""Pieces of a video by several workers: the file is that of one machine, to the bit, whoever made what and when."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import superfine
from clips import add_video, encode, make_clip, yuv_frame
from superfine import Job, OutputError, SourceError
from superfine.footage import open_footage
from superfine.outputs import plan_output, segments_folder
from superfine.pieces import Conversion
from superfine.route import Workshop
from superfine.upscale import Pace
from superfine.upscale_video import VideoPlan, begin_video, make_video_pieces, plan_video
from superfine.video import begin_pieces, begun, complete, forget, make_pieces

Array = npt.NDArray[np.generic]
FRAMES = 250  # two whole stretches, and some
SIZE = (16, 24)
NEAREST = Job(model="nearest", scale=2)
FAST = Job(model="fast", scale=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", FRAMES, size=SIZE, options={"g": "50", "bf": "2"})


def plan_of(source: Path, output: Path, job: Job = NEAREST) -> VideoPlan:
    """As each worker makes it, from nothing but the names and the job."""
    return plan_video(source, output, Workshop(job))


def only(report: superfine.Report) -> superfine.Result:
    (result,) = report.results
    assert result.status == "done", result.message
    return result


def made_of(result: superfine.Result) -> tuple[int, int]:
    """Frames that were enlarged in this run, and frames that were there."""
    assert result.video is not None
    return result.video.computed, result.video.resumed


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Of all files in a folder and below it, hidden ones too; but the records, which say when they were made."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".superfine.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def record_in(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("*.superfine.json")
    return dict(json.loads(path.read_text()))


WORKER = """
import sys
from pathlib import Path
from superfine import Job
from superfine.route import Workshop
from superfine.upscale_video import make_video_pieces, plan_video
plan = plan_video(Path(sys.argv[1]), Path(sys.argv[2]), Workshop(Job(model=sys.argv[3], scale=2)))
for stretch in sys.argv[4:]:
    begin, finish = map(int, stretch.split(":"))
    make_video_pieces(plan, begin, finish)
"""


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("b.mp4", FAST),
        ("b.mkv", NEAREST),
        pytest.param("b.gif", NEAREST, marks=pytest.mark.slow),
        pytest.param("b/%06d.png", NEAREST, marks=pytest.mark.slow),
    ],
    ids=["mp4", "mkv", "gif", "frames"],
)
def test_two_workers_make_the_file_of_one_machine(tmp_path: Path, source: Path, name: str, job: Job) -> None:
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    alone = only(superfine.upscale_path(source, tmp_path / "alone" / name, job=job))
    output = tmp_path / "together" / name
    pieces = begin_video(plan_of(source, output, job))
    assert (pieces.frames, pieces.resumed, pieces.notes) == (FRAMES, 0, ())
    assert [stretch.frames for stretch in pieces.stretches] == [120, 120, 10]
    first, middle, last = pieces.stretches

    command = [sys.executable, "-c", WORKER, str(source), str(output), job.model]
    other = subprocess.Popen([*command, *(f"{part.begin}:{part.finish}" for part in (last, first))])
    mine = make_video_pieces(plan_of(source, output, job), middle.begin, middle.finish)
    assert (mine.computed, mine.resumed) == (120, 0)
    assert other.wait() == 0

    together = only(superfine.upscale_path(source, output, job=job))
    assert made_of(together) == (0, FRAMES)
    assert together.consistency == alone.consistency
    assert together.notes == alone.notes
    assert bytes_of(tmp_path / "together") == bytes_of(tmp_path / "alone")
    before, after = record_in(tmp_path / "alone"), record_in(tmp_path / "together")
    assert (after["input"], after["consistency"]) == (before["input"], before["consistency"])


def jumpy(path: Path) -> Path:
    """Duplicates and cuts, anywhere."""
    rng = np.random.default_rng(1)
    shown = np.cumsum([(rng.random() < 0.6) + 40 * (rng.random() < 0.1) for _ in range(60)])
    with av.open(str(path), "w") as container:
        stream = add_video(container, options={"g": "20", "bf": "3", "preset": "medium"})
        encode(container, stream, [yuv_frame(int(number), "yuv420p") for number in shown])
    return path


def interlaced(path: Path) -> Path:
    return make_clip(path, 60, options={"flags": "+ilme+ildct", "x264-params": "tff=1", "g": "25", "bf": "2"})


@pytest.mark.parametrize("make", [jumpy, interlaced])
def test_what_lies_around_a_stretch_is_seen_whoever_makes_it(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    source = make(tmp_path / "a.mkv")

    def conversion(name: str) -> Conversion:
        clip = open_footage(source)
        size, count = (2 * clip.size[0], 2 * clip.size[1]), len(clip.timeline)
        made = plan_output(clip, tmp_path / name, size, 0, count, codec="auto", crf=None, segment_frames=8)
        return Conversion(clip, tmp_path / name, made, 0, count, frames=5, segment_frames=8)

    def mean(window: Array, _: object) -> Array:
        return np.rint(window.astype(float).mean(0)).astype(np.uint8).repeat(2, 0).repeat(2, 1)

    assert conversion("b.mp4").clip.interlaced == (make is interlaced)
    complete(conversion("alone.mp4"), mean)
    stretches = begin_pieces(conversion("b.mp4")).stretches
    assert len(stretches) == 8
    for part in (*stretches[1::2], *stretches[-2::-2]):
        make_pieces(conversion("b.mp4"), part.begin, part.finish, mean)
    assert complete(conversion("b.mp4"), mean).computed == 0
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()


def test_the_consistency_of_a_clip_is_that_of_the_first_frame_of_each_stretch(tmp_path: Path) -> None:
    """As pictures on their own have it, put together by the definition, whoever measured which."""
    rng = np.random.default_rng(5)
    frames = tmp_path / "in"
    frames.mkdir()
    for number in range(FRAMES):
        # Each is of another contrast, so that no other frames would do; the last ones of none, and beyond all dB.
        contrast = number % 125 - 62 if number < 240 else 0
        pixels = 128 + contrast * (rng.random((6, 8, 3)) - 0.5) * 2
        Image.fromarray(pixels.astype(np.uint8)).save(frames / f"{number:03}.png")
    stills = [
        only(superfine.upscale_path(frames / f"{number:03}.png", tmp_path / f"{number}.png", job=NEAREST)).consistency
        for number in (0, 120, 240)
    ]
    assert [still is not None and still.psnr is None for still in stills] == [False, False, True]
    squares = [0 if still is None or still.psnr is None else 10 ** (-still.psnr / 10) for still in stills]

    output = tmp_path / "out" / "%03d.png"
    plan = plan_of(frames / "%03d.png", output)
    begin_video(plan)
    make_video_pieces(plan, 120, FRAMES)
    found = only(superfine.upscale_path(frames / "%03d.png", output, job=NEAREST)).consistency
    assert found is not None
    assert found.psnr == pytest.approx(-10 * math.log10(np.mean(squares)), abs=1e-9)
    assert found.worst == max(still.worst for still in stills if still is not None)
    assert found.samples == 3 * 6 * 8 * 3


def test_what_a_person_should_know_is_said_whoever_heard_of_it(tmp_path: Path, source: Path) -> None:
    """A frame that can't be decoded is met by whoever makes its piece, and told by who makes the output."""
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        spoilt = next(packet for packet in packets[130:] if packet.is_keyframe)
        begin, size = spoilt.pos, spoilt.size
    data = bytearray(source.read_bytes())
    data[begin + 4 : begin + size] = b"\xff" * (size - 4)
    (tmp_path / "a.mp4").write_bytes(data)
    job = Job(model="nearest", scale=2, damaged="repeat")
    alone = only(superfine.upscale_path(tmp_path / "a.mp4", tmp_path / "alone.mp4", job=job))
    assert any("neighbour stands in" in note for note in alone.notes)
    for part in begin_video(plan_of(tmp_path / "a.mp4", tmp_path / "b.mp4", job)).stretches:
        make_video_pieces(plan_of(tmp_path / "a.mp4", tmp_path / "b.mp4", job), part.begin, part.finish)
    together = only(superfine.upscale_path(tmp_path / "a.mp4", tmp_path / "b.mp4", job=job))
    assert made_of(together) == (0, FRAMES)
    assert together.notes == alone.notes
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()


def test_what_nobody_made_is_made_by_the_join(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "b.mp4"
    whole = only(superfine.upscale_path(source, tmp_path / "whole.mp4", job=NEAREST))
    _, middle, _ = begin_video(plan_of(source, output)).stretches
    make_video_pieces(plan_of(source, output), middle.begin, middle.finish)
    joined = only(superfine.upscale_path(source, output, job=NEAREST))
    assert made_of(joined) == (130, 120)
    assert joined.consistency == whole.consistency
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_begun_again_only_what_is_missing_is_asked_for(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out" / "%d.png"
    plan = plan_of(source, output)
    begin_video(plan)
    heard: list[Pace] = []
    make_video_pieces(plan, 3, 5, heard.append)
    assert [(pace.done, pace.frames) for pace in heard] == [(0, 2), (1, 2), (2, 2)]
    make_video_pieces(plan, 118, 123)
    (segments_folder(output) / "120.png").write_bytes(b"spoilt")
    pieces = begin_video(plan)
    assert pieces.resumed == 6
    assert [(part.begin, part.finish, part.frames) for part in pieces.stretches] == [
        (0, 120, 117),
        (123, 240, 117),
        (240, FRAMES, 10),
    ]
    again = make_video_pieces(plan, 118, 123)
    assert (again.computed, again.resumed) == (1, 4)


@pytest.mark.parametrize("change", ["job", "source", "libraries"])
def test_other_pieces_than_those_that_were_begun_are_refused(
    tmp_path: Path, source: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "a.mp4"
    mine.write_bytes(source.read_bytes())
    output = tmp_path / "b.mp4"
    begin_video(plan_of(mine, output))
    if change == "source":
        os.utime(mine, (1, 1))
    plan = plan_of(mine, output, Job(model="bilinear", scale=2, crf=30) if change == "job" else NEAREST)
    if change == "libraries":
        monkeypatch.setattr(av, "library_versions", av.library_versions | {"libavcodec": (1, 2, 3)})
    words = {"job": "encoding and fingerprint", "source": "source", "libraries": "libraries"}[change]
    with pytest.raises(OutputError, match=rf"b.mp4: its pieces were begun with another {words}; the machines that"):
        make_video_pieces(plan, 0, 1)
    assert not begun(output)


def test_pieces_that_are_not_begun_or_are_finished_are_refused(tmp_path: Path, source: Path) -> None:
    plan = plan_of(source, tmp_path / "b.mp4")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"b.mp4: its pieces aren't begun, or are finished; run the same again"):
            make_video_pieces(plan, 0, 1)
        if not plan.conversion.output.exists():
            superfine.upscale_path(source, plan.conversion.output, job=NEAREST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "b.mp4.superfine.json"]
    begin_video(plan)
    (segments_folder(plan.conversion.output) / "plan.json").write_text("[1, 2")
    with pytest.raises(OutputError, match="its pieces aren't begun"):
        make_video_pieces(plan, 0, 1)


def test_what_does_not_move_cannot_be_begun(tmp_path: Path, source: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(source.read_bytes()[:2000])
    with pytest.raises(SourceError, match="a.mp4"):
        begin_video(plan_of(tmp_path / "a.mp4", tmp_path / "b.mp4"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# ---- at the same time


def test_makers_share_and_a_join_waits_for_nobody(tmp_path: Path, source: Path) -> None:
    """Who makes pieces lets others make some, and keeps out who wants the output alone."""
    output = tmp_path / "b.mp4"
    plan = plan_of(source, output)
    begin_video(plan)
    alone = r"b.mp4: another process is writing it at this moment; wait for it, or choose another name with -o"

    def meanwhile(pace: Pace) -> None:
        if pace.done == 60:
            assert make_video_pieces(plan_of(source, output), 2, 3).computed == 10
            # A driver that was started again finds what it had begun, though some still work for the one before.
            assert [part.begin for part in begin_video(plan_of(source, output)).stretches] == [0, 1]
            with pytest.raises(OutputError, match=alone):
                begin_video(plan_of(source, output, Job(model="bilinear", scale=2)))
            with pytest.raises(OutputError, match=alone):
                forget(output)
            (failed,) = superfine.upscale_path(source, output, job=NEAREST).failed
            assert alone in failed.message

    assert make_video_pieces(plan, 0, 1, meanwhile).computed == 120

    class Meanwhile(superfine.Progress):
        def watch(self, pace: Pace) -> None:
            if pace.done == 180:
                with pytest.raises(OutputError, match=alone):
                    make_video_pieces(plan, 1, 2)

    joined = only(superfine.upscale_path(source, output, job=NEAREST, progress=Meanwhile()))
    assert made_of(joined) == (120, 130)


def test_the_same_piece_by_two_is_no_harm(tmp_path: Path, source: Path) -> None:
    """A worker that was given up may live on."""
    output = tmp_path / "b.mp4"
    plan = plan_of(source, output)
    begin_video(plan)

    def meanwhile(pace: Pace) -> None:
        if pace.done == 119:
            command = [sys.executable, "-c", WORKER, str(source), str(output), "nearest", "0:1"]
            subprocess.run(command, check=True)

    make_video_pieces(plan, 0, 1, meanwhile)
    assert len(list(segments_folder(output).glob("*.jsonl"))) == 2
    assert made_of(only(superfine.upscale_path(source, output, job=NEAREST))) == (130, 120)
    only(superfine.upscale_path(source, tmp_path / "whole.mp4", job=NEAREST))
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


KILLED = """
import os, signal
def die(pace):
    if pace.done == 30:
        os.kill(os.getpid(), signal.SIGKILL)
""" + WORKER.replace("begin, finish)", "begin, finish, die)")


@pytest.mark.parametrize("name", ["b.mp4", "b/%d.png"])
def test_a_killed_maker_leaves_no_half_pieces(tmp_path: Path, source: Path, name: str) -> None:
    output = tmp_path / name
    plan = plan_of(source, output)
    first, *_ = begin_video(plan).stretches
    command = [sys.executable, "-c", KILLED, str(source), str(output), "nearest", f"{first.begin}:{first.finish}"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    folder = segments_folder(output)
    # One that was killed on another host, a moment ago.
    (folder / f".{plan.conversion.made.pieces[-1].name}.0123abcd-77.part").write_bytes(b"half")
    again = make_video_pieces(plan, first.begin, first.finish)
    assert again.computed + again.resumed == 120
    assert (again.resumed > 20) == name.endswith(".png")
    assert begin_video(plan).resumed == 120
    only(superfine.upscale_path(source, output, job=NEAREST))
    if name.endswith(".png"):
        assert {path.name for path in (tmp_path / "b").iterdir()} == {
            f"{number}.png" for number in range(1, FRAMES + 1)
        }


def test_a_maker_that_fails_leaves_the_others_their_pieces(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "b.mp4"
    plan = plan_of(source, output)
    begin_video(plan)

    def fails(pace: Pace) -> None:
        if pace.done == 5:
            raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        make_video_pieces(plan, 0, 1, fails)
    assert not begun(output)
    assert make_video_pieces(plan, 1, 2).computed == 120
    assert begun(output)
    forget(output)
    assert list(tmp_path.iterdir()) == []
