"""Files in Open Problems' layouts, as their own programs write them (`file_de_train.yaml`, `file_prediction.yaml`)."""

import numpy as np
import pandas as pd

GENES = ["A1BG", "A1BG-AS1", "A2M", "A2M-AS1"]
PAIRS = pd.DataFrame({"cell_type": ["B cells"] * 3 + ["NK cells"] * 2, "sm_name": [*"abcab"]})
DE_TRAIN_LAYERS = (
    "logFC AveExpr t P.Value adj.P.Value B is_de is_de_adj sign_log10_pval clipped_sign_log10_pval".split()
)
VAR = pd.DataFrame(index=pd.Index(GENES, dtype=object))


def write_de(path, *, names=None, with_id=False, seed=0):
    """Write a file in the layout of `file_de_train.yaml`: every layer and every entry of `uns`, required or not."""
    import anndata

    rng = np.random.default_rng(seed)
    fold_change, p = rng.normal(size=(5, len(GENES))), rng.uniform(1e-6, 1, (5, len(GENES)))
    signed = np.sign(fold_change) * -np.log10(p)
    values = dict.fromkeys(DE_TRAIN_LAYERS, fold_change) | {
        "AveExpr": fold_change + 1,
        "t": 2 * fold_change,
        "P.Value": p,
        "adj.P.Value": np.minimum(1, 2 * p),
        "B": -fold_change,
        "is_de": p < 0.05,
        "is_de_adj": p < 0.025,
        "sign_log10_pval": signed,
        "clipped_sign_log10_pval": np.clip(signed, -4, 4),
    }
    obs = PAIRS.astype(object).assign(
        sm_lincs_id=[f"LSM-{k}" for k in range(5)],
        SMILES=["CCO", "C", "N", "CCO", "C"],
        split="train",
        control=False,
    )
    if with_id:
        obs.insert(0, "id", range(5))
    # src/process_dataset/run_limma/script.R names the rows so
    obs.index = pd.Index(names or (PAIRS["cell_type"] + ", " + PAIRS["sm_name"]).tolist(), dtype=object)
    texts = "dataset_name dataset_url dataset_reference dataset_summary dataset_description dataset_organism"
    uns = dict.fromkeys(texts.split(), "some text") | {"dataset_id": "small-data"}
    uns["single_cell_obs"] = pd.DataFrame(
        {"cell_type": np.array(["B cells", "NK cells"], object), "n": [1, 2]},
        index=np.array(["x", "y"], object),
    )
    anndata.AnnData(obs=obs, var=VAR, layers=values, uns=uns).write_h5ad(path, compression="gzip")
    return values


def write_theirs(path, ids, Y, *, name="id", obs=None):
    """Write a prediction whose rows are named by ids, or have the metadata `obs`."""
    import anndata

    obs = pd.DataFrame(index=pd.Index([str(k) for k in ids], dtype=object, name=name)) if obs is None else obs
    anndata.AnnData(obs=obs, var=VAR, layers={"prediction": Y, "other": Y}).write_h5ad(path)
