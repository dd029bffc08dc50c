"""Bursts held against the picture that they were made of."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from superfine.burst import _Frame, _fused, _Study, fuse_frames
from superfine.classical.burst import Piece, Pose, box_blurred, fuse, motion, sharpness
from superfine.errors import NoMatchError, ShapeError, UsageError
from superfine.tiles import Window
from superfine.upscale import upscale

SCALE = 2


def shot(large, angle, move, noise, seed=0, gain=1.0):
    """A frame of half the size, by SciPy's spline and means over 2 x 2; and its matrix, reference to frame."""
    rows, cols = large.shape[0] // SCALE, large.shape[1] // SCALE
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    linear = np.array([[cos, -sin], [sin, cos]])
    middle = (np.array([rows, cols]) - 1) / 2
    shift = middle + move - linear @ middle
    back = linear.T
    offset = SCALE * (back @ (np.full(2, 0.5 / SCALE - 0.5) - shift) + 0.5) - 0.5
    planes = large.astype(np.float64)
    if angle or np.any(np.array(move) != 0):
        planes = np.stack(
            [
                ndimage.affine_transform(plane, back, offset, order=5, mode="mirror")
                for plane in np.moveaxis(planes, 2, 0)
            ],
            axis=-1,
        )
    small = gain * planes.reshape(rows, SCALE, cols, SCALE, -1).mean(axis=(1, 3))
    small += noise * np.random.default_rng(seed).standard_normal(small.shape)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8), np.column_stack([linear, shift])


def shots(large, count, noise=2.0, seed=0, gain=1.0):
    rng = np.random.default_rng(seed)
    turns = [(0.0, np.zeros(2))] + [(rng.uniform(-0.5, 0.5), rng.uniform(-2, 2, 2)) for _ in range(count - 1)]
    return [
        shot(large, *turn, noise, 100 * seed + place, gain if place % 2 else 1.0) for place, turn in enumerate(turns)
    ]


def psnr(made, large, border=8):
    cut = np.s_[border:-border, border:-border]
    return 10 * np.log10(255**2 / np.mean((made[cut].astype(np.float64) - large[cut]) ** 2))


@pytest.fixture(scope="module")
def scene():
    return data.coffee()[60:252, 200:392]


@pytest.fixture(scope="module")
def taken(scene):
    return shots(scene, 8)


@pytest.fixture(scope="module")
def single(taken):
    return [upscale(taken[0][0], SCALE, model=model) for model in ("bicubic", "best")]


