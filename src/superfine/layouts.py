"""Folders of pictures, and how the field's data sets lay theirs out; nothing is decoded here.

    DIV2K      DIV2K_train_HR/0001.png, DIV2K_train_LR_bicubic/X2/0001x2.png; DIV2K_valid_*
    RealSR V3  Canon/Train/2/Canon_001_HR.png and Canon_001_LR2.png of the same size; Nikon; Test
    City100    CAMERA/001_HR.png and 001_LR.png of the same size; the last six of a camera are the test
    SelfExSR   image_SRF_2/img_001_SRF_2_HR.png and _LR.png
    CelebA     img_align_celeba/000001.jpg, parts in list_eval_partition.txt
    COCO       train2017, val2017, test2017
    others     HR/name.png and LR/name.png (also LR/X2/namex2.png, LRx2, GTmod12 and LRbicx2)
               name_HR.png and name_LR.png

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

from superfine.errors import MissingExtraError, SourceError
from superfine.image import FORMATS, open_picture

__all__ = ["Found", "Part", "Source", "pictures_in"]

Part = Literal["train", "validation", "test"]

_SUFFIXES = frozenset(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
_DIV2K = re.compile(r"DIV2K_(train|valid)_(HR|LR_\w+)")
_PAIR = re.compile(r"(.+?)(?:_SRF_(\d))?_(HR|LR)(\d?)")
_SIDES = re.compile(r"(?P<large>HR|GT(?:mod\d+)?)|LR(?:_?bic(?:ubic)?)?(?:_?x(?P<factor>\d))?", re.IGNORECASE)
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
    """What a folder holds, by name."""

    sources: tuple[Source, ...]
    ignored: tuple[tuple[Path, str], ...]
    """Files that nobody would expect to be taken, each with the reason."""
    unfit: tuple[tuple[Path, str], ...]
    """Files that one would expect to be taken and that can't be, each with the reason."""

    @property
    def skipped(self) -> tuple[tuple[Path, str], ...]:
        """All files that aren't taken, by name."""
        return tuple(sorted((*self.ignored, *self.unfit)))


class _Role(NamedTuple):
    key: tuple[str, ...]
    """The same for both partners; all but its last entry for all pairs of a folder."""
    small: bool
    scale: int | None
    """None fits every scale."""
    part: Part | None
    any_size: bool = False
    """Whether it may be half of a same-size pair, whatever scale its name says."""
    kind: str = ""
    """Of several small pictures of one large the first by kind is taken."""


def pictures_in(folder: Path, scale: int) -> Found:
    """All pictures below `folder`, links followed once, with their partners for `scale`.

    A folder of large pictures whose small ones are missing altogether counts as
    pictures without partners. Partners of equal size are same-size pairs.
    Raises SourceError where there is no such folder.
    """
    if not os.path.isdir(folder):
        raise SourceError(f"{folder}: there is no such folder of pictures")
    ignored: list[tuple[Path, str]] = []
    unfit: list[tuple[Path, str]] = []
    larges: list[tuple[Path, _Role]] = []
    smalls: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    sources: list[Source] = []
    folder = Path(os.path.abspath(folder))  # its own name may be the data set's
    for path in _walk(folder, ignored, unfit):
        role = _role(path.relative_to(folder.parent))
        if role is None:
            sources.append(Source(_name(path, folder), path, part=_coco(path.relative_to(folder.parent))))
        elif role.scale not in (None, scale) and not (role.any_size and scale == 1):
            ignored.append((path, f"made for scale {role.scale}"))
        elif role.small:
            smalls.setdefault(role.key, []).append((role.kind, path))
        else:
            larges.append((path, role))
    paired = {key[:-1] for key in smalls}
    for path, role in larges:
        if role.key[:-1] not in paired:
            sources.append(Source(_name(path, folder), path, part=role.part))
        elif role.key not in smalls:
            unfit.append((path, "its small partner is missing"))
        else:
            (_, small), *others = sorted(smalls.pop(role.key))
            ignored += [(other, f"{small.name} is taken in its place") for _, other in others]
            same_size, reason = _fits(path, small, scale)
            if reason:
                unfit.append((path, reason))
            else:
                sources.append(Source(_name(path, folder), path, small, role.part, same_size))
    unfit += [(path, "its large partner is missing") for rest in smalls.values() for _, path in rest]
    found = tuple(sorted(_celeba(_city100(sources)), key=lambda source: source.name))
    return Found(found, tuple(sorted(ignored)), tuple(sorted(unfit)))


