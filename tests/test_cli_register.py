"""The door to registration: what is said, with which exit status."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from superfine.cli_register import register
from superfine.errors import NoMatchError, SourceError, UsageError

PHOTO = data.astronaut()

# An app of its own, so that what is tested is this door alone.
app = typer.Typer()
app.command()(register)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(PHOTO[100:260, 100:280]).save(tmp_path / "a.png")
    Image.fromarray(PHOTO[97:257, 105:285]).save(tmp_path / "b.png")  # content moves 3 down and 5 to the left
    Image.fromarray(PHOTO[97:257, 105:285]).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(PHOTO[97:257, 105:284]).save(tmp_path / "narrow.png")
    Image.fromarray(np.full((160, 180, 3), 90, np.uint8)).save(tmp_path / "flat.png")
    Image.fromarray(data.coffee()[100:260, 100:280]).save(tmp_path / "other.png")
    return tmp_path


def test_right_and_down_are_said(folder):
    done = run(folder / "a.png", folder / "b.png")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("dx -5.0000 px (to the right), standard error ")
    assert lines[1].startswith("dy +3.0000 px (down), standard error ")
    assert lines[2].startswith(f"overlap {100 * (175 / 180) * (157 / 160):.1f} % of the picture, correlation 1.0000")


def test_json(folder):
    (line,) = run(folder / "a.png", folder / "b.png", "--json").stdout.splitlines()
    facts = json.loads(line)
    assert facts["dx"] == pytest.approx(-5, abs=1e-6)
    assert facts["dy"] == pytest.approx(3, abs=1e-6)
    np.testing.assert_allclose(facts["matrix"], [[1, 0, -5], [0, 1, 3]], atol=1e-6)
    assert 0 <= facts["dx_error"] < 0.01
    assert facts["model"] == "translation"
    assert facts["first"] == str(folder / "a.png")


def test_affine_in_words_and_json(folder):
    words = run(folder / "a.png", folder / "b.png", "--model", "affine").stdout
    assert "x' = " in words
    assert "y' = " in words
    (line,) = run(folder / "a.png", folder / "b.png", "--model", "affine", "--json").stdout.splitlines()
    np.testing.assert_allclose(json.loads(line)["matrix"], [[1, 0, -5], [0, 1, 3]], atol=2e-3)


def test_files_of_other_kinds_and_alpha(folder):
    with_alpha = np.dstack([PHOTO[97:257, 105:285], np.full((160, 180), 200, np.uint8)])
    Image.fromarray(with_alpha).save(folder / "alpha.webp", lossless=True)
    Image.fromarray(PHOTO[97:257, 105:285]).save(folder / "b.jpg", quality=95)
    for name in ("alpha.webp", "b.jpg"):
        facts = json.loads(run(folder / "a.png", folder / name, "--json").stdout)
        assert (facts["dx"], facts["dy"]) == pytest.approx((-5, 3), abs=0.02)


def test_a_turned_file_is_measured_as_it_is_seen(folder):
    exif = Image.Exif()
    exif[274] = 6  # stored turned: the viewer turns it a quarter to the right
    Image.fromarray(PHOTO[97:257, 105:285]).rotate(90, expand=True).save(folder / "t.png", exif=exif)
    facts = json.loads(run(folder / "a.png", folder / "t.png", "--json").stdout)
    assert (facts["dx"], facts["dy"]) == pytest.approx((-5, 3), abs=1e-6)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("a.png", "flat.png"), NoMatchError, "no reliable match: the second picture is one flat colour"),
        (("a.png", "other.png"), NoMatchError, "other.png: no reliable match"),
        (("a.png", "grey.png"), UsageError, "only .*grey.png is grey"),
        (("a.png", "narrow.png"), UsageError, "is 180x160 and .*narrow.png is 179x160"),
        (("a.png", "missing.png"), SourceError, "missing.png"),
        (("a.png", "b.png", "--model", "wobble"), UsageError, "--model wobble: there are translation and affine"),
    ],
)
def test_what_cannot_be_measured(folder, names, error, words):
    """`main` turns a UsageError into status 2 and the others into 1, as test_cli holds."""
    given = [folder / name if name.endswith("png") else name for name in names]
    done = run(*given)
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=words):
        raise done.exception
    assert done.stdout == ""
