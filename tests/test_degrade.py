"""The degradation model against moments, SciPy, Pillow and its own report, replayed."""

import re
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.data import astronaut

from superfine.classical.degrade import (
    Degradation,
    area_resize,
    blur,
    degrade,
    gaussian_kernel,
    gaussian_noise,
    jpeg,
    motion_kernel,
    poisson_noise,
)
from superfine.classical.resample import matlab_resize, resize
from superfine.errors import ShapeError, UsageError

NOTHING = {"clean": 0, "blur": 0, "motion": 0, "between": 0, "poisson": 0, "gaussian": 0, "jpeg": 0}
RESAMPLERS = {"area": 0, "bilinear": 0, "bicubic": 0, "lanczos": 0, "matlab": 0}


def only(**given):
    """Bicubic, and beside it what is given."""
    return Degradation(**(NOTHING | RESAMPLERS | {"bicubic": 1} | given))


def photo():
    return astronaut()[20:212, 130:346]


def levels(unit):
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def blob(side, row, col, sigma):
    y, x = np.mgrid[0:side, 0:side]
    return np.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * sigma**2))[..., None].repeat(3, axis=2)


def middle(plane):
    """Where the weight of a plane lies: row, column."""
    return np.tensordot(np.indices(plane.shape), plane) / plane.sum()


def moments(kernel):
    """Mean and covariance of a kernel, in pixels from its middle, x to the right and y up."""
    radius = kernel.shape[0] // 2
    y, x = -np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(float) * [[[1]], [[-1]]]
    places = np.stack([x.ravel(), y.ravel()])
    mean = places @ kernel.ravel()
    return mean, np.cov(places, aweights=kernel.ravel().astype(float), bias=True)


# ---- kernels


