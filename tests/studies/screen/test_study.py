"""Feature screening: right numbers, no leaks, and one command that needs no argument."""

import json
import pickle
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from sklearn.svm import SVR

from features.feature_sets import FEATURE_SETS, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress, Stages
from rapids_pipeline.data.problem import canonical_order
from rapids_pipeline.data.tables import PerturbationData, read_training, training_from_frame
from rapids_pipeline.evaluation.splits import Split, named_splits, random_folds
from rapids_pipeline.reports import screen as report
from rapids_pipeline.studies.screen import study
from rapids_pipeline.studies.screen.candidates import default_sets
from rapids_pipeline.studies.screen.models import Comparison, losses_of, predictions
from rapids_pipeline.studies.screen.study import Screening, ScreenRequest, scored, screen
from tests import command_line

SETS = ("cell_type", "onehot", "molecules", "svr_shared", "loo", "svr_loo")
FILES = [".finished", "screen.csv", "screen.html", "screen.json", "screen.png"]


@pytest.fixture(scope="module")
def data(small_files) -> PerturbationData:
    return read_training(small_files.train)


@pytest.fixture(scope="module")
def screened(data):
    return screen(data, ScreenRequest(features=SETS), source="small")


def named(name):
    return FEATURE_SETS[name].with_molecules("morgan")


invoke, succeed = partial(command_line.invoke, "screen"), partial(command_line.succeed, "screen")


def ordered(data: PerturbationData, genes: list[str]) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Return the rows of a screen in its order, their targets and folds."""
    data = data.take(canonical_order(data.obs))
    columns = encode_molecules(["morgan"], list(data.obs["SMILES"])).training
    Y = data.Y[:, [data.genes.index(gene) for gene in genes]]
    return Rows(data.obs, columns), Y, random_folds(len(Y), 5, 0)


def by_hand(name, rows, Y, folds, fitted_on=None):
    """Return out-of-fold predictions by a loop over scikit-learn's SVR."""
    oof = np.empty_like(Y)
    for k in range(5):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        table = FeatureTable(named(name))
        X = table.fit_transform(rows.take(inside), Y[inside])
        for gene in range(Y.shape[1]):
            svr = SVR(C=1.0, epsilon=0.1, gamma="scale", tol=1e-5).fit(X, Y[inside, gene])
            oof[outside, gene] = svr.predict(table.transform(rows.take(outside)))
    return oof


def scores(screen):
    return {found.feature_set: found.score for found in screen.sets}


# --- numbers ----------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_plain_loop_over_scikit_learn(data, screened):
    rows, y, folds = ordered(data, ["A1BG"])
    for name in SETS:
        expected = np.sqrt(np.mean((by_hand(name, rows, y, folds) - y) ** 2))
        assert scores(screened)[name] == pytest.approx(expected, abs=1e-3), name
    means = np.stack([y[folds != k].mean(axis=0) for k in range(5)])[folds]
    assert scores(screened)["mean"] == pytest.approx(np.sqrt(np.mean((means - y) ** 2)), rel=1e-6)


def test_several_genes_are_scored_by_mrrmse(data):
    genes = ["A1BG", "A2M", "A2M-AS1"]
    found = screen(data, ScreenRequest(",".join(genes), ("onehot", "molecules", "loo")))
    assert found.metric == "MRRMSE" and found.genes == genes
    rows, Y, folds = ordered(data, genes)
    errors = {name: by_hand(name, rows, Y, folds) - Y for name in ("onehot", "molecules", "loo")}
    for name, error in errors.items():
        expected = np.sqrt((error**2).mean(axis=1)).mean()
        assert scores(found)[name] == pytest.approx(expected, abs=1e-3), name
    improved = [np.sqrt((errors[name] ** 2).mean(axis=0)) for name in ("molecules", "onehot")]
    row = next(found for found in found.sets if found.feature_set == "molecules")
    assert row.genes_improved == pytest.approx(np.mean(improved[0] < improved[1]))
    assert found.agreement.gene == "A1BG"
    assert found.gene_rmse.feature_sets == [row.feature_set for row in found.sets]


