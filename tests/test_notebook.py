"""The notebook of the docs runs from top to bottom, and shows what it says."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent.parent / "docs"


def shown(cell):
    """What a cell put out, as text."""
    parts = [output.get("text", "") for output in cell.outputs]
    parts += ["".join(output.get("data", {}).values()) for output in cell.outputs if "data" in output]
    return "\n".join(parts)


def test_the_notebook_is_kept_without_output():
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # nobody's own settings
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # and no kernel of theirs of that name
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    where = {"metadata": {"path": str(DOCS)}}
    NotebookClient(notebook, timeout=600, startup_timeout=600, kernel_name="python3", resources=where).execute()
    cells = {cell.source.split("(")[0].strip(): shown(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "<iframe" in cells["superfine.compare"]
    tables = [shown(cell) for cell in notebook.cells if "evaluate_path" in cell.source]
    assert len(tables) == 2
    assert all("Y601-limited, crop 2, matlab-bicubic" in table for table in tables)
    assert re.search(r">mine<", tables[1])
    figures = {name: float(value) for name, value in re.findall(r">([\w-]+)</th><td[^>]*>(\d+\.\d+)", tables[1])}
    assert figures["mine"] > figures["bilinear"] > figures["nearest"]
    assert figures["fast-x2"] > figures["bicubic"]
