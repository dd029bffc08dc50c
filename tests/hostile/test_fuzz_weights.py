"""Thousands of damaged files, the same each time, for each reader of strangers' weights, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from hostile.fuzz_weights import READERS

# As many as each reads in some seconds.
FILES = {
    "architectures": 12_000,
    "torch": 8_000,
    "lasagne": 5_000,
    "onnx": 100_000,
    "pb": 40_000,
    "safetensors": 200_000,
}
COMMAND = [sys.executable, "-W", "error", str(Path(__file__).with_name("fuzz_weights.py"))]


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_damaged_weights(reader: str) -> None:
    command = [*COMMAND, "--files", str(FILES[reader]), "--reader", reader]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{reader}: ")
