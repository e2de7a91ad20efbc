"""The study: its first trial is the recipe, it goes on where it stopped, and takes no other study for its own."""

from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest

from rapids_pipeline.backend.devices import Device
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.store import FOLDER
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.member import PseudoLabels
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.members.svr import SvrMember
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies.tune.objective import MemberFits, mean_loss
from rapids_pipeline.studies.tune.results import results_of, tuned_recipe
from rapids_pipeline.studies.tune.study import (
    TimeUpError,
    TuneRequest,
    open_studies,
    search,
    tuned_member,
)

N_TRIALS = 13
"""More than those drawn near the recipe."""


class Interrupts(Progress):
    """Interrupts the search in the middle of a trial."""

    def __init__(self, at_fit):
        self.left = at_fit

    def found(self, course):
        self.left -= course.last is None and not course.begins
        if not self.left:
            raise KeyboardInterrupt


def opened(task, folder, split="random", seed=0, molecules="morgan", device="cpu", recipe=None, member=None):
    """Open the studies of a task as the command does."""
    recipe = recipe or RECIPES["quick"].with_members(task.member)
    config, request = RunConfig(recipe=recipe, molecules=molecules), TuneRequest(split, seed)
    cpu, member = Device(device, "asked for"), tuned_member(recipe, member)
    studies, _ = open_studies(task.data, task.pairs, member, request, config, cpu, folder)
    return studies


def run(studies, progress=None, **limits):
    search(studies, TuneRequest(**limits), progress or Progress())


def rows(studies):
    return [(t.number, t.pruned, t.raw, t.after, t.scores) for s in studies for t in s.trials]


def scores_of(study, model):
    return {name: mean_loss(losses) for name, losses, _ in study.objective.by_lot(model)}


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    studies = opened(task, tmp_path_factory.mktemp("whole"), "auto")
    run(studies, trials=N_TRIALS)
    return studies


def test_the_first_trial_is_the_recipe_and_the_best_is_no_worse(task, whole):
    [study] = whole
    first, best = study.trials[0], study.best
    assert (first.number, first.score) == (1, 0)
    assert best.score == min(trial.score for trial in study.trials if not trial.pruned) <= 0
    assert study.space.model_of(first.raw) == task.member.known_compounds
    for trial in (first, best):
        assert trial.scores == scores_of(study, study.space.model_of(trial.raw))


def test_trials_that_are_stopped_early_have_fewer_scores_and_are_never_the_best(whole):
    [study] = whole
    for trial in study.trials:
        assert (len(trial.scores) == len(study.duty.lots)) == (not trial.pruned)
    assert [trial.number for trial in study.trials] == list(range(1, N_TRIALS + 1))


def test_an_interrupted_study_becomes_the_one_that_was_not(task, whole, tmp_path):
    for fits in (3, 40, 70):
        with pytest.raises(KeyboardInterrupt):
            run(opened(task, tmp_path, "auto"), Interrupts(fits), trials=N_TRIALS)
    [study] = studies = opened(task, tmp_path, "auto")
    assert 0 < len(study.trials) < N_TRIALS
    run(studies, trials=N_TRIALS)
    assert rows(studies) == rows(whole)
    for ours, theirs in zip(study.trials, whole[0].trials, strict=True):
        for lot, losses in theirs.losses.items():
            np.testing.assert_array_equal(ours.losses[lot], losses)
    assert len(list((tmp_path / FOLDER).iterdir())) == N_TRIALS


def test_a_damaged_trial_is_run_again_and_the_later_ones_are_taken_over(task, tmp_path):
    run(opened(task, tmp_path), trials=1)
    [first] = (tmp_path / FOLDER).iterdir()
    whole = opened(task, tmp_path)
    run(whole, trials=3)
    first.write_bytes(first.read_bytes()[:-9])
    [study] = again = opened(task, tmp_path)
    assert study.trials == []
    run(again, trials=3)
    assert rows(again) == rows(whole) and len(list((tmp_path / FOLDER).iterdir())) == 3
    assert [t.seconds for t in study.trials[1:]] == [t.seconds for t in whole[0].trials[1:]], "not run again"


def test_another_seed_draws_other_trials(task, whole, tmp_path):
    studies = opened(task, tmp_path, "random", seed=1)
    run(studies, trials=2)
    assert studies[0].trials[1].raw != whole[0].trials[1].raw


