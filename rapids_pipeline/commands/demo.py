"""`demo`: simulate data in the competition's layout, run the pipeline on them, and score the hidden truth."""

from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.commands.run import run_files

if TYPE_CHECKING:
    from rapids_pipeline.data.demo import DemoFiles


@option_groups.with_several
def command(
    out: Annotated[Path, typer.Option(help="Folder for the simulated data and the results.")] = Path(
        "runs/demo"
    ),
    molecules: options.MoleculesOption = "auto",
    device: options.DeviceOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    seed: options.DemoSeedOption = 0,
    genes: options.DemoGenesOption = None,
    objective: options.ObjectiveOption = None,
    training_pairs: options.TrainingPairsOption = None,
    cell_types: options.CellTypesOption = None,
    compounds: options.CompoundsOption = None,
    data_only: Annotated[bool, typer.Option(help="Only write the simulated files.")] = False,
    where: option_groups.Where = option_groups.HERE,
    overwrite: options.OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Simulate a data set in the competition's layout, run the pipeline on it and score the hidden truth."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.backend.locks import locked
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.reports.page import LiveStages, print_found
    from rapids_pipeline.stack.changes import RecipeChanges, run_config

    config = run_config("quick" if quick else recipe, RecipeChanges(objective=objective), molecules, seed)
    resolve_device(device)  # before anything is written
    sizes = {"training_pairs": training_pairs, "cell_types": cell_types, "compounds": compounds}
    size = {name: number for name, number in sizes.items() if number is not None}
    with LiveStages().stage("simulate"), locked(out):
        try:
            files = simulated(out, seed, genes, size, overwrite)
        except OSError as error:  # such as a folder that was deleted meanwhile
            raise InputError(f"--out {out}: cannot be written ({error.strerror}); make room there") from error
    if data_only:
        print_found(asdict(files), as_json, f"written: {', '.join(map(str, astuple(files)))}")
        return
    asked = ProblemFiles(files.train, files.test)
    run_files(asked, out, config, device, overwrite, where, truth=files.truth, as_json=as_json)


def simulated(out: Path, seed: int, genes: int | None, size: dict[str, int], overwrite: bool) -> "DemoFiles":
    """Write the data of a demo to `out`/data; InputError where `out` holds the results of a run on others."""
    from tempfile import TemporaryDirectory

    from rapids_pipeline.backend.files import MANIFEST, UNFINISHED, recorded_hash, sha256_of
    from rapids_pipeline.data.demo import DemoFiles, Size, write_demo

    with TemporaryDirectory(prefix=UNFINISHED, dir=out) as folder:
        made = write_demo(Path(folder), seed, genes, Size(**size) if size else None)
        hashes = {name: recorded_hash(out / MANIFEST, name) for name in ("train", "test")}
        same = hashes == {"train": sha256_of(made.train), "test": sha256_of(made.test)}
        if (out / MANIFEST).exists() and not (
            same or overwrite
        ):  # they must not lose what they were made from
            raise InputError(f"--out {out}: holds a run's results; choose another folder or add --overwrite")
        (out / "data").mkdir(exist_ok=True)
        return DemoFiles(*(path.replace(out / "data" / path.name) for path in astuple(made)))
