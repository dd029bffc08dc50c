"""Grey and alpha by engines that know RGB."""

import numpy as np
import pytest

from fakes import clip_network, clip_network_truth, tiled
from superfine.channels import BLEED, bleed, for_channels
from superfine.classical.resample import resize
from superfine.engine import ClassicalEngine, load_model, open_engine

KINDS = [np.uint8, np.uint16, np.float32]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
each_engine = pytest.mark.parametrize(
    "engine", [load_model("fast", 2), ClassicalEngine("lanczos", 3)], ids=["fast", "lanczos"]
)


def white(kind):
    return 1 if kind == np.float32 else np.iinfo(kind).max


def picture(size, channels, kind, seed=0):
    """Noise; alpha, where there is one, has large transparent and opaque parts."""
    unit = np.random.default_rng(seed).random((*size, channels), dtype=np.float32)
    if channels in (2, 4):
        unit[..., -1] = np.clip(3 * np.sin(np.arange(size[0])[:, None] / 7) * np.cos(np.arange(size[1]) / 9), 0, 1)
    return unit if kind == np.float32 else np.rint(unit * white(kind)).astype(kind)


@each_kind
@each_engine
def test_grey_is_the_channel_of_the_same_picture_in_rgb(engine, kind):
    grey = picture((23, 31), 1, kind)
    rgb = engine(grey.repeat(3, axis=2)[None])
    wrapped = for_channels(engine, 1)(grey[None])
    assert wrapped.dtype == kind
    for channel in range(3):
        np.testing.assert_array_equal(wrapped[..., 0], rgb[..., channel])


@each_engine
def test_rgb_is_left_alone(engine):
    assert for_channels(engine, 3) is engine


@each_kind
@each_engine
def test_an_opaque_picture_gets_the_colours_of_rgb(engine, kind):
    pixels = picture((23, 31), 4, kind)
    pixels[..., 3] = white(kind)
    large = for_channels(engine, 4)(pixels[None])
    np.testing.assert_array_equal(large[..., :3], engine(np.ascontiguousarray(pixels[..., :3])[None]))
    assert (large[..., 3] == white(kind)).all()


@each_kind
@each_engine
@pytest.mark.parametrize("share", [0.0, 1 / 255, 0.3, 0.7231, 254 / 255, 1.0])
def test_an_even_alpha_stays_even(engine, kind, share):
    pixels = picture((19, 14), 4, kind)
    level = np.asarray(share * white(kind)).astype(kind)
    pixels[..., 3] = level
    assert (for_channels(engine, 4)(pixels[None])[..., 3] == level).all()


@each_kind
@each_engine
def test_alpha_is_bicubic_and_grey_alpha_is_half_of_both(engine, kind):
    pixels, size = picture((33, 21), 2, kind), (33 * engine.scale, 21 * engine.scale)
    large = for_channels(engine, 2)(pixels[None])
    wanted = np.clip(resize(pixels[..., 1].astype(np.float64), size), 0, white(kind))
    assert np.abs(large[..., 1] - wanted).max() <= (1e-6 if kind == np.float32 else 0.51)
    rgba = np.concatenate([pixels[..., :1].repeat(3, axis=2), pixels[..., 1:]], axis=2)
    np.testing.assert_array_equal(large, for_channels(engine, 4)(rgba[None])[..., [1, 3]])


@each_kind
@each_engine
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_tiled_equals_whole_to_the_bit(engine, channels, kind):
    wrapped = for_channels(engine, channels)
    for size, tile in [((1, 1), 16), ((1, 40), 16), ((61, 83), 16), ((61, 83), 29)]:
        pixels = picture(size, channels, kind)
        np.testing.assert_array_equal(tiled(pixels, wrapped, tile), wrapped(pixels[None]), f"{size}, tile {tile}")


