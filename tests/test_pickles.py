"""Checkpoints of torch and pickles of arrays: read right, and nothing that they call is called."""

import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from superfine.errors import ModelError
from superfine.weights import pickles
from superfine.weights.pickles import Name, Stub, named_arrays, read_array_pickle, read_torch

LAYOUTS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def saved(value: Any, *, is_zip: bool = True, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=is_zip, **options)
    return file.getvalue()


def refused(content: bytes, words: str = "") -> str:
    with pytest.raises(ModelError) as caught:
        read_torch(content, "a.pth")
    sentence = str(caught.value)
    assert sentence.startswith("a.pth: ")
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


def zip_of(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return file.getvalue()


def legacy_of(program: bytes) -> bytes:
    """A checkpoint in the legacy layout whose object is this pickle."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps([], 2)


def both_of(program: bytes) -> list[bytes]:
    return [zip_of({"a/data.pkl": program}), legacy_of(program)]


# ---- tensors


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(6, 5, 4)
    made = {
        "transposed": base.transpose(0, 2),
        "a part": base[1:4, ::2, 3],
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "bool": base > 0,
        "parameter": torch.nn.Parameter(torch.randn(3, 2)),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    for kind in ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8"):
        made[kind] = (torch.randn(3, 4) * 50).abs().to(getattr(torch, kind))
    return made


@LAYOUTS
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_of_every_kind(is_zip: bool, protocol: int) -> None:
    given = tensors()
    read = named_arrays(read_torch(saved(given, is_zip=is_zip, pickle_protocol=protocol), "a.pth"), "a.pth")
    assert list(read) == list(given)
    for name, tensor in given.items():
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        np.testing.assert_array_equal(read[name], expected, strict=True)


def test_big_endian() -> None:
    """No machine here writes one: the bytes of a sound file are turned around."""
    whole = torch.arange(6.0).reshape(2, 3)
    with zipfile.ZipFile(io.BytesIO(saved({"a": whole}))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["archive/byteorder"] = b"big"
    parts["archive/data/0"] = whole.numpy().astype(">f4").tobytes()
    np.testing.assert_array_equal(read_torch(zip_of(parts), "a.pth")["a"], whole.numpy())


def test_packed_zip() -> None:
    """Some checkpoints have been unpacked and packed again by people, under another folder's name."""
    given = tensors()
    with zipfile.ZipFile(io.BytesIO(saved(given))) as archive:
        parts = {name.replace("archive/", "a.pth/"): archive.read(name) for name in archive.namelist()}
    read = read_torch(zip_of({"a.pth/": b"", **parts}, zipfile.ZIP_DEFLATED), "a.pth")
    np.testing.assert_array_equal(read["float32"], given["float32"].numpy())


@LAYOUTS
def test_containers(is_zip: bool) -> None:
    inner = OrderedDict([("a", 1), ("b", None)])
    given = {
        "epoch": 12,
        "rate": 1e-4,
        "names": ["x", ("y", b"z")],
        "set": {1, 2},
        "frozen": frozenset("ab"),
        "inner": inner,
        "again": inner,
        "counts": Counter("aab"),
        "default": defaultdict(list, k=[1]),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "true": True,
        5: 2**70,
        "numpy": np.arange(6, dtype="<i2").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "scalar": np.float64(2.5),
    }
    read = read_torch(saved(given, is_zip=is_zip), "a.pth")
    for key in ("numpy", "fortran", "big"):
        np.testing.assert_array_equal(read.pop(key), given.pop(key))
    assert read == given | {"device": "cpu"}
    assert read["inner"] is read["again"]


def test_shared_storage_is_shared() -> None:
    weight = torch.zeros(4)
    read = read_torch(saved([weight, weight[1:3]]), "a.pth")
    read[0][1] = 7
    assert read[1].tolist() == [7, 0]


# ---- whole modules


MODELS = """
from torch import nn, zeros

class ConvolutionalBlock(nn.Module):
    def __init__(self, inside, out, side, norm=True):
        super().__init__()
        parts = [nn.Conv2d(inside, out, side, padding=side // 2)] + ([nn.BatchNorm2d(out)] if norm else [])
        self.conv_block = nn.Sequential(*parts, nn.PReLU())
    def forward(self, x):
        return self.conv_block(x)

class SRResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_block1 = ConvolutionalBlock(3, 4, 9, norm=False)
        self.residual_blocks = nn.Sequential(*[ConvolutionalBlock(4, 4, 3) for _ in range(2)])
        self.scaling_factor = 4
        self.register_buffer("passing", zeros(3), persistent=False)
    def forward(self, x):
        return self.residual_blocks(self.conv_block1(x))

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = SRResNet()
    def forward(self, x):
        return self.net(x)
"""

CHECKPOINTS = """
import numpy as np, torch, models

location_tag = torch.serialization.location_tag
for name, key, kind in (("srresnet", "model", models.SRResNet), ("srgan", "generator", models.Generator)):
    net = kind()
    optimizer = torch.optim.Adam(params=filter(lambda p: p.requires_grad, net.parameters()), lr=1e-4)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    np.savez(f"{name}.npz", **{k: v.numpy() for k, v in net.state_dict().items()})
    for layout in ("zip", "legacy"):
        for place in ("cpu", "cuda:0"):
            torch.serialization.location_tag = lambda storage: place  # as if it lay there
            path = f"checkpoint_{name}-{layout}-{place.removesuffix(':0')}.pth.tar"
            torch.save({"epoch": 3, key: net, "optimizer": optimizer}, path,
                       _use_new_zipfile_serialization=layout == "zip")
"""


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints like those of the tutorial, written by a process that has the classes `models.*`."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "models.py").write_text(MODELS)
    (folder / "save.py").write_text(CHECKPOINTS)
    subprocess.run([sys.executable, "-W", "ignore", "save.py"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_whole_modules_of_the_srgan_tutorial(tutorial: Path, layout: str, place: str) -> None:
    loaded = set(sys.modules)
    for name, key, kind in (("srresnet", "model", "SRResNet"), ("srgan", "generator", "Generator")):
        content = (tutorial / f"checkpoint_{name}-{layout}-{place}.pth.tar").read_bytes()
        tree = read_torch(content, "a.pth.tar")
        assert tree["epoch"] == 3
        assert isinstance(tree[key], Stub)
        assert tree[key].name == f"models.{kind}"
        read = named_arrays(tree[key], "a.pth.tar")
        with np.load(tutorial / f"{name}.npz") as expected:
            assert set(read) == set(expected)
            for entry in expected:
                np.testing.assert_array_equal(read[entry], expected[entry], strict=True)
        assert tree["optimizer"].name == "torch.optim.adam.Adam"
        assert tree["optimizer"].state["param_groups"][0]["lr"] == 1e-4
    assert "models" not in set(sys.modules) - loaded
    net = tree["generator"].state["_modules"]["net"]
    assert net.name == "models.SRResNet"
    assert net.state["scaling_factor"] == 4


class Custom:
    def __init__(self) -> None:
        self.value = 4


class Table(dict[str, Any]):
    pass


@LAYOUTS
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_objects_become_stubs(is_zip: bool, protocol: int) -> None:
    given = [Custom(), Custom, Table(a=1)] if protocol else [Custom(), Custom]
    read = read_torch(saved(given, is_zip=is_zip, pickle_protocol=max(protocol, 2)), "a.pth")
    assert isinstance(read[0], Stub)
    assert (read[0].name, read[0].state) == (f"{__name__}.Custom", {"value": 4})
    assert read[1] == Name(f"{__name__}.Custom")
    if protocol:
        assert read[2].items == {"a": 1}


def test_nothing_is_imported() -> None:
    program = b"\x80\x02(cantigravity\nFlight\nc__hello__\nhail\nl."
    assert "antigravity" not in sys.modules
    for content in both_of(program):
        assert read_torch(content, "a.pth") == [Name("antigravity.Flight"), Name("__hello__.hail")]
    assert "antigravity" not in sys.modules


# ---- pickles that call


CALLS = {
    "posix.system": b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00touch\x85R.",
    "builtins.eval": b"\x80\x02c__builtin__\neval\nX\x03\x00\x00\x001+1\x85R.",
    "builtins.getattr": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93)R.",
    "torch.load": b"\x80\x02ctorch\nload\nX\x03\x00\x00\x00a.b\x85R.",
    "torch.storage._load_from_bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x00\x85R.",
    "torch.nn.modules.conv.Conv2d": b"\x80\x02ctorch.nn.modules.conv\nConv2d\n)R.",
    "numpy.load": b"\x80\x02cnumpy\nload\n)R.",
    "os.system": b"cos\nsystem\n(S'touch canary'\ntR.",
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused(name: str) -> None:
    for content in both_of(CALLS[name]):
        refused(content, f"holds a pickle that calls {name}: refused; ask its maker for a .safetensors file")
    assert ("calls" in refused(CALLS[name])) == CALLS[name].startswith(b"\x80")


class Evil:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return exec, (f"__import__('pathlib').Path({self.canary!r}).touch()",)


@LAYOUTS
def test_a_call_deep_inside_a_sound_file(is_zip: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    content = saved({"weights": torch.ones(3), "deep": [{"er": Evil(str(canary))}]}, is_zip=is_zip)
    refused(content, "calls builtins.exec")
    assert not canary.exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert canary.exists()  # the file means it


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"(S'touch'\niposix\nsystem\n.", "uses INST"),
        (b"(cposix\nsystem\nS'touch'\no.", "uses OBJ"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"\x80\x02\x83\x01\x00.", "uses EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "uses EXT4"),
        (b"\x80\x05\x97.", "uses NEXT_BUFFER"),
        (b"\x80\x02]\x81.", "damaged"),
        (b"\x80\x02])R.", "calls what it made itself"),
        (b"\x80\x02cmodels\nNet\n)\x81)R.", "calls what it made itself"),
        (b"\x80\x02ccollections\nOrderedDict\n]R.", "calls what it made itself"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "a state for a Name"),  # would change the class for everybody
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", "a state for a Name"),
        (b"\x80\x02]}b.", "a state for a list"),
        (b"\x80\x02K\x01K\x02a.", "items for a int"),
        (b"\x80\x02K\x01Q.", "a persistent id that is no storage"),
        (b"Pstorage\n.", "a persistent id that is no storage"),
        (b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nK\x01K\x02K\x03tQ.", "damaged"),
        (b"\x80\x02(X\x07\x00\x00\x00storagectorch\nQUInt8Storage\nX\x01\x00\x00\x000NK\x01tQ.", "torch.QUInt8Storage"),
        (b"\x80\x02(X\x07\x00\x00\x00storagectorch\nComplexFloatStorage\nX\x01\x00\x00\x000NK\x01tQ.", "save it again"),
        (
            b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NJ\xff\xff\xff\xfftQ.",
            "larger than",
        ),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR.", "a tensor of no storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x020.", "damaged"),
        (b"\x80\x02a.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02]", "damaged"),
        (b"\x80\x02}]K\x01s.", "a list as a key"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "not Latin-1"),
    ],
)
def test_programs_that_no_pickler_writes(program: bytes, words: str) -> None:
    for content in both_of(program):
        refused(content, words)


# ---- files that would take the machine down


def peak_while_refusing(content: bytes, words: str = "") -> int:
    """Bytes taken beside those of the file."""
    tracemalloc.start()
    try:
        refused(content, words)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LAUGHS = b"\x80\x02]q\x00" + b"".join(
    b"(" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"lq" + bytes([level + 1]) for level in range(200)
)


def tensor_program(count: int, size: str, stride: str, offset: int = 0) -> bytes:
    """A tensor in protocol 0, of a storage of `count` floats."""
    storage = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{count}\ntQ"
    return f"\u0080\u0002ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{size}{stride}I00\nNtR.".encode(
        "latin-1"
    )


ARRAY = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01%b\x89C\x04\0\0\0\0tb."
)
DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00<NNNK\x00K\x00K\x00tb"


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",  # BINBYTES8 of a terabyte
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",  # BINUNICODE8
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",  # BYTEARRAY8
        b"\x80\x02B" + struct.pack("<I", 2**31) + b"abc.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",  # LONG4
        b"\x80\x02\x8b" + struct.pack("<i", 10_000) + b"\x7f" * 10_000 + b".",
        b"L" + b"9" * 100_000 + b"L\n.",  # to be read digit by digit
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N",  # FRAME
        tensor_program(2**38, "(I1\nt", "(I1\nt"),  # a storage of a terabyte
        ARRAY.replace(b"%b", b"J\x00\xca\x9a\x3b\x85" + DTYPE),  # an array of 10^9 in four bytes
        LAUGHS + b"}h\xc8K\x01s.",
        b"\x80\x02X\xf0\x49\x02\x00" + b"a" * 150_000 + b"q\x000(" + b"c_codecs\nencode\nh\x00\x85R" * 100 + b"l.",
    ],
    ids=lambda program: repr(program[:24]),
)
def test_promises_are_refused_before_memory_is_taken(program: bytes) -> None:
    for content in both_of(program):
        assert peak_while_refusing(content) < 8_000_000


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02" + b"]" * 150_001 + b".", "over 150,000 steps"),
        (b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.", "a tuple as a key"),  # to hash it would overflow the stack
    ],
    ids=["endless", "deep"],
)
def test_long_programs(program: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_STEPS", 150_000)
    refused(legacy_of(program), words)


def test_deep_values_come_and_go() -> None:
    """Python takes nested tuples down without recursion."""
    tree = read_torch(legacy_of(b"\x80\x02)" + b"\x85" * 100_000 + b"."), "a.pth")
    with pytest.raises(ModelError, match="nested without end"):
        named_arrays(tree, "a.pth")


def test_a_memo_far_away_takes_no_room() -> None:
    """Python's own unpickler makes a table of as many places."""
    tracemalloc.start()
    try:
        assert read_torch(legacy_of(b"\x80\x02Nr\xff\xff\xff\xff."), "a.pth") is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("count", "size", "stride", "offset"),
    [
        (4, "(I5\nt", "(I1\nt", 0),
        (4, "(I4\nt", "(I1\nt", 1),
        (4, "(I2\nI2\nt", "(I3\nI1\nt", 0),
        (4, "(I1000000000\nt", "(I0\nt", 0),  # no room for its strides, but for whoever copies it
        (4, "(I-1\nt", "(I1\nt", 0),
        (4, "(I4\nt", "(I-1\nt", 3),
        (4, "(I4\nt", "(I1\nI1\nt", 0),
        (4, "(I4\nt", "(I1\nt", -1),
        (4, "(F4\nt", "(I1\nt", 0),
        (4, "(I4611686018427387904\nI4\nt", "(I0\nI0\nt", 0),
        (4, "(" + "I1\n" * 70 + "t", "(" + "I1\n" * 70 + "t", 0),
    ],
)
def test_tensors_outside_of_their_storage(count: int, size: str, stride: str, offset: int) -> None:
    program = tensor_program(count, size, stride, offset)
    refused(zip_of({"a/data.pkl": program, "a/data/0": bytes(4 * count)}), "damaged")


