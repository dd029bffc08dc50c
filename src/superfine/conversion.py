"""Weights of other frameworks -> an ONNX file with a card: opened, measured, and held against a second computation.

What is below the doors knows ONNX files with cards and nothing else; `converted` gives the doors one for any file that
`ENDINGS` names, out of a cache.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from math import lcm, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.classical.leaves import dead_leaves
from superfine.color import to_unit
from superfine.engine import NetworkEngine, cpu_features, open_engine, silent_openvino
from superfine.errors import EngineError, MissingExtraError, ModelError, OutputError, UsageError
from superfine.halo import Halo, measured_halo
from superfine.models import Card, Model, has_card, read_file, read_model, with_card
from superfine.terminal import one_line
from superfine.weights.network import Network

if TYPE_CHECKING:
    from superfine.evaluate.peers import Colour, ValueRange

__all__ = ["ENDINGS", "Conversion", "Parity", "convert", "converted", "is_foreign", "open_weights"]

Floats = npt.NDArray[np.floating]
Pictures = dict[str, npt.NDArray[np.float32]]
Say = Callable[[str], None]

#: What weights of other frameworks are called.
ENDINGS: Final = (
    ".pth.tar", ".pkl.bz2", ".pth", ".pt", ".ckpt", ".tar", ".safetensors", ".pb", ".bz2", ".onnx",
)  # fmt: skip
_TORCH: Final = (".pth.tar", ".pth", ".pt", ".ckpt", ".tar")
# 8-bit levels by which engine and reference may differ: rounding in fp32 reaches a hundredth of it.
_TOLERANCE: Final = 0.05
# And where both give whole levels: a hair in front of a rounding makes a level.
_TOLERANCE_OF_LEVELS: Final = 1.0
# 8-bit levels by which bf16 may move a result.
_BF16_TOLERANCE: Final = 1.0
_SIDES: Final = (32, 40)
# Weights beyond which the reference gets smaller pictures, so that it doesn't take minutes.
_LARGE: Final = 4_000_000
_SMALL_SIDES: Final = (20, 24)
_TILE: Final = 384
# A network that sees the whole picture gets it in one tile wherever memory allows.
_WHOLE_TILE: Final = 2**16
_SMALLEST_TILE: Final = 32
# Fixed sizes below can't be measured in: then an eighth of the side is taken.
_LEAST_FIXED: Final = 48
# What an engine holds besides the arrays of its layers, as a part of them.
_BESIDES: Final = 1.5


@dataclass(frozen=True)
class Parity:
    """How far a converted network, run in fp32, is from the second computation; 8-bit levels, over RGB samples."""

    largest: float
    mean: float
    tolerance: float
    witness: str
    pictures: tuple[str, ...]

    def __str__(self) -> str:
        on = ", ".join(self.pictures)
        return f"differs by up to {self.largest:.2g} of a level, {self.mean:.2g} in the mean, from {self.witness}: {on}"


@dataclass(frozen=True)
class Conversion:
    """A converted network and what was found on the way."""

    model: Model
    parity: Parity

    def facts(self) -> dict[str, Any]:
        """All of it for JSON."""
        card = self.model.card
        return {
            "name": card.name,
            "summary": card.summary,
            "source": card.source,
            "scale": card.scale,
            "parameters": card.parameters,
            "colour": card.colour,
            "halo": card.halo,
            "halo_kind": card.halo_kind,
            "multiple_of": card.multiple_of,
            "rows": card.rows,
            "cols": card.cols,
            "needs_fp32": card.needs_fp32,
            "licence": card.licence,
            "parity": {
                "largest_levels": self.parity.largest,
                "mean_levels": self.parity.mean,
                "tolerance_levels": self.parity.tolerance,
                "witness": self.parity.witness,
            },
            "sha256": self.model.sha256,
            "bytes": len(self.model.content),
        }

    def __str__(self) -> str:
        card = self.model.card
        fixed = f", only {card.rows} x {card.cols} at once" if card.rows else ""
        kinds = {
            "exact": "exact: tiles equal the whole picture",
            "practical": "practical: what is farther away moved the result by less than a quarter of a level",
            "whole": "sees the whole picture, which is tiled only where memory is short, with a warning",
        }
        lines = {
            "what it is": f"{card.summary}, {card.parameters:,} parameters",
            "enlarges": f"x{card.scale}{fixed}",
            "colour": card.colour,
            "halo": f"{card.halo} px, {kinds[card.halo_kind]}",
            "precision": "fp32 only" if card.needs_fp32 else "bf16 where the CPU has it",
            "parity": str(self.parity),
            "source": card.source,
            "licence": card.licence,
        }
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the ONNX file. Raises OutputError where it can't be, or is there already."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already; replace it with --overwrite or choose another name with -o")
        try:
            with written_whole(path) as part:
                part.write_bytes(self.model.content)
        except OSError as error:
            raise OutputError(f"{path}: can't be written: {error.strerror}") from error


def is_foreign(name: str) -> bool:
    """Whether a model's name is a file of weights that has to be converted. Raises ModelError as `has_card`."""
    if not name.lower().endswith(ENDINGS):
        return False
    if not name.lower().endswith(".onnx"):
        return True
    _check_regular(Path(name))
    return not has_card(Path(name))


