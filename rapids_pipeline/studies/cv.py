"""Cross-validation of a whole recipe: what it is worth on data like the pairs to predict, and how sure that is.

    rapids-perturb cv --train de_train.parquet --test id_map.csv

The recipe, blend and all, is fitted anew for every split, to that split's training rows only, and scored on the rows
held out, beside its members and the baselines. Every score comes with an interval and with an audit of what held-out
rows share with training rows; with `--test`, also with the error to expect on those pairs
(`rapids_pipeline.evaluation.expectation`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.devices import Device
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.versions import provenance
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.audit import audit, audit_rows, recommended_split
from rapids_pipeline.evaluation.expectation import strengths
from rapids_pipeline.evaluation.learned_baselines import ALL_BASELINES
from rapids_pipeline.evaluation.named_splits import SPLITS, bootstrap_units, named_splits
from rapids_pipeline.evaluation.splits import Split, canonical_order
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies.cv_results import (
    CrossValidation,
    RowScores,
    mean_predictions,
    methods_of,
    split_rows,
)
from rapids_pipeline.studies.finished import FinishedSplits
from rapids_pipeline.studies.fits import HeldOut, fit_split

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


@dataclass(frozen=True, eq=False)
class Outcome:
    """A cross-validation with the predictions of its held-out rows: their metadata, and (k, t) float32."""

    found: CrossValidation
    obs: pd.DataFrame
    predicted: NDArray[np.float32]


def cross_validate(
    data: PerturbationData,
    pairs: pd.DataFrame | None,
    request: CvRequest,
    config: RunConfig,
    device: Device,
    *,
    source: str = "",
    folder: Path | None = None,
    stages: Stages | None = None,
) -> Outcome:
    """Cross-validate a recipe.

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
    folder : Path, optional
        Where finished splits are kept and looked for, so that an interrupted run can be continued.
    stages : Stages, optional

    Raises
    ------
    InputError
        Unknown split, too few rows or groups for its folds, a number out of range.
    UnavailableError
        An engine or the weights of an encoder are not here.
    """
    stages, config = stages or Stages(), config.resolved()
    data = data.take(canonical_order(data.obs))
    name, reason = _split_name(request.split, data.obs, pairs)
    repeats = _repeats(name, request, data, pairs)
    every = [split for splits in repeats for split in splits]
    with stages.stage("audit"):
        audited = audit(data.obs, every, pairs, data.Y)
    with stages.stage("features"):
        smiles = list(data.obs["SMILES"])
        molecules = encode_molecules([config.molecules, *config.recipe.encoders], smiles, (), device.name)
        train = Rows(data.obs, molecules.training)
    kept = None
    if folder is not None:
        kept = FinishedSplits(folder, train, data, config, device.name, list(ALL_BASELINES))
    with stages.stage("splits") as progress:
        progress.start(len(every))
        found = [
            [_held_out(train, data, split, config, device, kept, progress) for split in splits]
            for splits in repeats
        ]
    with stages.stage("scores"):
        task = None
        if pairs is not None and name == recommended_split(data.obs, pairs)[0]:
            task = strengths(data.obs, data.Y, pairs)
        rows = RowScores.of(len(data.obs), repeats, found)
        units = bootstrap_units(name, data.obs)
        methods = methods_of(rows, list(ALL_BASELINES), units, task, request.seed)
        held, predicted = mean_predictions(len(data.obs), repeats, found)
    settings = asdict(request) | {
        "recipe": config.recipe.name,
        "molecules": config.molecules,
        "source": source,
    }
    result = CrossValidation(
        methods=methods,
        by_split=split_rows(repeats, found, list(ALL_BASELINES)),
        split=name,
        split_in_words=SPLITS[name],
        reason=reason,
        settings=settings,
        n_rows=len(held),
        n_genes=len(data.genes),
        audit=audited.to_json(),
        audit_rows=audit_rows(audited),
        notes=[*audited.warnings, *molecules.notes, *_leaks(config)],
        provenance=_provenance(config, device, stages),
    )
    return Outcome(result, data.obs.iloc[held].reset_index(drop=True), predicted)


def _held_out(
    train: Rows,
    data: PerturbationData,
    split: Split,
    config: RunConfig,
    device: Device,
    kept: FinishedSplits | None,
    progress: Progress,
) -> HeldOut:
    """Return what a split's held-out rows get: of an earlier run where it is kept, otherwise by a new fit."""
    held_out = kept.get(split) if kept else None
    if held_out is None:
        held_out = fit_split(train, data, split, config, device.name, ALL_BASELINES)
        if kept:
            kept.put(split, held_out)
    progress.advance()
    return held_out


def _split_name(asked: str, obs: pd.DataFrame, pairs: pd.DataFrame | None) -> tuple[str, str]:
    """Return the name of the split and why it was taken."""
    if asked != AUTO:
        return asked, ""
    if pairs is None:
        return "random", "auto: no pairs to predict were given (--test)"
    name, reason = recommended_split(obs, pairs)
    return name, f"auto: {reason}"


def _repeats(
    name: str, request: CvRequest, data: PerturbationData, pairs: pd.DataFrame | None
) -> list[list[Split]]:
    if request.repeats < 1:
        raise InputError(f"--repeats {request.repeats}: must be at least 1")
    return named_splits(
        name,
        data.obs,
        n_folds=request.n_folds,
        repeats=request.repeats,
        seed=request.seed,
        pairs=pairs,
        Y=data.Y,
    )


def _leaks(config: RunConfig) -> Sequence[str]:
    return [
        f"LEAKY: feature set {features.name} shows training rows their own targets; models learn to trust them"
        for features in config.recipe.feature_sets
        if features.leaky
    ]


def _provenance(config: RunConfig, device: Device, stages: Stages) -> dict[str, Any]:
    return {
        **provenance(),
        "device": f"{device.name} ({device.reason})",
        "seconds": dict(stages.seconds),
        "config": config.model_dump(mode="json"),
    }
