"""The whole flow on one screen: files in, a run folder out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.molecules import needs_weights
from features.molecules.smiles import quiet_libraries
from features.molecules.table import encode_compounds
from features.molecules.weights import content_hash, model_folder
from features.rows import Rows, varying
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, RowSource, row_blocks
from rapids_pipeline.backend.devices import Device, DeviceName
from rapids_pipeline.backend.files import (
    MODEL,
    OOF,
    PREDICTIONS,
    REPORT,
    SCORES,
    SUBMISSION,
    RunFolder,
    write_json,
)
from rapids_pipeline.backend.locks import locked
from rapids_pipeline.backend.parallel import THREADS, Executor, side_by_side
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.data.pairs import unseen_levels
from rapids_pipeline.data.problem import Problem, ProblemFiles, open_problem, require_pairs
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import has_gaps, never_tested, untested_notes
from rapids_pipeline.evaluation.baselines import BASELINES, Baseline, context_baselines
from rapids_pipeline.evaluation.metrics import mean_of_rows, rowwise_rmse
from rapids_pipeline.evaluation.splits import context_folds
from rapids_pipeline.predictions.applicability import refuse_taken_names
from rapids_pipeline.predictions.formats import write_kaggle_csv
from rapids_pipeline.predictions.predict import predictor_of
from rapids_pipeline.predictions.readouts import Responses
from rapids_pipeline.stack import room
from rapids_pipeline.stack.duration import require_agreed
from rapids_pipeline.stack.fit import FittedStack, fit_stack
from rapids_pipeline.stack.recipe import PIPELINE, Recipe, RunConfig
from rapids_pipeline.stack.saved import PAIR_COLUMNS, SavedModel, embeddings_of, save_model

Report = Callable[["Fitted", Path], None]
"""Writes the page of a run at a path, beside which all other results are."""


@dataclass(frozen=True)
class RunResult:
    """What a run found out, besides the files it left.

    Attributes
    ----------
    document : dict
        The content of scores.json (`scores_document`).
    shape : dict of str to int
        Training rows, test rows and genes.
    notes : list of str
        What a reader of the scores should know.
    made : str
        When the results were made, where they were there before; empty where this run made them.
    """

    document: dict[str, Any]
    shape: dict[str, int]
    notes: list[str]
    made: str = ""


def run(
    files: ProblemFiles,
    out: Path,
    config: RunConfig,
    device: Device,
    *,
    overwrite: bool = False,
    stages: Stages | None = None,
    executor: Executor = THREADS,
    long: bool = True,
    report: Report | None = None,
) -> RunResult:
    """Train on one file, predict the pairs of another, and leave a run folder (`rapids_pipeline.backend.files`).

    Rows are worked on in the order of (cell_type, sm_name), so the order of the files does not matter. How they are
    read follows the settings' molecules (`ProblemFiles.for_molecules`). Where the folder holds the results of this very
    run they are returned; `overwrite` makes them anew. A run that was stopped goes on from the fits that it had
    finished. With `long` false a run whose nets would take hours on a CPU does not start
    (`rapids_pipeline.stack.duration`). `report` makes the page of the results from the folder that has all others.

    Raises
    ------
    InputError, UnavailableError
        As `open_problem`, `molecule_encoder`, `locked`, `RunFolder` and `Executor.results`; no result is written then.
    """
    files = files.for_molecules(config.molecules)
    stages, identity = stages or Stages(), identity_of(files, config, device)
    with locked(out):
        folder = RunFolder(out, identity, overwrite=overwrite)
        finished = None if overwrite else folder.finished()
        if finished is not None:
            document = json.loads((out / SCORES).read_text())
            return RunResult(document, finished["shape"], finished["notes"], finished["created"])
        return _made(files, folder, config, device, stages, executor, long, report)


def _made(
    files: ProblemFiles,
    folder: RunFolder,
    config: RunConfig,
    device: Device,
    stages: Stages,
    executor: Executor,
    long: bool,
    report: Report | None,
) -> RunResult:
    """Do the work of a run, and publish its results."""
    with stages.stage("ingest"):
        problem = open_problem(files, device.name)
        require_pairs(problem)
        refuse_taken_names(files.train, problem.data.genes)
    found = fit(problem, config, device, stages=stages, executor=executor, kept=folder.kept, long=long)
    with stages.stage("write"), threadpool_limits(1, "blas"):  # the model's check predictions, to the bit
        made = {
            "config": found.config.model_dump(mode="json"),
            "chosen": found.chosen,
            "shape": problem.shape,
            "blend": found.document["blend"],
            "notes": found.notes,
        }
        writers = writers_of(found) | ({} if report is None else {REPORT: partial(report, found)})
        folder.publish(writers, made | {"seconds": stages.seconds})
    return RunResult(found.document, problem.shape, found.notes)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A recipe that was fitted to a problem.

    Attributes
    ----------
    problem : Problem
    config : RunConfig
        Resolved: every block of molecules names its encoder.
    stack : FittedStack
    model : SavedModel
        What predicts new pairs, and can be saved.
    document : dict
        The content of scores.json (`scores_document`).
    chosen : dict of str to str
        The device, the engines and the molecule features, and why they were taken.
    notes : list of str
        What a reader of the scores should know.
    """

    problem: Problem
    config: RunConfig
    stack: FittedStack
    model: SavedModel
    document: dict[str, Any]
    chosen: dict[str, str]
    notes: list[str]

    @cached_property
    def responses(self) -> Responses:
        """What is predicted of the pairs, in the order of their file, and how far they are from the training rows."""
        order, asked = self.problem.pairs_file_order, self.problem.asked
        pairs = predictor_of(self.model, asked, "the model").metadata.iloc[order] if len(asked) else asked
        found = self.stack.test[order]
        return Responses(pairs.reset_index(drop=True), self.model.genes, found, Path("the run"))


