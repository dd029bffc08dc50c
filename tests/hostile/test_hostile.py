"""Bad input: one sentence with the file, the value and the way out; nothing is lost, nothing half written."""

import bz2
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import StringStringEntryProto

import superfine
from hostile.makers import (
    STRANGERS,
    encoded,
    grey_tiff,
    png_bomb,
    png_lying,
    png_text_bomb,
    png_with_wrong_byte,
    tiff,
    tiff_bomb,
    with_garbage,
)
from memory import measured, peak_megabytes
from pictures import Array, chunk, doubled, enlarged, left_in, noise, png, png_chunks, run, seen, with_bytes
from superfine.conversion import convert
from superfine.exif import Tag, tiff_block
from superfine.image import open_picture
from superfine.train.foreign import open_pth
from superfine.weights.pickles import Stub, named_arrays, read_torch

KNOWN = "not a picture that superfine reads (PNG, JPEG, WEBP, AVIF, TIFF, GIF, HEIC)"
# What no person should read: names of functions, of libraries' parts, error numbers.
DEBRIS = re.compile(r"vips|_source|unable to call|\(\d+\.\d+\)|Errno|0x|Traceback|seek to|\n|iloc", re.IGNORECASE)


def refused(source: Path, words: str = "", output: Path | None = None, **options: Any) -> str:
    """The one sentence; the folder is as it was."""
    before = left_in(source.parent)
    result = run(source, output, **options)
    assert result.status == "failed", "it was accepted"
    assert left_in(source.parent) == before
    sentence = result.message.replace(str(source.parent), "")
    assert source.name in sentence
    assert not DEBRIS.search(sentence), sentence
    assert words in sentence
    return sentence


# ---- files that stop short


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("png", {}),
    ("jpeg", {}),
    ("jpeg", {"progressive": True}),
    ("webp", {}),
    ("webp", {"lossless": True}),
    ("avif", {}),
    ("tiff", {}),
    ("tiff", {"compression": "tiff_lzw"}),
    ("gif", {}),
    ("heif", {}),
]


@pytest.mark.parametrize("cut", [1, 8, 20, 60, 0.1, 0.5, 0.9, -60, -20])
@pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_cut_off(tmp_path: Path, kind: str, options: dict[str, Any], cut: float) -> None:
    if kind == "heif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    whole = encoded(kind, **options)
    source = with_bytes(tmp_path / f"a.{kind}", whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    sentence = refused(source, output=tmp_path / "b.png")
    assert "damaged or cut off: " in sentence or (isinstance(cut, int) and 0 < cut <= 8 and KNOWN in sentence)


@pytest.mark.parametrize(("kind", "missing"), [("png", 12), ("gif", 1)])
def test_a_missing_end_mark_loses_no_pixel(tmp_path: Path, kind: str, missing: int) -> None:
    whole = with_bytes(tmp_path / f"whole.{kind}", encoded(kind))
    source = with_bytes(tmp_path / f"a.{kind}", whole.read_bytes()[:-missing])
    np.testing.assert_array_equal(seen(enlarged(source, tmp_path / "b.png"), "RGB"), doubled(seen(whole, "RGB")))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".heic"])
def test_empty(tmp_path: Path, suffix: str) -> None:
    refused(with_bytes(tmp_path / f"a{suffix}", b""), "the file is empty")


# ---- files whose middle is wrong


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("kind", ["png", "avif", "gif"])
def test_garbage_that_can_be_seen(tmp_path: Path, kind: str, place: float) -> None:
    """Not in WebP, TIFF and many a JPEG: their decoders take any bytes for pixels."""
    source = with_bytes(tmp_path / f"a.{kind}", with_garbage(encoded(kind), place))
    refused(source, "damaged or cut off: ", tmp_path / "b.png")


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("seed", range(6))
def test_jpeg_that_libjpeg_warns_of(tmp_path: Path, progressive: bool, seed: int) -> None:
    """Half of the scan is gone, the end mark is there: libjpeg would fill up with grey."""
    whole = encoded("jpeg", quality=90, progressive=progressive)
    start = whole.index(b"\xff\xda") + 20 + 50 * seed
    refused(with_bytes(tmp_path / "a.jpg", whole[:start] + whole[-2:]), "damaged or cut off: ")


