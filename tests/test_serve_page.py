"""The page of `superfine serve` in a real browser, before a real server: what a person can do, and whom it asks."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data

import superfine
from clips import rgb_frame
from ports import held_port
from superfine import heat
from superfine.classical.resample import matlab_resize
from superfine.inspection import inspect

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (390, 820, 1280, 2560)
HOSTILE = '"><img src=x onerror=alert(1)>.png'
TOKEN = "a-token-of-more-than-sixteen-letters"  # noqa: S105 - of a test
TIMES = "\N{MULTIPLICATION SIGN}"
PATIENCE_MS = 180_000
# What browsers say of themselves where an answer is an error, and of headers that only count over TLS.
REFUSED, UNTRUSTED = "Failed to load resource", "The Cross-Origin-Opener-Policy header has been ignored"

SERVER = """
from pathlib import *
from superfine.serve.running import Start, run
run(Start(**{given}), lambda text: print(text, flush=True))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of this machine, else the one that Playwright fetched; that there is none is a failure."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--force-color-profile=srgb", "--host-resolver-rules=MAP superfine.test 127.0.0.1"],
        )
        yield browser
        browser.close()


class Server:
    """`superfine serve` in a process of its own, on a port of its own."""

    def __init__(self, state: Path, **given: Any) -> None:
        self.port = held_port()
        self.given = {"port": self.port, "state": state, "workers": 1, **given}
        self.url = f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(given=self.given)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert f":{self.port}" in self.process.stdout.readline()
        return self

    def __exit__(self, *rest: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE_MS / 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


class Visit:
    """A page in a browser, and all that it asked for or complained about."""

    def __init__(
        self, browser: Any, url: str, width: int = 1280, *, may_say: str | tuple[str, ...] = (), **given: Any
    ) -> None:
        height = 844 if width < 500 else 900
        self.context = browser.new_context(viewport={"width": width, "height": height}, **given)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.url = url
        self.may_say = may_say
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.context.close()
        if kind is None:
            assert [text for text in self.said if not text.startswith(self.may_say)] == []
            home = re.match(r"https?://[^/]+/", self.url)
            assert home is not None
            assert [url for url in self.asked if not url.startswith((home[0], f"blob:{home[0]}"))] == []

    def card(self, name: str) -> Any:
        return self.page.locator(".card").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def part(self, name: str, part: str) -> Any:
        return self.card(name).locator(f"[data-part={part}]")

    def add(self, *files: Path) -> None:
        self.page.set_input_files("#files", files)
        for file in files:
            self.page.wait_for_selector(f".card:not([data-phase=sending]) >> text={file.name}", timeout=PATIENCE_MS)

    def remove(self, name: str) -> None:
        self.part(name, "remove").click()
        if self.page.locator("#confirm").is_visible():  # of what isn't downloaded
            self.page.get_by_role("button", name="Remove", exact=True).click()

    def reaches(self, name: str, phase: str) -> None:
        self.page.locator(f".card[data-phase={phase}]").filter(
            has=self.page.get_by_role("heading", name=name, exact=True)
        ).wait_for(timeout=PATIENCE_MS)

    def compare(self, name: str) -> None:
        self.part(name, "compare").click()
        self.page.wait_for_selector("#viewer[open]")
        self.page.locator("#stage img").last.evaluate("each => each.decode()")

    def ask(self, path: str) -> Any:
        return self.page.evaluate("path => fetch(path).then(answer => answer.json())", f"api/v1/{path}")

    def wide(self) -> bool:
        """There is something to scroll to sideways."""
        found: bool = self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return found

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))

    # The viewer

    def at(self) -> float:
        """How much of what is seen of the pictures is the original, in percent, as the browser cuts it."""
        cut = self.page.locator("#before").evaluate("each => getComputedStyle(each).clipPath")
        found = re.search(r"inset\(0px calc\(100% - ([\d.]+)px\) 0px 0px\)", cut)
        assert found is not None, cut
        stage = self.page.locator("#stage").bounding_box()
        picture = self.boxes()[0]
        left, right = max(picture["left"], stage["x"]), min(picture["right"], stage["x"] + stage["width"])
        return 100 * (float(found[1]) + stage["x"] - left) / (right - left)

    def value(self) -> str:
        return str(self.page.get_by_role("slider", name="Divider").get_attribute("aria-valuenow"))

    def view(self) -> tuple[float, float, float]:
        facts = self.page.locator("#stage").evaluate("each => ({...each.dataset})")
        return float(facts["x"]), float(facts["y"]), float(facts["zoom"])

    def boxes(self) -> list[dict[str, float]]:
        """Where the pictures lie in the window."""
        found: list[dict[str, float]] = self.page.locator("#stage .layer > *").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().toJSON())"
        )
        return found


