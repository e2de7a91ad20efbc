"""Tuning: the settings of a recipe's composite kernels that are best on rows like the pairs to predict.

    rapids-perturb tune --train de_train.parquet --test id_map.csv --out runs/tune --minutes 10

The first member among the recipe's kernels is tuned, each of its machines on held-out rows like those that it will
serve (`rapids_pipeline.studies.tune.task`), by exact fits (`rapids_pipeline.studies.tune.objective`). The first trial
is the recipe as it is. Leaves a recipe for `rapids-perturb run --recipe`.
"""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from features.molecules.encoders import encode_molecules
from features.rows import Pairs, Rows
from rapids_pipeline.backend.devices import Device, resolve_device
from rapids_pipeline.backend.errors import InputError, exits_cleanly
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.backend.run_folder import require_writable
from rapids_pipeline.backend.versions import provenance
from rapids_pipeline.commands.options import (
    DeviceOption,
    LayerOption,
    MetadataOption,
    MoleculesOption,
    RecipeOption,
    names_in,
)
from rapids_pipeline.commands.run_options import RecipeChanges, run_config
from rapids_pipeline.data.columns import DEFAULT_LAYER
from rapids_pipeline.data.problem import ProblemFiles, canonical_order, open_problem
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.splits import SPLITS, same_compound
from rapids_pipeline.reports.tune_live import SEARCH, LiveTrials
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.recipe import Recipe, RunConfig
from rapids_pipeline.studies.tune.limits import Limits, Watcher
from rapids_pipeline.studies.tune.objective import KEPT_BYTES, KeptComponents, Objective
from rapids_pipeline.studies.tune.space import MachineSpace
from rapids_pipeline.studies.tune.task import AUTO, plan

