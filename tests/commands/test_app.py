"""The command line: what a run leaves, and how it refuses: one line, the right exit code, nothing left behind."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rapids_pipeline import __version__, pipeline
from rapids_pipeline.backend import devices
from rapids_pipeline.backend import run_folder as runs
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.backend.gpu import Problem
from rapids_pipeline.commands import app as cli
from rapids_pipeline.commands import screen
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.stack import named_recipes as recipes

RESULTS = ["manifest.json", "model", "oof.parquet", "scores.json", "submission.csv"]
MEMBERS = ["svr_shared", "composite", "boosting"]
TABLE = """cell_type,sm_name,SMILES,G1,G2
B,ethanol,CCO,1,2
T,ethanol,CCO,3,4
B,benzene,c1ccccc1,5,6
T,benzene,c1ccccc1,7,8
"""
PAIRS = "id,cell_type,sm_name\n0,B,ethanol\n1,T,benzene\n"


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def run_arguments(train, test, out, *more):
    return [
        "run",
        "--train",
        train,
        "--test",
        test,
        "--out",
        out,
        "--molecules",
        "morgan",
        "--folds",
        "3",
        *more,
    ]


def error_line(result, code: int = 2) -> str:
    """Return the one error line of a refused command, after checking how it ended."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("device: ", "  "))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def finished(small_files, tmp_path_factory):
    """A whole run on the small demo data, through the command line."""
    out = tmp_path_factory.mktemp("cli") / "new" / "run"
    result = invoke(*run_arguments(small_files.train, small_files.test, out, "--device", "cpu"))
    assert result.exit_code == 0, result.output
    return out, result


@pytest.fixture
def tiny(tmp_path):
    """Two tiny files that are fine, in a folder of their own."""
    (tmp_path / "train.csv").write_text(TABLE)
    (tmp_path / "id_map.csv").write_text(PAIRS)
    return tmp_path


# --- what a run leaves ------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_nothing_else(finished):
    out, result = finished
    assert names_in(out) == RESULTS
    assert f"written: {out}/submission.csv" in result.stdout
    stages = ["ingest", "features", *MEMBERS, "blend", "scores", "write"]
    assert [line.split()[0] for line in result.stderr.splitlines() if line.startswith("  ")] == stages


def test_the_submission_has_the_rows_of_the_test_file_in_its_order(finished, small_files):
    submission = pd.read_csv(finished[0] / "submission.csv")
    assert submission["id"].tolist() == small_files.id_map["id"].tolist()
    assert submission["id"].tolist() != sorted(submission["id"])
    genes = [name for name in small_files.de_train.columns if small_files.de_train[name].dtype == np.float32]
    assert list(submission.columns) == ["id", *genes]
    assert np.isfinite(submission[genes].to_numpy()).all()


def test_the_rows_of_a_submission_belong_to_their_ids(finished, small_files, tmp_path):
    """The same pairs in another order give the same row for each id."""
    turned = small_files.id_map.iloc[::-1]
    turned.to_csv(tmp_path / "id_map.csv", index=False)
    out = tmp_path / "out"
    result = invoke(*run_arguments(small_files.train, tmp_path / "id_map.csv", out, "--device", "cpu"))
    assert result.exit_code == 0, result.output
    one, other = (pd.read_csv(f / "submission.csv").set_index("id") for f in (finished[0], out))
    assert other.index.tolist() == turned["id"].tolist()
    np.testing.assert_allclose(other.loc[one.index].to_numpy(), one.to_numpy(), atol=1e-4)


