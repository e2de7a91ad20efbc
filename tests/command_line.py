"""Commands as the tests type them, and what is expected of one that is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from rapids_pipeline.commands.app import app

RESULTS = [
    *("manifest.json", "model", "oof.parquet", "predictions.parquet", "report.html", "scores.json"),
    "submission.csv",
]
ANNOUNCED = ("device: ", "molecules: ", "  ")
"""How lines on stderr begin that are no messages: what was chosen, and the stages."""


def invoke(*words: object, env: dict[str, str] | None = None) -> Any:
    """Run the command line in this process."""
    return CliRunner(env=env).invoke(app, [str(word) for word in words])


def succeed(*words: object) -> Any:
    """Run the command line in this process, and check that it ended well."""
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result


def program(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own."""
    command = [sys.executable, "-m", "rapids_pipeline", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=600
    )


def run_arguments(train: Path, test: Path, out: Path, *more: object) -> list[object]:
    """Return the words of a run on small data, on the CPU unless `more` says otherwise."""
    words = ["run", "--train", train, "--test", test, "--out", out, "--molecules", "morgan", "--folds", "3"]
    return [*words, "--device", "cpu", *more]


def error_line(result: Any, code: int = 2) -> str:
    """Return the one error line of a refused command, after checking how it ended."""
    ended = result.returncode if isinstance(result, subprocess.CompletedProcess) else result.exit_code
    assert ended == code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(ANNOUNCED)]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def names_in(folder: Path) -> list[str]:
    """Return what a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def manifest_of(folder: Path) -> Any:
    """Return the manifest of a run folder."""
    return json.loads((folder / "manifest.json").read_text())


def out_of_fold_scores(folder: Path) -> Any:
    """Return the out-of-fold scores of a run folder."""
    return json.loads((folder / "scores.json").read_text())["out_of_fold"]
