"""The GPU check with stand-in parts: what passes, fails or is not run, how it ends, and what its report holds."""

import importlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TEST_FILE = """
import pytest
pytestmark = pytest.mark.gpu
{module}
def test_fine(): {fine}
def test_skipped(): {skipped}
"""


@pytest.fixture(scope="module")
def programs():
    """The check's modules, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("machine", "gpu_memory", "gpu_parts", "gpu_check")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A stand-in nvidia-smi that says what a file holds; returns a function that writes the file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    used = folder / "used"
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ntest "$last" = 3 || exit 6\ncat {used}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    used.write_text("100\n")
    return lambda mib: (folder / "new").write_text(f"{mib}\n") and (folder / "new").replace(used)


@pytest.fixture
def run(programs, card, tmp_path):
    """Run a part: a program given as Python code, or a file of tests."""

    def run(code, kind="program", limit_s=60.0):
        result = programs["gpu_parts"].RESULT
        if kind == "tests":
            file = tmp_path / "test_stand_in.py"
            file.write_text(code)
            (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
            options = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist")
            command = (sys.executable, "-m", "pytest", *options, str(file), f"--junitxml={result}")
        else:
            command = (sys.executable, "-c", code, result)
        part = programs["gpu_parts"].Part("stand-in", kind, command, limit_s)
        return programs["gpu_parts"].run_part(part, programs["gpu_memory"].chosen_gpu(), tmp_path)

    return run


def stand_in(fine="pass", skipped="pytest.skip('cudf is not installed')", module=""):
    return TEST_FILE.format(fine=fine, skipped=skipped, module=module)


WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{\"seconds\": 1}')"


# --- what becomes of a part -------------------------------------------------------------------------------------------


def test_tests_that_pass_are_listed_with_those_that_are_skipped(run):
    outcome = run(stand_in(), "tests")
    assert outcome.status == "passed"
    assert outcome.tests == {"passed": 1, "failed": 0, "skipped": 1}
    assert outcome.reasons == ["1 skipped: cudf is not installed"]
    assert outcome.memory_mib == {"before": 100, "peak": 100, "after": 100}


@pytest.mark.parametrize(
    "code",
    [
        stand_in(fine="pytest.skip('cudf is not installed')"),
        stand_in(module="pytest.skip('cudf is not installed', allow_module_level=True)"),
    ],
    ids=["each", "the module"],
)
def test_tests_that_are_all_skipped_are_not_run(run, code):
    outcome = run(code, "tests")
    assert (outcome.status, outcome.tests["passed"]) == ("not run", 0)
    assert outcome.reasons[0].endswith("skipped: cudf is not installed")


def test_a_test_that_fails(run):
    outcome = run(stand_in(fine="assert 1 == 2"), "tests")
    assert outcome.status == "failed" and outcome.tests == {"passed": 0, "failed": 1, "skipped": 1}
    assert outcome.reasons[0].startswith("test_fine: ") and "1 == 2" in outcome.reasons[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (stand_in(module="import no_such_module"), "no_such_module"),
        ("def test_of_another_mark(): pass", "no test ran (exit code 5)"),
        ("", "no test ran"),
        (stand_in(fine="__import__('os').abort()"), "no test ran (killed by SIGABRT)"),
    ],
    ids=["broken import", "no such mark", "nothing", "abort"],
)
def test_no_test_is_never_a_pass(run, code, words):
    outcome = run(code, "tests")
    assert outcome.status == "failed" and words in outcome.reasons[0]


def test_a_program_that_ends_well(run):
    outcome = run(WRITES)
    assert (outcome.status, outcome.result, outcome.tests) == ("passed", {"seconds": 1}, None)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("import sys; sys.exit('cupy went wrong')", "failed", "exit code 1: cupy went wrong"),
        ("pass", "failed", "wrote no result"),
        ("import os; os.abort()", "failed", "killed by SIGABRT"),
        ("import sys; print('cuml is not installed'); sys.exit(3)", "not run", "cuml is not installed"),
    ],
)
def test_a_program_that_does_not(run, code, status, words):
    outcome = run(code)
    assert outcome.status == status and words in outcome.reasons[0] and outcome.result is None


def test_what_takes_too_long_is_stopped_with_its_children(run, tmp_path):
    child = f"import time, pathlib; time.sleep(3); pathlib.Path(r'{tmp_path / 'late'}').touch()"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    outcome = run(code, limit_s=1.0)
    assert outcome.status == "failed" and outcome.reasons == ["took longer than 1 s and was stopped"]
    time.sleep(3.5)
    assert not (tmp_path / "late").exists()


def test_a_part_sees_the_gpu_that_is_sampled(run):
    names = "'CUDA_VISIBLE_DEVICES', 'CUDA_DEVICE_ORDER'"
    code = f"import os, sys; sys.exit(str([os.environ[name] for name in ({names})]))"
    assert "['3', 'PCI_BUS_ID']" in run(code).reasons[0]


# --- device memory ----------------------------------------------------------------------------------------------------


def takes(tmp_path, *steps):
    """Code that lets nvidia-smi say one number after the other, half a second each, and then writes a result."""
    used = tmp_path / "bin" / "used"
    script = f"import time\nfor mib in {steps}: open(r'{used}', 'w').write(str(mib)); time.sleep(0.7)\n"
    return script + WRITES


def test_the_peak_is_seen_and_memory_given_back_is_well(run, tmp_path):
    outcome = run(takes(tmp_path, 900, 130))
    assert outcome.status == "passed"
    assert outcome.memory_mib == {"before": 100, "peak": 900, "after": 130}


def test_memory_that_is_kept_fails_the_part(run, tmp_path, programs, monkeypatch):
    monkeypatch.setattr(programs["gpu_parts"], "RELEASE_PATIENCE_S", 0.5)
    outcome = run(takes(tmp_path, 900, 400))
    assert outcome.status == "failed"
    assert outcome.reasons[0].startswith("300 MiB of device memory were not given back")


def test_without_nvidia_smi_the_peak_is_unknown_and_says_why(run, monkeypatch, programs):
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = run(WRITES)
    assert outcome.status == "passed"
    assert outcome.memory_mib["peak"] is None
    assert outcome.memory_mib["before"] == outcome.memory_mib["after"] == "nvidia-smi is not installed"


def test_an_answer_that_is_no_number(card, programs):
    card("[N/A]")
    assert programs["gpu_memory"].used_mib("3") == "nvidia-smi says '[N/A]'"


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.fixture
def check(programs, card, tmp_path):
    """Run programs as parts; return the exit code, the report and what was printed."""

    def check(**codes):
        made = programs["gpu_parts"]
        commands = {name: (sys.executable, "-c", code, made.RESULT) for name, code in codes.items()}
        parts = [made.Part(name, "program", command, 60.0) for name, command in commands.items()]
        console = Console(width=200, record=True, file=io.StringIO())
        code = programs["gpu_check"].check(parts, tmp_path / "deep" / "report.json", console)
        return code, json.loads((tmp_path / "deep" / "report.json").read_text()), console.export_text()

    return check


NOT_HERE = "import sys; print('cuml is not installed'); sys.exit(3)"


def doctor(*problems):
    found = {"gpu_run": {"problems": [{"what": what, "remedy": "do this"} for what in problems]}}
    return f"import sys, pathlib; pathlib.Path(sys.argv[1]).write_text({json.dumps(found)!r})"


def test_the_exit_code_and_the_verdict(check):
    assert check(doctor=doctor(), one=WRITES, two=NOT_HERE)[:1] == (0,)
    code, report, _ = check(one=WRITES, two="import sys; sys.exit(1)")
    assert (code, report["verdict"]) == (1, "failed")
    code, report, _ = check(doctor=doctor(), one=NOT_HERE)
    assert (code, report["verdict"]) == (3, "nothing could run")


def test_the_doctor_tells_what_is_missing_and_fails_by_faults(check):
    code, report, _ = check(doctor=doctor("cudf is not installed"), one=WRITES)
    assert code == 0 and report["parts"][0]["reasons"] == ["cudf is not installed"]
    code, report, _ = check(doctor=doctor("cupy cannot be imported (x)"), one=WRITES)
    assert code == 1 and report["parts"][0]["reasons"] == ["cupy cannot be imported (x); do this"]


def test_the_report_and_the_table(check):
    _, report, printed = check(one=WRITES, two=NOT_HERE)
    assert set(report) == {"date", "verdict", "machine", "versions", "seconds", "parts"}
    assert report["versions"]["numpy"] and report["versions"]["python"]
    assert set(report["machine"]) == {"processor", "cores", "load_before", "gpu"}
    one, two = report["parts"]
    assert set(one) == {"name", "status", "reasons", "seconds", "tests", "memory_mib", "result"}
    assert one["result"] == {"seconds": 1} and one["memory_mib"]["peak"] == 100
    assert (two["status"], two["reasons"]) == ("not run", ["cuml is not installed"])
    assert "not run" in printed and "cuml is not installed" in printed and "passed; written:" in printed


def test_the_file_is_named_after_the_device(programs):
    report = {"machine": {"gpu": {"name": "NVIDIA H100 80GB HBM3"}}}
    assert programs["gpu_check"].file_for(report).name == "gpu-check-nvidia-h100-80gb-hbm3.json"


def test_every_gpu_test_belongs_to_a_part(programs):
    tests = Path(__file__).parents[1]
    commands = [part.command for part in programs["gpu_check"].parts()]
    for file in tests.rglob("test_*.py"):
        within = sum(str(file) in command for command in commands)
        assert within == (file.parent == tests / "gpu"), file
        if file.parent != tests / "gpu" and file != Path(__file__):
            assert "mark.gpu" not in file.read_text(), f"{file}: GPU tests belong to tests/gpu"


def gpu_check(*arguments, **environment):
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_without_a_gpu_it_ends_with_3_and_says_why(programs, tmp_path):
    if programs["machine"].gpu() is not None:
        pytest.skip("there is a GPU")
    ended = gpu_check("--out", str(tmp_path / "report.json"))
    assert ended.returncode == 3 and ended.stdout == "" and not (tmp_path / "report.json").exists()
    assert ended.stderr.startswith("error: nothing was run: ") and ended.stderr.count("\n") == 1


def test_parts_are_chosen_by_name():
    listed = gpu_check("--list").stdout.splitlines()
    assert listed[0] == "doctor" and "tests: frames" in listed and listed[-1] == "benchmark: pipeline"
    assert gpu_check("--list", "--only", "svr", "frames").stdout.splitlines() == [
        "tests: frames",
        "benchmark: svr",
    ]
    assert gpu_check("--only", "nothing").returncode == 2


def test_an_interrupt_ends_it_with_130(programs, monkeypatch, capsys, card):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(programs["gpu_check"], "why_no_gpu", list)
    monkeypatch.setattr(programs["gpu_check"], "run_part", interrupted)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert programs["gpu_check"].main() == 130
    assert "interrupted" in capsys.readouterr().err


# --- the benchmarks, on a CPU -----------------------------------------------------------------------------------------


def benchmark(programs, name, out, *options):
    command = [
        sys.executable,
        *programs["gpu_check"].BENCHMARKS[name],
        "--small",
        "--out",
        str(out),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svr", "boosting", "pipeline"])
def test_a_benchmark_runs_here_at_a_small_size(programs, name, tmp_path):
    pytest.importorskip("xgboost")
    out = tmp_path / "result.json"
    ended = benchmark(programs, name, out, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text())
    assert report["device"] == "cpu" and report["machine"]["processor"] and report["versions"]["numpy"]
    assert "|---|" in ended.stdout
    if name == "svr":
        errors = [rival["largest_difference"] for rival in report["rivals"].values()]
        assert len(errors) == 2 and all(error["tol_1e-06"] < 1e-5 for error in errors)
    if name == "boosting":
        assert len(report["cells"]) == 5 * len(report["engines"])
        assert all(cell["ms_a_tree"] > 0 for cell in report["cells"])


@pytest.mark.parametrize("name", ["svr", "boosting", "pipeline"])
def test_a_benchmark_on_a_gpu_that_is_not_there_ends_with_3(programs, name, tmp_path):
    if programs["machine"].gpu() is not None:
        pytest.skip("there is a GPU")
    ended = benchmark(programs, name, tmp_path / "r.json")
    assert ended.returncode == 3 and ended.stderr.count("\n") == 1, ended.stderr
    assert not (tmp_path / "r.json").exists()
