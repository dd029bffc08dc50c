"""How much memory a run takes, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import sys
from pathlib import Path
import superfine
job = superfine.Job(model="nearest", scale=float(sys.argv[3]))
(result,) = superfine.upscale_path(Path(sys.argv[1]), Path(sys.argv[2]), job=job).results
print(result.status, result.message, file=sys.stderr)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])  # ru_maxrss outlives exec
"""

measured = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")


def peak_megabytes(source: Path, output: Path, *, scale: float = 1.5, status: str = "done") -> float:
    command = [sys.executable, "-c", _RUN, str(source), str(output), str(scale)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr.startswith(status), run.stderr
    return int(run.stdout) / 1e3
