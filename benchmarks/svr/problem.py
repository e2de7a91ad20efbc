"""What the SVR benchmarks solve: the demo data's 614 training rows with one-hot columns and fingerprints, in folds."""

from dataclasses import dataclass

import numpy as np

from features.feature_sets import FeatureSet, FeatureTable, feature_set
from features.molecules.morgan import MorganEncoder
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.evaluation.splits import random_folds

N_GENES, N_FOLDS = 18_211, 5
MORGAN_BITS = 384
"""As wide as the ChemBERTa embedding of the published pipeline, so that a loop on raw features has as much to read."""
OWN_STATISTICS: FeatureSet = feature_set("svr_per_target").with_molecules("morgan")


@dataclass(frozen=True)
class Problem:
    """Rows, their shared features (n, p), targets (n, n_genes) and folds."""

    rows: Rows
    X: Float64
    Y: Float32
    folds: Indices

    @classmethod
    def load(cls, n_genes: int = N_GENES, n_bits: int = MORGAN_BITS) -> "Problem":
        """Simulate the data and make the features."""
        frame = simulate(n_genes=n_genes).de_train
        Y = frame.iloc[:, 5:].to_numpy(np.float32)
        rows = Rows(frame.iloc[:, :5], {"morgan": MorganEncoder(n_bits=n_bits).transform(frame["SMILES"])})
        X = FeatureTable(feature_set("svr_shared").with_molecules("morgan")).fit_transform(rows, Y)
        return cls(rows, X.astype(np.float64), Y, random_folds(len(Y), N_FOLDS, 0))

    def split(self, k: int) -> tuple[Indices, Indices]:
        """Return the training rows and the held-out rows of a fold."""
        return np.flatnonzero(self.folds != k), np.flatnonzero(self.folds == k)

    def shape(self) -> dict[str, int]:
        """Return what a report says of it."""
        n, genes = self.Y.shape
        return {"rows": n, "genes": genes, "folds": N_FOLDS, "shared_features": self.X.shape[1]}
