"""What a record says of a file -> what of it holds, and what is proven by that.

A record isn't signed: that it fits its file proves nothing, since both may be written by anyone. What proves it is to
make the file again from its source, and to get the same pixels.
"""

import math
import os
import shlex
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from superfine.classical.reduction import Reduction, kernel_reduction, reduction
from superfine.clip import Clip
from superfine.color import KINDS
from superfine.encoding import CODECS
from superfine.engine import ENGINES, Precision, cpu_features, engine_state
from superfine.errors import ModelError, ShapeError, SourceError, UsageError
from superfine.fidelity import Tally, measured_bands
from superfine.footage import kind_of, open_footage, read_footage
from superfine.image import MAX_MEGAPIXELS, Picture, open_picture
from superfine.kernel_file import read_kernel
from superfine.models import CLASSICAL, families, find_model, shipped_cards
from superfine.provenance import (
    ClipOptions,
    Consistency,
    PixelHash,
    Record,
    clip_hash,
    find_record,
    kernel_hash,
    machine,
    read_text,
    sidecar_of,
)
from superfine.route import MAX_SCALE, Job, Size, Workshop
from superfine.stills import has_place
from superfine.terminal import one_line
from superfine.upscale import Progress, upscale_path

__all__ = ["Check", "Verification", "verify"]

Array = npt.NDArray[np.generic]

#: What another kind of machine may make of the same picture: one level of 8 bits.
_LEVEL: Final = 1 / 255
#: What a lossy encoder may make of that in a block of so many pixels a side, and in the whole picture: levels, root
#: mean square. Of levels that differ by one, JPEG, WebP and AVIF of quality 70 or more made 3 to 7.5 in a block.
_BLOCK: Final = 16
_BLOCK_LEVELS: Final = 8.0
#: Figures are written with three digits, and sums end in other last bits elsewhere.
_FIGURE: Final = 0.01
_SLACK: Final = 1 + 1e-6
#: Of white: what scaling float32 samples to a level of white and back may change.
_ROUNDING: Final = 1e-6
_PROVEN: Final = (
    "Proven: superfine makes this of {} with the options of the record: it was made again just now, and compared."
)
_NEVER_PROVEN: Final = (
    "Not proven: who made it and when, that {} itself is genuine, and what else the file says in its metadata."
)
_UNSIGNED: Final = (
    "Proven: nothing. The record isn't signed: whoever can write the file can write the record. That they fit each"
    " other only shows that nothing was damaged by chance."
)
_CURE: Final = (
    "NOTHING WAS PROVEN: that nothing contradicts the record is no proof. What proves it is the source:"
    " superfine verify {} --source FILE makes it again and compares."
)
_WITHOUT: Final = (
    "NOTHING WAS PROVEN: that nothing contradicts the record is no proof, and it wasn't made again from its source: {}."
)
_MAYBE: Final = "NOTHING WAS PROVEN, AND THE FILE MAY HAVE BEEN CHANGED: {}."
_UNTOLD: Final = "more than an encoder makes of another machine's last bits, unless its quality is low"
_CHANGED: Final = "the file or its record was changed, or they don't belong together"
#: Checks that no version of superfine and no kind of machine explains.
_WHATEVER_MADE_IT: Final = {"size", "pixels", "software", "source"}


@dataclass(frozen=True)
class Check:
    """One thing that a record says."""

    name: Literal["record", "size", "pixels", "software", "networks", "source", "consistency", "recomputed"]
    holds: bool | None
    """None where it can't be checked here."""
    words: str


