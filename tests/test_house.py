"""The house itself: version, wheel, front door, what may import what."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import types
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import superfine

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "superfine"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: All shipped networks together take at most 16 MB.
WHEEL_BYTES = 16_000_000


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
OPTIONAL = ("superfine.cluster", "superfine.serve", "superfine.train")
CORE = {name: path for name, path in FILES.items() if not name.startswith(OPTIONAL)}


def imports(nodes: list[ast.stmt], *, deep: bool) -> Iterator[str]:
    """Modules that the statements import; with `deep` also those imported inside of functions."""
    for top in nodes:
        for node in ast.walk(top) if deep else [top]:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None, "imports are absolute"
                yield node.module


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def packages(requirements: list[str]) -> set[str]:
    """Requirement lines -> plain names, as metadata compares them."""
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


@cache
def owners_of_modules() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def foreign(names: Iterator[str]) -> set[str]:
    """The packages of which the modules are, without superfine and the standard library."""
    owners = owners_of_modules()
    tops = {name.partition(".")[0] for name in names} - {"superfine"} - sys.stdlib_module_names
    absent = {"cv2": "opencv-contrib-python-headless", "DISTS_pytorch": "dists-pytorch"}
    return {owner.lower().replace("_", "-") for top in tops for owner in owners.get(top, [absent.get(top, top)])}


BASE = packages(PROJECT["dependencies"])
EXTRAS = {name: packages(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def newest_in_changelog() -> str:
    headings = re.findall(
        r"^## (\d+\.\d+\.\d+) — \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    return str(headings[0])


def test_version_is_the_newest_in_the_changelog() -> None:
    assert newest_in_changelog() == PROJECT["version"]
    assert superfine.__version__ == PROJECT["version"]


def test_front_door_is_the_list() -> None:
    shown = {name for name in dir(superfine) if not name.startswith("_")}
    modules = {name for name in shown if isinstance(getattr(superfine, name), types.ModuleType)}
    assert shown - modules == set(superfine.__all__)


def test_core_works_without_torch() -> None:
    code = """
import importlib, sys
sys.modules["torch"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
import numpy, superfine
large = superfine.upscale(numpy.full((5, 7, 3), 128, numpy.uint8), 2)
assert large.shape == (10, 14, 3), large.shape
"""
    names = [name for name in CORE if not name.endswith("__main__")]
    subprocess.run([sys.executable, "-c", code, *names], check=True)


def test_start_loads_nothing_heavy() -> None:
    code = "import sys, superfine.cli; print(*(sys.modules.keys() & set(sys.argv[1:])))"
    heavy = ["PIL", "av", "onnx", "onnxruntime", "openvino", "pyvips", "rich", "torch"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "superfine", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    assert "upscale" in done.stdout


@pytest.mark.parametrize("name", CORE)
def test_core_begins_with_base_dependencies_only(name: str) -> None:
    assert foreign(imports(tree(CORE[name]).body, deep=False)) <= BASE


@pytest.mark.parametrize("name", FILES)
def test_every_import_is_declared(name: str) -> None:
    extras = ("convert", "gpu", "heif", "peers") if name in CORE else (name.split(".")[1],)
    optional = set().union(*(EXTRAS[extra] for extra in extras))
    if name == "superfine.train.distances":
        optional = optional | {"dists-pytorch", "lpips"}  # the user's own: their weights come from elsewhere
    assert foreign(imports(tree(FILES[name]).body, deep=True)) <= BASE | optional


@pytest.mark.parametrize("name", [name for name in FILES if re.fullmatch(r"superfine\.train\.nets\.\w+", name)])
def test_a_net_knows_torch_and_layers_only(name: str) -> None:
    known = set(imports(tree(FILES[name]).body, deep=True))
    allowed = {"superfine.errors"} if name.endswith(".layers") else {"superfine.train.nets.layers"}
    assert {own for own in known if own.startswith("superfine")} <= allowed


def test_hints_name_extras_that_exist() -> None:
    named = {
        call.args[1].value
        for path in FILES.values()
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "MissingExtraError"
        and isinstance(call.args[1], ast.Constant)
    }
    assert named
    assert named <= set(EXTRAS)


def test_constraints_hold_torch_and_the_tools() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pinned["torch"] == "2.13.0"
    assert (BASE | EXTRAS["train"] | EXTRAS["heif"] | EXTRAS["dev"]) - {"superfine"} <= set(pinned)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_has_the_version(wheel: Path) -> None:
    assert wheel.name == f"superfine-{newest_in_changelog()}-py3-none-any.whl"


@pytest.mark.slow
def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= WHEEL_BYTES


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    ours = {path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert held == {path.relative_to(SOURCE.parent).as_posix() for path in ours}
    assert any(name.endswith(".onnx") for name in held)
    assert "superfine/py.typed" in held
