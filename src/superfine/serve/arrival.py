"""The body of a request on its way to the disk, counted while it comes and never held whole."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote

from superfine.serve.limits import RefusedError, told_bytes

__all__ = ["received"]

# A sender who takes longer for so many bytes is given up: there are only so many places.
_PIECE_BYTES: Final = 600_000
_PIECE_SECONDS: Final = 60.0
# What a form may hold besides its file.
_FORM_BYTES: Final = 64_000
# The disk is asked for room in steps of so many bytes, before they are written.
_STEP_BYTES: Final = 4_000_000
_TOLD: Final = re.compile(r"filename\*=(?:UTF-8|utf-8)''([^;]+)")


async def received(
    body: AsyncIterator[bytes], headers: Any, path: Path, most: int, claim: Callable[[int], None] = lambda count: None
) -> str:
    """Write the file of a request to `path`; returns the name that it was sent with.

    A form's field `file`, or a bare body with its name, percent-encoded, in X-File-Name. most: bytes; claim: hears how
    many bytes the file may come to, before they are written, and raises where there is no room. Raises RefusedError.
    """
    kind = headers.get("content-type", "")
    told = told_bytes(headers.get("content-length"))
    if told > most + _FORM_BYTES:
        raise _too_large(most)
    claim(told)
    with path.open("xb") as file:
        target = _Target(file, most, told, claim)
        if kind.lower().startswith("multipart/"):
            return await _form(body, kind, target)
        async for chunk in _lively(body):
            target.add(chunk)
        if not target.count:
            raise RefusedError(
                400, "no-file", "there is no file in the request; send one as its body, or as a form's field `file`"
            )
        return unquote(headers.get("x-file-name", ""), errors="replace")


class _Target:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: BinaryIO, most: int, claimed: int, claim: Callable[[int], None]) -> None:
        self._file = file
        self._most = most
        self._claimed = claimed
        self._claim = claim
        self.count = 0

    def add(self, chunk: bytes) -> None:
        self.count += len(chunk)
        if self.count > self._most:
            raise _too_large(self._most)
        if self.count > self._claimed:
            self._claimed = min(self.count + _STEP_BYTES, self._most)
            self._claim(self._claimed)
        self._file.write(chunk)


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        413,
        "too-large",
        f"the file is over {most / 1e6:,.4g} MB, the most that this server takes; make it smaller, or use the command"
        " line",
    )


async def _lively(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Raises RefusedError where the next piece isn't there in time."""
    clock = asyncio.get_running_loop().time
    end, missing = clock() + _PIECE_SECONDS, _PIECE_BYTES
    while True:
        try:
            async with asyncio.timeout_at(end):
                chunk = await anext(body, None)
        except TimeoutError as error:
            raise RefusedError(
                408,
                "too-slow",
                f"less than {_PIECE_BYTES / 1000:g} kB came in {_PIECE_SECONDS:g} seconds; send the file again over a"
                " faster line",
            ) from error
        if chunk is None:
            return
        missing -= len(chunk)
        if missing <= 0:
            end, missing = clock() + _PIECE_SECONDS, _PIECE_BYTES
        yield chunk


async def _form(body: AsyncIterator[bytes], kind: str, target: _Target) -> str:
    """The file of a multipart form. Source: RFC 7578; its parser is python-multipart's, fed piece by piece."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(kind)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise RefusedError(400, "bad-form", "the form has no boundary; send one as a browser or curl -F does")
    part = _Part(target)
    callbacks: Any = {
        "on_part_begin": part.begin,
        "on_header_begin": part.begin_header,
        "on_header_field": part.hear_field,
        "on_header_value": part.hear_value,
        "on_header_end": part.end_header,
        "on_headers_finished": part.open,
        "on_part_data": part.add,
        "on_part_end": part.end,
        "on_end": part.finish,
    }
    parser = MultipartParser(boundary, callbacks)
    count = 0
    try:
        async for chunk in _lively(body):
            parser.write(chunk)
            count += len(chunk)
            # Other fields, headers, and what follows the end of the form, of which the parser says nothing.
            if count - target.count > _FORM_BYTES:
                raise RefusedError(
                    400, "bad-form", "the form holds more than a file; send it alone, in the field `file`"
                )
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, "bad-form", "the form can't be read; send one as a browser or curl -F does") from error
    if part.name is not None and part.whole and not target.count:
        raise RefusedError(400, "no-file", "the file is empty, or a folder; send one that holds something")
    if part.name is None or not part.whole:
        raise RefusedError(
            400, "no-file", "the form holds no whole file in a field `file`; send one as curl -F file=@NAME does"
        )
    return part.name


class _Part:
    """What the parser of a form tells, piece by piece."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._is_file = False
        self.name: str | None = None
        self.whole = False
        """The form has its end."""

    def begin(self) -> None:
        self._disposition, self._is_file = b"", False

    def begin_header(self) -> None:
        self._field, self._value = b"", b""

    def hear_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def hear_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value

    def open(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        self._is_file = options.get(b"name") == b"file"
        if not self._is_file:
            return
        if self.name is not None:
            raise RefusedError(400, "bad-form", "one file at a time; send each by a request of its own")
        coded = _TOLD.search(self._disposition.decode("latin-1"))
        plain = options.get(b"filename", b"").decode("utf-8", "replace")
        # As browsers send what would end the name early. Source: WHATWG HTML, multipart/form-data encoding algorithm.
        for coded_letter, letter in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
            plain = plain.replace(coded_letter, letter)
        self.name = plain if coded is None else unquote(coded[1], errors="replace")

    def add(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._target.add(data[start:end])

    def end(self) -> None:
        self._is_file = False

    def finish(self) -> None:
        self.whole = True