@dataclass(frozen=True)
class Verification:
    """What of a file's record holds."""

    output: Path
    place: Path
    """Where the record was: the file itself, or the one beside it."""
    record: Record | None
    """None where it isn't one."""
    checks: tuple[Check, ...]
    source: Path | None = None

    @property
    def holds(self) -> bool:
        """All that could be checked holds."""
        return all(check.holds is not False for check in self.checks)

    @property
    def proven(self) -> bool:
        """The file was made again from its source."""
        return self.holds and any(check.name == "recomputed" and check.holds for check in self.checks)

    @property
    def conclusion(self) -> tuple[str, ...]:
        """What is proven and what is not, in plain words."""
        wrong = dict.fromkeys(check.name for check in self.checks if check.holds is False)
        if wrong:
            return (f"Does not hold: {', '.join(wrong)}; {self._reason(set(wrong))}.",)
        if self.proven:
            return (_PROVEN.format(self.source), _NEVER_PROVEN.format(self.source))
        if self.source is not None:
            open_ones = {check.name: check.words for check in self.checks if check.holds is None}
            if _UNTOLD in open_ones.get("recomputed", ""):
                return (_UNSIGNED, _MAYBE.format(open_ones["recomputed"]))
            return (_UNSIGNED, _WITHOUT.format(open_ones.get("networks") or open_ones["recomputed"]))
        return (_UNSIGNED, _CURE.format(shlex.quote(str(self.output))))

    def _reason(self, wrong: set[str]) -> str:
        """What may lie behind it; another version of superfine where that explains all of it."""
        here = version("superfine")
        if self.record is None:
            return f"it was damaged or changed, or a version of superfine other than this {here} wrote it"
        if wrong & _WHATEVER_MADE_IT:
            return _CHANGED
        if self.record.version != here:
            there = one_line(self.record.version)
            return (
                "another version of superfine may make other pixels, and the record names"
                f" {there} where this is {here}; or {_CHANGED}: verify it with superfine {there}"
            )
        if "recomputed" in wrong:
            return (
                "another version of superfine may make other pixels, such as a build before or after this one that"
                f" calls itself {here} too; or {_CHANGED}"
            )
        if wrong == {"networks"}:
            return f"it was made with other files than those that are here or were given; or {_CHANGED}"
        return _CHANGED


def verify(
    output: Path | str,
    source: Path | str | None = None,
    *,
    model: Path | str | None = None,
    kernel: Path | str | None = None,
    memory_gb: float | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Progress | None = None,
) -> Verification:
    """Read a file's record, check what can be checked, and make the file again where its source is given.

    model: the network's file, where it isn't one that is shipped. kernel: that of the operator which the file was made
    consistent with, where it was a given one. The file is made again in the folder of temporary files. Raises
    UsageError where there is no such file, source or kernel, or no record; SourceError where one can't be read.
    """
    Job(memory_gb=memory_gb, max_megapixels=max_megapixels)  # refuses what can't be, before the record is blamed
    output = _there("the file to verify", output)
    source = None if source is None else _source_there(source)
    kernel = None if kernel is None else _there("the kernel", kernel)
    model = None if model is None else str(_as_path("the model", model))
    found = find_record(output)
    if found is None:
        if output.is_file() and not kind_of(output):  # what was cut off may have lost its record with the rest
            deque(open_picture(output, max_megapixels=max_megapixels, bounded=False).bands(), maxlen=0)
        raise UsageError(
            f"{output}: holds no record of how it was made, and there is no {sidecar_of(output).name} beside it; what"
            " superfine makes has one, unless it was told --no-provenance or another program left it out"
        )
    try:
        record = read_text(found.text)
    except ValueError as error:
        return Verification(output, found.place, None, (Check("record", False, f"isn't a record: {error}"),), source)
    if kernel is not None and record.options.kernel is None:
        raise UsageError(f"{kernel}: {output} was made without a kernel of one's own, says its record; leave it out")
    case = _Case(output, record, kernel, max_megapixels)
    where = "in the file" if found.place == output else f"in {found.place.name}"
    checks = [Check("record", True, f"well-formed, {where}"), *_fitting(case), _software(record)]
    job, networks = _asked(case, model, memory_gb)
    checks.append(networks)
    if source is not None:
        checks += _of_source(case, source, job, progress or Progress())
    return Verification(output, found.place, record, tuple(checks), source)


