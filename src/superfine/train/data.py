"""Folders of pictures -> batches of patches. LR is made here: by MATLAB's bicubic to the bit, or worse on purpose.

Pictures are split as wholes, decoded once into one flat file, and mapped from there. A batch is
a pure function of the seed and the step, so that a resumed run sees exactly what an unbroken one
would have seen. On a GPU all but the degradation happens there. In self-supervision the
pictures are small ones, and each has its kernel.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt
import torch

from superfine.atomic import written_whole
from superfine.blind.estimate import estimate_kernel
from superfine.classical.degrade import Degradation, degrade
from superfine.classical.kernels import KernelReduction, Kernels, resampler_kernel
from superfine.classical.resample import KERNELS, matlab_resize, taps
from superfine.color import FULL_LUMA, to_kind, to_unit
from superfine.errors import MissingExtraError, SourceError, TrainingError
from superfine.evaluate.pairs import Pair, decode
from superfine.footage import open_footage, read_footage
from superfine.kernel_file import read_kernel
from superfine.layouts import Part, Source, pictures_in
from superfine.scenes import windows
from superfine.train.config import Stage, TrainConfig
from superfine.train.drawn import draw_page
from superfine.train.losses import reach
from superfine.train.motion import Motion, blurred, coded, recorded, window
from superfine.train.nets import NETS
from superfine.train.nets.null_space import reduced

__all__ = [
    "Batch",
    "Batches",
    "Data",
    "Pictures",
    "SmallBatch",
    "Split",
    "batch_at",
    "open_data",
    "split",
    "whole_pairs",
]

Bytes = npt.NDArray[np.uint8]
Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Say = Callable[[str], None]
Maker = Callable[[Bytes, np.random.Generator], Bytes]

# How far around a patch its small pixels are made of, in small pixels: MATLAB's bicubic, and any degradation.
_BICUBIC_MARGIN: Final = 2
_KERNEL_MARGIN: Final = 24
_LARGEST_MARGIN: Final = 128
# The least side of a small picture that is judged: SSIM's window has room in it.
_LEAST_SIDE: Final = 16
_PAGE_SIDE: Final = 512
# Of a picture whose kernel is estimated, the middle so far is looked at.
_LOOKED: Final = 640
# Stands for where the small picture begins, of a frame of a clip.
_IN_WINDOW: Final = -2
_COLOURS: Final = 3
# Those fields of a config that decide which picture is on which side.
_SPLITS: Final = ("folders", "hold_out", "validation", "test")


class Split(NamedTuple):
    """Which pictures are learned from, which judge the run, and which the result; no picture is on two sides."""

    train: tuple[Source, ...]
    validation: tuple[Source, ...]
    test: tuple[Source, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    """Files that aren't taken, each with the reason."""


class Batch(NamedTuple):
    """Patches of one step: (N, C, patch, patch) and (N, C, scale*patch, scale*patch), float32 0..1."""

    small: torch.Tensor
    large: torch.Tensor


class SmallBatch(NamedTuple):
    """As `Batch`, of a run that learns by reduction: there is no large one, and the small one stands in its place."""

    small: torch.Tensor
    large: torch.Tensor
    kernels: torch.Tensor
    """(N, n, n) float32: what makes a sample small, turned as the sample is."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded pictures in one flat tensor, which may lie on disk or on a GPU."""

    flat: torch.Tensor
    """All samples of all pictures, uint8 RGB, one after another."""
    names: tuple[str, ...]
    table: Whole
    """(pictures, 4): where the large one begins, in pixels; rows and columns of the small one; where that begins, -1
    where it is made of the large one, or -2 where besides that is a clip's, with its window around it in the file."""
    scale: int
    often: Whole
    """(pictures,): how many times each counts when patches are drawn."""
    kernels: Floats | None = None
    """(pictures, n, n) float64: what makes each small, in self-supervision; n is odd or even as the scale is."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def megapixels(self) -> float:
        """Of the large pictures."""
        return float((self.table[:, 1] * self.table[:, 2]).sum()) * self.scale**2 / 1e6

    @cached_property
    def ends(self) -> Whole:
        """Where each picture's share of all small pixels ends, each pixel counted `often`."""
        return np.cumsum(self.table[:, 1] * self.table[:, 2] * self.often)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return replace(self, flat=self.flat.to(device))

    def pixels(self, begin: int, rows: int, cols: int) -> Bytes:
        """A whole picture, (rows, cols, 3)."""
        flat: Bytes = self.flat[3 * begin : 3 * (begin + rows * cols)].cpu().numpy()
        return flat.reshape(rows, cols, 3)


class Data(NamedTuple):
    """The pictures of a run; validation and test at full size only, and maybe none."""

    train: Pictures
    validation: Pictures
    test: Pictures


# ---- which picture is on which side