@pytest.mark.parametrize("what", ["data", "molecules", "member", "splits", "seed"])
def test_the_trials_of_something_else_are_not_taken(task, tmp_path, what):
    run(opened(task, tmp_path), trials=1)
    assert [len(study.trials) for study in opened(task, tmp_path)] == [1]
    known = task.member.known_compounds.model_copy(update={"penalty": 3.0})
    changed = {
        "data": {"data": task.data.take(np.arange(len(task.data.obs))[::-1])},
        "member": {"member": task.member.model_copy(update={"known_compounds": known})},
    }
    other = SimpleNamespace(**vars(task) | changed.get(what, {}))
    more = {"molecules": {"molecules": "descriptors"}, "splits": {"split": "cell_type"}, "seed": {"seed": 1}}
    assert [len(study.trials) for study in opened(other, tmp_path, **more.get(what, {}))] == [0]


def test_two_models_share_the_trials_as_the_rows_do(task, tmp_path):
    n_new = len(task.new)
    task = SimpleNamespace(**vars(task) | {"pairs": pd.concat([task.pairs.head(n_new), task.new])})
    studies = opened(task, tmp_path, "auto")
    run(studies, trials=6)
    assert [s.duty.model for s in studies] == ["known_compounds", "new_compounds"]
    assert [len(s.trials) for s in studies] == [3, 3]
    units = np.arange(len(task.Y))
    models, change = results_of(studies, units, 0)
    logs = [np.log1p(model.change.value) for model in models]
    shares = [model.share for model in models]
    assert np.log1p(change.value) == pytest.approx(np.dot(shares, logs))


def test_a_time_limit_breaks_a_trial_off_and_keeps_the_others(task, tmp_path, monkeypatch):
    studies = opened(task, tmp_path)
    now = iter(np.arange(0, 10_000, 0.35))
    monkeypatch.setattr("rapids_pipeline.studies.tune.study.time.monotonic", lambda: next(now))
    run(studies, minutes=0.25)  # 15 s of a clock that is read twice for each of the five fits
    assert 1 < len(studies[0].trials) < 9
    assert len(list((tmp_path / FOLDER).iterdir())) == len(studies[0].trials)


def test_no_time_for_one_trial(task, tmp_path):
    with pytest.raises(InputError, match="no trial of known_compounds finished in this time"):
        run(opened(task, tmp_path), minutes=1e-9)
    with pytest.raises(TimeUpError):
        opened(task, tmp_path)[0].one_more(lambda: (_ for _ in ()).throw(TimeUpError))


@pytest.mark.parametrize(
    "limits", [{"minutes": 0}, {"minutes": -1}, {"minutes": float("nan")}, {"trials": 0}]
)
def test_limits_that_cannot_be(limits):
    [(name, value)] = limits.items()
    with pytest.raises(InputError, match=f"--{name} {value}: must be"):
        TuneRequest(**limits)


def test_the_interval_is_a_bootstrap_of_compounds(task, whole):
    [study] = whole
    compounds = np.unique(task.data.obs["sm_name"].to_numpy(str), return_inverse=True)[1]
    [model], change = results_of(whole, compounds, 0)
    assert change == model.change and change.value == pytest.approx(np.expm1(study.best.score))
    rng, found = np.random.default_rng(1), []
    first, best = task.member.known_compounds, study.space.model_of(study.best.raw)
    losses = [[study.objective.losses(m, lot)[0] for m in (first, best)] for lot in study.duty.lots]
    for _ in range(1000):
        n = compounds.max() + 1
        weights = np.bincount(rng.choice(n, n), minlength=n)[compounds]
        logs = [np.log(np.nansum(weights * b) / np.nansum(weights * a)) for a, b in losses]
        found.append(np.expm1(np.mean(logs)))
    low, high = np.quantile(found, (0.025, 0.975))
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_importances_are_shares_and_wait_for_enough_trials(task, whole, monkeypatch):
    units = np.arange(len(task.Y))
    [model], _ = results_of(whole, units, 0)
    assert {p.importance for p in model.parameters} == {None}
    monkeypatch.setattr("rapids_pipeline.studies.tune.results.ENOUGH_TRIALS", 5)
    [model], _ = results_of(whole, units, 0)
    shares = [p.importance for p in model.parameters]
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0


def test_the_tuned_recipe_has_the_best_model_and_all_else_of_the_recipe(task, whole):
    _, booster = RECIPES["best"].members
    recipe = RECIPES["best"].with_members(task.member, booster)
    tuned = tuned_recipe(recipe, task.member, whole, "here.parquet")
    [study] = whole
    assert tuned.members[0].known_compounds == study.space.model_of(study.best.raw)
    assert tuned.members[0].new_compounds == task.member.new_compounds
    assert (tuned.members[1], tuned.blend) == (booster, recipe.blend)
    assert tuned.name == "tuned"
    assert "known_compounds by 13 trials on scarce and made_scarce" in tuned.description


