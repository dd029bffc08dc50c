"""From weights of other frameworks to a file with a card: what is found, said, kept and refused."""

import json
import os
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import superfine
from superfine import conversion
from superfine.cli import app, main
from superfine.conversion import convert, converted, is_foreign
from superfine.engine import open_engine
from superfine.errors import EngineError, MissingExtraError, ModelError, OutputError, SuperfineError, UsageError
from superfine.evaluate.methods import BASELINES
from superfine.models import read_model, with_card

run = CliRunner().invoke
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
STATED = {"colour": "rgb", "span": "0..1"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SUPERFINE_CACHE", str(folder))
    return folder


def compact(*, scale=2, width=8, depth=2, seed=0):
    """Weights of a Compact network (SRVGG) by name, small enough to keep pictures in range."""
    draw = np.random.default_rng(seed)
    arrays, taken, outputs = {}, 3, [width] * (depth + 1) + [3 * scale**2]
    for place, made in enumerate(outputs):
        spread = 0.3 / np.sqrt(9 * taken)
        arrays[f"body.{2 * place}.weight"] = draw.normal(0, spread, (made, taken, 3, 3)).astype(np.float32)
        arrays[f"body.{2 * place}.bias"] = draw.normal(0, 0.02, made).astype(np.float32)
        if place <= depth:
            arrays[f"body.{2 * place + 1}.weight"] = draw.uniform(0, 0.3, made).astype(np.float32)
        taken = made
    return arrays


def safetensors(arrays):
    header, data = {}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(safetensors(compact()))
    return path


def stranger(nodes, stored, *, sides=("h", "w"), scale=2):
    """An ONNX file of another maker, x -> z by `nodes`, then nearest neighbour."""
    large = [side * scale if isinstance(side, int) else side.upper() for side in sides]
    resize = helper.make_node("Resize", ["z", "roi", "scales"], ["y"], **NEAREST)
    stored = {"roi": np.empty(0, np.float32), "scales": np.float32([1, 1, scale, scale])} | stored
    graph = helper.make_graph(
        [*nodes, resize],
        "stranger",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, *sides])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, *large])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def far(distance=40, share=0.3, **ports):
    """Each pixel holds `share` of the one that lies so far to its right."""
    nodes = [
        helper.make_node("Slice", ["x", "distance", "end", "axis"], ["right"]),
        helper.make_node("Pad", ["right", "margins"], ["moved"]),
        helper.make_node("Mul", ["moved", "share"], ["some"]),
        helper.make_node("Mul", ["x", "rest"], ["most"]),
        helper.make_node("Add", ["some", "most"], ["z"]),
    ]
    stored = {"distance": np.array([distance]), "end": np.array([2**40]), "axis": np.array([3])}
    stored |= {"margins": np.array([0] * 7 + [distance]), "share": np.float32(share), "rest": np.float32(1 - share)}
    return stranger(nodes, stored, **ports)


