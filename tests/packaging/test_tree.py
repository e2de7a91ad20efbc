"""The house: its rooms, who may import whom, how long files and functions are, and links that lead somewhere."""

import ast
import re
import tomllib
from itertools import permutations
from pathlib import Path
from statistics import mean

import pytest

from rapids_pipeline.commands.app import SUBCOMMANDS
from tests.packaging.job_machine import linted

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for package in ("rapids_pipeline", "features") for path in sorted((ROOT / package).rglob("*.py"))
]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

ENTRIES = {
    *("__main__.py", "screen.py", "pipeline.py", "commands", "reports", "studies", "predictions", "stack"),
    *("evaluation", "kernels", "svr", "boosting", "nets", "data", "backend"),
}

SOLVERS = {"boosting", "svr", "nets", "kernels"}
STACK = SOLVERS | {"evaluation", "data", "features", "backend"}
MAY_IMPORT = {
    "backend": set(),
    "features": {"backend"},
    "data": {"backend", "features"},
    "boosting": {"backend"},
    "svr": {"backend"},
    "nets": {"backend"},
    "kernels": {"backend", "features"},
    "evaluation": {"backend", "features", "data"},
    "stack": STACK,
    "predictions": STACK | {"stack"},
    "studies": STACK | {"stack"},
    "pipeline": STACK | {"stack", "predictions"},
    "reports": STACK | {"stack", "predictions", "studies", "pipeline"},
    "commands": STACK | {"stack", "predictions", "studies", "pipeline", "reports"},
}
OWN_TARGET = "rapids_pipeline.svr.own_target.* -> features.**"
"""The one exception: SVRs of each gene's own features know features."""


def room_of(module: str) -> str:
    """Return the room of a module: "svr" for rapids_pipeline.svr.smo, "features" for features.molecules."""
    return module.removeprefix("rapids_pipeline.").split(".")[0]


def forbidden_by(contract: dict) -> set[tuple[str, str]]:
    """Return the pairs (importer, imported) of rooms that a contract of import-linter forbids."""
    if contract["type"] == "forbidden":
        return {
            (room_of(one), room_of(other))
            for one in contract["source_modules"]
            for other in contract["forbidden_modules"]
        }
    layers = [[room_of(name.strip()) for name in re.split(r"[|]", layer)] for layer in contract["layers"]]
    beside = {pair for layer in layers for pair in permutations(layer, 2)}
    above = {(a, b) for i, low in enumerate(layers) for high in layers[:i] for a in low for b in high}
    return beside | above


def test_the_package_lists_the_rooms_and_nothing_else():
    found = {
        path.name
        for path in (ROOT / "rapids_pipeline").iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    }
    assert found - {"__init__.py"} == ENTRIES
    assert len(ENTRIES) <= 15


def test_the_import_contract_states_who_may_import_whom():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    stated = {pair for contract in contracts for pair in forbidden_by(contract)}
    rooms = {(one, other) for one, other in permutations(MAY_IMPORT, 2) if other not in MAY_IMPORT[one]}
    assert {pair for pair in stated if set(pair) <= MAY_IMPORT.keys()} == rooms
    ignored = [line for contract in contracts for line in contract.get("ignore_imports", [])]
    assert ignored == [OWN_TARGET]


def test_the_import_contract_is_kept():
    done = linted("lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout


def test_no_file_is_longer_than_450_lines():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > 450} == {}


def test_files_have_200_lines_on_average():
    assert mean(len(path.read_text().splitlines()) for path in SOURCES) >= 200


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function's body has, its docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_body_is_longer_than_50_lines():
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": body_lines(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > 50
    }
    assert long == {}


def test_files_of_subcommands_have_80_lines_at_most():
    folder = ROOT / "rapids_pipeline" / "commands"
    files = {place.partition(".")[0] for place in SUBCOMMANDS.values()}
    lines = {name: len((folder / f"{name}.py").read_text().splitlines()) for name in files}
    assert {name: count for name, count in lines.items() if count > 80} == {}


def test_every_tests_file_has_its_room():
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= {*MAY_IMPORT, "journeys", "leaks", "gpu", "packaging"}


@pytest.mark.parametrize("page", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
    named = re.findall(r"docs/[\w/]+\.md", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
