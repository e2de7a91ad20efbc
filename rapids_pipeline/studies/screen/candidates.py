"""What is compared on which genes.

The genes are one, some by name, a random or the most variable part, or all. The candidates are feature sets by name or
file, a set without each of its blocks, or blocks that are added one by one.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from features.blocks import Block
from features.feature_sets import FEATURE_SETS, FeatureSet, feature_set
from features.molecules import needs_weights
from rapids_pipeline.backend.arrays import Float32, Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData

ANCHOR = "A1BG"
"""The gene that published work screened on."""
DEFAULT_REFERENCE = "onehot"
"""With --features all, what differences are taken from: to know which cell type and which compound."""


@dataclass(frozen=True, eq=False)
class Panel:
    """The genes of a screen.

    Attributes
    ----------
    genes : list of str
    Y : ndarray of float32, (n, len(genes))
        Their responses.
    constant : list of str
        Genes that were asked for by a rule and left out, as they have the same value in every row.
    """

    genes: list[str]
    Y: Float32
    constant: list[str]

    @property
    def anchor(self) -> int:
        """The position of the gene whose agreement with the others is asked about."""
        return self.genes.index(ANCHOR) if ANCHOR in self.genes else 0


def choose_panel(target: str, data: PerturbationData, seed: int = 0) -> Panel:
    """Return the genes that `--target` names.

    Parameters
    ----------
    target : str
        A gene; several, separated by commas; "random:N", N genes drawn with `seed`; "variable:N", the N genes of
        largest standard deviation; or "all".
    data : PerturbationData
    seed : int

    Raises
    ------
    InputError
        Unknown gene (the nearest names are given), a named gene that is constant, or a number out of range.
    """
    spread = np.ptp(data.Y, axis=0)
    rule, _, number = target.partition(":")
    if target in data.genes or (target != "all" and rule not in ("random", "variable")):
        named = dict.fromkeys(
            name.strip() for name in ([target] if target in data.genes else target.split(","))
        )
        chosen = [gene_index(data.genes, name) for name in named]
        for gene in chosen:
            if spread[gene] == 0:
                raise InputError(
                    f"--target {data.genes[gene]}: is {data.Y[0, gene]:g} in every row; there is nothing to predict"
                )
        return _panel(data, np.array(chosen), [])
    usable = np.flatnonzero(spread > 0)
    constant = [data.genes[gene] for gene in np.flatnonzero(spread == 0)]
    if not len(usable):
        raise InputError(f"--target {target}: every gene is constant; there is nothing to predict")
    if target == "all":
        return _panel(data, usable, constant)
    count = _count(target, number, len(usable))
    if rule == "random":
        chosen_genes = np.random.default_rng(seed).choice(usable, count, replace=False)
    else:
        deviations = data.Y[:, usable].std(axis=0, dtype=np.float64)
        chosen_genes = usable[np.argsort(-deviations, kind="stable")[:count]]
    return _panel(data, np.sort(chosen_genes), constant)


def gene_index(genes: Sequence[str], target: str) -> int:
    """Return the position of a gene; InputError names the nearest ones where there is none."""
    if target in genes:
        return list(genes).index(target)
    spelled = {gene.casefold(): gene for gene in genes}
    near = [spelled[name] for name in difflib.get_close_matches(target.casefold(), spelled, n=5, cutoff=0.5)]
    hint = f"; nearest names: {', '.join(near)}" if near else f"; the genes are {genes[0]} … {genes[-1]}"
    raise InputError(f"--target {target}: no such gene among {len(genes)}{hint}")


def _count(target: str, number: str, most: int) -> int:
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= most:
        raise InputError(f"--target {target}: takes a number of genes from 1 to {most} after the colon")
    return int(number)


def _panel(data: PerturbationData, chosen: Indices, constant: list[str]) -> Panel:
    return Panel([data.genes[gene] for gene in chosen], np.ascontiguousarray(data.Y[:, chosen]), constant)


def screenable_sets() -> list[str]:
    """Return the names of the feature sets a screen can compare: those that need no first-level run."""
    return [name for name, features in FEATURE_SETS.items() if not features.needs_predictions]


def default_sets() -> list[str]:
    """Return the screenable sets that ask for no weights beyond those that `--molecules` may ask for."""
    return [name for name in screenable_sets() if not any(map(needs_weights, FEATURE_SETS[name].encoders))]


def named_sets(names: Sequence[str], molecules: str) -> list[FeatureSet]:
    """Return feature sets by name or TOML file, with `molecules` where their blocks name no encoder.

    Raises
    ------
    InputError
        Unknown set, one that needs a first-level run, or the same name twice.
    """
    sets = [feature_set(name).with_molecules(molecules) for name in names]
    for features in sets:
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


class Step(NamedTuple):
    """A step of forward selection: the block that was added, and the score with it."""

    block: Block
    score: float


def forward_selection(
    blocks: Sequence[Block], score: Callable[[FeatureSet], float], empty: float
) -> list[Step]:
    """Add the block that lowers the score most, as long as one does.

    Parameters
    ----------
    blocks : sequence of Block
    score : callable
        Of a feature set; lower is better.
    empty : float
        Score without any block.
    """
    steps: list[Step] = []
    while True:
        taken = [step.block for step in steps]
        left = [block for block in blocks if block not in taken]
        tried = [Step(block, score(set_of([*taken, block]))) for block in left]
        best = min(tried, key=lambda step: step.score, default=None)
        if best is None or best.score >= (steps[-1].score if steps else empty):
            return steps
        steps.append(best)


def set_of(blocks: Sequence[Block], name: str = "selected") -> FeatureSet:
    """Return a feature set of some blocks."""
    return FeatureSet(name=name, description=" + ".join(block.name for block in blocks), blocks=tuple(blocks))
