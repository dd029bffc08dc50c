"""The judge's pages in a real browser: what a person can do with them, and what they ask of the network."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image
from skimage import data

from superfine.classical.resample import matlab_resize
from superfine.evaluate import compare as module
from superfine.evaluate.benchmark import benchmark
from superfine.evaluate.compare import Comparison, compare
from superfine.evaluate.methods import open_method
from superfine.evaluate.page import asset
from superfine.evaluate.pairs import open_dataset
from superfine.evaluate.report import save_report, show_worst

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (390, 768, 1280, 2560)
HOSTILE = '"><img src=x onerror=alert(1)>.png'
PATIENCE_MS = 180_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of this machine, else the one that Playwright fetched; that there is none is a failure."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--force-color-profile=srgb"])
        yield browser
        browser.close()


class Visit:
    """A page in a browser, and all that it asked for or complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **given: Any) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **given)
        context.set_default_timeout(PATIENCE_MS)
        self.page = context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())
        if given.get("java_script_enabled", True) and self.page.locator("#facts").count():
            self.page.wait_for_selector("html[data-ready]")
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.page.context.close()
        if kind is None:
            assert self.said == []
            assert [url for url in self.asked if not url.startswith("data:")] == [self.path.as_uri()]

    def at(self) -> float:
        """Where the divider stands, in percent, as the browser cuts the left picture."""
        cut = self.page.locator(".stage img.over").evaluate("each => getComputedStyle(each).clipPath")
        found = re.search(r"inset\(0px calc\(100% - ([\d.]+)%\) 0px 0px\)|inset\(0px ([\d.]+)% 0px 0px\)", cut)
        assert found is not None, cut
        return float(found[1]) if found[1] else 100 - float(found[2])

    def value(self) -> str:
        return str(self.page.get_by_role("slider").get_attribute("aria-valuenow"))

    def views(self, fact: str) -> list[str]:
        each: list[str] = self.page.locator(".views canvas").evaluate_all(
            "(all, fact) => all.map(each => each.dataset[fact])", fact
        )
        return each

    def canvas(self, place: int) -> np.ndarray:
        """The pixels of a crop as they are drawn."""
        uri = self.page.locator(".views canvas").nth(place).evaluate("each => each.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def small_picture() -> np.ndarray:
    return np.ascontiguousarray(matlab_resize(data.astronaut(), (256, 256))[:220, :240])


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    large = np.ascontiguousarray(data.astronaut()[:440, :480])
    return compare(matlab_resize(large, (220, 240)), ["nearest", "bicubic", "lanczos", "fast"], reference=large)


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("compare") / "page.html"
    comparison.save(path)
    return path


@pytest.fixture(scope="module")
def white(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("white") / "page.html"
    compare(np.full((300, 300, 3), 255, np.uint8), ["nearest", "bicubic"]).save(path)
    return path


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tall") / "page.html"
    picture = np.ascontiguousarray(data.astronaut()[:, 200:240])
    compare(picture, ["nearest", "bicubic", "matlab-bicubic", "lanczos"]).save(path)
    return path


#: PSNR, seconds for a million pixels: of Set5, x2, with marks that lie close together.
NETWORKS = {
    "fast-x2": (37.25, 0.703),
    "fast-int8-x2": (37.22, 0.524),
    "balanced-x2": (37.46, 1.176),
    "best-x2": (37.46, 3.847),
    "photo-x2": (34.08, 2.154),
    "three-layer-x2": (35.22, 2.348),
    "ESPCN_x2": (34.76, 2.375),
    "FSRCNN_x2": (34.85, 2.955),
    "FSRCNN-small_x2": (34.49, 1.153),
    "LapSRN_x2": (34.48, 27.45),
    "another-x2": (36.1, 9.0),
    "one-more-x2": (35.9, 0.3),
}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crowded")
    (folder / "faces").mkdir()
    Image.fromarray(data.astronaut()[:64, 180:260]).save(folder / "faces" / "a.png")
    found = benchmark([open_dataset(folder / "faces", 2)], [open_method("fast", 2)])
    row, measured = found.rows[-1], found.measurements[-1]
    rows = [
        replace(row, model=name, psnr_y=psnr, ms_per_mpx=1e3 * seconds) for name, (psnr, seconds) in NETWORKS.items()
    ]
    measurements = [replace(measured, model=name, psnr_y=psnr) for name, (psnr, _) in NETWORKS.items()]
    bases = [
        replace(each, psnr_y=psnr, ms_per_mpx=ms)
        for each, psnr, ms in zip(found.rows, (30.86, 32.25, 33.68, 34.32), (149, 139, 175, 238), strict=False)
    ]
    made = replace(found, rows=(*bases, *rows), measurements=(*found.measurements[:-1], *measurements))
    save_report(made, folder / "r.html")
    return Path(folder / "r.html")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "faces").mkdir()
    for name, picture in (("astronaut", data.astronaut()[:160, 160:320]), ("cat", data.chelsea()[60:220, 100:300])):
        Image.fromarray(picture).save(folder / "faces" / f"{name}.png")
    datasets, methods = [open_dataset(folder / "faces", 2)], [open_method(name, 2) for name in ("fast", "photo")]
    found = benchmark(datasets, methods)
    save_report(found, folder / "r.html", shown=show_worst(found, datasets, methods), command="superfine evaluate")
    return Path(folder / "r.html")


def middle(box: dict[str, float]) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_mouse_drags_the_divider(browser, page):
    with Visit(browser, page) as visit:
        box = visit.page.locator(".stage").bounding_box()
        x, y = middle(box)
        assert (visit.at(), visit.value()) == (50, "50")
        visit.page.mouse.move(x, y)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + box["width"] * 0.25, y, steps=4)
        visit.page.mouse.up()
        assert visit.at() == pytest.approx(25, abs=0.3)
        assert visit.value() == "25"
        assert visit.page.get_by_role("slider").get_attribute("aria-valuetext") == "25 % bicubic, 75 % fast-x2"
        visit.page.mouse.move(x, y)  # nothing is held any more
        assert visit.value() == "25"
        visit.page.mouse.click(box["x"] + box["width"] * 0.8, y)
        assert visit.at() == pytest.approx(80, abs=0.3)


