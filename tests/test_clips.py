"""Clips to judge by: which frames, which windows, which figures, and how much is held."""

import math
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from clips import add_video, encode, rgb_frame
from fakes import clip_network, clip_network_truth
from superfine.classical.resample import matlab_resize
from superfine.errors import EngineError, SourceError, UsageError
from superfine.evaluate import benchmark as judging
from superfine.evaluate import clips as judged_clips
from superfine.evaluate.benchmark import benchmark, evaluate_path, open_datasets, shipped_models
from superfine.evaluate.clips import Stretch, is_clip, open_clip_set
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.methods import BASELINES, NetworkMethod, frames_of
from superfine.evaluate.report import report_html, show_worst
from superfine.scenes import margin

ASTRONAUT = data.astronaut()
COFFEE = data.coffee()


def moving(number, picture=ASTRONAUT, rows=49, cols=64):
    """A view that goes over a picture by two pixels a frame; rows are no multiple of the scale."""
    return np.ascontiguousarray(picture[50 + number : 50 + number + rows, 100 + 2 * number : 100 + 2 * number + cols])


def small_of(pixels):
    return matlab_resize(np.ascontiguousarray(pixels[:48]), (24, 32))


def write_video(path, frames, rate=10):
    """Every level as it is: FFV1 in RGB."""
    with av.open(str(path), "w") as container:
        stream = add_video(container, "ffv1", size=frames[0].shape[:2], pixel_format="bgr0", rate=rate)
        encode(container, stream, (rgb_frame(frame).reformat(format="bgr0") for frame in frames))
    return path


def write_folder(path, frames):
    path.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{number:03}.png")
    return path


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "clip.mkv", [moving(number) for number in range(12)])


class Known:
    """Answers for small frames that are known by their bytes; remembers which windows it saw."""

    scale, engine, precision, sha256, parameters, file_bytes, notes = 2, "by hand", "fp32", "", 0, 0, ()

    def __init__(self, frames, answer=lambda number, frame: frame, name="known", fails_on=()):
        self.name, self.fails_on = name, fails_on
        self._numbers = {small_of(frame).tobytes(): number for number, frame in reversed(list(enumerate(frames)))}
        self._answers = [answer(number, frame[:48]) for number, frame in enumerate(frames)]
        self.asked = []

    def __call__(self, pixels):
        number = self._numbers.get(pixels.tobytes())
        if number is None:  # a piece of one, to be timed on
            return pixels.repeat(2, axis=0).repeat(2, axis=1)
        self.asked.append(number)
        if number in self.fails_on:
            raise EngineError("on command")
        return self._answers[number]


class Watching(Known):
    """Looks at three frames."""

    frames = 3

    def of_window(self, window):
        self.windows.append([self._numbers[frame.tobytes()] for frame in window])
        return self(window[1])


def row_of(found, model="known"):
    return next(row for row in found.rows if row.model == model)


def test_frames_and_their_names(video):
    clip = open_clip_set(video, 2)
    moments = list(clip.moments([1]))
    assert [moment.name for moment in moments[:3]] == ["frame 0, 0:00.000", "frame 1, 0:00.100", "frame 2, 0:00.200"]
    assert (len(clip), len(moments), clip.name) == (12, 12, "clip.mkv")
    for number, moment in enumerate(moments):
        np.testing.assert_array_equal(moment.large, moving(number)[:48])
        np.testing.assert_array_equal(moment.windows[1], small_of(moving(number))[None])


def test_a_folder_is_the_same_clip(video, tmp_path):
    folder = write_folder(tmp_path / "frames", [moving(number) for number in range(12)])
    for source in (folder, folder / "%03d.png"):
        both = zip(open_clip_set(video, 2).moments([3]), open_clip_set(source, 2).moments([3]), strict=True)
        for one, other in both:
            np.testing.assert_array_equal(one.windows[3], other.windows[3])


