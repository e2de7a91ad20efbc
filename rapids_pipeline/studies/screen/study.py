"""The screen: feature sets in, scored candidates out.

The candidates are feature sets by name or file, a set without each of its blocks, or blocks that are added one by one.
Every candidate is scored on the same splits, by the same model, from columns that are fitted inside each split.

Forward selection reports a nested score. The score of a set that some splits selected is too good on those splits, so
for every outer split the selection is made anew, by splits of that split's training rows alone, and what it selected
predicts the rows held out.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from features.blocks import Block, MoleculeBlock
from features.feature_sets import FEATURE_SETS, FeatureSet, feature_set
from features.molecules import NONE, TABLE, is_table, needs_weights, reads_structures
from features.molecules.encoders import molecule_encoder
from features.molecules.table import EmbeddingTable, encode_compounds
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.devices import provenance
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.store import Kept, Store
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import untested_notes
from rapids_pipeline.evaluation.splits import SPLITS, Split, bootstrap_units, named_splits
from rapids_pipeline.evaluation.uncertainty import LEVEL
from rapids_pipeline.studies.screen.models import (
    Comparison,
    ModelName,
    choose_panel,
    losses_of,
    predictions,
    require_usable,
)
from rapids_pipeline.studies.screen.results import BASELINE, Entry, Losses, Screen, Standings

Search = Literal["compare", "forward", "ablation"]
SplitsOf = Callable[[pd.DataFrame, Float32], Sequence[Sequence[Split]]]
FEW_GENES = 500
"""Below this many genes, products of matrices are too small for more than one BLAS thread."""
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


def screen(
    data: PerturbationData,
    request: ScreenRequest,
    *,
    pairs: pd.DataFrame | None = None,
    source: str = "",
    table: EmbeddingTable | None = None,
    folder: Path | None = None,
    stages: Stages | None = None,
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

        def splits_of(obs: pd.DataFrame, Y: Float32) -> list[list[Split]]:
            dealt = {"n_folds": request.n_folds, "repeats": request.repeats, "seed": request.seed}
            return named_splits(request.split, obs, **dealt, pairs=pairs, Y=Y)

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
    threads = 1 if len(panel.genes) < FEW_GENES else None
    with stages.stage("screen") as progress, threadpool_limits(threads, "blas"):
        selection = _score_all(comparison, sets, request, splits_of, standings, store, progress)
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


def _score_all(
    comparison: Comparison,
    sets: Sequence[FeatureSet],
    request: ScreenRequest,
    splits_of: SplitsOf,
    standings: Standings,
    store: Store,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Score the baseline, the reference and the others, in this order; return the steps of forward selection."""
    tables, reference = comparison.tables(), standings.blank.reference
    ordered = [None, *sorted(sets, key=lambda features: features.name != reference)]
    forward = request.search == "forward"
    for number, features in enumerate(ordered, start=1):
        name = BASELINE if features is None else features.name
        progress.start(len(comparison.splits), f"{number} of {len(ordered) + forward}: {name}")
        predict = partial(predictions, comparison, tables, features)
        losses, seconds = _losses(store, features, partial(losses_of, comparison, predict, progress))
        words = "no features: the mean of the training rows" if features is None else features.description
        width = 0 if features is None else tables.width(features)
        standings.entries.append(Entry(name, words, width, seconds, losses))
        if standings.has_reference:
            progress.found(standings)
    if not forward:
        return []
    progress.start(len(comparison.splits) + 1, f"{len(ordered) + 1} of {len(ordered) + 1}: {SELECTED}")
    began = time.perf_counter()
    losses, steps, told = nested_forward(comparison, sets[0].blocks, splits_of, progress)
    chosen = set_of([step.block for step in steps]) if steps else None
    width = 0 if chosen is None else tables.width(chosen)
    words = f"nested: selected anew in each split; by all rows: {chosen.description if chosen else 'nothing'}"
    standings.entries.append(Entry(SELECTED, words, width, time.perf_counter() - began, losses))
    progress.found(standings)
    return told


def _losses(store: Store, features: FeatureSet | None, make: Callable[[], Losses]) -> tuple[Losses, float]:
    """Return the losses of a candidate and the seconds they took, of the store or else made and kept there."""
    blocks = None if features is None else features.model_dump(mode="json", include={"blocks"})

    def timed() -> Kept:
        began = time.perf_counter()
        losses = make()
        return Kept(vars(losses), {"seconds": time.perf_counter() - began})

    kept = store.once(timed, blocks)
    return Losses(**kept.arrays), kept.facts["seconds"]


