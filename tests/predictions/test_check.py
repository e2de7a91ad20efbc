"""Every fault of a submission file is found and told in words, whatever the format."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions.check import SubmissionFile, faults_of, read_submission
from tests.data.open_problems_example import GENES as THEIR_GENES
from tests.data.open_problems_example import VAR, write_theirs

GENES = ["A1BG", "A2M", "AAAS", "AACS"]
IDS = ["0", "1", "2", "3", "4"]
Y = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def right():
    return pd.DataFrame(Y, columns=GENES).assign(id=IDS)[["id", *GENES]]


def write(table, path):
    """Write a table in the format of `path`; an .h5ad has the ids in the index, where it has any."""
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix == ".h5ad":
        anndata = pytest.importorskip("anndata")
        obs = pd.DataFrame(index=pd.Index(list(table["id"]), dtype=object))
        var = pd.DataFrame(index=pd.Index([name for name in table if name != "id"], dtype=object))
        layer = table.drop(columns="id").to_numpy(np.float64)
        uns = {"dataset_id": "d", "method_id": "m"}
        anndata.AnnData(obs=obs, var=var, layers={"prediction": layer}, uns=uns).write_h5ad(path)
    else:
        table.to_csv(path, index=False)
    return path


FAULTS = {
    "missing id": (
        right().drop(index=3),
        ["wrong number of rows: 4, the id map has 5", "missing id: 1 of the 5 of the id map: 3"],
    ),
    "extra id": (
        pd.concat([right(), right().iloc[:1].assign(id="9")]),
        ["wrong number of rows: 6, the id map has 5", "extra id: 1 not in the id map: 9"],
    ),
    "other ids": (
        right().assign(id=list("abcde")),
        [
            "missing id: 5 of the 5 of the id map: 0, 1, 2, … 2 more",
            "extra id: 5 not in the id map: a, b, c, … 2 more",
        ],
    ),
    "extra gene": (
        right().assign(MORE=1.0),
        ["wrong number of genes: 5, the gene list has 4", "extra gene: 1 not in the gene list: MORE"],
    ),
    "permuted genes": (
        right()[["id", "A2M", "A1BG", "AAAS", "AACS"]],
        [
            "gene order differs: gene 1 is A2M, where the order of the gene list has A1BG; 2 of 4 genes stand elsewhere"
        ],
    ),
    "not finite": (
        right().assign(A1BG=[0, 1e39, 0, 0, 0], A2M=[0, 0, 0, 0, -np.inf], AAAS=[0, 0, np.nan, 0, 0]),
        [
            "NaN or no value, 1 value(s): row 3 (id 2), gene AAAS",
            "infinite as float32, 2 value(s): row 2 (id 1), gene A1BG; row 5 (id 4), gene A2M",
        ],
    ),
    "rows missing and swapped": (
        right().iloc[[0, 2, 1, 4]],
        [
            "wrong number of rows: 4, the id map has 5",
            "missing id: 1 of the 5 of the id map: 3",
            "row order differs: row 2 has id 2, where the order of the id map has id 1; 2 of 4 rows stand elsewhere",
        ],
    ),
    "many": (
        right().drop(columns="A2M").assign(id=["0", "1", "1", "3", "9"], MORE=np.nan, AACS=np.nan),
        [
            "duplicate id: 1 id(s) occur more than once: 1 in rows 2, 3",
            "missing id: 2 of the 5 of the id map: 2, 4",
            "extra id: 1 not in the id map: 9",
            "missing gene: 1 of the 4 of the gene list: A2M",
            "extra gene: 1 not in the gene list: MORE",
            "NaN or no value, 5 value(s): row 1 (id 0), gene AACS; row 2 (id 1), gene AACS; row 3 (id 1), gene AACS; "
            "… 2 more",
        ],
    ),
}


@pytest.mark.filterwarnings("ignore")  # anndata's, of names that are not unique
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".h5ad"])
@pytest.mark.parametrize(("table", "faults"), FAULTS.values(), ids=FAULTS.keys())
def test_every_fault_is_told(tmp_path, object_strings, table, faults, suffix):
    if suffix != ".csv":
        table = table.astype({name: float for name in table.columns if name != "id"})
    path = write(table, tmp_path / f"made{suffix}")
    assert faults_of(read_submission(path), IDS, GENES) == faults


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".h5ad"])
def test_a_right_file_is_read_exactly_and_has_no_faults(tmp_path, object_strings, suffix):
    found = read_submission(write(right(), tmp_path / f"made{suffix}"))
    assert (found.ids, found.columns, found.rows) == (IDS, GENES, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found.Y.astype(np.float32), Y)
    assert faults_of(found, IDS, GENES) == faults_of(found, IDS) == []


ROWS = "".join(f"{name},1,2,3,4\n" for name in IDS)
HEADER = "id,A1BG,A2M,AAAS,AACS\n"
TEXTS = {
    "no id column": (
        "A1BG,A2M,AAAS,AACS\n" + "1,2,3,4\n" * 5,
        ["missing column 'id' (its first columns are: A1BG, A2M, AAAS); name the column of row ids so"],
    ),
    "text": (
        (HEADER + ROWS).replace("1,1,2", "1,abc,2").replace("3,1,2", "3,1 2,2"),
        [
            "text in a number column, 2 value(s): row 2 (id 1), gene A1BG: 'abc'; row 4 (id 3), gene A1BG: '1 2'"
        ],
    ),
    "truth values": (
        (HEADER + ROWS).replace(",1,2", ",true,2"),
        [
            "text in a number column, 5 value(s): row 1 (id 0), gene A1BG: 'true'; row 2 (id 1), gene A1BG: 'true'; "
            "row 3 (id 2), gene A1BG: 'true'; … 2 more"
        ],
    ),
    "a gene twice": (
        "id,A1BG,A1BG,A2M,AAAS,AACS\n" + "".join(f"{name},1,1,2,3,4\n" for name in IDS),
        [
            "wrong number of genes: 5, the gene list has 4",
            "duplicate gene: 1 gene(s) occur more than once: A1BG",
        ],
    ),
    "id twice": (
        "id,id,A1BG,A2M,AAAS,AACS\n" + "".join(f"{name},{name},1,2,3,4\n" for name in IDS),
        ["extra column: id; a submission has id and genes only"],
    ),
    "id last": (
        "A1BG,A2M,AAAS,AACS,id\n" + "".join(f"1,2,3,4,{name}\n" for name in IDS),
        ["column 'id' is column 5; it must be the first"],
    ),
    "ids with a point": (
        HEADER + ROWS.replace("1,2,3,4", "1,2,3,4").replace(",1,", ".0,1,"),
        ["5 id(s) are no integers: row 1 has 0.0; write 0"],
    ),
    "no id": (
        HEADER + ROWS.replace("2,1,2,3,4", ",1,2,3,4"),
        ["no id in 1 row(s): row 3", "missing id: 1 of the 5 of the id map: 2"],
    ),
    "short and long rows": (
        HEADER + "0,1,2,3,4\n1,1,2,3\n2,1,2,3,4\n3,1,2,3,4,5\n4,,2,3,4\n",
        [
            "wrong number of values in 2 row(s): row 2 (id 1) has 4, the header 5",
            "NaN or no value, 1 value(s): row 5 (id 4), gene A1BG",
        ],
    ),
    "no rows": (
        HEADER,
        [
            "wrong number of rows: 0, the id map has 5",
            "missing id: 5 of the 5 of the id map: 0, 1, 2, … 2 more",
        ],
    ),
}


@pytest.mark.parametrize(("text", "faults"), TEXTS.values(), ids=TEXTS.keys())
def test_every_fault_of_a_csv_is_told(tmp_path, text, faults):
    (tmp_path / "s.csv").write_text(text)
    assert faults_of(read_submission(tmp_path / "s.csv"), IDS, GENES) == faults
    (tmp_path / "s.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert faults_of(read_submission(tmp_path / "s.csv.gz"), IDS, GENES) == faults


def test_text_hides_no_other_fault(tmp_path):
    text = "id,A1BG,A2M\nNA,x,1\n1,,inf\n"
    (tmp_path / "s.csv").write_text(text)
    assert faults_of(read_submission(tmp_path / "s.csv"), ["NA", "1"], ["A1BG", "A2M"]) == [
        "text in a number column, 1 value(s): row 1 (id NA), gene A1BG: 'x'",
        "NaN or no value, 1 value(s): row 2 (id 1), gene A1BG",
        "infinite as float32, 1 value(s): row 2 (id 1), gene A2M",
    ]


def test_without_a_gene_list_genes_need_only_be_genes(tmp_path):
    table = right()[["id", "A2M", "A1BG"]].assign(cell_type="B")
    faults = faults_of(read_submission(write(table, tmp_path / "s.csv")), IDS)
    assert faults == ["extra column: cell_type; a submission has id and genes only"]


def test_quotes_line_ends_signs_and_a_byte_order_mark_are_no_faults(tmp_path):
    text = '\ufeffid,"A,1","B\nb"\r\n"x,""y""",+1,1e-3\r\n007,.5,-2.\r\n'
    (tmp_path / "s.csv").write_bytes(text.encode())
    found = read_submission(tmp_path / "s.csv")
    assert faults_of(found, ['x,"y"', "007"], ["A,1", "B\nb"]) == []
    np.testing.assert_array_equal(found.Y, [[1, 1e-3], [0.5, -2]])


