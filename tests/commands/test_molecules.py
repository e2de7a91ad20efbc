"""Every command on perturbations without structures, and with a table of embeddings of them."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.command_line import error_line, invoke, manifest_of, names_in, succeed

NAMES = ["anti-CD3", "TP53 KO", "compound 1", "compound 2", "IL-2", "anti-PD1"]
CELLS = ["B cells", "NK cells", "T cells"]
GENES = ["A1BG", "A2M", "TP53", "ZZZ3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Training rows of 6 perturbations without SMILES, pairs of them and of new ones, and a table of embeddings."""
    made, rng = tmp_path_factory.mktemp("molecules"), np.random.default_rng(0)
    pairs = [(cell, name) for cell in CELLS for name in NAMES]
    train = pd.DataFrame(pairs, columns=["cell_type", "sm_name"])
    train[GENES] = rng.normal(size=(len(train), len(GENES))).round(4)
    train[3:].to_csv(made / "train.csv", index=False)
    asked = pd.DataFrame(
        {
            "id": range(5),
            "cell_type": "B cells",
            "sm_name": [*NAMES[:3], "never measured", "anti-CD3+never measured"],
        }
    )
    asked.to_csv(made / "pairs.csv", index=False)
    embeddings = pd.DataFrame(rng.normal(size=(7, 3)), columns=["e0", "e1", "e2"])
    embeddings.assign(sm_name=[*NAMES, "never measured"]).to_parquet(made / "table.parquet")
    return made


@pytest.fixture(scope="module")
def commands(folder):
    """The words that every command with a training file begins with, by what --molecules names."""

    def words(command, molecules, *more):
        given = "none" if molecules == "none" else folder / molecules
        found = [command, "--train", folder / "train.csv", "--molecules", given, *more]
        return found if command == "screen" else [*found, "--device", "cpu"]

    return words


BOTH = pytest.mark.parametrize("molecules", ["none", "table.parquet"])


@BOTH
def test_a_run_predicts_what_has_no_structure_and_its_model_what_comes_later(
    folder, commands, molecules, tmp_path
):
    run = "--test", folder / "pairs.csv", "--out", tmp_path / "run", "--quick"
    shown = succeed(*commands("run", molecules, *run))
    assert "molecules: none; compounds are told apart by name" in shown.stdout or molecules != "none"
    found = pd.read_csv(tmp_path / "run" / "submission.csv")
    assert found["id"].tolist() == [0, 1, 2, 3, 4] and np.isfinite(found[GENES].to_numpy()).all()
    manifest = manifest_of(tmp_path / "run")
    assert manifest["config"]["molecules"].endswith(molecules)
    assert ("molecules" in manifest["inputs"]) == (molecules != "none")
    assert manifest["options"]["structures"] is False
    model = "--model", tmp_path / "run", "--pairs", folder / "pairs.csv"
    succeed("predict", *model, "--out", tmp_path / "p.csv")
    again = pd.read_csv(tmp_path / "p.csv")
    np.testing.assert_allclose(again[GENES], found[GENES], atol=1e-5)
    near = pd.read_csv(tmp_path / "p.applicability.csv")
    assert near["nearest_compound"].fillna("").tolist() == [*NAMES[:3], "", ""]
    assert near["tanimoto"].isna().tolist() == [False] * 3 + [True] * 2
    succeed("submit", *model, "--out", tmp_path / "s.csv.gz")
    submitted = pd.read_csv(tmp_path / "s.csv.gz")
    np.testing.assert_allclose(submitted[GENES], again[GENES], atol=1e-6)
    changed = again[GENES].iloc[3].to_numpy() != again[GENES].iloc[4].to_numpy()
    assert changed.any() == (molecules != "none"), "new names are alike without a table, and differ with one"


def test_a_combination_takes_the_mean_where_that_is_asked_for(folder, commands, tmp_path):
    found = []
    for combine in ("sum", "mean"):
        run = "--test", folder / "pairs.csv", "--out", tmp_path / combine, "--quick", "--combine", combine
        shown = succeed(*commands("run", "table.parquet", *run))
        assert f"1 combinations have no row in {folder}/table.parquet and take the {combine}" in shown.stdout
        succeed(
            *("predict", "--model", tmp_path / combine, "--pairs", folder / "pairs.csv"),
            *("--out", tmp_path / f"{combine}.csv"),
        )
        found.append(pd.read_csv(tmp_path / f"{combine}.csv")[GENES].to_numpy())
        written = pd.read_csv(tmp_path / combine / "submission.csv")[GENES].to_numpy()
        np.testing.assert_allclose(found[-1], written, atol=1e-5)
    assert (found[0][4] != found[1][4]).any()


