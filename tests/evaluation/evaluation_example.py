"""A small prediction, its truth and training rows."""

import numpy as np
import pandas as pd

GENES = ["A1BG", "A2M", "AAAS", "AACS"]


def table(pairs, seed, with_id=True):
    Y = np.random.default_rng(seed).normal(size=(len(pairs), len(GENES))).astype(np.float32)
    frame = pd.DataFrame(pairs, columns=["cell_type", "sm_name"])
    frame = pd.concat([frame, pd.DataFrame(Y, columns=GENES)], axis=1)
    if with_id:
        frame.insert(0, "id", range(10, 10 + len(frame)))
    return frame


TEST_PAIRS = [("B cells", "x"), ("B cells", "y, z"), ("NK cells", "w"), ("NK cells", "unseen")]
TRAINING_PAIRS = [
    ("B cells", "w"),
    *(("NK cells", m) for m in ("x", "y, z")),
    ("T cells", "x"),
    ("T cells", "w"),
]
TRUTH = table(TEST_PAIRS, 0)
PREDICTION = table(TEST_PAIRS, 1)
TRAINING = table(TRAINING_PAIRS, 2, with_id=False)


def values(frame):
    return frame[GENES].to_numpy(np.float32)
