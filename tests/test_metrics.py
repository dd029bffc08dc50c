"""PSNR and SSIM against scikit-image and by hand."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from superfine.errors import ShapeError
from superfine.evaluate.metrics import crop_border, psnr, squared_error, ssim


def pair(shape, noise, seed=0):
    draw = np.random.default_rng(seed)
    first = np.cumsum(np.cumsum(draw.normal(size=shape), axis=0), axis=1)
    first = (first - first.min()) / np.ptp(first)
    return first, (first + draw.normal(0, noise, shape)).clip(0, 1)


@pytest.mark.parametrize("noise", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("peak", [1.0, 255.0])
@pytest.mark.parametrize("shape", [(40, 31), (12, 17, 3)])
def test_psnr_against_scikit_image(shape, peak, noise):
    first, second = (peak * plane for plane in pair(shape, noise))
    assert psnr(first, second, peak=peak) == pytest.approx(
        peak_signal_noise_ratio(second, first, data_range=peak), abs=1e-9
    )


def test_psnr_by_hand():
    assert psnr(np.zeros((4, 5)), np.full((4, 5), 0.1)) == pytest.approx(20)
    assert psnr(np.zeros((4, 5)), np.full((4, 5), 1.0)) == 0
    assert squared_error(np.zeros((4, 5)), np.full((4, 5), 0.5)) == (5.0, 20)


def test_equal_pictures_are_infinitely_close():
    picture, _ = pair((20, 20), 0.1)
    assert psnr(picture, picture.copy()) == float("inf")
    assert ssim(picture, picture.copy()) == pytest.approx(1, abs=1e-12)


def test_whole_levels_do_not_wrap_around():
    low, high = np.zeros((9, 9), np.uint8), np.full((9, 9), 255, np.uint8)
    assert psnr(low, high, peak=255) == psnr(high, low, peak=255) == 0


@pytest.mark.parametrize("noise", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("peak", [1.0, 255.0])
@pytest.mark.parametrize("shape", [(11, 11), (11, 30), (48, 37), (64, 42), (65, 43), (140, 97)])
def test_ssim_against_scikit_image(shape, peak, noise):
    first, second = (peak * plane for plane in pair(shape, noise))
    _, whole = structural_similarity(
        first, second, data_range=peak, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert ssim(first, second, peak=peak) == pytest.approx(crop_border(whole, 5).mean(), abs=1e-6)


def test_crop_border():
    picture = np.arange(7 * 9 * 3).reshape(7, 9, 3)
    np.testing.assert_array_equal(crop_border(picture, 3), picture[3:4, 3:6])
    np.testing.assert_array_equal(crop_border(picture, 0), picture)
    with pytest.raises(ShapeError, match=r"nothing is left of \(7, 9\) after cropping 4 px"):
        crop_border(picture, 4)


@pytest.mark.parametrize("measure", [psnr, ssim, squared_error])
def test_pictures_of_different_shapes(measure):
    with pytest.raises(ShapeError, match=r"\(12, 13\)"):
        measure(np.zeros((12, 13)), np.zeros((13, 12)))


@pytest.mark.parametrize("shape", [(10, 20), (20, 10), (20, 20, 3)])
def test_ssim_wants_planes_that_hold_its_window(shape):
    with pytest.raises(ShapeError, match="want two equal planes of 11 px or more a side"):
        ssim(np.zeros(shape), np.zeros(shape))
