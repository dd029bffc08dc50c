"""Networks on their engines: in pieces as whole, to the bit; never NaN; a wish is met or refused."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.signal import correlate
from skimage import data

import superfine.engine
from fakes import clip_network, clip_network_truth, model_of, tiled
from superfine.classical.resample import resize
from superfine.engine import LEAST_SIDE, ClassicalEngine, cpu_features, engine_state, load_model, open_engine, still
from superfine.errors import EngineError, MissingExtraError, ModelError, ShapeError, UsageError
from superfine.models import CLASSICAL, MATLAB, list_models

MODELS = list_models()
TESTED = [model for model in MODELS if model.card.scale == 2 or model.card.name.startswith("fast-x")]
BF16 = "BF16" in cpu_features()["native precisions"]
RUNS = [("openvino", "fp32"), *([("openvino", "bf16")] if BF16 else []), ("onnxruntime", "fp32")]
KINDS = [np.uint8, np.uint16, np.float32]
each_run = pytest.mark.parametrize("run", RUNS, ids="-".join)
# `fast`, at two scales, stands for all at every turn; the others have their turn among the slow tests.
ALWAYS = ("fast-x2", "fast-x4")
each_model = pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=[] if model.card.name in ALWAYS else pytest.mark.slow) for model in TESTED],
    ids=[model.card.name for model in TESTED],
)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
needs_bf16 = pytest.mark.skipif(not BF16, reason="this CPU has no native bf16")


def picture(size, kind, seed=0, channels=3):
    """Half noise, half slopes, so that both have to come out right."""
    draw = np.random.default_rng(seed)
    noise = draw.random((*size, channels), dtype=np.float32)
    slope = np.linspace(0, 1, size[0] * size[1] * channels, dtype=np.float32).reshape(*size, channels)
    return in_kind(np.where(draw.random(size)[..., None] < 0.5, noise, slope), kind)


def in_kind(unit, kind):
    return unit if kind == np.float32 else np.rint(unit * np.iinfo(kind).max).astype(kind)


def moving(frames, size, kind, seed=0):
    """A clip of `picture`: a pixel down and two to the left from frame to frame, later ones with noise of their own."""
    pixels, draw = picture(size, np.float32, seed), np.random.default_rng(seed)
    clip = np.stack([np.roll(pixels, (place, -2 * place), (0, 1)) for place in range(frames)])
    clip[1:] += draw.normal(0, 0.02, clip[1:].shape).astype(np.float32)
    return in_kind(clip.clip(0, 1), kind)


def on_grid(clip, engine):
    """(frames, h, w, c), grown to the engine's grid by its edge, as tiles do it."""
    rows, cols = (-side % engine.multiple_of for side in clip.shape[1:3])
    return np.pad(clip, ((0, 0), (0, rows), (0, cols), (0, 0)), mode="edge")


# ---- in pieces as whole


def assert_pieces_are_the_whole(engine, clip, tile, least=LEAST_SIDE):
    whole = engine(on_grid(clip, engine))[: clip.shape[1] * engine.scale, : clip.shape[2] * engine.scale]
    np.testing.assert_array_equal(tiled(clip, engine, tile, least=least), whole, f"{clip.shape}, tile {tile}")


@each_kind
@each_run
@each_model
def test_tiled_equals_whole_to_the_bit(model, run, kind):
    engine = open_engine(model, *run, threads=1)
    for size in [(1, 1), (1, 2), (2, 1), (5, 7), (20, 131), (150, 131)]:
        for tile in (16, 32, 48):
            assert_pieces_are_the_whole(engine, moving(engine.frames, size, kind), tile)


def order_of_adding(outputs, inputs):
    """A kernel whose large taps cancel: what is left tells in nearly every pixel in which order they were added."""
    draw = np.random.default_rng(0)
    kernel = draw.normal(0, 1, (outputs, inputs * 9)).astype(np.float32)
    for taps in kernel:
        plus, minus = draw.permutation(inputs * 9)[: inputs * 6].reshape(2, -1)
        taps[plus] = 2.0 ** draw.integers(14, 19, inputs * 3)
        taps[minus] = -taps[plus]
    return kernel.reshape(outputs, inputs, 3, 3)


ENDING = [
    ("Mul", ["sums", "little"], "small", {}),
    ("Add", ["small", "half"], "unit", {}),
    ("DepthToSpace", ["unit"], "y", {"blocksize": 2, "mode": "CRD"}),
]
ADDING = {
    "few channels": [("Conv", ["x", "few"], "sums", {"pads": [1] * 4})],
    "no zero padding": [
        ("Conv", ["x", "wide"], "p", {"pads": [1] * 4}),
        ("Pad", ["p", "around"], "q", {"mode": "reflect"}),
        ("Conv", ["q", "many"], "sums", {}),
    ],
}


