r"""Compound effects of a data set: how each compound moves expression, over all contexts that it was measured in.

With y_ci the response of compound c in context i (cell type, dose and time; the mean of its replicates, which counts
w_ci), n_i the compounds of that context, W_c = Σ_i w_ci and m_c the contexts of compound c:

    r_ci = y_ci − Σ_c y_ci / (n_i + SHRINKAGE)                what is the compound's own in the context
    r̄_c  = Σ_i w_ci r_ci / W_c                                its mean over contexts
    σ²   = Σ_ci w_ci |r_ci − r̄_c|² / Σ_c (m_c − 1)            variance within a compound
    τ²   = mean_c (|r̄_c|² − σ²/W_c)                           variance between compounds
    x_c  = r̄_c W_c / (W_c + κ),   κ = σ²/τ²                   the shrunken effect, (genes,)
    e_c  = leading components of x_c, in one scale so that mean_c |e_c|² = 1

A gene that was not tested in a row is 0 in r. The components are those of TruncatedSVD without centring, in the data
set's own genes; so data sets of other genes, cell types and doses each give an embedding of their compounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from features.molecules.atlas import Atlas, Source, inchikey_block, plain_name
from features.rows import DOSE, TIME, context_numbers
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import describe_input
from rapids_pipeline.data.columns import AS_OURS, TableOptions
from rapids_pipeline.data.problem import averaged, without_copies
from rapids_pipeline.data.tables import PerturbationData, read_training

SHRINKAGE = 5.0
"""Compounds of response 0 that the mean of every context is drawn by."""
KAPPA = 1.0
"""κ where no compound was measured in two contexts, so that no variance within a compound is known."""
MOST_KAPPA = 100.0
"""κ where compounds do not differ more than their contexts do."""
N_COMPONENTS = 64
"""Components of the effects that an embedding has at most."""


@dataclass(frozen=True, eq=False)
class CompoundEffects:
    """Effects of q compounds in g genes.

    Attributes
    ----------
    rows : ndarray of int, (q,)
        The first row of each compound.
    effects : ndarray of float64, (q, g)
        x, shrunken.
    contexts : ndarray of int, (q,)
        m, the contexts of each compound.
    kappa : float
        κ.
    """

    rows: Indices
    effects: Float64
    contexts: Indices
    kappa: float

    @classmethod
    def of(cls, data: PerturbationData, compound: Indices) -> "CompoundEffects":
        """Learn them from n responses, one a compound and context (`averaged`), and the compound of each by number.

        Raises
        ------
        InputError
            All responses of a context are alike, in every context.
        """
        weight = np.ones(len(compound)) if data.weight is None else data.weight
        r, q = _own_responses(data), int(compound.max()) + 1
        total, contexts = np.bincount(compound, weight, q), np.bincount(compound, minlength=q)
        mean = _sums(compound, weight[:, None] * r, q) / total[:, None]
        within = float((weight * ((r - mean[compound]) ** 2).sum(axis=1)).sum())
        degrees, squares = int((contexts - 1).sum()), (mean**2).sum(axis=1)
        if not squares.any():
            raise InputError("all compounds have the same responses: there is nothing to make an atlas of")
        kappa = KAPPA
        if degrees:
            noise = within / degrees
            between = float((squares - noise / total).mean())
            kappa = min(noise / between, MOST_KAPPA) if between > 0 else MOST_KAPPA
        first = np.unique(compound, return_index=True)[1]
        return cls(first, mean * (total / (total + kappa))[:, None], contexts, kappa)

    def embeddings(self, n_components: int = N_COMPONENTS) -> Float32:
        """Return e, (q, at most n_components) float32, of mean squared length 1."""
        from sklearn.decomposition import TruncatedSVD

        k = min(n_components, *(size - 1 for size in self.effects.shape))
        if k < 1:
            e = np.linalg.norm(self.effects, axis=1)[:, None]
        else:
            e = TruncatedSVD(k, algorithm="arpack", random_state=0).fit_transform(self.effects)
        return np.asarray(e / np.sqrt((e**2).sum(axis=1).mean()), np.float32)


def _own_responses(data: PerturbationData) -> Float64:
    """Return r, (n, g): responses less the drawn mean of their context, 0 where a gene was not tested."""
    cells = np.unique(data.obs["cell_type"].to_numpy(str), return_inverse=True)[1]
    numbers = np.nan_to_num(context_numbers(data.obs, DOSE, TIME), nan=-1.0)
    context = np.unique(np.column_stack([cells, numbers]), axis=0, return_inverse=True)[1].ravel()
    tested = np.isfinite(data.Y)
    Y, k = np.where(tested, data.Y, 0).astype(np.float64), int(context.max()) + 1
    means = _sums(context, Y, k) / (_sums(context, tested.astype(np.float64), k) + SHRINKAGE)
    return np.asarray(np.where(tested, Y - means[context], 0.0))


def _sums(groups: Indices, values: Float64, n_groups: int) -> Float64:
    found = np.zeros((n_groups, values.shape[1]))
    np.add.at(found, groups, values)
    return found


def read_source(path: Path, options: TableOptions = AS_OURS) -> PerturbationData:
    """Read a data set: a row a compound and context, the mean of its replicates; SMILES may be missing.

    Raises
    ------
    InputError, UnavailableError
        As `read_training` and `averaged`.
    """
    read = read_training(path, replace(options, structures=False))
    return averaged(without_copies(read)[0])


def build_atlas(paths: Sequence[Path], options: TableOptions = AS_OURS) -> Atlas:
    """Make an atlas of data sets: an embedding of every compound by each of them.

    Parameters
    ----------
    paths : sequence of Path
        Files as `read_training` takes them, at least one.
    options : TableOptions
        How they are read.

    Raises
    ------
    InputError, UnavailableError
        As `read_source` and `CompoundEffects.of`; a file is given twice.
    """
    digests = [describe_input(path)["sha256"] for path in paths]
    twice = next((k for k, digest in enumerate(digests) if digest in digests[:k]), None)
    if twice is not None:
        raise InputError(f"--from {paths[twice]}: this file is given twice; leave one out")
    read = [
        (path.name, digest, read_source(path, options)) for path, digest in zip(paths, digests, strict=True)
    ]
    return atlas_of(read)


def atlas_of(sources: Sequence[tuple[str, str, PerturbationData]], n_components: int = N_COMPONENTS) -> Atlas:
    """Make an atlas of data sets in memory: name, SHA-256 and responses, one row a compound and context."""
    identity = Identity([data.obs for _, _, data in sources])
    n, blocks, told, has = len(identity.names), [], [], np.zeros(len(identity.names))
    measured, cells = set[tuple[int, int]](), dict[str, int]()
    for (name, digest, data), place in zip(sources, identity.places, strict=True):
        present, compound = np.unique(place, return_inverse=True)
        try:
            effects = CompoundEffects.of(data, compound.astype(np.intp))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        e = effects.embeddings(n_components)
        block = np.zeros((n, e.shape[1]))
        block[present] = e
        blocks.append(block)
        has[present] += 1
        cell = [cells.setdefault(plain_name(label), len(cells)) for label in data.obs["cell_type"].map(str)]
        measured |= set(zip(place.tolist(), cell, strict=True))
        counts = len(place), len(data.genes), len(present), data.obs["cell_type"].nunique(), e.shape[1]
        told.append(Source(name, digest, *counts, effects.kappa))
    values = np.hstack(blocks) / np.sqrt(has)[:, None]
    kept = np.flatnonzero(values.any(axis=1))  # a compound without any response of its own says nothing
    number = np.full(n, -1)
    number[kept] = np.arange(len(kept))
    spelled = {
        spelling: int(number[place]) for spelling, place in identity.spellings.items() if number[place] >= 0
    }
    pairs = sorted((int(number[c]), k) for c, k in measured if number[c] >= 0)
    return Atlas(
        tuple(identity.names[k] for k in kept),
        tuple(identity.blocks[k] for k in kept),
        np.ascontiguousarray(values[kept], np.float32),
        tuple(spelled),
        np.array(list(spelled.values()), np.int32),
        tuple(cells),
        np.array(pairs, np.int32).reshape(-1, 2),
        tuple(told),
    )


class Identity:
    """Which rows of several tables are of one compound (`features.molecules.atlas`).

    A row without a structure has that of its name, where all structures of this name are one.

    Attributes
    ----------
    names, blocks : list of str
        Name and first block of the InChIKey ("": no structure) of each compound, in order of first occurrence.
    places : list of ndarray of int
        The compound of each row, for every table.
    spellings : dict of str to int
        Plain names and the compound of each; names of several compounds are left out.
    """

    def __init__(self, tables: Sequence[pd.DataFrame]) -> None:
        rows = [
            list(zip(obs["sm_name"].map(str), obs["SMILES"].map(inchikey_block), strict=True))
            for obs in tables
        ]
        distinct = list(dict.fromkeys(row for table in rows for row in table))
        structures: dict[str, set[str]] = {}
        for name, block in distinct:
            structures.setdefault(plain_name(name), set()).update([block] if block else [])
        self.names, self.blocks = list[str](), list[str]()
        number: dict[tuple[str, str], int] = {}
        compound: dict[tuple[str, str], int] = {}
        of_spelling: dict[str, set[int]] = {}
        for name, block in distinct:
            plain = plain_name(name)
            same = block or (min(structures[plain]) if len(structures[plain]) == 1 else "")
            key = (same, "") if same else ("", plain)
            if key not in number:
                number[key] = len(number)
                self.names.append(name)
                self.blocks.append(same)
            compound[name, block] = number[key]
            of_spelling.setdefault(plain, set()).add(number[key])
        self.places = [np.array([compound[row] for row in table], np.intp) for table in rows]
        self.spellings = {name: min(those) for name, those in of_spelling.items() if len(those) == 1}
