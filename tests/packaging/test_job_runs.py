"""The job files run: Slurm's as a task of an array, that of one machine; with stand-ins and with the real program."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.packaging.job_machine import (
    BIN,
    PROGRAM,
    RECORDER,
    SLURM,
    XARGS,
    Machine,
    check_run,
    check_submission,
    fenced,
    parsed,
    ran,
)


@pytest.fixture
def local(machine) -> Machine:
    """A machine whose own programs have `rapids-perturb`."""
    shutil.copy(machine.venv / "bin" / "rapids-perturb", machine.programs)
    return machine


def test_slurm_in_a_virtual_environment(machine):
    machine.slurm(OPTIONS="--molecules morgan --quick", TRAIN="de_train.parquet")
    srun, program = machine.calls
    assert srun[:3] == ["srun", "--ntasks=1", "--cpus-per-task=8"]
    params = parsed(program[1:])
    check_run(machine, params, 3, "cuda")
    assert (params["molecules"], params["quick"]) == ("morgan", True)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_slurm_with_apptainer(machine, device):
    machine.slurm(RUNNER="apptainer", IMAGE="image.sif", DEVICE=device)
    call = machine.calls[1]
    assert call[:2] == ["apptainer", "run"]
    image = call.index("image.sif")
    options = call[2:image]
    binds = [options[k + 1] for k, option in enumerate(options) if option == "--bind"]
    cache = machine.folder / "home" / ".cache" / "rapids-perturb"
    assert binds == [f"{machine.data}:{machine.data}:ro", str(machine.out), str(cache)]
    assert ("--nv" in options) == (device == "cuda")
    check_run(machine, parsed(call[image + 1 :]), 3, device)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_slurm_with_docker(machine, device):
    machine.slurm(RUNNER="docker", IMAGE="rapids-perturb:0.3.0", DEVICE=device)
    call = machine.calls[1]
    assert call[:4] == ["docker", "run", "--rm", "--init"]
    image = call.index("rapids-perturb:0.3.0")
    options = call[4:image]
    given = {option: options[k + 1] for k, option in enumerate(options[:-1]) if option.startswith("--")}
    assert given.get("--gpus") == ('"device=1"' if device == "cuda" else None)
    assert given["--user"] == f"{os.getuid()}:{os.getgid()}"
    allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", Path("/proc/self/status").read_text())
    assert allowed is not None and given["--cpuset-cpus"] == allowed[1]
    volumes = [options[k + 1] for k, option in enumerate(options) if option == "--volume"]
    assert volumes[:2] == [f"{machine.data}:{machine.data}:ro", f"{machine.out}:{machine.out}"]
    check_run(machine, parsed(call[image + 1 :]), 3, device)


def test_slurm_keeps_a_finished_seed(machine):
    machine.slurm()
    said = machine.slurm().stdout
    assert said == f"seed 3: finished before, {machine.out}/seed-3 is kept\n"
    assert len(machine.runs_of("rapids-perturb")) == 1


def test_slurm_never_overwrites(machine):
    """A run that was killed goes on from its finished fits, which `--overwrite` would throw away."""
    (machine.out / "seed-3" / ".run").mkdir(parents=True)
    machine.slurm()
    assert [params["overwrite"] for params in machine.runs_of("rapids-perturb")] == [False]


@pytest.mark.parametrize("code", [2, 3, 130])
def test_slurm_ends_with_the_programs_exit_code(machine, code):
    machine.slurm(FAILING="3", CODE=str(code), code=code)


def test_xargs_runs_every_seed_and_combines(local):
    local.run(XARGS, SEEDS="0 1 7", OPTIONS="--molecules morgan")
    found = local.runs_of("rapids-perturb")
    for params, seed in zip(found, (0, 1, 7), strict=True):
        check_run(local, params, seed, "auto")
    combined = parsed(local.calls[-1][1:])
    assert combined["run"] == [local.out / f"seed-{seed}" for seed in (0, 1, 7)]
    assert combined["out"] == local.out / "submission.csv"


def test_xargs_names_a_seed_that_failed_and_goes_on_with_it(local):
    done = local.run(XARGS, SEEDS="0 1 2", FAILING="1", code=1)
    log = local.out / "seed-1.log"
    assert done.stderr.splitlines() == [
        f"error: seed 1 ended with exit code 2: error: seed 1 is bad (all it printed: {log})",
        "error: not combined, no result of seed 1; see what it printed, then call this again to go on",
    ]
    assert [params["seed"] for params in local.runs_of("rapids-perturb")] == [0, 1, 2]
    assert local.calls[-1][1] == "run"  # nothing was combined
    said = local.run(XARGS, SEEDS="0 1 2").stdout
    assert f"seed 0: finished before, {local.out}/seed-0 is kept" in said
    again = local.runs_of("rapids-perturb")[3:]
    assert [(params["seed"], params["overwrite"]) for params in again] == [(1, False)]
    assert local.calls[-1][1] == "submit"


def test_xargs_gives_each_run_its_own_cores(local):
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("needs two cores")
    waits = """
