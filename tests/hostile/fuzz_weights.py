"""Damaged weights by the thousand: each is read, or refused with one sentence; nothing else may happen.

    python tests/hostile/fuzz_weights.py --files 100000 --reader torch --seed 0

Sound files are made, then bytes of them are changed, cut, doubled and swapped
for pieces that mean something, outside and inside of their packing. A failure
is any error but ModelError, an import, a file opened, code compiled or run, a
gigabyte of memory, or ten seconds for one file; the file is kept then. The same
reader, count and seed make the same files, whatever the machine.
"""

import argparse
import bz2
import codecs
import io
import json
import pickle
import random
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from superfine.errors import ModelError
from superfine.weights.architectures import open_arrays
from superfine.weights.lasagne import read_lasagne
from superfine.weights.onnx_file import check_onnx
from superfine.weights.pickles import named_arrays, read_torch
from superfine.weights.safetensors import read_safetensors
from superfine.weights.tf_pb import open_tf_pb

SLOWEST_SECONDS = 10.0
MOST_MEMORY = 1 << 30
FORBIDDEN = (
    "compile",
    "ctypes.",
    "exec",
    "import",
    "marshal.",
    "open",
    "os.",
    "pickle.",
    "shutil.",
    "socket.",
    "subprocess.",
)

PIECES = [
    *(bytes([code]) for code in b"()]}.0012abdehjloqrstu\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94NQR"),
    *(b"cposix\nsystem\n", b"c__builtin__\neval\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cmodels\nNet\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(
        b"ccopyreg\n_reconstructor\n",
        b"c_codecs\nencode\n",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"iposix\nsystem\n",
    ),
    *(
        b"X\x07\0\0\0storage",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"B\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"K\0",
        b"h\0",
    ),
    *(b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\xff" * 8, b"\0" * 8, b"\x80\x05", b"PK\x01\x02"),
    *(
        b"\x0a\x7f",
        b"\x12\xff\xff\xff\xff\x0f",
        b"\xff" * 9 + b"\x01",
        b"\x1a\x01y",
        b"\x1a\x01d",
        b"SAME",
        b"NCHW",
        b"Relu",
    ),
    *(
        b" 4 f4 0.1\n",
        b" 4,4,3,3 f4 0.1\n",
        b"nan",
        b"inf",
        b"1e39",
        b"i8",
        b"0,",
        b"999999,",
        b"1,",
        b"-4,",
        b"\nbody.4.weight",
    ),
    *(
        b'"data_offsets":[0,8]',
        b'"shape":[1000000000]',
        b'"dtype":"F64"',
        b"9" * 30,
        b"-",
        b"[",
        b"{",
        b"1e999",
        b"null",
    ),
]


class Sound(NamedTuple):
    """What is damaged, and how it's packed then."""

    content: bytes
    wrap: Callable[[bytes], bytes] = bytes


def torch_files() -> list[Sound]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU())
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.ones(2).bfloat16(), "c": torch.arange(3), "d": np.arange(4.0)}
    found = []
    for value in (net.state_dict(), tensors, {"epoch": 1, "model": net, "optimizer": optimizer}):
        for is_zip in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=is_zip)
            found.append(Sound(file.getvalue()))
            if is_zip:
                found.append(inside(file.getvalue()))
    return found


