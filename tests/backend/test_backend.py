"""Devices, files, arrays and stages: what everything else stands on."""

import hashlib
import os

import array_api_strict
import numpy as np
import pytest

from rapids_pipeline.backend import devices
from rapids_pipeline.backend.arrays import namespace, to_device, to_host
from rapids_pipeline.backend.devices import resolve_device, why_no_cuda
from rapids_pipeline.backend.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_UNAVAILABLE,
    InputError,
    UnavailableError,
    exits_cleanly,
)
from rapids_pipeline.backend.files import sha256_of, written_atomically
from rapids_pipeline.backend.gpu import Problem
from rapids_pipeline.backend.progress import Progress, Stages


def pretend(monkeypatch, *problems):
    """Let a GPU run lack these things."""
    monkeypatch.setattr(devices, "gpu_problems", lambda: [Problem(what, "mend it") for what in problems])


def test_cpu_is_taken_at_its_word(monkeypatch):
    pretend(monkeypatch)
    assert (resolve_device("cpu").name, resolve_device("cpu").reason) == ("cpu", "asked for")


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


def test_cuda_where_it_is(monkeypatch):
    pretend(monkeypatch)
    assert why_no_cuda() is None
    assert resolve_device("auto") == devices.Device("cuda", "auto: a GPU run can start")
    assert resolve_device("cuda") == devices.Device("cuda", "asked for")


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:0"])
def test_unknown_device(name):
    with pytest.raises(InputError, match=f"--device {name}: choose one of auto, cpu, cuda") as caught:
        resolve_device(name)
    assert caught.value.exit_code == EXIT_BAD_INPUT == 2


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    with written_atomically(path) as temporary:
        assert temporary.suffix == ".csv"
        assert temporary.parent == path.parent
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError("full disk"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(type(error)), written_atomically(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with written_atomically(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


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


def test_stages_are_timed_in_order_and_a_failed_one_is_not():
    finished = []

    class Recording(Stages):
        def finished(self, name):
            finished.append(name)

    stages = Recording()
    with stages.stage("one") as progress:
        assert isinstance(progress, Progress)
        progress.start(2)
        progress.advance()
    with pytest.raises(ValueError), stages.stage("two"):
        raise ValueError
    assert list(stages.seconds) == finished == ["one"]
    assert stages.seconds["one"] >= 0


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("bad row 3"), 2, "error: bad row 3\n"),
        (UnavailableError("no GPU"), 3, "error: no GPU\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted\n"),
    ],
)
def test_commands_end_with_one_line_and_their_code(capsys, error, code, message):
    @exits_cleanly
    def command():
        raise error

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == code
    assert capsys.readouterr().err == message


def test_other_errors_keep_their_traceback():
    @exits_cleanly
    def command(value):
        return 1 / value

    assert command(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        command(0)


def test_a_container_with_a_quota_gets_no_more_threads_than_it(monkeypatch):
    monkeypatch.setattr("joblib.externals.loky.backend.context._cpu_count_cgroup", lambda count: 1)
    assert devices.processor_count() == 1
    monkeypatch.undo()
    assert 1 <= devices.processor_count() <= len(os.sched_getaffinity(0))