def test_columns_of_each_genes_own_are_those_of_one_gene_at_a_time(data):
    """Each gene has statistics of itself: screened together, each is predicted as if alone."""
    rows, Y, folds = ordered(data, ["A1BG", "A2M"])
    splits = named_splits("random", rows.obs)
    together, alone = Comparison(rows, Y, splits), Comparison(rows, Y[:, :1], splits)
    found = [predictions(p, p.tables(), named("svr_per_target"), 2) for p in (together, alone)]
    assert found[0].shape == (int((folds == 2).sum()), 2)
    # the inner folds of the cross-fitted statistics are drawn apart, so only nearly
    assert np.corrcoef(found[0][:, 0], found[1][:, 0])[0, 1] > 0.9


def test_the_best_set_comes_first_and_differences_are_from_the_reference(screened):
    assert screened.reference == "cell_type"
    found = [row.score for row in screened.sets]
    assert found == sorted(found)
    assert [row.rank for row in screened.sets] == list(range(1, len(SETS) + 2))
    for row in screened.sets:
        assert row.difference == pytest.approx(row.score - scores(screened)["cell_type"])
        assert row.difference_low <= row.difference <= row.difference_high
        assert row.score_low < row.score < row.score_high


def with_gaps(data, genes, share=0.3):
    """The data with some targets of some genes untested."""
    Y, rng = data.Y.copy(), np.random.default_rng(0)
    for gene in genes:
        Y[rng.random(len(Y)) < share, data.genes.index(gene)] = np.nan
    return PerturbationData(data.obs, Y, data.genes)


def test_a_gene_is_screened_on_the_rows_where_it_was_tested(data):
    gaps = with_gaps(data, ["A1BG"])
    tested = np.isfinite(gaps.Y[:, data.genes.index("A1BG")])
    request = ScreenRequest(features=("onehot", "loo"))
    found, expected = (screen(one, request) for one in (gaps, data.take(np.flatnonzero(tested))))
    assert scores(found) == scores(expected) and found.rows == tested.sum() < len(data.obs)
    assert f"left out, as nothing was tested there: {(~tested).sum()} rows" in found.notes


