"""A process that looks at strangers' files and enlarges them, one after the other, told so by the server.

Only here are their bytes decoded: a decoder that crashes, hangs or swallows memory takes this process along and no
other. It outlives its jobs, so that networks stay prepared. Requests come as lines of JSON through the standard input,
answers leave through the standard output; where the input ends, so does the process.

    {"task": "inspect", "source": …}   ->  {"done": {…}} or {"refused": {"code": …, "message": …}}
    {"task": "upscale", …}             ->  {"progress": {…}} now and then, then one of these or {"stopped": true}
    {"stop": true}                     ->  what is going on ends at the next tile or frame
"""

import json
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from superfine.errors import MissingExtraError, ModelError, SourceError, SuperfineError, TooLargeError
from superfine.serve.limits import web_words
from superfine.upscale import Pace, Progress, upscale_path

__all__ = ["MEDIA_TYPES", "StoppedError", "main", "plain_words"]

Facts = dict[str, Any]

#: By the ending of a file that superfine wrote, or whose content was looked at.
MEDIA_TYPES: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".tif": "image/tiff",
    ".gif": "image/gif",
    ".heic": "image/heic",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
}
_SUFFIXES: Final = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "TIFF": ".tif",
    "GIF": ".gif",
    "HEIC": ".heic",
}
_KNOWN: Final = "PNG, JPEG, WebP, AVIF, TIFF, GIF; MP4, WebM, MKV, MOV"
_SECONDS_BETWEEN: Final = 0.25
# Before so much is known, a guess at the time that is left would jump.
_KNOWN_SHARE, _KNOWN_SECONDS = 0.01, 1.0
# From so much on a guess that counts the network's preparation too is only a little too long.
_LARGE_SHARE: Final = 0.2
# While the last bands are being encoded nothing is heard.
_ENLARGED: Final = 0.98
# What a page can show at once; larger ones are reduced for it.
_VIEW_SIDE: Final = 8192


class StoppedError(Exception):
    """The server asked for the end of this task."""


def main() -> None:
    """Work until the input ends."""
    # Ctrl-C in the server's terminal is the server's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bound(int(sys.argv[1]) if len(sys.argv) > 1 else resource.RLIM_INFINITY)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    requests: queue.Queue[Facts] = queue.Queue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(requests, stopping), daemon=True).start()

    def say(answer: Facts) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    while True:
        request = requests.get()
        say(answer_to(request, lambda facts: say({"progress": facts}), stopping))


