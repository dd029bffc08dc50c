"""Windows for training move as they are told to; a recording is what H.264 leaves; networks find what has moved."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data as pictures

from superfine.classical.resample import matlab_resize, resize
from superfine.errors import UsageError
from superfine.train.motion import Motion, Recording, blurred, coded, recorded, window
from superfine.train.nets.aligned import Moved, Placed
from superfine.train.nets.null_space import NullSpace
from superfine.train.nets.residual import Residual

STILL = Motion(still=0, speed=0, jerk=0, turn=0, zoom=0, occluded=0)


def scene(count=2, side=96):
    grey = pictures.camera().astype(np.float32)
    return torch.from_numpy(
        np.stack([grey[40 * n : 40 * n + side, 100 + 40 * n : 100 + 40 * n + side] for n in range(count)])
    )


def random(seed=0):
    return np.random.default_rng(seed)


def test_without_motion_all_frames_are_the_picture():
    large = scene()
    frames = window(large, 3, 2, STILL, random())
    assert frames.shape == (2, 3, 96, 96)
    for at in range(3):
        np.testing.assert_allclose(frames[:, at], large, atol=2e-2)


def test_the_middle_frame_is_never_resampled():
    large = scene()
    frames = window(large, 5, 2, Motion(still=0, occluded=0), random(3))
    assert torch.equal(frames[:, 2], large)
    assert (frames[:, 1] - large).abs().mean() > 1


def test_a_velocity_is_the_same_way_before_and_after():
    """Against a shift by scipy's splines, by the displacement that its own correlation with the picture finds."""
    large = scene(1)
    frames = window(large, 3, 2, Motion(still=0, speed=8, jerk=0, turn=0, zoom=0, occluded=0), random(5))[0].numpy()
    inner = (slice(24, -24), slice(24, -24))

    def found(frame):
        steps = np.arange(-16, 16.5, 0.5)
        errors = {
            (down, right): np.abs(ndimage.shift(large[0].numpy(), (down, right), order=3)[inner] - frame[inner]).mean()
            for down in steps[::2]
            for right in steps[::2]
        }
        return np.array(min(errors, key=errors.get))

    before, after = found(frames[0]), found(frames[2])
    assert np.hypot(*before) > 1
    np.testing.assert_allclose(before, -after, atol=1)


def test_a_share_stands_still_and_a_share_is_covered():
    large = scene(1).repeat(64, 1, 1)
    large[::2] = large[::2].flip(1)
    still = window(large, 3, 2, Motion(still=0.5, occluded=0), random(1))
    unmoved = ((still[:, 0] - large).abs().amax((1, 2)) < 0.1).sum()
    assert 20 <= unmoved <= 44
    covered = window(large, 3, 2, Motion(still=0, occluded=0.5), random(1))
    assert 20 <= ((covered[:, 1] - large).abs().amax((1, 2)) > 10).sum() <= 44


def test_what_is_in_front_is_another_picture():
    one, other = torch.zeros(1, 64, 64), torch.full((1, 64, 64), 200.0)
    frames = window(torch.cat([one, other]), 3, 2, Motion(still=0, occluded=1), random(2))
    assert frames[0].max() > 190
    assert frames[1].min() < 10


def test_draws_decide_alone():
    large, motion = scene(), Motion()
    assert torch.equal(window(large, 3, 2, motion, random(7)), window(large, 3, 2, motion, random(7)))
    assert not torch.equal(window(large, 3, 2, motion, random(7)), window(large, 3, 2, motion, random(8)))


def test_blur_is_a_gaussian_of_each_sample():
    large = torch.zeros(4, 1, 65, 65)
    large[:, :, 32, 32] = 1
    made = blurred(large, 2, Recording(blur_sigma=1.5, clean=0), random(4))[:, 0].double().numpy()
    np.testing.assert_allclose(made.sum((1, 2)), 1, atol=1e-5)
    sigmas = np.sqrt(-0.5 / np.log(made[:, 32, 33] / made[:, 32, 32]))  # by how far it falls in a pixel
    assert len(set(sigmas.round(3))) == 4
    for sample, sigma in zip(made, sigmas, strict=True):
        wanted = ndimage.gaussian_filter(large[0, 0].double().numpy(), sigma, truncate=6)
        np.testing.assert_allclose(sample, wanted, atol=3e-3)


def frames_of(count=5):
    return np.stack([np.stack([plane.numpy()] * 3) for plane in scene(count, 40)]).astype(np.uint8)


def test_a_low_rate_factor_keeps_frames_and_a_high_one_loses():
    frames = frames_of()
    errors = [np.abs(coded(frames, (crf, crf), random()).astype(int) - frames).mean() for crf in (1, 20, 40)]
    assert errors[0] < 1.2
    assert errors[0] < errors[1] < errors[2]


def test_recorded_frames_keep_their_order_and_their_sample():
    """Each frame is one grey level; after the codec it still is nearest to its own."""
    frames = np.broadcast_to(np.arange(15, dtype=np.uint8).reshape(5, 3, 1, 1) * 16 + 8, (5, 3, 40, 36)).copy()
    shown = recorded(frames, Recording(crf=(18, 18), noise_sigma=0), random(9))
    assert shown.shape == frames.shape
    np.testing.assert_allclose(shown.mean((2, 3)), frames.mean((2, 3)), atol=3)


