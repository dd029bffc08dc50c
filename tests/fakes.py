"""Engines whose answer is known, for tests of what stands around engines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from superfine.engine import still
from superfine.models import Card, Model, card_to_text
from superfine.tiles import Grid, Window, enlarge

Array = npt.NDArray[np.generic]


def blur_then_enlarge(pixels: Array, scale: int, radius: int, multiple_of: int = 1) -> Array:
    """Sums over (2*radius + 1)^2 pixels, zero outside, mixed inside blocks of the grid, each with its place in large.

    Whole numbers, so the order of adding can't matter; blocks, so a tile off the grid shows.
    """
    sums = pixels.astype(np.int64)
    for axis in (0, 1):
        count = sums.shape[axis]
        margin = [(radius + 1, radius) if place == axis else (0, 0) for place in range(sums.ndim)]
        total = np.cumsum(np.pad(sums, margin), axis=axis)
        ends = np.arange(count)
        sums = np.take(total, ends + 2 * radius + 1, axis=axis) - np.take(total, ends, axis=axis)
    if multiple_of > 1:
        starts = [np.arange(0, side, multiple_of) for side in sums.shape[:2]]
        blocks = np.add.reduceat(np.add.reduceat(sums, starts[0], axis=0), starts[1], axis=1)
        sums = sums * 1_000_003 + blocks.repeat(multiple_of, axis=0).repeat(multiple_of, axis=1)
    large = sums.repeat(scale, axis=0).repeat(scale, axis=1)
    phase = np.arange(scale)[:, None] * scale + np.arange(scale)
    tiled = np.tile(phase, pixels.shape[:2])[..., None]
    return large * scale**2 + tiled


def weighed(clip: Array) -> Array:
    """(frames, h, w, c) -> (h, w, c): each frame times its place, from 1."""
    return np.tensordot(np.arange(1, len(clip) + 1), clip.astype(np.int64), axes=1)


@dataclass
class FakeEngine:
    """`blur_then_enlarge` with facts, of the first frame plus twice the second plus thrice the third and so on.

    Out of memory at the calls `fail_at`, or above `max_pixels`.
    """

    scale: int = 2
    halo: int = 2
    multiple_of: int = 1
    frames: int = 1
    fail_at: frozenset[int] = frozenset()
    max_pixels: int = 10**9
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, pixels: Array) -> Array:
        frames, rows, cols, _ = pixels.shape
        assert frames == self.frames
        assert rows % self.multiple_of == 0, "off the grid"
        assert cols % self.multiple_of == 0, "off the grid"
        self.shapes.append(pixels.shape)
        if len(self.shapes) in self.fail_at or rows * cols > self.max_pixels:
            raise MemoryError("on command")
        return blur_then_enlarge(weighed(pixels), self.scale, self.halo, self.multiple_of)

    def whole(self, pixels: Array) -> Array:
        """The answer for a picture or clip of any size: grown to the grid, computed at once, cut."""
        pixels = weighed(pixels if pixels.ndim == 4 else still(pixels, self.frames))
        rows, cols = pixels.shape[:2]
        past = [(0, -rows % self.multiple_of), (0, -cols % self.multiple_of), (0, 0)]
        large = blur_then_enlarge(np.pad(pixels, past, mode="edge"), self.scale, self.halo, self.multiple_of)
        return large[: rows * self.scale, : cols * self.scale]


def tiled(
    pixels: Array,
    engine: object,
    tile: int,
    *,
    band: int | None = None,
    least: int = 1,
    done: Callable[[int], None] = lambda pixels: None,
) -> Array:
    """The picture or clip by `enlarge`, read in bands of `band` rows, no outer side of a tile shorter than `least`."""
    height = pixels.shape[-3]
    step = band or height
    bands = (pixels[..., top : top + step, :, :] for top in range(0, height, step))
    grid = Grid(engine.scale, engine.halo, engine.multiple_of, least)  # type: ignore[attr-defined]
    source = Window(pixels.shape, pixels.dtype, bands)

    def compute(piece: Array) -> Array:
        return engine(piece if piece.ndim == 4 else still(piece, engine.frames))  # type: ignore[operator, attr-defined]

    return np.concatenate(list(enlarge(source, grid, tile, compute, done=done)))


def onnx_network(
    nodes: Sequence[tuple[str, Sequence[str], str, dict[str, Any]]],
    weights: dict[str, Array],
    *,
    card: Card | None = None,
    inputs: dict[str, Sequence[int | str]] | None = None,
    outputs: dict[str, Sequence[int | str]] | None = None,
) -> bytes:
    """An ONNX file by hand. nodes: (operator, inputs, output, attributes); the picture is `x`, the result `y`."""
    import onnx

    def ports(sides: dict[str, Sequence[int | str]]) -> list[Any]:
        return [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, side) for name, side in sides.items()]

    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, list(taken), [made], **options) for kind, taken, made, options in nodes],
        "by hand",
        ports(inputs or {"x": (1, 3, "h", "w")}),
        ports(outputs or {"y": (1, 3, "H", "W")}),
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = "superfine", card_to_text(card)
    content: bytes = proto.SerializeToString()
    return content


def model_of(
    nodes: Sequence[tuple[str, Sequence[str], str, dict[str, Any]]],
    weights: dict[str, Array],
    *,
    scale: int = 2,
    frames: int = 1,
    fp32_end: bool = False,
    **sides: Any,
) -> Model:
    """A network by hand with its card, as a model."""
    card = Card(name="by-hand", scale=scale, halo=2, frames=frames, fp32_end=fp32_end)
    if frames > 1:
        sides.setdefault("inputs", {"x": (1, 3 * frames, "h", "w")})
    return Model(card, onnx_network(nodes, weights, card=card, **sides), "by-hand.onnx")


def painter(name: str, scale: int, level: float, *, bytes_per_pixel: int = 1000) -> Model:
    """A network `NAME-xSCALE` that paints every sample in one level, 0 to 1, so that its work is known by sight."""
    card = Card(name=f"{name}-x{scale}", scale=scale, halo=0, bytes_per_pixel=bytes_per_pixel)
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Mul", ["x", "nothing"], "black", {}),
        ("Add", ["black", "level"], "painted", {}),
        ("Concat", ["painted"] * scale**2, "parts", {"axis": 1}),
        ("DepthToSpace", ["parts"], "y", {"blocksize": scale, "mode": "CRD"}),
    ]
    weights = {"nothing": np.zeros(1, np.float32), "level": np.full(1, level, np.float32)}
    return Model(card, onnx_network(nodes, weights, card=card), f"{card.name}.onnx")


def clip_network(frames: int = 3, scale: int = 2, *, name: str = "by-hand", fp32_end: bool = True) -> Model:
    """A network of several frames: their mean, weighed by 1, 2, 3 and so on, then every pixel scale x scale times."""
    card = Card(name=name, scale=scale, halo=0, frames=frames, fp32_end=fp32_end)
    mean = np.kron(frame_shares(frames).astype(np.float32), np.eye(3, dtype=np.float32))  # (3, 3*frames)
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Conv", ["x", "mean"], "parts", {}),
        ("DepthToSpace", ["parts"], "y", {"blocksize": scale, "mode": "CRD"}),
    ]
    weights = {"mean": mean.repeat(scale**2, axis=0)[:, :, None, None]}
    content = onnx_network(nodes, weights, card=card, inputs={"x": (1, 3 * frames, "h", "w")})
    return Model(card, content, f"{name}.onnx")


def clip_network_truth(clip: Array, scale: int = 2) -> npt.NDArray[np.float64]:
    """What `clip_network` makes of (frames, h, w, 3), in float64 levels, not rounded."""
    mean = np.tensordot(frame_shares(len(clip)), clip.astype(np.float64), axes=1)
    return mean.repeat(scale, axis=0).repeat(scale, axis=1)


def frame_shares(frames: int) -> npt.NDArray[np.float64]:
    """1, 2, 3 and so on, divided by their sum."""
    return np.arange(1, frames + 1) / (frames * (frames + 1) / 2)
