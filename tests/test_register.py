"""Shifts against known ones: pictures moved in Fourier space, beside the bound that noise sets."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import affine_transform, gaussian_filter
from skimage import data

from superfine.classical.register import Registration, register, whole_shift
from superfine.errors import NoMatchError, ShapeError, UsageError

Floats = npt.NDArray[np.float64]

NAMES = ("astronaut", "camera", "coffee", "chelsea", "rocket")


def photo(name: str) -> Floats:
    pixels: Any = getattr(data, name)().astype(np.float64)
    return pixels[..., :3] @ np.array([0.299, 0.587, 0.114]) if pixels.ndim == 3 else pixels


PHOTOS = {name: photo(name) for name in NAMES}


def moved(plane: Floats, shift: tuple[float, float]) -> Floats:
    """The plane, which fades out to its border, moved in Fourier space."""
    phase = [np.fft.fftfreq(count) * distance for count, distance in zip(plane.shape, shift, strict=True)]
    turn = np.exp(-2j * np.pi * np.add.outer(*phase))
    result: Floats = np.fft.ifft2(np.fft.fft2(plane) * turn).real
    return result


def pair(
    name: str,
    shift: tuple[float, float],
    *,
    sigma: float = 0,
    side: int = 128,
    seed: int = 0,
    at: tuple[int, int] = (0, 0),
) -> tuple[Floats, Floats, Floats]:
    """A crop, the same crop moved with other content coming in, and the first's gradient without noise (2, h, w)."""
    margin = 40
    whole = PHOTOS[name][at[0] : at[0] + side + 2 * margin, at[1] : at[1] + side + 2 * margin]
    edge = np.sin(np.pi / 2 * np.clip((np.arange(len(whole)) + 0.5) / 20, 0, 1)) ** 2
    fade = np.minimum(edge, edge[::-1])
    faded = (whole - whole.mean()) * np.multiply.outer(fade, fade)
    crop = np.s_[margin : margin + side, margin : margin + side]
    rng = np.random.default_rng(seed)
    first, second = (
        part[crop] + 128 + sigma * rng.standard_normal((side, side)) for part in (faded, moved(faded, shift))
    )
    slope = [np.fft.fftfreq(count) * 2j * np.pi for count in faded.shape]
    spectrum = np.fft.fft2(faded)
    gradient = [np.fft.ifft2(spectrum * along).real[crop] for along in (slope[0][:, None], slope[1][None])]
    return first, second, np.stack(gradient)


def bound(first: Floats, gradient: Floats, sigma: float, shift: tuple[float, float]) -> Floats:
    """Cramer and Rao's for unknown content in both pictures' noise, over the overlap, from the content without noise.

    The information is the sum over frequencies of omega ** 2 * S ** 2 / (2 S N + N ** 2), S of content, N of noise.
    """
    rows, cols = first.shape
    window = np.multiply.outer(
        np.sin(np.pi * (np.arange(rows) + 0.5) / rows), np.sin(np.pi * (np.arange(cols) + 0.5) / cols)
    )
    window /= np.sqrt((window**2).mean())
    content = np.abs(np.fft.fft2((first - first.mean()) * window)) ** 2 / first.size
    slope = np.fft.fft2(gradient * window)
    noise = sigma**2
    weight = content / (2 * content * noise + noise**2) / first.size
    information = np.real(np.einsum("iyx,jyx,yx->ij", slope.conj(), slope, weight))
    seen = (1 - abs(shift[0]) / rows) * (1 - abs(shift[1]) / cols)
    limit: Floats = np.sqrt(np.diag(np.linalg.inv(information * seen)))
    return limit


def off(found: Registration, shift: tuple[float, float]) -> float:
    return float(np.abs(np.subtract(found.shift, shift)).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [(0.5, -0.25), (2.7, 1.31), (-1.99, -2.5)])
