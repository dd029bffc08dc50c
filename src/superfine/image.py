"""File <-> bands of rows. What a picture is is judged from its file, never from its pixel values.

Reading and writing are libvips'; this file decides what survives: bit depth,
alpha, ICC profile, EXIF, XMP, orientation, and the size in print (a picture
enlarged s times has s times the dots per inch; one that doesn't say counts as 72).
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.errors import MissingExtraError, OutputError, SourceError, TooLargeError, UsageError
from superfine.exif import Block, Tag, add_to_tiff, exif_block, pack_exif, tiff_block, with_size
from superfine.interrupt import raise_if_asked
from superfine.pngchunks import XMP_KEYWORD, animation_control, append_chunks, text_chunks, xmp_chunk, xmp_in
from superfine.rowstream import RowStream
from superfine.xmp import without_record

__all__ = [
    "FORMATS",
    "MAX_MEGAPIXELS",
    "Format",
    "Picture",
    "codecs",
    "coding_of",
    "format_of",
    "open_picture",
    "plain_picture",
    "plain_reason",
    "save_picture",
    "streamed",
    "xmp_of",
]

Array = npt.NDArray[np.generic]
Shape = tuple[int, int, int]

# With fewer bytes left no picture could be written: libvips only says `write error`.
_FULL_DISK = 1 << 20
#: Pictures with more pixels are refused unless the caller raises the limit.
MAX_MEGAPIXELS = 1000.0

_U8, _U16, _F32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)
_DTYPES: dict[str, np.dtype[Any]] = {"uchar": _U8, "ushort": _U16, "float": _F32}
_COLOURS = frozenset({"srgb", "rgb", "rgb16", "scrgb", "b-w", "grey16", "multiband"})
_KEPT_FIELDS = re.compile(r"exif-data$|xmp-data$|iptc-data$|icc-profile-data$|image-description$|resolution-unit$")
_BLOBS = {"icc-profile-data": "icc_profile", "exif-data": "exif", "xmp-data": "xmp"}
# EXIF orientations whose pictures lie on their side.
_SIDEWAYS = frozenset({5, 6, 7, 8})
# Samples a millimetre: what libvips says of a file that doesn't say, and 72 dots an inch.
_UNKNOWN_DENSITY, _SCREEN_DENSITY = 1.0, 72 / 25.4


@dataclass(frozen=True)
class Format:
    """A kind of file and what it can hold."""

    name: str
    loader: str
    """What libvips calls its reader; HEIC's is pillow-heif."""
    suffixes: tuple[str, ...]
    dtypes: tuple[np.dtype[Any], ...]
    bits: int
    """The most that a sample can have."""
    alpha: bool
    turns: bool
    """Readers honour the orientation tag; elsewhere the pixels are turned before."""
    streams: bool = False
    """Can be read and written without holding the whole picture."""
    held: int = 0
    """What the encoder holds, as a multiple of the decoded result; measured on 64 Mpx, zero where it goes by rows."""
    longest: int = 2**31 - 1
    """The most pixels that a side can have."""


_PILLOW_HEIF = "pillow_heif"

FORMATS = {
    entry.name: entry
    for entry in (
        Format("png", "pngload", (".png",), (_U8, _U16), bits=16, alpha=True, turns=True, streams=True),
        Format(
            "jpeg",
            "jpegload",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            (_U8,),
            bits=8,
            alpha=False,
            turns=True,
            streams=True,
            longest=65_500,
        ),
        # Alone it holds 1.8 times; by 2, several after another went beyond their limit by up to 7 %.
        Format("webp", "webpload", (".webp",), (_U8,), bits=8, alpha=True, turns=True, held=3, longest=16_383),
        Format("avif", "heifload", (".avif",), (_U8, _U16), bits=12, alpha=True, turns=False, held=8, longest=16_384),
        Format("tiff", "tiffload", (".tif", ".tiff"), (_U8, _U16, _F32), bits=32, alpha=True, turns=True, streams=True),
        Format("gif", "gifload", (".gif",), (_U8,), bits=8, alpha=True, turns=False, held=4, longest=65_535),
        Format(
            "heic",
            _PILLOW_HEIF,
            (".heic", ".heif"),
            (_U8, _U16),
            bits=10,
            alpha=True,
            turns=False,
            held=8,
            longest=16_384,
        ),
    )
}