@pytest.mark.parametrize(
    "kernel",
    [gaussian_kernel(0.3, 0.3, 0), gaussian_kernel(1.4, 0.6, 31), motion_kernel(1, 0), motion_kernel(7.3, 117)],
    ids=["narrow", "turned", "short", "long"],
)
def test_kernels_are_odd_centred_and_add_up_to_one(kernel):
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(moments(kernel)[0], 0, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 31, 90, 150])
@pytest.mark.parametrize(("sigma_x", "sigma_y"), [(0.9, 0.9), (2.5, 1.1), (1, 3)])
def test_gaussian_kernel_has_the_covariance_of_its_sigmas(sigma_x, sigma_y, angle):
    turn = np.radians(angle)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wanted = axes @ np.diag([sigma_x**2, sigma_y**2]) @ axes.T
    np.testing.assert_allclose(moments(gaussian_kernel(sigma_x, sigma_y, angle))[1], wanted, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("angle", [0, 20, 90, 135, 171])
@pytest.mark.parametrize("length", [4, 9.5, 16])
def test_motion_kernel_has_the_length_and_angle_of_its_path(length, angle):
    """An even path has the variance length^2 / 12; sharing among pixels adds at most 1/4 each way."""
    variance, axes = np.linalg.eigh(moments(motion_kernel(length, angle))[1])
    assert 0 <= variance[1] - length**2 / 12 <= 0.25
    assert variance[0] <= 0.25
    x, y = axes[:, 1]
    turned = (np.degrees(np.arctan2(y, x)) - angle + 90) % 180 - 90
    assert abs(turned) < 3


# ---- blur and resampling


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("size", [(40, 59, 3), (7, 5, 3), (31, 20, 1)])
def test_blur_against_scipy(size, rank):
    pixels = np.random.default_rng(0).random(size, np.float32)
    left, right = (np.random.default_rng(1).random((side, rank)) for side in (9, 5))
    kernel = (left @ right.T).astype(np.float32)  # no symmetry hides a turned kernel
    kernel /= kernel.sum()
    made = blur(pixels, kernel)
    assert made.dtype == np.float32
    wanted = ndimage.convolve(pixels.astype(float), kernel[..., None].astype(float), mode="nearest")
    np.testing.assert_allclose(made, wanted, atol=1e-6)


def test_blur_refuses_a_kernel_that_moves_the_picture():
    with pytest.raises(ShapeError, match=r"odd sides, got \(3, 4\); an even one moves"):
        blur(np.zeros((5, 5, 3), np.float32), np.ones((3, 4), np.float32))


@pytest.mark.parametrize("size", [(6, 9), (8, 5), (24, 27), (17, 40)])
def test_area_is_the_mean_of_what_a_pixel_covers(size):
    """Every pixel in as many equal parts as the new picture has rows and columns, then means of whole blocks."""
    pixels = np.random.default_rng(2).random((12, 18, 3), np.float32)
    fine = pixels.astype(float).repeat(size[0], axis=0).repeat(size[1], axis=1)
    wanted = fine.reshape(size[0], 12, size[1], 18, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(area_resize(pixels, size), wanted, atol=1e-6)


# ---- noise and JPEG


@pytest.mark.parametrize("sigma", [2, 9])
def test_gaussian_noise_has_its_sigma_and_colour(sigma):
    flat = np.full((200, 200, 3), 0.5, np.float32)
    own, same = (gaussian_noise(flat, sigma, np.random.default_rng(3), channels=channels) - flat for channels in (3, 1))
    assert 255 * own.std() == pytest.approx(sigma, rel=0.02)
    assert 255 * same.std() == pytest.approx(sigma, rel=0.02)
    np.testing.assert_allclose(np.corrcoef(own.reshape(-1, 3).T), np.eye(3), atol=0.03)
    np.testing.assert_allclose(np.corrcoef(same.reshape(-1, 3).T), 1, atol=1e-5)


@pytest.mark.parametrize("level", [0.1, 0.6, 1.0])
def test_poisson_noise_has_the_variance_of_counted_photons(level):
    noisy = poisson_noise(np.full((200, 200, 3), level, np.float32), 500, np.random.default_rng(4))
    assert noisy.mean() == pytest.approx(level, rel=0.01)
    assert noisy.var() == pytest.approx(level / 500, rel=0.03)
    np.testing.assert_allclose(noisy * 500, np.rint(noisy * 500), atol=1e-3)


@pytest.mark.parametrize(("subsampling", "theirs"), [("4:2:0", 2), ("4:4:4", 0)])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_against_pillow(quality, subsampling, theirs):
    """Both stand on libjpeg; their optimised code tables differ, their pixels hardly."""
    stored = BytesIO()
    Image.fromarray(photo()).save(stored, "jpeg", quality=quality, subsampling=theirs)
    wanted = np.asarray(Image.open(stored)).astype(int)
    made = jpeg(photo(), quality, subsampling)
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - wanted).mean() < 0.1


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_jpeg_stays_in_place(subsampling):
    """The middle of a red blob, of which half lies in the colour that 4:2:0 halves."""
    red = levels(blob(112, 51.3, 60.8, sigma=9)) * np.array([1, 0, 0], np.uint8)
    np.testing.assert_allclose(
        middle(np.clip(np.ptp(jpeg(red, 95, subsampling), axis=2), 10, None) - 10.0), (51.3, 60.8), atol=0.02
    )


# ---- the whole


def test_clean_is_matlab_to_the_bit():
    small, steps = degrade(photo(), 3, Degradation(clean=1), np.random.default_rng(5))
    np.testing.assert_array_equal(small, matlab_resize(photo(), (64, 72)))
    assert steps == ("resize to 64 x 72 by matlab",)


def test_equal_seeds_give_equal_bytes_and_others_other_ones():
    first, again, other = (degrade(photo(), 2, Degradation(), np.random.default_rng(seed)) for seed in (6, 6, 7))
    assert first.steps == again.steps
    np.testing.assert_array_equal(first.small, again.small)
    assert first.small.tobytes() != other.small.tobytes()


STEP = {
    "blur": r"blur sigma (\S+) x (\S+) at (\S+) deg",
    "motion": r"motion (\S+) px at (\S+) deg",
    "size": r"resize to (\d+) x (\d+) by (\w+)",
    "jpeg": r"jpeg quality (\d+) (\S+)",
}


def replay(pixels, steps):
    """Do what a report without noise says."""
    unit = pixels.astype(np.float32) / np.float32(255)
    for step in steps:
        ((kind, found),) = (
            (kind, match.groups()) for kind, rule in STEP.items() if (match := re.fullmatch(rule, step))
        )
        if kind == "blur":
            unit = blur(unit, gaussian_kernel(*map(float, found)))
        elif kind == "motion":
            unit = blur(unit, motion_kernel(*map(float, found)))
        elif kind == "size":
            size = int(found[0]), int(found[1])
            by = {"area": area_resize, "matlab": matlab_resize}.get(found[2], partial(resize, kernel=found[2]))
            unit = by(levels(unit), size) / np.float32(255) if found[2] == "matlab" else by(unit, size)
        else:
            unit = jpeg(levels(unit), int(found[0]), found[1]) / np.float32(255)
    return levels(unit)


@pytest.mark.parametrize("seed", range(12))
def test_the_report_replayed_gives_the_same_bytes(seed):
    model = Degradation(clean=0, poisson=0, gaussian=0, motion=0.5)
    small, steps = degrade(photo(), 4, model, np.random.default_rng(seed))
    np.testing.assert_array_equal(small, replay(photo(), steps))


@pytest.mark.parametrize(("grey", "word"), [(1, "grey"), (0, "coloured")])
def test_reported_noise_is_there(grey, word):
    flat = np.full((200, 200, 3), 128, np.uint8)
    small, steps = degrade(flat, 2, only(gaussian=1, grey=grey), np.random.default_rng(8))
    sigma = float(re.fullmatch(rf"{word} noise of sigma (\S+)", steps[-1])[1])
    assert small.std() == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=0.03)  # rounding to levels adds 1/12
    assert (np.ptp(small, axis=2).max() == 0) == bool(grey)


