"""Baselines against pandas, loops and scikit-learn, against known scores, and what each promises."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import OneHotEncoder

from features.molecules.morgan import MorganEncoder, tanimoto
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import additive_fill
from rapids_pipeline.evaluation.baselines import (
    ALL_BASELINES,
    BASELINE_COLUMNS,
    BASELINES,
    CONTEXT_BASELINES,
    NEIGHBOURS,
    PENALTIES,
    _spectrum,
    context_baselines,
    leave_one_out_errors,
    usable_baselines,
)

GROUPED_BY = {"mean_across_celltypes": "cell_type", "mean_across_compounds": "sm_name"}
SMILES = "CCO c1ccccc1C c1ccccc1CC CC(=O)Oc1ccccc1C(=O)O C1CCNCC1 CCCC O=C1CCCCC1 CCN CS".split()


def test_names_and_order_are_the_benchmark_s():
    assert list(BASELINES) == ["zeros", "mean_outcome", "mean_across_celltypes", "mean_across_compounds"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 36), st.integers(1, 5))
def test_equals_the_benchmark_s_pandas(seed, n_rows, n_genes):
    training = problem(seed, n_rows, n_genes)
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


def problem(seed=0, n=40, t=6, compound_size=1.0):
    """n pairs of 4 cell types and 9 compounds, with effects of both."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation([(c, m) for c in range(4) for m in range(9)])[:n]
    cells, compounds = rng.normal(size=(4, t)), compound_size * rng.normal(size=(9, t))
    Y = np.array([cells[c] + compounds[m] for c, m in chosen]) + 0.5 * rng.normal(size=(len(chosen), t))
    return PerturbationData(rows(chosen), Y.astype(np.float32), tuple(f"G{k}" for k in range(t)))


def rows(chosen):
    return pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c, _ in chosen],
            "sm_name": [f"drug {m}" for _, m in chosen],
            "SMILES": [SMILES[m] if m < len(SMILES) else "CCCCCCF" for _, m in chosen],
        }
    )


ASKED = rows([(0, 0), (1, 8), (2, 5), (3, 3), (7, 2), (0, 11), (9, 11)])


def naive_leave_one_out(fit_predict, n):
    """Σ |y_i − prediction by all other rows|², by n fits."""
    return sum(float(np.sum(np.square(fit_predict(np.delete(np.arange(n), i), i)))) for i in range(n))


def one_hot(training, column):
    """The function that makes a column of a frame one-hot, by the levels of training."""
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(training[[column]])
    return lambda frame: encoder.transform(frame[[column]])


