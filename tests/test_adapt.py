"""Blind enlargement: agreement with the picture, pieces, kinds of pixels, files, and what is refused."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image, ImageCms
from scipy import ndimage
from skimage import data
from typer.testing import CliRunner

import superfine
from pictures import noise, ramps, read_png, seen
from superfine import adapt as flow
from superfine.adapt import Adapting, adapt_path, adapt_pixels, find_kernel, open_refiner, restore, restore_unit
from superfine.blind.estimate import KernelEstimate
from superfine.classical.kernels import anisotropic_kernel, resampler_kernel, straight_motion_kernel
from superfine.cli_adapt import adapt
from superfine.errors import (
    MissingExtraError,
    ModelError,
    OutputError,
    ShapeError,
    SourceError,
    TooLargeError,
    UsageError,
)
from superfine.models import Model, find_model

app = typer.Typer()
app.command("adapt")(adapt)
app.command("other")(lambda: None)
run = CliRunner().invoke

ROUND = anisotropic_kernel(11, 2, (1.7, 1.7), 0)
KERNELS = [
    (2, anisotropic_kernel(11, 2, (3.0, 0.8), 30)),
    (2, straight_motion_kernel(12, 2, 5, 70, 0.8)),
    (3, anisotropic_kernel(14, 3, (4.0, 4.0), 0)),
    (4, anisotropic_kernel(31, 4, (9.0, 3.0), 120)),
    (4, resampler_kernel(16, 4, "bicubic")),
]


def reduced(large, scale, kernel):
    """SciPy's convolution, the border replicated, and every s-th of its pixels by the centre rule."""
    blurred = ndimage.convolve(large.astype(np.float64), kernel[..., None], mode="nearest")
    first = (scale - 1) // 2
    return blurred[first::scale, first::scale]


def small(scale, kernel, dtype=np.uint8, size=(60, 52)):
    """A photograph and what the kernel makes of it."""
    large = data.astronaut()[30 : 30 + scale * size[0], 150 : 150 + scale * size[1]]
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}[dtype]
    made = np.clip(reduced(large / 255, scale, kernel), 0, 1) * white
    return large, (made if dtype == np.float32 else np.rint(made)).astype(dtype)


def psnr(made, truth, border=8):
    error = (made.astype(float) - truth)[border:-border, border:-border]
    return 10 * np.log10(255**2 / np.mean(error**2))


@pytest.mark.parametrize(("scale", "kernel"), KERNELS)
def test_the_result_agrees_with_the_picture_before_clipping(scale, kernel):
    truth, pixels = small(scale, kernel)
    made = restore_unit(pixels, scale, kernel)
    assert made.shape == truth.shape
    assert np.abs(255 * reduced(made, scale, kernel) - pixels).max() <= 0.5
    assert made.max() > 1 or made.min() < 0  # it isn't clipped
    whole = adapt_pixels(pixels, scale, kernel=kernel)
    missed = 255 * reduced(made, scale, kernel) - pixels
    assert whole.consistency.largest == pytest.approx(np.abs(missed).max(), abs=2e-3)
    assert whole.consistency.rms == pytest.approx(np.sqrt(np.mean(missed**2)), abs=2e-3)
    np.testing.assert_array_equal(whole.pixels, restore(pixels, scale, kernel))
    assert psnr(whole.pixels, truth) > psnr(superfine.upscale(pixels, scale, model="bicubic"), truth)


def test_a_known_blur_is_undone():
    truth, pixels = small(2, ROUND)
    bicubic = psnr(superfine.upscale(pixels, 2, model="bicubic"), truth)
    assert psnr(restore(pixels, 2, ROUND), truth) > bicubic + 2.5