def test_the_reader_agrees_with_pandas(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 30)) * 10.0 ** rng.integers(-30, 30, (50, 30))
    values[rng.random(values.shape) < 0.1] = np.nan
    table = pd.DataFrame(values, columns=[f"G{k}" for k in range(30)])
    table.insert(0, "id", range(50))
    table.to_csv(tmp_path / "s.csv", index=False)
    expected = pd.read_csv(tmp_path / "s.csv", float_precision="round_trip").drop(columns="id")
    np.testing.assert_array_equal(read_submission(tmp_path / "s.csv").Y, expected.to_numpy())


def naive(have, wanted, what, unit):
    """Say what is wrong in the plainest way: by sets and by position."""
    first = [name for k, name in enumerate(have) if name in wanted and name not in have[:k]]
    wrong = {
        f"missing {what}": not set(wanted) <= set(have),
        f"extra {what}": not set(have) <= set(wanted),
        f"duplicate {what}": len(set(have)) < len(have),
        f"wrong number of {unit}s": len(have) != len(wanted),
        f"{unit} order differs": first != [name for name in wanted if name in have],
    }
    return {words for words, is_wrong in wrong.items() if is_wrong}


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.permutations(IDS), st.lists(st.sampled_from([*IDS, "8", "9"]), max_size=7)),
    st.one_of(st.permutations(GENES), st.lists(st.sampled_from([*GENES, "X", "Y"]), max_size=6)),
)
def test_any_ids_and_genes_are_told_as_a_naive_comparison_tells_them(ids, genes):
    found = SubmissionFile(
        list(ids), list(genes), np.zeros((len(ids), len(genes))), list(range(1, len(ids) + 1))
    )
    faults = faults_of(found, IDS, GENES)
    assert {fault.partition(":")[0] for fault in faults} == naive(ids, IDS, "id", "row") | naive(
        genes, GENES, "gene", "gene"
    )
    assert (faults == []) == (list(ids) == IDS and list(genes) == GENES)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.csv", b"", "the file is empty"),
        ("s.csv", b"id,A1BG\n\xe9,1\n", r"cannot be read as CSV \(.*\); is the file complete\?"),
        (
            "s.csv.gz",
            gzip.compress(b"id,A1BG\n" * 99, mtime=0)[:30],
            r"cannot be read as CSV \(.*\); is the file complete\?",
        ),
        ("s.h5ad", b"x" * 50, r"cannot be read as .h5ad \(.*\); is the file complete\?"),
        ("s.parquet", b"PAR1" * 9, r"cannot be read as Parquet \(.*\); is the file complete\?"),
        ("s.txt", b"id,A1BG\n", r"unknown submission format; name it .csv, .csv.gz, .parquet or .h5ad"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_submission(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"absent.csv: no such file"):
        read_submission(tmp_path / "absent.csv")


# --- Open Problems predictions ----------------------------------------------------------------------------------


def test_what_the_contract_asks_for_and_a_file_lacks_is_named(tmp_path, object_strings):
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame(index=pd.Index([*"012"], dtype=object))
    layers, uns = {"predictions": np.zeros((3, 4), np.float32)}, {"method_id": 3}
    anndata.AnnData(obs=obs, var=VAR, layers=layers, uns=uns).write_h5ad(tmp_path / "p.h5ad")
    found = read_submission(tmp_path / "p.h5ad")
    assert (found.ids, found.columns, found.Y) == ([*"012"], THEIR_GENES, None)
    assert found.faults == [
        "missing layer 'prediction'; its layers are: predictions",
        "missing uns['dataset_id'], a text",
        "missing uns['method_id'], a text",
    ]
    assert faults_of(found, [*"012"], THEIR_GENES) == found.faults


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix"])
def test_a_sparse_prediction_is_read(tmp_path, object_strings, kind):
    from scipy import sparse

    pytest.importorskip("anndata")
    values = np.where(Y > 0, Y, 0)
    write_theirs(tmp_path / "p.h5ad", range(5), getattr(sparse, kind)(values))
    np.testing.assert_array_equal(read_submission(tmp_path / "p.h5ad").Y, values)
