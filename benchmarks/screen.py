"""Feature screening: seconds and memory of one gene and of all, a loop over scikit-learn beside it, and false alarms.

    python benchmarks/screen.py [--data FOLDER] [--only PART ...]

one_gene     `rapids-perturb screen --target A1BG` on the demo data in a process of its own: all sets, 5 folds
sklearn      the same sets on the same folds by scikit-learn's SVR, columns made for every fold and set
all_genes    `--target all`: every set, 18,211 genes
unseen       lincs_lung, split by compound: what structure is worth, with permuted SMILES beside it
noise        100 data sets of pure noise: how often a set is called better than the reference

Prints Markdown and writes benchmarks/results/screen.json; with --only, the other parts are kept as they stand there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import processor
from sklearn.svm import SVR

from features.feature_sets import FEATURE_SETS, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data import demo
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData, read_training, training_from_frame
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.studies.screen.candidates import default_sets
from rapids_pipeline.studies.screen.flow import ScreenRequest, screen

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "screen.json"
PARTS = ("one_gene", "sklearn", "all_genes", "unseen", "noise")
UNSEEN_SETS = ("cell_type", "cell_type_molecules", "descriptors")
UNSEEN_TARGETS = ("all", "HMGCR")
NOISE_SEEDS, NOISE_ROWS, NOISE_COMPOUNDS = 100, 150, 25
NOISE_SETS = ("cell_type", "sm_name", "onehot", "molecules", "svr_shared", "loo", "svr_loo")
SMILES = ["C" * size + end for size in range(1, 6) for end in ("", "O", "N", "c1ccccc1", "C(=O)O")]


def timed_process(*arguments: str) -> dict[str, Any]:
    """Run a screen in a process of its own; return its seconds, peak memory and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rapids_pipeline.screen", *arguments, "--out", folder]
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            sys.exit(f"{' '.join(command)} failed with status {os.waitstatus_to_exitcode(status)}")
        document = json.loads((Path(folder) / "screen.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "stage_seconds": document["provenance"]["seconds"],
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
        "n_genes": document["n_genes"],
        "sets": [
            {name: row[name] for name in ("feature_set", "score", "difference", "seconds", "genes_improved")}
            for row in document["sets"]
        ],
        "agreement": document["agreement"],
    }


def one_gene() -> dict[str, Any]:
    """Screen A1BG twice; the first process may have to compile."""
    first = timed_process("--target", "A1BG", "--features", "all")
    return timed_process("--target", "A1BG", "--features", "all") | {
        "first_process_seconds": first["seconds"]
    }


def all_genes() -> dict[str, Any]:
    """Screen all genes."""
    return timed_process("--target", "all", "--features", "all")


def sklearn_loop() -> dict[str, Any]:
    """Score every set on A1BG by scikit-learn's SVR; the largest difference to ours is of scores."""
    data = training_from_frame(demo.simulate().de_train, "demo")
    ours = {row.feature_set: row.score for row in screen(data, ScreenRequest("A1BG")).sets}
    data = data.take(canonical_order(data.obs))
    y, folds = data.Y[:, data.genes.index("A1BG")], random_folds(len(data.Y), 5, 0)
    began, found = time.perf_counter(), {}
    rows = Rows(data.obs, encode_molecules(["morgan"], list(data.obs["SMILES"])).training)
    for name in default_sets():
        squares = np.empty(len(y))
        for k in range(5):
            inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
            table = FeatureTable(FEATURE_SETS[name].with_molecules("morgan"))
            X = table.fit_transform(rows.take(inside), y[inside, None])
            svr = SVR(C=1.0, epsilon=0.1, gamma="scale").fit(X, y[inside])
            squares[outside] = (svr.predict(table.transform(rows.take(outside))) - y[outside]) ** 2
        found[name] = float(np.sqrt(squares.mean()))
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "largest_difference": max(abs(found[name] - ours[name]) for name in found),
        "sets": found,
    }


def unseen(folder: Path) -> dict[str, Any]:
    """Return what structure is worth for unseen compounds of lincs_lung, as measured and with permuted SMILES."""
    path = folder / "lincs_lung" / "de_train.parquet"
    if not path.exists():
        return {"skipped": f"no lincs_lung in {folder}"}
    data = read_training(path)
    found = {}
    for target in UNSEEN_TARGETS:
        for name, given in (("measured", data), ("permuted SMILES", permuted(data))):
            request = ScreenRequest(target, UNSEEN_SETS, split="compound", repeats=3)
            found[f"{target}, {name}"] = {
                row.feature_set: [row.score, row.difference, row.difference_low, row.difference_high]
                for row in screen(given, request).sets
            }
    return found


