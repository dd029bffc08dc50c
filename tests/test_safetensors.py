"""Files of .safetensors, written here by hand after the format's description."""

import io
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest

from superfine.errors import ModelError
from superfine.weights.safetensors import read_safetensors


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list[Any], first: Any, last: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def refused(content: bytes, words: str = "") -> None:
    with pytest.raises(ModelError) as caught:
        read_safetensors(content, "a.safetensors")
    sentence = str(caught.value)
    assert sentence.startswith("a.safetensors: not a sound .safetensors file: ")
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < 300


KINDS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1"}
KINDS |= {"U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype(kind: str) -> None:
    values = (np.arange(12) % 3).astype(KINDS[kind]).reshape(2, 3, 2)
    raw = values.tobytes()
    content = file_of({"a": entry(kind, [2, 3, 2], 0, len(raw)), "__metadata__": {"format": "pt"}}, raw)
    np.testing.assert_array_equal(read_safetensors(content, "a")["a"], values, strict=True)


def test_bfloat16() -> None:
    """Its bits are the upper half of a float32's."""
    values = np.array([1.0, -2.5, 3.140625, 2.0**100, 0.0, np.inf], np.float32)
    raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    read = read_safetensors(file_of({"a": entry("BF16", [2, 3], 0, 12)}, raw), "a")["a"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.ravel(), values)


def test_several_in_any_order_and_unaligned() -> None:
    data = bytes([7]) + struct.pack("<3f", 1, 2, 3)
    header = {
        "late": entry("F32", [3], 1, 13),
        "early": entry("U8", [], 0, 1),
        "nothing": entry("F32", [0, 4], 1, 1),
        "last": entry("BF16", [0], 13, 13),
    }
    read = read_safetensors(file_of(header, data), "a")
    assert list(read) == ["late", "early", "nothing", "last"]
    assert read["late"].tolist() == [1, 2, 3]
    assert read["early"] == 7
    assert isinstance(read["early"], np.ndarray)
    assert read["nothing"].shape == (0, 4)
    assert read_safetensors(file_of(b"{}   "), "a") == {}


@pytest.mark.parametrize("kind", ["BF16", "BOOL", "F32"])
def test_numbers_without_a_side_are_arrays(kind: str) -> None:
    size = {"BF16": 2, "BOOL": 1, "F32": 4}[kind]
    read = read_safetensors(file_of({"a": entry(kind, [], 0, size)}, bytes(size)), "a")["a"]
    assert isinstance(read, np.ndarray)
    assert read.shape == ()


SOUND = entry("F32", [2], 0, 8)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": SOUND}, bytes(7), "can't lie in bytes 0 to 8"),
        ({"a": SOUND}, bytes(9), "its tensors end at byte 8 of 9"),
        ({}, bytes(1), "its tensors end at byte 0 of 1"),
        ({"a": entry("F32", [2], 1, 9)}, bytes(9), "byte 0 of its data belongs to no tensor or to two"),
        ({"a": SOUND, "b": SOUND}, bytes(8), "belongs to no tensor or to two"),
        ({"a": SOUND, "b": entry("F32", [2], 4, 12)}, bytes(12), "belongs to no tensor or to two"),
        ({"a": SOUND, "b": entry("F32", [2], 12, 20)}, bytes(20), "belongs to no tensor or to two"),
        ({"a": entry("F32", [3], 0, 8)}, bytes(8), "'a' of shape [3] in F32 can't lie in bytes 0 to 8"),
        ({"a": entry("F64", [2], 0, 8)}, bytes(8), "can't lie"),
        ({"a": entry("F32", [2], 8, 0)}, bytes(8), "can't lie"),
        ({"a": entry("F32", [2], -8, 0)}, bytes(8), "can't lie"),
        ({"a": entry("F32", [2], 0, 2**64)}, bytes(8), "can't lie"),
        ({"a": entry("F32", [2**39, 2**39], 0, 8)}, bytes(8), "can't lie"),
        ({"a": entry("F32", [2**62, 4], 0, 8)}, bytes(8), "a shape that is none"),
        ({"a": entry("F32", [-1, -2], 0, 8)}, bytes(8), "a shape that is none"),
        ({"a": entry("F32", [True, 2], 0, 8)}, bytes(8), "a shape that is none"),
        ({"a": entry("F32", [2.0], 0, 8)}, bytes(8), "a shape that is none"),
        ({"a": entry("F32", [1] * 40 + [2], 0, 8)}, bytes(8), "a shape that is none"),
        ({"a": entry("F8_E4M3", [8], 0, 8)}, bytes(8), "'F8_E4M3', which isn't read; save it again in F32"),
        ({"a": entry("F32", [2], 0.0, 8)}, bytes(8), "lacks its dtype, shape or data_offsets"),
        ({"a": entry("F32", [2], "0", 8)}, bytes(8), "lacks its dtype, shape or data_offsets"),
        ({"a": SOUND | {"more": 1}}, bytes(8), "has more than these"),
        ({"a": {"dtype": "F32"}}, bytes(8), "lacks"),
        ({"a": [1]}, bytes(8), "lacks"),
        ([1], b"", "its header is no object"),
        (b'{"a": 1, "a": 1}', b"", "its header names something twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32"}}', b"", "its header names something twice"),
        (b"{", b"", "Expecting property name"),
        (b"\xff\xff", b"", "can't decode"),
        (b"", b"", "Expecting value"),
        (b"[" * 100_000, b"", "recursion"),
        (b'{"a": ' * 100_000, b"", "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "Exceeds the limit"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_headers_that_lie(header: Any, data: bytes, words: str) -> None:
    refused(file_of(header, data), words)


@pytest.mark.parametrize("length", [3, 2**20, 2**40, 2**63, 2**64 - 1])
def test_lengths_that_lie_take_no_memory(length: int) -> None:
    content = file_of({"a": SOUND}, bytes(8), length)
    tracemalloc.start()
    try:
        refused(content)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_giant_header() -> None:
    refused(file_of(b"{}" + b" " * 10_000_000), "longer than the file, or than any header")


def test_cut_off() -> None:
    whole = io.BytesIO(file_of({"a": SOUND, "b": entry("U8", [2], 8, 10)}, bytes(10))).getvalue()
    assert set(read_safetensors(whole, "a")) == {"a", "b"}
    for end in range(len(whole)):
        refused(whole[:end])
