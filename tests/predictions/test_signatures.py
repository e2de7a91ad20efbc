"""Gene sets and signatures: naive loops, planted sets are found, random ones as often as their p-values say."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions.readouts import Responses, read_responses_of
from rapids_pipeline.predictions.signatures import (
    correlations,
    pathway_table,
    rank_table,
    read_gmt,
    read_signature,
    usable_sets,
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


# --- pathways ---------------------------------------------------------------------------------------------


def test_a_set_has_the_t_of_a_linear_model():
    rng = np.random.default_rng(1)
    found = responses(correlated(rng, 3, 60))
    sets = {"a": [f"G{k}" for k in range(8)], "b": [f"G{k}" for k in range(20, 50)] + ["elsewhere"]}
    sizes, W, notes = usable_sets(sets, found.genes, 5, HERE)
    assert (sizes, notes) == ({"a": 8, "b": 30}, [])
    table = pathway_table(found, sizes, W)
    assert len(table) == 6 and table.columns.tolist() == [
        *("id", "cell_type", "sm_name", "set", "genes", "t", "p", "fdr")
    ]
    for one in table.itertuples():
        row, inside = found.pairs["sm_name"].tolist().index(one.sm_name), W[:, list(sizes).index(one.set)]
        fit = stats.linregress(inside, found.Y[row].astype(np.float64))
        assert one.t == pytest.approx(fit.slope / fit.stderr, rel=1e-6)
        assert one.p == pytest.approx(fit.pvalue, rel=1e-6)
    np.testing.assert_allclose(table["fdr"], stats.false_discovery_control(table["p"]))
    first = table[table["sm_name"] == "compound 0"]["t"].abs()
    assert first.is_monotonic_decreasing


def test_a_planted_set_is_found_and_random_ones_are_as_often_as_their_p_values_say():
    rng, n = np.random.default_rng(2), 1000
    y = correlated(rng, 1, 600)
    planted = rng.choice(600, 25, replace=False)
    y[0, planted] += 1.5 * y.std()
    sets = {f"random {k}": [f"G{g}" for g in rng.choice(600, 25, replace=False)] for k in range(n)}
    sets["planted"] = [f"G{g}" for g in planted]
    found = responses(y)
    sizes, W, _ = usable_sets(sets, found.genes, 5, HERE)
    table = pathway_table(found, sizes, W).set_index("set")
    assert table.index[0] == "planted" and table.loc["planted", "fdr"] < 1e-4
    random = table.drop("planted")
    for level in (0.05, 0.2):
        share = (random["p"] < level).mean()
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / n), (level, share)
    assert (random["fdr"] < 0.05).sum() <= 3


def test_gene_sets_are_read_and_small_ones_left_out(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("one\thttp://x\tG1\tG2\tG2\tG3\n\ntwo\t\tG1\tG9\t\n")
    sets = read_gmt(path)
    assert sets == {"one": ("G1", "G2", "G3"), "two": ("G1", "G9")}
    sizes, W, notes = usable_sets(sets, [f"G{k}" for k in range(5)], 3, path)
    assert sizes == {"one": 3} and W[:, 0].tolist() == [0, 1, 1, 1, 0]
    assert notes == ["1 of 2 sets have fewer than 3 of the genes and are left out"]
    with pytest.raises(
        InputError, match=r"no set has 3 of the 2 genes .* called as 'G1', those .* as 'TP53'"
    ):
        usable_sets(sets, ["TP53", "MYC"], 3, path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\n\n", "has no gene sets"),
        (b"one\tx\n", "line 1 is no gene set"),
        (b"one\tx\tA\none\tx\tB\n", "line 2: the set 'one' is there twice"),
        (b"\xff\xfe\x00\x01", "is no UTF-8 text"),
    ],
)
def test_what_is_no_gmt_is_refused(tmp_path, text, words):
    path = tmp_path / "sets.gmt"
    path.write_bytes(text)
    with pytest.raises(InputError, match=words):
        read_gmt(path)


# --- signatures -------------------------------------------------------------------------------------------


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


# --- commands ---------------------------------------------------------------------------------------------


def test_the_commands_print_and_write(model, small_files, tmp_path, monkeypatch):
    run = model.parent
    monkeypatch.chdir(tmp_path)
    found = read_responses_of(run)
    genes = list(found.genes)
    Path("sets.gmt").write_text(
        "\n".join(["\t".join(["first", "", *genes[:5]]), "\t".join(["one", "", genes[0]])])
    )
    Path("up.txt").write_text("\n".join(genes[:3]))
    Path("down.txt").write_text("\n".join(genes[3:6]))
    pair = ",".join(found.pairs.loc[0, ["cell_type", "sm_name"]])
    shown = succeed("pathways", "--run", run, "--gmt", "sets.gmt", "--pair", pair)
    assert f"{found.names[0]}: 1 of 1 sets, by the size of t" in shown.stdout
    assert "1 of 2 sets have fewer than 5 of the genes" in shown.stdout
    told = json.loads(succeed("pathways", "--run", run, "--gmt", "sets.gmt", "--json").stdout)
    assert [one["set"] for one in next(iter(told.values()))] == ["first"]
    succeed("pathways", "--run", run, "--gmt", "sets.gmt", "--out", "all.csv.gz")
    assert gzip.decompress(Path("all.csv.gz").read_bytes()).startswith(b'"id"')
    assert len(pd.read_csv("all.csv.gz")) == len(found.Y)

    shown = succeed("rank", "--signature", "up.txt,down.txt", "--run", run, "--top", 2).stdout
    assert "2 of 28 pairs that mimic the signature most:" in shown and "reverse the signature most:" in shown
    succeed("rank", "--signature", "up.txt,down.txt", "--run", run, "--out", "rank.csv")
    table = pd.read_csv("rank.csv")
    assert len(table) == len(found.Y) and table["score"].is_monotonic_decreasing
    assert {"compound_known", "tanimoto", "z", "p", "fdr"} < set(table.columns)
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