def test_out_of_fold_predictions_follow_the_training_file(finished, small_files):
    oof = pd.read_parquet(finished[0] / "oof.parquet")
    train = small_files.de_train
    assert list(oof.columns) == list(train.columns), "metadata columns, then genes"
    for name in ("cell_type", "sm_name", "sm_lincs_id", "SMILES", "control"):
        assert oof[name].tolist() == train[name].tolist()
    genes = list(train.columns[5:])
    assert (oof[genes].dtypes == np.float32).all()
    scores = json.loads((finished[0] / "scores.json").read_text())
    measured = np.sqrt(((oof[genes] - train[genes]) ** 2).mean(axis=1)).mean()
    assert scores["out_of_fold"]["pipeline"]["mean_rowwise_rmse"] == pytest.approx(measured, abs=1e-5)


def test_the_scores_name_members_and_baselines(finished):
    scores = json.loads((finished[0] / "scores.json").read_text())
    baselines = {"zeros", "mean_outcome", "mean_across_celltypes", "mean_across_compounds"}
    assert set(scores["out_of_fold"]) == {"pipeline", *MEMBERS} | baselines
    assert scores["split"] == "3 folds of random rows, seed 0"
    assert sum(scores["blend"]["weights"].values()) == pytest.approx(1)
    assert 0 < scores["blend"]["amplitude"] <= 1
    assert set(scores["cost_of_dropping"]) == set(scores["blend"]["weights"])
    assert scores["pseudo_labels"] == {}


