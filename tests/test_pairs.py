"""Folders to judge by: which kind they are, how LR comes about, what is refused."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from superfine.classical.blurs import BLURS, blurred
from superfine.classical.resample import matlab_resize
from superfine.errors import SourceError, UsageError
from superfine.evaluate.pairs import open_dataset

PHOTO = np.ascontiguousarray(data.astronaut()[100:143, 150:201])


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def only(folder, scale=2, **options):
    dataset = open_dataset(folder, scale, **options)
    assert len(dataset.sources) == 1
    return dataset.pair(0)


def test_hr_alone_is_cropped_and_reduced_by_matlabs_rule(tmp_path):
    write(tmp_path / "a.png", PHOTO)  # 43 x 51
    pair = only(tmp_path, 3)
    np.testing.assert_array_equal(pair.large, PHOTO[:42])
    np.testing.assert_array_equal(pair.small, matlab_resize(PHOTO[:42], (14, 17)))
    assert (pair.rule, pair.as_is) == ("matlab-bicubic", None)


def test_given_lr_is_taken_and_matlabs_is_recognised(tmp_path):
    large = PHOTO[:42, :50]
    write(tmp_path / "HR/a.png", PHOTO[:43, :50])  # one row more than LR covers
    write(tmp_path / "LR/a.png", matlab_resize(np.ascontiguousarray(large), (21, 25)))
    pair = only(tmp_path)
    np.testing.assert_array_equal(pair.large, large)
    assert pair.rule == "matlab-bicubic"
    write(tmp_path / "LR/a.png", large[::2, ::2])
    pair = only(tmp_path)
    np.testing.assert_array_equal(pair.small, large[::2, ::2])
    assert pair.rule == "LR as given"


def test_same_size_pairs_are_reduced_first(tmp_path):
    soft = np.roll(PHOTO, 1, axis=0)
    write(tmp_path / "a_HR.png", PHOTO)
    write(tmp_path / "a_LR.png", soft)
    pair = only(tmp_path)
    np.testing.assert_array_equal(pair.as_is, soft[:42, :50])
    np.testing.assert_array_equal(pair.small, matlab_resize(np.ascontiguousarray(soft[:42, :50]), (21, 25)))
    assert pair.rule == "paired, pre-reduced 2"
    whole = only(tmp_path, 1)
    np.testing.assert_array_equal(whole.small, soft)


def test_city100_is_judged_on_its_test_pictures(tmp_path):
    for number in range(8):
        for side in ("HR", "LR"):
            write(tmp_path / "city100" / "Nikon" / f"{number:03}_{side}.png", PHOTO)
    dataset = open_dataset(tmp_path / "city100", 2)
    assert [source.name for source in dataset.sources] == [f"Nikon/{number:03}_HR.png" for number in range(2, 8)]
    assert dataset.notes == ("the data set's own test pictures; 2 others left out",)


def test_damage_is_made_alike_each_time_and_named(tmp_path):
    write(tmp_path / "a.png", PHOTO)
    write(tmp_path / "b.png", PHOTO)
    dataset = open_dataset(tmp_path, 2, reduction="degraded")
    first, second, again = (dataset.pair(place) for place in (0, 1, 0))
    assert first.rule.startswith("degraded (")
    np.testing.assert_array_equal(first.small, again.small)
    assert (first.small != second.small).any()
    assert (first.small != matlab_resize(np.ascontiguousarray(first.large), first.small.shape[:2])).any()


def test_a_blur_gives_each_picture_several_kernels(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.png", PHOTO)
    dataset = open_dataset(tmp_path, 2, reduction="anisotropic")
    names = [f"{name}.png, kernel {number}" for name in "ab" for number in (1, 2, 3)]
    assert [source.name for source in dataset.sources] == names
    pairs = [dataset.pair(place) for place in range(6)]
    assert len({pair.kernel.tobytes() for pair in pairs}) == 6
    for place, pair in enumerate(pairs):
        np.testing.assert_array_equal(pair.kernel, BLURS["anisotropic"].kernel(2, place // 3, place % 3))
        np.testing.assert_array_equal(pair.large, PHOTO[:42, :50])
        np.testing.assert_array_equal(pair.small, blurred(np.ascontiguousarray(PHOTO[:42, :50]), pair.kernel, 2))
        assert pair.rule == BLURS["anisotropic"].words(2)
    assert len(open_dataset(tmp_path, 2, reduction="gaussian8").sources) == 16


def test_a_blur_is_made_of_hr_where_lr_lies_beside(tmp_path):
    write(tmp_path / "HR/a.png", PHOTO[:42, :50])
    write(tmp_path / "LR/a.png", PHOTO[:42:2, :50:2])
    dataset = open_dataset(tmp_path, 2, reduction="motion")
    pair = dataset.pair(0)
    np.testing.assert_array_equal(pair.small, blurred(np.ascontiguousarray(PHOTO[:42, :50]), pair.kernel, 2))
    assert dataset.notes == ("the folder's own LR left out",)


def test_where_blurs_have_nothing_to_do(tmp_path):
    write(tmp_path / "a.png", PHOTO[:10])
    with pytest.raises(UsageError, match="--lr motion is laid down for the scales 2, 3, 4, not 5"):
        open_dataset(tmp_path, 5, reduction="motion")
    with pytest.raises(
        SourceError, match=r"a\.png: a kernel of 22 x 22 is larger than the enlarged picture of 10 x 50"
    ):
        open_dataset(tmp_path, 2, reduction="gaussian8").pair(0)
    write(tmp_path / "same/a_HR.png", PHOTO)
    write(tmp_path / "same/a_LR.png", PHOTO)
    with pytest.raises(UsageError, match="has LR of its own, so --lr motion has nothing to make"):
        open_dataset(tmp_path / "same", 2, reduction="motion")


def test_grey_alpha_and_16_bits_become_rgb_of_8(tmp_path):
    write(tmp_path / "grey.png", PHOTO[..., 0])
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    write(tmp_path / "clear.png", clear)
    dataset = open_dataset(tmp_path, 1, reduction="degraded")
    pairs = {source.name: dataset.pair(place) for place, source in enumerate(dataset.sources)}
    grey = np.repeat(PHOTO[..., :1], 3, axis=2)
    np.testing.assert_array_equal(pairs["grey.png"].large, grey)
    np.testing.assert_array_equal(pairs["deep.png"].large, grey)
    assert (pairs["clear.png"].large == 255).all()


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(SourceError, match="nowhere: there is no such folder"):
        open_dataset(tmp_path / "nowhere", 2)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        SourceError, match="holds no picture to judge by at scale 2; 1 files are left out: not a picture"
    ):
        open_dataset(tmp_path, 2)
    write(tmp_path / "a_LR.png", PHOTO)
    with pytest.raises(SourceError, match=r"a_LR\.png: its large partner is missing"):
        open_dataset(tmp_path, 2)


def test_folders_of_two_kinds_and_unknown_rules(tmp_path):
    write(tmp_path / "a_HR.png", PHOTO)
    write(tmp_path / "a_LR.png", PHOTO)
    with pytest.raises(UsageError, match="has LR of its own, so --lr degraded has nothing to make"):
        open_dataset(tmp_path, 2, reduction="degraded")
    write(tmp_path / "b.png", PHOTO)
    with pytest.raises(UsageError, match=r"holds pairs and others, such as b\.png; judge folders of one kind"):
        open_dataset(tmp_path, 2)
    with pytest.raises(UsageError, match="no rule 'box' that makes LR; there are matlab-bicubic, degraded"):
        open_dataset(tmp_path, 2, reduction="box")


def test_unequal_sizes_are_unfit_and_named(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}_HR.png", PHOTO)
    write(tmp_path / "a_LR.png", PHOTO[:30])
    write(tmp_path / "b_LR.png", PHOTO)
    dataset = open_dataset(tmp_path, 2)
    assert [source.name for source in dataset.sources] == ["b_HR.png"]
    ((path, reason),) = dataset.unfit
    assert (path.name, reason) == ("a_HR.png", "51 x 43, but a_LR.png is 51 x 30; want 25 x 21, or the same size")


def test_smaller_than_the_scale(tmp_path):
    write(tmp_path / "a.png", PHOTO[:3])
    with pytest.raises(SourceError, match=r"a\.png: 51 x 3 leaves nothing at scale 4"):
        only(tmp_path, 4)
