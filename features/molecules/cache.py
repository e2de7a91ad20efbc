"""Rows of numbers that are kept on disk, so that a molecule is embedded or described once: one file per key.

The key is the canonical JSON text of everything that determines a row besides the molecule: a model's files, the
options and the libraries' versions. A file holds the canonical SMILES, their rows and what its key was made from (a
.npz archive without pickle, whose parts carry checksums). Several processes may use one folder. A file is replaced
whole (`written_atomically`), so a reader sees the old or the new one; who adds holds a lock, reads what others have
added, and writes the union. What is damaged is reported and made anew; where nothing can be written, work goes on
without the cache, with one warning.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from features.molecules.smiles import one_line, require_package
from rapids_pipeline.backend.arrays import Floats
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import written_atomically

CACHE_VARIABLE = "RAPIDS_PERTURB_CACHE"
LOCK_TIMEOUT_S = 30.0
MOLECULES_PER_WRITE = 4096
"""Molecules computed between two writes: what an interrupt loses at most."""
MOST_MOLECULES = 200_000
"""Molecules of a file, which is read and written whole; further ones are not kept."""


def cache_folder(cache: str | os.PathLike[str] | None, kind: str = "embeddings") -> Path | None:
    """Return the folder that a `cache` option means, None for no cache.

    Parameters
    ----------
    cache : path, "auto" or None
        "auto": a folder in $RAPIDS_PERTURB_CACHE, else in $XDG_CACHE_HOME/rapids-perturb, else in
        ~/.cache/rapids-perturb; no cache, with a warning, for a user without a home.
    kind : str
        What that folder is called, and in warnings what it keeps.
    """
    if cache is None:
        return None
    if cache != "auto":
        if not os.fspath(cache):
            raise InputError('cache="": give a folder, "auto", or None for no cache')
        return Path(cache).expanduser()
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser() / kind
    if (standard := os.environ.get("XDG_CACHE_HOME")) and Path(standard).is_absolute():
        return Path(standard) / "rapids-perturb" / kind
    try:
        return Path.home() / ".cache" / "rapids-perturb" / kind
    except RuntimeError:
        warnings.warn(f"no home folder to keep {kind} in; set {CACHE_VARIABLE}", stacklevel=2)
        return None


class DamagedError(Exception):
    """A cache file is not as it was written."""


class MoleculeCache:
    """The rows of one key.

    Parameters
    ----------
    folder : Path
        Made when the first rows are added. Its name says in warnings what is kept.
    key : str
        What determines the rows besides the molecule.
    width : int
        Values per row.
    dtype : dtype
        Of the rows: float32, or float64, which may have NaN.

    Attributes
    ----------
    path : Path
        `folder`/SHA-256 of the key.npz
    """

    def __init__(self, folder: Path, key: str, width: int, dtype: DTypeLike = np.float32) -> None:
        self.key = key
        self.width = width
        self.dtype = np.dtype(dtype)
        self.path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
        self._usable = True

    def read(self) -> dict[str, Floats]:
        """Return what is kept: canonical SMILES to row; nothing, and a warning, from a damaged file."""
        try:
            return self._kept()
        except OSError as error:
            self._go_without(error)
        except DamagedError as error:
            warnings.warn(
                f"{self.path} is damaged, {self.path.parent.name} are computed anew ({error})", stacklevel=2
            )
        return {}

    def add(self, smiles: Sequence[str], rows: Floats) -> None:
        """Keep rows besides those that are kept already; where that cannot be, warn once."""
        if not self._usable:
            return
        locks = require_package("filelock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locks.FileLock(f"{self.path}.lock", timeout=LOCK_TIMEOUT_S):
                try:
                    kept = self._kept()
                except DamagedError:  # `read` has said so
                    kept = {}
                fresh = {name: row for name, row in zip(smiles, rows, strict=True) if name not in kept}
                added = dict(islice(fresh.items(), max(0, MOST_MOLECULES - len(kept))))
                if added:
                    self._write({**kept, **added})
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            self._go_without(error)

    def _kept(self) -> dict[str, Floats]:
        """Return what the file holds (OSError: it cannot be read; DamagedError: it is not as written)."""
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        try:
            return self._parsed(content)
        except Exception as error:  # damaged bytes make numpy and zipfile raise many kinds
            raise DamagedError(one_line(error)) from error

    def _write(self, contents: Mapping[str, Floats]) -> None:
        with written_atomically(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                key=_bytes(self.key),
                smiles=_bytes("\n".join(contents)),
                rows=np.array(list(contents.values()), dtype=self.dtype),
            )

    def _parsed(self, content: bytes) -> dict[str, Floats]:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            key, smiles = (bytes(archive[name]).decode() for name in ("key", "smiles"))
            rows = archive["rows"]
        names = smiles.split("\n")
        if key != self.key:
            raise ValueError("made from something else")
        if rows.dtype != self.dtype or rows.shape != (len(names), self.width):
            raise ValueError(f"{rows.dtype} of shape {rows.shape} for {len(names)} molecules")
        if self.dtype == np.float32 and not np.isfinite(rows).all():
            raise ValueError("values that are not finite")
        return dict(zip(names, rows, strict=True))

    def _go_without(self, error: Exception) -> None:
        if self._usable:
            warnings.warn(
                f"{self.path.parent.name} cannot be kept in {self.path.parent} ({one_line(error)}); going on without",
                stacklevel=3,
            )
        self._usable = False


def computed_through(
    cache: MoleculeCache, smiles: Sequence[str], compute: Callable[[Sequence[str]], Floats]
) -> tuple[Floats, int]:
    """Return the rows of n distinct molecules, (n, width), and how many of them the cache held.

    The others go through `compute`, `MOLECULES_PER_WRITE` at a time, and are added.
    """
    known = cache.read()
    missing = [molecule for molecule in smiles if molecule not in known]
    for start in range(0, len(missing), MOLECULES_PER_WRITE):
        part = missing[start : start + MOLECULES_PER_WRITE]
        fresh = compute(part)
        cache.add(part, fresh)
        known.update(zip(part, fresh, strict=True))
    rows = np.empty((len(smiles), cache.width), dtype=cache.dtype)
    for number, molecule in enumerate(smiles):
        rows[number] = known[molecule]
    return rows, len(smiles) - len(missing)


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
