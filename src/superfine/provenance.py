"""What made a file: written into it, or beside it, so that it can be checked later and made again.

A record holds what decides the pixels, and hashes of what went in and came out: no time, no path, no user or host name.
It isn't signed: whoever can write the file can write the record. `verify` says what that means.

The text of a record is JSON with sorted keys and without spaces, in ASCII. In XMP it is one property, `record` in the
namespace of `xmp`; beside a file it is `NAME.superfine.json`.
"""

import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from superfine.atomic import written_whole
from superfine.clip import Clip, stretch
from superfine.errors import OutputError, ShapeError, SourceError, UsageError
from superfine.footage import kind_of, read_footage
from superfine.image import Picture, format_of, open_picture, xmp_of
from superfine.pngchunks import patch_text, text_chunks, xmp_in
from superfine.route import Job, Route, Workshop
from superfine.stills import has_place
from superfine.xmp import Place, packet_limit, patch_file, record_in, with_place

__all__ = [
    "ClipOptions",
    "Consistency",
    "Found",
    "Machine",
    "Network",
    "Options",
    "PixelHash",
    "Pixels",
    "Record",
    "Recorder",
    "Unrecorded",
    "clip_hash",
    "drop_sidecar",
    "find_record",
    "keeps_every_bit",
    "keeps_pixels",
    "kernel_hash",
    "machine",
    "read_text",
    "record_of",
    "recorder_for",
    "sidecar_of",
    "text_of",
    "write_clip_record",
    "write_sidecar",
]

Array = npt.NDArray[np.generic]
Shape = tuple[int, int, int]

