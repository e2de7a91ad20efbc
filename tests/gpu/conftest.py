"""The two places where a GPU test's body runs: with a stand-in on the CPU, in every test run, and on a GPU.

`pytest -m gpu` takes the second ones alone; they skip, with the reason, where a library or the device is missing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rapids_pipeline.backend.arrays import to_device
from tests.gpu.requirements import need, on_gpu
from tests.smiles_models import roberta_folder  # noqa: F401 (a fixture)


@pytest.fixture(params=["cpu", on_gpu])
def moved(request: pytest.FixtureRequest) -> Callable[[np.ndarray], Any]:
    """Copy a numpy array to where the test runs: to CuPy on a GPU, to PyTorch on a CPU."""
    if request.param == "cuda":
        need("cupy")
        return lambda x: to_device(x, "cuda")
    torch = pytest.importorskip("torch")
    return lambda x: torch.asarray(x.copy())
