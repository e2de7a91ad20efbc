"""Options that say how files are read: the same numbers from files under other names, notes, and refusals."""

import pandas as pd
import pytest

from rapids_pipeline.commands.options import words_of
from rapids_pipeline.data.columns import TableOptions
from tests.command_line import error_line, invoke, manifest_of, run_arguments, succeed

NAMES = {"cell_type": "line", "sm_name": "perturbagen", "SMILES": "canonical_smiles"}


@pytest.fixture(scope="module")
def foreign(small_files, tmp_path_factory):
    """The small files under other names, with a numeric column that is no gene, and options as a TOML file."""
    folder = tmp_path_factory.mktemp("foreign")
    train = small_files.de_train.rename(columns=NAMES).assign(
        passage=range(len(small_files.de_train)), dose_nM=500
    )
    train.to_parquet(folder / "screen.parquet")
    pairs = small_files.id_map.rename(columns={"id": "ID", "cell_type": "line", "sm_name": "Compound"})
    pairs.assign(line=pairs["line"].str.upper() + " ").to_csv(folder / "pairs.csv", index=False, sep=";")
    (folder / "columns.toml").write_text('[columns]\ncell_type = "line"\n')
    return folder


def test_files_under_other_names_give_the_same_bytes(finished, foreign):
    words = run_arguments(foreign / "screen.parquet", foreign / "pairs.csv", foreign / "run")
    refused = invoke(*words, "--column", "cell_type=line")
    assert "1 numeric column(s) seem to be no genes: passage (passage: a covariate's name)" in error_line(
        refused
    )
    result = succeed(*words, "--columns", foreign / "columns.toml", "--metadata-columns", "passage")
    for name in ("submission.csv", "scores.json"):
        assert (foreign / "run" / name).read_bytes() == (finished[0] / name).read_bytes()
    manifest = manifest_of(foreign / "run")
    assert manifest["options"]["columns"] == {"cell_type": "line"}
    said = [note for note in manifest["notes"] if "is column" in note or "spelled" in note]
    assert said[0] == (
        f"{foreign / 'screen.parquet'}: cell_type is column 'line', sm_name is column 'perturbagen', SMILES is column "
        "'canonical_smiles', dose_uM is column 'dose_nM'"
    )
    assert said[1] == (
        f"{foreign / 'pairs.csv'}: id is column 'ID', cell_type is column 'line', sm_name is column 'Compound'"
    )
    assert "cell_type spelled unlike the other rows'" in said[2] and len(said) == 3
    assert all(" ".join(note.split()) in " ".join((result.stdout + result.stderr).split()) for note in said)
    oof = pd.read_parquet(foreign / "run" / "oof.parquet")
    assert set(oof["dose_uM"]) == {0.5} and {"cell_type", "sm_name", "passage"} <= set(oof.columns)


def test_submissions_and_predictions_of_such_a_run(finished, foreign):
    if not (foreign / "run" / "manifest.json").exists():
        pytest.skip("the run above did not end")
    succeed("submit", "--run", foreign / "run", "--out", foreign / "submission.csv")
    assert (foreign / "submission.csv").read_bytes() == (finished[0] / "submission.csv").read_bytes()
    words = [
        "predict",
        "--model",
        foreign / "run",
        "--pairs",
        foreign / "pairs.csv",
        "--out",
        foreign / "p.csv",
    ]
    result = succeed(*words, "--column", "cell_type=line")
    assert "cell_type is column 'line'" in result.stdout + result.stderr
    mine, theirs = (
        pd.read_csv(path, index_col="id") for path in (foreign / "p.csv", foreign / "submission.csv")
    )
    pd.testing.assert_frame_equal(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--train", "t.csv", "--test", "p.csv", "--out", "o"],
        ["cv", "--train", "t.csv"],
        ["tune", "--train", "t.csv"],
        ["screen", "--train", "t.csv"],
        ["evaluate", "--prediction", "p.csv", "--truth", "t.csv"],
        ["predict", "--model", "m", "--pairs", "p.csv", "--out", "o.csv"],
    ],
    ids=lambda words: words[0],
)
def test_a_meaning_that_is_none_is_refused_by_every_command(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    line = error_line(invoke(*words, "--column", "gene=x"))
    assert line.startswith(
        "error: --column gene=x: no meaning 'gene'; there are id, cell_type, sm_name, SMILES, "
    )
    assert not list(tmp_path.iterdir())


def test_the_words_that_read_files_so(tmp_path):
    how = TableOptions("X", ("a", "b"), {"cell_type": "line"}, tmp_path / "g.txt", "symbol")
    words = [
        "--layer",
        "X",
        "--metadata-columns",
        "a,b",
        "--column",
        "cell_type=line",
        "--genes",
        f"{tmp_path}/g.txt",
    ]
    assert words_of(how) == [*words, "--gene-column", "symbol"]
    assert words_of(TableOptions()) == []
