"""How much an atlas counts: against fits that leave compounds out one by one, and with identities that are permuted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.molecules import ATLAS
from features.rows import Pairs, Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import FOLDER
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.stack.members import atlas_strength
from rapids_pipeline.stack.members.atlas_strength import (
    LEAST_COMPOUNDS,
    STRENGTHS,
    choose_strength,
    left_out,
    left_out_errors,
)
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.svr import kernel_ridge
from tests.stack_example import COMPOSITE, recipe

WEIGHTS = {"atlas_linear": 3.0, "cell_type * atlas_rbf": 1.0}
MODELS = "known_compounds", "new_compounds"
MEMBER = COMPOSITE.model_copy(update={"atlas_weights": WEIGHTS}).with_atlas()


def problem(n_compounds=30, absent=4, n_genes=20, seed=0, permuted=False):
    """Compounds in one or two of two cell types whose effects an atlas knows, but for some that it lacks."""
    rng = np.random.default_rng(seed)
    chosen = [(c, m) for m in range(n_compounds) for c in range(2) if c == m % 2 or rng.random() < 0.5]
    effects = rng.normal(size=(n_compounds, 5))
    atlas = (effects / np.sqrt(5) + 0.1 * rng.normal(size=effects.shape)).astype(np.float32)
    if permuted:
        atlas = atlas[rng.permutation(n_compounds)]
    atlas[n_compounds - absent :] = 0
    made_up = rng.normal(size=(n_compounds, 4)).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": [f"cell {c}" for c, _ in chosen], "sm_name": [f"drug {m:02d}" for _, m in chosen]}
    )
    compound = np.array([m for _, m in chosen])
    Y = effects[compound] @ rng.normal(size=(5, n_genes)) + rng.normal(size=(len(chosen), n_genes))
    rows = Rows(obs, {"made up": made_up[compound], ATLAS: atlas[compound]})
    return rows, Y.astype(np.float32), compound


def data_of(rows, Y):
    return TrainingSet(rows, Y, None, (), 0, "cpu")


def test_residuals_of_groups_left_out_are_those_of_fits_without_them():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(14, 3)), np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 7, 0])
    K, y, noise = x @ x.T, rng.normal(size=(14, 2)), rng.uniform(0.5, 2, 14)
    found = left_out(K, 0.7 * noise, y, groups)
    for group in range(8):
        inside, outside = np.flatnonzero(groups != group), np.flatnonzero(groups == group)
        C = (1 / (0.7 * noise[inside]))[:, None] * np.ones((1, 2))
        made = kernel_ridge.solve(K[np.ix_(inside, inside)], y[inside], C=C, epsilon=0.0)
        predicted = K[np.ix_(outside, inside)] @ made.dual_coef + made.intercept
        np.testing.assert_allclose(found[outside], y[outside] - predicted, atol=1e-9)


@pytest.mark.parametrize("changed", [{}, {"penalty_growth": 1.0}, {"noise_exponent": 0.5}])
def test_errors_are_those_of_models_of_each_strength_with_what_is_learnt_from_all_rows(changed):
    rows, Y, compound = problem(n_compounds=12, absent=2)
    config = MEMBER.new_compounds.updated(**changed)
    member = MEMBER.model_copy(update={"new_compounds": config})
    pairs = Pairs.of(rows, member.encoders)
    errors = left_out_errors(config, WEIGHTS, pairs, Y, np.ones(len(Y)))
    z = Y.astype(float) - Y.mean(axis=0)
    _, s, Vt = np.linalg.svd(z, full_matrices=False)
    scores = z @ Vt[: config.n_components].T
    squares = (scores**2).sum(axis=1)
    noise = (squares / squares.mean() + 1e-3) ** config.noise_exponent
    noise /= np.exp(np.log(noise).mean())
    for place, strength in enumerate(STRENGTHS):
        K = member.atlas_compounds(strength).kernel.learn(pairs, scores).gram(np.empty(0))
        for one in (0, 5, 11):
            inside, outside = np.flatnonzero(compound != one), np.flatnonzero(compound == one)
            residual = z[outside].copy()
            for j in range(scores.shape[1]):
                penalty = config.penalty * (s[0] / s[j]) ** config.penalty_growth
                n = len(inside)
                bordered = np.ones((n + 1, n + 1))
                bordered[:n, :n] = K[np.ix_(inside, inside)] + penalty * np.diag(noise[inside])
                bordered[n, n] = 0
                found = np.linalg.solve(bordered, np.append(scores[inside, j], 0))
                predicted = K[np.ix_(outside, inside)] @ found[:n] + found[n]
                residual -= predicted[:, None] * Vt[j]
            np.testing.assert_allclose(errors[place, outside], np.sqrt((residual**2).mean(axis=1)), rtol=2e-4)


def strength_of(rows, Y):
    pairs = Pairs.of(rows, MEMBER.encoders)
    return choose_strength(MEMBER.new_compounds, WEIGHTS, pairs, lambda: Y)


def test_an_atlas_that_knows_the_effects_counts_and_permuted_identities_count_nothing():
    rows, Y, _ = problem()
    found = strength_of(rows, Y)
    assert found.value > 0 and found.error < 0.9 * found.error_without and found.compounds == 26
    assert "atlas counts" in found.said() and "26 training compounds" in found.said()
    for seed in range(8):
        rows, Y, _ = problem(seed=seed, permuted=True)
        assert strength_of(rows, Y).value == 0


def test_few_compounds_are_no_evidence():
    rows, Y, _ = problem(n_compounds=30, absent=31 - LEAST_COMPOUNDS)
    found = strength_of(rows, Y)
    assert found.value == 0 and found.compounds == LEAST_COMPOUNDS - 1
    assert f"{LEAST_COMPOUNDS} are needed" in found.said()


def test_evidence_of_many_rows_is_of_whole_compounds_that_the_atlas_has_first(monkeypatch):
    rows, _, _ = problem(n_compounds=30, absent=15)
    pairs = Pairs.of(rows, MEMBER.encoders)
    known = atlas_strength.in_atlas(pairs)
    monkeypatch.setattr(atlas_strength, "MOST_ROWS", 12)
    drawn = atlas_strength._drawn(pairs.compound, known)
    assert 2 <= len(drawn) <= 12 and known[drawn].all()
    for compound in np.unique(pairs.compound[drawn]):
        assert set(np.flatnonzero(pairs.compound == compound)) <= set(drawn.tolist())


def parts(rows, compound, n_known=20):
    """Training rows, and rows of compounds that are new: of the atlas, and absent from it."""
    training = np.flatnonzero(compound < n_known)
    new = compound >= n_known
    present = (rows.molecules[ATLAS] != 0).any(axis=1)
    return training, np.flatnonzero(new & present), np.flatnonzero(new & ~present)


def test_new_compounds_of_the_atlas_gain_and_absent_ones_are_predicted_as_without_it():
    rows, Y, compound = problem()
    training, present, absent = parts(rows, compound)
    groups = [present, absent, training]
    with_it = MEMBER.prepare(data_of(rows, Y)).fit_predict(training, groups)
    without = COMPOSITE.prepare(data_of(rows, Y)).fit_predict(training, groups)
    np.testing.assert_array_equal(with_it[1], without[1])
    known = np.array([(compound[training] == m).sum() > 1 for m in compound[training]])
    np.testing.assert_array_equal(with_it[2][known], without[2][known])
    errors = [np.sqrt(((found - Y[present]) ** 2).mean()) for found in (with_it[0], without[0])]
    assert errors[0] < 0.8 * errors[1]


def test_a_model_predicts_like_its_fits_alone_and_after_a_save():
    rows, Y, compound = problem()
    training, present, absent = parts(rows, compound)
    fits, asked = MEMBER.prepare(data_of(rows, Y)), np.concatenate([present, absent, training])
    model, [expected] = fits.fit(training), fits.fit_predict(training, [asked])
    np.testing.assert_allclose(model.predict(rows.take(asked)), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(rows.take(asked[:1])), expected[:1], atol=1e-5)
    pairs = Pairs.of(rows.take(asked), MEMBER.encoders)
    serving, settings = model.serving(pairs), MEMBER.fitted(model)
    assert [one.kernel for one in settings] == [one.kernel.kernel for one, _ in serving]
    assert np.sum([served for _, served in serving], axis=0).tolist() == [1] * len(asked)
    assert (
        serving[2][1][: len(present)].all() and serving[1][1][len(present) : len(present) + len(absent)].all()
    )
    restored = MEMBER.model_from_state(StateReader(model.state(), "model"))
    np.testing.assert_array_equal(restored.predict(rows.take(asked)), model.predict(rows.take(asked)))
    assert MEMBER.notes(restored) == [f"composite: {model.strength.said()}"]
    driving, contributions, rest = model.drivers(rows.take(present[:1]), 3)
    assert contributions.sum() + rest == pytest.approx(float(expected[0, 3]), abs=1e-4)
    assert len(driving) == len(training)
    state = model.state()
    damaged = state | {"strength": state["strength"] | {"value": 3.3}}
    with pytest.raises(InputError, match="none of those that are tried"):
        MEMBER.model_from_state(StateReader(damaged, "model"))


def test_a_held_out_response_changes_neither_strength_nor_predictions():
    rows, Y, compound = problem()
    training, present, absent = parts(rows, compound)
    moved = Y.copy()
    moved[np.concatenate([present, absent])] += 1000
    before, after = (MEMBER.prepare(data_of(rows, targets)) for targets in (Y, moved))
    groups = [present, absent]
    for one, other in zip(
        before.fit_predict(training, groups), after.fit_predict(training, groups), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert before.fit(training).strength == after.fit(training).strength


def test_pseudo_labels_are_no_evidence():
    rows, Y, compound = problem()
    training, present, absent = parts(rows, compound)
    labelled = np.concatenate([present, absent])
    order = np.concatenate([training, labelled])
    measured = data_of(rows.take(order), Y[training])
    found = MEMBER.prepare(measured.learning_from(([], 1000 * Y[labelled])))
    expected = MEMBER.prepare(measured)
    whole = np.arange(len(order))
    assert found.of_atlas(whole)[1] == expected.of_atlas(whole[: len(training)])[1]


def test_terms_of_a_file_name_no_weights_that_its_user_has_not_named():
    settings = MEMBER.model_dump() | {"atlas_weights": {"atlas_linear * rbf(strangers/model)": 1.0}}
    settings |= {name: settings[name] | {"weights": {"cell_type": 1.0}} for name in MODELS}
    assert CompositeMember.model_validate(settings)
    with pytest.raises(ValueError, match="a file does not choose"):
        CompositeMember.model_validate(settings, context={FOLDER: Path()})


def test_a_row_without_an_atlas_and_terms_that_cannot_serve_are_refused():
    rows, Y, _ = problem()
    lacking = replace(rows, molecules={"made up": rows.molecules["made up"]})
    with pytest.raises(InputError, match="no molecule features of atlas"):
        MEMBER.prepare(data_of(lacking, Y))
    assert COMPOSITE.with_atlas() == COMPOSITE
    with pytest.raises(InputError, match="reads an atlas; take --recipe best"):
        recipe(COMPOSITE).with_atlas()
    models = {"known_compounds": COMPOSITE.known_compounds, "new_compounds": COMPOSITE.new_compounds}
    for wrong in ({"cell_type": 1.0}, {"atlas_linear * profile_rbf": 1.0}):
        with pytest.raises(ValueError, match="needs a factor atlas_linear"):
            CompositeMember(**models, atlas_weights=wrong)
    with pytest.raises(ValueError, match="needs atlas_weights"):
        CompositeMember(**models, atlas=True)