@pytest.mark.parametrize("model", ["svr", "ridge", "boosting"])
def test_several_genes_are_scored_where_they_were_tested(data, model):
    genes = ["A1BG", "A2M"]
    gaps = with_gaps(data, genes)
    rows, Y, folds = ordered(gaps, genes)
    kept = np.isfinite(Y).any(axis=1)
    repeats = [
        [Split(str(k), np.flatnonzero(f != k), np.flatnonzero(f == k)) for k in range(5)]
        for f in [folds[kept]]
    ]
    comparison = Comparison(rows.take(np.flatnonzero(kept)), Y[kept], repeats, model, 0)
    tables, features = comparison.tables(), named("svr_per_target" if model == "svr" else "svr_loo")
    shown = {number: predictions(comparison, tables, features, number) for number in range(5)}
    found = losses_of(comparison, lambda number: shown[number])
    errors = np.empty_like(Y[kept])
    for number, split in enumerate(repeats[0]):
        errors[split.held_out] = shown[number] - Y[kept][split.held_out]
    assert np.isnan(errors).any()
    np.testing.assert_allclose(found.row_mse[0], np.nanmean(errors**2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.gene_rmse, np.sqrt(np.nanmean(errors**2, axis=0)), rtol=1e-5)


@pytest.mark.parametrize("model", ["svr", "ridge", "boosting"])
def test_rows_count_by_their_weight(data, model):
    rows, y, folds = ordered(data, ["A1BG"])
    light = np.arange(len(y)) % 3 == 0
    raised, weight = y + 50 * light[:, None].astype(np.float32), np.where(light, 1e-9, 1.0)
    splits = [[Split(str(k), np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(5)]]

    def moved(weight):
        compared = [Comparison(rows, Y, splits, model, 0, weight) for Y in (y, raised)]
        before, after = (predictions(one, one.tables(), named("onehot"), 1) for one in compared)
        return np.abs(after - before).max()

    assert moved(weight) < 0.01 * np.std(y) < np.std(y) < moved(None)


def test_columns_of_each_genes_own_and_the_store_know_of_weights(data):
    rows, Y, _ = ordered(data, ["A1BG", "A2M"])
    weight, splits = np.linspace(0.01, 2, len(Y)), named_splits("random", rows.obs)
    plain, even, weighted = (
        predictions(one, one.tables(), named("svr_per_target"), 0)
        for one in (Comparison(rows, Y, splits, weight=w) for w in (None, np.ones(len(Y)), weight))
    )
    assert even.tobytes() == plain.tobytes() and np.abs(weighted - plain).max() > 0.01
    request = ScreenRequest(features=("cell_type",))
    found = [screen(replace(data, weight=w), request) for w in (None, weight, weight[::-1])]
    assert len({one.provenance["problem_sha256"] for one in found}) == 3
    assert len({scores(one)["cell_type"] for one in found}) == 3
    assert len({scores(one)["mean"] for one in found}) == 1


def test_the_order_of_the_rows_does_not_matter(data, screened):
    shuffled = data.take(np.random.default_rng(0).permutation(len(data.Y)))
    again = screen(shuffled, ScreenRequest(features=SETS))
    assert scores(again) == pytest.approx(scores(screened), abs=1e-6)


def test_repeats_are_averaged(data):
    once, twice = (screen(data, ScreenRequest(features=("onehot",), repeats=r)) for r in (1, 2))
    again = screen(data, ScreenRequest(features=("onehot",), repeats=2))
    assert scores(twice) == scores(again) != scores(once)
    assert (twice.repeats, once.repeats) == (2, 1)


# --- leaks ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::rapids_pipeline.svr.engines.NotConvergedWarning")  # the raised row
@pytest.mark.parametrize("genes", [1, 2])
@pytest.mark.parametrize("name", default_sets())
def test_no_feature_set_sees_the_target_of_a_held_out_row(data, name, genes):
    """Adding 1000 to one row's targets changes no prediction for that row, whatever the feature set."""
    rows, Y, folds = ordered(data, ["A1BG", "A2M"][:genes])
    splits = named_splits("random", rows.obs)
    for row in (0, len(Y) // 2):
        raised = Y.copy()
        raised[row] += 1000
        both = Comparison(rows, Y, splits), Comparison(rows, raised, splits)
        fold = int(folds[row])
        np.testing.assert_array_equal(*(predictions(one, one.tables(), named(name), fold) for one in both))
        before, after = (predictions(one, one.tables(), named(name), (fold + 1) % 5) for one in both)
        assert np.abs(before - after).max() > 1e-3, "other folds' models do see it"


# --- interruption -----------------------------------------------------------------------------------------


class Stops(Stages, Progress):
    """Interrupts after a number of finished candidates."""

    def __init__(self, after):
        super().__init__()
        self.after, self.seen = after, []

    @contextmanager
    def shown(self, name):
        yield self

    def found(self, standings):
        self.seen.append(standings.entries[-1].name)
        if len(self.seen) == self.after:
            raise KeyboardInterrupt


def test_an_interrupted_screen_goes_on_where_it_stopped(data, screened, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        screen(data, ScreenRequest(features=SETS), folder=tmp_path, stages=Stops(3))
    fitted = []

    def counting(comparison, predict):
        fitted.append(predict)
        return losses_of(comparison, predict)

    monkeypatch.setattr(study, "losses_of", counting)
    again = screen(data, ScreenRequest(features=SETS), folder=tmp_path)
    assert len(fitted) == len(SETS) + 1 - 4, "the mean, the reference and two more were kept"
    assert scores(again) == scores(screened)
    fitted.clear()
    for other in (ScreenRequest(features=SETS, seed=1), ScreenRequest("A2M", SETS)):
        screen(data, other, folder=tmp_path)
    assert len(fitted) == 2 * (len(SETS) + 1), "another screen's are not taken"


def test_sets_of_the_same_blocks_are_fitted_once(data, monkeypatch):
    fitted = []
    monkeypatch.setattr(study, "losses_of", lambda *how: fitted.append(how) or losses_of(*how))
    found = screen(data, ScreenRequest(features=("morgan", "cell_type_molecules", "cell_type")))
    assert len(fitted) == 3, "the mean and two sets"
    assert scores(found)["morgan"] == scores(found)["cell_type_molecules"] != scores(found)["cell_type"]
    assert {row.feature_set for row in found.sets} == {"mean", "morgan", "cell_type_molecules", "cell_type"}


def test_ctrl_c_keeps_what_is_finished(small_files, tmp_path, monkeypatch):
    def interrupted(standings):
        if len(standings.entries) == 3:
            raise KeyboardInterrupt
        return ""

    given = ["--train", small_files.train, "--features", ",".join(SETS), "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(report, "logged", interrupted)
        result = invoke(*given)
    assert result.exit_code == 130
    assert f"the 3 finished sets: {tmp_path}/out/screen.html; the same command continues" in result.stderr
    document = json.loads((tmp_path / "out" / "screen.json").read_text())
    assert (document["complete"], len(document["sets"])) == (False, 3)
    succeed(*given)
    document = json.loads((tmp_path / "out" / "screen.json").read_text())
    assert (document["complete"], len(document["sets"])) == (True, len(SETS) + 1)


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--target A1BGG", "--target A1BGG: no such gene among 8; nearest names: A1BG"),
        ("--features onehot,shape", "no feature set 'shape'; choose among cell_type, sm_name, onehot, "),
        ("--features boosting", "feature set 'boosting' stacks on first-level predictions"),
        ("--features onehot,onehot", "--features: onehot is there twice"),
        ("--reference loo", "--reference loo: is none of the screened sets: onehot, or mean"),
        ("--search ablation --features onehot,loo", "--search ablation: takes one feature set"),
        ("--search ablation --features molecules", "--search ablation: feature set molecules has one"),
        ("--search forward --features molecules", "--search forward: the feature sets have one block"),
        ("--search forward --reference mean", "--reference: --search forward has the whole set"),
        (
            "--model ridge --target A1BG,A2M --features svr_per_target",
            "feature set svr_per_target gives every gene columns of its own: screen it with --model svr",
        ),
        ("--split scarce", "--split scarce"),
        ("--folds 1", "Invalid value for '--folds': it must be greater than or equal to 2"),
        ("--repeats 0", "Invalid value for '--repeats': it must be greater than or equal to 1"),
        ("--seed -1", "Invalid value for '--seed': it must be greater than or equal to 0"),
        ("--molecules mordred", "--molecules mordred: choose auto, "),
        ("--train none.csv", "none.csv: no such file"),
    ],
)
def test_bad_requests_end_with_one_line_and_leave_nothing(small_files, tmp_path, arguments, message):
    given = ["--train", small_files.train, "--features", "onehot", "--out", tmp_path / "out"]
    assert command_line.error_line(invoke(*given, *arguments.split())).startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(small_files, tmp_path):
    (tmp_path / "out").write_text("x")
    refused = invoke("--train", small_files.train, "--out", tmp_path / "out")
    assert command_line.error_line(refused) == f"error: --out {tmp_path}/out: is a file, expected a folder"


def test_a_constant_gene_is_refused_and_in_a_panel_named(small_files):
    constant = training_from_frame(small_files.de_train.assign(A2M=0.25), "constant")
    with pytest.raises(InputError, match=r"--target A2M: is 0.25 in every row; there is nothing to predict"):
        screen(constant, ScreenRequest("A2M", ("onehot",)))
    found = screen(constant, ScreenRequest("all", ("onehot", "loo")))
    assert found.notes == ["left out, as they are the same in every row: 1 genes (A2M)"]
    assert len(found.genes) == 7


# --- what it leaves ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_needs_no_argument(tmp_path):
    """On the demo data: at least twelve sets on A1BG, the table, the report; the compound's structure helps."""
    command = [sys.executable, "-m", "rapids_pipeline.screen"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "screen-A1BG"
    assert command_line.names_in(folder) == FILES
    assert imread(folder / "screen.png").std() > 0.01
    document = json.loads((folder / "screen.json").read_text())
    assert (document["target"], document["folds"], document["rows"]) == ("A1BG", 5, 614)
    table = pd.read_csv(folder / "screen.csv").set_index("feature_set")
    assert len(table) > 12
    assert np.isfinite(table["score"]).all()
    for name in table.index:
        assert name in done.stdout
        assert name in done.stderr or name == "mean"
    assert table.loc["molecules", "score"] < table.loc["mean", "score"]


@pytest.mark.parametrize("target", ["random:5", "all"])
def test_several_genes_through_the_command(small_files, tmp_path, target):
    given = ["--train", small_files.train, "--features", "onehot,loo,molecules", "--target", target]
    result = succeed(*given, "--split", "compound", "--folds", 3, "--repeats", 2, "--out", tmp_path)
    document = json.loads((tmp_path / "screen.json").read_text())
    assert document["metric"] == "MRRMSE"
    assert document["provenance"]["settings"]["target"] == target
    assert "may I trust A1BG" in result.output or target != "all"


def test_sets_that_all_leaves_out_are_named(small_files, tmp_path):
    result = succeed("--train", small_files.train, "--features", "all", "--out", tmp_path / "out")
    assert "left out, as they need weights: chemberta" in result.output
    assert "reference: onehot" in result.output


# --- real data --------------------------------------------------------------------------------------------


def test_a_screening_travels_without_its_columns_and_scores_alike(data):
    rows, Y, _ = ordered(data, ["A1BG", "A2M"])
    screening = Screening(Comparison(rows, Y, named_splits("random", rows.obs), "ridge"))
    expected = scored(screening, named("onehot"))
    assert "tables" in vars(screening)
    arrived = pickle.loads(pickle.dumps(screening))
    assert "tables" not in vars(arrived)
    found = scored(arrived, named("onehot"))
    for name, values in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values)


def test_a_screen_that_is_stopped_before_a_set_is_finished_says_so(tmp_path):
    assert report.write_finished_sets(None, tmp_path) == "no set was finished"
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def lung(shared_data):
    return read_training(shared_data / "lincs_lung" / "de_train.parquet")


def test_structure_helps_for_unseen_compounds_and_permuted_smiles_do_not(lung):
    """Real L1000 data, 978 genes: split by compound, fingerprints lower the error; dealt out anew, they do not."""
    request = ScreenRequest("all", ("cell_type", "cell_type_molecules"), split="compound")
    row = next(row for row in screen(lung, request).sets if row.feature_set == "cell_type_molecules")
    assert row.difference_high < 0
    names = np.unique(lung.obs["sm_name"])
    smiles = lung.obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    dealt = dict(zip(names, np.random.default_rng(0).permutation(smiles[names]), strict=True))
    obs = lung.obs.assign(SMILES=[dealt[name] for name in lung.obs["sm_name"]])
    permuted = screen(replace(lung, obs=obs), request)
    row = next(row for row in permuted.sets if row.feature_set == "cell_type_molecules")
    assert row.difference_low > -0.005
    assert row.difference > -0.003
