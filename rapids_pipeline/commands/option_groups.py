"""Groups of options: a parameter of a command that stands for several options, which make one object.

A command with the decorator `with_several` gets the options of its parameters `how` (how files are read), `where`
(where fits run) and `readout` (where an answer goes).
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapids_pipeline.backend.files import refuse_existing
from rapids_pipeline.backend.settings import names_in
from rapids_pipeline.commands import options
from rapids_pipeline.data.columns import DEFAULT_LAYER, TableOptions, chosen_columns

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pandas import DataFrame
    from rich.console import RenderableType

    from rapids_pipeline.backend.parallel import Executor


def table_options(
    layer: options.LayerOption = DEFAULT_LAYER,
    metadata_columns: options.MetadataOption = "",
    column: options.ColumnOption = None,
    columns: options.ColumnsOption = None,
    genes: options.GenesOption = None,
    gene_column: options.GeneColumnOption = None,
    combine: options.CombineOption = "sum",
) -> TableOptions:
    """Return how files are read; errors as `chosen_columns`."""
    chosen = chosen_columns(column or (), columns)
    return TableOptions(layer, names_in(metadata_columns), chosen, genes, gene_column, combine=combine)


FITS_IMPORT = (
    "rapids_pipeline.stack.nested",
    "features.reduction",
    "features.target_encoders",
    "rapids_pipeline.boosting.estimator",
    "rapids_pipeline.boosting.exact.engine",
    "rdkit.Chem.Descriptors",
    "sklearn.metrics.pairwise",
    "sklearn.preprocessing",
)
"""What fits import when they begin: scikit-learn, SciPy, numba and RDKit take two seconds to load."""


@dataclass(frozen=True)
class Where:
    """Where the fits of a command run, and the file that gets a line for each."""

    cluster: str | None = None
    log: Path | None = None

    def executor(self) -> "AbstractContextManager[Executor]":
        """Return the executor, to be used in a `with`; errors as `executor_of`."""
        from rapids_pipeline.backend.parallel import executor_of

        return executor_of(self.cluster, self.log, FITS_IMPORT)


HERE = Where()


def where_options(cluster: options.ClusterOption = None, log: options.LogOption = None) -> Where:
    """Return where fits run; workers of this machine begin to start."""
    if cluster is not None:
        from rapids_pipeline.backend.workers import begin

        begin(cluster, FITS_IMPORT)
    return Where(cluster, log)


@dataclass(frozen=True)
class Readout:
    """Where a read-out goes: a table or JSON to the terminal, or all of its rows to a CSV."""

    out: Path | None = None
    as_json: bool = False

    def written(self, tables: "Iterable[DataFrame]", what: str, notes: Iterable[str] = ()) -> bool:
        """Write the CSV and say so; return False without one. Errors as `write_table`."""
        from rapids_pipeline.predictions.readouts import write_table
        from rapids_pipeline.reports.page import print_report

        if self.out is not None:
            write_table(self.out, tables)
            print_report(*notes, f"{what} written: {self.out}")
        return self.out is not None

    def show(
        self, document: dict[str, Any], parts: "Iterable[RenderableType]", notes: Iterable[str] = ()
    ) -> None:
        """Print the document with the notes as JSON, or the parts of the table and then the notes."""
        from rapids_pipeline.reports.page import print_found

        print_found({**document, "notes": list(notes)}, self.as_json, *parts, *notes)


TO_TERMINAL = Readout()


def readout_options(
    out: options.CsvOption = None,
    overwrite: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
) -> Readout:
    """Return where a read-out goes; errors as `refuse_existing`, before anything is read."""
    if out is not None:
        refuse_existing(out, overwrite)
    return Readout(out, as_json)


SEVERAL: dict[str, Callable[..., Any]] = {
    "how": table_options,
    "where": where_options,
    "readout": readout_options,
}
"""Parameters of commands that stand for several options, and the functions that have these options."""


def with_several(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `SEVERAL`, in the places of its parameters of these names."""
    own = inspect.signature(command)
    taken = {
        name: inspect.signature(make).parameters for name, make in SEVERAL.items() if name in own.parameters
    }

    @functools.wraps(command)
    def called(*words: Any, **given: Any) -> Any:
        for name, several in taken.items():
            read = {option: given.pop(option) for option in several if option in given}
            if read:
                given[name] = SEVERAL[name](**read)
        return command(*words, **given)

    every = [
        one
        for old in own.parameters.values()
        for one in (taken[old.name].values() if old.name in taken else [old])
    ]
    called.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in every}
    return called
