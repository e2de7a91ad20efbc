"""The whole stack: never leaking, independent of the files' order, choosing by evidence, and saved."""

import numpy as np
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.blend import Evidence, Products
from rapids_pipeline.stack.fit import fit_stack, labels_of
from rapids_pipeline.stack.members.booster import BoostingProblem, boosted_member
from rapids_pipeline.stack.members.svr import fit_member
from rapids_pipeline.stack.model import StackModel
from rapids_pipeline.stack.nested import FirstLevel
from rapids_pipeline.stack.recipe import BlendConfig
from tests.stack_example import (
    BOOSTING,
    COMPOSITE,
    N_FOLDS,
    OWN,
    SVR,
    UNMOVED,
    assert_leak_free,
    example,
    folded,
    moved,
    recipe,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*did not reach tol")  # with 1000 in a target

WHOLE = recipe(svrs=(SVR, OWN), use="auto")


def stacked(train, test, Y, folds, which=WHOLE, seed=0, **options):
    return fit_stack(train, test, Y, folds, which, seed, "cpu", **options)


def oof_of(train, test, folds, which):
    def predict(Y):
        found = stacked(train, test, Y, folds, which)
        return {"blend": found.oof, **found.members}

    return predict


@pytest.mark.parametrize("use", ["off", "on", "auto"])
@pytest.mark.parametrize("row", [0, 20, 47])
def test_no_rows_own_target_moves_its_out_of_fold_prediction(row, use):
    train, test, Y = example()
    folds = folded(Y)
    which = recipe(svrs=(SVR, OWN), use=use, kernels=(COMPOSITE,))
    assert_leak_free(moved(Y, [row], oof_of(train, test, folds, which)), [row], folds)


def test_no_compounds_targets_move_its_out_of_fold_predictions():
    train, test, Y = example()
    compounds, codes = np.unique(train.obs["sm_name"], return_inverse=True)
    folds = np.arange(len(compounds))[codes] % N_FOLDS
    rows = np.flatnonzero(codes == 4)
    assert len(rows) == 3 and len(set(folds[rows])) == 1
    which = recipe(svrs=(SVR, OWN), use="auto", kernels=(COMPOSITE,))
    assert_leak_free(moved(Y, rows, oof_of(train, test, folds, which)), rows, folds)


def test_pseudo_labels_of_an_outer_fold_never_see_it():
    train, test, Y = example()
    folds = folded(Y)

    def labels(y):
        first = {"svr": fit_member(train, test, y, folds, SVR, 0, "cpu")}
        level_1 = FirstLevel([first["svr"].predictions])
        boosted = boosted_member(BoostingProblem(train, test, y, folds, level_1, BOOSTING, "cpu"), 0)
        found = labels_of(first, boosted, 1.0)
        mean = (first["svr"].predictions.nested_test + boosted.nested_test) / 2
        np.testing.assert_allclose(found.nested, mean, atol=1e-6)
        np.testing.assert_allclose(found.test, (first["svr"].predictions.test + boosted.test) / 2, atol=1e-6)
        return found.nested

    changed = Y.copy()
    changed[20] += 1000
    movement = np.abs(labels(changed) - labels(Y)).max(axis=(1, 2))
    assert movement[folds[20]] <= UNMOVED
    assert movement[[k for k in range(N_FOLDS) if k != folds[20]]].min() > 1


def test_the_blend_is_the_clipped_weighted_sum_of_choices_made_without_the_fold():
    train, test, Y = example()
    folds = folded(Y)
    found = stacked(train, test, Y, folds)
    weights = found.model.weights
    expected = weights.amplitude * sum(w * found.test_members[name] for name, w in weights.weights.items())
    np.testing.assert_allclose(found.test, np.clip(expected, Y.min(axis=0), Y.max(axis=0)), atol=1e-5)
    for k in range(N_FOLDS):
        inside = Y[folds != k]
        assert np.all(found.oof[folds == k] >= inside.min(axis=0))
        assert np.all(found.oof[folds == k] <= inside.max(axis=0))
    unclipped = stacked(
        train, test, Y, folds, recipe(svrs=(SVR,), blend=BlendConfig(clip=False, shrink=False))
    )
    mixed = unclipped.model.weights.mix(unclipped.test_members)
    np.testing.assert_allclose(unclipped.test, mixed, atol=1e-6)
    assert unclipped.model.weights.amplitude == 1


def test_the_choice_for_pseudo_labels_follows_the_evidence_and_both_are_shown():
    train, test, Y = example()
    folds = folded(Y)
    found = stacked(train, test, Y, folds)
    shown = found.scores.pseudo_labels
    assert set(shown) == {"off", "on"} and set(found.members) == {
        "svr_shared",
        "svr_per_target",
        "boosting",
        "boosting_pseudo",
    }
    chosen = "boosting_pseudo" if shown["on"] < shown["off"] else "boosting"
    assert found.model.booster_name == chosen
    assert set(found.model.weights.weights) == {"svr_shared", "svr_per_target", chosen}
    for use, name in (("on", "boosting_pseudo"), ("off", "boosting")):
        alone = stacked(train, test, Y, folds, recipe(svrs=(SVR, OWN), use=use))
        assert alone.model.booster_name == name and alone.scores.pseudo_labels == {}
        unclipped = shown[use]
        assert mean_rowwise_rmse(Y, alone.oof) == pytest.approx(unclipped, rel=0.05)


def test_what_dropping_a_member_costs_is_the_nested_scores_difference():
    train, test, Y = example()
    folds = folded(Y)
    found = stacked(train, test, Y, folds, recipe(svrs=(SVR,)))
    first = fit_member(train, test, Y, folds, SVR, 0, "cpu")
    problem = BoostingProblem(train, test, Y, folds, FirstLevel([first.predictions]), BOOSTING, "cpu")
    boosted = boosted_member(problem, 0)
    judged = np.empty_like(Y)
    for k in range(N_FOLDS):
        judged[folds == k] = first.predictions.nested[(k - 1) % N_FOLDS][folds == k]
    evidence = Evidence(
        Products.of({"svr_shared": first.predictions.oof, "boosting": boosted.oof}, Y),
        Products.of({"svr_shared": judged, "boosting": boosted.judged}, Y),
        folds,
        shrink=True,
    )
    whole = evidence.score(["svr_shared", "boosting"])
    assert found.scores.dropping == pytest.approx(
        {
            "svr_shared": evidence.score(["boosting"]) - whole,
            "boosting": evidence.score(["svr_shared"]) - whole,
        }
    )


def test_a_model_predicts_the_test_rows_alone_and_after_its_state_was_read_back():
    train, test, Y = example()
    found = stacked(train, test, Y, folded(Y))
    np.testing.assert_array_equal(found.model.predict(test), found.test)
    alone = np.vstack([found.model.predict(test.take(np.array([row]))) for row in range(len(test.obs))])
    np.testing.assert_allclose(alone, found.test, atol=1e-5)
    again = StackModel.from_state(WHOLE, Y.shape[1], StateReader(found.model.state(), "model"))
    np.testing.assert_array_equal(again.predict(test), found.test)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"booster": "svr_shared"}, "the weights are not those of the recipe's members"),
        ({"weights": {"members": ["a"], "weights": [1.0], "amplitude": 1.0}}, "the weights are not those"),
        ({"low": np.zeros(3, np.float32)}, r"low must be float32 \(25\)"),
    ],
)
def test_a_damaged_blend_is_refused(changed, says):
    train, test, Y = example()
    which = recipe()
    state = dict(stacked(train, test, Y, folded(Y), which).model.state())
    with pytest.raises(InputError, match=f"model.blend: {says}"):
        StackModel.from_state(which, 25, StateReader(state | {"blend": state["blend"] | changed}, "model"))


def test_every_member_is_a_stage():
    train, test, Y = example(n_genes=6)
    stages = Stages()
    stacked(train, test, Y, folded(Y), stages=stages)
    assert list(stages.seconds) == ["svr_shared", "svr_per_target", "boosting", "boosting_pseudo", "blend"]


def test_the_files_order_changes_nothing():
    train, test, Y = example()
    shuffled = np.random.default_rng(3).permutation(len(Y))
    found = {}
    for name, order in (("as read", np.arange(len(Y))), ("shuffled", shuffled)):
        rows, targets = train.take(order), Y[order]
        canonical = canonical_order(rows.obs)
        folds = random_folds(len(Y), N_FOLDS, seed=0)
        result = stacked(rows.take(canonical), test, targets[canonical], folds)
        oof = result.oof[np.argsort(canonical)][np.argsort(order)]
        found[name] = oof.tobytes(), result.test.tobytes()
    assert found["as read"] == found["shuffled"]