def test_the_manifest_tells_how_the_results_were_made(finished, small_files):
    manifest = json.loads((finished[0] / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["device"] == "cpu"
    assert manifest["chosen"]["device"] == "cpu (asked for)"
    assert manifest["versions"]["rapids-perturb"] == __version__
    assert {"python", "numpy", "scikit-learn", "rdkit"} <= set(manifest["versions"])
    assert (manifest["config"]["seed"], manifest["config"]["recipe"]["n_folds"]) == (0, 3)
    assert manifest["config"]["recipe"]["name"] == "best"
    assert manifest["config"]["molecules"] == "morgan"
    assert manifest["options"] == {"layer": "clipped_sign_log10_pval", "metadata_columns": []}
    for name, path in (("train", small_files.train), ("test", small_files.test)):
        assert manifest["inputs"][name] == {
            "path": str(path),
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
    shape = {
        "training_rows": len(small_files.de_train),
        "test_rows": len(small_files.id_map),
        "genes": 8,
    }
    assert manifest["shape"] == shape
    assert list(manifest["seconds"]) == ["ingest", "features", *MEMBERS, "blend", "scores"]


def test_the_same_run_again_gives_the_same_bytes(finished, small_files):
    out = finished[0]
    before = (out / "submission.csv").read_bytes()
    again = invoke(*run_arguments(small_files.train, small_files.test, out, "--device", "cpu"))
    assert again.exit_code == 0, "the same run may replace its own results"
    assert (out / "submission.csv").read_bytes() == before
    assert names_in(out) == RESULTS


def test_another_row_order_of_the_training_file_gives_the_same_predictions(finished, small_files, tmp_path):
    small_files.de_train.sample(frac=1, random_state=1).to_parquet(tmp_path / "shuffled.parquet")
    out = tmp_path / "out"
    result = invoke(*run_arguments(tmp_path / "shuffled.parquet", small_files.test, out, "--device", "cpu"))
    assert result.exit_code == 0, result.output
    one, other = (read_responses(folder / "submission.csv") for folder in (finished[0], out))
    assert one.obs["id"].tolist() == other.obs["id"].tolist()
    np.testing.assert_allclose(one.Y, other.Y, atol=1e-4)


def test_evaluate_prints_json(finished, small_files):
    arguments = ["--prediction", finished[0] / "submission.csv", "--truth", small_files.truth, "--json"]
    result = invoke("evaluate", *arguments)
    assert result.exit_code == 0, result.output
    evaluation = json.loads(result.stdout)
    assert (evaluation["n_rows"], evaluation["n_genes"]) == (len(small_files.id_map), 8)
    assert evaluation["matched_by"] == "id"
    assert evaluation["train"] == str(small_files.train), "known from the manifest"
    predicted = read_responses(finished[0] / "submission.csv")
    truth = pd.read_parquet(small_files.truth).set_index("id").loc[predicted.obs["id"], list(predicted.genes)]
    expected = np.sqrt(((predicted.Y - truth.to_numpy()) ** 2).mean(axis=1)).mean()
    assert evaluation["scores"]["submission"]["mean_rowwise_rmse"] == pytest.approx(expected, abs=1e-6)


def test_evaluate_prints_a_table(finished, small_files):
    arguments = ["--prediction", finished[0] / "submission.csv", "--truth", small_files.truth]
    result = invoke("evaluate", *arguments)
    assert result.exit_code == 0, result.output
    assert "MRRMSE" in result.stdout
    assert "mean_across_compounds" in result.stdout and "tanimoto_neighbours" in result.stdout
    assert "the best baseline" in result.stdout and "discrimination_l1" not in result.stdout


def test_evaluate_scores_single_perturbations(finished, small_files):
    arguments = [
        "--prediction",
        finished[0] / "submission.csv",
        "--truth",
        small_files.truth,
        "--perturbations",
    ]
    result = invoke("evaluate", *arguments)
    assert result.exit_code == 0, result.output
    assert "discrimination_l1" in result.stdout and "pearson_delta" in result.stdout


def test_evaluate_refuses_other_rows(finished, small_files, tmp_path):
    pd.read_parquet(small_files.truth)[1:].to_parquet(tmp_path / "part.parquet")
    prediction = finished[0] / "submission.csv"
    line = error_line(invoke("evaluate", "--prediction", prediction, "--truth", tmp_path / "part.parquet"))
    assert line.startswith(f"error: {prediction}: 1 of its ids are not in the truth")


# --- how a run refuses ------------------------------------------------------------------------------------

BAD_INPUTS = {
    "missing column": ("train.csv", TABLE.replace("sm_name", "name"), "missing column sm_name"),
    "duplicate pair": (
        "train.csv",
        TABLE + "B,ethanol,CCO,1,2\n",
        "the pair (B, ethanol) occurs in rows 1, 5",
    ),
    "not finite": (
        "train.csv",
        TABLE.replace("7,8", "inf,"),
        "2 target value(s) are not finite, in 1 row(s); first: row 4 (T, benzene), gene G1 = inf",
    ),
    "two molecules of one name": (
        "train.csv",
        TABLE.replace("T,ethanol,CCO", "T,ethanol,CCN"),
        "compound 'ethanol' has two SMILES: 'CCO' in row 1 and 'CCN' in row 2",
    ),
    "invalid SMILES": (
        "train.csv",
        TABLE.replace("B,benzene,c1ccccc1", "B,benzene,c1cc"),
        "row 3 (benzene): 'c1cc' is not a valid SMILES",
    ),
    "missing value": (
        "train.csv",
        TABLE.replace("T,ethanol", ",ethanol"),
        "column cell_type has no value in row 2",
    ),
    "text among numbers": (
        "train.csv",
        TABLE.replace("5,6", "5,high"),
        "column G2 holds text among numbers: row 3 has 'high'",
    ),
    "duplicate gene names": ("train.csv", TABLE.replace("G2", "G1"), "duplicate column names: 'G1'"),
    "empty training file": ("train.csv", "", "the file is empty (0 bytes)"),
    "header only": ("train.csv", TABLE.splitlines()[0] + "\n", "the table has a header but no rows"),
    "unreadable": ("train.parquet", "garbage" * 99, "cannot be read as Parquet ("),
    "unknown kind": ("train.docx", "garbage", "unknown file type"),
    "too few rows": ("train.csv", TABLE, None),
    "test invalid SMILES": (
        "id_map.csv",
        "id,cell_type,sm_name,SMILES\n0,B,new,C(C\n",
        "row 1 (new): 'C(C' is not a valid SMILES",
    ),
    "test without SMILES": (
        "id_map.csv",
        PAIRS + "2,B,new\n",
        "no SMILES for 'new' (first in row 3), which the training file does not have either",
    ),
    "test with another molecule": (
        "id_map.csv",
        "id,cell_type,sm_name,SMILES\n0,B,ethanol,CCN\n",
        "row 1 gives 'ethanol' the SMILES 'CCN', the training file 'CCO'",
    ),
    "test missing column": ("id_map.csv", "id,sm_name\n0,ethanol\n", "missing column cell_type"),
    "test id twice": ("id_map.csv", PAIRS + "1,B,benzene\n", "id 1 occurs in rows 2, 3"),
    "empty test file": ("id_map.csv", "", "the file is empty (0 bytes)"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_ends_with_one_line_and_leaves_nothing(tiny, name, content, message):
    bad = tiny / name
    bad.write_text(content)
    train = bad if name.startswith("train") else tiny / "train.csv"
    test = tiny / "id_map.csv"
    before = names_in(tiny)
    line = error_line(invoke(*run_arguments(train, test, tiny / "new" / "out")))
    where = (
        f"error: {bad}: "
        if message
        else "error: 3 folds of 4 training rows: need at least 2 folds and 2 rows"
    )
    assert line.startswith(where + (message or ""))
    assert names_in(tiny) == before, "nothing left at --out, nor beside it"


@pytest.mark.parametrize("option", ["--train", "--test"])
def test_a_missing_file_is_named(tiny, option):
    arguments = run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out")
    arguments[arguments.index(option) + 1] = tiny / "none.csv"
    assert error_line(invoke(*arguments)) == f"error: {tiny}/none.csv: no such file"
    assert not (tiny / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--device", "tpu"], "--device tpu: choose one of auto, cpu, cuda"),
        (["--folds", "2"], "--folds 2: input should be greater than or equal to 3"),
        (["--folds", "21"], "--folds 21: input should be less than or equal to 20"),
        (["--seed", "-1"], "--seed -1: input should be greater than or equal to 0"),
    ],
)
def test_bad_options_are_named(tiny, more, message):
    arguments = run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out", *more)
    assert error_line(invoke(*arguments)) == f"error: {message}"
    assert not (tiny / "out").exists()


def test_unknown_molecules_are_refused(small_files, tmp_path):
    arguments = run_arguments(small_files.train, small_files.test, tmp_path / "out", "--molecules", "mordred")
    assert error_line(invoke(*arguments)).startswith(
        "error: --molecules mordred: choose morgan, descriptors, chemberta, an"
    )
    assert names_in(tmp_path) == []


def test_usage_errors_end_with_2(tmp_path):
    for arguments in (["run"], ["run", "--no-such-option"], ["no-such-command"], ["--no-such-option"]):
        result = invoke(*arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output


def test_cuda_without_cuda_ends_with_3(tiny, monkeypatch):
    lacks = [
        Problem("the driver is missing", "install it"),
        Problem("cudf is not installed", "install it, too"),
    ]
    monkeypatch.setattr(devices, "gpu_problems", lambda: lacks)
    arguments = run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out", "--device", "cuda")
    done = invoke(*arguments)
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "error: --device cuda: the driver is missing; install it",
        "error: --device cuda: cudf is not installed; install it, too",
    ]
    assert invoke("demo", "--out", tiny / "out", "--device", "cuda").exit_code == 3
    assert not (tiny / "out").exists()


def test_weights_that_cannot_be_had_end_with_3_and_both_remedies(small_files, tmp_path):
    pytest.importorskip("transformers")
    command = [sys.executable, "-m", "rapids_pipeline", "run", "--device", "cpu"]
    command += ["--train", small_files.train, "--test", small_files.test, "--out", tmp_path / "out"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline)
    assert result.returncode == 3, result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("device: ", "  "))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: --molecules DeepChem/ChemBERTa-10M-MTR: its weights are not on this")
    assert "(--molecules FOLDER)" in lines[0]
    assert "--molecules morgan" in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_interrupt_ends_with_130(small_files, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fit_stack", interrupt)
    result = invoke(*run_arguments(small_files.train, small_files.test, tmp_path / "out"))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert names_in(tmp_path) == []


def test_a_message_of_several_lines_is_printed_as_one(tiny, monkeypatch):
    def refuse(*_, **__):
        raise InputError("first\nsecond")

    monkeypatch.setattr(pipeline, "run", refuse)
    arguments = run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out")
    assert error_line(invoke(*arguments)) == "error: first second"


# --- the run folder ---------------------------------------------------------------------------------------


def test_out_must_be_a_folder_that_can_be_made(small_files, tmp_path):
    (tmp_path / "file").write_text("x")
    for out, message in {
        tmp_path / "file": "is a file, expected a folder",
        tmp_path / "file" / "out": f"{tmp_path / 'file'} cannot be written to; choose another folder "
        "(in a container: docker run --user $(id -u):$(id -g))",
        tmp_path / ("x" * 300): "cannot be a folder (File name too long)",
    }.items():
        line = error_line(invoke(*run_arguments(small_files.train, small_files.test, out)))
        assert line == f"error: --out {out}: {message}"
    assert (tmp_path / "file").read_text() == "x"


def test_another_runs_results_are_kept_unless_told_otherwise(finished, small_files, tmp_path, quick):
    out = tmp_path / "out"
    out.mkdir()
    for name in RESULTS:
        if name == runs.MODEL:
            shutil.copytree(finished[0] / name, out / name)
        else:
            (out / name).write_bytes((finished[0] / name).read_bytes())
    (out / "notes.txt").write_text("mine")
    arguments = run_arguments(small_files.train, small_files.test, out, "--device", "cpu", "--seed", "1")
    line = error_line(invoke(*arguments))
    assert line == (
        f"error: --out {out}: holds another run's submission.csv; choose another folder or add --overwrite"
    )
    assert json.loads((out / "manifest.json").read_text())["config"]["seed"] == 0
    assert invoke(*arguments, "--overwrite").exit_code == 0
    assert json.loads((out / "manifest.json").read_text())["config"]["seed"] == 1
    assert names_in(out) == sorted([*RESULTS, "notes.txt"])


@pytest.fixture
def quick(monkeypatch):
    """One tree a booster, one SVR member and no second stage, where predictions do not matter."""
    small = recipes.RECIPES["quick"].boosting.model_copy(update={"n_estimators": 1})
    monkeypatch.setitem(
        recipes.RECIPES, "best", recipes.RECIPES["quick"].model_copy(update={"boosting": small})
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
@pytest.mark.parametrize("place", ["write_oof", "write_kaggle_csv"])
def test_a_failure_while_writing_leaves_nothing(small_files, tmp_path, monkeypatch, quick, place, error):
    def fail(path, *_):
        path.write_text("half of it")
        raise error

    monkeypatch.setattr(pipeline, place, fail)
    out = tmp_path / "new" / "out"
    result = invoke(*run_arguments(small_files.train, small_files.test, out))
    assert names_in(tmp_path) == []
    if isinstance(error, OSError):
        assert error_line(result) == f"error: --out {out}: cannot be written (No space left on device)"
    else:
        assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)


def writers(text, fail_at=None):
    def writer(name):
        def write(path):
            path.write_text(text)
            if name == fail_at:
                raise RuntimeError("the writer failed")

        return write

    return {name: writer(name) for name in (runs.SUBMISSION, runs.OOF, runs.SCORES)}


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != runs.MANIFEST}


def test_earlier_results_survive_a_failing_writer(tmp_path):
    identity = {"config": {"seed": 0}}
    runs.RunFolder(tmp_path, identity).publish(writers("old"), {})
    before = (tmp_path / runs.MANIFEST).read_text()
    for name in (runs.SUBMISSION, runs.SCORES):
        with pytest.raises(RuntimeError):
            runs.RunFolder(tmp_path, identity).publish(writers("new", name), {})
        assert set(contents(tmp_path).values()) == {"old"}
        assert (tmp_path / runs.MANIFEST).read_text() == before
        assert names_in(tmp_path) == [name for name in RESULTS if name != runs.MODEL]


@pytest.mark.parametrize("after", range(4))
def test_an_interrupted_publish_destroys_nothing(tmp_path, monkeypatch, after):
    """However far the moves came, every result is whole, old or new, and no manifest vouches for a mixture."""
    identity = {"config": {"seed": 0}}
    runs.RunFolder(tmp_path, identity).publish(writers("old"), {"weights": "old"})
    moved, move = [], Path.replace

    def replace(self, target):
        if len(moved) == after:
            raise KeyboardInterrupt
        moved.append(target)
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            runs.RunFolder(tmp_path, identity).publish(writers("new"), {"weights": "new"})
    found = contents(tmp_path)
    assert [found[name] for name in (runs.SUBMISSION, runs.OOF, runs.SCORES)] == ["new"] * after + ["old"] * (
        3 - after
    )
    assert not (tmp_path / runs.MANIFEST).exists()
    with pytest.raises(InputError, match=r"holds another run's submission.csv; .* add --overwrite"):
        runs.RunFolder(tmp_path, identity)
    runs.RunFolder(tmp_path, identity, overwrite=True).publish(writers("new"), {"weights": "new"})
    assert set(contents(tmp_path).values()) == {"new"}
    assert json.loads((tmp_path / runs.MANIFEST).read_text())["weights"] == "new"


def test_a_broken_manifest_is_another_runs(tmp_path):
    identity = {"config": {"seed": 0}}
    runs.RunFolder(tmp_path, identity).publish(writers("old"), {})
    for content in ("", "[]", "{", "null", '{"config": {"seed": 1}}'):
        (tmp_path / runs.MANIFEST).write_text(content)
        with pytest.raises(InputError, match="holds another run's"):
            runs.RunFolder(tmp_path, identity)


def test_a_result_name_taken_by_a_folder_is_refused(tmp_path):
    (tmp_path / runs.OOF).mkdir()
    with pytest.raises(InputError, match=r"holds another run's oof.parquet"):
        runs.RunFolder(tmp_path, {})
    with pytest.raises(InputError, match=r"--out .*: cannot be written \(Is a directory\)"):
        runs.RunFolder(tmp_path, {}, overwrite=True).publish(writers("new"), {})


# --- the program ------------------------------------------------------------------------------------------


def test_the_module_and_the_command_are_one_program():
    script = Path(sys.executable).with_name("rapids-perturb")
    if not script.exists():
        pytest.skip("the package's command is not installed")
    commands = [[str(script), "--version"], [sys.executable, "-m", "rapids_pipeline", "--version"]]
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
    assert [ended.stdout for ended in done] == [f"rapids-perturb {__version__}\n"] * 2


def test_the_program_has_every_subcommand(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rapids-perturb", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in ("run", "evaluate", "screen", "demo"):
        assert f" {name} " in shown
    assert screen.command.__doc__.split(":")[0] in " ".join(shown.split())


def test_a_bad_file_ends_the_real_program_with_2(tiny):
    (tiny / "train.csv").write_text("")
    arguments = run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out", "--device", "cpu")
    command = [sys.executable, "-m", "rapids_pipeline", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "device: cpu (asked for)",
        f"error: {tiny}/train.csv: the file is empty (0 bytes)",
    ]
    assert result.stdout == ""
    assert not (tiny / "out").exists()


def test_demo_writes_its_data_alone_when_asked(tmp_path):
    result = invoke("demo", "--out", tmp_path / "demo", "--genes", "5", "--data-only")
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path / "demo" / "data") == ["de_test.parquet", "de_train.parquet", "id_map.csv"]
    assert error_line(invoke("demo", "--out", tmp_path / "other", "--genes", "0")).startswith("error: ")
    assert error_line(invoke("demo", "--out", tmp_path / "other", "--seed", "-1")).startswith("error: ")
    assert not (tmp_path / "other").exists()


def test_demo_keeps_the_data_of_finished_results(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    line = error_line(invoke("demo", "--out", tmp_path, "--genes", 3))
    assert "--overwrite" in line
    assert names_in(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    ("engine", "code", "message"), [("libsvm", 2, "choose one of auto"), ("cuml", 3, "cuml")]
)
def test_an_engine_that_cannot_be_used_ends_before_the_work(small_files, tmp_path, engine, code, message):
    if engine == "cuml" and find_spec("cuml") is not None:
        pytest.skip("cuml is installed here")
    out = tmp_path / "out"
    arguments = run_arguments(small_files.train, small_files.test, out, "--engine", engine)
    assert message in error_line(invoke(*arguments), code)
    assert not out.exists()


def test_the_engine_asked_for_is_used_and_recorded(small_files, tmp_path, quick):
    out = tmp_path / "out"
    arguments = run_arguments(small_files.train, small_files.test, out, "--engine", "sklearn")
    assert invoke(*arguments).exit_code == 0
    assert (
        json.loads((out / "manifest.json").read_text())["chosen"]["engine of svr_shared"]
        == "sklearn (asked for)"
    )


def test_the_boosting_engine_asked_for_is_used_and_recorded(small_files, tmp_path, quick):
    for engine, chosen in (("xgboost", "xgboost (asked for)"), ("auto", "exact (auto: ")):
        out = tmp_path / engine
        arguments = run_arguments(small_files.train, small_files.test, out, "--boosting-engine", engine)
        assert invoke(*arguments).exit_code == 0
        assert manifest_of(out)["chosen"]["engine of boosting"].startswith(chosen)
    arguments = run_arguments(
        small_files.train, small_files.test, tmp_path / "no", "--boosting-engine", "magic"
    )
    assert "no boosting engine 'magic'; choose one of auto, exact" in error_line(invoke(*arguments))
    assert not (tmp_path / "no").exists()


# --- feature sets -----------------------------------------------------------------------------------------


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


MINE = """name = "mine"
description = "a set of one's own"

[[blocks]]
kind = "onehot"
column = "cell_type"

[[blocks]]
kind = "statistics"
column = "sm_name"
statistics = ["mean", "max"]
"""


def test_a_set_from_a_file_is_used_by_a_run_and_kept_in_its_manifest(small_files, tmp_path, quick):
    (tmp_path / "mine.toml").write_text(MINE)
    plain = run_arguments(small_files.train, small_files.test, tmp_path / "plain")
    assert invoke(*plain).exit_code == 0
    changed = run_arguments(small_files.train, small_files.test, tmp_path / "mine")
    result = invoke(*changed, "--svr-features", tmp_path / "mine.toml", "--boosting-features", "loo")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "mine" / "manifest.json").read_text())["config"]
    assert [block["kind"] for block in config["recipe"]["svrs"][0]["features"]["blocks"]] == [
        "onehot",
        "statistics",
    ]
    assert config["recipe"]["boosting"]["features"]["name"] == "loo"
    default = json.loads((tmp_path / "plain" / "manifest.json").read_text())["config"]
    assert {block.get("encoder") for block in default["recipe"]["svrs"][0]["features"]["blocks"]} == {
        None,
        "morgan",
    }
    assert not any("LEAKY" in note for note in manifest_of(tmp_path / "mine")["notes"])
    (tmp_path / "leaky.toml").write_text(MINE + "leaky = true\n")
    leaky = run_arguments(small_files.train, small_files.test, tmp_path / "leaky")
    result = invoke(*leaky, "--svr-features", tmp_path / "leaky.toml")
    assert "LEAKY: feature set mine" in result.output
    assert any("LEAKY" in note for note in manifest_of(tmp_path / "leaky")["notes"])
    scores = [
        json.loads((tmp_path / d / "scores.json").read_text())["out_of_fold"] for d in ("plain", "mine")
    ]
    assert scores[0]["svr_shared"] != scores[1]["mine"] and scores[0]["zeros"] == scores[1]["zeros"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--svr-features", "magic", "no feature set 'magic'; choose among cell_type, "),
        ("--svr-features", "boosting", "--svr-features: boosting stacks on predictions of the SVRs"),
        ("--svr-features", "onehot,onehot", "--svr-features: two members are called onehot"),
        (
            "--recipe",
            "magic",
            "no recipe 'magic'; choose among best, standard, published, quick, or name a .toml",
        ),
        ("--recipe", "none.toml", "none.toml: No such file or directory"),
        ("--boosting-features", "svr_per_target", "--boosting-features: svr_per_target gives every gene"),
        ("--boosting-features", "none.toml", "none.toml: No such file or directory"),
    ],
)
def test_feature_sets_that_a_run_cannot_use_are_refused_before_anything(
    small_files, tmp_path, option, value, message
):
    result = invoke(*run_arguments(small_files.train, small_files.test, tmp_path / "out", option, value))
    assert message in error_line(result)
    assert names_in(tmp_path) == []


def test_features_lists_the_sets_and_shows_one(tmp_path):
    listed = invoke("features")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in ("svr_shared", "boosting", "op2_first_heavy"))
    shown = invoke("features", "boosting")
    assert shown.exit_code == 0 and all(
        word in shown.output for word in ("loo:sm_name", "predictions", "targets")
    )
    toml = invoke("features", "boosting", "--toml")
    (tmp_path / "copy.toml").write_text(toml.output)
    assert invoke("features", tmp_path / "copy.toml").output == shown.output
    assert error_line(invoke("features", "magic")).startswith("error: no feature set 'magic'; choose among ")
    assert error_line(invoke("features", "--toml")) == "error: --toml needs the name of a feature set"


