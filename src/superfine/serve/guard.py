"""Who may ask what: Host, Origin, token; and the headers that every answer carries.

A server on this machine is reached by every page that its user visits, so three things are checked before anything
else. The Host names this server: a page of a stranger's whose name was bent to 127.0.0.1 (DNS rebinding) names itself.
What comes from a page comes from this server's own. And where others can reach the server, whoever asks has the token.
"""

import asyncio
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from superfine.serve.limits import RefusedError, told_bytes

__all__ = ["COOKIE", "HEAD_ALONE", "STREAMS", "Door", "Guard", "is_loopback"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: What is made while it is sent.
STREAMS: Final = ("/events", "/results.zip")
#: In a scope: nobody wants the body.
HEAD_ALONE: Final = "superfine.head"
COOKIE: Final = "superfine-token"
_OWN_HEADER: Final = "x-superfine"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
# Of what a page may ask of itself, and a person by typing an address.
_OWN_SITES: Final = ("same-origin", "none")
# Of a request that brings no file, and the time that it may take to come.
_MOST_BYTES: Final = 1_000_000
_MOST_SECONDS: Final = 60.0
# What brings files, counts them itself.
_FILES: Final = ("/api/v1/uploads", "/api/v1/models")


@dataclass(frozen=True, kw_only=True)
class Door:
    """How the server can be reached."""

    host: str = "127.0.0.1"
    """The address that it listens on."""
    names: tuple[str, ...] = ()
    """Names that it goes by besides, as behind a reverse proxy."""
    token: str | None = None

    @property
    def open(self) -> bool:
        """Others than programs of this machine can reach it."""
        return bool(self.names) or not is_loopback(self.host)

    def goes_by(self, host: str) -> bool:
        """Whether a Host header names this server.

        Where it listens to others, any address without a name will do: only names can be bent to it.
        """
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].strip("[]").lower().removesuffix(".")
        if name in (known.lower() for known in self.names) or is_loopback(name):
            return True
        return not is_loopback(self.host) and (name == self.host.lower() or _is_address(name))


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """An ASGI application around another one, which hears only of requests that may be answered.

    HEAD is handed on as GET, whose answer the server sends without its body, but for what has no length beforehand.
    """

    def __init__(self, app: App, door: Door) -> None:
        self.app = app
        self._door = door

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, refuse, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(list(message.get("headers", [])), scope["path"])}
            await send(message)

        headers = _Headers(scope["headers"])
        try:
            self._check_host(headers)
            if scope["path"] == "/" and scope["method"] == "GET" and _shown_tokens(scope):
                await self._let_in(scope, guarded)
                return
            self._check_origin(scope, headers)
            if not _is_public(scope):
                self._check_token(headers)
            if scope["method"] != "POST" or scope["path"] not in _FILES:
                receive = await _whole(receive, headers)
        except RefusedError as error:
            await _refuse(error, guarded)
            return
        if scope["method"] == "HEAD" and not scope["path"].endswith(STREAMS):
            scope = {**scope, "method": "GET", HEAD_ALONE: True}
        await self.app(scope, receive, guarded)

    def _check_host(self, headers: "_Headers") -> None:
        hosts = headers.all("host")
        if len(hosts) != 1 or not self._door.goes_by(hosts[0]):
            raise RefusedError(
                403,
                "wrong-host",
                "this server doesn't go by that name; open it as http://127.0.0.1:PORT, or start it with"
                " --allow-host NAME",
            )

    def _check_origin(self, scope: Message, headers: "_Headers") -> None:
        origin, site = headers.one("origin"), headers.one("sec-fetch-site")
        foreign = origin is not None and not _same_place(origin, headers.one("host") or "")
        # A link on another page may lead here, but no other page may use what is here.
        visit = scope["path"] == "/" and headers.one("sec-fetch-mode") == "navigate"
        foreign = foreign or (site is not None and site not in _OWN_SITES and not visit)
        if foreign:
            raise RefusedError(403, "wrong-origin", "only this server's own page may use it")
        from_a_page = origin is not None or site is not None or headers.one("cookie") is not None
        if scope["method"] not in _SAFE and from_a_page and headers.one(_OWN_HEADER) != "1":
            raise RefusedError(
                403, "no-header", "requests of pages that change something need the header X-Superfine: 1"
            )

    def _check_token(self, headers: "_Headers") -> None:
        if self._door.token is None:
            return
        given = headers.one("authorization") or ""
        kind, _, bearer = given.partition(" ")
        shown = bearer.strip() if kind.lower() == "bearer" else ""
        if not (_same(shown, self._door.token) or _same(_cookie(headers), self._door.token)):
            raise RefusedError(
                401,
                "no-token",
                "this server needs its token: open the address that it printed when it started, or send"
                " Authorization: Bearer TOKEN",
            )

    async def _let_in(self, scope: Message, send: Send) -> None:
        """The address with the token, which the server printed: the browser keeps it as a cookie from now on."""
        given = _shown_tokens(scope)[-1]
        token = self._door.token
        known = token is None or _same(given, token)
        if not known and "text/html" not in (_Headers(scope["headers"]).one("accept") or ""):
            raise RefusedError(401, "wrong-token", "that isn't this server's token; it printed it when it started")
        answer = [(b"location", b"/"), (b"content-length", b"0"), (b"cache-control", b"no-store")]
        if token is not None and known:
            secure = "; Secure" if _came_by_tls(scope) else ""
            cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000{secure}"
            answer.append((b"set-cookie", cookie.encode("ascii")))
        await send({"type": "http.response.start", "status": 303, "headers": answer})
        await send({"type": "http.response.body", "body": b""})


