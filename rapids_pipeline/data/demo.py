"""The built-in demonstration data: the real layout of the reference task with simulated values.

Real (package data `data/op2_layout.json.xz`, made as `data/README.md` says): which compound was measured in
which cell type (614 training and 255 test pairs, in their order), the 146 compounds with their names, LINCS
ids, SMILES and control flags, their MACCS keys, the 6 cell types and the 18,211 gene names. Simulated:
every number a gene column holds. Nothing was fitted to measured expression; a score on this data says that
the software works and how methods compare on data of this shape, and nothing about biology.

The model. Row r is compound m in cell type c; k runs over latent response programs, g over genes:

    z_rg = b_g Σ_k v_gk e_rk + ν_rg                                    v, ν ~ N(0, 1), b lognormal with E b² = 1
    y_rg = clip(sign(z_rg) · −log10 P(|N(0, 1)| > |z_rg|), ±4)
    e_rk = a_r √q √t for k = 0, a_r √q √(1−t) for the lineage of c     what all compounds do
    e_rk = a_r √(1−q) f_c (√(1−o) d_mk l_ck + √o h_rk) for the others  what m does, and what none can know

So y is the signed −log10 p-value of a z-test with true effects, as in the task: a row without effect has
uniform p-values (root mean square 0.61), a row with a large effect has heavy tails cut at ±4. The programs:
one common to all rows, one common to each of three lineages (B, myeloid, T and NK), then those of compounds.

- d_m, of length 1, is the compound: a share s of its variance is smooth in the compound's structure, the
  rest its own. Smooth is H T H u with u ~ N(0, 1), T the Tanimoto similarity of MACCS keys and H centring.
  MACCS keys and not Morgan fingerprints, so that the features a model uses are not those of the simulator.
- l_c is the cell type: mean_k l_ck l_c'k is exactly `RELATEDNESS`, so that is the expected correlation of
  what one compound does in two cell types, and B and myeloid cells are partly predictable from T and NK.
- f_c is 1 in T and NK cells and below 1 in B and myeloid cells, which show less of what is special to a
  compound. So the mean of a compound, nearly all over T and NK cells, overshoots, and half of it does not.
- a_r is the effect size: lognormal over compounds (again in part smooth in the structure) and over rows. In
  every seed the 17 compounds without test rows, the only ones seen in B and myeloid cells, share the same
  17 sizes, and the other 129 theirs.

Of another size (`Size`), pairs are drawn from all of the cell types and compounds asked for. Cell types beyond the six
are relatives of these, in turn: l = √(1 − e) l_c + √e ε with ε ~ N(0, 1) and e = `ESTRANGED`, in the lineage of c.
Compounds beyond the 146 are relatives of these in the same way, with another small molecule beside the structure
(`PARTNERS`). A single cell type has compounds to predict that are not among its training pairs.

`PARAMETERS` and `RELATEDNESS` were tuned until zeros, mean_outcome, mean_across_celltypes and
mean_across_compounds (`rapids_pipeline.evaluation.baselines` defines them) scored on the test rows as
published: MRRMSE 0.918, 0.899, 0.8925 and 0.943 (source: Open Problems, perturbation prediction).
Largest difference of a mean score and of a single one: 0.001 and 0.020 over seeds 0 to 39, which the tuning
saw, 0.003 and 0.021 over seeds 40 to 79, which it did not (`benchmarks/data/demo_baselines.py`).
"""

import json
import lzma
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import erfc, ndtri

from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import written
from rapids_pipeline.data.gene_families import gene_families

CLIP = 4.0
"""Largest absolute value of signed −log10 p-values, as in the task's layer `clipped_sign_log10_pval`."""

RELATEDNESS = (
    # B, myeloid, NK, CD4+, CD8+, regulatory: the order of the package data
    (1.00, 0.75, 0.79, 0.80, 0.80, 0.80),
    (0.75, 1.00, 0.80, 0.79, 0.79, 0.79),
    (0.79, 0.80, 1.00, 0.85, 0.87, 0.85),
    (0.80, 0.79, 0.85, 1.00, 0.92, 0.92),
    (0.80, 0.79, 0.87, 0.92, 1.00, 0.91),
    (0.80, 0.79, 0.85, 0.92, 0.91, 1.00),
)
"""Expected correlation of what one compound does in two cell types, programs unknown to a model aside."""

