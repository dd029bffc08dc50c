"""The whole inspection: facts of files that Pillow and tifffile wrote, and what is made of the estimates."""

import io
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from scipy.ndimage import gaussian_filter
from skimage import data

from pictures import noise
from superfine.errors import ShapeError, SourceError, TooLargeError
from superfine.inspection import (
    BlurEstimate,
    EnlargementEstimate,
    Estimates,
    JpegEstimate,
    NoiseEstimate,
    icc_description,
    inspect,
    inspect_pixels,
    recommend,
)

# Half its size, it's sharp and has little noise.
PHOTO = np.asarray(Image.fromarray(data.astronaut()).resize((330, 340), Image.Resampling.BOX))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

NOTHING = Estimates(
    NoiseEstimate(0.3, 0.2, True, 0.3, ""),
    JpegEstimate(None, None, False, True, None, ""),
    EnlargementEstimate(1.0, True, None, ""),
    BlurEstimate(0.2, 0.2, 0.2, 0.0, False, True, 0.1, ""),
)


UNKNOWN = Estimates(
    NoiseEstimate(None, None, False, None, "too few"),
    JpegEstimate(None, None, False, False, None, "too few"),
    EnlargementEstimate(None, False, None, "too few"),
    BlurEstimate(None, None, None, None, None, False, None, "too few"),
)


def saved(path: Path, pixels: Any = PHOTO, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


# ---- facts


def test_facts_of_a_png(tmp_path: Path) -> None:
    found = inspect(saved(tmp_path / "a.png", icc_profile=SRGB.tobytes()))
    assert (found.format, found.size, found.bits, found.channels) == ("PNG", (340, 330), 8, 3)
    assert (found.alpha, found.colour, found.lossless, found.jpeg_tables) == (False, "RGB", True, None)
    assert found.profile == ImageCms.getProfileDescription(SRGB).strip()


def test_facts_of_a_jpeg(tmp_path: Path) -> None:
    found = inspect(str(saved(tmp_path / "named.png", format="JPEG", quality=83)))
    assert (found.format, found.lossless, found.profile) == ("JPEG", False, None)
    assert found.jpeg_tables is not None
    assert (found.jpeg_tables.quality, found.jpeg_tables.phase, found.jpeg_tables.sure) == (83, (0, 0), True)
    assert (found.estimates.jpeg.quality, found.estimates.jpeg.phase) == (83, (0, 0))
    assert found.model == "photo"
    assert "a JPEG of quality 83" in found.why


def test_facts_of_other_kinds(tmp_path: Path) -> None:
    grey = inspect(saved(tmp_path / "grey.jpg", PHOTO[..., 0], quality=90))
    assert (grey.colour, grey.channels) == ("grey", 1)
    assert grey.jpeg_tables is not None
    assert grey.jpeg_tables.quality == 90
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, PHOTO.astype(np.uint16) * 257)
    assert (inspect(deep).bits, inspect(deep).format, inspect(deep).lossless) == (16, "TIFF", True)
    alpha = inspect(saved(tmp_path / "alpha.png", np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])))
    assert (alpha.alpha, alpha.channels) == (True, 4)
    with Image.fromarray(PHOTO) as image:
        image.quantize(16).save(tmp_path / "palette.png")
        image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=80)
        image.save(tmp_path / "a.avif")
    assert "palette widened to full colour" in inspect(tmp_path / "palette.png").notes
    assert inspect(tmp_path / "cmyk.jpg").colour == "CMYK"
    assert inspect(tmp_path / "a.avif").lossless is None


def test_it_goes_through_json(tmp_path: Path) -> None:
    found = inspect(saved(tmp_path / "ä.jpg", quality=70))
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["path"] == str(tmp_path / "ä.jpg")
    assert again["size"] == [340, 330]
    assert again["estimates"]["jpeg"]["quality"] == 70
    assert again == found.to_json()


def test_it_reads_as_text(tmp_path: Path) -> None:
    lines = str(inspect(saved(tmp_path / "a.jpg", quality=70))).splitlines()
    assert lines[0] == f"{tmp_path / 'a.jpg'}: JPEG, 330 x 340, 8 bits, RGB, no profile, lossy"
    assert [line.split()[0] for line in lines[1:]] == ["file", "noise", "enlarged", "blur", "advice"]
    assert lines[1] == "  file     saved as JPEG quality 70"
    assert lines[-1].startswith("  advice   --model photo --scale 4: photo since it's damaged: a JPEG of quality 70")
    tiny = str(inspect(saved(tmp_path / "tiny.png", np.zeros((3, 2, 4), np.uint8))))
    assert "alpha" in tiny
    assert tiny.count(" unknown: ") == 4


