"""A small tuning task: demo data whose pairs are of scarce cell types, one of them of an unseen compound."""

from types import SimpleNamespace

import numpy as np
import pytest

from features.molecules.encoders import encode_molecules
from features.rows import Pairs, Rows
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig


@pytest.fixture(scope="session")
def member():
    known = KernelModelConfig(
        weights={"cell_type": 1.0, "compound": 0.0, "tanimoto": 0.5, "correlation * profile_linear": 4.0},
        n_components=6,
        transform_scale=1.7,
        penalty=1.23456789,
    )
    new = KernelModelConfig(
        weights={"tanimoto": 1.0, "rbf(molecules)": 0.3, "cell_type": 0.2},
        n_components=6,
        transform="none",
        noise_exponent=0.1,
    )
    return CompositeMember(known_compounds=known, new_compounds=new)


@pytest.fixture(scope="session")
def task_files(scarce_files):
    """Training file and pairs: 8 genes, 40 compounds; `new` are pairs whose compounds training does not have."""
    files = scarce_files(40, 12)
    other = files.others.drop_duplicates("sm_name")[["cell_type", "sm_name", "SMILES"]].head(20)
    files.new = other.assign(cell_type="B cells").reset_index(drop=True)
    return files


@pytest.fixture(scope="session")
def task(task_files, member):
    """The same in memory, rows in canonical order."""
    problem = open_problem(ProblemFiles(task_files.train, task_files.test))
    data, pairs, new = problem.data, problem.pairs, task_files.new
    train = Rows(data.obs, encode_molecules(["morgan"], list(data.obs["SMILES"])).training)
    rows = Pairs.of(train, ["morgan"])
    return SimpleNamespace(
        data=data, train=train, rows=rows, pairs=pairs, new=new, member=member, Y=np.array(data.Y)
    )
