"""Moving a picture by a fraction of a pixel.

Content moves by +d: `out[r, c] = in[r - dy, c - dx]`; d is (dy, dx), rows first. A shift
is one filter for every sample, so each method is either a few taps or a response in
frequency, along the columns and then along the rows. Whole pixels are copied.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from superfine.errors import ShapeError, UsageError

__all__ = ["BORDERS", "CUBIC_A", "METHODS", "TAPS", "Border", "Method", "extended", "shift_image", "tap_weights"]

Array = npt.NDArray[np.generic]
Plane = npt.NDArray[np.float64]
Method = Literal["fourier", "spline", "lanczos", "bicubic", "linear"]
Border = Literal["reflect", "replicate", "wrap", "constant"]

METHODS: Final[tuple[Method, ...]] = get_args(Method)
BORDERS: Final[tuple[Border, ...]] = get_args(Border)
#: Keys' parameter as OpenCV has it; the kernel of the other resampling here is Keys' own, -0.5.
CUBIC_A: Final = -0.75

_WHITE: Final[dict[np.dtype[Any], float]] = {
    np.dtype(np.uint8): 255.0,
    np.dtype(np.uint16): 65535.0,
    np.dtype(np.float32): 1.0,
    np.dtype(np.float64): 1.0,
}
# Below it alpha says nothing of the colour; where levels are whole it rounds to none anyway.
_LEAST_ALPHA: Final = 1e-6
# Samples around the picture before a period closes; the poles of the spline have faded to 1e-16 after 44.
_MARGIN: Final = 128
# Samples that are worked on in one go.
_BLOCK: Final = 1 << 19


def shift_image(
    pixels: npt.ArrayLike,
    shift: tuple[float, float],
    *,
    method: Method = "fourier",
    border: Border = "reflect",
    fill: float = 0.0,
) -> Array:
    """Move a picture by `shift`, (dy, dx) in pixels: `out[r, c] = in[r - dy, c - dx]`.

    pixels: (H, W) or (H, W, C) with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
    alpha); uint8, uint16, float32 or float64; floats of any finite range, but 0..1 with
    alpha. Returns an array of the same shape and dtype, computed in float64; whole
    levels are rounded to the nearest and clipped, floats may overshoot their range.
    The input is left as it is.

    method:
      fourier   turns the phase of each frequency: an ideal band-limited picture moves
                without any loss, and edges ring. On a period of even length the
                frequency of Nyquist has no phase of its own: it is multiplied by
                cos(pi d), the mean of turning it either way, so half a pixel removes it.
                With `wrap` a shift there and back in float64 returns the picture to
                1e-12 where no period is even or nothing lies at Nyquist. With the other
                borders what has left the frame is gone, and near the border the way
                back is not exact; `reflect` has nothing at Nyquist, whatever the size.
      spline    quintic B-spline through every sample, by its exact filter.
                Unser et al. 1993, doi:10.1109/78.193220.
      lanczos   windowed sinc of radius 3, its weights made to add up to one.
      bicubic   Keys 1981 with a = -0.75, as OpenCV's warpAffine with INTER_CUBIC.
      linear    the mean of the two neighbours by their nearness.
    border: what lies around the picture.
      reflect   c b a | a b c | c b a, the mirror at the edge of the frame.
      replicate a a a | a b c | c c c.
      wrap      a b c | a b c | a b c.
      constant  `fill`, 0..1 of white whatever the dtype; with alpha it is transparent.
    A shift of whole pixels is a copy to the bit for every method and border.

    Alpha: colours are weighed with it before they are moved, so that unseen colours
    don't leak; where the new alpha is nothing the colour is 0. Even alpha changes nothing.

    Raises ShapeError for another shape or dtype, an empty picture, NaN or infinity among
    the samples; UsageError for a shift that isn't two finite numbers or moves the whole
    picture out of its frame (a side or more), an unknown method or border, a bad fill.
    """
    given = np.asarray(pixels)
    given = given.astype(given.dtype.newbyteorder("="), copy=False)
    planes = given[..., None] if given.ndim == 2 else given
    _check_pixels(given)
    move = _checked_shift(shift, planes.shape)
    _check_choice("method", method, METHODS)
    _check_choice("border", border, BORDERS)
    if not math.isfinite(fill) or (given.dtype.kind == "u" and not 0 <= fill <= 1):
        raise UsageError(f"fill {fill!r} is not a level; give 0 for black to 1 for white")
    if all(step.is_integer() for step in move):
        return _copied(planes, move, border, fill).reshape(given.shape)
    made = np.empty_like(planes)
    for place, plane in enumerate(_shifted(planes, move, method, border, fill)):
        made[..., place] = _in_kind(plane, given.dtype)
    return made.reshape(given.shape)


def tap_weights(method: Method, rest: float) -> Plane:
    """The weights of the samples -n..n around each place for a shift of `rest`, -0.5 to 0.5; method: one of `TAPS`."""
    return _WEIGHTS[method](rest)


def extended(
    pixels: npt.NDArray[Any], start: int, stop: int, axis: int, border: Border, fill: float = 0.0
) -> npt.NDArray[Any]:
    """Samples [start, stop) along an axis of a picture that goes on beyond its frame; dtype kept.

    start may be negative and stop beyond the side. fill: in the units of the samples.
    """
    size = pixels.shape[axis]
    place = np.arange(start, stop)
    match border:
        case "reflect":
            index = place % (2 * size)
            index = np.minimum(index, 2 * size - 1 - index)
        case "wrap":
            index = place % size
        case _:
            index = np.clip(place, 0, size - 1)
    taken: npt.NDArray[Any] = np.take(pixels, index, axis=axis)
    if border == "constant":
        outside: list[Any] = [slice(None)] * pixels.ndim
        outside[axis] = place != index
        taken[tuple(outside)] = fill
    return taken


# ---- channels


def _shifted(planes: Array, move: tuple[float, float], method: Method, border: Border, fill: float) -> list[Plane]:
    """Each channel, in 0..1 where levels are whole."""
    channels = planes.shape[2]
    scale = 1 / _WHITE[planes.dtype]

    def unit(place: int) -> Plane:
        return np.multiply(planes[..., place], scale, dtype=np.float64)

    def moved(plane: Plane, level: float) -> Plane:
        for axis in (0, 1):
            plane = _along(plane, move[axis], axis, method, border, level)
        return plane

    if channels in (1, 3):
        return [moved(unit(place), fill) for place in range(channels)]
    alpha = unit(channels - 1)
    if border != "constant" and alpha.min() == alpha.max():
        return [*(moved(unit(place), fill) for place in range(channels - 1)), alpha]
    new_alpha = moved(alpha, 0.0)
    seen = new_alpha > max(_LEAST_ALPHA, scale / 2 if scale != 1 else 0)
    # By alpha as it overshoots, like the colours that were weighed with it.
    weight = np.where(seen, new_alpha, 1)
    colours = (np.where(seen, moved(unit(place) * alpha, 0.0) / weight, 0) for place in range(channels - 1))
    return [np.clip(plane, 0, 1) for plane in (*colours, new_alpha)]


def _copied(planes: Array, move: tuple[float, float], border: Border, fill: float) -> Array:
    white = _WHITE[planes.dtype]
    clear = border == "constant" and planes.shape[2] in (2, 4)
    level = 0.0 if clear else np.rint(fill * white) if planes.dtype.kind == "u" else fill
    for axis in (0, 1):
        start = -int(move[axis])
        planes = extended(planes, start, start + planes.shape[axis], axis, border, float(level))
    return planes


def _in_kind(plane: Plane, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        return plane.astype(dtype)
    white = _WHITE[dtype]
    return np.rint(np.clip(plane * white, 0, white)).astype(dtype)


# ---- one axis of one plane


def _along(plane: Plane, step: float, axis: int, method: Method, border: Border, level: float) -> Plane:
    """A plane moved by `step` along one axis, in blocks of lines."""
    size = plane.shape[axis]
    whole = round(step)
    rest = step - whole
    if rest == 0:
        return extended(plane, -whole, size - whole, axis, border, level)
    lines = np.moveaxis(plane, axis, -1)
    made = np.empty(plane.shape)
    into = np.moveaxis(made, axis, -1)
    each = max(1, _BLOCK // size)
    for top in range(0, len(lines), each):
        some = np.ascontiguousarray(lines[top : top + each])
        if method in ("fourier", "spline"):
            response = _turned if method == "fourier" else _spline
            into[top : top + each] = _by_frequency(some, whole, rest, response, border, level)
        else:
            into[top : top + each] = _by_taps(some, whole, tap_weights(method, rest), border, level)
    return made


def _by_taps(lines: Plane, whole: int, weights: Plane, border: Border, level: float) -> Plane:
    """weights: of the samples -n..n around each place."""
    reach = len(weights) // 2
    size = lines.shape[1]
    wide = extended(lines, -whole - reach, size - whole + reach, 1, border, level)
    total = np.zeros_like(lines)
    for tap, weight in enumerate(weights):
        if weight != 0:
            total += weight * wide[:, tap : tap + size]
    return total


def _by_frequency(
    lines: Plane,
    whole: int,
    rest: float,
    response: Callable[[float, int], npt.NDArray[np.complex128]],
    border: Border,
    level: float,
) -> Plane:
    """response: of a shift and the length of a period, at each frequency of `rfft`."""
    size = lines.shape[1]
    first = 0  # of the result, in the period
    if border in ("reflect", "wrap"):
        period = 2 * size if border == "reflect" else size
        wide = extended(lines, -whole, period - whole, 1, border)
    else:
        # The whole picture and its new place, and enough around both that the ends of the period don't show.
        margin = max(_MARGIN, size // 4)
        first = max(0, -whole) + margin
        period = _quick(size + abs(whole) + 2 * margin)
        start = -whole - first
        wide = extended(lines, start, start + period, 1, border, level)
        if border == "replicate":
            _close(wide, max(0, start + period - size), max(0, -start))
    made = np.fft.irfft(np.fft.rfft(wide, axis=1) * response(rest, period), period, axis=1)
    return made[:, first : first + size]


def _close(wide: Plane, after: int, before: int) -> None:
    """Lead the last level smoothly to the first, where the picture is `after` and `before` samples from the ends."""
    gap = after + before
    share = np.clip(2 * np.arange(gap) / gap - 0.5, 0, 1)
    share = (1 - np.cos(np.pi * share)) / 2
    bridge = wide[:, -1:] + (wide[:, :1] - wide[:, -1:]) * share
    wide[:, wide.shape[1] - after :] = bridge[:, :after]
    wide[:, :before] = bridge[:, after:]


def _quick(length: int) -> int:
    """The least length from `length` on that has no prime factor over 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def _turned(rest: float, period: int) -> npt.NDArray[np.complex128]:
    frequency = np.fft.rfftfreq(period)
    turned: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * frequency * rest)
    if period % 2 == 0:
        turned[-1] = math.cos(math.pi * rest)
    return turned