def test_text_is_plain_and_json_keeps_the_reasons(tmp_path: Path) -> None:
    """What a photographer reads, against what a program gets."""
    soft = inspect(saved(tmp_path / "soft.png", blurred(1.5)))
    assert "\n  before   no trace of a JPEG (sure)\n" in str(soft)
    assert "\n  enlarged unknown: soft pictures can hide it\n" in str(soft)
    reason = soft.to_json()["estimates"]["enlargement"]["reason"]
    assert reason == "no rhythm, but a soft picture may have been enlarged without one"
    small = inspect(saved(tmp_path / "small.png", PHOTO[:40, :40]))
    assert "\n  blur     unknown: too small to tell\n" in str(small)
    assert small.estimates.blur.reason == "smaller than 64 pixels, it shows too little"


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[31mb\x07.png", "a\r\u202eb.png", "a\x85\u2028b.png"])
def test_names_can_not_speak_to_the_terminal(tmp_path: Path, name: str) -> None:
    found = inspect(saved(tmp_path / "a.png"))
    lines = str(replace(found, path=Path(name), notes=("x\ny",))).splitlines()
    assert len(lines) == 6
    assert "".join(lines).isprintable()
    assert "x\\ny" in lines[0]
    assert replace(found, path=Path(name)).to_json()["path"] == name


def test_names_that_are_no_unicode_can_be_printed(tmp_path: Path) -> None:
    found = replace(inspect(saved(tmp_path / "a.png")), path=Path("a\udcff.png"))
    assert str(found).encode("utf-8").startswith(b"a\\udcff.png: PNG")


# ---- errors


def test_bad_files_and_large_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.png: there is no such file"):
        inspect(tmp_path / "none.png")
    with pytest.raises(SourceError, match=r": is a folder; name its pictures, as .*\*\.jpg$") as caught:
        inspect(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(SourceError, match=r"text\.jpg: not a picture"):
        inspect(tmp_path / "text.jpg")
    whole = saved(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"half\.jpg: damaged"):
        inspect(tmp_path / "half.jpg")
    with pytest.raises(TooLargeError, match="over the limit"):
        inspect(saved(tmp_path / "a.png"), max_megapixels=0.1)


@pytest.mark.parametrize(
    "pixels", [np.zeros(5, np.uint8), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_shapes_are_refused(pixels: Any) -> None:
    with pytest.raises(ShapeError, match=r"want \(H, W\) or \(H, W, C\)"):
        inspect_pixels(pixels)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ShapeError, match="float64"):
        inspect_pixels(np.zeros((9, 9, 3)))


# ---- any picture at all


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1, 4), (3, 700, 3), (63, 64, 1), (64, 64), (65, 129, 2), (100, 90, 4), (1300, 70, 3)], ids=str
)
def test_any_picture_gets_an_answer(shape: tuple[int, ...], dtype: Any) -> None:
    random = noise(shape[0], shape[1], shape[2] if len(shape) > 2 else 1, dtype)
    for pixels in (random.reshape(shape), np.zeros(shape, dtype), np.full(shape, 1, dtype)):
        found = inspect_pixels(pixels)
        json.dumps(_values(found), allow_nan=False)
        if min(shape[:2]) < 64:
            assert not found.blur.sure
            assert not found.enlargement.sure
            assert found.blur.reason


def _values(estimates: Estimates) -> list[Any]:
    return [list(vars(part).values()) for part in vars(estimates).values()]


def test_flat_pictures_are_unsure_but_for_noise() -> None:
    found = inspect_pixels(np.full((200, 300, 3), 130, np.uint8))
    assert found.noise.sure
    assert found.noise.sigma == pytest.approx(0, abs=0.01)
    assert not found.blur.sure
    assert not found.enlargement.sure
    assert found.blur.reason == "one flat colour shows nothing"


