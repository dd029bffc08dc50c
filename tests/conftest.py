"""What every test gets without asking."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

# Processes side by side share the cores: with threads of BLAS and torch in each of them, all wait for one another.
# They are read where NumPy is first imported, so before any test is.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forbid the network; a test that tries fails, even where a library swallows the error."""
    tried: list[str] = []

    def forbid(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            if given and getattr(given[0], "family", None) == getattr(socket, "AF_UNIX", ""):
                return original(*given, **named)  # stays on this machine
            tried.append(f"{name}{given}")
            raise OSError(f"tests run unplugged, and this one called {name}")

        monkeypatch.setattr(owner, name, call)

    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        if hasattr(socket.socket, name):
            forbid(socket.socket, name)
    forbid(socket, "getaddrinfo")
    yield
    assert not tried, f"the network was tried: {tried}"
