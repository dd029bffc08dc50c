"""Guess maps: what an interval is, for whom there is one, and what lies in the files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fakes import model_of, painter
from superfine import guess as module
from superfine.engine import open_engine
from superfine.errors import ModelError, OutputError, ShapeError, UsageError
from superfine.guess import (
    GUESS_OCTAVES,
    LEAST_GUESS,
    MAP_STEPS,
    Calibration,
    Guess,
    calibrations,
    find_guess,
    guess_for,
    half_widths,
    overlay_path,
    to_record,
    write_guess_map,
)
from superfine.heat import heated, legend
from superfine.image import open_picture
from superfine.models import Card, Model, card_to_text, find_model, list_guesses, list_models

ENLARGER = painter("plain", 2, 0.5)
TABLE = {"codes": [0.2, 0.4, 0.6], "half_widths": [1.0, 4.0, 64.0]}


def record(**changes):
    entry = {"sha256": ENLARGER.sha256, **TABLE, "tested": {"coverage": 0.9}} | changes
    return {"share": 0.9, "degradation": "clean", "pictures": "40 of mine", "networks": {"plain-x2": entry}}


def guesser(given=None, scale=2):
    """A guess network whose code is the green of the pixel: each scale x scale pixels alike."""
    mean = np.zeros((3, 3, 1, 1), np.float32)
    mean[:, 1] = 1
    nodes = [
        ("Conv", ["x", "green"], "parts", {}),
        ("DepthToSpace", ["parts"], "y", {"blocksize": scale, "mode": "CRD"}),
    ]
    weights = {"green": mean.repeat(scale**2, axis=0)}
    model = model_of(nodes, weights, scale=scale)
    card = replace(model.card, name="guess", errors_of="plain-x2", calibration=record() if given is None else given)
    return Model(card, model.content, "guess.onnx")


@pytest.fixture
def shipped(monkeypatch):
    """One guess network, for one enlarger."""
    model = guesser()
    monkeypatch.setattr(module, "list_guesses", lambda: (model,))
    module._known.cache_clear()
    yield model
    module._known.cache_clear()


def opened(model=None):
    model = model or guesser()
    (calibration,) = calibrations(model)
    return Guess(model, calibration, open_engine(model, precision="fp32"))


def wanted(green):
    """Half-widths in levels by the definition, for codes within the table: straight lines in their logarithms."""
    return np.exp2(np.interp(green, TABLE["codes"], np.log2(TABLE["half_widths"])))


def picture(rows=40, cols=50, seed=0):
    return np.random.default_rng(seed).integers(51, 154, (rows, cols, 3), dtype=np.uint8)


# ---- the table


def test_between_known_codes_half_widths_grow_evenly_in_octaves():
    known, widths = np.array(TABLE["codes"]), np.array(TABLE["half_widths"])
    np.testing.assert_allclose(half_widths(np.array([0.2, 0.3, 0.4, 0.5]), known, widths), [1, 2, 4, 16])


def test_beyond_the_table_they_grow_as_the_expected_error():
    known, widths = np.array(TABLE["codes"]), np.array(TABLE["half_widths"])
    octave = 1 / GUESS_OCTAVES
    made = half_widths(np.array([0.2 - octave, 0.6 + octave, 0.6 + 2 * octave]), known, widths)
    np.testing.assert_allclose(made, [0.5, 128, 256])
    assert LEAST_GUESS * 255 * 2**GUESS_OCTAVES == 256


def test_a_record_comes_back():
    (calibration,) = calibrations(guesser())
    assert (calibration.network, calibration.share, calibration.pictures) == ("plain-x2", 0.9, "40 of mine")
    again = guesser(record() | {"networks": {"plain-x2": json.loads(json.dumps(to_record(calibration)))}})
    (same,) = calibrations(again)
    assert same.half_widths.tolist() == calibration.half_widths.tolist() == TABLE["half_widths"]
    assert (same.sha256, same.tested) == (ENLARGER.sha256, {"coverage": 0.9})


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": [0.2, 0.2, 0.6]},
        {"codes": [0.2, 0.4]},
        {"codes": []},
        {"codes": "none"},
        {"codes": [[0.1, 0.2, 0.3]]},
        {"codes": [0.2, float("nan"), 0.6]},
        {"half_widths": [3.0, 2.0, 4.0]},
        {"half_widths": [0.0, 2.0, 4.0]},
        {"half_widths": [1.0, 2.0, float("inf")]},
        {"tested": {"coverage": "much"}},
        {"tested": 5},
    ],
    ids=str,
)
def test_a_wrong_record_is_refused(changes):
    with pytest.raises(ModelError, match=r"guess\.onnx: the calibration on its card can't be read"):
        calibrations(guesser(record(**changes)))


@pytest.mark.parametrize(
    "given", [{"networks": {"plain-x2": {}}}, {"networks": 5}, record() | {"share": 1.5}, record() | {"share": None}]
)
def test_a_record_with_gaps_is_refused(given):
    with pytest.raises(ModelError, match=r"guess\.onnx: the calibration on its card can't be read"):
        calibrations(guesser(given))


def test_a_network_that_was_not_calibrated_has_none():
    assert calibrations(Model(Card(name="a", scale=2, halo=0), b"", "a.onnx")) == ()


# ---- maps


def test_a_map_is_the_table_of_the_codes():
    pixels = picture()
    made = opened()(pixels)
    green = (pixels[..., 1] / 255).repeat(2, 0).repeat(2, 1)
    assert made.shape == (80, 100)
    assert (made >= wanted(green) - 1e-3).all(), "rounded up, so that no interval becomes narrower"
    np.testing.assert_allclose(made, wanted(green), atol=1.01 / MAP_STEPS)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_kind_of_picture(channels, dtype):
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = np.full((7, 9, channels), 0.4 * white).astype(dtype)
    pixels[..., channels - 1 if channels in (2, 4) else 0] = 0.4 * white
    np.testing.assert_allclose(opened()(pixels), 4.0, rtol=0.01)


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 5), (0, 5, 3), (1, 5, 5, 3)])
def test_what_is_no_picture(shape):
    with pytest.raises(ShapeError, match=r"want \(h, w, 1 to 4\)"):
        opened()(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("tile", [64, 100])
@pytest.mark.parametrize("band", [1, 17])
def test_in_tiles_and_bands_it_is_the_same(tile, band):
    pixels, heard = picture(150, 170), []
    bands = (pixels[top : top + band] for top in range(0, 150, band))
    made = list(opened().bands(pixels.shape, bands, heard.append, tile=tile))
    assert len(made) > 1
    assert {each.dtype for each in made} == {np.dtype(np.uint16)}
    assert np.array_equal(np.concatenate(made)[..., 0] / MAP_STEPS, opened()(pixels))
    assert sum(heard) == pytest.approx(1)


def test_the_ends_of_sixteen_bits():
    narrow, wide = (record(codes=[0.5], half_widths=[width]) for width in (1e-4, 1e5))
    assert opened(guesser(narrow))(picture()).min() == 1 / MAP_STEPS
    assert opened(guesser(wide))(picture()).max() == 65535 / MAP_STEPS


# ---- for whom


def test_a_calibrated_network_has_intervals(shipped):
    found = guess_for([ENLARGER], 2, kind="PNG", lossless=True)
    assert (found.model, found.calibration.network) == (shipped, "plain-x2")
    assert find_guess(ENLARGER.sha256).calibration.network == "plain-x2"


@pytest.mark.parametrize(
    ("models", "scale", "source", "words"),
    [
        ([ENLARGER], 3, {}, "calibrated for one network at its own scale, plain-x2; x3 by plain-x2 is something else"),
        ([ENLARGER], 1.5, {}, "x1.5 by plain-x2 is something else"),
        ([ENLARGER] * 2, 4, {}, r"x4 by plain-x2\+plain-x2 is something else"),
        ([], 2, {}, "x2 by a classical method is something else"),
        ([painter("plain", 2, 0.6)], 2, {}, "calibrated for plain-x2, not for plain-x2; take one of them"),
        ([painter("photo", 2, 0.6)], 2, {}, "calibrated for plain-x2, not for photo-x2; take one of them"),
        ([ENLARGER], 2, {"kind": "JPEG", "lossless": False}, "calibrated for clean pictures, and the source is JPEG"),
        ([ENLARGER], 2, {"kind": "AVIF", "lossless": None}, "the source is AVIF, which has traces of its own"),
    ],
)
def test_others_are_refused(shipped, models, scale, source, words):
    with pytest.raises(UsageError, match=f"--guess-map.*{words}"):
        guess_for(models, scale, **source)


def test_without_a_guess_network(monkeypatch):
    monkeypatch.setattr(module, "list_guesses", tuple)
    module._known.cache_clear()
    with pytest.raises(UsageError, match="this installation brings no guess network"):
        guess_for([ENLARGER], 2)
    assert find_guess(ENLARGER.sha256) is None
    module._known.cache_clear()


# ---- files


@pytest.fixture
def enlarged(tmp_path):
    """A small picture and what was made of it."""
    Image.fromarray(picture(60, 90)).save(tmp_path / "small.png")
    Image.fromarray(picture(120, 180, seed=1)).save(tmp_path / "large.png")
    return open_picture(tmp_path / "small.png", upright=True), tmp_path / "large.png"


def test_the_files(enlarged, tmp_path):
    source, result = enlarged
    path, heard = tmp_path / "map.png", []
    write_guess_map(path, source, result, opened(), done=heard.append)
    assert sum(heard) == pytest.approx(1)
    with Image.open(path) as file:
        assert (file.mode, file.size) == ("I;16", (180, 120))
        values, words = np.array(file), file.text
    widths = opened()(picture(60, 90))
    assert np.array_equal(values / MAP_STEPS, widths)
    assert "value / 256 is in 8-bit levels" in words["Description"]
    assert "90% intervals of luma" in words["Description"]
    assert ENLARGER.sha256 in words["Description"]
    with Image.open(overlay_path(path)) as file:
        assert file.mode == "RGB"
        heat = np.array(file)
    assert np.array_equal(heat[:120], heated(picture(120, 180, seed=1), widths))
    assert np.array_equal(heat[120:], legend(180, 0.9))


def test_a_turned_source_is_looked_at_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(60, 90)).save(tmp_path / "small.png", exif=exif)
    Image.fromarray(picture(180, 120)).save(tmp_path / "large.png")
    write_guess_map(
        tmp_path / "map.png", open_picture(tmp_path / "small.png", upright=True), tmp_path / "large.png", opened()
    )
    upright = np.rot90(picture(60, 90), -1)
    with Image.open(tmp_path / "map.png") as file:
        assert np.array_equal(np.array(file) / MAP_STEPS, opened()(np.ascontiguousarray(upright)))


def test_wrong_names_and_sizes(enlarged, tmp_path):
    source, result = enlarged
    with pytest.raises(UsageError, match=r"map\.tif: a guess map is a 16-bit PNG; give it a name that ends in \.png"):
        write_guess_map(tmp_path / "map.tif", source, result, opened())
    with pytest.raises(ShapeError, match=r"small\.png: is 90 x 60, not 180 x 120 as its guess map"):
        write_guess_map(tmp_path / "map.png", source, source.path, opened())
    with pytest.raises(OutputError, match="can't be written"):
        write_guess_map(tmp_path / "no" / "map.png", source, result, opened())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.png", "small.png"]


# ---- what is shipped


@pytest.mark.parametrize("model", list_guesses(), ids=lambda model: model.card.name)
def test_shipped_guesses_know_their_networks(model):
    """By the very bytes that are shipped: a network that is trained anew needs a new calibration."""
    known = {each.card.name: each.sha256 for each in list_models()}
    found = calibrations(model)
    assert model.card.errors_of in {each.network for each in found}
    assert {each.network: each.sha256 for each in found} == {each.network: known[each.network] for each in found}
    assert {each.share for each in found} == {0.9}
    assert model.source == f"{model.card.name}.onnx"
    assert model.card.name not in known
    assert len(model.content) < 400_000


@pytest.mark.parametrize("model", list_guesses(), ids=lambda model: model.card.name)
def test_shipped_intervals_were_kept_on_pictures_that_took_no_part(model):
    """As export measured them: a network that is trained anew mustn't ship with others."""
    for each in calibrations(model):
        tested = each.tested
        assert tested["pictures"] >= 40
        assert 0.88 <= tested["coverage"] <= 0.92
        assert tested["within_75_to_99"] >= 0.95
        assert tested["ause"] < 0.8 * tested["ause_gradient"]


@pytest.mark.parametrize("model", list_guesses(), ids=lambda model: model.card.name)
def test_a_shipped_guess_network_enlarges_nothing(model, tmp_path):
    path = tmp_path / model.source
    path.write_bytes(model.content)
    with pytest.raises(UsageError, match="enlarges nothing"):
        find_model(str(path))


def test_a_card_holds_its_calibration():
    assert json.loads(card_to_text(guesser().card))["calibration"] == record()


def test_a_calibration_is_a_table():
    table = Calibration("n", "0", 0.9, "d", "p", np.array([0.5]), np.array([2.0]), {})
    assert table.half_widths_of(np.array([0.5, 0.5])).tolist() == [2.0, 2.0]
