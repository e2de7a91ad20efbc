"""The script for one machine, run with a stand-in for the program, and with the real one."""

import os
import shutil

import pytest

from tests.packaging.job_machine import (
    BIN,
    PROGRAM,
    RECORDER,
    XARGS,
    Machine,
    check_run,
    check_submission,
    parsed,
)


@pytest.fixture
def local(machine) -> Machine:
    shutil.copy(machine.venv / "bin" / "rapids-perturb", machine.programs)
    return machine


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
    (local.out / "seed-1").mkdir()
    (local.out / "seed-1" / ".unfinished-x").mkdir()
    said = local.run(XARGS, SEEDS="0 1 2").stdout
    assert f"seed 0: finished before, {local.out}/seed-0 is kept" in said
    again = local.runs_of("rapids-perturb")[3:]
    assert [(params["seed"], params["overwrite"]) for params in again] == [(1, True)]
    assert local.calls[-1][1] == "submit" and not (local.out / "seed-1" / ".unfinished-x").exists()


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


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DATA": ""}, "DATA is not set; set DATA=FOLDER"),
        ({"TRAIN": "other.h5ad"}, "DATA: {data}/other.h5ad cannot be read"),
        ({"TEST": "other.csv"}, "DATA: {data}/other.csv cannot be read"),
        ({"OUT": ""}, "OUT is not set; set OUT=FOLDER for the runs"),
        ({"SEEDS": "0 one"}, "SEEDS is '0 one'; set SEEDS="),
        ({"SEEDS": " "}, "SEEDS is ' '; set SEEDS="),
        ({"JOBS": "0"}, "JOBS is '0'; set it to 1 to "),
        ({"JOBS": "99999"}, "JOBS is '99999'; set it to 1 to "),
        ({"PROGRAM": "rapids-perturbed"}, "rapids-perturbed is not in PATH"),
    ],
)
def test_xargs_refuses_in_one_line(local, variables, words):
    said = local.run(XARGS, code=2, **variables).stderr
    assert said.startswith(f"error: {words.format(data=local.data)}") and said.count("\n") == 1
    assert local.calls == []


@pytest.mark.slow
def test_xargs_makes_two_real_runs_and_their_submission(demo, machine):
    options = {"DATA": str(demo), "SEEDS": "0 1", "DEVICE": "cpu", "OPTIONS": "--quick --molecules morgan"}
    done = machine.run(XARGS, PROGRAM=str(BIN / "rapids-perturb"), **options)
    assert "their median" in done.stdout and (machine.out / "seed-0.log").stat().st_size > 0
    check_submission(machine.out, machine.out / "submission.csv")
