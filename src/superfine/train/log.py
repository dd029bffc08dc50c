"""What a run leaves to look at: lines of JSON, TensorBoard's events, and two plots."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superfine.atomic import written_whole
from superfine.train.listener import Score

__all__ = ["Log", "read_log"]

_REDRAW_SECONDS = 20


class Log:
    """The log of the run in `run`; what an earlier try wrote after step `after` is dropped, since it comes again."""

    def __init__(self, run: Path, *, after: int) -> None:
        from tensorboardX import SummaryWriter

        self._run = run
        self._rows = [row for row in read_log(run) if after > 0 and row["step"] <= after]
        with written_whole(run / "log.jsonl") as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in self._rows), encoding="utf-8")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)
        self._drawn = 0.0

    def write(
        self,
        step: int,
        *,
        loss: float | None = None,
        rate: float | None = None,
        milliseconds: float | None = None,
        score: Score | None = None,
        critic: float | None = None,
    ) -> None:
        """Note what is known of `step`; after a score the plots are drawn anew, unless they just were."""
        known = {
            "step": step,
            "loss": loss,
            "rate": rate,
            "ms": milliseconds and round(milliseconds, 2),
            "critic": critic,
        }
        if score is not None:
            known |= {"psnr": score.psnr, "ssim": score.ssim, "psnr_rgb": score.psnr_rgb}
        row = {name: value for name, value in known.items() if value is not None}
        self._rows.append(row)
        with (self._run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(name, value, step)
        if score is not None and time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Bring the plots and TensorBoard's file up to date."""
        self._events.flush()
        for name, unit in (("loss", "loss"), ("psnr", "PSNR of Y in dB, validation")):
            _plot(self._run / f"{name}.png", [row for row in self._rows if name in row], name, unit)
        self._drawn = time.monotonic()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's `log.jsonl`; a last line that a kill cut off is left out."""
    path = run / "log.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _plot(path: Path, rows: Sequence[dict[str, Any]], name: str, unit: str) -> None:
    if not rows:
        return
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    figure.subplots_adjust(left=0.13, right=0.97)
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker="." if len(rows) < 50 else "")
    if name == "loss":
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=unit, title=path.parent.name)
    axes.grid(alpha=0.3)
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=100)