def _spline(rest: float, period: int) -> npt.NDArray[np.complex128]:
    place = np.arange(-3.0, 4)
    waves = np.exp(-2j * np.pi * np.fft.rfftfreq(period)[:, None] * place)
    response: npt.NDArray[np.complex128] = (waves @ _b_spline(place - rest)) / (waves @ _b_spline(place)).real
    return response


def _b_spline(distance: Plane) -> Plane:
    """The quintic B-spline. Source: Unser et al. 1993."""
    d = np.abs(distance)
    near = 11 / 20 - d**2 / 2 + d**4 / 4 - d**5 / 12
    middle = 17 / 40 + 5 * d / 8 - 7 * d**2 / 4 + 5 * d**3 / 4 - 3 * d**4 / 8 + d**5 / 24
    far = np.maximum(3 - d, 0) ** 5 / 120
    return np.where(d < 1, near, np.where(d < 2, middle, far))


def _keys(distance: Plane) -> Plane:
    d = np.abs(distance)
    near = (CUBIC_A + 2) * d**3 - (CUBIC_A + 3) * d**2 + 1
    far = CUBIC_A * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _cubic(rest: float) -> Plane:
    return _keys(-rest - np.arange(-2.0, 3))


def _lanczos(rest: float) -> Plane:
    distance = -rest - np.arange(-3.0, 4)
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    normalised: Plane = weights / weights.sum()
    return normalised