def test_deep_and_float_pictures_have_the_same_estimates() -> None:
    grey = PHOTO.astype(np.uint16) * 257
    plain, deep, floating = (inspect_pixels(each) for each in (PHOTO, grey, PHOTO.astype(np.float32) / np.float32(255)))
    for other in (deep, floating):
        assert other.noise.sigma == pytest.approx(plain.noise.sigma, rel=0.01)
        assert other.blur.sigma == pytest.approx(plain.blur.sigma, rel=0.01)


def test_transparent_pixels_do_not_count() -> None:
    opaque = gaussian_filter(PHOTO, (1, 1, 0)).astype(np.float32) / 255
    noisy = np.clip(opaque + np.random.default_rng(0).standard_normal(opaque.shape).astype(np.float32) * 0.05, 0, 1)
    alpha = np.ones(PHOTO.shape[:2], np.float32)
    alpha[:, :150] = 0
    pixels = np.dstack([np.where(alpha[..., None] > 0, opaque, noisy), alpha]).astype(np.float32)
    found = inspect_pixels(pixels)
    assert found.noise.sigma is not None
    assert found.noise.sigma < 2


# ---- estimates through the front


@pytest.mark.parametrize("sigma", [3, 8, 20])
def test_noise_of_a_photograph(sigma: float) -> None:
    noisy = PHOTO + sigma * np.random.default_rng(sigma).standard_normal(PHOTO.shape)
    found = inspect_pixels(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).noise
    assert found.sure
    assert found.sigma == pytest.approx(sigma, rel=0.15)
    assert found.luma == pytest.approx(sigma * np.linalg.norm([0.299, 0.587, 0.114]), rel=0.15)


def test_a_jpeg_that_was_a_worse_one(tmp_path: Path) -> None:
    once = np.asarray(Image.open(saved(tmp_path / "once.jpg", quality=20)))
    twice = inspect(saved(tmp_path / "twice.jpg", once, quality=95))
    assert twice.jpeg_tables is not None
    assert (twice.jpeg_tables.quality, twice.estimates.jpeg.quality) == (95, 20)
    assert twice.why == "photo since it's damaged: was a JPEG of quality 20 before"
    assert "\n  file     saved as JPEG quality 95\n  before   was a JPEG of quality 20 earlier (sure)\n" in str(twice)
    fine = inspect(saved(tmp_path / "fine.jpg", once, quality=97))
    assert fine.why == "photo since it's damaged: was a JPEG of quality 20 before"
    plain = inspect(saved(tmp_path / "plain.png", once))
    assert "\n  before   was a JPEG of quality 20 earlier (sure)\n" in str(plain)


@pytest.mark.parametrize("quality", [30, 60, 92])
def test_noise_of_a_small_jpeg_is_unsure(tmp_path: Path, quality: int) -> None:
    """Its pixels are too few to show the grid, but its tables are known."""
    small = np.asarray(Image.fromarray(PHOTO).resize((160, 120), Image.Resampling.BOX))
    found = inspect(saved(tmp_path / "a.jpg", small, quality=quality))
    assert not found.estimates.noise.sure
    assert "JPEG" in found.estimates.noise.reason
    assert inspect(saved(tmp_path / "fine.jpg", small, quality=100)).estimates.noise.reason != (
        found.estimates.noise.reason
    )


@pytest.mark.parametrize("size", [(160, 120), (100, 100)])
@pytest.mark.parametrize("quality", [30, 60])
def test_the_grid_of_a_small_jpeg_is_no_enlargement(tmp_path: Path, size: tuple[int, int], quality: int) -> None:
    for part in (data.astronaut(), data.coffee()):
        small = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BOX))
        found = inspect(saved(tmp_path / "a.jpg", small, quality=quality)).estimates.enlargement
        assert found.factor == 1


def test_an_unaligned_crop_that_was_a_jpeg() -> None:
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=65)
    found = inspect_pixels(np.asarray(Image.open(file))[3:, 6:])
    assert found.jpeg.sure
    assert (found.jpeg.quality, found.jpeg.phase) == (65, (5, 2))
    assert not found.noise.sure
    assert "JPEG" in found.noise.reason


def test_a_drawing_on_white_that_was_a_jpeg() -> None:
    """Nearly all of it is clipped, and its grid shows all the same."""
    file = io.BytesIO()
    Image.fromarray(data.logo()[..., :3]).save(file, "JPEG", quality=75)
    found = inspect_pixels(np.asarray(Image.open(file))[1:, 2:]).jpeg
    assert (found.quality, found.phase, found.sure) == (75, (7, 6), True)