def small_astronaut(side: int = 96) -> np.ndarray:
    return np.ascontiguousarray(matlab_resize(data.astronaut()[:384, 64:448], (side, side)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to add."""
    folder: Path = tmp_path_factory.mktemp("files")
    Image.fromarray(small_astronaut()).save(folder / "astronaut.png")
    Image.fromarray(data.chelsea()[60:180, 100:260]).save(folder / "cat.jpg", quality=60)
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    Image.fromarray(np.tile(data.coffee(), (3, 3, 1))).save(folder / "large.png")  # of many bands and tiles
    Image.fromarray(data.rocket()[:40, :60]).save(folder / HOSTILE)
    Image.fromarray(data.rocket()[:40, :60]).save(folder / "image.png")
    (folder / "letter.png").write_text("Dear Sir or Madam")
    with av.open(str(folder / "clip.webm"), "w") as container:
        stream = container.add_stream("vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(10):
            for packet in stream.encode(rgb_frame(data.astronaut()[100 : 100 + 64, 150 + 4 * number :][:, :96])):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return folder


@pytest.fixture(scope="module")
def gallery(browser: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which two pictures are done, one of them with its guess map."""
    with Server(tmp_path_factory.mktemp("gallery")) as server:
        with Visit(browser, server.url) as visit:
            visit.add(folder / "astronaut.png", folder / "cat.jpg")
            visit.part("astronaut.png", "model").select_option("fast")
            visit.part("astronaut.png", "scale").select_option("4")
            visit.card("astronaut.png").get_by_text("More settings").click()
            visit.part("astronaut.png", "guess").check()
            visit.part("cat.jpg", "model").select_option("fast")
            visit.part("cat.jpg", "scale").select_option("2")
            visit.page.get_by_role("button", name="Enlarge all").click()
            visit.reaches("astronaut.png", "done")
            visit.reaches("cat.jpg", "done")
        yield server


def middle(box: dict[str, float]) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


# ---- The whole way


def test_a_picture_goes_the_whole_way(browser, server, folder):
    with Visit(browser, server.url, accept_downloads=True) as visit:
        assert "Nothing leaves this machine" in visit.page.locator("header").first.inner_text()
        visit.add(folder / "cat.jpg")
        wanted = inspect(folder / "cat.jpg")
        assert wanted.why in visit.part("cat.jpg", "why").inner_text()
        assert visit.part("cat.jpg", "model").input_value() == wanted.model
        assert visit.part("cat.jpg", "scale").input_value() == str(wanted.scale)
        assert visit.part("cat.jpg", "facts").inner_text().startswith(f"160 {TIMES} 120")
        visit.part("cat.jpg", "model").select_option("fast")
        visit.part("cat.jpg", "scale").select_option("3")
        visit.part("cat.jpg", "format").select_option("png")
        assert visit.part("cat.jpg", "outcome").inner_text() == f"Makes 480 {TIMES} 360 of 160 {TIMES} 120"
        visit.page.get_by_role("button", name="Enlarge cat.jpg").click()
        visit.reaches("cat.jpg", "done")
        with visit.page.expect_download() as download:
            visit.card("cat.jpg").get_by_role("link", name="Download").click()
        assert download.value.suggested_filename == "cat_x3.png"
        made = np.asarray(Image.open(download.value.path()))
        np.testing.assert_array_equal(made, superfine.upscale(folder / "cat.jpg", model="fast", scale=3))
        assert visit.page.locator("#status").inner_text() == "cat.jpg is done."
        visit.remove("cat.jpg")
        visit.page.locator(".card").wait_for(state="detached")


def test_progress_grows_and_tells_the_time_left(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.add(folder / "large.png")
        visit.part("large.png", "scale").select_option("2")
        visit.part("large.png", "model").select_option("balanced")
        visit.card("large.png").get_by_text("More settings").click()
        visit.part("large.png", "ensemble").check()  # for a long time
        visit.part("large.png", "progress").evaluate(
            """bar => {
                const words = bar.parentElement.querySelector('[data-part=state]');
                window.seen = [];
                const note = () => bar.hasAttribute('value') && window.seen.push([bar.value, words.textContent]);
                const changed = new MutationObserver(note);
                const all = { subtree: true, childList: true, attributes: true, characterData: true };
                changed.observe(bar.parentElement, all);
            }"""
        )
        visit.page.get_by_role("button", name="Enlarge large.png").click()
        visit.page.locator(".card[data-phase=running] progress[value]").wait_for(timeout=PATIENCE_MS)
        visit.page.get_by_text(re.compile(r"\d+ %, .* left")).wait_for(timeout=PATIENCE_MS)
        assert re.match(r"\d+ % · superfine", visit.page.title())
        visit.page.get_by_role("button", name="Cancel large.png").click()
        visit.reaches("large.png", "cancelled")
        assert visit.page.locator("#count").inner_text() == "1 cancelled"
        values = [value for value, _ in visit.page.evaluate("window.seen")]
        assert values == sorted(values)
        assert any(0 < value < 1 for value in values)
        job = visit.ask("jobs")[0]
        assert (job["name"], job["status"]) == ("large_x2.png", "cancelled")
        visit.remove("large.png")


def test_a_reload_in_the_middle_loses_nothing(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.add(folder / "large.png", folder / "cat.jpg")
        visit.part("cat.jpg", "format").select_option("webp")
        visit.part("large.png", "model").select_option("balanced")
        visit.page.get_by_role("button", name="Enlarge large.png").click()
        visit.reaches("large.png", "running")
        visit.page.reload()
        visit.page.wait_for_selector("html[data-ready]")
        assert visit.page.locator(".card h3").all_inner_texts() == ["large.png", "cat.jpg"]
        visit.reaches("cat.jpg", "ready")
        assert visit.part("cat.jpg", "format").input_value() == "webp"
        visit.page.get_by_text(re.compile(r"\d+ %, .* left")).wait_for(timeout=PATIENCE_MS)  # it goes on by itself
        visit.page.get_by_role("button", name="Cancel large.png").click()
        visit.reaches("large.png", "cancelled")
        visit.remove("large.png")
        visit.remove("cat.jpg")
        visit.page.locator(".card").first.wait_for(state="detached")


def test_a_restart_of_the_server_is_said_and_survived(browser, folder, tmp_path):
    first = Server(tmp_path / "state")
    with first, Visit(browser, first.url, may_say=REFUSED) as visit:
        visit.add(folder / "large.png")
        visit.part("large.png", "model").select_option("balanced")
        visit.page.get_by_role("button", name="Enlarge large.png").click()
        visit.reaches("large.png", "running")
        first.__exit__()
        visit.page.get_by_role("alert").get_by_text("superfine doesn't answer").wait_for(timeout=PATIENCE_MS)
        with first:
            visit.page.locator("#trouble").wait_for(state="hidden", timeout=PATIENCE_MS)
            visit.reaches("large.png", "done")


def test_all_at_once_come_as_one_zip(browser, gallery):
    with Visit(browser, gallery.url, accept_downloads=True) as visit:
        link = visit.page.get_by_role("link", name="Download all")
        assert link.get_attribute("href") == "api/v1/results.zip"  # however many there are
        with visit.page.expect_download() as download:
            link.click()
        with zipfile.ZipFile(download.value.path()) as archive:
            sizes = {name: Image.open(io.BytesIO(archive.read(name))).size for name in archive.namelist()}
        assert sizes == {"astronaut_x4.png": (384, 384), "cat_x2.jpg": (320, 240)}


def test_a_video_plays_beside_its_original(browser, server, folder):
    with Visit(browser, server.url, may_say=REFUSED) as visit:
        visit.add(folder / "clip.webm")
        assert "10 frames" in visit.part("clip.webm", "facts").inner_text()
        assert visit.part("clip.webm", "guess").is_hidden()
        visit.part("clip.webm", "model").select_option("fast")
        visit.part("clip.webm", "scale").select_option("2")
        visit.page.get_by_role("button", name="Enlarge clip.webm").click()
        visit.reaches("clip.webm", "done")
        visit.part("clip.webm", "compare").click()
        films = visit.page.locator("#stage video")
        films.nth(1).wait_for()
        for film, size in ((films.nth(0), [192, 128]), (films.nth(1), [96, 64])):
            film.evaluate("each => each.readyState >= 2 || new Promise(ready => each.onloadeddata = ready)")
            assert film.evaluate("each => [each.videoWidth, each.videoHeight]") == size
        visit.page.locator("#seek").fill("0.5")
        assert films.evaluate_all("all => all.map(each => each.currentTime)") == [0.5, 0.5]
        visit.page.get_by_role("button", name="Play").click()
        visit.page.get_by_role("button", name="Pause").click()
        assert films.evaluate_all("all => all.map(each => each.paused)") == [True, True]
        one, other = films.evaluate_all("all => all.map(each => each.currentTime)")
        assert one == pytest.approx(other, abs=0.001)
        visit.page.keyboard.press("Escape")
        visit.page.reload()
        visit.page.wait_for_selector("html[data-ready]")
        visit.part("clip.webm", "compare").click()  # the file itself is only known to the tab that sent it
        films.nth(1).evaluate("each => each.readyState >= 2 || new Promise(ready => each.onloadeddata = ready)")
        assert films.nth(1).evaluate("each => [each.videoWidth, each.videoHeight]") == [96, 64]
        visit.page.keyboard.press("Escape")
        # Where it can't be played, its first frame stands there.
        visit.page.route("**/file", lambda route: route.fulfill(status=415, json=REFUSAL))
        visit.part("clip.webm", "compare").click()
        visit.page.get_by_text("This browser can't play the original").wait_for()
        assert (films.count(), visit.page.locator("#stage img").count()) == (1, 1)
        visit.page.keyboard.press("Escape")
        visit.remove("clip.webm")


def test_a_part_of_a_video_plays_beside_the_same_moment(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.add(folder / "clip.webm")
        visit.part("clip.webm", "model").select_option("bicubic")
        visit.part("clip.webm", "scale").select_option("2")
        visit.card("clip.webm").get_by_text("More settings").click()
        visit.part("clip.webm", "from").fill("1:00")
        assert visit.part("clip.webm", "outcome").inner_text() == "From is to come before the end, at 1 s."
        visit.part("clip.webm", "from").fill("0.5")
        visit.page.get_by_role("button", name="Enlarge clip.webm").click()
        visit.reaches("clip.webm", "done")
        visit.part("clip.webm", "compare").click()
        films = visit.page.locator("#stage video")
        for film in (films.nth(0), films.nth(1)):
            film.evaluate("each => each.readyState >= 2 || new Promise(ready => each.onloadeddata = ready)")
        assert films.evaluate_all("all => all.map(each => each.currentTime)") == [0, 0.5]
        visit.page.locator("#seek").fill("0.2")
        assert films.evaluate_all("all => all.map(each => each.currentTime)") == [0.2, 0.7]
        visit.page.keyboard.press("Escape")
        visit.page.reload()
        visit.page.wait_for_selector("html[data-ready]")
        visit.part("clip.webm", "compare").click()
        for film in (films.nth(0), films.nth(1)):
            film.evaluate("each => each.readyState >= 2 || new Promise(ready => each.onloadeddata = ready)")
        assert films.evaluate_all("all => all.map(each => each.currentTime)") == [0, 0.5]
        visit.page.keyboard.press("Escape")
        visit.remove("clip.webm")
        visit.page.locator(".card").wait_for(state="detached")


# ---- Several windows


def is_stream(request: Any) -> bool:
    return str(request.url).endswith("/events")


def hide(page: Any, *, hidden: bool) -> None:
    """As when another tab is chosen, which a browser without a window doesn't have."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event('visibilitychange'));
        }""",
        hidden,
    )


def test_a_window_listens_once_and_only_while_it_is_seen(browser, server, folder):
    with Visit(browser, server.url) as visit:
        streams: set[Any] = set()
        visit.page.on("request", lambda request: is_stream(request) and streams.add(request))
        for end in ("requestfailed", "requestfinished"):
            visit.page.on(end, lambda request: streams.difference_update({request}))
        visit.add(folder / "large.png", folder / "coffee.png")
        for name in ("large.png", "coffee.png"):
            visit.part(name, "model").select_option("balanced")
        visit.card("large.png").get_by_text("More settings").click()
        visit.part("large.png", "ensemble").check()  # for a long time
        with visit.page.expect_request(is_stream):
            visit.page.get_by_role("button", name="Enlarge all").click()
        visit.reaches("large.png", "running")
        visit.reaches("coffee.png", "queued")
        assert len(streams) == 1
        with visit.page.expect_event("requestfailed", is_stream):
            hide(visit.page, hidden=True)
        assert streams == set()
        with visit.page.expect_request(is_stream), visit.page.expect_request("**/api/v1/jobs"):
            hide(visit.page, hidden=False)
        assert len(streams) == 1
        # A browser has six connections to a server, over all its tabs.
        others = [visit.context.new_page() for _ in range(4)]
        for page in others:
            page.goto(visit.url)
            page.wait_for_selector("html[data-ready]")
            page.wait_for_selector(".card[data-phase=running] progress[value]", timeout=PATIENCE_MS)
        assert visit.ask("health")["status"] == "ok"
        for name in ("coffee.png", "large.png"):
            visit.page.get_by_role("button", name=f"Cancel {name}").click()
            visit.reaches(name, "cancelled")
            visit.remove(name)
        for page in others:
            hide(page, hidden=False)  # whoever looks again sees how things are
            page.locator(".card").first.wait_for(state="detached")


def test_all_tabs_of_a_browser_share_one_stream(browser, server, folder):
    with Visit(browser, server.url) as visit:
        streams: dict[Any, Any] = {}

        def watched(page: Any) -> Any:
            page.on("request", lambda request: is_stream(request) and streams.update({request: page}))
            for end in ("requestfailed", "requestfinished"):
                page.on(end, lambda request: streams.pop(request, None))
            return page

        watched(visit.page)
        visit.add(folder / "large.png")
        visit.part("large.png", "model").select_option("balanced")
        visit.card("large.png").get_by_text("More settings").click()
        visit.part("large.png", "ensemble").check()  # for a long time
        visit.page.get_by_role("button", name="Enlarge large.png").click()
        visit.reaches("large.png", "running")
        pages = [watched(visit.context.new_page()) for _ in range(7)]  # more than a browser has connections
        for page in pages:
            page.goto(visit.url, timeout=PATIENCE_MS)
            page.wait_for_selector("html[data-ready]")
            page.wait_for_selector(".card[data-phase=running] progress[value]", timeout=PATIENCE_MS)
        assert list(streams.values()) == [visit.page]
        before = pages[0].locator("progress[value]").evaluate("each => each.value")
        for page in pages:  # all of them go on
            page.wait_for_function(
                "before => document.querySelector('progress').value > before", arg=before, timeout=PATIENCE_MS
            )
        assert list(streams.values()) == [visit.page]
        with pages[0].expect_request(is_stream), visit.page.expect_event("requestfailed", is_stream):
            hide(visit.page, hidden=True)  # another one listens when this one is put away
        assert list(streams.values()) == [pages[0]]
        with pages[1].expect_request(is_stream):  # or closed
            pages[0].close()
        pages[2].get_by_role("button", name="Cancel large.png").click()
        for page in (visit.page, *pages[1:]):
            page.wait_for_selector(".card[data-phase=cancelled]", timeout=PATIENCE_MS)
        pages[2].get_by_role("button", name="Remove large.png").click()
        for page in (visit.page, *pages[1:]):
            page.locator(".card").wait_for(state="detached")


def test_a_job_that_is_listed_before_it_is_answered_stands_there_once(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.add(folder / "image.png")
        visit.part("image.png", "model").select_option("bicubic")
        held: list[Any] = []

        def late(route: Any) -> None:
            if route.request.method == "POST":
                held.extend((route, route.fetch()))
            else:
                route.continue_()

        visit.page.route("**/api/v1/jobs", late)
        with visit.page.expect_request(lambda request: request.method == "POST"):
            visit.page.get_by_role("button", name="Enlarge image.png").click()
        visit.page.get_by_role("button", name="Cancel image.png").wait_for()
        hide(visit.page, hidden=False)  # which looks at all jobs
        visit.page.locator(".card").nth(1).wait_for()
        route, answer = held
        route.fulfill(response=answer)
        visit.page.locator(".card").nth(1).wait_for(state="detached")
        visit.reaches("image.png", "done")
        visit.remove("image.png")
        visit.page.locator(".card").wait_for(state="detached")


def test_every_window_says_the_name_of_the_source(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        assert sorted(visit.page.locator(".card h3").all_inner_texts()) == ["astronaut.png", "cat.jpg"]
        assert sorted(job["name"] for job in visit.ask("jobs")) == ["astronaut_x4.png", "cat_x2.jpg"]


def test_a_network_that_was_uploaded_can_be_chosen(browser, folder, tmp_path):
    content = next(model.content for model in superfine.list_models() if model.card.name == "fast-x2")
    with Server(tmp_path, allow_models=True) as server, Visit(browser, server.url) as visit:
        headers = {"X-File-Name": "mine.onnx", "X-Superfine": "1"}
        own = visit.context.request.post(f"{server.url}api/v1/models", data=content, headers=headers).json()
        visit.page.reload()
        visit.page.wait_for_selector("html[data-ready]")
        visit.add(folder / "image.png")
        model = visit.part("image.png", "model")
        group = model.locator("optgroup[label=Uploaded] option")
        assert [(group.inner_text(), group.get_attribute("value"))] == [("fast-x2", own["name"])]
        model.select_option(own["name"])
        visit.part("image.png", "scale").select_option("2")
        visit.page.get_by_role("button", name="Enlarge image.png").click()
        visit.reaches("image.png", "done")
        assert visit.part("image.png", "facts").inner_text().endswith("fast-x2")
        made = visit.page.evaluate(
            "path => fetch(path).then(a => a.arrayBuffer()).then(b => [...new Uint8Array(b)])",
            f"api/v1/jobs/{visit.ask('jobs')[0]['id']}/result",
        )
        wanted = superfine.upscale(folder / "image.png", model="fast", scale=2)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(bytes(made)))), wanted)


def test_what_another_window_left_on_the_server_can_be_seen_and_removed(browser, folder, tmp_path):
    with Server(tmp_path) as server:
        with Visit(browser, server.url) as visit:
            visit.add(folder / "image.png", folder / "cat.jpg")
        with Visit(browser, server.url) as visit:  # which has a memory of its own
            assert sorted(visit.page.locator(".card h3").all_inner_texts()) == ["cat.jpg", "image.png"]
            visit.remove("image.png")
            visit.card("image.png").wait_for(state="detached")
            assert [upload["name"] for upload in visit.ask("uploads")] == ["cat.jpg"]
            other = visit.context.new_page()
            other.goto(server.url)
            other.wait_for_selector(".card[data-phase=ready]")
            visit.part("cat.jpg", "model").select_option("bicubic")
            visit.page.get_by_role("button", name="Enlarge cat.jpg").click()
            visit.reaches("cat.jpg", "done")
            hide(other, hidden=False)
            other.wait_for_selector(".card[data-phase=done]")
            assert other.locator(".card").count() == 1  # what was started isn't to start any more


# ---- Going


def finished_twins(visit: Visit, file: Path) -> None:
    """Two results of one upload."""
    visit.add(file)
    visit.part(file.name, "model").select_option("bicubic")
    visit.page.get_by_role("button", name=f"Enlarge {file.name}").click()
    visit.reaches(file.name, "done")
    visit.page.get_by_role("button", name="Other settings").click()
    visit.page.get_by_role("button", name=f"Enlarge {file.name}").click()
    visit.page.locator(".card[data-phase=done]").nth(1).wait_for(timeout=PATIENCE_MS)


def test_cards_go_when_their_results_are_gone(browser, folder, tmp_path):
    with Server(tmp_path) as server, Visit(browser, server.url) as visit:
        finished_twins(visit, folder / "image.png")
        deleted: list[str] = []
        held: list[Any] = []
        holding = [True]

        def hold(route: Any) -> None:
            if route.request.method == "DELETE":
                deleted.append(route.request.url)
            if route.request.method == "DELETE" and holding:
                held.append(route)
            else:
                route.continue_()

        visit.page.route("**/api/v1/**", hold)
        clear = visit.page.get_by_role("button", name="Remove finished")
        clear.click()
        dialog = visit.page.get_by_role("dialog", name="Remove 2 finished files?")
        assert visit.page.evaluate(PALE) == []
        assert visit.page.evaluate(UNNAMED) == []
        dialog.get_by_role("button", name="Keep them").click()
        assert visit.focused() == "clear"
        assert (deleted, visit.page.locator(".card").count()) == ([], 2)
        clear.click()
        dialog.get_by_role("button", name="Remove 2").click()
        visit.page.get_by_text("Removing").nth(1).wait_for()
        assert visit.page.locator(".card").count() == 2
        assert visit.page.locator("#status").inner_text() != "2 files removed."
        holding.clear()
        for route in held:
            route.continue_()
        visit.page.locator("#status").get_by_text("2 files removed.").wait_for()
        assert visit.page.locator(".card").count() == 0
        assert (visit.ask("jobs"), visit.ask("uploads")) == ([], [])
        assert len(deleted) == len(set(deleted)) == 3  # two jobs and their one upload; a 404 would be a complaint


def test_what_could_not_be_removed_stays_and_says_so(browser, folder, tmp_path):
    with Server(tmp_path) as server, Visit(browser, server.url, may_say=REFUSED) as visit:
        finished_twins(visit, folder / "image.png")
        lasting = visit.ask("jobs")[0]["id"]
        visit.page.route(
            f"**/api/v1/jobs/{lasting}",
            lambda route: (
                route.fulfill(status=503, json=REFUSAL) if route.request.method == "DELETE" else route.continue_()
            ),
        )
        visit.page.get_by_role("button", name="Remove finished").click()
        visit.page.get_by_role("button", name="Remove 2").click()
        visit.page.locator("#status").get_by_text("1 file couldn't be removed.").wait_for()
        assert visit.page.locator(".card").count() == 1
        why = "It couldn't be removed: too many pages listen already; try again later"
        assert visit.part("image.png", "error").inner_text() == why
        assert [job["id"] for job in visit.ask("jobs")] == [lasting]
        visit.page.unroute(f"**/api/v1/jobs/{lasting}")
        visit.remove("image.png")
        visit.page.locator(".card").wait_for(state="detached")
        assert (visit.ask("jobs"), visit.ask("uploads")) == ([], [])


def test_a_result_whose_time_was_over_says_so(browser, folder, tmp_path):
    with Server(tmp_path) as server, Visit(browser, server.url, may_say=REFUSED) as visit:
        finished_twins(visit, folder / "image.png")
        second, first = visit.ask("jobs")
        # The file is gone, and the page's word for it is the server's.
        for result in (tmp_path / "jobs" / first["id"]).rglob("*.png"):
            result.unlink()
        assert visit.page.evaluate("id => fetch(`api/v1/jobs/${id}/view`).then(a => a.status)", first["id"]) == 410
        visit.part("image.png", "compare").first.click()
        visit.page.locator("#stage-note").get_by_text("was deleted after its time").wait_for()
        visit.page.keyboard.press("Escape")
        # The server says that it has expired, and the card does too.
        visit.page.route(
            f"**/api/v1/jobs/{second['id']}",
            lambda route: route.fulfill(json={**second, "status": "expired", "result": None}),
        )
        visit.part("image.png", "compare").nth(1).click()
        visit.reaches("image.png", "expired")
        assert visit.page.locator("#viewer").is_hidden()
        expired = visit.page.locator(".card[data-phase=expired]")
        assert "the result was deleted" in expired.inner_text()
        assert expired.get_by_role("button", name="Compare").count() == 0
        assert expired.get_by_role("link", name="Download").count() == 0


# ---- Ways in


PASTE = """async ([bytes, name]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/png' }));
    %s
}"""


def test_a_picture_can_be_pasted(browser, server, folder):
    with Visit(browser, server.url) as visit:
        give = (
            PASTE % "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }));"
        )
        visit.page.evaluate(give, [list((folder / "image.png").read_bytes()), "image.png"])
        visit.reaches("pasted-1.png", "ready")
        assert visit.page.locator("#status").inner_text() == "1 file added."
        visit.remove("pasted-1.png")


def test_a_picture_can_be_dropped(browser, server, folder):
    with Visit(browser, server.url) as visit:
        give = (
            PASTE
            % """
            const say = kind => document.body.dispatchEvent(
                new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
            say('dragenter');
            const shown = !document.getElementById('curtain').hidden;
            const taken = !say('dragover');
            say('drop');
            return [shown, taken, document.getElementById('curtain').hidden];"""
        )
        assert visit.page.evaluate(give, [list((folder / HOSTILE).read_bytes()), HOSTILE]) == [True, True, True]
        visit.reaches(HOSTILE, "ready")  # a name is text, whatever stands in it
        visit.remove(HOSTILE)


# ---- What goes wrong


def test_errors_stand_in_words_beside_their_file(browser, server, folder):
    with Visit(browser, server.url, may_say=REFUSED) as visit:
        visit.add(folder / "letter.png", folder / "image.png")
        visit.reaches("letter.png", "refused")
        assert "Neither a picture nor a video" in visit.part("letter.png", "error").inner_text()
        visit.reaches("image.png", "ready")
        visit.part("image.png", "scale").select_option("exact")
        visit.part("image.png", "width").fill("")
        visit.page.get_by_role("button", name="Enlarge image.png").click()
        assert visit.part("image.png", "error").inner_text().startswith("Give width and height")
        visit.part("image.png", "width").fill("90")
        assert visit.part("image.png", "height").input_value() == "60"  # the picture's own shape
        assert visit.part("image.png", "error").is_hidden()
        for width, why in (("59", f"That is smaller than 60 {TIMES} 40"), ("961", "That is more than 16 times")):
            visit.part("image.png", "width").fill(width)
            visit.page.get_by_role("button", name="Enlarge image.png").click()
            assert visit.part("image.png", "error").inner_text().startswith(why)
            assert visit.part("image.png", "outcome").inner_text().startswith(why)  # before anything is pressed
        visit.part("image.png", "width").fill("90")
        visit.part("image.png", "model").select_option("sharp")
        visit.card("image.png").get_by_text("More settings").click()
        visit.part("image.png", "guess").check()
        visit.page.get_by_role("button", name="Enlarge image.png").click()
        visit.page.wait_for_selector(".card .error:visible >> text=/sharp/", timeout=PATIENCE_MS)
        for name in ("letter.png", "image.png"):
            visit.remove(name)


def test_only_formats_that_are_there_are_offered(browser, server, folder):
    with Visit(browser, server.url) as visit:
        formats = {*visit.ask("health")["formats"], "heic"}
        for there in (formats, formats - {"heic", "avif"}):

            def answer(route: Any, _: Any, there: set[str] = there) -> None:
                route.fulfill(json={**route.fetch().json(), "formats": sorted(there)})

            visit.page.route("**/api/v1/health", answer)
            visit.page.reload()
            visit.page.wait_for_selector("html[data-ready]")
            named = visit.page.locator("#kinds").inner_text()
            assert ("HEIC" in named, "AVIF" in named) == ("heic" in there, "avif" in there)
            assert "PNG, JPEG" in named
            visit.add(folder / "image.png")
            offered = visit.part("image.png", "format").locator("option").evaluate_all("all => all.map(a => a.value)")
            assert {*offered} == {"", *({"png", "jpg", "webp", "avif", "tif", "heic"} & there)}
            visit.remove("image.png")
            visit.page.locator(".card").wait_for(state="detached")


def test_what_a_model_is_for_stands_under_the_choice(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.add(folder / "image.png")
        summaries = {model["family"]: model["summary"] for model in visit.ask("models") if model["scale"] != 1}
        for family in ("fast", "photo", "bicubic"):
            visit.part("image.png", "model").select_option(family)
            hint = visit.part("image.png", "hint")
            assert hint.is_visible()
            assert hint.inner_text().lower() == f"{summaries[family]}.".lower()
        visit.remove("image.png")
        visit.page.locator(".card").wait_for(state="detached")


def test_enlarge_all_waits_for_what_is_on_its_way(browser, server, folder):
    with Visit(browser, server.url) as visit:
        held: list[Any] = []

        def hold(route: Any) -> None:
            held.append(route)

        visit.page.route("**/api/v1/uploads", hold)
        visit.page.set_input_files("#files", [folder / "image.png"])
        visit.page.get_by_role("button", name="Enlarge all").click()
        assert visit.page.get_by_role("button", name="Enlarge all").is_disabled()
        held[0].continue_()
        visit.reaches("image.png", "done")
        visit.remove("image.png")
        visit.page.locator(".card").wait_for(state="detached")


def test_nothing_shows_through_a_transparent_picture(browser, server, folder, tmp_path):
    Image.new("RGBA", (40, 30), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    with Visit(browser, server.url) as visit:
        visit.add(tmp_path / "clear.png")
        visit.part("clear.png", "blank").wait_for(state="hidden")
        visit.remove("clear.png")
        visit.page.locator(".card").wait_for(state="detached")


def test_a_full_queue_is_waited_for(browser, server, folder):
    with Visit(browser, server.url, may_say=REFUSED) as visit:
        visit.add(folder / "image.png")
        visit.part("image.png", "model").select_option("bicubic")
        refusals = [1, 1]

        def full(route: Any) -> None:
            if route.request.method != "POST" or not refusals:
                route.continue_()
                return
            refusals.pop()
            error = {"error": {"code": "queue-full", "message": "100 jobs wait already; come back in a second"}}
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=error)

        visit.page.route("**/api/v1/jobs", full)
        visit.page.get_by_role("button", name="Enlarge image.png").click()
        visit.page.get_by_text("100 jobs wait already").wait_for()
        visit.reaches("image.png", "done")
        assert refusals == []
        visit.remove("image.png")


def test_who_removes_a_file_on_its_way_lets_the_others_go_on(browser, server, folder):
    with Visit(browser, server.url) as visit:
        before = visit.ask("uploads")
        held = []
        visit.page.route("**/api/v1/uploads", lambda route: held.append(route) if len(held) < 2 else route.continue_())
        visit.page.set_input_files("#files", [folder / "astronaut.png", folder / "coffee.png", folder / "image.png"])
        visit.card("coffee.png").get_by_text("Sending").wait_for()
        assert visit.part("image.png", "state").inner_text() == "Waiting to be sent"
        visit.remove("astronaut.png")
        visit.remove("coffee.png")
        visit.reaches("image.png", "ready")
        assert len(held) == 2
        assert [upload["name"] for upload in visit.ask("uploads")[: -len(before) or None]] == ["image.png"]
        visit.remove("image.png")


def test_a_file_that_is_removed_while_it_is_looked_at_is_deleted(browser, server, folder):
    with Visit(browser, server.url) as visit:
        before = visit.ask("uploads")
        server.process.send_signal(signal.SIGSTOP)
        try:
            visit.page.set_input_files("#files", [folder / "image.png"])
            visit.card("image.png").get_by_text("Looking at it").wait_for()
            visit.remove("image.png")
            visit.page.locator(".card").wait_for(state="detached")
            with visit.page.expect_response(lambda answer: answer.request.method == "DELETE") as answer:
                server.process.send_signal(signal.SIGCONT)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert answer.value.status == 204
        assert visit.ask("uploads") == before


REFUSAL = {"error": {"code": "busy", "message": "too many pages listen already; try again later"}}


def test_events_that_are_refused_are_asked_for_less_and_less_often(browser, server, folder):
    with Visit(browser, server.url, may_say=REFUSED) as visit:
        visit.add(folder / "large.png")
        visit.part("large.png", "model").select_option("balanced")
        visit.card("large.png").get_by_text("More settings").click()
        visit.part("large.png", "ensemble").check()  # for a long time
        times: list[float] = []

        def refuse(route: Any) -> None:
            times.append(time.monotonic())
            if len(times) > 4:
                route.continue_()
            else:
                route.fulfill(status=503, json=REFUSAL)

        visit.page.route("**/events", refuse)
        visit.page.get_by_role("button", name="Enlarge large.png").click()
        visit.page.get_by_role("alert").get_by_text("Too many pages listen already").wait_for(timeout=PATIENCE_MS)
        while len(times) < 4:
            visit.page.wait_for_event("response", is_stream, timeout=PATIENCE_MS)
        visit.page.get_by_role("button", name="Try now").click()  # else it would be another 8 seconds
        visit.page.locator("#trouble").wait_for(state="hidden", timeout=PATIENCE_MS)
        assert len(times) == 5
        assert (np.diff(times)[:3] > (0.95, 1.95, 3.95)).all()
        assert times[4] - times[3] < 7.5
        pauses = visit.page.evaluate(
            "given => import('/page.js').then(page => given.map(each => page.pauseSeconds(...each)))",
            [[1, 0], [5, 0], [6, 0], [60, 0], [1, 5]],
        )
        assert pauses == [1, 16, 30, 30, 5]
        visit.page.get_by_role("button", name="Cancel large.png").click()
        visit.reaches("large.png", "cancelled")
        visit.remove("large.png")


def test_without_the_token_nothing_is_asked_for(browser, folder, tmp_path):
    with Server(tmp_path, names=("superfine.test",), token=TOKEN) as server:
        url = f"http://superfine.test:{server.port}/"
        with Visit(browser, f"{url}?token={TOKEN}", may_say=(UNTRUSTED, REFUSED)) as visit:
            field = visit.page.get_by_label("Token or address")
            assert not field.is_visible()
            visit.page.clock.install()
            visit.add(folder / "large.png")
            visit.part("large.png", "model").select_option("balanced")
            visit.context.clear_cookies()
            visit.page.set_input_files("#files", [folder / "image.png"])
            field.wait_for()
            visit.page.get_by_role("alert").get_by_text("superfine wants its token").wait_for()
            assert visit.page.evaluate(UNNAMED) == []
            asked = len(visit.asked)
            visit.page.clock.fast_forward(100_000)
            assert visit.part("image.png", "state").inner_text() == "Waiting"
            assert visit.asked[asked:] == []
            field.fill("not-the-token-of-this-server")
            visit.page.keyboard.press("Enter")
            visit.page.get_by_role("alert").get_by_text("That isn't this server's token").wait_for()
            field.fill(f"{url}?token={TOKEN}")
            visit.page.get_by_role("button", name="Go on").click()
            visit.page.locator("#trouble").wait_for(state="hidden")
            visit.reaches("image.png", "ready")  # it waited, and went on by itself
            visit.page.get_by_role("button", name="Enlarge large.png").click()
            visit.page.clock.resume()
            visit.reaches("large.png", "running")
            visit.context.clear_cookies()
            field.wait_for()
            asked = len(visit.asked)
            visit.page.clock.fast_forward(100_000)
            assert visit.asked[asked:] == []
            # Without TLS on another machine tabs can't agree on who listens: each asks for all jobs.
            assert not any(each.endswith("/events") for each in visit.asked)


def test_the_token_is_the_first_thing_that_is_asked_for(browser, folder, tmp_path):
    with Server(tmp_path, names=("superfine.test",), token=TOKEN) as server:
        url = f"http://superfine.test:{server.port}/"
        for query in ("", "?token=not-the-token-of-this-server"):
            with Visit(browser, f"{url}{query}", 390, may_say=(UNTRUSTED, REFUSED)) as visit:
                visit.page.get_by_role("alert").get_by_text("superfine wants its token").wait_for()
                assert visit.page.url == url
                assert visit.focused() == "token"
                assert visit.page.get_by_role("button").all_inner_texts() == ["Go on"]
                assert visit.page.evaluate(UNNAMED) == []
                assert visit.page.evaluate(PALE) == []
                visit.page.keyboard.type(TOKEN)
                visit.page.keyboard.press("Enter")
                visit.page.get_by_role("button", name="Choose files").wait_for()
                assert visit.page.locator("#banner").is_hidden()
                visit.add(folder / "image.png")
                visit.remove("image.png")
                visit.page.locator(".card").wait_for(state="detached")


def test_other_machines_get_other_words(browser, tmp_path):
    with Server(tmp_path, names=("superfine.test",), token=TOKEN) as server:
        url = f"http://superfine.test:{server.port}/"
        with Visit(browser, f"{url}?token={TOKEN}", may_say=UNTRUSTED) as visit:
            assert visit.page.url == url  # the token isn't left where it can be read over a shoulder
            assert "Your files go to the superfine on superfine.test" in visit.page.locator("#privacy").inner_text()


# ---- Comparing


def test_the_mouse_drags_the_divider(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        visit.compare("astronaut.png")
        stage, box = visit.page.locator("#stage").bounding_box(), visit.boxes()[0]
        assert box["width"] < 0.7 * stage["width"]  # beside it there is nothing to compare
        x, y = middle(box)
        assert (visit.at(), visit.value()) == (pytest.approx(50, abs=0.2), "50")
        visit.page.mouse.move(x, y)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + box["width"] * 0.25, y, steps=4)
        visit.page.mouse.up()
        assert visit.at() == pytest.approx(25, abs=0.3)
        assert visit.value() == "25"
        slider = visit.page.get_by_role("slider", name="Divider")
        assert slider.get_attribute("aria-valuetext") == "25 % before, 75 % after"
        visit.page.mouse.move(x, y)  # nothing is held any more
        assert visit.value() == "25"
        visit.page.keyboard.press("+")  # more than the stage shows
        visit.page.keyboard.press("+")
        assert visit.boxes()[0]["width"] > stage["width"]
        assert visit.at() == pytest.approx(25, abs=0.3)


def test_the_keyboard_moves_the_divider(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        visit.compare("astronaut.png")
        slider = visit.page.get_by_role("slider", name="Divider")
        assert visit.focused().startswith("Divider")
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
            assert visit.at() == pytest.approx(wanted, abs=0.2), key
            assert visit.value() == str(wanted)


def test_both_pictures_zoom_and_move_as_one(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        visit.compare("astronaut.png")

        def together() -> None:
            one, other = visit.boxes()
            assert one == other

        box = visit.page.locator("#stage").bounding_box()
        x, y = middle(box)
        _, _, whole = visit.view()
        shown = visit.boxes()[0]
        assert shown["height"] == pytest.approx(box["height"], abs=3)
        assert shown["width"] == pytest.approx(shown["height"], abs=0.01)
        together()
        px, py = x - 100, y + 60
        before = visit.boxes()[0]
        share = ((px - before["x"]) / before["width"], (py - before["y"]) / before["height"])
        visit.page.mouse.move(px, py)
        visit.page.mouse.wheel(0, -400)
        visit.page.wait_for_selector(f"#stage:not([data-zoom='{whole:.4f}'])")
        after = visit.boxes()[0]
        assert after["width"] == pytest.approx(before["width"] * np.exp(0.8), rel=1e-3)
        # What lies under the pointer stays there.
        assert (px - after["x"]) / after["width"] == pytest.approx(share[0], abs=1e-3)
        assert (py - after["y"]) / after["height"] == pytest.approx(share[1], abs=1e-3)
        together()
        visit.page.mouse.down()
        visit.page.mouse.move(px + 50, py - 30, steps=3)
        visit.page.mouse.up()
        moved = visit.boxes()[0]
        assert (moved["x"] - after["x"], moved["y"] - after["y"]) == pytest.approx((50, -30), abs=1)
        assert visit.value() == "50"  # the hand moved the pictures, not the divider
        together()


def test_keys_zoom_and_move(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        visit.compare("astronaut.png")
        box = visit.page.locator("#stage").bounding_box()
        x, y = middle(box)
        whole = visit.view()[2]

        def together() -> None:
            one, other = visit.boxes()
            assert one == other

        for key, factor in (("+", 2), ("+", 2), ("-", 0.5), ("=", 2)):
            zoom = visit.view()[2]
            visit.page.keyboard.press(key)
            assert visit.view()[2] == pytest.approx(zoom * factor, rel=1e-3)
            together()
        visit.page.locator("#stage").focus()
        left, top = visit.boxes()[0]["x"], visit.boxes()[0]["y"]
        visit.page.keyboard.press("ArrowRight")
        visit.page.keyboard.press("ArrowDown")
        assert (visit.boxes()[0]["x"], visit.boxes()[0]["y"]) == pytest.approx((left - 64, top - 64), abs=1)
        together()
        visit.page.keyboard.press("1")
        assert visit.view()[2] == 1
        visit.page.keyboard.press("0")
        assert visit.view()[2] == pytest.approx(whole, abs=1e-4)
        for _ in range(12):
            visit.page.get_by_role("button", name="Zoom in").click()
        assert visit.view()[2] == 32
        for _ in range(4):
            visit.page.mouse.move(x, y)
            visit.page.mouse.down()
            visit.page.mouse.move(x + 500, y + 400)
            visit.page.mouse.up()
        found = visit.boxes()[0]  # no hand moves them out of sight
        assert found["x"] <= box["x"] + 1
        assert found["x"] + found["width"] >= box["x"] + box["width"] - 1


def test_fingers_zoom_move_and_divide(browser, gallery):
    with Visit(browser, gallery.url, 390, has_touch=True, is_mobile=True, device_scale_factor=2) as visit:
        visit.compare("astronaut.png")
        box = visit.page.locator("#stage").bounding_box()
        x, y = middle(box)
        touch = visit.context.new_cdp_session(visit.page)

        def send(kind: str, *points: tuple[float, float]) -> None:
            spots = [{"x": at, "y": down, "id": number} for number, (at, down) in enumerate(points)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

        send("touchStart", (x, y))
        for part in (0.45, 0.4, 0.3):
            send("touchMove", (box["x"] + box["width"] * part, y))
        send("touchEnd")
        assert visit.at() == pytest.approx(30, abs=1)
        zoom = visit.view()[2]
        send("touchStart", (x - 30, y), (x + 30, y))
        for apart in (40, 50, 60):
            send("touchMove", (x - apart, y), (x + apart, y))
        send("touchEnd")
        assert visit.view()[2] == pytest.approx(2 * zoom, rel=0.02)
        one, other = visit.boxes()
        assert one == other
        left = one["x"]
        send("touchStart", (x + 80, y + 80))
        send("touchMove", (x + 60, y + 80))
        send("touchMove", (x + 40, y + 80))
        send("touchEnd")
        assert visit.boxes()[0]["x"] == pytest.approx(left - 40, abs=1)
        assert visit.at() == pytest.approx(30, abs=1)


def test_what_is_seen_is_before_and_after(browser, gallery, folder):
    """The window's own pixels, one to one, against the files."""
    with Visit(browser, gallery.url) as visit:
        visit.compare("astronaut.png")
        visit.page.keyboard.press("1")
        job = next(job for job in visit.ask("jobs") if job["guess_map"])
        made = visit.page.evaluate(
            "path => fetch(path).then(a => a.arrayBuffer()).then(b => [...new Uint8Array(b)])",
            f"api/v1/jobs/{job['id']}/result",
        )
        result = np.asarray(Image.open(io.BytesIO(bytes(made))).convert("RGB")).astype(float)
        source = Image.open(folder / "astronaut.png").convert("RGB").resize((384, 384), Image.Resampling.BILINEAR)
        box = visit.boxes()[0]
        clip = {"x": round(box["x"]), "y": round(box["y"]), "width": 384, "height": 384}

        def seen() -> np.ndarray:
            shot = visit.page.screenshot(clip=clip)
            return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)

        slider = visit.page.get_by_role("slider", name="Divider")
        slider.evaluate("each => each.style.opacity = 0")  # it would lie over the edges
        slider.press("Home")
        np.testing.assert_array_equal(seen(), result)
        slider.press("End")
        shown = seen()
        assert np.abs(shown - np.asarray(source, float)).mean() < 1
        assert np.abs(shown - result).mean() > 2


def test_the_guess_map_lies_over_the_result(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        visit.compare("cat.jpg")
        button = visit.page.get_by_role("button", name="Guess map")
        assert button.is_hidden()
        visit.page.keyboard.press("Escape")
        visit.compare("astronaut.png")
        legend = visit.page.locator("#legend")
        assert (button.get_attribute("aria-pressed"), legend.is_visible()) == ("false", False)
        button.click()
        assert (button.get_attribute("aria-pressed"), legend.is_visible()) == ("true", True)
        over = visit.page.locator("#after .heat-over")
        over.evaluate("each => each.decode()")
        assert over.evaluate("each => [each.naturalWidth, each.naturalHeight]") == [384, 384]
        visit.page.keyboard.press("+")
        *pictures, before = visit.boxes()
        assert all(each == before for each in pictures)
        visit.page.get_by_label("Strength").fill("40")
        assert over.evaluate("each => getComputedStyle(each).opacity") == "0.4"
        drawn = legend.locator(".heat").evaluate("each => getComputedStyle(each).backgroundImage")
        colours = [tuple(map(int, found)) for found in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", drawn)]
        places = np.rint(np.linspace(0, 255, len(colours))).astype(int)
        assert len(colours) == 17
        assert np.abs(np.array(colours) - heat.colour_map()[places]).max() <= 3
        marks = legend.locator("li").evaluate_all("all => all.map(each => [each.textContent, each.style.left])")
        assert [text for text, _ in marks] == [*map(str, heat.LEGEND_LEVELS[:-1]), f"{heat.LEGEND_LEVELS[-1]}+"]
        found = [float(left.rstrip("%")) / 100 for _, left in marks]
        np.testing.assert_allclose(found, heat.warmth(np.array(heat.LEGEND_LEVELS, float)), atol=1e-4)
        visit.page.keyboard.press("g")
        assert legend.is_hidden()


# ---- For everybody


def test_the_keyboard_is_enough(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.page.on("filechooser", lambda chooser: chooser.set_files(folder / "image.png"))
        visit.page.keyboard.press("Tab")
        assert visit.focused() == "choose"
        visit.page.keyboard.press("Enter")
        visit.reaches("image.png", "ready")
        visit.part("image.png", "model").select_option("bicubic")
        for _ in range(12):
            visit.page.keyboard.press("Tab")
            if visit.focused() == "Enlarge image.png":
                break
        visit.page.keyboard.press("Enter")
        visit.reaches("image.png", "done")
        assert visit.focused() == "Compare image.png"  # it came in the place of what was pressed
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#viewer[open]")
        visit.page.keyboard.press("Escape")
        visit.page.wait_for_selector("#viewer:not([open])", state="attached")
        assert visit.focused() == "Compare image.png"
        visit.page.get_by_role("button", name="Other settings image.png").click()
        assert visit.page.locator(".card").count() == 2
        assert visit.page.evaluate("document.activeElement.dataset.part") == "scale"
        visit.part("image.png", "remove").last.click()
        visit.page.locator(".card").nth(1).wait_for(state="detached")
        assert visit.focused() == "Remove image.png"
        visit.page.keyboard.press("Enter")
        assert visit.focused() == "confirm-keep"
        visit.page.keyboard.press("Enter")
        assert visit.focused() == "Remove image.png"
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.press("Tab")
        visit.page.keyboard.press("Enter")
        visit.page.locator(".card").first.wait_for(state="detached")
        assert visit.focused() == "choose"


#: What has no name for a screen reader, an unknown role, an id twice, or lies in no live region though it is news.
UNNAMED = """() => {
    const words = id => document.getElementById(id)?.textContent.trim();
    const named = node => (node.getAttribute('aria-label') || '').trim()
        || (node.getAttribute('aria-labelledby') || '').split(' ').some(words)
        || [...(node.labels || [])].some(label => label.textContent.trim())
        || node.textContent.trim() || node.getAttribute('alt');
    const shown = node => node.offsetParent !== null || getComputedStyle(node).position === 'fixed';
    const all = 'button, a[href], input:not([type=file]), select, progress, [role], dialog, section, img';
    const wrong = [...document.querySelectorAll(all)].filter(shown)
        .filter(node => !named(node) && node.getAttribute('alt') !== '' && !['status', 'list'].includes(node.id))
        .map(node => node.outerHTML.slice(0, 120));
    const ids = [...document.querySelectorAll('[id]')].map(node => node.id);
    return [...wrong, ...ids.filter((id, place) => ids.indexOf(id) !== place)];
}"""

#: Texts that stand out from what they are written on by less than WCAG 2.2 AA asks; disabled controls may.
PALE = """() => {
    const parse = text => {
        const parts = text.match(/[\\d.]+/g).map(Number);
        const unit = text.startsWith('color(');
        return [...parts.slice(0, 3).map(part => unit ? part * 255 : part), parts[3] ?? 1];
    };
    const light = rgb => {
        const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (one, other) => {
        const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
    };
    const mixed = (over, under) => [0, 1, 2].map(i => over[i] * over[3] + under[i] * (1 - over[3]));
    const grounds = node => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) {
            const ground = parse(getComputedStyle(at).backgroundColor);
            if (ground[3] > 0) layers.push(ground);
            if (ground[3] === 1) break;
            if (at.id === 'stage') break;
        }
        // A picture may be any colour under what lies on it.
        const known = layers.length && layers.at(-1)[3] === 1;
        const ends = known ? [layers.pop().slice(0, 3)] : [[0, 0, 0], [255, 255, 255]];
        return ends.map(end => layers.reduceRight((under, over) => mixed(over, under), end));
    };
    const found = [];
    for (const node of document.querySelectorAll('body *')) {
        const text = [...node.childNodes].filter(child => child.nodeType === 3 && child.textContent.trim());
        const field = ['INPUT', 'SELECT'].includes(node.tagName) && !['range', 'checkbox'].includes(node.type);
        if ((!text.length && !field) || node.offsetParent === null) continue;
        if (node.closest(':disabled, [aria-disabled=true]')) continue;
        if (['OPTION', 'OPTGROUP'].includes(node.tagName) || node.closest('.only-read')) continue;
        const style = getComputedStyle(node);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const worst = Math.min(...grounds(node).map(ground => ratio(parse(style.color), ground)));
        if (worst < (large ? 3 : 4.5)) found.push([node.textContent.trim().slice(0, 40), worst.toFixed(2)]);
        const edge = ratio(parse(style.borderColor), grounds(node.parentElement)[0]);
        if (field && edge < 3) found.push([node.outerHTML.slice(0, 60), 'edge ' + edge.toFixed(2)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_names_contrast_and_width(browser, gallery, folder, width, scheme):
    with Visit(browser, gallery.url, width, may_say=REFUSED, color_scheme=scheme) as visit:

        def check() -> None:
            assert visit.page.evaluate(UNNAMED) == []
            assert visit.page.evaluate(PALE) == []
            assert not visit.wide()

        visit.add(folder / "image.png", folder / "letter.png")
        visit.part("image.png", "scale").select_option("exact")
        visit.card("image.png").get_by_text("More settings").click()
        check()
        visit.remove("image.png")
        visit.remove("letter.png")
        visit.compare("astronaut.png")
        visit.page.keyboard.press("g")
        check()
        tools = visit.page.locator(".viewer-tools").bounding_box()
        stage = visit.page.locator("#stage").bounding_box()
        height = visit.page.viewport_size["height"]
        assert tools["y"] + tools["height"] <= height + 1
        assert stage["height"] > height / 2
        for each in visit.page.locator("#viewer button:visible, #viewer a:visible").all():
            box = each.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_empty_page(browser, scheme, tmp_path):
    with Server(tmp_path) as server:
        for width in WIDTHS:
            with Visit(browser, server.url, width, color_scheme=scheme) as visit:
                assert visit.page.get_by_role("button").all_inner_texts() == ["Choose files"]
                assert visit.page.evaluate(UNNAMED) == []
                assert visit.page.evaluate(PALE) == []
                assert not visit.wide()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_jumps_when_a_job_goes_on(browser, server, folder, width):
    with Visit(browser, server.url, width) as visit:
        visit.add(folder / "coffee.png", folder / "image.png")
        for name in ("coffee.png", "image.png"):
            visit.part(name, "model").select_option("bicubic")
            visit.part(name, "format").select_option("png")
        visit.page.evaluate(
            """() => {
                window.places = [];
                const note = () => {
                    const cards = [...document.querySelectorAll('.card')];
                    const early = cards.some(card => ['ready', 'sending'].includes(card.dataset.phase));
                    if (cards.length < 2 || early) return;
                    window.places.push([cards[0].dataset.phase, cards[1].offsetTop - cards[0].offsetTop]);
                };
                new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributes: true });
            }"""
        )
        visit.page.get_by_role("button", name="Enlarge all").click()
        visit.reaches("coffee.png", "done")
        visit.reaches("image.png", "done")
        places = visit.page.evaluate("window.places")
        assert {"queued", "running", "done"} & {phase for phase, _ in places} > {"done"}
        # Where there is little room, what the server notes of a result comes as another line.
        assert len({place for phase, place in places if width > 500 or phase != "done"}) == 1
        for name in ("coffee.png", "image.png"):
            visit.remove(name)


def test_news_is_told_once_and_quietly(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.page.evaluate(
            """() => {
                window.heard = [];
                const status = document.getElementById('status');
                new MutationObserver(() => window.heard.push(status.textContent)).observe(status, { childList: true });
            }"""
        )
        # Numbers that change all the time aren't news.
        lively = visit.page.locator("[aria-live], [role=status], [role=alert], output")
        assert lively.evaluate_all("all => all.map(each => each.id)") == ["trouble", "status"]
        visit.add(folder / "image.png")
        visit.part("image.png", "model").select_option("bicubic")
        visit.page.get_by_role("button", name="Enlarge image.png").click()
        visit.reaches("image.png", "done")
        assert visit.page.evaluate("window.heard") == ["1 file added.", "image.png is done."]
        visit.remove("image.png")


def test_who_wants_no_motion_gets_none(browser, gallery):
    for wish, wanted in (("reduce", "none"), ("no-preference", "wait")):
        with Visit(browser, gallery.url, reduced_motion=wish) as visit:
            visit.page.evaluate("document.querySelector('.card progress').removeAttribute('value')")
            found = visit.page.evaluate("getComputedStyle(document.querySelector('.card progress')).animationName")
            assert found == wanted


def test_numbers_in_words(browser, gallery):
    with Visit(browser, gallery.url) as visit:

        def said(name: str, *given: Any) -> list[Any]:
            found: list[Any] = visit.page.evaluate(
                "([name, given]) => import('/page.js').then(page => given.map(each => page[name](each)))",
                [name, list(given)],
            )
            return found

        assert said("bytesText", 5, 1234, 1_500_000, 2_000_000_000) == ["5 bytes", "1.23 kB", "1.5 MB", "2 GB"]
        assert said("timeText", 2, 33, 130, 4000) == ["a few seconds", "about 35 s", "about 2 min", "about 1 h 10 min"]
        assert said("secondsOf", "12.5", "1:02.5", "1:00:00", "") == [12.5, 62.5, 3600, None]
        assert json.dumps(said("secondsOf", "soon")) == "[NaN]"
        unnamed = visit.page.evaluate(
            "given => import('/page.js').then(page => given.map(each => page.unnamed(each, 'proper.mp4')))",
            ["proper.mp4 ends at 2.4 seconds, before `start`", "proper.mp4: it is damaged", "too much is asked for"],
        )
        assert unnamed == [
            "proper.mp4 ends at 2.4 seconds, before From",  # its name as it is, the field as the page calls it
            "It is damaged",
            "Too much is asked for",
        ]


# ---- At a second trial


@pytest.fixture(scope="module")
def oddities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dot, a strip, and what moves by itself: frames of flat greys."""
    folder: Path = tmp_path_factory.mktemp("oddities")
    Image.fromarray(data.astronaut()[:1, :1]).save(folder / "dot.png")
    Image.fromarray(np.tile(data.astronaut()[:4], (1, 10, 1))).save(folder / "strip.png")
    frames = [Image.new("L", (24, 16), 20 * number) for number in range(12)]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:], duration=400, loop=0)
    return folder


@pytest.fixture(scope="module")
def odd(browser: Any, oddities: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which they are done."""
    with Server(tmp_path_factory.mktemp("odd")) as server:
        with Visit(browser, server.url) as visit:
            visit.add(*oddities.iterdir())
            for file in oddities.iterdir():
                visit.part(file.name, "model").select_option("nearest")
                visit.part(file.name, "scale").select_option("2")
            visit.page.get_by_role("button", name="Enlarge all").click()
            for file in oddities.iterdir():
                visit.reaches(file.name, "done")
        yield server


def test_the_same_moments_of_animations_lie_beside_each_other(browser, odd):
    with Visit(browser, odd.url) as visit:
        late: list[Any] = []
        visit.page.route("**/jobs/*/view", lambda route: late.extend([route]))  # by more than a frame
        with visit.page.expect_response("**/uploads/*/view"):
            visit.part("moves.gif", "compare").click()
        visit.page.locator("#before img").evaluate("each => each.decode()")
        visit.page.locator("#stage-wait").get_by_text("Getting the pictures ready").wait_for()
        assert visit.page.locator("#stage-note").is_hidden()
        visit.page.evaluate(
            """() => new Promise(resolve => {
                const began = performance.now();
                const look = now => (now - began > 1000 ? resolve() : requestAnimationFrame(look));
                requestAnimationFrame(look);
            })"""
        )
        late[0].continue_()
        visit.page.locator("#stage-wait").wait_for(state="hidden")
        stage = visit.page.locator("#stage").bounding_box()
        boxes = visit.boxes()
        left, right = (int(boxes[0]["left"] - stage["x"]) + 4, int(boxes[0]["right"] - stage["x"]) - 4)
        row = int(boxes[0]["top"] - stage["y"]) + 4
        seen = set()
        for _ in range(8):
            picture = np.asarray(Image.open(io.BytesIO(visit.page.locator("#stage").screenshot())).convert("L"))
            one, other = int(picture[row, left]), int(picture[row, right])
            seen.add(round(one / 20))
            assert abs(one - other) < 10
        assert len(seen) > 1  # it moves


def test_a_list_of_animations_stands_still(browser, odd):
    with Visit(browser, odd.url) as visit:
        thumb = visit.part("moves.gif", "thumb")
        assert thumb.get_attribute("src").endswith("/view?at=0")
        assert visit.part("moves.gif", "kind").inner_text() == "animation"
        kind = visit.page.evaluate(
            "path => fetch(path).then(a => a.headers.get('content-type'))", thumb.get_attribute("src")
        )
        assert kind == "image/png"


@pytest.mark.parametrize(("name", "least"), [("dot.png", 60), ("strip.png", 30)])
def test_small_and_narrow_pictures_are_seen(browser, odd, name, least):
    with Visit(browser, odd.url) as visit:
        visit.compare(name)
        (box, *_) = visit.boxes()
        assert min(box["width"], box["height"]) >= least
        visit.page.get_by_role("button", name="Whole").click()
        stage = visit.page.locator("#stage").bounding_box()
        (box, *_) = visit.boxes()
        assert box["left"] >= stage["x"] - 1
        assert box["right"] <= stage["x"] + stage["width"] + 1


def test_what_isnt_downloaded_goes_only_when_asked_twice(browser, server, folder):
    with Visit(browser, server.url, accept_downloads=True) as visit:
        visit.add(folder / "image.png")
        visit.part("image.png", "model").select_option("bicubic")
        visit.page.get_by_role("button", name="Enlarge image.png").click()
        visit.reaches("image.png", "done")
        visit.part("image.png", "remove").click()
        dialog = visit.page.get_by_role("dialog", name="Remove image.png?")
        assert visit.page.evaluate(PALE) == []
        assert visit.page.evaluate(UNNAMED) == []
        dialog.get_by_role("button", name="Keep it").click()
        assert len(visit.ask("jobs")) == 1
        with visit.page.expect_download():
            visit.card("image.png").get_by_role("link", name="Download").click()
        visit.part("image.png", "remove").click()  # it is elsewhere now
        visit.page.locator(".card").wait_for(state="detached")
        assert visit.ask("jobs") == []


def test_a_network_is_added_and_removed_on_the_page(browser, folder, tmp_path):
    content = next(model.content for model in superfine.list_models() if model.card.name == "fast-x2")
    (tmp_path / "mine.onnx").write_bytes(content)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with Server(tmp_path / "state", allow_models=True) as server, Visit(browser, server.url, may_say=REFUSED) as visit:
        visit.add(folder / "image.png")
        visit.page.get_by_text("Networks of your own").click()
        visit.page.set_input_files("#network-files", [tmp_path / "bad.onnx", tmp_path / "mine.onnx"])
        told = visit.page.locator("#network-news")
        told.get_by_text("fast-x2 is there, 2 times").wait_for(timeout=PATIENCE_MS)
        assert told.inner_text().startswith("bad.onnx: Not an ONNX file")
        assert visit.page.evaluate(UNNAMED) == []
        assert visit.page.evaluate(PALE) == []
        group = visit.part("image.png", "model").locator("optgroup[label=Uploaded] option")
        group.wait_for(state="attached")
        assert group.inner_text() == "fast-x2"
        visit.part("image.png", "model").select_option(group.get_attribute("value"))
        visit.page.get_by_role("button", name="Remove the network fast-x2").click()
        group.wait_for(state="detached")
        assert visit.part("image.png", "model").input_value() == "balanced"
        assert visit.focused() == "choose-network"
        assert all(len(model["name"]) < 32 for model in visit.ask("models"))
        # Dropped among pictures it is a network all the same.
        visit.page.set_input_files("#files", [tmp_path / "mine.onnx"])
        group.wait_for(state="attached")
        assert visit.page.locator(".card").count() == 1


def test_a_network_is_refused_before_it_is_sent_where_none_is_taken(browser, server, tmp_path):
    (tmp_path / "mine.onnx").write_bytes(b"a network")
    with Visit(browser, server.url) as visit:
        sent: list[str] = []
        visit.page.on("request", lambda request: sent.append(request.method))
        visit.page.set_input_files("#files", [tmp_path / "mine.onnx"])
        visit.reaches("mine.onnx", "refused")
        assert "this server takes none" in visit.part("mine.onnx", "error").inner_text()
        assert visit.page.locator("#networks").is_hidden()
        assert "POST" not in sent
        visit.page.get_by_role("button", name="Remove finished").click()  # what was refused goes too
        visit.page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
        visit.page.locator(".card").wait_for(state="detached")


def states(job: Any, *given: dict[str, Any]) -> list[Any]:
    """Jobs like one, with ids of their own."""
    return [
        {**job, "id": f"{number:032x}", "name": f"{number}.png", "source_name": f"{number}.png", **each}
        for number, each in enumerate(given)
    ]


def answering(jobs: list[Any]) -> Any:
    return lambda route: route.fulfill(json=jobs)


def test_what_ends_at_once_is_told_at_once(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        job = visit.ask("jobs")[0]
        running = {"status": "running", "progress": 0.5, "result": None}
        for count, words in ((2, "1.png is done. 0.png is done."), (5, "5 files are done.")):
            jobs = states(job, *[running] * count)
            visit.page.route("**/api/v1/jobs", answering(jobs))
            visit.page.route("**/events", lambda route: route.fulfill(status=503, json=REFUSAL))
            visit.may_say = (REFUSED,)
            hide(visit.page, hidden=False)
            visit.page.locator(".card[data-phase=running]").nth(count - 1).wait_for()
            ended = states(job, *[{}] * count)
            visit.page.route("**/api/v1/jobs", answering(ended))
            hide(visit.page, hidden=False)
            visit.page.locator("#status").get_by_text(words, exact=True).wait_for()


def test_jobs_that_go_on_beside_the_one_that_is_heard_are_asked_for_often(browser, gallery):
    with Visit(browser, gallery.url, may_say=REFUSED) as visit:
        job = visit.ask("jobs")[0]
        jobs = states(job, *[{"status": "running", "progress": 0.5, "result": None}] * 2)
        visit.page.route("**/api/v1/jobs", lambda route: route.fulfill(json=jobs))
        visit.page.route("**/events", lambda route: None)  # listened to, and nothing is heard
        hide(visit.page, hidden=False)
        times = []
        for _ in range(4):
            with visit.page.expect_request("**/api/v1/jobs") as asked:
                pass
            asked.value.response()
            times.append(asked.value.timing["startTime"])
        assert min(np.diff(times)) < 2500


def test_what_is_over_isnt_painted_again(browser, gallery):
    with Visit(browser, gallery.url) as visit:
        found = visit.page.evaluate(
            """async () => {
                const touched = [];
                const set = Element.prototype.setAttribute;
                Element.prototype.setAttribute = function (name, value) {
                    if (this.closest('.card')) touched.push(name);
                    return set.call(this, name, value);
                };
                const asked = new Promise(resolve => {
                    const whole = window.fetch;
                    window.fetch = async (...given) => {
                        const answer = await whole(...given);
                        setTimeout(resolve, 300);
                        return answer;
                    };
                });
                document.dispatchEvent(new Event('visibilitychange'));
                await asked;
                return touched;
            }"""
        )
        assert found == []


def test_a_window_that_hears_of_a_job_knows_that_the_server_answers(browser, gallery):
    with Visit(browser, gallery.url, may_say=("Failed to load resource", REFUSED)) as visit:
        job = visit.ask("jobs")[0]
        visit.page.route("**/api/v1/**", lambda route: route.abort())
        hide(visit.page, hidden=False)
        visit.page.get_by_role("alert").get_by_text("superfine doesn't answer").wait_for()
        visit.page.evaluate("job => new BroadcastChannel('superfine-jobs').postMessage({ job })", job)
        visit.page.locator("#trouble").wait_for(state="hidden")


def test_who_leaves_with_files_on_their_way_is_asked(browser, server, folder):
    with Visit(browser, server.url) as visit:
        visit.page.route("**/api/v1/uploads", lambda route: None)  # it takes long
        left = "() => !window.dispatchEvent(new Event('beforeunload', { cancelable: true }))"
        assert visit.page.evaluate(left) is False
        visit.page.set_input_files("#files", [folder / "image.png"])
        visit.reaches("image.png", "sending")
        assert visit.page.evaluate(left) is True
        visit.remove("image.png")
        assert visit.page.evaluate(left) is False


def test_nothing_is_cut_off_or_pushed_aside_on_a_tablet(browser, server, folder):
    with Visit(browser, server.url, 800) as visit:
        visit.add(folder / "image.png", folder / "cat.jpg")
        menu, button = visit.part("image.png", "model"), visit.part("image.png", "start")
        assert "balanced (recommended)" in menu.inner_text()
        room = menu.evaluate(
            """each => {
                const style = getComputedStyle(each);
                const pen = document.createElement('canvas').getContext('2d');
                pen.font = style.font;
                const words = pen.measureText(each.selectedOptions[0].text).width;
                return each.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - words;
            }"""
        )
        assert room >= 16  # for the arrow
        one, other = menu.bounding_box(), button.bounding_box()
        assert one["y"] + one["height"] == pytest.approx(other["y"] + other["height"], abs=1)
        visit.remove("image.png")
        visit.remove("cat.jpg")


def test_fingers_find_all_that_there_is(browser, server, folder):
    with Visit(browser, server.url, 390, has_touch=True, is_mobile=True) as visit:
        visit.add(folder / "image.png")
        visit.card("image.png").get_by_text("More settings").click()
        small = visit.page.locator(
            "button, a, select, summary, label:has([type=checkbox]), input:not([type=checkbox], [type=file])"
        )
        sizes = small.evaluate_all(
            """all => all.filter(each => each.offsetParent && each.getBoundingClientRect().height < 43.5)
                .map(each => each.outerHTML.slice(0, 60))"""
        )
        assert sizes == []
        visit.remove("image.png")


def test_many_files_are_no_burden(browser, server, folder, tmp_path):
    # Browsers that fill in forms look at all that there are whenever one comes: hundreds of them took minutes.
    content = (folder / "image.png").read_bytes()
    names = [f"{number}.png" for number in range(30)]
    for name in names:
        (tmp_path / name).write_bytes(content)
    with Visit(browser, server.url) as visit:
        visit.add(*(tmp_path / name for name in names))
        forms = visit.page.locator(".card form")
        assert 1 <= forms.count() < 20
        visit.card("29.png").scroll_into_view_if_needed()
        visit.part("29.png", "model").select_option("nearest")
        assert visit.part("0.png", "model").count() == 0
        visit.card("29.png").get_by_text("More settings").click()
        visit.card("29.png").get_by_role("button", name="Use these settings").click()
        visit.card("0.png").scroll_into_view_if_needed()
        assert visit.part("0.png", "model").input_value() == "nearest"
        visit.page.route("**/api/v1/jobs", lambda route: None if route.request.method == "POST" else route.continue_())
        visit.page.get_by_role("button", name="Enlarge all 30").click()
        visit.page.locator(".card[data-phase=waiting]").nth(29).wait_for()
        assert visit.page.locator(".card progress:indeterminate:visible").count() == 0  # what waits keeps still
        visit.page.unroute("**/api/v1/jobs")  # which lets go of it
        visit.page.locator(".card[data-phase=done]").nth(29).wait_for(timeout=PATIENCE_MS)
        assert forms.count() == 0
        visit.page.get_by_role("button", name="Remove finished").click()
        visit.page.get_by_role("dialog").get_by_role("button", name="Remove 30").click()
        visit.page.locator(".card").first.wait_for(state="detached", timeout=PATIENCE_MS)
