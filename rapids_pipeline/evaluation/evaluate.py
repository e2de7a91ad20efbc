"""Score a prediction file against a truth file, beside the baselines.

Rows are matched by `id` where both files have it, otherwise by (`cell_type`, `sm_name`); genes are matched by
name. So neither order matters, and a prediction for other rows or other genes is refused rather than scored
in part. (The benchmark's own scripts match rows by position.) Where both files have `dose_uM` or `time_h`, these tell
pairs apart, too.

Rows of the truth that share compound and context are replicates. Their mean is scored, as `run` fits the mean of those
in a training file (`data.problem.averaged`), against the mean of what was predicted for them; `evaluation.replicates`
says what they would score alone, and the noise ceiling.

A score says little without what it could have been. Scaled, it is the share of the way from a baseline to a perfect
prediction,

    (baseline − score) / (baseline − perfect),    perfect = 0 for errors, 1 for correlations:

0 is as good as the baseline, 1 perfect, below 0 worse than the baseline. The Open Problems benchmark scales its scores
between control methods in the same way.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from features.rows import DOSE, TIME, context_numbers, varying
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import MANIFEST, recorded_input
from rapids_pipeline.backend.frames import FrameLibrary
from rapids_pipeline.backend.parallel import side_by_side
from rapids_pipeline.data.columns import AS_OURS, PAIR, PREDICTION_LAYER, TableOptions
from rapids_pipeline.data.pairs import context_columns
from rapids_pipeline.data.problem import CELLS, WEIGHT, Replicates, averaged, without_copies
from rapids_pipeline.data.tables import PerturbationData, read_responses
from rapids_pipeline.data.untested import has_gaps, tested_mean
from rapids_pipeline.evaluation.baselines import ALL_BASELINES, BASELINE_COLUMNS, context_baselines
from rapids_pipeline.evaluation.harness_scores import harness_scores
from rapids_pipeline.evaluation.matching import common_names, match_genes, match_rows, text_of, with_id_map
from rapids_pipeline.evaluation.metrics import HIGHER_IS_BETTER, score_all
from rapids_pipeline.evaluation.perturbation_metrics import score_perturbations
from rapids_pipeline.evaluation.replicates import ReplicateScores, as_scored


@dataclass(frozen=True)
class Evaluation:
    """What a prediction scores, and what the baselines score on the same rows and genes.

    Attributes
    ----------
    n_rows, n_genes : int
        What was compared: the means of replicates count once.
    matched_by : str
        "id" or "cell_type, sm_name", the latter with "dose_uM" and "time_h" where both files have them.
    scores : dict of str to dict of str to float
        By method, then by metric as in `metrics.METRICS`: the prediction first (under its file's name without
        the suffix), then the baselines that could be computed, in the order of `ALL_BASELINES`.
    scaled : dict of str to dict of str to float
        The same scores between the best baseline (0) and perfection (1) of each metric.
    perturbation_scores : dict of str to dict of str to float
        By method, the scores of `perturbation_metrics`, and those of `harness_scores` where every gene of the truth was
        tested; empty where they were not asked for.
    noise_ceiling : float or None
        The MRRMSE that replicates in the truth leave to be reached, `replicates.ceiling` of it; None without any.
    replicates : ReplicateScores or None
        What the truth's replicates score alone, their noise ceiling, and the prediction on the same pairs.
    train : str or None
        The training file that the baselines were computed from.
    note : str or None
        Why baselines are absent, or why they look better than they are; one line.
    """

    n_rows: int
    n_genes: int
    matched_by: str
    scores: dict[str, dict[str, float]]
    scaled: dict[str, dict[str, float]]
    perturbation_scores: dict[str, dict[str, float]]
    noise_ceiling: float | None = None
    replicates: ReplicateScores | None = None
    train: str | None = None
    note: str | None = None


def evaluate_files(
    prediction: Path,
    truth: Path,
    train: Path | None = None,
    *,
    id_map: Path | None = None,
    options: TableOptions = AS_OURS,
    prediction_layer: str = PREDICTION_LAYER,
    perturbations: bool = False,
    replicates: Replicates = "mean",
    library: FrameLibrary = "pandas",
) -> Evaluation:
    """Score a prediction file and the baselines against a truth file.

    Parameters
    ----------
    prediction, truth : Path
        .parquet, .csv, .tsv (also .gz) or .h5ad with one column a gene.
    train : Path, optional
        The training file, for the baselines. Without it, the one that `manifest.json` beside `prediction`
        names is used if it still has the SHA-256 written there; failing that, only `zeros` is scored and
        `note` says why.
    id_map : Path, optional
        The pairs that the prediction's rows stand for: by its ids, or by position where it has none, as an Open
        Problems prediction may (`with_id_map`).
    options : TableOptions
        How the files are read.
    prediction_layer : str
        The layer of a prediction's .h5ad file; that of truth and training is among `options`.
    perturbations : bool
        Also compute the scores of `rapids_pipeline.evaluation.perturbation_metrics`: discrimination among the rows of
        a cell type, and deviations from the mean of the training rows where they are known.
    replicates : {"mean", "keep"}
        What becomes of several rows of one compound and context, in the truth and in the training file: their mean, or
        rows of their own, which are then scored one by one.
    library : {"pandas", "polars", "cudf"}
        What reads the tables.

    Raises
    ------
    InputError
        A file cannot be read or has values that are not finite; no common row names; row names missing or
        repeated in a file, unless they are the truth's replicates; rows or genes of one file that the other does not
        have; one id with two pairs; as `replicate_counts`.
    """
    measured = read_responses(truth, options, library=library)
    own = replace(options, layer=prediction_layer, columns={}, gene_column=None)
    predicted = read_responses(prediction, own, library=library, untested=False)
    by_position = list[str]()
    if id_map is not None:
        predicted, by_position = with_id_map(prediction, predicted, id_map)
    names = common_names(prediction, predicted.obs, truth, measured.obs)
    rows = match_rows(prediction, predicted.obs, truth, measured.obs, names)
    genes = match_genes(prediction, predicted.genes, f"the truth {truth}", measured.genes)
    pairs = _pairs(prediction, predicted.obs.iloc[rows].reset_index(drop=True), truth, measured.obs)
    values = predicted.Y[np.ix_(rows, genes)]
    read = partial(_read_for_baselines, measured.genes, options, library, replicates)
    training, source, notes = _training(prediction, train, read)
    given = values, measured, pairs, training, perturbations, replicates
    found = evaluated(_method_name(prediction), *given, notes=[*by_position, *notes])
    return replace(found, matched_by=", ".join(names), train=source)


def evaluated(
    method: str,
    values: Float32,
    measured: PerturbationData,
    pairs: pd.DataFrame | None,
    training: PerturbationData | None,
    perturbations: bool = False,
    replicates: Replicates = "mean",
    *,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Score predictions in memory and the baselines against the truth.

    Parameters
    ----------
    method : str
        What the predictions are called.
    values : ndarray of float32, (n, t)
        Predictions of the truth's rows and genes, in its order.
    measured : PerturbationData
        The truth.
    pairs : DataFrame, optional
        `cell_type` and `sm_name` of its rows, and `dose_uM` and `time_h` where they have them.
    training : PerturbationData, optional
        Rows with the truth's genes, for the baselines; without it only `zeros` is scored.
    perturbations : bool
    replicates : {"mean", "keep"}
        As `evaluate_files`.
    notes : sequence of str
        What the result's note begins with.
    """
    alone, said = None, list[str]()
    if pairs is not None:
        measured, values, alone, said = as_scored(replace(measured, obs=pairs), values, replicates)
        pairs = measured.obs
    made, found = _baseline_predictions(training, pairs, measured)
    predictions = {method: values} | made
    scores = side_by_side(
        {name: partial(score_all, measured.Y, values) for name, values in predictions.items()}
    )
    deviations = {}
    if perturbations:
        mean = None if training is None else tested_mean(training.Y)
        groups = None if pairs is None else list(pairs["cell_type"])
        deviations = {
            name: score_perturbations(measured.Y, values, mean, groups)
            | ({} if has_gaps(measured.Y) else harness_scores(measured.Y, values, groups))
            for name, values in predictions.items()
        }
    return Evaluation(
        n_rows=len(measured.Y),
        n_genes=len(measured.genes),
        matched_by="",
        scores=scores,
        scaled=scaled_scores(scores, ALL_BASELINES),
        perturbation_scores=deviations,
        noise_ceiling=None if alone is None else alone.ceiling["mean_rowwise_rmse"],
        replicates=alone,
        note="; ".join([*notes, *found, *said, *_untested(measured.Y)]) or None,
    )