@pytest.mark.parametrize("mend", [False, True], ids=["chunk checksum", "pixel checksum"])
def test_png_with_one_wrong_byte(tmp_path: Path, mend: bool) -> None:
    refused(with_bytes(tmp_path / "a.png", png_with_wrong_byte(mend=mend)), "its pixels or checksums are wrong")


@pytest.mark.parametrize(("cols", "rows"), [(40, 20), (20, 40), (21, 20), (20, 21)])
def test_png_with_fewer_pixels_than_it_says(tmp_path: Path, cols: int, rows: int) -> None:
    refused(with_bytes(tmp_path / "a.png", png_lying(cols, rows)), "damaged or cut off")


def test_webp_of_another_length_than_it_says(tmp_path: Path) -> None:
    whole = encoded("webp")
    refused(
        with_bytes(tmp_path / "a.webp", whole[:4] + struct.pack("<I", len(whole) + 1000) + whole[8:]),
        "damaged or cut off",
    )


# ---- files that aren't what their name says


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_only_six_decoders_run(tmp_path: Path, kind: str, suffix: str) -> None:
    refused(with_bytes(tmp_path / f"a{suffix}", STRANGERS[kind]), KNOWN)


def test_pictures_are_known_by_content(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    output = enlarged(with_bytes(tmp_path / "a.jpg", png(pixels)), tmp_path / "b.png")
    np.testing.assert_array_equal(seen(output), doubled(pixels))


@pytest.mark.parametrize("brand", [b"mp42", b"isom", b"qt  "])
def test_films_named_like_pictures(tmp_path: Path, brand: bytes) -> None:
    refused(with_bytes(tmp_path / "a.avif", struct.pack(">I", 16) + b"ftyp" + brand + bytes(100)))


# ---- files that would take the machine down


@pytest.mark.parametrize(
    ("kind", "bomb", "size"), [("png", png_bomb, 320_000), ("tif", tiff_bomb, 5_000)], ids=["png", "tiff"]
)
def test_2500_megapixels_in_little(tmp_path: Path, kind: str, bomb: Callable[[int], bytes], size: int) -> None:
    """A PNG deflates once, to a thousandth; in a TIFF all strips may be the same bytes."""
    source = with_bytes(tmp_path / f"a.{kind}", bomb(50_000))
    assert source.stat().st_size < size
    sentence = refused(source)
    assert sentence.endswith(
        "50000 x 50000 are 2,500 megapixels, over the limit of 1,000; raise it with --max-megapixels 2500"
    )
    small = with_bytes(tmp_path / f"small.{kind}", bomb(500))
    np.testing.assert_array_equal(seen(small), np.zeros((500, 500, 1)))  # the makers make sound files


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    source = with_bytes(tmp_path / "a.png", png(noise(1000, 1001, 1)))
    refused(source, "over the limit of 1; raise it with --max-megapixels 2", max_megapixels=1.0)
    enlarged(source, max_megapixels=1.001)


@pytest.mark.parametrize(
    ("cols", "rows"), [(10**9, 10**9), (2**32 - 1, 2**32 - 1), (10**9, 1), (1, 10**9), (30000, 60000)]
)
def test_tiff_of_any_size_in_200_bytes(tmp_path: Path, cols: int, rows: int) -> None:
    refused(with_bytes(tmp_path / "a.tif", grey_tiff(cols, rows)))


@pytest.mark.parametrize(
    ("kind", "cols", "rows"), [("jpeg", 65500, 65500), ("png", 2**31 - 1, 2**31 - 1), ("webp", 16383, 16383)]
)
def test_headers_that_promise_too_much(tmp_path: Path, kind: str, cols: int, rows: int) -> None:
    whole = bytearray(encoded(kind))
    match kind:
        case "jpeg":
            place = whole.index(b"\xff\xc0") + 5
            whole[place : place + 4] = struct.pack(">HH", rows, cols)
        case "png":
            whole[8:33] = chunk(b"IHDR", struct.pack(">IIBBBBB", cols, rows, 8, 2, 0, 0, 0))
        case "webp":
            place = whole.index(b"\x9d\x01\x2a") + 3
            whole[place : place + 4] = struct.pack("<HH", cols, rows)
    refused(with_bytes(tmp_path / f"a.{kind}", bytes(whole)), max_megapixels=250.0)


@measured
def test_text_that_unpacks_to_a_gigabyte(tmp_path: Path) -> None:
    """Text is copied as it is, packed: the memory is that of the same picture without."""
    sources = [with_bytes(tmp_path / f"{size}.png", png_text_bomb(size)) for size in (0, 1000)]
    assert sources[1].stat().st_size < 2_000_000
    peaks = [peak_megabytes(source, tmp_path / f"out_{source.name}") for source in sources]
    assert peaks[1] < peaks[0] + 50, peaks
    before, after = (png_chunks(path.read_bytes()) for path in (sources[1], tmp_path / "out_1000.png"))
    assert after[b"zTXt"] == before[b"zTXt"]


@pytest.mark.parametrize("kind", ["values", "directories"])
def test_tags_that_all_lead_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """4096 values of 16 MB in a file of 16 MB; 4096 directories of 4096 directories in one of 50 KB."""
    source = tmp_path / "a.tif"
    if kind == "values":
        source.write_bytes(tiff([(40_000 + tag, 7, 15_900_000, 8) for tag in range(4096)]))
        os.truncate(source, 16_000_000)
    else:
        source.write_bytes(tiff([(34665, 4, 1, 8)] * 4096))
    started = time.perf_counter()
    block = tiff_block(source)
    assert sum(len(value.data) for value in block.values() if isinstance(value, Tag)) <= 64_000_000
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pixels beyond the file", grey_tiff(8, 8, offset=10**6)),
        ("pixels beyond 4 GB", grey_tiff(8, 8, offset=2**32 - 8, length=2**31)),
        ("no rows", grey_tiff(8, 0)),
        ("no columns", grey_tiff(0, 8)),
        ("strange depth", grey_tiff(8, 8, bits=7)),
        ("a directory beyond the file", b"II*\0" + struct.pack("<I", 10**6)),
        ("a directory of 65,535 tags", b"II*\0\x08\0\0\0\xff\xff" + bytes(64)),
        ("BigTIFF without end", b"II+\0\x08\0\0\0" + b"\xff" * 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tiff_that_lies(tmp_path: Path, name: str, data: bytes) -> None:
    assert name
    refused(with_bytes(tmp_path / "a.tif", data), output=tmp_path / "b.png")


def test_tiff_whose_directory_is_its_own_next(tmp_path: Path) -> None:
    source = with_bytes(tmp_path / "a.tif", grey_tiff(8, 8, following=8))
    assert run(source).notes == ()


@pytest.mark.parametrize(("cols", "rows"), [(0, 5), (5, 0), (0, 0)])
def test_zero_pixels(tmp_path: Path, cols: int, rows: int) -> None:
    refused(with_bytes(tmp_path / "a.png", png_lying(cols, rows)), "damaged or cut off")


# ---- files that can't be read


def test_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(superfine.SourceError, match="is a folder where a picture was expected"):
        open_picture(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """A pipe would keep us waiting for ever, a device would never end."""
    source = tmp_path / "a.png"
    match kind:
        case "fifo":
            os.mkfifo(source)
        case "device":
            source.symlink_to("/dev/zero")
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(source) if len(str(source)) > 100 else str(source))
    refused(source, "is not a regular file")


def test_missing(tmp_path: Path) -> None:
    assert refused(tmp_path / "a.png") == "/a.png: there is no such file"
    (tmp_path / "b.png").symlink_to("a.png")
    assert refused(tmp_path / "b.png") == "/b.png: there is no such file"
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(superfine.SourceError, match=r"loop\.png: can't be read: Too many levels of symbolic links$"):
        open_picture(tmp_path / "loop.png")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is played."""
    source = with_bytes(tmp_path / "a.png", png(noise(5, 7, 3)))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(superfine.SourceError, match=r"a\.png: may not be read; check its permissions$"):
        open_picture(source)


# ---- outputs that would destroy


SOURCE = png(noise(5, 7, 3))


def replacing(tmp_path: Path, how: str) -> Path:
    match how:
        case "name":
            return tmp_path / "a.png"
        case "detour":
            (tmp_path / "sub").mkdir()
            return tmp_path / "sub" / ".." / "a.png"
        case "link":
            (tmp_path / "b.png").symlink_to("a.png")
            return tmp_path / "b.png"
        case _:
            (tmp_path / "folder").symlink_to(".")
            return tmp_path / "folder" / "a.png"


@pytest.mark.parametrize("how", ["name", "detour", "link", "folder link"])
def test_the_source_is_never_replaced(tmp_path: Path, how: str) -> None:
    source = with_bytes(tmp_path / "a.png", SOURCE)
    output = replacing(tmp_path, how)
    job = superfine.Job(model="nearest")
    with_error: list[str] = []
    try:
        with_error = [r.message for r in superfine.upscale_path(source, output, job=job, overwrite=True).failed]
    except superfine.SuperfineError as error:
        with_error = [str(error)]
    assert len(with_error) == 1
    assert not DEBRIS.search(with_error[0].replace(str(tmp_path), ""))
    assert source.read_bytes() == SOURCE


def test_output_folder_missing(tmp_path: Path) -> None:
    source = with_bytes(tmp_path / "a.png", SOURCE)
    with pytest.raises(superfine.UsageError, match="there is no such folder for the output; create it first"):
        superfine.upscale_path(source, tmp_path / "no" / "b.png")
    assert left_in(tmp_path) == {"a.png"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".avif", ".gif", ".heic"])
def test_disk_full(tmp_path: Path, suffix: str) -> None:
    """The kernel stops the file at 20 KB, as a full disk would; what was there stays."""
    source = with_bytes(tmp_path / "a.png", png(noise(200, 300, 3)))
    output = with_bytes(tmp_path / f"b{suffix}", b"old")
    code = (
        "import resource, signal, sys, superfine\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "job = superfine.Job(model='nearest')\n"
        "(result,) = superfine.upscale_path(sys.argv[1], sys.argv[2], job=job, overwrite=True).results\n"
        "print(result.status, result.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(output)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"failed {output}: can't be written: "), done.stdout + done.stderr
    assert not DEBRIS.search(done.stdout.strip().replace(str(tmp_path), "")), done.stdout
    assert done.stderr == ""
    assert left_in(tmp_path) == {"a.png", output.name}
    assert output.read_bytes() == b"old"


# ---- what the user sees


def test_libraries_say_nothing(tmp_path: Path) -> None:
    """libvips and libjpeg would print warnings of their own beside the one sentence."""
    files: dict[str, bytes] = {
        "cut.jpg": encoded("jpeg")[:900],
        "garbage.jpg": with_garbage(encoded("jpeg"), 0.6),
        "cut.png": encoded("png")[:900],
        "wrong.png": png_with_wrong_byte(mend=False),
        "cut.tif": encoded("tiff")[:3000],
        "lies.tif": grey_tiff(8, 8, following=8),
        "cut.gif": encoded("gif")[:900],
        "cut.avif": encoded("avif")[:900],
        "cut.webp": encoded("webp")[:900],
        "profile.png": png(noise(5, 7, 3), extra=chunk(b"iCCP", b"x\0\0broken")),
    }
    for name, data in files.items():
        with_bytes(tmp_path / name, data)
    command = [
        sys.executable,
        "-m",
        "superfine",
        "upscale",
        *map(str, sorted(tmp_path.iterdir())),
        "--model",
        "nearest",
    ]
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.strip().startswith(("failed: ", str(tmp_path)))] == []
    for name in ("cut.jpg", "cut.png", "wrong.png", "cut.tif", "cut.gif", "cut.avif", "cut.webp"):
        assert any(name in line for line in lines), done.stderr


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    pixels: Array = noise(5, 7, 3)
    (tmp_path / "in").mkdir()
    for name, data in {"a.png": png(pixels), "b.png": b"text", "c.png": png(pixels)[:60], "d.png": png(pixels)}.items():
        with_bytes(tmp_path / "in" / name, data)
    report = superfine.upscale_path(tmp_path / "in", tmp_path / "out", job=superfine.Job(model="nearest"))
    assert {result.source.name for result in report.failed} == {"b.png", "c.png"}
    assert left_in(tmp_path / "out") - {".superfine.jsonl"} == {"a.png", "d.png"}


# ---- networks that run code


WHOLE_MODULE = """
import sys
from pathlib import Path
import torch
from torch import nn

Path(sys.argv[1]).touch()

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def __setstate__(self, state):
        Path(sys.argv[1]).touch()
        super().__setstate__(state)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.input = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.residual_layer = nn.Sequential(Block(), Block())
        self.output = nn.Conv2d(4, 1, 3, padding=1, bias=False)
"""
SAVING = """
import sys, numpy, torch, vdsr

net = vdsr.Net()
torch.save({"epoch": 50, "model": net}, "whole.pth", _use_new_zipfile_serialization=False)
numpy.savez("whole.npz", **{name: value.numpy() for name, value in net.state_dict().items()})
"""


@pytest.mark.slow
def test_a_whole_module_in_the_legacy_layout(tmp_path: Path) -> None:
    """It names its class and brings that class's text along; neither is imported, compiled or run."""
    canary = tmp_path / "canary"
    (tmp_path / "vdsr.py").write_text(WHOLE_MODULE)
    (tmp_path / "save.py").write_text(SAVING)
    subprocess.run([sys.executable, "-W", "ignore", "save.py", str(canary)], cwd=tmp_path, check=True)
    content = (tmp_path / "whole.pth").read_bytes()
    assert b"Path(sys.argv[1]).touch()" in content
    assert canary.exists()
    canary.unlink()
    loaded = set(sys.modules)
    tree = read_torch(content, "whole.pth")
    assert tree["epoch"] == 50
    assert (type(tree["model"]), tree["model"].name) == (Stub, "vdsr.Net")
    arrays = named_arrays(tree["model"], "whole.pth")
    with np.load(tmp_path / "whole.npz") as wanted:
        assert set(arrays) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(arrays[name], wanted[name], strict=True)
    with pytest.raises(superfine.ModelError, match=r"^whole\.pth: holds no network that is known "):
        open_pth(content, "whole.pth")
    assert "vdsr" not in set(sys.modules) - loaded
    assert not canary.exists()


class Evil:
    """A pickle of it asks its reader to make a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def zip_checkpoint(program: bytes, **parts: bytes) -> bytes:
    """torch's zip layout, packed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in {"data.pkl": program, "version": b"3", **parts}.items():
            archive.writestr(f"archive/{name}", part)
    return file.getvalue()


def onnx_with(**facts: Any) -> bytes:
    """An ONNX file whose only weight is described by `facts`."""
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, **facts)
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "net", *ports, [weight])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def safetensors_with(header: dict[str, Any], length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)


