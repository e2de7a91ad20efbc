"""doctor: a table and JSON on any machine, and exit code 3 where a GPU run was asked for and cannot start."""

import json
from dataclasses import asdict
from functools import partial

import pytest

from rapids_pipeline.backend import devices
from rapids_pipeline.backend.devices import PACKAGES, Driver, DriverMissingError, Found, Gpu, Problem
from rapids_pipeline.boosting.engines import ENGINES as BOOSTING
from rapids_pipeline.reports import doctor
from rapids_pipeline.svr.engines import ENGINES as SVR
from tests.command_line import error_line, invoke

MISSING = Problem(
    "the NVIDIA driver is missing (its library NVML is not found)", "install driver 580 or newer"
)


def on_a_machine(monkeypatch, driver=None, problems=(MISSING,), packages=()):
    def read():
        if driver is None:
            raise DriverMissingError(MISSING.what)
        return driver

    here = [Found(package, ()) for package in PACKAGES] if not packages else list(packages)
    monkeypatch.setattr(doctor, "read_driver", read)
    monkeypatch.setattr(doctor, "found_packages", lambda: here)
    for module in (doctor, devices):
        monkeypatch.setattr(module, "gpu_problems", lambda: list(problems))


run = partial(invoke, "doctor", env={"COLUMNS": "200"})


def test_without_a_gpu_it_says_what_is_missing_and_ends_well(monkeypatch):
    on_a_machine(monkeypatch)
    done = run()
    assert done.exit_code == 0
    assert "a GPU run cannot start:" in done.stdout
    assert f"  {MISSING}" in done.stdout
    for name in (*SVR, *BOOSTING):
        assert name in done.stdout


def test_asked_for_a_gpu_it_ends_with_exit_code_3(monkeypatch):
    on_a_machine(monkeypatch)
    assert error_line(run("--device", "cuda"), 3) == f"error: --device cuda: {MISSING}"
    assert run("--device", "gpu").exit_code == 2


def test_json_has_everything_that_the_table_shows(monkeypatch):
    on_a_machine(monkeypatch)
    document = json.loads(run("--json").stdout)
    assert document["gpu_run"] == {"possible": False, "problems": [asdict(MISSING)]}
    assert document["driver"] is None
    states = {part["name"]: part for part in document["parts"]}
    assert states["smo"]["available"]
    assert not states["cuml"]["available"]
    assert states["cuml"]["obstacle"] == MISSING.what
    assert {line["name"] for line in document["packages"]} >= {"cupy", "cudf", "cuml", "py-boost", "numpy"}
    assert document["machine"]["processors"] >= 1


def test_with_a_gpu_its_name_and_the_driver_are_shown(monkeypatch):
    good = Driver((13, 0), "580.65.06", (Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30),))
    packages = [Found(p, ((p.distributions[0], "26.10.2" if "cu" in p.name else "0.5.2"),)) for p in PACKAGES]
    on_a_machine(monkeypatch, good, (), packages)
    done = run()
    assert done.exit_code == 0
    assert "GPU: NVIDIA H100 80GB HBM3, compute capability 9.0, 80 GiB" in done.stdout
    assert "driver: 580.65.06, CUDA up to 13.0" in done.stdout
    assert "a GPU run can start" in done.stdout
    assert json.loads(run("--json").stdout)["gpu_run"] == {"possible": True, "problems": []}


@pytest.mark.parametrize(("version", "state"), [("25.08.00", "unsupported"), ("26.10.02", "ok")])
def test_an_unsupported_version_is_called_so(monkeypatch, version, state):
    cudf = next(package for package in PACKAGES if package.name == "cudf")
    on_a_machine(monkeypatch, packages=[Found(cudf, (("cudf-cu13", version),))])
    (line,) = (line for line in json.loads(run("--json").stdout)["packages"] if line["name"] == "cudf")
    assert (line["state"], line["found"], line["supported"]) == (state, f"{version} (cudf-cu13)", "==26.10.*")


def test_a_part_without_its_package_says_what_to_install(monkeypatch):
    on_a_machine(monkeypatch)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "anndata" else object())
    (part,) = (part for part in json.loads(run("--json").stdout)["parts"] if part["name"] == ".h5ad")
    assert part["obstacle"] == "anndata not installed: pip install '.[h5ad]'"
    assert part["obstacle"] in run().stdout  # brackets are no markup
