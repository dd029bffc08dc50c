"""Damaged weights by the thousand: each is read, or refused with one sentence; nothing else may happen.

    python tests/hostile/fuzz_weights.py --seconds 30 --reader torch --seed 0

Sound files are made, then bytes of them are changed, cut, doubled and swapped
for pieces that mean something, outside and inside of their packing. A failure
is any error but ModelError, an import, a file opened, code compiled or run, a
gigabyte of memory, or ten seconds for one file; the file is kept then.
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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from superfine.errors import ModelError
from superfine.weights.lasagne import read_lasagne
from superfine.weights.pickles import named_arrays, read_torch
from superfine.weights.safetensors import read_safetensors

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


READERS: dict[str, tuple[Callable[[], list[Sound]], Callable[[bytes, str], Any]]] = {
    "torch": (torch_files, lambda content, source: named_arrays(read_torch(content, source), source)),
    "lasagne": (lasagne_files, read_lasagne),
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


def fuzz(reader: str, seconds: float, seed: int) -> str:
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
    began, seen, slowest = time.monotonic(), {"read": 0, "refused": 0}, 0.0
    while time.monotonic() - began < seconds:
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
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.stdout.write(fuzz(given.reader, given.seconds, given.seed) + "\n")
