"""Importing is cheap: the package loads nothing heavy, its command line nothing that a subcommand may not need."""

import re
import subprocess
import sys

import pytest

from rapids_pipeline.commands.app import SUBCOMMANDS

HEAVY = ("torch", "transformers", "cudf", "cupy", "xgboost", "rdkit")
NUMERICAL = {*HEAVY, "pandas", "pyarrow", "scipy", "sklearn", "numba", "matplotlib", "optuna", "joblib"}
LIMIT_SECONDS = 0.3


def imported_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after a statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def import_seconds(module: str) -> float:
    """Return the cumulative seconds of one import in a fresh interpreter, as `-X importtime` has them."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (cumulative,) = re.findall(rf"^import time: +\d+ \| +(\d+) \| {module}$", log, re.MULTILINE)
    return int(cumulative) / 1e6


def test_the_package_loads_nothing_heavy():
    assert not imported_by("import rapids_pipeline") & {*HEAVY, "pandas", "numpy", "sklearn", "pydantic"}


def test_the_packages_import_time_stays_under_the_stated_limit():
    assert min(import_seconds("rapids_pipeline") for _ in range(3)) < LIMIT_SECONDS


def test_optional_packages_load_only_when_used():
    modules = (
        "features.feature_sets, features.molecules.encoders, rapids_pipeline.pipeline, rapids_pipeline.screen"
    )
    assert not imported_by(f"import {modules}") & set(HEAVY)


def test_the_command_line_is_parsed_without_the_numerical_stack():
    assert not imported_by("import rapids_pipeline.commands.app") & NUMERICAL


def invoked(words: list[str]) -> str:
    """Return the statements that run a command and throw its output away."""
    imports = "from typer.testing import CliRunner; from rapids_pipeline.commands.app import app"
    return f"{imports}; assert CliRunner().invoke(app, {words}).exit_code == 0"


@pytest.mark.parametrize("words", [[name, "--help"] for name in SUBCOMMANDS if name != "tune"], ids=" ".join)
def test_help_loads_nothing_heavy(words):
    assert not imported_by(invoked(words)) & NUMERICAL


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "best"], ["features"], ["features", "boosting"]])
def test_listings_load_no_solver_and_no_table(words):
    assert not imported_by(invoked(words)) & NUMERICAL
