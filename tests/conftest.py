"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RAPIDS_PERTURB_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "lincs_lung" / "de_train.parquet").exists():
        pytest.skip(f"the shared data sets are not at {folder} (set RAPIDS_PERTURB_DATA)")
    return folder
