"""One folder in, one folder out: what a container does unless told otherwise.

Files go by the competition's names: de_train, id_map and maybe de_test, the truth. No files mean the demo.
"""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError, visible
from rapids_pipeline.commands import demo, options
from rapids_pipeline.commands.run import run_files

DataOption = Annotated[
    Path, typer.Option(help="Folder with de_train.* and id_map.*. Without files: the demo.")
]
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def command(
    data: DataOption,
    out: options.OutOption,
    molecules: options.MoleculesOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    device: options.DeviceOption = "auto",
    seed: options.DemoSeedOption = 0,
    demo_genes: options.DemoGenesOption = None,
    overwrite: options.OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Run on the training file and the pairs of a folder; where it holds nothing, run the demo."""
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.stack.changes import RecipeChanges, run_config

    if (found := files_in(data)) is None:
        typer.echo(visible(f"{data} holds no files: the demo on built-in, simulated data"), err=as_json)
        demo.command(
            out, molecules, device, recipe, quick, seed, demo_genes, overwrite=overwrite, as_json=as_json
        )
        return
    config = run_config("quick" if quick else recipe, RecipeChanges(), molecules, seed)
    train, pairs, truth = found
    if demo_genes is not None:
        raise InputError(f"--demo-genes is for the demo, and {data} holds {train.name}; leave it out")
    run_files(ProblemFiles(train, pairs), out, config, device, overwrite, truth=truth, as_json=as_json)


def files_in(folder: Path) -> tuple[Path, Path, Path | None] | None:
    """Return training file, pairs and maybe the truth by name, None where no file is (InputError: one is missing)."""
    try:
        entries = folder.iterdir() if folder.exists() else ()
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"--data {folder}: cannot be read ({error.strerror})") from error
    if set(names) <= {"lost+found"}:
        return None
    found: list[Path | None] = []
    for stem, h5ad in (("de_train", True), ("id_map", False), ("de_test", True)):
        known = [name for name in names if name in {stem + end for end in SUFFIXES + (".h5ad",) * h5ad}]
        if len(known) > 1:
            raise InputError(f"--data {folder}: holds {' and '.join(known)}; leave one of them")
        found.append(folder / known[0] if known else None)
    train, pairs, truth = found
    if train is None or pairs is None:
        lacks = (
            "training file; expected de_train"
            if train is None
            else "file of pairs to predict; expected id_map"
        )
        raise InputError(f"--data {folder}: no {lacks} with one of {', '.join(SUFFIXES)}")
    return train, pairs, truth
