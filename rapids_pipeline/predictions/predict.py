"""Predictions of pairs by a saved model: a file of pairs in, predictions and their applicability out.

    OUT.csv, OUT.csv.gz   the Kaggle format; beside it OUT.applicability.csv. All predictions are held in memory.
    OUT, OUT.parquet      a folder of Parquet parts (`rapids_pipeline.predictions.parts`), in memory that does not
                          depend on the number of pairs; the applicability is in their first columns.

Pairs are predicted in blocks of rows. A prediction does not depend on the rows beside it, so blocks of any size give
the same numbers to rounding. One block takes about 4 bytes × rows × genes for each member of the first level and twice
more, besides the model itself.
"""

import csv
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Indices, Labels, gigabytes, host_bytes
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import (
    describe_input,
    model_folder,
    refuse_existing,
    sha256_of,
    written_atomically,
)
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.data.pairs import PairBatch, read_batch
from rapids_pipeline.predictions.applicability import applicability
from rapids_pipeline.predictions.formats import require_csv, write_kaggle_csv
from rapids_pipeline.predictions.parts import PartFolder
from rapids_pipeline.stack.saved import SavedModel, load_model

FOLDER_SUFFIXES = ("", ".parquet")
CSV_SHARE = 0.8
"""Share of the free memory that predictions may take that are written as CSV."""


BLOCK_BYTES = 2**28
"""Bytes of a block by default: predictions, and `VALUES_A_ROW` for features."""
VALUES_A_ROW = 8192
"""float32 values that features and kernel of a row take, about."""
MOLECULES_AT_ONCE = 4096
"""Molecules featurised at once."""
FEATURE_BYTES = 2**27
"""Features of molecules that are kept: of 32,768 molecules with Morgan fingerprints of 1,024 bits."""


