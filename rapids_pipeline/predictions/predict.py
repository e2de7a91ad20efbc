"""The whole of `predict`: a saved model and a file of pairs in, predictions and their applicability out.

OUT.csv, OUT.csv.gz   the Kaggle format; beside it OUT.applicability.csv. All predictions are held in memory.
OUT, OUT.parquet      a folder of Parquet parts (`rapids_pipeline.predictions.parts`), in memory that does not
                      depend on the number of pairs; the applicability is in their first columns.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import sha256_of, written_atomically
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.backend.memory import gigabytes, host_bytes
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.backend.run_folder import describe_input
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.pairs import PairBatch, read_batch
from rapids_pipeline.predictions.applicability import applicability
from rapids_pipeline.predictions.blocks import BlockPredictor, rows_a_block
from rapids_pipeline.predictions.kaggle import require_csv, write_kaggle_csv
from rapids_pipeline.predictions.parts import PartFolder
from rapids_pipeline.stack.saved import SavedModel, load_model

FOLDER_SUFFIXES = ("", ".parquet")
CSV_SHARE = 0.8
"""Share of the free memory that predictions may take that are written as CSV."""


@dataclass(frozen=True)
class Predicted:
    """What was predicted: numbers of pairs and genes, what a reader should know, and what was written besides OUT."""

    n_pairs: int
    n_genes: int
    notes: list[str]
    beside: Path


@dataclass(frozen=True, eq=False)
class Work:
    """A model with the pairs that it predicts: their metadata columns as they are written, and notes."""

    model: SavedModel
    batch: PairBatch
    metadata: pd.DataFrame
    predictor: BlockPredictor
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
        A run's `DIR/model`.
    pairs_file : Path
        See `rapids_pipeline.data.pairs`.
    out : Path
        Ends in .csv or .csv.gz, and is replaced, or is a folder: a name without a suffix, or in .parquet. Written
        whole or not at all.
    block_rows : int, optional
        Rows predicted at once, and in a Parquet part; by default as many as take 256 MB.
    overwrite : bool
        Replace a folder that holds another prediction.
    stages : Stages, optional

    Raises
    ------
    InputError, UnavailableError
        As `read_batch`, `load_model`, `SavedModel.rows`, `write_kaggle_csv` and `PartFolder`; or too little memory
        for a CSV.
    KeyboardInterrupt
        With a sentence that says which parts are kept, where there are any.
    """
    stages = stages or Stages()
    as_folder = _is_folder(out)
    if not as_folder:
        require_csv(out)
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


def _read(folder: Path, pairs_file: Path) -> Work:
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
    return Work(model, batch, metadata, BlockPredictor(model, batch), notes)


def _require_memory(out: Path, work: Work) -> None:
    needed = 4 * len(work.metadata) * len(work.model.genes)
    if needed > CSV_SHARE * host_bytes():
        raise InputError(
            f"{out}: {len(work.metadata)} pairs × {len(work.model.genes)} genes take {gigabytes(needed)} of memory as "
            "a CSV; give --out a name without a suffix for a folder of Parquet parts"
        )


def _to_csv(work: Work, out: Path, rows: int, stages: Stages) -> Path:
    n = len(work.metadata)
    with stages.stage("predict") as progress:
        predicted = np.empty((n, len(work.model.genes)), np.float32)
        starts = range(0, n, rows)
        progress.start(len(starts))
        for start in starts:
            block = slice(start, min(start + rows, n))
            predicted[block] = work.predictor.predict(block)
            progress.advance()
    beside = out.with_name(f"{out.name[: -len(table_suffix(out))]}.applicability.csv")
    with stages.stage("write"):
        try:
            with written_atomically(beside) as path:
                work.metadata.to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
                write_kaggle_csv(out, list(work.metadata["id"]), work.model.genes, predicted)
        except OSError as error:
            raise InputError(f"{beside}: cannot be written ({error.strerror or error})") from error
    return beside


def _to_parts(work: Work, parts: PartFolder, stages: Stages) -> None:
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
    work: Work, identity: dict[str, Any], pairs_file: Path, folder: Path, stages: Stages
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