def permuted(data: PerturbationData) -> PerturbationData:
    """Return the data with the molecules dealt out anew among the compounds."""
    known = data.obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    dealt = dict(zip(known.index, np.random.default_rng(0).permutation(known.to_numpy(str)), strict=True))
    return PerturbationData(data.obs.assign(SMILES=data.obs["sm_name"].map(dealt)), data.Y, data.genes)


def noise() -> dict[str, Any]:
    """Return the share of noise data sets in which each set is called better than the reference, or worse."""
    found = {}
    for split, reference in (("random", "mean"), ("random", "onehot"), ("compound", "mean")):
        better = dict.fromkeys(NOISE_SETS, 0)
        for seed in range(NOISE_SEEDS):
            request = ScreenRequest("A1BG", NOISE_SETS, reference=reference, split=split, seed=seed)
            for row in screen(noise_data(seed), request).sets:
                if row.feature_set in better:
                    better[row.feature_set] += row.difference_high < 0
        found[f"{split} split, reference {reference}"] = {
            name: count / NOISE_SEEDS for name, count in better.items()
        }
    return found


def noise_data(seed: int) -> PerturbationData:
    """Return responses that hang on nothing."""
    rng = np.random.default_rng(seed)
    compounds = rng.integers(0, NOISE_COMPOUNDS, NOISE_ROWS)
    obs = pd.DataFrame(
        {
            "cell_type": rng.choice([f"cell {i}" for i in range(6)], NOISE_ROWS),
            "sm_name": [f"drug {i}" for i in compounds],
            "SMILES": [SMILES[i] for i in compounds],
        }
    )
    return PerturbationData(obs, rng.normal(size=(NOISE_ROWS, 1)).astype(np.float32), ("A1BG",))


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    options = parser.parse_args()
    report: dict[str, Any] = {} if len(options.only) == len(PARTS) else json.loads(RESULTS.read_text())
    report |= {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": installed_versions(),
    }
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "one_gene": one_gene,
        "sklearn": sklearn_loop,
        "all_genes": all_genes,
        "unseen": lambda: unseen(options.data),
        "noise": noise,
    }
    report |= {part: measure[part]() for part in options.only}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"{report['date']}, {report['machine']['processor']}, {report['machine']['cores']} cores", ""]
    lines += ["| demo data, all sets, 5 folds | process, s | of which screening | core-s | peak memory |"]
    lines += ["|---|---|---|---|---|"]
    for name, part in (("A1BG", "one_gene"), ("all genes", "all_genes")):
        cell = report[part]
        lines.append(
            f"| {name}, {len(cell['sets']) - 1} sets | {cell['seconds']} | {cell['stage_seconds']['screen']:.1f} "
            f"| {cell['core_seconds']} | {cell['peak_memory_gib']} GiB |"
        )
    loop = report["sklearn"]
    lines.append(f"| A1BG, scikit-learn's SVR in a loop | – | {loop['seconds']} | – | – |")
    lines += ["", f"first process: {report['one_gene']['first_process_seconds']} s (may compile)"]
    lines += [f"largest difference of a score to the loop's: {loop['largest_difference']:.1e}"]
    lines += ["", "| all genes | MRRMSE | minus onehot | genes better | seconds |", "|---|---|---|---|---|"]
    for row in report["all_genes"]["sets"]:
        lines.append(
            f"| {row['feature_set']} | {row['score']:.4f} | {row['difference']:+.4f} "
            f"| {row['genes_improved']:.0%} | {row['seconds']:.1f} |"
        )
    lines += ["", f"agreement: {json.dumps(report['all_genes']['agreement'])[:400]}"]
    if "skipped" not in report["unseen"]:
        lines += ["", "| lincs_lung, unseen compounds | set | score | minus cell_type | 95 % interval |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {name} | {found} | {score:.4f} | {difference:+.4f} | {low:+.4f} to {high:+.4f} |"
            for name, sets in report["unseen"].items()
            for found, (score, difference, low, high) in sets.items()
        ]
    lines += ["", f"| pure noise, {NOISE_SEEDS} data sets: called better in | {' | '.join(NOISE_SETS)} |"]
    lines += ["|---" * (1 + len(NOISE_SETS)) + "|"]
    for name, shares in report["noise"].items():
        lines.append(f"| {name} | {' | '.join(f'{shares[found]:.0%}' for found in NOISE_SETS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
