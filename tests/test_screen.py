"""Feature screening: right numbers, no leaks, and one command that needs no argument."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.svm import SVR
from typer.testing import CliRunner

from features.feature_sets import FEATURE_SETS, FeatureTable, Rows
from features.molecule_columns import encode_molecules
from rapids_pipeline import screen as screening
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.config import SvrConfig
from rapids_pipeline.evaluation.splits import canonical_order, random_folds
from rapids_pipeline.ingest import PerturbationData, read_training, training_from_frame
from rapids_pipeline.screen import default_sets, gene_index, screen, write_screen

SETS = ["cell_type", "onehot", "molecules", "svr_shared", "loo", "svr_loo"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def data(small_files) -> PerturbationData:
    return read_training(small_files.train)


@pytest.fixture(scope="module")
def screened(data):
    return screen(data, "A1BG", sets=SETS, molecules="morgan", source="small")


def morgan_set(name):
    return FEATURE_SETS[name].with_molecules("morgan")


def invoke(*arguments):
    app = typer.Typer()
    app.command()(screening.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def prepared(data: PerturbationData, target: str) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Return the rows of a screen in its order, their targets and folds."""
    data = data.take(canonical_order(data.obs))
    columns = encode_molecules(["morgan"], list(data.obs["SMILES"])).training
    y = data.Y[:, [data.genes.index(target)]]
    return Rows(data.obs, columns), y, random_folds(len(y), 5, 0)


# --- numbers ----------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_plain_loop_over_scikit_learn(data, screened):
    rows, y, folds = prepared(data, "A1BG")
    for result in screened.sets:
        errors = []
        for k in range(5):
            inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
            features = FeatureTable(morgan_set(result.feature_set))
            X = features.fit_transform(rows.take(inside), y[inside])
            svr = SVR(C=1.0, epsilon=0.1, gamma="scale", tol=1e-5).fit(X, y[inside].ravel())
            predicted = svr.predict(features.transform(rows.take(outside)))
            errors.append(np.sqrt(np.mean((predicted - y[outside].ravel()) ** 2)))
            assert X.shape[1] == result.columns or k < 4
        assert result.rmse == pytest.approx(np.mean(errors), abs=1e-3), result.feature_set
        assert result.rmse_sd == pytest.approx(np.std(errors, ddof=1), abs=2e-3), result.feature_set


def test_the_gain_is_over_the_training_mean_and_the_best_set_comes_first(data, screened):
    _, y, folds = prepared(data, "A1BG")
    rmse = [np.sqrt(np.mean((y[folds == k] - y[folds != k].mean()) ** 2)) for k in range(5)]
    assert screened.mean_rmse == pytest.approx(np.mean(rmse), abs=1e-6)
    found = [result.rmse for result in screened.sets]
    assert found == sorted(found)
    for result in screened.sets:
        assert result.gain == pytest.approx(screened.mean_rmse - result.rmse)


def test_the_order_of_the_rows_does_not_matter(data, screened):
    shuffled = data.take(np.random.default_rng(0).permutation(len(data.Y)))
    again = screen(shuffled, "A1BG", sets=SETS, molecules="morgan")
    scores = {result.feature_set: result.rmse for result in again.sets}
    assert scores == pytest.approx({result.feature_set: result.rmse for result in screened.sets}, abs=1e-6)


