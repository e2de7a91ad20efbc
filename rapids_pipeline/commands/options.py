"""Options that several subcommands share, and the way from them to one validated `RunConfig`.

What cannot be used is named by its option. What is heavy is imported where it is used, so that help answers at once.
"""

import functools
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from rapids_pipeline.backend.errors import InputError, shown
from rapids_pipeline.backend.settings import LARGEST_SEED, message_of
from rapids_pipeline.data.columns import DEFAULT_LAYER, TableOptions, chosen_columns

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from features.feature_sets import FeatureSet
    from rapids_pipeline.backend.devices import Device, DeviceName
    from rapids_pipeline.backend.parallel import Executor
    from rapids_pipeline.data.problem import Problem, ProblemFiles
    from rapids_pipeline.reports.page import LiveStages
    from rapids_pipeline.stack.members.member import Member
    from rapids_pipeline.stack.members.svr import AnySvrMember
    from rapids_pipeline.stack.recipe import Recipe, RunConfig

T = TypeVar("T")

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
CombineOption = Annotated[
    Literal["sum", "mean"],
    typer.Option(
        help="What a table of --molecules gives a combination A+B without a row: sum or mean of A and B."
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="The device: cpu, cuda, or auto, which takes the GPU where a run can start.")
]
RecipeOption = Annotated[
    str,
    typer.Option(help="The recipe: a name (`rapids-perturb recipes` lists them) or a .toml file."),
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Take a first look: the same as --recipe quick.")]
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
SplitOption = Annotated[
    str, typer.Option(help=f"What is held out: {SPLIT_NAMES}; or auto, which is most like --test.")
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
    int | None, typer.Option(min=3, help="Draw so many training pairs instead of the competition's 614.")
]
CellTypesOption = Annotated[
    int | None, typer.Option(min=1, help="So many cell types instead of 6; further ones are simulated, too.")
]
CompoundsOption = Annotated[int | None, typer.Option(min=1, help="So many of the 146 compounds.")]


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


def table_options(
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: MetadataOption = "",
    column: ColumnOption = None,
    columns: ColumnsOption = None,
    genes: GenesOption = None,
    gene_column: GeneColumnOption = None,
    combine: CombineOption = "sum",
) -> TableOptions:
    """Return how files are read; errors as `chosen_columns`."""
    chosen = chosen_columns(column or (), columns)
    return TableOptions(layer, names_in(metadata_columns), chosen, genes, gene_column, combine=combine)


def words_of(how: TableOptions) -> list[str]:
    """Return the options of `table_options` that read files so, as words of a command line."""
    given = [("--layer", how.layer)] if how.layer != DEFAULT_LAYER else []
    given += [("--metadata-columns", ",".join(how.metadata_columns))] if how.metadata_columns else []
    given += [("--column", f"{meaning}={name}") for meaning, name in how.columns.items()]
    given += [("--genes", str(how.genes))] if how.genes else []
    given += [("--gene-column", how.gene_column)] if how.gene_column else []
    given += [("--combine", how.combine)] if how.combine != "sum" else []
    return [word for pair in given for word in pair]


FITS_IMPORT = (
    "rapids_pipeline.stack.nested",
    "features.target_encoders",
    "rapids_pipeline.boosting.exact.engine",
)
"""What fits import when they begin: scikit-learn, SciPy and numba take a second to load."""


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


def where_options(cluster: ClusterOption = None, log: LogOption = None) -> Where:
    """Return where fits run."""
    return Where(cluster, log)


SEVERAL: dict[str, Callable[..., Any]] = {"how": table_options, "where": where_options}
"""Parameters of commands that stand for several options, and the functions that have these options."""


def with_several(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `SEVERAL`, in the places of its parameters `how` and `where`."""
    own = inspect.signature(command)
    taken = {
        name: inspect.signature(make).parameters for name, make in SEVERAL.items() if name in own.parameters
    }

    @functools.wraps(command)
    def called(*words: Any, **given: Any) -> Any:
        for name, options in taken.items():
            read = {option: given.pop(option) for option in options if option in given}
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


def ingest(files: "ProblemFiles", device: "DeviceName", stages: "LiveStages") -> "Problem":
    """Open the problem of a study and print what there is to say of its files; errors as `open_problem`."""
    from rapids_pipeline.data.problem import open_problem

    with stages.stage("ingest"):
        problem = open_problem(files, device)
    for note in problem.notes:
        stages.say(note)
    return problem


def announce(stages: "LiveStages", device: "Device", config: "RunConfig") -> None:
    """Print the device and the molecule features, and why they were chosen."""
    stages.say(f"device: {device.name} ({device.reason})")
    stages.say(f"molecules: {shown(config.molecules)} ({config.molecules_because})")


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a text, which are separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class RecipeChanges:
    """What options change in a recipe; None leaves it as it is.

    Attributes
    ----------
    folds : int
    engine : str
        Of the members of kind svr.
    boosting_engine : str
        Of all boosters.
    svr_features : str
        Feature sets separated by commas: one SVR member each, in the place of the recipe's SVRs of the first level and
        with the settings of the first of them; a set with columns of each gene's own makes an own_target_svr.
    boosting_features : str
        Of all boosters.
    """

    folds: int | None = None
    engine: str | None = None
    boosting_engine: str | None = None
    svr_features: str | None = None
    boosting_features: str | None = None


def folder_of(study: str, name: str) -> Path:
    """Return the result folder of a study that is called after a gene or genes: one folder of runs, always."""
    return Path("runs") / f"{study}-{re.sub('[^A-Za-z0-9_.+-]', '-', name)[:100]}"


def run_config(name: "str | Recipe", changes: RecipeChanges, molecules: str, seed: int) -> "RunConfig":
    """Return the settings of a run by a recipe or its name; the molecules "auto" become what can be had here.

    Raises
    ------
    InputError
        There is no such recipe or feature set, or a value is out of range; the message names the option.
    """
    from features.molecules.weights import chosen_encoder
    from rapids_pipeline.stack.named_recipes import recipe
    from rapids_pipeline.stack.recipe import RunConfig

    changed = changed_recipe(recipe(name) if isinstance(name, str) else name, changes)
    encoder, because = chosen_encoder(molecules)
    settings: dict[str, Any] = {"recipe": changed, "molecules": encoder, "molecules_because": because}
    return _named("--seed", lambda: RunConfig(**settings, seed=seed))


def changed_recipe(found: "Recipe", changes: RecipeChanges) -> "Recipe":
    """Return a recipe with the changes made; errors as `run_config`."""
    from features.feature_sets import feature_set

    if changes.folds is not None:
        found = _named("--folds", lambda: found.updated(n_folds=changes.folds))
    if changes.svr_features is not None:
        sets = [feature_set(name) for name in names_in(changes.svr_features)]
        found = _named("--svr-features", lambda: _with_svrs(found, sets))
    for option, kind, setting, value in (
        ("--boosting-features", "booster", "features", changes.boosting_features),
        ("--engine", "svr", "engine", changes.engine),
        ("--boosting-engine", "booster", "engine", changes.boosting_engine),
    ):
        if value is not None:
            found = _named(option, partial(_with_setting, found, option, kind, setting, value))
    return found


def _with_setting(found: "Recipe", option: str, kind: str, setting: str, value: str) -> "Recipe":
    """Return a recipe whose members of a kind have another setting."""
    from features.feature_sets import feature_set

    if not any(member.kind == kind for member in found.members):
        raise InputError(
            f"{option}: the recipe {found.name} has no member of kind {kind}: give --recipe another"
        )
    changed: dict[str, Any] = {setting: value}
    if setting == "features":
        changed["features"] = feature_set(value)
        changed |= {} if changed["features"].needs_predictions else {"stacks_on": ()}
    return found.with_members(*(m.updated(**changed) if m.kind == kind else m for m in found.members))


def _with_svrs(found: "Recipe", sets: "Sequence[FeatureSet]") -> "Recipe":
    """Return a recipe with one SVR a feature set where its SVRs of the first level were."""
    from rapids_pipeline.stack.members.svr import AnySvrMember

    old = [m for m in found.members if isinstance(m, AnySvrMember) and not m.stacks_on]
    if not old:
        raise InputError(
            f"--svr-features: the recipe {found.name} has no SVR of the first level: give --recipe another"
        )
    new = [_svr_like(old[0], features) for features in sets]
    names = {member.name for member in old}

    def renamed(listed: Sequence[str]) -> list[str]:
        place = next((place for place, name in enumerate(listed) if name in names), None)
        kept = [name for name in listed if name not in names]
        return kept if place is None else [*kept[:place], *(svr.name for svr in new), *kept[place:]]

    members: list[Member] = []
    for member in found.members:
        if member is old[0]:
            members += new
        elif member.name not in names:
            labels = member.pseudo_labels.updated(teacher=renamed(member.pseudo_labels.teacher))
            members.append(member.updated(stacks_on=renamed(member.stacks_on), pseudo_labels=labels))
    return found.with_members(*members)


def _svr_like(other: "AnySvrMember", features: "FeatureSet") -> "AnySvrMember":
    """Return an SVR on a feature set, called like it, with the settings of another SVR."""
    from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember

    kind = OwnTargetSvrMember if features.own_target else SvrMember
    if features.own_target and getattr(other, "kernel", "rbf") != "rbf":
        raise InputError(
            f"--svr-features: {features.name} gives every gene columns of its own, which needs kernel = 'rbf'"
        )
    fields = set(kind.model_fields) & set(type(other).model_fields) - {"kind", "name", "features"}
    settings: dict[str, Any] = {name: getattr(other, name) for name in fields}
    return kind(**settings, features=features)


def _named(option: str, make: Callable[[], T]) -> T:
    """Return what `make` makes; an InputError that names the option where the values cannot be used."""
    from pydantic import ValidationError

    try:
        return make()
    except ValidationError as error:
        raise InputError(f"{option}: {message_of(error.errors(include_url=False)[0])}") from None


def numbers_in(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers in an option's text, which are separated by commas; InputError where one is none."""
    try:
        return tuple(float(number) for number in names_in(text))
    except ValueError:
        raise InputError(
            f"{option} {shown(text)}: give numbers separated by commas, such as 0.1,1,10"
        ) from None
