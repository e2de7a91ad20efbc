"""Batch submission through the command line, from runs and from saved models, in every format."""

import gzip
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.predictions.formats import write_kaggle_csv
from tests.command_line import invoke, succeed


@pytest.fixture(scope="module")
def run(finished):
    """A finished run on the small demo data."""
    return finished[0]


def submit(*arguments):
    return succeed("submit", *arguments)


@pytest.fixture(scope="module")
def expected(run):
    return pd.read_csv(run / "submission.csv")


@pytest.fixture
def genes(expected, tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text("\n".join(expected.columns[1:]))
    return path


def refused(*arguments):
    """Return what the command says on stderr when it ends with exit code 2."""
    result = invoke("submit", *arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".h5ad"])
def test_a_run_in_every_format_passes_the_check(run, expected, small_files, genes, tmp_path, suffix):
    if suffix == ".h5ad":
        pytest.importorskip("anndata")
    out = tmp_path / f"made{suffix}"
    assert submit("--run", run, "--out", out).stdout == f"{len(expected)} rows × 8 genes written: {out}\n"
    told = json.loads(submit("--run", run, "--out", out, "--overwrite", "--json").stdout)
    assert told == {"out": str(out), "rows": len(expected), "genes": 8, "scores": None}
    back = read_responses(out, TableOptions(layer="prediction"))
    np.testing.assert_allclose(back.Y, expected.iloc[:, 1:].to_numpy(np.float32), rtol=1e-6)
    assert [str(x) for x in back.obs["id"]] == small_files.id_map["id"].tolist()
    checked = submit("--check", out, "--id-map", small_files.test, "--genes", genes)
    assert checked.stdout.startswith(f"OK: {out}: {len(expected)} rows × 8 genes")
    as_json = json.loads(
        submit("--check", out, "--id-map", small_files.test, "--genes", genes, "--json").stdout
    )
    assert as_json["checked"] == str(out) and as_json["told"] == checked.stdout.strip()