# How each kind of file begins.
_MAGIC = re.compile(
    rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8|II[*+]\0|MM\0[*+]|....ftyp(avi[fs]|mif1|he|msf1)", re.DOTALL
)
_JPEG = b"\xff\xd8\xff"
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"hevx"})


def format_of(path: Path) -> Format:
    """The format that a name asks for. Raises UsageError with the known endings."""
    for entry in FORMATS.values():
        if path.suffix.lower() in entry.suffixes:
            return entry
    known = " ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    raise UsageError(f"{path}: superfine doesn't write {path.suffix or 'a name without an ending'}; it writes {known}")


@dataclass(frozen=True)
class Picture:
    """A picture file, opened: its facts, and its rows on demand."""

    path: Path
    format: Format
    shape: Shape
    """(rows, cols, channels), alpha among the channels."""
    dtype: np.dtype[Any]
    bits: int
    """Bits a sample in the file: 1, 2, 4, 8, 10, 12, 16 or 32 (float)."""
    palette: bool
    """The file has a few colours that it lists, and each pixel is one of them."""
    alpha: bool
    lossless: bool
    """The file is known to have kept its pixels exactly."""
    streams: bool
    """This very file's rows can be read without holding the whole picture."""
    orientation: int
    """EXIF orientation that the pixels still have, 1 when upright."""
    notes: tuple[str, ...]
    """What a person should know about how the file was read."""
    white: float = field(repr=False)
    bounded: bool = field(repr=False)
    """Float colours outside of black and white are an error."""
    turned: bool = field(repr=False)
    """The pixels are no longer as stored: the orientation tag was obeyed."""
    header: Any = field(repr=False, compare=False)
    """What libvips knows of the picture as it is worked on; its pixels stay untouched."""
    tags: Block = field(repr=False, compare=False)
    """The directory of a TIFF, of which libvips reads little."""

    @property
    def size(self) -> tuple[int, int]:
        """(rows, cols) as stored."""
        return self.shape[:2]

    @property
    def sideways(self) -> bool:
        """The orientation tag swaps rows and columns for the viewer."""
        return self.orientation in _SIDEWAYS

    @property
    def bytes(self) -> int:
        """Size of the decoded pixels."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def bands(self, rows: int = 256) -> Iterator[Array]:
        """The pixels from top to bottom, `rows` at a time; float colours are divided by the white level.

        Raises SourceError where the file breaks off, was changed or removed since it was opened, or
        holds colours outside 0..white or alpha outside 0..1, if `bounded`.
        """
        with _Reading(self.path):
            image = _open(self.path, pixels=True)
            # What is turned is held whole, once; else each row is decoded once, in order, whatever the strips of the
            # file, by one region that moves down.
            image = _upright(image.copy_memory()) if self.turned else _in_rgb(image)
            if (image.height, image.width, image.bands) != self.shape or _DTYPES.get(image.format) != self.dtype:
                raise SourceError(
                    f"{self.path}: isn't the picture that it was a moment ago; let it settle, then try again"
                )
            region = _vips().Region.new(image)
            for top in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - top)
                data = region.fetch(0, top, self.shape[1], count)
                band: Array = np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
                yield _in_range(band, self) if self.dtype == _F32 else band


def open_picture(
    path: Path,
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
    white: float | None = None,
    upright: bool = False,
    bounded: bool = True,
) -> Picture:
    """Read a picture's facts; no pixel is decoded yet, but for float TIFF, whose range is checked.

    white: the level of white in a float TIFF's colours, 1 unless given. upright: turn the
    pixels as the orientation tag says. bounded: float colours lie between black and white, which those
    of enlargements don't. Raises SourceError, TooLargeError, or
    MissingExtraError for HEIC without its extra.
    """
    image, entry, lossless, tags = _opened(path)
    megapixels = image.width * image.height / 1e6
    if not megapixels <= max_megapixels:  # nor where the limit is no number
        raise TooLargeError(
            f"{path}: {image.width} x {image.height} are {megapixels:,.4g} megapixels, over the limit of"
            f" {max_megapixels:,.4g}; raise it with --max-megapixels {np.ceil(megapixels):.0f}"
        )
    pages = int(image.get("n-pages")) if image.get_typeof("n-pages") else 1
    if entry.name == "png":
        pages = max(pages, animation_control(path)[0])
    palette = bool(image.get_typeof("palette") and image.get("palette")) or _number(tags, 262, 0) == 3
    notes = list(_notes(image, pages, entry, premultiplied=_number(tags, 338, 0) == 1, palette=palette))
    if pages > 1 and entry.name == "tiff":
        raise SourceError(f"{path}: a TIFF of {pages} pages; superfine enlarges single pages, so split it first")
    if image.interpretation not in (*_COLOURS, "cmyk") or image.bands > 4:
        raise SourceError(f"{path}: {image.bands} channels of {image.interpretation}; convert it to grey or RGB first")
    orientation = int(image.get("orientation")) if image.get_typeof("orientation") else 1
    turned = upright and orientation > 1
    with _Reading(path):
        ready = _upright(image) if turned else _in_rgb(image)
    if ready.format not in _DTYPES:
        raise SourceError(f"{path}: samples are {ready.format}; superfine reads 8 and 16 bits and float32")
    dtype = _DTYPES[ready.format]
    if white is not None and dtype != _F32:
        raise UsageError(f"{path}: --white is for float pictures, and this one has {8 * dtype.itemsize} bits a sample")
    progressive = image.get_typeof("jpeg-multiscan") and image.get("jpeg-multiscan")
    interlaced = image.get_typeof("interlaced") and image.get("interlaced")
    picture = Picture(
        path=path,
        format=entry,
        shape=(ready.height, ready.width, ready.bands),
        dtype=dtype,
        bits=int(image.get("bits-per-sample")) if image.get_typeof("bits-per-sample") else 8 * dtype.itemsize,
        palette=palette,
        alpha=bool(ready.hasalpha()),
        lossless=bool(lossless),
        streams=entry.streams and not (progressive or interlaced or turned),
        orientation=1 if upright else orientation,
        notes=tuple(notes),
        white=1.0 if white is None else white,
        bounded=bounded,
        turned=turned,
        header=ready,
        tags=tags,
    )
    if dtype == _F32 and bounded:
        for _ in picture.bands():  # every value is looked at before work begins
            pass
    return picture


def coding_of(path: Path) -> tuple[str, bool | None]:
    """What a file is, whatever its name (`JPEG`, `PNG`, …), and whether it is lossless; None where that isn't known.

    AVIF and HEIC don't say it in their headers. Raises SourceError, or MissingExtraError for HEIC without its extra.
    """
    _, entry, lossless, _ = _opened(path)
    return entry.name.upper(), lossless


def _opened(path: Path) -> tuple[Any, Format, bool | None, Block]:
    """The header of a picture, its format, whether it is lossless as far as it says, and the directory of a TIFF."""
    _check_file(path)
    with _Reading(path):
        tags = tiff_block(path)
        _check_tags(path, tags)
        image = _open(path)
        loader = image.get("vips-loader").removesuffix("_source").removesuffix("_buffer")
        entry = next(entry for entry in FORMATS.values() if entry.loader == loader)
        match entry.name:
            case "webp":
                lossless: bool | None = _webp_is_lossless(path)
            case "tiff":
                lossless = _number(tags, 259, 1) not in (6, 7)  # JPEG, old and new
            case "avif" | "heic":
                lossless = None
            case name:
                lossless = name != "jpeg"
    return image, entry, lossless, tags


def plain_picture(path: Path, shape: Shape, dtype: np.dtype[Any], bits: int) -> Picture:
    """A picture without metadata, such as a frame of a video; alpha is the last of an even count of channels.

    path: what errors name.
    """
    return Picture(
        path=path,
        format=replace(FORMATS["png"], name="video"),  # a PNG's own text is looked for in the file
        shape=shape,
        dtype=dtype,
        bits=bits,
        palette=False,
        alpha=shape[2] % 2 == 0,
        lossless=True,
        streams=True,
        orientation=1,
        notes=(),
        white=1.0,
        bounded=True,
        turned=False,
        header=_vips().Image.black(1, 1),
        tags={},
    )


def save_picture(
    path: Path,
    bands: Iterable[Array],
    shape: Shape,
    dtype: np.dtype[Any],
    *,
    like: Picture,
    quality: int | None = None,
    xmp: bytes | None = None,
    seal: Callable[[Path], None] = lambda part: None,
    whole: Callable[[Path], None] = lambda part: None,
) -> None:
    """Encode bands of rows; `path` appears whole or not at all.

    bands: (any rows, cols, channels) arrays of `dtype` that add up to `shape`.
    Metadata is taken from `like`; its dots per inch grow with the picture.
    quality: 1..100 for lossy formats; without it lossless sources stay lossless
    in WebP, and JPEG gets 95. xmp: a packet instead of that of `like`, whose record of how it
    was made isn't true of the new pixels and is left out. seal: called with the encoded temporary
    file, which it may change; whole: with the finished one, before it is renamed.
    Raises OutputError; errors of `bands`, `seal` and `whole` pass through.
    """
    entry = format_of(path)
    like = _with_xmp(like, xmp)
    try:
        with written_whole(path, whole) as part:
            if entry.name == "heic":
                _save_heic(part, bands, shape, dtype, like, quality)
            else:
                _encode(part, bands, shape, dtype, like, entry, quality)
            seal(part)
    except OSError as error:
        full = shutil.disk_usage(path.parent).free < _FULL_DISK
        reason = "the disk is full" if full else error.strerror or error
        raise OutputError(f"{path}: can't be written: {reason}") from error


@contextmanager
def streamed(shape: Shape, dtype: np.dtype[Any], bands: Iterable[Array]) -> Iterator[Any]:
    """Give bands of rows, as `RowStream` takes them, as a picture of libvips', to be encoded within.

    What goes wrong in `bands` is raised as it is; raises OSError with libvips' reason where the encoder fails.
    """
    vips = _vips()
    stream = RowStream(shape, dtype, bands)
    failures: list[BaseException] = []

    def read(count: int) -> bytes:
        # An exception can't cross libvips: the encoder sees the end of the file, the caller the error.
        try:
            return stream.read(count) if not failures else b""
        except BaseException as error:  # noqa: BLE001 - handed on below, whatever it is
            failures.append(error)
            return b""

    source = vips.SourceCustom()
    source.on_read(read)
    source.on_seek(stream.seek)
    try:
        yield vips.Image.new_from_source(source, "", access="sequential", fail_on="warning")
    except vips.Error as error:
        if not failures:
            raise OSError(None, plain_reason(error)) from error
    if failures:
        raise failures[0]


def xmp_of(picture: Picture) -> bytes | None:
    """The XMP packet that a picture brings. Raises SourceError where its file is gone."""
    if picture.format.name == "png":  # of which libvips doesn't read what stands after the pixels
        with _Reading(picture.path):
            packets = filter(None, map(xmp_in, text_chunks(picture.path)))
            if (packet := next(packets, None)) is not None:
                return packet
    return bytes(picture.header.get("xmp-data")) if picture.header.get_typeof("xmp-data") else None


def _with_xmp(like: Picture, xmp: bytes | None) -> Picture:
    """`like` with another packet, else with its own but for the record in it; as its header has it then."""
    own = xmp_of(like) if xmp is None else None
    packet = xmp if own is None else without_record(own)
    if packet is None:
        return like
    header = like.header.copy()
    header.set_type(_vips().GValue.blob_type, "xmp-data", packet)
    return replace(like, header=header)


def _encode(
    part: Path,
    bands: Iterable[Array],
    shape: Shape,
    dtype: np.dtype[Any],
    like: Picture,
    entry: Format,
    quality: int | None,
) -> None:
    with streamed(shape, dtype, bands) as image:
        _saver(_with_metadata(image, like, shape), part, entry, dtype, like, quality)
    if entry.name == "tiff":
        add_to_tiff(part, with_size(_exif(like), shape[:2]))
    elif entry.name == "png":
        append_chunks(part, _png_text(like))


def _with_metadata(image: Any, like: Picture, shape: Shape) -> Any:
    """`image` with what the source says besides its pixels; libvips writes the new size into the EXIF itself."""
    origin = like.header
    density = [value if value != _UNKNOWN_DENSITY else _SCREEN_DENSITY for value in (origin.xres, origin.yres)]
    image = image.copy(xres=density[0] * shape[1] / like.shape[1], yres=density[1] * shape[0] / like.shape[0])
    for name in origin.get_fields():
        if _KEPT_FIELDS.match(name) or (name == "jpeg-thumbnail-data" and not like.turned):
            image.set_type(origin.get_typeof(name), name, origin.get(name))
    kinds = _vips().GValue
    if like.format.name == "tiff" and (exif := pack_exif(_exif(like))):
        image.set_type(kinds.blob_type, "exif-data", exif)
    # Last, since EXIF brings the old one.
    image.set_type(kinds.gint_type, "orientation", like.orientation)
    return image


def _exif(like: Picture) -> Block:
    """The EXIF of a source; libvips reads none from TIFF."""
    if like.format.name == "tiff":
        return like.tags
    return exif_block(bytes(like.header.get("exif-data"))) if like.header.get_typeof("exif-data") else {}


def _png_text(like: Picture) -> Iterator[bytes]:
    if like.format.name == "png":
        with _Reading(like.path):
            for chunk in text_chunks(like.path):
                if not chunk[8:].startswith(XMP_KEYWORD + b"\0"):
                    yield chunk
    if like.header.get_typeof("xmp-data"):
        yield xmp_chunk(bytes(like.header.get("xmp-data")))


def _saver(image: Any, part: Path, entry: Format, dtype: np.dtype[Any], like: Picture, quality: int | None) -> None:
    target = os.fsencode(part)
    # libvips makes up EXIF where there is none; only JPEG needs it, for the dots per inch.
    keep = "all" if image.get_typeof("exif-data") else "xmp|iptc|icc|other"
    match entry.name:
        case "png":
            image.remove("xmp-data")  # libvips would write it where few look for it
            image.pngsave(target, compression=6, keep=keep)
        case "jpeg":
            image.jpegsave(target, Q=quality or 95)
        case "webp":
            lossless = quality is None and like.lossless
            image.webpsave(target, lossless=lossless, Q=quality or 90, exact=lossless, keep=keep)
        case "avif":
            bits = 8 if dtype == _U8 else like.bits if like.bits in (10, 12) else 12
            image.heifsave(target, compression="av1", bitdepth=bits, Q=quality or 85, keep=keep)
        case "tiff":
            # The predictor for floats is one that few programs know.
            predictor = "none" if dtype == _F32 else "horizontal"
            if dtype == _F32 and like.white != 1:
                colours = image.bands - like.alpha
                image = (image * ([like.white] * colours + [1.0] * like.alpha)).cast("float")
            large = image.width * image.height * image.bands * dtype.itemsize > 3_900_000_000
            image.tiffsave(target, compression="deflate", predictor=predictor, bigtiff=large)
        case "gif":
            image.gifsave(target)


def codecs() -> dict[str, str]:
    """Each format, and whether it can be read and written here."""
    vips = _vips()
    states = {}
    for entry in FORMATS.values():
        if entry.loader == _PILLOW_HEIF:
            try:
                states[entry.name] = f"ready, pillow-heif {_heif().__version__}"
            except MissingExtraError as error:
                states[entry.name] = str(error)
            continue
        parts = (f"{entry.loader}_source", entry.loader.replace("load", "save"))
        ready = all(vips.type_find("VipsOperation", part) for part in parts)
        number = ".".join(str(vips.version(place)) for place in range(3))
        states[entry.name] = f"ready, libvips {number}" if ready else "missing"
    return states


@cache
def _vips() -> ModuleType:
    import pyvips

    # Files change between two calls, and nothing but these six decoders may see a stranger's file.
    pyvips.cache_set_max(0)
    pyvips.operation_block_set("VipsForeignLoad", True)
    for loader in ("Png", "Jpeg", "Webp", "Heif", "Tiff", "Nsgif"):
        pyvips.operation_block_set(f"VipsForeignLoad{loader}", False)
    module: ModuleType = pyvips
    return module


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise SourceError(f"{path}: is a folder where a picture was expected")
        if path.exists() and not path.is_file():  # a pipe would keep us waiting
            raise SourceError(f"{path}: is not a regular file; copy its content into one")
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceError(f"{path}: the file is empty")
    except FileNotFoundError as error:
        raise SourceError(f"{path}: there is no such file") from error
    except PermissionError as error:
        raise SourceError(f"{path}: may not be read; check its permissions") from error
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error


def _check_tags(path: Path, tags: Block) -> None:
    """Refuse the kinds of TIFF that libvips reads not at all, or as something else."""
    colours = _number(tags, 262, 1)
    if colours not in (0, 1, 2, 3, 5, 6):
        name = {8: "CIELAB", 9: "ICC L*a*b*", 32803: "raw sensor data", 34892: "raw sensor data"}.get(
            colours, f"of kind {colours}"
        )
        raise SourceError(f"{path}: its colours are {name}; convert it to grey or RGB first")
    bits, kind = _number(tags, 258, 1), _number(tags, 339, 1)
    if bits not in {3: (16, 32)}.get(kind, (1, 2, 4, 8, 16) if kind in (1, 4) else ()):
        name = {2: "signed", 3: "float"}.get(kind, "unsigned" if kind == 1 else f"kind {kind}")
        raise SourceError(
            f"{path}: its samples are {bits}-bit {name}; superfine reads 1 to 16 bits unsigned and 16 or 32 bits float,"
            " so convert it first"
        )


def _number(tags: Block, tag: int, default: int) -> int:
    value = tags.get(tag)
    return value.numbers[0] if isinstance(value, Tag) and value.numbers else default


class _Reading:
    """Turn libvips' words into one sentence about a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise SourceError(f"{self._path}: can't be read: {error.strerror}") from error
        if error is not None and not isinstance(error, _vips().Error):
            return
        raise_if_asked()
        if error is None:
            return
        reason = plain_reason(error)
        if "not in a known format" in reason:
            if _MAGIC.match(_head(self._path)):
                raise SourceError(f"{self._path}: damaged or cut off: it only begins as a picture") from error
            known = ", ".join(entry.name.upper() for entry in FORMATS.values())
            raise SourceError(f"{self._path}: not a picture that superfine reads ({known})") from error
        raise SourceError(f"{self._path}: damaged or cut off: {reason}") from error


