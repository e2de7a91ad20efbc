"""Cross-validation of a whole recipe: what it is worth on data like the pairs to predict, and how sure that is.

    rapids-perturb cv --train de_train.parquet --test id_map.csv

The recipe, blend and all, is fitted anew for every split, to that split's training rows only, and is scored on the
rows held out, beside its members and the baselines. Every score comes with an interval and with an audit of what the
held-out rows share with the training rows. With `--test` it also comes with the error to expect on those pairs
(`rapids_pipeline.evaluation.uncertainty`).

Everything that is fitted (encodings, target space, members, blend, bounds) sees the split's training rows only, with
outer folds of their own. Pseudo-labels are given to the held-out rows as a run gives them to the pairs to predict:
their cell types and molecules are used, their responses are not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.molecules.atlas import Atlas
from features.molecules.table import EmbeddingTable, encode_compounds
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.devices import Device, DeviceName, provenance
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.parallel import THREADS, Executor, Shared, Unit, in_order
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.store import Kept, Store
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import untested_notes
from rapids_pipeline.evaluation import uncertainty
from rapids_pipeline.evaluation.audit import audit, audit_rows, recommended_split
from rapids_pipeline.evaluation.baselines import ALL_BASELINES, context_baselines, usable_baselines
from rapids_pipeline.evaluation.metrics import METRICS, rowwise_scores
from rapids_pipeline.evaluation.splits import SPLITS, Split, bootstrap_units, context_folds, named_splits
from rapids_pipeline.stack.duration import require_agreed
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.recipe import PIPELINE, RunConfig

AUTO = "auto"


@dataclass(frozen=True)
class CvRequest:
    """How rows are held out.

    Attributes
    ----------
    split : str
        One of `SPLITS`, or "auto": that which is most like the pairs to predict, random rows where there are none.
    n_folds, repeats, seed : int
    """

    split: str = AUTO
    n_folds: int = 5
    repeats: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """Scores of one method over all rows that were held out.

    Attributes
    ----------
    name : str
    baseline : bool
        Whether it is a baseline, otherwise the pipeline or one of its members.
    scores : dict of metric to float
        Means over rows; a row held out in several repeats counts once, by its mean.
    low, high : float
        95 % bootstrap interval of the MRRMSE.
    difference, difference_low, difference_high : float
        MRRMSE minus the pipeline's, with its interval.
    expected : uncertainty.Expectation or None
        The MRRMSE to expect on the pairs to predict; None where the split is not like them.
    """

    name: str
    baseline: bool
    scores: dict[str, float]
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    expected: uncertainty.Expectation | None

    @property
    def error(self) -> float:
        """The MRRMSE."""
        return self.scores["mean_rowwise_rmse"]


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """A finished cross-validation.

    Attributes
    ----------
    methods : list of Method
        The pipeline first, its members, then the baselines.
    by_split : list of dict
        Name, rows trained on and held out, the pipeline's MRRMSE and that of the best baseline, of every split.
    split, split_in_words, reason : str
        The split by name, in words, and why it was taken.
    settings : dict
        Folds, repeats, seed, recipe and the like.
    n_rows, n_genes : int
    audit, audit_rows : dict, list of (what, held-out rows, pairs to predict)
        Of `rapids_pipeline.evaluation.audit`, as JSON and in words.
    notes : list of str
        What a reader of the scores must know; warnings first. `n_rows` were held out at least once.
    provenance : dict
        Versions, device, and hashes of the inputs.
    """

    methods: list[Method]
    by_split: list[dict[str, Any]]
    split: str
    split_in_words: str
    reason: str
    settings: dict[str, Any]
    n_rows: int
    n_genes: int
    audit: dict[str, Any] = field(default_factory=dict)
    audit_rows: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the split and the error of the whole recipe."""
        found = self.pipeline
        error = f"MRRMSE {found.error:.4f} ({found.low:.4f} to {found.high:.4f})"
        return f"<cross-validation by {self.split}, {self.n_rows} rows held out: {error}>"

    def to_frame(self) -> pd.DataFrame:
        """Return a row a method: metrics, the interval of the MRRMSE, the difference from the recipe's with its own."""
        names = ("low", "high", "difference", "difference_low", "difference_high")
        rows = {one.name: one.scores | {name: getattr(one, name) for name in names} for one in self.methods}
        return pd.DataFrame(rows).T

    @property
    def pipeline(self) -> Method:
        """The whole recipe."""
        return self.methods[0]

    @property
    def best_baseline(self) -> Method:
        """The baseline of the lowest MRRMSE."""
        return min((one for one in self.methods if one.baseline), key=lambda one: one.error)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a split's m held-out rows got; t genes.

    Attributes
    ----------
    predicted : ndarray of float32, (m, t)
        By the whole recipe.
    scores : dict of method to ndarray of float64, (n_metrics, m)
        Of every row, by the metrics of `METRICS` in their order; the pipeline first, then members, then baselines.
    strength : ndarray of float64, (m,)
        How strong a response the training rows let expect (`rapids_pipeline.evaluation.uncertainty`).
    """

    predicted: Float32
    scores: dict[str, Float64]
    strength: Float64


def cross_validate(
    data: PerturbationData,
    pairs: pd.DataFrame | None,
    request: CvRequest,
    config: RunConfig,
    device: Device,
    *,
    source: str = "",
    table: EmbeddingTable | None = None,
    atlas: Atlas | None = None,
    folder: Path | None = None,
    stages: Stages | None = None,
    executor: Executor = THREADS,
    long: bool = True,
) -> tuple[CrossValidation, pd.DataFrame]:
    """Cross-validate a recipe; return what it found, and the rows held out with their predictions as columns.

    Parameters
    ----------
    data : PerturbationData
        Rows in any order.
    pairs : DataFrame, optional
        `cell_type`, `sm_name` and `SMILES` of the pairs to predict.
    request : CvRequest
    config : RunConfig
    device : Device
    source : str
        Where the data are from, for the report.
    table, atlas : EmbeddingTable and Atlas, optional
        The table where `config.molecules` names one; the atlas where there is one.
    folder : Path, optional
        Where finished splits are kept and looked for, so that an interrupted run can be continued.
    stages : Stages, optional
    executor : Executor
        Runs the splits.
    long : bool
        Whether to start although the nets of the recipe take hours on a CPU.

    Raises
    ------
    InputError
        Unknown split, too few rows or groups for its folds, a number out of range.
    UnavailableError
        An engine or the weights of an encoder are not here.
    """
    stages, asked = stages or Stages(), config
    config = config.with_atlas(atlas is not None).resolved().in_contexts(data.obs)
    data = data.take(canonical_order(data.obs))
    if request.repeats < 1:
        raise InputError(f"--repeats {request.repeats}: must be at least 1")
    name, reason = _split_name(request.split, data.obs, pairs)
    dealt = {"n_folds": request.n_folds, "repeats": request.repeats, "seed": request.seed}
    repeats = named_splits(name, data.obs, **dealt, pairs=pairs, Y=data.Y)
    with stages.stage("audit"):
        audited = audit(data.obs, [split for splits in repeats for split in splits], pairs, data.Y)
    with stages.stage("features"):
        molecules = encode_compounds(config.encoders, data.obs, None, device.name, table, atlas)
        train = Rows(data.obs, molecules.training)
    if not long:
        require_agreed(config.recipe, train, 0, data.Y.shape[1], device.name, times=sum(map(len, repeats)))
    settings = config.model_dump(mode="json", exclude={"molecules_because"})
    baselines = usable_baselines(data.obs) | context_baselines(data.obs)
    study = train, data.Y, data.weight, data.genes, settings, device.name, list(baselines), list(METRICS)
    with stages.stage("splits") as progress:
        how: dict[str, Any] = {"store": Store(folder, "cv", *study), "progress": progress}
        found = _held_out((train, data, config, device.name), repeats, executor, **how)
    with stages.stage("scores"):
        task = None
        if pairs is not None and name == recommended_split(data.obs, pairs)[0]:
            task = uncertainty.strengths(data.obs, data.Y, pairs)
        units = bootstrap_units(name, data.obs)
        methods = methods_of(repeats, found, list(baselines), units, task, request.seed)
        held, predicted = mean_predictions(len(data.obs), repeats, found)
    named = {"recipe": config.recipe.name, "molecules": config.molecules, "source": source}
    result = CrossValidation(
        methods=methods,
        by_split=split_rows(repeats, found, list(baselines)),
        split=name,
        split_in_words=SPLITS[name],
        reason=reason,
        settings=asdict(request) | named,
        n_rows=len(held),
        n_genes=len(data.genes),
        audit=asdict(audited),
        audit_rows=audit_rows(audited),
        notes=[*audited.warnings, *molecules.notes, *_notes(asked, baselines), *untested_notes(data)],
        provenance={
            **provenance(),
            "device": f"{device.name} ({device.reason})",
            "seconds": dict(stages.seconds),
            "config": config.model_dump(mode="json"),
        },
    )
    obs = data.obs.iloc[held].reset_index(drop=True)
    return result, pd.concat([obs, pd.DataFrame(predicted, columns=list(data.genes))], axis=1)


def fit_split(
    train: Rows,
    data: PerturbationData,
    split: Split,
    config: RunConfig,
    device: DeviceName,
    baselines: Mapping[str, Callable[[PerturbationData, pd.DataFrame], Float32]],
) -> HeldOut:
    """Fit a recipe to the training rows of a split; predict and score the rows held out.

    Parameters
    ----------
    train : Rows
        All n rows, molecules encoded.
    data : PerturbationData
        The same rows with their responses.
    split : Split
    config : RunConfig
        Resolved: every block of molecules names its encoder.
    device : str
    baselines : mapping of name to what is predicted of some pairs by some training rows
    """
    inside, outside = data.take(split.training), data.obs.iloc[split.held_out].reset_index(drop=True)
    folds = context_folds(inside.obs, config.recipe.n_folds, config.seed)
    rows = train.take(split.training), train.take(split.held_out)
    stack = fit_stack(*rows, inside.Y, folds, config.recipe, config.seed, device, weight=inside.weight)
    predicted = {PIPELINE: stack.test} | {name: made[:] for name, made in stack.test_members.items()}
    predicted |= {name: baseline(inside, outside) for name, baseline in baselines.items()}
    truth = data.Y[split.held_out]
    scores = {name: np.stack([*rowwise_scores(truth, it).values()]) for name, it in predicted.items()}
    return HeldOut(stack.test, scores, uncertainty.strengths(inside.obs, inside.Y, outside))


def fitted_split(shared: tuple[Rows, PerturbationData, RunConfig, DeviceName], split: Split) -> Kept:
    """Return what a split's held-out rows get by a new fit, as a finished one."""
    train, data, config, device = shared
    baselines = usable_baselines(data.obs) | context_baselines(data.obs)
    found = fit_split(train, data, split, config, device, baselines)
    arrays: dict[str, Any] = {"predicted": found.predicted, "strength": found.strength}
    return Kept(arrays | {"scores": np.stack(list(found.scores.values()))}, list(found.scores))


