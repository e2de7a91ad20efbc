"""RDKit's two-dimensional descriptors of molecules, raw and standardised."""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from multiprocessing import current_process
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from features.molecules.cache import MoleculeCache, cache_folder, computed_through
from features.molecules.encoders import MoleculeEncoder
from features.molecules.smiles import distinct_molecules, rdkit_chem
from rapids_pipeline.backend.arrays import Float32, Float64, Labels
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

LOGARITHMIC = ("Ipc",)
"""Descriptors that grow exponentially with the molecule (to 1e94 for 300 atoms): their ln(1 + x) is taken."""

LARGEST = 1e30
"""A value beyond this counts as not computed."""

REMEMBERED = 16_384
"""Molecules whose descriptors a process remembers: 30 MB."""

SEVERAL_PROCESSES_FROM = 300
"""Molecules that are computed by one process a processor; on two, starting them takes as long as is saved then."""


def raw_descriptors(smiles: Iterable[str]) -> tuple[list[str], Float64]:
    """Compute RDKit's two-dimensional descriptors (`rdkit.Chem.Descriptors.descList`, 217 in RDKit 2026.09).

    Each distinct molecule is computed once (10 to 20 ms) and kept in the user's cache (`features.molecules.cache`),
    so that encoders can be fitted again and again, fold by fold and run by run, at the cost of standardising.

    Returns
    -------
    names : list of p str
        RDKit's names, in RDKit's order.
    values : ndarray of shape (n, p), float64
        As RDKit gives them; NaN where a descriptor fails.

    Raises
    ------
    InputError
        Invalid SMILES.
    """
    distinct, row = distinct_molecules(smiles)
    names = [name for name, _ in _descriptor_list()]
    return names, _known(tuple(names)).rows(distinct)[row]