def plain_reason(error: BaseException) -> str:
    """libvips' first words of substance, without the names of its parts and their numbers."""
    lines = str(error).splitlines()
    for line in lines[1:] or lines:  # the first only says which call failed
        text = re.sub(r"^(?:\w+: )?(?:Invalid input: )?(?:Unspecified: )?|(?: \([\d.]+\))?$", "", line.strip()).strip()
        if text and "bad seek to" not in text:
            return next((plain for vips, plain in _PLAIN_WORDS.items() if vips in text), text)
    return "its data can't be decoded"


_PLAIN_WORDS = {
    "libpng read error": "its pixels or checksums are wrong",
    "unable to parse image": "a part is missing",
    "Extent in iloc box": "its pixels end early",
}


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_heic(head: bytes) -> bool:
    """Whether the brands of an ISO media file, main or compatible, name HEVC. Source: ISO/IEC 14496-12, 4.3."""
    brands = head[8 : min(int.from_bytes(head[:4]), len(head))]
    found = {brands[at : at + 4] for at in range(0, len(brands), 4)}
    return head[4:8] == b"ftyp" and bool(_HEIC_BRANDS & found) and b"avif" not in found


def _open(path: Path, *, pixels: bool = False) -> Any:
    """A picture as stored, to be read once from top to bottom; without `pixels` only its header may be asked."""
    head = _head(path)
    if _is_heic(head):
        return _open_heic(path, pixels=pixels)
    # A source of our own, not a name: libvips reads options out of names such as `scan[1].tif`, and maps
    # files into memory, where one that somebody shortens meanwhile would kill the process.
    vips = _vips()
    file = _File(path)
    source = vips.SourceCustom()
    source.on_read(file.read)
    source.on_seek(file.seek)
    # libjpeg only warns of wrong pixels; in the others a warning is about a tag.
    fail_on = "warning" if head.startswith(_JPEG) else "error"
    return vips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)


