"""The whole flow on one screen: files in, a run folder out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.feature_sets import Rows
from features.molecule_columns import encode_molecules
from rapids_pipeline import runs, stack
from rapids_pipeline.backend.devices import Device
from rapids_pipeline.backend.frames import library_for
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.config import RunConfig
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import canonical_order, random_folds
from rapids_pipeline.ingest import PerturbationData, read_pairs, read_training, with_smiles
from rapids_pipeline.run_inputs import RunInputs
from rapids_pipeline.submit import write_kaggle_csv

PIPELINE = "pipeline"


@dataclass(frozen=True)
class RunResult:
    """What a run found out, besides the files it left.

    Attributes
    ----------
    scores : dict of method to dict of metric to float
        Out-of-fold, on the training rows.
    weights : dict of member to float
        The blend.
    shape : dict of str to int
        Training rows, test rows and genes.
    notes : list of str
        What a reader of the scores should know.
    """

    scores: dict[str, dict[str, float]]
    weights: dict[str, float]
    shape: dict[str, int]
    notes: list[str]


def run(
    inputs: RunInputs,
    out: Path,
    config: RunConfig,
    device: Device,
    *,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> RunResult:
    """Train on one file, predict the pairs of another, and leave a run folder (`rapids_pipeline.runs`).

    Rows are worked on in the order of (cell_type, sm_name), so the order of the training file does not matter.

    Raises
    ------
    InputError, UnavailableError
        As `read_training`, `read_pairs`, `molecule_encoder` and `RunFolder`; nothing is written then.
    """
    stages, config = stages or Stages(), config.resolved()
    with stages.stage("ingest"):
        problem = read_problem(inputs, config, device)
        folder = runs.RunFolder(out, identity_of(inputs, config, device), overwrite=overwrite)
        data, folds = problem.data, problem.folds
        engine = stack.svr_engine(data.Y, config.svr, device.name)
        booster = stack.boosting_engine(config.boosting, device.name, len(folds))
    with stages.stage("features"):
        encoders = [config.molecules, *config.svr.features.encoders, *config.boosting.features.encoders]
        smiles = list(data.obs["SMILES"]), list(problem.pairs["SMILES"])
        molecules = encode_molecules(encoders, *smiles, device.name)
        train, test = Rows(data.obs, molecules.training), Rows(problem.pairs, molecules.others)
    with stages.stage("svr") as progress:
        level_1 = stack.svr_predictions(
            train, test, data.Y, folds, config.svr, config.seed, device.name, progress
        )
    with stages.stage("boosting") as progress:
        boosted = stack.boosting_predictions(
            train, test, data.Y, folds, level_1, config.boosting, config.seed, device.name, progress
        )
    with stages.stage("blend"):
        members = {"svr": stack.svr_member(level_1, folds), "boosting": boosted.member}
        blended = stack.blend(members, data, folds, config)
    with stages.stage("scores"):
        oof = {PIPELINE: blended.oof, **{name: member.oof for name, member in members.items()}}
        scores = out_of_fold_scores(data, folds, oof)
    chosen = {
        "device": f"{device.name} ({device.reason})",
        "svr_engine": f"{engine.engine.name} ({engine.reason})",
        "boosting_engine": f"{booster.engine.name} ({booster.reason})",
    }
    notes = [
        f"SVR engine {chosen['svr_engine']}",
        f"boosting engine {chosen['boosting_engine']}",
        f"the target space keeps {boosted.explained_share:.1%} of the sum of squared targets",
        *molecules.notes,
        *notes_on(problem, config),
    ]
    with stages.stage("write"):
        folder.publish(
            writers_of(problem, blended, scores_document(scores, blended.weights, config)),
            {
                "chosen": chosen,
                "shape": problem.shape,
                "weights": blended.weights,
                "notes": notes,
                "seconds": stages.seconds,
            },
        )
    return RunResult(scores, blended.weights, problem.shape, notes)


@dataclass(frozen=True)
class Problem:
    """What a run works on: training rows in canonical order with their folds, and the pairs to predict.

    `original_obs` has the training rows' metadata in file order, `original_order` the positions that lead there.
    """

    data: PerturbationData
    folds: NDArray[np.intp]
    pairs: pd.DataFrame
    original_obs: pd.DataFrame
    original_order: NDArray[np.intp]

    @property
    def shape(self) -> dict[str, int]:
        """Training rows, test rows and genes."""
        return {
            "training_rows": len(self.folds),
            "test_rows": len(self.pairs),
            "genes": len(self.data.genes),
        }


def read_problem(inputs: RunInputs, config: RunConfig, device: Device) -> Problem:
    """Read and check the files of a run and deal the training rows into folds."""
    library = library_for(device.name)
    read = read_training(
        inputs.train, layer=inputs.layer, library=library, extra_metadata=inputs.metadata_columns
    )
    pairs = with_smiles(read_pairs(inputs.test, library=library), read.obs, inputs.test)
    order = canonical_order(read.obs)
    folds = random_folds(len(order), config.n_folds, config.seed)
    return Problem(read.take(order), folds, pairs, read.obs, np.argsort(order))


def identity_of(inputs: RunInputs, config: RunConfig, device: Device) -> dict[str, Any]:
    """Return what determines the results of a run, for its manifest."""
    return {
        "inputs": {"train": runs.describe_input(inputs.train), "test": runs.describe_input(inputs.test)},
        "options": {"layer": inputs.layer, "metadata_columns": list(inputs.metadata_columns)},
        "config": config.model_dump(mode="json"),
        "device": device.name,
    }


def writers_of(
    problem: Problem, blended: stack.Blended, scores: dict[str, Any]
) -> dict[str, Callable[[Path], None]]:
    """Return what writes each result of a run, by file name."""
    ids, genes, oof = list(problem.pairs["id"]), problem.data.genes, blended.oof[problem.original_order]
    return {
        runs.SUBMISSION: lambda path: write_kaggle_csv(path, ids, genes, blended.test),
        runs.OOF: lambda path: write_oof(path, problem.original_obs, genes, oof),
        runs.SCORES: lambda path: runs.write_json(path, scores),
    }


def out_of_fold_scores(
    data: PerturbationData, folds: NDArray[np.intp], predictions: Mapping[str, NDArray[np.float32]]
) -> dict[str, dict[str, float]]:
    """Return the MRRMSE of out-of-fold predictions, and of baselines that predict each fold from the others."""
    everything = dict(predictions)
    for name, baseline in BASELINES.items():
        everything[name] = np.empty_like(data.Y)
        for k in range(int(folds.max()) + 1):
            inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
            everything[name][outside] = baseline(data.take(inside), data.obs.iloc[outside])
    return {
        name: {"mean_rowwise_rmse": mean_rowwise_rmse(data.Y, predicted)}
        for name, predicted in everything.items()
    }


def scores_document(
    scores: dict[str, dict[str, float]], weights: dict[str, float], config: RunConfig
) -> dict[str, Any]:
    """Return the content of scores.json."""
    return {
        "split": f"{config.n_folds} folds of random rows, seed {config.seed}",
        "caution": "random rows share compounds and cell types with the training rows: unseen compounds and "
        "scarce cell types are harder than this",
        "out_of_fold": scores,
        "weights": weights,
    }


def write_oof(path: Path, obs: pd.DataFrame, genes: Sequence[str], predicted: NDArray[np.float32]) -> None:
    """Write out-of-fold predictions as Parquet: the training file's metadata columns, then its genes."""
    table = pd.concat([obs.reset_index(drop=True), pd.DataFrame(predicted, columns=list(genes))], axis=1)
    table.to_parquet(path, index=False)


def notes_on(problem: Problem, config: RunConfig) -> list[str]:
    """Return what a reader should know of the pairs and the feature sets: unseen levels, leaks asked for."""
    notes = []
    for column in ("cell_type", "sm_name"):
        unseen = int((~problem.pairs[column].isin(problem.data.obs[column])).sum())
        if unseen:
            notes.append(
                f"{unseen} of {len(problem.pairs)} test rows have a {column} that no training row has"
            )
    for recipe in (config.svr.features, config.boosting.features):
        if recipe.leaky:
            notes.append(
                f"LEAKY: feature set {recipe.name} shows training rows their own targets; models learn to trust them"
            )
    return notes
