"""What replicates say of scores: naive references, known noise that is found again, and Open TG-GATEs."""

import math

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy.contexts import responses
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.evaluation.metrics import METRICS, score_all
from rapids_pipeline.evaluation.replicates import replicate_scores

COUNTS = {2: 0.7978845608, 3: 0.8862269255, 4: 0.9213177319}
"""c4 of Holtzman's table."""


def measured(n, r, t, *, noise=1.0, signal=1.0, seed=0, counts=False):
    """Return n pairs measured r times in t genes, with the true means; noise of a row that counts c is noise / √c."""
    rng = np.random.default_rng(seed)
    pair = np.repeat(np.arange(n), r)
    means = signal * rng.normal(size=(n, t)) + 0.3
    obs = pd.DataFrame({"cell_type": [f"c{i % 4}" for i in pair], "sm_name": [f"m{i}" for i in pair]})
    c = rng.integers(1, 9, len(pair)).astype(float) if counts else np.ones(len(pair))
    spread = noise * rng.lognormal(0, 0.4, size=(n, 1))[pair] / np.sqrt(c)[:, None]
    Y = (means[pair] + spread * rng.normal(size=(len(pair), t))).astype(np.float32)
    return (obs.assign(n_cells=c) if counts else obs), Y, means[pair].astype(np.float32)


def averages(obs, values):
    """Return the weighted mean of every pair, in the order of the pairs."""
    c = obs["n_cells"].to_numpy() if "n_cells" in obs else np.ones(len(obs))
    rows = obs.groupby("sm_name", sort=False).indices.values()
    return np.stack([np.average(values[k], axis=0, weights=c[k]) for k in rows]).astype(np.float32)


@pytest.mark.parametrize("r", [2, 3, 8])
@pytest.mark.parametrize("options", [{}, {"counts": True}, {"signal": 0.3}])
def test_the_ceiling_is_what_the_true_means_score(r, options):
    obs, Y, means = measured(80, r, 300, **options)
    found = replicate_scores(obs, Y, means)
    true = score_all(averages(obs, Y), averages(obs, means))
    assert found.ceiling == pytest.approx(true, rel=0.02, abs=0.015)
    assert found.prediction == pytest.approx(true, rel=1e-6), "the true means, scored as a prediction"
    if "counts" not in options:
        kept = replicate_scores(obs, Y, means, "keep")
        assert kept.ceiling == pytest.approx(score_all(Y, means), rel=0.02, abs=0.015)


def test_known_noise_is_found_again():
    rng = np.random.default_rng(1)
    obs, _, means = measured(40, 4, 2000)
    Y = (means + 0.5 * rng.normal(size=means.shape)).astype(np.float32)
    found = replicate_scores(obs, Y, means)
    assert found.ceiling["mean_rowwise_rmse"] == pytest.approx(0.5 / math.sqrt(4), rel=0.01)
    assert found.ceiling["mean_rowwise_mae"] == pytest.approx(0.25 * math.sqrt(2 / math.pi), rel=0.01)
    assert found.ceiling["mean_rowwise_pearson"] == pytest.approx(1 / math.sqrt(1 + 0.25**2), rel=0.01)
    assert found.alone["mean_rowwise_rmse"] == pytest.approx(0.5 * math.sqrt(1 + 1 / 3), rel=0.01)


def test_without_a_signal_correlations_have_a_ceiling_near_zero():
    obs, Y, means = measured(60, 2, 5000, signal=0.0)
    assert replicate_scores(obs, Y, means).ceiling["mean_rowwise_pearson"] < 0.1


@pytest.mark.parametrize("replicates", ["mean", "keep"])
def test_genes_tested_in_two_replicates_count(replicates):
    obs = pd.DataFrame({"cell_type": "B", "sm_name": list("xxxxyyz")})
    Y = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    Y[0, 0] = Y[1, 1] = Y[2, 1] = Y[:3, 2] = Y[4, 3] = np.nan
    predicted = np.zeros_like(Y)
    found = replicate_scores(obs, Y, predicted, replicates)
    squares, deviations, alone = [], [], []
    for rows in ([0, 1, 2, 3], [4, 5]):
        of = [[float(Y[i, g]) for i in rows if np.isfinite(Y[i, g])] for g in range(6)]
        noise = [
            (np.var(v, ddof=1) / (1 if replicates == "keep" else len(v)), len(v)) for v in of if len(v) > 1
        ]
        times = len(rows) if replicates == "keep" else 1
        squares += [math.sqrt(np.mean([v for v, _ in noise]))] * times
        deviations += [np.mean([math.sqrt(v) / COUNTS[r] * math.sqrt(2 / math.pi) for v, r in noise])] * times
        for i in rows:
            errors = []
            for g in range(6):
                others = [Y[k, g] for k in rows if k != i and np.isfinite(Y[k, g])]
                if np.isfinite(Y[i, g]) and others:
                    errors.append((Y[i, g] - np.mean(others)) ** 2)
            alone.append(math.sqrt(np.mean(errors)))
    assert found.ceiling["mean_rowwise_rmse"] == pytest.approx(np.mean(squares), rel=1e-5)
    assert found.ceiling["mean_rowwise_mae"] == pytest.approx(np.mean(deviations), rel=1e-5)
    assert found.alone["mean_rowwise_rmse"] == pytest.approx(np.mean(alone), rel=1e-5)
    assert (found.n_contexts, found.n_rows) == (2, 6)
    assert list(found.alone) == list(found.ceiling) == list(METRICS)


def test_without_replicates_there_is_nothing_to_say():
    obs, Y, means = measured(5, 1, 4)
    assert replicate_scores(obs, Y, means) is None
    obs = obs.assign(sm_name="m", cell_type="c")
    assert replicate_scores(obs, Y, means) is not None
    assert replicate_scores(obs.assign(dose_uM=np.arange(5.0)), Y, means) is None, (
        "other doses are no replicates"
    )


def test_on_real_replicates(shared_data, tmp_path):
    truth = responses(shared_data / "tggates" / "expression.parquet")
    context = ["cell_type", "sm_name", "dose_uM", "time_h"]
    genes = list(truth.columns[truth.columns.get_loc("replicate") + 1 :])
    zeros = truth.drop_duplicates(context).set_index(context)[genes].mul(0.0).reset_index()
    files = [tmp_path / "predicted.parquet", tmp_path / "truth.parquet"]
    for file, table in zip(files, (zeros, truth), strict=True):
        table.to_parquet(file, index=False)
    found = evaluate_files(*files)
    assert found.matched_by == ", ".join(context) and found.n_rows == 857
    assert found.scores["predicted"]["mean_rowwise_rmse"] == pytest.approx(0.2051, abs=1e-4)
    of = found.replicates
    assert (of.n_contexts, of.n_rows) == (855, 1710)
    twice = [rows for rows in truth.groupby(context, sort=False).indices.values() if len(rows) == 2]
    Y = truth[genes].to_numpy(np.float64)
    apart = np.mean([np.sqrt(np.mean((Y[a] - Y[b]) ** 2)) for a, b in twice])
    assert of.alone["mean_rowwise_rmse"] == pytest.approx(apart, rel=1e-5)
    assert of.ceiling["mean_rowwise_rmse"] == pytest.approx(apart / 2, rel=1e-5)
    alike = np.mean([np.corrcoef(Y[a], Y[b])[0, 1] for a, b in twice])
    assert of.alone["mean_rowwise_pearson"] == pytest.approx(alike, abs=1e-4)
    assert alike < of.ceiling["mean_rowwise_pearson"] < 1
