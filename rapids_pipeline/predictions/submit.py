"""Submissions of runs or of a saved model, checked and written as a file; and a check of any such file.

Ids, genes, their order and every value are checked before anything is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rapids_pipeline.backend.errors import InputError, meant
from rapids_pipeline.backend.files import (
    MANIFEST,
    OOF,
    RESULTS,
    SUBMISSION,
    model_folder,
    recorded_hash,
    recorded_input,
    refuse_existing,
)
from rapids_pipeline.backend.frames import (
    TABLE_SUFFIXES,
    column_names,
    read_table,
    readable_as,
    table_suffix,
)
from rapids_pipeline.backend.limits import require_file
from rapids_pipeline.data.checks import as_text, refuse_repeated
from rapids_pipeline.data.columns import AS_OURS, PAIR, TEST_COLUMNS, TableOptions
from rapids_pipeline.data.genes import gene_list
from rapids_pipeline.data.pairs import read_ids
from rapids_pipeline.data.readers import h5ad_genes, opened_h5ad
from rapids_pipeline.data.tables import read_training, split_table
from rapids_pipeline.predictions.check import faults_of, read_submission
from rapids_pipeline.predictions.combine import (
    COMBINATIONS,
    DEFAULT_COMBINATION,
    REMEDY,
    IdMap,
    OutOfFoldScores,
    Submission,
    aggregate,
    out_of_fold_scores,
    recorded_settings,
    remarks_on,
    values_like,
)
from rapids_pipeline.predictions.formats import (
    DATASET_ID,
    METHOD_ID,
    FormatOptions,
    as_float32,
    dataset_id_of,
    write_kaggle_csv,
    write_parquet,
    write_prediction_h5ad,
)
from rapids_pipeline.predictions.predict import opened


@dataclass(frozen=True)
class Asked:
    """What to submit: runs, or a model and pairs; and in which order. As the options of the command."""

    runs: tuple[Path, ...] = ()
    combine: str | None = None
    model: Path | None = None
    pairs: Path | None = None
    id_map: Path | None = None
    genes: Path | None = None

    @property
    def combination(self) -> str:
        """How several runs are combined."""
        return self.combine or DEFAULT_COMBINATION

    def require_one_source(self) -> None:
        """Raise InputError unless there are runs, or a model and pairs, and options that go with them."""
        if bool(self.runs) == (self.model is not None) or (self.model is None) != (self.pairs is None):
            raise InputError("give either --run DIR, or --model DIR and --pairs FILE")
        if self.combine is not None:
            if self.combine not in COMBINATIONS:
                near = meant(self.combine, COMBINATIONS)
                raise InputError(
                    f"--combine {self.combine}{near}: is unknown; give {' or '.join(COMBINATIONS)}"
                )
            if not self.runs:
                raise InputError("--combine is for several --run; leave it out with --model")
        for number, run in enumerate(self.runs):
            if any(run.resolve() == earlier.resolve() for earlier in self.runs[:number]):
                raise InputError(f"--run {run}: is given twice; give every run once")


def write_submission(
    out: Path, asked: Asked, options: FormatOptions, *, overwrite: bool = False
) -> tuple[Submission, OutOfFoldScores | None]:
    """Write the submission of runs, or of a model and pairs; return what was written, and what runs score.

    Nothing is written when a check fails. Scores are those of several runs, None where they cannot be had.

    Parameters
    ----------
    out : Path
        Its suffix names the format (`rapids_pipeline.predictions.formats`).
    asked : Asked
    options : FormatOptions
    overwrite : bool
        Replace a file that exists; a file that is read, or a run's result, is never replaced.

    Raises
    ------
    InputError, UnavailableError
        Options that do not go together; files that cannot be read; ids or genes without a prediction; runs of
        different ids, pairs or genes; values that are not finite; a place that cannot be written; anndata missing.
    """
    asked.require_one_source()
    options.require_for(out)
    folders = [model_folder(asked.model).parent] if asked.model is not None else list(asked.runs)
    if out.exists():
        _refuse_inputs(out, asked, folders)
    refuse_existing(out, overwrite)
    rows = None if asked.id_map is None else read_id_map(asked.id_map)
    genes = None if asked.genes is None else (asked.genes, read_gene_list(asked.genes))
    scores = None
    if asked.model is not None and asked.pairs is not None:
        made = submission_of_model(model_folder(asked.model), asked.pairs)
    else:
        made, scores = submission_of_runs(asked.runs, asked.combination, quiet=rows is not None)
    return _write(out, made.in_order_of(rows, genes), folders[0] / MANIFEST, options), scores


def check_submission(
    path: Path, runs: Sequence[Path], id_map: Path | None, genes: Path | None
) -> tuple[list[str], str]:
    """Return the faults of a submission file, and the sentence for one without.

    Its ids and genes should be those of a run, or of the files `id_map` and `genes`.
    """
    if not runs and id_map is None:
        raise InputError("--check needs --id-map FILE, or --run DIR, to know the ids and their order")
    if len(runs) > 1:
        raise InputError("--check takes one --run: those that are combined have the same ids and genes")
    rows, names, names_from = IdMap(path, []), None, genes
    if runs:
        of_run = submission_of_run(runs[0], quiet=True)
        rows, names, names_from = of_run.rows, of_run.genes, of_run.source
    if id_map is not None:
        rows = read_id_map(id_map)
    if genes is not None:
        names, names_from = read_gene_list(genes), genes
    found = read_submission(path)
    size = f"{len(found.rows)} rows × {len(found.columns)} genes"
    genes_from = f" and of {names_from}" if names else "; genes were not compared with a list (--genes FILE)"
    fine = f"OK: {path}: {size}, in the order of {rows.source}{genes_from}"
    return faults_of(found, rows.ids, names), fine


def read_id_map(path: Path, options: TableOptions = AS_OURS) -> IdMap:
    """Read ids in order: any table with a column `id`, such as `id_map.csv` or a sample submission.

    Raises
    ------
    InputError
        As `read_ids`; an id twice.
    """
    return _id_map(path, read_ids(path, options))


def read_gene_list(path: Path) -> list[str]:
    """Read gene names in order: a text file with one name a line, or the genes of a table or .h5ad file.

    Raises
    ------
    InputError
        As `read_table` and `split_table`; no names; a name twice.
    """
    suffix = table_suffix(path)
    if suffix == ".h5ad":
        with opened_h5ad(path) as file:
            genes = h5ad_genes(file)
    elif suffix in TABLE_SUFFIXES and not suffix.startswith(".txt"):
        require_file(path)
        with readable_as("a table", path):
            names = column_names(path)
        if len(names) == 1:
            raise InputError(
                f"{path}: is a table of one column; a list of genes is a .txt file, one name a line"
            )
        genes = split_table(path, read_table(path, text=TEST_COLUMNS.__contains__))[2]
    else:
        return gene_list(path)
    refuse_repeated(path, "gene", genes)
    return genes


def submission_of_model(model: Path, pairs_file: Path) -> Submission:
    """Return what a saved model predicts for the pairs of a file, as `predict` does; errors as `opened`.

    Raises
    ------
    InputError
        The pairs have no ids.
    """
    work = opened(model, pairs_file)
    if work.batch.numbered:
        raise InputError(f"{pairs_file}: missing column id; a submission names its rows by their ids")
    values = work.predict(slice(0, len(work.metadata)))
    return Submission(model, _id_map(pairs_file, work.metadata), list(work.model.genes), values, work.notes)


def submission_of_run(run: Path, *, quiet: bool = False) -> Submission:
    """Return what a run predicted, in the order of its test file, or of its `submission.csv` where that has gone.

    A note says where it has gone, unless `quiet`.

    Raises
    ------
    InputError
        The folder has no `submission.csv`, or one that no run leaves; its test file has other ids.
    """
    source = run / SUBMISSION
    if not source.is_file():
        raise InputError(f"--run {run}: has no {SUBMISSION}; give the folder of a finished run")
    found = read_submission(source)
    faults = faults_of(found, list(dict.fromkeys(found.ids or ())))
    if faults or found.ids is None or found.Y is None:
        raise InputError(f"{source}: {faults[0]}; {REMEDY}")
    made = Submission(source, IdMap(source, found.ids), found.columns, as_float32(found.Y))
    test, obstacle = recorded_input(run / MANIFEST, "test")
    if test is not None:
        return made.in_order_of(read_id_map(test, _options_of(run) or AS_OURS))
    note = f"{obstacle}: ids and their order are those of {source}"
    return made if quiet else replace(made, notes=[note])


def submission_of_runs(
    runs: Sequence[Path], how: str, *, quiet: bool = False
) -> tuple[Submission, OutOfFoldScores | None]:
    """Return the median (or mean) of what runs predicted, in the order of the first, and their scores.

    The predictions of all runs are in memory together: 19 MB each for 255 rows of 18,211 genes. One run has its own
    predictions and no scores. Notes name runs that differ in more than their seed, and say why there are no scores
    where they cannot be had.

    Raises
    ------
    InputError
        As `submission_of_run`, `values_like` and `out_of_fold_scores`; or nothing says which pairs a run predicted.
    """
    first = submission_of_run(runs[0], quiet=quiet)
    if len(runs) == 1:
        return first, None
    others = [submission_of_run(run, quiet=True) for run in runs[1:]]
    for run, other in zip(runs[1:], others, strict=True):
        _require_known_pairs(runs[0], first, run, other)
    Y = aggregate([first.Y, *(values_like(first, other) for other in others)], how)
    settings = [recorded_settings(run / MANIFEST) for run in runs]
    notes = remarks_on([str(run) for run in runs], settings)
    scores, obstacle = _scores(runs, how)
    notes += [f"not scored out-of-fold: {obstacle}"] if obstacle else []
    return replace(first, Y=Y, notes=[*first.notes, *notes]), scores


def _scores(runs: Sequence[Path], how: str) -> tuple[OutOfFoldScores | None, str]:
    """Return what runs and their combination score on the training rows, or None and why they cannot be scored."""
    without = [run for run in runs if not (run / OOF).is_file()]
    if without:
        return None, f"{without[0]} has no {OOF}"
    train, obstacle = recorded_input(runs[0] / MANIFEST, "train")
    if train is None:
        return None, obstacle
    hashes = [recorded_hash(run / MANIFEST, "train") for run in runs]
    unlike = [run for run, found in zip(runs, hashes, strict=True) if found != hashes[0]]
    if unlike:
        return None, f"{unlike[0]} was trained on another file than {runs[0]}"
    options = _options_of(runs[0])
    if options is None:
        return None, f"{runs[0] / MANIFEST} does not say how the training file was read"
    truth = read_training(train, options)
    return out_of_fold_scores([run / OOF for run in runs], truth, train, how), ""


def _options_of(run: Path) -> TableOptions | None:
    """Return how a run read its files, None where its manifest does not say."""
    try:
        return TableOptions.from_json(recorded_settings(run / MANIFEST))
    except (KeyError, TypeError):
        return None


def _require_known_pairs(first: Path, one: Submission, run: Path, other: Submission) -> None:
    """Raise InputError where neither test files nor their hashes say whether two runs predicted the same pairs."""
    if one.rows.pairs is not None and other.rows.pairs is not None:
        return
    recorded = [recorded_hash(folder / MANIFEST, "test") for folder in (first, run)]
    if recorded[0] is not None and recorded[0] == recorded[1]:
        return
    obstacle = next(
        (why for folder in (first, run) if (why := recorded_input(folder / MANIFEST, "test")[1])),
        "a test file has no cell_type and sm_name",
    )
    raise InputError(
        f"--run {run}: its pairs cannot be compared with those of {first} ({obstacle}); put the test files back where "
        "the runs read them"
    )


def _id_map(path: Path, pairs: pd.DataFrame) -> IdMap:
    """Return the rows of a table with `id` and maybe `cell_type` and `sm_name`."""
    ids = [str(value) for value in pairs["id"]]
    refuse_repeated(path, "id", ids)
    if not set(PAIR) <= set(pairs.columns):
        return IdMap(path, ids)
    return IdMap(path, ids, as_text(path, pairs, PAIR)[PAIR].reset_index(drop=True))


def _refuse_inputs(out: Path, asked: Asked, folders: Sequence[Path]) -> None:
    """Raise InputError where `out` exists and is a file that is read, or a result or an input of the runs' folders."""
    recorded = [
        recorded_input(folder / MANIFEST, name)[0] for folder in folders for name in ("train", "test")
    ]
    results = [folder / name for folder in folders for name in RESULTS]
    for path in (asked.id_map, asked.genes, asked.pairs, *recorded, *results):
        if path is not None and path.exists() and out.samefile(path):
            raise InputError(f"--out {out}: is an input or a run's result; choose another file")