def fit(
    problem: Problem,
    config: RunConfig,
    device: Device,
    *,
    stages: Stages | None = None,
    executor: Executor = THREADS,
    kept: Path | None = None,
    long: bool = True,
) -> Fitted:
    """Fit a recipe to a problem and score it out of fold; a problem without pairs to predict has no pseudo-labels.

    Parameters
    ----------
    problem : Problem
    config : RunConfig
        Whose molecules are those that the problem's files were read for (`ProblemFiles.for_molecules`).
    device : Device
    stages : Stages, optional
    executor : Executor
    kept : Path, optional
        The folder of finished fits.
    long : bool
        Whether to start although the nets of the recipe take hours on a CPU.

    Raises
    ------
    InputError, UnavailableError
        As `molecule_encoder`, `require_agreed` and `Executor.results`.
    """
    stages, left_out = stages or Stages(), config.left_out()
    config = config.with_atlas(problem.atlas is not None).resolved().in_contexts(problem.data.obs)
    asked, unlabelled = problem.asked, list[str]()
    if not len(asked) and any(member.pseudo_labels.use != "off" for member in config.recipe.members):
        config = config.model_copy(update={"recipe": config.recipe.without_pseudo_labels()})
        unlabelled = ["there are no pairs to predict, so no member learns from pseudo-labels of them"]
    recipe, (n, t) = config.recipe, problem.data.Y.shape
    on_landmarks = room.require(recipe, n, len(asked), t, device.name)
    with stages.stage("features"):
        folds = context_folds(problem.data.obs, recipe.n_folds, config.seed)
        chosen = {"device": f"{device.name} ({device.reason})"} | engines_of(problem, recipe, device.name)
        chosen |= room.chosen(recipe, n, on_landmarks)
        chosen["molecules"] = f"{config.molecules} ({config.molecules_because})"
        known = device.name, problem.table, problem.atlas
        molecules = encode_compounds(config.encoders, problem.data.obs, asked, *known)
        train, test = Rows(problem.data.obs, molecules.training), Rows(asked, molecules.others)
    if not long:
        require_agreed(recipe, train, len(asked), t, device.name)
    fitted_to = train, test, problem.data.Y, folds, recipe, config.seed, device.name, stages
    how: dict[str, Any] = {"weight": problem.data.weight, "executor": executor, "folder": kept}
    how["on_landmarks"] = on_landmarks
    stack = fit_stack(*fitted_to, **how)
    with stages.stage("scores"):
        errors = out_of_fold_errors(problem.data, folds, {PIPELINE: stack.oof, **stack.members})
    document = scores_document(errors, problem.data.obs, stack, config) | untested_document(problem.data)
    notes = [
        *(f"{engine}: {why}" for engine, why in chosen.items() if engine.startswith("engine")),
        *stack.notes,
        *left_out,
        *unlabelled,
        *molecules.notes,
        *problem.notes,
        *notes_on(problem, config),
        *untested_notes(problem.data),
    ]
    model = saved_model(stack, config, problem, train, test, molecules.weights)
    return Fitted(problem, config, stack, model, document, chosen, notes)


