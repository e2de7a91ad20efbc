"""A small problem for the stack's tests, and the check that nothing leaks."""

import numpy as np
import pandas as pd

from features.feature_sets import feature_set
from features.rows import Rows
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.nets.settings import Block, EmbeddingMlp, Mlp, Training
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember
from rapids_pipeline.stack.nested import FoldedRows, fit_member
from rapids_pipeline.stack.recipe import Recipe

N_FOLDS = 3
UNMOVED = 1e-4
"""How far rounding may move a prediction that must not move."""
TO_ROUNDING = 1e-5
"""How far a row's prediction may depend on the rows beside it, relative to the spread of the predictions."""


def with_made_up(name):
    """A feature set on the molecule features that the example has."""
    return feature_set(name).with_molecules("made up")


SVR = SvrMember(engine="douglas-rachford", features=with_made_up("svr_shared"))
LOO = SvrMember(engine="douglas-rachford", features=with_made_up("svr_loo"))
OWN = OwnTargetSvrMember(features=with_made_up("svr_per_target"))
KERNEL_MODEL = KernelModelConfig(
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
COMPOSITE = CompositeMember(
    known_compounds=KERNEL_MODEL,
    new_compounds=KERNEL_MODEL.model_copy(
        update={"weights": {"cell_type": 1.0, "rbf(made up)": 1.0}, "transform": "none"}
    ),
)


NET = NetMember(
    architecture=EmbeddingMlp(embedding=4, blocks=(Block(width=12, dropout=0.1),)),
    training=Training(learning_rate=0.02, batch_size=16, epochs=8),
    n_components=5,
    transform="none",
    replicas=3,
    aggregate="median",
)


def net(*stacks_on, **changed):
    """A net on the columns of a feature set, on predictions of some members or on none."""
    features = with_made_up("boosting" if stacks_on else "svr_loo")
    settings = {"architecture": Mlp(blocks=(Block(width=12),)), "features": features, "name": features.name}
    return NET.updated(**settings | changed, stacks_on=stacks_on)


def booster(*stacks_on, **changed):
    """A quick booster on some members, or on none."""
    features = with_made_up("boosting" if stacks_on else "onehot_loo")
    settings = {"n_estimators": 10, "n_components": 5, "learning_rate": 0.3, "features": features}
    return BoosterMember(**settings | changed, stacks_on=stacks_on)


BOOSTER = booster("svr_shared")


def stacked_svr(*stacks_on, **changed):
    """An SVR of the second level."""
    return SvrMember(
        engine="douglas-rachford", features=with_made_up("boosting"), stacks_on=stacks_on, **changed
    )


def recipe(*members, **changed):
    """A recipe of the example."""
    return Recipe(name="example", n_folds=N_FOLDS, members=members or (SVR, BOOSTER), **changed)


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


def training_set(train, test, Y, weight=None, seed=0):
    """All rows of a problem, for fits that stack on nothing."""
    return TrainingSet(Rows.joined(train, test), Y, weight, (), seed, "cpu")


def fitted(member, train, test, Y, folds, first=None, labels=None, seed=0, **options):
    """A member fitted and nested, on predictions of `first` or of members of the example that it stacks on."""
    if first is None:
        below = {one.name: one for one in (SVR, OWN, COMPOSITE)}
        first = [fitted(below[name], train, test, Y, folds) for name in member.stacks_on]
    return fit_member(member, FoldedRows(train, test, Y, folds, seed, "cpu"), first, labels, **options)


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


def assert_alone_as_among_others(predict, rows):
    """A row's prediction alone is its prediction in a batch, to rounding."""
    together = predict(rows)
    alone = np.vstack([predict(rows.take(np.array([row]))) for row in range(len(rows.obs))])
    np.testing.assert_allclose(alone, together, rtol=0, atol=TO_ROUNDING * np.ptp(together))
