"""What the page of predicted responses says of the run behind them, from memory or from the folder of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rapids_pipeline.backend.arrays import Indices
from rapids_pipeline.backend.devices import provenance
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import (
    MANIFEST,
    MODEL,
    SCORES,
    manifest_part,
    model_folder,
    read_manifest,
    sha256_of,
)
from rapids_pipeline.pipeline import Fitted
from rapids_pipeline.predictions.parts import manifest_beside
from rapids_pipeline.predictions.predict import PairPredictor, Predicted, predictor_of
from rapids_pipeline.predictions.readouts import (
    Responses,
    read_responses_of,
    responses_in,
    strongest,
    strongest_of,
)
from rapids_pipeline.stack.saved import SavedModel, load_model

MOST_PAIRS = 1000
"""Pairs on a page: those of the strongest responses."""
PANELS = 6
"""The most pairs that are shown in detail: their genes in order, and the training rows behind them."""


@dataclass(frozen=True, eq=False)
class RunFacts:
    """What a page says of predictions and of the run behind them.

    Attributes
    ----------
    responses : Responses
        Those of all pairs, or of the `MOST_PAIRS` strongest ones.
    pairs : DataFrame
        All pairs, with the applicability.
    model : SavedModel
    document : dict
        The content of scores.json; empty where the model has no run beside it.
    settings : dict of str to str
        What the head of the page names: recipe, molecules, device, training rows.
    notes : list of str
    provenance : dict
    expected : dict, optional
        What a cross-validation (cv.json) says.
    of_others : bool
        Whether the pairs are others than those that the run was asked for.
    chosen : ndarray of int, optional
        The rows of `responses` to show in detail; the strongest by default.
    """

    responses: Responses
    pairs: pd.DataFrame
    model: SavedModel
    document: Mapping[str, Any]
    settings: Mapping[str, str]
    notes: Sequence[str]
    provenance: Mapping[str, Any]
    expected: Mapping[str, Any] | None = None
    of_others: bool = False
    chosen: Indices | None = None

    @cached_property
    def panels(self) -> Indices:
        """The rows of `responses` to show in detail."""
        return strongest(self.responses, PANELS) if self.chosen is None else self.chosen

    @cached_property
    def work(self) -> PairPredictor:
        """The model with these pairs."""
        told = self.responses.pairs.iloc[self.panels]
        return predictor_of(self.model, told.reset_index(drop=True), "the model")


def facts_of_fit(found: Fitted) -> RunFacts:
    """Return what the page of a run says that was just fitted."""
    config, data, responses = found.config, found.problem.data, found.responses
    settings = {
        "recipe": config.recipe.name,
        "molecules": config.molecules,
        "device": found.chosen["device"].partition(" ")[0],
        "training data": Path(found.problem.source).name,
        "training rows": f"{len(data.Y):,}",
    }
    made = provenance() | {"inputs": _named(found.problem.inputs), "config": config.model_dump(mode="json")}
    return RunFacts(responses, responses.pairs, found.model, found.document, settings, found.notes, made)


def facts_of_prediction(found: Predicted, folder: Path, out: Path) -> RunFacts:
    """Return what the page of new pairs says, of `out` by the model of a folder, and of the run that it lies in."""
    work, run = found.work, model_folder(folder).parent
    model, document, settings = work.model, dict[str, Any](), dict[str, str]()
    if model_folder(folder).name == MODEL and (run / SCORES).is_file():
        document, settings = _scores_of(run)
    settings = settings or {
        "recipe": model.config.recipe.name,
        "molecules": model.config.molecules,
        "training rows": f"{len(model.obs):,}",
    }
    if found.Y is None:
        responses, pairs = strongest_of(responses_in(out), MOST_PAIRS)
    else:
        whole = Responses(work.metadata, tuple(model.genes), found.Y, out)
        responses, pairs = whole.take(strongest(whole, MOST_PAIRS)), work.metadata
    return RunFacts(responses, pairs, model, document, settings, found.notes, found.identity, of_others=True)


def read_run(
    folder: Path, cv: Path | None = None, prediction: Path | None = None, pairs: Sequence[str] = ()
) -> RunFacts:
    """Return what a page says of a run folder, and of a cross-validation of the same recipe, data and atlas.

    `prediction` is a folder of Parquet parts that `predict` wrote by the run's model: the page is then about its pairs.
    `pairs`, each "CELL TYPE,COMPOUND", are those to show in detail.

    Raises
    ------
    InputError
        The folder holds no run; the cross-validation is not of its training data, recipe and atlas; the prediction is
        not by its model; a pair is unknown, or they are too many.
    """
    if pairs and prediction is not None:
        raise InputError(
            "--pair chooses among the pairs of a run; with --prediction the page shows those of the strongest responses"
        )
    document, settings = _scores_of(folder)
    manifest = read_manifest(folder / MANIFEST)
    made: dict[str, Any] = {name: manifest.get(name) for name in ("versions", "config", "created")}
    made["inputs"] = _named(manifest.get("inputs", {}))
    expected = None if cv is None else _expected(cv, manifest)
    notes = list(manifest["notes"])
    if prediction is not None:
        notes = _require_by(prediction, folder)
        responses, every = strongest_of(responses_in(prediction), MOST_PAIRS)
    else:
        responses = read_responses_of(folder)
        every = responses.pairs
    chosen = responses.chosen(pairs, all_pairs=False) if pairs else None
    if chosen is not None and len(chosen) > PANELS:
        raise InputError(
            f"--pair: {len(chosen)} rows are of these pairs, and a page has room for {PANELS}; give fewer"
        )
    facts = RunFacts(responses, every, load_model(folder / MODEL), document, settings, notes, made)
    return replace(facts, expected=expected, of_others=prediction is not None, chosen=chosen)


def _scores_of(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return scores.json of a run folder, and what the head of its page names."""
    manifest, scores = read_manifest(folder / MANIFEST), read_manifest(folder / SCORES)
    if not manifest or "out_of_fold" not in scores:
        raise InputError(f"--run {folder}: holds no finished run; `rapids-perturb run` makes one")
    config = manifest["config"]
    return scores, {
        "recipe": str(config["recipe"]["name"]),
        "molecules": str(config["molecules"]),
        "device": str(manifest["chosen"]["device"]).partition(" ")[0],
        "training data": Path(manifest.get("inputs", {}).get("train", {}).get("path", "the demo")).name,
        "training rows": f"{manifest['shape']['training_rows']:,}",
    }


