"""The whole screen on one page: requests in, scored candidates out.

Every candidate is scored on the same splits, by the same model, from columns that are fitted inside each split.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.feature_sets import FeatureSet
from features.molecules.encoders import encode_molecules, molecule_encoder
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.versions import provenance
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.bootstrap import LEVEL
from rapids_pipeline.evaluation.splits import SPLITS, Split, bootstrap_units, named_splits
from rapids_pipeline.studies.screen.candidates import (
    DEFAULT_REFERENCE,
    blocks_of,
    default_sets,
    named_sets,
    set_of,
    without_each_block,
)
from rapids_pipeline.studies.screen.finished import FinishedCandidates, hash_of
from rapids_pipeline.studies.screen.forward import nested_forward
from rapids_pipeline.studies.screen.losses import Losses, Problem, losses_of, predictions
from rapids_pipeline.studies.screen.models import ModelName, require_usable
from rapids_pipeline.studies.screen.panel import choose_panel
from rapids_pipeline.studies.screen.results import BASELINE, Screen
from rapids_pipeline.studies.screen.standings import Entry, Standings, baseline_entry

Search = Literal["compare", "forward", "ablation"]
FEW_GENES = 500
"""Below this many genes, products of matrices are too small for more than one BLAS thread."""
ALL_BLOCKS, SELECTED = "all blocks", "forward selection"


@dataclass(frozen=True)
class ScreenRequest:
    """What a screen is asked for; with the data it determines every number.

    Attributes
    ----------
    target : str
        As `rapids_pipeline.studies.screen.panel.choose_panel`.
    features : tuple of str
        Names of feature sets, or TOML files; empty for all that need no weights of their own.
    search : {"compare", "forward", "ablation"}
    reference : str or None
        Set that differences are taken from; "mean" for the training mean. None: `onehot` with all sets, otherwise
        the first one.
    model : {"svr", "ridge", "boosting"}
    split : str
        As `rapids_pipeline.evaluation.splits.SPLITS`.
    n_folds, repeats, seed : int
    molecules : str
        As `--molecules` of a run.
    """

    target: str = "A1BG"
    features: tuple[str, ...] = ()
    search: Search = "compare"
    reference: str | None = None
    model: ModelName = "svr"
    split: str = "random"
    n_folds: int = 5
    repeats: int = 1
    seed: int = 0
    molecules: str = "morgan"


class Watcher:
    """Is told of every finished candidate and every fit; this one shows nothing."""

    def begins(self, name: str, number: int, total: int) -> Progress:
        """Candidate `number` of `total` begins; what is returned advances once a fit."""
        return Progress()

    def finished(self, standings: Standings) -> None:
        """One more candidate is finished."""


def screen(
    data: PerturbationData,
    request: ScreenRequest,
    *,
    pairs: pd.DataFrame | None = None,
    source: str = "",
    folder: Path | None = None,
    stages: Stages | None = None,
    watcher: Watcher | None = None,
) -> Screen:
    """Score feature sets by cross-validation.

    Parameters
    ----------
    data : PerturbationData
    request : ScreenRequest
    pairs : DataFrame, optional
        `cell_type` and `sm_name` of the pairs to predict, for a split that imitates the task.
    source : str
        Where the data are from, for the report.
    folder : Path, optional
        Where finished candidates are kept and looked for, so that an interrupted screen can be continued.
    stages : Stages, optional
    watcher : Watcher, optional

    Raises
    ------
    InputError
        Unknown gene (the nearest names are given), feature set, reference or split, a gene that is constant, a number
        out of range, or a set that the model cannot take.
    """
    stages, watcher = stages or Stages(), watcher or Watcher()
    _check_numbers(request)
    molecule_encoder(request.molecules)  # is there such a one?
    recipes = named_sets(request.features or default_sets(), request.molecules)
    data = data.take(canonical_order(data.obs))
    panel = choose_panel(request.target, data, request.seed)
    for recipe in recipes:
        require_usable(recipe, request.model, len(panel.genes))
    with stages.stage("features"):
        encoders = [name for recipe in recipes for name in recipe.encoders]
        encoded = encode_molecules(encoders, list(data.obs["SMILES"]))
        rows = Rows(data.obs, encoded.training)
        problem = Problem(
            rows, panel.Y, _splits(request, pairs, data.obs, panel.Y), request.model, request.seed
        )
    recipes, reference = _candidates(request, recipes)
    blank = _blank(request, problem, panel.genes, reference, source)
    standings = Standings(blank, panel.anchor, problem.folds, bootstrap_units(request.split, data.obs))
    finished = None if folder is None else FinishedCandidates(folder, problem)
    few = len(panel.genes) < FEW_GENES
    with stages.stage("screen"), threadpool_limits(1 if few else None, "blas"):
        selection = _score_all(problem, recipes, request, pairs, standings, finished, watcher)
    notes = [*encoded.notes, *_notes(panel.constant)]
    provenance = _provenance(request, problem, stages)
    return standings.screen(True, notes=notes, selection=selection, provenance=provenance)


def _score_all(
    problem: Problem,
    recipes: Sequence[FeatureSet],
    request: ScreenRequest,
    pairs: pd.DataFrame | None,
    standings: Standings,
    finished: FinishedCandidates | None,
    watcher: Watcher,
) -> list[dict[str, Any]]:
    """Score the baseline, the reference and the others, in this order; return the steps of forward selection."""
    features, reference = problem.features(), standings.blank.reference
    ordered = [None, *sorted(recipes, key=lambda recipe: recipe.name != reference)]
    forward = request.search == "forward"
    for number, recipe in enumerate(ordered, start=1):
        name = BASELINE if recipe is None else recipe.name
        progress = watcher.begins(name, number, len(ordered) + forward)
        progress.start(len(problem.splits))
        kept = finished.get(recipe) if finished else None
        if kept is None:
            began = time.perf_counter()
            losses = losses_of(problem, partial(predictions, problem, features, recipe), progress)
            kept = losses, time.perf_counter() - began
            if finished:
                finished.put(recipe, *kept)
        standings.add(_entry(recipe, *kept, 0 if recipe is None else features.width(recipe)))
        if standings.has_reference:
            watcher.finished(standings)
    if not forward:
        return []
    progress = watcher.begins(SELECTED, len(ordered) + 1, len(ordered) + 1)
    progress.start(len(problem.splits) + 1)
    began = time.perf_counter()
    blocks = list(recipes[0].blocks)
    found = nested_forward(problem, blocks, lambda obs, Y: _splits(request, pairs, obs, Y), progress)
    chosen = set_of([step.block for step in found.steps]) if found.steps else None
    width = 0 if chosen is None else features.width(chosen)
    words = f"nested: selected anew in each split; by all rows: {chosen.description if chosen else 'nothing'}"
    standings.add(Entry(SELECTED, words, width, time.perf_counter() - began, found.losses))
    watcher.finished(standings)
    return found.entries


def _entry(recipe: FeatureSet | None, losses: Losses, seconds: float, columns: int) -> Entry:
    if recipe is None:
        return baseline_entry(losses, seconds)
    return Entry(recipe.name, recipe.description, columns, seconds, losses)


def _check_numbers(request: ScreenRequest) -> None:
    if request.seed < 0:
        raise InputError(f"--seed {request.seed}: must not be negative")
    if request.repeats < 1:
        raise InputError(f"--repeats {request.repeats}: must be at least 1")


def _candidates(request: ScreenRequest, recipes: list[FeatureSet]) -> tuple[list[FeatureSet], str]:
    """Return the sets to score and the name of the reference."""
    if request.search == "compare":
        default = DEFAULT_REFERENCE if not request.features else recipes[0].name
        reference, names = request.reference or default, [recipe.name for recipe in recipes]
        if reference not in (BASELINE, *names):
            raise InputError(
                f"--reference {reference}: is none of the screened sets: {', '.join(names)}, or {BASELINE}"
            )
        return recipes, reference
    if request.reference is not None:
        raise InputError(f"--reference: --search {request.search} has the whole set for its reference")
    if request.search == "ablation":
        if len(recipes) != 1:
            raise InputError(
                f"--search ablation: takes one feature set (--features NAME), not {len(recipes)}"
            )
        return without_each_block(recipes[0]), recipes[0].name
    blocks = set_of(blocks_of(recipes), ALL_BLOCKS)
    require_usable(blocks, request.model, 1)
    return [blocks], ALL_BLOCKS


def _splits(
    request: ScreenRequest, pairs: pd.DataFrame | None, obs: pd.DataFrame, Y: NDArray[np.float32]
) -> list[list[Split]]:
    return named_splits(
        request.split,
        obs,
        n_folds=request.n_folds,
        repeats=request.repeats,
        seed=request.seed,
        pairs=pairs,
        Y=Y,
    )


def _blank(request: ScreenRequest, problem: Problem, genes: list[str], reference: str, source: str) -> Screen:
    return Screen(
        search=request.search,
        target=request.target,
        genes=genes,
        metric="RMSE" if len(genes) == 1 else "MRRMSE",
        reference=reference,
        level=LEVEL,
        rows=len(problem.Y),
        folds=len(problem.repeats[0]),
        repeats=len(problem.repeats),
        seed=request.seed,
        split=request.split,
        split_in_words=SPLITS[request.split],
        model=request.model,
        molecules=request.molecules,
        source=source,
        sets=[],
    )


def _notes(constant: list[str]) -> list[str]:
    if not constant:
        return []
    named = ", ".join(constant[:5]) + (", …" if len(constant) > 5 else "")
    return [f"left out, as they are the same in every row: {len(constant)} genes ({named})"]


def _provenance(request: ScreenRequest, problem: Problem, stages: Stages) -> dict[str, Any]:
    return {
        **provenance(),
        "settings": asdict(request),
        "problem_sha256": hash_of(problem),
        "seconds": dict(stages.seconds),
    }
