"""Predictions of pairs by a saved model: a file of pairs in, predictions and their applicability out.

    OUT.csv, OUT.csv.gz   the Kaggle format; beside it OUT.applicability.csv. All predictions are held in memory.
    OUT, OUT.parquet      a folder of Parquet parts (`rapids_pipeline.predictions.parts`), in memory that does not
                          depend on the number of pairs; the applicability is in their first columns.

Pairs are predicted in blocks of rows. A prediction does not depend on the rows beside it, so blocks of any size give
the same numbers to rounding. One block takes about 4 bytes × rows × genes for each member of the first level and twice
more, besides the model itself.

What the applicability says: `rapids_pipeline.predictions.applicability`. Responses of chosen genes to doses are for a
page, OUT.doses.html: `rapids_pipeline.predictions.dose_response`. OUT.report.html is the page of the predictions.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.molecules import NONE
from features.rows import Rows, places
from rapids_pipeline.backend.arrays import Float32, Indices, gigabytes, host_bytes
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import describe_input, model_folder, refuse_existing, sha256_of, written
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.backend.limits import require_file
from rapids_pipeline.backend.locks import Journal
from rapids_pipeline.backend.parallel import THREADS, Executor, Shared, Unit
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.backend.store import Kept
from rapids_pipeline.data.columns import AS_OURS, TableOptions
from rapids_pipeline.data.labels import refuse_near
from rapids_pipeline.data.pairs import PairBatch, context_columns, fanned_out, name_of, read_batch
from rapids_pipeline.data.untested import never_tested_notes
from rapids_pipeline.predictions.applicability import applicability, refuse_taken_names
from rapids_pipeline.predictions.dose_response import Curves, curves_of
from rapids_pipeline.predictions.formats import CSV_SUFFIXES, write_kaggle_csv
from rapids_pipeline.predictions.parts import PartFolder, named_beside, others_beside
from rapids_pipeline.stack.saved import SavedModel, load_model

FOLDER_SUFFIXES = ("", ".parquet")
CSV_SHARE = 0.8
"""Share of the free memory that predictions may take that are written as CSV."""
BLOCK_BYTES = 2**28
"""Bytes of a block by default: predictions, and `VALUES_A_ROW` for features."""
VALUES_A_ROW = 8192
"""float32 values that features and kernel of a row take, about."""
MOLECULES_AT_ONCE = 4096
"""Molecules featurised at once (16 MB of Morgan fingerprints)."""
COUNT = re.compile(r"(?<![\w./:-])\d+(?![\w./:-])")
"""A number that counts something: no part of a path, a hash or a fraction."""
KEPT = 8
"""How many times as many molecules have their features kept."""


@dataclass(frozen=True)
class Predicted:
    """What was predicted: numbers of pairs and genes, what a reader should know, and what was written besides OUT.

    `page` is where a page of the `curves` belongs; both are None where none were asked for. `identity` is what
    determines the numbers. `Y` are the predictions of the pairs of `work` where they are in memory, for a CSV. `kept`
    says that the folder held the same predictions already, with a page that stays.
    """

    n_pairs: int
    n_genes: int
    notes: list[str]
    beside: Path
    identity: Mapping[str, Any]
    work: "PairPredictor"
    curves: Curves | None = None
    page: Path | None = None
    Y: Float32 | None = None
    kept: bool = False


def predict_file(
    folder: Path,
    pairs_file: Path,
    out: Path,
    *,
    block_rows: int | None = None,
    overwrite: bool = False,
    columns: Mapping[str, str] | None = None,
    stages: Stages | None = None,
    doses: Sequence[float] = (),
    times: Sequence[float] = (),
    draw: Sequence[str] = (),
    executor: Executor = THREADS,
    journal: Journal | None = None,
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
        Replace files that exist, or a folder that holds another prediction. Pages and tables of the old predictions
        beside them are removed.
    columns : mapping of str to str, optional
        The column of a meaning, such as {"cell_type": "line"} (`rapids_pipeline.data.columns`).
    stages : Stages, optional
    doses, times : sequence of float
        Predict every pair at each of these doses (µM) and times (h); without any, at those of the file.
    draw : sequence of str
        Genes whose responses to doses are returned, too.
    executor : Executor
        Predicts the blocks of rows; this process writes them.
    journal : Journal, optional
        Of the lock that is held on `out`: a prediction that was stopped while it was published may replace its files.

    Raises
    ------
    InputError, UnavailableError
        As `curves_of`, `read_batch`, `EmbeddingTable.require`, `load_model`, `SavedModel.rows`, `write_kaggle_csv` and
        `PartFolder`; or too little memory for a CSV.
    KeyboardInterrupt
        With a sentence that says which parts are kept, where there are any.
    """
    stages, folder, as_folder = stages or Stages(), model_folder(folder), _is_folder(out)
    page = named_beside(out, "doses", ".html") if draw else None
    with stages.stage("read"):
        work = opened(folder, pairs_file, TableOptions(columns=columns or {}), doses, times)
        curves = curves_of(work.batch, work.model.obs, work.model.genes, draw) if draw else None
        n_pairs, n_genes = len(work.metadata), len(work.model.genes)
        rows, parts = rows_a_block(n_genes, block_rows), None
        identity = _identity(folder, pairs_file, rows) | ({"columns": columns} if columns else {})
        if doses or times:
            identity |= {"doses": list(doses), "times": list(times)}
        journal = journal or Journal()
        if as_folder:
            parts = PartFolder(out, identity, n_pairs, rows, n_genes, overwrite=overwrite)
        else:
            _require_memory(out, n_pairs, n_genes)
        there = parts is not None and parts.complete  # with a page of the same predictions, perhaps
        others = [] if there else others_beside(out, as_csv=parts is None)
        made = [] if as_folder else [out, named_beside(out, "applicability")]
        for path in [*made, *others, *([page] if page else [])]:
            refuse_existing(path, overwrite or journal.is_of(identity))
        if parts is None or parts.missing():
            work.features(work.batch.molecule[:1])  # are the weights here?
    Y, unfinished = None, list[Path]()
    begins = partial(_give_way, others, journal, identity)
    if parts is None:
        beside, Y = _to_csv(work, out, rows, stages, executor, begins)
    else:
        _to_parts(work, parts, stages, executor)
        begins()
        beside = parts.publish(_manifest(work, identity, pairs_file, folder, stages))
        unfinished = parts.others()
    left = "unfinished parts of another prediction are in {}; delete it if that is not to be continued"
    notes = [*work.notes, *map(left.format, unfinished)]
    report = named_beside(out, "report", ".html")
    kept = there and not overwrite and report.exists()
    notes += [f"{report} is of the same predictions and stays; --overwrite makes it anew"] * kept
    if curves is not None:
        curves = curves.filled(work.predict_rows(curves.rows))
    return Predicted(n_pairs, n_genes, notes, beside, identity, work, curves, page, Y, kept)


