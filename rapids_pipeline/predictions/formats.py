"""One submission in the format that its file name says, and the options of the formats."""

from dataclasses import dataclass, replace
from pathlib import Path

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.backend.run_folder import recorded_input
from rapids_pipeline.predictions.kaggle import format_spec, write_kaggle_csv
from rapids_pipeline.predictions.open_problems import (
    DATASET_ID,
    METHOD_ID,
    dataset_id_of,
    require_anndata,
    write_prediction_h5ad,
)
from rapids_pipeline.predictions.parquet import write_parquet
from rapids_pipeline.predictions.selection import Predicted
from rapids_pipeline.predictions.table import CSV_SUFFIXES, require_submission


@dataclass(frozen=True)
class Labels:
    """How numbers are written in a CSV, and what an `.h5ad` is labelled with; None for the defaults."""

    float_format: str | None = None
    dataset_id: str | None = None
    method_id: str | None = None

    def require_for(self, out: Path) -> None:
        """Raise InputError for an option that the format of `out` has no use for, or a wrong number format.

        And UnavailableError where anndata is missing for an .h5ad.
        """
        require_submission(out)
        suffix = table_suffix(out)
        if suffix == ".h5ad":
            require_anndata(out)
        if self.float_format is not None:
            if suffix not in CSV_SUFFIXES:
                raise InputError(f"--float-format is for .csv and .csv.gz; --out is {out}")
            format_spec(self.float_format)
        for option, value in (("--dataset-id", self.dataset_id), ("--method-id", self.method_id)):
            if value is not None and suffix != ".h5ad":
                raise InputError(f"{option} is for .h5ad; --out is {out}")


def write_in_format(out: Path, predicted: Predicted, manifest: Path, labels: Labels) -> Predicted:
    """Write predictions in the format of `out`; return them with the notes that this adds.

    `manifest` is that of the run that trained the model, which may name the data set; errors as those of the writers.
    """
    table = predicted.rows.ids, predicted.genes, predicted.Y
    suffix = table_suffix(out)
    if suffix == ".parquet":
        write_parquet(out, *table)
    elif suffix == ".h5ad":
        dataset_id, notes = _dataset_id(manifest, labels.dataset_id)
        method_id = METHOD_ID if labels.method_id is None else labels.method_id
        write_prediction_h5ad(
            out, *table, dataset_id=dataset_id, method_id=method_id, pairs=predicted.rows.pairs
        )
        predicted = replace(predicted, notes=[*predicted.notes, *notes])
    else:
        write_kaggle_csv(out, *table, float_format=labels.float_format)
    return predicted


def _dataset_id(manifest: Path, asked: str | None) -> tuple[str, list[str]]:
    """Return the data set's id as asked for, else that of the run's .h5ad training file, else the benchmark's."""
    if asked is not None:
        return asked, []
    train, _ = recorded_input(manifest, "train")
    found = dataset_id_of(train) if train is not None and table_suffix(train) == ".h5ad" else None
    if found is not None:
        return found, []
    return DATASET_ID, [f"dataset_id is {DATASET_ID}, the benchmark's; --dataset-id names another"]
