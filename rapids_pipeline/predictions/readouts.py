"""Read-outs of predictions: which genes a pair is predicted to move, up and down, and by how much.

Predictions are read from a run folder, a Parquet file, or a folder of Parquet parts that `predict` wrote. Genes of a
pair are ranked by the size of their response, 1 is the largest; equal ones in the order of the genes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv, dataset

from features.rows import DOSE, TIME
from rapids_pipeline.backend.arrays import Float32, Indices, gigabytes, host_bytes
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.backend.files import PREDICTIONS, written
from rapids_pipeline.backend.frames import opened_parquet, readable_as, table_suffix
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.data.labels import nearest_label
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.predictions.applicability import METADATA
from rapids_pipeline.predictions.predict import PairPredictor
from rapids_pipeline.stack.members.composite import CompositeModel
from rapids_pipeline.stack.saved import SavedModel

SHARE = 0.8
"""Share of the memory at hand that predictions may take."""
ROWS_AT_ONCE = 1024
"""75 MB of 18,211 genes."""


@dataclass(frozen=True, eq=False)
class Responses:
    """Predicted responses of m pairs; t genes.

    Attributes
    ----------
    pairs : DataFrame, (m,)
        `id`, `cell_type`, `sm_name`, `SMILES`, dose and time where they have them, and the applicability.
    genes : tuple of str
        In the order of the columns of Y.
    Y : ndarray of float32, (m, t)
        In the unit of the training data.
    source : Path
        Where they are from, for messages.
    """

    pairs: pd.DataFrame
    genes: tuple[str, ...]
    Y: Float32
    source: Path

    def take(self, rows: Indices) -> "Responses":
        """Return some of the pairs, in the order asked for."""
        pairs = self.pairs.iloc[rows].reset_index(drop=True)
        return Responses(pairs, self.genes, self.Y[rows], self.source)

    def described(self, rows: Indices) -> pd.DataFrame:
        """Return what some of the pairs are: id, cell type and compound, and dose and time where there are any."""
        kept = [name for name in ("id", *PAIR, DOSE, TIME) if name in self.pairs.columns]
        return self.pairs[kept].iloc[rows].reset_index(drop=True)

    def told(self, rows: Indices, what: str, tables: Iterable[pd.DataFrame]) -> list[dict[str, Any]]:
        """Return for JSON what some of the pairs are, and under `what` the records of a table of each."""
        pairs = self.described(rows)
        named: list[dict[str, Any]] = [
            dict(zip(map(str, pairs), row, strict=True)) for row in pairs.to_numpy(object)
        ]
        return [pair | {what: table.to_dict("records")} for pair, table in zip(named, tables, strict=True)]

    @cached_property
    def names(self) -> list[str]:
        """What each pair is called: cell type and compound, and dose and time where there are any."""
        parts = [self.pairs[name].astype(str).tolist() for name in PAIR]
        for name, unit in ((DOSE, "µM"), (TIME, "h")):
            if name in self.pairs.columns:
                numbers = self.pairs[name].astype(float)
                parts.append(["" if np.isnan(value) else f"{value:g} {unit}" for value in numbers])
        return [", ".join(filter(None, row)) for row in zip(*parts, strict=True)]

    def chosen(self, asked: Sequence[str], *, all_pairs: bool) -> Indices:
        """Return the rows of the pairs that a person names; without any the strongest, or all. Errors as `rows_of`."""
        if asked:
            return np.concatenate([self.rows_of(one) for one in asked])
        return np.arange(len(self.Y)) if all_pairs else strongest(self, 1)

    def rows_of(self, asked: str) -> Indices:
        """Return the rows of a pair that a person names as "CELL TYPE,COMPOUND"; names may have commas themselves.

        Raises
        ------
        InputError
            There is none; the message has the nearest name.
        """
        cells, compounds = (self.pairs[name].astype(str).to_numpy() for name in PAIR)
        parts = asked.split(",")
        for place in range(1, len(parts)):
            cell, compound = (",".join(some).strip() for some in (parts[:place], parts[place:]))
            found = np.flatnonzero((cells == cell) & (compounds == compound))
            if len(found):
                return found
        raise InputError(f"--pair {quoted(asked)}: {self._why_not(parts, cells, compounds)}")

    def _why_not(self, parts: Sequence[str], cells: Any, compounds: Any) -> str:
        if len(parts) < 2:
            return 'give "CELL TYPE,COMPOUND", such as "NK cells,Vorinostat"'
        cell, compound = parts[0].strip(), ",".join(parts[1:]).strip()
        for column, name, known in (("cell type", cell, cells), ("compound", compound, compounds)):
            if name not in set(known):
                near = nearest_label(name, dict.fromkeys(known))
                hint = f"; {quoted(near)} is the nearest" if near else f", such as {quoted(str(known[0]))}"
                return f"{self.source} has no {column} {quoted(name)}{hint}"
        others = list(dict.fromkeys(cells[compounds == compound]))
        return f"{self.source} has {quoted(compound)} in {', '.join(map(str, others[:5]))}, not in {quoted(cell)}"


def read_responses_of(path: Path) -> Responses:
    """Read predictions: of a run folder, a Parquet file, or a folder of Parquet parts.

    Raises
    ------
    InputError
        There is none, it is no prediction, or it takes more memory than there is.
    """
    source, found = _opened(path)
    genes = [name for name in found.schema.names if name not in METADATA]
    with readable_as("Parquet", source):
        rows = found.count_rows()
    needed = 4 * rows * len(genes)
    if needed > SHARE * host_bytes():
        raise InputError(
            f"{source}: {rows} pairs × {len(genes)} genes take {gigabytes(needed)} of memory; give fewer pairs"
        )
    parts = list(responses_in(path))
    if not parts:
        raise InputError(f"{source}: has no rows")
    pairs = pd.concat([part.pairs for part in parts], ignore_index=True)
    return Responses(pairs, tuple(genes), np.concatenate([part.Y for part in parts]), source)


def pairs_in(path: Path) -> pd.DataFrame:
    """Return the pairs of the predictions that `read_responses_of` reads, without these; errors as there."""
    source, found = _opened(path)
    with readable_as("Parquet", source):
        table = found.to_table([name for name in found.schema.names if name in METADATA])
    pairs: pd.DataFrame = table.to_pandas()
    return pairs


def responses_in(path: Path) -> Iterator[Responses]:
    """Yield the predictions that `read_responses_of` reads, some rows at a time; errors as there."""
    source, found = _opened(path)
    metadata = [name for name in found.schema.names if name in METADATA]
    genes = [name for name in found.schema.names if name not in METADATA]
    for (
        name
    ) in found.files:  # file by file: a scan of all of them reads ahead, gigabytes of thousands of genes
        part = Path(name)
        with readable_as("Parquet", part):
            file = opened_parquet(part)
            if set(file.schema_arrow.names) != set(found.schema.names):
                raise InputError(
                    f"{part}: has other columns than {found.files[0]}; give parts of one prediction"
                )
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                by_gene = np.empty((len(genes), len(batch)), dtype=np.float32)
                for row, gene in zip(by_gene, genes, strict=True):
                    column = batch.column(gene)
                    if not pa.types.is_floating(column.type):
                        raise InputError(f"{source}: column {quoted(gene)} has no numbers for a gene")
                    row[:] = column.to_numpy(zero_copy_only=False)
                pairs = batch.select(metadata).to_pandas()
                yield Responses(pairs, tuple(genes), np.ascontiguousarray(by_gene.T), source)


def _opened(path: Path) -> tuple[Path, Any]:
    """Return where the predictions of a place are, and the open Parquet data."""
    inside = path / PREDICTIONS
    source = inside if inside.is_file() else path
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    if path.is_dir() and source is path and not any(path.glob("*.parquet")):
        raise InputError(
            f"{path}: has neither {PREDICTIONS} nor Parquet parts; give a run folder, or what `predict` wrote"
        )
    with readable_as("Parquet", source):
        found = dataset.dataset(source, format="parquet")
    lacking = [name for name in PAIR if name not in found.schema.names]
    if lacking:
        raise InputError(f"{source}: missing column {lacking[0]}; give a run folder, or what `predict` wrote")
    return source, found


def gene_table(found: Responses, row: int, top: int | None = None) -> pd.DataFrame:
    """Return the genes of a pair, the largest response first: `gene`, `value`, `rank`; of all or the `top` ones.

    Examples
    --------
    >>> pairs = pd.DataFrame({"cell_type": ["NK cells"], "sm_name": ["Vorinostat"]})
    >>> found = Responses(pairs, ("A1BG", "MYC", "TP53"), np.array([[0.5, -2.0, 1.0]]), Path("mine"))
    >>> gene_table(found, 0, top=2)
       gene  value  rank
    0   MYC   -2.0     1
    1  TP53    1.0     2
    """
    values = found.Y[row]
    order = np.argsort(-np.abs(values), kind="stable")[:top]
    genes = np.array(found.genes, object)[order]
    return pd.DataFrame({"gene": genes, "value": values[order], "rank": np.arange(1, len(order) + 1)})


def long_tables(found: Responses, rows: Indices, top: int | None = None) -> Iterator[pd.DataFrame]:
    """Yield a table of every pair: what it is, `gene`, `value` and `rank`, the largest response first."""
    pairs = found.described(rows)
    for place, row in enumerate(rows):
        genes = gene_table(found, int(row), top)
        for column, name in enumerate(pairs.columns):
            genes.insert(column, name, pairs[name].iloc[place])
        yield genes


def measured_responses(path: Path) -> Responses:
    """Return the measured responses of a training file; errors as `read_responses`, or a gene was not tested."""
    found = read_responses(path, untested=False)
    lacking = [name for name in PAIR if name not in found.obs.columns]
    if lacking:
        raise InputError(f"{path}: missing column {lacking[0]}")
    return Responses(found.obs, found.genes, found.Y, path)


def of_cell_type(parts: Iterable[Responses], cell_type: str | None, source: Path) -> Iterator[Responses]:
    """Yield the rows of a cell type, all rows without one; InputError where there are none."""
    seen: dict[str, None] = {}
    kept = 0
    for part in parts:
        cells = part.pairs["cell_type"].astype(str).to_numpy()
        seen |= dict.fromkeys(cells)
        rows = np.arange(len(cells)) if cell_type is None else np.flatnonzero(cells == cell_type)
        kept += len(rows)
        if len(rows):
            yield part.take(rows)
    if not kept:
        near = nearest_label(str(cell_type), seen)
        listed = f"{quoted(near)} is the nearest" if near else f"there are {', '.join(list(seen)[:8])}"
        raise InputError(f"--cell-type {quoted(cell_type)}: {source} has none of it; {listed}")


def write_table(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables of the same columns as one CSV; its suffix is .csv or .csv.gz, and it is whole or not there.

    Raises
    ------
    InputError
        Another suffix, or a place where no file can be written.
    """
    if table_suffix(path) not in (".csv", ".csv.gz"):
        raise InputError(f"--out {path}: name it .csv or .csv.gz")
    compression = "gzip" if table_suffix(path) == ".csv.gz" else None
    with written(path) as place, pa.output_stream(str(place), compression=compression) as sink:
        writer = None
        for one in tables:
            table = pa.Table.from_pandas(one, preserve_index=False)
            writer = writer or csv.CSVWriter(sink, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def strongest(found: Responses, count: int) -> Indices:
    """Return the rows of the largest predicted responses (root mean square over genes), the largest first."""
    strength = np.sqrt(np.einsum("ij,ij->i", found.Y, found.Y, dtype=np.float64))
    return np.argsort(-strength, kind="stable")[:count].astype(np.intp)


def strongest_of(parts: Iterable[Responses], count: int) -> tuple[Responses, pd.DataFrame]:
    """Return the pairs of the largest responses among predictions that come some rows at a time, and all pairs.

    Memory: `count` responses, those of a part, and what all pairs are.
    """
    pairs, kept = list[pd.DataFrame](), list[Responses]()
    for part in parts:
        pairs.append(part.pairs)
        some = [*kept, part.take(strongest(part, count))]
        both = Responses(
            pd.concat([one.pairs for one in some], ignore_index=True),
            part.genes,
            np.concatenate([one.Y for one in some]),
            part.source,
        )
        kept = [both.take(strongest(both, count))]
    if not kept:
        raise InputError("there are no predicted pairs")
    return kept[0], pd.concat(pairs, ignore_index=True)


def has_kernels(model: SavedModel) -> bool:
    """Say whether a model has composite kernels, so that `drivers` can tell the training rows behind a prediction."""
    return any(isinstance(one, CompositeModel) for one in model.stack.models.values())


def drivers(work: PairPredictor, row: int, gene: str | None = None, top: int | None = None) -> pd.DataFrame:
    """Return the training rows that drive the prediction of a pair by the composite kernels, the largest first.

    Parameters
    ----------
    work : PairPredictor
    row : int
        Place of the pair in its batch.
    gene : str, optional
        Whose response; by default that of all genes together.
    top : int, optional
        How many rows; all by default.

    Returns
    -------
    DataFrame
        `cell_type`, `sm_name` (dose and time where rows differ in them), `contribution`, and `share` of the whole:
        with those of all rows and of what no row contributes, shares sum to 1 (`CompositeModel.drivers`).
        `attrs["rest"]` is what no row contributes, `attrs["whole"]` the sum.

    Raises
    ------
    InputError
        The recipe has no composite kernels, or there is no such gene.
    """
    models = [model for model in work.model.stack.models.values() if isinstance(model, CompositeModel)]
    if not models:
        raise InputError(
            f"the recipe {work.model.config.recipe.name} has no composite kernels, whose training rows could be told"
        )
    if gene is not None and gene not in work.model.genes:
        near = nearest_label(gene, work.model.genes)
        hint = f"; {quoted(near)} is the nearest" if near else ""
        raise InputError(f"the model has no gene {quoted(gene)}{hint}")
    place = None if gene is None else work.model.genes.index(gene)
    rows, contributions, rest = models[0].drivers(work.rows(np.array([row])), place)
    whole = float(contributions.sum()) + rest
    order = np.argsort(-np.abs(contributions), kind="stable")[:top]
    kept = [name for name in (*PAIR, DOSE, TIME) if name in work.model.obs.columns]
    found = work.model.obs[kept].iloc[rows[order]].reset_index(drop=True)
    found["contribution"] = contributions[order]
    found["share"] = contributions[order] / whole if whole else np.nan
    found.attrs |= {"rest": rest, "whole": whole}
    return found
