"""`python -m rapids_pipeline.screen` is `rapids-perturb screen`."""

import typer

from rapids_pipeline.commands.screen import command

if __name__ == "__main__":
    typer.run(command)
