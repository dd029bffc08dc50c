"""GIF, WebP and APNG animations in, GIF and WebP out; Pillow is the witness of what the files hold."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageSequence

from clips import add_audio, add_video, decoded, encode, make_clip, sound, times_of, yuv_frame
from superfine.clip import open_clip
from superfine.errors import SourceError, TooLargeError, UsageError
from superfine.footage import kind_of, open_footage, read_footage
from superfine.outputs import output_kind, segments_folder
from superfine.video import convert

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]

ROWS, COLS = 24, 36
DELAYS = [30, 100, 250, 70, 1000]


def nearest(window: Array) -> Array:
    return window[len(window) // 2].repeat(2, 0).repeat(2, 1)


def doubled(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * 2, size[1] * 2


def run(source: Path, output: Path, **named: Any) -> Any:
    return convert(source, output, nearest, doubled, **named)


def drawings(count: int = 5, *, clear: bool = False) -> list[Bytes]:
    """A disc that moves over a few flat colours; outside of it everything may be clear."""
    down, across = np.mgrid[:ROWS, :COLS]
    found = []
    for number in range(count):
        pixels = np.zeros((ROWS, COLS, 4), np.uint8)
        pixels[...] = (40, 90, 160, 0 if clear else 255)
        pixels[(down - 12) ** 2 + (across - 8 - 4 * number) ** 2 < 49] = (220, 30 + 9 * number, 60, 255)
        pixels[10:14, 4 * number + 6 : 4 * number + 10] = (255, 255, 255, 255)
        found.append(pixels)
    return found


def make_animation(path: Path, pictures: list[Bytes], delays: list[int], **named: Any) -> Path:
    first, *others = [Image.fromarray(pixels) for pixels in pictures]
    given: dict[str, Any] = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=delays, **{**given, **named})
    return path


def seen(path: Path) -> tuple[list[Bytes], list[int], int | None]:
    """Pillow's view: each picture as RGBA, its delay, the loop count as the file says it."""
    with Image.open(path) as image:
        pictures, delays = [], []
        for frame in ImageSequence.Iterator(image):
            pictures.append(np.asarray(frame.convert("RGBA")))
            delays.append(int(frame.info["duration"]))
        return pictures, delays, image.info.get("loop")


# ---- what is read


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_pictures_delays_and_alpha_are_read(tmp_path: Path, name: str, clear: bool) -> None:
    pictures = drawings(clear=clear)
    source = make_animation(tmp_path / name, pictures, DELAYS, loop=3, disposal=2 if name == "a.gif" else 1)
    assert kind_of(source) == "animation"
    clip = open_footage(source)
    assert (clip.kind, clip.size, clip.bits, clip.lossless) == ("animation", (ROWS, COLS), 8, True)
    if name != "a.png":
        assert clip.alpha == clear
    starts = np.cumsum([0, *DELAYS])
    assert [clip.timeline.at(number) for number in range(5)] == [Fraction(int(time), 1000) for time in starts[:5]]
    assert clip.timeline.duration == Fraction(sum(DELAYS), 1000)
    assert clip.loop == (4 if name == "a.gif" else 3)  # a GIF says how often it's shown again
    for frame, wanted in zip(read_footage(clip), pictures, strict=True):
        if clip.alpha:
            np.testing.assert_array_equal(frame.pixels[..., 3], wanted[..., 3])
        shown = wanted[..., 3] == 255
        np.testing.assert_array_equal(frame.pixels[..., :3][shown], wanted[..., :3][shown])
    for first in range(5):
        (alone,) = read_footage(clip, first, first + 1)
        np.testing.assert_array_equal(alone.pixels[..., :3][shown_of(pictures[first])], rgb_shown(pictures[first]))


def shown_of(pixels: Bytes) -> npt.NDArray[np.bool_]:
    return pixels[..., 3] == 255


