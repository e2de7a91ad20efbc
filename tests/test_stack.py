"""The stack: against refitting everything naively, against a brute-force blend, and never leaking."""

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from features.feature_sets import FeatureTable, Rows, feature_set
from rapids_pipeline import stack
from rapids_pipeline.config import BoostingConfig, RunConfig, SvrConfig
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import canonical_order, random_folds
from rapids_pipeline.ingest import PerturbationData
from rapids_pipeline.pseudo_labels import NestedPredictions, nested_predictions
from rapids_pipeline.stack import (
    Member,
    blend,
    blend_weights,
    boosting_predictions,
    svr_member,
    svr_predictions,
)
from rapids_pipeline.svr.estimator import NotConvergedWarning
from rapids_pipeline.svr.gram import GramTable

pytest.importorskip("xgboost")


def with_made_up(name):
    """A feature set on the molecule features that the example has."""
    return feature_set(name).with_molecules("made up")


N_FOLDS = 3
SVR_CONFIG = SvrConfig(engine="douglas-rachford", features=with_made_up("svr_shared"))
LOO_CONFIG = SVR_CONFIG.model_copy(update={"features": with_made_up("svr_loo")})
BOOSTING = BoostingConfig(
    n_estimators=10, n_components=5, learning_rate=0.3, features=with_made_up("boosting")
)
UNMOVED = 1e-4
"""How far rounding may move a prediction that must not move."""


def example(n_genes=25, seed=0):
    """48 rows of 4 cell types and 16 compounds, most measured in three of them, and 6 test rows."""
    rng = np.random.default_rng(seed)
    pairs = [(c, m) for m in range(16) for c in range(4)]
    held = {(c, m) for c, m in pairs if c == m % 4}
    cells, compounds = rng.normal(size=(4, n_genes)), rng.normal(size=(16, n_genes))
    structures = rng.normal(size=(16, 10)).astype(np.float32)

    def rows(chosen):
        obs = pd.DataFrame(
            {"cell_type": [f"cell {c}" for c, _ in chosen], "sm_name": [f"drug {m:02d}" for _, m in chosen]}
        )
        return Rows(obs, {"made up": structures[[m for _, m in chosen]]})

    training = [pair for pair in pairs if pair not in held]
    Y = np.array([cells[c] + compounds[m] * (1 + 0.3 * c) for c, m in training])
    Y += 0.3 * rng.normal(size=Y.shape)
    return rows(training), rows(sorted(held)[:6]), Y.astype(np.float32)


def members_of(train, test, Y, folds, boost=boosting_predictions):
    level_1 = svr_predictions(train, test, Y, folds, SVR_CONFIG, 0, "cpu")
    boosted = boost(train, test, Y, folds, level_1, BOOSTING, 0, "cpu")
    return {"svr": svr_member(level_1, folds), "boosting": boosted.member}


# nested predictions


def sklearn_predictions(X, Y, training, wanted):
    predicted = np.empty((len(wanted), Y.shape[1]))
    for t in range(Y.shape[1]):
        model = SVR(C=1.0, epsilon=0.1, gamma="scale", tol=1e-6).fit(X[training], Y[training, t])
        predicted[:, t] = model.predict(X[wanted])
    return predicted


def test_nested_predictions_equal_refitting_for_every_pair_of_folds():
    rng = np.random.default_rng(0)
    n, m, t, n_folds = 30, 5, 4, 4
    X, Y = rng.normal(size=(n + m, 6)), rng.normal(size=(n, t))
    folds = random_folds(n, n_folds, seed=1)
    found = nested_predictions(lambda training: GramTable(X), m, Y, folds, SVR_CONFIG)
    tests = np.arange(n, n + m)
    labels, nested = np.zeros((m, t)), np.zeros((n_folds, n, t))
    for k in range(n_folds):
        in_k, outside = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
        np.testing.assert_allclose(found.oof[in_k], sklearn_predictions(X, Y, outside, in_k), atol=1e-3)
        labels += sklearn_predictions(X, Y, outside, tests) / n_folds
        for j in [j for j in range(n_folds) if j != k]:
            in_j, neither = np.flatnonzero(folds == j), np.flatnonzero((folds != j) & (folds != k))
            nested[k, in_j] = sklearn_predictions(X, Y, neither, in_j)
            nested[k, in_k] += sklearn_predictions(X, Y, neither, in_k) / (n_folds - 1)
    np.testing.assert_allclose(found.test, labels, atol=1e-3)
    np.testing.assert_allclose(found.nested, nested, atol=1e-3)
    assert found.nested.dtype == found.oof.dtype == found.test.dtype == np.float32


