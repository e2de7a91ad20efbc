"""Which split foretells the error on the pairs to predict: cross-validated scores beside those of the test rows.

    python benchmarks/evaluation.py [--data FOLDER] [--draws N]

lincs_lung (real): `rapids-perturb cv` by every split that fits, each beside `run` and `evaluate` of the same recipe on
the held-back test rows; what a leak does (target statistics made of all rows before the split, as in the published
pipeline); and, to see how far the expectation can be trusted, N other tasks made of training
rows: a cell type made scarce, its other rows held back. The demo (simulated) likewise. Prints tables and writes
benchmarks/results/evaluation.json with the machine, the date and versions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pipeline import processor, scored

from features.molecules.morgan import MorganEncoder
from features.targets.statistics import group_statistics
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.tables import PerturbationData, read_responses, read_training
from rapids_pipeline.evaluation.bootstrap import replicate_weights
from rapids_pipeline.evaluation.expectation import expected_error, strengths
from rapids_pipeline.evaluation.metrics import rowwise_rmse, score_all
from rapids_pipeline.evaluation.perturbation_metrics import score_perturbations
from rapids_pipeline.evaluation.splits import named_splits
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.gram import scale_gamma, squared_distances

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "evaluation.json"
SPLITS = ("random", "cluster", "compound", "scaffold", "cell_type", "joint", "made_scarce", "scarce")
STATISTICS = ("mean", "min", "max", "median", "first", "quantile_0.4")
EVERY = 4
"""Of so many genes the leaky SVRs, one after the other, take one."""
KEPT = 20
"""Training rows of a cell type that is made scarce."""


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--draws", type=int, default=9)
    chosen = parser.parse_args()
    lung = chosen.data / "lincs_lung"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found: dict[str, Any] = {"metrics": metrics(), "demo, quick": demo(out)}
        if lung.exists():
            found["lincs_lung, quick"] = splits_of(lung, "quick", SPLITS, out)
            found["lincs_lung, standard"] = splits_of(lung, "standard", ("random", "scarce"), out)
            found["lincs_lung, published"] = splits_of(lung, "published", ("scarce",), out)
            found["leaky"] = leaky(lung)
            found["other_tasks"] = other_tasks(lung, chosen.draws, out)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": installed_versions(),
        **found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(tables(report))


def metrics() -> dict[str, float]:
    """Return the core-seconds of all scores of 255 pairs × 18,211 genes, the median of three passes."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(255, 18_211)).astype(np.float32)
    prediction = (0.3 * truth + rng.normal(size=truth.shape)).astype(np.float32)
    calls = {
        "five scores of Open Problems": lambda: score_all(truth, prediction),
        "eleven scores of single perturbations": lambda: score_perturbations(
            truth, prediction, truth.mean(axis=0)
        ),
    }
    found = {}
    for name, call in calls.items():
        call()
        seconds = []
        for _ in range(3):
            began = time.process_time()
            call()
            seconds.append(time.process_time() - began)
        found[name] = round(float(np.median(seconds)), 3)
    return found


