"""A picture in pieces is the picture whole."""

import itertools

import numpy as np
import pytest

from fakes import FakeEngine, tiled
from superfine.errors import EngineError, ShapeError
from superfine.tiles import Grid, Span, Window, cover, covered, enlarge, plan

GRIDS = [(multiple, halo) for multiple in (1, 4, 16) for halo in (0, 1, 7, 13, 16, 20)]


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def picture(rows: int, cols: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, cols, channels), dtype=np.uint8)


@pytest.mark.parametrize("least", [1, 30, 64])
@pytest.mark.parametrize(("multiple", "halo"), GRIDS)
def test_every_plan_holds_its_promises(multiple, halo, least):
    for size, tile in itertools.product(
        [*range(1, 40), 41, 61, 64, 65, 97, 127, 128, 129, 200], [1, 3, 16, 31, 32, 64]
    ):
        spans = plan(size, tile, Grid(2, halo, multiple, least))
        padded, inner = up(size, multiple), up(tile, multiple)
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])], "a gap or an overlap"
        assert spans[-1].stop == size
        assert len({span.outer_stop - span.outer_start for span in spans}) == 1, "tiles of different shapes"
        for span in spans:
            assert span.start < span.stop
            assert span.outer_start % multiple == span.outer_stop % multiple == span.start % multiple == 0
            assert 0 <= span.outer_start <= span.start - halo or span.outer_start == 0
            assert span.stop + halo <= span.outer_stop <= padded or span.outer_stop == padded
            outer, wide = span.outer_stop - span.outer_start, inner + 2 * up(halo, multiple)
            assert min(least, padded) <= outer <= max(wide, up(least, multiple))


def test_tiles_are_equal_rather_than_leaving_a_narrow_rest():
    widths = [span.stop - span.start for span in plan(1025, 512, Grid(2, 0, 1))]
    assert len(widths) == 3
    assert max(widths) == 342


@pytest.mark.parametrize(("multiple", "halo"), GRIDS)
def test_tiles_equal_the_whole(multiple, halo):
    draw = np.random.default_rng([multiple, halo])
    edges = [1, 2, 3, 5, 7, 13, 17, 31, 32, 33, 37, 47, 48, 49, 61, 64, 65, 71]
    sizes = [(1, 1), (1, 71), (71, 1), *(tuple(draw.choice(edges, 2).tolist()) for _ in range(40))]
    for rows, cols in sizes:
        tile, scale, band = (int(draw.choice(some)) for some in ([1, 2, 8, 16, 31, 32, 33, 100], [1, 2, 3], [1, 5, 64]))
        engine = FakeEngine(scale, halo, multiple)
        if tile < 8 and rows * cols > 1000:  # thousands of tiles prove no more
            tile = 16
        pixels = picture(rows, cols, int(draw.integers(1, 5)))
        np.testing.assert_array_equal(
            tiled(pixels, engine, tile, band=band), engine.whole(pixels), f"{rows}x{cols} {tile}"
        )
        assert len(set(engine.shapes)) == 1


@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize(("multiple", "halo"), GRIDS)
def test_clips_in_tiles_equal_the_whole(multiple, halo, frames):
    draw = np.random.default_rng([multiple, halo, frames])
    for rows, cols in [(1, 1), (1, 71), (71, 1), (37, 53), (61, 64)]:
        tile, band = (int(draw.choice(some)) for some in ([8, 16, 31, 100], [1, 5, 64]))
        engine = FakeEngine(2, halo, multiple, frames)
        clip = np.stack([picture(rows, cols, 3, seed) for seed in range(frames)])
        large = tiled(clip, engine, tile, band=band)
        np.testing.assert_array_equal(large, engine.whole(clip), f"{rows}x{cols} {tile}")
        assert large.shape == (2 * rows, 2 * cols, 3)
        assert len(set(engine.shapes)) == 1
        assert frames == 1 or (large != engine.whole(clip[::-1])).any(), "the order of the frames is lost"


@pytest.mark.parametrize("max_pixels", [2000, 500, 150])
def test_tiles_of_clips_shrink_until_they_fit(max_pixels):
    clip, engine = np.stack([picture(61, 83, 3, seed) for seed in range(3)]), FakeEngine(frames=3)
    engine.max_pixels = max_pixels
    np.testing.assert_array_equal(tiled(clip, engine, 100), engine.whole(clip))
    assert {shape[0] for shape in engine.shapes} == {3}


