"""The accuracy benchmark on small data: its tables against naive code, its cache, and that tasks hide their truth."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import ablation, compare, jobs, peers, tables
from rapids_pipeline.backend.store import content_hash
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.recipe import to_toml

N_GENES = 12


@pytest.fixture(scope="module")
def task(demo):
    return compare.test_task("test rows", demo)


@pytest.fixture
def example():
    """Three made-up predictions of rows of seven compounds, their truth and the rows."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": "T", "sm_name": [f"compound {k}" for k in rng.integers(7, size=40)]})
    truth = rng.normal(size=(40, 9)).astype(np.float32)
    cost = jobs.Cost(1, 2.0, 1.0, 0.5, "2026-01-01")
    made = {
        "close": truth + rng.normal(size=truth.shape).astype(np.float32) / 2,
        "far": truth * rng.normal(size=(40, 1)).astype(np.float32),
        "zeros": np.zeros_like(truth),
    }
    return {name: jobs.Finished(p.astype(np.float32), cost) for name, p in made.items()}, truth, obs


def naive_errors(truth, predicted):
    squares = [
        [(float(y) - float(p)) ** 2 for y, p in zip(*rows, strict=True)]
        for rows in zip(truth, predicted, strict=True)
    ]
    return np.array([np.sqrt(np.mean(row)) for row in squares])


def test_differences_are_those_of_naive_code_and_lie_in_their_intervals(example):
    found, truth, obs = example
    table = tables.compared(found, truth, obs, "far")
    errors = {name: naive_errors(truth, one.predicted) for name, one in found.items()}
    assert list(table) == sorted(table, key=lambda name: errors[name].mean())
    for name, one in table.items():
        assert one["scores"]["mean_rowwise_rmse"] == pytest.approx(errors[name].mean())
        assert one["difference"] == pytest.approx(errors[name].mean() - errors["far"].mean())
        low, high = one["difference_interval"]
        assert low <= one["difference"] <= high
    assert table["far"]["difference_interval"] == [0, 0]


def test_intervals_draw_whole_compounds(example):
    found, truth, obs = example
    table = tables.compared(found, truth, obs, "far")
    gaps = naive_errors(truth, found["close"].predicted) - naive_errors(truth, found["far"].predicted)
    by_compound = [gaps[(obs["sm_name"] == name).to_numpy()] for name in obs["sm_name"].unique()]
    rng = np.random.default_rng(1)
    which = rng.integers(len(by_compound), size=(20_000, len(by_compound)))
    drawn = [np.concatenate([by_compound[k] for k in chosen]).mean() for chosen in which]
    expected = np.quantile(drawn, [0.025, 0.975])
    width = expected[1] - expected[0]
    np.testing.assert_allclose(table["close"]["difference_interval"], expected, atol=0.1 * width)


def test_the_amplitude_is_the_slope_of_least_squared_error(example):
    found, truth, _ = example
    assert tables.amplitude(truth, found["zeros"].predicted) is None
    assert tables.amplitude(truth, 4 * truth) == pytest.approx(0.25)
    for name in ("close", "far"):
        p = found[name].predicted
        pairs = list(zip(truth.ravel().tolist(), p.ravel().tolist(), strict=True))
        slope = tables.amplitude(truth, p)
        assert slope == pytest.approx(sum(y * q for y, q in pairs) / sum(q * q for _, q in pairs), rel=1e-5)
        least = ((truth - slope * p) ** 2).sum()
        assert least < min(((truth - (slope + step) * p) ** 2).sum() for step in (-0.05, 0.05))