def inside(packed: bytes) -> Sound:
    """The pickle in a zip file; checksums would stop all damage from outside."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def wrap(program: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            for name, part in (parts | {"archive/data.pkl": program}).items():
                made.writestr(name, part)
        return file.getvalue()

    return Sound(parts["archive/data.pkl"], wrap)


def lasagne_files() -> list[Sound]:
    rng = np.random.default_rng(0)
    config = {"generator_blocks": 1, "generator_residual": 2, "generator_filters": [2]}
    config |= {"generator_upscale": 1, "generator_downscale": 0}
    shapes = {"iter.0": (2, 3, 7, 7), "iter.1-A": (2, 2, 3, 3), "upscale0.2": (8, 2, 3, 3)}
    params = {f"{name}x": [rng.random(shape).astype("f2"), np.zeros(shape[0], "f2")] for name, shape in shapes.items()}
    params |= {f"{name}>": [np.ones(shape[0], "f2")] for name, shape in shapes.items()}
    params["out"] = [rng.random((3, 2, 7, 7)).astype("f2"), np.zeros(3, "f2")]
    programs = [pickle.dumps((config, params), protocol) for protocol in (2, 3, 5)]
    return [Sound(bz2.compress(programs[0])), *(Sound(program, bz2.compress) for program in programs)]


def safetensors_files() -> list[Sound]:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "c": {"dtype": "BOOL", "shape": [], "data_offsets": [28, 29]},
    }
    text, data = json.dumps(header).encode(), bytes(range(29))

    def wrap(damaged: bytes) -> bytes:
        return struct.pack("<Q", len(damaged)) + damaged + data

    return [Sound(wrap(text)), Sound(text, wrap)]


def field(number: int, value: int | str | bytes) -> bytes:
    """Of a protobuf message: a small whole number, a text or a message."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    content = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content


def frozen_node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    content = field(1, name) + field(2, op) + b"".join(field(3, each) for each in inputs)
    return field(1, content + b"".join(field(5, field(1, key) + field(2, each)) for key, each in attributes.items()))


def frozen_constant(name: str, values: Any) -> bytes:
    array = np.asarray(values, np.int32 if np.asarray(values).dtype.kind == "i" else np.float32)
    sides = b"".join(field(2, field(1, side)) for side in array.shape)
    tensor = field(1, 3 if array.dtype == np.int32 else 1) + field(2, sides) + field(4, array.tobytes())
    return frozen_node(name, "Const", value=field(8, tensor))


def pb_files() -> list[Sound]:
    """An ESPCN, and an FSRCNN whose sizes are computed."""
    rng = np.random.default_rng(0)
    even, twice = ({"strides": field(1, field(3, bytes([1, step, step, 1])))} for step in (1, 2))
    same = {"padding": field(2, "SAME"), "data_format": field(2, "NHWC")}
    start = [frozen_node("y", "Placeholder", shape=field(7, b""))]
    start += [frozen_constant("a", rng.random((3, 3, 1, 4))), frozen_constant("b", rng.random(4))]
    start += [frozen_node("c", "Conv2D", "y", "a", **even, **same), frozen_node("d", "BiasAdd", "c", "b")]
    espcn = [frozen_node("e", "Tanh", "d"), frozen_node("f", "DepthToSpace", "e", block_size=field(3, 2))]
    espcn += [frozen_constant("g", [0, 3, 1, 2]), frozen_node("h", "Transpose", "f", "g")]
    fsrcnn = [frozen_constant(f"at{place}", [place]) for place in range(4)] + [frozen_constant("two", 2)]
    fsrcnn += [frozen_node("shape", "Shape", "d"), frozen_constant("one", 1)]
    for place in range(3):
        between = ["shape", f"at{place}", f"at{place + 1}", "at1"]
        fsrcnn += [frozen_node(f"side{place}", "StridedSlice", *between, shrink_axis_mask=field(3, 1))]
    fsrcnn += [frozen_node("tall", "Mul", "side1", "two"), frozen_node("wide", "Mul", "side2", "two")]
    fsrcnn += [frozen_node("size", "Pack", "side0", "tall", "wide", "one", axis=field(3, 0))]
    fsrcnn += [frozen_node("r", "LeakyRelu", "d"), frozen_constant("k", rng.random((5, 5, 1, 4)))]
    fsrcnn += [frozen_node("end", "Conv2DBackpropInput", "size", "k", "r", **twice, **same)]
    return [Sound(b"".join(start + nodes)) for nodes in (espcn, fsrcnn)]


