"""The machine that figures were measured on, and the memory that something takes."""

import ctypes
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from superfine.engine import cores, cpu_features

__all__ = ["Peak", "machine", "peak_memory"]

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def machine() -> dict[str, str]:
    """What a figure of speed depends on: CPU, cores, system, versions."""
    return {
        "cpu": cpu_features()["name"],
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "openvino": version("openvino"),
    }


@dataclass
class Peak:
    """Megabytes (of 1e6 bytes) that the process held beyond what it held before; NaN where the system doesn't say."""

    megabytes: float = float("nan")
    kept: float = float("nan")
    """What of it was still held at the end."""


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the process's peak of resident memory within the block. Linux only; elsewhere NaN. Source: proc(5)."""
    found = Peak()
    with suppress(AttributeError, OSError):  # what was freed before mustn't serve this block unseen; glibc only
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        _CLEAR.write_bytes(b"5")  # the high-water mark begins anew
    before = _resident("VmRSS")
    yield found
    found.megabytes = max(0.0, _resident("VmHWM") - before)
    found.kept = max(0.0, _resident("VmRSS") - before)


def _resident(name: str) -> float:
    with suppress(OSError):
        if found := re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE):
            return int(found[1]) * 1024 / 1e6
    return float("nan")
