"""Options that several subcommands share."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rapids_pipeline.backend.devices import Device
    from rapids_pipeline.reports.page import LiveStages
    from rapids_pipeline.stack.recipe import RunConfig

TrainOption = Annotated[Path, typer.Option(help="Training file: .parquet, .h5ad, .csv or .tsv.")]
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
        "auto takes ChemBERTa where its weights are on this machine, and morgan elsewhere.",
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
SeedOption = Annotated[int, typer.Option(help="The seed of the folds and of the boosting.")]
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
SPLIT_NAMES = "random, compound, scaffold, cell_type, joint, scarce, made_scarce, published, cluster"
SplitOption = Annotated[
    str, typer.Option(help=f"What is held out: {SPLIT_NAMES}; or auto, which is most like --test.")
]
LayerOption = Annotated[str, typer.Option(help="The layer of an .h5ad file with the responses, or X.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace the results of another run.")]
MetadataOption = Annotated[
    str, typer.Option("--metadata-columns", help="Numeric columns that are not genes, separated by commas.")
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


def announce(stages: "LiveStages", device: "Device", config: "RunConfig") -> None:
    """Print the device and the molecule features, and why they were chosen."""
    stages.say(f"device: {device.name} ({device.reason})")
    stages.say(f"molecules: {config.molecules} ({config.molecules_because})")


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a text, which are separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
