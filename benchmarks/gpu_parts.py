"""A part of the GPU check: a process of its own, with a time limit, and what came of it.

passed     at least one test passed and none failed; a program ended well
failed     a test failed, a program ended badly or took too long, or device memory was not given back
not run    every test was skipped, or the program says (exit code 3) that something it needs is not here
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpu_memory import MemorySampler

Status = Literal["passed", "failed", "not run"]

RESULT = "{result}"
"""Stands in a part's command for the file that the process writes its result to."""
UNAVAILABLE = 3
RELEASED_WITHIN_MIB, RELEASE_PATIENCE_S = 64, 5.0
SHOWN_LINES, SHOWN_TEXT = 15, 400


@dataclass(frozen=True)
class Part:
    """A process of the check: the `command`, of which kind, and the seconds it may take.

    What it writes to the file that `RESULT` stands for is JUnit XML of "tests", and JSON of a "program".
    """

    name: str
    kind: Literal["tests", "program"]
    command: tuple[str, ...]
    limit_s: float


@dataclass
class Outcome:
    """What came of a part."""

    name: str
    status: Status = "failed"
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tests: dict[str, int] | None = None
    memory_mib: dict[str, Any] = field(default_factory=dict)
    result: Any = None

    def fail(self, reason: str) -> None:
        """Count the part as failed, whatever it was."""
        self.status = "failed"
        self.reasons.insert(0, reason)


def run_part(part: Part, gpu: str, folder: Path) -> Outcome:
    """Run a part in the repository `folder`; it sees one GPU, the one whose memory is sampled."""
    outcome, began = Outcome(part.name), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        written, log = Path(scratch, "result"), Path(scratch, "log")
        with MemorySampler(gpu) as sampler:
            code = _run([word.replace(RESULT, str(written)) for word in part.command], part, gpu, folder, log)
        outcome.seconds = round(time.perf_counter() - began, 1)
        said = log.read_text(errors="replace").splitlines()
        content = written.read_text(errors="replace") if written.exists() else None
    if code is None:
        outcome.reasons.append(f"took longer than {part.limit_s:g} s and was stopped")
    elif part.kind == "tests":
        _judge_tests(outcome, code, content, said)
    else:
        _judge_program(outcome, code, content, said)
    _judge_memory(outcome, sampler)
    return outcome


def _run(command: list[str], part: Part, gpu: str, folder: Path, log: Path) -> int | None:
    """Return the exit code of a command, None where it took too long; its children end with it."""
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
    with log.open("w") as output:
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return child.wait(part.limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End a process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _judge_tests(outcome: Outcome, code: int, content: str | None, said: list[str]) -> None:
    cases = [] if content is None else list(ElementTree.fromstring(content).iter("testcase"))
    skipped = [case for case in cases if case.find("skipped") is not None]
    broken = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    passed = len(cases) - len(skipped) - len(broken)
    outcome.tests = {"passed": passed, "failed": len(broken), "skipped": len(skipped)}
    outcome.reasons += [f"{_name(case)}: {_message(case)}" for case in broken]
    outcome.reasons += _skips(skipped)
    if not cases:
        outcome.fail(f"no test ran ({_ending(code)}): {_tail(said)}")
    elif broken or (code != 0 and passed):
        outcome.status = "failed"
        if not broken:
            outcome.fail(f"{_ending(code)}: {_tail(said)}")
    else:
        outcome.status = "passed" if passed else "not run"


def _judge_program(outcome: Outcome, code: int, content: str | None, said: list[str]) -> None:
    if code == UNAVAILABLE:
        outcome.status = "not run"
        outcome.reasons += said[-1:]
    elif code != 0:
        outcome.fail(f"{_ending(code)}: {_tail(said)}")
    elif content is None:
        outcome.fail("ended well and wrote no result")
    else:
        outcome.status, outcome.result = "passed", json.loads(content)


def _judge_memory(outcome: Outcome, sampler: MemorySampler) -> None:
    after = sampler.after(RELEASED_WITHIN_MIB, RELEASE_PATIENCE_S)
    outcome.memory_mib = {"before": sampler.before, "peak": sampler.peak, "after": after}
    if isinstance(after, int) and isinstance(sampler.before, int):
        kept = after - sampler.before
        if kept > RELEASED_WITHIN_MIB:
            outcome.fail(f"{kept} MiB of device memory were not given back (or another program took them)")


def _skips(cases: list[ElementTree.Element]) -> list[str]:
    """Return each reason for skipping once, with how many tests it kept from running."""
    counts: dict[str, int] = {}
    for case in cases:
        reason = _message(case).removeprefix("Skipped: ")
        counts[reason] = counts.get(reason, 0) + 1
    return [f"{count} skipped: {reason}" for reason, count in counts.items()]


def _name(case: ElementTree.Element) -> str:
    return case.get("name") or case.get("classname") or "a test"


def _message(case: ElementTree.Element) -> str:
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            short, long = found.get("message") or "", found.text or ""
            text = long if short.startswith("collection ") else short
            place = text.rfind(", 'Skipped: ")  # a module that skips itself: "('file', line, 'Skipped: why')"
            text = text[place + 3 :].rstrip("')") if place >= 0 else text
            return _shortened(" ".join(text.split()))
    return ""


def _shortened(text: str) -> str:
    """Return the beginning and the end of a long text."""
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT // 2]} … {text[-SHOWN_TEXT // 2 :]}"


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(said: list[str]) -> str:
    return (
        " / ".join(line.strip() for line in said[-SHOWN_LINES:] if line.strip())[-600:] or "nothing printed"
    )
