"""Untested genes on real data: what NaN in the training targets costs on the test truth."""

import sys

import numpy as np
import pandas as pd
import pytest

from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.named_recipes import RECIPES

SHARE = 0.3


@pytest.fixture(scope="module")
def lincs(shared_data):
    """Training rows, test rows, targets, the test truth and the recipe `best`."""
    folder = shared_data / "lincs_lung"
    problem = open_problem(ProblemFiles(folder / "de_train.parquet", folder / "id_map.csv"))
    truth = read_responses(folder / "de_test.parquet")
    places = pd.Index(truth.obs["id"].astype(str)).get_indexer(problem.pairs["id"].astype(str))
    recipe = RECIPES["best"].updated(n_folds=3).with_molecules("morgan")
    smiles = list(problem.data.obs["SMILES"]), list(problem.pairs["SMILES"])
    molecules = encode_molecules(recipe.encoders, *smiles, "cpu")
    train, test = Rows(problem.data.obs, molecules.training), Rows(problem.pairs, molecules.others)
    return train, test, problem.data.Y, truth.Y[places], recipe


@pytest.fixture(scope="module")
def complete(lincs):
    """The score with all targets."""
    return score(*lincs)


def score(train, test, Y, truth, recipe):
    folds = random_folds(len(Y), recipe.n_folds, 0)
    return mean_rowwise_rmse(truth, fit_stack(train, test, Y, folds, recipe, 0, "cpu").test)


def with_gaps(Y, cell_types, by_cell_type, seed=0):
    """Make entries, or whole genes of a cell type, NaN; every gene keeps one cell type."""
    rng = np.random.default_rng(seed)
    if not by_cell_type:
        return np.where(rng.random(Y.shape) < SHARE, np.float32(np.nan), Y)
    labels, codes = np.unique(cell_types, return_inverse=True)
    blocks = rng.random((len(labels), Y.shape[1])) < SHARE
    everywhere = np.flatnonzero(blocks.all(axis=0))
    blocks[rng.integers(len(labels), size=len(everywhere)), everywhere] = False
    return np.where(blocks[codes], np.float32(np.nan), Y)


@pytest.mark.slow
@pytest.mark.parametrize(("by_cell_type", "most"), [(False, 0.01), (True, 0.03)])
def test_untested_entries_cost_little(lincs, complete, by_cell_type, most):
    train, test, Y, truth, recipe = lincs
    gaps = with_gaps(Y, train.obs["cell_type"].to_numpy(str), by_cell_type)
    found = score(train, test, gaps, truth, recipe)
    where = "whole genes by cell type" if by_cell_type else "at random"
    sys.stdout.write(f"\nMRRMSE {complete:.4f} with all targets, {found:.4f} with 30 % NaN {where}\n")
    assert found - complete <= most
