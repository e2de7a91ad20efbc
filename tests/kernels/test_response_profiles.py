"""Response profiles and the correlation of cell types: against loops, and never the pair's own cell type."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rows import Pairs, Rows
from rapids_pipeline.kernels.response_profiles import (
    NEAR,
    ResponseProfiles,
    correlation_of_cell_types,
    residuals_of,
)
from tests.kernels.pairs_example import (
    in_contexts,
    naive_correlation,
    naive_nearness,
    naive_profile,
    naive_residuals,
    pairs,
    rows_of,
)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 8),
    st.floats(0, 0.8),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_profiles_are_those_of_a_loop(n_cells, n_compounds, missing, seed, kappa):
    rows, scores = (
        pairs(n_cells, n_compounds, missing * 0.9, 0, seed)
        if n_cells * n_compounds > 3
        else pairs(2, 2, 0, 1, seed)
    )
    if not len(scores):
        return
    training = Pairs.of(rows, [])
    np.testing.assert_allclose(residuals_of(training, scores), naive_residuals(rows.obs, scores), atol=1e-12)
    profiles = ResponseProfiles.learn(training, scores, kappa)
    asked = [(c, m) for c in range(n_cells + 1) for m in range(n_compounds + 1)]
    found, present = profiles.of(Pairs.of(rows_of(asked), []))
    for k, (c, m) in enumerate(asked):
        expected, has = naive_profile(f"cell {c}", f"drug {m}", rows.obs, profiles.residuals, kappa)
        np.testing.assert_allclose(found[k], expected, atol=1e-12)
        assert present[k] == has


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_rows_of_near_doses_and_times_count_more_in_a_profile(kappa):
    rows, scores = pairs(seed=4)
    rows, asked = in_contexts(rows), in_contexts(pairs(n_cells=5, n_compounds=9, seed=7)[0], 3)
    profiles = ResponseProfiles.learn(Pairs.of(rows, []), scores, kappa, (0.5, 0.4))
    found, present = profiles.of(Pairs.of(asked, []))
    for k, x in enumerate(asked.obs.itertuples()):
        total, count = np.zeros(scores.shape[1]), 0.0
        for r, z in zip(profiles.residuals, rows.obs.itertuples(), strict=True):
            if z.sm_name == x.sm_name and z.cell_type != x.cell_type:
                weight = naive_nearness(x.dose_uM, z.dose_uM, 0.5, 0.1)
                weight *= naive_nearness(x.time_h, z.time_h, 0.4, 2.0)
                total, count = total + weight * r, count + weight
        assert present[k] == (count > NEAR)
        np.testing.assert_allclose(found[k], total / (count + kappa) if count > NEAR else 0, atol=1e-9)
    assert 0 < present.sum() < len(present)


def test_profiles_of_one_dose_and_time_are_those_of_rows_without():
    rows, scores = pairs()
    constant = Pairs.of(Rows(rows.obs.assign(dose_uM=10.0, time_h=24.0)), [])
    for found, expected in zip(
        *(ResponseProfiles.learn(p, scores, 1.0).of(p) for p in (constant, Pairs.of(rows, []))), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_pairs_profile_uses_no_row_of_its_own_cell_type():
    rows, scores = pairs(replicates=3)
    training = Pairs.of(rows, [])
    before, _ = ResponseProfiles.learn(training, scores, 1.0).of(training)
    changed = scores.copy()
    changed[7] += 1000
    after, _ = ResponseProfiles.learn(training, changed, 1.0).of(training)
    obs = rows.obs
    own = (obs["cell_type"] == obs["cell_type"][7]).to_numpy()
    np.testing.assert_allclose(before[own], after[own], atol=1e-10)  # rounding of a difference of sums
    others = ~own & (obs["sm_name"] == obs["sm_name"][7]).to_numpy()
    assert others.any() and np.abs(after - before)[others].max() > 10


@pytest.mark.parametrize("seed", range(5))
def test_the_correlation_of_cell_types_is_that_of_a_loop(seed):
    rows, scores = pairs(n_cells=4, n_compounds=8, missing=0.2, seed=seed)
    training = Pairs.of(rows, [])
    S, mean = correlation_of_cell_types(training, scores)
    expected, expected_mean = naive_correlation(rows.obs, naive_residuals(rows.obs, scores))
    assert mean == pytest.approx(expected_mean, abs=1e-12)
    assert np.linalg.eigvalsh(expected).min() > 0  # so that nothing is cut
    np.testing.assert_allclose(S, expected, atol=1e-9)


def test_the_correlation_is_positive_semidefinite_with_ones_on_its_diagonal():
    rng = np.random.default_rng(0)
    rows, scores = pairs(n_cells=12, n_compounds=8, missing=0.3, seed=1, n_scores=2)
    scores = scores + 5 * rng.normal(size=(12, 2))[[int(c.split()[1]) for c in rows.obs["cell_type"]]]
    S, _ = correlation_of_cell_types(Pairs.of(rows, []), scores)
    np.testing.assert_allclose(np.diag(S), 1.0, atol=1e-12)
    np.testing.assert_allclose(S, S.T, atol=1e-12)
    assert np.linalg.eigvalsh(S).min() > -1e-9


def test_one_cell_type_alone_correlates_with_nothing():
    rows, scores = pairs(n_cells=1, missing=0)
    S, mean = correlation_of_cell_types(Pairs.of(rows, []), scores)
    assert S == pytest.approx(np.ones((1, 1))) and mean == 0
