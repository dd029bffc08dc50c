"""One video of a run: which network and tiles, within which memory, then frame by frame through `video.convert`."""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.clip import Clip, is_still, opened
from superfine.destination import check_free
from superfine.encoding import CODECS, CONTAINERS, container_of, plan_encoding
from superfine.errors import OutputError, SourceError, UsageError
from superfine.footage import kind_of, open_footage
from superfine.route import Job, Route, Size, Workshop
from superfine.scenes import margin
from superfine.video import Converted, convert, output_kind, segments_folder

__all__ = [
    "Coding",
    "Pace",
    "VideoPlan",
    "VideoResult",
    "begun",
    "check_coding",
    "check_free_video",
    "coding_of_video",
    "forget_segments",
    "make_video",
    "plan_video",
    "seconds_expected",
]

Array = npt.NDArray[np.generic]

# Frames that wait between threads or are being converted: of the source, and enlarged ones.
_DECODED: Final = 6
_MADE: Final = 6
# What encoders hold, in bytes for each pixel of a frame; measured with 8 bits at 1280x720 to 3840x2160.
_ENCODER_BYTES: Final = {"h264": 70, "h265": 170, "av1": 185, "vp9": 120}
_OTHER_ENCODER_BYTES: Final = 20
# What a trial for a dry run may take, and how many frames it has.
_TRIAL_SECONDS: Final = 4.0
_TRIAL_FRAMES: Final = (4, 48)


@dataclass(frozen=True)
class VideoResult:
    """What became of the frames of a video."""

    frames: int
    computed: int = 0
    """Frames that the network enlarged in this run; the others are the same as the one before, or were done already."""
    resumed: int = 0
    """Frames that an earlier run had done."""
    duration: float = 0.0
    """Seconds."""
    fps: float = 0.0
    """Frames a second of the video, on average."""
    codec: str = ""
    pixel_format: str = ""
    """As FFmpeg names it."""
    speed: float = 0.0
    """Frames a second of this run."""


@dataclass(frozen=True)
class Pace:
    """How far a video is."""

    source: Path
    done: int
    """Frames, with those of an earlier run."""
    frames: int
    resumed: int
    fps: float
    """Frames a second of this run; 0 until that is known."""

    @property
    def seconds_left(self) -> float | None:
        """None until that is known."""
        return (self.frames - self.done) / self.fps if self.fps else None


@dataclass(frozen=True)
class VideoPlan:
    """What to make of a video, and how."""

    clip: Clip
    output: Path
    workshop: Workshop
    route: Route
    frames: int
    notes: tuple[str, ...]
    codec: str
    pixel_format: str
    size: Size
    """(rows, cols) of the output's frames."""

    @property
    def result(self) -> VideoResult:
        """What is known before the work."""
        timeline = self.clip.timeline
        seconds = timeline.duration * self.frames / len(timeline)
        return VideoResult(
            self.frames,
            duration=float(seconds),
            fps=float(timeline.rate),
            codec=self.codec,
            pixel_format=self.pixel_format,
        )

    def result_of(self, made: Converted, seconds: float) -> VideoResult:
        """What became of it in so many seconds."""
        return VideoResult(
            made.frames,
            made.computed,
            made.resumed,
            float(made.duration),
            float(self.clip.timeline.rate),
            made.codec,
            made.pixel_format,
            (made.frames - made.resumed) / seconds,
        )


@dataclass(frozen=True)
class Coding:
    """What the choice of a network for a clip goes by."""

    codec: str
    """FFmpeg's name."""
    size: Size
    """(rows, cols) of the frames."""
    lossless: bool


def check_free_video(output: Path, source: Path, *, overwrite: bool) -> None:
    """Raise OutputError where something is at `output` already that may not be replaced."""
    if output_kind(output) != "frames":
        check_free(output, [source], overwrite=overwrite)
        return
    folder = output.parent if "%" in output.name else output
    if segments_folder(output).exists() or overwrite or not folder.is_dir():
        return
    if any(folder.iterdir()):
        raise OutputError(f"{folder}: there are files already; add frames with --overwrite or choose another folder")


def check_coding(outputs: Sequence[Path], job: Job) -> None:
    """Raise UsageError where the codec or its quality suits none of the outputs of clips."""
    if not outputs or (job.codec == "auto" and job.crf is None):
        return
    files = [output for output in outputs if output_kind(output) == "video"]
    if not files:
        wish = f"--codec {job.codec}" if job.codec != "auto" else f"--crf {job.crf}"
        raise UsageError(f"{outputs[0]}: {wish} is for video files ({' '.join(CONTAINERS)})")
    refusals = [_refusal(output, job) for output in files]
    if all(refusals):
        raise UsageError(refusals[0])


def _refusal(output: Path, job: Job) -> str:
    """Why a video file can't be coded as asked for; empty where it can, as far as its name says."""
    container = container_of(output)
    name = container.codecs[0] if job.codec == "auto" else job.codec
    codec = CODECS[name]
    if name not in container.codecs:
        return f"{output}: {container.name} doesn't hold {name}; it holds {', '.join(container.codecs)}"
    if job.crf is None:
        return ""
    if codec.crf is None:
        return f"--crf {job.crf}: {name} is lossless and has none"
    if not codec.best_crf <= job.crf <= codec.worst_crf:
        return f"--crf {job.crf}: {name} takes {codec.best_crf} (best) to {codec.worst_crf}"
    return ""


