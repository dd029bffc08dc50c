"""What travels to a worker: the names of one picture or video, and none of its bytes."""

from dataclasses import dataclass
from typing import Final

__all__ = ["PATIENCE_MINUTES", "Ignored", "Task"]

#: How long nothing may move on in a task before its worker ends itself; long, since fetching the largest films from a
#: store, and joining them, shows no sign of life.
PATIENCE_MINUTES: Final = 360.0


@dataclass(frozen=True, slots=True)
class Task:
    """One picture or video of a run. Names are paths that all nodes see, or URLs of object stores."""

    source: str
    output: str
    weight: int
    """Bytes of the source, at least 1."""
    moves: bool
    """It's a video, an animation, or the frames of one; in stores, where nothing is opened to list it, by its name."""
    problem: str = ""
    """Why it can't even be begun."""
    journal: str = ""
    """The folder, or the URL of it, whose journal knows it; none where it is empty."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file in a folder of the run that is neither a picture nor a video, or is in the run by another name."""

    name: str
    twin: bool = False
    """It's in the run by another name."""
