"""A folder of Parquet files that appears whole or not at all, and goes on where it was interrupted.

    OUT/part-00000.parquet …      metadata columns, then genes as float32; one row group a file
    OUT.manifest.json             beside the folder, which holds parts alone so that every reader takes it as it is

Until all parts are there they are kept in `.OUT.unfinished-KEY`. KEY is a hash of all that determines the numbers
(model, pairs, rows a part, versions of packages); the same command finds them and goes on, another never takes them.

Genes are written plain: predictions do not compress (zstd 7 %, with byte-stream split 17 %), and 18,211 columns' worth
of dictionaries and statistics would only slow readers down. Metadata columns have both.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from rapids_pipeline.backend.arrays import Float32, gigabytes
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import UNFINISHED, move, require_writable, write_json, written_atomically
from rapids_pipeline.backend.frames import table_suffix

KEY_NAME = "rapids_perturb_prediction"
PATTERN = "part-*.parquet"
BYTES_A_PART, BYTES_A_ROW = 4_000_000, 400
"""Of footer and metadata columns, besides 4 bytes a prediction."""


class PartFolder:
    """The parts of a prediction of n rows, `rows_a_part` in each but the last.

    Parameters
    ----------
    out : Path
        The folder; it need not exist.
    identity : dict
        What determines the numbers; plain data.
    n_rows, rows_a_part, n_genes : int
    overwrite : bool
        Replace the parts of another prediction.

    Attributes
    ----------
    parts : list of slice
        The rows of each part.

    Raises
    ------
    InputError
        The folder holds anything else, cannot be made, or there is too little room for what is still missing.
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, Any],
        n_rows: int,
        rows_a_part: int,
        n_genes: int,
        *,
        overwrite: bool = False,
    ) -> None:
        self.out = out.absolute()
        self.key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.parts = [
            slice(start, min(start + rows_a_part, n_rows)) for start in range(0, n_rows, rows_a_part)
        ]
        self.unfinished = self.out.parent / f".{self.out.name}.unfinished-{self.key[:16]}"
        require_writable(out)
        self.complete = all(self._whole(self.out, number) for number in range(len(self.parts)))
        if not self.complete:
            self._require_free(overwrite)
            self._require_room(n_genes)

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are still to be made."""
        if self.complete:
            return []
        return [number for number in range(len(self.parts)) if not self._whole(self.unfinished, number)]

    def write(self, number: int, metadata: pd.DataFrame, genes: Sequence[str], predicted: Float32) -> None:
        """Write a part: metadata columns (m rows), then predictions (m, n_genes).

        Raises
        ------
        InputError
            The disk is full or cannot be written to, or a prediction is not finite.
        """
        if not np.isfinite(predicted).all():
            row, gene = np.argwhere(~np.isfinite(predicted))[0]
            raise InputError(
                f"the model predicts {predicted[row, gene]} for id {metadata['id'].iloc[row]}, gene {genes[gene]}"
            )
        by_gene = np.ascontiguousarray(predicted.T)
        columns = [pa.array(metadata[name]) for name in metadata.columns] + [pa.array(row) for row in by_gene]
        table = pa.table(columns, names=[*metadata.columns, *genes])
        try:
            with written_atomically(self.unfinished / _name(number)) as path:
                self._write(table, path, list(metadata.columns))
        except OSError as error:
            raise InputError(
                f"{self.out}: cannot be written ({error.strerror or error}); {self.kept()}"
            ) from error

    def publish(self, manifest: dict[str, Any]) -> Path:
        """Move the folder to its place and write the manifest beside it; return the manifest's path.

        Raises
        ------
        InputError
            The folder cannot be moved.
        """
        try:
            if not self.complete:
                prefix = f"{UNFINISHED}{self.out.stem}-"
                with tempfile.TemporaryDirectory(self.out.suffix, prefix, self.out.parent) as aside:
                    move(self.unfinished, self.out, Path(aside, self.out.name))
                self.complete = True
            made = [(self.out / _name(number), part) for number, part in enumerate(self.parts)]
            files = [
                {"name": path.name, "rows": part.stop - part.start, "bytes": path.stat().st_size}
                for path, part in made
            ]
            place = manifest_beside(self.out)
            with written_atomically(place) as path:
                write_json(path, manifest | {"parts": files})
        except OSError as error:
            raise InputError(f"{self.out}: cannot be written ({error.strerror or error})") from error
        return place

    def kept(self) -> str:
        """Say what an interrupted prediction leaves."""
        done = len(self.parts) - len(self.missing())
        if not done:
            return "no part was finished"
        return f"{done} of {len(self.parts)} parts are kept in {self.unfinished}; the same command continues"

    def others(self) -> list[Path]:
        """Return the folders of unfinished parts of other predictions at the same place."""
        return sorted(
            found
            for found in self.out.parent.glob(f".{self.out.name}.unfinished-*")
            if found != self.unfinished
        )

    def discard_halves(self) -> None:
        """Remove what an interrupted process left of a part, and the folder of unfinished parts where it is empty."""
        for half in self.unfinished.glob(f"{UNFINISHED}part-*"):
            half.unlink(missing_ok=True)
        if self.unfinished.is_dir() and not any(self.unfinished.iterdir()):
            self.unfinished.rmdir()

    def _write(self, table: pa.Table, path: Path, metadata: list[str]) -> None:
        how: dict[str, Any] = {"compression": "none", "store_schema": False}
        with parquet.ParquetWriter(
            path, table.schema, use_dictionary=metadata, write_statistics=metadata, **how
        ) as writer:
            writer.write_table(table, row_group_size=len(table))
            writer.add_key_value_metadata({KEY_NAME: self.key})
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())

    def _whole(self, folder: Path, number: int) -> bool:
        """Say whether a folder holds a part of this prediction."""
        try:
            found = parquet.read_metadata(folder / _name(number))
        except (OSError, pa.ArrowInvalid):
            return False
        part = self.parts[number]
        made_by = (found.metadata or {}).get(KEY_NAME.encode())
        return bool(made_by == self.key.encode()) and found.num_rows == part.stop - part.start

    def _require_free(self, overwrite: bool) -> None:
        if not self.out.exists() or not any(self.out.iterdir()):
            return
        strange = [path.name for path in sorted(self.out.iterdir()) if not path.match(PATTERN)]
        if strange:
            raise InputError(
                f"--out {self.out}: holds {strange[0]}, which is no part of a prediction; choose another folder"
            )
        if not overwrite:
            raise InputError(
                f"--out {self.out}: holds another prediction; choose another folder or add --overwrite"
            )

    def _require_room(self, n_genes: int) -> None:
        rows = sum(self.parts[number].stop - self.parts[number].start for number in self.missing())
        needed = rows * (4 * n_genes + BYTES_A_ROW) + len(self.missing()) * BYTES_A_PART
        place = next(parent for parent in self.out.parents if parent.exists())
        free = shutil.disk_usage(place).free
        if needed > free:
            raise InputError(
                f"--out {self.out}: {rows} rows × {n_genes} genes need {gigabytes(needed)}, and {place} has "
                f"{gigabytes(free)} free; choose another disk or fewer pairs"
            )


def named_beside(out: Path, what: str, suffix: str = ".csv") -> Path:
    """Return a file that goes with predictions, a folder of parts or a CSV."""
    return out.with_name(f"{out.name[: len(out.name) - len(table_suffix(out))]}.{what}{suffix}")


def manifest_beside(out: Path) -> Path:
    """Return the manifest of a folder of parts."""
    return named_beside(out, "manifest", ".json")


def others_beside(out: Path, *, as_csv: bool) -> list[Path]:
    """Return what goes with some predictions in `out` only: pages, and beside a CSV what was never tested."""
    tables = [named_beside(out, "untested")] if as_csv else []
    return [*tables, *(named_beside(out, what, ".html") for what in ("report", "doses"))]


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"
