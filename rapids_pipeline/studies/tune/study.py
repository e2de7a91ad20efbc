"""The study: the settings of one member of a recipe that are best on rows like the pairs to predict.

    rapids-perturb tune --train de_train.parquet --test id_map.csv --out runs/tune --minutes 10

A composite member, a booster or a net is tuned: the one that is named, or else the recipe's first of these kinds in
this order. Each of its models is tuned on held-out rows like those that it will serve
(`rapids_pipeline.studies.tune.task`), by whole fits.

Trials are numbered from 1 for each model. Trial 1 is the recipe's model, and the next ones are drawn near it. After
`NEAR_TRIALS`, Optuna's multivariate tree-structured Parzen estimator draws trial k from the trials before it. The seed
of a trial is made of the request's seed, the model and k, and finished trials alone are kept: a study that was
interrupted and continued is therefore the study that was not. Where there are two lots, a trial among the worst
quarter after the first is stopped there.
Sources: Bergstra et al., NeurIPS 24 (2011); Akiba et al., KDD (2019).
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from features.molecules import reads_structures
from features.molecules.table import EmbeddingTable, encode_compounds
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Float64
from rapids_pipeline.backend.devices import Device, provenance
from rapids_pipeline.backend.errors import InputError, meant, quoted
from rapids_pipeline.backend.parallel import THREADS, Executor
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.store import Kept, Store
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import untested_notes
from rapids_pipeline.evaluation.splits import same_compound
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import Member, TrainingSet
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.recipe import Recipe, RunConfig
from rapids_pipeline.studies.tune.objective import (
    KEPT_BYTES,
    OVERFLOWN,
    KernelFits,
    MemberFits,
    Objective,
    TrialFits,
    kept_components,
    mean_loss,
    predictions_below,
    score,
)
from rapids_pipeline.studies.tune.results import Course, Tuned, results_of, tuned_recipe
from rapids_pipeline.studies.tune.space import Grid, ModelSpace, Parameter, Range, Raw
from rapids_pipeline.studies.tune.task import AUTO, Duty, plan, served_by

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NEAR_TRIALS = 10
"""Trials before the estimator takes over, the recipe's own among them."""
KINDS = CompositeMember, BoosterMember, NetMember
"""Members that have settings to tune; a recipe's first of them is tuned where none is named."""
GOES_ON = 0.75
"""Share of the finished trials, stopped ones among them, that a trial must not be worse than after a lot to go on."""


