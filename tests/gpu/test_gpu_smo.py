"""The CUDA kernel of SMO gives the CPU solver's answers at full size. Stand-in: numba's simulator, at a small size."""

import os
import subprocess
import sys

import numpy as np
import pytest

from rapids_pipeline.backend.arrays import is_on_cuda, to_device, to_host
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.smo import SmoOptions, solve_factored
from rapids_pipeline.svr.target_features import TargetFeatures
from tests.factored_problems import assert_same, problem
from tests.gpu.requirements import need, on_gpu

pytest.importorskip("numba")

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
SIZES = {
    "simulator": {"n": 9, "tests": 2, "targets": 2, "levels": (4, 3), "threads": 4},
    "gpu": {"n": 614, "tests": 255, "targets": 1500, "levels": (146, 6), "threads": 128},
}


@pytest.fixture(params=["cpu", on_gpu])
def size(request):
    """The size of the problems, by where the kernel runs."""
    if request.param == "cuda":
        need("numba")
        return SIZES["gpu"]
    if not SIMULATED:
        pytest.skip("runs in the process that the first test starts")
    return SIZES["simulator"]


def solved(size, options, levels=None, statistics=(2, 1), **how):
    """Return the kernel's result and the CPU's."""
    from rapids_pipeline.svr.smo_cuda import solve_factored_cuda

    made = problem(size["targets"], levels or size["levels"], size["n"], size["tests"], statistics=statistics)
    kernel, rows, test_rows, Y = made
    cuda = solve_factored_cuda(kernel, rows, Y, options, test_rows=test_rows, threads=size["threads"], **how)
    return cuda, solve_factored(kernel, rows, Y, options, test_rows=test_rows)


@pytest.mark.skipif(SIMULATED, reason="is the simulator")
def test_everything_below_passes_in_the_simulator():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}  # numba reads it once, when first imported
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-m", "not gpu"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 passed" in run.stdout


@pytest.mark.parametrize("statistics", [(0, 0), (2, 1)], ids=["shared", "own target"])
def test_equals_the_cpu_solver(size, statistics):
    """Shared: the statistics have no columns, so all targets have one kernel."""
    for tol, within in ((1e-3, 2e-3), (1e-6, 1e-5)):
        cuda, cpu = solved(size, SmoOptions(tol=tol), statistics=statistics)
        assert_same(cuda, cpu, within)
        assert cuda.converged.all() and cuda.gap.max() <= tol


def test_tables_that_do_not_fit_in_shared_memory(size):
    if size is SIZES["gpu"]:
        cuda, cpu = solved({**size, "targets": 100}, SmoOptions(), levels=(400, 20))
    else:
        cuda, cpu = solved(size, SmoOptions(), shared_bytes=0)
    assert_same(cuda, cpu, 2e-3)


def test_boxes_tubes_and_weights(size):
    C = np.linspace(0.2, 5, size["targets"])
    weight = np.linspace(0, 2, size["n"])
    epsilon = np.linspace(0, 0.4, size["targets"])
    cuda, cpu = solved(size, SmoOptions(C=C, epsilon=epsilon, sample_weight=weight, tol=1e-5))
    assert_same(cuda, cpu, 5e-5)
    assert (np.abs(cuda.dual_coef) <= np.outer(C, weight)).all()


def test_unfinished_targets_are_counted(size):
    cuda, cpu = solved(size, SmoOptions(max_iter=2, tol=1e-6))
    np.testing.assert_array_equal(cuda.converged, cpu.converged)
    np.testing.assert_array_equal(cuda.n_iter, 2)
    assert cuda.gap.min() > 1e-6


@pytest.mark.gpu
def test_the_estimator_takes_it_for_cupy_arrays():
    need("numba", "cupy")
    rng = np.random.default_rng(0)
    levels = np.stack([rng.integers(0, 40, 300), rng.integers(0, 6, 300)], axis=1)
    Y = rng.standard_t(4, size=(300, 200))
    made = MultiTargetSVR(target_features=TargetFeatures(np.eye(40), np.eye(6)))
    here = made.fit(levels, Y).predict(levels)
    model = made.fit(to_device(levels, "cuda"), to_device(Y, "cuda"))
    there = model.predict(to_device(levels, "cuda"))
    assert is_on_cuda(there) and is_on_cuda(model.dual_coef_)
    np.testing.assert_allclose(to_host(there), here, atol=2e-3)
