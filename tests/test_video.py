"""Video: every frame, every stream; clips are made here, and PyAV alone is the witness of what comes out."""

import resource
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clips import (
    COLS,
    ROWS,
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
    wave,
    yuv_frame,
)
from superfine.clip import open_clip, shown_time
from superfine.errors import OutputError, ShapeError, SourceError, TooLargeError, UsageError
from superfine.footage import open_footage
from superfine.frames import read_frames
from superfine.outputs import segments_folder
from superfine.video import convert

Array = npt.NDArray[np.generic]


def nearest(window: Array) -> Array:
    middle: Array = window[len(window) // 2]
    return middle.repeat(2, 0).repeat(2, 1)


def doubled(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * 2, size[1] * 2


def same(window: Array) -> Array:
    middle: Array = window[len(window) // 2]
    return middle


def run(source: Path, output: Path, **named: Any) -> Any:
    return convert(source, output, nearest, doubled, **named)


# ---- frames and times


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("b_frames.mp4", {"options": {"bf": "2", "preset": "medium"}}),
        ("ntsc.mp4", {"rate": Fraction(30000, 1001)}),
        ("film.mkv", {"rate": Fraction(24000, 1001)}),
        (
            "vfr.mp4",
            {"time_base": Fraction(1, 1000), "times": [0, 40, 41, 120, 121, 300, 310, 333, 900, 1000, 1040, 1500]},
        ),
        ("late.mp4", {"times": [25 + number for number in range(12)]}),
        ("lossless.mkv", {"codec": "ffv1"}),
        ("old.avi", {"codec": "mpeg4"}),
        ("stream.ts", {"options": {"bf": "2", "preset": "medium"}}),
        ("web.webm", {"codec": "libvpx-vp9"}),
        ("web8.webm", {"codec": "libvpx"}),
        ("next.mp4", {"codec": "libsvtav1", "size": (64, 64), "options": {"preset": "12"}}),
    ],
)
def test_every_frame_keeps_its_time(tmp_path: Path, name: str, named: dict[str, Any]) -> None:
    source = make_clip(tmp_path / name, 12, **named)
    suffix = source.suffix if source.suffix in (".mp4", ".mkv", ".webm") else ".mp4"
    output = tmp_path / f"out{suffix}"
    done = run(source, output, segment_frames=5)
    assert done.frames == 12
    assert times_of(output) == times_of(source)
    assert len(decoded(output)) == 12
    assert [frame.pts for frame in decoded(output)] == sorted(frame.pts for frame in decoded(output))
    assert open_clip(output).timeline.duration == done.duration


def test_the_file_says_the_pictures_and_their_order(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 12, "ffv1", pixel_format="yuv444p")
    output = tmp_path / "b.mkv"
    convert(source, output, same, lambda size: size, codec="ffv1", segment_frames=5)
    for before, after in zip(decoded(source), decoded(output), strict=True):
        for one, other in zip(stored_planes(before), stored_planes(after), strict=True):
            np.testing.assert_array_equal(one, other)


def test_every_frame_can_be_begun_with(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 24, options={"preset": "medium", "g": "7", "bf": "2"})
    clip = open_clip(source)
    whole = [frame.pixels for frame in read_frames(clip)]
    for first in range(24):
        (frame,) = read_frames(clip, first, first + 1)
        assert (frame.number, frame.time) == (first, Fraction(first, 25))
        np.testing.assert_array_equal(frame.pixels, whole[first])


def test_a_stretch_begins_at_zero_and_cuts_the_sound(tmp_path: Path) -> None:
    source = sounding(tmp_path / "a.mp4", count=50)
    output = tmp_path / "b.mp4"
    done = run(source, output, start=Fraction(3, 10), end=Fraction(13, 10), segment_frames=10)
    assert times_of(output) == [Fraction(number, 25) for number in range(25)]
    assert (done.frames, done.duration) == (25, 1)
    kept, whole = hashes(output, "audio")[0], hashes(source, "audio")[0]
    assert 46 <= len(kept) <= 48
    begin = whole.index(kept[0])
    assert kept == whole[begin : begin + len(kept)]


@pytest.mark.parametrize(("start", "end"), [(5, None), (None, -1), (Fraction(1, 10), Fraction(1, 10))])
def test_a_stretch_without_frames_is_refused(tmp_path: Path, start: Any, end: Any) -> None:
    source = make_clip(tmp_path / "a.mp4", 5)
    with pytest.raises(UsageError, match="no frames in that stretch; they are shown from 0:00.000 to 0:00.160"):
        run(source, tmp_path / "b.mp4", start=start, end=end)


def test_moments_are_shown_as_people_read_them() -> None:
    assert [shown_time(Fraction(value)) for value in ("0", "61.5", "3723.0004", "-0.25")] == [
        "0:00.000",
        "1:01.500",
        "1:02:03.000",
        "-0:00.250",
    ]


# ---- colour

MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def by_formula(frame: Any, matrix: int, *, full: bool) -> npt.NDArray[np.float64]:
    """Y'CbCr 4:4:4 -> R'G'B' in 0..1. Source: ITU-R BT.601, 709, 2020."""
    red, blue = MATRICES[matrix]
    bits = frame.format.components[0].bits
    step = 2 ** (bits - 8)
    luma, first, second = (plane.astype(float) for plane in stored_planes(frame))
    if full:
        luma, first, second = luma / (2**bits - 1), *((c - 128 * step) / (2**bits - 1) for c in (first, second))
    else:
        luma, first, second = (
            (luma - 16 * step) / (219 * step),
            *((c - 128 * step) / (224 * step) for c in (first, second)),
        )
    r, b = luma + 2 * (1 - red) * second, luma + 2 * (1 - blue) * first
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1), 0, 1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", sorted(MATRICES))
def test_the_tagged_matrix_and_range_are_used_and_kept(tmp_path: Path, matrix: int, full: bool) -> None:
    tags = (matrix, 2 if full else 1, 9, 16)
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1", pixel_format="yuv444p", tags=tags)
    clip = open_clip(source)
    assert (clip.colour.matrix, clip.colour.full, clip.colour.primaries, clip.colour.transfer) == (matrix, full, 9, 16)
    assert clip.notes == ()
    for frame, stored in zip(read_frames(clip), decoded(source), strict=True):
        wanted = by_formula(stored, matrix, full=full)
        assert frame.pixels.dtype == np.uint8
        assert np.abs(frame.pixels / 255 - wanted).max() < 0.52 / 255
    output = tmp_path / "b.mkv"
    run(source, output, codec="ffv1")
    assert open_clip(output).colour == clip.colour
    for before, after in zip(decoded(source), decoded(output), strict=True):
        for one, other in zip(stored_planes(before), stored_planes(after), strict=True):
            assert np.abs(other[::2, ::2].astype(int) - one.astype(int)).max() <= 1