@each_run
@pytest.mark.parametrize("nodes", ADDING.values(), ids=ADDING)
def test_every_tile_adds_in_the_order_of_the_whole(nodes, run):
    """Fails on CPUs with AMX where tiles are narrower than 51 px; others add in one order whatever the width."""
    wide = np.random.default_rng(2).normal(0, 0.3, (64, 3, 3, 3)).astype(np.float32)
    weights = {"few": order_of_adding(12, 3), "wide": wide, "many": order_of_adding(12, 64)}
    weights |= {"little": np.float32([2**-8]), "half": np.float32([0.5]), "around": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    used = {name for _, inputs, _, _ in nodes for name in inputs} | {"little", "half"}
    weights = {name: value for name, value in weights.items() if name in used}
    engine = open_engine(model_of([*nodes, *ENDING], weights, fp32_end=True), *run, threads=1)
    for size in [(5, 150), (150, 5), (150, 20), (110, 121)]:
        for tile in (16, 45):
            assert_pieces_are_the_whole(engine, picture(size, np.float32)[None], tile)


@pytest.mark.slow
@each_run
@each_model
def test_tiled_equals_whole_wherever_one_looks(model, run):
    engine, draw = open_engine(model, *run), np.random.default_rng(2026)
    for seed in range(60 if model.card.parameters < 50_000 else 5):
        size, tile, kind = tuple(draw.integers(1, 200, 2).tolist()), int(draw.integers(1, 80)), KINDS[seed % 3]
        assert_pieces_are_the_whole(engine, moving(engine.frames, size, kind, seed), tile)


@pytest.mark.slow
@each_run
@each_model
def test_tiled_equals_whole_at_the_tile_of_the_card(model, run):
    engine = open_engine(model, *run)
    assert_pieces_are_the_whole(engine, moving(engine.frames, (700, 1001), np.uint8), model.card.tile)


@each_model
def test_threads_change_nothing(model):
    one, two = (open_engine(model, threads=threads) for threads in (1, 2))
    clip = on_grid(moving(one.frames, (97, 101), np.uint8), one)
    np.testing.assert_array_equal(one(clip), two(clip))


@each_run
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_calls_at_once_change_nothing(run, streams):
    """Forty pictures of one shape and twelve of others by four threads: each gets what it gets alone."""
    draw = np.random.default_rng(0)
    sizes = [*[(61, 83)] * 40, *[(int(draw.integers(1, 70)), 40) for _ in range(12)]]
    pictures = [picture(size, np.uint8, seed)[None] for seed, size in enumerate(sizes)]
    model = next(model for model in MODELS if model.card.name == "fast-x2")
    alone, engine = open_engine(model, *run, threads=1), open_engine(model, *run, streams=streams)
    with ThreadPoolExecutor(4) as pool:
        for pixels, large in zip(pictures, pool.map(engine, pictures), strict=True):
            np.testing.assert_array_equal(large, alone(pixels))


def test_streams_work_at_the_same_time(monkeypatch):
    """The second call ends while the first one is held up."""
    engine = open_engine(model_of(SHUFFLE, {}, fp32_end=True), streams=2)
    held, infer = threading.Event(), engine._infer_by
    pixels = {rows: picture((rows, 6), np.uint8)[None] for rows in (5, 7)}

    def infer_by(request, given):
        assert given.shape[1] == 7 or held.wait(60), "the other call waited"
        return infer(request, given)

    monkeypatch.setattr(engine, "_infer_by", infer_by)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine, pixels[5])
        assert pool.submit(engine, pixels[7]).result(30).shape == (14, 12, 3)
        held.set()
        assert first.result(30).shape == (10, 12, 3)


def test_a_failed_call_leaves_its_stream_free():
    engine = open_engine(model_of(SHUFFLE, {}, scale=3, fp32_end=True))
    for _ in range(3):
        with pytest.raises(ModelError, match="not the x3"):
            engine(picture((5, 6), np.uint8)[None])


@each_run
@each_kind
@each_model
def test_a_graph_for_any_shape_and_one_of_its_own_are_the_same(model, kind, run):
    """The first call of a shape meets the graph for any shape; one that keeps coming gets its own."""
    engine = open_engine(model, *run)
    for size in [(1, 1), (1, 40), (7, 5), (61, 83)]:
        clip = on_grid(moving(engine.frames, size, kind), engine)
        first = engine(clip)
        for _ in range(14):
            last = engine(clip)
        np.testing.assert_array_equal(first, last)


@each_kind
@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("scale", [1, 2, 3, 5])
def test_classical_engines_too(method, scale, kind):
    engine = load_model(method, scale)
    if method == MATLAB and kind != np.uint8:
        with pytest.raises(ShapeError, match="defined on 8 bits"):
            engine(picture((5, 5), kind)[None])
        return
    for size, tile in [((1, 1), 8), ((1, 29), 8), ((37, 41), 8), ((37, 41), 13)]:
        assert_pieces_are_the_whole(engine, picture(size, kind, channels=4)[None], tile, least=1)


@each_run
@each_model
def test_the_halo_of_the_card_is_the_reach_of_the_network(model, run):
    """What lies outside the halo can't be seen in any frame; what lies inside can, up to its edge."""
    engine, halo, grid = open_engine(model, *run), model.card.halo, model.card.multiple_of
    side = 2 * halo + 5
    clip = on_grid(0.25 + moving(engine.frames, (side, side), np.float32) / 2, engine)
    before, reaches = engine(clip), []
    for frame, at in product(range(engine.frames), range(halo + 2, halo + 2 + grid)):
        touched = clip.copy()
        touched[frame, at, at] = (1.0, 0.0, 1.0)
        changed = np.argwhere((engine(touched) != before).any(2)) // engine.scale - at
        reaches.append(np.abs(changed).max(initial=0))
    assert max(reaches) <= halo
    if run[1] == "fp32":
        assert max(reaches) == halo, "the card's halo is wider than it need be"
        assert min(reaches) > 0, "a frame isn't looked at"


