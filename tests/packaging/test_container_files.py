"""docker/: linters are content, what is copied is let in, names and versions agree with the rest of the project."""

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer
import yaml

from rapids_pipeline.commands.app import app
from tests.packaging.job_machine import linted

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def instructions(name):
    """Return the arguments of all instructions of a name, continuation lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_hadolint_has_nothing_to_say():
    done = linted("hadolint", "docker/Dockerfile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", ["docker/install.sh", ".ci/run"])
def test_shellcheck_has_nothing_to_say(path):
    done = linted("shellcheck", path)
    assert done.returncode == 0, done.stdout


def test_the_image_installs_by_hash():
    """Its tools from a file of hashes; of uv the version of uv.lock; nothing else comes from an index by name."""
    tools = (ROOT / "docker" / "constraints" / "tools.txt").read_text().replace("\\\n", "").splitlines()
    assert all(re.match(r"[a-z-]+==[\d.]+ ;", line) and "--hash=sha256:" in line for line in tools)
    names = dict(line.split(" ;")[0].split("==") for line in tools)
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert names["uv"] in {one["version"] for one in locked if one["name"] == "uv"} and "hatchling" in names
    script = (ROOT / "docker" / "install.sh").read_text()
    installing = [
        line.strip() for line in script.splitlines() if " install " in line and not line.startswith("#")
    ]
    by_name = [line for line in installing if "--require-hashes" not in line and "--no-index" not in line]
    assert [line.split()[-1] for line in by_name] == ['"torch==$version"']
    assert "--no-hashes" not in script


def test_every_copied_file_is_there_and_let_in():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert {"uv.lock", "features", "rapids_pipeline"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists()
        assert any(fnmatch(path, pattern) for pattern in allowed), f".dockerignore keeps {path} out"
    assert set(allowed) == set(copied), ".dockerignore lets in what nothing copies"


def test_the_default_extras_are_those_of_a_gpu_and_exist():
    (line,) = (line for line in instructions("ARG") if line.startswith("EXTRAS="))
    extras = shlex.split(line)[0].removeprefix("EXTRAS=").split()
    assert {"gpu-cu13", "pyboost", "chemberta"} <= set(extras) <= set(EXTRAS)
    assert set(COMPOSE["services"]["cpu"]["build"]["args"]["EXTRAS"].split()) <= set(EXTRAS)


def test_the_default_command_is_one_of_the_program():
    name, *options = yaml.safe_load(instructions("CMD")[0])
    command = typer.main.get_command(app).get_command(None, name)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in options if word.startswith("--")} <= known
    assert instructions("ENTRYPOINT") == ['["rapids-perturb"]']


def test_the_user_is_a_number_and_not_root():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions("USER")[-1])


def test_compose_builds_both_images_and_asks_for_a_gpu_for_one():
    for service in COMPOSE["services"].values():
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert {"/out", "/cache"} <= {volume.rsplit(":", 1)[-1] for volume in service["volumes"]}
        assert service["init"]
    (device,) = COMPOSE["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "deploy" not in COMPOSE["services"]["cpu"]
    arguments = {line.split("=")[0] for line in instructions("ARG")}
    assert set(COMPOSE["services"]["cpu"]["build"]["args"]) <= arguments


def test_make_and_the_check_build_the_image_that_compose_builds():
    arguments = COMPOSE["services"]["cpu"]["build"]["args"]
    makefile = (ROOT / "Makefile").read_text()
    for name, value in arguments.items():
        assert re.search(rf'--build-arg {name}="?{re.escape(value)}"?', makefile), name
    check = (ROOT / "docker" / "check" / "image.py").read_text()
    assert f'"EXTRAS": "{arguments["EXTRAS"]}"' in check
