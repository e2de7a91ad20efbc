"""Composite kernels: against loops, on any array library, for new pairs, subsets and after a save."""

import array_api_strict
import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from features.molecules.descriptors import DescriptorEncoder
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.kernels import composite
from rapids_pipeline.kernels.composite import CompositeKernel, LearntKernel
from rapids_pipeline.kernels.terms import FACTORS, Factor, terms_of
from tests.kernels.pairs_example import in_contexts, naive_nearness, naive_profile, pairs, rows_of

EVERYTHING = {
    "cell_type": 0.5,
    "compound": 0.4,
    "correlation": 0.3,
    "tanimoto": 0.6,
    "rbf(descriptors)": 0.8,
    "rbf(made up)": 0.9,
    "correlation * tanimoto^2": 1.1,
    "profile_linear": 0.2,
    "profile_cosine * correlation": 1.3,
    "profile_rbf * cell_type": 1.7,
    "correlation^2 * profile_linear * compound": 0.35,
}
LIKE = np.empty(0)


def with_made_up(rows):
    """Rows with features of a made-up encoder."""
    names = rows.obs["sm_name"].str.split().str[1].astype(int)
    table = np.random.default_rng(5).normal(size=(50, 6)).astype(np.float32)
    return Rows(rows.obs, dict(rows.molecules) | {"made up": table[names]})


def learnt(weights=EVERYTHING, seed=0, kappa=1.0):
    rows, scores = pairs(seed=seed)
    kernel = CompositeKernel(weights, kappa)
    return kernel.learn(Pairs.of(with_made_up(rows), ["morgan", "made up"]), scores), rows, scores


