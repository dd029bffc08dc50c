"""What can be judged: anything that enlarges a whole picture, with the facts that its figures need."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from superfine.engine import LEAST_SIDE, ClassicalEngine, Engine, NetworkEngine, Precision, open_engine, still
from superfine.errors import ModelError, UsageError
from superfine.models import CLASSICAL, Model, find_model
from superfine.tiles import Grid, Window, enlarge

__all__ = [
    "BASELINES",
    "ORACLES",
    "AdaptMethod",
    "ClassicalMethod",
    "KernelMethod",
    "KnownKernelMethod",
    "Made",
    "Method",
    "NetworkMethod",
    "WindowMethod",
    "enlarged",
    "frames_of",
    "made",
    "made_of_windows",
    "open_method",
]

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

#: In every table, so that a figure has something to stand beside.
BASELINES: Final = ("nearest", "bilinear", "bicubic", "lanczos")
#: Told what nobody can know of a real picture: bounds to stand beside, never the best.
ORACLES: Final = ("adapt-known",)


class Method(Protocol):
    """Enlarges whole pictures."""

    name: str
    scale: int
    engine: str
    """The runtime and the device really in use, with the version."""
    precision: str
    sha256: str
    """Of the model's file; empty where there is none."""
    parameters: int
    """0 where there are none, or nobody knows."""
    file_bytes: int
    """Of the model's file; 0 where there is none."""
    notes: tuple[str, ...]
    """What a person should know."""

    def __call__(self, pixels: Bytes) -> Bytes:
        """(h, w, 3) uint8 RGB -> (scale*h, scale*w, 3) uint8 RGB."""
        ...


class Made(NamedTuple):
    """A large picture, and the kernel (n, n) that its method found in the small one, if it looks for one."""

    pixels: Bytes
    kernel: Floats | None = None


@runtime_checkable
class KernelMethod(Protocol):
    """A `Method` that knows of kernels."""

    oracle: bool
    """It is told the true kernel, and can't work without."""

    def made(self, pixels: Bytes, kernel: Floats | None) -> Made:
        """As `Method`; kernel: the true one, for an oracle alone. Raises UsageError where an oracle isn't told it."""
        ...


def made(method: Method, pixels: Bytes, kernel: Floats | None) -> Made:
    """What any method makes of a small picture. kernel: the one that it was made by, where that is known."""
    return method.made(pixels, kernel) if isinstance(method, KernelMethod) else Made(method(pixels))


@runtime_checkable
class WindowMethod(Protocol):
    """A `Method` that looks at several frames of a clip at once."""

    frames: int
    """How many, an odd number; a picture alone stands for all of them."""

    def of_window(self, window: Bytes) -> Bytes:
        """(frames, h, w, 3) in the order of time -> the middle one, (scale*h, scale*w, 3)."""
        ...


def frames_of(method: Method) -> int:
    """How many frames of a clip any method looks at."""
    return method.frames if isinstance(method, WindowMethod) else 1


def made_of_windows(method: Method, windows: Mapping[int, Bytes]) -> Made:
    """What any method makes of a clip's frame. windows: by their number of frames (1 is there), (frames, h, w, 3)."""
    if isinstance(method, WindowMethod):
        return Made(method.of_window(windows[method.frames]))
    return made(method, windows[1][0], None)


def enlarged(engine: Engine, pixels: Array, tile: int = 384) -> Array:
    """A picture (h, w, 3) or a window (frames, h, w, 3) through the tiles of an engine, as `upscale` does it.

    A picture alone stands for all frames that the engine wants. dtype as the engine gives it.
    """
    grid = Grid(engine.scale, engine.halo, engine.multiple_of, LEAST_SIDE)
    given = pixels if pixels.ndim == 4 else still(pixels, engine.frames)
    bands = list(enlarge(Window(given.shape, given.dtype, [given]), grid, tile, engine))
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


class ClassicalMethod:
    """Interpolation by a method of `models.CLASSICAL`."""

    engine = "superfine"
    precision = "fp32"
    sha256 = ""
    parameters = 0
    file_bytes = 0
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, scale: int) -> None:
        self.name, self.scale = name, scale
        self._engine = ClassicalEngine(name, scale)

    def __call__(self, pixels: Bytes) -> Bytes:
        large: Any = self._engine(pixels[None])
        return np.asarray(large, np.uint8)