# ---- values


@each_run
@each_model
def test_kinds_agree(model, run):
    """8 and 16 bits give what float gives, rounded; without an fp32 end float runs in fp32, and 8 bits in bf16."""
    engine, mixed = open_engine(model, *run), run[1] == "bf16" and not model.card.fp32_end
    for kind, white in ((np.uint8, 255), (np.uint16, 65535)):
        clip = on_grid(moving(engine.frames, (61, 47), kind), engine)
        levels = engine((clip * np.float32(1 / white)).astype(np.float32)).astype(np.float64) * white
        # How likely places are is the exponential of differences times a thousand, and so are their last bits.
        bits = 1e-6 if engine.frames == 1 else 1e-5
        assert np.abs(engine(clip) - levels).max() <= (0.02 * white if mixed else 0.5 + white * bits)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@each_model
def test_openvino_against_onnxruntime(model, precision):
    first, second = open_engine(model, "openvino", precision), open_engine(model, "onnxruntime")
    clip = on_grid(moving(first.frames, (61, 47), np.float32), first)
    difference = np.abs(first(clip) - second(clip))
    # Noise is the worst case: bf16 keeps 8 bits of sums that nearly cancel, and so do convolutions in 8 bits. Where
    # noise moves, 8 bits are also too few to tell from which of many alike places a sample of a neighbour comes.
    exact = precision == "fp32" and "int8" not in model.card.name
    matched = model.card.frames > 1
    assert difference.max() < (1e-5 if exact else 0.25 if matched else 0.08 if model.card.scale == 4 else 0.05)
    assert difference.mean() < (1e-6 if exact else 0.005)
    if "int8" in model.card.name:
        return
    clip = in_kind(clip, np.uint8)
    levels = [open_engine(model, *run)(clip).astype(int) for run in (RUNS[0], RUNS[-1])]
    assert np.abs(levels[0] - levels[1]).max() <= 1


@needs_bf16
@each_model
def test_bf16_on_a_photo_that_moves(model):
    """Where there is something to match, what differs from fp32 is less than a level's half in the mean."""
    photo = data.astronaut()[:96, 150:260] * np.float32(1 / 255)
    clip = np.stack([np.roll(photo, (place, -2 * place), (0, 1)) for place in range(model.card.frames)])
    difference = np.abs(open_engine(model, "openvino", "bf16")(clip) - open_engine(model, "onnxruntime")(clip))
    assert difference.max() < 0.05
    assert difference.mean() < 0.5 / 255


@each_run
@each_model
def test_a_ramp_keeps_its_levels(model, run):
    engine, levels = open_engine(model, *run), np.arange(0, 65536, 4, dtype=np.uint16)
    ramps = np.stack([np.roll(levels, place) for place in range(engine.frames)])
    clip = on_grid(np.broadcast_to(ramps[:, None, :, None], (engine.frames, 3, 16384, 3)), engine)
    assert len(np.unique(engine(clip))) >= 16_384


@each_run
@each_model
def test_a_network_enlarges_like_bicubic_on_the_whole(model, run):
    """Far from random weights: the mean of a smooth picture stays, and it is never far from bicubic."""
    middle = model.card.frames // 2
    rows, cols = np.stack([np.mgrid[0:40, 0:50] - (place - middle) for place in range(model.card.frames)], 1) / 50
    clip = np.stack([rows, cols, (rows + cols) / 2], 3).clip(0, 1).astype(np.float32)
    wanted = resize(clip[middle], (40 * model.card.scale, 50 * model.card.scale))
    assert np.abs(open_engine(model, *run)(clip) - wanted).max() < 0.05