if TYPE_CHECKING:
    from rapids_pipeline.studies.tune.results import Tuned
    from rapids_pipeline.studies.tune.study import MachineStudy


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for: the split, one of `SPLITS` or "auto" (most like the pairs), the seed, and limits."""

    split: str = AUTO
    seed: int = 0
    minutes: float = 10.0
    trials: int | None = None


def tune(
    data: PerturbationData,
    pairs: pd.DataFrame | None,
    request: TuneRequest,
    config: RunConfig,
    device: Device,
    folder: Path,
    *,
    source: str = "",
    stages: Stages | None = None,
    watcher: Watcher | None = None,
) -> "tuple[Tuned, Recipe]":
    """Tune the first composite member of a recipe.

    Parameters
    ----------
    data : PerturbationData
        Rows in any order.
    pairs : DataFrame, optional
        `cell_type`, `sm_name` and `SMILES` of the pairs to predict.
    request : TuneRequest
    config : RunConfig
        With the recipe, and the encoder for rbf(molecules).
    device : Device
    folder : Path
        Where the study is kept, and looked for.
    source : str
        Where the data are from, for the report.
    stages : Stages, optional
    watcher : Watcher, optional

    Raises
    ------
    InputError
        The recipe has no kernels, a limit or the split cannot be used, the folder holds another study, or the time was
        over before there was a trial.
    """
    from rapids_pipeline.studies.tune.results import Tuned, results_of, tuned_recipe
    from rapids_pipeline.studies.tune.study import search

    stages, limits = stages or Stages(), Limits(request.minutes, request.trials)
    if not any(isinstance(member, CompositeMember) for member in config.recipe.members):
        raise InputError(
            f"--recipe {config.recipe.name}: has no composite kernel to tune; take best, or a recipe with a member of "
            "kind composite"
        )
    data = data.take(canonical_order(data.obs))
    with stages.stage("features"):
        found, tuned_on = _opened(data, pairs, request, config, device, folder)
    with stages.stage(SEARCH):
        search(found, limits, watcher or Watcher())
    with stages.stage("scores"):
        compounds = same_compound(data.obs["sm_name"].to_numpy(str), data.obs["SMILES"].to_numpy(str))
        machines, change = results_of(found, compounds, request.seed)
    named = {"recipe": config.recipe.name, "molecules": config.molecules, "source": source}
    result = Tuned(machines, change, tuned_on, asdict(request) | named, _provenance(config, device, stages))
    return result, tuned_recipe(config.recipe, found, source)


def _opened(
    data: PerturbationData,
    pairs: pd.DataFrame | None,
    request: TuneRequest,
    config: RunConfig,
    device: Device,
    folder: Path,
) -> "tuple[list[MachineStudy], list[str]]":
    """Return the studies to work on, and in words what is tuned on what."""
    from rapids_pipeline.studies.tune.identity import identity_of
    from rapids_pipeline.studies.tune.study import open_studies

    member = next(member for member in config.recipe.members if isinstance(member, CompositeMember))
    encoders = member.with_molecules(config.molecules).encoders
    train = Rows(data.obs, encode_molecules(encoders, list(data.obs["SMILES"]), (), device.name).training)
    rows = Pairs.of(train, encoders)
    planned = plan(data.obs, data.Y, rows, pairs, request.split, request.seed)
    parts = []
    for duty in planned.duties:
        kept = KeptComponents(KEPT_BYTES // len(planned.duties))
        objective = Objective(duty.lots, rows, data.Y, device.name, config.molecules, kept)
        space = MachineSpace.of(getattr(member, duty.machine), duty.fewest_rows)
        parts.append((duty, space, objective))
    identity = identity_of(data, train, member, planned.duties, config.molecules, device.name, request.seed)
    return open_studies(folder, parts, identity, request.seed), list(planned.sentences)


@exits_cleanly
def command(
    train: Annotated[Path, typer.Option(help="Training file: .parquet, .h5ad, .csv or .tsv.")],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Pairs to predict: what is held out is like them, for each machine that they need."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results and the study.")] = Path("runs/tune"),
    recipe: RecipeOption = "best",
    minutes: Annotated[float, typer.Option(help="Time for trials in this session.")] = 10.0,
    trials: Annotated[
        int | None,
        typer.Option(
            help="End at so many trials, earlier sessions included. Default: when the time is over."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help=f"What is held out: {', '.join(SPLITS)}; or auto, most like --test.")
    ] = AUTO,
    seed: Annotated[int, typer.Option(help="Seed of folds and trials.")] = 0,
    molecules: MoleculesOption = "auto",
    device: DeviceOption = "auto",
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: MetadataOption = "",
) -> None:
    """Tune a recipe's composite kernels on held-out rows like the pairs to predict; leaves a recipe for run."""
    from rapids_pipeline.reports import tune as report
    from rapids_pipeline.studies.tune.study import FILE

    config = run_config(recipe, RecipeChanges(), molecules, seed)
    request = TuneRequest(split, seed, minutes, trials)
    shown = LiveTrials(Limits(minutes, trials))
    chosen, console = resolve_device(device), Console()
    require_writable(out)
    with shown.stage("ingest"):
        problem = open_problem(ProblemFiles(train, test, layer, names_in(metadata_columns)), chosen.name)
    try:
        found, tuned = tune(
            problem.data,
            problem.pairs,
            request,
            config,
            chosen,
            out,
            source=problem.source,
            stages=shown,
            watcher=shown,
        )
    except KeyboardInterrupt:
        shown.console.print(
            f"finished trials are kept in {out}/{FILE}; the same command continues (with --trials 1 it only reports)",
            soft_wrap=True,
        )
        raise
    found.provenance["inputs"] = problem.inputs
    report.write_tuning(found, tuned, out)
    console.print(report.score_table(found))
    if any(report.most_moved(machine) for machine in found.machines):
        console.print(report.parameter_table(found))
    for sentence in report.sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"written: {out}/{', '.join(report.FILES)}", highlight=False, soft_wrap=True)
    use = _use(train, test, out / report.RECIPE, molecules, layer, metadata_columns)
    console.print(f"use it: {use}", highlight=False, soft_wrap=True, markup=False)


def _use(train: Path, test: Path | None, recipe: Path, molecules: str, layer: str, metadata: str) -> str:
    """Return the command that uses a tuned recipe."""
    words = ["rapids-perturb", "run", "--train", str(train), "--test", str(test or "id_map.csv")]
    words += ["--out", "runs/tuned", "--molecules", molecules, "--recipe", str(recipe)]
    words += [] if layer == DEFAULT_LAYER else ["--layer", layer]
    words += ["--metadata-columns", metadata] if metadata else []
    return shlex.join(words)


def _provenance(config: RunConfig, device: Device, stages: Stages) -> dict[str, Any]:
    return {
        **provenance(),
        "device": f"{device.name} ({device.reason})",
        "seconds": dict(stages.seconds),
        "config": config.model_dump(mode="json"),
    }
