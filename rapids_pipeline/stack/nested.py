"""Predictions of members nested over the outer folds: a model that is scored on a fold never saw it, in no way.

A member of the first level, fitted without pseudo-labels, learns from training rows alone. With S(A) its fit to all
training rows outside the folds in A:

    out-of-fold        row i of fold k     S({k})
    nested, outer k    row of fold j ≠ k   S({k, j})
                       row of fold k       mean over j ≠ k of S({k, j})
    test, outer k      test row            S({k})
    test               test row            S(∅), the model that is kept

S({k, j}) serves outer fold k and outer fold j alike, so the nesting costs n(n−1)/2 + n fits instead of n². Where no
member stacks on this one, the nested predictions of neighbouring folds are enough, for what is judged: 2n fits.

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

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np

from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.parallel import THREADS, Executor, Shared, Unit, in_order
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.backend.store import Kept, Store, content_hash
from rapids_pipeline.data.untested import Imputed
from rapids_pipeline.stack.compact import Compact, keep, kept
from rapids_pipeline.stack.members.member import (
    Fits,
    Member,
    Model,
    Predictions,
    SolvesComponents,
    TrainingSet,
)


@dataclass(frozen=True, eq=False)
class FittedMember:
    """A member's model and its predictions, as scores where it solves components; n training rows, m test rows.

    Attributes
    ----------
    model : Model
        Fitted to all training rows.
    oof : Compact, (n, t)
        Rows of fold k by models that never saw fold k.
    judged : Compact, (n, t)
        Rows of fold k by models that the fold before it reached in no way and that were not trained on fold k.
    nested_test : list of Compact, (m, t)
        For each outer fold, the test rows by a model that never saw that fold.
    test : Compact, (m, t)
        Test rows by the model of all training rows.
    key : str
        A hash of all that it depends on but the rows.
    nested : list of Compact, (n, t), optional
        For each outer fold, all training rows by models that never saw that fold; of members that others can stack on.
    """

    model: Model
    oof: Compact
    judged: Compact
    nested_test: list[Compact]
    test: Compact
    key: str
    nested: list[Compact] | None = None

    def without(self, unseen: int | None) -> tuple[Compact, Compact]:
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
    key : str
        A hash of what they depend on but the rows; by default of themselves.
    """

    nested: Float32
    test: Float32
    weight: float
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", content_hash(self.nested, self.test))

    @classmethod
    def mean_of(cls, teachers: Sequence[FittedMember], weight: float) -> "Labels":
        """Return the mean of some members' predictions of the test rows."""
        share = np.float32(1 / len(teachers))
        nested, test = np.stack(teachers[0].nested_test) * share, teachers[0].test[:] * share
        for teacher in teachers[1:]:
            nested += np.stack(teacher.nested_test) * share
            test += teacher.test[:] * share
        return cls(nested, test, weight, content_hash([teacher.key for teacher in teachers]))


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """What a stack is fitted to: training rows with their outer folds, and the test rows; n, m rows, t targets.

    `weight`, (n,), is what each training row counts; all alike by default. `on_landmarks` is as in `TrainingSet`.
    """

    train: Rows
    test: Rows
    Y: Float32
    folds: Indices
    seed: int
    device: DeviceName
    weight: Float64 | None = None
    on_landmarks: bool = False

    @cached_property
    def measured(self) -> Imputed:
        """The targets, imputed once for every choice of rows, whichever member asks."""
        return Imputed(self.Y, self.train.obs["cell_type"])

    def training_set(self, labels: Labels | None) -> TrainingSet:
        """Return all rows for fits, without the predictions that they learn from."""
        both, weight = Rows.joined(self.train, self.test), self.weight
        if labels is not None:
            own = np.ones(len(self.Y)) if weight is None else weight
            weight = np.concatenate([own, np.full(len(labels.test), labels.weight)])
        shared = self.measured, self.on_landmarks
        return TrainingSet(both, self.Y, weight, (), self.seed, self.device, *shared)


def neighbours(folds: Indices) -> list[tuple[int, int]]:
    """Return every fold with the fold before it, in a circle."""
    n_folds = int(folds.max()) + 1
    return [(k, (k - 1) % n_folds) for k in range(n_folds)]


