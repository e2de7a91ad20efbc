"""The GPU check with stand-in tests: what passes, fails or is not run, how it ends, and what its report holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import check

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import os, time, pytest
pytestmark = pytest.mark.gpu
{module}
def test_first(): {first}
def test_last(record_property):
    record_property('result', [1])
    {last}
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
        f"folder = pathlib.Path({str(folder)!r}); parts = run_tests(folder, limit_s={TEST_LIMIT_S}); "
        "(folder / 'found.json').write_text(json.dumps([part.to_json() for part in parts]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return {part["name"]: part for part in json.loads((folder / "found.json").read_text())}


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
    ],
)
def test_what_becomes_of_a_file_of_tests(parts, name, status, counts, words):
    part = parts[name]
    assert part["status"] == status
    assert tuple(part[count] for count in ("passed", "failed", "skipped")) == counts
    assert words in part["reasons"][0]
    assert part["seconds"] < 2 * TEST_LIMIT_S


def test_what_tests_record_is_kept_and_files_without_a_gpu_test_are_none(parts):
    assert parts["wrong"]["results"] == {"test_last": {"result": [1]}}
    assert "unmarked" not in parts


@pytest.fixture
def run_check(monkeypatch, tmp_path, capsys):
    """Run the check with made-up parts; return the exit code, the report and its table."""

    def run(*parts, memory=(100, 110)):
        used = iter(memory)
        monkeypatch.setattr(check, "used_mib", lambda: next(used))
        monkeypatch.setattr(check, "run_tests", lambda *_: list(parts))
        out = tmp_path / "deep" / "report.json"
        code = check.check(check.TESTS, [], out)
        return code, json.loads(out.read_text()), capsys.readouterr().out

    return run


GOOD, SKIPPED, WRONG = (check.Part("one", **{what: 1}) for what in ("passed", "skipped", "failed"))


@pytest.mark.parametrize(
    ("parts", "memory", "code", "verdict"),
    [
        ((GOOD, SKIPPED), (100, 110), 0, "passed"),
        ((GOOD, WRONG), (100, 110), 1, "failed"),
        ((SKIPPED,), (100, 110), 3, "nothing could run"),
        ((), (100, 110), 3, "nothing could run"),
        ((GOOD,), (100, 400), 1, "failed"),
    ],
)
def test_the_exit_code_and_the_verdict(run_check, parts, memory, code, verdict):
    found, report, printed = run_check(*parts, memory=memory)
    assert (found, report["verdict"]) == (code, verdict)
    assert printed.rstrip().endswith(verdict)
    assert {"date", "verdict", "machine", "versions", "seconds", "memory_mib", "parts"} == set(report)
    assert report["versions"]["numpy"]
    assert set(report["machine"]) == {"processor", "cores", "load_before", "gpu"}
    if memory == (100, 400):
        assert report["parts"][-1]["reasons"][0].startswith("300 MiB were not given back")
        assert "| device memory | failed | 0 | 1 | 0 |" in printed


def test_the_file_is_named_after_the_device():
    assert check.file_for({"name": "NVIDIA H100 80GB HBM3"}).name == "gpu-check-nvidia-h100-80gb-hbm3.json"


def test_gpu_tests_stand_where_the_check_looks():
    for file in (ROOT / "tests").rglob("test_*.py"):
        if file.parent == check.TESTS:
            assert file.name.startswith("test_gpu_")
        elif file != Path(__file__):
            assert "mark.gpu" not in file.read_text(), f"{file}: GPU tests belong to tests/gpu"


def test_an_interrupt_ends_it_with_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "driver_problems", lambda *_: [])
    monkeypatch.setattr(check, "check", interrupted)
    monkeypatch.setattr(os, "environ", os.environ | {"CUDA_VISIBLE_DEVICES": "3,4"})
    monkeypatch.setattr(sys, "argv", ["check"])
    assert check.main() == 130
    assert "interrupted" in capsys.readouterr().err and os.environ["CUDA_VISIBLE_DEVICES"] == "3"
