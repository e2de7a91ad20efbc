"""Every kind of long work on two workers: the numbers of threads, to the bit."""

from dataclasses import replace

import pandas as pd
import pytest

from rapids_pipeline.backend.devices import Device
from rapids_pipeline.backend.parallel import THREADS, executor_of
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.pipeline import run
from rapids_pipeline.predictions.predict import predict_file
from rapids_pipeline.stack.named_recipes import recipe
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies.cv import CvRequest, cross_validate
from rapids_pipeline.studies.screen.study import ScreenRequest, screen
from rapids_pipeline.studies.tune.study import TuneRequest, tune

pytest.importorskip("distributed")
CPU = Device("cpu", "asked for")


@pytest.fixture(scope="module")
def cluster():
    with executor_of("local:2") as executor:
        yield executor


@pytest.fixture(scope="module")
def files(small_files):
    return ProblemFiles(small_files.train, small_files.test)


@pytest.fixture(scope="module")
def problem(files):
    return open_problem(files)


def config_of(name):
    return RunConfig(recipe=recipe(name).updated(n_folds=3), molecules="morgan", molecules_because="", seed=0)


@pytest.fixture(scope="module")
def runs(files, cluster, tmp_path_factory):
    """A run by threads, and the same one on the cluster."""
    folder = tmp_path_factory.mktemp("runs")
    for name, executor in (("threads", THREADS), ("cluster", cluster)):
        run(files, folder / name, config_of("best"), CPU, executor=executor)
    return folder / "threads", folder / "cluster"


def test_a_run(runs):
    one, other = runs
    names = ["submission.csv", "oof.parquet", "scores.json", "model/state.json"]
    names += [f"model/{path.name}" for path in sorted((one / "model").glob("*.safetensors"))]
    assert len(names) > 6
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("out", ["predicted.csv", "parts"])
def test_a_prediction(runs, small_files, cluster, tmp_path, out):
    for name, executor in (("threads", THREADS), ("cluster", cluster)):
        (tmp_path / name).mkdir()
        predict_file(runs[0], small_files.test, tmp_path / name / out, block_rows=5, executor=executor)
    one, other = (sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("threads", "cluster"))
    made = [path for path in one if "manifest" not in path.name]  # which has the time
    assert [path.name for path in one] == [path.name for path in other] and made
    for path in made:
        twin = tmp_path / "cluster" / path.relative_to(tmp_path / "threads")
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_a_cross_validation(problem, cluster):
    request = CvRequest("random", 3)
    (one, predicted), (other, again) = (
        cross_validate(problem.data, problem.pairs, request, config_of("quick"), CPU, executor=executor)
        for executor in (THREADS, cluster)
    )
    pd.testing.assert_frame_equal(predicted, again, check_exact=True)
    assert one.methods == other.methods and one.by_split == other.by_split


@pytest.mark.parametrize("search", ["compare", "forward"])
def test_a_screen(problem, cluster, search):
    request = ScreenRequest("A1BG", ("cell_type", "onehot"), search, model="ridge", n_folds=3)
    one, other = (screen(problem.data, request, executor=executor) for executor in (THREADS, cluster))
    assert len(one.sets) > 1
    assert [replace(found, seconds=0) for found in one.sets] == [
        replace(found, seconds=0) for found in other.sets
    ]
    assert one.selection == other.selection


@pytest.mark.parametrize("name", ["best", "quick"])
def test_a_tuning(problem, cluster, tmp_path, name):
    """Of kernels, and of a booster that stacks on an SVR."""
    request = TuneRequest("random", trials=3)
    (one, recipe_one), (other, recipe_other) = (
        tune(problem.data, problem.pairs, request, config_of(name), CPU, tmp_path / folder, executor=executor)
        for folder, executor in (("threads", THREADS), ("cluster", cluster))
    )
    assert recipe_one.members == recipe_other.members
    assert len(one.models) == len(other.models) > 0