def test_the_programs_above_are_sound_but_for_their_lies() -> None:
    program = tensor_program(4, "(I2\nI2\nt", "(I1\nI2\nt")
    content = zip_of({"a/data.pkl": program, "a/data/0": np.arange(4, dtype="<f4").tobytes()})
    assert read_torch(content, "a.pth").tolist() == [[0, 2], [1, 3]]
    program = ARRAY.replace(b"%b", b"K\x01\x85" + DTYPE)
    assert read_array_pickle(program, "a.pkl").tolist() == [0]


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02]q\x00h\x00a.",
        LAUGHS + b".",
        b"\x80\x02]" + b"]" * 5000 + b"a" * 5000 + b".",
        b"\x80\x02}U\xff" + b"a" * 255 + b"]s.",
    ],
    ids=["a list in itself", "laughs", "deep", "long names"],
)
def test_trees_without_end(program: bytes) -> None:
    tree = read_torch(legacy_of(program), "a.pth")
    with pytest.raises(ModelError, match=r"^a\.pth: its weights are nested without end"):
        named_arrays(tree, "a.pth")


def test_python_2_bytes_over_and_over() -> None:
    """Arrays are views of the file's bytes, but what Python 2 wrote has to be copied; here 1,000 times."""
    program = ARRAY.replace(b"%b", b"J\xa0\x86\x01\x00\x85" + DTYPE).replace(b"f4", b"u1")
    program = program.replace(b"C\x04\0\0\0\0", b"X\xa0\x86\x01\x00" + b"a" * 100_000 + b"q\x01")
    start, state = program.index(b"(K\x01"), program.index(b"tb.")
    again = program[2:start] + program[start : program.index(b"X\xa0")] + b"h\x01tb0"
    array = read_torch(legacy_of(program), "a.pth")
    assert array.tolist() == [97] * 100_000
    whole = program[: state + 2] + again * 1000 + b"."
    assert peak_while_refusing(legacy_of(whole), "it makes more than it holds") < 3_000_000


