"""uv.lock, the constraints made from it, and that every extra resolves; asks the package index (`make packaging`)."""

import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")
CONSTRAINTS = {
    "cpu": ("chem", "h5ad", "cluster", "cpu"),
    "gpu-cu12": ("chem", "h5ad", "cluster", "gpu-cu12"),
    "gpu-cu13": ("chem", "h5ad", "cluster", "chemberta", "gpu-cu13"),
}

pytestmark = [
    pytest.mark.index,
    pytest.mark.skipif(not UV.exists(), reason="uv is not installed beside this Python"),
]


def uv(*arguments):
    return subprocess.run([UV, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_lock_is_that_of_pyproject():
    done = uv("lock", "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_constraints_are_those_of_the_lock(name, tmp_path):
    extras = [word for extra in CONSTRAINTS[name] for word in ("--extra", extra)]
    layout = "--no-hashes --no-emit-project --no-annotate --no-header".split()
    done = uv("export", "--frozen", *layout, *extras, "--output-file", str(tmp_path / "now.txt"))
    assert done.returncode == 0, done.stderr
    path = ROOT / "docker" / "constraints" / f"{name}.txt"
    assert path.read_text() == (tmp_path / "now.txt").read_text(), f"make lock writes {path} anew"


def test_every_extra_resolves_on_every_python():
    """Each extra by itself, and the whole GPU sets with Py-Boost, as `uv pip install` would choose them today."""
    alone = [(extra,) for extra in PROJECT["optional-dependencies"]]
    whole = [("gpu-cu13", "pyboost", "chemberta", "h5ad", "cluster"), ("gpu-cu12", "pyboost", "chem", "h5ad")]
    cases = [(python, extras) for python in PYTHONS for extras in alone + whole]
    with ThreadPoolExecutor(8) as pool:
        faults = [fault for fault in pool.map(lambda case: compile_fault(*case), cases) if fault]
    assert not faults, "\n".join(faults)


def compile_fault(python, extras):
    """Return why a set of extras does not resolve on a Python, None where it does.

    What the index said a moment ago is asked for first; a question that this does not answer goes to the index.
    """
    chosen = [word for extra in extras for word in ("--extra", extra)]
    platform = ("--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
    for network in (["--offline"], []):
        done = uv("pip", "compile", "--quiet", "pyproject.toml", *platform, *chosen, *network)
        if done.returncode == 0:
            return None
    return f"Python {python}, {' '.join(extras)}:\n{done.stderr}"
