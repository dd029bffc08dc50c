"""How a run shows itself: a bar with time left for people, lines of JSON for machines."""

import json
import sys
import time
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

from superfine.clip import shown_time
from superfine.cluster import ClusterProgress, ClusterReport, Task
from superfine.provenance import Consistency
from superfine.terminal import one_line
from superfine.upscale import Pace, Progress, Report, Result, VideoResult

__all__ = ["ClusterLines", "ClusterTerminal", "JsonLines", "Terminal"]

# How often a machine hears of a video.
_LINE_SECONDS: Final = 1.0
# Files of a note that are named.
_NAMED: Final = 3


class Terminal(Progress):
    """A bar on a terminal; everywhere, at the end, what was made and what a person should know."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._pictures = 0
        self._finished = 0
        self._resumed: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, pictures: int, weight: int) -> None:
        self._pictures = pictures
        if not sys.stderr.isatty():
            return
        # Rich costs a tenth of a second to import: only where there is someone to look.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(f"0 of {pictures}", total=weight)
        self._bar.start()

    def expect(self, pictures: int, weight: int) -> None:
        self._pictures += pictures
        if self._bar is not None:
            self._bar.update(self._task, total=self._bar.tasks[self._task].total + weight)
            self._show_count()

    def advance(self, weight: float) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, weight)

    def watch(self, pace: Pace) -> None:
        if self._bar is None:
            return
        if pace.resumed and self._resumed != pace.source:
            # What an earlier run did took this one no time.
            self._resumed = pace.source
            self._bar.reset(self._task, completed=self._bar.tasks[self._task].completed)
        speed = f", {pace.fps:.1f} fps" if pace.fps else ""
        name = one_line(pace.source.name)
        which = f"{self._finished + 1} of {self._pictures}: " if self._pictures > 1 else ""
        self._bar.update(self._task, description=f"{which}{name}: frame {pace.done} of {pace.frames}{speed}")

    def warn(self, message: str) -> None:
        if self._bar is not None:
            self._bar.console.print(one_line(message), markup=False, highlight=False)
        else:
            print(one_line(message), file=sys.stderr)  # noqa: T201

    def finish(self, result: Result) -> None:
        self._finished += 1
        if self._bar is not None:
            self._show_count()
            if result.status == "failed":
                self.warn(f"failed: {result.message}")

    def _show_count(self) -> None:
        self._bar.update(self._task, description=f"{self._finished} of {self._pictures}")

    def summary(self, report: Report) -> None:
        """What was made or planned, what happened to it on the way, and what failed, by name."""
        lone = len(report.results) == 1
        for result in report.results:
            if result.status == "planned" or (lone and result.status == "done"):
                _say(_line(result))
            if lone and result.status == "skipped":
                _say(f"{one_line(str(result.output))}: an earlier run made it; --no-resume makes it again")
        things = _things(report)
        sources: dict[str, list[str]] = {}
        for result in report.results:
            for note in result.notes:
                sources.setdefault(note, []).append(result.source.name)
        for note, names in sources.items():
            _say(f"note: {'' if lone else _which(names, len(report.results), things)}{one_line(note)}")
        if not lone:
            statuses = ("done", "planned", "skipped", "failed")
            parts = [f"{report.count(status)} {status}" for status in statuses if report.count(status)]
            other = f"; {report.ignored} other files left alone" if report.ignored else ""
            _say(f"{', '.join(parts)} in {time.monotonic() - self._started:.1f} s{other}")
            if report.count("planned"):
                seconds = sum(result.seconds for result in report.results)
                memory = max(result.memory_gb for result in report.results)
                _say(f"together about {seconds:.0f} s of enlarging, at most about {memory:g} GB")
        for result in report.failed:
            print(f"failed: {one_line(result.message)}", file=sys.stderr)  # noqa: T201


class JsonLines(Progress):
    """One line of JSON on standard output for each picture and video, and for a video one a second while it's made."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def warn(self, message: str) -> None:
        print(one_line(message), file=sys.stderr)  # noqa: T201

    def watch(self, pace: Pace) -> None:
        if time.monotonic() - self._said < _LINE_SECONDS:
            return
        self._said = time.monotonic()
        left = pace.seconds_left
        facts = asdict(pace) | {"status": "working", "seconds_left": None if left is None else round(left, 1)}
        _line_of(facts | {"fps": round(pace.fps, 2)})

    def finish(self, result: Result) -> None:
        _line_of(_facts(result))

    def summary(self, report: Report) -> None:
        """Nothing more: every line was one of its results."""


