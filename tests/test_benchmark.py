"""Figures of methods whose answers are known, against scikit-image and by hand."""

import math

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from memory import measured
from superfine.classical.resample import matlab_resize, resize
from superfine.errors import EngineError, ModelError, ShapeError, UsageError
from superfine.evaluate.benchmark import benchmark, evaluate_path, judge, open_methods
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.listener import Listener
from superfine.evaluate.methods import BASELINES, ClassicalMethod, Made, open_method
from superfine.evaluate.pairs import open_dataset
from superfine.evaluate.record import AS_IS

ASTRONAUT = np.ascontiguousarray(data.astronaut()[60:160, 180:290])
COFFEE = np.ascontiguousarray(data.coffee()[150:220, 200:312])


class Known:
    """Bicubic by default; `answers`: small picture's bytes -> the large one that is given instead."""

    scale, engine, precision, sha256, parameters, notes = 2, "by hand", "fp32", "12ab", 7, ("a note",)

    def __init__(self, name="known", answers=(), fails_on=()):
        self.name, self.answers, self.fails_on = name, dict(answers), fails_on
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        if pixels.tobytes() in self.fails_on:
            raise EngineError("on command")
        if pixels.tobytes() in self.answers:
            return self.answers[pixels.tobytes()]
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


def small_of(pixels):
    return matlab_resize(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(ASTRONAUT).save(folder / "a.png")
    Image.fromarray(COFFEE).save(folder / "b.png")
    return folder


def matlab_luma(pixels):
    """rgb2ycbcr of MATLAB's documentation, on 0..255."""
    return 16 + pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def witness(output, target, border):
    inner = slice(border, -border)
    y, wanted = (matlab_luma(pixels)[inner, inner] for pixels in (output, target))
    rgb, truth = (pixels[inner, inner] for pixels in (output, target))

    def likeness(first, second):
        _, whole = structural_similarity(
            first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        return whole[5:-5, 5:-5].mean()

    return (
        peak_signal_noise_ratio(wanted, y, data_range=255),
        likeness(y, wanted),
        peak_signal_noise_ratio(truth, rgb, data_range=255),
        np.mean([likeness(rgb[..., c], truth[..., c]) for c in range(3)]),
    )


def test_figures_against_scikit_image():
    output = np.rint(resize(small_of(ASTRONAUT) / 255.0, ASTRONAUT.shape[:2]).clip(0, 1) * 255).astype(np.uint8)
    figures = judge(output, ASTRONAUT, 2)
    wanted = witness(output, ASTRONAUT, 2)
    given = (figures.psnr_y, figures.ssim_y, figures.psnr_rgb, figures.ssim_rgb)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=2e-5)


def test_rows_are_means_and_pooled_figures(photos):
    shifted = {small_of(pixels).tobytes(): pixels // 2 + 10 for pixels in (ASTRONAUT, COFFEE)}
    found = benchmark([open_dataset(photos, 2)], [Known(answers=shifted)])
    row = next(row for row in found.rows if row.model == "known")
    each = [witness(pixels // 2 + 10, pixels, 2) for pixels in (ASTRONAUT, COFFEE)]
    given = (row.psnr_y, row.ssim_y, row.psnr_rgb, row.ssim_rgb)
    np.testing.assert_allclose(given, np.mean(each, axis=0), rtol=0, atol=2e-5)
    inner = (slice(2, -2), slice(2, -2))
    errors = [((pixels // 2 + 10).astype(float) - pixels)[inner] / 255 for pixels in (ASTRONAUT, COFFEE)]
    mean = sum((error**2).sum() for error in errors) / sum(error.size for error in errors)
    assert row.pooled_rgb == pytest.approx(-10 * np.log10(mean), abs=1e-5)
    assert (row.pictures, row.scale, row.dataset) == (2, 2, "photos")
    assert (row.engine, row.precision, row.sha256, row.parameters) == ("by hand", "fp32", "12ab", 7)
    assert row.protocol_y == "Y601-limited, crop 2, matlab-bicubic"
    assert row.protocol_rgb == "RGB, crop 2, matlab-bicubic"
    assert row.ms_per_mpx > 0
    assert "known: a note" in found.notes
    assert found.failures == ()


def test_nearest_bilinear_bicubic_and_lanczos_are_always_there(photos):
    methods = [Known(), ClassicalMethod("bicubic", 2)]
    found = benchmark([open_dataset(photos, 2)], methods)
    names = [row.model for row in found.rows]
    assert set(BASELINES) <= set(names)
    assert len(names) == len(set(names)) == len(BASELINES) + 1
    nearest = next(row for row in found.rows if row.model == "nearest")
    known = next(row for row in found.rows if row.model == "known")
    assert nearest.psnr_y == known.psnr_y  # both double each pixel


def test_equal_pictures_are_infinity_and_never_a_cap(photos):
    exact = {small_of(pixels).tobytes(): pixels for pixels in (ASTRONAUT, COFFEE)}
    row = next(row for row in benchmark([open_dataset(photos, 2)], [Known(answers=exact)]).rows if row.model == "known")
    assert row.psnr_y == row.psnr_rgb == row.pooled_y == row.pooled_rgb == math.inf
    assert row.ssim_y == pytest.approx(1, abs=1e-6)
    half = dict([next(iter(exact.items()))])
    row = next(row for row in benchmark([open_dataset(photos, 2)], [Known(answers=half)]).rows if row.model == "known")
    assert row.psnr_y == math.inf
    assert math.isfinite(row.pooled_y)


def test_same_size_pairs_show_lr_as_it_is(tmp_path):
    Image.fromarray(ASTRONAUT).save(tmp_path / "a_HR.png")
    soft = np.roll(ASTRONAUT, 1, axis=1)
    Image.fromarray(soft).save(tmp_path / "a_LR.png")
    first = benchmark([open_dataset(tmp_path, 2)], []).rows[0]
    assert (first.model, first.protocol_y) == (AS_IS, "Y601-limited, crop 2, paired, pre-reduced 2")
    assert first.psnr_y == pytest.approx(witness(soft, ASTRONAUT, 2)[0], abs=2e-5)
    assert math.isnan(first.ms_per_mpx)


def test_what_fails_is_named_and_stops_nothing(photos):
    (photos / "broken.png").write_bytes(b"no picture")
    Image.fromarray(ASTRONAUT[:4, :4]).save(photos / "tiny.png")
    heard = []

    class Ear(Listener):
        def warn(self, text):
            heard.append(text)

    failing = Known(fails_on=[small_of(COFFEE).tobytes()])
    found = benchmark([open_dataset(photos, 2)], [failing], listener=Ear())
    reasons = {failure.name: failure.reason for failure in found.failures}
    assert reasons.pop("photos/b.png by known") == "on command"
    assert set(reasons) == {str(photos / "broken.png"), str(photos / "tiny.png")}
    assert "nothing is left of" in reasons[str(photos / "tiny.png")]
    assert len(heard) == 3
    assert {row.model: row.pictures for row in found.rows} == {**dict.fromkeys(BASELINES, 2), "known": 1}


def test_small_pictures_have_no_ssim(tmp_path):
    Image.fromarray(ASTRONAUT[:14, :14]).save(tmp_path / "a.png")
    row = benchmark([open_dataset(tmp_path, 2)], []).rows[0]
    assert math.isnan(row.ssim_y)
    assert math.isfinite(row.psnr_y)


def test_each_picture_is_decoded_once(photos, monkeypatch):
    from superfine.evaluate import pairs

    read = []
    original = pairs.decode
    monkeypatch.setattr(pairs, "decode", lambda path: (read.append(path.name), original(path))[1])
    known = Known()
    benchmark([open_dataset(photos, 2)], [known, Known("other")])
    assert read == ["a.png", "b.png"]


def test_distances_stand_beside(photos):
    class Brightness:
        name, version = "brightness", "1, by hand"

        def __call__(self, output, target):
            return float(abs(output.mean() - target.mean()))

    shifted = {small_of(pixels).tobytes(): pixels - np.minimum(pixels, 51) for pixels in (ASTRONAUT, COFFEE)}
    found = benchmark([open_dataset(photos, 2)], [Known(answers=shifted)], distances=[Brightness()])
    row = next(row for row in found.rows if row.model == "known")
    inner = (slice(2, -2), slice(2, -2))
    wanted = [np.minimum(pixels, 51)[inner].mean() / 255 for pixels in (ASTRONAUT, COFFEE)]
    assert row.distances["brightness"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert "brightness is 1, by hand" in found.notes


def test_a_network_is_judged_as_upscale_runs_it(photos):
    import superfine

    found = evaluate_path(photos, ["fast"])
    row = next(row for row in found.rows if row.model == "fast-x2")
    wanted = [
        witness(superfine.upscale(small_of(pixels), 2, model="fast"), pixels, 2)[0] for pixels in (ASTRONAUT, COFFEE)
    ]
    assert row.psnr_y == pytest.approx(np.mean(wanted), abs=2e-5)
    (model,) = (model for model in superfine.list_models() if model.card.name == "fast-x2")
    assert (row.sha256, row.parameters) == (model.sha256, model.card.parameters)
    assert row.engine.startswith("OpenVINO")


@measured
def test_memory_is_that_of_the_method(photos):
    class Greedy(Known):
        def __call__(self, pixels):
            held = np.ones(50_000_000, np.uint8)
            assert held.all()
            return super().__call__(pixels)

    found = benchmark([open_dataset(photos, 2)], [Known("modest"), Greedy("greedy")])
    memory = {row.model: row.memory_mb for row in found.rows}
    assert 45 < memory["greedy"] < 120
    assert memory["modest"] < 40


class Seer(Known):
    """Is told the kernel, and says another one that it found: the true one plus `wrong` times a flat one."""

    oracle = True

    def __init__(self, name, wrong=()):
        super().__init__(name)
        self.told, self.wrong = [], list(wrong)

    def made(self, pixels, kernel):
        self.told.append(kernel)
        share = self.wrong[(len(self.told) - 1) % len(self.wrong)]
        return Made(self(pixels), kernel + share * np.full_like(kernel, 1 / kernel.size))


def test_kernels_are_told_recorded_and_held_against_the_found_ones(photos, tmp_path):
    shares = (0.0, 0.5, 1.0, 0.2, 0.1, 3.0)
    seer = Seer("seer", shares)
    found = benchmark([open_dataset(photos, 2, reduction="anisotropic")], [seer, Known()])
    pairs = [open_dataset(photos, 2, reduction="anisotropic").pair(place) for place in range(6)]
    for told, pair, used in zip(seer.told, pairs, found.kernels, strict=False):
        np.testing.assert_array_equal(told, pair.kernel)
        np.testing.assert_array_equal(used.weights, pair.kernel)
        assert (used.dataset, used.picture, used.scale) == ("photos", pair.name, 2)
    assert len(found.kernels) == 6
    # The cosine between k and k + share * flat.
    wanted = []
    for share, pair in zip(shares, pairs, strict=True):
        true = pair.kernel.ravel()
        other = true + share / true.size
        wanted.append(true @ other / np.linalg.norm(true) / np.linalg.norm(other))
    measured_ones = [each.kernel_correlation for each in found.measurements if each.model == "seer"]
    np.testing.assert_allclose(measured_ones, wanted, rtol=1e-9)
    rows = {row.model: row for row in found.rows}
    assert rows["seer"].kernel_correlation == pytest.approx(np.median(wanted), rel=1e-9)
    assert rows["known"].kernel_correlation is None
    assert rows["known"].pictures == 6
    assert f"{np.median(wanted):.3f}" in str(found)
    assert "normalised correlation" in found._repr_html_()
    found.save(tmp_path / "r.jsonl")
    assert Evaluation.load(tmp_path / "r.jsonl").kernels == found.kernels


def test_an_oracle_is_not_judged_where_nobody_knows_the_kernel(photos):
    seer = Seer("seer", [0])
    with pytest.raises(UsageError, match="seer has to be told the kernel of each picture, and photos doesn't say"):
        benchmark([open_dataset(photos, 2)], [seer])
    assert seer.told == []


def test_lines_of_the_table_stay_within_the_width(photos):
    text = str(benchmark([open_dataset(photos, 2, reduction="anisotropic")], []))
    legend = text.split("\nnearest", maxsplit=1)[0].splitlines()
    assert max(map(len, legend)) <= 120
    assert "seed 1" in text


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
def test_adapt_gains_most_where_it_is_told_the_kernel(tmp_path, scale):
    Image.fromarray(data.astronaut()[:192, 100:292]).save(tmp_path / "a.png")
    found = evaluate_path(tmp_path, ["adapt", "adapt-known"], scale=scale, reduction="anisotropic")
    rows = {row.model: row for row in found.rows}
    assert found.failures == ()
    assert rows["adapt-known"].psnr_y > rows["bicubic"].psnr_y + 2
    assert rows["adapt-known"].psnr_y > rows["adapt"].psnr_y - 0.05
    assert 0.5 < rows["adapt"].kernel_correlation <= 1
    assert rows["adapt-known"].kernel_correlation is None
    # An oracle is never marked as the best.
    lines = [line for line in str(found).splitlines() if line.startswith("adapt-known ")]
    assert len(lines) == 1
    assert "*" not in lines[0]
    with pytest.raises(UsageError, match="adapt-known has to be told the kernel"):
        evaluate_path(tmp_path, ["adapt-known"], scale=scale)


def test_what_ends_an_adaptation_is_no_method_by_itself():
    assert "refiner-x1" not in [method.name for method in open_methods(None, 1)]
    assert "fast-x2" in [method.name for method in open_methods(None, 2)]


def test_adapt_is_judged_as_it_runs(tmp_path):
    from superfine.adapt import adapt_pixels

    pixels = np.ascontiguousarray(data.astronaut()[:128, 100:228])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    row = next(row for row in evaluate_path(tmp_path, ["adapt"]).rows if row.model == "adapt")
    wanted = adapt_pixels(small_of(pixels), 2).pixels
    assert row.psnr_y == pytest.approx(witness(wanted, pixels, 2)[0], abs=2e-5)
    assert row.parameters > 0
    assert row.kernel_correlation is None  # nobody knows the true one


def test_wrong_wishes(photos, tmp_path):
    with pytest.raises(UsageError, match="there is no folder to judge on"):
        benchmark([], [])
    with pytest.raises(UsageError, match="known is for x2, not x3; judge one scale at a time"):
        benchmark([open_dataset(photos, 3)], [Known()])
    with pytest.raises(UsageError, match="two models are called 'known'"):
        benchmark([open_dataset(photos, 2)], [Known(), Known()])
    with pytest.raises(ModelError, match="'photo' enlarges x2, x4, not x3"):
        open_method("photo", 3)
    with pytest.raises(ModelError, match="'adapt' enlarges x2, x3, x4, not x8"):
        open_method("adapt", 8)
    with pytest.raises(UsageError, match="no model 'nope'"):
        evaluate_path(photos, ["nope"])
    with pytest.raises(ModelError, match="there is no such model file"):
        evaluate_path(photos, [str(tmp_path / "gone.onnx")])
    with pytest.raises(ShapeError, match=r"output \(4, 4, 3\) and target \(6, 6, 3\)"):
        judge(np.zeros((4, 4, 3), np.uint8), np.zeros((6, 6, 3), np.uint8), 1)


def test_networks_of_one_name_are_told_apart(photos, tmp_path):
    import superfine

    (model,) = (model for model in superfine.list_models() if model.card.name == "fast-x2")
    (tmp_path / "newer.onnx").write_bytes(model.content)
    found = evaluate_path(photos, ["fast", str(tmp_path / "newer.onnx")])
    figures = {row.model: row.psnr_y for row in found.rows}
    assert figures["fast-x2"] == figures["newer.onnx"]


def test_folders_of_one_name_are_told_apart(photos, tmp_path):
    twin = tmp_path / "twin" / "photos"
    twin.mkdir(parents=True)
    Image.fromarray(COFFEE).save(twin / "c.png")
    found = evaluate_path([photos, twin], [])
    assert {row.dataset for row in found.rows} == {str(photos), str(twin)}
