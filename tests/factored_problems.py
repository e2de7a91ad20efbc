"""SVR problems with factored kernels, for the tests of the CUDA kernel in numba's simulator and on a GPU."""

import numpy as np

from rapids_pipeline.svr.smo import FactoredKernel, Grouping


def problem(targets, levels, n, tests, seed=0, statistics=(2, 1)):
    """Return a kernel, the levels of training and test rows, and targets; no statistics: all share one kernel."""
    rng = np.random.default_rng(seed)
    sides = []
    for count, width in zip(levels, statistics, strict=True):
        shared = rng.normal(size=(count, 2))
        squared = ((shared[:, None] - shared[None]) ** 2).sum(-1)
        sides.append(Grouping(squared, rng.normal(size=(targets, count, width))))
    gamma = np.linspace(0.1, 0.3, targets) if any(statistics) else np.full(targets, 0.2)
    kernel = FactoredKernel(*sides, gamma)
    rows, test_rows = (np.stack([rng.integers(0, g, size) for g in levels]) for size in (n, tests))
    return kernel, rows, test_rows, rng.standard_t(4, size=(n, targets)) + 3


def assert_same(cuda, cpu, within):
    np.testing.assert_allclose(cuda.predicted, cpu.predicted, atol=within)
    np.testing.assert_array_equal(cuda.converged, cpu.converged)
    np.testing.assert_allclose(cuda.dual_coef.sum(axis=1), 0, atol=1e-12)
