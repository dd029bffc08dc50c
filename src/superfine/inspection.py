"""What a picture is, what it went through, and what to do with it: facts of the file, estimates from its pixels.

Up to nine windows of the picture are looked at while its rows go by, so that a large picture takes as much memory
as a small one. An estimate says whether it's sure, what error to expect, and where it's unsure, why.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.blind.kernel import estimate_blur
from superfine.classical.enlargement import find_enlargement
from superfine.classical.jpeg import find_jpeg, jpeg_tables
from superfine.classical.noise import find_noise
from superfine.color import full_luma, to_unit
from superfine.errors import ShapeError, SourceError
from superfine.image import MAX_MEGAPIXELS, Picture, coding_of, open_picture
from superfine.terminal import one_line

__all__ = [
    "BlurEstimate",
    "EnlargementEstimate",
    "Estimates",
    "Inspection",
    "JpegEstimate",
    "NoiseEstimate",
    "icc_description",
    "inspect",
    "inspect_pixels",
    "recommend",
]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Size = tuple[int, int]

# At most this many windows a side, this large; JPEG's grid asks for multiples of eight.
_WINDOWS, _WINDOW, _GRID = 3, 640, 8
# Below this share of pixels that aren't clipped a picture counts as one of black or white with something in it.
_MOSTLY_CLIPPED: Final = 0.5
_SMALLEST: Final = 64
# The trust that benchmarks/inspection.py measures rests on the numbers below.
_QUIET_NOISE: Final = 1.0
_NOISE_SLOPES: Final = (0.9, 1.1)
_NOISE_FLATNESS: Final = 1.2
_NOISE_ERROR: Final = 0.05
_COARSE_JPEG: Final = 92
_FEWEST_COEFFICIENTS: Final = 4000
# Steps of one level are no steps.
_FINEST_JPEG: Final = 98
_JPEG_EVIDENCE, _JPEG_MARGIN = 50.0, 30.0
_RHYTHM, _NO_RHYTHM, _COHERENCE, _LEAD, _SOFTNESS = 12.0, 8.0, 0.15, 0.04, 0.15
_BLUR_SHARE, _SHARP, _BLUR_MOST = 0.15, 0.8, 3.6
_ANISOTROPIC, _WIDE = 1.25, 0.7
_LOUD_NOISE: Final = 10.0
# What `recommend` calls damaged.
_DAMAGING_NOISE, _DAMAGING_BLUR, _DAMAGING_JPEG, _SMALL_SIDE = 2.5, 0.9, 95, 512
# Blur of ten pixels leaves so few edges that its estimate is unsure; from here on it isn't a soft photograph.
_WIDE_BLUR: Final = 1.8

# Why an estimate is unsure or missing, and how that is said to a person.
_FEW_PIXELS: Final = "too few pixels that aren't clipped or transparent"
_FLAT: Final = "one flat colour shows nothing"
_SMALL: Final = f"smaller than {_SMALLEST} pixels, it shows too little"
_COARSE: Final = "JPEG has taken the finest of it away"
_NOT_WHITE: Final = "it isn't white, or texture hides it"
_NOT_FLAT: Final = "no part of the picture is flat enough"
_NO_GRID: Final = "too small or too smooth, or too few pixels that aren't clipped or transparent"
_WEAK_GRID: Final = "its traces are weak"
_OTHER_STEPS: Final = "its table is no standard one, or too few of its steps show"
_WEAK_RHYTHM: Final = "a rhythm, but too weak to tell from texture"
_COVERED: Final = "no rhythm, but JPEG or noise could hide one"
_SOFT: Final = "no rhythm, but a soft picture may have been enlarged without one"
_TOO_WIDE: Final = "wider than can be measured"
_FEW_EDGES: Final = "the picture has too few clear edges and too little texture"
_PLAIN_WORDS: Final = {
    _FEW_PIXELS: "too few usable pixels",
    _FLAT: "one flat colour shows nothing",
    _SMALL: "too small to tell",
    _COARSE: "JPEG hides it",
    _NOT_WHITE: "texture may be part of it",
    _NOT_FLAT: "texture may be part of it",
    _NO_GRID: "too small or too smooth to tell",
    _WEAK_GRID: "the traces are weak",
    _OTHER_STEPS: "the traces are unusual",
    _WEAK_RHYTHM: "texture can look like it",
    _COVERED: "JPEG or noise can hide it",
    _SOFT: "soft pictures can hide it",
    _FEW_EDGES: "too few clear edges",
}


@dataclass(frozen=True)
class NoiseEstimate:
    """White noise, in 8-bit levels, whatever the bits of the file."""

    sigma: float | None
    """Standard deviation of a colour channel, the root mean square of all."""
    luma: float | None
    """That of luma, less than a channel's where the channels' noise differs."""
    sure: bool
    error: float | None
    """Expected error of sigma, one standard deviation."""
    reason: str


@dataclass(frozen=True)
class JpegEstimate:
    """A JPEG that the picture is, or was before."""

    quality: int | None
    """1..100 as the Independent JPEG Group counts; None where nothing shows a JPEG (over 98 nothing does)."""
    phase: tuple[int, int] | None
    """(rows, cols), 0..7: the first row and column at which an 8x8 block begins."""
    standard: bool
    """The quantisation is that of this quality; else the quality is the nearest to it."""
    sure: bool
    error: float | None
    reason: str


@dataclass(frozen=True)
class EnlargementEstimate:
    """Earlier enlargement, both sides alike, by bilinear, bicubic or Lanczos."""

    factor: float | None
    """Times each side; 1 where nothing shows an enlargement, None where too little is to be seen."""
    sure: bool
    error: float | None
    reason: str


@dataclass(frozen=True)
class BlurEstimate:
    """Blur as a Gaussian, in pixels, beyond the softness of a sharp photograph."""

    sigma: float | None
    """Of the round Gaussian that covers as much: the geometric mean of wide and narrow."""
    wide: float | None
    narrow: float | None
    angle: float | None
    """Of the wide axis, 0 to 180 degrees from the x axis, counter-clockwise as seen."""
    anisotropic: bool | None
    sure: bool
    error: float | None
    """Expected error of sigma, one standard deviation."""
    reason: str


@dataclass(frozen=True)
class Estimates:
    """What the pixels show; of a JPEG file, noise and enlargement are judged with its tables in mind."""

    noise: NoiseEstimate
    jpeg: JpegEstimate
    enlargement: EnlargementEstimate
    blur: BlurEstimate


@dataclass(frozen=True)
class Inspection:
    """A picture file: its facts, what its pixels show, and how to enlarge it."""

    path: Path
    format: str
    """`JPEG`, `PNG`, ..., whatever the file's name."""
    size: Size
    """(rows, cols) as stored."""
    bits: int
    """Bits a sample in the file."""
    channels: int
    """With alpha."""
    alpha: bool
    colour: str
    """`grey`, `RGB` or `CMYK`."""
    profile: str | None
    """What the ICC profile calls itself; None where there is none, and sRGB is meant."""
    lossless: bool | None
    """None where the format doesn't say."""
    notes: tuple[str, ...]
    jpeg_tables: JpegEstimate | None
    """What the quantisation tables say where the file is a JPEG."""
    estimates: Estimates
    model: str
    """A shipped family: `balanced` or `photo`."""
    scale: int
    why: str

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists, strings and numbers."""
        return {**_plain(asdict(self)), "path": str(self.path)}

    def __str__(self) -> str:
        """The same for a person: a line for the file, one for each estimate, and the recommendation."""
        facts = [self.format, f"{self.size[1]} x {self.size[0]}", f"{self.bits} bits", self.colour]
        facts += ["alpha"] * self.alpha
        facts += [f"profile {self.profile}" if self.profile else "no profile"]
        facts += [{True: "lossless", False: "lossy", None: "maybe lossy"}[self.lossless], *self.notes]
        parts = self.estimates
        lines = {
            "file": _file_text(self.jpeg_tables),
            "before": _before_text(parts.jpeg, self.jpeg_tables),
            "noise": _noise_text(parts.noise),
            "enlarged": _enlargement_text(parts.enlargement),
            "blur": _blur_text(parts.blur),
            "advice": f"--model {self.model} --scale {self.scale}: {self.why}",
        }
        head = one_line(f"{self.path}: {', '.join(facts)}")
        return "\n".join([head, *(f"  {name:9}{text}" for name, text in lines.items() if text)])


def inspect(path: Path | str, *, max_megapixels: float = MAX_MEGAPIXELS) -> Inspection:
    """Facts of a picture file and estimates from its pixels.

    Raises SourceError where the file is no picture, a folder, or breaks off, TooLargeError over `max_megapixels`, and
    MissingExtraError for HEIC without its extra.
    """
    path = Path(path)
    if os.path.isdir(path):  # Path's own raises where the folder above may not be read
        raise SourceError(f"{path}: is a folder; name its pictures, as {path / '*.jpg'}")
    picture = open_picture(path, max_megapixels=max_megapixels)
    kind, lossless = coding_of(path)
    tables = _from_tables(path) if kind == "JPEG" else None
    estimates = _estimate(_gather(picture), alpha=picture.alpha, tables=tables)
    header = picture.header
    profile = bytes(header.get("icc-profile-data")) if header.get_typeof("icc-profile-data") else b""
    model, scale, why = recommend(estimates, size=picture.size, lossless=lossless, tables=tables)
    return Inspection(
        path=path,
        format=kind,
        size=picture.size,
        bits=picture.bits,
        channels=picture.shape[2],
        alpha=picture.alpha,
        colour=_colour(picture),
        profile=icc_description(profile) if profile else None,
        lossless=lossless,
        notes=picture.notes,
        jpeg_tables=tables,
        estimates=estimates,
        model=model,
        scale=scale,
        why=why,
    )


def inspect_pixels(pixels: Array) -> Estimates:
    """What pixels show: (H, W) or (H, W, C), uint8, uint16 or float32 in 0..1; 2 or 4 channels have alpha last.

    Raises ShapeError for another shape or dtype.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ShapeError(f"want (H, W) or (H, W, C) of 1 to 4 channels, got {pixels.shape}; an array is one picture")
    to_unit(pixels[:1, :1])  # refuses other dtypes
    parts = [np.asarray(pixels[rows, cols]) for rows in _spans(pixels.shape[0]) for cols in _spans(pixels.shape[1])]
    return _estimate(parts, alpha=pixels.shape[2] in (2, 4))


