"""Which split foretells the error on the pairs to predict: cross-validated scores beside those of the test rows.

    python -m benchmarks.evaluation [--data FOLDER] [--draws N] [--genes N] [--out FILE]

lincs_lung (real): `rapids-perturb cv` by every split that fits, each beside `run` and `evaluate` of the same recipe on
the held-back test rows. What a leak does: target statistics made of all rows before the split, as in the published
pipeline. To see how far the expectation can be trusted, N other tasks made of training rows: a cell type made scarce,
its other rows held back. The demo (simulated) likewise. Prints tables and writes benchmarks/results/evaluation.json
with the machine, the date and versions.
"""

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.pipeline import scored
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

SPLITS = ("random", "cluster", "compound", "scaffold", "cell_type", "joint", "made_scarce", "scarce")
STATISTICS = ("mean", "min", "max", "median", "first", "quantile_0.4")
EVERY = 4
"""Of so many genes the leaky SVRs, one after the other, take one."""
KEPT = 20
"""Training rows of a cell type that is made scarce."""


def main() -> None:
    """Run, print and write."""
    parser = harness.options_of(__doc__, results="evaluation.json")
    parser.add_argument("--data", type=Path, default=harness.DATA, help="where lincs_lung is")
    parser.add_argument("--draws", type=int, default=9)
    parser.add_argument("--genes", default="2000", help="of the demo")
    chosen = parser.parse_args()
    lung = chosen.data / "lincs_lung"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found: dict[str, Any] = {"metrics": metrics(), "demo, quick": demo(out, chosen.genes)}
        if lung.exists():
            files = files_in(lung)
            found["lincs_lung, quick"] = splits_of(files, "quick", SPLITS, out)
            found["lincs_lung, standard"] = splits_of(files, "standard", ("random", "scarce"), out)
            found["lincs_lung, published"] = splits_of(files, "published", ("scarce",), out)
            found["leaky"] = leaky(lung)
            found["other_tasks"] = other_tasks(lung, chosen.draws, out)
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
    return {name: round(harness.median(values), 3) for name, values in taken.items()}


def files_in(folder: Path) -> dict[str, Path]:
    """Return a data set's training file, pairs to predict and their truth."""
    names = {"train": "de_train.parquet", "test": "id_map.csv", "truth": "de_test.parquet"}
    return {what: folder / name for what, name in names.items()}


