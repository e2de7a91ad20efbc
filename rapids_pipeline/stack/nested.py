"""Predictions of members nested over the outer folds: a model that is scored on a fold never saw it, in no way.

A member of the first level, fitted without pseudo-labels, learns from training rows alone. With S(A) its fit to all
training rows outside the folds in A:

    out-of-fold        row i of fold k     S({k})
    nested, outer k    row of fold j ≠ k   S({k, j})
                       row of fold k       mean over j ≠ k of S({k, j})
    test, outer k      test row            S({k})
    test               test row            S(∅), the model that is kept

S({k, j}) serves outer fold k and outer fold j alike, so the nesting costs n(n−1)/2 + n fits instead of n².

Any other fit also learns from predictions: those of the members it stacks on, or pseudo-labels of the test rows. With
R(k, u) its fit to the training rows outside the folds k and u, on predictions by models that never saw fold u:

    out-of-fold        row of fold k       R(k, k)
    test, outer k      test row            R(k, k)
    judged             row of fold k       R(k, k − 1)
    test               test row            the fit to all rows, on out-of-fold predictions; the model that is kept

The judged predictions of fold k make the choices for the fold before it (blend, pseudo-labels): they rest on rows that
the model was not trained on, and the fold before it reached that model in no way. (What it learns from did see fold k
there; that can only bend the choices.) A member of the first level is judged by its nested predictions.

Nothing is shared between fits that depends on targets, but what is imputed from the very same rows
(`rapids_pipeline.data.untested`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.devices import DeviceName, processor_count
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.data.untested import Imputed
from rapids_pipeline.stack.members.member import Fits, Member, Model, TrainingSet


@dataclass(frozen=True, eq=False)
class FittedMember:
    """A member's model and predictions, float32 on the host; n training rows, m test rows, t targets.

    Attributes
    ----------
    model : Model
        Fitted to all training rows.
    oof : (n, t)
        Rows of fold k by models that never saw fold k.
    judged : (n, t)
        Rows of fold k by models that the fold before it reached in no way and that were not trained on fold k.
    nested_test : (n_folds, m, t)
        For each outer fold, the test rows by a model that never saw that fold.
    test : (m, t)
        Test rows by the model of all training rows.
    nested : (n_folds, n, t), optional
        For each outer fold, all training rows by models that never saw that fold; of members that others can stack on.
    """

    model: Model
    oof: Float32
    judged: Float32
    nested_test: Float32
    test: Float32
    nested: Float32 | None = None

    def without(self, unseen: int | None) -> tuple[Float32, Float32]:
        """Return the predictions of training and of test rows by models that never saw fold `unseen`.

        With None the out-of-fold predictions and those of the model of all rows, for a model of all rows.
        """
        if unseen is None:
            return self.oof, self.test
        if self.nested is None:
            raise ValueError("only members of the first level, without pseudo-labels, can be stacked on")
        return self.nested[unseen], self.nested_test[unseen]


@dataclass(frozen=True, eq=False)
class Labels:
    """Pseudo-labels of the m test rows.

    Attributes
    ----------
    nested : ndarray of float32, (n_folds, m, t)
        For each outer fold, by models that never saw it.
    test : ndarray of float32, (m, t)
        By models of all training rows.
    weight : float
        What a pseudo-labelled row counts in training; a measured one counts 1.
    """

    nested: Float32
    test: Float32
    weight: float

    @classmethod
    def mean_of(cls, teachers: Sequence[FittedMember], weight: float) -> "Labels":
        """Return the mean of some members' predictions of the test rows."""
        share = np.float32(1 / len(teachers))
        nested, test = teachers[0].nested_test * share, teachers[0].test * share
        for teacher in teachers[1:]:
            nested += teacher.nested_test * share
            test += teacher.test * share
        return cls(nested, test, weight)


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """What a stack is fitted to: training rows with their outer folds, and the test rows; n, m rows, t targets.

    `weight`, (n,), is what each training row counts; all alike by default.
    """

    train: Rows
    test: Rows
    Y: Float32
    folds: Indices
    seed: int
    device: DeviceName
    weight: Float64 | None = None

    @cached_property
    def measured(self) -> Imputed:
        """The targets, imputed once for every choice of rows, whichever member asks."""
        return Imputed(self.Y, self.train.obs["cell_type"])

    def training_set(
        self, both: Rows, unseen: int | None, first: Sequence[FittedMember], labels: Labels | None
    ) -> TrainingSet:
        """Return the rows of fits that fold `unseen` reaches in no way; `both` are training and test rows."""
        stacked = [member.without(unseen) for member in first]
        if labels is None:
            return TrainingSet(both, self.Y, self.weight, stacked, self.seed, self.device, self.measured)
        given = labels.test if unseen is None else labels.nested[unseen]
        own = np.ones(len(self.Y)) if self.weight is None else self.weight
        weight = np.concatenate([own, np.full(len(given), labels.weight)])
        Y = np.concatenate([self.Y, given])
        return TrainingSet(both, Y, weight, stacked, self.seed, self.device, self.measured)


def neighbours(folds: Indices) -> list[tuple[int, int]]:
    """Return every fold with the fold before it, in a circle."""
    n_folds = int(folds.max()) + 1
    return [(k, (k - 1) % n_folds) for k in range(n_folds)]