def recommend(
    estimates: Estimates, *, size: Size, lossless: bool | None, tables: JpegEstimate | None = None
) -> tuple[str, int, str]:
    """The family and the scale for a picture, and why in words.

    `photo` where it's damaged: stored with loss, noisy or blurred; else `balanced`. 4 times where no side is longer
    than 512 pixels, else 2. A picture that was enlarged before should be made smaller first. Only what is sure counts,
    but for blur so wide that it can't be measured, which is damage however wide it is. Looks at the pixels, so that
    it may differ from what `auto` takes, which knows the file alone.

    size: (rows, cols). lossless: None where that isn't known. tables: of a JPEG file.
    """
    noise, enlargement = estimates.noise, estimates.enlargement
    enlarged = enlargement.factor if enlargement.sure and enlargement.factor is not None else 1.0
    loud = noise.sure and noise.sigma is not None and noise.sigma >= _DAMAGING_NOISE
    damage = [
        _storage_damage(estimates.jpeg, lossless=lossless, tables=tables),
        f"noise of sigma {noise.sigma:.1f}" if loud else "",
        _blur_damage(estimates.blur, enlarged=enlarged > 1),
    ]
    damage = [each for each in damage if each]
    judged = [noise.sure, estimates.blur.sure, estimates.jpeg.sure or tables is not None]
    if damage:
        why = f"photo since it's damaged: {', '.join(damage)}"
    elif all(judged):
        why = "balanced since nothing shows damage"
    elif any(judged):
        why = "balanced since what could be judged shows no damage"
    else:
        why = "balanced since nothing could be judged"
    reduced = size
    if enlarged > 1:
        rows, cols = (max(1, round(side / enlarged)) for side in size)
        reduced = rows, cols
        why += (
            f"; it was enlarged {enlarged:.2f} times before, so reduce it to {cols}x{rows} first, in any image editor"
        )
    return "photo" if damage else "balanced", 4 if max(reduced) <= _SMALL_SIDE else 2, why


