"""The command line: `rapids-perturb SUBCOMMAND`, the same program as `python -m rapids_pipeline`.

Exit codes: 0 done, 2 bad input or usage (one message on stderr), 3 something asked for is not available here,
130 interrupted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_pipeline import __version__
from rapids_pipeline.backend.errors import InputError, exits_cleanly
from rapids_pipeline.run_inputs import DEFAULT_LAYER, RunInputs

if TYPE_CHECKING:
    from rapids_pipeline.config import RunConfig

app = typer.Typer(
    name="rapids-perturb",
    help="Predict how a small molecule changes the expression of every gene in a cell type.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MoleculesOption = Annotated[
    str,
    typer.Option(
        help="Molecule features: chemberta (DeepChem/ChemBERTa-10M-MTR), morgan (RDKit fingerprints), descriptors "
        "(RDKit's, standardised), a folder with the weights of a SMILES transformer, or a hub id."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
EngineOption = Annotated[str, typer.Option(help="SVR engine: auto, smo, douglas-rachford, sklearn or cuml.")]
BoostingEngineOption = Annotated[
    str, typer.Option(help="Boosting engine: auto, or one of those in docs/boosting.md.")
]
SvrFeaturesOption = Annotated[
    str,
    typer.Option(
        help="Feature set of the SVRs: a name (rapids-perturb features lists them) or a .toml file."
    ),
]
BoostingFeaturesOption = Annotated[str, typer.Option(help="Feature set of the booster, likewise.")]
LayerOption = Annotated[str, typer.Option(help="Layer of an .h5ad file that holds the responses, or X.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace the results of another run.")]


def version(show: bool) -> None:
    """Print the version and end."""
    if show:
        typer.echo(f"rapids-perturb {__version__}")
        raise typer.Exit


@app.callback()
def program(
    _version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True)] = False,
) -> None:
    """Predict how a small molecule changes the expression of every gene in a cell type."""


@app.command()
@exits_cleanly
def run(
    train: Annotated[Path, typer.Option(help="Training file: .parquet, .h5ad, .csv or .tsv.")],
    test: Annotated[Path, typer.Option(help="Pairs to predict: id, cell_type, sm_name and maybe SMILES.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    molecules: MoleculesOption = "chemberta",
    device: DeviceOption = "auto",
    folds: Annotated[int, typer.Option(help="Outer folds, 3 to 20.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of folds and boosting.")] = 0,
    engine: EngineOption = "auto",
    boosting_engine: BoostingEngineOption = "auto",
    svr_features: SvrFeaturesOption = "svr_shared",
    boosting_features: BoostingFeaturesOption = "boosting",
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: Annotated[
        str, typer.Option(help="Numeric columns that are not genes, separated by commas.")
    ] = "",
    overwrite: OverwriteOption = False,
) -> None:
    """Train, predict every test pair, and leave submission.csv, oof.parquet, scores.json and manifest.json."""
    extra = tuple(name.strip() for name in metadata_columns.split(",") if name.strip())
    config = _config(molecules, folds, seed, engine, boosting_engine, svr_features, boosting_features)
    _run(RunInputs(train, test, layer, extra), out, config, device, overwrite)


@app.command()
@exits_cleanly
def evaluate(
    prediction: Annotated[Path, typer.Option(help="Prediction file, such as DIR/submission.csv.")],
    truth: Annotated[Path, typer.Option(help="File with the measured responses of the same pairs.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Training file for the baselines; default: the one in the prediction's manifest."),
    ] = None,
    layer: LayerOption = DEFAULT_LAYER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a prediction file against the truth, beside the baselines."""
    _evaluate(prediction, truth, train, layer, as_json)


