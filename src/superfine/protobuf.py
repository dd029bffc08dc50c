"""Fields of a protobuf message, the form of ONNX and TensorFlow files. Source: protobuf encoding."""

from collections.abc import Iterator

__all__ = ["protobuf_fields", "protobuf_spans"]


def protobuf_fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one protobuf message; raises ValueError or IndexError where it's broken."""
    for number, value in protobuf_spans(content, 0, len(content)):
        yield number, content[value.start : value.stop] if isinstance(value, range) else value


def protobuf_spans(content: bytes, start: int, stop: int) -> Iterator[tuple[int, int | range]]:
    """(field number, value) of the message in content[start:stop], and of a part in it where it lies in `content`.

    Raises as `protobuf_fields`.
    """
    place = start
    while place < stop:
        tag, place = _varint(content, place)
        match tag & 7:
            case 0:
                value, place = _varint(content, place)
                yield tag >> 3, value
            case 2:
                length, place = _varint(content, place)
                if length > stop - place:
                    raise ValueError("a length beyond the file")
                yield tag >> 3, range(place, place + length)
                place += length
            case 1 | 5 as kind:
                place += 8 if kind == 1 else 4
                if place > stop:
                    raise ValueError("a number beyond the file")
            case kind:
                raise ValueError(f"wire type {kind}")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than ten bytes")