def test_many_views_of_one_storage() -> None:
    """Each is in its right; copied together they'd be 3,000 times the file."""
    weight = torch.zeros(100_000)
    content = saved([weight[i:] for i in range(3000)])
    assert peak_while_refusing(content, "it makes more than it holds") < 10_000_000


# ---- zip files that lie


def test_zip_bomb() -> None:
    content = zip_of({"a/data.pkl": b"N.", "a/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert peak_while_refusing(content, "far more than weights do: refused") < 3_000_000


def test_zip_bomb_that_lies_about_its_size() -> None:
    content = bytearray(zip_of({"a/data.pkl": bytes(60_000_000)}, zipfile.ZIP_DEFLATED))
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(signature) + place
        assert struct.unpack_from("<I", content, start) == (60_000_000,)
        struct.pack_into("<I", content, start, 1000)
    assert peak_while_refusing(bytes(content), "damaged") < 3_000_000


def test_zip_of_too_many_parts() -> None:
    content = b"PK\x03\x04" + b"PK\x01\x02" * 100_001
    assert peak_while_refusing(content, "more than 100,000 parts") < 1_000_000


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"a.txt": b""}, "not one of torch.save"),
        ({"a/data.pkl": b"N.", "b/data.pkl": b"N."}, "not one of torch.save"),
        ({"a/data.pkl": b"N.", "a/constants.pkl": b"N."}, "a TorchScript program"),
        ({"a/data.pkl": tensor_program(4, "(I4\nt", "(I1\nt")}, "damaged"),
        ({"a/data.pkl": tensor_program(4, "(I4\nt", "(I1\nt"), "a/data/0": bytes(12)}, "has 3 values where 4 belong"),
    ],
)
def test_zip_without_its_parts(parts: dict[str, bytes], words: str) -> None:
    refused(zip_of(parts), words)


