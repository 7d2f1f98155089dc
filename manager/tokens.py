"""API tokens: made and shown once by the command line, kept only as a hash.

A token is `rvt_<id>_<secret>` with 256 random bits in the secret, so that a plain SHA-256 is as
hard to reverse as the secret is to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

import msgspec

_SCHEME = "rvt"


class Token(msgspec.Struct, frozen=True):
    """A token in Redis, at `manager:token:<id>`. Times in unix seconds."""

    id: str
    name: str
    fleet: str | None
    sha256: str
    created: float
    expires: float | None = None
    line: str | None = None


def make(
    name: str, fleet: str | None, expires: float | None = None, line: str | None = None
) -> tuple[Token, str]:
    """A new token: the stored form, and the text for its owner."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    kept = Token(identity, name, fleet, _hash(secret), time.time(), expires, line)
    return kept, f"{_SCHEME}_{identity}_{secret}"


def split(text: str) -> tuple[str, str] | None:
    """(id, secret) of a token's text; None if it is not one."""
    scheme, _, rest = text.partition("_")
    identity, _, secret = rest.partition("_")
    if scheme != _SCHEME or not secret or not (identity.isascii() and identity.isalnum()):
        return None
    return identity[:64], secret


def matches(token: Token, secret: str, now: float) -> bool:
    """Whether the secret is the token's and it has not expired."""
    right = hmac.compare_digest(token.sha256, _hash(secret))
    return right and (token.expires is None or now < token.expires)


def read(raw: bytes) -> Token | None:
    """Decode a token from Redis; None if it is not one."""
    try:
        return msgspec.json.decode(raw, type=Token)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
