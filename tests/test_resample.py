"""Resampling against its written rule, Pillow, scikit-image and NumPy."""

import math

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize as skimage_resize

from superfine.classical.resample import KERNELS, matlab_resize, resize, resize_bands, taps
from superfine.errors import ShapeError, UsageError

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIZES = [
    ((17, 23), (34, 46)),
    ((17, 23), (51, 69)),
    ((30, 40), (10, 10)),
    ((17, 23), (11, 31)),
    ((13, 9), (7, 20)),
    ((1, 1), (3, 4)),
]
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_size = pytest.mark.parametrize(("old", "new"), SIZES, ids=str)


def noise(size, seed=0):
    return np.random.default_rng(seed).random(size)


# ---- MATLAB's imresize


def cubic(distance):
    d = abs(distance)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d <= 2 else 0.0


def imresize_line(line, count):
    """One line as The MathWorks document it: u = x/scale + (1 - 1/scale)/2, counted from one; wider when shrinking."""
    scale = count / len(line)
    width = 4 / min(scale, 1)
    made = []
    for x in range(1, count + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        places = range(left, left + math.ceil(width) + 2)
        weights = [min(scale, 1) * cubic(min(scale, 1) * (u - place)) for place in places]
        values = [line[min(max(place, 1), len(line)) - 1] for place in places]  # the border is replicated
        exact = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        made.append(min(max(math.floor(exact + 0.5), 0), 255))
    return made


def imresize(picture, size):
    """Both axes, the one that shrinks more first, rounded to 8 bits after each."""
    order = (0, 1) if size[0] / picture.shape[0] <= size[1] / picture.shape[1] else (1, 0)
    for axis in order:
        lines = np.moveaxis(picture, axis, 0)
        flat = lines.reshape(len(lines), -1).T.tolist()
        made = np.array([imresize_line(line, size[axis]) for line in flat], np.uint8).T
        picture = np.moveaxis(made.reshape(size[axis], *lines.shape[1:]), 0, axis)
    return picture


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *[((24, 36, 3), (24 // scale, 36 // scale)) for scale in (2, 3, 4)],
        *[((7, 9, 3), (7 * scale, 9 * scale)) for scale in (2, 3, 4)],
        ((20, 30), (13, 19)),
        ((20, 30), (31, 44)),
        ((20, 30), (31, 11)),
        ((30, 20), (9, 11)),
        ((1, 5), (2, 3)),
    ],
    ids=str,
)
def test_matlab_by_its_written_rule(old, new):
    """Levels are black, white or between: overshoot has to be clipped between the passes."""
    picture = np.random.default_rng(1).choice(np.array([0, 255, 255, 0, 90, 161], np.uint8), old)
    np.testing.assert_array_equal(matlab_resize(picture, new), imresize(picture, new))


def test_matlab_golden():
    """Worked out by hand: halving, a pixel weighs (-3, -9, 29, 111, 111, 29, -9, -3) / 256."""
    edge = np.array([[0] * 8 + [255] * 8], np.uint8)
    after = 255 * (29 - 9 - 3) / 256  # 16.9: what lies beyond the edge weighs this much
    wanted = [0, 0, 0, round(after), round(255 - after), 255, 255, 255]
    np.testing.assert_array_equal(matlab_resize(edge, (1, 8))[0], wanted)
    single = np.zeros((1, 16), np.uint8)
    single[0, 7] = 255
    np.testing.assert_array_equal(matlab_resize(single, (1, 8))[0], [0, 0, 0, 111, 29, 0, 0, 0])


def test_matlab_wants_8_bits():
    with pytest.raises(ShapeError, match="want uint8, got float64"):
        matlab_resize(noise((4, 4)), (2, 2))


# ---- other witnesses


@each_size
@pytest.mark.parametrize("kernel", PILLOW)
def test_against_pillow(kernel, old, new):
    """Pillow leaves taps outside the picture out, so only the inside is compared."""
    picture = noise(old).astype(np.float32)
    theirs = np.asarray(Image.fromarray(picture).resize(new[::-1], PILLOW[kernel]))
    ours = resize(picture, new, kernel)
    reach = [math.ceil(KERNELS[kernel].radius * max(1, n / o) + 1) for o, n in zip(old, new, strict=True)]
    inside = tuple(slice(edge, side - edge) for edge, side in zip(reach, new, strict=True))
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=3e-6)


@pytest.mark.parametrize("new", [(22, 26), (33, 39), (17, 29)])
def test_bilinear_against_scikit_image(new):
    picture = noise((11, 13))
    np.testing.assert_allclose(
        resize(picture, new, "bilinear"), skimage_resize(picture, new, order=1, mode="edge"), atol=1e-12
    )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nearest_is_repetition(scale):
    picture = noise((5, 7, 3))
    wanted = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    np.testing.assert_array_equal(resize(picture, (5 * scale, 7 * scale), "nearest"), wanted)


def test_nearest_downwards_takes_the_pixel_at_the_place():
    picture = noise((9, 12))
    np.testing.assert_array_equal(resize(picture, (3, 4), "nearest"), picture[1::3, 1::3])


def test_bicubic_of_a_slope_is_the_slope():
    """Keys' kernel reproduces straight lines and parabolas; away from the border."""
    x, new = np.arange(20.0), (np.arange(50) + 0.5) * 0.4 - 0.5
    for power in (1, 2):
        made = resize(np.tile(x**power, (20, 1)), (20, 50))
        np.testing.assert_allclose(made[0, 6:-6], new[6:-6] ** power, atol=1e-9)


# ---- laws


@each_size
@each_kernel
def test_bands_equal_the_whole_to_the_bit(kernel, old, new):
    for dtype in (np.float32, np.float64):
        picture = noise((*old, 3)).astype(dtype)
        whole = resize(picture, new, kernel)
        assert whole.dtype == dtype
        for rows in (1, 2, 5, 128):
            asked: list[int] = []

            def read(start, stop, asked=asked, picture=picture):
                asked.append(start)
                return picture[start:stop]

            bands = list(resize_bands(read, old, new, kernel, rows=rows))
            np.testing.assert_array_equal(np.concatenate(bands), whole)
            assert asked == sorted(asked)


def test_bands_of_a_wide_picture_equal_the_whole_to_the_bit():
    """Wide enough that the work inside goes block by block."""
    picture = noise((40, 30_000, 3)).astype(np.float32)
    bands = resize_bands(lambda start, stop: picture[start:stop], (40, 30_000), (61, 20_000), rows=17)
    np.testing.assert_array_equal(np.concatenate(list(bands)), resize(picture, (61, 20_000)))


@each_size
@each_kernel
def test_an_even_picture_stays_even(kernel, old, new):
    np.testing.assert_allclose(resize(np.full((*old, 3), 0.7), new, kernel), 0.7, rtol=1e-14)


@each_size
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "nearest"])
def test_mirror_in_mirror_out(kernel, old, new):
    picture = noise(old)
    mirrored = resize(picture[::-1, ::-1], new, kernel)[::-1, ::-1]
    np.testing.assert_allclose(mirrored, resize(picture, new, kernel), atol=1e-14)