@each_kind
@each_run
def test_a_foreign_network_is_computed_as_written(run, kind):
    """Two convolutions by hand against float64; 16 bits run in fp32, since this network has no fp32 end."""
    draw = np.random.default_rng(1)
    first, second = draw.normal(0, 0.2, (8, 3, 3, 3)), draw.normal(0, 0.2, (12, 8, 3, 3))
    first, second = first.astype(np.float32), second.astype(np.float32)
    pads = {"pads": [1, 1, 1, 1]}
    shuffle = {"blocksize": 2, "mode": "CRD"}
    nodes = [
        ("Conv", ["x", "a"], "p", pads),
        ("Relu", ["p"], "q", {}),
        ("Conv", ["q", "b", "c"], "r", pads),
        ("DepthToSpace", ["r"], "y", shuffle),
    ]
    bias = np.full(12, 0.4, np.float32)
    model = model_of(nodes, {"a": first, "b": second, "c": bias})
    pixels = picture((19, 23), kind)
    white = 1 if kind == np.float32 else np.iinfo(kind).max

    x = np.pad((pixels / white).transpose(2, 0, 1).astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    middle = np.stack([np.maximum(correlate(x, kernel, "valid")[0], 0) for kernel in first.astype(np.float64)])
    middle = np.pad(middle, ((0, 0), (1, 1), (1, 1)))
    last = np.stack([correlate(middle, kernel, "valid")[0] for kernel in second.astype(np.float64)]) + 0.4
    wanted = last.reshape(3, 2, 2, 19, 23).transpose(3, 1, 4, 2, 0).reshape(38, 46, 3).clip(0, 1) * white

    difference = np.abs(open_engine(model, *run)(pixels[None]) - wanted).max()
    assert difference <= {np.uint8: 0.5 + 255 * 0.02, np.uint16: 0.6, np.float32: 1e-5}[kind]
    assert 0.1 < wanted.mean() / white < 0.9, "a test that can't fail"


def shares(height):
    """1x1 kernels, (height, 3): each output is a channel of its own share."""
    return np.float32([[(1 + row) / 40 * (row % 3 == channel) for channel in range(3)] for row in range(height)])


BASE = ("Conv", ["x", "base"], "many", {})
FEW = ("Conv", ["x", "few"], "luma", {})
SHUFFLED = ("DepthToSpace", ["sum"], "y", {"blocksize": 2, "mode": "CRD"})
REPEATING = {
    "luma to three channels": [
        BASE,
        FEW,
        ("Concat", ["luma"] * 3, "thrice", {"axis": 1}),
        ("Add", ["many", "thrice"], "sum", {}),
    ],
    "the other way round": [
        BASE,
        FEW,
        ("Concat", ["luma"] * 3, "thrice", {"axis": 1}),
        ("Add", ["thrice", "many"], "sum", {}),
    ],
    "with another among them": [
        BASE,
        FEW,
        ("Neg", ["luma"], "less", {}),
        ("Concat", ["luma", "less", "luma"], "thrice", {"axis": 1}),
        ("Add", ["many", "thrice"], "sum", {}),
    ],
    "read twice": [
        BASE,
        FEW,
        ("Concat", ["luma"] * 3, "thrice", {"axis": 1}),
        ("Add", ["many", "thrice"], "one", {}),
        ("Add", ["one", "thrice"], "sum", {}),
    ],
    "to its own": [FEW, ("Concat", ["luma"] * 3, "thrice", {"axis": 1}), ("Add", ["thrice", "thrice"], "sum", {})],
    "to one number": [FEW, ("Concat", ["luma"] * 3, "thrice", {"axis": 1}), ("Add", ["thrice", "number"], "sum", {})],
    "to a column of numbers": [
        FEW,
        ("Concat", ["luma"] * 3, "thrice", {"axis": 1}),
        ("Add", ["thrice", "column"], "sum", {}),
    ],
}


@each_run
@pytest.mark.parametrize("nodes", REPEATING.values(), ids=REPEATING)
def test_planes_that_are_repeated_and_added(nodes, run):
    """However a graph adds what it repeats, in float64 by NumPy: the engine takes shorter ways for some."""
    weights = {
        "base": shares(12)[:, :, None, None],
        "few": shares(4)[:, :, None, None] / 2,
        "number": np.float32([0.25]),
        "column": (np.arange(12, dtype=np.float32) / 20)[:, None, None],
    }
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    known = {name: value.astype(np.float64) for name, value in weights.items() if name in used}
    model = model_of([*nodes, SHUFFLED], {name: weights[name] for name in known}, fp32_end=True)
    engine = open_engine(model, *run)
    for size in [(1, 1), (1, 5), (5, 1), (7, 9)]:
        pixels = picture(size, np.float32)
        values = {"x": pixels.transpose(2, 0, 1).astype(np.float64), **known}
        for kind, inputs, output, _ in nodes:
            given = [values[name] for name in inputs]
            values[output] = {
                "Conv": lambda x, kernel=None: np.tensordot(kernel[:, :, 0, 0], x, axes=1),
                "Concat": lambda *parts: np.concatenate(parts),
                "Add": np.add,
                "Neg": lambda x: -x,
            }[kind](*given)
        wanted = values["sum"].reshape(3, 2, 2, *size).transpose(3, 1, 4, 2, 0).reshape(2 * size[0], 2 * size[1], 3)
        exact = run[1] == "fp32"
        assert np.abs(engine(pixels[None]) - wanted.clip(0, 1)).max() <= (1e-6 if exact else 0.01)
        levels = engine(np.rint(255 * pixels).astype(np.uint8)[None])
        assert np.abs(levels - 255 * wanted.clip(0, 1)).max() <= (1.6 if exact else 4)


# ---- several frames


def clip_of(frames, size, kind, channels=3):
    return np.stack([picture(size, kind, seed, channels) for seed in range(frames)])


@each_kind
@each_run
@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize("fp32_end", [True, False])
def test_frames_are_weighed_in_the_order_of_time(run, kind, frames, fp32_end):
    """Against float64: one convolution weighs red, green and blue of each frame, another weight for each frame."""
    engine = open_engine(clip_network(frames, 3, fp32_end=fp32_end), *run)
    assert (engine.frames, engine.scale) == (frames, 3)
    clip = clip_of(frames, (19, 23), kind)
    large, wanted = engine(clip), clip_network_truth(clip, 3)
    assert (large.dtype, large.shape) == (kind, (57, 69, 3))
    white = 1 if kind == np.float32 else np.iinfo(kind).max
    exact = run[1] == "fp32" or (not fp32_end and kind != np.uint8)
    rounding = 0 if kind == np.float32 else 0.5
    assert np.abs(large - wanted).max() <= rounding + white * (1e-6 if exact else 0.01)


def moving_network(frames, *, fp32_end=True):
    """Two 3x3 convolutions over all frames, with weights that one can't take for one another."""
    draw = np.random.default_rng(frames)
    first, second = draw.normal(0, 0.2, (8, 3 * frames, 3, 3)), draw.normal(0, 0.2, (12, 8, 3, 3))
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "a"], "p", pads),
        ("Relu", ["p"], "q", {}),
        ("Conv", ["q", "b", "c"], "r", pads),
        ("DepthToSpace", ["r"], "y", {"blocksize": 2, "mode": "CRD"}),
    ]
    weights = {"a": first.astype(np.float32), "b": second.astype(np.float32), "c": np.full(12, 0.4, np.float32)}
    return model_of(nodes, weights, frames=frames, fp32_end=fp32_end), weights


