"""Pairs of cell type and compound with scores, and naive kernels on them."""

import numpy as np
import pandas as pd

from features.molecules.morgan import MorganEncoder
from features.rows import Rows
from rapids_pipeline.kernels.response_profiles import PRIOR, SHRINKAGE

SMILES = ["CCO", "CCN", "c1ccccc1", "c1ccccc1O", "CC(=O)O", "CCCC", "OCCO", "CC(C)N"]


def pairs(n_cells=4, n_compounds=8, missing=0.35, replicates=2, seed=0, n_scores=5):
    """Rows of a partly measured layout with some pairs twice, their scores, all in random order."""
    rng = np.random.default_rng(seed)
    chosen = [(c, m) for c in range(n_cells) for m in range(n_compounds) if rng.random() > missing]
    chosen += [chosen[k] for k in rng.choice(len(chosen), replicates, replace=False)]
    chosen = [chosen[k] for k in rng.permutation(len(chosen))]
    scores = rng.normal(size=(len(chosen), n_scores)) * np.linspace(3, 0.5, n_scores)
    return rows_of(chosen), scores


def rows_of(chosen, unseen=()):
    """Rows of (cell, compound) numbers; compound numbers beyond the SMILES start again with other names."""
    obs = pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c, _ in chosen],
            "sm_name": [f"drug {m}" for _, m in chosen],
            "SMILES": [SMILES[m % len(SMILES)] for _, m in chosen],
        }
    )
    return Rows(obs, {"morgan": MorganEncoder().fit_transform(list(obs["SMILES"]))})


def in_contexts(rows, seed=0):
    """The rows with doses (0 and missing ones among them), times and batches drawn apart from their pairs."""
    rng, n = np.random.default_rng([seed, 1]), len(rows.obs)
    drawn = {
        "dose_uM": rng.choice([0, 0.1, 0.3, 10, np.nan], n),
        "time_h": rng.choice([2.0, 6.0, 24.0], n),
        "batch": rng.choice(["one", "two"], n),
    }
    return Rows(rows.obs.assign(**drawn), rows.molecules)


def naive_nearness(a, b, length, least):
    """exp(−Δ²/2l²) of two doses or times; 0 is a tenth of the least positive one."""
    if np.isnan(a) or np.isnan(b):
        return float(np.isnan(a) and np.isnan(b))
    return np.exp(-((np.log10(a or least / 10) - np.log10(b or least / 10)) ** 2) / (2 * length**2))


def naive_residuals(obs, scores):
    """r_j = a_j − Σ of its cell type / (n + SHRINKAGE)."""
    residuals = np.empty_like(scores)
    for j, cell in enumerate(obs["cell_type"]):
        same = (obs["cell_type"] == cell).to_numpy()
        residuals[j] = scores[j] - scores[same].sum(axis=0) / (same.sum() + SHRINKAGE)
    return residuals


def naive_profile(cell, compound, obs, residuals, kappa):
    """The profile of a pair, and whether it has one."""
    found = [
        residuals[j]
        for j, (c, m) in enumerate(zip(obs["cell_type"], obs["sm_name"], strict=True))
        if m == compound and c != cell
    ]
    if not found:
        return np.zeros(residuals.shape[1]), False
    return np.sum(found, axis=0) / (len(found) + kappa), True


def naive_correlation(obs, residuals):
    """ρ of two cell types drawn to the mean, before it is made positive semidefinite; a dict by labels, and ρ̄."""
    cells = sorted(set(obs["cell_type"]))
    means = {
        key: residuals[group.index].mean(axis=0)
        for key, group in obs.reset_index(drop=True).groupby(["cell_type", "sm_name"])
    }
    rho, n = {}, {}
    for a in cells:
        for b in cells:
            shared = [m for (c, m) in means if c == a and (b, m) in means]
            cross = sum(means[a, m] @ means[b, m] for m in shared)
            scale = np.sqrt(
                sum(means[a, m] @ means[a, m] for m in shared)
                * sum(means[b, m] @ means[b, m] for m in shared)
            )
            rho[a, b], n[a, b] = (cross / scale if scale else 0.0), len(shared)
    off = [(a, b) for a in cells for b in cells if a != b]
    mean = max(sum(rho[k] * n[k] for k in off) / max(sum(n[k] for k in off), 1), 0.0)
    S = np.array(
        [
            [1.0 if a == b else (n[a, b] * rho[a, b] + PRIOR * mean) / (n[a, b] + PRIOR) for b in cells]
            for a in cells
        ]
    )
    return S, mean
