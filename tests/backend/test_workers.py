"""Workers of this machine: those that are gone for good are replaced."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rapids_pipeline.backend import cluster, workers
from rapids_pipeline.backend.parallel import Shared, Unit, executor_of, in_order

pytest.importorskip("distributed")
sys.path.insert(0, str(Path(__file__).parent))
from cluster_units import product


def found(executor):
    units = [Unit(f"unit {k}", Shared(lambda: np.arange(3.0)), float(k)) for k in range(3)]
    return [kept.arrays["product"].tolist() for kept in in_order(executor.results(product, units))]


@pytest.mark.parametrize("counted", [True, False])
def test_workers_that_nobody_starts_again_are_replaced(monkeypatch, counted):
    """Before the first unit of a call, and while the units of one wait."""
    monkeypatch.setattr(cluster, "LOST", 1.0)
    monkeypatch.setattr(workers, "LOST", 1.0)
    with executor_of("local:1") as executor:
        before = found(executor)
        executor.started._cluster.scale(0)
        while executor.client.nthreads():
            time.sleep(0.1)
        if counted:
            assert executor.threads() == 0
        assert found(executor) == before == [[k * x for x in (0.0, 1.0, 2.0)] for k in range(3)]


def test_as_many_are_started_as_are_missing_and_not_before_they_are_gone_for_a_while(monkeypatch):
    asked, clock = [], iter([10.0, 39.0, 41.0, 42.0, 60.0, 95.0, 124.0, 126.0])
    monkeypatch.setattr(workers.time, "monotonic", lambda: next(clock))
    started = workers.Started(SimpleNamespace(worker_spec=[0, 1, 2], scale=asked.append), 3)
    for there in (1, 1, 1, 1, 3, 2, 2, 2):
        started.replace_lost(there)
    assert asked == [5, 4]


STARTS = """
import json
from rapids_pipeline.backend.workers import begin
if __name__ == "__main__":
    begin("local:2", ["sklearn.preprocessing"])
    import os
    os.environ["SET_LATER"] = "1"
    from rapids_pipeline.backend.parallel import executor_of
    with executor_of("local:2", modules=["sklearn.preprocessing", "not_installed"]) as executor:
        executor.client.wait_for_workers(2)
        parents = sorted(set(executor.client.run(os.getppid).values()) - {os.getpid()})
        threads = [len(os.listdir(f"/proc/{parent}/task")) for parent in parents]
        later = executor.client.run(os.environ.get, "SET_LATER")
        loaded = executor.client.run(lambda: "sklearn.preprocessing" in __import__("sys").modules)
        print(json.dumps([threads, sorted(later.values()), list(loaded.values())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_are_forked_from_one_process_without_threads_which_loads_nothing_from_the_working_folder(
    tmp_path,
):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "starts.py").write_text(STARTS)
    for name in ("distributed", "features"):
        (tmp_path / f"{name}.py").write_text("open('loaded', 'w')")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "starts.py")],
        **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 100},
    )
    assert json.loads(done.stdout) == [[1], ["1", "1"], [True, True]], done.stderr
    assert not (tmp_path / "loaded").exists()
