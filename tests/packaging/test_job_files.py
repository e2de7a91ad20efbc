"""The job files under docker/jobs: sound shell, valid Kubernetes documents, commands that the command line takes."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.packaging.job_machine import (
    BATCH_PAGE,
    JOBS,
    KUBERNETES_FILES,
    SHELL_FILES,
    Machine,
    fenced,
    linted,
    parsed,
    ran,
)


def test_the_check_of_commands_finds_an_option_that_is_none():
    good = ["run", "--train", "a", "--test", "b", "--out", "c"]
    assert parsed(good)["train"] == Path("a")
    for bad in ([*good, "--sed", "1"], [*good, "--seed", "one"], good[:-2], ["submit", "--runs", "a"]):
        with pytest.raises(Exception, match=r"(?i)no such option|valid integer|missing parameter"):
            parsed(bad)


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_files_are_sound(path):
    assert ran(["bash", "-n", path]).stderr == ""
    done = linted("shellcheck", "--enable=all", "--exclude=SC2250,SC2310,SC2312", path)
    assert done.returncode == 0, done.stdout
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


def test_the_shell_in_the_kubernetes_job_is_sound():
    done = linted("shellcheck", "--shell=sh", "--exclude=SC2086", "-", input=seed_script())
    assert done.returncode == 0, done.stdout


def test_the_page_is_sound_and_names_every_file():
    page, blocks = BATCH_PAGE.read_text(encoding="utf-8"), fenced("bash")
    for block in blocks:
        done = linted("shellcheck", "--shell=bash", "--exclude=SC2016", "-", input=block)
        assert done.returncode == 0, done.stdout
    assert set(re.findall(r"docker/jobs/([\w.-]+)", page)) == {path.name for path in JOBS.iterdir()}
    lines = re.findall(r"^rapids-perturb .*", "".join(blocks), re.M)
    commands = [shlex.split(line)[1:] for line in lines]
    assert [command[0] for command in commands] == ["submit", "submit"]
    for command in commands:
        parsed(command)


def test_the_slurm_script_starts_workers_and_hands_the_command_on(monkeypatch):
    """With a stand-in for dask-jobqueue, which writes down what it is given."""
    asked: dict[str, Any] = {}

    class SLURMCluster:
        scheduler_address = "tcp://10.0.0.1:8786"

        def __init__(self, **how: Any) -> None:
            asked.update(how)

        def __enter__(self) -> "SLURMCluster":
            return self

        def __exit__(self, *_: object) -> None:
            asked["closed"] = True

        def scale(self, jobs: int) -> None:
            asked["jobs"] = jobs

        def wait_for_workers(self, n_workers: int) -> None:
            asked["awaited"] = n_workers

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=SLURMCluster))
    words = ["run", "--train", "a.csv", "--test", "b.csv", "--out", "c"]
    monkeypatch.setattr(sys, "argv", ["slurm_cluster.py", *words])
    for name, value in {
        "JOBS": "3",
        "CORES": "2",
        "MEMORY": "1GiB",
        "DIRECTIVES": "--partition=long; --account=me",
    }.items():
        monkeypatch.setenv(name, value)
    commands: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "run", lambda command: commands.append(command) or SimpleNamespace(returncode=3)
    )
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / "slurm_cluster.py"), run_name="__main__")
    assert ended.value.code == 3
    assert (asked["jobs"], asked["cores"], asked["processes"], asked["memory"]) == (3, 2, 2, "1GiB")
    assert asked["job_extra_directives"] == ["--partition=long", "--account=me"] and asked["closed"]
    assert commands[0][:3] == [sys.executable, "-m", "rapids_pipeline"]
    assert parsed(commands[0][3:])["cluster"] == "tcp://10.0.0.1:8786"


# --- Kubernetes ---


def documents(path: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def jobs() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each Job's specification and that of its pods."""
    found = [one for path in KUBERNETES_FILES for one in documents(path) if one["kind"] == "Job"]
    names = [job["metadata"]["name"].removeprefix("rapids-perturb-") for job in found]
    assert names == ["run", "combine", "seeds"]
    return ((job["spec"], job["spec"]["template"]["spec"]) for job in found)


def seeds_job() -> tuple[dict[str, Any], dict[str, Any]]:
    (document,) = documents(JOBS / "kubernetes.yaml")
    return document["spec"], document["spec"]["template"]["spec"]["containers"][0]


def seed_script() -> str:
    _, container = seeds_job()
    assert container["command"] == ["/bin/sh", "-euc"]
    (script,) = container["args"]
    return script