def _as_path(what: str, given: object) -> Path:
    """Raises UsageError for what names no file, such as an array."""
    if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
        raise UsageError(f"verify: {what} is given by its name, a str or a Path, not {type(given).__name__}")
    return Path(given)


def _there(what: str, given: object) -> Path:
    """The same of what must exist. Raises UsageError."""
    path = _as_path(what, given)
    if not path.exists():
        raise UsageError(f"{path}: {what} isn't there: there is no such file; look at its name")
    return path


def _source_there(given: object) -> Path:
    """The same of a source, which may be a pattern that names many frames."""
    path = _as_path("its source", given)
    return path if has_place(path) else _there("its source", path)


@dataclass(frozen=True)
class _Case:
    """A file with its record, and how it and its source are opened."""

    output: Path
    record: Record
    kernel: Path | None
    max_megapixels: float

    @property
    def moves(self) -> bool:
        """It is a clip."""
        return self.record.options.clip is not None

    @cached_property
    def rounding(self) -> float | None:
        """How far the file's samples may lie from those that were made, of white; None where an encoder decides.

        By the file's content: its name and what its record says of that may be forged.
        """
        if self.moves:
            clip = self.clip(self.output)
            return 0.0 if clip.kind == "frames" and clip.lossless else None
        picture = self.made(self.output)
        if picture.format.name == "tiff" and picture.dtype == np.float32 and picture.white != 1:
            return _ROUNDING
        kept = picture.format.name in ("png", "tiff") or (picture.format.name == "webp" and picture.lossless)
        return 0.0 if kept else None

    @property
    def decides_reading(self) -> bool:
        """What is read of a source hangs on more than its file: a level of white, a stretch, a rate of frames."""
        return self.moves or self.record.options.white is not None

    def source(self, path: Path, *, upright: bool = False) -> Picture:
        """A source as the record's work saw it: with the same level of white, where it's float."""
        return self._opened(path, upright=upright)

    def made(self, path: Path) -> Picture:
        """The same of an enlargement, whose floats may lie beyond black and white."""
        return self._opened(path, bounded=False)

    def _opened(self, path: Path, *, upright: bool = False, bounded: bool = True) -> Picture:
        opened = partial(open_picture, path, max_megapixels=self.max_megapixels, upright=upright, bounded=bounded)
        if self.record.options.white is not None:
            with suppress(UsageError):  # whole levels, which say themselves what is white
                return opened(white=self.record.options.white)
        return opened()

    def clip(self, path: Path, rate: Fraction | None = None) -> Clip:
        """The same of a clip."""
        return open_footage(path, rate=rate, max_megapixels=self.max_megapixels)

    def pixels(self, path: Path) -> Iterator[Array]:
        """All that is decoded from a file, in order."""
        if self.moves:
            for frame in read_footage(self.clip(path)):
                yield frame.pixels
        else:
            yield from self.made(path).bands()


# ---- without the source


def _fitting(case: _Case) -> Iterator[Check]:
    """Whether the file is of the size that the record says, and has the pixels that it had."""
    made = case.record.output
    said = f"{made.cols} x {made.rows}"
    if case.moves:
        clip = case.clip(case.output)
        fits = (*clip.size, len(clip.timeline)) == (made.rows, made.cols, made.frames)
        there = f"{clip.size[1]} x {clip.size[0]}, {len(clip.timeline)} frames"
        yield Check("size", fits, there if fits else f"is {there}, and the record says {said}, {made.frames} frames")
        return
    picture = case.made(case.output)
    fits = picture.size == (made.rows, made.cols)
    there = f"{picture.size[1]} x {picture.size[0]}"
    yield Check("size", fits, there if fits else f"is {there}, and the record says {said}")
    if made.sha256 is None:
        words = "this format doesn't keep pixels exactly, so the record has no hash of them"
        kept = case.rounding == 0 and picture.shape[2] == made.channels  # WebP makes colours of grey
        if kept:
            words = "the record has no hash of them, though this format keeps them"
        elif case.rounding:
            words = (
                "they were scaled to their level of white and rounded once in float32, below a millionth of white, so"
                " the record has no hash of them"
            )
        yield Check("pixels", False if kept else None, words)
        return
    same = _picture_hash(picture) == made.sha256
    words = "have the hash that the record says" if same else "differ from those that the record says"
    yield Check("pixels", same, words)


