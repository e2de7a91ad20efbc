"""environment.yml: every line is a spec that conda understands, and says what pyproject.toml says."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

rattler = pytest.importorskip("rattler", reason="py-rattler is not installed")

ROOT = Path(__file__).parents[2]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SPECS = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
FROM_PIP = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
ON_PYPI = {
    "cudf": "cudf-cu13",
    "cuml": "cuml-cu13",
    "cupy": "cupy-cuda13x",
    "matplotlib-base": "matplotlib",
    "pytorch-gpu": "torch",
}
ONLY_CONDA = {"python", "pip", "cuda-version"}
EXTRAS = ("chem", "nets", "chemberta", "h5ad", "cluster", "gpu-cu13")


def parsed(spec):
    return rattler.MatchSpec(spec, strict=True)


def declared(*extras):
    """Return name → version text of all requirements of the project with these extras."""
    wanted = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    found = [Requirement(entry) for entries in wanted for entry in entries]
    return {canonicalize_name(entry.name): str(entry.specifier) for entry in found}


def plain(version):
    """Return a conda version such as "26.10.*" as pip writes it, "==26.10.*"."""
    return version if version[0] in "<>=!" else f"=={version}"


@pytest.mark.parametrize("spec", SPECS)
def test_conda_understands_the_spec(spec):
    match = parsed(spec)
    assert match.name.normalized == spec.split()[0]
    assert (match.version is not None) == (" " in spec)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.split()[0] not in ONLY_CONDA])
def test_the_version_is_the_one_of_pyproject(spec):
    name, version = spec.split()
    wanted = declared(*EXTRAS, "dev")[canonicalize_name(ON_PYPI.get(name, name))]
    assert set(plain(version).split(",")) == set(wanted.split(",")), f"pyproject.toml says {wanted}"


def test_nothing_that_the_program_needs_is_left_out():
    here = {canonicalize_name(ON_PYPI.get(spec.split()[0], spec.split()[0])) for spec in SPECS}
    names = declared(*EXTRAS).keys() - {"rapids-perturb"}
    assert names <= here, sorted(names - here)


def test_python_is_what_the_lock_resolves_for():
    (spec,) = (parsed(spec) for spec in SPECS if spec.startswith("python "))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert str(spec.version) == f">={lowest},<3.15"
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    assert "python_full_version < '3.15'" in uv["environments"][0]


def test_py_boost_cannot_replace_the_treelite_of_cuml():
    pinned = [entry for entry in FROM_PIP if not entry.startswith("-")]
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    assert pinned == [*uv["override-dependencies"], "treelite_runtime==3.9.1", "py-boost==0.5.2"]
    assert FROM_PIP[-1] == "--editable ."
    assert ENVIRONMENT["channels"] == ["rapidsai", "conda-forge", "nvidia"]