@pytest.mark.parametrize("path", KUBERNETES_FILES, ids=lambda path: path.name)
def test_kubernetes_documents_are_valid(path):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        for known in known_kinds(document):
            kubernetes_validate.validate(known, kubernetes_validate.latest_version(), strict=True)


def known_kinds(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a document, or of a kind that the operator of dask-kubernetes defines the pods and the service in it."""
    if document["kind"] != "DaskCluster":
        return [document]
    worker, scheduler = document["spec"]["worker"], document["spec"]["scheduler"]
    assert set(document["spec"]) == {"worker", "scheduler"} and set(worker) == {"replicas", "spec"}
    named = {"apiVersion": "v1", "metadata": document["metadata"]}
    pods = [{**named, "kind": "Pod", "spec": part["spec"]} for part in (worker, scheduler)]
    return [*pods, {**named, "kind": "Service", "spec": scheduler["service"]}]


def test_the_workers_on_kubernetes_are_confined_and_the_run_finds_their_scheduler():
    cluster, job = documents(JOBS / "kubernetes-cluster.yaml")
    worker, scheduler, service = known_kinds(cluster)
    for pod in (worker, scheduler):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert worker["spec"]["containers"][0]["command"][:4] == ["dask", "worker", "--nthreads", "1"]
    (port,) = service["spec"]["ports"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {one["image"] for pod in (worker, scheduler) for one in pod["spec"]["containers"]} == {
        container["image"]
    }
    params = parsed(container["args"])
    assert params["cluster"] == f"tcp://{cluster['metadata']['name']}-scheduler:{port['port']}"
    assert params["out"] == Path("/out/run")


def test_kubernetes_pods_are_confined_and_mount_what_exists():
    claims = {document["metadata"]["name"] for document in documents(JOBS / "kubernetes-claims.yaml")}
    for spec, pod in jobs():
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in mounts.values()} == set(volumes)
        kind = "persistentVolumeClaim"
        assert {volume[kind]["claimName"] for volume in volumes.values() if kind in volume} <= claims
        assert mounts["/data"]["readOnly"] and not mounts["/out"].get("readOnly")
        assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        ids = [context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")]
        assert all(type(number) is int and number > 0 for number in ids)
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["restartPolicy"] == "Never"
        rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"]}
        codes = rules["FailJob"]["onExitCodes"]
        assert 2 in codes["values"] and codes["containerName"] == container["name"]
        assert spec["backoffLimit"] > 0 and spec["ttlSecondsAfterFinished"] > 0


def test_kubernetes_asks_for_one_gpu_a_seed_and_none_to_combine():
    containers = [pod["containers"][0] for _, pod in jobs()]
    gpus = {one["name"]: one["resources"]["limits"].get("nvidia.com/gpu") for one in containers}
    assert gpus == {"run": 1, "combine": None, "command": None}
    spec, container = seeds_job()
    assert spec["completionMode"] == "Indexed"
    given = {variable["name"]: variable for variable in container["env"]}
    path = given["SEED"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert given["OMP_NUM_THREADS"]["value"] == container["resources"]["limits"]["cpu"]


def run_seed_script(machine: Machine, seed: int, code: int = 0, **variables: str) -> str:
    shutil.copy(machine.venv / "bin" / "rapids-perturb", machine.programs)
    out = machine.folder / "out"
    script = seed_script().replace("/out/", f"{out}/").replace("/data/", f"{machine.folder}/data/")
    environment = machine.environment | {"SEED": str(seed)} | variables
    done = ran(["/bin/sh", "-euc", script], env=environment)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_kubernetes_runs_a_seed_once(machine):
    run_seed_script(machine, 4)
    (params,) = machine.runs_of("rapids-perturb")
    assert params["out"] == machine.folder / "out" / "seed-4" and params["device"] == "cuda"
    assert params["train"] == machine.folder / "data" / "de_train.parquet"
    assert (params["seed"], params["overwrite"]) == (4, False)
    assert run_seed_script(machine, 4) == f"seed 4: finished before, {machine.folder}/out/seed-4 is kept\n"
    assert len(machine.calls) == 1


@pytest.mark.parametrize("code", [2, 3])
def test_kubernetes_pods_end_with_the_programs_exit_code(machine, code):
    run_seed_script(machine, 1, code=code, FAILING="1", CODE=str(code))


def test_kubernetes_combines_all_seeds():
    spec, _ = seeds_job()
    (document,) = documents(JOBS / "kubernetes-combine.yaml")
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert "command" not in container  # the image's own entrypoint
    params = parsed(container["args"])
    assert params["run"] == [Path(f"/out/seed-{seed}") for seed in range(spec["completions"])]
    assert params["out"] == Path("/out/submission.csv")
