"""What doses and times are worth: unseen ones of known compounds in Open TG-GATEs, against baselines and without them.

    python -m benchmarks.accuracy.contexts [--data FOLDER] [--recipe best] [--work FOLDER] [--table FILE] [--out FILE]

`responses` makes the training table of `../shared/data/tggates`: log2 expression less the mean of the controls of the
same compound, time and batch. Of the 146 compounds 33 have SMILES. So there are two tasks: all compounds, told apart by
name (`--molecules none`), and the rows of the 33 with their structures (`--molecules morgan`).

For each task and each of the splits `random`, `compound`, `dose` and `time` the program prints the MRRMSE of the recipe
and of every baseline with the difference from the recipe. For `dose` and `time` it also prints that of the recipe's
composite member alone: as it is, and without the factor `dose` or `time` in its `context_weights`. Intervals are of
95 %, compounds drawn. Finished splits are kept in `--work`. It writes benchmarks/results/accuracy_contexts.json and
.md.

The `context_weights` were chosen among about fifteen settings on these very rows and splits, so the margin over the
baselines is optimistic.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import harness
from benchmarks.accuracy.jobs import versions
from features.molecules import NONE, reads_structures
from features.molecules.table import encode_compounds
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.devices import resolve_device
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import bootstrap_units, named_splits
from rapids_pipeline.evaluation.uncertainty import paired_intervals, replicate_weights
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import recipe
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies.cv import CvRequest, cross_validate

METADATA = ["cell_type", "sm_name", "SMILES", "dose_uM", "time_h", "batch", "replicate"]
NAMES = {"cell_line": "cell_type", "compound": "sm_name", "pert_dose_uM": "dose_uM", "pert_time_h": "time_h"}
MATCHING = ["sm_name", "time_h", "batch"]
"""What a treated array and its controls have in common."""
AS_IT_IS = "as it is"
TASKS = {NONE: "all compounds by name", "morgan": "the compounds with structures"}
SPLITS, OF_FACTORS = ("random", "compound", "dose", "time"), ("dose", "time")
Line = dict[str, Any]
"""A line of the report: what is held out, the method, its MRRMSE, and the difference with its interval."""


def responses(file: Path) -> pd.DataFrame:
    """Return the treated arrays of `expression.parquet`: `METADATA`, then genes less their matching controls' mean."""
    table = pd.read_parquet(file).rename(columns=NAMES)
    genes = list(table.columns[table.columns.get_loc("cell_type") + 1 :])
    is_control = table["pert_type"] == "control"
    controls = table[is_control].groupby(MATCHING)[genes].mean()
    treated = table[~is_control].reset_index(drop=True)
    treated[genes] -= controls.reindex(pd.MultiIndex.from_frame(treated[MATCHING])).to_numpy()
    return treated[[*METADATA, *genes]]


def variants(member: CompositeMember) -> dict[str, CompositeMember]:
    """Return the member in contexts, and without either factor, by what is changed."""

    def without(factor: str) -> CompositeMember:
        models = {}
        for name in ("known_compounds", "new_compounds"):
            model, weights = getattr(member, name), {}
            for product, weight in model.context_weights.items():
                kept = " * ".join(part for part in product.split(" * ") if part != factor)
                if kept:
                    weights[kept] = weights.get(kept, 0.0) + weight
            models[name] = model.model_copy(update={"context_weights": weights})
        return member.model_copy(update=models)

    named = {AS_IT_IS: member, "without dose": without("dose"), "without time": without("time")}
    return {name: variant.in_contexts(()) for name, variant in named.items()}


def losses_of(member: CompositeMember, data: PerturbationData, rows: Rows, split: str) -> Float64:
    """Return the RMSE of every row, (n,), predicted by the member alone; NaN where the split never holds it out."""
    fits = member.prepare(TrainingSet(rows, data.Y, data.weight, (), 0, "cpu"))
    losses = np.full(len(data.Y), np.nan)
    for part in named_splits(split, data.obs)[0]:
        predicted: list[Float32] = fits.fit_predict(part.training, [part.held_out])
        losses[part.held_out] = rowwise_rmse(data.Y[part.held_out], predicted[0])
    return losses


