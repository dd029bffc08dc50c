"""Blur by a kernel and every s-th pixel, held against loops over the definition, scipy and linear algebra."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from superfine.classical.kernels import (
    KernelReduction,
    Kernels,
    anisotropic_kernel,
    check_kernel,
    kernel_correlation,
    middle,
    resampler_kernel,
    rounding_and,
    straight_motion_kernel,
    weighted_at_random,
)
from superfine.classical.resample import resize
from superfine.errors import ShapeError, UsageError

each_scale = pytest.mark.parametrize("scale", [2, 3, 4])


def rng(seed=0):
    return np.random.default_rng(seed)


def some_kernel(rows, cols, seed=0):
    weights = rng(seed).random((rows, cols))
    return weights / weights.sum()


def psnr(one, other, crop=8):
    inner = (slice(crop, -crop), slice(crop, -crop))
    return -10 * np.log10(np.mean((one[inner] - other[inner]) ** 2))


def as_matrix(reduction):
    """The operation's matrix, column by column."""
    rows, cols = (reduction.scale * side for side in reduction.size)
    eye = np.eye(rows * cols).reshape(rows * cols, rows, cols)
    return reduction(eye).reshape(rows * cols, -1).T


# ---- the operation


@each_scale
@pytest.mark.parametrize("taps", [(1, 1), (2, 3), (5, 4), (11, 10), (13, 12)])
def test_it_is_the_definition(scale, taps):
    """Tap i of n takes large pixel s*r + (s-1)//2 + n//2 - i, the border replicated."""
    size, kernel = (7, 6), some_kernel(*taps)
    large = rng(1).random((2, scale * 7, scale * 6))
    wanted = np.zeros((2, *size))
    for r, c in np.ndindex(size):
        for i, j in np.ndindex(taps):
            down = np.clip(scale * r + (scale - 1) // 2 + taps[0] // 2 - i, 0, scale * 7 - 1)
            across = np.clip(scale * c + (scale - 1) // 2 + taps[1] // 2 - j, 0, scale * 6 - 1)
            wanted[:, r, c] += kernel[i, j] * large[:, down, across]
    np.testing.assert_allclose(KernelReduction(kernel, scale, size)(large), wanted, atol=1e-14)


@each_scale
def test_an_odd_kernel_is_scipys_convolution(scale):
    large, kernel = rng(2).random((scale * 9, scale * 8)), some_kernel(7, 5)
    blurred = ndimage.convolve(large, kernel, mode="nearest")
    first = (scale - 1) // 2
    np.testing.assert_allclose(
        KernelReduction(kernel, scale, (9, 8))(large), blurred[first::scale, first::scale], atol=1e-14
    )


@each_scale
@pytest.mark.parametrize("side", [10, 11])
def test_a_centred_kernel_keeps_the_place(scale, side):
    """A slope made small shows its value at the point of the centre rule, s*r + (s-1)/2."""
    slope = np.broadcast_to(np.arange(scale * 20, dtype=float)[:, None], (scale * 20, scale * 20))
    small = KernelReduction(anisotropic_kernel(side, scale, (1.0, 0.4), 30), scale, (20, 20))(slope)
    wanted = scale * np.arange(20) + (scale - 1) / 2
    np.testing.assert_allclose(small[6:-6, 10], wanted[6:-6], atol=1e-2)  # tails are cut off unevenly


@each_scale
def test_bicubic_as_a_kernel_is_the_bicubic_reduction(scale):
    large = rng(3).random((scale * 12, scale * 10))
    kernel = resampler_kernel(4 * scale + scale % 2, scale, "bicubic")
    wanted = resize(large[..., None], (12, 10))[..., 0]
    made = KernelReduction(kernel, scale, (12, 10))(large)
    np.testing.assert_allclose(made[3:-3, 3:-3], wanted[3:-3, 3:-3], atol=1e-6)


@each_scale
def test_box_as_a_kernel_is_the_mean(scale):
    large = rng(4).random((scale * 6, scale * 5))
    made = KernelReduction(resampler_kernel(2 * scale + scale % 2, scale, "box"), scale, (6, 5))(large)
    np.testing.assert_allclose(made, large.reshape(6, scale, 5, scale).mean(axis=(1, 3)), atol=1e-14)


@each_scale
@pytest.mark.parametrize("taps", [(1, 1), (4, 7), (11, 8)])
def test_the_adjoint_is_the_transpose(scale, taps):
    reduction = KernelReduction(some_kernel(*taps), scale, (6, 5))
    small = rng(5).random((6, 5))
    wanted = as_matrix(reduction).T @ small.ravel()
    np.testing.assert_allclose(reduction.adjoint(small).ravel(), wanted, atol=1e-13)


# ---- the ways back


@each_scale
def test_the_likeliest_is_better_than_bicubic_by_decibels(scale):
    large = data.astronaut()[: 480 // scale * scale, : 480 // scale * scale, 1] / 255
    size = (large.shape[0] // scale, large.shape[1] // scale)
    reduction = KernelReduction(
        anisotropic_kernel(8 * scale + scale % 2, scale, ((0.7 * scale) ** 2,) * 2, 0), scale, size
    )
    small = np.round(255 * reduction(large)) / 255
    bicubic = resize(small[..., None], large.shape)[..., 0]
    assert psnr(reduction.likeliest(small, rounding_and(0)), large) > psnr(bicubic, large) + 2.5


def test_the_likeliest_is_the_solution_of_the_normal_equations():
    """(A'A / noise^2 + prior^-1) x = A'y / noise^2, where the mirror beyond the border doesn't reach."""
    kernel, size, noise = anisotropic_kernel(6, 2, (1.0, 0.5), 20), (64, 64), 0.02
    reduction = KernelReduction(kernel, 2, size)
    small = ndimage.gaussian_filter(rng(6).random(size), 2)
    small -= small.mean()
    x = reduction.likeliest(small, noise)
    down, right = (np.fft.fftfreq(128) for _ in range(2))
    inverse = (2 * np.pi) ** 2 * (down[:, None] ** 2 + right**2 + 0.002**2) / 0.05**2
    prior = np.fft.ifft2(inverse * np.fft.fft2(x)).real
    data_term = reduction.adjoint(small - reduction(x)) / noise**2
    inner = (slice(40, -40), slice(40, -40))
    np.testing.assert_allclose(prior[inner], data_term[inner], atol=0.02 * np.abs(data_term[inner]).max())


def test_noise_is_not_amplified():
    large = data.astronaut()[:400, :400, 1] / 255
    reduction = KernelReduction(anisotropic_kernel(12, 2, (2.56, 2.56), 0), 2, (200, 200))
    small = reduction(large) + rng(7).normal(0, 3 / 255, (200, 200))
    told, trusting = (psnr(reduction.likeliest(small, rounding_and(noise)), large) for noise in (3, 0))
    bicubic = psnr(resize(small[..., None], large.shape)[..., 0], large)
    assert told > bicubic + 0.5
    assert told > trusting + 2


@each_scale
@pytest.mark.parametrize("sigma", [0.3, 0.8])
def test_consistent_to_half_a_level_and_nearer_to_the_truth(scale, sigma):
    large = data.astronaut()[: 240 // scale * scale, : 240 // scale * scale, 1] / 255
    size = (large.shape[0] // scale, large.shape[1] // scale)
    kernel = anisotropic_kernel(8 * scale + scale % 2, scale, ((sigma * scale) ** 2, (0.5 * sigma * scale) ** 2), 40)
    reduction = KernelReduction(kernel, scale, size)
    small = np.round(255 * reduction(large)) / 255
    start = reduction.likeliest(small, rounding_and(0))
    nearer = reduction.corrected(start, small, rounding_and(0))
    made = reduction.consistent(nearer, small, 0.5 / 255)
    missed = [np.abs(reduction(each) - small).max() for each in (start, nearer, made)]
    assert missed[1] < missed[0]
    assert missed[2] <= 0.5 / 255
    assert psnr(made, large, 1) > psnr(start, large, 1)
    assert abs(psnr(made, large, 1) - psnr(nearer, large, 1)) < 0.1


@each_scale
def test_consistent_from_far_away(scale):
    """From a grey picture too, and with hard edges."""
    large = np.zeros((scale * 30, scale * 25))
    large[scale * 10 + 1 :, scale * 7 :] = 1
    reduction = KernelReduction(
        anisotropic_kernel(4 * scale + scale % 2, scale, ((0.4 * scale) ** 2,) * 2, 0), scale, (30, 25)
    )
    small = np.round(255 * reduction(large)) / 255
    made = reduction.consistent(np.full(large.shape, 0.5), small, 0.5 / 255)
    assert np.abs(reduction(made) - small).max() <= 0.5 / 255


def test_a_correction_is_the_solution_of_its_normal_equations():
    """(A'A / noise^2 + 1 / error^2) change = A'missing / noise^2, where the mirror beyond the border doesn't reach."""
    reduction, noise = KernelReduction(anisotropic_kernel(6, 2, (1.0, 0.5), 20), 2, (64, 64)), 0.02
    large = ndimage.gaussian_filter(rng(11).random((128, 128)), 2)
    small = reduction(large) + 0.1 * ndimage.gaussian_filter(rng(12).normal(size=(64, 64)), 2)
    change = reduction.corrected(large, small, noise) - large
    wanted = reduction.adjoint(small - reduction(large) - reduction(change)) / noise**2
    inner = (slice(40, -40), slice(40, -40))
    np.testing.assert_allclose(change[inner] / 0.015**2, wanted[inner], atol=0.02 * np.abs(wanted[inner]).max())


@pytest.mark.parametrize("taps", [(15, 15), (1, 31), (24, 9)])
def test_consistent_where_the_border_weighs_most(taps):
    """A wide kernel on a small picture: the replicated border is most of what is seen."""
    reduction = KernelReduction(some_kernel(*taps), 2, (16, 18))
    largest = np.linalg.eigvalsh(as_matrix(reduction) @ as_matrix(reduction).T)[-1]
    assert largest <= reduction._largest <= 1.2 * largest
    large = ndimage.gaussian_filter(rng(13).random((32, 36)), 1)
    small = np.round(255 * reduction(large)) / 255
    made = reduction.consistent(np.full(large.shape, 0.5), small, 0.5 / 255, turns=2000)
    assert np.abs(reduction(made) - small).max() <= 0.5 / 255


def test_what_is_consistent_already_stays():
    reduction = KernelReduction(some_kernel(5, 5), 2, (20, 20))
    large = rng(8).random((40, 40))
    np.testing.assert_array_equal(reduction.consistent(large, reduction(large), 1e-6), large)


def test_only_what_the_operation_sees_is_changed():
    """The change is a combination of the operation's own rows."""
    reduction = KernelReduction(some_kernel(4, 4), 2, (6, 5))
    large, small = rng(9).random((12, 10)), rng(10).random((6, 5))
    assert np.abs(reduction(reduction.consistent(large, small, 1e-2)) - small).max() <= 1e-2
    change = (reduction.consistent(large, small, 1e-2) - large).ravel()
    matrix = as_matrix(reduction)
    np.testing.assert_allclose(matrix.T @ np.linalg.lstsq(matrix.T, change, rcond=None)[0], change, atol=1e-8)


# ---- kernels


def test_the_middle_is_the_point_of_the_centre_rule():
    assert [middle(11, 2), middle(10, 2), middle(11, 3), middle(31, 4), middle(32, 4)] == [4.5, 4.5, 5, 14.5, 15.5]


def test_a_gaussian_has_its_variances_and_its_angle():
    kernel = anisotropic_kernel(61, 3, (16.0, 4.0), 30)
    down, right = np.mgrid[:61, :61] - 30.0
    up = -down
    spread = np.array([[(kernel * one * other).sum() for other in (right, up)] for one in (right, up)])
    variances, axes = np.linalg.eigh(spread)
    np.testing.assert_allclose(variances, [4, 16], rtol=1e-3)
    assert np.degrees(np.arctan2(axes[1, 1], axes[0, 1])) % 180 == pytest.approx(30, abs=0.1)


def test_a_motion_is_as_long_as_said():
    kernel = straight_motion_kernel(41, 3, 12.0, 90, 1.0)
    down, right = np.mgrid[:41, :41] - 20.0
    assert (kernel * down**2).sum() == pytest.approx(12**2 / 12 + 1, rel=0.01)
    assert (kernel * right**2).sum() == pytest.approx(1, rel=0.01)


def test_uneven_weights_keep_within_their_share():
    kernel = anisotropic_kernel(11, 2, (2.0, 1.0), 0)
    uneven = weighted_at_random(kernel, 0.25, rng())
    ratio = uneven / kernel
    assert uneven.sum() == pytest.approx(1)
    assert ratio.min() > 0.75 / 1.25
    assert ratio.max() < 1.25 / 0.75
    assert ratio.std() > 0.1


def test_correlation_of_kernels():
    narrow, wide = anisotropic_kernel(11, 3, (1.0, 1.0), 0), anisotropic_kernel(21, 3, (4.0, 4.0), 0)
    # Of two continuous round Gaussians: 2*a*b / (a*a + b*b) with their sigmas.
    assert kernel_correlation(narrow, wide) == pytest.approx(2 * 1 * 2 / (1 + 4), abs=2e-3)
    assert kernel_correlation(narrow, np.pad(narrow, 3)) == pytest.approx(1)


def test_drawn_kernels_are_fit_for_use_and_always_the_same():
    kernels = Kernels()
    for seed in range(40):
        drawn = kernels.draw(rng(seed))
        again = kernels.draw(rng(seed))
        for kernel in (drawn.made, drawn.taken):
            check_kernel(kernel)
        np.testing.assert_array_equal(drawn.made, again.made)
        large = data.camera()[:48, :48] / 255
        start = drawn.start(large, rng(seed))
        assert start.shape == large.shape
        assert 0 <= start.min() <= start.max() <= 1
    scales = {kernels.draw(rng(seed)).scale for seed in range(40)}
    assert scales == {2, 3, 4}


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.ones(5) / 5, r"k\.npy: has the shape \(5,\)"),
        (np.ones((0, 3)), r"k\.npy: has the shape \(0, 3\)"),
        (np.full((3, 3), np.nan), r"k\.npy: holds NaN"),
        (np.ones((3, 3)), r"k\.npy: its weights add up to 9, not 1; divide them by that"),
        (np.ones((65, 1)) / 65, r"k\.npy: is 65 x 1; crop it to at most 63 a side"),
    ],
)
def test_unfit_kernels(kernel, words):
    with pytest.raises(UsageError, match=words):
        check_kernel(kernel, "k.npy")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"factors": ()}, r"factors = \(\); want whole numbers from one"),
        ({"round": 1.5}, "round = 1.5; want a share from 0 to 1"),
        ({"round": 0.6, "long": 0.6}, "round, long and motion add up to more than one"),
        ({"sigma": (1.0, 0.5)}, r"sigma = \[1, 0.5\]; want \[least, most\] from 0.05"),
        ({"sigma": (0.0, 0.5)}, r"sigma = \[0, 0.5\]; want \[least, most\] from 0.05"),
    ],
)
def test_kernels_that_can_not_be_drawn(wrong, words):
    with pytest.raises(UsageError, match=words):
        Kernels(**wrong)


def test_a_kernel_larger_than_the_picture():
    with pytest.raises(ShapeError, match="a kernel of 21 x 21 is larger than the enlarged picture of 20 x 40"):
        KernelReduction(some_kernel(21, 21), 2, (10, 20))
