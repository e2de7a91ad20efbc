"""Open Problems files: ours has the fields of the contract, theirs are read by any layer, rows are matched by id.

The contract: openproblems-bio/task_perturbation_prediction, commit 2fa4446, `src/api/file_prediction.yaml` and
`file_de_train.yaml`.
"""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.data.tables import read_responses, read_training
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.predictions.found import read_found
from rapids_pipeline.predictions.open_problems import dataset_id_of, open_prediction, write_prediction_h5ad

anndata = pytest.importorskip("anndata")
pytestmark = pytest.mark.filterwarnings("ignore")  # anndata's own, of what it will change

GENES = ["A1BG", "A1BG-AS1", "A2M", "A2M-AS1"]
PAIRS = pd.DataFrame({"cell_type": ["B cells"] * 3 + ["NK cells"] * 2, "sm_name": [*"abcab"]})
DE_TRAIN_LAYERS = (
    "logFC AveExpr t P.Value adj.P.Value B is_de is_de_adj sign_log10_pval clipped_sign_log10_pval".split()
)


def predictions(n_rows=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n_rows, len(GENES))).astype(np.float32)


# --- ours -------------------------------------------------------------------------------------------------


def test_a_prediction_has_the_fields_of_the_contract(tmp_path):
    path, Y = tmp_path / "new" / "prediction.h5ad", predictions()
    write_prediction_h5ad(path, [3, 1, 0, 2, 4], GENES, Y, dataset_id="ours", method_id="mine")
    back = anndata.read_h5ad(path)
    layer = back.layers["prediction"]
    assert isinstance(layer, np.ndarray) and layer.dtype == np.float32
    np.testing.assert_array_equal(layer, Y)
    assert back.X is None
    assert [str(name) for name in back.obs_names] == ["3", "1", "0", "2", "4"]
    assert back.obs.index.name == "id" and list(back.obs.columns) == []
    assert [str(name) for name in back.var_names] == GENES
    assert dict(back.uns) == {"dataset_id": "ours", "method_id": "mine"}
    assert all(isinstance(value, str) for value in back.uns.values())


def test_it_is_laid_out_as_their_own_methods_do(tmp_path, object_strings):
    """`src/control_methods/zeros/script.py`, its output part, and ours: the same groups, shapes and texts."""
    import h5py

    id_map = PAIRS.assign(id=range(5))
    theirs = anndata.AnnData(
        layers={"prediction": np.zeros((5, len(GENES)))},
        obs=pd.DataFrame(index=id_map["id"]),
        var=pd.DataFrame(index=GENES),
        uns={"dataset_id": "neurips-2023-data", "method_id": "zeros"},
    )
    theirs.write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    write_prediction_h5ad(
        tmp_path / "ours.h5ad", range(5), GENES, np.zeros((5, len(GENES))), method_id="zeros"
    )

    def content(name):
        found = {}

        def visit(place, item):
            if isinstance(item, h5py.Dataset):
                value = item[()]
                found[place] = value.tolist() if isinstance(value, np.ndarray) else value
            else:
                found[place] = "group"

        with h5py.File(tmp_path / name) as file:
            file.visititems(visit)
        return found

    assert content("ours.h5ad") == content("theirs.h5ad")


def test_pairs_are_kept_where_they_are_known(tmp_path):
    write_prediction_h5ad(
        tmp_path / "p.h5ad", range(5), GENES, predictions(), pairs=PAIRS.set_axis([9, 8, 7, 6, 5])
    )
    back = anndata.read_h5ad(tmp_path / "p.h5ad").obs
    assert back["cell_type"].tolist() == PAIRS["cell_type"].tolist()
    assert back["sm_name"].tolist() == PAIRS["sm_name"].tolist()