def engines_of(problem: Problem, recipe: Recipe, device: DeviceName) -> dict[str, str]:
    """Return which engine each member uses, and why; raises where one cannot be had."""
    engines = {m.name: m.engine_choice(problem.data.Y, device) for m in recipe.members}
    return {f"engine of {name}": engine for name, engine in engines.items() if engine}


def saved_model(
    stack: FittedStack,
    config: RunConfig,
    problem: Problem,
    train: Rows,
    test: Rows,
    weights: Mapping[str, str],
) -> SavedModel:
    """Return what `predict` needs of a run; `weights` are the hashes of its language models."""
    columns = [*PAIR_COLUMNS, *varying(problem.data.obs)]
    embeddings = embeddings_of(config.recipe.encoders, Rows.joined(train, test))
    obs = problem.data.obs[columns]
    untested = never_tested(problem.data.Y, obs["cell_type"])
    genes, table = problem.data.genes, problem.table
    return SavedModel(stack.model, config, genes, obs, embeddings, untested, table, weights, problem.atlas)


def identity_of(files: ProblemFiles, config: RunConfig, device: Device) -> dict[str, Any]:
    """Return what determines the results of a run, for its manifest: known before the tables are read.

    Weights of language models count by their hash, since what a name leads to can change.

    Raises
    ------
    InputError, UnavailableError
        As `describe_input`, `RunConfig.resolved`, `molecule_encoder` and `model_folder`.
    """
    found = {
        "inputs": files.described(),
        "options": files.options.to_json()
        | ({} if files.replicates == "mean" else {"replicates": files.replicates}),
        "asked": config.model_dump(mode="json", exclude={"molecules_because"}),
        "device": device.name,
    }
    named = sorted(name for name in {*config.resolved().encoders} if needs_weights(name))
    if not named:
        return found
    from features.molecules.encoders import molecule_encoder  # loads scikit-learn, which takes a second

    models = {name: molecule_encoder(name) for name in named}
    with quiet_libraries():  # which may be fetching
        weights = {name: content_hash(model_folder(encoder.model)) for name, encoder in models.items()}
    return found | {"weights": weights}


def writers_of(found: Fitted) -> dict[str, Callable[[Path], None]]:
    """Return what writes each result of a run, by file name."""
    problem, predicted, genes = found.problem, found.responses, found.problem.data.genes
    ids = list(problem.asked["id"].iloc[problem.pairs_file_order])
    obs, oof = problem.data.obs.iloc[problem.file_order], found.stack.oof
    return {
        SUBMISSION: lambda path: write_kaggle_csv(path, ids, genes, predicted.Y),
        PREDICTIONS: lambda path: write_rows(path, predicted.pairs, genes, predicted.Y),
        OOF: lambda path: write_rows(path, obs, genes, oof, problem.file_order),
        SCORES: lambda path: write_json(path, found.document),
        MODEL: lambda path: save_model(path, found.model),
    }


def out_of_fold_errors(
    data: PerturbationData, folds: NDArray[np.intp], predictions: Mapping[str, Float32 | RowSource]
) -> dict[str, Float64]:
    """Return the RMSE of every row, (n,), of out-of-fold predictions, and of baselines fitted to the other folds."""
    found = {
        name: np.concatenate([rowwise_rmse(data.Y[rows], values[rows]) for rows in row_blocks(len(data.Y))])
        for name, values in predictions.items()
    }
    baselines = {**BASELINES, **context_baselines(data.obs)}
    found |= {name: np.empty(len(data.Y)) for name in baselines}
    for k in range(int(folds.max()) + 1):
        outside = np.flatnonzero(folds == k)
        training, asked, truth = (
            data.take(np.flatnonzero(folds != k)),
            data.obs.iloc[outside],
            data.Y[outside],
        )

        def errors(
            baseline: Baseline,
            given: tuple[PerturbationData, pd.DataFrame] = (training, asked),
            truth: Float32 = truth,
        ) -> Float64:
            return np.asarray(rowwise_rmse(truth, baseline(*given)))

        made = side_by_side({name: partial(errors, baseline) for name, baseline in baselines.items()})
        for name, of_fold in made.items():
            found[name][outside] = of_fold
    return found


