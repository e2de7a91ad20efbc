"""Gene sets against responses: which pathways a pair is predicted to move.

`ulm`, the univariate linear model. With y the response of a pair over n genes and r Pearson's correlation of y with
membership of the set (1 for its genes, 0 for others), Student's t with n − 2 degrees of freedom is that of the slope:

    t = r √((n − 2)/(1 − r²))

`gsea`, the preranked gene set enrichment analysis. The genes are sorted by y, the largest first, so that the k genes of
the set stand at places p_1 < … < p_k. The running sum rises by a gene's share of |y| at a gene of the set, and falls by
1/(n − k) at any other; `es` is its largest distance from 0:

    D_j = Σ_{i ≤ j} |y_i| / Σ_{i ≤ k} |y_i| − (p_j − j)/(n − k)     before the step up it is lower by that step
    es  = max_j D_j, or min_j of the sums before the steps where that is further from 0
    nes = es / mean |es of random sets of k genes with its sign|
    p   = (1 + how many of these are as far from 0) / (1 + how many there are)

The leading edge of a set has its genes up to the largest distance from 0: those at p_1 to p_j where `es` is D_j, and
those at p_j to p_k where it is the sum before the step up at p_j.

Random sets are drawn in blocks until `ENOUGH` are as far from 0, or there are as many as were asked for. All pairs have
the same ones: a library that draws them anew for each pair takes far longer. p-values are adjusted by Benjamini and
Hochberg over all rows of the table. Both nulls take genes as exchangeable: genes of a set that move together anyway
make p-values too small, so read them as an order.

Sources: Badia-i-Mompel et al., decoupleR, Bioinformatics Advances (2022), `ulm`; Subramanian et al., PNAS 102 (2005);
Korotkevich et al., fgsea (2021), for random sets that sizes and profiles share; Phipson and Smyth (2010), for p > 0;
Besag and Clifford, Biometrika 78 (1991), for drawing until there are enough.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.predictions.readouts import Responses
from rapids_pipeline.predictions.signatures import correlations, lines_of

PERMUTATIONS, BLOCK, ENOUGH = 10_000, 1000, 10
"""Random sets at most, how many are drawn at once, and how many must be as far from 0 as the set to stop early."""


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets of a GMT file: a line a set, its name, a description and its genes, separated by tabs.

    Raises
    ------
    InputError
        No such file, no UTF-8, no sets, a line without genes, or a set twice; the message names the line.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines_of(path), 1):
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise InputError(
                f"{path}: line {number} is no gene set: give a name, a description and genes, separated by tabs"
            )
        if name in sets:
            raise InputError(f"{path}: line {number}: the set {quoted(name)} is there twice; rename one")
        sets[name] = genes
    if not sets:
        raise InputError(f"{path}: has no gene sets")
    return sets


def usable_sets(
    sets: Mapping[str, Sequence[str]], genes: Sequence[str], least: int, source: Path
) -> tuple[dict[str, int], Float64, list[str]]:
    """Return the sets with enough of the genes, and how many; their weights (n, s); and what to know of the others.

    Raises
    ------
    InputError
        No set has enough genes; the message has an example of either's names.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    inside = {name: [place[gene] for gene in members if gene in place] for name, members in sets.items()}
    kept = {name: found for name, found in inside.items() if least <= len(found) < len(genes)}
    if not kept:
        example = next(iter(sets.values()))[0]
        raise InputError(
            f"{source}: no set has {least} of the {len(genes):,} genes of the responses; its genes are called as "
            f"{quoted(example)}, those of the responses as {quoted(genes[0])}"
        )
    W = np.zeros((len(genes), len(kept)))
    for column, found in enumerate(kept.values()):
        W[found, column] = 1.0
    small = sum(len(found) < least for found in inside.values())
    left = {f"fewer than {least}": small, "all": len(sets) - len(kept) - small}
    notes = [
        f"{count} of {len(sets)} sets have {what} of the genes and are left out"
        for what, count in left.items()
        if count
    ]
    return {name: len(found) for name, found in kept.items()}, W, notes


def pathway_table(
    found: Responses, sizes: Mapping[str, int], W: Float64, method: str = "ulm"
) -> pd.DataFrame:
    """Return a row a pair and set, in the order of the pairs, the strongest set first.

    Columns: what the pair is, `set`, `genes`, those of the method (`t`, or `es` and `nes`), `p` and `fdr`; of gsea also
    `leading_edge`, genes separated by ";", the furthest from 0 first.

    Parameters
    ----------
    found : Responses
        m pairs, n genes.
    sizes : dict of str to int
        How many of the genes each of the s sets has.
    W : ndarray of float64, (n, s)
        Of `usable_sets`.
    method : {"ulm", "gsea"}

    Examples
    --------
    >>> pairs = pd.DataFrame({"cell_type": ["NK cells"], "sm_name": ["Vorinostat"]})
    >>> found = Responses(pairs, ("A", "B", "C", "D", "E"), np.array([[2.0, 1.8, -1.0, -1.2, 0.1]]), Path("mine"))
    >>> sizes, W, notes = usable_sets({"growth": ["A", "B"], "stress": ["B", "E"]}, found.genes, 2, Path("sets.gmt"))
    >>> pathway_table(found, sizes, W)[["set", "genes", "t"]].round(1)
          set  genes    t
    0  growth      2  4.9
    1  stress      2  0.7
    """
    columns = METHODS[method](found.Y, W)
    leading = columns.pop("leading", None)
    order = np.argsort(-np.abs(columns[STRENGTH[method]]), axis=1, kind="stable")
    rows, places = np.repeat(np.arange(len(order)), order.shape[1]), order.ravel()
    table = found.described(rows)
    table["set"] = np.array(list(sizes), object)[places]
    table["genes"] = np.array(list(sizes.values()))[places]
    for name, values in columns.items():
        table[name] = values[rows, places]
    table["fdr"] = stats.false_discovery_control(table["p"]) if len(table) else []
    if leading is not None:
        counts = (leading * np.sign(columns["es"])).astype(np.intp)[rows, places]
        inside = [np.flatnonzero(column) for column in W.T]
        named = zip(rows, places, counts, strict=True)
        table["leading_edge"] = [
            _edge(found, int(row), inside[place], int(count)) for row, place, count in named
        ]
    return table