def rgb_shown(pixels: Bytes) -> Bytes:
    return pixels[..., :3][shown_of(pixels)]


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_disposal_is_obeyed(tmp_path: Path, disposal: int) -> None:
    """Frames smaller than the canvas, laid over what the file says: Pillow must see the same."""
    pictures = drawings(6, clear=True)
    source = make_animation(tmp_path / "a.gif", pictures, [100] * 6, disposal=disposal)
    wanted, _, _ = seen(source)
    for frame, pixels in zip(read_footage(open_footage(source)), wanted, strict=True):
        shown = shown_of(pixels)
        np.testing.assert_array_equal(frame.pixels[..., 3] == 255, shown)
        np.testing.assert_array_equal(frame.pixels[..., :3][shown], rgb_shown(pixels))


def test_frames_without_delay_are_shown_as_players_do(tmp_path: Path) -> None:
    clip = open_footage(make_animation(tmp_path / "a.gif", drawings(), [10, 10, 20, 30, 10]))
    assert [clip.timeline.at(number) * 1000 for number in range(5)] == [0, 100, 200, 220, 250]
    assert clip.timeline.duration == Fraction(350, 1000)
    assert "3 frames without a delay are shown for a tenth of a second, as players do" in clip.notes


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_single_picture_is_no_animation(tmp_path: Path, name: str) -> None:
    Image.fromarray(drawings(1)[0]).save(tmp_path / name)
    assert kind_of(tmp_path / name) == ""