class PreparedMember:
    """A member with a training set, and its fits, which are made where they are first wanted."""

    def __init__(self, member: Member, data: TrainingSet) -> None:
        self.member, self.data = member, data
        self._fits: list[Fits[Any]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without the fits: they are made again there."""
        return type(self), (self.member, self.data)

    @property
    def fits(self) -> Fits[Any]:
        """The fits."""
        with self._lock:  # units side by side ask for them
            if not self._fits:
                self._fits.append(self.member.prepare(self.data))
            return self._fits[0]


def predictions_without(
    unseen: int | None, first: Sequence[FittedMember], labels: Labels | None
) -> Predictions:
    """Return the predictions that fits learn from which fold `unseen` reaches in no way; None: fits to all rows."""
    stacked = [member.without(unseen) for member in first]
    if labels is None:
        return stacked, None
    return stacked, labels.test if unseen is None else labels.nested[unseen]


def learning_from(whole: PreparedMember, given: Predictions) -> PreparedMember:
    """Return the fits of the same member to the same rows that learn from other predictions."""
    return PreparedMember(whole.member, whole.data.learning_from(given))


Group = tuple[Indices, Compact, int]
"""Rows, their predictions, and what these are divided by, as `Compact.placed` takes them."""
Task = tuple[Indices, list[Indices] | None]
"""Training rows, and groups of rows to predict; None: the model is wanted."""


def fitted(prepared: PreparedMember, task: Task) -> Kept:
    """Return the predictions of groups of rows by a fit, or what its model has learnt."""
    training, groups = task
    if groups is None:
        return Kept.of_state(prepared.fits.fit(training).state())
    asked = iter(prepared.fits.fit_compact(training, [group for group in groups if len(group)]))
    return keep([next(asked) if len(group) else Compact(0, prepared.data.Y.shape[1], []) for group in groups])


def predictions_of(model: Model, data: TrainingSet, rows: Indices) -> Compact:
    """Return what a model predicts of some rows, (m, t); there may be none."""
    if not len(rows):
        return Compact(0, data.Y.shape[1], [])
    asked = data.take(rows)
    return model.compact(asked) if isinstance(model, SolvesComponents) else Compact.of(model.predict(asked))


def fit_member(
    member: Member,
    rows: FoldedRows,
    first: Sequence[FittedMember] = (),
    labels: Labels | None = None,
    progress: Progress | None = None,
    executor: Executor = THREADS,
    store: Store | None = None,
    *,
    read: bool = True,
) -> FittedMember:
    """Fit a member to all rows, and nested over the outer folds.

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
    executor : Executor
        Runs the fits. Threads run them side by side on a CPU for a kind that says so.
    store : Store, optional
        Where finished fits are kept and looked for; made for `rows`.
    read : bool
        Whether members stack on it, which takes its nested predictions.
    """
    return _MemberFits(member, rows, first, labels, progress or Progress(), executor, store, read).run()


@dataclass(frozen=True, eq=False)
class _MemberFits:
    """All fits of a member."""

    member: Member
    rows: FoldedRows
    first: Sequence[FittedMember]
    labels: Labels | None
    progress: Progress
    executor: Executor
    store: Store | None
    read: bool

    def run(self) -> FittedMember:
        return self._refitted() if self.first or self.labels is not None else self._nested()

    @cached_property
    def key(self) -> str:
        """A hash of what the fits depend on but the rows."""
        read = [member.key for member in self.first]
        labels = None if self.labels is None else [self.labels.key, self.labels.weight]
        return content_hash(self.member, read, labels)

    def whole(self) -> PreparedMember:
        """Return the fits to all rows."""
        data = self.rows.training_set(self.labels)
        return PreparedMember(
            self.member, data.learning_from(predictions_without(None, self.first, self.labels))
        )

    def results(self, tasks: Sequence[tuple[int | None, Task]], whole: PreparedMember) -> Iterator[Kept]:
        """Return what tasks find, in their order; each has the fold that may not reach it (None: `whole`)."""
        shared: dict[int | None, Shared] = {None: Shared(lambda: whole)}
        units = []
        for place, (unseen, task) in enumerate(tasks):
            if unseen not in shared:
                differing = partial(predictions_without, unseen, self.first, self.labels)
                shared[unseen] = Shared(differing, of=shared[None], vary=learning_from)
            name = f"{self.member.name} {place + 1}/{len(tasks)}"
            units.append(Unit(name, shared[unseen], task, (self.key, unseen, *task)))
        self.progress.start(len(units))
        beside = self.rows.device == "cpu" and self.member.side_by_side(len(self.rows.Y))
        results = self.executor.results(
            fitted, units, store=self.store, progress=self.progress, side_by_side=beside
        )
        return in_order(results)

    def model_of(self, fit: Kept) -> Model:
        return self.member.model_from_state(StateReader(fit.state, self.member.name))

    def _nested(self) -> FittedMember:
        """Return a member of the first level, fitted to training rows alone."""
        rows, folds = self.rows, self.rows.folds
        n, n_folds, m, t = len(folds), int(folds.max()) + 1, len(rows.test.obs), rows.Y.shape[1]
        tests, held_out = np.arange(n, n + m), [np.flatnonzero(folds == k) for k in range(n_folds)]
        pairs = list(combinations(range(n_folds), 2)) if self.read else neighbours(folds)
        tasks: list[Task] = [(np.arange(n), None)]
        tasks += [(np.flatnonzero(folds != k), [held_out[k], tests]) for k in range(n_folds)]
        tasks += [(np.flatnonzero((folds != k) & (folds != j)), [held_out[k], held_out[j]]) for k, j in pairs]
        whole, before = self.whole(), set(neighbours(folds))
        results = self.results([(None, task) for task in tasks], whole)
        model = self.model_of(next(results))
        oof, nested_test = zip(*(kept(next(results)) for _ in range(n_folds)), strict=True)
        judged: list[Group] = []
        nested: list[list[Group]] = [[] for _ in range(n_folds)]
        for (k, j), fit in zip(pairs, results, strict=True):
            of_k, of_j = kept(fit)
            for one, other, of_one in ((k, j, of_k), (j, k, of_j)):
                if (one, other) in before:  # by a model that saw neither, judged for the fold before
                    judged.append((held_out[one], of_one, 1))
                nested[other].append((held_out[one], of_one, 1))
                nested[one].append((held_out[one], of_one, n_folds - 1))
        return FittedMember(
            model,
            Compact.placed(n, t, ((held_out[k], oof[k], 1) for k in range(n_folds))),
            Compact.placed(n, t, judged),
            list(nested_test),
            predictions_of(model, whole.data, tests),
            self.key,
            [Compact.placed(n, t, groups) for groups in nested] if self.read else None,
        )

    def _refitted(self) -> FittedMember:
        """Return a member that also learns from predictions."""
        rows, folds = self.rows, self.rows.folds
        (n, t), n_folds, whole = rows.Y.shape, int(folds.max()) + 1, self.whole()
        tests = np.arange(n, n + len(rows.test.obs))
        labelled = np.arange(n, len(whole.data.Y))
        order = [(k, unseen) for unseen in range(n_folds) for k in (unseen, (unseen + 1) % n_folds)]
        tasks: list[tuple[int | None, Task]] = [(None, (np.arange(len(whole.data.Y)), None))]
        for k, unseen in order:
            inside = np.flatnonzero((folds != k) & (folds != unseen))
            wanted = [np.flatnonzero(folds == k), *([tests] if k == unseen else [])]
            tasks.append((unseen, (np.concatenate([inside, labelled]), wanted)))
        results = self.results(tasks, whole)
        model = self.model_of(next(results))
        oof: list[Group] = []
        judged: list[Group] = []
        nested_test: dict[int, Compact] = {}
        for (k, unseen), fit in zip(order, results, strict=True):
            of_fold, *of_tests = kept(fit)
            (oof if k == unseen else judged).append((np.flatnonzero(folds == k), of_fold, 1))
            if of_tests:
                [nested_test[k]] = of_tests
        return FittedMember(
            model,
            Compact.placed(n, t, oof),
            Compact.placed(n, t, judged),
            [nested_test[k] for k in range(n_folds)],
            predictions_of(model, whole.data, tests),
            self.key,
        )
