"""Options that several subcommands share, and what several of them say.

What cannot be used is named by its option. What is heavy is imported where it is used, so that help answers at once.
"""

import functools
import glob
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rapids_pipeline.backend.errors import InputError, meant, quoted, shown
from rapids_pipeline.backend.settings import LARGEST_SEED, names_in
from rapids_pipeline.data.columns import DEFAULT_LAYER, TableOptions

if TYPE_CHECKING:
    from rapids_pipeline.backend.devices import Device, DeviceName
    from rapids_pipeline.data.problem import Problem, ProblemFiles
    from rapids_pipeline.reports.page import LiveStages
    from rapids_pipeline.stack.recipe import Recipe, RunConfig

TrainOption = Annotated[Path, typer.Option(help="Training file: .parquet, .h5ad, .csv, .tsv, .gct or .gctx.")]
TestOption = Annotated[
    Path,
    typer.Option(
        help="The pairs to predict, with id, cell_type and sm_name. New compounds also need SMILES."
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.")]
MoleculesOption = Annotated[
    str,
    typer.Option(
        envvar="RAPIDS_PERTURB_MOLECULES",
        help="The molecule features: chemberta (DeepChem/ChemBERTa-10M-MTR), morgan (RDKit's fingerprints), "
        "descriptors (RDKit's, standardised), a folder with the weights of a SMILES transformer, or a hub id. "
        "auto takes ChemBERTa where its weights are on this machine, and morgan elsewhere. none needs no SMILES. A "
        "table (.parquet, .csv, .tsv) has sm_name and columns of numbers: an embedding of any perturbation.",
    ),
]
AtlasOption = Annotated[
    Path | None,
    typer.Option(
        help="The folder of an atlas (`rapids-perturb atlas`): what new compounds did in other data sets."
    ),
]
CombineOption = Annotated[
    Literal["sum", "mean"],
    typer.Option(
        help="What a table of --molecules gives a combination A+B without a row: sum or mean of A and B."
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="The device: cpu, cuda, or auto, which takes the GPU where a run can start.")
]


def recipes_like(incomplete: str) -> list[str]:
    """Return the recipes, and the .toml files, whose names begin so: completion in a shell."""
    from rapids_pipeline.stack.named_recipes import RECIPES

    files = glob.glob(f"{glob.escape(incomplete)}*.toml")  # noqa: PTH207 (keeps a ./ that was typed)
    return [name for name in RECIPES if name.startswith(incomplete)] + sorted(files)


RecipeOption = Annotated[
    str,
    typer.Option(
        help="The recipe: a name (`rapids-perturb recipes` lists them) or a .toml file.",
        autocompletion=recipes_like,
    ),
]
RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        help="A recipe or a .toml file. Without one, all recipes are listed.",
        autocompletion=recipes_like,
    ),
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Take a first look: the same as --recipe quick.")]
ObjectiveOption = Annotated[
    Literal["mrrmse", "discrimination", "balanced"] | None,
    typer.Option(
        help="What predictions are tuned for: mrrmse, the least error; discrimination, telling compounds apart; "
        "balanced, the least error among those that tell compounds apart as well as the best baseline. The last two "
        "fit everything once more for each of up to five splits. The recipe's own, mrrmse, is the default."
    ),
]
FoldsOption = Annotated[
    int | None, typer.Option(help="The number of outer folds, 3 to 20. The recipe's own is the default.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=LARGEST_SEED, help="The seed of the folds and of the boosting.")
]
SplitFoldsOption = Annotated[int, typer.Option(min=2, max=1000, help="The number of folds of the split.")]
RepeatsOption = Annotated[int, typer.Option(min=1, max=1000, help="How often the folds are dealt anew.")]
EngineOption = Annotated[
    str | None,
    typer.Option(
        help="The engine of the SVRs on shared features: auto, smo, douglas-rachford, sklearn or cuml."
    ),
]
BoostingEngineOption = Annotated[
    str | None, typer.Option(help="The boosting engine: auto, or one of those in docs/methods/boosting.md.")
]
SvrFeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="The feature sets of the SVRs, separated by commas; each makes one member. A set is a name "
        "(`rapids-perturb features` lists them) or a .toml file. The recipe's own are the default."
    ),
]
BoostingFeaturesOption = Annotated[
    str | None, typer.Option(help="The feature set of the booster: a name or a .toml file.")
]
SPLIT_NAMES = (
    "random, compound, scaffold, cell_type, joint, dose, time, scarce, made_scarce, published, cluster"
)


