"""Ports for servers that tests start."""

import socket
from typing import Final

_HELD: Final[list[socket.socket]] = []


def held_port() -> int:
    """A port of this machine that is given to nobody else while the tests run.

    Who sets SO_REUSEADDR may listen there, as superfine's server and torchrun do.
    """
    holding = socket.socket()
    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holding.bind(("127.0.0.1", 0))
    _HELD.append(holding)
    port: int = holding.getsockname()[1]
    return port
