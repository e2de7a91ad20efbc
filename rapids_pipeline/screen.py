"""Feature screening: which features help to predict one gene.

    python -m rapids_pipeline.screen --target A1BG

Every candidate feature set is scored by the cross-validated RMSE of the same SVR on the same folds. Encodings
that use the target are fitted inside each fold, on its training rows (`features.feature_sets`).
"""

import difflib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from features.feature_sets import FEATURE_SETS, FeatureSet, FeatureTable, Rows, feature_set
from features.molecule_columns import encode_molecules, needs_weights
from features.molecules import molecule_encoder
from rapids_pipeline import demo
from rapids_pipeline.backend.errors import InputError, exits_cleanly
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.config import SvrConfig
from rapids_pipeline.evaluation.splits import canonical_order, random_folds
from rapids_pipeline.ingest import PerturbationData, read_training, training_from_frame
from rapids_pipeline.report import LiveStages, bar_chart
from rapids_pipeline.run_inputs import DEFAULT_LAYER
from rapids_pipeline.runs import require_writable
from rapids_pipeline.svr import MultiTargetSVR


@dataclass(frozen=True)
class ScreenedSet:
    """How one feature set did on one gene.

    Attributes
    ----------
    rmse, rmse_sd : float
        Mean over folds of the held-out RMSE, and its standard deviation over folds, in the target's unit.
    gain : float
        How much lower `rmse` is than that of predicting the training mean.
    columns : int
        Columns of the feature table.
    seconds : float
        Wall-clock time of all folds.
    """

    feature_set: str
    description: str
    rmse: float
    rmse_sd: float
    gain: float
    columns: int
    seconds: float


@dataclass(frozen=True)
class Screen:
    """A finished screen, best set first."""

    target: str
    n_rows: int
    n_folds: int
    seed: int
    molecules: str
    source: str
    mean_rmse: float
    sets: list[ScreenedSet]


def screenable_sets() -> list[str]:
    """Return the names of the feature sets a screen can compare: those that need no first-level run."""
    return [name for name, recipe in FEATURE_SETS.items() if not recipe.needs_predictions]


def default_sets() -> list[str]:
    """Return the screenable sets that ask for no weights beyond those that `--molecules` may ask for."""
    return [name for name in screenable_sets() if not any(map(needs_weights, FEATURE_SETS[name].encoders))]


def screen(
    data: PerturbationData,
    target: str,
    *,
    sets: Sequence[str],
    molecules: str,
    n_folds: int = 5,
    seed: int = 0,
    config: SvrConfig | None = None,
    source: str = "",
    stages: Stages | None = None,
) -> Screen:
    """Score feature sets on one gene by cross-validation.

    Parameters
    ----------
    data : PerturbationData
    target : str
        A gene of `data`.
    sets : sequence of str
        Names of feature sets (`screenable_sets`), or TOML files that define some.
    molecules : str
        As `--molecules` of a run.
    n_folds, seed : int
        Folds of random rows and their seed; the same for all sets.

    Raises
    ------
    InputError
        Unknown gene (the nearest names are given) or feature set, a gene that is constant, or a negative seed.
    """
    stages = stages or Stages()
    if seed < 0:
        raise InputError(f"--seed {seed}: must not be negative")
    molecule_encoder(molecules)  # is there such a one?
    recipes = [_screenable(name).with_molecules(molecules) for name in sets]
    data = data.take(canonical_order(data.obs))
    y = data.Y[:, [gene_index(data.genes, target)]]
    if float(np.ptp(y)) == 0.0:
        raise InputError(f"--target {target}: is {y[0, 0]:g} in every row; there is nothing to predict")
    folds = random_folds(len(y), n_folds, seed)
    with stages.stage("features"):
        encoders = [name for recipe in recipes for name in recipe.encoders]
        rows = Rows(data.obs, encode_molecules(encoders, list(data.obs["SMILES"])).training)
    mean_rmse = float(np.mean([_rmse(y[folds == k], y[folds != k].mean()) for k in range(n_folds)]))
    with stages.stage("screen") as progress, threadpool_limits(1, "blas"):  # products with one column
        progress.start(len(recipes) * n_folds)
        results = [
            _score(recipe, rows, y, folds, config or SvrConfig(), mean_rmse, progress) for recipe in recipes
        ]
    results.sort(key=lambda result: result.rmse)
    return Screen(target, len(y), n_folds, seed, molecules, source, mean_rmse, results)


def gene_index(genes: Sequence[str], target: str) -> int:
    """Return the position of a gene; InputError names the nearest ones where there is none."""
    if target in genes:
        return list(genes).index(target)
    spelled = {gene.casefold(): gene for gene in genes}
    near = [spelled[name] for name in difflib.get_close_matches(target.casefold(), spelled, n=5, cutoff=0.5)]
    hint = f"; nearest names: {', '.join(near)}" if near else f"; the genes are {genes[0]} … {genes[-1]}"
    raise InputError(f"--target {target}: no such gene among {len(genes)}{hint}")


