"""The blend: against a brute-force grid and naive loops, and choosing without seeing what it is scored on."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse, rowwise_rmse
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.blend import Evidence, Products, Weights, best_weights, weights_from_state
from rapids_pipeline.stack.saved import new_pairs


def noisy(n_members, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(40, 12))
    predictions = {
        f"m{i}": Y + s * rng.normal(size=Y.shape) for i, s in enumerate([0.5, 0.8, 0.6][:n_members])
    }
    return {name: (scale * p).astype(np.float32) for name, p in predictions.items()}, (scale * Y).astype(
        np.float32
    )


def naive_score(weights, predictions, Y):
    total = 0.0
    for i in range(len(Y)):
        squares = 0.0
        for g in range(Y.shape[1]):
            mixed = sum(w * float(p[i, g]) for w, p in zip(weights, predictions.values(), strict=True))
            squares += (mixed - float(Y[i, g])) ** 2
        total += (squares / Y.shape[1]) ** 0.5
    return total / len(Y)


def test_products_give_the_score_of_any_blend():
    predictions, Y = noisy(3)
    products = Products.of(predictions, Y)
    weights = Weights({"m0": 0.2, "m1": 0.5, "m2": 0.3}, amplitude=0.7)
    errors = products.rowwise_rmse(weights)
    assert errors.mean() == pytest.approx(naive_score([0.14, 0.35, 0.21], predictions, Y), rel=1e-6)
    assert errors.mean() == pytest.approx(mean_rowwise_rmse(Y, weights.mix(predictions)), rel=1e-6)
    part = products.take(np.array([5, 2]), ["m2", "m0"])
    expected = Products.of({name: predictions[name][[5, 2]] for name in ("m2", "m0")}, Y[[5, 2]])
    np.testing.assert_allclose(part.values, expected.values)
    assert part.names == ["m2", "m0"]


def test_members_that_know_names_alone_count_nothing_for_new_pairs():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 4, 5)).astype(np.float32)
    weights, new = Weights({"a": 0.5, "b": 0.3, "c": 0.2}, 0.9), np.array([False, True, False, True])
    found = weights.mix({"a": a, "b": b, "c": c}, new, ("a",))
    np.testing.assert_allclose(found[~new], 0.9 * (0.5 * a + 0.3 * b + 0.2 * c)[~new], rtol=1e-5)
    np.testing.assert_allclose(found[new], 0.9 * (0.6 * b + 0.4 * c)[new], rtol=1e-5)
    alone = weights.mix({"a": a, "b": b, "c": c}, new, ("a", "b", "c"))
    assert alone.tobytes() == weights.mix({"a": a, "b": b, "c": c}).tobytes(), (
        "where all are such, nothing changes"
    )


def test_a_pair_is_new_where_its_cell_type_or_its_compound_is():
    asked = pd.DataFrame({"cell_type": ["A", "A", "C", "C"], "sm_name": ["x", "z", "x", "z"]})
    assert new_pairs(asked, ("A", "B"), ("x", "y")).tolist() == [False, True, True, True]


def test_products_are_of_tested_entries():
    predictions, Y = noisy(2)
    Y[np.random.default_rng(1).random(Y.shape) < 0.4] = np.nan
    Y[:, 0] = 1.0
    weights = Weights({"m0": 0.4, "m1": 0.6}, amplitude=0.9)
    errors = Products.of(predictions, Y).rowwise_rmse(weights)
    np.testing.assert_allclose(errors, rowwise_rmse(Y, weights.mix(predictions)), rtol=1e-5)


@pytest.mark.parametrize("n_members", [2, 3])
@pytest.mark.parametrize("shrink", [False, True])
def test_weights_equal_a_brute_force_grid(n_members, shrink):
    predictions, Y = noisy(n_members)
    found = best_weights(Products.of(predictions, Y), shrink=shrink)
    step = 0.02 if n_members == 2 else 0.05
    ticks = np.arange(0, 1 + step / 2, step)
    grid = [w for w in product(ticks, repeat=n_members) if sum(w) <= 1 + 1e-9]
    grid = grid if shrink else [w for w in grid if sum(w) >= 1 - 1e-9]
    stacked = np.stack(list(predictions.values()))
    scores = [mean_rowwise_rmse(Y, np.einsum("m,mij->ij", w, stacked)) for w in grid]
    weights = found.amplitude * np.array(list(found.weights.values()))
    np.testing.assert_allclose(weights, grid[int(np.argmin(scores))], atol=2 * step)
    assert naive_score(weights, predictions, Y) <= min(scores) + 1e-7
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.amplitude == 1 if not shrink else 0 < found.amplitude <= 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shrink", [False, True])
def test_weights_are_shares_and_no_worse_than_any_member(scale, shrink):
    predictions, Y = noisy(3, seed=4, scale=scale)
    found = best_weights(Products.of(predictions, Y), shrink=shrink)
    weights = found.amplitude * np.array(list(found.weights.values()))
    assert np.all(weights >= 0) and weights.sum() <= 1 + 1e-12
    alone = [naive_score(np.eye(3)[i], predictions, Y) for i in range(3)]
    assert naive_score(weights, predictions, Y) <= min(alone) + 1e-6 * scale


def test_shrinking_never_amplifies_and_follows_the_amplitude():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(30, 8)).astype(np.float32)
    assert best_weights(Products.of({"a": 2 * Y}, Y), shrink=True).amplitude == pytest.approx(0.5, abs=1e-4)
    assert best_weights(Products.of({"a": Y / 2}, Y), shrink=True).amplitude == pytest.approx(1.0, abs=1e-6)
    assert best_weights(Products.of({"a": 2 * Y}, Y), shrink=False) == Weights({"a": 1.0}, 1.0)
    against = best_weights(Products.of({"a": -Y, "b": -2 * Y}, Y), shrink=True)
    assert against.amplitude == pytest.approx(0, abs=1e-6) and sum(against.weights.values()) == pytest.approx(
        1
    )


def evidence_of(predictions, judged, Y, folds, shrink=True):
    return Evidence(Products.of(predictions, Y), Products.of(judged, Y), folds, shrink)


def test_the_nested_score_is_that_of_weights_from_the_next_folds_judged_rows():
    predictions, Y = noisy(2)
    judged = {name: p[:, ::-1] for name, p in noisy(2, seed=1)[0].items()}
    folds = random_folds(len(Y), 4, seed=0)
    evidence = evidence_of(predictions, judged, Y, folds)
    errors = np.empty(len(Y))
    for k in range(4):
        inside, after = np.flatnonzero(folds == k), np.flatnonzero(folds == (k + 1) % 4)
        weights = best_weights(
            Products.of({name: p[after] for name, p in judged.items()}, Y[after]), shrink=True
        )
        assert evidence.weights_for(k, list(predictions)) == weights
        mixed = weights.mix({name: p[inside] for name, p in predictions.items()})
        errors[inside] = np.sqrt(((mixed - Y[inside]) ** 2).mean(axis=1))
    assert evidence.score(list(predictions)) == pytest.approx(errors.mean(), rel=1e-5)


def test_a_choice_takes_the_better_list_and_for_a_fold_only_the_next_folds_rows_count():
    predictions, Y = noisy(3)
    predictions["m2"] = Y + 0.01  # nearly perfect
    folds = random_folds(len(Y), 4, seed=0)
    judged = {name: p.copy() for name, p in predictions.items()}
    judged["m2"][folds == 3] = -50  # but the rows that judge fold 2 do not know
    evidence = evidence_of(predictions, judged, Y, folds)
    candidates = {"off": ["m0", "m1"], "on": ["m0", "m2"]}
    assert evidence.chosen(candidates) == "on"
    assert [evidence.chosen_for(k, candidates) for k in range(4)] == ["on", "on", "off", "on"]
    changed = Y.copy()
    changed[folds == 1] += 100
    other = evidence_of(predictions, judged, changed, folds)
    assert other.weights_for(1, ["m0", "m1"]) == evidence.weights_for(1, ["m0", "m1"])
    assert other.weights_for(0, ["m0", "m1"]) != evidence.weights_for(0, ["m0", "m1"])


def test_weights_come_back_from_their_state_and_damaged_ones_do_not():
    weights = Weights({"a": 0.25, "b": 0.75}, 0.9)
    assert weights_from_state(StateReader(weights.state(), "model")) == weights
    for changed in (
        {"weights": [0.5]},
        {"weights": [-1.0, 2.0]},
        {"members": ["a", "a"]},
        {"amplitude": None},
    ):
        with pytest.raises(InputError, match="model: "):
            weights_from_state(StateReader({**weights.state(), **changed}, "model"))
