"""Composite kernels in words: named weights of products of factors.

    K = Σ_term weight · ∏_factor factor

A product is written as its factors with " * " between them, a factor to a whole power as `factor^2`; a recipe's TOML
file has one line a term:

    [members.known_compounds.weights]
    cell_type = 1.5
    "correlation * tanimoto" = 1.2
    "correlation * profile_linear" = 6.0

Every factor is positive semidefinite, so are products and powers of them entry by entry (Schur), and so is a sum with
weights that are not negative.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

FACTORS = {
    "cell_type": "1 where both rows are of one cell type",
    "compound": "1 where both rows are of one compound",
    "correlation": "how alike the responses of the two cell types are, learnt from compounds measured in both",
    "tanimoto": "Tanimoto similarity of the Morgan fingerprints",
    "profile_linear": "inner product of the response profiles",
    "profile_cosine": "cosine of the response profiles",
    "profile_rbf": "exp(−squared distance of the response profiles)",
}
"""What each factor says of a pair of rows; besides, rbf(ENCODER) of molecule features."""

ENCODER_FACTOR = re.compile(r"^rbf\(([^()*^]+)\)$")
_POWER = re.compile(r"^(.+?)(?:\^([1-9]))?$")
MOLECULES = "molecules"
"""In rbf(molecules): the encoder that the run names (--molecules)."""


@dataclass(frozen=True)
class Factor:
    """A factor of a term: its name without the power, and the power."""

    name: str
    power: int = 1

    @property
    def encoder(self) -> str | None:
        """The molecule encoder whose features it compares, None where it compares something else."""
        if self.name == "tanimoto":
            return "morgan"
        found = ENCODER_FACTOR.match(self.name)
        return found.group(1) if found else None

    @property
    def of_profiles(self) -> bool:
        """Whether it compares response profiles."""
        return self.name.startswith("profile_")


@dataclass(frozen=True)
class Term:
    """A weight and the factors that it multiplies."""

    weight: float
    factors: tuple[Factor, ...]


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
        factors = tuple(sorted((_factor(part) for part in name.split("*")), key=lambda f: (f.name, f.power)))
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the weight of {name!r} must be finite and not negative, not {weight}")
        if factors in found:
            raise ValueError(f"the product {name!r} occurs twice")
        found[factors] = float(weight)
    terms = tuple(Term(weight, factors) for factors, weight in found.items() if weight > 0)
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
