"""A clip by several methods in one clip: what stands where, under which name, at which time, with which sound."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from clips import add_audio, add_video, decoded, encode, hashes, rgb_frame, sound, times_of
from fakes import clip_network, clip_network_truth
from superfine.errors import ShapeError, SourceError, UsageError
from superfine.evaluate.listener import Listener
from superfine.evaluate.methods import NetworkMethod
from superfine.evaluate.side_by_side import Sheet, compare_clip, default_clip_models, lettering
from superfine.outputs import turned

ASTRONAUT = data.astronaut()


def moving(number, rows=40, cols=60):
    return np.ascontiguousarray(ASTRONAUT[60 + number : 60 + number + rows, 180 + number : 180 + number + cols])


def write_video(path, count=8, times=None, rotation=0, audio=False, turns=0):
    with av.open(str(path), "w") as container:
        shape = np.rot90(moving(0), turns).shape[:2]
        stream = add_video(
            container,
            "libx264rgb" if not audio else "libx264",
            size=shape,
            pixel_format="rgb24" if not audio else "yuv420p",
            time_base=Fraction(1, 1000),
            options={"crf": "0"},
            tags=None if not audio else (1, 1, 1, 1),
        )
        tone = add_audio(container) if audio else None
        if rotation:
            stream.set_display_rotation(rotation)
        times = times or [100 * number for number in range(count)]
        encode(container, stream, (rgb_frame(np.rot90(moving(number), turns)) for number in range(count)), times)
        if tone is not None:
            for packet in sound(tone, times[-1] / 1000):
                container.mux(packet)
    return path


def nearest(pixels):
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def shown(path, number):
    return decoded(path)[number].to_ndarray(format="rgb24")


# ---- the sheet


def test_letters_are_what_they_look_like():
    drawn = lettering("Lt.", 100)
    picture = ["".join("#" if dot else "." for dot in row) for row in drawn]
    assert picture == [
        "#.....#####.......",
        "#.......#.........",
        "#.......#.........",
        "#.......#.........",
        "#.......#.........",
        "#.......#....##...",
        "#####...#....##...",
    ]
    np.testing.assert_array_equal(lettering("Lt.", 100, 3), drawn.repeat(3, axis=0).repeat(3, axis=1))
    np.testing.assert_array_equal(lettering("Lt.", 8), drawn[:, :8])
    np.testing.assert_array_equal(lettering("\N{SNOWMAN}", 9), lettering("?", 9))


def test_no_two_letters_look_the_same():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_./+()=? "
    assert len({lettering(letter, 6).tobytes() for letter in letters}) == len(letters)


@pytest.mark.parametrize(
    ("count", "size", "columns"),
    [
        (2, (90, 160), 2),
        (3, (90, 160), 2),
        (4, (90, 160), 2),
        (5, (90, 160), 3),
        (9, (90, 160), 3),
        (2, (160, 90), 2),
        (3, (160, 90), 3),
        (2, (40, 400), 1),
    ],
)
def test_the_shape_of_the_sheet(count, size, columns):
    sheet = Sheet([f"m{number}" for number in range(count)], size)
    assert sheet.columns == columns
    assert len(set(sheet.places)) == count


def test_pictures_lie_in_their_places_under_their_names():
    pictures = [np.full((40, 60, 3), 50 + number, np.uint8) for number in range(5)]
    sheet = Sheet(["a", "b", "c", "d", "e"], (40, 60))
    whole = sheet.compose(pictures)
    assert whole.shape == (*sheet.size, 3)
    assert [side % 2 for side in sheet.size] == [0, 0]
    rest = np.ones(sheet.size, bool)
    for picture, (top, left), name in zip(pictures, sheet.places, "abcde", strict=True):
        np.testing.assert_array_equal(whole[top : top + 40, left : left + 60], picture)
        rest[top : top + 40, left : left + 60] = False
        ink = whole[top - 9 : top - 2, left + 2 : left + 8, 0] == 235
        np.testing.assert_array_equal(ink, lettering(name, 6))
        rest[top - 9 : top - 2, left + 2 : left + 8] = False
    assert (whole[rest] == 16).all()
    with pytest.raises(ShapeError, match=r"want pictures of \(40, 60, 3\), got \(41, 60, 3\)"):
        sheet.compose([*pictures[:4], np.zeros((41, 60, 3), np.uint8)])


# ---- the clip


def test_each_method_stands_beside_the_others(tmp_path):
    times = [0, 100, 250, 300, 420, 500, 650, 700]
    source = write_video(tmp_path / "clip.mkv", times=times)
    found = compare_clip(source, tmp_path / "both.mkv", ["nearest", "bicubic"])
    assert [method.name for method in found.methods] == ["nearest", "bicubic"]
    assert all(method.seconds > 0 for method in found.methods)
    assert (found.columns, found.frames) == (2, 8)
    assert times_of(found.output) == [Fraction(time, 1000) for time in times]
    sheet = Sheet(["nearest", "bicubic"], (80, 120))
    for number in (0, 5):
        frame = shown(found.output, number)
        bicubic = np.asarray(Image.fromarray(moving(number)).resize((120, 80), Image.Resampling.BICUBIC))
        for wanted, (top, left) in zip((nearest(moving(number)), bicubic), sheet.places, strict=True):
            cell = frame[top : top + 80, left : left + 120]
            assert peak_signal_noise_ratio(wanted[4:-4, 4:-4], cell[4:-4, 4:-4]) > 32


def test_sound_is_copied_and_a_stretch_is_taken(tmp_path):
    source = write_video(tmp_path / "clip.mp4", count=10, audio=True)
    whole = compare_clip(source, tmp_path / "whole.mp4", ["nearest", "bilinear"])
    assert hashes(whole.output, "audio") == hashes(source, "audio")
    part = compare_clip(
        source, tmp_path / "part.mp4", ["nearest", "bilinear"], start=Fraction("0.3"), end=Fraction("0.6")
    )
    assert (part.frames, len(decoded(part.output))) == (3, 3)
    sheet = Sheet(["nearest", "bilinear"], (80, 120))
    top, left = sheet.places[0]
    cell = shown(part.output, 0)[top : top + 80, left : left + 120]
    assert peak_signal_noise_ratio(nearest(moving(3)), cell) > 25


def test_windows_of_three_and_single_frames_together(tmp_path):
    source = write_video(tmp_path / "clip.mkv")
    found = compare_clip(
        source, tmp_path / "both.mkv", ["nearest", NetworkMethod(clip_network(3, 2, name="moving-x2"))]
    )
    top, left = Sheet(["nearest", "moving-x2"], (80, 120)).places[1]
    cell = shown(found.output, 4)[top : top + 80, left : left + 120].astype(np.float64)
    right = clip_network_truth(np.stack([moving(number) for number in (3, 4, 5)]))
    alone = nearest(moving(4)).astype(np.float64)
    assert peak_signal_noise_ratio(right, cell, data_range=255) > 33
    assert peak_signal_noise_ratio(alone, cell, data_range=255) < 30


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_names_are_upright_where_the_clip_is_turned(tmp_path, rotation):
    source = write_video(tmp_path / "clip.mp4", rotation=rotation, turns=-rotation // 90, audio=True)
    output = tmp_path / "both.mp4"
    compare_clip(source, output, ["nearest", "bilinear"])
    from superfine.clip import open_clip

    upright = turned(shown(output, 0), open_clip(output).display_matrix)
    sheet = Sheet(["nearest", "bilinear"], (80, 120))
    (top, left), _ = sheet.places
    assert peak_signal_noise_ratio(nearest(moving(0)), upright[top : top + 80, left : left + 120]) > 25
    ink = upright[top - 9 : top - 2, left + 2 : left + 44, 1] > 125
    assert (ink == lettering("nearest", 42)).mean() > 0.95


def test_a_folder_of_grey_frames_of_16_bits(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        grey = moving(number)[..., 1].astype(np.uint16) * 257
        Image.fromarray(grey).save(folder / f"{number}.png")
    found = compare_clip(folder, tmp_path / "both.mkv", ["nearest", "bilinear"])
    top, left = Sheet(["nearest", "bilinear"], (80, 120)).places[0]
    cell = shown(found.output, 1)[top : top + 80, left : left + 120, 0]
    assert peak_signal_noise_ratio(nearest(moving(1)[..., 1]), cell) > 30


def test_progress_is_heard_frame_by_frame(tmp_path):
    class Counting(Listener):
        steps, taken = 0, 0

        def begin(self, steps):
            self.steps = steps

        def step(self, picture, model):
            self.taken += 1

    counting = Counting()
    compare_clip(write_video(tmp_path / "c.mkv"), tmp_path / "o.mkv", ["nearest", "bilinear"], listener=counting)
    assert (counting.steps, counting.taken) == (8, 8)


def test_what_is_compared_by_default():
    assert default_clip_models(2)[:3] == ("bicubic", "fast", "best")
    assert default_clip_models(5) == ("bicubic", "nearest")


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        (["nearest"], {}, "one method has nothing to stand beside"),
        (["nearest", "nearest"], {}, "nearest is there twice"),
        (["nearest", "fast"], {"scale": 40}, "--scale 40 is over 16"),
        (["nearest", "adapt-known"], {}, "adapt-known has to be told the kernel"),
        (["nearest", "bilinear"], {"start": Fraction(50)}, "no frames in that stretch"),
    ],
)
def test_wishes_without_sense(tmp_path, models, options, words):
    source = write_video(tmp_path / "clip.mkv", count=2)
    with pytest.raises(UsageError, match=words):
        compare_clip(source, tmp_path / "both.mkv", models, **options)
    assert not (tmp_path / "both.mkv").exists()


def test_a_sheet_that_no_encoder_takes(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(np.zeros((16, 1100, 3), np.uint8)).save(folder / "0.png")
    with pytest.raises(UsageError, match=r"2 clips of 17600 x 256 make 17600 x \d+, over 16384 a side; give fewer"):
        compare_clip(folder, tmp_path / "both.mkv", ["nearest", "bilinear"], scale=16)


def test_a_file_that_is_no_clip(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing of a film")
    with pytest.raises(SourceError, match=r"a\.mp4: isn't a video"):
        compare_clip(tmp_path / "a.mp4", tmp_path / "o.mkv", ["nearest", "bilinear"])
