"""Pairs to measure next: dense refits with every candidate, scikit-learn's processes, properties, commands."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from features.rows import Pairs
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands.model import PerturbationModel
from rapids_pipeline.predictions import design as rules
from rapids_pipeline.predictions.design import SHARE, Posterior, design, greedy, posterior, read_design
from rapids_pipeline.predictions.predict import PairPredictor, predictor_of
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.saved import load_model
from tests.command_line import error_line, invoke, succeed

N, U = 25, 14


def example(seed=0, penalties=(0.3, 2.0, 40.0), alike=False):
    """A kernel between 25 rows and 14 pairs, with what a posterior is made of; pairs 3 and 4 may be alike."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N + U, 3))
    if alike:
        x[N + 4] = x[N + 3]
    K = RBF(1.5)(x) + 0.4
    weights = rng.uniform(0.5, 2, size=(U, len(penalties)))
    weights[[2, 5]] = 0.0
    noise = np.exp(rng.normal(size=N) / 2)
    return SimpleNamespace(x=x, K=K, weights=weights, noise=noise, penalties=np.array(penalties))


def posterior_of(e, candidates=None, weights=None):
    candidates = np.arange(U) if candidates is None else np.array(candidates)
    weights = e.weights if weights is None else weights
    parts = e.K[:N, :N], e.noise, e.penalties, e.K[N:, :N], e.K[N:, N:]
    return Posterior(*parts, weights, candidates)


def naive_variances(e, g, measured=()):
    """The variances of the pairs after a fit to the rows and some pairs, with a free intercept, by one inverse."""
    rows = [*range(N), *(N + x for x in measured)]
    h = np.append(e.noise, np.full(len(measured), np.exp(np.log(e.noise).mean())))
    A = np.ones((len(rows) + 1, len(rows) + 1))
    A[-1, -1] = 0
    A[:-1, :-1] = e.K[np.ix_(rows, rows)] + e.penalties[g] * np.diag(h)
    k = np.vstack([e.K[np.ix_(rows, range(N, N + U))], np.ones(U)])
    return np.diag(e.K)[N:] - np.einsum("ij,ij->j", k, np.linalg.inv(A) @ k)


def naive_total(examples, left, measured):
    """The weighted sum of the variances of the pairs that are left."""
    return sum(
        e.weights[left, g] @ naive_variances(e, g, measured)[left]
        for e in examples
        for g in range(len(e.penalties))
    )


def naive_greedy(examples, candidates, count):
    """Choose by a fit anew with every candidate."""
    chosen, gains = [], []
    for _ in range(count):
        found = {}
        for x in candidates:
            if x not in chosen:
                left = [j for j in range(U) if j not in [*chosen, x]]
                before = naive_total(examples, left, chosen)
                found[x] = before - naive_total(examples, left, [*chosen, x])
        chosen.append(max(found, key=found.get))
        gains.append(found[chosen[-1]])
    left = [j for j in range(U) if j not in chosen]
    return chosen, gains, naive_total(examples, left, []), naive_total(examples, left, chosen)


@pytest.mark.parametrize("candidates", [list(range(U)), [9, 2, 4, 3, 12, 5]])
def test_the_choice_is_that_of_dense_fits_with_every_candidate(candidates):
    both = [example(1), example(2, penalties=(0.7,))]
    found = greedy([posterior_of(e, candidates) for e in both], 5)
    chosen, gains, before, after = naive_greedy(both, candidates, 5)
    assert [candidates[place] for place in found.places] == chosen
    np.testing.assert_allclose(found.gains, gains, rtol=1e-8, atol=1e-10)
    assert (found.before, found.after) == (pytest.approx(before, rel=1e-8), pytest.approx(after, rel=1e-8))


