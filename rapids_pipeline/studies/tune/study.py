"""The search: one Optuna study a machine, in one SQLite file, that goes on where it stopped.

    DIR/study.db

Trial 0 is the recipe's machine, the next ones are drawn near it; after `NEAR_TRIALS`, trial k is drawn by a
multivariate tree-structured Parzen estimator from the k trials before it. The seed of a trial is made of the request's
seed, the machine and k, and finished trials alone are kept: so a study that was interrupted and continued is the study
that was not. Where there are two lots, a trial among the worst quarter after the first is stopped there.
Sources: Bergstra et al., NeurIPS 24 (2011); Akiba et al., KDD (2019).
"""

import sqlite3
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.studies.tune.limits import Limits, TimeUpError, Watcher
from rapids_pipeline.studies.tune.objective import Objective, score
from rapids_pipeline.studies.tune.space import Grid, MachineSpace, Parameter, Range
from rapids_pipeline.studies.tune.task import MACHINES, Duty

FILE = "study.db"
NEAR_TRIALS = 10
"""Trials before the estimator takes over, the recipe's own among them."""
GOES_ON = 0.75
"""Share of the finished trials, stopped ones among them, that a trial must not be worse than after a lot to go on."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class MachineStudy:
    """The study of one machine: searched in memory, and kept on disk trial by trial, each whole.

    Parameters
    ----------
    study : optuna.Study
        Of this machine, on disk.
    duty : Duty
    space : MachineSpace
    objective : Objective
    seed : int
    """

    def __init__(
        self, study: optuna.Study, duty: Duty, space: MachineSpace, objective: Objective, seed: int
    ) -> None:
        self.kept, self.duty, self.space, self.objective = study, duty, space, objective
        self._seed = seed
        self._distributions = {one.name: _distribution(one) for one in space.parameters}
        self.study = optuna.create_study()
        self.study.add_trials(study.get_trials(deepcopy=False, states=FINISHED))

    @property
    def trials(self) -> list[FrozenTrial]:
        """The finished trials in order; the first is the recipe's machine."""
        return self.study.get_trials(deepcopy=False, states=FINISHED)

    @property
    def best(self) -> FrozenTrial:
        """The trial of the lowest score, the first of equal ones."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return min(complete, key=lambda trial: (_value(trial), trial.number))

    def one_more(self, checkpoint: Callable[[], None]) -> FrozenTrial:
        """Run a trial and keep it; what `checkpoint` raises breaks it off."""
        trial = self._next(checkpoint) if self.trials else self._first(checkpoint)
        self.kept.add_trial(trial)
        return trial

    def _next(self, checkpoint: Callable[[], None]) -> FrozenTrial:
        """Run a trial that the sampler draws."""
        done = self.trials
        seed = self._seed_of(len(done))
        if len(done) < NEAR_TRIALS:
            self.study.enqueue_trial(self.space.near(np.random.default_rng(seed)))
        self.study.sampler = _sampler(seed)
        trial, began = self.study.ask(self._distributions), time.perf_counter()
        try:
            scores, missed, state = self._run(trial, done, checkpoint)
            for name, value in _attributes(scores, missed, began).items():
                trial.set_user_attr(name, value)
            value = score(scores, done[0].user_attrs["scores"]) if state == TrialState.COMPLETE else None
            return self.study.tell(trial, value, state)
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise

    def _first(self, checkpoint: Callable[[], None]) -> FrozenTrial:
        """Run the recipe's machine; it joins the study when it is finished."""
        began = time.perf_counter()
        found = list(self.objective.scores(self.space.machine, checkpoint))
        scores = {name: value for name, value, _ in found}
        self.study.add_trial(
            create_trial(
                params=self.space.start,
                distributions=self._distributions,
                value=0.0,
                intermediate_values=dict.fromkeys(range(len(found)), 0.0),
                user_attrs=_attributes(scores, sum(missed for *_, missed in found), began),
            )
        )
        return self.trials[0]

    def _run(
        self, trial: optuna.Trial, done: Sequence[FrozenTrial], checkpoint: Callable[[], None]
    ) -> tuple[dict[str, float], int, TrialState]:
        """Return the scores of a trial, the fits that did not converge, and whether it was stopped early."""
        machine, first = self.space.machine_of(trial.params), done[0]
        scores: dict[str, float] = {}
        total = 0
        for step, (name, value, missed) in enumerate(self.objective.scores(machine, checkpoint)):
            scores[name] = value
            total += missed
            so_far = score(scores, first.user_attrs["scores"])
            trial.report(so_far, step)
            if len(scores) < len(self.duty.lots) and _is_hopeless(so_far, step, done):
                return scores, total, TrialState.PRUNED
        return scores, total, TrialState.COMPLETE

    def _seed_of(self, number: int) -> int:
        seeds = np.random.SeedSequence([self._seed, MACHINES.index(self.duty.machine), number])
        return int(seeds.generate_state(1)[0])