def test_windows_are_neighbours_in_time_that_no_cut_crosses(tmp_path):
    frames = [moving(number) for number in range(7)] + [moving(number, COFFEE) for number in range(7)]
    frames[4] = frames[3]  # the same picture twice is one neighbour
    small = [small_of(frame) for frame in frames]
    (tmp_path / "c").mkdir()
    found = {}
    for moment in open_clip_set(write_video(tmp_path / "c.mkv", frames), 2).moments([1, 3, 5]):
        found[moment.number] = moment
        np.testing.assert_array_equal(moment.windows[1][0], small[moment.number])
        np.testing.assert_array_equal(moment.windows[5][2], small[moment.number])
    wanted = {0: (1, 0, 1), 1: (0, 1, 2), 3: (2, 3, 5), 4: (2, 4, 5), 6: (5, 6, 5), 7: (8, 7, 8), 9: (8, 9, 10)}
    for number, window in wanted.items():
        np.testing.assert_array_equal(found[number].windows[3], [small[place] for place in window])
    assert [number for number, moment in found.items() if moment.repeats] == [4]


def test_a_stretch_has_the_neighbours_beyond_it(video):
    clip = open_clip_set(video, 2, stretch=Stretch(start=Fraction("0.45"), end=Fraction("0.8")))
    moments = list(clip.moments([3]))
    assert [moment.number for moment in moments] == [5, 6, 7]
    assert clip.rule == "matlab-bicubic, frames 5-7"
    np.testing.assert_array_equal(moments[0].windows[3], [small_of(moving(number)) for number in (4, 5, 6)])
    np.testing.assert_array_equal(moments[-1].windows[3], [small_of(moving(number)) for number in (6, 7, 8)])


@pytest.mark.parametrize("counts", [[1], [1, 3]])
def test_every_fourth_comes_with_the_one_before_it(video, counts):
    clip = open_clip_set(video, 2, stretch=Stretch(every=4))
    moments = list(clip.moments(counts))
    assert [(moment.number, moment.judged) for moment in moments] == [
        (0, True),
        (3, False),
        (4, True),
        (7, False),
        (8, True),
    ]
    assert len(clip) == 5
    assert clip.rule == "matlab-bicubic, frames 0-8 by 4"
    for moment in moments:
        np.testing.assert_array_equal(moment.large, moving(moment.number)[:48])
        if 3 in counts and moment.number:
            around = [small_of(moving(moment.number + step)) for step in (-1, 0, 1)]
            np.testing.assert_array_equal(moment.windows[3], around)


def psnr_of(one, other):
    return peak_signal_noise_ratio(one, other, data_range=255)


def test_small_frames_that_went_through_a_codec(video):
    coded = {crf: list(open_clip_set(video, 2, reduction=f"h264-{crf}").moments([1, 3])) for crf in (4, 30)}
    for crf, moments in coded.items():
        assert [moment.number for moment in moments] == list(range(12))
        for moment in moments:
            np.testing.assert_array_equal(moment.large, moving(moment.number)[:48])
            near = {number: psnr_of(small_of(moving(number)), moment.windows[1][0]) for number in range(12)}
            assert max(near, key=near.get) == moment.number  # none slipped in time
            assert near[moment.number] > {4: 28, 30: 20}[crf]
    better = [psnr_of(small_of(moving(place)), coded[4][place].windows[1][0]) for place in range(12)]
    worse = [psnr_of(small_of(moving(place)), coded[30][place].windows[1][0]) for place in range(12)]
    assert np.mean(better) > np.mean(worse) + 2
    np.testing.assert_array_equal(coded[30][5].windows[3], [coded[30][place].windows[1][0] for place in (4, 5, 6)])