#: The layout of records that this version writes, the only one that it reads.
FORMAT: Final = 1
_LONGEST_STRING: Final = 200
_LONGEST_LIST: Final = 16
_LARGEST_RECORD: Final = 64_000
#: Records of the source, of its source and so on that are kept.
_MOST_EARLIER: Final = 8
_LARGEST_NUMBER: Final = 2**53
_MOST_PACKETS: Final = 16
#: Levels of white at which a float32 sample times white and back is off by less than a millionth of white.
_SCALABLE: Final = (1e-30, 1e30)
# What a consistency figure may grow by once it is known.
_SPARE: Final = 128
_NO_HASH: Final = "0" * 64
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FRACTION: Final = re.compile(r"-?\d{1,40}(/[1-9]\d{0,39})?", re.ASCII)
#: Strings that are written in one way.
_WRITTEN: Final = {"sha256": _HASH, "kernel": _HASH, "start": _FRACTION, "end": _FRACTION, "rate": _FRACTION}
_SUFFIX: Final = ".superfine.json"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and the SHA-256 of its file."""

    name: str
    sha256: str
    precision: str
    """What it really ran in: bf16, fp32 or int8."""


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What is asked of clips alone."""

    codec: str
    """As it was really used."""
    crf: int | None
    start: str | None
    """Seconds, as a fraction; and so `end` and `rate`."""
    end: str | None
    rate: str | None
    damaged: str
    interlaced: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for and decides the pixels."""

    model: str
    """The family or network by name; of a file, the name on its card."""
    resampling: str
    """What ends in the exact size where the networks don't; of a classical method, itself."""
    engine: str
    """openvino, onnxruntime, …; `none` for classical methods."""
    precision: str
    """As it was asked for; what each network ran in stands there."""
    sharpness: float | None = None
    consistent: str | None = None
    """The operator that the output was projected for."""
    kernel: str | None = None
    """SHA-256 of the kernel of that operator, where one was given: as `PixelHash` has it, in float64, one channel."""
    ensemble: bool = False
    white: float | None = None
    quality: int | None = None
    """1 to 100 where it was given, for lossy formats."""
    turned: bool = False
    """The input's orientation tag was obeyed; its hash is of the pixels as stored."""
    clip: ClipOptions | None = None


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Decoded pixels: what they are, and their hash as `PixelHash` has it."""

    rows: int
    cols: int
    channels: int
    dtype: Literal["uint8", "uint16", "float32"]
    sha256: str | None
    """None of an output whose format doesn't keep its pixels to the last bit."""
    bits: int | None = None
    """Bits a sample in the file, of an input."""
    frames: int | None = None
    """Of a clip."""


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """The output before it was encoded, reduced by an operator, against the input."""

    operator: str
    psnr: float | None
    """dB, over all colours; None where nothing differs."""
    samples: int = 0
    """Of the input, alpha too."""
    misses: int = 0
    """Samples that are missed by more than half a level of the output; means nothing where that is float32."""
    worst: float = 0.0
    """The largest difference of a sample, in levels of the output (of white for float32)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The kind of machine, as far as it may decide the last bit; nothing that tells one of a kind from another."""

    cpu: str
    precisions: str
    """What it computes natively."""
    cores: int
    runtime: str
    """What ran the networks, with its version; nothing without networks."""
    numpy: str
    libvips: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What made a file."""

    software: str
    version: str
    options: Options
    networks: tuple[Network, ...]
    """In the order of their work; none of classical methods."""
    input: Pixels
    output: Pixels
    consistency: Consistency | None
    machine: Machine
    earlier: tuple["Record", ...] = ()
    """The records that the source brought, the latest first: what made it, as it says."""
    record: int = FORMAT


# ---- text


def text_of(record: Record) -> str:
    """The record as it is stored: JSON in ASCII, keys sorted, no spaces, without `<`, `>` and `&`."""
    text = json.dumps(asdict(record), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def read_text(text: str) -> Record:
    """The record of a text. Raises ValueError, with what is wrong, for all that `text_of` doesn't write."""
    if len(text) > _LARGEST_RECORD:
        raise ValueError(f"it has {len(text):,} characters, more than {_LARGEST_RECORD:,}")
    try:
        given = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it isn't JSON: {error}") from error
    if isinstance(given, dict) and given.get("record", FORMAT) != FORMAT:
        raise ValueError(f"its layout is {str(given['record'])[:20]!r}, and this version reads {FORMAT}")
    record: Record = _value(Record, given, "the record")
    if len(record.earlier) > _MOST_EARLIER or any(one.earlier for one in record.earlier):
        raise ValueError(f"it holds more than {_MOST_EARLIER} earlier records, or some within others")
    if text_of(record) != text:
        raise ValueError("it isn't written as superfine writes it")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _value(kind: Any, given: Any, where: str) -> Any:
    """`given` as a value of the type `kind`, checked all through."""
    if get_origin(kind) in (Union, UnionType):
        if given is None:
            return None
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is tuple:
        if not isinstance(given, list) or len(given) > _LONGEST_LIST:
            raise ValueError(f"{where} is no list of at most {_LONGEST_LIST}")
        return tuple(_value(get_args(kind)[0], one, where) for one in given)
    if is_dataclass(kind):
        return _object(kind, given, where)
    if not _fits(kind, given, where):
        raise ValueError(f"{where} can't be {str(given)[:40]!r}")
    return given


def _fits(kind: Any, given: Any, where: str) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(given, str) and given in get_args(kind)
    if kind is bool or isinstance(given, bool):
        return kind is bool and isinstance(given, bool)
    if kind is str:
        pattern = _WRITTEN.get(where)
        return isinstance(given, str) and bool(
            pattern.fullmatch(given) if pattern else len(given) <= _LONGEST_STRING and given.isprintable()
        )
    if kind is int:
        return isinstance(given, int) and 0 <= given <= _LARGEST_NUMBER
    if not isinstance(given, (int, float)) or abs(given) > _LARGEST_NUMBER:
        return False
    return where != "white" or bool(np.float32(given) > 0)