def test_the_compounds_mean_is_shrunken_as_leave_one_out_says():
    data = problem()
    Y, names = data.Y.astype(float), data.obs["sm_name"].to_numpy(str)

    def predicted(k, training, name):
        mean = Y[training].mean(axis=0)
        mine = training[names[training] == name]
        return mean if len(mine) == 0 else mean + len(mine) / (len(mine) + k) * (Y[mine].mean(axis=0) - mean)

    n = len(Y)
    by_others = [lambda others, i, k=k: Y[i] - predicted(k, others, names[i]) for k in PENALTIES]
    errors = [naive_leave_one_out(residual, n) for residual in by_others]
    k = PENALTIES[int(np.argmin(errors))]
    assert k not in (PENALTIES[0], PENALTIES[-1]), "the example must make a choice"
    found = ALL_BASELINES["shrunken_compound_mean"](data, ASKED)
    expected = [predicted(k, np.arange(n), name) for name in ASKED["sm_name"]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("n_genes", [6, 60])
def test_effects_are_those_of_penalised_least_squares(n_genes):
    data = problem(t=n_genes)
    Y, n = data.Y.astype(float), len(data.Y)
    cells, compounds = (one_hot(data.obs, column) for column in ("cell_type", "sm_name"))

    def design(frame, a, b):
        return np.hstack([cells(frame) / np.sqrt(a), compounds(frame) / np.sqrt(b)])

    def predicted(training, new, targets):
        return Ridge(alpha=1.0, solver="cholesky").fit(training, targets).predict(new)

    grid = [(a, b) for a in PENALTIES[::2] for b in PENALTIES[::2]]
    errors = []
    for a, b in grid:
        X = design(data.obs, a, b)
        errors.append(
            naive_leave_one_out(lambda others, i, X=X: Y[i] - predicted(X[others], X[[i]], Y[others])[0], n)
        )
    a, b = grid[int(np.argmin(errors))]
    expected = predicted(design(data.obs, a, b), design(ASKED, a, b), Y)
    np.testing.assert_allclose(ALL_BASELINES["additive"](data, ASKED), expected, atol=1e-5)
    names = {"cell_type": "sm_name", "sm_name": "cell_type"}
    swapped = PerturbationData(data.obs.rename(columns=names), data.Y, data.genes)
    found = ALL_BASELINES["additive"](swapped, ASKED.rename(columns=names))
    np.testing.assert_allclose(found, expected, atol=1e-5, err_msg="whichever kind has more levels")


def test_ridge_is_scikit_learns():
    data = problem(1)
    cells = one_hot(data.obs, "cell_type")

    def columns(frame):
        return np.hstack([cells(frame), MorganEncoder().transform(list(frame["SMILES"]))])

    model = RidgeCV(alphas=PENALTIES, alpha_per_target=False).fit(columns(data.obs), data.Y.astype(float))
    assert PENALTIES[0] < model.alpha_ < PENALTIES[-1], "the example must make a choice"
    np.testing.assert_allclose(ALL_BASELINES["ridge"](data, ASKED), model.predict(columns(ASKED)), atol=1e-5)


def test_neighbours_by_a_loop():
    data = problem(2, n=30)
    compounds = sorted(set(data.obs["sm_name"]))
    smiles = data.obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    found = ALL_BASELINES["tanimoto_neighbours"](data, ASKED)
    for pair, (cell, name, text) in enumerate(ASKED.itertuples(index=False)):
        likeness = {}
        for other in compounds:
            bits = MorganEncoder().transform([text, smiles[other]])
            likeness[other] = 1.0 if other == name else float(tanimoto(bits[:1], bits[1:])[0, 0])
        near = sorted(compounds, key=lambda other: (-likeness[other], other))[:NEIGHBOURS]
        total, weight = np.zeros(6), 0.0
        for other in near:
            mine = (data.obs["sm_name"] == other).to_numpy()
            here = mine & (data.obs["cell_type"] == cell).to_numpy()
            response = data.Y[here if here.any() else mine].mean(axis=0, dtype=float)
            total, weight = total + likeness[other] * response, weight + likeness[other]
        np.testing.assert_allclose(found[pair], total / weight, atol=1e-5)


@pytest.mark.parametrize("n_genes", [3, 40])
def test_leave_one_out_has_a_closed_form(n_genes):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(12, 4)), rng.normal(size=(12, n_genes))
    M = np.hstack([np.ones((12, 1)), X])
    penalty = np.diag([0.0, 2, 2, 2, 2])

    def residual(others, i):
        weights = np.linalg.solve(M[others].T @ M[others] + penalty, M[others].T @ Y[others])
        return Y[i] - M[i] @ weights

    [found] = leave_one_out_errors(Y, M, [M @ np.linalg.inv(M.T @ M + penalty)])
    assert found == pytest.approx(naive_leave_one_out(residual, 12))


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_the_spectrum_is_the_same_by_either_side(shape):
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape)
    X -= X.mean(axis=0)
    X[:, 3] = X[:, 1]
    vectors, values = _spectrum(X)
    assert vectors.shape[1] <= min(shape)
    np.testing.assert_allclose((vectors * values) @ vectors.T, X @ X.T, atol=1e-10)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-6)


@pytest.mark.parametrize("name", ALL_BASELINES)
def test_a_pair_alone_gets_what_it_gets_among_others(name):
    data, baseline = problem(), ALL_BASELINES[name]
    together = baseline(data, ASKED)
    assert together.dtype == np.float32 and together.shape == (len(ASKED), 6) and np.isfinite(together).all()
    for i in range(len(ASKED)):
        atol = 0 if name in BASELINES else 1e-6
        np.testing.assert_allclose(baseline(data, ASKED.iloc[[i]])[0], together[i], rtol=0, atol=atol)


@pytest.mark.parametrize("name", ALL_BASELINES)
def test_the_order_of_training_rows_categories_and_the_index_of_pairs_do_not_matter(name):
    data, expected = problem(), ALL_BASELINES[name](problem(), ASKED)
    order = np.random.default_rng(3).permutation(len(data.Y))
    np.testing.assert_allclose(ALL_BASELINES[name](data.take(order), ASKED), expected, atol=1e-5)
    odd = ASKED.astype("category").set_axis([9, 9, 3, 1, 0, -1, 2])
    as_category = PerturbationData(data.obs.astype("category"), data.Y, data.genes)
    np.testing.assert_array_equal(ALL_BASELINES[name](as_category, odd), expected)


@pytest.mark.parametrize("name", ALL_BASELINES)
@pytest.mark.parametrize("n", [1, 2])
def test_one_gene_and_one_row_are_enough(name, n):
    assert np.isfinite(ALL_BASELINES[name](problem(n=n, t=1), ASKED)).all()


@pytest.mark.parametrize("name", ["shrunken_compound_mean", "additive", *GROUPED_BY])
def test_nothing_known_gets_the_mean(name):
    data = problem(compound_size=3.0)
    mean = data.Y.mean(axis=0)
    found = ALL_BASELINES[name](data, ASKED.iloc[[-1]])[0]
    np.testing.assert_allclose(found, mean, atol=0.15 if name == "additive" else 1e-6)


@pytest.mark.parametrize(
    ("name", "column"), [(name, column) for name, columns in BASELINE_COLUMNS.items() for column in columns]
)
def test_a_missing_column_is_named(name, column):
    data = problem()
    with pytest.raises(InputError, match=f"the pairs: missing column {column}, which the baseline reads"):
        ALL_BASELINES[name](data, ASKED.drop(columns=column))
    without = PerturbationData(data.obs.drop(columns=column), data.Y, data.genes)
    with pytest.raises(InputError, match=f"the training file: missing column {column}"):
        ALL_BASELINES[name](without, ASKED)