def naive_scale(values):
    """Mean squared distance of two different ones."""
    pairs = [(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j]
    return np.mean([((a - b) ** 2).sum() for a, b in pairs])


def naive_factors(asked, rows, model, kappa):
    """Every factor between asked and training rows, pair by pair."""
    obs, new = rows.obs, asked.obs
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = {s: make.GetFingerprint(Chem.MolFromSmiles(s)) for s in {*obs["SMILES"], *new["SMILES"]}}
    trained = obs.groupby("sm_name")["SMILES"].first()
    encoder = DescriptorEncoder().fit(list(trained))
    described = {s: encoder.transform([s])[0].astype(float) for s in bits}
    made_up = {
        m: x.astype(float)
        for r in (asked, rows)
        for m, x in zip(r.obs["sm_name"], r.molecules["made up"], strict=True)
    }
    scales = naive_scale([described[s] for s in trained]), naive_scale([made_up[m] for m in trained.index])
    there, here = (list(zip(x["cell_type"], x["sm_name"], x["SMILES"], strict=True)) for x in (obs, new))
    profile = {(c, m): naive_profile(c, m, obs, model.profiles.residuals, kappa) for c, m, _ in there + here}
    found = [profile[c, m] for c, m, _ in there]
    square = np.mean([p @ p for p, has in found if has])
    factors = {
        name: np.zeros((len(new), len(obs))) for name in (*FACTORS, "rbf(descriptors)", "rbf(made up)")
    }
    place = model.cell_types.index
    for i, (c, m, s) in enumerate(here):
        for j, (d, o, z) in enumerate(there):
            (p, has), (q, other) = profile[c, m], profile[d, o]
            known = c in model.cell_types
            values = {
                "cell_type": c == d,
                "compound": m == o,
                "correlation": model.correlation[place(c), place(d)] if known else model.unseen_correlation,
                "tanimoto": DataStructs.TanimotoSimilarity(bits[s], bits[z]),
                "rbf(descriptors)": np.exp(-((described[s] - described[z]) ** 2).sum() / scales[0]),
                "rbf(made up)": np.exp(-((made_up[m] - made_up[o]) ** 2).sum() / scales[1]),
            }
            if has and other:
                values["profile_linear"] = p @ q / square
                values["profile_cosine"] = p @ q / np.sqrt((p @ p) * (q @ q))
                values["profile_rbf"] = np.exp(-((p - q) ** 2).sum() / square)
            for name, value in values.items():
                factors[name][i, j] = value
    return factors


def naive_gram(asked, rows, model, weights, kappa):
    factors = naive_factors(asked, rows, model, kappa)
    K = np.zeros_like(factors["cell_type"])
    for name, weight in weights.items():
        product = np.ones_like(K)
        for part in name.split(" * "):
            base, _, power = part.partition("^")
            product = product * factors[base] ** int(power or 1)
        K += weight * product
    return K


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_a_gram_matrix_is_that_of_a_loop(kappa):
    model, rows, _ = learnt(kappa=kappa)
    np.testing.assert_allclose(
        model.gram(LIKE),
        naive_gram(with_made_up(rows), with_made_up(rows), model, EVERYTHING, kappa),
        atol=2e-6,
    )
    asked = with_made_up(rows_of([(0, 0), (9, 1), (2, 11), (9, 12), (3, 7), (0, 0)]))
    found = model.between(Pairs.of(asked, ["morgan", "made up"]), LIKE)
    np.testing.assert_allclose(
        found, naive_gram(asked, with_made_up(rows), model, EVERYTHING, kappa), atol=2e-6
    )


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
@pytest.mark.parametrize("entries", [1, 50, 700])
def test_a_gram_matrix_made_in_blocks_is_the_whole_one(library, entries, monkeypatch):
    likes = {"numpy": LIKE, "torch": torch.empty(0, dtype=torch.float64)}
    like = likes.get(library, array_api_strict.empty(0))
    model, _, _ = learnt()
    asked = Pairs.of(with_made_up(rows_of([(0, 0), (9, 1), (2, 11), (3, 7)])), ["morgan", "made up"])
    columns = np.array([7, 0, 3])
    whole = model.gram(LIKE), model.between(asked, LIKE), model.between(asked, LIKE, columns)
    np.testing.assert_array_equal(whole[2], whole[1][:, columns])
    for name in ("ENTRIES_AT_ONCE", "BLOCK_ENTRIES"):
        monkeypatch.setattr(composite, name, entries)
    coef = np.random.default_rng(0).normal(size=(len(model.rows), 2))
    np.testing.assert_allclose(model.products(asked, coef), whole[1] @ coef, atol=1e-5)
    np.testing.assert_allclose(
        model.products(asked, coef[columns], columns), whole[2] @ coef[columns], atol=1e-5
    )
    found = model.gram(like), model.between(asked, like), model.between(asked, like, columns)
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_allclose(to_host(one), other, atol=1e-12)
    single = model.gram(like, namespace(like).float32)
    assert single.dtype == namespace(like).float32
    np.testing.assert_allclose(to_host(single), whole[0], rtol=1e-6)
    np.testing.assert_allclose(model.diagonal(like), np.diag(whole[0]), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_every_term_and_the_whole_are_positive_semidefinite(seed):
    for weights in [EVERYTHING, *({name: 1.0} for name in EVERYTHING)]:
        K = learnt(weights, seed)[0].gram(LIKE)
        np.testing.assert_allclose(K, K.T, atol=1e-12)
        assert np.linalg.eigvalsh(K).min() > -1e-6 * np.abs(K).max(), weights


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_all_array_libraries_give_one_kernel(library):
    like = torch.empty(0, dtype=torch.float64) if library == "torch" else array_api_strict.empty(0)
    model, _, _ = learnt()
    asked = Pairs.of(with_made_up(rows_of([(0, 0), (9, 1), (2, 11)])), ["morgan", "made up"])
    found = model.between(asked, like)
    assert type(found).__module__.split(".")[0] == library
    np.testing.assert_allclose(to_host(found), model.between(asked, LIKE), atol=1e-12)


def test_a_pairs_kernel_does_not_depend_on_the_pairs_beside_it():
    model, _, _ = learnt()
    asked = Pairs.of(
        with_made_up(rows_of([(c, m) for c in range(6) for m in range(12)])), ["morgan", "made up"]
    )
    together = model.between(asked, LIKE)
    for k in (0, 17, 71):
        np.testing.assert_allclose(
            model.between(asked.take(np.array([k])).alone(), LIKE)[0], together[k], atol=1e-12
        )


@pytest.mark.parametrize("with_contexts", [False, True])
def test_a_kernel_between_other_pairs_is_one_with_that_of_the_rows(with_contexts):
    """Training rows and new pairs together: the same numbers as from the rows' side, symmetric, semidefinite."""
    (rows, scores), asked = pairs(), rows_of([(0, 0), (9, 1), (2, 11), (1, 3), (9, 13)])
    weights = EVERYTHING | ({"dose * tanimoto": 0.7, "dose * time": 0.3} if with_contexts else {})
    if with_contexts:
        rows, asked = in_contexts(rows), in_contexts(asked, seed=4)
    rows, asked = with_made_up(rows), with_made_up(asked)
    here, there = (Pairs.of(x, ["morgan", "made up"]) for x in (rows, asked))
    model = CompositeKernel(weights).learn(here, scores)
    again = Pairs.of(Rows.joined(rows, asked), ["morgan", "made up"])
    K = model.between(again, LIKE, others=again)
    n = len(here)
    np.testing.assert_allclose(K[:n, :n], model.gram(LIKE), atol=1e-12)
    np.testing.assert_allclose(K[n:, :n], model.between(there, LIKE), atol=1e-12)
    np.testing.assert_allclose(K[:n, n:], model.between(there, LIKE).T, atol=1e-12)
    np.testing.assert_allclose(model.between(here, LIKE, others=there), K[:n, n:], atol=1e-12)
    assert np.linalg.eigvalsh(K).min() > -1e-6 * np.abs(K).max()


def test_a_subset_of_rows_learns_what_the_same_rows_alone_learn():
    rows, scores = pairs()
    both = Pairs.of(with_made_up(rows), ["morgan", "made up"])
    some = np.arange(0, len(scores), 2)
    kernel = CompositeKernel(EVERYTHING)
    shared = kernel.learn(both.take(some), scores[some])
    alone = kernel.learn(both.take(some).alone(), scores[some])
    np.testing.assert_allclose(shared.gram(LIKE), alone.gram(LIKE), atol=1e-12)
    np.testing.assert_allclose(shared.between(both, LIKE), alone.between(both, LIKE), atol=1e-12)


def test_a_kernel_is_the_same_after_a_save():
    model, _, _ = learnt()
    state = model.state()
    again = LearntKernel.from_state(model.kernel, StateReader(state, "saved"))
    asked = Pairs.of(with_made_up(rows_of([(0, 0), (9, 1), (2, 11)])), ["morgan", "made up"])
    assert np.array_equal(again.between(asked, LIKE), model.between(asked, LIKE))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.update(residuals=s["residuals"][:-1]), "residuals must be float64"),
        (lambda s: s.update(correlation=s["correlation"][:2]), "correlation must be float64"),
        (lambda s: s["rows"].update(cell_type=s["rows"]["cell_type"] + 9), "numbers outside"),
        (lambda s: s["rows"].update(encoders=["made up"]), "no molecule features of morgan"),
    ],
)
def test_a_damaged_state_is_named(damage, message):
    model, _, _ = learnt()
    state = {**model.state(), "rows": dict(model.state()["rows"])}
    damage(state)
    with pytest.raises(InputError, match=message):
        LearntKernel.from_state(model.kernel, StateReader(state, "saved"))