def _storage_damage(jpeg: JpegEstimate, *, lossless: bool | None, tables: JpegEstimate | None) -> str:
    """What storing has done, by the lowest quality known; empty where it's nothing that matters."""
    earlier = _earlier(jpeg, tables)
    if earlier is not None and earlier <= _DAMAGING_JPEG:
        return f"was a JPEG of quality {earlier} before"
    if tables is not None and tables.quality is not None:
        return f"a JPEG of {_quality_text(tables)}" if tables.quality <= _DAMAGING_JPEG else ""
    return {True: "", False: "stored with loss", None: "of a format that doesn't say whether it lost something"}[
        lossless
    ]


def _earlier(jpeg: JpegEstimate, tables: JpegEstimate | None) -> int | None:
    """The quality of a JPEG that the picture surely was before the file; of what the file itself did, None."""
    if not jpeg.sure or jpeg.quality is None:
        return None
    if tables is None or tables.quality is None:
        return jpeg.quality
    lower = tables.quality - jpeg.quality > (tables.error or 0) + (jpeg.error or 0)
    return jpeg.quality if lower else None


def _blur_damage(blur: BlurEstimate, *, enlarged: bool) -> str:
    """What blur has done; empty where it's little, unsure for another reason than its width, or an enlargement's."""
    if blur.sigma is None or blur.error is None or blur.sigma < _DAMAGING_BLUR:
        return ""
    if blur.sure:
        return f"blur of sigma {blur.sigma:.1f} px"
    if enlarged:
        return ""
    if blur.reason == _TOO_WIDE:
        return f"blurred {_TOO_WIDE}"
    wide = blur.sigma >= _WIDE_BLUR and blur.sigma - blur.error >= _DAMAGING_BLUR
    return f"seems blurred, with {_words(_FEW_EDGES)}" if wide and blur.reason == _FEW_EDGES else ""