def scores_document(
    errors: Mapping[str, Float64], obs: pd.DataFrame, stack: FittedStack, config: RunConfig
) -> dict[str, Any]:
    """Return the content of scores.json; `errors` of `out_of_fold_errors`, the pipeline's first."""
    weights = stack.model.weights
    scores = {name: {"mean_rowwise_rmse": mean_of_rows(rows)} for name, rows in errors.items()}
    baselines = [name for name in scores if name != PIPELINE and name not in stack.members]
    best = min(baselines, key=lambda name: scores[name]["mean_rowwise_rmse"])
    return {
        "split": f"{config.recipe.n_folds} folds of random rows, seed {config.seed}",
        "caution": "random rows share compounds and cell types with the training rows: unseen compounds and "
        "scarce cell types are harder than this; `rapids-perturb cv` with the same files says what to expect",
        "out_of_fold": scores,
        "best_baseline": best,
        "by_group": {
            column: _by_group(obs[column], {PIPELINE: errors[PIPELINE], best: errors[best]})
            for column in PAIR
        },
        "blend": {"weights": dict(weights.weights), "amplitude": weights.amplitude},
        "cost_of_dropping": stack.dropping,
        "pseudo_labels": stack.pseudo_labels,
        **({} if stack.tuned is None else {"objective": stack.tuned.document()}),
    }


def _by_group(labels: "pd.Series[Any]", errors: Mapping[str, Float64]) -> dict[str, dict[str, float]]:
    """Return how many rows every cell type or compound has, and the MRRMSE of methods on them."""
    rows = labels.astype(str).groupby(labels.astype(str).to_numpy()).indices
    return {
        str(name): {"rows": len(some)}
        | {method: mean_of_rows(found[some]) for method, found in errors.items()}
        for name, some in rows.items()
    }


def untested_document(data: PerturbationData) -> dict[str, Any]:
    """Return what scores.json says of untested targets; nothing where all were tested."""
    if not has_gaps(data.Y):
        return {}
    by_cell_type = never_tested(data.Y, data.obs["cell_type"]).items()
    names = {cell_type: [data.genes[gene] for gene in genes] for cell_type, genes in by_cell_type}
    return {"untested": {"share_of_targets": float(np.isnan(data.Y).mean()), "never_tested": names}}


def write_rows(
    path: Path, obs: pd.DataFrame, genes: Sequence[str], predicted: Float32, order: Indices | None = None
) -> None:
    """Write predictions of rows as Parquet: their metadata columns, then the genes; a block of rows at a time.

    `order` says which rows of `predicted` are written, one after the other; by default all of them.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    about = pa.Table.from_pandas(obs, preserve_index=False)
    names = [*about.column_names, *genes]
    schema = pa.schema(zip(names, [*about.schema.types, *[pa.float32()] * len(genes)], strict=True))
    places = np.arange(len(predicted)) if order is None else order
    # Predictions have no repeated values.
    with ParquetWriter(path, schema, use_dictionary=about.column_names) as writer:
        for rows in row_blocks(len(obs)) or [slice(0, 0)]:
            by_gene = map(pa.array, np.ascontiguousarray(predicted[places[rows]].T))
            head = about.slice(rows.start, rows.stop - rows.start).columns
            writer.write_table(pa.table([*head, *by_gene], names=names))


def notes_on(problem: Problem, config: RunConfig) -> list[str]:
    """Return what a reader should know of the pairs and the feature sets: unseen levels, leaks asked for."""
    asked, known = problem.asked, problem.data.obs
    return [
        *(note for name in PAIR for note in unseen_levels(name, asked[name], asked[name].isin(known[name]))),
        *(
            f"LEAKY: feature set {features.name} shows training rows their own targets; models learn to trust them"
            for features in config.recipe.feature_sets
            if features.leaky
        ),
    ]
