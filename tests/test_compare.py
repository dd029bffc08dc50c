"""A picture by several methods: what is chosen, what is measured, what lies on the page."""

import base64
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from fakes import onnx_network
from superfine.classical.resample import matlab_resize
from superfine.errors import OutputError, ShapeError, SourceError, SuperfineError, UsageError
from superfine.evaluate import compare as module
from superfine.evaluate.compare import (
    compare,
    default_models,
    difference,
    most_different,
)
from superfine.evaluate.methods import open_method
from superfine.evaluate.page import best_of, escape, html_number, is_best, number, page
from superfine.heat import colour_map, heated
from superfine.models import list_models

HOSTILE = "\"><img src=x onerror=alert(1)>'&.png"


@dataclass
class Fake:
    """A method whose answer is known."""

    name: str
    scale: int
    make: Callable[[np.ndarray], np.ndarray]
    engine: str = "by hand"
    precision: str = "exact"
    sha256: str = "0123456789abcdef" * 4
    parameters: int = 1234
    file_bytes: int = 5678
    notes: tuple[str, ...] = ()

    def __call__(self, pixels):
        return self.make(pixels)


def squares(pixels, scale=2):
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def brighter(pixels):
    return np.minimum(squares(pixels).astype(int) + 10, 255).astype(np.uint8)


SQUARES, BRIGHTER = Fake("squares", 2, squares), Fake("brighter", 2, brighter)


