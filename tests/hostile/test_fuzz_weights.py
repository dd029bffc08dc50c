"""Thirty seconds of damaged files for each reader of strangers' weights, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from hostile.fuzz_weights import READERS

COMMAND = [sys.executable, "-W", "error", str(Path(__file__).with_name("fuzz_weights.py"))]


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_damaged_weights(reader: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--seconds", "30", "--reader", reader], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{reader}: ")