def test_without_noise_to_less_than_a_thousandth(name: str, shift: tuple[float, float]) -> None:
    first, second, _ = pair(name, shift, at=(50, 90))
    assert off(register(first, second), shift) < 8e-4


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("shift", [(0.5, -0.25), (2.3, 1.6)])
def test_aliased_after_a_soft_lens(name: str, shift: tuple[float, float]) -> None:
    """Every second sample of a picture blurred by 0.6 of its pixels; scipy's blur is the witness."""
    whole = gaussian_filter(PHOTOS[name][:300, :300], 0.6)
    edge = np.sin(np.pi / 2 * np.clip((np.arange(300) + 0.5) / 16, 0, 1)) ** 2
    fade = np.minimum(edge, edge[::-1])
    faded = (whole - whole.mean()) * np.multiply.outer(fade, fade)
    crop = np.s_[22:278:2, 22:278:2]
    found = register(faded[crop], moved(faded, (2 * shift[0], 2 * shift[1]))[crop])
    assert off(found, shift) < 0.02


def tiles(shift: tuple[float, float], *, texture: float, sigma: float) -> tuple[Floats, Floats]:
    """A grid that repeats itself every six pixels, with some texture that doesn't, moved."""
    rng = np.random.default_rng(1)
    grain = gaussian_filter(rng.standard_normal((192, 192)), 1.5)
    wave = np.cos(np.arange(192) * np.pi / 3)
    edge = np.sin(np.pi / 2 * np.clip((np.arange(192) + 0.5) / 16, 0, 1)) ** 2
    fade = np.minimum(edge, edge[::-1])
    whole = (60 * np.add.outer(wave, wave) + texture * grain / grain.std()) * np.multiply.outer(fade, fade)
    crop = np.s_[32:160, 32:160]
    noise = sigma * rng.standard_normal((2, 128, 128))
    return whole[crop] + noise[0], moved(whole, shift)[crop] + noise[1]


@pytest.mark.parametrize("sigma", [0, 1])
def test_what_repeats_itself_is_told_apart_by_what_does_not(sigma: float) -> None:
    first, second = tiles((2.5, -2.5), texture=4.3, sigma=sigma)
    # What looks most alike to the pixel is elsewhere, periods away.
    assert np.abs(np.subtract(whole_shift(first, second), (2.5, -2.5))).max() > 5
    assert off(register(first, second), (2.5, -2.5)) < 2e-3


@pytest.mark.parametrize(("texture", "sigma"), [(0, 5), (2, 1)])
def test_what_only_repeats_itself_is_refused(texture: float, sigma: float) -> None:
    first, second = tiles((2.5, -2.5), texture=texture, sigma=sigma)
    with pytest.raises(NoMatchError, match="the pictures repeat themselves, and shifts by"):
        register(first, second)


@pytest.mark.parametrize("sigma", [2, 10])
def test_noise_costs_what_the_bound_says(sigma: float) -> None:
    """Within a quarter, of which a tenth is the draws' own scatter. The rocket is left out: its sky shows nothing."""
    rng = np.random.default_rng(3)
    errors, limits, stated = [], [], []
    for seed in range(40):
        shift = tuple(rng.uniform(-3, 3, 2))
        at = (int(rng.integers(0, 90)), int(rng.integers(0, 90)))
        clean, _, gradient = pair(NAMES[seed % 4], shift, at=at)
        first, second, _ = pair(NAMES[seed % 4], shift, sigma=sigma, seed=seed, at=at)
        found = register(first, second)
        errors.append(np.subtract(found.shift, shift))
        limits.append(bound(clean, gradient, sigma, shift))
        stated.append(found.error)
        assert found.noise == pytest.approx(sigma, rel=0.35)
    assert np.sqrt(np.mean(np.square(errors))) < 1.25 * np.sqrt(np.mean(np.square(limits)))
    covered = float((np.abs(errors) < np.array(stated)).mean())
    assert 0.55 < covered < 0.81  # 80 draws of a share of 0.68: two and a half of their deviations


def test_swapped_pictures_give_the_opposite_shift() -> None:
    first, second, _ = pair("coffee", (1.3, -2.2), sigma=4)
    there, back = register(first, second), register(second, first)
    assert off(back, (-there.shift[0], -there.shift[1])) < 0.3 * max(there.error)


def test_swapped_axes_give_the_swapped_shift() -> None:
    first, second, _ = pair("chelsea", (1.3, -2.2), sigma=4)
    there, turned = register(first, second), register(first.T, second.T)
    assert turned.shift == pytest.approx(there.shift[::-1], abs=1e-4)


