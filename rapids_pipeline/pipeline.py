"""The whole flow on one screen: files in, a run folder out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.feature_sets import Rows
from features.molecules import molecule_encoder
from rapids_pipeline import runs, stack
from rapids_pipeline.backend.devices import Device
from rapids_pipeline.backend.frames import library_for
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.config import RunConfig, RunInputs
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.evaluation.splits import canonical_order, random_folds
from rapids_pipeline.ingest import PerturbationData, read_pairs, read_training, with_smiles
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
    shape : tuple of int
        Test pairs and genes predicted.
    """

    scores: dict[str, dict[str, float]]
    weights: dict[str, float]
    shape: tuple[int, int]
    notes: list[str] = field(default_factory=list)


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
    stages = stages or Stages()
    with stages.stage("ingest"):
        library = library_for(device.name)
        read = read_training(
            inputs.train, layer=inputs.layer, library=library, extra_metadata=inputs.metadata_columns
        )
        pairs = with_smiles(read_pairs(inputs.test, library=library), read.obs, inputs.test)
        identity = {
            "inputs": {"train": runs.describe_input(inputs.train), "test": runs.describe_input(inputs.test)},
            "options": {"layer": inputs.layer, "metadata_columns": list(inputs.metadata_columns)},
            "config": config.model_dump(mode="json"),
            "device": device.name,
        }
        folder = runs.RunFolder(out, identity, overwrite=overwrite)
        order = canonical_order(read.obs)
        data = read.take(order)
        folds = random_folds(len(order), config.n_folds, config.seed)
    with stages.stage("features"):
        encoder = molecule_encoder(config.molecules, device.name)
        smiles = [*data.obs["SMILES"], *pairs["SMILES"]]
        molecules = encoder.fit(smiles).transform(smiles)
        train, test = Rows(data.obs, molecules[: len(order)]), Rows(pairs, molecules[len(order) :])
    engine = stack.svr_engine(data.Y, config.svr, device.name)
    with stages.stage("svr") as progress:
        level_1 = stack.svr_predictions(train, test, data.Y, folds, config.svr, device.name, progress)
    with stages.stage("boosting") as progress:
        boosted = stack.boosting_predictions(
            train, test, data.Y, folds, level_1, config.boosting, config.seed, device.name, progress
        )
    with stages.stage("blend"):
        members = {"svr": stack.Member(level_1.oof, level_1.test), "boosting": boosted.member}
        blended, weights = stack.blend(members, data, folds, config)
    with stages.stage("scores"):
        scores = out_of_fold_scores(data, folds, {PIPELINE: blended, **members})
    with stages.stage("write"):
        back = np.argsort(order)
        writers = {
            runs.SUBMISSION: lambda path: write_kaggle_csv(path, list(pairs["id"]), data.genes, blended.test),
            runs.OOF: lambda path: write_oof(path, read.obs, data.genes, blended.oof[back]),
            runs.SCORES: lambda path: runs.write_json(path, scores_document(scores, weights, config)),
        }
        notes = [
            f"SVR engine {engine.engine.name} ({engine.reason})",
            *notes_on(encoder, boosted.explained_share),
        ]
        folder.publish(
            writers,
            {
                "chosen": {
                    "device": f"{device.name} ({device.reason})",
                    "svr_engine": f"{engine.engine.name} ({engine.reason})",
                },
                "shape": {"training_rows": len(order), "test_rows": len(pairs), "genes": len(data.genes)},
                "weights": weights,
                "notes": notes,
                "seconds": dict(stages.seconds),
            },
        )
    return RunResult(scores, weights, (len(pairs), len(data.genes)), notes)


def out_of_fold_scores(
    data: PerturbationData, folds: NDArray[np.intp], members: Mapping[str, stack.Member]
) -> dict[str, dict[str, float]]:
    """Return the MRRMSE of members and baselines, each predicting the rows of a fold from the others."""
    predictions = {name: member.oof for name, member in members.items()}
    for name, baseline in BASELINES.items():
        predicted = np.empty_like(data.Y)
        for k in range(int(folds.max()) + 1):
            inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
            predicted[outside] = baseline(data.take(inside), data.obs.iloc[outside])
        predictions[name] = predicted
    return {
        name: {"mean_rowwise_rmse": mean_rowwise_rmse(data.Y, predicted)}
        for name, predicted in predictions.items()
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


def notes_on(encoder: Any, explained_share: float) -> list[str]:
    """Return what a reader of the scores should know, one sentence each."""
    notes = [f"the target space keeps {explained_share:.1%} of the sum of squared targets"]
    truncated = getattr(encoder, "n_truncated_", 0)
    if truncated:
        notes.append(f"{truncated} molecules were longer than the encoder reads and were cut off")
    return notes