# ---- the core


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_box_is_the_mean_over_the_pixel(scale):
    fine = np.random.default_rng(0).random((2, 12, 18)).astype(np.float32)
    means = fine.reshape(2, 12 // scale, scale, 18 // scale, scale).mean(axis=(2, 4))
    np.testing.assert_allclose(box_blurred(fine, scale)[:, ::scale, ::scale], means, atol=1e-6)


def test_known_places_give_the_picture_back(scene):
    frames = shots(scene, 16, noise=0.0)
    pieces = [
        Piece((pixels / 255).astype(np.float32), (0, 0), Pose(matrix, noise=0.3 / 255)) for pixels, matrix in frames
    ]
    start = upscale(frames[0][0], SCALE, model="bicubic")
    made = fuse(pieces, (start / 255).astype(np.float32), SCALE).pixels * 255
    assert psnr(made, scene) > psnr(start, scene) + 9


def test_a_piece_of_the_picture_is_the_whole_ones(scene, taken):
    start = (upscale(taken[0][0], SCALE, model="bicubic") / 255).astype(np.float32)
    whole = [Piece((pixels / 255).astype(np.float32), (0, 0), Pose(matrix)) for pixels, matrix in taken]
    parts = [Piece(np.ascontiguousarray(piece.pixels[10:90, 4:80]), (10, 4), piece.pose) for piece in whole]
    made = fuse(whole, start, SCALE).pixels
    part = fuse(parts, start[40:160, 40:140], SCALE, (20, 20)).pixels
    inner = np.s_[24:-24, 24:-24]
    np.testing.assert_allclose(part[inner], made[40:160, 40:140][inner], atol=1.5 / 255)


def test_a_frame_without_detail_is_less_sharp(scene):
    pixels = (scene / 255).astype(np.float32)
    assert sharpness(ndimage.uniform_filter(pixels, (5, 5, 1))) < 0.8 * sharpness(pixels)


def test_flow_finds_what_moves_and_nothing_else(scene):
    rng = np.random.default_rng(0)
    base = scene[..., 1] / 255
    turned = np.array([[1.0, 0.004, 0.7], [-0.004, 1.0, -1.2]])
    back = np.linalg.inv(turned[:, :2])
    view = base.copy()
    view[60:130, 60:130] = ndimage.shift(base, (0.0, 0.8), order=5)[60:130, 60:130]
    laid = [
        ndimage.affine_transform(each, back, -back @ turned[:, 2], order=5, mode="mirror")
        + rng.normal(0, 2 / 255, base.shape)
        for each in (base, view)
    ]
    still, moving = (
        motion(base.astype(np.float32), 0.9 * each.astype(np.float32) + 0.05, Pose(turned, 0.9, 0.05)) for each in laid
    )
    assert still.mean() < 0.01
    assert moving[68:122, 68:122].mean() > 0.5
    outside = np.ones(base.shape, bool)
    outside[50:140, 50:140] = False
    assert moving[outside].mean() < 0.01
    flat = np.full((32, 32), 0.5, np.float32)
    assert not motion(flat, flat, Pose(np.eye(2, 3))).any()


def test_a_still_region_is_fused_and_a_moved_one_is_not(scene, taken):
    pieces = [Piece((pixels / 255).astype(np.float32), (0, 0), Pose(matrix)) for pixels, matrix in taken[:4]]
    start = (upscale(taken[0][0], SCALE, model="bicubic") / 255).astype(np.float32)
    still = np.ones((96, 96), np.float32)
    still[:, 48:] = 0
    part = [pieces[0], *(Piece(piece.pixels, piece.corner, piece.pose, still) for piece in pieces[1:])]
    whole, alone, made = (fuse(each, start, SCALE).pixels for each in (pieces, pieces[:1], part))
    left, right = np.s_[16:-16, 16:80], np.s_[16:-16, 112:-16]
    np.testing.assert_allclose(made[left], whole[left], atol=0.5 / 255)
    np.testing.assert_allclose(made[right], alone[right], atol=0.5 / 255)
    assert np.abs(whole[right] - alone[right]).max() > 5 / 255


def test_sizes_and_channels_have_to_fit():
    piece = Piece(np.zeros((8, 8, 3), np.float32), (0, 0), Pose(np.eye(2, 3)))
    with pytest.raises(ShapeError, match=r"want a start of \(S\*h, S\*w, C\) with S = 2"):
        fuse([piece], np.zeros((15, 16, 3), np.float32), 2)
    with pytest.raises(ShapeError, match=r"want pieces of \(h, w, 1\)"):
        fuse([piece], np.zeros((16, 16, 1), np.float32), 2)
    with pytest.raises(ShapeError, match="want pieces"):
        fuse([], np.zeros((16, 16, 1), np.float32), 2)


# ---- frames in, picture out


@pytest.mark.slow
def test_it_beats_one_frame_and_the_best_network(scene, taken, single):
    made = fuse_frames([pixels for pixels, _ in taken], SCALE, model="best")
    assert made.pixels.shape == scene.shape
    assert made.pixels.dtype == np.uint8
    assert made.used == tuple(range(8))
    assert psnr(made.pixels, scene) > psnr(single[0], scene) + 4
    assert psnr(made.pixels, scene) > psnr(single[1], scene) + 2
    corners = np.array([[row, col, 1] for row in (0, 95) for col in (0, 95)]).T
    errors = [pose.matrix @ corners - matrix @ corners for pose, (_, matrix) in zip(made.poses, taken, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.03


def test_it_lies_on_the_first_frame(scene, taken):
    frames = [pixels for pixels, _ in taken[:4]]
    moved = fuse_frames(frames[1:] + frames[:1], SCALE, model="bicubic").pixels
    expected, _ = shot(np.repeat(np.repeat(scene, SCALE, 0), SCALE, 1), *_as_second(taken[1][1], scene.shape), 0.0)
    assert psnr(moved, expected, 20) > psnr(moved, scene, 20) + 5


def _as_second(matrix, shape):
    """The angle, and the move in pixels of the large picture."""
    middle = (np.array(shape[:2]) // SCALE - 1) / 2
    angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    return angle, (matrix[:, :2] @ middle + matrix[:, 2] - middle) * SCALE


@pytest.mark.slow
def test_a_change_of_exposure_is_taken_out(scene):
    scene = scene[..., :1]
    frames = [pixels for pixels, _ in shots(scene, 5, gain=0.85)]
    same = [pixels for pixels, _ in shots(scene, 5)]
    made = fuse_frames(frames, SCALE, model="bicubic")
    assert abs(made.poses[1].gain - 0.85) < 0.01
    assert abs(psnr(made.pixels, scene) - psnr(fuse_frames(same, SCALE, model="bicubic").pixels, scene)) < 0.5


def test_what_moves_leaves_no_ghost(scene):
    thing, scene = data.chelsea()[100:130, 120:150, :1], scene[..., :1]
    frames = []
    rng = np.random.default_rng(0)
    turns = [(0.0, np.zeros(2))] + [(rng.uniform(-0.5, 0.5), rng.uniform(-2, 2, 2)) for _ in range(5)]
    for place, turn in enumerate(turns):
        view = scene.copy()
        view[80:110, 20 + 22 * place : 50 + 22 * place] = thing
        frames.append(shot(view, *turn, 2.0, place)[0])
    truth = scene.copy()
    truth[80:110, 20:50] = thing
    made = fuse_frames(frames, SCALE, model="bicubic").pixels
    alone = upscale(frames[0], SCALE, model="bicubic")
    path = np.s_[76:114, 16:166]
    still = np.s_[120:180, 10:180]
    # No worse than the one frame that shows it there, sample by sample, and better where nothing moved.
    gap = np.abs(ndimage.uniform_filter(made[path].astype(float) - truth[path], (5, 5, 1)))
    usual = np.abs(ndimage.uniform_filter(alone[path].astype(float) - truth[path], (5, 5, 1)))
    assert gap.max() < usual.max() + 4
    assert psnr(made[path], truth[path], 1) > psnr(alone[path], truth[path], 1)
    assert psnr(made[still], truth[still], 4) > psnr(alone[still], truth[still], 4) + 3


@pytest.mark.slow
def test_sixteen_frames_reach_the_goal(scene):
    frames = [pixels for pixels, _ in shots(scene, 16)]
    made = psnr(fuse_frames(frames, SCALE).pixels, scene)
    single = {name: psnr(upscale(frames[0], SCALE, model=name), scene) for name in ("bicubic", "best", "photo", "fast")}
    assert made > single.pop("bicubic") + 4
    assert made > max(single.values()) + 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_good_frame_is_left_out_where_little_is_to_be_seen(seed):
    large = data.rocket()[117:309, 224:416]  # most of it is sky
    made = fuse_frames([pixels for pixels, _ in shots(large, 8, seed=seed)], SCALE, model="bicubic")
    assert made.used == tuple(range(8))


@pytest.mark.slow
def test_bad_frames_are_found_and_said(scene, taken):
    frames = [pixels for pixels, _ in taken[:6]]
    good = psnr(fuse_frames(frames[:2] + frames[4:], SCALE, model="bicubic").pixels, scene)
    frames[2] = data.chelsea()[50:146, 100:196]
    frames[3] = ndimage.uniform_filter(frames[3], (5, 5, 1))
    made = fuse_frames(frames, SCALE, model="bicubic")
    assert made.used == (0, 1, 4, 5)
    assert "frame 3 doesn't match frame 1" in made.notes[0]
    assert "frame 4 is blurred or shows something else" in made.notes[1]
    assert all(note.endswith("and left out") for note in made.notes)
    assert abs(psnr(made.pixels, scene) - good) < 0.2


@pytest.mark.slow
def test_another_reference_is_taken_where_the_first_is_bad(taken):
    frames = [pixels for pixels, _ in taken[:4]]
    made = fuse_frames([data.chelsea()[50:146, 100:196], *frames], SCALE, model="bicubic")
    assert 0 not in made.used
    assert "frame 1 shows something else than the others" in made.notes[0]
    blurred = fuse_frames([ndimage.uniform_filter(frames[0], (5, 5, 1)), *frames[1:]], SCALE, model="bicubic")
    assert blurred.reference != 0
    assert "frame 1 is less sharp" in blurred.notes[0]


def test_one_frame_is_plain_upscaling(taken):
    pixels = taken[0][0]
    made = fuse_frames([pixels], SCALE, model="fast")
    assert made.notes == ("only frame 1 is left: this is plain upscaling of one picture, by fast",)
    assert np.abs(made.pixels.astype(int) - upscale(pixels, SCALE, model="fast")).max() <= 1


def test_copies_are_left_out(taken):
    pixels = taken[0][0]
    made = fuse_frames([pixels, pixels, pixels], SCALE, model="bicubic")
    assert made.used == (0,)
    assert "frame 2 is the same as frame 1 to the bit, and left out" in made.notes
    assert "plain upscaling" in made.notes[-1]


def test_whole_pixels_bring_no_resolution_and_that_is_said(scene):
    frames = [shot(scene[..., :1], 0.0, (0, 2 * place), 2.0, place)[0] for place in range(3)]
    assert any("gains no resolution" in note for note in fuse_frames(frames, SCALE, model="bicubic").notes)


@pytest.mark.parametrize("scale", [1, 1.5, pytest.param(3, marks=pytest.mark.slow)])
def test_other_scales(scene, taken, scale):
    scene = scene[..., 1:2]
    frames = [np.ascontiguousarray(pixels[..., 1:2]) for pixels, _ in taken[:4]]
    made = fuse_frames(frames, scale, model="bicubic").pixels
    assert made.shape == (round(96 * scale), round(96 * scale), 1)
    small = scene.reshape(96, 2, 96, 2, 1).mean(axis=(1, 3))
    if scale == 1:
        assert psnr(made, small) > psnr(frames[0], small) + 2
    else:
        assert (
            psnr(upscale(made, size=(288, 288), model="bicubic"), upscale(scene, size=(288, 288), model="bicubic")) > 25
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("axes", [2, 3])
def test_depth_and_axes_are_kept(taken, dtype, axes):
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    frames = [(pixels[..., 1] * (white / 255)).astype(dtype) for pixels, _ in taken[:3]]
    made = fuse_frames([frame if axes == 2 else frame[..., None] for frame in frames], SCALE, model="bicubic")
    assert made.pixels.dtype == dtype
    assert made.pixels.shape == ((192, 192) if axes == 2 else (192, 192, 1))
    plain = upscale(frames[0], SCALE, model="bicubic")
    assert abs(float(made.pixels.mean()) - float(plain.mean())) < 0.005 * white


def test_what_cannot_be_fused_is_said():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 40, 3), np.uint8)
    with pytest.raises(UsageError, match="no frames given"):
        fuse_frames([])
    with pytest.raises(ShapeError, match="frame 1 is 40x32 and frame 2 is 40x31; cut them to one size"):
        fuse_frames([picture, picture[:31]])
    with pytest.raises(ShapeError, match="only frame 2 is grey; make all grey or all RGB"):
        fuse_frames([picture, picture[..., 0]])
    with pytest.raises(ShapeError, match=r"frame 2: want \(H, W\), \(H, W, 1\) or \(H, W, 3\)"):
        fuse_frames([picture, np.zeros((32, 40, 4), np.uint8)])
    with pytest.raises(ShapeError, match="frame 1: want uint8, uint16 or float32, got float64"):
        fuse_frames([picture / 255])
    holes = (picture / 255).astype(np.float32)
    holes[3, 4] = np.nan
    with pytest.raises(ShapeError, match="frame 1: has NaN or infinity"):
        fuse_frames([holes, holes])
    with pytest.raises(ShapeError, match=r"frame 1: levels go from 0 to 255; divide by white"):
        fuse_frames([np.array([[0, 255]], np.float32)])
    flat = np.full((32, 40, 3), 90, np.uint8)
    with pytest.raises(NoMatchError, match="no two of the 2 frames show the same.*flat colour"):
        fuse_frames([flat, flat + 1])
    with pytest.raises(NoMatchError, match="no two of the 2 frames show the same"):
        fuse_frames([picture, rng.integers(0, 256, picture.shape, np.uint8)])
    with pytest.raises(ShapeError, match="they need 16 pixels a side"):
        fuse_frames([picture[:1, :1], picture[1:2, :1]])
    for scale in (0.5, 4.5, float("nan")):
        with pytest.raises(UsageError, match="outside 1 to 4"):
            fuse_frames([picture], scale)


@pytest.mark.slow
def test_floats_never_fill_more_than_some_tiles():
    rows, cols = 3000, 160

    def bands(scale):
        for top in range(0, rows * scale, 100):
            yield np.full((100, cols * scale, 1), 0.5 + top / rows / 10, np.float32)

    frames = [_Frame(str(place), (rows, cols, 1), np.dtype(np.float32), lambda: bands(1)) for place in range(3)]
    moved = np.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.3]])
    poses = {place: Pose(np.eye(2, 3) if place == 0 else moved) for place in range(3)}
    study = _Study(frames, None, 2, (2 * rows, 2 * cols), 0, poses)
    tracemalloc.start()
    made = 0
    for band in _fused(study, Window((2 * rows, 2 * cols, 1), np.dtype(np.float32), bands(2))):
        made += len(band)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made == 2 * rows
    # The result alone would be 7.7 MB a time it is held, the frames 1.9 MB each; ten rows of tiles are about this.
    assert peak < 25e6
