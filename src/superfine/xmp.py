"""XMP packets: superfine's record put in, found, taken out; every other byte of a packet stays as it is.

Packets are strangers' text: no DOCTYPE and so no entities, UTF-8 alone, one rdf:RDF.
Source: XMP Specification Part 1 (ISO 16684-1), 7.3 and 7.4; Part 3, 1.1.3 for JPEG's limit.
"""

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

__all__ = ["NAMESPACE", "Place", "packet_limit", "patch_file", "record_in", "with_place", "without_record"]

#: Of the one property, `record`. It names nothing on the network, and promises nothing.
NAMESPACE: Final = "urn:x-superfine:provenance#"
_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RECORD: Final = f"{NAMESPACE} record"
_ROOTS: Final = (f"{_RDF} RDF", "adobe:ns:meta/ xmpmeta")
_TOP: Final = f"{_RDF} Description"
_LARGEST: Final = 16_000_000
_DEEPEST: Final = 256
_CHUNK: Final = 1 << 22
_OPEN: Final = b"<superfine:record>"
_CLOSE: Final = b"</superfine:record>"
_NEW: Final = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b"</rdf:RDF>\n"
    b"</x:xmpmeta>\n"
    b'<?xpacket end="w"?>'
)


@dataclass(frozen=True)
class Place:
    """Room in a packet for a record that isn't known before the file is written."""

    held: bytes
    """What stands there until then: as long as the longest record, and found nowhere else."""

    def filled(self, text: str) -> bytes:
        """The record's element, as long as what is held: white space after it.

        text: ASCII without `<`, `>` and `&`. Raises ValueError where it is too long.
        """
        made = _OPEN + text.encode("ascii") + _CLOSE
        if len(made) > len(self.held):
            raise ValueError(f"a record of {len(text)} characters is longer than the room that was left for it")
        return made.ljust(len(self.held))


def record_in(packet: bytes) -> str | None:
    """The text of the record that a packet holds; None where there is none.

    Raises ValueError where the packet isn't well-formed, or holds two records.
    """
    records = _scan(packet).records
    if len(records) > 1:
        raise ValueError(f"its XMP holds {len(records)} records, and one file has one")
    return records[0] if records else None


def without_record(packet: bytes) -> bytes:
    """The packet without superfine's record; as it is where it holds none or isn't well-formed."""
    try:
        return _cut(packet, _scan(packet))
    except ValueError:
        return packet


def with_place(packet: bytes | None, length: int) -> tuple[bytes, Place]:
    """The packet, or a new one, with room for a record of so many characters; a record that it had is taken out.

    Raises ValueError where the packet isn't well-formed: it can't be added to then.
    """
    token = secrets.token_hex(16).encode()
    place = Place(_OPEN + token.ljust(max(length, len(token)), b".") + _CLOSE)
    base = packet if packet is not None else _NEW
    base = _cut(base, _scan(base))
    found = _scan(base)
    about = quoteattr(found.about).encode()
    block = b'<rdf:Description xmlns:rdf="%s" xmlns:superfine="%s" rdf:about=%s>\n%s\n</rdf:Description>\n' % (
        _RDF.encode(),
        NAMESPACE.encode(),
        about,
        place.held,
    )
    made = base[: found.end] + block + base[found.end :]
    if len(_scan(made).records) != 1:
        raise ValueError("its XMP isn't laid out as others can add to it")
    return made, place


def patch_file(path: Path, old: bytes, new: bytes) -> bool:
    """Write `new` over `old`, of the same length, which stands once in a file; whether it was found there."""
    at = _found(path, old)
    if at < 0:
        return False
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)
    return True


def _found(path: Path, wanted: bytes) -> int:
    kept = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            window = kept + chunk
            if (at := window.find(wanted)) >= 0:
                return file.tell() - len(window) + at
            kept = window[-len(wanted) + 1 :]
    return -1


# ---- reading


@dataclass
class _Scan:
    """What a packet holds of ours, by bytes of it."""

    records: list[str] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    about: str = ""
    """What the packet says that it is about."""
    end: int = -1
    """Where rdf:RDF ends: something can be added there."""


def _scan(packet: bytes) -> _Scan:
    """Raises ValueError where it isn't a packet that can be read and added to."""
    if len(packet) > _LARGEST:
        raise ValueError(f"its XMP has {len(packet):,} bytes, more than {_LARGEST:,}")
    text = packet.rstrip(b"\0")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("its XMP isn't in UTF-8") from error
    reader = _Reader(text)
    try:
        reader.parser.Parse(text, True)
    except expat.ExpatError as error:
        reason = f"{expat.ErrorString(error.code)} in line {error.lineno}"
        raise ValueError(f"its XMP isn't well-formed: {reason}") from error
    finally:
        del reader.parser  # which holds the reader, and with it the text, in a circle
    if reader.found.end < 0:
        raise ValueError("its XMP holds no rdf:RDF to add to")
    return reader.found


