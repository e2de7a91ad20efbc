"""Nested predictions: against refitting everything naively, on what each fit may know, and counted."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from features.rows import Rows
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack import nested
from rapids_pipeline.stack.compact import kept
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.nested import FoldedRows, Labels, PreparedMember, fit_member, predictions_without
from tests.stack_example import (
    BOOSTER,
    COMPOSITE,
    N_FOLDS,
    OWN,
    SVR,
    booster,
    example,
    fitted,
    folded,
    stacked_svr,
    training_set,
)


class Counted(Progress):
    total = done = 0

    def start(self, total):
        self.total = total

    def advance(self, steps=1):
        self.done += steps


@pytest.mark.parametrize("member", [SVR, OWN, COMPOSITE, booster()], ids=lambda member: member.name)
def test_the_first_level_equals_refitting_for_every_pair_of_folds(member):
    train, test, Y = example(n_genes=6)
    folds = random_folds(len(Y), 4, seed=1)
    fits = member.prepare(training_set(train, test, Y, seed=3))

    def by_hand(training, wanted):
        return fits.fit_predict(np.flatnonzero(training), [np.flatnonzero(wanted)])[0]

    progress = Counted()
    found = fitted(member, train, test, Y, folds, seed=3, progress=progress)
    assert progress.total == progress.done == 1 + 4 + 6
    nested, tests = np.zeros((4, *Y.shape)), [np.arange(len(Y), len(Y) + 6)]
    for k in range(4):
        np.testing.assert_allclose(found.oof[folds == k], by_hand(folds != k, folds == k), atol=1e-4)
        expected = fits.fit_predict(np.flatnonzero(folds != k), tests)[0]
        np.testing.assert_allclose(found.nested_test[k], expected, atol=1e-4)
        for j in [j for j in range(4) if j != k]:
            neither = (folds != j) & (folds != k)
            nested[k, folds == j] = by_hand(neither, folds == j)
            nested[k, folds == k] += by_hand(neither, folds == k) / 3
        np.testing.assert_array_equal(found.judged[folds == k], found.nested[k - 1][folds == k])
    np.testing.assert_allclose(found.nested, nested, atol=1e-4)
    made = (found.oof, found.judged, *found.nested, *found.nested_test, found.test)
    assert {one[:].dtype for one in made} == {np.dtype(np.float32)}


def labels_of(test, n_genes, weight=0.5):
    nested = np.random.default_rng(5).normal(size=(N_FOLDS, len(test.obs), n_genes)).astype(np.float32)
    return Labels(nested, nested.mean(axis=0), weight)


BELOW = {"SVR": SVR, "composite": COMPOSITE, "first-level booster": booster()}
ABOVE = {"booster": BOOSTER, "second-level SVR": stacked_svr("svr_shared")}


@pytest.mark.parametrize(
    ("member", "labelled"),
    [
        *(pytest.param(member, False, id=name) for name, member in ABOVE.items()),
        *(pytest.param(member, True, id=f"{name}, labelled") for name, member in (ABOVE | BELOW).items()),
    ],
)
def test_fits_that_learn_from_predictions_equal_their_steps_by_hand(member, labelled):
    train, test, Y = example(n_genes=6)
    folds, m = folded(Y), len(test.obs)
    first = [fitted(SVR, train, test, Y, folds)] if member.stacks_on else []
    labels = labels_of(test, Y.shape[1]) if labelled else None
    progress = Counted()
    found = fitted(member, train, test, Y, folds, first, labels, seed=7, progress=progress)
    assert progress.total == progress.done == 2 * N_FOLDS + 1

    def by_hand(unseen, training, wanted):
        rows = Rows.joined(train, test)
        given, weight = Y, None
        if first:
            parts = (
                (first[0].oof, first[0].test)
                if unseen is None
                else (first[0].nested[unseen], first[0].nested_test[unseen])
            )
            rows = replace(rows, predictions=np.concatenate([one[:] for one in parts]))
        inside = np.flatnonzero(training)
        if labelled:
            given = np.concatenate([Y, labels.test if unseen is None else labels.nested[unseen]])
            weight = np.concatenate([np.ones(len(Y)), np.full(m, 0.5)])
            inside = np.concatenate([inside, np.arange(len(Y), len(Y) + m)])
        data = TrainingSet(rows, given, weight, (), 7, "cpu")
        return member.prepare(data).fit(inside).predict(rows.take(wanted))

    everything, tests = np.ones(len(Y), bool), np.arange(len(Y), len(Y) + m)
    close = {"atol": 1e-4, "rtol": 1e-4}
    for k in range(N_FOLDS):
        before, rows = (k - 1) % N_FOLDS, np.flatnonzero(folds == k)
        both = by_hand(k, folds != k, np.concatenate([rows, tests]))
        np.testing.assert_allclose(found.oof[rows], both[: len(rows)], **close)
        np.testing.assert_allclose(found.nested_test[k], both[len(rows) :], **close)
        judged = by_hand(before, (folds != k) & (folds != before), rows)
        np.testing.assert_allclose(found.judged[rows], judged, **close)
    np.testing.assert_allclose(found.test, by_hand(None, everything, tests), **close)


@pytest.mark.parametrize("n_folds", [3, 5])
def test_a_member_that_none_reads_is_fitted_less_often_and_predicts_the_same(n_folds):
    train, test, Y = example(n_genes=6)
    folds, progress = random_folds(len(Y), n_folds, seed=1), Counted()
    whole = fitted(SVR, train, test, Y, folds)
    found = fitted(SVR, train, test, Y, folds, progress=progress, read=False)
    assert progress.total == progress.done == 1 + 2 * n_folds
    assert found.nested is None
    for name in ("oof", "judged", "test"):
        assert getattr(found, name)[:].tobytes() == getattr(whole, name)[:].tobytes(), name
    for one, other in zip(found.nested_test, whole.nested_test, strict=True):
        assert one[:].tobytes() == other[:].tobytes()


def test_the_second_level_reads_the_members_side_by_side_in_the_order_asked_for():
    train, test, Y = example(n_genes=4)
    folds = folded(Y)
    first, other = (fitted(member, train, test, Y, folds) for member in (SVR, COMPOSITE))
    rows = FoldedRows(train, test, Y, folds, 0, "cpu")
    which = np.array([3, len(Y) + 1, 0])
    for unseen, parts in (
        (None, [(member.oof, member.test) for member in (other, first)]),
        (1, [(member.nested[1], member.nested_test[1]) for member in (other, first)]),
    ):
        data = rows.training_set(None).learning_from(predictions_without(unseen, (other, first), None))
        expected = np.hstack([np.concatenate([one[:] for one in both])[which] for both in parts])
        np.testing.assert_allclose(data.take(which).predictions, expected, rtol=1e-5, atol=1e-6)
        assert data.rows.predictions is None


def test_only_members_with_nested_predictions_can_be_stacked_on():
    train, test, Y = example(n_genes=4)
    second = fitted(BOOSTER, train, test, Y, folded(Y))
    assert second.nested is None
    with pytest.raises(ValueError, match="only members of the first level"):
        fitted(BOOSTER, train, test, Y, folded(Y), [second])


@pytest.mark.parametrize("member", [SVR, COMPOSITE, booster()], ids=lambda member: member.name)
def test_what_rows_count_reaches_every_fit(member):
    train, test, Y = example(n_genes=6)
    weight = np.random.default_rng(0).uniform(0.2, 3.0, len(Y))
    rows = FoldedRows(train, test, Y, folded(Y), 0, "cpu", weight)
    found = fit_member(member, rows)
    fits = member.prepare(training_set(train, test, Y, weight))
    tests = np.arange(len(Y), len(Y) + len(test.obs))
    np.testing.assert_allclose(found.test, fits.fit_predict(np.arange(len(Y)), [tests])[0], atol=1e-5)
    assert np.abs(found.test[:] - fitted(member, train, test, Y, folded(Y)).test[:]).max() > 1e-3
    labelled = rows.training_set(Labels(np.stack(found.nested_test), found.test[:], 0.5))
    np.testing.assert_array_equal(labelled.weight, [*weight, *[0.5] * len(test.obs)])


# --- units ------------------------------------------------------------------------------------------------


LONE = BOOSTER.updated(stacks_on=(), features=SVR.features)


@pytest.mark.parametrize("member", [SVR, OWN, COMPOSITE, LONE, LONE.updated(n_seeds=2)])
def test_a_unit_keeps_what_the_fits_predict(member):
    """Also where two boosters are aggregated, which no scores stand for; and the fits travel without what they made."""
    train, test, Y = example()
    training, groups = np.arange(30), [np.arange(30, len(Y)), np.arange(len(Y), len(Y) + 6)]
    prepared = PreparedMember(member, training_set(train, test, Y))
    expected = prepared.fits.fit_predict(training, groups)
    arrived = pickle.loads(pickle.dumps(prepared))
    assert not arrived._fits
    for found in (nested.fitted(prepared, (training, groups)), nested.fitted(arrived, (training, groups))):
        for one, other in zip(kept(found), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("member", [COMPOSITE, LONE])
def test_a_member_that_solves_components_keeps_scores(member):
    """Of 400 genes fewer numbers are kept than are predicted."""
    train, test, Y = example(n_genes=400)
    task = np.arange(30), [np.arange(30, len(Y)), np.arange(len(Y), len(Y) + 6)]
    found = nested.fitted(PreparedMember(member, training_set(train, test, Y)), task)
    assert sum(one.size for name, one in found.arrays.items() if name.endswith("scores")) < 24 * 400 / 4


def test_the_key_of_a_member_is_that_of_all_it_learns_from():
    train, test, Y = example()
    folds = folded(Y)
    svr = fitted(SVR, train, test, Y, folds)
    other = fitted(SVR.updated(C=2.0), train, test, Y, folds)
    above = [fitted(stacked_svr(SVR.name), train, test, Y, folds, first=[first]) for first in (svr, other)]
    assert svr.key == fitted(SVR, train, test, Y, folds).key
    assert len({svr.key, other.key, *(one.key for one in above)}) == 4
    labels = [Labels(np.stack(one.nested_test), one.test[:], 0.5) for one in (svr, other)]
    weaker = Labels(labels[0].nested, labels[0].test, 0.25)
    labelled = [fitted(SVR, train, test, Y, folds, first=[], labels=some) for some in (*labels, weaker)]
    assert len({svr.key, *(one.key for one in labelled)}) == 4, "the labels and what they count"
