"""Which split foretells the error on the pairs to predict: cross-validated scores beside those of the test rows.

    python -m benchmarks.evaluation [--data FOLDER] [--out FILE]

lincs_lung (real): `rapids-perturb cv` by every split that fits, each beside `run` and `evaluate` of the same recipe on
the held-back test rows. What a leak does: target statistics made of all rows before the split, as in the published
pipeline. To see how far the expectation can be trusted, nine other tasks made of training rows: a cell type made
scarce, its other rows held back. The demo (simulated) likewise. Prints tables and writes JSON.
"""

import json
import tempfile
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import harness
from benchmarks.pipeline import files_of, scored
from features.group_statistics import group_statistics
from features.molecules.morgan import MorganEncoder
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.data.tables import PerturbationData, read_responses, read_training
from rapids_pipeline.evaluation.metrics import rowwise_rmse, score_all
from rapids_pipeline.evaluation.perturbation_metrics import score_perturbations
from rapids_pipeline.evaluation.splits import named_splits
from rapids_pipeline.evaluation.uncertainty import expected_error, replicate_weights, strengths
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.dual import scale_gamma, squared_distances

SPLITS = ("random", "cluster", "compound", "scaffold", "cell_type", "joint", "made_scarce", "scarce")
STATISTICS = ("mean", "min", "max", "median", "first", "quantile_0.4")
DRAWS, EVERY = 9, 4
"""Tasks made of training rows; of so many genes the leaky SVRs take one."""
LEAKS = {"of training rows": False, "of all rows": True}
KEPT = 20
"""Training rows of a cell type that is made scarce."""


def main() -> None:
    """Run, print and write."""
    chosen = harness.options_of(__doc__, results="evaluation.json", data=harness.DATA).parse_args()
    lung = chosen.data / "lincs_lung"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found: dict[str, Any] = {"metrics": metrics(), "demo, quick": demo(out)}
        if lung.exists():
            found["lincs_lung, quick"] = splits_of(lung, "quick", SPLITS, out)
            found["lincs_lung, standard"] = splits_of(lung, "standard", ("random", "scarce"), out)
            found["lincs_lung, published"] = splits_of(lung, "published", ("scarce",), out)
            found["leaky"] = leaky(lung)
            found["other_tasks"] = other_tasks(lung, out)
    harness.written(chosen.out, tables, installed_versions(), **found)


def metrics() -> dict[str, float]:
    """Return the core-seconds of all scores of 255 pairs × 18,211 genes, the median of three warm rounds."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(255, 18_211)).astype(np.float32)
    prediction = (0.3 * truth + rng.normal(size=truth.shape)).astype(np.float32)
    mean = truth.mean(axis=0)
    rivals = {
        "five scores of Open Problems": lambda: score_all(truth, prediction),
        "eleven scores of single perturbations": lambda: score_perturbations(truth, prediction, mean),
    }
    harness.by_turns(rivals, 1)
    taken = harness.by_turns(rivals, 3, clock=time.process_time)
    return {name: round(median(values), 3) for name, values in taken.items()}


def splits_of(folder: Path, recipe: str, splits: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Return the test error of a recipe and its cross-validated errors by split."""
    test = test_error(folder, recipe, out)
    return {"test": test, "splits": {split: cv(folder, recipe, split, out) for split in splits}}


def demo(out: Path) -> dict[str, Any]:
    """Return the same for the demo data."""
    harness.command("demo", "--data-only", "--genes", "2000", "--out", str(out / "demo"))
    return splits_of(out / "demo" / "data", "quick", ("random", "compound", "scarce"), out)


def test_error(folder: Path, recipe: str, out: Path) -> dict[str, float]:
    """Return the MRRMSE of a run, and of the baselines, on the test rows."""
    place = out / f"run {recipe}"
    options = ["--molecules", "morgan", "--recipe", recipe, "--overwrite", "--out", str(place)]
    harness.command("run", *files_of(folder), *options)
    return scored(place / "submission.csv", folder / "de_test.parquet")