def _require_by(prediction: Path, folder: Path) -> list[str]:
    """Return the notes of a prediction; InputError unless it is by the model of a run."""
    manifest = read_manifest(manifest_beside(prediction))
    made_by = manifest_part(manifest, "model").get("manifest_sha256")
    if made_by is None:
        raise InputError(
            f"--prediction {prediction}: has no manifest beside it; give a folder of Parquet parts that predict wrote"
        )
    if made_by != sha256_of(folder / MODEL / MANIFEST):
        raise InputError(f"--prediction {prediction}: is by another model than that of --run {folder}")
    return [str(note) for note in manifest.get("notes", [])]


def _named(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of input files, with their names in the place of their paths: a page is sent on."""
    return {name: dict(found) | {"path": Path(found["path"]).name} for name, found in inputs.items()}


def _expected(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a cross-validation's cv.json."""
    found = read_manifest(folder / "cv.json")
    if "methods" not in found:
        raise InputError(f"--cv {folder}: holds no cross-validation; `rapids-perturb cv` makes one")
    theirs = found["provenance"]
    hashes = [one.get("inputs", {}).get("train", {}).get("sha256") for one in (theirs, manifest)]
    recipes = [one["config"]["recipe"] for one in (theirs, manifest)]
    atlases = [one.get("inputs", {}).get("atlas", {}).get("sha256") for one in (theirs, manifest)]
    for what, (one, other) in (("training data", hashes), ("recipe", recipes), ("atlas", atlases)):
        if one != other:
            raise InputError(f"--cv {folder}: is of another {what} than the run; cross-validate the same")
    return found
