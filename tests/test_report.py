"""Tables, charts and the page of an evaluation."""

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from superfine.errors import OutputError, UsageError
from superfine.evaluate.charts import Box, pareto_front, place_labels, round_step, shortened
from superfine.evaluate.evaluation import Evaluation
from superfine.evaluate.pairs import open_dataset
from superfine.evaluate.record import AS_IS, Failure, Measurement, Row
from superfine.evaluate.report import (
    Shown,
    report_html,
    save_report,
    show_worst,
    worst_pictures,
)
from superfine.evaluate.tables import best_network, table_text

BOUNDS = Box(40, 0, 640, 400)
PROTOCOL_Y, PROTOCOL_RGB = "Y601-limited, crop 2, matlab-bicubic", "RGB, crop 2, matlab-bicubic"
DASH = "\N{EN DASH}"


def row(model, psnr, ms=100.0, **given):
    facts = {
        "dataset": "Set",
        "scale": 2,
        "pictures": 3,
        "protocol_y": PROTOCOL_Y,
        "protocol_rgb": PROTOCOL_RGB,
        "psnr_y": psnr,
        "ssim_y": 0.9,
        "psnr_rgb": psnr - 2,
        "ssim_rgb": 0.8,
        "pooled_y": psnr - 0.5,
        "pooled_rgb": psnr - 2.5,
        "ms_per_mpx": ms,
        "memory_mb": 12.0,
        "engine": "OpenVINO 1, CPU",
        "precision": "bf16",
        "sha256": "abcdef0123456789",
        "parameters": 12345,
    }
    return Row(model=model, **{**facts, **given})


def measured(model, picture, psnr, dataset="Set"):
    return Measurement(
        dataset=dataset,
        picture=picture,
        model=model,
        psnr_y=psnr,
        ssim_y=0.9,
        psnr_rgb=psnr - 2,
        ssim_rgb=0.8,
        error_y=1.0,
        error_rgb=3.0,
        samples=100,
        pixels=25,
        seconds=0.1,
    )


def evaluation(rows, measurements=(), **given):
    facts = {"version": "9.9", "date": "2031-02-03", "machine": {"cpu": "Abacus <i>"}}
    return Evaluation(rows=tuple(rows), measurements=tuple(measurements), **{**facts, **given})


BASES = [
    row("nearest", 28.0, 10.0, sha256="", parameters=0),
    row("bicubic", 30.0, 20.0, sha256="", parameters=0),
]


