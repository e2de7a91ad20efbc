"""The terms of a composite kernel in words: products of factors, and their weights.

A product is its factors with " * " between them, a factor to a whole power as `factor^2`; a recipe's TOML file has one
line a term:

    [members.known_compounds.weights]
    cell_type = 1.5
    "correlation * tanimoto" = 1.2
    "correlation * profile_linear" = 6.0
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from features.molecules import ATLAS, NONE, TABLE

FACTORS = {
    "cell_type": "1 where both rows are of one cell type",
    "compound": "1 where both rows are of one compound",
    "dose": "how near the doses are on a logarithmic scale, exp(−Δ²/2l²)",
    "time": "how near the times are on a logarithmic scale, exp(−Δ²/2l²)",
    "batch": "1 where both rows are of one batch",
    "correlation": "how alike the responses of the two cell types are, learnt from compounds measured in both",
    "tanimoto": "Tanimoto similarity of the Morgan fingerprints",
    "profile_linear": "inner product of the response profiles",
    "profile_cosine": "cosine of the response profiles",
    "profile_rbf": "exp(−squared distance of the response profiles)",
    "atlas_linear": "inner product of the compounds' embeddings in an atlas, 0 where one is absent",
    "atlas_rbf": "exp(−squared distance of these embeddings), 0 where one is absent",
}
"""What each factor says of a pair of rows; besides, rbf(ENCODER) of molecule features."""

ENCODER_FACTOR = re.compile(r"^rbf\(([^()*^]+)\)$")
_POWER = re.compile(r"^(.+?)(?:\^([1-9]))?$")
MOLECULES = "molecules"
"""In rbf(molecules): the encoder that the run names (--molecules)."""


class Factor(NamedTuple):
    """A factor of a term: its name without the power, and the power."""

    name: str
    power: int = 1

    @property
    def encoder(self) -> str | None:
        """The molecule encoder whose features it compares, None where it compares something else."""
        if self.name == "tanimoto":
            return "morgan"
        if self.of_atlas:
            return ATLAS
        found = ENCODER_FACTOR.match(self.name)
        return found.group(1) if found else None

    @property
    def of_profiles(self) -> bool:
        """Whether it compares response profiles."""
        return self.name.startswith("profile_")

    @property
    def of_atlas(self) -> bool:
        """Whether it compares embeddings of an atlas."""
        return self.name.startswith("atlas_")


Term = tuple[float, tuple[Factor, ...]]
"""A weight and the factors that it multiplies."""


def terms_of(weights: Mapping[str, float]) -> tuple[Term, ...]:
    """Return the terms that named weights stand for; those of weight 0 are left out.

    Raises
    ------
    ValueError
        There is no such factor (the message lists them), a power is none of 1 to 9, a weight is negative or not
        finite, a product occurs twice (in another order), or all weights are 0.
    """
    found: dict[tuple[Factor, ...], float] = {}
    for name, weight in weights.items():
        factors = tuple(sorted(_factor(part) for part in name.split("*")))
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the weight of {name!r} must be finite and not negative, not {weight}")
        if factors in found:
            raise ValueError(f"the product {name!r} occurs twice")
        found[factors] = float(weight)
    terms = tuple((weight, factors) for factors, weight in found.items() if weight > 0)
    if not terms:
        raise ValueError("a kernel needs at least one weight above 0")
    return terms


def _factor(text: str) -> Factor:
    found = _POWER.match(text.strip())
    name, power = (found.group(1), int(found.group(2) or 1)) if found else (text.strip(), 1)
    if name not in FACTORS and not ENCODER_FACTOR.match(name):
        raise ValueError(
            f"no kernel factor {name!r}; choose among {', '.join(FACTORS)}, rbf(ENCODER), each also to a power, as "
            "in tanimoto^2"
        )
    return Factor(name, power)


def renamed(weights: Mapping[str, float], encoder: str) -> dict[str, float]:
    """Return weights with `encoder` for rbf(molecules); where that makes two products one, their sum.

    With `TABLE` all factors of molecules become rbf(table), and with `NONE` they become `compound`: identity, which is
    any power and product of itself. Factors of an atlas stay.
    """
    found: dict[str, float] = {}
    for name, weight in weights.items():
        if encoder in (NONE, TABLE):
            new = _without_structures(name, encoder)
        else:
            new = name.replace(f"rbf({MOLECULES})", f"rbf({encoder})")
        found[new] = found.get(new, 0.0) + weight
    return found


def _without_structures(product: str, encoder: str) -> str:
    """Return a product, its factors sorted, with rbf(table) or `compound` for those of molecules."""
    factors = [_factor(part) for part in product.split("*")]
    kept = [factor for factor in factors if factor.encoder is None or factor.of_atlas]
    others = [factor for factor in factors if factor not in kept]
    if encoder == TABLE:
        kept += [Factor(f"rbf({TABLE})", factor.power) for factor in others]
    elif others:
        kept = [*(factor for factor in kept if factor.name != "compound"), Factor("compound")]
    return " * ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(kept))