def _object(kind: Any, given: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    if not isinstance(given, dict) or set(given) != names:
        there = set(given) if isinstance(given, dict) else set()
        wrong = ", ".join(sorted(there ^ names))[:200]
        raise ValueError(f"{where} isn't laid out as it should be: {wrong}")
    return kind(**{name: _value(hints[name], given[name], name) for name in names})


# ---- pixels


class PixelHash:
    """SHA-256 of decoded pixels, independent of the file's format and metadata.

    Of the text `superfine pixels 1: ROWS COLS CHANNELS DTYPE` and a newline, in ASCII, then of all samples, row by
    row, channels last, little-endian. Of a clip `superfine frames 1: ...`, then of the samples of all frames.
    """

    def __init__(self, shape: Shape, dtype: np.dtype[Any], *, clip: bool = False) -> None:
        kind = "frames" if clip else "pixels"
        rows, cols, channels = shape
        self._hash = hashlib.sha256(f"superfine {kind} 1: {rows} {cols} {channels} {dtype.name}\n".encode())
        self._shape, self._dtype = shape, dtype
        self._rows = 0

    def add(self, band: Array) -> None:
        """(any rows, cols, channels) of the dtype. Raises ShapeError for others."""
        if band.shape[1:] != self._shape[1:] or band.dtype != self._dtype:
            raise ShapeError(f"want rows of {self._shape[1:]} {self._dtype}, got {band.shape} {band.dtype}")
        self._rows += len(band)
        stored = np.ascontiguousarray(band, self._dtype.newbyteorder("<"))
        self._hash.update(stored.reshape(-1).view(np.uint8).data)

    @property
    def frames(self) -> int:
        """Whole pictures that were heard."""
        return self._rows // self._shape[0]

    @property
    def hexdigest(self) -> str:
        """Of whole pictures. Raises ShapeError where rows are missing."""
        if not self._rows or self._rows % self._shape[0]:
            raise ShapeError(f"{self._rows} rows were heard of {self._shape[0]}")
        return self._hash.hexdigest()

    @classmethod
    def of(cls, shape: Shape, dtype: np.dtype[Any], bands: Iterable[Array]) -> Self:
        """The hash of all bands."""
        made = cls(shape, dtype)
        for band in bands:
            made.add(band)
        return made


def keeps_pixels(picture: Picture, output: Path, shape: Shape, dtype: np.dtype[Any], quality: int | None) -> bool:
    """Whether `save_picture` writes a file that is decoded to the pixels that it got.

    To the last bit, but for a float TIFF with a level of white of its own: that is scaled to the level and rounded
    once in float32, which is below a millionth of white. picture: the source, which decides with its own losses and
    its level of white.
    """
    match format_of(output).name:
        case "png":
            return True
        case "tiff":
            return dtype != np.float32 or _SCALABLE[0] <= picture.white <= _SCALABLE[1]
        case "webp":  # which has no grey
            return quality is None and picture.lossless and shape[2] >= 3
        case _:
            return False


def keeps_every_bit(picture: Picture, output: Path, shape: Shape, dtype: np.dtype[Any], quality: int | None) -> bool:
    """Whether that file is decoded to the same pixels to the last bit, so that a hash of them says something."""
    scaled = dtype == np.float32 and picture.white != 1
    return not scaled and keeps_pixels(picture, output, shape, dtype, quality)


# ---- making


def machine(runtime: str = "") -> Machine:
    """The kind of this machine; runtime: what runs the networks."""
    import pyvips

    from superfine.engine import cores, cpu_features

    features = cpu_features()
    return Machine(
        cpu=_plain(features["name"]),
        precisions=_plain(features["native precisions"]),
        cores=cores(),
        runtime=_plain(runtime),
        numpy=np.__version__,
        libvips=".".join(str(pyvips.version(place)) for place in range(3)),
    )


def record_of(
    workshop: Workshop,
    route: Route,
    given: Pixels,
    made: Pixels,
    *,
    turned: bool = False,
    clip: ClipOptions | None = None,
) -> Record:
    """What is known of a picture or a clip before the work, but for its pixels' hashes.

    given, made: the input as stored, and the output. turned: the input's orientation tag is obeyed.
    """
    engines = [workshop.engine(engine.scale) for engine in route.engines]
    job = workshop.job
    named = workshop.name
    if engines and named.lower().endswith(".onnx"):  # no path
        named = engines[0].model.card.name
    return Record(
        software="superfine",
        version=version("superfine"),
        options=Options(
            model=_plain(named),
            resampling=route.method,
            engine=job.engine if engines else "none",
            precision=job.precision,
            sharpness=job.sharpness,
            consistent=None if route.reduction is None else route.reduction.name,
            kernel=None if workshop.kernel is None else kernel_hash(workshop.kernel),
            ensemble=job.ensemble,
            white=job.white,
            quality=job.quality,
            turned=turned,
            clip=clip,
        ),
        networks=tuple(
            Network(
                name=_plain(engine.model.card.name),
                sha256=engine.model.sha256,
                precision=engine.precision_for(route.worked),
            )
            for engine in engines
        ),
        input=given,
        output=made,
        consistency=None,
        machine=machine(engines[0].name if engines else ""),
    )


def kernel_hash(kernel: npt.NDArray[np.floating]) -> str:
    """Of a kernel (rows, cols): as of pixels, in float64."""
    rows, cols = kernel.shape
    return PixelHash.of((rows, cols, 1), np.dtype(np.float64), [kernel[..., None].astype(np.float64)]).hexdigest


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_STRING])


