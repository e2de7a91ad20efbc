"""Gene sets: naive loops, the reference library, planted sets are found, random ones as often as p-values say."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions.gene_sets import METHODS, gsea, pathway_table, read_gmt, usable_sets
from rapids_pipeline.predictions.readouts import read_responses_of
from tests.command_line import succeed
from tests.predictions.test_signatures import HERE, correlated, responses


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


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_set_is_found_and_random_ones_are_as_often_as_their_p_values_say(method):
    rng, n = np.random.default_rng(2), 1000
    y = correlated(rng, 1, 600)
    planted = rng.choice(600, 25, replace=False)
    y[0, planted] += 1.5 * y.std()
    sets = {f"random {k}": [f"G{g}" for g in rng.choice(600, 25, replace=False)] for k in range(n)}
    sets["planted"] = [f"G{g}" for g in planted]
    found = responses(y)
    sizes, W, _ = usable_sets(sets, found.genes, 5, HERE)
    table = pathway_table(found, sizes, W, method).set_index("set")
    assert table.index[0] == "planted"
    assert table.loc["planted", "p"] < 1e-3 and table.loc["planted", "fdr"] < (
        1e-4 if method == "ulm" else 0.2
    )
    random = table.drop("planted")
    for level in (0.05, 0.2):
        share = (random["p"] < level).mean()
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / n), (level, share)
    assert (random["fdr"] < 0.05).sum() <= 3


def running_sum(y, inside, order):
    """The enrichment score as it is told: a step at every gene, the largest distance from 0."""
    whole, sums = np.abs(y[inside]).sum(), [0.0]
    for gene in order:
        up = abs(y[gene]) / whole if gene in inside else -1 / (len(y) - len(inside))
        sums.append(sums[-1] + up)
    return max(sums, key=abs)


def test_gsea_is_that_of_a_loop_over_genes_and_random_sets():
    rng = np.random.default_rng(5)
    found = responses(correlated(rng, 2, 50))
    sets = {"a": [f"G{k}" for k in range(6)], "b": [f"G{k}" for k in range(30, 45)]}
    sizes, W, _ = usable_sets(sets, found.genes, 5, HERE)
    scores = gsea(found.Y, W, 3000)
    for row, y in enumerate(found.Y.astype(np.float64)):
        order = np.argsort(-y, kind="stable")
        for column, size in enumerate(sizes.values()):
            inside = np.flatnonzero(W[:, column]).tolist()
            es = running_sum(y, inside, order)
            assert scores["es"][row, column] == pytest.approx(es, rel=1e-6)
            null = [running_sum(y, rng.choice(50, size, replace=False).tolist(), order) for _ in range(1500)]
            same = np.array([abs(one) for one in null if one * es > 0])
            assert scores["nes"][row, column] == pytest.approx(es / same.mean(), rel=0.06)
            p = np.mean(same >= abs(es))
            assert scores["p"][row, column] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 500) + 0.003)


def test_gsea_is_that_of_gseapy():
    gseapy = pytest.importorskip("gseapy")
    rng = np.random.default_rng(6)
    found = responses(correlated(rng, 1, 400))
    sets = {f"s{k}": [f"G{g}" for g in rng.choice(400, 12 + k, replace=False)] for k in range(8)}
    sizes, W, _ = usable_sets(sets, found.genes, 5, HERE)
    table = pathway_table(found, sizes, W, "gsea").set_index("set")
    ranking = pd.Series(found.Y[0].astype(float), index=found.genes)
    how = {"min_size": 5, "permutation_num": 2000, "outdir": None, "no_plot": True, "seed": 1, "threads": 1}
    theirs = gseapy.prerank(rnk=ranking, gene_sets=sets, **how).res2d.set_index("Term").loc[table.index]
    np.testing.assert_allclose(table["es"], theirs["ES"].astype(float), atol=1e-6)
    np.testing.assert_allclose(table["nes"], theirs["NES"].astype(float), rtol=0.05)
    np.testing.assert_allclose(table["p"], theirs["NOM p-val"].astype(float), atol=0.06)
    assert (
        set(np.sign(table["es"])) == {-1, 1}
        and table["leading_edge"].tolist() == theirs["Lead_genes"].tolist()
    )


def test_gsea_of_a_pair_does_not_depend_on_the_others_and_has_no_p_of_0():
    rng = np.random.default_rng(7)
    Y = correlated(rng, 3, 200)
    Y[1, :10] = Y.max() + np.arange(10)
    Y[2] = 0.0
    W = np.zeros((200, 2))
    W[:10, 0] = W[50:90, 1] = 1.0
    scores = gsea(Y, W, 2000)
    for row in range(3):
        alone = gsea(Y[[row]], W, 2000)
        assert all((alone[name][0] == values[row]).all() for name, values in scores.items())
    assert scores["es"][1, 0] == pytest.approx(1.0) and 0 < scores["p"][1, 0] < 0.01
    assert (scores["es"][2] == 0).all() and (scores["nes"][2] == 0).all() and (scores["p"][2] == 1).all()


def test_gene_sets_are_read_and_small_ones_left_out(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("one\thttp://x\tG1\tG2\tG2\tG3\n\ntwo\t\tG1\tG9\t\n")
    sets = read_gmt(path)
    assert sets == {"one": ("G1", "G2", "G3"), "two": ("G1", "G9")}
    sizes, W, notes = usable_sets(sets, [f"G{k}" for k in range(5)], 3, path)
    assert sizes == {"one": 3} and W[:, 0].tolist() == [0, 1, 1, 1, 0]
    assert notes == ["1 of 2 sets have fewer than 3 of the genes and are left out"]
    _, _, notes = usable_sets(sets | {"every": ("G0", "G1", "G2", "G3")}, ["G0", "G1", "G2", "G3"], 3, path)
    assert notes[1:] == ["1 of 3 sets have all of the genes and are left out"]
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


def test_the_command_prints_and_writes(model, tmp_path, monkeypatch):
    run = model.parent
    monkeypatch.chdir(tmp_path)
    found = read_responses_of(run)
    genes = list(found.genes)
    Path("sets.gmt").write_text(
        "\n".join(["\t".join(["first", "", *genes[:5]]), "\t".join(["one", "", genes[0]])])
    )
    pair = ",".join(found.pairs.loc[0, ["cell_type", "sm_name"]])
    asked = ["pathways", "--run", run, "--gmt", "sets.gmt"]
    shown = succeed(*asked, "--pair", pair)
    assert f"{found.names[0]}: 1 of 1 sets, by the size of t" in shown.stdout
    assert "1 of 2 sets have fewer than 5 of the genes" in shown.stdout
    told = json.loads(succeed(*asked, "--json").stdout)
    [first] = told["pairs"]
    assert [one["set"] for one in first["sets"]] == ["first"]
    assert told["notes"] == ["1 of 2 sets have fewer than 5 of the genes and are left out"]
    shown = succeed(*asked, "--pair", pair, "--method", "gsea").stdout
    assert "1 of 1 sets, by the size of nes" in shown and "es" in shown.split()
    succeed(*asked, "--out", "all.csv.gz", "--method", "gsea")
    assert gzip.decompress(Path("all.csv.gz").read_bytes()).startswith(b'"id"')
    table = pd.read_csv("all.csv.gz")
    assert len(table) == len(found.Y) and table.columns[-7:].tolist() == [
        *("set", "genes", "es", "nes", "p", "fdr", "leading_edge")
    ]
    assert all(set(edge.split(";")) <= set(genes[:5]) for edge in table["leading_edge"])