def test_what_is_coded_depends_on_nothing_else(video):
    """Neither on the windows that methods want nor on which frames are judged."""
    whole = {moment.number: moment for moment in open_clip_set(video, 2, reduction="h264-30").moments([1, 3])}
    for counts, stretch in (([1], Stretch()), ([1], Stretch(every=5)), ([1, 5], Stretch(start=Fraction("0.4")))):
        clip = open_clip_set(video, 2, reduction="h264-30", stretch=stretch)
        for moment in clip.moments(counts):
            np.testing.assert_array_equal(moment.windows[1], whole[moment.number].windows[1])
    row = row_of(benchmark([clip], []), "bicubic")
    assert row.protocol_y == "Y601-limited, crop 2, matlab-bicubic + x264 CRF 30, frames 4-11"


def test_no_more_frames_are_read_than_windows_wait_for(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "frames", [moving(number) for number in range(40)])
    decoded = []
    as_bytes = judged_clips.as_bytes
    monkeypatch.setattr(
        judged_clips, "as_bytes", lambda *given, **named: decoded.append(None) or as_bytes(*given, **named)
    )
    for done, _ in enumerate(open_clip_set(folder, 2).moments([1, 3])):
        assert len(decoded) - done <= margin(3) + 1
    assert len(decoded) == 40