def cv(folder: Path, recipe: str, split: str, out: Path) -> dict[str, Any]:
    """Return what a cross-validation says of the pipeline."""
    place = out / f"cv {recipe} {split} {folder.name}"
    options = ["--molecules", "morgan", "--recipe", recipe, "--split", split, "--out", str(place)]
    cost = harness.command("cv", *files_of(folder), *options)
    found = json.loads((place / "cv.json").read_text())
    ours = found["methods"][0]
    baselines = [one for one in found["methods"] if one["baseline"]]
    errors = {one["name"]: one["scores"]["mean_rowwise_rmse"] for one in baselines}
    best = min(errors, key=lambda name: errors[name])
    return {
        "rows": found["n_rows"],
        "fits": len(found["by_split"]),
        "seconds": cost["seconds"],
        "mrrmse": ours["scores"]["mean_rowwise_rmse"],
        "low": ours["low"],
        "high": ours["high"],
        "expected": ours["expected"],
        "best_baseline": [best, errors[best]],
        "warnings": [note for note in found["notes"] if "your pairs" in note],
    }


def leaky_svr(features: Any, levels: Any, Y: Any, inside: Any, asked: Any, all_rows: bool) -> Any:
    """Return predictions of levels (m, 2) by the published SVR of each gene, fitted to the rows `inside`.

    It sees cell type, compound, fingerprint and six statistics of the gene by both. `features` are the columns of every
    compound and of every cell type, `levels` (n, 2) the numbers of both by row. With `all_rows` the statistics are made
    of all rows, so that those of held-out rows hold their own responses.
    """
    made, source = [], np.arange(len(Y)) if all_rows else inside
    for k, columns in enumerate(features):
        table = group_statistics(Y[source], levels[source, k], len(columns), STATISTICS)
        counts = np.bincount(levels[inside, k], minlength=len(columns))
        seen = counts > 0  # unseen levels have the rows' mean
        table[~seen] = np.einsum("lsg,l->sg", table[seen], counts[seen] / counts.sum())
        made.append(table)
    both = levels[inside], asked
    X, X_new = (np.hstack([features[k][some[:, k]] for k in (0, 1)]) for some in both)
    D, D_new = squared_distances(X, X), squared_distances(X_new, X)
    found = np.empty((len(asked), Y.shape[1]))
    for gene in range(Y.shape[1]):
        S, S_new = (
            np.hstack([made[k][some[:, k], :, gene] for k in (0, 1)]).astype(np.float64) for some in both
        )
        gamma = scale_gamma(np.hstack([X, S]))
        model = MultiTargetSVR(kernel="precomputed", engine="smo")
        model.fit(np.exp(-gamma * (D + squared_distances(S, S))), Y[inside, gene])
        found[:, gene] = model.predict(np.exp(-gamma * (D_new + squared_distances(S_new, S))))
    return found


def leaky(lung: Path) -> dict[str, Any]:
    """Return the error of the published SVR of every fourth gene on test rows, and what cross-validation says of it.

    "of all rows": statistics made once, before the split; "of training rows": made anew inside each split.
    """
    data, truth = (
        replace(read, Y=np.ascontiguousarray(read.Y[:, ::EVERY]), genes=list(read.genes)[::EVERY])
        for read in (read_training(lung / "de_train.parquet"), read_responses(lung / "de_test.parquet"))
    )
    names = ("sm_name", "cell_type")
    (compounds, first), (cells, _) = (np.unique(data.obs[n].to_numpy(str), return_index=True) for n in names)
    known = dict(zip(names, (compounds, cells), strict=True))
    rows, asked = (
        np.stack([np.searchsorted(known[name], obs[name].to_numpy(str)) for name in names], axis=1)
        for obs in (data.obs, truth.obs)
    )
    bits = MorganEncoder().transform(list(data.obs["SMILES"].iloc[first]))
    columns = np.hstack([np.eye(len(compounds)), bits]).astype(np.float64), np.eye(len(cells))
    test = leaky_svr(columns, rows, data.Y, np.arange(len(rows)), asked, False)
    found: dict[str, Any] = {"test": float(rowwise_rmse(truth.Y, test).mean())}
    task = strengths(data.obs, data.Y, truth.obs)
    for name, (kind, all_rows) in product(("random", "scarce"), LEAKS.items()):
        errors, strength = [], []
        for s in named_splits(name, data.obs, pairs=truth.obs)[0]:
            predicted = leaky_svr(columns, rows, data.Y, s.training, rows[s.held_out], all_rows)
            errors.append(rowwise_rmse(data.Y[s.held_out], predicted))
            inside, outside = data.obs.iloc[s.training], data.obs.iloc[s.held_out]
            strength.append(strengths(inside, data.Y[s.training], outside))
        n = sum(map(len, strength))
        weights = replicate_weights(np.zeros((1, n), dtype=np.intp), np.arange(n))
        expectation = expected_error(np.concatenate(errors), np.concatenate(strength), task, weights)
        found[f"{kind}, {name}"] = asdict(expectation)
    return found