def test_rows_that_lack_what_a_kernel_compares_are_refused():
    rows, scores = pairs()
    without = Pairs.of(Rows(rows.obs[["cell_type", "sm_name"]]), [])
    with pytest.raises(InputError, match="no column SMILES"):
        CompositeKernel({"rbf(descriptors)": 1.0}).learn(without, scores).gram(LIKE)
    with pytest.raises(InputError, match="profile_shrinkage must be finite"):
        CompositeKernel({"cell_type": 1.0}, -1.0)


def test_which_encoders_a_kernel_reads():
    kernel = CompositeKernel({"rbf(molecules) * tanimoto": 1.0, "rbf(descriptors)": 1.0})
    assert kernel.with_molecules("chemberta").encoders == ("chemberta", "descriptors", "morgan")
    both = CompositeKernel({"rbf(molecules)": 1.0, "rbf(morgan)": 0.5}).with_molecules("morgan")
    assert both.weights == {"rbf(morgan)": 1.5}
    assert CompositeKernel({"profile_linear * tanimoto": 1.0}).of_profiles and not kernel.of_profiles


def test_products_are_read_in_any_order_and_with_powers():
    terms = terms_of({"cell_type": 1, "tanimoto^2 * correlation": 0.5, "rbf(chemberta)*compound": 2.0})
    assert terms == (
        (1.0, (Factor("cell_type"),)),
        (0.5, (Factor("correlation"), Factor("tanimoto", 2))),
        (2.0, (Factor("compound"), Factor("rbf(chemberta)"))),
    )
    assert [f.encoder for f in terms[1][1] + terms[2][1]] == [None, "morgan", None, "chemberta"]
    assert Factor("profile_rbf").of_profiles and not Factor("tanimoto").of_profiles


