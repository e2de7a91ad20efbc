"""Which genes a screen is on; columns and Gram matrices made block by block are those of a table and of plain Gram."""

import numpy as np
import pandas as pd
import pytest

from features.feature_sets import FEATURE_SETS, FeatureSet, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.splits import named_splits
from rapids_pipeline.studies.screen.models import MOST_ENCODED, FoldFeatures, choose_panel
from rapids_pipeline.svr.dual import GramTable

SMILES = ["C", "CC", "CCC", "c1ccccc1", "CCO", "CC(=O)O", "CN", "CCN"]
SETS = "cell_type onehot molecules molecules_svd descriptors svr_shared svr_loo op2_first_light".split()


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(SMILES), 60)
    names = {"sm_name": [f"drug {i}" for i in which], "SMILES": [SMILES[i] for i in which]}
    obs = pd.DataFrame({"cell_type": rng.choice(["B", "T", "NK"], 60)} | names)
    rows = Rows(obs, encode_molecules(["morgan"], list(obs["SMILES"])).training)
    [splits] = named_splits("random", obs, n_folds=4)
    return rows, rng.normal(size=(60, 3)).astype(np.float32), splits


def named(name: str) -> FeatureSet:
    return FEATURE_SETS[name].with_molecules("morgan")


@pytest.mark.parametrize("name", SETS)
def test_columns_and_gram_matrices_are_those_of_a_table_fitted_on_the_training_rows(problem, name):
    rows, Y, splits = problem
    features = FoldFeatures(rows, Y, splits)
    for number, split in enumerate(splits):
        table = FeatureTable(named(name))
        inside = table.fit_transform(rows.take(split.training), Y[split.training])
        columns = features.columns(named(name), number)
        if "statistics" not in str(named(name)):  # these draw inner folds of their own
            np.testing.assert_array_equal(columns[0], inside)
        np.testing.assert_allclose(columns[1], table.transform(rows.take(split.held_out)), rtol=1e-6)
        X = np.vstack(columns)
        training, everything = np.arange(len(split.training)), np.arange(len(X))
        expected, found = GramTable(X, "rbf", "scale"), features.gram(named(name), number)
        gamma = expected.gamma_of(training)
        assert found.gamma_of(training) == pytest.approx(gamma, rel=1e-9)
        np.testing.assert_allclose(
            found.gram(everything, training, gamma), expected.gram(everything, training, gamma), atol=1e-9
        )
    assert features.width(named(name)) == features.columns(named(name), 0)[0].shape[1]


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


# --- genes ------------------------------------------------------------------------------------------------

GENES = ("A1BG", "A2M", "FLAT", "ZZZ3", "TP53")


@pytest.fixture
def data():
    Y = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * [1, 3, 0, 2, 0.5]
    obs = pd.DataFrame({"cell_type": ["B"] * 20, "sm_name": ["x"] * 20, "SMILES": ["C"] * 20})
    return PerturbationData(obs, Y.astype(np.float32), GENES)


def test_genes_by_name_keep_their_order(data):
    panel = choose_panel("TP53, A1BG,TP53", data)
    assert panel.genes == ["TP53", "A1BG"]
    np.testing.assert_array_equal(panel.Y, data.Y[:, [4, 0]])
    assert panel.anchor == 1
    assert choose_panel("TP53,A2M", data).anchor == 0


def test_all_leaves_constant_genes_out_and_says_so_and_the_most_variable_deviate_most(data):
    panel = choose_panel("all", data)
    assert panel.genes == ["A1BG", "A2M", "ZZZ3", "TP53"]
    assert panel.constant == ["FLAT"]
    assert choose_panel("variable:2", data).genes == ["A2M", "ZZZ3"]


def test_random_genes_hang_on_the_seed_and_are_never_constant(data):
    drawn = {tuple(choose_panel("random:3", data, seed).genes) for seed in range(30)}
    assert len(drawn) == 4
    assert not any("FLAT" in genes for genes in drawn)
    assert choose_panel("random:3", data, 5).genes in map(list, drawn)


def test_a_gene_may_be_called_like_a_rule(data):
    named = PerturbationData(data.obs, data.Y, ("all", "random:2", "FLAT", "a,b", "TP53"))
    assert choose_panel("random:2", named).genes == ["random:2"]
    assert choose_panel("a,b", named).genes == ["a,b"]
    assert choose_panel("all", named).genes == ["all"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("A1BQ", "--target A1BQ: no such gene among 5; nearest names: A1BG"),
        ("A1BG,tp53", "--target tp53: no such gene among 5; nearest names: TP53"),
        ("A1BG,", "--target : no such gene among 5"),
        ("12345678", "--target 12345678: no such gene among 5; the genes are A1BG … TP53"),
        ("FLAT", "--target FLAT: is 0 in every row; there is nothing to predict"),
        ("A2M,FLAT", "--target FLAT: is 0 in every row"),
        ("random:5", "--target random:5: takes a number of genes from 1 to 4 after the colon"),
        ("random:0", "--target random:0: takes a number"),
        ("variable:", "--target variable:: takes a number"),
        ("variable:-1", "--target variable:-1: takes a number"),
        ("random", "--target random: takes a number"),
    ],
)
def test_refusals_name_the_remedy(data, target, words):
    with pytest.raises(InputError) as caught:
        choose_panel(target, data)
    assert str(caught.value).startswith(words)


def test_nothing_but_constant_genes_is_refused(data):
    flat = PerturbationData(data.obs, np.zeros_like(data.Y), GENES)
    with pytest.raises(InputError, match="every gene is constant"):
        choose_panel("all", flat)