@BOTH
def test_a_saved_model_with_a_table_knows_the_table_alone(folder, commands, molecules, tmp_path):
    run = "--test", folder / "pairs.csv", "--out", tmp_path / "run", "--quick"
    succeed(*commands("run", molecules, *run))
    asked = tmp_path / "new.csv"
    asked.write_text("cell_type,sm_name\nB cells,anti-CD3\nB cells,nobody's\n")
    result = invoke("predict", "--model", tmp_path / "run", "--pairs", asked, "--out", tmp_path / "p.csv")
    if molecules == "none":
        assert result.exit_code == 0 and len(pd.read_csv(tmp_path / "p.csv")) == 2
    else:
        assert f'{asked}: "nobody\'s" of column sm_name, first in row 2, have no row in' in error_line(result)


@BOTH
def test_studies_need_no_structure(folder, commands, molecules, tmp_path):
    succeed(*commands("cv", molecules, "--out", tmp_path / "cv", "--folds", 3, "--quick"))
    found = json.loads((tmp_path / "cv" / "cv.json").read_text())
    names = [method["name"] for method in found["methods"]]
    assert "additive" in names and "ridge" not in names
    assert "baselines left out, as no row has a SMILES: ridge, tanimoto_neighbours" in found["notes"]
    screened = succeed(
        *commands("screen", molecules, "--target", "TP53", "--out", tmp_path / "s", "--folds", 3)
    )
    assert "left out, as they need weights or structures: " in screened.stdout
    sets = pd.read_csv(tmp_path / "s" / "screen.csv")["feature_set"].tolist()
    assert ("svr_shared" in sets) == (molecules != "none") and "onehot" in sets and "morgan" not in sets
    more = "--trials", 4, "--minutes", 5, "--split", "random"
    tuned = succeed(*commands("tune", molecules, "--out", tmp_path / "t", *more)).stderr
    assert "recipe.toml" in names_in(tmp_path / "t") and "next: rapids-perturb run" in tuned


def test_what_needs_a_structure_says_so_in_one_line(folder, commands, tmp_path):
    out = "--out", tmp_path / "o"
    line = error_line(invoke(*commands("cv", "none", *out, "--split", "scaffold", "--quick")))
    assert line == (
        "error: --split scaffold: no row has a SMILES, which scaffolds are read off; take --split compound"
    )
    line = error_line(invoke(*commands("screen", "none", *out, "--features", "svr_shared")))
    assert line == "error: --molecules none: feature set svr_shared reads molecules; take another"
    words = commands("cv", "none", *out, "--quick")
    words[words.index("none")] = "morgan"
    assert "take --molecules none, or --molecules TABLE" in error_line(invoke(*words))
    words[words.index("morgan")] = tmp_path / "missing.parquet"
    assert error_line(invoke(*words)) == f"error: {tmp_path}/missing.parquet: no such file"
    words[words.index(tmp_path / "missing.parquet")] = "table"
    assert len(error_line(invoke(*words))) <= 500


def test_without_structures_a_name_that_is_nearly_a_known_one_stops(folder, tmp_path):
    train = pd.read_csv(folder / "train.csv").replace({"sm_name": {"anti-PD1": "Dexamethasone"}})
    train.to_csv(tmp_path / "train.csv", index=False)
    pd.read_csv(folder / "pairs.csv").to_csv(tmp_path / "fine.csv", index=False)
    slip = pd.DataFrame({"id": [0, 1], "cell_type": "B cells", "sm_name": ["IL-2", "Dexametasone"]})
    slip.to_csv(tmp_path / "slip.csv", index=False)
    words = "run", "--train", tmp_path / "train.csv", "--molecules", "none", "--quick", "--device", "cpu"
    succeed(*words, "--test", tmp_path / "fine.csv", "--out", tmp_path / "run")
    predict = (
        "predict",
        "--model",
        tmp_path / "run",
        "--pairs",
        tmp_path / "slip.csv",
        "--out",
        tmp_path / "p.csv",
    )
    for command in ((*words, "--test", tmp_path / "slip.csv", "--out", tmp_path / "other"), predict):
        assert error_line(invoke(*command)) == (
            f"error: {tmp_path}/slip.csv: the sm_name 'Dexametasone' (first in row 2) is not in the training file, "
            "which has 'Dexamethasone'; if it is meant, write it so, and if not, give the other one a name less like it"
        )
    assert not (tmp_path / "other").exists() and not (tmp_path / "p.csv").exists()