def test_a_weight_of_zero_leaves_a_term_out():
    assert terms_of({"cell_type": 0.0, "compound": 1.0}) == ((1.0, (Factor("compound"),)),)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"tanimotto": 1.0}, "no kernel factor 'tanimotto'; choose among cell_type, compound"),
        ({"tanimoto^0": 1.0}, r"no kernel factor 'tanimoto\^0'"),
        ({"cell_type *": 1.0}, "no kernel factor ''"),
        ({"cell_type": -1.0}, "weight of 'cell_type' must be finite and not negative, not -1.0"),
        ({"cell_type": float("nan")}, "must be finite"),
        ({"cell_type * compound": 1.0, "compound * cell_type": 1.0}, "'compound \\* cell_type' occurs twice"),
        ({"cell_type": 0.0}, "at least one weight above 0"),
        ({}, "at least one weight above 0"),
    ],
)
def test_what_is_no_kernel_is_named(weights, message):
    with pytest.raises(ValueError, match=message):
        terms_of(weights)


# --- doses, times and batches -------------------------------------------------------------------------------

CONTEXTS = {"compound * dose * time": 2.0, "dose * cell_type": 0.7, "time^2": 0.3, "batch": 0.4}


def test_factors_of_contexts_are_those_of_a_loop():
    rows, scores = pairs(n_cells=3, seed=2)
    rows, asked = in_contexts(rows), in_contexts(pairs(seed=5)[0], 9)
    asked.obs.loc[0, ["dose_uM", "time_h", "batch"]] = 3.0, 100.0, "three"
    model = CompositeKernel(CONTEXTS, dose_length=0.5, time_length=0.4).learn(Pairs.of(rows, []), scores)
    expected = np.zeros((len(asked.obs), len(rows.obs)))
    for i, x in enumerate(asked.obs.itertuples()):
        for j, z in enumerate(rows.obs.itertuples()):
            dose = naive_nearness(x.dose_uM, z.dose_uM, 0.5, 0.1)
            time = naive_nearness(x.time_h, z.time_h, 0.4, 2.0)
            expected[i, j] = 2 * (x.sm_name == z.sm_name) * dose * time
            expected[i, j] += (
                0.7 * (x.cell_type == z.cell_type) * dose + 0.3 * time**2 + 0.4 * (x.batch == z.batch)
            )
    found = model.between(Pairs.of(asked, []), LIKE)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(
        model.between(Pairs.of(asked, []).take(np.array([3, 0])), LIKE), expected[[3, 0]]
    )
    assert np.linalg.eigvalsh(model.gram(LIKE)).min() > -1e-10
    again = LearntKernel.from_state(model.kernel, StateReader(model.state(), "saved"))
    np.testing.assert_array_equal(again.between(Pairs.of(asked, []), LIKE), found)


