"""What a blend is tuned for: its judges against the metrics themselves, its choices against a search by hand."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest

from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.perturbation_metrics import score_perturbations
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack import fit, objective
from rapids_pipeline.stack.contrast import Choice, Contrast, Effects
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.objective import (
    HeldOut,
    best_choice,
    contrast_of,
    frontier,
    judges_of,
    mean_of,
    splits_like,
    tuned,
)
from rapids_pipeline.stack.recipe import BlendConfig
from tests.stack_example import SVR, assert_alone_as_among_others, example, folded, recipe

CHOICES = [Choice(), Choice(1.4, 0.3, 0.15, 0.25), Choice(3.0, 1.0, 0.45, 0.5), Choice(0.5)]


@pytest.fixture(scope="module", autouse=True)
def _few_choices():
    """A coarse grid: the loops over it are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "AMPLITUDES", (0.5, 1.0, 1.4, 3.0))
        patch.setattr(objective, "WEIGHTS", (0.0, 0.3, 1.0))
        patch.setattr(objective, "EVENNESS", (0.0, 0.3))
        yield


def every_choice():
    """All choices of the grid."""
    grid = objective.AMPLITUDES, objective.WEIGHTS, objective.EVENNESS, objective.GAINS
    return [Choice(*one) for one in product(*grid)]


def held_out(seed=0):
    """Three splits of the example, each with a shrunken and noisy prediction of its held-out rows."""
    train, _, Y = example()
    folds, genes, rng = (
        random_folds(len(Y), 3, seed),
        tuple("g" * k for k in range(1, 26)),
        np.random.default_rng(4),
    )
    found = []
    for k in range(3):
        inside, outside = (np.flatnonzero(which) for which in (folds != k, folds == k))
        data = [
            PerturbationData(train.obs.iloc[rows].reset_index(drop=True), Y[rows], genes)
            for rows in (inside, outside)
        ]
        noise = rng.normal(size=(len(outside), 25))
        found.append(HeldOut(*data, (0.4 * Y[outside] + 0.3 * noise).astype(np.float32)))
    return found


@pytest.fixture(scope="module")
def splits():
    return held_out()


@pytest.fixture(scope="module")
def judges(splits):
    return judges_of(splits)


def scored(splits, predict):
    """MRRMSE, cosine and l2 of all held-out rows by the metrics of `evaluate`, within a cell type of a split."""
    truth = np.concatenate([one.held_out.Y for one in splits])
    labels = [f"{k} {cell}" for k, one in enumerate(splits) for cell in one.held_out.obs["cell_type"]]
    predicted = np.concatenate([predict(one) for one in splits])
    found = score_perturbations(truth, predicted, groups=labels)
    scores = found["discrimination_cosine"], found["discrimination_l2"]
    return np.array([mean_rowwise_rmse(truth, predicted), *scores])


@pytest.mark.parametrize("choice", CHOICES)
def test_judges_score_as_the_metrics_score_what_is_predicted(splits, judges, choice):
    def predict(one):
        effects = Effects.of(one.training.obs, one.training.Y)
        contrast = Contrast(choice, effects, judges.scales[choice.gain], judges.radius(choice))
        return contrast.apply(one.predicted, one.held_out.obs)

    np.testing.assert_allclose(judges.scores(choice), scored(splits, predict), atol=1e-5)


def test_baselines_are_those_of_the_splits_training_rows(splits, judges):
    for name, baseline in BASELINES.items():
        expected = scored(splits, lambda one, made=baseline: made(one.training, one.held_out.obs))
        np.testing.assert_allclose(mean_of(judges.baselines[name]), expected, atol=1e-6, err_msg=name)


def test_balanced_is_the_least_error_among_those_that_discriminate_as_the_best_baseline(judges):
    found = tuned("balanced", judges)
    every = every_choice()
    scores = {one: judges.scores(one) for one in every}
    target = found.baselines[found.best_baseline]
    assert target.discrimination == min(one.discrimination for one in found.baselines.values())
    good = [one for one in scores.values() if one.cosine <= target.cosine and one.l2 <= target.l2]
    assert found.reached == bool(good)
    if good:
        assert found.chosen.mrrmse == min(one.mrrmse for one in good)
    assert found.plain == judges.scores(Choice()) and found.n_rows == 48 and found.n_splits == 3


def test_discrimination_is_within_a_standard_error_of_the_least_and_costs_error(judges):
    found, balanced = tuned("discrimination", judges), tuned("balanced", judges)
    least = min(one.discrimination for one in found.curves["chosen from"].values())
    assert least <= found.chosen.discrimination <= least + 0.05
    assert found.chosen.discrimination <= balanced.chosen.discrimination
    assert "MRRMSE" in found.sentence() and found.document()["name"] == "discrimination"


def test_the_nested_scores_of_a_split_are_by_the_choice_of_the_others(judges):
    found = tuned("balanced", judges)
    every = every_choice()
    rows = {one: judges.rows(one) for one in every}
    total = np.zeros(3)
    for split in range(3):
        choice = best_choice("balanced", rows, judges.baselines, judges.split != split)
        total += rows[choice][:, judges.split == split].sum(axis=1)
    np.testing.assert_allclose(found.nested, total / 48)


def test_nothing_that_is_judged_saw_the_rows_that_judge():
    """With other responses of a split's held-out rows, only products with these move."""
    plain, changed = held_out(), held_out()
    last = changed[-1]
    moved = replace(last, held_out=replace(last.held_out, Y=last.held_out.Y + 1000))
    one, other = judges_of(plain), judges_of([*changed[:-1], moved])
    for before, after in zip(one.groups, other.groups, strict=True):
        for pair, values in before.with_others.items():
            np.testing.assert_array_equal(after.with_others[pair], values)
        assert (before.split == 2) == (np.abs(before.truth - after.truth).max() > 1)