def _give_way(others: Sequence[Path], journal: Journal, identity: Mapping[str, Any]) -> None:
    """Write down what is published, and remove what lies beside it of other predictions."""
    journal.begin(identity)
    for path in others:
        path.unlink(missing_ok=True)


def _is_folder(out: Path) -> bool:
    suffix = table_suffix(out)
    if out.is_dir() or suffix in FOLDER_SUFFIXES:
        return True
    if suffix not in CSV_SUFFIXES:
        raise InputError(
            f"{out}: a Kaggle submission is a CSV; name it .csv or .csv.gz, or for a folder of Parquet parts give "
            "a name without a suffix, or in .parquet"
        )
    return False


def _require_memory(out: Path, n_pairs: int, n_genes: int) -> None:
    needed = 4 * n_pairs * n_genes
    if needed > CSV_SHARE * host_bytes():
        raise InputError(
            f"{out}: {n_pairs} pairs × {n_genes} genes take {gigabytes(needed)} of memory as a CSV; give --out a name "
            "without a suffix for a folder of Parquet parts"
        )


def _to_csv(
    work: "PairPredictor",
    out: Path,
    rows: int,
    stages: Stages,
    executor: Executor,
    begins: Callable[[], None],
) -> tuple[Path, Float32]:
    n, beside = len(work.metadata), named_beside(out, "applicability")
    with stages.stage("predict") as progress:
        predicted = np.empty((n, len(work.model.genes)), np.float32)
        blocks = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
        for number, found in work.blocks(blocks, executor, progress):
            predicted[blocks[number]] = found
    with stages.stage("write"), written(beside) as path:
        begins()
        work.metadata.to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        if work.untested:
            pairs = [(cell_type, gene) for cell_type, genes in work.untested.items() for gene in genes]
            with written(named_beside(out, "untested")) as place:
                pd.DataFrame(pairs, columns=["cell_type", "gene"]).to_csv(place, index=False)
        write_kaggle_csv(out, list(work.metadata["id"]), work.model.genes, predicted)
    return beside, predicted