@each_kind
@each_run
@pytest.mark.parametrize("frames", [3, 5])
def test_clips_in_tiles_equal_the_whole_to_the_bit(frames, run, kind):
    model, _ = moving_network(frames)
    engine = open_engine(model, *run, threads=1)
    for size in [(1, 1), (1, 2), (20, 131), (150, 131)]:
        for tile in (16, 48):
            clip = clip_of(frames, size, kind)
            np.testing.assert_array_equal(tiled(clip, engine, tile, least=LEAST_SIDE), engine(clip), f"{size} {tile}")


@each_kind
@each_run
def test_a_graph_of_its_own_for_a_clip_changes_nothing(run, kind):
    model, _ = moving_network(3)
    engine, clip = open_engine(model, *run), clip_of(3, (61, 83), kind)
    first = engine(clip)
    for _ in range(14):
        last = engine(clip)
    np.testing.assert_array_equal(first, last)


@each_run
def test_a_clip_is_computed_as_written(run):
    """All frames' channels through two convolutions, in float64."""
    model, weights = moving_network(5)
    clip = clip_of(5, (19, 23), np.float32)
    planes = np.concatenate([frame.transpose(2, 0, 1) for frame in clip]).astype(np.float64)

    def convolved(x, kernels):
        around = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        return np.stack([correlate(around, kernel.astype(np.float64), "valid")[0] for kernel in kernels])

    last = convolved(np.maximum(convolved(planes, weights["a"]), 0), weights["b"]) + 0.4
    wanted = last.reshape(3, 2, 2, 19, 23).transpose(3, 1, 4, 2, 0).reshape(38, 46, 3).clip(0, 1)
    # bf16 keeps 8 bits of sums that nearly cancel.
    assert np.abs(open_engine(model, *run)(clip) - wanted).max() <= (1e-5 if run[1] == "fp32" else 0.05)
    assert 0.1 < wanted.mean() < 0.9, "a test that can't fail"


@each_kind
@each_run
def test_a_picture_is_a_clip_in_which_nothing_moves(run, kind):
    pixels = picture((19, 23), kind)
    clip = still(pixels, 3)
    assert clip.shape == (3, 19, 23, 3)
    assert np.shares_memory(clip, pixels)
    large = open_engine(clip_network(3), *run)(clip)
    white = 1 if kind == np.float32 else np.iinfo(kind).max
    error = np.abs(large.astype(np.float64) - pixels.repeat(2, axis=0).repeat(2, axis=1)).max()
    assert error <= white * (1e-6 if run[1] == "fp32" else 0.01)
    np.testing.assert_array_equal(still(pixels, 1), pixels[None])


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("size", [(3, 4), (24, 20), (30, 81)])
def test_a_network_of_one_size_takes_clips_of_any(runtime, size):
    nodes = [
        ("Conv", ["x", "mean"], "parts", {}),
        ("DepthToSpace", ["parts"], "z", {"blocksize": 2, "mode": "CRD"}),
        ("Reshape", ["z", "sides"], "y", {}),  # nothing but this size passes
    ]
    mean = np.concatenate([share * np.eye(3) for share in (1 / 6, 2 / 6, 3 / 6)], axis=1).repeat(4, axis=0)
    weights = {"mean": mean.astype(np.float32)[:, :, None, None], "sides": np.array([1, 3, 48, 40])}
    ports = {"inputs": {"x": (1, 9, 24, 20)}, "outputs": {"y": (1, 3, 48, 40)}}
    fixed = model_of(nodes, weights, frames=3, **ports)
    engine = open_engine(replace(fixed, card=replace(fixed.card, rows=24, cols=20, halo=0)), runtime, "fp32")
    assert engine.frames == 3
    for kind in KINDS:
        clip = clip_of(3, size, kind)
        made = engine(clip)
        assert made.dtype == kind
        assert np.abs(made - clip_network_truth(clip)).max() <= (1e-6 if kind == np.float32 else 0.51)


