"""Whole runs, as a user starts them: seconds, peak memory and scores of `rapids-perturb demo` and `run`.

    python -m benchmarks.pipeline [--data FOLDER] [--out FILE]

Runs the demo (18,211 simulated genes) and, where the folder holds it, the recipes on the real lincs_lung data, each in
a process of its own. Cross-validates the default and the published recipe on the split most like the task (not timed).
Prints a table and writes benchmarks/results/pipeline.json with the machine, the date and versions.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from rapids_pipeline.backend.versions import installed_versions

CROSS_VALIDATED = ("best", "published")


def main() -> None:
    """Run, print and write."""
    parser = harness.options_of(__doc__, results="pipeline.json")
    parser.add_argument("--data", type=Path, default=harness.DATA, help="where lincs_lung is")
    parser.add_argument("--genes", help="of the demo, for a trial")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = demo_runs(Path(folder), ["--genes", options.genes] if options.genes else [])
        if (options.data / "lincs_lung").exists():
            found |= lung_runs(options.data / "lincs_lung", Path(folder))
    harness.written(options.out, table, installed_versions(), runs=found)


def demo_runs(out: Path, genes: list[str]) -> dict[str, Any]:
    """Return what the demo takes and scores, by recipe."""
    found = {}
    for recipe in CROSS_VALIDATED:
        place = out / f"demo {recipe}"
        options = ["--molecules", "morgan", "--recipe", recipe, "--out", str(place)]
        run = measured(["demo", *genes, *options], place)
        truth = place / "data" / "de_test.parquet"
        found[f"demo, {recipe}"] = run | {"test": scored(place / "submission.csv", truth)}
    return found


def lung_runs(lung: Path, out: Path) -> dict[str, Any]:
    """Return what every recipe takes and scores on lincs_lung."""
    files, found = files_of(lung), {}
    for recipe in (*CROSS_VALIDATED, "standard", "quick"):
        place, options = out / recipe, ["--molecules", "morgan", "--recipe", recipe, "--out"]
        run = measured(["run", *files, *options, str(place)], place)
        run["test"] = scored(place / "submission.csv", lung / "de_test.parquet")
        if recipe in CROSS_VALIDATED:
            harness.command("cv", *files, *options, str(out / f"cv {recipe}"))
            run["imitated_task"] = imitated(json.loads((out / f"cv {recipe}" / "cv.json").read_text()))
        found[f"lincs_lung, {recipe}"] = run
    return found


def files_of(folder: Path) -> list[str]:
    """Return a folder's training file and pairs to predict as options of a command."""
    return ["--train", str(folder / "de_train.parquet"), "--test", str(folder / "id_map.csv")]


def measured(arguments: list[str], out: Path) -> dict[str, Any]:
    """Run the command line in a process of its own; return its seconds, peak memory, stages and scores."""
    cost = harness.command(*arguments)
    manifest = json.loads((out / "manifest.json").read_text())
    scores = json.loads((out / "scores.json").read_text())["out_of_fold"]
    return cost | {
        "stage_seconds": manifest["seconds"],
        "shape": manifest["shape"],
        "chosen": manifest["chosen"],
        "device": manifest["device"],
        "model_gb": round(sum(file.stat().st_size for file in out.glob("model/*")) / 1e9, 3),
        "out_of_fold": {method: round(row["mean_rowwise_rmse"], 4) for method, row in scores.items()},
    }


def imitated(document: dict[str, Any]) -> dict[str, float]:
    """Return the MRRMSE of the pipeline on held-out rows like the pairs to predict, and that to expect on the pairs."""
    ours = document["methods"][0]
    return {
        "held_out": round(ours["scores"]["mean_rowwise_rmse"], 4),
        "expected": round(ours["expected"]["error"], 4),
    }


def scored(prediction: Path, truth: Path) -> dict[str, float]:
    """Return the MRRMSE of a prediction and of the baselines on its test rows."""
    command = ["evaluate", "--prediction", str(prediction), "--truth", str(truth), "--layer", "X", "--json"]
    printed = subprocess.run(
        [sys.executable, "-m", "rapids_pipeline", *command], check=True, capture_output=True, text=True
    ).stdout
    scores = json.loads(printed)["scores"]
    return {method: round(row["mean_rowwise_rmse"], 4) for method, row in scores.items()}


def table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [
        "| run | pairs × genes | seconds | core-seconds | peak memory | model | out-of-fold | expected by cv "
        "| MRRMSE on test rows | best baseline |",
        "|" + "---|" * 10,
    ]
    for name, run in report["runs"].items():
        ours, *others = run["test"].items()
        best = min(others, key=lambda item: item[1])
        lines.append(
            f"| {name} | {run['shape']['test_rows']} × {run['shape']['genes']} | {run['seconds']} "
            f"| {run['core_seconds']} | {run['peak_memory_gib']} GiB | {run['model_gb']} GB "
            f"| {run['out_of_fold']['pipeline']} | {run.get('imitated_task', {}).get('expected', '')} "
            f"| {ours[1]} | {best[0]} {best[1]} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