def split(config: TrainConfig, root: Path) -> Split:
    """Put whole pictures on three sides.

    What a data set keeps for validation and test stays there; then come the last by name that
    `hold_out` names; of the rest shares are drawn by the seed. Files of the same bytes stay on one
    side, the test's before validation's before training's. Raises TrainingError for a missing folder.
    """
    given: dict[str, Part | None] = {}
    sources: dict[str, Source] = {}
    skipped: list[tuple[str, str]] = []
    for folder in config.data.folders:
        if not os.path.isdir(root / folder):
            raise TrainingError(
                f"{root / folder}: there is no such folder of pictures; --data names the folder that holds it"
            )
        found = pictures_in(root / folder, config.scale)
        skipped += [(os.path.relpath(path, root), reason) for path, reason in found.skipped]
        own = []
        for source in found.sources:
            if (real := os.path.realpath(source.large)) not in sources:  # folders may lie in one another
                sources[real] = replace(source, name=str(PurePosixPath(folder) / source.name))
                given[real] = source.part if source.part != "train" else None
                own.append(real)
        free = [real for real in own if given[real] is None]
        given |= dict.fromkeys(free[max(0, len(free) - config.data.hold_out.get(folder, 0)) :], "validation")
    groups = _same_bytes(list(sources))
    parts = {
        number: next((part for part in ("test", "validation") if part in {given[real] for real in group}), None)
        for number, group in enumerate(groups)
    }
    free_groups = np.random.default_rng((config.seed, 0)).permutation([n for n, part in parts.items() if part is None])
    judges = _count(config.data.validation, len(free_groups))
    tests = _count(config.data.test, len(free_groups))
    parts |= dict.fromkeys(free_groups[:judges].tolist(), "validation")
    parts |= dict.fromkeys(free_groups[judges : judges + tests].tolist(), "test")
    sides: dict[str, list[Source]] = {part: [] for part in get_args(Part)}
    for number, group in enumerate(groups):
        sides[parts[number] or "train"] += [sources[real] for real in group]
    train, validation, test = (tuple(sorted(side, key=lambda source: source.name)) for side in sides.values())
    return Split(train, validation, test, tuple(skipped))


def _count(share: float, of: int) -> int:
    return max(1, round(share * of)) if share and of else 0


def _same_bytes(paths: list[str]) -> list[list[str]]:
    """Files in groups of the same content; only those of one length are read."""
    by_length: dict[int, list[str]] = {}
    for path in paths:
        by_length.setdefault(_length(Path(path)), []).append(path)
    groups: dict[object, list[str]] = {}
    for length, group in by_length.items():
        for path in group:
            groups.setdefault(_digest(Path(path)) if len(group) > 1 and length > 0 else path, []).append(path)
    return list(groups.values())


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dead link; decoding says so
        return -1


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return str(path)


