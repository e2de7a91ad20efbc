"""The two-level stack: SVRs of all genes, boosters on top, pseudo-labels where they help, and the blend.

One set of outer folds scores everything. Members of the first level (`rapids_pipeline.stack.members.svr`) are nested
over it; boosters (`rapids_pipeline.stack.members.booster`) learn from those predictions; the blend and the choice for
or against pseudo-labels (`rapids_pipeline.stack.blend`) rest on rows that no member saw. A fitted stack is a
`StackModel`, which predicts new pairs and can be saved.

    stage 1   boosters on the training rows
    labels    of the test rows: the mean of all stage-1 members (for outer fold k of those that never saw fold k)
    stage 2   boosters on the training rows and the labelled test rows
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.rows import Rows
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.stack.blend import Evidence, Products
from rapids_pipeline.stack.members.booster import BoostedMember, BoostingProblem, PseudoLabels, boosted_member
from rapids_pipeline.stack.members.svr import FittedMember, fit_member
from rapids_pipeline.stack.model import StackModel
from rapids_pipeline.stack.nested import FirstLevel, Indices, Matrix, neighbours
from rapids_pipeline.stack.recipe import BOOSTING, BOOSTING_PSEUDO, Recipe

STAGE_1, STAGE_2 = "off", "on"
"""What is chosen between: without and with pseudo-labels."""


@dataclass(frozen=True)
class Scores:
    """Out-of-fold MRRMSE that the choices of a stack rest on.

    Attributes
    ----------
    dropping : dict of member to float
        By how much the blend gets worse without the member.
    pseudo_labels : dict of "off" and "on" to float
        The blend's without and with pseudo-labels; empty where only one was made.
    """

    dropping: dict[str, float]
    pseudo_labels: dict[str, float]


@dataclass(frozen=True, eq=False)
class FittedStack:
    """A stack after fitting; n training rows, m test rows, t targets.

    Attributes
    ----------
    model : StackModel
    oof : (n, t)
        Out-of-fold blend, clipped as the recipe says: no row's own target has reached its prediction.
    test : (m, t)
        What `model` predicts for the test rows.
    members, test_members : dict of member to (n, t), (m, t)
        Out-of-fold and test predictions of every member that was made.
    scores : Scores
    explained_share : float
        Share of the squared (transformed) targets that the boosters' target space keeps.
    """

    model: StackModel
    oof: Matrix
    test: Matrix
    members: dict[str, Matrix]
    test_members: dict[str, Matrix]
    scores: Scores
    explained_share: float


def fit_stack(
    train: Rows,
    test: Rows,
    Y: Matrix,
    folds: NDArray[np.intp],
    recipe: Recipe,
    seed: int,
    device: DeviceName,
    stages: Stages | None = None,
) -> FittedStack:
    """Fit all members, choose between them, and blend.

    Parameters
    ----------
    train, test : Rows
        n training rows, and the m rows that will be predicted (pseudo-labels are given to these).
    Y : ndarray of float32, (n, t)
    folds : ndarray of int, (n,)
        Outer fold of each training row; at least three folds.
    recipe : Recipe
        Whose blocks of molecules all name an encoder (`Recipe.with_molecules`).
    seed : int
    device : str
    stages : Stages, optional
        One stage a member, named like it.
    """
    stages = stages or Stages()
    first = fit_first_level(train, test, Y, folds, recipe, seed, device, stages)
    level_1 = FirstLevel([member.predictions for member in first.values()])
    problem = BoostingProblem(train, test, Y, folds, level_1, recipe.boosting, device)
    with stages.stage(BOOSTING) as progress:
        boosted = {BOOSTING: boosted_member(problem, seed, progress)}
    if recipe.pseudo_labels.use != "off":
        with stages.stage(BOOSTING_PSEUDO) as progress:
            labels = labels_of(first, boosted[BOOSTING], recipe.pseudo_labels.weight)
            problem = BoostingProblem(train, test, Y, folds, level_1, recipe.boosting, device, labels)
            boosted[BOOSTING_PSEUDO] = boosted_member(problem, seed, progress)
    with stages.stage("blend"):
        return _blended(first, boosted, Y, folds, recipe)


def fit_first_level(
    train: Rows,
    test: Rows,
    Y: Matrix,
    folds: NDArray[np.intp],
    recipe: Recipe,
    seed: int,
    device: DeviceName,
    stages: Stages,
) -> dict[str, FittedMember]:
    """Fit the members of the first level, by name."""
    members = {}
    for config in recipe.first_level:
        with stages.stage(config.name) as progress:
            members[config.name] = fit_member(train, test, Y, folds, config, seed, device, progress)
    return members


def labels_of(first: Mapping[str, FittedMember], boosted: BoostedMember, weight: float) -> PseudoLabels:
    """Return the mean of all stage-1 members' predictions of the test rows."""
    share = np.float32(1 / (len(first) + 1))
    nested, test = boosted.nested_test * share, boosted.test * share
    for member in first.values():
        nested += member.predictions.nested_test * share
        test += member.predictions.test * share
    return PseudoLabels(nested, test, weight)


