"""Videos from end to end: frames a second and memory, per network, against decoding and encoding alone.

    python benchmarks/video.py [NETWORK ...] [--frames 120] [--runs 3]

Makes its own clips: photographs that pass by, 640x360 and 320x180, H.264 at its usual quality, with sound, 25 frames a
second. Every run is a process of its own: `superfine.upscale_path` with one network and the usual settings, after half
a second of the clip that opens the network. Decoding and encoding alone is `superfine.video.convert` with each pixel
repeated. Runs are interleaved, the median counts. The time is that of the whole: decoding, the network, encoding,
joining. A slow network gets fewer frames, at least 24, so that a run takes about `--seconds`. Memory is the
peak of the process. Prints Markdown. Close other programs first.
"""

import argparse
import datetime as dt
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import superfine
from superfine.engine import cores, cpu_features
from superfine.models import list_models
from superfine.video import convert

Array = npt.NDArray[np.generic]

_ALONE = "alone"
_NETWORKS = ("fast-int8", "fast", "balanced", "best", "photo", "video", "video-real")
_RATE = 25
#: (rows, cols) of the small clip, and the scale.
_TASKS = (((360, 640), 2), ((180, 320), 4))
# An engine has a graph of its own for a shape after a dozen calls.
_WARM = 14
_LEAST_FRAMES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help="as --model takes it; all that there are if none"
    )
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="a run that would take longer gets fewer frames")
    parser.add_argument("--one", nargs=4, metavar=("NETWORK", "SCALE", "CLIP", "SECONDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        network, scale, clip, seconds = given.one
        print(json.dumps(one_run(network, int(scale), Path(clip), given.frames, float(seconds))))
        return
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = {scale: Path(folder) / f"{size[1]}x{size[0]}.mp4" for size, scale in _TASKS}
        for size, scale in _TASKS:
            make_clip(clips[scale], size, given.frames)
        wanted = [(network, scale) for _, scale in _TASKS for network in (_ALONE, *(given.networks or shipped(scale)))]
        for _ in range(given.runs):
            for network, scale in wanted:
                command = [sys.executable, __file__, "--frames", str(given.frames)]
                command += ["--one", network, str(scale), str(clips[scale]), str(given.seconds)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.setdefault((network, scale), []).append(json.loads(done.stdout))
    print(table(runs, given.runs))


def table(runs: dict[tuple[str, int], list[dict[str, float]]], count: int) -> str:
    """The figures as Markdown."""

    def median(network: str, scale: int, figure: str) -> float:
        return statistics.median(run[figure] for run in runs[network, scale])

    machine = f"{cpu_features()['name']}, {cores()} cores, {dt.datetime.now(dt.UTC):%Y-%m-%d}"
    lines = [f"{machine}, medians of {count} interleaved runs"]
    for (rows, cols), scale in _TASKS:
        lines += [
            "",
            f"| {cols}x{rows} x{scale} to H.264 | frames/s | CPU ms a frame | decode, encode | peak MB | frames |",
            "|---|---|---|---|---|---|",
        ]
        alone = median(_ALONE, scale, "cpu")
        for network in [name for name, of in runs if of == scale]:
            rate, cpu, memory, frames = (
                median(network, scale, figure) for figure in ("rate", "cpu", "memory", "frames")
            )
            name = "decoding and encoding alone" if network == _ALONE else f"`{network}`"
            lines.append(
                f"| {name} | {rate:.1f} | {1e3 * cpu:.0f} | {100 * alone / cpu:.0f} % | {memory:.0f} | {frames:.0f} |"
            )
    return "\n".join(lines)


def shipped(scale: int) -> list[str]:
    """The networks of `_NETWORKS` that there are for a scale."""
    names = {model.card.name for model in list_models()}
    return [family for family in _NETWORKS if f"{family}-x{scale}" in names]


def one_run(network: str, scale: int, clip: Path, frames: int, seconds: float) -> dict[str, float]:
    """Convert the clip, and say how long it took for each frame, by the clock and of all cores, and the peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm = min(frames, _WARM)
        started = time.perf_counter()
        converted(network, scale, clip, folder / "warm.mp4", warm)
        pace = warm / (time.perf_counter() - started)
        frames = min(frames, max(_LEAST_FRAMES, int(seconds * pace)))
        started, busy = time.perf_counter(), time.process_time()
        computed = converted(network, scale, clip, folder / "large.mp4", frames)
        took, busy = time.perf_counter() - started, time.process_time() - busy
    if computed != frames:
        sys.exit(f"{computed} frames were enlarged instead of {frames}")
    return {"rate": frames / took, "cpu": busy / frames, "memory": peak_megabytes(), "frames": frames}


def converted(network: str, scale: int, clip: Path, output: Path, frames: int) -> int:
    """How many frames were enlarged."""
    end = Fraction(frames, _RATE)
    if network == _ALONE:
        done = convert(clip, output, repeated(scale), lambda size: (size[0] * scale, size[1] * scale), end=end)
        return done.computed
    report = superfine.upscale_path(clip, output, job=superfine.Job(model=network, scale=scale, end=end))
    (result,) = report.results
    if result.video is None:
        sys.exit(f"superfine failed on {clip}: {result.message}")
    return result.video.computed


def repeated(scale: int) -> Callable[[Array], Array]:
    """The least that an enlargement can be: every pixel scale x scale times."""

    def enlarge(window: Array) -> Array:
        _, rows, cols, channels = window.shape
        large = np.empty((rows, scale, cols, scale, channels), window.dtype)
        for down, right in product(range(scale), repeat=2):
            large[:, down, :, right] = window[0]
        return large.reshape(rows * scale, cols * scale, channels)

    return enlarge


def peak_megabytes() -> float:
    """Of this process. Linux says it exactly; elsewhere what a parent had is counted too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


# ---- the clips


def make_clip(path: Path, size: tuple[int, int], frames: int) -> None:
    """Photographs that pass by with 2.3 px a frame, up and down with it, in a camera's noise; and a tone."""
    import av

    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=_RATE, options={})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48000)
        audio.codec_context.layout = "mono"
        for pixels in moving(size, frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        step = 960
        for start in range(0, 48000 * frames // _RATE, step):
            wave = 0.2 * np.sin(2 * np.pi * 440 * np.arange(start, start + step) / 48000)
            sound = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 48000, start
            container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def moving(size: tuple[int, int], frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    """(rows, cols, 3) cut out of a row of photographs, at places between the pixels."""
    photographs = scenery(size[0] + 40)
    draw = np.random.default_rng(0)
    rows, cols = size
    for number in range(frames):
        across = (2.3 * number) % (photographs.shape[1] - cols - 1)
        down = 19 + 18 * np.sin(number / 20)
        top, left = int(down), int(across)
        part = photographs[top : top + rows + 1, left : left + cols + 1]
        part = part[:-1] + np.float32(down - top) * (part[1:] - part[:-1])
        part = part[:, :-1] + np.float32(across - left) * (part[:, 1:] - part[:, :-1])
        part = part + draw.normal(0, 2, part.shape).astype(np.float32)
        yield np.rint(part.clip(0, 255)).astype(np.uint8)


def scenery(height: int) -> npt.NDArray[np.float32]:
    """scikit-image's photographs side by side, each of this height."""
    from skimage import data, transform

    photographs = [data.coffee(), data.rocket(), data.chelsea(), data.astronaut()]
    shapes = [(height, round(photo.shape[1] * height / photo.shape[0]), 3) for photo in photographs]
    parts = [
        transform.resize(photo, shape, preserve_range=True, anti_aliasing=True)
        for photo, shape in zip(photographs, shapes, strict=True)
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


if __name__ == "__main__":
    main()