def _stored_split(path: Path, config: TrainConfig, root: Path) -> Split | None:
    """The split with which a run began, or None where it begins now."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        sides = {part: [_from_row(row, root) for row in stored[part]] for part in get_args(Part)}
        made_of, skipped = dict(stored["made_of"]), tuple((str(name), str(why)) for name, why in stored["skipped"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: can't be read as a split: {error}; begin anew in another run folder") from error
    now = _made_of(config)
    if moved := [key for key in now if made_of.get(key) != now[key]]:
        raise TrainingError(
            f"{path}: the run began with another {', '.join(moved)}; undo that, or begin anew in another run folder"
        )
    for source, lengths in (pair for side in sides.values() for pair in side):
        for file, length in zip((source.large, source.small), lengths, strict=True):
            if file is not None and _length(file) != length:
                change = "has changed since the run began" if file.exists() else "is gone since the run began"
                raise TrainingError(f"{file}: {change}; put it back, or begin anew in another run folder")
    train, validation, test = (tuple(source for source, _ in side) for side in sides.values())
    return Split(train, validation, test, skipped)


def _store_split(path: Path, sides: Split, config: TrainConfig, root: Path) -> None:
    content: dict[str, Any] = {"made_of": _made_of(config)}
    content |= {part: [_to_row(source, root) for source in getattr(sides, part)] for part in get_args(Part)}
    with written_whole(path) as part:
        part.write_text(json.dumps(content | {"skipped": sides.skipped}, indent=1), encoding="utf-8")


def _made_of(config: TrainConfig) -> dict[str, Any]:
    chosen = {name: getattr(config.data, name) for name in _SPLITS} | {"seed": config.seed, "scale": config.scale}
    return dict(json.loads(json.dumps(chosen)))


def _to_row(source: Source, root: Path) -> dict[str, Any]:
    files = [None if file is None else os.path.relpath(file, root) for file in (source.large, source.small)]
    lengths = [None if file is None else _length(file) for file in (source.large, source.small)]
    return {"name": source.name, "files": files, "bytes": lengths, "same_size": source.same_size}


def _from_row(row: Mapping[str, Any], root: Path) -> tuple[Source, list[int | None]]:
    large, small = row["files"]
    small = None if small is None else Path(os.path.abspath(root / small))
    large = Path(os.path.abspath(root / large))
    return Source(row["name"], large, small, same_size=bool(row["same_size"])), list(row["bytes"])


# ---- decoded once


def open_data(config: TrainConfig, root: Path, run: Path, say: Say = lambda line: None) -> Data:
    """The pictures of a run, decoded where `run` doesn't hold them yet.

    root: the folder that holds `config.data.folders`. Writes `split.json`, `pictures.u8` and
    `pictures.json` into `run`; where several processes share a run the first does it alone.
    Raises TrainingError where nothing is left to train on, or what a run began with has changed.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{run}: the run's folder can't be made: {error.strerror}; --run names another") from error
    stored = _stored_split(run / "split.json", config, root)
    sides = stored or split(config, root)
    key = _key(config, sides)
    index = _read_index(run, key) if stored else None
    if index is None:
        say(f"decoding {sum(map(len, sides[:3]))} pictures, once")
        index = _write_pictures(config, sides, root, run, key)
    flat = torch.from_file(str(run / "pictures.u8"), shared=False, size=index["bytes"], dtype=torch.uint8)
    alone = _read_kernels(run, index)
    data = Data(*(_pictures(index[part], flat, config, alone.get(part)) for part in get_args(Part)))
    lost = [f"{name} ({reason})" for name, reason in index["skipped"]]
    say(
        f"{len(data.train)} pictures, {data.train.megapixels:.0f} Mpx for training,"
        f" {len(data.validation)} for validation"
        + (f", {len(data.test)} for the test" if len(data.test) else "")
        + (f"; skipped {len(lost)}: {', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}" if lost else "")
    )
    if not len(data.train):
        raise TrainingError(
            f"no picture of {_least(config) * config.scale} px or more to train on in {root}: "
            f"{', '.join(config.data.folders)}{'; skipped ' if lost else ''}{', '.join(lost[:5])}"
        )
    if not stored:  # now that there is something to go on with
        _store_split(run / "split.json", sides, config, root)
    return data


def _scale_alone(config: TrainConfig) -> int:
    """By how much pictures without large partners are made smaller: not at all where a run learns by reduction."""
    return 1 if config.learns_by_reduction else config.scale