def _held_out(
    shared: tuple[Rows, PerturbationData, RunConfig, DeviceName],
    repeats: Sequence[Sequence[Split]],
    executor: Executor,
    store: Store,
    progress: Progress,
) -> list[list[HeldOut]]:
    """Return what the held-out rows of every split get."""
    every, given = [split for splits in repeats for split in splits], Shared(lambda: shared)
    units = [
        Unit(f"split {number}/{len(every)}", given, split, (split.training, split.held_out))
        for number, split in enumerate(every, start=1)
    ]
    progress.start(len(every))
    results = executor.results(fitted_split, units, store=store, progress=progress, side_by_side=False)
    found = []
    for unit, fit in zip(units, in_order(results), strict=True):
        by_method = dict(zip(fit.facts, fit.arrays["scores"], strict=True))
        found.append(HeldOut(fit.arrays["predicted"], by_method, fit.arrays["strength"]))
        progress.found((unit.name, found[-1]))
    ends = np.cumsum([len(splits) for splits in repeats])
    return [found[end - len(splits) : end] for end, splits in zip(ends, repeats, strict=True)]


def _split_name(asked: str, obs: pd.DataFrame, pairs: pd.DataFrame | None) -> tuple[str, str]:
    """Return the name of the split and why it was taken."""
    if asked != AUTO:
        return asked, ""
    if pairs is None:
        return "random", "auto: no pairs to predict were given (--test)"
    name, reason = recommended_split(obs, pairs)
    return name, f"auto: {reason}"