class Found(HTMLParser):
    """Tags with their attributes, and the text inside some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def pixels_of(uri):
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def crop(rows=60, cols=80):
    return np.ascontiguousarray(data.astronaut()[:rows, 180 : 180 + cols])


def runs_of(found):
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", line) for line in re.findall(r"<tr>(.*?)</tr>", found.html())]
    place = next(row for row in rows if "runs" in row).index("runs")
    return {row[0]: row[place] for row in rows if row[0] in [output.name for output in found.outputs]}


def by_pairs(outputs, spot):
    part = [
        each[spot.top : spot.top + spot.side, spot.left : spot.left + spot.side].astype(np.float64) for each in outputs
    ]
    return np.mean([np.abs(a - b).mean() for a, b in itertools.combinations(part, 2)])


def test_spots_are_where_they_differ():
    draw = np.random.default_rng(1)
    ground = draw.integers(60, 180, (300, 400, 3), np.uint8)
    outputs = [ground, ground.copy(), ground.copy(), ground.copy()]
    outputs[1][200:230, 300:330] += 50
    outputs[2][40:60, 40:60] -= 40
    outputs[3] += draw.integers(0, 2, ground.shape, np.uint8)
    spots = most_different(outputs)
    assert len(spots) == 5
    first, second = spots[:2]
    for spot, (top, left), (bottom, right) in ((first, (200, 300), (230, 330)), (second, (40, 40), (60, 60))):
        assert (spot.top <= top, spot.left <= left) == (True, True)
        assert (spot.top + spot.side >= bottom, spot.left + spot.side >= right) == (True, True)
    for spot in spots:
        assert spot.difference == pytest.approx(by_pairs(outputs, spot), rel=1e-9)
        assert 0 <= spot.top <= 300 - spot.side
        assert 0 <= spot.left <= 400 - spot.side
    for a, b in itertools.combinations(spots, 2):
        assert max(abs(a.top - b.top), abs(a.left - b.left)) >= a.side
        assert np.hypot(a.top - b.top, a.left - b.left) >= 100
    assert [spot.difference for spot in spots] == sorted((spot.difference for spot in spots), reverse=True)


def test_the_first_spot_is_the_greatest_of_all_squares():
    draw = np.random.default_rng(2)
    outputs = [draw.integers(0, 256, (70, 90, 3), np.uint8) for _ in range(3)]
    first = most_different(outputs)[0]
    step = first.side // 4
    everywhere = [
        by_pairs(outputs, first._replace(top=top, left=left))
        for top in range(0, 70 - first.side + 1, step)
        for left in range(0, 90 - first.side + 1, step)
    ]
    assert first.difference == pytest.approx(max(everywhere), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3, 3), (5, 200, 3), (33, 31, 3)])
def test_spots_of_small_pictures_lie_inside(shape):
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    spots = most_different([black, white])
    assert spots
    for spot in spots:
        assert spot.side >= 1
        assert spot.top + spot.side <= shape[0]
        assert spot.left + spot.side <= shape[1]
        assert spot.difference == pytest.approx(255)


def test_equal_pictures_have_one_spot():
    picture = crop()
    spots = most_different([picture, picture])
    assert [spot.difference for spot in spots] == [0]


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(12, 18, 3), (13, 17, 3), (1, 1, 3)])
def test_difference_by_hand(shape, factor):
    draw = np.random.default_rng(3)
    a, b = (draw.integers(0, 256, shape, np.uint8) for _ in range(2))
    apart = np.abs(a.astype(float) - b.astype(float)).mean(axis=2)
    wanted = [
        [apart[top : top + factor, left : left + factor].mean() for left in range(0, shape[1], factor)]
        for top in range(0, shape[0], factor)
    ]
    np.testing.assert_allclose(difference(a, b, factor), wanted, rtol=1e-5)


def test_difference_goes_on_below_a_band():
    a = np.zeros((700, 3, 3), np.uint8)
    b = a.copy()
    b[600:] = 9
    np.testing.assert_allclose(difference(a, b)[:, 0], np.where(np.arange(700) < 600, 0, 9), rtol=1e-6)


def test_colours_grow_evenly_lighter():
    lightness = rgb2lab(colour_map()[None])[0, :, 0]
    steps = np.diff(lightness[::5])
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.mean()
    assert lightness[0] < 8
    assert lightness[-1] > 92


def test_figures_against_scikit_image():
    large = crop()
    small = matlab_resize(large, (30, 40))
    found = compare(small, ["bicubic", SQUARES], reference=large)
    inside = (slice(2, -2), slice(2, -2))
    for output in found.outputs:
        assert output.figures is not None
        wanted = peak_signal_noise_ratio(large[inside], output.pixels[inside], data_range=255)
        assert output.figures.psnr_rgb == pytest.approx(wanted, abs=1e-4)
    np.testing.assert_array_equal(found.outputs[1].pixels, squares(small))
    text = found.html()
    assert found.protocol_y == "Y601-limited, crop 2, matlab-bicubic"
    assert found.protocol_y in text
    assert found.protocol_rgb in text
    assert f"{found.outputs[0].figures.psnr_rgb:.2f}" in text
    given = compare(small, ["bicubic", SQUARES], reference=np.roll(large, 1, axis=0))
    assert given.protocol_y == "Y601-limited, crop 2, LR as given"


def test_an_exact_result_is_identical():
    small = crop(20, 24)
    found = compare(small, [SQUARES, BRIGHTER], reference=squares(small))
    assert '<abbr title="identical">∞</abbr>' in found.html()
    cells = re.findall(r'<td class="(?:group )?best">', found.html())
    assert len(cells) == 4  # PSNR and SSIM of Y and of RGB


def test_nothing_is_best_where_all_are_alike():
    small = crop(20, 24)
    same = Fake("the same", 2, squares)
    text = compare(small, [SQUARES, same], reference=squares(small)).html()
    assert 'class="best"' not in text
    assert "marks the best" not in text


def test_time_is_the_median_of_three_after_a_first(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 10.1, 20.0, 20.3, 30.0, 30.2, *(float(tick) for tick in range(100, 900))])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    found = compare(crop(8, 8), [SQUARES, BRIGHTER])
    assert found.outputs[0].seconds == pytest.approx(0.2)
    assert found.outputs[1].seconds == 1.0
    assert [output.runs for output in found.outputs] == [3, 3]
    assert runs_of(found) == {"squares": "3", "brighter": "3"}
    slow = iter([0.0, 11.0, 20.0, 31.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(slow))
    found = compare(crop(8, 8), [SQUARES, BRIGHTER])
    assert (found.outputs[0].seconds, found.outputs[0].facts()["runs"]) == (11.0, 0)
    assert runs_of(found) == {"squares": "first", "brighter": "first"}


def test_the_page_carries_the_very_pixels():
    small = crop()
    found = compare(small, ["nearest", "bicubic", BRIGHTER], reference=brighter(small))
    html = Found(found.html())
    images = html.all("img")
    wanted = [output.pixels for output in found.outputs]
    for attributes, pixels in zip(images, [*wanted, found.reference], strict=False):
        np.testing.assert_array_equal(pixels_of(attributes["src"]), pixels)
        assert (attributes["height"], attributes["width"]) == tuple(map(str, pixels.shape[:2]))
    assert len(images) == 4 + 3  # whole pictures, difference maps
    facts = json.loads(html.texts["script"][0])
    assert (facts["rows"], facts["cols"], facts["whole"]) == (120, 160, True)
    assert pixels_of(images[-1]["src"]).tolist()[0][0] == colour_map()[0].tolist()  # the exact one has no difference


def guess_of(sha256):
    """Intervals for the method BRIGHTER alone: as wide as the column's number."""
    known = replace(BRIGHTER, sha256="b" * 64).sha256
    return (
        (lambda small: np.tile(np.arange(2.0 * small.shape[1]), (2 * small.shape[0], 1))) if sha256 == known else None
    )


