"""Builds the CPU image in a real Docker engine, runs it as users would, and looks through its layers.

    make image-check

Prints a line a check and a closing line "N passed, N failed"; exit code 1 where one failed. Where no engine answers and
none can be started, one line says so and why, and the exit code is 0: nothing was checked then, and nothing passed.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from base_image import base_image
from engine import Docker, NoEngineError, engine
from layers import faults, secret_bundle

ROOT = Path(__file__).parents[2]
IMAGE = "rapids-perturb-check:cpu"
SMALL = ["--quick", "--demo-genes", "200"]
USER = "10001:10001"


class Checks:
    """Runs checks one after the other and remembers which failed."""

    def __init__(self) -> None:
        self.passed, self.failed = 0, 0

    def run(self, what: str, check: Callable[[], str | None]) -> None:
        """Run one: it returns what to print beside the name, or raises where it fails."""
        began = time.monotonic()
        try:
            note = check()
            self.passed += 1
            mark = "ok    "
        except Exception as error:
            note, mark = f"{type(error).__name__}: {error}", "FAILED"
            self.failed += 1
        print(f"{mark} {what} ({time.monotonic() - began:.0f} s){': ' + note if note else ''}", flush=True)


class Image:
    """The image under check, and how it is run."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self.docker, self.folder = docker, folder
        self.base = ""

    def build(self) -> str:
        """Build it, with this machine's certificates as a secret; return its size and the seconds."""
        began = time.monotonic()
        self.base = base_image(self.docker)
        prepared = time.monotonic()
        arguments = {"BASE_IMAGE": self.base, "EXTRAS": "chem cpu h5ad cluster"}
        options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        bundle = secret_bundle()
        secret = ["--secret", f"id=pip_cert,src={bundle}"] if bundle else []
        place = ["--file", ROOT / "docker" / "Dockerfile", "--tag", IMAGE, "--network", "host"]
        self.docker("build", *place, *options, *secret, ROOT)
        size = int(self.docker("image", "inspect", "--format", "{{.Size}}", IMAGE).stdout)
        built = time.monotonic()
        return f"{size / 1e6:.0f} MB, built in {built - prepared:.0f} s (base image {prepared - began:.0f} s)"

    def run(self, *arguments: object, options: tuple[object, ...] = (), expect: int = 0) -> str:
        """Run a container without network; return what it said on both streams."""
        done = self.docker("run", "--rm", "--network", "none", *options, IMAGE, *arguments, check=False)
        if done.returncode != expect:
            said = (done.stdout + done.stderr)[-1500:]
            raise AssertionError(f"exit code {done.returncode}, expected {expect}:\n{said}")
        return done.stdout + done.stderr

    def out(self, name: str, owner: int = 10001) -> Path:
        """Return an empty folder that the container's user may write to."""
        folder = self.folder / name
        folder.mkdir()
        os.chown(folder, owner, owner)
        return folder