def test_variances_are_those_of_scikit_learn():
    """Its processes have no free intercept: a constant of large variance is nearly one."""
    e = example(3)
    found = posterior_of(e)
    for x in (7, 1):
        found.measure(x)
    rows = [*range(N), N + 7, N + 1]
    h = np.append(e.noise, np.full(2, np.exp(np.log(e.noise).mean())))
    kernel = RBF(1.5, "fixed") + ConstantKernel(0.4, "fixed") + ConstantKernel(1e5, "fixed")
    for g, penalty in enumerate(e.penalties):
        model = GaussianProcessRegressor(kernel, alpha=penalty * h, optimizer=None)
        model.fit(e.x[rows], np.zeros(len(rows)))
        deviation = model.predict(e.x[N:], return_std=True)[1]
        np.testing.assert_allclose(found.variance[:, g], deviation**2, rtol=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_properties_of_the_choice(seed):
    e = example(seed, alike=True)
    found = greedy([posterior_of(e)], U)
    assert (found.gains >= 0).all() and sorted(found.places) == list(range(U))
    assert found.before == 0 and found.after == pytest.approx(0, abs=1e-12), "nothing is left"
    order = np.random.default_rng(seed).permutation(U)
    again = greedy([posterior_of(e, order)], 6)
    apart = [x for x in found.places if x not in (3, 4)][:4]
    assert [x for x in order[again.places] if x not in (3, 4)][:4] == apart, (
        "the order of candidates matters not"
    )
    few = greedy([posterior_of(e)], 6)
    assert few.after < few.before


def test_what_is_like_a_measured_pair_gains_little_any_more():
    """Of a pair of variance v, measuring it leaves v n / (v + n), and as much of all covariances."""
    e = example(0, penalties=(0.05,), alike=True)
    found, n = posterior_of(e), 0.05 * np.exp(np.log(e.noise).mean())
    v, C = found.variance[4, 0], found.covariance(4)[:, 0]
    left = np.setdiff1d(np.arange(U), [3, 4])
    gain = e.weights[left, 0] @ C[left] ** 2 / (v + n)
    found.measure(3)
    shrunk = n / (v + n)
    assert found.variance[3:5, 0] == pytest.approx(v * shrunk)
    assert found.gains()[4] == pytest.approx(gain * shrunk**2 * (v + n) / (v * shrunk + n))
    assert found.gains()[4] < 0.5 * gain


def test_pairs_that_count_nothing_gain_nothing():
    e = example(4)
    only = np.zeros_like(e.weights)
    only[6] = 1.0
    found = greedy([posterior_of(e, weights=only)], 2)
    assert found.places[0] != 6, "a pair's own variance is no gain"
    rest = posterior_of(e, weights=only)
    rest.measure(6)
    assert rest.gains().max() == pytest.approx(0, abs=1e-12)


# --- of a model -------------------------------------------------------------------------------------------

ASKED = pd.DataFrame(
    [
        *(("B cells", name, None) for name in ("Vorinostat", "Crizotinib", "Trametinib", "Flutamide")),
        *(("B cells", "something new", "CCCCO"), ("NK cells", "something new", "CCCCO")),
        *(("a new one", "Vorinostat", None), ("B cells", "another one", "Cc1ccccc1N")),
        ("B cells", "Vorinostat", None),
    ],
    columns=["cell_type", "sm_name", "SMILES"],
)


def fitted(data, targets):
    [member, _] = RECIPES["best"].members
    both = {
        name: getattr(member, name).updated(targets=targets, n_components=5)
        for name in ("known_compounds", "new_compounds")
    }
    recipe = RECIPES["best"].updated(members=(member.updated(**both),), n_folds=3)
    return PerturbationModel(recipe, molecules="morgan").fit(data)


@pytest.fixture(scope="module", params=["components", "genes"])
def kernels(request, small_files):
    """A fitted composite member of either way to solve the targets."""
    return fitted(small_files.de_train, request.param)


def test_a_model_has_the_variances_of_its_scores_and_penalties(kernels):
    """s² by restricted likelihood and the variance of every gene, from training targets and dense inverses."""
    [member] = kernels.model_.config.recipe.members
    [fit] = kernels.model_.stack.models.values()
    Y = kernels.fit_.problem.data.Y
    work = predictor_of(kernels.model_, ASKED[:4], "m")
    pairs = Pairs.of(work.rows(np.arange(4)), fit.encoders)
    for config, (model, _) in zip(member.fitted(fit), fit.serving(pairs), strict=True):
        found, w = posterior(config, model, pairs, np.ones(4, bool), np.arange(4))
        space, n = model.space, len(Y)
        z = space.centred(Y).astype(np.float64)
        V = np.eye(len(space.unit_)) if model.by_genes else space.svd_.components_.astype(np.float64)
        singular, total = space.singular_values, np.zeros(4)
        for c, v in enumerate(V):
            growth = 1.0 if model.by_genes else (singular[0] / singular[c]) ** config.penalty_growth
            M = np.linalg.inv(found.K + config.penalty * growth * np.diag(model.noise))
            P = M - np.outer(M.sum(1), M.sum(0)) / M.sum()
            scale = (z @ v) @ P @ (z @ v) / (n - 1)
            k = found.to_rows.T
            free = 1 - M.sum(0) @ k
            variance = np.diag(found.prior) - np.einsum("ij,ij->j", k, M @ k) + free**2 / M.sum()
            total += scale * variance * (v**2 @ space.unit_**2) / len(space.unit_)
        np.testing.assert_allclose(found.variance @ w, total, rtol=1e-4)


def test_a_design_names_distinct_pairs_and_their_gains(kernels):
    work = predictor_of(kernels.model_, ASKED, "m")
    found = design(work, work, 20)
    assert (found.candidates, found.others, len(found.table)) == (8, 0, 8), "the last pair is the first again"
    assert found.table.columns.tolist() == ["rank", "cell_type", "sm_name", "gain", "share", "sd"]
    assert (
        (found.table["gain"] >= 0).all() and found.table["gain"].iloc[0] > 0 and (found.table["sd"] > 0).all()
    )
    assert not found.table.duplicated(["cell_type", "sm_name"]).any()
    few = design(work, work, 3)
    pd.testing.assert_frame_equal(few.table, found.table[:3])
    assert few.others == 5 and 0 < few.after < few.before
    only = design(work, predictor_of(kernels.model_, ASKED[4:6], "m"), 3)
    assert (only.candidates, only.others) == (2, 6) and set(only.table["sm_name"]) == {"something new"}
    assert f"falls from {only.before:.4g} to {only.after:.4g}" in only.sentences[0]


def test_the_choice_does_not_depend_on_the_sign_and_unit_of_responses(kernels, small_files):
    """Responses enter by sizes and products alone."""
    genes = list(kernels.genes_)
    turned = small_files.de_train.assign(**{gene: -4 * small_files.de_train[gene] for gene in genes})
    [member] = kernels.model_.config.recipe.members
    other = fitted(turned, member.known_compounds.targets)
    one, two = (design(*[predictor_of(model.model_, ASKED, "m")] * 2, 4).table for model in (kernels, other))
    assert one["sm_name"].tolist() == two["sm_name"].tolist()
    np.testing.assert_allclose(two["gain"], 16 * one["gain"], rtol=1e-3)
    np.testing.assert_allclose(two["sd"], 4 * one["sd"], rtol=1e-3)


def test_pairs_of_several_doses_are_told_apart():
    rng, molecules = np.random.default_rng(0), {"ethanol": "CCO", "benzene": "c1ccccc1", "butane": "CCCC"}
    rows = [(c, m, molecules[m], d) for c in "ABC" for m in molecules for d in (0.1, 1.0, 10.0)]
    table = pd.DataFrame(rows, columns=["cell_type", "sm_name", "SMILES", "dose_uM"])
    training = table.iloc[rng.permutation(len(rows))[:18]].reset_index(drop=True)
    genes = pd.DataFrame(rng.normal(size=(18, 6)).astype(np.float32), columns=list("uvwxyz"))
    model = fitted(training.join(genes), "components")
    work = predictor_of(model.model_, table, "m")
    found = design(work, work, 27)
    assert (found.candidates, len(found.table.drop_duplicates(["cell_type", "sm_name", "dose_uM"]))) == (
        27,
        27,
    )
    few = found.table[:6]
    assert len(set(few["dose_uM"])) > 1 and (few["gain"] > 0).all()


def test_the_command_prints_and_writes(kernels, tmp_path):
    run, pairs, out = tmp_path / "run", tmp_path / "pairs.csv", tmp_path / "next.csv"
    kernels.save(run / "model")
    ASKED.to_csv(pairs, index=False)
    expected = read_design(run, pairs, None, 3)
    work = predictor_of(kernels.model_, ASKED, "m")
    pd.testing.assert_frame_equal(design(work, work, 3).table, expected.table)
    words = "next", "--run", run, "--pairs", pairs, "--top", 3
    assert "3 of 8 candidates" in succeed(*words).stdout
    told = json.loads(succeed(*words, "--json").stdout)
    assert [one["sm_name"] for one in told["pairs"]] == expected.table["sm_name"].tolist()
    assert (told["others"], told["before"]) == (5, pytest.approx(expected.before))
    assert "3 pairs written" in succeed(*words, "--out", out).stdout
    pd.testing.assert_frame_equal(pd.read_csv(out), expected.table, check_dtype=False)
    pd.testing.assert_frame_equal(kernels.next(ASKED, 3), expected.table)
    some = tmp_path / "some.csv"
    ASKED[3:6].to_csv(some, index=False)
    found = kernels.next(some, 2, pairs=ASKED)
    pd.testing.assert_frame_equal(found, read_design(run, pairs, some, 2).table)
    assert "2 of 3 candidates" in found.attrs["notes"][0]
    assert "exists already" in error_line(invoke(*words, "--out", out))
    assert "has no predictions.parquet; give the folder of a run" in error_line(invoke("next", "--run", run))
    frame = work.metadata.assign(**dict.fromkeys(kernels.genes_, np.float32(0)))
    frame.to_parquet(run / "predictions.parquet")
    words = "next", "--run", run, "--candidates", pairs, "--top", 3
    assert succeed(*words).stdout == succeed("next", "--run", run, "--top", 3).stdout
    gone = tmp_path / "gone.csv"
    assert str(gone) in error_line(invoke("next", "--run", run, "--candidates", gone))


def test_a_model_whose_uncertainty_is_not_known(model, kernels, monkeypatch):
    assert "the recipe 'quick' has no composite kernels" in error_line(invoke("next", "--run", model.parent))
    recipe = kernels.model_.config.recipe
    [name], [fit], [member] = (
        kernels.model_.stack.models,
        kernels.model_.stack.models.values(),
        recipe.members,
    )

    def refused(config=None, **changes):
        part = replace(fit, known_compounds=replace(fit.known_compounds, **changes))
        stack = replace(kernels.model_.stack, models={name: part})
        changed = member.updated(known_compounds=member.known_compounds.updated(**(config or {})))
        config = kernels.model_.config.model_copy(update={"recipe": recipe.updated(members=(changed,))})
        work = predictor_of(replace(kernels.model_, stack=stack, config=config), ASKED, "m")
        with pytest.raises(InputError) as error:
            design(work, work, 1)
        return str(error.value)

    assert "solved by engine smo has no uncertainty that is known" in refused({"engine": "smo"})
    assert "is solved on landmarks" in refused(landmarks=np.arange(5))
    assert "saved by an older version" in refused(noise=None)
    config, part = member.known_compounds, fit.known_compounds
    with monkeypatch.context() as memory:
        memory.setattr(rules, "host_bytes", lambda: 8 * (4 * len(part.kernel.rows) ** 2 + 100_000) / SHARE)
        rules._require_known(config, part, 8, 8, 1, 1)
        with pytest.raises(InputError, match="of memory"):
            rules._require_known(config, part, 8, 8, 1, 1000)
    monkeypatch.setattr(rules, "MOST_OPERATIONS", 1e3)
    monkeypatch.setattr(PairPredictor, "features", None)  # what is too much is said before molecules are read
    assert "the covariances of 8 pairs, 8 of them candidates, by" in refused()


def test_a_model_without_noise_is_read_as_before(kernels, tmp_path):
    [name], [fit] = kernels.model_.stack.models, kernels.model_.stack.models.values()
    old = replace(
        fit,
        **{part: replace(getattr(fit, part), noise=None) for part in ("known_compounds", "new_compounds")},
    )
    kept, kernels.model_ = (
        kernels.model_,
        replace(kernels.model_, stack=replace(kernels.model_.stack, models={name: old})),
    )
    try:
        kernels.save(tmp_path / "old")
    finally:
        kernels.model_ = kept
    [read] = load_model(tmp_path / "old").stack.models.values()
    assert read.known_compounds.noise is None
    kernels.save(tmp_path / "new")
    [read] = load_model(tmp_path / "new").stack.models.values()
    np.testing.assert_array_equal(read.new_compounds.noise, fit.new_compounds.noise)
