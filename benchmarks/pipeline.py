"""Whole runs, as a user starts them: seconds, peak memory and scores of `rapids-perturb demo` and `run`.

    python benchmarks/pipeline.py [--data FOLDER]

Runs the demo (18,211 simulated genes) and, where the folder holds it, the recipes on the real lincs_lung data, each
in a process of its own, and cross-validates the default and the published one on the split most like the task (not
timed); prints a table and writes benchmarks/results/pipeline.json with the machine, the date and versions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import processor

from rapids_pipeline.backend.versions import installed_versions

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "pipeline.json"
CROSS_VALIDATED = ("best", "published")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    lung = parser.parse_args().data / "lincs_lung"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found = {}
        for recipe in CROSS_VALIDATED:
            place, name = out / f"demo {recipe}", f"demo, {recipe}"
            found[name] = measured(["demo", "--recipe", recipe, "--out", str(place)], place)
            found[name]["test"] = scored(place / "submission.csv", place / "data" / "de_test.parquet")
        if lung.exists():
            files = ["--train", str(lung / "de_train.parquet"), "--test", str(lung / "id_map.csv")]
            for recipe in (*CROSS_VALIDATED, "standard", "quick"):
                place, name = out / recipe, f"lincs_lung, {recipe}"
                options = ["--molecules", "morgan", "--recipe", recipe, "--out", str(place)]
                found[name] = measured(["run", *files, *options], place)
                found[name]["test"] = scored(place / "submission.csv", lung / "de_test.parquet")
                if recipe in CROSS_VALIDATED:
                    options[-1] = str(out / f"cv {recipe}")
                    subprocess.run(
                        [sys.executable, "-m", "rapids_pipeline", "cv", *files, *options], check=True
                    )
                    found[name]["imitated_task"] = imitated(
                        json.loads((out / f"cv {recipe}" / "cv.json").read_text())
                    )
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": installed_versions(),
        "runs": found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


def measured(arguments: list[str], out: Path) -> dict[str, Any]:
    """Run the command line in a process of its own; return its seconds, peak memory and stages."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "rapids_pipeline", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(
            f"rapids-perturb {' '.join(arguments)} failed with status {os.waitstatus_to_exitcode(status)}"
        )
    manifest = json.loads((out / "manifest.json").read_text()) if out.exists() else {}
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
        "stage_seconds": manifest.get("seconds"),
        "shape": manifest.get("shape"),
        "model_gb": round(sum(f.stat().st_size for f in out.glob("model/*")) / 1e9, 3),
        "out_of_fold": {
            method: round(row["mean_rowwise_rmse"], 4)
            for method, row in json.loads((out / "scores.json").read_text())["out_of_fold"].items()
        },
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
        f"{report['date']}, {report['machine']['processor']}, {report['machine']['cores']} cores",
        "",
        "| run | pairs × genes | seconds | core-seconds | peak memory | model | out-of-fold | expected by cv "
        "| MRRMSE on test rows | best baseline |",
        "|---|---|---|---|---|---|---|---|---|---|",
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