LINEAGE = (0, 1, 2, 2, 2, 2)
"""The lineage of each cell type: 0 B cells, 1 myeloid cells, 2 T and NK cells."""
ESTRANGED = 0.2
"""Share of the variance of a further cell type's loadings, or compound's effects, that is its own."""
PARTNERS = tuple(
    left + right
    for right in ("O", "N", "F", "Cl", "Br", "S", "C#N", "C(=O)O", "C(=O)N", "S(=O)(=O)O")
    for left in ("C", "CC", "CCC", "CC(C)", "CCCC", "C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "c1ccccc1")
)
"""SMILES of what stands beside a real structure in those of further compounds, as in a co-crystal."""
TEST_PAIRS = 255 / 614
"""Test pairs of a data set of another size, for each training pair."""


@dataclass(frozen=True)
class SimulationParameters:
    """What the simulation can be tuned by; the symbols are those of the module's docstring."""

    n_programs: int = 40
    """Latent response programs besides the 4 common ones: the noiseless signal has 4 ranks more."""
    median_size: float = 0.83
    """Median effect size a of a compound, in standard errors of one gene."""
    size_spread: float = 0.80
    """Standard deviation of log a over compounds."""
    row_spread: float = 0.10
    """Standard deviation of log a over the cell types of one compound."""
    gene_spread: float = 0.50
    """Standard deviation of log b over genes: how unequally genes respond."""
    common_share: float = 0.225
    """Share q of the squared effect, in T and NK cells, that all compounds have in common."""
    shared_share: float = 0.75
    """Share t of the common part that is the same in all lineages."""
    scarce_response: float = 0.57
    """Factor f of the compound's own part in B and myeloid cells."""
    structure_share: float = 0.70
    """Share s of the variance of a compound's effect (and log size) that is smooth in its structure."""
    row_share: float = 0.03
    """Share o of the compound's own part that belongs to one row alone."""


PARAMETERS = SimulationParameters()
"""The values in use."""


@dataclass(frozen=True)
class Size:
    """The size of a data set that is not of the real layout.

    Attributes
    ----------
    training_pairs : int, optional
    cell_types : int
        Beyond the six real ones they are simulated, too.
    compounds : int
        The first so many of the 146 real ones and, of more, their relatives.
    """

    training_pairs: int = 614
    cell_types: int = 6
    compounds: int = 146

    @property
    def test_pairs(self) -> int:
        """Pairs to predict at most: as many for each training pair as in the real layout."""
        left = self.cell_types * self.compounds - self.training_pairs
        return min(left, max(1, round(self.training_pairs * TEST_PAIRS)))


@dataclass(frozen=True)
class DemoData:
    """A simulated data set: what a modeller is given, and the truth that scores the answer.

    Attributes
    ----------
    de_train : pandas.DataFrame
        614 rows (or as many as were asked for): cell_type, sm_name, sm_lincs_id, SMILES, control, then one float32
        column per gene.
    id_map : pandas.DataFrame
        255 rows to predict: id, cell_type, sm_name, and SMILES where there are new compounds. No values.
    de_test : pandas.DataFrame
        The truth of those rows: id, then the columns of `de_train`.
    """

    de_train: pd.DataFrame
    id_map: pd.DataFrame
    de_test: pd.DataFrame


@dataclass(frozen=True)
class DemoFiles:
    """Where `write_demo` put `de_train.parquet`, `id_map.csv`, the truth, `de_test.parquet`, and `gene_sets.gmt`."""

    train: Path
    test: Path
    truth: Path
    gene_sets: Path


@dataclass(frozen=True)
class _Layout:
    """The real facts. Rows are training pairs, then test pairs; `cell` and `compound` index the tables."""

    cell_types: list[str]
    compounds: pd.DataFrame
    maccs: list[str]
    cell: Indices
    compound: Indices
    n_train: int
    genes: list[str]

    @property
    def asks_new(self) -> bool:
        """Whether a compound to predict is not among the training pairs."""
        train, test = self.compound[: self.n_train], self.compound[self.n_train :]
        return not bool(np.isin(test, train).all())

    @property
    def relative(self) -> Indices:
        """The real cell type that each one is, or is a relative of."""
        return np.arange(len(self.cell_types)) % len(RELATEDNESS)


def simulate(seed: int = 0, n_genes: int | None = None, size: Size | None = None) -> DemoData:
    """Simulate one data set in the real layout (the module's docstring has the formula).

    Parameters
    ----------
    seed : int
        The same seed gives the same data; every seed gives other compounds' effects, cell types and genes.
    n_genes : int, optional
        Keep only the first so many genes (A1BG comes first); all 18,211 by default. The values of a gene
        do not depend on it, rounding in the last digit aside.
    size : Size, optional
        By default the real layout.

    Returns
    -------
    DemoData
        Values in [−4, 4], about 130 MB at full size.

    Raises
    ------
    InputError
        `seed` is negative, `n_genes` is not between 1 and 18,211, or there are no such compounds or so many pairs.

    Examples
    --------
    >>> data = simulate(n_genes=2)
    >>> list(data.de_train.columns)
    ['cell_type', 'sm_name', 'sm_lincs_id', 'SMILES', 'control', 'A1BG', 'A1BG-AS1']
    >>> len(data.de_train), len(data.id_map)
    (614, 255)
    """
    if seed < 0:
        raise InputError(f"seed {seed}: must not be negative")
    layout = _read_layout()
    n_genes = len(layout.genes) if n_genes is None else n_genes
    if not 1 <= n_genes <= len(layout.genes):
        raise InputError(f"n_genes {n_genes}: must be between 1 and {len(layout.genes)}")
    latent_seed, gene_seed, noise_seed, pair_seed = np.random.SeedSequence(seed).spawn(4)
    if size is not None:
        layout = _resized(layout, size, np.random.default_rng(pair_seed))
    effects = _row_effects(layout, PARAMETERS, np.random.default_rng(latent_seed))
    loadings = _gene_loadings((n_genes, effects.shape[1]), PARAMETERS, np.random.default_rng(gene_seed))
    z = loadings @ effects.T.astype(np.float32)
    z += np.random.default_rng(noise_seed).standard_normal(z.shape, dtype=np.float32)
    return _frames(layout, _signed_log10_p_values(z))


def write_demo(
    folder: Path, seed: int = 0, n_genes: int | None = None, size: Size | None = None
) -> DemoFiles:
    """Write de_train.parquet, id_map.csv, de_test.parquet and gene_sets.gmt to `folder`, made where it is missing.

    The gene sets are families of the genes (`rapids_pipeline.data.gene_families`); they mean nothing to the simulation.

    Parameters
    ----------
    folder, seed, n_genes, size
        Files of the four names in the folder are replaced, each whole or not at all; the rest, errors
        included, is as for `simulate`.

    Returns
    -------
    DemoFiles
        The four paths.
    """
    data = simulate(seed, n_genes, size)
    names = "de_train.parquet", "id_map.csv", "de_test.parquet", "gene_sets.gmt"
    made = DemoFiles(*(folder / name for name in names))
    with written(made.train) as path:
        data.de_train.to_parquet(path, index=False, use_dictionary=False)  # noise has no repeated values
    with written(made.test) as path:
        data.id_map.to_csv(path, index=False)
    with written(made.truth) as path:
        data.de_test.to_parquet(path, index=False, use_dictionary=False)
    with written(made.gene_sets) as path:
        path.write_text(gene_families(_read_layout().genes[:n_genes]))
    return made


def _read_layout() -> _Layout:
    packed = files("rapids_pipeline").joinpath("data", "op2_layout.json.xz").read_bytes()
    facts: dict[str, Any] = json.loads(lzma.decompress(packed))
    train, test = facts["train"], facts["test"]
    compounds = pd.DataFrame(facts["compounds"])
    return _Layout(
        cell_types=facts["cell_types"],
        compounds=compounds.drop(columns="maccs"),
        maccs=list(compounds["maccs"]),
        cell=np.array(train["cell_type"] + test["cell_type"], dtype=np.intp),
        compound=np.array(train["compound"] + test["compound"], dtype=np.intp),
        n_train=len(train["compound"]),
        genes=facts["genes"],
    )


def _resized(layout: _Layout, size: Size, rng: np.random.Generator) -> _Layout:
    """Return a layout of another size, its pairs drawn; each compound to predict is among the training pairs."""
    pairs, most = size.cell_types * size.compounds, len(layout.compounds) * (1 + len(PARTNERS))
    if not 1 <= size.compounds <= most:
        raise InputError(f"{size.compounds} compounds: there are 1 to {most} structures")
    if size.cell_types < 1 or not 3 <= size.training_pairs < pairs:
        raise InputError(
            f"{size.training_pairs} training pairs of {size.cell_types} cell types and {size.compounds} compounds: "
            f"there are {pairs} pairs, of which at least 3 train and one is left to predict"
        )
    named = [
        *layout.cell_types,
        *(f"cell type {k}" for k in range(len(layout.cell_types) + 1, size.cell_types + 1)),
    ]
    drawn = rng.permutation(pairs)
    train, rest = drawn[: size.training_pairs], drawn[size.training_pairs :]
    # A compound to predict is known from other cell types, where there are any.
    known = np.isin(rest % size.compounds, train % size.compounds) | (size.cell_types == 1)
    if not known.any():
        raise InputError(
            f"{size.training_pairs} training pairs: no pair is left whose compound is among them"
        )
    drawn = np.concatenate([train, rest[known][: size.test_pairs]])
    return replace(
        layout,
        cell_types=named[: size.cell_types],
        compounds=_compounds(layout.compounds, size.compounds),
        maccs=layout.maccs[: size.compounds],
        cell=drawn // size.compounds,
        compound=drawn % size.compounds,
        n_train=size.training_pairs,
    )


def _compounds(real: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the first so many of the real compounds and, of more, of the real ones with each partner in turn."""
    partner, place = np.divmod(np.arange(count), len(real))
    found = real.iloc[place].reset_index(drop=True)
    beside = np.array(["", *PARTNERS], dtype=object)[partner]
    found["sm_name"] += np.where(partner > 0, " with " + beside, "")
    found["sm_lincs_id"] += np.where(partner > 0, "-" + partner.astype(str).astype(object), "")
    found["SMILES"] += np.where(partner > 0, "." + beside, "")
    return found


def _row_effects(layout: _Layout, p: SimulationParameters, rng: np.random.Generator) -> Float64:
    """Return e, the effect of every row on every program, the common ones first: (n_rows, 4 + n_programs)."""
    mixed = _structured_normals(_centred_similarity(layout.maccs), p.n_programs + 1, p.structure_share, rng)
    more = int(layout.compound.max()) + 1 - len(mixed)
    if more > 0:
        own = np.random.default_rng(rng.integers(2**32)).standard_normal((more, mixed.shape[1]))
        relatives = np.arange(len(mixed), len(mixed) + more) % len(mixed)
        own = np.sqrt(1 - ESTRANGED) * mixed[relatives] + np.sqrt(ESTRANGED) * own
        mixed = np.vstack([mixed, own])
    direction = mixed[:, 1:] / np.linalg.norm(mixed[:, 1:], axis=1, keepdims=True)
    asked = np.isin(np.arange(len(mixed)), layout.compound[layout.n_train :])
    log_size = np.full(len(mixed), np.log(p.median_size))
    for group in (asked, ~asked):
        log_size[group] += p.size_spread * _normal_scores(mixed[group, 0])
    loading = _cell_loadings(p.n_programs, rng)
    relative, n_rows = layout.relative, len(layout.cell)
    if len(relative) > len(RELATEDNESS):
        own = np.random.default_rng(rng.integers(2**32)).standard_normal((len(relative), p.n_programs))
        own = np.sqrt(1 - ESTRANGED) * loading[relative] + np.sqrt(ESTRANGED) * own
        loading = np.vstack([loading, own[len(loading) :]])
    lineage = np.array(LINEAGE)[relative][layout.cell]
    size = np.exp(log_size[layout.compound] + p.row_spread * rng.standard_normal(n_rows))
    shared = np.full((n_rows, 1), np.sqrt(p.shared_share))
    common = np.hstack([shared, np.sqrt(1 - p.shared_share) * np.eye(3)[lineage]])
    strength = np.where(lineage < 2, p.scarce_response, 1.0)
    own = rng.standard_normal((n_rows, p.n_programs)) / np.sqrt(p.n_programs)
    known = direction[layout.compound] * loading[layout.cell]
    response = strength[:, None] * (np.sqrt(1 - p.row_share) * known + np.sqrt(p.row_share) * own)
    parts = [np.sqrt(p.common_share) * common, np.sqrt(1 - p.common_share) * response]
    return np.asarray(size[:, None] * np.hstack(parts))


def _centred_similarity(maccs: list[str]) -> Float64:
    """Return H T H: the Tanimoto similarity of packed MACCS keys, rows and columns centred."""
    digits = [list(f"{int(keys, 16):0{4 * len(keys)}b}") for keys in maccs]
    bits = np.array(digits, dtype=np.float64)
    shared, count = bits @ bits.T, bits.sum(axis=1)
    similarity = shared / (count[:, None] + count - shared)
    mean = similarity.mean(axis=0)
    return np.asarray(similarity - mean - mean[:, None] + mean.mean())


def _structured_normals(similarity: Float64, n: int, share: float, rng: np.random.Generator) -> Float64:
    """Return n columns of unit variance of which `share` varies smoothly with the structure."""
    smooth = similarity @ rng.standard_normal((len(similarity), n))
    smooth /= smooth.std(axis=0)
    own = rng.standard_normal((len(similarity), n))
    return np.asarray(np.sqrt(share) * smooth + np.sqrt(1 - share) * own)


def _normal_scores(x: Float64) -> Float64:
    """Replace values by normal quantiles of their ranks, so that every seed has the same effect sizes."""
    return np.asarray(ndtri((x.argsort().argsort() + 0.5) / len(x)))


def _cell_loadings(n_programs: int, rng: np.random.Generator) -> Float64:
    """Return l of shape (6, n_programs) with l lᵀ / n_programs equal to `RELATEDNESS`."""
    draw = rng.standard_normal((len(RELATEDNESS), n_programs))
    white = np.linalg.solve(np.linalg.cholesky(draw @ draw.T / n_programs), draw)
    return np.asarray(np.linalg.cholesky(np.array(RELATEDNESS)) @ white)


def _gene_loadings(shape: tuple[int, int], p: SimulationParameters, rng: np.random.Generator) -> Float32:
    """Return b_g v_g, shape (n_genes, number of programs), drawn gene by gene."""
    draw = rng.standard_normal((shape[0], shape[1] + 1), dtype=np.float32)
    gain = np.exp(p.gene_spread * draw[:, -1:] - p.gene_spread**2)
    return np.asarray(draw[:, :-1] * gain, dtype=np.float32)


def _signed_log10_p_values(z: Float32) -> Float32:
    """Return sign(z) · −log10 P(|N(0, 1)| > |z|), clipped to ±CLIP."""
    size = np.minimum(np.abs(z), np.float32(6.0))  # p = 2e-9: beyond the clip, and no underflow
    p_value = erfc(size * np.float32(np.sqrt(0.5)))
    return np.asarray(np.copysign(np.minimum(-np.log10(p_value), np.float32(CLIP)), z), dtype=np.float32)


def _frames(layout: _Layout, y: Float32) -> DemoData:
    """Set the values, shape (n_genes, n_rows), beside the real metadata."""
    cell_types = pd.Series(np.array(layout.cell_types, dtype=object)[layout.cell], name="cell_type")
    compounds = layout.compounds.iloc[layout.compound].reset_index(drop=True)
    meta = pd.concat([cell_types, compounds], axis=1)
    train, test = slice(None, layout.n_train), slice(layout.n_train, None)
    genes = layout.genes[: len(y)]
    truth = meta.iloc[test].reset_index(drop=True)
    truth.insert(0, "id", np.arange(len(truth)))
    return DemoData(
        de_train=pd.concat([meta.iloc[train], pd.DataFrame(y[:, train].T, columns=genes)], axis=1),
        id_map=truth[["id", "cell_type", "sm_name", *(["SMILES"] if layout.asks_new else [])]].copy(),
        de_test=pd.concat([truth, pd.DataFrame(y[:, test].T, columns=genes)], axis=1),
    )
