"""Untested targets: what stands in their place, against loops and plain linear algebra, and what is said of them."""

import pickle

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.data import untested
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import (
    LEVEL,
    SHRINKAGE,
    TOLERANCE,
    Imputed,
    additive_fill,
    imputed,
    never_tested,
    untested_notes,
)

CELLS = np.array([f"cell {k % 3}" for k in range(30)])


def example(seed=0, share=0.3):
    """30 rows × 50 genes of rank 3, cell types and noise, some entries NaN; and the same without NaN."""
    rng = np.random.default_rng(seed)
    Y = 2 * rng.normal(size=(30, 3)) @ rng.normal(size=(3, 50)) + rng.normal(size=50)
    Y = (Y + rng.normal(size=(3, 50))[np.arange(30) % 3] + 0.3 * rng.normal(size=Y.shape)).astype(np.float32)
    return np.where(rng.random(Y.shape) < share, np.float32(np.nan), Y), Y


def naive_start(Y, cells):
    """Gene means, and cell type effects drawn by SHRINKAGE rows, entry by entry."""
    mean, start = np.zeros(Y.shape[1]), np.zeros(Y.shape)
    for g in range(Y.shape[1]):
        tested = [float(y) for y in Y[:, g] if y == y]
        mean[g] = sum(tested) / len(tested) if tested else 0.0
        for i in range(len(Y)):
            same = [
                float(Y[k, g]) - mean[g] for k in range(len(Y)) if cells[k] == cells[i] and Y[k, g] == Y[k, g]
            ]
            start[i, g] = sum(same) / (len(same) + SHRINKAGE)
    return mean, start


def naive(Y, cells):
    """Soft-impute with a singular value decomposition a step."""
    gaps = np.isnan(Y)
    mean, start = naive_start(Y, cells)
    X = Y.astype(np.float64) - mean
    level = LEVEL * np.sqrt(np.mean(X[~gaps] ** 2)) * (np.sqrt(X.shape[0]) + np.sqrt(X.shape[1]))
    X[gaps] = start[gaps]
    while True:
        U, s, Vt = np.linalg.svd(X, full_matrices=False)
        filled = np.where(gaps, U @ np.diag(np.maximum(s - level, 0)) @ Vt, X)
        change = np.linalg.norm((filled - X)[gaps]) / np.linalg.norm(filled[gaps])
        X = filled
        if change <= TOLERANCE:
            return X + mean


@pytest.mark.parametrize("seed", range(3))
def test_imputing_equals_naive_soft_impute(seed):
    Y, _ = example(seed)
    Y[:, 7] = np.nan  # a gene without tested entries
    found = imputed(Y, CELLS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive(Y, CELLS), atol=1e-5)
    tested = np.isfinite(Y)
    assert found[tested].tobytes() == Y[tested].tobytes()
    np.testing.assert_array_equal(found[:, 7], 0)
    assert imputed(Y, CELLS).tobytes() == found.tobytes()


def test_the_additive_fill_is_the_start():
    Y, _ = example()
    mean, start = naive_start(Y, CELLS)
    np.testing.assert_allclose(additive_fill(Y, CELLS), np.where(np.isnan(Y), mean + start, Y), atol=1e-6)


def test_low_rank_is_found_where_additive_effects_are_not_enough():
    Y, truth = example(share=0.2)
    gaps = np.isnan(Y)
    errors = [np.sqrt(np.mean((fill(Y, CELLS) - truth)[gaps] ** 2)) for fill in (imputed, additive_fill)]
    assert errors[0] < 0.6 * errors[1]


def test_complete_targets_are_returned_as_they_are():
    _, Y = example()
    assert imputed(Y, CELLS) is Y
    assert Imputed(Y, CELLS).of(np.arange(5)).tobytes() == Y[:5].tobytes()


def test_rows_are_imputed_once_and_from_themselves(monkeypatch):
    Y, _ = example()
    calls, honest = [], untested.imputed
    monkeypatch.setattr(untested, "imputed", lambda *args: calls.append(1) or honest(*args))
    shared, rows = Imputed(Y, CELLS), np.arange(0, 30, 2)
    found = [shared.of(rows) for _ in range(3)]
    found[0][:] = 0  # nobody else's numbers
    assert len(calls) == 1
    assert found[1].tobytes() == found[2].tobytes() == honest(Y[rows], CELLS[rows]).tobytes()
    assert pickle.loads(pickle.dumps(shared)).of(rows).tobytes() == found[1].tobytes()
    assert np.isnan(shared.Y).any()


def test_statistics_are_of_tested_entries():
    Y, complete = example()
    Y[:, 3] = np.nan
    with np.errstate(invalid="ignore"):
        expected = pd.DataFrame(Y.astype(float)).mean().to_numpy()
    np.testing.assert_allclose(
        untested.tested_mean(Y, 9.0), np.where(np.isnan(expected), 9.0, expected), rtol=1e-6
    )
    low, high = untested.tested_range(Y)
    np.testing.assert_array_equal(low, pd.DataFrame(Y).min().to_numpy())
    np.testing.assert_array_equal(high, pd.DataFrame(Y).max().to_numpy())
    assert untested.tested_mean(complete).tobytes() == complete.mean(axis=0, dtype=np.float64).tobytes()


def test_what_is_untested_is_said():
    Y, _ = example(share=0)
    Y[0, 0] = np.nan
    Y[np.ix_(CELLS == "cell 1", [4, 9])] = np.nan
    found = never_tested(Y, CELLS)
    assert list(found) == ["cell 1"] and found["cell 1"].tolist() == [4, 9]
    obs = pd.DataFrame({"cell_type": CELLS})
    data = PerturbationData(obs, Y, tuple(f"G{k}" for k in range(50)))
    assert untested_notes(data) == [
        "not tested (NaN): 21 of 1,500 targets (1.4 %), by cell type: cell 1 4 %, cell 0 0.2 %; fits impute them, "
        "scores leave them out",
        "UNTESTED: no training row of the cell type was tested in the gene, so predictions there rest on other cell "
        "types alone: cell 1: 2 genes (G4, G9)",
    ]
    assert untested_notes(PerturbationData(obs, np.nan_to_num(Y), data.genes)) == []
