"""A slice of the hostile input of `make fuzz`, in this process: refused in one line, or done; nothing left behind."""

import random

import pytest

from benchmarks.faults import extremes, matrices, settings, tables
from benchmarks.faults.roles import good
from benchmarks.faults.runner import _contents, _left, _told, _write
from tests.command_line import invoke

READING = ("recipes", "features", "evaluate", "submit")
"""Commands that fit nothing."""


def slice_of(kind: str) -> list:
    """Return cases that take no fit, and some that do where they are refused before one."""
    draw = random.Random(0)
    if kind == "settings":
        found = settings.cases(0)
        refused = [case for case in found if "numbers" in case.kind and "nan" in case.files["mine.toml"]]
        return draw.sample([case for case in found if case.argv[0] in READING], 40) + draw.sample(refused, 6)
    if kind == "molecules":
        return draw.sample([case for case in extremes.molecules() if ": pairs" in case.kind], 12)
    found = (
        {"tables": tables, "matrices": matrices}[kind].cases(0)
        if kind != "places"
        else [*extremes.places(draw)]
    )
    return draw.sample([case for case in found if case.argv[0] in READING], 40)


def faults_of(case, folder, monkeypatch) -> list[str]:
    """Return what is wrong with how a command ends."""
    work, temporary = folder / "work", folder / "tmp"
    sockets = _write(case.files, work)
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = _contents(work)
    result = invoke(*case.argv)
    for one in sockets:
        one.close()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return [repr(result.exception)[:300]]
    told = _told(result.exit_code, result.stdout, result.stderr)
    return told + _left(result.exit_code, before, _contents(work), temporary)


@pytest.mark.parametrize("kind", ["settings", "tables", "matrices", "places", "molecules"])
def test_hostile_input_is_refused_in_one_line_or_does_no_harm(kind, tmp_path, monkeypatch):
    wrong = []
    for number, case in enumerate(slice_of(kind)):
        wrong += [(case.kind, fault) for fault in faults_of(case, tmp_path / str(number), monkeypatch)]
    assert wrong == []


@pytest.mark.parametrize(
    "case", [case for case in good() if case.argv[0] in READING], ids=lambda case: case.kind
)
def test_what_the_hostile_files_are_made_of_is_read(case, tmp_path, monkeypatch):
    assert faults_of(case, tmp_path, monkeypatch) == []
    assert invoke(*case.argv).exit_code == 0
