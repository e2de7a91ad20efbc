"""Units on a Dask cluster: the bytes of threads, whatever happens to workers; what cannot be done ends in a line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rapids_pipeline.backend import cluster as module
from rapids_pipeline.backend import workers
from rapids_pipeline.backend.cluster import Cluster
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.parallel import THREADS, Shared, Unit, executor_of, in_order
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.store import Store
from rapids_pipeline.stack.fit import fit_stack
from tests.stack_example import BOOSTER, COMPOSITE, NET, SVR, example, folded, recipe

pytest.importorskip("distributed")
sys.path.insert(0, str(Path(__file__).parent))
from cluster_units import (
    add,
    bad_input,
    environment,
    hangs_once,
    kills,
    kills_the_first,
    kills_the_scheduler,
    no_memory,
    product,
)


@pytest.fixture(scope="module")
def cluster():
    with executor_of("local:2") as executor:
        yield executor


def units_of(n, make=lambda: np.arange(3.0)):
    shared = Shared(make)
    return [Unit(f"unit {k + 1}/{n}", shared, float(k), (k,)) for k in range(n)]


def products(executor, n, function=product, **how):
    return [
        kept.arrays["product"].tolist() for kept in in_order(executor.results(function, units_of(n), **how))
    ]


def test_a_stack_has_the_bytes_of_threads(cluster):
    train, test, Y = example()
    which = recipe(SVR, COMPOSITE, BOOSTER, NET)
    one, other = (
        fit_stack(train, test, Y, folded(Y), which, 0, "cpu", executor=executor)
        for executor in (THREADS, cluster)
    )
    assert one.test.tobytes() == other.test.tobytes() and one.oof.tobytes() == other.oof.tobytes()


def test_progress_counts_units_and_workers(cluster):
    class Told(Progress):
        def __init__(self):
            self.steps, self.by = 0, []

        def advance(self, steps=1):
            self.steps += steps

        def made_by(self, workers):
            self.by.append(workers)

    told = Told()
    products(cluster, 3, progress=told)
    assert told.steps == 3 and told.by[-1] == "2 workers" and set(told.by) <= {"", "2 workers"}


def test_what_is_kept_is_sent_once_and_the_rest_with_every_call(cluster):
    for keep, times in ((True, 1), (False, 2)):
        made = []

        def make(made=made):
            made.append(1)
            return np.arange(3.0)

        shared = Shared(make, keep=keep)
        for _ in range(2):
            units = [Unit(f"unit {k}", shared, float(k)) for k in range(4)]
            assert len(list(cluster.results(product, units))) == 4
        assert len(made) == times


def test_a_variant_is_sent_as_its_difference_from_what_the_worker_has(cluster):
    made = []
    whole = Shared(lambda: made.append("whole") or np.arange(3.0))
    variants = [Shared(lambda k=k: made.append(k) or float(k), of=whole, vary=add) for k in range(3)]
    units = [Unit(f"unit {k}", variants[k % 3], 2.0) for k in range(9)]
    found = [kept.arrays["product"].tolist() for kept in in_order(cluster.results(product, units))]
    assert found == [[2.0 * (k % 3 + x) for x in range(3)] for k in range(9)]
    assert sorted(map(str, made)) == ["0", "1", "2", "whole"], "each is sent once"
    assert not cluster._sent, "and nothing stays"


@pytest.mark.parametrize("n", [1, 3])
def test_so_many_workers_start_with_their_share_of_the_processors(n, monkeypatch):
    monkeypatch.setattr(workers, "processor_count", lambda: 6)
    with executor_of(f"local:{n}", modules=["json.tool"]) as executor:
        list(executor.results(product, units_of(1)))
        executor.client.wait_for_workers(n, timeout=60)
        found = executor.client.run(environment).values()
        assert len(found) == n == executor.threads()
        assert set(found) == {(str(6 // n), str(6 // n), True)}


def test_workers_keep_what_they_will_need_again(cluster):
    shared = Shared(lambda: np.arange(3.0), keep=True)
    units = [Unit(f"unit {k}", shared, float(k)) for k in range(8)]
    list(cluster.results(product, units))
    sent = cluster._sent[shared]
    time.sleep(5)  # in which the scheduler's memory manager would look twice
    assert len(cluster.client.who_has(sent)[sent.key]) == 2


def test_a_worker_that_dies_costs_its_unit_only(cluster, tmp_path):
    mark = str(tmp_path / "died")
    shared = Shared(lambda: mark)
    units = [Unit(f"unit {k}", shared, float(k)) for k in range(6)]
    found = [kept.arrays["product"][0] for kept in in_order(cluster.results(kills_the_first, units))]
    assert found == [0, 1, 2, 3, 4, 5] and (tmp_path / "died").exists()


@pytest.mark.parametrize("n", [3, 8])
def test_only_the_unit_that_kills_its_workers_is_named_and_all_others_are_kept(cluster, tmp_path, n):
    """Dask blames whatever a dead worker had; those beside the culprit are made all the same."""
    store = Store(tmp_path, "study")
    message = rf"^--cluster local:2: unit 2/{n}: 4 workers died over it, .*; finished fits are kept$"
    with pytest.raises(UnavailableError, match=message) as refused:
        products(cluster, n, kills, store=store)
    assert len(str(refused.value)) < 500
    assert [store.get(float_key) is not None for float_key in range(n)] == [k != 1 for k in range(n)]
    assert products(cluster, n, store=store) == [[0, k, 2 * k] for k in range(n)]


def test_bad_input_is_not_tried_again_and_what_fails_on_a_worker_is_tried_four_times(cluster, tmp_path):
    with pytest.raises(InputError, match=r"^row 0: cannot be used$"):
        products(cluster, 1, bad_input)
    tries, log = str(tmp_path / "tries"), tmp_path / "fits.log"
    executor = Cluster(cluster.client, "local:2", log)
    message = r"unit 1/1: it failed 4 times, the last time with MemoryError: no room for an array \(its log: .*log\)"
    with pytest.raises(UnavailableError, match=message):
        list(executor.results(no_memory, units_of(1, lambda: tries)))
    assert (tmp_path / "tries").read_text() == "tried\n" * 4
    assert "MemoryError" in log.read_text()


def test_a_unit_that_hangs_is_made_elsewhere(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMES_SIBLINGS", 1.0)
    log = tmp_path / "fits.log"
    executor = Cluster(cluster.client, "local:2", log, least_hang=3.0)
    mark = str(tmp_path / "hung")
    shared = Shared(lambda: mark)
    units = [Unit(f"unit {k}", shared, float(k)) for k in range(5)]
    found = [kept.arrays["product"][0] for kept in in_order(executor.results(hangs_once, units))]
    assert found == [0, 1, 2, 3, 4]
    assert "unit 3  hangs on tcp://" in log.read_text()


def test_a_worker_of_another_version_is_named(cluster, monkeypatch):
    monkeypatch.setattr(cluster, "_versions", cluster._versions | {"numpy": "0.1"})
    message = r"--cluster local:2: worker tcp://\S+ has numpy \S+, this process 0.1; results could differ"
    with pytest.raises(InputError, match=message):
        cluster.require_workers()
    with pytest.raises(InputError, match="has numpy"):
        products(cluster, 1)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nonsense", InputError, "give local:N, cuda, tcp://HOST:PORT or a scheduler's .json file"),
        ("local:0", InputError, "give a number of workers from 1 to 1024, such as local:4"),
        ("local:many", InputError, "give a number of workers from 1 to 1024, such as local:4"),
        ("gone.json", InputError, "there is no such file; a scheduler writes it when it starts"),
        ("cuda", UnavailableError, "needs dask-cuda, which comes with RAPIDS"),
        ("tcp://127.0.0.1:1", UnavailableError, "no scheduler answers"),
    ],
)
def test_a_cluster_that_is_not_to_be_had_is_refused(monkeypatch, name, error, message):
    monkeypatch.setattr(module, "SCHEDULER", 1.0)
    with pytest.raises(error, match=f"^--cluster {name}: ") as refused, executor_of(name):
        pytest.fail("there was a cluster")
    assert message in str(refused.value)


def test_a_scheduler_that_is_lost_is_a_line_and_finished_units_are_kept(tmp_path):
    file, dask = tmp_path / "scheduler.json", Path(sys.executable).with_name("dask")
    words = ["--scheduler-file", str(file), "--no-dashboard"]
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2])]  # of the units, and of this program
    here = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": here}
    started = [subprocess.Popen([dask, "scheduler", *words, "--port", "0"], **quiet)]
    try:
        until = time.monotonic() + 60
        while not (file.exists() and file.read_text()) and time.monotonic() < until:
            time.sleep(0.1)
        started.append(subprocess.Popen([dask, "worker", *words, "--nthreads", "1", "--no-nanny"], **quiet))
        store, shared = Store(tmp_path, "study"), Shared(lambda: started[0].pid)
        units = [Unit(f"unit {k}", shared, float(k), (k,)) for k in range(9)]
        with (
            executor_of(str(file)) as executor,
            pytest.raises(
                UnavailableError, match=r"the scheduler is gone; finished fits are kept .* goes on"
            ),
        ):
            list(executor.results(kills_the_scheduler, units, store=store))
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [store.get(k) is not None for k in range(3)] == [True] * 3 and store.get(8) is None


def test_a_script_whose_workers_import_what_starts_them_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom rapids_pipeline.backend.parallel import executor_of\n"
        "with executor_of('local:1'):\n    time.sleep(3)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (
        "--cluster local:1: a script that starts workers is imported by them; put what it does under"
        in done.stderr
    )
