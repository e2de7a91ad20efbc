"""The task: the split that is like the pairs, for each model that they need, and the errors of a naive loop of fits."""

import pickle

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.stack.members.kernel_model import fit_kernel_model
from rapids_pipeline.studies.tune.space import ModelSpace
from rapids_pipeline.studies.tune.task import (
    HOPELESS,
    Lot,
    Objective,
    is_known,
    kept_components,
    mean_loss,
    plan,
    score,
)


def planned(task, pairs, split="auto"):
    return plan(task.data.obs, task.Y, task.rows, pairs, split, 0)


def lots_of(task, pairs, split="auto"):
    return {duty.model: [lot.name for lot in duty.lots] for duty in planned(task, pairs, split)[0]}


def test_scarce_pairs_of_known_compounds_leave_new_compounds_alone(task):
    [duty], sentences = planned(task, task.pairs)
    assert (duty.model, [lot.name for lot in duty.lots]) == ("known_compounds", ["scarce", "made_scarce"])
    assert [len(lot.repeats) for lot in duty.lots] == [2, 1]
    assert sentences[0].startswith(
        "known_compounds (for compounds measured in another cell type, all of your pairs)"
    )
    assert sentences[1].endswith("stays as it is: no pair needs it")


def test_pairs_of_both_kinds_tune_both_models_by_their_shares(task):
    pairs = pd.concat([task.pairs, task.new], ignore_index=True)
    assert lots_of(task, pairs) == {
        "known_compounds": ["scarce", "made_scarce"],
        "new_compounds": ["compound"],
    }
    shares = [len(task.pairs) / len(pairs), len(task.new) / len(pairs)]
    assert [duty.share for duty in planned(task, pairs)[0]] == pytest.approx(shares)


def test_each_kind_of_pairs_and_each_split_tunes_the_model_that_it_needs(task):
    unheard = task.pairs.assign(cell_type="unheard of")
    assert lots_of(task, task.new) == {"new_compounds": ["compound"]}
    assert lots_of(task, unheard) == {"known_compounds": ["cell_type"]}
    assert lots_of(task, None) == {"known_compounds": ["random"]}
    assert lots_of(task, task.pairs, "compound") == {"new_compounds": ["compound"]}
    assert lots_of(task, None, "cell_type") == {"known_compounds": ["cell_type"]}


@pytest.mark.parametrize("split", ["auto", "random", "compound", "cell_type", "joint"])
def test_a_model_is_tuned_on_rows_that_it_serves(task, split):
    compounds, cell_types = (task.data.obs[c].to_numpy(str) for c in ("sm_name", "cell_type"))
    for duty in planned(task, task.pairs, split)[0]:
        for part in (part for lot in duty.lots for part in lot.splits):
            assert not np.intersect1d(part.training, part.held_out).size
            for row in part.held_out:
                same = compounds[part.training] == compounds[row]
                served = bool((same & (cell_types[part.training] != cell_types[row])).any())
                assert served == (duty.model == "known_compounds")


def test_whether_a_pair_has_a_profile_is_what_the_fitted_kernel_says(task):
    training, others = task.rows.take(np.arange(0, 60)), task.rows.take(np.arange(60, len(task.rows)))
    kernel = task.member.known_compounds.kernel.learn(training, task.Y[:60].astype(np.float64))
    np.testing.assert_array_equal(is_known(training, others), kernel.is_known(others))


@pytest.mark.parametrize(
    ("split", "words"), [("magic", "choose among"), ("scarce", "needs the pairs to predict")]
)
def test_splits_that_cannot_be_made(task, split, words):
    with pytest.raises(InputError, match=f"--split {split}: {words}"):
        planned(task, None, split)


# --- errors of held-out rows ------------------------------------------------------------------------------


def objective_of(task, model, Y=None, limit=2**30):
    pairs = task.pairs if model == "known_compounds" else task.new
    [duty], _ = planned(task, pairs)
    assert duty.model == model
    return Objective(
        duty.lots, task.rows, task.Y if Y is None else Y, "cpu", "morgan", kept_components(limit)
    )