def _bound(file_bytes: int) -> None:
    """No file that this process writes gets larger, and no picture of its memory is left where it crashes."""
    for limit, value in ((resource.RLIMIT_FSIZE, file_bytes), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def _listen(requests: "queue.Queue[Facts]", stopping: threading.Event) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("stop"):
            stopping.set()
        else:
            stopping.clear()
            requests.put(request)
    os._exit(0)  # the server is gone; what is half done was never given its name


def answer_to(request: Facts, tell: Callable[[Facts], None], stopping: threading.Event) -> Facts:
    """The last answer to a request, whatever comes of it."""
    names = dict(request.get("names", []))
    try:
        if request["task"] == "upscale":
            done = _upscale(request, _Listener(tell, stopping))
        else:
            done = _LOOKS[request["task"]](request)
        if "notes" in done:
            done["notes"] = [plain_words(web_words(note), names) for note in done["notes"]]
        return {"done": done}
    except StoppedError:
        return {"stopped": True}
    except Exception as error:  # noqa: BLE001 - the process goes on with the next one
        code, words = _reason(error)
        return {"refused": {"code": code, "message": plain_words(web_words(words), names)}}


def _reason(error: Exception) -> tuple[str, str]:
    """A code, and words for a person."""
    match error:
        case TooLargeError():
            return "too-large", str(error)
        case _UnknownKindError():
            return "unsupported", str(error)
        case SuperfineError():
            return "invalid", str(error)
        case MemoryError():
            return "out-of-memory", "it takes more memory than this server gives it"
        case OSError():
            return "failed", error.strerror or "the file can't be read"
    traceback.print_exception(error)
    return "failed", "this made superfine fail; the server's log says how"


class _UnknownKindError(SuperfineError):
    """The content is of no kind that superfine reads."""


def plain_words(text: str, names: Mapping[str, str]) -> str:
    """An error's text without the server's paths. names: path -> what it is called outside; longest first."""
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text


# ---- tasks


def _inspect(request: Facts) -> Facts:
    """What a file is, and how to enlarge it."""
    from superfine.footage import kind_of
    from superfine.image import coding_of, open_picture
    from superfine.inspection import inspect

    source, most = Path(request["source"]), float(request["max_megapixels"])
    kind = kind_of(source)
    if kind:
        return _inspected_clip(source, kind, most)
    try:
        name, _ = coding_of(source)
    except MissingExtraError as error:
        raise _UnknownKindError(f"{source}: is HEIC, which this server doesn't read; send it as JPEG or PNG") from error
    except SourceError as error:
        words = str(error)
        if "not a picture" in words:
            words = (
                f"{source}: neither a picture nor a video that superfine reads ({_KNOWN}), or a part of it is missing"
            )
        raise _UnknownKindError(words) from error
    found = inspect(source, max_megapixels=most)
    picture = open_picture(source, max_megapixels=most, bounded=False)
    rows, cols = picture.size[::-1] if picture.sideways else picture.size
    suffix = _SUFFIXES[name]
    return {
        "kind": "picture",
        "rows": rows,
        "cols": cols,
        "frames": 1,
        "seconds": 0.0,
        "suffix": suffix,
        "pixel_bytes": picture.shape[2] * picture.dtype.itemsize,
        "media_type": MEDIA_TYPES[suffix],
        "recommended": {"model": found.model, "scale": found.scale, "why": found.why},
        "notes": list(found.notes),
    }


def _inspected_clip(source: Path, kind: str, most: float) -> Facts:
    from superfine.clip_inspection import inspect_clip

    found = inspect_clip(source, max_megapixels=most)
    rows, cols = found.size if found.rotation % 180 == 0 else found.size[::-1]
    suffix, media_type = _clip_suffix(found.container, found.codec)
    return {
        "kind": kind,
        "rows": rows,
        "cols": cols,
        "frames": found.frames,
        "seconds": found.duration,
        "suffix": suffix,
        "pixel_bytes": (4 if found.alpha else 3) * (1 if found.bits <= 8 else 2),
        "media_type": media_type,
        "recommended": {"model": found.model, "scale": found.scale, "why": found.why},
        "notes": [*found.notes, *([found.broken] if found.broken else [])],
    }


def _clip_suffix(container: str, codec: str) -> tuple[str, str]:
    """The ending of results, and the media type of the source, from FFmpeg's names of container and codec."""
    if container in ("gif", "webp"):
        return f".{container}", MEDIA_TYPES[f".{container}"]
    if codec == "apng":  # superfine writes no animated PNG
        return ".webp", "image/png"
    if "mp4" in container.split(","):
        return ".mp4", "video/mp4"
    if "webm" in container.split(","):
        fits = codec in ("vp8", "vp9", "av1")
        return (".webm", "video/webm") if fits else (".mkv", "video/x-matroska")
    return ".mkv", "application/octet-stream"


def _wishes(request: Facts) -> Any:
    """The job of a request. Raises UsageError."""
    from superfine.route import Job

    options = dict(request["options"])
    for name in ("start", "end"):
        if options.get(name) is not None:
            options[name] = Fraction(options[name]).limit_denominator(1000)
    if options.get("size") is not None:
        options["size"] = tuple(options["size"])
    return Job(memory_gb=request["memory_gb"], max_megapixels=request["max_megapixels"], **options)


def _check(request: Facts) -> Facts:
    """Nothing, where a job can be done; no pixel is enlarged. Raises as the job would."""
    from superfine.route import Workshops
    from superfine.upscale import picture_guess, plan_picture
    from superfine.upscale_video import coding_of_video, plan_video

    source, output, job = Path(request["source"]), Path(request["output"]), _wishes(request)
    workshops = Workshops(job)
    if request["moves"]:
        coding = coding_of_video(source, job)
        workshop, _ = workshops.suited_to_video(coding.codec, coding.size, lossless=coding.lossless)
        plan_video(source, output, workshop, coding.clip)
        return {}
    workshop, _ = workshops.suited(source)
    plan = plan_picture(source, output, workshop)
    if request["guess_map"]:
        picture_guess(plan.picture, output, workshop, plan.route)
    return {}


def _upscale(request: Facts, listener: Progress) -> Facts:
    """One file by `upscale_path`, as the command line does it."""
    guess_map = request.get("guess_map")
    output = Path(request["output"])
    report = upscale_path(
        [request["source"]],
        output,
        job=_wishes(request),
        guess_map=guess_map,
        overwrite=True,
        progress=listener,
    )
    (result,) = report.results
    if result.status != "done":
        raise SourceError(result.message)
    if guess_map is not None:
        _cut_legend(Path(guess_map), output)
    return {
        "model": result.model,
        "bytes": output.stat().st_size,
        # The page shows the map itself, and nobody sees how its files are called.
        "notes": [note for note in result.notes if not note.startswith("guess map: ")],
        "consistency": None if result.consistency is None else asdict(result.consistency),
        "frames": 1 if result.video is None else result.video.frames,
    }


class _Listener(Progress):
    """Tells the server how far a job is, some times a second, and stops it where the server asks for that."""

    def __init__(self, tell: Callable[[Facts], None], stopping: threading.Event) -> None:
        self._tell = tell
        self._stopping = stopping
        self._weight = 1
        self._done = 0.0
        self._asked = time.monotonic()
        self._started = 0.0
        self._before = 0.0
        self._told = 0.0
        self._moves = False

    def begin(self, pictures: int, weight: int) -> None:
        self._weight = weight if pictures and weight else 1
        self._heed()

    def advance(self, weight: float) -> None:
        self._heed()
        now = time.monotonic()
        # The first tile also waits for the network to be prepared.
        if not self._started:
            self._started, self._before = now, self._done + weight
        self._done += weight
        share = min(1.0, self._done / self._weight)
        done, passed = share - self._before / self._weight, now - self._started
        known = done > _KNOWN_SHARE and passed > _KNOWN_SECONDS
        left = passed * (1 - share) / done if known else None
        if left is None and share >= _LARGE_SHARE:
            left = (now - self._asked) * (1 - share) / share
        if not self._moves:  # of a video `watch` knows more
            self._say(now, {"share": share * _ENLARGED, "seconds_left": left})

    def watch(self, pace: Pace) -> None:
        self._heed()
        self._moves = True
        share = min(1.0, pace.done / max(1, pace.frames))
        facts = {"share": share * _ENLARGED, "seconds_left": pace.seconds_left, "done": pace.done, "fps": pace.fps}
        self._say(time.monotonic(), facts)

    def _heed(self) -> None:
        if self._stopping.is_set():
            raise StoppedError

    def _say(self, now: float, facts: Facts) -> None:
        if now - self._told >= _SECONDS_BETWEEN:
            self._told = now
            self._tell(facts)


def _cut_legend(guess_map: Path, result: Path) -> None:
    """The overlay without the legend below it, so that it lies on the result pixel for pixel."""
    from superfine.guess import overlay_path
    from superfine.image import open_picture

    overlay = overlay_path(guess_map)
    rows = open_picture(result, upright=True).size[0]
    picture = open_picture(overlay)
    if picture.size[0] == rows:
        return
    _save_rows(overlay.with_name("heat.png"), picture.bands(), (rows, *picture.shape[1:]))
    overlay.unlink()


def _save_rows(path: Path, bands: Any, shape: tuple[int, ...]) -> None:
    import numpy as np

    from superfine.atomic import written_whole
    from superfine.image import streamed

    def first() -> Any:
        left = shape[0]
        for band in bands:
            if left > 0:
                yield band[:left]
            left -= len(band)

    with written_whole(path) as part, streamed((shape[0], shape[1], shape[2]), np.dtype(np.uint8), first()) as image:
        image.pngsave(str(part), compression=3, keep="none")


def _view(request: Facts) -> Facts:
    """A PNG of 8 bits that a browser can show: upright, and no side over 8192 pixels; of a clip a single frame."""
    import numpy as np

    from superfine.atomic import written_whole
    from superfine.clip import Clip
    from superfine.color import to_kind, to_unit
    from superfine.footage import kind_of, open_footage, read_footage
    from superfine.image import open_picture, plain_picture, streamed

    source, output, most = Path(request["source"]), Path(request["output"]), float(request["max_megapixels"])
    turns = 0
    if kind_of(source):
        clip: Clip = open_footage(source, max_megapixels=most)
        number = _frame_at(clip, float(request.get("at", 0.0)))
        frame = next(iter(read_footage(clip, number, number + 1, damaged="repeat")))
        picture = plain_picture(source, clip.shape, clip.dtype, clip.bits)
        shape, bands, turns = clip.shape, iter([frame.pixels]), clip.rotation // 90 % 4
    else:
        picture = open_picture(source, max_megapixels=most, upright=True)
        shape, bands = picture.shape, picture.bands()
    eight = (to_kind(to_unit(band), np.dtype(np.uint8)) for band in bands)
    with written_whole(output) as part, streamed(shape, np.dtype(np.uint8), eight) as image:
        _browsable(image, turns, picture.header).pngsave(str(part), compression=3, keep="icc")
    return {"bytes": output.stat().st_size}


def _frame_at(clip: Any, seconds: float) -> int:
    """The first frame of what an enlargement from this moment on begins with."""
    last = len(clip.timeline) - 1
    moment = Fraction(seconds).limit_denominator(1000)
    return next((number for number in range(last) if clip.timeline.at(number) >= moment), last)


def _browsable(image: Any, turns: int, header: Any) -> Any:
    """No side too long, turned by so many quarters counter-clockwise, in the colours that `header` names."""
    step = -(-max(image.height, image.width) // _VIEW_SIDE)
    small = image.shrink(min(step, image.width), min(step, image.height)) if step > 1 else image.copy()
    small = small.copy_memory().rot(f"d{-90 * turns % 360}") if turns else small
    if kind := header.get_typeof("icc-profile-data"):
        small.set_type(kind, "icc-profile-data", header.get("icc-profile-data"))
    return small


def _model(request: Facts) -> Facts:
    """A stranger's network, made one of superfine's: read without running anything of it, then held to its card."""
    from superfine.atomic import written_whole
    from superfine.conversion import convert, is_foreign
    from superfine.models import read_model

    source, output = Path(request["source"]), Path(request["output"])
    model = convert(source).model if is_foreign(str(source)) else read_model(source)
    if model.card.errors_of:
        raise ModelError(f"{source}: enlarges nothing, it tells how far another network may be off")
    with written_whole(output) as part:
        part.write_bytes(model.content)
    card = model.card
    return {
        "name": card.name,
        "scale": card.scale,
        "summary": card.summary,
        "restoring": card.restoring,
        "frames": card.frames,
        "bytes": output.stat().st_size,
    }


_LOOKS: Final[Mapping[str, Callable[[Facts], Facts]]] = {
    "inspect": _inspect,
    "check": _check,
    "view": _view,
    "model": _model,
}

if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