def open_weights(
    path: Path | str,
    *,
    colour: "Colour | None" = None,
    span: "ValueRange | None" = None,
    output: str = "",
) -> Network:
    """The network in a file of weights, by the kind that its name says.

    colour, span: of an .onnx file of another maker, as `evaluate.peers.open_foreign_onnx` has them. output: the node of
    a .pb file that has several ends. Raises ModelError where the file isn't sound or holds no network that is known,
    MissingExtraError where the kind needs an extra, UsageError where something has to be said.
    """
    path = Path(path)
    return _opened(_read(path), path, colour, span, output)


def convert(
    path: Path | str,
    *,
    name: str | None = None,
    licence: str = "",
    colour: "Colour | None" = None,
    span: "ValueRange | None" = None,
    output: str = "",
    say: Say = lambda text: None,
) -> Conversion:
    """A network in any file of `ENDINGS`, as an ONNX file with a card.

    name: on the card; the file's by default. licence: of the weights, as you know it; the card says that you said so.
    The others: as in `open_weights`. say: hears what is being done.

    The result is run in fp32 on three made pictures and held against a second computation: the source's framework
    where it is there, else a reference in NumPy. The halo is measured as `halo.measured_halo` says.
    Raises as `open_weights`; ModelError where the two differ by more than 0.05 of an 8-bit level (one level where both
    give whole levels) and what the original's output type rounds to, EngineError where the network gives NaN or
    infinity.
    """
    path = Path(path)
    return _converted(_read(path), path, name, licence, (colour, span, output), say)


def converted(
    path: Path | str,
    *,
    colour: "Colour | None" = None,
    span: "ValueRange | None" = None,
    output: str = "",
    say: Say = lambda text: None,
) -> Path:
    """The ONNX file with a card for a file of weights, made by `convert` once and kept in `cache_folder`.

    It is found again by the file's content, what was said of it and superfine's version; a damaged one is made anew.
    Raises as `convert`, and OutputError, before the work, where nothing can be kept there.
    """
    path = Path(path)
    content = _read(path)
    stated = [version("superfine"), path.name, colour, span, output]
    key = hashlib.sha256(hashlib.sha256(content).digest() + json.dumps(stated).encode()).hexdigest()[:32]
    folder = cache_folder()
    for kept in folder.glob(f"{key}-*.onnx"):
        if _is_sound(kept):
            return kept
        with suppress(OSError):
            kept.unlink()
    say(f"{path.name}: converted once, for this and later runs")
    with _keeping(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # rights say little: root has all, a disk may be read-only
    made = _converted(content, path, None, "", (colour, span, output), say)
    kept = folder / f"{key}-{made.model.sha256}.onnx"
    with _keeping(folder), written_whole(kept) as part:
        part.write_bytes(made.model.content)
    return kept


def cache_folder() -> Path:
    """Where converted networks are kept: SUPERFINE_CACHE, else where the system keeps what can be made again."""
    if given := os.environ.get("SUPERFINE_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "superfine"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "superfine" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "superfine"


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder}: converted networks can't be kept there: {error.strerror}; name another in SUPERFINE_CACHE"
        ) from error


def _is_sound(kept: Path) -> bool:
    """Whether a file of the cache is what was once written there."""
    try:
        model = read_model(kept)
    except ModelError:
        return False
    return kept.stem.endswith(f"-{model.sha256}")


# ---- opening


def _read(path: Path) -> bytes:
    _check_regular(path)
    return read_file(path)