def test_balanced_warns_where_nothing_is_as_good_as_it_promises(judges):
    """By baselines that discriminate better than is possible."""
    best = {name: rows - np.array([[0], [9], [9]]) for name, rows in judges.baselines.items()}
    hopeless = replace(judges)
    hopeless.__dict__["baselines"] = best
    found = tuned("balanced", hopeless)
    assert not found.reached and found.sentence().endswith(found.warning)
    errors = f"MRRMSE {found.chosen.mrrmse:.4f}, and {found.plain.mrrmse:.4f} without it"
    assert f"was taken whatever its error: {errors}" in found.warning
    assert found.document()["warning"] == found.warning
    for quiet in (tuned("discrimination", hopeless), tuned("discrimination", judges)):
        assert quiet.warning == "" and "warning" not in quiet.document()


@pytest.mark.parametrize("n", [6, 7, 8])
def test_too_few_rows_for_an_objective_are_refused_before_anything_is_fitted(n, monkeypatch):
    train, test, Y = example()
    train, test = (replace(rows, obs=rows.obs.assign(SMILES="")) for rows in (train, test))
    monkeypatch.setattr(fit, "fit_member", None)
    asked = recipe(SVR, blend=BlendConfig(objective="balanced"))
    few = train.take(np.arange(n)), test, Y[:n], np.arange(n) % 3, asked, 0, "cpu"
    with pytest.raises(InputError) as refused:
        fit_stack(*few)
    assert str(refused.value).startswith("--objective balanced: ")
    assert f"{n} rows are too few" in str(refused.value) and "give --objective mrrmse" in str(refused.value)


def test_the_curve_has_what_nothing_beats(judges):
    scores = {one: judges.scores(one) for one in CHOICES}
    found = frontier(scores)
    for choice, one in scores.items():
        beaten = any(
            other.mrrmse <= one.mrrmse and other.discrimination <= one.discrimination and other != one
            for other in scores.values()
        )
        assert (choice in found) != beaten


def pairs_of(*pairs):
    return pd.DataFrame(pairs, columns=["cell_type", "sm_name"]).assign(SMILES="")


def test_splits_are_like_the_pairs_asked_for():
    obs = pairs_of(*((f"cell {c}", f"drug {s}") for c in range(6) for s in range(20 if c < 4 else 4)))
    name, splits = splits_like(
        obs, pairs_of(*((f"cell {c}", f"drug {s}") for c in (4, 5) for s in range(4, 20))), 0
    )
    assert name == "made_scarce" and len(splits) == 4
    assert {split.name for split in splits} == {f"cell {c}" for c in range(4)}
    assert splits_like(obs, obs.iloc[:0], 0)[0] == "random"
    name, splits = splits_like(obs, pairs_of(*((f"cell {c}", "another") for c in range(3))), 0)
    assert name == "compound" and len(splits) == 5
    name, splits = splits_like(obs, pairs_of(*(("another", f"drug {s}") for s in range(9))), 0)
    assert name == "cell_type" and len(splits) == 5, "of six"


@pytest.fixture(scope="module")
def stacks():
    train, test, Y = example()
    train, test = (replace(rows, obs=rows.obs.assign(SMILES="")) for rows in (train, test))
    fitted = partial(fit_stack, train, test, Y, folded(Y))
    found = {
        name: fitted(recipe(blend=BlendConfig(objective=name)), 0, "cpu")
        for name in ("mrrmse", "balanced", "discrimination")
    }
    return found, test


def test_mrrmse_is_the_blend_and_the_others_have_its_out_of_fold_predictions(stacks):
    found, test = stacks
    plain = found["mrrmse"]
    assert plain.tuned is None and plain.model.contrast is None and "contrast" not in plain.model.state()
    for name in ("balanced", "discrimination"):
        stack = found[name]
        np.testing.assert_array_equal(stack.oof, plain.oof)
        without = replace(stack.model, contrast=None).blend(stack.test_members, test)
        np.testing.assert_array_equal(without, plain.test)
        assert np.abs(stack.test - plain.test).max() > 1e-3 and stack.tuned is not None
        expected = contrast_of(stack.tuned.choice, stack.tuned.judges, stack.model.contrast.effects)
        assert stack.model.contrast.radius == expected.radius


@pytest.mark.parametrize("name", ["balanced", "discrimination"])
def test_a_row_alone_is_predicted_as_in_a_batch(stacks, name):
    found, test = stacks
    np.testing.assert_allclose(found[name].model.predict(test), found[name].test, atol=1e-4)
    assert_alone_as_among_others(found[name].model.predict, Rows(test.obs, test.molecules))


def test_responses_with_untested_genes_are_judged_as_imputed():
    train, test, Y = example()
    train, test = (replace(rows, obs=rows.obs.assign(SMILES="")) for rows in (train, test))
    gaps = np.random.default_rng(0).random(Y.shape) < 0.2
    asked = recipe(SVR, blend=BlendConfig(objective="balanced"))
    found = fit_stack(train, test, np.where(gaps, np.float32(np.nan), Y), folded(Y), asked, 0, "cpu")
    assert np.isfinite(found.test).all() and np.isfinite([*found.tuned.nested, *found.tuned.chosen]).all()


def test_the_usual_objective_is_left_out_of_what_is_written():
    assert "objective" not in BlendConfig().model_dump() and BlendConfig.model_validate({}) == BlendConfig()
    assert BlendConfig(objective="balanced").model_dump(mode="json")["objective"] == "balanced"
