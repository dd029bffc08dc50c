"""Learning a shift: the kernel against the one that made the pictures, the nets against what they may claim."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from superfine.classical import shift_errors as judged
from superfine.classical.shift import shift_image
from superfine.classical.shift_errors import ShiftErrors, mean_errors, shift_errors
from superfine.classical.shift_fit import ShiftKernel, closest_method, fit_kernel, usual_shift
from superfine.engine import open_engine
from superfine.errors import ShapeError, SourceError, UsageError
from superfine.models import Card, read_model
from superfine.shift import Movement, shift_learned, shift_path
from superfine.train import shifts
from superfine.train.export import export
from superfine.train.losses import gradient_weighted
from superfine.train.nets.shifters import (
    SHIFTERS,
    ConvShifter,
    KernelShifter,
    ShiftCritic,
    SpatialTransformer,
    VariationalShifter,
    moved,
)
from superfine.train.shifts import STEPS, descend, learn_path, learn_shift, read_pairs

HALF = np.array([-3, 19, 19, -3]) / 32
NAMES = ("astronaut", "coffee", "chelsea", "rocket")


def photographs(side=200):
    return [np.ascontiguousarray(getattr(data, name)()[40 : 40 + side, 90 : 110 + side]) for name in NAMES]


def planes(shift, method="bicubic", side=200):
    """Pairs of planes in 0..1, both rounded to 8 bits, as files hold them."""
    pairs = []
    for picture in photographs(side):
        target = shift_image(picture, shift, method=method)
        pairs += [(picture[..., channel] / 255, target[..., channel] / 255) for channel in range(3)]
    return pairs


@pytest.fixture
def folders(tmp_path):
    """Four pairs moved by bicubic, 3.5 px each way; and a picture that has no partner."""
    for folder in "st":
        (tmp_path / folder).mkdir()
    for name, picture in zip(NAMES, photographs(), strict=True):
        Image.fromarray(picture).save(tmp_path / "s" / f"{name}.png")
        Image.fromarray(shift_image(picture, (3.5, 3.5), method="bicubic")).save(tmp_path / "t" / f"{name}.png")
    Image.fromarray(picture).save(tmp_path / "s" / "alone.png")
    return tmp_path / "s", tmp_path / "t"


# ---- the closed form


def test_the_sixteen_weights_of_bicubic_are_found():
    pairs = planes((3.5, 3.5), side=300)
    fit = fit_kernel(pairs)
    assert (fit.kernel.weights.shape, fit.kernel.top, fit.kernel.left) == ((4, 4), -5, -5)
    assert np.abs(fit.kernel.weights - np.outer(HALF, HALF)).max() < 5e-4
    assert fit.errors.max() < 2e-4
    assert fit.residual * 255 == pytest.approx(12**-0.5, rel=0.1)  # nothing but the rounding to levels is left
    assert fit.kernel.shift == pytest.approx((3.5, 3.5), abs=1e-3)
    source, target = pairs[0]
    made = np.rint(np.clip(fit.kernel(source), 0, 1) * 255)
    away = np.abs(made - target * 255)[8:-8, 8:-8]
    assert np.mean(away < 0.5) > 0.995
    assert away.max() < 1.5


def test_saturated_samples_would_have_spoilt_it():
    """Brighter pictures, clipped at white: fitting the clipped samples too gives other weights."""
    pairs = []
    for picture in photographs(160):
        bright = np.minimum(picture[..., 0] * 2.0 / 255, 1.0)
        pairs.append((bright, np.clip(shift_image(bright, (0.5, 0.5), method="bicubic"), 0, 1)))
    assert np.mean([np.mean(target >= 1) for _, target in pairs]) > 0.05
    fit = fit_kernel(pairs)
    np.testing.assert_allclose(fit.kernel.weights, np.outer(HALF, HALF), atol=1e-6)


@pytest.mark.parametrize(
    ("shift", "method"),
    [((-1.3, 0.2), "bicubic"), ((3.5, -2.25), "lanczos"), ((0.0, 6.4), "linear"), ((-17.0, 31.5), "bicubic")],
)
def test_the_method_and_its_shift_are_named(shift, method):
    like = closest_method(fit_kernel(planes(shift, method)).kernel)
    assert like.method == method
    assert like.shift == pytest.approx(shift, abs=2e-3)
    assert like.difference < 2e-3


def test_an_unknown_kernel_has_a_centre_of_mass():
    fit = fit_kernel(planes((1.5, -0.5), "fourier", side=100))
    assert fit.kernel.shift == pytest.approx((1.5, -0.5), abs=0.03)
    assert closest_method(fit.kernel).difference > 0.02


def test_whole_pixels_are_found_to_a_pixel():
    pairs = planes((-12.4, 21.7))
    down, right = usual_shift(pairs)
    assert abs(down + 12.4) <= 1
    assert abs(right - 21.7) <= 1


def test_a_kernel_is_what_it_says():
    kernel = ShiftKernel(np.array([[0.0, 0.25], [0.5, 0.25]]), top=1, left=-2)
    plane = np.random.default_rng(0).random((5, 6))
    wide = np.pad(plane, 4, mode="wrap")
    wanted = [
        [0.25 * wide[r + 5, c + 3] + 0.5 * wide[r + 6, c + 2] + 0.25 * wide[r + 6, c + 3] for c in range(6)]
        for r in range(5)
    ]
    np.testing.assert_allclose(kernel(plane, "wrap"), wanted, atol=1e-15)
    assert kernel.shift == pytest.approx((-1.75, 1.5))
    assert kernel.reach == 2


def test_what_says_too_little_is_refused():
    draw = np.random.default_rng(0)
    with pytest.raises(SourceError, match="are even; a shift can't be seen"):
        fit_kernel([(np.full((40, 40), 0.5), np.full((40, 40), 0.5))])
    with pytest.raises(SourceError, match="samples are left for 100 weights"):
        fit_kernel([(draw.random((16, 16)),) * 2])
    with pytest.raises(SourceError, match="are they the same ones, moved"):
        fit_kernel([(draw.random((80, 80)), draw.random((80, 80)))])
    with pytest.raises(SourceError, match="too smooth"):
        ramp = np.add.outer(np.arange(60.0), np.arange(60.0)) / 130 + 0.05
        fit_kernel([(ramp, ramp)], (0, 0))
    with pytest.raises(ShapeError, match=r"of one size, got \(40, 40\) and \(40, 41\)"):
        fit_kernel([(draw.random((40, 40)), draw.random((40, 41)))])


# ---- the errors


@pytest.fixture
def no_flow(monkeypatch):
    """Stands in for the flow, which has tests of its own and takes its time."""
    for module in (judged, shifts):
        monkeypatch.setattr(module, "flow_between", lambda one, two: np.full((*one.shape[:2], 2), (0.5, -0.25)))


def test_errors_are_their_formulas(no_flow):
    draw = np.random.default_rng(0)
    one, two = draw.random((2, 20, 24, 3))
    found = shift_errors(one, two, border=2)
    d = (one - two)[2:-2, 2:-2]
    tensors = [torch.from_numpy(each[2:-2, 2:-2].transpose(2, 0, 1)[None].copy()) for each in (one, two)]
    assert found.l1 == pytest.approx(np.abs(d).mean())
    assert found.l2 == pytest.approx(np.sqrt((d**2).mean()))
    assert found.gradient_weighted == pytest.approx(gradient_weighted(*tensors).item())
    assert found.flow == (0.5, -0.25)
    mean = mean_errors([found, ShiftErrors(0.0, 0.0, 0.0, (0.0, 0.0))])
    assert mean[:3] == pytest.approx((found.l1 / 2, found.l2 / 2, found.gradient_weighted / 2))
    assert mean.flow == (0.25, -0.125)
    assert mean_errors([found._replace(flow=None)]).flow is None


def test_flow_is_the_shift_that_is_left():
    target = data.astronaut()[:128, 100:260] / 255
    found = shift_errors(shift_image(target, (-0.6, 0.3)).clip(0, 1), target, border=8)
    assert found.flow == pytest.approx((0.6, -0.3), abs=0.05)


def test_no_flow_is_seen_in_flat_pictures():
    flat = np.full((32, 32, 1), 0.5)
    assert shift_errors(flat, flat) == (0.0, 0.0, 0.0, None)


def test_what_cant_be_compared_is_refused():
    with pytest.raises(ShapeError, match="of one shape"):
        shift_errors(np.zeros((20, 20, 3)), np.zeros((20, 21, 3)))
    with pytest.raises(ShapeError, match="too little is left"):
        shift_errors(np.zeros((20, 20, 3)), np.zeros((20, 20, 3)), border=4)


# ---- the nets


def test_whole_moves_are_cuts():
    x = torch.rand(1, 3, 6, 8)
    for whole in [(2, -3), (-1, 0), (0, 4), (-9, 11)]:
        wanted = shift_image(x[0].permute(1, 2, 0).numpy(), whole, border="constant") if max(whole) < 6 else 0
        np.testing.assert_array_equal(moved(x, whole)[0].permute(1, 2, 0), wanted * np.ones((6, 8, 3)))


def kernel_net(whole=(3, -2)):
    return KernelShifter(whole, torch.rand(2, 3), (-1, 0))


NETS = {"kernel": kernel_net, **{name: lambda make=make: make((3, -2)) for name, make in SHIFTERS.items()}}


@pytest.mark.parametrize("name", NETS)
def test_a_net_keeps_the_size_and_learns_with_every_weight(name):
    torch.manual_seed(0)
    net = NETS[name]()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.01 * torch.randn_like(weight))  # the transformer begins at zero, where nothing flows back
    x = torch.rand(2, 3, 18, 22)
    assert net(x).shape == x.shape
    output = net.drawn(x)[0] if isinstance(net, VariationalShifter) else net(x)
    output.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters())


@pytest.mark.parametrize("name", ["kernel", "convgan", "vae"])
def test_a_net_looks_as_far_as_its_halo(name):
    torch.manual_seed(0)
    net = NETS[name]().eval().double()
    x = torch.rand(1, 3, 60, 60, dtype=torch.float64)
    x.requires_grad_()
    net(x)[0, :, 30, 30].sum().backward()
    felt = np.argwhere(x.grad.abs().sum((0, 1)).numpy() > 0)
    assert np.abs(felt - 30).max() <= net.halo
    assert np.abs(felt - 30).max() >= net.halo - 4


@pytest.mark.parametrize("shift", [(0.3, -0.45), (-0.2, 0.0)])
def test_the_transformer_reads_as_bicubic(shift):
    net = SpatialTransformer((0, 0))
    picture = photographs(60)[0]
    with torch.no_grad():
        net.say.bias[:2] = torch.tensor(shift)
        made = net(torch.from_numpy(picture / 255).float().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    wanted = shift_image(picture / 255, shift, method="bicubic")
    np.testing.assert_allclose(made[4:-4, 4:-4], wanted[4:-4, 4:-4], atol=1e-4)


def test_the_transformer_turns_and_stretches_about_the_middle():
    """The matrix is of where to read, rows first: out[p] = in[A p - d] about the middle."""
    net = SpatialTransformer((0, 0))
    row, col = np.mgrid[0:40, 0:60] - np.array([19.5, 29.5])[:, None, None]
    level = torch.from_numpy(0.5 + 0.01 * row + 0.002 * col).float()[None, None].expand(1, 3, -1, -1)
    with torch.no_grad():
        net.say.bias[:] = torch.tensor([0.5, -0.25, 2.0, 3.0, -4.0, 1.0])  # hundredths, but the first two
        made = net(level)[0, 0].numpy()
    read_row, read_col = 1.02 * row + 0.03 * col - 0.5, -0.04 * row + 1.01 * col + 0.25
    np.testing.assert_allclose(
        made[6:-6, 6:-6], (0.5 + 0.01 * read_row + 0.002 * read_col)[6:-6, 6:-6], atol=8e-4
    )  # bicubic bends slopes


def test_the_critic_sees_both():
    critic = ShiftCritic()
    assert critic(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)).shape == (2, 1, 8, 8)


# ---- from file to file


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """An engine of a file that moves by bicubic, dy 3.5 and dx -2.5."""
    net = KernelShifter((3, -3), torch.from_numpy(np.outer(HALF, HALF)), (-2, -2))
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    export(net, Card(name="half", scale=1, halo=net.halo, needs_fp32=True, tile=48), path)
    model = read_model(path)
    assert (model.card.scale, model.card.halo, model.card.parameters) == (1, 5, 16)
    return open_engine(model, "openvino", "fp32")


@pytest.mark.parametrize(
    ("dtype", "channels", "border"),
    [
        (np.uint8, 3, "reflect"),
        (np.uint8, 3, "replicate"),
        (np.uint8, 3, "wrap"),
        (np.uint8, 3, "constant"),
        (np.uint16, 1, "reflect"),
        (np.float32, 3, "constant"),
    ],
)
def test_a_file_moves_as_its_kernel_whatever_the_border_the_depth_and_the_tiles(half, dtype, channels, border):
    scale = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = (photographs(100)[1][..., :channels] / 255 * scale).astype(dtype)
    made = shift_learned(pixels, half, border=border, fill=0.2).astype(float)
    wanted = shift_image(pixels, (3.5, -2.5), method="bicubic", border=border, fill=0.2).clip(0, scale).astype(float)
    np.testing.assert_allclose(made, wanted, atol=1e-5 if dtype == np.float32 else 1)
    assert np.mean(np.abs(made - wanted) < 0.5) > 0.995


@pytest.mark.parametrize("border", ["reflect", "constant"])
def test_a_file_moves_alpha_with_the_colours(half, border):
    pixels = np.zeros((20, 24, 4), np.uint8)
    pixels[..., :3] = np.random.default_rng(0).integers(0, 256, (20, 24, 3))
    pixels[5:15, 6:18] = (200, 100, 50, 255)
    made = shift_learned(pixels, half, border=border)
    wanted = shift_image(pixels, (3.5, -2.5), method="bicubic", border=border)
    seen = wanted[..., 3] > 8
    assert 100 < seen.sum() < 200
    assert np.abs(made[..., 3].astype(int) - wanted[..., 3]).max() <= 1
    assert np.abs(made[seen].astype(int) - wanted[seen]).max() <= 2


def test_gradient_descent_comes_nearer_to_the_truth(folders):
    pairs, _ = read_pairs(*folders)
    fit = fit_kernel(planes((3.5, 3.5)))
    coarse, fine = (np.abs(descend(pairs, fit, steps=steps).weights - np.outer(HALF, HALF)).max() for steps in (2, 120))
    assert fine < 0.7 * coarse


@pytest.mark.slow
def test_gradient_descent_comes_to_the_closed_form(folders):
    pairs, _ = read_pairs(*folders)
    found = descend(pairs, fit_kernel(planes((3.5, 3.5))), steps=STEPS["kernel"])
    np.testing.assert_allclose(found.weights, np.outer(HALF, HALF), atol=1e-3)


@pytest.mark.slow
def test_kernel_from_folders_to_a_moved_file(folders, tmp_path, no_flow):
    said = []
    report = learn_path(*folders, tmp_path / "k.onnx", plot=tmp_path / "k.png", steps=100, say=said.append)
    assert report.shift == pytest.approx((3.5, 3.5), abs=1e-3)
    assert np.abs(report.fit.kernel.weights - np.outer(HALF, HALF)).max() < 5e-4
    row = report.rows["kernel"]
    assert row.equal > 0.995
    assert row.largest <= 1
    assert row.mean_square < 1e-6
    assert report.rows["not moved"].mean_square > 1e-4
    assert (report.learned_from, report.judged_on) == (3, 1)
    facts = json.loads(json.dumps(report.facts()))
    assert facts["like"] == "bicubic"
    assert "1 pictures have no partner, such as alone" in facts["notes"]
    assert "kernel: dx 3.5" in str(report)
    assert torch.load(tmp_path / "k.pt", weights_only=True)["method"] == "kernel"
    with Image.open(tmp_path / "k.png") as plot:
        assert np.asarray(plot).std() > 10
    source, target = (folder / "coffee.png" for folder in folders)
    (made,) = shift_path(source, tmp_path / "c.png", movement=Movement(method="learned", model=tmp_path / "k.onnx"))
    assert made.status == "done", made.message
    away = np.abs(np.asarray(Image.open(tmp_path / "c.png")).astype(int) - np.asarray(Image.open(target)))
    assert np.mean(away == 0) > 0.995
    assert away.max() <= 1


@pytest.mark.slow
def test_the_transformer_finds_the_shift_to_a_hundredth(folders):
    pairs, _ = read_pairs(*folders)
    learned = learn_shift(pairs, "stn", fit_kernel(planes((3.5, 3.5))), steps=300)
    assert learned.shift == pytest.approx((3.5, 3.5), abs=0.01)
    assert isinstance(learned.net, KernelShifter)


@pytest.mark.parametrize("method", ["convgan", "vae"])
def test_nets_of_pictures_are_judged_beside_the_kernel(folders, tmp_path, method, no_flow):
    report = learn_path(*folders, tmp_path / "n.onnx", method=method, steps=3)
    assert list(report.rows) == ["not moved", "kernel", method]
    assert report.shift is None
    assert any(f"{method} loses to kernel by " in words for words in report.words)
    assert report.rows[method].mean_square > report.rows["kernel"].mean_square
    kind = {"convgan": ConvShifter, "vae": VariationalShifter}[method]
    card = read_model(tmp_path / "n.onnx").card
    assert (card.scale, card.net, card.multiple_of) == (1, f"shift-{method}", kind.multiple_of)
    assert card.halo in (kind.radius + 3, kind.radius + 4)  # 3.5 may be 3 whole pixels or 4


@pytest.mark.slow
def test_training_brings_it_nearer(folders):
    pairs, _ = read_pairs(*folders)
    fit = fit_kernel(planes((3.5, 3.5)))
    x, y = (torch.from_numpy(each / 255).float().permute(2, 0, 1)[None] for each in pairs[0][1:])

    def away(steps):
        made = learn_shift(pairs, "convgan", fit, steps=steps).net(x)
        return (made - y)[..., 12:-12, 12:-12].square().mean().item()

    assert away(120) < away(1) / 2


def pairs_of(tmp_path, **pictures):
    for name, pixels in pictures.items():
        folder, _, stem = name.partition("_")
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / folder / f"{stem}.png")
    return tmp_path / "s", tmp_path / "t"


def test_pairs_that_dont_fit_are_refused(tmp_path):
    grey, colour, small = np.zeros((30, 30), np.uint8), np.zeros((30, 30, 3), np.uint8), np.zeros((30, 29), np.uint8)
    with pytest.raises(SourceError, match="have 1 pictures with the same name; want two or more"):
        read_pairs(*pairs_of(tmp_path, s_a=grey, t_a=grey, t_b=grey))
    with pytest.raises(SourceError, match=r"b\.png is 30x30x3 uint8 and .*b\.png is 30x30x1 uint8; partners"):
        read_pairs(*pairs_of(tmp_path, s_b=colour))
    with pytest.raises(SourceError, match="is 29x30x1 uint8 and .* is 30x30x1"):
        read_pairs(*pairs_of(tmp_path, s_b=small))
    with pytest.raises(SourceError, match="there is no such folder"):
        read_pairs(tmp_path / "s", tmp_path / "nowhere")
    Image.fromarray(grey).save(tmp_path / "s" / "a.tif")
    with pytest.raises(SourceError, match="have the same name, so their partner isn't clear"):
        read_pairs(tmp_path / "s", tmp_path / "t")


def test_wrong_wishes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--method 'gan' is none of kernel, stn, convgan, vae"):
        learn_path(tmp_path, tmp_path, tmp_path / "a.onnx", method="gan")
    with pytest.raises(UsageError, match="--steps 0 is not a number of steps"):
        learn_path(tmp_path, tmp_path, tmp_path / "a.onnx", steps=0)


def test_alpha_and_orientation_are_taken_off(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in "st":
        (tmp_path / folder).mkdir()
        for name in "ab":
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png", exif=exif)
    pairs, words = read_pairs(tmp_path / "s", tmp_path / "t")
    assert words == ()
    np.testing.assert_array_equal(pairs[0].source, np.rot90(pixels, -1)[..., :3])