def test_optuna_keeps_quiet(task, tmp_path, capfd):
    run(opened(task, tmp_path, "made_scarce"), trials=11)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


# --- boosters and nets ------------------------------------------------------------------------------------

BOOSTER = BoosterMember(n_estimators=4, n_components=4, max_depth=2, stacks_on=("svr_shared",))
NET = NetMember(
    architecture={"kind": "embedding_mlp", "embedding": 3, "blocks": [{"width": 8}]},
    n_components=4,
    replicas=2,
    training={"epochs": 2, "batch_size": 64},
    pseudo_labels=PseudoLabels(use="on", teacher=("svr_shared",)),
)
BOTH = RECIPES["quick"].with_members(SvrMember(), BOOSTER, NET)


@pytest.mark.parametrize("name", ["boosting", "embedding_mlp"])
def test_a_member_is_tuned_and_an_interrupted_study_goes_on(task, tmp_path, name):
    if name == "embedding_mlp":
        pytest.importorskip("torch")
    whole = opened(task, tmp_path / "whole", recipe=BOTH, member=name)
    run(whole, trials=5)
    [study] = whole
    assert (study.trials[0].score, study.best.score <= 0) == (0, True)
    assert len({str(trial.raw) for trial in study.trials}) == 5
    with pytest.raises(KeyboardInterrupt):
        run(opened(task, tmp_path / "parts", recipe=BOTH, member=name), Interrupts(9), trials=5)
    again = opened(task, tmp_path / "parts", recipe=BOTH, member=name)
    assert 0 < len(again[0].trials) < 5
    run(again, trials=5)
    assert rows(again) == rows(whole)
    tuned = tuned_recipe(BOTH, tuned_member(BOTH, name), again, "here.parquet")
    changed = {one.name: one for one in tuned.members}
    assert changed.pop(name) == study.space.model_of(study.best.raw)
    assert [one for one in BOTH.members if one.name != name] == list(changed.values())
    assert f"quick with its member {name} tuned: {name} by 5 trials on random" in tuned.description


def test_the_fits_of_a_trial_that_was_broken_off_are_kept(task, tmp_path, monkeypatch):
    [study] = opened(task, tmp_path, recipe=BOTH, member="boosting")
    calls, fits = [], BoosterMember.prepare
    monkeypatch.setattr(BoosterMember, "prepare", lambda self, data: calls.append(1) or fits(self, data))

    def after_two_fits():
        if len(calls) >= 2:
            raise TimeUpError

    with pytest.raises(TimeUpError):
        study.one_more(after_two_fits)
    made = len(calls)
    [study] = opened(task, tmp_path, recipe=BOTH, member="boosting")
    study.one_more()
    splits = sum(len(lot.splits) for lot in study.duty.lots)
    assert 2 <= made and len(calls) <= splits + 1, "at most the one that was broken off is made again"


@pytest.mark.parametrize("what", ["below", "member", "folds"])
def test_the_trials_of_another_member_or_stack_are_not_taken(task, tmp_path, what):
    run(opened(task, tmp_path, recipe=BOTH, member="boosting"), trials=1)
    others = {
        "below": BOTH.with_members(SvrMember(C=2.0), BOOSTER, NET),
        "member": BOTH.with_members(SvrMember(), BOOSTER.updated(reg_lambda=2.0), NET),
        "folds": BOTH.updated(n_folds=4),
    }
    [study] = opened(task, tmp_path, recipe=others[what], member="boosting")
    assert study.trials == []
    [study] = opened(task, tmp_path, recipe=BOTH, member="boosting")
    assert len(study.trials) == 1


def test_which_member_is_tuned():
    assert tuned_member(RECIPES["best"], None).kind == "composite"
    assert tuned_member(BOTH, None).name == "boosting", "boosters come before nets"
    assert tuned_member(BOTH, "embedding_mlp") == NET
    with pytest.raises(InputError, match=r"--member 'svr_shared': .* it has boosting, embedding_mlp"):
        tuned_member(BOTH, "svr_shared")
    with pytest.raises(InputError, match="--recipe quick: has no member to tune"):
        tuned_member(BOTH.with_members(SvrMember()), None)


def test_settings_that_never_work_are_refused_with_the_remedy(task, tmp_path, monkeypatch):
    nothing = np.full(8, np.nan)
    monkeypatch.setattr(MemberFits, "predicted", lambda self, m, split: nothing + split.held_out[:, None])
    with pytest.raises(InputError, match=r"boosting: .* are not finite; lower its learning rate"):
        run(opened(task, tmp_path, recipe=BOTH, member="boosting"), trials=1)
    assert opened(task, tmp_path, recipe=BOTH, member="boosting")[0].trials == []