def icc_description(profile: bytes) -> str | None:
    """What an ICC profile calls itself; `unnamed` where it doesn't, None where it's no profile.

    Source: ICC.1:2022, 7.3 and 10.15, and ICC.1:2001-04, 6.5.17, for profiles of version 2.
    """
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    count = int.from_bytes(profile[128:132])
    for at in range(132, min(132 + 12 * min(count, 1000), len(profile) - 11), 12):
        name, start, length = struct.unpack_from(">4sII", profile, at)
        if name != b"desc":
            continue
        body = profile[start : start + length]
        if body[:4] == b"desc":
            text = body[12 : 12 + int.from_bytes(body[8:12])].decode("latin-1")
        elif body[:4] == b"mluc" and len(body) >= 28:
            place, count = int.from_bytes(body[24:28]), int.from_bytes(body[20:24])
            text = body[place : place + count].decode("utf-16-be", "replace")
        else:
            break
        text = "".join(letter for letter in text.partition("\0")[0] if letter.isprintable()).strip()
        return text[:200] or "unnamed"
    return "unnamed"


def _marked(text: str, estimate: NoiseEstimate | JpegEstimate | EnlargementEstimate | BlurEstimate) -> str:
    return f"{text} (sure)" if estimate.sure else f"{text} (unsure: {_words(estimate.reason)})"


def _words(reason: str) -> str:
    return _PLAIN_WORDS.get(reason, reason)


def _quality_text(jpeg: JpegEstimate) -> str:
    return f"quality {jpeg.quality}{'' if jpeg.standard else ' or so'}"


def _file_text(tables: JpegEstimate | None) -> str:
    return f"saved as JPEG {_quality_text(tables)}" if tables is not None else ""


def _before_text(jpeg: JpegEstimate, tables: JpegEstimate | None) -> str:
    """Of JPEG before the file: the file's own traces in the pixels are no news."""
    earlier = _earlier(jpeg, tables)
    if earlier is not None:
        return _marked(f"was a JPEG of quality {earlier} earlier", jpeg)
    if tables is not None:
        return ""
    if jpeg.quality is not None:
        return _marked(f"perhaps a JPEG of {_quality_text(jpeg)}", jpeg)
    return "no trace of a JPEG (sure)" if jpeg.sure else f"unknown: {_words(jpeg.reason)}"


def _noise_text(noise: NoiseEstimate) -> str:
    if noise.sigma is None or noise.error is None:
        return f"unknown: {_words(noise.reason)}"
    return _marked(f"sigma {noise.sigma:.1f} +- {noise.error:.1f} of 255 levels", noise)


def _enlargement_text(enlargement: EnlargementEstimate) -> str:
    if enlargement.factor is not None and enlargement.factor > 1:
        return _marked(f"{'' if enlargement.sure else 'perhaps '}{enlargement.factor:.2f} times before", enlargement)
    return "no trace (sure)" if enlargement.sure else f"unknown: {_words(enlargement.reason)}"


def _blur_text(blur: BlurEstimate) -> str:
    if blur.sigma is None or blur.error is None:
        return f"unknown: {_words(blur.reason)}"
    if blur.reason == _TOO_WIDE:
        return f"{_TOO_WIDE}, about {_BLUR_MOST} px or more"
    text = f"sigma {blur.sigma:.2f} +- {blur.error:.2f} px"
    if blur.anisotropic:
        text += f", {blur.wide:.2f} by {blur.narrow:.2f} at {blur.angle:.0f} degrees"
    return _marked(text, blur)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _colour(picture: Picture) -> str:
    if any("CMYK" in note for note in picture.notes):
        return "CMYK"
    return "RGB" if picture.shape[2] >= 3 else "grey"


