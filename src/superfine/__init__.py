"""superfine: super-resolution that runs unplugged, loses nothing, and says what it did.

import superfine
large = superfine.upscale("photo.jpg", 2)            # an array
superfine.upscale_path("photos", "large")            # files: tree, metadata, alpha, resume
"""

from superfine.engine import Engine, load_model
from superfine.errors import (
    EngineError,
    MissingExtraError,
    ModelError,
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
from superfine.upscale import Progress, Report, Result, upscale, upscale_path

__all__ = [
    "Card",
    "Engine",
    "EngineError",
    "Job",
    "MissingExtraError",
    "Model",
    "ModelError",
    "OutputError",
    "Progress",
    "Report",
    "Result",
    "ShapeError",
    "SourceError",
    "SuperfineError",
    "TooLargeError",
    "TrainingError",
    "UsageError",
    "list_models",
    "load_model",
    "upscale",
    "upscale_path",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("superfine")
    raise AttributeError(f"module 'superfine' has no attribute {name!r}")
