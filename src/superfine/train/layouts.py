"""Folders of pictures, and how the field's data sets lay theirs out; nothing is decoded here.

    DIV2K      DIV2K_train_HR/0001.png, DIV2K_train_LR_bicubic/X2/0001x2.png; DIV2K_valid_*
    RealSR V3  Canon/Train/2/Canon_001_HR.png and Canon_001_LR2.png of the same size; Nikon; Test
    City100    CAMERA/001_HR.png and 001_LR.png of the same size; the last six of a camera are the test
    SelfExSR   image_SRF_2/img_001_SRF_2_HR.png and _LR.png
    CelebA     img_align_celeba/000001.jpg, parts in list_eval_partition.txt
    COCO       train2017, val2017, test2017

Whatever else there is counts as pictures without partners.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from superfine.errors import MissingExtraError, SourceError, TrainingError
from superfine.image import FORMATS, open_picture

__all__ = ["Found", "Part", "Source", "pictures_in"]

Part = Literal["train", "validation", "test"]

_SUFFIXES = frozenset(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
_DIV2K = re.compile(r"DIV2K_(train|valid)_(HR|LR_\w+)")
_PAIR = re.compile(r"(.+?)(?:_SRF_(\d))?_(HR|LR)(\d?)")
_COCO = re.compile(r"(train|val|test)20\d\d")
_PARTS: dict[str, Part] = {
    "train": "train",
    "Train": "train",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "Test": "test",
}
_CITY100_TEST = 6


@dataclass(frozen=True)
class Source:
    """A picture to learn from, and the small one that was made of it, if there is one."""

    name: str
    """Below the folder, with slashes."""
    large: Path
    small: Path | None = None
    part: Part | None = None
    """Where the data set itself puts it."""
    same_size: bool = False
    """`small` has as many pixels as `large` and merely shows less."""


class Found(NamedTuple):
    """What a folder holds, by name: `skipped` are the files that aren't taken, each with the reason."""

    sources: tuple[Source, ...]
    skipped: tuple[tuple[Path, str], ...]


class _Role(NamedTuple):
    key: tuple[str, ...]
    """The same for both partners; all but its last entry for all pairs of a folder."""
    small: bool
    scale: int | None
    """None fits every scale."""
    part: Part | None
    same_size: bool
    kind: str = ""
    """Of several small pictures of one large the first by kind is taken."""


def pictures_in(folder: Path, scale: int) -> Found:
    """All pictures below `folder`, links followed once, with their partners for `scale`.

    A folder of large pictures whose small ones are missing altogether counts as
    pictures without partners. Raises TrainingError where there is no such folder.
    """
    if not os.path.isdir(folder):
        raise TrainingError(f"{folder}: there is no such folder of pictures; --data names the folder that holds it")
    skipped: list[tuple[Path, str]] = []
    larges: list[tuple[Path, _Role]] = []
    smalls: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    sources: list[Source] = []
    folder = Path(os.path.abspath(folder))  # its own name may be the data set's
    for path in _walk(folder, skipped):
        role = _role(path.relative_to(folder.parent))
        if role is None:
            sources.append(Source(_name(path, folder), path, part=_coco(path.relative_to(folder.parent))))
        elif role.scale not in (None, scale) and not (role.same_size and scale == 1):
            skipped.append((path, f"made for scale {role.scale}"))
        elif role.small:
            smalls.setdefault(role.key, []).append((role.kind, path))
        else:
            larges.append((path, role))
    paired = {key[:-1] for key in smalls}
    for path, role in larges:
        if role.key[:-1] not in paired:
            sources.append(Source(_name(path, folder), path, part=role.part))
        elif role.key not in smalls:
            skipped.append((path, "its small partner is missing"))
        else:
            (_, small), *others = sorted(smalls.pop(role.key))
            skipped += [(other, f"{small.name} is taken in its place") for _, other in others]
            if reason := _unfit(path, small, 1 if role.same_size else scale):
                skipped.append((path, reason))
            else:
                sources.append(Source(_name(path, folder), path, small, role.part, role.same_size))
    skipped += [(path, "its large partner is missing") for rest in smalls.values() for _, path in rest]
    return Found(tuple(sorted(_celeba(_city100(sources)), key=lambda source: source.name)), tuple(sorted(skipped)))