_WEIGHTS: Final[dict[Method, Callable[[float], Plane]]] = {
    "lanczos": _lanczos,
    "bicubic": _cubic,
    "linear": lambda rest: np.maximum(0.0, 1 - np.abs(-rest - np.arange(-1.0, 2))),
}


#: The methods of a few taps.
TAPS: Final[tuple[Method, ...]] = tuple(_WEIGHTS)


# ---- what is refused


def _check_pixels(pixels: Array) -> None:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise ShapeError(f"want (H, W) or (H, W, 1|2|3|4) without an empty side, got {pixels.shape}")
    if pixels.dtype not in _WHITE:
        raise ShapeError(f"want uint8, uint16, float32 or float64, got {pixels.dtype}; convert it with .astype")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise ShapeError("the picture holds NaN or infinity; fill these samples first")
        low, high = float(pixels.min()), float(pixels.max())
        if pixels.ndim == 3 and pixels.shape[2] in (2, 4) and not 0 <= low <= high <= 1:
            raise ShapeError(f"float pixels with alpha must lie in 0..1, and these go from {low:g} to {high:g}")


def _checked_shift(shift: tuple[float, float], shape: tuple[int, ...]) -> tuple[float, float]:
    try:
        down, right = (float(step) for step in shift)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a shift is two numbers, (dy, dx); got {shift!r}") from error
    for name, step, side in (("dy", down, shape[0]), ("dx", right, shape[1])):
        if not math.isfinite(step):
            raise UsageError(f"{name} is {step}; want a finite number of pixels")
        if abs(step) >= side:
            raise UsageError(
                f"{name} {step:g} moves all {side} pixels of that side out of the frame; want less than {side}"
            )
    return down, right


def _check_choice(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UsageError(f"no {what} {given!r}; there are {', '.join(known)}")