def other_tasks(lung: Path, out: Path) -> list[dict[str, Any]]:
    """Return expected and true errors of tasks like lincs_lung's, made of its training rows; recipe quick."""
    data, rng = read_training(lung / "de_train.parquet"), np.random.default_rng(0)
    counts = data.obs["cell_type"].value_counts()
    plenty = sorted(counts.index[counts > 5 * KEPT])
    found = []
    for draw in range(DRAWS):
        cell = plenty[draw % len(plenty)]
        place = out / f"task {draw}"
        made_scarce(data, cell, rng, place)
        ours = next(iter(test_error(place, "quick", out).values()))
        foretold = cv(place, "quick", "scarce", out)
        expected = {key: foretold["expected"][key] for key in ("low", "high")}
        error = {"held_out": foretold["mrrmse"], "expected": foretold["expected"]["error"]}
        found.append({"cell_type": cell, "true": ours} | error | expected)
    return found


def made_scarce(data: PerturbationData, cell: str, rng: np.random.Generator, folder: Path) -> None:
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
    table.iloc[left].to_parquet(folder / "de_train.parquet", index=False)
    truth[["id", "cell_type", "sm_name"]].to_csv(folder / "id_map.csv", index=False)
    truth.to_parquet(folder / "de_test.parquet", index=False)


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = harness.table(("255 × 18,211, one pass", "core-seconds"), report["metrics"].items())
    for name in ("lincs_lung, quick", "lincs_lung, standard", "lincs_lung, published", "demo, quick"):
        if name in report:
            lines += ["", *split_table(name, report[name])]
    if "leaky" in report:
        lines += ["", *leak_table(report["leaky"])]
    if "other_tasks" in report:
        lines += ["", *task_table(report["other_tasks"])]
    return "\n".join(lines)


def beside(error: float, true: float) -> str:
    """Return an error and how far it is off."""
    return f"{error:.4f} ({error / true - 1:+.1%})"


def leak_table(found: dict[str, Any]) -> list[str]:
    """Return a table of what the leak does."""
    true, rows = found["test"], []
    for kind, name in product(LEAKS, ("random", "scarce")):
        one = found[f"{kind}, {name}"]
        rows.append((kind, name, beside(one["held_out"], true), beside(one["error"], true)))
    lines = [f"published SVR with statistics of the gene: MRRMSE on the test rows {true:.4f}", ""]
    return lines + harness.table(("statistics", "split", "held-out rows as they are", "expected"), rows)


def task_table(tasks: list[dict[str, Any]]) -> list[str]:
    """Return a table of the tasks made of training rows, and how often the expectation was right."""
    kinds, rows = ("held_out", "expected"), []
    for one in tasks:
        cells = [beside(one[kind], one["true"]) for kind in kinds]
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        rows.append((one["cell_type"], f"{one['true']:.4f}", *cells, interval))
    as_is, expected = (np.mean([abs(one[kind] / one["true"] - 1) for one in tasks]) for kind in kinds)
    inside = sum(one["low"] <= one["true"] <= one["high"] for one in tasks)
    return [
        *harness.table(("made scarce", "true", "held-out rows as they are", "expected", "interval"), rows),
        *("", f"mean miss: {as_is:.1%} as they are, {expected:.1%} expected"),
        f"{inside} of {len(tasks)} intervals hold the true error",
    ]


def split_table(name: str, found: dict[str, Any]) -> list[str]:
    """Return a table of a data set's splits."""
    true, rows = next(iter(found["test"].values())), []
    for split, one in found["splits"].items():
        numbers = []
        for key, error in (("mrrmse", one), ("error", one["expected"])):
            if error is None:
                numbers += ["", ""]
                continue
            interval = f"({error['low']:.3f} to {error['high']:.3f})"
            numbers += [f"{error[key]:.4f} {interval}", f"{error[key] / true - 1:+.1%}"]
        best, score = one["best_baseline"]
        rows.append((split, one["rows"], one["fits"], one["seconds"], *numbers, f"{best} {score:.4f}"))
    head = "split | rows | fits | seconds | MRRMSE, 95 % interval | off by | expected on the pairs | off by"
    return [
        f"{name}: MRRMSE on the test rows {true:.4f}",
        "",
        *harness.table(f"{head} | best baseline", rows),
    ]


if __name__ == "__main__":
    main()