def balanced():
    """Sees the whole picture: all of its mean is taken off."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["free"]),
        helper.make_node("Add", ["free", "half"], ["z"]),
    ]
    return stranger(nodes, {"half": np.float32(0.5)})


def saved(tmp_path, content, name="stranger.onnx"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


# ---- what is found


def test_the_card_says_what_was_found(weights, tmp_path):
    made = convert(weights, licence="CC0")
    made.save(tmp_path / "small.onnx")
    model = read_model(tmp_path / "small.onnx")
    card = model.card
    assert (card.name, card.scale, card.halo, card.halo_kind, card.multiple_of) == ("small", 2, 4, "exact", 1)
    assert card.parameters == sum(array.size for array in compact().values())
    assert card.licence == "as stated by who converted it: CC0"
    assert re.fullmatch(r"small\.safetensors, sha256 [0-9a-f]{64}", card.source)
    assert made.parity.largest < 0.01
    assert made.parity.witness
    pixels = np.random.default_rng(1).random((24, 20, 3), dtype=np.float32)
    given = open_engine(model, "openvino", "fp32")(pixels[None])
    wanted = np.clip(conversion.open_weights(weights).reference(pixels), 0, 1)
    np.testing.assert_allclose(given, wanted, atol=1e-4)


def test_a_licence_that_nobody_stated(weights):
    assert convert(weights).model.card.licence == "not stated"


def test_a_far_look_is_measured(tmp_path):
    card = convert(saved(tmp_path, far()), **STATED).model.card
    assert (card.halo, card.halo_kind, card.rows, card.cols) == (40, "practical", 0, 0)
    assert "as given" in card.colour


def test_who_sees_the_whole_picture_gets_it(tmp_path):
    path = saved(tmp_path, balanced())
    made = convert(path, **STATED)
    assert made.model.card.halo_kind == "whole"
    made.save(tmp_path / "whole.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (300, 500, 3), np.uint8)
    large = superfine.upscale(pixels, model=str(tmp_path / "whole.onnx"))
    wanted = pixels - pixels.mean(axis=(0, 1)) + 127.5
    assert np.abs(large - wanted.clip(0, 255).repeat(2, axis=0).repeat(2, axis=1)).max() < 1.5


def test_a_fixed_size_covers_any_picture(tmp_path):
    """Tiles overlap by the halo, so what the network sees of the picture is all that it can."""
    made = convert(saved(tmp_path, far(10, sides=(96, 128))), **STATED)
    card = made.model.card
    assert (card.rows, card.cols, card.halo, card.halo_kind) == (96, 128, 10, "practical")
    made.save(tmp_path / "fixed.onnx")
    for size in ((7, 9), (96, 128), (150, 301)):
        pixels = np.random.default_rng(3).random((*size, 3), dtype=np.float32)
        large = superfine.upscale(pixels, model=str(tmp_path / "fixed.onnx"))
        seen = np.zeros_like(pixels)
        seen[:, :-10] = pixels[:, 10:] if size[1] > 10 else 0
        wanted = (0.7 * pixels + 0.3 * seen).repeat(2, axis=0).repeat(2, axis=1)
        kept = slice(0, max(0, 2 * (size[1] - 10)))  # at the border the network sees padding, not zeros
        np.testing.assert_allclose(large[:, kept], wanted[:, kept], atol=1e-6)


def test_bf16_is_for_networks_that_bear_it(weights, monkeypatch):
    monkeypatch.setattr(conversion, "cpu_features", lambda: {"native precisions": "FP32"})
    assert convert(weights).model.card.needs_fp32
    monkeypatch.setattr(conversion, "cpu_features", lambda: {"native precisions": "FP32, BF16"})
    monkeypatch.setattr(conversion, "open_engine", lambda model, engine, precision: open_engine(model, engine, "fp32"))
    assert not convert(weights).model.card.needs_fp32


def test_progress_is_told_in_words(tmp_path):
    said = []
    convert(saved(tmp_path, far()), **STATED, say=said.append)
    assert said[0] == "stranger.onnx: reading"
    assert said[1].startswith("stranger.onnx: comparing with onnx ")
    assert said[2] == "stranger.onnx: measuring how far it looks, up to 64 px"


# ---- what is refused


def test_a_conversion_that_computes_something_else_is_refused(weights, monkeypatch):
    honest = conversion._opened

    def opened(*given):
        network = honest(*given)
        return replace(network, reference=lambda pixels: network.reference(pixels) + 0.06 / 255)

    monkeypatch.setattr(conversion, "_opened", opened)
    with pytest.raises(
        ModelError, match=r"small\.safetensors: .*differs by up to 0\.06 of a level.*more than 0\.05, or .* is refused"
    ):
        convert(weights)


@pytest.mark.parametrize(("off", "taken"), [(0.15, True), (0.19, False)])
def test_what_the_original_rounds_to_is_allowed_for(weights, monkeypatch, off, taken):
    honest = conversion._opened

    def opened(*given):
        network = honest(*given)
        return replace(network, rounding=0.125, reference=lambda pixels: network.reference(pixels) + off / 255)

    monkeypatch.setattr(conversion, "_opened", opened)
    if taken:
        assert convert(weights).parity.tolerance == 0.175
    else:
        with pytest.raises(ModelError, match=r"more than 0\.175, .* is refused: get the weights again"):
            convert(weights)


def test_nan_is_refused_in_words_that_fit(weights, tmp_path):
    arrays = compact()
    arrays["body.4.bias"][:] = np.float32(3e38)
    arrays["body.2.weight"][:] = np.float32(3e38)
    weights.write_bytes(safetensors(arrays))
    with pytest.raises(EngineError, match=r"gave NaN or infinity.*; it isn't converted: get the weights again$"):
        convert(weights)
    nodes = [helper.make_node("Sub", ["x", "all"], ["less"]), helper.make_node("Sqrt", ["less"], ["z"])]
    path = saved(tmp_path, stranger(nodes, {"all": np.float32(2)}))
    with pytest.raises(EngineError) as failed:
        convert(path, **STATED)
    assert str(failed.value) == f"{path}: gave NaN or infinity, in fp32 too; it isn't converted: get the weights again"


def test_nan_is_refused(tmp_path):
    nodes = [helper.make_node("Sub", ["x", "all"], ["less"]), helper.make_node("Sqrt", ["less"], ["z"])]
    with pytest.raises((EngineError, ModelError, UsageError), match=r"stranger\.onnx: "):
        convert(saved(tmp_path, stranger(nodes, {"all": np.float32(2)})), **STATED)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.txt", b"", UsageError, r"a\.txt: weights are known by their endings, \.pth\.tar, "),
        ("a.pth", b"no zip", ModelError, r"a\.pth: "),
        ("a.safetensors", b"\xff" * 20, ModelError, r"a\.safetensors: "),
        ("a.pb", b"\xff" * 20, ModelError, r"a\.pb: "),
        ("a.pkl.bz2", b"\xff" * 20, ModelError, r"a\.pkl\.bz2: "),
        ("a.onnx", b"\xff" * 20, ModelError, r"a\.onnx: not an ONNX file"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, error, words):
    with pytest.raises(error, match=words):
        convert(saved(tmp_path, content, name))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"no\.pth: there is no such model file"):
        convert(tmp_path / "no.pth")


@pytest.mark.parametrize(("missing", "extra"), [("onnx", "convert"), ("torch", "train")])
def test_extras_are_named(tmp_path, monkeypatch, missing, extra):
    monkeypatch.setattr(conversion, "find_spec", lambda name: None if name == missing else True)
    with pytest.raises(MissingExtraError, match=rf"a\.pth: .* needs the extra '{extra}': pip install"):
        convert(saved(tmp_path, b"", "a.pth"))


def test_wishes_for_another_kind(weights):
    with pytest.raises(UsageError, match="--foreign-colour and --foreign-range are for .onnx"):
        convert(weights, colour="bgr")
    with pytest.raises(UsageError, match=r"has one end; --node is for \.pb files that have several"):
        convert(weights, output="end")


def test_a_file_with_a_card_is_one_already(weights, tmp_path):
    convert(weights).save(tmp_path / "small.onnx")
    with pytest.raises(UsageError, match=r"small\.onnx: has a card already; use it as it is"):
        convert(tmp_path / "small.onnx")
    assert not is_foreign(str(tmp_path / "small.onnx"))
    assert is_foreign(str(weights))
    assert not is_foreign("fast-x2")


def test_a_range_that_a_test_must_find(tmp_path):
    """Nearest neighbour is the same in any range, so the first will do; a negative fits none."""
    plain = convert(saved(tmp_path, stranger([helper.make_node("Identity", ["x"], ["z"])], {})))
    assert "as good as any" in plain.model.card.colour
    negative = stranger([helper.make_node("Sub", ["one", "x"], ["z"])], {"one": np.float32(1)})
    with pytest.raises(UsageError, match="gives a test picture back in no convention"):
        convert(saved(tmp_path, negative))


def test_what_is_there_is_kept(weights, tmp_path):
    made = convert(weights)
    made.save(tmp_path / "small.onnx")
    with pytest.raises(OutputError, match=r"small\.onnx: exists already; replace it with --overwrite"):
        made.save(tmp_path / "small.onnx")
    made.save(tmp_path / "small.onnx", overwrite=True)
    with pytest.raises(OutputError, match="can't be written"):
        made.save(tmp_path / "no" / "small.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("name", ["pipe.pth", "pipe.onnx"])
def test_a_pipe_is_no_file_of_weights(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for opened in (convert, converted):
        with pytest.raises(ModelError, match=rf"{name}: is no regular file"):
            opened(tmp_path / name)
    with pytest.raises(ModelError, match=rf"{name}: is no regular file"):
        run(app, ["upscale", "photo.png", "--model", str(tmp_path / name)], catch_exceptions=False)


def test_a_folder_is_no_file_of_weights(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelError, match=r"folder\.pth: is no regular file"):
        convert(tmp_path / "folder.pth")


@pytest.mark.parametrize("name", [b"bad\xff.safetensors", b"new\nline.safetensors"])
def test_names_that_cannot_be_printed(weights, cache, name):
    try:
        path = weights.rename(weights.with_name(os.fsdecode(name)))
    except OSError:
        pytest.skip("the file system has no such names")
    shown = os.fsdecode(name).encode("unicode_escape").decode()
    card = read_model(converted(path)).card
    assert (card.name, card.source.split(", ")[0]) == (shown.removesuffix(".safetensors"), shown)
    output = path.with_suffix(".onnx")
    done = run(app, ["convert", str(path), "-o", str(output), "--licence", "by\nme"])
    assert done.exit_code == 0
    card = read_model(output).card
    assert (card.name, card.licence) == (
        shown.removesuffix(".safetensors"),
        "as stated by who converted it: by\\nme",
    )


# ---- the cache


def test_converted_once(weights, cache, monkeypatch):
    first = converted(weights)
    assert first.parent == cache
    monkeypatch.setattr(conversion, "_converted", lambda *given: pytest.fail("it was converted again"))
    assert converted(weights) == first


def test_what_was_said_makes_another(tmp_path):
    path = saved(tmp_path, stranger([helper.make_node("Identity", ["x"], ["z"])], {}))
    assert converted(path, colour="rgb", span="0..1") != converted(path, colour="bgr", span="0..1")


def test_another_file_of_the_same_name_makes_another(weights):
    first = converted(weights)
    weights.write_bytes(safetensors(compact(seed=1)))
    assert converted(weights) != first


@pytest.mark.parametrize("harm", ["cut", "one bit", "another card", "empty"])
def test_a_damaged_one_is_made_anew(weights, harm):
    kept = converted(weights)
    sound = kept.read_bytes()
    broken = bytearray(sound)
    broken[len(sound) // 2] ^= 1
    card = replace(read_model(kept).card, halo=0)
    kept.write_bytes(
        {
            "cut": sound[:-20],
            "one bit": bytes(broken),
            "another card": with_card(sound, card),
            "empty": b"",
        }[harm]
    )
    assert converted(weights).read_bytes() == sound


def test_a_cache_that_cannot_be_written(weights, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SUPERFINE_CACHE", str(tmp_path / "file" / "inside"))
    monkeypatch.setattr(conversion, "_converted", lambda *given: pytest.fail("it began"))
    with pytest.raises(OutputError, match="can't be kept there: .*; name another in SUPERFINE_CACHE"):
        converted(weights)


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("SUPERFINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert conversion.cache_folder() == Path("/there/superfine")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert conversion.cache_folder() == Path.home() / ".cache" / "superfine"


# ---- the doors


def test_the_verb(weights, tmp_path):
    done = run(app, ["convert", str(weights), "-o", str(tmp_path / "mine.onnx"), "--licence", "CC0"])
    assert done.exit_code == 0
    assert "halo        4 px, exact: tiles equal the whole picture" in done.stdout
    assert "licence     as stated by who converted it: CC0" in done.stdout
    assert "parity      differs by up to" in done.stdout
    assert "small.safetensors: reading" in done.stderr
    assert read_model(tmp_path / "mine.onnx").card.name == "mine"


def test_the_verb_in_json(weights, tmp_path):
    done = run(app, ["convert", str(weights), "-o", str(tmp_path / "mine.onnx"), "--json"])
    facts = json.loads(done.stdout)
    model = read_model(tmp_path / "mine.onnx")
    assert (facts["sha256"], facts["halo_kind"], facts["scale"]) == (model.sha256, "exact", 2)
    assert facts["parity"]["largest_levels"] <= facts["parity"]["tolerance_levels"] == 0.05


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        ("mine.pth", UsageError, "mine.pth: give it a name that ends in .onnx"),
        ("no/mine.onnx", OutputError, "make it first"),
        ("folder.onnx", OutputError, "is a folder; give the name of a file"),
        ("there.onnx", OutputError, "exists already; replace it with --overwrite"),
    ],
)
def test_what_cannot_be_written_is_said_first(weights, tmp_path, monkeypatch, output, error, words):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"kept")
    monkeypatch.setattr(conversion, "convert", lambda *given, **named: pytest.fail("it began"))
    with pytest.raises(error, match=re.escape(words)):
        run(app, ["convert", str(weights), "-o", str(tmp_path / output)], catch_exceptions=False)
    assert (tmp_path / "there.onnx").read_bytes() == b"kept"


def test_the_source_is_never_the_output(tmp_path):
    path = saved(tmp_path, far())
    with pytest.raises(OutputError, match="the output is the source itself"):
        run(app, ["convert", str(path), "-o", str(path), "--overwrite"], catch_exceptions=False)


def test_errors_are_one_sentence(tmp_path, monkeypatch, capsys):
    path = saved(tmp_path, b"nothing", "a.pth")
    monkeypatch.setattr(sys, "argv", ["superfine", "convert", str(path), "-o", str(tmp_path / "a.onnx")])
    with pytest.raises(SystemExit) as stopped:
        main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1
    assert last.startswith(f"superfine: {path}: ")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


def test_upscale_takes_weights(weights, photo, tmp_path):
    done = run(app, ["upscale", str(photo), "--model", str(weights), "-o", str(tmp_path / "large.png")])
    assert done.exit_code == 0
    assert "converted once, for this and later runs" in done.stderr
    convert(weights).save(tmp_path / "small.onnx")
    wanted = superfine.upscale(photo, model=str(tmp_path / "small.onnx"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "large.png")), wanted)
    again = run(app, ["upscale", str(photo), "--model", str(weights), "-o", str(tmp_path / "again.png")])
    assert "converted" not in again.stderr


def test_a_range_that_is_missing_is_asked_for_by_every_verb(photo, tmp_path):
    negative = stranger([helper.make_node("Sub", ["one", "x"], ["z"])], {"one": np.float32(1)})
    path = saved(tmp_path, negative)
    with pytest.raises(UsageError, match=r"in no convention.* say with --foreign-colour and --foreign-range"):
        run(app, ["upscale", str(photo), "--model", str(path)], catch_exceptions=False)
    with pytest.raises(UsageError, match=r"in no convention.*--foreign-range.*, to superfine convert"):
        run(app, ["models", "show", str(path)], catch_exceptions=False)


def test_upscale_hears_how_a_stranger_wants_its_pixels(photo, tmp_path):
    dimmer = stranger(
        [helper.make_node("Mul", ["x", "half"], ["z"])], {"half": np.float32([0.5, 1, 1]).reshape(1, 3, 1, 1)}
    )
    path = saved(tmp_path, dimmer)
    stated = ["--foreign-colour", "bgr", "--foreign-range", "0..1"]
    done = run(app, ["upscale", str(photo), "--model", str(path), "-o", str(tmp_path / "large.png"), *stated])
    assert done.exit_code == 0
    pixels = np.asarray(Image.open(photo)).repeat(2, axis=0).repeat(2, axis=1)
    wanted = pixels * [1, 1, 0.5]
    assert np.abs(np.asarray(Image.open(tmp_path / "large.png")) - wanted).max() <= 0.5
    with pytest.raises(UsageError, match=r"fast-x2: --foreign-colour and --foreign-range are for \.onnx files without"):
        run(app, ["upscale", str(photo), "--model", "fast-x2", *stated], catch_exceptions=False)


def test_python_says_how_weights_are_converted(weights, photo):
    with pytest.raises(
        UsageError, match=r"is no \.onnx file with a card; .*superfine\.convert\('.*small\.safetensors'\)"
    ):
        superfine.upscale(photo, model=str(weights))


def test_evaluate_and_models_take_weights(weights, photo):
    folder = photo.parent / "set"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    done = run(app, ["evaluate", str(folder), "--models", str(weights), "--json"])
    rows = [line for line in map(json.loads, done.stdout.splitlines()) if line["kind"] == "row"]
    assert "small" in {row["model"] for row in rows}
    shown = run(app, ["models", "show", str(weights), "--json"])
    assert json.loads(shown.stdout)["source"].startswith("small.safetensors, sha256 ")


def undrifted(notes):
    """Without the note that a network of random weights drifts."""
    return tuple(note for note in notes if "drifted: made small again" not in note)


def test_the_report_says_what_tiles_promise(tmp_path):
    noise = np.random.default_rng(5).integers(0, 256, (70, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "long.png")
    convert(saved(tmp_path, far()), name="far", **STATED).save(tmp_path / "far.onnx")
    convert(saved(tmp_path, balanced()), name="whole", **STATED).save(tmp_path / "whole.onnx")

    def result(name, source="long.png", **job):
        job = superfine.Job(model=str(tmp_path / f"{name}.onnx"), **job)
        (made,) = superfine.upscale_path(tmp_path / source, tmp_path / f"{name}.png", job=job, overwrite=True).results
        return made

    tiled = result("far")
    assert tiled.halo_kind == "practical"
    assert "tiles of far equal the whole picture but for a quarter of a level (practical halo)" in tiled.notes
    at_once = result("whole")
    assert at_once.halo_kind == "whole"
    assert undrifted(at_once.notes) == ()
    short = result("whole", memory_gb=0.275)
    assert "whole sees the whole picture and got it in tiles: their seams may show" in short.notes


def test_errors_name_the_file_that_was_given(weights, photo, cache):
    folder = photo.parent / "set"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    for words in (
        ["evaluate", str(folder), "--models", str(weights), "--scale", "3"],
        ["compare", str(folder / "photo.png"), "--models", f"bicubic,{weights}", "--scale", "3"],
        ["upscale", str(folder), "--model", str(weights), "--sharpness", "0.5"],
        ["upscale", str(folder), "--model", str(weights), "--precision", "none"],
    ):
        failed = run(app, words)
        assert isinstance(failed.exception, SuperfineError)
        assert str(cache) not in str(failed.exception)
        assert str(weights) in str(failed.exception) or "none" in words
    failed = run(app, ["upscale", str(folder), "--model", str(weights), "--scale", "1"])
    assert "'small' has no network for that" in failed.stderr


def test_files_of_one_stem_are_told_apart(weights, photo, tmp_path):
    """By the stem where that will do, else by the kind, else by the folder; never by a name in the cache."""
    folder = tmp_path / "set"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    names = []
    for seed, name in enumerate(("other.safetensors", "a/small.safetensors", "b/small.safetensors", "small.onnx")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(safetensors(compact(seed=seed)))
        names.append(str(path))
    made = convert(names[0])
    Path(names[3]).unlink()
    made.save(names[3])
    renamed = replace(made.model.card, name="small")
    Path(names[3]).write_bytes(with_card(made.model.content, renamed))
    called = {"other", names[1], names[2], "small.onnx"}
    done = run(app, ["evaluate", str(folder), "--models", ",".join(names), "--json"])
    rows = [line for line in map(json.loads, done.stdout.splitlines()) if line["kind"] == "row"]
    assert {row["model"] for row in rows} - set(BASELINES) == called
    page = str(tmp_path / "page.html")
    done = run(app, ["compare", str(folder / "photo.png"), "--models", ",".join(names), "-o", page, "--json"])
    assert {json.loads(line)["name"] for line in done.stdout.splitlines()} == called
    twice = run(
        app, ["compare", str(folder / "photo.png"), "--models", f"{names[0]},{names[0]}", "-o", page, "--overwrite"]
    )
    assert "is there twice" in str(twice.exception)


@pytest.mark.parametrize("verb", ["convert", "upscale", "models", "evaluate", "compare"])
def test_stopped_while_converting(weights, photo, tmp_path, monkeypatch, verb):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_converted", stop)
    words = {
        "convert": ["convert", str(weights), "-o", str(tmp_path / "mine.onnx")],
        "upscale": ["upscale", str(photo), "--model", str(weights)],
        "models": ["models", "show", str(weights)],
        "evaluate": ["evaluate", str(tmp_path), "--models", str(weights)],
        "compare": ["compare", str(photo), "--models", f"bicubic,{weights}"],
    }[verb]
    done = run(app, words)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "stopped; nothing was written"


def test_deep_pictures_through_networks_of_8_bit_levels(weights, tmp_path):
    made = convert(weights)
    for name, colour in (("rough", "Y by the network, in 8-bit levels of full-range BT.601"), ("fine", "RGB")):
        card = replace(made.model.card, name=name, colour=colour)
        (tmp_path / f"{name}.onnx").write_bytes(with_card(made.model.content, card))
    grey = np.random.default_rng(6).integers(0, 65536, (20, 24), np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "plain.png")

    def notes(model, source):
        job = superfine.Job(model=str(tmp_path / f"{model}.onnx"))
        (made,) = superfine.upscale_path(
            tmp_path / f"{source}.png", tmp_path / "made.png", job=job, overwrite=True, resume=False
        ).results
        assert made.status == "done"
        return undrifted(made.notes)

    assert notes("rough", "deep") == ("rough works in 8-bit levels; what 16 bits hold between them is lost",)
    assert notes("rough", "plain") == notes("fine", "deep") == ()
