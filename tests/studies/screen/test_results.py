"""Whether genes agree on the order of the candidates."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rapids_pipeline.studies.screen.results import MOST_IN_HEAT_MAP, agreement_of, correlations, heat_map


def test_correlations_are_spearmans_with_the_mean_of_the_other_genes():
    rmse = np.random.default_rng(0).uniform(1, 2, size=(7, 12)).round(1)  # with ties
    found = correlations(rmse)
    for gene in range(12):
        others = np.delete(rmse, gene, axis=1).sum(axis=1) / 11
        expected = spearmanr(rmse[:, gene], others).statistic
        assert found[gene] == pytest.approx(expected, abs=1e-9)


def test_genes_that_turn_the_order_round_are_named_lowest_first():
    order = np.array([1.0, 2, 3, 4])
    rmse = np.stack([*[order] * 6, order[::-1], order[[3, 1, 2, 0]]], axis=1)
    found = agreement_of(rmse, ["A", "B", "C", "F", "G", "H", "D", "E"], anchor=0)
    assert (found.gene, found.n_turned_round) == ("A", 2)
    assert [gene for gene, _ in found.turned_round] == ["D", "E"]
    assert found.turned_round[0][1] == pytest.approx(-1)
    assert found.correlation == pytest.approx(1)
    assert list(found.quantiles) == ["5%", "25%", "50%", "75%", "95%"]


def test_a_gene_on_which_all_do_equally_well_has_no_correlation():
    rmse = np.array([[1.0, 1, 2], [1.0, 2, 3], [1.0, 3, 4]])
    found = agreement_of(rmse, ["flat", "B", "C"], anchor=0)
    assert np.isnan(found.correlation)
    assert found.n_turned_round == 0
    assert found.quantiles["50%"] == pytest.approx(1)


def test_the_heat_map_is_relative_to_the_reference_and_spread_through_the_panel():
    rng = np.random.default_rng(0)
    rmse = rng.uniform(1, 2, size=(3, 500))
    rmse[1, 7] = 0
    genes = [f"G{i}" for i in range(500)]
    found = heat_map(rmse, genes, ["x", "y", "z"], reference=1)
    assert len(found.genes) == MOST_IN_HEAT_MAP and "G7" not in found.genes
    assert np.array(found.relative).shape == (MOST_IN_HEAT_MAP, 3)
    which = [genes.index(gene) for gene in found.genes]
    np.testing.assert_allclose(found.relative, (rmse[:, which] / rmse[1, which]).T)
    assert (np.diff(rmse[:, which].mean(axis=0)) >= 0).all()