touch "$RECORD/started-$seed"
for k in $(seq 300); do
  [[ -e $RECORD/started-0 && -e $RECORD/started-1 ]] && break
  sleep 0.1
done
awk '/^Cpus_allowed_list:/ {print $2}' /proc/self/status >"$out/cores"
echo "$OMP_NUM_THREADS" >"$out/threads"
"""
    Machine.program(local.programs / "rapids-perturb", RECORDER + PROGRAM + waits)
    local.run(XARGS, SEEDS="0 1", JOBS="2")
    shares = []
    for seed in (0, 1):
        text = (local.out / f"seed-{seed}" / "cores").read_text().strip()
        ends = [part.split("-") for part in text.split(",")]
        shares.append({core for end in ends for core in range(int(end[0]), int(end[-1]) + 1)})
        assert (
            len(shares[-1]) == len(allowed) // 2 == int((local.out / f"seed-{seed}" / "threads").read_text())
        )
    assert not shares[0] & shares[1] and shares[0] | shares[1] <= set(allowed)


SHARED = [
    ({"DATA": ""}, "DATA is not set; {set} DATA=FOLDER"),
    ({"TRAIN": "other.h5ad"}, "DATA: {data}/other.h5ad cannot be read"),
    ({"TEST": "other.csv"}, "DATA: {data}/other.csv cannot be read"),
    ({"OUT": ""}, "OUT is not set; {set} OUT=FOLDER for the runs"),
]
OF_SLURM = [
    ({"SLURM_ARRAY_TASK_ID": ""}, "no array task: submit this file with sbatch --array"),
    ({"SLURM_CPUS_PER_TASK": ""}, "no array task: submit this file with sbatch --array"),
    ({"RUNNER": ""}, "RUNNER is ''; export RUNNER=apptainer, docker or venv"),
    ({"RUNNER": "podman"}, "RUNNER is 'podman'; export RUNNER=apptainer, docker or venv"),
    ({"RUNNER": "apptainer"}, "IMAGE: not set: no such file; export IMAGE=FILE.sif"),
    ({"RUNNER": "apptainer", "IMAGE": "no.sif"}, "IMAGE: no.sif: no such file; export IMAGE=FILE.sif"),
    ({"RUNNER": "docker"}, "IMAGE is not set; export IMAGE=NAME of a docker image"),
    (
        {"RUNNER": "docker", "IMAGE": "i", "SLURM_JOB_GPUS": ""},
        "the job has no GPU; submit with --gres=gpu:1",
    ),
    ({"VENV": ""}, "VENV: not set: has no bin/rapids-perturb"),
    ({"VENV": "/nowhere"}, "VENV: /nowhere: has no bin/rapids-perturb"),
]
OF_XARGS = [
    ({"SEEDS": "0 one"}, "SEEDS is '0 one'; set SEEDS="),
    ({"SEEDS": " "}, "SEEDS is ' '; set SEEDS="),
    ({"JOBS": "0"}, "JOBS is '0'; set it to 1 to "),
    ({"JOBS": "99999"}, "JOBS is '99999'; set it to 1 to "),
    ({"PROGRAM": "rapids-perturbed"}, "rapids-perturbed is not in PATH"),
]


@pytest.mark.parametrize(
    ("script", "variables", "words"),
    [*((SLURM, *case) for case in SHARED + OF_SLURM), *((XARGS, *case) for case in SHARED + OF_XARGS)],
)
def test_bad_settings_are_refused_in_one_line(local, script, variables, words):
    done = local.slurm(code=2, **variables) if script == SLURM else local.run(XARGS, code=2, **variables)
    words = words.format(data=local.data, set="export" if script == SLURM else "set")
    assert done.stderr.startswith(f"error: {words}") and done.stderr.count("\n") == 1
    assert local.calls == []


def test_the_pages_slurm_commands_submit_the_array_and_combine_its_seeds(machine):
    """`sbatch --wrap` hands its text to sh; the stand-in does so at once."""
    text = RECORDER + 'for last; do :; done\n[[ " $* " != *" --wrap "* ]] || exec sh -c "$last"\necho 77\n'
    machine.program(machine.programs / "sbatch", text)
    (block,) = (block for block in fenced("bash") if "sbatch" in block)
    (machine.folder / "block.sh").write_text(f"set -eu\n{block}")
    machine.run(machine.folder / "block.sh")
    array, dependent, combine = machine.calls
    assert array == ["sbatch", "--parsable", "--array=0-4", "docker/jobs/slurm.sbatch"]
    assert dependent[1] == "--dependency=afterok:77"
    params = parsed(combine[combine.index("submit") :])
    assert params["run"] == [machine.folder / "runs" / f"seed-{seed}" for seed in range(5)]
    assert params["out"] == machine.folder / "runs" / "submission.csv"


def test_slurm_reads_every_directive():
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SLURM.read_text(), re.M))
    assert directives["gres"] == "gpu:1" and directives["array"] == "0-4"
    assert {"requeue", "time", "mem", "cpus-per-task", "open-mode"} <= set(directives)
    first_command = re.search(r"^[^#\n]", SLURM.read_text(), re.M)
    assert first_command is not None  # sbatch reads no directive after the first command
    assert "#SBATCH" not in SLURM.read_text()[first_command.start() :]


@pytest.mark.slow
def test_a_slurm_array_of_two_real_runs_ends_in_a_submission(demo, machine):
    """Task 1 comes back to what a killed run left: a folder with half a file."""
    left = machine.out / "seed-1"
    (left / ".unfinished-x").mkdir(parents=True)
    real = {"DATA": str(demo), "VENV": str(BIN.parent), "DEVICE": "cpu"}
    for seed in (0, 1):
        machine.slurm(SLURM_ARRAY_TASK_ID=str(seed), OPTIONS="--quick --molecules morgan", **real)
    for seed in (0, 1):
        manifest = json.loads((machine.out / f"seed-{seed}" / "manifest.json").read_text())
        assert manifest["config"]["seed"] == seed
        assert manifest["inputs"]["train"]["path"] == str(demo / "de_train.parquet")
    made = machine.out / "submission.csv"
    runs = [f"--run={machine.out}/seed-{seed}" for seed in (0, 1)]
    done = ran([BIN / "rapids-perturb", "submit", *runs, f"--out={made}"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("MRRMSE of 614 training rows, out-of-fold:")
    check_submission(machine.out, made)


@pytest.mark.slow
def test_xargs_makes_two_real_runs_and_their_submission(demo, machine):
    options = {"DATA": str(demo), "SEEDS": "0 1", "DEVICE": "cpu", "OPTIONS": "--quick --molecules morgan"}
    done = machine.run(XARGS, PROGRAM=str(BIN / "rapids-perturb"), **options)
    assert "their median" in done.stdout and (machine.out / "seed-0.log").stat().st_size > 0
    check_submission(machine.out, machine.out / "submission.csv")