def test_nested_predictions_of_an_outer_fold_never_see_it():
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    changed = Y.copy()
    changed[folds == 1] += 1000
    before, after = (svr_predictions(train, test, y, folds, SVR_CONFIG, 0, "cpu") for y in (Y, changed))
    assert np.max(np.abs(after.nested[1] - before.nested[1])) <= UNMOVED
    assert np.max(np.abs(after.oof - before.oof)[folds == 1]) <= UNMOVED
    assert np.min(np.max(np.abs(after.nested[0] - before.nested[0])[folds == 2], axis=1)) > 1


# leaks


def moved(train, test, Y, folds, rows, predict):
    """Largest change of each row's prediction when 1000 is added to the targets of `rows`; by member."""
    changed = Y.copy()
    changed[rows] += 1000
    before, after = predict(train, test, Y, folds), predict(train, test, changed, folds)
    return {name: np.max(np.abs(after[name].oof - before[name].oof), axis=1) for name in before}


def assert_leak_free(movement, rows, folds):
    """`rows` stay, and every row of another fold, which they help to train, moves."""
    for name, by_row in movement.items():
        assert by_row[rows].max() <= UNMOVED, f"{name}: the prediction of a row moved with its own target"
        assert by_row[folds != folds[rows[0]]].max() > 1, f"{name}: nothing learns from the row"


@pytest.mark.parametrize("row", [0, 20, 47])
def test_no_rows_own_target_moves_its_out_of_fold_prediction(row):
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    assert_leak_free(moved(train, test, Y, folds, [row], members_of), [row], folds)


def test_no_compounds_targets_move_its_out_of_fold_predictions():
    train, test, Y = example()
    compounds, codes = np.unique(train.obs["sm_name"], return_inverse=True)
    folds = np.arange(len(compounds))[codes] % N_FOLDS
    rows = np.flatnonzero(codes == 4)
    assert len(rows) == 3 and len(set(folds[rows])) == 1
    assert_leak_free(moved(train, test, Y, folds, rows, members_of), rows, folds)


@pytest.mark.parametrize("name", ["svr_loo", "op2_first_initial", "boosting_aggregates"])
def test_no_rows_own_target_moves_its_predictions_whatever_the_features(name):
    """Features made from targets, at either level, are made without the fold that they are scored on."""
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    features = with_made_up(name)
    level = "boosting" if features.needs_predictions else "svr"
    svr, boosting = (SVR_CONFIG.model_copy(), BOOSTING.model_copy())
    if level == "svr":
        svr = svr.model_copy(update={"features": features})
    else:
        boosting = boosting.model_copy(update={"features": features})

    def predict(train, test, Y, folds):
        level_1 = svr_predictions(train, test, Y, folds, svr, 0, "cpu")
        boosted = boosting_predictions(train, test, Y, folds, level_1, boosting, 0, "cpu")
        return {"svr": svr_member(level_1, folds), "boosting": boosted.member}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)  # with 1000 in a target
        assert_leak_free(moved(train, test, Y, folds, [20], predict), [20], folds)


def test_features_of_all_are_cross_fitted_inside_and_plain_outside():
    train, test, Y = example()
    training = np.arange(7, len(Y))
    features = with_made_up("op2_first_light")
    X = stack.features_of_all(FeatureTable(features, seed=2), train, test, Y, training)
    table = FeatureTable(features, seed=2)
    np.testing.assert_array_equal(X[7 : len(Y)], table.fit_transform(train.take(training), Y[training]))
    np.testing.assert_array_equal(X[:7], table.transform(train.take(np.arange(7))))
    np.testing.assert_array_equal(X[len(Y) :], table.transform(test))


def boosting_on_plain_oof(train, test, Y, folds, level_1, *arguments):
    """As published: level 2 learns from out-of-fold predictions of SVRs that saw the fold it is scored on."""
    everywhere = np.broadcast_to(level_1.oof, (N_FOLDS, *level_1.oof.shape))
    leaky = NestedPredictions(level_1.oof, level_1.test, everywhere)
    return boosting_predictions(train, test, Y, folds, leaky, *arguments)


def test_the_check_finds_level_2_on_plain_out_of_fold_predictions():
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)

    def leaky(*arguments):
        return members_of(*arguments, boost=boosting_on_plain_oof)

    movement = moved(train, test, Y, folds, [20], leaky)
    assert_leak_free({"svr": movement["svr"]}, [20], folds)
    with pytest.raises(AssertionError, match="boosting: the prediction of a row moved with its own target"):
        assert_leak_free(movement, [20], folds)