def inspected(image: Image) -> str:
    """The user is a number and not root, any user may write; entry point and command are the documented ones."""
    config = json.loads(image.docker("image", "inspect", IMAGE).stdout)[0]["Config"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"]), config["User"]
    assert config["Entrypoint"] == ["rapids-perturb"], config["Entrypoint"]
    assert config["Cmd"] == ["start", "--data", "/data", "--out", "/out"], config["Cmd"]
    assert list(config["Volumes"]) == ["/cache"], config["Volumes"]
    look = ("-c", "id -u; touch /out/x /cache/x && echo writable")
    for user, asked in (("10001", ()), ("12345", ("--user", "12345:12345"))):
        place = ("--network", "none", *asked, "--entrypoint", "sh")
        done = image.docker("run", "--rm", *place, IMAGE, *look, check=False)
        assert done.stdout.split() == [user, "writable"], f"user {user}: {done.stdout}{done.stderr}"
    return f"user {config['User']}"


def demo(image: Image) -> str:
    """Without data and without network the demo runs and leaves a submission."""
    out, cache = image.out("demo"), image.out("cache")
    mounts = ("-v", f"{out}:/out", "-v", f"{cache}:/cache")
    said = image.run("start", "--data", "/data", "--out", "/out", *SMALL, options=mounts)
    assert "holds no files: the demo on built-in, simulated data" in said
    assert (out / "submission.csv").stat().st_uid == 10001
    return _checked(image, out, out / "data")


def mounted(image: Image) -> str:
    """A mounted data set is run, read-only; the submission has its ids; the truth beside it is scored."""
    data, out = image.folder / "demo" / "data", image.out("mounted")
    mounts = ("-v", f"{data}:/data:ro", "-v", f"{out}:/out", "-v", f"{image.folder / 'cache'}:/cache")
    said = image.run("start", "--data", "/data", "--out", "/out", "--quick", options=mounts)
    assert "/out/submission.csv against /data/de_test.parquet" in said.replace("\n", ""), said
    return _checked(image, out, data)


def _checked(image: Image, out: Path, data: Path) -> str:
    """Return what `submit --check` says of a submission, run in the image."""
    mounts = ("-v", f"{out}:/out:ro", "-v", f"{data}:/data:ro")
    files = ("--id-map", "/data/id_map.csv", "--genes", "/data/de_train.parquet")
    said = image.run("submit", "--check", "/out/submission.csv", *files, options=mounts)
    return said.strip().splitlines()[-1]


def refusals(image: Image) -> str:
    """Bad input ends with exit code 2, a GPU that is not there with 3, each in one line; nothing is written."""
    data, out = image.folder / "bad", image.out("refused")
    data.mkdir()
    (data / "de_train.csv").write_text("cell_type,sm_name\nB,ethanol\n")
    mounts = ("-v", f"{data}:/data:ro", "-v", f"{out}:/out")
    said = image.run("start", "--data", "/data", "--out", "/out", options=mounts, expect=2)
    assert said.startswith("error: --data /data: no file of pairs"), said
    said = image.run("demo", "--device", "cuda", "--out", "/out", options=mounts, expect=3)
    assert said.startswith("error: --device cuda: the NVIDIA driver is missing"), said
    assert not list(out.iterdir())
    closed = image.out("closed", owner=0)
    closed.chmod(0o755)
    said = image.run("demo", "--out", "/out", options=("-v", f"{closed}:/out"), expect=2)
    assert "cannot be written to" in said and "--user" in said, said
    return said.strip()


def any_user(image: Image) -> None:
    """Any user id runs it, on a file system that is read-only but for /out, /cache and /tmp."""
    out, cache = image.out("other", owner=12345), image.out("other-cache", owner=12345)
    places = ("-v", f"{out}:/out", "-v", f"{cache}:/cache", "--tmpfs", "/tmp")
    options = ("--user", "12345:12345", "--read-only", *places)
    image.run("start", "--data", "/data", "--out", "/out", *SMALL, options=options)
    assert (out / "submission.csv").stat().st_uid == 12345
    assert any(cache.rglob("*.nbc")), "no compiled code in the cache"


def stopped(image: Image) -> str:
    """`docker stop` ends a run within its ten seconds; nothing half-written stays, and the same command goes on."""
    out = image.out("stopped")
    place = ("-v", f"{out}:/out")
    name = image.docker("run", "--detach", "--network", "none", *place, IMAGE).stdout.strip()
    began = time.monotonic()
    while not any(out.glob(".run/**/*.safetensors")) and time.monotonic() - began < 120:
        time.sleep(0.2)
    began = time.monotonic()
    image.docker("stop", name)
    took = time.monotonic() - began
    code = image.docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip()
    image.docker("rm", name)
    assert code == "143", f"exit code {code}"
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    # What goes on from here: the simulated data, the lock that no process holds any more, and finished fits in .run.
    half = [
        path for path in left if path.split("/")[0] not in ("data", ".lock", ".run") or ".unfinished-" in path
    ]
    assert not half, f"left behind: {', '.join(half)}"
    fits = sum(path.endswith(".safetensors") for path in left)
    assert fits, "stopped before the first fit was finished"
    image.run(options=place)
    assert not (out / ".run").exists()
    return f"{took:.0f} s, {fits} finished fits kept; {_checked(image, out, out / 'data')}"


def layers(image: Image) -> str:
    """No file, setting or certificate of this machine is in a layer of ours."""
    saved = image.folder / "image.tar"
    image.docker("save", "--output", saved, IMAGE)
    base = json.loads(image.docker("image", "inspect", image.base).stdout)[0]["RootFS"]["Layers"]
    found = faults(saved, len(base), secret_bundle(), os.environ)
    assert not found, "; ".join(found[:5])
    ours = json.loads(image.docker("image", "inspect", IMAGE).stdout)[0]["RootFS"]["Layers"]
    return f"{len(ours) - len(base)} layers"


def main() -> int:
    """Run all checks; return the exit code."""
    checks, folder = Checks(), Path(tempfile.mkdtemp(prefix="image-check-"))
    folder.chmod(0o755)
    try:
        with engine() as docker:
            image = Image(docker, folder)
            checks.run("build", image.build)
            if not checks.failed:
                for check in (inspected, demo, mounted, refusals, any_user, stopped, layers):
                    checks.run(check.__name__.replace("_", " "), lambda check=check: check(image))  # type: ignore[misc]
    except NoEngineError as error:
        print(f"image check not run: {error}")
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
