"""What a release is made from: one version everywhere, files that GitHub and conda-forge understand, a whole sdist."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rapids_pipeline.backend.devices import VERSION
from tests.packaging.job_machine import linted
from tests.packaging.test_environment_yml import ON_PYPI, parsed

rattler_build = pytest.importorskip("rattler_build", reason="py-rattler-build is not installed")

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOWS = ROOT / ".github" / "workflows"


def schema_faults(schema: str, *paths: Path) -> str:
    """Return what check-jsonschema finds wrong with files, by a schema that it carries; "" where nothing is."""
    done = linted("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths))
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def recipe():
    """Return the recipe for conda-forge as rattler-build renders it."""
    (variant,) = rattler_build.Stage0Recipe.from_file(
        ROOT / "docker" / "conda-forge" / "recipe.yaml"
    ).render()
    return variant.recipe


def specs_of(entries) -> dict[str, str]:
    """Return name on PyPI → version of conda specs; every one is understood by conda."""
    found = {parsed(str(entry)).name.normalized: str(entry).partition(" ")[2] for entry in entries}
    return {canonicalize_name(ON_PYPI.get(name, name)): version for name, version in found.items()}


def requirements(*extras: str) -> dict[str, str]:
    """Return name → version of what the project requires, or of some extras."""
    lists = [PROJECT["optional-dependencies"][extra] for extra in extras] or [PROJECT["dependencies"]]
    found = [Requirement(entry) for entries in lists for entry in entries]
    return {canonicalize_name(entry.name): str(entry.specifier) for entry in found}


def test_one_version_everywhere(recipe):
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    versions = {
        "pyproject.toml": PROJECT["version"],
        "devices.py": VERSION,
        "CITATION.cff": CITATION["version"],
        "recipe.yaml": str(recipe.package.version),
        "CHANGELOG.md": re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1],
        "uv.lock": next(one["version"] for one in locked if one["name"] == PROJECT["name"]),
    }
    assert set(versions.values()) == {PROJECT["version"]}, versions


def test_the_citation_is_valid_and_that_of_the_project(tmp_path):
    copy = tmp_path / "citation.yaml"  # check-jsonschema knows formats by suffix
    copy.write_text((ROOT / "CITATION.cff").read_text())
    assert schema_faults("citation-file-format", copy) == ""
    assert (CITATION["title"], CITATION["license"]) == (PROJECT["name"], PROJECT["license"])
    assert CITATION["abstract"] == PROJECT["description"]
    assert CITATION["keywords"] == PROJECT["keywords"]


def test_github_understands_issue_forms_and_workflows():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert schema_faults("github-issue-forms", *forms) == ""
    assert schema_faults("github-workflows", *sorted(WORKFLOWS.glob("*.yml"))) == ""


def test_only_the_publishing_job_may_ask_for_a_token():
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    publish = release["jobs"]["publish"]
    assert release["permissions"] == {"contents": "read"}
    assert publish["permissions"] == {"id-token": "write"}
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    text = "".join(path.read_text() for path in WORKFLOWS.glob("*.yml"))
    assert "secrets." not in text
    assert "run: .ci/run" in text


@pytest.mark.parametrize(("tag", "expected"), [(f"v{VERSION}", 0), ("v0.0.1", 1)])
def test_a_tag_must_be_the_version(tag, expected):
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    (command,) = [
        step["run"] for step in release["jobs"]["build"]["steps"] if "GITHUB_REF_NAME" in step.get("run", "")
    ]
    python = str(Path(sys.executable).parent)
    environment = {"GITHUB_REF_NAME": tag, "PATH": f"{python}:/usr/bin:/bin"}
    assert (
        subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, check=False).returncode == expected
    )


def test_the_recipe_requires_what_the_project_requires(recipe):
    run = specs_of(recipe.requirements.run)
    assert run.pop("python") == PROJECT["requires-python"]
    assert run == requirements() | requirements("chem")
    (build,) = PYPROJECT["build-system"]["requires"]
    host = specs_of(recipe.requirements.host)
    assert host["hatchling"] == str(Requirement(build).specifier)


def test_the_recipe_bounds_other_extras_as_the_project_does(recipe):
    written = yaml.safe_load((ROOT / "docker" / "conda-forge" / "recipe.yaml").read_text())
    bounds = specs_of(written["requirements"]["run_constraints"])
    wanted = requirements("h5ad", "cluster", "nets", "chemberta", "cpu")
    assert bounds == {name: wanted[{"pytorch": "torch"}.get(name, name)] for name in bounds}
    assert {{"pytorch": "torch"}.get(name, name) for name in bounds} == wanted.keys() - {
        PROJECT["name"],
        "xgboost-cpu",  # on conda-forge, xgboost has a build without CUDA
    }


def test_the_recipe_has_the_command_of_the_project(recipe):
    text = json.dumps(recipe.build.to_dict())
    ((name, place),) = PROJECT["scripts"].items()
    assert name in text
    assert place.partition(":")[0] in text
