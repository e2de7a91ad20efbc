"""A small problem for the stack's tests, and the check that nothing leaks."""

import numpy as np
import pandas as pd

from features.feature_sets import feature_set
from features.rows import Rows
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.recipe import (
    BoostingConfig,
    KernelConfig,
    MachineConfig,
    PseudoLabelConfig,
    Recipe,
    SvrConfig,
)

N_FOLDS = 3
UNMOVED = 1e-4
"""How far rounding may move a prediction that must not move."""


def with_made_up(name):
    """A feature set on the molecule features that the example has."""
    return feature_set(name).with_molecules("made up")


SVR = SvrConfig(engine="douglas-rachford", features=with_made_up("svr_shared"))
LOO = SVR.model_copy(update={"features": with_made_up("svr_loo")})
OWN = SvrConfig(features=with_made_up("svr_per_target"))
MACHINE = MachineConfig(
    weights={
        "cell_type": 1.0,
        "correlation * rbf(made up)": 1.0,
        "profile_linear": 1.0,
        "correlation * profile_linear": 3.0,
        "correlation * profile_rbf": 1.0,
    },
    n_components=12,
    penalty=0.5,
    noise_exponent=0.1,
)
COMPOSITE = KernelConfig(
    known=MACHINE,
    new_compounds=MACHINE.model_copy(
        update={"weights": {"cell_type": 1.0, "rbf(made up)": 1.0}, "transform": "none"}
    ),
)
BOOSTING = BoostingConfig(
    n_estimators=10, n_components=5, learning_rate=0.3, features=with_made_up("boosting")
)


def recipe(svrs=(SVR,), boosting=BOOSTING, use="off", kernels=(), **changed):
    """A recipe of the example."""
    return Recipe(
        name="example",
        n_folds=N_FOLDS,
        svrs=svrs,
        kernels=kernels,
        boosting=boosting,
        pseudo_labels=PseudoLabelConfig(use=use),
        **changed,
    )


def example(n_genes=25, seed=0):
    """48 rows of 4 cell types and 16 compounds, most measured in three of them, and 6 test rows."""
    rng = np.random.default_rng(seed)
    pairs = [(c, m) for m in range(16) for c in range(4)]
    held = {(c, m) for c, m in pairs if c == m % 4}
    cells, compounds = rng.normal(size=(4, n_genes)), rng.normal(size=(16, n_genes))
    structures = rng.normal(size=(16, 10)).astype(np.float32)

    def rows(chosen):
        obs = pd.DataFrame(
            {"cell_type": [f"cell {c}" for c, _ in chosen], "sm_name": [f"drug {m:02d}" for _, m in chosen]}
        )
        return Rows(obs, {"made up": structures[[m for _, m in chosen]]})

    training = [pair for pair in pairs if pair not in held]
    Y = np.array([cells[c] + compounds[m] * (1 + 0.3 * c) for c, m in training])
    Y += 0.3 * rng.normal(size=Y.shape)
    return rows(training), rows(sorted(held)[:6]), Y.astype(np.float32)


def folded(Y, seed=0):
    """Its outer folds."""
    return random_folds(len(Y), N_FOLDS, seed)


def moved(Y, rows, predict):
    """Largest change of each row's prediction when 1000 is added to the targets of `rows`; by member.

    `predict` turns targets into a dict of member to out-of-fold predictions.
    """
    changed = Y.copy()
    changed[rows] += 1000
    before, after = predict(Y), predict(changed)
    return {name: np.max(np.abs(after[name] - before[name]), axis=1) for name in before}


def assert_leak_free(movement, rows, folds):
    """`rows` stay, and every row of another fold, which they help to train, moves."""
    for name, by_row in movement.items():
        assert by_row[rows].max() <= UNMOVED, f"{name}: the prediction of a row moved with its own target"
        assert by_row[folds != folds[rows[0]]].max() > 1, f"{name}: nothing learns from the row"