def _to_parts(work: "PairPredictor", parts: PartFolder, stages: Stages, executor: Executor) -> None:
    with stages.stage("predict") as progress:
        parts.discard_halves()
        missing = parts.missing()
        blocks = [parts.parts[number] for number in missing]
        try:
            for place, predicted in work.blocks(blocks, executor, progress, of=len(parts.parts)):
                parts.write(missing[place], work.metadata.iloc[blocks[place]], work.model.genes, predicted)
                del predicted  # before the next block is predicted
        except KeyboardInterrupt:
            parts.discard_halves()
            raise KeyboardInterrupt(parts.kept()) from None


def _identity(folder: Path, pairs_file: Path, rows: int) -> dict[str, Any]:
    """Return what determines the numbers and their parts; the model's manifest has the hashes of its files."""
    require_file(pairs_file)
    return {
        "model": sha256_of(folder / "manifest.json"),
        "pairs": sha256_of(pairs_file),
        "rows_a_part": rows,
        "versions": installed_versions(),
    }


def _manifest(
    work: "PairPredictor", identity: dict[str, Any], pairs_file: Path, folder: Path, stages: Stages
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
        "notes": work.notes,
        **({"untested": work.untested} if work.untested else {}),
        "seconds": dict(stages.seconds),
        "versions": identity["versions"],
    }


# --- Blocks of rows ---------------------------------------------------------------------------------------------


