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


def invoked(*words: str) -> str:
    """Return the statements that run a command and throw its output away."""
    imports = "from typer.testing import CliRunner; from rapids_pipeline.commands.app import app"
    return f"{imports}; assert CliRunner().invoke(app, {list(words)}).exit_code == 0"


USERS = "features.feature_sets, features.molecules.encoders, rapids_pipeline.pipeline, rapids_pipeline.screen"
LISTINGS = (["recipes"], ["recipes", "best"], ["features"], ["features", "boosting"])
CASES = {
    "the package": ("import rapids_pipeline", {*HEAVY, "pandas", "numpy", "sklearn", "pydantic"}),
    "what uses optional packages": (f"import {USERS}", set(HEAVY)),
    "the command line": ("import rapids_pipeline.commands.app", NUMERICAL),
    **{f"{name} --help": (invoked(name, "--help"), NUMERICAL) for name in SUBCOMMANDS if name != "tune"},
    **{" ".join(words): (invoked(*words), NUMERICAL) for words in LISTINGS},
}


@pytest.mark.parametrize(("statement", "later"), CASES.values(), ids=CASES.keys())
def test_nothing_heavy_is_loaded_before_it_is_used(statement, later):
    assert not imported_by(statement) & later


def test_the_packages_import_time_stays_under_the_stated_limit():
    assert min(import_seconds("rapids_pipeline") for _ in range(3)) < LIMIT_SECONDS
