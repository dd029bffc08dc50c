"""What is said over HTTP: the shapes of requests and answers, of which the OpenAPI is made.

Sizes are rows and columns as a picture is seen. Times are seconds since 1970.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Consistency",
    "Failure",
    "Health",
    "Id",
    "JobRequest",
    "JobState",
    "LimitsState",
    "ModelState",
    "Options",
    "Reason",
    "Recommendation",
    "ResultState",
    "Status",
    "UploadState",
    "VideoState",
]

#: 128 random bits.
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Kind = Literal["picture", "video", "animation"]
Status = Literal["queued", "running", "done", "failed", "cancelled", "expired"]


class _Strict(BaseModel):
    # A misspelt key stops, and so does a number in the clothes of a text.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Options(_Strict):
    """What to make of a picture or a video; each as `superfine upscale` has it."""

    scale: Annotated[float, Field(ge=1, le=16, allow_inf_nan=False)] | None = Field(
        default=None, description="Times each side; 2, or the model's only scale, where no size is given either."
    )
    size: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="[rows, cols] of the result instead."
    )
    model: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        default="auto",
        description="`auto`, a network, a family of them or a method of `/models`, or the id of an uploaded one.",
    )
    sharpness: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    format: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{2,5}$")] | None = Field(
        default=None,
        description="png, jpg, webp, avif, tif, gif, heic, mp4, mov, mkv or webm; the source's by default.",
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    consistent: Annotated[str, Field(pattern=r"^[a-z-]{2,20}$")] | None = Field(
        default=None, description="The operator by which the result, made small again, is the source."
    )
    ensemble: bool = False
    guess_map: bool = False
    codec: Literal["auto", "h264", "h265", "av1", "vp9", "ffv1"] = "auto"
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    start: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds."
    )
    end: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = Field(default=None, description="Seconds.")


class JobRequest(_Strict):
    """An upload's id, or a path below the server's root where it has one."""

    upload: Id | None = None
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    options: Options = Field(default_factory=Options)


class Recommendation(BaseModel):
    """What `superfine inspect` says."""

    model: str
    scale: int
    why: str


class UploadState(BaseModel):
    """A source on the server."""

    id: Id
    name: str
    kind: Kind
    rows: int
    cols: int
    frames: int
    seconds: float = Field(description="How long it is shown; 0 of pictures.")
    bytes: int
    recommended: Recommendation
    notes: list[str]
    expires: float
    started: bool = Field(description="A job was made of it.")


class ResultState(BaseModel):
    """A finished file."""

    name: str
    bytes: int
    type: str


class Consistency(BaseModel):
    """How far the result, made small again, is from the source."""

    operator: str
    psnr: float | None = Field(description="In dB; null where they are equal.")
    samples: int
    misses: int
    worst: float


class VideoState(BaseModel):
    """How far a video is."""

    frames: int
    done: int
    fps: float = Field(description="Frames a second of this run; 0 until that is known.")
    start: float = Field(description="Seconds of the source where it begins.")


class JobState(BaseModel):
    """A job, whole, as each event tells it."""

    id: Id
    upload: Id
    name: str = Field(description="Of the result.")
    source_name: str = Field(description="Of the source, as it was sent; told also when the source is gone.")
    status: Status
    progress: float = Field(ge=0, le=1)
    seconds_left: float | None
    position: int | None = Field(description="Place in the queue, from 1.")
    message: str
    model: str
    scale: float
    rows: int
    cols: int
    output_rows: int
    output_cols: int
    result: ResultState | None
    guess_map: bool = Field(description="There is one.")
    consistency: Consistency | None
    notes: list[str]
    created: float
    expires: float
    video: VideoState | None


class ModelState(BaseModel):
    """A network or a method."""

    name: str
    family: str
    scale: int = Field(description="0 for methods, which take any.")
    summary: str
    psnr: dict[str, float]
    restoring: bool
    frames: int


class LimitsState(BaseModel):
    """What the server takes."""

    upload_bytes: int
    megapixels: float
    result_megapixels: float
    clip_megapixels: float
    frames: int
    queued: int
    hours_kept: float
    workers: int
    paths: bool
    models: bool


class Health(BaseModel):
    """Whether the server works, and how much it has to do."""

    status: Literal["ok"]
    version: str
    queued: int
    running: int
    formats: list[str] = Field(description="Endings, without their dots, of what is read and written here.")
    limits: LimitsState


class Reason(BaseModel):
    """One sentence with the way out."""

    code: str
    message: str


class Failure(BaseModel):
    """What every answer of 400 and more holds."""

    error: Reason


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route of the OpenAPI: all that its answers may be besides the good one."""
    return {status: {"model": Failure} for status in statuses}
