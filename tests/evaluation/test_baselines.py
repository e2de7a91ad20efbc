"""The baselines against pandas, as the benchmark's scripts compute them, and against known scores."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData, read_responses
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse

GROUPED_BY = {"mean_across_celltypes": "cell_type", "mean_across_compounds": "sm_name"}


def training_data(seed=0, n_rows=30, n_genes=4):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "cell_type": rng.choice(["B cells", "NK cells", "T cells"], n_rows),
            "sm_name": rng.choice(["ABT-737", "AG-879", "Belinostat", "CEP-18770 (Delanzomib)"], n_rows),
        }
    )
    Y = rng.normal(size=(n_rows, n_genes)).astype(np.float32)
    return PerturbationData(obs, Y, tuple(f"G{k}" for k in range(n_genes)))


def test_names_and_order_are_the_benchmark_s():
    assert list(BASELINES) == ["zeros", "mean_outcome", "mean_across_celltypes", "mean_across_compounds"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 60), st.integers(1, 5))
def test_equals_the_benchmark_s_pandas(seed, n_rows, n_genes):
    training = training_data(seed, n_rows, n_genes)
    pairs = training.obs.sample(15, replace=True, random_state=seed % 1000).reset_index(drop=True)
    table = pd.concat([training.obs, pd.DataFrame(training.Y.astype(float), columns=training.genes)], axis=1)
    genes = list(training.genes)
    expected = {
        "zeros": np.zeros((15, n_genes)),
        "mean_outcome": np.vstack([table[genes].mean(axis=0).to_numpy()] * 15),
        **{
            name: table.groupby(column)[genes].mean().loc[pairs[column]].to_numpy()
            for name, column in GROUPED_BY.items()
        },
    }
    for name, baseline in BASELINES.items():
        predicted = baseline(training, pairs)
        assert predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, expected[name], rtol=1e-6, atol=1e-7)


def test_each_mean_is_over_what_the_published_name_means():
    obs = pd.DataFrame({"cell_type": ["B", "B", "T"], "sm_name": ["x", "y", "x"]})
    training = PerturbationData(obs, np.float32([[0], [2], [6]]), ("G",))
    pair = pd.DataFrame({"cell_type": ["B"], "sm_name": ["x"]})
    assert BASELINES["mean_across_celltypes"](training, pair) == 1  # cell type B: (0 + 2)/2
    assert BASELINES["mean_across_compounds"](training, pair) == 3  # compound x: (0 + 6)/2


@pytest.mark.parametrize(("name", "column"), GROUPED_BY.items())
def test_an_unseen_level_gets_the_overall_mean(name, column):
    training = training_data()
    pairs = training.obs.iloc[:3].reset_index(drop=True)
    known = BASELINES[name](training, pairs)
    pairs.loc[1, column] = "never measured"
    predicted = BASELINES[name](training, pairs)
    np.testing.assert_array_equal(predicted[1], BASELINES["mean_outcome"](training, pairs)[1])
    np.testing.assert_array_equal(predicted[[0, 2]], known[[0, 2]])


@pytest.mark.parametrize("name", BASELINES)
def test_every_pair_is_predicted_alone_as_in_a_batch(name):
    training = training_data()
    pairs = training.obs.iloc[:5].reset_index(drop=True)
    alone = [BASELINES[name](training, pairs.iloc[[k]]) for k in range(5)]
    np.testing.assert_array_equal(BASELINES[name](training, pairs), np.vstack(alone))


@pytest.mark.parametrize("name", BASELINES)
def test_categories_and_the_index_of_the_pairs_do_not_matter(name):
    training = training_data()
    pairs = training.obs.iloc[:6].reset_index(drop=True)
    odd = pairs.astype("category").set_axis([9, 9, 3, 1, 0, -1])
    as_category = PerturbationData(training.obs.astype("category"), training.Y, training.genes)
    np.testing.assert_array_equal(BASELINES[name](as_category, odd), BASELINES[name](training, pairs))


@pytest.mark.parametrize(("name", "column"), GROUPED_BY.items())
def test_a_missing_column_is_named(name, column):
    training = training_data()
    with pytest.raises(InputError, match=f"the pairs: missing column {column}"):
        BASELINES[name](training, training.obs.drop(columns=column))
    without = PerturbationData(training.obs.drop(columns=column), training.Y, training.genes)
    with pytest.raises(InputError, match=f"the training file: missing column {column}"):
        BASELINES[name](without, training.obs)


def test_scores_on_real_data(shared_data):
    training = read_responses(shared_data / "lincs_lung" / "de_train.parquet")
    test = read_responses(shared_data / "lincs_lung" / "de_test.parquet")
    scores = [mean_rowwise_rmse(test.Y, baseline(training, test.obs)) for baseline in BASELINES.values()]
    assert scores == pytest.approx([1.549, 1.525, 1.554, 1.641], abs=5e-4)
