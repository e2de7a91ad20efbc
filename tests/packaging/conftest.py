"""Fixtures of the tests of job files: a folder of stand-in programs, and the demo's data."""

from pathlib import Path

import pytest

from rapids_pipeline.data.demo import write_demo
from tests.packaging.job_machine import Machine


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A folder with the demo's files, cut to 12 genes."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_genes=12)
    return folder
