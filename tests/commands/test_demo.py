"""demo: the simulated files alone, and the results that it does not replace."""

from tests.command_line import error_line, invoke, names_in, succeed


def test_demo_writes_its_data_alone_when_asked(tmp_path):
    succeed("demo", "--out", tmp_path / "demo", "--genes", 5, "--data-only")
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
