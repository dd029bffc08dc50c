"""Every kind of file, end to end; the truth is known, or Pillow and tifffile are the witness."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms

from pictures import Array, chunk, doubled, enlarged, noise, png, ramps, read_png, run, seen, seen_tiff, with_bytes
from superfine.image import open_picture

pillow_heif.register_heif_opener()


# ---- PNG


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize(
    ("channels", "bits"), [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (2, 8), (2, 16), (3, 8), (3, 16), (4, 8), (4, 16)]
)
def test_png(tmp_path: Path, channels: int, bits: int, interlaced: bool) -> None:
    levels = noise(9, 13, channels, np.uint16, levels=2**bits)
    source = with_bytes(tmp_path / "a.png", png(levels, bits=bits, interlaced=interlaced))
    picture = open_picture(source)
    assert (picture.bits, picture.alpha, picture.streams) == (bits, channels in (2, 4), not interlaced)
    pixels, _ = read_png(enlarged(source))
    wide = levels * (255 // (2**bits - 1)) if bits < 8 else levels
    np.testing.assert_array_equal(pixels, doubled(wide))
    assert pixels.dtype == (np.uint16 if bits == 16 else np.uint8)


def test_16_bits_are_judged_by_the_file(tmp_path: Path) -> None:
    dark = noise(5, 7, 3, np.uint16, levels=200)
    pixels, _ = read_png(enlarged(with_bytes(tmp_path / "a.png", png(dark, bits=16))))
    np.testing.assert_array_equal(pixels, doubled(dark))
    assert pixels.dtype == np.uint16


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", [False, True], ids=["opaque", "tRNS"])
def test_png_palette(tmp_path: Path, bits: int, clear: bool) -> None:
    colours = noise(1, 2**bits, 3)[0]
    alphas = np.linspace(0, 255, 2**bits).astype(np.uint8)
    index = noise(6, 11, 1, levels=2**bits)
    extra = chunk(b"PLTE", colours.tobytes()) + (chunk(b"tRNS", alphas.tobytes()) if clear else b"")
    source = with_bytes(tmp_path / "a.png", png(index, bits=bits, colour=3, extra=extra))
    truth = colours[index[..., 0]]
    if clear:
        truth = np.concatenate([truth, alphas[index]], axis=-1)
    pixels, _ = read_png(enlarged(source))
    np.testing.assert_array_equal(pixels, doubled(truth))
    assert run(source, tmp_path / "b.png").notes == ("palette widened to full colour",)


def test_tiff_palette(tmp_path: Path) -> None:
    drawn = Image.fromarray(ramps()).quantize(32)
    drawn.save(tmp_path / "a.tif")
    pixels = seen(enlarged(tmp_path / "a.tif"))
    np.testing.assert_array_equal(pixels, doubled(np.asarray(drawn.convert("RGB"))))
    assert run(tmp_path / "a.tif", tmp_path / "b.png").notes == ("palette widened to full colour",)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_one_clear_colour(tmp_path: Path, channels: int, bits: int) -> None:
    levels = noise(6, 7, channels, np.uint16, levels=2**bits)
    extra = chunk(b"tRNS", levels[2, 3].astype(">u2").tobytes())
    pixels, _ = read_png(enlarged(with_bytes(tmp_path / "a.png", png(levels, bits=bits, extra=extra))))
    shown = (levels != levels[2, 3]).any(axis=-1, keepdims=True) * (2**bits - 1)
    np.testing.assert_array_equal(pixels, doubled(np.concatenate([levels, shown], axis=-1)))


# ---- JPEG


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path: Path, mode: str, progressive: bool) -> None:
    source = tmp_path / "a.jpg"
    Image.fromarray(ramps()).convert(mode).save(source, quality=97, subsampling=0, progressive=progressive)
    assert open_picture(source).streams == (not progressive)
    output = enlarged(source)
    assert np.abs(seen(output).astype(int) - doubled(seen(source))).mean() < 1.5
    with Image.open(output) as image:
        assert image.mode == mode


@pytest.mark.parametrize("profile", [False, True], ids=["bare", "profile"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, profile: bool) -> None:
    source, icc = tmp_path / "a.jpg", bytes(pyvips.Image.profile_load("cmyk"))
    inks = Image.fromarray(ramps(channels=4) // 2, "CMYK")
    inks.save(source, quality=100, subsampling=0, **({"icc_profile": icc} if profile else {}))
    output = enlarged(source, tmp_path / "a.png")
    # The profile that libvips assumes is the one that we embed: both must look as LittleCMS says.
    transform = ImageCms.buildTransform(
        io.BytesIO(icc), ImageCms.createProfile("sRGB"), "CMYK", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    with Image.open(source) as image:
        truth = np.asarray(ImageCms.applyTransform(image, transform))
    assert np.abs(seen(output).astype(int) - doubled(truth)).mean() < 2
    assert "CMYK converted to sRGB" in run(source, tmp_path / "b.png").notes


# ---- WebP, AVIF, HEIC, GIF


@pytest.mark.parametrize("channels", [3, 4])
def test_webp_lossless_stays_lossless(tmp_path: Path, channels: int) -> None:
    pixels = noise(9, 13, channels)
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True, exact=True)
    np.testing.assert_array_equal(seen(enlarged(tmp_path / "a.webp")), doubled(pixels))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["webp", "avif", "heic"])
def test_lossy(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = ramps(channels=channels)
    source = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(source, quality=95)
    picture = open_picture(source)
    assert (picture.lossless, picture.alpha) == (False, channels == 4)
    output = enlarged(source)
    assert seen(output).shape == (48, 80, channels)
    assert np.abs(seen(output).astype(int) - doubled(pixels)).mean() < 4


@pytest.mark.parametrize(("kind", "frames"), [("webp", 2), ("gif", 2), ("png", 2), ("gif", 1)])
def test_first_frame_is_said_aloud(tmp_path: Path, kind: str, frames: int) -> None:
    source = tmp_path / f"a.{kind}"
    first = Image.fromarray(ramps()).quantize(32)
    rest = [Image.fromarray(ramps()[::-1]).quantize(32)] * (frames - 1)
    options = {"lossless": True} if kind == "webp" else {}
    first.save(source, save_all=frames > 1, append_images=rest, **options)
    result = run(source, tmp_path / f"b.{'png' if frames == 2 else kind}")
    assert ("the first of 2 frames" in result.notes) == (frames == 2)
    assert result.output is not None
    difference = seen(result.output, "RGB").astype(int) - doubled(np.asarray(first.convert("RGB")))
    assert np.abs(difference).mean() < (4 if kind == "webp" else 0.001)


def test_gif_keeps_what_is_clear(tmp_path: Path) -> None:
    flat = Image.fromarray(ramps()).quantize(32)
    flat.save(tmp_path / "a.gif", transparency=3)
    clear = np.asarray(flat)[..., None] == 3
    np.testing.assert_array_equal(seen(enlarged(tmp_path / "a.gif"), "RGBA")[..., 3:] == 0, doubled(clear))


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif(tmp_path: Path, bits: int) -> None:
    """Black, white and the levels between survive twice: into AVIF by libvips, and through superfine."""
    grey = np.linspace(0, 65535, 64).round().astype(np.uint16)[None, :, None].repeat(16, 0).repeat(3, 2)
    pyvips.Image.new_from_array(grey).copy(interpretation="rgb16").heifsave(
        str(tmp_path / "a.avif"), compression="av1", bitdepth=bits, Q=100, lossless=True
    )
    picture = open_picture(tmp_path / "a.avif")
    assert (picture.bits, picture.dtype) == (bits, np.uint16)
    pixels, _ = read_png(enlarged(tmp_path / "a.avif", tmp_path / "b.png"))
    assert pixels.dtype == np.uint16
    assert np.abs(pixels.astype(int) - doubled(grey)).max() <= 65535 / 2**bits * 4
    assert open_picture(enlarged(tmp_path / "a.avif")).bits == bits


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "10 bits"])
def test_heic_depth(tmp_path: Path, deep: bool) -> None:
    grey = np.linspace(0, 65535, 64).round().astype(np.uint16)[None, :, None].repeat(16, 0).repeat(3, 2)
    pixels = grey if deep else (grey >> 8).astype(np.uint8)
    file = pillow_heif.from_bytes("RGB;16" if deep else "RGB", (64, 16), pixels.tobytes())
    file.save(tmp_path / "a.heic", quality=-1)
    picture = open_picture(tmp_path / "a.heic")
    assert (picture.bits, picture.dtype) == ((10, np.uint16) if deep else (8, np.uint8))
    truth = pixels.astype(int)
    output, _ = read_png(enlarged(tmp_path / "a.heic", tmp_path / "b.png"))
    assert np.abs(output.astype(int) - doubled(truth)).max() <= (65535 / 1023 * 4 if deep else 3)
    assert open_picture(enlarged(tmp_path / "a.heic")).bits == picture.bits


def test_heic_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(ramps()).save(tmp_path / "a.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    result = run(tmp_path / "a.heic")
    assert result.status == "failed"
    assert result.message.endswith("HEIC needs the extra 'heif': pip install '.[heif]'")


# ---- TIFF


TIFFS: dict[str, tuple[Array, dict[str, Any]]] = {
    "grey": (noise(9, 13, 1), {}),
    "rgb": (noise(9, 13, 3), {}),
    "rgba": (noise(9, 13, 4), {"extrasamples": ["unassalpha"]}),
    "grey alpha": (noise(9, 13, 2), {"extrasamples": ["unassalpha"], "photometric": "minisblack"}),
    "grey 16": (noise(9, 13, 1, np.uint16), {}),
    "rgb 16": (noise(9, 13, 3, np.uint16), {}),
    "rgba 16": (noise(9, 13, 4, np.uint16), {"extrasamples": ["unassalpha"]}),
    "grey float": (noise(9, 13, 1, np.float32), {}),
    "rgb float": (noise(9, 13, 3, np.float32), {}),
    "rgba float": (noise(9, 13, 4, np.float32), {"extrasamples": ["unassalpha"]}),
    "half float": (noise(9, 13, 3, np.float16), {}),
    "big-endian": (noise(9, 13, 3, np.uint16), {"byteorder": ">"}),
    "big-endian float": (noise(9, 13, 3, np.float32), {"byteorder": ">"}),
    "BigTIFF": (noise(9, 13, 3, np.uint16), {"bigtiff": True}),
    "tiled": (noise(70, 90, 3), {"tile": (32, 48)}),
    "tiled 16": (noise(70, 90, 3, np.uint16), {"tile": (32, 48)}),
    "one row a strip": (noise(70, 90, 3), {"rowsperstrip": 1}),
    "deflate": (noise(9, 13, 3, np.uint16), {"compression": "zlib", "predictor": True}),
    "white is zero": (noise(9, 13, 1), {"photometric": "miniswhite"}),
    "white is zero 16": (noise(9, 13, 1, np.uint16), {"photometric": "miniswhite"}),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff(tmp_path: Path, name: str) -> None:
    pixels, options = TIFFS[name]
    stored = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    given = {"photometric": "rgb" if pixels.shape[2] >= 3 else "minisblack", "planarconfig": "contig", **options}
    if pixels.shape[2] == 1:
        del given["planarconfig"]
    tifffile.imwrite(tmp_path / "a.tif", stored, **given)
    shown = np.iinfo(pixels.dtype).max - pixels if "white is zero" in name else pixels
    kept = np.float32 if pixels.dtype.kind == "f" else pixels.dtype
    output = seen_tiff(enlarged(tmp_path / "a.tif"))
    np.testing.assert_array_equal(output, doubled(shown.astype(kept)))
    assert output.dtype == kept


def test_tiff_in_planes(tmp_path: Path) -> None:
    pixels = noise(9, 13, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(seen_tiff(enlarged(tmp_path / "a.tif")), doubled(pixels))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_tiff_of_pillow(tmp_path: Path, mode: str, compression: str) -> None:
    image = Image.fromarray(ramps())
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(tmp_path / "a.tif", compression=compression)
    truth = seen(tmp_path / "a.tif", "RGB" if mode == "P" else mode)
    np.testing.assert_array_equal(seen(enlarged(tmp_path / "a.tif")), doubled(truth))


@pytest.mark.parametrize("compression", ["raw", "group4"])
def test_tiff_of_one_bit(tmp_path: Path, compression: str) -> None:
    bits = noise(9, 13, 1, levels=2)
    Image.fromarray(bits[..., 0] > 0).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(seen(enlarged(tmp_path / "a.tif"), "L"), doubled(bits * 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_premultiplied_alpha_becomes_straight(tmp_path: Path, dtype: Any) -> None:
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    straight = noise(9, 13, 4, dtype)
    straight[..., 3] = np.maximum(straight[..., 3], white / 2)
    exact = straight[..., :3] * (straight[..., 3:] / white)
    stored = np.concatenate([exact if white == 1 else np.rint(exact), straight[..., 3:]], axis=-1).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    result = run(tmp_path / "a.tif")
    assert result.output is not None
    assert "premultiplied alpha made straight" in result.notes
    assert np.abs(seen_tiff(result.output).astype(float) - doubled(straight)).max() <= (1e-6 if white == 1 else 2)
    with tifffile.TiffFile(result.output) as file:
        assert file.pages[0].extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_tiff_keeps_its_depth(tmp_path: Path, dtype: Any) -> None:
    white = np.iinfo(dtype).max
    inks = (ramps(channels=4).astype(float) / 510 * white).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    transform = ImageCms.buildTransform(
        io.BytesIO(bytes(pyvips.Image.profile_load("cmyk"))), ImageCms.createProfile("sRGB"), "CMYK", "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )  # fmt: skip
    truth = np.asarray(
        ImageCms.applyTransform(Image.fromarray((inks // (white // 255)).astype(np.uint8), "CMYK"), transform)
    )
    output = seen_tiff(enlarged(tmp_path / "a.tif"))
    assert output.dtype == dtype
    assert np.abs(output / white - doubled(truth) / 255).mean() < 0.01


REFUSED_TIFFS: dict[str, tuple[Array, dict[str, Any], str]] = {
    "uint32": (noise(9, 13, 1, np.uint32, levels=99), {}, "its samples are 32-bit unsigned"),
    "int16": (noise(9, 13, 1, np.int16), {}, "its samples are 16-bit signed"),
    "float64": (noise(9, 13, 1, np.float64), {}, "its samples are 64-bit float"),
    "Lab": (noise(9, 13, 3), {"photometric": "cielab"}, "its colours are CIELAB"),
    "five channels": (noise(9, 13, 5), {"photometric": "rgb", "planarconfig": "contig"}, "5 channels"),
    "two pages": (noise(2, 9, 13)[..., None], {"photometric": "minisblack"}, "a TIFF of 2 pages"),
    "float over white": (
        noise(9, 13, 3, np.float32) * 2,
        {"photometric": "rgb"},
        "outside 0 to 1; say .* --white LEVEL",
    ),
    "float below 0": (noise(9, 13, 3, np.float32) - 1, {"photometric": "rgb"}, "float samples from -"),
    "NaN": (np.full((9, 13, 3), np.nan, np.float32), {"photometric": "rgb"}, "from nan to nan"),
}


@pytest.mark.parametrize("name", REFUSED_TIFFS)
def test_tiff_refused_in_words(tmp_path: Path, name: str) -> None:
    pixels, options, words = REFUSED_TIFFS[name]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    result = run(tmp_path / "a.tif")
    assert result.status == "failed"
    assert result.message.startswith(f"{tmp_path / 'a.tif'}: ")
    assert re.search(words, result.message), result.message


def test_white_level(tmp_path: Path) -> None:
    pixels = noise(9, 13, 3, np.float32) * np.float32(4)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    np.testing.assert_allclose(seen_tiff(enlarged(tmp_path / "a.tif", white=4.0)), doubled(pixels), rtol=1e-6)
    output = enlarged(tmp_path / "a.tif", tmp_path / "b.png", white=4.0)
    np.testing.assert_array_equal(read_png(output)[0], doubled(np.rint(pixels / 4 * 65535).astype(np.uint16)))


def test_white_level_is_of_colours_and_not_of_alpha(tmp_path: Path) -> None:
    pixels = noise(9, 13, 4, np.float32) * np.float32([4, 4, 4, 1])
    pixels[0, 0] = (2, 2, 2, 1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(seen_tiff(enlarged(tmp_path / "a.tif", white=4.0)), doubled(pixels), rtol=1e-6)
    output, _ = read_png(enlarged(tmp_path / "a.tif", tmp_path / "b.png", white=4.0))
    np.testing.assert_array_equal(
        output, doubled(np.rint(pixels / np.float32([4, 4, 4, 1]) * np.float32(65535)).astype(np.uint16))
    )
    assert output[0, 0].tolist() == [32768, 32768, 32768, 65535]


@pytest.mark.parametrize("alpha", [2, -1, np.nan])
def test_alpha_outside_its_range_is_refused(tmp_path: Path, alpha: float) -> None:
    pixels = np.full((9, 13, 2), (3, alpha), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", extrasamples=["unassalpha"])
    assert run(tmp_path / "a.tif", white=4.0).message == (
        f"{tmp_path / 'a.tif'}: float alpha from {alpha} to {alpha}, outside 0 to 1;"
        " --white is about colours only, so rescale it first"
    )


# ---- from one format to another


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif"])
def test_lost_depth_is_said(tmp_path: Path, suffix: str) -> None:
    source = with_bytes(tmp_path / "a.png", png(noise(9, 13, 3, np.uint16), bits=16))
    notes = run(source, tmp_path / f"b{suffix}").notes
    assert any(note.startswith("16 bits a sample become 8") for note in notes)


def test_alpha_is_never_dropped(tmp_path: Path) -> None:
    result = run(with_bytes(tmp_path / "a.png", png(noise(9, 13, 4))), tmp_path / "b.jpg")
    assert result.status == "failed"
    assert "has alpha, which JPEG can't hold" in result.message
    assert not (tmp_path / "b.jpg").exists()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_to_webp_is_lossless(tmp_path: Path, channels: int) -> None:
    pixels = noise(9, 13, channels)
    output = enlarged(with_bytes(tmp_path / "a.png", png(pixels)), tmp_path / "b.webp")
    np.testing.assert_array_equal(
        seen(output, "RGB" if channels < 4 else "RGBA"), doubled(pixels.repeat(3, 2) if channels == 1 else pixels)
    )


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".heic"])
def test_quality_decides_the_size(tmp_path: Path, suffix: str) -> None:
    source = with_bytes(tmp_path / "a.png", png(noise(40, 60, 3)))
    sizes = [enlarged(source, tmp_path / f"{quality}{suffix}", quality=quality).stat().st_size for quality in (20, 90)]
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".pgm", ".tga"])
def test_unknown_formats_name_the_known(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"a{suffix}"
    Image.fromarray(ramps()).convert("L" if suffix == ".pgm" else "RGB").save(source)
    result = run(source, tmp_path / "b.png")
    assert result.message == f"{source}: not a picture that superfine reads (PNG, JPEG, WEBP, AVIF, TIFF, GIF, HEIC)"
