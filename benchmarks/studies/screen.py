"""Feature screening: seconds and memory of one gene and of all, a loop over scikit-learn beside it, and false alarms.

    python -m benchmarks.studies.screen [--data FOLDER] [--out FILE]

one_gene     `rapids-perturb screen --target A1BG` on the demo data in a process of its own: all sets, 5 folds
sklearn      the same sets on the same folds by scikit-learn's SVR, columns made for every fold and set
all_genes    `--target all`: every set, 18,211 genes
unseen       lincs_lung, split by compound: what structure is worth, with permuted SMILES beside it
noise        100 data sets of pure noise: how often a set is called better than the reference

Prints Markdown and writes benchmarks/results/screen.json.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.svm import SVR

from benchmarks.harness import DATA, command, options_of, table, written
from features.feature_sets import FEATURE_SETS, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.data import demo
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData, read_training, training_from_frame
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.studies.screen.candidates import default_sets
from rapids_pipeline.studies.screen.study import ScreenRequest, screen

UNSEEN_SETS = ("cell_type", "cell_type_molecules", "descriptors")
UNSEEN_TARGETS = ("all", "HMGCR")
NOISE_SEEDS, NOISE_ROWS, NOISE_COMPOUNDS = 100, 150, 25
NOISE_SETS = ("cell_type", "sm_name", "onehot", "molecules", "svr_shared", "loo", "svr_loo")
SMILES = ["C" * size + end for size in range(1, 6) for end in ("", "O", "N", "c1ccccc1", "C(=O)O")]
SHOWN = ("feature_set", "score", "difference", "seconds", "genes_improved")


def process(target: str) -> dict[str, Any]:
    """Screen all sets in a process of its own; return its seconds, peak memory and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = command(
            "screen", "--target", target, "--molecules", "morgan", "--features", "all", "--out", folder
        )
        document = json.loads(Path(folder, "screen.json").read_text())
    found["stage_seconds"] = document["provenance"]["seconds"]
    found |= {name: document[name] for name in ("n_genes", "agreement")}
    return found | {"sets": [{name: row[name] for name in SHOWN} for row in document["sets"]]}


def one_gene() -> dict[str, Any]:
    """Screen A1BG twice; the first process may have to compile."""
    first = process("A1BG")["seconds"]
    return process("A1BG") | {"first_process_seconds": first}


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
        shares = {name: count / NOISE_SEEDS for name, count in better.items()}
        found[f"{split} split, reference {reference}"] = shares
    return found


def noise_data(seed: int) -> PerturbationData:
    """Return responses that hang on nothing."""
    rng = np.random.default_rng(seed)
    compounds = rng.integers(0, NOISE_COMPOUNDS, NOISE_ROWS)
    cells = rng.choice([f"cell {i}" for i in range(6)], NOISE_ROWS)
    names, smiles = [f"drug {i}" for i in compounds], [SMILES[i] for i in compounds]
    obs = pd.DataFrame({"cell_type": cells, "sm_name": names, "SMILES": smiles})
    return PerturbationData(obs, rng.normal(size=(NOISE_ROWS, 1)).astype(np.float32), ("A1BG",))


def main() -> None:
    """Run, print and write."""
    options = options_of(__doc__, results="screen.json", data=DATA).parse_args()
    found = {"one_gene": one_gene(), "sklearn": sklearn_loop(), "all_genes": process("all")}
    written(options.out, markdown, **found, unseen=unseen(options.data), noise=noise())


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    loop, first = report["sklearn"], report["one_gene"]["first_process_seconds"]
    off = f"largest difference of a score to the loop's: {loop['largest_difference']:.1e}"
    processes = []
    for name, part in (("A1BG", report["one_gene"]), ("all genes", report["all_genes"])):
        label, screening = f"{name}, {len(part['sets']) - 1} sets", f"{part['stage_seconds']['screen']:.1f}"
        memory = f"{part['peak_memory_gib']} GiB"
        processes.append((label, part["seconds"], screening, part["core_seconds"], memory))
    processes.append(("A1BG, scikit-learn's SVR in a loop", "–", loop["seconds"], "–", "–"))
    sets = []
    for row in report["all_genes"]["sets"]:
        score, difference, better = row["score"], row["difference"], row["genes_improved"]
        numbers = f"{score:.4f}", f"{difference:+.4f}", f"{better:.0%}", f"{row['seconds']:.1f}"
        sets.append((row["feature_set"], *numbers))
    unseen_rows = [
        (name, found, f"{score:.4f}", f"{difference:+.4f}", f"{low:+.4f} to {high:+.4f}")
        for name, of_target in ({} if "skipped" in report["unseen"] else report["unseen"]).items()
        for found, (score, difference, low, high) in of_target.items()
    ]
    alarms = [
        (name, *(f"{shares[found]:.0%}" for found in NOISE_SETS)) for name, shares in report["noise"].items()
    ]
    times = ["demo data, all sets, 5 folds", "process, s", "of which screening", "core-s", "peak memory"]
    columns = ["lincs_lung, unseen compounds", "set", "score", "minus cell_type", "95 % interval"]
    parts = [
        table(times, processes),
        [f"first process: {first} s (may compile)", off],
        table(["all genes", "MRRMSE", "minus onehot", "genes better", "seconds"], sets),
        [f"agreement: {json.dumps(report['all_genes']['agreement'])[:400]}"],
        table(columns, unseen_rows) if unseen_rows else [],
        table([f"pure noise, {NOISE_SEEDS} data sets: called better in", *NOISE_SETS], alarms),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


if __name__ == "__main__":
    main()