def _check_regular(path: Path) -> None:
    """Raise ModelError where reading would wait for another program, or never end."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path}: is no regular file; give one with weights")


def _ending(path: Path) -> str:
    found = [ending for ending in ENDINGS if path.name.lower().endswith(ending)]
    if not found:
        known = ", ".join(ENDINGS)
        raise UsageError(f"{path}: weights are known by their endings, {known}; rename it to what it is")
    return found[0]


def _opened(content: bytes, path: Path, colour: "Colour | None", span: "ValueRange | None", output: str) -> Network:
    ending, source = _ending(path), str(path)
    if ending != ".onnx" and (colour or span):
        raise UsageError(
            f"{path}: colour and range are found in it; --foreign-colour and --foreign-range are for .onnx"
        )
    if ending != ".pb" and output:
        raise UsageError(f"{path}: has one end; --node is for .pb files that have several")
    if find_spec("onnx") is None:
        raise MissingExtraError(f"{path}: converting weights", "convert")
    if ending in _TORCH:
        if find_spec("torch") is None:
            raise MissingExtraError(f"{path}: converting checkpoints of torch", "train")
        from superfine.train.foreign import open_pth

        return open_pth(content, source)
    if ending == ".safetensors":
        if find_spec("torch") is not None:
            from superfine.train.foreign import open_named
            from superfine.weights.safetensors import read_safetensors

            return open_named(read_safetensors(content, source), source)
        from superfine.weights.architectures import open_safetensors

        return open_safetensors(content, source)
    if ending == ".pb":
        from superfine.weights.tf_pb import open_tf_pb

        return open_tf_pb(content, source, output)
    if ending in (".pkl.bz2", ".bz2"):
        from superfine.weights.lasagne import open_lasagne

        return open_lasagne(content, source)
    if has_card(path):
        raise UsageError(f"{path}: has a card already; use it as it is, with --model {path}")
    from superfine.evaluate.peers import find_interface
    from superfine.weights.onnx_file import open_onnx

    return open_onnx(content, source, find_interface(content, source, colour=colour, span=span))


# ---- measuring


def _converted(
    content: bytes,
    path: Path,
    name: str | None,
    licence: str,
    stated: tuple["Colour | None", "ValueRange | None", str],
    say: Say,
) -> Conversion:
    say(f"{path.name}: reading")
    network = _opened(content, path, *stated)
    rows, cols = _fixed_sides(network.content, str(path))
    card = Card(
        name=_name(path) if name is None else name,
        scale=network.scale,
        halo=min(network.halo, min(rows, cols) // 8) if rows else network.halo,
        multiple_of=network.multiple_of,
        rows=rows,
        cols=cols,
        bytes_per_pixel=_bytes_per_pixel(network, rows, cols),
        summary=network.description,
        colour=network.colour,
        parameters=network.parameters,
        fp32_end=network.fp32_end,
        needs_fp32=True,
        licence=f"as stated by who converted it: {one_line(licence)}" if licence else "not stated",
        source=f"{one_line(path.name)}, sha256 {hashlib.sha256(content).hexdigest()}",
    )
    if not (card.name and card.name.isprintable()):
        raise UsageError(f"{path}: {card.name!r} can't be printed, and networks are called by it; give it another name")
    bare = Model(card, network.content, str(path))
    engine = open_engine(bare, "openvino", "fp32")
    try:
        pictures = _pictures(network, rows, cols)
        say(f"{path.name}: comparing with {network.witness}")
        parity = _parity(network, engine, pictures, str(path))
        halo = _halo(network, engine, card, lambda text: say(f"{path.name}: {text}"))
    except EngineError as error:
        reason = str(error).removeprefix(f"{card.name}: ").removesuffix("; the picture was not written")
        raise EngineError(f"{path}: {reason}; it isn't converted: get the weights again") from error
    card = replace(
        card,
        halo=halo.radius,
        halo_kind=halo.kind,
        tile=_tile(halo, rows, cols),
        needs_fp32=network.needs_fp32 or _bf16_shows(bare, engine, pictures),
    )
    return Conversion(Model(card, with_card(network.content, card), str(path)), parity)


def _name(path: Path) -> str:
    return one_line(path.name[: -len(_ending(path))])


def _fixed_sides(content: bytes, source: str) -> tuple[int, int]:
    """The sides that a network's input has, 0 for both where it takes any."""
    graph = silent_openvino().Core().read_model(content, b"")
    sides = [0 if side.is_dynamic else side.get_length() for side in list(graph.inputs[0].get_partial_shape())[2:]]
    if 0 in sides and any(sides):
        raise ModelError(
            f"{source}: takes one fixed side and one free, {sides}; export it with both fixed or both free"
        )
    return sides[0], sides[1]


