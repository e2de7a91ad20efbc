"""What a GPU run lacks (a stand-in NVML, stand-in package versions), and which device is chosen, with the reason."""

import os
import re
import sys
import tomllib
import types
from pathlib import Path

import pynvml
import pytest
from packaging.requirements import Requirement

from rapids_pipeline.backend import devices
from rapids_pipeline.backend.devices import (
    PACKAGES,
    Device,
    Driver,
    DriverMissingError,
    Found,
    Gpu,
    Problem,
    cuda_of,
    driver_problems,
    gpu_problems,
    package_problems,
    processor_count,
    read_driver,
    resolve_device,
    start_problems,
)
from rapids_pipeline.backend.errors import (
    EXIT_BAD_INPUT,
    EXIT_UNAVAILABLE,
    InputError,
    UnavailableError,
    exits_cleanly,
)

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 85 * 10**9)
GOOD = Driver((13, 0), "580.65.06", (H100,))


def stand_in(monkeypatch, cuda=13000, gpus=(H100,), **fails):
    """Let NVML answer as on a machine with these GPUs, whose UUIDs are GPU-0…, GPU-1…; some of its calls may fail."""

    def fail(status):
        raise pynvml.NVMLError(status)

    calls = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: cuda,
        "nvmlSystemGetDriverVersion": lambda: "580.65.06",
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlDeviceGetHandleByIndex": lambda place: place,
        "nvmlDeviceGetUUID": lambda place: f"GPU-{place}c0ffee",
        "nvmlDeviceGetHandleByUUID": lambda name: {"MIG-of-1": "part"}[name],
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda part: 1,
        "nvmlDeviceGetName": lambda place: gpus[place].name,
        "nvmlDeviceGetCudaComputeCapability": lambda place: gpus[place].compute_capability,
        "nvmlDeviceGetMemoryInfo": lambda place: types.SimpleNamespace(total=gpus[place].memory_bytes),
    } | {name: lambda status=status: fail(status) for name, status in fails.items()}
    for name, call in calls.items():
        monkeypatch.setattr(pynvml, name, call)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def installed(**versions):
    """Return what is found where these distributions are installed; _ stands for - in their names."""
    here = {name.replace("_", "-"): version for name, version in versions.items()}
    return [Found(p, tuple((d, here[d]) for d in p.distributions if d in here)) for p in PACKAGES]


CU13 = {"cupy_cuda13x": "14.2.0", "cudf_cu13": "26.10.02", "cuml_cu13": "26.10.00", "py_boost": "0.5.2"}
T4, V100 = Gpu("Tesla T4", (7, 5), 16 * 10**9), Gpu("V100", (7, 0), 1)