@pytest.mark.parametrize(("rows", "matrix"), [(576, 6), (578, 1)])
def test_an_untagged_clip_is_taken_for_what_its_height_says_and_the_output_is_tagged(
    tmp_path: Path, rows: int, matrix: int
) -> None:
    source = make_clip(tmp_path / "a.mp4", 2, "mpeg4", size=(rows, 32))
    clip = open_clip(source)
    assert clip.colour.matrix == matrix
    named = {6: "BT.601", 1: "BT.709"}[matrix]
    words = f"no colour matrix in the file; taken for {named} by its height of {rows}"
    assert words in clip.notes
    done = convert(source, tmp_path / "b.mp4", same, lambda size: size)
    assert words in done.notes
    made = open_clip(tmp_path / "b.mp4")
    assert (made.colour.matrix, made.colour.full, made.notes) == (matrix, False, ())


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 4, "ffv1", pixel_format="yuv444p10le", tags=(9, 1, 9, 16))
    clip = open_clip(source)
    assert (clip.bits, clip.dtype) == (10, np.uint16)
    for frame, stored in zip(read_frames(clip), decoded(source), strict=True):
        assert np.abs(frame.pixels / 65535 - by_formula(stored, 9, full=False)).max() < 0.004
    run(source, tmp_path / "b.mkv", codec="ffv1")
    for before, after in zip(decoded(source), decoded(tmp_path / "b.mkv"), strict=True):
        assert after.format.name == "yuv444p10le"
        for one, other in zip(stored_planes(before), stored_planes(after), strict=True):
            assert np.abs(other[::2, ::2].astype(int) - one.astype(int)).max() <= 1


def test_ten_bits_go_to_h265_and_fewer_are_said(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1", pixel_format="yuv420p10le", size=(64, 64))
    done = run(source, tmp_path / "b.mp4")
    assert (done.codec, done.pixel_format) == ("h265", "yuv420p10le")
    assert decoded(tmp_path / "b.mp4")[0].format.name == "yuv420p10le"
    done = run(source, tmp_path / "b.webm", codec="vp9")
    assert (done.pixel_format, "10 bits a sample become 8 in vp9" in done.notes) == ("yuv420p", True)


def test_chroma_stays_where_it_is(tmp_path: Path) -> None:
    """4:2:0 chroma lies on the left column: a ramp comes back as the same ramp, at twice the size too."""
    ramp = np.tile(np.arange(COLS // 2, dtype=np.uint8) * 4 + 80, (ROWS // 2, 1))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = add_video(container, "ffv1", tags=(1, 1, 1, 1))
        frame = av.VideoFrame(COLS, ROWS, "yuv420p")
        for plane, levels in zip(frame.planes, (np.full((ROWS, COLS), 128), ramp, ramp), strict=True):
            np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] = levels
        encode(container, stream, [frame])
    (frame,) = read_frames(open_clip(tmp_path / "a.mkv"))
    _, blue, _ = (frame.pixels[..., channel].astype(float) for channel in (1, 2, 0))
    # Column 2 k has chroma sample k; columns between lie half way.
    columns = blue[8, 8:24]
    wanted = 255 * ((128 - 16) / 219 + 2 * (1 - 0.0722) * (80 + 2 * np.arange(8, 24) - 128) / 224)
    assert np.abs(columns - wanted).max() < 1.5

    def linear(window: Array) -> Array:
        pixels = window[0].astype(float)
        at = (np.arange(2 * COLS) + 0.5) / 2 - 0.5
        low = np.clip(np.floor(at).astype(int), 0, COLS - 2)
        part = (at - low)[None, :, None]
        wide = pixels[:, low] * (1 - part) + pixels[:, low + 1] * part
        return np.clip(np.rint(wide), 0, 255).astype(np.uint8).repeat(2, 0)

    convert(tmp_path / "a.mkv", tmp_path / "b.mkv", linear, doubled, codec="ffv1")
    _, made, _ = stored_planes(decoded(tmp_path / "b.mkv")[0])
    # Output column 2 k, in the source's columns, is k - 0.25; the ramp rises 2 a column.
    wanted = 80 + 2 * (np.arange(COLS) - 0.25)
    assert np.abs(made[8, 10:24] - wanted[10:24]).max() < 1


HDR_OPTIONS = {
    "libx265": "x265-params=log-level=error:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
    "L(10000000,50):max-cll=1000,400",
    "libsvtav1": "svtav1-params=mastering-display=G(0.265,0.69)B(0.15,0.06)R(0.68,0.32)WP(0.3127,0.329)L(1000,0.005):"
    "content-light=1000,400",
}


def hdr_of(path: Path) -> tuple[list[float], list[int]]:
    """Red, green, blue, white, least and most light; the light of the content: as the first frame says them."""
    frame = decoded(path)[0]
    data = {one.type.name: one for one in frame.side_data}
    display = np.frombuffer(data["MASTERING_DISPLAY_METADATA"], np.int32)[:20]
    light = np.frombuffer(data["CONTENT_LIGHT_LEVEL"], np.int32)[:2]
    return (display[::2] / display[1::2]).tolist(), light.tolist()


@pytest.mark.parametrize(("source_codec", "suffix"), [("libx265", ".mp4"), ("libx265", ".mkv"), ("libsvtav1", ".mp4")])
@pytest.mark.parametrize("codec", ["h265", "av1", "h264"])
def test_hdr_mastering_metadata_is_passed_on(tmp_path: Path, source_codec: str, suffix: str, codec: str) -> None:
    name, _, value = HDR_OPTIONS[source_codec].partition("=")
    options = {name: value, "preset": "10" if source_codec == "libsvtav1" else "ultrafast"}
    source = make_clip(
        tmp_path / f"a{suffix}",
        8,
        source_codec,
        pixel_format="yuv420p10le",
        size=(64, 64),
        tags=(9, 1, 9, 16),
        options=options,
    )
    done = run(source, tmp_path / "b.mp4", codec=codec)
    display, light = hdr_of(tmp_path / "b.mp4")
    wanted = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000]
    np.testing.assert_allclose(display, wanted, atol=1e-4)
    assert light == [1000, 400]
    assert not any("HDR" in words for words in done.notes)


def test_where_hdr_metadata_has_no_place_it_is_said(tmp_path: Path) -> None:
    name, _, value = HDR_OPTIONS["libx265"].partition("=")
    source = make_clip(
        tmp_path / "a.mkv",
        8,
        "libx265",
        pixel_format="yuv420p10le",
        size=(64, 64),
        tags=(9, 1, 9, 16),
        options={name: value},
    )
    done = run(source, tmp_path / "b.mkv", codec="ffv1")
    words = "HDR mastering metadata isn't kept, since ffv1 has no place for it; the colour tags are"
    assert words in done.notes


# ---- alpha, grey, odd sizes


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "suffix", "written"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p", ".webm", "vp9"),
        ("a.mkv", "ffv1", "yuva444p", ".mkv", "ffv1"),
        ("a.mov", "qtrle", "argb", ".mkv", "ffv1"),
    ],
)
def test_alpha_is_kept(tmp_path: Path, name: str, codec: str, pixel_format: str, suffix: str, written: str) -> None:
    source = tmp_path / name
    alpha = np.tile(np.linspace(0, 255, COLS).astype(np.uint8), (ROWS, 1))
    with av.open(str(source), "w") as container:
        stream = add_video(
            container, codec, pixel_format=pixel_format, options={"lossless": "1"} if "vp9" in codec else {}
        )
        pixels = np.dstack([alpha, np.full_like(alpha, 90), np.full_like(alpha, 200), np.full_like(alpha, 40)])
        frames = [av.VideoFrame.from_ndarray(pixels, format="argb").reformat(format=pixel_format) for _ in range(3)]
        encode(container, stream, frames)
    clip = open_clip(source)
    assert clip.alpha
    assert clip.shape == (ROWS, COLS, 4)
    for frame in read_frames(clip):
        assert np.abs(frame.pixels[..., 3].astype(int) - alpha).max() <= 1
        assert np.abs(frame.pixels[..., :3].astype(int) - (90, 200, 40)).max() <= 4
    done = run(source, tmp_path / f"b{suffix}")
    assert done.codec == written
    assert open_clip(done.output).alpha
    made = decoded(tmp_path / f"b{suffix}", "libvpx-vp9" if written == "vp9" else None)
    assert len(made) == 3
    for frame in made:
        planes_ = stored_planes(frame) if frame.format.name.startswith("yuva") else None
        found = planes_[3] if planes_ else frame.to_ndarray(format="rgba")[..., 3]
        assert np.abs(found[::2, ::2].astype(int) - alpha).mean() < 3
    with pytest.raises(
        UsageError, match=r"has alpha, which h264 in MP4 can't hold; write .webm \(vp9\) or .mkv \(ffv1\)"
    ):
        run(source, tmp_path / "b.mp4")


