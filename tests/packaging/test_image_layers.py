"""The look through an image's layers: whatever of the building machine is planted in one is named, nothing else is."""

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"
OURS, PUBLIC = PEM.format("b3Vycw"), PEM.format("cHVibGlj")


@pytest.fixture(scope="module")
def scan():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docker" / "check"))
        import layers

        yield layers
        sys.modules.pop("layers")


@pytest.fixture
def faults(scan, tmp_path):
    """Return what is found in an image of one base layer and one of ours, built with a certificate as a secret."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(OURS)

    def faults(ours=None, base=None, history="RUN true", environment=None):
        files = {"base.tar": archive(base or {}), "ours.tar": archive(ours or {})}
        manifest = [{"Config": "config.json", "Layers": list(files)}]
        files |= {"manifest.json": json.dumps(manifest).encode(), "config.json": history.encode()}
        saved = tmp_path / "image.tar"
        saved.write_bytes(archive(files))
        return scan.faults(saved, 1, bundle, environment or {})

    return faults


def archive(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_an_image_of_ours_alone_is_clean(faults):
    harmless = {
        "opt/venv/lib/python3.11/site-packages/pip/_vendor/certifi/cacert.pem": PUBLIC,
        "opt/venv/lib/python3.11/site-packages/tornado/test/test.key": KEY,
        "root/.bashrc": "alias ls='ls --color'",
        "opt/venv/pyvenv.cfg": "home = /usr/bin",
    }
    assert faults(harmless) == []
    assert faults(base={"etc/pip.conf": "[global]", "root/.netrc": "x", "etc/our.crt": OURS}) == []


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("etc/pip.conf", "[global]\nindex-url = https://index.example", "a settings file"),
        ("opt/venv/pip.conf", "", "a settings file"),
        ("./.netrc", "machine index.example password x", "a settings file"),
        ("cache/.config/uv/uv.toml", "", "a settings file"),
        ("root/.cache/uv/simple/x.rkyv", "x", "left over from the build"),
        ("build/uv.lock", "version = 1", "left over from the build"),
        ("run/secrets/pip_cert", PUBLIC, "left over from the build"),
        ("opt/venv/server.key", KEY, "a private key"),
        ("etc/ssl/certs/ca-certificates.crt", PUBLIC + OURS, "a certificate of the build machine"),
        ("usr/local/share/authority", OURS, "a certificate of the build machine"),
    ],
)
def test_what_is_planted_is_named(faults, name, content, why):
    assert faults({name: content, "opt/venv/pyvenv.cfg": "home = /usr/bin"}) == [
        f"/{name.removeprefix('./')}: {why}"
    ]


@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "https_proxy"])
def test_an_address_of_the_building_machine_in_the_history_is_named(faults, variable):
    address = "https://user:word@index.example/simple"
    environment = {variable: address, "HTTP_PROXY": ""}
    assert faults(environment=environment) == []
    assert faults(history=f"RUN pip install --index-url {address} x", environment=environment) == [
        f"its history has {variable}'s value"
    ]


def test_certificates_that_debian_has_too_are_no_secret(scan, tmp_path, monkeypatch):
    authority = tmp_path / "authority.crt"
    authority.write_text(PUBLIC)
    (tmp_path / "bundle.pem").write_text(PUBLIC + OURS)
    program = tmp_path / "dpkg-query"
    program.write_text(f"#!/bin/sh\necho {authority}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert scan._private_certificates(tmp_path / "bundle.pem") == {"b3Vycw"}
