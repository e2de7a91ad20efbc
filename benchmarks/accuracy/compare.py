"""How well methods predict real responses: our recipes beside baselines and libraries, on three tasks of lincs_lung.

    python -m benchmarks.accuracy.compare [--data FOLDER] [--recipes published,standard,best] [--tuned FILE.toml]
                                          [--plot FILE.png] [--cache DIR] [--no-demo] …

    test rows           trained on de_train.parquet, the pairs of id_map.csv, scored by de_test.parquet
    unseen compound     five folds of the training file by compound
    unseen cell type    each cell type of the training file in turn
    demo, test rows     the same as the first for the simulated data of `rapids-perturb demo --genes 2000`

Methods: all baselines, the peers of peers.py, and recipes as `rapids-perturb run` fits them with Morgan fingerprints;
the last of `--recipes` is the one that the others are compared with. A recipe tuned on the training file (`--tuned`) is
shown for the test rows alone.

Every method × task runs in a fresh process, one after another: seconds and core-seconds of fitting and predicting, and
the process's peak memory. Finished ones are kept in `--cache`. Libraries run on OMP_NUM_THREADS threads, our recipes'
boosters side by side on all cores: compare core-seconds. Prints Markdown and writes benchmarks/results/accuracy.json.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.accuracy.jobs import MOLECULES, SEED, Finished, Method, Task, finished, versions
from benchmarks.accuracy.peers import PEERS, threads
from benchmarks.accuracy.tables import compared, markdown, picture, strata, strata_markdown
from rapids_pipeline.data.demo import write_demo
from rapids_pipeline.data.pairs import read_pairs
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import read_training
from rapids_pipeline.evaluation.baselines import ALL_BASELINES
from rapids_pipeline.evaluation.splits import named_splits
from rapids_pipeline.stack.changes import RecipeChanges, run_config
from rapids_pipeline.stack.recipe import Recipe

DEMO_GENES = 2_000
TEST_ROWS, DEMO = "test rows", "demo, test rows"
SPLITS = {"unseen compound": "compound", "unseen cell type": "cell_type"}


@harness.ends_in_one_line
def main() -> None:
    """Run, print and write."""
    chosen = options()
    recipes = {recipe.name: recipe for recipe in map(named_recipe, chosen.recipes.split(","))}
    tuned = None if chosen.tuned is None else named_recipe(str(chosen.tuned))
    methods = [Method(name, "baseline") for name in ALL_BASELINES] + [Method(name, "peer") for name in PEERS]
    methods += [Method(name, "recipe", recipe) for name, recipe in recipes.items()]
    ours = list(recipes)[-1]
    methods = [one for one in methods if one.name == ours or wanted(one.name, chosen.methods)]
    shown = methods if tuned is None else [*methods, Method("tuned", "recipe", tuned)]
    report: dict[str, Any] = {"threads": threads(), "settings": {one.name: one.settings() for one in shown}}
    report["left_out"] = [one.name for one in methods if not one.available]
    harness.written(chosen.json, tables, versions(), **report, tasks=measured(methods, ours, tuned, chosen))


def measured(
    methods: Sequence[Method], ours: str, tuned: Recipe | None, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Run every method on every task, then score; draw the picture where it is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        test = test_task(TEST_ROWS, chosen.data)
        tasks = [test, *(split_task(name, test, split) for name, split in SPLITS.items())]
        if chosen.demo:
            write_demo(Path(folder), n_genes=DEMO_GENES)
            tasks.append(test_task(DEMO, Path(folder)))
        found: dict[str, dict[str, Finished]] = {}
        tasks = [task for task in tasks if wanted(task.name, chosen.tasks)]
        for task in tasks:
            here = [method for method in methods if method.available]
            if tuned is not None and task.name == TEST_ROWS:
                here.append(Method("tuned", "recipe", tuned))
            found[task.name] = run(here, task, chosen.cache)
        for task in tasks:
            if chosen.plot is not None and task.name == TEST_ROWS:
                picture(chosen.plot, task.truth(), found[task.name][ours].predicted, task.obs)
        return {task.name: task_report(task, found[task.name], ours) for task in tasks}


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = harness.options_of(__doc__, data=harness.DATA / "lincs_lung")
    add = parser.add_argument
    add("--recipes", default="published,standard,best", help="ours; the last is the reference")
    add("--tuned", type=Path, help="a recipe's TOML file, for the test rows")
    add("--no-demo", dest="demo", action="store_false")
    add("--plot", type=Path, help="a picture of three test rows as the reference predicts them")
    add("--cache", type=Path, default=harness.REPOSITORY / "runs" / "accuracy")
    add("--json", type=Path, default=harness.RESULTS / "accuracy.json", help="where the results go")
    add("--methods", default="", help="only these, separated by semicolons; and the reference")
    add("--tasks", default="", help="only these, separated by semicolons")
    return parser.parse_args()


def wanted(name: str, chosen: str) -> bool:
    """Say whether a list, separated by semicolons, has a name; an empty one has all."""
    return not chosen or name in [one.strip() for one in chosen.split(";")]


def named_recipe(name: str) -> Recipe:
    """Return a recipe by its name or TOML file; InputError where there is none."""
    return run_config(name, RecipeChanges(), MOLECULES, SEED).recipe


def test_task(name: str, folder: Path) -> Task:
    """Return the task of a folder's files: its training rows, and the pairs of id_map.csv."""
    data = read_training(folder / "de_train.parquet")
    data = data.take(canonical_order(data.obs))
    pairs = read_pairs(folder / "id_map.csv", data.obs)[0]
    pairs = pairs.iloc[canonical_order(pairs)].reset_index(drop=True)
    return Task(name, data, pairs=pairs, truth_file=folder / "de_test.parquet")


def split_task(name: str, test: Task, split: str) -> Task:
    """Return the task of a named split of a test task's training rows."""
    splits = named_splits(split, test.data.obs, pairs=test.pairs, seed=SEED)[0]
    return Task(name, test.data, splits=tuple(splits))


def run(methods: Sequence[Method], task: Task, cache: Path) -> dict[str, Finished]:
    """Return what every method predicts for a task, by name; say on stderr what each took."""
    found = {}
    for method in methods:
        one = found[method.name] = finished(method, task, cache)
        cost, name = one.cost, f"{task.name}: {method.name}"
        used = f"{cost.core_seconds:.1f} core-seconds, {cost.peak_memory_gib:.2f} GiB ({cost.date})"
        print(f"{name}: {cost.seconds:.1f} s, {used}", file=sys.stderr, flush=True)
    return found


def task_report(task: Task, found: Mapping[str, Finished], reference: str) -> dict[str, Any]:
    """Return a task's part of the report: here the truth is read."""
    truth = task.truth()
    return {
        "rows": len(truth),
        "genes": truth.shape[1],
        "training_rows": [len(task.problem(fit)[0].obs) for fit in range(task.n_fits)],
        "fits": task.n_fits,
        "reference": reference,
        "order": list(found),
        "methods": compared(found, truth, task.obs, reference),
        "strata": strata(task, truth, found[reference].predicted),
    }


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"libraries on {report['threads']} threads"]
    if report["left_out"]:
        lines.append(f"not installed here: {', '.join(report['left_out'])}")
    for name, task in report["tasks"].items():
        lines += ["", markdown(name, task)]
    ours = next(iter(report["tasks"].values()))["reference"]
    lines += ["", f"`{ours}`, rows in thirds:", "", strata_markdown(report["tasks"])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
