"""The .safetensors format: eight bytes of length, a JSON header, the numbers.

Source: the format as huggingface/safetensors describes it (README, "Format").
"""

import json
import math
import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superfine.errors import ModelError

__all__ = ["read_safetensors"]

Array = npt.NDArray[np.generic]

_DTYPES: Final = {
    "BF16": "<u2",
    "BOOL": "u1",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
_LONGEST_HEADER: Final = 10_000_000


def read_safetensors(content: bytes, source: str) -> dict[str, Array]:
    """The arrays of a .safetensors file by name; bfloat16 as float32, everything else in its own dtype, read-only.

    Raises ModelError where the header is broken or too long, names a tensor
    twice, or doesn't account for each byte of the data exactly once.
    """
    try:
        start, header = _header(content)
        arrays, places = {}, []
        for name, entry in header.items():
            if name != "__metadata__":
                arrays[name], place = _array(name, entry, content, start)
                places.append(place)
        end = 0
        for first, last in sorted(places):
            if first != end:
                raise ValueError(f"byte {min(first, end)} of its data belongs to no tensor or to two")
            end = last
        if end != len(content) - start:
            raise ValueError(f"its tensors end at byte {end} of {len(content) - start}")
    except (RecursionError, ValueError) as error:
        reason = (str(error).splitlines() or ["broken"])[0][:200]
        raise ModelError(f"{source}: not a sound .safetensors file: {reason}; fetch it again") from error
    return arrays


def _header(content: bytes) -> tuple[int, dict[str, Any]]:
    """Where the data begins, and the header's object."""
    if len(content) < 8:
        raise ValueError("it is cut off")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(len(content) - 8, _LONGEST_HEADER):
        raise ValueError(f"its header of {length:,} bytes is longer than the file, or than any header")
    header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_without_doubles)
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return 8 + length, header


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _array(name: str, entry: Any, content: bytes, start: int) -> tuple[Array, tuple[int, int]]:
    """One tensor, and where it begins and ends in the data that begins at `start`."""
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(first), int(last)]} if len(entry) == 3:
            pass
        case _:
            raise ValueError(f"{name[:60]!r} lacks its dtype, shape or data_offsets, or has more than these")
    if code not in _DTYPES:
        raise ValueError(f"{name[:60]!r} is in {code[:20]!r}, which isn't read; save it again in F32")
    if len(shape) > 16 or any(type(side) is not int or not 0 <= side < 2**40 for side in shape):
        raise ValueError(f"{name[:60]!r} has a shape that is none")
    dtype, count = np.dtype(_DTYPES[code]), math.prod(shape)
    if not 0 <= first <= last <= len(content) - start or last - first != count * dtype.itemsize:
        raise ValueError(f"{name[:60]!r} of shape {shape} in {code} can't lie in bytes {first} to {last}")
    values: Array = np.frombuffer(content, dtype, count, start + first)
    if code == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif code == "BOOL":
        values = values != 0
    return values.reshape(shape), (first, last)
