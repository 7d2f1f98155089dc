"""Certificates of the scenarios over TLS: an engine's, a phone's and another one.

The paths are known at once, for the `SETTINGS` of modules; the files exist while tests have the
fixture `certificates`.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

DIRECTORY = Path(tempfile.gettempdir()) / f"renvoi-tls-{uuid4().hex}"
OWN, OWN_KEY = DIRECTORY / "engine.pem", DIRECTORY / "engine.key"
PHONE, PHONE_KEY = DIRECTORY / "phone.pem", DIRECTORY / "phone.key"
PHONE_BOTH = DIRECTORY / "both.pem"  # the phone's key and certificate in one file
OTHER, OTHER_KEY = DIRECTORY / "other.pem", DIRECTORY / "other.key"
CA = DIRECTORY / "ca.pem"


@contextmanager
def made() -> Iterator[None]:
    """Makes the files and removes them."""
    DIRECTORY.mkdir(mode=0o700)
    try:
        _make(OWN, OWN_KEY, "IP:127.0.0.1,DNS:localhost")
        _make(PHONE, PHONE_KEY, "IP:127.0.0.1")
        _make(OTHER, OTHER_KEY, "DNS:elsewhere.example")
        CA.write_text("".join(each.read_text() for each in (PHONE, OTHER, OWN)), encoding="ascii")
        PHONE_BOTH.write_text(PHONE_KEY.read_text() + PHONE.read_text(), encoding="ascii")
        yield
    finally:
        shutil.rmtree(DIRECTORY)


def _make(certificate: Path, key: Path, subject: str) -> None:
    """A self-signed certificate for that name or address, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={subject}"]
    command += ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(OWN)
    return context
