"""Folders of frames in and out; Pillow, tifffile and PyAV are the witnesses."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageCms

from clips import COLS, ROWS, add_video, decoded, encode, make_clip, times_of, yuv_frame
from superfine.clip import open_clip
from superfine.errors import OutputError, SourceError, TooLargeError, UsageError
from superfine.footage import open_footage, read_footage
from superfine.outputs import segments_folder, turned
from superfine.video import convert

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


def stored(path: Path) -> Array:
    with Image.open(path) as opened:
        return np.asarray(opened)


def nearest(window: Array) -> Array:
    return window[len(window) // 2].repeat(2, 0).repeat(2, 1)


def doubled(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * 2, size[1] * 2


def run(source: Path, output: Path, **named: Any) -> Any:
    return convert(source, output, nearest, doubled, **named)


def picture(number: int, rows: int = ROWS, cols: int = COLS, channels: int = 3) -> Bytes:
    return np.random.default_rng(number).integers(0, 256, (rows, cols, channels), dtype=np.uint8)


def folder_of(folder: Path, names: list[str], **named: Any) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(picture(number, **named).squeeze()).save(folder / name)
    return folder


# ---- what is read


def test_frames_come_in_natural_order_at_their_rate(tmp_path: Path) -> None:
    names = [f"shot 1 take {number}.png" for number in (1, 2, 3, 9, 10, 11, 100)]
    source = folder_of(tmp_path / "in", names)
    (source / "notes.txt").write_text("not a frame")
    (source / ".hidden.png").write_bytes(b"")
    clip = open_footage(source, rate=Fraction(24000, 1001))
    assert [path.name for path in clip.files] == names
    assert (clip.kind, clip.shape, clip.codec, clip.lossless) == ("frames", (ROWS, COLS, 3), "png", True)
    assert clip.timeline.rate == Fraction(24000, 1001)
    frames = list(read_footage(clip))
    assert [frame.time for frame in frames] == [number * Fraction(1001, 24000) for number in range(7)]
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.pixels, picture(number))
    (alone,) = read_footage(clip, 4, 5)
    np.testing.assert_array_equal(alone.pixels, picture(4))
    assert open_footage(source).timeline.rate == 25


def test_a_pattern_takes_what_fits_it(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a_0001.png", "a_0002.png", "a_12345.png", "b_0001.png", "a_01.png"])
    assert [path.name for path in open_footage(source / "a_%04d.png").files] == [
        "a_0001.png",
        "a_0002.png",
        "a_12345.png",
    ]
    assert len(open_footage(source / "a_%d.png").files) == 4
    with pytest.raises(SourceError, match=r"c_%04d.png: no file has such a name; superfine reads"):
        open_footage(source / "c_%04d.png")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([1, 2, 3, 4], None),
        ([10, 20, 30, 40], None),
        ([1, 2, 5, 6, 7, 9], "numbers missing among the frames: 3 to 4, 8; what is there is shown without a gap"),
        ([0, 2, 4, 8, 10], "numbers missing among the frames: 6; what is there is shown without a gap"),
        (
            [*range(1, 30), 31, 33, 35, 37, 39, 41, 43],
            "numbers missing among the frames: 30, 32, 34, 36, 38 and 2 more gaps;",
        ),
    ],
)
def test_gaps_are_named(tmp_path: Path, numbers: list[int], words: str | None) -> None:
    source = folder_of(tmp_path / "in", [f"f{number:05}.png" for number in numbers], rows=2, cols=2)
    notes = open_footage(source).notes
    assert len(notes) == (1 if words else 0)
    assert all(note.startswith(str(words)) for note in notes)


def test_names_without_order_have_no_gaps(tmp_path: Path) -> None:
    assert open_footage(folder_of(tmp_path / "in", ["a.png", "b7.png", "c2.png", "d90.png"])).notes == ()


def test_mixed_sizes_are_refused_by_name(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["1.png", "2.png"])
    Image.fromarray(picture(0, 20, 30)).save(source / "3.png")
    with pytest.raises(
        SourceError, match=r"3.png: is 30 x 20, and 1.png is 48 x 32; the frames of a clip have one size"
    ):
        open_footage(source)


def test_mixed_kinds_become_one(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    grey = np.arange(ROWS * COLS, dtype=np.uint16).reshape(ROWS, COLS) * 40
    tifffile.imwrite(source / "1.tif", grey)
    Image.fromarray(picture(1)).save(source / "2.png")
    Image.fromarray(picture(2, channels=4)).save(source / "3.png")
    clip = open_footage(source)
    assert (clip.shape, clip.dtype, clip.alpha, clip.codec) == ((ROWS, COLS, 4), np.uint16, True, "png")
    assert set(clip.notes) == {
        "frames of 8 and of 16 bits; all become 16",
        "some of the frames have alpha; the others count as opaque",
    }
    one, two, three = (frame.pixels for frame in read_footage(clip))
    for channel in range(3):
        np.testing.assert_array_equal(one[..., channel], grey)
    np.testing.assert_array_equal(two[..., :3], picture(1).astype(int) * 257)
    np.testing.assert_array_equal(three, picture(2, channels=4).astype(int) * 257)
    assert one[..., 3].min() == two[..., 3].min() == 65535


def test_turned_photos_come_upright(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(2):
        Image.fromarray(picture(number)).save(source / f"{number}.png", exif=exif)
    clip = open_footage(source)
    assert clip.size == (COLS, ROWS)
    for number, frame in enumerate(read_footage(clip)):
        np.testing.assert_array_equal(frame.pixels, np.rot90(picture(number), -1))


@pytest.mark.parametrize("rate", [0, -5])
def test_a_rate_is_more_than_nothing(tmp_path: Path, rate: int) -> None:
    with pytest.raises(UsageError, match=f"--rate {rate}: frames a second are more than 0"):
        open_footage(folder_of(tmp_path / "in", ["1.png"]), rate=Fraction(rate))


def test_folders_that_are_no_clips_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: there is no picture in the folder; superfine reads"):
        open_footage(tmp_path / "empty")
    source = folder_of(tmp_path / "in", ["1.png"])
    tifffile.imwrite(source / "2.tif", np.zeros((ROWS, COLS, 3), np.float32), photometric="rgb")
    with pytest.raises(SourceError, match="2.tif: its samples are float; a clip holds 8 or 16 bits"):
        open_footage(source)
    with pytest.raises(TooLargeError, match="over the limit of 0.001; raise it with --max-megapixels 1"):
        open_footage(source, max_megapixels=0.001)
    video = make_clip(tmp_path / "a.mp4", 2)
    with pytest.raises(UsageError, match="says itself when its frames are shown; --rate is for folders of frames"):
        open_footage(video, rate=Fraction(24))


# ---- what is written


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_folder_becomes_a_folder_with_the_same_names_and_bits(tmp_path: Path, deep: bool, channels: int) -> None:
    source = tmp_path / "in"
    source.mkdir()
    levels = []
    for number in range(4):
        pixels = (
            picture(number, channels=channels).astype(np.uint16) * 257 + 3
            if deep
            else picture(number, channels=channels)
        )
        levels.append(pixels)
        tifffile.imwrite(
            source / f"f_{number + 8}.tif",
            pixels.squeeze(),
            photometric="minisblack" if channels == 1 else "rgb",
            extrasamples=["unassalpha"] if channels == 4 else None,
        )
    done = run(source, tmp_path / "out")
    names = ["f_8.png", "f_9.png", "f_10.png", "f_11.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert (done.output, done.frames, done.codec) == (tmp_path / "out", 4, "png")
    assert "TIF frames become PNG" in done.notes
    made = open_footage(tmp_path / "out")
    assert (made.shape, made.bits) == ((2 * ROWS, 2 * COLS, channels), 16 if deep else 8)
    assert [path.name for path in made.files] == names
    for frame, pixels in zip(read_footage(made), levels, strict=True):
        np.testing.assert_array_equal(frame.pixels, pixels.repeat(2, 0).repeat(2, 1))
    if not deep:
        for name, pixels in zip(names, levels, strict=True):
            with Image.open(tmp_path / "out" / name) as opened:
                np.testing.assert_array_equal(np.asarray(opened), pixels.repeat(2, 0).repeat(2, 1).squeeze())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_the_pictures_say_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for number in range(2):
        Image.fromarray(picture(number)).save(source / f"{number}.png", icc_profile=profile, dpi=(100, 100))
    run(source, tmp_path / "out")
    with Image.open(tmp_path / "out" / "1.png") as made:
        assert made.info["icc_profile"] == profile
        assert made.info["dpi"] == pytest.approx((200, 200), rel=0.01)
    done = run(source, tmp_path / "b.mp4")
    assert "the colour profile isn't kept: MP4 holds none; colours are tagged as sRGB" in done.notes


def test_a_pattern_numbers_anew(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["x7.png", "x8.png", "x10.png"])
    done = run(source, tmp_path / "out" / "new_%03d.png", start=Fraction(1, 25))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["new_001.png", "new_002.png"]
    assert (done.frames, done.output) == (2, tmp_path / "out")
    np.testing.assert_array_equal(stored(tmp_path / "out" / "new_001.png")[::2, ::2], picture(1))


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_a_video_becomes_a_folder_turned_as_it_is_seen(tmp_path: Path, rotation: int) -> None:
    import av

    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = add_video(container)
        if rotation:
            stream.set_display_rotation(rotation)
        encode(container, stream, [yuv_frame(number, "yuv420p") for number in range(5)])
    done = run(source, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{number:06}.png" for number in range(1, 6)]
    assert "25 frames a second; PNG frames don't say when they are shown" in done.notes
    clip = open_clip(source)
    assert clip.rotation == rotation or (clip.rotation, rotation) == (-180, 180)
    for name, frame in zip(names, read_footage(clip), strict=True):
        wanted = np.rot90(frame.pixels.repeat(2, 0).repeat(2, 1), rotation // 90)
        with Image.open(tmp_path / "out" / name) as made:
            np.testing.assert_array_equal(np.asarray(made), wanted)


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((), [[1, 2, 3], [4, 5, 6]]),
        ((1, 0, 0, 0, 1), [[1, 2, 3], [4, 5, 6]]),
        ((-1, 0, 0, 0, 1), [[3, 2, 1], [6, 5, 4]]),
        ((1, 0, 0, 0, -1), [[4, 5, 6], [1, 2, 3]]),
        ((-1, 0, 0, 0, -1), [[6, 5, 4], [3, 2, 1]]),
        # x' = c y, y' = b x: a quarter clockwise sends up to the right, left to up.
        ((0, 1, 0, -1, 0), [[4, 1], [5, 2], [6, 3]]),
        ((0, -1, 0, 1, 0), [[3, 6], [2, 5], [1, 4]]),
        ((0, 1, 0, 1, 0), [[1, 4], [2, 5], [3, 6]]),
        ((1, 1, 0, -1, 1), [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_matrices_turn_and_mirror(matrix: tuple[int, ...], wanted: list[list[int]]) -> None:
    given = tuple(65536 * number for number in matrix) + (0,) * (9 - len(matrix) if matrix else 0)
    pixels = np.arange(1, 7, dtype=np.uint8).reshape(2, 3, 1)
    assert turned(pixels, given)[..., 0].tolist() == wanted


def test_a_folder_becomes_a_video(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [f"{number}.png" for number in range(7)])
    done = run(source, tmp_path / "b.mp4", rate=Fraction(30000, 1001), crf=1)
    assert times_of(tmp_path / "b.mp4") == [number * Fraction(1001, 30000) for number in range(7)]
    made = open_clip(done.output)
    assert (made.colour.matrix, made.colour.full, made.colour.primaries, made.colour.transfer) == (1, False, 1, 13)
    done = run(source, tmp_path / "b.mkv", codec="ffv1")
    for number, frame in enumerate(decoded(tmp_path / "b.mkv")):
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24")[::2, ::2], picture(number))


def test_sixteen_bits_become_ten_and_it_is_said(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for number in range(2):
        tifffile.imwrite(source / f"{number}.tif", np.dstack([ramp] * 3), photometric="rgb")
    done = run(source, tmp_path / "b.mp4")
    assert (done.codec, done.pixel_format) == ("h265", "yuv444p10le")
    assert "16 bits a sample become 10 in h265" in done.notes


# ---- damage


def test_a_damaged_frame_is_named_or_repeated(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [f"{number}.png" for number in range(6)])
    for number in (0, 3):
        data = bytearray((source / f"{number}.png").read_bytes())
        data[len(data) // 2] ^= 255
        (source / f"{number}.png").write_bytes(data)
    with pytest.raises(SourceError, match=r"in: the frame at 0:00.000 can't be decoded \(.*0.png: damaged or cut off"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not segments_folder(tmp_path / "out").exists()
    done = run(source, tmp_path / "out", damaged="repeat")
    assert any(words.startswith("the frame at 0:00.120 can't be decoded (") for words in done.notes)
    shown = [stored(tmp_path / "out" / f"{number}.png")[::2, ::2] for number in range(6)]
    for number, stands_in in enumerate([1, 1, 2, 2, 4, 5]):
        np.testing.assert_array_equal(shown[number], picture(stands_in))
    frames = list(read_footage(open_footage(source), 3, 5, damaged="repeat"))
    assert [frame.repeated for frame in frames] == [True, False]
    np.testing.assert_array_equal(frames[0].pixels, picture(2))


# ---- where to


def test_folders_in_use_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["1.png", "2.png"])
    with pytest.raises(UsageError, match="in: the output is the source itself"):
        run(source, source)
    with pytest.raises(UsageError, match="in: the output is the folder of the source itself"):
        run(source, source / "new_%d.png")
    other = folder_of(tmp_path / "other", ["1.png", "x.png"])
    with pytest.raises(
        UsageError, match=r"other: holds something else already \(x.png\); frames want a folder of their"
    ):
        run(source, other)
    assert sorted(path.name for path in other.iterdir()) == ["1.png", "x.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file: is a file, and frames need a folder"):
        run(source, tmp_path / "file")
    with pytest.raises(UsageError, match="%d.tif: frames are written as PNG; choose a name such as %06d.png"):
        run(source, tmp_path / "out" / "%d.tif")
    with pytest.raises(UsageError, match=r"--crf 3 is for video files \(.mp4"):
        run(source, tmp_path / "out", crf=3)
    Image.fromarray(picture(9)).save(source / "1.webp")
    with pytest.raises(UsageError, match=r"1.webp: it and 1.png would both become 1.png; number the frames anew"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_of_the_same_names_are_replaced(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["1.png", "2.png"])
    other = folder_of(tmp_path / "other", ["1.png"])
    run(source, other)
    assert sorted(path.name for path in other.iterdir()) == ["1.png", "2.png"]
    assert open_footage(other).size == (2 * ROWS, 2 * COLS)


KILLED = """
import os, signal, sys
from pathlib import Path
from superfine.video import convert
calls = 0
def enlarge(window):
    global calls
    calls += 1
    if calls == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return window[1].repeat(2, 0).repeat(2, 1)
