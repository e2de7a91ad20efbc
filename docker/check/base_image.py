"""A base image for the check: Debian from its package archive where no image registry can be reached."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from engine import Docker

NAME, RELEASE = "rapids-perturb-check:debian-12", "bookworm"
PUBLIC = "debian:12-slim"


def base_image(docker: Docker) -> str:
    """Return the name of a Debian 12 image: one that is here, pulled, or made by mmdebstrap from the archive.

    Raises
    ------
    RuntimeError
        None of the three can be had.
    """
    for name in (NAME, PUBLIC):
        if docker("image", "inspect", name, check=False).returncode == 0:
            return name
    if docker("pull", "--quiet", PUBLIC, check=False).returncode == 0:
        return PUBLIC
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError(f"{PUBLIC} cannot be pulled, and mmdebstrap is not installed")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "base.tar")
        command = ["mmdebstrap", "--variant=minbase", "--quiet", RELEASE, str(archive)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"mmdebstrap failed: {done.stderr.strip()[-500:]}")
        docker("import", archive, NAME)
    return NAME
