"""Arrays of several libraries: to the host, and by their namespace."""

import array_api_strict
import numpy as np
import pytest

from rapids_pipeline.backend.arrays import namespace, to_device, to_host


def test_host_arrays_are_not_copied():
    x = np.arange(6.0)
    assert to_host(x) is x
    assert to_device(x, "cpu") is x


def test_arrays_of_other_libraries_come_to_the_host():
    strict = array_api_strict.asarray(np.arange(6.0))
    np.testing.assert_array_equal(to_host(strict), np.arange(6.0))
    torch = pytest.importorskip("torch")
    with_gradient = torch.arange(6.0, requires_grad=True)
    host = to_host(with_gradient)
    assert type(host) is np.ndarray
    np.testing.assert_array_equal(host, np.arange(6.0))


def test_namespace_of_the_input():
    assert namespace(np.ones(2)).asarray([1]).__class__ is np.ndarray
    strict = array_api_strict.ones(2)
    assert namespace(strict) is array_api_strict
    with pytest.raises(TypeError):
        namespace(strict, np.ones(2))
