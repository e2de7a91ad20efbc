"""Gene sets and signatures against responses: pathways of a pair, compounds that mimic or reverse a signature.

With y the response of a pair over n genes, w the weights of a gene set (1 for its genes, 0 for others) or of a
signature (1 up, −1 down, 0 others; or a number for each gene), and r Pearson's correlation of y and w:

    pathways   t = r √((n − 2)/(1 − r²))    univariate linear model, Student's t with n − 2 degrees of freedom
    rank       z = r √(n − 1)               mean 0 and variance 1 where the genes are permuted, whatever y and w are

Two-sided p-values; those of z by the normal distribution, which permutations of many genes approach. They are adjusted
by Benjamini and Hochberg over all rows of the table. Both nulls take genes as exchangeable: genes of a set that move
together anyway make small p-values too small, so read them as an order.

Sources: Badia-i-Mompel et al., decoupleR, Bioinformatics Advances (2022), `ulm`; Subramanian et al., Cell 171 (2017),
for connectivity; Lehmann and Romano, Testing Statistical Hypotheses (2005), 15.2 (permutation variance).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from features.rows import DOSE, TIME
from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.backend.limits import refuse_large, require_file
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.predictions.readouts import Responses

LEAST_GENES = 3
"""Genes of a signature that the responses must have. `pathways` leaves out sets below a number of its own (5), since
there are thousands, of which small ones are often found by chance. A signature is the question itself."""
ROWS_AT_ONCE = 1024


def correlations(Y: Float32, W: Float64) -> Float64:
    """Return Pearson's correlation of every response (m, n) with every column of weights (n, s), (m, s).

    0 where a response or a column has one value in all genes.
    """
    W = W - W.mean(axis=0)
    W = W / np.where(norms := np.linalg.norm(W, axis=0), norms, 1.0)
    found = np.empty((len(Y), W.shape[1]))
    for start in range(0, len(Y), ROWS_AT_ONCE):
        y = Y[start : start + ROWS_AT_ONCE].astype(np.float64)
        y -= y.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(y, axis=1, keepdims=True)
        found[start : start + ROWS_AT_ONCE] = (y @ W) / np.where(norms, norms, 1.0)
    return np.clip(found, -1.0, 1.0)


# --- pathways ---------------------------------------------------------------------------------------------


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets of a GMT file: a line a set, its name, a description and its genes, separated by tabs.

    Raises
    ------
    InputError
        No such file, no UTF-8, no sets, a line without genes, or a set twice; the message names the line.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(_lines(path), 1):
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
    left = len(sets) - len(kept)
    notes = (
        [f"{left} of {len(sets)} sets have fewer than {least} of the genes and are left out"] if left else []
    )
    return {name: len(found) for name, found in kept.items()}, W, notes


def pathway_table(found: Responses, sizes: Mapping[str, int], W: Float64) -> pd.DataFrame:
    """Return a row a pair and set, in the order of the pairs, the largest |t| first: `set`, `genes`, `t`, `p`, `fdr`.

    Parameters
    ----------
    found : Responses
        m pairs, n genes.
    sizes : dict of str to int
        How many of the genes each of the s sets has.
    W : ndarray of float64, (n, s)
        Of `usable_sets`.

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
    n = len(found.genes)
    r = correlations(found.Y, W)
    t = r * np.sqrt((n - 2) / np.maximum(1 - r * r, np.finfo(np.float64).tiny))
    p = 2 * stats.t.sf(np.abs(t), n - 2)
    order = np.argsort(-np.abs(t), axis=1, kind="stable")
    rows = np.repeat(np.arange(len(t)), t.shape[1])
    columns = order.ravel()
    table = _named(found, rows)
    table["set"] = np.array(list(sizes), object)[columns]
    table["genes"] = np.array(list(sizes.values()))[columns]
    table["t"], table["p"] = t[rows, columns], p[rows, columns]
    table["fdr"] = stats.false_discovery_control(table["p"]) if len(table) else []
    return table


# --- signatures -------------------------------------------------------------------------------------------


def read_signature(names: str) -> dict[str, float]:
    """Read a signature: "up.txt,down.txt" or one of them (a gene a line), or a CSV with `gene` and `value`.

    Raises
    ------
    InputError
        No such file, an empty one, a gene in both, or a table without numbers for genes.
    """
    paths = [Path(name.strip()) for name in names.split(",")]
    if len(paths) > 2:
        raise InputError(f"--signature {quoted(names)}: give UP.txt,DOWN.txt, or one CSV with gene and value")
    if table_suffix(paths[0]) in (".csv", ".tsv"):
        return _signature_table(paths[0])
    signature: dict[str, float] = {}
    for path, sign in zip(paths, (1.0, -1.0), strict=False):
        genes = [gene for line in _lines(path) if (gene := line.strip())]
        if not genes:
            raise InputError(f"{path}: has no genes; give one a line")
        for gene in genes:
            if signature.get(gene, sign) != sign:
                raise InputError(f"{path}: {quoted(gene)} is in both files; leave it out of one")
            signature[gene] = sign
    return signature