def splits_of(lung: Path, recipe: str, splits: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Return the test error of a recipe on lincs_lung and its cross-validated errors by split."""
    files = {
        "train": lung / "de_train.parquet",
        "test": lung / "id_map.csv",
        "truth": lung / "de_test.parquet",
    }
    return {"test": test_error(files, recipe, out), "splits": {s: cv(files, recipe, s, out) for s in splits}}


def demo(out: Path) -> dict[str, Any]:
    """Return the same for the demo data with 2,000 genes."""
    command("demo", "--data-only", "--genes", "2000", "--out", str(out / "demo"))
    data = out / "demo" / "data"
    files = {
        "train": data / "de_train.parquet",
        "test": data / "id_map.csv",
        "truth": data / "de_test.parquet",
    }
    splits = ("random", "compound", "scarce")
    return {
        "test": test_error(files, "quick", out),
        "splits": {s: cv(files, "quick", s, out) for s in splits},
    }


def test_error(files: dict[str, Path], recipe: str, out: Path) -> dict[str, float]:
    """Return the MRRMSE of a run, and of the baselines, on the test rows."""
    place = out / f"run {recipe}"
    options = ["--molecules", "morgan", "--recipe", recipe, "--overwrite", "--out", str(place)]
    command("run", "--train", str(files["train"]), "--test", str(files["test"]), *options)
    return scored(place / "submission.csv", files["truth"])


def cv(files: dict[str, Path], recipe: str, split: str, out: Path) -> dict[str, Any]:
    """Return what a cross-validation says of the pipeline."""
    place = out / f"cv {recipe} {split} {files['train'].parent.name}"
    options = ["--molecules", "morgan", "--recipe", recipe, "--split", split, "--out", str(place)]
    began = time.perf_counter()
    command("cv", "--train", str(files["train"]), "--test", str(files["test"]), *options)
    seconds = time.perf_counter() - began
    found = json.loads((place / "cv.json").read_text())
    ours = found["methods"][0]
    baselines = {
        one["name"]: one["scores"]["mean_rowwise_rmse"] for one in found["methods"] if one["baseline"]
    }
    best = min(baselines, key=lambda name: baselines[name])
    return {
        "rows": found["n_rows"],
        "fits": len(found["by_split"]),
        "seconds": round(seconds, 1),
        "mrrmse": ours["scores"]["mean_rowwise_rmse"],
        "low": ours["low"],
        "high": ours["high"],
        "expected": ours["expected"],
        "best_baseline": [best, baselines[best]],
        "warnings": [note for note in found["notes"] if "your pairs" in note],
    }


def leaky(lung: Path) -> dict[str, Any]:
    """Return the error of the published SVR on test rows, and what two ways of cross-validation say of it.

    The SVR of every fourth gene on cell type, compound, fingerprint and six statistics of the gene by cell type and
    compound. "of all rows": statistics made once, before the split, so that those of held-out rows contain their own
    responses; "of training rows": made anew inside each split.
    """
    data, truth = (
        replace(read, Y=np.ascontiguousarray(read.Y[:, ::EVERY]), genes=list(read.genes)[::EVERY])
        for read in (read_training(lung / "de_train.parquet"), read_responses(lung / "de_test.parquet"))
    )
    compounds, first = np.unique(data.obs["sm_name"].to_numpy(str), return_index=True)
    cells = np.unique(data.obs["cell_type"].to_numpy(str))
    bits = MorganEncoder().transform(list(data.obs["SMILES"].iloc[first]))
    shared = np.hstack([np.eye(len(compounds)), bits]).astype(np.float64), np.eye(len(cells))

    def levels(obs: pd.DataFrame) -> Any:
        both = (obs["sm_name"], compounds), (obs["cell_type"], cells)
        return np.stack([np.searchsorted(known, column.to_numpy(str)) for column, known in both], axis=1)

    rows, asked = levels(data.obs), levels(truth.obs)

    def tables(inside: Any, all_rows: bool) -> list[Any]:
        """Statistics (levels, statistics, genes) by compound and by cell type; unseen levels have the rows' mean."""
        made, source = [], np.arange(len(rows)) if all_rows else inside
        for k, features in enumerate(shared):
            table = group_statistics(data.Y[source], rows[source, k], len(features), STATISTICS)
            counts = np.bincount(rows[inside, k], minlength=len(features))
            seen = counts > 0
            table[~seen] = np.einsum("lsg,l->sg", table[seen], counts[seen] / counts.sum())
            made.append(table)
        return made

    def predicted(inside: Any, levels: Any, all_rows: bool) -> Any:
        both, made = (rows[inside], levels), tables(inside, all_rows)
        X, X_new = (np.hstack([shared[k][some[:, k]] for k in (0, 1)]) for some in both)
        distances = squared_distances(X, X), squared_distances(X_new, X)
        found = np.empty((len(levels), data.Y.shape[1]))
        for gene in range(data.Y.shape[1]):
            own = [
                np.hstack([made[k][some[:, k], :, gene] for k in (0, 1)]).astype(np.float64) for some in both
            ]
            gamma = scale_gamma(np.hstack([X, own[0]]))
            K, K_new = (
                np.exp(-gamma * (D + squared_distances(S, own[0])))
                for D, S in zip(distances, own, strict=True)
            )
            model = MultiTargetSVR(kernel="precomputed", engine="smo").fit(K, data.Y[inside, gene])
            found[:, gene] = model.predict(K_new)
        return found

    test = predicted(np.arange(len(rows)), asked, False)
    found: dict[str, Any] = {"test": float(rowwise_rmse(truth.Y, test).mean())}
    task = strengths(data.obs, data.Y, truth.obs)
    for name in ("random", "scarce"):
        splits = named_splits(name, data.obs, pairs=truth.obs)[0]
        inside = [data.take(split.training) for split in splits]
        strength = [
            strengths(part.obs, part.Y, data.obs.iloc[split.held_out])
            for part, split in zip(inside, splits, strict=True)
        ]
        n = sum(map(len, strength))
        weights = replicate_weights(np.zeros((1, n), dtype=np.intp), np.arange(n))
        for kind, all_rows in (("of training rows", False), ("of all rows", True)):
            errors = [
                rowwise_rmse(
                    data.Y[split.held_out], predicted(split.training, rows[split.held_out], all_rows)
                )
                for split in splits
            ]
            expectation = expected_error(np.concatenate(errors), np.concatenate(strength), task, weights)
            found[f"{kind}, {name}"] = expectation.to_json()
    return found


def other_tasks(lung: Path, draws: int, out: Path) -> list[dict[str, Any]]:
    """Return expected and true errors of tasks like lincs_lung's, made of its training rows; recipe quick."""
    data, rng = read_training(lung / "de_train.parquet"), np.random.default_rng(0)
    counts = data.obs["cell_type"].value_counts()
    plenty = sorted(counts.index[counts > 5 * KEPT])
    found = []
    for draw in range(draws):
        cell = plenty[draw % len(plenty)]
        files = made_scarce(data, cell, rng, out / f"task {draw}")
        truth = test_error(files, "quick", out)
        foretold = cv(files, "quick", "scarce", out)
        ours = next(iter(truth.values()))
        found.append(
            {
                "cell_type": cell,
                "true": ours,
                "held_out": foretold["mrrmse"],
                "expected": foretold["expected"]["error"],
                "low": foretold["expected"]["low"],
                "high": foretold["expected"]["high"],
            }
        )
    return found


def made_scarce(data: PerturbationData, cell: str, rng: np.random.Generator, folder: Path) -> dict[str, Path]:
    """Write a task in which a cell type has few training rows: its other ones, known from elsewhere, are to predict."""
    folder.mkdir(parents=True)
    here = np.flatnonzero((data.obs["cell_type"] == cell).to_numpy())
    others = rng.permutation(here)[KEPT:]
    left = np.setdiff1d(np.arange(len(data.obs)), others)
    known = data.obs["sm_name"].iloc[others].isin(data.obs["sm_name"].iloc[left]).to_numpy()
    asked = np.sort(others[known])
    table = pd.concat([data.obs, pd.DataFrame(data.Y, columns=list(data.genes))], axis=1)
    truth = table.iloc[asked].reset_index(drop=True)
    truth.insert(0, "id", range(len(asked)))
    files = {
        name: folder / f"{name}.{kind}"
        for name, kind in (("train", "parquet"), ("test", "csv"), ("truth", "parquet"))
    }
    table.iloc[left].to_parquet(files["train"], index=False)
    truth[["id", "cell_type", "sm_name"]].to_csv(files["test"], index=False)
    truth.to_parquet(files["truth"], index=False)
    return files


def command(*arguments: str) -> None:
    """Run a subcommand in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "rapids_pipeline", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"{report['date']}, {report['machine']['processor']}, {report['machine']['cores']} cores"]
    lines += ["", "| 255 × 18,211, one pass | core-seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds} |" for name, seconds in report["metrics"].items()]
    for name in ("lincs_lung, quick", "lincs_lung, standard", "lincs_lung, published", "demo, quick"):
        if name in report:
            lines += ["", *split_table(name, report[name])]
    if "leaky" in report:
        true = report["leaky"]["test"]
        lines += ["", f"published SVR with statistics of the gene: MRRMSE on the test rows {true:.4f}", ""]
        lines += ["| statistics | split | held-out rows as they are | expected |", "|---|---|---|---|"]
        for kind in ("of training rows", "of all rows"):
            for name in ("random", "scarce"):
                one = report["leaky"][f"{kind}, {name}"]
                cells = [f"{v:.4f} ({v / true - 1:+.1%})" for v in (one["held_out"], one["error"])]
                lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    if "other_tasks" in report:
        lines += [
            "",
            "| made scarce | true | held-out rows as they are | expected | interval |",
            "|---|---|---|---|---|",
        ]
        tasks = report["other_tasks"]
        for one in tasks:
            held_out, expected = (
                f"{one[k]:.4f} ({one[k] / one['true'] - 1:+.1%})" for k in ("held_out", "expected")
            )
            interval = f"{one['low']:.3f} to {one['high']:.3f}"
            lines.append(f"| {one['cell_type']} | {one['true']:.4f} | {held_out} | {expected} | {interval} |")
        misses = {
            k: np.mean([abs(one[k] / one["true"] - 1) for one in tasks]) for k in ("held_out", "expected")
        }
        inside = sum(one["low"] <= one["true"] <= one["high"] for one in tasks)
        lines += ["", f"mean miss: {misses['held_out']:.1%} as they are, {misses['expected']:.1%} expected"]
        lines.append(f"{inside} of {len(tasks)} intervals hold the true error")
    return "\n".join(lines)


def split_table(name: str, found: dict[str, Any]) -> list[str]:
    """Return a table of a data set's splits."""
    true = next(iter(found["test"].values()))
    lines = [
        f"{name}: MRRMSE on the test rows {true:.4f}",
        "",
        "| split | rows | fits | seconds | MRRMSE, 95 % interval | off by | expected on the pairs | off by "
        "| best baseline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for split, one in found["splits"].items():
        foretold, (best, score) = one["expected"], one["best_baseline"]
        expected = ["", ""]
        if foretold is not None:
            error = foretold["error"]
            expected = [
                f"{error:.4f} ({foretold['low']:.3f} to {foretold['high']:.3f})",
                f"{error / true - 1:+.1%}",
            ]
        interval = f"{one['mrrmse']:.4f} ({one['low']:.3f} to {one['high']:.3f})"
        lines.append(
            f"| {split} | {one['rows']} | {one['fits']} | {one['seconds']} | {interval} | "
            f"{one['mrrmse'] / true - 1:+.1%} | {' | '.join(expected)} | {best} {score:.4f} |"
        )
    return lines


if __name__ == "__main__":
    main()
