"""Arrays go to the device and come back unchanged, and array API code gives there what it gives on the host."""

import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from features.reduction import TruncatedSVD
from rapids_pipeline.backend.arrays import (
    available_bytes,
    is_on_cuda,
    namespace,
    share_pool,
    to_device,
    to_host,
)
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.svr.dual import GramTable, clipped, kernel_between, scale_gamma
from tests.gpu.requirements import need, on_gpu


def test_the_device_has_a_name_and_room(moved):
    x = moved(np.zeros((3, 2), np.float32))
    assert available_bytes(x) > 1 << 20
    assert is_on_cuda(x) == (namespace(x).__name__.split(".")[-1] == "cupy")


@pytest.mark.parametrize("device", ["cpu", on_gpu])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool"])
def test_there_and_back(device, dtype):
    if device == "cuda":
        need("cupy")
    x = np.arange(24).reshape(4, 6).astype(dtype)
    for part in (x, x[::2, 1:4], x.T, x[:0], x[1, 2], np.asfortranarray(x)):
        there = to_device(part, device)
        assert is_on_cuda(there) == (device == "cuda")
        back = to_host(there)
        assert isinstance(back, np.ndarray | np.generic) and back.dtype == part.dtype
        np.testing.assert_array_equal(back, part)


def test_cuda_means_cupy(monkeypatch):
    stand_in, x = types.ModuleType("cupy"), np.arange(3)
    stand_in.asarray = lambda x: ("on the device", x)
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr("rapids_pipeline.backend.arrays.share_pool", lambda: False)
    assert to_device(x, "cuda") == ("on the device", x)
    assert to_device(x, "cpu") is x


class Cuda:
    """RMM's usual resource, and the others, by name."""


class Async(Cuda):
    pass


class Pool:
    pass


@pytest.fixture
def rmm(monkeypatch):
    """A stand-in for RMM."""
    package, mr = types.ModuleType("rmm"), types.ModuleType("rmm.mr")
    package.__spec__, package.mr = ModuleSpec("rmm", None), mr
    mr.CudaMemoryResource, mr.CudaAsyncMemoryResource, mr.current = Cuda, Async, Cuda()
    mr.get_current_device_resource = lambda: mr.current
    mr.set_current_device_resource = lambda chosen: setattr(mr, "current", chosen)
    monkeypatch.setitem(sys.modules, "rmm", package)
    monkeypatch.setitem(sys.modules, "rmm.mr", mr)
    share_pool.cache_clear()
    yield mr
    share_pool.cache_clear()


def test_memory_comes_from_a_pool(rmm):
    assert share_pool() and type(rmm.current) is Async


def test_another_pool_is_left_alone(rmm):
    rmm.current = chosen = Pool()
    assert not share_pool() and rmm.current is chosen


def test_a_driver_without_a_pool_and_a_machine_without_rmm(rmm, monkeypatch):
    def none():
        raise RuntimeError("cudaErrorNotSupported")

    rmm.CudaAsyncMemoryResource = none
    assert not share_pool() and type(rmm.current) is Cuda
    share_pool.cache_clear()
    monkeypatch.setattr("rapids_pipeline.backend.arrays.find_spec", lambda name: None)
    assert not share_pool()


def test_rmm_has_what_is_used_of_it():
    """Also without a GPU: its names."""
    mr = pytest.importorskip("rmm.mr", exc_type=ImportError)
    assert isinstance(mr.CudaMemoryResource, type) and callable(mr.CudaAsyncMemoryResource)
    assert callable(mr.get_current_device_resource) and callable(mr.set_current_device_resource)


@pytest.mark.gpu
def test_beside_cudf_memory_comes_from_the_pool():
    need("cudf", "cupy", "rmm")
    from rmm import mr

    x = to_device(np.zeros(1000), "cuda")
    assert type(mr.get_current_device_resource()) is mr.CudaAsyncMemoryResource
    assert float((x + 1).sum()) == 1000


def test_numbers_that_leave_the_device_are_copies(moved):
    x = moved(np.arange(4.0))
    kept = to_host(x).copy()
    x += 1
    np.testing.assert_array_equal(to_host(x), kept + 1)


def test_clipped(moved):
    x, low = np.linspace(-3, 3, 30).reshape(5, 6), np.full((1, 6), -0.5)
    found = to_host(clipped(*(moved(a) for a in (x, low, -low))))
    np.testing.assert_array_equal(found, np.clip(x, -0.5, 0.5))


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_gram_matrices(moved, kernel):
    X = np.random.default_rng(0).normal(size=(60, 9))
    there, rows = moved(X), np.arange(0, 60, 2)
    assert scale_gamma(there) == pytest.approx(scale_gamma(X), rel=1e-12)
    found = GramTable(there, kernel).gram(rows, np.arange(20), 0.1)
    np.testing.assert_allclose(
        to_host(found), GramTable(X, kernel).gram(rows, np.arange(20), 0.1), atol=1e-12
    )
    expected = kernel_between(X[:7], X, kernel, 0.3)
    np.testing.assert_allclose(to_host(kernel_between(there[:7], there, kernel, 0.3)), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
@pytest.mark.parametrize("solver", ["exact", "randomized"])
def test_truncated_svd(moved, shape, solver):
    A = np.random.default_rng(0).normal(size=shape) @ np.diag(0.8 ** np.arange(shape[1]))
    here, there = (TruncatedSVD(5, solver).fit(x) for x in (A, moved(A)))
    np.testing.assert_allclose(to_host(there.singular_values_), here.singular_values_, rtol=1e-8)
    np.testing.assert_allclose(to_host(there.components_), here.components_, atol=1e-5)
    np.testing.assert_allclose(to_host(there.transform(moved(A))), here.transform(A), atol=1e-5)
    assert there.explained_share_ == pytest.approx(here.explained_share_, rel=1e-9)


def test_metrics(moved):
    truth, prediction = np.random.default_rng(0).normal(size=(2, 30, 50))
    there = mean_rowwise_rmse(moved(truth), moved(prediction))
    assert float(there) == pytest.approx(float(mean_rowwise_rmse(truth, prediction)), rel=1e-12)