def fit_member(
    member: Member,
    rows: FoldedRows,
    first: Sequence[FittedMember] = (),
    labels: Labels | None = None,
    progress: Progress | None = None,
) -> FittedMember:
    """Fit a member to all rows, and nested over the outer folds.

    The fits are independent tasks of joblib: for a kind that says so on a CPU side by side in threads, else one after
    the other; `joblib.parallel_config` spreads them otherwise.

    Parameters
    ----------
    member : Member
    rows : FoldedRows
    first : sequence of FittedMember
        Of the members that it stacks on, in this order.
    labels : Labels, optional
        Pseudo-labels of the test rows, which it then learns from, too.
    progress : Progress, optional
        Advances once a fit.
    """
    both = Rows.joined(rows.train, rows.test)
    run = partial(_run, member, rows.device, progress or Progress())
    if first or labels is not None:
        return _refitted(
            run, rows, lambda unseen: member.prepare(rows.training_set(both, unseen, first, labels))
        )
    return _nested(run, rows, member.prepare(rows.training_set(both, None, (), None)))


AnyFits = Fits[Any]
Task = tuple[AnyFits, Indices, list[Indices] | None]
"""Fits, training rows, and groups of rows to predict; None: the model is wanted."""
Run = Callable[[Iterator[Task], int], Iterator[Any]]
"""Tasks and their number → their results, in their order."""


def _run(
    member: Member, device: DeviceName, progress: Progress, tasks: Iterator[Task], n: int
) -> Iterator[Any]:
    """Yield the results of n tasks, in their order."""
    progress.start(n)
    jobs = processor_count() if member.side_by_side and device == "cpu" else 1
    calls = (delayed(_result)(task) for task in tasks)
    for result in Parallel(jobs, prefer="threads", return_as="generator")(calls):
        progress.advance()
        yield result


def _result(task: Task) -> Model | list[Float32]:
    fits, training, groups = task
    return fits.fit(training) if groups is None else fits.fit_predict(training, groups)


def _nested(run: Run, rows: FoldedRows, fits: AnyFits) -> FittedMember:
    """Return a member of the first level, fitted to training rows alone."""
    folds, n, n_folds = rows.folds, len(rows.folds), int(rows.folds.max()) + 1
    m, t = len(rows.test.obs), rows.Y.shape[1]
    tests, held_out = np.arange(n, n + m), [np.flatnonzero(folds == k) for k in range(n_folds)]
    pairs = list(combinations(range(n_folds), 2))

    def tasks() -> Iterator[Task]:
        yield fits, np.arange(n), None
        for k in range(n_folds):
            yield fits, np.flatnonzero(folds != k), [held_out[k], tests]
        for k, j in pairs:
            yield fits, np.flatnonzero((folds != k) & (folds != j)), [held_out[k], held_out[j]]

    results = run(tasks(), 1 + n_folds + len(pairs))
    model: Model = next(results)
    oof = np.empty((n, t), dtype=np.float32)
    nested = np.zeros((n_folds, n, t), dtype=np.float32)
    nested_test = np.empty((n_folds, m, t), dtype=np.float32)
    for k in range(n_folds):
        oof[held_out[k]], nested_test[k] = next(results)
    for (k, j), (of_k, of_j) in zip(pairs, results, strict=True):
        nested[k, held_out[j]], nested[j, held_out[k]] = of_j, of_k
        nested[k, held_out[k]] += of_k / (n_folds - 1)
        nested[j, held_out[j]] += of_j / (n_folds - 1)
    judged = np.empty_like(oof)
    for k, before in neighbours(folds):
        judged[held_out[k]] = nested[before][held_out[k]]
    test = model.predict(fits.data.take(tests))
    return FittedMember(model, oof, judged, nested_test, test, nested)


def _refitted(run: Run, rows: FoldedRows, prepare: Callable[[int | None], AnyFits]) -> FittedMember:
    """Return a member that also learns from predictions; `prepare(unseen)` gives fits on those that suit a fold."""
    folds, n, n_folds = rows.folds, len(rows.folds), int(rows.folds.max()) + 1
    tests, whole = np.arange(n, n + len(rows.test.obs)), prepare(None)
    labelled = np.arange(n, len(whole.data.Y))
    order = [(k, unseen) for unseen in range(n_folds) for k in (unseen, (unseen + 1) % n_folds)]

    def tasks() -> Iterator[Task]:
        yield whole, np.arange(len(whole.data.Y)), None
        for k, unseen in order:
            if k == unseen:
                fits = prepare(unseen)
            inside = np.flatnonzero((folds != k) & (folds != unseen))
            wanted = [np.flatnonzero(folds == k), *([tests] if k == unseen else [])]
            yield fits, np.concatenate([inside, labelled]), wanted

    results = run(tasks(), 1 + len(order))
    model: Model = next(results)
    oof, judged = np.empty_like(rows.Y), np.empty_like(rows.Y)
    nested_test = np.empty((n_folds, len(tests), rows.Y.shape[1]), dtype=np.float32)
    for (k, unseen), found in zip(order, results, strict=True):
        if k == unseen:
            oof[folds == k], nested_test[k] = found
        else:
            judged[folds == k] = found[0]
    test = model.predict(whole.data.take(tests))
    return FittedMember(model, oof, judged, nested_test, test)
