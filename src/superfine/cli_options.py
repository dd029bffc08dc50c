"""The options that `upscale` and `cluster` share, each written once, and the job that they make."""

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from superfine.cli_convert import ForeignColour, ForeignRange
from superfine.cli_judge import Begin, End, seconds_of
from superfine.errors import UsageError

if TYPE_CHECKING:
    from superfine.route import Job

__all__ = [
    "AsClip",
    "AtDamage",
    "AtInterlaced",
    "Begin",
    "Codec",
    "Consistent",
    "Crf",
    "End",
    "EngineName",
    "FileFormat",
    "ForeignColour",
    "ForeignRange",
    "Json",
    "MaxMegapixels",
    "Memory",
    "ModelName",
    "Overwrite",
    "PrecisionName",
    "Quality",
    "Rate",
    "Resume",
    "Scale",
    "Sharpness",
    "Size",
    "White",
    "WithEnsemble",
    "WithProvenance",
    "job_of",
]

Scale = Annotated[
    float | None, typer.Option(help="Times each side, 1 to 16, fractions too; 2 by default.", show_default=False)
]
Size = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="The exact size of the result instead, as it is seen.", show_default=False),
]
ModelName = Annotated[
    str,
    typer.Option(
        help="auto takes balanced for lossless sources, photo for JPEG and other lossy ones, and for videos what is"
        " made for them, else fast or balanced; or name a network, an .onnx file with a card, weights as `convert`"
        " takes them, or a classical method: `superfine models`."
    ),
]
Sharpness = Annotated[
    float | None,
    typer.Option(
        help="0 to 1: from photo, which leaves out what isn't known, to sharp, which makes texture up.",
        show_default=False,
    ),
]
FileFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="png, jpg, webp, avif, tif, gif or heic for pictures, mp4, mov, mkv or webm for videos, where -o names"
        " no file; the source's by default.",
        show_default=False,
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        help="1 to 100 for lossy pictures; by default JPEG 95, WebP 90 or lossless as the source, AVIF 85.",
        show_default=False,
    ),
]
Resume = Annotated[bool, typer.Option(help="Skip what an earlier run finished; --no-resume does it again.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that no earlier run made.")]
EngineName = Annotated[str, typer.Option(help="openvino, or with the extra gpu: onnxruntime, cuda, directml, coreml.")]
PrecisionName = Annotated[str, typer.Option(help="auto (bf16 where the CPU has it), bf16 or fp32.")]
Consistent = Annotated[
    str | None,
    typer.Option(
        metavar="OPERATOR",
        help="The result, made small again by matlab-bicubic, bicubic, box or a kernel's file, is the source.",
        show_default=False,
    ),
]
WithEnsemble = Annotated[
    bool,
    typer.Option("--ensemble", help="The mean over all flips and rotations: a little better, eight times as long."),
]
WithProvenance = Annotated[
    bool,
    typer.Option("--provenance/--no-provenance", help="Leave a record of how it was made, for `superfine verify`."),
]
Memory = Annotated[
    float | None,
    typer.Option(metavar="GB", help="Memory to stay below; half of the machine's by default.", show_default=False),
]
White = Annotated[
    float | None,
    typer.Option(metavar="LEVEL", help="The level of white in float TIFF; 1 by default.", show_default=False),
]
MaxMegapixels = Annotated[float, typer.Option(help="Refuse sources with more pixels than this many millions.")]
Codec = Annotated[
    str, typer.Option(help="How videos are encoded: h264, h265, av1, vp9 or ffv1; auto: as the file's kind has it.")
]
Crf = Annotated[
    int | None,
    typer.Option(help="Quality of videos, smaller is better; h264 17, h265 20, av1 24, vp9 20.", show_default=False),
]
AtDamage = Annotated[str, typer.Option(help="At a frame that can't be decoded: stop, or repeat the one before it.")]
AtInterlaced = Annotated[str, typer.Option(help="Frames of two half pictures: deinterlace them, or refuse the video.")]
AsClip = Annotated[bool, typer.Option("--as-clip", help="A folder's pictures are the frames of one clip, by name.")]
Rate = Annotated[
    str | None,
    typer.Option(
        metavar="FPS",
        help="Frames a second of a folder of frames, such as 24 or 24000/1001; 25 by default.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each thing.")]


def job_of(
    *,
    scale: float | None,
    size: str | None,
    model: str,
    sharpness: float | None,
    file_format: str | None,
    quality: int | None,
    engine: str,
    precision: str,
    consistent: str | None,
    ensemble: bool,
    provenance: bool,
    memory: float | None,
    white: float | None,
    max_megapixels: float,
    codec: str,
    crf: int | None,
    start: str | None,
    end: str | None,
    damaged: str,
    interlaced: str,
    as_clip: bool,
    rate: str | None,
) -> "Job":
    """What the options ask for, as they stand on the command line. Raises UsageError."""
    from superfine.route import Job

    return Job(
        scale=scale,
        size=None if size is None else _size(size),
        model=model,
        sharpness=sharpness,
        engine=engine,
        precision=precision,  # type: ignore[arg-type]
        consistent=consistent,
        ensemble=ensemble,
        provenance=provenance,
        memory_gb=memory,
        file_format=file_format,
        quality=quality,
        white=white,
        max_megapixels=max_megapixels,
        codec=codec,
        crf=crf,
        start=seconds_of(start, "--start"),
        end=seconds_of(end, "--end"),
        damaged=damaged,  # type: ignore[arg-type]
        interlaced=interlaced,  # type: ignore[arg-type]
        as_clip=as_clip,
        rate=None if rate is None else _rate(rate),
    )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"0*([1-9][0-9]{0,8})x0*([1-9][0-9]{0,8})", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"--size {text!r} is not a size; write it as 1920x1080")
    return int(found[2]), int(found[1])


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise UsageError(f"--rate {text!r} is not a number of frames a second; write it as 25 or 30000/1001")
    return rate
