"""What is compared: feature sets by name or file, a set without each of its blocks, or blocks added one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from features.blocks import Block
from features.feature_sets import FEATURE_SETS, FeatureSet, feature_set
from features.molecules.encoders import needs_weights
from rapids_pipeline.backend.errors import InputError

DEFAULT_REFERENCE = "onehot"
"""With --features all, what differences are taken from: to know which cell type and which compound."""


def screenable_sets() -> list[str]:
    """Return the names of the feature sets a screen can compare: those that need no first-level run."""
    return [name for name, recipe in FEATURE_SETS.items() if not recipe.needs_predictions]


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
    recipes = [_screenable(name).with_molecules(molecules) for name in names]
    found = [recipe.name for recipe in recipes]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise InputError(f"--features: {twice[0]} is there twice")
    return recipes


def without_each_block(recipe: FeatureSet) -> list[FeatureSet]:
    """Return the set itself, then the set without each of its blocks.

    Raises
    ------
    InputError
        The set has a single block.
    """
    if len(recipe.blocks) < 2:
        raise InputError(f"--search ablation: feature set {recipe.name} has one block only")
    return [recipe] + [
        FeatureSet(
            name=f"{recipe.name} − {block.name}",
            description=f"without {block.name}",
            blocks=tuple(other for other in recipe.blocks if other != block),
        )
        for block in recipe.blocks
    ]


def blocks_of(recipes: Sequence[FeatureSet]) -> list[Block]:
    """Return the distinct blocks of some sets, in order.

    Raises
    ------
    InputError
        Two different blocks have the same name, so that no set can hold both; or there is only one.
    """
    blocks = list(dict.fromkeys(block for recipe in recipes for block in recipe.blocks))
    names = [block.name for block in blocks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"--search forward: two feature sets have different blocks called {twice[0]}")
    if len(blocks) < 2:
        raise InputError("--search forward: the feature sets have one block only")
    return blocks


@dataclass(frozen=True)
class Step:
    """A step of forward selection: the block that was added, and the score with it."""

    block: Block
    score: float

    def entry(self, before: float) -> dict[str, Any]:
        """Return the step as a row of a report."""
        return {"block": self.block.name, "score": self.score, "difference": self.score - before}


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


def _screenable(name: str) -> FeatureSet:
    recipe = feature_set(name)
    if recipe.needs_predictions:
        raise InputError(
            f"feature set {name!r} stacks on first-level predictions and cannot be screened; choose among "
            f"{', '.join(screenable_sets())}"
        )
    return recipe
