"""Connections that bring nothing are let go, so that nobody can keep all others out by opening many."""

import asyncio
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["Config", "Connection", "most_connections"]

#: Seconds in which a request's head has to come, from when it may begin.
HEAD_SECONDS: Final = 10.0
#: Seconds in which what was left to send has to be taken, once a connection is to be closed.
LAST_SECONDS: Final = 60.0
#: That the system accepts at once, before any of them is looked at.
BACKLOG: Final = 100
_MOST: Final = 1000
_LEAST: Final = 16
# Workers, database, what is being uploaded, and the backlog.
_RESERVED_FILES: Final = 256


def most_connections(files: int) -> int:
    """How many connections may be open at once, of a process that may have so many files open; each may be sent one."""
    return max(_LEAST, min(_MOST, (files - _RESERVED_FILES) // 2))


class Config(uvicorn.Config):
    """Of a server that has no more than `most_connections`."""

    def __init__(self, app: Any, *, most_connections: int, **given: Any) -> None:
        super().__init__(app, http=Connection, backlog=BACKLOG, **given)
        self.most_connections = most_connections


class Connection(H11Protocol):
    """One that has so many seconds for a request's head; where there are too many, the longest waiting one goes.

    What a request's body may take is the application's to say, and a stalled reader may be a video that is paused.
    """

    _deadline: asyncio.TimerHandle | None = None
    _since = 0.0

    @property
    def waits(self) -> bool:
        """No request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # there is none before the first request
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more: where there are too many, room is made by those that ask for nothing."""
        most = self.config.most_connections  # type: ignore[attr-defined]
        full = len(self.connections) >= most
        super().connection_made(transport)
        if full:
            waiting = [
                other
                for other in self.connections
                if isinstance(other, Connection) and other.waits and other is not self
            ]
            out = min(waiting, key=lambda other: other._since, default=self)
            out.transport.abort()
            self.connections.discard(out)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """The deadline ends with the head, and begins again with the next one's first bytes."""
        super().data_received(data)
        if not self.waits:
            self._unset()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._unset()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Called when no further request came."""
        super().timeout_keep_alive_handler()
        self._let_go()

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._let_go)

    def _let_go(self) -> None:
        """Close, also where what was sent isn't taken."""
        self._unset()
        self.transport.close()
        self._deadline = self.loop.call_later(LAST_SECONDS, self.transport.abort)

    def _unset(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