def onnx_files() -> list[Sound]:
    """An ESPCN; and sizes that are computed, constants of every kind and a condition."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    stored = [numpy_helper.from_array(rng.random((4, 3, 3, 3), np.float32), "a")]
    stored += [helper.make_tensor("b", TensorProto.FLOAT, [4], [0.1, 0.2, 0.3, 0.4])]
    espcn = [
        helper.make_node("Conv", ["x", "a", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["d"]),
    ]
    espcn += [helper.make_node("DepthToSpace", ["d"], ["y"], blocksize=2, mode="CRD")]
    sizes = [helper.make_tensor("two", TensorProto.INT64, [4], [1, 1, 2, 2])]
    sizes += [numpy_helper.from_array(np.array(end, np.int64), f"at{end}") for end in (0, 9, 1)]
    value = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        helper.make_node("Mul", ["two", "two"], ["four"]),
        helper.make_node("ConstantOfShape", ["four"], ["z"], value=value),
    ]
    nodes += [helper.make_node("Tile", ["z", "two"], ["t"]), helper.make_node("Range", ["at0", "at9", "at1"], ["r"])]
    nodes += [helper.make_node("Constant", [], ["k"], value_ints=[1, 1]), helper.make_node("Shape", ["a"], ["s"])]
    nodes += [helper.make_node("Concat", ["k", "s"], ["l"], axis=0), helper.make_node("Expand", ["at1", "l"], ["e"])]
    nodes += [helper.make_node("Relu", ["x"], ["y"])]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"])] for name in "xy"]
    graphs = [(espcn, stored), (nodes, [*stored, *sizes])]
    models = [helper.make_model(helper.make_graph(made, "net", *ports, constants)) for made, constants in graphs]
    return [Sound(model.SerializeToString()) for model in models]


DTYPES: dict[str, type[np.generic]] = {"f4": np.float32, "f8": np.float64, "i8": np.int64}
MOST_VALUES = 1_000_000  # of an array; the readers before it see to that


def architecture_files() -> list[Sound]:
    """Layers as lines of name, shape, dtype and the value that all of an array has."""
    compact = [("body.0.weight", (4, 3, 3, 3)), ("body.0.bias", (4,)), ("body.1.weight", (4,))]
    compact += [("body.2.weight", (12, 4, 3, 3)), ("body.2.bias", (12,))]
    rrdb = both("conv_first", 4, 3) + both("conv_body", 4, 4)
    for part in (1, 2, 3):
        for k in range(1, 6):
            rrdb += both(f"body.0.rdb{part}.conv{k}", 2 if k < 5 else 4, 4 + 2 * (k - 1))
    rrdb += both("conv_up1", 4, 4) + both("conv_up2", 4, 4) + both("conv_hr", 4, 4) + both("conv_last", 3, 4)
    tutorial = [*both("conv_block1.conv_block.0", 4, 3, 9), ("conv_block1.conv_block.1.weight", (1,))]
    for name in ("residual_blocks.0.conv_block1", "residual_blocks.0.conv_block2", "conv_block2"):
        tutorial += both(f"{name}.conv_block.0", 4, 4)
        tutorial += [(f"{name}.conv_block.1.{part}", (4,)) for part in ("weight", "bias")]
        tutorial += [(f"{name}.conv_block.1.running_{part}", (4,)) for part in ("mean", "var")]
    tutorial += [("residual_blocks.0.conv_block1.conv_block.2.weight", (1,))]
    name = "subpixel_convolutional_blocks.0"
    tutorial += [
        *both(f"{name}.conv", 16, 4),
        (f"{name}.prelu.weight", (1,)),
        *both("conv_block3.conv_block.0", 3, 4, 9),
    ]
    sound = []
    for layers in (compact, rrdb, tutorial):
        for wrapper in ("", "params_ema.", "generator.module."):
            lines = (f"{wrapper}{name} {','.join(map(str, shape))} f4 0.1" for name, shape in layers)
            sound.append(Sound("\n".join(lines).encode()))
    return sound


def both(name: str, outputs: int, inputs: int, side: int = 3) -> list[tuple[str, tuple[int, ...]]]:
    """A convolution's weight and bias."""
    return [(f"{name}.weight", (outputs, inputs, side, side)), (f"{name}.bias", (outputs,))]


