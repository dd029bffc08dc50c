"""The table of cards: which networks there are and what each file says of itself.

A card lives in the ONNX file's own metadata, under the key `superfine`, so
that a lone file explains itself. It is read without onnx and without an engine.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from superfine.classical.resample import KERNELS
from superfine.errors import ModelError, UsageError
from superfine.protobuf import protobuf_fields

__all__ = [
    "CLASSICAL",
    "MATLAB",
    "RESTORES",
    "Card",
    "HaloKind",
    "Model",
    "card_to_text",
    "families",
    "find_model",
    "has_card",
    "list_guesses",
    "list_models",
    "read_file",
    "read_model",
    "shipped_cards",
    "with_card",
]

#: Bicubic as MATLAB rounds it, between the two passes: for 8 bits only.
MATLAB = "matlab-bicubic"
#: Models that need no network; they enlarge by any factor.
CLASSICAL = (*KERNELS, MATLAB)

#: Of networks whose card says `restoring`.
RESTORES = "takes noise and traces away, so made small again its result isn't the source"

HaloKind = Literal["exact", "practical", "whole"]

_CARD = "superfine"  # the key of the card in the file's metadata
# ONNX keeps larger networks in several files: a protobuf message ends here.
_LARGEST_FILE = 2**31 - 1
# Far more than any network looks at; a video holds eight times as many in memory.
_MOST_FRAMES = 63
# Far more than any figure is worth printing.
_MOST_DB = 1000
# Of fields that are neither whole numbers nor texts.
_KINDS = {"fp32_end": bool, "needs_fp32": bool, "restoring": bool, "psnr": dict, "calibration": dict}
_METADATA_PROPS = 14  # field number of ModelProto.metadata_props in onnx.proto


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a network is: facts that the engine needs, and what people should know."""

    name: str
    scale: int
    halo: int
    """Pixels around a tile that its result depends on, in the small picture."""
    multiple_of: int = 1
    frames: int = 1
    """Pictures in a row that it looks at, an odd number, to enlarge the one in the middle."""
    rows: int = 0
    """The only height that the network takes; 0 takes any."""
    cols: int = 0
    """The only width."""
    halo_kind: HaloKind = "exact"
    """exact: tiles equal the whole; practical: but for a quarter of a level; whole: it sees the whole picture."""
    fp32_end: bool = False
    """Ends with base plus residual added in fp32, so 16 bits survive bf16 inside."""
    needs_fp32: bool = False
    """bf16 inside would move the result by more than a level, so it isn't used."""
    tile: int = 384
    """Inner tile side that was fastest when measured."""
    bytes_per_pixel: int = 1000
    """Working memory per pixel of a tile, measured."""
    summary: str = ""
    net: str = ""
    """The architecture, a name in the training table NETS, so that training can start from the file."""
    restoring: bool = False
    """Made for damaged pictures: removes noise and JPEG traces, so the reduced result is not the input."""
    colour: str = ""
    parameters: int = 0
    licence: str = ""
    source: str = ""
    """The file that it was converted from, and its hash."""
    training_data: str = ""
    losses: str = ""
    """What the training minimised at last, and what served as features."""
    recipe: str = ""
    psnr: dict[str, float] = field(default_factory=dict)
    """Test set -> dB, measured as `protocol` says."""
    protocol: str = ""
    errors_of: str = ""
    """Whose errors it expects, for `--guess-map`; empty for networks that enlarge."""
    calibration: dict[str, Any] = field(default_factory=dict)
    """Of one that expects errors: from its codes to intervals, for which networks; `guess.calibrations` reads it."""


