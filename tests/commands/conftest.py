"""A finished run, two tiny files, and a recipe that takes no time."""

from functools import partial

import pytest

from rapids_pipeline.stack.named_recipes import RECIPES
from tests.command_line import run_arguments, succeed

TABLE = """cell_type,sm_name,SMILES,G1,G2
B,ethanol,CCO,1,2
T,ethanol,CCO,3,4
B,benzene,c1ccccc1,5,6
T,benzene,c1ccccc1,7,8
"""
PAIRS = "id,cell_type,sm_name\n0,B,ethanol\n1,T,benzene\n"


@pytest.fixture(scope="session")
def small(small_files):
    """The words of a run on the small demo data, by its folder and further options."""
    return partial(run_arguments, small_files.train, small_files.test)


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """A whole run on the small demo data, through the command line: its folder, and how it ended."""
    out = tmp_path_factory.mktemp("cli") / "new" / "run"
    return out, succeed(*small(out))


@pytest.fixture
def tiny(tmp_path):
    """Two tiny files that are fine, in a folder of their own."""
    (tmp_path / "train.csv").write_text(TABLE)
    (tmp_path / "id_map.csv").write_text(PAIRS)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """One tree a booster, one SVR member and no second stage, where predictions do not matter."""
    svr, booster = RECIPES["quick"].members
    small = booster.model_copy(update={"n_estimators": 1})
    monkeypatch.setitem(RECIPES, "best", RECIPES["quick"].with_members(svr, small))