def test_equal_input_gives_equal_arrays(tmp_path):
    for name in ("one.h5ad", "two.h5ad"):
        write_prediction_h5ad(tmp_path / name, range(5), GENES, predictions(), pairs=PAIRS)
    one, two = anndata.read_h5ad(tmp_path / "one.h5ad"), anndata.read_h5ad(tmp_path / "two.h5ad")
    np.testing.assert_array_equal(one.layers["prediction"], two.layers["prediction"])
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert one.var_names.equals(two.var_names) and dict(one.uns) == dict(two.uns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"Y": np.where(predictions() == predictions()[1, 2], np.nan, 0)},
            r"id 1 \(row 2\) for gene A2M is nan",
        ),
        ({"ids": [0, 1, 1, 2, 3]}, "id '1' occurs twice"),
        ({"genes": [*GENES[:3], "A1BG"]}, "gene 'A1BG' occurs twice"),
        ({"ids": [0, 1]}, r"shape \(5, 4\), expected \(2, 4\)"),
        ({"method_id": " "}, "--method-id is empty"),
        ({"dataset_id": ""}, "--dataset-id is empty"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(tmp_path, change, message):
    given = {"ids": range(5), "genes": GENES, "Y": predictions()} | change
    table = given.pop("ids"), given.pop("genes"), given.pop("Y")
    with pytest.raises(InputError, match=message) as caught:
        write_prediction_h5ad(tmp_path / "new" / "p.h5ad", *table, **given)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_failure_midway_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.h5ad"
    write_prediction_h5ad(path, range(5), GENES, predictions())
    before = path.read_bytes()

    def fail(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", fail)
    with pytest.raises(InputError, match=r"p.h5ad: cannot be written \(No space left on device\)"):
        write_prediction_h5ad(path, range(5), GENES, predictions(seed=1))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["p.h5ad"]


def test_without_anndata_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(
        UnavailableError, match=r"p.h5ad: .h5ad needs anndata; pip install 'rapids-perturb\[h5ad\]'"
    ):
        write_prediction_h5ad(tmp_path / "p.h5ad", range(5), GENES, predictions())


# --- theirs -----------------------------------------------------------------------------------------------


def write_de(path, *, names=None, with_id=False, seed=0):
    """Write a file in the layout of `file_de_train.yaml`: every layer and every entry of `uns`, required or not."""
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
    texts = (
        "dataset_id dataset_name dataset_url dataset_reference dataset_summary dataset_description".split()
    )
    uns = dict.fromkeys([*texts, "dataset_organism"], "some text") | {"dataset_id": "small-data"}
    uns["single_cell_obs"] = pd.DataFrame(
        {"cell_type": np.array(["B cells", "NK cells"], object), "n": [1, 2]},
        index=np.array(["x", "y"], object),
    )
    var = pd.DataFrame(index=pd.Index(GENES, dtype=object))
    anndata.AnnData(obs=obs, var=var, layers=values, uns=uns).write_h5ad(path, compression="gzip")
    return values


@pytest.mark.parametrize("layer", DE_TRAIN_LAYERS)
def test_their_training_file_is_read_by_any_layer(tmp_path, object_strings, layer):
    values = write_de(tmp_path / "de_train.h5ad")
    data = read_training(tmp_path / "de_train.h5ad", layer=layer)
    np.testing.assert_array_equal(data.Y, values[layer].astype(np.float32))
    assert data.genes == tuple(GENES) and data.obs["sm_name"].tolist() == PAIRS["sm_name"].tolist()
    assert "id" not in data.obs.columns
    assert dataset_id_of(tmp_path / "de_train.h5ad") == "small-data"


@pytest.mark.parametrize("names", [[str(k) for k in range(5)], [f"ACGT-{k}" for k in range(5)]])
def test_row_names_of_a_training_file_are_no_ids(tmp_path, object_strings, names):
    write_de(tmp_path / "de_train.h5ad", names=names)
    assert "id" not in read_training(tmp_path / "de_train.h5ad").obs.columns
    assert "id" not in read_responses(tmp_path / "de_train.h5ad").obs.columns


def write_theirs(path, ids, Y, *, name="id", obs=None):
    obs = pd.DataFrame(index=pd.Index([str(k) for k in ids], dtype=object, name=name)) if obs is None else obs
    var = pd.DataFrame(index=pd.Index(GENES, dtype=object))
    anndata.AnnData(obs=obs, var=var, layers={"prediction": Y, "other": Y}).write_h5ad(path)


def test_which_row_names_are_ids(tmp_path, object_strings):
    """A column `id` first; then names called id, of any layer; then any names of a prediction without pairs."""
    Y, path = predictions(), tmp_path / "p.h5ad"
    write_theirs(path, [4, 2, 0, 1, 3], Y)
    for layer in ("prediction", "other"):
        assert read_responses(path, layer=layer).obs["id"].tolist() == ["4", "2", "0", "1", "3"]
    write_theirs(path, [4, 2, 0, 1, 3], Y, name=None)
    assert read_responses(path, layer="prediction").obs["id"].tolist() == ["4", "2", "0", "1", "3"]
    assert "id" not in read_responses(path, layer="other").obs.columns
    obs = pd.DataFrame({"id": [5, 6, 7, 8, 9]}, index=pd.Index([*"abcde"], dtype=object))
    write_theirs(path, (), Y, obs=obs)
    assert read_responses(path, layer="prediction").obs["id"].tolist() == [5, 6, 7, 8, 9]
    write_theirs(path, (), Y, obs=PAIRS.astype(object).set_axis([*"abcde"]))
    assert list(read_responses(path, layer="prediction").obs.columns) == ["cell_type", "sm_name"]


@pytest.mark.parametrize("truth", ["parquet", "h5ad with ids", "h5ad with pairs"])
def test_a_prediction_is_scored_row_by_row_by_its_ids(tmp_path, object_strings, truth):
    order = [3, 0, 4, 1, 2]
    Y, measured = predictions(), write_de(tmp_path / "de_test.h5ad", with_id=truth == "h5ad with ids")
    measured = measured["clipped_sign_log10_pval"].astype(np.float32)
    write_prediction_h5ad(tmp_path / "p.h5ad", order, GENES, Y[order], pairs=PAIRS.iloc[order])
    path = tmp_path / "de_test.h5ad"
    if truth == "parquet":
        path = tmp_path / "de_test.parquet"
        ids = pd.DataFrame({"id": range(5)})
        pd.concat([ids, PAIRS, pd.DataFrame(measured, columns=GENES)], axis=1).to_parquet(path)
    found = evaluate_files(tmp_path / "p.h5ad", path)
    assert found.matched_by == ("cell_type, sm_name" if truth == "h5ad with pairs" else "id")
    naive = np.mean([np.sqrt(np.mean((measured[k] - Y[k]) ** 2)) for k in range(5)])
    assert found.scores["p"]["mean_rowwise_rmse"] == pytest.approx(naive, rel=1e-6)
    assert found.scores["p"]["mean_rowwise_rmse"] != pytest.approx(
        mean_rowwise_rmse(measured, Y[order]), rel=1e-3
    )


def test_a_prediction_without_pairs_is_matched_by_its_row_names(tmp_path, object_strings):
    order = [3, 0, 4, 1, 2]
    Y, measured = predictions(), write_de(tmp_path / "de_test.h5ad", with_id=True)
    write_theirs(tmp_path / "theirs.h5ad", order, Y[order], name=None)
    found = evaluate_files(tmp_path / "theirs.h5ad", tmp_path / "de_test.h5ad")
    expected = mean_rowwise_rmse(measured["clipped_sign_log10_pval"].astype(np.float32), Y)
    assert found.matched_by == "id"
    assert found.scores["theirs"]["mean_rowwise_rmse"] == pytest.approx(expected, rel=1e-6)


# --- as found ---------------------------------------------------------------------------------------------


def test_what_the_contract_asks_for_and_a_file_lacks_is_named(tmp_path, object_strings):
    obs = pd.DataFrame(index=pd.Index([*"012"], dtype=object))
    var = pd.DataFrame(index=pd.Index(GENES, dtype=object))
    data = anndata.AnnData(obs=obs, var=var, layers={"predictions": predictions(3)}, uns={"method_id": 3})
    data.write_h5ad(tmp_path / "p.h5ad")
    ids, genes, values, faults = open_prediction(tmp_path / "p.h5ad")
    assert (ids, genes, values) == ([*"012"], GENES, None)
    assert faults == [
        "missing layer 'prediction'; its layers are: predictions",
        "missing uns['dataset_id'], a text",
        "missing uns['method_id'], a text",
    ]


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix"])
def test_a_sparse_prediction_is_read(tmp_path, object_strings, kind):
    from scipy import sparse

    Y = np.where(predictions() > 0, predictions(), 0)
    write_theirs(tmp_path / "p.h5ad", range(5), getattr(sparse, kind)(Y))
    np.testing.assert_array_equal(read_found(tmp_path / "p.h5ad").Y, Y)


def test_a_damaged_file_is_one_line(tmp_path):
    write_prediction_h5ad(tmp_path / "p.h5ad", range(5), GENES, predictions())
    content = (tmp_path / "p.h5ad").read_bytes()
    (tmp_path / "p.h5ad").write_bytes(content[: len(content) // 2])
    for read in (read_found, dataset_id_of):
        with pytest.raises(
            InputError, match=r"p.h5ad: cannot be read as .h5ad \(.*\); is the file complete\?$"
        ):
            read(tmp_path / "p.h5ad")
