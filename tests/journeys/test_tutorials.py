"""The tutorials: every block is run as printed, in its order, and what it prints is what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "---- the next block"
NUMBER = re.compile(r"[-−+]?\d[\d,]*(\.\d+)?(e-?\d+)?")


def without_numbers(text):
    """Return a text with one blank between words, and # for every number."""
    return NUMBER.sub("#", " ".join(text.split()))


def outputs_of(blocks, place, shared):
    """Run the blocks of a tutorial, the Python ones in one process; return what each prints."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "200",
        "RAPIDS_PERTURB_DATA": str(shared),
    }
    how = {"cwd": place, "env": environment, "capture_output": True, "text": True, "timeout": 600}
    python = [block for language, block in blocks if language == "python"]
    printed = iter(())
    if python:
        code = f"print({MARK!r})\n".join(python)
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, **how)
        assert done.returncode == 0, done.stderr[-2000:]
        printed = iter(done.stdout.split(MARK))
    for language, block in blocks:
        if language == "python":
            yield next(printed)
        elif language == "bash":
            done = subprocess.run(["bash", "-e", "-c", block], check=False, **how)
            assert done.returncode == 0, done.stderr[-2000:]
            yield done.stdout + done.stderr
        else:
            yield ""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in TUTORIALS.glob("*.md")))
def test_a_tutorial_does_what_it_says(name, tmp_path, request):
    text = (TUTORIALS / name).read_text()
    shared = request.getfixturevalue("shared_data") if "RAPIDS_PERTURB_DATA" in text else None
    blocks = BLOCK.findall(text)
    assert {language for language, _ in blocks} <= {"bash", "python", "text"}
    printed, told = "", 0
    for (language, block), output in zip(blocks, outputs_of(blocks, tmp_path, shared), strict=True):
        if language != "text":
            printed = output
            continue
        for line in block.splitlines():
            assert without_numbers(line) in without_numbers(printed), line
            told += 1
    assert told > 5, "a tutorial says what its commands print"