def write_screen(screened: Screen, folder: Path) -> None:
    """Leave screen.csv, screen.json and screen.png in a folder, each written whole or not at all."""
    table = pd.DataFrame([asdict(result) for result in screened.sets])
    with written_atomically(folder / "screen.csv") as path:
        table.to_csv(path, index=False)
    with written_atomically(folder / "screen.json") as path:
        path.write_text(json.dumps(asdict(screened), indent=2) + "\n")
    with written_atomically(folder / "screen.png") as path:
        bar_chart(
            path,
            [result.feature_set for result in screened.sets],
            [result.rmse for result in screened.sets],
            [result.rmse_sd / np.sqrt(screened.n_folds) for result in screened.sets],
            f"{screened.target}: which features help ({screened.n_folds}-fold SVR, {screened.n_rows} rows)",
            "held-out RMSE; the whiskers are the standard error over folds",
            screened.mean_rmse,
            "predicting the mean",
        )


def screen_table(screened: Screen) -> Table:
    """Return the screen as a table for the terminal."""
    table = Table(title=f"Feature sets for {screened.target}", title_justify="left")
    table.add_column("feature set", no_wrap=True)
    for name in ("columns", "RMSE", "± folds", "vs the mean", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in screened.sets:
        table.add_row(
            result.feature_set,
            str(result.columns),
            f"{result.rmse:.4f}",
            f"{result.rmse_sd:.4f}",
            f"{-result.gain:+.4f}",
            f"{result.seconds:.2f}",
        )
    return table


@exits_cleanly
def command(
    target: Annotated[str, typer.Option(help="The gene to screen on.")] = "A1BG",
    train: Annotated[Path | None, typer.Option(help="Training file; without one, the demo data.")] = None,
    features: Annotated[
        str,
        typer.Option(
            help="Feature sets or .toml files, separated by commas, or 'all' (that need no weights)."
        ),
    ] = "all",
    molecules: Annotated[
        str, typer.Option(help="morgan, descriptors, chemberta, a folder of weights or a hub id.")
    ] = "morgan",
    folds: Annotated[int, typer.Option(help="Cross-validation folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    layer: Annotated[str, typer.Option(help="Layer of an .h5ad training file.")] = DEFAULT_LAYER,
    out: Annotated[Path | None, typer.Option(help="Result folder; default runs/screen-TARGET.")] = None,
) -> None:
    """Compare feature sets on one gene: cross-validated RMSE of the SVR, as a table and a bar chart."""
    stages, console = LiveStages(), Console()
    folder = out or Path("runs") / f"screen-{target}"
    require_writable(folder)
    with stages.stage("ingest"):
        if train is None:
            data, source = training_from_frame(demo.simulate().de_train, "demo"), "demo data (simulated)"
        else:
            data, source = read_training(train, layer=layer), str(train)
    names = default_sets() if features == "all" else [name.strip() for name in features.split(",")]
    screened = screen(
        data,
        target,
        sets=names,
        molecules=molecules,
        n_folds=folds,
        seed=seed,
        source=source,
        stages=stages,
    )
    write_screen(screened, folder)
    console.print(screen_table(screened))
    left_out = [name for name in screenable_sets() if features == "all" and name not in names]
    if left_out:
        console.print(
            f"left out, as they need weights: {', '.join(left_out)} (--features takes them by name)"
        )
    console.print(f"predicting the mean: RMSE {screened.mean_rmse:.4f}; data: {source}", highlight=False)
    console.print(f"written: {folder}/screen.csv, screen.json, screen.png", highlight=False, soft_wrap=True)


def _screenable(name: str) -> FeatureSet:
    recipe = feature_set(name)
    if recipe.needs_predictions:
        raise InputError(
            f"feature set {name!r} stacks on first-level predictions and cannot be screened; choose among "
            f"{', '.join(screenable_sets())}"
        )
    return recipe


def _score(
    recipe: FeatureSet,
    rows: Rows,
    y: NDArray[np.float32],
    folds: NDArray[np.intp],
    config: SvrConfig,
    mean_rmse: float,
    progress: Progress,
) -> ScreenedSet:
    began = time.perf_counter()
    errors, columns = [], 0
    for k in range(int(folds.max()) + 1):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        table = FeatureTable(recipe)
        X = table.fit_transform(rows.take(inside), y[inside])
        svr = MultiTargetSVR(**config.model_dump(exclude={"features"})).fit(X, y[inside])
        errors.append(_rmse(y[outside], svr.predict(table.transform(rows.take(outside)))))
        columns = sum(table.columns_.values())
        progress.advance()
    rmse = float(np.mean(errors))
    return ScreenedSet(
        recipe.name,
        recipe.description,
        rmse,
        float(np.std(errors, ddof=1)),
        mean_rmse - rmse,
        columns,
        round(time.perf_counter() - began, 3),
    )


def _rmse(truth: NDArray[np.float32], predicted: NDArray[np.float32] | np.floating) -> float:
    return float(np.sqrt(np.mean((truth - predicted) ** 2)))


if __name__ == "__main__":
    typer.run(command)
