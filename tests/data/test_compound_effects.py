"""Effects of compounds against loops over rows; embeddings of several data sets; identity between them."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.compound_effects import (
    KAPPA,
    MOST_KAPPA,
    SHRINKAGE,
    CompoundEffects,
    Identity,
    atlas_of,
    build_atlas,
)
from rapids_pipeline.data.tables import PerturbationData


def responses(n_cells=3, n_compounds=9, n_genes=7, seed=0, noise=0.5, times=(6.0, 24.0), doses=(1.0,)):
    """Most compounds in most contexts, with weights; compound effects are alike over contexts."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(n_compounds, n_genes))
    rows = [
        (f"cell {c}", f"drug {m}", dose, time)
        for c in range(n_cells)
        for m in range(n_compounds)
        for dose in doses
        for time in times
        if rng.random() < 0.7
    ]
    obs = pd.DataFrame(rows, columns=["cell_type", "sm_name", "dose_uM", "time_h"]).assign(SMILES="")
    number = obs["sm_name"].str.split().str[1].astype(int).to_numpy()
    Y = effects[number] + noise * rng.normal(size=(len(obs), n_genes))
    genes = tuple(f"g{k}" for k in range(n_genes))
    return PerturbationData(obs, Y.astype(np.float32), genes, weight=rng.uniform(0.5, 2, len(obs)))


def numbers(data):
    return np.unique(data.obs["sm_name"].to_numpy(str), return_inverse=True)[1]


def naive_effects(data):
    """The formula, row by row and gene by gene."""
    obs, Y, w = data.obs, data.Y.astype(float), data.weight
    context = list(zip(obs["cell_type"], obs["dose_uM"], obs["time_h"], strict=True))
    r = np.zeros_like(Y)
    for i in range(len(Y)):
        for g in range(Y.shape[1]):
            same = [Y[j, g] for j in range(len(Y)) if context[j] == context[i] and np.isfinite(Y[j, g])]
            if np.isfinite(Y[i, g]):
                r[i, g] = Y[i, g] - sum(same) / (len(same) + SHRINKAGE)
    names, means, totals, within, degrees = sorted(set(obs["sm_name"])), [], [], 0.0, 0
    for name in names:
        mine = np.flatnonzero(obs["sm_name"] == name)
        totals.append(w[mine].sum())
        means.append(sum(w[i] * r[i] for i in mine) / totals[-1])
        within += sum(w[i] * ((r[i] - means[-1]) ** 2).sum() for i in mine)
        degrees += len(mine) - 1
    if not degrees:
        kappa = KAPPA
    else:
        noise = within / degrees
        between = np.mean([m @ m - noise / t for m, t in zip(means, totals, strict=True)])
        kappa = min(noise / between, MOST_KAPPA) if between > 0 else MOST_KAPPA
    return np.array([m * t / (t + kappa) for m, t in zip(means, totals, strict=True)]), kappa


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize(
    "how",
    [{}, {"n_cells": 1, "times": (24.0,)}, {"noise": 30.0}, {"doses": (0.1, np.nan)}],
    ids=["contexts", "one context a compound", "nothing but noise", "doses"],
)
def test_effects_are_those_of_a_loop(how, missing):
    data = responses(**how)
    rng = np.random.default_rng(1)
    data.Y[rng.random(data.Y.shape) < missing] = np.nan
    found = CompoundEffects.of(data, numbers(data))
    # a missing dose is a context of its own
    named = data.obs.assign(dose_uM=data.obs["dose_uM"].fillna(-1.0))
    expected, kappa = naive_effects(PerturbationData(named, data.Y, data.genes, weight=data.weight))
    assert found.kappa == pytest.approx(kappa)
    np.testing.assert_allclose(found.effects, expected, atol=1e-12)
    assert found.contexts.tolist() == np.bincount(numbers(data)).tolist()