def test_thirds_are_those_of_a_loop(example):
    found, truth, _ = example
    predicted, values = found["close"].predicted, np.random.default_rng(3).normal(size=len(truth))
    thirds = tables.in_thirds(values, truth, predicted)
    assert [one["rows"] for one in thirds.values()] == [14, 13, 13]  # of 40
    errors, rank = naive_errors(truth, predicted), np.argsort(np.argsort(values))
    first = [k for k in range(len(truth)) if rank[k] < thirds["low"]["rows"]]
    assert thirds["low"]["mean_rowwise_rmse"] == pytest.approx(np.mean([errors[k] for k in first]))
    sizes = [np.sqrt((truth[k] ** 2).mean()) for k in first]
    assert thirds["low"]["relative"] == pytest.approx(
        np.mean([errors[k] for k in first]) / np.mean(sizes), rel=1e-5
    )
    assert thirds["low"]["to"] == max(values[first]) <= thirds["middle"]["from"]


def test_every_ablation_changes_the_member():
    made = ablation.variants()
    documents = [json.dumps(one.model_dump(mode="json"), sort_keys=True) for one in made.values()]
    assert len(set(documents)) == len(made) > 10
    weights = made["no structure"].known_compounds.weights
    assert set(weights) == {"cell_type", "correlation * profile_linear", "correlation * profile_rbf"}
    assert not made["no response profiles"].known_compounds.kernel.of_profiles


def test_the_pictured_rows_are_good_median_and_bad(example, tmp_path):
    found, truth, obs = example
    predicted = found["close"].predicted
    relative = naive_errors(truth, predicted) / np.sqrt((truth**2).mean(axis=1))
    rows = tables.example_rows(truth, predicted)
    shares = {name: np.mean(relative <= relative[row]) for name, row in rows.items()}
    assert shares == pytest.approx({"good": 0.1, "median": 0.5, "bad": 0.9}, abs=0.05)
    tables.picture(tmp_path / "made" / "rows.png", truth, predicted, obs)
    assert (tmp_path / "made" / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_finished_work_is_kept_and_damaged_files_are_made_anew(task, tmp_path, monkeypatch):
    method, calls = jobs.Method("mean_across_compounds", "baseline"), []
    monkeypatch.setattr(jobs, "in_own_process", lambda function, *args: calls.append(args) or function(*args))
    first = jobs.finished(method, task, tmp_path)
    again = jobs.finished(method, task, tmp_path)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.predicted, again.predicted)
    assert first.cost == again.cost and first.cost.fits == 1
    np.testing.assert_array_equal(first.predicted, method.predict(*task.problem(0)))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(jobs.finished(method, task, tmp_path).predicted, first.predicted)
    assert len(calls) == 2


def key(method, task):
    return content_hash(jobs.conditions(), jobs.identity(method, task))


def test_the_key_changes_with_whatever_changes_predictions(task, monkeypatch):
    recipe = RECIPES["quick"]
    other = recipe.model_copy(update={"n_folds": 4})
    split = compare.split_task("unseen compound", task, "compound")
    responses = jobs.PerturbationData(task.data.obs, task.data.Y + 1, task.data.genes)
    keys = [
        key(method, one)
        for method, one in [
            (jobs.Method("ridge", "baseline"), task),
            (jobs.Method("additive", "baseline"), task),
            (jobs.Method("ridge", "baseline"), split),
            (jobs.Method("ridge", "baseline"), jobs.Task("test rows", responses, pairs=task.pairs)),
            (jobs.Method("quick", "recipe", recipe), task),
            (jobs.Method("quick", "recipe", other), task),
            *((jobs.Method(name, "peer"), task) for name in peers.PEERS),
        ]
    ]
    assert len(set(keys)) == len(keys)
    same = jobs.Method("another name", "recipe", recipe)
    assert key(same, task) == key(jobs.Method("quick", "recipe", recipe), task)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert key(jobs.Method("ridge", "baseline"), task) != keys[0]


def test_methods_run_without_the_truth(task, tmp_path):
    hidden = jobs.Task(task.name, task.data, pairs=task.pairs, truth_file=tmp_path / "nowhere.parquet")
    assert jobs.finished(jobs.Method("zeros", "baseline"), hidden, tmp_path).predicted.shape == (255, N_GENES)


