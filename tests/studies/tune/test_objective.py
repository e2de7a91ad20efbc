"""The objective: a naive loop of fits, which no held-out response reaches."""

import numpy as np
import pytest

from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.stack.members.composite import fit_kernel_model
from rapids_pipeline.studies.tune.objective import HOPELESS, KeptComponents, Objective, mean_loss, score
from rapids_pipeline.studies.tune.space import ModelSpace
from rapids_pipeline.studies.tune.task import Lot, plan


def objective_of(task, model, Y=None, limit=2**30):
    pairs = task.pairs if model == "known_compounds" else task.new
    [duty] = plan(task.data.obs, task.Y, task.rows, pairs).duties
    assert duty.model == model
    return Objective(duty.lots, task.rows, task.Y if Y is None else Y, "cpu", "morgan", KeptComponents(limit))


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
    for lot in objective.lots:
        for split in lot.splits:
            Y = task.Y.copy()
            Y[split.held_out] += 1000
            moved = objective_of(task, name, Y)
            ours, theirs = (o.predicted(model, split) for o in (objective, moved))
            np.testing.assert_array_equal(ours, theirs)
            one = Lot("one", ((split,),))
            before, after = (np.nanmean(o.losses(model, one)) for o in (objective, moved))
            assert after > before + 900


def test_a_training_response_moves_predictions(task):
    objective = objective_of(task, "known_compounds")
    split = objective.lots[0].splits[0]
    Y = task.Y.copy()
    Y[split.training[0]] += 1000
    moved = objective_of(task, "known_compounds", Y)
    ours, theirs = (o.predicted(task.member.known_compounds, split) for o in (objective, moved))
    assert np.abs(ours - theirs).max() > 1e-3, "or the test above would show nothing"


def test_what_is_kept_changes_nothing_and_stays_in_its_bounds(task):
    space, rng = ModelSpace.of(task.member.known_compounds, 60), np.random.default_rng(0)
    models = [space.model_of(space.near(rng)) for _ in range(2)]
    models.append(models[0].model_copy(update={"targets": "genes"}))
    kept, small = objective_of(task, "known_compounds"), objective_of(task, "known_compounds", limit=1)
    for model in [*models, *models]:
        fresh = scores_of(objective_of(task, "known_compounds"), model)
        assert scores_of(kept, model) == fresh == scores_of(small, model)
    assert len(small.kept._kept) == 1 and len(kept.kept._kept) > 10


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
    slow = task.member.known_compounds.model_copy(
        update={"engine": "douglas-rachford", "tol": 1e-9, "max_iter": 2}
    )
    objective = objective_of(task, "known_compounds")
    missed = {name: count for name, _, count in objective.by_lot(slow)}
    assert missed == {lot.name: len(lot.splits) for lot in objective.lots}