def _picture_hash(picture: Picture) -> str:
    return PixelHash.of(picture.shape, picture.dtype, picture.bands()).hexdigest


def _software(record: Record) -> Check:
    here = version("superfine")
    if record.software != "superfine":
        return Check("software", False, f"the record is of {record.software!r}, and superfine writes its own name")
    if record.version == here:
        return Check("software", True, f"superfine {here}, as here")
    return Check("software", None, f"made by superfine {record.version}; this is {here}, whose pixels may differ")


def _asked(case: _Case, model: str | None, memory_gb: float | None) -> tuple[Job | None, Check]:
    """What to ask for to get the same again, but for its size; and whether the networks are those of the record.

    Nothing of the record is taken for a path: anyone may have written it. Raises ModelError, UsageError for `model`.
    """
    options = case.record.options
    if model is not None:
        find_model(model)
    elif options.model not in (*families(), *(card.name for card in shipped_cards()), *CLASSICAL):
        words = f"{one_line(options.model)} isn't shipped with superfine; give its file with --model"
        return None, Check("networks", None, words)
    if options.kernel is not None and case.kernel is None:
        words = "the file was made consistent with an operator of its own; give its kernel with --kernel"
        return None, Check("networks", None, words)
    if case.kernel is not None and kernel_hash(read_kernel(case.kernel)[0]) != options.kernel:
        return None, Check("networks", False, f"{case.kernel}: another kernel than that of the record")
    try:
        job = Job(
            model=options.model if model is None else model,
            sharpness=options.sharpness,
            engine=_engine(options.engine),
            precision=_precision(case.record),
            memory_gb=memory_gb,
            quality=options.quality,
            white=options.white,
            max_megapixels=case.max_megapixels,
            consistent=options.consistent if options.kernel is None else case.kernel,
            ensemble=options.ensemble,
            **_for_clips(options.clip),
        )
        workshop = Workshop(job)
    except (UsageError, ValueError, ZeroDivisionError) as error:
        return None, Check("networks", False, f"superfine refuses what the record says was asked for: {error}")
    same = _networks(case.record, workshop, given=model is not None)
    return (job if same.holds else None), same


def _engine(name: str) -> str:
    """The engine of the record where it's ready here, else the one that always is."""
    return name if name in ENGINES and engine_state(name) == "ready" else "openvino"


def _precision(record: Record) -> Precision:
    """The precision of the record, as far as there is such a one here."""
    if not record.networks:
        return "auto"
    if all(network.precision == "fp32" for network in record.networks):
        return "fp32"
    return "bf16" if record.options.precision == "bf16" and "BF16" in cpu_features()["native precisions"] else "auto"


def _for_clips(options: ClipOptions | None) -> dict[str, Any]:
    if options is None:
        return {}
    return {
        "codec": options.codec if options.codec in CODECS else "auto",
        "crf": options.crf,
        "start": None if options.start is None else Fraction(options.start),
        "end": None if options.end is None else Fraction(options.end),
        "rate": None if options.rate is None else Fraction(options.rate),
        "damaged": options.damaged,
        "interlaced": options.interlaced,
    }


