"""Reductions against the resizers that they stand for, scikit-image, SciPy and dense linear algebra."""

import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage.measure import block_reduce

from pictures import bicubic_by_formula
from superfine.classical.kernels import anisotropic_kernel
from superfine.classical.reduction import (
    REDUCTIONS,
    across,
    kernel_reduction,
    nearly_inverse,
    reduction,
    resampling_line,
)
from superfine.classical.resample import matlab_resize
from superfine.errors import ShapeError, UsageError

SCALES = (1, 2, 3, 4, 5, 8, 16)
SIZES = ((1, 1), (1, 7), (9, 2), (21, 34))
each_scale = pytest.mark.parametrize("scale", SCALES)
each_size = pytest.mark.parametrize("size", SIZES, ids=str)
each_name = pytest.mark.parametrize("name", REDUCTIONS)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def dense(operator, size):
    """The whole matrix, row by row of `size` samples."""
    patch = operator.patch(size, (0, size[0]), (0, size[1]))
    rows, cols = (operator.scale * side for side in size)
    return patch.reduce(np.eye(rows * cols).reshape(-1, rows, cols)).reshape(rows * cols, -1).T


def blurred(large, kernel, scale):
    """Convolution by SciPy with the edge replicated, then every s-th pixel by the centre rule."""
    taps = kernel.shape
    far = [(n + scale, n + scale) for n in taps]
    full = convolve2d(np.pad(large, far, mode="edge"), kernel, mode="full")
    first = [n + scale + n // 2 + (scale - 1) // 2 for n in taps]
    rows, cols = (side // scale for side in large.shape)
    return full[first[0] :: scale, first[1] :: scale][:rows, :cols]


@each_size
@each_scale
def test_bicubic_is_its_formula(scale, size):
    large = noise(scale * size[0], scale * size[1], 3)
    for name in ("bicubic", "matlab-bicubic"):
        np.testing.assert_allclose(reduction(name, scale)(large), bicubic_by_formula(large, size), atol=1e-12)


@each_scale
def test_matlab_bicubic_is_matlabs_but_for_its_rounding(scale):
    large = np.random.default_rng(1).integers(60, 190, (12 * scale, 15 * scale, 3), np.uint8)
    off = reduction("matlab-bicubic", scale)(large.astype(np.float64)) - matlab_resize(large, (12, 15))
    assert np.abs(off).max() <= 0.5 * reduction("bicubic", scale).gain ** 0.5 + 0.5 + 1e-4  # rounded after each axis
    assert scale == 1 or np.abs(off).max() > 0


@each_size
@each_scale
def test_box_is_the_block_mean(scale, size):
    large = noise(scale * size[0], scale * size[1])
    np.testing.assert_allclose(reduction("box", scale)(large), block_reduce(large, (scale, scale), np.mean), atol=1e-12)


@each_size
@pytest.mark.parametrize("taps", [(1, 1), (3, 5), (8, 8), (9, 4)], ids=str)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 7])
def test_kernel_is_scipys_convolution(scale, taps, size):
    kernel = noise(*taps, seed=2)
    kernel /= kernel.sum()
    large = noise(scale * size[0], scale * size[1])
    np.testing.assert_allclose(kernel_reduction(kernel, scale)(large), blurred(large, kernel, scale), atol=1e-12)


@each_size
def test_channels_are_alike(size):
    large = noise(3 * size[0], 3 * size[1], 4)
    for operator in (reduction("bicubic", 3), kernel_reduction(np.full((3, 3), 1 / 9), 3)):
        planes = [operator(large[..., channel]) for channel in range(4)]
        np.testing.assert_allclose(operator(large), np.stack(planes, axis=2), atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["bicubic", "box", "kernel"])
