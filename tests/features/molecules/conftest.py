"""Models that several test files read: a pretrained SMILES transformer and a small made one."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.smiles_models import roberta_folder  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def rxn_folder():
    """The ALBERT that the package rxnmapper carries."""
    spec = importlib.util.find_spec("rxnmapper")  # found, not imported: its own code needs old packages
    if spec is None:
        pytest.skip("the weights come with rxnmapper: pip install --no-deps rxnmapper==0.4.3")
    (package,) = spec.submodule_search_locations
    return Path(package) / "models" / "transformers" / "albert_heads_8_uspto_all_1310k"


@pytest.fixture
def roberta_copy(roberta_folder, tmp_path):  # noqa: F811 (the fixture)
    """Return a copy of the made model, to be damaged."""
    return Path(shutil.copytree(roberta_folder, tmp_path / "copy"))
