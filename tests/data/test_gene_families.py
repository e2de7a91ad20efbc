"""Gene families: symbols that belong to them and symbols that do not, and sets of the demo's genes for `pathways`."""

import re
from pathlib import Path

import pytest

from rapids_pipeline.data.demo import _read_layout
from rapids_pipeline.data.gene_families import FAMILIES, gene_families
from rapids_pipeline.predictions.gene_sets import read_gmt


@pytest.mark.parametrize(
    ("family", "inside", "outside"),
    [
        ("ribosome", "RPL3 RPS4X RPL36A RPLP0 RPSA", "RPL13P12 MRPL3 RPS6KA1 RPN1"),
        ("proteasome", "PSMA1 PSMD14", "PSMC1P1 PSMG1 PSME2P2"),
        ("metallothioneins", "MT1X MT2A", "MT-CO1 MTOR MT3"),
        ("HLA", "HLA-A HLA-DRA", "HLAX HCP5"),
        ("transfer RNA synthetases", "AARS YARS2 EPRS", "PARS1 BARS LARSX"),
        ("NADH dehydrogenase", "NDUFA10 NDUFS1", "NDUFAF1 NDUFA4L2"),
        ("tubulins", "TUBB TUBA1B TUBG1", "TUBGCP2 TUBD1"),
    ],
)
def test_symbols_of_a_family(family, inside, outside):
    for symbols, belongs in ((inside, True), (outside, False)):
        for gene in symbols.split():
            assert (re.fullmatch(FAMILIES[family], gene) is not None) == belongs, gene


def test_every_family_is_a_set_of_the_demo_and_no_gene_is_in_two(tmp_path: Path):
    genes = _read_layout().genes
    place = tmp_path / "sets.gmt"
    place.write_text(gene_families(genes))
    sets = read_gmt(place)
    assert set(sets) == set(FAMILIES) and min(map(len, sets.values())) >= 8
    members = [gene for some in sets.values() for gene in some]
    assert len(members) == len(set(members)) and set(members) <= set(genes)
    place.write_text(gene_families(genes[:200]))
    assert min(len(some) for some in read_gmt(place).values() if some[0].startswith("ABC")) > 20
    assert gene_families(["A1BG"]) == ""