def test_patch_is_a_piece_and_its_adjoint_the_transpose(name, scale):
    kernel = noise(7, 4, seed=3)
    operator = kernel_reduction(kernel / kernel.sum(), scale) if name == "kernel" else reduction(name, scale)
    size, rows, cols = (30, 26), (0, 17), (9, 26)
    large = noise(1, scale * size[0], scale * size[1])
    patch = operator.patch(size, rows, cols)
    piece = large[:, scale * rows[0] : scale * rows[1], scale * cols[0] : scale * cols[1]]
    whole = operator(large[0])[rows[0] : rows[1], cols[0] : cols[1]]
    assert patch.whole[: 17 - operator.reach, operator.reach :].all()
    np.testing.assert_allclose(patch.reduce(piece)[0][patch.whole], whole[patch.whole], atol=1e-12)
    back = noise(1, 17, 17, seed=4)
    assert np.vdot(patch.adjoint(back), piece) == pytest.approx(np.vdot(back, patch.reduce(piece)))


@pytest.mark.parametrize("name", ["bicubic", "box"])
@pytest.mark.parametrize("scale", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 5, 40, 150])
def test_inverting_is_the_pseudoinverse(count, scale, name):
    line = reduction(name, scale).line(count)
    matrix, span = line.reducing(0, count)
    assert span == (0, scale * count)
    wanted = np.linalg.pinv(matrix)
    for start, stop in ((0, count), (count // 3, count // 3 + 1)):
        made, (first, last) = line.inverting(start, stop)
        np.testing.assert_allclose(made, wanted[scale * start : scale * stop, first:last], atol=1e-9)
        left_out = np.delete(wanted[scale * start : scale * stop], np.arange(first, last), axis=1)
        assert np.abs(left_out).max(initial=0) < 1e-9


def test_blocks_make_the_whole_line():
    line, rows = reduction("bicubic", 2).line(77), noise(3, 5, 154).astype(np.float32)
    matrix, _ = line.reducing(0, 77)
    np.testing.assert_allclose(across(rows, line.reducing_blocks), rows @ matrix.T, atol=2e-6)
    small = noise(3, 5, 77).astype(np.float32)
    np.testing.assert_allclose(across(small, line.inverting_blocks), small @ np.linalg.pinv(matrix).T, atol=2e-6)


def test_any_line_is_antialiased_bicubic():
    matrix, _ = resampling_line(31, 20).reducing(0, 20)
    large = noise(31, 1)
    np.testing.assert_allclose(matrix @ large, bicubic_by_formula(large, (20, 1)), atol=1e-12)


@each_name
def test_grey_stays_grey(name):
    for scale in range(1, 17):
        np.testing.assert_allclose(reduction(name, scale)(np.full((3 * scale, 5 * scale), 0.37)), 0.37, atol=1e-12)


def test_wrong_words():
    with pytest.raises(UsageError, match="no reduction 'lanczos'; there are matlab-bicubic, bicubic, box"):
        reduction("lanczos", 2)
    for scale in (0, 17, 2.5, True):
        with pytest.raises(UsageError, match="whole number from 1 to 16"):
            reduction("box", scale)
    with pytest.raises(UsageError, match="add up to 2, not 1"):
        kernel_reduction(np.full((2, 2), 0.5), 2)
    with pytest.raises(ShapeError, match=r"multiples of 3, got \(6, 7\)"):
        reduction("box", 3)(noise(6, 7))
    with pytest.raises(ShapeError, match="floating"):
        reduction("box", 3)(np.zeros((6, 6), np.uint8))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_inverse_of_a_blur_is_that_of_its_matrix_far_from_borders(scale):
    operator = kernel_reduction(anisotropic_kernel(6 + scale % 2, scale, (0.3, 0.2), 30.0), scale)
    matrix = dense(operator, (17, 18))
    wanted = np.zeros((17, 18))
    wanted[7:10, 8:11] = noise(3, 3)
    exact = np.linalg.solve(matrix @ matrix.T, wanted.ravel()).reshape(17, 18)
    np.testing.assert_allclose(nearly_inverse(operator, (17, 18))(wanted[None])[0], exact, atol=1e-3 * exact.max())