class Recorder:
    """Hears the pixels of one picture go in and come out, and leaves the record in the finished file, or beside it.

    Which thread calls what doesn't matter, as long as `conclude` is called before `made_rows` ends.
    """

    def __init__(self, workshop: Workshop, route: Route, picture: Picture, output: Path) -> None:
        self.notes: tuple[str, ...] = ()
        """What a person should know: that the record lies beside the file, and why."""
        self.xmp: bytes | None = None
        """The packet to write, with room for the record; None where it goes beside the file."""
        self._stored = picture
        if picture.turned:
            self._stored = open_picture(picture.path, max_megapixels=math.inf, white=workshop.job.white)
        shape = (*route.target, picture.shape[2])
        lasting = keeps_every_bit(picture, output, shape, route.made, workshop.job.quality)
        draft = record_of(
            workshop,
            route,
            replace(_pixels(self._stored.shape, self._stored.dtype), bits=self._stored.bits),
            replace(_pixels(shape, route.made), sha256=_NO_HASH if lasting else None),
            turned=picture.turned,
        )
        packet = xmp_of(picture)
        self._record = replace(draft, earlier=_earlier(packet))
        self._output = output
        self._place: Place | None = None
        self._given = PixelHash(picture.shape, picture.dtype)
        self._made = PixelHash(shape, route.made)
        self._rest: Iterator[Array] = iter(())
        self._prepare(packet)

    def _prepare(self, packet: bytes | None) -> None:
        entry = format_of(self._output)
        limit = packet_limit(entry.name)
        if not limit:
            self._note(f"{entry.name.upper()} holds no XMP")
            return
        try:
            xmp, place = with_place(packet, len(text_of(self._record)) + _SPARE)
        except ValueError as error:
            self._note(f"of the source, {error}, so that stays as it is")
            return
        if len(xmp) > limit:
            self._note(f"the XMP would have {len(xmp):,} bytes with it, over the {limit:,} of {entry.name.upper()}")
            return
        self.xmp, self._place = xmp, place

    def _note(self, reason: str) -> None:
        self.notes = (f"the record is in {sidecar_of(self._output).name}: {reason}",)

    def given_rows(self, bands: Iterable[Array]) -> Iterator[Array]:
        """The input's bands, passed on as they are."""
        for band in bands:
            self._given.add(band)
            yield band

    def made_rows(self, bands: Iterable[Array]) -> Iterator[Array]:
        """The output's bands on their way to the encoder, passed on as they are."""
        self._rest = iter(bands)
        for band in self._rest:
            self._made.add(band)
            yield band

    def conclude(self, consistency: Consistency | None) -> None:
        """What is known only once all is made."""
        self._record = replace(self._record, consistency=_rounded(consistency))

    def seal(self, part: Path) -> None:
        """Put the record into the finished file, before it is synced and renamed, or beside what it becomes.

        Raises OutputError where that can't be written, ShapeError where rows were missing.
        """
        # The encoder may have all rows before whoever makes them is through.
        deque(self._rest, maxlen=0)
        record = self.record
        if self._place is not None:
            held, filled = self._place.held, self._place.filled(text_of(record))
            if patch_text(part, held, filled) or patch_file(part, held, filled):
                drop_sidecar(self._output)
                return
            self._note("the encoder left the XMP out")
        write_sidecar(self._output, record)

    @property
    def record(self) -> Record:
        """The whole record, once all rows have passed."""
        draft = self._record
        given = self._given
        if draft.options.turned:
            given = PixelHash.of(self._stored.shape, self._stored.dtype, self._stored.bands())
        made = None if draft.output.sha256 is None else self._made.hexdigest
        return replace(
            draft,
            input=replace(draft.input, sha256=given.hexdigest),
            output=replace(draft.output, sha256=made),
        )