def one_of(names: str) -> dict[str, Any]:
    """Return what an option has whose value is one of some names: refusal of others, and completion in a shell."""
    known = names.split(", ")

    def checked(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{quoted(value)}{meant(value, known)} is none of {names}")
        return value

    def completed(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return {"callback": checked, "autocompletion": completed}


SplitOption = Annotated[
    str,
    typer.Option(
        help=f"What is held out: {SPLIT_NAMES}; or auto, which is most like --test.",
        **one_of(f"{SPLIT_NAMES}, auto"),
    ),
]
GivenSplitOption = Annotated[
    str, typer.Option("--split", help=f"What is held out: {SPLIT_NAMES}.", **one_of(SPLIT_NAMES))
]
LayerOption = Annotated[str, typer.Option(help="The layer of an .h5ad file with the responses, or X.")]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="Run the fits on a Dask cluster: local:N (N processes here), cuda (one a GPU), tcp://HOST:PORT, or a "
        "scheduler's JSON file. docs/guide/cluster.md."
    ),
]
LogOption = Annotated[
    Path | None, typer.Option(help="A file that gets a line for each fit: worker, seconds, memory.")
]
OverwriteOption = Annotated[bool, typer.Option(help="Replace the results of another run.")]
ResponsesOption = Annotated[
    Path, typer.Option(help="The folder of a run, or a Parquet file or folder that predict wrote.")
]
PairOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CELL TYPE,COMPOUND",
        help='A pair, such as "NK cells,Vorinostat"; may be repeated. Default: the pair of the strongest response, or '
        "with --out all pairs.",
    ),
]
CsvOption = Annotated[
    Path | None, typer.Option(help="A CSV (.csv or .csv.gz) with all rows, in place of the printed table.")
]
ReplaceOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
CheckOption = Annotated[
    Path | None,
    typer.Option(help="A file to check against --id-map and --genes, or those of --run; writes nothing."),
]
FloatFormatOption = Annotated[
    str | None,
    typer.Option(help="Digits in a CSV: 6 (significant) or %.4f. Default: what reads back exactly."),
]
IdMapOption = Annotated[
    Path | None,
    typer.Option(help="A table with the ids in order. Default: the run's test file, or --pairs."),
]
BlockRowsOption = Annotated[
    int | None,
    typer.Option(help="Rows predicted at once, and in a Parquet part. Default: as many as take 256 MB."),
]
DosesOption = Annotated[
    str,
    typer.Option(
        help="Predict every pair at each of these doses in micromolar, such as 0.1,1,10; ids get _0.1uM and so on. "
        "Default: the pairs' column dose_uM."
    ),
]
TimesOption = Annotated[
    str,
    typer.Option(help="The same for times in hours, such as 6,24. Default: the pairs' column time_h."),
]
DrawOption = Annotated[
    str,
    typer.Option(help="Draw the dose–response of these genes (with commas) as a page NAME.doses.html."),
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Start although the nets of the recipe take hours on this CPU.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ReplicatesOption = Annotated[
    Literal["mean", "keep"],
    typer.Option(
        help="Several rows of one compound in one context (cell type, dose, time): their mean, or rows of their own."
    ),
]
MetadataOption = Annotated[
    str, typer.Option("--metadata-columns", help="Numeric columns that are not genes, separated by commas.")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MEANING=NAME",
        help="The column of a meaning, such as cell_type=cell_line; MEANING= says there is none. May be repeated. "
        "docs/guide/data.md has the meanings, and the names known without this option.",
    ),
]
ColumnsOption = Annotated[
    Path | None,
    typer.Option(help='The same as a TOML file, whose table "columns" has lines as cell_type = "cell_line".'),
]
GenesOption = Annotated[
    Path | None, typer.Option(help="A text file with one gene a line: exactly these columns are genes.")
]
GeneColumnOption = Annotated[
    str | None,
    typer.Option(help="The row annotation of an .h5ad, GCT or GCTX file that names the genes."),
]

DemoSeedOption = Annotated[
    int,
    typer.Option(min=0, max=LARGEST_SEED, help="The seed of the simulation, the folds and the boosting."),
]
DemoGenesOption = Annotated[
    int | None, typer.Option(min=1, help="Simulate only this many genes instead of all 18,211.")
]


