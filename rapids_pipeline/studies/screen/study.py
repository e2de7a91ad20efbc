"""The screen: feature sets in, scored candidates out.

The candidates are feature sets by name or file, a set without each of its blocks, or blocks that are added one by one.
Every candidate is scored on the same splits, by the same model, from columns that are fitted inside each split.

Forward selection reports a nested score. The score of a set that some splits selected is too good on those splits, so
for every outer split the selection is made anew, by splits of that split's training rows alone, and what it selected
predicts the rows held out.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from features.blocks import Block
from features.feature_sets import FeatureSet
from features.molecules.table import EmbeddingTable, encode_compounds
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.devices import provenance
from rapids_pipeline.backend.errors import InputError, meant
from rapids_pipeline.backend.parallel import THREADS, Executor, Shared, Unit, in_order
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.store import Kept, Store
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import untested_notes
from rapids_pipeline.evaluation.splits import SPLITS, Split, bootstrap_units, named_splits
from rapids_pipeline.evaluation.uncertainty import LEVEL
from rapids_pipeline.studies.screen.candidates import (
    blocks_of,
    default_sets,
    named_sets,
    screenable_sets,
    set_of,
    without_each_block,
)
from rapids_pipeline.studies.screen.models import (
    Comparison,
    FoldFeatures,
    ModelName,
    choose_panel,
    losses_of,
    predictions,
    require_usable,
)
from rapids_pipeline.studies.screen.results import BASELINE, Entry, Losses, Screen, Standings

Search = Literal["compare", "forward", "ablation"]
SplitsOf = Callable[[pd.DataFrame, Float32], Sequence[Sequence[Split]]]
DEFAULT_REFERENCE = "onehot"
"""With --features all, what differences are taken from: to know which cell type and which compound."""
ALL_BLOCKS, SELECTED = "all blocks", "forward selection"


class Step(NamedTuple):
    """A step of forward selection: the block that was added, and the score with it."""

    block: Block
    score: float


@dataclass(frozen=True)
class ScreenRequest:
    """What a screen is asked for; with the data it determines every number.

    Attributes
    ----------
    target : str
        As `rapids_pipeline.studies.screen.models.choose_panel`.
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

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")
        if self.repeats < 1:
            raise InputError(f"--repeats {self.repeats}: must be at least 1")
        screened = [features.name for features in named_sets(self.features, self.molecules)]
        if self.search == "compare" and self.reference is not None:
            require_reference(self.reference, screened or screenable_sets())


def require_reference(name: str, screened: Sequence[str]) -> None:
    """Raise InputError, with the nearest name, where a reference is none of the screened sets."""
    if name not in (BASELINE, *screened):
        near = meant(name, (BASELINE, *screened))
        raise InputError(
            f"--reference {name}{near}: is none of the screened sets: {', '.join(screened)}, or {BASELINE}"
        )