@pytest.mark.filterwarnings("ignore:.*did not reach tol")
def test_the_check_finds_encodings_fitted_on_all_rows(monkeypatch):
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    original = stack.features_of_all

    def fitted_on_all(table, train, test, Y, training):
        return original(table, train, test, Y, np.arange(len(Y)))

    monkeypatch.setattr(stack, "features_of_all", fitted_on_all)

    def leaky(*arguments):
        level_1 = svr_predictions(*arguments, LOO_CONFIG, 0, "cpu")
        return {"svr": svr_member(level_1, arguments[3])}

    with pytest.raises(AssertionError, match="svr: the prediction of a row moved with its own target"):
        assert_leak_free(moved(train, test, Y, folds, [20], leaky), [20], folds)


def blended(members, Y, folds):
    data = PerturbationData(pd.DataFrame(index=range(len(Y))), Y, tuple(map(str, range(Y.shape[1]))))
    return blend(members, data, folds, RunConfig(n_folds=N_FOLDS))


def test_no_rows_own_target_moves_its_blend_of_given_predictions():
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    members = members_of(train, test, Y, folds)

    def predict(train, test, Y, folds):
        return {"blend": blended(members, Y, folds)}

    assert moved(train, test, Y, folds, [20], predict)["blend"][20] <= UNMOVED


def test_no_rows_own_target_moves_its_blend():
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)

    def predict(*arguments):
        return {"blend": blended(members_of(*arguments), arguments[2], folds)}

    assert_leak_free(moved(train, test, Y, folds, [20], predict), [20], folds)


# the booster in the stack


def test_boosting_equals_its_steps_by_hand():
    from rapids_pipeline.boosting import MultiOutputBooster, TargetSpace

    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    level_1 = svr_predictions(train, test, Y, folds, SVR_CONFIG, 0, "cpu")
    boosted = boosting_predictions(train, test, Y, folds, level_1, BOOSTING, 7, "cpu")
    parameters = BOOSTING.model_dump(exclude={"n_components", "encoder_sigma", "features"})
    cases = [
        (folds != k, train, level_1.nested[k], folds == k, boosted.member.oof[folds == k]) for k in range(3)
    ]
    everything = np.ones(len(Y), dtype=bool)
    cases.append((everything, test, level_1.oof, np.ones(len(test.obs), dtype=bool), boosted.member.test))
    for inside, others, predictions, wanted, found in cases:
        rows = replace(train, predictions=predictions).take(np.flatnonzero(inside))
        others = replace(others, predictions=predictions if others is train else level_1.test)
        space = TargetSpace(5)
        scores = space.components_for(Y[inside])
        table = FeatureTable(BOOSTING.features, BOOSTING.encoder_sigma, 7)
        model = MultiOutputBooster(**parameters, random_state=7).fit(
            table.fit_transform(rows, scores), scores
        )
        expected = space.inverse_transform(
            model.predict(table.transform(others.take(np.flatnonzero(wanted))))
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert boosted.explained_share == pytest.approx(TargetSpace(5).fit(Y).explained_share_)


def test_encoder_noise_is_used_and_seeded():
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    level_1 = svr_predictions(train, test, Y, folds, SVR_CONFIG, 0, "cpu")

    def oof(sigma, seed):
        config = BOOSTING.model_copy(update={"encoder_sigma": sigma})
        return boosting_predictions(train, test, Y, folds, level_1, config, seed, "cpu").member.oof

    assert oof(0.21, 0).tobytes() == oof(0.21, 0).tobytes()
    assert np.any(oof(0.21, 0) != oof(0.0, 0))


# the blend


def noisy_members(n_members, seed=0):
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(40, 12)).astype(np.float32)
    scales = [0.5, 0.8, 0.6][:n_members]
    predictions = [Y + (s * rng.normal(size=Y.shape)).astype(np.float32) for s in scales]
    return {f"m{i}": Member(p, p, p[:4]) for i, p in enumerate(predictions)}, Y


def oof_of(members):
    return {name: member.oof for name, member in members.items()}


def naive_score(weights, members, Y, rows):
    total = 0.0
    for i in rows:
        squares = 0.0
        for g in range(Y.shape[1]):
            mixed = sum(
                w * float(member.oof[i, g]) for w, member in zip(weights, members.values(), strict=True)
            )
            squares += (mixed - float(Y[i, g])) ** 2
        total += (squares / Y.shape[1]) ** 0.5
    return total / len(rows)


