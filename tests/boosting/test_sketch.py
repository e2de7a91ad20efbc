"""Sketched gradients: what they preserve, which columns they pick, and that they are drawn by their seed alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.sketch import Sketch, projected, projection, top_outputs


def gradients(n=60, d=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_a_random_projection_has_the_scores_as_its_expectation():
    G = gradients()
    left = np.arange(60) < 23
    score = sum(np.sum(G[side].sum(axis=0, dtype=float) ** 2) / (side.sum() + 1) for side in (left, ~left))
    found = []
    for seed in range(4000):
        S = projected(G, projection(12, 4, (seed,)))
        found.append(
            sum(np.sum(S[side].sum(axis=0, dtype=float) ** 2) / (side.sum() + 1) for side in (left, ~left))
        )
    assert np.mean(found) == pytest.approx(score, abs=4 * np.std(found) / np.sqrt(len(found)))
    assert np.std(found) < score  # one draw is no outlier either


def test_projection_entries_are_normal_with_variance_one_over_k():
    matrix = projection(400, 50, (3,))
    assert matrix.shape == (400, 50) and abs(matrix.mean()) < 4 / np.sqrt(50 * 20_000)
    assert matrix.var() == pytest.approx(1 / 50, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_projection_is_the_matrix_product_and_linear(n, d, k, seed):
    G, matrix = gradients(n, d, seed), projection(d, k, (seed,))
    S = projected(G, matrix)
    np.testing.assert_allclose(S, G.astype(float) @ matrix, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(projected(2 * G, matrix), 2 * S)


def test_blocks_of_rows_do_not_change_a_projection(monkeypatch):
    G, matrix = gradients(), projection(12, 4, (0,))
    whole, top = projected(G, matrix), top_outputs(G, 5)
    monkeypatch.setattr("rapids_pipeline.boosting.sketch.ROWS_A_BLOCK", 7)
    np.testing.assert_array_equal(projected(G, matrix), whole)
    np.testing.assert_array_equal(top_outputs(G, 5), top)


def test_top_outputs_are_the_columns_with_the_largest_norms():
    G = np.zeros((4, 6), np.float32)
    G[0] = [1, 5, 0, 4, 1, 4]
    np.testing.assert_array_equal(top_outputs(G, 3), [1, 3, 5])
    np.testing.assert_array_equal(top_outputs(G, 4), [0, 1, 3, 5])  # of equal norms the first
    np.testing.assert_array_equal(Sketch("top_outputs", 2).of(G, (0,)), G[:, [1, 3]])


@pytest.mark.parametrize("kind", ["random_projection", "top_outputs"])
def test_as_many_columns_as_outputs_are_no_sketch(kind):
    G = gradients()
    for k in (12, 100):
        assert Sketch(kind, k).of(G, (0,)) is G and Sketch(kind, k).width(12) == 12
    assert Sketch(kind, 5).of(G, (0,)).shape == (60, 5) and Sketch(kind).width(12) == 5


def test_same_seed_same_bits_another_seed_others():
    sketch, G = Sketch("random_projection", 4), gradients()
    assert sketch.of(G, (1, 2)).tobytes() == sketch.of(G, (1, 2)).tobytes()
    assert sketch.of(G, (1, 2)).tobytes() != sketch.of(G, (1, 3)).tobytes()
    assert sketch.of(G, (1, 2)).dtype == np.float32


def test_wrong_sketches_are_refused():
    with pytest.raises(InputError, match="no sketch 'svd'; choose None, random_projection or top_outputs"):
        Sketch("svd")
    for k in (0, 2.5):
        with pytest.raises(InputError, match="sketch_outputs must be a whole number of at least 1"):
            Sketch("top_outputs", k)