@dataclass(frozen=True)
class Model:
    """A checked ONNX file and its card."""

    card: Card = field(hash=False)
    content: bytes = field(repr=False)
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the whole file."""
        return hashlib.sha256(self.content).hexdigest()


def card_to_text(card: Card) -> str:
    """The card as it is stored in the file."""
    return json.dumps(asdict(card), ensure_ascii=False, sort_keys=True)


def with_card(content: bytes, card: Card) -> bytes:
    """The ONNX file `content` with `card` inside, instead of any metadata that it had. Needs onnx."""
    from onnx import ModelProto, helper

    proto = ModelProto.FromString(content)
    helper.set_model_props(proto, {_CARD: card_to_text(card)})
    changed: bytes = proto.SerializeToString()
    return changed


@cache
def list_models() -> tuple[Model, ...]:
    """The networks that the package ships, by name."""
    shelf = resources.files("superfine") / "assets"
    files = sorted((entry for entry in shelf.iterdir() if entry.name.endswith(".onnx")), key=lambda entry: entry.name)
    return tuple(_checked(entry.read_bytes(), entry.name) for entry in files)


@cache
def list_guesses() -> tuple[Model, ...]:
    """The networks that the package ships to tell how far others may be off, by name."""
    shelf = resources.files("superfine") / "assets" / "guesses"
    if not shelf.is_dir():
        return ()
    files = sorted((entry for entry in shelf.iterdir() if entry.name.endswith(".onnx")), key=lambda entry: entry.name)
    return tuple(_checked(entry.read_bytes(), entry.name) for entry in files)


def find_model(name: str) -> list[Model]:
    """The networks of a name, one for each scale: a family (`fast`), one of it (`fast-x2`), or a file.

    Raises UsageError with the names that there are, ModelError for a file that is none.
    """
    if name.lower().endswith(".onnx"):
        model = read_model(Path(name))
        if model.card.errors_of:
            raise UsageError(
                f"{name}: enlarges nothing, it tells how far {model.card.errors_of} may be off; name that one"
            )
        return [model]
    if name == "auto":
        raise UsageError(f"`auto` is chosen for each picture by its file; here name a model, such as {families()[0]}")
    shipped = list_models()
    found = [model for model in shipped if name in (model.card.name, family(model.card))]
    if not found and Path(name).is_file():
        raise UsageError(
            f"{name}: is no .onnx file with a card; make one of other weights with `superfine convert {name} -o"
            f" model.onnx`, or in Python superfine.convert({name!r}).save('model.onnx')"
        )
    if not found:
        known = ", ".join((*families(), *(model.card.name for model in shipped), *CLASSICAL))
        raise UsageError(
            f"no model {name!r}; there are {known}, and any .onnx file with a card; superfine convert makes one of"
            " other weights"
        )
    return found


def shipped_cards() -> list[Card]:
    """The cards of the networks that the package brings."""
    return [model.card for model in list_models()]


def families() -> tuple[str, ...]:
    """The families that the package ships, by name."""
    return tuple(sorted({family(model.card) for model in list_models()}))


def family(card: Card) -> str:
    """The name without its scale: `fast` of `fast-x2`."""
    return card.name.removesuffix(f"-x{card.scale}")


def read_model(path: Path) -> Model:
    """Read and check a model file.

    Raises ModelError where it is no ONNX file, could do harm (`weights.onnx_file.check_onnx`), or its card is missing
    or wrong.
    """
    # The shipped ones do without, and start sooner for it.
    from superfine.weights.onnx_file import check_onnx

    content, source = read_file(path), str(path)
    model = _checked(content, source)
    check_onnx(content, source)
    return model


def has_card(path: Path) -> bool:
    """Whether an ONNX file has a card of superfine, right or wrong. Raises ModelError as `read_model`."""
    return _CARD in _metadata_of(read_file(path), str(path))


def _checked(content: bytes, source: str) -> Model:
    metadata = _metadata_of(content, source)
    if _CARD not in metadata:
        raise ModelError(
            f"{source}: has no superfine card, so its scale and halo aren't known; make one with one: superfine convert"
        )
    try:
        given = json.loads(metadata[_CARD])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{source}: its card is not JSON: {error}") from error
    return Model(_card(given, source), content, source)


def read_file(path: Path) -> bytes:
    """The content of a network's file. Raises ModelError where it can't be read or is larger than any can be."""
    try:
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise ModelError(f"{path}: has {size} bytes; a network's file has up to {_LARGEST_FILE}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such model file") from error
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}") from error


def _metadata_of(content: bytes, source: str) -> dict[str, str]:
    try:
        return dict(_metadata(content))
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(f"{source}: not an ONNX file, or cut off") from error


def _card(given: Any, source: str) -> Card:
    if not isinstance(given, dict):
        raise ModelError(f"{source}: its card is a {type(given).__name__} where an object was expected")
    known = {entry.name: entry for entry in fields(Card)}
    if wrong := sorted(set(given) - set(known)):
        raise ModelError(f"{source}: its card has unknown {', '.join(wrong)}; it was made by a newer superfine")
    if missing := sorted({"name", "scale", "halo"} - set(given)):
        raise ModelError(f"{source}: its card lacks {', '.join(missing)}")
    lowest = {"scale": 1, "halo": 0, "multiple_of": 1, "frames": 1, "tile": 1, "bytes_per_pixel": 1, "parameters": 0}
    lowest |= {"rows": 0, "cols": 0}
    for name, low in lowest.items():
        value = given.get(name, low)
        if type(value) is not int or not low <= value <= 10**9:
            raise ModelError(f"{source}: its card says {name} = {value!r}, want a whole number from {low}")
    for name, value in given.items():
        if name not in lowest and not isinstance(value, _KINDS.get(name, str)):
            raise ModelError(f"{source}: its card says {name} = {value!r}, which is of the wrong kind")
    if not (given["name"] and given["name"].isprintable()):
        raise ModelError(f"{source}: its card says name = {given['name']!r}, want a name that can be printed")
    if not all(type(decibel) in (int, float) and abs(decibel) < _MOST_DB for decibel in given.get("psnr", {}).values()):
        raise ModelError(f"{source}: its card says psnr = {given['psnr']!r}, want numbers of dB")
    if given.get("halo_kind", "exact") not in (kinds := get_args(HaloKind)):
        wanted = " or ".join(kinds)
        raise ModelError(f"{source}: its card says halo_kind = {given['halo_kind']!r}, want {wanted}")
    if (given.get("rows", 0) == 0) != (given.get("cols", 0) == 0):
        raise ModelError(f"{source}: its card says one of rows and cols; want both, or neither for any size")
    if (frames := given.get("frames", 1)) % 2 == 0 or frames > _MOST_FRAMES:
        raise ModelError(
            f"{source}: its card says frames = {frames}, want an odd number, so that one is in the middle, up to"
            f" {_MOST_FRAMES}"
        )
    return Card(**given)


def _metadata(content: bytes) -> Iterator[tuple[str, str]]:
    """Keys and values of ModelProto.metadata_props. Source: protobuf encoding, onnx.proto."""
    seen = False
    for number, value in protobuf_fields(content):
        seen = seen or number in (1, 7)  # ir_version or graph: without either it's another kind of file
        if number == _METADATA_PROPS and isinstance(value, bytes):
            entry = dict(protobuf_fields(value))
            yield _text(entry.get(1)), _text(entry.get(2))
    if not seen:
        raise ValueError("no graph")


def _text(value: int | bytes | None) -> str:
    if not isinstance(value, bytes):
        raise ValueError("not a string")
    return value.decode("utf-8")
