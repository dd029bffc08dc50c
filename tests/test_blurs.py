"""Blurs to judge by: their kernels' moments against what their words say, the small pictures against scipy."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from superfine.classical.blurs import BLURS, blurred
from superfine.classical.kernels import SCALES
from superfine.classical.resample import resize
from superfine.errors import ShapeError

PHOTO = np.ascontiguousarray(data.astronaut()[60:180, 180:276])  # 120 x 96, so that 2, 3 and 4 divide it


def moments(kernel, scale):
    """Mean (down, right) from the centre rule's point, and covariance, of the places that a small pixel is made of."""
    side = len(kernel)
    # Tap i takes large pixel (s-1)//2 + n//2 - i; the small pixel lies over (s-1)/2.
    place = (scale - 1) // 2 + side // 2 - np.arange(side) - (scale - 1) / 2
    places = np.stack(np.meshgrid(place, place, indexing="ij"), axis=-1).reshape(-1, 2)
    weight = kernel.reshape(-1)
    mean = weight @ places
    return mean, (places - mean).T @ ((places - mean) * weight[:, None])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", BLURS)
def test_kernels_add_up_and_are_centred(name, scale):
    for number in range(BLURS[name].each):
        kernel = BLURS[name].kernel(scale, 2, number)
        assert kernel.dtype == np.float64
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        mean, _ = moments(kernel, scale)
        # Uneven weights move the mean a little; Gaussians cut off by an odd number of taps at an even scale, too.
        np.testing.assert_allclose(mean, 0, atol=0.12 * scale if name == "anisotropic" else 1e-6)


@pytest.mark.parametrize(("scale", "least", "most"), [(2, 0.8, 1.6), (3, 1.35, 2.4), (4, 1.8, 3.2)])
def test_the_eight_gaussians_are_round_with_even_steps(scale, least, most):
    for number, sigma in enumerate(np.linspace(least, most, 8)):
        _, covariance = moments(BLURS["gaussian8"].kernel(scale, 0, number), scale)
        # Ten pixels of radius cut 0.5 % off the variance of the widest, at most 2.5 %.
        np.testing.assert_allclose(covariance, sigma**2 * np.eye(2), atol=0.025 * sigma**2)


@pytest.mark.parametrize("scale", SCALES)
def test_anisotropic_kernels_are_gaussians_with_uneven_weights(scale):
    shares, variances = [], []
    for place in range(12):
        kernel = BLURS["anisotropic"].kernel(scale, place, place % 3)
        down, right = np.mgrid[: len(kernel), : len(kernel)].reshape(2, -1) - (len(kernel) - 1) / 2
        strong = kernel.reshape(-1) > 1e-9 * kernel.max()  # beyond, logarithms tell of the floating point alone
        terms = np.stack([np.ones(down.shape), down, right, down**2, down * right, right**2])[:, strong].T
        wanted = np.log(kernel.reshape(-1)[strong])
        found, *_ = np.linalg.lstsq(terms, wanted)
        shares.append(np.exp(wanted - terms @ found))
        curvature = -np.array([[2 * found[3], found[4]], [found[4], 2 * found[5]]])
        variances.append(1 / np.linalg.eigvalsh(curvature))
    every = np.concatenate(shares)
    assert 0.68 < every.min() < 0.85  # 0.75 to 1.25 as drawn, a little wider around the fitted mean
    assert 1.15 < every.max() < 1.4
    assert np.std(every) == pytest.approx(0.5 / np.sqrt(12), rel=0.12)
    low, high = 0.6 * (scale / 2) ** 2, 5 * (scale / 2) ** 2
    assert np.min(variances) > 0.9 * low
    assert np.max(variances) < 1.1 * high
    assert np.max(variances) > 2 * np.min(variances)


@pytest.mark.parametrize("scale", SCALES)
def test_motions_are_as_long_as_they_say(scale):
    lengths = []
    for place in range(8):
        _, covariance = moments(BLURS["motion"].kernel(scale, place, 1), scale)
        across, along = np.linalg.eigvalsh(covariance)
        assert across == pytest.approx((0.35 * scale) ** 2, rel=0.03)
        lengths.append(np.sqrt(12 * (along - across)) / scale)
    assert 1.4 < min(lengths) < max(lengths) < 5.1
    assert max(lengths) - min(lengths) > 1.5


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["gaussian8", "anisotropic", "motion"])
def test_small_pictures_against_scipy(name, scale):
    kernel = BLURS[name].kernel(scale, 1, 2)
    small = blurred(PHOTO, kernel, scale)
    first = (scale - 1) // 2
    wanted = np.stack(
        [ndimage.convolve(PHOTO[..., c].astype(float), kernel, mode="nearest") for c in range(3)],
        axis=-1,
    )[first::scale, first::scale]
    assert small.dtype == np.uint8
    assert small.shape == (PHOTO.shape[0] // scale, PHOTO.shape[1] // scale, 3)
    assert np.abs(small - wanted.clip(0, 255)).max() < 0.5 + 1e-6


@pytest.mark.parametrize("scale", SCALES)
def test_the_published_sets_blur_and_then_reduce_by_bicubic(scale):
    number = 5
    sigma = np.linspace(*{2: (0.8, 1.6), 3: (1.35, 2.4), 4: (1.8, 3.2)}[scale], 8)[number]
    soft = ndimage.gaussian_filter(PHOTO.astype(np.float64), (sigma, sigma, 0), radius=(10, 10, 0), mode="nearest")
    size = (PHOTO.shape[0] // scale, PHOTO.shape[1] // scale)
    wanted = 255 * resize((soft / 255).astype(np.float32), size, "bicubic")
    small = blurred(PHOTO, BLURS["gaussian8-bicubic"].kernel(scale, 0, number), scale)
    # At the border, one replicates the blurred picture and the other the sharp one.
    inside = (slice(3, -3), slice(3, -3))
    assert np.abs(small - wanted.clip(0, 255))[inside].max() < 0.51


def test_kernels_are_the_same_each_time_and_differ_from_each_other():
    for name in ("anisotropic", "motion"):
        kernel = BLURS[name].kernel
        np.testing.assert_array_equal(kernel(2, 3, 1), kernel(2, 3, 1))
        known = [kernel(2, place, number).tobytes() for place in range(3) for number in range(3)]
        assert len(set(known)) == 9


def test_words_say_all_that_matters():
    assert BLURS["gaussian8"].words(2) == (
        "gaussian8: 8 round Gaussians each, sigma 0.8-1.6, 22x22, direct subsampling centred on (s-1)/2"
    )
    assert BLURS["anisotropic"].words(4) == (
        "anisotropic: 3 kernels each, variances 2.4-20, 31x31, weights times 0.75-1.25, direct subsampling centred on"
        " (s-1)/2, seed 1"
    )
    assert "length 3-10, softened by sigma 0.7, 16x16" in BLURS["motion"].words(2)


def test_a_picture_smaller_than_the_kernel():
    kernel = BLURS["gaussian8"].kernel(2, 0, 0)
    with pytest.raises(ShapeError, match="a kernel of 22 x 22 is larger than the enlarged picture of 20 x 96"):
        blurred(np.ascontiguousarray(PHOTO[:20]), kernel, 2)