def _write(out: Path, made: Submission, manifest: Path, options: FormatOptions) -> Submission:
    """Write a submission in the format of `out`; return it with the notes that this adds.

    `manifest` is that of the run that trained the model, which may name the data set; errors as those of the writers.
    """
    table, suffix = (made.rows.ids, made.genes, made.Y), table_suffix(out)
    if suffix == ".parquet":
        write_parquet(out, *table)
    elif suffix == ".h5ad":
        dataset_id, notes = _dataset_id(manifest, options.dataset_id)
        method_id = METHOD_ID if options.method_id is None else options.method_id
        write_prediction_h5ad(out, *table, dataset_id=dataset_id, method_id=method_id, pairs=made.rows.pairs)
        return replace(made, notes=[*made.notes, *notes])
    else:
        write_kaggle_csv(out, *table, float_format=options.float_format)
    return made


def _dataset_id(manifest: Path, asked: str | None) -> tuple[str, list[str]]:
    """Return the data set's id as asked for, else that of the run's .h5ad training file, else the benchmark's."""
    if asked is not None:
        return asked, []
    train, _ = recorded_input(manifest, "train")
    found = dataset_id_of(train) if train is not None and table_suffix(train) == ".h5ad" else None
    if found is not None:
        return found, []
    return DATASET_ID, [f"dataset_id is {DATASET_ID}, the benchmark's; --dataset-id names another"]
