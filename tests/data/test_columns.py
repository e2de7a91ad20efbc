"""Columns by meaning: names of the ecosystem, options that settle them, units of doses and times, and gene names."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.columns import ALIASES, TableOptions, chosen_columns, meaning_of
from rapids_pipeline.data.genes import EXCEL_DATE, gene_list, is_metadata, looks_like_gene
from rapids_pipeline.data.meanings import with_meanings
from rapids_pipeline.data.pairs import read_batch
from rapids_pipeline.data.tables import training_from_frame
from tests.data.tables_example import table

L1000 = "cell_iname pert_iname canonical_smiles pert_id pert_dose pert_time det_plate"
SCIPLEX = "cell_line perturbation SMILES - dose_value time - replicate ncells"
TAHOE = "cell_line drug canonical_smiles - concentration - plate"
BRIDGE = "cell_type perturbagen - - pert_dose_uM pert_time_h plate - psbulk_cells"
PROBLEMS = "cell_type sm_name SMILES sm_lincs_id dose_uM timepoint_hr"
MEANINGS = "cell_type sm_name SMILES sm_lincs_id dose_uM time_h batch replicate n_cells".split()


@pytest.mark.parametrize("names", [L1000, SCIPLEX, TAHOE, BRIDGE, PROBLEMS])
def test_the_names_of_the_ecosystem_are_known(names):
    for name, meaning in zip(names.split(), MEANINGS, strict=False):
        assert name == "-" or (meaning_of(name) or ("",))[0] == meaning
        assert name == "-" or is_metadata(name)


@pytest.mark.parametrize(
    "name",
    "pert_type pct_counts_mt psbulk_counts n_counts nperts chembl_id pubchem_cid S_score PC_1 UMAP_2".split(),
)
def test_known_metadata_are_no_genes(name):
    assert is_metadata(name.lower() if name.startswith("UMAP") else name)


def test_no_real_gene_is_taken_for_metadata_or_a_covariate(shared_data):
    genes = (shared_data / "op2_layout" / "genes.txt").read_text().split()
    genes += pd.read_csv(shared_data / "lincs_genes.csv")["symbol"].tolist()
    for name in genes:
        assert looks_like_gene(name) and not is_metadata(name) and not EXCEL_DATE.fullmatch(name)
    ones = pd.DataFrame(np.ones((1, len(set(genes)))), columns=list(dict.fromkeys(genes)))
    obs = table()[["cell_type", "sm_name", "SMILES"]][:1]
    assert len(training_from_frame(pd.concat([obs, ones], axis=1), "ones").genes) == len(set(genes))


@pytest.mark.parametrize(
    ("columns", "unit", "found"),
    [
        ({"dose_nM": [10, 100]}, None, [0.01, 0.1]),
        ({"dose": ["10 nM", "0.1 uM"]}, None, [0.01, 0.1]),
        ({"dose_value": [10, 1110], "dose_unit": ["nM", "nM"]}, "dose_unit", [0.01, 1.11]),
        ({"pert_dose": [3, -666], "pert_dose_unit": ["mM", "-666"]}, "pert_dose_unit", [3000, np.nan]),
        ({"Concentration (µM)": [0, -1]}, None, [0, np.nan]),
        ({"conc": [1, 2], "conc_units": ["M", "pM"]}, "conc_units", [1e6, 2e-6]),
        ({"dose_uM": ["", "1e-3"]}, None, [np.nan, 1e-3]),
        ({"dose": [0, 1], "dose_unit": ["", "uM"]}, "dose_unit", [0, 1]),
    ],
)
def test_doses_become_micromolar(tmp_path, columns, unit, found):
    obs, notes = with_meanings(tmp_path, pd.DataFrame(columns), TableOptions())
    np.testing.assert_array_equal(obs["dose_uM"], found)
    assert obs["dose_uM"].dtype == float
    name = next(iter(columns))
    assert notes == [] if name == "dose_uM" else f"dose_uM is column {name!r}" in notes[0]
    assert unit is None or f" in the units of {unit!r}" in notes[0]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"day": [1, 2]}, None),
        ({"days": [1, 2]}, [24, 48]),
        ({"time": ["90 min", "1 d"]}, [1.5, 24]),
        ({"timepoint_hr": [24, 6.5]}, [24, 6.5]),
        ({"pert_time": [6, 24], "pert_time_unit": ["h", "h"]}, [6, 24]),
        ({"time": [1, 3], "time_unit": ["day", "hours"]}, [24, 3]),
    ],
)
def test_times_become_hours(tmp_path, columns, found):
    obs, _ = with_meanings(tmp_path, pd.DataFrame(columns), TableOptions())
    assert ("time_h" in obs) == (found is not None)
    assert found is None or obs["time_h"].tolist() == found


def test_what_stands_first_of_several_names(tmp_path):
    both = pd.DataFrame(
        {"cell_type": ["a"], "cell_line": ["b"], "cell_id": ["c"], "plate": [1], "library": ["x"]}
    )
    obs, notes = with_meanings(tmp_path, both, TableOptions())
    assert obs.loc[0, ["cell_type", "batch"]].tolist() == ["a", "1"]
    assert notes == [f"{tmp_path}: batch is column 'plate'"]
    obs, _ = with_meanings(tmp_path, both.drop(columns="cell_type"), TableOptions())
    assert obs["cell_type"].tolist() == ["b"]
    empty = pd.DataFrame({"cell_line": [None], "cell": ["nan"], "cell_id": ["c"]})
    assert with_meanings(tmp_path, empty, TableOptions())[0]["cell_type"].tolist() == ["c"]
    same = pd.DataFrame({"drug": [" a"], "compound": ["a"]})
    assert with_meanings(tmp_path, same, TableOptions())[1] == [f"{tmp_path}: sm_name is column 'drug'"]


def test_options_settle_what_a_column_means(tmp_path):
    frame = table().rename(columns={"cell_type": "line"}).assign(cell_type="lung", dose=["a"] * 6)
    chosen = TableOptions(columns={"cell_type": "line", "dose_uM": ""})
    data = training_from_frame(frame, "memory", chosen)
    assert data.obs["cell_type"].tolist() == table()["cell_type"].tolist()
    assert data.notes == ("memory: cell_type is column 'line'",) and "dose_uM" not in data.obs
    with pytest.raises(InputError) as caught:
        training_from_frame(table(), "memory", TableOptions(columns={"time_h": "hrs"}))
    assert str(caught.value) == (
        "memory: --column time_h=hrs: no such column; its metadata columns are: cell_type, sm_name, sm_lincs_id, "
        "SMILES, control"
    )
    assert TableOptions.from_json(chosen.to_json()) == chosen
    assert TableOptions().to_json() == {"layer": "clipped_sign_log10_pval", "metadata_columns": []}


def test_columns_come_from_a_file_and_options_win(tmp_path):
    path = tmp_path / "columns.toml"
    path.write_text('[columns]\ncell_type = "line"\nsm_name = "drug"\n')
    assert chosen_columns(["cell_type=cell line", "dose_uM="], path) == {
        "cell_type": "cell line",
        "sm_name": "drug",
        "dose_uM": "",
    }


@pytest.mark.parametrize(
    ("given", "content", "message"),
    [
        (["cell_type"], None, "--column cell_type: give MEANING=NAME, such as cell_type=cell_line"),
        (["gene=x"], None, f"--column gene=x: no meaning 'gene'; there are {', '.join(ALIASES)}"),
        (["id=a", "id=b"], None, "--column id=b: id is given twice"),
        ([], "cell_type = 'x'", '{path}: needs a table [columns] with lines such as cell_type = "cell_line"'),
        (
            [],
            "[columns]\nid = 3",
            '{path}: needs a table [columns] with lines such as cell_type = "cell_line"',
        ),
        ([], "[columns]\nline = 'x'", f"{{path}}: no meaning 'line'; there are {', '.join(ALIASES)}"),
    ],
)
def test_options_that_say_nothing_are_refused(tmp_path, given, content, message):
    path = tmp_path / "columns.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        chosen_columns(given, None if content is None else path)
    assert str(caught.value) == message.replace("{path}", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty (0 bytes)"),
        ("\n \n", "names no genes"),
        ("A\nB\nA\n", "duplicate gene: 'A'; every gene"),
    ],
)
def test_a_list_of_genes_that_is_none(tmp_path, content, message):
    path = tmp_path / "genes.txt"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        gene_list(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_listed_genes_must_be_there_and_numbers(tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text("A2M\nTP53\n")
    with pytest.raises(InputError, match=r"memory: has no column 'TP53', which .*genes.txt names as a gene"):
        training_from_frame(table(), "memory", TableOptions(genes=path))
    path.write_text("A2M\nsm_name\n")
    with pytest.raises(
        InputError, match="memory: column sm_name holds text among numbers: row 1 has 'ethanol'"
    ):
        training_from_frame(table(), "memory", TableOptions(genes=path))


def test_a_batch_of_pairs_is_read_by_the_same_names(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("Cell Line\tDrug\tsmiles\nb cells\tAspirin \t\nNK cells\tother\tOCC\n")
    training = training_from_frame(table(), "memory").obs
    batch = read_batch(path, training)
    assert batch.table["cell_type"].tolist() == ["B cells", "NK cells"]
    assert (batch.table["sm_name"].tolist(), list(batch.known_as)) == (
        ["aspirin", "other"],
        ["aspirin", "ethanol"],
    )
    assert batch.numbered and batch.table["id"].tolist() == ["0", "1"]
    assert batch.notes == [
        f"{path}: cell_type is column 'Cell Line', sm_name is column 'Drug', SMILES is column 'smiles'",
        "the pairs have no id column: they are numbered from 0",
        f"{path}: cell_type spelled unlike the other rows', and taken for them: 'b cells is B cells'",
        f"{path}: sm_name spelled unlike the other rows', and taken for them: 'Aspirin is aspirin'",
        "1 compounds are in training under another name, and predicted under it: 'other is ethanol'",
    ]
    path.write_text("line\tdrug\nB cells\taspirin\n")
    assert (
        read_batch(path, training, TableOptions(columns={"cell_type": "line"})).table["cell_type"][0]
        == "B cells"
    )
