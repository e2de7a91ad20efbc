"""How the four baselines score on the demo data, seed by seed, beside what they scored in the competition.

    python -m benchmarks.data.demo_baselines [--out FILE]

Full size (18,211 genes). The simulation's parameters were chosen with seeds 0 to 39 in view. Prints a table and writes
benchmarks/results/demo_baselines.json.
"""

from typing import Any

import numpy as np

from benchmarks.harness import options_of, table, written
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.data.tables import training_from_frame
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse

PUBLISHED = {
    "zeros": 0.9179,
    "mean_outcome": 0.8992,
    "mean_across_celltypes": 0.8925,
    "mean_across_compounds": 0.9428,
}
"""MRRMSE in the Open Problems benchmark, run of 2024-10-31."""
TUNED_ON = 40


def scored(seed: int) -> list[float]:
    """Return the MRRMSE of every baseline on the test rows of one simulation."""
    data = simulate(seed)
    training = training_from_frame(data.de_train, "demo")
    truth = training_from_frame(data.de_test.drop(columns="id"), "demo test")
    return [mean_rowwise_rmse(truth.Y, baseline(training, truth.obs)) for baseline in BASELINES.values()]


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    published, names = report["published"], list(report["mrrmse"])
    scores = np.array([report["mrrmse"][name] for name in names]).T
    rows = [("published", *(f"{published[name]:.4f}" for name in names), "", "")]
    for label, part in (("0 to 39", scores[:TUNED_ON]), ("40 on", scores[TUNED_ON:])):
        deviations = part - np.array([published[name] for name in names])
        largest = np.abs(deviations.mean(axis=0)).max(), np.abs(deviations).max()
        rows.append((label, *(f"{one:.4f}" for one in (*part.mean(axis=0), *largest))))
    return "\n".join(table(("seeds", *names, "largest deviation of a mean", "of a single score"), rows))


def main() -> None:
    """Score, print and write."""
    chosen = options_of(__doc__, "demo_baselines.json").parse_args()
    scores = np.array([scored(seed) for seed in range(2 * TUNED_ON)])
    mrrmse = {name: scores[:, i].round(4).tolist() for i, name in enumerate(BASELINES)}
    written(chosen.out, markdown, installed_versions(), published=PUBLISHED, mrrmse=mrrmse)


if __name__ == "__main__":
    main()
