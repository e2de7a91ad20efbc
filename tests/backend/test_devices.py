"""Devices: taken at their word, chosen with a reason, refused with everything that is missing."""

import os

import pytest

from rapids_pipeline.backend import devices
from rapids_pipeline.backend.devices import resolve_device, why_no_cuda
from rapids_pipeline.backend.errors import (
    EXIT_BAD_INPUT,
    EXIT_UNAVAILABLE,
    InputError,
    UnavailableError,
    exits_cleanly,
)
from rapids_pipeline.backend.gpu import Problem


def pretend(monkeypatch, *problems):
    """Let a GPU run lack these things."""
    monkeypatch.setattr(devices, "gpu_problems", lambda: [Problem(what, "mend it") for what in problems])


def test_auto_without_cuda_says_why(monkeypatch):
    pretend(monkeypatch, "the driver is missing", "cupy is not installed")
    assert resolve_device("auto") == devices.Device("cpu", "auto: the driver is missing")
    assert why_no_cuda() == "the driver is missing"


def test_cuda_without_cuda_is_refused_with_a_line_a_problem(monkeypatch, capsys):
    pretend(monkeypatch, "the driver is missing", "cupy is not\ninstalled")
    with pytest.raises(UnavailableError) as caught:
        resolve_device("cuda")
    assert caught.value.exit_code == EXIT_UNAVAILABLE == 3
    with pytest.raises(SystemExit):
        exits_cleanly(lambda: resolve_device("cuda"))()
    assert capsys.readouterr().err.splitlines() == [
        "error: --device cuda: the driver is missing; mend it",
        "error: --device cuda: cupy is not installed; mend it",
    ]


def test_cuda_where_it_is_and_cpu_at_its_word(monkeypatch):
    pretend(monkeypatch)
    assert why_no_cuda() is None
    assert resolve_device("cpu") == devices.Device("cpu", "asked for")
    assert resolve_device("auto") == devices.Device("cuda", "auto: a GPU run can start")
    assert resolve_device("cuda") == devices.Device("cuda", "asked for")


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:0"])
def test_unknown_device(name):
    with pytest.raises(InputError, match=f"--device {name}: choose one of auto, cpu, cuda") as caught:
        resolve_device(name)
    assert caught.value.exit_code == EXIT_BAD_INPUT == 2


def test_a_container_with_a_quota_gets_no_more_threads_than_it(monkeypatch):
    monkeypatch.setattr("joblib.externals.loky.backend.context._cpu_count_cgroup", lambda count: 1)
    assert devices.processor_count() == 1
    monkeypatch.undo()
    assert 1 <= devices.processor_count() <= len(os.sched_getaffinity(0))