@each_run
@each_kind
def test_sides_off_the_grid_are_refused(run, kind):
    """Before the runtime sees them: OpenVINO crashed at the second such picture."""
    (model,) = (model for model in MODELS if model.card.name == "refiner-x1")
    for _ in range(2):
        engine = open_engine(model, *run)
        for size in [(5, 8), (8, 5), (1, 1)]:
            with pytest.raises(
                ShapeError, match=r"refiner-x1: want sides that are multiples of 2, got \d x \d; `upscale`"
            ):
                engine(picture(size, kind)[None])
        assert engine(picture((2, 4), kind)[None]).shape == (2, 4, 3)


@each_run
@pytest.mark.parametrize("shape", [(5, 6, 3), (1, 5, 6, 3), (5, 5, 6, 3), (3, 5, 6, 1), (3, 5, 0, 3)], ids=str)
def test_clips_of_another_shape(run, shape):
    with pytest.raises(ShapeError, match=r"want \(3, h, w, 3\), got .*; `engine.still` makes a clip of a picture"):
        open_engine(clip_network(3), *run)(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(5, 6, 3), (3, 5, 6, 3)], ids=str)
def test_interpolation_takes_one_frame(shape):
    with pytest.raises(ShapeError, match=r"want \(1, h, w, c\), got .*; interpolation sees one picture alone"):
        load_model("bicubic", 2)(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("said", "channels"), [(3, 3), (1, 9), (5, 9)])