class NetworkMethod:
    """A network with a card, in tiles as `upscale` runs it."""

    def __init__(self, model: Model, engine: str = "openvino", precision: Precision = "auto") -> None:
        self._engine: NetworkEngine = open_engine(model, engine, precision)
        self._tile = model.card.tile
        self.name, self.scale, self.frames = model.card.name, model.card.scale, model.card.frames
        self.engine = self._engine.name
        self.precision: str = self._engine.precision_for(np.dtype(np.uint8))
        self.sha256, self.parameters = model.sha256, model.card.parameters
        self.file_bytes = len(model.content)
        promised = {
            "practical": "tiles equal the whole but for a quarter of a level",
            "whole": "seams of tiles may show",
        }
        words = promised.get(model.card.halo_kind)
        self.notes: tuple[str, ...] = () if words is None else (f"{words} ({model.card.halo_kind} halo)",)
        if self.frames > 1:
            self.notes += (f"looks at {self.frames} frames of a clip; of a picture alone, at {self.frames} copies",)

    def __call__(self, pixels: Bytes) -> Bytes:
        return np.asarray(enlarged(self._engine, pixels, self._tile), np.uint8)

    def of_window(self, window: Bytes) -> Bytes:
        """As `WindowMethod`."""
        return np.asarray(enlarged(self._engine, window, self._tile), np.uint8)


class _Restoring:
    """The network of `superfine adapt`, which starts from the likeliest picture under a kernel."""

    name: str

    def __init__(self, scale: int) -> None:
        from superfine.adapt import REFINER, open_refiner
        from superfine.classical.kernels import SCALES

        if scale not in SCALES:
            raise ModelError(
                f"{self.name!r} enlarges x{', x'.join(map(str, SCALES))}, not x{scale}; give it another --scale, or"
                " leave it out"
            )
        (model,) = find_model(REFINER)
        self.scale = scale
        self._network = open_refiner()
        self.engine = self._network.name
        self.precision: str = self._network.precision_for(np.dtype(np.float32))
        self.sha256, self.parameters, self.file_bytes = model.sha256, model.card.parameters, len(model.content)


class AdaptMethod(_Restoring):
    """`superfine adapt` without a budget: the kernel is estimated, then the picture restored under it."""

    name = "adapt"
    oracle = False
    notes: tuple[str, ...] = ("kernel estimated from each picture, no training on it",)

    def __call__(self, pixels: Bytes) -> Bytes:
        return self.made(pixels, None).pixels

    def made(self, pixels: Bytes, kernel: Floats | None) -> Made:  # noqa: ARG002 - it may not know it
        """As `KernelMethod`; the kernel is the one that was used: bicubic's where none could be told."""
        from superfine.adapt import adapt_pixels

        enlarged = adapt_pixels(pixels, self.scale, network=self._network)
        return Made(np.asarray(enlarged.pixels, np.uint8), enlarged.kernel.weights)


class KnownKernelMethod(_Restoring):
    """As `AdaptMethod`, but told the true kernel: what is left to gain by a better estimate."""

    name = "adapt-known"
    oracle = True
    notes: tuple[str, ...] = ("is told the true kernel, which nobody knows of a real picture",)

    def __call__(self, pixels: Bytes) -> Bytes:
        return self.made(pixels, None).pixels

    def made(self, pixels: Bytes, kernel: Floats | None) -> Made:
        """As `KernelMethod`."""
        from superfine.adapt import adapt_pixels, find_kernel

        if kernel is None:
            raise UsageError(
                f"{self.name} has to be told the kernel; judge it with --lr gaussian8, anisotropic or motion, which"
                " make LR by one, or judge adapt"
            )
        noise = find_kernel(pixels, self.scale).noise
        enlarged = adapt_pixels(pixels, self.scale, kernel=kernel, noise=noise, network=self._network)
        return Made(np.asarray(enlarged.pixels, np.uint8))


def open_method(name: str, scale: int, *, engine: str = "openvino", precision: Precision = "auto") -> Method:
    """A method by its name: classical, `adapt`, `adapt-known`, a shipped network or family, an .onnx file with a card.

    Raises UsageError for an unknown name, ModelError where it enlarges by another factor.
    """
    if name in CLASSICAL:
        return ClassicalMethod(name, scale)
    if (restoring := {each.name: each for each in (AdaptMethod, KnownKernelMethod)}.get(name)) is not None:
        return restoring(scale)
    found = {model.card.scale: model for model in find_model(name)}
    if scale not in found:
        raise ModelError(
            f"{name!r} enlarges x{', x'.join(map(str, sorted(found)))}, not x{scale}; give it another --scale,"
            " or leave it out"
        )
    return NetworkMethod(found[scale], engine, precision)