def screen(
    data: PerturbationData,
    request: ScreenRequest,
    *,
    pairs: pd.DataFrame | None = None,
    source: str = "",
    table: EmbeddingTable | None = None,
    folder: Path | None = None,
    stages: Stages | None = None,
    executor: Executor = THREADS,
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
    table : EmbeddingTable, optional
        Where `request.molecules` names one.
    folder : Path, optional
        Where finished candidates are kept and looked for, so that an interrupted screen can be continued.
    stages : Stages, optional
        Is told the `Standings` whenever a candidate is finished.
    executor : Executor
        Runs the candidates, and the splits of a forward selection.

    Raises
    ------
    InputError
        Unknown gene (the nearest names are given), feature set, reference or split, a gene that is constant, a number
        out of range, or a set that the model cannot take.
    """
    stages = stages or Stages()
    sets = named_sets(request.features or default_sets(request.molecules, data.obs), request.molecules)
    data = data.take(canonical_order(data.obs))
    panel = choose_panel(request.target, data, request.seed)
    tested = np.flatnonzero(np.isfinite(panel.Y).any(axis=1))
    asked = PerturbationData(data.obs, panel.Y, tuple(panel.genes))
    notes = [*_notes(panel.constant), *untested_notes(asked)]
    if len(tested) < len(data.obs):
        notes.append(f"left out, as nothing was tested there: {len(data.obs) - len(tested)} rows")
        data, panel = data.take(tested), replace(panel, Y=panel.Y[tested])
    for features in sets:
        require_usable(features, request.model, len(panel.genes))
    with stages.stage("features"):
        encoders = [name for features in sets for name in features.encoders]
        encoded = encode_compounds(encoders, data.obs, table=table)
        splits_of = Dealt(request, pairs)
        repeats = splits_of(data.obs, panel.Y)
        comparison = Comparison(
            Rows(data.obs, encoded.training), panel.Y, repeats, request.model, request.seed, data.weight
        )
    sets, reference = _candidates(request, sets)
    parts = [(split.training, split.held_out) for split in comparison.splits]
    store = Store(folder, "screen", comparison.rows, panel.Y, data.weight, parts, request.model, request.seed)
    standings = Standings(
        _blank(request, comparison, panel.genes, reference, source),
        panel.anchor,
        comparison.folds,
        bootstrap_units(request.split, data.obs),
    )
    with stages.stage("screen") as progress:
        how = executor, store, progress
        selection = _score_all(Screening(comparison), sets, request, splits_of, standings, *how)
    return standings.screen(
        complete=True,
        notes=[*encoded.notes, *notes],
        selection=selection,
        provenance={
            **provenance(),
            "settings": asdict(request),
            "problem_sha256": store.study,
            "seconds": dict(stages.seconds),
        },
    )


@dataclass(frozen=True)
class Dealt:
    """Deals the splits that a request asks for; `pairs` are those to predict, if there are any."""

    request: ScreenRequest
    pairs: pd.DataFrame | None

    def __call__(self, obs: pd.DataFrame, Y: Float32) -> list[list[Split]]:
        """Return the splits of every repeat, of some rows by their `obs` and responses."""
        asked = self.request
        dealt = {"n_folds": asked.n_folds, "repeats": asked.repeats, "seed": asked.seed}
        return named_splits(asked.split, obs, **dealt, pairs=self.pairs, Y=Y)


class Screening:
    """What all candidates share: the comparison, and the columns of its splits, made where they are first wanted."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without the columns: they are made again there."""
        return type(self), (self.comparison,)

    @cached_property
    def tables(self) -> FoldFeatures:
        """The columns of all splits."""
        return self.comparison.tables()

    def predictions(self, features: FeatureSet | None, number: int) -> Float32:
        """Return what a candidate says of the rows that a split holds out, (m, t)."""
        return predictions(self.comparison, self.tables, features, number)


def scored(screening: Screening, features: FeatureSet | None) -> Kept:
    """Return the losses of a candidate and the seconds they took."""
    began = time.perf_counter()
    losses = losses_of(screening.comparison, partial(screening.predictions, features))
    return Kept(vars(losses), {"seconds": time.perf_counter() - began})


def _score_all(
    screening: Screening,
    sets: Sequence[FeatureSet],
    request: ScreenRequest,
    splits_of: SplitsOf,
    standings: Standings,
    executor: Executor,
    store: Store,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Score the baseline, the reference and the others, in this order; return the steps of forward selection."""
    reference, shared = standings.blank.reference, Shared(lambda: screening)
    ordered = [None, *sorted(sets, key=lambda features: features.name != reference)]
    units: dict[Any, Unit] = {}
    for features in ordered:  # sets of the same blocks are one unit
        name, blocks = _name_and_blocks(features)
        units.setdefault(blocks, Unit(name, shared, features, (blocks_to_json(features),)))
    progress.start(len(units), "sets")
    distinct = list(units.values())
    fits = in_order(executor.results(scored, distinct, store=store, progress=progress, side_by_side=False))
    made: dict[Any, Kept] = {}
    for features in ordered:
        name, blocks = _name_and_blocks(features)
        if blocks not in made:
            made[blocks] = next(fits)
        words = "no features: the mean of the training rows" if features is None else features.description
        width = 0 if features is None else screening.tables.width(features)
        seconds, losses = made[blocks].facts["seconds"], Losses(**made[blocks].arrays)
        standings.entries.append(Entry(name, words, width, seconds, losses))
        if standings.has_reference:
            progress.found(standings)
    if request.search != "forward":
        return []
    progress.start(len(screening.comparison.splits) + 1, SELECTED)
    began = time.perf_counter()
    losses, steps, told = nested_forward(screening.comparison, sets[0].blocks, splits_of, progress, executor)
    chosen = set_of([step.block for step in steps]) if steps else None
    width = 0 if chosen is None else screening.tables.width(chosen)
    words = f"nested: selected anew in each split; by all rows: {chosen.description if chosen else 'nothing'}"
    standings.entries.append(Entry(SELECTED, words, width, time.perf_counter() - began, losses))
    progress.found(standings)
    return told


def _name_and_blocks(features: FeatureSet | None) -> tuple[str, tuple[Block, ...] | None]:
    return (BASELINE, None) if features is None else (features.name, features.blocks)


def blocks_to_json(features: FeatureSet | None) -> Any:
    """Return what of a feature set determines its losses."""
    return None if features is None else features.model_dump(mode="json", include={"blocks"})


def nested_forward(
    comparison: Comparison,
    blocks: Sequence[Block],
    splits_of: SplitsOf,
    progress: Progress | None = None,
    executor: Executor = THREADS,
) -> tuple[Losses, list[Step], list[dict[str, Any]]]:
    """Select blocks by all rows, and score selecting itself.

    Parameters
    ----------
    comparison : Comparison
        Whose splits are the outer ones, and those that the selection by all rows uses.
    blocks : sequence of Block
    splits_of : callable
        Inner splits of some training rows: of their `obs` and responses.
    progress : Progress, optional
        Advances once for each outer split, and once for the selection by all rows.
    executor : Executor
        Runs the outer splits.

    Returns
    -------
    losses : Losses
        Nested: of the sets that each outer split's training rows selected.
    steps : list of Step
        The selection by all rows, which is what one would use; its scores are optimistic.
    told : list of dict
        The steps as rows of a report: also the difference from the step before, and in what share of the outer splits
        the block was selected.
    """
    progress = progress or Progress()
    steps, empty = selected(comparison, blocks)
    progress.advance()
    n_splits, screening = len(comparison.splits), Screening(comparison)
    shared = Shared(lambda: (screening, blocks, splits_of))
    units = [Unit(f"selection {number + 1}/{n_splits}", shared, number) for number in range(n_splits)]
    results = executor.results(selected_in_split, units, progress=progress, side_by_side=False)
    fits = list(in_order(results))
    losses = losses_of(comparison, lambda number: fits[number].arrays["predicted"])
    chosen = Counter(name for fit in fits for name in fit.facts)
    told, before = [], empty
    for block, score in steps:
        share = chosen[block.name] / n_splits
        told.append({"block": block.name, "score": score, "difference": score - before, "share": share})
        before = score
    return losses, steps, told


def selected_in_split(shared: tuple[Screening, Sequence[Block], SplitsOf], number: int) -> Kept:
    """Select blocks by a split's training rows; return the predictions of its held-out rows and the blocks' names."""
    screening, blocks, splits_of = shared
    comparison = screening.comparison
    training = comparison.splits[number].training
    rows, Y = comparison.rows.take(training), comparison.Y[training]
    weight = screening.tables.weight(number)
    inner = replace(comparison, rows=rows, Y=Y, repeats=splits_of(rows.obs, Y), weight=weight)
    found = [step.block for step in selected(inner, blocks)[0]]
    predicted = screening.predictions(set_of(found) if found else None, number)
    return Kept({"predicted": predicted}, [block.name for block in found])


def selected(comparison: Comparison, blocks: Sequence[Block]) -> tuple[list[Step], float]:
    """Add the block that lowers the score most, as long as one does; return the steps, and the score without any."""
    tables = comparison.tables()

    def score(taken: Sequence[Block]) -> float:
        features = set_of(taken) if taken else None
        return losses_of(comparison, lambda number: predictions(comparison, tables, features, number)).score

    steps: list[Step] = []
    empty = score([])
    while True:
        taken = [step.block for step in steps]
        tried = [Step(block, score([*taken, block])) for block in blocks if block not in taken]
        best = min(tried, key=lambda step: step.score, default=None)
        if best is None or best.score >= (steps[-1].score if steps else empty):
            return steps, empty
        steps.append(best)


def _candidates(request: ScreenRequest, sets: list[FeatureSet]) -> tuple[list[FeatureSet], str]:
    """Return the sets to score and the name of the reference."""
    if request.search == "compare":
        default = DEFAULT_REFERENCE if not request.features else sets[0].name
        reference, names = request.reference or default, [features.name for features in sets]
        require_reference(reference, names)
        return sets, reference
    if request.reference is not None:
        raise InputError(f"--reference: --search {request.search} has the whole set for its reference")
    if request.search == "ablation":
        if len(sets) != 1:
            raise InputError(f"--search ablation: takes one feature set (--features NAME), not {len(sets)}")
        return without_each_block(sets[0]), sets[0].name
    blocks = set_of(blocks_of(sets), ALL_BLOCKS)
    require_usable(blocks, request.model, 1)
    return [blocks], ALL_BLOCKS


def _blank(
    request: ScreenRequest, comparison: Comparison, genes: list[str], reference: str, source: str
) -> Screen:
    """Return the screen without its sets."""
    names = "search", "target", "seed", "split", "model", "molecules"
    asked: dict[str, Any] = {name: getattr(request, name) for name in names}
    return Screen(
        **asked,
        genes=genes,
        metric="RMSE" if len(genes) == 1 else "MRRMSE",
        reference=reference,
        level=LEVEL,
        rows=len(comparison.Y),
        folds=len(comparison.repeats[0]),
        repeats=len(comparison.repeats),
        split_in_words=SPLITS[request.split],
        source=source,
        sets=[],
    )


def _notes(constant: list[str]) -> list[str]:
    if not constant:
        return []
    named = ", ".join(constant[:5]) + (", …" if len(constant) > 5 else "")
    return [f"left out, as they are the same in every row: {len(constant)} genes ({named})"]
