"""The study: its first trial is the recipe, it goes on where it stopped, and takes no other study for its own."""

from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.studies.tune.identity import identity_of
from rapids_pipeline.studies.tune.limits import Limits, TimeUpError, Watcher
from rapids_pipeline.studies.tune.objective import KeptComponents, Objective
from rapids_pipeline.studies.tune.results import results_of, tuned_recipe
from rapids_pipeline.studies.tune.space import MachineSpace
from rapids_pipeline.studies.tune.study import open_studies, search
from rapids_pipeline.studies.tune.task import plan

N_TRIALS = 13
"""More than those drawn near the recipe."""


class Interrupts(Watcher):
    """Interrupts the search in the middle of a trial."""

    def __init__(self, at_fit):
        self.left = at_fit

    def fits(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def opened(task, folder, split="random", seed=0, **changed):
    planned = plan(task.data.obs, task.Y, task.rows, task.pairs, split)
    parts = [
        (
            duty,
            MachineSpace.of(getattr(task.member, duty.machine), 60),
            Objective(duty.lots, task.rows, task.Y, "cpu", "morgan", KeptComponents()),
        )
        for duty in planned.duties
    ]
    same = {"data": task.data, "train": task.train, "member": task.member, "duties": planned.duties}
    identity = identity_of(**same | {"molecules": "morgan", "device": "cpu", "seed": seed} | changed)
    return open_studies(folder, parts, identity, seed)


def rows(studies):
    return [(t.state, t.params, t.value, t.user_attrs["scores"]) for s in studies for t in s.trials]


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    studies = opened(task, tmp_path_factory.mktemp("whole"), "auto")
    search(studies, Limits(trials=N_TRIALS), Watcher())
    return studies


def test_the_first_trial_is_the_recipe(task, whole):
    [study] = whole
    first = study.trials[0]
    assert first.value == 0 and study.space.machine_of(first.params) == task.member.known_compounds
    scores = {
        name: value for name, value, _ in study.objective.scores(task.member.known_compounds, lambda: None)
    }
    assert first.user_attrs["scores"] == scores


def test_the_best_trial_is_no_worse_and_is_what_its_machine_scores(whole):
    [study] = whole
    assert study.best.value == min(t.value for t in study.trials if t.state.name == "COMPLETE") <= 0
    machine = study.space.machine_of(study.best.params)
    found = {name: value for name, value, _ in study.objective.scores(machine, lambda: None)}
    assert found == study.best.user_attrs["scores"]


def test_trials_that_are_stopped_early_have_fewer_scores_and_are_never_the_best(whole):
    [study] = whole
    for trial in study.trials:
        assert (len(trial.user_attrs["scores"]) == len(study.duty.lots)) == (trial.state.name == "COMPLETE")
    assert len(study.trials) == N_TRIALS


def test_an_interrupted_study_becomes_the_one_that_was_not(task, whole, tmp_path):
    for fits in (3, 40, 70):
        with pytest.raises(KeyboardInterrupt):
            search(opened(task, tmp_path, "auto"), Limits(trials=N_TRIALS), Interrupts(fits))
    [study] = studies = opened(task, tmp_path, "auto")
    assert 0 < len(study.trials) < N_TRIALS
    search(studies, Limits(trials=N_TRIALS), Watcher())
    assert rows(studies) == rows(whole)
    states = {trial.state.name for trial in study.kept.get_trials()}
    assert states <= {"COMPLETE", "PRUNED"} and len(study.kept.get_trials()) == N_TRIALS


def test_another_seed_draws_other_trials(task, whole, tmp_path):
    studies = opened(task, tmp_path, "random", seed=1)
    search(studies, Limits(trials=2), Watcher())
    assert studies[0].trials[1].params != whole[0].trials[1].params


@pytest.mark.parametrize("what", ["data", "molecules", "member", "splits", "space"])
def test_the_study_of_something_else_is_refused(task, tmp_path, what):
    search(opened(task, tmp_path), Limits(trials=1), Watcher())
    search(opened(task, tmp_path), Limits(trials=1), Watcher())
    changed = {
        "data": {"data": task.data.take(np.arange(len(task.data.obs))[::-1])},
        "molecules": {"molecules": "descriptors"},
        "member": {"member": task.member.model_copy(update={"name": "another"})},
    }
    with pytest.raises(
        InputError, match=r"study.db: the study of a tuning with other .*choose another --out"
    ):
        if what == "splits":
            opened(task, tmp_path, "cell_type")
        elif what == "space":
            other = MachineSpace.of(task.member.known_compounds, 7)
            [study] = opened(task, tmp_path)
            open_studies(tmp_path, [(study.duty, other, study.objective)], dict(study.kept.user_attrs), 0)
        else:
            opened(task, tmp_path, **changed[what])


def test_a_file_that_is_no_study_is_refused(task, tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match=r"study.db: is no study of this Optuna .*choose another --out"):
        opened(task, tmp_path)


def test_two_machines_share_the_trials_as_the_rows_do(task, tmp_path):
    n_new = len(task.new)
    task = SimpleNamespace(**vars(task) | {"pairs": pd.concat([task.pairs.head(n_new), task.new])})
    studies = opened(task, tmp_path, "auto")
    search(studies, Limits(trials=6), Watcher())
    assert [s.duty.machine for s in studies] == ["known_compounds", "new_compounds"]
    assert [len(s.trials) for s in studies] == [3, 3]
    units = np.arange(len(task.Y))
    machines, change = results_of(studies, units, 0)
    logs = [np.log1p(machine.change.value) for machine in machines]
    shares = [machine.share for machine in machines]
    assert np.log1p(change.value) == pytest.approx(np.dot(shares, logs))


def test_a_time_limit_breaks_a_trial_off_and_keeps_the_others(task, tmp_path, monkeypatch):
    now = iter(np.arange(0, 10_000, 0.7))
    monkeypatch.setattr("rapids_pipeline.studies.tune.study.time.monotonic", lambda: next(now))
    studies = opened(task, tmp_path)
    search(
        studies, Limits(minutes=0.25), Watcher()
    )  # 15 s of a clock that is read before each of the five fits
    assert len(studies[0].trials) == 4
    assert len(studies[0].kept.get_trials()) == 4 and len(studies[0].study.get_trials()) == 5


def test_no_time_for_one_trial(task, tmp_path):
    with pytest.raises(
        InputError, match="--minutes 1e-09: no trial of known_compounds finished in this time"
    ):
        search(opened(task, tmp_path), Limits(minutes=1e-9), Watcher())
    with pytest.raises(TimeUpError):
        opened(task, tmp_path)[0].one_more(lambda: (_ for _ in ()).throw(TimeUpError))


@pytest.mark.parametrize(
    "limits", [{"minutes": 0}, {"minutes": -1}, {"minutes": float("nan")}, {"trials": 0}]
)
def test_limits_that_cannot_be(limits):
    [(name, value)] = limits.items()
    with pytest.raises(InputError, match=f"--{name} {value}: must be"):
        Limits(**limits)


def test_the_interval_is_a_bootstrap_of_compounds(task, whole):
    [study] = whole
    compounds = np.unique(task.data.obs["sm_name"].to_numpy(str), return_inverse=True)[1]
    [machine], change = results_of(whole, compounds, 0)
    assert change == machine.change and change.value == pytest.approx(np.expm1(study.best.value))
    rng, found = np.random.default_rng(1), []
    first, best = task.member.known_compounds, study.space.machine_of(study.best.params)
    losses = [[study.objective.losses(m, lot) for m in (first, best)] for lot in study.duty.lots]
    for _ in range(1000):
        drawn = np.bincount(
            rng.choice(compounds.max() + 1, compounds.max() + 1), minlength=compounds.max() + 1
        )
        weights = drawn[compounds]
        logs = [np.log(np.nansum(weights * b) / np.nansum(weights * a)) for a, b in losses]
        found.append(np.expm1(np.mean(logs)))
    low, high = np.quantile(found, (0.025, 0.975))
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_importances_are_shares_and_wait_for_enough_trials(task, whole, monkeypatch):
    units = np.arange(len(task.Y))
    [machine], _ = results_of(whole, units, 0)
    assert {p.importance for p in machine.parameters} == {None}
    monkeypatch.setattr("rapids_pipeline.studies.tune.results.ENOUGH_TRIALS", 5)
    [machine], _ = results_of(whole, units, 0)
    shares = [p.importance for p in machine.parameters]
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0


def test_the_tuned_recipe_has_the_best_machine_and_all_else_of_the_recipe(task, whole):
    from rapids_pipeline.stack.named_recipes import RECIPES

    svr, _, booster = RECIPES["best"].members
    recipe = RECIPES["best"].with_members(svr, task.member, booster)
    tuned = tuned_recipe(recipe, whole, "here.parquet")
    [study] = whole
    assert tuned.members[1].known_compounds == study.space.machine_of(study.best.params)
    assert tuned.members[1].new_compounds == task.member.new_compounds
    assert (tuned.members[0], tuned.members[2], tuned.blend) == (svr, booster, recipe.blend)
    assert (
        tuned.name == "tuned"
        and "known_compounds by 13 trials on scarce and made_scarce" in tuned.description
    )


def test_optuna_keeps_quiet(task, tmp_path, capfd):
    search(opened(task, tmp_path, "made_scarce"), Limits(trials=11), Watcher())
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