@pytest.mark.parametrize("level", [0.0, 3.0])
@pytest.mark.parametrize(("scale", "kernel"), [KERNELS[0], KERNELS[2]])
def test_pieces_fit_together(monkeypatch, scale, kernel, level):
    _, pixels = small(scale, kernel, size=(170, 150) if scale == 2 else (150, 110))
    whole = restore_unit(pixels, scale, kernel, level)
    monkeypatch.setattr(flow, "_PIECE", 64 * scale)
    pieces = restore_unit(pixels, scale, kernel, level)
    assert 0 < np.abs(pieces - whole).max() * 255 < 1
    assert np.sqrt(np.mean((pieces - whole) ** 2)) * 255 < 0.05
    if level == 0:
        assert np.abs(255 * reduced(pieces, scale, kernel) - pixels).max() <= 0.5


@dataclass
class Lazy:
    """A network that gives its picture back with less contrast."""

    contrast: float = 1.0
    scale: int = 1
    halo: int = 0
    multiple_of: int = 2
    frames: int = 1
    name: str = "lazy"
    model: Model = find_model("refiner-x1")[0]

    def precision_for(self, dtype):
        return "fp32"

    def __call__(self, pixels):
        assert pixels.shape[1] % 2 == pixels.shape[2] % 2 == 0
        assert pixels.shape[3] == 3
        return 0.5 + np.float32(self.contrast) * (pixels[0] - 0.5)


@pytest.mark.parametrize("level", [1.0, 4.0, 10.0])
def test_with_noise_the_data_never_make_it_worse(level):
    truth, clean = small(2, ROUND)
    noisy = np.clip(np.rint(clean + np.random.default_rng(0).normal(0, level, clean.shape)), 0, 255).astype(np.uint8)
    for contrast in (0.95, 0.8):
        network = Lazy(contrast)
        restorer = flow.Restorer(2, ROUND, level, network)
        restorer._agreeing = lambda large, small: large  # the network's own
        without = psnr(np.clip(255 * restorer(noisy[None]), 0, 255), truth)
        made = psnr(restore(noisy, 2, ROUND, level, network=network), truth)
        assert made > without


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_kind_of_pixels_is_kept(channels, dtype):
    _, pixels = small(2, ROUND, dtype, size=(24, 30))
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}[dtype]
    alpha = np.full((24, 30, 1), white, dtype)
    alpha[:, :9] = 0
    given = np.concatenate([pixels[..., : 1 if channels < 3 else 3], *([alpha] if channels in (2, 4) else [])], axis=-1)
    made = restore(given, 2, ROUND)
    assert made.dtype == dtype
    assert made.shape == (48, 60, channels)
    if channels in (2, 4):
        wanted = superfine.upscale(given, 2, model="bicubic")[..., -1]
        wanted = np.clip(wanted.astype(float), 0, white)
        np.testing.assert_allclose(made[..., -1].astype(float), wanted, atol=white / 250)
        given[:, :9, :-1] = 0  # what isn't seen doesn't matter
        again = restore(given, 2, ROUND)
        difference = np.abs(made.astype(float) - again)[:, 40:, :-1]
        assert difference.max() <= 3 * white / 255
        result = adapt_pixels(given, 2, kernel=ROUND)
        assert result.consistency.largest <= 0.5


def test_grey_is_as_equal_colours():
    _, pixels = small(2, ROUND, np.float32)
    grey = restore(pixels[..., :1].copy(), 2, ROUND)
    colours = restore(np.repeat(pixels[..., :1], 3, axis=2), 2, ROUND)
    assert np.abs(colours - grey).max() < 1 / 255


def test_16_bits_are_more_than_8():
    ramp = np.tile(np.linspace(20000, 22000, 40).astype(np.uint16)[None, :, None], (40, 1, 1))
    made = restore(ramp, 2, ROUND)[20, 8:-8, 0].astype(float)
    assert np.abs(made - (20000 + (np.arange(80) - 0.5) * 2000 / 78)[8:-8]).max() < 40
    assert len(np.unique(made)) > 50


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 13)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiny_pictures_are_enlarged(size, scale):
    pixels = noise(*size, 3)
    made = adapt_pixels(pixels, scale)
    assert made.pixels.shape == (size[0] * scale, size[1] * scale, 3)
    assert made.kernel.origin == "bicubic"
    assert made.kernel.found.trust == 0


