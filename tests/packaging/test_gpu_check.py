"""The GPU check with stand-in parts: what passes, fails or is not run, how it ends, and what its report holds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.gpu import check

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import os, time, pytest
pytestmark = pytest.mark.gpu
{module}
def test_first(): {first}
def test_last(): {last}
"""
SKIPS = "pytest.skip('cudf is not installed')"
FILES = {
    "fine": STAND_IN.format(module="", first="pass", last=SKIPS),
    "skips": STAND_IN.format(module="", first=SKIPS, last=SKIPS),
    "skips_itself": STAND_IN.format(
        module="pytest.skip('cudf is not installed', allow_module_level=True)", first="pass", last="pass"
    ),
    "wrong": STAND_IN.format(module="", first="assert 1 == 2", last="pass"),
    "broken": STAND_IN.format(module="import no_such_module", first="pass", last="pass"),
    "aborts": STAND_IN.format(module="", first="os.abort()", last="pass"),
    "hangs": STAND_IN.format(module="", first="time.sleep(60)", last="pass"),
    "unmarked": "def test_of_another_mark(): pass",
}
TEST_LIMIT_S = 4


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What the check makes of the stand-in files, by name, in a process of its own."""
    folder = tmp_path_factory.mktemp("gpu")
    for name, content in FILES.items():
        (folder / f"test_gpu_{name}.py").write_text(content)
    code = (
        "import json, pathlib, sys; from benchmarks.gpu.check import run_tests; "
        f"parts = run_tests(sorted(pathlib.Path({str(folder)!r}).glob('test_gpu_*.py')), {TEST_LIMIT_S}); "
        f"pathlib.Path({str(folder / 'found.json')!r}).write_text(json.dumps([p.to_json() for p in parts]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((folder / "found.json").read_text())
    return {part["name"].removeprefix("tests: "): part for part in found}


@pytest.mark.parametrize(
    ("name", "status", "counts", "words"),
    [
        ("fine", "passed", (1, 0, 1), "cudf is not installed"),
        ("skips", "not run", (0, 0, 2), "2 times: cudf is not installed"),
        ("skips itself", "not run", (0, 0, 1), "cudf is not installed"),
        ("wrong", "failed", (1, 1, 0), "test_first: assert 1 == 2"),
        ("broken", "failed", (0, 1, 0), "No module named 'no_such_module'"),
        ("aborts", "failed", (1, 1, 0), "crashed"),
        ("hangs", "failed", (1, 1, 0), "crashed"),
        ("unmarked", "failed", (0, 1, 0), "no test ran"),
    ],
)
def test_what_becomes_of_a_file_of_tests(parts, name, status, counts, words):
    part = parts[name]
    assert part["status"] == status
    assert tuple(part[count] for count in ("passed", "failed", "skipped")) == counts
    assert words in part["reasons"][0]
    assert part["seconds"] < 2 * TEST_LIMIT_S


WRITES = "import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text('{\"seconds\": 1}')"
NOT_HERE = "import sys; print('cuml is not installed'); sys.exit(3)"


def program(code, limit_s=60.0, name="stand-in"):
    return check.run_program(name, ["-c", code], limit_s)


def test_a_program_that_ends_well():
    part = program(WRITES)
    assert (part.status, part.result, part.reasons) == ("passed", {"seconds": 1}, [])


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (
            "import sys; sys.exit('cupy went wrong')",
            "failed",
            "exit code 1, wrote no result: cupy went wrong",
        ),
        ("pass", "failed", "wrote no result: nothing printed"),
        ("import os; os.abort()", "failed", "killed by SIGABRT"),
        (NOT_HERE, "not run", "cuml is not installed"),
    ],
)
def test_a_program_that_does_not(code, status, words):
    part = program(code)
    assert part.status == status and words in part.reasons[0] and part.result is None


def test_what_takes_too_long_is_stopped_with_its_children(tmp_path):
    child = f"import time, pathlib; time.sleep(3); pathlib.Path(r'{tmp_path / 'late'}').touch()"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    part = program(code, limit_s=1.0)
    assert part.status == "failed" and part.reasons == ["took longer than 1 s and was stopped"]
    time.sleep(3.5)
    assert not (tmp_path / "late").exists()


@pytest.fixture
def run_check(monkeypatch, tmp_path, capsys):
    """Run the check with programs as its doctor and benchmarks; return the exit code, the report and its table."""

    def run(doctor=None, memory=(100, 110), **codes):
        problems = [{"what": what, "remedy": "do this"} for what in doctor or ()]
        said = json.dumps({"gpu_run": {"problems": problems}})
        monkeypatch.setattr(
            check, "DOCTOR", f"import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text({said!r})"
        )
        for name, code in codes.items():
            (tmp_path / f"stand_in_{name}.py").write_text(code)
        monkeypatch.setattr(check, "BENCHMARKS", {name: ("-m", f"stand_in_{name}") for name in codes})
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        used = iter(memory)
        monkeypatch.setattr(check, "used_mib", lambda: next(used))
        out = tmp_path / "deep" / "report.json"
        code = check.check(
            [*(["doctor"] if doctor is not None else []), *(f"benchmark: {n}" for n in codes)], False, out
        )
        return code, json.loads(out.read_text()), capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("wanted", "code", "verdict"),
    [
        ({"doctor": [], "one": WRITES, "two": NOT_HERE}, 0, "passed"),
        ({"one": WRITES, "two": "import sys; sys.exit(1)"}, 1, "failed"),
        ({"doctor": [], "one": NOT_HERE}, 3, "nothing could run"),
        ({"doctor": ["cupy cannot be imported (x)"], "one": WRITES}, 1, "failed"),
        ({"one": WRITES, "memory": (100, 400)}, 1, "failed"),
    ],
)
def test_the_exit_code_and_the_verdict(run_check, wanted, code, verdict):
    found, report, printed = run_check(**wanted)
    assert (found, report["verdict"]) == (code, verdict)
    assert printed.rstrip().endswith(verdict)


def test_the_report_and_the_table(run_check):
    _, report, printed = run_check(
        doctor=["cudf is not installed"], one=WRITES, two=NOT_HERE, memory=(100, 400)
    )
    assert {"date", "verdict", "machine", "versions", "seconds", "memory_mib", "parts"} == set(report)
    assert report["versions"]["numpy"] and report["versions"]["python"]
    assert set(report["machine"]) == {"processor", "cores", "load_before", "gpu"}
    told, one, two, memory = report["parts"]
    assert (told["status"], told["reasons"]) == ("passed", ["cudf is not installed"])
    assert one["result"] == {"seconds": 1}
    assert (two["status"], two["reasons"]) == ("not run", ["cuml is not installed"])
    assert memory["reasons"][0].startswith("300 MiB were not given back")
    assert "| benchmark: two | not run | 0 | 0 | 0 |" in printed


def test_the_file_is_named_after_the_device():
    assert check.file_for({"name": "NVIDIA H100 80GB HBM3"}).name == "gpu-check-nvidia-h100-80gb-hbm3.json"


def test_every_gpu_test_belongs_to_a_part():
    for file in (ROOT / "tests").rglob("test_*.py"):
        if file.parent == check.TESTS:
            assert file in check.test_files()
        elif file != Path(__file__):
            assert "mark.gpu" not in file.read_text(), f"{file}: GPU tests belong to tests/gpu"


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_parts_are_chosen_by_name(monkeypatch, capsys):
    def listed(*words):
        monkeypatch.setattr(sys, "argv", ["check", "--list", *words])
        assert check.main() == 0
        return capsys.readouterr().out.splitlines()

    assert listed()[0] == "doctor" and "tests: frames" in listed() and listed()[-1] == "benchmark: pipeline"
    assert listed("--only", "svr", "frames") == ["tests: frames", "benchmark: svr"]
    with pytest.raises(SystemExit, match="2"):
        listed("--only", "nothing")


def test_an_interrupt_ends_it_with_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "driver_problems", lambda *_: [])
    monkeypatch.setattr(check, "check", interrupted)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(sys, "argv", ["check"])
    assert check.main() == 130
    assert "interrupted" in capsys.readouterr().err and os.environ["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize("program", [("-m", "benchmarks.gpu.check"), *check.BENCHMARKS.values()])
def test_without_a_gpu_a_program_ends_with_3_and_says_why(program, tmp_path):
    if harness.gpu() is not None:
        pytest.skip("there is a GPU")
    ended = run(*program, "--out", str(tmp_path / "report.json"))
    assert ended.returncode == 3 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stdout == "" and not (tmp_path / "report.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", check.BENCHMARKS)
def test_a_benchmark_runs_here_at_a_small_size(name, tmp_path):
    out = tmp_path / "result.json"
    ended = run(*check.BENCHMARKS[name], "--device", "cpu", "--small", "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text())
    assert report["device"] == "cpu" and report["machine"]["processor"] and report["versions"]["numpy"]
    assert "|---|" in ended.stdout
    if name == "svr":
        errors = [rival["largest_difference"] for rival in report["rivals"].values()]
        assert len(errors) == 2 and all(error["tol_1e-06"] < 1e-5 for error in errors)
    if name == "boosting":
        assert report["engines"] == ["xgboost, cpu", "exact, cpu"] and len(report["cells"]) == 5 * 2
        assert all(cell["ms_a_tree"] > 0 for cell in report["cells"])
