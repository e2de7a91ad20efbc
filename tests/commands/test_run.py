"""run: what it leaves, and how it refuses: one line, the right exit code, nothing left behind."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from rapids_pipeline import __version__, pipeline
from rapids_pipeline.backend import devices
from rapids_pipeline.backend.devices import Problem
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.stack import duration, nested
from rapids_pipeline.stack.named_recipes import RECIPES
from tests.command_line import (
    RESULTS,
    error_line,
    invoke,
    manifest_of,
    names_in,
    out_of_fold_scores,
    program,
    run_arguments,
    succeed,
)
from tests.commands.conftest import PAIRS, TABLE
from tests.smiles_models import roberta_folder  # noqa: F401 (a fixture)

MEMBERS = ["composite", "boosting"]

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


def test_out_of_fold_predictions_follow_the_training_file(finished, small_files):
    oof = pd.read_parquet(finished[0] / "oof.parquet")
    train = small_files.de_train
    assert list(oof.columns) == list(train.columns), "metadata columns, then genes"
    for name in ("cell_type", "sm_name", "sm_lincs_id", "SMILES", "control"):
        assert oof[name].tolist() == train[name].tolist()
    genes = list(train.columns[5:])
    assert (oof[genes].dtypes == np.float32).all()
    measured = np.sqrt(((oof[genes] - train[genes]) ** 2).mean(axis=1)).mean()
    scored = out_of_fold_scores(finished[0])["pipeline"]["mean_rowwise_rmse"]
    assert scored == pytest.approx(measured, abs=1e-5)


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
    manifest = manifest_of(finished[0])
    assert (manifest["format"], manifest["device"]) == (1, "cpu")
    assert manifest["chosen"]["device"] == "cpu (asked for)"
    assert manifest["chosen"]["molecules"] == "morgan (asked for)"
    assert manifest["versions"]["rapids-perturb"] == __version__
    assert {"python", "numpy", "scikit-learn", "rdkit"} <= set(manifest["versions"])
    assert (manifest["config"]["seed"], manifest["config"]["recipe"]["n_folds"]) == (0, 3)
    assert manifest["config"]["recipe"]["name"] == "best"
    assert manifest["config"]["molecules"] == "morgan"
    assert manifest["options"] == {"layer": "clipped_sign_log10_pval", "metadata_columns": []}
    for name, path in (("train", small_files.train), ("test", small_files.test)):
        size, digest = path.stat().st_size, sha256_of(path)
        assert manifest["inputs"][name] == {"path": str(path), "bytes": size, "sha256": digest}
    rows = {"training_rows": len(small_files.de_train), "test_rows": len(small_files.id_map)}
    assert manifest["shape"] == rows | {"genes": 8}
    assert list(manifest["seconds"]) == ["ingest", "features", *MEMBERS, "blend", "scores"]


def test_the_same_run_again_gives_the_same_bytes(finished, small):
    out = finished[0]
    before = (out / "submission.csv").read_bytes()
    succeed(*small(out), "--overwrite")
    assert (out / "submission.csv").read_bytes() == before
    assert names_in(out) == RESULTS


def test_the_order_of_the_files_changes_no_prediction(finished, small_files, tmp_path):
    turned = small_files.id_map.iloc[::-1]
    turned.to_csv(tmp_path / "id_map.csv", index=False)
    small_files.de_train.sample(frac=1, random_state=1).to_parquet(tmp_path / "train.parquet")
    succeed(*run_arguments(tmp_path / "train.parquet", tmp_path / "id_map.csv", tmp_path / "out"))
    one, other = (pd.read_csv(f / "submission.csv").set_index("id") for f in (finished[0], tmp_path / "out"))
    assert other.index.tolist() == turned["id"].tolist()
    np.testing.assert_allclose(other.loc[one.index].to_numpy(), one.to_numpy(), atol=1e-4)


def test_another_runs_results_are_kept_unless_told_otherwise(finished, small, tmp_path, quick):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "notes.txt").write_text("mine")
    arguments = small(out, "--seed", 1)
    remedy = "choose another folder or add --overwrite"
    line = error_line(invoke(*arguments))
    assert line == f"error: --out {out}: holds another run's submission.csv; {remedy}"
    assert manifest_of(out)["config"]["seed"] == 0
    succeed(*arguments, "--overwrite")
    assert manifest_of(out)["config"]["seed"] == 1
    assert names_in(out) == sorted([*RESULTS, "notes.txt"])


def test_levels_that_no_training_row_has_are_counted(small_files, tmp_path, quick):
    pairs = small_files.id_map.copy()
    pairs.loc[[0, 3], "cell_type"] = "unheard of"
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    succeed(*run_arguments(small_files.train, tmp_path / "pairs.csv", tmp_path / "out"))
    note = f"2 of {len(pairs)} pairs have a cell_type the model was not trained on"
    assert any(found.startswith(note) for found in manifest_of(tmp_path / "out")["notes"])


# --- how a run refuses ------------------------------------------------------------------------------------

BAD_TRAINING = {
    "missing column": (TABLE.replace("sm_name", "name"), "missing column sm_name"),
    "not finite": (
        TABLE.replace("7,8", "inf,"),
        "1 target value(s) are not finite, in 1 row(s); first: row 4 (T, benzene), gene G1 = inf",
    ),
    "two molecules of one name": (
        TABLE.replace("T,ethanol,CCO", "T,ethanol,CCN"),
        "compound 'ethanol' has two SMILES: 'CCO' in row 1 and 'CCN' in row 2",
    ),
    "invalid SMILES": (
        TABLE.replace("B,benzene,c1ccccc1", "B,benzene,c1cc"),
        "row 3 (benzene): 'c1cc' is not",
    ),
    "missing value": (TABLE.replace("T,ethanol", ",ethanol"), "column cell_type has no value in row 2"),
    "text": (TABLE.replace("5,6", "5,high"), "column G2 holds text among numbers: row 3 has 'high'"),
    "duplicate gene names": (TABLE.replace("G2", "G1"), "duplicate column names: 'G1'"),
    "empty": ("", "the file is empty (0 bytes)"),
    "header only": (TABLE.splitlines()[0] + "\n", "the table has a header but no rows"),
}
SMILES = "id,cell_type,sm_name,SMILES\n"
BAD_PAIRS = {
    "invalid SMILES": (SMILES + "0,B,new,C(C\n", "row 1 (new): 'C(C' is not a valid SMILES"),
    "no SMILES": (
        PAIRS + "2,B,new\n",
        "no SMILES for 'new' (first in row 3), which the training file does not have",
    ),
    "another molecule": (
        SMILES + "0,B,ethanol,CCN\n",
        "row 1 gives 'ethanol' the SMILES 'CCN', the training file 'CCO'",
    ),
    "missing column": ("id,sm_name\n0,ethanol\n", "missing column cell_type"),
    "id twice": (PAIRS + "1,B,benzene\n", "id 1 occurs in rows 2, 3"),
    "empty": ("", "the file is empty (0 bytes)"),
}
BAD_FILES = [
    *(pytest.param("train.csv", *case, id=f"train: {name}") for name, case in BAD_TRAINING.items()),
    *(pytest.param("id_map.csv", *case, id=f"pairs: {name}") for name, case in BAD_PAIRS.items()),
    pytest.param("train.parquet", "garbage" * 99, "cannot be read as Parquet (", id="unreadable"),
    pytest.param("train.docx", "garbage", "unknown file type", id="unknown kind"),
    pytest.param("train.none", None, "no such file", id="no training file"),
    pytest.param("id_map.none", None, "no such file", id="no pairs"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_ends_with_one_line_and_leaves_nothing(tiny, name, content, message):
    bad = tiny / name
    if content is not None:
        bad.write_text(content)
    train, test = (bad if name.startswith(stem) else tiny / f"{stem}.csv" for stem in ("train", "id_map"))
    before = names_in(tiny)
    line = error_line(invoke(*run_arguments(train, test, tiny / "new" / "out")))
    assert line.startswith(f"error: {bad}: {message}")
    assert names_in(tiny) == before, "nothing left at --out, nor beside it"


def test_too_few_rows_are_refused(tiny):
    line = error_line(invoke(*run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out")))
    assert line.startswith("error: 3 folds of 4 training rows: at least 2 folds of 2 rows are needed")


def test_nets_that_take_hours_start_with_yes_alone(tiny, tmp_path, small_files, monkeypatch):
    monkeypatch.setattr(duration, "LONG", 0.0)
    recipe = tmp_path / "net.toml"
    recipe.write_text(
        'name = "net"\nn_folds = 3\n[[members]]\nkind = "net"\nreplicas = 1\ntraining = {epochs = 1}\n'
    )
    asked = run_arguments(small_files.train, small_files.test, tmp_path / "out", "--recipe", str(recipe))
    line = error_line(invoke(*asked))
    assert line.startswith("error: the nets of net need ") and line.endswith("finished fits are kept")
    assert not (tmp_path / "out" / "submission.csv").exists()
    succeed(*asked, "--yes")


ASKED = f"choose among {', '.join(RECIPES)}, or name a .toml"
BAD_OPTIONS = [
    ("--device", "tpu", "--device tpu (did you mean 'cpu'?): choose one of auto, cpu, cuda"),
    ("--folds", 2, "--folds: must be a whole number from 3 to 20, not 2: every member"),
    ("--folds", 21, "--folds: must be a whole number from 3 to 20, not 21: every member"),
    ("--seed", -1, "Invalid value for '--seed': "),
    ("--molecules", "mordred", "--molecules mordred: choose auto, morgan, descriptors, chemberta, an"),
    ("--engine", "libsvm", "choose one of auto"),
    ("--boosting-engine", "magic", "--boosting-engine 'magic': choose one of auto, exact"),
    ("--recipe", "magic", f"no recipe 'magic'; {ASKED}"),
    ("--recipe", "none.toml", "none.toml: No such file or directory"),
    ("--svr-features", "magic", "no feature set 'magic'; choose among cell_type, "),
    ("--svr-features", "boosting", "--svr-features: boosting: feature set boosting reads predictions of"),
    ("--svr-features", "onehot,onehot", "--svr-features: two members are called onehot"),
    ("--boosting-features", "svr_per_target", "--boosting-features: svr_per_target gives every gene"),
    ("--boosting-features", "none.toml", "none.toml: No such file or directory"),
]


@pytest.mark.parametrize(("option", "value", "message"), BAD_OPTIONS)
def test_an_option_that_cannot_be_used_is_named_before_the_work(small, tmp_path, option, value, message):
    which = ["--quick"] if option in ("--engine", "--svr-features") else []  # the default recipe has no SVR
    assert message in error_line(invoke(*small(tmp_path / "out", option, value, *which)))
    assert names_in(tmp_path) == []


@pytest.mark.skipif(find_spec("cuml") is not None, reason="cuml is installed here")
def test_an_engine_that_is_not_installed_ends_with_3(small, tmp_path):
    assert "cuml" in error_line(invoke(*small(tmp_path / "out", "--engine", "cuml", "--quick")), 3)
    assert names_in(tmp_path) == []


def test_cuda_without_cuda_ends_with_3(small, tmp_path, monkeypatch):
    lacks = [Problem("the driver is missing", "install it"), Problem("cudf is missing", "install it, too")]
    monkeypatch.setattr(devices, "gpu_problems", lambda: lacks)
    done = invoke(*small(tmp_path / "out", "--device", "cuda"))
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "error: --device cuda: the driver is missing; install it",
        "error: --device cuda: cudf is missing; install it, too",
    ]
    assert invoke("demo", "--out", tmp_path / "out", "--device", "cuda").exit_code == 3
    assert names_in(tmp_path) == []


def test_out_must_be_a_folder_that_can_be_made(small, tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    remedy = "choose another folder (in a container: docker run --user $(id -u):$(id -g))"
    for out, message in {
        file: "is a file, expected a folder",
        file / "out": f"{file} cannot be written to; {remedy}",
        tmp_path / ("x" * 300): "cannot be a folder (File name too long)",
    }.items():
        assert error_line(invoke(*small(out))) == f"error: --out {out}: {message}"
    assert file.read_text() == "x"


def test_weights_that_cannot_be_had_end_with_3_and_both_remedies(small, tmp_path):
    pytest.importorskip("transformers")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    line = error_line(program(*small(tmp_path / "out", "--molecules", "chemberta"), **offline), 3)
    assert line.startswith("error: --molecules DeepChem/ChemBERTa-10M-MTR: its weights are not on this")
    assert "(--molecules FOLDER)" in line and "--molecules morgan" in line
    assert not (tmp_path / "out").exists()


def test_a_run_with_other_weights_of_the_same_name_is_another_run(
    small,
    roberta_folder,  # noqa: F811 (the fixture)
    tmp_path,
    quick,
):
    weights, out = shutil.copytree(roberta_folder, tmp_path / "weights"), tmp_path / "out"
    words = small(out, "--folds", 3, "--molecules", weights)
    succeed(*words)
    assert f"nothing to do: {out} holds" in succeed(*words).stderr
    tensors = load_file(weights / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file(tensors | {name: tensors[name] + 1}, weights / "model.safetensors", {"format": "pt"})
    assert "holds another run's submission.csv" in error_line(invoke(*words))
    assert manifest_of(out)["weights"].keys() == {str(weights)}


def test_molecules_that_are_left_to_the_program_are_named_with_the_reason(
    small_files, tmp_path, quick, monkeypatch
):
    lacks_torch = "features.molecules.weights.find_spec", lambda name: None if name == "torch" else name
    monkeypatch.setattr(*lacks_torch)
    files = ["--train", small_files.train, "--test", small_files.test]
    result = succeed("run", *files, "--out", tmp_path, "--folds", 3)
    chosen = "morgan (auto: ChemBERTa needs torch; pip install '.[chemberta]')"
    assert f"molecules: {chosen}" in result.stderr
    assert manifest_of(tmp_path)["chosen"]["molecules"] == chosen
    assert manifest_of(tmp_path)["config"]["molecules"] == "morgan"
    succeed(*run_arguments(small_files.train, small_files.test, tmp_path))  # the same run, its own to replace


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
@pytest.mark.parametrize("place", ["write_rows", "write_kaggle_csv"])
def test_a_failure_while_writing_leaves_no_result_and_the_fits_for_the_next_run(
    small, tmp_path, monkeypatch, quick, place, error
):
    def fail(path, *_):
        path.write_text("half of it")
        raise error

    out = tmp_path / "new" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, place, fail)
        result = invoke(*small(out))
    assert names_in(out) == [".run"]
    if isinstance(error, OSError):
        kept = "finished fits are kept there, and the same command goes on from them"
        assert (
            error_line(result) == f"error: --out {out}: cannot be written (No space left on device); {kept}"
        )
    elif isinstance(error, KeyboardInterrupt):
        said = f"finished fits are kept in {out}/.run; the same command continues"
        assert (result.exit_code, result.stderr.splitlines()[-2:]) == (130, [said, "interrupted"])
    else:
        assert result.exit_code == 1
    monkeypatch.setattr(nested, "fitted", lambda *_: pytest.fail("a finished fit was made again"))
    succeed(*small(out))
    assert names_in(out) == RESULTS


def test_a_run_that_is_finished_has_nothing_to_do_and_overwrite_makes_it_anew(
    finished, small, tmp_path, monkeypatch, quick
):
    out = tmp_path / "out"
    before = succeed(*small(out))
    manifest = manifest_of(out)
    assert manifest["results"]["submission.csv"] == (out / "submission.csv").stat().st_size
    again = succeed(*small(out))
    assert f"nothing to do: {out} holds the results of this run since {manifest['created']}" in again.stderr
    assert again.stdout == before.stdout.replace("genes written:", "genes are in")
    assert manifest_of(out) == manifest
    succeed(*small(out), "--overwrite")
    assert manifest_of(out)["seconds"] != manifest["seconds"]
    (out / "submission.csv").write_text("damaged")
    succeed(*small(out))
    assert len(pd.read_csv(out / "submission.csv")) == manifest["shape"]["test_rows"]


@pytest.mark.parametrize("stop", [0, 3, 10])
def test_a_run_that_was_stopped_goes_on_and_gives_the_same_bytes(small, tmp_path, monkeypatch, quick, stop):
    whole, out = tmp_path / "whole", tmp_path / "out"
    succeed(*small(whole))
    real, made = nested.fitted, []

    def fitted(*given):
        if len(made) == stop:
            raise KeyboardInterrupt
        made.append(given)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(nested, "fitted", fitted)
        assert invoke(*small(out)).exit_code == 130
    fits = list((out / ".run" / ".finished").glob("*"))
    assert min(stop, 7) <= len(fits) <= stop, "the boosters after the seven SVRs are fitted side by side"
    assert names_in(tmp_path) == (["out", "whole"] if stop else ["whole"])
    succeed(*small(out))
    for name in ("submission.csv", "oof.parquet", "scores.json", "model/state.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    arrays = sorted(path.name for path in (whole / "model").glob("*.safetensors"))
    for name in arrays:
        assert (out / "model" / name).read_bytes() == (whole / "model" / name).read_bytes(), name
    assert arrays and names_in(out) == RESULTS


# --- engines, feature sets, recipes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "engine", "member", "chosen"),
    [
        ("--engine", "sklearn", "svr_shared", "sklearn (asked for)"),
        ("--boosting-engine", "xgboost", "boosting", "xgboost (asked for)"),
        ("--boosting-engine", "auto", "boosting", "exact (auto: "),
    ],
)
def test_the_engine_asked_for_is_used_and_recorded(small, tmp_path, quick, option, engine, member, chosen):
    succeed(*small(tmp_path / "out", option, engine))
    assert manifest_of(tmp_path / "out")["chosen"][f"engine of {member}"].startswith(chosen)


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


def test_a_set_from_a_file_is_used_by_a_run_and_kept_in_its_manifest(small, tmp_path, quick):
    (tmp_path / "mine.toml").write_text(MINE)
    succeed(*small(tmp_path / "plain"))
    sets = ["--svr-features", tmp_path / "mine.toml", "--boosting-features", "loo"]
    succeed(*small(tmp_path / "mine", *sets))
    config = manifest_of(tmp_path / "mine")["config"]
    blocks = config["recipe"]["members"][0]["features"]["blocks"]
    assert [block["kind"] for block in blocks] == ["onehot", "statistics"]
    assert config["recipe"]["members"][1]["features"]["name"] == "loo"
    default = manifest_of(tmp_path / "plain")["config"]["recipe"]["members"][0]["features"]["blocks"]
    assert {block.get("encoder") for block in default} == {None, "morgan"}
    assert not any("LEAKY" in note for note in manifest_of(tmp_path / "mine")["notes"])
    (tmp_path / "leaky.toml").write_text(MINE + "leaky = true\n")
    result = succeed(*small(tmp_path / "leaky", "--svr-features", tmp_path / "leaky.toml"))
    assert "LEAKY: feature set mine" in result.output
    assert any("LEAKY" in note for note in manifest_of(tmp_path / "leaky")["notes"])
    plain, mine = (out_of_fold_scores(tmp_path / name) for name in ("plain", "mine"))
    assert plain["svr_shared"] != mine["mine"] and plain["zeros"] == mine["zeros"]


def test_quick_is_the_quick_recipe(small, tmp_path):
    out = tmp_path / "out"
    succeed(*small(out, "--quick"))
    manifest = manifest_of(out)
    assert manifest["config"]["recipe"]["name"] == "quick"
    assert list(manifest["seconds"]) == ["ingest", "features", "svr_shared", "boosting", "blend", "scores"]