def test_psnr_is_the_mean_over_frames(video):
    frames = [moving(number) for number in range(12)]
    found = benchmark([open_clip_set(video, 2)], [Known(frames, lambda number, frame: frame // 2 + 10 * number)])
    row = row_of(found)

    def luma(pixels):
        return 16 + pixels.astype(np.float64)[2:-2, 2:-2] @ np.array([65.481, 128.553, 24.966]) / 255

    each = [
        peak_signal_noise_ratio(luma(frame[:48]), luma(frame[:48] // 2 + 10 * number), data_range=255)
        for number, frame in enumerate(frames)
    ]
    assert row.psnr_y == pytest.approx(np.mean(each), abs=1e-4)
    assert (row.pictures, row.unit, row.scale) == (12, "frame", 2)
    assert row.protocol_y == "Y601-limited, crop 2, matlab-bicubic, frames 0-11"
    assert [entry.picture for entry in found.measurements if entry.model == "known"][3] == "frame 3, 0:00.300"
    assert "clip.mkv, x2, 12 frames" in str(found)
    assert {row.model for row in found.rows} == {*BASELINES, "known"}


def test_the_truth_has_no_excess(video):
    row = row_of(benchmark([open_clip_set(video, 2)], [Known([moving(number) for number in range(12)])]))
    assert (row.psnr_y, row.ssim_y, row.excess_flicker) == (math.inf, pytest.approx(1), 0)
    assert row.flicker == row.true_flicker
    assert row.true_flicker < 3


@pytest.mark.parametrize("step", [4, 10])
def test_brightness_to_and_fro_is_as_much_excess(video, step):
    frames = [moving(number) for number in range(12)]
    known = Known(frames, lambda number, frame: (frame // 2 + 40 + step * (number % 2)).astype(np.uint8))
    row = row_of(benchmark([open_clip_set(video, 2)], [known]))
    steady = Known(frames, lambda number, frame: (frame // 2 + 40).astype(np.uint8))
    without = row_of(benchmark([open_clip_set(video, 2)], [steady]))
    assert row.excess_flicker == pytest.approx(np.hypot(step, without.excess_flicker), rel=0.05)
    assert row.flicker == pytest.approx(np.hypot(step, without.flicker), rel=0.05)


def test_nothing_is_compared_across_a_cut_or_with_itself(tmp_path):
    frames = [moving(0), moving(1), moving(1), moving(2, COFFEE), moving(3, COFFEE)]
    found = benchmark([open_clip_set(write_video(tmp_path / "c.mkv", frames), 2)], [Known(frames)])
    flicker = [entry.flicker for entry in found.measurements if entry.model == "bicubic"]
    assert [math.isnan(value) for value in flicker] == [True, False, True, True, False]


def test_a_flat_clip_has_frames_but_no_flicker(tmp_path):
    frames = [np.full((48, 64, 3), level, np.uint8) for level in (90, 91)]
    found = benchmark([open_clip_set(write_video(tmp_path / "c.mkv", frames), 2)], [])
    assert math.isnan(row_of(found, "bicubic").flicker)
    assert "Flicker" not in str(found)
    assert "2 frames" in str(found)


def test_windows_of_three_reach_the_method_that_wants_them(video):
    frames = [moving(number) for number in range(12)]
    watching = Watching(frames)
    watching.windows = []
    found = benchmark(
        [open_clip_set(video, 2, stretch=Stretch(end=Fraction("0.4")))], [watching, Known(frames, name="k")]
    )
    assert watching.windows == [[1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert row_of(found).psnr_y == math.inf
    assert (frames_of(watching), frames_of(Known(frames))) == (3, 1)


def test_a_network_of_three_frames(video):
    method = NetworkMethod(clip_network(3, 2))
    frames = [moving(number) for number in range(12)]
    around = np.stack([small_of(frame) for frame in frames[2:5]])
    np.testing.assert_allclose(method.of_window(around), clip_network_truth(around, 2), atol=1)
    alone = method(around[1])
    np.testing.assert_allclose(alone, around[1].repeat(2, axis=0).repeat(2, axis=1), atol=1)
    found = benchmark([open_clip_set(video, 2)], [method])
    assert "by-hand: looks at 3 frames of a clip; of a picture alone, at 3 copies" in found.notes
    each = [
        (clip_network_truth(np.stack([small_of(frames[place]) for place in window]), 2), frames[window[1]][:48])
        for window in [(1, 0, 1), *((number - 1, number, number + 1) for number in range(1, 11)), (10, 11, 10)]
    ]
    wanted = [peak_signal_noise_ratio(truth[2:-2, 2:-2], made[2:-2, 2:-2], data_range=255) for made, truth in each]
    assert row_of(found, "by-hand").psnr_rgb == pytest.approx(np.mean(wanted), abs=0.05)


def test_a_frame_that_a_method_fails_on_is_named(video):
    frames = [moving(number) for number in range(12)]
    found = benchmark([open_clip_set(video, 2)], [Known(frames, fails_on=(5,))])
    assert [(each.name, each.reason) for each in found.failures] == [
        ("clip.mkv/frame 5, 0:00.500 by known", "on command")
    ]
    assert row_of(found).pictures == 11
    nothing = [entry.picture for entry in found.measurements if entry.model == "known" and math.isnan(entry.flicker)]
    assert nothing == ["frame 0, 0:00.000", "frame 6, 0:00.600"]


def test_a_damaged_clip_is_judged_where_it_can_be(tmp_path):
    path = write_video(tmp_path / "c.mkv", [moving(number) for number in range(30)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found = benchmark([open_clip_set(path, 2)], [])
    assert 10 <= row_of(found, "bicubic").pictures < 30
    assert any(note.startswith("c.mkv: breaks off at 0:0") for note in found.notes)


def test_the_worst_frames_are_shown(video):
    frames = [moving(number) for number in range(12)]

    def planted(number, frame):
        output = frame.copy()
        if number == 7:
            output[20:30, 40:50] = 255 - output[20:30, 40:50]
        return output

    known = Known(frames, planted)
    clip = open_clip_set(video, 2)
    found = benchmark([clip], [known])
    shown = {each.picture: each for each in show_worst(found, [clip], [known], count=2)}
    crops = dict(shown["frame 7, 0:00.700"].crops)
    assert set(crops) == {"HR", "bicubic", "known"}
    assert crops["HR"].shape == (48, 48, 3)
    assert (crops["HR"] != crops["known"]).any(axis=2).sum() == 100
    assert "Worst frames of known" in report_html(found, shown=tuple(shown.values()))
    coded = open_clip_set(video, 2, reduction="h264-20")
    assert list(coded.only("frame 7, 0:00.700").moments([1])) == []
    assert show_worst(found, [coded], [known]) == ()


def test_figures_survive_being_written(video, tmp_path):
    found = benchmark([open_clip_set(video, 2)], [])
    found.save(tmp_path / "r.jsonl")
    read = Evaluation.load(tmp_path / "r.jsonl")
    assert read.rows == found.rows
    first = read.measurements[0]
    assert math.isnan(first.flicker)
    # Figures of a version that knew no clips.
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    old = [line.replace(', "unit": "frame"', "").replace('"true_flicker"', '"of_later"') for line in lines]
    assert old != lines
    (tmp_path / "old.jsonl").write_text("\n".join(old))
    row = Evaluation.load(tmp_path / "old.jsonl").rows[0]
    assert (row.unit, math.isnan(row.true_flicker)) == ("picture", True)


def test_clips_stand_beside_folders_of_pictures(video, tmp_path):
    folder = write_folder(tmp_path / "frames", [moving(0), moving(1)])
    (pictures,) = open_datasets([folder], 2)
    clip, other = open_datasets([video, folder], 2, as_clip=True)
    assert (len(pictures), len(clip), len(other)) == (2, 12, 2)
    assert [is_clip(path) for path in (video, folder, folder / "%03d.png", folder / "000.png")] == [
        True,
        False,
        True,
        False,
    ]
    found = evaluate_path([folder, video], ["bicubic"], stretch=Stretch(end=Fraction("0.3")))
    assert [(row.dataset, row.unit, row.pictures) for row in found.rows if row.model == "bicubic"] == [
        ("frames", "picture", 2),
        ("clip.mkv", "frame", 3),
    ]


def test_networks_for_video_are_judged_by_default_on_clips_alone(video, tmp_path, monkeypatch):
    models = [*judging.list_models(), clip_network(3, 2, name="moving-x2")]
    monkeypatch.setattr(judging, "list_models", lambda: models)
    folder = write_folder(tmp_path / "frames", [moving(0)])
    assert "moving-x2" not in shipped_models(open_datasets([folder], 2))
    assert {"moving-x2", "fast-x2"} <= set(shipped_models(open_datasets([folder, video], 2)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scale": 1}, UsageError, "at scale 1 LR would be HR itself; judge a clip at --scale 2 or more"),
        ({"scale": 17}, UsageError, "--scale 17 is outside 2 to 16"),
        ({"reduction": "motion"}, UsageError, "frames are made small by matlab-bicubic, or by h264-28 and the like"),
        ({"reduction": "h264-52"}, UsageError, "--lr h264-52: H.264 takes 0 \\(best\\) to 51, as in h264-28"),
        (
            {"stretch": Stretch(start=Fraction(9))},
            UsageError,
            "no frames in that stretch; they are shown from 0:00.000",
        ),
        ({"stretch": Stretch(start=Fraction(1), end=Fraction(1, 2))}, UsageError, "no frames in that stretch"),
    ],
)
def test_wishes_that_no_clip_fulfils(video, options, error, words):
    with pytest.raises(error, match=words):
        open_clip_set(video, **{"scale": 2, **options})


def test_stretches_without_sense(tmp_path):
    with pytest.raises(UsageError, match="--every 0 is under 1; 1 judges all frames, 10 each tenth"):
        Stretch(every=0)
    folder = write_folder(tmp_path / "frames", [moving(0)])
    with pytest.raises(UsageError, match="choose frames of a clip, and there is none; give a video, or --as-clip"):
        open_datasets([folder], 2, stretch=Stretch(every=2))


def test_files_that_are_no_clips(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match=r"empty\.mp4: is empty"):
        open_datasets([tmp_path / "empty.mp4"], 2)
    tiny = write_video(tmp_path / "tiny.mkv", [np.zeros((2, 64, 3), np.uint8)])
    with pytest.raises(SourceError, match=r"tiny\.mkv: 64 x 2 leaves nothing at scale 4"):
        open_clip_set(tiny, 4)
