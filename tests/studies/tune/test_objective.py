"""The objective: the errors of a naive loop of fits, of kernel models, boosters and nets."""

import pickle
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from features.feature_sets import FEATURE_SETS
from features.rows import Rows
from rapids_pipeline.backend.errors import DivergedError
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.backend.store import FOLDER, Store
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import context_folds
from rapids_pipeline.nets.settings import Block, EmbeddingMlp, Mlp, Training
from rapids_pipeline.stack.compact import Compact
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.kernel_model import fit_kernel_model
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.members.svr import SvrMember
from rapids_pipeline.studies.tune.objective import (
    HOPELESS,
    KernelFits,
    MemberFits,
    Objective,
    kept_components,
    mean_loss,
    predictions_below,
    score,
)
from rapids_pipeline.studies.tune.space import ModelSpace
from rapids_pipeline.studies.tune.task import Lot, plan, served_by


def duty_of(task, pairs, member):
    [duty], _ = plan(served_by(member), task.data.obs, task.Y, task.rows, pairs, "auto", 0)
    return duty


def objective_of(task, model, Y=None, limit=2**30):
    duty = duty_of(task, task.pairs if model == "known_compounds" else task.new, task.member)
    assert duty.model == model
    Y = task.Y if Y is None else Y
    return Objective(duty.lots, KernelFits(task.rows, Y, "cpu", "morgan", kept_components(limit)))


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
        np.testing.assert_array_equal(*(one.fits.predicted(model, split) for one in both))
        before, after = (np.nanmean(one.losses(model, Lot("one", ((split,),)))[0]) for one in both)
        assert after > before + 900
    ours, theirs = (one.fits.predicted(model, split) for one in (objective, raised(split.training[0])))
    assert np.abs(ours - theirs).max() > 1e-3, "a training response must move something"


def test_what_is_kept_changes_nothing_and_stays_in_its_bounds(task):
    space, rng = ModelSpace.of(task.member.known_compounds, 60), np.random.default_rng(0)
    models = [space.model_of(space.near(rng)) for _ in range(2)]
    models.append(models[0].model_copy(update={"targets": "genes"}))
    kept, small = objective_of(task, "known_compounds"), objective_of(task, "known_compounds", limit=1)
    for model in [*models, *models]:
        fresh = scores_of(objective_of(task, "known_compounds"), model)
        assert scores_of(kept, model) == fresh == scores_of(small, model)
    assert len(small.fits.kept) == 1 and len(kept.fits.kept) > 10


