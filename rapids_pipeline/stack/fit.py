"""The fit of a whole stack: members of both levels, with and without pseudo-labels, the choice between them, the blend.

One set of outer folds scores everything. Every member is nested over it (`rapids_pipeline.stack.nested`); the blend and
the choice for or against pseudo-labels (`rapids_pipeline.stack.blend`) rest on rows that no member saw. A fitted stack
is a `StackModel`, which predicts new pairs and can be saved.

    level 1          members that learn from the training rows
    level 2          members that also read the predictions of others
    objective        the contrast of the blend, where the recipe's objective is another than MRRMSE
    pseudo-labels    of the test rows: the mean of a member's teachers (for outer fold k of those that never saw fold k)
    NAME_pseudo      a member that learns from the training rows and the labelled test rows
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, row_blocks
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.parallel import THREADS, Executor
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.store import Store
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import tested_range
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.stack.blend import Evidence, Products
from rapids_pipeline.stack.compact import Compact
from rapids_pipeline.stack.contrast import Effects
from rapids_pipeline.stack.members.member import PSEUDO
from rapids_pipeline.stack.nested import FittedMember, FoldedRows, Labels, fit_member, neighbours
from rapids_pipeline.stack.objective import HeldOut, Tuned, contrast_of, folded_splits, judges_of, tuned
from rapids_pipeline.stack.recipe import Recipe
from rapids_pipeline.stack.room import needs_landmarks
from rapids_pipeline.stack.saved import StackModel, by_names_of, new_pairs, stacks_on_of

OFF, ON = "off", "on"
"""What is chosen between for a member: without and with pseudo-labels."""
Uses = tuple[str, ...]
"""A choice for every member of a recipe, in its order."""


@dataclass(frozen=True, eq=False)
class FittedStack:
    """A stack after fitting; n training rows, m test rows, t targets.

    Attributes
    ----------
    model : StackModel
    oof : (n, t)
        Out-of-fold blend, clipped as the recipe says: no row's own target has reached its prediction. It is without
        the contrast of an objective, whose numbers are chosen on rows that were held out otherwise.
    test : (m, t)
        What `model` predicts for the test rows.
    members, test_members : dict of member to Compact, (n, t), (m, t)
        Out-of-fold and test predictions of every member that was made.
    dropping : dict of member to float
        By how much the blend's out-of-fold MRRMSE rises without the member.
    pseudo_labels : dict
        "off" and "on" to that MRRMSE without and with pseudo-labels; with several members to choose for, that by
        member, the others as they were chosen; empty where there was no choice.
    notes : list of str
        What a reader should know of the members.
    tuned : Tuned, optional
        What was chosen for the recipe's objective; None for "mrrmse".
    """

    model: StackModel
    oof: Float32
    test: Float32
    members: dict[str, Compact]
    test_members: dict[str, Compact]
    dropping: dict[str, float]
    pseudo_labels: dict[str, Any]
    notes: list[str]
    tuned: Tuned | None = None


def fit_stack(
    train: Rows,
    test: Rows,
    Y: Float32,
    folds: Indices,
    recipe: Recipe,
    seed: int,
    device: DeviceName,
    stages: Stages | None = None,
    weight: Float64 | None = None,
    executor: Executor = THREADS,
    folder: Path | None = None,
    on_landmarks: bool | None = None,
) -> FittedStack:
    """Fit all members, choose between them, and blend.

    Parameters
    ----------
    train, test : Rows
        n training rows, and the m rows that will be predicted (pseudo-labels are given to these).
    Y : ndarray of float32, (n, t)
        NaN where a gene was not tested: fits impute (`TrainingSet.targets`), all evidence is of tested entries.
    folds : ndarray of int, (n,)
        Outer fold of each training row; at least three folds.
    recipe : Recipe
        Whose blocks of molecules all name an encoder (`Recipe.with_molecules`).
    seed : int
    device : str
    stages : Stages, optional
        One stage a member, named like it.
    weight : ndarray of float64, (n,), optional
        What each training row counts in fits; all alike by default.
    executor : Executor
        Runs the fits of a member.
    folder : Path, optional
        Where finished fits are kept and looked for, until the stack is fitted.
    on_landmarks : bool, optional
        Whether kernel models are solved on landmarks; by default as `needs_landmarks` says now.
    """
    if on_landmarks is None:
        n, t = Y.shape
        on_landmarks = needs_landmarks(n, t, device)
    rows = FoldedRows(train, test, Y, folds, seed, device, weight, on_landmarks)
    with threadpool_limits(1, "blas"):  # as in units: no bit depends on the number of threads
        return _fitted(rows, recipe, stages or Stages(), executor, folder)


def _fitted(
    rows: FoldedRows, recipe: Recipe, stages: Stages, executor: Executor, folder: Path | None
) -> FittedStack:
    known = rows.train, rows.test, rows.Y, rows.folds, rows.seed, rows.device, rows.weight, rows.on_landmarks
    store = None if folder is None else Store(folder, "stack", *known)
    fitted: dict[str, FittedMember] = {}
    objective = recipe.blend.objective
    judging = None
    if objective != "mrrmse":
        judging = folded_splits(objective, rows.train.obs, rows.test.obs, recipe.n_folds, rows.seed)
    read = {name for member in recipe.members for name in member.stacks_on}
    for form in recipe.forms:
        member = form.member
        with stages.stage(form.name) as progress:
            first = [fitted[name] for name in member.stacks_on]
            labels = None
            if form.labelled:
                teachers = [fitted[teacher.name] for teacher in recipe.teachers_of(member)]
                labels = Labels.mean_of(teachers, member.pseudo_labels.weight)
            fitted[form.name] = fit_member(
                member, rows, first, labels, progress, executor, store, read=member.name in read
            )
    with stages.stage("blend"):
        stack = _blended(fitted, rows, recipe)
    if judging is None:
        return stack
    with stages.stage("objective") as progress:
        return _with_contrast(stack, rows, recipe, judging, progress, executor, folder)


def _blended(fitted: Mapping[str, FittedMember], rows: FoldedRows, recipe: Recipe) -> FittedStack:
    Y, folds = rows.Y, rows.folds
    oof = {name: member.oof for name, member in fitted.items()}
    judged = {name: member.judged for name, member in fitted.items()}
    counts = recipe.blend.weights
    fixed = {form.name: counts.get(form.member.name, 0.0) for form in recipe.forms} if counts else {}
    how = recipe.blend.shrink, fixed, recipe.blend.amplitude
    evidence = Evidence(Products.of(oof, Y), Products.of(judged, Y), folds, *how)
    candidates = _candidates(recipe)
    chosen = evidence.chosen(candidates)
    blended = candidates[chosen]
    read = {name for names in stacks_on_of(recipe, blended).values() for name in names}
    kept = [name for name in fitted if name in read or name in blended]
    low, high = _bounds(Y, recipe.blend.clip)
    model = StackModel(
        models={name: fitted[name].model for name in kept},
        stacks_on=stacks_on_of(recipe, kept),
        weights=evidence.weights(blended),
        low=low,
        high=high,
        by_names=by_names_of(recipe, blended),
        cell_types=_labels(rows.train, "cell_type"),
        compounds=_labels(rows.train, "sm_name"),
    )
    test = {name: member.test for name, member in fitted.items()}
    forms = [form for form in recipe.forms if form.name in blended]
    return FittedStack(
        model,
        _out_of_fold(evidence, candidates, oof, rows, recipe),
        model.blended(test, rows.test),
        oof,
        test,
        _dropping(evidence, blended),
        _compared(evidence, candidates, chosen, recipe),
        [
            *(note for form in forms for note in form.member.notes(fitted[form.name].model)),
            *_notes_on_new(model, rows.test),
        ],
    )


def _with_contrast(
    stack: FittedStack,
    rows: FoldedRows,
    recipe: Recipe,
    judging: tuple[str, list[tuple[Split, Indices]]],
    progress: Progress,
    executor: Executor,
    folder: Path | None,
) -> FittedStack:
    """Return the stack with the contrast that its recipe's objective asks for, chosen on the rows of splits."""
    obs, plain = rows.train.obs, recipe.updated(blend=recipe.blend.updated(objective="mrrmse"))
    name, splits = judging
    whole, genes = rows.measured.of(np.arange(len(obs))), tuple(map(str, range(rows.Y.shape[1])))
    progress.start(len(splits), f"{name} splits")
    found = []
    for split, folds in splits:
        inside, outside = rows.train.take(split.training), rows.train.take(split.held_out)
        weight = None if rows.weight is None else rows.weight[split.training]
        given = inside, outside, rows.Y[split.training], folds, plain, rows.seed, rows.device
        how: dict[str, Any] = {"weight": weight, "executor": executor, "folder": folder}
        how["on_landmarks"] = rows.on_landmarks
        fitted = fit_stack(*given, **how)
        training = PerturbationData(inside.obs, rows.measured.of(split.training), genes)
        held_out = PerturbationData(outside.obs, whole[split.held_out], genes)
        found.append(HeldOut(training, held_out, fitted.test))
        progress.advance()
    judges = judges_of(found)
    chosen = replace(tuned(recipe.blend.objective, judges), split=name)
    model = replace(stack.model, contrast=contrast_of(chosen.choice, judges, Effects.of(obs, whole)))
    test = model.blended(stack.test_members, rows.test)
    return replace(stack, model=model, test=test, tuned=chosen, notes=[*stack.notes, chosen.sentence()])