def test_where_it_is_a_guess(browser, tmp_path, monkeypatch):
    """A button turns the layers over, and the crops with them, and back again."""

    def guess_of(sha256):
        return (lambda small: np.full((2 * small.shape[0], 2 * small.shape[1]), 64.0)) if sha256 else None

    monkeypatch.setattr(module, "find_guess", guess_of)
    compare(data.coffee()[100:180, 100:200], ["bicubic", "fast"]).save(tmp_path / "guess.html")
    with Visit(browser, tmp_path / "guess.html") as visit:
        layer, button = visit.page.locator(".stage img").nth(1), visit.page.locator("#guess")
        legend, crop = visit.page.locator(".guess"), visit.page.locator(".views canvas").nth(1)
        before = layer.get_attribute("src"), visit.page.locator(".stage img").nth(0).get_attribute("src")
        seen = crop.screenshot()
        assert not legend.is_visible()
        button.click()
        visit.page.wait_for_selector(".stage[data-guess=true]")
        assert button.get_attribute("aria-pressed") == "true"
        assert layer.get_attribute("src") != before[0]
        assert visit.page.locator(".stage img").nth(0).get_attribute("src") == before[1]
        assert legend.is_visible()
        assert crop.screenshot() != seen
        button.click()
        visit.page.wait_for_selector(".stage[data-guess=false]")
        assert button.get_attribute("aria-pressed") == "false"
        assert layer.get_attribute("src") == before[0]
        assert not legend.is_visible()


def test_the_keyboard_moves_the_divider(browser, page):
    with Visit(browser, page) as visit:
        slider = visit.page.get_by_role("slider")
        slider.focus()
        for key, wanted in (
            ("ArrowRight", 51),
            ("ArrowUp", 52),
            ("ArrowLeft", 51),
            ("Shift+ArrowLeft", 41),
            ("PageUp", 51),
            ("PageDown", 41),
            ("End", 100),
            ("ArrowRight", 100),
            ("Home", 0),
        ):
            slider.press(key)
            assert visit.at() == pytest.approx(wanted), key
            assert visit.value() == str(wanted)
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Place 1"


