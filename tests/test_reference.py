"""Layers in NumPy and float64, against scipy and torch."""

import re
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.signal import correlate2d
from torch.nn import functional

from superfine.errors import ShapeError
from superfine.weights.reference import (
    batch_normalize,
    convolve,
    convolve_transposed,
    leaky_relu,
    nearest,
    pixel_shuffle,
    pixel_unshuffle,
    prelu,
)

Array = npt.NDArray[Any]
CLOSE = {"rtol": 0, "atol": 1e-12}


def drawn(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(size=shape)


def by_torch(function: Any, planes: Array, *weights: Array | None, **options: Any) -> Array:
    given = [None if each is None else torch.from_numpy(each) for each in weights]
    made: Array = function(torch.from_numpy(planes)[None], *given, **options)[0].numpy()
    return made


@pytest.mark.parametrize("sides", [(1, 1), (3, 3), (4, 4), (5, 2), (9, 9)])
def test_convolution_is_scipys_correlation(sides: tuple[int, int]) -> None:
    planes, kernel, bias = drawn(3, 11, 14), drawn(4, 3, *sides), drawn(4)
    wanted = [
        sum(correlate2d(plane, taps, "valid") for plane, taps in zip(planes, bank, strict=True)) + shift
        for bank, shift in zip(kernel, bias, strict=True)
    ]
    np.testing.assert_allclose(convolve(planes, kernel, bias), wanted, **CLOSE)


@pytest.mark.parametrize(
    ("stride", "side", "padding", "dilation"),
    [
        *product((1, 2, 3), (1, 3, 4), ((0, 0, 0, 0), (1, 2, 3, 4)), ((1, 1), (2, 1), (2, 3))),
        (1, 7, (3, 3, 3, 3), (1, 1)),
    ],
)
def test_convolution_is_torchs(
    stride: int, side: int, padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> None:
    planes, kernel, bias = drawn(2, 13, 16), drawn(5, 2, side, side), drawn(5)
    top, left, bottom, right = padding
    padded = np.pad(planes, ((0, 0), (top, bottom), (left, right)))
    for shift in (bias, None):
        wanted = by_torch(functional.conv2d, padded, kernel, shift, stride=stride, dilation=dilation)
        made = convolve(planes, kernel, shift, stride=stride, padding=padding, dilation=dilation)
        np.testing.assert_allclose(made, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("stride", "side", "padding", "more"),
    [(1, 3, 1, 0), (2, 2, 0, 0), (2, 3, 1, 1), (2, 9, 4, 1), (3, 9, 3, 0), (4, 8, 2, 0), (4, 1, 0, 3), (2, 4, 1, 0)],
)
def test_transposed_convolution_is_torchs(stride: int, side: int, padding: int, more: int) -> None:
    planes, kernel, bias = drawn(3, 6, 7), drawn(3, 2, side, side), drawn(2)
    rows, cols = ((count - 1) * stride + side - 2 * padding + more for count in planes.shape[1:])
    for shift in (bias, None):
        wanted = by_torch(
            functional.conv_transpose2d, planes, kernel, shift, stride=stride, padding=padding, output_padding=more
        )
        made = convolve_transposed(planes, kernel, shift, stride=stride, size=(rows, cols), start=(padding, padding))
        np.testing.assert_allclose(made, wanted, **CLOSE)


def test_sums_are_float64() -> None:
    """Weights are float16 in files; 2048 + 1 is 2048 in float16, 2^24 + 1 is 2^24 in float32."""
    kernel = np.ones((1, 2, 1, 1), np.float16)
    planes = np.array([2.0**24, 1.0], np.float32).reshape(2, 1, 1)
    assert convolve(planes, kernel, np.ones(1, np.float16)).tolist() == [[[2.0**24 + 2]]]  # type: ignore[arg-type]
    made = convolve_transposed(planes, kernel.reshape(2, 1, 1, 1), stride=1, size=(1, 1))  # type: ignore[arg-type]
    assert made.tolist() == [[[2.0**24 + 1]]]
    assert made.dtype == np.float64


def test_activations_are_torchs() -> None:
    planes, slopes = drawn(4, 5, 6), drawn(4)
    np.testing.assert_allclose(prelu(planes, slopes), by_torch(functional.prelu, planes, slopes), **CLOSE)
    np.testing.assert_allclose(prelu(planes, slopes[:1]), by_torch(functional.prelu, planes, slopes[:1]), **CLOSE)
    np.testing.assert_array_equal(leaky_relu(planes, 0.2), by_torch(functional.leaky_relu, planes, negative_slope=0.2))
    np.testing.assert_array_equal(leaky_relu(planes), by_torch(functional.relu, planes))


def test_batch_norm_is_torchs() -> None:
    planes, mean, variance, weight, bias = drawn(4, 5, 6), drawn(4), abs(drawn(4, 1)[:, 0]), drawn(4), drawn(4)
    wanted = by_torch(functional.batch_norm, planes, mean, variance, weight, bias, eps=1e-3)
    np.testing.assert_allclose(batch_normalize(planes, weight, bias, mean, variance, 1e-3), wanted, **CLOSE)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_shuffles_are_torchs(block: int) -> None:
    planes = drawn(3 * block**2, 4, 5)
    large = by_torch(functional.pixel_shuffle, planes, upscale_factor=block)
    np.testing.assert_array_equal(pixel_shuffle(planes, block), large)
    np.testing.assert_array_equal(pixel_unshuffle(large, block), planes)
    repeated = by_torch(functional.interpolate, planes, scale_factor=block, mode="nearest")
    np.testing.assert_array_equal(nearest(planes, block), repeated)


def test_what_does_not_fit_is_refused() -> None:
    planes = drawn(3, 4, 5)
    cases = [
        (lambda: convolve(planes, drawn(2, 4, 3, 3)), "a kernel of (2, 4, 3, 3) doesn't fit on padded planes"),
        (lambda: convolve(planes, drawn(2, 3, 5, 5)), "padded planes of (3, 4, 5)"),
        (lambda: convolve(planes, drawn(2, 3, 3, 3), drawn(3)), "3 values don't fit on 2 channels"),
        (lambda: convolve_transposed(planes, drawn(2, 3, 3, 3), stride=2, size=(8, 10)), "a kernel of (2, 3, 3, 3)"),
        (lambda: prelu(planes, drawn(2)), "2 values don't fit on 3 channels"),
        (lambda: pixel_shuffle(planes, 2), "3 channels can't be shuffled into blocks of 2 x 2"),
        (lambda: pixel_unshuffle(planes, 2), "planes of 4 x 5 can't be taken apart by blocks of 2 x 2"),
    ]
    for call, words in cases:
        with pytest.raises(ShapeError, match=re.escape(words)):
            call()
