"""What a run tells while it goes; no torch here, so that a door can listen before it is imported."""

from typing import NamedTuple

__all__ = ["Listener", "Moment", "Score"]


class Score(NamedTuple):
    """Means over pictures, in dB where not said; border of `scale` px cropped; Y is BT.601 limited range."""

    psnr: float
    ssim: float
    """Of Y, 0..1."""
    psnr_rgb: float
    pictures: int


class Moment(NamedTuple):
    """Where a run is."""

    step: int
    steps: int
    loss: float
    """Mean since the last such moment."""
    rate: float
    seconds_left: float
    score: Score | None
    """Of the validation pictures, where this step measured it."""


class Listener:
    """What a run tells; override what you need."""

    def say(self, text: str) -> None:
        """One sentence: what was found, what was skipped and why."""

    def step(self, moment: Moment) -> None:
        """Some steps went by."""

    def stops(self) -> bool:
        """Asked after each step, in each process: whether to save the state and end; one yes is enough for all."""
        return False
