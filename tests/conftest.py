"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings

from rapids_pipeline.data.demo import simulate

REPOSITORY = Path(__file__).resolve().parents[1]

# By hand the examples are drawn anew each time and find what nobody thought of; what lands is judged by the same ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the commands they start, away from the user's cache of embeddings."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAPIDS_PERTURB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RAPIDS_PERTURB_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "lincs_lung" / "de_train.parquet").exists():
        pytest.skip(f"the shared data sets are not at {folder} (set RAPIDS_PERTURB_DATA)")
    return folder


@dataclass(frozen=True)
class SmallFiles:
    """A small training file, the pairs to predict and their truth, as written and as read."""

    train: Path
    test: Path
    truth: Path
    de_train: pd.DataFrame
    id_map: pd.DataFrame


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> SmallFiles:
    """The demo data cut down to 16 compounds and 8 genes; pairs shuffled, ids text, SMILES left out."""
    data = simulate(0, 8)
    names = set(list(dict.fromkeys(data.de_train["sm_name"]))[:16])
    de_train = data.de_train[data.de_train["sm_name"].isin(names)].reset_index(drop=True)
    de_test = data.de_test[data.de_test["sm_name"].isin(names)].sample(frac=1, random_state=0)
    de_test = de_test.assign(id=[f"row {number:03d}" for number in de_test["id"]])
    id_map = de_test[["id", "cell_type", "sm_name"]].reset_index(drop=True)
    folder = tmp_path_factory.mktemp("small")
    files = [folder / name for name in ("de_train.parquet", "id_map.csv", "de_test.parquet")]
    de_train.to_parquet(files[0])
    id_map.to_csv(files[1], index=False)
    de_test.sort_values("id").to_parquet(files[2])
    return SmallFiles(*files, de_train, id_map)


@pytest.fixture
def object_strings():
    """Make pandas hold strings as objects, also where it is version 3: anndata 0.12.6 writes no other ones."""
    with pd.option_context("future.infer_string", False):
        yield