class Cells(HTMLParser):
    """Rows of cells: (text, classes); and every tag."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th") or (self._inside and tag in ("abbr", "span", "code"))
        if tag in ("td", "th"):
            self.rows[-1].append(["", dict(attrs).get("class", "")])

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self._inside:
            self.rows[-1][-1][0] += data


def table_of(text):
    return {cells[0][0]: cells[1:] for cells in Cells(text).rows}


def test_the_table_has_every_figure_under_its_protocol():
    found = evaluation([*BASES, row("net", 33.129, 56.7, memory_mb=7.6, distances={"LPIPS": 0.1234})])
    for text in (found._repr_html_(), report_html(found)):
        head = [cell for cell, _ in Cells(text).rows[0]]
        assert head == ["", PROTOCOL_Y, PROTOCOL_RGB, "Distances, lower is nearer", "Cost", "Run"]
        cells = [cell.removesuffix(" best") for cell, _ in table_of(text)["net"]]
        assert cells[:8] == ["33.13", "32.63", "0.9000", "31.13", "30.63", "0.8000", "0.1234", "57"]
        assert cells[8:] == ["8", "12,345", "abcdef01", "bf16", "OpenVINO 1, CPU"]
        assert [cell for cell, _ in table_of(text)["bicubic"]][6] == DASH


def test_the_best_of_a_column_is_marked_and_said():
    rows = [
        *BASES,
        row("quick", 33.121, 30.0, distances={"LPIPS": 0.3}),
        row("even", 33.119, 40.0, distances={"LPIPS": 0.1}),
        row("slow", 32.0, 90.0, distances={"LPIPS": 0.2}),
    ]
    cells = table_of(evaluation(rows)._repr_html_())
    best = {
        name: [place for place, (_, classes) in enumerate(line) if "best" in classes] for name, line in cells.items()
    }
    assert 0 in best["quick"]
    assert 0 in best["even"]  # 33.12 like the other: in the digits shown there is no difference
    assert 0 not in best["slow"]
    assert [name for name in best if 6 in best[name]] == ["even"]  # of distances the least
    assert [name for name in best if 7 in best[name]] == ["quick"]  # of times the least of the networks
    assert all(cells[name][place][0].endswith(" best") for name in best for place in best[name])


def test_nothing_is_best_where_nothing_is_worse():
    alone = table_of(evaluation([*BASES, row("net", 33.0, 5.0)])._repr_html_())
    marked = [place for place, (_, classes) in enumerate(alone["net"]) if "best" in classes]
    assert marked == [0, 1, 3, 4]  # PSNR; SSIM is the same for all, and no other network has costs
    equal = evaluation([row("a", 33.001), row("b", 33.002)])
    assert "marks the best" not in report_html(equal)
    assert '"only-read"' not in report_html(equal)
    assert "*" not in str(equal)


def test_the_best_network_is_the_faster_of_equals():
    slow, quick, worse = row("slow", 33.16, 300.0), row("quick", 33.151, 100.0), row("worse", 33.149, 1.0)
    untimed = row("untimed", 33.16, math.nan)
    base = row("bicubic", 40.0, 0.1)
    assert best_network([base, slow, untimed, quick, worse]) is quick
    assert best_network([slow, worse]) is slow
    assert best_network([untimed, worse]) is untimed
    assert best_network([row("exact", math.inf), row("also", math.inf, 5.0), slow]).model == "also"
    assert best_network([row("unknown", math.nan)]) is None
    html = report_html(evaluation([base, slow, quick]))
    assert re.search(r'class="label leading"[^>]*>quick<', html)
    assert "In bold quick: the highest PSNR, or within 0.01 dB of it and the fastest" in html


def test_baselines_stand_apart():
    rows = [row("net", 31.0), *BASES, row(AS_IS, 25.0, math.nan, engine="", precision="", sha256="", parameters=0)]
    html = evaluation(rows)._repr_html_()
    assert re.findall(r'<tr class="(\w+)"><th scope="row">([^<]+)', html) == [
        ("baseline", "nearest"),
        ("baseline", "bicubic"),
        ("baseline", AS_IS),
        ("network", "net"),
    ]
    assert html.count("<tbody>") == 2


def test_infinity_and_nan():
    rows = [*BASES, row("copy", math.inf, math.nan, pooled_y=math.inf, ssim_y=math.nan, memory_mb=math.nan)]
    html = evaluation(rows)._repr_html_()
    cells = [cell for cell, _ in table_of(html)["copy"]]
    assert cells[0] == "∞ best"
    assert cells[2] == DASH
    assert cells[6:8] == [DASH, DASH]  # time and memory
    assert (
        next(line.split() for line in str(evaluation(rows)).splitlines() if line.startswith("copy"))[7:9] == [DASH] * 2
    )
    assert '<abbr title="identical">∞</abbr>' in html
    page = report_html(evaluation(rows))
    assert "Not drawn, without a finite time or PSNR: copy (∞ dB)" in page
    assert "nan" not in page.lower().replace("nanum", "")
    assert "inf" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_plain_text():
    rows = [*BASES, row("net-with-a-rather-long-name", 33.129, 1234.5), row("best", 34.0, 99.0)]
    other = [replace(each, dataset="Other", protocol_y="Y601-limited, crop 2, LR as given") for each in rows[:1]]
    failures = (Failure(name="a\x1b[31m", reason="not\na picture"),)
    text = table_text([*rows, *other], failures, notes=("LPIPS is new", "a\x1b[31m"))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    first, second, notes, failed = text.split("\n\n")
    assert PROTOCOL_Y in first
    assert "LR as given" in second
    net = next(line.split() for line in lines if line.startswith("net-with"))
    assert net[1:9] == ["33.13", "32.63", "0.9000", "31.13", "30.63", "0.8000", "1,234", "12"]
    assert next(line.split() for line in lines if line.startswith("best"))[1] == "*34.00"
    assert failed == "failed: 1\n  a\\x1b[31m: not\\na picture"
    assert notes == "note: LPIPS is new\nnote: a\\x1b[31m"
    assert "* best" in first
    assert "*" not in second  # one row has nothing to be better than
    heads = next(line for line in lines if line.lstrip().startswith("PSNR"))
    assert heads.split()[-1] == "prec."
    assert heads.index("PSNR") + 4 == next(line for line in lines if line.startswith("nearest")).index("28.00") + 5


def test_flicker_has_no_best_but_the_error_has():
    flicker = {"nearest": (5.0, 4.0), "bicubic": (1.5, 1.25), "net": (2.25, 1.0)}
    rows = [
        row(name, 30.0, flicker=whole, excess_flicker=excess, true_flicker=2.0, unit="frame", pictures=9)
        for name, (whole, excess) in flicker.items()
    ]
    text = table_text(rows, ())
    assert "Set, x2, 9 frames" in text
    assert "lower is steadier: all of it (the true clip has 2.00), and of the error" in text
    cells = {line.split()[0]: line.split()[7:9] for line in text.splitlines() if line.startswith(tuple(flicker))}
    assert cells == {"nearest": ["5.00", "4.00"], "bicubic": ["1.50", "1.25"], "net": ["2.25", "*1.00"]}
    page = report_html(evaluation(rows))
    for words in ("the true clip has 2.00", "Means over the frames", "<dt>Frames</dt>"):
        assert words in page
    assert "Flicker" not in table_text([row("net", 30.0)], ())


@pytest.mark.parametrize("seed", range(4))
def test_pareto_front_against_all_pairs(seed):
    draw = np.random.default_rng(seed)
    points = [tuple(map(float, point)) for point in draw.integers(0, 8, (12, 2))]
    beaten = {
        place
        for place, other in itertools.permutations(range(len(points)), 2)
        if points[other] != points[place]
        and points[other][0] <= points[place][0]
        and points[other][1] >= points[place][1]
    }
    wanted = {point for place, point in enumerate(points) if place not in beaten}
    found = pareto_front(points)
    assert {points[place] for place in found} == wanted
    assert len(found) == len(wanted)
    assert [points[place][0] for place in found] == sorted(point[0] for point in wanted)


@pytest.mark.parametrize("seed", range(6))
def test_labels_cover_no_other(seed):
    draw = np.random.default_rng(seed)
    points = [
        (f"network-{place}-x2", *xy) for place, xy in enumerate(draw.uniform((60, 20), (620, 380), (12, 2)).tolist())
    ]
    points += [("crowded-x2", points[0][1] + 9, points[0][2] + 3), ("too-x2", points[0][1] - 4, points[0][2] + 10)]
    boxes = place_labels(points, BOUNDS)
    assert len(boxes) == len(points)
    for a, b in itertools.combinations(boxes, 2):
        assert a.overlap(b) == 0
    for (name, _, _), box in zip(points, boxes, strict=True):
        assert box.outside(BOUNDS) == pytest.approx(0, abs=1e-6), name
        for other, x, y in points:
            if other != name:
                assert box.overlap(Box(x - 4, y - 4, x + 4, y + 4)) == 0


#: Set5, x2: OpenCV's networks lie close together.
CROWD = {
    "three-layer-x2": (359, 213),
    "ESPCN_x2": (361, 235),
    "FSRCNN_x2": (379, 231),
    "FSRCNN-small_x2": (299, 246),
    "photo-x2": (352, 263),
}


@pytest.mark.parametrize("seed", range(6))
def test_leaders_meet_no_other_mark(seed):
    draw = np.random.default_rng(seed)
    points = [(name, *(draw.normal(xy, 3))) for name, xy in CROWD.items()]
    for name, x, y, box in ((*point, box) for point, box in zip(points, place_labels(points, BOUNDS), strict=True)):
        across, down = np.linspace((x, y), (np.clip(x, box.left, box.right), np.clip(y, box.top, box.bottom)), 200).T
        for other, *centre in points:
            if other != name:
                assert np.hypot(across - centre[0], down - centre[1]).min() > 4, (name, other)


def test_labels_avoid_the_line():
    line = Box(100, 99, 640, 101)
    box = place_labels([("a-network", 100.0, 100.0)], BOUNDS, [line])[0]
    assert box.overlap(line) == 0


def test_overlap_by_hand():
    a, b = Box(0, 0, 4, 3), Box(3, 1, 10, 2)
    assert a.overlap(b) == b.overlap(a) == 1
    assert a.overlap(Box(4, 0, 5, 5)) == 0
    assert a.outside(b) == 11


@pytest.mark.parametrize(
    ("rough", "step"), [(1, 1), (1.1, 2), (2.3, 5), (5.01, 10), (0.03, 0.05), (0.1, 0.1), (0.3, 0.5), (70, 100)]
)
def test_round_steps(rough, step):
    assert round_step(rough) == pytest.approx(step)


def test_short_names():
    assert shortened(["x2/img_003_SRF_2_HR.png", "x2/img_014_SRF_2_HR.png"]) == ["003", "014"]
    assert shortened(["baby.png", "bird.png"]) == ["baby", "bird"]
    assert shortened(["only_one.png"]) == ["only_one"]
    assert shortened(["a" * 30 + ".png", "b.png"])[0] == "…" + "a" * 13
    assert shortened([".png", "b"]) == [".png", "b"]
    assert shortened([]) == []


def marks(svg):
    found = re.findall(r"translate\(([\d.-]+) ([\d.-]+)\)[^>]*><title>([^<]+)</title>", svg)
    return {title: (float(x), float(y)) for x, y, title in found}


def chart(html, place, kind="wide"):
    return re.findall(rf'<svg class="chart {kind}".*?</svg>', html, flags=re.DOTALL)[place]


@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_the_plot_is_true_to_scale(kind):
    rows = [row("a", 30.0, 10.0), row("b", 31.0, 100.0), row("c", 33.0, 1000.0), row("worse", 30.5, 1000.0)]
    svg = chart(report_html(evaluation(rows)), 0, kind)
    at = {title.split(":")[0]: place for title, place in marks(svg).items()}
    assert at["b"][0] - at["a"][0] == pytest.approx(at["c"][0] - at["b"][0], abs=0.11)  # a decade is a decade
    assert at["a"][1] - at["b"][1] == pytest.approx((at["b"][1] - at["c"][1]) / 2, abs=0.11)
    assert at["c"][1] < at["worse"][1] < at["a"][1]
    assert at["worse"][0] == at["c"][0]
    ticks = {
        text: float(x) for x, text in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d,]+)<', svg)
    }
    assert ticks["100"] == pytest.approx(at["b"][0], abs=0.11)
    heights = re.findall(r'<text x="38" y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)
    assert any(float(text) == 31 and float(y) - 4 == pytest.approx(at["b"][1], abs=0.11) for y, text in heights)
    assert svg.count("dominated") == 1
    for name in ("a", "b", "c", "worse"):
        assert re.search(rf'<text class="label [^>]*>{name}</text>', svg)
    steps = re.search(r'class="front" d="M([\d.]+),([\d.]+)H([\d.]+)V([\d.]+)H([\d.]+)V([\d.]+)H', svg)
    assert steps is not None
    assert tuple(map(float, steps.groups())) == (*at["a"], *at["b"], *at["c"])


def test_the_scatter_shows_gains():
    pictures = {"one.png": (30.0, 33.0, 29.0), "two.png": (20.0, 21.0, 19.5), "three.png": (40.0, math.inf, 39.0)}
    entries = [
        measured(model, name, values[place])
        for name, values in pictures.items()
        for place, model in enumerate(("bicubic", "net", "nearest"))
    ]
    html = report_html(evaluation([*BASES, row("net", 33.0)], entries))
    found = marks(chart(html, 1))
    assert set(found) == {
        "one.png, net: +3.00 dB over bicubic",
        "two.png, net: +1.00 dB over bicubic",
        "one.png, nearest: -1.00 dB over bicubic",
        "two.png, nearest: -0.50 dB over bicubic",
        "three.png, nearest: -1.00 dB over bicubic",
    }
    three, one = found["one.png, net: +3.00 dB over bicubic"], found["one.png, nearest: -1.00 dB over bicubic"]
    two = found["two.png, net: +1.00 dB over bicubic"]
    assert (one[1] - two[1]) == pytest.approx(two[1] - three[1], abs=0.11)
    assert two[0] < three[0]  # the picture on which bicubic is worst comes first
    assert "1 without finite figures not drawn" in html


def test_every_method_has_a_mark_of_its_own():
    networks = [f"net{place}" for place in range(16)]
    names = ["nearest", "bilinear", "lanczos", "matlab-bicubic", AS_IS, *networks]
    entries = [measured(model, "a.png", 30.0) for model in ("bicubic", *names)]
    html = report_html(evaluation([*BASES, *(row(name, 31.0) for name in names[1:])], entries))
    legend = re.search(r'<ul class="legend">(.*?)</ul>', html, flags=re.DOTALL)
    assert legend is not None
    drawn = re.findall(r'<path class="mark ([^"]+)"[^>]* d="([^"]+)"></path></svg>([^<]+)</li>', legend[1])
    assert [name for _, _, name in drawn] == names
    assert len({(look, shape) for look, shape, _ in drawn}) == len(names)
    for (hue, shape, _), (next_hue, next_shape, _) in itertools.pairwise(drawn[-len(networks) :]):
        assert hue != next_hue
        assert shape != next_shape
    plotted = re.findall(r'<path class="mark ([^"]+) (?:best|dominated)"[^>]* d="([^"]+)"><title>([^:]+):', html)
    assert {(look, shape, name) for look, shape, name in plotted if name in names} == set(drawn)  # alike in both charts


def test_nothing_lies_over_a_mark():
    svg = chart(report_html(evaluation([*BASES, *(row(name, 33.0, 99.0) for name in CROWD)])), 0)
    kinds = re.findall(r'class="(label|leader|front|mark)', svg)
    assert kinds[-2 - len(CROWD) :] == ["mark"] * (2 + len(CROWD))
    assert "mark" not in kinds[: -2 - len(CROWD)]


def test_many_pictures_have_no_labels():
    entries = [measured(model, f"{n:03}.png", 30.0 + n) for n in range(40) for model in ("bicubic", "net")]
    svg = chart(report_html(evaluation([*BASES, row("net", 33.0)], entries)), 1)
    assert "40 pictures; point at a mark for its name" in svg
    assert "rotate" not in svg


def test_worst_pictures():
    psnr = {"a": (20.0, 21.0), "b": (30.0, 30.2), "c": (25.0, 29.0), "d": (33.0, 33.1), "e": (35.0, 39.0)}
    entries = [
        measured(model, name, values[place])
        for name, values in psnr.items()
        for place, model in enumerate(("bicubic", "good"))
    ] + [measured("bad", name, 10.0) for name in psnr]
    found = worst_pictures(evaluation([*BASES, row("bad", 10.0), row("good", 31.0)], entries), "Set")
    assert [(worst.picture, worst.model) for worst in found] == [
        ("a", "good"),
        ("c", "good"),
        ("d", "good"),
        ("b", "good"),
    ]
    assert found[0].reason == "21.00 dB, among the lowest"
    assert found[2].reason == "+0.10 dB over bicubic, among the least"
    few = evaluation([*BASES, row("good", 31.0)], [measured("good", "a", 30.0), measured("good", "b", math.inf)])
    assert [worst.picture for worst in worst_pictures(few, "Set")] == ["a"]
    assert worst_pictures(evaluation(BASES, entries), "Set") == ()


class Planted:
    """Right everywhere but in one square."""

    name, scale, engine, precision, sha256, parameters, notes = "planted", 2, "by hand", "exact", "", 0, ()

    def __init__(self, whole):
        self.whole = whole

    def __call__(self, pixels):
        large = self.whole.copy()
        large[200:220, 150:170] ^= 255
        return large


def test_shown_is_where_the_error_is(tmp_path):
    large = np.random.default_rng(5).integers(0, 256, (300, 260, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "one.png")
    Image.fromarray(large[:, ::-1]).save(tmp_path / "gone.png")
    dataset = open_dataset(tmp_path, 2)
    (tmp_path / "gone.png").unlink()
    names = [source.name for source in dataset.sources]
    entries = [measured(model, name, 30.0) for name in names for model in ("bicubic", "planted")]
    rows = [replace(each, dataset=dataset.name) for each in (*BASES, row("planted", 31.0))]
    found = evaluation(rows, [replace(each, dataset=dataset.name) for each in entries])
    shown = show_worst(found, [dataset], [Planted(large)])
    assert [each.picture for each in shown] == ["one.png"]
    crops = dict(shown[0].crops)
    assert list(crops) == ["HR", "bicubic", "planted"]
    assert {pixels.shape for pixels in crops.values()} == {(128, 128, 3)}
    assert (crops["HR"] != crops["planted"]).any(axis=2).sum() == 400
    assert (crops["HR"] != crops["bicubic"]).any()
    places = np.lib.stride_tricks.sliding_window_view(large, crops["HR"].shape)[:, :, 0]
    assert any((places[top, left] == crops["HR"]).all() for top in range(92, 173) for left in range(42, 133))
    page = report_html(found, shown=shown)
    assert page.count('<div class="shown">') == 1
    assert "Worst pictures of planted" in page
    assert show_worst(found, [dataset], []) == ()


def test_a_whole_page():
    found = evaluation(
        [*BASES, row("net", 33.0), *(replace(each, dataset="Other") for each in BASES)],
        [measured("net", "a.png", 33.0), measured("bicubic", "a.png", 30.0)],
        failures=(Failure(name="Set/<b>.png", reason="isn't a <picture>"),),
        notes=("LPIPS is <1>",),
    )
    page = report_html(found, command="superfine evaluate 'a b' --report <r>.html")
    tags = [tag for tag, _ in Cells(page).tags]
    assert "script" not in tags
    assert "b" not in tags
    assert "i" not in tags
    assert "superfine evaluate &#x27;a b&#x27; --report &lt;r&gt;.html" in page
    assert "superfine 9.9, 2031-02-03" in page
    assert "Abacus &lt;i&gt;" in page
    assert "Set/&lt;b&gt;.png</strong>: isn&#x27;t a &lt;picture&gt;" in page
    assert "LPIPS is &lt;1&gt;" in page
    assert page.count("<table>") == 2
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|url\(|style=", page)
    assert report_html(found) == report_html(found)


@pytest.mark.parametrize("found", [evaluation([]), evaluation([], failures=(Failure(name="x", reason="y"),))])
def test_nothing_was_judged(found):
    assert "<h1>Nothing</h1>" in report_html(found)
    assert "superfine-evaluation" in found._repr_html_()
    assert str(found) == ("failed: 1\n  x: y" if found.failures else "")


def test_one_row_and_hostile_names():
    evil = '"><script>alert(1)</script>'
    found = evaluation(
        [row(evil, 30.0, dataset=evil, engine=evil, precision=evil, distances={evil: 0.1})],
        [measured(evil, evil, 30.0, evil), measured("bicubic", evil, 29.0, evil)],
    )
    shown = Shown(evil, evil, evil, ((evil, np.zeros((4, 4, 3), np.uint8)),))
    for text in (report_html(found, shown=[shown], command=evil), found._repr_html_()):
        tags = Cells(text).tags
        assert "script" not in [tag for tag, _ in tags]
        assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_saving(tmp_path):
    found = evaluation(BASES)
    save_report(found, tmp_path / "r.html", command="c")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report_html(found, command="c")
    with pytest.raises(UsageError, match=r"r\.jsonl: is to be a page; give it a name that ends in \.html"):
        save_report(found, tmp_path / "r.jsonl")
    with pytest.raises(OutputError, match="can't be written"):
        save_report(found, tmp_path / "nowhere" / "r.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.html"]
