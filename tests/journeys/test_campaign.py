"""A slice of `make campaign`: some kills of every command, and one kind of fault."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.harness import REPOSITORY


@pytest.mark.slow
def test_kills_and_limits_lose_nothing(tmp_path):
    words = ["--parts", "kills,faults", "--kills", "16", "--kind", "file-size limit", "--command", "run"]
    command = [
        sys.executable,
        "-m",
        "benchmarks.faults.campaign",
        *words,
        "--out",
        str(tmp_path / "found.json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    cases = {part: sum(row["cases"] for row in rows if row["part"] == part) for part in ("kills", "faults")}
    assert cases["kills"] >= 8 and cases["faults"] >= 3