def test_a_clip_that_comes_out_too_small_is_an_error():
    clip = np.zeros((3, 8, 9, 3), np.uint8)
    bands = enlarge(Window(clip.shape, clip.dtype, [clip]), Grid(2, 1, 1), 16, lambda piece: piece[1])
    with pytest.raises(EngineError, match=r"the engine made \(8, 9\) of \(8, 9\), which is not x2; its card is wrong"):
        next(bands)


def test_too_small_a_halo_shows():
    """The fake engine can tell: with a halo one short, tiles differ from the whole."""
    pixels, engine = picture(40, 40), FakeEngine(halo=3)
    wrong = np.concatenate(
        list(enlarge(Window((40, 40, 1), pixels.dtype, [pixels]), Grid(2, 2, 1), 16, lambda piece: engine(piece[None])))
    )
    assert (wrong != engine.whole(pixels)).any()


@pytest.mark.parametrize("fail_at", [{1}, {2}, {3, 4}, {1, 2, 3}, {9}, set(range(1, 30, 3))], ids=str)
@pytest.mark.parametrize("multiple", [1, 4])
def test_out_of_memory_halves_the_tile(fail_at, multiple):
    pixels, engine = picture(53, 71, 3), FakeEngine(multiple_of=multiple, fail_at=frozenset(fail_at))
    np.testing.assert_array_equal(tiled(pixels, engine, 16), engine.whole(pixels))
    assert len({shape[1] * shape[2] for shape in engine.shapes}) > 1, "nothing was halved"


@pytest.mark.parametrize("max_pixels", [10_000, 2000, 500, 150])
def test_tiles_shrink_until_they_fit(max_pixels):
    pixels, engine = picture(61, 83), FakeEngine(halo=2, max_pixels=max_pixels)
    np.testing.assert_array_equal(tiled(pixels, engine, 100), engine.whole(pixels))


@pytest.mark.parametrize("size", [(61, 183), (183, 20), (64, 300), (200, 130)])
@pytest.mark.parametrize(("multiple", "halo"), [(1, 2), (1, 13), (1, 40), (4, 7), (16, 3)])
def test_no_half_is_shorter_than_the_least_side(multiple, halo, size):
    """A side of a tile is at least 64, or all of the picture, whatever the tile and however often it's halved."""
    for max_pixels in (10_000, 96 * 96):
        engine = FakeEngine(halo=halo, multiple_of=multiple, max_pixels=max_pixels)
        np.testing.assert_array_equal(tiled(picture(*size), engine, 100, least=64), engine.whole(picture(*size)))
        for shape in engine.shapes:
            for made, side in zip(shape[1:3], size, strict=True):
                assert made >= min(64, up(side, multiple))


def test_the_other_side_is_cut_where_one_gains_nothing():
    """20 rows with a halo of 30: fewer rows need all rows, fewer columns need fewer columns."""
    pixels, engine = picture(20, 200), FakeEngine(halo=30, max_pixels=20 * 70)
    np.testing.assert_array_equal(tiled(pixels, engine, 16), engine.whole(pixels))


@pytest.mark.parametrize(("multiple", "smallest"), [(1, "5 x 5 px"), (16, "48 x 48 px")])
def test_no_memory_at_all_is_said(multiple, smallest):
    engine = FakeEngine(multiple_of=multiple, max_pixels=0)
    with pytest.raises(MemoryError, match=rf"smallest tile, {smallest}; close other programs or use a smaller model"):
        tiled(picture(80, 80), engine, 1 if multiple == 1 else 16)
    with pytest.raises(MemoryError, match="smallest tile, 64 x 64 px"):
        tiled(picture(80, 80), engine, 80, least=64)


@pytest.mark.parametrize("made", [(3, 3), (1, 2), (2, 2)])
def test_a_wrong_size_is_an_error(made):
    pixels = picture(8, 8)

    def compute(piece):
        return piece.repeat(made[0], axis=0).repeat(made[1], axis=1)

    bands = enlarge(Window((8, 8, 1), pixels.dtype, [pixels]), Grid(2, 1, 1), 8, compute)
    if made == (2, 2):
        assert next(bands).shape == (16, 16, 1)
    else:
        with pytest.raises(EngineError, match="not x2; its card is wrong"):
            next(bands)


def test_other_errors_of_an_engine_pass():
    def compute(piece):
        raise EngineError("gave NaN")

    with pytest.raises(EngineError, match="gave NaN"):
        next(enlarge(Window((8, 8, 1), np.dtype(np.uint8), [picture(8, 8)]), Grid(2, 1, 1), 8, compute))