def scores_of(objective, model):
    return {name: mean_loss(losses) for name, losses, _ in objective.by_lot(model)}


@pytest.mark.parametrize("name", ["known_compounds", "new_compounds"])
def test_it_is_a_naive_loop_of_fits(task, name):
    objective, member = objective_of(task, name), task.member.with_molecules("morgan")
    found = scores_of(objective, getattr(task.member, name))
    for lot in objective.lots:
        errors = {}
        for split in lot.splits:
            training, held_out = task.rows.take(split.training), task.rows.take(split.held_out)
            fitted = fit_kernel_model(getattr(member, name), training, task.Y[split.training], "cpu")
            predicted = fitted.predict(held_out)
            for row, values in zip(split.held_out, predicted, strict=True):
                errors.setdefault(row, []).append(mean_rowwise_rmse(task.Y[[row]], values[None]))
        assert found[lot.name] == pytest.approx(np.mean([np.mean(e) for e in errors.values()]), rel=1e-9)


@pytest.mark.parametrize("name", ["known_compounds", "new_compounds"])
def test_no_held_out_response_moves_a_prediction(task, name):
    model, objective = getattr(task.member, name), objective_of(task, name)

    def raised(rows):
        Y = task.Y.copy()
        Y[rows] += 1000
        return objective_of(task, name, Y)

    for split in (split for lot in objective.lots for split in lot.splits):
        both = objective, raised(split.held_out)
        np.testing.assert_array_equal(*(one.predicted(model, split) for one in both))
        before, after = (np.nanmean(one.losses(model, Lot("one", ((split,),)))[0]) for one in both)
        assert after > before + 900
    ours, theirs = (one.predicted(model, split) for one in (objective, raised(split.training[0])))
    assert np.abs(ours - theirs).max() > 1e-3, "a training response must move something"


def test_what_is_kept_changes_nothing_and_stays_in_its_bounds(task):
    space, rng = ModelSpace.of(task.member.known_compounds, 60), np.random.default_rng(0)
    models = [space.model_of(space.near(rng)) for _ in range(2)]
    models.append(models[0].model_copy(update={"targets": "genes"}))
    kept, small = objective_of(task, "known_compounds"), objective_of(task, "known_compounds", limit=1)
    for model in [*models, *models]:
        fresh = scores_of(objective_of(task, "known_compounds"), model)
        assert scores_of(kept, model) == fresh == scores_of(small, model)
    assert len(small.kept) == 1 and len(kept.kept) > 10


def test_predictions_that_overflow_are_hopeless_not_lost(task, monkeypatch):
    objective = objective_of(task, "known_compounds")
    first = scores_of(objective, task.member.known_compounds)
    monkeypatch.setattr(
        Objective, "predicted", lambda self, m, split: np.full((len(split.held_out), 8), np.inf)
    )
    assert score(scores_of(objective, task.member.known_compounds), first) == HOPELESS


def test_the_score_is_the_mean_of_logarithms_of_ratios():
    first = {"a": 2.0, "b": 1.0}
    assert score(first, first) == 0
    assert score({"a": 1.0, "b": 2.0}, first) == pytest.approx(0)
    assert score({"a": 1.0}, first) == pytest.approx(np.log(0.5))


def test_fits_that_do_not_converge_are_counted(task):
    slow = task.member.known_compounds.updated(engine="douglas-rachford", tol=1e-9, max_iter=2)
    objective = objective_of(task, "known_compounds")
    missed = {name: count for name, _, count in objective.by_lot(slow)}
    assert missed == {lot.name: len(lot.splits) for lot in objective.lots}


def test_an_objective_travels_without_what_it_has_learnt(task):
    """And finds the same errors where it arrives."""
    model, objective = task.member.known_compounds, objective_of(task, "known_compounds")
    expected = scores_of(objective, model)
    assert len(objective.kept) > 0
    arrived = pickle.loads(pickle.dumps(objective))
    assert len(arrived.kept) == 0 and arrived.kept.limit == objective.kept.limit
    assert scores_of(arrived, model) == expected