BILLIONS = {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}
HARMFUL: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "a call in a zip checkpoint": (
        "a.pth", lambda canary: zip_checkpoint(pickle.dumps(Evil(canary), 2)), "calls posix.mkdir"
    ),
    "a call in a legacy checkpoint": (
        "a.pt",
        lambda canary: b"".join(
            pickle.dumps(part, 2)
            for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Evil(canary), [])
        ),
        "calls posix.mkdir",
    ),
    "a call in place of arrays": (
        "a.pkl.bz2", lambda canary: bz2.compress(pickle.dumps((Evil(canary), {}))), "calls posix.mkdir"
    ),
    "a zip bomb": ("a.pth.tar", lambda _: zip_checkpoint(b"N.", **{"data/0": bytes(60_000_000)}), "unpacks to"),
    "a bz2 bomb": ("a.pkl.bz2", lambda _: bz2.compress(bytes(60_000_000)), "unpacks to more than"),
    "a length beyond a graph": ("a.pb", lambda _: b"\x0a\xff\xff\xff\xff\x07abc", "cut off"),
    "a length beyond a network": ("a.onnx", lambda _: onnx_with(raw_data=b"1234", dims=[1])[:-9], "cut off"),
    "a header of 2^62 bytes": ("a.safetensors", lambda _: safetensors_with({}, 2**62), ""),
    "a header that promises": ("a.safetensors", lambda _: safetensors_with({"a": BILLIONS}), ""),
    "a constant of 10^9 elements": ("a.onnx", lambda _: onnx_with(raw_data=b"1234", dims=[10**9]), "1,000,000,000"),
    "weights in another file": (
        "a.onnx",
        lambda _: onnx_with(
            dims=[1], data_location=1, external_data=[StringStringEntryProto(key="location", value="../../etc/passwd")]
        ),
        "other files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMFUL)
def test_networks_that_mean_harm(tmp_path: Path, kind: str) -> None:
    """At the door: nothing is run, no memory is taken on a file's word."""
    name, make, words = HARMFUL[kind]
    canary = tmp_path / "canary"
    path = with_bytes(tmp_path / name, make(canary))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(superfine.ModelError) as caught:
            convert(path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000 + 25 * size
    finally:
        tracemalloc.stop()
    sentence = str(caught.value).replace(str(tmp_path), "")
    assert sentence.startswith(f"/{name}: ")
    assert not DEBRIS.search(sentence)
    assert words in sentence
    assert not canary.exists()
    assert left_in(tmp_path) == {name}