@pytest.mark.parametrize(("size", "tile"), [((1, 1), 8), ((53, 71), 16), ((20, 200), 7)])
def test_done_hears_of_every_pixel_once(size, tile):
    heard: list[int] = []
    tiled(picture(*size), FakeEngine(), tile, done=heard.append)
    assert sum(heard) == size[0] * size[1]


@pytest.mark.parametrize("band", [1, 2, 7, 50])
def test_a_window_gives_any_rows_downwards(band):
    pixels = picture(50, 3)
    bands = (pixels[top : top + band] for top in range(0, 50, band))
    window = Window((50, 3, 1), pixels.dtype, bands)
    draw = np.random.default_rng(band)
    start = 0
    while start < 50:
        stop = start + int(draw.integers(1, 20))
        expected = pixels[np.minimum(np.arange(start, stop), 49)]  # past the end the last row repeats
        np.testing.assert_array_equal(window.rows(start, stop), expected)
        start += int(draw.integers(0, 9))


@pytest.mark.parametrize("band", [1, 7, 50])
def test_a_window_gives_rows_of_all_frames(band):
    clip = np.stack([picture(50, 3, seed=seed) for seed in range(3)])
    window = Window(clip.shape, clip.dtype, (clip[:, top : top + band] for top in range(0, 50, band)))
    for start, stop in [(0, 5), (3, 20), (19, 44), (40, 60)]:
        np.testing.assert_array_equal(window.rows(start, stop), clip[:, np.minimum(np.arange(start, stop), 49)])


def test_a_window_keeps_no_more_than_it_must():
    def bands():
        for row in range(0, 100, 10):
            taken.append(row)
            yield np.full((10, 1, 1), row)

    taken: list[int] = []
    window = Window((100, 1, 1), np.dtype(int), bands())
    window.rows(25, 35)
    assert taken == [0, 10, 20, 30]
    with pytest.raises(ShapeError, match="row 19 is gone; a window only moves down, and now begins at 20"):
        window.rows(19, 25)


def test_a_window_says_when_its_bands_end_early():
    with pytest.raises(ShapeError, match="the bands end at row 4 of 9"):
        Window((9, 1, 1), np.dtype(int), [np.zeros((4, 1, 1))]).rows(0, 9)


def test_a_span_is_what_it_says():
    assert plan(100, 200, Grid(4, 13, 16)) == [Span(0, 112, 0, 100)]


# ---- networks of one size


@pytest.mark.parametrize("overlap", [0, 3, 8, 100])
@pytest.mark.parametrize("side", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("size", [1, 7, 8, 16, 17, 63, 65, 200])
def test_pieces_of_one_length_cover_all(size, side, overlap):
    spans = cover(size, side, overlap)
    assert all(span.outer_stop - span.outer_start == side for span in spans)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == size
    if size > side:
        assert (spans[0].outer_start, spans[-1].outer_stop) == (0, size)
        for before, after in itertools.pairwise(spans):
            assert before.outer_stop - after.outer_start >= min(overlap, side // 2)
            # The seam lies in the middle of what both see.
            assert abs((before.outer_stop - before.stop) - (after.start - after.outer_start)) <= 1


@pytest.mark.parametrize("size", [(5, 9), (20, 24), (21, 90), (77, 65)])
def test_what_takes_one_size_equals_the_whole_but_for_the_border(size):
    """With an overlap of twice the radius every seam is exact; at the border of padded pictures it sees the edge."""
    engine = FakeEngine(scale=2, halo=2)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3))
    shapes = []

    def compute(piece):
        shapes.append(piece.shape)
        return engine(piece[None])

    large = covered(pixels, (20, 24), 2, 4, compute)
    assert set(shapes) == {(20, 24, 3)}
    past = [(0, max(0, side - own)) for side, own in zip((20, 24), size, strict=True)]
    wanted = engine.whole(np.pad(pixels, (*past, (0, 0)), mode="edge"))
    np.testing.assert_array_equal(large, wanted[: 2 * size[0], : 2 * size[1]])


@pytest.mark.parametrize("size", [(5, 9), (21, 90)])
def test_a_clip_by_what_takes_one_size(size):
    clip, engine = np.stack([picture(*size, 3, seed) for seed in range(3)]), FakeEngine(scale=2, halo=2, frames=3)
    large = covered(clip, (20, 24), 2, 4, engine)
    assert set(engine.shapes) == {(3, 20, 24, 3)}
    past = [(0, max(0, side - own)) for side, own in zip((20, 24), size, strict=True)]
    wanted = engine.whole(np.pad(clip, ((0, 0), *past, (0, 0)), mode="edge"))
    np.testing.assert_array_equal(large, wanted[: 2 * size[0], : 2 * size[1]])
