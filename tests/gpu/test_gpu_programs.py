"""Programs on a GPU, each in a process of its own: the doctor finds no fault, and the benchmarks end well.

What a program writes is recorded as the test's `result`; exit code 3, which says what is not here, skips the test.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.gpu.requirements import need

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = {
    "svr": "benchmarks.svr.gpu",
    "boosting": "benchmarks.boosting.gpu",
    "pipeline": "benchmarks.pipeline",
}
DOCTOR = (
    "import json, sys, pathlib; from rapids_pipeline.reports.doctor import diagnose; "
    "pathlib.Path(sys.argv[-1]).write_text(json.dumps(diagnose().to_json()))"
)
"""`rapids-perturb doctor --json`, into a file: packages may print what they like beside it."""
LIMIT_S, FULL_LIMIT_S = 100.0, 3600.0


def run(out, *arguments, limit_s=LIMIT_S):
    """Run a program that writes JSON to its last argument, `out`; its children end with it. Return what it wrote."""
    log = out.with_suffix(".log")
    with log.open("w") as said:
        command = [sys.executable, *arguments, str(out)]
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=said, stderr=said, start_new_session=True)
        try:
            code = child.wait(limit_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if code == 3:
        pytest.skip(lines[-1])
    assert code == 0, f"exit code {code}: {' / '.join(lines[-15:])}"
    return json.loads(out.read_text())


@pytest.mark.gpu
def test_doctor(tmp_path, record_property):
    need()
    found = run(tmp_path / "found.json", "-c", DOCTOR)
    record_property("result", found)
    problems = [problem["what"] for problem in found["gpu_run"]["problems"]]
    missing = [what for what in problems if what.endswith("is not installed")]
    if missing:
        record_property("missing", "; ".join(missing))
    assert problems == missing


@pytest.mark.gpu
@pytest.mark.timeout(FULL_LIMIT_S + 60)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark(name, tmp_path, record_property):
    need()
    size = os.environ.get("GPU_CHECK_SIZE", "").split()
    limit_s = FULL_LIMIT_S if size else LIMIT_S
    found = run(
        tmp_path / "found.json", "-m", BENCHMARKS[name], "--device", "cuda", *size, "--out", limit_s=limit_s
    )
    record_property("result", found)


def test_a_program_that_writes_its_result(tmp_path):
    code = "import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text('{\"seconds\": 1}')"
    assert run(tmp_path / "found.json", "-c", code) == {"seconds": 1}


@pytest.mark.parametrize(
    ("code", "outcome", "words"),
    [
        ("import sys; sys.exit('cupy went wrong')", AssertionError, "exit code 1: cupy went wrong"),
        ("pass", FileNotFoundError, "found.json"),
        ("import os; os.abort()", AssertionError, "exit code -6"),
        ("import sys; print('no cuml'); sys.exit(3)", pytest.skip.Exception, "no cuml"),
    ],
)
def test_a_program_that_does_not(tmp_path, code, outcome, words):
    with pytest.raises(outcome, match=words):
        run(tmp_path / "found.json", "-c", code)


def test_what_takes_too_long_is_stopped_with_its_children(tmp_path):
    child = f"import time, pathlib; time.sleep(3); pathlib.Path(r'{tmp_path / 'late'}').touch()"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        run(tmp_path / "found.json", "-c", code, limit_s=1.0)
    subprocess.run(["sleep", "3.5"], check=True)
    assert not (tmp_path / "late").exists()


def program(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_here_at_a_small_size(name, tmp_path):
    out = tmp_path / "result.json"
    ended = program("-m", BENCHMARKS[name], "--device", "cpu", "--small", "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text())
    assert report["device"] == "cpu" and report["machine"]["processor"] and report["versions"]["numpy"]
    assert "|---|" in ended.stdout
    if name == "svr":
        errors = [rival["largest_difference"] for rival in report["rivals"].values()]
        assert len(errors) == 4 and all(error["tol_1e-06"] < 1e-5 for error in errors)
    if name == "boosting":
        assert len(report["cells"]) == 5 * len(report["engines"])
        assert all(cell["ms_a_tree"] > 0 for cell in report["cells"])


@pytest.mark.parametrize("module", ["benchmarks.gpu.check", *BENCHMARKS.values()])
def test_without_a_gpu_it_ends_with_3_and_says_why(module, tmp_path):
    from tests.gpu.requirements import why_no_device

    if why_no_device() is None:
        pytest.skip("there is a GPU")
    device = [] if module == "benchmarks.gpu.check" else ["--device", "cuda"]
    ended = program("-m", module, *device, "--out", str(tmp_path / "report.json"))
    assert ended.returncode == 3 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stdout == "" and not (tmp_path / "report.json").exists()