def test_the_truth_is_that_of_the_predicted_rows(task, demo):
    test = pd.read_parquet(demo / "de_test.parquet").set_index(["cell_type", "sm_name"])
    for row, (_, pair) in enumerate(task.obs.iloc[::50].iterrows()):
        expected = test.loc[(pair["cell_type"], pair["sm_name"]), list(task.data.genes)]
        np.testing.assert_array_equal(task.truth()[50 * row], expected.to_numpy(np.float32))
    split = compare.split_task("unseen cell type", task, "cell_type")
    train = pd.read_parquet(demo / "de_train.parquet").set_index(["cell_type", "sm_name"])
    expected = train.loc[list(zip(split.obs["cell_type"], split.obs["sm_name"], strict=True))]
    np.testing.assert_array_equal(split.truth(), expected[list(task.data.genes)].to_numpy(np.float32))
    for fit, one in enumerate(split.splits):
        training, pairs = split.problem(fit)
        assert not set(training.obs["cell_type"]) & set(pairs["cell_type"])
        assert len(training.obs) == len(one.training)


def test_peers_choose_by_folds_like_the_pairs(task):
    split_task = compare.split_task
    for split, unseen in (("compound", "sm_name"), ("cell_type", "cell_type"), ("random", None)):
        training, pairs = split_task(split, task, split).problem(0)
        known = peers.shared_levels(training.obs, pairs)
        assert set(known) == {"cell_type", "sm_name"} - {unseen}
        folds = peers.folds_like(training.obs, pairs)
        if unseen:
            parts = set(zip(training.obs[unseen], folds, strict=True))
            assert training.obs.groupby(unseen).ngroups == len(parts)


def test_the_svr_loop_is_scikit_learns(task):
    from sklearn.svm import SVR

    training, pairs = task.problem(0)
    found = peers.predicted("scikit-learn SVR loop", training, pairs)
    X, new = (np.hstack(part) for part in peers.blocks(training.obs, pairs, "raw"))
    for gene in (0, 5):
        expected = SVR(C=1.0, epsilon=0.1, gamma="scale").fit(X, training.Y[:, gene]).predict(new)
        np.testing.assert_allclose(found[:, gene], expected, atol=2e-3)


def test_a_rows_own_target_is_in_no_column_of_its_own(task):
    training, pairs = task.problem(0)
    Z, settings = training.Y[:, :3].copy(), peers.PEERS["XGBoost"].settings
    before = peers.tree_columns(training, pairs, Z, settings)[0]
    Z[7] += 1000
    after = peers.tree_columns(training, pairs, Z, settings)[0]
    np.testing.assert_array_equal(before[7], after[7])
    assert (before != after).any()


@pytest.fixture
def tiny(tmp_path):
    """A folder with a recipe of a few trees in a TOML file."""
    svr, booster = RECIPES["quick"].members
    booster = booster.model_copy(update={"n_estimators": 3, "max_depth": 2})
    recipe = RECIPES["quick"].model_copy(update={"name": "tiny", "members": (svr, booster)})
    (tmp_path / "tiny.toml").write_text(to_toml(recipe), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_whole_run(demo, tiny, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "in_own_process", lambda function, *arguments: function(*arguments))
    options = {"data": demo, "methods": "zeros;additive", "tasks": "test rows", "cache": tiny / "cache"}
    options |= {"recipes": tiny / "tiny.toml", "json": tiny / "found.json", "plot": tiny / "rows.png"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["compare.py", *words, "--no-demo"])
    compare.main()
    report = json.loads((tiny / "found.json").read_text())
    found = report["tasks"]["test rows"]
    assert set(found["methods"]) == {"zeros", "additive", "tiny"}
    assert (found["rows"], found["genes"], found["reference"]) == (255, N_GENES, "tiny")
    assert all(one["cost"]["peak_memory_gib"] > 0 for one in found["methods"].values())
    printed = capsys.readouterr().out
    assert "| **`tiny`** |" in printed and "`tiny`, rows in thirds:" in printed
    assert (tiny / "rows.png").exists()
