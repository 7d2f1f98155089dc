"""TLS contexts from the configuration: Python's own OpenSSL, TLS 1.2 and above."""

from __future__ import annotations

import ssl
from pathlib import Path

from engine.config import Sip


class TlsError(ValueError):
    """A certificate, key or authority is not usable; the message names the key and the reason."""


def server_context(sip: Sip) -> ssl.SSLContext | None:
    """For accepting connections; None without a TLS listening address. Raises TlsError."""
    if not any(address.transport == "tls" for address in sip.listen):
        return None
    if sip.tls_certificate is None:
        raise TlsError("sip.tls_certificate: is needed to listen on tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own(context, sip)
    if sip.tls_verify_client:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, sip.tls_ca, ssl.Purpose.CLIENT_AUTH)
    return context


def client_context(sip: Sip) -> ssl.SSLContext | None:
    """For connections of our own; None as above. Raises TlsError."""
    if not any(address.transport == "tls" for address in sip.listen):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if sip.tls_certificate is not None:
        _load_own(context, sip)
    if sip.tls_verify_server:
        _load_authorities(context, sip.tls_ca, ssl.Purpose.SERVER_AUTH)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_own(context: ssl.SSLContext, sip: Sip) -> None:
    assert sip.tls_certificate is not None
    try:
        context.load_cert_chain(sip.tls_certificate, sip.tls_key, _no_passphrase)
    except (ssl.SSLError, OSError) as error:
        reason = " ".join(str(error).split())
        raise TlsError(
            f"sip.tls_certificate, sip.tls_key: {sip.tls_certificate} with {sip.tls_key}: {reason}"
        ) from None


def _no_passphrase() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise TlsError("sip.tls_key: is encrypted, and nobody is there to type its passphrase")


def _load_authorities(context: ssl.SSLContext, ca: Path | None, purpose: ssl.Purpose) -> None:
    try:
        if ca is None:
            context.load_default_certs(purpose)
        else:
            context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"sip.tls_ca: {ca}: {error}") from None