def _edge(found: Responses, row: int, inside: Indices, count: int) -> str:
    """Return the `count` genes of a set that go up most, or the −`count` ones that go down most."""
    up = inside[np.argsort(-found.Y[row, inside], kind="stable")]
    return ";".join(found.genes[gene] for gene in (up[:count] if count >= 0 else up[: count - 1 : -1]))


def abridged(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `pathway_table` for a terminal: of a leading edge the first `SHOWN` genes."""
    if "leading_edge" not in table:
        return table
    edges = [edge.split(";") for edge in table["leading_edge"]]
    return table.assign(leading_edge=[" ".join([*e[:SHOWN], *["…"] * (len(e) > SHOWN)]) for e in edges])


def ulm(Y: Float32, W: Float64) -> dict[str, Float64]:
    """Return `t` and its two-sided `p` of every response (m, n) and set (n, s), each (m, s)."""
    n, r = len(W), correlations(Y, W)
    t = r * np.sqrt((n - 2) / np.maximum(1 - r * r, np.finfo(np.float64).tiny))
    return {"t": t, "p": 2 * stats.t.sf(np.abs(t), n - 2)}


def gsea(Y: Float32, W: Float64, permutations: int = PERMUTATIONS, seed: int = 0) -> dict[str, Float64]:
    """Return `es`, `nes`, `p` and the number of `leading` genes of every response (m, n) and set (n, s), each (m, s).

    All are 0 or 1 where a response is 0 in all genes of the set. `nes` is 0 where no random set has the sign of `es`.
    """
    order = np.argsort(-Y, axis=1, kind="stable")
    places, steps = np.argsort(order, axis=1), np.abs(np.take_along_axis(Y, order, 1)).astype(np.float64)
    sizes = np.count_nonzero(W, axis=0)
    es, leading = np.empty((2, len(Y), len(sizes)))
    for column in range(len(sizes)):
        inside = np.sort(places[:, np.flatnonzero(W[:, column])], axis=1)
        given = np.take_along_axis(steps, inside, 1), inside, len(W)
        es[:, column], leading[:, column] = enrichment(*given), leading_genes(*given)
    alike, beyond, total = (np.zeros_like(es) for _ in range(3))
    rng = np.random.default_rng(seed)
    for start in range(0, permutations, BLOCK):
        count = min(BLOCK, permutations - start)
        drawn = np.stack([rng.choice(len(W), int(sizes.max()), replace=False) for _ in range(count)])
        for size in np.unique(sizes):
            columns, null = np.flatnonzero(sizes == size), np.sort(drawn[:, :size], axis=1)
            for row in np.flatnonzero((beyond[:, columns] < ENOUGH).any(axis=1)):
                random = enrichment(steps[row][null], null, len(W))[:, None]
                same = random * es[row, columns] > 0
                far = np.abs(random) >= np.abs(es[row, columns]) * (1 - 1e-12)
                alike[row, columns] += same.sum(axis=0)
                beyond[row, columns] += (same & far).sum(axis=0)
                total[row, columns] += (same * np.abs(random)).sum(axis=0)
    nes = np.divide(es * alike, total, out=np.zeros_like(es), where=total > 0)
    return {"es": es, "nes": nes, "p": (beyond + 1) / (alike + 1), "leading": leading}


def enrichment(steps: Float64, places: Indices, n: int) -> Float64:
    """Return the largest distance from 0 of running sums, (r,): where the sets' k genes stand among n, and their |y|.

    Parameters
    ----------
    steps : ndarray of float64, (r, k)
    places : ndarray of int, (r, k)
        Ascending.
    """
    before, after = _sums(steps, places, n)
    high, low = after.max(axis=1), before.min(axis=1)
    return np.where(steps.any(axis=1), np.where(high >= -low, high, low), 0.0)


def leading_genes(steps: Float64, places: Indices, n: int) -> Indices:
    """Return how many genes the leading edges of `enrichment` have, (r,): the first ones, or the last where es < 0."""
    before, after = _sums(steps, places, n)
    up = after.max(axis=1) >= -before.min(axis=1)
    return np.asarray(np.where(up, after.argmax(axis=1) + 1, places.shape[1] - before.argmin(axis=1)))


def _sums(steps: Float64, places: Indices, n: int) -> tuple[Float64, Float64]:
    """Return running sums before and after the steps up, each (r, k)."""
    k, total = places.shape[1], steps.sum(axis=1, keepdims=True)
    steps = steps / np.where(total, total, 1.0)
    after = np.cumsum(steps, axis=1) - (places - np.arange(k)) / (n - k)
    return after - steps, after


METHODS: dict[str, Callable[[Float32, Float64], dict[str, Float64]]] = {"ulm": ulm, "gsea": gsea}
SHOWN = 5
STRENGTH = {"ulm": "t", "gsea": "nes"}
"""The column whose size orders the sets of a pair."""
