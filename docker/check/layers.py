"""What lies in the layers of an image: no file, setting or certificate of the machine that built it."""

import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

SETTINGS = {"pip.conf", "uv.toml", ".netrc", ".npmrc", ".pypirc", ".git-credentials", ".curlrc"}
KEYS = re.compile(r"^-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)
INDEX_VARIABLES = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_FIND_LINKS",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "https_proxy",
    "http_proxy",
)


def faults(
    saved: Path, base_layers: int, certificates: Path | None, environment: Mapping[str, str]
) -> list[str]:
    """Return what should not be in an image.

    Parameters
    ----------
    saved : Path
        What `docker save` wrote.
    base_layers : int
        How many of the first layers are the base image's, which is not ours to judge.
    certificates : Path or None
        The certificates that the build was given as a secret: none of them may be in a layer of ours, except those that
        the packages' own bundles have, too.
    environment : mapping
        The build machine's variables; the addresses of package indices among them may not be in the image's history.
    """
    with tarfile.open(saved) as image:
        manifest = json.loads(_content(image, "manifest.json"))[0]
        history = _content(image, manifest["Config"]).decode()
        secret = _private_certificates(certificates)
        found = [f"its history has {name}'s value" for name in _leaked(history, environment)]
        for layer in manifest["Layers"][base_layers:]:
            with tarfile.open(fileobj=io.BytesIO(_content(image, layer))) as files:
                found += [f"{name}: {why}" for name, why in _layer_faults(files, secret)]
    return found


def _layer_faults(files: tarfile.TarFile, secret: set[str]) -> Iterator[tuple[str, str]]:
    for member in files:
        path = PurePosixPath("/", member.name)
        name = str(path)
        if path.name in SETTINGS:
            yield name, "a settings file"
        elif name.startswith(("/root/.", "/build", "/run/secrets/")) and name not in (
            "/root/.bashrc",
            "/root/.profile",
        ):
            if member.isfile() and member.size:
                yield name, "left over from the build"
        elif member.isfile() and path.suffix in (".pem", ".crt", ".key", ".p12", ""):
            text = _text(files, member)
            if KEYS.search(text) and "test" not in name:
                yield name, "a private key"
            if secret & _certificates(text):
                yield name, "a certificate of the build machine"


def _private_certificates(bundle: Path | None) -> set[str]:
    """Return those certificates of a bundle that the public one of Debian does not have, too."""
    if bundle is None:
        return set()
    public = subprocess.run(
        ["dpkg-query", "--listfiles", "ca-certificates"], capture_output=True, text=True, check=False
    ).stdout.split()
    known: set[str] = set()
    for name in public:
        if name.endswith(".crt"):
            known |= _certificates(Path(name).read_text(errors="replace"))
    return _certificates(bundle.read_text(errors="replace")) - known


def _certificates(text: str) -> set[str]:
    found = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.DOTALL)
    return {"".join(body.split()) for body in found}


def _leaked(history: str, environment: Mapping[str, str]) -> list[str]:
    return [
        name
        for name in INDEX_VARIABLES
        if len(environment.get(name, "")) > 8 and environment[name] in history
    ]


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None, name
    return stream.read()


def _text(files: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream = files.extractfile(member)
    return "" if stream is None or member.size > 2**21 else stream.read().decode(errors="replace")


def secret_bundle() -> Path | None:
    """Return the certificates that this machine reaches the package index with, None where it names none."""
    for name in ("PIP_CERT", "SSL_CERT_FILE"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return None
