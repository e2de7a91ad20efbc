"""Options that several subcommands share."""

from typing import Annotated

import typer

MoleculesOption = Annotated[
    str,
    typer.Option(
        help="Molecule features: chemberta (DeepChem/ChemBERTa-10M-MTR), morgan (RDKit fingerprints), descriptors "
        "(RDKit's, standardised), a folder with the weights of a SMILES transformer, or a hub id."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
RecipeOption = Annotated[
    str, typer.Option(help="Recipe: a name (rapids-perturb recipes lists them) or a .toml file.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="A first look: the same as --recipe quick.")]
EngineOption = Annotated[
    str | None,
    typer.Option(help="Engine of the SVRs on shared features: auto, smo, douglas-rachford, sklearn or cuml."),
]
BoostingEngineOption = Annotated[
    str | None, typer.Option(help="Boosting engine: auto, or one of those in docs/boosting.md.")
]
SvrFeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="Feature sets of the SVRs, one member each, separated by commas: names (rapids-perturb features "
        "lists them) or .toml files. Default: the recipe's."
    ),
]
BoostingFeaturesOption = Annotated[str | None, typer.Option(help="Feature set of the booster, likewise.")]
LayerOption = Annotated[str, typer.Option(help="Layer of an .h5ad file that holds the responses, or X.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace the results of another run.")]
MetadataOption = Annotated[
    str, typer.Option("--metadata-columns", help="Numeric columns that are not genes, separated by commas.")
]


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a text, which are separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
