"""A small trained model, pairs to predict by it, and what it predicts for all of them at once."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.stack.saved import load_model
from tests.command_line import run_arguments, succeed

N_PAIRS = 37


@pytest.fixture(scope="session")
def model(small_files, tmp_path_factory):
    """A model trained on the small demo data."""
    out = tmp_path_factory.mktemp("predict") / "run"
    succeed(*run_arguments(small_files.train, small_files.test, out, "--quick"))
    return out / "model"


@pytest.fixture(scope="session")
def pairs(model, tmp_path_factory):
    """Known and new compounds in known and new cell types, 37 pairs, some more than once."""
    training = load_model(model).obs
    rng = np.random.default_rng(0)
    smiles = [*training["SMILES"].unique()[:6], "CCCCO", "Cc1ccccc1N", "O=C(O)c1ccccc1"]
    cells = [*training["cell_type"].unique()[:3], "a new one"]
    table = pd.DataFrame({"cell_type": rng.choice(cells, N_PAIRS), "SMILES": rng.choice(smiles, N_PAIRS)})
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def expected(model, pairs):
    """The predictions of all pairs at once."""
    loaded, table = load_model(model), pd.read_csv(pairs)
    names = loaded.obs.drop_duplicates("SMILES").set_index("SMILES")["sm_name"]
    table["sm_name"] = table["SMILES"].map(names).fillna(table["SMILES"])
    return loaded.predict(table)[0]
