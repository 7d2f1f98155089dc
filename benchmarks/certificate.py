"""A certificate for an engine that listens on TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.processes import BenchmarkError


def certificate_for(address: str, directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    paths = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=bench"]
    command += ["-addext", f"subjectAltName=IP:{address}", "-out", str(paths[0])]
    try:
        done = subprocess.run([*command, "-keyout", str(paths[1])], capture_output=True, text=True)
    except OSError as error:
        raise BenchmarkError(f"openssl: {error.strerror} (Debian package openssl)") from error
    if done.returncode != 0:
        raise BenchmarkError(f"openssl: {done.stderr.strip()}")
    return paths
