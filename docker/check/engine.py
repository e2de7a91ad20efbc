"""A Docker engine to build and run with: the one that answers here, or a private one that is stopped afterwards.

The private one needs root and Debian or Ubuntu, where `docker.io` is installed if it is missing. It has no network of
its own: builds use the host's (`--network host`), containers the host's or none.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STARTS_WITHIN_S = 60


class NoEngineError(Exception):
    """No Docker engine answers here and none can be started; the message says why."""


class Docker:
    """Runs the `docker` program against one engine."""

    def __init__(self, program: str, host: str | None) -> None:
        self._program = program
        self._environment = os.environ | {"DOCKER_BUILDKIT": "1"} | ({"DOCKER_HOST": host} if host else {})

    def __call__(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS`; with `check`, RuntimeError with what it said where it fails."""
        command = [self._program, *map(str, arguments)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"docker {arguments[0]} failed ({done.returncode}):\n{done.stderr[-3000:]}")
        return done


@contextmanager
def engine() -> Iterator[Docker]:
    """Yield a Docker engine that answers; NoEngineError where there is none and none can be started."""
    here = _client()
    if here and Docker(here, None)("info", check=False).returncode == 0:
        yield Docker(here, None)
        return
    if here is None or shutil.which("dockerd") is None or shutil.which("mmdebstrap") is None:
        _install()
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        with _private_engine(folder) as docker:
            yield docker
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _client() -> str | None:
    """Return a `docker` program that builds with BuildKit: one with buildx or older than 23."""
    for program in (shutil.which("docker"), "/usr/bin/docker"):
        if program and Path(program).exists():
            docker = Docker(program, None)
            version = re.search(r"version (\d+)\.", docker("--version", check=False).stdout)
            if docker("buildx", "version", check=False).returncode == 0 or (version and int(version[1]) < 23):
                return program
    return None


def _install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoEngineError("no Docker engine answers, and only root on Debian or Ubuntu can install one")
    wanted = ["docker.io", "mmdebstrap", "iptables"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *wanted]):
        done = subprocess.run(
            ["apt-get", "-qq", *command],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoEngineError(f"docker.io cannot be installed: {done.stderr.strip().splitlines()[-1]}")


@contextmanager
def _private_engine(folder: Path) -> Iterator[Docker]:
    socket, log = f"unix://{folder}/socket", folder / "log"
    places = ["--data-root", folder / "data", "--exec-root", folder / "run", "--pidfile", folder / "pid"]
    network = ["--bridge=none", "--iptables=false", "--ip-forward=false"]
    program = _client()
    if program is None:
        raise NoEngineError("no docker program here can build with BuildKit; install docker-buildx")
    with log.open("w") as stream:
        command = [str(word) for word in ("dockerd", "--host", socket, *places, *network)]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        docker = Docker(program, socket)
        _wait(process, docker, log)
        yield docker
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen[bytes], docker: Docker, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while docker("info", check=False).returncode:
        if process.poll() is not None or time.monotonic() > until:
            last = (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
            raise NoEngineError(f"a Docker engine cannot be started: {last[-300:]}")
        time.sleep(0.5)
