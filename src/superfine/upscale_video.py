"""One video of a run: which network and tiles, within which memory, then frame by frame through `video.convert`."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from superfine.clip import Clip, is_still, opened, stretch
from superfine.destination import check_free
from superfine.errors import OutputError, SourceError, UsageError
from superfine.fidelity import Tally
from superfine.footage import kind_of, open_footage
from superfine.frames import DEINTERLACED
from superfine.outputs import check_wishes, frames_folder, output_kind, plan_output, segments_folder
from superfine.pieces import Conversion
from superfine.route import Job, Route, Size, Workshop
from superfine.scenes import margin
from superfine.video import Converted, Made, Pieces, begin_pieces, complete, make_pieces

__all__ = [
    "Coding",
    "Pace",
    "VideoPlan",
    "VideoResult",
    "begin_video",
    "check_coding",
    "check_free_video",
    "coding_of_video",
    "make_video",
    "make_video_pieces",
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

    workshop: Workshop
    route: Route
    conversion: Conversion
    notes: tuple[str, ...]

    @property
    def clip(self) -> Clip:
        """The source."""
        return self.conversion.clip

    @property
    def size(self) -> Size:
        """(rows, cols) of the output's frames."""
        return self.conversion.made.encoding.size

    @property
    def result(self) -> VideoResult:
        """What is known before the work."""
        timeline, made = self.conversion.timeline, self.conversion.made
        return VideoResult(
            len(timeline),
            duration=float(timeline.duration),
            fps=float(self.clip.timeline.rate),
            codec=made.codec,
            pixel_format=made.pixel_format,
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
    clip: Clip | None = None
    """All of it, where that had to be read to know."""


def check_free_video(output: Path, source: Path, *, overwrite: bool) -> None:
    """Raise OutputError where something is at `output` already that may not be replaced."""
    if output_kind(output) != "frames":
        check_free(output, [source], overwrite=overwrite)
        return
    folder = frames_folder(output)
    if segments_folder(output).exists() or overwrite or not folder.is_dir():
        return
    if any(folder.iterdir()):
        raise OutputError(f"{folder}: there are files already; add frames with --overwrite or choose another folder")


def check_coding(outputs: Sequence[Path], job: Job) -> None:
    """Raise UsageError where the codec or its quality suits none of the outputs of clips."""
    refusals: list[UsageError] = []
    for output in outputs:
        try:
            check_wishes(output, job.codec, job.crf)
        except UsageError as error:
            refusals.append(error)
    if refusals and len(refusals) == len(outputs):
        raise refusals[0]


def coding_of_video(source: Path, job: Job) -> Coding:
    """How a clip is coded; of a video file by its header alone. Raises SourceError where it isn't one."""
    if kind_of(source) != "video":
        clip = open_footage(source, rate=job.rate, max_megapixels=job.max_megapixels)
        return Coding(clip.codec, clip.size, clip.lossless, clip)
    with opened(source) as container:
        for stream in container.streams.video:
            context = stream.codec_context
            if context is not None and not is_still(int(stream.disposition)):
                codec = context.codec
                return Coding(
                    codec.canonical_name, (context.height, context.width), bool(codec.lossless and not codec.lossy)
                )
    raise SourceError(f"{source}: holds no moving pictures; for sound alone there is nothing to enlarge")


def plan_video(source: Path, output: Path, workshop: Workshop, clip: Clip | None = None) -> VideoPlan:
    """Read a video's facts and find out how to enlarge it. Raises SourceError, UsageError.

    clip: the source, where it's open already.
    """
    job = workshop.job
    clip = open_footage(source, rate=job.rate, max_megapixels=job.max_megapixels) if clip is None else clip
    target = job.target(clip.size, sideways=clip.rotation % 180 != 0)
    first, stop = stretch(clip, job.start, job.end)
    made = plan_output(clip, output, target, first, stop, codec=job.codec, crf=job.crf)
    notes = [*clip.notes, *made.notes]
    if clip.lossless and made.encoding.codec.crf is not None:
        notes.append(f"lossless {clip.codec} becomes {made.codec}, which isn't; --codec ffv1 in .mkv is")
    if clip.interlaced and job.interlaced == "deinterlace":
        notes.append(DEINTERLACED)
    if job.consistent is not None and made.codec != "png" and not (made.codec == "webp" and clip.lossless):
        notes.append(f"{made.codec} changes pixels, so the frames are consistent only until they're encoded")
    route = workshop.clip_route(clip.shape, clip.dtype, target, _held(clip, target, made.codec, 1))
    if route.frames > 1:
        route = workshop.clip_route(clip.shape, clip.dtype, target, _held(clip, target, made.codec, route.frames))
    if len(route.engines) > 1 and any(engine.frames > 1 for engine in route.engines[1:]):
        notes.append("the second network sees each frame alone, without its neighbours in time")
    conversion = Conversion(
        clip,
        output,
        made,
        first,
        stop,
        frames=route.frames,
        damaged=job.damaged,
        interlaced=job.interlaced,
        fingerprint=workshop.pixels_fingerprint(route),
    )
    return VideoPlan(workshop, route, conversion, tuple(notes))


def make_video(
    plan: VideoPlan,
    tally: Tally,
    seen: Callable[[Array], None] = lambda pixels: None,
    heard: Callable[[Pace], None] = lambda pace: None,
    whole: Callable[[Path], None] = lambda part: None,
) -> Converted:
    """Enlarge a video; pieces that are there, of an earlier run or of other workers, are taken.

    tally: becomes how far the output's frames are from the source once they're made small again; the first of each
    `SEGMENT_FRAMES` is measured, whoever made it. seen: hears the source's frames that this run enlarges. heard: called
    for each frame. whole: hears of the finished file, with the tally whole, before it gets its name; not of folders.
    Raises SourceError, UsageError, OutputError, EngineError; what is done stays.
    """
    measured = partial(_add_up, tally)
    return complete(
        plan.conversion, plan.route.frame, progress=_paced(plan, heard), seen=seen, measured=measured, whole=whole
    )


def begin_video(plan: VideoPlan) -> Pieces:
    """Find out which pieces of a video are missing, so that workers on any machine can make them.

    Then `make_video_pieces` for each of the `stretches`, anywhere and in any order, and at last `make_video`, which
    makes what is still missing, and the output. Raises as `make_video`.
    """
    return begin_pieces(plan.conversion)


def make_video_pieces(
    plan: VideoPlan, begin: int, finish: int, heard: Callable[[Pace], None] = lambda pace: None
) -> Made:
    """Make pieces `begin` to before `finish` of a video that was begun; those that are there are taken.

    heard: called for each frame, and knows of these pieces alone. Raises as `make_video`; OutputError also where the
    video was begun from another source, by other options or versions, or on another kind of machine.
    """
    return make_pieces(plan.conversion, begin, finish, plan.route.frame, progress=_paced(plan, heard))


def seconds_expected(plan: VideoPlan) -> float:
    """How long a video will take, from a trial of its first frames, written where temporary files go."""
    clip, job, conversion = plan.clip, plan.workshop.job, plan.conversion
    window = np.zeros((plan.route.frames, *clip.shape), clip.dtype)
    plan.route.frame(window)  # prepares the network
    started = time.perf_counter()
    plan.route.frame(window)
    each = time.perf_counter() - started
    least, most = _TRIAL_FRAMES
    first, frames = conversion.first, conversion.stop - conversion.first
    tried = min(frames, max(least, min(most, round(_TRIAL_SECONDS / max(each, 1e-6)))))
    with tempfile.TemporaryDirectory(prefix="superfine-") as folder:
        output = Path(folder) / conversion.output.name
        made = plan_output(clip, output, plan.route.target, first, first + tried, codec=job.codec, crf=job.crf)
        trial = replace(conversion, output=output, made=made, stop=first + tried)
        started = time.perf_counter()
        complete(trial, lambda window, _: plan.route.frame(window))
        return (time.perf_counter() - started) / tried * frames


def _paced(plan: VideoPlan, heard: Callable[[Pace], None]) -> Callable[[int, int], None]:
    """What hears how many frames are done, and tells how fast that goes."""
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

    return tell


def _add_up(total: Tally, tallies: Sequence[Tally]) -> None:
    """The figures of all measured frames as one, from the figures of each.

    So it makes no difference which of them were measured in this run, and which were noted by another.
    """
    total.samples = sum(tally.samples for tally in tallies)
    if not total.samples:
        return
    total.misses = sum(tally.misses for tally in tallies)
    total.worst = max(tally.worst for tally in tallies)
    shares = [tally.samples / total.samples for tally in tallies]
    mean = sum(share * 10 ** (-(tally.psnr or 0) / 10) for share, tally in zip(shares, tallies, strict=True))
    total.psnr = math.inf if mean == 0 else -10 * math.log10(mean)
    drifts = zip(*(tally.drift for tally in tallies), strict=True)
    total.drift = tuple(sum(share * drift for share, drift in zip(shares, channel, strict=True)) for channel in drifts)


def _held(clip: Clip, target: Size, codec: str, frames: int) -> int:
    """Estimated bytes of frames that wait: for their windows, between threads, and in the encoder."""
    small = math.prod(clip.shape) * clip.dtype.itemsize
    pixels = target[0] * target[1]
    large = pixels * clip.shape[2] * clip.dtype.itemsize
    encoded = pixels * _ENCODER_BYTES.get(codec, _OTHER_ENCODER_BYTES) * clip.dtype.itemsize
    return small * (2 * margin(frames) + 1 + frames + _DECODED) + large * _MADE + encoded
