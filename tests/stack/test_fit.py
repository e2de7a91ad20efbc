"""The whole stack: independent of the files' order, choosing by evidence, and saved, whatever its members."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.blend import Evidence, Products
from rapids_pipeline.stack.compact import Compact
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.recipe import BlendConfig
from rapids_pipeline.stack.saved import StackModel
from tests.leaks.test_stack import RECIPES
from tests.stack_example import (
    BOOSTER,
    COMPOSITE,
    N_FOLDS,
    OWN,
    SVR,
    assert_alone_as_among_others,
    booster,
    example,
    fitted,
    folded,
    recipe,
)


def with_labels(use):
    """Both SVRs, and a booster on them with or without pseudo-labels."""
    return recipe(SVR, OWN, booster("svr_shared", "svr_per_target", pseudo_labels={"use": use}))


WHOLE = with_labels("auto")


def stacked(train, test, Y, folds, which=WHOLE, seed=0, **options):
    return fit_stack(train, test, Y, folds, which, seed, "cpu", **options)


def test_the_blend_is_the_clipped_weighted_sum_of_choices_made_without_the_fold():
    train, test, Y = example()
    folds = folded(Y)
    found = stacked(train, test, Y, folds)
    weights = found.model.weights
    expected = weights.amplitude * sum(w * found.test_members[name][:] for name, w in weights.weights.items())
    np.testing.assert_allclose(found.test, np.clip(expected, Y.min(axis=0), Y.max(axis=0)), atol=1e-5)
    for k in range(N_FOLDS):
        inside = Y[folds != k]
        assert np.all(found.oof[folds == k] >= inside.min(axis=0))
        assert np.all(found.oof[folds == k] <= inside.max(axis=0))
    unclipped = stacked(
        train, test, Y, folds, recipe(SVR, BOOSTER, blend=BlendConfig(clip=False, shrink=False))
    )
    mixed = unclipped.model.weights.mix(unclipped.test_members)
    np.testing.assert_allclose(unclipped.test, mixed, atol=1e-6)
    assert unclipped.model.weights.amplitude == 1


def test_the_choice_for_pseudo_labels_follows_the_evidence_and_both_are_shown():
    train, test, Y = example()
    folds = folded(Y)
    found = stacked(train, test, Y, folds)
    shown = found.pseudo_labels
    assert set(shown) == {"off", "on"} and set(found.members) == {
        "svr_shared",
        "svr_per_target",
        "boosting",
        "boosting_pseudo",
    }
    chosen = "boosting_pseudo" if shown["on"] < shown["off"] else "boosting"
    assert set(found.model.weights.weights) == {"svr_shared", "svr_per_target", chosen}
    for use, name in (("on", "boosting_pseudo"), ("off", "boosting")):
        alone = stacked(train, test, Y, folds, with_labels(use))
        assert name in alone.model.weights.weights and alone.pseudo_labels == {}
        unclipped = shown[use]
        assert mean_rowwise_rmse(Y, alone.oof) == pytest.approx(unclipped, rel=0.05)


def test_what_dropping_a_member_costs_is_the_nested_scores_difference():
    train, test, Y = example()
    folds = folded(Y)
    found = stacked(train, test, Y, folds, recipe(SVR, BOOSTER))
    first = fitted(SVR, train, test, Y, folds)
    second = fitted(BOOSTER, train, test, Y, folds)
    evidence = Evidence(
        Products.of({"svr_shared": first.oof, "boosting": second.oof}, Y),
        Products.of({"svr_shared": first.judged, "boosting": second.judged}, Y),
        folds,
        shrink=True,
    )
    whole = evidence.score(["svr_shared", "boosting"])
    assert found.dropping == pytest.approx(
        {
            "svr_shared": evidence.score(["boosting"]) - whole,
            "boosting": evidence.score(["svr_shared"]) - whole,
        }
    )


def test_of_several_members_every_choice_is_shown_and_the_best_combination_taken():
    train, test, Y = example()
    auto = {"use": "auto"}
    which = recipe(
        SVR,
        COMPOSITE.model_copy(update={"pseudo_labels": SVR.pseudo_labels.model_copy(update=auto)}),
        booster("svr_shared", pseudo_labels=auto),
    )
    found = stacked(train, test, Y, folded(Y), which)
    shown = found.pseudo_labels
    assert set(shown) == {"composite", "boosting"}
    for name, scores in shown.items():
        chosen = "on" if f"{name}_pseudo" in found.model.weights.weights else "off"
        assert (name in found.model.weights.weights) == (chosen == "off")
        assert scores[chosen] == min(scores.values()), "the combination is no better with the other form"
    assert list(found.members) == [
        "svr_shared",
        "composite",
        "boosting",
        "composite_pseudo",
        "boosting_pseudo",
    ]


def test_a_teacher_that_is_named_labels_alone():
    train, test, Y = example()
    found = {}
    for name, teacher in (("all", ()), ("one", ("svr_shared",)), ("both", ("boosting", "svr_shared"))):
        labels = {"use": "on", "teacher": teacher}
        which = recipe(SVR, booster("svr_shared", pseudo_labels=labels))
        found[name] = stacked(train, test, Y, folded(Y), which)
    one, both, every = (found[name].test_members["boosting_pseudo"][:] for name in ("one", "both", "all"))
    assert every.tobytes() == both.tobytes() and np.abs(every - one).max() > 1e-3
    assert list(found["one"].members) == ["svr_shared", "boosting_pseudo"], (
        "a plain form nobody needs is not fitted"
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_predicts_the_test_rows_alone_and_after_its_state_was_read_back(name):
    train, test, Y = example()
    which = RECIPES[name]
    found = stacked(train, test, Y, folded(Y), which)
    np.testing.assert_array_equal(found.model.predict(test), found.test)
    assert_alone_as_among_others(found.model.predict, test)
    again = StackModel.from_state(which, Y.shape[1], StateReader(found.model.state(), "model"))
    np.testing.assert_array_equal(again.predict(test), found.test)
    assert len(found.model.weights.weights) == len(which.members)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"models": ["svr_shared", "magic"]}, "the models are not those of the recipe's members"),
        ({"models": ["boosting"]}, "a model that another reads is missing"),
        ({"weights": {"members": ["a"], "weights": [1.0], "amplitude": 1.0}}, "the weights are not those"),
        ({"low": np.zeros(3, np.float32)}, r"low must be float32 \(25\)"),
    ],
)
def test_a_damaged_blend_is_refused(changed, says):
    train, test, Y = example()
    which = recipe()
    state = dict(stacked(train, test, Y, folded(Y), which).model.state())
    if changed.get("models") == ["boosting"]:
        state["member_0"] = state["member_1"]
    with pytest.raises(InputError, match=rf"model\..*{says}"):
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


def test_no_product_of_a_stack_takes_more_than_one_thread(monkeypatch):
    """So no bit depends on the number of threads: neither in a unit nor where its scores are led back to targets."""
    seen, real = [], Compact.__getitem__

    def threads():
        return max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")

    def made(self, rows):
        seen.append(threads())
        return real(self, rows)

    monkeypatch.setattr(Compact, "__getitem__", made)
    train, test, Y = example()
    with threadpool_limits(2, "blas"):
        if threads() < 2:
            pytest.skip("the BLAS library has one thread here, whatever it is told")
        stacked(train, test, Y, folded(Y), recipe(SVR, COMPOSITE, BOOSTER))
        assert threads() == 2, "the caller's number is left as it was"
    assert seen and set(seen) == {1}