def test_embeddings_keep_the_products_of_effects_and_have_length_one_on_average():
    data = responses(n_genes=20)
    found = CompoundEffects.of(data, numbers(data))
    e, x = found.embeddings().astype(float), found.effects
    assert e.shape == (9, 8) and (e**2).sum(axis=1).mean() == pytest.approx(1)
    U, s, _ = np.linalg.svd(x)
    leading = (U[:, :8] * s[:8]) @ (U[:, :8] * s[:8]).T
    np.testing.assert_allclose(e @ e.T, leading * 9 / np.trace(leading), atol=1e-5)


def test_more_contexts_count_more_and_noise_shrinks_more():
    rows = [(f"cell {c}", m) for c in range(4) for m in ("often", "other", "third")] + [("cell 0", "once")]
    obs = pd.DataFrame(rows, columns=["cell_type", "sm_name"]).assign(SMILES="")
    rng = np.random.default_rng(0)
    effect = {name: rng.normal(size=6) for name in ("often", "other", "third")}
    effect["once"] = effect["often"]
    clean = np.array([effect[m] for _, m in rows])
    noise = rng.normal(size=clean.shape)
    kappas = []
    for size in (0.1, 0.5):
        data = PerturbationData(obs, (clean + size * noise).astype(np.float32), tuple("abcdef"))
        found = CompoundEffects.of(data, numbers(data))
        kappas.append(found.kappa)
    assert 0 < kappas[0] < kappas[1]


def test_an_atlas_adds_up_the_data_sets_that_have_both_compounds():
    one, other = responses(seed=1, n_genes=6), responses(seed=2, n_genes=9)
    other = PerturbationData(
        other.obs.assign(sm_name=other.obs["sm_name"].str.replace("drug 0", "only here")),
        other.Y,
        other.genes,
        weight=other.weight,
    )
    found = atlas_of([("one", "1" * 64, one), ("other", "2" * 64, other)])
    e = [CompoundEffects.of(data, numbers(data)).embeddings().astype(float) for data in (one, other)]
    names = [sorted(set(data.obs["sm_name"])) for data in (one, other)]
    count = {name: sum(name in those for those in names) for name in found.names}
    gram = found.embeddings.astype(float) @ found.embeddings.T
    for i, a in enumerate(found.names):
        for j, b in enumerate(found.names):
            both = [s for s in (0, 1) if a in names[s] and b in names[s]]
            expected = sum(e[s][names[s].index(a)] @ e[s][names[s].index(b)] for s in both)
            assert gram[i, j] == pytest.approx(expected / np.sqrt(count[a] * count[b]), abs=1e-5)
    assert found.has_pairs(one.obs).all() and found.has_pairs(other.obs).all()
    assert [source.compounds for source in found.sources] == [len(those) for those in names]


def test_identity_joins_salts_spellings_and_names_without_structure():
    tables = [
        pd.DataFrame({"sm_name": ["ethylamine HCl", "Amine-1", "thing"], "SMILES": ["CCN.Cl", "CCN", ""]}),
        pd.DataFrame({"sm_name": ["amine 1", "Thing", "twin", "TWIN"], "SMILES": ["", "", "CCO", "CCC"]}),
        pd.DataFrame({"sm_name": ["twin"], "SMILES": [""]}),
    ]
    found = Identity(tables)
    assert [place.tolist() for place in found.places] == [[0, 0, 1], [0, 1, 2, 3], [4]]
    assert found.names == ["ethylamine HCl", "thing", "twin", "TWIN", "twin"]
    assert found.spellings == {"ethylaminehcl": 0, "amine1": 0, "thing": 1}, "twin is no one's name alone"


def test_a_file_twice_and_responses_that_are_all_alike_are_refused(tmp_path):
    data = responses()
    table = pd.concat([data.obs, pd.DataFrame(data.Y, columns=list(data.genes))], axis=1)
    table.to_parquet(tmp_path / "a.parquet")
    table.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="this file is given twice"):
        build_atlas([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    same = PerturbationData(data.obs, np.zeros_like(data.Y), data.genes)
    with pytest.raises(InputError, match="lab: all compounds have the same responses"):
        atlas_of([("lab", "0" * 64, same)])
