"""Layouts of data sets, on folders made here: what is a pair, on which side, and why something isn't taken."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from superfine.errors import SourceError
from superfine.layouts import pictures_in


def make(root, *names, size=(8, 6)):
    """Pictures of `size`: columns, rows."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), len(name), np.uint8)).save(path)
    return root


def found(folder, scale=2):
    """name -> (small partner's file name, part, same size)."""
    sources = pictures_in(folder, scale).sources
    assert [source.name for source in sources] == sorted(source.name for source in sources)
    assert all(source.large == folder.resolve() / source.name for source in sources)
    return {source.name: (source.small and source.small.name, source.part, source.same_size) for source in sources}


def skipped(folder, scale=2):
    return {
        path.relative_to(folder.resolve()).as_posix(): reason for path, reason in pictures_in(folder, scale).skipped
    }


def test_div2k(tmp_path):
    make(tmp_path, "DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", size=(12, 8))
    make(tmp_path, "DIV2K_train_LR_bicubic/X2/0001x2.png", "DIV2K_train_LR_unknown/X2/0001x2.png", size=(6, 4))
    make(tmp_path, "DIV2K_train_LR_bicubic/X4/0001x4.png", size=(3, 2))
    assert found(tmp_path) == {
        "DIV2K_train_HR/0001.png": ("0001x2.png", "train", False),
        "DIV2K_valid_HR/0801.png": (None, "validation", False),
    }
    (train, _) = pictures_in(tmp_path, 2).sources
    assert train.small == tmp_path / "DIV2K_train_LR_bicubic/X2/0001x2.png"
    assert skipped(tmp_path) == {
        "DIV2K_train_LR_bicubic/X4/0001x4.png": "made for scale 4",
        "DIV2K_train_LR_unknown/X2/0001x2.png": "0001x2.png is taken in its place",
    }
    assert found(tmp_path, 4)["DIV2K_train_HR/0001.png"] == ("0001x4.png", "train", False)
    assert found(tmp_path, 3)["DIV2K_train_HR/0001.png"] == (None, "train", False)
    assert found(tmp_path / "DIV2K_valid_HR") == {"0801.png": (None, "validation", False)}


def test_realsr(tmp_path):
    for camera in ("Canon", "Nikon"):
        for scale in (2, 3):
            make(
                tmp_path,
                f"{camera}/Train/{scale}/{camera}_001_HR.png",
                f"{camera}/Train/{scale}/{camera}_001_LR{scale}.png",
            )
        make(tmp_path, f"{camera}/Test/2/{camera}_001_HR.png", f"{camera}/Test/2/{camera}_001_LR2.png")
    assert found(tmp_path) == {
        "Canon/Test/2/Canon_001_HR.png": ("Canon_001_LR2.png", "test", True),
        "Canon/Train/2/Canon_001_HR.png": ("Canon_001_LR2.png", "train", True),
        "Nikon/Test/2/Nikon_001_HR.png": ("Nikon_001_LR2.png", "test", True),
        "Nikon/Train/2/Nikon_001_HR.png": ("Nikon_001_LR2.png", "train", True),
    }
    assert skipped(tmp_path)["Canon/Train/3/Canon_001_HR.png"] == "made for scale 3"
    assert set(found(tmp_path / "Canon", 3)) == {"Train/3/Canon_001_HR.png"}
    assert len(found(tmp_path, 1)) == 6  # every pair, as it is


def test_city100(tmp_path):
    for camera in ("iPhoneX", "NikonD5500"):
        for number in range(1, 9):
            make(tmp_path / "City100", f"{camera}/{number:03d}_HR.png", f"{camera}/{number:03d}_LR.png")
    for folder, prefix in (
        (tmp_path, "City100/iPhoneX/"),
        (tmp_path / "City100", "iPhoneX/"),
        (tmp_path / "City100/iPhoneX", ""),
    ):
        for scale in (1, 2):
            pairs = found(folder, scale)
            assert pairs[f"{prefix}002_HR.png"] == ("002_LR.png", "train", True)
            assert pairs[f"{prefix}003_HR.png"] == ("003_LR.png", "test", True)
            assert skipped(folder, scale) == {}
    assert sum(part == "test" for _, part, _ in found(tmp_path).values()) == 12


def test_self_ex_sr(tmp_path):
    make(tmp_path, "image_SRF_2/img_001_SRF_2_HR.png", "image_SRF_4/img_001_SRF_4_HR.png", size=(12, 8))
    make(tmp_path, "image_SRF_2/img_001_SRF_2_LR.png", size=(6, 4))
    make(tmp_path, "image_SRF_4/img_001_SRF_4_LR.png", size=(3, 2))
    assert found(tmp_path) == {"image_SRF_2/img_001_SRF_2_HR.png": ("img_001_SRF_2_LR.png", None, False)}
    assert set(skipped(tmp_path).values()) == {"made for scale 4"}
    assert found(tmp_path, 3) == {}


@pytest.mark.parametrize("place", ["list_eval_partition.txt", "Eval/list_eval_partition.txt"])
def test_celeba(tmp_path, place):
    make(tmp_path, *(f"img_align_celeba/00000{number}.jpg" for number in range(1, 5)))
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\nbroken\n")
    parts = {"000001.jpg": "train", "000002.jpg": "validation", "000003.jpg": "test", "000004.jpg": None}
    assert found(tmp_path) == {f"img_align_celeba/{name}": (None, part, False) for name, part in parts.items()}
    assert found(tmp_path / "img_align_celeba") == {name: (None, part, False) for name, part in parts.items()}