def _bytes_per_pixel(network: Network, rows: int, cols: int) -> int:
    """What a pixel of a tile takes at most, from the sizes of the layers' outputs and how long each is needed."""
    grid = network.multiple_of
    rows, cols = (rows, cols) if rows else (lcm(grid, 64), lcm(grid, 64))
    graph = silent_openvino().Core().read_model(network.content, b"")
    graph.reshape({0: [1, 3, rows, cols]})
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() not in ("Constant", "Result")]
    place = {node.get_friendly_name(): count for count, node in enumerate(nodes)}
    ends: dict[int, int] = {}
    alive = most = 0
    for count, node in enumerate(nodes):
        outputs = [port for port in node.outputs() if not port.get_partial_shape().is_dynamic]
        size = 4 * sum(prod(port.get_shape()) for port in outputs)
        users = [user.get_node().get_friendly_name() for port in outputs for user in port.get_target_inputs()]
        last = max((place.get(user, count) for user in users), default=count)
        alive += size
        most = max(most, alive)
        ends[last] = ends.get(last, 0) + size
        alive -= ends.pop(count, 0)
    picture = 4 * 3 * (2 + 3 * network.scale**2)  # in, out, and what becomes levels
    return int(_BESIDES * most / (rows * cols)) + picture


def _pictures(network: Network, rows: int, cols: int) -> Pictures:
    """Noise, dead leaves, and an edge between black and white, (h, w, 3) in 0..1."""
    sides = _SMALL_SIDES if network.parameters > _LARGE else _SIDES
    grid = network.multiple_of
    size = (rows, cols) if rows else (-(-sides[0] // grid) * grid, -(-sides[1] // grid) * grid)
    edge = np.zeros((*size, 3), np.float32)
    edge[:, size[1] // 2 :] = 1
    return {
        "noise": np.random.default_rng(5).random((*size, 3), dtype=np.float32),
        "dead leaves": to_unit(dead_leaves(size, seed=6)),
        "an edge": edge,
    }


def _parity(network: Network, engine: NetworkEngine, pictures: Pictures, source: str) -> Parity:
    differences = []
    for pixels in pictures.values():
        made = engine(pixels[None]).astype(np.float64)
        with np.errstate(all="ignore"):
            wanted = network.reference(pixels)
        if not np.isfinite(wanted).all():
            raise EngineError(f"gave NaN or infinity in {network.witness}")
        differences.append(255 * np.abs(np.clip(made, 0, 1) - np.clip(wanted, 0, 1)))
    largest = max(float(each.max()) for each in differences)
    mean = float(np.mean([each.mean() for each in differences]))
    in_mean = _TOLERANCE + network.rounding
    tolerance = _TOLERANCE_OF_LEVELS if _whole_levels(engine, pictures) else in_mean
    parity = Parity(largest, mean, tolerance, network.witness, tuple(pictures))
    # Half a thousandth is what sums in fp32 may add to a whole level.
    if not (largest <= tolerance + 5e-4 and mean <= in_mean):
        most = f"more than {tolerance:g}, or {in_mean:g} in the mean"
        raise ModelError(
            f"{source}: the converted network {parity}; {most}, is refused: get the weights again, or export them in"
            " fp32 as .onnx"
        )
    return parity


def _whole_levels(engine: NetworkEngine, pictures: Pictures) -> bool:
    """Whether a network gives nothing but 8-bit levels."""
    levels = 255 * engine(pictures["noise"][None]).astype(np.float64)
    return bool(np.abs(levels - np.rint(levels)).max() < 1e-3)


def _halo(network: Network, engine: NetworkEngine, card: Card, say: Say) -> Halo:
    if not card.rows:
        return measured_halo(
            _on_one(engine), exact=network.halo, multiple_of=network.multiple_of, scale=network.scale, say=say
        )
    side = min(card.rows, card.cols)
    if side < _LEAST_FIXED:
        return Halo(side // 8, "practical")
    found = measured_halo(_on_one(engine), exact=network.halo, scale=network.scale, largest=side // 3, say=say)
    return found if found.kind == "practical" else Halo(side // 4, found.kind)


def _on_one(engine: NetworkEngine) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    return lambda pixels: engine(pixels[None]).astype(np.float32, copy=False)


def _tile(halo: Halo, rows: int, cols: int) -> int:
    if rows:
        return max(_SMALLEST_TILE, min(rows, cols) - 2 * halo.radius)
    return _WHOLE_TILE if halo.kind == "whole" else _TILE


def _bf16_shows(bare: Model, engine: NetworkEngine, pictures: Pictures) -> bool:
    """Whether bf16 moves the result by more than a level; taken for granted where the CPU can't try it."""
    if "BF16" not in cpu_features()["native precisions"]:
        return True
    quick = open_engine(replace(bare, card=replace(bare.card, needs_fp32=False)), "openvino", "bf16")
    return any(
        np.abs(quick(_levels(pixels)[None]).astype(int) - engine(_levels(pixels)[None])).max() > _BF16_TOLERANCE
        for pixels in pictures.values()
    )


def _levels(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(255 * pixels).astype(np.uint8)
