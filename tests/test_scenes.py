"""Cuts, fades, flashes, duplicates: what a window may hold."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data

from superfine.errors import UsageError
from superfine.frames import Frame
from superfine.scenes import FLASH, is_cut, likeness, margin, thumbnail, windows

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]

SHOTS: dict[str, Callable[[], Bytes]] = {
    name: getattr(skimage.data, name) for name in ("astronaut", "coffee", "chelsea", "rocket")
}


def shot(name: str, count: int, *, speed: int = 3, first: int = 0) -> list[Bytes]:
    """A pan over a photo: `speed` pixels a frame, 180 x 240."""
    photo = SHOTS[name]()
    return [photo[20:200, 30 + speed * number : 270 + speed * number] for number in range(first, first + count)]


def frames_of(pictures: Sequence[Bytes], begin: int = 0) -> list[Frame]:
    return [Frame(number, Fraction(number, 25), pixels) for number, pixels in enumerate(pictures)][begin:]


def found_cuts(pictures: Sequence[Bytes]) -> list[int]:
    """Numbers of frames that begin a scene, judged by the thumbnails around them."""
    small = [thumbnail(pixels) for pixels in pictures]
    return [at for at in range(1, len(small)) if is_cut(small[max(0, at - 4) : at], small[at : at + 4])]


def scaled(pixels: Bytes, gain: float, lift: float = 0) -> Bytes:
    return np.clip(np.rint(pixels * gain + lift), 0, 255).astype(np.uint8)


# ---- cuts


@pytest.mark.parametrize("first", SHOTS)
@pytest.mark.parametrize("second", SHOTS)
def test_hard_cuts_are_found_and_nothing_else(first: str, second: str) -> None:
    pictures = shot(first, 8) + shot(second, 8, first=0 if first != second else 8)
    assert found_cuts(pictures) == ([8] if first != second else [])


def test_a_cut_with_noise_is_found() -> None:
    rng = np.random.default_rng(1)
    pictures = [scaled(p + rng.normal(0, 12, p.shape), 1) for p in shot("coffee", 8) + shot("chelsea", 8)]
    assert found_cuts(pictures) == [8]


@pytest.mark.parametrize("speed", [0, 8, 16])
def test_a_pan_is_no_cut(speed: int) -> None:
    assert found_cuts(shot("rocket", 10, speed=speed)) == []


@pytest.mark.parametrize("length", [8, 12, 25])
def test_fades_are_no_cuts(length: int) -> None:
    levels = np.linspace(1, 0, length)
    out = [scaled(pixels, level) for pixels, level in zip(shot("astronaut", length), levels, strict=True)]
    into = [scaled(pixels, level) for pixels, level in zip(shot("coffee", length), levels[::-1], strict=True)]
    assert found_cuts(shot("astronaut", 5) + out) == []
    assert found_cuts(into + shot("coffee", 5, first=length)) == []
    assert found_cuts(out + into) == []


@pytest.mark.parametrize("length", [12, 25])
def test_a_dissolve_is_no_cut(length: int) -> None:
    pairs = zip(shot("astronaut", length), shot("coffee", length), np.linspace(0, 1, length), strict=True)
    mixed = [scaled(one * (1 - level) + other * level, 1) for one, other, level in pairs]
    assert found_cuts(shot("astronaut", 6) + mixed + shot("coffee", 6, first=length)) == []


@pytest.mark.parametrize("length", range(1, FLASH + 1))
@pytest.mark.parametrize("gain", [(1.0, 160.0), (0.0, 255.0), (0.0, 0.0)])
def test_flashes_are_no_cuts(length: int, gain: tuple[float, float]) -> None:
    pictures = shot("chelsea", 16)
    for number in range(6, 6 + length):
        pictures[number] = scaled(pictures[number], *gain)
    assert found_cuts(pictures) == []


def test_an_insert_longer_than_a_flash_is_a_scene() -> None:
    pictures = shot("chelsea", 6) + shot("coffee", FLASH + 1) + shot("chelsea", 6, first=6)
    assert found_cuts(pictures) == [6, 6 + FLASH + 1]


def test_black_is_another_scene_than_a_bright_picture() -> None:
    black = [np.zeros((180, 240, 3), np.uint8)] * 6
    assert found_cuts(black + shot("coffee", 6)) == [6]


def test_likeness_does_not_see_brightness_and_contrast() -> None:
    one = thumbnail(shot("coffee", 1)[0])
    assert likeness(one, one * np.float32(0.3) + np.float32(0.1)) > 0.99
    assert likeness(one, np.float32(1) - one) < 0.5
    assert likeness(one, thumbnail(shot("rocket", 1)[0])) < 0.5
    assert likeness(one, one[:-1]) == -1


@pytest.mark.parametrize("shape", [(1080, 1920, 3), (17, 5, 3), (1, 1, 3), (48, 48, 1), (49, 1000, 4)])
def test_thumbnails_are_means_of_squares(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    small = thumbnail(pixels)
    assert max(small.shape) <= 48
    step = -(-max(shape[:2]) // 48)
    plane = pixels[..., 1 if shape[2] >= 3 else 0]
    assert small[0, 0] == pytest.approx(plane[:step, :step].mean() / 255, abs=1e-5)
    deep = thumbnail(pixels.astype(np.uint16) * 257)
    np.testing.assert_allclose(deep, small, atol=1e-5)


# ---- windows


def numbered(
    pictures: Sequence[Bytes], count: int, first: int = 0, begin: int = 0
) -> list[tuple[int, list[int], bool]]:
    """Each window as the numbers of the pictures that it holds: the first with these pixels."""
    names = {pixels.tobytes(): number for number, pixels in reversed(list(enumerate(pictures)))}
    return [
        (window.frame.number, [names[pixels.tobytes()] for pixels in window.pixels], window.repeats)
        for window in windows(iter(frames_of(pictures, begin)), count, first=first)
    ]


def test_windows_hold_the_neighbours_and_mirror_at_the_ends() -> None:
    pictures = shot("astronaut", 6)
    assert numbered(pictures, 3) == [
        (0, [1, 0, 1], False),
        (1, [0, 1, 2], False),
        (2, [1, 2, 3], False),
        (3, [2, 3, 4], False),
        (4, [3, 4, 5], False),
        (5, [4, 5, 4], False),
    ]
    assert [window[1] for window in numbered(pictures, 5)] == [
        [2, 1, 0, 1, 2],
        [3, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5, 2],
        [3, 4, 5, 4, 3],
    ]


def test_windows_never_cross_a_cut() -> None:
    pictures = shot("astronaut", 5) + shot("coffee", 2) + shot("chelsea", 5)
    # Two frames of coffee are a scene too: nothing around them is like what comes after.
    scenes = [range(5), range(5, 7), range(7, 12)]
    for number, held, _ in numbered(pictures, 5):
        (scene,) = (scene for scene in scenes if number in scene)
        assert set(held) <= set(scene), (number, held)
        assert held[2] == number
        assert len(set(held)) > 1


@pytest.mark.parametrize("count", [1, 3, 7])
def test_one_frame_alone_is_repeated(count: int) -> None:
    assert numbered(shot("coffee", 1), count) == [(0, [0] * count, False)]


def test_no_frames_give_no_windows() -> None:
    assert numbered([], 3) == []


def test_duplicates_are_marked_and_never_their_own_neighbours() -> None:
    drawings = shot("rocket", 5)
    pictures = [drawings[number // 3] for number in range(15)]
    made = numbered([pixels.copy() for pixels in pictures], 3)
    assert [repeats for _, _, repeats in made] == [number % 3 != 0 for number in range(15)]
    assert [held for number, held, _ in made if 3 <= number < 12] == [
        [number // 3 * 3 - 3, number // 3 * 3, number // 3 * 3 + 3] for number in range(3, 12)
    ]


def test_almost_the_same_is_not_the_same() -> None:
    pictures = [shot("rocket", 1)[0].copy() for _ in range(3)]
    pictures[1][90, 120, 2] ^= 1
    assert [repeats for _, _, repeats in numbered(pictures, 1)] == [False, False, False]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_windows_are_the_same_wherever_reading_began(count: int) -> None:
    drawings = shot("astronaut", 20) + shot("coffee", 20)
    flashed = [scaled(pixels, 1, 170) if number in (9, 10, 31) else pixels for number, pixels in enumerate(drawings)]
    pictures = [flashed[number * 2 // 3] for number in range(45)]
    whole = numbered(pictures, count)
    for first in range(0, 45, 7):
        begin = max(0, first - margin(count))
        assert numbered(pictures, count, first=first, begin=begin) == whole[first:]


def test_memory_is_bounded() -> None:
    """However long the clip, few frames are asked for before the first window is given."""
    asked = 0

    def endless() -> Iterable[Frame]:
        nonlocal asked
        for frame in frames_of(shot("coffee", 60)):
            asked += 1
            yield frame

    given = windows(endless(), 3)
    for number in range(40):
        assert next(given).frame.number == number
        assert asked <= number + 1 + margin(3) + 1


def test_stacks_are_what_engines_take() -> None:
    pictures = shot("coffee", 3)
    middle = list(windows(frames_of(pictures), 3))[1].stack()
    np.testing.assert_array_equal(middle, np.stack(pictures))


@pytest.mark.parametrize("count", [0, 2, -1])
def test_windows_have_a_middle(count: int) -> None:
    with pytest.raises(UsageError, match=f"a window of {count} frames has no middle; take 1, 3, 5"):
        next(iter(windows([], count)))
