"""superfine: super-resolution that runs unplugged, loses nothing, and says what it did.

import superfine
large = superfine.upscale("photo.jpg", 2)            # an array
superfine.upscale_path("photos", "large")            # files: tree, metadata, alpha, resume
superfine.upscale_path("clip.mp4")                   # videos: every frame, every stream
superfine.compare("photo.jpg").save("c.html")        # methods side by side
superfine.evaluate_path("Set5", ["fast", "best"])    # PSNR and SSIM, with their protocol
superfine.inspect("photo.jpg")                       # blur, noise, JPEG, earlier enlargement
superfine.shift_image(pixels, (3.5, 3.5))            # by fractions of a pixel, (rows, cols)
superfine.register(first, second).shift              # and measures such shifts, with their standard error
superfine.convert("w.pth").save("model.onnx")        # weights of other frameworks
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from superfine.engine import Engine, load_model
from superfine.errors import (
    EngineError,
    MissingExtraError,
    ModelError,
    NoMatchError,
    OutputError,
    ShapeError,
    SourceError,
    SuperfineError,
    TooLargeError,
    TrainingError,
    UsageError,
)
from superfine.models import Card, Model, list_models
from superfine.route import Job
from superfine.upscale import Pace, Progress, Report, Result, VideoResult, upscale, upscale_path

__all__ = [
    "Card",
    "ClipInspection",
    "Comparison",
    "Conversion",
    "Engine",
    "EngineError",
    "Evaluation",
    "Inspection",
    "Job",
    "MissingExtraError",
    "Model",
    "ModelError",
    "NoMatchError",
    "OutputError",
    "Pace",
    "Progress",
    "Registration",
    "Report",
    "Result",
    "ShapeError",
    "SourceError",
    "SuperfineError",
    "TooLargeError",
    "TrainingError",
    "UsageError",
    "Verification",
    "VideoResult",
    "compare",
    "convert",
    "evaluate_path",
    "fuse_frames",
    "inspect",
    "inspect_clip",
    "list_models",
    "load_model",
    "register",
    "shift_image",
    "upscale",
    "upscale_path",
    "verify",
]


# Judging takes a tenth of a second to import: it waits until somebody asks for it.
_LATER = {
    "Comparison": "superfine.evaluate.compare",
    "Conversion": "superfine.conversion",
    "Evaluation": "superfine.evaluate.evaluation",
    "ClipInspection": "superfine.clip_inspection",
    "Inspection": "superfine.inspection",
    "compare": "superfine.evaluate.compare",
    "convert": "superfine.conversion",
    "evaluate_path": "superfine.evaluate.benchmark",
    "Registration": "superfine.classical.register",
    "Verification": "superfine.verification",
    "fuse_frames": "superfine.burst",
    "inspect": "superfine.inspection",
    "inspect_clip": "superfine.clip_inspection",
    "register": "superfine.classical.register",
    "shift_image": "superfine.classical.shift",
    "verify": "superfine.verification",
}
if TYPE_CHECKING:
    from superfine.burst import fuse_frames
    from superfine.classical.register import Registration, register
    from superfine.classical.shift import shift_image
    from superfine.clip_inspection import ClipInspection, inspect_clip
    from superfine.conversion import Conversion, convert
    from superfine.evaluate.benchmark import evaluate_path
    from superfine.evaluate.compare import Comparison, compare
    from superfine.evaluate.evaluation import Evaluation
    from superfine.inspection import Inspection, inspect
    from superfine.verification import Verification, verify


def __dir__() -> list[str]:
    return [name for name in {*globals(), *_LATER} if name not in ("Any", "TYPE_CHECKING", "import_module")]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("superfine")
    raise AttributeError(f"module 'superfine' has no attribute {name!r}")