def test_zip_with_a_part_twice() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/data.pkl", b"K\x01.")
    refused(file.getvalue(), "two parts of one name")


# ---- files that stop short, or are something else


@LAYOUTS
def test_cut_off(is_zip: bool) -> None:
    whole = saved({"a": torch.randn(40), "b": torch.ones(3)}, is_zip=is_zip)
    for end in range(0, len(whole), max(1, len(whole) // 97)):
        refused(whole[:end])


@LAYOUTS
def test_one_wrong_byte_in_a_weight_is_seen_in_zip(is_zip: bool) -> None:
    """The legacy layout has no checksums."""
    content = saved({"a": torch.full((40,), 1.5)}, is_zip=is_zip)
    wrong = content.replace(struct.pack("<f", 1.5) * 40, struct.pack("<f", 1.5) * 39 + b"abcd")
    assert wrong != content
    if is_zip:
        refused(wrong, "damaged or cut off")
    else:
        assert read_torch(wrong, "a.pth")["a"][38:].tolist() == [1.5, *struct.unpack("<f", b"abcd")]


def test_legacy_storages_that_lie() -> None:
    whole = saved({"a": torch.zeros(4)}, is_zip=False)
    count = len(whole) - 16 - 8
    assert struct.unpack_from("<q", whole, count) == (4,)
    for lie in (3, 5, 2**60, -1):
        refused(whole[:count] + struct.pack("<q", lie) + whole[count + 8 :], "damaged or cut off")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "was not made by torch.save"),
        (b"text", "was not made by torch.save"),
        (pickle.dumps({"a": 1}), "was not made by torch.save"),
        (bytes(257) + b"ustar" + bytes(250), "is a tar archive"),
    ],
)
def test_strangers(content: bytes, words: str) -> None:
    refused(content, words)


# ---- pickles of arrays


@pytest.mark.parametrize("protocol", range(6))
def test_arrays(protocol: int) -> None:
    given = [np.arange(6).astype(kind).reshape(2, 3) for kind in ("<f2", ">f4", "<f8", "u1", "<i8", "?")]
    given += [given[0].T, np.zeros((0, 3)), np.array(2.5)]
    read = read_array_pickle(pickle.dumps({"a": given, "again": given[0]}, protocol), "a.pkl")
    for array, expected in zip(read["a"], given, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
    assert read["again"] is read["a"][0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([None]), "dtype"),
        (np.array(["text"]), "dtype"),
        (np.zeros(2, "f4,i2"), "dtype"),
        (np.zeros(2, "M8[s]"), "dtype"),
        (np.zeros(2, "c8"), "dtype"),
        (Custom(), "holds an object of test_pickles.Custom where only arrays belong"),
        (np.random.default_rng(0), "calls numpy.random"),
        (Counter("a"), "calls collections.Counter"),
    ],
)
def test_what_is_no_array(value: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_array_pickle(pickle.dumps(value, 4), "a.pkl")