def _notes(config: RunConfig, baselines: Collection[str]) -> list[str]:
    """Return what was left out for want of structures, and the leaks that were asked for."""
    without = [name for name in ALL_BASELINES if name not in baselines]
    said = [f"baselines left out, as no row has a SMILES: {', '.join(without)}"] if without else []
    leaky = [features.name for features in config.recipe.feature_sets if features.leaky]
    warned = "shows training rows their own targets; models learn to trust them"
    return [*config.left_out(), *said, *(f"LEAKY: feature set {name} {warned}" for name in leaky)]


def methods_of(
    repeats: Sequence[Sequence[Split]],
    found: Sequence[Sequence[HeldOut]],
    baselines: Sequence[str],
    units: Indices,
    task: Float64 | None,
    seed: int,
) -> list[Method]:
    """Return every method's scores and intervals.

    Parameters
    ----------
    repeats, found : sequence of sequences
        The splits of every repeat, and what their held-out rows got.
    baselines : sequence of str
        Names of the methods that are baselines.
    units : ndarray of int, (n,)
        Rows of the same number are resampled together.
    task : ndarray of float64, (m,), optional
        Strengths of the pairs to predict.
    seed : int
        Of the bootstrap.
    """
    names, shape = list(found[0][0].scores), (len(repeats), len(units))
    # NaN where a repeat did not hold the row out
    scores = np.full((len(names), len(METRICS), *shape), np.nan)
    strength, folds = np.full(shape, np.nan), np.full(shape, -1, dtype=np.intp)
    for repeat, (splits, parts) in enumerate(zip(repeats, found, strict=True)):
        for number, (split, part) in enumerate(zip(splits, parts, strict=True)):
            scores[:, :, repeat, split.held_out] = np.stack(list(part.scores.values()))
            strength[repeat, split.held_out], folds[repeat, split.held_out] = part.strength, number
    # over repeats, NaN for rows that were never held out
    mean = partial(uncertainty.row_losses, one_gene=True)
    means = [[mean(metric) for metric in method] for method in scores]
    losses = np.stack([metrics[0] for metrics in means])
    weights = uncertainty.replicate_weights(folds, units, seed=seed)
    intervals = uncertainty.paired_intervals(losses, names.index(PIPELINE), weights, one_gene=False)
    known = np.isfinite(losses[0])
    strength = mean(strength)[known]
    methods = []
    for k, name in enumerate(names):
        expected = None
        if task is not None:
            expected = uncertainty.expected_error(losses[k, known], strength, task, weights[:, known])
        methods.append(
            Method(
                name=name,
                baseline=name in baselines,
                scores={m: float(v[known].mean()) for m, v in zip(METRICS, means[k], strict=True)},
                low=float(intervals.score_low[k]),
                high=float(intervals.score_high[k]),
                difference=float(intervals.difference[k]),
                difference_low=float(intervals.difference_low[k]),
                difference_high=float(intervals.difference_high[k]),
                expected=expected,
            )
        )
    return methods