def test_a_constant_picture_stays_one():
    made = adapt_pixels(np.full((50, 60, 3), 77, np.uint8), 2)
    assert np.abs(made.pixels.astype(int) - 77).max() <= 1
    assert made.kernel.origin == "bicubic"
    assert "can't be told" in made.kernel.words


@pytest.mark.parametrize(
    ("pixels", "scale", "kernel", "error", "words"),
    [
        (noise(8, 8, 3), 5, ROUND, UsageError, "5"),
        (noise(8, 8, 3), 1, ROUND, UsageError, "1"),
        (noise(8, 8, 3)[..., 0], 2, ROUND, ShapeError, r"\(8, 8\)"),
        (noise(8, 8, 3)[:0], 2, ROUND, ShapeError, r"\(0, 8, 3\)"),
        (noise(8, 8, 3).astype(np.float64), 2, ROUND, ShapeError, "float64"),
        (np.full((8, 8, 3), np.nan, np.float32), 2, ROUND, ShapeError, "NaN"),
        (np.full((8, 8, 3), 1.5, np.float32), 2, ROUND, ShapeError, "white"),
        (noise(8, 5, 3), 2, ROUND, UsageError, "11 x 11, larger than the enlarged picture of 16 x 10"),
        (noise(8, 8, 3), 2, ROUND * 2, UsageError, "add up to 2"),
        (noise(8, 8, 3), 2, ROUND * np.nan, UsageError, "NaN"),
        (noise(8, 8, 3), 2, ROUND[0], UsageError, r"\(11,\)"),
        (noise(90, 90, 3), 2, np.full((65, 65), 65.0**-2), UsageError, "65 x 65"),
    ],
)
def test_arrays_that_are_refused(pixels, scale, kernel, error, words):
    with pytest.raises(error, match=words):
        restore(pixels, scale, kernel)


# ---- the kernel that is found


def found(monkeypatch, kernel=ROUND, trust=0.97, noise=0.0, family="gaussian"):
    """An estimate whose answer is known; returns what it was shown."""
    shown = []

    def estimate(planes, scale):
        shown.append((planes, scale))
        return KernelEstimate(kernel, trust, family, noise)

    monkeypatch.setattr(flow, "estimate_kernel", estimate)
    return shown


def test_it_is_looked_for_in_luma(monkeypatch):
    shown = found(monkeypatch)
    pixels = noise(50, 60, 3)
    known = find_kernel(pixels, 2)
    ((planes, scale),) = shown
    assert scale == 2
    np.testing.assert_allclose(planes[0], pixels @ [0.299, 0.587, 0.114], atol=1e-3)
    assert known.origin == "found"
    assert known.weights is ROUND
    find_kernel(noise(1000, 400, 1, np.uint16), 2)
    planes, _ = shown[1]
    assert [plane.shape for plane in planes] == [(320, 400)] * 3
    assert all(plane.min() >= 0 and 250 < plane.max() <= 255 for plane in planes)