class _File:
    """Bytes of a file for libvips; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def read(self, count: int) -> bytes:
        try:
            return os.read(self._handle, count)
        except OSError:  # libvips finds the file cut off, and says so
            return b""

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self._handle, offset, whence)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def _in_rgb(image: Any) -> Any:
    """The picture as superfine works on it, grey or RGB; no pixel is decoded yet."""
    if image.interpretation != "cmyk":
        return image
    depth = 16 if image.format == "ushort" else 8
    return image.icc_transform("srgb", embedded=True, input_profile="cmyk", intent="relative", depth=depth)


def _upright(image: Any) -> Any:
    """The same, turned as its orientation tag says; to read it, `image` must lie in memory."""
    return _in_rgb(image).autorot()


def _notes(image: Any, pages: int, entry: Format, *, premultiplied: bool, palette: bool) -> Iterator[str]:
    if pages > 1 and entry.name in ("gif", "png", "webp"):
        yield f"the first of {pages} frames"
    elif pages > 1 and entry.name != "tiff":
        yield f"the main one of {pages} pictures"
    if image.interpretation == "cmyk":
        yield "CMYK converted to sRGB"
    if premultiplied:
        yield "premultiplied alpha made straight"
    bits = int(image.get("bits-per-sample")) if image.get_typeof("bits-per-sample") else 8
    if palette:
        yield "palette widened to full colour"
    elif bits < 8:
        yield f"{bits} bit{'s' if bits > 1 else ''} a sample widened to 8"


def _in_range(band: Array, picture: Picture) -> Array:
    """float32 in 0..1: colours divided by the level of white, alpha as it is."""
    values = band.astype(np.float32)
    colours, alpha = np.split(values, [band.shape[2] - picture.alpha], axis=2)
    colours /= np.float32(picture.white)
    if not picture.bounded:
        return values
    low, high = float(colours.min()), float(colours.max())
    if not (low >= 0 and high <= 1):  # NaN fails both
        white = picture.white
        raise SourceError(
            f"{picture.path}: float samples from {low * white:g} to {high * white:g}, outside 0 to {white:g};"
            " say which level is white with --white LEVEL"
        )
    if picture.alpha and not (alpha.min() >= 0 and alpha.max() <= 1):
        raise SourceError(
            f"{picture.path}: float alpha from {alpha.min():g} to {alpha.max():g}, outside 0 to 1;"
            " --white is about colours only, so rescale it first"
        )
    return values


def _webp_is_lossless(path: Path) -> bool:
    """Whether the (first) picture of a WebP is in VP8L. Source: RFC 9649."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, length = head[:4], int.from_bytes(head[4:], "little")
            if kind in (b"VP8L", b"VP8 "):
                return kind == b"VP8L"
            if kind == b"ANMF":
                file.seek(16, 1)  # frames are chunks in a chunk
            else:
                file.seek(length + length % 2, 1)
    return False


