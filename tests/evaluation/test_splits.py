"""Folds, and splits by name: what each promises to hold out, on random and on real data."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import cross_validate

from features.molecules.smiles import canonical_smiles, murcko_scaffolds
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import read_training
from rapids_pipeline.evaluation.splits import (
    SPLITS,
    NamedSplit,
    bootstrap_units,
    context_folds,
    group_folds,
    judging_folds,
    named_splits,
    random_folds,
    same_compound,
)

SMILES = "C CC CCC c1ccccc1 CCO CC(=O)O CN c1ccccc1C c1ccncc1 C1CC1 OCC C1CCCCC1".split()
CELLS = ["B cells", "Myeloid cells", "NK cells", "T cells"]
WHOLE = ("random", "compound", "scaffold", "cell_type")


def table(seed=0, n=120):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(SMILES), n)
    return pd.DataFrame(
        {
            "cell_type": rng.choice(CELLS, n, p=[0.1, 0.1, 0.4, 0.4]),
            "sm_name": [f"drug {i}" for i in which],
            "SMILES": [SMILES[i] for i in which],
            "dose_uM": rng.choice([0.0, 0.1, 1.0, np.nan], n),
            "time_h": rng.choice([6.0, 24.0], n),
        }
    )


def responses(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def lines(counts, shared="compound"):
    """Rows of cell types with so many compounds each, the first ones in all of them."""
    pairs = [(name, f"{shared} {m:02d}") for name, count in counts.items() for m in range(count)]
    return pd.DataFrame(pairs, columns=["cell_type", "sm_name"])


def pairs_of(cell_types):
    return pd.DataFrame({"cell_type": pd.Series(cell_types, dtype=object), "sm_name": "drug 1"})


def made(name, obs, **options):
    pairs = obs[obs["cell_type"].isin(CELLS[:2])]
    return named_splits(name, obs, pairs=pairs, Y=responses(len(obs)), **options)


def parts(obs, split):
    return obs.iloc[split.training], obs.iloc[split.held_out]


def shares(obs, split, column):
    training, held_out = parts(obs, split)
    return set(training[column]) & set(held_out[column])


def contexts(obs, *columns):
    columns = columns or ("cell_type", "sm_name", "dose_uM", "time_h")
    return list(obs.fillna({"dose_uM": -1})[list(columns)].itertuples(index=False, name=None))


def assert_holds_out(name, obs, splits):
    """No row is held out twice, and none of what a split holds out is in training."""
    held_out = np.concatenate([split.held_out for split in splits])
    assert len(np.unique(held_out)) == len(held_out), "no row twice"
    if name in WHOLE:
        assert len(held_out) == len(obs), "every row once"
    for split in splits:
        if name in ("compound", "scaffold", "joint"):
            assert not shares(obs, split, "sm_name")
        if name in ("cell_type", "joint"):
            assert not shares(obs, split, "cell_type")
        if name in ("random", "dose", "time") and "dose_uM" in obs:
            training, outside = parts(obs, split)
            assert not set(contexts(training)) & set(contexts(outside)), "replicates stay together"


@pytest.mark.parametrize("name", list(SPLITS))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(90, 200), n_folds=st.integers(2, 5))
def test_what_each_split_promises(name, seed, n, n_folds):
    obs = table(seed, n)
    obs["molecule"] = [canonical_smiles(text) for text in obs["SMILES"]]
    obs["scaffold"] = murcko_scaffolds(obs["SMILES"])
    for splits in made(name, obs, n_folds=n_folds, repeats=2, seed=seed):
        assert_holds_out(name, obs, splits)
        for split in splits:
            assert len(split.training) and len(split.held_out)
            assert not set(split.training) & set(split.held_out)
            assert (np.diff(split.training) > 0).all() and (np.diff(split.held_out) > 0).all()
            if name != "joint":
                assert len(split.training) + len(split.held_out) == n
            if name in ("compound", "scaffold", "joint"):
                assert not shares(obs, split, "molecule")
            if name == "scaffold":
                assert not shares(obs, split, "scaffold")
            if name in ("scarce", "made_scarce"):
                training, outside = parts(obs, split)
                # a compound is its molecule to "scarce" (CCO and OCC are one), its name to "made_scarce"
                column = "molecule" if name == "scarce" else "sm_name"
                assert set(outside[column]) <= set(training[column])
                other = name == "made_scarce"
                assert set(outside["cell_type"]) <= set(CELLS[2:] if other else CELLS[:2])
            if name == "scarce":
                scarce = training[training["cell_type"].isin(CELLS[:2])]
                others = training[~training["cell_type"].isin(CELLS[:2])]
                assert set(outside["molecule"]) <= set(others["molecule"])
                assert not set(scarce["molecule"]) & set(outside["molecule"]), "compounds are held out whole"
            if name in ("dose", "time"):
                training, outside = parts(obs, split)
                column = "dose_uM" if name == "dose" else "time_h"
                assert not set(contexts(training, "molecule", column)) & set(
                    contexts(outside, "molecule", column)
                )
                assert outside[column].notna().all()
                kept = training[training[column].notna()]
                assert set(outside["molecule"]) <= set(kept["molecule"]), "other doses stay in training"
            if name == "published":
                training, outside = parts(obs, split)
                assert set(outside["cell_type"]) <= set(CELLS[:2])
                both = training[training["cell_type"].isin(CELLS[:2])]
                assert not set(both["molecule"]) & set(outside["molecule"])


@pytest.mark.parametrize("name", list(SPLITS))
def test_seeds_decide(name):
    def held_out(seed):
        return [tuple(split.held_out) for split in made(name, table(), n_folds=3, seed=seed)[0]]

    assert held_out(1) == held_out(1)
    if name != "cell_type":
        assert held_out(1) != held_out(2)
    repeats = made(name, table(), n_folds=3, repeats=2, seed=1)
    assert [tuple(split.held_out) for split in repeats[1]] == held_out(2)


def test_random_is_that_of_a_run():
    obs = table().assign(time_h=np.arange(120))
    folds = random_folds(120, 4, 7)
    np.testing.assert_array_equal(context_folds(obs, 4, 7), folds)
    for k, split in enumerate(made("random", obs, n_folds=4, seed=7)[0]):
        np.testing.assert_array_equal(split.held_out, np.flatnonzero(folds == k))


def test_replicates_are_dealt_as_one_row():
    once = table().drop_duplicates(["cell_type", "sm_name", "dose_uM", "time_h"], ignore_index=True)
    twice = pd.concat([once, once.iloc[::2]], ignore_index=True)
    folds = context_folds(twice, 4, 7)
    np.testing.assert_array_equal(folds[: len(once)], random_folds(len(once), 4, 7))
    np.testing.assert_array_equal(folds[len(once) :], folds[: len(once) : 2])


def test_a_compound_of_one_dose_is_never_held_out():
    obs = pd.DataFrame(
        {"cell_type": "A", "sm_name": list("xxxxyyz"), "SMILES": ["C"] * 4 + ["CC"] * 2 + ["CCC"]}
    )
    obs["dose_uM"], obs["time_h"] = [1, 1, 2, np.nan, 5, 7, 3], 24.0
    [splits] = named_splits("dose", obs, n_folds=2)
    assert sorted(np.concatenate([split.held_out for split in splits])) == [0, 1, 2, 4, 5]
    for split in splits:
        assert len({0, 1} & set(split.held_out)) != 1 and len({4, 5} & set(split.held_out)) == 1
    with pytest.raises(
        InputError, match="--split time: 2 folds of 0 times of compounds that have several in the"
    ):
        named_splits("time", obs, n_folds=2)
    with pytest.raises(InputError, match="--split dose: 2 folds of 0 doses"):
        named_splits("dose", obs.drop(columns="dose_uM"), n_folds=2)


def test_names_of_one_molecule_and_molecules_of_one_name_are_one_compound():
    names = np.array(["ethanol", "alcohol", "x", "x", "benzene"])
    smiles = np.array(["CCO", "OCC", "C", "CC", "c1ccccc1"])
    found = same_compound(names, smiles)
    assert found[0] == found[1] and found[2] == found[3]
    assert len(set(found)) == 3


def test_folds_of_groups_are_even():
    groups = np.repeat(np.arange(30), np.random.default_rng(0).integers(1, 9, 30))
    for seed in range(20):
        sizes = np.bincount(group_folds(groups, 5, seed, "groups"))
        assert sizes.max() - sizes.min() <= np.bincount(groups).max()


def test_every_cluster_is_in_every_fold_and_small_ones_stay_in_training():
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], [100, 60, 5])
    Y = (100 * np.eye(3)[kinds] + rng.normal(size=(165, 3))).astype(np.float32)
    splits = named_splits("cluster", table(n=165), n_folds=5, Y=Y)[0]
    for split in splits:
        counts = np.bincount(kinds[split.held_out], minlength=3)
        assert counts[2] == 0
        assert abs(counts[0] - 20) <= 8 and abs(counts[1] - 12) <= 8


def test_molecules_without_rings_are_scaffolds_of_their_own():
    found = murcko_scaffolds(["CCO", "OCC", "Cc1ccccc1", "c1ccccc1CC"])
    assert found == ["CCO", "CCO", "c1ccccc1", "c1ccccc1"]


def test_the_unit_of_the_bootstrap_is_what_was_held_out():
    by_compound = {"compound", "scaffold", "joint", "dose", "time", "scarce", "made_scarce"}
    obs = table()
    compounds = np.unique(obs["sm_name"], return_inverse=True)[1].tolist()
    for name in SPLITS:
        expected = compounds if name in by_compound else list(range(120))
        assert bootstrap_units(name, obs).tolist() == expected


@pytest.mark.parametrize("name", ["random", "compound", "cell_type", "cluster"])
def test_scikit_learn_takes_it(name):
    obs, Y = table(), responses(120)
    cv = NamedSplit(name, n_folds=4, repeats=2)
    found = cross_validate(DummyRegressor(), obs, Y, cv=cv)
    assert len(found["test_score"]) == cv.get_n_splits(obs, Y) == 8
    assert np.isfinite(found["test_score"]).all()


TWO_LINES = lines({"B": 8, "T": 30})
NO_SCARCE = "--split scarce: no split imitates these pairs: .* take --split cell_type"
NOT_MADE = ".*no split imitates these pairs"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("leave-one-out", {}, "--split leave-one-out: choose among random, compound, "),
        ("compound", {"n_folds": 12}, "12 folds of 11 compounds: take from 2 to 11 folds"),
        ("compound", {"n_folds": 1}, "1 folds of 11 compounds: take from 2"),
        ("scaffold", {"n_folds": 50}, "50 folds of "),
        ("scarce", {}, r"--split scarce: needs the pairs to predict \(--test FILE\)"),
        ("made_scarce", {}, r"--split made_scarce: needs the pairs to predict \(--test FILE\)"),
        ("cluster", {}, "--split cluster: needs the responses"),
        ("random", {"n_folds": 1}, "1 folds of 94 training rows"),
        ("scarce", {"pairs": pairs_of(CELLS)}, NO_SCARCE),
        ("scarce", {"pairs": pairs_of(["new"])}, NO_SCARCE),
        *(
            ("made_scarce", {"obs": TWO_LINES, "pairs": pairs_of(cells)}, NOT_MADE)
            for cells in (["B", "T"], ["new"], [])
        ),
        ("cell_type", {"obs": table().assign(cell_type="B")}, "--split cell_type: "),
        ("joint", {"obs": table().assign(cell_type="B")}, "--split joint: "),
        (
            "published",
            {"obs": table().assign(cell_type="NK cells")},
            ".*needs B cells and Myeloid cells; the rows are of NK cells: take another",
        ),
    ],
)
def test_refusals(name, options, words):
    with pytest.raises(InputError, match=f"^{words}"):
        named_splits(name, **{"obs": table(), **options})


def test_every_scarce_row_with_a_compound_known_elsewhere_is_held_out_once():
    obs = table(n=200)
    scarce = obs["cell_type"].isin(CELLS[:2]).to_numpy()
    known = obs["sm_name"].isin(obs["sm_name"][~scarce]).to_numpy()
    held_out = np.concatenate([split.held_out for split in made("scarce", obs, n_folds=4)[0]])
    assert sorted(held_out) == np.flatnonzero(scarce & known).tolist()


@pytest.mark.parametrize("name", [name for name in SPLITS if name not in ("published", "dose", "time")])
def test_real_data(shared_data, name):
    lung = read_training(shared_data / "lincs_lung" / "de_train.parquet")
    pairs = pd.read_csv(shared_data / "lincs_lung" / "id_map.csv")
    assert_holds_out(name, lung.obs, named_splits(name, lung.obs, pairs=pairs, Y=lung.Y)[0])


@given(st.integers(2, 12), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_folds_are_even_and_seeded(n_folds, extra, seed):
    n_rows = 2 * n_folds + extra
    folds = random_folds(n_rows, n_folds, seed)
    counts = np.bincount(folds, minlength=n_folds)
    assert len(counts) == n_folds
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(folds, random_folds(n_rows, n_folds, seed))


@pytest.mark.parametrize(("n_rows", "n_folds"), [(10, 1), (9, 5), (0, 2), (10, 0)])
def test_too_few_rows_or_folds(n_rows, n_folds):
    with pytest.raises(InputError, match=f"{n_folds} folds of {n_rows} training rows: at least 2 folds"):
        random_folds(n_rows, n_folds, 0)


def test_made_scarce_splits_keep_as_few_rows_as_the_scarce_cell_types_have():
    obs = lines({"B": 4, "M": 6, "T": 30, "NK": 25})
    pairs = pd.DataFrame({"cell_type": ["B", "M", "M"]})
    splits = named_splits("made_scarce", obs, pairs=pairs)[0]
    assert [split.name for split in splits] == ["NK", "T"]
    for split in splits:
        assert not set(split.training) & set(split.held_out)
        assert len(split.training) + len(split.held_out) == len(obs)
        left = obs.iloc[split.training]
        assert (left.cell_type == split.name).sum() == 5 + (5 if split.name == "T" else 0)  # five are T's own
        assert set(obs.iloc[split.held_out].cell_type) == {split.name}
        assert set(obs.iloc[split.held_out].sm_name) <= set(left.sm_name), (
            "a held-out compound is seen elsewhere"
        )
        kept = left[left.cell_type == split.name].sm_name
        assert kept.isin([f"compound {m:02d}" for m in range(6)]).sum() == 5, (
            "the scarce types' compounds first"
        )


# --- rows without structures -----------------------------------------------------------------------------


def test_compounds_without_a_structure_are_told_apart_by_name():
    names = np.array(["a", "b", "a", "c", "d", "e"])
    smiles = np.array(["", "", "", "CCO", "OCC", ""])
    found = same_compound(names, smiles)
    assert [[one == other for other in found] for one in found] == [
        [a == b or {a, b} == {"c", "d"} for b in names] for a in names
    ]
    assert len(set(same_compound(names, np.full(6, "")))) == 5


def test_scaffolds_need_a_structure_somewhere_and_keep_other_compounds_whole():
    obs = table_without_structures()
    with pytest.raises(
        InputError, match="--split scaffold: no row has a SMILES, which scaffolds are read off; take"
    ):
        named_splits("scaffold", obs)
    some = obs.assign(SMILES=np.where(obs["sm_name"] < "m4", "c1ccccc1C", ""))
    for split in named_splits("scaffold", some, n_folds=4)[0]:
        held, kept = (set(some["sm_name"].iloc[rows]) for rows in (split.held_out, split.training))
        assert held and not held & kept
        assert {"m0", "m1", "m2", "m3"} <= held or not {"m0", "m1", "m2", "m3"} & held


@pytest.mark.parametrize("name", ["random", "compound", "cell_type", "joint", "scarce"])
def test_other_splits_need_no_structure(name):
    obs = table_without_structures()
    splits = named_splits(name, obs, n_folds=3, pairs=obs[obs["cell_type"] == "B"])[0]
    for split in splits if name in ("compound", "joint") else []:
        assert not set(obs["sm_name"].iloc[split.held_out]) & set(obs["sm_name"].iloc[split.training])
    assert len(np.concatenate([split.held_out for split in splits]))


def table_without_structures():
    pairs = [(c, f"m{m}") for c in "ABC" for m in range(9)]
    return pd.DataFrame(pairs, columns=["cell_type", "sm_name"]).assign(SMILES="")


@pytest.mark.parametrize("name", ["scarce", "most_measured"])
def test_judging_folds_hold_compounds_of_the_right_cell_types(name):
    obs = pd.DataFrame(
        [(c, f"m{m}") for c, n in (("a", 12), ("b", 11), ("c", 4), ("d", 5)) for m in range(n)],
        columns=["cell_type", "sm_name"],
    )
    folds = judging_folds(name, obs, np.zeros((len(obs), 2), np.float32), 3, 0)
    judged = obs[folds >= 0]
    assert set(judged["cell_type"]) == ({"c", "d"} if name == "scarce" else {"a"})
    assert all(len(set(folds[(folds >= 0) & (obs["sm_name"] == m)])) == 1 for m in set(judged["sm_name"]))
    assert set(folds) == {-1, 0, 1, 2}
    # the compound that no other cell type has is never left out
    assert "m11" not in set(judged["sm_name"])


@pytest.mark.parametrize("name", ["rows", "scarce", "most_measured", "clusters"])
def test_judging_folds_are_of_rows_where_there_is_nothing_else(name):
    obs = pd.DataFrame({"cell_type": ["a"] * 12, "sm_name": [f"m{m}" for m in range(12)]})
    folds = judging_folds(name, obs, np.zeros((12, 2), np.float32), 3, 0)
    assert np.bincount(folds).tolist() == [4, 4, 4]


def test_clusters_have_rows_in_every_fold():
    Y = np.repeat([[0.0], [10.0]], 20, axis=0) + np.random.default_rng(0).normal(size=(40, 3))
    obs = pd.DataFrame({"cell_type": ["a"] * 40, "sm_name": [f"m{m}" for m in range(40)]})
    folds = judging_folds("clusters", obs, Y.astype(np.float32), 3, 0)
    for part in (folds[:20], folds[20:]):
        assert set(part) == {0, 1, 2}
