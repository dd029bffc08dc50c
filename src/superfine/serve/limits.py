"""What one server takes on: bytes, pixels, frames, time, disk and queue, bounded before work begins."""

import math
import os
import re
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from superfine.errors import SuperfineError

__all__ = [
    "Limits",
    "RefusedError",
    "check_clip",
    "check_disk",
    "check_result",
    "machine_limits",
    "shown_name",
    "told_bytes",
    "web_words",
]

#: What one job should have, at least, to be worth a process of its own.
_CORES_EACH: Final = 4
_BYTES_EACH: Final = 3e9
_MOST_WORKERS: Final = 8
# Left free on the disk whatever comes.
_SPARE_BYTES: Final = 1_000_000_000
_LONGEST_NAME: Final = 120


class RefusedError(SuperfineError):
    """A request that isn't done, as HTTP says it."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        """Seconds."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes on."""

    upload_bytes: int = 1_000_000_000
    megapixels: float = 100.0
    """Of a source picture, or a frame."""
    result_megapixels: float = 600.0
    """Of a result, or one frame of it."""
    clip_megapixels: float = 40_000.0
    """Of all frames of a result together: 4,800 of 3840 x 2160."""
    frames: int = 10_000
    seconds: float = 12 * 3600.0
    """That one job may take before it is stopped."""
    disk_bytes: int = 20_000_000_000
    """Of all uploads and results together."""
    queued: int = 100
    uploads_at_once: int = 16
    listeners: int = 200
    """Connections that hear events."""
    jobs_kept: int = 2000
    """Finished jobs that are still listed."""
    hours_kept: float = 24.0
    workers: int = 1
    cores_each: int = 1
    memory_gb: float = 2.0
    """Of each worker, as its jobs are planned for."""
    all_memory_gb: float = math.inf
    """That all processes may have in use together, before the largest of them is stopped."""


def machine_limits(cores: int, memory_bytes: float) -> tuple[int, int, float]:
    """How many jobs at a time, and what each gets: (workers, cores, GB).

    Networks use cores well, so jobs share a machine only where each gets four. Where memory allows it there are two
    in any case, since a video may take hours: a picture needn't wait for it. Half of the memory is theirs.
    """
    by_memory = int(memory_bytes // _BYTES_EACH)
    workers = max(1, min(max(2, cores // _CORES_EACH), by_memory, _MOST_WORKERS))
    return workers, max(1, cores // workers if cores >= workers * _CORES_EACH else cores), memory_bytes / 2e9 / workers


def check_disk(folder: Path, taken: int, promised: int, coming: int, limits: Limits) -> None:
    """Raise RefusedError where so many more bytes don't fit, into what the server may take or onto the disk.

    taken: bytes that are the server's or were promised; promised: those of them that aren't on the disk yet.
    """
    free = shutil.disk_usage(folder).free
    if taken + coming > limits.disk_bytes or promised + coming > free - _SPARE_BYTES:
        raise RefusedError(
            503,
            "disk-full",
            "the server has no room left for this; delete what is no longer needed, or try again later",
            retry_after=600,
        )


def check_clip(rows: int, cols: int, frames: int, limits: Limits) -> None:
    """Raise RefusedError where a source has too many pixels or frames."""
    megapixels = rows * cols / 1e6
    if megapixels > limits.megapixels:
        raise RefusedError(
            413,
            "too-large",
            f"{cols} x {rows} are {megapixels:,.4g} megapixels, and this server takes {limits.megapixels:,.4g};"
            " make it smaller, or use the command line",
        )
    if frames > limits.frames:
        raise RefusedError(
            413,
            "too-long",
            f"it has {frames:,} frames, and this server takes {limits.frames:,}; cut it, or use the command line",
        )


def check_result(rows: int, cols: int, frames: int, times: int, limits: Limits) -> None:
    """Raise RefusedError where a result would have too many pixels. times: that each frame is enlarged."""
    megapixels = rows * cols / 1e6
    if megapixels > limits.result_megapixels:
        raise RefusedError(
            413,
            "result-too-large",
            f"the result would have {cols} x {rows} pixels, {megapixels:,.4g} million of them, and this server makes"
            f" {limits.result_megapixels:,.4g} million; choose a smaller scale",
        )
    if megapixels * frames * times > limits.clip_megapixels:
        fitting = math.floor(limits.clip_megapixels / (megapixels * times))
        raise RefusedError(
            413,
            "result-too-large",
            f"{frames:,} frames of {cols} x {rows} pixels are too much for this server, which makes {fitting:,} of"
            " them; choose a smaller scale or a shorter stretch",
        )


def web_words(text: str) -> str:
    """What superfine says on the command line, as it is said over HTTP: options as the API names them, in backticks."""
    for pattern, words in _WEB_WORDS:
        text = re.sub(pattern, words, text)
    return re.sub(r"--([a-z][a-z-]*[a-z])", lambda found: f"`{found[1].replace('-', '_')}`", text)


# What only the command line has a way out of.
_WEB_WORDS: Final = (
    (r"raise it with --max-megapixels [\d,.]+", "make it smaller, or use the command line"),
    (r"raise it with --memory [\d,.]+", "choose a smaller scale"),
    (
        r"show the one before it instead with --damaged repeat",
        "leave it out by `start` and `end`, or use the command line",
    ),
    (r"say which level is white with --white LEVEL", "rescale it first"),
    (r"--white is about colours only, so rescale it first", "rescale it first"),
    (r"give --scale 2, 3, 4, …", "give a `scale` of 2, 3, 4, …"),
    (r"--size (\d+)x(\d+)", r"`size` [\2, \1]"),
    (r"leave --model (\S+) out", r"leave `model` \1 out"),
)


def told_bytes(content_length: str | None) -> int:
    """What a request says of its length: 0 where that is nothing, or no number. It may lie."""
    digits = (content_length or "")[:18]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def shown_name(given: str) -> str:
    """The name of a stranger's file as it may be shown and offered for download: no folders, no control characters.

    It is never used as a path.
    """
    text = unicodedata.normalize("NFC", given.encode("utf-8", "replace").decode("utf-8"))
    text = re.split(r"[/\\]", text)[-1]
    # Controls, and what turns the direction of writing, so that `gpj.exe` reads `exe.jpg`.
    text = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    text = re.sub(r'[<>:"|?*]', "_", text).strip(" .")
    if len(text) > _LONGEST_NAME:
        stem, suffix = os.path.splitext(text)  # noqa: PTH122 - this is no path
        text = stem[: _LONGEST_NAME - len(suffix[:10])] + suffix[:10]
    return text or "unnamed"