@dataclass(frozen=True)
class Predicted:
    """What was predicted: numbers of pairs and genes, what a reader should know, and what was written besides OUT."""

    n_pairs: int
    n_genes: int
    notes: list[str]
    beside: Path


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model with the pairs that it predicts: their metadata columns as they are written, and notes."""

    model: SavedModel
    batch: PairBatch
    metadata: pd.DataFrame
    predictor: "BlockPredictor"
    notes: Sequence[str]


def predict_file(
    folder: Path,
    pairs_file: Path,
    out: Path,
    *,
    block_rows: int | None = None,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> Predicted:
    """Predict the pairs of a file by the model of a folder.

    Parameters
    ----------
    folder : Path
        A run's `DIR/model`, or `DIR`.
    pairs_file : Path
        See `rapids_pipeline.data.pairs`.
    out : Path
        Ends in .csv or .csv.gz, or is a folder: a name without a suffix, or in .parquet. Written whole or not at all.
    block_rows : int, optional
        Rows predicted at once, and in a Parquet part; by default as many as take 256 MB.
    overwrite : bool
        Replace files that exist, or a folder that holds another prediction.
    stages : Stages, optional

    Raises
    ------
    InputError, UnavailableError
        As `read_batch`, `load_model`, `SavedModel.rows`, `write_kaggle_csv` and `PartFolder`; or too little memory
        for a CSV.
    KeyboardInterrupt
        With a sentence that says which parts are kept, where there are any.
    """
    stages, folder, as_folder = stages or Stages(), model_folder(folder), _is_folder(out)
    if not as_folder:
        require_csv(out)
        for path in (out, _beside(out)):
            refuse_existing(path, overwrite)
    with stages.stage("read"):
        work = _read(folder, pairs_file)
        rows = rows_a_block(len(work.model.genes), block_rows)
        if not as_folder:
            _require_memory(out, work)
            parts = None
        else:
            identity = _identity(folder, pairs_file, rows)
            shape = len(work.metadata), rows, len(work.model.genes)
            parts = PartFolder(out, identity, *shape, overwrite=overwrite)
        if parts is None or parts.missing():
            work.predictor.molecules.of(work.batch.molecule[:1])  # are the weights here?
    if parts is None:
        beside = _to_csv(work, out, rows, stages)
    else:
        _to_parts(work, parts, stages)
        beside = parts.publish(_manifest(work, identity, pairs_file, folder, stages))
    notes = [*work.notes, *work.predictor.molecules.notes(), *_left_over(parts)]
    return Predicted(len(work.metadata), len(work.model.genes), notes, beside)


def _is_folder(out: Path) -> bool:
    suffix = table_suffix(out)
    if out.is_dir() or suffix in FOLDER_SUFFIXES:
        return True
    if suffix not in (".csv", ".csv.gz"):
        raise InputError(
            f"{out}: a Kaggle submission is a CSV; name it .csv or .csv.gz, or for a folder of Parquet parts give "
            "a name without a suffix, or in .parquet"
        )
    return False


def _read(folder: Path, pairs_file: Path) -> Prepared:
    model = load_model(folder)
    batch = read_batch(pairs_file, model.obs)
    found = applicability(batch, model.obs)
    metadata = pd.concat([batch.table, found.table], axis=1)
    taken = sorted(set(metadata.columns) & set(model.genes))
    if taken:
        raise InputError(
            f"{folder}: a gene is called {taken[0]}, as a column of the predictions' metadata is"
        )
    notes = [*batch.notes, *found.notes]
    return Prepared(model, batch, metadata, BlockPredictor(model, batch), notes)


def _require_memory(out: Path, work: Prepared) -> None:
    needed = 4 * len(work.metadata) * len(work.model.genes)
    if needed > CSV_SHARE * host_bytes():
        raise InputError(
            f"{out}: {len(work.metadata)} pairs × {len(work.model.genes)} genes take {gigabytes(needed)} of memory as "
            "a CSV; give --out a name without a suffix for a folder of Parquet parts"
        )


def _to_csv(work: Prepared, out: Path, rows: int, stages: Stages) -> Path:
    n = len(work.metadata)
    with stages.stage("predict") as progress:
        predicted = np.empty((n, len(work.model.genes)), np.float32)
        starts = range(0, n, rows)
        progress.start(len(starts))
        for start in starts:
            block = slice(start, min(start + rows, n))
            predicted[block] = work.predictor.predict(block)
            progress.advance()
    beside = _beside(out)
    with stages.stage("write"):
        try:
            with written_atomically(beside) as path:
                work.metadata.to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
                write_kaggle_csv(out, list(work.metadata["id"]), work.model.genes, predicted)
        except OSError as error:
            raise InputError(f"{beside}: cannot be written ({error.strerror or error})") from error
    return beside


def _beside(out: Path) -> Path:
    """Return the file of the applicability of predictions that are written as CSV."""
    return out.with_name(f"{out.name[: -len(table_suffix(out))]}.applicability.csv")


def _to_parts(work: Prepared, parts: PartFolder, stages: Stages) -> None:
    with stages.stage("predict") as progress:
        progress.start(len(parts.parts))
        parts.discard_halves()
        missing = parts.missing()
        progress.advance(len(parts.parts) - len(missing))
        try:
            for number in missing:
                block = parts.parts[number]
                predicted = work.predictor.predict(block)
                parts.write(number, work.metadata.iloc[block], work.model.genes, predicted)
                del predicted  # before the next block is predicted
                progress.advance()
        except KeyboardInterrupt:
            parts.discard_halves()
            raise KeyboardInterrupt(parts.kept()) from None


def _identity(folder: Path, pairs_file: Path, rows: int) -> dict[str, Any]:
    """Return what determines the numbers and their parts; the model's manifest has the hashes of its files."""
    return {
        "model": sha256_of(folder / "manifest.json"),
        "pairs": sha256_of(pairs_file),
        "rows_a_part": rows,
        "versions": installed_versions(),
    }


def _manifest(
    work: Prepared, identity: dict[str, Any], pairs_file: Path, folder: Path, stages: Stages
) -> dict[str, Any]:
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"path": str(folder.absolute()), "manifest_sha256": identity["model"]},
        "pairs": describe_input(pairs_file),
        "n_pairs": len(work.metadata),
        "n_molecules": len(work.batch.molecules),
        "n_genes": len(work.model.genes),
        "metadata_columns": list(work.metadata.columns),
        "rows_a_part": identity["rows_a_part"],
        "notes": [*work.notes, *work.predictor.molecules.notes()],
        "seconds": dict(stages.seconds),
        "versions": identity["versions"],
    }


def _left_over(parts: PartFolder | None) -> list[str]:
    return [
        f"unfinished parts of another prediction are in {found}; delete it if that is not to be continued"
        for found in (parts.others() if parts else [])
    ]


# --- Blocks of rows ---------------------------------------------------------------------------------------------


