"""One folder in, one folder out: what a container does unless told otherwise.

    rapids-perturb start --data /data --out /out

Where the folder holds a training file and the pairs to predict, the pipeline runs on them; an empty or missing folder
means the demo. The files go by the competition's names:

    de_train.parquet | .h5ad | .csv | .tsv (also .gz)     training file
    id_map.csv | .tsv (also .gz) | .parquet               pairs to predict
    de_test.parquet | .h5ad | …                           optional: the truth, to score against
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError, exits_cleanly
from rapids_pipeline.commands.options import DeviceOption, OverwriteOption, QuickOption
from rapids_pipeline.data.columns import DEFAULT_LAYER

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
TRAINING, PAIRS, TRUTH = "de_train", "id_map", "de_test"


@dataclass(frozen=True)
class FolderFiles:
    """What a folder holds: training file, pairs to predict, and the truth where it is there."""

    train: Path
    pairs: Path
    truth: Path | None


@exits_cleanly
def command(
    data: Annotated[
        Path, typer.Option(help="Folder with de_train.* and id_map.*; empty or missing: the demo.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    molecules: Annotated[
        str | None,
        typer.Option(
            envvar="RAPIDS_PERTURB_MOLECULES",
            help="Molecule features, as for run (default there: chemberta). The demo takes morgan, unless told here.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="As for run. Default: standard; for the demo published.")
    ] = None,
    quick: QuickOption = False,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of folds and boosting, and of the demo's simulation.")] = 0,
    demo_genes: Annotated[
        int | None, typer.Option(help="Only the first so many genes of the demo; default all 18,211.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Run on a folder's training file and pairs; where it holds nothing, on the built-in data."""
    from rapids_pipeline.commands import terminal
    from rapids_pipeline.commands.run_options import RecipeChanges, run_config
    from rapids_pipeline.data.problem import ProblemFiles

    found = files_in(data)
    name = "quick" if quick else recipe or "best"
    config = run_config(name, RecipeChanges(), molecules or ("chemberta" if found else "morgan"), seed)
    if found is None:
        typer.echo(f"{data} holds no files: the demo on built-in, simulated data")
        terminal.demo(out, config, device, seed=seed, genes=demo_genes, overwrite=overwrite)
        return
    if demo_genes is not None:
        raise InputError(f"--demo-genes is for the demo, and {data} holds {found.train.name}; leave it out")
    terminal.run(ProblemFiles(found.train, found.pairs), out, config, device, overwrite)
    if found.truth is not None:
        terminal.evaluate(out / "submission.csv", found.truth, found.train, DEFAULT_LAYER, as_json=False)


def files_in(folder: Path) -> FolderFiles | None:
    """Return the files of a folder by their names; None where it is missing or holds nothing but hidden files.

    Raises
    ------
    InputError
        It is no folder, cannot be read, holds other files only, lacks one of the two that are needed, or has two of a
        kind.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"--data {folder}: cannot be read ({error.strerror})") from error
    names = [name for name in names if name != "lost+found"]
    if not names:
        return None
    train = _one_of(folder, names, TRAINING, (*SUFFIXES, ".h5ad"))
    pairs = _one_of(folder, names, PAIRS, SUFFIXES)
    for found, stem, what in ((train, TRAINING, "training file"), (pairs, PAIRS, "file of pairs to predict")):
        if found is None:
            raise InputError(f"--data {folder}: no {what}; expected {stem} with one of {', '.join(SUFFIXES)}")
    assert train is not None
    assert pairs is not None
    return FolderFiles(train, pairs, _one_of(folder, names, TRUTH, (*SUFFIXES, ".h5ad")))


def _one_of(folder: Path, names: list[str], stem: str, suffixes: tuple[str, ...]) -> Path | None:
    """Return the only file of a stem with one of the suffixes, None where there is none."""
    found = [name for name in names if name in {stem + suffix for suffix in suffixes}]
    if len(found) > 1:
        raise InputError(f"--data {folder}: holds {' and '.join(found)}; leave one of them")
    return folder / found[0] if found else None
