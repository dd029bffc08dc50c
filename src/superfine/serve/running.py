"""Starting the server: where it listens, who may come in, and what it takes on."""

import os
import resource
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import uvicorn

from superfine.engine import cores
from superfine.errors import OutputError, UsageError
from superfine.serve.app import make_app
from superfine.serve.connections import Config, most_connections
from superfine.serve.guard import Door, is_loopback
from superfine.serve.limits import Limits, machine_limits
from superfine.serve.service import Settings
from superfine.serve.store import Store

__all__ = ["Start", "opens_by_itself", "run"]

# Shorter ones can be guessed.
_SHORTEST_TOKEN: Final = 16
_TOKEN_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")

# For a thousand connections, each with a file that it is sent, and the rest.
_FILES_WANTED: Final = 4096

# Of the machine's, that all processes may have in use before one of them is stopped.
_MOST_MEMORY: Final = 0.8

_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - chosen by the user; here it is only named


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the command line says."""

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    names: tuple[str, ...] = ()
    socket: Path | None = None
    state: Path | None = None
    root: Path | None = None
    allow_models: bool = False
    upload_megabytes: float = 1000
    megapixels: float = 100
    frames: int = 10_000
    queued: int = 100
    disk_gigabytes: float = 20
    hours_kept: float = 24
    workers: int | None = None
    open_page: bool = False
    """In the browser, once it is there."""


def run(start: Start, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; then what is under way stops at its next tile or frame, and is kept.

    Raises UsageError, OutputError.
    """
    door = door_of(start)
    settings = settings_of(start)
    if settings.root is not None and not settings.root.is_dir():
        raise UsageError(f"--root {settings.root}: there is no such folder")
    Store(settings.state).close()  # what is wrong with it is said before anything else is
    listener = _listener(start)
    config = Config(
        make_app(settings, door),
        most_connections=most_connections(_files_allowed()),
        log_level="error",  # of what strangers send wrong nothing is written down: they could fill the disk with it
        access_log=False,  # file names of people are nobody's business
        server_header=False,
        date_header=True,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
        h11_max_incomplete_event_size=65_536,
    )
    # uvicorn hands a signal on once it has ended in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def begun() -> None:
        _announce(start, door, settings, say)
        if start.open_page:
            show_page(_address(start, door))

    with suppress(KeyboardInterrupt):
        _Server(config, begun).run([listener])
    listener.close()
    if start.socket is not None:
        start.socket.unlink(missing_ok=True)


def door_of(start: Start) -> Door:
    """Who may come in; where others than this machine can, they need a token, and one is made where none is given.

    At a Unix socket a proxy asks, for whomever it lets in, and may well call the server localhost.
    """
    names = (*start.names, socket.gethostname()) if start.host in _EVERYWHERE else start.names
    door = Door(host=start.host, names=names, token=start.token)
    if start.token is not None and (len(start.token) < _SHORTEST_TOKEN or not set(start.token) <= _TOKEN_LETTERS):
        raise UsageError(
            f"--token: give at least {_SHORTEST_TOKEN} letters, digits or -_.~, as `openssl rand -hex 32` makes them"
        )
    needed = door.open or start.socket is not None
    return replace(door, token=secrets.token_urlsafe(32)) if needed and start.token is None else door


def settings_of(start: Start) -> Settings:
    """What the server takes on, from the command line and the machine."""
    workers, cores_each, memory_gb = machine_limits(cores(), _memory_bytes())
    if start.workers is not None:
        memory_gb = memory_gb * workers / start.workers
        workers, cores_each = start.workers, max(1, cores() // start.workers)
    limits = Limits(
        upload_bytes=int(start.upload_megabytes * 1e6),
        megapixels=start.megapixels,
        frames=start.frames,
        queued=start.queued,
        disk_bytes=int(start.disk_gigabytes * 1e9),
        hours_kept=start.hours_kept,
        workers=workers,
        cores_each=cores_each,
        memory_gb=memory_gb,
        all_memory_gb=_MOST_MEMORY * _memory_bytes() / 1e9,
    )
    state = _state_folder() if start.state is None else start.state
    return Settings(
        state=Path(os.path.abspath(state)),
        root=start.root,
        allow_models=start.allow_models,
        limits=limits,
    )


class _Server(uvicorn.Server):
    """Says where it is once it listens, and lets go of listeners of events when it is to end."""

    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._begun()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        guard: Any = self.config.app
        service = getattr(guard.app.state, "service", None)
        if service is not None:
            service.crew.begin_closing()
        await super().shutdown(sockets)


def _listener(start: Start) -> socket.socket:
    """Raises OutputError where the address is taken or isn't this machine's."""
    family = socket.AF_UNIX if start.socket is not None else socket.AF_INET6 if ":" in start.host else socket.AF_INET
    found = socket.socket(family)
    try:
        if start.socket is None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((start.host, start.port))
        else:
            if start.socket.is_socket() and not _answers(start.socket):  # of a server that was killed
                start.socket.unlink()
            before = os.umask(0o177)
            try:
                found.bind(str(start.socket))
            finally:
                os.umask(before)
    except OSError as error:
        found.close()
        place = start.socket or f"{start.host}:{start.port}"
        raise OutputError(f"{place}: can't be listened on: {error.strerror or error}; choose another") from error
    return found


def _answers(path: Path) -> bool:
    """Whether somebody listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(path))
        except OSError:
            return False
    return True


def _announce(start: Start, door: Door, settings: Settings, say: Callable[[str], None]) -> None:
    limits = settings.limits
    if start.socket is not None:
        say(f"superfine listens on {start.socket}")
        say(f"whoever asks there needs the token: {door.token}")
        for name in start.names:
            say(f"behind a reverse proxy with TLS it is at https://{name}/?token={door.token}")
    else:
        say(f"superfine is at {_address(start, door)}")
    if door.open and is_loopback(start.host) is False:
        say("Others can reach it, and nothing is encrypted: put a reverse proxy with TLS in front (docs/serve.md)")
    say(f"{limits.workers} at a time, {limits.cores_each} cores each; files in {settings.state}; Ctrl-C ends it")


def _address(start: Start, door: Door) -> str:
    name = f"[{start.host}]" if ":" in start.host else start.host
    if start.host in _EVERYWHERE:
        name = socket.gethostname()
    query = "" if door.token is None else f"?token={door.token}"
    return f"http://{name}:{start.port}/{query}"


def opens_by_itself(start: Start, *, terminal: bool) -> bool:
    """Whether somebody sits before this machine who wants the page. terminal: the output is one.

    Not where there is a token: a browser's command line can be read by everybody on the machine. And not without a
    display, where the browser of a text terminal would take it over.
    """
    display = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return terminal and display and start.socket is None and start.token is None and is_loopback(start.host)


def show_page(address: str) -> None:
    """Open an address in the browser; beside the server, since some browsers return only when they are closed."""
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _files_allowed() -> int:
    """How many files the process may have open, after raising that as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES_WANTED:
        wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
            soft = max(soft, wanted)
    return _FILES_WANTED if soft == resource.RLIM_INFINITY else soft


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "state") / "superfine" / "serve"


def _memory_bytes() -> float:
    total = 8e9
    with suppress(AttributeError, ValueError, OSError):
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # in a container less may be allowed than the machine has
        total = min(total, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total