def of_factors(data: PerturbationData, config: RunConfig, split: str) -> list[Line]:
    """Return a line of the report for the composite member and each factor that it is deprived of."""
    config = config.resolved()
    [member] = [m for m in config.recipe.members if isinstance(m, CompositeMember)]
    rows = Rows(data.obs, encode_compounds(config.recipe.encoders, data.obs).training)
    made = {name: losses_of(variant, data, rows, split) for name, variant in variants(member).items()}
    losses = np.stack(list(made.values()))
    folds = np.where(np.isfinite(losses[:1]), 0, -1)
    found = paired_intervals(
        losses, 0, replicate_weights(folds, bootstrap_units(split, data.obs)), one_gene=False
    )
    return _lines(
        split,
        [f"composite {name}" for name in made],
        found.score,
        *(found.difference, found.difference_low, found.difference_high),
    )


def of_recipe(data: PerturbationData, config: RunConfig, split: str, work: Path) -> list[Line]:
    """Return a line of the report for the recipe, its members and every baseline."""
    place = work / config.molecules / split
    made = cross_validate(data, None, CvRequest(split), config, resolve_device("cpu"), folder=place)
    names = ("name", "error", "difference", "difference_low", "difference_high")
    return _lines(split, *([getattr(one, name) for one in made[0].methods] for name in names))


def _lines(split: str, names: Iterable[str], *numbers: Iterable[float]) -> list[Line]:
    keys = ("held_out", "method", "mrrmse", "difference", "low", "high")
    columns = ([round(float(x), 4) for x in column] for column in numbers)
    return [dict(zip(keys, (split, *one), strict=True)) for one in zip(names, *columns, strict=True)]


def of_task(table: pd.DataFrame, config: RunConfig, work: Path) -> dict[str, Any]:
    """Return the shape of a task's data and the lines of its splits; `table` is of `responses`."""
    if reads_structures(config.molecules):
        table = table[table["SMILES"].fillna("") != ""]
    file = work / f"tggates_{config.molecules}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(file, index=False)
    data = open_problem(ProblemFiles(file).for_molecules(config.molecules)).data
    lines: list[Line] = []
    for split in SPLITS:
        lines += of_recipe(data, config, split, work)
        if split in OF_FACTORS and any(isinstance(m, CompositeMember) for m in config.recipe.members):
            lines += of_factors(data, config, split)
    rows, genes = data.Y.shape
    compounds = data.obs["sm_name"].nunique()
    return {"compounds": compounds, "rows": rows, "genes": genes, "lines": lines}


def markdown(report: dict[str, Any]) -> str:
    """Return a table a task; the first method of its kind has no difference."""
    head = "held out | method | MRRMSE | difference from the first of its kind"
    text = [f"Recipe {report['recipe']}.", ""]
    for molecules, task in report["tasks"].items():
        rows = [
            (
                one["held_out"],
                one["method"],
                f"{one['mrrmse']:.4f}",
                f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
                if one["difference"]
                else "",
            )
            for one in task["lines"]
        ]
        shape = f"{task['compounds']} compounds, {task['rows']} rows (compound, dose, time) × {task['genes']} genes"
        text += [
            f"**`--molecules {molecules}`, {TASKS[molecules]}**: {shape}",
            "",
            *harness.table(head, rows),
            "",
        ]
    return "\n".join(text)


@harness.ends_in_one_line
def main() -> None:
    """Print the table and write the report."""
    parser = harness.options_of(__doc__, "accuracy_contexts.json", harness.DATA / "tggates")
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--work", type=Path, default=Path("runs/contexts"))
    parser.add_argument("--table", type=Path, help="only write the training table to this Parquet file")
    options = parser.parse_args()
    table = responses(options.data / "expression.parquet")
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(options.table, index=False)
        return
    tasks = {}
    for molecules in TASKS:
        config = RunConfig(recipe=recipe(options.recipe), molecules=molecules)
        tasks[molecules] = of_task(table, config, options.work)
    harness.written(options.out, markdown, versions(), recipe=options.recipe, tasks=tasks)


if __name__ == "__main__":
    main()