def _from_tables(path: Path) -> JpegEstimate:
    tables = jpeg_tables(path)
    reason = "" if tables.standard else f"its table is no standard one: {tables.difference:.0%} off the nearest"
    return JpegEstimate(
        tables.quality,
        (0, 0),
        tables.standard,
        tables.standard or tables.difference < 0.1,
        0.0 if tables.standard else 3.0,
        reason,
    )


# ---- which pixels are looked at


def _spans(side: int) -> list[slice]:
    """The windows along a side, spread evenly, each beginning at a multiple of eight."""
    count = min(_WINDOWS, -(-side // _WINDOW))
    if count == 1:
        return [slice(0, side)]
    length = min(_WINDOW, side // count // _GRID * _GRID)
    starts = [(side - length) * place // (count - 1) // _GRID * _GRID for place in range(count)]
    return [slice(start, start + length) for start in starts]


def _gather(picture: Picture) -> list[Array]:
    """The windows of a picture, while its rows go by once."""
    tall, wide = _spans(picture.shape[0]), _spans(picture.shape[1])
    parts: list[list[list[Array]]] = [[[] for _ in wide] for _ in tall]
    top = 0
    for band in picture.bands():
        for rows, line in zip(tall, parts, strict=True):
            inside = band[max(0, rows.start - top) : max(0, rows.stop - top)]
            for cols, pieces in zip(wide, line, strict=True):
                if len(inside):
                    pieces.append(inside[:, cols].copy())
        top += len(band)
    return [np.concatenate(pieces) for line in parts for pieces in line]


@dataclass(frozen=True)
class _Planes:
    """A window in 8-bit levels."""

    luma: Floats
    whole: Floats
    """Luma, with NaN where a channel is clipped or something is transparent."""
    channels: Sequence[Floats]
    """Each colour, with NaN where it's clipped or something is transparent."""


def _planes(part: Array, *, alpha: bool) -> _Planes:
    unit = to_unit(part)
    colours = unit[..., : unit.shape[2] - alpha]
    seen = unit[..., -1] >= 1 if alpha else np.ones(unit.shape[:2], bool)
    levels = colours * np.float32(255)
    luma = full_luma(levels) if levels.shape[2] == 3 else levels.mean(axis=2)
    clipped = (colours <= 0) | (colours >= 1)
    hole = np.float32(np.nan)
    channels = [np.where(clipped[..., each] | ~seen, hole, levels[..., each]) for each in range(levels.shape[2])]
    return _Planes(luma, np.where(clipped.any(axis=2) | ~seen, hole, luma), channels)


# ---- estimates, and how far to trust them


def _estimate(parts: Iterable[Array], *, alpha: bool, tables: JpegEstimate | None = None) -> Estimates:
    planes = [_planes(part, alpha=alpha) for part in parts]
    lumas = [plane.luma for plane in planes]
    usable = float(np.mean([np.mean(~np.isnan(plane.whole)) for plane in planes]))
    jpeg = _jpeg([plane.whole for plane in planes])
    if usable < _MOSTLY_CLIPPED and (jpeg.quality is None or not jpeg.sure):  # the grid may show all the same
        other = _jpeg(lumas)
        if other.sure and other.quality is not None:
            jpeg = other
        elif jpeg.sure:
            jpeg = JpegEstimate(None, None, False, False, None, _FEW_PIXELS)
    known = [each.quality for each in (tables, jpeg) if each is not None and each.quality is not None]
    coarsest = min(known, default=None)
    noise = _noise(planes, coarsest)
    flat = max(float(np.ptp(luma)) for luma in lumas) < 1
    small = max(min(luma.shape) for luma in lumas) < _SMALLEST
    if flat or small:
        reason = _FLAT if flat else _SMALL
        nothing = EnlargementEstimate(None, False, None, reason)
        return Estimates(noise, jpeg, nothing, BlurEstimate(None, None, None, None, None, False, None, reason))
    blur = _blur(lumas, noise)
    enlargement = _enlargement(lumas, coarsest, noise, blur)
    if enlargement.factor is not None and enlargement.factor > 1 and enlargement.sure and blur.sure:
        reason = "the softness of the earlier enlargement is part of it"
        blur = BlurEstimate(**{**asdict(blur), "sure": False, "reason": reason})
    return Estimates(noise, jpeg, enlargement, blur)


def _noise(planes: Sequence[_Planes], quality: int | None) -> NoiseEstimate:
    colours = list(zip(*[plane.channels for plane in planes], strict=True))
    traces = [find_noise(each) for each in colours]
    luma = find_noise([plane.whole for plane in planes]) if len(traces) > 1 else traces[0]
    if min(luma.blocks, *(trace.blocks for trace in traces)) == 0:
        return NoiseEstimate(None, None, False, None, _FEW_PIXELS)
    sigma = float(np.sqrt(np.mean([trace.sigma**2 for trace in traces])))
    slope, flatness = (float(np.mean([getattr(trace, part) for trace in traces])) for part in ("slope", "flatness"))
    reason = ""
    if quality is not None and quality <= _COARSE_JPEG:
        reason = _COARSE
    elif sigma > _QUIET_NOISE and not _NOISE_SLOPES[0] <= slope <= _NOISE_SLOPES[1]:
        reason = _NOT_WHITE
    elif sigma > _QUIET_NOISE and flatness > _NOISE_FLATNESS:
        reason = _NOT_FLAT
    error = max(_NOISE_ERROR * sigma, 0.3)
    return NoiseEstimate(sigma, luma.sigma, not reason, error if not reason else max(0.3 * sigma, 0.5), reason)


def _jpeg(planes: Sequence[Floats]) -> JpegEstimate:
    trace = find_jpeg(planes)
    nothing = trace is None or trace.evidence < _JPEG_EVIDENCE / 2 or trace.quality > _FINEST_JPEG
    if nothing:
        enough = trace is not None and trace.coefficients >= _FEWEST_COEFFICIENTS
        reason = "" if enough else _NO_GRID
        return JpegEstimate(None, None, False, enough, None, reason)
    assert trace is not None  # noqa: S101
    reason = ""
    if trace.evidence < _JPEG_EVIDENCE or trace.margin < _JPEG_MARGIN:
        reason = _WEAK_GRID
    elif not trace.standard:
        reason = _OTHER_STEPS
    return JpegEstimate(trace.quality, trace.phase, trace.standard, not reason, 8.0 if reason else 1.0, reason)


def _enlargement(
    planes: Sequence[Floats], quality: int | None, noise: NoiseEstimate, blur: BlurEstimate
) -> EnlargementEstimate:
    # JPEG's grid is a rhythm too.
    lossy = quality is not None and quality <= _FINEST_JPEG
    quiet = tuple(place / _GRID for place in range(1, 5)) if lossy else ()
    trace = find_enlargement(planes, without=quiet)
    if trace is None:
        return EnlargementEstimate(None, False, None, "it shows no differences")
    sigma, error = (np.inf if value is None else value for value in (blur.sigma, blur.error))
    soft = sigma > _SOFTNESS * trace.factor  # an enlarged picture is soft
    if trace.line >= _RHYTHM and trace.coherence >= _COHERENCE and trace.lead >= _LEAD and soft:
        return EnlargementEstimate(trace.factor, True, 0.01 * trace.factor, "")
    if trace.line >= _NO_RHYTHM and trace.coherence >= _COHERENCE / 2:
        return EnlargementEstimate(trace.factor, False, None, _WEAK_RHYTHM)
    if sigma + error < _SHARP:
        return EnlargementEstimate(1.0, True, None, "")
    hidden = lossy or noise.sigma is None or noise.sigma > _DAMAGING_NOISE
    return EnlargementEstimate(1.0, False, None, _COVERED if hidden else _SOFT)


def _blur(planes: Sequence[Floats], noise: NoiseEstimate) -> BlurEstimate:
    blur = estimate_blur(planes)
    if blur is None:
        return BlurEstimate(None, None, None, None, None, False, None, "too small")
    reason = ""
    if noise.sigma is not None and noise.sigma > _LOUD_NOISE:
        reason = "noise hides it"
    elif blur.sigma > _BLUR_MOST:
        reason = _TOO_WIDE
    elif blur.error > _BLUR_SHARE * blur.sigma and blur.sigma + 2 * blur.error > _SHARP:
        reason = _FEW_EDGES
    anisotropic = blur.ratio > _ANISOTROPIC and blur.wide > _WIDE
    return BlurEstimate(blur.sigma, blur.wide, blur.narrow, blur.angle, anisotropic, not reason, blur.error, reason)