def test_what_a_source_is(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", 2)
    (tmp_path / "a.mp4").rename(tmp_path / "clip.png")
    (tmp_path / "b.mp4").write_text("this only calls itself mp4")
    (tmp_path / "b.txt").write_text("words and more words\n" * 100)
    Image.fromarray(drawings(1)[0][..., :3]).save(tmp_path / "c.jpg")
    Image.fromarray(drawings(1)[0]).save(tmp_path / "c.avif")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut.gif").write_bytes(b"GIF89a")
    kinds = {
        "clip.png": "video",
        "b.mp4": "video",
        "b.txt": "",
        "c.jpg": "",
        "c.avif": "",
        "empty": "",
        "cut.gif": "",
        "missing.mp4": "video",
        "missing.png": "",
        "missing_%04d.png": "frames",
        ".": "frames",
    }
    assert {name: kind_of(tmp_path / name) for name in kinds} == kinds


def test_what_an_output_is(tmp_path: Path) -> None:
    kinds = {
        "a.mp4": "video",
        "a.MKV": "video",
        "a.gif": "animation",
        "a.webp": "animation",
        "a": "frames",
        "a/%05d.png": "frames",
        ".": "frames",
        "a.png": "",
        "a.jpg": "",
        "a%d.mp4": "video",
    }
    assert {name: output_kind(tmp_path / name) for name in kinds} == kinds


def test_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_animation(tmp_path / "a.gif", drawings(), DELAYS)
    with pytest.raises(TooLargeError, match=r"frames of 36 x 24 are 0.0008.* raise it with --max-megapixels 1"):
        open_footage(source, max_megapixels=0.0001)
    with pytest.raises(UsageError, match=r"b.webp: 16384 x 16384 is more than WebP's 16383 pixels a side"):
        convert(source, tmp_path / "b.webp", nearest, lambda size: (16384, 16384))
    with pytest.raises(UsageError, match=r"b.gif: 5 frames of 2 x 2 are more than the 4 that .* --start and --end"):
        monkeypatch.setattr("superfine.outputs.LONGEST_PILE", 9)
        convert(source, tmp_path / "b.gif", nearest, lambda size: (2, 2))


def test_a_truncated_gif_says_where_it_breaks_off(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(number).integers(0, 256, (ROWS, COLS, 3), dtype=np.uint8) for number in range(5)]
    data = make_animation(tmp_path / "a.gif", pictures, DELAYS).read_bytes()
    cut = tmp_path / "cut.gif"
    cut.write_bytes(data[: len(data) * 7 // 10])
    clip = open_footage(cut)
    assert (len(clip.timeline), clip.broken) == (3, "breaks off at 0:00.380")
    with pytest.raises(SourceError, match="breaks off at 0:00.380; take what is there with --damaged repeat"):
        run(cut, tmp_path / "b.mp4")
    assert run(cut, tmp_path / "b.mp4", damaged="repeat").frames == 3
    cut.write_bytes(data[: len(data) // 8])
    with pytest.raises(SourceError, match="cut.gif: (damaged or cut off|breaks off before its first frame ends)"):
        open_footage(cut)


def test_a_truncated_webp_is_refused(tmp_path: Path) -> None:
    data = make_animation(tmp_path / "a.webp", drawings(), DELAYS).read_bytes()
    (tmp_path / "cut.webp").write_bytes(data[: len(data) * 7 // 10])
    with pytest.raises(SourceError, match="cut.webp: damaged or cut off"):
        open_footage(tmp_path / "cut.webp")
    with pytest.raises(SourceError, match="cut.webp: damaged or cut off"):
        run(tmp_path / "cut.webp", tmp_path / "b.mp4")


def test_a_webp_with_a_spoilt_frame_stops_or_repeats(tmp_path: Path) -> None:
    data = bytearray(make_animation(tmp_path / "a.webp", drawings(), DELAYS).read_bytes())
    places = [at for at in range(len(data)) if data[at : at + 4] == b"ANMF"]
    data[places[2] + 8 + 16 + 8 + 5 : places[2] + 8 + 16 + 8 + 25] = b"\xff" * 20
    (tmp_path / "bad.webp").write_bytes(data)
    with pytest.raises(SourceError, match=r"the frame at 0:00.130 can't be decoded"):
        run(tmp_path / "bad.webp", tmp_path / "b.mp4")
    done = run(tmp_path / "bad.webp", tmp_path / "b.webp", damaged="repeat")
    assert any("from 0:00.130 to 0:00.450 can't be decoded" in words for words in done.notes)
    _, delays, _ = seen(tmp_path / "b.webp")
    assert sum(delays) == sum(DELAYS)


# ---- what is written


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("target", ["b.gif", "b.webp"])
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_become_animations(tmp_path: Path, name: str, target: str, clear: bool) -> None:
    pictures = drawings(clear=clear)
    source = make_animation(tmp_path / name, pictures, DELAYS, loop=3, disposal=2 if name == "a.gif" else 1)
    done = run(source, tmp_path / target, segment_frames=2)
    made, delays, loop = seen(tmp_path / target)
    assert delays == DELAYS
    shown_times = 4 if name == "a.gif" else 3
    assert loop == (shown_times - 1 if target == "b.gif" else shown_times)
    for pixels, wanted in zip(made, pictures, strict=True):
        large = wanted.repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(shown_of(pixels), shown_of(large))
        np.testing.assert_array_equal(pixels[shown_of(large)], large[shown_of(large)])
    assert (done.frames, done.output) == (5, tmp_path / target)
    assert ("at most 256 colours a frame, as GIF has them" in done.notes) == (target == "b.gif")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("given", "stored"), [({"loop": 0}, 0), ({}, None), ({"loop": 1}, 1)])
def test_loops_of_gifs_are_kept(tmp_path: Path, given: dict[str, int], stored: int | None) -> None:
    run(make_animation(tmp_path / "a.gif", drawings(), DELAYS, **given), tmp_path / "b.gif")
    assert seen(tmp_path / "b.gif")[2] == stored == seen(tmp_path / "a.gif")[2]


def test_an_animation_becomes_a_video_and_says_what_is_lost(tmp_path: Path) -> None:
    source = make_animation(tmp_path / "a.gif", drawings(), DELAYS, loop=0)
    done = run(source, tmp_path / "b.mp4")
    assert times_of(tmp_path / "b.mp4") == [Fraction(time, 1000) for time in (0, 30, 130, 380, 450)]
    assert open_clip(done.output).timeline.duration == Fraction(145, 100)
    assert "is shown without end, which MP4 doesn't say; it is shown once" in done.notes
    done = run(source, tmp_path / "b.mkv", codec="ffv1")
    for frame, wanted in zip(decoded(tmp_path / "b.mkv"), drawings(), strict=True):
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24")[::2, ::2], wanted[..., :3])
    source = make_animation(tmp_path / "c.gif", drawings(clear=True), DELAYS, disposal=2)
    with pytest.raises(UsageError, match="has alpha, which h264 in MP4 can't hold"):
        run(source, tmp_path / "c.mp4")
    assert open_clip(run(source, tmp_path / "c.webm").output).alpha


def test_a_video_becomes_an_animation(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        video, audio = add_video(container, rate=30), add_audio(container)
        video.set_display_rotation(90)
        container.metadata["title"] = "A title"
        packets = list(sound(audio, 0.4))
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(12)))
        container.mux(packets)
    done = run(source, tmp_path / "b.gif")
    pictures, delays, loop = seen(tmp_path / "b.gif")
    assert (delays, loop) == ([30, 40, 30] * 4, 0)  # 1/30 s, rounded so that nothing adds up
    assert pictures[0].shape == (96, 64, 4)
    for words in (
        "times are rounded to hundredths of a second, as GIF holds them",
        "audio 1 (aac, eng) is left out: GIF can't hold it",
        "at most 256 colours a frame, as GIF has them",
        "metadata that GIF doesn't hold: title",
    ):
        assert any(words in note for note in done.notes), words
    done = run(source, tmp_path / "b.webp")
    pictures, delays, loop = seen(tmp_path / "b.webp")
    assert (delays, loop) == ([33, 34, 33] * 4, 0)
    for pixels, frame in zip(pictures, read_footage(open_footage(source)), strict=True):
        wanted = np.rot90(frame.pixels.repeat(2, 0).repeat(2, 1))
        assert np.abs(pixels[..., :3].astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("target", ["b.gif", "b.webp"])
def test_grey_frames_keep_their_levels(tmp_path: Path, target: str, deep: bool) -> None:
    source = tmp_path / "in"
    source.mkdir()
    ramp = (np.arange(256, dtype=np.uint8) // 2 * 2).reshape(16, 16)
    for number in range(3):
        moved = np.roll(ramp, number)
        tifffile.imwrite(source / f"{number}.tif", moved.astype(np.uint16) * 257 if deep else moved)
    done = run(source, tmp_path / target, rate=Fraction(10))
    assert ("16 bits a sample become 8 in" in " ".join(done.notes)) == deep
    for number, pixels in enumerate(seen(tmp_path / target)[0]):
        wanted = np.roll(ramp, number).repeat(2, 0).repeat(2, 1).astype(int)
        for channel in range(3):
            assert np.abs(pixels[..., channel] - wanted).max() <= (3 if target == "b.webp" and deep else 0)


def test_alpha_of_a_video_goes_into_webp(tmp_path: Path) -> None:
    alpha = np.tile(np.linspace(0, 255, COLS).astype(np.uint8), (ROWS, 1))
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = add_video(container, "qtrle", pixel_format="argb", size=(ROWS, COLS))
        pixels = np.dstack([alpha, np.full_like(alpha, 90), np.full_like(alpha, 200), np.full_like(alpha, 40)])
        encode(container, stream, [av.VideoFrame.from_ndarray(np.roll(pixels, n, 0), format="argb") for n in range(3)])
    run(tmp_path / "a.mov", tmp_path / "b.webp")
    for pixels in seen(tmp_path / "b.webp")[0]:
        np.testing.assert_array_equal(pixels[::2, ::2, 3], alpha)


@pytest.mark.parametrize("opaque", [(), (0,), (0, 1, 2, 3)])
@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png"])
def test_webp_says_that_there_is_alpha(tmp_path: Path, name: str, opaque: tuple[int, ...]) -> None:
    pictures = drawings(clear=True)
    for number in opaque:
        pictures[number][..., 3] = 255
    source = make_animation(tmp_path / name, pictures, DELAYS)
    before = seen(source)[0]
    run(source, tmp_path / "b.webp")
    with Image.open(tmp_path / "b.webp") as image:
        assert image.mode == "RGBA"
    for one, other in zip(seen(tmp_path / "b.webp")[0], before, strict=True):
        np.testing.assert_array_equal(one[::2, ::2, 3], other[..., 3])


def test_webp_says_that_there_is_alpha_around_opaque_pieces(tmp_path: Path) -> None:
    """libwebp stores what shows alone there, without alpha, and leaves the flag out."""
    pictures = drawings()
    for number, pixels in enumerate(pictures):
        pixels[..., 3] = 0
        pixels[4 + number : 16 + number, 4 + number : 16 + number, 3] = 255
    source = make_animation(tmp_path / "a.webp", pictures, DELAYS)
    run(source, tmp_path / "b.webp")
    with Image.open(tmp_path / "b.webp") as image:
        assert image.mode == "RGBA"
    for one, other in zip(seen(tmp_path / "b.webp")[0], pictures, strict=True):
        np.testing.assert_array_equal(one[::2, ::2, 3], other[..., 3])
    assert open_clip(run(source, tmp_path / "c.mkv").output).alpha
    assert open_footage(tmp_path / "b.webp").alpha


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("b.gif", "gif", "pal8"), ("b.webp", "webp", "argb"), ("b", "png", "rgba"), ("b.mkv", "ffv1", "bgra")],
)
def test_the_codec_is_that_of_the_output(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    done = run(make_animation(tmp_path / "a.webp", drawings(clear=True), DELAYS), tmp_path / name)
    assert (done.codec, done.pixel_format) == (codec, pixel_format)


def test_short_frames_are_said(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 6, rate=100)
    words = "6 frames are shown for less than 20 ms, and most players show those of GIF for 100 ms"
    assert words in run(source, tmp_path / "b.gif").notes
    assert seen(tmp_path / "b.gif")[1] == [10] * 6


def test_frames_that_are_alike_stay_so_many_in_gif(tmp_path: Path) -> None:
    pictures = [drawings()[number // 2] for number in range(8)]
    source = make_animation(tmp_path / "a.webp", pictures, [50] * 8)
    folder = tmp_path / "frames"
    convert(source, folder, nearest, doubled)
    count = len(list(folder.iterdir()))  # WebP's encoder made one of two
    done = run(folder, tmp_path / "b.gif", rate=Fraction(20))
    assert (done.frames, len(seen(tmp_path / "b.gif")[0])) == (count, count)
    alike = tmp_path / "alike"
    alike.mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(alike / f"{number}.png")
    run(alike, tmp_path / "c.gif", rate=Fraction(20))
    assert seen(tmp_path / "c.gif")[1] == [50] * 8
    run(alike, tmp_path / "c.webp", rate=Fraction(20))
    assert sum(seen(tmp_path / "c.webp")[1]) == 400


def test_a_killed_animation_goes_on(tmp_path: Path) -> None:
    source = make_animation(tmp_path / "a.gif", drawings(9), [50] * 9)
    whole = run(source, tmp_path / "whole.gif", segment_frames=2)
    left = iter(range(6))

    def dies(window: Array) -> Array:
        if next(left, None) is None:
            raise RuntimeError("killed")
        return nearest(window)

    output = tmp_path / "b.gif"
    with pytest.raises(RuntimeError, match="killed"):
        convert(source, output, dies, doubled, segment_frames=2)
    assert not output.exists()
    assert list(segments_folder(output).glob("*.mkv"))
    done = run(source, output, segment_frames=2)
    assert done.resumed >= 2
    assert output.read_bytes() == whole.output.read_bytes()


@pytest.mark.parametrize("named", [{"codec": "h264"}, {"crf": 20}])
def test_codecs_are_for_videos(tmp_path: Path, named: dict[str, Any]) -> None:
    source = make_animation(tmp_path / "a.gif", drawings(), DELAYS)
    with pytest.raises(
        UsageError, match=r"b.webp: --(codec h264|crf 20) is for video files \(.mp4 .m4v .mov .mkv .webm"
    ):
        run(source, tmp_path / "b.webp", **named)