def _heif() -> ModuleType:
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtraError("HEIC", "heif") from error
    module: ModuleType = pillow_heif
    return module


def _open_heic(path: Path, *, pixels: bool) -> Any:
    heif, vips = _heif(), _vips()
    try:
        file = heif.open_heif(path, convert_hdr_to_8bit=False)
        stored = np.asarray(file) if pixels else None
    except (ValueError, RuntimeError, EOFError, OSError) as error:
        raise SourceError(f"{path}: damaged or cut off: {plain_reason(error)}") from error
    mode, _, deep = file.mode.partition(";")  # L, LA, RGB or RGBA, and the bits where they are more than 8
    if stored is None:  # an image of the same kind, black where it would be looked at
        image = vips.Image.black(*file.size, bands=len(mode)).cast("ushort" if deep else "uchar")
    else:
        image = vips.Image.new_from_array(stored)
    grey = image.bands < 3
    image = image.copy(interpretation=("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb"))
    bits = int(file.info.get("bit_depth", 8))
    image.set_type(vips.GValue.gstr_type, "vips-loader", _PILLOW_HEIF)
    image.set_type(vips.GValue.gint_type, "bits-per-sample", bits)
    image.set_type(vips.GValue.gint_type, "n-pages", len(file))
    for name, key in _BLOBS.items():
        if file.info.get(key):
            image.set_type(vips.GValue.blob_type, name, file.info[key])
    image.set_type(vips.GValue.gint_type, "orientation", 1)  # the decoder turned it; what EXIF says is void
    return image


def _save_heic(
    part: Path, bands: Iterable[Array], shape: Shape, dtype: np.dtype[Any], like: Picture, quality: int | None
) -> None:
    heif = _heif()
    pixels = np.concatenate(list(bands))
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape[2]] + (";16" if dtype == _U16 else "")
    origin = like.header
    kept = {key: bytes(origin.get(name)) for name, key in _BLOBS.items() if origin.get_typeof(name)}
    exif = pack_exif(with_size(_exif(like), shape[:2], orientation=1))
    file = heif.from_bytes(mode=mode, size=(shape[1], shape[0]), data=pixels.tobytes())
    try:
        with part.open("wb") as target:
            file.save(target, quality=quality or 85, **{**kept, "exif": exif or None})
    except (ValueError, RuntimeError) as error:
        raise OSError(None, str(error)) from error
