"""How the GPU benchmarks begin and end: a device or exit code 3, a report that is printed and written."""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import machine
from rich.console import Console
from rich.markdown import Markdown

from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.backend.gpu import cuda_of, driver_problems, found_packages, read_driver


def ended_by_what_is_missing(main: Callable[[], None]) -> Callable[[], None]:
    """Make a program end with exit code 3 and one line where something it needs is not here."""

    @functools.wraps(main)
    def guarded() -> None:
        try:
            main()
        except UnavailableError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            sys.exit(error.exit_code)

    return guarded


def require(device: str, *packages: str) -> None:
    """Raise UnavailableError where a GPU is asked for and the driver, the device or one of the packages is missing."""
    if device != "cuda":
        return
    problems = driver_problems(read_driver, cuda_of(found_packages()))
    if problems:
        raise UnavailableError(str(problems[0]))
    for package in packages:
        if find_spec(package) is None:
            raise UnavailableError(f"{package} is not installed")


def written(
    report: dict[str, Any], options: argparse.Namespace, markdown: Callable[[dict[str, Any]], str]
) -> None:
    """Write a report with the date, machine and versions to `options.out`, and print its Markdown as tables."""
    whole = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": options.device,
        "machine": machine.described(),
        "versions": machine.all_versions(),
        **report,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    if sys.stdout.isatty():
        Console().print(Markdown(markdown(whole)))
    else:
        print(markdown(whole))
