"""Columns and Gram matrices made block by block: those of a feature table and of a plain Gram matrix."""

import numpy as np
import pandas as pd
import pytest

from features.feature_sets import FEATURE_SETS, FeatureSet, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.evaluation.splits import Split, random_folds
from rapids_pipeline.studies.screen import models
from rapids_pipeline.studies.screen.models import MOST_ENCODED, FoldFeatures
from rapids_pipeline.svr.dual import GramTable

SMILES = ["C", "CC", "CCC", "c1ccccc1", "CCO", "CC(=O)O", "CN", "CCN"]
SETS = "cell_type onehot molecules molecules_svd descriptors svr_shared svr_loo op2_first_light".split()


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(SMILES), 60)
    obs = pd.DataFrame(
        {
            "cell_type": rng.choice(["B", "T", "NK"], 60),
            "sm_name": [f"drug {i}" for i in which],
            "SMILES": [SMILES[i] for i in which],
        }
    )
    rows = Rows(obs, encode_molecules(["morgan"], list(obs["SMILES"])).training)
    folds = random_folds(60, 4, 0)
    splits = [Split(str(k), np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(4)]
    return rows, rng.normal(size=(60, 3)).astype(np.float32), splits


def named(name: str) -> FeatureSet:
    return FEATURE_SETS[name].with_molecules("morgan")


@pytest.mark.parametrize("name", SETS)
def test_columns_are_those_of_a_feature_table_fitted_on_the_training_rows(problem, name):
    rows, Y, splits = problem
    features = FoldFeatures(rows, Y, splits)
    for number, split in enumerate(splits):
        table = FeatureTable(named(name))
        inside = table.fit_transform(rows.take(split.training), Y[split.training])
        found = features.columns(named(name), number)
        if "statistics" not in str(named(name)):  # these draw inner folds of their own
            np.testing.assert_array_equal(found[0], inside)
        np.testing.assert_allclose(found[1], table.transform(rows.take(split.held_out)), rtol=1e-6)
    assert features.width(named(name)) == features.columns(named(name), 0)[0].shape[1]


@pytest.mark.parametrize("name", SETS)
def test_gram_matrices_are_those_of_the_columns(problem, name):
    rows, Y, splits = problem
    features = FoldFeatures(rows, Y, splits)
    for number, split in enumerate(splits):
        X = np.vstack(features.columns(named(name), number))
        training, everything = np.arange(len(split.training)), np.arange(len(X))
        expected, found = GramTable(X, "rbf", "scale"), features.gram(named(name), number)
        gamma = expected.gamma_of(training)
        assert found.gamma_of(training) == pytest.approx(gamma, rel=1e-9)
        np.testing.assert_allclose(
            found.gram(everything, training, gamma), expected.gram(everything, training, gamma), atol=1e-9
        )


def test_what_was_made_is_made_once_and_dropped_where_there_is_no_room(problem, monkeypatch):
    def first(features):
        return features.gram(named("svr_shared"), 0).gram(np.arange(5), np.arange(5), 1.0)

    kept = FoldFeatures(*problem)
    monkeypatch.setattr(models, "MOST_KEPT_BYTES", 1)
    narrow = FoldFeatures(*problem)
    np.testing.assert_array_equal(first(kept), first(narrow))
    assert len(narrow._recent) == 1
    monkeypatch.setattr(FoldFeatures, "_columns", None)
    monkeypatch.setattr(FoldFeatures, "_whole", None)
    first(kept)


def test_of_many_genes_encodings_see_the_components_of_the_training_rows(problem):
    rows, _, splits = problem
    Y = np.random.default_rng(1).normal(size=(60, MOST_ENCODED + 30)).astype(np.float32)
    features = FoldFeatures(rows, Y, splits)
    assert features.encoded(0).shape[1] <= MOST_ENCODED
    assert features.width(named("loo")) == 2 * features.encoded(0).shape[1]
    raised = Y.copy()
    raised[splits[0].held_out] += 1000
    again = FoldFeatures(rows, raised, splits)
    for before, after in zip(features.columns(named("loo"), 0), again.columns(named("loo"), 0), strict=True):
        np.testing.assert_array_equal(before, after)


def test_every_block_has_noise_of_its_own(problem):
    rows, Y, splits = problem
    noisy, plain = (FoldFeatures(rows, Y, splits, sigma=s).columns(named("loo"), 0)[0] for s in (0.5, 0.0))
    ratio = (noisy / plain)[:, :3], (noisy / plain)[:, 3:]
    assert abs(np.corrcoef(ratio[0].ravel(), ratio[1].ravel())[0, 1]) < 0.4
    assert np.std(ratio[0]) > 0.2