TrainingPairsOption = Annotated[
    int | None, typer.Option(min=3, help="How many training pairs to draw instead of the competition's 614.")
]
CellTypesOption = Annotated[
    int | None, typer.Option(min=1, help="How many cell types instead of 6; further ones are simulated, too.")
]
CompoundsOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many compounds instead of 146; further ones are simulated, too."),
]


def with_home(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command take `~` in a path for the user's home folder, as a shell does not where it follows a `=`."""

    def expanded(value: Any) -> Any:
        if isinstance(value, list):
            return [expanded(one) for one in value]
        if isinstance(value, Path | str) and str(value).startswith("~"):
            return type(value)(os.path.expanduser(value))  # noqa: PTH111 (an unknown ~user stays as it is)
        return value

    @functools.wraps(command)
    def called(**given: Any) -> Any:
        return command(**{name: expanded(value) for name, value in given.items()})

    return called


def suggest(stages: "LiveStages", why: str, *words: object) -> None:
    """Print the most useful next command, whole, and as a comment why."""
    stages.say(f"next: {shlex.join(['rapids-perturb', *map(str, words)])}  # {why}")


def words_of_run(
    train: Path, test: Path, config: "RunConfig", recipe: str, how: TableOptions, replicates: str
) -> list[str]:
    """Return the words of a run as a study was asked for, without --out."""
    words = ["run", "--train", str(train), "--test", str(test), "--recipe", recipe]
    words += ["--molecules", config.molecules, *words_of(how)]
    words += (
        [] if config.recipe.blend.objective == "mrrmse" else ["--objective", config.recipe.blend.objective]
    )
    return words if replicates == "mean" else [*words, "--replicates", replicates]


def words_of(how: TableOptions) -> list[str]:
    """Return the options of `table_options` that read files so, as words of a command line."""
    given = [("--layer", how.layer)] if how.layer != DEFAULT_LAYER else []
    given += [("--metadata-columns", ",".join(how.metadata_columns))] if how.metadata_columns else []
    given += [("--column", f"{meaning}={name}") for meaning, name in how.columns.items()]
    given += [("--genes", str(how.genes))] if how.genes else []
    given += [("--gene-column", how.gene_column)] if how.gene_column else []
    given += [("--combine", how.combine)] if how.combine != "sum" else []
    return [word for pair in given for word in pair]


def ingest(
    files: "ProblemFiles", device: "DeviceName", stages: "LiveStages", recipe: "Recipe | None" = None
) -> "Problem":
    """Open the problem of a study; print what there is to say of its files, and the engines of a recipe's members.

    Errors as `open_problem` and `engines_of`.
    """
    from rapids_pipeline.data.problem import open_problem

    with stages.stage("ingest"):
        problem = open_problem(files, device)
    for note in problem.notes:
        stages.say(note)
    if recipe is not None:
        from rapids_pipeline.pipeline import engines_of

        for member, engine in engines_of(problem, recipe, device).items():
            stages.say_more(f"{member}: {engine}")
    return problem


def announced(stages: "LiveStages", device: str, config: "RunConfig") -> "Device":
    """Return the device that --device means; it and the molecule features are printed, and why they were chosen."""
    from rapids_pipeline.backend.devices import resolve_device

    found = resolve_device(device)
    stages.say(f"device: {found.name} ({found.reason})")
    stages.say(f"molecules: {shown(config.molecules)} ({config.molecules_because})")
    return found


@contextmanager
def resumable(
    stages: "LiveStages", kept: Path, what: str, again: str = "the same command continues"
) -> Iterator[None]:
    """Say where finished work is kept if what is done inside is stopped."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if kept.exists():
            stages.say(f"finished {what} are kept in {kept}; {again}")
        raise


def folder_of(study: str, name: str) -> Path:
    """Return the result folder of a study that is called after a gene or genes: one folder of runs, always."""
    return Path("runs") / f"{study}-{re.sub('[^A-Za-z0-9_.+-]', '-', name)[:100]}"


def numbers_in(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers in an option's text, which are separated by commas; InputError where one is none."""
    try:
        return tuple(float(number) for number in names_in(text))
    except ValueError:
        raise InputError(
            f"{option} {shown(text)}: give numbers separated by commas, such as 0.1,1,10"
        ) from None