class Unrecorded:
    """Stands where a `Recorder` would, and leaves nothing, nor what was said of an earlier file of that name."""

    notes: tuple[str, ...] = ()
    xmp: bytes | None = None

    def __init__(self, output: Path) -> None:
        self._output = output

    def given_rows(self, bands: Iterable[Array]) -> Iterator[Array]:
        """The input's bands."""
        return iter(bands)

    def made_rows(self, bands: Iterable[Array]) -> Iterator[Array]:
        """The output's bands."""
        return iter(bands)

    def conclude(self, consistency: Consistency | None) -> None:
        """Nobody wants to know."""

    def seal(self, part: Path) -> None:  # noqa: ARG002 - the file stays as it is
        """Raises OutputError where an earlier record can't be removed."""
        drop_sidecar(self._output)


def recorder_for(workshop: Workshop, route: Route, picture: Picture, output: Path) -> Recorder | Unrecorded:
    """Whoever listens while a picture is made: with `provenance` a recorder."""
    return Recorder(workshop, route, picture, output) if workshop.job.provenance else Unrecorded(output)


def write_clip_record(
    workshop: Workshop,
    route: Route,
    clip: Clip,
    output: Path,
    codec: str,
    *,
    given: PixelHash,
    consistency: Consistency | None,
) -> None:
    """Write the record of a finished clip beside it.

    codec: as it was really used. given: of the frames that were enlarged; where an earlier run made some of them, all
    are decoded once more. consistency: of those that were measured. Raises SourceError, OutputError.
    """
    job = workshop.job
    first, stop = stretch(clip, job.start, job.end)
    if given.frames != stop - first:
        given = clip_hash(clip, job)
    record = record_of(
        workshop,
        route,
        replace(_pixels(clip.shape, clip.dtype), sha256=given.hexdigest, bits=clip.bits, frames=stop - first),
        replace(_pixels((*route.target, clip.shape[2]), route.made), sha256=None, frames=stop - first),
        clip=ClipOptions(
            codec=codec,
            crf=job.crf,
            start=None if job.start is None else str(job.start),
            end=None if job.end is None else str(job.end),
            rate=None if job.rate is None else str(job.rate),
            damaged=job.damaged,
            interlaced=job.interlaced,
        ),
    )
    write_sidecar(output, replace(record, consistency=_rounded(consistency)))


def clip_hash(clip: Clip, job: Job) -> PixelHash:
    """The hash of the frames of a clip that the job enlarges. Raises SourceError."""
    made = PixelHash(clip.shape, clip.dtype, clip=True)
    for frame in read_footage(clip, *stretch(clip, job.start, job.end), damaged=job.damaged, interlaced=job.interlaced):
        made.add(frame.pixels)
    return made


