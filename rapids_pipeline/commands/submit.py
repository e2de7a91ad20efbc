"""Batch submission: a file for Kaggle or Open Problems from runs or a saved model, and a check of any such file.

    rapids-perturb submit --run runs/mine --out submission.h5ad
    rapids-perturb submit --run runs/seed-0 --run runs/seed-1 --run runs/seed-2 --out submission.csv
    rapids-perturb submit --check submission.csv --id-map id_map.csv --genes de_train.parquet

Several runs are combined value by value. Ids, genes, their order and every value are checked before anything is
written. `rapids_pipeline.submission` has the formats, the combination and the checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapids_pipeline.backend.errors import EXIT_BAD_INPUT, InputError, exits_cleanly

if TYPE_CHECKING:
    from rapids_pipeline.predictions.formats import Labels
    from rapids_pipeline.predictions.out_of_fold import OutOfFoldScores
    from rapids_pipeline.predictions.selection import Predicted


@exits_cleanly
def command(
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a run, whose predictions to submit. Repeat it to combine runs."),
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(help="How to combine the values of several runs: median (default) or mean."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a trained model (DIR/model of a run); needs --pairs.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs for --model: id, cell_type, sm_name and maybe SMILES.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .csv or .csv.gz (Kaggle), .parquet, or .h5ad (an Open Problems prediction)."
        ),
    ] = None,
    id_map: Annotated[
        Path | None,
        typer.Option(
            help="Table with the ids of the submission in order. Default: the run's test file, or --pairs."
        ),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            help="The genes of the submission in order: a text file, one name a line, or a table or .h5ad with them. "
            "Default: all predicted."
        ),
    ] = None,
    float_format: Annotated[
        str | None,
        typer.Option(
            help="Digits of a CSV: 6 (significant digits), or a format such as %.4f. Default: the shortest that read "
            "back as the same float32."
        ),
    ] = None,
    dataset_id: Annotated[
        str | None,
        typer.Option(
            help="dataset_id of an .h5ad. Default: that of the run's .h5ad training file, else neurips-2023-data."
        ),
    ] = None,
    method_id: Annotated[
        str | None, typer.Option(help="method_id of an .h5ad. Default: rapids_perturb.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Write nothing, but check this submission file against --id-map and --genes (or those of --run)."
        ),
    ] = None,
) -> None:
    """Write a checked submission for Kaggle or Open Problems, or check one that exists."""
    from rapids_pipeline.predictions.formats import Labels

    runs = tuple(run or ())
    if check is not None:
        others = {"--out": out, "--model": model, "--pairs": pairs, "--float-format": float_format}
        others |= {"--dataset-id": dataset_id, "--method-id": method_id, "--combine": combine}
        _refuse_options("--check", others)
        _report(check, *_check(check, runs, id_map, genes))
        return
    if out is None:
        raise InputError("give --out FILE to write a submission, or --check FILE to check one")
    labels = Labels(float_format, dataset_id, method_id)
    asked = Asked(runs, combine, model, pairs, id_map, genes)
    made, scores = write_submission(out, asked, labels)
    for note in made.notes:
        typer.echo(note, err=True)
    if scores is not None:
        typer.echo(_score_lines(asked, scores))
    typer.echo(f"{len(made.rows.ids)} rows × {len(made.genes)} genes written: {out}")


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
        from rapids_pipeline.predictions.combination import DEFAULT_COMBINATION

        return self.combine or DEFAULT_COMBINATION

    def require_one_source(self) -> None:
        """Raise InputError unless there are runs, or a model and pairs, and options that go with them."""
        from rapids_pipeline.predictions.combination import require_combination

        if bool(self.runs) == (self.model is not None) or (self.model is None) != (self.pairs is None):
            raise InputError("give either --run DIR, or --model DIR and --pairs FILE")
        if self.combine is not None:
            require_combination(self.combine)
            if not self.runs:
                raise InputError("--combine is for several --run; leave it out with --model")
        for number, run in enumerate(self.runs):
            if any(_same_place(run, earlier) for earlier in self.runs[:number]):
                raise InputError(f"--run {run}: is given twice; give every run once")


def write_submission(
    out: Path, asked: Asked, labels: "Labels"
) -> tuple["Predicted", "OutOfFoldScores | None"]:
    """Write the submission of runs, or of a model and pairs; return what was written, and what runs score.

    Nothing is written when a check fails. Scores are those of several runs, None where they cannot be had.

    Raises
    ------
    InputError, UnavailableError
        Options that do not go together; files that cannot be read; ids or genes without a prediction; runs of
        different ids, pairs or genes; values that are not finite; a place that cannot be written; anndata missing.
    """
    from rapids_pipeline.backend.run_folder import MANIFEST
    from rapids_pipeline.predictions.expected import read_gene_list, read_id_map
    from rapids_pipeline.predictions.formats import write_in_format
    from rapids_pipeline.predictions.selection import with_genes, with_rows
    from rapids_pipeline.predictions.submitted import predictions_of_model, predictions_of_runs

    asked.require_one_source()
    labels.require_for(out)
    _refuse_overwriting(out, [asked.id_map, asked.genes, asked.pairs, *_results_of(asked.runs)])
    wanted_rows = None if asked.id_map is None else read_id_map(asked.id_map)
    wanted_genes = None if asked.genes is None else read_gene_list(asked.genes)
    scores = None
    if asked.model is not None and asked.pairs is not None:
        folder, predicted = asked.model.parent, predictions_of_model(asked.model, asked.pairs)
    else:
        folder, how = asked.runs[0], asked.combination
        predicted, scores = predictions_of_runs(asked.runs, how, quiet=asked.id_map is not None)
    _refuse_overwriting(out, [predicted.rows_from])
    if asked.id_map is not None and wanted_rows is not None:
        predicted = with_rows(predicted, wanted_rows, asked.id_map)
    if asked.genes is not None and wanted_genes is not None:
        predicted = with_genes(predicted, wanted_genes, asked.genes)
    return write_in_format(out, predicted, folder / MANIFEST, labels), scores


def _check(
    path: Path, runs: Sequence[Path], id_map: Path | None, genes: Path | None
) -> tuple[list[str], str]:
    """Return the faults of a submission file, and the sentence for one without."""
    from rapids_pipeline.predictions.check import faults_of
    from rapids_pipeline.predictions.expected import read_gene_list, read_id_map
    from rapids_pipeline.predictions.found import read_found
    from rapids_pipeline.predictions.submitted import predictions_of_run

    if not runs and id_map is None:
        raise InputError("--check needs --id-map FILE, or --run DIR, to know the ids and their order")
    if len(runs) > 1:
        raise InputError("--check takes one --run: those that are combined have the same ids and genes")
    ids: list[str] = []
    ids_from, names, names_from = id_map, None, genes
    if runs:
        of_run = predictions_of_run(runs[0], quiet=True)
        ids, ids_from, names, names_from = of_run.rows.ids, of_run.rows_from, of_run.genes, of_run.source
    if id_map is not None:
        ids, ids_from = read_id_map(id_map).ids, id_map
    if genes is not None:
        names, names_from = read_gene_list(genes), genes
    found = read_found(path)
    faults = faults_of(found, ids, names)
    size = f"{len(found.rows)} rows × {len(found.columns)} genes"
    genes_from = f" and of {names_from}" if names else "; genes were not compared with a list (--genes FILE)"
    return faults, f"OK: {path}: {size}, in the order of {ids_from}{genes_from}"


def _report(path: Path, faults: Sequence[str], fine: str) -> None:
    for fault in faults:
        typer.echo(f"error: {path}: {fault}", err=True)
    if faults:
        raise typer.Exit(EXIT_BAD_INPUT)
    typer.echo(fine)


def _refuse_options(option: str, others: dict[str, Any]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"{option} writes nothing; leave out {', '.join(given)}")


def _score_lines(asked: Asked, scores: "OutOfFoldScores") -> str:
    """Return what several runs and their combination score, as lines to print."""
    how = f"their {asked.combination}"
    rows = [*zip(map(str, asked.runs), scores.single, strict=True), (how, scores.combination)]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:{width}}  {score:.4f}" for name, score in rows]
    title = f"MRRMSE of {scores.n_rows} training rows, out-of-fold:"
    closing = f"no run saw the rows it predicts here, whatever its folds: {how} is out-of-fold, too"
    return "\n".join([title, *lines, closing])


def _results_of(runs: Sequence[Path]) -> list[Path]:
    from rapids_pipeline.backend.run_folder import RESULTS

    return [run / name for run in runs for name in RESULTS]


def _same_place(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _refuse_overwriting(out: Path, inputs: Sequence[Path | None]) -> None:
    for path in inputs:
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise InputError(f"--out {out}: is an input or a run's result; choose another file")
