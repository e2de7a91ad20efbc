"""A whole run with `--device cuda` gives what one with `--device cpu` gives, and its model predicts on a CPU.

Stand-in: the CPU in both places.
"""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rapids_pipeline.commands import app as cli
from tests.gpu.requirements import need, on_gpu

pytest.importorskip("xgboost")

METADATA = ["cell_type", "sm_name", "sm_lincs_id", "SMILES", "control"]


@pytest.fixture(params=["cpu", on_gpu])
def device(request):
    if request.param == "cuda":
        need("cudf", "cupy", "xgboost")
    return request.param


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def run(files, out, device, *options):
    data = ["--train", files.train, "--test", files.test, "--out", out]
    shared = ["--molecules", "morgan", "--folds", "3", "--boosting-engine", "xgboost", "--device", device]
    invoke("run", *data, *shared, *options)
    return {
        "oof": pd.read_parquet(out / "oof.parquet"),
        "submission": pd.read_csv(out / "submission.csv"),
        "manifest": json.loads((out / "manifest.json").read_text()),
        "scores": json.loads((out / "scores.json").read_text()),
    }


def numbers(table):
    return table.drop(columns=[*METADATA, "id"], errors="ignore").to_numpy(float)


def assert_close(found, expected):
    """Trees part ways where two splits gain the same, so most entries agree closely and none is far off."""
    assert list(found.columns) == list(expected.columns)
    found, expected = numbers(found), numbers(expected)
    assert np.abs(found - expected).mean() <= 0.05 * expected.std()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def assert_same_runs(files, folder, device, recipe):
    there, here = (
        run(files, folder / f"{place}-{where}", where, "--recipe", recipe)
        for place, where in (("there", device), ("here", "cpu"))
    )
    for name in ("oof", "submission"):
        assert_close(there[name], here[name])
    assert list(there["submission"]["id"]) == list(here["submission"]["id"])
    assert there["manifest"]["device"] == device
    assert there["manifest"]["chosen"]["device"] == f"{device} (asked for)"
    ours, theirs = (made["scores"]["out_of_fold"]["pipeline"]["mean_rowwise_rmse"] for made in (there, here))
    assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize("recipe", ["quick", "best"])
def test_a_run_is_the_one_on_the_cpu(device, small_files, tmp_path, recipe):
    assert_same_runs(small_files, tmp_path, device, recipe)


@pytest.mark.gpu
def test_a_run_of_the_standard_recipe_is_the_one_on_the_cpu(small_files, tmp_path):
    need("cudf", "cupy", "xgboost")
    assert_same_runs(small_files, tmp_path, "cuda", "standard")


def test_its_model_predicts_on_a_cpu(device, small_files, tmp_path):
    made = run(small_files, tmp_path / "run", device, "--quick")
    out = tmp_path / "predicted.csv"
    invoke("predict", "--model", tmp_path / "run" / "model", "--pairs", small_files.test, "--out", out)
    predicted = pd.read_csv(out)[made["submission"].columns]
    np.testing.assert_allclose(numbers(predicted), numbers(made["submission"]), atol=2e-3)
