"""Runs that are killed outright: whatever stands under a result's final name is whole."""

import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from rapids_pipeline.backend.files import MANIFEST, MODEL, OOF, RESULTS, SUBMISSION
from rapids_pipeline.stack.saved import load_model
from tests.command_line import run_arguments

STAGES = ("ingest", "composite", "boosting", "blend", "scores")
DEADLINE_S = 300

MANY = 2000
PUBLISHES = f"""
import os, signal, sys
from pathlib import Path
from rapids_pipeline.backend import files as runs

out, survived = Path(sys.argv[1]), int(sys.argv[2])
moves = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def rename(method):
    def renamed(path, target):
        global moves
        if Path(target).parent.name != ".run":
            if moves == survived:
                die()
            moves += 1
        return method(path, target)
    return renamed

def file(path):
    path.write_text("new" * {MANY})

def folder(path):
    path.mkdir()
    for part in ("a", "b"):
        file(path / part)
        if survived < 0:
            die()

Path.replace = rename(Path.replace)
writers = {{runs.SUBMISSION: file, runs.OOF: file, runs.MODEL: folder}}
runs.RunFolder(out, {{"run": "new"}}, overwrite=True).publish(writers, {{}})
print("published")
"""


def contents(place) -> object:
    """Return what a result holds: text, or names and texts."""
    if place.is_dir():
        return {path.name: path.read_text() for path in place.iterdir()}
    return place.read_text() if place.exists() else None


def whole(word: str) -> dict[str, object]:
    text = word * MANY
    return {SUBMISSION: text, OOF: text, MODEL: {"a": text, "b": text}}


def published_until(out, survived: int) -> subprocess.CompletedProcess[str]:
    """Publish in a process that kills itself before move number `survived`; −1: while it writes the model."""
    command = [sys.executable, "-c", PUBLISHES, str(out), str(survived)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.parametrize("survived", range(-1, 6))
def test_a_kill_in_mid_publish_leaves_old_or_new_results_never_half_of_one(tmp_path, survived):
    """Moves: submission, oof, the old model aside, the new one in, manifest. The sixth is never reached."""
    for name, content in whole("old").items():
        place = tmp_path / name
        if isinstance(content, dict):
            place.mkdir()
            for part, text in content.items():
                (place / part).write_text(text)
        else:
            place.write_text(content)
    (tmp_path / MANIFEST).write_text(json.dumps({"run": "old"}))
    ended = published_until(tmp_path, survived)
    assert (ended.returncode == 0) == (survived == 5), ended.stderr
    old, new = whole("old"), whole("new")
    found = {name: contents(tmp_path / name) for name in old}
    for name, content in found.items():
        allowed = (old[name], new[name], None) if (name, survived) == (MODEL, 3) else (old[name], new[name])
        assert content in allowed, name
    if survived < 0:
        assert found == old
        assert json.loads((tmp_path / MANIFEST).read_text()) == {"run": "old"}
    else:
        assert (tmp_path / MANIFEST).exists() == (survived == 5)
    assert found == new or survived < 4
    again = published_until(tmp_path, 99)
    assert again.stdout == "published\n", again.stderr
    assert {name: contents(tmp_path / name) for name in new} == new


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_after_any_stage_leaves_no_result(small_files, tmp_path, stage):
    out = tmp_path / "out"
    process = started(small_files, out)
    try:
        for line in process.stderr:
            if line.split()[:1] == [stage]:
                break
        else:
            pytest.fail(f"{stage} was never printed")
    finally:
        process.kill()
        process.communicate()
    assert not [name for name in RESULTS if (out / name).exists()]


@pytest.mark.parametrize("sign", ["*", SUBMISSION])
def test_a_run_killed_while_it_writes_leaves_whole_results_or_none(small_files, tmp_path, sign):
    """Killed at the first sign of writing, and as soon as the first result has its name."""
    out = tmp_path / "out"
    process = started(small_files, out)
    latest = time.monotonic() + DEADLINE_S
    while process.poll() is None and not list(out.glob(sign)):
        assert time.monotonic() < latest
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    if (out / SUBMISSION).exists():
        assert len(pd.read_csv(out / SUBMISSION)) == len(small_files.id_map)
    else:
        assert not [name for name in RESULTS if (out / name).exists()]
    if (out / OOF).exists():
        assert len(pd.read_parquet(out / OOF)) == len(small_files.de_train)
    if (out / MODEL).exists():
        load_model(out / MODEL)  # checks sizes and hashes


def started(files, out) -> subprocess.Popen[str]:
    """Start a run of every stage on small data."""
    command = [
        sys.executable,
        "-m",
        "rapids_pipeline",
        *map(str, run_arguments(files.train, files.test, out)),
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
