"""Keeps the input of a form whose session has ended, through the log-in, for the same page.

Until the log-in the browser keeps it, in the log-in form; Redis stores nothing for strangers.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import Redis

from manager import accounts
from manager.web import Visit
from store.keys import KEPT_FORM

_LIFE_S = 3600
_NOT_TYPED = {"csrf", "step", "seen"}

Typed = dict[str, list[str]]


class Kept(msgspec.Struct, frozen=True):
    """A kept form, with its account and path."""

    account: str
    path: str
    fields: Typed


def pack(form: Mapping[str, Sequence[str]]) -> str:
    """Encode a form for the log-in form."""
    typed = {name: list(values) for name, values in form.items() if name not in _NOT_TYPED}
    return msgspec.json.encode(typed).decode()


def unpack(text: str) -> Typed | None:
    """Decode it; None without input. A field has at least one value, as in any form."""
    try:
        typed = msgspec.json.decode(text, type=Typed)
    except msgspec.DecodeError:
        return None
    return {name: values for name, values in typed.items() if values} or None


async def put(redis: Redis, account: str, place: str, typed: Typed) -> str:
    """Keep it for an hour, for the account that has just logged in; returns its token."""
    client: Any = redis
    token = secrets.token_urlsafe(18)
    kept = Kept(accounts.name_of(account) or "", urlsplit(place).path, typed)
    await client.set(KEPT_FORM + token, msgspec.json.encode(kept), ex=_LIFE_S)
    return token


async def of(visit: Visit) -> Typed | None:
    """The input on this page before the log-in; None without any."""
    token = visit.query("kept")
    if not token:
        return None
    client: Any = visit.site.redis
    try:
        kept = msgspec.json.decode(await client.get(KEPT_FORM + token) or b"", type=Kept)
    except msgspec.DecodeError:
        return None
    mine = kept.account == visit.who.name and kept.path == visit.path
    return kept.fields if mine else None
