"""The survey of methods names what is here, its figures are the networks' own, and its chapter on GANs runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data

from superfine.models import list_models
from superfine.train.nets import NETS
from superfine.train.score import open_run

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
HELD = ("chelsea", "gravel")


def rows() -> dict[str, list[str]]:
    """The table's rows: first cell without its marks -> the other cells."""
    lines = [line.replace("*", "").replace("`", "") for line in TEXT.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def the_block() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.parametrize("name", NETS)
def test_every_net_has_its_place(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_recipes_that_are_named_exist() -> None:
    named = set(re.findall(r"recipes/[\w-]+\.toml", TEXT))
    assert len(named) >= 10
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_papers_are_linked_by_their_own_number() -> None:
    linked = re.findall(r"\[arXiv:(\d{4}\.\d{4,5})\]\(https://arxiv\.org/abs/(\d{4}\.\d{4,5})\)", TEXT)
    assert len(linked) >= 20
    assert not [pair for pair in linked if len(set(pair)) > 1]
    assert len(re.findall("arXiv:", TEXT)) == len(linked)


def test_chapters_that_are_linked_exist() -> None:
    headings = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    linked = re.findall(r"\]\(#([^)]+)\)", TEXT)
    assert len(linked) >= 6
    assert set(linked) <= anchors


def test_what_was_judged_has_a_row() -> None:
    shown = re.findall(r"^ {4}superfine evaluate .* --models (\S+)", TEXT, re.MULTILINE)
    assert len(shown) == 2
    names = [name.removeprefix("runs/") for names in shown for name in names.split(",")]
    table = " ".join(rows())
    assert not [name for name in names if name not in table]


@pytest.mark.parametrize("family", ["three-layer", "fast", "balanced", "best", "photo"])
def test_figures_are_those_of_the_cards(family: str) -> None:
    """A network that is exported anew brings its own figures."""
    every = [model.card for model in list_models()]
    cards = {card.scale: card for card in every if card.name == f"{family}-x{card.scale}"}
    assert cards
    _, parameters, _, *figures = rows()[family]
    for scale, count, figure in zip((2, 4), parameters.split(" / "), figures, strict=True):
        if scale not in cards:
            assert (count, figure) == ("-", "")
            continue
        assert count == f"{cards[scale].parameters / 1000:.0f}K"
        assert float(figure.split(" / ")[0]) == pytest.approx(cards[scale].psnr["Set5"], abs=0.0051)


@pytest.mark.parametrize("recipe", ["espcn-x2", "fsrcnn-x2", "unet-x4"])
def test_figures_are_those_of_the_recipes(recipe: str) -> None:
    """Within what fp32 in torch and bf16 in an export differ by."""
    head = (ROOT / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    (reached,) = re.findall(r"Reached: Set5 (\d+\.\d\d)", head)
    (row,) = [cells for first, cells in rows().items() if f"recipes/{recipe}.toml" in first]
    figure = row[3 if recipe.endswith("x2") else 4]
    assert float(figure.split(" / ")[0]) == pytest.approx(float(reached), abs=0.0151)


def edges(pixels: np.ndarray) -> float:
    """Mean square of the Laplacian of the mean of R, G and B."""
    return float((ndimage.laplace(pixels.astype(float).mean(axis=2)) ** 2).mean())


@pytest.mark.slow
def test_the_chapter_on_gans_runs(tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(the_block(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "block.py"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    reported = {
        called: float(psnr) for called, psnr in re.findall(r"^([\w ]+): (\d+\.\d\d) dB$", done.stdout, re.MULTILINE)
    }
    (sharp,) = tmp_path.glob("*/sharp")
    result = json.loads((sharp / "result.json").read_text(encoding="utf-8"))["validation"]
    told = {"bicubic": "bicubic", "L1": "start", "with a critic": "network"}
    assert reported == {called: pytest.approx(result[key]["psnr"], abs=0.0051) for called, key in told.items()}
    # What the chapter says: L1 is above bicubic, and the critic costs dB ...
    assert reported["L1"] > reported["bicubic"] + 0.2
    assert reported["L1"] - 4 < reported["with a critic"] < reported["L1"] - 0.1
    # ... and gives detail, also seen by another measure than the block's own.
    shares = re.findall(
        r"^(\w+), fine detail .*: L1 (\d+\.\d) %, with a critic (\d+\.\d) %$", done.stdout, re.MULTILINE
    )
    assert [name for name, *_ in shares] == list(HELD)
    assert all(0 < 1.3 * float(before) < float(after) < 100 for _, before, after in shares)
    runs = [open_run(sharp.parent / name, 4) for name in ("plain", "sharp")]
    for name in HELD:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        small = np.asarray(picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BICUBIC))
        before, after = (edges(run(small)) for run in runs)
        assert 1.3 * before < after < edges(np.asarray(picture))