def read_layers(content: bytes, source: str) -> Any:
    arrays: dict[str, np.ndarray] = {}
    for line in content.decode("latin-1").split("\n"):
        with suppress(KeyError, ValueError, OverflowError), np.errstate(over="ignore"):
            name, shape, kind, value = line.split(" ")
            sides = [int(side) for side in shape.split(",") if side]
            array = np.broadcast_to(DTYPES[kind](float(value)), sides)
            if array.size <= MOST_VALUES:
                arrays[name] = array
    return open_arrays(arrays, source)


READERS: dict[str, tuple[Callable[[], list[Sound]], Callable[[bytes, str], Any]]] = {
    "architectures": (architecture_files, read_layers),
    "torch": (torch_files, lambda content, source: named_arrays(read_torch(content, source), source)),
    "lasagne": (lasagne_files, read_lasagne),
    "onnx": (onnx_files, check_onnx),
    "pb": (pb_files, open_tf_pb),
    "safetensors": (safetensors_files, read_safetensors),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to five changes."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        start = rng.randrange(len(made) + 1)
        end = min(len(made), start + rng.choice((1, 1, 2, 4, 8, 40)))
        match rng.randrange(7):
            case 0:
                made[start:end] = rng.randbytes(end - start)
            case 1 if start < len(made):
                made[start] ^= 1 << rng.randrange(8)
            case 2:
                made[start:start] = rng.choice(PIECES)
            case 3:
                made[start : start + len(piece)] = (piece := rng.choice(PIECES))
            case 4:
                del made[start:end]
            case 5:
                made[start:start] = made[end : end + rng.randint(1, 60)]
            case 6 if rng.random() < 0.2:
                del made[start:]
    return bytes(made)


def guard() -> None:
    """From here on this process may neither import, open, compile nor run anything, nor take much memory."""
    import resource

    for name in ("ascii", "latin-1", "raw_unicode_escape", "utf-8"):  # Python imports those of pickles when they come
        codecs.lookup(name)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, size + MOST_MEMORY))

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if guarded and event.startswith(FORBIDDEN):
            raise AssertionError(f"{event} {given!r:.200}")

    sys.addaudithook(hook)


guarded: list[bool] = []


def fuzz(reader: str, files: int, seed: int) -> str:
    """What was seen; raises AssertionError with the kept file where something else happened."""
    make, read = READERS[reader]
    rng = random.Random(seed)  # noqa: S311 - the same files for the same seed
    corpus = make()
    for sound in corpus:
        read(sound.wrap(sound.content), "sound")
        for _ in range(50):  # so that all is imported that the refusals need
            try:
                read(sound.wrap(damaged(sound.content, rng)), "warm")
            except ModelError:
                continue
    guard()
    seen, slowest = {"read": 0, "refused": 0}, 0.0
    for _ in range(files):
        sound = rng.choice(corpus)
        content = sound.wrap(damaged(sound.content, rng))
        started, error = time.monotonic(), None
        guarded.append(True)
        try:
            read(content, "a.file")
            seen["read"] += 1
        except ModelError as refusal:
            seen["refused"] += 1
            error = None if sentence(str(refusal)) else refusal
        except BaseException as failure:  # noqa: BLE001 - whatever it is, it's what we look for
            error = failure
        guarded.clear()
        slowest = max(slowest, time.monotonic() - started)
        if error or slowest > SLOWEST_SECONDS:
            with tempfile.NamedTemporaryFile(delete=False, suffix=f".{reader}") as kept:
                kept.write(content)
            raise AssertionError(f"{reader}: {error!r:.300} after {slowest:.1f} s; the file is kept as {kept.name}")
    if not all(seen.values()):
        raise AssertionError(f"{reader}: {seen}, so the damage is too small or too large to find anything")
    return f"{reader}: {seen['read']} read, {seen['refused']} refused, the slowest in {slowest:.2f} s"


def sentence(text: str) -> bool:
    """One line that names the file, of a length that can be read."""
    return text.startswith("a.file: ") and text.isprintable() and len(text) < 400


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.stdout.write(fuzz(given.reader, given.files, given.seed) + "\n")