@each_kind
@each_engine
@pytest.mark.parametrize("soft", [False, True])
def test_no_dark_fringe(engine, kind, soft):
    """A white disc, black where it's transparent: over white paper nothing dark may show."""
    rows, cols = np.mgrid[0:64, 0:64] - 31.5
    distance = np.hypot(rows, cols)
    alpha = np.clip(24 - distance, 0, 1) if soft else (distance < 24).astype(float)
    pixels = np.dstack([*[alpha > 0] * 3, alpha])
    pixels = pixels.astype(np.float32) if kind == np.float32 else np.rint(pixels * white(kind)).astype(kind)
    large = for_channels(engine, 4)(pixels[None]).astype(np.float64) / white(kind)
    paper = large[..., :3] * large[..., 3:] + (1 - large[..., 3:])
    assert paper.min() * 255 > 250
    assert large[..., 3].min() == 0
    assert large[..., 3].max() == 1


def test_the_fringe_would_be_dark_without_care():
    """The test above can fail: enlarge the same colours as they are, and it is dark."""
    rows, cols = np.mgrid[0:64, 0:64] - 31.5
    alpha = (np.hypot(rows, cols) < 24).astype(np.float32)[..., None]
    colour, large = resize(alpha, (128, 128)), resize(alpha, (128, 128))
    assert (colour * large + 1 - large).min() * 255 < 220


@each_kind
def test_bleed_leaves_what_is_seen_and_fills_the_rest_by_its_neighbours(kind):
    pixels = picture((40, 50), 4, kind, seed=3)
    pixels[12:30, 10:44, 3] = 0
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    filled = bleed(colour, alpha)
    seen = alpha[..., 0] > 0
    assert filled.dtype == kind
    np.testing.assert_array_equal(filled[seen], colour[seen])
    # The second witness: pixel by pixel, ring by ring.
    values, known = np.where(seen[..., None], colour, 0).astype(np.float64), seen.copy()
    for _ in range(BLEED):
        before, sure = values.copy(), known.copy()
        for row, col in np.argwhere(~sure):
            around = np.s_[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
            if sure[around].any():
                values[row, col], known[row, col] = before[around][sure[around]].mean(axis=0), True
    np.testing.assert_array_equal(filled[~known], colour[~known])
    assert np.abs(filled[known] - values[known]).max() <= (1e-6 if kind == np.float32 else 0.51)


def test_bleed_has_nothing_to_do():
    colour = picture((5, 6), 3, np.uint8)
    for level in (0, 255):
        np.testing.assert_array_equal(bleed(colour, np.full((5, 6, 1), level, np.uint8)), colour)


@each_kind
@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_clips_of_any_channels(channels, frames, kind):
    """Colours are the weighed mean of all frames, transparent ones filled in each; alpha is that of the middle one."""
    engine = open_engine(clip_network(frames), "openvino", "fp32")
    clip = np.stack([picture((23, 31), channels, kind, seed) for seed in range(frames)])
    if channels in (2, 4):  # another alpha in every frame
        clip[..., -1] = np.stack([np.roll(frame[..., -1], 3 * place, 1) for place, frame in enumerate(clip)])
    large = for_channels(engine, channels)(clip)
    assert (large.dtype, large.shape) == (kind, (46, 62, channels))
    alpha = channels in (2, 4)
    filled = np.stack([bleed(frame[..., :-1], frame[..., -1:]) for frame in clip]) if alpha else clip
    colours = large[..., :-1] if alpha else large
    assert np.abs(colours - clip_network_truth(filled)).max() <= (1e-6 if kind == np.float32 else 0.51)
    if alpha:
        wanted = np.clip(resize(clip[frames // 2, ..., -1].astype(np.float64), (46, 62)), 0, white(kind))
        assert np.abs(large[..., -1] - wanted).max() <= (1e-6 if kind == np.float32 else 0.51)


@each_kind
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_tiled_clips_equal_the_whole(channels, kind):
    wrapped = for_channels(open_engine(clip_network(3), "openvino", "fp32"), channels)
    assert wrapped.frames == 3
    for size, tile in [((1, 1), 16), ((1, 40), 16), ((61, 83), 16), ((61, 83), 29)]:
        clip = np.stack([picture(size, channels, kind, seed) for seed in range(3)])
        np.testing.assert_array_equal(tiled(clip, wrapped, tile), wrapped(clip), f"{size}, tile {tile}")


def test_facts_are_handed_on():
    engine = load_model("fast", 2)
    wrapped = for_channels(engine, 4)
    assert (wrapped.scale, wrapped.multiple_of, wrapped.frames) == (engine.scale, engine.multiple_of, engine.frames)
    assert wrapped.halo > engine.halo