def test_levels_that_no_training_row_has_are_counted(small_files, tmp_path, quick):
    pairs = small_files.id_map.copy()
    pairs.loc[[0, 3], "cell_type"] = "unheard of"
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    assert invoke(*run_arguments(small_files.train, tmp_path / "pairs.csv", tmp_path / "out")).exit_code == 0
    note = f"2 of {len(pairs)} test rows have a cell_type that no training row has"
    assert note in manifest_of(tmp_path / "out")["notes"]


# --- recipes -------------------------------------------------------------------------------------------


def test_recipes_lists_them_and_shows_one(tmp_path):
    listed = invoke("recipes")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in ("best", "standard", "published", "quick"))
    shown = invoke("recipes", "published")
    assert shown.exit_code == 0 and "1000" in shown.output and "svr_per_target" in shown.output
    (tmp_path / "copy.toml").write_text(invoke("recipes", "published", "--toml").output)
    assert invoke("recipes", tmp_path / "copy.toml").output == shown.output
    assert error_line(invoke("recipes", "magic")).startswith("error: no recipe 'magic'; choose among ")
    assert error_line(invoke("recipes", "--toml")) == "error: --toml needs the name of a recipe"


def test_quick_is_the_quick_recipe(small_files, tmp_path):
    out = tmp_path / "out"
    result = invoke(*run_arguments(small_files.train, small_files.test, out, "--quick"))
    assert result.exit_code == 0, result.output
    manifest = manifest_of(out)
    assert manifest["config"]["recipe"]["name"] == "quick"
    assert list(manifest["seconds"]) == ["ingest", "features", "svr_shared", "boosting", "blend", "scores"]
