"""Which genes a screen is on: one, some by name, a random or the most variable part, or all."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData

ANCHOR = "A1BG"
"""The gene that published work screened on."""


@dataclass(frozen=True, eq=False)
class Panel:
    """The genes of a screen.

    Attributes
    ----------
    genes : list of str
    Y : ndarray of float32, (n, len(genes))
        Their responses.
    constant : list of str
        Genes that were asked for by a rule and left out, as they have the same value in every row.
    """

    genes: list[str]
    Y: NDArray[np.float32]
    constant: list[str]

    @property
    def anchor(self) -> int:
        """The position of the gene whose agreement with the others is asked about."""
        return self.genes.index(ANCHOR) if ANCHOR in self.genes else 0


def choose_panel(target: str, data: PerturbationData, seed: int = 0) -> Panel:
    """Return the genes that `--target` names.

    Parameters
    ----------
    target : str
        A gene; several, separated by commas; "random:N", N genes drawn with `seed`; "variable:N", the N genes of
        largest standard deviation; or "all".
    data : PerturbationData
    seed : int

    Raises
    ------
    InputError
        Unknown gene (the nearest names are given), a named gene that is constant, or a number out of range.
    """
    spread = np.ptp(data.Y, axis=0)
    rule, _, number = target.partition(":")
    if target in data.genes or (target != "all" and rule not in ("random", "variable")):
        named = dict.fromkeys(
            name.strip() for name in ([target] if target in data.genes else target.split(","))
        )
        chosen = [gene_index(data.genes, name) for name in named]
        for gene in chosen:
            if spread[gene] == 0:
                raise InputError(
                    f"--target {data.genes[gene]}: is {data.Y[0, gene]:g} in every row; there is nothing to predict"
                )
        return _panel(data, np.array(chosen), [])
    usable = np.flatnonzero(spread > 0)
    constant = [data.genes[gene] for gene in np.flatnonzero(spread == 0)]
    if not len(usable):
        raise InputError(f"--target {target}: every gene is constant; there is nothing to predict")
    if target == "all":
        return _panel(data, usable, constant)
    count = _count(target, number, len(usable))
    if rule == "random":
        chosen_genes = np.random.default_rng(seed).choice(usable, count, replace=False)
    else:
        deviations = data.Y[:, usable].std(axis=0, dtype=np.float64)
        chosen_genes = usable[np.argsort(-deviations, kind="stable")[:count]]
    return _panel(data, np.sort(chosen_genes), constant)


def gene_index(genes: Sequence[str], target: str) -> int:
    """Return the position of a gene; InputError names the nearest ones where there is none."""
    if target in genes:
        return list(genes).index(target)
    spelled = {gene.casefold(): gene for gene in genes}
    near = [spelled[name] for name in difflib.get_close_matches(target.casefold(), spelled, n=5, cutoff=0.5)]
    hint = f"; nearest names: {', '.join(near)}" if near else f"; the genes are {genes[0]} … {genes[-1]}"
    raise InputError(f"--target {target}: no such gene among {len(genes)}{hint}")


def _count(target: str, number: str, most: int) -> int:
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= most:
        raise InputError(f"--target {target}: takes a number of genes from 1 to {most} after the colon")
    return int(number)


def _panel(data: PerturbationData, chosen: NDArray[np.intp], constant: list[str]) -> Panel:
    return Panel([data.genes[gene] for gene in chosen], np.ascontiguousarray(data.Y[:, chosen]), constant)
