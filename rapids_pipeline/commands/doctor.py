"""`doctor`: what this machine can run. It changes nothing and works on any machine.

rapids-perturb doctor            tables
rapids-perturb doctor --json     the same for programs
rapids-perturb doctor --device cuda   exit code 3, and one line for each problem, where a GPU run cannot start
"""

import json
from typing import Annotated

import typer


def command(
    device: Annotated[
        str,
        typer.Option(help="cuda: end with exit code 3 where a GPU run cannot start. auto, cpu: only tell."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what this machine can run: driver, GPUs, versions, engines and why some are not available."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.reports.doctor import diagnose, print_diagnosis

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        print_diagnosis(found)
    resolve_device(device)