def _walk(folder: Path, ignored: list[tuple[Path, str]], unfit: list[tuple[Path, str]]) -> Iterator[Path]:
    """Files that end like pictures."""

    def unread(error: OSError) -> None:
        unfit.append((Path(error.filename), f"can't be read: {error.strerror}"))

    seen: set[str] = set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=unread):
        here = Path(name)
        if os.path.realpath(here) in seen:
            ignored.append((here, "a link to a folder that is already taken"))
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        if "split.json" in files:
            ignored.append((here, "a training run's own folder"))
            folders.clear()
            continue
        ignored += [(here / entry, "hidden") for entry in (*folders, *files) if entry.startswith(".")]
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for entry in sorted(entry for entry in files if not entry.startswith(".")):
            path = here / entry
            if path.suffix.lower() in _SUFFIXES:
                yield path
            else:
                ignored.append((path, "not a picture"))


def _role(path: Path) -> _Role | None:
    """What a path below (and with) its folder's name is in a data set of pairs."""
    for depth, folder in enumerate(path.parts[:-1]):
        above, below = path.parts[:depth], path.parts[depth + 1 : -1]
        if found := _DIV2K.fullmatch(folder):
            key = (*above, found[1])
            if found[2] == "HR":
                return _Role((*key, path.stem), small=False, scale=None, part=_PARTS[found[1]])
            if size := re.fullmatch(r"(.+)x(\d)", path.stem):
                kind = "" if found[2] == "LR_bicubic" else found[2]
                return _Role((*key, size[1]), small=True, scale=int(size[2]), part=_PARTS[found[1]], kind=kind)
        if found := _SIDES.fullmatch(folder):
            if found["large"]:
                return _Role((*above, "", *below, path.stem), small=False, scale=None, part=None)
            deeper = re.fullmatch(r"x(\d)", below[0], re.IGNORECASE) if below else None
            factor = deeper[1] if deeper else found["factor"]
            stem = path.stem.removesuffix(f"x{factor}")
            key = (*above, "", *below[1 if deeper else 0 :], stem)
            scale = int(factor) if factor else None
            return _Role(key, small=True, scale=scale, part=None, kind=folder, any_size=factor is None)
    if named := _PAIR.fullmatch(path.stem):
        stem, factor, kind, digit = named.groups()
        factor = factor or digit
        part: Part | None = None
        for maker, side in pairwise(path.parts[:-1]):
            if maker in ("Canon", "Nikon") and side in ("Train", "Test"):
                part = _PARTS[side]
                factor = factor or (path.parent.name if path.parent.name.isdecimal() else None)
        key = (*path.parts[:-1], stem)
        return _Role(key, kind == "LR", int(factor) if factor else None, part, any_size=named[2] is None)
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


def _fits(large: Path, small: Path, scale: int) -> tuple[bool, str]:
    """Whether two files are a same-size pair, and why they are no partners at all; empty where they are."""
    try:
        sizes = [open_picture(path, upright=True).size for path in (large, small)]
    except (SourceError, MissingExtraError) as error:
        return False, str(error)
    (rows, cols), low = sizes
    if low in ((rows, cols), (rows // scale, cols // scale)):
        return low == (rows, cols), ""
    wanted = f"{cols // scale} x {rows // scale}, or the same size"
    return False, f"{cols} x {rows}, but {small.name} is {low[1]} x {low[0]}; want {wanted}"


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
