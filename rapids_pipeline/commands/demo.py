"""`demo`: simulate data in the competition's layout, run the pipeline on them, and score the hidden truth."""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import evaluate, options
from rapids_pipeline.commands.run import run_files

SeedOption = Annotated[int, typer.Option(help="The seed of the simulation, the folds and the boosting.")]
GenesOption = Annotated[int | None, typer.Option(help="Simulate only this many genes instead of all 18,211.")]


@options.with_several
def command(
    out: Annotated[Path, typer.Option(help="Folder for the simulated data and the results.")] = Path(
        "runs/demo"
    ),
    molecules: options.MoleculesOption = "auto",
    device: options.DeviceOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    seed: SeedOption = 0,
    genes: GenesOption = None,
    data_only: Annotated[bool, typer.Option(help="Only write the simulated files.")] = False,
    where: options.Where = options.HERE,
    overwrite: options.OverwriteOption = False,
) -> None:
    """Simulate a data set in the competition's layout, run the pipeline on it and score the hidden truth."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.backend.files import MANIFEST, require_writable
    from rapids_pipeline.data.demo import write_demo
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.reports.page import LiveStages

    config = options.run_config("quick" if quick else recipe, options.RecipeChanges(), molecules, seed)
    resolve_device(device)  # before anything is written
    require_writable(out)
    if (out / MANIFEST).exists() and not overwrite:  # its results must not lose the data they were made from
        raise InputError(f"--out {out}: holds a run's results; choose another folder or add --overwrite")
    with LiveStages().stage("simulate"):
        files = write_demo(out / "data", seed, genes)
    if data_only:
        typer.echo(f"written: {files.train}, {files.test}, {files.truth}")
        return
    run_files(ProblemFiles(files.train, files.test), out, config, device, overwrite, where)
    evaluate.command(out / "submission.csv", files.truth, files.train)