def test_reported_photons_are_there():
    small, steps = degrade(np.full((200, 200, 3), 128, np.uint8), 2, only(poisson=1), np.random.default_rng(9))
    photons = int(re.fullmatch(r"poisson noise of (\d+) photons", steps[-1])[1])
    assert small.var() == pytest.approx(128 * 255 / photons + 1 / 12, rel=0.05)


@pytest.mark.parametrize("share", ["blur", "motion", "between", "poisson", "gaussian", "jpeg", "clean"])
def test_shares_are_kept(share):
    """Of 400 pictures 0.3 of each kind: 120, and 5 times the standard deviation of 9 is allowed."""
    draw = np.random.default_rng(10)
    plain = ("resize to 2 x 2 by bicubic",)
    worse = sum(
        degrade(np.zeros((4, 4, 3), np.uint8), 2, only(**{share: 0.3}), draw).steps != plain for _ in range(400)
    )
    assert abs(worse - 120) < 46


def test_the_resamplers_share_the_pictures():
    draw = np.random.default_rng(11)
    used = [
        degrade(np.zeros((4, 4, 3), np.uint8), 2, only(bicubic=0.25, area=0.75), draw).steps[0].split()[-1]
        for _ in range(400)
    ]
    assert set(used) == {"area", "bicubic"}
    assert abs(used.count("area") - 300) < 46


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_small_lies_on_large(scale, seed):
    """The middle of a blob, to 0.02 px of the small picture; noise and JPEG would scatter its border."""
    row, col = 113.3, 127.8
    large = levels(0.9 * blob(240, row, col, sigma=18))
    model = Degradation(clean=0, blur=1, anisotropic=1, motion=0.5, between=0.6, poisson=0, gaussian=0, jpeg=0)
    small, steps = degrade(large, scale, model, np.random.default_rng(seed))
    wanted = (np.array([row, col]) + 0.5) / scale - 0.5
    np.testing.assert_allclose(middle(small.mean(axis=2)), wanted, atol=0.02, err_msg=str(steps))


# ---- wrong input


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"jpeg": 1.2}, r"jpeg = 1.2; want a share from 0 to 1"),
        ({"blur": float("nan")}, r"blur = nan; want a share"),
        ({"grey": True}, r"grey = True; want a share"),
        ({"blur_sigma": (2, 1)}, r"blur_sigma = \(2, 1\); want \[least, most\] within 0.1 and 20"),
        ({"blur_sigma": 1.5}, r"blur_sigma = 1.5; want \[least, most\]"),
        ({"jpeg_quality": [0, 90]}, r"jpeg_quality = \[0, 90\]; want \[least, most\] within 1 and 100"),
        ({"poisson_photons": (100, float("inf"))}, r"poisson_photons = \(100, inf\)"),
        ({"gaussian_sigma": (1, 2, 3)}, r"gaussian_sigma = \(1, 2, 3\)"),
        ({"area": 0.5}, r"area, bilinear, bicubic, lanczos, matlab have to add up to one"),
    ],
    ids=str,
)
def test_a_value_out_of_its_limits_is_refused(given, text):
    with pytest.raises(UsageError, match=text):
        Degradation(**given)


def test_a_list_as_toml_gives_it_is_a_pair():
    assert Degradation(jpeg_quality=[60, 80]) == Degradation(jpeg_quality=(60, 80))


@pytest.mark.parametrize(
    ("large", "text"),
    [
        (np.zeros((8, 8), np.uint8), r"want \(H, W, 3\) in uint8, got \(8, 8\) in uint8"),
        (np.zeros((8, 8, 3), np.float32), r"got \(8, 8, 3\) in float32"),
        (np.zeros((8, 9, 3), np.uint8), r"sides \(8, 9\) are no multiples of 2; crop"),
    ],
    ids=str,
)
def test_another_array_is_refused(large, text):
    with pytest.raises(ShapeError, match=text):
        degrade(large, 2, Degradation(), np.random.default_rng(0))
