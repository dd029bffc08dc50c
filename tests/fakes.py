"""Engines whose answer is known, for tests of what stands around engines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

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


@dataclass
class FakeEngine:
    """`blur_then_enlarge` with facts; out of memory at the calls `fail_at`, or above `max_pixels`."""

    scale: int = 2
    halo: int = 2
    multiple_of: int = 1
    frames: int = 1
    fail_at: frozenset[int] = frozenset()
    max_pixels: int = 10**9
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, pixels: Array) -> Array:
        _, rows, cols, _ = pixels.shape
        assert rows % self.multiple_of == 0, "off the grid"
        assert cols % self.multiple_of == 0, "off the grid"
        self.shapes.append(pixels.shape)
        if len(self.shapes) in self.fail_at or rows * cols > self.max_pixels:
            raise MemoryError("on command")
        return blur_then_enlarge(pixels[0], self.scale, self.halo, self.multiple_of)

    def whole(self, pixels: Array) -> Array:
        """The answer for a picture of any size: grown to the grid, computed at once, cut."""
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
    """The picture by `enlarge`, read in bands of `band` rows, no outer side of a tile shorter than `least`."""
    step = band or len(pixels)
    bands = (pixels[top : top + step] for top in range(0, len(pixels), step))
    grid = Grid(engine.scale, engine.halo, engine.multiple_of, least)  # type: ignore[attr-defined]
    rows, cols, channels = pixels.shape
    source = Window((rows, cols, channels), pixels.dtype, bands)
    return np.concatenate(list(enlarge(source, grid, tile, lambda piece: engine(piece[None]), done=done)))  # type: ignore[operator]


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
    fp32_end: bool = False,
    **sides: Any,
) -> Model:
    """A network by hand with its card, as a model."""
    card = Card(name="by-hand", scale=scale, halo=2, fp32_end=fp32_end)
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
