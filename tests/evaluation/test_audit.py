"""The audit of splits against double loops over rows, and the words it finds."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from rapids_pipeline.data.tables import read_training
from rapids_pipeline.evaluation.audit import FEW_ROWS, QUANTILES, _share, audit, audit_rows, recommended_split
from rapids_pipeline.evaluation.splits import Split, named_splits

SMILES = ["CCO", "OCC", "c1ccccc1C", "c1ccccc1CC", "CC(=O)Oc1ccccc1C(=O)O", "C1CCNCC1", "CCCC", "O=C1CCCCC1"]
GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)


def table(seed=0, n=40, cells=4):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(SMILES), n)
    return pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c in rng.integers(0, cells, n)],
            "sm_name": [f"drug {i}" for i in which],
            "SMILES": [SMILES[i] for i in which],
        }
    )


def with_contexts(obs, seed=100):
    rng = np.random.default_rng(seed)
    return obs.assign(
        dose_uM=rng.choice([0, 0.1, 10, np.nan], len(obs)), time_h=rng.choice([6.0, 24.0], len(obs))
    )


def described(row):
    molecule = Chem.MolFromSmiles(row.SMILES)
    whole = Chem.MolToSmiles(molecule)
    return {
        "cell": row.cell_type,
        "name": row.sm_name,
        "molecule": whole,
        "scaffold": MurckoScaffold.MurckoScaffoldSmiles(mol=molecule) or whole,
        "bits": GENERATOR.GetFingerprint(molecule),
    }


def naive(training, asked):
    """What an `Overlap` says, by loops over all pairs of rows; both are lists of (training rows, asked rows)."""
    facts = []
    for known, rows in zip(training, asked, strict=True):
        for row in rows:
            same = [k for k in known if k["name"] == row["name"] or k["molecule"] == row["molecule"]]
            cells = [k for k in known if k["cell"] == row["cell"]]
            facts.append(
                {
                    "compound": bool(same),
                    "scaffold": any(k["scaffold"] == row["scaffold"] for k in known),
                    "cell_type": bool(cells),
                    "pair": any(k["cell"] == row["cell"] for k in same),
                    "tanimoto": max(DataStructs.TanimotoSimilarity(row["bits"], k["bits"]) for k in known),
                    "per_cell": len(cells),
                    "per_compound": len(same),
                }
            )
    return pd.DataFrame(facts)


def assert_is(overlap, facts):
    assert overlap.rows == len(facts)
    for name in ("compound", "scaffold", "cell_type", "pair"):
        assert getattr(overlap, name) == pytest.approx(facts[name].mean()), name
    np.testing.assert_allclose(overlap.tanimoto, np.quantile(facts["tanimoto"], QUANTILES), atol=1e-6)
    assert overlap.rows_per_cell_type == np.median(facts["per_cell"])
    assert overlap.rows_per_compound == np.median(facts["per_compound"])
    assert overlap.fewest_per_cell_type == facts["per_cell"].min()


def assert_by_brute_force(obs, splits, pairs):
    found = audit(obs, splits, pairs)
    rows = [described(row) for row in obs.itertuples()]
    parts = [([rows[i] for i in s.training], [rows[i] for i in s.held_out]) for s in splits]
    assert_is(found.held_out, naive(*zip(*parts, strict=True)))
    for overlap, (training, held_out) in zip(found.by_split.values(), parts, strict=True):
        assert_is(overlap, naive([training], [held_out]))
    assert_is(found.task, naive([rows], [[described(row) for row in pairs.itertuples()]]))
    return found


@pytest.mark.parametrize("name", ["random", "dose"])
def test_contexts_are_counted_by_loops_over_rows(name):
    obs = with_contexts(table(n=80)).assign(dose_uM=lambda x: x["dose_uM"].fillna(1.0))
    obs = obs[obs["sm_name"] != "drug 1"].reset_index(drop=True)  # another name of drug 0
    pairs = with_contexts(table(1, n=10), 1).drop(columns="time_h")
    splits = named_splits(name, obs, n_folds=3)[0]
    found = audit(obs, splits, pairs)
    decades, seen = [], []
    for split in splits:
        training = obs.iloc[split.training]
        logs = {x: np.log10(x or 0.01) for x in obs["dose_uM"]}  # 0.1 is the least positive dose
        for row in obs.iloc[split.held_out].itertuples():
            same = training[(training["sm_name"] == row.sm_name) & (training["cell_type"] == row.cell_type)]
            apart = [
                abs(logs[k.dose_uM] - logs[row.dose_uM]) + abs(np.log10(k.time_h / row.time_h))
                for k in same.itertuples()
            ]
            decades.append(min(apart, default=np.nan))
            seen.append(any(a == 0 for a in apart))
    assert found.held_out.pair == np.mean(seen) == 0
    assert found.held_out.other_context == pytest.approx(np.mean(~np.isnan(decades)))
    assert found.held_out.decades == pytest.approx(np.nanmedian(decades))
    assert (
        found.task.other_context == 0 and found.task.decades is None
    )  # pairs without a time are near to none
    words = {row[0]: row[1:] for row in audit_rows(found)}
    assert words["decades of dose and time to it, median"] == (f"{np.nanmedian(decades):.2g}", "")
    assert json.loads(json.dumps(asdict(found)))["held_out"]["decades"] == found.held_out.decades
    without = audit(table(), named_splits("random", table(), n_folds=3)[0])
    assert without.held_out.other_context is None and len(audit_rows(without)) == len(audit_rows(found)) - 2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["random", "compound", "scaffold", "cell_type", "joint"]))
def test_every_number_is_that_of_loops_over_rows(seed, name):
    obs, pairs = table(seed), table(seed + 1, n=12, cells=5)
    found = assert_by_brute_force(obs, named_splits(name, obs, n_folds=3)[0], pairs)
    if name in ("compound", "scaffold"):
        assert found.held_out.compound == 0
    if name == "scaffold":
        assert found.held_out.scaffold == 0
    if name == "cell_type":
        assert found.held_out.cell_type == found.held_out.rows_per_cell_type == 0


def test_real_data_by_loops_and_its_task_is_a_scarce_one(shared_data):
    lung = shared_data / "lincs_lung"
    obs = read_training(lung / "de_train.parquet").obs
    pairs = pd.read_csv(lung / "id_map.csv")
    pairs["SMILES"] = pairs["sm_name"].map(obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"])
    [split, *_] = named_splits("compound", obs)[0]
    few = Split(split.name, split.training, split.held_out[::6])
    assert_by_brute_force(obs, [few], pairs.iloc[::7])
    name, why = recommended_split(obs, pairs)
    assert name == "scarce" and "median of 20 training rows" in why


def test_copies_are_found():
    obs, Y = table(n=20), np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    Y[3] = Y[17]
    split = Split("some", np.arange(10, 20), np.arange(10))
    found = audit(obs, [split], Y=Y)
    assert found.held_out.same_response == pytest.approx(0.1) and found.task is None
    assert any(
        "10% of the held-out rows equal a training row in all genes" in line for line in found.warnings
    )
    assert audit(obs, [split], table(1, 5), Y).task.same_response is None
    assert audit(obs, [split]).held_out.same_response is None


def test_a_pair_under_another_name_is_found():
    obs = pd.DataFrame(
        {"cell_type": ["A"] * 6, "sm_name": list("uvwxyz"), "SMILES": ["CCO", "OCC", "CC", "CCC", "CN", "CO"]}
    )
    found = audit(obs, [Split("one", np.arange(1, 6), np.array([0]))])
    assert found.held_out.pair == 1
    assert "under another name" in found.warnings[0] and "drop one of the two" in found.warnings[0]
    assert f"1 of 1 splits hold out fewer than {FEW_ROWS} rows (one)" in found.warnings[1]


def test_words_say_in_what_a_split_is_easier(shared_data):
    layout = shared_data / "op2_layout"
    obs = pd.read_csv(layout / "de_train_pairs.csv")
    pairs = pd.read_csv(layout / "id_map.csv")
    pairs["SMILES"] = pairs["sm_name"].map(obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"])
    assert recommended_split(obs, pairs)[0] == "scarce"

    def warnings(name):
        return audit(obs, named_splits(name, obs, pairs=pairs)[0], pairs).warnings

    [random] = warnings("random")
    assert random.startswith(
        "EASIER than your pairs, so scores look too good: the held-out rows' cell types have 1"
    )
    assert random.endswith("your pairs' 17; --split scarce is most like them")
    easier, harder = warnings("compound")
    assert easier.startswith("EASIER") and harder.startswith("harder")
    assert "0% of the held-out compounds are in training, of your pairs' 100%" in harder
    [harder] = warnings("cell_type")
    assert "0% of the held-out cell types are in training, of your pairs' 100%" in harder
    assert warnings("scarce") == []


@pytest.mark.parametrize(
    ("cells", "drugs", "name"),
    [
        (["cell 0"], [0], "random"),  # as many rows as the others
        (["new"], [0], "cell_type"),
        (["cell 0"], ["new"], "compound"),
        (["new"], ["new"], "joint"),
        (["rare"], [2], "scarce"),
        (["rare", "cell 0", "cell 1", "cell 2"], [2], "random"),  # of all cell types
    ],
)
def test_recommended_splits(cells, drugs, name):
    obs = pd.DataFrame(
        [(f"cell {c}", f"drug {m}", SMILES[m]) for c in range(3) for m in range(2, 8)]
        + [("rare", "drug 2", SMILES[3])],
        columns=["cell_type", "sm_name", "SMILES"],
    )
    pairs = pd.DataFrame(
        [(c, f"drug {m}", "CCCCCCCCS" if m == "new" else SMILES[m or 2]) for c in cells for m in drugs],
        columns=obs.columns,
    )
    found, why = recommended_split(obs, pairs)
    assert found == name and why


def test_rows_of_text_and_json():
    obs, pairs = table(), table(1, n=10)
    found = audit(obs, named_splits("random", obs, repeats=2)[0] * 2, pairs)
    assert list(found.by_split)[5] == "rows, fold 0 (2)"
    rows = audit_rows(found)
    assert rows[0] == ("rows", "80", "10") and len(rows) == 10
    assert rows[1][1].endswith("%")
    assert all(right == "" for _, _, right in audit_rows(audit(obs, named_splits("random", obs)[0])))
    assert json.loads(json.dumps(asdict(found)))["task"]["rows"] == 10


def test_a_small_share_is_not_called_none():
    assert [_share(share) for share in (0.0, 0.001, 0.02, 0.5, 0.999, 1.0)] == [
        "0%", "under 1%", "2%", "50%", "over 99%", "100%",
    ]  # fmt: skip


def test_rows_without_structures_have_no_scaffold_and_no_nearest_molecule():
    obs = table().assign(SMILES="")
    split = Split("s", np.arange(20), np.arange(20, 40))
    found = audit(obs, [split], obs[:5])
    assert found.held_out.scaffold is None and found.held_out.tanimoto == () == found.task.tanimoto
    known = set(obs["sm_name"][:20])
    assert found.held_out.compound == np.mean([name in known for name in obs["sm_name"][20:]])
    rows = {what: cells for what, *cells in audit_rows(found)}
    assert rows["scaffold known"] == ["", ""] and json.dumps(found.held_out.tanimoto) == "[]"


def test_only_rows_with_a_structure_count_for_the_nearest_molecule():
    obs = table()
    some = obs.assign(SMILES=obs["SMILES"].where(obs["sm_name"] != "drug 2", ""))
    split = Split("s", np.arange(20), np.arange(20, 40))
    drawn = np.flatnonzero(some["SMILES"] != "")
    kept = Split("s", np.intersect1d(split.training, drawn), np.intersect1d(split.held_out, drawn))
    found, naive = audit(some, [split]).held_out, audit(obs, [kept]).held_out
    assert found.tanimoto == naive.tanimoto and found.rows > naive.rows
    known = set(obs["sm_name"][:20])
    assert "drug 2" in known, "and so its rows count as of a known scaffold, its own"
    assert found.scaffold >= np.mean(obs["sm_name"][20:] == "drug 2")