class TimeUpError(Exception):
    """The time limit is over."""


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for.

    Attributes
    ----------
    member : str, optional
        The member that is tuned.
    split : str
        One of `SPLITS`, or "auto": that which is most like the pairs.
    seed : int
    minutes : float
        Time for trials in this session.
    trials : int, optional
        The study ends at so many trials of all models together, earlier sessions included.
    """

    split: str = AUTO
    seed: int = 0
    minutes: float = 10.0
    trials: int | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise InputError(f"--minutes {self.minutes:g}: must be above 0")
        if self.trials is not None and self.trials < 1:
            raise InputError(f"--trials {self.trials}: must be at least 1")


def tune(
    data: PerturbationData,
    pairs: pd.DataFrame | None,
    request: TuneRequest,
    config: RunConfig,
    device: Device,
    folder: Path,
    *,
    source: str = "",
    table: EmbeddingTable | None = None,
    stages: Stages | None = None,
    executor: Executor = THREADS,
) -> tuple[Tuned, Recipe]:
    """Tune a member of a recipe.

    Parameters
    ----------
    data : PerturbationData
        Rows in any order.
    pairs : DataFrame, optional
        `cell_type`, `sm_name` and `SMILES` of the pairs to predict.
    request : TuneRequest
    config : RunConfig
        With the recipe, and the encoder for its members. Without structures, or with a table, the tuned recipe is
        one for such data.
    device : Device
    folder : Path
        Where finished trials are kept, and looked for.
    source : str
        Where the data are from, for the report.
    table : EmbeddingTable, optional
        Where `config.molecules` names one.
    stages : Stages, optional
        Is told the `Course` of the search.
    executor : Executor
        Runs the fits of a trial; the trials are the same whatever it is.

    Raises
    ------
    InputError
        The recipe has no such member or none to tune, the split cannot be used, or the time was over before there was
        a trial.
    """
    stages = stages or Stages()
    config = config if reads_structures(config.molecules) else config.resolved()
    config = config.in_contexts(data.obs)
    member = tuned_member(config.recipe, request.member)
    data = data.take(canonical_order(data.obs))
    studies, tuned_on = open_studies(
        data, pairs, member, request, config, device, folder, table, executor, stages
    )
    with stages.stage("trials") as progress:
        search(studies, request, progress)
    with stages.stage("scores"):
        compounds = same_compound(data.obs["sm_name"].to_numpy(str), data.obs["SMILES"].to_numpy(str))
        models, change = results_of(studies, compounds, request.seed)
    found = {
        **provenance(),
        "device": f"{device.name} ({device.reason})",
        "seconds": dict(stages.seconds),
        "config": config.model_dump(mode="json"),
    }
    named = {"recipe": config.recipe.name, "molecules": config.molecules, "source": source}
    result = Tuned(models, change, tuned_on, asdict(request) | named | {"member": member.name}, found)
    return result, tuned_recipe(config.recipe, member, studies, source)


def tuned_member(recipe: Recipe, name: str | None) -> Member:
    """Return the member of a recipe that is tuned: the one of this name, or the first by `KINDS`.

    Raises
    ------
    InputError
        There is none of this name, or none of a kind that has settings to tune.
    """
    found = [member for kind in KINDS for member in recipe.members if isinstance(member, kind)]
    if not found:
        raise InputError(
            f"--recipe {recipe.name}: has no member to tune; take best, or a recipe with a member of kind "
            '"composite", "booster" or "net"'
        )
    if name is None:
        return found[0]
    listed = ", ".join(member.name for member in found)
    for member in found:
        if member.name == name:
            return member
    near = meant(name, (member.name for member in found))
    raise InputError(
        f"--member {quoted(name)}{near}: the recipe {recipe.name} has no such member to tune; it has {listed}"
    )


def open_studies(
    data: PerturbationData,
    pairs: pd.DataFrame | None,
    member: Member,
    request: TuneRequest,
    config: RunConfig,
    device: Device,
    folder: Path,
    table: EmbeddingTable | None = None,
    executor: Executor = THREADS,
    stages: Stages | None = None,
) -> "tuple[list[ModelStudy], list[str]]":
    """Return the studies of a member with the trials that are finished, and in words what is tuned on what."""
    stages, recipe = stages or Stages(), config.recipe
    below = [one.with_molecules(config.molecules) for one in recipe.named(member.stacks_on)]
    fitted = member.with_molecules(config.molecules)
    for one in (*below, fitted):
        one.engine_choice(data.Y, device.name)  # which raises where an engine is missing
    with stages.stage("features"):
        encoders = sorted({name for one in (*below, fitted) for name in one.encoders})
        train = Rows(data.obs, encode_compounds(encoders, data.obs, None, device.name, table).training)
        rows = Pairs.of(train, fitted.encoders if isinstance(member, CompositeMember) else ())
        duties, sentences = plan(
            served_by(member), data.obs, data.Y, rows, pairs, request.split, request.seed
        )
    determines = train, data.Y, data.weight, data.genes, device.name, request.seed
    whole = TrainingSet(train, data.Y, data.weight, (), request.seed, device.name)
    all_splits = [split for duty in duties for lot in duty.lots for split in lot.splits]
    kept = Store(folder, "below", *determines)
    stacked = predictions_below(below, whole, all_splits, recipe.n_folds, stages, executor, kept)
    studies = []
    for duty in duties:
        settings: Any = member
        if isinstance(member, CompositeMember):
            settings = getattr(member, duty.model)
            memory = kept_components(KEPT_BYTES // len(duties))
            fits: TrialFits = KernelFits(rows, data.Y, device.name, config.molecules, memory, data.weight)
        else:
            beside = device.name == "cpu" and member.side_by_side(len(data.Y))
            fits = MemberFits(whole, config.molecules, stacked, beside)
        space = ModelSpace.of(settings, duty.fewest_rows)
        splits = [(lot.name, split.training, split.held_out) for lot in duty.lots for split in lot.splits]
        rest = duty.model, space.model, repr(space.parameters), splits, below, recipe.n_folds
        store = Store(folder, "tune", *determines, *rest, config.molecules)
        many_quick_fits = isinstance(member, CompositeMember)
        objective = Objective(duty.lots, fits, executor, None if many_quick_fits else store)
        studies.append(ModelStudy(duty, space, objective, store, request.seed))
    if member.pseudo_labels.use != "off":
        sentences.append(f"{member.name} is tuned without pseudo-labels; a run fits it with them, too")
    return studies, [*sentences, *untested_notes(data)]


def search(studies: "Sequence[ModelStudy]", request: TuneRequest, progress: Progress) -> None:
    """Run trials until a limit is reached, of the model that is furthest behind its share of them.

    Raises
    ------
    InputError
        The time was over before every model had one trial.
    """
    began, minutes, limit = time.monotonic(), request.minutes, request.trials
    best: dict[str, float] = {study.duty.model: study.best.score for study in studies if study.trials}
    earlier = sum(len(study.trials) for study in studies)

    def tell(last: tuple[str, int] | None = None, *, begins: bool = False) -> None:
        done, spent = sum(len(study.trials) for study in studies), (time.monotonic() - began) / 60
        progress.found(Course(done, earlier, limit, spent, minutes, dict(best), last, begins))

    def checkpoint() -> None:
        if time.monotonic() >= began + 60 * minutes:
            raise TimeUpError
        tell()

    progress.start(limit)
    progress.advance(earlier)
    tell(begins=True)
    while limit is None or sum(len(study.trials) for study in studies) < max(limit, len(studies)):
        turn = studies[int(np.argmin([len(study.trials) / study.duty.share for study in studies]))]
        try:
            trial = turn.one_more(checkpoint)
        except TimeUpError:
            break
        progress.advance()
        better = turn.best is trial and trial.number > 1
        best[turn.duty.model] = turn.best.score
        tell((turn.duty.model, trial.number) if better else None)
    missing = [study.duty.model for study in studies if not study.trials]
    if missing:
        raise InputError(
            f"--minutes {minutes:g}: no trial of {missing[0]} finished in this time: give it more"
        )


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished trial.

    Attributes
    ----------
    number : int
        From 1, which is the recipe's model.
    raw : dict
        Its parameters as the sampler has them.
    losses : dict of lot to ndarray of float64, (n,)
        RMSE of every row, NaN for rows that are not held out; of the lots before it was stopped.
    after : list of float
        The score after each lot.
    pruned : bool
        Whether it was stopped early.
    unconverged_fits : int
    seconds : float
    """

    number: int
    raw: dict[str, Raw]
    losses: dict[str, Float64]
    after: list[float]
    pruned: bool
    unconverged_fits: int
    seconds: float

    @property
    def scores(self) -> dict[str, float]:
        """MRRMSE by lot."""
        return {name: mean_loss(losses) for name, losses in self.losses.items()}

    @property
    def score(self) -> float:
        """The score; infinite where the trial was stopped early."""
        return float("inf") if self.pruned else self.after[-1]