# --- leaks ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore::rapids_pipeline.svr.estimator.NotConvergedWarning"
)  # with the raised row
@pytest.mark.parametrize("name", default_sets())
def test_no_feature_set_sees_the_target_of_a_held_out_row(data, name, monkeypatch):
    """Adding 1000 to one row's target changes no prediction for that row, whatever the feature set."""
    rows, y, folds = prepared(data, "A1BG")
    predictions = []

    def recording(self, X):
        predictions.append(predict(self, X))
        return predictions[-1]

    predict = screening.MultiTargetSVR.predict
    monkeypatch.setattr(screening.MultiTargetSVR, "predict", recording)
    for row in (0, len(y) // 2):
        predictions.clear()
        raised = y.copy()
        raised[row] += 1000
        for targets in (y, raised):
            screening._score(morgan_set(name), rows, targets, folds, SvrConfig(), 1.0, screening.Progress())
        fold, position = folds[row], np.flatnonzero(np.flatnonzero(folds == folds[row]) == row)[0]
        assert len(predictions) == 10, "five folds, twice"
        np.testing.assert_array_equal(predictions[fold], predictions[5 + fold])
        assert np.isfinite(predictions[fold][position]).all()


@pytest.mark.parametrize("name", ["loo", "onehot_loo", "svr_loo", "svr_per_target"])
def test_a_training_rows_own_target_is_not_in_its_features(data, name):
    rows, y, _ = prepared(data, "A1BG")
    raised = y.copy()
    raised[3] += 1000
    before, after = (FeatureTable(morgan_set(name)).fit_transform(rows, targets) for targets in (y, raised))
    np.testing.assert_array_equal(before[3], after[3])
    assert np.abs(before - after).max() > 1, "the other rows of its groups do see it"


# --- refusals ---------------------------------------------------------------------------------------------


def test_an_unknown_gene_is_refused_with_the_nearest_names():
    genes = ["A1BG", "A1BG-AS1", "A2M", "ZZZ3", "TP53"]
    assert gene_index(genes, "A2M") == 2
    with pytest.raises(
        InputError, match=r"--target A1BQ: no such gene among 5; nearest names: A1BG, A1BG-AS1"
    ):
        gene_index(genes, "A1BQ")
    with pytest.raises(InputError, match=r"--target tp53: no such gene among 5; nearest names: TP53"):
        gene_index(genes, "tp53")
    with pytest.raises(
        InputError, match=r"--target 12345678: no such gene among 5; the genes are A1BG … TP53"
    ):
        gene_index(genes, "12345678")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "A1BGG"], "--target A1BGG: no such gene among 8; nearest names: A1BG"),
        (["--features", "onehot,shape"], "no feature set 'shape'; choose among cell_type, sm_name, onehot, "),
        (["--features", "boosting"], "feature set 'boosting' stacks on first-level predictions"),
        (["--folds", "1"], "1 folds of "),
        (["--seed", "-1"], "--seed -1: must not be negative"),
        (["--molecules", "mordred"], "--molecules mordred: choose morgan, "),
        (["--train", "none.csv"], "none.csv: no such file"),
    ],
)
def test_bad_requests_end_with_one_line_and_leave_nothing(small_files, tmp_path, arguments, message):
    given = ["--train", small_files.train, "--features", "onehot", "--out", tmp_path / "out", *arguments]
    result = invoke(*given)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(small_files, tmp_path):
    (tmp_path / "out").write_text("x")
    result = invoke("--train", small_files.train, "--out", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: --out {tmp_path}/out: is a file, expected a folder\n",
    )


def test_a_constant_gene_is_refused(small_files, tmp_path):
    constant = training_from_frame(small_files.de_train.assign(A2M=0.25), "constant")
    with pytest.raises(InputError, match=r"--target A2M: is 0.25 in every row; there is nothing to predict"):
        screen(constant, "A2M", sets=["onehot"], molecules="morgan")


# --- what it leaves ---------------------------------------------------------------------------------------


def test_the_files_hold_the_scores(screened, tmp_path):
    write_screen(screened, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["screen.csv", "screen.json", "screen.png"]
    table = pd.read_csv(tmp_path / "new" / "screen.csv")
    assert table["feature_set"].tolist() == [result.feature_set for result in screened.sets]
    np.testing.assert_allclose(table["rmse"], [result.rmse for result in screened.sets])
    document = json.loads((tmp_path / "new" / "screen.json").read_text())
    assert (document["target"], document["n_folds"], document["source"]) == ("A1BG", 5, "small")
    assert document["sets"][0]["rmse"] == screened.sets[0].rmse
    check_png(tmp_path / "new" / "screen.png")


def check_png(path) -> None:
    """Check that a file is a PNG that can be decoded and has something drawn on it."""
    from matplotlib.image import imread

    assert path.read_bytes()[:8] == PNG
    picture = imread(path)
    assert min(picture.shape[:2]) > 200
    assert picture[..., :3].std() > 0.01


@pytest.mark.slow
def test_the_command_needs_no_argument(tmp_path):
    """On the demo data: at least six sets on A1BG, the table, the picture; the compound's structure helps."""
    command = [sys.executable, "-m", "rapids_pipeline.screen"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "screen-A1BG"
    assert sorted(path.name for path in folder.iterdir()) == ["screen.csv", "screen.json", "screen.png"]
    check_png(folder / "screen.png")
    document = json.loads((folder / "screen.json").read_text())
    assert (document["target"], document["n_folds"], document["n_rows"]) == ("A1BG", 5, 614)
    table = pd.read_csv(folder / "screen.csv").set_index("feature_set")
    assert len(table) >= 6
    assert np.isfinite(table["rmse"]).all()
    for name in table.index:
        assert name in done.stdout
    assert table.loc["molecules", "rmse"] < document["mean_rmse"]


def test_sets_that_all_leaves_out_are_named(small_files, tmp_path):
    result = invoke("--train", small_files.train, "--features", "all", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "left out, as they need weights: chemberta" in result.output