def _labels(rows: Rows, column: str) -> tuple[str, ...]:
    return tuple(sorted(set(rows.obs[column].astype(str))))


def _notes_on_new(model: StackModel, test: Rows) -> list[str]:
    """Return for how many pairs to predict some members count nothing."""
    count = int(new_pairs(test.obs, model.cell_types, model.compounds).sum())
    if not model.by_names or not count:
        return []
    who = f"{', '.join(model.by_names)} know pairs by names alone and count nothing there"
    return [f"{count} pairs have a new cell type or compound; {who}"]


def _candidates(recipe: Recipe) -> dict[Uses, list[str]]:
    """Return the lists of members to choose from, by what each member's pseudo-labels are in it."""
    uses = (
        (OFF, ON) if member.pseudo_labels.use == "auto" else (member.pseudo_labels.use,)
        for member in recipe.members
    )
    order = [form.name for form in recipe.forms]
    found = {}
    for choice in product(*uses):
        names = {m.name + PSEUDO * (use == ON) for m, use in zip(recipe.members, choice, strict=True)}
        found[choice] = [name for name in order if name in names]
    return found


def _out_of_fold(
    evidence: Evidence,
    candidates: Mapping[Uses, list[str]],
    oof: Mapping[str, Compact],
    rows: FoldedRows,
    recipe: Recipe,
) -> Float32:
    """Return the blend of every fold's rows, with choices, weights and bounds that never saw the fold."""
    blended = np.empty_like(rows.Y)
    for fold, _ in neighbours(evidence.folds):
        inside = np.flatnonzero(evidence.folds != fold)
        members = candidates[evidence.chosen_for(fold, candidates)]
        weights, others = evidence.weights_for(fold, members), rows.train.take(inside)
        known = _labels(others, "cell_type"), _labels(others, "sm_name")
        low, high = _bounds(rows.Y[inside], recipe.blend.clip)
        outside = np.flatnonzero(evidence.folds == fold)
        for some in row_blocks(len(outside)):
            here = outside[some]
            new = new_pairs(rows.train.obs.iloc[here], *known)
            mixed = weights.mix(
                {name: oof[name][here] for name in members}, new, by_names_of(recipe, members)
            )
            blended[here] = np.clip(mixed, low, high)
    return blended