def coding_of_video(source: Path, job: Job) -> Coding:
    """How a clip is coded; of a video file by its header alone. Raises SourceError where it isn't one."""
    if kind_of(source) != "video":
        clip = open_footage(source, rate=job.rate, max_megapixels=job.max_megapixels)
        return Coding(clip.codec, clip.size, clip.lossless)
    with opened(source) as container:
        for stream in container.streams.video:
            context = stream.codec_context
            if context is not None and not is_still(int(stream.disposition)):
                codec = context.codec
                return Coding(
                    codec.canonical_name, (context.height, context.width), bool(codec.lossless and not codec.lossy)
                )
    raise SourceError(f"{source}: holds no moving pictures; for sound alone there is nothing to enlarge")


def plan_video(source: Path, output: Path, workshop: Workshop) -> VideoPlan:
    """Read a video's facts and find out how to enlarge it. Raises SourceError, UsageError."""
    job = workshop.job
    clip = open_footage(source, rate=job.rate, max_megapixels=job.max_megapixels)
    target = job.target(clip.size, sideways=clip.rotation % 180 != 0)
    notes, codec, pixel_format, size = clip.notes, output.suffix[1:].lower(), "", target
    if output_kind(output) == "video":
        encoding, said = plan_encoding(clip, output, target, codec=job.codec, crf=job.crf)
        if clip.lossless and encoding.codec.crf is not None:
            said = (*said, f"lossless {clip.codec} becomes {encoding.codec.name}, which isn't; --codec ffv1 in .mkv is")
        notes, codec, pixel_format, size = (*notes, *said), encoding.codec.name, encoding.pixel_format, encoding.size
    route = workshop.clip_route(clip.shape, clip.dtype, target, _held(clip, target, codec, 1))
    if route.frames > 1:
        route = workshop.clip_route(clip.shape, clip.dtype, target, _held(clip, target, codec, route.frames))
    if len(route.engines) > 1 and any(engine.frames > 1 for engine in route.engines[1:]):
        notes = (*notes, "the second network sees each frame alone, without its neighbours in time")
    return VideoPlan(clip, output, workshop, route, _shown(clip, job), notes, codec, pixel_format, size)


def make_video(
    plan: VideoPlan,
    heard: Callable[[Pace], None] = lambda pace: None,
    whole: Callable[[Path], None] = lambda part: None,
) -> Converted:
    """Enlarge a video; segments of an earlier run that was stopped are taken.

    heard: called for each frame. whole: hears of the finished file before it gets its name. Raises SourceError,
    UsageError, OutputError, EngineError; what is done stays.
    """
    begun: list[tuple[float, int]] = []
    resumed = 0

    def tell(done: int, frames: int) -> None:
        nonlocal resumed
        now = time.perf_counter()
        resumed = resumed if begun else done
        # The first frame also waits for the network to be prepared.
        if len(begun) < 2:
            begun.append((now, done))
        since, before = begun[-1]
        fps = (done - before) / (now - since) if done > before and now > since else 0.0
        heard(Pace(plan.clip.path, done, frames, resumed, fps))

    job = plan.workshop.job
    return _converted(plan, plan.output, job.start, job.end, tell, whole)


def begun(output: Path) -> bool:
    """Whether there are finished segments of an unfinished output."""
    return any(segments_folder(output).glob("*.mkv"))


def forget_segments(output: Path) -> None:
    """Throw away what an earlier run left of an unfinished output."""
    shutil.rmtree(segments_folder(output), ignore_errors=True)


def seconds_expected(plan: VideoPlan) -> float:
    """How long a video will take, from a trial of its first frames, written where temporary files go."""
    clip, job = plan.clip, plan.workshop.job
    window = np.zeros((plan.route.frames, *clip.shape), clip.dtype)
    plan.route.frame(window)  # prepares the network
    started = time.perf_counter()
    plan.route.frame(window)
    each = time.perf_counter() - started
    least, most = _TRIAL_FRAMES
    count = min(plan.frames, max(least, min(most, round(_TRIAL_SECONDS / max(each, 1e-6)))))
    times = [
        time for time in map(clip.timeline.at, range(len(clip.timeline))) if job.start is None or time >= job.start
    ]
    end = times[count] if count < len(times) else job.end
    with tempfile.TemporaryDirectory(prefix="superfine-") as folder:
        started = time.perf_counter()
        _converted(plan, Path(folder) / plan.output.name, job.start, end)
        return (time.perf_counter() - started) / count * plan.frames


def _converted(
    plan: VideoPlan,
    output: Path,
    start: Fraction | None,
    end: Fraction | None,
    progress: Callable[[int, int], None] = lambda done, frames: None,
    whole: Callable[[Path], None] = lambda part: None,
) -> Converted:
    clip, route, job = plan.clip, plan.route, plan.workshop.job
    return convert(
        clip.path,
        output,
        route.frame,
        lambda size: route.target,
        frames=route.frames,
        codec=job.codec,
        crf=job.crf,
        damaged=job.damaged,
        interlaced=job.interlaced,
        start=start,
        end=end,
        fingerprint=plan.workshop.pixels_fingerprint(route),
        progress=progress,
        rate=job.rate,
        max_megapixels=job.max_megapixels,
        clip=clip,
        whole=whole,
    )


def _shown(clip: Clip, job: Job) -> int:
    """How many frames lie in the stretch that was asked for."""
    times = (clip.timeline.at(number) for number in range(len(clip.timeline)))
    return sum((job.start is None or job.start <= time) and (job.end is None or time < job.end) for time in times)


def _held(clip: Clip, target: Size, codec: str, frames: int) -> int:
    """Estimated bytes of frames that wait: for their windows, between threads, and in the encoder."""
    small = math.prod(clip.shape) * clip.dtype.itemsize
    pixels = target[0] * target[1]
    large = pixels * clip.shape[2] * clip.dtype.itemsize
    encoded = pixels * _ENCODER_BYTES.get(codec, _OTHER_ENCODER_BYTES) * clip.dtype.itemsize
    return small * (2 * margin(frames) + 1 + frames + _DECODED) + large * _MADE + encoded