def splits_of(files: dict[str, Path], recipe: str, splits: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Return the test error of a recipe and its cross-validated errors by split."""
    return {"test": test_error(files, recipe, out), "splits": {s: cv(files, recipe, s, out) for s in splits}}


def demo(out: Path, genes: str) -> dict[str, Any]:
    """Return the same for the demo data."""
    harness.command("demo", "--data-only", "--genes", genes, "--out", str(out / "demo"))
    return splits_of(files_in(out / "demo" / "data"), "quick", ("random", "compound", "scarce"), out)


def test_error(files: dict[str, Path], recipe: str, out: Path) -> dict[str, float]:
    """Return the MRRMSE of a run, and of the baselines, on the test rows."""
    place = out / f"run {recipe}"
    options = ["--molecules", "morgan", "--recipe", recipe, "--overwrite", "--out", str(place)]
    harness.command("run", "--train", str(files["train"]), "--test", str(files["test"]), *options)
    return scored(place / "submission.csv", files["truth"])


def cv(files: dict[str, Path], recipe: str, split: str, out: Path) -> dict[str, Any]:
    """Return what a cross-validation says of the pipeline."""
    place = out / f"cv {recipe} {split} {files['train'].parent.name}"
    options = ["--molecules", "morgan", "--recipe", recipe, "--split", split, "--out", str(place)]
    cost = harness.command("cv", "--train", str(files["train"]), "--test", str(files["test"]), *options)
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


@dataclass(frozen=True, eq=False)
class LeakySvr:
    """The published SVR of a gene: on cell type, compound, fingerprint and six statistics of the gene by both.

    `features` are the columns of every compound and of every cell type, `levels` (n, 2) the numbers of both by row.
    """

    features: tuple[NDArray[np.float64], NDArray[np.float64]]
    levels: NDArray[np.intp]
    Y: NDArray[np.float32]

    def statistics(self, inside: Any, all_rows: bool) -> list[Any]:
        """Return (levels, statistics, genes) by compound and by cell type; unseen levels have the rows' mean."""
        made, source = [], np.arange(len(self.Y)) if all_rows else inside
        for k, features in enumerate(self.features):
            table = group_statistics(self.Y[source], self.levels[source, k], len(features), STATISTICS)
            counts = np.bincount(self.levels[inside, k], minlength=len(features))
            seen = counts > 0
            table[~seen] = np.einsum("lsg,l->sg", table[seen], counts[seen] / counts.sum())
            made.append(table)
        return made

    def predicted(self, inside: Any, asked: Any, all_rows: bool) -> Any:
        """Return the predictions of levels (m, 2) by SVRs that are fitted to the rows `inside`.

        With `all_rows` the statistics are made of all rows, so that those of held-out rows hold their own responses.
        """
        both, made = (self.levels[inside], asked), self.statistics(inside, all_rows)
        X, X_new = (np.hstack([self.features[k][some[:, k]] for k in (0, 1)]) for some in both)
        distances = squared_distances(X, X), squared_distances(X_new, X)
        found = np.empty((len(asked), self.Y.shape[1]))
        for gene in range(self.Y.shape[1]):
            S, S_new = (
                np.hstack([made[k][some[:, k], :, gene] for k in (0, 1)]).astype(np.float64) for some in both
            )
            gamma = scale_gamma(np.hstack([X, S]))
            K, K_new = (
                np.exp(-gamma * (D + squared_distances(of, S)))
                for D, of in zip(distances, (S, S_new), strict=True)
            )
            model = MultiTargetSVR(kernel="precomputed", engine="smo").fit(K, self.Y[inside, gene])
            found[:, gene] = model.predict(K_new)
        return found


def leaky(lung: Path) -> dict[str, Any]:
    """Return the error of the published SVR of every fourth gene on test rows, and what cross-validation says of it.

    "of all rows": statistics made once, before the split; "of training rows": made anew inside each split.
    """
    data, truth = (
        replace(read, Y=np.ascontiguousarray(read.Y[:, ::EVERY]), genes=list(read.genes)[::EVERY])
        for read in (read_training(lung / "de_train.parquet"), read_responses(lung / "de_test.parquet"))
    )
    compounds, first = np.unique(data.obs["sm_name"].to_numpy(str), return_index=True)
    cells = np.unique(data.obs["cell_type"].to_numpy(str))
    rows, asked = (
        np.stack(
            [
                np.searchsorted(known, obs[column].to_numpy(str))
                for column, known in (("sm_name", compounds), ("cell_type", cells))
            ],
            axis=1,
        )
        for obs in (data.obs, truth.obs)
    )
    bits = MorganEncoder().transform(list(data.obs["SMILES"].iloc[first]))
    by_compound = np.hstack([np.eye(len(compounds)), bits]).astype(np.float64)
    svr = LeakySvr((by_compound, np.eye(len(cells))), rows, data.Y)
    test = svr.predicted(np.arange(len(rows)), asked, False)
    found: dict[str, Any] = {"test": float(rowwise_rmse(truth.Y, test).mean())}
    task = strengths(data.obs, data.Y, truth.obs)
    for name in ("random", "scarce"):
        splits = named_splits(name, data.obs, pairs=truth.obs)[0]
        strength = [
            strengths(data.obs.iloc[s.training], data.Y[s.training], data.obs.iloc[s.held_out])
            for s in splits
        ]
        n = sum(map(len, strength))
        weights = replicate_weights(np.zeros((1, n), dtype=np.intp), np.arange(n))
        for kind, all_rows in (("of training rows", False), ("of all rows", True)):
            errors = [
                rowwise_rmse(data.Y[s.held_out], svr.predicted(s.training, rows[s.held_out], all_rows))
                for s in splits
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
        expected = {key: foretold["expected"][key] for key in ("low", "high")}
        error = {"held_out": foretold["mrrmse"], "expected": foretold["expected"]["error"]}
        found.append({"cell_type": cell, "true": ours} | error | expected)
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
    files = files_in(folder)
    table.iloc[left].to_parquet(files["train"], index=False)
    truth[["id", "cell_type", "sm_name"]].to_csv(files["test"], index=False)
    truth.to_parquet(files["truth"], index=False)
    return files


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = ["| 255 × 18,211, one pass | core-seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds} |" for name, seconds in report["metrics"].items()]
    for name in ("lincs_lung, quick", "lincs_lung, standard", "lincs_lung, published", "demo, quick"):
        if name in report:
            lines += ["", *split_table(name, report[name])]
    if "leaky" in report:
        lines += ["", *leak_table(report["leaky"])]
    if "other_tasks" in report:
        lines += ["", *task_table(report["other_tasks"])]
    return "\n".join(lines)


def leak_table(found: dict[str, Any]) -> list[str]:
    """Return a table of what the leak does."""
    true = found["test"]
    lines = [f"published SVR with statistics of the gene: MRRMSE on the test rows {true:.4f}", ""]
    lines += ["| statistics | split | held-out rows as they are | expected |", "|---|---|---|---|"]
    for kind in ("of training rows", "of all rows"):
        for name in ("random", "scarce"):
            one = found[f"{kind}, {name}"]
            cells = [f"{v:.4f} ({v / true - 1:+.1%})" for v in (one["held_out"], one["error"])]
            lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    return lines


def task_table(tasks: list[dict[str, Any]]) -> list[str]:
    """Return a table of the tasks made of training rows, and how often the expectation was right."""
    lines = [
        "| made scarce | true | held-out rows as they are | expected | interval |",
        "|---|---|---|---|---|",
    ]
    kinds = ("held_out", "expected")
    for one in tasks:
        cells = [f"{one[kind]:.4f} ({one[kind] / one['true'] - 1:+.1%})" for kind in kinds]
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        lines.append(f"| {one['cell_type']} | {one['true']:.4f} | {' | '.join(cells)} | {interval} |")
    as_is, expected = (np.mean([abs(one[kind] / one["true"] - 1) for one in tasks]) for kind in kinds)
    inside = sum(one["low"] <= one["true"] <= one["high"] for one in tasks)
    lines += ["", f"mean miss: {as_is:.1%} as they are, {expected:.1%} expected"]
    return [*lines, f"{inside} of {len(tasks)} intervals hold the true error"]


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