def _blended(
    first: Mapping[str, FittedMember],
    boosted: Mapping[str, BoostedMember],
    Y: Matrix,
    folds: Indices,
    recipe: Recipe,
) -> FittedStack:
    oof = {name: member.predictions.oof for name, member in first.items()}
    oof |= {name: member.oof for name, member in boosted.items()}
    judged = {name: _judged(member, folds) for name, member in first.items()}
    judged |= {name: member.judged for name, member in boosted.items()}
    evidence = Evidence(Products.of(oof, Y), Products.of(judged, Y), folds, recipe.blend.shrink)
    candidates = _candidates(list(first), recipe.pseudo_labels.use)
    stage = evidence.chosen(candidates)
    members = candidates[stage]
    booster = boosted[members[-1]]
    low, high = _bounds(Y, recipe.blend.clip)
    model = StackModel(
        first={name: member.model for name, member in first.items()},
        boosters=booster.model,
        booster_name=members[-1],
        weights=evidence.weights(members),
        low=low,
        high=high,
    )
    test = {name: member.predictions.test for name, member in first.items()}
    test |= {name: member.test for name, member in boosted.items()}
    return FittedStack(
        model,
        _out_of_fold(evidence, candidates, oof, Y, recipe.blend.clip),
        model.blend(test),
        oof,
        test,
        _scores(evidence, candidates, stage),
        booster.model.fitted[0].space.explained_share_,
    )


def _candidates(first: list[str], use: str) -> dict[str, list[str]]:
    """Return the lists of members to choose from, the booster last."""
    stages = {STAGE_1: [*first, BOOSTING], STAGE_2: [*first, BOOSTING_PSEUDO]}
    return stages if use == "auto" else {use: stages[use]}


def _judged(member: FittedMember, folds: Indices) -> Matrix:
    """Return the predictions of every fold's rows by models that the fold before it reached in no way."""
    judged = np.empty_like(member.predictions.oof)
    for k, before in neighbours(folds):
        judged[folds == k] = member.predictions.nested[before][folds == k]
    return judged


def _out_of_fold(
    evidence: Evidence,
    candidates: Mapping[str, list[str]],
    oof: Mapping[str, Matrix],
    Y: Matrix,
    clip: bool,
) -> Matrix:
    """Return the blend of every fold's rows, with choices, weights and bounds that never saw the fold."""
    blended = np.empty_like(Y)
    for fold, _ in neighbours(evidence.folds):
        rows = evidence.folds == fold
        members = candidates[evidence.chosen_for(fold, candidates)]
        weights = evidence.weights_for(fold, members)
        low, high = _bounds(Y[~rows], clip)
        blended[rows] = np.clip(weights.mix({name: oof[name][rows] for name in members}), low, high)
    return blended


def _bounds(Y: Matrix, clip: bool) -> tuple[Matrix, Matrix]:
    """Return the smallest and largest value of every gene, or no bounds at all."""
    if clip:
        return Y.min(axis=0), Y.max(axis=0)
    none = np.full(Y.shape[1], np.finfo(np.float32).max, dtype=np.float32)
    return -none, none


def _scores(evidence: Evidence, candidates: Mapping[str, list[str]], stage: str) -> Scores:
    members = candidates[stage]
    whole = evidence.score(members)
    dropping = {}
    if len(members) > 1:
        dropping = {name: evidence.score([m for m in members if m != name]) - whole for name in members}
    compared = (
        {name: evidence.score(found) for name, found in candidates.items()} if len(candidates) > 1 else {}
    )
    return Scores(dropping, compared)