def test_a_finger_moves_the_divider(browser, page):
    with Visit(browser, page, 390, has_touch=True, is_mobile=True, device_scale_factor=2) as visit:
        box = visit.page.locator(".stage").bounding_box()
        visit.page.touchscreen.tap(box["x"] + box["width"] * 0.7, box["y"] + 40)
        assert visit.at() == pytest.approx(70, abs=1)
        touch = visit.page.context.new_cdp_session(visit.page)

        def send(kind: str, *points: tuple[float, float]) -> None:
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

        y = box["y"] + 60
        send("touchStart", (box["x"] + box["width"] * 0.7, y))
        for part in (0.65, 0.55, 0.4, 0.3):
            send("touchMove", (box["x"] + box["width"] * part, y))
        send("touchEnd")
        assert visit.at() == pytest.approx(30, abs=1)
        # Two fingers on a crop, going apart.
        canvas = visit.page.locator(".views canvas").nth(1)
        canvas.scroll_into_view_if_needed()
        x, y = middle(canvas.bounding_box())
        before = float(visit.views("zoom")[0])
        send("touchStart", (x - 20, y), (x + 20, y))
        for apart in (25, 30, 40):
            send("touchMove", (x - apart, y), (x + apart, y))
        send("touchEnd")
        assert float(visit.views("zoom")[0]) == pytest.approx(2 * before, rel=0.05)
        assert len(set(visit.views("zoom"))) == 1


def test_both_sides_show_what_they_say(browser, page, comparison):
    pixels = {output.name: output.pixels for output in comparison.outputs} | {"reference": comparison.reference}
    with Visit(browser, page) as visit:
        for left, right in (("bicubic", "fast-x2"), ("reference", "nearest"), ("lanczos", "lanczos")):
            visit.page.get_by_label("Left", exact=True).select_option(left)
            visit.page.get_by_label("Right", exact=True).select_option(right)
            stage = visit.page.locator(".stage")
            assert stage.bounding_box()["width"] == 480
            shot = np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB"))
            for name, part in ((left, np.s_[:, :215]), (right, np.s_[:, 265:])):
                alike = (shot[part] == pixels[name][part]).all(axis=2).mean()
                assert alike > 0.9, name  # all but the frame and the name
            assert visit.page.locator(".tag.before").inner_text() == left
            assert visit.page.locator(".tag.after").inner_text() == right


def test_crops_show_the_very_pixels_and_move_together(browser, page, comparison):
    pictures = [output.pixels for output in comparison.outputs] + [comparison.reference]

    def check(visit: Visit) -> None:
        for fact in ("x", "y", "zoom"):
            assert len(set(visit.views(fact))) == 1
        x, y, zoom = (float(visit.views(fact)[0]) for fact in ("x", "y", "zoom"))
        for place, picture in enumerate(pictures):
            drawn = visit.canvas(place)
            rows, cols = (
                start + (np.arange(side) + 0.5 - side / 2) / zoom
                for start, side in zip((y, x), drawn.shape[:2], strict=True)
            )
            # Away from the edges of pixels, where rounding decides.
            rows_in, cols_in = (np.flatnonzero(np.abs(each % 1 - 0.5) < 0.3) for each in (rows, cols))
            wanted = picture[np.ix_(rows[rows_in].astype(int), cols[cols_in].astype(int))]
            assert wanted.size > 3000
            np.testing.assert_array_equal(drawn[np.ix_(rows_in, cols_in)], wanted)

    with Visit(browser, page) as visit:
        check(visit)
        start = [visit.views(fact)[0] for fact in ("x", "y", "zoom")]
        visit.page.get_by_role("button", name="Place 2").click()
        assert [visit.views(fact)[0] for fact in ("x", "y")] != start[:2]
        assert visit.page.get_by_role("button", name="Place 2").get_attribute("aria-pressed") == "true"
        assert visit.page.get_by_role("button", name="Place 1").get_attribute("aria-pressed") == "false"
        check(visit)
        visit.page.get_by_role("button", name="Zoom in").click()
        assert float(visit.views("zoom")[0]) == pytest.approx(2 * float(start[2]), rel=1e-3)
        check(visit)
        x, y = (float(visit.views(fact)[0]) for fact in ("x", "y"))
        zoom = float(visit.views("zoom")[0])
        third = visit.page.locator(".views canvas").nth(2)
        third.scroll_into_view_if_needed()
        box = third.bounding_box()
        visit.page.mouse.move(*middle(box))
        visit.page.mouse.down()
        visit.page.mouse.move(middle(box)[0] + 30, middle(box)[1] - 20)
        visit.page.mouse.up()
        assert float(visit.views("x")[0]) == pytest.approx(x - 30 / zoom, abs=0.1)
        assert float(visit.views("y")[0]) == pytest.approx(y + 20 / zoom, abs=0.1)
        check(visit)
        visit.page.mouse.wheel(0, -200)  # after a click, so it zooms
        visit.page.wait_for_function("zoom => document.querySelector('.views canvas').dataset.zoom > zoom", arg=zoom)
        check(visit)
        visit.page.keyboard.press("-")
        visit.page.keyboard.press("ArrowRight")
        check(visit)
        visit.page.get_by_role("button", name="One pixel to one pixel").click()
        assert visit.views("zoom")[0] == "1.000"
        assert visit.page.locator("#zoom").inner_text() == "100 %"
        visit.page.locator(".views canvas").first.press("0")
        assert visit.views("zoom")[0] == start[2]


