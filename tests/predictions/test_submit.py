"""The ids and genes that a submission should have, read from files."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions.submit import read_gene_list, read_id_map

GENES = ["A1BG", "A2M", "AAAS", "AACS"]


def test_ids_and_genes_come_from_any_table(tmp_path):
    table = pd.DataFrame(np.eye(5, 4), columns=GENES)
    table = table.assign(id=["007", "b", "2", "1", "0"], cell_type="B", sm_name="x", note="some words")
    for name, sep in (("m.csv", ","), ("m.tsv", "\t"), ("m.parquet", None)):
        path = tmp_path / name
        table.to_parquet(path) if sep is None else table.to_csv(path, index=False, sep=sep)
        rows = read_id_map(path)
        assert rows.ids == ["007", "b", "2", "1", "0"] and rows.pairs["sm_name"].tolist() == ["x"] * 5
        assert read_gene_list(path) == GENES
    (tmp_path / "genes.txt").write_bytes(("\ufeff" + "\r\n\r\n".join(GENES)).encode())
    assert read_gene_list(tmp_path / "genes.txt") == GENES
    table[["id"]].to_csv(tmp_path / "m.csv", index=False)
    assert read_id_map(tmp_path / "m.csv").pairs is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"a,b\n1,2\n", "missing column id; its metadata columns are: none"),
        ("m.csv", b"id,b\n1,2\n1,3\n", "duplicate id: '1'; every id may occur once"),
        ("m.csv", b"id,b\n1,2\n,3\n", "column id has no value in row 2; fill it or drop the row"),
    ],
)
def test_a_wrong_id_map_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_id_map(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("g.txt", b"A1BG\nA2M\nA1BG\n", "duplicate gene: 'A1BG'; every gene may occur once"),
        ("g.txt", b"\n", "names no genes"),
        ("g.txt", b"\xff\xfe\x00", "is no text; a list of genes has one name a line"),
        (
            "g.csv",
            b"gene\nA1BG\n",
            "is a table of one column; a list of genes is a .txt file, one name a line",
        ),
        ("g.h5ad", b"x" * 50, r"cannot be read as .h5ad \(.*\); is the file complete\?"),
    ],
)
def test_a_wrong_gene_list_is_one_line(tmp_path, name, content, words):
    if name.endswith(".h5ad"):
        pytest.importorskip("anndata")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_gene_list(tmp_path / name)
    assert "\n" not in str(caught.value)