convert(Path(sys.argv[1]), Path(sys.argv[2]), enlarge, lambda size: (2 * size[0], 2 * size[1]), frames=3)
"""


def test_a_killed_run_goes_on_at_the_frame(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [f"{number}.png" for number in range(9)])
    output = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), str(output)], check=False)
    assert killed.returncode == -9
    assert not output.exists()
    written = len(list(segments_folder(output).glob("*.png")))
    assert 2 <= written <= 5
    done = run(source, output, frames=3)
    assert written - 1 <= done.resumed <= written  # the last may not have been noted yet
    assert done.computed == 9 - done.resumed
    assert len(list(output.iterdir())) == 9
    for number in range(9):
        np.testing.assert_array_equal(stored(output / f"{number}.png")[::2, ::2], picture(number))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_frame_of_an_earlier_run_is_made_again(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [f"{number}.png" for number in range(9)])
    output = tmp_path / "out"
    left = iter(range(7))

    def dies(window: Array) -> Array:
        if next(left, None) is None:
            raise RuntimeError("killed")
        return nearest(window)

    with pytest.raises(RuntimeError, match="killed"):
        convert(source, output, dies, doubled)
    written = len(list(segments_folder(output).glob("*.png")))
    (segments_folder(output) / "0.png").write_bytes(b"")
    done = convert(source, output, nearest, doubled)
    assert 2 <= written <= 7
    assert (done.resumed, done.computed) == (written - 1, 10 - written)
    assert sorted(path.name for path in output.iterdir()) == [f"{number}.png" for number in range(9)]
    np.testing.assert_array_equal(stored(output / "0.png")[::2, ::2], picture(0))


def test_resumed_duplicates_are_made_of_their_first(tmp_path: Path) -> None:
    """What a duplicate shows doesn't depend on where a run broke off, though its own neighbours are others."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(30):
        shown = number if number < 3 else 3 if number < 20 else number
        Image.fromarray(picture(shown, 4, 6)).save(source / f"{number:02}.png")

    def mean(window: Array) -> Array:
        return np.rint(window.astype(float).mean(0)).astype(np.uint8).repeat(2, 0).repeat(2, 1)

    whole = convert(source, tmp_path / "whole", mean, doubled, frames=3)
    assert whole.computed == 14
    left = iter(range(4))

    def dies(window: Array) -> Array:
        if next(left, None) is None:
            raise RuntimeError("killed")
        return mean(window)

    with pytest.raises(RuntimeError, match="killed"):
        convert(source, tmp_path / "out", dies, doubled, frames=3)
    for path in sorted(segments_folder(tmp_path / "out").glob("*.png"))[9:]:
        path.unlink()
    done = convert(source, tmp_path / "out", mean, doubled, frames=3)
    assert (done.resumed, done.computed) == (9, 11)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_two_runs_on_one_output_are_locked_out(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["1.png", "2.png"])
    output = tmp_path / "out"
    said: list[str] = []

    def meanwhile(window: Array) -> Array:
        with pytest.raises(OutputError) as second:
            run(source, output)
        said.append(str(second.value))
        return nearest(window)

    convert(source, output, meanwhile, doubled)
    assert (
        said
        == [f"{output}: another process is writing it at this moment; wait for it, or choose another name with -o"] * 2
    )
    assert len(list(output.iterdir())) == 2
    run(source, output)
