"""Records in XMP packets: nothing else of a packet changes, and no packet is believed."""

from xml.etree.ElementTree import fromstring, tostring

import pytest

from superfine import xmp
from superfine.xmp import NAMESPACE, Place, patch_file, record_in, with_place, without_record

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
FOREIGN = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Somebody 1.0"><!-- a note -->\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    '  <rdf:Description rdf:about="uuid:1&amp;2"\n    xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
    '    xmlns:mine="http://example.org/>" mine:kept=\'a "b" > c\'>\n'
    '   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Nacht \u00e9\U0001f319</rdf:li></rdf:Alt></dc:title>\n'
    "   <dc:subject><rdf:Bag><rdf:li><![CDATA[<&>]]></rdf:li></rdf:Bag></dc:subject>\n"
    "  </rdf:Description>\n"
    " </rdf:RDF>\n</x:xmpmeta>\n" + " " * 200 + '\n<?xpacket end="w"?>'
).encode()


def recorded(packet: bytes | None, text: str) -> bytes:
    made, place = with_place(packet, len(text) + 10)
    return made.replace(place.held, place.filled(text))


def rdf(inside: str, extra: str = "") -> bytes:
    return f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:s="{NAMESPACE}" {extra}>{inside}</rdf:RDF>'.encode()


def test_a_new_packet_is_read_by_another_parser():
    packet = recorded(None, '{"a":1}')
    assert packet.startswith(b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    tree = fromstring(packet)  # noqa: S314 - our own
    assert tree.tag == "{adobe:ns:meta/}xmpmeta"
    (description,) = tree.findall(f"{{{RDF}}}RDF/{{{RDF}}}Description")
    assert description.attrib == {f"{{{RDF}}}about": ""}
    assert [child.text for child in description] == ['{"a":1}']
    assert record_in(packet) == '{"a":1}'


def test_every_byte_of_a_foreign_packet_stays():
    packet = recorded(FOREIGN, "one")
    assert without_record(packet) == FOREIGN
    end = FOREIGN.index(b"</rdf:RDF>")
    assert packet.startswith(FOREIGN[:end])
    assert packet.endswith(FOREIGN[end:])
    before, after = (fromstring(one).find(f"{{{RDF}}}RDF") for one in (FOREIGN, packet))  # noqa: S314 - our own
    assert tostring(after[0]) == tostring(before[0])
    # All descriptions of a packet are about the same.
    assert after[1].attrib == {f"{{{RDF}}}about": "uuid:1&2"} == {f"{{{RDF}}}about": before[0].get(f"{{{RDF}}}about")}


@pytest.mark.parametrize("packet", [None, FOREIGN])
def test_a_second_record_takes_the_place_of_the_first(packet):
    again = recorded(recorded(packet, "one"), "two")
    assert record_in(again) == "two"
    assert b"one" not in again
    assert again.count(b"Description") == recorded(packet, "two").count(b"Description")


def test_what_another_program_made_of_it_is_read_and_taken_out():
    # Adobe's toolkit writes simple properties as attributes of the first description.
    other = "<d:kept xmlns:d='x'>1</d:kept>"
    compact = rdf(f'<rdf:Description rdf:about="" s:record=\'{{"a":">"}}\' >{other}</rdf:Description>')
    assert record_in(compact) == '{"a":">"}'
    assert without_record(compact) == rdf(f'<rdf:Description rdf:about="" >{other}</rdf:Description>')
    assert record_in(recorded(compact, "new")) == "new"
    among = rdf(f'<rdf:Description rdf:about=""><s:record>\n one </s:record>{other}</rdf:Description>')
    assert record_in(among) == "one"
    assert without_record(among) == rdf(f'<rdf:Description rdf:about="">{other}</rdf:Description>')


OTHER = "<rdf:Description><s:record>no</s:record></rdf:Description>"


@pytest.mark.parametrize(
    "inside",
    [
        "<rdf:Description><s:record xmlns:s='urn:other'>no</s:record></rdf:Description>",
        "<rdf:Description><s:other>no</s:other></rdf:Description>",
        # Of a picture that was pasted into this one.
        f"<rdf:Description><p:Pantry xmlns:p='p'><rdf:li>{OTHER}</rdf:li></p:Pantry></rdf:Description>",
    ],
)
def test_what_is_no_record_of_this_file_isnt_taken_for_one(inside):
    packet = rdf(inside)
    assert record_in(packet) is None
    assert without_record(packet) == packet
    assert record_in(recorded(packet, "yes")) == "yes"
    assert without_record(recorded(packet, "yes")) == packet


BOMB = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (BOMB + rdf("<rdf:Description>&b;</rdf:Description>"), "DOCTYPE"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + rdf(""), "DOCTYPE"),
        (rdf("<rdf:Description>&b;</rdf:Description>"), "well-formed"),
        (FOREIGN[:300], "well-formed"),
        (FOREIGN + FOREIGN, "well-formed"),
        (b"", "well-formed"),
        (b"not XML at all", "well-formed"),
        (FOREIGN.decode().encode("utf-16"), "UTF-8"),
        (FOREIGN.decode().encode("cp1252", "replace"), "UTF-8"),
        (b'<?xml version="1.0" encoding="iso-8859-1"?>' + rdf("<rdf:Description/>"), "UTF-8"),
        (b"<a/>", "no rdf:RDF"),
        (f'<rdf:RDF xmlns:rdf="{RDF}"/>'.encode(), "no rdf:RDF"),
        (b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + 2 * rdf("<rdf:Description/>") + b"</x:xmpmeta>", "twice"),
        (rdf("<rdf:Description>" + 300 * "<a>" + 300 * "</a>" + "</rdf:Description>"), "deep"),
        (rdf(" " * 16_000_001), "16,"),
    ],
)
def test_packets_that_cant_be_added_to_stay_as_they_are(packet, words):
    with pytest.raises(ValueError, match=words):
        record_in(packet)
    with pytest.raises(ValueError, match=words):
        with_place(packet, 10)
    assert without_record(packet) == packet


def test_two_records_are_none():
    packet = rdf("<rdf:Description><s:record>a</s:record></rdf:Description>" * 2)
    with pytest.raises(ValueError, match="2 records"):
        record_in(packet)
    assert without_record(packet) == rdf("")


def test_zeros_after_a_packet_are_no_harm():
    assert record_in(recorded(FOREIGN + bytes(7), "one")) == "one"


def test_a_record_fits_its_place_or_isnt_written():
    _, place = with_place(None, 40)
    assert place.filled("x" * 40) == b"<superfine:record>" + b"x" * 40 + b"</superfine:record>"
    assert len(place.filled("")) == len(place.held)
    with pytest.raises(ValueError, match="41 characters"):
        place.filled("x" * 41)


@pytest.mark.parametrize("at", [0, 1, 5, 63, 64, 65, 120, 127, 128, 190])
def test_a_place_is_found_wherever_it_lies(tmp_path, monkeypatch, at):
    monkeypatch.setattr(xmp, "_CHUNK", 64)
    path = tmp_path / "file"
    place = Place(b"0123456789" * 5)
    path.write_bytes(b"x" * at + place.held + b"y" * 30)
    assert patch_file(path, place.held, b"z" * 50)
    assert path.read_bytes() == b"x" * at + b"z" * 50 + b"y" * 30
    assert not patch_file(path, place.held, b"z" * 50)
    assert path.read_bytes() == b"x" * at + b"z" * 50 + b"y" * 30
