"""What the tests of the job files share: stand-in programs that write down their arguments, and a reader of those."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from rapids_pipeline.commands import app as cli
from rapids_pipeline.commands import submit

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = REPOSITORY / "docker" / "jobs"
BATCH_PAGE = REPOSITORY / "docs" / "guide" / "batch.md"
SLURM, XARGS = JOBS / "slurm.sbatch", JOBS / "xargs.sh"
SHELL_FILES = sorted([*JOBS.glob("*.sh"), *JOBS.glob("*.sbatch")])
KUBERNETES_FILES = sorted(JOBS.glob("*.yaml"))
BIN = Path(sys.executable).parent
DEADLINE_S = 300

RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "${0##*/}" "$@" >>"$RECORD/calls"
printf '\\036' >>"$RECORD/calls"
"""
SRUN = RECORDER + 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
PROGRAM = """
out=; seed=; previous=
for argument in "$@"; do
  [[ $previous != --out ]] || out=$argument
  [[ $previous != --seed ]] || seed=$argument
  previous=$argument
done
[[ $1 == run ]] || exit 0
[[ " ${FAILING:-} " != *" $seed "* ]] || { echo "error: seed $seed is bad" >&2; exit "${CODE:-2}"; }
mkdir -p "$out" && touch "$out/manifest.json"
"""


def ran(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Return what a command printed and its exit code, whatever that is."""
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, **options)


def linted(program: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Return what a linter says in the repository's root; where it is not installed, the test is skipped."""
    found = shutil.which(program, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return ran([found, *arguments], cwd=REPOSITORY, **options)


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return what the real command line makes of arguments; a usage error of its own where it takes them not."""
    name, *rest = arguments
    submits = typer.Typer()
    submits.command("submit")(submit.command)
    command = typer.main.get_command(submits if name == "submit" else cli.app)
    if name != "submit":
        found = command.get_command(None, name)
        assert found is not None, f"rapids-perturb has no subcommand {name}"
        command = found
    return command.make_context(name, rest).params


def fenced(language: str) -> list[str]:
    """Return the blocks of a language in the page on batch jobs."""
    return re.findall(rf"^```{language}\n(.*?)^```", BATCH_PAGE.read_text(encoding="utf-8"), re.M | re.S)


class Machine:
    """A folder of stand-in programs, small data files, and what the programs were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.out = folder, folder / "my data", folder / "my runs"
        self.programs, self.venv = folder / "bin", folder / "venv"
        for path in (self.programs, self.venv / "bin", self.data):
            path.mkdir(parents=True)
        for name in ("de_train.parquet", "id_map.csv"):
            (self.data / name).write_text("not empty")
        for name, text in (("srun", SRUN), ("apptainer", RECORDER), ("docker", RECORDER)):
            self.program(self.programs / name, text)
        self.program(self.venv / "bin" / "rapids-perturb", RECORDER + PROGRAM)
        (folder / "image.sif").touch()
        self.environment = {
            "PATH": f"{self.programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "HOME": str(folder / "home"),
            "RECORD": str(folder),
            "DATA": str(self.data),
            "OUT": str(self.out),
        }

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: Path, *, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script with more variables, "" for one that is not set; it must end with `code`."""
        environment = {name: value for name, value in (self.environment | variables).items() if value}
        done = ran(["bash", script], env=environment, cwd=self.folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def slurm(self, *, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the Slurm file as task 3 of an array on eight cores and GPU 1."""
        job = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_GPUS": "1"}
        return self.run(SLURM, code=code, **(job | {"RUNNER": "venv", "VENV": str(self.venv)} | variables))

    @property
    def calls(self) -> list[list[str]]:
        """The programs called so far, with their arguments."""
        path = self.folder / "calls"
        calls = path.read_text().split("\0\x1e")[:-1] if path.exists() else []
        return [call.split("\0") for call in calls]

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        """The runs that a stand-in of `rapids-perturb` was asked for, as the command line reads them."""
        return [parsed(call[1:]) for call in self.calls if call[0] == name and call[1] == "run"]


def check_run(machine: Machine, params: dict[str, Any], seed: int, device: str) -> None:
    assert params["train"] == machine.data / "de_train.parquet"
    assert params["test"] == machine.data / "id_map.csv"
    assert params["out"] == machine.out / f"seed-{seed}"
    assert (params["seed"], params["device"], params["overwrite"]) == (seed, device, False)


def check_submission(out: Path, made: Path) -> None:
    """The combined submission is what `submit --check` accepts, for the ids and genes of a run."""
    done = ran([BIN / "rapids-perturb", "submit", "--check", made, "--run", out / "seed-0"])
    said = done.stdout + done.stderr
    assert done.returncode == 0 and said.startswith(f"OK: {made}: 255 rows × 12 genes"), said
