"""The signatures of webhooks, by the Standard Webhooks specification (symmetric, HMAC-SHA256), and
the secrets of lines and fleets, which are in Redis keys of their own.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

import msgspec

from store.keys import notify_secret_key

BYTES = 32
PREFIX = "whsec_"
OVERLAP_S = 86400
"""How long a replaced secret still signs beside the new one."""
_MOST_REPLACED = 4  # that sign beside the new one


class Secret(msgspec.Struct, frozen=True):
    """An owner's secret, and the one that it replaced, which is valid until `until`; `earlier`:
    those that were replaced before that one, each with its end."""

    secret: str
    replaced: str = ""
    until: float = 0.0
    earlier: tuple[tuple[str, float], ...] = ()

    def valid(self, unix_now: float) -> list[str]:
        """The secrets that sign now, the newest first."""
        return [self.secret, *(each for each, _ in self._replaced(unix_now))]

    def renewed(self, unix_now: float) -> Secret:
        """A new one in its place."""
        earlier = self._replaced(unix_now)[: _MOST_REPLACED - 1]
        return Secret(new_secret(), self.secret, unix_now + OVERLAP_S, tuple(earlier))

    def _replaced(self, unix_now: float) -> list[tuple[str, float]]:
        every = ((self.replaced, self.until), *self.earlier)
        return [(each, until) for each, until in every if each and unix_now < until]

    def __repr__(self) -> str:
        return "Secret(***)"


encode_secret = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Secret).decode


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(BYTES)).decode()


def read_secret(raw: bytes | None) -> Secret | None:
    """None if there is none, or another program has written something else."""
    try:
        found = _decode(raw) if raw else None
        if found is not None:
            _key(found.secret)
    except (msgspec.DecodeError, ValueError):
        return None
    return found


def signed(
    secret: Secret, message: str, unix_now: float, body: bytes
) -> dict[str, str]:  # fmt: skip
    """The three header fields that identify and sign a message. `message`: its id."""
    at = int(unix_now)
    content = f"{message}.{at}.".encode() + body
    signatures = (_signature(each, content) for each in secret.valid(unix_now))
    return {
        "webhook-id": message,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, content: bytes) -> str:
    digest = hmac.new(_key(secret), content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)


async def secret_of(client: Any, owner: str) -> Secret:
    """The owner's secret, made now if there is none. Raises REDIS_ERRORS."""
    key = notify_secret_key(owner)
    found = read_secret(await client.get(key))
    if found is None:
        made = encode_secret(Secret(new_secret()))
        await client.set(key, made, nx=True)
        found = read_secret(await client.get(key)) or Secret(new_secret())
    return found