def test_noise_is_as_strong_as_drawn():
    frames = np.full((6, 3, 48, 48), 128, np.uint8)
    shown = recorded(frames, Recording(crf=(0, 0), noise_sigma=8, clean=0), random(1)).astype(float)
    deviations = shown.std((1, 2, 3))
    assert deviations.min() < 4 < deviations.max() < 9
    assert not np.array_equal(shown[0, 0], shown[0, 1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Motion(speed=-1), "speed = -1; want a number from 0 to 16"),
        (lambda: Motion(still=1.5), "still = 1.5"),
        (lambda: Motion(coded_crf=(30, 20)), r"crf = \(30, 20\); want \[least, most\] within 0 and 51"),
        (lambda: Recording(crf=(18, 60)), r"crf = \(18, 60\)"),
        (lambda: Recording(noise_sigma="much"), "noise_sigma = 'much'"),
    ],
)
def test_values_out_of_their_limits(make, words):
    with pytest.raises(UsageError, match=words):
        make()


# ---- what networks see of a neighbour


def small(down, right, scale=2):
    """The middle of a photo, content moved by whole pixels of the large picture, made small: (1, 1, h, w)."""
    grey = np.roll(pictures.camera(), (down, right), (0, 1))[100:404, 60:364]
    made = matlab_resize(np.repeat(grey[..., None], 3, 2), (304 // scale, 304 // scale))
    return torch.from_numpy(made[None, None, ..., 0] / np.float32(255))


INNER = (..., slice(16, -16), slice(16, -16))


@pytest.mark.parametrize("moved", [(0, 0), (4, 0), (0, -8), (12, 16), (-16, 4)])
def test_whole_moves_of_two_pixels_are_undone(moved):
    there = Moved()(small(*moved), small(0, 0))
    assert (there - small(0, 0))[INNER].abs().mean() < 1e-3


@pytest.mark.parametrize(("moved", "place"), [((0, 0), 0), ((0, 1), 1), ((1, 0), 2), ((-3, 5), 3), ((8, -7), 1)])
def test_samples_are_placed_where_they_belong(moved, place):
    """Content moved by +1 px of the large picture: a sample belongs half a pixel before, at the former cell's half."""
    middle = small(0, 0)
    likely = Placed(2)(Moved()(small(*moved), middle), middle)[:, 4:][INNER]
    shares = likely.mean((0, 2, 3))
    assert shares.argmax() == place
    assert abs(float(shares.sum()) - 1) < 1e-2


@pytest.mark.parametrize(("moved", "place"), [((0, 0), 0), ((0, 1), 3), ((2, 3), 9), ((-1, 0), 4), ((4, -6), 2)])
def test_at_x4_places_are_quarters_of_a_pixel(moved, place):
    middle = small(0, 0, 4)
    likely = Placed(4)(Moved()(small(*moved, 4), middle), middle)[:, 16:][INNER]
    assert likely.mean((0, 2, 3)).argmax() == place


def test_what_a_neighbour_adds_is_its_difference_from_interpolation():
    middle = small(0, 0)
    added = Placed(2)(middle, middle)[:, :4]
    assert added.abs().max() < 0.05
    brighter = Placed(2)(middle + 0.01, middle)
    np.testing.assert_allclose((brighter[:, :4].sum(1) - added.sum(1))[INNER].mean(), 0.01, atol=2e-3)


# ---- networks that keep the data


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("reducer", ["bicubic", "box"])
def test_made_small_again_it_is_the_input(reducer, scale):
    torch.manual_seed(scale)
    net = NullSpace(Residual(scale, channels=16, blocks=1, colour="rgb"), reducer).eval()
    given = pictures.astronaut()[100:160, 100:172].astype(np.float32) / 255
    with torch.no_grad():
        made = net(torch.from_numpy(given.transpose(2, 0, 1)[None]))[0].double().numpy().transpose(1, 2, 0)
    again = made_small(made, given.shape[:2], reducer, scale)
    np.testing.assert_allclose(again[12:-12, 12:-12], given[12:-12, 12:-12], atol=1e-5)


def made_small(made, size, reducer, scale):
    if reducer == "box":
        return made.reshape(size[0], scale, size[1], scale, 3).mean((1, 3))
    return resize(made, size, "bicubic")


def test_a_gaussian_reduction_is_undone_too():
    torch.manual_seed(0)
    net = NullSpace(Residual(4, channels=16, blocks=1, colour="luma"), "gaussian").eval()
    given = pictures.camera()[100:160, 100:172].astype(np.float32) / 255
    with torch.no_grad():
        made = net(torch.from_numpy(given[None, None]))[0, 0].double().numpy()
    # A Gaussian of 1.6 large pixels around the middle of each cell; pixels past two cells are left out.
    away = (np.arange(0, made.shape[0]) + 0.5)[None] - (4 * np.arange(given.shape[0]) + 2)[:, None]
    across = (np.arange(0, made.shape[1]) + 0.5)[None] - (4 * np.arange(given.shape[1]) + 2)[:, None]
    down, right = (np.exp(-0.5 * (each / 1.6) ** 2) * (np.abs(each) < 10) for each in (away, across))
    small_again = down / down.sum(1, keepdims=True) @ made @ (right / right.sum(1, keepdims=True)).T
    np.testing.assert_allclose(small_again[14:-14, 14:-14], given[14:-14, 14:-14], atol=1e-5)
