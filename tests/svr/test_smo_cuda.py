"""The CUDA kernel of SMO against the CPU solver, in numba's simulator; on a GPU: tests/gpu/test_gpu_smo.py."""

import os
import subprocess
import sys

import numpy as np
import pytest

from rapids_pipeline.svr.smo import SmoOptions, solve_factored
from tests.factored_problems import assert_same, problem

pytest.importorskip("numba")

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
simulated = pytest.mark.skipif(not SIMULATED, reason="runs in the process that the first test starts")


@pytest.mark.skipif(SIMULATED, reason="is the simulator")
def test_everything_below_passes_in_the_simulator():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}  # numba reads it once, when first imported
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-m", "not gpu"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


@simulated
@pytest.mark.parametrize("shared_bytes", [45 * 1024, 0])
def test_equals_the_cpu_solver(shared_bytes):
    from rapids_pipeline.svr.smo_cuda import solve_factored_cuda

    kernel, rows, test_rows, Y = problem(2, (5, 3), 11, 4)
    options = SmoOptions(C=[0.5, 5.0], epsilon=[0.1, 0.0], sample_weight=np.linspace(0.5, 2, 11), tol=1e-6)
    cuda = solve_factored_cuda(
        kernel, rows, Y, options, test_rows=test_rows, threads=4, shared_bytes=shared_bytes
    )
    cpu = solve_factored(kernel, rows, Y, options, test_rows=test_rows)
    assert_same(cuda, cpu, 2e-6)
    assert (np.abs(cuda.dual_coef) <= np.outer([0.5, 5.0], np.linspace(0.5, 2, 11))).all()
    assert (cuda.gap <= 1e-6).all()


@simulated
def test_constant_targets_repeated_rows_and_unfinished_targets():
    from rapids_pipeline.svr.smo_cuda import solve_factored_cuda

    kernel, rows, _, Y = problem(2, (4, 2), 8, 0)
    rows[:, 4:] = rows[:, :4]
    Y[:, 1] = 2.5
    options = SmoOptions(max_iter=2, tol=1e-6)
    cuda, cpu = (
        solve_factored_cuda(kernel, rows, Y, options, threads=2),
        solve_factored(kernel, rows, Y, options),
    )
    assert_same(cuda, cpu, 0)
    np.testing.assert_array_equal(cuda.converged, [False, True])
    np.testing.assert_array_equal(cuda.n_iter, [2, 0])
    np.testing.assert_allclose(cuda.gap, cpu.gap, rtol=1e-6)
    np.testing.assert_allclose(cuda.intercept[1], 2.5, rtol=1e-12)
    assert cuda.predicted.shape == (2, 0)