def test_predictions_that_overflow_are_hopeless_not_lost(task, monkeypatch):
    objective = objective_of(task, "known_compounds")
    first = scores_of(objective, task.member.known_compounds)
    monkeypatch.setattr(
        KernelFits, "predicted", lambda self, m, split: np.full((len(split.held_out), 8), np.inf)
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


def test_fits_travel_without_what_they_have_learnt(task):
    """And find the same errors where they arrive."""
    model, objective = task.member.known_compounds, objective_of(task, "known_compounds")
    expected = scores_of(objective, model)
    assert len(objective.fits.kept) > 0
    arrived = pickle.loads(pickle.dumps(objective.fits))
    assert len(arrived.kept) == 0 and arrived.kept.limit == objective.fits.kept.limit
    assert scores_of(replace(objective, fits=arrived), model) == expected


# --- boosters and nets ------------------------------------------------------------------------------------

SVR = SvrMember(tol=1e-6)
SMALL = {"blocks": (Block(width=8, dropout=0.1),), "embedding": 3}
MEMBERS = {
    "booster": BoosterMember(n_estimators=5, n_components=4, features=FEATURE_SETS["svr_loo"]),
    "booster on svr": BoosterMember(n_estimators=5, n_components=4, stacks_on=("svr_shared",)),
    "net": NetMember(
        architecture=EmbeddingMlp(**SMALL), n_components=4, replicas=2, training=Training(epochs=2)
    ),
    "net on svr": NetMember(
        architecture=Mlp(blocks=SMALL["blocks"]),
        features=FEATURE_SETS["boosting"],
        stacks_on=("svr_shared",),
        n_components=4,
        replicas=2,
        training=Training(epochs=2),
    ),
}


def fits_of(task, member, lots, Y=None, store=None):
    """The fits of a member of the recipe [SVR, member], as the study makes them."""
    whole = TrainingSet(task.train, task.Y if Y is None else Y, None, (), 0, "cpu")
    below = [SVR.with_molecules("morgan")] if member.stacks_on else []
    splits = [split for lot in lots for split in lot.splits]
    stacked = predictions_below(below, whole, splits, 3, Stages(), store=store)
    return MemberFits(whole, "morgan", stacked, side_by_side=True)


@pytest.fixture(params=MEMBERS)
def kind(request):
    if request.param.startswith("net"):
        pytest.importorskip("torch")
    return MEMBERS[request.param]


def naive(task, member, split, Y):
    """What a member predicts of held-out rows by fits to the training rows alone, other rows thrown away."""
    own = task.train.take(split.training), task.train.take(split.held_out)
    n, m = len(split.training), len(split.held_out)
    both = Rows.joined(*own)
    data = TrainingSet(both, Y[split.training], None, (), 0, "cpu")
    tests = np.arange(n, n + m)
    if member.stacks_on:
        folds, oof = context_folds(own[0].obs, 3, 0), np.empty((n, Y.shape[1]), dtype=np.float32)
        below = SVR.with_molecules("morgan").prepare(data)
        for k in range(3):
            oof[folds == k] = below.fit(np.flatnonzero(folds != k)).predict(own[0].take(folds == k))
        of_tests = below.fit(np.arange(n)).predict(own[1])
        data = data.learning_from(([(Compact.of(oof), Compact.of(of_tests))], None))
    fitted = member.with_molecules("morgan").prepare(data).fit(np.arange(n))
    return fitted.predict(data.take(tests))


def test_a_trial_of_a_member_is_its_fit_to_the_training_rows(task, kind):
    lots = duty_of(task, task.pairs, kind).lots
    fits = fits_of(task, kind, lots)
    for split in lots[0].splits[:2]:
        found = fits.shared(split).get().predicted(kind, split)
        rounding = 5e-4 if kind is MEMBERS["net on svr"] else 1e-5  # what the SVRs leave grows in training
        np.testing.assert_allclose(found, naive(task, kind, split, task.Y), rtol=1e-4, atol=rounding)


def test_no_held_out_response_moves_a_prediction_of_a_member(task, kind):
    lots = duty_of(task, task.pairs, kind).lots
    split = lots[0].splits[0]

    def found(rows):
        Y = task.Y.copy()
        Y[rows] += 5
        return fits_of(task, kind, lots, Y).shared(split).get().predicted(kind, split)

    held, others = found(split.held_out), found(split.training[:20])
    np.testing.assert_array_equal(found([]), held)
    assert np.abs(others - held).max() > 1e-3, "training responses must move something"


def test_the_errors_of_a_member_are_those_of_its_predictions_wherever_they_are_made(task, kind):
    duty = duty_of(task, task.pairs, kind)
    fits = fits_of(task, kind, duty.lots)
    objective = Objective(duty.lots, fits)
    lot = duty.lots[0]
    found, missed = objective.losses(kind, lot)
    errors = {}
    for split in lot.splits:
        predicted = fits.shared(split).get().predicted(kind, split)
        for row, values in zip(split.held_out, predicted, strict=True):
            errors.setdefault(row, []).append(mean_rowwise_rmse(task.Y[[row]], values[None]))
    np.testing.assert_allclose(
        found[sorted(errors)], [np.mean(errors[row]) for row in sorted(errors)], rtol=1e-6
    )
    assert missed == 0 and np.isnan(found).sum() == len(task.Y) - len(errors)
    travelled = pickle.loads(pickle.dumps(fits))
    assert travelled.below == {} and travelled.side_by_side, "each split's predictions are sent by themselves"


def test_finished_fits_of_the_members_below_are_kept(task, tmp_path):
    member = MEMBERS["booster on svr"]
    lots = duty_of(task, task.pairs, member).lots
    store = Store(tmp_path, "below")
    first = fits_of(task, member, lots, store=store).below
    fits = sum(len(lot.splits) for lot in lots) * 4
    assert 0 < len(list((tmp_path / FOLDER).iterdir())) <= fits
    with mock.patch.object(SvrMember, "prepare", side_effect=AssertionError("fitted again")):
        again = fits_of(task, member, lots, store=store).below
    for key, ((ours, _),) in first.items():
        np.testing.assert_array_equal(ours, again[key][0][0])


def test_a_net_whose_loss_is_not_finite_is_hopeless_not_the_end(task):
    pytest.importorskip("torch")
    member = MEMBERS["net"]
    duty = duty_of(task, task.pairs, member)
    objective = Objective(duty.lots, fits_of(task, member, duty.lots))
    wild = member.updated(training=member.training.model_copy(update={"learning_rate": 1e25}))
    with pytest.raises(DivergedError, match="the loss is not finite in epoch"):
        wild.prepare(objective.fits.data).fit(np.arange(50))
    assert score(scores_of(objective, wild), scores_of(objective, member)) == HOPELESS