def _untested(Y: Float32) -> list[str]:
    """Return a sentence where entries of a truth are not scored."""
    untested = int(np.isnan(Y).sum())
    return (
        [f"{untested:,} of the truth's {Y.size:,} entries are NaN (not tested) and not scored"]
        if untested
        else []
    )


def _baseline_predictions(
    training: PerturbationData | None, pairs: pd.DataFrame | None, measured: PerturbationData
) -> tuple[dict[str, Float32], list[str]]:
    """Return the predictions of the baselines that can be computed, and why others cannot."""
    if training is None:
        return {"zeros": ALL_BASELINES["zeros"](measured, measured.obs)}, []
    if pairs is None:
        made = {name: ALL_BASELINES[name](training, measured.obs) for name in ("zeros", "mean_outcome")}
        return made, [f"neither file has {' and '.join(PAIR)}, which the other baselines average over"]
    notes = _seen_answers(training, pairs)
    asked = _with_known_smiles(pairs, training)
    have = set(asked.columns) & set(training.obs.columns)
    computable = [name for name, needs in BASELINE_COLUMNS.items() if set(needs) <= have]
    absent = [name for name in BASELINE_COLUMNS if name not in computable]
    if absent:
        notes.append(f"not scored, as the training file has no SMILES of all compounds: {', '.join(absent)}")
    told_apart = set(PAIR) | set(varying(training.obs)) <= have
    of_contexts = context_baselines(training.obs) if told_apart else {}
    asked_of = {name: ALL_BASELINES[name] for name in computable} | of_contexts
    return side_by_side({name: partial(one, training, asked) for name, one in asked_of.items()}), notes


