"""Which genes a screen is on."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.studies.screen.candidates import choose_panel, gene_index

GENES = ("A1BG", "A2M", "FLAT", "ZZZ3", "TP53")


@pytest.fixture
def data():
    Y = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * [1, 3, 0, 2, 0.5]
    obs = pd.DataFrame({"cell_type": ["B"] * 20, "sm_name": ["x"] * 20, "SMILES": ["C"] * 20})
    return PerturbationData(obs, Y.astype(np.float32), GENES)


def test_genes_by_name_keep_their_order(data):
    panel = choose_panel("TP53, A1BG,TP53", data)
    assert panel.genes == ["TP53", "A1BG"]
    np.testing.assert_array_equal(panel.Y, data.Y[:, [4, 0]])
    assert panel.anchor == 1
    assert choose_panel("TP53,A2M", data).anchor == 0


def test_all_leaves_constant_genes_out_and_says_so(data):
    panel = choose_panel("all", data)
    assert panel.genes == ["A1BG", "A2M", "ZZZ3", "TP53"]
    assert panel.constant == ["FLAT"]


def test_the_most_variable_are_those_of_largest_deviation(data):
    assert choose_panel("variable:2", data).genes == ["A2M", "ZZZ3"]


def test_random_genes_hang_on_the_seed_and_are_never_constant(data):
    drawn = {tuple(choose_panel("random:3", data, seed).genes) for seed in range(30)}
    assert len(drawn) == 4
    assert not any("FLAT" in genes for genes in drawn)
    assert choose_panel("random:3", data, 5).genes == choose_panel("random:3", data, 5).genes


def test_a_gene_may_be_called_like_a_rule(data):
    named = PerturbationData(data.obs, data.Y, ("all", "random:2", "FLAT", "a,b", "TP53"))
    assert choose_panel("random:2", named).genes == ["random:2"]
    assert choose_panel("a,b", named).genes == ["a,b"]
    assert choose_panel("all", named).genes == ["all"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("A1BQ", "--target A1BQ: no such gene among 5; nearest names: A1BG"),
        ("A1BG,tp53", "--target tp53: no such gene among 5; nearest names: TP53"),
        ("A1BG,", "--target : no such gene among 5"),
        ("FLAT", "--target FLAT: is 0 in every row; there is nothing to predict"),
        ("A2M,FLAT", "--target FLAT: is 0 in every row"),
        ("random:5", "--target random:5: takes a number of genes from 1 to 4 after the colon"),
        ("random:0", "--target random:0: takes a number"),
        ("variable:", "--target variable:: takes a number"),
        ("variable:-1", "--target variable:-1: takes a number"),
        ("random", "--target random: takes a number"),
    ],
)
def test_refusals_name_the_remedy(data, target, words):
    with pytest.raises(InputError) as caught:
        choose_panel(target, data)
    assert str(caught.value).startswith(words)


def test_nothing_but_constant_genes_is_refused(data):
    flat = PerturbationData(data.obs, np.zeros_like(data.Y), GENES)
    with pytest.raises(InputError, match="every gene is constant"):
        choose_panel("all", flat)


def test_an_unknown_gene_without_a_near_one_gets_the_first_and_last():
    with pytest.raises(
        InputError, match=r"--target 12345678: no such gene among 5; the genes are A1BG … TP53"
    ):
        gene_index(GENES, "12345678")
