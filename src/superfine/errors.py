"""Every error that superfine raises on purpose.

    SuperfineError
    ├── UsageError        the call or the command line asks for something impossible
    │   └── ShapeError    an array has the wrong shape or dtype
    ├── SourceError       a file that should be read can't be, or isn't what it says
    │   └── TooLargeError it can be read, but is over a limit that a flag raises
    ├── OutputError       a file can't be written; nothing was replaced
    ├── ModelError        a network is unknown, has no card, or its card is wrong
    ├── EngineError       the engine asked for isn't there, or gave NaN or infinity
    ├── MissingExtraError an optional part is not installed; the message names the cure
    ├── NoMatchError      two pictures show nothing in common that says how they lie to each other
    └── TrainingError     a training run can't begin or can't go on

A message is one sentence with the file, the value and the way out.
"""

__all__ = [
    "EngineError",
    "MissingExtraError",
    "ModelError",
    "NoMatchError",
    "OutputError",
    "ShapeError",
    "SourceError",
    "SuperfineError",
    "TooLargeError",
    "TrainingError",
    "UsageError",
]


class SuperfineError(Exception):
    """The root of all errors of this package."""


class UsageError(SuperfineError):
    """The call or the command line asks for something impossible."""


class ShapeError(UsageError):
    """An array has the wrong shape or dtype."""


class SourceError(SuperfineError):
    """A file that should be read can't be, or isn't what it says."""


class TooLargeError(SourceError):
    """A picture is over a limit that a flag raises."""


class OutputError(SuperfineError):
    """A file can't be written; nothing was replaced."""


class ModelError(SuperfineError):
    """A network is unknown, has no card, or its card is wrong."""


class EngineError(SuperfineError):
    """The engine asked for isn't there, or gave NaN or infinity."""


class MissingExtraError(SuperfineError):
    """An optional part is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the extra {extra!r}: pip install '.[{extra}]'")


class NoMatchError(SuperfineError):
    """Two pictures show nothing in common that would say how they lie to each other."""


class TrainingError(SuperfineError):
    """A training run can't begin or can't go on."""