def nested_forward(
    comparison: Comparison, blocks: Sequence[Block], splits_of: SplitsOf, progress: Progress | None = None
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
    tables, chosen = comparison.tables(), Counter[str]()

    def predict(number: int) -> Float32:
        training = comparison.splits[number].training
        rows, Y = comparison.rows.take(training), comparison.Y[training]
        inner = replace(
            comparison, rows=rows, Y=Y, repeats=splits_of(rows.obs, Y), weight=tables.weight(number)
        )
        found = [step.block for step in selected(inner, blocks)[0]]
        chosen.update(block.name for block in found)
        return predictions(comparison, tables, set_of(found) if found else None, number)

    losses = losses_of(comparison, predict, progress)
    told, before = [], empty
    for block, score in steps:
        share = chosen[block.name] / len(comparison.splits)
        told.append({"block": block.name, "score": score, "difference": score - before, "share": share})
        before = score
    return losses, steps, told


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
        if reference not in (BASELINE, *names):
            raise InputError(
                f"--reference {reference}: is none of the screened sets: {', '.join(names)}, or {BASELINE}"
            )
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


# --- candidates -------------------------------------------------------------------------------------------


def screenable_sets() -> list[str]:
    """Return the names of the feature sets a screen can compare: those that need no first-level run."""
    return [name for name, features in FEATURE_SETS.items() if not features.needs_predictions]


def default_sets(molecules: str = "morgan", obs: pd.DataFrame | None = None) -> list[str]:
    """Return the screenable sets that ask for no weights beyond those that `--molecules` may ask for.

    With `--molecules none` they have no molecules; where a row of `obs` has no SMILES, they name no encoder.
    """
    gaps = obs is not None and bool((obs["SMILES"] == "").any())

    def usable(features: FeatureSet) -> bool:
        encoders = [block.encoder for block in features.blocks if isinstance(block, MoleculeBlock)]
        own = [name for name in encoders if name is not None]
        reads = encoders if molecules == NONE else own if gaps else []
        return not reads and not any(map(needs_weights, own))

    return [name for name in screenable_sets() if usable(FEATURE_SETS[name])]


def sets_left_out(molecules: str, obs: pd.DataFrame) -> list[str]:
    """Return in words which screenable sets are none of `default_sets`, if any."""
    left = [name for name in screenable_sets() if name not in default_sets(molecules, obs)]
    need = "weights" if reads_structures(molecules) else "weights or structures"
    said = f"left out, as they need {need}: {', '.join(left)} (--features takes them by name)"
    return [said] if left else []


def named_sets(names: Sequence[str], molecules: str) -> list[FeatureSet]:
    """Return feature sets by name or TOML file, with `molecules` where their blocks name no encoder.

    Raises
    ------
    InputError
        Unknown set, one that needs a first-level run, the same name twice, or molecules in spite of
        `--molecules none`.
    """
    encoder = TABLE if is_table(molecules) else molecules
    sets = [feature_set(name).with_molecules(encoder) for name in names]
    if reads_structures(molecules):
        molecule_encoder(molecules)  # is there such a one?
    for features in sets:
        if molecules == NONE and features.without_molecules() != features:
            raise InputError(f"--molecules {NONE}: feature set {features.name} reads molecules; take another")
        if features.needs_predictions:
            raise InputError(
                f"feature set {features.name!r} stacks on first-level predictions and cannot be screened; choose among "
                f"{', '.join(screenable_sets())}"
            )
    if twice := _repeated(features.name for features in sets):
        raise InputError(f"--features: {twice[0]} is there twice")
    return sets


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)


def without_each_block(features: FeatureSet) -> list[FeatureSet]:
    """Return the set itself, then the set without each of its blocks.

    Raises
    ------
    InputError
        The set has a single block.
    """
    if len(features.blocks) < 2:
        raise InputError(f"--search ablation: feature set {features.name} has one block only")
    others = {block: tuple(other for other in features.blocks if other != block) for block in features.blocks}
    return [features] + [
        FeatureSet(name=f"{features.name} − {block.name}", description=f"without {block.name}", blocks=left)
        for block, left in others.items()
    ]


def blocks_of(sets: Sequence[FeatureSet]) -> list[Block]:
    """Return the distinct blocks of some sets, in order.

    Raises
    ------
    InputError
        Two different blocks have the same name, so that no set can hold both; or there is only one.
    """
    blocks = list(dict.fromkeys(block for features in sets for block in features.blocks))
    if twice := _repeated(block.name for block in blocks):
        raise InputError(f"--search forward: two feature sets have different blocks called {twice[0]}")
    if len(blocks) < 2:
        raise InputError("--search forward: the feature sets have one block only")
    return blocks


def set_of(blocks: Sequence[Block], name: str = "selected") -> FeatureSet:
    """Return a feature set of some blocks."""
    return FeatureSet(name=name, description=" + ".join(block.name for block in blocks), blocks=tuple(blocks))