def _signature_table(path: Path) -> dict[str, float]:
    require_file(path)
    separator = "\t" if table_suffix(path) == ".tsv" else ","
    try:
        table = pd.read_csv(path, sep=separator)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table that can be read ({str(error)[:100]})") from None
    if not {"gene", "value"} <= set(table.columns):
        raise InputError(f"{path}: missing column gene or value; give both")
    values = pd.to_numeric(table["value"], errors="coerce")
    bad = np.flatnonzero(~np.isfinite(values.to_numpy(np.float64)))
    if len(bad):
        raise InputError(f"{path}: row {bad[0] + 1} has no number as value")
    twice = table["gene"][table["gene"].duplicated()]
    if len(twice):
        raise InputError(f"{path}: gene {quoted(str(twice.iloc[0]))} is there twice")
    return dict(zip(table["gene"].astype(str), values.astype(float), strict=True))


def signature_weights(
    signature: Mapping[str, float], genes: Sequence[str], source: str
) -> tuple[Float64, list[str]]:
    """Return the weights of a signature for genes, (n, 1), and a note where it has others.

    Raises
    ------
    InputError
        Fewer than `LEAST_GENES` of its genes are among them, or they all weigh the same.
    """
    weights = np.array([[signature.get(gene, 0.0)] for gene in genes])
    known = sum(gene in signature for gene in genes)
    if known >= LEAST_GENES and not np.ptp(weights):
        raise InputError(
            f"--signature {source}: all genes of the responses weigh the same in it, so it tells nothing apart; name "
            "some of them only, or give them different values"
        )
    if known < LEAST_GENES:
        raise InputError(
            f"--signature {source}: {known} of its {len(signature)} genes are among the responses' {len(genes):,}; at "
            f"least {LEAST_GENES} must be, called as there, such as {quoted(genes[0])}"
        )
    unknown = len(signature) - known
    return weights, [
        f"{unknown} of the signature's {len(signature)} genes are not in the responses"
    ] if unknown else []


def rank_table(
    parts: Iterable[Responses], signature: Mapping[str, float], source: str
) -> tuple[pd.DataFrame, list[str]]:
    """Return a row a pair, the one that mimics the signature most first, the one that reverses it most last; and notes.

    Columns: `cell_type`, `sm_name` (dose, time, applicability), `score` (r), `z`, `p`, `fdr`.

    Parameters
    ----------
    parts : iterable of Responses
        Some rows at a time.
    signature : dict of str to float
        The weight of each gene.
    source : str
        What the signature is called, for messages.

    Examples
    --------
    >>> pairs = pd.DataFrame({"cell_type": ["T cells", "T cells"], "sm_name": ["one", "another"]})
    >>> Y = np.array([[2.0, -1.0, 0.1, 0.0], [-2.0, 1.5, 0.0, 0.2]])
    >>> found = Responses(pairs, ("A", "B", "C", "D"), Y, Path("mine"))
    >>> table, notes = rank_table([found], {"A": 1.0, "B": -1.0, "C": 0.5}, "a signature")
    >>> table[["sm_name", "score"]].round(1)  # "another" reverses it
       sm_name  score
    0      one    0.9
    1  another   -0.9
    """
    tables, notes, n = [], list[str](), 0
    weights: Float64 | None = None
    for part in parts:
        if weights is None:
            weights, notes = signature_weights(signature, part.genes, source)
        n = len(part.genes)
        table = _named(part, np.arange(len(part.Y)))
        near = [name for name in ("compound_known", "tanimoto") if name in part.pairs.columns]
        table[near] = part.pairs[near].to_numpy()
        table["score"] = correlations(part.Y, weights)[:, 0]
        tables.append(table)
    if not tables:
        raise InputError("there are no pairs to rank")
    found = pd.concat(tables, ignore_index=True)
    found["z"] = found["score"] * np.sqrt(n - 1)
    found["p"] = 2 * stats.norm.sf(found["z"].abs())
    found["fdr"] = stats.false_discovery_control(found["p"])
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True), notes


def _named(found: Responses, rows: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> pd.DataFrame:
    """Return what pairs are."""
    kept = [name for name in ("id", *PAIR, DOSE, TIME) if name in found.pairs.columns]
    return found.pairs[kept].iloc[rows].reset_index(drop=True)


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank."""
    require_file(path)
    refuse_large(path, float(path.stat().st_size), "a text file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no UTF-8 text") from None
    return [line for line in text.splitlines() if line.strip()]
