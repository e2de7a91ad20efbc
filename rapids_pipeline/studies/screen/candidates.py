"""Candidates of a screen: feature sets by name, a set without each of its blocks, the blocks that several sets have."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from features.blocks import Block, MoleculeBlock
from features.feature_sets import FEATURE_SETS, FeatureSet, feature_set
from features.molecules import NONE, TABLE, is_table, needs_weights, reads_structures
from features.molecules.encoders import molecule_encoder
from rapids_pipeline.backend.errors import InputError


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