def _networks(record: Record, workshop: Workshop, *, given: bool) -> Check:
    known = {model.card.name: model.sha256 for model in workshop.models.values()}
    names = ", ".join(network.name for network in record.networks)
    others = [network.name for network in record.networks if known.get(network.name) != network.sha256]
    if not record.networks:
        classical = record.options.model in CLASSICAL
        words = "none, by a classical method" if classical else f"none are named, and {record.options.model} is one"
        return Check("networks", classical, words)
    if not others:
        return Check("networks", True, f"{names}: the files have the hashes that the record says")
    absent = (
        "isn't the network that was given" if given else f"no network of that name is here for {record.options.model}"
    )
    words = "; ".join(
        f"{name}: the file here has another hash than the record says" if name in known else f"{name}: {absent}"
        for name in others
    )
    if given or record.version == version("superfine"):
        return Check("networks", False, words)
    return Check(
        "networks", None, f"{words}; superfine {record.version} may have shipped another: give its file with --model"
    )


# ---- with the source


def _of_source(case: _Case, source: Path, job: Job | None, progress: Progress) -> Iterator[Check]:
    untried = Check("recomputed", None, "not tried without the networks and options of the record")
    if case.moves and job is None:
        yield untried
        return
    try:
        if case.moves and job is not None:
            there = clip_hash(case.clip(source, job.rate), job).hexdigest
        else:
            there = _picture_hash(case.source(source))
    except (UsageError, SourceError) as error:
        if not case.decides_reading:
            raise
        yield Check("source", False, f"can't be read as the record says: {error}")
        return
    if there != case.record.input.sha256:
        yield Check("source", False, f"{source}: its pixels differ from those that the record says")
        return
    yield Check("source", True, f"{source}: its pixels have the hash that the record says")
    if not case.moves and case.record.consistency is not None:
        yield _consistency(case, source, case.record.consistency)
    if job is None:
        yield untried
    else:
        yield from _recomputed(case, source, job, progress)


def _level(found: Consistency | Tally) -> float:
    """In dB; infinite where nothing differs."""
    return math.inf if found.psnr is None else found.psnr


def _consistency(case: _Case, source: Path, said: Consistency) -> Check:
    """The output as it is, reduced, against its source."""
    small = case.source(source, upright=case.record.options.turned)
    large = case.made(case.output)
    if small.shape[2] != large.shape[2]:
        return Check("consistency", None, "can't be measured: the file has other channels than its source")
    if said.operator == "kernel" and case.kernel is None:
        return Check("consistency", None, "was measured with an operator of its own; give its kernel with --kernel")
    try:
        now = _reduced(case, small, large, said.operator)
    except (ShapeError, UsageError) as error:
        return Check("consistency", False, f"can't be measured as the record says: {error}")
    then = _level(said)
    words = f"reduced by {said.operator}, against its source: {_figure(now)}"
    if case.rounding is None:
        return Check("consistency", None, f"{words}; before it was encoded {_figure(then)}, says the record")
    if now == then or abs(now - then) <= _FIGURE:
        return Check("consistency", True, f"{words}, as the record says")
    if case.rounding:
        words += "; it was rounded once in float32 since"
    return Check("consistency", _within(now, then, case.rounding), f"{words}, and the record says {_figure(then)}")


def _within(first: float, second: float, apart: float) -> bool:
    """Whether two PSNRs are of root mean squares that lie at most so far apart, of white."""
    if apart == 0 or min(first, second) < 0:
        return False
    return abs(float(10 ** (-first / 20)) - float(10 ** (-second / 20))) <= apart


def _reduced(case: _Case, small: Picture, large: Picture, operator: str) -> float:
    """PSNR in dB. Raises ShapeError and UsageError where the operator isn't for these sizes."""
    if any(side < least for side, least in zip(large.size, small.size, strict=True)):
        raise ShapeError("the file is smaller than its source")
    tally = Tally()
    by = _operator(case, small.size, large.size, operator)
    deque(measured_bands(large.bands(), small.bands(), small.shape, large.size, tally, by), maxlen=0)
    return _level(tally)