def test_the_driver_is_read(monkeypatch):
    stand_in(monkeypatch, 12080, (H100, T4))
    assert read_driver() == Driver((12, 8), "580.65.06", (H100, T4))
    stand_in(monkeypatch, gpus=())
    assert read_driver() == Driver((13, 0), "580.65.06", ())


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        *(("1", (T4,)), ("1, 0", (T4, H100)), ("", ()), ("-1", ()), ("0,7,1", (H100,))),
        *(("GPU-1c,GPU-0", (T4, H100)), ("GPU-", ()), ("MIG-of-1", (T4,))),
    ],
)
def test_a_program_sees_the_devices_that_cuda_shows_it(monkeypatch, names, seen):
    stand_in(monkeypatch, gpus=(H100, T4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert read_driver().gpus == seen


def test_a_missing_driver_and_one_that_does_not_start_are_told_apart(monkeypatch):
    missing = r"^the NVIDIA driver is missing \(its library NVML is not found\)$"
    for call, status, says in (
        ("nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, missing),
        ("nvmlInit", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, r"does not start \(NVML: Driver Not Loaded\)"),
        ("nvmlSystemGetDriverVersion", pynvml.NVML_ERROR_GPU_IS_LOST, "does not start"),
    ):
        stand_in(monkeypatch, **{call: status})
        with pytest.raises(DriverMissingError, match=says):
            read_driver()


def test_nothing_is_wrong_with_a_good_machine(monkeypatch):
    monkeypatch.setattr(devices, "start_problems", list)
    assert gpu_problems(lambda: GOOD, lambda: installed(**CU13)) == []


def test_what_cannot_start_is_looked_for_only_when_the_rest_is_right(monkeypatch):
    broken = Problem("cudf cannot be imported", "install it anew")
    monkeypatch.setattr(devices, "start_problems", lambda: [broken])
    assert gpu_problems(lambda: GOOD, lambda: installed(**CU13)) == [broken]
    problems = gpu_problems(lambda: GOOD, installed)
    assert [problem.what for problem in problems] == ["cupy is not installed", "cudf is not installed"]
    assert "gpu-cu13" in problems[0].remedy


def test_every_problem_of_a_machine_is_named_at_once():
    def absent():
        raise DriverMissingError("the NVIDIA driver is missing")

    problems = gpu_problems(absent, lambda: installed(cupy_cuda12x="13.6.0", cuml_cu12="25.08.00"))
    assert [str(problem) for problem in problems] == [
        "the NVIDIA driver is missing; install driver 535 or newer (in a container: docker run --gpus all)",
        "cupy-cuda12x 13.6.0 is not supported (supported: cupy>=14.1.1); "
        "pip install '.[gpu-cu12]' (docs/guide/install.md)",
        "cudf is not installed; pip install '.[gpu-cu12]' (docs/guide/install.md)",
        "cuml-cu12 25.08.00 is not supported (supported: cuml==26.10.*); "
        "pip install '.[gpu-cu12]' (docs/guide/install.md)",
    ]


@pytest.mark.parametrize(
    ("driver", "cuda", "what", "remedy"),
    [
        (((12, 8), "570.10", [H100]), 13, "570.10 runs CUDA up to 12.8, .* need 13.0", "580 or newer or the"),
        (((12, 0), "525.60", [H100]), 13, "525.60 runs CUDA up to 12.0", "install driver 580 or newer$"),
        (((12, 0), "", [H100]), 12, "^the NVIDIA driver runs CUDA up to 12.0, .* need 12.2", "535 or newer$"),
        (((13, 0), "580", []), 13, "the driver shows no CUDA device", "CUDA_VISIBLE_DEVICES"),
        (((13, 0), "580", [V100]), 13, "V100 has compute capability 7.0, .* 7.5", "CUDA 12"),
        (((13, 0), "580", [Gpu("P100", (6, 0), 1)]), 12, "P100 has compute .* 6.0, .* 7.0", "newer GPU$"),
    ],
)
def test_drivers_and_gpus_that_are_too_old(driver, cuda, what, remedy):
    cuda_of_driver, version, gpus = driver
    (problem,) = driver_problems(lambda: Driver(cuda_of_driver, version, tuple(gpus)), cuda)
    assert re.search(what, problem.what), problem.what
    assert re.search(remedy, problem.remedy), problem.remedy


def test_drivers_and_gpus_at_the_limit_are_right():
    assert driver_problems(lambda: Driver((13, 0), "580", (T4,)), 13) == []
    assert driver_problems(lambda: Driver((12, 2), "535", (V100,)), 12) == []


def test_packages_for_two_versions_of_cuda():
    (mixed,) = package_problems(installed(**CU13)[:1] + installed(cudf_cu12="26.10.2")[1:2])
    assert mixed.what == "the packages are for different versions of CUDA (cupy-cuda13x, cudf-cu12)"
    (double,) = package_problems(installed(**CU13, cupy_cuda12x="14.2.0"))
    assert double.what == "cupy-cuda13x and cupy-cuda12x are both installed and overwrite each other"
    assert double.remedy.startswith("pip uninstall cupy-cuda13x cupy-cuda12x, then pip install")


def test_conda_installs_them_under_their_own_names():
    assert package_problems(installed(cupy="14.2.0", cudf="26.10.00", cuml="26.10.00")) == []
    assert cuda_of(installed(cupy="14.2.0")) == 13


def test_another_py_boost_is_refused():
    (problem,) = package_problems(installed(**CU13 | {"py_boost": "0.4.1"}))
    assert problem.remedy == "pip install --no-deps py-boost==0.5.2"


def test_a_package_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    (problem,) = start_problems()
    assert problem.what.startswith("cupy cannot be imported (ModuleNotFoundError")


def test_a_first_kernel_has_to_run(monkeypatch):
    def pretend(arange):
        monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(arange=arange, int32=int))
        monkeypatch.setitem(sys.modules, "cudf", types.ModuleType("cudf"))

    def fails(*_, **__):
        raise RuntimeError("no kernel image\nmore")

    pretend(fails)
    assert start_problems()[0].what == "CuPy cannot run a first kernel (RuntimeError: no kernel image)"
    pretend(lambda n, dtype: types.SimpleNamespace(sum=lambda: 7))
    assert start_problems()[0].what == "CuPy says that 0+1+2+3 is 7"
    pretend(lambda n, dtype: types.SimpleNamespace(sum=lambda: 6))
    assert start_problems() == []


@pytest.mark.parametrize("extra", ["gpu-cu13", "gpu-cu12", "pyboost"])
def test_the_supported_versions_are_those_of_pyproject(extra):
    supported = {name: package.versions for package in PACKAGES for name in package.distributions}
    found = [Requirement(entry) for entry in PROJECT["optional-dependencies"][extra]]
    named = [entry for entry in found if entry.name in supported]
    assert len(named) == (1 if extra == "pyboost" else 3)
    for entry in named:
        assert entry.specifier == supported[entry.name]


def pretend(monkeypatch, *problems):
    """Let a GPU run lack these things."""
    monkeypatch.setattr(devices, "gpu_problems", lambda: [Problem(what, "mend it") for what in problems])


def test_auto_without_cuda_says_why(monkeypatch):
    pretend(monkeypatch, "the driver is missing", "cupy is not installed")
    assert resolve_device("auto") == Device("cpu", "auto: the driver is missing")


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
    assert resolve_device("cpu") == Device("cpu", "asked for")
    assert resolve_device("auto") == Device("cuda", "auto: a GPU run can start")
    assert resolve_device("cuda") == Device("cuda", "asked for")


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:0"])
def test_unknown_device(name):
    with pytest.raises(
        InputError, match=rf"--device {name}( \(did you mean '\w+'\?\))?: choose one of auto, cpu, cuda"
    ) as caught:
        resolve_device(name)
    assert caught.value.exit_code == EXIT_BAD_INPUT == 2


def test_a_container_with_a_quota_gets_no_more_threads_than_it(monkeypatch):
    monkeypatch.setattr("joblib.externals.loky.backend.context._cpu_count_cgroup", lambda count: 1)
    assert processor_count() == 1
    monkeypatch.undo()
    assert 1 <= processor_count() <= len(os.sched_getaffinity(0))


def test_the_hash_of_the_code_is_of_every_source_file(tmp_path, monkeypatch):
    for name in ("rapids_pipeline/backend/devices.py", "rapids_pipeline/a.py", "features/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(devices, "__file__", str(tmp_path / "rapids_pipeline" / "backend" / "devices.py"))
    code_hash = devices.code_hash.__wrapped__
    before = code_hash()
    (tmp_path / "features" / "notes.txt").write_text("no source file")
    assert code_hash() == before
    (tmp_path / "features" / "b.py").write_text("x = 2\n")
    changed = code_hash()
    (tmp_path / "features" / "b.py").rename(tmp_path / "features" / "c.py")
    assert len({before, changed, code_hash()}) == 3