class _Headers:
    """Of a request; names in small letters."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in pairs]

    def all(self, name: str) -> list[str]:
        """Each value that a header has."""
        return [value for known, value in self._pairs if known == name]

    def one(self, name: str) -> str | None:
        """The last value that a header has."""
        found = self.all(name)
        return found[-1] if found else None


async def _whole(receive: Receive, headers: _Headers) -> Receive:
    """The body of a request, taken in as far as it may go. Raises RefusedError where it's too large or too slow."""
    too_large = RefusedError(
        413,
        "too-large",
        f"a request that brings no file has {_MOST_BYTES / 1e6:g} MB at most; send files to {' or '.join(_FILES)}",
    )
    if told_bytes(headers.one("content-length")) > _MOST_BYTES:
        raise too_large
    messages: list[Message] = []
    count = 0
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            while not messages or messages[-1].get("more_body", False):
                messages.append(await receive())
                count += len(messages[-1].get("body", b""))
                if count > _MOST_BYTES:
                    raise too_large
    except TimeoutError as error:
        raise RefusedError(408, "too-slow", "the request took over a minute to come; send it again") from error
    coming = iter(messages)

    async def again() -> Message:
        message = next(coming, None)
        return await receive() if message is None else message

    return again


def _is_public(scope: Message) -> bool:
    """The page itself holds no secret, and asks for the token."""
    return scope["method"] in _SAFE and not scope["path"].startswith("/api/")


def _came_by_tls(scope: Message) -> bool:
    """Whether the browser speaks TLS, with this server or a proxy before it; only one of this machine is believed."""
    client = scope.get("client")  # none where it came through a Unix socket
    told = _Headers(scope["headers"]).one("x-forwarded-proto") if client is None or is_loopback(client[0]) else None
    return "https" in (scope.get("scheme"), (told or "").strip().lower())


def _same(given: str, wanted: str) -> bool:
    """In a time that doesn't tell how much of it was right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode("utf-8"))


def _shown_tokens(scope: Message) -> list[str]:
    """Tokens in the address; there should be one at most."""
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8).get("token", [])
    except ValueError:
        return []


def _cookie(headers: _Headers) -> str:
    for text in headers.all("cookie"):
        try:
            found = SimpleCookie(text).get(COOKIE)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""


def _same_place(origin: str, host: str) -> bool:
    """Whether a page of `origin` is one of this server's; the scheme may differ behind a proxy that ends TLS."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _with_headers(headers: list[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    policy = _POLICY.encode("ascii")
    if path.startswith("/api/"):
        # Opened by itself a stranger's file may do nothing, whatever a browser takes it for.
        policy = b"default-src 'none'; frame-ancestors 'none'; sandbox"
    more = [(b"content-security-policy", policy), *_HEADERS]
    if path.startswith("/api/"):
        more.append((b"cache-control", b"no-store"))
    return [*headers, *((name, value) for name, value in more if name not in there)]


async def _refuse(error: RefusedError, send: Send) -> None:
    body = json.dumps({"error": {"code": error.code, "message": str(error)}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the request isn't read
    ]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