def _operator(case: _Case, small: Size, large: Size, name: str) -> Reduction | None:
    """Raises UsageError where there is none of this name for these sizes."""
    scale = large[0] // small[0]
    if large != (scale * small[0], scale * small[1]):
        if name != "bicubic":
            raise UsageError(f"{one_line(name)} is for whole scales")
        return None
    if name == "kernel" and case.kernel is not None:
        return kernel_reduction(read_kernel(case.kernel)[0], scale)
    return reduction(name, scale)


def _figure(psnr: float) -> str:
    return "no difference" if math.isinf(psnr) else f"{psnr:.2f} dB"


def _recomputed(case: _Case, source: Path, job: Job, progress: Progress) -> Iterator[Check]:
    """Make the file again, where temporary files lie, and compare what is decoded from both."""
    record = case.record
    with tempfile.TemporaryDirectory(prefix="superfine-") as folder:
        again = Path(folder) / f"again{_suffix(case)}"
        try:
            report = upscale_path(source, again, job=_sized(case, source, job), progress=progress)
        except (UsageError, ModelError) as error:
            yield Check("recomputed", None, f"can't be made again: {error}")
            return
        result = report.results[0]
        if result.status != "done":
            yield Check("recomputed", None, f"can't be made again: {result.message}")
            return
        try:
            found = _differing(case.pixels(case.output), case.pixels(again))
        except ShapeError as error:
            yield Check("recomputed", False, str(error))
            return
        now = _record_of(again)
    here = machine(result.engine if record.networks else "")
    alike = here == record.machine and record.version == version("superfine") and result.halo_kind in ("exact", "")
    yield _judged(found, alike=alike, rounding=case.rounding)
    if not found.unequal and now is not None:
        if others := _said_otherwise(now, record, alike=alike):
            yield Check("record", False, f"made again, it says otherwise: {', '.join(others)}")
        if not case.moves:  # a clip's figure is of the frames that one run made
            yield from _same_figure(now.consistency, record.consistency, alike=alike)


def _said_otherwise(now: Record, said: Record, *, alike: bool) -> list[str]:
    """What two records of the same pixels say differently, of all that isn't checked by itself.

    Not the model's name, since a file may be called as one likes, nor the precision that was asked for: each
    network's own counts. Of the source's records nothing is known once it was saved by another program.
    """
    told = []
    for one in (now, said):
        facts = {
            f"{part}.{key}": value
            for part in ("options", "input", "output")
            for key, value in asdict(one)[part].items()
        }
        told.append(facts | {"networks": one.networks if alike else len(one.networks)})
    passed = {"options.model", "options.precision"} | (set() if alike else {"options.engine"})
    return [key for key in told[0] if key not in passed and told[0][key] != told[1][key]]


def _same_figure(now: Consistency | None, said: Consistency | None, *, alike: bool) -> Iterator[Check]:
    """Of the same pixels: what the record says otherwise than the one that was made just now."""
    if now is None or said is None:
        same = now is said
    else:
        figures = [_level(one) for one in (now, said)]
        near = figures[0] == figures[1] or abs(figures[0] - figures[1]) <= _FIGURE
        same = near and now.operator == said.operator
        if alike:  # elsewhere, which sample is off by just half a level may hang on a last bit
            same = same and (now.misses, now.samples) == (said.misses, said.samples)
            same = same and abs(now.worst - said.worst) <= _FIGURE
    if not same:
        yield Check("consistency", False, f"made again: {_told(now)}; and the record says {_told(said)}")


def _told(consistency: Consistency | None) -> str:
    if consistency is None:
        return "no figure"
    psnr = _level(consistency)
    missed = f"{consistency.misses:,} of {consistency.samples:,} samples missed, {consistency.worst:.4g} levels at most"
    return f"{_figure(psnr)} by {one_line(consistency.operator)}, {missed}"


def _record_of(path: Path) -> Record | None:
    found = find_record(path)
    return None if found is None else read_text(found.text)


def _suffix(case: _Case) -> str:
    if case.moves:
        return "" if case.output.is_dir() else case.output.suffix
    return case.made(case.output).format.suffixes[0]


