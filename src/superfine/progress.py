"""How a run shows itself: a bar with time left for people, lines of JSON for machines."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Self

from superfine.upscale import Progress, Report, Result

__all__ = ["JsonLines", "Terminal"]


class Terminal(Progress):
    """A bar on a terminal; without one, only a line for what needs a person's eye."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._results: list[Result] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, weight: int) -> None:
        if not sys.stderr.isatty():
            return
        # Rich costs a tenth of a second to import: only where there is someone to look.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("enlarging", total=weight)
        self._bar.start()

    def advance(self, weight: float) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, weight)

    def finish(self, result: Result) -> None:
        self._results.append(result)
        if self._bar is not None:
            self._bar.update(self._task, description=result.source.name)
        if result.status == "failed":
            self._say(f"failed: {result.message}")
        else:
            for note in result.notes:
                self._say(f"{result.source}: {note}")

    def summary(self, report: Report) -> None:
        """The last lines: what was made, and what failed, by name."""
        self.__exit__()
        for result in report.results:
            if result.status == "planned" or (result.status == "done" and len(report.results) == 1):
                print(_line(result))  # noqa: T201 - this is what the command says
        parts = [
            f"{report.count(status)} {status}"
            for status in ("done", "planned", "skipped", "failed")
            if report.count(status)
        ]
        if len(report.results) > 1:
            other = f"; {report.ignored} other files left alone" if report.ignored else ""
            print(f"{', '.join(parts)} in {time.monotonic() - self._started:.1f} s{other}")  # noqa: T201
        for result in report.failed if len(report.results) > 1 else []:
            print(f"  failed: {result.message}", file=sys.stderr)  # noqa: T201

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr)  # noqa: T201


class JsonLines(Progress):
    """One line of JSON on standard output for each picture."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def finish(self, result: Result) -> None:
        def plain(value: object) -> object:
            return str(value) if isinstance(value, Path) else value

        print(json.dumps({key: plain(value) for key, value in vars(result).items()}), flush=True)  # noqa: T201

    def summary(self, report: Report) -> None:
        """Nothing more: every line was one picture."""


def _line(result: Result) -> str:
    sizes = [f"{size[1]}x{size[0]}" for size in (result.size, result.output_size) if size is not None]
    how = f"{result.model}, {result.engine}, {result.precision}"
    plan = f", about {result.memory_gb:g} GB" if result.status == "planned" else ""
    about = "about " if result.status == "planned" else ""
    return f"{result.source} -> {result.output}  {' -> '.join(sizes)}  {how}  {about}{result.seconds:.2f} s{plan}"