def _walk(folder: Path, skipped: list[tuple[Path, str]]) -> Iterator[Path]:
    """Files that end like pictures."""

    def unread(error: OSError) -> None:
        skipped.append((Path(error.filename), f"can't be read: {error.strerror}"))

    seen: set[str] = set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=unread):
        here = Path(name)
        if os.path.realpath(here) in seen:
            skipped.append((here, "a link to a folder that is already taken"))
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        if "split.json" in files:
            skipped.append((here, "a training run's own folder"))
            folders.clear()
            continue
        skipped += [(here / entry, "hidden") for entry in (*folders, *files) if entry.startswith(".")]
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for entry in sorted(entry for entry in files if not entry.startswith(".")):
            path = here / entry
            if path.suffix.lower() in _SUFFIXES:
                yield path
            else:
                skipped.append((path, "not a picture"))


def _role(path: Path) -> _Role | None:
    """What a path below (and with) its folder's name is in a data set of pairs."""
    for depth, folder in enumerate(path.parts[:-1]):
        if found := _DIV2K.fullmatch(folder):
            key = (*path.parts[:depth], found[1])
            if found[2] == "HR":
                return _Role((*key, path.stem), small=False, scale=None, part=_PARTS[found[1]], same_size=False)
            if size := re.fullmatch(r"(.+)x(\d)", path.stem):
                kind = "" if found[2] == "LR_bicubic" else found[2]
                return _Role((*key, size[1]), True, int(size[2]), _PARTS[found[1]], same_size=False, kind=kind)
    if found := _PAIR.fullmatch(path.stem):
        stem, factor, kind, digit = found.groups()
        factor = factor or digit
        same_size = found[2] is None
        part: Part | None = None
        for maker, side in pairwise(path.parts[:-1]):
            if maker in ("Canon", "Nikon") and side in ("Train", "Test"):
                part = _PARTS[side]
                factor = factor or (path.parent.name if path.parent.name.isdecimal() else None)
        key = (*path.parts[:-1], stem)
        return _Role(key, kind == "LR", int(factor) if factor else None, part, same_size=same_size)
    return None


def _coco(path: Path) -> Part | None:
    found = [match for folder in path.parts[:-1] if (match := _COCO.fullmatch(folder))]
    return _PARTS[found[-1][1]] if found else None


def _celeba(sources: list[Source]) -> list[Source]:
    """The same, with the parts that CelebA's list gives: lines such as `000001.jpg 0`; 1 is validation, 2 the test."""
    sides: dict[Path, dict[str, str]] = {}
    for folder in {source.large.parent for source in sources if source.large.parent.name == "img_align_celeba"}:
        for place in (folder, folder.parent, folder.parent / "Eval"):
            with suppress(OSError):
                lines = (place / "list_eval_partition.txt").read_text(encoding="utf-8", errors="replace").splitlines()
                sides[folder] = {words[0]: words[1] for line in lines if len(words := line.split()) == 2}
                break
    parts: dict[str, Part] = {"0": "train", "1": "validation", "2": "test"}
    return [
        replace(source, part=parts.get(side))
        if (side := sides.get(source.large.parent, {}).get(source.large.name)) is not None
        else source
        for source in sources
    ]


def _city100(sources: list[Source]) -> list[Source]:
    """The same, with the last pictures of each camera of City100, by number, as the test."""
    cameras: dict[Path, list[str]] = {}
    for source in sources:
        if source.same_size and "city100" in source.large.parent.parent.name.lower():
            cameras.setdefault(source.large.parent, []).append(source.name)
    last = {name for names in cameras.values() for name in sorted(names)[-_CITY100_TEST:]}
    known = {name for names in cameras.values() for name in names}
    return [
        replace(source, part="test" if source.name in last else "train") if source.name in known else source
        for source in sources
    ]


def _unfit(large: Path, small: Path, factor: int) -> str:
    """Why two files are no partners; empty where they are."""
    try:
        sizes = [open_picture(path, upright=True).size for path in (large, small)]
    except (SourceError, MissingExtraError) as error:
        return str(error)
    (rows, cols), (low_rows, low_cols) = sizes
    if (low_rows * factor, low_cols * factor) == (rows, cols):
        return ""
    return f"{cols} x {rows}, but {small.name} is {low_cols} x {low_rows}; want {factor} times its sides"


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