@app.command()
@exits_cleanly
def features(
    name: Annotated[
        str | None, typer.Argument(help="A feature set or a .toml file; default: list all.")
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the set as TOML, to copy and change.")] = False,
) -> None:
    """List the feature sets, or show one: its blocks and what each is fitted on."""
    from rich.console import Console

    from features.feature_sets import FEATURE_SETS, feature_set
    from rapids_pipeline.report import feature_set_table, feature_sets_table

    if toml and name is None:
        raise InputError("--toml needs the name of a feature set")
    if name is None:
        Console().print(feature_sets_table(FEATURE_SETS))
    elif toml:
        typer.echo(feature_set(name).to_toml(), nl=False)
    else:
        Console().print(feature_set_table(feature_set(name)))


@app.command()
@exits_cleanly
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the simulated data and the results.")] = Path(
        "runs/demo"
    ),
    molecules: MoleculesOption = "morgan",
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the simulation, the folds and the boosting.")] = 0,
    genes: Annotated[
        int | None, typer.Option(help="Only the first so many genes; default all 18,211.")
    ] = None,
    data_only: Annotated[bool, typer.Option(help="Only write the simulated files.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Simulate a data set in the competition's layout, run the pipeline on it and score the hidden truth."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.demo import write_demo
    from rapids_pipeline.report import LiveStages
    from rapids_pipeline.runs import MANIFEST, require_writable

    config = _config(molecules, folds=5, seed=seed)
    resolve_device(device)  # before anything is written
    require_writable(out)
    if (out / MANIFEST).exists() and not overwrite:  # its results must not lose the data they were made from
        raise InputError(f"--out {out}: holds a run's results; choose another folder or add --overwrite")
    stages = LiveStages()
    with stages.stage("simulate"):
        files = write_demo(out / "data", seed, genes)
    if data_only:
        typer.echo(f"written: {files.train}, {files.test}, {files.truth}")
        return
    _run(RunInputs(files.train, files.test), out, config, device, overwrite)
    _evaluate(out / "submission.csv", files.truth, files.train, "X", as_json=False)


def _config(
    molecules: str,
    folds: int,
    seed: int,
    engine: str = "auto",
    boosting_engine: str = "auto",
    svr_features: str = "svr_shared",
    boosting_features: str = "boosting",
) -> "RunConfig":
    from pydantic import ValidationError

    from features.feature_sets import feature_set
    from rapids_pipeline.config import BoostingConfig, RunConfig, SvrConfig

    option = "--svr-features"
    try:
        svr = SvrConfig(engine=engine, features=feature_set(svr_features))
        option = "--boosting-features"
        boosting = BoostingConfig(engine=boosting_engine, features=feature_set(boosting_features))
        option = ""
        return RunConfig(molecules=molecules, n_folds=folds, seed=seed, svr=svr, boosting=boosting)
    except ValidationError as error:
        first = error.errors()[0]
        if option:
            raise InputError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None
        name = {"n_folds": "folds"}.get(str(first["loc"][0]), str(first["loc"][0]))
        raise InputError(f"--{name} {first['input']}: {first['msg'].lower()}") from None


def _run(inputs: RunInputs, out: Path, config: "RunConfig", device: str, overwrite: bool) -> None:
    from rich.console import Console

    from rapids_pipeline import pipeline
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.report import LiveStages, score_table

    chosen = resolve_device(device)
    console, stages = Console(), LiveStages()
    stages.console.print(f"device: {chosen.name} ({chosen.reason})", highlight=False, soft_wrap=True)
    result = pipeline.run(inputs, out, config, chosen, overwrite=overwrite, stages=stages)
    console.print(f"Out-of-fold, {config.n_folds} folds of random rows:", highlight=False)
    console.print(score_table(result.scores))
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items())
    console.print(f"pipeline = {weights}; {'; '.join(result.notes)}", highlight=False, soft_wrap=True)
    console.print(
        f"{result.shape['test_rows']} pairs × {result.shape['genes']} genes written: "
        f"{out}/submission.csv; beside it oof.parquet, scores.json, manifest.json",
        highlight=False,
        soft_wrap=True,
    )


def _evaluate(prediction: Path, truth: Path, train: Path | None, layer: str, as_json: bool) -> None:
    import json

    from rich.console import Console

    from rapids_pipeline.evaluation.evaluate import evaluate_files
    from rapids_pipeline.report import score_table

    evaluation = evaluate_files(prediction, truth, train, layer=layer)
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    console = Console()
    title = f"{prediction} against {truth}: {evaluation.n_rows} pairs × {evaluation.n_genes} genes"
    console.print(f"{title}:", highlight=False, soft_wrap=True)
    console.print(score_table(evaluation.scores))
    if evaluation.note:
        console.print(evaluation.note, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    from rapids_pipeline.screen import command as screen_command

    app.command("screen")(screen_command)
    app()