@pytest.mark.parametrize("shift", [(31, -30), (0, 32), (-20, 3), (0, 0)])
def test_whole_pixels_up_to_a_quarter(shift: tuple[int, int]) -> None:
    whole = PHOTOS["astronaut"]
    first, second = whole[100:228, 100:228], whole[100 - shift[0] : 228 - shift[0], 100 - shift[1] : 228 - shift[1]]
    found = register(first, second)
    assert off(found, shift) < 1e-6
    assert found.overlap == pytest.approx((1 - abs(shift[0]) / 128) * (1 - abs(shift[1]) / 128))


def test_large_pictures_are_compared_in_windows() -> None:
    whole = np.tile(PHOTOS["coffee"], (2, 2))[:780, :1180]  # mirrored nowhere, so that it repeats at 400 and 600
    shift = (61, -97)
    first = whole[100:700, 100:1000]
    second = whole[100 - shift[0] : 700 - shift[0], 100 - shift[1] : 1000 - shift[1]]
    assert off(register(first, second), shift) < 1e-6


def test_content_moves_by_plus_d() -> None:
    """second[r, c] = first[r - dy, c - dx]."""
    first = PHOTOS["camera"][100:240, 100:240]
    assert register(first, np.roll(first, (3, -2), axis=(0, 1))).shift == pytest.approx((3, -2), abs=1e-3)


def test_gain_and_offset_are_found_and_do_no_harm() -> None:
    first, second, _ = pair("camera", (0.4, 1.7), sigma=1, at=(60, 60))
    plain, changed = register(first, second), register(first, 0.8 * second + 25)
    assert changed.gain == pytest.approx(0.8, rel=0.01)
    assert changed.offset == pytest.approx(25 + 0.8 * plain.offset, abs=2)
    assert off(changed, plain.shift) < 0.1 * min(plain.error)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32])
def test_any_dtype_and_the_arrays_stay_as_they_are(dtype: Any) -> None:
    first, second, _ = pair("coffee", (1.25, 0.5), at=(100, 100))
    given = [np.clip(np.rint(plane), 0, 255).astype(dtype) for plane in (first, second)]
    kept = [plane.copy() for plane in given]
    for plane in given:
        plane.flags.writeable = False
    assert off(register(given[0], given[1]), (1.25, 0.5)) < 0.01
    np.testing.assert_array_equal(given, kept)


def test_colours_are_compared_by_luma() -> None:
    rgb = data.astronaut()[100:260, 100:260]
    first, second = rgb[5:133, 4:132], rgb[3:131, 9:137]
    found = register(first, second)
    assert found.shift == pytest.approx((2, -5), abs=1e-6)
    alpha = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 1), dtype=np.uint8)
    with_alpha = register(np.concatenate([first, alpha[0]], -1), np.concatenate([second, alpha[1]], -1))
    assert with_alpha.shift == found.shift
    assert register(first[..., :1], second[..., :1]).shift == register(first[..., 0], second[..., 0]).shift


def test_robust_leaves_out_what_moves_otherwise() -> None:
    first, second, _ = pair("coffee", (0.6, -1.4), sigma=2, at=(80, 200))
    thing = PHOTOS["camera"][200:245, 200:250]
    first[20:65, 30:80], second[25:70, 36:86] = thing, thing
    with pytest.raises(NoMatchError, match="no reliable match"):
        register(first, second)
    robust = register(first, second, robust=True)
    assert off(robust, (0.6, -1.4)) < 3 * max(robust.error) < 0.02
    assert 0.6 < robust.inliers < 0.95


