"""SVRs with a kernel for each gene on CuPy are those on the host, alone and in a run. Stand-in: PyTorch on the CPU."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rapids_pipeline.backend.arrays import is_on_cuda, to_host
from rapids_pipeline.commands import app as cli
from rapids_pipeline.stack.members import svr as member
from rapids_pipeline.svr.own_target import douglas_rachford, estimator
from rapids_pipeline.svr.own_target.douglas_rachford import float32_suffices, predicted, solve
from tests.gpu.requirements import need, on_gpu
from tests.svr.own_targets import RECIPES, example

OWN = """
name = "own"
n_folds = 3
[[members]]
kind = "own_target_svr"
"""
WITHIN = {1e-3: 2e-3, 1e-6: 1e-5}
"""How far predictions of two solutions within a tolerance may be apart (docs/methods/svr.md, Accuracy)."""


def problem(n=150, t=40, m=30, seed=0):
    rng = np.random.default_rng(seed)
    X, S = rng.normal(size=(n + m, 8)), rng.normal(size=(t, 6, n + m)).astype(np.float32)
    D = ((X[:, None] - X[None, :n]) ** 2).sum(-1)
    Y = rng.standard_t(4, size=(n, t)) + S[:, 0, :n].T
    Y[:, ::8] *= 100  # too large for float32
    box = np.linspace(0.2, 1, n)[:, None] * np.linspace(0.5, 2, t)
    return D[:n], D[n:], S[:, :, :n], S[:, :, n:], rng.uniform(0.02, 0.2, t), Y, box


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_optima_and_predictions_are_those_on_the_host(moved, tol):
    D, to_others, S, others, gamma, Y, box = problem()
    found = []
    for place in (moved, np.array):
        inside = [place(x) for x in (D, S, gamma, Y, box)]
        suited = float32_suffices(*inside[1:], tol)
        assert suited.mean() == (0.875 if tol == 1e-3 else 0)
        solution = solve(*inside, suited, epsilon=0.1, tol=tol, max_iter=2000)
        values = predicted(place(to_others), place(others), inside[1], inside[2], solution, suited)
        assert is_on_cuda(values) == is_on_cuda(inside[0]) and to_host(solution.gap).max() <= tol
        assert to_host(solution.converged).all()
        found.append((to_host(values), to_host(solution.dual_coef)))
    (there, beta), (here, _) = found
    compared = (np.abs(beta) < 0.999 * box).any(axis=0)  # with none inside its box b is an interval
    assert compared.mean() > 0.7
    np.testing.assert_allclose(there[:, compared], here[:, compared], atol=WITHIN[tol])


def test_a_fit_and_its_predictions(moved, monkeypatch):
    rows, Y, others = example(targets=30)
    how = {"seed": 3, "sample_weight": np.linspace(0.5, 1, len(Y)), "tested": Y < 2}
    here = estimator.fit_predict(RECIPES["published"], rows, Y, others, engine="smo", **how)
    used = []
    for module in (estimator, douglas_rachford):
        monkeypatch.setattr(module, "to_device", lambda x, _: used.append(moved(x)) or used[-1])
    monkeypatch.setattr(estimator, "TARGETS_AT_ONCE", 7)  # statistics of five parts, all targets one stack
    there = estimator.fit_predict(RECIPES["published"], rows, Y, others, device="cuda", **how)
    assert len(used) > 5 and all(is_on_cuda(x) == is_on_cuda(moved(Y)) for x in used)
    np.testing.assert_allclose(there, here, atol=WITHIN[1e-3])
    model = estimator.OwnTargetSVR.fit(RECIPES["published"], rows, Y, **how)
    np.testing.assert_allclose(model.predict(others), there, atol=1e-4)


def run(files, folder, device, engine="auto"):
    recipe = folder.parent / "own.toml"
    recipe.write_text(OWN + f'engine = "{engine}"')
    words = ["run", "--train", files.train, "--test", files.test, "--out", folder, "--recipe", recipe]
    words += ["--molecules", "morgan", "--device", device]
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    chosen = json.loads((folder / "manifest.json").read_text())["chosen"]["engine of svr_per_target"]
    oof = pd.read_parquet(folder / "oof.parquet").select_dtypes("float")
    return oof.to_numpy(), pd.read_csv(folder / "submission.csv").iloc[:, 1:].to_numpy(), chosen


@pytest.mark.parametrize("place", ["numpy", "cpu", on_gpu])
def test_a_run_is_the_one_on_the_host(small_files, tmp_path, monkeypatch, place):
    if place == "cuda":
        need("cudf", "cupy")
    here = run(small_files, tmp_path / "here", "cpu")
    assert here[2] == "smo (auto: numpy arrays, and every target has a kernel of its own)"
    if place == "cpu":
        torch = pytest.importorskip("torch")
        for module in (estimator, douglas_rachford, member):
            monkeypatch.setattr(module, "to_device", lambda x, _: torch.asarray(x.copy()))
    if place == "numpy":
        there = run(small_files, tmp_path / "there", "cpu", "douglas-rachford")
        assert there[2] == "douglas-rachford (asked for)"
    else:
        there = run(small_files, tmp_path / "there", place)
        assert there[2] == "douglas-rachford (auto: the arrays are not numpy's)"
    for found, expected in zip(there[:2], here[:2], strict=True):
        np.testing.assert_allclose(found, expected, atol=3e-3)