def split_rows(
    repeats: Sequence[Sequence[Split]], found: Sequence[Sequence[HeldOut]], baselines: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what there is to say of every split."""
    rows = []
    for repeat, (splits, parts) in enumerate(zip(repeats, found, strict=True), start=1):
        for split, part in zip(splits, parts, strict=True):
            mean = {name: float(scores[0].mean()) for name, scores in part.scores.items()}
            best = min(baselines, key=lambda name: mean[name])
            counts = {"trained_on": len(split.training), "held_out": len(split.held_out)}
            scores = {PIPELINE: mean[PIPELINE], "best_baseline": best, "best_baseline_score": mean[best]}
            rows.append({"repeat": repeat, "split": split.name} | counts | scores)
    return rows


def mean_predictions(
    n: int, repeats: Sequence[Sequence[Split]], found: Sequence[Sequence[HeldOut]]
) -> tuple[Indices, Float32]:
    """Return the rows that were held out, in order, and their predictions, the mean over repeats: (k,), (k, t)."""
    total = np.zeros((n, found[0][0].predicted.shape[1]), dtype=np.float32)
    times = np.zeros(n, dtype=np.intp)
    for splits, parts in zip(repeats, found, strict=True):
        for split, part in zip(splits, parts, strict=True):
            total[split.held_out] += part.predicted
            times[split.held_out] += 1
    rows = np.flatnonzero(times)
    return rows, np.divide(total[rows], times[rows, None], dtype=np.float32)