def test_a_card_that_says_another_count_of_frames(runtime, said, channels):
    model = clip_network(channels // 3)
    wanted = rf"\(N, {3 * said}, h, w\)" + (f" for the {said} frames of its card" if said > 1 else "")
    words = rf"by-hand.onnx: its input is \(1, {channels}, \?, \?\); superfine runs networks on {wanted}$"
    with pytest.raises(ModelError, match=words):
        open_engine(replace(model, card=replace(model.card, frames=said)), runtime)


@each_run
def test_nan_in_one_frame_is_an_error(run):
    square_root = [("Sub", ["x", "level"], "n", {}), ("Sqrt", ["n"], "p", {}), ("Conv", ["p", "mean"], "y", {})]
    mean = np.concatenate([np.eye(3) / 3] * 3, axis=1)[:, :, None, None].astype(np.float32)
    model = model_of(square_root, {"level": np.float32([0.5]), "mean": mean}, scale=1, frames=3, fp32_end=True)
    engine, clip = open_engine(model, *run), np.full((3, 9, 11, 3), 200, np.uint8)
    assert engine(clip).shape == (9, 11, 3)
    clip[2, 4, 5, 1] = 0
    with pytest.raises(EngineError, match="NaN"):
        engine(clip)


# ---- NaN and infinity

SQUARE_ROOT_OF_A_NEGATIVE = [("Neg", ["x"], "n", {}), ("Sqrt", ["n"], "y", {})]


@each_kind
@each_run
@pytest.mark.parametrize("fp32_end", [True, False])
def test_nan_is_an_error(run, kind, fp32_end):
    model = model_of(SQUARE_ROOT_OF_A_NEGATIVE, {}, scale=1, fp32_end=fp32_end)
    engine = open_engine(model, *run)
    with pytest.raises(EngineError, match="by-hand: gave NaN or infinity, in fp32 too; the picture was not written"):
        engine(picture((9, 11), kind)[None])
    assert not engine(np.zeros((1, 9, 11, 3), kind)).any(), "black is fine, and comes after the failure"


@each_run
@pytest.mark.parametrize("fp32_end", [True, False])
def test_one_nan_anywhere_is_an_error(run, fp32_end):
    engine = open_engine(model_of(SQUARE_ROOT_OF_A_NEGATIVE, {}, scale=1, fp32_end=fp32_end), *run)
    for place in [(0, 0, 0), (8, 10, 2), (4, 5, 1)]:
        pixels = np.zeros((1, 9, 11, 3), np.uint8)
        pixels[0][place] = 1
        with pytest.raises(EngineError, match="NaN"):
            engine(pixels)


@each_kind
@needs_bf16
def test_infinity_in_bf16_is_computed_again_in_fp32(kind, monkeypatch):
    """1 + 2**-12 is 1 in bf16, so 2**-12 / (that - 1) is infinite there, and 1 in fp32."""
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    small = np.full(3, 2**-12, np.float32)
    nodes = [
        ("Conv", ["x", "eye", "small"], "p", {}),
        ("Conv", ["p", "eye", "minus"], "q", {}),
        ("Div", ["small4", "q"], "y", {}),
    ]
    weights = {"eye": eye, "small": small, "minus": np.full(3, -1, np.float32), "small4": small[None, :, None, None]}
    engine = open_engine(model_of(nodes, weights, scale=1, fp32_end=True), "openvino", "bf16")
    tried, infer = [], engine._infer
    monkeypatch.setattr(engine, "_infer", lambda pixels, precision: tried.append(precision) or infer(pixels, precision))
    white = np.full((1, 9, 11, 3), 1 if kind == np.float32 else np.iinfo(kind).max, kind)
    np.testing.assert_array_equal(engine(white), white[0])
    assert tried == ["bf16", "fp32"]


# ---- wishes and wrong files


@pytest.mark.parametrize(
    ("engine", "precision", "words"),
    [
        ("cuda", "auto", "no CUDAExecutionProvider here, only .*; use --engine openvino"),
        ("cuda", "bf16", "runs in fp32 here"),
        ("directml", "auto", "no DmlExecutionProvider"),
        ("coreml", "auto", "no CoreMLExecutionProvider"),
        ("onnxruntime", "bf16", "runs in fp32 here; use --precision fp32 or auto, or --engine openvino"),
    ],
)
def test_a_wish_that_cant_be_met_is_refused(engine, precision, words):
    with pytest.raises(EngineError, match=words):
        open_engine(MODELS[0], engine, precision)


def test_an_engine_that_nobody_knows():
    with pytest.raises(UsageError, match="no engine 'tpu'; there are openvino, onnxruntime, cuda, directml, coreml"):
        open_engine(MODELS[0], "tpu")


@pytest.mark.parametrize("name", ["onnxruntime", "cuda"])
def test_without_onnxruntime(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install '.\[gpu\]'"):
        open_engine(MODELS[0], name)
    assert "pip install" in engine_state(name)


def test_a_network_that_needs_fp32_gets_it():
    model = replace(MODELS[0], card=replace(MODELS[0].card, needs_fp32=True))
    engine = open_engine(model)
    assert engine.precision_for(np.dtype(np.uint8)) == "fp32"
    pixels = picture((20, 30), np.float32)[None]
    np.testing.assert_array_equal(engine(pixels), open_engine(MODELS[0], "openvino", "fp32")(pixels))
    for runtime in ("openvino", "onnxruntime"):
        with pytest.raises(EngineError, match="use --precision fp32 or auto"):
            open_engine(model, runtime, "bf16")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("size", [(3, 4), (24, 20), (30, 81)])
def test_a_network_of_one_size_takes_any(runtime, size):
    """A 3x3 mean in 24 x 20 pixels equals the mean of all, but where the padding of a small picture is seen."""
    nodes = [
        ("Conv", ["x", "mean"], "small", {"group": 3, "pads": [1, 1, 1, 1]}),
        ("Reshape", ["small", "sides"], "y", {}),  # nothing but this size passes
    ]
    weights = {"mean": np.full((3, 1, 3, 3), 1 / 9, np.float32), "sides": np.array([1, 3, 24, 20])}
    ports = {"inputs": {"x": (1, 3, 24, 20)}, "outputs": {"y": (1, 3, 24, 20)}}
    fixed = model_of(nodes, weights, scale=1, **ports)
    fixed = replace(fixed, card=replace(fixed.card, rows=24, cols=20, halo=1))
    engine = open_engine(fixed, runtime, "fp32")
    assert (engine.scale, engine.halo, engine.multiple_of, engine.frames) == (1, 1, 1, 1)
    for kind in KINDS:
        pixels = picture(size, kind)
        past = [(1, max(1, side - own + 1)) for side, own in zip((24, 20), size, strict=True)]
        unit = pixels.astype(np.float64) / (1 if kind == np.float32 else np.iinfo(kind).max)
        inner = np.pad(unit, (*[(0, after - 1) for _, after in past], (0, 0)), mode="edge")
        around = np.pad(inner, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1))
        wanted = windows.mean(axis=(-2, -1))[: size[0], : size[1]]
        step = 1e-6 if kind == np.float32 else 0.51 / np.iinfo(kind).max
        made = engine(pixels[None])
        assert made.dtype == kind
        given = made.astype(np.float64) / (1 if kind == np.float32 else np.iinfo(kind).max)
        np.testing.assert_allclose(given, wanted, atol=step)


def test_without_bf16(monkeypatch):
    """A CPU without native bf16: auto takes fp32, and asking for bf16 is an error."""
    core = superfine.engine._core()

    class OldCPU:
        def get_property(self, device, name):
            return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else core.get_property(device, name)

        def __getattr__(self, name):
            return getattr(core, name)

    monkeypatch.setattr(superfine.engine, "_core", OldCPU)
    assert open_engine(MODELS[0]).precision == "fp32"
    with pytest.raises(EngineError, match="no native bf16; use --precision fp32 or auto"):
        open_engine(MODELS[0], precision="bf16")


def test_engines_say_what_they_are():
    assert engine_state("openvino") == engine_state("onnxruntime") == "ready"
    assert "CUDAExecutionProvider" in engine_state("cuda")
    assert open_engine(MODELS[0]).name.startswith("OpenVINO 20")
    assert open_engine(MODELS[0], "onnxruntime").name.endswith(", CPU")
    assert open_engine(MODELS[0]).precision == ("bf16" if BF16 else "fp32")


SHUFFLE = [("Concat", ["x"] * 4, "p", {"axis": 1}), ("DepthToSpace", ["p"], "y", {"blocksize": 2, "mode": "CRD"})]


@each_kind
@pytest.mark.parametrize("fp32_end", [True, False])
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_card_that_says_another_scale(name, fp32_end, kind):
    right = model_of(SHUFFLE, {}, scale=2, fp32_end=fp32_end)
    wrong = replace(right, card=replace(right.card, scale=3))
    assert open_engine(right, name)(picture((5, 6), kind)[None]).shape == (10, 12, 3)
    with pytest.raises(ModelError, match=r"by-hand.onnx: makes \(10, 12, 3\) of \(5, 6, 3\), which is not the x3"):
        open_engine(wrong, name)(picture((5, 6), kind)[None])


RGB = (1, 3, "h", "w")


@pytest.mark.parametrize(
    ("nodes", "sides", "words"),
    [
        ([("Add", ["x", "z"], "y", {})], {"inputs": {"x": RGB, "z": RGB}}, "has 2 inputs and 1 outputs"),
        ([*SHUFFLE, ("Neg", ["x"], "z", {})], {"outputs": {"y": RGB, "z": RGB}}, "has 1 inputs and 2 outputs"),
        ([("Neg", ["x"], "y", {})], {"inputs": {"x": (1, 1, "h", "w")}}, r"its input is \(1, 1, \?, \?\)"),
        (
            [("Neg", ["x"], "y", {})],
            {"inputs": {"x": (3, "h", "w")}, "outputs": {"y": (3, "h", "w")}},
            r"its input is \(3",
        ),
        (
            [("ReduceSum", ["x", "axis"], "y", {})],
            {"outputs": {"y": (1, 1, "h", "w")}},
            r"its output is \(1, 1, \?, \?\); superfine runs networks on \(N, 3, h, w\)",
        ),
    ],
)
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_network_of_another_shape(name, nodes, sides, words):
    weights = {"axis": np.array([1])} if nodes[0][0] == "ReduceSum" else {}
    with pytest.raises(ModelError, match=f"by-hand.onnx: .*{words}"):
        open_engine(model_of(nodes, weights, **sides), name)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_file_with_a_card_but_no_network(name):
    content = model_of(SHUFFLE, {}).content
    for broken in (content.replace(b"DepthToSpace", b"DepthToSpoon"), content[content.rindex(b"superfine") - 10 :]):
        with pytest.raises(ModelError, match="by-hand.onnx: "):
            open_engine(replace(model_of(SHUFFLE, {}), content=broken), name)


@each_run
@pytest.mark.parametrize("shape", [(5, 6, 3), (1, 5, 6, 1), (2, 5, 6, 3), (1, 0, 6, 3)], ids=str)
def test_pixels_of_another_shape(run, shape):
    with pytest.raises(ShapeError, match=r"want \(1, h, w, 3\), got"):
        open_engine(MODELS[0], *run)(np.zeros(shape, np.uint8))


@each_run
def test_pixels_of_another_kind(run):
    with pytest.raises(ShapeError, match="want uint8, uint16 or float32, got float64"):
        open_engine(MODELS[0], *run)(np.zeros((1, 5, 6, 3)))


def test_out_of_memory_is_called_by_its_name():
    """Whatever the runtime's words, tiles hear MemoryError."""
    for words in ("std::bad_alloc", "Could not allocate 10 bytes", "CUDA out of memory"):
        assert isinstance(superfine.engine._memory_or(RuntimeError(words), EngineError("x")), MemoryError)
    assert isinstance(superfine.engine._memory_or(RuntimeError("other"), EngineError("x")), EngineError)


# ---- by name


def test_load_model_by_name():
    assert isinstance(load_model("bicubic", 5), ClassicalEngine)
    assert load_model("fast", 2).scale == 2
    with pytest.raises(ModelError, match="'fast-x2' enlarges x2, not x3"):
        load_model("fast-x2", 3)


# ---- strangers' networks that want memory beyond measure

LARGE = {
    "two vectors": (
        [
            ("Add", ["column", "row"], "big", {}),
            ("ReduceSum", ["big"], "sum", {"keepdims": 0}),
            ("Add", ["x", "sum"], "z", {}),
        ],
        {"column": np.zeros((30_000, 1), np.float32), "row": np.zeros((1, 30_000), np.float32)},
        r"'big' makes \[30000,30000\]; such arrays are refused",
    ),
    "by the picture's size": (
        [
            ("Shape", ["x"], "sides", {}),
            ("Mul", ["sides", "times"], "many", {}),
            ("ConstantOfShape", ["many"], "big", {}),
            ("ReduceSum", ["big"], "sum", {"keepdims": 0}),
            ("Add", ["x", "sum"], "z", {}),
        ],
        {"times": np.array([1, 1, 1000, 1000])},
        r"'big' makes \[1,3,64000,64000\] of \(64, 64\); such arrays are refused",
    ),
}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("nodes", "weights", "words"), LARGE.values(), ids=LARGE)
def test_arrays_beyond_measure_are_refused_before_they_are_made(nodes, weights, words, name, monkeypatch):
    runtime = pytest.importorskip("onnxruntime", reason="--engine onnxruntime")
    monkeypatch.setattr(runtime, "InferenceSession", lambda *_, **__: pytest.fail("it folds constants"))
    twice = ("Resize", ["z", "", "scales"], "y", {"mode": "nearest"})
    model = model_of([*nodes, twice], weights | {"scales": np.float32([1, 1, 2, 2])})
    with pytest.raises(ModelError, match=f"by-hand.onnx: {words}"):
        open_engine(model, name, "fp32")


def test_unknown_operators_are_named():
    with pytest.raises(ModelError, match=r"by-hand.onnx: OpenVINO doesn't know its operator Guess-18 .*; export it"):
        open_engine(model_of([("Guess", ["x"], "y", {})], {}))