class DescriptorEncoder(MoleculeEncoder):
    """Standardised two-dimensional descriptors: z = clip((x − mean) / std, −clip, clip).

    Mean and population standard deviation are those of the *distinct molecules* given to `fit`, however often
    each occurs; fit it on training molecules, in every fold anew. Before that, x is ln(1 + x) for the
    descriptors in `LOGARITHMIC`, and a value that is not finite (or beyond 1e30) is replaced by the median
    over the fitted molecules. A column that has one value in all fitted molecules, or none, becomes zero, so
    that all folds have the same columns. A row depends on its own molecule and the fitted statistics only.

    Parameters
    ----------
    clip : float
        Bound of the standardised values: a molecule far outside what was fitted stays comparable.
    desalt : bool
        Encode a molecule of several fragments as its largest organic fragment alone.

    Attributes
    ----------
    names_ : list of str
        RDKit's names of the descriptors.
    median_, mean_, scale_ : ndarray of shape (p,), float64
        Of the columns that carry information; 0, 0 and 1 elsewhere.
    constant_ : ndarray of shape (p,), bool
        Columns that are zero.
    n_imputed_ : int
        Values, over distinct molecules, replaced by the median in the last `fit` or `transform`; those of
        constant columns do not count.
    n_molecules_, n_salts_ : int
        See `features.molecules.encoders.MoleculeEncoder`.

    Examples
    --------
    >>> training = ["CCO", "CCCO", "c1ccccc1O"]
    >>> encoder = DescriptorEncoder().fit(training)
    >>> values = dict(zip(encoder.get_feature_names_out(), encoder.transform(training).T, strict=True))
    >>> values["MolWt"].round(1)  # in standard deviations from the mean of the three
    array([-1. , -0.3,  1.4], dtype=float32)
    """

    def __init__(self, clip: float = 10.0, desalt: bool = False) -> None:
        self.clip = clip
        self.desalt = desalt

    def fit(self, smiles: Iterable[str], y: object = None) -> "DescriptorEncoder":
        """Learn medians, means and deviations (InputError: invalid SMILES, no molecule at all, or `clip`)."""
        if not 0 < self.clip < np.inf:
            raise InputError(f"clip={self.clip} must be positive and finite")
        distinct, _ = self._distinct(smiles)
        if not distinct:
            raise InputError("descriptors are standardised by training molecules, and there are none")
        self.names_, raw = raw_descriptors(distinct)
        values = _usable(raw, self.names_)
        with np.errstate(invalid="ignore"):
            low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        self.constant_ = ~(low < high)  # true of columns without any value, too
        self.median_, self.mean_ = np.zeros((2, len(self.names_)))
        self.median_[~self.constant_] = np.nanmedian(values[:, ~self.constant_], axis=0)
        filled = self._filled(values)[:, ~self.constant_]
        self.mean_[~self.constant_] = filled.mean(axis=0)
        self.scale_ = np.ones(len(self.names_))
        self.scale_[~self.constant_] = np.maximum(filled.std(axis=0), np.finfo(np.float64).tiny)
        return self

    def transform(self, smiles: Iterable[str]) -> Float32:
        """Return the standardised descriptors, of shape (n, p), float32.

        Raises
        ------
        InputError
            Invalid SMILES, or descriptors that were fitted with another version of RDKit than this one.
        """
        check_is_fitted(self)
        distinct, row = self._distinct(smiles)
        names, raw = raw_descriptors(distinct)
        _require_same(names, self.names_)
        z = (self._filled(_usable(raw, self.names_)) - self.mean_) / self.scale_
        z[:, self.constant_] = 0
        return np.asarray(np.clip(z, -self.clip, self.clip)[row], dtype=np.float32)

    def get_feature_names_out(self, input_features: object = None) -> Labels:
        """Return RDKit's names: "MaxAbsEStateIndex", ..., "MolWt", ... (NotFittedError before `fit`)."""
        check_is_fitted(self)
        return np.array(self.names_, dtype=object)

    def notes(self) -> list[str]:
        """As `MoleculeEncoder.notes`, with the values that could not be computed."""
        imputed = getattr(self, "n_imputed_", 0)
        sentence = f"{imputed} descriptor values could not be computed and were replaced by the median"
        return [*super().notes(), *([sentence] if imputed else [])]

    def state(self) -> State:
        """Return what was learnt, as plain data."""
        check_is_fitted(self)
        return {
            "clip": float(self.clip),
            "desalt": bool(self.desalt),
            "names": list(self.names_),
            "median": self.median_,
            "mean": self.mean_,
            "scale": self.scale_,
            "constant": self.constant_.astype(np.uint8),
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make what `state` described: it transforms as the original, to the last bit, with the same RDKit."""
        made = cls(reader.number("clip"), reader.flag("desalt"))
        made.names_ = reader.levels("names")
        shape = (len(made.names_),)
        made.median_, made.mean_ = (reader.array(name, np.float64, shape) for name in ("median", "mean"))
        made.scale_ = reader.array("scale", np.float64, shape)
        constant = reader.array("constant", np.uint8, shape)
        if not shape[0] or (constant > 1).any():
            raise reader.fault("constant is no yes or no for each of the names")
        if not (made.scale_ > 0).all() or made.clip <= 0:
            raise reader.fault("scale or clip is not positive")
        made.constant_ = constant.astype(np.bool_)
        return made

    def _filled(self, values: Float64) -> Float64:
        """Replace NaN by the median; counts."""
        lacking = np.isnan(values)
        self.n_imputed_ = int(lacking[:, ~self.constant_].sum())
        return np.where(lacking, self.median_, values)


def _usable(raw: Float64, names: list[str]) -> Float64:
    """Take logarithms where they are due; what is then not finite or beyond `LARGEST` becomes NaN."""
    values = raw.copy()
    logarithmic = [number for number, name in enumerate(names) if name in LOGARITHMIC]
    with np.errstate(invalid="ignore", divide="ignore"):
        values[:, logarithmic] = np.log1p(values[:, logarithmic])
        values[~(np.abs(values) <= LARGEST)] = np.nan
    return values


def _require_same(computed: list[str], fitted: list[str]) -> None:
    """Raise InputError where RDKit here has other descriptors than RDKit had when the encoder was fitted."""
    if computed == fitted:
        return
    import rdkit

    other = sorted({*computed} ^ {*fitted})
    raise InputError(
        f"RDKit {rdkit.__version__} computes {len(computed)} descriptors and the model was trained with "
        f"{len(fitted)} of another RDKit version ({f'{other[0]} differs' if other else 'in another order'}): "
        "install the version of RDKit that the model's manifest names"
    )


def _descriptor_list() -> list[tuple[str, Callable[[Any], float]]]:
    rdkit_chem()
    from rdkit.Chem import Descriptors

    return list(Descriptors.descList)


class _Known:
    """The descriptors of canonical SMILES that this process has had, and behind them the user's cache.

    Parameters
    ----------
    names : sequence of str
        Of the descriptors; with RDKit's version they are the cache's key.
    """

    def __init__(self, names: Sequence[str]) -> None:
        import rdkit

        folder = cache_folder("auto", "descriptors")
        key = json.dumps({"descriptors": names, "rdkit": rdkit.__version__}, sort_keys=True)
        self._cache = None if folder is None else MoleculeCache(folder, key, len(names), np.float64)
        self._width, self._rows, self._lock = len(names), dict[str, Float64](), threading.Lock()

    def rows(self, distinct: Sequence[str]) -> Float64:
        """Return the descriptors of n molecules, (n, p); those that nobody has had are computed."""
        with self._lock:  # so that threads which want the same molecules do not all compute them
            missing = [molecule for molecule in distinct if molecule not in self._rows]
            if self._cache is None:
                self._rows.update(zip(missing, _computed(missing), strict=True))
            elif missing:
                self._rows.update(
                    zip(missing, computed_through(self._cache, missing, _computed)[0], strict=True)
                )
            found = np.array([self._rows[molecule] for molecule in distinct]).reshape(-1, self._width)
            for molecule in list(self._rows)[:-REMEMBERED]:
                del self._rows[molecule]
        return found


_known = lru_cache(maxsize=1)(_Known)


def _computed(molecules: Sequence[str]) -> Float64:
    """Compute the descriptors of molecules, (n, p): RDKit's are in Python, so that only processes go side by side."""
    # A worker of a cluster may not start processes, and others have its processors in any case.
    if len(molecules) < SEVERAL_PROCESSES_FROM or current_process().daemon:
        return _values_of(molecules)
    from joblib import Parallel, delayed

    n = processor_count()
    parts = [molecules[k :: 4 * n] for k in range(4 * n)]  # large molecules are often neighbours
    values = np.empty((len(molecules), len(_descriptor_list())))
    for k, part in enumerate(Parallel(n)(delayed(_values_of)(part) for part in parts)):
        values[k :: 4 * n] = part
    return values


def _values_of(molecules: Sequence[str]) -> Float64:
    chem, blocked = rdkit_chem()
    functions = [function for _, function in _descriptor_list()]
    values = np.empty((len(molecules), len(functions)))
    with blocked(), np.errstate(all="ignore"):
        for number, canonical in enumerate(molecules):
            molecule = chem.MolFromSmiles(canonical)
            values[number] = [_value(function, molecule) for function in functions]
    return values


def _value(function: Callable[[Any], float], molecule: Any) -> float:
    """Return one descriptor, NaN where it fails (partial charges of metals, for one)."""
    try:
        return float(function(molecule))
    except Exception:  # RDKit's functions raise many kinds
        return float("nan")