def _rounded(consistency: Consistency | None) -> Consistency | None:
    """With as many digits as are the same everywhere."""
    if consistency is None:
        return None
    known = consistency.psnr is not None and math.isfinite(consistency.psnr)
    psnr = round(consistency.psnr, 3) if known and consistency.psnr is not None else None
    return replace(consistency, psnr=psnr, worst=round(consistency.worst, 6))


def _pixels(shape: Shape, dtype: np.dtype[Any]) -> Pixels:
    rows, cols, channels = shape
    kind: Any = dtype.name
    return Pixels(rows=rows, cols=cols, channels=channels, dtype=kind, sha256=_NO_HASH)


def _earlier(packet: bytes | None) -> tuple[Record, ...]:
    """The records that a source brings; one that can't be read is left out, as it tells nothing."""
    try:
        text = None if packet is None else record_in(packet)
        found = None if text is None else read_text(text)
    except ValueError:
        return ()
    return () if found is None else (replace(found, earlier=()), *found.earlier)[:_MOST_EARLIER]


# ---- where records lie


@dataclass(frozen=True)
class Found:
    """The text of a record, and where it was."""

    text: str
    place: Path
    """The file itself, or the one beside it."""


def sidecar_of(output: Path) -> Path:
    """Where a record lies that isn't in the file: beside the file, or beside the folder of frames."""
    output = output.parent if has_place(output) else output
    if output.name in ("", ".."):
        output = output.resolve()
    return output.parent / f"{output.name}{_SUFFIX}"


def write_sidecar(output: Path, record: Record) -> None:
    """Write the record beside `output`. Raises OutputError."""
    path = sidecar_of(output)
    try:
        with written_whole(path) as part:
            part.write_text(text_of(record) + "\n", encoding="ascii")
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error


def drop_sidecar(output: Path) -> None:
    """Remove a record that lies beside `output`, since it is of what was there before. Raises OutputError."""
    path = sidecar_of(output)
    if not path.is_file():
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: tells of an earlier {output.name}, and can't be removed: {error.strerror or error}"
        ) from error


def find_record(output: Path) -> Found | None:
    """The record of a file: the one inside, else the one beside it; None where there is none.

    Raises SourceError where the file can't be read, or what it holds isn't one record; UsageError where its XMP can't
    be searched and nothing lies beside it.
    """
    problem = ""
    if output.is_file() and not kind_of(output):
        try:
            inside = [text for packet in _packets(output) if (text := record_in(packet)) is not None]
        except ValueError as error:
            inside, problem = [], str(error)
        if len(set(inside)) > 1:
            raise SourceError(
                f"{output}: holds {len(inside)} records, and one file has one; it isn't as superfine made it"
            )
        if inside:
            return Found(inside[0], output)
    beside = sidecar_of(output)
    if not beside.is_file():
        if problem:
            raise UsageError(
                f"{output}: holds no record that can be found, since {problem}, and there is no {beside.name}"
                " beside it; if the file was renamed, give its record that name"
            )
        return None
    try:
        with beside.open("rb") as file:
            text = file.read(_LARGEST_RECORD + 1).decode("ascii")
    except OSError as error:
        raise SourceError(f"{beside}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{beside}: isn't a record: it holds more than ASCII") from error
    return Found(text.removesuffix("\n"), beside)


def _packets(path: Path) -> Iterator[bytes]:
    """A file's XMP, one packet at a time: a PNG may hold more than one, each of 16 MB. Raises ValueError for many."""
    picture = open_picture(path, max_megapixels=math.inf, bounded=False)
    found = 0
    for found, inside in enumerate(filter(None, map(xmp_in, text_chunks(path))), 1):
        if found > _MOST_PACKETS:
            raise ValueError(f"it holds more than {_MOST_PACKETS} packets of XMP")
        yield inside
    if not found and (packet := xmp_of(picture)) is not None:
        yield packet