def rows_a_block(n_genes: int, asked: int | None = None) -> int:
    """Return `asked`, or how many rows of `n_genes` predictions take `BLOCK_BYTES`; InputError below 1."""
    if asked is not None and asked < 1:
        raise InputError(f"--block-rows {asked}: must be at least 1")
    return asked or max(1, BLOCK_BYTES // (4 * (n_genes + VALUES_A_ROW)))


class MoleculeFeatures:
    """Features of the molecules of a batch, by encoder; each molecule is featurised once.

    Molecules are featurised in the order of their first occurrence, `MOLECULES_AT_ONCE` at a time. What was used
    longest ago is forgotten beyond `FEATURE_BYTES`, and made anew should it be asked for again.
    """

    def __init__(self, model: SavedModel, batch: PairBatch) -> None:
        self._model, self._spelled = model, batch.spelled
        self._notes: dict[int, list[str]] = {}
        self._kept: OrderedDict[int, dict[str, Float32]] = OrderedDict()

    def of(self, molecule: Indices) -> dict[str, Float32]:
        """Return the features of molecules by their place in the batch, (n, p) float32 for each encoder.

        Raises
        ------
        UnavailableError
            A molecule is new to the model, and the weights that would read it are not here.
        """
        found: dict[str, Float32] = {}
        chunks = molecule // MOLECULES_AT_ONCE
        for chunk in np.unique(chunks):
            rows = np.flatnonzero(chunks == chunk)
            for name, values in self._chunk(int(chunk)).items():
                if name not in found:
                    found[name] = np.empty((len(molecule), values.shape[1]), np.float32)
                found[name][rows] = values[molecule[rows] % MOLECULES_AT_ONCE]
        return found

    def notes(self) -> list[str]:
        """Return what the encoders have said of the molecules so far."""
        return added([note for notes in self._notes.values() for note in notes])

    def _chunk(self, chunk: int) -> dict[str, Float32]:
        if chunk not in self._kept:
            start = chunk * MOLECULES_AT_ONCE
            spelled = self._spelled[start : start + MOLECULES_AT_ONCE]
            rows, notes = self._model.rows(pd.DataFrame({"SMILES": spelled}))
            self._notes[chunk] = notes
            self._kept[chunk] = dict(rows.molecules)
            while len(self._kept) > 1 and self._bytes() > FEATURE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(chunk)
        return self._kept[chunk]

    def _bytes(self) -> int:
        return sum(values.nbytes for kept in self._kept.values() for values in kept.values())


class BlockPredictor:
    """Predicts any rows of a batch by a model.

    Rows that the model cannot tell apart are predicted once: cell types without a training row are all alike to it,
    and so are compounds without one that are the same molecule.
    """

    def __init__(self, model: SavedModel, batch: PairBatch) -> None:
        self.molecules = MoleculeFeatures(model, batch)
        self._model, self._batch = model, batch
        cell = _places(batch.table["cell_type"].to_numpy(object), model.obs["cell_type"])
        name = _places(batch.known_as, model.obs["sm_name"])
        self._alike = ((cell + 1) * (name.max(initial=0) + 2) + name + 1) * len(batch.molecules)
        self._alike += batch.molecule

    def predict(self, rows: slice) -> Float32:
        """Return the predictions of a block, (m, t) float32.

        Raises
        ------
        UnavailableError
            As `MoleculeFeatures.of`.
        """
        _, first, inverse = np.unique(self._alike[rows], return_index=True, return_inverse=True)
        if len(first) == len(inverse):
            return self._distinct(np.arange(rows.start, rows.start + len(first)))
        return self._distinct(rows.start + first)[inverse]

    def _distinct(self, which: Indices) -> Float32:
        some = self._batch.table[["cell_type", "SMILES"]].iloc[which]
        obs = some.assign(sm_name=self._batch.known_as[which]).reset_index(drop=True)
        return self._model.stack.predict(Rows(obs, self.molecules.of(self._batch.molecule[which])))


def added(notes: Iterable[str]) -> list[str]:
    """Return sentences of counts with those made one that differ only in their numbers, which are added."""
    counts: dict[str, list[int]] = {}
    for note in notes:
        found = [int(number) for number in re.findall(r"\d+", note)]
        words = re.sub(r"\d+", "{}", note.replace("{", "{{").replace("}", "}}"))
        counts[words] = [a + b for a, b in zip(counts.get(words, [0] * len(found)), found, strict=True)]
    return [words.format(*found) for words, found in counts.items()]


def _places(values: Labels, training: "pd.Series[str]") -> Indices:
    """Return the place of each value among the distinct training values, −1 where it is none of them."""
    return pd.Index(pd.unique(training.astype(object))).get_indexer(pd.Index(values, dtype=object))
