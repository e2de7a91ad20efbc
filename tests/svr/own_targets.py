"""SVRs on each target's own statistics: feature sets, and a small problem."""

import numpy as np
import pandas as pd

from features.blocks import MoleculeBlock, OneHotBlock, StatisticsBlock
from features.feature_sets import FEATURE_SETS, FeatureSet
from features.rows import Rows
from rapids_pipeline.svr.own_target.statistics import Side, sides_of

SIX = ("mean", "min", "max", "median", "first", "quantile_0.4")
SMILES = ["CCO", "c1ccccc1O", "CC(=O)O", "CCN", "CCCl", "c1ccncc1", "CC(C)=O", "OCC(O)CO"] * 4
ONEHOT = (OneHotBlock(column="cell_type"), OneHotBlock(column="sm_name"))


def statistics(column, names=SIX, **options):
    return StatisticsBlock(column=column, statistics=names, own_target=True, **options)


def recipe_of(*blocks):
    return FeatureSet(name="test", blocks=blocks)


RECIPES = {
    "published": FEATURE_SETS["svr_per_target"].with_molecules("made up"),
    "compound only": recipe_of(statistics("sm_name")),
    "cell type only": recipe_of(statistics("cell_type", ("mean",)), OneHotBlock(column="cell_type")),
    "no onehot": recipe_of(MoleculeBlock(encoder="made up"), statistics("cell_type", ("std", "first"))),
    "other statistics": recipe_of(
        *ONEHOT, statistics("sm_name", ("mean", "std", "count", "quantile_0.25"), n_folds=3)
    ),
    "smooth": recipe_of(
        *ONEHOT, statistics("sm_name", smoothing=2.5), statistics("cell_type", ("median",), smoothing=1)
    ),
    "leaky": recipe_of(
        *ONEHOT, statistics("sm_name", leaky=True), statistics("cell_type", ("mean", "max"), leaky=True)
    ),
    "two of one column": recipe_of(
        statistics("cell_type", ("mean",)), statistics("sm_name", ("mean",)), statistics("sm_name", SIX[1:])
    ),
    "reduced": recipe_of(MoleculeBlock(encoder="made up", n_components=4), statistics("sm_name", SIX * 1)),
}


def example(n=70, m=25, targets=5, seed=0):
    """Training rows of 4 cell types and 16 compounds; other rows have more of both; targets that depend on both."""
    rng = np.random.default_rng(seed)
    cells, compounds = (rng.integers(0, most, n + m) for most in (4, 16))
    cells[n : n + 3], compounds[n + 2 : n + 6] = 5, 20 + np.arange(4)
    made_up = rng.normal(size=(32, 10)).astype(np.float32)
    effects = [rng.normal(size=(32, targets)) for _ in range(2)]
    Y = effects[0][cells] + effects[1][compounds] + 0.5 * rng.normal(size=(n + m, targets))
    obs = pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c in cells],
            "sm_name": [f"compound {c}" for c in compounds],
            "SMILES": [SMILES[c] for c in compounds],
        }
    )
    rows = Rows(obs, {"made up": made_up[compounds]})
    return rows.take(np.arange(n)), Y[:n].astype(np.float32), rows.take(np.arange(n, n + m))


def side_of(recipe, rows, number=0, seed=0):
    return Side.fit(sides_of(recipe)[number], rows, seed)