def open_studies(
    folder: Path,
    parts: Sequence[tuple[Duty, MachineSpace, Objective]],
    identity: Mapping[str, str],
    seed: int,
) -> list[MachineStudy]:
    """Open the studies of a folder, or begin them.

    Parameters
    ----------
    folder : Path
    parts : sequence of (Duty, MachineSpace, Objective)
    identity : mapping of str to str
        All that determines the trials, by what it is ("data", "recipe", …).
    seed : int

    Raises
    ------
    InputError
        The folder holds the study of something else, or a file that is no study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    path = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
        studies = []
        for duty, space, objective in parts:
            study = optuna.create_study(storage=storage, study_name=duty.machine, load_if_exists=True)
            _require_same(path, study, {**identity, "space": repr(space.parameters)})
            studies.append(MachineStudy(study, duty, space, objective, seed))
    except (SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{path}: is no study of this Optuna ({first}); choose another --out") from error
    return studies


def search(studies: Sequence[MachineStudy], limits: Limits, watcher: Watcher) -> None:
    """Run trials until a limit is reached, of the machine that is furthest behind its share of them.

    Raises
    ------
    InputError
        The time was over before every machine had one trial.
    """
    ends = time.monotonic() + 60 * limits.minutes

    def checkpoint() -> None:
        if time.monotonic() >= ends:
            raise TimeUpError
        watcher.fits()

    counts = [len(study.trials) for study in studies]
    best: dict[str, float] = {s.duty.machine: _value(s.best) for s in studies if s.trials}
    watcher.begins(sum(counts), best)
    while limits.trials is None or sum(counts) < max(limits.trials, len(studies)):
        behind = [count / study.duty.share for count, study in zip(counts, studies, strict=True)]
        turn = int(np.argmin(behind))
        try:
            studies[turn].one_more(checkpoint)
        except TimeUpError:
            break
        counts[turn] += 1
        watcher.trial_finished(studies[turn].duty.machine, sum(counts), _value(studies[turn].best))
    if not all(counts):
        machine = studies[counts.index(0)].duty.machine
        raise InputError(
            f"--minutes {limits.minutes:g}: no trial of {machine} finished in this time: give it more"
        )


def _require_same(path: Path, study: optuna.Study, identity: Mapping[str, str]) -> None:
    """Write what determines the trials into a new study; InputError where an older one has something else."""
    if not study.get_trials(deepcopy=False, states=FINISHED):
        for name, value in identity.items():
            study.set_user_attr(name, value)
        return
    found = study.user_attrs
    differs = [name for name in identity if found.get(name) != identity[name]]
    if differs:
        raise InputError(
            f"{path}: the study of a tuning with other {' and '.join(differs)}: choose another --out, or delete it"
        )


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        multivariate=True, n_startup_trials=NEAR_TRIALS, constant_liar=False, seed=seed
    )


def _is_hopeless(so_far: float, step: int, done: Sequence[FrozenTrial]) -> bool:
    """Say whether a score after a lot is among the worst quarter of those of finished trials."""
    others = [one.intermediate_values[step] for one in done if step in one.intermediate_values]
    return len(others) >= NEAR_TRIALS and so_far > float(np.quantile(others, GOES_ON))


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Range):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Grid):
        return IntDistribution(0, len(parameter.values) - 1)
    return CategoricalDistribution(parameter.values)


def _attributes(scores: dict[str, float], missed: int, began: float) -> dict[str, Any]:
    seconds = round(time.perf_counter() - began, 3)
    return {"scores": scores, "unconverged_fits": missed, "seconds": seconds}


def _value(trial: FrozenTrial) -> float:
    return float("inf") if trial.value is None else trial.value
