"""Kernels as files: numbers come back to the bit, pictures by their levels; what is no kernel is refused by name."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from superfine.classical.kernels import anisotropic_kernel, resampler_kernel, straight_motion_kernel
from superfine.errors import OutputError, SourceError, SuperfineError, UsageError
from superfine.kernel_file import kernel_shape, read_kernel, write_kernel

KERNEL = anisotropic_kernel(11, 2, (2.5, 0.9), 30)


@pytest.mark.parametrize("ending", ["npy", "txt", "csv"])
@pytest.mark.parametrize("kernel", [KERNEL, resampler_kernel(8, 2, "bicubic"), KERNEL[2:6] / KERNEL[2:6].sum()])
def test_numbers_come_back_to_the_bit(tmp_path, ending, kernel):
    write_kernel(tmp_path / f"k.{ending}", kernel)
    read, words = read_kernel(tmp_path / f"k.{ending}")
    np.testing.assert_array_equal(read, kernel)
    assert words == ""


def test_numpy_reads_what_is_written(tmp_path):
    write_kernel(tmp_path / "k.npy", KERNEL)
    write_kernel(tmp_path / "k.txt", KERNEL)
    write_kernel(tmp_path / "k.csv", KERNEL)
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), KERNEL)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "k.txt"), KERNEL)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "k.csv", delimiter=","), KERNEL)


@pytest.mark.parametrize(
    "text",
    [
        "0 .25 0\n.25 0 .25\n0 .25 0\n",
        "0, 0.25, 0\r\n0.25, 0, 0.25\r\n0, 0.25, 0",
        "k = [0 .25 0; .25 0 .25; 0 .25 0];",
        "% a cross\nk = [0, .25, 0; ...\n .25, 0, .25;\n 0, .25, 0]\n",
        "\ufeff# a cross\n\n0\t2.5e-1\t0\n2.5e-1\t0\t2.5e-1  # the middle\n0\t2.5e-1\t0\n\n",
    ],
)
def test_lists_as_people_write_them(tmp_path, text):
    (tmp_path / "k.txt").write_text(text, encoding="utf-8", newline="")
    read, _ = read_kernel(tmp_path / "k.txt")
    np.testing.assert_array_equal(read, np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_picture_is_scaled_and_that_is_said(tmp_path, dtype):
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}[dtype]
    levels = np.array([[0, 1, 0], [1, 3, 1], [0, 1, 2]]) / 3
    tifffile.imwrite(tmp_path / "k.tif", (levels * white).astype(dtype), photometric="minisblack")
    read, words = read_kernel(tmp_path / "k.tif")
    np.testing.assert_allclose(read, levels / levels.sum(), rtol=1e-6)
    assert "divided by their sum" in words
    assert str(tmp_path / "k.tif") in words


@pytest.mark.parametrize(
    "kernel", [KERNEL, straight_motion_kernel(30, 4, 17, 70, 1.2), KERNEL[3:8] / KERNEL[3:8].sum()]
)
def test_the_picture_of_a_kernel_shows_it(tmp_path, kernel):
    words = write_kernel(tmp_path / "k.png", kernel)
    times = 512 // max(kernel.shape)
    assert f"each {times} x {times} pixels" in words
    with Image.open(tmp_path / "k.png") as made:
        seen = np.asarray(made).astype(float)
    assert seen.max() == 65535
    assert seen.shape == (times * kernel.shape[0], times * kernel.shape[1])
    shown = seen[times // 2 :: times, times // 2 :: times]
    np.testing.assert_allclose(shown / 65535, kernel / kernel.max(), atol=1e-5)
    read, words = read_kernel(tmp_path / "k.png")
    assert f"squares of {times} x {times} pixels" in words
    np.testing.assert_allclose(read, kernel, atol=2e-5 * kernel.max())


@pytest.mark.parametrize(("name", "lost"), [("bicubic", True), ("box", False)])
def test_a_picture_that_loses_weights_below_zero_says_so(tmp_path, name, lost):
    kernel = resampler_kernel(8, 2, name)
    assert ("weights below zero are black" in write_kernel(tmp_path / "k.png", kernel)) is lost
    read, _ = read_kernel(tmp_path / "k.png")
    assert bool(np.abs(read - kernel).max() > 0.005) is lost


def test_shapes_are_told_as_they_were_made():
    shape = kernel_shape(anisotropic_kernel(30, 4, (9.0, 2.0), 30), 4)
    assert shape.wide == pytest.approx(3, rel=0.01)
    assert shape.narrow == pytest.approx(2**0.5, rel=0.01)
    assert shape.angle == pytest.approx(30, abs=0.2)
    assert shape.shift == pytest.approx((0, 0), abs=1e-6)
    lone = np.zeros((5, 7))
    lone[1, 5] = 1
    assert kernel_shape(lone, 3)[:2] == (0, 0)
    assert kernel_shape(lone, 3).shift == pytest.approx((-1, 2))


def refused(path, error, *words):
    with pytest.raises(error) as caught:
        read_kernel(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", SourceError, "no numbers"),
        ("[]", SourceError, "no numbers"),
        ("0 1\n0", SourceError, "rows of 1 and of 2"),
        ("0 1\n0 x", SourceError, "'x' is no number"),
        ("1 0\n0 1", UsageError, "add up to 2, not 1"),
        ("nan 0\n0 1", UsageError, "NaN"),
        ("inf 0\n0 1", UsageError, "infinity"),
        ("\n".join([" ".join(["0.1"] * 70)] * 3), UsageError, "3 x 70"),
    ],
)
def test_text_that_is_no_kernel(tmp_path, text, error, words):
    (tmp_path / "k.txt").write_text(text)
    refused(tmp_path / "k.txt", error, words)


def test_files_that_are_no_kernel(tmp_path):
    refused(tmp_path / "none.npy", SourceError, "no such file")
    refused(tmp_path / "none.txt", SourceError, "no such file")
    refused(tmp_path / "none.png", SourceError, "no such file")
    refused(tmp_path / "k.mat", UsageError, "writematrix")
    refused(tmp_path / "auto.jpg", UsageError, ".npy")
    (tmp_path / "folder.txt").mkdir()
    refused(tmp_path / "folder.txt", SourceError, "folder")
    (tmp_path / "k.txt").write_bytes(b"\xff\xfe\x00\x80")
    refused(tmp_path / "k.txt", SourceError, "isn't text")
    (tmp_path / "large.txt").write_bytes(b"0 " * 600_000)
    refused(tmp_path / "large.txt", SourceError, "1200000 bytes")
    np.save(tmp_path / "line.npy", np.full(9, 1 / 9))
    refused(tmp_path / "line.npy", UsageError, "(9,)")
    np.save(tmp_path / "complex.npy", np.eye(3) * 1j)
    refused(tmp_path / "complex.npy", SourceError, "real numbers")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    refused(tmp_path / "object.npy", SourceError)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "line.npy").read_bytes()[:-8])
    refused(tmp_path / "cut.npy", SourceError, "cut off")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 no archive")
    refused(tmp_path / "zip.npy", SourceError)


def test_pictures_that_are_no_kernel(tmp_path):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "black.png")
    refused(tmp_path / "black.png", UsageError, "black")
    colours = np.zeros((5, 5, 3), np.uint8)
    colours[2, 2] = 1, 2, 3
    Image.fromarray(colours).save(tmp_path / "colours.png")
    refused(tmp_path / "colours.png", UsageError, "grey")
    Image.fromarray(np.arange(6400).reshape(80, 80).astype(np.uint16)).save(tmp_path / "photo.png")
    refused(tmp_path / "photo.png", UsageError, "80 x 80")
    (tmp_path / "text.png").write_text("no picture")
    refused(tmp_path / "text.png", SourceError)


def test_what_can_t_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"k\.jpg"):
        write_kernel(tmp_path / "k.jpg", KERNEL)
    with pytest.raises(OutputError, match="none"):
        write_kernel(tmp_path / "none" / "k.npy", KERNEL)
    assert issubclass(OutputError, SuperfineError)
    assert list(tmp_path.iterdir()) == []