def _bounds(Y: Float32, clip: bool) -> tuple[Float32, Float32]:
    """Return the smallest and largest tested value of every gene; no bounds where there are none, or without `clip`."""
    most = np.float32(np.finfo(np.float32).max)
    if not clip:
        return np.full(Y.shape[1], -most), np.full(Y.shape[1], most)
    low, high = tested_range(Y)
    return np.where(np.isnan(low), -most, low), np.where(np.isnan(high), most, high)


def _dropping(evidence: Evidence, members: Sequence[str]) -> dict[str, float]:
    """Return by how much the blend gets worse without each member, where there are several."""
    if len(members) == 1:
        return {}
    whole = evidence.score(members)
    return {name: evidence.score([m for m in members if m != name]) - whole for name in members}


def _compared(
    evidence: Evidence, candidates: Mapping[Uses, list[str]], chosen: Uses, recipe: Recipe
) -> dict[str, Any]:
    """Return `FittedStack.pseudo_labels`."""
    found = {}
    for place, member in enumerate(recipe.members):
        if member.pseudo_labels.use == "auto":
            either = {use: (*chosen[:place], use, *chosen[place + 1 :]) for use in (OFF, ON)}
            found[member.name] = {use: evidence.score(candidates[uses]) for use, uses in either.items()}
    return next(iter(found.values())) if len(found) == 1 else found