def _kernel_of(small: Bytes, config: TrainConfig) -> Floats:
    """What made a picture small, or is taken for it: (n, n), n odd or even as the scale is."""
    named, scale = "bicubic" if config.self_supervision is None else config.self_supervision.kernel, config.scale
    if named == "bicubic":
        return resampler_kernel(4 * scale - scale % 2, scale, "bicubic")
    if named == "auto":
        top, left = (max(0, side - _LOOKED) // 2 for side in small.shape[:2])
        seen = small[top : top + _LOOKED, left : left + _LOOKED]
        return _centred(estimate_kernel([seen @ FULL_LUMA], scale).kernel, scale)
    return _centred(read_kernel(Path(named))[0], scale)


def _centred(kernel: Floats, scale: int) -> Floats:
    """Zeros around, so that it is square and the centre rule's point lies in its middle: it may be flipped then."""
    side = max(kernel.shape)
    side += (side - scale) % 2
    top, left = (side // 2 - taps // 2 for taps in kernel.shape)
    return np.pad(kernel, [(at, side - taps - at) for at, taps in zip((top, left), kernel.shape, strict=True)])


def _pictures(
    rows: list[list[Any]], flat: torch.Tensor, config: TrainConfig, kernels: Floats | None = None
) -> Pictures:
    table = np.array([row[1:] for row in rows], np.int64).reshape(-1, 4)
    names = tuple(row[0] for row in rows)
    often = np.array([config.data.often.get(_folder_of(name, config.data.often), 1) for name in names], np.int64)
    return Pictures(flat, names, table, config.scale if kernels is None else _scale_alone(config), often, kernels)


def _folder_of(name: str, folders: Iterable[str]) -> str:
    """The innermost of the folders that a picture's name lies in; empty where none does."""
    above = [folder for folder in folders if PurePosixPath(name).is_relative_to(folder)]
    return max(above, key=len, default="")


def _least(config: TrainConfig) -> int:
    """The shortest side of a small picture that patches are cut from."""
    return max(stage.patch for stage in config.stages)


def _least_judged(config: TrainConfig) -> int:
    """The same for what judges: of a picture that is made to move, its middle does."""
    motion = config.data.motion
    return _LEAST_SIDE if motion is None else _LEAST_SIDE + 2 * _around(motion)


def _around(motion: Motion) -> int:
    """Small pixels around a patch that are needed to let it move."""
    return motion.reach + _BICUBIC_MARGIN


def _key(config: TrainConfig, sides: Split) -> str:
    """What the decoded file is made of."""
    names = [[[source.name, source.small is not None] for source in side] for side in sides[:3]]
    parts = [names, config.data.sizes, config.data.drawn, config.scale, config.seed, _least(config)]
    if config.data.clips:
        parts.append([config.data.clips, config.data.clip_every, NETS[config.net].frames])
    if config.self_supervision is not None:
        kernel = config.self_supervision.kernel
        parts.append([_digest(Path(kernel)) if Path(kernel).suffix else kernel, config.learns_by_reduction])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_index(run: Path, key: str) -> dict[str, Any] | None:
    try:
        index = json.loads((run / "pictures.json").read_text(encoding="utf-8"))
        fits = index["key"] == key and index["bytes"] == (run / "pictures.u8").stat().st_size
        fits = fits and (not index.get("kernels") or (run / "kernels.npz").exists())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(index) if fits else None


def _read_kernels(run: Path, index: Mapping[str, Any]) -> dict[str, Floats]:
    """The kernels of those sides whose pictures have no large partners."""
    if not index.get("kernels"):
        return {}
    try:
        with np.load(run / "kernels.npz", allow_pickle=False) as held:
            return {part: held[part] for part in index["kernels"]}
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{run / 'kernels.npz'}: can't be read: {error}; remove it and go on by --resume"
        ) from error


def _write_pictures(config: TrainConfig, sides: Split, root: Path, run: Path, key: str) -> dict[str, Any]:
    """Decode all into one file. Its index is written last, so that it never speaks of another file."""
    index: dict[str, Any] = {"key": key, "skipped": list(sides.skipped)}
    alone: dict[str, Floats] = {}
    # A patch at a picture's border is read with what lies beside it in the file; so also at the file's ends.
    guard = bytes(3 * _LARGEST_MARGIN * config.scale)
    try:
        (run / "pictures.json").unlink(missing_ok=True)
        with written_whole(run / "pictures.u8") as part, part.open("wb") as file:
            file.write(guard)
            for name, side in zip(get_args(Part), sides[:3], strict=True):
                index[name] = []
                judged = name != "train"
                if config.self_supervision is not None and not (judged and any(source.small for source in side)):
                    alone[name] = _write_alone(file, side, config, index[name], index["skipped"], judged=judged)
                    continue
                for source in side:
                    if config.self_supervision is not None and source.small is None:
                        index["skipped"].append((source.name, "no large partner to judge by"))
                        continue
                    sizes = _sizes(source, config) if name == "train" else (1.0,)
                    _write_source(file, source, sizes, config, index[name], index["skipped"], judged=judged)
            for clip in config.data.clips:
                _write_windows(file, root / clip, config, index["train"])
            for page in range(config.data.drawn):
                side_length = max(_PAGE_SIDE, _least(config) * config.scale)
                pixels = draw_page(side_length, np.random.default_rng((config.seed, 0, page)))
                _write_pair(file, f"drawn/{page}", pixels, None, config.scale, index["train"])
            file.write(guard)
            index["bytes"] = file.tell()
        index["kernels"] = sorted(alone)
        with written_whole(run / "kernels.npz") as part, part.open("wb") as file:
            np.savez(file, **alone)  # type: ignore[arg-type]
        with written_whole(run / "pictures.json") as part:
            part.write_text(json.dumps(index), encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{run}: the decoded pictures can't be written: {error.strerror or error};"
            " make room, or choose another run folder"
        ) from error
    return index


def _write_alone(
    file: BinaryIO,
    side: Sequence[Source],
    config: TrainConfig,
    rows: list[list[Any]],
    skipped: list[tuple[str, str]],
    *,
    judged: bool,
) -> Floats:
    """Write small pictures without their large partners; returns the kernel of each, (pictures, n, n)."""
    scale = _scale_alone(config)
    least = _least_judged(config) if judged else _least(config)
    kernels: list[Floats] = []
    for source in side:
        try:
            small = decode(source.large if source.small is None else source.small)
        except (SourceError, MissingExtraError) as error:
            skipped.append((source.name, str(error).removeprefix(f"{source.large}: ")))
            continue
        if source.same_size:
            low, wide = (length // config.scale for length in small.shape[:2])
            small = matlab_resize(np.ascontiguousarray(small[: low * config.scale, : wide * config.scale]), (low, wide))
        if min(small.shape[:2]) // scale < least:
            skipped.append((source.name, f"smaller than {'' if judged else 'a patch of '}{least * scale} px"))
            continue
        kernels.append(_kernel_of(small, config))
        _write_pair(file, source.name, small, None, scale, rows)
    taps = max((len(kernel) for kernel in kernels), default=config.scale)
    alike: Floats = np.zeros((len(kernels), taps, taps))
    for place, kernel in enumerate(kernels):
        alike[place] = np.pad(kernel, (taps - len(kernel)) // 2)
    return alike


def _sizes(source: Source, config: TrainConfig) -> tuple[float, ...]:
    """The sizes that the nearest folder gives; a pair is used as it was taken."""
    sizes = config.data.sizes.get(_folder_of(source.name, config.data.sizes), (1.0,))
    return sizes if source.small is None else (1.0,)


def _write_source(
    file: BinaryIO,
    source: Source,
    sizes: tuple[float, ...],
    config: TrainConfig,
    rows: list[list[Any]],
    skipped: list[tuple[str, str]],
    *,
    judged: bool,
) -> None:
    least, scale = _least_judged(config) if judged else _least(config), config.scale
    try:
        whole = decode(source.large)
        small = None if source.small is None else decode(source.small)
    except (SourceError, MissingExtraError) as error:
        skipped.append((source.name, str(error).removeprefix(f"{source.large}: ")))
        return
    for size in sizes:
        name = source.name if size == 1 else f"{source.name}@{size:g}"
        shape = int(whole.shape[0] * size), int(whole.shape[1] * size)
        if min(shape) // scale < least:
            skipped.append((name, f"smaller than {'' if judged else 'a patch of '}{least * scale} px"))
            continue
        large = whole if size == 1 else matlab_resize(whole, shape)
        rows_small, cols_small = shape[0] // scale, shape[1] // scale
        if small is not None and source.same_size:
            same = np.ascontiguousarray(small[: rows_small * scale, : cols_small * scale])
            small = matlab_resize(same, (rows_small, cols_small))
        _write_pair(file, name, large, small, scale, rows)


def _write_windows(file: BinaryIO, path: Path, config: TrainConfig, rows: list[list[Any]]) -> None:
    """Write windows of a clip as a network sees them in use, each whole. Raises SourceError where it can't be read."""
    frames, scale = NETS[config.net].frames, config.scale
    clip = open_footage(path)
    for seen in windows(read_footage(clip, damaged="repeat"), frames):
        if seen.frame.number % config.data.clip_every or seen.repeats:
            continue
        stack = to_kind(to_unit(seen.stack()[..., :3]), np.dtype(np.uint8))
        low, wide = (side // scale for side in stack.shape[1:3])
        if min(low, wide) < _least(config) or stack.shape[3] != _COLOURS:
            raise TrainingError(f"{path}: its frames are smaller than a patch, or grey; leave it out of data.clips")
        begin = file.tell() // 3 + frames // 2 * low * wide * scale**2
        file.write(np.ascontiguousarray(stack[:, : low * scale, : wide * scale]).data)
        rows.append([f"{path.name}/{seen.frame.number}", begin, low, wide, _IN_WINDOW])


def _write_pair(
    file: BinaryIO, name: str, large: Bytes, small: Bytes | None, scale: int, rows: list[list[Any]]
) -> None:
    low, wide = large.shape[0] // scale, large.shape[1] // scale
    begin = file.tell() // 3
    file.write(np.ascontiguousarray(large[: low * scale, : wide * scale]).data)
    second = -1 if small is None else file.tell() // 3
    if small is not None:
        file.write(np.ascontiguousarray(small[:low, :wide]).data)
    rows.append([name, begin, low, wide, second])


# ---- one step's patches


def batch_at(pictures: Pictures, config: TrainConfig, step: int, *, part: slice = slice(None)) -> Batch | SmallBatch:
    """The patches of one step, as a pure function of the seed and the step.

    Pictures are drawn by their area, then a place, then one of the eight ways to turn and flip.
    part: the samples of this process; what the others get doesn't depend on it. Luma networks get
    one channel, full-range BT.601, the others RGB.
    """
    stage, scale = config.stage_at(step), pictures.scale
    if config.data.motion is not None:
        moving = _moving_batch(pictures, config, config.data.motion, step)
        return Batch(moving.small[part], moving.large[part])
    picture, top, left, *ways = _drawn_places(pictures, config.seed, step, stage)[:, part]
    begin, rows, cols, second = pictures.table[picture].T
    margin = _margin(config.data.degrade, scale) if config.data.kernels is None else _KERNEL_MARGIN
    if pictures.kernels is not None:
        margin = reach(pictures.kernels.shape[1], scale) if scale > 1 else 0
    large = _cut(
        pictures.flat,
        (begin, rows * scale, cols * scale),
        (top * scale, left * scale),
        stage.patch * scale,
        margin * scale,
    )
    makers = _makers(pictures, config, picture)
    if makers is None:
        small = _bicubic(large, scale)
    else:
        numbers = range(stage.batch)[part]
        draws = [np.random.default_rng((config.seed, step, number)) for number in numbers]
        made = [make(sample, draw) for make, sample, draw in zip(makers, large.cpu().numpy(), draws, strict=True)]
        inner = slice(margin, margin + stage.patch)
        small = torch.from_numpy(np.stack(made)[:, inner, inner]).to(large.device)
    own = np.flatnonzero(second >= 0)
    if len(own):
        place = (second[own], rows[own], cols[own])
        small[torch.from_numpy(own).to(small.device)] = _cut(
            pictures.flat, place, (top[own], left[own]), stage.patch, 0
        )
    inner = slice(margin * scale, (margin + stage.patch) * scale)
    luma = NETS[config.net].colour == "luma"
    small, large = (_finished(pixels, ways, luma=luma) for pixels in (small, large[:, inner, inner]))
    if pictures.kernels is None or scale > 1:
        return Batch(small, large)
    own_kernels = torch.from_numpy(pictures.kernels[picture].astype(np.float32))
    turned = [_turned(kernel, way) for kernel, *way in zip(own_kernels, *ways, strict=True)]
    return SmallBatch(small, small, torch.stack(turned).to(small.device))


def _moving_batch(pictures: Pictures, config: TrainConfig, motion: Motion, step: int) -> Batch:
    """Windows of one step, (N, frames, patch, patch), and the middle frames; all samples, since they share a clip."""
    stage, scale = config.stage_at(step), pictures.scale
    picture, top, left, *ways = _drawn_places(pictures, config.seed, step, stage)
    begin, rows, cols, second = pictures.table[picture].T
    margin = _around(motion)
    corner, side = (top * scale, left * scale), (stage.patch * scale, margin * scale)
    where = (begin, rows * scale, cols * scale)
    luma = _luma(_cut(pictures.flat, where, corner, *side))
    draw = np.random.default_rng((config.seed, step, 0))
    frames = NETS[config.net].frames
    moved = window(luma, frames, scale, motion, draw)
    real = np.flatnonzero(second == _IN_WINDOW)
    for at in range(frames if len(real) else 0):
        apart = (at - frames // 2) * (rows * cols * scale**2)[real]
        there = (begin[real] + apart, rows[real] * scale, cols[real] * scale)
        shown = _cut(pictures.flat, there, (corner[0][real], corner[1][real]), *side)
        moved[torch.from_numpy(real).to(moved.device), at] = _luma(shown)
    small, large = _made_of_window(moved, config, motion, draw)
    inner = slice(motion.reach, motion.reach + stage.patch)
    outer = slice(margin * scale, (margin + stage.patch) * scale)
    pairs = zip(small[..., inner, inner], large[:, None, outer, outer], zip(*ways, strict=True), strict=True)
    turned = [(_turned(frames, way), _turned(middle, way)) for frames, middle, way in pairs]
    smalls, larges = (
        torch.stack(side).contiguous(memory_format=torch.channels_last) for side in zip(*turned, strict=True)
    )
    return Batch(smalls / 255, larges / 255)


def _luma(squares: torch.Tensor) -> torch.Tensor:
    """(N, S, S, 3) uint8 -> levels, (N, S, S)."""
    return squares.float() @ torch.from_numpy(FULL_LUMA.astype(np.float32)).to(squares.device)


def _made_of_window(
    moved: torch.Tensor, config: TrainConfig, motion: Motion, draw: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Large frames (N, frames, S, S) -> small ones (N, frames, S/s - 4, S/s - 4), and the middle large ones (N, S, S).

    All are levels of luma, 0 to 255.
    """
    recording = config.data.recording
    if draw.random() < motion.coded:
        whole = moved.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        moved = torch.from_numpy(coded(whole, motion.coded_crf, draw)).to(moved)
    target = moved[:, moved.shape[1] // 2]
    if recording is not None:
        moved = blurred(moved, config.scale, recording, draw)
    levels = moved.round().clamp(0, 255)
    if motion.reducer == "bicubic":  # frames stand for colours
        last = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        small = _bicubic(last, config.scale).permute(0, 3, 1, 2)
    else:
        small = reduced(levels.flatten(0, 1)[:, None], motion.reducer, config.scale).unflatten(0, levels.shape[:2])
        edge = _BICUBIC_MARGIN
        small = small[:, :, 0, edge:-edge, edge:-edge].round().clamp(0, 255).to(torch.uint8)
    if recording is not None:
        shown = recorded(small.contiguous().cpu().numpy(), recording, draw)
        small = torch.from_numpy(shown).to(small.device)
    return small.float(), target


def _makers(pictures: Pictures, config: TrainConfig, chosen: Iterable[int]) -> list[Maker] | None:
    """What makes small pictures of the chosen large ones, maybe by chance; None where MATLAB's bicubic does."""
    scale, worse, kernels, own = pictures.scale, config.data.degrade, config.data.kernels, pictures.kernels
    if own is not None:
        return [partial(_by_kernel, own[place], scale) for place in chosen] if scale > 1 else None
    if worse is not None:
        return [lambda large, draw: degrade(large, scale, worse, draw).small for _ in chosen]
    if kernels is not None:
        return [lambda large, draw: _enlarged_by_kernel(large, kernels, draw) for _ in chosen]
    return None


def _by_kernel(kernel: Floats, scale: int, large: Bytes, draw: np.random.Generator) -> Bytes:  # noqa: ARG001
    """(s*h, s*w, 3), blurred and made small, as 8 bits."""
    size = (large.shape[0] // scale, large.shape[1] // scale)
    planes = KernelReduction(kernel, scale, size)(np.moveaxis(large.astype(np.float64), 2, 0))
    return np.moveaxis(np.round(np.clip(planes, 0, 255)).astype(np.uint8), 0, 2)


def _enlarged_by_kernel(large: Bytes, kernels: Kernels, draw: np.random.Generator) -> Bytes:
    """The luma of (H, W, 3), made small by a kernel and enlarged as far as it allows, as grey (H, W, 3)."""
    drawn = kernels.draw(draw)
    rows, cols = (side // drawn.scale * drawn.scale for side in large.shape[:2])
    luma = (large @ FULL_LUMA.astype(np.float32)) / 255
    luma[:rows, :cols] = drawn.start(luma[:rows, :cols], draw)
    return np.repeat(np.round(luma * 255).astype(np.uint8)[..., None], 3, axis=2)


def _margin(worse: Degradation | None, scale: int) -> int:
    """How many small pixels around a patch are made with it, so that it is what the whole picture would have given.

    Whole blocks of JPEG; a blur counts to three sigma, a resampler for Lanczos' three pixels.
    """
    if worse is None:
        return _BICUBIC_MARGIN if scale > 1 else 0
    reach = 3 + (3 * worse.blur_sigma[1] + worse.motion_length[1] / 2) / scale
    return min(8 * math.ceil(reach / 8), _LARGEST_MARGIN)


def _drawn_places(pictures: Pictures, seed: int, step: int, stage: Stage) -> Whole:
    """(6, batch): picture, top and left in small pixels, then whether to transpose and to flip each axis."""
    draw = np.random.default_rng((seed, step))
    pixel = draw.integers(0, pictures.ends[-1], stage.batch)
    picture = np.searchsorted(pictures.ends, pixel, side="right")
    _, rows, cols, _ = pictures.table[picture].T
    place = [draw.integers(0, sides - stage.patch + 1) for sides in (rows, cols)]
    return np.stack([picture, *place, *draw.integers(0, 2, (3, stage.batch))])


def _cut(
    flat: torch.Tensor, where: tuple[Whole, Whole, Whole], corner: tuple[Whole, Whole], side: int, margin: int
) -> torch.Tensor:
    """Squares of `side` pixels with `margin` around, (N, side+2*margin, side+2*margin, 3); borders replicated.

    where: where each picture begins, its rows and its columns. All lines come by one gather; what
    hangs over a picture's left or right border is the file's next pixel, and is mended afterwards.
    """
    (begin, rows, cols), (top, left) = where, corner
    width = side + 2 * margin
    line = np.clip(top[:, None] + np.arange(-margin, side + margin), 0, rows[:, None] - 1)
    start = (begin + left - margin)[:, None] + line * cols[:, None]
    lines = flat.as_strided(((flat.numel() - 3 * width) // 3 + 1, 3 * width), (3, 1))
    chosen = torch.from_numpy(start.reshape(-1)).to(flat.device)
    squares = lines.index_select(0, chosen).view(len(begin), width, width, 3)
    for sample, over in enumerate((margin - left).tolist()):
        if over > 0:
            squares[sample, :, :over] = squares[sample, :, over : over + 1]
    for sample, over in enumerate((left + side + margin - cols).tolist()):
        if over > 0:
            squares[sample, :, -over:] = squares[sample, :, -over - 1 : -over]
    return squares


def _bicubic(large: torch.Tensor, scale: int) -> torch.Tensor:
    """`matlab_resize` of squares without their margin, to the bit: (N, s*(h+4), s*(h+4), C) -> (N, h, h, C), uint8.

    A product with a dense matrix is exact where scale is odd or a power of two, to 5 or 8: all weights
    are then whole parts of 2s^4, and every sum fits in float32 or stays clear of the ties.
    """
    if scale == 1:
        return large
    # A GPU may multiply float32 in fewer bits, never float64.
    matrix = _bicubic_matrix(large.shape[1], scale, large.device, torch.float64 if large.is_cuda else torch.float32)
    lines, count = large, len(matrix)
    with torch.autocast(large.device.type, enabled=False):
        for _ in range(2):  # rows, then columns: the picture is turned over in between
            wide, channels = lines.shape[2:]
            exact = matrix @ lines.reshape(len(lines), -1, channels * wide).to(matrix.dtype)
            levels = exact.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)
            lines = levels.view(-1, count, wide, channels).transpose(1, 2)
    return lines.contiguous()


@lru_cache(maxsize=16)
def _bicubic_matrix(size: int, scale: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(size/scale - 4, size): the inner rows of MATLAB's bicubic, with float32 weights as `matlab_resize` has them."""
    count = size // scale
    chosen = taps(size, count, KERNELS["bicubic"])
    matrix = np.zeros((count, size), np.float32)
    np.put_along_axis(matrix, chosen.index, chosen.weight.astype(np.float32), axis=1)
    return torch.from_numpy(matrix[_BICUBIC_MARGIN:-_BICUBIC_MARGIN]).to(device, dtype)


def _finished(pixels: torch.Tensor, ways: list[Whole], *, luma: bool) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, C, H, W) float32 0..1, each sample transposed and flipped as its ways say."""
    planes = pixels.permute(0, 3, 1, 2)
    if luma:
        red, green, blue = FULL_LUMA.tolist()
        planes = planes[:, :1] * red + planes[:, 1:2] * green + planes[:, 2:] * blue
    out = torch.empty(planes.shape, device=planes.device, memory_format=torch.channels_last)
    for one, plane, *way in zip(out, planes, *ways, strict=True):
        one.copy_(_turned(plane, way))
    return out.div_(255)


def _turned(plane: torch.Tensor, way: Sequence[int]) -> torch.Tensor:
    """(..., H, W), transposed and flipped as its way says."""
    turned, *flipped = way
    return (plane.mT if turned else plane).flip([axis for axis, yes in zip((-2, -1), flipped, strict=True) if yes])


class Batches:
    """Batches of the steps from `first` to `last`, made while the network still works on those before.

    threads: how many are made at a time; degradation is what may need more than one. An error of a
    batch is raised where it is asked for. Close it, or use it in a `with`.
    """

    def __init__(
        self,
        pictures: Pictures,
        config: TrainConfig,
        first: int,
        last: int | None = None,
        *,
        part: slice = slice(None),
        threads: int = 1,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, "batches")
        self._steps = iter(range(first, (config.steps if last is None else last) + 1))
        self._make = lambda step: batch_at(pictures, config, step, part=part)
        self._ahead: deque[Future[Batch | SmallBatch]] = deque()
        for _ in range(threads + 1):
            self._begin_next()

    def _begin_next(self) -> None:
        for step in self._steps:
            self._ahead.append(self._pool.submit(self._make, step))
            break

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch | SmallBatch:
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft().result()
        self._begin_next()
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is not made yet, and end the thread."""
        self._pool.shutdown(cancel_futures=True)


# ---- whole pictures


def whole_pairs(pictures: Pictures, config: TrainConfig) -> Iterator[Pair]:
    """The pictures whole, each with its small one as the config makes it, always the same.

    Where a run learns by reduction, and large ones are missing, the small one stands for both.
    """
    if config.data.motion is not None:
        yield from _moving_pairs(pictures, config, config.data.motion)
        return
    makers = _makers(pictures, config, range(len(pictures)))
    for place, (name, (begin, rows, cols, second)) in enumerate(
        zip(pictures.names, pictures.table.tolist(), strict=True)
    ):
        large = pictures.pixels(begin, rows * pictures.scale, cols * pictures.scale)
        if second >= 0:
            small = pictures.pixels(second, rows, cols)
        elif makers is not None:
            small = makers[place](large, np.random.default_rng((config.seed, 0, place)))  # steps begin at one
        else:
            small = matlab_resize(large, (rows, cols))
        yield Pair(name, small, large)


def _moving_pairs(pictures: Pictures, config: TrainConfig, motion: Motion) -> Iterator[Pair]:
    """The middle square of each picture as a window, (frames, h, h, 3) of grey, and its middle frame."""
    scale, edge, grid = config.scale, _around(motion), NETS[config.net].multiple_of
    for place, (name, (begin, rows, cols, _)) in enumerate(zip(pictures.names, pictures.table.tolist(), strict=True)):
        whole = pictures.pixels(begin, rows * scale, cols * scale)
        side = (min(rows, cols) - 2 * edge) // grid * grid + 2 * edge
        top, left = ((length - side) // 2 * scale for length in (rows, cols))
        square = torch.from_numpy(np.ascontiguousarray(whole[top : top + side * scale, left : left + side * scale]))
        draw = np.random.default_rng((config.seed, 0, place))  # steps begin at one
        moved = window(_luma(square[None]), NETS[config.net].frames, scale, motion, draw)
        small, large = _made_of_window(moved, config, motion, draw)
        inner, outer = slice(motion.reach, -motion.reach), slice(edge * scale, -edge * scale)
        frames, middle = small[0, :, inner, inner], large[0, outer, outer].round()
        yield Pair(name, _grey(frames), _grey(middle))


def _grey(levels: torch.Tensor) -> Bytes:
    """(..., h, w) levels -> (..., h, w, 3)."""
    return np.repeat(levels.cpu().numpy().astype(np.uint8)[..., None], 3, -1)
