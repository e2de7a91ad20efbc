"""The problem: files or the demo in, rows and pairs in canonical order out, and the way back."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.data import demo
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.problem import ProblemFiles, canonical_order, open_problem
from tests.data.tables_example import table, write

PAIRS = pd.DataFrame(
    {"id": list("cab"), "cell_type": ["Z", "B", "Z"], "sm_name": ["benzene", "ethanol", "aspirin"]}
)


@pytest.fixture
def files(tmp_path):
    shuffled = table().sample(frac=1, random_state=0)
    train, test = tmp_path / "t.parquet", tmp_path / "p.csv"
    return ProblemFiles(
        write(shuffled.assign(plate_number=range(6)), train),
        write(PAIRS, test),
        TableOptions(metadata_columns=("plate_number",)),
    )


def test_rows_and_pairs_are_in_canonical_order_and_lead_back_to_the_files(files):
    problem = open_problem(files)
    pairs = list(problem.data.obs[["cell_type", "sm_name"]].itertuples(index=False, name=None))
    assert pairs == sorted(pairs)
    assert problem.to_predict["id"].tolist() == ["a", "b", "c"]
    assert problem.to_predict["SMILES"].tolist() == ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1"]
    assert problem.to_predict["id"].iloc[problem.pairs_file_order].tolist() == list("cab")
    read = pd.read_parquet(files.train)
    assert problem.data.obs["plate_number"].iloc[problem.file_order].tolist() == read["plate_number"].tolist()
    np.testing.assert_array_equal(problem.data.Y[problem.file_order, 0], read["A1BG"].astype(np.float32))
    assert problem.data.genes == ("A1BG", "A1BG-AS1", "A2M", "ZZZ3")
    assert problem.shape == {"training_rows": 6, "test_rows": 3, "genes": 4}


def test_inputs_are_described_for_a_manifest(files):
    problem = open_problem(files)
    assert problem.source == str(files.train)
    assert {name: found["sha256"] for name, found in problem.inputs.items()} == {
        "train": sha256_of(files.train),
        "test": sha256_of(files.test),
    }


def test_a_problem_may_have_no_pairs(files):
    problem = open_problem(ProblemFiles(files.train, None, files.options))
    assert problem.pairs is None
    assert list(problem.inputs) == ["train"]
    assert problem.shape["test_rows"] == 0
    with pytest.raises(InputError, match="there are no pairs to predict; give a file of them with --test"):
        _ = problem.to_predict


def test_without_a_training_file_the_demo_is_the_problem(files, monkeypatch):
    made = demo.simulate(0, 2)
    monkeypatch.setattr(demo, "simulate", lambda: made)
    problem = open_problem(ProblemFiles(None))
    assert (problem.source, problem.inputs) == ("demo data (simulated)", {})
    assert problem.shape == {"training_rows": 614, "test_rows": 255, "genes": 2}
    ids = problem.to_predict["id"].iloc[problem.pairs_file_order]
    assert ids.tolist() == made.id_map["id"].tolist()
    other = write(PAIRS.assign(cell_type="B cells", sm_name="Idelalisib"), files.test)
    assert open_problem(ProblemFiles(None, other)).to_predict["id"].tolist() == list("cab")


def test_canonical_order_is_by_cell_type_then_compound():
    obs = pd.DataFrame({"sm_name": list("baba"), "cell_type": ["Y", "Y", "X", "X"]}, index=[7, 7, 3, 1])
    assert canonical_order(obs).tolist() == [3, 2, 1, 0]


@given(st.permutations([(c, m) for c in ("B cells", "T cells") for m in ("a", "aa", "B", "é")]))
def test_canonical_order_does_not_depend_on_the_file(pairs):
    obs = pd.DataFrame(pairs, columns=["cell_type", "sm_name"])
    ordered = obs.iloc[canonical_order(obs)]
    assert list(ordered.itertuples(index=False, name=None)) == sorted(pairs)