def with_gaps(training, share=0.3, seed=0):
    Y = np.where(np.random.default_rng(seed).random(training.Y.shape) < share, np.float32(np.nan), training.Y)
    Y[training.obs["cell_type"] == training.obs["cell_type"][0], 0] = np.nan
    return PerturbationData(training.obs, Y, training.genes)


def test_means_are_of_tested_entries_with_the_mean_of_all_rows_for_what_was_never_tested():
    training = with_gaps(problem(3))
    table = pd.concat([training.obs, pd.DataFrame(training.Y.astype(float), columns=training.genes)], axis=1)
    genes = list(training.genes)
    overall = table[genes].mean()
    for name, column in GROUPED_BY.items():
        expected = table.groupby(column)[genes].mean().fillna(overall).loc[training.obs[column]]
        np.testing.assert_allclose(BASELINES[name](training, training.obs), expected, rtol=1e-6)
    mean = BASELINES["mean_outcome"](training, training.obs)
    np.testing.assert_allclose(mean, np.tile(overall, (len(mean), 1)), rtol=1e-6)


@pytest.mark.parametrize("name", ["shrunken_compound_mean", "additive", "ridge", "tanimoto_neighbours"])
def test_other_baselines_read_an_untested_entry_as_gene_mean_and_cell_type_effect(name):
    training = with_gaps(problem(n=30, t=4))
    filled = additive_fill(training.Y, training.obs["cell_type"])
    complete = PerturbationData(training.obs, filled.astype(np.float32), training.genes)
    found = ALL_BASELINES[name](training, ASKED)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, ALL_BASELINES[name](complete, ASKED), atol=1e-4)


def test_baselines_that_read_structures_are_left_out_only_where_no_row_has_one():
    obs = pd.DataFrame({"SMILES": ["", "CCO"]})
    assert usable_baselines(obs) == ALL_BASELINES
    without = usable_baselines(obs.assign(SMILES=""))
    assert set(ALL_BASELINES) - set(without) == {"ridge", "tanimoto_neighbours"}


# --- baselines of contexts ---------------------------------------------------------------------------------


def in_contexts(n=60, seed=0):
    """Rows of 3 compounds in 2 cell types at doses and times, some missing, some twice."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {"cell_type": rng.choice(["A", "B"], n, p=[0.8, 0.2]), "sm_name": rng.choice(list("xyz"), n)}
    )
    obs["dose_uM"], obs["time_h"] = rng.choice([0, 0.1, 0.3, 10, np.nan], n), rng.choice([2.0, 24.0], n)
    return PerturbationData(obs, rng.normal(size=(n, 3)).astype(np.float32), ("G0", "G1", "G2"))


def log_dose(dose, least=0.1):
    return None if np.isnan(dose) else np.log10(dose or least / 10)


def naive_nearest(data, row):
    """The mean of the nearest rows of the compound, the same cell type first, missing doses only near missing ones."""
    ranked = []
    for i, known in enumerate(data.obs.itertuples()):
        if known.sm_name == row.sm_name:
            a, b = log_dose(row.dose_uM), log_dose(known.dose_uM)
            dose = 0 if a is b else np.inf if a is None or b is None else abs(a - b)
            time = abs(np.log10(row.time_h / known.time_h))
            ranked.append((known.cell_type != row.cell_type, round(dose + time, 9), i))
    if not ranked:
        return data.Y[data.obs["cell_type"] == row.cell_type].mean(axis=0)
    least = min(ranked)[:2]
    return data.Y[[i for *key, i in ranked if tuple(key) == least]].mean(axis=0)


def naive_context_mean(data, row):
    """The mean of the cell type's rows of the same time and decade of dose."""

    def key(x):
        dose = log_dose(x.dose_uM)
        return x.cell_type, x.time_h, None if dose is None else round(dose)

    same = [i for i, known in enumerate(data.obs.itertuples()) if key(known) == key(row)]
    return data.Y[same or data.obs["cell_type"] == row.cell_type].mean(axis=0)


@pytest.mark.parametrize(
    ("name", "naive"), [("nearest_context", naive_nearest), ("context_mean", naive_context_mean)]
)
def test_baselines_of_contexts_are_those_of_loops(name, naive):
    data = in_contexts()
    asked = in_contexts(40, seed=1).obs
    asked.loc[:2, "sm_name"], asked.loc[3:5, "dose_uM"] = "new", 1000.0
    found = CONTEXT_BASELINES[name](data, asked)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [naive(data, row) for row in asked.itertuples()], atol=1e-6)
    alone = np.vstack([CONTEXT_BASELINES[name](data, asked.iloc[[i]]) for i in range(len(asked))])
    np.testing.assert_array_equal(alone, found)


def test_baselines_of_contexts_are_listed_where_doses_or_times_differ():
    obs = in_contexts().obs
    assert list(context_baselines(obs)) == ["nearest_context", "context_mean"]
    assert (
        context_baselines(obs.assign(dose_uM=1.0, time_h=24.0)) == context_baselines(obs[["sm_name"]]) == {}
    )
