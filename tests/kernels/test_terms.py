"""Composite kernels in words."""

import pytest

from rapids_pipeline.kernels.terms import Factor, Term, terms_of


def test_products_are_read_in_any_order_and_with_powers():
    terms = terms_of({"cell_type": 1, "tanimoto^2 * correlation": 0.5, "rbf(chemberta)*compound": 2.0})
    assert terms == (
        Term(1.0, (Factor("cell_type"),)),
        Term(0.5, (Factor("correlation"), Factor("tanimoto", 2))),
        Term(2.0, (Factor("compound"), Factor("rbf(chemberta)"))),
    )
    assert [f.encoder for f in terms[1].factors + terms[2].factors] == [None, "morgan", None, "chemberta"]
    assert Factor("profile_rbf").of_profiles and not Factor("tanimoto").of_profiles


def test_a_weight_of_zero_leaves_a_term_out():
    assert terms_of({"cell_type": 0.0, "compound": 1.0}) == (Term(1.0, (Factor("compound"),)),)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"tanimotto": 1.0}, "no kernel factor 'tanimotto'; choose among cell_type, compound"),
        ({"tanimoto^0": 1.0}, r"no kernel factor 'tanimoto\^0'"),
        ({"cell_type *": 1.0}, "no kernel factor ''"),
        ({"cell_type": -1.0}, "weight of 'cell_type' must be finite and not negative, not -1.0"),
        ({"cell_type": float("nan")}, "must be finite"),
        ({"cell_type * compound": 1.0, "compound * cell_type": 1.0}, "'compound \\* cell_type' occurs twice"),
        ({"cell_type": 0.0}, "at least one weight above 0"),
        ({}, "at least one weight above 0"),
    ],
)
def test_what_is_no_kernel_is_named(weights, message):
    with pytest.raises(ValueError, match=message):
        terms_of(weights)
