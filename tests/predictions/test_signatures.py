"""Signatures: naive loops, what mimics and what reverses them, the permutations that their p-values stand for."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions.readouts import Responses, read_responses_of
from rapids_pipeline.predictions.signatures import (
    correlations,
    rank_table,
    read_signature,
)
from tests.command_line import error_line, invoke, succeed

HERE = Path("here")


def responses(Y):
    pairs = pd.DataFrame({"id": range(len(Y)), "cell_type": "B cells"})
    pairs["sm_name"] = [f"compound {row}" for row in range(len(Y))]
    return Responses(pairs, tuple(f"G{gene}" for gene in range(Y.shape[1])), Y.astype(np.float32), HERE)


def correlated(rng, m, t):
    """Responses whose genes move together, as real ones do."""
    return (rng.normal(size=(m, 5)) @ rng.normal(size=(5, t)) + rng.normal(size=(m, t))).astype(np.float32)


def test_correlations_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    Y, W = correlated(rng, 1500, 40), rng.normal(size=(40, 3))
    W[:, 2] = 1.0
    Y[7] = 3.0
    found = correlations(Y, W)
    for row in (0, 1, 1400):
        for column in (0, 1):
            assert found[row, column] == pytest.approx(np.corrcoef(Y[row], W[:, column])[0, 1], abs=1e-9)
    assert (found[:, 2] == 0).all() and (found[7] == 0).all(), "what has one value correlates with nothing"


def test_a_signature_finds_what_mimics_and_what_reverses_it():
    rng = np.random.default_rng(3)
    Y = correlated(rng, 60, 400)
    signature = {f"G{k}": 1.0 for k in range(30)} | {f"G{k}": -1.0 for k in range(50, 70)}
    w = np.array([signature.get(f"G{k}", 0.0) for k in range(400)])
    Y[11] += 2 * w
    Y[12] -= 2 * w
    parts = [responses(Y[:40]), responses(Y[40:])]
    table, notes = rank_table(parts, signature | {"unknown": 1.0}, "mine")
    assert notes == ["1 of the signature's 51 genes are not in the responses"]
    assert (table["sm_name"].iloc[0], table["sm_name"].iloc[-1]) == ("compound 11", "compound 12")
    assert len(table) == 60 and table["score"].is_monotonic_decreasing
    row = table[table["id"] == 11].iloc[0]
    r = np.corrcoef(Y[11], w)[0, 1]
    assert row["score"] == pytest.approx(r, abs=1e-6) and row["z"] == pytest.approx(
        r * np.sqrt(399), abs=1e-5
    )


def test_z_is_that_of_permuted_genes():
    """Its mean and variance under permutation are exactly 0 and 1, and its p-values those of permutations."""
    rng = np.random.default_rng(4)
    y = correlated(rng, 1, 300)
    signature = {f"G{k}": 1.0 for k in range(25)} | {f"G{k}": -1.0 for k in range(40, 60)}
    w = np.array([[signature.get(f"G{k}", 0.0)] for k in range(300)])
    table, _ = rank_table([responses(y)], signature, "mine")
    permuted = np.array([correlations(y, rng.permutation(w))[0, 0] for _ in range(4000)]) * np.sqrt(299)
    assert permuted.mean() == pytest.approx(0, abs=0.06) and permuted.std() == pytest.approx(1, abs=0.05)
    share = np.mean(np.abs(permuted) >= abs(table["z"][0]))
    assert table["p"][0] == pytest.approx(share, abs=0.03)


def test_signatures_are_lists_or_a_table(tmp_path):
    up, down, table = tmp_path / "up.txt", tmp_path / "down.txt", tmp_path / "s.csv"
    up.write_text("A\nB\n\n")
    down.write_text("C\n")
    table.write_text("gene,value\nA,1.5\nB,-2\n")
    assert read_signature(f"{up}, {down}") == {"A": 1.0, "B": 1.0, "C": -1.0}
    assert read_signature(str(up)) == {"A": 1.0, "B": 1.0}
    assert read_signature(str(table)) == {"A": 1.5, "B": -2.0}


@pytest.mark.parametrize(
    ("files", "names", "words"),
    [
        ({"u.txt": "A\n", "d.txt": "A\n"}, "u.txt,d.txt", "'A' is in both files"),
        ({"u.txt": "\n"}, "u.txt", "has no genes"),
        ({}, "u.txt", "u.txt"),
        ({}, "a,b,c", "give UP.txt,DOWN.txt, or one CSV"),
        ({"s.csv": "gene,x\nA,1\n"}, "s.csv", "missing column gene or value"),
        ({"s.csv": "gene,value\nA,1\nB,?\n"}, "s.csv", "row 2 has no number"),
        ({"s.csv": "gene,value\nA,1\nA,2\n"}, "s.csv", "gene 'A' is there twice"),
    ],
)
def test_what_is_no_signature_is_refused(tmp_path, monkeypatch, files, names, words):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_signature(names)


def test_too_few_genes_of_a_signature():
    found = responses(np.random.default_rng(0).normal(size=(3, 20)))
    with pytest.raises(InputError, match=r"--signature mine: 1 of its 2 genes are among the responses' 20"):
        rank_table([found], {"G1": 1.0, "x": 1.0}, "mine")
    with pytest.raises(InputError, match="all genes of the responses weigh the same in it"):
        rank_table([found], {f"G{k}": 1.0 for k in range(20)}, "mine")


def test_the_command_prints_and_writes(model, small_files, tmp_path, monkeypatch):
    run = model.parent
    monkeypatch.chdir(tmp_path)
    found = read_responses_of(run)
    genes = list(found.genes)
    Path("up.txt").write_text("\n".join(genes[:3]))
    Path("down.txt").write_text("\n".join(genes[3:6]))
    shown = succeed("rank", "--signature", "up.txt,down.txt", "--run", run, "--top", 2).stdout
    assert "2 of 28 pairs that mimic the signature most:" in shown and "reverse the signature most:" in shown
    succeed("rank", "--signature", "up.txt,down.txt", "--run", run, "--out", "rank.csv")
    table = pd.read_csv("rank.csv")
    assert len(table) == len(found.Y) and table["score"].is_monotonic_decreasing
    assert {"compound_known", "tanimoto", "z", "p", "fdr"} < set(table.columns)
    alike = pd.read_parquet(run / "predictions.parquet").set_index("id").loc[table["id"][table["score"] > 0]]
    assert 0 < len(alike) < len(table)
    alike.reset_index().to_parquet("alike.parquet")
    shown = succeed("rank", "--signature", "up.txt,down.txt", "--run", "alike.parquet", "--top", 2).stdout
    assert f"no pair reverses the signature; 2 of {len(alike)} that come nearest to it:" in shown
    cell = found.pairs["cell_type"][0]
    told = json.loads(
        succeed(
            *("rank", "--signature", "up.txt,down.txt", "--measured", small_files.train, "--json"),
            *("--cell-type", "NK cells", "--top", 3),
        ).stdout
    )
    assert {one["cell_type"] for ends in told.values() for one in ends} == {"NK cells"}
    line = error_line(
        invoke("rank", "--signature", "up.txt,down.txt", "--run", run, "--cell-type", cell[:-1])
    )
    assert f"has none of it; '{cell}' is the nearest" in line
    both = invoke("rank", "--signature", "up.txt", "--run", run, "--measured", small_files.train)
    assert "give either --run, predicted responses, or --measured" in error_line(both)
    assert "give either --run" in error_line(invoke("rank", "--signature", "up.txt"))