def test_little_trust_falls_back_on_bicubic_and_says_so(monkeypatch):
    found(monkeypatch, trust=0.4, noise=2.5)
    known = find_kernel(noise(50, 60, 3), 2)
    assert known.origin == "bicubic"
    assert known.noise == 2.5
    assert "trust 0.40" in known.words
    middle = known.weights[known.weights.shape[0] // 2 - 1]
    np.testing.assert_allclose(middle[:4], middle[:3:-1])  # it lies on the centre
    found(monkeypatch, trust=0.99)
    assert find_kernel(noise(50, 60, 3), 2).words == ""


@pytest.mark.parametrize("scale", [2, 4])
def test_a_blur_is_found_and_undone(scale):
    kernel = anisotropic_kernel(15, scale, ((0.8 * scale) ** 2,) * 2, 0)
    large = data.camera()[: 512 // scale * scale, : 512 // scale * scale, None]
    pixels = np.rint(np.clip(reduced(large, scale, kernel), 0, 255)).astype(np.uint8)
    made = adapt_pixels(pixels, scale)
    assert made.kernel.origin == "found"
    assert psnr(made.pixels, large) > psnr(superfine.upscale(pixels, scale, model="bicubic"), large) + 0.5


# ---- files


@pytest.fixture
def source(tmp_path):
    _, pixels = small(2, ROUND, size=(48, 44))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.save(tmp_path / "k.npy", ROUND)
    return tmp_path / "a.png"


def given(source, **options):
    return Adapting(kernel=str(source.parent / "k.npy"), **options)


def test_a_file_is_as_its_pixels(tmp_path, source):
    heard = []
    adapted = adapt_path(source, tmp_path / "b.png", adapting=given(source), done=heard.append)
    made, _ = read_png(tmp_path / "b.png")
    np.testing.assert_array_equal(made, restore(seen(source), 2, ROUND))
    assert adapted.size == (96, 88)
    assert adapted.consistency.largest <= 0.5
    assert adapted.network == "refiner-x1"
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.png", "b.png", "k.npy"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_depth_is_kept(tmp_path, dtype):
    _, pixels = small(2, ROUND, dtype, size=(30, 30))
    white = 4 if dtype == np.float32 else 1
    tifffile.imwrite(tmp_path / "a.tif", pixels * dtype(white), photometric="rgb")
    np.save(tmp_path / "k.npy", ROUND)
    adapting = given(tmp_path / "a.tif", white=4.0 if dtype == np.float32 else None)
    adapt_path(tmp_path / "a.tif", tmp_path / "b.tif", adapting=adapting)
    made = tifffile.imread(tmp_path / "b.tif")
    assert made.dtype == dtype
    np.testing.assert_allclose(made, restore(pixels, 2, ROUND) * dtype(white), atol=1e-5 if dtype == np.float32 else 0)


def test_profile_exif_and_density_are_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    picture = Image.fromarray(ramps(40, 48))
    picture.save(tmp_path / "a.jpg", exif=exif, icc_profile=profile, dpi=(150, 150), quality=95)
    adapt_path(tmp_path / "a.jpg", tmp_path / "b.jpg", adapting=Adapting(kernel="bicubic", scale=3))
    with Image.open(tmp_path / "b.jpg") as made:
        assert made.size == (144, 120)
        assert made.getexif()[0x010F] == "Maker"
        assert made.info["icc_profile"] == profile
        assert made.info["dpi"] == (450, 450)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_kernel_is_one_of_the_picture_as_it_is_seen(tmp_path, source, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    Image.fromarray(np.ascontiguousarray(np.rot90(seen(source), turns))).save(tmp_path / "t.png", exif=exif)
    np.testing.assert_array_equal(seen(tmp_path / "t.png"), seen(source))
    long = anisotropic_kernel(11, 2, (4.0, 0.5), 20)
    np.save(tmp_path / "k.npy", long)
    adapt_path(tmp_path / "t.png", tmp_path / "b.png", adapting=given(source))
    np.testing.assert_array_equal(seen(tmp_path / "b.png"), restore(seen(source), 2, long))


@dataclass
class Teaching:
    """What was asked of a teacher who gives the network back under another name."""

    kept: bool = True
    steps: int = 7
    finished: bool = True
    asked: tuple = ()

    def __call__(self, small, scale, kernel, noise, source, *, budget_seconds, state, overwrite, done):
        self.overwrite = overwrite
        self.asked = (small, scale, kernel, noise, source, budget_seconds)
        state.write_bytes(b"what was learned")
        done(0.5)
        (model,) = find_model("refiner-x1")
        renamed = replace(model, card=replace(model.card, name="learned"))
        return Lesson(renamed, self.kept, steps=self.steps, finished=self.finished)


@dataclass(frozen=True)
class Lesson:
    model: Model
    kept: bool
    before: float = 2.0
    after: float = 1.0
    steps: int = 7
    finished: bool = True


@pytest.mark.parametrize("kept", [True, False])
def test_a_teacher_is_asked_and_believed(tmp_path, source, kept):
    teaching = Teaching(kept)
    adapting = given(source, budget_seconds=30.0, save=tmp_path / "own.onnx", noise=1.0)
    adapted = adapt_path(source, tmp_path / "b.png", adapting=adapting, teacher=teaching)
    pixels, scale, kernel, level, start, budget = teaching.asked
    np.testing.assert_allclose(pixels, seen(source) / 255, atol=1e-6)
    np.testing.assert_array_equal(kernel, ROUND)
    assert (scale, level, start) == (2, 1.0, "refiner-x1")
    assert 1 <= budget <= 30
    assert adapted.network == "learned"
    assert adapted.taught.kept is kept
    assert any("no better" in note for note in adapted.notes) is not kept
    assert not list(tmp_path.glob("*.pt"))  # learning is over
    again = adapt_path(source, tmp_path / "c.png", adapting=given(source, model=tmp_path / "own.onnx", noise=1.0))
    assert again.network == "refiner-x1"  # its own card
    np.testing.assert_array_equal(seen(tmp_path / "c.png"), seen(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("steps", "finished", "words"),
    [
        (0, False, "learned nothing for lack of time; give --budget 70"),
        (3, False, "in 3 steps"),
        (7, True, "no better"),
    ],
)
def test_a_network_that_is_as_it_was_is_called_so(tmp_path, source, steps, finished, words):
    adapting = given(source, budget_seconds=3.0, save=tmp_path / "own.onnx")
    teaching = Teaching(False, steps, finished)
    notes = adapt_path(source, tmp_path / "b.png", adapting=adapting, teacher=teaching, overwrite=True).notes
    assert teaching.overwrite
    assert sum(words in note for note in notes) == 1
    assert any("own.onnx: is the network unchanged" in note for note in notes)


def test_what_another_run_learned_is_left_alone(tmp_path, source):
    (tmp_path / "b.png.adapt.pt").write_bytes(b"an hour's work")
    adapt_path(source, tmp_path / "b.png", adapting=given(source))
    assert (tmp_path / "b.png.adapt.pt").read_bytes() == b"an hour's work"


def test_a_folder_where_the_state_goes_is_refused_before_the_work(tmp_path, source):
    (tmp_path / "b.png.adapt.pt").mkdir()
    teaching = Teaching()
    with pytest.raises(OutputError, match=r"b\.png\.adapt\.pt: .* move it away"):
        adapt_path(source, tmp_path / "b.png", adapting=given(source, budget_seconds=3.0), teacher=teaching)
    assert not teaching.asked
    assert adapt_path(source, tmp_path / "b.png", adapting=given(source)).size == (96, 88)


def test_a_picture_that_fails_leaves_what_was_learned(tmp_path, source, monkeypatch):
    def fail(*given, **named):
        raise MemoryError

    monkeypatch.setattr(flow, "save_picture", fail)
    with pytest.raises(MemoryError):
        adapt_path(source, tmp_path / "b.png", adapting=given(source, budget_seconds=3.0), teacher=Teaching())
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.png", "k.npy", "b.png.adapt.pt"}


def test_a_network_that_enlarges_is_refused(tmp_path, source):
    (tmp_path / "fast.onnx").write_bytes(find_model("fast-x2")[0].content)
    with pytest.raises(ModelError, match="enlarges x2"):
        adapt_path(source, tmp_path / "b.png", adapting=given(source, model=tmp_path / "fast.onnx"))
    with pytest.raises(ModelError, match="no such model file"):
        open_refiner(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 5}, "--scale 5 .* run superfine upscale on the result for more"),
        ({"scale": 1}, "--scale 1 .* enlarges by$"),
        ({"kernel": ""}, "--kernel"),
        ({"noise": -1.0}, "--noise -1"),
        ({"noise": float("nan")}, "--noise nan"),
        ({"budget_seconds": 0.0}, "--budget 0"),
        ({"budget_seconds": float("inf")}, "--budget inf"),
        ({"save": "a.onnx"}, "--budget"),
        ({"save": "a.pt", "budget_seconds": 9.0}, "a.pt"),
        ({"kernel_out": "k.jpg"}, "k.jpg"),
        ({"quality": 101}, "--quality 101"),
        ({"white": 0.0}, "--white 0"),
        ({"max_megapixels": float("nan")}, "--max-megapixels nan"),
        ({"max_megapixels": 0.0}, "--max-megapixels 0"),
    ],
)
def test_wishes_that_are_refused(tmp_path, options, words):
    paths = {name: tmp_path / value for name, value in options.items() if name in ("save", "kernel_out")}
    with pytest.raises(UsageError, match=words):
        Adapting(**options | paths)


def test_files_that_are_refused(tmp_path, source):
    bicubic = Adapting(kernel="bicubic")

    def refused(error, words, origin=source, target=tmp_path / "b.png", adapting=bicubic, **options):
        before = {entry: entry.lstat().st_mtime_ns for entry in tmp_path.iterdir()}
        with pytest.raises(error, match=words):
            adapt_path(origin, target, adapting=adapting, **options)
        assert {entry: entry.lstat().st_mtime_ns for entry in tmp_path.iterdir()} == before

    refused(UsageError, "is a folder; adapt takes one picture", tmp_path)
    refused(UsageError, "empty", "")
    refused(SourceError, "no such file", tmp_path / "none.png")
    refused(UsageError, "doesn't write .xyz", target=tmp_path / "b.xyz")
    refused(OutputError, "no folder", target=tmp_path / "none" / "b.png")
    refused(OutputError, "the source itself", target=source)
    (tmp_path / "there.png").write_text("mine")
    refused(OutputError, "exists already", target=tmp_path / "there.png")
    refused(OutputError, "exists already", adapting=Adapting(kernel="bicubic", kernel_out=tmp_path / "there.png"))
    same = Adapting(kernel="bicubic", kernel_out=tmp_path / "b.png")
    refused(UsageError, "two things", adapting=same)
    (tmp_path / "turn").symlink_to(tmp_path)
    for spelling in (tmp_path / "turn" / "b.png", tmp_path / "turn" / ".." / tmp_path.name / "b.png"):
        refused(UsageError, "two things", adapting=Adapting(kernel="bicubic", kernel_out=spelling), overwrite=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")  # to what isn't there yet
    same = Adapting(kernel="bicubic", kernel_out=tmp_path / "link.png")
    refused(UsageError, "two things", adapting=same, overwrite=True)
    (tmp_path / "link.png").unlink()
    (tmp_path / "own.onnx").write_bytes(find_model("refiner-x1")[0].content)
    same = Adapting(budget_seconds=5, model=tmp_path / "own.onnx", save=tmp_path / "turn" / "own.onnx")
    refused(OutputError, "one of the sources", adapting=same, teacher=Teaching(), overwrite=True)
    refused(OutputError, "the source itself", target=tmp_path / "turn" / "a.png", overwrite=True)
    refused(OutputError, "is a folder where the output should go", target=tmp_path / "turn", overwrite=True)
    (tmp_path / "turn").unlink()
    refused(OutputError, "one of the sources", adapting=given(source, kernel_out=tmp_path / "k.npy"), overwrite=True)
    np.save(tmp_path / "twice.npy", ROUND * 2)
    refused(UsageError, r"twice\.npy: its weights add up to 2", adapting=Adapting(kernel=str(tmp_path / "twice.npy")))
    Image.fromarray(noise(4, 5, 3)).save(tmp_path / "tiny.png")
    refused(UsageError, r"k\.npy: is 11 x 11, larger", tmp_path / "tiny.png", adapting=given(source))
    refused(UsageError, "no teacher", adapting=Adapting(budget_seconds=5.0))
    refused(TooLargeError, "megapixels", adapting=Adapting(max_megapixels=0.001))
    tifffile.imwrite(tmp_path / "nan.tif", np.full((50, 50), np.nan, np.float32))
    refused(SourceError, r"nan\.tif", tmp_path / "nan.tif")
    Image.fromarray(noise(9, 9, 4)).save(tmp_path / "alpha.png")
    refused(UsageError, "alpha", tmp_path / "alpha.png", tmp_path / "b.jpg")


def notes_of(source, **options):
    return adapt_path(source, source.parent / "b.png", adapting=given(source, **options), overwrite=True).notes


@pytest.mark.slow
def test_a_kernel_that_is_much_too_wide_is_told_and_the_way_out_is_one(tmp_path):
    """Of what the right one makes no word is said."""
    right, wide = (anisotropic_kernel(22, 2, variances, 20) for variances in ((1.5**2, 0.9**2), (2.2**2, 2.2**2)))
    truth, pixels = small(2, right, size=(80, 80))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    made = {}
    for name, kernel, level in (("right", right, None), ("wide", wide, None), ("out", wide, 1.0)):
        np.save(tmp_path / "k.npy", kernel)
        notes = notes_of(tmp_path / "a.png", noise=level)
        assert any("too wide" in note and "--noise 1" in note for note in notes) is (name == "wide")
        made[name] = psnr(seen(tmp_path / "b.png"), truth)
    assert made["wide"] < 15
    assert made["right"] > made["out"] > made["wide"] + 5


@pytest.mark.slow
@pytest.mark.parametrize("cornered", [True, False])
def test_half_a_level_that_is_missed_is_told(source, cornered):
    """A kernel with all its weight in a corner takes rows from beyond the border, where all are one."""
    corner = np.zeros((21, 21))
    corner[0, 0] = 1
    np.save(source.parent / "k.npy", corner if cornered else ROUND)
    assert any("more than half a level" in note for note in notes_of(source)) is cornered


@pytest.mark.parametrize(("side", "told"), [(11, True), (12, False)])
def test_a_kernel_off_its_point_is_told(source, side, told):
    line = np.exp(-((np.arange(side) - (side - 1) / 2) ** 2) / 2)
    np.save(source.parent / "k.npy", np.outer(line, line) / line.sum() ** 2)
    notes = [note for note in notes_of(source) if "of its point" in note]
    assert bool(notes) is told
    assert all("0.50 px below and 0.50 px right" in note for note in notes)


@pytest.mark.parametrize(("level", "told"), [(60.0, True), (5.0, False)])
def test_much_noise_is_told(tmp_path, source, monkeypatch, level, told):
    found(monkeypatch, noise=level)
    adapted = adapt_path(source, tmp_path / "b.png")
    assert any("dithering" in note for note in adapted.notes) is told
    assert adapted.kernel.noise == level
    adapted = adapt_path(source, tmp_path / "c.png", adapting=Adapting(noise=20.0))
    assert not any("dithering" in note for note in adapted.notes)


def test_dithered_pictures_are_smoothed_by_their_noise(tmp_path):
    """Without it the dots themselves would be enlarged."""
    large = Image.fromarray(data.camera())
    dots = np.array(large.resize((256, 256), Image.BICUBIC).convert("1").convert("L"))[..., None]
    truth = np.array(large)[..., None]
    estimated = adapt_pixels(dots, 2)
    assert estimated.kernel.noise > 12
    assert psnr(estimated.pixels, truth) > psnr(adapt_pixels(dots, 2, noise=0.0).pixels, truth) + 8


def test_a_restorer_that_is_stopped_stops_in_the_midst(monkeypatch):
    """In the threads that go through hundreds of turns, not only between pieces."""
    _, pixels = small(2, ROUND)
    restorer = flow.Restorer(2, ROUND, 0.0, Lazy())
    turns = []
    whole = flow.KernelReduction.__call__

    def counted(self, large):
        turns.append(self)
        if len(turns) == 5:
            restorer.stopped.set()
        return whole(self, large)

    monkeypatch.setattr(flow.KernelReduction, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        restorer(pixels[None])
    assert len(turns) < 5 + 3  # what three channels had begun


# ---- the command


@pytest.mark.parametrize(
    ("origin", "target", "words"),
    [("", "b.png", "a name is empty"), ("a.png", "", "a name is empty"), ("a.png", "out", "out: is a folder where")],
)
def test_names_that_are_none(tmp_path, source, monkeypatch, origin, target, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert words in str(run(app, ["adapt", origin, "-o", target]).exception)


def test_it_says_what_it_did(tmp_path, source, monkeypatch):
    found(monkeypatch, trust=0.93, noise=1.25)
    done = run(app, ["adapt", str(source), "-o", str(tmp_path / "b.png"), "--kernel-out", str(tmp_path / "k.png")])
    assert done.exit_code == 0, done.output
    assert f"{source} -> {tmp_path / 'b.png'}" in done.stdout
    assert "found, gaussian, sigma 1.30 x 1.30 in 11 x 11, trust 0.93; noise 1.2 of 255" in done.stdout
    assert "88 x 96 by refiner-x1" in done.stdout
    assert "each 46 x 46 pixels" in done.stdout
    assert seen(tmp_path / "k.png").shape == (506, 506, 1)
    found(monkeypatch, trust=0.3)
    command = ["adapt", str(source), "-o", str(tmp_path / "b.png"), "--overwrite"]
    done = run(app, command)
    assert "kernel: bicubic" in done.stdout
    assert "note: the kernel can't be told (trust 0.30" in done.stdout
    facts = json.loads(run(app, [*command, "--json"]).stdout)
    assert facts["kernel"]["origin"] == "bicubic"
    assert facts["kernel"]["trust"] == 0.3
    assert facts["size"] == [96, 88]


def test_json_of_a_kernel_that_is_given(tmp_path, source):
    arguments = ["adapt", str(source), "-o", str(tmp_path / "b.png"), "--kernel", str(tmp_path / "k.npy"), "--json"]
    (line,) = run(app, arguments).stdout.splitlines()
    facts = json.loads(line)
    kernel = facts["kernel"]
    assert (kernel["origin"], kernel["file"], kernel["size"]) == ("given", str(tmp_path / "k.npy"), [11, 11])
    assert kernel["sigma"] == pytest.approx([1.7**0.5] * 2, rel=0.01)
    assert kernel["trust"] is facts["learned"] is None
    assert 0 < facts["consistency"]["rms"] < facts["consistency"]["max"] <= 0.5
    assert facts["seconds"] > facts["estimate_seconds"] >= 0
    assert facts["noise"] == 0


@pytest.mark.parametrize("ending", ["npy", "txt"])
def test_a_kernel_that_is_written_can_be_given(tmp_path, source, monkeypatch, ending):
    found(monkeypatch)
    kernel = tmp_path / f"found.{ending}"
    run(app, ["adapt", str(source), "-o", str(tmp_path / "b.png"), "--kernel-out", str(kernel), "--noise", "5"])
    run(app, ["adapt", str(source), "-o", str(tmp_path / "c.png"), "--kernel", str(kernel), "--noise", "5"])
    made = [seen(tmp_path / f"{name}.png").astype(int) for name in "bc"]
    assert np.abs(made[0] - made[1]).max() <= 1  # another graph may round otherwise in bf16


def test_learning_needs_its_extra(tmp_path, source, monkeypatch):
    monkeypatch.setattr("superfine.cli_train._NEEDED", ("a_package_that_is_not_there",))
    done = run(app, ["adapt", str(source), "-o", str(tmp_path / "b.png"), "--budget", "5"])
    assert isinstance(done.exception, MissingExtraError)
    assert "pip install '.[train]'" in str(done.exception)
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("place", ["find_kernel", "save_picture"])
def test_ctrl_c_leaves_nothing(tmp_path, source, monkeypatch, place):
    def interrupt(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, place, interrupt)
    done = run(app, ["adapt", str(source), "-o", str(tmp_path / "b.png")])
    assert done.exit_code == 130
    assert "stopped; no picture was written" in done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.png", "k.npy"}