def test_a_button_shows_where_it_is_a_guess(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_guess", guess_of)
    sure = replace(BRIGHTER, name="sure", sha256="b" * 64)
    Image.fromarray(crop()).save(tmp_path / "clean.png")
    found = compare(tmp_path / "clean.png", [SQUARES, sure])
    widths = np.tile(np.arange(160.0), (120, 1))
    assert found.outputs[0].half_widths is None
    np.testing.assert_array_equal(found.outputs[1].half_widths, widths)
    html = Found(found.html())
    plain, other = html.all("img")[:2]
    assert "data-heat" not in plain
    np.testing.assert_array_equal(pixels_of(other["data-heat"]), heated(found.outputs[1].pixels, widths))
    assert [each["aria-pressed"] for each in html.all("button") if each.get("id") == "guess"] == ["false"]
    assert "Of sure: half-widths" in found.html()


def test_without_intervals_there_is_no_such_button(monkeypatch, tmp_path):
    """Not for methods that nothing was calibrated for, and for none where the source is lossy."""
    monkeypatch.setattr(module, "find_guess", guess_of)
    Image.fromarray(crop()).save(tmp_path / "lossy.jpg")
    for source, methods in (
        (crop(), [SQUARES, BRIGHTER]),
        (tmp_path / "lossy.jpg", [SQUARES, replace(BRIGHTER, sha256="b" * 64)]),
    ):
        found = compare(source, methods)
        assert [output.half_widths for output in found.outputs] == [None, None]
        assert not [each for each in Found(found.html()).all("button") if each.get("id") == "guess"]
        assert "half-widths" not in found.html()


def test_maps_of_small_pictures_are_made_of_squares():
    found = compare(crop(8, 8), [SQUARES, BRIGHTER, "bicubic"])
    shown = pixels_of(Found(found.html()).all("img")[-1]["src"])
    assert shown.shape == (800, 800, 3)
    blocks = shown.reshape(16, 50, 16, 50, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert len(np.unique(blocks[:, 0, :, 0].reshape(-1, 3), axis=0)) > 3


def test_large_pictures_are_reduced_and_their_crops_are_not(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 100)
    monkeypatch.setattr(module, "_PIECE", 48)
    found = compare(crop(), [SQUARES, "bicubic", BRIGHTER])
    html = Found(found.html())
    images = html.all("img")
    facts = json.loads(html.texts["script"][0])
    assert not facts["whole"]
    assert [(each["width"], each["height"]) for each in images[:3]] == [("100", "75")] * 3
    pieces = {each["id"]: pixels_of(each["src"]) for each in images if each.get("class") == "piece"}
    assert len(pieces) == 3 * len(facts["spots"])
    for method, output in enumerate(found.outputs):
        for place, (top, left, rows, cols) in enumerate(facts["pieces"]):
            np.testing.assert_array_equal(
                pieces[f"crop-{method}-{place}"], output.pixels[top : top + rows, left : left + cols]
            )
    for (top, left), (piece_top, piece_left, rows, cols) in zip(facts["spots"], facts["pieces"], strict=True):
        assert piece_top <= top <= top + facts["side"] <= piece_top + rows <= 120
        assert piece_left <= left <= left + facts["side"] <= piece_left + cols <= 160
    assert "100 &times; 75 px" in found.html()


def test_a_hostile_name_stays_text(tmp_path):
    source = tmp_path / HOSTILE
    Image.fromarray(crop(16, 16)).save(source)
    evil = Fake(f"</script>{HOSTILE}", 2, brighter, notes=("<b>",))
    found = compare(source, [SQUARES, evil], reference=squares(crop(16, 16)))
    html = Found(found.html())
    assert found.source == HOSTILE
    assert HOSTILE in "".join(html.texts["h1"])
    assert not [name for _, attributes in html.tags for name in attributes if name.startswith("on") or name == "style"]
    assert all(each["src"].startswith("data:image/png;base64,") for each in html.all("img"))
    assert len(html.all("script")) == 2
    assert not html.all("b")
    shell = Found(found._repr_html_())
    assert [tag for tag, _ in shell.tags] == ["iframe"]
    assert shell.all("iframe")[0]["srcdoc"] == found.html()
    assert shell.all("iframe")[0]["sandbox"] == "allow-scripts"


def test_a_strangers_network_is_compared_by_its_name(tmp_path):
    nodes = [
        ("Concat", ["x"] * 4, "parts", {"axis": 1}),
        ("DepthToSpace", ["parts"], "y", {"blocksize": 2, "mode": "DCR"}),
    ]
    (tmp_path / "doubled.onnx").write_bytes(onnx_network(nodes, {}))
    small = crop(20, 24)
    found = compare(small, [str(tmp_path / "doubled.onnx"), "bicubic"], foreign_colour="rgb", foreign_range="0..1")
    stranger = found.outputs[0]
    np.testing.assert_array_equal(stranger.pixels, squares(small))
    assert (stranger.name, stranger.file_bytes) == ("doubled", (tmp_path / "doubled.onnx").stat().st_size)


def test_facts_are_json(tmp_path):
    small = crop(20, 24)
    found = compare(small, [SQUARES, "fast"], reference=squares(small))
    exact, network = (json.loads(json.dumps(output.facts(), allow_nan=False)) for output in found.outputs)
    assert exact["name"] == "squares"
    assert exact["size"] == [40, 48]
    assert exact["psnr_y"] == "inf"
    assert network["psnr_y"] == found.outputs[1].figures.psnr_y
    assert network["file_bytes"] == next(len(each.content) for each in list_models() if each.card.name == "fast-x2")
    tiny = compare(crop(4, 4), [open_method("fast", 2), BRIGHTER], reference=squares(crop(4, 4)))
    assert tiny.outputs[0].facts()["ssim_y"] is None
    assert tiny.outputs[0].file_bytes == network["file_bytes"]
    assert "psnr_y" not in compare(crop(4, 4), [SQUARES, BRIGHTER]).outputs[0].facts()


def test_names_that_are_no_text():
    assert escape("a\udc80b") == "a\\udc80b"
    page("\udcff", "").encode("utf-8")


def test_the_page_may_load_nothing():
    text = compare(crop(16, 16), [SQUARES, BRIGHTER]).html()
    html = Found(text)
    policy = next(each["content"] for each in html.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, content in (("style-src", html.texts["style"][0]), ("script-src", html.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|url\((?!#)|@import|fetch\(|XMLHttp", without_pictures)
    assert "script-src" not in page("title", "body")


def test_default_models_are_those_of_the_scale():
    assert default_models(2) == ("nearest", "bicubic", "fast", "balanced", "photo")
    assert default_models(3) == ("nearest", "bicubic", "fast", "balanced")
    assert default_models(5) == ("nearest", "bicubic")


def test_networks_that_the_scale_lacks_are_named():
    assert compare(crop(8, 8), scale=2).notes == ()
    found = compare(crop(8, 8), scale=3)
    assert found.notes == ("compared by default, but not there for x3: photo (only x2, x4)",)
    assert found.notes[0] in found.html()
    (note,) = compare(crop(4, 4), scale=8).notes
    assert all(name in note for name in ("x8", "fast (only x2, x3, x4)", "balanced", "photo"))
    assert compare(crop(8, 8), ["nearest", "lanczos"], scale=8).notes == ()


def test_transparency_is_laid_on_white_and_said(tmp_path):
    levels = np.dstack([crop(8, 8), np.full((8, 8), 0, np.uint8)])
    Image.fromarray(levels).save(tmp_path / "<clear>.png")
    Image.fromarray(crop(8, 8)).save(tmp_path / "solid.png")
    clear = compare(tmp_path / "<clear>.png", [SQUARES, BRIGHTER])
    assert (clear.outputs[0].pixels == 255).all()
    assert clear.notes == ("<clear>.png: its transparency was laid on white",)
    assert "&lt;clear&gt;.png: its transparency was laid on white" in clear.html()
    assert compare(tmp_path / "solid.png", [SQUARES, BRIGHTER]).notes == ()


def test_engine_and_precision_are_handed_on():
    whole = compare(crop(8, 8), ["bicubic", "fast"], precision="fp32").outputs[1]
    assert whole.precision == "fp32"
    with pytest.raises(SuperfineError, match="onnxruntim"):
        compare(crop(8, 8), ["bicubic", "fast"], engine="onnxruntim")


def test_networks_bring_their_facts():
    found = compare(crop(24, 24), ["bicubic", "fast"], scale=3)
    network = found.outputs[1]
    assert (network.name, network.parameters > 20_000, network.file_bytes > 50_000) == ("fast-x3", True, True)
    assert network.sha256[:8] in found.html()
    assert network.pixels.shape == (72, 72, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1)])
def test_grey_and_other_depths(kind, shape):
    levels = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    factor = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[kind]
    found = compare((levels * np.float64(factor)).astype(kind), [SQUARES, BRIGHTER])
    np.testing.assert_array_equal(found.outputs[0].pixels[::2, ::2, 1], levels.reshape(9, 7))


def test_wrong_calls_say_the_way_out(tmp_path):
    picture = crop(16, 16)
    with pytest.raises(ShapeError, match=r"reference: is 30 x 32, the results are 32 x 32; give a reference"):
        compare(picture, [SQUARES, BRIGHTER], reference=np.zeros((32, 30, 3), np.uint8))
    with pytest.raises(UsageError, match="one method has nothing to stand beside"):
        compare(picture, ["bicubic"])
    with pytest.raises(UsageError, match="squares is there twice"):
        compare(picture, [SQUARES, SQUARES])
    with pytest.raises(UsageError, match=r"squares enlarges x2, not x3"):
        compare(picture, ["nearest", SQUARES], scale=3)
    with pytest.raises(UsageError, match="no model 'bikubic'"):
        compare(picture, ["bikubic", "nearest"])
    with pytest.raises(ShapeError, match="lay alpha on a ground"):
        compare(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ShapeError, match="empty side"):
        compare(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ShapeError, match="want uint8, uint16 or float32"):
        compare(np.zeros((4, 4, 3), np.int32), [SQUARES, BRIGHTER])
    with pytest.raises(ShapeError, match=r"odd made \(3, 3, 3\) where \(32, 32, 3\) was wanted"):
        compare(picture, [SQUARES, Fake("odd", 2, lambda pixels: pixels[:3, :3])])
    with pytest.raises(SourceError, match="missing"):
        compare(tmp_path / "missing.png")
    with pytest.raises(UsageError, match=r"--scale 100 is over 16; give one from 1 to 16"):
        compare(tmp_path / "missing.png", scale=100)
    with pytest.raises(UsageError, match=r"--scale 0 is under 1; give one from 1 to 16"):
        compare(tmp_path / "missing.png", scale=0)


def test_saving_is_whole_or_not_at_all(tmp_path):
    found = compare(crop(16, 16), [SQUARES, BRIGHTER])
    target = tmp_path / "page.html"
    found.save(target)
    assert target.read_text(encoding="utf-8") == found.html()
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(UsageError, match=r"photo\.png: is to be a page; give it a name that ends in \.html"):
        found.save(tmp_path / "photo.png")
    with pytest.raises(OutputError, match="can't be written"):
        found.save(tmp_path / "nowhere" / "page.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match="not a file"):
        found.save(tmp_path / "folder.html")


def test_the_listener_hears_each_method():
    class Ear(module.Listener):
        heard: tuple[Any, ...] = ()

        def begin(self, steps):
            self.heard += (steps,)

        def step(self, picture, model):
            self.heard += (model,)

    ear = Ear()
    compare(crop(8, 8), [SQUARES, BRIGHTER], listener=ear)
    assert ear.heard == (2, "squares", "brighter")


def test_numbers():
    assert number(1234.567, 1) == "1,234.6"
    assert number(float("nan"), 2) == "\N{EN DASH}"
    assert number(float("inf"), 2) == "∞"
    assert number(float("-inf"), 2) == "-∞"
    assert html_number(float("inf"), 2) == '<abbr title="identical">∞</abbr>'
    assert html_number(37.249, 2) == "37.25"


def test_the_best_of_a_column():
    assert best_of([3.0, math.nan, 5.0], 2) == 5
    assert best_of([3.0, math.inf], 2) == math.inf
    assert best_of([3.0, 5.0], 2, better=-1) == 3
    assert math.isnan(best_of([3.001, 3.002], 2))
    assert math.isnan(best_of([math.nan, 3.0], 2))
    assert math.isnan(best_of([], 2))
    assert is_best(3.001, 3.002, 2)
    assert not is_best(3.001, 3.002, 3)
    assert not is_best(math.nan, math.nan, 2)


def test_page_files_lie_in_the_package():
    folder = Path(module.__file__).parent
    assert {"page.css", "compare.js"} <= {entry.name for entry in folder.iterdir()}