class _Reader:
    def __init__(self, text: bytes) -> None:
        self.found = _Scan()
        self.parser = expat.ParserCreate("utf-8", " ")
        self.parser.buffer_text = True
        self._text = text
        self._stack: list[str] = []
        self._prefixes: set[str] = set()
        self._record: list[str] | None = None
        self._record_start = 0
        # Of the present description: where it begins, and whether it holds anything but our record.
        self._top_start = 0
        self._others = False
        self._own: list[tuple[int, int]] = []
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.XmlDeclHandler = self._declared
        self.parser.StartNamespaceDeclHandler = self._namespace
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _doctype(self, *_: object) -> None:
        raise ValueError("its XMP has a DOCTYPE, which packets may not have")

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:  # noqa: ARG002 - expat's
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8"):
            raise ValueError("its XMP says that it isn't in UTF-8")

    def _namespace(self, prefix: str | None, uri: str) -> None:
        if uri == NAMESPACE and prefix:
            self._prefixes.add(prefix)

    @property
    def _in_rdf(self) -> bool:
        return self._stack in ([_ROOTS[0]], [_ROOTS[1], _ROOTS[0]])

    @property
    def _in_top(self) -> bool:
        return self._stack in ([_ROOTS[0], _TOP], [_ROOTS[1], _ROOTS[0], _TOP])

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self.parser.CurrentByteIndex
        if len(self._stack) >= _DEEPEST:
            raise ValueError(f"its XMP is nested more than {_DEEPEST} deep")
        if self._in_top:
            if name == _RECORD:
                self._record, self._record_start = [], at
            else:
                self._others = True
        elif self._in_rdf and name == _TOP:
            about = (f"{_RDF} about", "about")
            self.found.about = self.found.about or next((attributes[key] for key in about if key in attributes), "")
            self._top_start, self._own = at, []
            self._others = any(key not in (*about, _RECORD) for key in attributes)
            if _RECORD in attributes:
                self.found.records.append(attributes[_RECORD])
                self._own.append(self._attribute(at))
        self._stack.append(name)

    def _end(self, name: str) -> None:
        at = self.parser.CurrentByteIndex
        self._stack.pop()
        if self._record is not None and self._in_top and name == _RECORD:
            self.found.records.append("".join(self._record).strip())
            self._own.append((self._record_start, self._after(at)))
            self._record = None
        elif self._in_rdf and name == _TOP and self._own:
            self.found.cuts += self._own if self._others else [(self._top_start, self._after(at))]
        elif name == _ROOTS[0] and self._stack in ([], [_ROOTS[1]]) and self._text[at : at + 2] == b"</":
            if self.found.end >= 0:
                raise ValueError("its XMP holds rdf:RDF twice")
            self.found.end = at

    def _characters(self, text: str) -> None:
        if self._record is not None:
            self._record.append(text)
        elif self._in_top and text.strip():
            self._others = True

    def _after(self, at: int) -> int:
        """Where the tag that begins or ends an element ends, with the line's end after it."""
        stop = _tag_end(self._text, at)
        return stop + 1 if self._text[stop : stop + 1] == b"\n" else stop

    def _attribute(self, at: int) -> tuple[int, int]:
        """Where our attribute lies in the tag that begins at `at`."""
        stop = _tag_end(self._text, at)
        names = "|".join(re.escape(prefix) for prefix in sorted(self._prefixes)).encode()
        found = re.compile(rb"\s(?:%s):record\s*=\s*(?:\"[^\"]*\"|'[^']*')" % names).search(self._text, at, stop)
        if found is None:
            raise ValueError("its XMP isn't laid out as others can add to it")
        return found.span()


def _tag_end(text: bytes, at: int) -> int:
    """After the `>` that ends the tag at `at`; one within quotes is none."""
    found = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>").match(text, at)
    return found.end() if found else len(text)


def _cut(packet: bytes, found: _Scan) -> bytes:
    for start, stop in sorted(found.cuts, reverse=True):
        packet = packet[:start] + packet[stop:]
    return packet


def packet_limit(format_name: str) -> int:
    """The most bytes of XMP that a format holds; 0 where it holds none."""
    # JPEG: one marker segment of 65,533 bytes; libvips leaves out what is near to it.
    return {"jpeg": 60_000, "gif": 0}.get(format_name, _LARGEST)
