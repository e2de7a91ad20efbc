"""`python -m rapids_pipeline` is `rapids-perturb`."""

import os
import signal
import sys
from pathlib import Path


def main(subcommand: str | None = None) -> None:
    """Run the command line with the working folder last on the path, where `python -m` has it first.

    A features.py of the user's hides nothing then. The folder stays where it is if the program was loaded from it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # until the command line has its own way to end
        signal.signal(number, lambda number, _: os._exit(128 + number))
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        sys.path.append(sys.path.pop(0))
    from rapids_pipeline.commands.app import main as run

    run(subcommand)


if __name__ == "__main__":
    main()