class ClusterTerminal(Terminal, ClusterProgress):
    """As `Terminal`; of a million pictures each that failed is named when it fails."""

    def settled(self, task: Task, result: Result) -> None:  # noqa: ARG002 - its message names it
        self.finish(result)
        if result.status == "failed" and self._bar is None:
            self.warn(f"failed: {result.message}")

    def total(self, report: ClusterReport) -> None:
        """What became of all of them."""
        for note, (number, names) in report.notes.items():
            which = "" if report.listed == 1 else _which_of(number, names, report.listed, "files")
            _say(f"note: {which}{one_line(note)}")
        counts = {"done": report.done, "skipped": report.skipped, "failed": report.failed}
        parts = [f"{number:,} {status}" for status, number in counts.items() if number] or ["nothing done"]
        other = f"; {report.ignored:,} other files left alone" if report.ignored else ""
        seconds = time.monotonic() - self._started
        _say(f"{', '.join(parts)} of {report.listed:,} listed in {seconds:.1f} s{other}")


class ClusterLines(JsonLines, ClusterProgress):
    """As `JsonLines`, with URLs where sources and results lie in object stores; the last line is the whole run's."""

    def settled(self, task: Task, result: Result) -> None:
        _line_of(_facts(result) | {"source": task.source, "output": task.output})

    def total(self, report: ClusterReport) -> None:
        """What became of all of them."""
        names = ("listed", "done", "failed", "skipped", "ignored")
        _line_of({"status": "finished"} | {name: getattr(report, name) for name in names})


def _facts(result: Result) -> dict[str, Any]:
    parts = {"video": result.video, "consistency": result.consistency}
    return vars(result) | {name: None if part is None else asdict(part) for name, part in parts.items()}


def _line_of(facts: dict[str, Any]) -> None:
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in facts.items()}
    print(json.dumps(plain), flush=True)  # noqa: T201


def _which(names: list[str], total: int, things: str) -> str:
    """How many, and where that isn't all of them, which: the first few."""
    return _which_of(len(names), names[:_NAMED], total, things)


def _which_of(number: int, names: list[str], total: int, things: str) -> str:
    shown = ", ".join([*map(one_line, names), *["…"] * (number > len(names))])
    return f"{number:,} of {total:,} {things}{'' if number == total else f' ({shown})'}: "


def _things(report: Report) -> str:
    videos = sum(result.video is not None for result in report.results)
    return {0: "pictures", len(report.results): "videos"}.get(videos, "files")


def _line(result: Result) -> str:
    sizes = [f"{size[1]}x{size[0]}" for size in (result.size, result.output_size) if size is not None]
    how = f"{result.model}, {result.engine}, {result.precision}"
    planned = result.status == "planned"
    cost = f"about {result.seconds:.1f} s, {result.memory_gb:g} GB" if planned else f"{result.seconds:.2f} s"
    frames = "" if result.video is None else f"\n  {_frames(result.video, planned=planned)}"
    line = f"{one_line(str(result.source))} -> {one_line(str(result.output))}\n  {' -> '.join(sizes)}, {how}, {cost}"
    fidelity = "" if result.consistency is None else f"\n  {_fidelity(result.consistency)}"
    return line + frames + fidelity


def _fidelity(found: Consistency) -> str:
    if found.psnr is None:
        # Of hidden colours the figure says nothing, and `worst` does.
        seen = "" if found.worst == 0 else ", as far as alpha shows it"
        return f"made small again by {found.operator}, it is the source exactly{seen}"
    near = "" if found.misses else ", no sample off by more than half a level"
    return f"made small again by {found.operator}, it is {found.psnr:.2f} dB from the source{near}"


def _frames(video: VideoResult, *, planned: bool) -> str:
    parts = [f"{video.frames} frame{'s' * (video.frames != 1)} in {shown_time(Fraction(video.duration))}"]
    parts += [f"{video.fps:.4g} a second", f"{video.codec} {video.pixel_format}".strip()]
    if planned:
        return ", ".join(parts)
    parts += [f"{video.speed:.1f} frames made a second"]
    parts += [f"{video.resumed} were done before"] * (video.resumed > 0)
    alike = video.frames - video.resumed - video.computed
    parts += [f"{alike} the same as the one before"] * (alike > 0)
    return ", ".join(parts)


def _say(text: str) -> None:
    print(text)  # noqa: T201 - this is what the command says