def rows_a_block(n_genes: int, asked: int | None = None) -> int:
    """Return `asked`, or how many rows of `n_genes` predictions take `BLOCK_BYTES`; InputError below 1."""
    if asked is not None and asked < 1:
        raise InputError(f"--block-rows {asked}: must be at least 1")
    return asked or max(1, BLOCK_BYTES // (4 * (n_genes + VALUES_A_ROW)))


def opened(
    folder: Path,
    pairs_file: Path,
    options: TableOptions = AS_OURS,
    doses: Sequence[float] = (),
    times: Sequence[float] = (),
) -> "PairPredictor":
    """Return the model of a folder with the pairs of a file; errors as `load_model` and `predictor_of`."""
    return predictor_of(load_model(folder), pairs_file, str(folder), options, doses, times)


def predictor_of(
    model: SavedModel,
    pairs: Any,
    called: str,
    options: TableOptions = AS_OURS,
    doses: Sequence[float] = (),
    times: Sequence[float] = (),
) -> "PairPredictor":
    """Return a model with pairs, of a file or of a table in memory; errors as `read_batch` and `fanned_out`.

    Raises
    ------
    InputError
        A gene has the name of a metadata column; the message says what the model is `called`.
    """
    options = replace(options, structures=model.table is None and model.config.molecules != NONE)
    batch = fanned_out(read_batch(pairs, model.obs, options), doses, times, model.obs)
    made = PairPredictor(model, batch)
    path = name_of(pairs)
    if model.table is not None:
        model.table.require(list(batch.known_as), str(path))
    elif not options.structures:
        refuse_near(path, "sm_name", batch.table["sm_name"], model.obs["sm_name"])
    refuse_taken_names(called, model.genes)
    return made


class PairPredictor:
    """A model with the pairs that it predicts, any rows of them at a time.

    Rows that the model cannot tell apart are predicted once: cell types without a training row are all alike to it,
    and so are compounds without one that are the same molecule. Molecules are featurised in the order of their first
    occurrence, `MOLECULES_AT_ONCE` at a time. What was used longest ago is forgotten beyond `KEPT` times as many, and
    made anew should it be asked for again.

    Attributes
    ----------
    metadata : pandas.DataFrame
        `id`, `cell_type`, `sm_name`, `SMILES` and the applicability, as they are written.
    untested : dict of cell type to list of str
        Genes that were never tested in a cell type of the pairs.
    """

    def __init__(self, model: SavedModel, batch: PairBatch) -> None:
        self.model, self.batch = model, batch
        table, found = applicability(batch, model.obs, model.atlas)
        self.metadata = pd.concat([batch.table, table], axis=1)
        cells = batch.table["cell_type"]
        self.untested = {
            cell_type: [model.genes[gene] for gene in positions]
            for cell_type, positions in model.never_tested.items()
            if (cells == cell_type).any()
        }
        if model.never_tested:
            counts = [len(self.untested.get(cell_type, ())) for cell_type in cells]
            self.metadata["untested_genes"] = np.array(counts, np.int32)
        of_compounds = model.notes_on(batch.table.assign(sm_name=batch.known_as))
        self._notes = [*batch.notes, *found, *never_tested_notes(self.untested), *of_compounds]
        self._said: dict[int, list[str]] = {}
        self._kept = lru_cache(KEPT)(self._featurised)
        cell, name = (
            places(np.asarray(values, object), pd.Index(model.obs[column].astype(object)).unique())
            for values, column in ((batch.table["cell_type"], "cell_type"), (batch.known_as, "sm_name"))
        )
        self._alike = ((cell + 1) * (name.max(initial=0) + 2) + name + 1) * len(batch.molecules)
        self._alike += batch.molecule
        self._columns = ["cell_type", "SMILES", *context_columns(batch.table)]
        for column in context_columns(batch.table):
            distinct, code = np.unique(batch.table[column].to_numpy(np.float64), return_inverse=True)
            self._alike = np.unique(self._alike, return_inverse=True)[1] * len(distinct) + code

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the pairs, and what the encoders have said of their molecules so far."""
        return [*self._notes, *added(note for notes in self._said.values() for note in notes)]

    def predict(self, rows: slice) -> Float32:
        """Return the predictions of a block, (m, t) float32; errors as `features`."""
        _, first, inverse = np.unique(self._alike[rows], return_index=True, return_inverse=True)
        if len(first) == len(inverse):
            return self.predict_rows(np.arange(rows.start, rows.start + len(first)))
        return self.predict_rows(rows.start + first)[inverse]

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process without the features that are kept."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in another process."""
        vars(self).update(state)
        self._kept = lru_cache(KEPT)(self._featurised)

    def blocks(
        self, rows: Sequence[slice], executor: Executor, progress: Progress, of: int = 0
    ) -> Iterator[tuple[int, Float32]]:
        """Yield blocks of predictions as they end, each with its place; `of` counts those that were there before."""
        of = of or len(rows)
        shared, left = Shared(lambda: self), of - len(rows)
        units = [Unit(f"block {left + place + 1}/{of}", shared, block) for place, block in enumerate(rows)]
        progress.start(of)
        progress.advance(left)
        for place, found in executor.results(predicted_block, units, progress=progress, side_by_side=False):
            self._said.update({int(chunk): said for chunk, said in found.facts.items()})
            yield place, found.arrays["predicted"]

    def features(self, molecule: Indices) -> dict[str, Float32]:
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
            for name, values in self._kept(int(chunk)).items():
                if name not in found:
                    found[name] = np.empty((len(molecule), values.shape[1]), np.float32)
                found[name][rows] = values[molecule[rows] % MOLECULES_AT_ONCE]
        return found

    def _featurised(self, chunk: int) -> Mapping[str, Float32]:
        start = chunk * MOLECULES_AT_ONCE
        spelled = self.batch.spelled[start : start + MOLECULES_AT_ONCE]
        named = self.batch.named[start : start + MOLECULES_AT_ONCE]
        rows, self._said[chunk] = self.model.rows(pd.DataFrame({"sm_name": named, "SMILES": spelled}))
        return rows.molecules

    def predict_rows(self, which: Indices) -> Float32:
        """Return the predictions of rows, (m, t) float32, each made anew; errors as `features`."""
        return self.model.stack.predict(self.rows(which))

    def rows(self, which: Indices) -> Rows:
        """Return rows as members see them; errors as `features`."""
        some = self.batch.table[self._columns].iloc[which]
        obs = some.assign(sm_name=self.batch.known_as[which]).reset_index(drop=True)
        return Rows(obs, self.features(self.batch.molecule[which]))


def predicted_block(work: PairPredictor, rows: slice) -> Kept:
    """Return the predictions of a block, and what encoders have said of molecules."""
    return Kept({"predicted": work.predict(rows)}, {str(chunk): said for chunk, said in work._said.items()})


def added(notes: Iterable[str]) -> list[str]:
    """Return sentences of counts with those made one that differ only in their numbers, which are added."""
    counts: dict[str, list[int]] = {}
    for note in notes:
        found = [int(number) for number in COUNT.findall(note)]
        words = COUNT.sub("{}", note.replace("{", "{{").replace("}", "}}"))
        counts[words] = [a + b for a, b in zip(counts.get(words, [0] * len(found)), found, strict=True)]
    return [words.format(*found) for words, found in counts.items()]
