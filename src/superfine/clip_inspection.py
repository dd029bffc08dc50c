"""What a video is, and what to enlarge it with: facts of the file, of which no frame is judged."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from superfine.clip import Clip, shown_time
from superfine.footage import open_footage
from superfine.image import MAX_MEGAPIXELS
from superfine.models import shipped_cards
from superfine.route import Size, choose_video_model
from superfine.terminal import one_line

__all__ = ["ClipInspection", "inspect_clip"]

# As for pictures: what is smaller is enlarged four times.
_SMALL_SIDE: Final = 512
_MATRICES: Final = {0: "RGB", 1: "BT.709", 5: "BT.601", 6: "BT.601", 9: "BT.2020"}


@dataclass(frozen=True)
class ClipInspection:
    """A video, an animation or a folder of frames: its facts, and how to enlarge it."""

    path: Path
    container: str
    """FFmpeg's names of it."""
    codec: str
    size: Size
    """(rows, cols) as stored."""
    rotation: int
    """Degrees counter-clockwise by which it is turned to be seen."""
    frames: int
    duration: float
    """Seconds."""
    fps: float
    """Frames a second, on average."""
    steady: bool
    """Each frame is shown as long as the others, to a millisecond."""
    bits: int
    alpha: bool
    colour: str
    """`grey`, `RGB`, `BT.601`, ...: what its levels mean."""
    pixel_format: str
    lossless: bool
    """The codec can't lose anything; others may have been told not to."""
    interlaced: bool
    tracks: tuple[str, ...]
    """Its other streams."""
    chapters: int
    broken: str
    """Where and how the file breaks off; empty when it's whole."""
    notes: tuple[str, ...]
    model: str
    """What `auto` takes."""
    scale: int
    why: str

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists, strings and numbers."""
        return {**asdict(self), "path": str(self.path), "size": list(self.size)}

    def __str__(self) -> str:
        """The same for a person: a line for the pictures, one for the rest, and the recommendation."""
        facts = [
            self.codec,
            f"{self.size[1]} x {self.size[0]}",
            *([f"turned by {self.rotation}"] * bool(self.rotation)),
        ]
        facts += [f"{self.frames} frame{'s' * (self.frames != 1)} in {self.shown}"]
        facts += [f"{self.fps:.4g} a second{'' if self.steady else ' on average, at varying times'}"]
        facts += [f"{self.bits} bits", self.colour, *(["alpha"] * self.alpha), *(["interlaced"] * self.interlaced)]
        facts += ["lossless" if self.lossless else "lossy"]
        others = [*self.tracks, *([f"{self.chapters} chapters"] * bool(self.chapters))]
        lines = {
            "besides": ", ".join(others),
            "damage": self.broken,
            "notes": "; ".join(self.notes),
            "advice": f"--model {self.model} --scale {self.scale}: {self.why}",
        }
        head = one_line(f"{self.path}: {', '.join(facts)}")
        return "\n".join([head, *(f"  {name:9}{one_line(text)}" for name, text in lines.items() if text)])

    @property
    def shown(self) -> str:
        """How long it is, as people read it."""
        return shown_time(Fraction(self.duration))


def inspect_clip(path: Path | str, *, max_megapixels: float = MAX_MEGAPIXELS) -> ClipInspection:
    """Facts of a video file, an animation, or a folder of frames. Raises SourceError, TooLargeError."""
    clip = open_footage(Path(path), max_megapixels=max_megapixels)
    scale = 4 if max(clip.size) <= _SMALL_SIDE else 2
    choice = choose_video_model(clip.codec, clip.lossless, scale, shipped_cards())
    return ClipInspection(
        path=clip.path,
        container=clip.container,
        codec=clip.codec,
        size=clip.size,
        rotation=clip.rotation,
        frames=len(clip.timeline),
        duration=float(clip.timeline.duration),
        fps=float(clip.timeline.rate),
        steady=_steady(clip),
        bits=clip.bits,
        alpha=clip.alpha,
        colour="grey" if clip.grey else _MATRICES.get(clip.colour.matrix, f"matrix {clip.colour.matrix} of H.273"),
        pixel_format=clip.pixel_format,
        lossless=clip.lossless,
        interlaced=clip.interlaced,
        tracks=tuple(map(str, clip.tracks)),
        chapters=len(clip.chapters),
        broken=clip.broken,
        notes=clip.notes,
        model=choice.name,
        scale=scale,
        why=choice.reason.removeprefix("auto chose "),
    )


def _steady(clip: Clip) -> bool:
    """Whether frames are shown equally long; containers that count milliseconds round each time."""
    times = clip.timeline.times
    steps = [later - time for time, later in pairwise(times)]
    return not steps or (max(steps) - min(steps)) * clip.timeline.unit * 1000 <= 1
