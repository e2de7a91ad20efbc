"""Is a compound found again by its signature, from predictions alone? And what does a set's p-value say?

    python -m benchmarks.predictions.signatures [--data FOLDER] [--out FILE]

lincs_lung (real): `best` is fitted to the training rows and predicts the test pairs. Of each measured test row the 100
genes of the largest responses are the signature, the number of each its sign. All predicted pairs of the row's cell
type are ranked by it, and the place of the row's own compound is noted. Beside it: Spearman's correlation of the whole
measured row with the predictions, the compound's mean over training rows in the place of the prediction, and chance.
The share of rows whose compound is within the first 5 % has an interval that resamples compounds.

Pathways: random sets of 25 genes against the predicted responses, whose p-values should be below 0.05 in 5 % of sets.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from benchmarks import harness
from features.rows import numbered
from rapids_pipeline import PerturbationModel
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.data.tables import read_responses, read_training
from rapids_pipeline.evaluation.baselines import ALL_BASELINES
from rapids_pipeline.evaluation.uncertainty import replicate_weights
from rapids_pipeline.predictions.gene_sets import pathway_table, usable_sets
from rapids_pipeline.predictions.readouts import Responses
from rapids_pipeline.predictions.signatures import correlations

GENES, FIRST, SETS, SET_SIZE = 100, 0.05, 1000, 25


def main() -> None:
    """Run, print and write."""
    chosen = harness.options_of(__doc__, results="signatures.json", data=harness.DATA).parse_args()
    lung = chosen.data / "lincs_lung"
    training = read_training(lung / "de_train.parquet")
    model = PerturbationModel("best", molecules="morgan").fit(lung / "de_train.parquet", lung / "id_map.csv")
    truth = read_responses(lung / "de_test.parquet")
    predicted = model.predict(truth.obs[["cell_type", "sm_name", "SMILES"]]).to_numpy()
    mean = ALL_BASELINES["mean_across_compounds"](training, truth.obs)
    found = {
        "best, by the signature": places(predicted, truth, signatures(truth.Y)),
        "best, by Spearman with the whole row": places(ranks(predicted), truth, ranks(truth.Y)),
        "compound mean, by the signature": places(mean, truth, signatures(truth.Y)),
        "compound mean, by Spearman with the whole row": places(ranks(mean), truth, ranks(truth.Y)),
    }
    units = numbered(truth.obs["sm_name"].to_numpy(str))[1]
    weights = replicate_weights(np.zeros((1, len(units)), dtype=np.intp), units)
    shares = {name: share(place <= FIRST, weights) for name, place in found.items()}
    medians = {name: float(np.median(place)) for name, place in found.items()}
    report: dict[str, Any] = {"rows": len(truth.Y), "shares": shares, "medians": medians}
    harness.written(
        chosen.out, tables, installed_versions(), **report, false_positives=false_positives(predicted, truth)
    )


def signatures(Y: Any) -> Any:
    """Return the signature of every row, (n, t): the sign of its largest responses, 0 elsewhere."""
    found = np.zeros(Y.shape)
    for row, y in zip(found, Y, strict=True):
        largest = np.argsort(-np.abs(y))[:GENES]
        row[largest] = np.sign(y[largest])
    return found


def ranks(Y: Any) -> Any:
    """Return the ranks of the genes of every row."""
    return rankdata(Y, axis=1).astype(np.float32)


def places(predicted: Any, truth: Any, signature: Any) -> Any:
    """Return where each row's own pair is among the pairs of its cell type, as a share of them, (n,); ties half way."""
    cells, place = truth.obs["cell_type"].to_numpy(str), np.empty(len(truth.Y))
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        scores = correlations(
            np.asarray(predicted[rows], np.float32), signature[rows].T
        )  # (pairs, signatures)
        own = np.diag(scores)
        above, same = (scores > own).sum(axis=0), (scores == own).sum(axis=0)
        place[rows] = (above + (same + 1) / 2) / len(rows)
    return place


def share(hit: Any, weights: Any) -> dict[str, float]:
    """Return the share of rows that are found, and its interval."""
    drawn = weights @ hit / weights.sum(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"share": float(hit.mean()), "low": float(low), "high": float(high)}


def false_positives(predicted: Any, truth: Any) -> dict[str, float]:
    """Return the share of random sets whose p-value is below 0.05, the mean over pairs."""
    rng, t = np.random.default_rng(0), predicted.shape[1]
    pairs = pd.DataFrame({name: truth.obs[name] for name in ("cell_type", "sm_name")})
    responses = Responses(pairs, tuple(map(str, range(t))), predicted, harness.DATA)
    sets = {f"{k}": [str(gene) for gene in rng.choice(t, SET_SIZE, replace=False)] for k in range(SETS)}
    sizes, W, _ = usable_sets(sets, responses.genes, 5, harness.DATA)
    table = pathway_table(responses, sizes, W)
    return {
        "p below 0.05": float((table["p"] < 0.05).mean()),
        "fdr below 0.05": float((table["fdr"] < 0.05).mean()),
    }


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows = [
        (
            name,
            f"{one['share']:.1%} ({one['low']:.1%} to {one['high']:.1%})",
            f"{report['medians'][name]:.1%}",
        )
        for name, one in report["shares"].items()
    ]
    rows.append(("chance", f"{FIRST:.1%}", "50.0%"))
    heading = f"{report['rows']} held-out rows", f"own compound in the first {FIRST:.0%}", "median place"
    lines = harness.table(heading, rows)
    found = [(name, f"{one:.2%}") for name, one in report["false_positives"].items()]
    lines += ["", *harness.table((f"{SETS} random sets of {SET_SIZE} genes", "share"), found)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