@pytest.mark.parametrize("seed", range(6))
def test_strangers_are_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (PHOTOS[name] for name in rng.choice(NAMES, 2, replace=False))
    rows, cols = (int(start) for start in rng.integers(0, 150, 2))
    with pytest.raises(NoMatchError, match="no reliable match"):
        register(one[rows : rows + 128, cols : cols + 128], other[rows : rows + 128, cols : cols + 128])


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_is_refused(seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(128, 10, (2, 96, 128))
    with pytest.raises(NoMatchError, match="no reliable match"):
        register(first, second)


def test_no_overlap_is_refused() -> None:
    whole = PHOTOS["rocket"]
    with pytest.raises(NoMatchError, match="no reliable match"):
        register(whole[100:228, 0:128], whole[100:228, 200:328])


def test_stripes_show_nothing_along_themselves() -> None:
    wave = 128 + 80 * np.sin(np.arange(128) ** 1.3 / 9)
    stripes = np.repeat(wave[:, None], 128, axis=1)
    noise = np.random.default_rng(0).standard_normal((2, 128, 128))
    for grain in (0, 2):
        with pytest.raises(NoMatchError, match="no reliable match"):
            register(stripes + grain * noise[0], np.roll(stripes, 1, axis=0) + grain * noise[1])


@pytest.mark.parametrize("value", [0, 7, 255])
def test_flat_pictures_are_refused(value: int) -> None:
    flat, other = np.full((64, 64), value, np.uint8), PHOTOS["camera"][:64, :64].astype(np.uint8)
    for first, second in ((flat, other), (other, flat), (flat, flat)):
        with pytest.raises(NoMatchError, match="one flat colour"):
            register(first, second)


def test_arrays_that_cannot_be_compared() -> None:
    good = PHOTOS["camera"][:64, :64]
    rgb = np.stack([good] * 3, -1)
    hole = good.copy()
    hole[3, 4] = np.nan
    for first, second, words in (
        (good, good[:60], "64 x 64 and 60 x 64"),
        (rgb, good, "one picture has colours and one is grey"),
        (good, hole, "the second picture has NaN or infinity"),
        (hole, good, "the first picture has NaN or infinity"),
        (np.ones((1, 1)), np.ones((1, 1)), "1 x 1; to be compared they need 16"),
        (np.ones((0, 9)), np.ones((0, 9)), "0 x 9; to be compared"),
        (good[0], good[0], "want \\(H, W\\)"),
        (rgb[..., :2], rgb[..., :2], "want \\(H, W\\)"),
        (good.astype(complex), good, "want real numbers in the first"),
        (good, good > 100, "want real numbers in the second"),
    ):
        with pytest.raises(ShapeError, match=words):
            register(first, second)


def turned(plane: Floats, linear: Floats, shift: Floats) -> Floats:
    """Content moves from p to centre + linear (p - centre) + shift; scipy's spline is the witness."""
    centre = (np.array(plane.shape) - 1) / 2
    back = np.linalg.inv(linear)
    result: Floats = affine_transform(plane, back, offset=centre - back @ (centre + shift), order=5, mode="reflect")
    return result


@pytest.mark.parametrize(("degrees", "zoom", "sigma"), [(1.5, 1.004, 0), (-2, 0.99, 3), (0, 1, 3)])
def test_affine_finds_turn_and_zoom(degrees: float, zoom: float, sigma: float) -> None:
    angle = np.deg2rad(degrees)
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([3.3, -4.7])
    noise = sigma * np.random.default_rng(0).standard_normal((2, 320, 320))
    crop = np.s_[96:-96, 96:-96]
    first, second = PHOTOS["astronaut"][crop] + noise[0], turned(PHOTOS["astronaut"], linear, shift)[crop] + noise[1]
    found = register(first, second, model="affine")
    assert off(found, tuple(shift)) < max(4 * max(found.error), 2e-3) < 0.03
    # At the corners, 226 px away from the centre.
    assert 226 * np.abs(found.matrix[:, :2] - linear).max() < (0.01 if sigma == 0 else 0.05)
    middle = np.array([159.5, 159.5, 1])
    np.testing.assert_allclose(found.matrix @ middle - middle[:2], found.shift, atol=1e-9)


def test_affine_says_of_strangers_and_of_small_pictures() -> None:
    with pytest.raises(NoMatchError, match="no reliable match"):
        register(PHOTOS["camera"][:200, :200], PHOTOS["coffee"][:200, :200], model="affine")
    small = PHOTOS["camera"][:63, :90]
    with pytest.raises(ShapeError, match="63 x 90; for affine they need 64"):
        register(small, small, model="affine")


def test_an_unknown_model() -> None:
    good = PHOTOS["camera"][:64, :64]
    with pytest.raises(UsageError, match="no model 'rigid'; there are translation and affine"):
        register(good, good, model="rigid")  # type: ignore[arg-type]