def test_an_enlarged_photograph_and_its_blur() -> None:
    large = np.asarray(Image.fromarray(PHOTO).resize((594, 612), Image.Resampling.BICUBIC))
    found = inspect_pixels(large)
    assert found.enlargement.sure
    assert found.enlargement.factor == pytest.approx(1.8, rel=0.01)
    assert not found.blur.sure
    assert "enlargement" in found.blur.reason


def test_a_blurred_photograph() -> None:
    soft = np.stack([gaussian_filter(PHOTO[..., each].astype(float), (1.2, 2.4)) for each in range(3)], axis=2)
    found = inspect_pixels(np.rint(soft).astype(np.uint8)).blur
    assert found.sure
    assert found.anisotropic
    assert found.sigma == pytest.approx(np.sqrt(1.2 * 2.4), rel=0.2)


def blurred(sigma: float, pixels: Any = PHOTO) -> Any:
    soft = np.stack([gaussian_filter(pixels[..., each].astype(float), sigma) for each in range(3)], axis=2)
    return np.rint(soft).astype(np.uint8)


@pytest.mark.parametrize(
    "name", ["astronaut", *(pytest.param(name, marks=pytest.mark.slow) for name in ("coffee", "chelsea"))]
)
def test_more_blur_never_gets_better_advice(name: str) -> None:
    photo = getattr(data, name)()[:400, :400]
    for sigma in (1.5, 3, 5, 10, 20):
        model, _, why = recommend(inspect_pixels(blurred(sigma, photo)), size=(400, 400), lossless=True)
        assert model == "photo", sigma
        assert "blur" in why


def test_blur_that_is_too_wide_says_so(tmp_path: Path) -> None:
    found = inspect(saved(tmp_path / "a.png", blurred(5)))
    assert not found.estimates.blur.sure
    assert found.why == "photo since it's damaged: blurred wider than can be measured"
    assert "\n  blur     wider than can be measured, about 3.6 px or more\n" in str(found)


def test_the_photograph_itself_is_clean() -> None:
    found = inspect_pixels(PHOTO)
    assert found.jpeg.quality is None
    assert found.enlargement.factor == 1
    assert found.blur.sigma is not None
    assert found.blur.sigma < 0.65
    assert recommend(found, size=PHOTO.shape[:2], lossless=True)[:2] == ("balanced", 4)


def test_windows_of_a_large_picture_keep_the_grid(tmp_path: Path) -> None:
    large = np.tile(PHOTO, (5, 3, 1))[:1401, :803]
    file = saved(tmp_path / "large.png", np.asarray(Image.open(saved(tmp_path / "a.jpg", large, quality=75)))[1:, 2:])
    whole = inspect(file)
    assert (whole.estimates.jpeg.quality, whole.estimates.jpeg.phase) == (75, (7, 6))
    with Image.open(file) as image:
        assert inspect_pixels(np.asarray(image)) == whole.estimates


# ---- the recommendation


def test_a_clean_picture_gets_balanced() -> None:
    assert recommend(NOTHING, size=(900, 600), lossless=True) == ("balanced", 2, "balanced since nothing shows damage")
    assert recommend(NOTHING, size=(400, 512), lossless=True)[1] == 4


@pytest.mark.parametrize("side", [1, 8])
def test_where_nothing_is_known_nothing_is_promised(tmp_path: Path, side: int) -> None:
    found = inspect(saved(tmp_path / "a.png", PHOTO[:side, :side]))
    assert (found.model, found.why) == ("balanced", "balanced since nothing could be judged")
    assert "\n  before   unknown: " in str(found)
    assert recommend(UNKNOWN, size=(1, 1), lossless=True)[2] == "balanced since nothing could be judged"
    partly = replace(UNKNOWN, noise=NOTHING.noise)
    assert recommend(partly, size=(1, 1), lossless=True)[2] == "balanced since what could be judged shows no damage"