def _with_known_smiles(pairs: pd.DataFrame, training: PerturbationData) -> pd.DataFrame:
    """Return pairs with training's SMILES where it has one for every compound, otherwise as they are."""
    if "SMILES" not in training.obs.columns:
        return pairs
    known = training.obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    smiles = pairs["sm_name"].map(known)
    return pairs if smiles.isna().any() else pairs.assign(SMILES=smiles)


def best_baseline(scores: Mapping[str, Mapping[str, float]], baselines: Iterable[str], metric: str) -> str:
    """Return the baseline with the best value of a metric, the first of equals.

    Raises
    ------
    ValueError
        None of `baselines` is among the scored methods.
    """
    choose = max if HIGHER_IS_BETTER[metric] else min
    return choose((name for name in baselines if name in scores), key=lambda name: scores[name][metric])


def scaled_scores(
    scores: Mapping[str, Mapping[str, float]], baselines: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Return every method's scores, scaled between the best of some baselines (0) and perfection (1).

    Parameters
    ----------
    scores : mapping of method to mapping of metric to float
    baselines : iterable of str
        Methods to take the best of, for each metric anew; those that were not scored are passed over.

    Returns
    -------
    dict of method to dict of metric to float
        NaN where the baseline is already perfect.
    """
    names = list(baselines)
    out: dict[str, dict[str, float]] = {method: {} for method in scores}
    for metric in next(iter(scores.values())):
        base = scores[best_baseline(scores, names, metric)][metric]
        perfect = 1.0 if HIGHER_IS_BETTER[metric] else 0.0
        for method, row in scores.items():
            way = base - perfect
            out[method][metric] = (base - row[metric]) / way if way else float("nan")
    return out


def _pairs(path: Path, obs: pd.DataFrame, truth: Path, truth_obs: pd.DataFrame) -> pd.DataFrame | None:
    """Return cell type and compound of every row, with what there is of dose, time and what the truth's rows count."""
    for source, frame in ((truth, truth_obs), (path, obs)):
        if set(PAIR) <= set(frame.columns):
            found = pd.DataFrame({name: text_of(source, frame, name) for name in PAIR})
            break
    else:
        return None
    for name in (DOSE, TIME):
        known = [frame for frame in (truth_obs, obs) if name in frame.columns]
        if known:
            found[name] = context_numbers(known[0], name)[:, 0]
    for name in (CELLS, WEIGHT):
        if name in truth_obs.columns:
            found[name] = truth_obs[name].to_numpy()
    return found


def _training(
    prediction: Path, train: Path | None, read: Callable[[Path], PerturbationData]
) -> tuple[PerturbationData | None, str | None, list[str]]:
    """Return the training data as `read` gives them, their file, and what there is to say about them."""
    if train is not None:
        return read(train), str(train), []
    recorded, obstacle = recorded_input(prediction.parent / MANIFEST, "train")
    if recorded is not None:
        try:
            return read(recorded), str(recorded), []
        except InputError as error:  # nobody asked for this file, so it must not stop the scoring
            obstacle = str(error)
    return None, None, [f"only the baseline zeros is scored: {obstacle}; give --train FILE for the others"]


def _read_for_baselines(
    genes: Sequence[str], options: TableOptions, library: FrameLibrary, replicates: Replicates, path: Path
) -> PerturbationData:
    """Return a training file's rows with the truth's genes, replicates as `run` takes them."""
    found = with_genes(read_responses(path, options, library=library), genes, path)
    return averaged(found) if replicates == "mean" else found


def with_genes(training: PerturbationData, genes: Sequence[str], path: Path) -> PerturbationData:
    """Return training rows with some genes, in this order, for the baselines; copies of a row are counted once."""
    absent = [name for name in PAIR if name not in training.obs.columns]
    if absent:
        raise InputError(f"{path}: missing column {', '.join(absent)}, which the baselines average over")
    wanted = set(genes)
    columns = [k for k, gene in enumerate(training.genes) if gene in wanted]
    order = match_genes(path, [training.genes[k] for k in columns], "the truth", genes)
    known = "SMILES" in training.obs.columns and training.obs["SMILES"].notna().all()
    columns_read = [*PAIR, *(["SMILES"] if known else [])]
    obs = pd.DataFrame({name: text_of(path, training.obs, name) for name in columns_read})
    numbers = [name for name in (DOSE, TIME, CELLS, WEIGHT) if name in training.obs.columns]
    obs[numbers] = training.obs[numbers].to_numpy()
    found = PerturbationData(obs, training.Y[:, np.asarray(columns, dtype=np.intp)[order]], tuple(genes))
    return without_copies(found)[0]


def _seen_answers(training: PerturbationData, pairs: pd.DataFrame) -> list[str]:
    names = [*PAIR, *(name for name in context_columns(pairs) if name in training.obs.columns)]
    known, asked = (
        pd.MultiIndex.from_arrays([text_of(Path(), obs, name) for name in names])
        for obs in (training.obs, pairs)
    )
    n_seen = int(asked.isin(known).sum())
    if not n_seen:
        return []
    return [
        f"{n_seen} of the {len(pairs)} scored pairs are also in the training file: the baselines have seen "
        "their answers and look better than they are"
    ]


def _method_name(prediction: Path) -> str:
    name = prediction.name.removesuffix(".gz").rsplit(".", 1)[0]
    return name if name and name not in ALL_BASELINES else "prediction"