@pytest.mark.parametrize("n_members", [2, 3])
def test_weights_equal_a_brute_force_grid(n_members):
    members, Y = noisy_members(n_members)
    weights = blend_weights(oof_of(members), Y)
    step = 0.02
    ticks = np.arange(0, 1 + step / 2, step)
    grid = [(*head, 1 - sum(head)) for head in product(ticks, repeat=n_members - 1) if sum(head) <= 1 + 1e-9]
    stacked = np.stack([member.oof for member in members.values()])
    scores = [mean_rowwise_rmse(Y, np.einsum("m,mij->ij", w, stacked)) for w in grid]
    best = grid[int(np.argmin(scores))]
    np.testing.assert_allclose(list(weights.values()), best, atol=step)
    ours = naive_score(weights.values(), members, Y, range(len(Y)))
    assert ours <= min(scores) + 1e-7
    assert list(weights) == list(members)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_weights_are_shares(seed, scale):
    rng = np.random.default_rng(seed)
    Y = (scale * rng.normal(size=(20, 6))).astype(np.float32)
    members = {
        name: Member((scale * rng.normal(size=Y.shape) * rng.random()).astype(np.float32), Y, Y[:1])
        for name in "abcd"
    }
    weights = np.array(list(blend_weights(oof_of(members), Y).values()))
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.all(weights >= 0)
    score = naive_score(weights, members, Y, range(20))
    alone = [naive_score(np.eye(4)[i], members, Y, range(20)) for i in range(4)]
    assert score <= min(*alone, naive_score(np.full(4, 0.25), members, Y, range(20))) + 1e-6 * scale


def test_a_perfect_member_takes_everything_and_one_member_is_itself():
    members, Y = noisy_members(2)
    assert blend_weights({**oof_of(members), "truth": Y}, Y)["truth"] == pytest.approx(1.0, abs=1e-4)
    assert blend_weights({"only": members["m0"].oof}, Y) == {"only": 1.0}


def test_blend_is_the_clipped_weighted_sum():
    members, Y = noisy_members(2)
    members["m0"] = replace(members["m0"], judged=members["m1"].oof[::-1])
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    result = blended(members, Y, folds)
    assert result.weights == blend_weights(oof_of(members), Y)
    expected = sum(result.weights[name] * member.test for name, member in members.items())
    np.testing.assert_allclose(result.test, np.clip(expected, Y.min(axis=0), Y.max(axis=0)), atol=1e-6)
    for k in range(N_FOLDS):
        after, inside, outside = folds == (k + 1) % N_FOLDS, folds != k, folds == k
        of_fold = blend_weights({name: member.judged[after] for name, member in members.items()}, Y[after])
        expected = sum(of_fold[name] * member.oof[outside] for name, member in members.items())
        expected = np.clip(expected, Y[inside].min(axis=0), Y[inside].max(axis=0))
        np.testing.assert_allclose(result.oof[outside], expected, atol=1e-6)
    assert result.oof.dtype == np.float32


def test_judged_rows_never_saw_the_fold_whose_blend_they_choose():
    """A row moves no judged prediction of the fold after its own, and moves those of the others."""
    train, test, Y = example()
    folds = random_folds(len(Y), N_FOLDS, seed=0)
    changed = Y.copy()
    changed[20] += 1000
    before, after = (members_of(train, test, targets, folds) for targets in (Y, changed))
    for name, member in before.items():
        movement = np.abs(after[name].judged - member.judged).max(axis=1)
        chooses_its_blend = folds == (folds[20] + 1) % N_FOLDS
        assert movement[chooses_its_blend].max() <= UNMOVED, name
        assert movement[folds == (folds[20] + 2) % N_FOLDS].max() > UNMOVED, name


# the order of rows


def test_the_files_order_changes_nothing():
    train, test, Y = example()
    shuffled = np.random.default_rng(3).permutation(len(Y))
    found = {}
    for name, order in (("as read", np.arange(len(Y))), ("shuffled", shuffled)):
        rows, targets = train.take(order), Y[order]
        canonical = canonical_order(rows.obs)
        folds = random_folds(len(Y), N_FOLDS, seed=0)
        members = members_of(rows.take(canonical), test, targets[canonical], folds)
        oof = {member: predicted.oof[np.argsort(canonical)] for member, predicted in members.items()}
        found[name] = (
            {m: p[np.argsort(order)].tobytes() for m, p in oof.items()},
            members["boosting"].test.tobytes(),
        )
    assert found["as read"] == found["shuffled"]