def test_a_plain_csv_is_the_runs_own_but_for_digits_that_are_asked_for(run, tmp_path):
    submit("--run", run, "--out", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == (run / "submission.csv").read_bytes()
    submit("--run", run, "--out", tmp_path / "s.csv.gz")
    assert gzip.decompress((tmp_path / "s.csv.gz").read_bytes()) == (run / "submission.csv").read_bytes()
    submit("--run", run, "--out", tmp_path / "d.csv", "--float-format", "%.2f")
    assert re.fullmatch(r"[^,]+(,-?\d+\.\d\d)+", (tmp_path / "d.csv").read_text().splitlines()[1])


def test_an_id_map_orders_the_rows_and_a_list_the_genes(run, expected, small_files, tmp_path):
    small_files.id_map.iloc[::-1].to_csv(tmp_path / "turned.csv", index=False)
    names = list(expected.columns[:0:-1])
    (tmp_path / "genes.txt").write_text("\n".join(names))
    arguments = ["--id-map", tmp_path / "turned.csv", "--genes", tmp_path / "genes.txt"]
    submit("--run", run, "--out", tmp_path / "s.csv", *arguments)
    found = pd.read_csv(tmp_path / "s.csv")
    assert list(found.columns) == ["id", *names]
    pd.testing.assert_frame_equal(found, expected.iloc[::-1].reset_index(drop=True)[["id", *names]])
    submit("--check", tmp_path / "s.csv", *arguments)


def test_a_tilde_is_the_home_folder(run, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    submit("--run", f"~/{run.name}", "--out=~/tilde.csv")
    assert len(pd.read_csv(run.parent / "tilde.csv")) == len(expected)


@pytest.mark.parametrize("folder", [lambda run: run, lambda run: run / "model"], ids=["run", "model"])
def test_a_saved_model_submits_the_same(folder, run, expected, small_files, tmp_path):
    submit("--model", folder(run), "--pairs", small_files.test, "--out", tmp_path / "s.parquet")
    found = pd.read_parquet(tmp_path / "s.parquet")
    np.testing.assert_allclose(found.iloc[:, 1:], expected.iloc[:, 1:], atol=1e-4)
    assert found["id"].tolist() == expected["id"].tolist()


def test_without_its_test_file_a_run_keeps_its_own_order_and_says_so(run, expected, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "submission.csv").write_bytes((run / "submission.csv").read_bytes())
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["inputs"]["test"]["path"] = "/gone.csv"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    result = submit("--run", tmp_path / "run", "--out", tmp_path / "s.csv")
    assert "the run's test file /gone.csv is gone" in result.stderr
    assert pd.read_csv(tmp_path / "s.csv")["id"].tolist() == expected["id"].tolist()


def test_an_id_map_of_other_rows_writes_nothing(run, small_files, tmp_path):
    small_files.id_map.iloc[1:].to_csv(tmp_path / "less.csv", index=False)
    small_files.id_map.assign(id=range(len(small_files.id_map))).to_csv(tmp_path / "other.csv", index=False)
    for name, words in (("less.csv", "less.csv: lacks 1 of the ids of "), ("other.csv", "ids that ")):
        assert words in refused("--run", run, "--out", tmp_path / "s.csv", "--id-map", tmp_path / name)
    (tmp_path / "genes.txt").write_text("A1BG\n")
    said = refused("--run", run, "--out", tmp_path / "s.csv", "--genes", tmp_path / "genes.txt")
    assert "genes.txt: lacks 7 of the genes of " in said and "; give the genes that were predicted" in said
    assert not (tmp_path / "s.csv").exists()


def test_a_damaged_run_is_refused(run, small_files, tmp_path):
    (tmp_path / "run").mkdir()
    text = (run / "submission.csv").read_text().replace(",0.", ",x.", 1)
    (tmp_path / "run" / "submission.csv").write_text(text)
    refused("--run", tmp_path / "run", "--out", tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_the_method_and_the_data_set_are_named(run, tmp_path):
    anndata = pytest.importorskip("anndata")
    options = ["--method-id", "mine", "--dataset-id", "theirs"]
    submit("--run", run, "--out", tmp_path / "p.h5ad", *options)
    assert dict(anndata.read_h5ad(tmp_path / "p.h5ad").uns) == {"method_id": "mine", "dataset_id": "theirs"}
    refused_words = "p.h5ad: exists already; choose another name or add --overwrite"
    assert refused_words in refused("--run", run, "--out", tmp_path / "p.h5ad")
    submit("--run", run, "--out", tmp_path / "p.h5ad", "--overwrite")
    found = anndata.read_h5ad(tmp_path / "p.h5ad").uns
    assert found["dataset_id"] == "neurips-2023-data" and found["method_id"] == "rapids_perturb"


# --- without training: a run folder made by hand ------------------------------------------------------------

GENES = ["A1BG", "A2M", "AAAS", "AACS"]
Y = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture
def made(tmp_path):
    """A run folder with its test file and genes; its ids begin with zeros, in another order than the test file's."""
    files = SimpleNamespace(run=tmp_path / "run", test=tmp_path / "id_map.csv", genes=tmp_path / "genes.txt")
    ids = [f"00{k}" for k in range(5)]
    pairs = pd.DataFrame({"id": ids, "cell_type": "B", "sm_name": list("vwxyz")})
    pairs.to_csv(files.test, index=False)
    files.genes.write_text("\n".join(GENES))
    files.run.mkdir()
    write_kaggle_csv(files.run / "submission.csv", ids[::-1], GENES, Y[::-1])
    inputs = {name: {"path": str(files.test), "sha256": sha256_of(files.test)} for name in ("train", "test")}
    (files.run / "manifest.json").write_text(json.dumps({"inputs": inputs}))
    return files


def test_ids_are_kept_as_they_are_written(made, tmp_path):
    submit("--run", made.run, "--out", tmp_path / "s.csv")
    ids = [line.split(",")[0] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    assert ids == [f"00{k}" for k in range(5)]
    np.testing.assert_array_equal(read_responses(tmp_path / "s.csv").Y, Y)
    result = submit("--check", tmp_path / "s.csv", "--run", made.run)
    assert result.stdout.startswith(f"OK: {tmp_path}/s.csv: 5 rows × 4 genes, in the order of {made.test}")


def test_every_fault_is_a_line(made, tmp_path):
    write_kaggle_csv(tmp_path / "s.csv", ["000", "002", "001", "003"], [*GENES[:3], "X"], Y[:4])
    lines = refused("--check", tmp_path / "s.csv", "--id-map", made.test, "--genes", made.genes).splitlines()
    faults = "wrong number of rows", "missing id", "row order differs", "missing gene", "extra gene"
    for line, fault in zip(lines, faults, strict=True):
        assert line.startswith(f"error: {tmp_path}/s.csv: {fault}")


def test_a_file_that_is_read_or_belongs_to_the_run_is_not_written(made):
    before = {path: path.read_bytes() for path in (*made.run.iterdir(), made.test, made.genes)}
    for out in (made.test, made.run / "submission.csv"):
        words = f"--out {out}: is an input or a run's result; choose another file"
        for options in (["--float-format", "2"], ["--id-map", made.test], ["--overwrite"]):
            assert words in refused("--run", made.run, "--out", out, *options)
    assert {path: path.read_bytes() for path in before} == before


def test_an_id_map_with_other_pairs_is_refused(made, tmp_path):
    others = pd.read_csv(made.test, dtype=str).assign(sm_name=list("zyxwv"))
    others.to_csv(tmp_path / "o.csv", index=False)
    assert refused("--run", made.run, "--id-map", tmp_path / "o.csv", "--out", tmp_path / "s.csv") == (
        f"error: {tmp_path}/o.csv: id 000 is ('B', 'z'), but ('B', 'v') in {made.test}, which was predicted; use the "
        "id map of that test file\n"
    )
    assert not (tmp_path / "s.csv").exists()


def test_a_run_that_was_changed_is_refused(made, tmp_path):
    text = (made.run / "submission.csv").read_text().splitlines()
    (made.run / "submission.csv").write_text("\n".join([*text, text[1]]))
    words = refused("--run", made.run, "--out", tmp_path / "s.csv")
    assert "submission.csv: wrong number of rows: 6, " in words and "it is not as a run leaves it" in words
    assert not (tmp_path / "s.csv").exists()


ONE_SOURCE = "give either --run DIR, or --model DIR and --pairs FILE"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give --out FILE to write a submission, or --check FILE to check one"),
        ("--check s.csv", "--check needs --id-map FILE, or --run DIR"),
        ("--check s.csv --out o.csv", "--check writes nothing; leave out --out"),
        ("--out s.csv", ONE_SOURCE),
        ("--run a --pairs p --out s.csv", ONE_SOURCE),
        ("--model a --out s.csv", ONE_SOURCE),
        ("--run a --out s.txt", "s.txt: unknown submission format"),
        ("--run a --out s.csv", "--run a: has no submission.csv; give the folder of a finished run"),
        ("--run a --out s.csv --float-format x", "--float-format x: is no format"),
        ("--run a --out s.parquet --float-format 6", "--float-format is for .csv and .csv.gz"),
        ("--run a --out s.csv --method-id m", "--method-id is for .h5ad"),
        ("--run a --run ./a --out s.csv", "--run a: is given twice; give every run once"),
        ("--run a --combine max --out s.csv", "--combine max: is unknown; give median or mean"),
        (
            "--model m --pairs p --combine mean --out s.csv",
            "--combine is for several --run; leave it out with --model",
        ),
        ("--run a --model m --pairs p --out s.csv", ONE_SOURCE),
        ("--check s.csv --run a --run b", "--check takes one --run: those that are combined have"),
        ("--check s.csv --run a --combine mean", "--check writes nothing; leave out --combine"),
    ],
)
def test_options_that_do_not_go_together(words, message):
    assert f"error: {message}" in refused(*words.split())