def test_grey_stays_grey_level_by_level(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1", pixel_format="gray")
    clip = open_clip(source)
    assert clip.shape == (ROWS, COLS, 1)
    for number, frame in enumerate(read_frames(clip)):
        np.testing.assert_array_equal(frame.pixels[..., 0], wave(number, (ROWS, COLS), 255))
    run(source, tmp_path / "b.mkv", codec="ffv1")
    for number, frame in enumerate(decoded(tmp_path / "b.mkv")):
        assert frame.format.name == "gray"
        np.testing.assert_array_equal(stored_planes(frame)[0][::2, ::2], wave(number, (ROWS, COLS), 255))
    run(source, tmp_path / "b.mp4", crf=0)
    for number, frame in enumerate(decoded(tmp_path / "b.mp4")):
        assert np.abs(stored_planes(frame)[0][::2, ::2] - wave(number, (ROWS, COLS), 255).astype(int)).max() <= 3


@pytest.mark.parametrize(("suffix", "size"), [(".mp4", (34, 50)), (".webm", (33, 49)), (".mkv", (34, 50))])
def test_odd_sizes(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1", size=(33, 49))
    done = convert(source, tmp_path / f"b{suffix}", same, lambda size: size)
    frame = decoded(tmp_path / f"b{suffix}")[0]
    assert (frame.height, frame.width) == size == done.size
    told = any("by repeating its edge: h264 wants even sides" in words for words in done.notes)
    assert told == (size != (33, 49))


@pytest.mark.parametrize("size", [(33, 49), (34, 49), (33, 50)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuva420p", "yuv444p"])
def test_odd_sizes_are_lossless_too(tmp_path: Path, size: tuple[int, int], pixel_format: str) -> None:
    source = make_clip(tmp_path / "a.mkv", 3, "ffv1", size=(34, 50), pixel_format=pixel_format)
    done = convert(
        source, tmp_path / "b.mkv", lambda window: same(window)[: size[0], : size[1]], lambda _: size, codec="ffv1"
    )
    even = (34, 50) if pixel_format != "yuv444p" else size
    for one, other in zip(decoded(done.output), decoded(source), strict=True):
        assert (one.height, one.width) == even
        difference = (
            stored_planes(one)[0][: size[0], : size[1]].astype(int) - stored_planes(other)[0][: size[0], : size[1]]
        )
        assert np.abs(difference).mean() < 1
        np.testing.assert_array_equal(
            stored_planes(one)[0][size[0] :, :2], stored_planes(one)[0][size[0] - 1 : even[0] - 1, :2]
        )


GUARDED = """
import ctypes, mmap, sys
from fractions import Fraction
from pathlib import Path
import av
import numpy as np
from superfine.clip import open_clip
from superfine.encoding import plan_encoding
from superfine.segments import SegmentWriter
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = []
ordinary = np.empty
def guarded(shape, dtype=float):
    if not isinstance(shape, int):
        return ordinary(shape, dtype)
    length = shape * np.dtype(dtype).itemsize
    whole = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
    kept.append(mmap.mmap(-1, whole + mmap.PAGESIZE))
    address = ctypes.addressof(ctypes.c_char.from_buffer(kept[-1]))
    assert libc.mprotect(address + whole, mmap.PAGESIZE, 0) == 0
    return np.frombuffer(kept[-1], dtype, shape, whole - length)
np.empty = guarded
clip, cols = open_clip(Path(sys.argv[1])), int(sys.argv[3])
encoding, _ = plan_encoding(clip, Path(sys.argv[2]), (64, cols))
pixels = guarded(64 * cols * 3, clip.dtype).reshape(64, cols, 3)
pixels[:] = 7
writer = SegmentWriter(Path(sys.argv[2]), encoding)
writer.add(pixels)
writer.finish()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the test protects memory by Linux's calls")
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("cols", [130, 212])
def test_nothing_behind_the_pixels_is_read(tmp_path: Path, cols: int, pixel_format: str) -> None:
    source = make_clip(tmp_path / "a.mkv", 1, "ffv1", pixel_format=pixel_format)
    subprocess.run([sys.executable, "-c", GUARDED, str(source), str(tmp_path / "b.mkv"), str(cols)], check=True)
    assert len(decoded(tmp_path / "b.mkv")) == 1


def test_rgb_has_no_matrix(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (ROWS, COLS, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        encode(
            container, add_video(container, "ffv1", pixel_format="bgr0"), [rgb_frame(pixels).reformat(format="bgr0")]
        )
    clip = open_clip(tmp_path / "a.mkv")
    assert clip.notes == ()
    (frame,) = read_frames(clip)
    np.testing.assert_array_equal(frame.pixels, pixels)
    convert(tmp_path / "a.mkv", tmp_path / "b.mkv", same, lambda size: size, codec="ffv1")
    (made,) = decoded(tmp_path / "b.mkv")
    np.testing.assert_array_equal(made.to_ndarray(format="rgb24"), pixels)


@pytest.mark.parametrize("clear", [False, True])
def test_an_animated_gif_has_alpha_where_something_shows_through(tmp_path: Path, clear: bool) -> None:
    still = np.random.default_rng(4).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    frames = []
    for number in range(4):
        moved = np.dstack([still, np.full((24, 32), 255, np.uint8)])
        moved[4:12, 4 * number : 4 * number + 8, :3] = (200, 30, 60)
        moved[16:, :, 3] = 0 if clear else 255
        frames.append(Image.fromarray(moved))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 200, 50, 70], disposal=1)
    clip = open_footage(tmp_path / "a.gif")
    assert clip.alpha == clear
    assert [clip.timeline.at(number) for number in range(4)] == [0, Fraction(1, 10), Fraction(3, 10), Fraction(7, 20)]
    assert clip.timeline.duration == Fraction(42, 100)
    done = run(tmp_path / "a.gif", tmp_path / f"b{'.webm' if clear else '.mp4'}")
    assert done.frames == 4
    assert open_clip(done.output).alpha == clear


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_and_pixel_aspect_are_kept(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"a{suffix}"
    with av.open(str(source), "w") as container:
        stream = add_video(container)
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        stream.set_display_rotation(90)
        encode(container, stream, [yuv_frame(number, "yuv420p") for number in range(3)])
    clip = open_clip(source)
    assert (clip.rotation, clip.pixel_aspect) == (90, Fraction(16, 15))
    done = run(source, tmp_path / f"b{suffix}")
    made = open_clip(tmp_path / f"b{suffix}")
    assert (made.rotation, made.pixel_aspect, made.display_matrix) == (90, Fraction(16, 15), clip.display_matrix)
    assert not any("rotation" in words for words in done.notes)


# ---- interlaced


def interlaced_clip(path: Path) -> Path:
    """A bar that moves between the two fields of each frame."""
    with av.open(str(path), "w") as container:
        stream = add_video(
            container, "mpeg2video", size=(64, 64), options={"flags": "+ildct+ilme", "top": "1", "qscale": "2"}
        )
        stream.codec_context.bit_rate = 4_000_000
        stream.codec_context.field_order = 2
        frames = []
        for number in range(6):
            luma = np.full((64, 64), 40, np.uint8)
            for field in (0, 1):
                at = 4 + 8 * number + 4 * field
                luma[field::2, at : at + 8] = 200
            pixels = np.concatenate([luma, np.full((32, 64), 128, np.uint8)])
            frames.append(av.VideoFrame.from_ndarray(pixels, format="yuv420p"))
        encode(container, stream, frames)
    return path


def test_interlaced_is_recognised_and_deinterlaced_or_refused(tmp_path: Path) -> None:
    source = interlaced_clip(tmp_path / "a.mpg")
    clip = open_clip(source)
    assert clip.interlaced
    with pytest.raises(SourceError, match="from 0:0.* on frames are interlaced; have it mended with --interlaced dein"):
        next(read_frames(clip, interlaced="refuse"))
    notes: set[str] = set()
    frames = list(read_frames(clip, note=notes.add))
    assert notes == {"interlaced frames are deinterlaced, each into one"}
    assert [frame.number for frame in frames] == list(range(6))
    for frame, stored in zip(frames[1:5], decoded(source)[1:5], strict=True):
        combed, clean = (
            np.abs(np.diff(pixels[8:-8, 4:-4].astype(int), axis=0)).mean()
            for pixels in (stored.to_ndarray(format="gray"), frame.pixels[..., 1])
        )
        assert combed > 20
        assert clean < combed / 4
    (alone,) = read_frames(clip, 3, 4)
    np.testing.assert_array_equal(alone.pixels, frames[3].pixels)


def test_what_is_interlaced_later_is_recognised_too(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.m2v", 6, "mpeg2video", size=(64, 64), options={"g": "1"})
    fields = interlaced_clip(tmp_path / "b.m2v")
    (tmp_path / "c.m2v").write_bytes(whole.read_bytes() + fields.read_bytes())
    clip = open_clip(tmp_path / "c.m2v")
    assert (clip.interlaced, len(clip.timeline)) == (False, 12)
    with pytest.raises(SourceError, match="on frames are interlaced"):
        list(read_frames(clip, interlaced="refuse"))
    frames = list(read_frames(clip))
    assert len(frames) == 12
    for number in range(6):  # these pass untouched
        alone = next(read_frames(open_clip(whole), number, interlaced="refuse"))
        np.testing.assert_array_equal(frames[number].pixels, alone.pixels)
    combed = [np.abs(np.diff(frame.pixels[8:-8, 4:-4, 1].astype(int), axis=0)).mean() for frame in frames[7:11]]
    assert max(combed) < 10


# ---- other streams


def sounding(path: Path, count: int = 25, *, audio: str = "aac", seconds: float | None = None) -> Path:
    with av.open(str(path), "w") as container:
        video, first = add_video(container), add_audio(container, audio, "fra")
        second = add_audio(container, audio, "eng")
        container.metadata["title"] = "Ein Titel"
        packets = [*sound(first, seconds or count / 25), *sound(second, seconds or count / 25, 660)]
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(count)))
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "audio", "suffix"),
    [("a.mp4", "aac", ".mp4"), ("a.mkv", "libopus", ".mkv"), ("a.mkv", "flac", ".mp4"), ("a.mov", "pcm_s16le", ".mkv")],
)
def test_sound_is_copied_to_the_bit_and_keeps_its_languages(tmp_path: Path, name: str, audio: str, suffix: str) -> None:
    source = sounding(tmp_path / name, audio=audio)
    output = tmp_path / f"b{suffix}"
    done = run(source, output, segment_frames=10)
    assert hashes(output, "audio") == hashes(source, "audio")
    made = open_clip(output)
    assert [track.language for track in made.tracks] == ["fra", "eng"]
    assert made.metadata["title"] == "Ein Titel"
    assert not any("left out" in words for words in done.notes)


def test_sound_longer_than_the_pictures_stays_whole(tmp_path: Path) -> None:
    source = sounding(tmp_path / "a.mp4", 10, seconds=2)
    run(source, tmp_path / "b.mp4")
    assert hashes(tmp_path / "b.mp4", "audio") == hashes(source, "audio")
    assert len(times_of(tmp_path / "b.mp4")) == 10


def test_sound_that_cannot_be_decoded_is_copied_as_it_is(tmp_path: Path) -> None:
    source = sounding(tmp_path / "a.mp4")
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.audio[0]) if p.size]
    data = bytearray(source.read_bytes())
    for position, size in packets[5:20]:
        data[position : position + size] = b"\x55" * size
    source.write_bytes(data)
    with pytest.raises(av.FFmpegError), av.open(str(source)) as container:
        list(container.decode(audio=0))
    done = run(source, tmp_path / "b.mp4")
    assert done.frames == 25
    assert hashes(tmp_path / "b.mp4", "audio") == hashes(source, "audio")


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_file_without_a_duration_is_whole(tmp_path: Path, suffix: str) -> None:
    """Written to a pipe, as browsers record: nothing could be filled in at the end."""

    class Pipe:
        def __init__(self) -> None:
            self.data = bytearray()

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska" if suffix == ".mkv" else "webm") as container:
        codec, audio = ("libx264", "aac") if suffix == ".mkv" else ("libvpx-vp9", "libopus")
        video, sounds = add_video(container, codec), add_audio(container, audio)
        packets = list(sound(sounds, 0.6))
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(15)))
        for packet in packets:
            container.mux(packet)
    source = tmp_path / f"a{suffix}"
    source.write_bytes(pipe.data)
    with av.open(str(source)) as container:
        assert container.duration is None
    clip = open_clip(source)
    assert (len(clip.timeline), clip.broken) == (15, "")
    assert clip.timeline.duration == Fraction(15, 25)
    output = tmp_path / f"b{suffix}"
    run(source, output)
    assert times_of(output) == times_of(source)
    assert hashes(output, "audio") == hashes(source, "audio")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_without_frames_is_refused(tmp_path: Path, name: str) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        add_video(container)
        audio = add_audio(container)
        for packet in sound(audio, 0.2):
            container.mux(packet)
    with pytest.raises(SourceError, match="holds no (frames|moving pictures); .*there is nothing to enlarge"):
        open_clip(tmp_path / name)


def test_sound_keeps_its_times(tmp_path: Path) -> None:
    source = sounding(tmp_path / "a.mp4")
    run(source, tmp_path / "b.mp4")

    def times(path: Path) -> list[tuple[int, Fraction]]:
        with av.open(str(path)) as container:
            return sorted(
                (packet.stream_index, packet.pts * packet.time_base)
                for packet in container.demux(audio=(0, 1))
                if packet.size
            )

    assert times(tmp_path / "b.mp4") == times(source)


def full_house(path: Path) -> Path:
    """Matroska with everything that it can hold."""
    with av.open(str(path), "w") as container:
        video, audio = add_video(container), add_audio(container, "libopus", "eng")
        subtitle = container.add_mux_stream("subrip")
        subtitle.metadata["language"] = "deu"
        subtitle.time_base = Fraction(1, 1000)
        container.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font")
        container.metadata.update({"title": "All of it", "comment": "and more"})
        container.set_chapters(
            [
                {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
                {"id": 2, "start": 400, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
            ]
        )
        for packet in sound(audio, 1):
            container.mux(packet)
        packet = av.Packet(b"Guten Tag")
        packet.stream, packet.pts, packet.dts, packet.duration = subtitle, 200, 200, 500
        packet.time_base = Fraction(1, 1000)
        container.mux(packet)
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(25)))
    return path


def test_subtitles_chapters_attachments_and_metadata_are_kept(tmp_path: Path) -> None:
    source, output = full_house(tmp_path / "a.mkv"), tmp_path / "b.mkv"
    done = run(source, output)
    before, after = open_clip(source), open_clip(output)
    assert [track.kind for track in before.tracks] == ["audio", "subtitle", "attachment"]
    assert [(track.kind, track.language) for track in after.tracks] == [
        (track.kind, track.language) for track in before.tracks
    ]
    assert hashes(output, "subtitle") == hashes(source, "subtitle")
    assert hashes(output, "audio") == hashes(source, "audio")
    assert after.chapters == before.chapters
    assert [chapter.metadata["title"] for chapter in after.chapters] == ["One", "Two"]
    with av.open(str(output)) as container:
        (attachment,) = (stream for stream in container.streams if stream.type == "attachment")
        assert (attachment.name, attachment.data) == ("font.ttf", b"not really a font")
        assert container.metadata["COMMENT"] == "and more"
    assert done.notes == before.notes


def test_subtitles_of_mp4_stay_in_mp4(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        video, subtitle = add_video(container), container.add_mux_stream("mov_text")
        subtitle.metadata["language"] = "deu"
        subtitle.time_base = Fraction(1, 1000)
        packets = []
        for number, text in enumerate((b"Guten", b"Tag")):
            packet = av.Packet(len(text).to_bytes(2) + text)
            packet.stream, packet.pts, packet.dts, packet.duration = subtitle, 400 * number, 400 * number, 300
            packet.time_base = Fraction(1, 1000)
            packets.append(packet)
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(25)))
        container.mux(packets)
    before = open_clip(source)
    assert [(track.kind, track.codec, track.language) for track in before.tracks] == [("subtitle", "mov_text", "deu")]
    done = run(source, tmp_path / "b.mp4")
    assert [str(track) for track in open_clip(done.output).tracks] == [str(track) for track in before.tracks]
    assert hashes(done.output, "subtitle") == hashes(source, "subtitle")


def test_what_the_container_cannot_hold_is_said(tmp_path: Path) -> None:
    source = full_house(tmp_path / "a.mkv")
    done = run(source, tmp_path / "b.mp4")
    assert "subtitle 2 (subrip, deu) is left out: MP4 can't hold it" in done.notes
    assert any(
        words.startswith("attachment 3") and words.endswith("is left out: MP4 can't hold it") for words in done.notes
    )
    made = open_clip(tmp_path / "b.mp4")
    assert [track.kind for track in made.tracks if track.kind != "data"] == ["audio"]
    assert [chapter.metadata["title"] for chapter in made.chapters] == ["One", "Two"]
    again = run(tmp_path / "b.mp4", tmp_path / "c.mp4")  # the text of MP4's chapters isn't doubled
    assert [chapter.metadata["title"] for chapter in open_clip(again.output).chapters] == ["One", "Two"]
    assert not any("left out" in words for words in again.notes)


def test_webm_has_no_attachments(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        video = add_video(container)
        container.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font")
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(3)))
    done = run(source, tmp_path / "b.webm")
    assert [words for words in done.notes if "left out" in words] == [
        f"{open_clip(source).tracks[0]} is left out: WebM can't hold it"
    ]
    assert open_clip(done.output).tracks == ()


def covered(path: Path) -> tuple[Path, bytes]:
    """An MP4 with a cover, and the cover."""
    with av.open(str(path), "w") as container:
        video, cover = add_video(container), container.add_stream("png", rate=25)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = int(av.stream.Disposition.attached_pic)
        packets = [*cover.encode(rgb_frame(np.full((16, 16, 3), 77, np.uint8))), *cover.encode(None)]
        data = bytes(packets[0])
        container.mux(packets)
        encode(container, video, (yuv_frame(number, "yuv420p") for number in range(5)))
    return path, data


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cover_stays_a_cover(tmp_path: Path, suffix: str) -> None:
    source, cover = covered(tmp_path / "a.mp4")
    first = run(source, tmp_path / f"b{suffix}")
    second = run(first.output, tmp_path / f"c{suffix}")
    for done in (first, second):
        assert not any("video streams" in words or "left out" in words for words in done.notes)
        with av.open(str(done.output)) as container:
            (still,) = (stream for stream in container.streams.video if int(stream.disposition) & 1024)
            assert next(bytes(packet) for packet in container.demux(still) if packet.size) == cover
    done = run(source, tmp_path / "b.mov")
    assert "video 1 (png) is left out: QuickTime can't hold it" in done.notes


def test_a_second_video_stream_is_copied_and_said(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        first, second = add_video(container), add_video(container, size=(48, 64))
        encode(container, first, (yuv_frame(number, "yuv420p") for number in range(5)))
        encode(container, second, (yuv_frame(number, "yuv420p", 48, 64) for number in range(5)))
    done = run(source, tmp_path / "b.mp4")
    assert "2 video streams; the first is enlarged, the others are copied as they are" in done.notes
    assert hashes(done.output, "video")[1] == hashes(source, "video")[1]


def test_milliseconds_are_said(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 5, rate=Fraction(30000, 1001))
    done = run(source, tmp_path / "b.mkv")
    assert "times are rounded to milliseconds, as Matroska holds them" in done.notes
    assert all(
        abs(one - other) <= Fraction(1, 2000)
        for one, other in zip(times_of(source), times_of(done.output), strict=True)
    )


# ---- resume


def test_resumed_and_unbroken_runs_give_the_same_packets(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 40, options={"preset": "medium", "g": "12", "bf": "2"})
    whole = run(source, tmp_path / "whole.mp4", frames=3, segment_frames=8)
    assert (whole.computed, whole.resumed) == (40, 0)
    output = tmp_path / "resumed.mp4"
    calls = 0

    def dies(window: Array) -> Array:
        nonlocal calls
        calls += 1
        if calls == 21:
            raise RuntimeError("killed")
        return nearest(window)

    with pytest.raises(RuntimeError, match="killed"):
        convert(source, output, dies, doubled, frames=3, segment_frames=8)
    assert not output.exists()
    assert sorted(path.name for path in segments_folder(output).glob("*.mkv")) == ["000000.mkv", "000001.mkv"]
    heard: list[tuple[int, int]] = []
    done = run(source, output, frames=3, segment_frames=8, progress=lambda *state: heard.append(state))
    assert (done.computed, done.resumed) == (24, 16)
    assert heard[0] == (16, 40)
    assert heard[-1] == (40, 40)
    assert hashes(output, "video") == hashes(tmp_path / "whole.mp4", "video")
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not segments_folder(output).exists()


@pytest.mark.slow
def test_widths_at_which_x264_is_unsteady_give_the_same_packets(tmp_path: Path) -> None:
    """With AVX-512, x264 165 gives other packets each time at 49 blocks a row."""
    source = make_clip(tmp_path / "a.mp4", 24, size=(64, 392), options={"g": "12"})
    found = [hashes(run(source, tmp_path / f"{n}.mp4", segment_frames=8).output, "video") for n in range(6)]
    assert all(one == found[0] for one in found)


def test_segments_in_the_middle_are_done_again(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 30)
    whole = run(source, tmp_path / "whole.mp4", frames=3, segment_frames=6)
    output = tmp_path / "b.mp4"
    stop_after(source, output, 29)
    for name in ("000001.mkv", "000002.mkv"):
        (segments_folder(output) / name).unlink()
    done = run(source, output, frames=3, segment_frames=6)
    assert (done.computed, done.resumed) == (18, 12)
    assert hashes(output, "video") == hashes(whole.output, "video")


def stop_after(source: Path, output: Path, calls: int) -> None:
    left = iter(range(calls))

    def dies(window: Array) -> Array:
        if next(left, None) is None:
            raise RuntimeError("killed")
        return nearest(window)

    with pytest.raises(RuntimeError, match="killed"):
        convert(source, output, dies, doubled, frames=3, segment_frames=6)


@pytest.mark.parametrize("change", ["crf", "fingerprint", "source"])
def test_segments_of_another_job_are_not_taken(tmp_path: Path, change: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 18)
    output = tmp_path / "b.mp4"
    stop_after(source, output, 15)
    assert len(list(segments_folder(output).glob("*.mkv"))) == 2
    named: dict[str, Any] = {"crf": {"crf": 30}, "fingerprint": {"fingerprint": "other"}, "source": {}}[change]
    if change == "source":
        make_clip(source, 18, options={"crf": "40"})
    done = run(source, output, frames=3, segment_frames=6, **named)
    assert (done.computed, done.resumed) == (18, 0)
    words = "12 finished frames of an earlier run don't fit: the source or an option has changed; they are made anew"
    assert words in done.notes


@pytest.mark.parametrize("damage", ["emptied", "cut", "overwritten", "gone"])
def test_damaged_segments_are_done_again(tmp_path: Path, damage: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 18)
    whole = run(source, tmp_path / "whole.mp4", frames=3, segment_frames=6)
    output = tmp_path / "b.mp4"
    stop_after(source, output, 15)
    piece = segments_folder(output) / "000000.mkv"
    data = piece.read_bytes()
    half = len(data) // 2
    if damage == "gone":
        piece.unlink()
    else:
        piece.write_bytes(
            {"emptied": b"", "cut": data[:half], "overwritten": data[:half] + bytes(len(data) - half)}[damage]
        )
    done = run(source, output, frames=3, segment_frames=6)
    assert (done.computed, done.resumed) == (12, 6)
    assert done.notes == whole.notes
    assert output.read_bytes() == whole.output.read_bytes()


def test_a_spoilt_list_of_segments_costs_no_more_than_they(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 18)
    output = tmp_path / "b.mp4"
    stop_after(source, output, 15)
    (listed,) = segments_folder(output).glob("*.jsonl")
    listed.write_bytes(listed.read_bytes()[:-20])
    stop_after(source, output, 8)
    done = run(source, output, frames=3, segment_frames=6)
    assert (done.computed, done.resumed) == (6, 12)


def test_a_failure_leaves_no_empty_folders(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    (tmp_path / "mine").mkdir()
    for output in (tmp_path / "new" / "er" / "b.mp4", tmp_path / "mine" / "new" / "b.mp4"):
        with pytest.raises(UsageError, match="a window of 2 frames"):
            run(source, output, frames=2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.mp4", "mine"]


KILLED = """
import os, signal, sys
from pathlib import Path
from superfine.frames import read_frames
from superfine.video import convert
calls = 0
def enlarge(window):
    global calls
    calls += 1
    if calls == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return window[1].repeat(2, 0).repeat(2, 1)
doubled = lambda size: (2 * size[0], 2 * size[1])
convert(Path(sys.argv[1]), Path(sys.argv[2]), enlarge, doubled, frames=3, segment_frames=6)
"""


def test_kill_nine_is_survived(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 30)
    output = tmp_path / "b.mp4"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), str(output)], check=False)
    assert killed.returncode == -9
    assert not output.exists()
    done = run(source, output, frames=3, segment_frames=6)
    assert done.resumed in (12, 18)  # the third segment may have been on its way
    whole = run(source, tmp_path / "whole.mp4", frames=3, segment_frames=6)
    assert hashes(output, "video") == hashes(whole.output, "video")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


FULL = """
import resource, sys
from pathlib import Path
from superfine.errors import OutputError
from superfine.frames import read_frames
from superfine.video import convert
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    convert(Path(sys.argv[1]), Path(sys.argv[2]), lambda window: window[0].repeat(2, 0).repeat(2, 1),
            lambda size: (2 * size[0], 2 * size[1]), segment_frames=6, codec="ffv1")
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system can't limit files")
@pytest.mark.parametrize("limit", [5_000, 30_000])
def test_a_file_that_cannot_grow_stops_cleanly_and_goes_on_later(tmp_path: Path, limit: int) -> None:
    source = make_clip(tmp_path / "a.mkv", 30, "ffv1")
    output = tmp_path / "b.mkv"
    full = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(output), str(limit)], check=True, capture_output=True, text=True
    )
    assert "can't be written: File too large" in full.stdout, full.stdout + full.stderr
    assert not output.exists()
    assert not list(tmp_path.rglob("*.part"))
    done = run(source, output, segment_frames=6, codec="ffv1")
    assert done.resumed == (0 if limit == 5_000 else 30)
    assert times_of(output) == times_of(source)


# ---- damaged files


def corrupted(source: Path, target: Path, number: int) -> tuple[Path, Fraction]:
    """The file with the bytes of one packet, that of frame `number`, spoilt; and when that frame is shown."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        packets = [(p.pts * p.time_base, p.pos, p.size) for p in container.demux(stream) if p.size]
    moment, position, size = packets[number]
    data = bytearray(source.read_bytes())
    data[position + size // 4 : position + size] = b"\xff" * (size - size // 4)
    target.write_bytes(data)
    return target, moment


FFV1 = {"slicecrc": "1", "level": "3", "g": "1"}


@pytest.mark.parametrize("named", [{"codec": "ffv1", "name": "a.mkv"}, {"codec": "libx264", "name": "a.mp4"}])
def test_a_damaged_frame_is_named_by_its_time_or_repeated(tmp_path: Path, named: dict[str, str]) -> None:
    options = FFV1 if named["codec"] == "ffv1" else {"g": "1", "preset": "medium", "crf": "10"}
    sound_clip = make_clip(tmp_path / named["name"], 20, named["codec"], options=options, size=(144, 176))
    source, moment = corrupted(sound_clip, tmp_path / f"bad_{named['name']}", 7)
    assert moment == Fraction(7, 25)
    output = tmp_path / f"out{source.suffix}"
    with pytest.raises(SourceError, match=r"the frame at 0:00.280 can't be decoded .*--damaged repeat"):
        run(source, output, segment_frames=5)
    assert not output.exists()
    done = run(source, output, segment_frames=5, damaged="repeat", codec="ffv1" if source.suffix == ".mkv" else "h264")
    assert any(words.startswith("the frame at 0:00.280 can't be decoded (") for words in done.notes)
    assert times_of(output) == times_of(sound_clip)
    good = list(read_frames(open_clip(sound_clip)))
    taken = list(read_frames(open_clip(source), damaged="repeat"))
    assert [frame.repeated for frame in taken] == [number == 7 for number in range(20)]
    np.testing.assert_array_equal(taken[7].pixels, good[6].pixels)
    np.testing.assert_array_equal(taken[8].pixels, good[8].pixels)


def test_what_is_made_of_a_damaged_frame_counts_as_damaged_up_to_the_next_key_frame(tmp_path: Path) -> None:
    options = {"g": "10", "bf": "0", "preset": "medium", "crf": "10"}
    whole = make_clip(tmp_path / "a.mp4", 20, options=options, size=(144, 176))
    source, moment = corrupted(whole, tmp_path / "b.mp4", 4)
    assert moment == Fraction(4, 25)
    notes: list[str] = []
    good, taken = read_frames(open_clip(whole)), read_frames(open_clip(source), damaged="repeat", note=notes.append)
    wanted = [frame.pixels for frame in good]
    for frame in taken:
        assert frame.repeated == (4 <= frame.number < 10)
        np.testing.assert_array_equal(frame.pixels, wanted[3 if frame.repeated else frame.number])
    (note,) = notes
    assert note.startswith("the 6 frames from 0:00.160 to 0:00.360 can't be decoded (")


@pytest.mark.parametrize(
    "options",
    [
        {"g": "6", "bf": "2"},
        {"g": "60", "x264-params": "intra-refresh=1", "threads": "1"},
        {"g": "7", "x264-params": "open-gop=1:bframes=3:min-keyint=3"},
    ],
)
@pytest.mark.parametrize("spoilt", [False, True])
def test_damage_is_the_same_wherever_reading_begins(tmp_path: Path, options: dict[str, str], spoilt: bool) -> None:
    source = make_clip(tmp_path / "a.mp4", 16, options={"preset": "medium", "crf": "10", **options}, size=(144, 176))
    if spoilt:
        source, _ = corrupted(source, tmp_path / "b.mp4", 8)
    clip = open_clip(source)
    whole = list(read_frames(clip, damaged="repeat"))
    assert any(frame.repeated for frame in whole) == spoilt
    for first in range(16):
        (frame,) = read_frames(clip, first, first + 1, damaged="repeat")
        assert frame.repeated == whole[first].repeated
        np.testing.assert_array_equal(frame.pixels, whole[first].pixels)


def test_a_first_frame_that_is_damaged_shows_the_next(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.mkv", 6, "ffv1", options=FFV1)
    source, _ = corrupted(whole, tmp_path / "b.mkv", 0)
    taken = list(read_frames(open_clip(source), damaged="repeat"))
    assert [frame.repeated for frame in taken] == [True, False, False, False, False, False]
    np.testing.assert_array_equal(taken[0].pixels, taken[1].pixels)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_truncated_file_says_where_it_breaks_off(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    with av.open(str(whole), "w", options={"movflags": "faststart"} if name == "a.mp4" else {}) as container:
        encode(
            container,
            add_video(container, options={"g": "5", "bf": "0"}),
            (yuv_frame(n, "yuv420p") for n in range(100)),
        )
    cut = tmp_path / f"cut{whole.suffix}"
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    clip = open_clip(cut)
    assert clip.broken.startswith("breaks off at 0:0")
    assert 20 < len(clip.timeline) < 99
    with pytest.raises(SourceError, match=r"breaks off at 0:0.*; take what is there with --damaged repeat"):
        run(cut, tmp_path / "b.mp4")
    done = run(cut, tmp_path / "b.mp4", damaged="repeat")
    assert done.frames == len(clip.timeline)
    assert any(words.endswith("; what is there is taken") for words in done.notes)


def test_a_hole_in_matroska_is_seen(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.mkv", 60, options={"g": "5"}, size=(144, 176))
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(np.random.default_rng(5).integers(0, 256, 3000, dtype=np.uint8))
    source = tmp_path / "b.mkv"
    source.write_bytes(data)
    assert open_clip(source).broken
    with pytest.raises(SourceError, match="take what is there with --damaged repeat"):
        run(source, tmp_path / "c.mkv")
    done = run(source, tmp_path / "c.mkv", damaged="repeat")
    assert 20 < done.frames < 60
    assert set(times_of(done.output)) <= set(times_of(whole))


def test_a_file_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.mp4", 20)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"cut.mp4: isn't a video, or is damaged or cut off: "):
        open_clip(cut)


def test_files_that_are_no_videos_are_refused(tmp_path: Path) -> None:
    text, empty, list_ = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "list.mp4"
    text.write_text("this only calls itself mp4\n" * 50)
    empty.write_bytes(b"")
    list_.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    for path in (text, list_):
        with pytest.raises(SourceError, match="isn't a video, or is damaged or cut off: "):
            open_clip(path)
    with pytest.raises(SourceError, match="empty.mp4: is empty; there is nothing to read"):
        open_clip(empty)
    with pytest.raises(SourceError, match="missing.mp4: can't be read: No such file"):
        open_clip(tmp_path / "missing.mp4")


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        audio = add_audio(container)
        for packet in sound(audio, 0.2):
            container.mux(packet)
    with pytest.raises(SourceError, match="holds no moving pictures"):
        open_clip(tmp_path / "a.mp4")


def test_frames_over_the_limit_are_refused(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 2)
    with pytest.raises(
        TooLargeError, match=r"frames of 48 x 32 .* over the limit of 0.001; raise it with --max-megapixels 1"
    ):
        open_clip(source, max_megapixels=0.001)


def test_strange_names_are_only_names(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "plain.mp4", 3)
    for name in ("a:b%03d.mp4", "http:x.mp4", "ümläut 視.mp4"):
        shutil.copy(source, tmp_path / name)
        done = run(tmp_path / name, tmp_path / f"out {name}")
        assert done.frames == 3


# ---- options


@pytest.mark.parametrize(
    ("name", "named", "words"),
    [
        ("b.gif2", {}, "superfine doesn't write .gif2 as a video; it writes .mp4 .m4v .mov .mkv .webm"),
        ("b.jpg", {}, "superfine doesn't write .jpg as a video; .* .gif and .webp, and frames into a folder"),
        ("b.mp4", {"codec": "theora"}, "--codec theora: not one of auto, h264, h265, av1, vp9, ffv1"),
        ("b.webm", {"codec": "h264"}, "WebM doesn't hold h264; it holds vp9, av1"),
        ("b.mp4", {"crf": 52}, r"--crf 52: h264 takes 0 \(best\) to 51"),
        ("b.mkv", {"codec": "ffv1", "crf": 3}, "--crf 3: ffv1 is lossless and has none"),
        ("b.mp4", {"frames": 2}, "a window of 2 frames has no middle; take 1, 3, 5, "),
        ("a.mp4", {}, "the output is the source itself"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path: Path, name: str, named: dict[str, Any], words: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    before = source.read_bytes()
    with pytest.raises(UsageError, match=words):
        run(source, tmp_path / name, **named)
    assert source.read_bytes() == before


@pytest.mark.parametrize("codec", ["h264", "h265", "av1", "vp9", "ffv1"])
def test_every_codec_is_written(tmp_path: Path, codec: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 7, size=(64, 64))
    done = run(source, tmp_path / "b.mkv", codec=codec, segment_frames=3)
    frames = decoded(done.output)
    assert len(frames) == 7
    wanted = [frame.pixels.repeat(2, 0).repeat(2, 1).astype(int) for frame in read_frames(open_clip(source))]
    for frame, pixels in zip(read_frames(open_clip(done.output)), wanted, strict=True):
        assert np.abs(frame.pixels - pixels).mean() < 6


def test_a_worse_quality_is_a_smaller_file(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 10, size=(96, 96))
    sizes = [run(source, tmp_path / f"b{crf}.mp4", crf=crf).output.stat().st_size for crf in (10, 40)]
    assert sizes[1] < sizes[0] / 2


def test_what_does_not_have_the_size_is_an_error(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    with pytest.raises(ShapeError, match=r"want frames of \(64, 96, 3\), got \(32, 48, 3\)"):
        convert(source, tmp_path / "b.mp4", same, doubled)
    assert not (tmp_path / "b.mp4").exists()


def test_duplicates_are_not_computed_again(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = add_video(container, "ffv1")
        encode(container, stream, [yuv_frame(number // 3, "yuv420p") for number in range(24)])
    done = run(tmp_path / "a.mkv", tmp_path / "b.mkv", codec="ffv1", frames=3, segment_frames=8)
    # 8 pictures, and two of them go over the end of a segment.
    assert (done.frames, done.computed) == (24, 10)
    made = [stored_planes(frame)[0] for frame in decoded(tmp_path / "b.mkv")]
    for number in range(24):
        np.testing.assert_array_equal(made[number], made[number // 3 * 3])
    assert not np.array_equal(made[2], made[3])


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 1)
    done = run(source, tmp_path / "b.mp4", codec="av1")
    assert (done.frames, len(times_of(done.output))) == (1, 1)


def test_windows_come_as_arrays_of_their_length(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 6)
    shapes: set[tuple[int, ...]] = set()

    def look(window: Array) -> Array:
        shapes.add(window.shape)
        return same(window)

    convert(source, tmp_path / "b.mp4", look, lambda size: size, frames=5)
    assert shapes == {(5, ROWS, COLS, 3)}


def test_an_error_of_the_network_is_raised_as_it_is(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 6)

    def fails(window: Array) -> Array:
        raise ZeroDivisionError("no network")

    with pytest.raises(ZeroDivisionError, match="no network"):
        convert(source, tmp_path / "b.mp4", fails, doubled)
    assert not list(tmp_path.rglob("*.part"))


def test_the_output_folder_may_be_missing(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="b.mp4: its folder can't be made: "):
        run(source, blocked / "b.mp4")


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from superfine.frames import read_frames
from superfine.video import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), lambda window: window[1].repeat(2, 0).repeat(2, 1),
        lambda size: (2 * size[0], 2 * size[1]), frames=3, codec=sys.argv[3])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture(scope="module")
def full_hd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("full-hd") / "a.mp4", 40, size=(1080, 1920))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_four_k_takes_less_than_two_gigabytes(full_hd: Path, tmp_path: Path, codec: str) -> None:
    command = [sys.executable, "-c", MEMORY, str(full_hd), str(tmp_path / "b.mp4"), codec]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 2_000_000
