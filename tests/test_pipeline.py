"""The parts of a run that work by blocks of rows: against the same in one piece."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow.parquet import ParquetFile, read_table, write_table

from rapids_pipeline.backend import arrays
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.baselines import BASELINES, CONTEXT_BASELINES
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.pipeline import out_of_fold_errors, write_rows
from rapids_pipeline.stack.compact import Compact


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    cells, compounds = np.divmod(rng.permutation(30), 6)
    obs = pd.DataFrame({"cell_type": [f"c{k}" for k in cells], "sm_name": [f"m{k}" for k in compounds]})
    obs["SMILES"], obs["dose_uM"] = "C", rng.choice([0.1, 10.0], size=30)
    Y = rng.normal(size=(30, 5)).astype(np.float32)
    Y[rng.random(Y.shape) < 0.1] = np.nan
    return PerturbationData(obs, Y, tuple("ABCDE")), rng.integers(0, 3, size=30), rng


def test_errors_of_rows_are_those_of_whole_matrices(problem, monkeypatch):
    data, folds, rng = problem
    monkeypatch.setattr(arrays.row_blocks, "__defaults__", (7,))
    dense = rng.normal(size=data.Y.shape).astype(np.float32)
    found = out_of_fold_errors(data, folds, {"dense": dense, "compact": Compact.of(dense)})
    assert list(found) == ["dense", "compact", *BASELINES, *CONTEXT_BASELINES]
    for name in ("dense", "compact"):
        np.testing.assert_array_equal(found[name], rowwise_rmse(data.Y, dense))
    for name, baseline in (BASELINES | CONTEXT_BASELINES).items():
        for row in range(30):
            asked = data.obs.iloc[[row]]
            predicted = baseline(data.take(np.flatnonzero(folds != folds[row])), asked)
            assert found[name][row] == pytest.approx(float(rowwise_rmse(data.Y[[row]], predicted)[0]))


def test_rows_are_written_by_blocks_as_in_one_piece(problem, tmp_path, monkeypatch):
    data, _, rng = problem
    predicted, order = rng.normal(size=(30, 5)).astype(np.float32), rng.permutation(30)
    about = pa.Table.from_pandas(data.obs, preserve_index=False)
    names = [*about.column_names, *data.genes]
    whole = pa.table([*about.columns, *map(pa.array, predicted[order].T.copy())], names=names)
    write_table(whole, tmp_path / "whole.parquet", use_dictionary=about.column_names)
    write_rows(tmp_path / "one block.parquet", data.obs, data.genes, predicted, order)
    assert (tmp_path / "one block.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    monkeypatch.setattr(arrays.row_blocks, "__defaults__", (7,))
    write_rows(tmp_path / "blocks.parquet", data.obs, data.genes, predicted, order)
    assert ParquetFile(tmp_path / "blocks.parquet").metadata.num_row_groups == 5
    assert read_table(tmp_path / "blocks.parquet").equals(whole)
    write_rows(tmp_path / "none.parquet", data.obs.head(0), data.genes, predicted[:0])
    assert read_table(tmp_path / "none.parquet").num_rows == 0
