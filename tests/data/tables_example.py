"""A small training table, as tests of what reads tables take it."""

import numpy as np
import pandas as pd

LAYER = "clipped_sign_log10_pval"
GENES = ["A1BG", "A1BG-AS1", "A2M", "ZZZ3"]
SMILES = {"ethanol": "CCO", "benzene": "c1ccccc1", "aspirin": "CC(=O)Oc1ccccc1C(=O)O"}


def responses(n_rows: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n_rows, len(GENES))).round(6)


def table() -> pd.DataFrame:
    """Three compounds in two cell types; rows 1 and 2 are ethanol, 3 and 4 benzene, 5 and 6 aspirin."""
    names = [name for name in SMILES for _ in range(2)]
    metadata = {
        "cell_type": ["B cells", "NK cells"] * 3,
        "sm_name": names,
        "sm_lincs_id": [f"LSM-{number}" for number in range(6)],
        "SMILES": [SMILES[name] for name in names],
        "control": [False] * 4 + [True] * 2,
    }
    return pd.DataFrame(metadata | dict(zip(GENES, responses().T, strict=True)))


def with_value(column: str, row: int, value: object) -> pd.DataFrame:
    changed = table().astype({column: object})
    changed.loc[row - 1, column] = value
    return changed


def write(frame: pd.DataFrame, path):
    """Write a frame in the format that the path's suffix names."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path