def test_the_wheel_scrolls_where_nothing_was_clicked(browser, page):
    with Visit(browser, page) as visit:
        canvas = visit.page.locator(".views canvas").first
        canvas.scroll_into_view_if_needed()
        visit.page.mouse.move(*middle(canvas.bounding_box()))
        zoom, top = visit.views("zoom"), visit.page.evaluate("scrollY")
        visit.page.mouse.wheel(0, 100)
        visit.page.wait_for_function("top => scrollY > top", arg=top)
        assert visit.views("zoom") == zoom


def test_crops_of_a_large_picture(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 200)
    monkeypatch.setattr(module, "_PIECE", 160)
    found = compare(small_picture(), ["nearest", "bicubic", "lanczos"])
    found.save(tmp_path / "page.html")
    with Visit(browser, tmp_path / "page.html") as visit:
        for place in (1, 3):
            visit.page.get_by_role("button", name=f"Place {place}").click()
            visit.page.get_by_role("button", name="One pixel to one pixel").click()
            drawn, x, y = visit.canvas(1), *(float(visit.views(fact)[0]) for fact in ("x", "y"))
            filled = drawn[drawn.shape[0] // 2 - 40 : drawn.shape[0] // 2 + 40, drawn.shape[1] // 2 - 40 :][:, :80]
            whole = found.outputs[1].pixels
            top, left = (round(value - 40 + shift) for value, shift in ((y, 0), (x, 0)))
            near = [
                np.array_equal(filled, whole[top + down : top + down + 80, left + across : left + across + 80])
                for down in (-1, 0, 1)
                for across in (-1, 0, 1)
            ]
            assert any(near)


def test_the_frame_has_the_number_of_its_place(browser, page):
    with Visit(browser, page) as visit:
        label = "getComputedStyle(document.querySelector('.frame'), '::before').content"
        assert visit.page.evaluate(label) == '"1"'
        visit.page.get_by_role("button", name="Place 2").click()
        assert visit.page.locator(".frame").get_attribute("data-spot") == "2"
        assert "The frame with a number" in visit.page.locator(".tools").first.inner_text()


def test_crops_say_that_they_are_loading(browser, page):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(PATIENCE_MS)
    shown = context.new_page()
    shown.add_init_script(
        "const held = new Promise(done => { window.release = done; }); HTMLImageElement.prototype.decode = () => held;"
    )
    shown.goto(page.as_uri())
    says = "getComputedStyle(document.querySelector('.views figure'), '::before').content"
    assert shown.evaluate(says) == '"loading…"'
    shown.evaluate("window.release()")
    shown.wait_for_selector("html[data-ready]")
    assert shown.evaluate(says) == "none"
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_tall_picture_stays_on_the_screen(browser, tall, width):
    with Visit(browser, tall, width) as visit:
        boxes = visit.page.locator(".tag, .maps img").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().height)"
        )
        assert boxes[:2] == [24, 24]  # names on one line
        assert len(boxes) == 5
        assert max(boxes[2:]) <= 0.6 * 900
        stage, *tags = visit.page.locator(".stage, .tag").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().toJSON())"
        )
        assert all(stage["left"] <= tag["left"] < tag["right"] <= stage["right"] for tag in tags)
        assert tags[0]["bottom"] <= tags[1]["top"]  # in so narrow a picture one above the other
        assert min(tag["width"] for tag in tags) >= 0.7 * stage["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_white_picture_has_an_edge(browser, white, scheme):
    with Visit(browser, white, color_scheme=scheme) as visit:
        ground, edges = visit.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                [...document.querySelectorAll(".stage, .views canvas, .maps img, .spots canvas")].map(
                    each => getComputedStyle(each).boxShadow)]"""
        )
        assert len(edges) == 1 + 2 + 1 + 1
        for edge in edges:
            assert contrast(edge.partition(")")[0], ground) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_of_many_networks_can_be_told_apart(browser, crowded, scheme):
    with Visit(browser, crowded, color_scheme=scheme) as visit:
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        marks = visit.page.locator(".legend .mark.network").evaluate_all(
            "all => all.map(each => [getComputedStyle(each).fill, each.getAttribute('d')])"
        )
        assert len({tuple(mark) for mark in marks}) == len(NETWORKS) == 12
        assert len({shape for _, shape in marks[:11]}) == 11
        assert all(contrast(colour, ground) >= 3 for colour, _ in marks)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_label_lies_on_a_mark_or_a_label(browser, crowded, width):
    with Visit(browser, crowded, width) as visit:
        marks, labels = visit.page.evaluate(
            """() => {
                const box = each => each.getBoundingClientRect().toJSON();
                const shown = [...document.querySelectorAll("svg.chart")].find(each => box(each).width);
                return [".mark", ".label"].map(kind => [...shown.querySelectorAll(kind)].map(each =>
                    ({...box(each), name: each.textContent.split(":")[0]})));
            }"""
        )
        assert len(marks) == len(labels) == 16
        for place, label in enumerate(labels):
            for other in [*marks, *labels[:place]]:
                across = min(label["right"], other["right"]) - max(label["left"], other["left"])
                down = min(label["bottom"], other["bottom"]) - max(label["top"], other["top"])
                assert min(across, down) < 2, (label["name"], other["name"])


def test_a_hostile_name_in_a_browser(browser, tmp_path):
    Image.fromarray(small_picture()[:60, :60]).save(tmp_path / HOSTILE)
    compare(tmp_path / HOSTILE, ["nearest", "bicubic"]).save(tmp_path / "page.html")
    with Visit(browser, tmp_path / "page.html") as visit:
        assert visit.page.locator("h1").inner_text() == HOSTILE
        assert visit.page.locator("img[src='x']").count() == 0


def test_nothing_else_may_run_or_load(browser, page):
    visit = Visit(browser, page)
    refused = visit.page.evaluate(
        """async () => {
            const image = new Promise(done => {
                const made = new Image();
                made.onload = () => done("loaded");
                made.onerror = () => done("refused");
                made.src = "https://example.com/a.png";
            });
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
            const fetched = fetch("data:text/plain,a").then(() => "loaded", () => "refused");
            return [await image, await fetched, document.title === "ran" ? "ran" : "refused"];
        }"""
    )
    assert refused == ["refused"] * 3
    visit.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["page", "report", "tall", "crowded"])
def test_no_page_is_wider_than_its_window(browser, name, width, request):
    with Visit(browser, request.getfixturevalue(name), width) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        wide = visit.page.evaluate(
            """() => [...document.querySelectorAll("main *")].filter(each => {
                if (each.closest(".scroll, .stage, svg, .only-read, [hidden]")) return false;
                const box = each.getBoundingClientRect();
                return box.right > innerWidth + 1 || box.left < -1;
            }).map(each => each.outerHTML.slice(0, 80))"""
        )
        assert wide == []


@pytest.mark.parametrize("width", WIDTHS)
def test_letters_of_the_charts_can_be_read_and_lie_apart(browser, report, width):
    with Visit(browser, report, width) as visit:
        sizes, boxes = visit.page.evaluate(
            """() => {
                const box = each => each.getBoundingClientRect().toJSON();
                const shown = [...document.querySelectorAll("svg.chart")].filter(each => box(each).width);
                const sizes = shown.map(each => 12 * box(each).width / each.viewBox.baseVal.width);
                return [sizes, [...shown[0].querySelectorAll(".label")].map(box)];
            }"""
        )
        assert len(sizes) == 2
        assert min(sizes) >= 10
        assert len(boxes) == 6
        for place, one in enumerate(boxes):
            for other in boxes[:place]:
                across = min(one["right"], other["right"]) - max(one["left"], other["left"])
                down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
                assert min(across, down) < 2


def lightness(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2."""
    values = [float(value) / 255 for value in re.findall(r"[\d.]+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Of two colours, 1 to 21. Source: WCAG 2.2."""
    dark, light = sorted(map(lightness, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["page", "report"])
def test_colours_follow_the_reader_and_can_be_read(browser, name, scheme, request):
    with Visit(browser, request.getfixturevalue(name), color_scheme=scheme) as visit:
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (lightness(ground) < 0.02) == (scheme == "dark")
        assert (lightness(ground) > 0.9) == (scheme == "light")
        pairs = visit.page.evaluate(
            """() => [...document.querySelectorAll("main *")].filter(each =>
                [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())
                && each.getClientRects().length && !each.closest("script, style")
            ).map(each => {
                const ground = of => getComputedStyle(of).backgroundColor;
                let behind = each;
                while (ground(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
                const style = getComputedStyle(each);
                return [each instanceof SVGElement ? style.fill : style.color, ground(behind), each.textContent];
            })"""
        )
        assert len(pairs) > 40
        for colour, behind, text in pairs:
            assert contrast(colour, behind) >= 4.5, (text, colour, behind)


def test_without_javascript_it_still_shows_a_comparison(browser, page, comparison):
    with Visit(browser, page, java_script_enabled=False) as visit:
        shot = np.asarray(Image.open(io.BytesIO(visit.page.locator(".stage").screenshot())).convert("RGB"))
        assert shot.shape == (440, 480, 3)
        for output, part in ((comparison.outputs[1], np.s_[:, :215]), (comparison.outputs[3], np.s_[:, 265:])):
            assert (shot[part] == output.pixels[part]).all(axis=2).mean() > 0.9
        assert "need JavaScript" in visit.page.locator("noscript").inner_text()


def test_every_control_has_a_name(browser, page):
    with Visit(browser, page) as visit:
        nameless = visit.page.evaluate(
            """() => [...document.querySelectorAll("button, select, canvas[tabindex], [role=slider], [role=region]")]
                .filter(each => !(each.ariaLabel || each.textContent.trim() || each.labels?.length))
                .map(each => each.outerHTML)"""
        )
        assert nameless == []
        assert visit.page.locator("img:not([alt])").count() == 0
        assert visit.page.evaluate("document.documentElement.lang") == "en"


def test_the_notebook_frame_works(browser, comparison, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><title>n</title><body>{comparison._repr_html_()}", encoding="utf-8")
    context = browser.new_context(viewport={"width": 1000, "height": 900}, offline=True)
    context.set_default_timeout(PATIENCE_MS)
    shown = context.new_page()
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.goto(path.as_uri())
    frame = shown.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for()
    frame.get_by_role("slider").press("Home")
    assert frame.get_by_role("slider").get_attribute("aria-valuenow") == "0"
    assert said == []
    context.close()


def test_one_accent_and_no_font_from_elsewhere():
    style = asset("page.css")
    assert "@font-face" not in style
    assert "@import" not in style
    assert len(re.findall(r"--accent:", style)) == 3  # light, dark, print
