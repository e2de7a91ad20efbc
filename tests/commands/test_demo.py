"""demo: the simulated files alone, the results that it does not replace, and its scores."""

import json

from tests.command_line import error_line, invoke, names_in, succeed


def test_demo_writes_its_data_alone_when_asked(tmp_path):
    told = json.loads(
        succeed("demo", "--out", tmp_path / "demo", "--genes", 5, "--data-only", "--json").stdout
    )
    assert told["truth"] == str(tmp_path / "demo" / "data" / "de_test.parquet")
    assert names_in(tmp_path / "demo" / "data") == [
        *("de_test.parquet", "de_train.parquet", "gene_sets.gmt", "id_map.csv")
    ]
    assert error_line(invoke("demo", "--out", tmp_path / "other", "--genes", 0)).startswith("error: ")
    assert error_line(invoke("demo", "--out", tmp_path / "other", "--seed", -1)).startswith("error: ")
    assert not (tmp_path / "other").exists()


def test_demo_keeps_the_data_of_finished_results(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    line = error_line(invoke("demo", "--out", tmp_path, "--genes", 3))
    assert "--overwrite" in line
    assert names_in(tmp_path) == ["manifest.json"]


def test_demo_prints_the_scores_of_the_run_and_of_the_hidden_truth_as_json(tmp_path):
    out = tmp_path / "demo"
    small = "--quick", "--molecules", "morgan", "--device", "cpu", "--genes", 5, "--training-pairs", 60
    result = succeed("demo", "--out", out, *small, "--json")
    told = json.loads(result.stdout)
    assert told["run"] == json.loads((out / "scores.json").read_text())
    scored = succeed(
        *("evaluate", "--prediction", out / "submission.csv", "--truth", out / "data" / "de_test.parquet"),
        *("--train", out / "data" / "de_train.parquet", "--json"),
    )
    assert told["evaluation"] == json.loads(scored.stdout)
    assert result.stderr.splitlines()[-1].startswith(f"next: rapids-perturb genes --run {out}")
