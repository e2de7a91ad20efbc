"""Models on composite kernels: against a naive fit, never leaking, and the same after a save."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from features.rows import Pairs, Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.data.tables import PerturbationData, read_training
from rapids_pipeline.evaluation.baselines import mean_across_compounds
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.stack.members import composite, kernel_model
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.kernel_model import (
    KernelModel,
    KernelModelConfig,
    fit_kernel_model,
    row_noise,
)
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import COMPOSITE as SHIPPED
from rapids_pipeline.svr import kernel_ridge, nystroem
from tests.stack_example import (
    COMPOSITE,
    KERNEL_MODEL,
    TO_ROUNDING,
    assert_alone_as_among_others,
    example,
    training_set,
)

LIKE = np.empty(0)


def problem(n_genes=25):
    train, test, Y = example(n_genes)
    both = Pairs.of(Rows.joined(train, test), ["made up"])
    return both.take(np.arange(len(Y))), both.take(np.arange(len(Y), len(Y) + 6)), Y


def changed(machine=KERNEL_MODEL, **values):
    return KernelModelConfig(**machine.model_dump() | values)


def fit_composite(train, Y, test=None):
    """Both models, fitted to training rows."""
    return COMPOSITE.prepare(training_set(train, train if test is None else test, Y)).fit(np.arange(len(Y)))


def naive(config, rows, tests, Y):
    """Transform, components, one bordered system a component, and back; in plain loops over components."""
    if config.transform == "asinh":
        unit = config.transform_scale * np.sqrt((Y.astype(float) ** 2).mean())
        z = np.arcsinh(Y / unit)
    else:
        z, unit = Y.astype(float), 1.0
    mean = z.mean(axis=0)
    U, s, Vt = np.linalg.svd(z - mean, full_matrices=False)
    U, s, Vt = (
        x[..., : config.n_components] if x is not Vt else x[: config.n_components] for x in (U, s, Vt)
    )
    A = U * s
    learnt = config.kernel.learn(rows, A)
    K, k = learnt.gram(LIKE), learnt.between(tests, LIKE)
    squares = (A**2).sum(axis=1)
    noise = (squares / squares.mean() + 1e-3) ** config.noise_exponent
    noise /= np.exp(np.log(noise).mean())
    out, n = np.zeros((len(tests), Y.shape[1])), len(Y)
    for j in range(len(s)):
        bordered = np.zeros((n + 1, n + 1))
        bordered[:n, :n] = K + config.penalty * (s[0] / s[j]) ** config.penalty_growth * np.diag(noise)
        bordered[:n, n] = bordered[n, :n] = 1
        found = np.linalg.solve(bordered, np.append(A[:, j], 0))
        out += (k @ found[:n] + found[n])[:, None] * Vt[j]
    return (np.sinh(out + mean) if config.transform == "asinh" else out + mean) * unit


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"transform": "none"},
        {"penalty_growth": 0.3, "penalty": 5.0},
        {"noise_exponent": 0.0},
        {"n_components": 3},
    ],
)
def test_a_model_is_what_a_naive_fit_is(values):
    rows, tests, Y = problem()
    config = changed(**values)
    found = fit_kernel_model(config, rows, Y, "cpu").predict(tests)
    np.testing.assert_allclose(found, naive(config, rows, tests, Y), atol=2e-3 * np.abs(Y).max())


@pytest.mark.parametrize("targets", ["components", "genes"])
def test_many_rows_are_solved_alike_by_iterations_and_on_landmarks(targets, monkeypatch):
    rows, tests, Y = problem()
    config = changed(targets=targets)
    exact = fit_kernel_model(config, rows, Y, "cpu").predict(tests)
    for module in (kernel_model, kernel_ridge):
        monkeypatch.setattr(module, "ITERATES_FROM", 10)
    close = {"atol": 1e-4 * np.abs(Y).max()}
    iterated = fit_kernel_model(config, rows, Y, "cpu")
    assert iterated.landmarks is None
    np.testing.assert_allclose(iterated.predict(tests), exact, **close)
    model = fit_kernel_model(config, rows, Y, "cpu", on_landmarks=True)
    assert model.dual_coef.shape[0] == len(model.landmarks) <= len(Y)
    np.testing.assert_allclose(model.predict(tests), exact, **close)
    state = model.state()
    again = KernelModel.from_state(config, StateReader(state, "saved"))
    assert again.predict(tests).tobytes() == model.predict(tests).tobytes() and again.left == model.left
    with pytest.raises(InputError, match=r"landmarks has numbers outside 0"):
        KernelModel.from_state(
            config, StateReader({**state, "landmarks": state["landmarks"] + 1000}, "saved")
        )


def test_the_choice_of_the_engine_says_when_it_iterates(monkeypatch):
    Y = example()[2]
    assert COMPOSITE.engine_choice(Y, "cpu") == "ridge (asked for)"
    monkeypatch.setattr("rapids_pipeline.stack.members.composite.ITERATES_FROM", 10)
    assert COMPOSITE.engine_choice(Y, "cpu") == "ridge (asked for; by conjugate gradients from 10 rows)"


def test_few_landmarks_are_said_in_the_notes(monkeypatch):
    train, _, Y = example()
    monkeypatch.setattr(kernel_model, "ITERATES_FROM", 10)
    monkeypatch.setitem(nystroem.solve.__kwdefaults__, "most", 12)
    data = replace(training_set(train, train, Y), on_landmarks=True)
    model = COMPOSITE.prepare(data).fit(np.arange(len(Y)))
    known, new = COMPOSITE.notes(model)
    assert known.startswith("composite: known_compounds is solved on 12 of ")
    assert "of the kernel's trace" in known and new.startswith("composite: new_compounds is solved on 12 of ")
    monkeypatch.undo()
    assert COMPOSITE.notes(fit_composite(train, Y)) == []


def test_genes_and_all_components_are_one_with_one_penalty():
    rows, tests, Y = problem()
    by_components = changed(n_components=25, penalty_growth=0.0, noise_exponent=0.0)
    by_genes = changed(by_components, targets="genes")
    one, other = (
        fit_kernel_model(config, rows, Y, "cpu").predict(tests) for config in (by_components, by_genes)
    )
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_tube_of_nothing_and_a_wide_box_are_nearly_an_interpolation():
    """Without penalty both losses interpolate, so they must agree; with one they are different problems."""
    rows, tests, Y = problem(3)
    values = {"penalty": 3e-3, "penalty_growth": 0.0, "noise_exponent": 0.0, "tol": 1e-4}
    ridge = fit_kernel_model(changed(**values), rows, Y, "cpu").predict(tests)
    for engine in ("douglas-rachford", "smo", "sklearn"):
        tube = fit_kernel_model(changed(engine=engine, **values), rows, Y, "cpu").predict(tests)
        np.testing.assert_allclose(tube, ridge, atol=0.05 * np.abs(Y).max())
    looser = fit_kernel_model(changed(engine="smo", epsilon=0.5, penalty=1.0), rows, Y, "cpu").predict(tests)
    assert np.abs(looser - ridge).max() > 0.1


def test_pairs_without_a_profile_are_predicted_by_the_other_model():
    train, test, Y = example()
    model = fit_composite(train, Y)
    new = test.obs.copy()
    new["sm_name"] = ["never seen", *new["sm_name"][1:]]
    found = model.predict(Rows(new, test.molecules))
    pairs = Pairs.of(Rows(new, test.molecules), ["made up"])
    close = {"rtol": 0, "atol": TO_ROUNDING * np.ptp(found)}
    np.testing.assert_allclose(found[0], model.new_compounds.predict(pairs)[0], **close)
    np.testing.assert_allclose(found[1:], model.known_compounds.predict(pairs)[1:], **close)
    assert np.abs(model.known_compounds.predict(pairs)[0] - found[0]).max() > 1e-3


@pytest.mark.parametrize(("names", "made"), [((), ["known_compounds"]), (("a", "b"), ["new_compounds"])])
def test_predictions_take_those_models_alone_that_a_row_needs(names, made, monkeypatch):
    train, test, Y = example()
    asked = test.take(np.arange(2))
    if names:
        asked = Rows(asked.obs.assign(sm_name=names), asked.molecules)
    fits, n = COMPOSITE.prepare(training_set(train, asked, Y)), len(Y)
    expected = fits.fit(np.arange(n)).predict(asked)
    fitted = []

    def noted(config, *given, **more):
        fitted.append("known_compounds" if config == COMPOSITE.known_compounds else "new_compounds")
        return kernel_model.fit_kernel_model(config, *given, **more)

    monkeypatch.setattr(composite, "fit_kernel_model", noted)
    [found] = fits.fit_predict(np.arange(n), [np.arange(n, n + 2)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=TO_ROUNDING * np.ptp(expected))
    assert fitted == made


def test_only_one_cell_type_has_no_profiles_at_all():
    train, test, Y = example()
    rows = np.flatnonzero(train.obs["cell_type"] == "cell 0")
    model = fit_composite(train.take(rows), Y[rows])
    pairs = Pairs.of(test, ["made up"])
    assert not model.known_compounds.kernel.is_known(
        pairs.take(np.flatnonzero(test.obs["cell_type"] == "cell 0"))
    ).any()
    assert np.isfinite(model.predict(test)).all()


def test_the_order_of_the_rows_does_not_matter():
    train, test, Y = example()
    order = np.random.default_rng(0).permutation(len(Y))
    shuffled = fit_composite(train.take(order), Y[order])
    np.testing.assert_allclose(shuffled.predict(test), fit_composite(train, Y).predict(test), atol=2e-3)


def test_a_row_of_nearly_no_weight_is_as_if_left_out():
    """In the solution; what is learnt before it (kernel, space of the targets) counts rows alike."""
    rows, tests, Y = problem()
    weight, some = np.ones(len(Y)), np.arange(5, len(Y))
    weight[:5] = 1e-12
    config = changed(noise_exponent=0.0, n_components=25, weights={"cell_type": 1.0, "rbf(made up)": 1.0})
    space = config.space
    space.learn(Y[some])

    def learn(_, targets):
        return space, targets, space.transform(targets)

    left_out = fit_kernel_model(config, rows.take(some), Y[some], "cpu").predict(tests)
    light = fit_kernel_model(config, rows, Y, "cpu", weight, learn).predict(tests)
    np.testing.assert_allclose(light, left_out, atol=0.02 * np.abs(Y).max())
    assert np.abs(fit_kernel_model(config, rows, Y, "cpu", None, learn).predict(tests) - left_out).max() > 0.1


def test_a_damaged_state_is_named():
    train, _, Y = example()
    model = fit_composite(train, Y)
    state = model.state()
    state["known_compounds"]["space"] = {**state["known_compounds"]["space"], "mean": np.zeros(3, np.float32)}
    with pytest.raises(InputError, match=r"saved\.known_compounds\.space: mean must be float32 \(25\)"):
        COMPOSITE.model_from_state(StateReader(state, "saved"))
    state = {
        **model.state(),
        "new_compounds": fit_composite(train, Y[:, :9]).state()["known_compounds"],
    }
    with pytest.raises(InputError, match="different numbers of targets"):
        COMPOSITE.model_copy(update={"new_compounds": KERNEL_MODEL}).model_from_state(
            StateReader(state, "saved")
        )


def test_noise_of_rows():
    scores = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    squares = np.array([25.0, 0, 1]) / (26 / 3) + 1e-3
    expected = squares**0.5 / np.prod(squares**0.5) ** (1 / 3)
    np.testing.assert_allclose(row_noise(scores, 0.5), expected)
    assert np.array_equal(row_noise(scores, 0.0), np.ones(3)) and np.array_equal(
        row_noise(0 * scores, 0.5), np.ones(3)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {"cell_tipe": 1.0}}, "no kernel factor 'cell_tipe'"),
        ({"epsilon": 0.1}, "squared errors, which have no tube"),
        ({"engine": "auto"}, "would leave open which loss is meant"),
        ({"penalty": 0.0}, "from 1e-08 to 1e"),
    ],
)
def test_settings_that_cannot_be_used_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        changed(**values)


def test_a_model_for_new_compounds_has_no_profiles_in_it():
    with pytest.raises(ValueError, match="new_compounds is for pairs without a response profile"):
        CompositeMember(known_compounds=KERNEL_MODEL, new_compounds=KERNEL_MODEL)


def test_real_data_are_predicted_better_than_by_the_additive_model(shared_data):
    """Compounds held out within one cell type, and held out everywhere."""
    from features.molecules.encoders import encode_molecules
    from rapids_pipeline.evaluation.baselines import additive

    data = read_training(shared_data / "lincs_lung" / "de_train.parquet")
    rows = Rows(data.obs, encode_molecules(["morgan"], list(data.obs["SMILES"])).training)
    names = np.unique(data.obs["sm_name"])[::4]
    everywhere = np.isin(data.obs["sm_name"], names)
    for held in (everywhere & (data.obs["cell_type"] == "HFL1").to_numpy(), everywhere):
        inside, outside = np.flatnonzero(~held), np.flatnonzero(held)
        fits = SHIPPED.prepare(TrainingSet(rows, data.Y, None, (), 0, "cpu"))
        predicted = fits.fit_predict(inside, [outside])[0]
        baseline = additive(data.take(inside), data.obs.iloc[outside])
        errors = [rowwise_rmse(data.Y[outside], x).mean() for x in (predicted, baseline)]
        assert errors[0] < 0.99 * errors[1]


# --- doses and times ----------------------------------------------------------------------------------------


def hill(seed=0, n_compounds=12, n_genes=30):
    """Responses E d/(d + EC50) of compounds at doses over five decades, with noise: rows and (n, t)."""
    rng = np.random.default_rng(seed)
    doses = 10.0 ** np.arange(-2, 2.6, 0.5)
    effects, ec50 = rng.normal(size=(n_compounds, n_genes)), 10 ** rng.uniform(-1.5, 1.5, n_compounds)
    which, dose = np.repeat(np.arange(n_compounds), len(doses)), np.tile(doses, n_compounds)
    Y = effects[which] * (dose / (dose + ec50[which]))[:, None] + 0.1 * rng.normal(size=(len(dose), n_genes))
    obs = pd.DataFrame({"cell_type": "A", "sm_name": [f"drug {m:02d}" for m in which], "dose_uM": dose})
    return Rows(obs, {"made up": rng.normal(size=(n_compounds, 4)).astype(np.float32)[which]}), Y.astype(
        np.float32
    )


CONTEXT_MEMBER = COMPOSITE.model_copy(
    update={
        "known_compounds": KERNEL_MODEL.model_copy(
            update={"context_weights": {"compound * dose * time": 20.0}}
        ),
        "new_compounds": COMPOSITE.new_compounds.model_copy(update={"context_weights": {"dose * time": 1.0}}),
    }
)


def test_unseen_doses_of_a_hill_curve_are_predicted_better_by_the_dose_than_by_averaging_doses():
    rows, Y = hill()
    held_out = np.random.default_rng(1).random(len(Y)) < 0.25
    training, tests = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    [predicted] = (
        CONTEXT_MEMBER.in_contexts(("dose_uM",))
        .prepare(TrainingSet(rows, Y, None, (), 0, "cpu"))
        .fit_predict(training, [tests])
    )
    data = PerturbationData(rows.obs, Y, tuple(f"G{k}" for k in range(Y.shape[1]))).take(training)
    averaged = mean_across_compounds(data, rows.obs.iloc[tests])
    error, of_mean = (rowwise_rmse(Y[tests], x).mean() for x in (predicted, averaged))
    assert error < 0.6 * of_mean, (error, of_mean)
    without = CONTEXT_MEMBER.prepare(TrainingSet(rows, Y, None, (), 0, "cpu")).fit_predict(training, [tests])[
        0
    ]
    assert error < 0.6 * rowwise_rmse(Y[tests], without).mean()


def test_context_weights_are_used_where_rows_differ_and_nowhere_else():
    config = CONTEXT_MEMBER.known_compounds
    assert config.kernel.weights == KERNEL_MODEL.weights and not config.kernel.of_contexts
    used = config.in_contexts()
    assert used.kernel.weights == {**KERNEL_MODEL.weights, "compound * dose * time": 20.0}
    assert used.in_contexts() == used and used.kernel.of_contexts
    named = changed(weights={"cell_type": 1.0, "rbf(molecules)": 1.0}, context_weights={"rbf(x)": 0.5})
    assert named.with_molecules("x").in_contexts().weights == {"cell_type": 1.0, "rbf(x)": 1.5}
    for weights, says in [
        ({"cell_type": 1.0}, "both in weights and in context_weights"),
        ({"doses": 1.0}, "no kernel"),
    ]:
        with pytest.raises(ValueError, match=says):
            KernelModelConfig(weights={"cell_type": 1.0}, context_weights=weights)
    with pytest.raises(ValueError, match="its weights cannot have one"):
        CompositeMember(
            known_compounds=KERNEL_MODEL,
            new_compounds=changed(COMPOSITE.new_compounds, context_weights={"profile_linear * dose": 1.0}),
        )


def test_a_compound_at_another_dose_is_known_and_a_saved_model_predicts_alike():
    rows, Y = hill()
    member = CONTEXT_MEMBER.in_contexts(("dose_uM",))
    model = member.prepare(TrainingSet(rows, Y, None, (), 0, "cpu")).fit(np.arange(len(Y)))
    asked = Rows(
        rows.obs.iloc[:3].assign(dose_uM=[0.2, 0.0, np.nan], sm_name=["drug 00", "drug 00", "new"]),
        {"made up": rows.molecules["made up"][:3]},
    )
    pairs = Pairs.of(asked, ["made up"])
    assert model.known_compounds.kernel.is_known(pairs).tolist() == [True, True, False]
    assert_alone_as_among_others(model.predict, asked)
    again = member.model_from_state(StateReader(model.state(), "saved"))
    np.testing.assert_array_equal(again.predict(asked), model.predict(asked))
