"""Response transfer: against its formula by hand, its penalty, pairs without a source, and saved."""

import numpy as np
import pandas as pd
import pytest

from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader, joined, split
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.members.response_transfer import PENALTIES, ResponseTransferMember, ridge
from rapids_pipeline.stack.target_space import TargetSpace
from tests.stack_example import SVR, assert_alone_as_among_others, example, folded, recipe, training_set

MEMBER = ResponseTransferMember(n_components=6, transform="none")


def fitted(member=MEMBER, weight=None, rows=None):
    train, test, Y = rows or example()
    return member.prepare(training_set(train, test, Y, weight)).fit(np.arange(len(Y)))


def by_hand(penalty):
    """Predictions of the test rows, cell type by cell type, as the formula says."""
    train, test, Y = example()
    space = TargetSpace(6, "none", products="float32")
    S = space.components_for(Y).astype(np.float64)
    at = {(c, m): row for row, (c, m) in enumerate(zip(train.obs.cell_type, train.obs.sm_name, strict=True))}
    cells = sorted(set(train.obs.cell_type))
    found = []
    for t, c in zip(test.obs.cell_type, test.obs.sm_name, strict=True):
        parts = []
        for a in cells:
            common = [m for m in sorted(set(train.obs.sm_name)) if (a, m) in at and (t, m) in at]
            if a == t or (a, c) not in at or len(common) < 4:
                continue
            X, Z = (S[[at[cell, m] for m in common]] for cell in (a, t))
            Xc, Zc = X - X.mean(0), Z - Z.mean(0)
            B = np.linalg.solve(Xc.T @ Xc + penalty * np.eye(6), Xc.T @ Zc)
            parts.append(Z.mean(0) + (S[at[a, c]] - X.mean(0)) @ B)
        found.append(np.mean(parts, axis=0))
    return space.inverse_transform(np.array(found, np.float32))


@pytest.mark.parametrize("penalty", [0.5, 55.0])
def test_predictions_are_those_of_the_formula(penalty):
    _, test, _ = example()
    np.testing.assert_allclose(
        fitted(MEMBER.updated(penalty=penalty)).predict(test), by_hand(penalty), atol=1e-4
    )


def test_the_penalty_has_the_least_leave_one_out_error():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 5))
    Z = X @ rng.normal(size=(5, 5)) + rng.normal(size=(12, 5))
    tried = PENALTIES * np.mean(np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2)

    def left_out(alpha):
        errors = []
        for i in range(12):
            rest = np.delete(np.arange(12), i)
            errors.append(Z[i] - ridge(X[rest], Z[rest], X[[i]], alpha)[0])
        return np.mean(np.square(errors))

    best = tried[np.argmin([left_out(alpha) for alpha in tried])]
    assert PENALTIES[0] < best / tried[0] * PENALTIES[0] < PENALTIES[-1], "the best is inside the range"
    np.testing.assert_allclose(ridge(X, Z, X, "auto"), ridge(X, Z, X, best), rtol=1e-9)


def test_pairs_without_a_source_have_means():
    train, _, Y = example()
    obs = pd.DataFrame({"cell_type": ["cell 0", "new", "new"], "sm_name": ["new", "drug 05", "new"]})
    found = fitted(MEMBER.updated(n_components=25)).predict(Rows(obs, {}))
    cell = Y[(train.obs.cell_type == "cell 0").to_numpy()].mean(0)
    compound = Y[(train.obs.sm_name == "drug 05").to_numpy()].mean(0)
    cells = [Y[(train.obs.cell_type == name).to_numpy()].mean(0) for name in sorted(set(train.obs.cell_type))]
    np.testing.assert_allclose(found, [cell, compound, np.mean(cells, axis=0)], atol=1e-4)


def test_too_few_common_compounds_are_no_source():
    train, test, Y = example()
    few = np.flatnonzero((train.obs.cell_type == "cell 1").to_numpy())[:3]
    kept = np.concatenate([np.flatnonzero((train.obs.cell_type != "cell 1").to_numpy()), few])
    model = MEMBER.updated(n_components=25).prepare(training_set(train, test, Y)).fit(kept)
    asked = Rows(pd.DataFrame({"cell_type": ["cell 1"], "sm_name": ["drug 09"]}), {})
    np.testing.assert_allclose(model.predict(asked)[0], Y[few].mean(0), atol=1e-4)


def test_a_row_without_weight_teaches_nothing_and_replicates_are_averaged():
    train, test, Y = example()
    member = MEMBER.updated(n_components=25)
    twice = Rows(pd.concat([train.obs, train.obs.iloc[:5]], ignore_index=True), {})
    doubled = Y[:5] + 3
    both = twice, Rows(test.obs, {}), np.concatenate([Y, doubled])
    weight = np.concatenate([np.ones(len(Y)), np.zeros(5)])
    expected = fitted(member, rows=(Rows(train.obs, {}), Rows(test.obs, {}), Y)).predict(test)
    np.testing.assert_allclose(fitted(member, weight, both).predict(test), expected, atol=1e-4)


def test_it_comes_back_from_its_state_and_predicts_rows_alone():
    _, test, _ = example()
    model = fitted()
    tree, arrays = split(model.state(), "transfer")
    again = MEMBER.model_from_state(StateReader(joined(tree, "transfer", arrays), "model"))
    np.testing.assert_array_equal(again.predict(test), model.predict(test))
    assert_alone_as_among_others(model.predict, test)
    with pytest.raises(InputError, match="scores must be float32"):
        MEMBER.model_from_state(StateReader({**model.state(), "compounds": ["one"]}, "model"))


def test_no_rows_own_target_moves_its_out_of_fold_prediction():
    train, test, Y = example()
    folds, changed = folded(Y), Y.copy()
    changed[folds == 1] += 1000
    before, after = (
        fit_stack(train, test, y, folds, recipe(SVR, MEMBER), 0, "cpu").members["response_transfer"][:]
        for y in (Y, changed)
    )
    assert np.abs(before - after)[folds == 1].max() < 1e-3
    assert np.abs(before - after)[folds != 1].max() > 1