def test_a_dose_of_zero_lies_below_the_least_dose_of_the_rows_that_are_trained_on():
    rows = Pairs.of(Rows(rows_of([(0, 0)] * 4).obs.assign(dose_uM=[0, 0.001, 1.0, 10.0])), [])
    trained = rows.take(np.array([0, 2, 3]))
    model = CompositeKernel({"dose": 1.0}).learn(trained, np.eye(3))
    np.testing.assert_allclose(
        model.gram(LIKE)[0, 1], np.exp(-1 / (2 * 0.6**2))
    )  # 0 is 0.1, though 0.001 is there


def test_columns_that_no_row_has_are_one_everywhere():
    rows, scores = pairs()
    without, constant = (
        Pairs.of(rows, []),
        Pairs.of(Rows(rows.obs.assign(dose_uM=10.0, time_h=24.0, batch="x")), []),
    )
    plain = {"compound": 2.0, "cell_type": 0.7, "profile_linear": 1.0}
    named = {"compound * dose * time": 2.0, "cell_type * time": 0.7, "profile_linear": 1.0}
    expected = CompositeKernel(plain).learn(without, scores).gram(LIKE)
    for columns in (without, constant):
        model = CompositeKernel(named).learn(columns, scores)
        np.testing.assert_array_equal(model.gram(LIKE), expected)
        # To rounding: with AVX-512, OpenBLAS's bits of a small product can depend on where it lies in memory.
        np.testing.assert_allclose(
            model.between(without, LIKE), model.between(constant, LIKE), rtol=0, atol=1e-13
        )


def test_a_pair_is_known_where_its_compound_was_measured_in_another_context():
    rows, scores = pairs(n_compounds=5, seed=1)
    rows, asked = in_contexts(rows), in_contexts(pairs(n_cells=5, n_compounds=7, seed=3)[0], 2)
    asked = Rows(pd.concat([asked.obs, rows.obs[:6]], ignore_index=True))
    columns = ["cell_type", "sm_name", "dose_uM", "time_h"]
    there = rows.obs.fillna({"dose_uM": -1.0})[columns].to_numpy().tolist()
    expected = [
        any(k[1] == x[1] and k != x for k in there)
        for x in asked.obs.fillna({"dose_uM": -1.0})[columns].to_numpy().tolist()
    ]
    model = CompositeKernel({"compound * dose": 1.0}).learn(Pairs.of(rows, []), scores)
    assert model.is_known(Pairs.of(asked, [])).tolist() == expected and 0 < sum(expected) < len(expected)
    elsewhere = [
        any(k[1] == x[1] and k[0] != x[0] for k in there) for x in asked.obs[columns].to_numpy().tolist()
    ]
    by_profile = CompositeKernel({"compound": 1.0}).learn(Pairs.of(rows, []), scores)
    assert not (by_profile.is_known(Pairs.of(asked, [])) & ~np.array(elsewhere)).any()


def test_lengths_must_be_above_zero():
    with pytest.raises(InputError, match="dose_length and time_length must be finite and above 0"):
        CompositeKernel({"dose": 1.0}, dose_length=0.0)


def test_factors_of_an_atlas_are_those_of_a_loop_and_zero_for_absent_compounds():
    rows, scores = pairs()
    embeddings = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    embeddings[[1, 4]] = 0
    number = rows.obs["sm_name"].str.split().str[1].astype(int).to_numpy()
    known = Rows(rows.obs, {"atlas": embeddings[number]})
    for factor in ("atlas_linear", "atlas_rbf"):
        kernel = CompositeKernel({factor: 2.0})
        assert kernel.encoders == ("atlas",) and kernel.with_molecules("none").encoders == ("atlas",)
        K = kernel.learn(Pairs.of(known, ["atlas"]), scores).gram(LIKE)
        for i, a in enumerate(number):
            for j, b in enumerate(number):
                x, y = embeddings[a].astype(float), embeddings[b].astype(float)
                value = x @ y if factor == "atlas_linear" else np.exp(-((x - y) ** 2).sum())
                expected = 0.0 if {a, b} & {1, 4} else 2 * value
                assert K[i, j] == pytest.approx(expected, abs=1e-6)