def test_the_lowest_sure_quality_is_named() -> None:
    def why(pixels: JpegEstimate, tables: JpegEstimate | None, lossless: bool = False) -> str:
        return recommend(replace(NOTHING, jpeg=pixels), size=(9, 9), lossless=lossless, tables=tables)[2]

    def file(quality: int, error: float = 0.0) -> JpegEstimate:
        return JpegEstimate(quality, (0, 0), error == 0, True, error, "")

    earlier = JpegEstimate(80, (3, 5), True, True, 1.0, "")
    assert why(earlier, file(95)).endswith(": was a JPEG of quality 80 before")
    assert why(earlier, file(60)).endswith(": a JPEG of quality 60")
    assert why(earlier, file(80)).endswith(": a JPEG of quality 80")
    assert why(earlier, file(83, error=3.0)).endswith(": a JPEG of quality 83 or so")
    assert why(replace(earlier, sure=False), file(95)).endswith(": a JPEG of quality 95")
    assert why(replace(earlier, quality=97), None).endswith(": stored with loss")
    assert why(replace(earlier, quality=97), None, lossless=True) == "balanced since nothing shows damage"


def test_unsure_blur_counts_only_where_it_is_wide() -> None:
    few = "the picture has too few clear edges and too little texture"
    for sigma, error, reason, model in (
        (4.2, 0.1, "wider than can be measured", "photo"),
        (3.1, 0.5, few, "photo"),
        (1.5, 0.4, few, "balanced"),
        (2.5, 2.0, few, "balanced"),
        (4.2, 0.1, "noise hides it", "balanced"),
    ):
        wide = replace(NOTHING, blur=BlurEstimate(sigma, sigma, sigma, 0.0, False, False, error, reason))
        assert recommend(wide, size=(900, 600), lossless=True)[0] == model
        enlarged = replace(wide, enlargement=EnlargementEstimate(8.0, True, 0.1, ""))
        assert recommend(enlarged, size=(900, 600), lossless=True)[0] == "balanced"


@pytest.mark.parametrize(
    ("worse", "word"),
    [
        ({"noise": NoiseEstimate(6.0, 4.0, True, 0.3, "")}, "noise of sigma 6.0"),
        ({"blur": BlurEstimate(1.4, 1.4, 1.4, 0.0, False, True, 0.1, "")}, "blur of sigma 1.4 px"),
        ({"jpeg": JpegEstimate(70, (0, 0), True, True, 1.0, "")}, "was a JPEG of quality 70"),
    ],
)
def test_damage_gets_photo(worse: dict[str, Any], word: str) -> None:
    model, _, why = recommend(replace(NOTHING, **worse), size=(900, 600), lossless=True)
    assert model == "photo"
    assert word in why
    (name, estimate), *_ = worse.items()
    unsure = replace(NOTHING, **{name: replace(estimate, sure=False)})
    assert recommend(unsure, size=(900, 600), lossless=True)[0] == "balanced"


def test_lossy_files_get_photo_unless_they_are_nearly_lossless() -> None:
    assert recommend(NOTHING, size=(900, 600), lossless=False)[0] == "photo"
    assert recommend(NOTHING, size=(900, 600), lossless=None)[0] == "photo"
    fine = JpegEstimate(98, (0, 0), True, True, 0.0, "")
    assert recommend(NOTHING, size=(900, 600), lossless=False, tables=fine)[0] == "balanced"


def test_an_enlarged_picture_is_to_be_reduced_first() -> None:
    before = replace(NOTHING, enlargement=EnlargementEstimate(2.0, True, 0.02, ""))
    _, scale, why = recommend(before, size=(900, 600), lossless=True)
    assert scale == 4
    assert why.endswith("it was enlarged 2.00 times before, so reduce it to 300x450 first, in any image editor")


# ---- ICC


def test_profiles_of_both_versions_and_broken_ones() -> None:
    profile = SRGB.tobytes()
    name = icc_description(profile)
    assert name == ImageCms.getProfileDescription(SRGB).strip()
    text = b"desc\0\0\0\0" + (6).to_bytes(4) + b"Screen" + bytes(70)
    old = profile[:36] + b"acsp" + profile[40:128] + (1).to_bytes(4) + b"desc" + (144).to_bytes(4)
    old += len(text).to_bytes(4) + text
    assert icc_description(old) == "Screen"
    assert icc_description(old[:150]) == "unnamed"
    assert icc_description(b"nonsense") is None
    assert icc_description(bytes(500)) is None
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(profile)
        for place in rng.integers(128, len(profile), 8):
            broken[place] = int(rng.integers(256))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = icc_description(bytes(broken))
        assert found is None or found.isprintable()