def test_celeba_without_its_list(tmp_path):
    make(tmp_path, "img_align_celeba/000001.jpg")
    assert found(tmp_path) == {"img_align_celeba/000001.jpg": (None, None, False)}


def test_coco(tmp_path):
    make(tmp_path, "train2017/1.jpg", "val2017/2.jpg", "test2017/3.jpg", "train2014/4.jpg")
    assert {name: part for name, (_, part, _) in found(tmp_path).items()} == {
        "test2017/3.jpg": "test",
        "train2014/4.jpg": "train",
        "train2017/1.jpg": "train",
        "val2017/2.jpg": "validation",
    }


def test_a_plain_tree(tmp_path):
    make(tmp_path, "ä/鳥 1.png", "b.JPG", "train/c.webp", "only_HR.png")
    assert found(tmp_path) == dict.fromkeys(("b.JPG", "only_HR.png", "train/c.webp", "ä/鳥 1.png"), (None, None, False))


def test_what_is_not_taken_is_named(tmp_path):
    make(tmp_path, "x/1_HR.png", "x/1_LR.png", "x/2_HR.png", "x/3_LR.png", ".hidden.png", ".git/a.png", "run/psnr.png")
    make(tmp_path, "y/1_HR.png", "z/1_SRF_2_HR.png", size=(9, 7))
    make(tmp_path, "y/1_LR.png", "z/1_SRF_2_LR.png", size=(5, 4))
    make(tmp_path, "w/1_HR.png", "w/1_LR.png")
    (tmp_path / "w/1_LR.png").write_bytes((tmp_path / "w/1_HR.png").read_bytes()[:20])
    (tmp_path / "notes.txt").touch()
    (tmp_path / "run/split.json").touch()
    assert set(found(tmp_path)) == {"x/1_HR.png"}
    reasons = skipped(tmp_path)
    assert reasons.pop("w/1_HR.png").startswith(f"{tmp_path / 'w/1_LR.png'}: damaged or cut off")
    assert reasons == {
        ".git": "hidden",
        ".hidden.png": "hidden",
        "notes.txt": "not a picture",
        "run": "a training run's own folder",
        "x/2_HR.png": "its small partner is missing",
        "x/3_LR.png": "its large partner is missing",
        "y/1_HR.png": "9 x 7, but 1_LR.png is 5 x 4; want 4 x 3, or the same size",
        "z/1_SRF_2_HR.png": "9 x 7, but 1_SRF_2_LR.png is 5 x 4; want 4 x 3, or the same size",
    }
    unfit = {path.relative_to(tmp_path).as_posix() for path, _ in pictures_in(tmp_path, 2).unfit}
    assert unfit == {"x/2_HR.png", "x/3_LR.png", "y/1_HR.png", "z/1_SRF_2_HR.png", "w/1_HR.png"}


def test_links_in_a_circle_end(tmp_path):
    make(tmp_path, "a/1.png")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    assert set(found(tmp_path)) == {"a/1.png", "self.png"}  # that it can't be read is found when it is decoded
    assert skipped(tmp_path) == {
        "a/back": "a link to a folder that is already taken",
        "b": "a link to a folder that is already taken",
    }


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("HR/a.png", "LR/a.png"),
        ("HR/sub/a.png", "LR/sub/a.png"),
        ("hr/a.png", "lr_x2/a.png"),
        ("GTmod12/a.png", "LRbicx2/a.png"),
        ("HR/a.png", "LR_bicubic/X2/ax2.png"),
        ("HR/ax2.png", "LR/ax2.png"),
        ("a_HR.png", "a_LR.png"),
    ],
)
@pytest.mark.parametrize("shrink", [1, 2])
def test_folders_of_large_and_small_ones(tmp_path, large, small, shrink):
    make(tmp_path, large, size=(9, 7))
    make(tmp_path, small, size=(9 // shrink, 7 // shrink))
    (source,) = pictures_in(tmp_path, 2).sources
    assert (source.large, source.small, source.same_size) == (tmp_path / large, tmp_path / small, shrink == 1)


def test_small_ones_of_another_scale_are_left_alone(tmp_path):
    make(tmp_path, "HR/a.png", "LRbicx3/a.png")
    (source,) = pictures_in(tmp_path, 2).sources
    assert (source.small, skipped(tmp_path)) == (None, {"LRbicx3/a.png": "made for scale 3"})


def test_empty_and_missing_folders(tmp_path):
    assert pictures_in(tmp_path, 2) == ((), (), ())
    for missing in (tmp_path / "nowhere", make(tmp_path, "a.png") / "a.png"):
        with pytest.raises(SourceError, match="there is no such folder of pictures"):
            pictures_in(missing, 2)


def test_a_relative_folder(tmp_path, monkeypatch):
    make(tmp_path / "City100" / "iPhoneX", "001_HR.png", "001_LR.png")
    monkeypatch.chdir(tmp_path / "City100" / "iPhoneX")
    (source,) = pictures_in(Path(), 2).sources
    assert (source.name, source.part) == ("001_HR.png", "test")
    assert source.large == tmp_path / "City100" / "iPhoneX" / "001_HR.png"