@each_kernel
def test_the_same_size_is_the_same_picture(kernel):
    picture = noise((8, 9, 2))
    np.testing.assert_array_equal(resize(picture, (8, 9), kernel), picture)
    line = taps(8, 8, KERNELS[kernel])
    np.testing.assert_array_equal(line.weight[np.arange(8), (line.index == np.arange(8)[:, None]).argmax(1)], 1)


@each_kernel
@pytest.mark.parametrize("count", [1, 2, 7, 16, 33, 100])
def test_taps_lie_in_the_picture_and_add_up_to_one(kernel, count):
    line = taps(16, count, KERNELS[kernel])
    assert line.index.min() >= 0
    assert line.index.max() < 16
    np.testing.assert_allclose(line.weight.sum(axis=1), 1, rtol=1e-14)
    assert line.bounds(0, count) == (line.index.min(), line.index.max() + 1)


def test_planes_and_channels_agree():
    picture = noise((9, 11, 3))
    whole = resize(picture, (14, 8))
    for channel in range(3):
        np.testing.assert_array_equal(whole[..., channel], resize(picture[..., channel], (14, 8)))


@pytest.mark.parametrize(
    ("picture", "size", "kernel", "error", "words"),
    [
        (np.zeros((4, 4), np.uint8), (8, 8), "bicubic", ShapeError, "want a floating array, got uint8"),
        (np.zeros(4), (8, 8), "bicubic", ShapeError, r"want \(H, W\) or \(H, W, C\)"),
        (np.zeros((0, 4)), (8, 8), "bicubic", ShapeError, "without an empty side"),
        (np.zeros((4, 4)), (0, 8), "bicubic", UsageError, "cannot resample to 0 x 8"),
        (
            np.zeros((4, 4)),
            (8, 8),
            "cubic",
            UsageError,
            "no kernel 'cubic'; there are nearest, bilinear, bicubic, lanczos",
        ),
    ],
)
def test_wrong_input(picture, size, kernel, error, words):
    with pytest.raises(error, match=words):
        resize(picture, size, kernel)
