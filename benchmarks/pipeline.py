"""Whole runs, as a user starts them: seconds, peak memory and scores of `rapids-perturb demo` and `run`.

    python -m benchmarks.pipeline [--device cuda|cpu [--small | --full]] [--data FOLDER] [--out FILE]

Runs the demo (18,211 simulated genes) and, where the folder holds it, the recipes on the real lincs_lung data, each in
a process of its own. Cross-validates the default and the published recipe on the split most like the task (not timed).
With `--device`: the seconds of every stage on the CPU and on the device, with the recipe `quick` (`--full`:
`published`), after a run that compiles. Prints a table and writes benchmarks/results/pipeline.json, or
gpu_pipeline.json. Exit code 3: something that the device needs is not here.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from rapids_pipeline.backend.devices import installed_versions

CROSS_VALIDATED = ("best", "published")
SMALL, USUAL, FULL = ("quick", ["--genes", "12"], False), ("quick", [], True), ("published", [], True)
"""Of runs on devices: the recipe, options of the demo, and whether they are on real data, too."""


@harness.ends_in_one_line
def main() -> None:
    """Run, print and write."""
    parser = harness.options_of(__doc__, data=harness.DATA)
    parser.add_argument("--out", type=Path, help="where the report goes")
    options = harness.sized(parser, SMALL, USUAL, FULL, device=None)
    device, recipe, lung = options.device, options.size[0], options.data / "lincs_lung"
    with tempfile.TemporaryDirectory() as folder:
        if device is not None:
            harness.require(device, "cupy", "cudf")
            found = on_devices(device, options.size, lung, Path(folder))
            out = options.out or harness.RESULTS / "gpu_pipeline.json"
            harness.written(out, stage_table, device=device, recipe=recipe, runs=found)
            return
        found = demo_runs(Path(folder)) | (lung_runs(lung, Path(folder)) if lung.exists() else {})
    harness.written(options.out or harness.RESULTS / "pipeline.json", table, installed_versions(), runs=found)


def on_devices(device: str, size: tuple[str, list[str], bool], lung: Path, out: Path) -> dict[str, Any]:
    """Return what runs take on the CPU and on a device; one on a GPU before them compiles."""
    recipe, genes, real = size
    options = ["--recipe", recipe, "--molecules", "morgan"]
    wanted = {f"demo, {recipe}": ["demo", *options, *genes]}
    if real and lung.exists():
        wanted[f"lincs_lung, {recipe}"] = ["run", *files_of(lung), *options]
    if device == "cuda":
        on("cuda", wanted[f"demo, {recipe}"], out / "first")
    return {
        name: {one: on(one, arguments, out / f"{name} {one}") for one in dict.fromkeys(("cpu", device))}
        for name, arguments in wanted.items()
    }


def on(device: str, arguments: list[str], out: Path) -> dict[str, Any]:
    """Run once on a device; return what it took and which engines it chose."""
    found = measured([*arguments, "--device", device, "--out", str(out)], out)
    if found["device"] != device:
        raise RuntimeError(f"asked for {device}, ran on {found['device']}")
    return found


def demo_runs(out: Path) -> dict[str, Any]:
    """Return what the demo takes and scores, by recipe."""
    found = {}
    for recipe in CROSS_VALIDATED:
        place = out / f"demo {recipe}"
        run = measured(["demo", "--molecules", "morgan", "--recipe", recipe, "--out", str(place)], place)
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
    head = "run | pairs × genes | seconds | core-seconds | peak memory | model | out-of-fold | expected by cv"
    rows = []
    for name, run in report["runs"].items():
        ours, *others = run["test"].items()
        best, score = min(others, key=lambda item: item[1])
        cost = run["seconds"], run["core_seconds"], f"{run['peak_memory_gib']} GiB", f"{run['model_gb']} GB"
        expected = run["out_of_fold"]["pipeline"], run.get("imitated_task", {}).get("expected", "")
        shape = f"{run['shape']['test_rows']} × {run['shape']['genes']}"
        rows.append((name, shape, *cost, *expected, ours[1], f"{best} {score}"))
    return "\n".join(harness.table(f"{head} | MRRMSE on test rows | best baseline", rows))


def stage_table(report: dict[str, Any]) -> str:
    """Return runs on devices as Markdown."""
    lines: list[str] = []
    for name, by_device in report["runs"].items():
        runs = by_device.values()
        rows = []
        for stage in dict.fromkeys(stage for run in runs for stage in run["stage_seconds"]):
            taken = (run["stage_seconds"].get(stage) for run in runs)
            rows.append((stage, *("–" if one is None else f"{one:.2f}" for one in taken)))
        rows.append(("whole process", *(run["seconds"] for run in runs)))
        rows.append(("peak host memory, GiB", *(run["peak_memory_gib"] for run in runs)))
        rows.append(("out-of-fold MRRMSE", *(f"{run['out_of_fold']['pipeline']:.4f}" for run in runs)))
        lines += [*harness.table((f"{name}, s", *by_device), rows), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
