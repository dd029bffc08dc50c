"""Cards in ONNX files: there and back, and every way for a file to be wrong."""

import json
import shutil
import sys
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest

from fakes import clip_network, onnx_network
from superfine.engine import load_model
from superfine.errors import ModelError, UsageError
from superfine.models import (
    CLASSICAL,
    Card,
    card_to_text,
    families,
    find_model,
    list_guesses,
    list_models,
    read_model,
    with_card,
)

SHIPPED = list_models()
each_model = pytest.mark.parametrize("model", SHIPPED, ids=lambda model: model.card.name)


# A second witness for protobuf, written from its specification.
def varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low]) if not high else bytes([low | 0x80]) + varint(high)


def entry(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def file_with(card: object, *, key: str = "superfine") -> bytes:
    text = card if isinstance(card, str) else json.dumps(card)
    return entry(1, 9) + entry(7, b"") + entry(8, b"") + entry(14, entry(1, key.encode()) + entry(2, text.encode()))


GOOD = {"name": "mine", "scale": 2, "halo": 3}


@pytest.fixture
def write(tmp_path):
    def to_file(content: bytes) -> Path:
        path = tmp_path / "mine.onnx"
        path.write_bytes(content)
        return path

    return to_file


def test_a_card_replaces_all_metadata():
    proto = onnx.load_from_string(SHIPPED[0].content)
    onnx.helper.set_model_props(proto, {"superfine": "{}", "other": "1"})
    card = Card(name="mine", scale=2, halo=3)
    [entry] = onnx.load_from_string(with_card(proto.SerializeToString(), card)).metadata_props
    assert (entry.key, json.loads(entry.value)) == ("superfine", asdict(card))


def test_a_card_comes_back_as_it_was(write):
    card = Card(
        name="größe-x3", scale=3, halo=13, multiple_of=4, halo_kind="practical", fp32_end=True, tile=256,
        bytes_per_pixel=77, summary='a "quoted"\nline', colour="luma", parameters=12, licence="Apache-2.0",
        training_data="photos", recipe="recipes/x.toml", psnr={"Set5": 37.5}, protocol="Y", net="plain", restoring=True,
        rows=64, cols=96, needs_fp32=True, losses="1 l1", source="a.pth, sha256 0", frames=5,
        errors_of="balanced-x3", calibration={"share": 0.9},
    )  # fmt: skip
    plain = Card(name="a", scale=1, halo=0)
    assert [name for name in asdict(card) if getattr(card, name) == getattr(plain, name)] == []
    model = read_model(write(file_with(card_to_text(card))))
    assert model.card == card
    assert read_model(write(model.content)).sha256 == model.sha256


def test_what_is_not_said_has_its_default(write):
    assert read_model(write(file_with(GOOD))).card == Card(name="mine", scale=2, halo=3)


@each_model
def test_onnx_reads_the_same_card(model):
    """Our own reader of protobuf against that of onnx."""
    proto = onnx.load_from_string(model.content)
    onnx.checker.check_model(proto)
    assert [item.key for item in proto.metadata_props] == ["superfine"]
    assert Card(**json.loads(proto.metadata_props[0].value)) == model.card


@each_model
def test_every_cut_file_is_refused_or_has_no_card(write, model):
    """Cut anywhere: never another error, never a card."""
    cuts = [*range(1, 40), *range(40, len(model.content), 4999), *range(len(model.content) - 40, len(model.content))]
    for cut in cuts:
        with pytest.raises(ModelError, match=r"mine\.onnx: (not an ONNX file, or cut off|has no superfine card)"):
            read_model(write(model.content[:cut]))


BROKEN = {
    "empty": b"",
    "text": b"# Not a network\n\nat all",
    "zeros": bytes(64),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "ZIP": b"PK\x03\x04" + bytes(40),
    "a length beyond the file": entry(1, 9) + varint(7 << 3 | 2) + varint(1000) + b"short",
    "a length of 2**62": entry(1, 9) + varint(7 << 3 | 2) + varint(2**62),
    "a number without end": entry(1, 9) + b"\x80" * 30,
    "a number of eleven bytes": b"\x08" + b"\xff" * 10 + b"\x01" + entry(7, b""),
    "a wire type that isn't": entry(1, 9) + varint(7 << 3 | 6),
    "a group": entry(1, 9) + varint(7 << 3 | 3),
    "no graph": entry(14, entry(1, b"superfine") + entry(2, b"{}")),
    "metadata cut inside": entry(1, 9) + entry(14, entry(1, b"superfine")[:-3]),
    "metadata without a value": entry(1, 9) + entry(14, entry(1, b"superfine")),
    "metadata with a number": entry(1, 9) + entry(14, entry(1, b"superfine") + entry(2, 5)),
    "metadata that isn't text": entry(1, 9) + entry(14, entry(1, b"superfine") + entry(2, b"\xff\xfe{}")),
    "eight bytes that aren't there": entry(1, 9) + varint(3 << 3 | 1) + b"123",
    "four bytes that aren't there": entry(1, 9) + varint(3 << 3 | 5) + b"1",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_files(write, content):
    with pytest.raises(ModelError, match=r"mine\.onnx: not an ONNX file, or cut off"):
        read_model(write(content))


@pytest.mark.parametrize(
    "content", [entry(1, 9) + entry(7, b""), file_with(GOOD, key="other")], ids=["no metadata", "another's metadata"]
)
def test_a_file_without_a_card(write, content):
    with pytest.raises(ModelError, match=r"mine\.onnx: has no superfine card, so its scale and halo aren't known"):
        read_model(write(content))


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("{not json", "its card is not JSON"),
        ("", "its card is not JSON"),
        ("[" * 100_000, "its card is not JSON"),
        ("9" * 5000, "its card is not JSON"),
        ("[1, 2]", "its card is a list where an object was expected"),
        ("null", "its card is a NoneType"),
        ("7", "its card is a int"),
        ({}, "its card lacks halo, name, scale"),
        ({"name": "mine", "scale": 2}, "its card lacks halo"),
        (GOOD | {"sclae": 2, "hue": 1}, "its card has unknown hue, sclae; it was made by a newer superfine"),
        *[
            (GOOD | {name: value}, f"its card says {name} = .*, want a whole number from {low}")
            for name, low in {
                "scale": 1,
                "halo": 0,
                "multiple_of": 1,
                "frames": 1,
                "tile": 1,
                "bytes_per_pixel": 1,
            }.items()
            for value in (low - 1, True, 2.0, "2", None, [2], 10**10)
        ],
        *[
            (GOOD | {name: value}, f"its card says {name} = .*, which is of the wrong kind")
            for name, value in {
                "name": 5,
                "fp32_end": 1,
                "restoring": 1,
                "net": None,
                "psnr": [37.0],
                "summary": None,
                "licence": {},
                "halo_kind": 3,
                "calibration": 5,
                "errors_of": {},
            }.items()
        ],
        (GOOD | {"psnr": {"Set5": "much"}}, "its card says psnr = .*, want numbers of dB"),
        (GOOD | {"psnr": {"Set5": 10**400}}, "its card says psnr = .*, want numbers of dB"),
        (GOOD | {"psnr": {"Set5": float("nan")}}, "its card says psnr = .*, want numbers of dB"),
        *[
            (GOOD | {"name": name}, "its card says name = .*, want a name that can be printed")
            for name in ("", "a\x1b[2Jb")
        ],
        (GOOD | {"halo_kind": "rough"}, "its card says halo_kind = 'rough', want exact or practical or whole"),
        *[
            (
                GOOD | {"frames": frames},
                f"its card says frames = {frames}, want an odd number, so that one is in the middle, up to 63",
            )
            for frames in (2, 4, 64, 65, 999_999_999)
        ],
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_cards(write, card, words):
    with pytest.raises(ModelError, match=rf"mine\.onnx: {words}"):
        read_model(write(file_with(card)))


@pytest.mark.parametrize("make", ["nothing", "folder"])
def test_unreadable_files(tmp_path, make):
    path = tmp_path / "mine.onnx"
    if make == "folder":
        path.mkdir()
    with pytest.raises(ModelError, match=r"mine\.onnx: (there is no such model file|can't be read: Is a directory)"):
        read_model(path)


# ---- by name


def test_a_family_a_member_and_a_file(tmp_path):
    (fast_x2,) = find_model("fast-x2")
    assert fast_x2 in find_model("fast")
    assert [model.card.name for model in find_model("fast")] == ["fast-x2", "fast-x3", "fast-x4"]
    with resources.as_file(resources.files("superfine") / "assets" / "fast-x2.onnx") as shipped:
        copy = shutil.copy(shipped, tmp_path / "COPY.ONNX")
    (read,) = find_model(str(copy))
    assert (read.card, read.sha256) == (fast_x2.card, fast_x2.sha256)


def test_a_network_that_expects_errors_is_no_enlarger(write):
    path = write(file_with(GOOD | {"errors_of": "fast-x2"}))
    with pytest.raises(UsageError, match=r"mine\.onnx: enlarges nothing, it tells how far fast-x2 may be off"):
        find_model(str(path))
    assert not {model.card.name for model in list_guesses()} & {model.card.name for model in SHIPPED}


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(
        UsageError, match=f"no model 'slow'; there are .*fast, .*fast-x2, .*{', '.join(CLASSICAL)}, and any .onnx"
    ):
        find_model("slow")


def test_auto_is_no_network():
    assert "fast" in families()
    for ask in (find_model, load_model):
        with pytest.raises(UsageError, match=r"`auto` is chosen for each picture by its file; here name a model, such"):
            ask("auto")


# ---- what is shipped


@each_model
def test_shipped_file_and_card_have_one_name(model):
    assert model.source == f"{model.card.name}.onnx"
    assert model.card.name.endswith(f"-x{model.card.scale}")


@each_model
def test_shipped_cards_are_complete(model):
    """Fails until the final weights are in: nothing is shipped without licence, data, recipe and measured dB."""
    card = model.card
    # Facts that may be no, and from 8 bits training can't go on.
    free = {"restoring", "fp32_end", "needs_fp32", "rows", "cols", "source", "losses", "errors_of", "calibration"} | (
        {"net"} if "int8" in card.name else set()
    )
    # What finishes another's enlargement has no dB of its own.
    free |= {"psnr", "protocol"} if card.scale == 1 else set()
    told = [entry.name for entry in fields(card) if entry.name not in free]
    assert [name for name in told if getattr(card, name) in ("", {}, 0)] == []
    assert card.licence == "Apache-2.0"
    assert (Path(__file__).parents[1] / card.recipe).is_file()
    assert card.scale == 1 or {"Set5", "Set14"} <= set(card.psnr)


def test_shipped_networks_stay_small():
    assert sum(len(model.content) for model in SHIPPED) < 16_000_000


# ---- networks of several frames


@pytest.mark.parametrize("frames", [1, 3, 63])
def test_a_file_for_several_frames_is_read(write, frames):
    path = write(clip_network(frames).content)
    (model,) = find_model(str(path))
    assert model.card.frames == frames == load_model(str(path)).frames


# ---- strangers' files with a card


CARD = Card(name="mine", scale=2, halo=3)
TWICE = ("Resize", ["z", "", "scales"], "y", {"mode": "nearest"})
SCALES = {"scales": np.float32([1, 1, 2, 2])}
HARMFUL = {
    "much of nothing": (
        [("ConstantOfShape", ["n"], "much", {}), ("ReduceSum", ["much"], "sum", {}), ("Add", ["x", "sum"], "z", {})],
        {"n": np.array([10**9])},
        "makes an array of 1,000,000,000 elements of nearly nothing",
    ),
    "a choice": ([("If", ["x"], "z", {})], {}, "has the operator If"),
    "many inputs": ([("Concat", ["x"] * 300, "z", {"axis": 1})], {}, "has 300 inputs"),
}


@pytest.mark.parametrize(("nodes", "weights", "words"), HARMFUL.values(), ids=HARMFUL)
def test_a_card_makes_no_file_sound(write, nodes, weights, words):
    path = write(onnx_network([*nodes, TWICE], SCALES | weights, card=CARD))
    with pytest.raises(ModelError, match=f"mine.onnx: .*{words}"):
        find_model(str(path))


def test_a_card_makes_weights_elsewhere_no_sounder(write):
    proto = onnx.load_from_string(onnx_network([("Identity", ["x"], "z", {}), TWICE], SCALES, card=CARD))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ModelError, match="keeps weights in other files"):
        read_model(write(proto.SerializeToString()))


def test_files_are_checked_without_onnx(write, monkeypatch):
    path = write(SHIPPED[0].content)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert read_model(path).card == SHIPPED[0].card