class ModelStudy:
    """The study of one model: every finished trial is kept in a store, and an Optuna study in memory draws the next.

    Parameters
    ----------
    duty : Duty
    space : ModelSpace
    objective : Objective
    store : Store
        Of all that determines the trials; those that are there are taken over.
    seed : int
    """

    def __init__(self, duty: Duty, space: ModelSpace, objective: Objective, store: Store, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.duty, self.space, self.objective = duty, space, objective
        self.trials: list[Trial] = []
        self.study = optuna.create_study()
        self._store, self._seed = store, seed
        self._distributions = {one.name: _distribution(one) for one in space.parameters}
        while (kept := self._kept()) is not None:
            self._add(kept)

    @property
    def best(self) -> Trial:
        """The trial of the lowest score, the first of equal ones."""
        return min(self.trials, key=lambda trial: (trial.score, trial.number))

    def one_more(self, checkpoint: Callable[[], None] = lambda: None) -> Trial:
        """Return the next trial, kept or else run and kept; what `checkpoint` raises breaks it off."""
        trial = self._kept()
        if trial is None:
            raw = self._drawn() if self.trials else self.space.start
            trial = self._run(raw, checkpoint)
            facts = {name: value for name, value in vars(trial).items() if name != "losses"}
            self._store.put(Kept(dict(trial.losses), facts), trial.number)
        self._add(trial)
        return trial

    def _kept(self) -> Trial | None:
        """Return the next trial of the store, None where it has none."""
        kept = self._store.get(len(self.trials) + 1)
        return None if kept is None else Trial(losses=kept.arrays, **kept.facts)

    def _drawn(self) -> dict[str, Raw]:
        """Draw the parameters of the next trial."""
        import optuna

        done = len(self.trials)
        seeds = np.random.SeedSequence([self._seed, self.duty.model == "new_compounds", done])
        seed = int(seeds.generate_state(1)[0])
        if done < NEAR_TRIALS:
            return self.space.near(np.random.default_rng(seed))
        self.study.sampler = optuna.samplers.TPESampler(
            multivariate=True, n_startup_trials=NEAR_TRIALS, constant_liar=False, seed=seed
        )
        asked = self.study.ask(self._distributions)
        self.study.tell(asked, state=optuna.trial.TrialState.FAIL)  # it joins the study when it is finished
        return dict(asked.params)

    def _run(self, raw: dict[str, Raw], checkpoint: Callable[[], None]) -> Trial:
        """Run a trial; a hopeless one is stopped after a lot."""
        began, losses, after, total = time.perf_counter(), {}, [], 0
        model = self.space.model_of(raw)
        reference = self.trials[0].scores if self.trials else None
        for name, values, missed in self.objective.by_lot(model, checkpoint):
            losses[name] = values
            total += missed
            scores = {lot: mean_loss(found) for lot, found in losses.items()}
            after.append(0.0 if reference is None else score(scores, reference))
            if len(losses) < len(self.duty.lots) and self._is_hopeless(after):
                break
        if reference is None and max(scores.values()) >= OVERFLOWN / len(values):
            raise InputError(
                f"{self.duty.model}: predictions with the recipe's own settings are not finite; lower its learning rate"
            )
        pruned, seconds = len(losses) < len(self.duty.lots), round(time.perf_counter() - began, 3)
        return Trial(len(self.trials) + 1, raw, losses, after, pruned, total, seconds)

    def _is_hopeless(self, after: list[float]) -> bool:
        """Say whether the score after a lot is among the worst quarter of those of finished trials."""
        others = [trial.after[len(after) - 1] for trial in self.trials if len(trial.after) >= len(after)]
        return len(others) >= NEAR_TRIALS and after[-1] > float(np.quantile(others, GOES_ON))

    def _add(self, trial: Trial) -> None:
        """Take a finished trial in; the next ones are drawn by what it found."""
        from optuna.trial import TrialState, create_trial

        self.trials.append(trial)
        self.study.add_trial(
            create_trial(
                params=trial.raw,
                distributions=self._distributions,
                state=TrialState.PRUNED if trial.pruned else TrialState.COMPLETE,
                value=None if trial.pruned else trial.score,
                intermediate_values=dict(enumerate(trial.after)),
            )
        )


def _distribution(parameter: Parameter) -> "BaseDistribution":
    from optuna import distributions

    if isinstance(parameter, Range):
        return distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Grid):
        return distributions.IntDistribution(0, len(parameter.values) - 1)
    return distributions.CategoricalDistribution(parameter.values)