def _sized(case: _Case, source: Path, job: Job) -> Job:
    """The same job, for the size that the record says. Raises UsageError for one that can't be."""
    rows, cols = case.record.output.rows, case.record.output.cols
    if case.moves:
        clip = case.clip(source, job.rate)
        size, sideways = clip.size, abs(clip.rotation) % 180 == 90
        job = replace(job, as_clip=clip.kind == "frames")
    else:
        picture = case.source(source, upright=case.record.options.turned)
        size, sideways = picture.size, picture.sideways
    scale = rows / size[0]
    if 1 <= scale <= MAX_SCALE and replace(job, scale=scale).target(size) == (rows, cols):
        return replace(job, scale=scale)
    return replace(job, size=(cols, rows) if sideways else (rows, cols))


@dataclass
class _Difference:
    """Of two pictures, samples of both in 0..1."""

    samples: int = 0
    unequal: int = 0
    largest: float = 0.0
    block: float = 0.0
    """The largest root mean square of a block."""
    squares: float = 0.0

    @property
    def whole(self) -> float:
        """Root mean square of all samples."""
        return math.sqrt(self.squares / self.samples)


def _differing(first: Iterable[Array], second: Iterable[Array]) -> _Difference:
    """Raises ShapeError where they have other sizes, channels or depths."""
    found = _Difference()
    for one, other in zip_longest(first, second):
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            raise ShapeError("made again, it has another size, other channels or another depth")
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64)) / KINDS[one.dtype]
        found.samples += apart.size
        found.unequal += int(np.count_nonzero(apart))
        found.largest = max(found.largest, float(apart.max()))
        squares = np.square(apart)
        found.block = max(found.block, math.sqrt(float(_block_means(squares).max())))
        found.squares += float(squares.sum())
    return found


def _block_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over blocks of (rows, cols, channels); those at the lower and right border are larger."""
    means: npt.NDArray[np.float64] = values.mean(axis=2)
    for axis in (0, 1):
        size = means.shape[axis]
        starts = range(0, max(size - _BLOCK + 1, 1), _BLOCK)
        counts = np.diff([*starts, size])
        means = np.add.reduceat(means, starts, axis) / np.expand_dims(counts, 1 - axis)
    return means


def _judged(found: _Difference, *, alike: bool, rounding: float | None) -> Check:
    """alike: on the same kind of machine, by tiles that promise the last bit. rounding: as `_Case` has it."""
    if not found.unequal:
        again = " and encoded again" if rounding is None else ""
        return Check("recomputed", True, f"made again{again}: all {found.samples:,} samples are equal to the last bit")
    if rounding and found.largest <= rounding:
        words = (
            f"made again: all {found.samples:,} samples are equal to a millionth of white, which rounding may change"
        )
        return Check("recomputed", True, words)
    levels = f"{found.largest / _LEVEL:.3g}"
    apart = (
        f"made again, {found.unequal:,} of {found.samples:,} samples {'differs' if found.unequal == 1 else 'differ'},"
        f" by {levels} {'level' if levels == '1' else 'levels'}"
    )
    if rounding is None:
        apart += f" at most, by {found.block / _LEVEL:.1f} in the worst block of {_BLOCK} x {_BLOCK} pixels"
        near = found.block <= _BLOCK_LEVELS * _LEVEL
    else:
        near = found.largest <= _LEVEL * _SLACK
    if near and not alike:
        return Check("recomputed", True, f"{apart}: what another kind of machine, version or tiling may make of it")
    if near:
        return Check("recomputed", False, f"{apart}, though it was made on the same kind of machine: none should")
    if rounding is None and not alike and found.whole <= _BLOCK_LEVELS * _LEVEL:
        return Check("recomputed", None, f"{apart}: {_UNTOLD}; a machine of the record's kind can tell")
    return Check("recomputed", False, f"{apart}: it isn't what superfine {version('superfine')} makes of this source")
